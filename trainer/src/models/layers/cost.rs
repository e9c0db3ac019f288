//! What a forward pass costs: a walk over the layers that carries a shape along and counts multiplications, each with the
//! addition that follows it, as torchvision counts them: in convolutions, linear layers and attention, and nothing else.

use super::{Attention, Conv, Layer, Rounding};
use graft_torch::tch::Tensor;

/// The shape of one image's values on their way through layers, `[C, H, W]`, `[C]`, or tokens `[L, C]`, and what was counted.
#[derive(Clone, Debug)]
pub(in crate::models) struct Walk {
    pub(in crate::models) shape: Vec<i64>,
    /// Multiply-accumulates.
    pub(in crate::models) macs: i64,
}

impl Walk {
    pub(in crate::models) fn through(&mut self, layers: &[Layer]) {
        for layer in layers {
            self.step(layer);
        }
    }

    fn step(&mut self, layer: &Layer) {
        match layer {
            Layer::Conv(conv) => self.conv(conv),
            Layer::Linear { weight, .. } => self.linear(weight),
            Layer::MaxPool { kernel, stride, padding, rounding } => {
                let spare = match rounding {
                    Rounding::Floor => 0,
                    Rounding::Ceil => stride - 1,
                };
                self.sides(|length| (length + 2 * padding - kernel + spare) / stride + 1);
            }
            Layer::AverageHalves => self.sides(|length| length / 2),
            Layer::AveragePool { side } => self.sides(|_| *side),
            Layer::Flatten => self.shape = vec![self.shape.iter().product()],
            Layer::Permute(order) => self.shape = order[1..].iter().map(|&axis| self.shape[axis as usize - 1]).collect(),
            Layer::Residual(residual) => {
                let mut beside = Self { shape: self.shape.clone(), macs: 0 };
                beside.through(&residual.shortcut);
                self.through(&residual.main);
                self.macs += beside.macs;
            }
            Layer::Concat(main) => {
                let channels = self.shape[0];
                self.through(main);
                self.shape[0] += channels;
            }
            Layer::Fire(fire) => {
                self.conv(&fire.squeeze);
                let mut beside = Self { shape: self.shape.clone(), macs: 0 };
                beside.conv(&fire.expand1);
                self.conv(&fire.expand3);
                self.macs += beside.macs;
                self.shape[0] += beside.shape[0];
            }
            Layer::Excite(excite) => {
                let mut beside = Self { shape: vec![self.shape[0], 1, 1], macs: 0 };
                beside.conv(&excite.reduce);
                beside.conv(&excite.expand);
                self.macs += beside.macs;
            }
            Layer::Tokens(_) => self.shape = vec![1 + self.shape[1] * self.shape[2], self.shape[0]],
            Layer::Attention(attention) => self.attention(attention),
            Layer::ClassToken => drop(self.shape.remove(0)),
            Layer::Norm(_) | Layer::LayerNorm(_) | Layer::Activation(_) | Layer::Dropout(_) | Layer::Scale(_) | Layer::StochasticDepth(_) => {}
        }
    }

    fn conv(&mut self, conv: &Conv) {
        self.sides(|length| conv.output(length));
        self.shape[0] = conv.weight.size()[0];
        self.macs += self.shape.iter().product::<i64>() * conv.weight.size()[1..].iter().product::<i64>();
    }

    fn linear(&mut self, weight: &Tensor) {
        let last = self.shape.len() - 1;
        self.shape[last] = weight.size()[0];
        self.macs += self.shape.iter().product::<i64>() * weight.size()[1];
    }

    fn attention(&mut self, attention: &Attention) {
        let (length, channels) = (self.shape[0], self.shape[1]);
        self.linear(&attention.input.0);
        self.shape[1] = channels;
        self.macs += 2 * length * length * channels;
        self.linear(&attention.output.0);
    }

    fn sides(&mut self, change: impl Fn(i64) -> i64) {
        for side in self.shape.iter_mut().skip(1) {
            *side = change(*side);
        }
    }
}
