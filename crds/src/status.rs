//! What the operator tells: `TransferJob.status`. Fractions are strings, because Kubernetes forbids floats in stored types.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::{ExitReason, Stage};

/// What the operator knows of the job.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferJobStatus {
    /// Where the job stands, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Suspended, Running, Complete, Failed, DataChecked, ShortcutSuspected, and kstatus' Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The spec.runToken of the run that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_token: Option<String>,
    /// Number of the current attempt of the run, from 0; each restart of the gang is a new attempt.
    #[serde(default)]
    pub attempt: i32,
    /// The stage that runs or ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// How far the job is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// Metrics on the test set; before it is reached, on the validation set with the prefix `validation_`. At the end also `frozen_tensors` and how many of them
    /// training changed all the same, `frozen_tensors_changed`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, String>,
    /// The first metric of spec.evaluation.metrics, as `auroc=0.941`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<String>,
    /// Pods × processes, as `2x1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<String>,
    /// How often the gang was started again.
    #[serde(default)]
    pub restarts: Restarts,
    /// The newest checkpoint that is safely written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// What the doctor found in the data; the pairs are in data.json of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStatus>,
    /// The first failure of the last attempt that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The written model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputStatus>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the run's first pod was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Not before this time is the next attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_not_before: Option<Time>,
}

/// Where a job stands.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Seen, nothing created yet.
    #[default]
    Pending,
    /// The gang's pods are asked for but do not all run.
    Starting,
    /// The whole gang runs.
    Running,
    /// An attempt failed; the next one starts after the backoff.
    Restarting,
    /// Stopped by spec.suspend, or with an operator that was uninstalled.
    Suspended,
    /// The model is written.
    Succeeded,
    /// Ended without a model; status.failure says why.
    Failed,
}

impl Phase {
    /// Every phase.
    pub const ALL: &'static [Self] =
        &[Self::Pending, Self::Starting, Self::Running, Self::Restarting, Self::Suspended, Self::Succeeded, Self::Failed];

    /// The name in status and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Restarting => "Restarting",
            Self::Suspended => "Suspended",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// A run in this phase is over; only another spec.runToken starts the job again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Starting | Self::Running | Self::Restarting | Self::Suspended => false,
        }
    }
}

/// How far a job is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// Share of the whole job that is done, as `63%`.
    pub summary: String,
    /// Share of the whole job that is done, 0 to 100.
    pub percent: i32,
    /// Epochs of the current stage that are done.
    #[serde(default)]
    pub epoch: i64,
    /// Epochs of the current stage.
    #[serde(default)]
    pub epochs: i64,
    /// Optimizer steps that are in no checkpoint yet.
    #[serde(default)]
    pub unsaved_steps: i64,
    /// Images per second over the whole gang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<String>,
    /// Estimated time that is left, as `4m10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
}

/// What the doctor found in the data.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataStatus {
    /// Images that were looked at.
    pub images: i64,
    /// Images that cannot be decoded and were left out.
    #[serde(default)]
    pub skipped: i64,
    /// Pairs of the same picture in two splits, exactly or nearly.
    pub pairs_across_splits: i64,
    /// Pairs of the same picture under two labels.
    pub label_conflicts: i64,
    /// Images left out because a later split has their picture.
    #[serde(default)]
    pub left_out: i64,
    /// Features that tell the label and should not, the strongest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortcuts: Vec<String>,
}

impl DataStatus {
    /// Pairs of the same picture that training and tests still have in two splits: none of them, where what repeats is left out.
    #[must_use]
    pub fn leaks(&self) -> i64 {
        if self.left_out > 0 { 0 } else { self.pairs_across_splits }
    }
}

/// How often the gang was started again, by cause.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restarts {
    /// All restarts of this run.
    #[serde(default)]
    pub total: i32,
    /// Restarts after failures; spec.recovery.maxRestarts limits these.
    #[serde(default)]
    pub failures: i32,
    /// Restarts after preemption, eviction or a drained node; not limited.
    #[serde(default)]
    pub preemptions: i32,
}

/// The newest checkpoint that is safely written.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// Epochs that it holds.
    pub epoch: i64,
    /// SHA-256 of its manifest.
    pub digest: String,
    /// When the operator learned of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Time>,
}

/// Why an attempt failed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Class of the failure; it decides whether the job starts again.
    pub class: FailureClass,
    /// What went wrong in one CamelCase word.
    pub reason: String,
    /// What went wrong, where, and what to do.
    pub message: String,
    /// The pod that failed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The rank that failed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<i32>,
    /// Exit code of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// Class of a failure.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureClass {
    /// The spec or a file it names is wrong. Never restarts.
    UserError,
    /// The data is wrong. Never restarts.
    DataError,
    /// A device failed or ran out of memory.
    DeviceError,
    /// A peer was lost in a collective operation.
    CollectiveLost,
    /// A checkpoint or an output could not be written or read.
    CheckpointError,
    /// Preempted, evicted or drained. Restarts without being counted.
    Preempted,
    /// The container was killed or the pod was lost.
    PodLost,
    /// The pod could not be started: image, configuration or volume.
    PodNotStarted,
    /// A defect of the trainer.
    Bug,
}

impl FailureClass {
    /// Every class.
    pub const ALL: &'static [Self] = &[
        Self::UserError,
        Self::DataError,
        Self::DeviceError,
        Self::CollectiveLost,
        Self::CheckpointError,
        Self::Preempted,
        Self::PodLost,
        Self::PodNotStarted,
        Self::Bug,
    ];

    /// The name in status, events and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UserError => "UserError",
            Self::DataError => "DataError",
            Self::DeviceError => "DeviceError",
            Self::CollectiveLost => "CollectiveLost",
            Self::CheckpointError => "CheckpointError",
            Self::Preempted => "Preempted",
            Self::PodLost => "PodLost",
            Self::PodNotStarted => "PodNotStarted",
            Self::Bug => "Bug",
        }
    }
}

impl From<ExitReason> for FailureClass {
    fn from(reason: ExitReason) -> Self {
        match reason {
            ExitReason::UserError => Self::UserError,
            ExitReason::DataError => Self::DataError,
            ExitReason::DeviceError => Self::DeviceError,
            ExitReason::CollectiveLost => Self::CollectiveLost,
            ExitReason::CheckpointError => Self::CheckpointError,
            ExitReason::Preempted => Self::Preempted,
            ExitReason::Ok | ExitReason::Bug => Self::Bug,
        }
    }
}

/// The written model.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputStatus {
    /// Where it lies.
    pub uri: String,
    /// SHA-256 of its manifest.json, which holds the digests of all files.
    pub digest: String,
}
