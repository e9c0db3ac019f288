//! COVID-CT's lists of names, ChestX-ray14's table with its official lists, and CheXpert's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Written, refused, save, snippet};
use crate::error::{DataError, Reason};
use crate::inspect::{CHEST_XRAY14_LISTS, CHEXPERT, chexpert_file, covid_ct_lists, names_of, read_table, unreadable};
use crate::source::{DEPTH_LIMIT, walk};

pub(super) fn covid_ct(root: &Path) -> Result<Written, DataError> {
    let (mut rows, mut absent) = (Vec::new(), 0);
    for entry in covid_ct_lists(root)? {
        let split = if entry.split == "validation" { "val" } else { entry.split };
        match entry.file {
            Some(file) => rows.push(vec![file, entry.class.to_owned(), split.to_owned()]),
            None => absent += 1,
        }
    }
    let mut notes =
        vec!["the lists name no patients: add a column patient from COVID-CT-MetaInfo.csv, or a patient's images may be in two splits".to_owned()];
    if absent > 0 {
        notes.push(format!("{absent} names of the lists have no file and were left out"));
    }
    let manifest = save(root, &["image", "label", "split"], &rows)?;
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(root, &[], "    label: label\n", false) })
}

/// Position of each of these columns.
fn positions<const N: usize>(path: &Path, header: &[String], names: [&str; N]) -> Result<[usize; N], DataError> {
    let mut found = [0; N];
    for (slot, name) in found.iter_mut().zip(names) {
        let missing =
            || refused(Reason::ColumnNotFound, format!("{}:1: there is no column {name:?}", path.display()), "take the table as it was handed out");
        *slot = header.iter().position(|column| column == name).ok_or_else(missing)?;
    }
    Ok(found)
}

pub(super) fn chest_xray14(root: &Path, table: &Path) -> Result<Written, DataError> {
    let (header, entries) = read_table(table)?;
    let [image, labels, patient] = positions(table, &header, ["Image Index", "Finding Labels", "Patient ID"])?;
    let (train, test) = (names_of(&root.join(CHEST_XRAY14_LISTS[0]))?, names_of(&root.join(CHEST_XRAY14_LISTS[1]))?);
    let mut files = BTreeMap::new();
    walk(root, "", DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    let files: BTreeMap<&str, &str> =
        files.keys().map(|key| key.trim_start_matches('/')).map(|key| (key.rsplit('/').next().unwrap_or(key), key)).collect();
    let (mut rows, mut findings, mut absent, mut unlisted) = (Vec::new(), BTreeSet::new(), 0, 0);
    for entry in &entries {
        let at = |index: usize| entry.get(index).unwrap_or_default().trim();
        let split = match (train.contains(at(image)), test.contains(at(image))) {
            (true, false) => "train",
            (false, true) => "test",
            _ => {
                unlisted += 1;
                continue;
            }
        };
        let Some(file) = files.get(at(image)) else {
            absent += 1;
            continue;
        };
        findings.extend(at(labels).split('|').map(str::trim).filter(|name| *name != "No Finding").map(str::to_owned));
        rows.push(vec![(*file).to_owned(), at(labels).to_owned(), at(patient).to_owned(), split.to_owned()]);
    }
    let mut notes = Vec::new();
    for (count, what) in [(absent, "images of the table are not there"), (unlisted, "images are in none or in both of the official lists")] {
        if count > 0 {
            notes.push(format!("{count} {what}, and were left out"));
        }
    }
    let manifest = save(root, &["image", "findings", "patient", "split"], &rows)?;
    let findings: Vec<String> = findings.into_iter().collect();
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(root, &findings, "    label: findings\n", true) })
}

pub(super) fn chexpert(root: &Path) -> Result<Written, DataError> {
    let (mut rows, mut absent, mut findings) = (Vec::new(), 0, Vec::new());
    for (table, split) in CHEXPERT {
        let table = root.join(table);
        let (header, entries) = read_table(&table)?;
        let [image, first] = positions(&table, &header, ["Path", "No Finding"])?;
        let own: Vec<String> = header[first + 1..].to_vec();
        if findings.is_empty() {
            findings = own;
        } else if findings != own {
            let what = format!("{} has other findings than train.csv", table.display());
            return Err(refused(Reason::ColumnNotFound, what, "take the tables of one version of the data set"));
        }
        for entry in &entries {
            let path = entry.get(image).unwrap_or_default().trim();
            let Some(file) = chexpert_file(root, path) else {
                absent += 1;
                continue;
            };
            let patient = path.split('/').find(|part| part.starts_with("patient")).unwrap_or_default();
            let values = entry.iter().skip(first + 1).map(|value| value.trim().to_owned());
            rows.push([file, patient, split].map(str::to_owned).into_iter().chain(values).collect());
        }
    }
    let header: Vec<&str> = ["image", "patient", "split"].into_iter().chain(findings.iter().map(String::as_str)).collect();
    let manifest = save(root, &header, &rows)?;
    let mut notes = vec!["valid.csv is the test set; validation patients are held out of train.csv".to_owned()];
    if absent > 0 {
        notes.push(format!("{absent} images of the tables are not there, and were left out"));
    }
    Ok(Written { manifest, rows: rows.len(), notes, snippet: snippet(root, &findings, "", true) })
}
