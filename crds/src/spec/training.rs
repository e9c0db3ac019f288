//! Backbone, fine-tuning, head and evaluation.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
pub struct Weights {
    /// A `.safetensors` file or a PyTorch state dict (`.pth`, `.pt`), as `file:///absolute/path`. A state dict is read without executing anything in it.
    #[schemars(length(min = 9, max = 1024), regex(pattern = r"^file:///.+$"))]
    pub uri: String,
    /// SHA-256 of the file in hexadecimal; another file is refused. Default: not checked, but recorded in the model's description.
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
    /// The optimizer. Default: adam with learning rate 1e-4.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Seed of the head's initial weights and of the order of the samples. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub seed: i32,
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
}

#[expect(clippy::expect_used, reason = "a literal of this file")]
fn literal(text: &str) -> Decimal {
    text.parse().expect("a decimal literal")
}

fn fine_tune_rate() -> Decimal {
    literal("1e-4")
}

fn head_rate() -> Decimal {
    literal("1e-3")
}

fn zero() -> Decimal {
    literal("0")
}

fn momentum() -> Decimal {
    literal("0.9")
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { name: OptimizerName::default(), learning_rate: fine_tune_rate(), weight_decay: zero(), momentum: momentum() }
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
}

fn head_epochs() -> i32 {
    100
}

impl Default for Head {
    fn default() -> Self {
        Self { kind: HeadKind::default(), epochs: head_epochs(), batch_size: global_batch_size(), optimizer: HeadOptimizer::default() }
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
        Self { name: o.name, learning_rate: o.learning_rate, weight_decay: o.weight_decay, momentum: o.momentum }
    }
}

/// How the result is judged on the test set.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// Metrics to report; the first one is shown by `kubectl get`. Default: all, auroc first.
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
}

impl Metric {
    /// Every metric, in the order of the report.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::Auroc, Self::Accuracy, Self::F1, Self::Sensitivity, Self::Specificity]
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
        }
    }
}
