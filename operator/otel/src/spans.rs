//! Which spans a run has: itself, its parts (the wait for the gang, then each stage of each attempt) and the reconciles. Pure:
//! statuses and times in, spans out. All ids are digests of the TransferJob's UID and the run, so an operator that was
//! started anew goes on with the same trace.

use graft_crds::TransferJob;
use graft_crds::contract::{Stage, run_id};
use graft_crds::names::CONDITION_RUNNING;
use graft_crds::status::{Phase, TransferJobStatus};
use graft_operator::metrics::Outcome;
use graft_operator::tracer::Reconcile;
use jiff::Timestamp;
use kube::ResourceExt;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId};
use sha2::{Digest, Sha256};

/// A span that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The run's trace.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// The run's span; none for that itself.
    pub parent: Option<SpanId>,
    /// What it is: `run`, `start`, `backoff`, a stage's name, or `reconcile`.
    pub name: &'static str,
    /// Its begin.
    pub start: Timestamp,
    /// Its end.
    pub end: Timestamp,
    /// Whose it is.
    pub attributes: Vec<KeyValue>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The gang is asked for and does not run yet.
    Start,
    /// The gang is gone and not yet asked for again.
    Backoff,
    /// The gang is in this stage.
    Stage(Stage),
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Backoff => "backoff",
            Self::Stage(stage) => stage.name(),
        }
    }
}

/// A part that is not over.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    run_token: Option<String>,
    attempt: i32,
    part: Part,
    since: Timestamp,
    since_is: Known,
}

/// How well the begin of a part is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// To the moment that the operator wrote it down.
    Written,
    /// It began before: the operator was started in its midst.
    NotBefore,
}

/// Identity of a run's trace.
struct Run<'a> {
    job: &'a TransferJob,
    id: String,
}

impl<'a> Run<'a> {
    fn of(job: &'a TransferJob, status: Option<&TransferJobStatus>) -> Self {
        let token = status.and_then(|s| s.run_token.as_deref()).unwrap_or(&job.spec.run_token);
        Self { job, id: run_id(job.metadata.uid.as_deref().unwrap_or_default(), token) }
    }

    fn digest<const N: usize>(&self, what: &str) -> [u8; N] {
        let uid = self.job.metadata.uid.as_deref().unwrap_or_default();
        let digest = Sha256::new().chain_update(uid).chain_update([0]).chain_update(&self.id).chain_update([0]).chain_update(what).finalize();
        let mut bytes = [0; N];
        bytes.iter_mut().zip(digest).for_each(|(byte, of)| *byte = of);
        bytes
    }

    fn root(&self) -> SpanId {
        SpanId::from_bytes(self.digest("run"))
    }

    /// A span under the run's own; `what` tells it from all others of the run.
    fn span(&self, name: &'static str, what: &str, (start, end): (Timestamp, Timestamp)) -> Span {
        let attributes = vec![
            KeyValue::new("k8s.namespace.name", self.job.namespace().unwrap_or_default()),
            KeyValue::new("graft.transferjob.name", self.job.name_any()),
            KeyValue::new("graft.transferjob.uid", self.job.uid().unwrap_or_default()),
            KeyValue::new("graft.run", self.id.clone()),
        ];
        let trace = TraceId::from_bytes(self.digest("trace"));
        Span {
            trace,
            id: SpanId::from_bytes(self.digest(what)),
            parent: Some(self.root()),
            name,
            start,
            end: end.max(start),
            attributes,
            error: None,
        }
    }
}

/// The span of a reconcile.
#[must_use]
pub fn of_reconcile(job: &TransferJob, reconcile: &Reconcile) -> Span {
    let run = Run::of(job, job.status.as_ref());
    let mut span = run.span("reconcile", &format!("reconcile {}", reconcile.start.as_nanosecond()), (reconcile.start, reconcile.end));
    span.attributes.push(KeyValue::new("graft.result", reconcile.outcome.name()));
    span.error = match reconcile.outcome {
        Outcome::Error => Some(reconcile.error.clone().unwrap_or_default()),
        Outcome::Success | Outcome::RequeueAfter => None,
    };
    span
}

/// The part that is open when a status is seen for the first time.
#[must_use]
pub fn seen(status: &TransferJobStatus, now: Timestamp) -> Option<Open> {
    begun(status, now, Known::NotBefore)
}

