//! What a tracer hears of the operator's work. The operator itself has none; `graft-operator-otel` brings one that sends
//! OpenTelemetry's traces. It is called in the midst of reconciles, so it must neither wait nor fail.

use graft_crds::TransferJob;
use graft_crds::status::TransferJobStatus;
use jiff::Timestamp;

use crate::metrics::Outcome;

/// A reconcile that is over.
#[derive(Clone, Debug)]
pub struct Reconcile {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed.
    pub error: Option<String>,
}

/// Hears what happens to TransferJobs.
pub trait Tracer: Send + Sync {
    /// A reconcile of the job, as the watch brought it, is over.
    fn reconciled(&self, job: &TransferJob, reconcile: &Reconcile);

    /// The status was written over that of `job`.
    fn status_written(&self, job: &TransferJob, after: &TransferJobStatus, now: Timestamp);

    /// The job is gone.
    fn forget(&self, uid: &str);

    /// The operator stops; what was heard is sent now or never.
    fn close(&self);
}
