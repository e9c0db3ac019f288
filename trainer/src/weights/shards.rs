//! Weights cut into several safetensors files: an index names the file of each tensor. The files lie beside the index; a name
//! that leads elsewhere is refused.

use super::{Weights, WeightsError, hex, read_file, safe};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

#[derive(Deserialize)]
struct Index {
    /// From tensor to file.
    weight_map: BTreeMap<String, String>,
}

/// The weights without their digest, and the text that the digest is of: a line `SHA-256  name` for the index and each file.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<(Weights, String), WeightsError> {
    let format = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
    let index: Index = serde_json::from_slice(bytes).map_err(|e| format(format!("JSON, but no index of safetensors files: {e}")))?;
    let files: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    if files.is_empty() {
        return Err(format("it names no tensors".into()));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut digests = BTreeMap::new();
    let mut weights = Weights { tensors: BTreeMap::new(), digest: String::new(), metadata: BTreeMap::new() };
    for file in files {
        if file.contains(['/', '\\']) || !file.ends_with(".safetensors") {
            return Err(format(format!("it names the file {file:?}, which is no safetensors file beside it; refused")));
        }
        let bytes = read_file(&folder.join(file))?;
        let (mut tensors, metadata) = safe::read(&bytes).map_err(|reason| WeightsError::Format { path: folder.join(file), reason })?;
        // A tensor counts where the index says it lies.
        tensors.retain(|name, _| index.weight_map.get(name).is_some_and(|f| f == file));
        digests.insert(file.to_owned(), hex(&Sha256::digest(&bytes)));
        weights.tensors.append(&mut tensors);
        weights.metadata.extend(metadata);
    }
    if let Some((name, file)) = index.weight_map.iter().find(|(name, _)| !weights.tensors.contains_key(*name)) {
        return Err(format(format!("it says that {name} lies in {file}, but it does not; fetch all files of one version")));
    }
    let own = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    digests.insert(own, hex(&Sha256::digest(bytes)));
    let listing = digests.iter().fold(String::new(), |mut text, (name, digest)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{digest}  {name}");
        text
    });
    Ok((weights, listing))
}
