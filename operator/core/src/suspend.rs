//! `spec.suspend`: the attempt's children go, run and checkpoints stay. Going on is a new attempt that is not counted.

use graft_crds::status::Phase;

use crate::decide::Draft;

/// Stop whatever runs.
pub fn stop(draft: &mut Draft<'_>) {
    draft.delete_jobs_except(None);
    draft.status.restart_not_before = None;
    let checkpoint = match &draft.status.checkpoint {
        Some(c) => format!("goes on after epoch {}", c.epoch),
        None => "starts".into(),
    };
    draft.enter(Phase::Suspended, format!("Suspended; {checkpoint} when spec.suspend is false"));
}
