//! What a rank process tells its agent, one JSON object per line on its standard output, and how an agent starts it. What
//! libraries write to its standard error, the agent makes events of the log.

use graft_crds::contract::{ExitReason, OutputRef, Progress, RunIdentity, Stage, TrainerConfig, TrainerFailure};
use graft_trainer_core::report::HistoryRow;
use serde::{Deserialize, Serialize};

/// The first line on a rank's standard input; the end of that input means that the agent is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RankStart {
    /// The pod's configuration.
    pub config: TrainerConfig,
    /// Number of the rank in the gang.
    pub rank: u32,
    /// Number of the rank in its pod; the index of its GPU.
    pub local_rank: u32,
    /// Port of loopback where the store, or the way to it, is.
    pub store_port: u16,
    /// Each generation of a gang meets under a prefix of its own, so that no old member can enter a new one.
    pub generation: u32,
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// How far the job is.
    Progress(Progress),
    /// A sentence for the log.
    Log {
        /// The sentence.
        message: String,
    },
    /// An epoch is done.
    Epoch(HistoryRow),
    /// The first optimizer step is done.
    FirstStep {
        /// When the rank process started, in seconds since 1970.
        start_unix: f64,
        /// When the step was done, in seconds since 1970.
        first_step_unix: f64,
    },
    /// What the exchange of gradients cost a step on average, told once an epoch where there is more than one rank.
    Exchange(GradientExchange),
    /// Optimizer steps are done.
    Steps {
        /// Each of them.
        steps: Vec<StepTimes>,
    },
    /// A checkpoint is written.
    Checkpoint {
        /// How long training waited for it.
        seconds: f64,
    },
    /// The rank gives up.
    Failed(TrainerFailure),
    /// The model is written.
    Output(OutputRef),
}

impl Event {
    /// The stage that it tells of.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::Progress(progress) => Some(progress.stage),
            Self::Epoch(row) => Some(row.stage),
            Self::FirstStep { .. } | Self::Steps { .. } | Self::Exchange(_) | Self::Checkpoint { .. } => None,
            Self::Log { .. } | Self::Failed(_) | Self::Output(_) => None,
        }
    }

    /// A line of the pod's log: the event, and whose it is, so that the logs of all attempts of a job can lie in one place.
    /// `stage` is where the rank was last.
    #[must_use]
    pub fn line(&self, run: &RunIdentity, rank: u32, stage: Option<Stage>) -> String {
        let mut line = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = line.as_object_mut() {
            fields.insert("namespace".into(), run.namespace.as_str().into());
            fields.insert("name".into(), run.name.as_str().into());
            fields.insert("run".into(), run.id.as_str().into());
            // Rows of the history and failures name these themselves.
            fields.entry("attempt").or_insert(run.attempt.into());
            fields.entry("rank").or_insert(rank.into());
            if let Some(stage) = stage {
                fields.entry("stage").or_insert(stage.name().into());
            }
        }
        line.to_string()
    }
}

/// How gradients went to the other ranks in the steps so far, of which torch measures the first ten and then one of a hundred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientExchange {
    /// Bytes of each bucket, in the order in which they are sent.
    pub bucket_bytes: Vec<u64>,
    /// Mean seconds of sending and receiving in a step.
    pub seconds: f64,
    /// Of these, seconds under the backward pass.
    pub overlapped_seconds: f64,
}

/// Where the time of one step went, in seconds. Communication overlaps with the backward pass and is a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Images of this rank.
    pub samples: u64,
    /// Reading and normalising images.
    pub data: f64,
    /// Forward pass and loss.
    pub forward: f64,
    /// Backward pass with the gradients' exchange.
    pub backward: f64,
    /// The optimizer.
    pub optimizer: f64,
}

/// A failure with its class; every `?` in a rank ends here.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// Class and exit code.
    pub exit: ExitReason,
    /// One CamelCase word.
    pub reason: String,
    /// What, where, and what to do.
    pub message: String,
    /// Each place of it, for the log, where the message has room for some of them only.
    pub places: Vec<String>,
}

