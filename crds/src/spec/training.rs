//! Backbone, fine-tuning, head and evaluation.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Augment, Clip, GradientTravel, Keep, Loss, Mix, Precision, Schedule};
use crate::architectures::{Architecture, Padding};
use crate::decimal::Decimal;

/// The pretrained network to start from.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backbone {
    /// Architecture, by torchvision's name where torchvision has it.
    pub architecture: Architecture,
    /// The weights to start from. Their classifier is dropped when it has another number of classes; every other tensor must fit.
    pub weights: Weights,
    /// How an image becomes the network's input. Default: what published weights of this architecture were trained with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<Preprocessing>,
}

/// Pretrained weights.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.uri.startsWith('file:///') || has(self.sha256)",
    "spec.backbone.weights.sha256 is missing: weights from the network need the digest of the file that is meant"
))]
pub struct Weights {
    /// A `.safetensors` file or a PyTorch state dict (`.pth`, `.pt`), as `file:///absolute/path`, `https://host/path`, `s3://BUCKET/KEY`
    /// or `hf://ORG/REPO@REVISION/FILE`. A state dict is read without executing anything in it.
    #[schemars(length(min = 9, max = 1024), regex(pattern = r"^(file:///.+|https://.+|(s3|gs|az)://[^/]+/.+|hf://[^/@]+/[^/@]+@[^/@]+/.+)$"))]
    pub uri: String,
    /// SHA-256 of the file in hexadecimal; another file is refused. Default: not checked, but recorded; needed for weights from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 64, max = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
}

/// How an image becomes the network's input. A field left out keeps the architecture's default.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preprocessing {
    /// Mean per channel (red, green, blue) after scaling pixels to [0, 1]. Default: ImageNet's; 0.5 each for MobileNetV1 and ViT-S/16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 3))]
    pub mean: Option<Vec<Decimal>>,
    /// Standard deviation per channel after scaling pixels to [0, 1]. Default: ImageNet's; 0.5 each for MobileNetV1 and ViT-S/16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 3))]
    pub std: Option<Vec<Decimal>>,
    /// Length in pixels to which an image's shorter side is resized before the centre is cut out, with `fit: crop`. Default: in proportion to `size` as the
    /// architecture has it, mostly `size` × 256/224.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 2048))]
    pub resize: Option<i32>,
    /// Side in pixels of the square input; for ViT a multiple of the patch. Default: the architecture's, mostly 224.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 2048))]
    pub size: Option<i32>,
    /// How an image that is not square fills the input: `crop` keeps its shape and cuts the centre out, `stretch` keeps its borders and
    /// resizes both sides to `size`. Default: crop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// Interpolation when resizing. Default: the architecture's, mostly bilinear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
    /// Padding of strided convolutions: `same` for weights born in TensorFlow. Default: symmetric; same for MobileNetV1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
}

/// How an image that is not square fills the input.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fit {
    /// Resize the shorter side to `resize`, cut the centre out.
    #[default]
    Crop,
    /// Resize both sides to `size`.
    Stretch,
}

/// Interpolation when resizing; both are antialiased.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Interpolation {
    /// Triangle filter.
    #[default]
    Bilinear,
    /// Cubic filter (Keys, a = −0.5).
    Bicubic,
}

