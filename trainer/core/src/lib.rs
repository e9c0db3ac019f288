//! The trainer's decisions as pure functions over plain data: which sample comes when, how good predictions are, what
//! to resume from and what stage is next. No file, no clock, no network and no torch: callers pass in what they saw.

pub mod artefact;
pub mod augment;
pub mod checkpoint;
pub mod metrics;
pub mod policy;
pub mod progress;
pub mod regression;
pub mod report;
pub mod rng;
pub mod sampler;
pub mod schedule;
pub mod stage;
pub mod tensorboard;
