//! What the operator decides: a world goes in, a plan comes out.
//!
//! Everything here is a pure function over plain data: no client, no clock (`now` stands in the world), no random
//! number, no log. The same world always gives the same plan, and a plan that was carried out gives an empty one.

pub mod children;
mod conditions;
mod decide;
pub mod failure;
mod gang;
mod plan;
mod pod;
mod progress;
mod quantity;
mod rejected;
mod restart;
pub mod scraper;
mod suspend;
mod terminal;
pub mod trial;
mod world;

pub use decide::{decide, expected_job, leave, progress_target};
pub use plan::{Child, ChildKind, ChildRef, Event, EventKind, Plan, ProgressTarget};
pub use rejected::rejected;
pub use world::{Container, JobOutcome, JobView, PodPhase, PodView, Settings, World};
