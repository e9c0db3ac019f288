//! The doctor on 100,000 made pictures of 224 × 224 pixels: what it does once they are decoded and measured, on two threads. Every hundredth is a mirrored and
//! brighter copy of another, in another split.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use graft_crds::spec::TaskType;
use graft_data::doctor::{Fingerprint, judge};
use graft_data::{Dataset, Sample, Split};
use sha2::{Digest, Sha256};

use super::{conditions, memory_of};
use crate::report::{Aim, Row, print};

/// Pictures in all, and in the row that shows how the time grows.
const COUNTS: [usize; 2] = [25_000, 100_000];
/// One of so many is a copy.
const COPIES: usize = 100;
/// Side of the picture that a fingerprint keeps.
const SIDE: usize = 32;

pub(super) fn run() -> Result<()> {
    let mut rows = Vec::new();
    for count in COUNTS {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let before = memory_of("self", "VmRSS:")?;
        let prints: Vec<Option<Fingerprint>> = (0..count).map(|at| print_of(at, count).map(Some)).collect::<Result<_>>()?;
        let dataset = dataset(count);
        let began = Instant::now();
        let report = judge(&dataset, &prints, 2);
        let seconds = began.elapsed().as_secs_f64();
        let (found, planted) = (report.near.across_splits, count / COPIES);
        println!("{count} pictures: {seconds:.1} s, {found} pairs across splits of {planted} that were planted");
        ensure!(found >= planted * 98 / 100 && found <= planted * 102 / 100, "{found} pairs of {planted} are found");
        let memory = (memory_of("self", "VmHWM:")? - before) / 1_048_576.0;
        rows.push(Row::new(format!("{count} pictures of 224 x 224, on two threads"), seconds, "s", Aim::AtMost(600.0)));
        rows.push(Row::new(format!("memory of {count} pictures at most, beside what the process had"), memory, "MiB", Aim::AtMost(1024.0)));
    }
    print("doctor", &conditions(), &rows);
    Ok(())
}

/// Which original a picture shows: training has all of them, and testing copies of some.
fn original(at: usize, count: usize) -> usize {
    let train = count - count / COPIES;
    if at < train { at } else { (at - train) * (COPIES - 1) }
}

fn dataset(count: usize) -> Dataset {
    let sample = |at: usize| {
        let shown = original(at, count);
        let split = if shown == at { Split::Train } else { Split::Test };
        Sample { label: shown / 2 % 2, ..Sample::unlabelled(PathBuf::from(format!("{at}.png")), None, format!("{at}.png"), split) }
    };
    Dataset { task: TaskType::Classification, classes: vec!["a".into(), "b".into()], positive: 1, samples: (0..count).map(sample).collect() }
}

/// The fingerprint of a picture; a copy is mirrored, and brighter.
fn print_of(at: usize, count: usize) -> Result<Fingerprint> {
    let mut grey = grey(original(at, count));
    if original(at, count) != at {
        grey.chunks_exact_mut(SIDE).for_each(<[u8]>::reverse);
        grey.iter_mut().for_each(|level| *level = (20 + u16::from(*level) * 9 / 10).min(255) as u8);
    }
    let digest = |kind: u8| Sha256::digest([&[kind][..], &at.to_le_bytes()].concat());
    let mut bytes = [&digest(0)[..], &digest(1)[..], &grey].concat();
    bytes.extend([224u32.to_le_bytes(), 224u32.to_le_bytes()].concat());
    bytes.extend(8u16.to_le_bytes());
    bytes.extend([1, 0]);
    bytes.extend((0..8).flat_map(|side| f32::from(grey[side * 100]).to_le_bytes()));
    Fingerprint::from_bytes(&bytes).context("a fingerprint has other bytes than are made here")
}

/// A picture of blobs whose places depend on its number.
fn grey(number: usize) -> Vec<u8> {
    let mixed = |k: u64| {
        let mut z = (number as u64 * 64 + k).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let blobs: Vec<[f32; 4]> = (0..8)
        .map(|k| {
            let word = mixed(k);
            let part = |shift: u32| ((word >> shift) & 0xFF) as f32 / 255.0;
            [part(0) * SIDE as f32, part(8) * SIDE as f32, 4.0 + 30.0 * part(16), 60.0 + 140.0 * part(24)]
        })
        .collect();
    let level = |x: usize, y: usize| {
        let of = |[cx, cy, width, height]: &[f32; 4]| height * (-((x as f32 - cx).powi(2) + (y as f32 - cy).powi(2)) / width).exp();
        blobs.iter().map(of).sum::<f32>().min(255.0) as u8
    };
    (0..SIDE * SIDE).map(|at| level(at % SIDE, at / SIDE)).collect()
}
