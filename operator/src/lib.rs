//! The operator as a library. Its rights, flags and metrics are what charts, dashboards and documentation are generated from;
//! `program` is what two binaries run: `graft-operator`, and `graft-operator-otel` with a tracer.

pub mod access;
pub mod config;
mod gatekeeper;
mod http;
mod index;
mod memory;
pub mod metrics;
pub mod program;
mod pull;
mod reconcile;
mod stop;
mod tls;
pub mod tracer;
mod trial;

/// A TransferJob as it is watched: one that cannot be read does not stop the others.
pub type GuardedJob = kube::core::DeserializeGuard<graft_crds::TransferJob>;
