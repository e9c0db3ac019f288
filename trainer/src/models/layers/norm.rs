//! Normalisation over the batch and over channels.

use std::cell::RefCell;
use std::rc::Rc;

use super::Mode;
use graft_torch::ProcessGroup;
use graft_torch::tch::{Kind, TchError, Tensor};

/// The ranks whose batches count as one, in batch normalisation of a model; none by default. All its layers have the same.
#[derive(Clone, Debug, Default)]
pub(in crate::models) struct Together(Rc<RefCell<Option<Rc<ProcessGroup>>>>);

impl Together {
    pub(in crate::models) fn set(&self, group: Option<Rc<ProcessGroup>>) {
        *self.0.borrow_mut() = group;
    }
}

/// Batch normalisation, Ioffe and Szegedy 2015, arXiv:1502.03167.
#[derive(Debug)]
pub(in crate::models) struct Norm {
    pub(in crate::models) weight: Tensor,
    pub(in crate::models) bias: Tensor,
    pub(in crate::models) mean: Tensor,
    pub(in crate::models) variance: Tensor,
    pub(in crate::models) batches: Tensor,
    pub(in crate::models) rule: BatchNorm,
    pub(in crate::models) together: Together,
}

/// What architectures choose about batch normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::models) struct BatchNorm {
    /// Share of a batch's statistics in the stored ones.
    pub(in crate::models) momentum: f64,
    /// Added to the variance.
    pub(in crate::models) epsilon: f64,
}

impl BatchNorm {
    /// torch's defaults.
    pub(in crate::models) const TORCH: Self = Self { momentum: 0.1, epsilon: 1e-5 };
}

impl Norm {
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let train = mode == Mode::Train && self.weight.requires_grad();
        if train {
            // tch wants a mutable handle; the tensor is the model's all the same.
            let _ = self.batches.shallow_clone().f_add_scalar_(1)?;
        }
        if let Some(group) = self.together.0.borrow().as_ref().filter(|_| train) {
            return self.over_ranks(x, group);
        }
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        x.f_batch_norm(weight, bias, Some(&self.mean), Some(&self.variance), train, self.rule.momentum, self.rule.epsilon, true)
    }
}

impl Norm {
    /// With mean and variance of the joint batch of all ranks, as torch's `SyncBatchNorm`: what one rank would compute of all images.
    fn over_ranks(&self, x: &Tensor, group: &ProcessGroup) -> Result<Tensor, TchError> {
        let over: Vec<i64> = (0..x.dim() as i64).filter(|dim| *dim != 1).collect();
        let channels = x.size()[1];
        let sum = |x: &Tensor| x.f_sum_dim_intlist(over.as_slice(), false, Kind::Double);
        let count = Tensor::f_full([1], x.numel() as f64 / channels as f64, (Kind::Double, x.device()))?;
        let own = Tensor::f_cat(&[sum(x)?, sum(&x.f_square()?)?, count], 0)?;
        let all = group.sum(&own).map_err(|error| TchError::Torch(error.to_string()))?;
        let count = all.f_narrow(0, 2 * channels, 1)?.f_detach()?;
        let mean = all.f_narrow(0, 0, channels)?.f_div(&count)?;
        let variance = all.f_narrow(0, channels, channels)?.f_div(&count)?.f_sub(&mean.f_square()?)?.f_clamp_min(0.0)?;
        let unbiased = variance.f_detach()?.f_mul(&count.f_div(&count.f_add_scalar(-1.0)?.f_clamp_min(1.0)?)?)?;
        for (stored, now) in [(&self.mean, &mean.f_detach()?), (&self.variance, &unbiased)] {
            let _ = stored.shallow_clone().f_lerp_(&now.f_to_kind(stored.kind())?, self.rule.momentum)?;
        }
        let mut shape = vec![1; x.dim()];
        shape[1] = channels;
        let factor = variance.f_add_scalar(self.rule.epsilon)?.f_rsqrt()?.f_mul(&self.weight)?;
        let offset = factor.f_mul(&mean)?.f_neg()?.f_add(&self.bias)?;
        let wide = |t: &Tensor| t.f_to_kind(x.kind())?.f_view(shape.as_slice());
        x.f_mul(&wide(&factor)?)?.f_add(&wide(&offset)?)
    }
}

/// Layer normalisation, Ba et al. 2016, arXiv:1607.06450, over the channels of each position, with epsilon 1e-6 as
/// ConvNeXt and ViT have it.
#[derive(Debug)]
pub(in crate::models) struct LayerNorm {
    pub(in crate::models) weight: Tensor,
    pub(in crate::models) bias: Tensor,
    pub(in crate::models) channels: Channels,
}

/// Where a tensor has its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) enum Channels {
    /// `[N, C, H, W]`.
    Second,
    /// `[…, C]`.
    Last,
}

impl LayerNorm {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let norm = |x: &Tensor| x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), 1e-6, true);
        match self.channels {
            Channels::Last => norm(x),
            Channels::Second => norm(&x.f_permute([0, 2, 3, 1])?)?.f_permute([0, 3, 1, 2]),
        }
    }
}
