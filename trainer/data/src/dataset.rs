//! From the spec's `data` to labelled samples in three splits, with every fault of the labels, splits and patients found
//! before any image is decoded. It touches the disk to read sources and to see that files exist, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::fast::RandomState;
use graft_crds::spec::{Data, DataSet, Task, TaskType};

use crate::checks::{Inputs, check_labels, check_patients, check_personal, quoted};
use crate::error::{DataError, Finding, Reason, pseudonym};
use crate::holdout::hold_out;
use crate::labels::{Labels, plain, slip, told};
use crate::patients;
use crate::source::{self, Record};

/// The share of training patients held out where nothing else is said.
const DEFAULT_FRACTION: f64 = 0.15;

/// A class is taken for another one that is misspelt if the other has more than so many times its images.
const MISSPELT: usize = 20;

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// What is learned from.
    Train,
    /// What the best epoch is chosen by.
    Validation,
    /// What the result is judged on.
    Test,
}

impl Split {
    /// Every split, in the order in which [`Dataset::samples`] has them.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The name in messages and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// One labelled image.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The image file.
    pub path: PathBuf,
    /// Which of the file's frames or slices, from 0; none where it holds one picture.
    pub slice: Option<u32>,
    /// The image as the user names it: relative to its set's folder.
    pub key: String,
    /// Index of its class in [`Dataset::classes`]; in other tasks an index that samples share which show the same findings or have the same
    /// number.
    pub label: usize,
    /// What is known of each class in a multi-label task, none where nothing is; empty in classification, where `label` says all. In a
    /// regression task one: whether its number is above the training set's median.
    pub findings: Vec<Option<bool>>,
    /// Its number in a regression task.
    pub number: Option<f64>,
    /// The patient's id, as it is in the manifest, the folder's name or the DICOM file; never to be shown, see [`Sample::patient_pseudonym`].
    pub patient: Option<String>,
    /// Line in the manifest, from 1; none in class folders.
    pub row: Option<u64>,
    /// The manifest that lists it; none in class folders.
    pub manifest: Option<Arc<str>>,
    /// Its split.
    pub split: Split,
}

impl Sample {
    /// An image of which only its file is known.
    #[must_use]
    pub fn unlabelled(path: PathBuf, slice: Option<u32>, key: String, split: Split) -> Self {
        Self { path, slice, key, label: 0, findings: Vec::new(), number: None, patient: None, row: None, manifest: None, split }
    }

    /// Whether it shows `class`; none if that is not known.
    #[must_use]
    pub fn shows(&self, class: usize) -> Option<bool> {
        self.findings.get(class).copied().unwrap_or(Some(self.label == class))
    }

    /// Where it stands, for messages: `file:row`, or the path in class folders.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.manifest, self.row) {
            (Some(manifest), Some(row)) => format!("{manifest}:{row}"),
            _ => self.path.display().to_string(),
        }
    }

    /// The image and where it stands, for messages: `key (file:row)`, or the path in class folders.
    #[must_use]
    pub fn shown(&self) -> String {
        if self.row.is_some() { format!("{} ({})", self.key, self.place()) } else { self.place() }
    }

    /// The name under which the patient may be shown; see [`pseudonym`].
    #[must_use]
    pub fn patient_pseudonym(&self) -> Option<String> {
        self.patient.as_deref().map(pseudonym)
    }
}

/// The checked data of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// What the labels mean.
    pub task: TaskType,
    /// The classes in the order of the model's outputs; of a regression task the column's name.
    pub classes: Vec<String>,
    /// Index of the class that counts as positive in a two-class task.
    pub positive: usize,
    /// All samples: training, then validation, then test, each in the order of its source.
    pub samples: Vec<Sample>,
}

