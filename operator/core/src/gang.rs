//! What the pods of one attempt amount to, as one word. The pods' own word comes first; the Job controller, which
//! gathers its news for a second or two, is asked only where they say nothing.

use std::collections::BTreeSet;

use graft_crds::contract::TerminationSummary;
use graft_crds::status::Failure;
use jiff::{SignedDuration, Timestamp};

use crate::failure::{self, Nearness};
use crate::world::{Container, JobOutcome, JobView, PodPhase, PodView};

/// A pod that lost its peer often is seen before the peer; the cause gets this long to show up.
const SETTLE: SignedDuration = SignedDuration::from_secs(3);

/// Where the gang of an attempt stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Gang {
    /// Not all pods run; the reason if no node takes one.
    Waiting(Option<String>),
    /// A pod cannot start; it may heal.
    Stuck(Failure),
    /// All pods run.
    Running,
    /// Something failed, but what came first is not clear yet.
    Settling(SignedDuration),
    /// All indexes succeeded, and the summary of index 0 if its pod is still there.
    Succeeded(Option<Box<TerminationSummary>>),
    /// The attempt is over; what index 0 last said, if it said something.
    Failed(Box<Failure>, Option<Box<TerminationSummary>>),
}

/// Judge the pods of an attempt of `replicas` pods and its Job.
pub fn observe(pods: &[&PodView], job: Option<&JobView>, replicas: usize, now: Timestamp) -> Gang {
    let summary = || pods.iter().filter(|p| p.index == Some(0)).find_map(|p| summary(p)).map(Box::new);
    let found: Vec<_> = pods.iter().filter_map(|p| failure::classify(p)).collect();
    let alive = pods.iter().any(|p| !p.has_ended());
    if let Some(first) = failure::first(found) {
        let settled = first.finished.unwrap_or(Timestamp::MIN).saturating_add(SETTLE).unwrap_or(Timestamp::MAX);
        return match first.nearness {
            Nearness::Consequence if alive && settled > now => Gang::Settling(now.duration_until(settled)),
            Nearness::Cause | Nearness::Told | Nearness::Consequence => Gang::Failed(Box::new(first.failure), summary()),
        };
    }
    let succeeded = indexes(pods, |p| p.phase == PodPhase::Succeeded) >= replicas || job.is_some_and(|j| j.outcome == JobOutcome::Complete);
    if succeeded {
        let silent = pods.iter().find(|p| p.index == Some(0) && summary_of_model(p).is_none());
        return match silent {
            Some(pod) => Gang::Failed(Box::new(failure::no_summary(pod)), summary()),
            None => Gang::Succeeded(summary()),
        };
    }
    match job.map(|j| (&j.outcome, j.deleting)) {
        Some((JobOutcome::Failed(message), _)) => {
            return Gang::Failed(Box::new(failure::vanished("PodLost", &format!("a pod of the gang is gone without a trace: {message}"))), summary());
        }
        None | Some((_, true)) => {
            let text = "the Job of the attempt was deleted; delete or suspend the TransferJob instead";
            return Gang::Failed(Box::new(failure::vanished("JobDeleted", text)), summary());
        }
        Some((JobOutcome::Active | JobOutcome::Complete, false)) => {}
    }
    if indexes(pods, runs) >= replicas {
        return Gang::Running;
    }
    let mut ordered: Vec<_> = pods.iter().collect();
    ordered.sort_by_key(|p| (p.index, &p.name));
    match ordered.iter().find_map(|p| failure::not_started(p)) {
        Some(failure) => Gang::Stuck(failure),
        None => Gang::Waiting(ordered.iter().find_map(|p| p.unschedulable.clone())),
    }
}

fn runs(pod: &PodView) -> bool {
    match pod.container {
        Container::Running | Container::Terminated { code: 0, .. } => true,
        Container::Unknown | Container::Waiting { .. } | Container::Terminated { .. } => false,
    }
}

fn indexes(pods: &[&PodView], wanted: impl Fn(&PodView) -> bool) -> usize {
    pods.iter().filter(|p| wanted(p)).filter_map(|p| p.index).collect::<BTreeSet<_>>().len()
}

fn summary(pod: &PodView) -> Option<TerminationSummary> {
    match &pod.container {
        Container::Terminated { message, .. } => TerminationSummary::from_message(message),
        Container::Unknown | Container::Waiting { .. } | Container::Running => None,
    }
}

fn summary_of_model(pod: &PodView) -> Option<TerminationSummary> {
    summary(pod).filter(|s| s.output.is_some())
}
