//! The backbone runs once over all data, each rank its share, and the features stay on the disk under a digest of
//! everything that decides them. A later run with the same inputs reads them instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graft_crds::contract::{ExitReason, Stage};
use graft_torch::tch::{Device, Kind, Tensor, no_grad};
use graft_trainer_core::artefact::FeatureInputs;
use graft_trainer_core::checkpoint::FileEntry;
use graft_trainer_core::sampler;
use serde::{Deserialize, Serialize};

use super::checkpoint::to_json;
use super::room::out_of_memory;
use super::{Rank, Recipe};
use crate::event::Failure;
use crate::models::Mode;
use crate::{storage, weights};

const MANIFEST: &str = "manifest.json";

/// What lies in a folder of features: the rows of all parts, one after the other, are the samples of the data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    format: u32,
    samples: usize,
    width: i64,
    parts: Vec<String>,
    files: BTreeMap<String, FileEntry>,
}

/// Run the backbone over the data, unless that was done; rank 0 gets the features of all samples, `[N, F]` on the CPU.
pub(super) fn extract(rank: &mut Rank, recipe: &mut Recipe, trained: Option<String>) -> Result<Option<Tensor>, Failure> {
    let inputs = FeatureInputs {
        architecture: rank.config.backbone.architecture.name().to_owned(),
        weights: recipe.weights_digest.clone(),
        trained,
        data: recipe.data_digest.clone(),
        preprocessing: serde_json::json!({
            "geometry": recipe.geometry,
            "windows": rank.config.data.windows,
            "normaliser": recipe.normaliser,
            "padding": recipe.padding,
        }),
        element: "float32".into(),
    };
    let key = inputs.key().map_err(|e| Failure::new(ExitReason::Bug, "NoDigest", e.to_string()))?;
    let folder = rank.output.join(".graft/features").join(&key);
    let n = recipe.dataset.samples.len();
    rank.begin(Stage::Features, 1, 0);
    let there = if rank.rank == 0 { read(&folder, n).ok_or(()) } else { Err(()) };
    // Rank 0 looked; the others hear of it as the smallest answer.
    let reuse = !rank.any(if rank.rank == 0 && there.is_err() { Err(()) } else { Ok(()) })?;
    if reuse {
        rank.log(format!("features are reused: {}", folder.display()));
        rank.record(n);
        return Ok(there.ok());
    }
    storage::make_folder(&folder)?;
    let mine: Vec<usize> = sampler::shard(n, rank.rank, rank.world).collect();
    let mut parts = vec![Tensor::f_zeros([0, recipe.model.feature_width()], (Kind::Float, rank.device))?];
    let mut rest = &mine[..];
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(rank.evaluated_at_once.min(rest.len()));
        match features(rank, recipe, chunk) {
            Ok(rows) => parts.push(rows),
            Err(failure) if chunk.len() == 1 => return Err(failure),
            Err(failure) => {
                out_of_memory(failure)?;
                rank.evaluated_at_once = chunk.len() / 2;
                continue;
            }
        }
        rest = later;
        rank.record(chunk.len() * rank.world);
    }
    let local = Tensor::f_cat(&parts, 0)?.f_to_device(Device::Cpu)?;
    let path = folder.join(part(rank.rank, rank.world));
    weights::save_safetensors(&path, [("features", &local)], &BTreeMap::new()).map_err(|e| Failure::storage(&path, e))?;
    rank.group.barrier()?;
    if rank.rank > 0 {
        return Ok(None);
    }
    seal(&folder, rank.world, n, recipe.model.feature_width())?;
    rank.log(format!("features of {n} images, {} each: {}", recipe.model.feature_width(), folder.display()));
    match read(&folder, n) {
        Some(features) => Ok(Some(features)),
        None => Err(Failure::storage(&folder, "the features just written cannot be read; do all pods mount the same volume there?")),
    }
}

/// Features `[N, F]` of images.
fn features(rank: &Rank, recipe: &mut Recipe, samples: &[usize]) -> Result<Tensor, Failure> {
    let images = recipe.images(samples, rank.device)?;
    Ok(no_grad(|| recipe.model.features(&images, Mode::Evaluate))?)
}

fn part(rank: usize, world: usize) -> String {
    format!("part-{rank:05}-of-{world:05}.safetensors")
}

/// All parts are there: the manifest says so.
fn seal(folder: &Path, world: usize, samples: usize, width: i64) -> Result<(), Failure> {
    let parts: Vec<String> = (0..world).map(|r| part(r, world)).collect();
    let mut files = BTreeMap::new();
    for name in &parts {
        let path = folder.join(name);
        let entry = storage::entry(&path);
        files.insert(name.clone(), entry.map_err(|e| Failure::storage(&path, format!("{e}; all pods must mount the same volume there")))?);
    }
    storage::write_whole(&folder.join(MANIFEST), &to_json(&Manifest { format: 1, samples, width, parts, files })?)
}

/// Whole features of this many samples, or nothing.
fn read(folder: &Path, samples: usize) -> Option<Tensor> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
    let paths: Vec<PathBuf> = manifest.parts.iter().map(|name| folder.join(name)).collect();
    let whole = manifest.format == 1
        && manifest.samples == samples
        && paths.iter().zip(&manifest.parts).all(|(path, name)| storage::entry(path).ok().as_ref() == manifest.files.get(name));
    if !whole {
        return None;
    }
    let parts: Option<Vec<Tensor>> = paths.iter().map(|path| weights::load(path, None).ok()?.tensors.remove("features")).collect();
    let all = Tensor::f_cat(&parts?, 0).ok()?;
    (all.size() == [samples as i64, manifest.width]).then_some(all)
}
