//! Any bytes as MedMNIST's archive of arrays.
#![no_main]

mod common;

use std::cell::RefCell;
use std::fs;

use graft_data::manifest::{Options, write};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

thread_local!(static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) });

fuzz_target!(init: common::init(), |data: &[u8]| {
    FOLDER.with_borrow_mut(|folder| {
        let root = folder.get_or_insert_with(|| TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")).path();
        fs::write(root.join("a.npz"), data).expect("a file");
        common::guarded(|| drop(write(&root.join("a.npz"), &Options::default())));
        drop(fs::remove_dir_all(root.join("a")));
    });
});
