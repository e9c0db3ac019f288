//! How a trial stands: `helm test` must not only fail, but say what an administrator has to mend.

use std::time::Duration;

use graft_crds::TransferJobStatus;
use graft_crds::status::Phase;

/// How a trial stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its job succeeded.
    Passed,
    /// It will not; why.
    Failed(String),
    /// Look again.
    NotYet,
}

/// Judge a trial by its job's status. It may take `patience`, and half of it until its pods run.
#[must_use]
pub fn verdict(status: &TransferJobStatus, elapsed: Duration, patience: Duration) -> Verdict {
    let told = status.message.as_deref().unwrap_or("the operator says nothing");
    let late = elapsed > patience / 2;
    match status.phase {
        Some(Phase::Succeeded) => Verdict::Passed,
        Some(Phase::Failed) => Verdict::Failed(match &status.failure {
            Some(failure) => format!("the job failed: {}: {}", failure.reason, failure.message),
            None => format!("the job failed: {told}"),
        }),
        None if late => Verdict::Failed("no operator has looked at the job: does one run, and does it watch this namespace?".into()),
        Some(Phase::Pending | Phase::Starting) if late => Verdict::Failed(format!("the job's pods do not run: {told}")),
        Some(Phase::Running | Phase::Restarting | Phase::Suspended) if elapsed > patience => {
            Verdict::Failed(format!("the job is not done after {} s: {told}", patience.as_secs()))
        }
        None | Some(Phase::Pending | Phase::Starting | Phase::Running | Phase::Restarting | Phase::Suspended) => Verdict::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::nobody_yet(json!({}), 40, None)]
    #[case::nobody(json!({}), 51, Some("no operator has looked"))]
    #[case::no_image_yet(json!({"phase": "Starting", "message": "pull"}), 40, None)]
    #[case::no_image(json!({"phase": "Starting", "message": "pull"}), 51, Some("the job's pods do not run: pull"))]
    #[case::slow(json!({"phase": "Running", "message": "Training"}), 99, None)]
    #[case::too_slow(json!({"phase": "Running", "message": "Training"}), 101, Some("not done after 100 s: Training"))]
    #[case::bad(json!({"phase": "Failed", "failure": {"class": "UserError", "reason": "R", "message": "m"}}), 1, Some("the job failed: R: m"))]
    fn what_is_said(#[case] status: serde_json::Value, #[case] second: u64, #[case] expected: Option<&str>) {
        let status = serde_json::from_value(status).unwrap();
        match (verdict(&status, Duration::from_secs(second), Duration::from_secs(100)), expected) {
            (Verdict::NotYet, None) => {}
            (Verdict::Failed(said), Some(part)) => assert!(said.contains(part), "{said}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn success_is_success_at_any_time() {
        let status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        assert_eq!(verdict(&status, Duration::from_secs(500), Duration::from_secs(100)), Verdict::Passed);
    }
}
