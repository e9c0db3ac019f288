//! The decision: from the world to the plan, phase by phase. Read `decide` first; every step is one policy of its own file.

use graft_crds::TransferJobStatus;
use graft_crds::contract::{HTTP_PORT, TerminationSummary};
use graft_crds::status::{Failure, FailureClass, OutputStatus, Phase};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::children::{self, Attempt};
use crate::conditions;
use crate::failure::clean;
use crate::gang::{self, Gang};
use crate::plan::{Event, EventKind, Plan, ProgressTarget};
use crate::progress::{self, Due};
use crate::restart::{self, Verdict};
use crate::suspend::{self, Why};
use crate::terminal;
use crate::world::{Container, JobView, PodView, World};

/// How often to look again while waiting for something that should come as news.
const RESYNC: SignedDuration = SignedDuration::from_secs(30);

/// Decide what to do for one TransferJob. Total and deterministic.
#[must_use]
pub fn decide(world: &World) -> Plan {
    if world.job.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let mut draft = Draft::new(world);
    match draft.status.phase.unwrap_or_default() {
        Phase::Succeeded | Phase::Failed => {}
        Phase::Starting | Phase::Running => go_on(&mut draft),
        Phase::Pending | Phase::Restarting | Phase::Suspended if world.job.spec.suspend => suspend::stop(&mut draft, Why::Spec),
        Phase::Pending | Phase::Restarting | Phase::Suspended => start(&mut draft),
    }
    draft.finish()
}

/// What is done to a TransferJob before its operator is uninstalled: what runs is stopped as by `spec.suspend`, and the next
/// operator goes on. A gang that has done its work is left for that operator to see.
#[must_use]
pub fn leave(world: &World) -> Plan {
    let mut draft = Draft::new(world);
    if world.job.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    match draft.status.phase.unwrap_or_default() {
        Phase::Succeeded | Phase::Failed => Plan::default(),
        Phase::Pending | Phase::Restarting | Phase::Suspended => {
            draft.delete_jobs_except(None);
            draft.plan
        }
        Phase::Starting | Phase::Running => match gang_of(world, &draft.attempt(draft.number())) {
            Gang::Succeeded(_) => Plan::default(),
            Gang::Failed(..) | Gang::Settling(_) | Gang::Running | Gang::Stuck(_) | Gang::Waiting(_) => {
                suspend::stop(&mut draft, Why::Uninstall);
                draft.finish()
            }
        },
    }
}

/// Name of the Job that must exist if nobody deleted it; a cache that does not have it is asked to look again.
#[must_use]
pub fn expected_job(world: &World) -> Option<String> {
    let draft = Draft::new(world);
    match draft.status.phase.unwrap_or_default() {
        Phase::Starting | Phase::Running => Some(draft.attempt(draft.number()).name),
        Phase::Pending | Phase::Restarting | Phase::Suspended | Phase::Succeeded | Phase::Failed => None,
    }
}

/// Where the progress of the running attempt can be read; `None` when nothing runs.
#[must_use]
pub fn progress_target(world: &World) -> Option<ProgressTarget> {
    let draft = Draft::new(world);
    if draft.status.phase != Some(Phase::Running) || world.job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let attempt = draft.attempt(draft.number());
    let pod = pods_of(world, &attempt).into_iter().find(|p| p.index == Some(0) && p.container == Container::Running && p.deleted_by.is_none())?;
    Some(ProgressTarget { ip: pod.ip.clone()?, port: HTTP_PORT, attempt: attempt.name })
}

fn pods_of<'a>(world: &'a World, attempt: &Attempt<'_>) -> Vec<&'a PodView> {
    world.pods.iter().filter(|p| p.run == attempt.run && p.attempt == Some(attempt.number)).collect()
}