impl Dataset {
    /// Reads and checks what `data` names. `seed` decides which patients are held out when validation is a fraction.
    /// Images are seen to exist but not decoded; [`crate::Loader::check`] decodes them. A split column whose validation
    /// value is the default `val` also takes `valid` and `validation`.
    ///
    /// # Errors
    /// All findings of the first of two passes that has any: reading the sources; then classes, splits, patients, files.
    pub fn load(data: &Data, task: &Task, seed: u64) -> Result<Self, DataError> {
        let mut findings = Vec::new();
        let mut sets = read_sets(data, task, &mut findings);
        check_personal(data, &sets, &mut findings);
        patients::identify(data, &mut sets, &mut findings);
        DataError::check(std::mem::take(&mut findings))?;
        if task.kind == TaskType::Regression {
            by_median(&mut sets);
        }
        let classes = resolve_classes(data, task, &sets, &mut findings);
        let mut inputs = Inputs::default();
        let held_out = std::thread::scope(|scope| {
            scope.spawn(|| inputs = Inputs::of(&sets));
            validation_of(data, &sets, &classes, seed, &mut findings)
        });
        hold_out_validation(&mut sets, &held_out);
        check_patients(data, &sets, &mut findings);
        inputs.check(data, &sets, &mut findings);
        check_labels(&sets, &classes, &mut findings);
        for split in Split::ALL {
            if sets[split as usize].is_empty() {
                findings.push(empty_split(split, data));
            }
        }
        let positive = positive_class(task, &classes, &mut findings);
        DataError::check(findings)?;
        let labels: Vec<&str> = match task.kind {
            TaskType::Classification => classes.iter().map(String::as_str).collect(),
            TaskType::MultiLabel | TaskType::Regression => {
                let distinct: HashSet<&str, RandomState> = sets.iter().flatten().map(|record| record.label.as_str()).collect();
                distinct.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
            }
        };
        let labels: HashMap<String, usize, RandomState> = labels.into_iter().map(str::to_owned).zip(0..).collect();
        let mut samples = Vec::with_capacity(sets.iter().map(Vec::len).sum());
        for (split, records) in Split::ALL.into_iter().zip(sets) {
            samples.extend(records.into_iter().filter_map(|record| {
                let label = *labels.get(&record.label)?;
                Some(Sample {
                    number: number(task, &record),
                    path: record.path,
                    slice: record.slice,
                    key: record.key,
                    label,
                    findings: record.findings,
                    patient: record.patient,
                    manifest: record.place.row.and(Some(record.place.file)),
                    row: record.place.row,
                    split,
                })
            }));
        }
        Ok(Self { task: task.kind, classes, positive, samples })
    }

    /// The label of a sample in words: its class, or its findings as `A|B`, with `C?` for one that is not known.
    #[must_use]
    pub fn told(&self, sample: &Sample) -> String {
        match self.task {
            TaskType::Classification => self.classes.get(sample.label).cloned().unwrap_or_default(),
            TaskType::MultiLabel => told(&self.classes, &sample.findings),
            TaskType::Regression => sample.number.map_or_else(String::new, |number| number.to_string()),
        }
    }

    /// Without samples, `gone` by their indices, for a reason: their image cannot be decoded, or repeats a picture of another split.
    ///
    /// # Errors
    /// A split or a class of the training data has nothing left.
    pub fn without(&self, gone: &BTreeSet<usize>, reason: Reason) -> Result<Self, DataError> {
        let samples = self.samples.iter().enumerate().filter(|(index, _)| !gone.contains(index)).map(|(_, sample)| sample.clone());
        let left = Self { samples: samples.collect(), ..self.clone() };
        let empty = Split::ALL.into_iter().filter(|split| left.split(*split).is_empty()).map(|split| format!("split {}", split.name()));
        let trained = |class: &usize| left.split(Split::Train).iter().any(|sample| sample.shows(*class) == Some(true));
        let lost = (0..left.classes.len()).filter(|class| !trained(class)).map(|class| format!("training images of {:?}", left.classes[class]));
        let nothing: Vec<String> = empty.chain(lost).collect();
        if nothing.is_empty() {
            return Ok(left);
        }
        let (why, remedy) = if reason == Reason::PictureInTwoSplits {
            ("repeat pictures of other splits", "split the data anew, by patient")
        } else {
            ("cannot be decoded", "replace the files")
        };
        let what = format!("{} images {why}, and without them nothing is left of", gone.len());
        Err(DataError::one(Finding::new(reason, what, nothing, remedy)))
    }

