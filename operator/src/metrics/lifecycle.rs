//! What a change of status means for the counts: a pure comparison of the status before and after a write.

use std::collections::HashMap;

use graft_crds::contract::Stage;
use graft_crds::names::CONDITION_RUNNING;
use graft_crds::status::{FailureClass, Phase, TransferJobStatus};
use jiff::Timestamp;

/// Something that happened to a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Passage {
    /// A run was taken up.
    Created,
    /// The gang of the run's first attempt runs; seconds since its pods were asked for.
    Queued(f64),
    /// The gang of a job that nobody changed runs for the first time; seconds since the job was created.
    FirstRun(f64),
    /// The run's first steps are told; seconds since its pods were asked for.
    FirstStep(f64),
    /// The gang runs again; seconds since the one before was lost.
    Recovered(f64),
    /// The gang is started again after a failure of this class.
    Restarted(FailureClass),
    /// So much of its fine-tuning was in no checkpoint.
    Lost {
        /// Whole epochs.
        epochs: u64,
        /// Optimizer steps.
        steps: u64,
    },
    /// The model is written.
    Succeeded,
    /// Ended without a model.
    Failed(FailureClass),
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

/// What happened between two statuses of a job. `created` is given only while its spec is as it was created: else somebody has
/// suspended it or asked for another run, and the time since then says nothing about the cluster.
pub(super) fn between(before: Option<&TransferJobStatus>, after: &TransferJobStatus, created: Option<Timestamp>, now: Timestamp) -> Vec<Passage> {
    let none = TransferJobStatus::default();
    let first = before.is_none_or(|b| b.phase.is_none());
    let another_run = before.is_some_and(|b| b.phase.is_some() && b.run_token != after.run_token);
    let before = before.filter(|_| !another_run).unwrap_or(&none);
    let mut passages = Vec::new();
    if first || another_run {
        passages.push(Passage::Created);
    }
    let class = after.failure.as_ref().map_or(FailureClass::Bug, |f| f.class);
    if after.restarts.failures > before.restarts.failures {
        passages.push(Passage::Restarted(class));
    }
    if after.restarts.preemptions > before.restarts.preemptions {
        passages.push(Passage::Restarted(FailureClass::Preempted));
    }
    if after.restarts.total > before.restarts.total {
        passages.extend(lost(after));
    }
    if after.attempt == 0 && steps(after) && !steps(before) {
        passages.extend(after.start_time.as_ref().map(|t| Passage::FirstStep(seconds(t.0, now))));
    }
    if before.phase == after.phase {
        return passages;
    }
    match after.phase {
        Some(Phase::Running) if after.attempt == 0 => {
            passages.extend(after.start_time.as_ref().map(|t| Passage::Queued(seconds(t.0, now))));
            passages.extend(created.map(|t| Passage::FirstRun(seconds(t, now))));
        }
        Some(Phase::Running) if after.restarts.total > 0 => {
            let lost = before.conditions.iter().find(|c| c.type_ == CONDITION_RUNNING && c.status == "False");
            passages.extend(lost.map(|c| Passage::Recovered(seconds(c.last_transition_time.0, now))));
        }
        Some(Phase::Succeeded) => passages.push(Passage::Succeeded),
        Some(Phase::Failed) => passages.push(Passage::Failed(class)),
        Some(Phase::Pending | Phase::Starting | Phase::Running | Phase::Restarting | Phase::Suspended) | None => {}
    }
    passages
}

/// Steps of fine-tuning were told.
fn steps(status: &TransferJobStatus) -> bool {
    status.checkpoint.is_some() || status.progress.as_ref().is_some_and(|p| p.unsaved_steps > 0)
}

/// What of fine-tuning was told and is in no checkpoint.
fn lost(status: &TransferJobStatus) -> Option<Passage> {
    let done = status.progress.as_ref().filter(|_| status.stage == Some(Stage::FineTune))?;
    let kept = status.checkpoint.as_ref().map_or(0, |c| c.epoch);
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let (epochs, steps) = (count(done.epoch.saturating_sub(kept)), count(done.unsaved_steps));
    (epochs > 0 || steps > 0).then_some(Passage::Lost { epochs, steps })
}

/// The stage of each job and since when it is known. A stage is measured when the next one begins or the job succeeds in
/// the same attempt; one that was interrupted is forgotten.
#[derive(Default)]
pub(super) struct Stages(HashMap<String, (i32, Stage, Timestamp)>);

