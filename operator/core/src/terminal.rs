//! A terminal state is sticky: a missing child never means that nothing was started. Only another run token does.

use graft_crds::TransferJobStatus;
use graft_crds::spec::TransferJobSpec;

/// The status from which to decide: the present one, or a fresh one when the spec names another run. Only the
/// conditions stay, for the times of their transitions.
pub fn of_this_run(spec: &TransferJobSpec, status: TransferJobStatus) -> TransferJobStatus {
    if status.run_token.as_deref() == Some(spec.run_token.as_str()) {
        return status;
    }
    TransferJobStatus { run_token: Some(spec.run_token.clone()), conditions: status.conditions, ..TransferJobStatus::default() }
}
