//! `spec.suspend`, and an operator that is uninstalled: the attempt's children go, run and checkpoints stay. Going on is a new
//! attempt that is not counted.

use graft_crds::status::Phase;

use crate::decide::Draft;

/// Why a gang is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `spec.suspend` asks for it.
    Spec,
    /// The operator is uninstalled.
    Uninstall,
}

/// Stop whatever runs.
pub fn stop(draft: &mut Draft<'_>, why: Why) {
    draft.delete_jobs_except(None);
    draft.status.restart_not_before = None;
    let checkpoint = match &draft.status.checkpoint {
        Some(c) => format!("goes on after epoch {}", c.epoch),
        None => "starts".into(),
    };
    let message = match why {
        Why::Spec => format!("Suspended; {checkpoint} when spec.suspend is false"),
        Why::Uninstall => format!("Stopped with the operator; {checkpoint} when an operator is installed again"),
    };
    draft.enter(Phase::Suspended, message);
}
