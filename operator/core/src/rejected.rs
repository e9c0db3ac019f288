//! The API server refused a child: that belongs into status and an event, not only into a log.

use graft_crds::status::{Failure, FailureClass, Phase};

use crate::decide::Draft;
use crate::plan::{EventKind, Plan};
use crate::world::World;

/// What to write when a child could not be created. The operator goes on trying; a correction of the spec or of the
/// namespace heals it.
#[must_use]
pub fn rejected(world: &World, reason: &str, message: &str) -> Plan {
    let mut draft = Draft::new(world);
    let reason = if reason.is_empty() { "Rejected" } else { reason };
    let failure = Failure {
        class: FailureClass::PodNotStarted,
        ..crate::failure::vanished(reason, &format!("the API server refuses a child of the job: {message}"))
    };
    let phase = draft.status.phase.unwrap_or(Phase::Pending);
    if draft.status.failure.as_ref() != Some(&failure) {
        draft.tell(EventKind::Warning, reason, &failure.message);
    }
    draft.enter(phase, failure.message.clone());
    draft.stuck(failure);
    draft.finish()
}
