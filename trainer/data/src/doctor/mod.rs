//! The split doctor: finds what makes a result look better than it is, before a device is used. The same picture in two
//! splits, exactly or nearly; the same picture under two labels; patients in two splits; classes that are missing or
//! rare; and what predicts the label without being the disease. Everything but reading the files is a function of
//! fingerprints and labels.

mod fingerprint;
pub(crate) mod logistic;
mod near;
mod report;
mod sheet;
mod shortcut;

use std::collections::{BTreeSet, HashMap};

pub use fingerprint::Fingerprint;
pub use report::{ClassCount, LeftOut, Member, Pair, PairCounts, Patients, Report};
pub use sheet::{PAIRS_SHOWN, sheet};
pub use shortcut::Shortcut;

use crate::dataset::{Dataset, Sample, Split};
use crate::decode::{Reading, guarded, read_file};
use crate::doctor::fingerprint::SIDE;
use crate::doctor::near::{Near, near_duplicates};
use crate::parallel;

/// Reads every image of `dataset` with `threads` threads and judges the data. Images that cannot be decoded are counted
/// and left out: [`crate::Loader::check`] names them.
#[must_use]
pub fn examine(dataset: &Dataset, reading: &Reading, threads: usize) -> Report {
    judge(dataset, &fingerprints(&dataset.samples, reading, threads), threads)
}

/// Judges the data by the fingerprints of its images, in the samples' order; `None` where one cannot be decoded.
#[must_use]
pub fn judge(dataset: &Dataset, prints: &[Option<Fingerprint>], threads: usize) -> Report {
    let (places, kept): (Vec<usize>, Vec<(&Sample, &Fingerprint)>) =
        dataset.samples.iter().zip(prints).enumerate().filter_map(|(index, (sample, print))| Some((index, (sample, print.as_ref()?)))).unzip();
    let greys: Vec<&[u8]> = kept.iter().map(|(_, print)| print.grey.as_slice()).collect();
    let mut near = near_duplicates(&greys, threads);
    // Fewer pixels than are compared hold too little to tell a copy from a likeness: strokes of a pen, at 16 x 16. Equal ones are copies still.
    let whole = |index: usize| kept[index].1.facts.width.min(kept[index].1.facts.height) as usize >= SIDE;
    near.retain(|pair| whole(pair.first) && whole(pair.second));
    let mut report = count(dataset, &kept, &places, &near);
    report.undecodable = prints.iter().filter(|print| print.is_none()).count();
    report.shortcuts = shortcut::find(&dataset.classes, &kept);
    report
}

fn fingerprints(samples: &[Sample], reading: &Reading, threads: usize) -> Vec<Option<Fingerprint>> {
    parallel::map(samples.len(), threads, |index| {
        // What the decoders say of hostile files is the loader's to report.
        guarded(|| Fingerprint::of(&read_file(&samples[index].path, reading.limits)?, samples[index].slice, reading)).ok()
    })
}

/// Counts and pairs from what is known about each image; `near` has indices into `kept`, and `places` that of each in the data set.
fn count(dataset: &Dataset, kept: &[(&Sample, &Fingerprint)], places: &[usize], near: &[Near]) -> Report {
    let mut exact = PairCounts::default();
    let mut other = PairCounts::default();
    let mut pairs = Vec::new();
    let mut groups = Groups::new(kept.len());
    let member = |index: usize| {
        let sample = kept[index].0;
        Member {
            input: sample.key.clone(),
            label: dataset.told(sample),
            split: sample.split.name().into(),
            patient: sample.patient_pseudonym(),
            sample: places[index],
        }
    };
    let mut add = |counts: &mut PairCounts, (first, second): (usize, usize), correlation: f64, turn: Option<&str>| {
        groups.join(first, second);
        let pair = Pair { first: member(first), second: member(second), correlation, turn: turn.map(str::to_owned) };
        counts.pairs += 1;
        counts.across_splits += usize::from(pair.across_splits());
        counts.label_conflicts += usize::from(pair.label_conflict());
        if pair.across_splits() || pair.label_conflict() {
            pairs.push(pair);
        }
    };
    for (first, second) in equal_pixels(kept) {
        add(&mut exact, (first, second), 1.0, None);
    }
    for near in near.iter().filter(|near| kept[near.first].1.pixels != kept[near.second].1.pixels) {
        // Rounded, so that a copy that is nearly perfect is not said to have equal pixels.
        add(&mut other, (near.first, near.second), near.correlation.min(0.9999), near.turn.name());
    }
    pairs.sort_by(|a, b| b.label_conflict().cmp(&a.label_conflict()).then(b.correlation.total_cmp(&a.correlation)));
    pairs.truncate(report::PAIRS_LISTED);
    let classes = count_classes(dataset);
    let trained: Vec<usize> = classes.iter().map(|class| class.train).collect();
    let imbalance = trained.iter().max().zip(trained.iter().min()).filter(|(_, least)| **least > 0).map(|(most, least)| *most as f64 / *least as f64);
    let repeats = groups.repeats(kept).into_iter().map(|index| places[index]).collect();
    let (inferred_groups, inferred_across_splits) = groups.count(kept);
    let (named, across_splits) = count_patients(&dataset.samples);
    Report {
        images: kept.len(),
        undecodable: 0,
        exact,
        near: other,
        pairs,
        patients: Patients { named, across_splits, inferred_groups, inferred_across_splits },
        classes,
        imbalance,
        shortcuts: Vec::new(),
        left_out: None,
        repeats,
    }
}