fn gang_of(world: &World, attempt: &Attempt<'_>) -> Gang {
    let job = world.jobs.iter().find(|j| j.name == attempt.name);
    let replicas = usize::try_from(world.job.spec.workers.replicas).unwrap_or(1).max(1);
    gang::observe(&pods_of(world, attempt), job, replicas, world.now)
}

/// Start the next attempt, once nothing of an older one is left.
fn start(draft: &mut Draft<'_>) {
    let world = draft.world;
    let number = if draft.status.start_time.is_some() { draft.number().saturating_add(1) } else { draft.number() };
    let attempt = draft.attempt(number);
    draft.delete_jobs_except(Some(&attempt.name));
    if let Some(wait) = blocked(world, &attempt) {
        let phase = if draft.status.start_time.is_some() { Phase::Restarting } else { Phase::Pending };
        if phase != Phase::Restarting || draft.status.phase != Some(Phase::Restarting) {
            draft.enter(phase, "Waiting for the pods of the previous attempt to stop".into());
        }
        draft.look_again(wait);
        return;
    }
    if let Some(not_before) = draft.status.restart_not_before.as_ref().filter(|t| t.0 > world.now) {
        let wait = world.now.duration_until(not_before.0);
        draft.look_again(wait);
        return;
    }
    if !world.jobs.iter().any(|j| j.name == attempt.name) {
        match children::build(&attempt) {
            Ok(children) => draft.plan.apply = children,
            Err(error) => return draft.give_up(crate::failure::vanished("ConfigUnwritable", &error.to_string()), error.to_string()),
        }
    }
    draft.status.attempt = i32::try_from(number).unwrap_or(i32::MAX);
    draft.status.restart_not_before = None;
    draft.status.start_time.get_or_insert(Time(world.now));
    draft.heal();
    draft.enter(Phase::Starting, draft.waiting_message(None));
}

/// How long to wait at most for older Jobs and pods to go; `None` when none is left.
fn blocked(world: &World, next: &Attempt<'_>) -> Option<SignedDuration> {
    let jobs = world.jobs.iter().any(|j| j.name != next.name || j.deleting);
    let holds = |p: &PodView| (p.run != next.run || p.attempt != Some(next.number)) && p.is_waited_for(world.now);
    (jobs || world.pods.iter().any(holds)).then_some(RESYNC)
}

/// Follow the attempt that was started.
fn go_on(draft: &mut Draft<'_>) {
    let world = draft.world;
    let attempt = draft.attempt(draft.number());
    let job = world.jobs.iter().find(|j| j.name == attempt.name);
    draft.delete_jobs_except(Some(&attempt.name));
    match gang_of(world, &attempt) {
        Gang::Succeeded(summary) => succeed(draft, summary.as_deref()),
        Gang::Failed(..) | Gang::Settling(_) | Gang::Running | Gang::Stuck(_) | Gang::Waiting(_) if world.job.spec.suspend => {
            suspend::stop(draft, Why::Spec)
        }
        Gang::Failed(failure, summary) => fail(draft, *failure, summary.as_deref(), &attempt.name),
        Gang::Settling(wait) => draft.look_again(wait),
        Gang::Running => run(draft),
        Gang::Stuck(_) | Gang::Waiting(_) if draft.status.phase == Some(Phase::Starting) && outdated(&attempt, job) => begin_anew(draft),
        Gang::Stuck(failure) => wait_for_repair(draft, failure),
        Gang::Waiting(reason) => match draft.status.phase {
            // A gang that ran does not start again because one pod is not seen for a moment.
            Some(Phase::Running) => draft.look_again(RESYNC),
            _ => {
                draft.heal();
                draft.enter(Phase::Starting, draft.waiting_message(reason.as_deref()));
            }
        },
    }
}