    /// Indices of a split in [`Dataset::samples`]; training begins at 0.
    #[must_use]
    pub fn range(&self, split: Split) -> Range<usize> {
        self.samples.partition_point(|sample| sample.split < split)..self.samples.partition_point(|sample| sample.split <= split)
    }

    /// The samples of a split.
    #[must_use]
    pub fn split(&self, split: Split) -> &[Sample] {
        &self.samples[self.range(split)]
    }

    /// Refuses more ranks than training samples.
    ///
    /// # Errors
    /// `TooFewSamples`.
    pub fn check_world(&self, world: usize) -> Result<(), DataError> {
        let samples = self.range(Split::Train).len();
        if samples >= world {
            return Ok(());
        }
        let what = format!("{samples} training samples are fewer than {world} processes");
        Err(DataError::one(Finding::new(Reason::TooFewSamples, what, vec![], "lower spec.workers.replicas, processes or gpus, or add data")))
    }
}

pub(crate) type Sets = [Vec<Record>; 3];

fn read_sets(data: &Data, task: &Task, findings: &mut Vec<Finding>) -> Sets {
    let labels = match task.kind {
        TaskType::Classification => Labels::Class,
        TaskType::MultiLabel => Labels::Findings(&task.classes),
        TaskType::Regression => Labels::Number,
    };
    if data.columns.split.is_some() {
        let records = source::read(&data.train, &data.columns, labels, "spec.data.train", findings);
        return by_split_column(data, records, findings);
    }
    let train = source::read(&data.train, &data.columns, labels, "spec.data.train", findings);
    let validation = data.validation.uri.as_ref().map_or_else(Vec::new, |uri| {
        let set = DataSet { uri: uri.clone(), manifest: data.validation.manifest.clone() };
        source::read(&set, &data.columns, labels, "spec.data.validation", findings)
    });
    let test = data.test.as_ref().map_or_else(Vec::new, |set| source::read(set, &data.columns, labels, "spec.data.test", findings));
    [train, validation, test]
}

fn by_split_column(data: &Data, records: Vec<Record>, findings: &mut Vec<Finding>) -> Sets {
    let names = &data.splits;
    let mut sets: Sets = Default::default();
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        let value = record.split.as_deref().unwrap_or_default();
        let split = if value == names.train {
            Split::Train
        } else if value == names.test {
            Split::Test
        } else if value == names.validation || (names.validation == "val" && ["valid", "validation"].contains(&value)) {
            Split::Validation
        } else {
            unknown.entry(value.to_owned()).or_default().push(record.place());
            continue;
        };
        sets[split as usize].push(record);
    }
    for (value, places) in unknown {
        let what =
            format!("{} rows have the split {value:?}, which is none of {:?}, {:?}, {:?}", places.len(), names.train, names.validation, names.test);
        findings.push(Finding::new(Reason::UnknownSplit, what, places, "set spec.data.splits to the manifest's values, or remove the rows"));
    }
    sets
}

/// The number of an image in a regression task.
fn number(task: &Task, record: &Record) -> Option<f64> {
    (task.kind == TaskType::Regression).then(|| record.label.parse().ok()).flatten()
}

/// Numbers are held out and looked for in shortcuts as two halves: those above the training set's median, and the others.
fn by_median(sets: &mut Sets) {
    let parsed = |record: &Record| record.label.parse::<f64>().unwrap_or(f64::NAN);
    let mut trained: Vec<f64> = sets[Split::Train as usize].iter().map(parsed).collect();
    trained.sort_by(f64::total_cmp);
    let Some(&median) = trained.get(trained.len().saturating_sub(1) / 2) else { return };
    for record in sets.iter_mut().flatten() {
        record.findings = vec![Some(parsed(record) > median)];
    }
}

