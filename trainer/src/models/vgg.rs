//! VGG-11 to -19, Simonyan and Zisserman 2014, arXiv:1409.1556, with and without batch normalisation, as torchvision
//! has them. Its features are what the second of the three linear layers gives, after ReLU.

use super::builder::{Bias, Builder, ConvShape};
use super::layers::Activation::Relu;
use super::layers::{Layer, Rounding};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// Whether batch normalisation follows each convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norms {
    With,
    Without,
}

/// `depths` is the number of convolutions before each of the five pools.
pub(super) fn describe(b: &mut Builder, depths: [usize; 5], norms: Norms) -> Result<Description, TchError> {
    let mut stages = Vec::new();
    let (mut inputs, mut index) = (3, 0);
    for (depth, outputs) in depths.into_iter().zip([64, 128, 256, 512, 512]) {
        for _ in 0..depth {
            let shape = ConvShape { bias: Bias::Yes, ..ConvShape::new(inputs, outputs, 3) };
            stages.push(Stage::new(vec![Layer::Conv(b.conv(&format!("features.{index}"), shape)?)]));
            index += 1;
            if norms == Norms::With {
                stages.push(Stage::new(vec![b.norm(&format!("features.{index}"), outputs)?]));
                index += 1;
            }
            stages.push(Stage::new(vec![Layer::Activation(Relu)]));
            index += 1;
            inputs = outputs;
        }
        let pool = Layer::MaxPool { kernel: 2, stride: 2, padding: 0, rounding: Rounding::Floor };
        stages.push(Stage::new(vec![pool]));
        index += 1;
    }
    stages.push(Stage::new(vec![Layer::AveragePool { side: 7 }, Layer::Flatten]));
    stages.push(Stage::new(vec![b.linear("classifier.0", 512 * 7 * 7, 4096)?, Layer::Activation(Relu), Layer::Dropout(0.5)]));
    stages.push(Stage::new(vec![b.linear("classifier.3", 4096, 4096)?, Layer::Activation(Relu)]));
    let head_shape = HeadShape::Linear;
    Ok(Description { stages, pool: Vec::new(), head_name: "classifier.6", head_shape, dropout: 0.5, width: 4096 })
}
