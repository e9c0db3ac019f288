//! The shortcut alarm: whether the label can be told from what is not the disease, such as the border of the picture or
//! its size. A network will find such a shortcut and fail where it is absent (Zech et al., PLOS Medicine 2018; DeGrave,
//! Janizek and Lee, Nature Machine Intelligence 2021). A small probe is trained on each feature alone and judged on
//! images of patients that it has not seen.

use std::collections::BTreeSet;

use graft_crds::contract::ShortcutFeature as Feature;
use serde::{Deserialize, Serialize};

use crate::dataset::Sample;
use crate::doctor::fingerprint::Fingerprint;
use crate::doctor::logistic;

/// A feature predicts the label well when the lower end of the AUROC's 95 % interval is at least this.
const ALARM: f64 = 0.7;
/// A class with fewer images gives no reliable AUROC.
const LEAST: usize = 20;
/// Probes look at most at so many images, evenly chosen.
const MOST: usize = 20_000;
/// In smaller pictures the object fills the frame, and its outline is no border.
const LEAST_SIDE: u32 = 64;
/// Folders or formats beyond the most frequent of these are one kind.
const KINDS: usize = 16;

/// A feature that predicts a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shortcut {
    /// What predicts it.
    pub feature: Feature,
    /// The class that is predicted best, against all others.
    pub class: String,
    /// Cross-validated AUROC.
    pub auroc: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
}

impl std::fmt::Display for Shortcut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} alone tells {:?} with AUROC {:.3} (95 % interval {:.3} to {:.3})",
            self.feature.name(),
            self.class,
            self.auroc,
            self.low,
            self.high
        )
    }
}

type Image<'a> = (&'a Sample, &'a Fingerprint);

