//! Series of DICOM slices: the real ones as pydicom reads them (`tests/reference/series.py`), and what is wrong with made ones.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::real;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemDicomObject;
use dicom_object::meta::FileMetaTableBuilder;
use graft_crds::spec::Task;
use graft_data::inspect::{Layout, inspect};
use graft_data::series::{Series, read};
use graft_data::{Dataset, grey_values};
use serde_json::{Value, json};

#[test]
fn slices_and_hounsfield_units_are_those_of_pydicom() {
    let Some(root) = real("slices_and_hounsfield_units_are_those_of_pydicom", "ct-series") else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/goldens/ct-series.csv");
    let rows: Vec<csv::StringRecord> = csv::Reader::from_path(golden).unwrap().records().map(Result::unwrap).collect();
    // By names, which is not their order.
    let mut files: Vec<(String, PathBuf)> = rows.iter().map(|row| (row[0].to_owned(), root.join(&row[0]))).collect();
    files.sort();
    let series = read(&files);
    let order: Vec<&str> = series.iter().flat_map(|series| series.slices.iter().map(String::as_str)).collect();
    assert_eq!(order, rows.iter().map(|row| &row[0]).collect::<Vec<_>>());
    assert_eq!(series.iter().map(|series| (series.slices.len(), series.step)).collect::<Vec<_>>(), [(18, Some(14.0)); 2]);
    for row in &rows {
        let ours = grey_values(&fs::read(root.join(&row[0])).unwrap()).unwrap();
        let theirs = [2, 3, 4].map(|column| row[column].parse::<f64>().unwrap());
        assert_eq!(ours[..2], theirs[..2], "{}", &row[0]);
        assert!((ours[2] - theirs[2]).abs() < 1e-5, "{}: mean {} beside {}", &row[0], ours[2], theirs[2]);
    }
    // Slices are left out of this copy, some more than others.
    for series in &series {
        let faults = series.faults.join("\n");
        assert!(faults.contains("mm apart, mostly 14.000") && faults.contains("by their numbers, "), "{faults}");
    }
    assert_eq!(inspect(&root).unwrap().series, series);
    let alone = inspect(&root.join("p001")).unwrap();
    assert_eq!((alone.layout, alone.images, alone.series.len()), (Layout::DicomSeries, 18, 1));
}

/// A slice of 4 × 4 pixels.
#[derive(Clone, Copy)]
struct Slice {
    name: &'static str,
    position: [f64; 3],
    orientation: &'static str,
    spacing: &'static str,
    number: u32,
    announced: u32,
}

const AXIAL: &str = "1\\0\\0\\0\\1\\0";
const SLICE: Slice = Slice { name: "", position: [0.0; 3], orientation: AXIAL, spacing: "0.5\\0.5", number: 1, announced: 0 };

fn write(folder: &Path, slice: Slice) -> (String, PathBuf) {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag, vr, value: PrimitiveValue| drop(object.put(DataElement::new(tag, vr, value)));
    put(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE.into());
    put(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3".into());
    put(tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3.4".into());
    put(tags::INSTANCE_NUMBER, VR::IS, slice.number.to_string().into());
    put(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, slice.orientation.into());
    put(tags::IMAGE_POSITION_PATIENT, VR::DS, slice.position.map(|value| value.to_string()).join("\\").into());
    put(tags::PIXEL_SPACING, VR::DS, slice.spacing.into());
    if slice.announced > 0 {
        put(tags::IMAGES_IN_ACQUISITION, VR::IS, slice.announced.to_string().into());
    }
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1u16),
        (tags::ROWS, 4),
        (tags::COLUMNS, 4),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(tag, VR::US, PrimitiveValue::from(value));
    }
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into());
    put(tags::RESCALE_INTERCEPT, VR::DS, "-1024".into());
    put(tags::RESCALE_SLOPE, VR::DS, "2".into());
    put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16((0..16u16).collect::<Vec<_>>().into()));
    let path = folder.join(slice.name);
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    object.with_meta(meta).unwrap().write_to_file(&path).unwrap();
    (slice.name.to_owned(), path)
}

