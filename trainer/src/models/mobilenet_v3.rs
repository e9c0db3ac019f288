//! MobileNetV3, Howard et al. 2019, arXiv:1905.02244, as torchvision has it. Its features are what the first linear layer of
//! the classifier gives, after hard swish.

use super::builder::{Bias, Builder, ConvShape};
use super::layers::Activation::{self, Hardsigmoid, Hardswish, Relu};
use super::layers::{BatchNorm, Excite, Layer, Residual};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// Kernel, expanded channels, outputs, whether channels are weighed (squeeze-and-excitation), activation, stride: tables 1
/// and 2 of the paper.
type Block = (i64, i64, i64, Excited, Activation, i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excited {
    Yes,
    No,
}
use Excited::{No, Yes};

pub(super) const LARGE: [Block; 15] = [
    (3, 16, 16, No, Relu, 1),
    (3, 64, 24, No, Relu, 2),
    (3, 72, 24, No, Relu, 1),
    (5, 72, 40, Yes, Relu, 2),
    (5, 120, 40, Yes, Relu, 1),
    (5, 120, 40, Yes, Relu, 1),
    (3, 240, 80, No, Hardswish, 2),
    (3, 200, 80, No, Hardswish, 1),
    (3, 184, 80, No, Hardswish, 1),
    (3, 184, 80, No, Hardswish, 1),
    (3, 480, 112, Yes, Hardswish, 1),
    (3, 672, 112, Yes, Hardswish, 1),
    (5, 672, 160, Yes, Hardswish, 2),
    (5, 960, 160, Yes, Hardswish, 1),
    (5, 960, 160, Yes, Hardswish, 1),
];

pub(super) const SMALL: [Block; 11] = [
    (3, 16, 16, Yes, Relu, 2),
    (3, 72, 24, No, Relu, 2),
    (3, 88, 24, No, Relu, 1),
    (5, 96, 40, Yes, Hardswish, 2),
    (5, 240, 40, Yes, Hardswish, 1),
    (5, 240, 40, Yes, Hardswish, 1),
    (5, 120, 48, Yes, Hardswish, 1),
    (5, 144, 48, Yes, Hardswish, 1),
    (5, 288, 96, Yes, Hardswish, 2),
    (5, 576, 96, Yes, Hardswish, 1),
    (5, 576, 96, Yes, Hardswish, 1),
];

pub(super) fn describe(b: &mut Builder, blocks: &[Block], width: i64) -> Result<Description, TchError> {
    b.batch_norm = BatchNorm { momentum: 0.01, epsilon: 1e-3 };
    let first = ConvShape { stride: 2, ..ConvShape::new(3, 16, 3) };
    let mut stages = vec![Stage::new(conv_norm(b, "features.0", first, Some(Hardswish))?)];
    let mut inputs = 16;
    for (i, block) in blocks.iter().enumerate() {
        let main = inverted_residual(b, &format!("features.{}.block", i + 1), inputs, *block)?;
        let &(.., outputs, _, _, stride) = block;
        stages.push(Stage::new(if stride == 1 && inputs == outputs { vec![Layer::Residual(Residual { main, shortcut: Vec::new() })] } else { main }));
        inputs = outputs;
    }
    let last = ConvShape::new(inputs, 6 * inputs, 1);
    stages.push(Stage::new(conv_norm(b, &format!("features.{}", blocks.len() + 1), last, Some(Hardswish))?));
    stages.push(Stage::new(vec![Layer::AveragePool { side: 1 }, Layer::Flatten]));
    stages.push(Stage::new(vec![b.linear("classifier.0", 6 * inputs, width)?, Layer::Activation(Hardswish)]));
    Ok(Description { stages, pool: Vec::new(), head_name: "classifier.3", head_shape: HeadShape::Linear, dropout: 0.2, width })
}

fn conv_norm(b: &mut Builder, name: &str, shape: ConvShape, activation: Option<Activation>) -> Result<Vec<Layer>, TchError> {
    let mut layers = vec![Layer::Conv(b.conv(&format!("{name}.0"), shape)?), b.norm(&format!("{name}.1"), shape.outputs)?];
    layers.extend(activation.map(Layer::Activation));
    Ok(layers)
}

fn inverted_residual(b: &mut Builder, name: &str, inputs: i64, block: Block) -> Result<Vec<Layer>, TchError> {
    let (kernel, expanded, outputs, excited, activation, stride) = block;
    let (mut layers, mut index) = (Vec::new(), 0);
    if expanded != inputs {
        layers.extend(conv_norm(b, &format!("{name}.0"), ConvShape::new(inputs, expanded, 1), Some(activation))?);
        index += 1;
    }
    let depthwise = ConvShape { stride, groups: expanded, ..ConvShape::new(expanded, expanded, kernel) };
    layers.extend(conv_norm(b, &format!("{name}.{index}"), depthwise, Some(activation))?);
    index += 1;
    if excited == Yes {
        let squeezed = rounded(expanded as f64 / 4.0);
        layers.push(excite(b, &format!("{name}.{index}"), expanded, squeezed, (Relu, Hardsigmoid))?);
        index += 1;
    }
    layers.extend(conv_norm(b, &format!("{name}.{index}"), ConvShape::new(expanded, outputs, 1), None)?);
    Ok(layers)
}

/// Squeeze-and-excitation with an activation between its two layers and a gate behind them.
pub(super) fn excite(
    b: &mut Builder,
    name: &str,
    channels: i64,
    squeezed: i64,
    (activation, gate): (Activation, Activation),
) -> Result<Layer, TchError> {
    let mut conv = |part: &str, inputs: i64, outputs: i64| {
        b.conv(&format!("{name}.{part}"), ConvShape { bias: Bias::Yes, ..ConvShape::new(inputs, outputs, 1) })
    };
    Ok(Layer::Excite(Excite { reduce: conv("fc1", channels, squeezed)?, activation, expand: conv("fc2", squeezed, channels)?, gate }))
}

/// A number of channels as a multiple of 8, never more than a tenth below.
pub(super) fn rounded(channels: f64) -> i64 {
    let near = ((channels + 4.0) as i64 / 8 * 8).max(8);
    if (near as f64) < 0.9 * channels { near + 8 } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_rounded_as_torchvision_rounds() {
        assert_eq!([16.0 * 1.4, 24.0 * 1.4, 32.0 * 1.1, 4.0, 18.0].map(rounded), [24, 32, 32, 8, 24]);
    }
}
