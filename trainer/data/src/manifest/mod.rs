//! Writes the manifest that a job reads from what data are handed out as: lists of names, tables without a column of splits, arrays, series of
//! DICOM, volumes of NIfTI with or without masks, boxes. Images stay where they are; those of an array become files.

mod answers;
mod arrays;
mod folders;
pub(crate) mod medmnist;
mod nnunet;
mod public;
mod resplit;
mod rows;
mod series;
mod signals;
mod studies;
mod voc;
mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{DataError, Finding, Reason};
use crate::inspect::{Known, Paired, known, masks, unreadable};
use crate::source::{DEPTH_LIMIT, walk};
use crate::{nifti, source};

pub(crate) use arrays::{Head, Npz, WITHOUT_VAL, finding};
pub(crate) use signals::{Columns as SignalColumns, columns as signal_columns};

pub use resplit::{Added, Splitting, split};

/// The file that is written.
const NAME: &str = "manifest.csv";
/// Samples of a window of a signal where nothing else is said.
pub const WINDOW: usize = 2048;

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

/// Which slices of a volume become rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Slices {
    /// All of them.
    All,
    /// The first and each n-th after it.
    Every(usize),
    /// The share of them that lies in the middle, at least one.
    Middle(f64),
}

impl FromStr for Slices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|n| *n > 0);
        let share = |text: &str| text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
        let parsed = match text.split_once(':') {
            None if text == "all" => Some(Self::All),
            Some(("every", n)) => number(n).map(Self::Every),
            Some(("middle", part)) => share(part).map(Self::Middle),
            _ => None,
        };
        parsed.ok_or_else(|| format!("{text:?} is none of all, every:N and middle:SHARE, such as every:4 or middle:0.5"))
    }
}

impl Slices {
    /// The chosen ones of `count`, from 0.
    #[must_use]
    pub fn of(self, count: usize) -> Vec<usize> {
        match self {
            Self::All => (0..count).collect(),
            Self::Every(n) => (0..count).step_by(n.max(1)).collect(),
            Self::Middle(share) => {
                let wanted = ((count as f64 * share).round() as usize).clamp(count.min(1), count);
                let from = (count - wanted) / 2;
                (from..from + wanted).collect()
            }
        }
    }
}

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the images of arrays and their manifest go; none is a folder beside the file.
    pub out: Option<PathBuf>,
    /// Which slices of volumes.
    pub slices: Slices,
    /// A CSV table of labels for images, volumes, series or patients.
    pub labels: Option<PathBuf>,
    /// Samples of a signal that become one picture.
    pub window: usize,
    /// The share of patients that is set aside for testing where nothing says which.
    pub test: f64,
    /// Decides which patients these are.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { out: None, slices: Slices::All, labels: None, window: WINDOW, test: 0.2, seed: 0 }
    }
}

