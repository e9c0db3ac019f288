//! Reads one source, class folders or a manifest, into records. It assumes nothing about the files it lists and
//! never opens an image; everything that is wrong becomes a finding, and reading goes on where it can.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graft_crds::spec::{DataColumns, DataSet};

use crate::error::{Finding, Reason, nearest};
use crate::labels::{Known, LabelColumns, Labels, Told};
use crate::problems::Problems;
use crate::{dicom, nifti, parallel, phi, table};

/// Extensions of image files in class folders, in lower case.
pub const EXTENSIONS: &[&str] = &["png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "dcm", "dicom", "nii", "nii.gz"];

/// Class folders deeper than this are taken for a loop of links.
pub(crate) const DEPTH_LIMIT: usize = 16;

/// So many rows of a manifest are understood in one go.
const BATCH: usize = 4096;

/// In so many rows of a manifest values are looked at for personal data.
const LOOKED_AT: usize = 200;

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The manifest's or the root folder's path.
    pub(crate) file: Arc<str>,
    /// Line in the manifest, from 1; none in class folders.
    pub(crate) row: Option<u64>,
}

/// One labelled image as the source names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: PathBuf,
    /// One of the file's frames or slices, from 0.
    pub(crate) slice: Option<u32>,
    pub(crate) key: String,
    /// The class, or what is known of the findings as [`crate::labels::told`] writes it.
    pub(crate) label: String,
    /// What is known of each finding of a multi-label task; empty otherwise.
    pub(crate) findings: Vec<Option<bool>>,
    pub(crate) patient: Option<String>,
    pub(crate) split: Option<String>,
    pub(crate) place: Place,
}

impl Record {
    /// `file:row`, or the image's path in class folders.
    pub(crate) fn place(&self) -> String {
        match self.place.row {
            Some(row) => format!("{}:{row}", self.place.file),
            None => self.path.display().to_string(),
        }
    }
}

/// The path that a `file:///absolute/path` names. The text after the scheme is taken as it is, without percent-decoding.
#[must_use]
pub fn local_path(uri: &str) -> &Path {
    Path::new(uri.strip_prefix("file://").unwrap_or(uri))
}

/// The file that `key` names in the folder `root`, and which of its frames or slices: `scan.nii.gz#40` is slice 40, unless there
/// is a file of that very name.
#[must_use]
pub fn locate(root: &Path, key: &str) -> (PathBuf, Option<u32>) {
    let mut whole = PathBuf::with_capacity(root.as_os_str().len() + 1 + key.len());
    whole.push(root);
    whole.push(key);
    match sliced(key) {
        Some((file, slice)) if !whole.exists() => (root.join(file), Some(slice)),
        _ => (whole, None),
    }
}

/// The file and the number in `FILE#4`, as the fifth frame or slice of a file is written; none where it is not.
#[must_use]
pub fn sliced(key: &str) -> Option<(&str, u32)> {
    let (file, slice) = key.rsplit_once('#')?;
    Some((file, slice.parse().ok()?))
}

/// Whether a file is an image by its name; one without an extension, as an archive names them, if it begins as DICOM.
pub(crate) fn is_image(path: &Path) -> bool {
    by_name(&path.file_name().unwrap_or_default().to_string_lossy()).unwrap_or_else(|| is_dicom(path))
}

/// What the extension of a file's name says; none where it has none.
fn by_name(name: &str) -> Option<bool> {
    let name = name.to_lowercase();
    name.rsplit_once('.').map(|(_, extension)| if extension == "gz" { nifti::named(&name) } else { EXTENSIONS.contains(&extension) })
}

/// Whether a path can be an image's, by its name alone.
#[must_use]
pub fn named_as_image(key: &str) -> bool {
    by_name(key.rsplit('/').next().unwrap_or(key)).unwrap_or(true)
}

