//! Every fault of the data that is found before an image is opened, on small sources made here, and the real COVID-CT
//! manifest.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::real;
use graft_crds::spec::{BadInput, Data, DataColumns, DataSet, DataSplits, Duplicates, Task, Validation};
use graft_data::{DataError, Dataset, Split};

fn set(folder: &Path, manifest: &str) -> DataSet {
    DataSet { uri: format!("file://{}", folder.display()), manifest: Some(manifest.into()) }
}

fn data(folder: &Path) -> Data {
    Data {
        train: set(folder, "m.csv"),
        validation: Validation::default(),
        test: None,
        columns: DataColumns { patient: Some("patient".into()), split: Some("split".into()), ..DataColumns::default() },
        splits: DataSplits::default(),
        duplicates: Duplicates::default(),
        patient_from: None,
        windows: vec![],
        allow_personal_data: None,
        on_bad_input: BadInput::Stop,
    }
}

/// A folder with a manifest `m.csv` of these rows (image, label, patient, split) and an empty file for each image.
fn folder(rows: &[(&str, &str, &str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut text = "image,label,patient,split\n".to_owned();
    for (image, label, patient, split) in rows {
        writeln!(text, "{image},{label},{patient},{split}").unwrap();
        fs::write(folder.path().join(image), b"").unwrap();
    }
    fs::write(folder.path().join("m.csv"), text).unwrap();
    folder
}

const GOOD: &[(&str, &str, &str, &str)] =
    &[("a.png", "covid", "p1", "train"), ("b.png", "normal", "p2", "train"), ("c.png", "covid", "p3", "val"), ("d.png", "normal", "p4", "test")];

fn fails(rows: &[(&str, &str, &str, &str)], reason: &str, parts: &[&str]) {
    let folder = folder(rows);
    let error = Dataset::load(&data(folder.path()), &Task::default(), 0).unwrap_err();
    says(&error, reason, parts);
}

fn says(error: &DataError, reason: &str, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.reason(), reason, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn with(more: &[(&'static str, &'static str, &'static str, &'static str)]) -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    [GOOD, more].concat()
}

#[test]
fn a_good_manifest_loads_in_order() {
    let folder = folder(&with(&[("e.png", "covid", "p1", "train"), ("f.png", "covid", "p5", "validation")]));
    let dataset = Dataset::load(&data(folder.path()), &Task::default(), 0).unwrap();
    assert_eq!((dataset.classes.as_slice(), dataset.positive), (["covid".to_owned(), "normal".to_owned()].as_slice(), 1));
    let keys = |split| dataset.split(split).iter().map(|s| s.key.as_str()).collect::<Vec<_>>();
    assert_eq!(keys(Split::Train), ["a.png", "b.png", "e.png"]);
    assert_eq!(keys(Split::Validation), ["c.png", "f.png"]);
    assert_eq!(keys(Split::Test), ["d.png"]);
    assert_eq!(dataset.range(Split::Train), 0..3);
    assert_eq!(dataset.samples[0].row, Some(2));
    assert!(dataset.samples[0].place().ends_with("m.csv:2"));
}

#[test]
fn the_task_orders_the_classes_and_names_the_positive_one() {
    let folder = folder(GOOD);
    let task = Task { classes: vec!["normal".into(), "covid".into()], ..Task::default() };
    let dataset = Dataset::load(&data(folder.path()), &task, 0).unwrap();
    assert_eq!((dataset.positive, dataset.samples[0].label), (1, 1));
    let task = Task { positive_class: Some("covid".into()), ..Task::default() };
    assert_eq!(Dataset::load(&data(folder.path()), &task, 0).unwrap().positive, 0);
    let task = Task { positive_class: Some("flu".into()), ..Task::default() };
    says(&Dataset::load(&data(folder.path()), &task, 0).unwrap_err(), "UnknownClass", &["positiveClass \"flu\"", "\"covid\", \"normal\""]);
    let task = Task { classes: vec!["normal".into(), "covid".into(), "flu".into()], ..Task::default() };
    says(&Dataset::load(&data(folder.path()), &task, 0).unwrap_err(), "UnknownClass", &["spec.task.classes have no training sample: \"flu\""]);
}

#[test]
fn a_patient_in_two_splits_is_named_by_rows_and_not_by_id() {
    let folder = folder(&with(&[("e.png", "covid", "p1", "test"), ("f.png", "covid", "p3", "train")]));
    let error = Dataset::load(&data(folder.path()), &Task::default(), 0).unwrap_err();
    says(&error, "PatientInTwoSplits", &["2 patients", "(train ", "m.csv:2 and test ", "m.csv:6)", "(train ", "m.csv:7 and validation ", "m.csv:4)"]);
    let text = error.to_string().replace(&folder.path().display().to_string(), "");
    assert!(!text.contains("p1") && !text.contains("p3") && text.contains("patient#"), "{text}");
}

#[test]
fn each_fault_has_its_reason_and_place() {
    fails(
        &with(&[("e.png", "covd", "p9", "test"), ("g.png", "flu", "p9", "test")]),
        "UnknownClass",
        &["\"covd\"", "m.csv:6", "did you mean \"covid\"", "\"flu\"", "m.csv:7"],
    );
    fails(&with(&[("e.png", "", "p9", "test")]), "MissingLabel", &["column \"label\"", "m.csv:6"]);
    fails(&GOOD[..3], "EmptySplit", &["test split is empty", "\"test\" in column \"split\""]);
    fails(&GOOD[1..], "TooFewClasses", &["\"normal\""]);
    fails(&with(&[("e.png", "covid", "p9", "holdout")]), "UnknownSplit", &["\"holdout\"", "m.csv:6", "spec.data.splits"]);
    fails(&with(&[("a.png", "covid", "p9", "test")]), "InputInTwoSplits", &["a.png"]);
}

#[test]
fn two_spellings_of_a_class_are_one_mistake() {
    fails(&with(&[("e.png", "Covid", "p5", "train")]), "UnknownClass", &["\"Covid\", \"covid\"", "write each class in one way"]);
    fails(&with(&[("e.png", "co_vid", "p5", "train")]), "UnknownClass", &["\"co_vid\""]);
    // Signs tell classes apart.
    let folder = folder(&with(&[("e.png", "covid+", "p5", "train"), ("f.png", "covid-", "p6", "train")]));
    assert_eq!(Dataset::load(&data(folder.path()), &Task::default(), 0).unwrap().classes.len(), 4);
}

#[test]
fn a_rare_class_with_the_name_of_another_misspelt_is_named() {
    let names: Vec<String> = (0..42).map(|i| format!("m{i}.png")).collect();
    let rows = |rare: &'static str, frequent: &'static str, many: usize| {
        let mut rows: Vec<_> = names[..many].iter().map(|name| (name.as_str(), frequent, name.as_str(), "train")).collect();
        rows.extend([("r.png", rare, "r", "train"), ("v.png", frequent, "v", "val"), ("t.png", frequent, "t", "test")]);
        rows
    };
    fails(
        &rows("Pnuemonia", "Pneumonia", 21),
        "UnknownClass",
        &["misspelt: \"Pnuemonia\" (1 images) and \"Pneumonia\" (21 images)", "name both in spec.task.classes"],
    );
    for (rare, frequent, many) in [("Pnuemonia", "Pneumonia", 20), ("grade2", "grade1", 42), ("Normal", "Pneumonia", 42)] {
        let folder = folder(&rows(rare, frequent, many));
        assert_eq!(Dataset::load(&data(folder.path()), &Task::default(), 0).unwrap().classes.len(), 2, "{rare} {frequent}");
    }
    let folder = folder(&rows("Pnuemonia", "Pneumonia", 42));
    let both = Task { classes: vec!["Pneumonia".into(), "Pnuemonia".into()], ..Task::default() };
    assert_eq!(Dataset::load(&data(folder.path()), &both, 0).unwrap().classes, both.classes);
}

#[test]
fn several_faults_are_told_at_once() {
    let folder = folder(&with(&[("e.png", "flu", "p1", "test")]));
    fs::remove_file(folder.path().join("b.png")).unwrap();
    let error = Dataset::load(&data(folder.path()), &Task::default(), 0).unwrap_err();
    let reasons: Vec<_> = error.findings().iter().map(|f| f.reason.name()).collect();
    assert_eq!(reasons, ["UnknownClass", "PatientInTwoSplits", "InputNotFound"]);
    says(&error, "UnknownClass", &["b.png (", "m.csv:3)"]);
}

#[test]
fn more_processes_than_samples_are_refused() {
    let folder = folder(GOOD);
    let dataset = Dataset::load(&data(folder.path()), &Task::default(), 0).unwrap();
    assert!(dataset.check_world(2).is_ok());
    says(&dataset.check_world(3).unwrap_err(), "TooFewSamples", &["2 training samples are fewer than 3 processes", "spec.workers"]);
}

#[test]
fn a_fraction_takes_whole_patients_and_is_not_given_twice() {
    let folder = folder(GOOD);
    let mut both = data(folder.path());
    both.validation.fraction = Some("0.5".parse().unwrap());
    says(&Dataset::load(&both, &Task::default(), 0).unwrap_err(), "AmbiguousValidation", &["1 rows"]);

    let names: Vec<String> = (0..60).map(|i| format!("i{i}.png")).collect();
    let patients: Vec<String> = (0..60).map(|i| format!("p{}", i / 3)).collect();
    let rows: Vec<_> = (0..60)
        .map(|i| (names[i].as_str(), if (i / 3) % 2 == 0 { "a" } else { "b" }, patients[i].as_str(), if i < 51 { "train" } else { "test" }))
        .collect();
    let folder = self::folder(&rows);
    let load = |seed| Dataset::load(&data(folder.path()), &Task::default(), seed).unwrap();
    let dataset = load(7);
    let patients = |split| dataset.split(split).iter().map(|s| s.patient.clone().unwrap()).collect::<std::collections::BTreeSet<_>>();
    assert!(patients(Split::Train).is_disjoint(&patients(Split::Validation)));
    assert!((6..=9).contains(&dataset.range(Split::Validation).len()), "{:?}", dataset.range(Split::Validation));
    assert_eq!(load(7), dataset);
    assert_ne!(load(8), dataset);
}

#[test]
fn separate_folders_of_classes() {
    let root = tempfile::tempdir().unwrap();
    for path in ["train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "test/a/1.png", "test/c/1.png"] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    let of = |name: &str| DataSet { uri: format!("file://{}", root.path().join(name).display()), manifest: None };
    let mut data = Data {
        train: of("train"),
        validation: Validation { fraction: Some("0.5".parse().unwrap()), ..Validation::default() },
        test: Some(of("test")),
        columns: DataColumns::default(),
        splits: DataSplits::default(),
        duplicates: Duplicates::default(),
        patient_from: None,
        windows: vec![],
        allow_personal_data: None,
        on_bad_input: BadInput::Stop,
    };
    says(&Dataset::load(&data, &Task::default(), 0).unwrap_err(), "UnknownClass", &["\"c\"", "test/c/1.png"]);
    fs::remove_dir_all(root.path().join("test/c")).unwrap();
    let dataset = Dataset::load(&data, &Task::default(), 0).unwrap();
    assert_eq!(Split::ALL.map(|split| dataset.range(split).len()), [2, 2, 1]);
    data.test = Some(of("gone"));
    says(&Dataset::load(&data, &Task::default(), 0).unwrap_err(), "DataNotFound", &["spec.data.test.uri", "gone does not exist"]);
}

#[test]
fn covid_ct_loads_as_published() {
    let Some(root) = real("covid_ct_loads_as_published", "covid-ct") else { return };
    let data = Data {
        train: set(&root, "manifest.csv"),
        columns: DataColumns { patient: Some("patient_id".into()), split: Some("split".into()), ..DataColumns::default() },
        ..data(&root)
    };
    let dataset = Dataset::load(&data, &Task::default(), 0).unwrap();
    assert_eq!(Split::ALL.map(|split| dataset.range(split).len()), [425, 118, 203]);
    assert_eq!(dataset.classes, ["covid", "noncovid"]);
}
