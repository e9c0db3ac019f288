//! Each command of docs/data.md on files that are laid out so: it succeeds, and a job reads what it writes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Run, Site, graft};
use serde_json::Value;

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A volume of 8 × 8 × 6 bytes, brighter towards the head; a mask has only the numbers of `slices`.
fn nifti(slices: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![0; 352];
    bytes[..4].copy_from_slice(&348u32.to_le_bytes());
    for (at, value) in [(40, 3), (42, 8), (44, 8), (46, 6), (48, 1), (50, 1), (52, 1), (54, 1), (70, 2), (72, 8), (254, 1)] {
        bytes[at] = value;
    }
    for (at, value) in [(76, 1.0f32), (80, 1.0), (84, 1.0), (88, 1.0), (108, 352.0), (280, 1.0), (300, 1.0), (320, 1.0)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[344..348].copy_from_slice(b"n+1\0");
    bytes.extend(slices.into_iter().flat_map(|value| [value; 64]));
    bytes
}

/// A slice of DICOM with 4 × 4 pixels of 8 bits, explicit little endian.
fn dicom(patient: &str, series: u32, z: u32) -> Vec<u8> {
    let element = |group: u16, number: u16, kind: &str, value: &[u8]| {
        let mut value = value.to_vec();
        value.resize(value.len().next_multiple_of(2), if kind == "UI" { 0 } else { b' ' });
        let length: &[u8] =
            if kind == "OB" { &[&[0, 0], &(value.len() as u32).to_le_bytes()[..]].concat() } else { &(value.len() as u16).to_le_bytes() };
        [&group.to_le_bytes()[..], &number.to_le_bytes(), kind.as_bytes(), length, &value].concat()
    };
    let uid = format!("1.2.{series}.{z}");
    let meta = [
        element(2, 2, "UI", b"1.2.840.10008.5.1.4.1.1.2"),
        element(2, 3, "UI", uid.as_bytes()),
        element(2, 0x10, "UI", b"1.2.840.10008.1.2.1"),
        element(2, 0x12, "UI", b"1.2"),
    ]
    .concat();
    let mut file = [&[0; 128], &b"DICM"[..], &element(2, 0, "UL", &(meta.len() as u32).to_le_bytes()), &meta].concat();
    file.extend(element(0x08, 0x18, "UI", uid.as_bytes()));
    file.extend(element(0x10, 0x20, "LO", patient.as_bytes()));
    file.extend(element(0x20, 0x0E, "UI", format!("1.2.{series}").as_bytes()));
    file.extend(element(0x20, 0x32, "DS", format!("0\\0\\{z}").as_bytes()));
    file.extend(element(0x20, 0x37, "DS", b"1\\0\\0\\0\\1\\0"));
    file.extend(element(0x28, 2, "US", &[1, 0]));
    file.extend(element(0x28, 4, "CS", b"MONOCHROME2"));
    for (number, value) in [(0x10, 4), (0x11, 4), (0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0)] {
        file.extend(element(0x28, number, "US", &[value, 0]));
    }
    file.extend(element(0x7FE0, 0x10, "OB", &(0..16).map(|i| (i * 10 + z * 3 + series) as u8).collect::<Vec<_>>()));
    file
}

fn lay_out(site: &Site) {
    let at = |path: String| site.path("data").join(path);
    let mut labels = "patient,label\n".to_owned();
    let mut visits = "RID,PTID,VISCODE,EXAMDATE,DX\n".to_owned();
    let mut recordings = "signal,label,patient\n".to_owned();
    let mut readings = "patient_id,image,malignancy\n".to_owned();
    let mut lists = [String::new(), String::new(), String::new()];
    for n in 0..24u32 {
        let class = n % 2;
        labels.push_str(&format!("MRN{n:04},{}\n", ["healthy", "covid"][class as usize]));
        (0..4).for_each(|z| put(&at(format!("ct/scan{n}/IM{}", 9 - z)), &dicom(&format!("MRN{n:04}"), n + 1, z)));
        let volume = nifti([1, 2, 3, 4, 5, 6].map(|v| v * 7 + n as u8));
        put(&at(format!("mri/{}/scan_{n}.nii", ["healthy", "lesion"][class as usize])), &volume);
        put(&at(format!("hippocampus/imagesTr/case_{n}.nii")), &volume);
        put(&at(format!("hippocampus/labelsTr/case_{n}.nii")), &nifti([0, 1, 1, 2, 2, 0]));
        put(&at(format!("adni/002_S_{n:04}/MPR/2006-04-18_08_20_30.0/S1/scan.nii")), &volume);
        visits.push_str(&format!("{n},002_S_{n:04},bl,2006-04-20,{}\n", ["CN", "Dementia"][class as usize]));
        readings.push_str(&format!("{n:04},n{n},{}\n{n:04},n{n},{}\n", 1 + 3 * class, 2 + 3 * class));
        let samples: String = (0..2500).map(|i| format!("{:.4}\n", (i as f32 * (0.1 + 0.03 * n as f32)).sin())).collect();
        put(&at(format!("bearings/r{n}.csv")), samples.as_bytes());
        recordings.push_str(&format!("r{n}.csv,{},m{n}\n", ["sound", "worn"][class as usize]));
        let picture = image::GrayImage::from_fn(16, 16, |x, y| image::Luma([(x * y + n * 5) as u8]));
        for folder in ["nodules/", "cells/JPEGImages/"] {
            fs::create_dir_all(at(folder.into())).unwrap();
            picture.save(at(format!("{folder}n{n}.png"))).unwrap();
        }
        let folder = at(format!("lesions/{}", ["benign", "malignant"][class as usize]));
        fs::create_dir_all(&folder).unwrap();
        picture.save(folder.join(format!("n{n}.png"))).unwrap();
        let boxes =
            if class == 0 { "<object><name>RBC</name></object>" } else { "<object><name>WBC</name></object><object><name>RBC</name></object>" };
        put(&at(format!("cells/Annotations/n{n}.xml")), boxes.as_bytes());
        lists[[0, 0, 0, 0, 1, 1, 2, 2][n as usize % 8]].push_str(&format!("n{n}\n"));
    }
    put(&at("ct/labels.csv".into()), labels.as_bytes());
    put(&at("hippocampus/dataset.json".into()), br#"{"labels": {"background": 0, "Anterior": 1, "Posterior": 2}}"#);
    put(&at("adni/ADNIMERGE.csv".into()), visits.as_bytes());
    put(&at("bearings/table.csv".into()), recordings.as_bytes());
    put(&at("nodules/readings.csv".into()), readings.as_bytes());
    for (name, list) in ["train", "val", "test"].iter().zip(lists) {
        put(&at(format!("cells/ImageSets/Main/{name}.txt")), list.as_bytes());
    }
    let mut manifest = "image,label,patient_id,hospital\n".to_owned();
    (0..24).for_each(|n| manifest.push_str(&format!("n{n}.png,{},p{n},h{}\n", ["a", "b"][n % 2], n % 3)));
    put(&at("covid-ct/manifest.csv".into()), manifest.as_bytes());
}

#[test]
fn each_command_of_the_documentation_writes_what_a_job_reads() {
    let site = Site::new();
    lay_out(&site);
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/data.md")).unwrap();
    let root = format!("{}/", site.path("data").display());
    let lines = text.split("```sh\n").skip(1).flat_map(|rest| rest.split("```").next().unwrap().lines());
    let commands: Vec<Vec<String>> = lines
        .filter(|line| line.starts_with("graft data manifest /data") || line.starts_with("graft data split /data"))
        .map(|line| line.split_whitespace().skip(1).map(|word| word.replace("/data/", &root)).collect())
        .collect();
    assert_eq!(commands.len(), 11, "{commands:?}");
    for (number, words) in commands.iter().enumerate() {
        let run = Run::of(graft(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(run.code, Some(0), "{words:?}\n{}{}", run.stdout, run.stderr);
        assert!(!run.stdout.contains("MRN0"), "{}", run.stdout);
        if words[1] == "split" {
            continue;
        }
        // Class folders have no split before one is added.
        if words[2].ends_with("lesions") {
            assert!(run.stdout.contains("`graft data split ") && !run.stdout.contains("\n\n"), "{}", run.stdout);
            continue;
        }
        let (_, snippet) = run.stdout.split_once("\n\n").unwrap_or_else(|| panic!("no snippet: {}", run.stdout));
        let over: Value = serde_saphyr::from_str(snippet).unwrap();
        let job = site.job(&format!("layout-{number}"), |job| {
            job["spec"].as_object_mut().unwrap().remove("task");
            job["spec"].as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        });
        let validated = Run::of(graft(&["validate", &job.to_string_lossy()]));
        assert_eq!(validated.code, Some(0), "{words:?}\n{}{}{}", run.stdout, validated.stdout, validated.stderr);
        let rows = run.stdout.lines().next().unwrap().rsplit(": ").next().unwrap().to_owned();
        assert!(validated.stdout.contains(&format!("{rows} decode")), "{words:?}\n{}{}", run.stdout, validated.stdout);
    }
    let folds = site.text("data/covid-ct/folds.csv");
    let split = site.text("data/lesions/split.csv");
    assert!(split.starts_with("image,label,split\nbenign/n0.png,benign,") && split.contains(",test\n"), "{split}");
    assert!(folds.starts_with("image,label,patient_id,hospital,fold_1,fold_2,fold_3,fold_4,fold_5\n"), "{folds}");
}
