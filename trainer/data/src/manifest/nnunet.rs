//! nnU-Net's folders (and those of the Medical Segmentation Decathlon, from which they come) as a classification: a slice shows a class where
//! its mask has a voxel of it. Images and masks are paired by their case; what is left over is reported, as are masks of another size and
//! values that `dataset.json` does not name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::rows::{Row, Rows};
use super::volumes::columns;
use super::{Options, Written, few, refused};
use crate::error::{DataError, Reason};
use crate::inspect::{nn_unet_cases, unreadable};
use crate::nifti::{Shape, layers, shape};
use crate::parallel;

/// A class and the values of its voxels.
type Class = (String, Vec<i64>);

pub(super) fn nn_unet(root: &Path, options: &Options) -> Result<Written, DataError> {
    let classes = classes(&root.join("dataset.json"))?;
    let mut notes = Vec::new();
    let mut cases: Vec<(&str, String, String, String)> = Vec::new();
    for (split, images, masks) in [("train", "imagesTr", "labelsTr"), ("test", "imagesTs", "labelsTs")] {
        if split == "train" || root.join(masks).is_dir() {
            cases.extend(pairs(root, images, masks, &mut notes)?.into_iter().map(|(case, image, mask)| (split, case, image, mask)));
        }
    }
    let official = cases.iter().any(|(split, ..)| *split == "test");
    let threads = parallel::processors();
    let seen = parallel::map(cases.len(), threads, |index| look(&root.join(&cases[index].2), &root.join(&cases[index].3)));
    let (mut rows, mut bad, mut odd) = (Vec::new(), Vec::new(), BTreeMap::<i64, usize>::new());
    for ((split, case, image, _), seen) in cases.iter().zip(seen) {
        let (shape, layers) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                bad.push(format!("{case} ({error})"));
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
            let split = official.then(|| (*split).to_owned());
            rows.push(Row { image: format!("{image}#{slice}"), patient: case.clone(), labels, split, more: columns(&shape) });
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
        if !files.is_empty() {
            notes.push(format!("{} files of {folder} have no partner in {other} and were left out: {}", files.len(), few(&files)));
        }
    }
    let paired = images_of.into_iter().filter_map(|(case, image)| {
        let mask = masks_of.get(&case)?;
        Some((case, format!("{images}/{image}"), format!("{masks}/{mask}")))
    });
    Ok(paired.collect())
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