/// The files that column `input` of a manifest names, as it names them and without the numbers of slices; none where there is no such
/// column or the manifest cannot be read, which [`crate::Dataset::load`] tells.
#[must_use]
pub fn named(manifest: &Path, input: &str) -> BTreeSet<String> {
    let Ok(text) = table::text(manifest) else { return BTreeSet::new() };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_slice());
    let column = reader.headers().ok().and_then(|header| header.iter().position(|name| name.trim() == input));
    let Some(column) = column else { return BTreeSet::new() };
    let rows: Vec<csv::StringRecord> = reader.into_records().map_while(Result::ok).collect();
    files_of(rows.iter().map(|row| row.get(column).unwrap_or_default()))
}

/// The files that these values of a manifest's column name, as they name them and without the numbers of slices.
pub(crate) fn files_of<'a>(values: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for name in values.map(str::trim) {
        names.extend(sliced(name).map(|(file, _)| file.to_owned()));
        names.insert(name.to_owned());
    }
    names
}

/// Whether a file begins as DICOM.
pub(crate) fn is_dicom(path: &Path) -> bool {
    let mut beginning = [0; dicom::MAGIC_END];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut beginning)).is_ok() && dicom::recognised(&beginning)
}

/// Reads `set`. `field` is where the set stands in the spec, for messages. Whether the columns `patient` and `split`
/// are looked for depends on `columns` naming them.
pub(crate) fn read(set: &DataSet, columns: &DataColumns, labels: Labels<'_>, field: &str, findings: &mut Vec<Finding>) -> Vec<Record> {
    let root = local_path(&set.uri);
    if !root.is_dir() {
        let what = if root.exists() { "is not a folder" } else { "does not exist" };
        findings.push(Finding::new(
            Reason::DataNotFound,
            format!("{field}.uri: {} {what}", root.display()),
            vec![],
            "check the path and that the volume is mounted there",
        ));
        return Vec::new();
    }
    match (&set.manifest, labels) {
        (Some(manifest), _) => read_manifest(root, &root.join(manifest), (columns, labels), field, findings),
        (None, Labels::Class) => read_folders(root, field, findings),
        (None, Labels::Findings(_) | Labels::Number) => {
            let what = format!("{field}.manifest is missing: this task needs a manifest, a class folder gives each image a class");
            findings.push(Finding::new(Reason::DataNotFound, what, vec![], format!("name a CSV or Parquet file of {} there", root.display())));
            Vec::new()
        }
    }
}

pub(crate) fn unreadable(path: &Path, error: impl std::fmt::Display) -> Finding {
    Finding::new(Reason::DataUnreadable, format!("{} cannot be read: {error}", path.display()), vec![], "check the file and its permissions")
}

fn read_manifest(root: &Path, path: &Path, (columns, labels): (&DataColumns, Labels<'_>), field: &str, findings: &mut Vec<Finding>) -> Vec<Record> {
    if !path.is_file() {
        let remedy = "give the manifest's path relative to the folder";
        findings.push(Finding::new(Reason::DataNotFound, format!("{field}.manifest: {} does not exist", path.display()), vec![], remedy));
        return Vec::new();
    }
    let text = match table::text(path) {
        Ok(text) => text,
        Err(error) => {
            findings.push(unreadable(path, error));
            return Vec::new();
        }
    };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_slice());
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(error) => {
            findings.push(unreadable(path, error));
            return Vec::new();
        }
    };
    if let Some(finding) = personal_columns(&header, columns, path) {
        findings.push(finding);
    }
    let Some(index) = Index::find(&header, columns, labels, path, findings) else { return Vec::new() };
    let file: Arc<str> = path.display().to_string().into();
    let mut problems = Problems::default();
    let mut records = Vec::with_capacity(memchr::memchr_iter(b'\n', &text).count());
    let mut lines = Lines { text: &text, at: 0, line: 1 };
    let mut rows = vec![(csv::StringRecord::new(), None); BATCH * parallel::processors()];
    let (mut more, mut first) = (true, true);
    while more {
        let mut filled = 0;
        for (row, line) in &mut rows {
            more = reader.read_record(row).unwrap_or_else(|error| {
                findings.push(unreadable(path, error));
                false
            });
            if !more {
                break;
            }
            *line = row.position().map(|position| lines.of(position.byte()));
            filled += 1;
        }
        if std::mem::take(&mut first) {
            findings.extend(personal_values(&header, columns, path, &rows[..filled.min(LOOKED_AT)]));
        }
        let batches: Vec<&[(csv::StringRecord, Option<u64>)]> = rows[..filled].chunks(BATCH).collect();
        let understood = |batch: usize| index.records(root, &file, header.len(), batches[batch]);
        for (understood, mut lacking) in parallel::map(batches.len(), parallel::processors(), understood) {
            records.extend(understood);
            problems.append(&mut lacking);
        }
    }
    problems.report((columns, labels), header.len(), findings);
    records
}

