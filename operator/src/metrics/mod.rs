//! Metrics: reconciles under controller-runtime's names, so that its dashboards work, and jobs by phase. Labels come
//! from enums only, never from an object's name.

use std::sync::Arc;

use graft_crds::status::Phase;
use kube::runtime::reflector::Store;
use prometheus::core::Collector;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::index::GuardedJob;

/// Value of the label `controller`.
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

    fn name(self) -> &'static str {
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
    reconciles: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
    active: IntGaugeVec,
    jobs: IntGaugeVec,
    pulls: IntCounterVec,
}

impl Metrics {
    /// Register everything; values that can be known start at 0.
    ///
    /// # Errors
    /// Two metrics have one name.
    pub fn new(concurrency: u16) -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let reconciles = IntCounterVec::new(
            Opts::new("controller_runtime_reconcile_total", "Total number of reconciliations per controller"),
            &["controller", "result"],
        )?;
        let errors = IntCounterVec::new(
            Opts::new("controller_runtime_reconcile_errors_total", "Total number of reconciliation errors per controller"),
            &["controller"],
        )?;
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let opts =
            HistogramOpts::new("controller_runtime_reconcile_time_seconds", "Length of time per reconciliation per controller").buckets(buckets);
        let seconds = HistogramVec::new(opts, &["controller"])?;
        let active =
            IntGaugeVec::new(Opts::new("controller_runtime_active_workers", "Number of currently used workers per controller"), &["controller"])?;
        let limit = IntGaugeVec::new(
            Opts::new("controller_runtime_max_concurrent_reconciles", "Maximum number of concurrent reconciles per controller"),
            &["controller"],
        )?;
        let jobs = IntGaugeVec::new(Opts::new("graft_jobs", "Number of TransferJobs by phase"), &["phase"])?;
        let pulls = IntCounterVec::new(Opts::new("graft_progress_pulls_total", "Questions for progress by result"), &["result"])?;
        let build = IntGaugeVec::new(Opts::new("graft_build_info", "Always 1; the version of the operator"), &["version"])?;
        for outcome in Outcome::ALL {
            reconciles.with_label_values(&[CONTROLLER, outcome.name()]);
        }
        errors.with_label_values(&[CONTROLLER]);
        active.with_label_values(&[CONTROLLER]);
        limit.with_label_values(&[CONTROLLER]).set(i64::from(concurrency));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: [Box<dyn Collector>; 8] = [
            Box::new(reconciles.clone()),
            Box::new(errors.clone()),
            Box::new(seconds.clone()),
            Box::new(active.clone()),
            Box::new(limit),
            Box::new(jobs.clone()),
            Box::new(pulls.clone()),
            Box::new(build),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Arc::new(Self { registry, reconciles, errors, seconds, active, jobs, pulls }))
    }

    /// A reconcile begins.
    pub fn begin(&self) {
        self.active.with_label_values(&[CONTROLLER]).inc();
    }

    /// A reconcile is over.
    pub fn end(&self, outcome: Outcome, seconds: f64) {
        self.active.with_label_values(&[CONTROLLER]).dec();
        self.reconciles.with_label_values(&[CONTROLLER, outcome.name()]).inc();
        self.seconds.with_label_values(&[CONTROLLER]).observe(seconds);
        match outcome {
            Outcome::Error => self.errors.with_label_values(&[CONTROLLER]).inc(),
            Outcome::Success | Outcome::RequeueAfter => {}
        }
    }

    /// Progress was asked for.
    pub fn pulled<T, E>(&self, result: &Result<T, E>) {
        self.pulls.with_label_values(&[if result.is_ok() { "success" } else { "error" }]).inc();
    }

    /// Everything in Prometheus' text format; jobs are counted now.
    ///
    /// # Errors
    /// A metric cannot be written.
    pub fn render(&self, store: &Store<GuardedJob>) -> Result<Vec<u8>, prometheus::Error> {
        let mut counts: std::collections::BTreeMap<Phase, i64> = Phase::ALL.iter().map(|p| (*p, 0)).collect();
        for guarded in store.state() {
            let Ok(job) = &guarded.0 else { continue };
            *counts.entry(job.status.as_ref().and_then(|s| s.phase).unwrap_or_default()).or_default() += 1;
        }
        for (phase, count) in counts {
            self.jobs.with_label_values(&[phase.name()]).set(count);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
