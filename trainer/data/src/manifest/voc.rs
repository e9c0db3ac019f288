//! Pascal VOC as a multi-label task: an image shows a class where one of its boxes is of it. The official lists say the splits; where
//! there is none for testing, that for validation is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::rows::{Row, Rows};
use super::{Options, Written, few};
use crate::error::DataError;
use crate::inspect::{unreadable, voc_classes, voc_lists};
use crate::labels::plain;
use crate::source::{is_image, list};

pub(super) fn voc(root: &Path, options: &Options) -> Result<Written, DataError> {
    let folder = root.join("JPEGImages");
    let images = list(&folder).map_err(|error| unreadable(&folder, error))?;
    let images: Vec<&String> = images.iter().filter(|(_, path)| is_image(path)).map(|(name, _)| name).collect();
    let (lists, twice) = voc_lists(root);
    let public = !lists.values().any(|split| *split == "test");
    let (mut notes, mut absent, mut unlisted) = (Vec::new(), Vec::new(), 0);
    let mut shown: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
    for name in images {
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        match fs::read_to_string(root.join("Annotations").join(format!("{stem}.xml"))) {
            _ if !lists.contains_key(stem) => unlisted += 1,
            Ok(text) => drop(shown.insert(name, voc_classes(&text).into_iter().collect())),
            Err(_) => absent.push(name.clone()),
        }
    }
    for (count, what) in [(unlisted, "images are in none of the lists and were left out"), (twice, "images are in two of the lists")] {
        if count > 0 {
            notes.push(format!("{count} {what}"));
        }
    }
    if !absent.is_empty() {
        notes.push(format!("{} images have no annotation and were left out: {}", absent.len(), few(&absent)));
    }
    let classes: BTreeSet<&String> = shown.values().flatten().collect();
    let mut spellings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    classes.iter().for_each(|class| spellings.entry(plain(class)).or_default().push((*class).clone()));
    notes.extend(
        spellings.values().filter(|names| names.len() > 1).map(|names| format!("classes differ only in case or spaces: {}", names.join(", "))),
    );
    if public {
        notes.push("there is no list for testing: that for validation is taken, and validation patients are held out of training".into());
    }
    notes.push("the lists name no patients: each image counts as one of its own".into());
    let split = |stem: &str| match lists.get(stem) {
        Some(&"validation") if public => "test",
        Some(&"validation") => "val",
        Some(split) => split,
        None => "train",
    };
    let row = |(name, own): (&&String, &BTreeSet<String>)| {
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let labels = classes.iter().map(|class| u8::from(own.contains(*class)).to_string()).collect();
        Row { image: format!("JPEGImages/{name}"), patient: stem.to_owned(), labels, split: Some(split(stem).to_owned()), more: vec![] }
    };
    let rows = shown.iter().map(row).collect();
    let findings = classes.iter().map(|class| (*class).clone()).collect();
    Rows { findings, more: vec![], rows, notes }.write(root, options)
}
