//! Adds columns of splits to a manifest: a test set, folds, each site left out once. A job names one of them in `spec.data.columns.split`. The
//! manifest that is read stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{few, refused, write_table};
use crate::error::{DataError, Finding, Reason, nearest, pseudonym};
use crate::inspect::read_table;
use crate::split::{Item, folds, in_several, test};

/// Numbers with more values than this are put into quarters instead of being classes.
const CLASSES: usize = 12;

/// What to add.
#[derive(Clone, Debug, Default)]
pub struct Splitting {
    /// Columns of the label: one of classes, of `A|B` or of numbers, or several of 1 and 0.
    pub labels: Vec<String>,
    /// The column of patients; none is one that is named so, or else the image's file.
    pub patient: Option<String>,
    /// The share of patients for testing, for a column `split`.
    pub test: Option<f64>,
    /// Folds, for columns `fold_1`, `fold_2`, …; 0 for none.
    pub folds: usize,
    /// A column of sites, for a column `without_SITE` of each.
    pub site: Option<String>,
    /// Decides who goes where.
    pub seed: u64,
}

/// What was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The columns, in order, with the rows of each of their values.
    pub columns: Vec<(String, BTreeMap<String, usize>)>,
    /// What one should know.
    pub notes: Vec<String>,
}

/// Writes `manifest` with more columns to `out`. In `split`, `fold_N` and `without_SITE` each row is `train` or `test`; with a test set besides
/// folds, it is the test set of each of them, and the fold is `val`. Classes are spread evenly, and no patient is in two parts.
///
/// # Errors
/// A file cannot be read or written, a column is missing or there already, or a patient was at two sites.
pub fn split(manifest: &Path, out: &Path, how: &Splitting) -> Result<Added, DataError> {
    let (header, rows) = read_table(manifest)?;
    let place = |name: &str| {
        let remedy = nearest(name, header.iter().map(String::as_str))
            .map_or_else(|| "name one of its columns".into(), |near| format!("did you mean {near:?}?"));
        let what = || format!("{}:1: there is no column {name:?} among {}", manifest.display(), header.join(", "));
        header.iter().position(|column| column == name).ok_or_else(|| refused(Reason::ColumnNotFound, what(), &remedy))
    };
    let known = |names: &[&str]| names.iter().find_map(|name| header.iter().position(|column| column.eq_ignore_ascii_case(name)));
    let mut notes = Vec::new();
    let labels = how.labels.iter().map(|name| place(name)).collect::<Result<Vec<_>, _>>()?;
    let patient = how.patient.as_deref().map(place).transpose()?.or_else(|| known(&["patient", "patient_id", "subject", "subject_id", "RID"]));
    let image = known(&["image", "input", "path", "file", "filename", "Image Index"]);
    if patient.is_none() {
        notes.push("no column names the patients: each image file counts as one of its own".into());
    }
    let at = |row: &csv::StringRecord, index: usize| row.get(index).unwrap_or_default().trim().to_owned();
    let who = |(number, row): (usize, &csv::StringRecord)| match (patient, image) {
        (Some(index), _) => at(row, index),
        (None, Some(index)) => at(row, index).split('#').next().unwrap_or_default().to_owned(),
        (None, None) => number.to_string(),
    };
    let patients: Vec<String> = rows.iter().enumerate().map(who).collect();
    let nameless: Vec<String> = patients.iter().zip(2..).filter(|(name, _)| name.is_empty()).map(|(_, line)| format!("row {line}")).collect();
    if !nameless.is_empty() {
        let what = format!("{}: {} rows name no patient", manifest.display(), nameless.len());
        return Err(DataError::one(Finding::new(Reason::MissingPatient, what, nameless, "fill them in, or remove the rows")));
    }
    let strata = strata(&rows, &labels);
    let items: Vec<Item<'_>> =
        patients.iter().zip(&strata).map(|(patient, strata)| Item { patient, strata: strata.iter().map(String::as_str).collect() }).collect();
    let mut columns = Vec::new();
    let tested = how.test.map(|fraction| test(&items, fraction, how.seed));
    if let Some(tested) = &tested {
        columns.push(("split".to_owned(), tested.iter().map(|test| if *test { "test" } else { "train" }).collect()));
    }
    columns.extend(cross(&items, tested.as_deref(), how));
    if let Some(site) = &how.site {
        let sites: Vec<String> = rows.iter().map(|row| place(site).map(|index| at(row, index))).collect::<Result<_, _>>()?;
        columns.extend(without(&patients, &sites)?);
    }
    if let Some((name, _)) = columns.iter().find(|(name, _)| header.contains(name)) {
        return Err(refused(Reason::DataUnreadable, format!("{}:1: column {name:?} is there already", manifest.display()), "remove or rename it"));
    }
    save(out, &header, &rows, &columns)?;
    let counted = |(name, values): (String, Vec<&str>)| {
        let mut counts = BTreeMap::new();
        values.into_iter().for_each(|value| *counts.entry(value.to_owned()).or_default() += 1);
        (name, counts)
    };
    Ok(Added { columns: columns.into_iter().map(counted).collect(), notes })
}

