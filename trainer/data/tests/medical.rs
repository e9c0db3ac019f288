//! DICOM and NIfTI as pydicom and nibabel read them (`tests/reference/medical.py`), what must be refused, whose picture it is,
//! and that no message names a person.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::real;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemDicomObject;
use dicom_object::meta::FileMetaTableBuilder;
use graft_crds::spec::{BadInput, Data, DataColumns, DataSet, DataSplits, Duplicates, PatientFrom, Task, Validation, Window};
use graft_crds::spec::{Fit, Interpolation};
use graft_data::{DataError, Dataset, DecodeCache, Geometry, Loader, Reading, decode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What the peer saw.
#[derive(Deserialize)]
#[serde(untagged)]
enum Golden {
    Refused { refused: String },
    Picture { size: [u32; 2], levels: Vec<[u8; 3]>, mean: f64, sha256: String, slice: Option<u32>, square: bool },
}

fn goldens(kind: &str) -> BTreeMap<String, Golden> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/goldens/medical.json");
    let mut all: BTreeMap<String, BTreeMap<String, Golden>> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    all.remove(kind).unwrap()
}

fn digest(image: &image::RgbImage) -> String {
    Sha256::digest(image.as_raw()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files, by a part of their paths, in which Graft and the peer are known to differ.
struct Known<'a> {
    /// What Graft refuses and the peer reads.
    refused: &'a [&'a str],
    /// What Graft reads and the peer refuses.
    read: &'a [&'a str],
    /// Whose grey or colours differ by a level somewhere, because something is rounded otherwise.
    rounded: &'a [&'a str],
    /// Whose decoders may differ by two levels, because colours with fewer samples are made into more in several ways.
    lossy: &'a [&'a str],
}

/// Compares every file with its golden: all pixels are equal, but for those that are known to differ.
fn compare(kind: &str, root: &Path, known: &Known<'_>) {
    let named = |names: &[&str], file: &str| names.iter().any(|name| file.contains(name));
    let (mut equal, mut near, mut faults) = (0, 0, Vec::new());
    for (file, golden) in goldens(kind) {
        let bytes = fs::read(root.join(&file)).unwrap();
        let slice = if let Golden::Picture { slice, .. } = &golden { slice.or(Some(0)) } else { Some(0) };
        let ours = std::panic::catch_unwind(|| decode(&bytes, slice, &Reading::default()));
        let Ok(ours) = ours else {
            faults.push(format!("{file}: crashed"));
            continue;
        };
        match (golden, ours) {
            (Golden::Refused { .. }, Err(_)) => faults.extend(named(known.read, &file).then(|| format!("{file}: is refused now"))),
            (Golden::Refused { refused }, Ok(_)) => {
                faults.extend((!named(known.read, &file)).then(|| format!("{file}: read, and the peer refuses it with {refused}")));
            }
            (Golden::Picture { .. }, Err(error)) => faults.extend((!named(known.refused, &file)).then(|| format!("{file}: {error}"))),
            (Golden::Picture { .. }, Ok(_)) if named(known.refused, &file) => faults.push(format!("{file}: is read now")),
            (Golden::Picture { size, square: false, .. }, Ok(image)) => {
                let (width, height) = image.dimensions();
                if (width, height) == (size[0], size[1]) || width < size[0] || height < size[1] {
                    faults.push(format!("{file}: {width} × {height} from {size:?} and pixels that are not square"));
                }
            }
            (Golden::Picture { size, sha256, .. }, Ok(image)) if !named(known.rounded, &file) && !named(known.lossy, &file) => {
                equal += 1;
                if [image.width(), image.height()] != size || digest(&image) != sha256 {
                    faults.push(format!("{file}: other pixels than the peer's"));
                }
            }
            (Golden::Picture { size, levels, mean, sha256, .. }, Ok(image)) => {
                near += 1;
                faults.extend((named(known.rounded, &file) && digest(&image) == sha256).then(|| format!("{file}: is equal now")));
                let (width, height) = image.dimensions();
                let at = |i: u32, n: u32| (2 * i + 1) * n / 8;
                let places = (0..4).flat_map(|row| (0..4).map(move |column| (at(column, width), at(row, height))));
                let differ = |(pixel, level): (image::Rgb<u8>, &[u8; 3])| pixel.0.iter().zip(level).map(|(a, b)| a.abs_diff(*b)).max();
                let worst = places.map(|(x, y)| *image.get_pixel(x, y)).zip(&levels).filter_map(differ).max().unwrap();
                let ours = image.as_raw().iter().map(|v| f64::from(*v)).sum::<f64>() / image.as_raw().len() as f64;
                let most = if named(known.lossy, &file) { 2 } else { 1 };
                if [width, height] != size || worst > most || (ours - mean).abs() > 0.2 {
                    faults.push(format!("{file}: {width} × {height}, mean {ours:.3}, off by {worst}; the peer has {size:?}, mean {mean}"));
                }
            }
        }
    }
    println!("{kind}: {equal} files to the bit as the peer reads them, {near} nearly");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(equal > 20);
}

