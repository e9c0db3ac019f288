//! What an image is made of: a bill of materials in CycloneDX from Cargo's own resolution, and the licence texts of every crate in
//! it. Neither holds a date or a random number, so that the same sources give the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::oci::Architecture;
use crate::scenario;

/// Where both lie in an image.
pub const FOLDER: &str = "usr/share/doc/graft";

/// The two files.
pub struct Materials {
    /// CycloneDX 1.6 as JSON.
    pub bill: Vec<u8>,
    /// Licence texts, each with the crates that it is of.
    pub licences: Vec<u8>,
}

/// A part of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    manifest_path: std::path::PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Of the crate `program` and of shared libraries that are packed with it, by their file names.
///
/// # Errors
/// Cargo cannot be asked, or does not know the crate.
pub fn of(program: &str, architecture: Architecture, libraries: &[String]) -> Result<Materials> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let platform = match architecture {
        Architecture::Amd64 => "x86_64-unknown-linux-gnu",
        Architecture::Arm64 => "aarch64-unknown-linux-musl",
    };
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", platform]);
    let output = cargo.current_dir(scenario::workspace()).output().context("starting cargo")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let linked = linked(&metadata, program)?;
    Ok(Materials { bill: bill(program, &linked, libraries)?, licences: licences(&linked).into_bytes() })
}

/// The crate itself and all that is linked into it, by name and version. Features are those of the whole workspace, so that a crate may
/// be listed of which nothing is used.
fn linked<'a>(metadata: &'a Metadata, program: &str) -> Result<Vec<&'a Package>> {
    let root = metadata.packages.iter().find(|p| p.name == program).with_context(|| format!("there is no crate {program}"))?;
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut seen = BTreeSet::from([root.id.as_str()]);
    let mut left = vec![root.id.as_str()];
    while let Some(id) = left.pop() {
        let normal = |d: &&Dependency| d.dep_kinds.iter().any(|kind| kind.kind.is_none());
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps).filter(normal) {
            if seen.insert(&dependency.pkg) {
                left.push(&dependency.pkg);
            }
        }
    }
    let mut linked: Vec<&Package> = metadata.packages.iter().filter(|p| seen.contains(p.id.as_str())).collect();
    linked.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(linked)
}

fn bill(program: &str, linked: &[&Package], libraries: &[String]) -> Result<Vec<u8>> {
    let component = |package: &&Package| {
        let mut component = json!({
            "type": "library", "name": package.name, "version": package.version,
            "purl": format!("pkg:cargo/{}@{}", package.name, package.version),
        });
        if let Some(license) = &package.license {
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        if let Some(url) = &package.repository {
            component["externalReferences"] = json!([{"type": "vcs", "url": url}]);
        }
        component
    };
    let crates = linked.iter().filter(|package| package.name != program).map(component);
    let shared = libraries.iter().map(|name| json!({"type": "file", "name": name}));
    let components: Vec<Value> = crates.chain(shared).collect();
    let version = linked.iter().find(|p| p.name == program).map(|p| p.version.as_str());
    let bill = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": {"type": "application", "name": program, "version": version, "licenses": [{"expression": "Apache-2.0"}]}},
        "components": components,
    });
    Ok(serde_json::to_vec_pretty(&bill)?)
}

/// Every licence text once, under the crates that carry it; crates without one by their licence's name.
fn licences(linked: &[&Package]) -> String {
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut bare = Vec::new();
    for package in linked {
        let name = format!("{} {}", package.name, package.version);
        let own = package.manifest_path.parent().map(texts_of).unwrap_or_default();
        if own.is_empty() {
            bare.push(format!("{name}: {}", package.license.as_deref().unwrap_or("no licence is named")));
        }
        for text in own {
            texts.entry(text).or_default().insert(name.clone());
        }
    }
    let line = "=".repeat(80);
    let mut parts: Vec<String> = texts
        .into_iter()
        .map(|(text, names)| format!("{line}\n{}\n{line}\n{}\n", names.into_iter().collect::<Vec<_>>().join(", "), text.trim_end()))
        .collect();
    parts.sort();
    if !bare.is_empty() {
        parts.push(format!("{line}\nCrates that carry no text of their licence\n{line}\n{}\n", bare.join("\n")));
    }
    parts.join("\n")
}

/// The licence texts of a package, and of libraries in other languages that it carries in folders of their own.
fn texts_of(package: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(package).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.insert(0, package.to_owned());
    folders.iter().flat_map(|folder| texts_in(folder)).collect()
}

fn texts_in(folder: &Path) -> Vec<String> {
    let named = |name: &str| ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"].iter().any(|start| name.to_uppercase().starts_with(start));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths =
        entries.map(|entry| entry.path()).filter(|path| path.is_file() && path.file_name().is_some_and(|name| named(&name.to_string_lossy())));
    paths.filter_map(|path| std::fs::read_to_string(path).ok()).filter(|text| !text.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_materials_are_named_with_their_licences() {
        let materials = of("graft-operator", Architecture::Amd64, &["libc.so.6".to_owned()]).unwrap();
        let bill: Value = serde_json::from_slice(&materials.bill).unwrap();
        let components = bill["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|c| c["name"] == name);
        let kube = find("kube").unwrap();
        assert!(kube["purl"].as_str().unwrap().starts_with("pkg:cargo/kube@") && kube["licenses"][0]["expression"] == "Apache-2.0", "{kube}");
        assert!(find("libc.so.6").is_some_and(|c| c["type"] == "file"));
        // What is not linked into it: libtorch's bindings, and what only tests use.
        assert!(find("tch").is_none() && find("proptest").is_none());
        let unnamed: Vec<&Value> = components.iter().filter(|c| c["type"] == "library" && c["licenses"][0]["expression"].is_null()).collect();
        assert!(unnamed.is_empty(), "{unnamed:?}");
        let licences = String::from_utf8(materials.licences.clone()).unwrap();
        assert!(licences.contains("Permission is hereby granted") && licences.contains("Apache License"));
        let again = of("graft-operator", Architecture::Amd64, &["libc.so.6".to_owned()]).unwrap();
        assert!(again.bill == materials.bill && again.licences == materials.licences);
    }
}
