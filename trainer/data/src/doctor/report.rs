//! What the doctor found, as data: counts, the pairs that matter, and one line for a log. Patients appear under their
//! pseudonyms only.

use std::collections::BTreeSet;

use graft_crds::contract::{DataFindings, ShortcutFinding};
use graft_crds::spec::Duplicates;
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, Split};
use crate::doctor::shortcut::Shortcut;
use crate::error::{DataError, Finding, Reason};

/// A report lists at most this many pairs; the counts are of all.
pub(crate) const PAIRS_LISTED: usize = 200;

/// What the doctor found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Images that were looked at.
    pub images: usize,
    /// Images that could not be decoded and were left out.
    pub undecodable: usize,
    /// Pairs of images with equal pixels.
    pub exact: PairCounts,
    /// Pairs of images that show the same picture with other pixels.
    pub near: PairCounts,
    /// Pairs across splits or with different labels, the worst first; at most 200.
    pub pairs: Vec<Pair>,
    /// Patients.
    pub patients: Patients,
    /// Images per class and split.
    pub classes: Vec<ClassCount>,
    /// Training images of the largest class for each of the smallest.
    pub imbalance: Option<f64>,
    /// What predicts the label and should not, the strongest first.
    pub shortcuts: Vec<Shortcut>,
    /// What was left out so that each picture is in one split; none unless the job asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
    /// Indices of the training and validation images that would have to go for that.
    #[serde(skip)]
    pub repeats: BTreeSet<usize>,
}

/// Images that repeat a picture of a later split, in the order of training, validation and test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Training images.
    pub train: usize,
    /// Validation images.
    pub validation: usize,
}

/// How many pairs there are, and which of them do harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairCounts {
    /// All pairs.
    pub pairs: usize,
    /// Of these, in two splits: the test result looks better than it is.
    pub across_splits: usize,
    /// Of these, with different labels: at least one label is wrong.
    pub label_conflicts: usize,
}

/// Two images that show the same picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// The image that comes first in the order of training, validation and test.
    pub first: Member,
    /// The other one.
    pub second: Member,
    /// Correlation of the pictures at 32 × 32 grey pixels; 1 for equal pixels.
    pub correlation: f64,
    /// How one must be turned or mirrored to become the other; none for as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
}

impl Pair {
    /// Whether the two are in different splits.
    #[must_use]
    pub fn across_splits(&self) -> bool {
        self.first.split != self.second.split
    }

    /// Whether the two have different labels.
    #[must_use]
    pub fn label_conflict(&self) -> bool {
        self.first.label != self.second.label
    }
}

impl Pair {
    /// How alike the two are, in words.
    #[must_use]
    pub fn likeness(&self) -> String {
        let alike = if self.correlation >= 1.0 { "equal pixels".into() } else { format!("correlation {:.3}", self.correlation) };
        self.turn.as_ref().map_or_else(|| alike.clone(), |turn| format!("{alike}, {turn}"))
    }
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} and {}: {}", self.first, self.second, self.likeness())
    }
}

/// One image of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The image as the user names it.
    pub input: String,
    /// Its class.
    pub label: String,
    /// Its split.
    pub split: String,
    /// The patient's pseudonym.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// Its index in the data set.
    #[serde(skip)]
    pub sample: usize,
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {})", self.input, self.split, self.label)
    }
}

/// What is known about patients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patients {
    /// Different patient ids; 0 when the data names none.
    pub named: usize,
    /// Of these, in two splits.
    pub across_splits: usize,
    /// Groups of at least two images that copies of pictures tie together.
    pub inferred_groups: usize,
    /// Of these, in two splits.
    pub inferred_across_splits: usize,
}

/// Images of a class in each split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassCount {
    /// The class.
    pub class: String,
    /// Training images.
    pub train: usize,
    /// Validation images.
    pub validation: usize,
    /// Test images.
    pub test: usize,
}

impl LeftOut {
    fn words(self) -> String {
        format!("; left out: {} training and {} validation images that repeat a picture of a later split", self.train, self.validation)
    }
}

impl ClassCount {
    /// Splits without an image of the class.
    pub fn empty_splits(&self) -> impl Iterator<Item = Split> {
        let counts = [self.train, self.validation, self.test];
        Split::ALL.into_iter().zip(counts).filter(|(_, count)| *count == 0).map(|(split, _)| split)
    }
}

