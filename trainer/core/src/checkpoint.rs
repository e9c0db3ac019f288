//! What a checkpoint says about itself, and which of several to go on from. It reads no file: the caller digests what
//! lies on the disk and passes in what it saw. A checkpoint whose files do not match is never chosen.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use graft_crds::contract::Stage;
use serde::{Deserialize, Serialize};

/// Version of [`Manifest`]; a checkpoint of another version is not read.
pub const FORMAT: u32 = 1;

/// The manifest of a checkpoint; written after all files it names, so its presence says that they are whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Identity of the run; checkpoints of another run are never read.
    pub run: String,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// The stage it was written in.
    pub stage: Stage,
    /// Epochs of the stage that it holds.
    pub epoch: u64,
    /// Optimizer steps of the stage that it holds.
    pub step: u64,
    /// Digest of everything that decides the result (data, weights, settings); see [`crate::artefact`].
    pub inputs: String,
    /// The files by name, relative to the manifest.
    pub files: BTreeMap<String, FileEntry>,
}

/// A file as a manifest or an observer describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// A checkpoint as it was found: its manifest and what its files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The manifest.
    pub manifest: Manifest,
    /// The files that are there, by name.
    pub files: BTreeMap<String, FileEntry>,
}

/// Why a checkpoint is not gone on from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Written by another release.
    #[error("has format {0}, this trainer reads {FORMAT}")]
    Format(u32),
    /// Of another run.
    #[error("belongs to run {0}")]
    Run(String),
    /// Written with other data, weights or settings.
    #[error("was written for other inputs (digest {0})")]
    Inputs(String),
    /// A file is gone.
    #[error("lacks its file {0}")]
    Missing(String),
    /// A file has changed or is cut off.
    #[error("has a damaged file {0}: its size or SHA-256 is not what the manifest says")]
    Damaged(String),
}

impl Found {
    /// Whether `run` with `inputs` may go on from it.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn verify(&self, run: &str, inputs: &str) -> Result<(), Refusal> {
        let manifest = &self.manifest;
        if manifest.format != FORMAT {
            return Err(Refusal::Format(manifest.format));
        }
        if manifest.run != run {
            return Err(Refusal::Run(manifest.run.clone()));
        }
        if manifest.inputs != inputs {
            return Err(Refusal::Inputs(manifest.inputs.clone()));
        }
        for (name, entry) in &manifest.files {
            match self.files.get(name) {
                None => return Err(Refusal::Missing(name.clone())),
                Some(found) if found != entry => return Err(Refusal::Damaged(name.clone())),
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// The checkpoint to go on from, and why each of the others that were refused was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The newest that is valid; none when the run must begin at its beginning.
    pub newest: Option<&'a Manifest>,
    /// Those that are not valid.
    pub refused: Vec<(&'a Manifest, Refusal)>,
}

/// Chooses the newest valid checkpoint: the latest stage, then epoch, then step, then attempt.
#[must_use]
pub fn newest_valid<'a>(found: &'a [Found], run: &str, inputs: &str) -> Choice<'a> {
    let mut order: Vec<&Found> = found.iter().collect();
    order.sort_by_key(|found| Reverse((found.manifest.stage, found.manifest.epoch, found.manifest.step, found.manifest.attempt)));
    let mut choice = Choice { newest: None, refused: Vec::new() };
    for candidate in order {
        match candidate.verify(run, inputs) {
            Ok(()) => choice.newest = choice.newest.or(Some(&candidate.manifest)),
            Err(refusal) => choice.refused.push((&candidate.manifest, refusal)),
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stage: Stage, epoch: u64, attempt: u32) -> Found {
        let files = BTreeMap::from([("model.safetensors".to_owned(), FileEntry { bytes: 8, sha256: "aa".into() })]);
        let manifest =
            Manifest { format: FORMAT, run: "r".into(), attempt, stage, epoch, step: epoch * 10, inputs: "i".into(), files: files.clone() };
        Found { manifest, files }
    }

    #[test]
    fn the_newest_whole_one_is_chosen_and_the_others_are_explained() {
        let mut damaged = found(Stage::FineTune, 5, 0);
        damaged.files.get_mut("model.safetensors").unwrap().bytes = 7;
        let mut missing = found(Stage::FineTune, 6, 0);
        missing.files.clear();
        let mut other_run = found(Stage::Head, 1, 0);
        other_run.manifest.run = "x".into();
        let mut other_inputs = found(Stage::FineTune, 9, 0);
        other_inputs.manifest.inputs = "x".into();
        let mut future = found(Stage::FineTune, 9, 0);
        future.manifest.format = 2;
        let all = [
            found(Stage::FineTune, 3, 0),
            damaged,
            missing,
            found(Stage::FineTune, 4, 0),
            found(Stage::FineTune, 4, 1),
            other_run,
            other_inputs,
            future,
        ];
        let choice = newest_valid(&all, "r", "i");
        assert_eq!(choice.newest, Some(&all[4].manifest));
        assert_eq!(choice.refused.len(), 5);
        let of = |i: usize| choice.refused.iter().find(|(m, _)| std::ptr::eq(*m, &all[i].manifest)).map(|(_, why)| why.clone()).unwrap();
        assert_eq!(of(1), Refusal::Damaged("model.safetensors".into()));
        assert_eq!(of(2), Refusal::Missing("model.safetensors".into()));
        assert_eq!((of(5), of(6), of(7)), (Refusal::Run("x".into()), Refusal::Inputs("x".into()), Refusal::Format(2)));
        assert_eq!(newest_valid(&all[1..3], "r", "i").newest, None);
    }

    #[test]
    fn a_later_stage_is_newer_than_a_later_epoch() {
        let all = [found(Stage::FineTune, 9, 0), found(Stage::Head, 1, 0)];
        assert_eq!(newest_valid(&all, "r", "i").newest, Some(&all[1].manifest));
    }

    #[test]
    fn a_manifest_survives_json_and_refuses_what_it_does_not_know() {
        let manifest = found(Stage::FineTune, 2, 1).manifest;
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        assert!(serde_json::from_str::<Manifest>(&text.replacen('{', "{\"extra\":1,", 1)).is_err());
    }
}
