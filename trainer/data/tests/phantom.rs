//! The generated data sets load like any other, and the same seed writes the same bytes.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use graft_crds::spec::{BadInput, Data, DataColumns, DataSet, DataSplits, Duplicates, Task, Validation};
use graft_data::phantom::{PHANTOM_CLASSES, SOURCE_CLASSES, write_phantom, write_source_domain};
use graft_data::{Dataset, DecodeCache, Geometry, Loader, Reading, Split};

fn data(folder: &Path, patient: Option<&str>) -> Data {
    Data {
        train: DataSet { uri: format!("file://{}", folder.display()), manifest: Some("manifest.csv".into()) },
        validation: Validation::default(),
        test: None,
        columns: DataColumns { patient: patient.map(Into::into), split: Some("split".into()), ..DataColumns::default() },
        splits: DataSplits::default(),
        duplicates: Duplicates::default(),
        patient_from: None,
        windows: vec![],
        allow_personal_data: None,
        on_bad_input: BadInput::Stop,
    }
}

fn check(folder: &Path, patient: Option<&str>, classes: &[&str], sizes: [usize; 3]) {
    let dataset = Dataset::load(&data(folder, patient), &Task::default(), 0).unwrap();
    assert_eq!(dataset.classes, classes);
    assert_eq!(Split::ALL.map(|split| dataset.range(split).len()), sizes);
    for split in Split::ALL {
        let seen: BTreeSet<usize> = dataset.split(split).iter().map(|sample| sample.label).collect();
        assert_eq!(seen.len(), classes.len(), "{split:?} lacks a class");
    }
    let geometry = Geometry::resolve(graft_crds::Architecture::MobileNetV1x025, None).unwrap();
    let loader = Loader::new(dataset.samples.clone(), geometry, Reading::default(), 2, DecodeCache::new(0));
    let digests: BTreeSet<_> = loader.check(0..dataset.samples.len()).unwrap().iter().map(graft_data::doctor::Fingerprint::file).collect();
    assert_eq!(digests.len(), dataset.samples.len(), "two images are equal");
}

#[test]
fn the_phantom_is_a_good_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = write_phantom(folder.path(), 1, 20).unwrap();
    assert!(manifest.is_file());
    check(folder.path(), Some("patient"), &PHANTOM_CLASSES, [36, 12, 12]);
}

#[test]
fn the_source_domain_is_a_good_data_set() {
    let folder = tempfile::tempdir().unwrap();
    write_source_domain(folder.path(), 1, 10).unwrap();
    check(folder.path(), None, &SOURCE_CLASSES, [30, 10, 10]);
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let folders = [1, 1, 2].map(|seed| {
        let folder = tempfile::tempdir().unwrap();
        write_phantom(folder.path(), seed, 2).unwrap();
        folder
    });
    let bytes = |i: usize| fs::read(folders[i].path().join("images/patient-001-slice-2.png")).unwrap();
    assert_eq!(bytes(0), bytes(1));
    assert_ne!(bytes(0), bytes(2));
}
