//! The loss of a batch: cross entropy or focal, with smoothed labels, class weights and blended labels. Summed over the ranks
//! it is the exact mean over the global batch, however the batch is cut.

use graft_crds::spec::{ClassWeights, Loss, LossName};
use graft_data::{Dataset, Split};
use graft_torch::tch::{Device, Kind, Tensor};

use crate::event::Failure;

/// Labels of a batch: a class each, or shares of two.
pub(super) struct Labels {
    /// Class indices `[N]`.
    pub(super) own: Tensor,
    /// The partner's class indices `[N]` and the share of the own ones.
    pub(super) partner: Option<(Tensor, f64)>,
}

/// A loss with the numbers of a training set.
pub(super) struct Criterion {
    classes: i64,
    smoothing: f64,
    /// Focal's exponent.
    gamma: Option<f64>,
    /// Weight of each class; empty when all are equal.
    weights: Vec<f64>,
    tensor: Option<Tensor>,
}

impl Criterion {
    pub(super) fn new(settings: &Loss, dataset: &Dataset, device: Device) -> Result<Self, Failure> {
        let classes = dataset.classes.len();
        let weights: Vec<f64> = match settings.class_weights {
            ClassWeights::Equal => Vec::new(),
            ClassWeights::Balanced => {
                let train = dataset.split(Split::Train);
                let count = |class: usize| train.iter().filter(|s| s.label == class).count().max(1);
                (0..classes).map(|class| train.len() as f64 / (classes * count(class)) as f64).collect()
            }
        };
        let tensor = match weights.as_slice() {
            [] => None,
            some => Some(Tensor::f_from_slice(some)?.f_to_kind(Kind::Float)?.f_to_device(device)?),
        };
        let gamma = (settings.name == LossName::Focal).then(|| settings.gamma.value());
        Ok(Self { classes: classes as i64, smoothing: settings.label_smoothing.value(), gamma, weights, tensor })
    }

    /// What the samples of these classes weigh together.
    pub(super) fn mass(&self, labels: impl Iterator<Item = usize>) -> f64 {
        labels.map(|label| self.weights.get(label).copied().unwrap_or(1.0)).sum()
    }

    /// The sum of the losses of `logits` `[N, C]`; divided by the global batch's mass it is this rank's part of the mean.
    pub(super) fn sum(&self, logits: &Tensor, labels: &Labels) -> Result<Tensor, Failure> {
        let log_p = logits.f_to_kind(Kind::Float)?.f_log_softmax(1, Kind::Float)?;
        let own = self.of(&log_p, &labels.own)?;
        match &labels.partner {
            None => Ok(own),
            Some((partner, share)) => Ok(own.f_mul_scalar(*share)?.f_add(&self.of(&log_p, partner)?.f_mul_scalar(1.0 - share)?)?),
        }
    }

    fn of(&self, log_p: &Tensor, labels: &Tensor) -> Result<Tensor, Failure> {
        let picked = log_p.f_gather(1, &labels.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
        let mut loss = picked.f_neg()?;
        if let Some(gamma) = self.gamma {
            loss = loss.f_mul(&picked.f_exp()?.f_neg()?.f_add_scalar(1.0)?.f_clamp_min(0.0)?.f_pow_tensor_scalar(gamma)?)?;
        }
        if let Some(weights) = &self.tensor {
            loss = loss.f_mul(&weights.f_index_select(0, labels)?)?;
        }
        let hard = loss.f_sum(Kind::Float)?;
        if self.smoothing == 0.0 {
            return Ok(hard);
        }
        // Each class's own weight counts in its even share, as torch's cross_entropy has it.
        let spread = match &self.tensor {
            Some(weights) => log_p.f_mul(weights)?,
            None => log_p.shallow_clone(),
        };
        let even = spread.f_sum(Kind::Float)?.f_mul_scalar(-self.smoothing / self.classes as f64)?;
        Ok(hard.f_mul_scalar(1.0 - self.smoothing)?.f_add(&even)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn criterion(smoothing: f64, gamma: Option<f64>, weights: &[f64]) -> Criterion {
        let tensor = (!weights.is_empty()).then(|| Tensor::from_slice(weights).to_kind(Kind::Float));
        Criterion { classes: 3, smoothing, gamma, weights: weights.to_vec(), tensor }
    }

    fn batch() -> (Tensor, Labels) {
        let logits = Tensor::from_slice(&[1.0f32, -0.5, 0.25, 0.0, 2.0, -1.0, 0.5, 0.5, 3.0, -2.0, 0.1, 0.2]).view([4, 3]);
        (logits, Labels { own: Tensor::from_slice(&[0i64, 1, 0, 2]), partner: None })
    }

    #[test]
    fn cross_entropy_is_torchs_with_weights_and_smoothing() {
        let (logits, labels) = batch();
        for smoothing in [0.0, 0.1] {
            for weights in [&[][..], &[0.5, 2.0, 1.25]] {
                let ours = criterion(smoothing, None, weights);
                let mean = ours.sum(&logits, &labels).unwrap().double_value(&[]) / ours.mass([0, 1, 0, 2].into_iter());
                let torch = logits.cross_entropy_loss(&labels.own, ours.tensor.as_ref(), graft_torch::tch::Reduction::Mean, -100, smoothing);
                assert!((mean - torch.double_value(&[])).abs() < 1e-6, "{smoothing} {weights:?}: {mean}");
            }
        }
    }

    #[test]
    fn focal_is_the_papers() {
        let (logits, labels) = batch();
        let sum = criterion(0.0, Some(2.0), &[]).sum(&logits, &labels).unwrap().double_value(&[]);
        let p = Vec::<f64>::try_from(logits.to_kind(Kind::Double).softmax(1, Kind::Double).gather(1, &labels.own.unsqueeze(1), false).view([-1]))
            .unwrap();
        let expected: f64 = p.iter().map(|p| -(1.0 - p).powi(2) * p.ln()).sum();
        assert!((sum - expected).abs() < 1e-5, "{sum} instead of {expected}");
    }

    #[test]
    fn a_blend_lies_between_its_labels() {
        let (logits, own) = batch();
        let partner = Tensor::from_slice(&[1i64, 0, 2, 2]);
        let loss = |labels: &Labels| criterion(0.1, None, &[]).sum(&logits, labels).unwrap().double_value(&[]);
        let other = loss(&Labels { own: partner.shallow_clone(), partner: None });
        let blend = loss(&Labels { own: own.own.shallow_clone(), partner: Some((partner, 0.3)) });
        assert!((blend - (0.3 * loss(&own) + 0.7 * other)).abs() < 1e-5);
    }
}
