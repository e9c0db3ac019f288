//! Series of DICOM slices: which files belong together, in which order they lie in space, and what is wrong with that order. The
//! order comes from positions along the slices' normal and never from names or numbers. Headers are read, and the pixels of one slice of each series.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
use serde::{Deserialize, Serialize};

use crate::dicom::{self, grey_values, text};
use crate::parallel;
use crate::source::is_dicom;

/// Cosines that differ by less are those of one orientation.
const ALIKE: f64 = 1e-3;
/// A file that says it has more frames than this is not believed.
const FRAMES: u32 = 1 << 16;
/// Distances that differ by less than this part are equal.
const EVEN: f64 = 0.1;

/// Slices of one SeriesInstanceUID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Series {
    /// Files relative to the folder, from the lowest position along the normal (row × column direction) to the highest.
    pub slices: Vec<String>,
    /// Columns and rows of the first slice.
    pub size: [u32; 2],
    /// Distances of pixels' centres of the first slice, down and across, in millimetres.
    pub spacing: Option<[f64; 2]>,
    /// Distance between neighbouring slices, in millimetres: the median.
    pub step: Option<f64>,
    /// Least and largest value of the slice in the middle after slope and intercept, of CT in Hounsfield units; none if it cannot be decoded.
    pub values: Option<[f64; 2]>,
    /// What is wrong: orientations, sizes, places, distances, missing slices.
    pub faults: Vec<String>,
    /// The SeriesInstanceUID, and the PatientID if there is one; never to be shown.
    #[serde(skip)]
    pub(crate) uid: String,
    #[serde(skip)]
    pub(crate) patient: Option<String>,
    /// Of each slice where it lies along the normal, in millimetres.
    #[serde(skip)]
    pub(crate) positions: Vec<Option<f64>>,
}

/// What a slice's header says.
#[derive(Clone, Debug)]
struct Header {
    file: String,
    uid: String,
    patient: Option<String>,
    size: [u32; 2],
    spacing: Option<[f64; 2]>,
    orientation: Option<[f64; 6]>,
    position: Option<[f64; 3]>,
    number: Option<i64>,
    frames: u32,
    announced: Option<usize>,
}

/// A file of several frames, which are in order already.
pub(crate) struct Film {
    pub(crate) file: String,
    pub(crate) frames: usize,
    /// As those of [`Series`].
    pub(crate) uid: String,
    pub(crate) patient: Option<String>,
}

/// The series among these files, `(name, path)`, in the order of their first files' names. What is no DICOM is passed over; so is a
/// file of several frames.
#[must_use]
pub fn read(files: &[(String, PathBuf)]) -> Vec<Series> {
    read_all(files).0
}

/// The series as [`read`] has them, and the files of several frames by name.
pub(crate) fn read_all(files: &[(String, PathBuf)]) -> (Vec<Series>, Vec<Film>) {
    let threads = parallel::processors();
    let headers = parallel::map(files.len(), threads, |index| header(&files[index].0, &files[index].1));
    let (mut series, mut films): (BTreeMap<String, Vec<Header>>, Vec<Film>) = Default::default();
    for header in headers.into_iter().flatten() {
        match header.frames {
            1 => series.entry(header.uid.clone()).or_default().push(header),
            2..=FRAMES => films.push(Film { file: header.file, frames: header.frames as usize, uid: header.uid, patient: header.patient }),
            _ => {}
        }
    }
    let mut series: Vec<Vec<Header>> = series.into_values().collect();
    series.sort_by(|a, b| a[0].file.cmp(&b[0].file));
    let paths: BTreeMap<&str, &Path> = files.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    let values = |series: &Series| {
        let middle = paths.get(series.slices.get(series.slices.len() / 2)?.as_str())?;
        grey_values(&std::fs::read(middle).ok()?).ok().map(|[least, most, _]| [least, most])
    };
    (series.into_iter().map(put_in_order).map(|series| Series { values: values(&series), ..series }).collect(), films)
}

/// The SeriesInstanceUID (0020,000E) that a file names.
pub(crate) fn uid(path: &Path) -> Option<String> {
    let object = dicom::header(path)?;
    text(&object, tags::SERIES_INSTANCE_UID)
}

fn numbers<const N: usize>(object: &DefaultDicomObject, tag: Tag) -> Option<[f64; N]> {
    let values = object.element_opt(tag).ok()??.to_multi_float64().ok()?;
    values.try_into().ok().filter(|values: &[f64; N]| values.iter().all(|value| value.is_finite()))
}

fn header(file: &str, path: &Path) -> Option<Header> {
    if !is_dicom(path) {
        return None;
    }
    let object = dicom::header(path)?;
    let whole = |tag: Tag| object.element_opt(tag).ok().flatten().and_then(|element| element.to_int::<i64>().ok());
    let side = |tag: Tag| whole(tag).and_then(|side| u32::try_from(side).ok());
    Some(Header {
        file: file.to_owned(),
        uid: text(&object, tags::SERIES_INSTANCE_UID)?,
        patient: text(&object, tags::PATIENT_ID),
        size: [side(tags::COLUMNS)?, side(tags::ROWS)?],
        spacing: numbers(&object, tags::PIXEL_SPACING),
        orientation: numbers(&object, tags::IMAGE_ORIENTATION_PATIENT),
        position: numbers(&object, tags::IMAGE_POSITION_PATIENT),
        number: whole(tags::INSTANCE_NUMBER),
        frames: side(tags::NUMBER_OF_FRAMES).unwrap_or(1).max(1),
        announced: whole(tags::IMAGES_IN_ACQUISITION).and_then(|count| usize::try_from(count).ok()),
    })
}

