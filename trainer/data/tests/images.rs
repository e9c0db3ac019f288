//! Decoding and loading from real files: Pillow's pixels, batches that do not depend on threads or cache, and bad files.
#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint does not see as such.

mod common;

use std::fs;

use common::real;
use graft_crds::spec::{BadInput, Data, DataColumns, DataSet, DataSplits, Duplicates, Fit, Interpolation, Task, Validation};
use graft_data::{DataError, Dataset, DecodeCache, Geometry, Limits, Loader, Reading, data_digest, decode, fit};
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use sha2::{Digest, Sha256};

fn pixel(x: u32, y: u32, channel: u32) -> u8 {
    ((x * 7 + y * 13 + channel * 29 + (x * y) % 31 * 5) % 256) as u8
}

fn picture(width: u32, height: u32, channels: u64) -> DynamicImage {
    match channels {
        1 => GrayImage::from_fn(width, height, |x, y| image::Luma([pixel(x, y, 0)])).into(),
        3 => RgbImage::from_fn(width, height, |x, y| image::Rgb([0, 1, 2].map(|c| pixel(x, y, c)))).into(),
        _ => RgbaImage::from_fn(width, height, |x, y| image::Rgba([0, 1, 2, 3].map(|c| pixel(x, y, c)))).into(),
    }
}

#[test]
fn resizing_equals_pillow_where_it_takes_rows_first_too() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden/resize.json")).unwrap();
    assert_eq!(cases.len(), 8);
    let mut exact = 0;
    for case in cases {
        let number = |name: &str| case[name].as_u64().unwrap() as u32;
        let geometry = Geometry {
            size: number("size"),
            resize: number("resize"),
            fit: serde_json::from_value::<Fit>(case["fit"].clone()).unwrap(),
            interpolation: serde_json::from_value::<Interpolation>(case["interpolation"].clone()).unwrap(),
        };
        let mut file = std::io::Cursor::new(Vec::new());
        picture(number("width"), number("height"), case["channels"].as_u64().unwrap()).write_to(&mut file, image::ImageFormat::Png).unwrap();
        let ours = fit(decode(&file.into_inner(), None, &Reading::default()).unwrap(), &geometry, Limits::default()).unwrap();
        let theirs = unhex(&case["expected"]);
        assert_eq!(ours.len(), theirs.len());
        // Pillow 13 takes columns first for some shapes; what is rounded between the passes then differs by a level.
        let worst = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 1, "{geometry:?}: {worst} levels apart");
        exact += usize::from(worst == 0);
    }
    assert!(exact >= 6, "only {exact} of 8 are Pillow's to the bit");
}

#[test]
fn jpegs_equal_pillow_whole_and_drafted() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden/jpeg.json")).unwrap();
    let mut smaller = 0;
    for case in &cases {
        let bytes = match (case["jpeg"].as_str(), case["file"].as_str()) {
            (Some(_), _) => unhex(&case["jpeg"]),
            (_, Some(file)) => match real("jpegs_equal_pillow_whole_and_drafted", file) {
                Some(path) => fs::read(path).unwrap(),
                None => continue,
            },
            _ => panic!("a case without a JPEG"),
        };
        for expected in case["expected"].as_array().unwrap() {
            let enough = expected[0].as_u64().map(|enough| enough as u32);
            let ours = decode(&bytes, None, &Reading { enough, ..Reading::default() }).unwrap();
            let size = [u64::from(ours.width()), u64::from(ours.height())];
            assert_eq!(size, [1, 2].map(|i| expected[i].as_u64().unwrap()), "{} {enough:?}", case["file"]);
            let digest: String = Sha256::digest(ours.into_raw()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, expected[3].as_str().unwrap(), "{} {enough:?}", case["file"]);
            smaller += usize::from(size != [1, 2].map(|i| case["expected"][0][i].as_u64().unwrap()));
        }
    }
    assert!(smaller >= 16, "{smaller} were decoded at a fraction of their size");
}

