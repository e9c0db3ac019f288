//! The generated manifest is what the types say, small enough for plain `kubectl apply`, and documented throughout.
#![allow(missing_docs)]

use std::path::PathBuf;

use graft_crds::crd;
use serde_json::Value;

fn manifest_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("manifests/transferjobs.yaml")
}

/// Compare with the file; `GRAFT_BLESS=1` writes it instead.
#[test]
fn the_manifest_is_up_to_date() {
    // Long lines: each line of a folded description is indented anew, by up to thirty spaces.
    let yaml = serde_saphyr::to_string_with_options(&crd::definition(), serde_saphyr::ser_options! { folded_wrap_chars: 160 }).unwrap();
    let text = format!("# Generated from crds/src by `cargo xtask codegen`; do not edit.\n{yaml}");
    if std::env::var_os("GRAFT_BLESS").is_some() {
        std::fs::write(manifest_path(), &text).unwrap();
    }
    let stored = std::fs::read_to_string(manifest_path()).unwrap_or_default();
    assert!(stored == text, "crds/manifests/transferjobs.yaml is out of date: run `cargo xtask codegen`");
    assert!(text.len() <= 96 * 1024, "the manifest has {} bytes, at most {} are allowed", text.len(), 96 * 1024);
}

#[test]
fn every_field_is_described() {
    let mut bare = Vec::new();
    undescribed(&crd::schema()["properties"]["spec"], "spec", &mut bare);
    undescribed(&crd::schema()["properties"]["status"], "status", &mut bare);
    assert!(bare.is_empty(), "fields without a description: {bare:?}");
}

fn undescribed(schema: &Value, path: &str, bare: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"].as_str().unwrap_or_default().len() < 10 {
            bare.push(path.clone());
        }
        undescribed(field, &path, bare);
        undescribed(&field["items"], &path, bare);
    }
}

#[test]
fn a_misspelt_field_is_found() {
    let object = serde_json::json!({"apiVersion": "graft.dev/v1alpha1", "kind": "TransferJob", "spec": {"fineTune": {"epoch": 3, "epochs": 3}, "volumes": [{"nam": "x"}]}});
    assert_eq!(crd::unknown_fields(&crd::schema(), &object), ["spec.fineTune.epoch", "spec.volumes[0].nam"]);
}
