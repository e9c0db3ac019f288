//! What one file is: a table, arrays, a slice or frames of DICOM, a volume of NIfTI. The content decides, but for tables, which have no mark.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::arrays::arrays;
use super::tables::table;
use super::{Inspection, Layout, of_slices, sizes, unreadable};
use crate::error::{DataError, Finding, Reason};
use crate::source::{is_dicom, named_as_image};
use crate::table::named_as_table;
use crate::{nifti, series};

/// An archive of ZIP begins so, as `.npz` is.
const ZIP: &[u8] = b"PK\x03\x04";

pub(super) fn file(path: &Path) -> Result<Inspection, DataError> {
    let root = path.parent().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut beginning = Vec::new();
    File::open(path).and_then(|file| file.take(512).read_to_end(&mut beginning)).map_err(|error| unreadable(path, error))?;
    if beginning.starts_with(ZIP) || name.to_lowercase().ends_with(".npz") {
        return arrays(path);
    }
    if named_as_table(&name) {
        return table(path, root);
    }
    if is_dicom(path) {
        return dicom(path, name);
    }
    let gzipped = beginning.starts_with(&[0x1F, 0x8B]);
    if nifti::named(&name.to_lowercase()) || (!gzipped && nifti::recognised(&beginning)) {
        return volume(path);
    }
    if name.contains('.') && named_as_image(&name) {
        let what = format!("{} is one picture, which says neither what it shows nor what is for testing", path.display());
        return Err(DataError::one(Finding::new(Reason::DataUnreadable, what, vec![], "name the folder or the table of the data set")));
    }
    table(path, root)
}

/// A slice as a series of one, or the frames of a file of several.
fn dicom(path: &Path, name: String) -> Result<Inspection, DataError> {
    let (series, films) = series::read_all(&[(name, path.to_owned())]);
    if let Some(film) = films.first() {
        let mut seen = Inspection::new(Layout::DicomSeries);
        seen.images = film.frames;
        seen.notes.push(format!("one file of {} frames, which `graft data manifest` of its folder writes as rows FILE#0, FILE#1, …", film.frames));
        return Ok(seen);
    }
    if series.is_empty() {
        return Err(unreadable(path, "it is a DICOM file without an image or without a SeriesInstanceUID"));
    }
    let mut seen = of_slices(Inspection::new(Layout::DicomSeries), series);
    seen.notes.push("this is one slice: name its folder to see the series".into());
    Ok(seen)
}

fn volume(path: &Path) -> Result<Inspection, DataError> {
    let shape = nifti::shape(path).map_err(|error| unreadable(path, error))?;
    let mut seen = Inspection::new(Layout::Volumes);
    seen.images = 1;
    if shape.volumes > 1 {
        seen.notes.push(format!("one file of {} volumes, whose slices follow each other", shape.volumes));
    }
    seen.notes.extend(sizes::of_volumes(&[path.to_owned()]));
    seen.notes.push(format!("{} axial slices: `graft data manifest` of its folder writes rows of them", shape.slices()));
    Ok(seen)
}
