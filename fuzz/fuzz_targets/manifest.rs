//! Any bytes as the manifest of a job, of classes, findings and numbers, and as one that gets columns of splits.
#![no_main]

mod common;

use std::cell::RefCell;
use std::fs;

use graft_crds::spec::{Data, Task};
use graft_data::Dataset;
use graft_data::manifest::{Splitting, split};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tempfile::TempDir;

thread_local!(static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) });

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a part of a job")
}

fuzz_target!(init: common::init(), |data: &[u8]| {
    FOLDER.with_borrow_mut(|folder| {
        let root = folder.get_or_insert_with(|| TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")).path();
        fs::write(root.join("m.csv"), data).expect("a file");
        for task in [json!({}), json!({"type": "multiLabel", "classes": ["a", "b"]}), json!({"type": "regression"})] {
            let set = json!({"uri": format!("file://{}", root.display()), "manifest": "m.csv"});
            let job = json!({"train": set, "columns": {"patient": "patient", "split": "split"}});
            common::guarded(|| drop(Dataset::load(&from::<Data>(job), &from::<Task>(task), 0)));
        }
        let out = root.join("o.csv");
        let how = Splitting { labels: vec!["label".into()], test: Some(0.3), folds: 3, site: Some("site".into()), ..Splitting::default() };
        common::guarded(|| drop(split(&root.join("m.csv"), &out, &how)));
        drop(fs::remove_file(out));
    });
});
