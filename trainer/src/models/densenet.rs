//! DenseNet-121 and -169, Huang et al. 2016, arXiv:1608.06993, as torchvision has them: each layer reads all maps before it in
//! its block, and adds 32 channels.

use super::builder::{Builder, ConvShape, Init};
use super::layers::Activation::Relu;
use super::layers::{Layer, Rounding};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// Channels that a layer adds.
const GROWTH: i64 = 32;

/// `depths` is the number of layers in each of the four blocks.
pub(super) fn describe(b: &mut Builder, depths: [usize; 4]) -> Result<Description, TchError> {
    b.init = Init::FanIn;
    let first = b.conv("features.conv0", ConvShape { stride: 2, ..ConvShape::new(3, 64, 7) })?;
    let mut stages = vec![Stage::new(vec![Layer::Conv(first)])];
    let pool = Layer::MaxPool { kernel: 3, stride: 2, padding: 1, rounding: Rounding::Floor };
    stages.push(Stage::new(vec![b.norm("features.norm0", 64)?, Layer::Activation(Relu), pool]));
    let mut channels = 64;
    for (i, depth) in depths.into_iter().enumerate() {
        for j in 0..depth {
            let name = format!("features.denseblock{}.denselayer{}", i + 1, j + 1);
            stages.push(Stage::new(vec![Layer::Concat(dense(b, &name, channels)?)]));
            channels += GROWTH;
        }
        if i < 3 {
            let name = format!("features.transition{}", i + 1);
            stages.push(Stage::new(transition(b, &name, channels)?));
            channels /= 2;
        }
    }
    stages.push(Stage::new(vec![b.norm("features.norm5", channels)?, Layer::Activation(Relu)]));
    let pool = vec![Layer::AveragePool { side: 1 }, Layer::Flatten];
    Ok(Description { stages, pool, head_name: "classifier", head_shape: HeadShape::Linear, dropout: 0.0, width: channels })
}

fn dense(b: &mut Builder, name: &str, inputs: i64) -> Result<Vec<Layer>, TchError> {
    Ok(vec![
        b.norm(&format!("{name}.norm1"), inputs)?,
        Layer::Activation(Relu),
        Layer::Conv(b.conv(&format!("{name}.conv1"), ConvShape::new(inputs, 4 * GROWTH, 1))?),
        b.norm(&format!("{name}.norm2"), 4 * GROWTH)?,
        Layer::Activation(Relu),
        Layer::Conv(b.conv(&format!("{name}.conv2"), ConvShape::new(4 * GROWTH, GROWTH, 3))?),
    ])
}

/// Half the channels and half the side.
fn transition(b: &mut Builder, name: &str, inputs: i64) -> Result<Vec<Layer>, TchError> {
    Ok(vec![
        b.norm(&format!("{name}.norm"), inputs)?,
        Layer::Activation(Relu),
        Layer::Conv(b.conv(&format!("{name}.conv"), ConvShape::new(inputs, inputs / 2, 1))?),
        Layer::AverageHalves,
    ])
}
