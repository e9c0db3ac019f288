//! Layers that only ever run in evaluate mode, with batch normalisation folded into the convolutions before it: the same map, but for
//! rounding, in half the passes over memory (Jacob et al. 2017, arXiv:1712.05877, equation 14).

use graft_torch::memory;
use graft_torch::tch::{Kind, TchError, Tensor};

use super::{Attention, Conv, Excite, Fire, Layer, LayerNorm, Norm, Residual, Tokens};

/// The layers as they are now; what changes their tensors afterwards is not seen where something was folded.
pub(in crate::models) fn folded(layers: &[Layer]) -> Result<Vec<Layer>, TchError> {
    let mut result = Vec::with_capacity(layers.len());
    let mut rest = layers;
    while let Some((layer, after)) = rest.split_first() {
        rest = after;
        match (layer, after.first()) {
            (Layer::Conv(conv), Some(Layer::Norm(norm))) => {
                result.push(Layer::Conv(merged(conv, norm)?));
                rest = &after[1..];
            }
            (Layer::Dropout(_) | Layer::StochasticDepth(_), _) => {}
            (layer, _) => result.push(layer.handle()?),
        }
    }
    Ok(result)
}

/// γ · (w·x + b − μ) / √(σ² + ε) + β as one convolution, computed in double precision.
fn merged(conv: &Conv, norm: &Norm) -> Result<Conv, TchError> {
    let kind = conv.weight.kind();
    let double = |t: &Tensor| t.f_detach()?.f_to_kind(Kind::Double);
    let scale = double(&norm.weight)?.f_div(&double(&norm.variance)?.f_add_scalar(norm.rule.epsilon)?.f_sqrt()?)?;
    let weight = double(&conv.weight)?.f_mul(&scale.f_view([-1, 1, 1, 1])?)?.f_to_kind(kind)?;
    // In the order of memory that the weight had.
    let last = memory::is_channels_last(&conv.weight).unwrap_or(false);
    let weight = if last { memory::to_channels_last(&weight).unwrap_or(weight) } else { weight };
    let mean = double(&norm.mean)?;
    let offset = match &conv.bias {
        Some(bias) => double(bias)?.f_sub(&mean)?,
        None => mean.f_neg()?,
    };
    let bias = offset.f_mul(&scale)?.f_add(&double(&norm.bias)?)?.f_to_kind(kind)?;
    Ok(Conv { weight, bias: Some(bias), ..conv.handle() })
}

impl Conv {
    fn handle(&self) -> Self {
        let Self { weight, bias, kernel, stride, padding, rule, groups } = self;
        let (weight, bias) = (weight.shallow_clone(), bias.as_ref().map(Tensor::shallow_clone));
        Self { weight, bias, kernel: *kernel, stride: *stride, padding: *padding, rule: *rule, groups: *groups }
    }
}

impl Layer {
    /// The same layer on the same tensors, with what is inside of it folded.
    fn handle(&self) -> Result<Self, TchError> {
        let own = Tensor::shallow_clone;
        Ok(match self {
            Self::Conv(conv) => Self::Conv(conv.handle()),
            Self::Norm(Norm { weight, bias, mean, variance, batches, rule, together }) => Self::Norm(Norm {
                weight: own(weight),
                bias: own(bias),
                mean: own(mean),
                variance: own(variance),
                batches: own(batches),
                rule: *rule,
                together: together.clone(),
            }),
            Self::LayerNorm(LayerNorm { weight, bias, channels }) => {
                Self::LayerNorm(LayerNorm { weight: own(weight), bias: own(bias), channels: *channels })
            }
            Self::Linear { weight, bias } => Self::Linear { weight: own(weight), bias: own(bias) },
            Self::Activation(activation) => Self::Activation(*activation),
            Self::MaxPool { kernel, stride, padding, rounding } => {
                Self::MaxPool { kernel: *kernel, stride: *stride, padding: *padding, rounding: *rounding }
            }
            Self::AverageHalves => Self::AverageHalves,
            Self::AveragePool { side } => Self::AveragePool { side: *side },
            Self::Flatten => Self::Flatten,
            Self::Permute(order) => Self::Permute(*order),
            Self::Dropout(p) => Self::Dropout(*p),
            Self::StochasticDepth(p) => Self::StochasticDepth(*p),
            Self::Scale(factor) => Self::Scale(own(factor)),
            Self::Residual(Residual { main, shortcut }) => Self::Residual(Residual { main: folded(main)?, shortcut: folded(shortcut)? }),
            Self::Concat(main) => Self::Concat(folded(main)?),
            Self::Fire(Fire { squeeze, expand1, expand3 }) => {
                Self::Fire(Fire { squeeze: squeeze.handle(), expand1: expand1.handle(), expand3: expand3.handle() })
            }
            Self::Excite(Excite { reduce, activation, expand, gate }) => {
                Self::Excite(Excite { reduce: reduce.handle(), activation: *activation, expand: expand.handle(), gate: *gate })
            }
            Self::Tokens(Tokens { class, position }) => Self::Tokens(Tokens { class: own(class), position: own(position) }),
            Self::Attention(Attention { input, output, heads }) => {
                Self::Attention(Attention { input: (own(&input.0), own(&input.1)), output: (own(&output.0), own(&output.1)), heads: *heads })
            }
            Self::ClassToken => Self::ClassToken,
        })
    }
}