/// Columns whose names say that they hold what identifies a person; the patient column is allowed to, and never shown.
fn personal_columns(header: &csv::StringRecord, columns: &DataColumns, path: &Path) -> Option<Finding> {
    let others = header.iter().map(str::trim).filter(|name| Some(*name) != columns.patient.as_deref());
    let found = others.filter_map(|name| Some(format!("{name:?} looks like {}", phi::column(name)?.name()))).collect();
    personal(&format!("{}:1", path.display()), found)
}

/// Columns in which a value of these rows looks like it identifies a person, whatever they are called; each with the first such row, and
/// without the value. The paths of images are all looked at elsewhere.
fn personal_values(header: &csv::StringRecord, columns: &DataColumns, path: &Path, rows: &[(csv::StringRecord, Option<u64>)]) -> Option<Finding> {
    let others = header.iter().map(str::trim).enumerate().filter(|(_, name)| *name != columns.input && Some(*name) != columns.patient.as_deref());
    let looks = |(index, name): (usize, &str)| {
        let of = |(row, line): &(csv::StringRecord, Option<u64>)| Some((phi::value(name, row.get(index)?.trim())?, line.unwrap_or(0)));
        let (kind, line) = rows.iter().find_map(of)?;
        Some(format!("{name:?} looks like {} in row {line}", kind.name()))
    };
    personal(&path.display().to_string(), others.filter(|(_, name)| phi::column(name).is_none()).filter_map(looks).collect())
}

fn personal(place: &str, found: Vec<String>) -> Option<Finding> {
    let what = format!("{place}: {} columns of the manifest would bring personal data along", found.len());
    (!found.is_empty())
        .then(|| Finding::new(Reason::PersonalData, what, found, "remove the columns; spec.data.allowPersonalData gives a reason to keep them"))
}

/// Counts lines as an editor does. The reader's own count lags behind at `\r\n` and at blank lines, because a record's
/// position is where the previous one ended.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of the record whose position is `byte`. Positions must not go backwards.
    fn of(&mut self, byte: u64) -> u64 {
        let byte = usize::try_from(byte).unwrap_or(usize::MAX).min(self.text.len());
        if let Some(passed) = self.text.get(self.at..byte) {
            let feeds = passed.iter().filter(|letter| **letter == b'\n').count();
            let lone = |(index, letter): &(usize, &u8)| **letter == b'\r' && self.text.get(self.at + index + 1) != Some(&b'\n');
            let returns = if passed.contains(&b'\r') { passed.iter().enumerate().filter(lone).count() } else { 0 };
            self.line += (feeds + returns) as u64;
            self.at = byte;
        }
        while let Some(&letter @ (b'\r' | b'\n')) = self.text.get(self.at) {
            let ends = letter == b'\n' || self.text.get(self.at + 1) != Some(&b'\n');
            self.line += u64::from(ends);
            self.at += 1;
        }
        self.line
    }
}

