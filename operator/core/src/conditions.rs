//! Conditions from the phase: always all six, so that nobody has to tell absence from `False`. The time of a
//! transition changes only with the condition's status.

use graft_crds::names::{CONDITION_COMPLETE, CONDITION_FAILED, CONDITION_RECONCILING, CONDITION_RUNNING, CONDITION_STALLED, CONDITION_SUSPENDED};
use graft_crds::status::{Failure, Phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Which conditions hold in a phase. `stuck`: a pod cannot start, or the API server refuses the children.
fn holds(kind: &str, phase: Phase, stuck: Option<&Failure>) -> bool {
    match kind {
        CONDITION_SUSPENDED => phase == Phase::Suspended,
        CONDITION_RUNNING => phase == Phase::Running,
        CONDITION_COMPLETE => phase == Phase::Succeeded,
        CONDITION_FAILED => phase == Phase::Failed,
        CONDITION_STALLED => stuck.is_some() || phase == Phase::Failed,
        _ => stuck.is_none() && matches!(phase, Phase::Pending | Phase::Starting | Phase::Running | Phase::Restarting),
    }
}

/// The conditions of a status.
pub fn render(old: &[Condition], phase: Phase, failure: Option<&Failure>, stuck: Option<&Failure>, message: &str, now: Timestamp) -> Vec<Condition> {
    let kinds = [CONDITION_SUSPENDED, CONDITION_RUNNING, CONDITION_COMPLETE, CONDITION_FAILED, CONDITION_RECONCILING, CONDITION_STALLED];
    let render_one = |kind: &str| {
        let held = holds(kind, phase, stuck);
        let status = if held { "True" } else { "False" };
        let reason = match kind {
            CONDITION_FAILED | CONDITION_STALLED if held => stuck.or(failure).map_or(phase.name(), |f| f.reason.as_str()),
            _ => phase.name(),
        };
        let before = old.iter().find(|c| c.type_ == kind && c.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: if held { message.to_owned() } else { String::new() },
            last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
            observed_generation: None,
        }
    };
    kinds.into_iter().map(render_one).collect()
}

/// The job was stalled when this status was written.
pub fn was_stalled(conditions: &[Condition]) -> bool {
    conditions.iter().any(|c| c.type_ == CONDITION_STALLED && c.status == "True")
}
