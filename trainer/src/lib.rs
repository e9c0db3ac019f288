//! The trainer.
pub mod models;
pub mod weights;
