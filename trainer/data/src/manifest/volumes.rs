//! Volumes of NIfTI: a row for each chosen axial slice, `scan.nii.gz#40`. Labels come from a table, or from folders of classes, with or
//! without folders of splits above them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::answers::{Answers, stem};
use super::rows::{Row, Rows, answered};
use super::{Options, Written, few};
use crate::error::DataError;
use crate::inspect::{is_patient, split_named};
use crate::nifti::{Shape, shape};
use crate::parallel;

/// Columns besides image, label, patient and split: to where the stored axes run, and the distance of slices in millimetres.
const COLUMNS: [&str; 2] = ["orientation", "step"];

pub(super) fn volumes(root: &Path, files: &[(String, PathBuf)], options: &Options) -> Result<Written, DataError> {
    let answers = options.labels.as_deref().map(Answers::read).transpose()?;
    let threads = parallel::processors();
    let shapes = parallel::map(files.len(), threads, |index| shape(&files[index].1));
    let keys: Vec<&str> = files.iter().map(|(key, _)| key.as_str()).collect();
    let folders: Option<Vec<(Option<String>, String)>> = if answers.is_none() { classes(&keys, files.len()) } else { None };
    let (mut rows, mut notes, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for (index, ((key, _), shape)) in files.iter().zip(shapes).enumerate() {
        let shape = match shape {
            Ok(shape) => shape,
            Err(error) => {
                bad.push(format!("{key} ({error})"));
                continue;
            }
        };
        let own = folders.as_ref().map(|folders| &folders[index]);
        let (split, labels) = own.map_or((None, vec![]), |(split, class)| (split.clone(), vec![class.clone()]));
        for slice in options.slices.of(shape.slices()) {
            let image = format!("{key}#{slice}");
            rows.push((Row { image, patient: subject(key), labels: labels.clone(), split: split.clone(), more: columns(&shape) }, vec![]));
        }
    }
    if !bad.is_empty() {
        notes.push(format!("{} volumes cannot be read and were left out: {}", bad.len(), few(&bad)));
    }
    notes.push(
        "each volume counts as a patient of its own, unless its path has a folder such as sub-01, or the table of labels a column patient".into(),
    );
    let rows = match answers {
        Some(answers) => answered(rows, &answers, &mut notes),
        None => rows.into_iter().map(|(row, _)| row).collect(),
    };
    Rows { findings: vec![], more: COLUMNS.to_vec(), rows, notes }.write(root, options)
}

pub(super) fn columns(shape: &Shape) -> Vec<String> {
    vec![shape.axes.clone(), format!("{:.3}", shape.step)]
}

/// The subject that BIDS has in the path, else the volume.
fn subject(key: &str) -> String {
    let parts = || key.split('/');
    let folder = parts().find(|part| part.starts_with("sub-"));
    let name = folder.unwrap_or(key);
    let name = name.split('_').next().filter(|_| folder.is_some()).unwrap_or(name);
    match name.rsplit_once('/') {
        Some((folder, file)) => format!("{folder}/{}", stem(file)),
        None => stem(name).to_owned(),
    }
}

/// Split and class of each image by its folders; none where they say neither, because there is one folder only, or nearly as many as there are
/// volumes or series, or because they are called as patients are.
pub(super) fn classes(keys: &[&str], scans: usize) -> Option<Vec<(Option<String>, String)>> {
    let of = |key: &str| {
        let mut parts = key.split('/');
        let first = parts.next()?;
        let (split, class) = match split_named(first) {
            Some(split) => (Some(if split == "validation" { "val" } else { split }.to_owned()), parts.next()?),
            None => (None, first),
        };
        parts.next().map(|_| (split, class.to_owned()))
    };
    let all: Vec<(Option<String>, String)> = keys.iter().map(|key| of(key)).collect::<Option<_>>()?;
    let distinct: BTreeSet<&str> = all.iter().map(|(_, class)| class.as_str()).collect();
    let patients = distinct.iter().all(|class| is_patient(class));
    (distinct.len() > 1 && 2 * distinct.len() <= scans && !patients).then_some(all)
}