/// Whether a path of a manifest stays in the manifest's folder: relative, or absolute and below it, and without `..`.
pub(crate) fn inside(root: &Path, key: &str) -> bool {
    let path = Path::new(key);
    if !key.starts_with('/') && !key.contains("..") {
        return true;
    }
    (path.is_relative() || path.starts_with(root)) && !path.components().any(|part| part == std::path::Component::ParentDir)
}

/// Positions of the columns in the manifest.
struct Index<'a> {
    input: usize,
    label: LabelColumns<'a>,
    patient: Option<usize>,
    split: Option<usize>,
}

impl<'a> Index<'a> {
    fn find(header: &csv::StringRecord, columns: &DataColumns, labels: Labels<'a>, path: &Path, findings: &mut Vec<Finding>) -> Option<Self> {
        let names: Vec<&str> = header.iter().map(str::trim).collect();
        let mut missing = false;
        let mut find = |field: &str, wanted: &str| {
            let found: Vec<usize> = names.iter().enumerate().filter(|(_, name)| **name == wanted).map(|(i, _)| i).collect();
            if found.len() != 1 {
                missing = true;
                findings.push(column_finding(field, wanted, &names, found.len(), path));
            }
            found.first().copied()
        };
        let input = find("input", &columns.input);
        let label = match labels {
            Labels::Class => find("label", &columns.label).map(LabelColumns::Class),
            Labels::Number => find("label", &columns.label).map(LabelColumns::Number),
            Labels::Findings(classes) if names.contains(&columns.label.as_str()) => {
                find("label", &columns.label).map(|index| LabelColumns::List(index, Known::new(classes)))
            }
            Labels::Findings(classes) => LabelColumns::each(&names, classes),
        };
        let patient = columns.patient.as_deref().map(|name| find("patient", name));
        let split = columns.split.as_deref().map(|name| find("split", name));
        if let (Labels::Findings(classes), None) = (labels, &label) {
            findings.push(no_findings(columns, &names, classes, path));
        }
        if missing {
            return None;
        }
        Some(Self { input: input?, label: label?, patient: patient.flatten(), split: split.flatten() })
    }

    /// The records of these rows with their lines, and what is wrong with the others.
    fn records(&self, root: &Path, file: &Arc<str>, width: usize, rows: &[(csv::StringRecord, Option<u64>)]) -> (Vec<Record>, Problems) {
        let mut problems = Problems::default();
        let mut records = Vec::with_capacity(rows.len());
        for (row, line) in rows {
            if row.len() == width {
                records.extend(self.record(root, row, Place { file: file.clone(), row: *line }, &mut problems));
            } else {
                problems.ragged.push(format!("{file}:{} ({} fields)", line.unwrap_or(0), row.len()));
            }
        }
        (records, problems)
    }

    fn record(&self, root: &Path, row: &csv::StringRecord, place: Place, problems: &mut Problems) -> Option<Record> {
        let at = |index: usize| row.get(index).unwrap_or_default().trim().to_owned();
        let shown = || format!("{}:{}", place.file, place.row.unwrap_or(0));
        let (key, patient) = (at(self.input), self.patient.map(at));
        let (label, findings) = match self.label.told(row) {
            Told::Class(label) => (label, Vec::new()),
            Told::Findings(label, findings) => (label, findings),
            Told::Nothing => (String::new(), Vec::new()),
            Told::Odd(value) => {
                problems.odd_label.push(format!("{} ({value})", shown()));
                return None;
            }
        };
        let mut whole = true;
        let mut need = |present: bool, problem: &mut Vec<String>| {
            if !present {
                whole = false;
                problem.push(shown());
            }
        };
        need(!key.is_empty(), &mut problems.no_input);
        need(!label.is_empty() || !findings.is_empty(), &mut problems.no_label);
        need(patient.as_deref() != Some(""), &mut problems.no_patient);
        need(inside(root, &key), &mut problems.outside);
        whole.then(|| {
            let (path, slice) = locate(root, &key);
            Record { path, slice, key, label, findings, patient, split: self.split.map(at), place }
        })
    }
}