impl Report {
    /// Pairs in two splits or with different labels, exact and near.
    #[must_use]
    pub fn harmful_pairs(&self) -> PairCounts {
        PairCounts {
            pairs: self.exact.pairs + self.near.pairs,
            across_splits: self.exact.across_splits + self.near.across_splits,
            label_conflicts: self.exact.label_conflicts + self.near.label_conflicts,
        }
    }

    /// Whether nothing was found that makes the test result wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let harmful = self.harmful_pairs();
        harmful.across_splits == 0 && harmful.label_conflicts == 0 && self.patients.across_splits == 0 && self.shortcuts.is_empty()
    }

    /// One line for a log: the counts, without names.
    #[must_use]
    pub fn line(&self) -> String {
        let harmful = self.harmful_pairs();
        let shortcuts: Vec<String> = self.shortcuts.iter().map(|s| format!("{} (AUROC {:.2})", s.feature.name(), s.auroc)).collect();
        format!(
            "{} images looked at: {} exact and {} near duplicates, {} pairs across splits, {} with different labels{}; shortcuts: {}",
            self.images,
            self.exact.pairs,
            self.near.pairs,
            harmful.across_splits,
            harmful.label_conflicts,
            self.left_out.map_or_else(String::new, |left_out| left_out.words()),
            if shortcuts.is_empty() { "none".into() } else { shortcuts.join(", ") },
        )
    }

    /// The counts for a status, without names.
    #[must_use]
    pub fn findings(&self) -> DataFindings {
        let harmful = self.harmful_pairs();
        let shortcuts = self.shortcuts.iter().map(|s| ShortcutFinding { feature: s.feature, class: s.class.clone(), auroc: s.auroc });
        DataFindings {
            images: self.images as u64,
            skipped: self.undecodable as u64,
            pairs_across_splits: harmful.across_splits as u64,
            label_conflicts: harmful.label_conflicts as u64,
            left_out: self.left_out.map_or(0, |left_out| left_out.train + left_out.validation) as u64,
            shortcuts: shortcuts.collect(),
        }
    }

    /// What `spec.data.duplicates` says of pictures in two splits and pictures with two labels: gives the images of `dataset`, by their
    /// indices, that are left out, and counts them.
    ///
    /// # Errors
    /// As [`Report::refuse_duplicates`].
    pub fn obey(&mut self, dataset: &Dataset, policy: Duplicates) -> Result<BTreeSet<usize>, DataError> {
        match policy {
            Duplicates::Refuse => self.refuse_duplicates().map(|()| BTreeSet::new()),
            Duplicates::Record => Ok(BTreeSet::new()),
            Duplicates::Regroup => {
                let of = |split: Split| self.repeats.iter().filter(|index| dataset.samples[**index].split == split).count();
                self.left_out = Some(LeftOut { train: of(Split::Train), validation: of(Split::Validation) });
                Ok(self.repeats.clone())
            }
        }
    }

    /// Refuses pictures in two splits and pictures with two labels.
    ///
    /// # Errors
    /// `PictureInTwoSplits` and `LabelConflict`, each with its pairs.
    pub fn refuse_duplicates(&self) -> Result<(), DataError> {
        let places = |which: fn(&Pair) -> bool| self.pairs.iter().filter(|pair| which(pair)).map(ToString::to_string).collect::<Vec<_>>();
        let harmful = self.harmful_pairs();
        let mut findings = Vec::new();
        if harmful.across_splits > 0 {
            let what = format!("{} pairs of images in two splits show the same picture", harmful.across_splits);
            let remedy =
                "keep one image of each pair, or both in one split; spec.data.duplicates: regroup leaves the test set's copies out of training";
            findings.push(Finding::new(Reason::PictureInTwoSplits, what, places(Pair::across_splits), remedy));
        }
        if harmful.label_conflicts > 0 {
            let what = format!("{} pairs of images show the same picture under different labels", harmful.label_conflicts);
            let remedy = "correct the label or remove the images; spec.data.duplicates: record trains anyway";
            findings.push(Finding::new(Reason::LabelConflict, what, places(Pair::label_conflict), remedy));
        }
        DataError::check(findings)
    }
}
