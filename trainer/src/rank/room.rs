//! How much of a step fits into a GPU's memory. Images that do not fit at once are taken in parts whose gradients add up, as `accumulate`
//! does; a forward and a backward pass over empty images finds it out before training.

use std::collections::BTreeMap;

use graft_crds::contract::ExitReason;
use graft_torch::device::{self, AutocastGuard, AutocastType};
use graft_torch::memory::{self, DeviceMemory};
use graft_torch::tch::{Device, Kind, Tensor, no_grad};

use super::fine_tune::restore;
use super::{Rank, Recipe};
use crate::event::Failure;
use crate::models::{self, Mode, Model};

/// The parts that each rank's `images` of a step are taken in: `wanted`, or as many more as must be on any rank. What the optimizer keeps
/// must be there already.
///
/// # Errors
/// Not even one image fits.
pub(super) fn parts(rank: &mut Rank, recipe: &Recipe, images: usize, wanted: usize, autocast: Option<AutocastType>) -> Result<usize, Failure> {
    let Device::Cuda(index) = rank.device else { return Ok(wanted) };
    let side = i64::from(recipe.geometry.size);
    let before = memory::give_back(index)?;
    // Ranks do not find out at the same layer that it does not fit, so none waits for another there.
    recipe.model.normalise_over(None);
    let mut parts = wanted.clamp(1, images);
    loop {
        let part = images.div_ceil(parts);
        let fits = passes(&recipe.model, || recipe.inputs(Tensor::f_zeros([part as i64, 3, side, side], (Kind::Float, rank.device))?), autocast)?;
        let now = memory::give_back(index)?;
        if !rank.any(if fits { Ok(()) } else { Err(()) })? {
            told(rank, (images, part), parts > wanted, now);
            if parts > wanted {
                rank.evaluated_at_once = rank.evaluated_at_once.min(part);
            }
            return Ok(parts);
        }
        parts = more(images, parts).ok_or_else(|| too_little(side, &before))?;
    }
}

/// The next number of parts to try; none if each is one image already.
fn more(images: usize, parts: usize) -> Option<usize> {
    (parts < images).then(|| (2 * parts).min(images))
}

/// Whether images, and a forward and a backward pass over them, fit into memory; the model is then as it was.
fn passes(model: &Model, images: impl FnOnce() -> Result<Tensor, Failure>, autocast: Option<AutocastType>) -> Result<bool, Failure> {
    let buffers = model.tensors().iter().filter(|t| t.kind == models::Kind::Buffer);
    let buffers: Vec<(String, Tensor)> = buffers.map(|t| (t.name.clone(), t.tensor.shallow_clone())).collect();
    let saved: BTreeMap<String, Tensor> = buffers.iter().map(|(name, t)| (name.clone(), t.copy())).collect();
    let pass = || -> Result<(), Failure> {
        let images = images()?;
        let logits = {
            let _guard = autocast.map(|kind| AutocastGuard::new(images.device(), kind)).transpose()?;
            model.forward(&images, Mode::Train)?
        };
        Ok(device::backward(&logits.f_sum(Kind::Float)?)?)
    };
    let done = pass();
    let trained: Vec<Tensor> = model.trainable().map(|t| t.tensor.shallow_clone()).collect();
    memory::zero_grads_to_none(&trained)?;
    no_grad(|| restore(&buffers, &saved, ""))?;
    done.map(|()| true).or_else(|failure| out_of_memory(failure).map(|()| false))
}

/// A failure that is not for want of memory stays one.
pub(super) fn out_of_memory(failure: Failure) -> Result<(), Failure> {
    if failure.reason == "OutOfMemory" { Ok(()) } else { Err(failure) }
}

fn told(rank: &Rank, (images, part): (usize, usize), cut: bool, memory: DeviceMemory) {
    let need = format!("{} of the GPU's {}", gibibytes(memory.peak), gibibytes(memory.total));
    rank.log(if cut {
        format!(
            "a step's {images} images of a rank do not fit into the GPU's memory at once: they are taken in parts of {part}, which need {need}; gradients add up over the parts, and batch normalisation sees one of them at a time"
        )
    } else {
        format!("{part} images at once need {need}")
    });
}

fn too_little(side: i64, before: &DeviceMemory) -> Failure {
    let text = format!(
        "training on one image of {side} x {side} needs more than the {} that are free of the GPU's {}; choose a smaller spec.backbone.preprocessing.size or architecture, train fewer layers (spec.fineTune.unfreeze), or use a GPU with more memory",
        gibibytes(before.free),
        gibibytes(before.total)
    );
    Failure::new(ExitReason::DeviceError, "OutOfMemory", text)
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_crds::Architecture;
    use graft_torch::tch::IndexOp;

    #[test]
    fn parts_double_until_each_is_one_image() {
        let mut tried = vec![1];
        while let Some(next) = more(12, tried[tried.len() - 1]) {
            tried.push(next);
        }
        assert_eq!(tried, [1, 2, 4, 8, 12]);
        assert_eq!(more(1, 1), None);
    }

    #[test]
    fn a_trial_changes_nothing_and_says_when_memory_ends() {
        let architecture = Architecture::MobileNetV2;
        let model = models::build(architecture, 2, architecture.padding(), Device::Cpu, 0).unwrap();
        model.set_trainable(&["*"]).unwrap();
        let before: Vec<Tensor> = model.tensors().iter().map(|t| t.tensor.detach().copy()).collect();
        let images = Tensor::rand([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        assert!(passes(&model, || Ok(images.shallow_clone()), None).unwrap());
        // More bytes than a processor can address.
        let endless = images.i(0..1).expand([1 << 36, 3, 32, 32], false);
        assert!(!passes(&model, || Ok(endless.shallow_clone()), None).unwrap());
        assert!(!passes(&model, || Ok(endless.f_contiguous()?), None).unwrap());
        for (named, before) in model.tensors().iter().zip(&before) {
            assert!(named.tensor.equal(before) && !named.tensor.grad().defined(), "{}", named.name);
        }
        assert!(passes(&model, || Ok(Tensor::rand([2, 5, 32, 32], (Kind::Float, Device::Cpu))), None).is_err());
    }
}