fn column_finding(field: &str, wanted: &str, names: &[&str], times: usize, path: &Path) -> Finding {
    if times > 1 {
        let what = format!("{}:1: column {wanted:?} (spec.data.columns.{field}) is there {times} times", path.display());
        return Finding::new(Reason::ColumnNotFound, what, vec![], "give each column a name of its own");
    }
    let known = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let known = graft_crds::contract::truncate(&known, 600);
    let what = format!("{}:1: there is no column {wanted:?} (spec.data.columns.{field}); the columns are {known}", path.display());
    let remedy = match (nearest(wanted, names.iter().copied()), names) {
        (_, [only]) if only.contains([';', '\t', '|']) => "the file must be separated by commas".to_owned(),
        (Some(name), _) => format!("did you mean {name:?}? Set spec.data.columns.{field}"),
        (None, _) => format!("set spec.data.columns.{field} to one of them"),
    };
    Finding::new(Reason::ColumnNotFound, what, vec![], remedy)
}

fn no_findings(columns: &DataColumns, names: &[&str], classes: &[String], path: &Path) -> Finding {
    let absent: Vec<String> = classes.iter().filter(|class| !names.contains(&class.as_str())).map(|class| format!("{class:?}")).collect();
    let what = format!(
        "{}:1: there is no column {:?} (spec.data.columns.label) and none for {} of spec.task.classes",
        path.display(),
        columns.label,
        absent.len()
    );
    let remedy = "name the column that lists the findings of an image in spec.data.columns.label, or have a column for each of them";
    Finding::new(Reason::ColumnNotFound, what, absent, remedy)
}

fn read_folders(root: &Path, field: &str, findings: &mut Vec<Finding>) -> Vec<Record> {
    let file: Arc<str> = root.display().to_string().into();
    let mut records = Vec::new();
    let mut empty = Vec::new();
    let classes = match list(root) {
        Ok(entries) => entries,
        Err(error) => {
            findings.push(unreadable(root, error));
            return records;
        }
    };
    for (class, folder) in classes.into_iter().filter(|(_, path)| path.is_dir()) {
        let mut images = BTreeMap::new();
        if let Err((path, error)) = walk(&folder, &class, DEPTH_LIMIT, &mut images) {
            findings.push(unreadable(&path, error));
        }
        if images.is_empty() {
            empty.push(folder.display().to_string());
        }
        records.extend(images.into_iter().map(|(key, path)| Record {
            path,
            slice: None,
            key,
            label: class.clone(),
            findings: Vec::new(),
            patient: None,
            split: None,
            place: Place { file: file.clone(), row: None },
        }));
    }
    if !empty.is_empty() {
        let remedy = format!("add images ({}), remove the folder, or name a manifest in {field}.manifest", EXTENSIONS.join(", "));
        findings.push(Finding::new(Reason::EmptySplit, format!("{} class folders hold no image", empty.len()), empty, remedy));
    }
    records
}

/// Entries of a folder by name, sorted, without hidden ones.
pub(crate) fn list(folder: &Path) -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            entries.insert(name, entry.path());
        }
    }
    Ok(entries)
}