#[test]
fn dicom_is_what_pydicom_reads() {
    let Some(root) = real("dicom_is_what_pydicom_reads", "") else { return };
    let known = Known {
        // Its elements have no value representations although its syntax has them.
        refused: &["SC_rgb_jpeg.dcm"],
        read: &[],
        // JPEG and JPEG 2000 with losses: whatever is stored without is equal.
        rounded: &[
            "JPEG2000.dcm",
            "JPGExtended.dcm",
            "SC_jpeg_no_color_transform.dcm",
            "SC_jpeg_no_color_transform_2.dcm",
            "SC_rgb_dcmtk_+eb+cr.dcm",
            "SC_rgb_jpeg_app14_dcmd.dcm",
            "SC_rgb_jpeg_dcmtk.dcm",
            "SC_rgb_jpeg_lossy_gdcm.dcm",
            "examples_ybr_color.dcm",
        ],
        lossy: &["dcmtk_+eb+cy+"],
    };
    compare("dicom", &root, &known);
}

#[test]
fn nifti_is_what_nibabel_reads() {
    let Some(root) = real("nifti_is_what_nibabel_reads", "") else { return };
    let known = Known {
        refused: &["complex"],
        // Colours, which nibabel reads and its reference here makes no grey of, and a table of CIFTI's.
        read: &["rgb/3D.nii", "rgb/4D.nii", "rgba/4D.nii", "row_major.dconn.nii"],
        // Half a level at the edges of the window.
        rounded: &["hippocampus_001.nii.gz", "example_nifti2.nii.gz"],
        lossy: &[],
    };
    compare("nifti", &root, &known);
}

#[test]
fn crafted_nifti_is_refused() {
    let Some(root) = real("crafted_nifti_is_refused", "") else { return };
    for entry in fs::read_dir(root.join("nifti/nifti-rs/fuzz_artifacts")).unwrap() {
        let path = entry.unwrap().path();
        assert!(decode(&fs::read(&path).unwrap(), Some(0), &Reading::default()).is_err(), "{}", path.display());
    }
    let whole = fs::read(root.join("nifti/nifti-rs/27/int16.nii")).unwrap();
    assert!(decode(&whole, Some(0), &Reading::default()).is_ok());
    for keep in [0, 4, 347, 351, whole.len() - 1] {
        assert!(decode(&whole[..keep], Some(0), &Reading::default()).is_err(), "{keep} bytes");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, ..Default::default() })]
    #[test]
    fn no_nifti_header_crashes_or_fills_memory(mut header: Vec<u8>, places in proptest::collection::vec((4usize..348, proptest::prelude::any::<u8>()), 0..40), big: bool) {
        header.resize(800, 0);
        header[..4].copy_from_slice(&if big { 348u32.to_be_bytes() } else { 348u32.to_le_bytes() });
        places.into_iter().for_each(|(at, byte)| header[at] = byte);
        header[344..348].copy_from_slice(b"n+1\0");
        let _ = decode(&header, Some(0), &Reading::default());
    }
}

