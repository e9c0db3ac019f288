//! The loss of a batch: cross entropy or focal, with smoothed labels, class weights and blended labels. Of a multi-label task
//! it is the binary one of each finding, over those that are known; of a regression task the squared, absolute or Huber's loss. Summed over the ranks it is the exact mean over the global
//! batch, however the batch is cut.

use graft_crds::spec::{ClassWeights, Loss, LossName, TaskType};
use graft_data::{Dataset, Sample, Split};
use graft_torch::tch::{Device, Kind, Reduction, Tensor};

use crate::event::Failure;

/// Labels of a batch, as [`super::Recipe::labels`] gives them: one of each image, or shares of two.
pub(super) struct Labels {
    /// The images' own.
    pub(super) own: Tensor,
    /// Those of their partners, and the share of the own ones.
    pub(super) partner: Option<(Tensor, f64)>,
}

/// A loss with the numbers of a training set.
pub(super) struct Criterion {
    task: TaskType,
    classes: i64,
    name: LossName,
    smoothing: f64,
    /// Focal's exponent.
    gamma: Option<f64>,
    /// Weight of each class, or of a finding's being there against its absence; empty when all are equal.
    weights: Vec<f64>,
    tensor: Option<Tensor>,
}

impl Criterion {
    pub(super) fn new(settings: &Loss, dataset: &Dataset, device: Device) -> Result<Self, Failure> {
        let classes = dataset.classes.len();
        let train = dataset.split(Split::Train);
        let count = |class: usize, shown: bool| train.iter().filter(|s| s.shows(class) == Some(shown)).count().max(1);
        let weights: Vec<f64> = match (settings.class_weights, dataset.task) {
            (ClassWeights::Equal, _) | (_, TaskType::Regression) => Vec::new(),
            (ClassWeights::Balanced, TaskType::Classification) => {
                (0..classes).map(|class| train.len() as f64 / (classes * count(class, true)) as f64).collect()
            }
            (ClassWeights::Balanced, TaskType::MultiLabel) => {
                (0..classes).map(|class| count(class, false) as f64 / count(class, true) as f64).collect()
            }
        };
        let tensor = match weights.as_slice() {
            [] => None,
            some => Some(Tensor::f_from_slice(some)?.f_to_kind(Kind::Float)?.f_to_device(device)?),
        };
        let gamma = (settings.name == LossName::Focal).then(|| settings.gamma.value());
        Ok(Self {
            task: dataset.task,
            classes: classes as i64,
            name: settings.name,
            smoothing: settings.label_smoothing.value(),
            gamma,
            weights,
            tensor,
        })
    }

    /// Cross entropy as it is, or the squared difference.
    pub(super) fn plain(dataset: &Dataset) -> Self {
        let name = if dataset.task == TaskType::Regression { LossName::Mse } else { LossName::CrossEntropy };
        Self { task: dataset.task, classes: dataset.classes.len() as i64, name, smoothing: 0.0, gamma: None, weights: Vec::new(), tensor: None }
    }

