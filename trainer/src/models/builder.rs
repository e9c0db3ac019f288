//! Makes tensors under their state-dict names, in torchvision's order, with initial values that are a function of seed
//! and place alone: the same on every device and beside any other thread, and torch's generator is not touched.

use super::layers::{Conv, Layer, Norm};
use super::{Kind, NamedTensor};
use graft_crds::architectures::Padding;
use graft_torch::tch::{self, Device, TchError, Tensor};
use graft_trainer_core::rng::{Purpose, Stream};

/// How an architecture's convolutions begin: He et al. 2015, arXiv:1502.01852, with variance 2 / fan, drawn uniformly
/// (torchvision draws some from the normal distribution of the same variance).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConvInit {
    /// Outputs × kernel area.
    FanOut,
    /// Inputs of a group × kernel area.
    FanIn,
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
    device: Device,
    padding: Padding,
    init: ConvInit,
    seed: u64,
}

impl Builder {
    pub(super) fn new(device: Device, padding: Padding, init: ConvInit, seed: u64) -> Self {
        Self { tensors: Vec::new(), device, padding, init, seed }
    }

    pub(super) fn conv(&mut self, name: &str, shape: ConvShape) -> Result<Conv, TchError> {
        let ConvShape { inputs, outputs, kernel, stride, padding, groups, bias } = shape;
        let fan = match self.init {
            ConvInit::FanOut => outputs * kernel * kernel,
            ConvInit::FanIn => inputs / groups * kernel * kernel,
        };
        let weight = self.fresh(&[outputs, inputs / groups, kernel, kernel], (6.0 / fan as f64).sqrt())?;
        let weight = self.parameter(format!("{name}.weight"), &weight)?;
        let bias = match bias {
            Bias::Yes => Some(self.parameter(format!("{name}.bias"), &cpu(&[outputs])?)?),
            Bias::No => None,
        };
        Ok(Conv { weight, bias, kernel, stride, padding, rule: self.padding, groups })
    }

    pub(super) fn norm(&mut self, name: &str, channels: i64) -> Result<Layer, TchError> {
        let ones = || Tensor::f_ones([channels], (tch::Kind::Float, Device::Cpu));
        Ok(Layer::Norm(Norm {
            weight: self.parameter(format!("{name}.weight"), &ones()?)?,
            bias: self.parameter(format!("{name}.bias"), &cpu(&[channels])?)?,
            mean: self.buffer(format!("{name}.running_mean"), &cpu(&[channels])?)?,
            variance: self.buffer(format!("{name}.running_var"), &ones()?)?,
            batches: self.buffer(format!("{name}.num_batches_tracked"), &Tensor::f_zeros([] as [i64; 0], (tch::Kind::Int64, Device::Cpu))?)?,
        }))
    }

    /// A linear layer of a backbone, begun with the standard deviation that torchvision begins VGG's with, 0.01, and no
    /// offset.
    pub(super) fn linear(&mut self, name: &str, inputs: i64, outputs: i64) -> Result<Layer, TchError> {
        let weight = self.fresh(&[outputs, inputs], 0.01 * 3f64.sqrt())?;
        Ok(Layer::Linear {
            weight: self.parameter(format!("{name}.weight"), &weight)?,
            bias: self.parameter(format!("{name}.bias"), &cpu(&[outputs])?)?,
        })
    }

    /// The weight and the offset of a head, begun as torch.nn.Linear begins: uniform within 1 / sqrt(inputs), which is
    /// what its Kaiming rule with a = sqrt(5) comes to. `shape` is `[classes, inputs]` or `[classes, inputs, 1, 1]`.
    pub(super) fn head(&mut self, name: &str, shape: &[i64]) -> Result<(Tensor, Tensor), TchError> {
        let (weight, bias) = head_values(shape, self.seed)?;
        Ok((self.parameter(format!("{name}.weight"), &weight)?, self.parameter(format!("{name}.bias"), &bias)?))
    }

    /// Values of the next tensor in the list. The first two sequences of a seed are the head's.
    fn fresh(&self, shape: &[i64], bound: f64) -> Result<Tensor, TchError> {
        let sequence = u32::try_from(self.tensors.len() + 2).map_err(|e| TchError::Shape(e.to_string()))?;
        uniform(shape, bound, Stream::new(self.seed, Purpose::Initialisation, sequence))
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

fn cpu(shape: &[i64]) -> Result<Tensor, TchError> {
    Tensor::f_zeros(shape, (tch::Kind::Float, Device::Cpu))
}

/// The layer group of a tensor: `features.3` and `classifier.6` where layers are numbered, else the first part of the
/// name.
fn group_of(name: &str) -> String {
    let parts = if name.starts_with("features.") || name.starts_with("classifier.") { 2 } else { 1 };
    name.split('.').take(parts).collect::<Vec<_>>().join(".")
}
