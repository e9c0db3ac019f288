//! What is checked of records once all sources are read: labels, patients, paths, and that the files are there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use graft_crds::spec::Data;

use crate::dataset::{Sets, Split};
use crate::error::{Finding, Reason, nearest, pseudonym};
use crate::source::Record;
use crate::{parallel, patients, phi};

/// From so many files of a folder on, it is listed.
const LISTED: usize = 32;
/// So many paths are looked at in one go.
const CHUNK: usize = 4096;

/// Names in quotes, as many as fit into a message.
pub(crate) fn quoted(names: &[String]) -> String {
    let names = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    graft_crds::contract::truncate(&names, 600).to_owned()
}

pub(crate) fn check_labels(sets: &Sets, classes: &[String], findings: &mut Vec<Finding>) {
    if classes.is_empty() || sets.iter().flatten().any(|record| !record.findings.is_empty()) {
        return; // Without training data, that is the finding, not that every other label is unknown. Findings are checked where they are read.
    }
    for split in Split::ALL {
        let mut unknown: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for record in sets[split as usize].iter().filter(|record| !classes.contains(&record.label)) {
            unknown.entry(&record.label).or_default().push(record.place());
        }
        for (label, places) in unknown {
            let lacks = if split == Split::Train { "spec.task.classes does not name" } else { "the training data lacks" };
            let what = format!("{} {} samples have the class {label:?}, which {lacks}", places.len(), split.name());
            let remedy = match nearest(label, classes.iter().map(String::as_str)) {
                Some(class) => format!("did you mean {class:?}? The classes are {}", quoted(classes)),
                None => format!("correct the label or remove the samples; the classes are {}", quoted(classes)),
            };
            findings.push(Finding::new(Reason::UnknownClass, what, places, remedy));
        }
    }
}

pub(crate) fn check_patients(data: &Data, sets: &Sets, findings: &mut Vec<Finding>) {
    let mut patients: HashMap<&str, First<'_>> = HashMap::new();
    for split in Split::ALL {
        for record in &sets[split as usize] {
            if let Some(patient) = &record.patient {
                patients.entry(patient).or_default()[split as usize].get_or_insert(record);
            }
        }
    }
    let several = patients.iter().filter_map(|(patient, first)| Some((*patient, across(first)?)));
    let places: Vec<String> =
        several.collect::<BTreeMap<_, _>>().into_iter().map(|(patient, seen)| format!("{} ({seen})", pseudonym(patient))).collect();
    if !places.is_empty() {
        let what = format!("{} patients are in two splits, so the result would look better than it is", places.len());
        findings.push(Finding::new(Reason::PatientInTwoSplits, what, places, patients::remedy(data)));
    }
}

/// Paths that look like personal data, by kind. The finding shows where they stand and not what they say.
pub(crate) fn check_personal(data: &Data, sets: &Sets, findings: &mut Vec<Finding>) {
    if data.allow_personal_data.is_some() {
        findings.retain(|finding| finding.reason != Reason::PersonalData);
        return;
    }
    let records: Vec<(usize, &Record)> = sets.iter().flat_map(|set| set.iter().enumerate()).collect();
    let chunks: Vec<&[(usize, &Record)]> = records.chunks(CHUNK).collect();
    let looked =
        |chunk: usize| -> Vec<(phi::Personal, String)> { chunks[chunk].iter().filter_map(|(number, record)| personal(*number, record)).collect() };
    let mut found: BTreeMap<phi::Personal, Vec<String>> = BTreeMap::new();
    for (kind, place) in parallel::map(chunks.len(), parallel::processors(), looked).into_iter().flatten() {
        found.entry(kind).or_default().push(place);
    }
    for (kind, places) in found {
        let what = format!("{} paths of images look like {}; paths stand in predictions and reports", places.len(), kind.name());
        let remedy = "rename the files; spec.data.allowPersonalData gives a reason if it is none";
        findings.push(Finding::new(Reason::PersonalData, what, places, remedy));
    }
}

