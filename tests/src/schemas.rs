//! Schemas for kubeconform: what each supported Kubernetes says of its own kinds, from the OpenAPI document of its Go module,
//! and what Prometheus' operator says of its kinds. Every module is pinned by digest; what is made of it lies in the user's
//! cache, in a folder that is named by this list.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::run;
use crate::hex;
use crate::programs::cache;

/// A Go module as go.sum would have it.
struct Module {
    path: &'static str,
    version: &'static str,
    sum: &'static str,
}

/// The newest patch of each minor version that Graft supports.
const RELEASES: [Module; 5] = [
    kubernetes("v1.33.13", "h1:bmH31xUdSzeA5vk0wZAK9MZp11mdLuzUSeKk0qN3hPQ="),
    kubernetes("v1.34.4", "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk="),
    kubernetes("v1.35.4", "h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM="),
    kubernetes("v1.36.3", "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o="),
    kubernetes("v1.37.2", "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE="),
];

const PROMETHEUS_OPERATOR: Module =
    Module { path: "github.com/prometheus-operator/prometheus-operator", version: "v0.85.0", sum: "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=" };

/// Raised when the files are made in another way.
const FORM: &str = "2";

/// Where a schema refers to.
const DEFINITIONS: &str = "#/definitions/";

const fn kubernetes(version: &'static str, sum: &'static str) -> Module {
    Module { path: "k8s.io/kubernetes", version, sum }
}

/// The schemas of all supported versions of Kubernetes.
pub struct Schemas {
    folder: PathBuf,
}

impl Schemas {
    /// Find them in the cache, or make them.
    ///
    /// # Errors
    /// A module cannot be downloaded or is not the one that was pinned.
    pub fn ensure() -> Result<Self> {
        let names: String = RELEASES.iter().chain([&PROMETHEUS_OPERATOR]).map(|m| format!("{}@{} {}\n", m.path, m.version, m.sum)).collect();
        let key = hex(&Sha256::digest(format!("{FORM}\n{names}")));
        let folder = cache().join(format!("schemas-{}", &key[..12]));
        if !folder.is_dir() {
            let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(cache())?;
            fs::create_dir(partial.path().join("made"))?;
            make(partial.path())?;
            // Two that make them at the same time make the same: the second to be done finds the folder there.
            if fs::rename(partial.path().join("made"), &folder).is_err() && !folder.is_dir() {
                bail!("{} cannot be written", folder.display());
            }
        }
        Ok(Self { folder })
    }

    /// Versions of Kubernetes, as kubeconform's `-kubernetes-version` takes them.
    pub fn versions() -> impl Iterator<Item = &'static str> {
        RELEASES.iter().map(|release| release.version.trim_start_matches('v'))
    }

    /// Where a kind is looked up, as kubeconform's `-schema-location` takes it.
    #[must_use]
    pub fn locations(&self) -> [String; 2] {
        let kind = "{{.ResourceKind}}{{.KindSuffix}}.json";
        [self.folder.join("{{.NormalizedKubernetesVersion}}").join(kind), self.folder.join("more").join(kind)].map(|path| path.display().to_string())
    }
}

fn make(scratch: &Path) -> Result<()> {
    let made = scratch.join("made");
    for release in &RELEASES {
        let text = fs::read_to_string(download(release, scratch)?.join("api/openapi-spec/swagger.json"))?;
        let folder = made.join(release.version);
        fs::create_dir(&folder)?;
        let mut document: Value = serde_json::from_str(&text)?;
        let definitions = document["definitions"].as_object_mut().context("an OpenAPI document without definitions")?;
        for (name, definition) in definitions.iter_mut() {
            strict(name, definition);
        }
        for (name, definition) in definitions.iter() {
            for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                let schema = json!({"$ref": format!("{DEFINITIONS}{name}"), "definitions": needed(name, definitions)});
                fs::write(folder.join(file(kind)), schema.to_string())?;
            }
        }
    }
    let folder = made.join("more");
    fs::create_dir(&folder)?;
    let crds = download(&PROMETHEUS_OPERATOR, scratch)?.join("example/prometheus-operator-crd");
    for entry in fs::read_dir(crds)?.flatten() {
        let crd: Value = serde_saphyr::from_str(&fs::read_to_string(entry.path())?)?;
        for version in crd["spec"]["versions"].as_array().into_iter().flatten() {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            strict("", &mut schema);
            let kind = json!({"group": crd["spec"]["group"], "version": version["name"], "kind": crd["spec"]["names"]["kind"]});
            fs::write(folder.join(file(&kind)), schema.to_string())?;
        }
    }
    Ok(())
}

