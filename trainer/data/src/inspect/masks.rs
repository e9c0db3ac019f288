//! Images with a mask each: folders whose names say which is which and whose files have the same stems, or a table whose label is a file. A mask
//! is no class, and neither is the folder that masks lie in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Inspection, Layout, sizes, split_named, unreadable};
use crate::error::DataError;
use crate::nifti;
use crate::source::{DEPTH_LIMIT, list, named_as_image, walk};

/// Words that a folder of images is named by.
const IMAGES: [&str; 5] = ["images", "image", "imgs", "img", "scans"];
/// Words that a folder of masks is named by.
const MASKS: [&str; 10] = ["labels", "label", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "groundtruth", "annotations"];
/// What may stand at the end of a mask's name.
const ENDS: [&str; 7] = ["_mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt"];

/// A folder of images with its folder of masks, if there is one, and which of their files belong together.
#[derive(Debug, Default)]
pub(crate) struct Paired {
    /// The folders, relative to the root.
    pub(crate) images: String,
    pub(crate) masks: Option<String>,
    /// The split that their names say.
    split: Option<&'static str>,
    /// Stem, image and mask, relative to the root.
    pub(crate) pairs: Vec<(String, String, String)>,
    /// Images and masks without a partner, relative to their folder.
    pub(crate) images_only: Vec<String>,
    pub(crate) masks_only: Vec<String>,
}

impl Paired {
    /// The split that the folders' names, or the first folder below them, say of a file.
    pub(crate) fn split(&self, stem: &str) -> Option<&'static str> {
        self.split.or_else(|| stem.split_once('/').and_then(|(first, _)| split_named(first)))
    }
}

/// Which of the two a folder's name says that it holds, and what else it says: `imagesTr` and `labelsTr` have the same rest.
pub(super) fn role(name: &str) -> Option<(bool, String)> {
    let name = name.to_lowercase();
    let parts: Vec<&str> = name.split(['_', '-', ' ']).collect();
    let of = |words: &[&str]| {
        let rest =
            |part: &str| words.iter().find_map(|word| part.strip_prefix(word)).filter(|rest| ["", "tr", "ts"].contains(rest)).map(str::to_owned);
        let (at, rest) = parts.iter().enumerate().find_map(|(at, part)| Some((at, rest(part)?)))?;
        let others = parts.iter().enumerate().map(|(index, part)| if index == at { rest.as_str() } else { part });
        Some(others.collect::<Vec<_>>().join("_"))
    };
    of(&IMAGES).map(|rest| (false, rest)).or_else(|| of(&MASKS).map(|rest| (true, rest)))
}

/// The folders of images and masks in a folder, or in its folders of splits; none where no mask is.
///
/// # Errors
/// A folder cannot be read.
pub(crate) fn find(root: &Path) -> Result<Vec<Paired>, DataError> {
    let mut all = Vec::new();
    let names = list(root).map_err(|error| unreadable(root, error))?;
    let splits = names
        .iter()
        .filter(|(_, path)| path.is_dir())
        .filter_map(|(name, _)| Some((format!("{name}/"), split_named(name))).filter(|(_, split)| split.is_some()));
    for (prefix, split) in std::iter::once((String::new(), None)).chain(splits) {
        let (mut images, mut masks) = (BTreeMap::new(), BTreeMap::new());
        let folder = root.join(&prefix);
        for (name, path) in list(&folder).map_err(|error| unreadable(&folder, error))?.iter().filter(|(_, path)| path.is_dir()) {
            let Some((is_mask, rest)) = role(name) else { continue };
            let files = stems(path)?;
            if !files.is_empty() {
                if is_mask { &mut masks } else { &mut images }.entry(rest).or_insert((format!("{prefix}{name}"), files));
            }
        }
        all.extend(images.into_iter().map(|(rest, images)| {
            let own = rest.split('_').find_map(|part| match part {
                "tr" => Some("train"),
                "ts" => Some("test"),
                other => split_named(other),
            });
            Paired { split: split.or(own), ..paired(images, masks.remove(&rest)) }
        }));
    }
    if all.iter().all(|paired: &Paired| paired.masks.is_none()) {
        all.clear();
    }
    Ok(all)
}

