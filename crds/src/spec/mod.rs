//! What a user asks for: `TransferJob.spec`. Every field that stands here works; each has a sentence, a default
//! and a unit, because `kubectl explain` is where most people read them.

mod data;
mod pod;
mod recipe;
mod training;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use data::{BadInput, Data, DataColumns, DataSet, DataSplits, Duplicates, PatientFrom, Validation, Window};
pub use pod::{Mount, NfsSource, Volume, Workers};
pub use recipe::{
    Augment, AugmentPolicy, ClassWeights, Clip, GradientTravel, Keep, Loss, LossName, Mix, PolicyName, Precision, Schedule, ScheduleName,
};
pub use training::{
    AfterFineTune, Backbone, DecayScope, Evaluation, FineTune, Fit, Head, HeadKind, HeadOptimizer, Interpolation, Metric, Optimizer, OptimizerName,
    Preprocessing, Sampling, Weights,
};

use crate::status::TransferJobStatus;
use k8s_openapi::api::core::v1::{EnvVar, Toleration};
use std::collections::BTreeMap;

/// TransferJob fine-tunes a pretrained backbone on a labelled data set, extracts features, trains a head on them,
/// evaluates the result on a test set and writes the model.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "graft.dev",
    version = "v1alpha1",
    kind = "TransferJob",
    plural = "transferjobs",
    shortname = "tj",
    category = "all",
    namespaced,
    derive = "PartialEq",
    status = "TransferJobStatus",
    doc = "TransferJob fine-tunes a pretrained backbone on a labelled data set, extracts features, trains a head on them, evaluates the result on a test set and writes the model.",
    validation = ("size(self.metadata.name) <= 48", "metadata.name must be at most 48 characters: the names of Job, Service and pods are made from it"),
    validation = ("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')", "metadata.name must start with a letter and hold only lower-case letters, digits and '-': it becomes a DNS label"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.stage"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Metric", type_ = "string", json_path = ".status.headline"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts.total"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Backbone", type_ = "string", json_path = ".spec.backbone.architecture", priority = 1),
    printcolumn(name = "Workers", type_ = "string", json_path = ".status.workers", priority = 1),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.progress.eta", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.runToken != oldSelf.runToken || self.task == oldSelf.task", "spec.task cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("self.runToken != oldSelf.runToken || self.backbone == oldSelf.backbone", "spec.backbone cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("self.runToken != oldSelf.runToken || self.data == oldSelf.data", "spec.data cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("self.runToken != oldSelf.runToken || (has(self.fineTune) == has(oldSelf.fineTune) && (!has(self.fineTune) || self.fineTune == oldSelf.fineTune))", "spec.fineTune cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("self.runToken != oldSelf.runToken || self.head == oldSelf.head", "spec.head cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("self.runToken != oldSelf.runToken || self.evaluation == oldSelf.evaluation", "spec.evaluation cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("self.runToken != oldSelf.runToken || (self.workers.replicas == oldSelf.workers.replicas && self.workers.processes == oldSelf.workers.processes && self.workers.gpus == oldSelf.workers.gpus)", "spec.workers cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("self.runToken != oldSelf.runToken || self.output == oldSelf.output", "spec.output cannot be changed within a run; change spec.runToken with it to start a new run"),
    validation = ("!has(self.fineTune) || self.fineTune.globalBatchSize >= self.workers.replicas * (self.workers.gpus > 0 ? self.workers.gpus : self.workers.processes)", "spec.fineTune.globalBatchSize must be at least the number of ranks (workers.replicas × gpus or processes): every rank needs a sample of each batch"),
    validation = ("self.task.type != 'regression' || !has(self.fineTune) || (self.fineTune.loss.name in ['mse', 'l1', 'huber'] && self.fineTune.loss.classWeights == 'equal' && double(self.fineTune.loss.labelSmoothing) == 0.0 && self.fineTune.sampling == 'all' && !has(self.fineTune.mix))", "a regression task has spec.fineTune.loss.name mse, l1 or huber, and neither class weights, label smoothing, balanced sampling nor mix"),
    validation = ("self.task.type == 'regression' || !has(self.fineTune) || self.fineTune.loss.name in ['crossEntropy', 'focal']", "spec.fineTune.loss.name: mse, l1 and huber are for regression tasks"),
    validation = ("self.task.type != 'multiLabel' || !has(self.fineTune) || self.fineTune.sampling != 'balanced'", "spec.fineTune.sampling: balanced needs one class per image; a multiLabel task has loss.classWeights: balanced"),
    validation = ("self.volumeMounts.all(m, self.volumes.exists(v, v.name == m.name))", "spec.volumeMounts names a volume that spec.volumes does not declare")
)]
pub struct TransferJobSpec {
    /// What is learned.
    #[serde(default)]
    pub task: Task,
    /// The pretrained network to start from.
    pub backbone: Backbone,
    /// The labelled target data.
    pub data: Data,
    /// Fine-tuning of the backbone. Without it the backbone stays as it is and only a head is trained on its features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine_tune: Option<FineTune>,
    /// The head that is trained on the extracted features. Default: a linear head.
    #[serde(default)]
    pub head: Head,
    /// How the result is judged on the test set.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// How many pods and processes train together. Default: one pod with one process.
    #[serde(default)]
    pub workers: Workers,
    /// What happens when a rank, a pod or a node is lost.
    #[serde(default)]
    pub recovery: Recovery,
    /// Where the model and the reports go.
    pub output: Output,
    /// Trainer image. Default: the image that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Volumes that hold the data, the weights and the output. Default: none.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub volumes: Vec<Volume>,
    /// Where the volumes appear in the trainer's container. Default: none.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["mountPath".into()]))]
    pub volume_mounts: Vec<Mount>,
    /// Labels a node must have to run a trainer pod. Default: any node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that trainer pods tolerate. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Environment of the trainer's container, for example proxies. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,
    /// Service account of the trainer pods; no token is mounted. Default: the namespace's `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// True stops the pods and keeps the checkpoints; false goes on from the newest one. Default: false.
    #[serde(default)]
    pub suspend: bool,
    /// Name of the run, of letters, digits, '.', '_' and '-'. A finished job starts again only when this changes. Default: "1".
    #[serde(default = "first_run")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    pub run_token: String,
}

fn first_run() -> String {
    "1".into()
}

/// What is learned.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.positiveClass) || size(self.classes) == 0 || self.positiveClass in self.classes", "spec.task.positiveClass must be one of spec.task.classes"),
    validation = ("self.type != 'classification' || size(self.classes) != 1", "spec.task.classes must name at least two classes, or none to take them from the training data"),
    validation = ("self.type != 'multiLabel' || (size(self.classes) > 0 && !has(self.positiveClass))", "a multiLabel task names its findings in spec.task.classes and has no positiveClass: each finding is judged by itself"),
    validation = ("self.type != 'regression' || (size(self.classes) == 0 && !has(self.positiveClass))", "a regression task has no classes and no positiveClass: spec.data.columns.label names the column with its number"),
    validation = ("self.classes.all(c, self.classes.exists_one(d, d == c))", "spec.task.classes names a class twice")
)]
pub struct Task {
    /// Kind of the task: `classification`, one class per image; `multiLabel`, each of the classes is there or not; or `regression`, a number
    /// per image. Default: classification.
    #[serde(default, rename = "type")]
    pub kind: TaskType,
    /// The classes in the order of the model's outputs. Default: the labels of the training data, sorted.
    #[serde(default)]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub classes: Vec<String>,
    /// The class that counts as positive in sensitivity, specificity, F1 and AUROC of a two-class task. Default: the last class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub positive_class: Option<String>,
}

