//! What a run trains with: the checked data, its decoder, the model and what they came from.

use graft_crds::Architecture;
use graft_crds::architectures::{Family, Padding};
use graft_crds::contract::ExitReason;
use graft_crds::spec::{Backbone, TaskType};
use graft_data::doctor::Report;
use graft_data::{Dataset, Geometry, Loader, Split};
use graft_torch::memory;
use graft_torch::tch::{Device, Kind, Tensor, no_grad};
use graft_torch::transfer::{self, on_device};
use serde::{Deserialize, Serialize};

use crate::event::Failure;
use crate::models::Model;

/// From bytes to the network's numbers: x ↦ (x / 255 − mean) / std per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Normaliser {
    /// Mean per channel, of values in [0, 1].
    pub mean: [f64; 3],
    /// Standard deviation per channel.
    pub std: [f64; 3],
}

impl Normaliser {
    /// What the spec says, the rest from the architecture.
    ///
    /// # Errors
    /// A standard deviation that is not above 0.
    pub(crate) fn resolve(backbone: &Backbone) -> Result<Self, Failure> {
        let (mut mean, mut std) = backbone.architecture.normalisation();
        let given = backbone.preprocessing.as_ref();
        for (target, values) in [(&mut mean, given.and_then(|p| p.mean.as_ref())), (&mut std, given.and_then(|p| p.std.as_ref()))] {
            for (slot, value) in target.iter_mut().zip(values.into_iter().flatten()) {
                *slot = value.value();
            }
        }
        if std.iter().any(|s| *s <= 0.0) {
            return Err(Failure::user("InvalidPreprocessing", "spec.backbone.preprocessing.std must be above 0 for each channel"));
        }
        Ok(Self { mean, std })
    }

    /// Images `[N, 3, S, S]` with values in [0, 1], normalised in place.
    pub(crate) fn normalise(&self, mut images: Tensor) -> Result<Tensor, Failure> {
        let channel = |values: [f64; 3]| Tensor::from_slice(&values).f_to_kind(Kind::Float)?.f_view([1, 3, 1, 1]);
        let (mean, std) = (on_device(channel(self.mean)?, images.device())?, on_device(channel(self.std)?, images.device())?);
        Ok(images.f_sub_(&mean)?.f_div_(&std)?)
    }

    /// Bytes `[N, 3, S, S]` as normalised floats on `device`.
    pub(crate) fn apply(&self, bytes: &[u8], side: u32, device: Device) -> Result<Tensor, Failure> {
        self.normalise(floats(&Tensor::from_slice(bytes).f_to_device(device)?, side)?)
    }
}

/// The bytes of images `[N, 3, S, S]` as floats in [0, 1].
fn floats(bytes: &Tensor, side: u32) -> Result<Tensor, Failure> {
    let side = i64::from(side);
    Ok(bytes.f_view([-1, 3, side, side])?.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?)
}

/// The padding of strided convolutions: the spec's, else the architecture's.
#[must_use]
pub fn padding(backbone: &Backbone) -> Padding {
    backbone.preprocessing.as_ref().and_then(|p| p.padding).unwrap_or_else(|| backbone.architecture.padding())
}

/// What a finished network's outputs `[N, C]` say, in double precision: a distribution over the classes, a probability of each on its
/// own, or numbers.
pub(crate) fn said(task: TaskType, outputs: &Tensor) -> Result<Tensor, Failure> {
    let outputs = outputs.f_to_kind(Kind::Double)?;
    Ok(match task {
        TaskType::Classification => outputs.f_softmax(1, Kind::Double)?,
        TaskType::MultiLabel => outputs.f_sigmoid()?,
        TaskType::Regression => outputs,
    })
}

/// The unit that a regression task is trained in: numbers are (number − mean) / deviation of the training set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Unit {
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

impl Unit {
    /// The numbers as they are.
    pub(crate) const PLAIN: Self = Self { mean: 0.0, deviation: 1.0 };

    /// That of the training set.
    pub(crate) fn of(dataset: &Dataset) -> Self {
        let numbers: Vec<f64> = dataset.split(Split::Train).iter().filter_map(|sample| sample.number).collect();
        if numbers.is_empty() {
            return Self::PLAIN;
        }
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let deviation = (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / numbers.len() as f64).sqrt();
        Self { mean, deviation: if deviation > 0.0 { deviation } else { 1.0 } }
    }
}

/// Whether an architecture computes faster with channels last in memory: 1.1 to 1.6 times on CPUs, but for those that work on channels
/// last themselves and would turn them twice.
pub(super) fn channels_last(architecture: Architecture) -> bool {
    !matches!(architecture.family(), Family::ConvNeXt | Family::Vit)
}

