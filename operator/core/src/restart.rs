//! Whether an attempt that failed is followed by another, and when. The delay doubles with every counted failure;
//! there is no jitter in it, because a gang restarts alone.

use graft_crds::spec::Recovery;
use graft_crds::status::{Failure, FailureClass, Restarts};
use jiff::SignedDuration;

use crate::failure::is_permanent;

/// Longest delay before a restart, in seconds.
const MAX_BACKOFF: i64 = 300;

/// What follows a failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing; why not.
    GiveUp(String),
    /// Another attempt.
    Again {
        /// The counters with this restart.
        restarts: Restarts,
        /// How long to wait.
        after: SignedDuration,
    },
}

/// The rule: errors of spec and data never restart, preemption always and uncounted, all else `maxRestarts` times.
pub fn verdict(failure: &Failure, restarts: Restarts, recovery: &Recovery) -> Verdict {
    if is_permanent(failure.class) {
        return Verdict::GiveUp(failure.message.clone());
    }
    if failure.class == FailureClass::Preempted {
        let restarts = Restarts { total: restarts.total.saturating_add(1), preemptions: restarts.preemptions.saturating_add(1), ..restarts };
        return Verdict::Again { restarts, after: SignedDuration::from_secs(i64::from(recovery.backoff_seconds)) };
    }
    if restarts.failures >= recovery.max_restarts {
        return Verdict::GiveUp(format!("{} (given up after {} restarts, spec.recovery.maxRestarts)", failure.message, restarts.failures));
    }
    let doubled = i64::from(recovery.backoff_seconds) << u32::try_from(restarts.failures).unwrap_or(0).min(16);
    let restarts = Restarts { total: restarts.total.saturating_add(1), failures: restarts.failures.saturating_add(1), ..restarts };
    Verdict::Again { restarts, after: SignedDuration::from_secs(doubled.min(MAX_BACKOFF)) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn failure(class: FailureClass) -> Failure {
        Failure { class, ..crate::failure::vanished("R", "m") }
    }

    #[rstest]
    #[case(0, 5)]
    #[case(1, 10)]
    #[case(3, 40)]
    #[case(6, 300)]
    #[case(900, 300)]
    fn backoff_doubles_up_to_five_minutes(#[case] failures: i32, #[case] seconds: i64) {
        let recovery = Recovery { max_restarts: 1000, backoff_seconds: 5 };
        let Verdict::Again { restarts, after } =
            verdict(&failure(FailureClass::Bug), Restarts { failures, total: failures, preemptions: 0 }, &recovery)
        else {
            panic!("gave up")
        };
        assert_eq!((after.as_secs(), restarts.failures, restarts.total, restarts.preemptions), (seconds, failures + 1, failures + 1, 0));
    }

    #[rstest]
    #[case(FailureClass::UserError)]
    #[case(FailureClass::DataError)]
    fn errors_of_the_user_never_restart(#[case] class: FailureClass) {
        assert_eq!(verdict(&failure(class), Restarts::default(), &Recovery::default()), Verdict::GiveUp("m".into()));
    }

    #[rstest]
    #[case(FailureClass::DeviceError)]
    #[case(FailureClass::CollectiveLost)]
    #[case(FailureClass::CheckpointError)]
    #[case(FailureClass::PodLost)]
    #[case(FailureClass::PodNotStarted)]
    #[case(FailureClass::Bug)]
    fn failures_are_limited(#[case] class: FailureClass) {
        let at_limit = Restarts { total: 9, failures: 6, preemptions: 3 };
        assert!(matches!(verdict(&failure(class), at_limit, &Recovery::default()), Verdict::GiveUp(_)));
        let below = Restarts { failures: 5, ..at_limit };
        assert!(matches!(verdict(&failure(class), below, &Recovery::default()), Verdict::Again { .. }));
    }

    #[test]
    fn preemption_is_not_counted_and_not_limited() {
        let many = Restarts { total: 106, failures: 6, preemptions: 100 };
        let Verdict::Again { restarts, .. } = verdict(&failure(FailureClass::Preempted), many, &Recovery::default()) else { panic!("gave up") };
        assert_eq!(restarts, Restarts { total: 107, failures: 6, preemptions: 101 });
    }
}
