//! What a vision transformer has besides ordinary layers: patches that become tokens, and attention among them.
//! Dosovitskiy et al. 2020, arXiv:2010.11929.

use graft_torch::tch::{TchError, Tensor};

/// A map of patches `[N, C, h, w]` to tokens `[N, 1 + h·w, C]`: a learned token goes before them, a learned position is
/// added to each.
#[derive(Debug)]
pub(in crate::models) struct Tokens {
    /// `[1, 1, C]`.
    pub(in crate::models) class: Tensor,
    /// `[1, 1 + side², C]`.
    pub(in crate::models) position: Tensor,
}

impl Tokens {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (n, channels, height, width) = x.size4()?;
        let patches = x.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let class = self.class.f_expand([n, 1, channels], false)?;
        Tensor::f_cat(&[class, patches], 1)?.f_add(&resampled(&self.position, height, width)?)
    }
}

/// Learned positions `[1, 1 + side², C]` of a square grid for a grid of another size, as timm resamples them: bicubic with
/// antialiasing; the first, of the class token, stays.
pub(crate) fn resampled(position: &Tensor, height: i64, width: i64) -> Result<Tensor, TchError> {
    let (_, count, channels) = position.size3()?;
    let side = (count - 1).isqrt();
    if (height, width) == (side, side) {
        return Ok(position.shallow_clone());
    }
    let (class, grid) = (position.f_narrow(1, 0, 1)?, position.f_narrow(1, 1, count - 1)?);
    let grid = grid.f_reshape([1, side, side, channels])?.f_permute([0, 3, 1, 2])?;
    let grid = grid.f_internal_upsample_bicubic2d_aa([height, width], false, None::<f64>, None::<f64>)?;
    let grid = grid.f_permute([0, 2, 3, 1])?.f_reshape([1, height * width, channels])?;
    Tensor::f_cat(&[class, grid], 1)
}

/// Multi-head self-attention over tokens `[N, L, C]`, with the three input projections in one matrix.
#[derive(Debug)]
pub(in crate::models) struct Attention {
    /// `[3·C, C]`: queries, keys, values.
    pub(in crate::models) input: (Tensor, Tensor),
    /// `[C, C]`.
    pub(in crate::models) output: (Tensor, Tensor),
    pub(in crate::models) heads: i64,
}

impl Attention {
    pub(super) fn trains(&self) -> bool {
        [&self.input.0, &self.input.1, &self.output.0, &self.output.1].iter().any(|t| t.requires_grad())
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (n, length, channels) = x.size3()?;
        let all = x.f_linear(&self.input.0, Some(&self.input.1))?;
        let all = all.f_reshape([n, length, 3, self.heads, channels / self.heads])?.f_permute([2, 0, 3, 1, 4])?;
        let part = |i| all.f_select(0, i);
        let mixed = Tensor::f_scaled_dot_product_attention(&part(0)?, &part(1)?, &part(2)?, None::<&Tensor>, 0.0, false, None::<f64>, false)?;
        mixed.f_transpose(1, 2)?.f_reshape([n, length, channels])?.f_linear(&self.output.0, Some(&self.output.1))
    }
}
