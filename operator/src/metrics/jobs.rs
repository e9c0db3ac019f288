//! The series of single jobs, made from the store at every scrape: they vanish with the object, and nothing is kept twice.

use std::collections::BTreeMap;

use graft_crds::TransferJob;
use graft_crds::names::CONDITION_STALLED;
use graft_crds::spec::Metric as Quality;
use graft_crds::status::{Phase, TransferJobStatus};
use jiff::Timestamp;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry};

use super::catalog;

struct Series {
    jobs: IntGaugeVec,
    phase: IntGaugeVec,
    stalled: IntGaugeVec,
    progress: GaugeVec,
    epoch: IntGaugeVec,
    rate: GaugeVec,
    checkpoint: IntGaugeVec,
    checkpoint_age: GaugeVec,
    gpus: IntGaugeVec,
    restarts: IntCounterVec,
    headline: GaugeVec,
    findings: IntGaugeVec,
    start: IntGaugeVec,
    end: IntGaugeVec,
}

impl Series {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            jobs: catalog::JOBS.gauge(registry)?,
            phase: catalog::JOB_PHASE.gauge(registry)?,
            stalled: catalog::JOB_STALLED.gauge(registry)?,
            progress: catalog::JOB_PROGRESS.float(registry)?,
            epoch: catalog::JOB_EPOCH.gauge(registry)?,
            rate: catalog::JOB_RATE.float(registry)?,
            checkpoint: catalog::JOB_CHECKPOINT.gauge(registry)?,
            checkpoint_age: catalog::JOB_CHECKPOINT_AGE.float(registry)?,
            gpus: catalog::JOB_GPUS.gauge(registry)?,
            restarts: catalog::JOB_RESTARTS.counter(registry)?,
            headline: catalog::JOB_HEADLINE.float(registry)?,
            findings: catalog::JOB_FINDINGS.gauge(registry)?,
            start: catalog::JOB_START.gauge(registry)?,
            end: catalog::JOB_END.gauge(registry)?,
        })
    }

    fn record(&self, job: &TransferJob, now: Timestamp) {
        let none = TransferJobStatus::default();
        let status = job.status.as_ref().unwrap_or(&none);
        let phase = status.phase.unwrap_or_default();
        let (namespace, name) = (job.metadata.namespace.as_deref().unwrap_or_default(), job.metadata.name.as_deref().unwrap_or_default());
        let own = [namespace, name];
        self.phase.with_label_values(&[namespace, name, phase.name()]).set(1);
        for (cause, count) in [("failure", status.restarts.failures), ("preemption", status.restarts.preemptions)] {
            let count = u64::try_from(count).unwrap_or(0);
            // Alerts ask for failures, which begin at 0; a job that was never preempted has no series of it: a thousand must fit into a scrape.
            if cause == "failure" || count > 0 {
                self.restarts.with_label_values(&[namespace, name, cause]).inc_by(count);
            }
        }
        if let Some((metric, value)) = status.headline.as_deref().and_then(headline) {
            self.headline.with_label_values(&[namespace, name, metric]).set(value);
        }
        if let Some(data) = &status.data {
            let shortcuts = i64::try_from(data.shortcuts.len()).unwrap_or(i64::MAX);
            for (kind, count) in [("across_splits", data.leaks()), ("label_conflict", data.label_conflicts), ("shortcut", shortcuts)] {
                // Nor has what was not found.
                if count > 0 {
                    self.findings.with_label_values(&[namespace, name, kind]).set(count);
                }
            }
        }
        if let Some(time) = &status.start_time {
            self.start.with_label_values(&own).set(time.0.as_second());
        }
        if let Some(time) = &status.completion_time {
            self.end.with_label_values(&own).set(time.0.as_second());
        }
        if !phase.is_terminal() {
            self.record_running(job, status, &own, now);
        }
    }

    fn record_running(&self, job: &TransferJob, status: &TransferJobStatus, own: &[&str; 2], now: Timestamp) {
        let stalled = status.conditions.iter().any(|c| c.type_ == CONDITION_STALLED && c.status == "True");
        self.stalled.with_label_values(own).set(i64::from(stalled));
        let workers = &job.spec.workers;
        self.gpus.with_label_values(own).set(i64::from(workers.replicas) * i64::from(workers.gpus));
        if let Some(progress) = &status.progress {
            self.progress.with_label_values(own).set(f64::from(progress.percent) / 100.0);
            self.epoch.with_label_values(own).set(progress.epoch);
            if let Some(rate) = progress.samples_per_second.as_deref().and_then(finite) {
                self.rate.with_label_values(own).set(rate);
            }
        }
        if let Some(checkpoint) = &status.checkpoint {
            self.checkpoint.with_label_values(own).set(checkpoint.epoch);
            if let Some(seen) = &checkpoint.seen {
                self.checkpoint_age.with_label_values(own).set(now.duration_since(seen.0).as_secs_f64().max(0.0).round());
            }
        }
    }
}

