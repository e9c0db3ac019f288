//! The contract between operator and trainer: the configuration that a trainer pod reads, what it tells over HTTP and
//! in its termination message, and its exit codes. The trainer never sees the TransferJob itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::spec::{Backbone, Data, Evaluation, FineTune, Head, Output, Task, TransferJobSpec};

/// Version of this contract; a trainer refuses a configuration of another version.
pub const CONTRACT_VERSION: u32 = 1;

/// Kubernetes keeps at most this much of a termination message, in bytes.
pub const TERMINATION_MESSAGE_LIMIT: usize = 4096;

/// Port of the agent's `/progress`, `/metrics` and `/healthz`.
pub const HTTP_PORT: u16 = 9480;

/// Port of the rendezvous store in index 0's agent.
pub const RENDEZVOUS_PORT: u16 = 9481;

/// Everything a trainer pod needs to know; the same for all pods of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainerConfig {
    /// [`CONTRACT_VERSION`] of the writer.
    pub contract_version: u32,
    /// Which run and attempt this is.
    pub run: RunIdentity,
    /// Size and meeting point of the gang.
    pub gang: Gang,
    /// What is learned.
    pub task: Task,
    /// The network to start from.
    pub backbone: Backbone,
    /// The labelled data.
    pub data: Data,
    /// Fine-tuning, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine_tune: Option<FineTune>,
    /// The head.
    pub head: Head,
    /// Metrics of the test set.
    pub evaluation: Evaluation,
    /// Where everything goes.
    pub output: Output,
}

/// Which run and attempt a trainer works for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// Namespace of the TransferJob; `local` for `graft run`.
    pub namespace: String,
    /// Name of the TransferJob.
    pub name: String,
    /// Identity of the run: checkpoints of one run are never read by another.
    pub id: String,
    /// Number of the attempt, from 0.
    pub attempt: u32,
}

/// Size and meeting point of a gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gang {
    /// Number of pods.
    pub replicas: u32,
    /// Rank processes in each pod.
    pub processes: u32,
    /// What the ranks compute on.
    pub device: Device,
    /// Threads of each rank process.
    pub threads: u32,
    /// Host of index 0's agent.
    pub rendezvous_host: String,
    /// Port of the store in index 0's agent; 0 takes a free one, for a gang of one pod.
    pub rendezvous_port: u16,
    /// Port of each agent's HTTP server; 0 takes a free one.
    pub http_port: u16,
}

impl Gang {
    /// Number of rank processes.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        self.replicas * self.processes
    }
}

/// What the ranks compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Device {
    /// Gloo between processes.
    Cpu,
    /// NCCL between processes, one GPU each.
    Cuda,
}

impl TrainerConfig {
    /// The configuration of one attempt of a job. Both the operator and `graft run` render it here, so that they train the same.
    #[must_use]
    pub fn render(spec: &TransferJobSpec, run: RunIdentity, gang: Gang) -> Self {
        Self {
            contract_version: CONTRACT_VERSION,
            run,
            gang,
            task: spec.task.clone(),
            backbone: spec.backbone.clone(),
            data: spec.data.clone(),
            fine_tune: spec.fine_tune.clone(),
            head: spec.head.clone(),
            evaluation: spec.evaluation.clone(),
            output: spec.output.clone(),
        }
    }

    /// Read a configuration and check its version first, so that skew is named as such and not as an odd field.
    ///
    /// # Errors
    /// The text is no JSON, of another version, or has a field that this trainer does not know.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("contractVersion").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(CONTRACT_VERSION) => Ok(serde_json::from_value(value)?),
            version => Err(ConfigError::Version { found: version }),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not this shape.
    #[error("trainer configuration: {0}; operator and trainer must be of the same release")]
    Json(#[from] serde_json::Error),
    /// Another contract version.
    #[error(
        "trainer configuration has contract version {found:?}, this trainer speaks {CONTRACT_VERSION}; use the trainer image of the operator's release"
    )]
    Version {
        /// What it said.
        found: Option<u64>,
    },
}