fn resolve_classes(data: &Data, task: &Task, sets: &Sets, findings: &mut Vec<Finding>) -> Vec<String> {
    if task.kind == TaskType::MultiLabel {
        return named_findings(task, &sets[Split::Train as usize], findings);
    }
    if task.kind == TaskType::Regression {
        let train = &sets[Split::Train as usize];
        if !train.is_empty() && train.iter().all(|record| record.findings == [Some(false)]) {
            let what = format!("more than half of the training images have the same largest number in column {:?}", data.columns.label);
            findings.push(Finding::new(
                Reason::TooFewClasses,
                what,
                vec![],
                "a regression task needs numbers that differ: check spec.data.columns.label",
            ));
        }
        return vec![data.columns.label.clone()];
    }
    let trained: BTreeSet<&str> = sets[Split::Train as usize].iter().map(|record| record.label.as_str()).collect();
    if trained.len() < 2 && !sets[Split::Train as usize].is_empty() {
        let seen = trained.iter().map(|class| format!("{class:?}")).collect();
        findings.push(Finding::new(
            Reason::TooFewClasses,
            "the training data has one class only",
            seen,
            "a classifier needs at least two: check spec.data.columns.label",
        ));
    }
    let mut spellings: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for class in &trained {
        spellings.entry(plain(class)).or_default().push(class);
    }
    for names in spellings.into_values().filter(|names| names.len() > 1) {
        let seen = names.iter().map(|name| format!("{name:?}")).collect();
        let what = "the training data has classes whose names differ only in case or spaces";
        findings.push(Finding::new(Reason::UnknownClass, what, seen, "write each class in one way"));
    }
    findings.extend(misspelt(task, &sets[Split::Train as usize]));
    if task.classes.is_empty() {
        return trained.into_iter().map(str::to_owned).collect();
    }
    let untrained: Vec<String> = task.classes.iter().filter(|class| !trained.contains(class.as_str())).map(|class| format!("{class:?}")).collect();
    if !untrained.is_empty() && !trained.is_empty() {
        let what = format!("{} of spec.task.classes have no training sample", untrained.len());
        findings.push(Finding::new(Reason::UnknownClass, what, untrained, "remove them from spec.task.classes or add samples"));
    }
    task.classes.clone()
}

/// Rare classes whose names are those of frequent ones but for a slip of the pen. Who names both in the task has two classes.
fn misspelt(task: &Task, train: &[Record]) -> Option<Finding> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in train {
        *counts.entry(&record.label).or_default() += 1;
    }
    let meant = |class: &str| task.classes.iter().any(|named| named == class);
    let likely = |rare: &(&str, usize)| {
        let of = |(class, images): &(&&str, &usize)| **images > MISSPELT * rare.1 && slip(rare.0, class) && !(meant(rare.0) && meant(class));
        let (class, images) = counts.iter().find(of)?;
        Some(format!("{:?} ({} images) and {class:?} ({images} images)", rare.0, rare.1))
    };
    let pairs: Vec<String> = counts.iter().filter_map(|(class, images)| likely(&(class, *images))).collect();
    let what = "the training data has rare classes whose names are frequent ones misspelt";
    (!pairs.is_empty())
        .then(|| Finding::new(Reason::UnknownClass, what, pairs, "correct the labels; name both in spec.task.classes if they are two classes"))
}

/// The classes of a multi-label task. Each needs a training image that shows it, or it cannot be learned; that also finds a misspelt one.
fn named_findings(task: &Task, train: &[Record], findings: &mut Vec<Finding>) -> Vec<String> {
    let shown = |class: usize| train.iter().any(|record| record.findings.get(class) == Some(&Some(true)));
    let absent: Vec<String> = (0..task.classes.len()).filter(|class| !shown(*class)).map(|class| format!("{:?}", task.classes[class])).collect();
    if !absent.is_empty() && !train.is_empty() {
        let what = format!("{} of spec.task.classes are shown by no training image", absent.len());
        findings.push(Finding::new(Reason::UnknownClass, what, absent, "write them as the manifest does, or remove them from spec.task.classes"));
    }
    task.classes.clone()
}

