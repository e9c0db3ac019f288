//! ResNet-18 to -101, He et al. 2015, arXiv:1512.03385, as torchvision has them: from ResNet-50 on the stride is in the 3×3
//! convolution (version 1.5). ResNeXt, Xie et al. 2016, arXiv:1611.05431, cuts that convolution into groups.

use super::builder::{Builder, ConvShape};
use super::layers::Activation::Relu;
use super::layers::{Layer, Residual, Rounding};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3, 1×1 with four times the width at the end. The 3×3 has `groups` groups of `width` channels for each 64 of
    /// the stage.
    Bottleneck { groups: i64, width: i64 },
}

impl Block {
    /// ResNet's.
    pub(super) const BOTTLENECK: Self = Self::Bottleneck { groups: 1, width: 64 };
}

pub(super) fn describe(b: &mut Builder, block: Block, depths: [usize; 4]) -> Result<Description, TchError> {
    let expansion = match block {
        Block::Basic => 1,
        Block::Bottleneck { .. } => 4,
    };
    let first = b.conv("conv1", ConvShape { stride: 2, ..ConvShape::new(3, 64, 7) })?;
    let mut stages = vec![Stage::new(vec![Layer::Conv(first)])];
    stages.push(Stage::new(vec![
        b.norm("bn1", 64)?,
        Layer::Activation(Relu),
        Layer::MaxPool { kernel: 3, stride: 2, padding: 1, rounding: Rounding::Floor },
    ]));
    let mut inputs = 64;
    for (i, depth) in depths.into_iter().enumerate() {
        let width = 64 << i;
        for j in 0..depth {
            let stride = if i > 0 && j == 0 { 2 } else { 1 };
            let name = format!("layer{}.{j}", i + 1);
            let main = match block {
                Block::Basic => basic(b, &name, inputs, width, stride)?,
                Block::Bottleneck { groups, width: each } => {
                    let inner = ConvShape { stride, groups, ..ConvShape::new(width * each / 64 * groups, width * each / 64 * groups, 3) };
                    bottleneck(b, &name, inputs, inner, 4 * width)?
                }
            };
            let outputs = width * expansion;
            let mut shortcut = Vec::new();
            if stride != 1 || inputs != outputs {
                let shape = ConvShape { stride, ..ConvShape::new(inputs, outputs, 1) };
                shortcut.push(Layer::Conv(b.conv(&format!("{name}.downsample.0"), shape)?));
                shortcut.push(b.norm(&format!("{name}.downsample.1"), outputs)?);
            }
            stages.push(Stage::new(vec![Layer::Residual(Residual { main, shortcut }), Layer::Activation(Relu)]));
            inputs = outputs;
        }
    }
    let pool = vec![Layer::AveragePool { side: 1 }, Layer::Flatten];
    Ok(Description { stages, pool, head_name: "fc", head_shape: HeadShape::Linear, dropout: 0.0, width: inputs })
}

fn basic(b: &mut Builder, name: &str, inputs: i64, width: i64, stride: i64) -> Result<Vec<Layer>, TchError> {
    Ok(vec![
        Layer::Conv(b.conv(&format!("{name}.conv1"), ConvShape { stride, ..ConvShape::new(inputs, width, 3) })?),
        b.norm(&format!("{name}.bn1"), width)?,
        Layer::Activation(Relu),
        Layer::Conv(b.conv(&format!("{name}.conv2"), ConvShape::new(width, width, 3))?),
        b.norm(&format!("{name}.bn2"), width)?,
    ])
}

fn bottleneck(b: &mut Builder, name: &str, inputs: i64, inner: ConvShape, outputs: i64) -> Result<Vec<Layer>, TchError> {
    let width = inner.outputs;
    Ok(vec![
        Layer::Conv(b.conv(&format!("{name}.conv1"), ConvShape::new(inputs, width, 1))?),
        b.norm(&format!("{name}.bn1"), width)?,
        Layer::Activation(Relu),
        Layer::Conv(b.conv(&format!("{name}.conv2"), inner)?),
        b.norm(&format!("{name}.bn2"), width)?,
        Layer::Activation(Relu),
        Layer::Conv(b.conv(&format!("{name}.conv3"), ConvShape::new(width, outputs, 1))?),
        b.norm(&format!("{name}.bn3"), outputs)?,
    ])
}