/// A CT slice of 8 × 8 pixels whose values are −1000 + 100 × column, with an identity.
fn ct(path: &Path, patient: Option<&str>, frames: u16) {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag, vr, value: PrimitiveValue| object.put(DataElement::new(tag, vr, value));
    put(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE.into());
    put(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3".into());
    put(tags::PATIENT_NAME, VR::PN, "Doe^Jane".into());
    put(tags::PATIENT_BIRTH_DATE, VR::DA, "19700131".into());
    if let Some(patient) = patient {
        put(tags::PATIENT_ID, VR::LO, patient.into());
    }
    let number = PrimitiveValue::from;
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1u16),
        (tags::ROWS, 8),
        (tags::COLUMNS, 8),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(tag, VR::US, number(value));
    }
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into());
    put(tags::NUMBER_OF_FRAMES, VR::IS, frames.to_string().into());
    put(tags::RESCALE_INTERCEPT, VR::DS, "-1024".into());
    put(tags::RESCALE_SLOPE, VR::DS, "1".into());
    let values: Vec<u16> = (0..frames).flat_map(|frame| (0..64).map(move |i| 24 + 100 * (i % 8) + frame)).collect();
    put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.into()));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}

#[test]
fn hounsfield_units_pass_through_the_windows_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dcm");
    ct(&path, None, 1);
    let bytes = fs::read(&path).unwrap();
    let row = |windows: &[(i32, i32)]| -> Vec<u8> {
        let windows = windows.iter().map(|&(center, width)| Window { center, width }).collect();
        let image = decode(&bytes, None, &Reading { windows, ..Reading::default() }).unwrap();
        (0..8).flat_map(|x| image.get_pixel(x, 3).0).collect()
    };
    // Columns are −1000, −900, … −300 HU.
    let grey = |levels: [u8; 8]| levels.into_iter().flat_map(|level| [level; 3]).collect::<Vec<u8>>();
    assert_eq!(row(&[]), grey([0, 36, 73, 109, 146, 182, 219, 255]));
    assert_eq!(row(&[(-700, 401)]), grey([0, 0, 64, 128, 192, 255, 255, 255]));
    let three = row(&[(-700, 401), (-1000, 1), (0, 1)]);
    assert_eq!((three[..6].to_vec(), three[21..].to_vec()), (vec![0, 255, 0, 0, 255, 0], vec![255, 255, 0]));
}

fn job(folder: &Path, patient_from: Option<PatientFrom>) -> Data {
    let set = |split: &str| DataSet { uri: format!("file://{}", folder.join(split).display()), manifest: None };
    Data {
        train: set("train"),
        validation: Validation { uri: Some(set("val").uri), ..Validation::default() },
        test: Some(set("test")),
        columns: DataColumns::default(),
        patient_from,
        splits: DataSplits::default(),
        duplicates: Duplicates::default(),
        windows: vec![],
        allow_personal_data: None,
        on_bad_input: BadInput::Stop,
    }
}

fn error_of(data: &Data) -> DataError {
    Dataset::load(data, &Task::default(), 0).unwrap_err()
}

