//! What the API server's audit log says of rights: which of them somebody used.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;
use serde_json::Value;

use crate::cluster::Cluster;

/// API group, resource with its subresource after a slash, and verb.
pub type Right = (String, String, String);

/// The rights that this user used or asked for.
///
/// # Errors
/// The log cannot be read.
pub fn used(cluster: &Cluster, user: &str) -> Result<BTreeSet<Right>> {
    let text = fs::read_to_string(cluster.audit_log())?;
    let mut used = BTreeSet::new();
    for event in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).filter(|e| e["user"]["username"] == user) {
        let object = &event["objectRef"];
        let field = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let resource = if object["subresource"].is_string() { format!("{}/{}", field("resource"), field("subresource")) } else { field("resource") };
        let mut use_of = |verb: &str| used.insert((field("apiGroup"), resource.clone(), verb.to_owned()));
        let verb = event["verb"].as_str().unwrap_or_default();
        use_of(verb);
        // Server-side apply of an object that is not there is a patch that needs the right to create.
        if verb == "patch" && event["responseStatus"]["code"] == 201 {
            use_of("create");
        }
    }
    Ok(used)
}

/// Used and not granted, and granted and never used: both should be empty.
#[must_use]
pub fn compare<'a>(used: &'a BTreeSet<Right>, granted: &'a BTreeSet<Right>) -> (Vec<&'a Right>, Vec<&'a Right>) {
    (used.difference(granted).collect(), granted.difference(used).collect())
}
