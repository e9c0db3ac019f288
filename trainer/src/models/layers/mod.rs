//! The operations that the backbones are made of, each with torch's semantics. A layer holds handles of tensors that
//! the model's list names; whether it trains is read off its tensors, never kept beside them.

mod attention;
mod conv;
mod cost;
mod fold;
mod norm;

pub(crate) use attention::resampled;
pub(super) use attention::{Attention, Tokens};
pub(super) use conv::Conv;
pub(super) use cost::Walk;
pub(super) use fold::folded;
pub(super) use norm::{BatchNorm, Channels, LayerNorm, Norm, Together};

use graft_torch::tch::{TchError, Tensor};

/// Which of its two behaviours a layer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch normalisation with stored statistics, no dropout.
    Evaluate,
    /// Batch normalisation with the batch's statistics, which also move the stored ones, where its weight is trainable;
    /// dropout and stochastic depth, except in a frozen prefix.
    Train,
}

/// How a pooling layer rounds its output size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    Floor,
    Ceil,
}

/// What follows a linear map or a convolution, position by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Relu,
    Relu6,
    /// x · sigmoid(x).
    Silu,
    /// x · relu6(x + 3) / 6.
    Hardswish,
    /// relu6(x + 3) / 6.
    Hardsigmoid,
    Sigmoid,
    /// Hendrycks and Gimpel 2016, arXiv:1606.08415, the exact one.
    Gelu,
}

#[derive(Debug)]
pub(super) enum Layer {
    Conv(Conv),
    Norm(Norm),
    LayerNorm(LayerNorm),
    Linear {
        weight: Tensor,
        bias: Tensor,
    },
    Activation(Activation),
    MaxPool {
        kernel: i64,
        stride: i64,
        padding: i64,
        rounding: Rounding,
    },
    /// The mean of each 2 × 2 pixels.
    AverageHalves,
    /// To `side` × `side`, whatever the input's size.
    AveragePool {
        side: i64,
    },
    Flatten,
    Permute([i64; 4]),
    Dropout(f64),
    /// Huang et al. 2016, arXiv:1603.09382: the whole branch of a sample is left out with this probability.
    StochasticDepth(f64),
    /// Each channel times a learned factor; Touvron et al. 2021, arXiv:2103.17239.
    Scale(Tensor),
    Residual(Residual),
    /// The input's channels, then those of the layers.
    Concat(Vec<Layer>),
    Fire(Fire),
    Excite(Excite),
    Tokens(Tokens),
    Attention(Attention),
    /// The first token alone.
    ClassToken,
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

/// Squeeze-and-excitation, Hu et al. 2017, arXiv:1709.01507: channels are weighed by what two small layers make of their
/// means.
#[derive(Debug)]
pub(super) struct Excite {
    pub(super) reduce: Conv,
    pub(super) activation: Activation,
    pub(super) expand: Conv,
    pub(super) gate: Activation,
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
            Self::Norm(Norm { weight, bias, .. }) | Self::LayerNorm(LayerNorm { weight, bias, .. }) | Self::Linear { weight, bias } => {
                weight.requires_grad() || bias.requires_grad()
            }
            Self::Scale(factor) => factor.requires_grad(),
            Self::Residual(Residual { main, shortcut }) => trains(main) || trains(shortcut),
            Self::Concat(main) => trains(main),
            Self::Fire(Fire { squeeze, expand1, expand3 }) => [squeeze, expand1, expand3].iter().any(|c| c.trains()),
            Self::Excite(Excite { reduce, expand, .. }) => reduce.trains() || expand.trains(),
            Self::Tokens(Tokens { class, position }) => class.requires_grad() || position.requires_grad(),
            Self::Attention(attention) => attention.trains(),
            Self::Activation(_) | Self::MaxPool { .. } | Self::AverageHalves | Self::AveragePool { .. } => false,
            Self::Flatten | Self::Permute(_) | Self::Dropout(_) | Self::StochasticDepth(_) | Self::ClassToken => false,
        }
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Norm(norm) => norm.forward(x, mode),
            Self::LayerNorm(norm) => norm.forward(x),
            Self::Linear { weight, bias } => x.f_linear(weight, Some(bias)),
            Self::Activation(activation) => activation.forward(x),
            Self::MaxPool { kernel, stride, padding, rounding } => {
                let ceil = *rounding == Rounding::Ceil;
                x.f_max_pool2d([*kernel; 2], [*stride; 2], [*padding; 2], [1, 1], ceil)
            }
            Self::AverageHalves => x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>),
            Self::AveragePool { side } => x.f_adaptive_avg_pool2d([*side; 2]),
            Self::Flatten => x.f_flatten(1, -1),
            Self::Permute(order) => x.f_permute(order),
            Self::Dropout(p) => match mode {
                Mode::Evaluate => Ok(x.shallow_clone()),
                Mode::Train => x.f_dropout(*p, true),
            },
            Self::StochasticDepth(p) => match mode {
                Mode::Train if *p > 0.0 => stochastic_depth(x, *p),
                Mode::Train | Mode::Evaluate => Ok(x.shallow_clone()),
            },
            Self::Scale(factor) => x.f_mul(factor),
            Self::Residual(Residual { main, shortcut }) => {
                let shortcut = run(shortcut, x, mode)?;
                run(main, x, mode)?.f_add_(&shortcut)
            }
            Self::Concat(main) => Tensor::f_cat(&[x.shallow_clone(), run(main, x, mode)?], 1),
            Self::Fire(Fire { squeeze, expand1, expand3 }) => {
                let x = squeeze.forward(x)?.f_relu_()?;
                Tensor::f_cat(&[expand1.forward(&x)?.f_relu_()?, expand3.forward(&x)?.f_relu_()?], 1)
            }
            Self::Excite(Excite { reduce, activation, expand, gate }) => {
                let means = x.f_adaptive_avg_pool2d([1, 1])?;
                let weights = expand.forward(&activation.forward(&reduce.forward(&means)?)?)?;
                gate.forward(&weights)?.f_mul(x)
            }
            Self::Tokens(tokens) => tokens.forward(x),
            Self::Attention(attention) => attention.forward(x),
            Self::ClassToken => x.f_select(1, 0),
        }
    }
}

impl Activation {
    fn forward(self, x: &Tensor) -> Result<Tensor, TchError> {
        match self {
            // In place, as torchvision's: what comes before it, a convolution or a normalisation, does not need its result again.
            Self::Relu => x.shallow_clone().f_relu_(),
            Self::Relu6 => x.shallow_clone().f_relu6_(),
            Self::Silu => x.f_silu(),
            Self::Hardswish => x.f_hardswish(),
            Self::Hardsigmoid => x.f_hardsigmoid(),
            Self::Sigmoid => x.f_sigmoid(),
            Self::Gelu => x.f_gelu("none"),
        }
    }
}

/// Rows are dropped whole, the others grow so that the mean stays; the draw is torchvision's.
fn stochastic_depth(x: &Tensor, p: f64) -> Result<Tensor, TchError> {
    let mut shape = vec![1; x.dim()];
    shape[0] = x.size()[0];
    let kept = Tensor::f_empty(shape, (x.kind(), x.device()))?.f_bernoulli_float_(1.0 - p)?;
    x.f_mul(&kept.f_div_scalar(1.0 - p)?)
}
