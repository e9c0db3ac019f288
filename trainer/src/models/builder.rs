//! Makes tensors under their state-dict names, in torchvision's order, with initial values that are a function of seed
//! and place alone: the same on every device and beside any other thread, and torch's generator is not touched.

use super::layers::{Attention, BatchNorm, Channels, Conv, Layer, LayerNorm, Norm, Together};
use super::{Kind, NamedTensor};
use graft_crds::architectures::Padding;
use graft_torch::tch::{self, Device, TchError, Tensor};
use graft_trainer_core::rng::{Purpose, Stream};

/// How an architecture's weights begin, drawn uniformly (torchvision draws some from the normal distribution of the same
/// variance). For convolutions He et al. 2015, arXiv:1502.01852: variance 2 / fan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Init {
    /// The fan is outputs × kernel area.
    FanOut,
    /// The fan is inputs of a group × kernel area.
    FanIn,
    /// Convolutions and linear layers alike with this standard deviation.
    Deviation(f64),
}

/// What the tensors hold at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    /// Fresh weights of this seed.
    Seed(u64),
    /// One zero for each tensor, whatever its shape: enough to count and to measure with, and free.
    Outline,
}

/// Whether a layer has an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    Yes,
    No,
}

/// A convolution's numbers; the kernel is square.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvShape {
    pub(super) inputs: i64,
    pub(super) outputs: i64,
    pub(super) kernel: i64,
    pub(super) stride: i64,
    pub(super) padding: i64,
    pub(super) groups: i64,
    pub(super) bias: Bias,
}

impl ConvShape {
    /// Stride 1, one group, no bias, and the padding that keeps the size.
    pub(super) fn new(inputs: i64, outputs: i64, kernel: i64) -> Self {
        Self { inputs, outputs, kernel, stride: 1, padding: (kernel - 1) / 2, groups: 1, bias: Bias::No }
    }
}

pub(super) struct Builder {
    pub(super) tensors: Vec<NamedTensor>,
    /// A family's page sets the two rules before its first layer where they differ from torch's.
    pub(super) init: Init,
    pub(super) batch_norm: BatchNorm,
    pub(super) together: Together,
    device: Device,
    padding: Padding,
    values: Values,
}

