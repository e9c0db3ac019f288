//! Tables of images and labels, of studies, and of readers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::measurements::measurements;
use super::{Inspection, Layout, masks, nodules, sizes, unreadable};
use crate::error::{DataError, Finding, Reason};
use crate::manifest::{SignalColumns, signal_columns};
use crate::source::files_of;
use crate::table::text as table_text;

/// How columns of a table without a header are called, before their number.
const NUMBERED: &str = "column ";
/// Columns that name images.
const IMAGE: [&str; 6] = ["image", "input", "path", "file", "filename", "image_path"];
/// Columns that say what is seen.
pub(crate) const LABEL: [&str; 5] = ["label", "class", "diagnosis", "target", "condition"];
/// Columns that say whose it is.
pub(crate) const PATIENT: [&str; 5] = ["patient", "patient_id", "patientid", "subject", "subject_id"];

/// The first of these names that is a column, whatever its case.
pub(crate) fn column(header: &[String], names: &[&str]) -> Option<usize> {
    names.iter().find_map(|name| header.iter().position(|column| column.eq_ignore_ascii_case(name)))
}

/// A table with its header, from a file that may be gzipped, or of Parquet. LIDC's table of nodules, which has no header, gets one.
pub(crate) fn read_table(path: &Path) -> Result<(Vec<String>, Vec<csv::StringRecord>), DataError> {
    let text = table_text(path).map_err(|error| unreadable(path, error))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_slice());
    let header = reader.headers().map_err(|error| unreadable(path, error))?.clone();
    let rows = reader.records().collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(path, error))?;
    if nodules::recognised(&header) {
        return Ok(nodules::with_header(std::iter::once(header).chain(rows)));
    }
    if is_row(&header) {
        let numbered = (1..=header.len()).map(|number| format!("{NUMBERED}{number}")).collect();
        return Ok((numbered, std::iter::once(header).chain(rows).collect()));
    }
    Ok((header.iter().map(|name| name.trim().to_owned()).collect(), rows))
}

/// Whether the first line of a table is a row of numbers and no header.
fn is_row(line: &csv::StringRecord) -> bool {
    line.len() > 1 && line.iter().all(|field| field.trim().parse::<f64>().is_ok())
}

/// The files that a table names in the column of images; none where it has no such column.
#[must_use]
pub fn images_of(path: &Path) -> BTreeSet<String> {
    let Ok((header, rows)) = read_table(path) else { return BTreeSet::new() };
    let image = column(&header, &IMAGE).or_else(|| column(&header, &["Image Index"]));
    image.map_or_else(BTreeSet::new, |image| files_of(rows.iter().map(|row| row.get(image).unwrap_or_default())))
}