/// The spans that are over with a status that was written over that of `job`, and the part that is open now. `known` is the
/// part that was open.
#[must_use]
pub fn between(job: &TransferJob, known: Option<Open>, after: &TransferJobStatus, now: Timestamp) -> (Option<Open>, Vec<Span>) {
    let run = Run::of(job, Some(after));
    let before = job.status.as_ref().filter(|b| b.phase.is_some() && b.run_token == after.run_token);
    let known = known.filter(|open| open.run_token == after.run_token).or_else(|| before.and_then(|b| seen(b, now)));
    let open = match (known.as_ref(), begun(after, now, Known::Written)) {
        (Some(same), Some(next)) if (same.attempt, same.part) == (next.attempt, next.part) => Some(same.clone()),
        (_, next) => next,
    };
    let mut over = Vec::new();
    if let Some(part) = known.filter(|known| open.as_ref() != Some(known)) {
        over.push(ended(&run, &part, after, now));
    }
    let terminal = |status: &TransferJobStatus| status.phase.is_some_and(Phase::is_terminal);
    if terminal(after) && !before.is_some_and(terminal) {
        over.push(whole(&run, after, now));
    }
    (open, over)
}

fn begun(status: &TransferJobStatus, now: Timestamp, unless_written: Known) -> Option<Open> {
    let part = match status.phase? {
        Phase::Pending | Phase::Starting => Part::Start,
        Phase::Restarting => Part::Backoff,
        // Nothing comes before it.
        Phase::Running => Part::Stage(status.stage.unwrap_or(Stage::Prepare)),
        Phase::Suspended | Phase::Succeeded | Phase::Failed => return None,
    };
    let running = |is: &str| status.conditions.iter().find(|c| c.type_ == CONDITION_RUNNING && c.status == is).map(|c| c.last_transition_time.0);
    let written = match part {
        Part::Start if status.attempt == 0 => status.start_time.as_ref().map(|t| t.0),
        Part::Backoff => running("False"),
        Part::Stage(Stage::Prepare) => running("True"),
        Part::Start | Part::Stage(_) => None,
    };
    let since_is = if written.is_some() { Known::Written } else { unless_written };
    Some(Open { run_token: status.run_token.clone(), attempt: status.attempt, part, since: written.unwrap_or(now), since_is })
}

fn ended(run: &Run<'_>, open: &Open, after: &TransferJobStatus, now: Timestamp) -> Span {
    let mut span = run.span(open.part.name(), &format!("{} {}", open.part.name(), open.attempt), (open.since, now));
    span.attributes.push(KeyValue::new("graft.attempt", i64::from(open.attempt)));
    if open.since_is == Known::NotBefore {
        span.attributes.push(KeyValue::new("graft.began_earlier", true));
    }
    span.error = match after.phase {
        Some(Phase::Failed | Phase::Restarting) => failure(after),
        Some(Phase::Pending | Phase::Starting | Phase::Running | Phase::Suspended | Phase::Succeeded) | None => None,
    };
    span
}

fn whole(run: &Run<'_>, after: &TransferJobStatus, now: Timestamp) -> Span {
    let created = || run.job.creation_timestamp();
    let start = after.start_time.clone().or_else(created).map_or(now, |t| t.0);
    let end = after.completion_time.as_ref().map_or(now, |t| t.0);
    let mut span = Span { id: run.root(), parent: None, ..run.span("run", "run", (start, end)) };
    span.attributes.push(KeyValue::new("graft.restarts", i64::from(after.restarts.total)));
    span.error = (after.phase == Some(Phase::Failed)).then(|| failure(after)).flatten();
    span
}

