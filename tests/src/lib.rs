//! A real Kubernetes on this machine for demo, tests and benchmarks: programs compiled from Go modules, a cluster of one
//! node on a bridge of its own, and the life of a TransferJob in it.

pub mod audit;
pub mod bench;
pub mod cluster;
pub mod collector;
pub mod lab;
pub mod object_store;
pub mod observe;
pub mod oci;
pub mod programs;
pub mod report;
pub mod sbom;
pub mod scenario;
pub mod schemas;
pub mod trainers;
pub mod web;

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
