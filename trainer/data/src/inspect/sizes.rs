//! How large images and volumes are, by the headers of some of them. What cannot be read is left to the doctor; what is empty, as the outline
//! of data that lie elsewhere is, says nothing.

use std::path::PathBuf;

use crate::nifti::{self, Shape};
use crate::parallel;

/// So many files are looked at, evenly spread over all.
const SAMPLE: usize = 256;

/// Files of a sample that are not empty.
fn sample(files: &[PathBuf]) -> Vec<&PathBuf> {
    let count = files.len().min(SAMPLE);
    let chosen = (0..count).map(|index| &files[index * files.len() / count]);
    chosen.filter(|path| path.metadata().is_ok_and(|found| found.len() > 0)).collect()
}

/// The smallest, the median and the largest, or the only one.
fn extremes(mut sizes: Vec<Vec<usize>>) -> String {
    sizes.sort_by_key(|sides| (sides.iter().map(|side| *side as u64).product::<u64>(), sides.clone()));
    let text = |sides: &Vec<usize>| sides.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × ");
    let (first, last) = (&sizes[0], &sizes[sizes.len() - 1]);
    if first == last {
        return text(first);
    }
    format!("{} the smallest, {} the median, {} the largest", text(first), text(&sizes[sizes.len() / 2]), text(last))
}

/// `40 of 5000 images`, or `all 40 images`.
fn of(looked_at: usize, all: usize, what: &str) -> String {
    if looked_at == all { format!("all {all} {what}") } else { format!("{looked_at} of {all} {what}") }
}

/// What is to be said of pictures: width and height by their headers. DICOM and NIfTI are told elsewhere.
pub(super) fn of_pictures(files: &[PathBuf]) -> Option<String> {
    let size = |path: &PathBuf| {
        let (width, height) = image::ImageReader::open(path).ok()?.with_guessed_format().ok()?.into_dimensions().ok()?;
        Some(vec![width as usize, height as usize])
    };
    let sample = sample(files);
    let sizes: Vec<Vec<usize>> = parallel::map(sample.len(), parallel::processors(), |index| size(sample[index])).into_iter().flatten().collect();
    (!sizes.is_empty()).then(|| format!("width × height of {}: {}", of(sizes.len(), files.len(), "pictures"), extremes(sizes)))
}

/// What is to be said of files of any kind.
pub(super) fn of_files<'a>(files: impl Iterator<Item = &'a PathBuf>) -> impl Iterator<Item = String> {
    let named = |path: &&PathBuf| nifti::named(&path.to_string_lossy().to_lowercase());
    let (volumes, others): (Vec<PathBuf>, Vec<PathBuf>) = files.cloned().partition(|path| named(&path));
    of_volumes(&volumes).into_iter().chain(of_pictures(&others))
}

/// What is to be said of volumes of NIfTI: voxels from left to right, from back to front and from the feet to the head, their distances, and to
/// where the stored axes run.
pub(super) fn of_volumes(files: &[PathBuf]) -> Option<String> {
    let sample = sample(files);
    let shapes: Vec<Shape> =
        parallel::map(sample.len(), parallel::processors(), |index| nifti::shape(sample[index]).ok()).into_iter().flatten().collect();
    if shapes.is_empty() {
        return None;
    }
    let range = |axis: usize| {
        let each = || shapes.iter().map(|shape| shape.spacing[axis]);
        let (least, most) = (each().fold(f64::INFINITY, f64::min), each().fold(0.0, f64::max));
        if most - least < 5e-4 { format!("{most:.3}") } else { format!("{least:.3} to {most:.3}") }
    };
    let mut axes: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    shapes.iter().for_each(|shape| *axes.entry(&shape.axes).or_default() += 1);
    let axes: Vec<String> =
        axes.into_iter().map(|(axes, count)| if count == shapes.len() { axes.to_owned() } else { format!("{axes} {count}") }).collect();
    Some(format!(
        "voxels of {}: {}; {} mm apart; stored axes {}",
        of(shapes.len(), files.len(), "volumes"),
        extremes(shapes.iter().map(|shape| shape.size.to_vec()).collect()),
        [0, 1, 2].map(range).join(" × "),
        axes.join(", ")
    ))
}
