//! Where the real data lies that some tests read.

use std::path::{Path, PathBuf};

/// A file or folder of the real data; none says by name that the test is skipped.
pub fn real(test: &str, path: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("GRAFT_DATA").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from).join(path);
    if root.exists() {
        return Some(root.canonicalize().unwrap());
    }
    println!("skipped {test}: no GRAFT_DATA");
    None
}
