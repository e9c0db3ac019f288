//! What the operator knows when it decides, and how little of a Job and a pod it keeps in memory. Nothing here
//! judges; a pod in whatever odd state becomes a view without an error.

use graft_crds::TransferJob;
use graft_crds::contract::Progress;
use graft_crds::names::{ANNOTATION_POD, CONTAINER, LABEL_ATTEMPT, LABEL_RUN};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Label of a pod of an Indexed Job: its index, from 0.
const LABEL_INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A pod that is still there so long after its grace period is on a node that is gone; nobody waits for it.
const OVERDUE: SignedDuration = SignedDuration::from_secs(30);

/// Everything that one decision is made from.
#[derive(Clone, Debug)]
pub struct World {
    /// The TransferJob with its present status.
    pub job: TransferJob,
    /// The time of the decision.
    pub now: Timestamp,
    /// What holds for all jobs.
    pub settings: Settings,
    /// All Jobs of this TransferJob, of any run and attempt.
    pub jobs: Vec<JobView>,
    /// All pods of this TransferJob, of any run and attempt.
    pub pods: Vec<PodView>,
    /// What `/progress` of the running attempt's index 0 said last.
    pub progress: Option<Progress>,
    /// When progress was last written to status; `None` after a start of the operator.
    pub progress_written: Option<Timestamp>,
}

/// What holds for all jobs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of jobs that name none.
    pub trainer_image: String,
    /// Least time between two writes of progress, in seconds.
    pub progress_interval_seconds: i64,
}

/// How a Job ended, as its controller says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// Not ended.
    Active,
    /// All indexes succeeded.
    Complete,
    /// Failed, with the controller's message.
    Failed(String),
}

/// What is kept of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// Its name, also that of the attempt's Service and ConfigMap.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// It is being deleted.
    pub deleting: bool,
    /// How it ended.
    pub outcome: JobOutcome,
    /// Digest of the pod template it was made with.
    pub pod_digest: Option<String>,
}

/// Phase of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Not all containers were started.
    Pending,
    /// The container was started.
    Running,
    /// Ended with exit code 0.
    Succeeded,
    /// Ended otherwise.
    Failed,
}

/// State of the trainer's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// The kubelet has said nothing yet.
    Unknown,
    /// Not started.
    Waiting {
        /// One word, such as `ImagePullBackOff`.
        reason: String,
        /// The details.
        message: String,
    },
    /// Runs.
    Running,
    /// Ended.
    Terminated {
        /// Exit code of its process.
        code: i32,
        /// Signal that ended it, where the runtime names it.
        signal: Option<i32>,
        /// One word, such as `OOMKilled`.
        reason: String,
        /// The termination message.
        message: String,
        /// When it ended.
        finished: Option<Timestamp>,
    },
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Identity of the run it belongs to.
    pub run: String,
    /// The attempt it belongs to.
    pub attempt: Option<u32>,
    /// Its index in the gang.
    pub index: Option<u32>,
    /// Its phase.
    pub phase: PodPhase,
    /// Its address.
    pub ip: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// When its grace period ends, if it is being deleted.
    pub deleted_by: Option<Timestamp>,
    /// Why it was preempted, evicted or drained, if it was: a reason and a message.
    pub disrupted: Option<(String, String)>,
    /// Why no node takes it.
    pub unschedulable: Option<String>,
    /// The kubelet's own words on a failed pod: a reason and a message.
    pub status: (String, String),
    /// The trainer's container.
    pub container: Container,
}

fn label(meta: &ObjectMeta, key: &str) -> Option<String> {
    meta.labels.as_ref()?.get(key).cloned()
}

