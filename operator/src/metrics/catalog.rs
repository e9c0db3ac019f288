//! Every metric of the operator with its help and labels: what registers them and what documents them reads this table.
//! Labels are values of enums, the job's namespace and, in the series of single jobs, its name. Nothing else: no pod, no message,
//! nothing that came from a trainer.

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the operator lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it tells, with the unit.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

const fn metric(kind: Kind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, help, labels }
}

const JOB: &[&str] = &["namespace", "transferjob"];
const CONTROLLER: &[&str] = &["controller"];
const QUEUE: &[&str] = &["controller", "name"];

pub(super) const RECONCILES: Metric = metric(
    Kind::Counter,
    "controller_runtime_reconcile_total",
    &["controller", "result"],
    "Total number of reconciliations per controller by result: success, requeue_after or error",
);
pub(super) const ERRORS: Metric =
    metric(Kind::Counter, "controller_runtime_reconcile_errors_total", CONTROLLER, "Total number of reconciliation errors per controller");
pub(super) const SECONDS: Metric =
    metric(Kind::Histogram, "controller_runtime_reconcile_time_seconds", CONTROLLER, "Length of time per reconciliation per controller");
pub(super) const ACTIVE: Metric =
    metric(Kind::Gauge, "controller_runtime_active_workers", CONTROLLER, "Number of currently used workers per controller");
pub(super) const WORKERS: Metric =
    metric(Kind::Gauge, "controller_runtime_max_concurrent_reconciles", CONTROLLER, "Maximum number of concurrent reconciles per controller");
pub(super) const DEPTH: Metric = metric(Kind::Gauge, "workqueue_depth", QUEUE, "TransferJobs that wait for a reconcile");
pub(super) const ADDS: Metric =
    metric(Kind::Counter, "workqueue_adds_total", QUEUE, "Changes of TransferJobs and their children that asked for a reconcile");
pub(super) const WAITS: Metric =
    metric(Kind::Histogram, "workqueue_queue_duration_seconds", QUEUE, "How long a TransferJob waits before its reconcile begins");
pub(super) const WORK: Metric = metric(Kind::Histogram, "workqueue_work_duration_seconds", QUEUE, "How long a reconcile takes");
pub(super) const UNFINISHED: Metric =
    metric(Kind::Gauge, "workqueue_unfinished_work_seconds", QUEUE, "Sum of the time that running reconciles have taken so far");
pub(super) const LONGEST: Metric =
    metric(Kind::Gauge, "workqueue_longest_running_processor_seconds", QUEUE, "How long the longest running reconcile has taken so far");
pub(super) const RETRIES: Metric = metric(Kind::Counter, "workqueue_retries_total", QUEUE, "Reconciles that are tried again after an error");
pub(super) const REQUESTS: Metric = metric(
    Kind::Counter,
    "rest_client_requests_total",
    &["code", "method"],
    "Requests to the API server by status code and method; <error> where there was no answer",
);
pub(super) const REQUEST_SECONDS: Metric = metric(
    Kind::Histogram,
    "rest_client_request_duration_seconds",
    &["verb"],
    "Time to the head of the API server's answer by method; a watch counts until it begins",
);

pub(super) const BUILD: Metric = metric(Kind::Gauge, "graft_build_info", &["version"], "Always 1; the version of the operator");
pub(super) const PULLS: Metric =
    metric(Kind::Counter, "graft_progress_pulls_total", &["result"], "Questions to trainers for their progress by result: success or error");
pub(super) const CREATED: Metric = metric(Kind::Counter, "graft_jobs_created_total", &["namespace"], "Runs of TransferJobs that were taken up");
pub(super) const SUCCEEDED: Metric = metric(Kind::Counter, "graft_jobs_succeeded_total", &["namespace"], "Runs that ended with a model");
pub(super) const FAILED: Metric =
    metric(Kind::Counter, "graft_jobs_failed_total", &["namespace", "class"], "Runs that ended without a model by class of the failure");
