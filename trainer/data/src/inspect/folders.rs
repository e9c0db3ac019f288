//! Folders of classes, with or without folders of splits above them. What are patients or masks by their names is not taken for classes or for
//! pictures of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::masks::{of_image, role};
use super::{Inspection, Layout, split_named, unreadable};
use crate::error::{DataError, Finding, Reason};
use crate::source::{DEPTH_LIMIT, EXTENSIONS, list, walk};

/// Words that a patient's folder is named by, before a number.
const PATIENTS: [&str; 9] = ["participant", "patient", "subject", "person", "case", "sub", "pat", "pid", "p"];

/// The images of a class, in one split or in all.
pub(crate) struct ClassFolder {
    pub(crate) split: Option<&'static str>,
    pub(crate) class: String,
    /// Relative to the root, sorted, with their paths.
    pub(crate) images: Vec<(String, PathBuf)>,
    /// Files that are masks of these by their names, and were left out.
    pub(crate) masks: usize,
}

/// Whether a folder is called as patients' are: `patient00001`, `sub-01`, `P-007`; one letter needs three digits, for `P1` may be a class.
pub(crate) fn is_patient(name: &str) -> bool {
    let name = name.to_lowercase();
    let digits = |rest: &str| rest.trim_start_matches(['-', '_', ' ', '#']).bytes().take_while(u8::is_ascii_digit).count();
    PATIENTS.iter().any(|word| name.strip_prefix(word).is_some_and(|rest| digits(rest) >= if word.len() == 1 { 3 } else { 1 }))
}

/// The folders of classes, by split and name.
///
/// # Errors
/// A folder cannot be read, there is no image in them, or all are called as patients are.
pub(crate) fn class_folders(root: &Path) -> Result<Vec<ClassFolder>, DataError> {
    let names = list(root).map_err(|error| unreadable(root, error))?;
    let splits: Vec<_> =
        names.iter().filter(|(_, path)| path.is_dir()).filter_map(|(name, _)| Some((Some(split_named(name)?), format!("{name}/")))).collect();
    let roots = if splits.is_empty() { vec![(None, String::new())] } else { splits };
    let mut all = Vec::new();
    for (split, prefix) in roots {
        let folder = root.join(&prefix);
        for (class, path) in list(&folder).map_err(|error| unreadable(&folder, error))?.into_iter().filter(|(_, path)| path.is_dir()) {
            let mut files = BTreeMap::new();
            walk(&path, &format!("{prefix}{class}"), DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
            let masks = masks_among(&files);
            let count = masks.len();
            let images: Vec<_> = files.into_iter().filter(|(key, _)| !masks.contains(key)).collect();
            if !images.is_empty() {
                all.push(ClassFolder { split, class, images, masks: count });
            }
        }
    }
    let refused = |what: String, remedy: String| DataError::one(Finding::new(Reason::DataUnreadable, what, vec![], remedy));
    if all.is_empty() {
        let what = format!("{} is no layout that is known: it has no table, no lists, and no folders of images", root.display());
        if let Some(name) = names.keys().find(|name| name.to_lowercase().ends_with(".npz")) {
            return Err(refused(what, format!("name one of its .npz files, such as {}", root.join(name).display())));
        }
        let remedy = format!("lay images ({}) into one folder per class, or write a manifest.csv with columns image,label", EXTENSIONS.join(", "));
        return Err(refused(what, remedy));
    }
    if all.iter().all(|folder| is_patient(&folder.class)) {
        let what = format!("{} has {} folders that are called as patients are, and nothing says what their images show", root.display(), all.len());
        return Err(refused(what, "lay them into one folder per class, or write a manifest.csv with columns image,label,patient".into()));
    }
    Ok(all)
}

/// Those of a class's files that are masks: in a folder of masks beside one of images, or called as an image with an end such as `_mask`.
fn masks_among(files: &BTreeMap<String, PathBuf>) -> BTreeSet<String> {
    let folders: BTreeSet<(&str, String)> = files
        .keys()
        .filter_map(|key| {
            let (place, name) = key.rsplit_once('/')?.0.rsplit_once('/')?;
            let (mask, rest) = role(name)?;
            (!mask).then_some((place, rest))
        })
        .collect();
    let stems: BTreeSet<&str> = files.keys().map(|key| super::masks::stem(key)).collect();
    let is_mask = |key: &&String| {
        let beside = || {
            let (place, name) = key.rsplit_once('/')?.0.rsplit_once('/')?;
            let (mask, rest) = role(name)?;
            (mask && folders.contains(&(place, rest))).then_some(())
        };
        of_image(super::masks::stem(key)).is_some_and(|image| stems.contains(image)) || beside().is_some()
    };
    files.keys().filter(is_mask).cloned().collect()
}

/// The patient of each of these images by a folder below its class that is called as patients' are; none where one image has no such folder.
pub(crate) fn patients_by_folder(folders: &[ClassFolder]) -> Option<Vec<&str>> {
    let of = |folder: &ClassFolder, key: &'_ str| -> Option<std::ops::Range<usize>> {
        let from = folder.split.map_or(0, |_| key.find('/').map_or(0, |at| at + 1)) + folder.class.len() + 1;
        let end = key.rfind('/')?;
        let mut at = from;
        for part in key.get(from..end)?.split('/') {
            if is_patient(part) {
                return Some(at..at + part.len());
            }
            at += part.len() + 1;
        }
        None
    };
    folders.iter().flat_map(|folder| folder.images.iter().map(move |(key, _)| of(folder, key).map(|range| &key[range]))).collect()
}

