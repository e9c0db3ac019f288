//! Reading images beside torchvision, Pillow and pydicom: decoded, resized and cropped by one thread on both sides, from the same
//! files in the page cache; the second start on the same data, which finds them decoded on the disk; and the manifest of ChestX-ray14's 112,120 rows. `GRAFT_BENCH_ONLY` takes
//! those whose names have this in them (`ChestX-ray14` is the manifest), `GRAFT_BENCH_ROUNDS` another number of turns.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use graft_crds::Architecture;
use graft_crds::spec::{Data, Task};
use graft_data::decoded::Decoded;
use graft_data::{Dataset, DecodeCache, Geometry, Loader, Reading, Sample, Split, manifest};
use serde_json::Value;

use super::{conditions, local, memory_of, rounds};
use crate::report::{Aim, Row, print};
use crate::scenario;

const SCRIPT: &str = "input.py";
const TABLE: &str = "rows of ChestX-ray14 read, checked and grouped";
/// Images of a batch.
const BATCH: usize = 32;

pub(super) fn run() -> Result<()> {
    let data = scenario::real_data().context("set GRAFT_DATA to the folder of real data")?;
    let work = tempfile::tempdir()?;
    let only = std::env::var("GRAFT_BENCH_ONLY").unwrap_or_default();
    // First, while the process is small: its memory is measured.
    let mut rows = if TABLE.contains(&only) { table(&data, work.path())? } else { Vec::new() };
    if only.is_empty() || !TABLE.contains(&only) {
        rows.extend(images(&data, work.path(), &only)?);
    }
    print("input", &conditions(), &rows);
    Ok(())
}

