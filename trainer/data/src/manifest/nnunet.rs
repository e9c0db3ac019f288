//! nnU-Net's folders (and those of the Medical Segmentation Decathlon, from which they come) as a classification, and other folders of volumes
//! and masks: a slice shows a class where
//! its mask has a voxel of it. Images and masks are paired by their case; what is left over is reported, as are masks of another size and
//! values that `dataset.json` does not name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::rows::{Row, Rows};
use super::volumes::columns;
use super::{Options, Written, few, refused};
use crate::error::{DataError, Reason};
use crate::inspect::{Paired, nn_unet_cases, unreadable};
use crate::nifti::{Shape, layers, shape};
use crate::parallel;

/// Masks with more values than this, besides 0, are no masks of classes.
const VALUES: usize = 64;

/// A class and the values of its voxels.
type Class = (String, Vec<i64>);

/// An image and its mask, relative to the root.
struct Case {
    name: String,
    image: String,
    mask: String,
    split: Option<String>,
}

pub(super) fn nn_unet(root: &Path, options: &Options) -> Result<Written, DataError> {
    let classes = classes(&root.join("dataset.json"))?;
    let (mut notes, mut cases) = (Vec::new(), Vec::new());
    for (split, images, masks) in [("train", "imagesTr", "labelsTr"), ("test", "imagesTs", "labelsTs")] {
        if split == "train" || root.join(masks).is_dir() {
            let case = |(name, image, mask)| Case { name, image, mask, split: Some(split.to_owned()) };
            cases.extend(pairs(root, images, masks, &mut notes)?.into_iter().map(case));
        }
    }
    if !cases.iter().any(|case| case.split.as_deref() == Some("test")) {
        cases.iter_mut().for_each(|case| case.split = None);
    }
    slices(root, cases, Some(classes), notes, options)
}

/// Folders of volumes and masks without a `dataset.json`: classes are the values of the masks.
pub(super) fn masked(root: &Path, found: Vec<Paired>, options: &Options) -> Result<Written, DataError> {
    let (mut notes, mut cases, several) = (Vec::new(), Vec::new(), found.len() > 1);
    for paired in found {
        let Some(masks) = &paired.masks else {
            notes.push(format!("{} has no folder of masks, and was left out", paired.images));
            continue;
        };
        for (files, folder, other) in [(&paired.images_only, &paired.images, masks), (&paired.masks_only, masks, &paired.images)] {
            notes.extend(without_partner(files, folder, other));
        }
        cases.extend(paired.pairs.iter().map(|(stem, image, mask)| {
            let split = paired.split(stem).map(|split| if split == "validation" { "val" } else { split }.to_owned());
            // The same name in two folders is not the same case.
            let name = if several { format!("{}/{stem}", paired.images) } else { stem.clone() };
            Case { name, image: image.clone(), mask: mask.clone(), split }
        }));
    }
    slices(root, cases, None, notes, options)
}

/// The classes of masks that none are named for: their values.
fn by_value<'a>(layers: impl Iterator<Item = &'a BTreeSet<i64>>, root: &Path) -> Result<Vec<Class>, DataError> {
    let values: BTreeSet<i64> = layers.flatten().copied().filter(|value| *value != 0).collect();
    if values.len() > VALUES {
        let what = format!("{}: the masks have {} values besides 0, which are no classes", root.display(), values.len());
        return Err(refused(Reason::DataUnreadable, what, "write a manifest with the columns image and label"));
    }
    Ok(values.into_iter().map(|value| (format!("value-{value}"), vec![value])).collect())
}

