//! What shall be done: objects to apply and to delete, the status to write, events to tell. A plan says what, never how.

use graft_crds::TransferJobStatus;
use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;

/// What one decision asks for. The default is: nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Objects to create, in this order of kinds; the Job comes last, so a Job that exists has its companions.
    pub apply: Vec<Child>,
    /// Objects to delete, in this order; the Job comes last, so that an interrupted deletion is taken up again.
    pub delete: Vec<ChildRef>,
    /// The status to write; `None` when the present one stands.
    pub status: Option<TransferJobStatus>,
    /// The status carries newer progress than the present one.
    pub carries_progress: bool,
    /// Events to send once the status is written.
    pub events: Vec<Event>,
    /// Look again after this time at the latest, even if nothing changes.
    pub next: Option<SignedDuration>,
}

impl Plan {
    /// Nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.delete.is_empty() && self.status.is_none() && self.events.is_empty()
    }
}

/// A child of a TransferJob.
#[derive(Clone, Debug, PartialEq)]
pub enum Child {
    /// The trainer's configuration.
    ConfigMap(Box<ConfigMap>),
    /// The names of the gang's pods.
    Service(Box<Service>),
    /// Who may speak to the gang's pods.
    NetworkPolicy(Box<NetworkPolicy>),
    /// The gang.
    Job(Box<Job>),
}

/// Kind of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChildKind {
    /// The trainer's configuration.
    ConfigMap,
    /// The names of the gang's pods.
    Service,
    /// Who may speak to the gang's pods.
    NetworkPolicy,
    /// The gang.
    Job,
}

/// A child that is to be deleted, in the TransferJob's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChildRef {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// Its UID where it is known; another object of the same name is left alone.
    pub uid: Option<String>,
}

/// Whether an event is good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Somebody may want to look.
    Warning,
}

/// Something to tell about the TransferJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Good or bad news.
    pub kind: EventKind,
    /// One CamelCase word.
    pub reason: String,
    /// What happened; at most 1,000 bytes.
    pub message: String,
}

impl Event {
    /// An event whose message is cut to what Kubernetes takes.
    #[must_use]
    pub fn new(kind: EventKind, reason: &str, message: &str) -> Self {
        Self {
            kind,
            reason: graft_crds::contract::truncate(reason, 128).to_owned(),
            message: graft_crds::contract::truncate(message, 1000).to_owned(),
        }
    }
}

/// Where progress can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressTarget {
    /// Address of index 0's pod.
    pub ip: String,
    /// Port of its agent.
    pub port: u16,
    /// Name of the attempt it works for; what another attempt said before is worth nothing.
    pub attempt: String,
}