/// Identity of a run: SHA-256 of the job's UID and the run token, 16 hexadecimal digits.
#[must_use]
pub fn run_id(uid: &str, run_token: &str) -> String {
    let digest = Sha256::new().chain_update(uid).chain_update([0]).chain_update(run_token).finalize();
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Why a trainer ended; its exit code tells the operator whether to start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitReason {
    /// The model is written. Exit code 0.
    Ok,
    /// The spec or a file it names is wrong; never started again. Exit code 64.
    UserError,
    /// The data is wrong; never started again. Exit code 65.
    DataError,
    /// A device failed or is out of memory. Exit code 69.
    DeviceError,
    /// A defect of the trainer. Exit code 70.
    Bug,
    /// A checkpoint or an output could not be written or read. Exit code 74.
    CheckpointError,
    /// Stopped by SIGTERM; never exits 0 then. Exit code 85.
    Preempted,
    /// A peer was lost. Exit code 86.
    CollectiveLost,
}

impl ExitReason {
    /// Every reason.
    pub const ALL: &'static [Self] =
        &[Self::Ok, Self::UserError, Self::DataError, Self::DeviceError, Self::Bug, Self::CheckpointError, Self::Preempted, Self::CollectiveLost];

    /// The exit code of the process.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::UserError => 64,
            Self::DataError => 65,
            Self::DeviceError => 69,
            Self::Bug => 70,
            Self::CheckpointError => 74,
            Self::Preempted => 85,
            Self::CollectiveLost => 86,
        }
    }

    /// The reason behind an exit code, if the trainer itself chose it.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| i32::from(r.code()) == code)
    }

    /// Starting again cannot help: the user must change something.
    #[must_use]
    pub fn is_permanent(self) -> bool {
        match self {
            Self::UserError | Self::DataError => true,
            Self::Ok | Self::DeviceError | Self::Bug | Self::CheckpointError | Self::Preempted | Self::CollectiveLost => false,
        }
    }
}

/// A stage of a job, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Weights and data are read and checked.
    Prepare,
    /// The unfrozen layers are trained.
    FineTune,
    /// The backbone runs once over all data.
    Features,
    /// The head is trained on the features.
    Head,
    /// The model is judged on the test set.
    Evaluate,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Prepare, Self::FineTune, Self::Features, Self::Head, Self::Evaluate];

    /// The name in status, reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::FineTune => "fineTune",
            Self::Features => "features",
            Self::Head => "head",
            Self::Evaluate => "evaluate",
        }
    }
}

/// How far a trainer is: the body of `/progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The stage that runs.
    pub stage: Stage,
    /// Epochs of this stage that are done.
    pub epoch: u64,
    /// Epochs of this stage.
    pub epochs: u64,
    /// Optimizer steps of this attempt that are done; more than 0 means that training has begun.
    pub step: u64,
    /// Of these, steps that are in no checkpoint yet: what the loss of a node would take.
    #[serde(default)]
    pub unsaved_steps: u64,
    /// Share of the whole job that is done, 0 to 100.
    pub percent: f64,
    /// Images per second over the whole gang, of late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Estimated seconds that are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    /// Training loss of the last epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Metrics by name; those of the validation set have the prefix `validation_`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// The newest checkpoint that is safely written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointRef>,
    /// What the doctor found, once the data was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataFindings>,
}

/// What the doctor found in the data, in numbers; the pairs themselves are in `data.json` of the output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataFindings {
    /// Images that were looked at.
    pub images: u64,
    /// Images that cannot be decoded and were left out.
    #[serde(default)]
    pub skipped: u64,
    /// Pairs of the same picture in two splits, exactly or nearly.
    pub pairs_across_splits: u64,
    /// Pairs of the same picture under two labels.
    pub label_conflicts: u64,
    /// Images that were left out because a later split has the same picture.
    #[serde(default)]
    pub left_out: u64,
    /// Features that tell the label and should not, the strongest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortcuts: Vec<ShortcutFinding>,
}

/// A feature that predicts a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShortcutFinding {
    /// What predicts it.
    pub feature: ShortcutFeature,
    /// The class that is predicted best, against all others.
    pub class: String,
    /// Cross-validated AUROC.
    pub auroc: f64,
}

/// What of an image is not the disease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShortcutFeature {
    /// Mean and spread of the outermost sixteenth of each side.
    BorderPixels,
    /// Width and height.
    ImageSize,
    /// Width divided by height.
    AspectRatio,
    /// Bits and channels per pixel.
    BitDepth,
    /// JPEG, PNG, …
    FileFormat,
    /// The folder that the file lies in; not in class folders, where it is the label.
    SourceFolder,
}

