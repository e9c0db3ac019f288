//! What the frozen beginning of the network makes of an image is the same in every epoch, unless the image is changed at random.
//! It is computed in the first epoch and kept in memory; later epochs only run what is trained. Every rank then has the outputs of
//! all training images, for each epoch deals them out anew, and of its own part of the validation images.
//!
//! A convolution's last bits can depend on the images beside it in a batch. So a run that goes on from a checkpoint computes the
//! outputs in the batches of that first epoch again, and goes on to the same bits.

use graft_crds::spec::{FineTune, Sampling};
use graft_data::Split;
use graft_torch::memory;
use graft_torch::tch::{Tensor, no_grad};
use graft_trainer_core::sampler::{self, Epoch};

use super::{Rank, Recipe};
use crate::event::Failure;

/// Bytes that each rank keeps at most; what needs more is computed in each epoch.
const BUDGET: usize = 512 << 20;

/// Outputs of the frozen layers, or those of them that there are yet.
pub(super) struct Kept {
    /// The epoch, counted from 0, in whose batches they are computed.
    began: u32,
    /// Of this rank's training images in that epoch, as they come.
    coming: Vec<Rows>,
    training: Option<Table>,
    /// Of this rank's validation images, batch by batch.
    validation: Vec<Rows>,
}

/// Outputs `[N, …]`, contiguous with channels last where they came so.
struct Rows {
    data: Tensor,
    channels_last: bool,
}

impl Rows {
    fn of(outputs: &Tensor) -> Result<Self, Failure> {
        let channels_last = outputs.dim() == 4 && memory::is_channels_last(outputs)?;
        let data = if channels_last { outputs.f_permute([0, 2, 3, 1])? } else { outputs.shallow_clone() };
        // What comes after may work in place.
        Ok(Self { data: data.f_contiguous()?.copy(), channels_last })
    }

    fn outputs(&self, data: &Tensor) -> Result<Tensor, Failure> {
        Ok(if self.channels_last { data.f_permute([0, 3, 1, 2])? } else { data.shallow_clone() })
    }
}

/// Outputs of all training images.
struct Table {
    rows: Rows,
    /// The row of each image.
    places: Vec<i64>,
}

/// The images of a rank's share of a step, cut into as many parts as gradients are added up from.
pub(super) fn parts(share: &[usize], accumulate: i32) -> impl Iterator<Item = &[usize]> {
    share.chunks(share.len().div_ceil(usize::try_from(accumulate).unwrap_or(1).max(1)).max(1))
}

impl Kept {
    /// Something to keep, where the frozen layers give the same in each of the epochs from `began` on and there is more than one of them.
    pub(super) fn new(settings: &FineTune, recipe: &Recipe, began: u64) -> Option<Self> {
        let same = settings.augment.is_none() && settings.mix.is_none() && settings.sampling == Sampling::All;
        let epochs = u64::try_from(settings.epochs).unwrap_or(1);
        let wanted = same && recipe.model.has_frozen_stages() && began + 1 < epochs;
        wanted.then(|| Self { began: u32::try_from(began).unwrap_or(u32::MAX), coming: Vec::new(), training: None, validation: Vec::new() })
    }

    /// The epoch in whose batches the outputs are computed.
    pub(super) fn began(&self) -> u32 {
        self.began
    }

    pub(super) fn is_complete(&self) -> bool {
        self.training.is_some()
    }

    /// Outputs for training images of this rank, which are those of the next batch until all are there.
    pub(super) fn training(&mut self, rank: &Rank, recipe: &mut Recipe, samples: &[usize]) -> Result<Tensor, Failure> {
        if let Some(Table { rows, places }) = &self.training {
            let chosen: Vec<i64> = samples.iter().map(|sample| places[*sample]).collect();
            let chosen = graft_torch::transfer::on_device(Tensor::from_slice(&chosen), rank.device)?;
            return rows.outputs(&rows.data.f_index_select(0, &chosen)?);
        }
        let outputs = frozen(rank, recipe, samples)?;
        self.coming.push(Rows::of(&outputs)?);
        Ok(outputs)
    }

