//! Manifests of series, volumes, masks, boxes, studies and readings: made ones, and real ones where they are there.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::real;
use graft_data::inspect::{Layout, inspect};
use graft_data::manifest::{self, Options, Slices, Splitting, Written};
use graft_data::{Dataset, Reading, Split, decode};

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The files below `from`, linked into `to` under the same names.
fn link(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { link(&entry.path(), &target) } else { symlink(entry.path(), target).unwrap() }
    }
}

/// What a job would read that the snippet says.
fn load(snippet: &str) -> Dataset {
    let job: serde_json::Value = serde_saphyr::from_str(snippet).unwrap();
    let task = serde_json::from_value(job.get("task").cloned().unwrap_or_else(|| serde_json::json!({}))).unwrap();
    Dataset::load(&serde_json::from_value(job["data"].clone()).unwrap(), &task, 0).unwrap()
}

fn rows(written: &Written) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(&written.manifest).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

fn slices(text: &str) -> Options {
    Options { slices: text.parse().unwrap(), ..Options::default() }
}

/// A volume of bytes, stored from right to left if `flipped`, with `axial` slices one after the other.
fn nifti(size: [u8; 3], flipped: bool, voxel: impl Fn(u8) -> u8) -> Vec<u8> {
    let mut bytes = vec![0; 352];
    bytes[..4].copy_from_slice(&348u32.to_le_bytes());
    for (at, value) in [(40, 3), (42, size[0]), (44, size[1]), (46, size[2]), (48, 1), (50, 1), (52, 1), (54, 1), (70, 2), (72, 8), (254, 1)] {
        bytes[at] = value;
    }
    let x = if flipped { -1.0 } else { 1.0 };
    for (at, value) in [(76, 1.0f32), (80, 1.0), (84, 1.0), (88, 2.5), (108, 352.0), (280, x), (300, 1.0), (320, 2.5)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[344..348].copy_from_slice(b"n+1\0");
    let plane = usize::from(size[0]) * usize::from(size[1]);
    bytes.extend((0..size[2]).flat_map(|z| std::iter::repeat_n(voxel(z), plane)));
    bytes
}

#[test]
fn slices_are_chosen_by_rule() {
    let of = |text: &str, count| text.parse::<Slices>().map(|slices| slices.of(count));
    assert_eq!(of("every:3", 7).unwrap(), [0, 3, 6]);
    assert_eq!(of("middle:0.5", 8).unwrap(), [2, 3, 4, 5]);
    assert_eq!((of("middle:0.01", 9).unwrap(), of("middle:1", 2).unwrap(), of("all", 0).unwrap()), (vec![4], vec![0, 1], vec![]));
    for odd in ["every:0", "middle:1.5", "middle", "some", "every:x"] {
        assert!(of(odd, 3).unwrap_err().contains("such as every:4"), "{odd}");
    }
}

#[test]
fn series_are_rows_in_the_order_of_places_without_ids() {
    let Some(source) = real("series_are_rows_in_the_order_of_places_without_ids", "ct-series") else { return };
    let root = tempfile::tempdir().unwrap();
    link(&source, root.path());
    let bare = manifest::write(root.path(), &slices("all")).unwrap();
    assert!(bare.snippet.is_empty() && bare.notes.last().unwrap().contains("--labels"), "{bare:?}");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/goldens/ct-series.csv");
    let golden: Vec<csv::StringRecord> = csv::Reader::from_path(golden).unwrap().records().map(Result::unwrap).collect();
    let own: Vec<(String, f64)> = rows(&bare).iter().map(|row| (row["image"].clone(), row["position"].parse().unwrap())).collect();
    for (row, (image, position)) in golden.iter().zip(&own) {
        assert_eq!((&row[0], (row[1].parse::<f64>().unwrap() - position).abs() < 1e-3), (image.as_str(), true));
    }
    assert_eq!(own.len(), golden.len());
    fs::remove_file(&bare.manifest).unwrap();

    // By folders, which the table calls so.
    put(&root.path().join("labels.csv"), b"folder,label,split\np001,covid,train\nnormal001,normal,test\n");
    let labels = Some(root.path().join("labels.csv"));
    assert_eq!(inspect(root.path()).unwrap().series.len(), 2);
    let written = manifest::write(root.path(), &Options { labels: labels.clone(), ..slices("every:6") }).unwrap();
    let written_rows = rows(&written);
    assert_eq!(written_rows.len(), 6);
    assert!(written_rows.iter().all(|row| row["patient"].starts_with("patient#") || row["patient"].starts_with("series#")), "{written_rows:?}");
    assert!(written_rows.iter().all(|row| row["series"].starts_with("series#") && (row["image"].starts_with("p001/") == (row["label"] == "covid"))));
}

#[test]
fn volumes_in_class_folders_become_slices_that_a_job_reads() {
    let root = tempfile::tempdir().unwrap();
    for patient in 0..10u8 {
        let class = ["healthy", "lesion"][usize::from(patient % 2)];
        let volume = nifti([4, 5, 6], patient % 3 == 0, |z| 10 * z);
        put(&root.path().join(format!("{class}/scan_{patient}.nii")), &volume);
    }
    put(&root.path().join("lesion/broken.nii"), b"no volume");
    let written = manifest::write(root.path(), &slices("middle:0.5")).unwrap();
    assert!(written.notes[0].starts_with("1 volumes cannot be read and were left out: lesion/broken.nii"), "{:?}", written.notes);
    let all = rows(&written);
    assert_eq!(all.len(), 30);
    assert_eq!((all[0]["image"].as_str(), all[0]["orientation"].as_str(), all[0]["step"].as_str()), ("healthy/scan_0.nii#1", "LAS", "2.500"));
    let read = load(&written.snippet);
    assert_eq!((read.samples.len(), read.split(Split::Test).len()), (30, 6));
    let sample = &read.samples[0];
    decode(&fs::read(&sample.path).unwrap(), sample.slice, &Reading::default()).unwrap();

    // A table says what the folders do not, and who the patient is.
    fs::remove_file(&written.manifest).unwrap();
    let table = root.path().join("who.csv");
    put(&table, b"scan,label,patient\nscan_0,a,p\nscan_1,b,p\nscan_2,a,q\nscan_9,b,q\nscan_77,b,r\n");
    let written = manifest::write(root.path(), &Options { labels: Some(table), ..slices("every:6") }).unwrap();
    let own: BTreeSet<String> = rows(&written).into_iter().map(|row| row["patient"].clone()).collect();
    assert_eq!((written.rows, own.len()), (4, 2));
    let notes = written.notes.join("\n");
    assert!(notes.contains("6 files have no row in the table of labels") && notes.contains("1 rows of the table of labels fit no file"), "{notes}");
}

/// Folders of nnU-Net with masks of which slice 1 shows the first class, slices 2 and 3 the second.
fn nn_unet(root: &Path, labels: &str) {
    put(&root.join("dataset.json"), format!("{{\"labels\": {labels}}}").as_bytes());
    for case in 0..8 {
        put(&root.join(format!("imagesTr/case_{case}_0000.nii")), &nifti([3, 3, 5], false, |z| z));
        put(&root.join(format!("imagesTr/case_{case}_0001.nii")), &nifti([3, 3, 5], false, |z| z));
        put(&root.join(format!("labelsTr/case_{case}.nii")), &nifti([3, 3, 5], case == 0, |z| [0, 1, 2, 2, 0][usize::from(z)]));
    }
}

#[test]
fn masks_become_classes_of_slices() {
    let root = tempfile::tempdir().unwrap();
    nn_unet(root.path(), r#"{"background": 0, "lesion": 2, "all of it": [1, 2]}"#);
    put(&root.path().join("imagesTr/case_8_0000.nii"), &nifti([3, 3, 5], false, |z| z));
    put(&root.path().join("labelsTr/case_9.nii"), &nifti([3, 3, 5], false, |_| 1));
    put(&root.path().join("labelsTr/case_7.nii"), &nifti([3, 4, 5], false, |_| 1));
    put(&root.path().join("labelsTr/case_6.nii"), &nifti([3, 3, 5], false, |z| 3 * z));
    let written = manifest::write(root.path(), &slices("all")).unwrap();
    let notes = written.notes.join("\n");
    assert!(notes.contains("1 files of imagesTr have no partner in labelsTr and were left out: case_8_0000.nii"), "{notes}");
    assert!(notes.contains("1 files of labelsTr have no partner in imagesTr and were left out: case_9.nii"), "{notes}");
    assert!(notes.contains("1 cases cannot be used and were left out: case_7 (the mask has 3 × 4 × 5 voxels and the image 3 × 3 × 5)"), "{notes}");
    assert!(notes.contains("1 masks have the value 3") && notes.contains("1 masks have the value 12"), "{notes}");
    let own: Vec<_> = rows(&written).into_iter().take(5).map(|row| (row["image"].clone(), row["all of it"].clone(), row["lesion"].clone())).collect();
    let expected = [("0", "0"), ("1", "0"), ("1", "1"), ("1", "1"), ("0", "0")];
    let expected =
        expected.iter().zip(0..).map(|((all, lesion), z)| (format!("imagesTr/case_0_0000.nii#{z}"), (*all).to_owned(), (*lesion).to_owned()));
    assert_eq!(own, expected.collect::<Vec<_>>());
    let read = load(&written.snippet);
    assert_eq!((read.samples.len(), read.classes.len(), read.split(Split::Test).len() % 5), (35, 2, 0));

    // One class: a slice shows it, or the background.
    let root = tempfile::tempdir().unwrap();
    nn_unet(root.path(), r#"{"0": "background", "2": "tumour"}"#);
    let read = load(&manifest::write(root.path(), &slices("all")).unwrap().snippet);
    assert_eq!(read.classes, ["background", "tumour"]);
    assert_eq!(read.samples.iter().filter(|sample| read.told(sample) == "tumour").count(), 16);
}

#[test]
fn the_unpaired_files_of_the_hippocampus_come_out() {
    let Some(source) = real("the_unpaired_files_of_the_hippocampus_come_out", "hippocampus") else { return };
    let root = tempfile::tempdir().unwrap();
    for (from, to) in [("images", "imagesTr"), ("labels", "labelsTr")] {
        symlink(source.join(from), root.path().join(to)).unwrap();
    }
    put(&root.path().join("dataset.json"), br#"{"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}"#);
    let names = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(source.join(folder)).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    };
    let (images, labels) = (names("images"), names("labels"));
    let written = manifest::write(root.path(), &slices("every:4")).unwrap();
    let notes = written.notes.join("\n");
    for unpaired in images.symmetric_difference(&labels) {
        assert!(notes.contains(unpaired.as_str()), "{unpaired} is not in {notes}");
    }
    let cases: BTreeSet<String> = rows(&written).into_iter().map(|row| row["patient"].clone()).collect();
    assert_eq!(cases.len(), images.intersection(&labels).count());
    assert_eq!(inspect(root.path()).unwrap().layout, Layout::NnUnet);
}

#[test]
fn boxes_become_findings_by_the_official_lists() {
    let Some(source) = real("boxes_become_findings_by_the_official_lists", "bccd") else { return };
    let root = tempfile::tempdir().unwrap();
    for name in ["JPEGImages", "Annotations", "ImageSets"] {
        symlink(source.join(name), root.path().join(name)).unwrap();
    }
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    let list = |name: &str| fs::read_to_string(source.join(format!("ImageSets/Main/{name}.txt"))).unwrap().split_whitespace().count();
    let read = load(&written.snippet);
    assert_eq!(Split::ALL.map(|split| read.split(split).len()), ["train", "val", "test"].map(list));
    let platelets = fs::read_dir(source.join("Annotations"))
        .unwrap()
        .filter(|entry| fs::read_to_string(entry.as_ref().unwrap().path()).unwrap().contains("<name>Platelets</name>"));
    assert_eq!(rows(&written).iter().filter(|row| row["Platelets"] == "1").count(), platelets.count());
}

#[test]
fn scans_of_adni_get_the_diagnosis_of_their_visit() {
    let root = tempfile::tempdir().unwrap();
    let mut table = "RID,PTID,VISCODE,EXAMDATE,DX_bl,DX\n".to_owned();
    for rid in 1..25 {
        let (first, last) = if rid % 2 == 0 { ("CN", "CN") } else { ("MCI", "Dementia") };
        table.push_str(&format!("{rid},002_S_{rid:04},bl,2006-04-18,{first},{first}\n{rid},002_S_{rid:04},m24,2008-05-01,{first},{last}\n"));
        for date in ["2006-04-20_08_20_30.0", "2008-04-11_09_00_00.0"] {
            put(&root.path().join(format!("ADNI/002_S_{rid:04}/MPR/{date}/S1/scan.nii")), &nifti([3, 3, 4], false, |z| z));
        }
    }
    put(&root.path().join("ADNI/002_S_9999/MPR/2006-04-20_08_20_30.0/S1/scan.nii"), &nifti([3, 3, 4], false, |z| z));
    put(&root.path().join("ADNI/002_S_0001/scan.nii"), &nifti([3, 3, 4], false, |z| z));
    put(&root.path().join("ADNIMERGE.csv"), table.as_bytes());
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.patients), (Layout::Adni, Some(24)));
    assert!(seen.notes[0].starts_with("24 of 24 patients (RID) have several visits") && seen.notes[1].starts_with("12 patients have more than one"));
    let written = manifest::write(root.path(), &slices("middle:0.5")).unwrap();
    let notes = written.notes.join("\n");
    assert!(notes.contains("1 files have no PTID") && notes.contains("1 files of patients with several visits have no date"), "{notes}");
    let own = rows(&written);
    let label = |part: &str| own.iter().find(|row| row["image"].contains(part)).map(|row| (row["label"].clone(), row["visit"].clone())).unwrap();
    assert_eq!(label("0001/MPR/2006"), ("MCI".into(), "bl".into()));
    assert_eq!(label("0001/MPR/2008"), ("Dementia".into(), "m24".into()));
    assert_eq!((own.len(), own.iter().map(|row| &row["patient"]).collect::<BTreeSet<_>>().len()), (96, 24));
    load(&written.snippet);
}

#[test]
fn readings_become_a_median_and_their_disagreement() {
    let root = tempfile::tempdir().unwrap();
    let mut table = "patient_id,nodule_no,image,malignancy\n".to_owned();
    for patient in 0..12 {
        let ratings: &[u8] = [&[1, 2, 5][..], &[4, 5], &[3], &[3, 4]][patient % 4];
        for rating in ratings {
            table.push_str(&format!("{patient:04},0,nodules/{patient:04}_0,{rating}\n"));
        }
        let image = image::GrayImage::from_pixel(4, 4, image::Luma([patient as u8]));
        fs::create_dir_all(root.path().join("nodules")).unwrap();
        image.save(root.path().join(format!("nodules/{patient:04}_0.png"))).unwrap();
    }
    table.push_str("0099,0,nodules/0099_0,5\n");
    put(&root.path().join("meta.csv"), table.as_bytes());
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    let own: Vec<_> = rows(&written)
        .iter()
        .take(3)
        .map(|row| ["label", "malignancy", "disagreement", "readings"].map(|name| row[name].clone()).join(" "))
        .collect();
    assert_eq!(own, ["benign 2 4 3", "malignant 4.5 1 2", "malignant 3.5 1 2"]);
    let notes = written.notes.join("\n");
    assert!(notes.contains("1 images of the table are not there") && notes.contains("3 images are rated 3 or not at all"), "{notes}");
    assert_eq!(load(&written.snippet).samples.len(), 9);
}

#[test]
fn tables_of_studies_and_measurements_say_whose_rows_they_are() {
    let Some(data) = real("tables_of_studies_and_measurements_say_whose_rows_they_are", "") else { return };
    let seen = inspect(&data.join("tabular/parkinsons.csv")).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::Measurements, 195, Some(32)));
    assert!(seen.notes[0].starts_with("195 rows are of 32 subjects by column \"name\", without the number at its end,"), "{:?}", seen.notes);
    let seen = inspect(&data.join("tabular/breast-cancer-wisconsin.csv")).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::Measurements, 569, Some(569)));
    let seen = inspect(&data.join("tables/lidc_meta_info.csv.gz")).unwrap();
    assert_eq!((seen.layout, seen.patients.is_some_and(|patients| patients > 800)), (Layout::Malignancy, true));
}

