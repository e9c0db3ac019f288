//! Writes the manifest that a job reads from what public data sets are handed out as: lists of names, tables without a column of
//! splits, arrays. Images stay where they are; those of an array become files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};

use crate::error::{DataError, Finding, Reason};
use crate::inspect::{covid_ct_lists, read_table, unreadable};
use crate::source::{DEPTH_LIMIT, walk};

/// The file that is written.
const NAME: &str = "manifest.csv";
/// An array has at most so many bytes.
const ARRAY_LIMIT: u64 = 1 << 34;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The manifest.
    pub manifest: PathBuf,
    /// Its rows.
    pub rows: usize,
    /// What one should know.
    pub notes: Vec<String>,
    /// `task` and `data` of a job that reads it, in YAML.
    pub snippet: String,
}

/// Writes `manifest.csv` for the data set in the folder `source`, or for the arrays of an `.npz` file beside it; with `out`, the
/// manifest and the images of arrays go there. Known are COVID-CT's lists, ChestX-ray14's table with its official lists, CheXpert's
/// tables, and MedMNIST's arrays.
///
/// # Errors
/// Nothing that is known lies there, a file cannot be read or written, or there is a manifest already.
pub fn write(source: &Path, out: Option<&Path>) -> Result<Written, DataError> {
    if source.extension().is_some_and(|e| e == "npz") {
        let beside = source.with_extension("");
        return arrays(source, out.unwrap_or(&beside));
    }
    if !source.is_dir() {
        return Err(refused(Reason::DataNotFound, format!("{} is no folder and no .npz file", source.display()), "name the data set's folder"));
    }
    let has = |names: &[&str]| names.iter().all(|name| source.join(name).exists());
    if has(&["Data-split", "Images-processed"]) {
        return covid_ct(source);
    }
    if has(&["train.csv", "valid.csv"]) {
        return chexpert(source);
    }
    let table = fs::read_dir(source).map_err(|e| unreadable(source, e))?.flatten().map(|entry| entry.path());
    let table = table.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("Data_Entry_2017"))).min();
    if let Some(table) = table {
        return chest_xray14(source, &table);
    }
    let what = format!("{} is none of COVID-CT, ChestX-ray14, CheXpert and MedMNIST", source.display());
    Err(refused(Reason::DataUnreadable, what, "see `graft data inspect`: class folders and manifests need nothing"))
}

fn refused(reason: Reason, what: String, remedy: &str) -> DataError {
    DataError::one(Finding::new(reason, what, vec![], remedy))
}

fn unwritable(path: &Path, error: impl std::fmt::Display) -> DataError {
    refused(Reason::DataUnreadable, format!("{} cannot be written: {error}", path.display()), "check the folder and its permissions")
}

/// Where a folder's manifest goes.
fn vacant(folder: &Path) -> Result<PathBuf, DataError> {
    let path = folder.join(NAME);
    if path.exists() {
        let remedy = "remove it; what an .npz file holds can go elsewhere with --out";
        return Err(refused(Reason::DataUnreadable, format!("{} is there already", path.display()), remedy));
    }
    Ok(path)
}

/// Rows of a manifest, written whole or not at all.
fn save(folder: &Path, header: &[&str], rows: &[Vec<String>]) -> Result<PathBuf, DataError> {
    let path = vacant(folder)?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header).map_err(|e| unwritable(&path, e))?;
    for row in rows {
        writer.write_record(row).map_err(|e| unwritable(&path, e))?;
    }
    let bytes = writer.into_inner().map_err(|e| unwritable(&path, e))?;
    let part = folder.join(format!(".{NAME}.part"));
    fs::write(&part, bytes).and_then(|()| fs::rename(&part, &path)).map_err(|e| unwritable(&path, e))?;
    Ok(path)
}

