//! What the targets share. A decoder of another crate may panic, which Graft makes an error of (`graft-data`'s `guarded`); a panic in Graft's own
//! code ends the run, and so does what no guard could catch.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

use graft_data::{Limits, Reading};

/// Aborts where Graft's own code panics.
pub fn init() {
    set_hook(Box::new(|info| {
        let own = info.location().is_none_or(|place| !place.file().contains(".cargo/registry") && !place.file().starts_with("/rustc/"));
        if own {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}

/// Runs as Graft does, with a guard.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Limits under which a run is fast.
#[allow(dead_code, reason = "not each target decodes")]
pub fn reading() -> Reading {
    Reading { limits: Limits { side: 1024, pixels: 1 << 18, file: 1 << 20 }, enough: Some(32), ..Reading::default() }
}
