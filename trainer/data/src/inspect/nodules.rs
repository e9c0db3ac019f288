//! LIDC's list of nodules without a header: for each nodule its place and size, which of four readers marked it, and the means of the nine
//! characteristics that they gave it, malignancy last, from 1 to 5. It is known by its 30 columns and what stands in them.

use std::collections::BTreeSet;

use super::tables::malignant;
use super::{Inspection, Layout};

/// How many columns there are.
const WIDTH: usize = 30;
/// Case, number of the scan, and number of the nodule in it.
const PLACE: [usize; 3] = [1, 2, 3];
/// The column that is empty in each row.
const EMPTY: usize = 9;
/// The names that up to four readers gave it.
const READERS: std::ops::Range<usize> = 17..21;
/// Means of subtlety, internal structure, calcification, sphericity, margin, lobulation, spiculation, texture and malignancy.
const MEANS: std::ops::Range<usize> = 21..WIDTH;

/// Columns that are there once it has a header.
const HEADER: [&str; 4] = ["nodule_id", "patient_id", "readings", "malignancy"];

/// Whether a row is one of the list.
pub(super) fn recognised(row: &csv::StringRecord) -> bool {
    let number = |index: usize| row.get(index).and_then(|value| value.trim().parse::<f64>().ok());
    let whole = |index: usize| row.get(index).is_some_and(|value| value.trim().parse::<u64>().is_ok());
    row.len() == WIDTH
        && PLACE.into_iter().all(whole)
        && (4..EMPTY).all(|index| number(index).is_some())
        && row.get(EMPTY).is_some_and(str::is_empty)
        && MEANS.clone().all(|index| number(index).is_some_and(|mean| (0.0..=6.0).contains(&mean)))
}

/// Whether this is the header that [`with_header`] gave a list.
pub(crate) fn named(header: &[String]) -> bool {
    header.iter().map(String::as_str).eq(HEADER)
}

/// Of each nodule its name (`LIDC-IDRI-0001_3000566_1`, of the case, the scan and the nodule), the case, how many readers rated it, and the mean of their
/// malignancies, nothing where it is 0 because none did.
pub(super) fn with_header(rows: impl Iterator<Item = csv::StringRecord>) -> (Vec<String>, Vec<csv::StringRecord>) {
    let told = |row: csv::StringRecord| {
        let at = |index: usize| row.get(index).unwrap_or_default().trim().to_owned();
        let [case, scan, nodule] = PLACE.map(at);
        let patient = format!("LIDC-IDRI-{case:0>4}");
        let readers = READERS.filter(|index| !at(*index).is_empty()).count();
        let mean = Some(at(WIDTH - 1)).filter(|mean| mean.parse::<f64>().is_ok_and(|mean| mean > 0.0));
        csv::StringRecord::from(vec![format!("{patient}_{scan}_{nodule}"), patient, readers.to_string(), mean.unwrap_or_default()])
    };
    (HEADER.map(str::to_owned).to_vec(), rows.map(told).collect())
}

/// How many readers rated a nodule, and the mean of what they said.
pub(crate) fn rating(row: &csv::StringRecord) -> Option<(usize, f64)> {
    Some((row.get(2)?.parse().ok()?, row.get(3)?.parse().ok()?))
}

/// How far the highest rating is from the lowest at the least: whole numbers whose mean is none are not all the same.
pub(crate) fn least_distance(mean: f64) -> f64 {
    if mean.fract() == 0.0 { 0.0 } else { 1.0 }
}

pub(super) fn nodules(rows: &[csv::StringRecord]) -> Inspection {
    let mut seen = Inspection::new(Layout::Malignancy);
    seen.images = rows.len();
    seen.patients = Some(rows.iter().filter_map(|row| row.get(1)).collect::<BTreeSet<_>>().len());
    let ratings: Vec<Option<(usize, f64)>> = rows.iter().map(rating).collect();
    ratings.iter().for_each(|rating| seen.count(malignant(&rating.map(|(_, mean)| mean).into_iter().collect::<Vec<_>>()), "all"));
    let several = ratings.iter().flatten().filter(|(readers, _)| *readers > 1);
    let (rated, disagree) = several.fold((0, 0), |(all, odd), (_, mean)| (all + 1, odd + usize::from(least_distance(*mean) > 0.0)));
    seen.notes.push(format!("{rated} nodules are rated by several readers, {disagree} of them differently by what the mean shows: the mean counts"));
    seen.notes.push("the table has no header and names no image: `graft data manifest` takes files named LIDC-IDRI-CASE_SCAN_NODULE".into());
    seen
}
