//! Arrays of NumPy in one file, as MedMNIST hands them out: what they are, and with images and labels what `graft data manifest` would write.

use std::path::Path;

use super::{Inspection, Layout};
use crate::error::DataError;
use crate::manifest::{Head, Npz, WITHOUT_VAL, finding, medmnist};

pub(super) fn arrays(file: &Path) -> Result<Inspection, DataError> {
    let mut npz = Npz::open(file)?;
    let mut seen = Inspection::new(Layout::Arrays);
    let heads = npz.heads()?;
    let shape = |head: &Head| head.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    seen.notes.extend(heads.iter().map(|head| format!("array {:?}: [{}] of {}", head.name, shape(head), head.kind)));
    let counted = count(&mut seen, &mut npz, &heads).and_then(|()| medmnist::check(file));
    match counted {
        Ok(published) => {
            seen.notes.extend(published);
            if npz.splits().len() < 3 {
                seen.notes.push(WITHOUT_VAL.into());
            }
            seen.notes.push(
                "`graft data manifest` writes the images out as files, with a manifest; the arrays name no patients, and classes by number".into(),
            );
        }
        Err(error) => seen.notes.push(format!("`graft data manifest` refuses it: {error}")),
    }
    Ok(seen)
}

/// Images by class and split, as far as they can be understood.
fn count(seen: &mut Inspection, npz: &mut Npz<'_>, heads: &[Head]) -> Result<(), DataError> {
    for split in npz.splits() {
        let shape = heads.iter().find(|head| head.name == format!("{split}_images")).map_or(&[][..], |head| &head.shape);
        let [images, ..] = npz.sides(split, shape)?;
        let labels = npz.labels(split, images)?;
        for own in labels.numbers.chunks_exact(labels.width) {
            match own {
                [class] => seen.count(&class.to_string(), split),
                several => (0..several.len()).filter(|column| several[*column] != 0).for_each(|column| seen.count(&finding(column), split)),
            }
        }
        seen.images += images;
    }
    Ok(())
}
