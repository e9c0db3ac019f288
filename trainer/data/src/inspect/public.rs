//! Data sets that are known by the names in their folder and the headers of its tables. What `graft data inspect` tells of a folder and what
//! `graft data manifest` writes of it are decided here, so that both see the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::lists::{covid_ct, nn_unet, voc};
use super::tables::{
    adni_columns, chest_xray14, chest_xray14_columns, chexpert_columns, chexpert_value, malignancy_columns, patient_in, read_table, table,
};
use super::{Inspection, Layout, unreadable};
use crate::error::DataError;
use crate::manifest::signal_columns;
use crate::source::{DEPTH_LIMIT, list, walk};
use crate::split::in_several;
use crate::table::named_as_table;

/// How the table of ChestX-ray14 is called, before the number of its version.
const CHEST_XRAY14: &str = "Data_Entry_2017";
/// CheXpert's tables, each with the split that its images are for.
pub(crate) const CHEXPERT: [(&str, &str); 2] = [("train.csv", "train"), ("valid.csv", "test")];
/// ChestX-ray14's official lists: for training and validation, and for testing.
pub(crate) const CHEST_XRAY14_LISTS: [&str; 2] = ["train_val_list.txt", "test_list.txt"];

/// A data set of a known form; with the table that says what it shows, where that may have any name.
#[derive(Debug)]
pub(crate) enum Known {
    NnUnet,
    Voc,
    CovidCt,
    CheXpert,
    ChestXray14(PathBuf),
    Adni(PathBuf),
    Malignancy(PathBuf),
    Recordings(PathBuf),
}

/// What lies in a folder, if it is of a known form.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn known(root: &Path) -> Result<Option<Known>, DataError> {
    let has = |names: &[&str]| names.iter().all(|name| root.join(name).exists());
    if has(&["imagesTr", "dataset.json"]) {
        return Ok(Some(Known::NnUnet));
    }
    if has(&["JPEGImages", "Annotations", "ImageSets/Main"]) {
        return Ok(Some(Known::Voc));
    }
    if has(&["Data-split", "Images-processed"]) {
        return Ok(Some(Known::CovidCt));
    }
    let one_of_chexpert = |(name, _): &(&str, &str)| {
        let path = root.join(name);
        path.is_file() && read_table(&path).is_ok_and(|(header, _)| chexpert_columns(&header).is_some())
    };
    if CHEXPERT.iter().all(one_of_chexpert) {
        return Ok(Some(Known::CheXpert));
    }
    let entries = list(root).map_err(|error| unreadable(root, error))?;
    let tables: Vec<(String, PathBuf)> = entries.into_iter().filter(|(name, path)| named_as_table(name) && path.is_file()).collect();
    if let Some((_, table)) = tables.iter().find(|(name, _)| name.starts_with(CHEST_XRAY14)) {
        return Ok(Some(Known::ChestXray14(table.clone())));
    }
    Ok(tables.into_iter().filter_map(|(_, path)| of_table(path)).min_by_key(|known| match known {
        Known::Adni(_) => 0,
        Known::Malignancy(_) => 1,
        _ => 2,
    }))
}

/// What a table says by its header, whatever its name.
fn of_table(path: PathBuf) -> Option<Known> {
    let (header, rows) = read_table(&path).ok()?;
    if adni_columns(&header).is_some() {
        return Some(Known::Adni(path));
    }
    if malignancy_columns(&header).is_some() {
        return Some(Known::Malignancy(path));
    }
    signal_columns(&header, &rows).is_some().then_some(Known::Recordings(path))
}

pub(super) fn inspected(root: &Path, known: &Known) -> Result<Inspection, DataError> {
    match known {
        Known::NnUnet => nn_unet(root),
        Known::Voc => voc(root),
        Known::CovidCt => covid_ct(root),
        Known::CheXpert => chexpert_folder(root),
        Known::ChestXray14(path) => chest_xray14_folder(root, path),
        Known::Adni(path) | Known::Malignancy(path) | Known::Recordings(path) => table(path, root),
    }
}