fn snippet(folder: &Path, findings: &[String], label: &str, patient: bool) -> String {
    let task = if findings.is_empty() { String::new() } else { format!("task:\n  type: multiLabel\n  classes: [{}]\n", findings.join(", ")) };
    let patient = if patient { "    patient: patient\n" } else { "" };
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    format!(
        "{task}data:\n  train:\n    uri: file://{}\n    manifest: {NAME}\n  columns:\n    input: image\n{label}{patient}    split: split\n",
        folder.display()
    )
}

fn covid_ct(root: &Path) -> Result<Written, DataError> {
    let (mut rows, mut absent) = (Vec::new(), 0);
    for entry in covid_ct_lists(root)? {
        let split = if entry.split == "validation" { "val" } else { entry.split };
        match entry.file {
            Some(file) => rows.push(vec![file, entry.class.to_owned(), split.to_owned()]),
            None => absent += 1,
        }
    }
    let mut notes =
        vec!["the lists name no patients: add a column patient from COVID-CT-MetaInfo.csv, or a patient's images may be in two splits".to_owned()];
    if absent > 0 {
        notes.push(format!("{absent} names of the lists have no file and were left out"));
    }
    let manifest = save(root, &["image", "label", "split"], &rows)?;
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(root, &[], "    label: label\n", false) })
}

/// Position of each of these columns.
fn positions<const N: usize>(path: &Path, header: &[String], names: [&str; N]) -> Result<[usize; N], DataError> {
    let mut found = [0; N];
    for (slot, name) in found.iter_mut().zip(names) {
        let missing =
            || refused(Reason::ColumnNotFound, format!("{}:1: there is no column {name:?}", path.display()), "take the table as it was handed out");
        *slot = header.iter().position(|column| column == name).ok_or_else(missing)?;
    }
    Ok(found)
}

fn names(path: &Path) -> Result<BTreeSet<String>, DataError> {
    let text = fs::read_to_string(path).map_err(|e| unreadable(path, e))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn chest_xray14(root: &Path, table: &Path) -> Result<Written, DataError> {
    let (header, entries) = read_table(table)?;
    let [image, labels, patient] = positions(table, &header, ["Image Index", "Finding Labels", "Patient ID"])?;
    let (train, test) = (names(&root.join("train_val_list.txt"))?, names(&root.join("test_list.txt"))?);
    let mut files = BTreeMap::new();
    walk(root, "", DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    let files: BTreeMap<&str, &str> =
        files.keys().map(|key| key.trim_start_matches('/')).map(|key| (key.rsplit('/').next().unwrap_or(key), key)).collect();
    let (mut rows, mut findings, mut absent, mut unlisted) = (Vec::new(), BTreeSet::new(), 0, 0);
    for entry in &entries {
        let at = |index: usize| entry.get(index).unwrap_or_default().trim();
        let split = match (train.contains(at(image)), test.contains(at(image))) {
            (true, false) => "train",
            (false, true) => "test",
            _ => {
                unlisted += 1;
                continue;
            }
        };
        let Some(file) = files.get(at(image)) else {
            absent += 1;
            continue;
        };
        findings.extend(at(labels).split('|').map(str::trim).filter(|name| *name != "No Finding").map(str::to_owned));
        rows.push(vec![(*file).to_owned(), at(labels).to_owned(), at(patient).to_owned(), split.to_owned()]);
    }
    let mut notes = Vec::new();
    for (count, what) in [(absent, "images of the table are not there"), (unlisted, "images are in none or in both of the official lists")] {
        if count > 0 {
            notes.push(format!("{count} {what}, and were left out"));
        }
    }
    let manifest = save(root, &["image", "findings", "patient", "split"], &rows)?;
    let findings: Vec<String> = findings.into_iter().collect();
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(root, &findings, "    label: findings\n", true) })
}

