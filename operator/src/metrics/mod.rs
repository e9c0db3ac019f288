//! Metrics: reconciles, queue and requests under the names of controller-runtime and client-go, so that their dashboards
//! work; runs and single jobs under `graft_`. `catalog` has them all.

mod catalog;
mod jobs;
mod lifecycle;
mod queue;
mod requests;

use std::sync::{Arc, Mutex, PoisonError};

use graft_crds::TransferJob;
use graft_crds::contract::Stage;
use graft_crds::status::{FailureClass, TransferJobStatus};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use prometheus::{CounterVec, Encoder, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry, TextEncoder};

use crate::GuardedJob;
use lifecycle::{Gangs, Passage, Spent, Stages};
use queue::Queue;

pub use catalog::{ALL, Kind, Metric};
pub use requests::Requests;

#[cfg(test)]
pub(crate) use jobs::tests::of_a_thousand_jobs;

/// Value of the labels `controller` and `name`.
const CONTROLLER: &str = "transferjob";

/// How a reconcile ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Nothing more to do.
    Success,
    /// Done, and to be looked at again after some time.
    RequeueAfter,
    /// Failed.
    Error,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Success, Self::RequeueAfter, Self::Error];

    /// The name in the label `result`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RequeueAfter => "requeue_after",
            Self::Error => "error",
        }
    }
}

/// All metrics of the operator.
pub struct Metrics {
    registry: Registry,
    queue: Queue,
    stages_seen: Mutex<Stages>,
    gangs_seen: Mutex<Gangs>,
    reconciles: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
    active: IntGaugeVec,
    depth: IntGaugeVec,
    adds: IntCounterVec,
    waits: HistogramVec,
    work: HistogramVec,
    unfinished: GaugeVec,
    longest: GaugeVec,
    retries: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    pulls: IntCounterVec,
    created: IntCounterVec,
    succeeded: IntCounterVec,
    failed: IntCounterVec,
    restarts: IntCounterVec,
    lost_epochs: IntCounterVec,
    lost_steps: IntCounterVec,
    queue_wait: HistogramVec,
    time_to_running: HistogramVec,
    time_to_first_step: HistogramVec,
    recovery: HistogramVec,
    goodput: CounterVec,
    badput: CounterVec,
    stages: HistogramVec,
}

