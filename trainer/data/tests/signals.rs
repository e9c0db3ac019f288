//! Recordings become spectrograms: NumPy's arithmetic, the same from each kind of file, and bad recordings.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use common::real;
use graft_data::inspect::{Layout, inspect};
use graft_data::manifest::{self, Options, Splitting};
use graft_data::{Dataset, Reading, doctor};
use npyz::WriterBuilder;

/// Grey levels that NumPy's rfft gives for the first window of `ball_007_0hp.npy`, each 16th row and column.
const NUMPY: [[u8; 8]; 9] = [
    [0, 0, 0, 0, 0, 0, 0, 0],
    [132, 135, 141, 123, 81, 125, 143, 127],
    [154, 156, 150, 119, 152, 142, 152, 128],
    [165, 172, 152, 137, 130, 160, 185, 166],
    [216, 197, 202, 202, 219, 194, 191, 205],
    [178, 152, 163, 134, 150, 172, 153, 165],
    [162, 171, 170, 141, 177, 163, 170, 174],
    [162, 181, 128, 149, 164, 151, 194, 144],
    [97, 84, 112, 94, 106, 121, 70, 55],
];

#[test]
fn bearings_become_what_numpy_computes_and_a_job_reads() {
    let Some(bearings) = real("bearings_become_what_numpy_computes_and_a_job_reads", "bearings") else { return };
    let seen = inspect(&bearings).unwrap();
    assert_eq!((seen.layout, seen.images, seen.counts.len()), (Layout::Signals, 37, 10));
    let out = tempfile::tempdir().unwrap();
    let written = manifest::write(&bearings, &Options { out: Some(out.path().join("s")), ..Options::default() }).unwrap();
    // 60,000 samples hold 29 windows of 2,048.
    assert_eq!(written.rows, 37 * 29);
    assert!(written.notes[0].contains("each recording is one"), "{:?}", written.notes);
    let picture = image::open(out.path().join("s/signals/ball_007_0hp/0000.png")).unwrap().into_luma8();
    assert_eq!(picture.dimensions(), (113, 129));
    for (row, expected) in NUMPY.iter().enumerate() {
        for (column, expected) in expected.iter().enumerate() {
            let ours = picture.get_pixel(16 * column as u32, 16 * row as u32)[0];
            assert!(ours.abs_diff(*expected) <= 1, "row {row}, column {column}: {ours}, not {expected}");
        }
    }

    let (table, sites) = (out.path().join("s/manifest.csv"), out.path().join("s/loads.csv"));
    let how = Splitting { labels: vec!["label".into()], site: Some("load_hp".into()), ..Splitting::default() };
    manifest::split(&table, &sites, &how).unwrap();
    let mut job: serde_json::Value = serde_saphyr::from_str(&written.snippet).unwrap();
    job["data"]["train"]["manifest"] = "loads.csv".into();
    job["data"]["columns"]["split"] = "without_3".into();
    job["data"]["validation"] = serde_json::json!({"fraction": "0.3"});
    let data = serde_json::from_value(job["data"].clone()).unwrap();
    let dataset = Dataset::load(&data, &serde_json::from_value(serde_json::json!({})).unwrap(), 0).unwrap();
    assert_eq!((dataset.samples.len(), dataset.classes.len(), dataset.split(graft_data::Split::Test).len()), (1073, 10, 9 * 29));
    // Windows of a steady machine look alike, and none is another's copy.
    let report = doctor::examine(&dataset, &Reading::default(), 2);
    assert!(report.line().contains("0 exact"), "{}", report.line());
}

/// Two tones, the second of them later.
fn samples() -> Vec<f32> {
    (0..600).map(|i| (i as f32 * 0.3).sin() + if i > 300 { (i as f32 * 1.1).cos() } else { 0.0 }).collect()
}

fn npy<T: npyz::AutoSerialize + Copy>(shape: &[u64], numbers: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(Cursor::new(&mut bytes)).begin_nd().unwrap();
    writer.extend(numbers.iter().copied()).unwrap();
    writer.finish().unwrap();
    bytes
}

fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn table(root: &Path, files: &[(&str, Vec<u8>)]) {
    let mut text = "recording,diagnosis,subject\n".to_owned();
    for (number, (name, bytes)) in files.iter().enumerate() {
        fs::write(root.join(name), bytes).unwrap();
        text.push_str(&format!("{name},{},s{number}\n", ["a", "b"][number % 2]));
    }
    fs::write(root.join("table.csv"), text).unwrap();
}

