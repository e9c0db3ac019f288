//! A table that says what images show: a column that names images, series, folders or patients, a column `label`, and maybe `split` and `patient`.

use std::collections::HashMap;
use std::path::Path;

use super::refused;
use crate::error::{DataError, Finding, Reason};
use crate::inspect::read_table;

/// Columns that can name what a row is about, the most exact first.
const KEYS: [&str; 12] =
    ["image", "file", "filename", "path", "volume", "scan", "series", "folder", "patient", "patient_id", "subject", "participant_id"];

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) row: usize,
    pub(super) label: String,
    pub(super) split: Option<String>,
    /// The patient as the table has it, where a column besides the key says so.
    pub(super) patient: Option<String>,
}

/// All rows by their key.
pub(super) struct Answers {
    by_key: HashMap<String, Answer>,
}

impl Answers {
    /// # Errors
    /// The table cannot be read, lacks a column, or says two things of one key.
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let (header, rows) = read_table(path)?;
        let column = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
        let missing = |what: &str| {
            let what = format!("{}:1: there is no column {what} among {}", path.display(), header.join(", "));
            refused(Reason::ColumnNotFound, what, "name the columns so")
        };
        let key =
            KEYS.into_iter().find_map(column).ok_or_else(|| missing(&format!("that names images, series or patients ({})", KEYS.join(", "))))?;
        let label = ["label", "class", "diagnosis", "group"].into_iter().find_map(column).ok_or_else(|| missing("label"))?;
        let (split, patient) = (column("split"), KEYS[8..].iter().copied().find_map(column).filter(|index| *index != key));
        let (mut by_key, mut twice): (HashMap<String, Answer>, Vec<String>) = Default::default();
        for (number, row) in rows.iter().enumerate() {
            let at = |index: usize| row.get(index).unwrap_or_default().trim().to_owned();
            let given = |index: Option<usize>| index.map(at).filter(|value| !value.is_empty());
            let answer = Answer { row: number, label: at(label), split: given(split), patient: given(patient) };
            if at(key).is_empty() || answer.label.is_empty() {
                continue;
            }
            match by_key.get(&at(key)) {
                Some(other) if other.label != answer.label => twice.push(format!("{}:{}", path.display(), number + 2)),
                Some(_) => {}
                None => drop(by_key.insert(at(key), answer)),
            }
        }
        if !twice.is_empty() {
            let what = format!("{} rows say of something else than a row before them", twice.len());
            return Err(DataError::one(Finding::new(
                Reason::LabelConflict,
                what,
                twice,
                "have one row for each, or name images instead of patients",
            )));
        }
        Ok(Self { by_key })
    }

    /// How many keys there are.
    pub(super) fn rows(&self) -> usize {
        self.by_key.len()
    }

    /// What is said of an image: by its path, by ids, or by a part of its path, which may go on after a `_`.
    pub(super) fn find(&self, image: &str, ids: &[String]) -> Option<&Answer> {
        let path = image.split('#').next().unwrap_or(image);
        let whole = [image, path].into_iter().chain(ids.iter().map(String::as_str)).find_map(|key| self.by_key.get(key));
        whole.or_else(|| path.split('/').rev().flat_map(shorter).find_map(|key| self.by_key.get(key)))
    }
}

/// A name, without its extensions, and without what follows each of its `_`, from the last.
fn shorter(name: &str) -> impl Iterator<Item = &str> {
    let stem = stem(name);
    [name, stem].into_iter().chain(stem.rmatch_indices('_').map(move |(at, _)| &stem[..at]))
}

/// A file's name without what says its format.
pub(super) fn stem(name: &str) -> &str {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.rsplit_once('.').filter(|(_, extension)| ["nii", "dcm", "dicom", "png", "jpg", "jpeg"].contains(extension)).map_or(name, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_ids_and_beginnings_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Answers::read(&path)
        };
        let answers = read("patient,label,split\nsub-01,ad,test\nsub-02,cn,\nP3,cn,train\n").unwrap();
        let label = |image: &str, ids: &[String]| answers.find(image, ids).map(|answer| (answer.label.clone(), answer.split.clone()));
        assert_eq!(label("sub-01/anat/sub-01_T1w.nii.gz#4", &[]), Some(("ad".into(), Some("test".into()))));
        assert_eq!(label("all/sub-02_ses-1_T1w.nii", &[]), Some(("cn".into(), None)));
        assert_eq!(label("x/IM0001", &["P3".into()]), Some(("cn".into(), Some("train".into()))));
        assert_eq!(label("sub-03/a.nii", &["P4".into()]), None);
        let error = read("patient,label\np,a\np,b\n").err().unwrap();
        assert!(error.reason() == "LabelConflict" && error.to_string().contains("labels.csv:3"), "{error}");
        assert_eq!(read("id,label\na,b\n").err().unwrap().reason(), "ColumnNotFound");
    }
}