/// Features that predict the label well, the strongest first.
pub(crate) fn find(classes: &[String], images: &[Image<'_>]) -> Vec<Shortcut> {
    let step = images.len().div_ceil(MOST).max(1);
    let images: Vec<Image<'_>> = images.iter().step_by(step).copied().collect();
    let folds: Vec<usize> = images.iter().map(|(sample, _)| fold(sample)).collect();
    let mut found: Vec<Shortcut> = Feature::ALL.into_iter().filter_map(|feature| probe(feature, classes, &images, &folds)).collect();
    found.sort_by(|a, b| b.low.total_cmp(&a.low));
    found
}

/// Images of a patient are in one fold, or the probe would recognise patients.
fn fold(sample: &Sample) -> usize {
    logistic::fold(sample.patient.as_deref().unwrap_or(&sample.key))
}

fn probe(feature: Feature, classes: &[String], images: &[Image<'_>], folds: &[usize]) -> Option<Shortcut> {
    if feature == Feature::BorderPixels && images.iter().any(|(_, print)| print.facts.width.min(print.facts.height) < LEAST_SIDE) {
        return None;
    }
    let rows = columns(feature, images);
    if rows.iter().all(|row| row == &rows[0]) {
        return None;
    }
    // With two classes the second is the first's mirror image.
    let asked = if classes.len() == 2 && images.iter().all(|(sample, _)| sample.findings.is_empty()) { 1 } else { classes.len() };
    let best = (0..asked).filter_map(|class| {
        let known = images.iter().zip(&rows).zip(folds).filter_map(|(((sample, _), row), fold)| Some((row.as_slice(), sample.shows(class)?, *fold)));
        let (mut told, mut positive, mut folds) = (Vec::new(), Vec::new(), Vec::new());
        for (row, shows, fold) in known {
            told.push(row);
            positive.push(shows);
            folds.push(fold);
        }
        let count = positive.iter().filter(|p| **p).count();
        if count < LEAST || told.len() - count < LEAST {
            return None;
        }
        let (auroc, error) = logistic::auroc(&logistic::out_of_fold(&positive, &folds, |_| told.clone()), &positive)?;
        Some((class, auroc, error))
    });
    let (class, auroc, error) = best.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (low, high) = logistic::interval((auroc, error));
    (low >= ALARM).then(|| Shortcut { feature, class: classes[class].clone(), auroc, low, high })
}

fn columns(feature: Feature, images: &[Image<'_>]) -> Vec<Vec<f64>> {
    let log = |x: u32| f64::from(x.max(1)).ln();
    let numbers = |of: &dyn Fn(&Fingerprint) -> Vec<f64>| images.iter().map(|(_, print)| of(print)).collect();
    match feature {
        Feature::BorderPixels => numbers(&|print| print.facts.border.map(f64::from).to_vec()),
        Feature::ImageSize => numbers(&|print| {
            let (width, height) = (log(print.facts.width), log(print.facts.height));
            vec![width, height, width * width, height * height]
        }),
        Feature::AspectRatio => numbers(&|print| {
            let ratio = log(print.facts.width) - log(print.facts.height);
            vec![ratio, ratio * ratio, f64::from(u8::from(print.facts.width == print.facts.height))]
        }),
        Feature::BitDepth => one_hot(images.iter().map(|(_, print)| format!("{}×{}", print.facts.channels, print.facts.bits)).collect()),
        Feature::FileFormat => one_hot(images.iter().map(|(_, print)| print.facts.format.to_owned()).collect()),
        Feature::SourceFolder => one_hot(images.iter().map(|(sample, _)| folder(sample)).collect()),
    }
}

/// The folder of a manifest's image; nothing in class folders.
fn folder(sample: &Sample) -> String {
    let folder = sample.key.rsplit_once('/').map_or("", |(folder, _)| folder);
    if sample.row.is_some() { folder.to_owned() } else { String::new() }
}

fn one_hot(values: Vec<String>) -> Vec<Vec<f64>> {
    let kinds: BTreeSet<&str> = values.iter().map(String::as_str).collect();
    let mut counted: Vec<(usize, &str)> = kinds.iter().map(|kind| (values.iter().filter(|value| value == kind).count(), *kind)).collect();
    counted.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    counted.truncate(KINDS);
    values.iter().map(|value| counted.iter().map(|(_, kind)| f64::from(u8::from(kind == value))).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Split;
    use crate::doctor::fingerprint::{Facts, SIDE};

    fn images(n: usize, facts: impl Fn(usize) -> Facts) -> Vec<(Sample, Fingerprint)> {
        let sample = |i: usize| Sample {
            slice: None,
            path: format!("{i}.png").into(),
            key: format!("{}/{i}.png", if i.is_multiple_of(3) { "x" } else { "y" }),
            label: i % 2,
            findings: Vec::new(),
            number: None,
            patient: None,
            row: Some(i as u64),
            manifest: None,
            split: Split::Train,
        };
        let print = |i: usize| Fingerprint { file: [0; 32], pixels: [i as u8; 32], grey: vec![0; SIDE * SIDE], facts: facts(i) };
        (0..n).map(|i| (sample(i), print(i))).collect()
    }

    fn plain() -> Facts {
        Facts { width: 512, height: 512, bits: 8, channels: 1, format: "PNG", border: [0.0; 8] }
    }

    fn named(images: &[(Sample, Fingerprint)]) -> Vec<Feature> {
        let views: Vec<Image<'_>> = images.iter().map(|(sample, print)| (sample, print)).collect();
        find(&["a".into(), "b".into()], &views).iter().map(|shortcut| shortcut.feature).collect()
    }

    #[test]
    fn what_predicts_the_label_is_named_and_nothing_else() {
        assert_eq!(named(&images(300, |_| plain())), []);
        assert_eq!(named(&images(300, |i| Facts { bits: if i.is_multiple_of(2) { 8 } else { 16 }, ..plain() })), [Feature::BitDepth]);
        assert_eq!(named(&images(300, |i| Facts { format: if i.is_multiple_of(2) { "PNG" } else { "JPEG" }, ..plain() })), [Feature::FileFormat]);
        let bright = |i: usize| Facts { border: [if i.is_multiple_of(2) { 200.0 } else { (i % 40) as f32 }; 8], ..plain() };
        assert_eq!(named(&images(300, bright)), [Feature::BorderPixels]);
        // Sizes that have nothing to do with the label.
        assert_eq!(named(&images(300, |i| Facts { width: 300 + (i as u32 * 37) % 200, ..plain() })), []);
        let wide = |i: usize| Facts { width: if i.is_multiple_of(2) { 512 } else { 640 }, ..plain() };
        assert_eq!(named(&images(300, wide)), [Feature::ImageSize, Feature::AspectRatio]);
    }

    #[test]
    fn small_pictures_and_small_classes_raise_no_alarm() {
        let bright = |i: usize| Facts { width: 28, height: 28, border: [if i.is_multiple_of(2) { 200.0 } else { 0.0 }; 8], ..plain() };
        assert_eq!(named(&images(300, bright)), []);
        assert_eq!(named(&images(30, |i| Facts { bits: if i.is_multiple_of(2) { 8 } else { 16 }, ..plain() })), []);
    }
}
