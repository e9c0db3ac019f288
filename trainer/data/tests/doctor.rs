//! The doctor on the real COVID-CT, and on sets made here with known faults.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

mod common;

use std::fs;
use std::path::Path;

use common::real;
use graft_crds::spec::{BadInput, Data, DataColumns, DataSet, DataSplits, Duplicates, Fit, Interpolation, Task, Validation};
use graft_data::doctor::{self, LeftOut, Report};
use graft_data::{Dataset, DecodeCache, Geometry, Loader, Reading, Reason, Split};
use image::{DynamicImage, GrayImage, Luma};

fn manifest(folder: &Path, name: &str, patient: &str) -> Data {
    Data {
        train: DataSet { uri: format!("file://{}", folder.display()), manifest: Some(name.into()) },
        validation: Validation::default(),
        test: None,
        columns: DataColumns { patient: Some(patient.into()), split: Some("split".into()), ..DataColumns::default() },
        splits: DataSplits::default(),
        duplicates: Duplicates::default(),
        patient_from: None,
        windows: vec![],
        allow_personal_data: None,
        on_bad_input: BadInput::Stop,
    }
}

const GEOMETRY: Geometry = Geometry { size: 32, resize: 32, fit: Fit::Stretch, interpolation: Interpolation::Bilinear };

fn examine(data: &Data) -> Report {
    doctor::examine(&Dataset::load(data, &Task::default(), 0).unwrap(), &Reading::default(), 2)
}

/// A picture of its own for each number: blobs whose places depend on it.
fn picture(number: u32) -> DynamicImage {
    let mixed = |k: u32| {
        let word = (number * 31 + k + 1).wrapping_mul(2_654_435_761);
        let word = (word ^ word >> 15).wrapping_mul(0x85EB_CA6B);
        word ^ word >> 13
    };
    let level = |x: u32, y: u32| {
        let near = |k: u32| {
            let (dx, dy) = (f64::from(x) - f64::from(mixed(k) % 96), f64::from(y) - f64::from((mixed(k) >> 8) % 96));
            (-(dx * dx + dy * dy) / 150.0).exp()
        };
        ((0..6).map(near).sum::<f64>() * 150.0).min(255.0) as u8
    };
    GrayImage::from_fn(96, 96, |x, y| Luma([level(x, y)])).into()
}

