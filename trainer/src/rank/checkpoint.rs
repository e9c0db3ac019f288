//! Checkpoints of fine-tuning: a folder per epoch with the tensors and, last, a manifest with their digests. The folder gets
//! its name when it is whole; an older one is removed only after that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graft_crds::contract::{CheckpointRef, Stage};
use graft_torch::tch::Tensor;
use graft_trainer_core::artefact::sha256_hex;
use graft_trainer_core::checkpoint::{FORMAT, Found, Manifest, newest_valid};
use graft_trainer_core::report::HistoryRow;
use serde::{Deserialize, Serialize};

use super::Rank;
use crate::event::Failure;
use crate::storage;
use crate::weights;

const TENSORS: &str = "state.safetensors";
const NOTES: &str = "notes.json";
const MANIFEST: &str = "manifest.json";
/// How many are kept: the newest, and one more in case it is damaged.
const KEPT: usize = 2;

/// What a checkpoint says besides tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Notes {
    /// Epoch with the lowest validation loss so far, and that loss.
    pub(super) best: Option<(u64, f64)>,
    /// The epochs so far.
    pub(super) history: Vec<HistoryRow>,
}

/// Where the checkpoints of a run are, and for which inputs.
pub(super) struct Checkpoints {
    folder: PathBuf,
    run: String,
    attempt: u32,
    inputs: String,
}

/// A checkpoint that was read.
pub(super) struct Loaded {
    pub(super) epoch: u64,
    pub(super) tensors: BTreeMap<String, Tensor>,
    pub(super) notes: Notes,
    pub(super) reference: CheckpointRef,
}

impl Checkpoints {
    pub(super) fn new(rank: &Rank, inputs: String) -> Self {
        let run = &rank.config.run;
        let folder = rank.output.join(".graft/checkpoints").join(&run.id);
        Self { folder, run: run.id.clone(), attempt: run.attempt, inputs }
    }

    /// Write the checkpoint of `epoch`, then remove those that are no longer needed.
    pub(super) fn write(&self, epoch: u64, tensors: &[(String, Tensor)], notes: &Notes) -> Result<CheckpointRef, Failure> {
        let partial = self.folder.join(format!("partial-attempt-{}", self.attempt));
        let _ = fs::remove_dir_all(&partial);
        storage::make_folder(&partial)?;
        let state = partial.join(TENSORS);
        weights::save_safetensors(&state, tensors.iter().map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).map_err(|e| Failure::storage(&state, e))?;
        storage::write_whole(&partial.join(NOTES), &to_json(notes)?)?;
        let mut files = BTreeMap::new();
        for name in [TENSORS, NOTES] {
            let path = partial.join(name);
            files.insert(name.to_owned(), storage::entry(&path).map_err(|e| Failure::storage(&path, e))?);
        }
        let manifest = Manifest {
            format: FORMAT,
            run: self.run.clone(),
            attempt: self.attempt,
            stage: Stage::FineTune,
            epoch,
            step: 0,
            inputs: self.inputs.clone(),
            files,
        };
        let text = to_json(&manifest)?;
        storage::write_whole(&partial.join(MANIFEST), &text)?;
        let folder = self.folder.join(format!("epoch-{epoch:06}-attempt-{}", self.attempt));
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&partial, &folder).map_err(|e| Failure::storage(&folder, e))?;
        self.prune();
        Ok(CheckpointRef { epoch, digest: sha256_hex(&text) })
    }

    fn prune(&self) {
        let mut folders = self.folders();
        folders.sort();
        let surplus = folders.len().saturating_sub(KEPT);
        for old in folders.into_iter().take(surplus) {
            // One that cannot be removed costs space, nothing else.
            let _ = fs::remove_dir_all(old);
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("epoch-")).map(|e| e.path()).collect()
    }

    /// The newest checkpoint of this run that is whole; damaged ones are named in the log.
    pub(super) fn newest(&self, rank: &Rank) -> Result<Option<Loaded>, Failure> {
        let found: Vec<(PathBuf, Found)> = self.folders().into_iter().filter_map(|folder| Some((folder.clone(), look(&folder)?))).collect();
        let all: Vec<Found> = found.iter().map(|(_, f)| f.clone()).collect();
        let choice = newest_valid(&all, &self.run, &self.inputs);
        for (manifest, why) in &choice.refused {
            rank.log(format!("checkpoint of epoch {} {why}; it is left aside", manifest.epoch));
        }
        let Some((folder, _)) = choice.newest.and_then(|newest| found.iter().find(|(_, f)| &f.manifest == newest)) else { return Ok(None) };
        let read = |name: &str| fs::read(folder.join(name)).map_err(|e| Failure::storage(&folder.join(name), e));
        let tensors = weights::load(&folder.join(TENSORS), None).map_err(|e| Failure::storage(folder, e))?.tensors;
        let notes: Notes = serde_json::from_slice(&read(NOTES)?).map_err(|e| Failure::storage(folder, e))?;
        let epoch = choice.newest.map_or(0, |m| m.epoch);
        Ok(Some(Loaded { epoch, tensors, notes, reference: CheckpointRef { epoch, digest: sha256_hex(&read(MANIFEST)?) } }))
    }
}

fn look(folder: &Path) -> Option<Found> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
    let files = manifest.files.keys().filter_map(|name| Some((name.clone(), storage::entry(&folder.join(name)).ok()?))).collect();
    Some(Found { manifest, files })
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec_pretty(value).map_err(|e| Failure::new(graft_crds::contract::ExitReason::Bug, "NotJson", e.to_string()))
}