pub(super) const RESTARTS: Metric = metric(
    Kind::Counter,
    "graft_gang_restarts_total",
    &["namespace", "class"],
    "Gangs that were started again by class of the failure; Preempted is not counted against a job",
);
pub(super) const LOST_EPOCHS: Metric = metric(
    Kind::Counter,
    "graft_lost_epochs_total",
    &["namespace"],
    "Epochs of fine-tuning that were in no checkpoint when their gang was lost; as exact as progress is read",
);
pub(super) const LOST_STEPS: Metric = metric(
    Kind::Counter,
    "graft_lost_steps_total",
    &["namespace"],
    "Optimizer steps of fine-tuning that were in no checkpoint when their gang was lost; as exact as progress is read",
);
pub(super) const QUEUE_WAIT: Metric = metric(
    Kind::Histogram,
    "graft_queue_wait_seconds",
    &[],
    "From asking for a run's first pods until the whole gang runs: scheduling, images and volumes",
);
pub(super) const TIME_TO_RUNNING: Metric = metric(
    Kind::Histogram,
    "graft_time_to_running_seconds",
    &[],
    "From the creation of a TransferJob until its whole gang runs for the first time; of jobs whose spec was not changed",
);
pub(super) const TIME_TO_FIRST_STEP: Metric = metric(
    Kind::Histogram,
    "graft_time_to_first_step_seconds",
    &[],
    "From asking for a run's first pods until optimizer steps of fine-tuning are told; as exact as progress is read",
);
pub(super) const RECOVERY: Metric = metric(Kind::Histogram, "graft_recovery_seconds", &[], "From the loss of a gang until the whole next one runs");
pub(super) const GOODPUT: Metric = metric(
    Kind::Counter,
    "graft_goodput_seconds_total",
    &["namespace"],
    "Seconds of running gangs whose work was kept: by a checkpoint, a finished stage or the model; as exact as progress is read",
);
pub(super) const BADPUT: Metric = metric(
    Kind::Counter,
    "graft_badput_seconds_total",
    &["namespace", "cause"],
    "Seconds of gangs without lasting work by cause: starting, recovering, lost_work (since what was kept last, when a gang was lost or stopped), failed (the same, of runs that ended without a model)",
);
pub(super) const STAGES: Metric = metric(
    Kind::Histogram,
    "graft_stage_duration_seconds",
    &["stage"],
    "Duration of a job's stages, as exact as progress is read; stages that were interrupted are left out",
);

pub(super) const JOBS: Metric = metric(Kind::Gauge, "graft_jobs", &["namespace", "phase"], "Number of TransferJobs by phase");
pub(super) const JOB_PHASE: Metric =
    metric(Kind::Gauge, "graft_job_phase", &["namespace", "transferjob", "phase"], "Always 1; the phase that the job is in");
pub(super) const JOB_STALLED: Metric =
    metric(Kind::Gauge, "graft_job_stalled", JOB, "1 while nothing will change without somebody's help; of jobs that are not over");
pub(super) const JOB_PROGRESS: Metric =
    metric(Kind::Gauge, "graft_job_progress_ratio", JOB, "Share of the whole job that is done, 0 to 1; of jobs that are not over");
pub(super) const JOB_EPOCH: Metric =
    metric(Kind::Gauge, "graft_job_epoch", JOB, "Epochs of the current stage that are done; of jobs that are not over");
pub(super) const JOB_RATE: Metric =
    metric(Kind::Gauge, "graft_job_samples_per_second", JOB, "Images per second over the whole gang; of jobs that are not over");
pub(super) const JOB_CHECKPOINT: Metric =
    metric(Kind::Gauge, "graft_job_checkpoint_epoch", JOB, "Epochs in the newest checkpoint; of jobs that are not over");
