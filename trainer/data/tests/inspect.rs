//! Layouts made here and real ones: what is recognised, counted and said.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

use std::fs;
use std::path::{Path, PathBuf};

use graft_crds::spec::DataColumns;
use graft_data::inspect::{Inspection, Layout, inspect};

/// A folder of the real data; none says by name that the test is skipped.
fn real(test: &str, path: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("GRAFT_DATA").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from).join(path);
    if root.exists() {
        return Some(root.canonicalize().unwrap());
    }
    println!("skipped {test}: no GRAFT_DATA");
    None
}

fn touch(root: &Path, paths: &[&str]) {
    for path in paths {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
}

fn count(seen: &Inspection, class: &str, split: &str) -> usize {
    seen.counts.get(class).and_then(|counts| counts.get(split)).copied().unwrap_or(0)
}

#[test]
fn class_folders_with_and_without_splits() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["train/a/1.png", "train/a/2.png", "train/b/1.jpg", "val/a/3.png", "test/b/4.png", "notes.txt"]);
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images), (Layout::SplitClassFolders, 5));
    assert_eq!((count(&seen, "a", "train"), count(&seen, "a", "validation"), count(&seen, "b", "test")), (2, 1, 1));
    let snippet = seen.snippet.unwrap();
    assert!(snippet.contains("/train\n") && snippet.contains("  validation:\n    uri: ") && snippet.ends_with("/test\n"), "{snippet}");
    let seen = inspect(&root.path().join("train")).unwrap();
    assert_eq!((seen.layout, count(&seen, "a", "all"), seen.snippet), (Layout::ClassFolders, 2, None));
    assert_eq!(inspect(&root.path().join("nowhere")).unwrap_err().reason(), "DataNotFound");
    assert_eq!(inspect(&root.path().join("train/a")).unwrap_err().reason(), "DataUnreadable");
}

#[test]
fn covid_ct_name_lists_find_their_files() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["Images-processed/CT_COVID/a_1.png", "Images-processed/CT_NonCOVID/71%0.jpg"]);
    for class in ["COVID", "NonCOVID"] {
        for (split, name) in [("train", "a%1.png"), ("val", ""), ("test", "71_0.jpg")] {
            let path = root.path().join(format!("Data-split/{class}/{split}CT_{class}.txt"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{name}\n")).unwrap();
        }
    }
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images, count(&seen, "covid", "train"), count(&seen, "noncovid", "test")), (Layout::CovidCt, 4, 1, 1));
    assert!(seen.notes[0].starts_with("2 names of the lists have no file"), "{:?}", seen.notes);
}

#[test]
fn chexpert_counts_present_absent_uncertain_and_blank() {
    let root = tempfile::tempdir().unwrap();
    let rows = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema\nC/train/patient00001/study1/view1.jpg,Female,68,Frontal,AP,1.0,\n\
                C/train/patient00001/study2/view1.jpg,Female,68,Frontal,AP,,-1.0\nC/train/patient00002/study1/view1.jpg,Male,50,Frontal,AP,,0.0\n";
    fs::write(root.path().join("train.csv"), rows).unwrap();
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::CheXpert, 3, Some(2)));
    assert_eq!(["positive", "negative", "uncertain", "blank"].map(|value| count(&seen, "Edema", value)), [0, 1, 1, 1]);
    assert_eq!(count(&seen, "No Finding", "positive"), 1);
}

#[test]
fn nn_unet_pairs_by_case() {
    let root = tempfile::tempdir().unwrap();
    touch(
        root.path(),
        &["dataset.json", "imagesTr/h_001_0000.nii.gz", "imagesTr/h_002_0000.nii.gz", "labelsTr/h_001.nii.gz", "imagesTs/h_009_0000.nii.gz"],
    );
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, count(&seen, "volumes", "train"), count(&seen, "volumes", "test")), (Layout::NnUnet, 2, 1));
    assert!(seen.notes[0].starts_with("1 files of imagesTr and labelsTr have no partner"), "{:?}", seen.notes);
}

#[test]
fn the_real_manifest_gives_a_snippet_that_a_job_reads() {
    let Some(root) = real("the_real_manifest_gives_a_snippet_that_a_job_reads", "covid-ct") else { return };
    let seen = inspect(&root).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::Manifest, 746, Some(384)));
    assert_eq!(["train", "val", "test"].map(|split| count(&seen, "covid", split)), [191, 60, 98]);
    let snippet = seen.snippet.unwrap();
    let columns: DataColumns =
        serde_json::from_value(serde_json::json!({"input": "image", "label": "label", "patient": "patient_id", "split": "split"})).unwrap();
    assert!(snippet.contains(&format!("    patient: {}\n", columns.patient.unwrap())), "{snippet}");
}

#[test]
fn chest_xray14_says_what_a_random_split_would_leak() {
    let Some(table) = real("chest_xray14_says_what_a_random_split_would_leak", "tables/Data_Entry_2017_v2020.csv.gz") else { return };
    let seen = inspect(&table).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::ChestXray14, 112_120, Some(30_805)));
    assert_eq!((count(&seen, "No Finding", "all"), count(&seen, "Hernia", "all")), (60_361, 227));
    let leak: f64 = seen.notes[0].split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!((leak - 82.5).abs() <= 0.5, "{leak} % of test images with their patient in train");
}

#[test]
fn the_real_boxes_are_counted_by_list() {
    let Some(root) = real("the_real_boxes_are_counted_by_list", "bccd") else { return };
    let seen = inspect(&root).unwrap();
    assert_eq!((seen.layout, seen.images), (Layout::Voc, 364));
    assert_eq!(seen.counts.keys().collect::<Vec<_>>(), ["Platelets", "RBC", "WBC"]);
    assert!(seen.notes.iter().all(|note| !note.contains("two of the lists")), "{:?}", seen.notes);
}
