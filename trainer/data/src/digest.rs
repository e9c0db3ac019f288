//! The digest of labelled data, by which runs on the same data are known.

use sha2::{Digest, Sha256};

use crate::dataset::{Dataset, Sample};
use crate::doctor::Fingerprint;

/// Digest of the labelled data: SHA-256 over split, key, class and file digest of every sample, sorted by split and key,
/// so that the order of a manifest's rows does not matter. `prints` are those of `dataset.samples` in order. Patient
/// ids are no part of it. `None` when the numbers of samples and digests differ.
#[must_use]
pub fn data_digest(dataset: &Dataset, prints: &[Fingerprint]) -> Option<String> {
    if prints.len() != dataset.samples.len() {
        return None;
    }
    let label = |sample: &Sample| if sample.findings.is_empty() { sample.label.to_string() } else { dataset.told(sample) };
    let mut entries: Vec<_> =
        dataset.samples.iter().zip(prints).map(|(sample, print)| (sample.split, sample.key.as_str(), label(sample), print.file)).collect();
    entries.sort_unstable();
    let mut hasher = Sha256::new();
    let mut text = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    text("graft data digest 1");
    for class in &dataset.classes {
        text(class);
    }
    for (split, key, label, file) in entries {
        text(split.name());
        text(key);
        text(&label);
        text(&hex(&file));
    }
    Some(hex(&hasher.finalize()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