/// A definition and all that it refers to: kubeconform reads what it compiles once for each kind, so files are small.
fn needed(name: &str, definitions: &Map<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        if let (Some(definition), false) = (definitions.get(&name), found.contains_key(&name)) {
            references(definition, &mut open);
            found.insert(name, definition.clone());
        }
    }
    found
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix(DEFINITIONS));
            found.extend(name.map(str::to_owned));
            fields.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The module's folder in a module cache that goes with `scratch`: a Kubernetes takes 120 MB, and one file of it is wanted.
fn download(module: &Module, scratch: &Path) -> Result<PathBuf> {
    let mut go = Command::new("go");
    go.current_dir(scratch).env("GOMODCACHE", scratch.join("modules")).env("GOFLAGS", "-modcacherw");
    let told: Value = serde_json::from_str(&run(go.args(["mod", "download", "-json", &format!("{}@{}", module.path, module.version)]))?)?;
    if told["Sum"] != module.sum {
        bail!("{} {} has the digest {}, not {}", module.path, module.version, told["Sum"], module.sum);
    }
    Ok(PathBuf::from(told["Dir"].as_str().context("go does not say where the module lies")?))
}

/// The name of a kind's file, as kubeconform looks for it.
fn file(kind: &Value) -> String {
    let part = |name: &str| kind[name].as_str().unwrap_or_default().to_lowercase();
    let group = part("group");
    let group = group.split('.').next().filter(|group| !group.is_empty()).map(|group| format!("-{group}")).unwrap_or_default();
    format!("{}{group}-{}.json", part("kind"), part("version"))
}

/// A field that the schema does not name is an error; what is an integer or a text in YAML may be either.
fn strict(name: &str, schema: &mut Value) {
    if name.ends_with("intstr.IntOrString") || name.ends_with("resource.Quantity") {
        *schema = json!({"type": ["string", "number"]});
        return;
    }
    let Value::Object(fields) = schema else {
        if let Value::Array(items) = schema {
            items.iter_mut().for_each(|item| strict("", item));
        }
        return;
    };
    fields.remove("description");
    if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        fields.remove("type");
    }
    let open = fields.contains_key("additionalProperties") || fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if fields.get("properties").is_some_and(Value::is_object) && !open {
        fields.insert("additionalProperties".into(), false.into());
    }
    // A property may have any name, also one that means something in a schema.
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| strict("", property));
    }
    for (_, inner) in fields.iter_mut().filter(|(key, _)| *key != "properties" && *key != "default" && *key != "enum") {
        strict("", inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_closed_where_the_schema_names_them() {
        let mut schema = json!({"properties": {"properties": {"type": "object", "properties": {"a": {}}}, "free": {"type": "object"}}});
        strict("", &mut schema);
        let inner = json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false});
        assert_eq!(schema, json!({"properties": {"properties": inner, "free": {"type": "object"}}, "additionalProperties": false}));
    }

    #[test]
    fn files_have_the_names_that_kubeconform_asks_for() {
        let kind = |group: &str, version: &str, kind: &str| file(&json!({"group": group, "version": version, "kind": kind}));
        assert_eq!(kind("", "v1", "ConfigMap"), "configmap-v1.json");
        assert_eq!(kind("networking.k8s.io", "v1", "NetworkPolicy"), "networkpolicy-networking-v1.json");
    }
}
