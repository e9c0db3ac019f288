//! Manifests of series, volumes, masks, boxes, studies and readings: made ones, and real ones where they are there.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::real;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemDicomObject;
use dicom_object::meta::FileMetaTableBuilder;
use graft_data::inspect::{Inspection, Kind, Layout, inspect};
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

/// A file of so many frames of 4 × 4 pixels.
fn film(path: &Path, series: &str, frames: u32) {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag, vr, value: PrimitiveValue| drop(object.put(DataElement::new(tag, vr, value)));
    put(tags::SOP_CLASS_UID, VR::UI, uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE.into());
    put(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3".into());
    put(tags::SERIES_INSTANCE_UID, VR::UI, series.into());
    put(tags::PATIENT_ID, VR::LO, "P-77".into());
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1u16),
        (tags::ROWS, 4),
        (tags::COLUMNS, 4),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(tag, VR::US, value.into());
    }
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into());
    put(tags::NUMBER_OF_FRAMES, VR::IS, frames.to_string().into());
    let pixels: Vec<u8> = (0..frames.min(9)).flat_map(|frame| (0..16).map(move |i| ((i + 5 * frame) % 16) as u8)).collect();
    put(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(pixels.into()));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}

#[test]
fn frames_of_a_file_are_rows() {
    let root = tempfile::tempdir().unwrap();
    film(&root.path().join("us/a.dcm"), "1.2.3.4", 6);
    film(&root.path().join("us/b.dcm"), "1.2.3.5", 2);
    film(&root.path().join("us/c.dcm"), "1.2.3.6", 2_000_000_000);
    put(&root.path().join("labels.csv"), b"image,label,split\nus/a.dcm,cyst,train\nus/b.dcm,none,test\n");
    let labels = Some(root.path().join("labels.csv"));
    let written = manifest::write(root.path(), &Options { labels, ..slices("every:2") }).unwrap();
    assert!(written.notes.iter().any(|note| note.starts_with("1 files are no slices of a series")), "{:?}", written.notes);
    let all = rows(&written);
    let own: Vec<[&str; 3]> = all.iter().map(|row| ["image", "slice", "label"].map(|name| row[name].as_str())).collect();
    assert_eq!(own, [["us/a.dcm#0", "0", "cyst"], ["us/a.dcm#2", "2", "cyst"], ["us/a.dcm#4", "4", "cyst"], ["us/b.dcm#0", "0", "none"]]);
    assert!(all.iter().all(|row| row["patient"].starts_with("patient#") && row["series"].starts_with("series#") && row["position"].is_empty()));
    let bytes = fs::read(root.path().join("us/a.dcm")).unwrap();
    let [first, third] = [0, 2].map(|frame| decode(&bytes, Some(frame), &Reading::default()).unwrap());
    assert_ne!(first, third);
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

/// As the data lie there: `images`, `labels`, and a table whose labels are masks.
#[test]
fn the_hippocampus_as_it_lies_there_has_masks_and_no_classes_of_files() {
    let Some(source) = real("the_hippocampus_as_it_lies_there_has_masks_and_no_classes_of_files", "hippocampus") else { return };
    let counts = |seen: &Inspection| seen.counts.iter().map(|(what, splits)| (what.clone(), splits["all"])).collect::<Vec<_>>();
    let expected = [("image with mask".to_owned(), 260), ("image without mask".to_owned(), 1), ("mask without image".to_owned(), 2)];
    let seen = inspect(&source).unwrap();
    assert_eq!((seen.layout, seen.snippet.as_ref(), counts(&seen)), (Layout::Masks, None, expected.to_vec()));
    let notes = seen.notes.join("\n");
    assert!(notes.contains("1 files of images have no partner in labels: hippocampus_118.nii.gz"), "{notes}");
    assert!(notes.contains("hippocampus_010.nii.gz, hippocampus_281.nii.gz") && notes.contains("column \"label\" names mask files"), "{notes}");
    let table = inspect(&source.join("manifest.csv")).unwrap();
    assert_eq!((table.layout, counts(&table)), (Layout::Masks, expected[..1].to_vec()));

    let root = tempfile::tempdir().unwrap();
    for name in ["images", "labels"] {
        symlink(source.join(name), root.path().join(name)).unwrap();
    }
    assert_eq!(counts(&inspect(root.path()).unwrap()), expected);
    let written = manifest::write(root.path(), &slices("every:4")).unwrap();
    assert!(written.snippet.contains("classes: [value-1, value-2]"), "{}", written.snippet);
    assert_eq!(rows(&written).iter().map(|row| &row["patient"]).collect::<BTreeSet<_>>().len(), 260);
    assert!(rows(&written).iter().all(|row| row["image"].starts_with("images/")));
    // The classes are those of dataset.json under other names.
    let named = tempfile::tempdir().unwrap();
    for (from, to) in [("images", "imagesTr"), ("labels", "labelsTr")] {
        symlink(source.join(from), named.path().join(to)).unwrap();
    }
    put(&named.path().join("dataset.json"), br#"{"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}"#);
    let other = manifest::write(named.path(), &slices("every:4")).unwrap();
    let shows = |written: &Written, columns: [&str; 2]| rows(written).iter().map(|row| columns.map(|name| row[name].clone())).collect::<Vec<_>>();
    assert_eq!(shows(&written, ["value-1", "value-2"]), shows(&other, ["Anterior", "Posterior"]));
    load(&written.snippet);

    // A table says what the volumes show: masks are no volumes of their own.
    fs::remove_file(&written.manifest).unwrap();
    let table = root.path().join("who.csv");
    put(&table, b"scan,label\nhippocampus_001,a\nhippocampus_003,b\nhippocampus_004,a\nhippocampus_006,b\n");
    let written = manifest::write(root.path(), &Options { labels: Some(table), ..slices("middle:0.01") }).unwrap();
    assert!(written.rows == 4 && rows(&written).iter().all(|row| row["image"].starts_with("images/")), "{written:?}");
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
    assert!(seen.notes.iter().any(|note| note.contains("on subjects it has not seen; a split of rows would promise")), "{:?}", seen.notes);
    let seen = inspect(&data.join("tabular/breast-cancer-wisconsin.csv")).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::Measurements, 569, Some(569)));
    assert!(seen.columns.len() == 30 && seen.columns.iter().all(|column| matches!(column.kind, Kind::Numeric { .. }) && column.missing == 0));
    assert!(seen.notes[0].starts_with("logistic regression of the 30 numbers of a row tells \"M\" with AUROC 0.99"), "{:?}", seen.notes);
    let seen = inspect(&data.join("tabular/SAheart.data")).unwrap();
    let of = |name: &str| seen.columns.iter().find(|column| column.name == name).unwrap().kind.clone();
    assert_eq!((seen.images, of("famhist"), of("age")), (462, Kind::Categorical { levels: 2 }, Kind::Numeric { least: 15.0, most: 64.0 }));
    let seen = inspect(&data.join("tabular/pima-indians-diabetes.csv")).unwrap();
    assert_eq!((seen.layout, seen.images, seen.columns.len()), (Layout::Measurements, 768, 8));
    assert!(seen.notes[0].starts_with("there is no header") && seen.notes[1].contains("tells \"1\" with AUROC 0.8"), "{:?}", seen.notes);
    let seen = inspect(&data.join("tables/lidc_meta_info.csv.gz")).unwrap();
    assert_eq!((seen.layout, seen.patients.is_some_and(|patients| patients > 800)), (Layout::Malignancy, true));
    // The list of nodules has no header. Counted by awk from its columns 2, 18 to 21 and 30.
    let seen = inspect(&data.join("tables/lidc_malignancy.csv.gz")).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::Malignancy, 2635, Some(868)));
    let counts = ["benign", "indeterminate", "malignant", "not rated"].map(|class| seen.counts[class]["all"]);
    assert_eq!(counts, [1348, 640, 644, 3]);
    assert!(seen.notes[0].starts_with("1869 nodules are rated by several readers, 1148 of them differently"), "{:?}", seen.notes);
}