/// Each image with equal pixels paired with the first one that has them, so that k copies are k − 1 pairs; and, where
/// that would hide it, with the first one in each other split or of another label.
fn equal_pixels(kept: &[(&Sample, &Fingerprint)]) -> Vec<(usize, usize)> {
    let mut first: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    let mut pairs = Vec::new();
    for (index, (sample, print)) in kept.iter().enumerate() {
        let seen = first.entry(print.pixels).or_default();
        let before = pairs.len();
        let differs = |other: &usize| kept[*other].0.split != sample.split || kept[*other].0.label != sample.label;
        pairs.extend(seen.iter().filter(|other| differs(other)).map(|other| (*other, index)));
        if before == pairs.len() {
            pairs.extend(seen.first().map(|other| (*other, index)));
        }
        if seen.iter().all(differs) {
            seen.push(index);
        }
    }
    pairs
}

fn count_classes(dataset: &Dataset) -> Vec<ClassCount> {
    let of = |class: usize, split: Split| dataset.split(split).iter().filter(|sample| sample.shows(class) == Some(true)).count();
    let count = |(index, class): (usize, &String)| ClassCount {
        class: class.clone(),
        train: of(index, Split::Train),
        validation: of(index, Split::Validation),
        test: of(index, Split::Test),
    };
    dataset.classes.iter().enumerate().map(count).collect()
}

fn count_patients(samples: &[Sample]) -> (usize, usize) {
    let mut splits: HashMap<&str, BTreeSet<Split>> = HashMap::new();
    for sample in samples {
        if let Some(patient) = &sample.patient {
            splits.entry(patient).or_default().insert(sample.split);
        }
    }
    (splits.len(), splits.values().filter(|seen| seen.len() > 1).count())
}

/// Images tied together by pairs: a forest with halved paths (Tarjan and van Leeuwen, JACM 1984).
struct Groups {
    parent: Vec<usize>,
}

impl Groups {
    fn new(n: usize) -> Self {
        Self { parent: (0..n).collect() }
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.parent[index] != index {
            self.parent[index] = self.parent[self.parent[index]];
            index = self.parent[index];
        }
        index
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[b.max(a)] = a.min(b);
    }

    /// Images whose group reaches into a later split: of training into validation or test, of validation into test. Without them each
    /// picture is in one split, and the test set is what it was.
    fn repeats(&mut self, kept: &[(&Sample, &Fingerprint)]) -> Vec<usize> {
        let roots: Vec<usize> = (0..kept.len()).map(|index| self.root(index)).collect();
        let mut last: HashMap<usize, Split> = HashMap::new();
        for (root, (sample, _)) in roots.iter().zip(kept) {
            let split = last.entry(*root).or_insert(sample.split);
            *split = sample.split.max(*split);
        }
        (0..kept.len()).filter(|index| last.get(&roots[*index]).is_some_and(|split| kept[*index].0.split < *split)).collect()
    }

    /// Groups of at least two images, and those of them in two splits.
    fn count(mut self, kept: &[(&Sample, &Fingerprint)]) -> (usize, usize) {
        let mut members: HashMap<usize, (usize, BTreeSet<Split>)> = HashMap::new();
        for (index, (sample, _)) in kept.iter().enumerate() {
            let group = members.entry(self.root(index)).or_default();
            group.0 += 1;
            group.1.insert(sample.split);
        }
        let groups = members.values().filter(|(size, _)| *size > 1);
        groups.fold((0, 0), |(all, across), (_, splits)| (all + 1, across + usize::from(splits.len() > 1)))
    }
}
