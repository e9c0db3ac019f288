//! SqueezeNet 1.0 and 1.1, Iandola et al. 2016, arXiv:1602.07360, as torchvision has them. Their published classifier works
//! at each position of the last map and averages afterwards; see [`super::HeadForm`].

use super::builder::{Bias, Builder, ConvShape, Init};
use super::layers::Activation::Relu;
use super::layers::{Fire, Layer, Rounding};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// Index, inputs, squeezed width and half the outputs of the fire modules; pools stand where an index is left out.
type Fires = [(usize, i64, i64, i64); 8];

const FIRES_1_0: Fires = [
    (3, 96, 16, 64),
    (4, 128, 16, 64),
    (5, 128, 32, 128),
    (7, 256, 32, 128),
    (8, 256, 48, 192),
    (9, 384, 48, 192),
    (10, 384, 64, 256),
    (12, 512, 64, 256),
];

const FIRES_1_1: Fires = [
    (3, 64, 16, 64),
    (4, 128, 16, 64),
    (6, 128, 32, 128),
    (7, 256, 32, 128),
    (9, 256, 48, 192),
    (10, 384, 48, 192),
    (11, 384, 64, 256),
    (12, 512, 64, 256),
];

pub(super) fn describe_1_0(b: &mut Builder) -> Result<Description, TchError> {
    describe(b, ConvShape::new(3, 96, 7), FIRES_1_0)
}

pub(super) fn describe_1_1(b: &mut Builder) -> Result<Description, TchError> {
    describe(b, ConvShape::new(3, 64, 3), FIRES_1_1)
}

fn describe(b: &mut Builder, first: ConvShape, fires: Fires) -> Result<Description, TchError> {
    b.init = Init::FanIn;
    let pool = || Stage::new(vec![Layer::MaxPool { kernel: 3, stride: 2, padding: 0, rounding: Rounding::Ceil }]);
    let first = ConvShape { stride: 2, padding: 0, bias: Bias::Yes, ..first };
    let mut stages = vec![Stage::new(vec![Layer::Conv(b.conv("features.0", first)?), Layer::Activation(Relu)]), pool()];
    let mut last = 1;
    for (index, inputs, squeezed, half) in fires {
        if index > last + 1 && last > 1 {
            stages.push(pool());
        }
        let name = format!("features.{index}");
        let mut conv = |part: &str, inputs: i64, outputs: i64, kernel: i64| {
            let shape = ConvShape { bias: Bias::Yes, ..ConvShape::new(inputs, outputs, kernel) };
            b.conv(&format!("{name}.{part}"), shape)
        };
        let fire = Fire {
            squeeze: conv("squeeze", inputs, squeezed, 1)?,
            expand1: conv("expand1x1", squeezed, half, 1)?,
            expand3: conv("expand3x3", squeezed, half, 3)?,
        };
        stages.push(Stage::new(vec![Layer::Fire(fire)]));
        last = index;
    }
    let pool = vec![Layer::AveragePool { side: 1 }, Layer::Flatten];
    let (head_name, head_shape) = ("classifier.1", HeadShape::Conv);
    Ok(Description { stages, pool, head_name, head_shape, dropout: 0.5, width: 512 })
}
