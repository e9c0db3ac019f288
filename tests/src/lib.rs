//! The tests' cluster.