pub(crate) fn walk(folder: &Path, key: &str, depth: usize, images: &mut BTreeMap<String, PathBuf>) -> Result<(), (PathBuf, std::io::Error)> {
    if depth == 0 {
        return Err((folder.to_owned(), std::io::Error::other(format!("folders are nested more than {DEPTH_LIMIT} deep"))));
    }
    for (name, path) in list(folder).map_err(|error| (folder.to_owned(), error))? {
        let key = format!("{key}/{name}");
        if path.is_dir() {
            walk(&path, &key, depth - 1, images)?;
        } else if is_image(&path) {
            images.insert(key, path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &[u8], columns: &DataColumns) -> (Vec<Record>, Vec<Finding>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("m.csv"), text).unwrap();
        let set = DataSet { uri: format!("file://{}", folder.path().display()), manifest: Some("m.csv".into()) };
        let mut findings = Vec::new();
        let records = read(&set, columns, Labels::Class, "spec.data.train", &mut findings);
        (records, findings)
    }

    fn with_patient() -> DataColumns {
        DataColumns { patient: Some("patient".into()), ..DataColumns::default() }
    }

    #[test]
    fn byte_order_mark_line_ends_quotes_and_blank_lines_are_fine() {
        let text = b"\xef\xbb\xbfimage,label,patient\r\n\"a, b.png\",covid,\"p\"\"1\"\r\n\r\nc.png, normal ,p2\r\n";
        let (records, findings) = manifest(text, &with_patient());
        assert_eq!(findings, []);
        let seen: Vec<_> = records.iter().map(|r| (r.key.as_str(), r.label.as_str(), r.patient.as_deref().unwrap(), r.place.row.unwrap())).collect();
        assert_eq!(seen, [("a, b.png", "covid", "p\"1", 2), ("c.png", "normal", "p2", 4)]);
    }

    #[test]
    fn lines_are_counted_as_an_editor_does() {
        let text = b"image,label\r\na.png,x\r\n\r\n\n\"b\nb.png\",x\rc.png,x\n\rd.png,x";
        let (records, findings) = manifest(text, &DataColumns::default());
        assert_eq!(findings, []);
        assert_eq!(records.iter().map(|record| record.place.row.unwrap()).collect::<Vec<_>>(), [2, 5, 7, 9]);
    }

    #[test]
    fn all_rows_that_lack_something_are_named() {
        let (records, findings) =
            manifest(b"image,label,patient\na.png,,p1\n,covid,p2\nc.png,covid,\nd.png,,\ne.png,covid\nf.png,covid,p3\n", &with_patient());
        assert_eq!(records.len(), 1);
        let by_reason = |reason| {
            findings
                .iter()
                .find(|f| f.reason == reason)
                .map(|f| f.places.iter().map(|p| p.rsplit(':').next().unwrap().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(by_reason(Reason::MissingLabel).unwrap(), ["2", "5"]);
        assert_eq!(by_reason(Reason::MissingInput).unwrap(), ["3"]);
        assert_eq!(by_reason(Reason::MissingPatient).unwrap(), ["4", "5"]);
        assert_eq!(by_reason(Reason::DataUnreadable).unwrap(), ["6 (2 fields)"]);
    }

    #[test]
    fn paths_that_lead_out_of_the_folder_are_named() {
        let (records, findings) =
            manifest(b"image,label\na.png,covid\n../b.png,covid\nx/../../c.png,covid\n/etc/hostname,covid\n", &DataColumns::default());
        assert_eq!(records.len(), 1);
        assert_eq!(findings[0].places.iter().map(|p| p.rsplit(':').next().unwrap()).collect::<Vec<_>>(), ["3", "4", "5"]);
        assert!(findings[0].what.contains("out of the manifest's folder"));
    }

    #[test]
    fn a_missing_column_is_named_with_the_known_ones_and_the_nearest() {
        let (_, findings) = manifest(b"image,lable,patient_id\n", &with_patient());
        assert_eq!(findings.len(), 2);
        let text = findings[0].to_string();
        assert!(text.contains("no column \"label\" (spec.data.columns.label); the columns are \"image\", \"lable\", \"patient_id\""), "{text}");
        assert!(text.contains("did you mean \"lable\""), "{text}");
        assert!(findings[1].to_string().contains("did you mean \"patient_id\""));
        let (_, findings) = manifest(b"image;label\n", &DataColumns::default());
        assert!(findings[0].remedy.contains("separated by commas"));
        let (_, findings) = manifest(b"image,label,label\n", &DataColumns::default());
        assert!(findings[0].what.contains("2 times"));
    }

    #[test]
    fn columns_of_personal_data_are_named_unless_they_are_the_patients() {
        let (_, findings) = manifest(b"image,label,MRN,Patient Name,birth_date\na.png,covid,1,x,y\n", &DataColumns::default());
        assert_eq!((findings.len(), findings[0].reason, findings[0].places.len()), (1, Reason::PersonalData, 3), "{findings:?}");
        let columns = DataColumns { patient: Some("MRN".into()), ..DataColumns::default() };
        assert_eq!(manifest(b"image,label,MRN\na.png,covid,1\n", &columns).1, []);
    }

    #[test]
    fn columns_with_values_of_personal_data_are_named_and_the_values_are_not() {
        let columns = DataColumns { patient: Some("subject".into()), ..DataColumns::default() };
        let text = "image,label,subject,note,findings,by\na.png,covid,DOE^JOHN,,\"Effusion, Mass\",x\nb.png,covid,p2,as for DOE^JOHN,,jane@doe.org\nc.png,covid,p3,+49 170 123 4567,,\n";
        let (records, findings) = manifest(text.as_bytes(), &columns);
        assert_eq!((records.len(), findings.len(), findings[0].reason), (3, 1, Reason::PersonalData), "{findings:?}");
        let places = [r#""note" looks like a person's name in row 3"#, r#""by" looks like a telephone number or an e-mail address in row 3"#];
        assert_eq!(findings[0].places, places);
        let said = format!("{findings:?}");
        assert!(!said.contains("DOE") && !said.contains("jane"), "{said}");

        let late = format!("image,label,note\n{}b.png,covid,DOE^JOHN\n", "a.png,covid,\n".repeat(LOOKED_AT - 1));
        assert_eq!(manifest(late.as_bytes(), &DataColumns::default()).1.len(), 1);
        let (_, findings) = manifest(b"image,label,email\na.png,covid,jane@doe.org\n", &DataColumns::default());
        assert_eq!(findings.len(), 1, "a column is named once: {findings:?}");
    }

    #[test]
    fn what_is_no_text_is_an_error_with_its_line() {
        let (_, findings) = manifest(b"image,label\na.png,covid\n\xff\xfe.png,covid\n", &DataColumns::default());
        assert!(findings[0].reason == Reason::DataUnreadable && findings[0].what.contains("line 3"), "{findings:?}");
    }

    #[test]
    fn class_folders_are_read_in_order() {
        let root = tempfile::tempdir().unwrap();
        for path in ["b/2.PNG", "b/sub/1.jpg", "a/9.tiff", "a/notes.txt", ".cache/x.png"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        let set = DataSet { uri: format!("file://{}", root.path().display()), manifest: None };
        let mut findings = Vec::new();
        let records = read(&set, &DataColumns::default(), Labels::Class, "spec.data.train", &mut findings);
        assert_eq!(findings, []);
        let seen: Vec<_> = records.iter().map(|r| (r.key.as_str(), r.label.as_str())).collect();
        assert_eq!(seen, [("a/9.tiff", "a"), ("b/2.PNG", "b"), ("b/sub/1.jpg", "b")]);

        fs::create_dir(root.path().join("c")).unwrap();
        read(&set, &DataColumns::default(), Labels::Class, "spec.data.train", &mut findings);
        assert!(findings[0].reason == Reason::EmptySplit && findings[0].places[0].ends_with("/c"));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let mut findings = Vec::new();
        let set = |uri: &str, manifest: Option<&str>| DataSet { uri: uri.into(), manifest: manifest.map(Into::into) };
        read(&set("file:///nowhere/at/all", None), &DataColumns::default(), Labels::Class, "spec.data.test", &mut findings);
        read(&set("file:///", Some("no.csv")), &DataColumns::default(), Labels::Class, "spec.data.test", &mut findings);
        assert!(findings.iter().all(|f| f.reason == Reason::DataNotFound));
        assert!(findings[0].what.starts_with("spec.data.test.uri: /nowhere/at/all does not exist"));
        assert!(findings[1].what.starts_with("spec.data.test.manifest: /no.csv does not exist"));
    }
}