fn run(draft: &mut Draft<'_>) {
    let world = draft.world;
    draft.heal();
    if draft.status.phase != Some(Phase::Running) {
        let message = match draft.status.attempt {
            0 => format!("Training on {}", draft.pods_in_words()),
            n => format!("Training on {}, attempt {n}", draft.pods_in_words()),
        };
        draft.tell(EventKind::Normal, "Running", &message);
        draft.enter(Phase::Running, message);
    }
    if let Some(progress) = &world.progress {
        let due = Due::at(world.now, world.progress_written, world.settings.progress_interval_seconds);
        progress::show_if_news(&mut draft.status, progress, &world.job.spec.evaluation, due, world.now);
    }
    draft.look_again(SignedDuration::from_secs(world.settings.progress_interval_seconds.max(1)));
}

fn succeed(draft: &mut Draft<'_>, summary: Option<&TerminationSummary>) {
    let world = draft.world;
    if let Some(summary) = summary {
        progress::show(&mut draft.status, &summary.progress, &world.job.spec.evaluation, world.now);
        draft.status.output = summary.output.as_ref().map(|o| OutputStatus { uri: clean(&o.uri), digest: clean(&o.digest) });
    }
    if let Some(progress) = &mut draft.status.progress {
        progress.percent = 100;
        progress.summary = "100%".into();
        progress.eta = None;
    }
    draft.heal();
    let uri = draft.status.output.as_ref().map_or(world.job.spec.output.uri.as_str(), |o| o.uri.as_str());
    let message = format!("The model is written to {uri}");
    draft.status.completion_time = Some(Time(world.now));
    draft.tell(EventKind::Normal, "Succeeded", &message);
    draft.enter(Phase::Succeeded, message);
}

/// The attempt is over: start again or give up.
fn fail(draft: &mut Draft<'_>, failure: Failure, summary: Option<&TerminationSummary>, name: &str) {
    let world = draft.world;
    if let Some(summary) = summary {
        progress::show(&mut draft.status, &summary.progress, &world.job.spec.evaluation, world.now);
    }
    match restart::verdict(&failure, draft.status.restarts, &world.job.spec.recovery) {
        Verdict::GiveUp(message) => draft.give_up(failure, message),
        Verdict::Again { restarts, after } => {
            let message = format!("Attempt {} failed ({}: {}); the gang starts again", draft.status.attempt, failure.reason, failure.message);
            draft.status.restarts = restarts;
            draft.status.restart_not_before = world.now.checked_add(after).ok().map(Time);
            // What the failed attempt runs must stop at once, and where its Job is gone already its companions go too.
            if !world.jobs.iter().any(|j| j.name == name) {
                draft.plan.delete.extend(children::refs(name, None));
            }
            draft.delete_jobs_except(None);
            draft.tell(EventKind::Warning, "Restarting", &message);
            draft.status.failure = Some(failure);
            draft.enter(Phase::Restarting, message);
            draft.look_again(after);
        }
    }
}

/// The spec asks for other pods than those that wait: somebody corrected the image, a volume or the node selector.
fn outdated(attempt: &Attempt<'_>, job: Option<&JobView>) -> bool {
    job.and_then(|j| j.pod_digest.as_deref()).is_some_and(|made| made != children::pod_digest(attempt))
}

/// Replace pods that never ran by those that the spec asks for now. Nothing failed, so nothing is counted.
fn begin_anew(draft: &mut Draft<'_>) {
    draft.delete_jobs_except(None);
    draft.heal();
    draft.enter(Phase::Restarting, "The spec was corrected before the pods ran; they are made anew".into());
}

/// A pod cannot start. The kubelet tries again, so the phase stays; people are told at once.
fn wait_for_repair(draft: &mut Draft<'_>, failure: Failure) {
    // The kubelet words the same trouble differently from try to try; the first words stand.
    let known = draft.status.failure.clone().filter(|old| old.class == failure.class && old.reason == failure.reason && old.pod == failure.pod);
    if known.is_none() {
        draft.tell(EventKind::Warning, &failure.reason, &failure.message);
    }
    let failure = known.unwrap_or(failure);
    let phase = draft.status.phase.unwrap_or(Phase::Starting);
    draft.enter(phase, failure.message.clone());
    draft.stuck(failure);
    draft.look_again(RESYNC);
}

