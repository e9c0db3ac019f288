//! Data and weights where there are none: phantom slices, a source domain, and a backbone with fresh weights to train on
//! it first. Everything is a function of the seed; it shows that the machinery works and claims nothing about patients.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use graft_crds::Architecture;
use graft_data::phantom;

use crate::models;
use crate::weights::save_safetensors;

/// Write `phantom/`, `source/` and `weights/fresh-ARCHITECTURE.safetensors` below `folder`.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path, seed: u64, patients: usize, architecture: Architecture) -> Result<()> {
    let slices = phantom::write_phantom(&folder.join("phantom"), seed, patients).with_context(|| folder.display().to_string())?;
    println!("{}: phantom slices of {patients} patients", slices.display());
    let textures = phantom::write_source_domain(&folder.join("source"), seed, patients)?;
    println!("{}: source domain of {} classes", textures.display(), phantom::SOURCE_CLASSES.len());
    let weights = folder.join("weights").join(format!("fresh-{}.safetensors", architecture.name()));
    std::fs::create_dir_all(folder.join("weights"))?;
    let classes = i64::try_from(phantom::SOURCE_CLASSES.len())?;
    let model = models::build(architecture, classes, architecture.padding(), graft_torch::tch::Device::Cpu, seed)?;
    save_safetensors(&weights, model.tensors().iter().map(|t| (t.name.as_str(), &t.tensor)), &BTreeMap::new())?;
    println!("{}: fresh weights, trained on nothing", weights.display());
    Ok(())
}
