//! What is checked of records once all sources are read: labels, patients, paths, and that the files are there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;
use graft_crds::spec::{BadInput, Data};

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
    let mut patients: HashMap<&str, First<'_>, RandomState> = HashMap::default();
    for split in Split::ALL {
        let mut last = None;
        for record in &sets[split as usize] {
            // Images of a patient mostly stand together.
            if let Some(patient) = &record.patient
                && last != Some(patient)
            {
                last = Some(patient);
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

/// What is known of the files of all records, whatever their splits.
#[derive(Default)]
pub(crate) struct Inputs {
    /// Those that several records name.
    shared: HashSet<PathBuf>,
    /// Those that are not there.
    absent: HashSet<PathBuf>,
}

impl Inputs {
    /// Folders are listed while the records' files are counted.
    pub(crate) fn of(sets: &Sets) -> Self {
        let mut inputs = Self::default();
        let mut folders: HashMap<&OsStr, HashSet<&OsStr, RandomState>, RandomState> = HashMap::default();
        let listed = std::thread::scope(|scope| {
            let listed = scope.spawn(|| listed(sets));
            for record in sets.iter().flatten() {
                let (folder, name) = parts(record);
                if !folders.entry(folder).or_default().insert(name) {
                    inputs.shared.insert(record.path.clone());
                }
            }
            listed.join().unwrap_or_default()
        });
        for (folder, names) in listed {
            let Some(unseen) = folders.get_mut(folder) else { continue };
            for name in names {
                unseen.remove(name.as_os_str());
            }
        }
        let unseen = folders.into_iter().flat_map(|(folder, names)| names.into_iter().map(|name| Path::new(folder).join(name)));
        inputs.absent.extend(unseen.filter(|path| !path.is_file()));
        inputs
    }

    /// What is wrong with them now that each record has its split. Files that are not there and may be left out are found as those that
    /// cannot be decoded are.
    pub(crate) fn check(&self, data: &Data, sets: &Sets, findings: &mut Vec<Finding>) {
        let mut shared: BTreeMap<&Path, First<'_>> = BTreeMap::new();
        for split in Split::ALL {
            for record in sets[split as usize].iter().filter(|record| !self.shared.is_empty() && self.shared.contains(&record.path)) {
                shared.entry(&record.path).or_default()[split as usize].get_or_insert(record);
            }
        }
        let several = shared.into_iter().filter_map(|(path, first)| Some((path, across(&first)?)));
        let twice: Vec<String> = several.map(|(path, seen)| format!("{} ({seen})", path.display())).collect();
        if !twice.is_empty() {
            let what = format!("{} image files are in two splits", twice.len());
            findings.push(Finding::new(Reason::InputInTwoSplits, what, twice, "keep each image in one split"));
        }
        if !self.absent.is_empty() && data.on_bad_input == BadInput::Stop {
            let records = sets.iter().flatten().filter(|record| self.absent.contains(&record.path));
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
}

/// A record's folder and the file's name in it.
fn parts(record: &Record) -> (&OsStr, &OsStr) {
    let path = record.path.as_os_str().as_bytes();
    // Most paths have nothing to be tidied.
    let plain = memchr::memrchr(b'/', path).map(|at| (&path[..at], &path[at + 1..])).filter(|(folder, name)| {
        !folder.is_empty() && !folder.ends_with(b"/") && !folder.ends_with(b"/.") && ![&b""[..], b".", b".."].contains(name)
    });
    match plain {
        Some((folder, name)) => (OsStr::from_bytes(folder), OsStr::from_bytes(name)),
        None => (record.path.parent().unwrap_or(Path::new("")).as_os_str(), record.path.file_name().unwrap_or_default()),
    }
}

/// The files in folders of many, which takes a fraction of what asking for each does, above all on a network's file system. What a
/// list does not show to be a file, links among them, must be asked for.
fn listed(sets: &Sets) -> Vec<(&OsStr, Vec<OsString>)> {
    let mut folders: HashMap<&OsStr, usize, RandomState> = HashMap::default();
    for record in sets.iter().flatten() {
        *folders.entry(parts(record).0).or_default() += 1;
    }
    let large = folders.into_iter().filter(|(_, files)| *files >= LISTED);
    let files = |folder| fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    large.map(|(folder, _)| (folder, files(folder).map(|entry| entry.file_name()).collect())).collect()
}

/// The first record of each split that has something in common.
type First<'a> = [Option<&'a Record>; 3];
/// Where something is in each split, if it is in more than one.
fn across(first: &First<'_>) -> Option<String> {
    let places = || Split::ALL.into_iter().zip(first).filter_map(|(split, record)| Some((split, (*record)?)));
    (places().count() > 1).then(|| places().map(|(split, record)| format!("{} {}", split.name(), record.place())).collect::<Vec<_>>().join(" and "))
}
