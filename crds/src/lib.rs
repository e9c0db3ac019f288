//! The TransferJob API and the contract between operator and trainer.
//!
//! Everything here is data and pure functions over it: no client, no clock, no environment, no file.
//! The operator, the trainer and the command line all read the same types.

pub mod architectures;
pub mod contract;
pub mod crd;
pub mod decimal;
pub mod names;
pub mod spec;
pub mod status;

pub use architectures::Architecture;
pub use decimal::Decimal;
pub use spec::{TransferJob, TransferJobSpec};
pub use status::TransferJobStatus;