    /// Outputs for a batch of this rank's validation images, the same batches in each epoch.
    pub(super) fn validation(&mut self, rank: &Rank, recipe: &mut Recipe, batch: usize, samples: &[usize]) -> Result<Tensor, Failure> {
        if self.validation.len() <= batch {
            self.validation.push(Rows::of(&frozen(rank, recipe, samples)?)?);
        }
        let rows = &self.validation[batch];
        rows.outputs(&rows.data.copy())
    }

    /// Whether all outputs would fit into memory, by the first batch of them. All ranks say the same: every share has an image.
    pub(super) fn fits(&self, rank: &Rank, recipe: &Recipe) -> bool {
        let Some(Rows { data, .. }) = self.coming.first() else { return true };
        let each = data.numel() / usize::try_from(data.size()[0]).unwrap_or(1).max(1) * data.kind().elt_size_in_bytes();
        let validation = sampler::shard(recipe.dataset.range(Split::Validation).len(), 0, rank.world).len();
        each.saturating_mul(recipe.dataset.range(Split::Train).len() + validation) <= BUDGET
    }

    /// The batches of an epoch have all been: deal the outputs out to all ranks.
    pub(super) fn complete(&mut self, rank: &Rank, plan: &Epoch<'_>) -> Result<(), Failure> {
        let Some(first) = self.coming.first() else { return Ok(()) };
        let channels_last = first.channels_last;
        let own = Tensor::f_cat(&self.coming.drain(..).map(|rows| rows.data).collect::<Vec<_>>(), 0)?;
        let dealt: Vec<Vec<usize>> =
            (0..rank.world).map(|r| (0..plan.steps()).flat_map(|step| plan.share(step, r).samples.iter().copied()).collect()).collect();
        // Alone there is nobody to gather from, and no second copy is made.
        let data = if rank.world == 1 { own } else { rank.gather_counted(&own, &dealt.iter().map(Vec::len).collect::<Vec<_>>())? };
        let mut places = vec![0; dealt.iter().map(Vec::len).sum()];
        for (row, sample) in (0i64..).zip(dealt.iter().flatten()) {
            places[*sample] = row;
        }
        let mib = (data.numel() * data.kind().elt_size_in_bytes()) >> 20;
        rank.log(format!("from now on only trained layers run: the frozen ones' outputs of {} images are kept in {mib} MiB", places.len()));
        self.training = Some(Table { rows: Rows { data, channels_last }, places });
        Ok(())
    }
}

/// Always in float32, so that it does not depend on what the trained layers compute in.
fn frozen(rank: &Rank, recipe: &mut Recipe, samples: &[usize]) -> Result<Tensor, Failure> {
    let images = recipe.images(samples, rank.device)?;
    Ok(no_grad(|| recipe.model.frozen(&images))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_torch::tch::{Device, Kind};

    #[test]
    fn rows_come_back_as_they_were() {
        for last in [false, true] {
            let plain = Tensor::randn([5, 3, 4, 2], (Kind::Float, Device::Cpu));
            let given = if last { memory::to_channels_last(&plain).unwrap() } else { plain.copy() };
            let rows = Rows::of(&given).unwrap();
            let _ = given.shallow_clone().zero_();
            let back = rows.outputs(&rows.data.index_select(0, &Tensor::from_slice(&[4i64, 0]))).unwrap();
            assert!(back.equal(&plain.index_select(0, &Tensor::from_slice(&[4i64, 0]))));
            assert_eq!(memory::is_channels_last(&back).unwrap(), last);
        }
    }

    #[test]
    fn a_share_is_cut_into_parts() {
        let cut = |length: usize, accumulate| parts(&(0..length).collect::<Vec<_>>(), accumulate).map(<[usize]>::len).collect::<Vec<_>>();
        assert_eq!(cut(7, 3), [3, 3, 1]);
        assert_eq!(cut(4, 1), [4]);
        assert_eq!(cut(2, 4), [1, 1]);
        assert!(cut(0, 2).is_empty());
    }
}
