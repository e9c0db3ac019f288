//! Recognises how a data set is laid out, counts what is in it, and says what a job would have to say to use it. It
//! looks at names, headers and lists, at pixels only of one slice in a series of DICOM, and shows no value of a column that may identify a person.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Finding, Reason};
use crate::series::{self, Series};
use crate::source::{self, EXTENSIONS, is_image, list};

/// Names under which the splits appear as folders.
const SPLITS: [(&str, &[&str]); 3] =
    [("train", &["train", "training"]), ("validation", &["val", "valid", "validation"]), ("test", &["test", "testing"])];
/// A table that unpacks to more is no table of images.
const TABLE_LIMIT: u64 = 1 << 30;

/// How a data set is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// One folder per class.
    ClassFolders,
    /// Folders train, val and test, each with one folder per class.
    SplitClassFolders,
    /// A CSV table of images and labels.
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
}

impl Layout {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClassFolders => "class folders",
            Self::SplitClassFolders => "class folders by split",
            Self::Manifest => "CSV manifest",
            Self::ChestXray14 => "ChestX-ray14 table",
            Self::CheXpert => "CheXpert table",
            Self::CovidCt => "COVID-CT name lists",
            Self::NnUnet => "nnU-Net",
            Self::DicomSeries => "DICOM series",
            Self::Voc => "Pascal VOC",
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
    /// What one should know before using it.
    pub notes: Vec<String>,
    /// `spec.data` for a job; none where no job can use the layout as it is.
    pub snippet: Option<String>,
}

impl Inspection {
    fn new(layout: Layout) -> Self {
        Self { layout, images: 0, patients: None, counts: BTreeMap::new(), series: Vec::new(), notes: Vec::new(), snippet: None }
    }

    fn count(&mut self, class: &str, split: &str) {
        *self.counts.entry(class.to_owned()).or_default().entry(split.to_owned()).or_default() += 1;
    }
}

/// Recognises what lies at `path`, a folder or a CSV table (also gzipped).
///
/// # Errors
/// `DataNotFound`, `DataUnreadable`, or no layout that is known.
pub fn inspect(path: &Path) -> Result<Inspection, DataError> {
    if path.is_file() {
        return table(path, path.parent().unwrap_or(path));
    }
    if !path.is_dir() {
        let what = format!("{} does not exist", path.display());
        return Err(DataError::one(Finding::new(Reason::DataNotFound, what, vec![], "name a folder or a CSV table")));
    }
    let has = |names: &[&str]| names.iter().all(|name| path.join(name).exists());
    if has(&["imagesTr", "dataset.json"]) {
        return nn_unet(path);
    }
    if has(&["JPEGImages", "Annotations", "ImageSets/Main"]) {
        return voc(path);
    }
    if has(&["Data-split", "Images-processed"]) {
        return covid_ct(path);
    }
    let names = list(path).map_err(|error| unreadable(path, error))?;
    let tables: Vec<_> = names.iter().filter(|(name, path)| name.to_lowercase().ends_with(".csv") && path.is_file()).collect();
    let chosen = tables.iter().find(|(name, _)| name.to_lowercase().contains("manifest")).or(if tables.len() == 1 { tables.first() } else { None });
    if let Some((_, table_path)) = chosen {
        return table(table_path, path);
    }
    let series = slices(path)?;
    let seen = match folders(path, &names) {
        Err(_) if !series.is_empty() => Ok(Inspection::new(Layout::DicomSeries)),
        other => other,
    }?;
    Ok(of_slices(seen, series))
}