fn chexpert(root: &Path) -> Result<Written, DataError> {
    let (mut rows, mut absent, mut findings) = (Vec::new(), 0, Vec::new());
    for (table, split) in [("train.csv", "train"), ("valid.csv", "test")] {
        let table = root.join(table);
        let (header, entries) = read_table(&table)?;
        let [image, first] = positions(&table, &header, ["Path", "No Finding"])?;
        let own: Vec<String> = header[first + 1..].to_vec();
        if findings.is_empty() {
            findings = own;
        } else if findings != own {
            let what = format!("{} has other findings than train.csv", table.display());
            return Err(refused(Reason::ColumnNotFound, what, "take the tables of one version of the data set"));
        }
        for entry in &entries {
            let path = entry.get(image).unwrap_or_default().trim();
            // The table's paths begin with the name that the folder had when it was handed out.
            let inner = path.split_once('/').map_or(path, |(_, inner)| inner);
            let Some(file) = [path, inner].into_iter().find(|file| root.join(file).is_file()) else {
                absent += 1;
                continue;
            };
            let patient = path.split('/').find(|part| part.starts_with("patient")).unwrap_or_default();
            let values = entry.iter().skip(first + 1).map(|value| value.trim().to_owned());
            rows.push([file, patient, split].map(str::to_owned).into_iter().chain(values).collect());
        }
    }
    let header: Vec<&str> = ["image", "patient", "split"].into_iter().chain(findings.iter().map(String::as_str)).collect();
    let manifest = save(root, &header, &rows)?;
    let mut notes = vec!["valid.csv is the test set; validation patients are held out of train.csv".to_owned()];
    if absent > 0 {
        notes.push(format!("{absent} images of the tables are not there, and were left out"));
    }
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(root, &findings, "", true) })
}

/// MedMNIST's arrays (Yang et al. 2023): `train_images` `[N, H, W]` or `[N, H, W, 3]` of bytes, `train_labels` `[N, 1]`, or `[N, K]` of 0 and 1
/// for K findings; the same for val and test.
fn arrays(file: &Path, folder: &Path) -> Result<Written, DataError> {
    vacant(folder)?;
    let odd = |what: String| refused(Reason::DataUnreadable, format!("{}: {what}", file.display()), "take MedMNIST's files as they are handed out");
    let bytes = fs::File::open(file).map_err(|e| unreadable(file, e))?;
    let mut archive = zip::ZipArchive::new(bytes).map_err(|e| odd(format!("no .npz archive: {e}")))?;
    let mut read = |name: &str| -> Result<Vec<u8>, DataError> {
        let mut member = archive.by_name(&format!("{name}.npy")).map_err(|e| odd(format!("{name}: {e}")))?;
        if member.size() > ARRAY_LIMIT {
            return Err(odd(format!("{name} has {} bytes", member.size())));
        }
        let mut bytes = Vec::new();
        member.by_ref().take(ARRAY_LIMIT).read_to_end(&mut bytes).map_err(|e| odd(format!("{name}: {e}")))?;
        Ok(bytes)
    };
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for split in ["train", "val", "test"] {
        let (images, labels) = (format!("{split}_images"), format!("{split}_labels"));
        let images = Array::parse(&read(&images)?, bytes_of).map_err(|what| odd(format!("{images}: {what}")))?;
        let labels = Array::parse(&read(&labels)?, whole_of).map_err(|what| odd(format!("{labels}: {what}")))?;
        let [n, height, width, channels] = match images.shape[..] {
            [n, h, w] => [n, h, w, 1],
            [n, h, w, 3] => [n, h, w, 3],
            ref other => return Err(odd(format!("{split}_images has the shape {other:?}"))),
        };
        let answers = match labels.shape[..] {
            [m] if m == n => 1,
            [m, k] if m == n && k > 0 => k,
            ref other => return Err(odd(format!("{split}_labels has the shape {other:?} for {n} images"))),
        };
        if answers > 1 && findings.is_empty() {
            findings = (0..answers).map(|k| format!("finding-{k}")).collect();
        } else if answers != findings.len().max(1) {
            return Err(odd(format!("{split}_labels has {answers} columns")));
        }
        let side = |x: usize| u32::try_from(x).map_err(|_| odd(format!("{split}_images is {height} × {width}")));
        let (h, w) = (side(height)?, side(width)?);
        let within = folder.join("images").join(split);
        fs::create_dir_all(&within).map_err(|e| unwritable(&within, e))?;
        for (index, pixels) in images.numbers.chunks_exact((height * width * channels).max(1)).enumerate() {
            let name = format!("images/{split}/{index:06}.png");
            let path = folder.join(&name);
            let pixels = pixels.to_vec();
            let saved = match channels {
                1 => GrayImage::from_raw(w, h, pixels).map(|image| image.save(&path)),
                _ => RgbImage::from_raw(w, h, pixels).map(|image| image.save(&path)),
            };
            saved.ok_or_else(|| odd(format!("{split}_images is {height} × {width}")))?.map_err(|e| unwritable(&path, e))?;
            let own = &labels.numbers[index * answers..(index + 1) * answers];
            rows.push([name, split.to_owned()].into_iter().chain(own.iter().map(ToString::to_string)).collect());
        }
    }
    let answers: Vec<&str> = if findings.is_empty() { vec!["label"] } else { findings.iter().map(String::as_str).collect() };
    let manifest = save(folder, &[&["image", "split"], &answers[..]].concat(), &rows)?;
    let notes = vec!["the arrays name no patients, and classes by number only: see the data set's page for their names".to_owned()];
    let label = if findings.is_empty() { "    label: label\n" } else { "" };
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(folder, &findings, label, false) })
}

