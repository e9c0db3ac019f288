//! Why a pod failed: from the trainer's own last words where it left some, else from the exit code, the signal, the
//! kubelet and the conditions of the pod. Pods in whatever odd state get an answer; nothing here decides about restarts.

use graft_crds::contract::{ExitReason, TerminationSummary, TrainerFailure, truncate};
use graft_crds::status::{Failure, FailureClass};
use jiff::Timestamp;

use crate::world::{Container, PodPhase, PodView};

/// Bytes of what a pod said; its termination message has no more.
const SAID: usize = 4096;

/// How near a failure is to the cause: of several pods that failed, the smallest names the gang's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// It went wrong here.
    Cause,
    /// It was told to stop.
    Told,
    /// It lost a peer.
    Consequence,
}

/// A failure of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What status will say.
    pub failure: Failure,
    /// When the container ended.
    pub finished: Option<Timestamp>,
    /// How near it is to the cause.
    pub nearness: Nearness,
    /// Index of the pod.
    pub index: Option<u32>,
}

/// The class never restarts: the user must change something first.
#[must_use]
pub fn is_permanent(class: FailureClass) -> bool {
    match class {
        FailureClass::UserError | FailureClass::DataError => true,
        FailureClass::DeviceError
        | FailureClass::CollectiveLost
        | FailureClass::CheckpointError
        | FailureClass::Preempted
        | FailureClass::PodLost
        | FailureClass::PodNotStarted
        | FailureClass::Bug => false,
    }
}

/// The failure of a pod that ended badly; `None` for all others.
#[must_use]
pub fn classify(pod: &PodView) -> Option<Found> {
    let ended_badly = match (&pod.container, pod.phase) {
        (Container::Terminated { code, .. }, _) => *code != 0,
        (Container::Unknown | Container::Waiting { .. } | Container::Running, PodPhase::Failed) => true,
        (Container::Unknown | Container::Waiting { .. } | Container::Running, PodPhase::Pending | PodPhase::Running | PodPhase::Succeeded) => false,
    };
    if !ended_badly {
        return None;
    }
    let (failure, finished) = match &pod.container {
        Container::Terminated { code, signal, reason, message, finished } => (terminated(pod, *code, *signal, reason, message), *finished),
        Container::Unknown | Container::Waiting { .. } => (rejected_by_node(pod), None),
        Container::Running => (lost(pod), None),
    };
    let failure = match &pod.disrupted {
        Some((reason, message)) if !is_permanent(failure.class) => Failure {
            exit_code: failure.exit_code,
            signal: failure.signal,
            ..new(pod, FailureClass::Preempted, reason, &sentence(&pod.name, "was taken off its node", message))
        },
        Some(_) | None => failure,
    };
    let nearness = match failure.class {
        FailureClass::CollectiveLost => Nearness::Consequence,
        FailureClass::Preempted if pod.disrupted.is_none() => Nearness::Told,
        FailureClass::Preempted
        | FailureClass::UserError
        | FailureClass::DataError
        | FailureClass::DeviceError
        | FailureClass::CheckpointError
        | FailureClass::PodLost
        | FailureClass::PodNotStarted
        | FailureClass::Bug => Nearness::Cause,
    };
    Some(Found { failure, finished, nearness, index: pod.index })
}

/// The failure that the others followed: nearest to the cause, then first, then permanent, then of the lowest index.
#[must_use]
pub fn first(found: Vec<Found>) -> Option<Found> {
    found.into_iter().min_by_key(|f| (f.nearness, f.finished.unwrap_or(Timestamp::MAX), !is_permanent(f.failure.class), f.index))
}

/// Why a pod cannot start, if the kubelet says that it cannot. It tries again by itself, so this is no end.
/// The two words for a failed pull alternate every few seconds; they count as one.
#[must_use]
pub fn not_started(pod: &PodView) -> Option<Failure> {
    let Container::Waiting { reason, message } = &pod.container else { return None };
    if pod.has_ended() {
        return None;
    }
    let (reason, remedy) = match reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" => ("ImagePullBackOff", "check spec.image, the registry and the pull secret of the service account"),
        "InvalidImageName" => ("InvalidImageName", "correct spec.image"),
        "ErrImageNeverPull" => ("ErrImageNeverPull", "put the image on the node"),
        "ImageInspectError" => ("ImageInspectError", "look at the node's container runtime"),
        "CreateContainerConfigError" => ("CreateContainerConfigError", "check the Secrets and ConfigMaps that spec.env and spec.volumes name"),
        "CreateContainerError" | "RunContainerError" => ("CreateContainerError", "check spec.volumeMounts, spec.image and the node"),
        _ => return None,
    };
    let text = if message.is_empty() {
        format!("pod {} cannot start: {reason}; {remedy}", pod.name)
    } else {
        format!("pod {} cannot start: {message}; {remedy}", pod.name)
    };
    Some(new(pod, FailureClass::PodNotStarted, reason, &text))
}

