//! Series of DICOM: one row for each slice, in the order in which they lie in the patient, and for each frame of a file of several, `FILE#4`.
//! Ids of patients and series are written as pseudonyms only.

use std::path::{Path, PathBuf};

use super::answers::Answers;
use super::rows::{Row, Rows, answered};
use super::volumes::classes;
use super::{Options, Written};
use crate::error::{DataError, pseudonym};
use crate::series::read_all;

/// Columns besides image, label, patient and split: the series, the slice's or frame's number in it from 0, and a slice's position in millimetres.
const COLUMNS: [&str; 3] = ["series", "slice", "position"];

/// The rows with the classes and splits that their folders say, if these are classes of so many series.
fn by_folder(mut rows: Vec<Row>, series: usize) -> Vec<Row> {
    let keys: Vec<&str> = rows.iter().map(|row| row.image.as_str()).collect();
    for (row, (split, class)) in classes(&keys, series).into_iter().flatten().enumerate() {
        rows[row].labels = vec![class];
        rows[row].split = split;
    }
    rows
}

pub(super) fn series(root: &Path, files: &[(String, PathBuf)], options: &Options) -> Result<Written, DataError> {
    let answers = options.labels.as_deref().map(Answers::read).transpose()?;
    let (found, films) = read_all(files);
    let (mut rows, mut notes, mut used) = (Vec::new(), Vec::new(), films.len());
    let names = |uid: &str, patient: Option<&str>| {
        let name = pseudonym(uid).replacen("patient#", "series#", 1);
        let ids: Vec<String> = [Some(uid), patient].into_iter().flatten().map(str::to_owned).collect();
        (patient.map_or_else(|| name.clone(), pseudonym), name, ids)
    };
    for series in &found {
        used += series.slices.len();
        let (patient, name, ids) = names(&series.uid, series.patient.as_deref());
        notes.extend(series.faults.iter().map(|fault| format!("{name}: {fault}")));
        for index in options.slices.of(series.slices.len()) {
            let position = series.positions.get(index).copied().flatten().map_or_else(String::new, |position| format!("{position:.3}"));
            let more = vec![name.clone(), index.to_string(), position];
            let row = Row { image: series.slices[index].clone(), patient: patient.clone(), labels: Vec::new(), split: None, more };
            rows.push((row, ids.clone()));
        }
    }
    for film in &films {
        let (patient, name, ids) = names(&film.uid, film.patient.as_deref());
        for frame in options.slices.of(film.frames) {
            let more = vec![name.clone(), frame.to_string(), String::new()];
            let row = Row { image: format!("{}#{frame}", film.file), patient: patient.clone(), labels: Vec::new(), split: None, more };
            rows.push((row, ids.clone()));
        }
    }
    if used < files.len() {
        notes.push(format!("{} files are no slices of a series (without an image, or broken) and were left out", files.len() - used));
    }
    let rows = match answers {
        Some(answers) => answered(rows, &answers, &mut notes),
        None => by_folder(rows.into_iter().map(|(row, _)| row).collect(), found.len() + films.len()),
    };
    Rows { findings: vec![], more: COLUMNS.to_vec(), rows, notes }.write(root, options)
}
