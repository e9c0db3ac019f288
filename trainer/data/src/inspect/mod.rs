//! Recognises how a data set is laid out, counts what is in it, and says what a job would have to say to use it. It
//! looks at names, headers and lists, at pixels only of one slice in a series of DICOM, and shows no value of a column that may identify a person.

mod arrays;
mod folders;
mod lists;
mod masks;
mod measurements;
pub(crate) mod nodules;
mod public;
mod single;
mod sizes;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Finding, Reason};
use crate::nifti;
use crate::series::{self, Series};
use crate::source::{self, list};
use crate::table::named_as_table;

pub use measurements::{Column, Kind};

use folders::folders;
pub(crate) use folders::{ClassFolder, class_folders, is_patient, patients_by_folder};
pub(crate) use lists::{covid_ct_lists, nn_unet_cases, voc_classes, voc_lists};
pub(crate) use masks::{Paired, find as masks};
pub(crate) use public::{CHEST_XRAY14_LISTS, CHEXPERT, Known, chexpert_file, known, names_of};
pub use tables::images_of;
use tables::table;
pub(crate) use tables::{LABEL, PATIENT, column, malignancy_columns, malignant, median, read_table};

/// Names under which the splits appear as folders.
const SPLITS: [(&str, &[&str]); 3] =
    [("train", &["train", "training"]), ("validation", &["val", "valid", "validation"]), ("test", &["test", "testing"])];

/// How a data set is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// One folder per class.
    ClassFolders,
    /// Folders train, val and test, each with one folder per class.
    SplitClassFolders,
    /// A table of images and labels, of CSV or Parquet.
    Manifest,
    /// ChestX-ray14's `Data_Entry_2017_v2020.csv`.
    ChestXray14,
    /// CheXpert's `train.csv` and `valid.csv`.
    CheXpert,
    /// COVID-CT's lists of names beside the folders of images.
    CovidCt,
    /// nnU-Net's `imagesTr`, `labelsTr` and `dataset.json`.
    NnUnet,
    /// DICOM slices without folders of classes.
    DicomSeries,
    /// Pascal VOC's `Annotations`, `ImageSets` and `JPEGImages`.
    Voc,
    /// Volumes of NIfTI without folders of classes.
    Volumes,
    /// ADNI's `ADNIMERGE.csv`, or a part of it.
    Adni,
    /// A table of malignancy, as derived from LIDC's readers.
    Malignancy,
    /// A table of recordings of one-dimensional signals.
    Signals,
    /// A table of measurements without images.
    Measurements,
    /// Arrays of NumPy in an `.npz` file.
    Arrays,
    /// Images with a mask each, in folders beside each other or by a table.
    Masks,
}

impl Layout {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClassFolders => "class folders",
            Self::SplitClassFolders => "class folders by split",
            Self::Manifest => "manifest",
            Self::ChestXray14 => "ChestX-ray14 table",
            Self::CheXpert => "CheXpert table",
            Self::CovidCt => "COVID-CT name lists",
            Self::NnUnet => "nnU-Net",
            Self::DicomSeries => "DICOM series",
            Self::Voc => "Pascal VOC",
            Self::Volumes => "NIfTI volumes",
            Self::Adni => "ADNI's merged table",
            Self::Malignancy => "LIDC malignancy table",
            Self::Signals => "table of recordings",
            Self::Measurements => "table of measurements",
            Self::Arrays => "arrays of NumPy",
            Self::Masks => "images with masks",
        }
    }
}

/// What was recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// The layout.
    pub layout: Layout,
    /// Images, or rows of a table that has none.
    pub images: usize,
    /// Patients, where a column names them.
    pub patients: Option<usize>,
    /// Images per class and split; `all` where there are no splits. An image with several labels counts for each.
    pub counts: BTreeMap<String, BTreeMap<String, usize>>,
    /// Series of DICOM slices, where no table or list says what lies there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Series>,
    /// Columns of a table of measurements, but the label and whose row it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// What one should know before using it.
    pub notes: Vec<String>,
    /// `spec.data` for a job; none where no job can use the layout as it is.
    pub snippet: Option<String>,
}

impl Inspection {
    fn new(layout: Layout) -> Self {
        Self { layout, images: 0, patients: None, counts: BTreeMap::new(), series: Vec::new(), columns: Vec::new(), notes: Vec::new(), snippet: None }
    }

    fn count(&mut self, class: &str, split: &str) {
        *self.counts.entry(class.to_owned()).or_default().entry(split.to_owned()).or_default() += 1;
    }
}

/// Whether a file below a folder is one that [`inspect`] reads, by its name: of all others it only sees that they are there.
#[must_use]
pub fn is_read(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key).to_lowercase();
    named_as_table(&name) || name.rsplit_once('.').is_none_or(|(_, extension)| ["txt", "json", "xml", "dcm", "dicom"].contains(&extension))
}