#[test]
fn planted_faults_are_all_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = String::from("image,label,patient,split\n");
    let mut add = |name: &str, image: &DynamicImage, label: &str, patient: &str, split: &str| {
        image.save(folder.path().join(name)).unwrap();
        rows += &format!("{name},{label},{patient},{split}\n");
    };
    for n in 0..60 {
        let (label, split) = (if n % 3 == 0 { "ill" } else { "well" }, ["train", "train", "val", "test"][n as usize % 4]);
        add(&format!("{n}.png"), &picture(n), label, &format!("secret-{n}"), split);
    }
    // The same pixels in another file format; mirrored and smaller, with the other label; and inside one split.
    add("copy.bmp", &picture(0), "ill", "secret-100", "test");
    let mirrored = picture(4).fliph().resize_exact(70, 70, image::imageops::FilterType::Triangle);
    add("mirror.png", &mirrored, "ill", "secret-101", "test");
    add("again.png", &picture(8), "well", "secret-102", "train");
    fs::write(folder.path().join("m.csv"), rows).unwrap();
    let report = examine(&manifest(folder.path(), "m.csv", "patient"));

    assert_eq!((report.images, report.undecodable), (63, 0));
    assert_eq!((report.exact.pairs, report.exact.across_splits, report.exact.label_conflicts), (2, 1, 0), "{report:#?}");
    assert_eq!((report.near.pairs, report.near.across_splits, report.near.label_conflicts), (1, 1, 1), "{report:#?}");
    let pairs: Vec<_> = report.pairs.iter().map(|pair| (pair.first.input.as_str(), pair.second.input.as_str(), pair.turn.as_deref())).collect();
    assert_eq!(pairs, [("4.png", "mirror.png", Some("mirrored left to right")), ("0.png", "copy.bmp", None)]);
    assert_eq!((report.patients.named, report.patients.inferred_groups, report.patients.inferred_across_splits), (63, 3, 2));
    assert!(!report.is_clean());

    let text = format!("{} {} {}", serde_json::to_string(&report).unwrap(), report.line(), report.refuse_duplicates().unwrap_err());
    assert!(!text.contains("secret") && text.contains("patient#"), "{text}");
    let error = report.refuse_duplicates().unwrap_err();
    assert_eq!(error.reason(), "PictureInTwoSplits");
    assert!(error.to_string().contains("0.png (train, ill) and copy.bmp (test, ill): equal pixels"), "{error}");
    // Copies of test pictures leave the training set; the test set, and the copy within the training set, stay.
    let dataset = Dataset::load(&manifest(folder.path(), "m.csv", "patient"), &Task::default(), 0).unwrap();
    let mut grouped = report.clone();
    let gone = grouped.obey(&dataset, Duplicates::Regroup).unwrap();
    assert_eq!(gone.iter().map(|index| dataset.samples[*index].key.as_str()).collect::<Vec<_>>(), ["0.png", "4.png"]);
    assert_eq!(grouped.left_out, Some(LeftOut { train: 2, validation: 0 }));
    assert_eq!((grouped.findings().left_out, grouped.findings().pairs_across_splits), (2, 2));
    assert!(grouped.line().contains("left out: 2 training and 0 validation images"), "{}", grouped.line());
    let left = dataset.without(&gone, Reason::PictureInTwoSplits).unwrap();
    let prints = Loader::new(left.samples.clone(), GEOMETRY, Reading::default(), 2, DecodeCache::new(0)).check(0..left.samples.len()).unwrap();
    let after = doctor::judge(&left, &prints.into_iter().map(Some).collect::<Vec<_>>(), 2);
    assert_eq!((after.harmful_pairs().across_splits, left.split(Split::Test).len()), (0, dataset.split(Split::Test).len()));

    // The sheet has both pairs, each side by side: the halves of an exact pair are equal.
    let png = doctor::sheet(&report, &dataset, &Reading::default(), 2).unwrap();
    let sheet = image::load_from_memory(&png).unwrap().into_rgb8();
    let half = |x: u32, y: u32| image::imageops::crop_imm(&sheet, x, y, 256, 256).to_image();
    let second = sheet.height() / 2 + 15;
    assert!(half(8, second) == half(272, second) && half(8, 19) != half(272, 19));
    assert!(half(8, second).pixels().any(|pixel| pixel.0[0] > 200), "a picture is shown");
    let clean = Report { pairs: vec![], ..report.clone() };
    assert_eq!(doctor::sheet(&clean, &dataset, &Reading::default(), 2), None);

    let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!((again.near, again.exact, again.pairs.len()), (report.near, report.exact, 2));
}

#[test]
fn the_lists_of_bccd_are_clean() {
    let Some(root) = real("the_lists_of_bccd_are_clean", "bccd") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut rows = String::from("image,label,patient,split\n");
    for split in ["train", "val", "test"] {
        let list = fs::read_to_string(root.join(format!("ImageSets/Main/{split}.txt"))).unwrap();
        for stem in list.lines().map(str::trim).filter(|stem| !stem.is_empty()) {
            let boxes = fs::read_to_string(root.join(format!("Annotations/{stem}.xml"))).unwrap();
            let label = if boxes.contains("Platelets") { "platelets" } else { "none" };
            // The set names no patients: every image is its own.
            rows += &format!("{},{label},{stem},{split}\n", root.join(format!("JPEGImages/{stem}.jpg")).display());
        }
    }
    fs::write(folder.path().join("m.csv"), rows).unwrap();
    // The manifest lies elsewhere, and its paths must stay below the folder.
    let data = manifest(Path::new("/"), &folder.path().join("m.csv").strip_prefix("/").unwrap().display().to_string(), "patient");
    let report = examine(&data);
    println!("{}", report.line());
    assert_eq!(report.images, 364);
    assert!(report.is_clean(), "{:?} {:?}", report.pairs, report.shortcuts);
}

/// Pixels and labels.
type Digits = (Vec<u8>, Vec<u8>);

/// Arrays of MNIST or USPS: the sides of its images, and what is for training and for testing.
fn digits(path: &Path) -> (u32, [Digits; 2]) {
    let mut archive = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let mut array = |name: &str| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut archive.by_name(&format!("{name}.npy")).unwrap(), &mut bytes).unwrap();
        bytes.split_off(128)
    };
    let both = ["train", "test"].map(|split| (array(&format!("{split}_images")), array(&format!("{split}_labels"))));
    let side = (both[1].0.len() / both[1].1.len()).isqrt();
    (side as u32, both)
}