impl JobView {
    /// The view of a Job; `None` for a Job without a name.
    #[must_use]
    pub fn of(job: &Job) -> Option<Self> {
        let mut outcome = JobOutcome::Active;
        for condition in job.status.iter().flat_map(|s| s.conditions.iter().flatten()).filter(|c| c.status == "True") {
            match condition.type_.as_str() {
                "Complete" => outcome = JobOutcome::Complete,
                "Failed" => outcome = JobOutcome::Failed(condition.message.clone().unwrap_or_default()),
                _ => {}
            }
        }
        Some(Self {
            name: job.metadata.name.clone()?,
            uid: job.metadata.uid.clone().unwrap_or_default(),
            deleting: job.metadata.deletion_timestamp.is_some(),
            outcome,
            pod_digest: job.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_POD).cloned()),
        })
    }
}

impl PodView {
    /// The view of a pod; `None` for a pod without a name.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let none = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&none);
        Some(Self {
            name: pod.metadata.name.clone()?,
            run: label(&pod.metadata, LABEL_RUN).unwrap_or_default(),
            attempt: label(&pod.metadata, LABEL_ATTEMPT).and_then(|a| a.parse().ok()),
            index: label(&pod.metadata, LABEL_INDEX).and_then(|i| i.parse().ok()),
            phase: match status.phase.as_deref() {
                Some("Running") => PodPhase::Running,
                Some("Succeeded") => PodPhase::Succeeded,
                Some("Failed") => PodPhase::Failed,
                Some(_) | None => PodPhase::Pending,
            },
            ip: status.pod_ip.clone().filter(|ip| !ip.is_empty()),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            deleted_by: pod.metadata.deletion_timestamp.as_ref().map(|t| t.0),
            disrupted: disruption(status),
            unschedulable: condition(status, "PodScheduled", "False").filter(|(reason, _)| reason == "Unschedulable").map(|(_, message)| message),
            status: (status.reason.clone().unwrap_or_default(), status.message.clone().unwrap_or_default()),
            container: container(status),
        })
    }

    /// The pod may still compute or write: it has not ended, and it is not on a node that is gone.
    #[must_use]
    pub fn is_waited_for(&self, now: Timestamp) -> bool {
        let overdue = self.deleted_by.and_then(|t| t.checked_add(OVERDUE).ok()).is_some_and(|t| t <= now);
        !self.has_ended() && !overdue
    }

    /// The pod holds no GPU and no volume any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self.phase {
            PodPhase::Succeeded | PodPhase::Failed => true,
            PodPhase::Pending | PodPhase::Running => false,
        }
    }
}

fn condition(status: &PodStatus, kind: &str, value: &str) -> Option<(String, String)> {
    let found = status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == value)?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

/// The condition DisruptionTarget, or one of the kubelet's own reasons to put an end to a pod that did nothing wrong.
fn disruption(status: &PodStatus) -> Option<(String, String)> {
    condition(status, "DisruptionTarget", "True").or_else(|| {
        let reason = status.reason.as_deref()?;
        matches!(reason, "Evicted" | "Preempting" | "Preempted" | "Shutdown" | "NodeShutdown" | "Terminated" | "NodeLost")
            .then(|| (reason.to_owned(), status.message.clone().unwrap_or_default()))
    })
}

fn container(status: &PodStatus) -> Container {
    let state = status.container_statuses.iter().flatten().find(|c| c.name == CONTAINER).and_then(|c| c.state.as_ref());
    match state {
        Some(ContainerState { terminated: Some(t), .. }) => Container::Terminated {
            code: t.exit_code,
            signal: t.signal.filter(|s| *s > 0),
            reason: t.reason.clone().unwrap_or_default(),
            message: t.message.clone().unwrap_or_default(),
            finished: t.finished_at.as_ref().map(|f| f.0),
        },
        Some(ContainerState { running: Some(_), .. }) => Container::Running,
        Some(ContainerState { waiting: Some(w), .. }) => {
            Container::Waiting { reason: w.reason.clone().unwrap_or_default(), message: w.message.clone().unwrap_or_default() }
        }
        Some(_) | None => Container::Unknown,
    }
}
