//! Makes tensors under their state-dict names, in torchvision's order, with torchvision's initial values. Values are
//! drawn on the CPU from torch's global generator and then moved, so that a seed means the same on every device.

use super::layers::{Conv, Layer, Norm};
use super::{Kind, NamedTensor};
use graft_crds::architectures::Padding;
use graft_torch::tch::{self, Device, TchError, Tensor};

/// How an architecture's convolutions begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConvInit {
    /// He et al. 2015, arXiv:1502.01852: normal with variance 2 / fan-out.
    NormalFanOut,
    /// The same paper's, uniform with variance 2 / fan-in.
    UniformFanIn,
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
}

impl Builder {
    pub(super) fn new(device: Device, padding: Padding, init: ConvInit) -> Self {
        Self { tensors: Vec::new(), device, padding, init }
    }

    pub(super) fn conv(&mut self, name: &str, shape: ConvShape) -> Result<Conv, TchError> {
        let ConvShape { inputs, outputs, kernel, stride, padding, groups, bias } = shape;
        let mut weight = cpu(&[outputs, inputs / groups, kernel, kernel])?;
        let _ = match self.init {
            ConvInit::NormalFanOut => weight.f_normal_(0.0, (2.0 / (outputs * kernel * kernel) as f64).sqrt())?,
            ConvInit::UniformFanIn => {
                let bound = (6.0 / (inputs / groups * kernel * kernel) as f64).sqrt();
                weight.f_uniform_(-bound, bound)?
            }
        };
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

    /// A linear layer of a backbone, begun as torchvision begins VGG's: normal with standard deviation 0.01, no offset.
    pub(super) fn linear(&mut self, name: &str, inputs: i64, outputs: i64) -> Result<Layer, TchError> {
        let weight = cpu(&[outputs, inputs])?.f_normal_(0.0, 0.01)?;
        Ok(Layer::Linear {
            weight: self.parameter(format!("{name}.weight"), &weight)?,
            bias: self.parameter(format!("{name}.bias"), &cpu(&[outputs])?)?,
        })
    }

    /// The weight and the offset of a head, begun as torch.nn.Linear begins: uniform within 1 / sqrt(inputs), which is
    /// what its Kaiming rule with a = sqrt(5) comes to. `shape` is `[classes, inputs]` or `[classes, inputs, 1, 1]`.
    pub(super) fn head(&mut self, name: &str, shape: &[i64]) -> Result<(Tensor, Tensor), TchError> {
        let (weight, bias) = head_values(shape)?;
        Ok((self.parameter(format!("{name}.weight"), &weight)?, self.parameter(format!("{name}.bias"), &bias)?))
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
pub(super) fn head_values(shape: &[i64]) -> Result<(Tensor, Tensor), TchError> {
    let [classes, inputs, ..] = shape else {
        return Err(TchError::Shape(format!("a head's weight has at least two dimensions, not {shape:?}")));
    };
    let bound = 1.0 / (*inputs as f64).sqrt();
    Ok((cpu(shape)?.f_uniform_(-bound, bound)?, cpu(&[*classes])?.f_uniform_(-bound, bound)?))
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