pub(super) fn table(path: &Path, root: &Path) -> Result<Inspection, DataError> {
    let (header, rows) = read_table(path)?;
    let column = |names: &[&str]| column(&header, names);
    if let Some(columns) = chest_xray14_columns(&header) {
        return Ok(chest_xray14(&rows, columns, |_| "all"));
    }
    if let Some(columns) = chexpert_columns(&header) {
        return Ok(chexpert(&header, &rows, columns));
    }
    if let Some([patient, visit, label]) = adni_columns(&header) {
        return Ok(adni(&rows, patient, visit, label));
    }
    if let Some(columns) = malignancy_columns(&header) {
        return Ok(if nodules::named(&header) { nodules::nodules(&rows) } else { malignancy(&rows, columns) });
    }
    if let Some(columns) = signal_columns(&header, &rows) {
        return Ok(recordings(&rows, &columns, root));
    }
    let image = column(&IMAGE);
    let label = column(&LABEL);
    if image.is_none()
        && let Some(label) = label.or_else(|| column(&["status", "outcome", "chd"]))
    {
        return Ok(measurements(&header, &rows, label));
    }
    if header.first().is_some_and(|name| name.starts_with(NUMBERED)) {
        let mut seen = measurements(&header, &rows, header.len() - 1);
        seen.notes.insert(0, "there is no header: columns are numbered, and the last is taken for the label".into());
        return Ok(seen);
    }
    let (Some(image), Some(label)) = (image, label) else {
        let what = format!("{}:1: no column of images and labels among {}", path.display(), header.join(", "));
        return Err(DataError::one(Finding::new(Reason::ColumnNotFound, what, vec![], "name the columns image and label, or set spec.data.columns")));
    };
    let (split, patient) = (column(&["split", "set", "fold", "partition"]), column(&PATIENT));
    if masks::are_files(rows.iter().map(|row| row.get(label).unwrap_or_default().trim())) {
        return Ok(masks::table(root, &rows, &header, [image, label], split));
    }
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
    let files: Vec<PathBuf> = files_of(rows.iter().map(|row| row.get(image).unwrap_or_default())).iter().map(|name| root.join(name)).collect();
    seen.notes.extend(sizes::of_files(files.iter().filter(|path| path.is_file())));
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

/// Image, findings and patient of ChestX-ray14's table.
pub(super) fn chest_xray14_columns(header: &[String]) -> Option<[usize; 3]> {
    Some([column(header, &["Image Index"])?, column(header, &["Finding Labels"])?, column(header, &["Patient ID"])?])
}

/// Labels as `A|B`. The table names patients, so what a random split of images would leak can be said at once. `split` says where an image is.
pub(super) fn chest_xray14<'a>(
    rows: &'a [csv::StringRecord],
    [image, labels, patient]: [usize; 3],
    split: impl Fn(&'a str) -> &'static str,
) -> Inspection {
    let mut seen = Inspection::new(Layout::ChestXray14);
    seen.images = rows.iter().filter_map(|row| row.get(image)).collect::<BTreeSet<_>>().len();
    for row in rows {
        let split = split(row.get(image).unwrap_or_default().trim());
        for label in row.get(labels).unwrap_or_default().split('|') {
            seen.count(label.trim(), split);
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

/// The path of CheXpert's images and the first of its findings.
pub(super) fn chexpert_columns(header: &[String]) -> Option<[usize; 2]> {
    Some([column(header, &["Path"])?, column(header, &["No Finding"])?])
}

/// What a value says of a finding: 1 present, 0 absent, −1 uncertain, blank not mentioned (Irvin et al., AAAI 2019).
pub(super) fn chexpert_value(value: &str) -> &'static str {
    match value.trim().parse::<f64>() {
        Ok(value) if value > 0.5 => "positive",
        Ok(value) if value < -0.5 => "uncertain",
        Ok(_) => "negative",
        Err(_) => "blank",
    }
}

/// The patient in a path of CheXpert's, `patient00001`.
pub(super) fn patient_in(path: &str) -> Option<&str> {
    path.split('/').find(|part| part.starts_with("patient"))
}

/// One table, with a column for each finding.
fn chexpert(header: &[String], rows: &[csv::StringRecord], [image, first]: [usize; 2]) -> Inspection {
    let mut seen = Inspection::new(Layout::CheXpert);
    seen.images = rows.len();
    for row in rows {
        for (column, name) in header.iter().enumerate().skip(first) {
            seen.count(name, chexpert_value(row.get(column).unwrap_or_default()));
        }
    }
    seen.patients = Some(rows.iter().filter_map(|row| patient_in(row.get(image)?)).collect::<BTreeSet<_>>().len());
    seen.notes.push("patients are in the paths (patientNNNNN/studyN), which `graft data manifest` makes a column of".into());
    seen.notes.push("a column for each finding: `graft data manifest` writes what a task of type multiLabel reads; -1 and blank are unknown".into());
    seen
}

/// RID, VISCODE and DX of ADNI's merged table, where DX is the diagnosis at the visit; at the first one if there is no other.
pub(super) fn adni_columns(header: &[String]) -> Option<[usize; 3]> {
    let column = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
    Some([column("RID")?, column("VISCODE")?, column("DX").or_else(|| column("DX_bl"))?])
}

/// A row for each visit; the diagnosis of a patient may change.
fn adni(rows: &[csv::StringRecord], patient: usize, visit: usize, label: usize) -> Inspection {
    let mut seen = Inspection::new(Layout::Adni);
    seen.images = rows.len();
    let mut visits: HashMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = HashMap::new();
    for row in rows {
        let at = |index: usize| row.get(index).unwrap_or_default().trim();
        seen.count(if at(label).is_empty() { "no diagnosis" } else { at(label) }, "all");
        let own = visits.entry(at(patient)).or_default();
        own.0.insert(at(visit));
        own.1.extend(Some(at(label)).filter(|label| !label.is_empty()));
    }
    seen.patients = Some(visits.len());
    let several = visits.values().filter(|(visits, _)| visits.len() > 1).count();
    let change = visits.values().filter(|(_, labels)| labels.len() > 1).count();
    seen.notes.push(format!("{several} of {} patients (RID) have several visits: split by RID, never by row", visits.len()));
    seen.notes.push(format!("{change} patients have more than one diagnosis over time: the label belongs to the visit"));
    seen.notes.push("`graft data manifest` of the folder finds the scans by PTID and the date in their paths".into());
    seen
}

/// Image, patient and malignancy of a table as derived from LIDC's readings.
pub(crate) fn malignancy_columns(header: &[String]) -> Option<[usize; 3]> {
    let column = |names: &[&str]| column(header, names);
    Some([column(&["image", "original_image", "nodule", "nodule_id"])?, column(&["patient_id", "patient"])?, column(&["malignancy"])?])
}

/// A row for each recording of a signal.
fn recordings(rows: &[csv::StringRecord], columns: &SignalColumns, root: &Path) -> Inspection {
    let mut seen = Inspection::new(Layout::Signals);
    seen.images = rows.len();
    rows.iter().for_each(|row| seen.count(row.get(columns.label).unwrap_or_default().trim(), "all"));
    seen.patients = columns.patient.map(|patient| rows.iter().filter_map(|row| row.get(patient)).collect::<BTreeSet<_>>().len());
    let absent = rows.iter().filter(|row| row.get(columns.file).is_none_or(|name| !root.join(name.trim()).is_file())).count();
    if absent > 0 {
        seen.notes.push(format!("{absent} of {} recordings are not there", rows.len()));
    }
    seen.notes.push("`graft data manifest` of the folder writes the spectrogram of each window as an image".into());
    seen
}

/// Ratings from 1 to 5, a row for each reading; above 3 is malignant, 3 is neither.
fn malignancy(rows: &[csv::StringRecord], [image, patient, rating]: [usize; 3]) -> Inspection {
    let mut seen = Inspection::new(Layout::Malignancy);
    let mut ratings: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for row in rows {
        let own = ratings.entry(row.get(image).unwrap_or_default()).or_default();
        own.extend(row.get(rating).and_then(|value| value.trim().parse::<f64>().ok()));
    }
    seen.images = ratings.len();
    seen.patients = Some(rows.iter().filter_map(|row| row.get(patient)).collect::<BTreeSet<_>>().len());
    let disagree = ratings.values().filter(|own| own.iter().any(|rating| *rating != own[0])).count();
    for own in ratings.values_mut() {
        own.sort_by(f64::total_cmp);
        seen.count(malignant(own), "all");
    }
    let several = ratings.values().filter(|own| own.len() > 1).count();
    seen.notes.push(format!("{several} images are rated more than once, {disagree} of them differently: the median counts"));
    seen.notes.push("`graft data manifest` of the folder writes the median and a column disagreement".into());
    seen
}

/// What the median of sorted ratings says.
pub(crate) fn malignant(sorted: &[f64]) -> &'static str {
    match median(sorted) {
        Some(median) if median > 3.0 => "malignant",
        Some(median) if median < 3.0 => "benign",
        Some(_) => "indeterminate",
        None => "not rated",
    }
}

/// The middle of sorted numbers, or half way between the two in the middle.
pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    let high = sorted.get(sorted.len() / 2)?;
    let low = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some((low + high) / 2.0)
}