/// Recognises what lies at `path`, a folder, a table of CSV (also gzipped) or Parquet, an `.npz` file, or one
/// file of DICOM or NIfTI.
///
/// # Errors
/// `DataNotFound`, `DataUnreadable`, or no layout that is known.
pub fn inspect(path: &Path) -> Result<Inspection, DataError> {
    if path.is_file() {
        return single::file(path);
    }
    if !path.is_dir() {
        let what = format!("{} does not exist", path.display());
        return Err(DataError::one(Finding::new(Reason::DataNotFound, what, vec![], "name a folder or a table")));
    }
    let names = list(path).map_err(|error| unreadable(path, error))?;
    let tables: Vec<_> = names
        .iter()
        .filter(|(name, path)| (name.to_lowercase().ends_with(".csv") || name.to_lowercase().ends_with(".parquet")) && path.is_file())
        .collect();
    let own = tables.iter().find(|(name, _)| name.to_lowercase().contains("manifest"));
    let told = own.or(if tables.len() == 1 { tables.first() } else { None }).map(|(_, table_path)| table(table_path, path));
    // A manifest of images was written to be read, whatever else is there.
    if let (Some(_), Some(Ok(seen))) = (own, &told)
        && seen.layout == Layout::Manifest
    {
        return Ok(seen.clone());
    }
    if let Some(known) = known(path)? {
        return public::inspected(path, &known);
    }
    if !told.as_ref().is_some_and(|told| told.as_ref().is_ok_and(|seen| seen.layout == Layout::Manifest))
        && let Some(mut seen) = masks::folders(path)?
    {
        // The folders say more than a table of the same pairs.
        if let Some(Ok(told)) = told
            && told.layout == Layout::Masks
        {
            seen.notes.extend(told.notes);
        }
        return Ok(seen);
    }
    // A table of labels beside series or volumes says what these show, and not how they are laid out.
    let beside = match told {
        Some(Ok(seen)) if seen.layout == Layout::Measurements => Some(Ok(seen)),
        Some(Err(error)) => Some(Err(error)),
        Some(found) => return found,
        None => None,
    };
    let files = below(path)?;
    let series = slices(&files);
    let volumes = files.iter().filter(|(key, _)| nifti::named(&key.to_lowercase())).count();
    let seen = match folders(path) {
        Err(_) if !series.is_empty() => Ok(Inspection::new(Layout::DicomSeries)),
        Err(_) if volumes > 0 => {
            let mut seen = Inspection::new(Layout::Volumes);
            seen.images = volumes;
            seen.notes.push("`graft data manifest` writes rows of slices, with --labels TABLE also what they show".into());
            Ok(seen)
        }
        Err(error) => return beside.unwrap_or(Err(error)),
        other => other,
    }?;
    let mut seen = of_slices(seen, series);
    seen.notes.extend(sizes::of_files(files.iter().map(|(_, path)| path)));
    Ok(seen)
}

/// The images below a folder, relative to it.
fn below(root: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let mut files = BTreeMap::new();
    source::walk(root, "", source::DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    Ok(files.into_iter().map(|(key, path)| (key.trim_start_matches('/').to_owned(), path)).collect())
}

/// Series of the DICOM files among these.
fn slices(files: &[(String, PathBuf)]) -> Vec<Series> {
    let dicom = |path: &Path| path.extension().is_none_or(|e| e.eq_ignore_ascii_case("dcm") || e.eq_ignore_ascii_case("dicom"));
    let files: Vec<_> = files.iter().filter(|(_, path)| dicom(path)).cloned().collect();
    series::read(&files)
}

fn of_slices(mut seen: Inspection, series: Vec<Series>) -> Inspection {
    if seen.layout == Layout::DicomSeries {
        seen.images = series.iter().map(|series| series.slices.len()).sum();
        seen.notes.push("slices without labels: `graft data manifest` with --labels TABLE writes what a job reads; the slices of a patient, or of a series that names none, stay together".into());
    } else if !series.is_empty() {
        seen.notes.push("`graft data manifest` takes these folders for classes where there are twice as many series at least; if they are patients, give it --labels TABLE".into());
    }
    seen.series = series;
    seen
}

pub(crate) fn unreadable(path: &Path, error: impl std::fmt::Display) -> DataError {
    DataError::one(source::unreadable(path, error))
}

/// The split that a folder is named after.
pub(crate) fn split_named(name: &str) -> Option<&'static str> {
    SPLITS.iter().find(|(_, known)| known.contains(&name.to_lowercase().as_str())).map(|(split, _)| *split)
}