fn positive_class(task: &Task, classes: &[String], findings: &mut Vec<Finding>) -> usize {
    let Some(name) = &task.positive_class else { return classes.len().saturating_sub(1) };
    classes.iter().position(|class| class == name).unwrap_or_else(|| {
        let what = format!("spec.task.positiveClass {name:?} is no class of the training data");
        findings.push(Finding::new(Reason::UnknownClass, what, vec![], format!("name one of {}", quoted(classes))));
        0
    })
}

/// The identity by which a record must stay in one split: its patient, else its file.
fn holder(record: &Record) -> &str {
    record.patient.as_deref().unwrap_or(&record.key)
}

/// The classes that an image counts for when a share of each is held out: its own, or each that it shows; one more for those without any.
fn strata(record: &Record, classes: &[String]) -> impl Iterator<Item = usize> {
    let shown = |class: &usize| record.findings.get(*class) == Some(&Some(true));
    let own = if record.findings.is_empty() {
        classes.iter().position(|class| *class == record.label)
    } else {
        (!(0..classes.len()).any(|class| shown(&class))).then_some(classes.len())
    };
    own.into_iter().chain((0..classes.len()).filter(shown))
}

/// Which training records are held out for validation; empty where none are, because there is a validation set.
fn validation_of(data: &Data, sets: &Sets, classes: &[String], seed: u64, findings: &mut Vec<Finding>) -> Vec<bool> {
    let fraction = data.validation.fraction.as_ref().map(graft_crds::Decimal::value);
    if data.validation.uri.is_some() {
        return Vec::new();
    }
    let given = sets[Split::Validation as usize].len();
    if given > 0 {
        if fraction.is_some() {
            let what = format!("the split column marks {given} rows as validation and spec.data.validation.fraction is set as well");
            findings.push(Finding::new(Reason::AmbiguousValidation, what, vec![], "remove spec.data.validation.fraction, or the rows"));
        }
        return Vec::new();
    }
    let train = &sets[Split::Train as usize];
    let samples: Vec<(&str, usize)> = train.iter().flat_map(|record| strata(record, classes).map(|s| (holder(record), s))).collect();
    let held_out = hold_out(&samples, classes.len() + 1, fraction.unwrap_or(DEFAULT_FRACTION), seed);
    train.iter().map(|record| held_out.contains(holder(record))).collect()
}

fn hold_out_validation(sets: &mut Sets, held_out: &[bool]) {
    if held_out.contains(&true) {
        let mut held_out = held_out.iter();
        let train = &mut sets[Split::Train as usize];
        let validation = train.extract_if(.., |_| held_out.next() == Some(&true)).collect();
        sets[Split::Validation as usize] = validation;
    }
}

fn empty_split(split: Split, data: &Data) -> Finding {
    let (what, remedy) = match (split, &data.columns.split) {
        (Split::Validation, None) if data.validation.uri.is_none() => (
            "the validation split is empty: the training patients are too few to hold one out".to_owned(),
            "raise spec.data.validation.fraction, name a validation set in spec.data.validation.uri, or add patients".to_owned(),
        ),
        (_, Some(column)) => {
            let value = [&data.splits.train, &data.splits.validation, &data.splits.test][split as usize];
            (
                format!("the {} split is empty: no row has {value:?} in column {column:?}", split.name()),
                format!("check spec.data.splits.{}", split.name()),
            )
        }
        (_, None) => (format!("the {} split is empty", split.name()), format!("check spec.data.{}", split.name())),
    };
    Finding::new(Reason::EmptySplit, what, vec![], remedy)
}