pub(super) const JOB_CHECKPOINT_AGE: Metric = metric(
    Kind::Gauge,
    "graft_job_checkpoint_age_seconds",
    JOB,
    "Seconds since the newest checkpoint was seen in the job's progress; of jobs that are not over",
);
pub(super) const JOB_GPUS: Metric = metric(Kind::Gauge, "graft_job_gpus", JOB, "GPUs that the gang asks for; of jobs that are not over");
pub(super) const JOB_RESTARTS: Metric = metric(
    Kind::Counter,
    "graft_job_restarts_total",
    &["namespace", "transferjob", "cause"],
    "How often the gang of this run was started again by cause: failure or preemption",
);
pub(super) const JOB_HEADLINE: Metric =
    metric(Kind::Gauge, "graft_job_headline", &["namespace", "transferjob", "metric"], "The first of the metrics that the job was asked for");
pub(super) const JOB_FINDINGS: Metric = metric(
    Kind::Gauge,
    "graft_job_data_findings",
    &["namespace", "transferjob", "kind"],
    "What was found in the job's data by kind: pairs of a picture across_splits, pairs with label_conflict, or a shortcut that tells the label; no series where nothing was found",
);
pub(super) const JOB_START: Metric =
    metric(Kind::Gauge, "graft_job_start_time_seconds", JOB, "When the run's first pods were asked for, in seconds since 1970");
pub(super) const JOB_END: Metric = metric(Kind::Gauge, "graft_job_completion_time_seconds", JOB, "When the run ended, in seconds since 1970");

/// Every metric of the operator, but for the `process_` ones, which are Prometheus' own.
pub const ALL: &[Metric] = &[
    RECONCILES,
    ERRORS,
    SECONDS,
    ACTIVE,
    WORKERS,
    DEPTH,
    ADDS,
    WAITS,
    WORK,
    UNFINISHED,
    LONGEST,
    RETRIES,
    REQUESTS,
    REQUEST_SECONDS,
    BUILD,
    PULLS,
    CREATED,
    SUCCEEDED,
    FAILED,
    RESTARTS,
    LOST_EPOCHS,
    LOST_STEPS,
    QUEUE_WAIT,
    TIME_TO_RUNNING,
    TIME_TO_FIRST_STEP,
    RECOVERY,
    GOODPUT,
    BADPUT,
    STAGES,
    JOBS,
    JOB_PHASE,
    JOB_STALLED,
    JOB_PROGRESS,
    JOB_EPOCH,
    JOB_RATE,
    JOB_CHECKPOINT,
    JOB_CHECKPOINT_AGE,
    JOB_GPUS,
    JOB_RESTARTS,
    JOB_HEADLINE,
    JOB_FINDINGS,
    JOB_START,
    JOB_END,
];

/// Durations of requests and reconciles, in seconds.
pub(super) const SHORT: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Durations of waits and stages, in seconds: 1 s to a day.
pub(super) const LONG: &[f64] = &[1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0];

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

impl Metric {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    pub(super) fn counter(&self, registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
        registered(registry, IntCounterVec::new(self.opts(), self.labels)?)
    }

    pub(super) fn seconds(&self, registry: &Registry) -> Result<CounterVec, prometheus::Error> {
        registered(registry, CounterVec::new(self.opts(), self.labels)?)
    }

    pub(super) fn gauge(&self, registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
        registered(registry, IntGaugeVec::new(self.opts(), self.labels)?)
    }

    pub(super) fn float(&self, registry: &Registry) -> Result<GaugeVec, prometheus::Error> {
        registered(registry, GaugeVec::new(self.opts(), self.labels)?)
    }

    pub(super) fn histogram(&self, registry: &Registry, buckets: &[f64]) -> Result<HistogramVec, prometheus::Error> {
        registered(registry, HistogramVec::new(HistogramOpts::new(self.name, self.help).buckets(buckets.to_vec()), self.labels)?)
    }
}
