//! Conditions from the phase and from what is known of the data: always all eight, so that nobody has to tell absence
//! from `False`. The time of a transition changes only with the condition's status.

use graft_crds::TransferJobStatus;
use graft_crds::names::{
    CONDITION_COMPLETE, CONDITION_DATA_CHECKED, CONDITION_FAILED, CONDITION_RECONCILING, CONDITION_RUNNING, CONDITION_SHORTCUT_SUSPECTED,
    CONDITION_STALLED, CONDITION_SUSPENDED,
};
use graft_crds::status::{Failure, FailureClass, Phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

const KINDS: [&str; 8] = [
    CONDITION_SUSPENDED,
    CONDITION_RUNNING,
    CONDITION_COMPLETE,
    CONDITION_FAILED,
    CONDITION_RECONCILING,
    CONDITION_STALLED,
    CONDITION_DATA_CHECKED,
    CONDITION_SHORTCUT_SUSPECTED,
];

/// Status, reason and message of a condition.
type Verdict = (&'static str, String, String);

/// The conditions of `status`, whose phase, failure, message and data are those of now. `stuck`: a pod cannot start, or the
/// API server refuses the children.
pub fn render(status: &TransferJobStatus, stuck: Option<&Failure>, now: Timestamp) -> Vec<Condition> {
    let render_one = |kind: &str| {
        let (state, reason, message) = match kind {
            CONDITION_DATA_CHECKED => data_checked(status),
            CONDITION_SHORTCUT_SUSPECTED => shortcut_suspected(status),
            _ => of_phase(kind, status, stuck),
        };
        let before = status.conditions.iter().find(|c| c.type_ == kind && c.status == state);
        Condition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason,
            message,
            last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
            observed_generation: None,
        }
    };
    KINDS.into_iter().map(render_one).collect()
}

fn of_phase(kind: &str, status: &TransferJobStatus, stuck: Option<&Failure>) -> Verdict {
    let phase = status.phase.unwrap_or_default();
    let held = match kind {
        CONDITION_SUSPENDED => phase == Phase::Suspended,
        CONDITION_RUNNING => phase == Phase::Running,
        CONDITION_COMPLETE => phase == Phase::Succeeded,
        CONDITION_FAILED => phase == Phase::Failed,
        CONDITION_STALLED => stuck.is_some() || phase == Phase::Failed,
        _ => stuck.is_none() && matches!(phase, Phase::Pending | Phase::Starting | Phase::Running | Phase::Restarting),
    };
    let reason = match kind {
        CONDITION_FAILED | CONDITION_STALLED if held => stuck.or(status.failure.as_ref()).map_or(phase.name(), |f| f.reason.as_str()),
        _ => phase.name(),
    };
    let message = if held { status.message.clone().unwrap_or_default() } else { String::new() };
    (if held { "True" } else { "False" }, reason.to_owned(), message)
}

fn data_checked(status: &TransferJobStatus) -> Verdict {
    if let Some(failure) = status.failure.as_ref().filter(|failure| failure.class == FailureClass::DataError) {
        return ("False", failure.reason.clone(), failure.message.clone());
    }
    let Some(data) = &status.data else { return not_looked_at() };
    let (across, conflicts) = (data.pairs_across_splits, data.label_conflicts);
    let clean = across == 0 && conflicts == 0;
    let skipped = if data.skipped > 0 { format!(", {} that cannot be decoded left out", data.skipped) } else { String::new() };
    let repeats = if data.left_out > 0 { format!("; {} that repeat a picture left out", data.left_out) } else { String::new() };
    let message = format!("{} images{skipped}; {across} pairs of the same picture in two splits, {conflicts} under two labels{repeats}", data.images);
    ("True", if clean { "Clean" } else { "DuplicatesFound" }.into(), message)
}

fn shortcut_suspected(status: &TransferJobStatus) -> Verdict {
    let Some(data) = &status.data else { return not_looked_at() };
    match data.shortcuts.as_slice() {
        [] => ("False", "NoneFound".into(), String::new()),
        shortcuts => ("True", "LabelPredictable".into(), shortcuts.join("; ")),
    }
}

fn not_looked_at() -> Verdict {
    ("Unknown", "NotLookedAt".into(), String::new())
}

/// The job was stalled when this status was written.
pub fn was_stalled(conditions: &[Condition]) -> bool {
    conditions.iter().any(|c| c.type_ == CONDITION_STALLED && c.status == "True")
}

#[cfg(test)]
mod tests {
    use graft_crds::status::DataStatus;

    use super::*;

    fn of(status: &TransferJobStatus, kind: &str) -> (String, String, String) {
        let condition = render(status, None, Timestamp::UNIX_EPOCH).into_iter().find(|c| c.type_ == kind).unwrap();
        (condition.status, condition.reason, condition.message)
    }

    #[test]
    fn what_is_known_of_the_data_is_two_conditions() {
        let mut status = TransferJobStatus::default();
        assert_eq!(of(&status, CONDITION_DATA_CHECKED).0, "Unknown");
        assert_eq!(of(&status, CONDITION_SHORTCUT_SUSPECTED).0, "Unknown");
        status.data = Some(DataStatus { images: 9, ..DataStatus::default() });
        assert_eq!(of(&status, CONDITION_DATA_CHECKED).1, "Clean");
        assert_eq!(of(&status, CONDITION_SHORTCUT_SUSPECTED).0, "False");
        status.data = Some(DataStatus {
            images: 9,
            skipped: 3,
            pairs_across_splits: 2,
            label_conflicts: 1,
            left_out: 4,
            shortcuts: vec!["image size (tells a, AUROC 0.91)".into()],
        });
        let (state, reason, message) = of(&status, CONDITION_DATA_CHECKED);
        assert_eq!((state.as_str(), reason.as_str()), ("True", "DuplicatesFound"));
        assert!(
            message.contains("9 images, 3 that cannot be decoded left out; 2 pairs of the same picture in two splits, 1 under two labels; 4 that repeat a picture left out"),
            "{message}"
        );
        assert_eq!(of(&status, CONDITION_SHORTCUT_SUSPECTED), ("True".into(), "LabelPredictable".into(), "image size (tells a, AUROC 0.91)".into()));
        let (class, reason, message) = (FailureClass::DataError, "PictureInTwoSplits".into(), "two".into());
        status.failure = Some(Failure { class, reason, message, pod: None, node: None, rank: None, exit_code: None, signal: None });
        assert_eq!(of(&status, CONDITION_DATA_CHECKED), ("False".into(), "PictureInTwoSplits".into(), "two".into()));
    }
}