/// Everything that training, features and evaluation work on.
pub(crate) struct Recipe {
    pub(crate) model: Model,
    pub(crate) dataset: Dataset,
    pub(crate) loader: Loader,
    /// What the doctor found; on rank 0.
    pub(crate) report: Option<Report>,
    /// Its pairs as a PNG file, if it has any; on rank 0.
    pub(crate) sheet: Option<Vec<u8>>,
    pub(crate) geometry: Geometry,
    pub(crate) normaliser: Normaliser,
    pub(crate) padding: Padding,
    /// What the model's outputs of a regression task are in.
    pub(crate) unit: Unit,
    /// SHA-256 of the weights file.
    pub(crate) weights_digest: String,
    /// Digest of the labelled data.
    pub(crate) data_digest: String,
    pub(crate) seed: u64,
}

impl Recipe {
    /// Normalised images by their indices in the data set.
    pub(crate) fn images(&mut self, indices: &[usize], device: Device) -> Result<Tensor, Failure> {
        let pixels = self.pixels(indices, device)?;
        self.inputs(pixels)
    }

    /// What the network takes for images with values in [0, 1]: normalised, in the order of memory that its convolutions are fastest in.
    pub(crate) fn inputs(&self, pixels: Tensor) -> Result<Tensor, Failure> {
        let images = self.normaliser.normalise(pixels)?;
        Ok(if channels_last(self.model.architecture()) { memory::to_channels_last(&images)? } else { images })
    }

    /// The same images for training: not yet normalised, values in [0, 1].
    pub(crate) fn pixels(&mut self, indices: &[usize], device: Device) -> Result<Tensor, Failure> {
        let loader = &mut self.loader;
        let bytes = transfer::bytes(indices.len() * self.geometry.bytes(), device, |to| Ok::<(), Failure>(loader.batch_into(indices, to)?))?;
        floats(&bytes, self.geometry.size)
    }

    /// Class indices of samples, `[N]`; of a multi-label task 1, 0 and NaN for unknown, `[N, C]`; of a regression task numbers in its
    /// [`Unit`], `[N]`.
    pub(crate) fn labels(&self, indices: &[usize], device: Device) -> Result<Tensor, Failure> {
        let samples = indices.iter().map(|i| &self.dataset.samples[*i]);
        let labels = match self.dataset.task {
            TaskType::Classification => Tensor::from_slice(&samples.map(|sample| sample.label as i64).collect::<Vec<_>>()),
            TaskType::Regression => {
                let own = |number: f64| ((number - self.unit.mean) / self.unit.deviation) as f32;
                Tensor::from_slice(&samples.map(|sample| sample.number.map_or(f32::NAN, own)).collect::<Vec<_>>())
            }
            TaskType::MultiLabel => {
                let number = |finding: &Option<bool>| finding.map_or(f32::NAN, |shown| f32::from(u8::from(shown)));
                let all: Vec<f32> = samples.flat_map(|sample| sample.findings.iter().map(number)).collect();
                Tensor::from_slice(&all).f_view([indices.len() as i64, self.classes() as i64])?
            }
        };
        Ok(on_device(labels, device)?)
    }

    /// What the outputs `[N, C]` of the network in training say, in double precision; see [`said`].
    pub(crate) fn said(&self, outputs: &Tensor) -> Result<Tensor, Failure> {
        let said = said(self.dataset.task, outputs)?;
        Ok(if self.unit == Unit::PLAIN { said } else { said.f_mul_scalar(self.unit.deviation)?.f_add_scalar(self.unit.mean)? })
    }

    /// Training is over: from now on the head gives numbers as they are.
    pub(crate) fn leave_unit(&mut self) -> Result<(), Failure> {
        let Unit { mean, deviation } = std::mem::replace(&mut self.unit, Unit::PLAIN);
        let [weight, bias] = self.head()?;
        no_grad(|| {
            let _ = weight.shallow_clone().f_mul_scalar_(deviation)?;
            let _ = bias.shallow_clone().f_mul_scalar_(deviation)?.f_add_scalar_(mean)?;
            Ok(())
        })
    }

    /// Weight and bias of the model's head.
    pub(crate) fn head(&self) -> Result<[Tensor; 2], Failure> {
        let named: Vec<Tensor> = self.model.parameters().filter(|t| self.model.is_head(&t.name)).map(|t| t.tensor.shallow_clone()).collect();
        named.try_into().map_err(|_| Failure::new(ExitReason::Bug, "NoHead", "the model's head is not a weight and a bias"))
    }

    pub(crate) fn classes(&self) -> usize {
        self.dataset.classes.len()
    }
}