#[test]
fn the_list_of_nodules_without_a_header_tells_who_agrees() {
    let Some(data) = real("the_list_of_nodules_without_a_header_tells_who_agrees", "tables/lidc_malignancy.csv.gz") else { return };
    let root = tempfile::tempdir().unwrap();
    symlink(data, root.path().join("lidc_malignancy.csv.gz")).unwrap();
    let names = ["0001_3000566_1", "0002_3000522_1", "0003_3000611_4", "0005_3000548_1", "0390_5437_2", "0762_2_7", "0101_3192_1"];
    names.iter().for_each(|name| put(&root.path().join(format!("crops/LIDC-IDRI-{name}.png")), b""));
    let nothing = manifest::write(root.path(), &Options::default()).unwrap_err().to_string();
    assert!(nothing.contains("2635 images of the table are not there"), "names are those of the folder: {nothing}");
    names.iter().for_each(|name| {
        fs::rename(root.path().join(format!("crops/LIDC-IDRI-{name}.png")), root.path().join(format!("LIDC-IDRI-{name}.png"))).unwrap()
    });
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    let own: BTreeMap<String, String> = rows(&written)
        .iter()
        .map(|row| (row["image"].clone(), ["label", "malignancy", "disagreement", "readings"].map(|name| row[name].clone()).join(" ")))
        .collect();
    let own: Vec<&str> = own.values().map(String::as_str).collect();
    assert_eq!(own, ["malignant 4.75 1 4", "malignant 4.5 1 2", "benign 2 0 1", "benign 2.75 1 4", "benign 1 0 4"]);
    assert!(written.notes.iter().any(|note| note.starts_with("2 images are rated 3 or not at all")), "{:?}", written.notes);
    assert!(written.notes.iter().any(|note| note.contains("at the least")), "{:?}", written.notes);
}