fn series(slices: &[Slice]) -> Series {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = slices.iter().map(|slice| write(folder.path(), *slice)).collect();
    let mut found = read(&files);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn at(name: &'static str, z: f64, number: u32) -> Slice {
    Slice { name, position: [0.0, 0.0, z], number, ..SLICE }
}

#[test]
fn order_is_that_of_places_whatever_the_names_and_the_axis() {
    let found = series(&[at("a.dcm", 4.0, 3), at("b.dcm", -2.0, 1), at("c.dcm", 1.0, 2)]);
    assert_eq!((found.slices.join(" "), found.step, found.values), ("b.dcm c.dcm a.dcm".into(), Some(3.0), Some([-1024.0, -994.0])));
    assert_eq!(found.faults, Vec::<String>::new());
    // Coronal: the normal of x and -z is y; a place along x alone changes nothing.
    let coronal = |name, y, number| Slice { name, position: [f64::from(number), y, 0.0], orientation: "1\\0\\0\\0\\0\\-1", number, ..SLICE };
    let found = series(&[coronal("a.dcm", 9.0, 3), coronal("b.dcm", 3.0, 1), coronal("c.dcm", 6.0, 2)]);
    assert_eq!((found.slices.join(" "), found.step), ("b.dcm c.dcm a.dcm".into(), Some(3.0)));
    assert_eq!(found.faults, Vec::<String>::new());
}

#[test]
fn what_is_wrong_is_named_with_its_files() {
    let whole = [at("a.dcm", 0.0, 1), at("b.dcm", 2.0, 2), at("c.dcm", 4.0, 3), at("d.dcm", 6.0, 4)];
    let with = |change: &dyn Fn(&mut Vec<Slice>)| {
        let mut slices = whole.to_vec();
        change(&mut slices);
        series(&slices).faults.join("\n")
    };
    assert_eq!(with(&|_| ()), "");
    let missing = with(&|slices| slices[3] = at("d.dcm", 10.0, 6));
    assert!(missing.contains("slices are missing between 1 neighbours") && missing.contains("c.dcm and d.dcm"), "{missing}");
    assert!(missing.contains("by their numbers, 2 slices are missing"), "{missing}");
    let mixed = with(&|slices| slices[3].position[2] = 7.0);
    assert!(mixed.contains("2.000 to 3.000 mm apart, mostly 2.000; otherwise are c.dcm and d.dcm"), "{mixed}");
    let twice = with(&|slices| slices[3].position[2] = 4.0);
    assert!(twice.contains("1 pairs of slices are at one place: c.dcm and d.dcm"), "{twice}");
    let turned = with(&|slices| slices[2].orientation = "0\\1\\0\\0\\0\\-1");
    assert!(turned.contains("1 of 4 slices lie in another orientation than the first: c.dcm"), "{turned}");
    let fine = with(&|slices| slices[1].spacing = "0.7\\0.7");
    assert!(fine.contains("1 of 4 slices have another pixel spacing than the first: b.dcm"), "{fine}");
    let truncated = with(&|slices| slices.iter_mut().for_each(|slice| slice.announced = 9));
    assert!(truncated.contains("the series is truncated: 4 of 9 slices are there"), "{truncated}");
    let lost = with(&|slices| slices[1].position[2] = f64::NAN);
    assert!(lost.contains("1 of 4 slices say neither where nor how they lie, so that their order is unknown: b.dcm"), "{lost}");
}

#[test]
fn slices_of_a_series_that_names_no_patient_stay_together() {
    let folder = tempfile::tempdir().unwrap();
    for (name, z, number) in [("train/a/1.dcm", 0.0, 1), ("train/b/2.dcm", 2.0, 2), ("test/a/3.dcm", 4.0, 3)] {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        write(folder.path(), at(name, z, number));
    }
    let uri = |split: &str| json!({"uri": format!("file://{}/{split}", folder.path().display())});
    let said = |patient_from: Value| {
        let data = json!({"train": uri("train"), "test": uri("test"), "patientFrom": patient_from});
        Dataset::load(&serde_json::from_value(data).unwrap(), &Task::default(), 0).map_or_else(|error| error.to_string(), |_| String::new())
    };
    let own = said(Value::Null);
    assert!(own.contains("1 patients are in two splits") && !own.contains("1.2.3.4"), "{own}");
    assert!(!said("file".into()).contains("patients are in two splits"));
    assert!(said("patientId".into()).contains("3 images are no DICOM files that name a patient"));
}
