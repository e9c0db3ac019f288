//! The operations that the backbones are made of, each with torch's semantics. A layer holds handles of tensors that
//! the model's list names; whether it trains is read off its tensors, never kept beside them.

use graft_crds::architectures::Padding;
use graft_torch::tch::{TchError, Tensor};

/// Which of its two behaviours a layer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch normalisation with stored statistics, no dropout.
    Evaluate,
    /// Batch normalisation with the batch's statistics, which also move the stored ones, where its weight is trainable;
    /// dropout, except in a frozen prefix.
    Train,
}

/// How a pooling layer rounds its output size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    Floor,
    Ceil,
}

#[derive(Debug)]
pub(super) enum Layer {
    Conv(Conv),
    Norm(Norm),
    Linear { weight: Tensor, bias: Tensor },
    Relu,
    Relu6,
    MaxPool { kernel: i64, stride: i64, padding: i64, rounding: Rounding },
    AveragePool { side: i64 },
    Flatten,
    Dropout(f64),
    Residual(Residual),
    Fire(Fire),
}

#[derive(Debug)]
pub(super) struct Conv {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) kernel: i64,
    pub(super) stride: i64,
    /// Pixels on each side; 0 is no padding under either rule.
    pub(super) padding: i64,
    pub(super) rule: Padding,
    pub(super) groups: i64,
}

/// Batch normalisation, Ioffe and Szegedy 2015, arXiv:1502.03167; torch's defaults, momentum 0.1 and epsilon 1e-5.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) mean: Tensor,
    pub(super) variance: Tensor,
    pub(super) batches: Tensor,
}

/// `main(x) + shortcut(x)`; an empty shortcut is x itself.
#[derive(Debug)]
pub(super) struct Residual {
    pub(super) main: Vec<Layer>,
    pub(super) shortcut: Vec<Layer>,
}

/// SqueezeNet's module: squeeze, then two convolutions side by side; each followed by ReLU.
#[derive(Debug)]
pub(super) struct Fire {
    pub(super) squeeze: Conv,
    pub(super) expand1: Conv,
    pub(super) expand3: Conv,
}

/// Layers one after the other.
pub(super) fn run(layers: &[Layer], x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
    let mut x = x.shallow_clone();
    for layer in layers {
        x = layer.forward(&x, mode)?;
    }
    Ok(x)
}

/// Whether any tensor in the layers is trained.
pub(super) fn trains(layers: &[Layer]) -> bool {
    layers.iter().any(Layer::trains)
}

impl Layer {
    fn trains(&self) -> bool {
        match self {
            Self::Conv(conv) => conv.trains(),
            Self::Norm(Norm { weight, bias, .. }) | Self::Linear { weight, bias } => weight.requires_grad() || bias.requires_grad(),
            Self::Relu | Self::Relu6 | Self::MaxPool { .. } | Self::AveragePool { .. } | Self::Flatten | Self::Dropout(_) => false,
            Self::Residual(Residual { main, shortcut }) => trains(main) || trains(shortcut),
            Self::Fire(Fire { squeeze, expand1, expand3 }) => [squeeze, expand1, expand3].iter().any(|c| c.trains()),
        }
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Norm(norm) => norm.forward(x, mode),
            Self::Linear { weight, bias } => x.f_linear(weight, Some(bias)),
            Self::Relu => x.shallow_clone().f_relu_(),
            Self::Relu6 => x.shallow_clone().f_relu6_(),
            Self::MaxPool { kernel, stride, padding, rounding } => {
                let ceil = *rounding == Rounding::Ceil;
                x.f_max_pool2d([*kernel; 2], [*stride; 2], [*padding; 2], [1, 1], ceil)
            }
            Self::AveragePool { side } => x.f_adaptive_avg_pool2d([*side; 2]),
            Self::Flatten => x.f_flatten(1, -1),
            Self::Dropout(p) => match mode {
                Mode::Evaluate => Ok(x.shallow_clone()),
                Mode::Train => x.f_dropout(*p, true),
            },
            Self::Residual(Residual { main, shortcut }) => {
                let y = run(main, x, mode)?;
                y.f_add(&run(shortcut, x, mode)?)
            }
            Self::Fire(Fire { squeeze, expand1, expand3 }) => {
                let x = squeeze.forward(x)?.f_relu_()?;
                Tensor::f_cat(&[expand1.forward(&x)?.f_relu_()?, expand3.forward(&x)?.f_relu_()?], 1)
            }
        }
    }
}

impl Conv {
    fn trains(&self) -> bool {
        self.weight.requires_grad() || self.bias.as_ref().is_some_and(Tensor::requires_grad)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
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
}

/// TensorFlow's SAME padding of one axis, before and after: the output has ceil(size / stride) positions, and an odd
/// pixel goes after.
fn same_padding(size: i64, kernel: i64, stride: i64) -> (i64, i64) {
    let positions = (size + stride - 1) / stride;
    let total = ((positions - 1) * stride + kernel - size).max(0);
    (total / 2, total - total / 2)
}

impl Norm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let train = mode == Mode::Train && self.weight.requires_grad();
        if train {
            // tch wants a mutable handle; the tensor is the model's all the same.
            let _ = self.batches.shallow_clone().f_add_scalar_(1)?;
        }
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        x.f_batch_norm(weight, bias, Some(&self.mean), Some(&self.variance), train, 0.1, 1e-5, true)
    }
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