/// Fine-tuning of the backbone with a fresh linear head on top.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("double(self.schedule.warmupEpochs) < double(self.epochs)", "spec.fineTune.schedule.warmupEpochs must be below epochs: the warm-up is a part of the training"),
    validation = ("!has(self.dropout) || (double(self.dropout) >= 0.0 && double(self.dropout) < 1.0)", "spec.fineTune.dropout must be at least 0 and below 1"),
    validation = ("!has(self.emaDecay) || (double(self.emaDecay) > 0.0 && double(self.emaDecay) < 1.0)", "spec.fineTune.emaDecay must be between 0 and 1"),
    validation = ("double(self.l2sp) >= 0.0", "spec.fineTune.l2sp must not be negative")
)]
pub struct FineTune {
    /// Names of layers to train, as prefixes of parameter names: `layer4`, `features.17`. All others stay frozen, their batch
    /// normalisation uses its stored statistics. Default: none, so only the head is trained; `*` trains everything.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub unfreeze: Vec<String>,
    /// Passes over the training data. Default: 10.
    #[serde(default = "fine_tune_epochs")]
    #[schemars(range(min = 1, max = 10000))]
    pub epochs: i32,
    /// Images in one optimizer step, over all ranks. Default: 32.
    #[serde(default = "global_batch_size")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub global_batch_size: i32,
    /// Which training images an epoch has. Default: all.
    #[serde(default)]
    pub sampling: Sampling,
    /// Parts that each global batch is cut into, one after the other: the same step with less memory. Default: 1.
    #[serde(default = "undivided")]
    #[schemars(range(min = 1, max = 65536))]
    pub accumulate: i32,
    /// The optimizer. Default: adam with learning rate 1e-4.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How the learning rates move over the training. Default: constant.
    #[serde(default)]
    pub schedule: Schedule,
    /// What is minimised. Default: cross entropy.
    #[serde(default)]
    pub loss: Loss,
    /// Limit on gradients. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
    /// Random changes of the training images. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
    /// Blends of pairs of training images. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// Probability of dropping a feature before the head while training. Default: the architecture's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<Decimal>,
    /// Train the head on the frozen backbone's features first, as `spec.head` says, and begin fine-tuning with it: linear probing, then
    /// fine-tuning (Kumar et al. 2022, arXiv:2202.10054). Default: false.
    #[serde(default)]
    pub head_first: bool,
    /// Unfreeze the layers of `unfreeze` one by one from the end of the list, one more each so many epochs, the head alone first
    /// (Howard and Ruder 2018, arXiv:1801.06146). Default: all from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub thaw_every_epochs: Option<i32>,
    /// Strength of the pull of unfrozen layers back to their pretrained values, added to the gradient as strength × difference (L2-SP, Li et al.
    /// 2018, arXiv:1802.01483). Default: "0".
    #[serde(default = "zero")]
    pub l2sp: Decimal,
    /// Decay of an exponential moving average of the weights, such as "0.999", which is judged and kept in place of the weights themselves. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<Decimal>,
    /// Stop when the validation loss has not fallen for so many epochs. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub patience_epochs: Option<i32>,
    /// Which epoch's weights go on. Default: best.
    #[serde(default)]
    pub keep: Keep,
    /// Type that convolutions and matrix products compute in. Default: fp32.
    #[serde(default)]
    pub precision: Precision,
    /// Compute on GPUs only in ways that give the same bits each time, which is slower; CPUs always do. Default: false.
    #[serde(default)]
    pub deterministic: bool,
    /// Batch normalisation that is trained takes its statistics over all ranks' batches together, as if one rank had all images; worth its
    /// exchange where each rank has few. Default: false.
    #[serde(default)]
    pub sync_batch_norm: bool,
    /// Type that gradients travel in between ranks. Default: fp32.
    #[serde(default)]
    pub gradient_travel: GradientTravel,
    /// Seed of the head's initial weights, of the order of the samples and of their random changes. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub seed: i32,
}

/// Which training images an epoch has.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sampling {
    /// Each image once.
    #[default]
    All,
    /// As many images, every class equally often: images of rare classes come more than once, of frequent ones another part in each epoch. Not
    /// for multiLabel tasks.
    Balanced,
}

fn undivided() -> i32 {
    1
}

pub(super) fn one() -> Decimal {
    literal("1")
}

fn fine_tune_epochs() -> i32 {
    10
}

fn global_batch_size() -> i32 {
    32
}

/// The optimizer of fine-tuning.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("double(self.learningRate) > 0.0", "spec.fineTune.optimizer.learningRate must be above 0"),
    validation = ("!has(self.headLearningRate) || double(self.headLearningRate) > 0.0", "spec.fineTune.optimizer.headLearningRate must be above 0"),
    validation = ("double(self.layerDecay) > 0.0 && double(self.layerDecay) <= 1.0", "spec.fineTune.optimizer.layerDecay must be above 0 and at most 1"),
    validation = ("double(self.weightDecay) >= 0.0", "spec.fineTune.optimizer.weightDecay must not be negative")
)]
pub struct Optimizer {
    /// Algorithm. Default: adam.
    #[serde(default)]
    pub name: OptimizerName,
    /// Learning rate. Default: "1e-4".
    #[serde(default = "fine_tune_rate")]
    pub learning_rate: Decimal,
    /// Weight decay: an L2 term for sgd and adam, decoupled for adamw. Default: "0".
    #[serde(default = "zero")]
    pub weight_decay: Decimal,
    /// Momentum of sgd; other optimizers ignore it. Default: "0.9".
    #[serde(default = "momentum")]
    pub momentum: Decimal,
    /// Nesterov's look-ahead for sgd. Default: false.
    #[serde(default)]
    pub nesterov: bool,
    /// What weight decay acts on. Default: all.
    #[serde(default)]
    pub decay: DecayScope,
    /// Learning rate of the head. Default: that of the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_learning_rate: Option<Decimal>,
    /// Factor between the learning rates of neighbouring layers, smaller towards the input (Clark et al. 2020, arXiv:2003.10555). Default: "1".
    #[serde(default = "one")]
    pub layer_decay: Decimal,
}

/// What weight decay acts on.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DecayScope {
    /// Every trained parameter.
    #[default]
    All,
    /// Weights of convolutions and linear layers; offsets and normalisation are left alone.
    Matrices,
}

/// Algorithm of an optimizer.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OptimizerName {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Kingma and Ba 2014, arXiv:1412.6980.
    #[default]
    Adam,
    /// Loshchilov and Hutter 2017, arXiv:1711.05101.
    Adamw,
    /// You et al. 2019, arXiv:1904.00962: for large batches.
    Lamb,
}

