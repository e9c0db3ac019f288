//! ConvNeXt, Liu et al. 2022, arXiv:2201.03545, as torchvision has it.

use super::builder::{Bias, Builder, ConvShape, Init};
use super::layers::Activation::Gelu;
use super::layers::Channels::{Last, Second};
use super::layers::{Layer, Residual};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// `width` is that of the first of four stages, each of which doubles it; `drop` is how often the last block's branch is
/// left out in training, earlier ones proportionally less often.
pub(super) fn describe(b: &mut Builder, width: i64, depths: [usize; 4], drop: f64) -> Result<Description, TchError> {
    b.init = Init::Deviation(0.02);
    let last = depths.iter().sum::<usize>() - 1;
    let (mut stages, mut block) = (Vec::new(), 0);
    for (i, depth) in depths.into_iter().enumerate() {
        let width = width << i;
        stages.push(Stage::new(match i {
            0 => vec![Layer::Conv(b.conv("features.0.0", patches(3, width, 4))?), b.layer_norm("features.0.1", width, Second)?],
            _ => vec![
                b.layer_norm(&format!("features.{}.0", 2 * i), width / 2, Second)?,
                Layer::Conv(b.conv(&format!("features.{}.1", 2 * i), patches(width / 2, width, 2))?),
            ],
        }));
        for j in 0..depth {
            let mut main = branch(b, &format!("features.{}.{j}", 2 * i + 1), width)?;
            main.push(Layer::StochasticDepth(drop * block as f64 / last as f64));
            stages.push(Stage::new(vec![Layer::Residual(Residual { main, shortcut: Vec::new() })]));
            block += 1;
        }
    }
    let width = 8 * width;
    let pool = vec![Layer::AveragePool { side: 1 }, b.layer_norm("classifier.0", width, Second)?, Layer::Flatten];
    Ok(Description { stages, pool, head_name: "classifier.2", head_shape: HeadShape::Linear, dropout: 0.0, width })
}

/// A convolution whose windows touch and do not overlap.
fn patches(inputs: i64, outputs: i64, side: i64) -> ConvShape {
    ConvShape { stride: side, padding: 0, bias: Bias::Yes, ..ConvShape::new(inputs, outputs, side) }
}

fn branch(b: &mut Builder, name: &str, width: i64) -> Result<Vec<Layer>, TchError> {
    // The factor comes first in the list of names and last in the branch.
    let factor = b.constant(&format!("{name}.layer_scale"), &[width, 1, 1], 1e-6)?;
    let depthwise = ConvShape { groups: width, bias: Bias::Yes, ..ConvShape::new(width, width, 7) };
    Ok(vec![
        Layer::Conv(b.conv(&format!("{name}.block.0"), depthwise)?),
        Layer::Permute([0, 2, 3, 1]),
        b.layer_norm(&format!("{name}.block.2"), width, Last)?,
        b.linear(&format!("{name}.block.3"), width, 4 * width)?,
        Layer::Activation(Gelu),
        b.linear(&format!("{name}.block.5"), 4 * width, width)?,
        Layer::Permute([0, 3, 1, 2]),
        Layer::Scale(factor),
    ])
}