fn put_in_order(mut slices: Vec<Header>) -> Series {
    let mut faults = Vec::new();
    let first = slices[0].clone();
    let normal = first.orientation.map(normal);
    let place = |slice: &Header| Some(dot(normal?, slice.position?));
    let mut name = |what: &str, odd: &dyn Fn(&Header) -> bool| {
        let odd: Vec<&str> = slices.iter().filter(|slice| odd(slice)).map(|slice| slice.file.as_str()).collect();
        if !odd.is_empty() {
            faults.push(format!("{} of {} slices {what}: {}", odd.len(), slices.len(), few(&odd)));
        }
    };
    name("say neither where nor how they lie, so that their order is unknown", &|slice| place(slice).is_none());
    name("lie in another orientation than the first", &|slice| match (slice.orientation, first.orientation) {
        (Some(own), Some(other)) => own.iter().zip(other).any(|(a, b)| (a - b).abs() > ALIKE),
        _ => false,
    });
    name("have another size than the first", &|slice| slice.size != first.size);
    name("have another pixel spacing than the first", &|slice| match (slice.spacing, first.spacing) {
        (Some(own), Some(other)) => own.iter().zip(other).any(|(a, b)| (a - b).abs() > ALIKE * b),
        (own, other) => own.is_some() != other.is_some(),
    });
    slices.sort_by(|a, b| place(a).unwrap_or(f64::MAX).total_cmp(&place(b).unwrap_or(f64::MAX)).then_with(|| a.file.cmp(&b.file)));
    let placed: Vec<(f64, &Header)> = slices.iter().filter_map(|slice| Some((place(slice)?, slice))).collect();
    let step = distances(&placed, &mut faults);
    missing(&slices, &mut faults);
    let files = slices.iter().map(|slice| slice.file.clone()).collect();
    let positions = slices.iter().map(place).collect();
    Series { slices: files, size: first.size, spacing: first.spacing, step, values: None, faults, uid: first.uid, patient: first.patient, positions }
}

/// The median distance of neighbours; names those that are at one place, and those that are further apart or nearer than the others.
fn distances(placed: &[(f64, &Header)], faults: &mut Vec<String>) -> Option<f64> {
    let apart: Vec<(f64, String)> = placed.windows(2).map(|two| (two[1].0 - two[0].0, format!("{} and {}", two[0].1.file, two[1].1.file))).collect();
    let mut sorted: Vec<f64> = apart.iter().map(|(distance, _)| *distance).collect();
    sorted.sort_by(f64::total_cmp);
    let step = *sorted.get(sorted.len() / 2)?;
    let pairs = |odd: &dyn Fn(f64) -> bool| apart.iter().filter(|(distance, _)| odd(*distance)).map(|(_, pair)| pair.as_str()).collect::<Vec<_>>();
    let same = pairs(&|distance| distance < ALIKE);
    if !same.is_empty() {
        faults.push(format!("{} pairs of slices are at one place: {}", same.len(), few(&same)));
    }
    let times = |distance: f64| (distance / step).round();
    let even = |distance: f64| (distance / step - times(distance)).abs() < EVEN && times(distance) >= 1.0;
    let gaps = pairs(&|distance| even(distance) && times(distance) > 1.0);
    if !gaps.is_empty() {
        faults.push(format!("slices are missing between {} neighbours, which lie several times {step:.3} mm apart: {}", gaps.len(), few(&gaps)));
    }
    let mixed = pairs(&|distance| distance >= ALIKE && !even(distance));
    if !mixed.is_empty() {
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        faults.push(format!("slices lie {least:.3} to {most:.3} mm apart, mostly {step:.3}; otherwise are {}", few(&mixed)));
    }
    Some(step)
}

/// Names how many slices are not there by what the files say: their numbers, where these are those of the order, or how many there should be.
fn missing(slices: &[Header], faults: &mut Vec<String>) {
    let numbers: Option<Vec<i64>> = slices.iter().map(|slice| slice.number).collect();
    let steps: Vec<i64> = numbers.iter().flat_map(|numbers| numbers.windows(2)).map(|two| two[1].saturating_sub(two[0])).collect();
    if !steps.is_empty() && (steps.iter().all(|step| *step > 0) || steps.iter().all(|step| *step < 0)) {
        let absent: u64 = steps.iter().map(|step| step.unsigned_abs() - 1).sum();
        if absent > 0 {
            faults.push(format!("by their numbers, {absent} slices are missing between the first and the last"));
        }
    }
    if let Some(announced) = slices.iter().filter_map(|slice| slice.announced).max().filter(|announced| *announced > slices.len()) {
        faults.push(format!("the series is truncated: {} of {announced} slices are there", slices.len()));
    }
}

/// Row direction × column direction.
fn normal([a, b, c, d, e, f]: [f64; 6]) -> [f64; 3] {
    [b * f - c * e, c * d - a * f, a * e - b * d]
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn few(names: &[&str]) -> String {
    let more = names.len().saturating_sub(3);
    let shown = names[..names.len().min(3)].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}