pub(super) fn folders(root: &Path) -> Result<Inspection, DataError> {
    let all = class_folders(root)?;
    let by_split = all[0].split.is_some();
    let mut seen = Inspection::new(if by_split { Layout::SplitClassFolders } else { Layout::ClassFolders });
    for folder in &all {
        *seen.counts.entry(folder.class.clone()).or_default().entry(folder.split.unwrap_or("all").to_owned()).or_default() += folder.images.len();
        seen.images += folder.images.len();
    }
    let patients = patients_by_folder(&all);
    seen.patients = patients.map(|patients| patients.into_iter().collect::<BTreeSet<_>>().len());
    seen.notes.push(if seen.patients.is_some() {
        "folders below the classes are called as patients are: `graft data manifest` makes a column of them, and spec.data.patientFrom: folder takes the folder that holds an image".into()
    } else {
        "folders name no patients: if a patient has several images, add a column patient to the manifest that `graft data manifest` writes".to_owned()
    });
    if seen.counts.len() == 1 {
        seen.notes.push(
            "one folder of images is no class among others: name the folder above, or write a manifest with the columns image and label".into(),
        );
    }
    let masks: usize = all.iter().map(|folder| folder.masks).sum();
    if masks > 0 {
        seen.notes.push(format!(
            "{masks} files are masks by their names and are not counted: a job would take them for pictures, `graft data manifest` leaves them out"
        ));
    }
    let names = list(root).unwrap_or_default();
    let place =
        |split: &str| names.keys().find(|name| by_split && split_named(name) == Some(split)).map(|name| format!("file://{}/{name}", root.display()));
    seen.snippet = match (place("train"), place("test")) {
        (Some(_), Some(_)) if masks > 0 => None,
        (Some(train), Some(test)) => {
            let validation = place("validation").map_or(String::new(), |uri| format!("  validation:\n    uri: {uri}\n"));
            Some(format!("data:\n  train:\n    uri: {train}\n{validation}  test:\n    uri: {test}\n"))
        }
        (Some(_), None) if place("validation").is_some() => {
            seen.notes.push("there is no test set: `graft data manifest` takes the validation set for it".into());
            None
        }
        _ => {
            seen.notes.push("there is no test set: `graft data manifest` writes a manifest, to which `graft data split` adds one, by patient where a column names them".into());
            None
        }
    };
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_patients_are_known_by_a_word_and_a_number() {
        for name in ["patient00001", "sub-01", "P-007", "Case_12", "p001"] {
            assert!(is_patient(name), "{name}");
        }
        for name in ["pneumonia", "p", "001", "normal001", "class1", "subtype", "pT2", "P1"] {
            assert!(!is_patient(name), "{name}");
        }
    }
}