impl Metrics {
    /// Register everything; values that can be known start at 0.
    ///
    /// # Errors
    /// Two metrics have one name.
    pub fn new(concurrency: u16) -> Result<Arc<Self>, prometheus::Error> {
        use catalog::{LONG, SHORT};
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            queue: Queue::default(),
            stages_seen: Mutex::default(),
            gangs_seen: Mutex::default(),
            reconciles: catalog::RECONCILES.counter(r)?,
            errors: catalog::ERRORS.counter(r)?,
            seconds: catalog::SECONDS.histogram(r, SHORT)?,
            active: catalog::ACTIVE.gauge(r)?,
            depth: catalog::DEPTH.gauge(r)?,
            adds: catalog::ADDS.counter(r)?,
            waits: catalog::WAITS.histogram(r, SHORT)?,
            work: catalog::WORK.histogram(r, SHORT)?,
            unfinished: catalog::UNFINISHED.float(r)?,
            longest: catalog::LONGEST.float(r)?,
            retries: catalog::RETRIES.counter(r)?,
            requests: catalog::REQUESTS.counter(r)?,
            request_seconds: catalog::REQUEST_SECONDS.histogram(r, SHORT)?,
            pulls: catalog::PULLS.counter(r)?,
            created: catalog::CREATED.counter(r)?,
            succeeded: catalog::SUCCEEDED.counter(r)?,
            failed: catalog::FAILED.counter(r)?,
            restarts: catalog::RESTARTS.counter(r)?,
            lost_epochs: catalog::LOST_EPOCHS.counter(r)?,
            lost_steps: catalog::LOST_STEPS.counter(r)?,
            queue_wait: catalog::QUEUE_WAIT.histogram(r, LONG)?,
            time_to_running: catalog::TIME_TO_RUNNING.histogram(r, LONG)?,
            time_to_first_step: catalog::TIME_TO_FIRST_STEP.histogram(r, LONG)?,
            recovery: catalog::RECOVERY.histogram(r, LONG)?,
            goodput: catalog::GOODPUT.seconds(r)?,
            badput: catalog::BADPUT.seconds(r)?,
            stages: catalog::STAGES.histogram(r, LONG)?,
            registry: registry.clone(),
        };
        catalog::WORKERS.gauge(r)?.with_label_values(&[CONTROLLER]).set(i64::from(concurrency));
        catalog::BUILD.gauge(r)?.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.begin_at_zero();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Arc::new(metrics))
    }

    /// A counter that is not there before its first event hides just that event from `increase`.
    fn begin_at_zero(&self) {
        for outcome in Outcome::ALL {
            self.reconciles.with_label_values(&[CONTROLLER, outcome.name()]);
        }
        self.errors.with_label_values(&[CONTROLLER]);
        self.active.with_label_values(&[CONTROLLER]);
        self.seconds.with_label_values(&[CONTROLLER]);
        for own in [&self.adds, &self.retries] {
            own.with_label_values(&[CONTROLLER, CONTROLLER]);
        }
        for own in [&self.waits, &self.work] {
            own.with_label_values(&[CONTROLLER, CONTROLLER]);
        }
        for result in ["success", "error"] {
            self.pulls.with_label_values(&[result]);
        }
        for own in [&self.queue_wait, &self.time_to_running, &self.time_to_first_step, &self.recovery] {
            own.with_label_values::<&str>(&[]);
        }
        for stage in Stage::ALL {
            self.stages.with_label_values(&[stage.name()]);
        }
    }

    fn namespace_at_zero(&self, namespace: &str) {
        self.created.with_label_values(&[namespace]);
        self.succeeded.with_label_values(&[namespace]);
        self.goodput.with_label_values(&[namespace]);
        self.lost_epochs.with_label_values(&[namespace]);
        self.lost_steps.with_label_values(&[namespace]);
        for (_, cause) in Spent::BADPUT {
            self.badput.with_label_values(&[namespace, cause]);
        }
        for class in FailureClass::ALL {
            self.failed.with_label_values(&[namespace, class.name()]);
            self.restarts.with_label_values(&[namespace, class.name()]);
        }
    }

    /// A reconcile is asked for.
    pub fn asked(&self, reference: &ObjectRef<GuardedJob>) {
        self.adds.with_label_values(&[CONTROLLER, CONTROLLER]).inc();
        self.queue.add(key(reference.namespace.as_deref(), &reference.name));
    }

    /// A reconcile begins.
    pub fn begin(&self, job: &GuardedJob) {
        self.active.with_label_values(&[CONTROLLER]).inc();
        if let Some(waited) = self.queue.begin(key(job.namespace().as_deref(), &job.name_any())) {
            self.waits.with_label_values(&[CONTROLLER, CONTROLLER]).observe(waited.as_secs_f64());
        }
    }

    /// A reconcile is over.
    pub fn end(&self, job: &GuardedJob, outcome: Outcome, seconds: f64) {
        self.queue.end(&key(job.namespace().as_deref(), &job.name_any()));
        self.active.with_label_values(&[CONTROLLER]).dec();
        self.reconciles.with_label_values(&[CONTROLLER, outcome.name()]).inc();
        self.seconds.with_label_values(&[CONTROLLER]).observe(seconds);
        self.work.with_label_values(&[CONTROLLER, CONTROLLER]).observe(seconds);
        match outcome {
            Outcome::Error => {
                self.errors.with_label_values(&[CONTROLLER]).inc();
                self.retries.with_label_values(&[CONTROLLER, CONTROLLER]).inc();
            }
            Outcome::Success | Outcome::RequeueAfter => {}
        }
    }

    /// Progress was asked for.
    pub fn pulled<T, E>(&self, result: &Result<T, E>) {
        self.pulls.with_label_values(&[if result.is_ok() { "success" } else { "error" }]).inc();
    }

    /// The API server answered, or did not.
    pub fn requested(&self, method: &str, code: &str, seconds: f64) {
        self.requests.with_label_values(&[code, method]).inc();
        self.request_seconds.with_label_values(&[method]).observe(seconds);
    }

    /// The status of a job was written.
    pub fn status_written(&self, job: &TransferJob, after: &TransferJobStatus, now: Timestamp) {
        let namespace = job.namespace().unwrap_or_default();
        self.namespace_at_zero(&namespace);
        let created = job.creation_timestamp().filter(|_| job.metadata.generation == Some(1)).map(|t| t.0);
        for passage in lifecycle::between(job.status.as_ref(), after, created, now) {
            match passage {
                Passage::Created => self.created.with_label_values(&[&namespace]).inc(),
                Passage::Queued(seconds) => self.queue_wait.with_label_values::<&str>(&[]).observe(seconds),
                Passage::FirstRun(seconds) => self.time_to_running.with_label_values::<&str>(&[]).observe(seconds),
                Passage::FirstStep(seconds) => self.time_to_first_step.with_label_values::<&str>(&[]).observe(seconds),
                Passage::Recovered(seconds) => self.recovery.with_label_values::<&str>(&[]).observe(seconds),
                Passage::Restarted(class) => self.restarts.with_label_values(&[namespace.as_str(), class.name()]).inc(),
                Passage::Lost { epochs, steps } => {
                    self.lost_epochs.with_label_values(&[&namespace]).inc_by(epochs);
                    self.lost_steps.with_label_values(&[&namespace]).inc_by(steps);
                }
                Passage::Succeeded => self.succeeded.with_label_values(&[&namespace]).inc(),
                Passage::Failed(class) => self.failed.with_label_values(&[namespace.as_str(), class.name()]).inc(),
            }
        }
        let over = self.stages_seen.lock().unwrap_or_else(PoisonError::into_inner).see(&job.uid().unwrap_or_default(), after, now);
        if let Some((stage, seconds)) = over {
            self.stages.with_label_values(&[stage.name()]).observe(seconds);
        }
        let spent = self.gangs_seen.lock().unwrap_or_else(PoisonError::into_inner).see(&job.uid().unwrap_or_default(), after, now);
        if let Some((spent, seconds)) = spent {
            match Spent::BADPUT.iter().find(|(bad, _)| *bad == spent) {
                Some((_, cause)) => self.badput.with_label_values(&[namespace.as_str(), cause]).inc_by(seconds),
                None => self.goodput.with_label_values(&[&namespace]).inc_by(seconds),
            }
        }
    }

    /// Forget a TransferJob that is gone.
    pub fn forget(&self, uid: &str) {
        self.stages_seen.lock().unwrap_or_else(PoisonError::into_inner).forget(uid);
        self.gangs_seen.lock().unwrap_or_else(PoisonError::into_inner).forget(uid);
    }

    /// Everything in Prometheus' text format; jobs are counted now.
    ///
    /// # Errors
    /// A metric cannot be written.
    pub fn render(&self, store: &Store<GuardedJob>) -> Result<Vec<u8>, prometheus::Error> {
        let exists = |key: &queue::Key| store.get(&ObjectRef::new(&key.1).within(&key.0)).is_some();
        let depth = self.queue.depth(exists);
        self.depth.with_label_values(&[CONTROLLER, CONTROLLER]).set(i64::try_from(depth).unwrap_or(i64::MAX));
        let working = self.queue.working();
        self.unfinished.with_label_values(&[CONTROLLER, CONTROLLER]).set(working.iter().sum::<std::time::Duration>().as_secs_f64());
        let longest = working.iter().max().map_or(0.0, std::time::Duration::as_secs_f64);
        self.longest.with_label_values(&[CONTROLLER, CONTROLLER]).set(longest);
        let state = store.state();
        let mut text = Vec::new();
        let encoder = TextEncoder::new();
        encoder.encode(&self.registry.gather(), &mut text)?;
        encoder.encode(&jobs::gather(state.iter().filter_map(|guarded| guarded.0.as_ref().ok()), Timestamp::now())?, &mut text)?;
        Ok(text)
    }
}

fn key(namespace: Option<&str>, name: &str) -> queue::Key {
    (namespace.unwrap_or_default().to_owned(), name.to_owned())
}