/// What the path of a record looks like, and where it stands; `number` is its place in its set.
fn personal(number: usize, record: &Record) -> Option<(phi::Personal, String)> {
    let place = || match record.place.row {
        Some(row) => format!("{}:{row}", record.place.file),
        None => format!("{}, image {} in the order of paths", record.place.file, number + 1),
    };
    phi::path(&record.key).map(|kind| (kind, place()))
}

pub(crate) fn check_inputs(sets: &Sets, findings: &mut Vec<Finding>) {
    let folders = by_folder(sets);
    let several = folders.iter().flat_map(|(_, files)| files.values()).filter_map(|first| Some((path_of(first)?, across(first)?)));
    let twice: Vec<String> = several.collect::<BTreeMap<_, _>>().into_iter().map(|(path, seen)| format!("{} ({seen})", path.display())).collect();
    if !twice.is_empty() {
        let what = format!("{} image files are in two splits", twice.len());
        findings.push(Finding::new(Reason::InputInTwoSplits, what, twice, "keep each image in one split"));
    }
    let absent = absent(folders);
    if !absent.is_empty() {
        let records = sets.iter().flatten().filter(|record| absent.contains(record.path.as_path()));
        let places: Vec<String> = records
            .map(|record| match record.place.row {
                Some(_) => format!("{} ({})", record.key, record.place()),
                None => record.place(),
            })
            .collect();
        let what = format!("{} image files do not exist", places.len());
        findings.push(Finding::new(Reason::InputNotFound, what, places, "paths in a manifest are relative to the folder that uri names"));
    }
}

/// The first record of each split that has something in common.
type First<'a> = [Option<&'a Record>; 3];
/// Those of the files of a folder, by name.
type Files<'a> = HashMap<&'a OsStr, First<'a>>;

fn by_folder(sets: &Sets) -> Vec<(&Path, Files<'_>)> {
    let (mut folders, mut known): (Vec<(&Path, Files<'_>)>, HashMap<&OsStr, usize>) = Default::default();
    let mut last: Option<(&OsStr, usize)> = None;
    for split in Split::ALL {
        for record in &sets[split as usize] {
            let folder = record.path.parent().unwrap_or(Path::new(""));
            // Files of a folder mostly stand together.
            let index = last.filter(|(name, _)| *name == folder.as_os_str()).map_or_else(
                || {
                    *known.entry(folder.as_os_str()).or_insert_with(|| {
                        folders.push((folder, Files::new()));
                        folders.len() - 1
                    })
                },
                |(_, index)| index,
            );
            last = Some((folder.as_os_str(), index));
            folders[index].1.entry(record.path.file_name().unwrap_or_default()).or_default()[split as usize].get_or_insert(record);
        }
    }
    folders
}

/// Those that are no files. Folders of many are listed, which takes a fraction of what asking for each file does, above all on a
/// network's file system; what the list does not show to be a file, links among them, is asked for.
fn absent<'a>(folders: Vec<(&Path, Files<'a>)>) -> BTreeSet<&'a Path> {
    let mut absent = BTreeSet::new();
    for (folder, mut files) in folders {
        let listing = (files.len() >= LISTED).then(|| fs::read_dir(folder).ok()).flatten();
        for entry in listing.into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                files.remove(entry.file_name().as_os_str());
            }
        }
        absent.extend(files.values().filter_map(path_of).filter(|path| !path.is_file()));
    }
    absent
}

fn path_of<'a>(first: &First<'a>) -> Option<&'a Path> {
    first.iter().flatten().next().map(|record| record.path.as_path())
}

/// Where something is in each split, if it is in more than one.
fn across(first: &First<'_>) -> Option<String> {
    let places = || Split::ALL.into_iter().zip(first).filter_map(|(split, record)| Some((split, (*record)?)));
    (places().count() > 1).then(|| places().map(|(split, record)| format!("{} {}", split.name(), record.place())).collect::<Vec<_>>().join(" and "))
}
