//! The trainer: agent and ranks.
fn main() {}
