//! Series of DICOM: one row for each slice, in the order in which they lie in the patient. Ids of patients and series are written as
//! pseudonyms only.

use std::path::{Path, PathBuf};

use super::answers::Answers;
use super::rows::{Row, Rows, answered};
use super::{Options, Written};
use crate::error::{DataError, pseudonym};
use crate::series::read;

/// Columns besides image, label, patient and split: the series, the slice's number in it from 0, and its position in millimetres.
const COLUMNS: [&str; 3] = ["series", "slice", "position"];

pub(super) fn series(root: &Path, files: &[(String, PathBuf)], options: &Options) -> Result<Written, DataError> {
    let answers = options.labels.as_deref().map(Answers::read).transpose()?;
    let found = read(files);
    let (mut rows, mut notes, mut slices) = (Vec::new(), Vec::new(), 0);
    for series in &found {
        slices += series.slices.len();
        let name = pseudonym(&series.uid).replacen("patient#", "series#", 1);
        let patient = series.patient.as_deref().map_or_else(|| name.clone(), pseudonym);
        notes.extend(series.faults.iter().map(|fault| format!("{name}: {fault}")));
        let ids: Vec<String> = [Some(series.uid.clone()), series.patient.clone()].into_iter().flatten().collect();
        for index in options.slices.of(series.slices.len()) {
            let position = series.positions.get(index).copied().flatten().map_or_else(String::new, |position| format!("{position:.3}"));
            let more = vec![name.clone(), index.to_string(), position];
            let row = Row { image: series.slices[index].clone(), patient: patient.clone(), labels: Vec::new(), split: None, more };
            rows.push((row, ids.clone()));
        }
    }
    if slices < files.len() {
        notes.push(format!("{} files are no slices of a series (of several frames, or without an image) and were left out", files.len() - slices));
    }
    let rows = match answers {
        Some(answers) => answered(rows, &answers, &mut notes),
        None => rows.into_iter().map(|(row, _)| row).collect(),
    };
    Rows { findings: vec![], more: COLUMNS.to_vec(), rows, notes }.write(root, options)
}
