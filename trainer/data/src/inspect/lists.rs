//! COVID-CT's lists of names, nnU-Net's folders, and Pascal VOC's lists and boxes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::{Inspection, Layout, unreadable};
use crate::error::DataError;
use crate::source::list;

/// A line of COVID-CT's lists.
pub(crate) struct Listed {
    pub(crate) class: &'static str,
    pub(crate) split: &'static str,
    /// The image relative to the root, if there is one.
    pub(crate) file: Option<String>,
}

/// The lists escape what the files do not, and the other way round: names differ by % and _.
pub(crate) fn covid_ct_lists(root: &Path) -> Result<Vec<Listed>, DataError> {
    let plain = |name: &str| name.trim().replace(['%', '_'], "").to_lowercase();
    let mut listed = Vec::new();
    for (class, lists, images) in [("covid", "COVID", "CT_COVID"), ("noncovid", "NonCOVID", "CT_NonCOVID")] {
        let folder = root.join("Images-processed").join(images);
        let entries = list(&folder).map_err(|error| unreadable(&folder, error))?;
        let files: BTreeMap<String, &String> = entries.keys().map(|name| (plain(name), name)).collect();
        for (split, prefix) in [("train", "train"), ("validation", "val"), ("test", "test")] {
            let path = root.join("Data-split").join(lists).join(format!("{prefix}CT_{lists}.txt"));
            let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            listed.extend(text.lines().filter(|line| !line.trim().is_empty()).map(|name| Listed {
                class,
                split,
                file: files.get(&plain(name)).map(|file| format!("Images-processed/{images}/{file}")),
            }));
        }
    }
    Ok(listed)
}

pub(super) fn covid_ct(root: &Path) -> Result<Inspection, DataError> {
    let mut seen = Inspection::new(Layout::CovidCt);
    let mut absent = 0;
    for entry in covid_ct_lists(root)? {
        seen.count(entry.class, entry.split);
        seen.images += 1;
        absent += usize::from(entry.file.is_none());
    }
    if absent > 0 {
        seen.notes.push(format!("{absent} names of the lists have no file"));
    }
    seen.notes
        .push("names differ from files by % and _: `graft data manifest` writes a manifest from the lists; add the patients from their table".into());
    Ok(seen)
}

/// Files of a folder of nnU-Net by their case; of an image's channels the first, which ends in `_0000` or has no number.
pub(crate) fn nn_unet_cases(folder: &Path) -> Result<BTreeMap<String, String>, DataError> {
    let names = list(folder).map_err(|error| unreadable(folder, error))?;
    let case = |name: &str| {
        let stem = name.strip_suffix(".nii.gz").or_else(|| name.strip_suffix(".nii"))?;
        match stem.rsplit_once('_').filter(|(_, channel)| channel.len() == 4 && channel.bytes().all(|digit| digit.is_ascii_digit())) {
            Some((case, "0000")) => Some(case.to_owned()),
            Some(_) => None,
            None => Some(stem.to_owned()),
        }
    };
    Ok(names.into_keys().filter_map(|name| Some((case(&name)?, name))).collect())
}

pub(super) fn nn_unet(root: &Path) -> Result<Inspection, DataError> {
    let mut seen = Inspection::new(Layout::NnUnet);
    let cases = |folder: &str| nn_unet_cases(&root.join(folder)).unwrap_or_default();
    let (images, labels, test) = (cases("imagesTr"), cases("labelsTr"), cases("imagesTs"));
    seen.images = images.len() + test.len();
    seen.counts.insert("volumes".into(), BTreeMap::from([("train".into(), images.len()), ("test".into(), test.len())]));
    let unpaired =
        images.keys().filter(|case| !labels.contains_key(*case)).count() + labels.keys().filter(|case| !images.contains_key(*case)).count();
    if unpaired > 0 {
        seen.notes.push(format!("{unpaired} files of imagesTr and labelsTr have no partner"));
    }
    seen.notes.push("`graft data manifest` writes a classification of slices: which of the classes their masks show".into());
    Ok(seen)
}

/// The split of each name in the official lists, and how many are in two.
pub(crate) fn voc_lists(root: &Path) -> (HashMap<String, &'static str>, usize) {
    let (mut of, mut twice) = (HashMap::new(), 0);
    for (split, file) in [("train", "train"), ("validation", "val"), ("test", "test")] {
        let text = fs::read_to_string(root.join("ImageSets/Main").join(format!("{file}.txt"))).unwrap_or_default();
        for stem in text.lines().filter_map(|line| line.split_whitespace().next()) {
            twice += usize::from(of.insert(stem.to_owned(), split).is_some());
        }
    }
    (of, twice)
}

/// The class of each box of an annotation.
pub(crate) fn voc_classes(text: &str) -> Vec<String> {
    let name = |object: &str| object.split_once("<name>").and_then(|(_, rest)| rest.split_once("</name>")).map(|(name, _)| name.trim().to_owned());
    text.split("<object>").skip(1).filter_map(name).collect()
}

pub(super) fn voc(root: &Path) -> Result<Inspection, DataError> {
    let mut seen = Inspection::new(Layout::Voc);
    let stems: BTreeSet<String> = list(&root.join("JPEGImages"))
        .map_err(|error| unreadable(root, error))?
        .keys()
        .map(|name| name.rsplit_once('.').map_or(name.clone(), |(stem, _)| stem.to_owned()))
        .collect();
    seen.images = stems.len();
    let (of, twice) = voc_lists(root);
    for stem in &stems {
        let Ok(text) = fs::read_to_string(root.join("Annotations").join(format!("{stem}.xml"))) else { continue };
        voc_classes(&text).iter().for_each(|class| seen.count(class, of.get(stem).copied().unwrap_or("unlisted")));
    }
    if twice > 0 {
        seen.notes.push(format!("{twice} images are in two of the lists"));
    }
    let absent = of.keys().filter(|stem| !stems.contains(*stem)).count();
    if absent > 0 {
        seen.notes.push(format!("{absent} names of the lists have no image"));
    }
    seen.notes.push("counts are of boxes: `graft data manifest` writes which classes an image shows, for a task of type multiLabel".into());
    Ok(seen)
}