impl Builder {
    pub(super) fn new(device: Device, padding: Padding, values: Values) -> Self {
        Self { tensors: Vec::new(), init: Init::FanOut, batch_norm: BatchNorm::TORCH, together: Together::default(), device, padding, values }
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    pub(super) fn conv(&mut self, name: &str, shape: ConvShape) -> Result<Conv, TchError> {
        let ConvShape { inputs, outputs, kernel, stride, padding, groups, bias } = shape;
        let fan = |fan: i64| (2.0 / fan as f64).sqrt();
        let deviation = match self.init {
            Init::FanOut => fan(outputs * kernel * kernel),
            Init::FanIn => fan(inputs / groups * kernel * kernel),
            Init::Deviation(deviation) => deviation,
        };
        let weight = self.drawn(&format!("{name}.weight"), &[outputs, inputs / groups, kernel, kernel], deviation)?;
        let bias = match bias {
            Bias::Yes => Some(self.constant(&format!("{name}.bias"), &[outputs], 0.0)?),
            Bias::No => None,
        };
        Ok(Conv { weight, bias, kernel, stride, padding, rule: self.padding, groups })
    }

    /// Batch normalisation by the family's rule.
    pub(super) fn norm(&mut self, name: &str, channels: i64) -> Result<Layer, TchError> {
        let ones = || Tensor::f_ones([channels], (tch::Kind::Float, Device::Cpu));
        Ok(Layer::Norm(Norm {
            weight: self.constant(&format!("{name}.weight"), &[channels], 1.0)?,
            bias: self.constant(&format!("{name}.bias"), &[channels], 0.0)?,
            mean: self.buffer(format!("{name}.running_mean"), &cpu(&[channels])?)?,
            variance: self.buffer(format!("{name}.running_var"), &ones()?)?,
            batches: self.buffer(format!("{name}.num_batches_tracked"), &Tensor::f_zeros([] as [i64; 0], (tch::Kind::Int64, Device::Cpu))?)?,
            rule: self.batch_norm,
            together: self.together.clone(),
        }))
    }

    pub(super) fn layer_norm(&mut self, name: &str, width: i64, channels: Channels) -> Result<Layer, TchError> {
        let weight = self.constant(&format!("{name}.weight"), &[width], 1.0)?;
        let bias = self.constant(&format!("{name}.bias"), &[width], 0.0)?;
        Ok(Layer::LayerNorm(LayerNorm { weight, bias, channels }))
    }

    /// A linear layer of a backbone without offset at first; where convolutions begin by their fan, with the standard
    /// deviation that torchvision begins VGG's with.
    pub(super) fn linear(&mut self, name: &str, inputs: i64, outputs: i64) -> Result<Layer, TchError> {
        let (weight, bias) = self.projection((&format!("{name}.weight"), &format!("{name}.bias")), inputs, outputs)?;
        Ok(Layer::Linear { weight, bias })
    }

    /// Self-attention; `input` and `output` are the names of a weight and an offset each.
    pub(super) fn attention(&mut self, input: (&str, &str), output: (&str, &str), width: i64, heads: i64) -> Result<Layer, TchError> {
        let input = self.projection(input, width, 3 * width)?;
        let output = self.projection(output, width, width)?;
        Ok(Layer::Attention(Attention { input, output, heads }))
    }

    fn projection(&mut self, (weight, bias): (&str, &str), inputs: i64, outputs: i64) -> Result<(Tensor, Tensor), TchError> {
        let deviation = match self.init {
            Init::FanOut | Init::FanIn => 0.01,
            Init::Deviation(deviation) => deviation,
        };
        Ok((self.drawn(weight, &[outputs, inputs], deviation)?, self.constant(bias, &[outputs], 0.0)?))
    }

    /// The weight and the offset of a head, begun as torch.nn.Linear begins: uniform within 1 / sqrt(inputs), which is
    /// what its Kaiming rule with a = sqrt(5) comes to. `shape` is `[classes, inputs]` or `[classes, inputs, 1, 1]`.
    pub(super) fn head(&mut self, name: &str, shape: &[i64]) -> Result<(Tensor, Tensor), TchError> {
        let (weight, bias) = match self.values {
            Values::Seed(seed) => head_values(shape, seed)?,
            Values::Outline => (outline(shape)?, outline(&shape[..1])?),
        };
        Ok((self.parameter(format!("{name}.weight"), &weight)?, self.parameter(format!("{name}.bias"), &bias)?))
    }

    /// A parameter that is drawn. The first two sequences of a seed are the head's, the others go by place in the list.
    pub(super) fn drawn(&mut self, name: &str, shape: &[i64], deviation: f64) -> Result<Tensor, TchError> {
        let value = match self.values {
            Values::Seed(seed) => {
                let sequence = u32::try_from(self.tensors.len() + 2).map_err(|e| TchError::Shape(e.to_string()))?;
                uniform(shape, deviation * 3f64.sqrt(), Stream::new(seed, Purpose::Initialisation, sequence))?
            }
            Values::Outline => outline(shape)?,
        };
        self.parameter(name.to_owned(), &value)
    }

    /// A parameter that begins with the same number everywhere.
    pub(super) fn constant(&mut self, name: &str, shape: &[i64], value: f64) -> Result<Tensor, TchError> {
        let value = Tensor::f_full(shape, value, (tch::Kind::Float, Device::Cpu))?;
        self.parameter(name.to_owned(), &value)
    }

    fn parameter(&mut self, name: String, value: &Tensor) -> Result<Tensor, TchError> {
        let tensor = value.f_to_device(self.device)?.f_set_requires_grad(true)?;
        self.add(name, Kind::Parameter, tensor)
    }

    fn buffer(&mut self, name: String, value: &Tensor) -> Result<Tensor, TchError> {
        self.add(name, Kind::Buffer, value.f_to_device(self.device)?)
    }

    fn add(&mut self, name: String, kind: Kind, tensor: Tensor) -> Result<Tensor, TchError> {
        let group = group_of(&name);
        self.tensors.push(NamedTensor { name, tensor: tensor.shallow_clone(), kind, group });
        Ok(tensor)
    }
}

/// Fresh values of a head, on the CPU.
pub(super) fn head_values(shape: &[i64], seed: u64) -> Result<(Tensor, Tensor), TchError> {
    let [classes, inputs, ..] = shape else {
        return Err(TchError::Shape(format!("a head's weight has at least two dimensions, not {shape:?}")));
    };
    let bound = 1.0 / (*inputs as f64).sqrt();
    let draw = |shape: &[i64], sequence| uniform(shape, bound, Stream::new(seed, Purpose::Initialisation, sequence));
    Ok((draw(shape, 0)?, draw(&[*classes], 1)?))
}

/// Uniform numbers within ±`bound`, two of 24 bits from each 64 that are drawn.
fn uniform(shape: &[i64], bound: f64, mut stream: Stream) -> Result<Tensor, TchError> {
    let count = usize::try_from(shape.iter().product::<i64>()).map_err(|e| TchError::Shape(e.to_string()))?;
    let number = |bits: u64| ((bits as f64 / f64::from(1 << 23) - 1.0) * bound) as f32;
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let bits = stream.next_u64();
        values.extend([number(bits >> 40), number(bits >> 8 & 0xff_ffff)]);
    }
    values.truncate(count);
    Tensor::f_from_slice(&values)?.f_view(shape)
}

fn outline(shape: &[i64]) -> Result<Tensor, TchError> {
    cpu(&[])?.f_expand(shape, false)
}

fn cpu(shape: &[i64]) -> Result<Tensor, TchError> {
    Tensor::f_zeros(shape, (tch::Kind::Float, Device::Cpu))
}

/// The layer group of a tensor: `features.3`, `blocks.11` or `encoder.layers.encoder_layer_11` where layers are numbered, else
/// the first part of the name.
fn group_of(name: &str) -> String {
    let parts = match name.split('.').next() {
        Some("features" | "classifier" | "blocks") => 2,
        Some("encoder") if name.starts_with("encoder.layers.") => 3,
        Some("encoder") => 2,
        _ => 1,
    };
    name.split('.').take(parts).collect::<Vec<_>>().join(".")
}