    /// What samples weigh together: each by its class, blends 1, and in a multi-label task each finding that is known, as blends of
    /// a global batch with itself have just as many.
    pub(super) fn mass<'a>(&self, samples: impl Iterator<Item = &'a Sample>, blended: bool) -> f64 {
        match self.task {
            TaskType::Classification if blended => samples.count() as f64,
            TaskType::Regression => samples.count() as f64,
            TaskType::Classification => samples.map(|sample| self.weights.get(sample.label).copied().unwrap_or(1.0)).sum(),
            // Where nothing is known the sum is 0, whatever it is divided by.
            TaskType::MultiLabel => samples.map(|sample| sample.findings.iter().flatten().count()).sum::<usize>().max(1) as f64,
        }
    }

    /// The sum of the losses of `logits` `[N, C]`; divided by the global batch's mass it is this rank's part of the mean.
    pub(super) fn sum(&self, logits: &Tensor, labels: &Labels) -> Result<Tensor, Failure> {
        let logits = logits.f_to_kind(Kind::Float)?;
        let scores = match self.task {
            TaskType::Classification => logits.f_log_softmax(1, Kind::Float)?,
            TaskType::MultiLabel => logits,
            TaskType::Regression => logits.f_squeeze_dim(1)?,
        };
        let of = |labels: &Tensor| match self.task {
            TaskType::Classification => self.of(&scores, labels),
            TaskType::MultiLabel => self.of_findings(&scores, labels),
            TaskType::Regression => self.of_numbers(&scores, labels),
        };
        let own = of(&labels.own)?;
        match &labels.partner {
            None => Ok(own),
            Some((partner, share)) => Ok(own.f_mul_scalar(*share)?.f_add(&of(partner)?.f_mul_scalar(1.0 - share)?)?),
        }
    }

    /// Binary cross entropy of each finding (torch's `binary_cross_entropy_with_logits`), focal as Lin et al. 2017 (arXiv:1708.02002);
    /// smoothed labels are 1 − s / 2 and s / 2.
    fn of_findings(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor, Failure> {
        let unknown = labels.f_isnan()?;
        let hard = labels.f_masked_fill(&unknown, 0.0)?;
        let target = hard.f_mul_scalar(1.0 - self.smoothing)?.f_add_scalar(self.smoothing / 2.0)?;
        let mut loss = logits.f_binary_cross_entropy_with_logits(&target, None, self.tensor.as_ref(), Reduction::None)?;
        if let Some(gamma) = self.gamma {
            // 1 − p of what is true: σ(−z) where the finding is there, σ(z) where it is not.
            let missed = logits.f_mul(&hard.f_mul_scalar(-2.0)?.f_add_scalar(1.0)?)?.f_sigmoid()?;
            loss = loss.f_mul(&missed.f_pow_tensor_scalar(gamma)?)?;
        }
        Ok(loss.f_masked_fill(&unknown, 0.0)?.f_sum(Kind::Float)?)
    }

    fn of_numbers(&self, said: &Tensor, labels: &Tensor) -> Result<Tensor, Failure> {
        Ok(match self.name {
            LossName::L1 => said.f_l1_loss(labels, Reduction::Sum)?,
            LossName::Huber => said.f_huber_loss(labels, Reduction::Sum, 1.0)?,
            _ => said.f_mse_loss(labels, Reduction::Sum)?,
        })
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
        Criterion { task: TaskType::Classification, classes: 3, name: LossName::CrossEntropy, smoothing, gamma, weights: weights.to_vec(), tensor }
    }

    fn binary(smoothing: f64, gamma: Option<f64>, weights: &[f64]) -> Criterion {
        Criterion { task: TaskType::MultiLabel, ..criterion(smoothing, gamma, weights) }
    }

    fn sample(label: usize, findings: &[Option<bool>]) -> Sample {
        let nothing = Sample::unlabelled(std::path::PathBuf::new(), None, String::new(), Split::Train);
        Sample { label, findings: findings.to_vec(), ..nothing }
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
                let mean =
                    ours.sum(&logits, &labels).unwrap().double_value(&[]) / ours.mass([0, 1, 0, 2].map(|label| sample(label, &[])).iter(), false);
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
    fn the_losses_of_numbers_are_their_formulas() {
        let outputs = Tensor::from_slice(&[0.5f32, -3.0, 2.0]).view([3, 1]);
        let labels = Labels { own: Tensor::from_slice(&[0.0f32, -1.0, 2.5]), partner: None };
        for (name, expected) in [(LossName::Mse, 0.25 + 4.0 + 0.25), (LossName::L1, 0.5 + 2.0 + 0.5), (LossName::Huber, 0.125 + 1.5 + 0.125)] {
            let ours = Criterion { task: TaskType::Regression, name, classes: 1, ..criterion(0.0, None, &[]) };
            let sum = ours.sum(&outputs, &labels).unwrap().double_value(&[]);
            assert!((sum - expected).abs() < 1e-6, "{name:?}: {sum}");
            assert!((ours.mass([sample(0, &[]), sample(1, &[])].iter(), false) - 2.0).abs() < 1e-12);
        }
    }

    #[test]
    fn unknown_findings_count_for_nothing() {
        let (logits, _) = batch();
        let findings = [[Some(true), None, Some(false)], [Some(false), Some(true), Some(true)], [None; 3], [None, Some(false), Some(true)]];
        let number = |f: &Option<bool>| f.map_or(f32::NAN, |f| f32::from(u8::from(f)));
        let own = Tensor::from_slice(&findings.iter().flatten().map(number).collect::<Vec<_>>()).view([4, 3]);
        let z = Vec::<f64>::try_from(logits.to_kind(Kind::Double).view([-1])).unwrap();
        let samples: Vec<Sample> = findings.iter().map(|f| sample(0, f)).collect();
        for (smoothing, gamma, weights) in [(0.0, None, [1.0; 3]), (0.2, None, [0.5, 2.0, 3.0]), (0.0, Some(2.0), [1.0; 3])] {
            let ours = binary(smoothing, gamma, &weights);
            let labels = Labels { own: own.shallow_clone(), partner: None };
            assert_eq!(ours.mass(samples.iter(), false), 7.0);
            let input = logits.copy().set_requires_grad(true);
            let sum = ours.sum(&input, &labels).unwrap();
            let expected: f64 = z
                .iter()
                .zip(findings.iter().flatten())
                .enumerate()
                .filter_map(|(i, (z, f))| {
                    let (p, y) = (1.0 / (1.0 + (-z).exp()), f64::from(u8::from((*f)?)));
                    let soft = y * (1.0 - smoothing) + smoothing / 2.0;
                    let focal = gamma.map_or(1.0, |g: f64| (1.0 - (p * y + (1.0 - p) * (1.0 - y))).powf(g));
                    Some(-focal * (weights[i % 3] * soft * p.ln() + (1.0 - soft) * (1.0 - p).ln()))
                })
                .sum();
            assert!((sum.double_value(&[]) - expected).abs() < 1e-5, "{smoothing} {gamma:?}: {sum:?} instead of {expected}");
            sum.backward();
            let gradient = Vec::<f64>::try_from(input.grad().to_kind(Kind::Double).view([-1])).unwrap();
            assert!(gradient.iter().zip(findings.iter().flatten()).all(|(g, f)| g.is_finite() && (f.is_some() || *g == 0.0)), "{gradient:?}");
        }
        assert_eq!(binary(0.0, None, &[]).mass([sample(0, &[None; 3])].iter(), false), 1.0, "no division by nothing");
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