/// What each row counts for: its class, its findings, or the quarter in which its number lies.
fn strata(rows: &[csv::StringRecord], labels: &[usize]) -> Vec<Vec<String>> {
    let at = |row: &csv::StringRecord, index: usize| row.get(index).unwrap_or_default().trim().to_owned();
    if let &[only] = labels {
        let numbers: Option<Vec<f64>> = rows.iter().map(|row| at(row, only).parse().ok()).collect();
        if let Some(numbers) = numbers.filter(|numbers| numbers.iter().map(|n| n.to_bits()).collect::<BTreeSet<_>>().len() > CLASSES) {
            let mut sorted = numbers.clone();
            sorted.sort_by(f64::total_cmp);
            let quarter = |number: &f64| 4 * sorted.partition_point(|other| other < number) / sorted.len();
            return numbers.iter().map(|number| vec![quarter(number).to_string()]).collect();
        }
        return rows.iter().map(|row| at(row, only).split('|').map(|name| name.trim().to_owned()).collect()).collect();
    }
    let shown = |row: &csv::StringRecord| {
        let own: Vec<String> =
            labels.iter().filter(|index| ["1", "1.0", "true", "True"].contains(&at(row, **index).as_str())).map(ToString::to_string).collect();
        if own.is_empty() { vec!["none".to_owned()] } else { own }
    };
    rows.iter().map(shown).collect()
}

/// A column for each fold, of what is not for testing.
fn cross(items: &[Item<'_>], tested: Option<&[bool]>, how: &Splitting) -> Vec<(String, Vec<&'static str>)> {
    let is_test = |index: usize| tested.is_some_and(|tested| tested[index]);
    let left: Vec<usize> = (0..items.len()).filter(|index| !is_test(*index)).collect();
    let chosen = folds(&left.iter().map(|index| items[*index].clone()).collect::<Vec<_>>(), how.folds, how.seed);
    let own: BTreeMap<usize, usize> = left.into_iter().zip(chosen).collect();
    let held = if tested.is_some() { "val" } else { "test" };
    let value = |fold: usize, index: usize| match own.get(&index) {
        Some(own) if *own == fold => held,
        Some(_) => "train",
        None => "test",
    };
    (0..how.folds).map(|fold| (format!("fold_{}", fold + 1), (0..items.len()).map(|index| value(fold, index)).collect())).collect()
}

/// A column for each site, whose rows are for testing in it.
fn without(patients: &[String], sites: &[String]) -> Result<Vec<(String, Vec<&'static str>)>, DataError> {
    let text = |of| -> Vec<&str> { <[String]>::iter(of).map(String::as_str).collect() };
    let (people, places) = (text(patients), text(sites));
    let several: Vec<String> = in_several(&people, &places).into_iter().map(pseudonym).collect();
    if !several.is_empty() {
        let what = format!("{} patients were at two sites, and would be in training and testing: {}", several.len(), few(&several));
        return Err(DataError::one(Finding::new(Reason::PatientInTwoSplits, what, several, "give each patient one site")));
    }
    let distinct: BTreeSet<&str> = places.iter().copied().collect();
    let column = |site: &str| (format!("without_{site}"), places.iter().map(|own| if *own == site { "test" } else { "train" }).collect());
    Ok(distinct.into_iter().map(column).collect())
}

fn save(out: &Path, header: &[String], rows: &[csv::StringRecord], columns: &[(String, Vec<&str>)]) -> Result<(), DataError> {
    if out.exists() {
        return Err(refused(Reason::DataUnreadable, format!("{} is there already", out.display()), "remove it, or name another file"));
    }
    if out.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet")) {
        return Err(refused(Reason::DataUnreadable, format!("{} would hold CSV", out.display()), "name a .csv file"));
    }
    let names: Vec<&str> = header.iter().map(String::as_str).chain(columns.iter().map(|(name, _)| name.as_str())).collect();
    let record = |index: usize| -> Vec<&str> {
        let own = (0..header.len()).map(|column| rows[index].get(column).unwrap_or_default());
        own.chain(columns.iter().map(|(_, values)| values[index])).collect()
    };
    write_table(out, std::iter::once(names).chain((0..rows.len()).map(record)))
}