/// Series of the DICOM files below a folder.
fn slices(root: &Path) -> Result<Vec<Series>, DataError> {
    let mut files = BTreeMap::new();
    source::walk(root, "", source::DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    let dicom = |path: &Path| path.extension().is_none_or(|e| e.eq_ignore_ascii_case("dcm") || e.eq_ignore_ascii_case("dicom"));
    let files: Vec<_> = files.into_iter().filter(|(_, path)| dicom(path)).map(|(key, path)| (key.trim_start_matches('/').to_owned(), path)).collect();
    Ok(series::read(&files))
}

fn of_slices(mut seen: Inspection, series: Vec<Series>) -> Inspection {
    if seen.layout == Layout::DicomSeries {
        seen.images = series.iter().map(|series| series.slices.len()).sum();
        seen.notes.push("slices without labels: write a manifest with the columns image, label and split; the slices of a patient, or of a series that names none, stay together".into());
    } else if !series.is_empty() {
        seen.notes.push("if the folders are patients and not classes, write a manifest with the columns image, label and split".into());
    }
    seen.series = series;
    seen
}

pub(crate) fn unreadable(path: &Path, error: impl std::fmt::Display) -> DataError {
    DataError::one(source::unreadable(path, error))
}

fn images_below(folder: &Path, depth: usize) -> usize {
    let Ok(entries) = list(folder) else { return 0 };
    entries
        .values()
        .map(|path| if path.is_dir() { if depth == 0 { 0 } else { images_below(path, depth - 1) } } else { usize::from(is_image(path)) })
        .sum()
}

fn folders(root: &Path, names: &BTreeMap<String, std::path::PathBuf>) -> Result<Inspection, DataError> {
    let split_of = |name: &str| SPLITS.iter().find(|(_, known)| known.contains(&name.to_lowercase().as_str())).map(|(split, _)| *split);
    let splits: Vec<_> = names.iter().filter(|(_, path)| path.is_dir()).filter_map(|(name, path)| Some((split_of(name)?, name, path))).collect();
    let mut seen = Inspection::new(if splits.is_empty() { Layout::ClassFolders } else { Layout::SplitClassFolders });
    let all = vec![("all", root.to_owned())];
    let roots = if splits.is_empty() { all } else { splits.iter().map(|(split, _, path)| (*split, (*path).clone())).collect() };
    for (split, folder) in roots {
        for (class, path) in list(&folder).map_err(|error| unreadable(&folder, error))?.iter().filter(|(_, path)| path.is_dir()) {
            let images = images_below(path, 16);
            if images > 0 {
                seen.counts.entry(class.clone()).or_default().insert(split.to_owned(), images);
                seen.images += images;
            }
        }
    }
    if seen.images == 0 {
        let what = format!("{} is no layout that is known: it has no table, no lists, and no folders of images", root.display());
        let remedy = format!("lay images ({}) into one folder per class, or write a manifest.csv with columns image,label", EXTENSIONS.join(", "));
        return Err(DataError::one(Finding::new(Reason::DataUnreadable, what, vec![], remedy)));
    }
    seen.notes.push("folders name no patients: if a patient has several images, write a manifest with a patient column".into());
    let place = |split: &str| splits.iter().find(|(s, ..)| *s == split).map(|(_, name, _)| format!("file://{}/{name}", root.display()));
    seen.snippet = match (place("train"), place("test")) {
        (Some(train), Some(test)) => {
            let validation = place("validation").map_or(String::new(), |uri| format!("  validation:\n    uri: {uri}\n"));
            Some(format!("data:\n  train:\n    uri: {train}\n{validation}  test:\n    uri: {test}\n"))
        }
        _ => {
            seen.notes.push("there is no test set: set some patients aside, by patient, and name them in spec.data.test".into());
            None
        }
    };
    Ok(seen)
}

/// A table with its header, from a file that may be gzipped.
pub(crate) fn read_table(path: &Path) -> Result<(Vec<String>, Vec<csv::StringRecord>), DataError> {
    let file = fs::File::open(path).map_err(|error| unreadable(path, error))?;
    let gzipped = path.extension().is_some_and(|e| e == "gz");
    let text: Box<dyn Read> = if gzipped { Box::new(flate2::read::GzDecoder::new(file)) } else { Box::new(file) };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.take(TABLE_LIMIT));
    let header = reader.headers().map_err(|error| unreadable(path, error))?.iter().map(|name| name.trim().to_owned()).collect();
    let rows = reader.records().collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(path, error))?;
    Ok((header, rows))
}

