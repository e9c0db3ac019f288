//! Convolution with a square kernel, under PyTorch's rule of padding or TensorFlow's.

use graft_crds::architectures::Padding;
use graft_torch::tch::{TchError, Tensor};

#[derive(Debug)]
pub(in crate::models) struct Conv {
    pub(in crate::models) weight: Tensor,
    pub(in crate::models) bias: Option<Tensor>,
    pub(in crate::models) kernel: i64,
    pub(in crate::models) stride: i64,
    /// Pixels on each side; 0 is no padding under either rule.
    pub(in crate::models) padding: i64,
    pub(in crate::models) rule: Padding,
    pub(in crate::models) groups: i64,
}

impl Conv {
    pub(super) fn trains(&self) -> bool {
        self.weight.requires_grad() || self.bias.as_ref().is_some_and(Tensor::requires_grad)
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let call = |x: &Tensor, padding: i64| x.f_conv2d(&self.weight, self.bias.as_ref(), [self.stride; 2], [padding; 2], [1, 1], self.groups);
        match self.rule {
            Padding::Symmetric => call(x, self.padding),
            Padding::Same if self.padding == 0 => call(x, 0),
            Padding::Same => {
                let size = x.size();
                let [.., height, width] = size.as_slice() else {
                    return Err(TchError::Shape(format!("a convolution needs [N, C, H, W], not {size:?}")));
                };
                let (top, bottom) = same_padding(*height, self.kernel, self.stride);
                let (left, right) = same_padding(*width, self.kernel, self.stride);
                if top == bottom && left == right && top == left {
                    return call(x, top);
                }
                call(&x.f_constant_pad_nd([left, right, top, bottom])?, 0)
            }
        }
    }

    /// Length of the output along an axis of this length.
    pub(super) fn output(&self, length: i64) -> i64 {
        match self.rule {
            Padding::Same if self.padding > 0 => (length + self.stride - 1) / self.stride,
            Padding::Same | Padding::Symmetric => (length + 2 * self.padding - self.kernel) / self.stride + 1,
        }
    }
}

/// TensorFlow's SAME padding of one axis, before and after: the output has ceil(size / stride) positions, and an odd
/// pixel goes after.
fn same_padding(size: i64, kernel: i64, stride: i64) -> (i64, i64) {
    let positions = (size + stride - 1) / stride;
    let total = ((positions - 1) * stride + kernel - size).max(0);
    (total / 2, total - total / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_puts_the_odd_pixel_last() {
        assert_eq!(same_padding(224, 3, 2), (0, 1));
        assert_eq!(same_padding(225, 3, 2), (1, 1));
        assert_eq!(same_padding(7, 3, 1), (1, 1));
        assert_eq!(same_padding(8, 1, 2), (0, 0));
        assert_eq!(same_padding(5, 7, 2), (3, 3));
    }
}