/// The images below a folder by their path without what says the format.
fn stems(folder: &Path) -> Result<BTreeMap<String, String>, DataError> {
    let mut files = BTreeMap::new();
    walk(folder, "", DEPTH_LIMIT, &mut files).map_err(|(path, error)| unreadable(&path, error))?;
    let files = files.into_keys().map(|key| key.trim_start_matches('/').to_owned());
    Ok(files.map(|key| (stem(&key).to_owned(), key)).collect())
}

pub(super) fn stem(key: &str) -> &str {
    let key = key.strip_suffix(".gz").unwrap_or(key);
    let from = key.rfind('/').map_or(0, |at| at + 1);
    key[from..].rfind('.').map_or(key, |at| &key[..from + at])
}

/// The stem of the image that a mask is called after, `x` of `x_mask` and of `x_mask_1`.
pub(super) fn of_image(stem: &str) -> Option<&str> {
    let plain = |stem: &'_ str| ENDS.iter().find_map(|end| stem.strip_suffix(end)).map(str::len);
    let numbered = || {
        let (before, number) = stem.rsplit_once('_')?;
        number.bytes().all(|digit| digit.is_ascii_digit()).then(|| plain(before))?
    };
    plain(stem).or_else(numbered).map(|length| &stem[..length])
}

/// The stem without the number of a channel, `_0000`, and whether it is the first.
fn channel(stem: &str) -> Option<(&str, bool)> {
    let (case, number) = stem.rsplit_once('_')?;
    (number.len() == 4 && number.bytes().all(|digit| digit.is_ascii_digit())).then_some((case, number == "0000"))
}

type Files = (String, BTreeMap<String, String>);

fn paired((images, files): Files, masks: Option<Files>) -> Paired {
    let Some((masks, mask_files)) = masks else {
        return Paired { images, images_only: files.into_values().collect(), ..Paired::default() };
    };
    // By the plain stem, so that a mask's own name goes before what is left of another's.
    let mut of: BTreeMap<&str, &String> = BTreeMap::new();
    for (stem, file) in &mask_files {
        of.entry(ENDS.iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem)).or_insert(file);
    }
    of.extend(mask_files.iter().map(|(stem, file)| (stem.as_str(), file)));
    let (mut pairs, mut images_only, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (stem, file) in &files {
        let (case, first) = match channel(stem) {
            Some((case, first)) if !of.contains_key(stem.as_str()) && of.contains_key(case) => (case, first),
            _ => (stem.as_str(), true),
        };
        match of.get(case) {
            // A further channel of an image that is there already.
            _ if !first => {}
            Some(mask) => {
                used.insert(*mask);
                pairs.push((case.to_owned(), format!("{images}/{file}"), format!("{masks}/{mask}")));
            }
            None => images_only.push(file.clone()),
        }
    }
    let masks_only = mask_files.values().filter(|mask| !used.contains(mask)).cloned().collect();
    Paired { images, masks: Some(masks), split: None, pairs, images_only, masks_only }
}

/// What was counted of pairs and of files without a partner.
const COUNTED: [&str; 3] = ["image with mask", "image without mask", "mask without image"];

/// What is to be said of folders of images and masks; none where there are none.
pub(super) fn folders(root: &Path) -> Result<Option<Inspection>, DataError> {
    let found = find(root)?;
    if found.is_empty() {
        return Ok(None);
    }
    let mut seen = Inspection::new(Layout::Masks);
    for paired in &found {
        seen.images += paired.pairs.len() + paired.images_only.len();
        let stems =
            [paired.pairs.iter().map(|(stem, ..)| stem).collect::<Vec<_>>(), paired.images_only.iter().collect(), paired.masks_only.iter().collect()];
        for (what, stems) in COUNTED.iter().zip(stems) {
            stems.into_iter().for_each(|stem| seen.count(what, paired.split(stem).unwrap_or("all")));
        }
        let Some(masks) = &paired.masks else {
            seen.notes.push(format!("{} has no folder of masks", paired.images));
            continue;
        };
        for (files, folder, other) in [(&paired.images_only, &paired.images, masks), (&paired.masks_only, masks, &paired.images)] {
            if !files.is_empty() {
                seen.notes.push(format!("{} files of {folder} have no partner in {other}: {}", files.len(), few(files)));
            }
        }
    }
    let images = found.iter().flat_map(|paired| &paired.pairs).map(|(_, image, _)| root.join(image)).collect::<Vec<_>>();
    seen.notes.extend(sizes::of_files(images.iter()));
    let volumes =
        found.iter().flat_map(|paired| &paired.pairs).all(|(_, image, mask)| [image, mask].iter().all(|file| nifti::named(&file.to_lowercase())));
    seen.notes.push(
        if volumes {
            "a mask is no class: `graft data manifest` writes a classification of slices, by the values that their masks have"
        } else {
            "a mask is no class, and jobs read none: what the images show must stand in a manifest with the columns image and label"
        }
        .into(),
    );
    Ok(Some(seen))
}