#[test]
fn columns_of_splits_keep_patients_together_and_train_jobs() {
    let Some(source) = real("columns_of_splits_keep_patients_together_and_train_jobs", "covid-ct/manifest.csv") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("more.csv");
    let how = Splitting { labels: vec!["label".into()], folds: 5, ..Splitting::default() };
    let added = manifest::split(&source, &out, &how).unwrap();
    assert_eq!(added.columns.len(), 5);
    let all: Vec<BTreeMap<String, String>> = csv::Reader::from_path(&out).unwrap().deserialize().map(Result::unwrap).collect();
    assert_eq!(all.len(), 746);
    for (column, counts) in &added.columns {
        let mut of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for row in &all {
            of.entry(&row["patient_id"]).or_default().insert(&row[column]);
        }
        assert!(of.values().all(|values| values.len() == 1), "{column}");
        assert!((140..=160).contains(&counts["test"]), "{column}: {counts:?}");
        let covid = all.iter().filter(|row| row[column] == "test" && row["label"] == "covid").count();
        assert!((60..=80).contains(&covid), "{column}: {covid} of 349");
    }
    // Each row is tested once.
    assert!(all.iter().all(|row| (1..=5).filter(|fold| row[&format!("fold_{fold}")] == "test").count() == 1));
    let again = manifest::split(&source, &out, &how).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
}