fn unhex(hex: &serde_json::Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

#[test]
fn pictures_are_turned_as_pillow_turns_them() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden/orientation.json")).unwrap();
    let mut shapes = std::collections::BTreeMap::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let enough = case["enough"].as_u64().map(|enough| enough as u32);
        let ours = decode(&unhex(&case["file"]), None, &Reading { enough, ..Reading::default() }).unwrap();
        assert_eq!([ours.width(), ours.height()], [0, 1].map(|i| case["size"][i].as_u64().unwrap() as u32), "{name}");
        *shapes.entry((name.split(' ').next().unwrap(), ours.width() < ours.height())).or_insert(0) += 1;
        let digest: String = Sha256::digest(ours.into_raw()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, case["sha256"].as_str().unwrap(), "{name}");
    }
    let all = ["JPEG", "PNG", "TIFF", "WEBP"].into_iter().flat_map(|format| [(format, false), (format, true)]);
    assert!(all.into_iter().all(|shape| shapes.get(&shape).is_some_and(|count| *count >= 4)), "{shapes:?}");
}

/// What Graft does not read and Pillow does; each is said to be no supported kind of TIFF.
const REFUSED: [&str; 5] = ["TIFF palette", "TIFF 4 bits", "TIFF grey and alpha", "TIFF 32-bit float", "TIFF 32-bit integers"];
/// What is a JPEG for the decoder in Rust, which rounds otherwise than libjpeg-turbo.
const BY_RUST: [&str; 2] = ["TIFF JPEG", "JPEG CMYK"];

#[test]
fn pixels_stored_in_any_way_are_those_of_pillow() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden/variants.json")).unwrap();
    let (mut exact, mut faults) = (0, Vec::new());
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let ours = decode(&unhex(&case["file"]), None, &Reading::default());
        let Ok(ours) = ours.map_err(|error| error.to_string()) else {
            faults.extend((!REFUSED.contains(&name)).then(|| format!("{name} is refused")));
            continue;
        };
        faults.extend(REFUSED.contains(&name).then(|| format!("{name} is read now")));
        let apart = |theirs: &[u8]| {
            assert_eq!(ours.as_raw().len(), theirs.len(), "{name}");
            ours.as_raw().iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
        };
        let pillows = apart(&unhex(&case["expected"]));
        let worst = if case["wide"].is_string() {
            // To the nearest of 256 levels. Pillow rounds colours down, and makes no 8 bits of 16 of grey alone.
            let nearest = |two: &[u8]| ((u32::from(two[0]) << 8 | u32::from(two[1])) + 128) / 257;
            let reduced = case["mode"].as_str() != Some("I;16");
            faults.extend((reduced && pillows > 1).then(|| format!("{name}: {pillows} levels from Pillow's")));
            apart(&unhex(&case["wide"]).chunks(2).map(|two| nearest(two) as u8).collect::<Vec<_>>())
        } else {
            pillows
        };
        faults.extend((worst > u8::from(BY_RUST.contains(&name))).then(|| format!("{name}: {worst} levels apart")));
        exact += usize::from(worst == 0);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(exact >= cases.len() - REFUSED.len() - BY_RUST.len(), "{exact} of {} are exact", cases.len());
}

/// Twelve images of two classes in folders `train`, `test`, and the checked data set.
fn folders() -> (tempfile::TempDir, Data) {
    let root = tempfile::tempdir().unwrap();
    for (i, path) in ["train/a", "train/b", "test/a", "test/b"].iter().enumerate() {
        fs::create_dir_all(root.path().join(path)).unwrap();
        for n in 0..3 {
            picture(30 + n, 20 + i as u32, 3).save(root.path().join(path).join(format!("{n}.png"))).unwrap();
        }
    }
    let of = |name: &str| DataSet { uri: format!("file://{}", root.path().join(name).display()), manifest: None };
    let data = Data {
        train: of("train"),
        validation: Validation { fraction: Some("0.34".parse().unwrap()), ..Validation::default() },
        test: Some(of("test")),
        columns: DataColumns::default(),
        splits: DataSplits::default(),
        duplicates: Duplicates::default(),
        patient_from: None,
        windows: vec![],
        allow_personal_data: None,
        on_bad_input: BadInput::Stop,
    };
    (root, data)
}

const GEOMETRY: Geometry = Geometry { size: 12, resize: 14, fit: Fit::Crop, interpolation: Interpolation::Bilinear };

fn loader(dataset: &Dataset, threads: usize, cache: usize) -> Loader {
    Loader::new(dataset.samples.clone(), GEOMETRY, Reading::default(), threads, DecodeCache::new(cache))
}

