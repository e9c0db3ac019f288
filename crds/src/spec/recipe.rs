//! How fine-tuning goes beside its optimizer: the schedule of the learning rate, the loss, augmentation, averaging, and when
//! to stop. Every part is off until it is named.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::training::{literal, one, zero};
use crate::decimal::Decimal;

/// How the learning rates move, optimizer step by optimizer step. Each parameter's own rate is multiplied by the schedule's factor.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("double(self.warmupEpochs) >= 0.0", "spec.fineTune.schedule.warmupEpochs must not be negative"),
    validation = ("double(self.finalRatio) >= 0.0 && double(self.finalRatio) <= 1.0", "spec.fineTune.schedule.finalRatio must be between 0 and 1"),
    validation = ("double(self.power) > 0.0 && double(self.gamma) > 0.0", "spec.fineTune.schedule: power and gamma must be above 0")
)]
pub struct Schedule {
    /// Shape after the warm-up. Default: constant.
    #[serde(default)]
    pub name: ScheduleName,
    /// Epochs over which the rate first rises linearly to its full height; part of `epochs`, fractions are fine. `oneCycle` has a rise of its own. Default: "0".
    #[serde(default = "zero")]
    pub warmup_epochs: Decimal,
    /// Factor that cosine and polynomial end with. Default: "0".
    #[serde(default = "zero")]
    pub final_ratio: Decimal,
    /// Exponent of polynomial. Default: "1", a straight line.
    #[serde(default = "one")]
    pub power: Decimal,
    /// Epochs between the drops of step. Default: 10.
    #[serde(default = "step_epochs")]
    #[schemars(range(min = 1, max = 10000))]
    pub step_epochs: i32,
    /// Factor of each drop of step. Default: "0.1".
    #[serde(default = "tenth")]
    pub gamma: Decimal,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { name: ScheduleName::default(), warmup_epochs: zero(), final_ratio: zero(), power: one(), step_epochs: step_epochs(), gamma: tenth() }
    }
}

/// Shape of a schedule.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScheduleName {
    /// The full rate throughout.
    #[default]
    Constant,
    /// Half a cosine from the full rate to `finalRatio` of it (Loshchilov and Hutter 2016, arXiv:1608.03983).
    Cosine,
    /// From 1/25 up over 30 % of the steps and down to almost nothing, both by half cosines (Smith and Topin 2017, arXiv:1708.07120).
    OneCycle,
    /// (1 − progress) to the power of `power`, from the full rate to `finalRatio` of it.
    Polynomial,
    /// A drop by `gamma` every `stepEpochs`.
    Step,
}

/// What is minimised.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("double(self.labelSmoothing) >= 0.0 && double(self.labelSmoothing) < 1.0 && double(self.gamma) >= 0.0", "spec.fineTune.loss: labelSmoothing must be at least 0 and below 1, gamma not negative"))]
pub struct Loss {
    /// Kind of loss; of a multiLabel task the mean over the known findings; a regression task must name mse, l1 or huber. Default: crossEntropy.
    #[serde(default)]
    pub name: LossName,
    /// Share of each label that is spread evenly over all classes, 0 to below 1 (Szegedy et al. 2015, arXiv:1512.00567). Default: "0".
    #[serde(default = "zero")]
    pub label_smoothing: Decimal,
    /// Exponent of focal. Default: "2".
    #[serde(default = "two")]
    pub gamma: Decimal,
    /// Weight of each class's samples. Default: equal.
    #[serde(default)]
    pub class_weights: ClassWeights,
}

impl Default for Loss {
    fn default() -> Self {
        Self { name: LossName::default(), label_smoothing: zero(), gamma: two(), class_weights: ClassWeights::default() }
    }
}

/// Kind of loss.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LossName {
    /// The negative logarithm of the label's probability.
    #[default]
    CrossEntropy,
    /// Cross entropy times (1 − probability)^`gamma`, which plays down what is easy (Lin et al. 2017, arXiv:1708.02002).
    Focal,
    /// The squared difference, in standard deviations of the training set's numbers.
    Mse,
    /// The absolute difference, in the same unit.
    L1,
    /// Half the squared difference up to one standard deviation, and linear beyond (Huber 1964).
    Huber,
}

/// Weight of each class's samples.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClassWeights {
    /// Every sample counts the same.
    #[default]
    Equal,
    /// Every class counts the same: samples ÷ (classes × samples of the class), over the training set.
    Balanced,
}

/// A limit on gradients.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.norm) != has(self.value)", "spec.fineTune.clip needs either norm or value"),
    validation = ("double(has(self.norm) ? self.norm : self.value) > 0.0", "spec.fineTune.clip must be above 0")
)]
pub struct Clip {
    /// Largest Euclidean norm of all gradients together; longer ones are scaled down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Decimal>,
    /// Largest magnitude of each number of a gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Decimal>,
}