impl ShortcutFeature {
    /// Every feature.
    pub const ALL: [Self; 6] = [Self::BorderPixels, Self::ImageSize, Self::AspectRatio, Self::BitDepth, Self::FileFormat, Self::SourceFolder];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BorderPixels => "border pixels",
            Self::ImageSize => "image size",
            Self::AspectRatio => "aspect ratio",
            Self::BitDepth => "bit depth",
            Self::FileFormat => "file format",
            Self::SourceFolder => "source folder",
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            stage: Stage::Prepare,
            epoch: 0,
            epochs: 0,
            step: 0,
            unsaved_steps: 0,
            percent: 0.0,
            samples_per_second: None,
            eta_seconds: None,
            loss: None,
            metrics: BTreeMap::new(),
            checkpoint: None,
            data: None,
        }
    }
}

/// A checkpoint that is safely written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointRef {
    /// Epochs that it holds.
    pub epoch: u64,
    /// SHA-256 of its manifest.
    pub digest: String,
}

/// What went wrong, as the trainer saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainerFailure {
    /// Class, and exit code.
    pub exit: ExitReason,
    /// One CamelCase word, such as `PatientInTwoSplits`.
    pub reason: String,
    /// What, where, and what to do.
    pub message: String,
    /// The rank that failed first, if it was a rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
}

/// The written model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputRef {
    /// Where it lies.
    pub uri: String,
    /// SHA-256 of its manifest.json.
    pub digest: String,
}

/// The last word of a trainer pod: its termination message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminationSummary {
    /// Why it ended.
    pub exit: ExitReason,
    /// How far it was.
    pub progress: Progress,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<TrainerFailure>,
    /// The written model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputRef>,
}

impl TerminationSummary {
    /// The summary as JSON of at most [`TERMINATION_MESSAGE_LIMIT`] bytes; a longer failure message is cut and says so.
    #[must_use]
    pub fn to_message(&self) -> String {
        let mut summary = self.clone();
        loop {
            let text = serde_json::to_string(&summary).unwrap_or_default();
            let over = text.len().saturating_sub(TERMINATION_MESSAGE_LIMIT);
            match &mut summary.failure {
                Some(failure) if over > 0 && !failure.message.is_empty() => {
                    let keep = failure.message.len().saturating_sub(over + 32);
                    failure.message = format!("{} … (cut)", truncate(&failure.message, keep));
                    if keep == 0 {
                        failure.message.clear();
                    }
                }
                _ => return text,
            }
        }
    }

    /// Read a termination message; anything that is no summary is `None`.
    #[must_use]
    pub fn from_message(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The longest prefix of at most `limit` bytes that ends on a character.
#[must_use]
pub fn truncate(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_found_again() {
        let codes: std::collections::BTreeSet<_> = ExitReason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), ExitReason::ALL.len());
        for reason in ExitReason::ALL {
            assert_eq!(ExitReason::from_code(i32::from(reason.code())), Some(*reason));
        }
        assert_eq!(ExitReason::from_code(137), None);
    }

    #[test]
    fn a_long_message_is_cut_to_what_kubernetes_keeps() {
        for length in [10, 3900, 4096, 50_000] {
            let failure =
                TrainerFailure { exit: ExitReason::DataError, reason: "UndecodableInput".into(), message: "ä\"".repeat(length / 2), rank: Some(1) };
            let summary = TerminationSummary { exit: ExitReason::DataError, progress: Progress::default(), failure: Some(failure), output: None };
            let text = summary.to_message();
            assert!(text.len() <= TERMINATION_MESSAGE_LIMIT, "{} bytes", text.len());
            let read = TerminationSummary::from_message(&text).unwrap();
            assert_eq!(read.failure.unwrap().reason, "UndecodableInput");
        }
    }

    #[test]
    fn a_run_token_makes_another_run() {
        assert_ne!(run_id("uid", "1"), run_id("uid", "2"));
        assert_ne!(run_id("ab", "c"), run_id("a", "bc"));
        assert_eq!(run_id("uid", "1").len(), 16);
    }

    #[test]
    fn another_version_is_named_as_such() {
        let error = TrainerConfig::parse(r#"{"contractVersion": 99, "unheardOf": 1}"#).unwrap_err();
        assert!(error.to_string().contains("99"), "{error}");
    }
}