#[test]
fn a_dicom_file_says_whose_it_is_and_nothing_tells_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for (path, patient) in [
        // Files of archives often have no extension.
        ("train/covid/IM0001", "MRN-12345"),
        ("train/normal/b.dcm", "p2"),
        ("val/covid/c.dcm", "p3"),
        ("val/normal/d.dcm", "p4"),
        ("test/covid/e.dcm", "p5"),
        ("test/normal/f.dcm", "MRN-12345"),
    ] {
        ct(&at(path), Some(patient), 1);
    }
    let error = error_of(&job(folder.path(), None));
    assert_eq!(error.reason(), "PatientInTwoSplits");
    assert!(error.to_string().contains("patient#") && error.to_string().contains("spec.data.patientFrom"), "{error}");
    let quiet = |text: &str| ["MRN-12345", "Doe", "Jane", "19700131"].iter().all(|secret| !text.contains(secret));
    assert!(quiet(&format!("{error} {:?}", error.findings())), "{error}");

    let dataset = Dataset::load(&job(folder.path(), Some(PatientFrom::File)), &Task::default(), 0).unwrap();
    assert_eq!(dataset.samples.len(), 6);
    assert!(dataset.samples.iter().all(|sample| sample.patient.is_none()));

    ct(&at("test/normal/f.dcm"), None, 1);
    let dataset = Dataset::load(&job(folder.path(), None), &Task::default(), 0).unwrap();
    assert_eq!(dataset.samples.iter().filter(|sample| sample.patient.is_some()).count(), 5);
    let error = error_of(&job(folder.path(), Some(PatientFrom::PatientId)));
    assert!(error.reason() == "MissingPatient" && error.to_string().contains("test/normal/f.dcm"), "{error}");

    // What is broken is named by its file alone.
    let whole = fs::read(at("test/covid/e.dcm")).unwrap();
    fs::write(at("test/covid/e.dcm"), &whole[..whole.len() - 40]).unwrap();
    let geometry = Geometry { size: 8, resize: 8, fit: Fit::Stretch, interpolation: Interpolation::Bilinear };
    let loader = Loader::new(dataset.samples, geometry, Reading::default(), 1, DecodeCache::new(0));
    let error = loader.check(0..6).unwrap_err();
    assert!(error.to_string().contains("test/covid/e.dcm: the DICOM file") && quiet(&error.to_string()), "{error}");
}

#[test]
fn patients_can_be_folders() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["train/covid/p1/a", "train/normal/p2/b", "val/covid/p3/c", "val/normal/p4/d", "test/covid/p5/e", "test/normal/p6/f"] {
        ct(&folder.path().join(path), None, 1);
    }
    let dataset = Dataset::load(&job(folder.path(), Some(PatientFrom::Folder)), &Task::default(), 0).unwrap();
    let patients: Vec<_> = dataset.samples.iter().map(|sample| sample.patient.as_deref().unwrap()).collect();
    assert_eq!(patients, ["p1", "p2", "p3", "p4", "p5", "p6"]);
    fs::rename(folder.path().join("test/normal/p6/f"), folder.path().join("test/normal/f")).unwrap();
    assert_eq!(error_of(&job(folder.path(), Some(PatientFrom::Folder))).reason(), "MissingPatient");
}

#[test]
fn a_frame_is_chosen_in_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    ct(&folder.path().join("many.dcm"), Some("p"), 3);
    let bytes = fs::read(folder.path().join("many.dcm")).unwrap();
    let narrow = Reading { windows: vec![Window { center: -998, width: 5 }], ..Reading::default() };
    let first = |slice| decode(&bytes, slice, &narrow).map(|image| image.get_pixel(0, 0)[0]);
    // Each frame is one Hounsfield unit brighter.
    assert_eq!([Some(0), Some(1), Some(2)].map(|slice| first(slice).unwrap()), [32, 96, 159]);
    assert!(first(None).unwrap_err().to_string().contains("holds 3 frames: choose one, as FILE#0"));
    assert!(first(Some(3)).unwrap_err().to_string().contains("holds 3 frames, counted from 0, and #3 is asked for"));
    assert_eq!(graft_data::locate(folder.path(), "many.dcm#2"), (folder.path().join("many.dcm"), Some(2)));
    fs::write(folder.path().join("odd#1"), "").unwrap();
    assert_eq!(graft_data::locate(folder.path(), "odd#1"), (folder.path().join("odd#1"), None));
}
