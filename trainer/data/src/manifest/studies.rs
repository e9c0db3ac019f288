//! Tables of studies whose images lie beside them: ADNI's visits, and the ratings of malignancy that are derived from LIDC.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::answers::stem;
use super::rows::{Row, Rows};
use super::{Options, Written, refused};
use crate::error::{DataError, Reason, pseudonym};
use crate::inspect::nodules::{self, least_distance};
use crate::inspect::{malignancy_columns, malignant, median, read_table, unreadable};
use crate::nifti;
use crate::source::{DEPTH_LIMIT, walk};

fn files(root: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let mut files = BTreeMap::new();
    walk(root, "", DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    Ok(files.into_iter().map(|(key, path)| (key.trim_start_matches('/').to_owned(), path)).collect())
}

/// A visit of ADNI.
struct Visit {
    rid: String,
    code: String,
    /// Days on a calendar whose months have 31, which is enough to tell which of two is nearer.
    day: Option<i64>,
    diagnosis: String,
}

/// `2006-04-18`, also where more follows.
fn day(text: &str) -> Option<i64> {
    let mut parts = text.get(..10)?.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    Some((year * 12 + month) * 31 + day)
}

/// Scans are found by the PTID in their path, `002_S_0295`; which visit they belong to is said by the date of a folder, as ADNI hands them out.
/// The label is the diagnosis of that visit, the patient the RID, and visits without a diagnosis are left out.
pub(super) fn adni(root: &Path, table: &Path, options: &Options) -> Result<Written, DataError> {
    let (header, entries) = read_table(table)?;
    let column = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
    let need = |name: &str| {
        let missing =
            || refused(Reason::ColumnNotFound, format!("{}:1: there is no column {name:?}", table.display()), "take ADNIMERGE.csv as it is");
        column(name).ok_or_else(missing)
    };
    let (rid, ptid, code, exam, dx) = (need("RID")?, need("PTID")?, need("VISCODE")?, need("EXAMDATE")?, need("DX")?);
    let mut visits: HashMap<String, Vec<Visit>> = HashMap::new();
    for entry in &entries {
        let at = |index: usize| entry.get(index).unwrap_or_default().trim().to_owned();
        visits.entry(at(ptid)).or_default().push(Visit { rid: at(rid), code: at(code), day: day(&at(exam)), diagnosis: at(dx) });
    }
    let (mut rows, mut unknown, mut undated, mut without) = (Vec::new(), 0, 0, 0);
    for (key, path) in files(root)? {
        let Some(own) = key.split('/').find_map(|part| visits.get(part).or_else(|| ptid_in(part).and_then(|ptid| visits.get(ptid)))) else {
            unknown += 1;
            continue;
        };
        let scanned = key.split('/').find_map(day);
        let visit = match (scanned, own.as_slice()) {
            (Some(scanned), own) => own.iter().min_by_key(|visit| visit.day.map_or(i64::MAX, |day| (day - scanned).abs())),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let Some(visit) = visit else {
            undated += 1;
            continue;
        };
        if visit.diagnosis.is_empty() {
            without += 1;
            continue;
        }
        let slices = if nifti::named(&key.to_lowercase()) { nifti::shape(&path).map(|shape| shape.slices()).ok() } else { None };
        let images =
            slices.map_or_else(|| vec![key.clone()], |count| options.slices.of(count).into_iter().map(|slice| format!("{key}#{slice}")).collect());
        let row =
            |image| Row { image, patient: pseudonym(&visit.rid), labels: vec![visit.diagnosis.clone()], split: None, more: vec![visit.code.clone()] };
        rows.extend(images.into_iter().map(row));
    }
    let counts = [
        (unknown, "files have no PTID of the table in their path and were left out"),
        (undated, "files of patients with several visits have no date in their path and were left out"),
        (without, "files belong to a visit without a diagnosis and were left out"),
    ];
    let notes = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    Rows { findings: vec![], more: vec!["visit"], rows, notes: notes.collect() }.write(root, options)
}

/// The PTID in a file's name: three digits, S, four digits.
fn ptid_in(name: &str) -> Option<&str> {
    let fits = |text: &&str| text.bytes().zip(b"ddd_S_dddd").all(|(own, wanted)| if *wanted == b'd' { own.is_ascii_digit() } else { own == *wanted });
    (0..name.len()).filter_map(|from| name.get(from..from + 10)).find(fits)
}

/// One row for each image with the median of its ratings, from 1 to 5, and how far they are apart. Above 3 is malignant, below 3 benign;
/// images whose median is 3 say neither and are left out. Of LIDC's list of nodules it is the mean, and how far they are apart at the least.
pub(super) fn readers(root: &Path, table: &Path, options: &Options) -> Result<Written, DataError> {
    let (header, entries) = read_table(table)?;
    let missing = || refused(Reason::ColumnNotFound, format!("{}:1: no columns of images, patients and malignancy", table.display()), "name them so");
    let [image, patient, rating] = malignancy_columns(&header).ok_or_else(missing)?;
    let files = files(root)?;
    let mut known: HashMap<&str, &str> = HashMap::new();
    for (key, _) in &files {
        known.insert(key, key);
        let folder = key.rsplit_once('/').map_or(0, |(folder, _)| folder.len() + 1);
        known.insert(&key[..folder + stem(&key[folder..]).len()], key);
    }
    let means = nodules::named(&header);
    let mut readers: HashMap<&str, usize> = HashMap::new();
    let mut readings: BTreeMap<&str, (&str, Vec<f64>)> = BTreeMap::new();
    for entry in &entries {
        let at = |index: usize| entry.get(index).unwrap_or_default().trim();
        let own = readings.entry(at(image)).or_insert_with(|| (at(patient), Vec::new()));
        own.1.extend(at(rating).parse::<f64>().ok());
        readers.extend(nodules::rating(entry).filter(|_| means).map(|(count, _)| (at(image), count)));
    }
    let (mut rows, mut absent, mut neither) = (Vec::new(), 0, 0);
    for (name, (patient, mut ratings)) in readings {
        ratings.sort_by(f64::total_cmp);
        let Some(file) = known.get(name) else {
            absent += 1;
            continue;
        };
        let class = malignant(&ratings);
        let (Some(median), Some(least), Some(most), true) =
            (median(&ratings), ratings.first(), ratings.last(), ["malignant", "benign"].contains(&class))
        else {
            neither += 1;
            continue;
        };
        let (distance, count) = readers.get(name).map_or((most - least, ratings.len()), |count| (least_distance(median), *count));
        let more = vec![median.to_string(), distance.to_string(), count.to_string()];
        rows.push(Row { image: (*file).to_owned(), patient: pseudonym(patient), labels: vec![class.into()], split: None, more });
    }
    let counts = [(absent, "images of the table are not there, and were left out"), (neither, "images are rated 3 or not at all, and were left out")];
    let mut notes: Vec<String> = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if means {
        notes.push("the table has the means of ratings: the column disagreement is how far they are apart at the least, 0 or 1".into());
    }
    Rows { findings: vec![], more: vec!["malignancy", "disagreement", "readings"], rows, notes }.write(root, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_dates_are_found_in_names() {
        assert_eq!(ptid_in("ADNI_002_S_0295_MR_MPR.nii"), Some("002_S_0295"));
        assert_eq!(ptid_in("ADNI_002_X_0295"), None);
        assert!(day("2006-04-18_08_20_30.0").unwrap() > day("2006-04-17").unwrap());
        assert_eq!((day("S13408"), day("2006_04_18_x")), (None, None));
    }
}
