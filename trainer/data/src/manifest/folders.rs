//! Folders of classes as a manifest: with a column of patients where folders below the classes are called so, and one of splits where the
//! folders above them are. Without those it has no split: `graft data split` adds one.

use std::path::Path;

use super::{Written, refused, save, snippet};
use crate::error::{DataError, Reason};
use crate::inspect::{class_folders, patients_by_folder};

pub(super) fn folders(root: &Path) -> Result<Written, DataError> {
    let all = class_folders(root)?;
    let classes: std::collections::BTreeSet<&str> = all.iter().map(|folder| folder.class.as_str()).collect();
    if classes.len() < 2 {
        let what = format!("{} has one folder of images only, which is no class among others", root.display());
        return Err(refused(Reason::DataUnreadable, what, "name the folder that holds a folder for each class"));
    }
    let has = |split: &str| all.iter().any(|folder| folder.split == Some(split));
    // Without a folder for testing, that for validation is, if there is another to train on.
    let public = !has("test") && has("validation");
    let official = has("train") && (has("test") || public);
    let split = |split: Option<&str>| match split {
        Some("validation") if public => "test",
        Some("validation") => "val",
        Some("test") => "test",
        _ => "train",
    };
    let patients = patients_by_folder(&all);
    let images = all.iter().flat_map(|folder| folder.images.iter().map(move |(key, _)| (folder, key)));
    let row = |(index, (folder, key)): (usize, (&crate::inspect::ClassFolder, &String))| {
        let mut row = vec![key.clone(), folder.class.clone()];
        row.extend(patients.as_ref().map(|patients| patients[index].to_owned()));
        row.extend(official.then(|| split(folder.split).to_owned()));
        row
    };
    let rows: Vec<Vec<String>> = images.enumerate().map(row).collect();
    let columns = [Some("image"), Some("label"), patients.is_some().then_some("patient"), official.then_some("split")];
    let manifest = save(root, &columns.into_iter().flatten().collect::<Vec<_>>(), &rows)?;
    let mut notes = Vec::new();
    let masks: usize = all.iter().map(|folder| folder.masks).sum();
    if masks > 0 {
        notes.push(format!("{masks} files are masks by their names and were left out"));
    }
    if patients.is_none() {
        notes.push("folders name no patients: each image counts as one of its own, unless you add a column patient before splitting".into());
    }
    if public {
        notes.push("there is no folder for testing: that for validation is taken, and validation images are held out of training".into());
    }
    if !official {
        notes.push(format!("nothing says what is for testing: `graft data split {} --out FILE --test 0.2` adds a column split", manifest.display()));
    }
    let snippet = if official { snippet(root, &[], "    label: label\n", patients.is_some()) } else { String::new() };
    Ok(Written { manifest, rows: rows.len(), notes, snippet })
}