fn table(path: &Path, root: &Path) -> Result<Inspection, DataError> {
    let (header, rows) = read_table(path)?;
    let column = |names: &[&str]| names.iter().find_map(|name| header.iter().position(|column| column.eq_ignore_ascii_case(name)));
    if let (Some(image), Some(labels), Some(patient)) = (column(&["Image Index"]), column(&["Finding Labels"]), column(&["Patient ID"])) {
        return Ok(chest_xray14(&rows, image, labels, patient));
    }
    if let (Some(image), Some(first)) = (column(&["Path"]), column(&["No Finding"])) {
        return Ok(chexpert(&header, &rows, image, first));
    }
    let image = column(&["image", "input", "path", "file", "filename", "image_path"]);
    let label = column(&["label", "class", "diagnosis", "target", "condition"]);
    let (Some(image), Some(label)) = (image, label) else {
        let what = format!("{}:1: no column of images and labels among {}", path.display(), header.join(", "));
        return Err(DataError::one(Finding::new(Reason::ColumnNotFound, what, vec![], "name the columns image and label, or set spec.data.columns")));
    };
    let (split, patient) = (column(&["split", "set", "fold", "partition"]), column(&["patient", "patient_id", "patientid", "subject", "subject_id"]));
    let mut seen = Inspection::new(Layout::Manifest);
    seen.images = rows.len();
    for row in &rows {
        seen.count(row.get(label).unwrap_or_default(), split.and_then(|split| row.get(split)).unwrap_or("all"));
    }
    seen.patients = patient.map(|patient| rows.iter().filter_map(|row| row.get(patient)).collect::<BTreeSet<_>>().len());
    if patient.is_none() {
        seen.notes.push("no column names the patient: if a patient has several images, add one".into());
    }
    let absent = rows.iter().filter(|row| row.get(image).is_none_or(|name| !root.join(name).is_file())).count();
    if absent > 0 {
        seen.notes.push(format!("{absent} of {} images are not there", rows.len()));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    seen.snippet = split.map(|split| {
        let patient = patient.map_or(String::new(), |patient| format!("    patient: {}\n", header[patient]));
        format!(
            "data:\n  train:\n    uri: file://{}\n    manifest: {name}\n  columns:\n    input: {}\n    label: {}\n{patient}    split: {}\n",
            root.display(),
            header[image],
            header[label],
            header[split]
        )
    });
    Ok(seen)
}

/// Labels as `A|B`. The table names patients, so what a random split of images would leak can be said at once.
fn chest_xray14(rows: &[csv::StringRecord], image: usize, labels: usize, patient: usize) -> Inspection {
    let mut seen = Inspection::new(Layout::ChestXray14);
    seen.images = rows.iter().filter_map(|row| row.get(image)).collect::<BTreeSet<_>>().len();
    for row in rows {
        for label in row.get(labels).unwrap_or_default().split('|') {
            seen.count(label.trim(), "all");
        }
    }
    let patients: Vec<&str> = rows.iter().filter_map(|row| row.get(patient)).collect();
    seen.patients = Some(patients.iter().collect::<BTreeSet<_>>().len());
    let shared = random_split_leak(&patients);
    seen.notes.push(format!(
        "a random 80/20 split of images would put {:.1} % of the test images' patients into training as well: split by patient, or use the official lists",
        100.0 * shared
    ));
    seen.notes.push("images have several labels (A|B): `graft data manifest` writes what a task of type multiLabel reads".into());
    seen
}

/// The share of test images whose patient also has an image in training, on average over random 80/20 splits of images:
/// a patient's image in the test set is alone there with probability 0.2 to the power of the patient's other images.
fn random_split_leak(patients: &[&str]) -> f64 {
    let mut images: HashMap<&str, i32> = HashMap::new();
    for patient in patients {
        *images.entry(patient).or_default() += 1;
    }
    let shared: f64 = patients.iter().map(|patient| 1.0 - 0.2f64.powi(images[patient] - 1)).sum();
    shared / patients.len().max(1) as f64
}

/// One column per finding: 1 present, 0 absent, −1 uncertain, blank not mentioned (Irvin et al., AAAI 2019).
fn chexpert(header: &[String], rows: &[csv::StringRecord], image: usize, first: usize) -> Inspection {
    let mut seen = Inspection::new(Layout::CheXpert);
    seen.images = rows.len();
    for row in rows {
        for (column, name) in header.iter().enumerate().skip(first) {
            let value = match row.get(column).unwrap_or_default().trim().parse::<f64>() {
                Ok(value) if value > 0.5 => "positive",
                Ok(value) if value < -0.5 => "uncertain",
                Ok(_) => "negative",
                Err(_) => "blank",
            };
            seen.count(name, value);
        }
    }
    let patient =
        |row: &csv::StringRecord| row.get(image).and_then(|path| path.split('/').find(|part| part.starts_with("patient")).map(str::to_owned));
    seen.patients = Some(rows.iter().filter_map(patient).collect::<BTreeSet<_>>().len());
    seen.notes.push("patients are in the paths (patientNNNNN/studyN), which `graft data manifest` makes a column of".into());
    seen.notes.push("a column for each finding: `graft data manifest` writes what a task of type multiLabel reads; -1 and blank are unknown".into());
    seen
}

/// A line of COVID-CT's lists.
pub(crate) struct Listed {
    pub(crate) class: &'static str,
    pub(crate) split: &'static str,
    /// The image relative to the root, if there is one.
    pub(crate) file: Option<String>,
}

/// The lists escape what the files do not, and the other way round: names differ by % and _.
pub(crate) fn covid_ct_lists(root: &Path) -> Result<Vec<Listed>, DataError> {
    let plain = |name: &str| name.trim().replace(['%', '_'], "").to_lowercase();
    let mut listed = Vec::new();
    for (class, lists, images) in [("covid", "COVID", "CT_COVID"), ("noncovid", "NonCOVID", "CT_NonCOVID")] {
        let folder = root.join("Images-processed").join(images);
        let entries = list(&folder).map_err(|error| unreadable(&folder, error))?;
        let files: BTreeMap<String, &String> = entries.keys().map(|name| (plain(name), name)).collect();
        for (split, prefix) in [("train", "train"), ("validation", "val"), ("test", "test")] {
            let path = root.join("Data-split").join(lists).join(format!("{prefix}CT_{lists}.txt"));
            let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            listed.extend(text.lines().filter(|line| !line.trim().is_empty()).map(|name| Listed {
                class,
                split,
                file: files.get(&plain(name)).map(|file| format!("Images-processed/{images}/{file}")),
            }));
        }
    }
    Ok(listed)
}

fn covid_ct(root: &Path) -> Result<Inspection, DataError> {
    let mut seen = Inspection::new(Layout::CovidCt);
    let mut absent = 0;
    for entry in covid_ct_lists(root)? {
        seen.count(entry.class, entry.split);
        seen.images += 1;
        absent += usize::from(entry.file.is_none());
    }
    if absent > 0 {
        seen.notes.push(format!("{absent} names of the lists have no file"));
    }
    seen.notes
        .push("names differ from files by % and _: `graft data manifest` writes a manifest from the lists; add the patients from their table".into());
    Ok(seen)
}

fn nn_unet(root: &Path) -> Result<Inspection, DataError> {
    let mut seen = Inspection::new(Layout::NnUnet);
    let names = |folder: &str| -> BTreeSet<String> {
        let stem = |name: &String| name.trim_end_matches(".gz").trim_end_matches(".nii").to_owned();
        list(&root.join(folder)).map(|entries| entries.keys().filter(|name| name.contains(".nii")).map(stem).collect()).unwrap_or_default()
    };
    let (images, labels, test) = (names("imagesTr"), names("labelsTr"), names("imagesTs"));
    // Images end in their channel, as _0000; labels do not.
    let case = |name: &String| name.rsplit_once('_').filter(|(_, channel)| channel.len() == 4).map_or(name.clone(), |(case, _)| case.to_owned());
    let cases: BTreeSet<String> = images.iter().map(case).collect();
    seen.images = images.len() + test.len();
    seen.counts.insert(
        "volumes".into(),
        BTreeMap::from([("train".into(), cases.len()), ("test".into(), test.iter().map(case).collect::<BTreeSet<_>>().len())]),
    );
    let unpaired = cases.symmetric_difference(&labels).count();
    if unpaired > 0 {
        seen.notes.push(format!("{unpaired} files of imagesTr and labelsTr have no partner"));
    }
    seen.notes.push("segmentation of volumes: no job can use it yet".into());
    Ok(seen)
}

fn voc(root: &Path) -> Result<Inspection, DataError> {
    let mut seen = Inspection::new(Layout::Voc);
    let stems: BTreeSet<String> = list(&root.join("JPEGImages"))
        .map_err(|error| unreadable(root, error))?
        .keys()
        .map(|name| name.rsplit_once('.').map_or(name.clone(), |(stem, _)| stem.to_owned()))
        .collect();
    seen.images = stems.len();
    let mut of: HashMap<String, &str> = HashMap::new();
    let mut twice = 0;
    for (split, file) in [("train", "train"), ("validation", "val"), ("test", "test")] {
        let text = fs::read_to_string(root.join("ImageSets/Main").join(format!("{file}.txt"))).unwrap_or_default();
        for stem in text.lines().filter_map(|line| line.split_whitespace().next()) {
            twice += usize::from(of.insert(stem.to_owned(), split).is_some());
        }
    }
    for stem in &stems {
        let path = root.join("Annotations").join(format!("{stem}.xml"));
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let split = of.get(stem).copied().unwrap_or("unlisted");
        for object in text.split("<object>").skip(1) {
            if let Some((name, _)) = object.split_once("<name>").and_then(|(_, rest)| rest.split_once("</name>")) {
                seen.count(name.trim(), split);
            }
        }
    }
    if twice > 0 {
        seen.notes.push(format!("{twice} images are in two of the lists"));
    }
    let absent = of.keys().filter(|stem| !stems.contains(*stem)).count();
    if absent > 0 {
        seen.notes.push(format!("{absent} names of the lists have no image"));
    }
    seen.notes.push("counts are of boxes; detection: no job can use it yet".into());
    Ok(seen)
}