/// A random split of its images puts four of five test images' patients into training (`chest_xray14_says_what_a_random_split_would_leak`).
#[test]
fn a_split_of_chest_xray14_by_patient_leaks_none() {
    let Some(source) = real("a_split_of_chest_xray14_by_patient_leaks_none", "tables/Data_Entry_2017_v2020.csv.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("split.csv");
    let how = Splitting { labels: vec!["Finding Labels".into()], patient: Some("Patient ID".into()), test: Some(0.2), ..Splitting::default() };
    manifest::split(&source, &out, &how).unwrap();
    let mut splits: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut test = 0;
    for row in csv::Reader::from_path(&out).unwrap().deserialize::<BTreeMap<String, String>>().map(Result::unwrap) {
        test += usize::from(row["split"] == "test");
        splits.entry(row["Patient ID"].clone()).or_default().insert(row["split"].clone());
    }
    assert_eq!((splits.len(), splits.values().filter(|own| own.len() > 1).count()), (30_805, 0));
    assert!((20_000..25_000).contains(&test), "{test} of 112120 images are for testing");
}

/// Plain class folders have no test set: the manifest gets one by patient, and a job reads it.
#[test]
fn class_folders_become_a_manifest_that_a_split_takes() {
    let root = tempfile::tempdir().unwrap();
    for i in 0..40 {
        let class = ["benign", "malignant"][i % 2];
        put(&root.path().join(format!("{class}/patient{:03}/study1/{i}.png", i / 2 / 2)), b"");
    }
    let seen = inspect(root.path()).unwrap();
    assert_eq!((seen.layout, seen.images, seen.patients), (Layout::ClassFolders, 40, Some(10)));
    assert!(seen.notes.iter().any(|note| note.contains("`graft data split` adds one")), "{:?}", seen.notes);
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    assert!(written.rows == 40 && written.snippet.is_empty(), "{written:?}");
    let text = fs::read_to_string(&written.manifest).unwrap();
    assert!(text.starts_with("image,label,patient\nbenign/patient000/study1/0.png,benign,patient000\n"), "{text}");
    let out = root.path().join("split.csv");
    let how = Splitting { labels: vec!["label".into()], test: Some(0.3), ..Splitting::default() };
    assert!(manifest::split(&written.manifest, &out, &how).unwrap().notes.is_empty());
    let columns = "{input: image, label: label, patient: patient, split: split}";
    let read = load(&format!("data:\n  train:\n    uri: file://{}\n    manifest: split.csv\n  columns: {columns}\n", root.path().display()));
    assert_eq!((read.samples.len(), read.classes.as_slice()), (40, ["benign".to_owned(), "malignant".to_owned()].as_slice()));
    // Whole patients, each of whom has two images of either class.
    assert_eq!(read.split(Split::Test).len(), 12);

    // One image without such a folder, and nobody knows whose the others are.
    fs::remove_file(&written.manifest).unwrap();
    fs::remove_file(&out).unwrap();
    put(&root.path().join("benign/other.png"), b"");
    assert_eq!(inspect(root.path()).unwrap().patients, None);
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    assert!(fs::read_to_string(&written.manifest).unwrap().starts_with("image,label\nbenign/other.png,benign\n"));
    assert!(written.notes[0].contains("each image counts as one of its own"), "{:?}", written.notes);
    manifest::split(&written.manifest, &out, &how).unwrap();
}

#[test]
fn class_folders_by_split_keep_it_and_without_a_test_set_take_validation() {
    let root = tempfile::tempdir().unwrap();
    for (split, count) in [("Training", 20), ("valid", 4)] {
        for i in 0..count {
            put(&root.path().join(format!("{split}/{}/{split}{i}.png", ["a", "b"][i % 2])), b"");
        }
    }
    let seen = inspect(root.path()).unwrap();
    assert!(seen.snippet.is_none() && seen.notes.iter().any(|note| note.contains("takes the validation set for it")), "{:?}", seen.notes);
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    assert!(fs::read_to_string(&written.manifest).unwrap().starts_with("image,label,split\nTraining/a/Training0.png,a,train\n"));
    let read = load(&written.snippet);
    let [train, validation, test] = Split::ALL.map(|split| read.split(split).len());
    assert!(train + validation == 20 && validation > 0 && test == 4, "{train} {validation} {test}");
    // What it wrote is what is told from now on.
    assert_eq!(inspect(root.path()).unwrap().layout, Layout::Manifest);
}

#[test]
fn masks_and_patients_in_class_folders_are_no_pictures_and_no_classes() {
    let root = tempfile::tempdir().unwrap();
    for name in [
        "COVID/images/1.png",
        "COVID/masks/1.png",
        "Normal/images/2.png",
        "Normal/masks/2.png",
        "BUSI/b (1).png",
        "BUSI/b (1)_mask.png",
        "BUSI/b (1)_mask_1.png",
        "BUSI/a_mask.png",
    ] {
        put(&root.path().join(name), b"");
    }
    let seen = inspect(root.path()).unwrap();
    // A mask of nothing that is there counts as a picture.
    assert_eq!((seen.layout, seen.images, seen.counts["COVID"]["all"], seen.counts["BUSI"]["all"]), (Layout::ClassFolders, 4, 1, 2));
    assert!(seen.notes.iter().any(|note| note.starts_with("4 files are masks by their names")), "{:?}", seen.notes);
    let written = manifest::write(root.path(), &Options::default()).unwrap();
    let images: Vec<String> = rows(&written).into_iter().map(|row| row["image"].clone()).collect();
    assert_eq!(images, ["BUSI/a_mask.png", "BUSI/b (1).png", "COVID/images/1.png", "Normal/images/2.png"]);

    let root = tempfile::tempdir().unwrap();
    for i in 0..6 {
        put(&root.path().join(format!("patient{:05}/view{i}.png", 64540 + i / 2)), b"");
    }
    for error in [inspect(root.path()).unwrap_err(), manifest::write(root.path(), &Options::default()).unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("3 folders that are called as patients are") && !error.contains("6454"), "{error}");
    }
}

/// Slices of DICOM in class folders are labelled by them, where there are several series in each.
#[test]
fn class_folders_of_dicom_are_classes_of_their_series() {
    let root = tempfile::tempdir().unwrap();
    for i in 0..8u8 {
        film(&root.path().join(format!("{}/{i}.dcm", ["cyst", "none"][usize::from(i % 2)])), &format!("1.2.3.{i}"), 2);
    }
    let written = manifest::write(root.path(), &slices("all")).unwrap();
    let all = rows(&written);
    assert!(all.len() == 16 && all.iter().all(|row| row["image"].starts_with(&row["label"])), "{all:?}");
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
