//! Normalisation over the batch and over channels.

use super::Mode;
use graft_torch::tch::{TchError, Tensor};

/// Batch normalisation, Ioffe and Szegedy 2015, arXiv:1502.03167.
#[derive(Debug)]
pub(in crate::models) struct Norm {
    pub(in crate::models) weight: Tensor,
    pub(in crate::models) bias: Tensor,
    pub(in crate::models) mean: Tensor,
    pub(in crate::models) variance: Tensor,
    pub(in crate::models) batches: Tensor,
    pub(in crate::models) rule: BatchNorm,
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
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        x.f_batch_norm(weight, bias, Some(&self.mean), Some(&self.variance), train, self.rule.momentum, self.rule.epsilon, true)
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