/// The failure of an attempt whose pods left no trace.
#[must_use]
pub fn vanished(reason: &str, message: &str) -> Failure {
    Failure {
        class: FailureClass::PodLost,
        reason: reason.into(),
        message: message.into(),
        pod: None,
        node: None,
        rank: None,
        exit_code: None,
        signal: None,
    }
}

/// A gang that ended well but did not say what it wrote.
#[must_use]
pub fn no_summary(pod: &PodView) -> Failure {
    let text = format!("pod {} ended with exit code 0 but did not say which model it wrote; use a trainer image of the operator's release", pod.name);
    Failure { exit_code: Some(0), ..new(pod, FailureClass::Bug, "NoSummary", &text) }
}

fn new(pod: &PodView, class: FailureClass, reason: &str, message: &str) -> Failure {
    let reason: String = reason.chars().filter(char::is_ascii_alphanumeric).take(128).collect();
    let reason = if reason.starts_with(|c: char| c.is_ascii_alphabetic()) { reason } else { "Unknown".into() };
    Failure { class, reason, message: clean(message), pod: Some(pod.name.clone()), node: pod.node.clone(), rank: None, exit_code: None, signal: None }
}

/// What a pod said, for a terminal: bounded, in lines, and without what moves the cursor.
pub(crate) fn clean(text: &str) -> String {
    truncate(text, SAID).chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

fn sentence(pod: &str, what: &str, details: &str) -> String {
    if details.trim().is_empty() { format!("pod {pod} {what}") } else { format!("pod {pod} {what}: {}", details.trim()) }
}

fn terminated(pod: &PodView, code: i32, signal: Option<i32>, reason: &str, message: &str) -> Failure {
    let signal = signal.or_else(|| (129..=192).contains(&code).then(|| code - 128));
    let failure = if reason == "OOMKilled" {
        let text = format!("pod {} was killed for using more memory than its limit; raise spec.workers.resources.limits.memory", pod.name);
        new(pod, FailureClass::PodLost, "OOMKilled", &text)
    } else if let Some(told) = TerminationSummary::from_message(message).and_then(|s| s.failure) {
        trainer(pod, &told)
    } else if let Some(exit) = ExitReason::from_code(code) {
        let text = sentence(&pod.name, &format!("ended with exit code {code} ({exit:?}) and left no summary"), message);
        new(pod, exit.into(), &format!("{exit:?}"), &text)
    } else if matches!(reason, "StartError" | "ContainerCannotRun") {
        new(
            pod,
            FailureClass::PodNotStarted,
            reason,
            &sentence(&pod.name, "cannot run its command; use a trainer image of the operator's release", message),
        )
    } else {
        unexplained(pod, code, signal, message)
    };
    Failure { exit_code: Some(code), signal, ..failure }
}

fn trainer(pod: &PodView, told: &TrainerFailure) -> Failure {
    Failure { rank: told.rank.and_then(|r| i32::try_from(r).ok()), ..new(pod, told.exit.into(), &told.reason, &told.message) }
}

fn unexplained(pod: &PodView, code: i32, signal: Option<i32>, message: &str) -> Failure {
    match signal {
        Some(15) => new(pod, FailureClass::Preempted, "Terminated", &sentence(&pod.name, "was stopped before it could write a checkpoint", message)),
        // SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV come from the program itself; all others from outside.
        Some(s @ (4 | 6 | 7 | 8 | 11)) => {
            new(pod, FailureClass::Bug, "Crashed", &sentence(&pod.name, &format!("crashed with signal {s}; see its log"), message))
        }
        Some(s) => new(pod, FailureClass::PodLost, "Killed", &sentence(&pod.name, &format!("was killed by signal {s}"), message)),
        None => new(
            pod,
            FailureClass::Bug,
            "UnexpectedExit",
            &sentence(&pod.name, &format!("ended with exit code {code}, which the trainer never uses; see its log"), message),
        ),
    }
}

/// The kubelet refused the pod before any container was made: no room, no device, not its kind of node.
fn rejected_by_node(pod: &PodView) -> Failure {
    let (reason, message) = &pod.status;
    let reason = if reason.is_empty() { "PodRejected" } else { reason };
    new(pod, FailureClass::PodNotStarted, reason, &sentence(&pod.name, "was refused by its node", message))
}

fn lost(pod: &PodView) -> Failure {
    let (reason, message) = &pod.status;
    let reason = if reason.is_empty() { "PodLost" } else { reason };
    new(pod, FailureClass::PodLost, reason, &sentence(&pod.name, "failed while its container ran", message))
}