fn finite(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// Name and value of `auroc=0.941`, where the name is one of the API's: status holds what a pod said.
fn headline(text: &str) -> Option<(&'static str, f64)> {
    let (name, value) = text.split_once('=')?;
    let known = Quality::all().into_iter().map(Quality::name).find(|known| *known == name)?;
    Some((known, finite(value)?))
}

/// All series of these jobs at this time.
///
/// # Errors
/// Two metrics have one name.
pub(super) fn gather<'a>(jobs: impl Iterator<Item = &'a TransferJob>, now: Timestamp) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let registry = Registry::new();
    let series = Series::new(&registry)?;
    let mut counts: BTreeMap<(String, Phase), i64> = BTreeMap::new();
    for job in jobs {
        series.record(job, now);
        let namespace = job.metadata.namespace.clone().unwrap_or_default();
        for phase in Phase::ALL {
            counts.entry((namespace.clone(), *phase)).or_default();
        }
        *counts.entry((namespace, job.status.as_ref().and_then(|s| s.phase).unwrap_or_default())).or_default() += 1;
    }
    for ((namespace, phase), count) in counts {
        series.jobs.with_label_values(&[namespace.as_str(), phase.name()]).set(count);
    }
    Ok(registry.gather())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Instant;

    use prometheus::{Encoder, TextEncoder};
    use serde_json::json;

    use super::*;

    fn job(number: usize, status: serde_json::Value) -> TransferJob {
        named(format!("job-{number:04}"), "radiology", status)
    }

    fn named(name: String, namespace: &str, status: serde_json::Value) -> TransferJob {
        serde_json::from_value(json!({
            "apiVersion": "graft.dev/v1alpha1", "kind": "TransferJob", "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "backbone": {"architecture": "resnet18", "weights": {"uri": "file:///data/r.pth"}},
                "data": {"train": {"uri": "file:///data/train"}, "test": {"uri": "file:///data/test"}},
                "workers": {"replicas": 2}, "output": {"uri": "file:///data/out"}
            },
            "status": status,
        }))
        .unwrap()
    }

    fn text(jobs: &[TransferJob]) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&gather(jobs.iter(), "2026-01-01T00:10:00Z".parse().unwrap()).unwrap(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn running() -> serde_json::Value {
        json!({"phase": "Running", "headline": "auroc=0.941", "startTime": "2026-01-01T00:00:00Z",
               "progress": {"summary": "63%", "percent": 63, "epoch": 12, "epochs": 20, "samplesPerSecond": "412.5"},
               "data": {"images": 746, "pairsAcrossSplits": 2, "labelConflicts": 0, "shortcuts": ["image size (tells a, AUROC 0.91)"]},
               "checkpoint": {"epoch": 12, "digest": "d", "seen": "2026-01-01T00:08:30Z"}, "restarts": {"total": 1, "failures": 1, "preemptions": 0}})
    }

    /// The series of a thousand running jobs whose names and namespace have so many letters.
    pub(crate) fn of_a_thousand_jobs(letters: usize) -> String {
        let jobs: Vec<_> = (0..1000).map(|n| named(format!("{n:a>letters$}"), &"r".repeat(letters), running())).collect();
        text(&jobs)
    }

    #[test]
    fn what_is_left_out_is_no_leak() {
        let mut status = running();
        assert!(text(&[job(1, status.clone())]).contains("kind=\"across_splits\""));
        status["data"]["leftOut"] = 2.into();
        assert!(!text(&[job(1, status)]).contains("kind=\"across_splits\""));
    }

    #[test]
    fn a_job_has_series_and_a_finished_one_few() {
        let own = text(&[job(1, running())]);
        for line in [
            "graft_jobs{namespace=\"radiology\",phase=\"Running\"} 1",
            "graft_jobs{namespace=\"radiology\",phase=\"Failed\"} 0",
            "graft_job_progress_ratio{namespace=\"radiology\",transferjob=\"job-0001\"} 0.63",
            "graft_job_checkpoint_age_seconds{namespace=\"radiology\",transferjob=\"job-0001\"} 90",
            "graft_job_headline{metric=\"auroc\",namespace=\"radiology\",transferjob=\"job-0001\"} 0.941",
            "graft_job_data_findings{kind=\"across_splits\",namespace=\"radiology\",transferjob=\"job-0001\"} 2",
            "graft_job_data_findings{kind=\"shortcut\",namespace=\"radiology\",transferjob=\"job-0001\"} 1",
            "graft_job_restarts_total{cause=\"failure\",namespace=\"radiology\",transferjob=\"job-0001\"} 1",
        ] {
            assert!(own.contains(line), "{line} is not in\n{own}");
        }
        let over = text(&[job(1, json!({"phase": "Succeeded", "completionTime": "2026-01-01T01:00:00Z"}))]);
        assert!(!over.contains("graft_job_progress_ratio{") && over.contains("graft_job_completion_time_seconds{"), "{over}");
        assert!(!text(&[]).contains('{'), "no job, no series");
    }

    #[test]
    fn what_a_pod_says_makes_no_label() {
        for said in ["x\"}=1", "made_up=0.5", "auroc=NaN", "auroc=inf", "auroc"] {
            let status = json!({"phase": "Running", "headline": said});
            assert!(!text(&[job(1, status)]).contains("graft_job_headline{"), "{said}");
        }
    }

    #[test]
    fn a_scrape_of_a_thousand_running_jobs_is_small_and_quick() {
        let jobs: Vec<_> = (0..1000).map(|n| job(n, running())).collect();
        let began = Instant::now();
        let text = text(&jobs);
        println!("1000 jobs: {} KiB in {:.1} ms", text.len() / 1024, began.elapsed().as_secs_f64() * 1000.0);
        assert!(text.len() <= 1 << 20, "{} bytes", text.len());
    }
}