fn few(files: &[String]) -> String {
    let more = files.len().saturating_sub(5);
    let shown = files[..files.len().min(5)].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Whether a table's labels are files: at least half of them have the extension of an image.
pub(super) fn are_files<'a>(labels: impl Iterator<Item = &'a str>) -> bool {
    let (all, files) = labels.filter(|label| !label.is_empty()).fold((0, 0), |(all, files), label| {
        let name = label.rsplit('/').next().unwrap_or(label);
        (all + 1, files + usize::from(name.contains('.') && named_as_image(label)))
    });
    files > 0 && 2 * files >= all
}

/// A table that names an image and a mask in each row, in these columns; and maybe a split.
pub(super) fn table(root: &Path, rows: &[csv::StringRecord], header: &[String], [image, mask]: [usize; 2], split: Option<usize>) -> Inspection {
    let mut seen = Inspection::new(Layout::Masks);
    seen.images = rows.len();
    let mut named = [BTreeSet::new(), BTreeSet::new()];
    for row in rows {
        let at = |index: usize| row.get(index).unwrap_or_default().trim();
        let there = [image, mask].map(|index| !at(index).is_empty() && root.join(at(index)).is_file());
        let what = match there {
            [true, true] => COUNTED[0],
            [true, false] => COUNTED[1],
            [false, true] => COUNTED[2],
            [false, false] => "neither is there",
        };
        seen.count(what, split.map_or("all", at));
        for (named, index) in named.iter_mut().zip([image, mask]) {
            named.insert(at(index));
        }
    }
    for (named, what) in named.iter().zip(["image", "mask"]) {
        let folders: BTreeSet<&str> = named.iter().filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
        for folder in folders {
            let files = list(&root.join(folder)).unwrap_or_default().into_iter().filter(|(name, path)| named_as_image(name) && path.is_file());
            let left: Vec<String> = files.map(|(name, _)| name).filter(|name| !named.contains(format!("{folder}/{name}").as_str())).collect();
            if !left.is_empty() {
                seen.notes.push(format!("{} files of {folder} are in no row as {what}: {}", left.len(), few(&left)));
            }
        }
    }
    let note = "names mask files, which are no classes: jobs classify, and need a column that says what an image shows";
    seen.notes.push(format!("column {:?} {note}", header[mask]));
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_say_what_they_hold() {
        let of = |name: &str| role(name).map(|(mask, rest)| (mask, rest.clone()));
        assert_eq!((of("imagesTr"), of("labelsTr")), (Some((false, "tr".into())), Some((true, "tr".into()))));
        assert_eq!((of("train_images"), of("Train-Masks")), (Some((false, "train_".into())), Some((true, "train_".into()))));
        assert_eq!((of("CT_COVID"), of("imagery"), of("masked")), (None, None, None));
    }

    #[test]
    fn files_pair_by_stem_whatever_ends_the_name() {
        let files = |names: &[&str]| names.iter().map(|name| (stem(name).to_owned(), (*name).to_owned())).collect::<BTreeMap<_, _>>();
        let found = paired(
            ("images".into(), files(&["a.png", "b_0000.nii.gz", "b_0001.nii.gz", "s/c.1.jpg", "d_0003.png"])),
            Some(("masks".into(), files(&["a_mask.png", "b.nii.gz", "s/c.1.png", "e.png"]))),
        );
        let pairs: Vec<(&str, &str)> = found.pairs.iter().map(|(_, image, mask)| (image.as_str(), mask.as_str())).collect();
        assert_eq!(
            pairs,
            [("images/a.png", "masks/a_mask.png"), ("images/b_0000.nii.gz", "masks/b.nii.gz"), ("images/s/c.1.jpg", "masks/s/c.1.png")]
        );
        assert_eq!((found.images_only, found.masks_only), (vec!["d_0003.png".to_owned()], vec!["e.png".to_owned()]));
    }
}
