//! A job on DICOM files as an archive gives them: class folders, files without an extension, patients named by the files.
//! What it leaves behind names nobody.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Run, Site, graft};
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::mem::InMemDicomObject;
use dicom_object::meta::FileMetaTableBuilder;
use serde_json::{Value, json};

/// A phantom's slice as CT: grey level 0 is −1000 HU and 255 is 1550 HU.
fn ct(png: &Path, dicom: &Path, record_number: &str) {
    let grey = image::open(png).unwrap().into_luma8();
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag, vr, value: PrimitiveValue| drop(object.put(DataElement::new(tag, vr, value)));
    put(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE.into());
    put(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3".into());
    put(tags::PATIENT_NAME, VR::PN, "Musterfrau^Erika".into());
    put(tags::PATIENT_ID, VR::LO, record_number.into());
    put(tags::PATIENT_BIRTH_DATE, VR::DA, "19640812".into());
    let [width, height] = [grey.width(), grey.height()].map(|side| u16::try_from(side).unwrap());
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, height),
        (tags::COLUMNS, width),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(tag, VR::US, PrimitiveValue::from(value));
    }
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into());
    put(tags::RESCALE_INTERCEPT, VR::DS, "-1024".into());
    put(tags::RESCALE_SLOPE, VR::DS, "1".into());
    let values: Vec<u16> = grey.as_raw().iter().map(|level| 24 + 10 * u16::from(*level)).collect();
    put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.into()));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    fs::create_dir_all(dicom.parent().unwrap()).unwrap();
    object.with_meta(meta).unwrap().write_to_file(dicom).unwrap();
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn dicom_from_folders_to_a_model_that_names_nobody() {
    let site = Site::new();
    let mut rows = csv::Reader::from_path(site.path("phantom/manifest.csv")).unwrap();
    for (number, row) in rows.records().map(Result::unwrap).enumerate() {
        let [image, label, split, patient] = [0, 1, 2, 3].map(|column| row[column].to_owned());
        let record_number = patient.replace("phantom-", "MRN0047");
        ct(&site.path("phantom").join(image), &site.path("ct").join(split).join(label).join(format!("IM{number:06}")), &record_number);
    }
    let job = |job: &mut Value| {
        let set = |name: &str| json!({"uri": site.uri(&format!("ct/{name}"))});
        let windows = json!([{"center": -600, "width": 1500}, {"center": 40, "width": 400}, {"center": 400, "width": 1800}]);
        job["spec"]["data"] = json!({"train": set("train"), "validation": set("val"), "test": set("test"), "windows": windows});
    };
    let run = site.run("ct-model", job);
    let description: Value = serde_json::from_slice(&site.read("ct-model/model.json")).unwrap();
    assert_eq!(description["windows"][1], json!({"center": 40, "width": 400}));
    let verified = Run::of(graft(&["verify", &site.path("ct-model").to_string_lossy()]));
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    let predictions = site.text("ct-model/predictions.csv");
    assert!(predictions.contains("patient#") && predictions.contains("/IM0000"), "{predictions}");

    // The same patient in training and test is found by the files alone, and told without an id.
    let stray = site.path("ct/test/lesion/IM999999");
    fs::copy(files_below(&site.path("ct/train/lesion")).first().unwrap(), &stray).unwrap();
    let refused = Run::of(graft(&["run", &site.job("refused", job).to_string_lossy()]));
    assert_eq!(refused.code, Some(65), "{}", refused.stderr);
    assert!(refused.stderr.contains("PatientInTwoSplits") && refused.stderr.contains("IM999999"), "{}", refused.stderr);
    // So is a file that breaks off.
    let bytes = fs::read(&stray).unwrap();
    fs::write(&stray, &bytes[..bytes.len() - 100]).unwrap();
    let broken = Run::of(graft(&[
        "run",
        &site
            .job("broken", |j| {
                job(j);
                j["spec"]["data"]["patientFrom"] = "file".into();
            })
            .to_string_lossy(),
    ]));
    assert!(broken.stderr.contains("UndecodableInput") && broken.stderr.contains("IM999999"), "{}", broken.stderr);

    let left = [files_below(&site.path("ct-model")), files_below(&site.path("refused"))].concat();
    let texts = left.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap()));
    let said = [&run, &refused, &broken].map(|run| ("what a run said".to_owned(), format!("{}{}", run.stdout, run.stderr).into_bytes()));
    for (place, bytes) in texts.chain(said) {
        for secret in ["MRN0047", "Musterfrau", "Erika", "19640812"] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} in {place}");
        }
    }
}