/// Images beside other readers.
fn images(data: &Path, work: &Path, only: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let pngs = below(&data.join("covid-ct/images"))?;
    let png_list = listed(work, "png.txt", &pngs)?;
    let folder = work.join("jpegs");
    std::fs::create_dir(&folder)?;
    local::told(SCRIPT, &["jpegs", &png_list, &folder.to_string_lossy()])?;
    let jpegs = below(&folder)?;
    let jpeg_list = listed(work, "jpeg.txt", &jpegs)?;
    let dicom: Vec<PathBuf> = local::told(SCRIPT, &["lossless", &data.join("dicom").to_string_lossy()])?.lines().map(PathBuf::from).collect();
    let dicom_list = listed(work, "dicom.txt", &dicom)?;
    for (name, files, list, peer, aim) in [
        ("covid-ct's PNGs", &pngs, &png_list, "torchvision", 2.0),
        ("covid-ct's PNGs", &pngs, &png_list, "pillow", 2.0),
        ("JPEGs of 512 x 512", &jpegs, &jpeg_list, "torchvision", 2.0),
        ("JPEGs of 512 x 512", &jpegs, &jpeg_list, "pillow", 2.0),
        ("DICOM, JPEG lossless", &dicom, &dicom_list, "pydicom", 1.5),
    ] {
        if !format!("{name} beside {peer}").contains(only) {
            continue;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds() {
            ours.push(epochs(files)?);
            theirs.push(peers(peer, list)?);
            println!("{name}, round {round}: {:.1} beside {peer}'s {:.1} images/s", ours[round], theirs[round]);
        }
        rows.push(Row::of_runs(format!("{name} beside {peer}, {} files", files.len()), &ours, "images/s", &theirs, Aim::AtLeast(aim)));
    }
    for (name, files, list) in [("covid-ct's PNGs", &pngs, &png_list), ("JPEGs of 512 x 512", &jpegs, &jpeg_list)] {
        let names =
            ["an epoch of", "check and first epoch of"].map(|part| format!("{part} a second start on {name} beside torchvision, which decodes anew"));
        if !names.iter().any(|name| name.contains(only)) {
            continue;
        }
        let (mut epoch, mut start, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        let root = work.join("decoded");
        second_start(files, &root)?;
        for _ in 0..rounds() {
            let (check, read) = second_start(files, &root)?;
            epoch.push(files.len() as f64 / read);
            start.push(files.len() as f64 / (check + read));
            theirs.push(peers("torchvision", list)?);
        }
        for (name, ours) in names.into_iter().zip([epoch, start]) {
            rows.push(Row::of_runs(name, &ours, "images/s", &theirs, Aim::AtLeast(20.0)));
        }
    }
    Ok(rows)
}

/// Files below a folder, sorted.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

fn listed(work: &Path, name: &str, files: &[PathBuf]) -> Result<String> {
    let path = work.join(name);
    std::fs::write(&path, files.iter().map(|file| format!("{}\n", file.display())).collect::<String>())?;
    Ok(path.to_string_lossy().into_owned())
}

fn peers(peer: &str, list: &str) -> Result<f64> {
    local::reference(SCRIPT, &[peer, list])?["images_per_second"].as_f64().context("images_per_second")
}

/// A loader of one thread.
fn loader(files: &[PathBuf], disk: Option<Arc<Decoded>>) -> Result<Loader> {
    let sample = |path: &PathBuf| Sample::unlabelled(path.clone(), None, path.display().to_string(), Split::Train);
    let cache = DecodeCache::new(0).before(disk);
    Ok(Loader::new(files.iter().map(sample).collect(), Geometry::resolve(Architecture::ResNet18, None)?, Reading::default(), 1, cache))
}

/// Seconds of a start with decoded images below `root`: for the check, which hashes every file and decodes what is not there, and for an
/// epoch after it.
fn second_start(files: &[PathBuf], root: &Path) -> Result<(f64, f64)> {
    let began = Instant::now();
    let disk = Decoded::open(root, vec!["bench".into()], Geometry::resolve(Architecture::ResNet18, None)?, &Reading::default(), u64::MAX)?;
    let mut loader = loader(files, Some(Arc::new(disk)))?;
    let prints = loader.check(0..files.len())?;
    loader.settle(&prints);
    let checked = began.elapsed().as_secs_f64();
    for chunk in (0..files.len()).collect::<Vec<_>>().chunks(BATCH) {
        std::hint::black_box(loader.batch(chunk)?);
    }
    Ok((checked, began.elapsed().as_secs_f64() - checked))
}

/// Images per second in the second of two epochs, decoded in each.
fn epochs(files: &[PathBuf]) -> Result<f64> {
    let mut loader = loader(files, None)?;
    let all: Vec<usize> = (0..files.len()).collect();
    let mut epoch = || -> Result<f64> {
        let began = Instant::now();
        for chunk in all.chunks(BATCH) {
            std::hint::black_box(loader.batch(chunk)?);
        }
        Ok(files.len() as f64 / began.elapsed().as_secs_f64())
    };
    epoch()?;
    epoch()
}

/// ChestX-ray14's table as a manifest: parsed, checked and grouped by patient.
fn table(data: &Path, work: &Path) -> Result<Vec<Row>> {
    let folder = work.join("chest");
    std::fs::create_dir_all(folder.join("images"))?;
    let table = folder.join("Data_Entry_2017_v2020.csv.gz");
    std::fs::copy(data.join("tables/Data_Entry_2017_v2020.csv.gz"), &table)?;
    // The official lists are not at hand: every fifth patient is for testing. The images are empty, for nothing is decoded.
    let names = image_names(&table)?;
    let (mut train, mut test) = (String::new(), String::new());
    for name in &names {
        std::fs::write(folder.join("images").join(name), b"")?;
        let list = if name[..8].parse::<u32>().unwrap_or(0) % 5 == 0 { &mut test } else { &mut train };
        list.push_str(&format!("{name}\n"));
    }
    std::fs::write(folder.join("train_val_list.txt"), train)?;
    std::fs::write(folder.join("test_list.txt"), test)?;
    let written = manifest::write(&folder, &manifest::Options::default())?;
    let job: Value = serde_saphyr::from_str(&written.snippet)?;
    let (task, spec): (Task, Data) = (serde_json::from_value(job["task"].clone())?, serde_json::from_value(job["data"].clone())?);
    // The peak so far is forgotten (proc_pid_clear_refs(5)), where the kernel allows it.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = memory_of("self", "VmRSS:")?;
    let mut seconds = Vec::new();
    for _ in 0..rounds() {
        let began = Instant::now();
        let dataset = Dataset::load(&spec, &task, 0)?;
        seconds.push(began.elapsed().as_secs_f64());
        anyhow::ensure!(dataset.samples.len() == written.rows, "{} of {} rows", dataset.samples.len(), written.rows);
    }
    let (name, megabytes) = (format!("{} {TABLE}", written.rows), (memory_of("self", "VmHWM:")? - before) / 1_048_576.0);
    Ok(vec![
        Row::new(name, crate::report::median(&seconds), "s", Aim::AtMost(0.3)),
        Row::new("memory of it at most, beside what the process had", megabytes, "MiB", Aim::AtMost(100.0)),
    ])
}

fn image_names(table: &Path) -> Result<Vec<String>> {
    let output = Command::new("gzip").arg("-dc").arg(table).output().context("starting gzip")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().skip(1).filter_map(|line| Some(line.split(',').next()?.to_owned())).collect())
}