/// Writes `manifest.csv` for the data set in the folder `source`, or for the arrays of an `.npz` file beside it. Known are COVID-CT's lists,
/// ChestX-ray14's table with its official lists, CheXpert's tables, ADNI's merged table, MedMNIST's arrays, nnU-Net's folders, Pascal VOC's,
/// volumes of NIfTI, series of DICOM, tables of recordings, and folders of classes.
///
/// # Errors
/// Nothing that is known lies there, a file cannot be read or written, or there is a manifest already.
pub fn write(source: &Path, options: &Options) -> Result<Written, DataError> {
    if source.extension().is_some_and(|e| e == "npz") {
        let beside = source.with_extension("");
        return arrays::arrays(source, options.out.as_deref().unwrap_or(&beside));
    }
    if !source.is_dir() {
        return Err(refused(Reason::DataNotFound, format!("{} is no folder and no .npz file", source.display()), "name the data set's folder"));
    }
    match known(source)? {
        Some(Known::NnUnet) => return nnunet::nn_unet(source, options),
        Some(Known::Voc) => return voc::voc(source, options),
        Some(Known::CovidCt) => return public::covid_ct(source),
        Some(Known::CheXpert) => return public::chexpert(source),
        Some(Known::ChestXray14(table)) => return public::chest_xray14(source, &table),
        Some(Known::Adni(table)) => return studies::adni(source, &table, options),
        Some(Known::Malignancy(table)) => return studies::readers(source, &table, options),
        Some(Known::Recordings(table)) => return signals::signals(source, &table, options),
        None => {}
    }
    let mut files = BTreeMap::new();
    walk(source, "", DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    let files: Vec<(String, PathBuf)> = files.into_iter().map(|(key, path)| (key.trim_start_matches('/').to_owned(), path)).collect();
    let (mut nifti, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|(key, _)| nifti::named(&key.to_lowercase()));
    let found = masks(source)?;
    if !found.is_empty() {
        let volumes = found.iter().flat_map(|paired| &paired.pairs).all(|(_, _, mask)| nifti::named(&mask.to_lowercase()));
        if !volumes || nifti.is_empty() {
            let what = format!("{} has images and masks ({})", source.display(), folders_of(&found));
            let remedy = "a mask is no class, and jobs read none: write a manifest with the columns image and label that says what the images show";
            return Err(refused(Reason::DataUnreadable, what, remedy));
        }
        if options.labels.is_none() {
            return nnunet::masked(source, found, options);
        }
        nifti.retain(|(key, _)| {
            !found.iter().flat_map(|paired| &paired.masks).any(|masks| key.strip_prefix(masks).is_some_and(|rest| rest.starts_with('/')))
        });
    }
    if !nifti.is_empty() {
        return volumes::volumes(source, &nifti, options);
    }
    let dicom: Vec<_> = others.into_iter().filter(|(_, path)| source::is_dicom(path)).collect();
    if !dicom.is_empty() {
        return series::series(source, &dicom, options);
    }
    folders::folders(source)
}

/// The folders of images and masks by name.
fn folders_of(found: &[Paired]) -> String {
    let both = found.iter().filter_map(|paired| Some(format!("{} and {}", paired.images, paired.masks.as_ref()?)));
    both.collect::<Vec<_>>().join(", ")
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
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    write_table(&path, std::iter::once(&header).chain(rows))?;
    Ok(path)
}

/// Records of a table, written whole or not at all.
fn write_table<R>(path: &Path, records: impl IntoIterator<Item = R>) -> Result<(), DataError>
where
    R: IntoIterator<Item: AsRef<[u8]>>,
{
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in records {
        writer.write_record(record).map_err(|e| unwritable(path, e))?;
    }
    let bytes = writer.into_inner().map_err(|e| unwritable(path, e))?;
    let part = path.with_file_name(format!(".{}.part", path.file_name().unwrap_or_default().to_string_lossy()));
    fs::write(&part, bytes).and_then(|()| fs::rename(&part, path)).map_err(|e| unwritable(path, e))
}

/// `task` and `data` of a job: with `findings` a multi-label task; `label` is the line of the column.
fn snippet(folder: &Path, findings: &[String], label: &str, patient: bool) -> String {
    let task = if findings.is_empty() { String::new() } else { format!("task:\n  type: multiLabel\n  classes: [{}]\n", listed(findings)) };
    let patient = if patient { "    patient: patient\n" } else { "" };
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    format!(
        "{task}data:\n  train:\n    uri: file://{}\n    manifest: {NAME}\n  columns:\n    input: image\n{label}{patient}    split: split\n",
        folder.display()
    )
}

/// Names as a list of YAML.
fn listed(names: &[String]) -> String {
    let plain =
        |name: &String| name.starts_with(|first: char| first.is_alphabetic()) && name.chars().all(|c| c.is_alphanumeric() || " _-/".contains(c));
    names.iter().map(|name| if plain(name) { name.clone() } else { format!("{name:?}") }).collect::<Vec<_>>().join(", ")
}

/// Names, the first of them in words.
fn few(names: &[String]) -> String {
    let more = names.len().saturating_sub(5);
    let shown = names[..names.len().min(5)].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}