impl Stages {
    /// Take note of a status; gives a stage that is over and its seconds.
    pub fn see(&mut self, uid: &str, status: &TransferJobStatus, now: Timestamp) -> Option<(Stage, f64)> {
        let phase = status.phase.unwrap_or_default();
        let known = self.0.get(uid).copied().filter(|(attempt, _, _)| *attempt == status.attempt);
        let over = |(_, stage, since): (i32, Stage, Timestamp)| (stage, seconds(since, now));
        if phase != Phase::Running {
            self.0.remove(uid);
            return known.filter(|_| phase == Phase::Succeeded).map(over);
        }
        let stage = status.stage?;
        match known {
            Some((_, same, _)) if same == stage => None,
            Some(other) => {
                self.0.insert(uid.to_owned(), (status.attempt, stage, now));
                Some(over(other))
            }
            None => {
                self.0.insert(uid.to_owned(), (status.attempt, stage, now));
                None
            }
        }
    }

    /// Forget a job that is gone.
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

/// What became of a gang's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// Its work was kept.
    Well,
    /// The first gang of a run was not yet there.
    Starting,
    /// A further gang was not yet there.
    Recovering,
    /// Its work was lost with the gang.
    Lost,
    /// It ended in failure.
    Failed,
}

impl Spent {
    /// What is no goodput, with its value of the label `cause`.
    pub const BADPUT: [(Self, &'static str); 4] =
        [(Self::Starting, "starting"), (Self::Recovering, "recovering"), (Self::Lost, "lost_work"), (Self::Failed, "failed")];
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gang {
    Awaited {
        since: Timestamp,
        recovering: bool,
    },
    /// Everything before `kept` is safe: in a checkpoint of this epoch, or as a stage that is over.
    Works {
        kept: Timestamp,
        safe: (Option<i64>, Option<Stage>),
    },
}

/// The gang of each job, for what its time was spent on. After a start of the operator it begins anew.
#[derive(Default)]
pub(super) struct Gangs(HashMap<String, Gang>);

impl Gangs {
    /// Take note of a status; gives time that was spent since the one before, in seconds.
    pub fn see(&mut self, uid: &str, status: &TransferJobStatus, now: Timestamp) -> Option<(Spent, f64)> {
        let known = self.0.get(uid).copied();
        let lost = |gang, spent| match gang {
            Some(Gang::Works { kept, .. }) => Some((spent, seconds(kept, now))),
            Some(Gang::Awaited { .. }) | None => None,
        };
        let (next, spent) = match status.phase.unwrap_or_default() {
            Phase::Pending | Phase::Starting | Phase::Restarting => match known {
                Some(Gang::Awaited { .. }) => (known, None),
                gang => (Some(Gang::Awaited { since: now, recovering: status.restarts.total > 0 }), lost(gang, Spent::Lost)),
            },
            Phase::Running => {
                let safe = (status.checkpoint.as_ref().map(|c| c.epoch), status.stage);
                let works = Some(Gang::Works { kept: now, safe });
                match known {
                    Some(Gang::Works { safe: same, .. }) if same == safe => (known, None),
                    Some(Gang::Works { kept, .. }) => (works, Some((Spent::Well, seconds(kept, now)))),
                    Some(Gang::Awaited { since, recovering }) => {
                        (works, Some((if recovering { Spent::Recovering } else { Spent::Starting }, seconds(since, now))))
                    }
                    None => (works, None),
                }
            }
            Phase::Succeeded => (None, lost(known, Spent::Well)),
            Phase::Failed => (None, lost(known, Spent::Failed)),
            Phase::Suspended => (None, lost(known, Spent::Lost)),
        };
        match next {
            Some(gang) => self.0.insert(uid.to_owned(), gang),
            None => self.0.remove(uid),
        };
        spent
    }

    /// Forget a job that is gone.
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: &str = "2026-01-01T00:00:00Z";

    fn status(value: serde_json::Value) -> TransferJobStatus {
        serde_json::from_value(value).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        START.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(second)
    }

    #[test]
    fn a_life_with_one_loss() {
        let states = [
            (0, json!({"phase": "Starting", "runToken": "1", "startTime": START})),
            (20, json!({"phase": "Running", "runToken": "1", "startTime": START})),
            (
                28,
                json!({"phase": "Running", "runToken": "1", "startTime": START, "stage": "fineTune",
                       "progress": {"summary": "1%", "percent": 1, "unsavedSteps": 3}}),
            ),
            (
                60,
                json!({"phase": "Restarting", "runToken": "1", "startTime": START, "attempt": 1, "restarts": {"total": 1, "failures": 1},
                 "stage": "fineTune", "progress": {"summary": "50%", "percent": 50, "epoch": 5, "unsavedSteps": 21}, "checkpoint": {"epoch": 3, "digest": "d"},
                 "failure": {"class": "PodLost", "reason": "r", "message": "m"},
                 "conditions": [{"type": "Running", "status": "False", "reason": "r", "message": "", "lastTransitionTime": "2026-01-01T00:01:00Z"}]}),
            ),
            (90, json!({"phase": "Running", "runToken": "1", "startTime": START, "attempt": 1, "restarts": {"total": 1, "failures": 1}})),
            (99, json!({"phase": "Succeeded", "runToken": "1", "startTime": START, "attempt": 1, "restarts": {"total": 1, "failures": 1}})),
        ];
        let mut seen = Vec::new();
        let mut before = None;
        for (second, value) in states {
            let after = status(value);
            seen.extend(between(before.as_ref(), &after, Some(at(-5)), at(second)));
            before = Some(after);
        }
        let expected = [
            Passage::Created,
            Passage::Queued(20.0),
            Passage::FirstRun(25.0),
            Passage::FirstStep(28.0),
            Passage::Restarted(FailureClass::PodLost),
            Passage::Lost { epochs: 2, steps: 21 },
            Passage::Recovered(30.0),
            Passage::Succeeded,
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn another_run_counts_anew_and_the_same_status_not_at_all() {
        let over = status(json!({"phase": "Failed", "runToken": "", "restarts": {"total": 3, "failures": 3}}));
        let again = status(json!({"phase": "Starting", "runToken": "2"}));
        assert_eq!(between(Some(&over), &again, None, at(0)), [Passage::Created]);
        assert!(between(Some(&over), &over, None, at(0)).is_empty());
    }

    #[test]
    fn time_is_well_spent_only_up_to_what_was_kept() {
        let mut gangs = Gangs::default();
        let running = |epoch: i64, stage: &str, total: i32| {
            status(json!({"phase": "Running", "stage": stage, "checkpoint": {"epoch": epoch, "digest": "d"}, "restarts": {"total": total}}))
        };
        let phase = |name: &str, total: i32| status(json!({"phase": name, "restarts": {"total": total}}));
        let story = [
            (0, phase("Starting", 0), None),
            (3, phase("Starting", 0), None),
            (10, running(0, "fineTune", 0), Some((Spent::Starting, 10.0))),
            (20, running(0, "fineTune", 0), None),
            (70, running(1, "fineTune", 0), Some((Spent::Well, 60.0))),
            (90, running(1, "fineTune", 0), None),
            (95, phase("Restarting", 1), Some((Spent::Lost, 25.0))),
            (99, phase("Starting", 1), None),
            (105, running(1, "fineTune", 1), Some((Spent::Recovering, 10.0))),
            (165, running(1, "features", 1), Some((Spent::Well, 60.0))),
            (180, phase("Succeeded", 1), Some((Spent::Well, 15.0))),
        ];
        for (second, status, expected) in story {
            assert_eq!(gangs.see("u", &status, at(second)), expected, "at {second} s");
        }
        assert!(gangs.0.is_empty());
        gangs.see("v", &running(0, "fineTune", 0), at(0));
        assert_eq!(gangs.see("v", &phase("Failed", 0), at(7)), Some((Spent::Failed, 7.0)));
        gangs.see("w", &running(0, "fineTune", 0), at(0));
        assert_eq!(gangs.see("w", &phase("Suspended", 0), at(8)), Some((Spent::Lost, 8.0)));
    }

    #[test]
    fn stages_are_measured_unless_interrupted() {
        let mut stages = Stages::default();
        let running = |attempt: i32, stage: &str| status(json!({"phase": "Running", "attempt": attempt, "stage": stage}));
        assert_eq!(stages.see("u", &running(0, "prepare"), at(0)), None);
        assert_eq!(stages.see("u", &running(0, "fineTune"), at(4)), Some((Stage::Prepare, 4.0)));
        assert_eq!(stages.see("u", &status(json!({"phase": "Restarting", "attempt": 1})), at(5)), None);
        assert_eq!(stages.see("u", &running(1, "fineTune"), at(9)), None);
        assert_eq!(stages.see("u", &status(json!({"phase": "Succeeded", "attempt": 1})), at(12)), Some((Stage::FineTune, 3.0)));
    }
}