/// Digits resemble each other more than any medical pictures do, and their official splits are sound: a pair would be a false alarm.
#[test]
fn the_official_splits_of_digits_are_clean() {
    for (name, step) in [("usps", 1), ("mnist", 6)] {
        let Some(path) = real("the_official_splits_of_digits_are_clean", &format!("digits/{name}.npz")) else { return };
        let folder = tempfile::tempdir().unwrap();
        let mut rows = String::from("image,label,patient,split\n");
        let (side, both) = digits(&path);
        for (split, (pixels, labels)) in ["train", "test"].into_iter().zip(&both) {
            for (n, (pixels, label)) in pixels.chunks_exact((side * side) as usize).zip(labels).step_by(step).enumerate() {
                let file = format!("{split}-{n}.png");
                GrayImage::from_raw(side, side, pixels.to_vec()).unwrap().save(folder.path().join(&file)).unwrap();
                let split = if split == "train" && n % 10 == 0 { "val" } else { split };
                rows += &format!("{file},{label},{file},{split}\n");
            }
        }
        fs::write(folder.path().join("m.csv"), rows).unwrap();
        let report = examine(&manifest(folder.path(), "m.csv", "patient"));
        println!("{name}: {}", report.line());
        let harmful = report.harmful_pairs();
        assert_eq!((harmful.across_splits, harmful.label_conflicts), (0, 0), "{name}: {:?}", report.pairs);
        assert!(report.shortcuts.is_empty(), "{name}: {:?}", report.shortcuts);
    }
}

/// Every fourth character of Omniglot, with training and testing by its two parts: no stroke in one is a copy of one in the other.
#[test]
fn the_two_parts_of_omniglot_are_clean() {
    let Some(path) = real("the_two_parts_of_omniglot_are_clean", "omniglot/omniglot.zip") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut archive = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).filter(|name| name.ends_with(".png")).collect();
    let characters: std::collections::BTreeSet<String> = names.iter().map(|name| name.rsplit_once('/').unwrap().0.to_owned()).collect();
    let chosen: std::collections::BTreeSet<String> = characters.into_iter().step_by(4).collect();
    let mut rows = String::from("image,label,patient,split\n");
    for (n, name) in names.iter().filter(|name| chosen.contains(name.rsplit_once('/').unwrap().0)).enumerate() {
        std::io::copy(&mut archive.by_name(name).unwrap(), &mut fs::File::create(folder.path().join(format!("{n}.png"))).unwrap()).unwrap();
        let split = if name.starts_with("images_evaluation") { "test" } else { ["train", "train", "val"][n / 20 % 3] };
        rows += &format!("{n}.png,{},{n},{split}\n", ["even", "odd"][n / 20 % 2]);
    }
    fs::write(folder.path().join("m.csv"), rows).unwrap();
    let report = examine(&manifest(folder.path(), "m.csv", "patient"));
    println!("{}", report.line());
    assert!(
        report.images > 8000 && report.harmful_pairs().across_splits == 0 && report.shortcuts.is_empty(),
        "{:?} {:?}",
        report.pairs,
        report.shortcuts
    );
}

#[test]
fn covid_ct_has_two_pictures_under_both_labels() {
    let Some(root) = real("covid_ct_has_two_pictures_under_both_labels", "covid-ct") else { return };
    let report = examine(&manifest(&root, "manifest.csv", "patient_id"));
    println!("{}", report.line());
    for pair in &report.pairs {
        println!("{pair}");
    }
    println!("{:#?} {:?} {:?}", report.shortcuts, report.patients, report.imbalance);
    let mut pairs: Vec<_> = report.pairs.iter().map(|pair| (pair.first.input.as_str(), pair.second.input.as_str())).collect();
    pairs.sort_unstable();
    assert_eq!(
        pairs,
        [("images/noncovid-train-543.png", "images/covid-test-347.png"), ("images/noncovid-train-544.png", "images/covid-test-348.png")]
    );
    assert!(report.pairs.iter().all(|pair| pair.label_conflict() && pair.across_splits()));
    assert_eq!((report.patients.named, report.patients.across_splits), (384, 0));
    assert_eq!((report.images, report.exact.across_splits), (746, 0));
}
