//! The trainer: models, weights, the agent that supervises a pod's rank processes, and the stages that the ranks run. It
//! reads one configuration, serves HTTP, writes a termination message and exits with a code of the contract; it never
//! talks to Kubernetes.

pub mod agent;
pub mod decoded;
mod doorstep;
pub mod event;
mod gate;
pub mod generate;
mod metrics;
pub mod models;
pub mod output;
pub mod rank;
pub mod remote;
mod serve;
mod stderr;
pub mod storage;
pub mod weights;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
