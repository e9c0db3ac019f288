//! EfficientNet-B0 to -B4, Tan and Le 2019, arXiv:1905.11946, as torchvision has them.

use super::builder::{Builder, ConvShape};
use super::layers::Activation::{Sigmoid, Silu};
use super::layers::{Layer, Residual};
use super::mobilenet_v3::{excite, rounded};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// Expansion, kernel, stride, outputs and number of blocks: table 1 of the paper.
const STAGES: [(i64, i64, i64, i64, usize); 7] =
    [(1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)];

/// How often the last block's branch is left out in training; earlier ones proportionally less often.
const STOCHASTIC_DEPTH: f64 = 0.2;

/// `wider` and `deeper` multiply the numbers of channels and of blocks.
pub(super) fn describe(b: &mut Builder, wider: f64, deeper: f64, dropout: f64) -> Result<Description, TchError> {
    let channels = |base: i64| rounded(base as f64 * wider);
    let depths = STAGES.map(|(.., blocks)| (blocks as f64 * deeper).ceil() as usize);
    let total: usize = depths.iter().sum();
    let first = ConvShape { stride: 2, ..ConvShape::new(3, channels(32), 3) };
    let mut stages = vec![Stage::new(conv_norm_silu(b, "features.0", first)?)];
    let (mut inputs, mut block) = (channels(32), 0);
    for (i, (expansion, kernel, first_stride, outputs, _)) in STAGES.into_iter().enumerate() {
        let outputs = channels(outputs);
        for j in 0..depths[i] {
            let stride = if j == 0 { first_stride } else { 1 };
            let name = format!("features.{}.{j}.block", i + 1);
            let depthwise = ConvShape { stride, groups: inputs * expansion, ..ConvShape::new(inputs * expansion, inputs * expansion, kernel) };
            let mut main = inverted_residual(b, &name, inputs, depthwise, outputs)?;
            if stride == 1 && inputs == outputs {
                main.push(Layer::StochasticDepth(STOCHASTIC_DEPTH * block as f64 / total as f64));
                main = vec![Layer::Residual(Residual { main, shortcut: Vec::new() })];
            }
            stages.push(Stage::new(main));
            (inputs, block) = (outputs, block + 1);
        }
    }
    let width = 4 * inputs;
    stages.push(Stage::new(conv_norm_silu(b, "features.8", ConvShape::new(inputs, width, 1))?));
    let pool = vec![Layer::AveragePool { side: 1 }, Layer::Flatten];
    Ok(Description { stages, pool, head_name: "classifier.1", head_shape: HeadShape::Linear, dropout, width })
}

fn conv_norm_silu(b: &mut Builder, name: &str, shape: ConvShape) -> Result<Vec<Layer>, TchError> {
    Ok(vec![Layer::Conv(b.conv(&format!("{name}.0"), shape)?), b.norm(&format!("{name}.1"), shape.outputs)?, Layer::Activation(Silu)])
}

/// MobileNetV2's block with channels weighed by a quarter of the block's inputs.
fn inverted_residual(b: &mut Builder, name: &str, inputs: i64, depthwise: ConvShape, outputs: i64) -> Result<Vec<Layer>, TchError> {
    let expanded = depthwise.inputs;
    let (mut layers, mut index) = (Vec::new(), 0);
    if expanded != inputs {
        layers.extend(conv_norm_silu(b, &format!("{name}.0"), ConvShape::new(inputs, expanded, 1))?);
        index += 1;
    }
    layers.extend(conv_norm_silu(b, &format!("{name}.{index}"), depthwise)?);
    layers.push(excite(b, &format!("{name}.{}", index + 1), expanded, (inputs / 4).max(1), (Silu, Sigmoid))?);
    let project = format!("{name}.{}", index + 2);
    layers.push(Layer::Conv(b.conv(&format!("{project}.0"), ConvShape::new(expanded, outputs, 1))?));
    layers.push(b.norm(&format!("{project}.1"), outputs)?);
    Ok(layers)
}