#[test]
fn a_batch_does_not_depend_on_threads_cache_or_prefetching() {
    let (_root, data) = folders();
    let dataset = Dataset::load(&data, &Task::default(), 0).unwrap();
    let indices = [7, 0, 11, 3, 3, 7];
    let expected: Vec<u8> = indices
        .iter()
        .flat_map(|&i| {
            fit(decode(&fs::read(&dataset.samples[i].path).unwrap(), None, &Reading::default()).unwrap(), &GEOMETRY, Limits::default()).unwrap()
        })
        .collect();
    for (threads, cache) in [(1, 0), (3, 0), (2, 1 << 20), (2, 2 * GEOMETRY.bytes() + 1)] {
        let mut loader = loader(&dataset, threads, cache);
        loader.prefetch(&[3, 7, 5]);
        for _ in 0..3 {
            assert_eq!(loader.batch(&indices).unwrap(), expected, "{threads} threads, {cache} bytes of cache");
        }
        loader.check(0..12).unwrap();
        assert_eq!(loader.batch(&indices).unwrap(), expected);
        assert!(loader.cache().bytes() <= cache);
    }
}

#[test]
fn all_bad_files_are_listed_with_why() {
    let (root, data) = folders();
    let dataset = Dataset::load(&data, &Task::default(), 0).unwrap();
    let whole = fs::read(root.path().join("test/b/0.png")).unwrap();
    fs::write(root.path().join("test/b/0.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(root.path().join("train/a/1.png"), b"no image").unwrap();
    fs::remove_file(root.path().join("test/a/2.png")).unwrap();
    let mut loader = loader(&dataset, 2, 1 << 20);
    let says = |error: &DataError, parts: &[&str]| {
        assert_eq!(error.reason(), "UndecodableInput");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    };
    says(
        &loader.check(0..12).unwrap_err(),
        &["3 image files", "test/b/0.png: ", "train/a/1.png: is no PNG", "test/a/2.png: cannot be read: No such file"],
    );
    let bad: Vec<usize> = (0..12).filter(|&i| dataset.samples[i].path.ends_with("a/1.png") && dataset.samples[i].place().contains("train")).collect();
    says(&loader.batch(&bad).unwrap_err(), &["1 image files", "train/a/1.png"]);
    assert!(loader.batch(&[dataset.samples.len() - 1]).is_ok(), "a failed batch must not break the next");
}

#[test]
fn the_data_digest_sees_content_and_labels_and_not_the_place() {
    let digest = |data: &Data| {
        let dataset = Dataset::load(data, &Task::default(), 0).unwrap();
        data_digest(&dataset, &loader(&dataset, 2, 0).check(0..dataset.samples.len()).unwrap()).unwrap()
    };
    let ((one, data), (_other, same)) = (folders(), folders());
    let before = digest(&data);
    assert_eq!((before.len(), &before), (64, &digest(&same)));
    picture(31, 31, 1).save(one.path().join("test/a/0.png")).unwrap();
    assert_ne!(digest(&data), before);
    let dataset = Dataset::load(&same, &Task::default(), 0).unwrap();
    assert_eq!(data_digest(&dataset, &[]), None);
}

#[test]
fn covid_ct_decodes_as_a_whole() {
    let Some(root) = real("covid_ct_decodes_as_a_whole", "covid-ct") else { return };
    let data = Data {
        train: DataSet { uri: format!("file://{}", root.display()), manifest: Some("manifest.csv".into()) },
        validation: Validation::default(),
        test: None,
        columns: DataColumns { patient: Some("patient_id".into()), split: Some("split".into()), ..DataColumns::default() },
        splits: DataSplits::default(),
        duplicates: Duplicates::default(),
        patient_from: None,
        windows: vec![],
        allow_personal_data: None,
        on_bad_input: BadInput::Stop,
    };
    let dataset = Dataset::load(&data, &Task::default(), 0).unwrap();
    let geometry = Geometry::resolve(graft_crds::Architecture::ResNet18, None).unwrap();
    let loader = Loader::new(dataset.samples.clone(), geometry, Reading::default(), 2, DecodeCache::new(1 << 30));
    let digests = loader.check(0..dataset.samples.len()).unwrap();
    assert_eq!((digests.len(), loader.cache().bytes()), (746, 746 * geometry.bytes()));
}