/// A plan in the making.
pub(crate) struct Draft<'a> {
    pub world: &'a World,
    pub status: TransferJobStatus,
    pub plan: Plan,
    stuck: Option<Failure>,
}

impl<'a> Draft<'a> {
    pub fn new(world: &'a World) -> Self {
        let status = terminal::of_this_run(&world.job.spec, world.job.status.clone().unwrap_or_default());
        Self { world, status, plan: Plan::default(), stuck: None }
    }

    fn number(&self) -> u32 {
        u32::try_from(self.status.attempt).unwrap_or(0)
    }

    fn attempt(&self, number: u32) -> Attempt<'a> {
        Attempt::new(&self.world.job, &self.world.settings, number)
    }

    /// Set the phase and its sentence.
    pub fn enter(&mut self, phase: Phase, message: String) {
        self.status.phase = Some(phase);
        self.status.message = Some(message);
    }

    /// Send an event once the status is written.
    pub fn tell(&mut self, kind: EventKind, reason: &str, message: &str) {
        self.plan.events.push(Event::new(kind, reason, message));
    }

    /// Nothing goes on without help.
    pub fn stuck(&mut self, failure: Failure) {
        self.status.failure = Some(failure.clone());
        self.stuck = Some(failure);
    }

    /// A pod that could not start does now: its failure is no failure of an attempt and goes.
    fn heal(&mut self) {
        let not_started = self.status.failure.as_ref().is_some_and(|f| f.class == FailureClass::PodNotStarted);
        if not_started && conditions::was_stalled(&self.status.conditions) {
            self.status.failure = None;
        }
    }

    fn give_up(&mut self, failure: Failure, message: String) {
        self.tell(EventKind::Warning, "Failed", &format!("{}: {message}", failure.reason));
        self.status.failure = Some(failure);
        self.status.completion_time = Some(Time(self.world.now));
        self.status.restart_not_before = None;
        self.enter(Phase::Failed, message);
    }

    fn look_again(&mut self, after: SignedDuration) {
        self.plan.next = Some(self.plan.next.map_or(after, |next| next.min(after)));
    }

    /// Delete the Jobs of this TransferJob, each with its companions; those already on their way are left alone.
    pub fn delete_jobs_except(&mut self, keep: Option<&str>) {
        for job in self.world.jobs.iter().filter(|j| !j.deleting && Some(j.name.as_str()) != keep) {
            self.plan.delete.extend(children::refs(&job.name, Some(&job.uid)));
        }
    }

    fn pods_in_words(&self) -> String {
        match self.world.job.spec.workers.replicas {
            1 => "1 pod".into(),
            n => format!("{n} pods"),
        }
    }

    fn waiting_message(&self, reason: Option<&str>) -> String {
        let pods = self.pods_in_words();
        match reason {
            Some(reason) => format!("Waiting for {pods} to run: {reason}"),
            None => format!("Waiting for {pods} to run"),
        }
    }

    /// The plan; the status only if it says something new.
    pub fn finish(mut self) -> Plan {
        let workers = &self.world.job.spec.workers;
        let phase = self.status.phase.unwrap_or_default();
        self.status.phase = Some(phase);
        self.status.observed_generation = self.world.job.metadata.generation;
        self.status.workers = Some(format!("{}x{}", workers.replicas, workers.processes_per_pod()));
        self.status.conditions = conditions::render(&self.status, self.stuck.as_ref(), self.world.now);
        let old = self.world.job.status.as_ref();
        self.plan.carries_progress = old.and_then(|s| s.progress.as_ref()) != self.status.progress.as_ref();
        self.plan.status = (old != Some(&self.status)).then_some(self.status);
        self.plan
    }
}
