//! Weights files: what torch.save writes must be read to the last number, and what is damaged, crafted or meant for
//! another model must be refused with words that help. `tests/reference/reference.py` made the fixtures.

#![allow(clippy::unwrap_used)]

use graft_crds::Architecture;
use graft_crds::architectures::Padding;
use graft_torch::tch::{Device, Kind, Tensor};
use graft_trainer::models::{HeadForm, Model, build};
use graft_trainer::weights::{HEAD_FORM_KEY, HeadPolicy, Weights, WeightsError, apply, load, save_safetensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/fixtures").join(name)
}

fn refusal(name: &str) -> String {
    load(&fixture(name), None).unwrap_err().to_string()
}

#[test]
fn a_state_dict_is_read_to_the_last_number() {
    let weights = load(&fixture("small.pth"), None).unwrap();
    let text = std::fs::read_to_string(fixture("small.json")).unwrap();
    let expected: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(weights.tensors.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in expected {
        let tensor = &weights.tensors[&name];
        assert_eq!(tensor.size(), serde_json::from_value::<Vec<i64>>(expected["shape"].clone()).unwrap(), "{name}");
        let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
        let got: Vec<f64> = Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view([-1])).unwrap();
        // The JSON reader is off by a last bit of 64; every number here has at most 32.
        let narrow = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<_>>();
        assert_eq!(narrow(&got), narrow(&values), "{name}");
        let integer = ["int32", "uint8", "bool", "1.num_batches_tracked"].contains(&name.as_str());
        assert_eq!(tensor.kind(), if integer { Kind::Int64 } else { Kind::Float }, "{name}");
    }
}

#[test]
fn wrappers_and_prefixes_are_taken_off() {
    let names: Vec<String> = load(&fixture("wrapped.pth"), None).unwrap().tensors.into_keys().collect();
    assert!(names.contains(&"0.weight".to_owned()) && names.contains(&"1.running_var".to_owned()), "{names:?}");
}

#[test]
fn crafted_files_are_refused() {
    let witness = Path::new("/tmp/graft-was-here");
    for (name, part) in [
        ("system.pth", "system"),
        ("whole-model.pth", "not part of a state dict"),
        ("outside.pth", "tensor w: shape [2]"),
        ("expanded.pth", "tensor w: shape"),
        ("negative.pth", "tensor w: shape"),
        ("not-only-tensors.pth", "\"epoch\" is not a tensor"),
        ("list.pth", "not a dict"),
        ("legacy.pth", "before PyTorch 1.6"),
    ] {
        let text = refusal(name);
        assert!(text.contains(part) && text.contains(name), "{name}: {text}");
    }
    assert!(!witness.exists());
}

#[test]
fn a_file_cut_anywhere_or_with_a_flipped_byte_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    let whole = std::fs::read(fixture("small.pth")).unwrap();
    for end in (0..whole.len()).step_by(61) {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(matches!(load(&path, None), Err(WeightsError::Format { .. })), "cut at {end}");
    }
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&path, &bytes).unwrap();
        let _ = load(&path, None);
    }
}

#[test]
fn digests_are_checked_and_both_are_shown() {
    let found = load(&fixture("small.pth"), None).unwrap().digest;
    assert!(load(&fixture("small.pth"), Some(&found.to_uppercase())).is_ok());
    let wrong = "0".repeat(64);
    let text = load(&fixture("small.pth"), Some(&wrong)).unwrap_err().to_string();
    assert!(text.contains(&found) && text.contains(&wrong), "{text}");
    let absent = load(&fixture("absent.pth"), None).unwrap_err();
    assert!(matches!(absent, WeightsError::Io { .. }) && absent.to_string().contains("absent.pth"), "{absent}");
}

fn model(classes: i64) -> Model {
    build(Architecture::SqueezeNet11, classes, Padding::Symmetric, Device::Cpu, classes as u64).unwrap()
}