/// Random changes of training images. They are a function of seed, epoch and sample: the same whatever the rank or the number of ranks.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("[self.horizontalFlip, self.verticalFlip, self.erase, self.translate, self.brightness, self.contrast, self.noise].all(p, double(p) >= 0.0 && double(p) <= 1.0)", "spec.fineTune.augment: horizontalFlip, verticalFlip, erase, translate, brightness, contrast and noise must be between 0 and 1"),
    validation = ("double(self.gamma) >= 0.0 && double(self.gamma) <= 4.0 && double(self.blur) >= 0.0 && double(self.blur) <= 8.0", "spec.fineTune.augment: gamma must be between 0 and 4, blur between 0 and 8 pixels"),
    validation = ("double(self.crop) >= 0.05 && double(self.crop) <= 1.0", "spec.fineTune.augment.crop must be between 0.05 and 1: the share of the area that stays"),
    validation = ("double(self.rotate) >= 0.0 && double(self.rotate) <= 180.0", "spec.fineTune.augment.rotate must be between 0 and 180 degrees")
)]
pub struct Augment {
    /// Probability of mirroring left and right; leave it at 0 where sides matter. Default: "0".
    #[serde(default = "zero")]
    pub horizontal_flip: Decimal,
    /// Probability of mirroring top and bottom. Default: "0".
    #[serde(default = "zero")]
    pub vertical_flip: Decimal,
    /// Smallest share of the area that a random crop keeps; the crop fills the input, its aspect between 3:4 and 4:3. Default: "1", no crop.
    #[serde(default = "one")]
    pub crop: Decimal,
    /// Largest rotation either way, in degrees. Default: "0".
    #[serde(default = "zero")]
    pub rotate: Decimal,
    /// Largest shift either way, as a share of the side. Default: "0".
    #[serde(default = "zero")]
    pub translate: Decimal,
    /// Largest relative change of brightness: pixels are multiplied by 1 ± this. Default: "0".
    #[serde(default = "zero")]
    pub brightness: Decimal,
    /// Largest relative change of contrast around the image's mean. Default: "0".
    #[serde(default = "zero")]
    pub contrast: Decimal,
    /// Largest relative change of gamma: pixels from 0 to 1 are raised to a power between 1 ÷ (1 + this) and 1 + this. Default: "0".
    #[serde(default = "zero")]
    pub gamma: Decimal,
    /// Largest standard deviation of a Gaussian blur, in pixels of the input. Default: "0".
    #[serde(default = "zero")]
    pub blur: Decimal,
    /// Largest standard deviation of Gaussian noise, where 1 is from black to white. Default: "0".
    #[serde(default = "zero")]
    pub noise: Decimal,
    /// Probability of erasing one rectangle of 2 to 20 % of the area (Zhong et al. 2017, arXiv:1708.04896). Default: "0".
    #[serde(default = "zero")]
    pub erase: Decimal,
    /// A published policy of random operations, done after flips, crop, rotation and shift. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<AugmentPolicy>,
}

/// Random operations on geometry, colours and contrast with torchvision's ranges.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AugmentPolicy {
    /// randAugment (Cubuk et al. 2019, arXiv:1909.13719), or trivialAugment (Müller and Hutter 2021, arXiv:2103.10158): one operation of any strength.
    pub name: PolicyName,
    /// randAugment: operations on each image. Default: 2.
    #[serde(default = "two_operations")]
    #[schemars(range(min = 1, max = 16))]
    pub operations: i32,
    /// randAugment: strength of each, 0 to 30. Default: 9.
    #[serde(default = "nine")]
    #[schemars(range(min = 0, max = 30))]
    pub magnitude: i32,
}

/// An augmentation policy.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyName {
    /// RandAugment.
    RandAugment,
    /// TrivialAugment, wide.
    TrivialAugment,
}

fn two_operations() -> i32 {
    2
}

fn nine() -> i32 {
    9
}

/// Pairs of training images blended into one, labels and all; the partner comes from the same global batch.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.mixup) || has(self.cutmix)", "spec.fineTune.mix needs mixup or cutmix"),
    validation = ("(!has(self.mixup) || double(self.mixup) > 0.0) && (!has(self.cutmix) || double(self.cutmix) > 0.0)", "spec.fineTune.mix: mixup and cutmix must be above 0")
)]
pub struct Mix {
    /// α of the Beta(α, α) distribution that the share is drawn from (Zhang et al. 2017, arXiv:1710.09412).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixup: Option<Decimal>,
    /// The same for a rectangle that is pasted (Yun et al. 2019, arXiv:1905.04899). With both, each batch takes one of them at even odds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutmix: Option<Decimal>,
}

/// Which weights fine-tuning hands on.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Keep {
    /// Those of the epoch with the lowest validation loss.
    #[default]
    Best,
    /// Those of the last epoch.
    Last,
}

/// Type that gradients travel in between ranks.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GradientTravel {
    /// float32.
    #[default]
    Fp32,
    /// bfloat16: half the bytes, for slow networks; gradients lose 16 of their 24 bits.
    Bf16,
}

/// Type that convolutions and matrix products compute in; parameters stay float32.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Precision {
    /// float32.
    #[default]
    Fp32,
    /// float32 whose products GPUs round to 10 bits, which is several times as fast; the same as fp32 on CPUs.
    Tf32,
    /// bfloat16 on GPUs, and on CPUs that have instructions for it; elsewhere float32, and the log says so.
    Bf16,
    /// float16 with a scaled loss, on GPUs; float32 on CPUs, and the log says so. For GPUs older than bfloat16.
    Fp16,
}

fn two() -> Decimal {
    literal("2")
}

fn tenth() -> Decimal {
    literal("0.1")
}

fn step_epochs() -> i32 {
    10
}
