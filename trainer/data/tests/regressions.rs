//! What fuzzing found once (`fuzz/regressions`), replayed: an error or a result, never a panic of Graft's own code.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

use std::fs;
use std::path::{Path, PathBuf};

use graft_data::manifest::{Options, Splitting, split, write};
use graft_data::{Dataset, Reading, decode, grey_values};
use serde_json::json;

fn files(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions").join(target);
    let entries = fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
    entries.unwrap_or_default()
}

#[test]
fn pictures_do_not_crash() {
    for path in ["dicom", "nifti", "images"].into_iter().flat_map(files) {
        let bytes = fs::read(&path).unwrap();
        for slice in [None, Some(0)] {
            let done = std::panic::catch_unwind(|| decode(&bytes, slice, &Reading::default()).map(drop));
            assert!(done.is_ok(), "{}", path.display());
        }
        assert!(std::panic::catch_unwind(|| grey_values(&bytes).map(drop)).is_ok(), "{}", path.display());
        // Those of lengths that cannot be are refused before room is made.
        if path.file_name().is_some_and(|name| !name.to_string_lossy().contains("2000")) {
            assert!(decode(&bytes, Some(0), &Reading::default()).is_err(), "{} is a picture", path.display());
        }
    }
}

#[test]
fn tables_and_arrays_do_not_crash() {
    let folder = tempfile::tempdir().unwrap();
    for path in files("manifest") {
        fs::copy(&path, folder.path().join("m.csv")).unwrap();
        let set = json!({"uri": format!("file://{}", folder.path().display()), "manifest": "m.csv"});
        for task in [json!({}), json!({"type": "multiLabel", "classes": ["a", "b"]}), json!({"type": "regression"})] {
            let data = json!({"train": set, "columns": {"patient": "patient", "split": "split"}});
            drop(Dataset::load(&serde_json::from_value(data).unwrap(), &serde_json::from_value(task).unwrap(), 0));
        }
        let how = Splitting { labels: vec!["label".into()], test: Some(0.3), folds: 3, site: Some("site".into()), ..Splitting::default() };
        drop(split(&folder.path().join("m.csv"), &folder.path().join("o.csv"), &how));
        fs::remove_file(folder.path().join("o.csv")).unwrap_or_default();
    }
    for path in files("npz") {
        fs::copy(&path, folder.path().join("a.npz")).unwrap();
        drop(write(&folder.path().join("a.npz"), &Options::default()));
        fs::remove_dir_all(folder.path().join("a")).unwrap_or_default();
    }
}