fn save(path: &Path, model: &Model, metadata: &BTreeMap<String, String>) {
    save_safetensors(path, model.tensors().iter().map(|t| (t.name.as_str(), &t.tensor)), metadata).unwrap();
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "an older file").unwrap();
    let written = model(4);
    let metadata = BTreeMap::from([(HEAD_FORM_KEY.to_owned(), HeadForm::Pooled.name().to_owned())]);
    save(&path, &written, &metadata);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
    let weights = load(&path, None).unwrap();
    assert_eq!(weights.metadata, metadata);
    let mut read = build(Architecture::SqueezeNet11, 4, Padding::Symmetric, Device::Cpu, 99).unwrap();
    let report = apply(&mut read, &weights, HeadPolicy::KeepIfItFits).unwrap();
    assert_eq!(report.loaded, written.tensors().len());
    assert!(written.tensors().iter().zip(read.tensors()).all(|(a, b)| a.name == b.name && a.tensor.equal(&b.tensor)));
    assert_eq!(read.head_form(), HeadForm::Pooled);
    // The same file without the note is a published one.
    save(&path, &written, &BTreeMap::new());
    apply(&mut read, &load(&path, None).unwrap(), HeadPolicy::KeepIfItFits).unwrap();
    assert_eq!(read.head_form(), HeadForm::PerPosition);
    // A file cut short, and one that never was.
    let whole = std::fs::read(&path).unwrap();
    for end in [0, 4, 8, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(matches!(load(&path, None), Err(WeightsError::Format { .. })), "cut at {end}");
    }
    let nowhere = folder.path().join("no/such/folder/model.safetensors");
    assert!(save_safetensors(&nowhere, [], &BTreeMap::new()).is_err());
}

fn weights_of(model: &Model) -> Weights {
    let tensors = model.tensors().iter().map(|t| (t.name.clone(), t.tensor.detach().copy())).collect();
    Weights { tensors, digest: String::new(), metadata: BTreeMap::new() }
}

#[test]
fn a_head_of_another_size_or_unwanted_stays_fresh() {
    let weights = weights_of(&model(7));
    for (mut target, policy) in [(model(3), HeadPolicy::KeepIfItFits), (model(7), HeadPolicy::Drop)] {
        let fresh: Vec<Tensor> = target.tensors().iter().map(|t| t.tensor.copy()).collect();
        target.parameters().for_each(|t| drop(t.tensor.set_requires_grad(true)));
        let report = apply(&mut target, &weights, policy).unwrap();
        assert_eq!(report.dropped_head, ["classifier.1.weight [7, 512, 1, 1]", "classifier.1.bias [7]"]);
        for (named, fresh) in target.tensors().iter().zip(&fresh) {
            let expected = if target.is_head(&named.name) { fresh } else { &weights.tensors[&named.name] };
            assert!(named.tensor.equal(expected), "{}", named.name);
        }
    }
}

#[test]
fn a_misfit_names_tensors_and_changes_nothing() {
    let mut weights = weights_of(&model(7));
    let mut target = model(3);
    let before = weights_of(&target);
    weights.tensors.remove("features.0.bias");
    weights.tensors.insert("features.3.squeeze.bias".into(), Tensor::zeros([2], (Kind::Float, Device::Cpu)));
    weights.tensors.insert("extra".into(), Tensor::zeros([2], (Kind::Float, Device::Cpu)));
    let text = apply(&mut target, &weights, HeadPolicy::KeepIfItFits).unwrap_err().to_string();
    for part in ["squeezenet1_1", "missing: features.0.bias;", "features.3.squeeze.bias is [2] instead of [16]", "extra"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(target.tensors().iter().all(|t| t.tensor.equal(&before.tensors[&t.name])));
    let nothing = Weights { tensors: BTreeMap::new(), ..weights };
    let text = apply(&mut target, &nothing, HeadPolicy::KeepIfItFits).unwrap_err().to_string();
    assert!(text.contains("and 30 more"), "{text}");
}