#[expect(clippy::expect_used, reason = "a literal of this file")]
pub(super) fn literal(text: &str) -> Decimal {
    text.parse().expect("a decimal literal")
}

fn fine_tune_rate() -> Decimal {
    literal("1e-4")
}

fn head_rate() -> Decimal {
    literal("1e-3")
}

pub(super) fn zero() -> Decimal {
    literal("0")
}

fn momentum() -> Decimal {
    literal("0.9")
}

impl Default for Optimizer {
    fn default() -> Self {
        HeadOptimizer { learning_rate: fine_tune_rate(), ..HeadOptimizer::default() }.into()
    }
}

/// The head that is trained on the extracted features; the epoch with the best validation loss is kept.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Kind of head. Default: linear.
    #[serde(default)]
    pub kind: HeadKind,
    /// Passes over the training features. Default: 100.
    #[serde(default = "head_epochs")]
    #[schemars(range(min = 1, max = 100_000))]
    pub epochs: i32,
    /// Feature vectors in one optimizer step. Default: 32.
    #[serde(default = "global_batch_size")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub batch_size: i32,
    /// The optimizer. Default: adam with learning rate 1e-3.
    #[serde(default)]
    pub optimizer: HeadOptimizer,
    /// Which head the model gets after fine-tuning. Default: a fresh one, trained on the fine-tuned features.
    #[serde(default)]
    pub after_fine_tune: AfterFineTune,
}

/// Which head the model gets after fine-tuning.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AfterFineTune {
    /// A fresh one is trained on the features of the fine-tuned backbone.
    #[default]
    Retrain,
    /// The one that was trained together with the backbone stays.
    Keep,
}

fn head_epochs() -> i32 {
    100
}

impl Default for Head {
    fn default() -> Self {
        Self {
            kind: HeadKind::default(),
            epochs: head_epochs(),
            batch_size: global_batch_size(),
            optimizer: HeadOptimizer::default(),
            after_fine_tune: AfterFineTune::default(),
        }
    }
}

/// Kind of head.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeadKind {
    /// One affine map from features to classes.
    #[default]
    Linear,
}

/// The optimizer of the head.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("double(self.learningRate) > 0.0", "spec.head.optimizer.learningRate must be above 0"),
    validation = ("double(self.weightDecay) >= 0.0", "spec.head.optimizer.weightDecay must not be negative")
)]
pub struct HeadOptimizer {
    /// Algorithm. Default: adam.
    #[serde(default)]
    pub name: OptimizerName,
    /// Learning rate. Default: "1e-3".
    #[serde(default = "head_rate")]
    pub learning_rate: Decimal,
    /// Weight decay: an L2 term for sgd and adam, decoupled for adamw. Default: "0".
    #[serde(default = "zero")]
    pub weight_decay: Decimal,
    /// Momentum of sgd; other optimizers ignore it. Default: "0.9".
    #[serde(default = "momentum")]
    pub momentum: Decimal,
}

impl Default for HeadOptimizer {
    fn default() -> Self {
        Self { name: OptimizerName::default(), learning_rate: head_rate(), weight_decay: zero(), momentum: momentum() }
    }
}

impl From<HeadOptimizer> for Optimizer {
    fn from(o: HeadOptimizer) -> Self {
        Self {
            name: o.name,
            learning_rate: o.learning_rate,
            weight_decay: o.weight_decay,
            momentum: o.momentum,
            nesterov: false,
            decay: DecayScope::All,
            head_learning_rate: None,
            layer_decay: one(),
        }
    }
}

/// How the result is judged on the test set.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// Metrics to report, of which a task leaves out those that it does not have; the first one is shown by `kubectl get`. Default: all, auroc first.
    #[serde(default = "Metric::all")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub metrics: Vec<Metric>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { metrics: Metric::all() }
    }
}

/// A metric. With more than two classes it is the unweighted mean of the classes' one-vs-rest values.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Metric {
    /// Share of correctly classified images.
    Accuracy,
    /// Area under the receiver operating characteristic.
    Auroc,
    /// Harmonic mean of precision and sensitivity.
    F1,
    /// Share of positives that are found, at the class of highest probability.
    Sensitivity,
    /// Share of negatives that are left alone, at the class of highest probability.
    Specificity,
    /// Mean absolute error of a regression task, in the unit of its numbers.
    Mae,
    /// Root of the mean squared error, in the same unit.
    Rmse,
    /// Share of the numbers' variance that is explained.
    R2,
    /// Pearson's correlation.
    Pearson,
}

impl Metric {
    /// Every metric, in the order of the report.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::Auroc, Self::Accuracy, Self::F1, Self::Sensitivity, Self::Specificity, Self::Mae, Self::Rmse, Self::R2, Self::Pearson]
    }

    /// The name in reports and in status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Auroc => "auroc",
            Self::F1 => "f1",
            Self::Sensitivity => "sensitivity",
            Self::Specificity => "specificity",
            Self::Mae => "mae",
            Self::Rmse => "rmse",
            Self::R2 => "r2",
            Self::Pearson => "pearson",
        }
    }
}
