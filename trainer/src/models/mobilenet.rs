//! MobileNetV1, Howard et al. 2017, arXiv:1704.04861, with its batch normalisation folded into the convolutions, and
//! MobileNetV2, Sandler et al. 2018, arXiv:1801.04381, as torchvision has it.

use super::builder::{Bias, Builder, ConvShape};
use super::layers::Activation::Relu6;
use super::layers::{Layer, Residual};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// Output channels at width 1, and stride, of the thirteen pairs of a depthwise and a pointwise convolution.
const V1_PAIRS: [(i64, i64); 13] =
    [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)];

/// MobileNetV1; `quarters` is the width multiplier in quarters. The names are those of the weight files: a running
/// number, then `conv` or `dw`.
pub(super) fn describe_v1(b: &mut Builder, quarters: i64) -> Result<Description, TchError> {
    let wide = |channels: i64| channels * quarters / 4;
    let first = ConvShape { stride: 2, bias: Bias::Yes, ..ConvShape::new(3, wide(32), 3) };
    let mut stages = vec![Stage::new(vec![Layer::Conv(b.conv("00.conv", first)?), Layer::Activation(Relu6)])];
    let mut inputs = wide(32);
    for (i, (outputs, stride)) in V1_PAIRS.into_iter().enumerate() {
        let depthwise = ConvShape { stride, groups: inputs, bias: Bias::Yes, ..ConvShape::new(inputs, inputs, 3) };
        let conv = b.conv(&format!("{:02}.dw", 2 * i + 1), depthwise)?;
        stages.push(Stage::new(vec![Layer::Conv(conv), Layer::Activation(Relu6)]));
        let pointwise = ConvShape { bias: Bias::Yes, ..ConvShape::new(inputs, wide(outputs), 1) };
        let conv = b.conv(&format!("{:02}.conv", 2 * i + 2), pointwise)?;
        stages.push(Stage::new(vec![Layer::Conv(conv), Layer::Activation(Relu6)]));
        inputs = wide(outputs);
    }
    let pool = vec![Layer::AveragePool { side: 1 }, Layer::Flatten];
    Ok(Description { stages, pool, head_name: "27.conv", head_shape: HeadShape::Conv, dropout: 0.0, width: inputs })
}

/// Expansion, output channels, number of blocks and first stride: table 2 of the paper.
const V2_BLOCKS: [(i64, i64, usize, i64); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

/// MobileNetV2 at width 1.
pub(super) fn describe_v2(b: &mut Builder) -> Result<Description, TchError> {
    let first = ConvShape { stride: 2, ..ConvShape::new(3, 32, 3) };
    let mut stages = vec![Stage::new(conv_norm_relu6(b, "features.0", first)?)];
    let (mut inputs, mut index) = (32, 1);
    for (expansion, outputs, blocks, first_stride) in V2_BLOCKS {
        for i in 0..blocks {
            let stride = if i == 0 { first_stride } else { 1 };
            let name = format!("features.{index}.conv");
            let block = inverted_residual(b, &name, inputs, outputs, expansion, stride)?;
            stages.push(Stage::new(if stride == 1 && inputs == outputs {
                vec![Layer::Residual(Residual { main: block, shortcut: Vec::new() })]
            } else {
                block
            }));
            (inputs, index) = (outputs, index + 1);
        }
    }
    stages.push(Stage::new(conv_norm_relu6(b, &format!("features.{index}"), ConvShape::new(inputs, 1280, 1))?));
    let pool = vec![Layer::AveragePool { side: 1 }, Layer::Flatten];
    let head_shape = HeadShape::Linear;
    Ok(Description { stages, pool, head_name: "classifier.1", head_shape, dropout: 0.2, width: 1280 })
}

fn conv_norm_relu6(b: &mut Builder, name: &str, shape: ConvShape) -> Result<Vec<Layer>, TchError> {
    Ok(vec![Layer::Conv(b.conv(&format!("{name}.0"), shape)?), b.norm(&format!("{name}.1"), shape.outputs)?, Layer::Activation(Relu6)])
}

fn inverted_residual(b: &mut Builder, name: &str, inputs: i64, outputs: i64, expansion: i64, stride: i64) -> Result<Vec<Layer>, TchError> {
    let hidden = inputs * expansion;
    let mut layers = Vec::new();
    let mut index = 0;
    if expansion != 1 {
        layers.extend(conv_norm_relu6(b, &format!("{name}.{index}"), ConvShape::new(inputs, hidden, 1))?);
        index += 1;
    }
    let depthwise = ConvShape { stride, groups: hidden, ..ConvShape::new(hidden, hidden, 3) };
    layers.extend(conv_norm_relu6(b, &format!("{name}.{index}"), depthwise)?);
    let project = b.conv(&format!("{name}.{}", index + 1), ConvShape::new(hidden, outputs, 1))?;
    layers.push(Layer::Conv(project));
    layers.push(b.norm(&format!("{name}.{}", index + 2), outputs)?);
    Ok(layers)
}