#[test]
fn sites_are_left_out_once_and_patients_of_two_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("m.csv"), folder.path().join("o.csv"));
    fs::write(&path, "image,label,patient,hospital\na,x,p,north\nb,y,p,north\nc,x,q,south\nd,y,r,south\n").unwrap();
    let how = Splitting { labels: vec!["label".into()], site: Some("hospital".into()), test: Some(0.4), folds: 2, ..Splitting::default() };
    let added = manifest::split(&path, &out, &how).unwrap();
    assert_eq!(
        added.columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["split", "fold_1", "fold_2", "without_north", "without_south"]
    );
    let text = fs::read_to_string(&out).unwrap();
    assert!(text.lines().skip(1).all(|line| line.contains("north") == line.ends_with(",test,train")), "{text}");
    fs::remove_file(&out).unwrap();
    fs::write(&path, "image,label,patient,hospital\na,x,MRN-1,north\nb,y,MRN-1,south\n").unwrap();
    let error = manifest::split(&path, &out, &how).unwrap_err();
    assert!(error.reason() == "PatientInTwoSplits" && !error.to_string().contains("MRN-1") && !out.exists(), "{error}");
    let error = manifest::split(&path, &out, &Splitting { labels: vec!["lable".into()], ..how }).unwrap_err().to_string();
    assert!(error.contains("no column \"lable\"") && error.contains("did you mean \"label\"?"), "{error}");
}