impl Failure {
    /// A failure of this class.
    pub fn new(exit: ExitReason, reason: &str, message: impl Into<String>) -> Self {
        Self { exit, reason: reason.into(), message: message.into(), places: Vec::new() }
    }

    /// The spec or a file it names is wrong.
    pub fn user(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ExitReason::UserError, reason, message)
    }

    /// A checkpoint or an output cannot be written or read.
    pub fn storage(what: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self::new(ExitReason::CheckpointError, "StorageFailed", format!("{}: {error}; check the volume of spec.output.uri", what.display()))
    }

    /// As the contract carries it.
    #[must_use]
    pub fn of_rank(&self, rank: Option<u32>) -> TrainerFailure {
        TrainerFailure { exit: self.exit, reason: self.reason.clone(), message: self.message.clone(), rank }
    }
}

impl From<graft_torch::Error> for Failure {
    fn from(error: graft_torch::Error) -> Self {
        let text = error.to_string();
        if error.kind.is_collective() {
            Self::new(ExitReason::CollectiveLost, "PeerLost", text)
        } else if text.contains("out of memory") || text.contains("can't allocate memory") {
            Self::new(ExitReason::DeviceError, "OutOfMemory", format!("{text}; lower spec.fineTune.globalBatchSize or ask for more memory"))
        } else if text.contains("CUDA") {
            Self::new(ExitReason::DeviceError, "DeviceFailed", text)
        } else {
            Self::new(ExitReason::Bug, "TorchFailed", text)
        }
    }
}

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Self {
        graft_torch::Error::from_tch("compute", &error).into()
    }
}

impl From<graft_data::DataError> for Failure {
    fn from(error: graft_data::DataError) -> Self {
        Self { places: error.unshown(), ..Self::new(ExitReason::DataError, error.reason(), error.to_string()) }
    }
}

impl From<crate::models::ModelError> for Failure {
    fn from(error: crate::models::ModelError) -> Self {
        match error {
            crate::models::ModelError::UnknownLayer { .. } => Self::user("UnknownLayer", format!("spec.fineTune.unfreeze: {error}")),
            crate::models::ModelError::Classes(_) => Self::user("InvalidTask", format!("spec.task.classes: {error}")),
            crate::models::ModelError::Torch(error) => error.into(),
        }
    }
}

impl From<crate::weights::WeightsError> for Failure {
    fn from(error: crate::weights::WeightsError) -> Self {
        use crate::weights::WeightsError;
        let text = format!("spec.backbone.weights: {error}");
        match error {
            WeightsError::Io { .. } => Self::user("WeightsNotFound", format!("{text}; check uri and the volume that holds it")),
            WeightsError::Unreachable { permanent: true, .. } => Self::user("WeightsNotFound", text),
            WeightsError::Unreachable { permanent: false, .. } => Self::new(ExitReason::CheckpointError, "WeightsUnreachable", text),
            WeightsError::Digest { .. } => Self::user("WeightsDigestMismatch", text),
            WeightsError::Format { .. } => Self::user("WeightsUnreadable", format!("{text}; copy the file again")),
            WeightsError::Fit { .. } => Self::user("WeightsDoNotFit", format!("{text}; check spec.backbone.architecture")),
            WeightsError::Torch(error) => error.into(),
        }
    }
}

use graft_torch::tch;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is_and_is_still_the_event() {
        let run = RunIdentity { namespace: "radiology".into(), name: "lung-ct".into(), id: "lung-ct-1".into(), attempt: 2 };
        let event = Event::Log { message: "hello".into() };
        let line = event.line(&run, 3, Some(Stage::FineTune));
        let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
        let own = serde_json::json!({"event": "log", "message": "hello", "namespace": "radiology", "name": "lung-ct", "run": "lung-ct-1", "attempt": 2, "rank": 3, "stage": "fineTune"});
        assert_eq!(fields, own);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        assert!(!event.line(&run, 3, None).contains("stage"));
    }
}
