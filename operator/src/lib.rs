//! What others know of the operator: its rights, its flags and its metrics. The charts, dashboards and documentation are
//! generated from them; the program itself is `main.rs` and the modules that it names.

pub mod access;
pub mod config;
pub mod metrics;

/// A TransferJob as it is watched: one that cannot be read does not stop the others.
pub type GuardedJob = kube::core::DeserializeGuard<graft_crds::TransferJob>;
