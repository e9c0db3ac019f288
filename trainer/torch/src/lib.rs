//! libtorch for the rest of Graft: [`tch`], and a safe face over what it leaves out. This is the one crate that calls
//! C++; it reads no environment and no configuration file, and it never prints.

pub mod device;
mod error;
mod ffi;
pub mod graph;
pub mod group;
pub mod memory;
pub mod optim;
pub mod reducer;
pub mod store;
pub mod transfer;

pub use error::{Error, ErrorKind, Result};
pub use graph::Graph;
pub use group::{Interface, ProcessGroup, Reduction};
pub use reducer::{GradientStorage, Parameter, Reducer, ReducerSettings, ReducerStats, Travel, UnusedParameters};
pub use store::Store;
pub use tch;