impl Default for Task {
    fn default() -> Self {
        Self { kind: TaskType::Classification, classes: Vec::new(), positive_class: None }
    }
}

/// Kind of a task.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskType {
    /// One class per image.
    #[default]
    Classification,
    /// Each class is a finding that an image shows or not, and that may be unknown.
    MultiLabel,
    /// A number per image, such as an age or a volume.
    Regression,
}

/// What happens when a rank, a pod or a node is lost: the whole gang starts again from the newest checkpoint.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// How many restarts after failures are allowed; preemption and eviction do not count, errors in spec or data never restart. Default: 6.
    #[serde(default = "max_restarts")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_restarts: i32,
    /// Seconds before the first restart; doubled for each further one, at most 300. Default: 5.
    #[serde(default = "backoff_seconds")]
    #[schemars(range(min = 0, max = 300))]
    pub backoff_seconds: i32,
}

fn max_restarts() -> i32 {
    6
}

fn backoff_seconds() -> i32 {
    5
}

impl Default for Recovery {
    fn default() -> Self {
        Self { max_restarts: max_restarts(), backoff_seconds: backoff_seconds() }
    }
}

/// Where the model and the reports go.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// A folder as `file:///absolute/path` on a volume that all pods of the job mount. It gets model.safetensors, model.json,
    /// metrics.json, predictions.csv, history.csv and, last, manifest.json with their digests; checkpoints and features go to `.graft/` beside them.
    #[schemars(length(min = 9, max = 1024), regex(pattern = r"^file:///.+$"))]
    pub uri: String,
}