fn failure(status: &TransferJobStatus) -> Option<String> {
    status.failure.as_ref().map(|f| format!("{}: {}: {}", f.class.name(), f.reason, f.message))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn job(status: Value) -> TransferJob {
        let mut job: TransferJob = serde_json::from_value(json!({
            "metadata": {"name": "lung", "namespace": "radiology", "uid": "u-1"},
            "spec": {"runToken": "1", "backbone": {"architecture": "resnet18", "weights": {"uri": "file:///w"}},
                     "data": {"train": {"uri": "file:///d"}, "test": {"uri": "file:///t"}}, "output": {"uri": "file:///o"}}
        }))
        .unwrap();
        job.status = serde_json::from_value(status).unwrap();
        job
    }

    /// A status of the first attempt, which was asked for at 10 s.
    fn status(phase: &str, more: Value) -> Value {
        let mut status = json!({"phase": phase, "runToken": "1", "startTime": at(10).to_string()});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        status
    }

    fn running(stage: &str, since: i64) -> Value {
        let condition = json!({"type": "Running", "status": "True", "reason": "r", "message": "", "lastTransitionTime": at(since).to_string()});
        status("Running", json!({"stage": stage, "conditions": [condition]}))
    }

    fn lost(since: i64) -> Value {
        let condition = json!({"type": "Running", "status": "False", "reason": "r", "message": "", "lastTransitionTime": at(since).to_string()});
        status(
            "Restarting",
            json!({"stage": "fineTune", "attempt": 0, "restarts": {"total": 1}, "conditions": [condition],
                                    "failure": {"class": "PodLost", "reason": "Killed", "message": "by signal 9"}}),
        )
    }

    fn failed() -> Value {
        status("Failed", json!({"completionTime": at(90).to_string(), "failure": {"class": "DataError", "reason": "Bad", "message": "row 7"}}))
    }

    /// Name, begin, end and error of each span, in seconds.
    fn told(spans: &[Span]) -> Vec<(&'static str, i64, i64, Option<&str>)> {
        let second = |time: Timestamp| time.as_second() - 1_800_000_000;
        spans.iter().map(|span| (span.name, second(span.start), second(span.end), span.error.as_deref())).collect()
    }

    #[rstest]
    #[case::nothing_is_over_at_first(Value::Null, status("Starting", json!({})), &[])]
    #[case::the_gang_runs(status("Starting", json!({})), running("prepare", 20), &[("start", 10, 60, None)])]
    #[case::the_first_stage_is_over(running("prepare", 20), running("fineTune", 20), &[("prepare", 20, 60, None)])]
    #[case::nothing_changes(running("fineTune", 20), running("fineTune", 20), &[])]
    #[case::the_gang_is_lost(running("prepare", 20), lost(60), &[("prepare", 20, 60, Some("PodLost: Killed: by signal 9"))])]
    #[case::somebody_stops_it(running("prepare", 20), status("Suspended", json!({})), &[("prepare", 20, 60, None)])]
    #[case::it_succeeds(running("prepare", 20), status("Succeeded", json!({"completionTime": at(60).to_string()})),
                        &[("prepare", 20, 60, None), ("run", 10, 60, None)])]
    #[case::it_fails(running("prepare", 20), failed(),
                     &[("prepare", 20, 60, Some("DataError: Bad: row 7")), ("run", 10, 90, Some("DataError: Bad: row 7"))])]
    #[case::it_stays_over(failed(), failed(), &[])]
    #[case::another_run_begins(failed(), json!({"phase": "Starting", "runToken": "2"}), &[])]
    fn a_change_of_status(#[case] before: Value, #[case] after: Value, #[case] expected: &[(&'static str, i64, i64, Option<&str>)]) {
        let (_, spans) = between(&job(before), None, &serde_json::from_value(after).unwrap(), at(60));
        assert_eq!(told(&spans), expected);
    }

    /// Two attempts, with everything heard from the begin; each part once, under the run, in one trace.
    #[test]
    fn a_life_is_one_trace() {
        let mut again = lost(60);
        again["attempt"] = 1.into();
        again["phase"] = "Starting".into();
        let mut second = running("fineTune", 80);
        second["attempt"] = 1.into();
        let life = [
            (10, status("Starting", json!({}))),
            (20, running("prepare", 20)),
            (30, running("fineTune", 20)),
            (60, lost(60)),
            (61, again),
            (80, second),
            (95, status("Succeeded", json!({"attempt": 1, "completionTime": at(95).to_string()}))),
        ];
        let (mut before, mut open, mut spans) = (Value::Null, None, Vec::new());
        for (second, after) in life {
            let over;
            (open, over) = between(&job(before), open, &serde_json::from_value(after.clone()).unwrap(), at(second));
            spans.extend(over);
            before = after;
        }
        let lost = Some("PodLost: Killed: by signal 9");
        let expected = [
            ("start", 10, 20, None),
            ("prepare", 20, 30, None),
            ("fineTune", 30, 60, lost),
            ("backoff", 60, 61, None),
            ("start", 61, 80, None),
            ("fineTune", 80, 95, None),
            ("run", 10, 95, None),
        ];
        assert_eq!(told(&spans), expected);
        assert_eq!(open, None);
        let root = spans.last().unwrap();
        assert!(root.parent.is_none() && spans.iter().all(|s| s.trace == root.trace && s.parent.unwrap_or(root.id) == root.id));
        let ids: std::collections::BTreeSet<String> = spans.iter().map(|s| s.id.to_string()).collect();
        assert_eq!(ids.len(), spans.len(), "two spans have one id");
    }

    /// An operator that is started in the midst of a stage does not know its begin, and says so; the ids stay.
    #[test]
    fn a_new_operator_goes_on_with_the_trace() {
        let midst = job(running("fineTune", 20));
        let next: TransferJobStatus = serde_json::from_value(running("features", 20)).unwrap();
        let heard = Open { run_token: Some("1".into()), attempt: 0, part: Part::Stage(Stage::FineTune), since: at(30), since_is: Known::Written };
        let (_, old) = between(&midst, Some(heard), &next, at(60));
        let (_, new) = between(&midst, seen(midst.status.as_ref().unwrap(), at(50)), &next, at(60));
        assert_eq!((told(&old), told(&new)), (vec![("fineTune", 30, 60, None)], vec![("fineTune", 50, 60, None)]));
        assert_eq!((old[0].trace, old[0].id), (new[0].trace, new[0].id));
        assert!(new[0].attributes.contains(&KeyValue::new("graft.began_earlier", true)));
        let mut other = midst.clone();
        other.metadata.uid = Some("u-2".into());
        assert_ne!(between(&other, None, &next, at(60)).1[0].trace, new[0].trace);
    }
}
