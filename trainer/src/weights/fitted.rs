//! Tensors of another shape than the model's that still carry over: the first convolution where the number of input channels
//! differs, and a vision transformer's positions where the number of patches does.

use crate::models::layers::resampled;
use graft_torch::tch::{Kind, TchError, Tensor};

/// A tensor made to fit, and how.
pub(super) type Fitted = (Tensor, String);

/// A first convolution's weight `[O, I, k, k]` for `channels` input channels, by timm's rule. For one channel the weights are
/// summed over their channels, since a grey image is the same in all. For more they are repeated, scaled by I / channels, so
/// that an image that is the same in all channels gives what it gave.
pub(super) fn first_convolution(source: &Tensor, shape: &[i64]) -> Result<Option<Fitted>, TchError> {
    let size = source.size();
    let ([outputs, from, height, width], [o, channels, h, w]) = (size.as_slice(), shape) else {
        return Ok(None);
    };
    if (outputs, height, width) != (o, h, w) || from == channels {
        return Ok(None);
    }
    if *channels == 1 {
        let how = format!("{from} input channels summed to one");
        return Ok(Some((source.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?, how)));
    }
    let times = (channels + from - 1) / from;
    let repeated = source.f_repeat([1, times, 1, 1])?.f_narrow(1, 0, *channels)?;
    let how = format!("{from} input channels repeated to {channels}, scaled by {from}/{channels}");
    Ok(Some((repeated.f_mul_scalar(*from as f64 / *channels as f64)?, how)))
}

/// Positions `[1, 1 + s², C]` for another square grid.
pub(super) fn positions(source: &Tensor, shape: &[i64]) -> Result<Option<Fitted>, TchError> {
    let size = source.size();
    let ([1, from, width], [1, to, w]) = (size.as_slice(), shape) else {
        return Ok(None);
    };
    let side = |count: i64| (count > 1 && (count - 1).isqrt().pow(2) == count - 1).then(|| (count - 1).isqrt());
    match (side(*from), side(*to)) {
        (Some(old), Some(new)) if width == w => {
            Ok(Some((resampled(source, new, new)?, format!("positions of {old} × {old} patches resampled to {new} × {new}"))))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_torch::tch::Device;

    #[test]
    fn a_grey_image_gives_what_it_gave() {
        let (float, grey) = ((Kind::Float, Device::Cpu), Tensor::rand([2, 1, 8, 8], (Kind::Float, Device::Cpu)));
        let run = |x: &Tensor, w: &Tensor| x.conv2d(w, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1);
        for (from, to) in [(3, 1), (1, 3), (3, 6)] {
            let source = Tensor::randn([4, from, 3, 3], float);
            let (fitted, how) = first_convolution(&source, &[4, to, 3, 3]).unwrap().unwrap();
            assert_eq!(fitted.size(), [4, to, 3, 3], "{how}");
            let (before, after) = (run(&grey.repeat([1, from, 1, 1]), &source), run(&grey.repeat([1, to, 1, 1]), &fitted));
            assert!(before.allclose(&after, 1e-4, 1e-5, false), "{how}");
        }
        assert!(first_convolution(&Tensor::zeros([4, 3, 3, 3], float), &[4, 3, 3, 3]).unwrap().is_none());
        assert!(first_convolution(&Tensor::zeros([4, 3, 3, 3], float), &[8, 1, 3, 3]).unwrap().is_none());
    }

    #[test]
    fn only_square_grids_are_resampled() {
        let zeros = |count: i64| Tensor::zeros([1, count, 8], (Kind::Float, Device::Cpu));
        let (fitted, how) = positions(&zeros(577), &[1, 197, 8]).unwrap().unwrap();
        assert_eq!((fitted.size(), how.as_str()), (vec![1, 197, 8], "positions of 24 × 24 patches resampled to 14 × 14"));
        assert!(positions(&zeros(198), &[1, 197, 8]).unwrap().is_none());
        assert!(positions(&zeros(1), &[1, 197, 8]).unwrap().is_none());
    }
}