/// A row for each chosen slice of the cases, and which of the classes it shows.
fn slices(root: &Path, cases: Vec<Case>, classes: Option<Vec<Class>>, mut notes: Vec<String>, options: &Options) -> Result<Written, DataError> {
    let threads = parallel::processors();
    let seen = parallel::map(cases.len(), threads, |index| look(&root.join(&cases[index].image), &root.join(&cases[index].mask)));
    if classes.is_none() {
        notes.push("there is no dataset.json: classes are called by the values of the masks".into());
    }
    let classes = classes.map_or_else(|| by_value(seen.iter().flatten().flat_map(|(_, layers)| layers), root), Ok)?;
    let (mut rows, mut bad, mut odd) = (Vec::new(), Vec::new(), BTreeMap::<i64, usize>::new());
    for (case, seen) in cases.iter().zip(seen) {
        let (shape, layers) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                bad.push(format!("{} ({error})", case.name));
                continue;
            }
        };
        let known = |value: &&i64| **value != 0 && !classes.iter().any(|(_, values)| values.contains(value));
        let unknown: BTreeSet<i64> = layers.iter().flatten().filter(known).copied().collect();
        unknown.into_iter().for_each(|value| *odd.entry(value).or_default() += 1);
        for slice in options.slices.of(layers.len()) {
            let shows = |(_, values): &Class| values.iter().any(|value| layers[slice].contains(value));
            let labels = match classes.as_slice() {
                [only] => vec![if shows(only) { only.0.clone() } else { "background".into() }],
                several => several.iter().map(|class| u8::from(shows(class)).to_string()).collect(),
            };
            let image = format!("{}#{slice}", case.image);
            rows.push(Row { image, patient: case.name.clone(), labels, split: case.split.clone(), more: columns(&shape) });
        }
    }
    if !bad.is_empty() {
        notes.push(format!("{} cases cannot be used and were left out: {}", bad.len(), few(&bad)));
    }
    notes.extend(odd.into_iter().map(|(value, cases)| format!("{cases} masks have the value {value}, which dataset.json does not name")));
    notes.push("a slice shows a class where its mask has a voxel of it; each case counts as a patient".into());
    let findings = if classes.len() > 1 { classes.into_iter().map(|(name, _)| name).collect() } else { vec![] };
    Rows { findings, more: vec!["orientation", "step"], rows, notes }.write(root, options)
}

/// The classes of `dataset.json` without the background: `{"name": 1}` or `{"name": [1, 2]}` as nnU-Net's second version has them,
/// `{"1": "name"}` as the first has.
fn classes(path: &Path) -> Result<Vec<Class>, DataError> {
    let odd = |what: &str| refused(Reason::DataUnreadable, format!("{}: {what}", path.display()), "see nnU-Net's description of dataset.json");
    let text = std::fs::read(path).map_err(|error| unreadable(path, error))?;
    let whole: Value = serde_json::from_slice(&text).map_err(|error| odd(&format!("is no JSON: {error}")))?;
    let labels = whole["labels"].as_object().ok_or_else(|| odd("has no labels"))?;
    let mut classes: Vec<Class> = Vec::new();
    for (key, value) in labels {
        let class = match (key.parse::<i64>(), value) {
            (Ok(number), Value::String(name)) => (name.clone(), vec![number]),
            (_, Value::Number(number)) => (key.clone(), number.as_i64().into_iter().collect()),
            (_, Value::Array(numbers)) => (key.clone(), numbers.iter().filter_map(Value::as_i64).collect()),
            _ => return Err(odd(&format!("has a label {key:?} that is no number, list of numbers or name"))),
        };
        if class.1 != [0] && class.0 != "ignore" {
            classes.push(class);
        }
    }
    classes.sort_by(|a, b| a.1.cmp(&b.1));
    if classes.is_empty() { Err(odd("has no class besides the background")) } else { Ok(classes) }
}

/// Case, image and mask, by names relative to the root; of several channels the first.
fn pairs(root: &Path, images: &str, masks: &str, notes: &mut Vec<String>) -> Result<Vec<(String, String, String)>, DataError> {
    let (images_of, masks_of) = (nn_unet_cases(&root.join(images))?, nn_unet_cases(&root.join(masks))?);
    let only = |of: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
        of.iter().filter(|(case, _)| !other.contains_key(*case)).map(|(_, file)| file.clone()).collect()
    };
    for (files, folder, other) in [(only(&images_of, &masks_of), images, masks), (only(&masks_of, &images_of), masks, images)] {
        notes.extend(without_partner(&files, folder, other));
    }
    let paired = images_of.into_iter().filter_map(|(case, image)| {
        let mask = masks_of.get(&case)?;
        Some((case, format!("{images}/{image}"), format!("{masks}/{mask}")))
    });
    Ok(paired.collect())
}

fn without_partner(files: &[String], folder: &str, other: &str) -> Option<String> {
    (!files.is_empty()).then(|| format!("{} files of {folder} have no partner in {other} and were left out: {}", files.len(), few(files)))
}

/// The image's shape, and which values the mask has in each slice.
fn look(image: &Path, mask: &Path) -> Result<(Shape, Vec<BTreeSet<i64>>), String> {
    let own = shape(image).map_err(|error| format!("image: {error}"))?;
    let (other, layers) = layers(mask).map_err(|error| format!("mask: {error}"))?;
    if own.size != other.size {
        let text = |size: [usize; 3]| size.map(|side| side.to_string()).join(" × ");
        return Err(format!("the mask has {} voxels and the image {}", text(other.size), text(own.size)));
    }
    if own.volumes > 1 {
        return Err(format!("the image has {} volumes for one mask", own.volumes));
    }
    Ok((own, layers))
}