struct Array<T> {
    shape: Vec<usize>,
    numbers: Vec<T>,
}

impl<T> Array<T> {
    /// Reads `.npy` (NumPy's format 1 to 3) in C order; `of` gives its numbers, if they are of a kind that is wanted.
    fn parse(bytes: &[u8], of: impl FnOnce(&[u8]) -> Option<std::io::Result<Vec<T>>>) -> Result<Self, String> {
        let file = npyz::NpyFile::new(bytes).map_err(|e| e.to_string())?;
        let shape: Vec<usize> = file.shape().iter().map(|n| usize::try_from(*n).unwrap_or(usize::MAX)).collect();
        if file.order() != npyz::Order::C {
            return Err("is in Fortran's order".into());
        }
        let count = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).ok_or("is too large")?;
        if count > bytes.len() {
            return Err(format!("has {} bytes for {count} numbers", bytes.len()));
        }
        let numbers = of(bytes).ok_or_else(|| format!("holds {}, not integers of one of the sizes that are read", file.dtype().descr()))?;
        Ok(Self { shape, numbers: numbers.map_err(|e| e.to_string())? })
    }
}

/// The numbers of an array of `K`; none of one of another kind.
fn numbers<K: npyz::Deserialize, T: From<K>>(bytes: &[u8]) -> Option<std::io::Result<Vec<T>>> {
    let reader = npyz::NpyFile::new(bytes).ok()?.data::<K>().ok()?;
    Some(reader.map(|number| number.map(T::from)).collect())
}

/// Pixels: bytes, as they are.
fn bytes_of(bytes: &[u8]) -> Option<std::io::Result<Vec<u8>>> {
    numbers::<u8, u8>(bytes)
}

/// Labels: integers of any size.
fn whole_of(bytes: &[u8]) -> Option<std::io::Result<Vec<i64>>> {
    numbers::<u8, i64>(bytes)
        .or_else(|| numbers::<i8, i64>(bytes))
        .or_else(|| numbers::<u16, i64>(bytes))
        .or_else(|| numbers::<i16, i64>(bytes))
        .or_else(|| numbers::<u32, i64>(bytes))
        .or_else(|| numbers::<i32, i64>(bytes))
        .or_else(|| numbers::<i64, i64>(bytes))
}