/// The names that a list has, one in each line.
///
/// # Errors
/// It cannot be read.
pub(crate) fn names_of(path: &Path) -> Result<BTreeSet<String>, DataError> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// The table with the official lists, where these are there, and how many of its images are not.
fn chest_xray14_folder(root: &Path, path: &Path) -> Result<Inspection, DataError> {
    let (header, rows) = read_table(path)?;
    let Some(columns @ [image, _, patient]) = chest_xray14_columns(&header) else { return table(path, root) };
    let lists = CHEST_XRAY14_LISTS.map(|name| root.join(name));
    let official = lists.iter().all(|list| list.is_file());
    let [train, test] = if official { [names_of(&lists[0])?, names_of(&lists[1])?] } else { Default::default() };
    let split = |name: &str| match (train.contains(name), test.contains(name)) {
        _ if !official => "all",
        (true, false) => "train",
        (false, true) => "test",
        (true, true) => "both",
        (false, false) => "unlisted",
    };
    let mut seen = chest_xray14(&rows, columns, split);
    if official {
        let at = |index: usize| rows.iter().map(move |row| row.get(index).unwrap_or_default().trim());
        seen.notes.extend(shared(&at(patient).collect::<Vec<_>>(), &at(image).map(split).collect::<Vec<_>>()));
    } else {
        seen.notes.push(format!("{} are not both there: `graft data manifest` needs these official lists", CHEST_XRAY14_LISTS.join(" and ")));
    }
    let mut files = std::collections::BTreeMap::new();
    walk(root, "", DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    let files: BTreeSet<&str> = files.keys().map(|key| key.rsplit('/').next().unwrap_or(key)).collect();
    let absent = rows.iter().filter(|row| row.get(image).is_none_or(|name| !files.contains(name.trim()))).count();
    if absent > 0 {
        seen.notes.push(format!("{absent} of {} images are not there", rows.len()));
    }
    Ok(seen)
}

/// What is to be said of patients who are in two splits.
fn shared(patients: &[&str], splits: &[&str]) -> Option<String> {
    let count = in_several(patients, splits).len();
    (count > 0).then(|| format!("{count} patients are in two of the splits"))
}

/// Both tables, counted apart.
fn chexpert_folder(root: &Path) -> Result<Inspection, DataError> {
    let mut seen = Inspection::new(Layout::CheXpert);
    let (mut people, mut absent) = (Vec::new(), 0);
    for (name, split) in CHEXPERT {
        let (header, rows) = read_table(&root.join(name))?;
        let Some([image, first]) = chexpert_columns(&header) else { return table(&root.join(name), root) };
        for row in &rows {
            for (column, finding) in header.iter().enumerate().skip(first) {
                seen.count(finding, &format!("{split} {}", chexpert_value(row.get(column).unwrap_or_default())));
            }
            let path = row.get(image).unwrap_or_default().trim();
            absent += usize::from(chexpert_file(root, path).is_none());
            people.extend(patient_in(path).map(|patient| (patient.to_owned(), split)));
        }
        seen.images += rows.len();
        seen.notes.push(format!(
            "{name} has {} images: `graft data manifest` takes them for {}",
            rows.len(),
            if split == "test" { "testing" } else { "training" }
        ));
    }
    let (patients, splits): (Vec<&str>, Vec<&str>) = people.iter().map(|(patient, split)| (patient.as_str(), *split)).unzip();
    seen.patients = Some(patients.iter().collect::<BTreeSet<_>>().len());
    seen.notes.extend(shared(&patients, &splits));
    if absent > 0 {
        seen.notes.push(format!("{absent} of {} images are not there", seen.images));
    }
    seen.notes.push("a column for each finding: `graft data manifest` writes what a task of type multiLabel reads; -1 and blank are unknown".into());
    Ok(seen)
}

/// The file that a path of CheXpert's tables names: they begin with the name that the folder had when it was handed out.
pub(crate) fn chexpert_file<'a>(root: &Path, path: &'a str) -> Option<&'a str> {
    let inner = path.split_once('/').map_or(path, |(_, inner)| inner);
    [path, inner].into_iter().find(|file| root.join(file).is_file())
}