#[test]
fn a_recording_is_the_same_in_each_kind_of_file() {
    let root = tempfile::tempdir().unwrap();
    let own = samples();
    let lines: String = own.iter().map(|sample| format!("{sample:.8}\n")).collect();
    let three: String = own.iter().map(|sample| format!("{sample:.8}, 0, {}\n", -sample)).collect();
    let doubles: Vec<f64> = own.iter().map(|sample| f64::from(*sample)).collect();
    table(
        root.path(),
        &[
            ("single.npy", npy(&[600], &own)),
            ("double.npy", npy(&[600, 1], &doubles)),
            ("row.npy", npy(&[1, 600], &own)),
            ("one.npz", npz(&[("ecg", npy(&[600], &own))])),
            ("named.npz", npz(&[("rate", npy(&[1], &[500.0f64])), ("signal", npy(&[600], &own))])),
            ("plain.csv", lines.clone().into_bytes()),
            ("headed.csv", format!("millivolt\n{lines}").into_bytes()),
            ("three.csv", three.into_bytes()),
        ],
    );
    let options = Options { window: 256, ..Options::default() };
    let written = manifest::write(root.path(), &options).unwrap();
    assert_eq!((written.rows, inspect(&root.path().join("table.csv")).unwrap().patients), (16, Some(8)));
    let picture = |name: &str, window: usize| image::open(root.path().join(format!("spectrograms/{name}/000{window}.png"))).unwrap();
    for window in 0..2 {
        let first = picture("single", window).into_luma8();
        for name in ["double", "row", "one", "named", "plain", "headed"] {
            let other = picture(name, window).into_luma8();
            let worst = first.as_raw().iter().zip(other.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(first.dimensions() == other.dimensions() && worst <= 1, "{name}, window {window}: {worst}");
        }
        let colours = picture("three", window).into_rgb8();
        assert!(colours.pixels().zip(first.pixels()).all(|(rgb, grey)| rgb[0].abs_diff(grey[0]) <= 1 && rgb[1] == 0 && rgb[2] == rgb[0]));
    }
    assert_ne!(picture("single", 0).into_luma8(), picture("single", 1).into_luma8());
    let mut manifest = csv::Reader::from_path(&written.manifest).unwrap();
    assert_eq!(manifest.headers().unwrap().iter().collect::<Vec<_>>(), ["image", "label", "patient", "split"]);
    let patients: BTreeSet<String> = manifest.records().map(|row| row.unwrap()[2].to_owned()).collect();
    assert_eq!(patients.len(), 8);
}

#[test]
fn all_bad_recordings_are_named_with_why() {
    let root = tempfile::tempdir().unwrap();
    let own = samples();
    let gap: Vec<f32> = own.iter().enumerate().map(|(i, sample)| if i == 77 { f32::NAN } else { *sample }).collect();
    table(
        root.path(),
        &[
            ("good.npy", npy(&[600], &own)),
            ("short.npy", npy(&[100], &own[..100])),
            ("gap.npy", npy(&[600], &gap)),
            ("leads.npy", npy(&[50, 12], &own)),
            ("words.csv", b"1\n2\nthree\n".to_vec()),
            ("two.npz", npz(&[("a", npy(&[600], &own)), ("b", npy(&[600], &own))])),
            ("text.npy", b"not an array".to_vec()),
        ],
    );
    fs::OpenOptions::new().append(true).open(root.path().join("table.csv")).unwrap().write_all(b"../x.npy,a,s9\ngone.npy,a,s9\n").unwrap();
    let error = manifest::write(root.path(), &Options { window: 256, ..Options::default() }).unwrap_err().to_string();
    for part in [
        "8 recordings cannot be used",
        "table.csv:3: holds 100 samples, fewer than one window of 256: see --window",
        "table.csv:4: holds numbers that are not finite",
        "table.csv:5: has 12 channels, and a picture takes one or three",
        "table.csv:6: line 3: \"three\" is no row of numbers",
        "table.csv:7: holds 2 arrays, and none is called signal",
        "table.csv:8: ",
        "table.csv:9: leads out of the table's folder",
        "table.csv:10: ",
    ] {
        assert!(error.contains(part), "{part}\n{error}");
    }
    assert!(!root.path().join("spectrograms/manifest.csv").exists());
}
