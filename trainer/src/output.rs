//! What a run hands over: weights, description, metrics, predictions and history, and last a manifest with the digests of
//! all of them. Without a manifest that fits, an output is not whole and is never taken for one.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use graft_crds::Architecture;
use graft_crds::architectures::Padding;
use graft_crds::contract::{ExitReason, OutputRef};
use graft_crds::spec::{TaskType, Window};
use graft_data::{DecodeCache, Geometry, Loader, Reading, Split};
use graft_torch::tch::{Device, Tensor, no_grad};
use graft_trainer_core::artefact::sha256_hex;
use graft_trainer_core::checkpoint::FileEntry;
use graft_trainer_core::report::{self, Metrics, Prediction};
use serde::{Deserialize, Serialize};

use crate::event::Failure;
use crate::models::{self, Mode, Model};
use crate::rank::{Normaliser, Rank, Recipe, judge, said, to_json};
use crate::storage;
use crate::weights::{self, HEAD_FORM_KEY, HeadPolicy};

const MANIFEST: &str = "manifest.json";
const MODEL: &str = "model.safetensors";
const DESCRIPTION: &str = "model.json";
const PREDICTIONS: &str = "predictions.csv";
pub(crate) const SHEET: &str = "data-pairs.png";

/// How far a model that was loaded again may be from its stored predictions, as a probability, or as a share of a number above 1.
const TOLERANCE: f64 = 1e-4;

/// `model.json`: everything that is needed to use the model, and where it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// Version of this description.
    pub format: u32,
    /// The architecture.
    pub architecture: Architecture,
    /// What the outputs mean: one class by softmax, each class on its own by the logistic function, or numbers.
    #[serde(default)]
    pub task: TaskType,
    /// The classes in the order of the outputs.
    pub classes: Vec<String>,
    /// The class that counts as positive; without meaning in a multi-label task.
    pub positive_class: String,
    /// Size and shape of the input.
    pub input: Geometry,
    /// Grey windows of DICOM and NIfTI files; none when each file's own was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Scale of the input.
    pub normalisation: Normaliser,
    /// Padding of strided convolutions.
    pub padding: Padding,
    /// Width of the features.
    pub feature_width: i64,
    /// SHA-256 of the weights that training started from.
    pub source_weights_sha256: String,
    /// Digest of the labelled data.
    pub data_digest: String,
    /// The seed.
    pub seed: u64,
    /// Tensors that training had to leave alone.
    pub frozen_tensors: usize,
    /// How many of them are not what the weights file holds.
    pub frozen_tensors_changed: usize,
    /// Folder of the test images.
    pub test_uri: String,
    /// Version of the trainer.
    pub trainer: String,
}

/// Digests of all files of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, FileEntry>,
}

/// A finished output.
pub(crate) struct Written {
    pub(crate) metrics: BTreeMap<String, f64>,
    pub(crate) output: OutputRef,
}

/// The contact sheet in an output's folder, or none: an earlier one must not stay.
pub(crate) fn write_sheet(folder: &Path, png: Option<&[u8]>) -> Result<(), Failure> {
    let path = &folder.join(SHEET);
    match png {
        Some(png) => storage::write_whole(path, png),
        None => fs::remove_file(path).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(Failure::storage(path, e)) }),
    }
}

/// Judge the model on the test set and write everything; `features` are those of the whole data set, `frozen` is the number of
/// frozen tensors, which were found unchanged.
pub(crate) fn write(rank: &Rank, recipe: &Recipe, features: &Tensor, frozen: usize) -> Result<Written, Failure> {
    let folder = &rank.output;
    let _ = fs::remove_file(folder.join(MANIFEST));
    let of = |split: Split| -> Result<Tensor, Failure> {
        let range = recipe.dataset.range(split);
        let rows = features.f_narrow(0, range.start as i64, range.len() as i64)?.f_to_device(rank.device)?;
        let logits = no_grad(|| recipe.model.head(&rows, Mode::Evaluate))?;
        Ok(recipe.said(&logits)?.f_to_device(Device::Cpu)?)
    };
    let test = of(Split::Test)?;
    let judged = judge(&test, recipe, recipe.dataset.range(Split::Test))?;
    let validation = judge(&of(Split::Validation)?, recipe, recipe.dataset.range(Split::Validation))?;
    let positive = recipe.dataset.classes[recipe.dataset.positive].clone();
    let metrics = Metrics {
        classes: recipe.dataset.classes.clone(),
        positive_class: (recipe.classes() == 2 && recipe.dataset.task == TaskType::Classification).then(|| positive.clone()),
        test: judged.clone(),
        validation: Some(validation),
    };
    let bug = |error: &dyn std::fmt::Display| Failure::new(ExitReason::Bug, "ReportFailed", error.to_string());
    let table = report::predictions_csv(recipe.dataset.task, &recipe.dataset.classes, &predictions(recipe, &test)?).map_err(|e| bug(&e))?;
    let history = report::history_csv(&rank.history).map_err(|e| bug(&e))?;

    let model = folder.join(MODEL);
    let metadata = BTreeMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("graft.architecture".to_owned(), recipe.model.architecture().name().to_owned()),
        (HEAD_FORM_KEY.to_owned(), recipe.model.head_form().name().to_owned()),
    ]);
    let tensors = recipe.model.tensors().iter().map(|t| (t.name.as_str(), &t.tensor));
    weights::save_safetensors(&model, tensors, &metadata).map_err(|e| Failure::storage(&model, e))?;
    storage::write_whole(&folder.join(DESCRIPTION), &to_json(&description(rank, recipe, positive, frozen))?)?;
    storage::write_whole(&folder.join("metrics.json"), &to_json(&metrics)?)?;
    storage::write_whole(&folder.join(PREDICTIONS), table.as_bytes())?;
    storage::write_whole(&folder.join("history.csv"), history.as_bytes())?;
    storage::write_whole(&folder.join("data.json"), &to_json(&recipe.report)?)?;
    write_sheet(folder, recipe.sheet.as_deref())?;

    let mut files = BTreeMap::new();
    let sheet = recipe.sheet.as_ref().map(|_| SHEET);
    for name in [MODEL, DESCRIPTION, "metrics.json", PREDICTIONS, "history.csv", "data.json"].into_iter().chain(sheet) {
        let path = folder.join(name);
        files.insert(name.to_owned(), storage::entry(&path).map_err(|e| Failure::storage(&path, e))?);
    }
    let manifest = to_json(&Manifest { format: 1, files })?;
    storage::write_whole(&folder.join(MANIFEST), &manifest)?;
    let by_name = judged.by_name();
    let asked = rank.config.evaluation.metrics.iter().filter_map(|m| Some((m.name().to_owned(), *by_name.get(m.name())?)));
    let counts = [("frozen_tensors".to_owned(), frozen as f64), ("frozen_tensors_changed".to_owned(), 0.0)];
    Ok(Written { metrics: asked.chain(counts).collect(), output: OutputRef { uri: rank.config.output.uri.clone(), digest: sha256_hex(&manifest) } })
}

fn predictions(recipe: &Recipe, test: &Tensor) -> Result<Vec<Prediction>, Failure> {
    let flat = Vec::<f64>::try_from(test.f_flatten(0, 1)?)?;
    let rows = recipe.dataset.split(Split::Test).iter().zip(flat.chunks_exact(recipe.classes()));
    Ok(rows
        .map(|(sample, row)| Prediction {
            input: sample.key.clone(),
            patient: sample.patient_pseudonym(),
            label: recipe.dataset.told(sample),
            predicted: row.to_vec(),
        })
        .collect())
}

fn description(rank: &Rank, recipe: &Recipe, positive_class: String, frozen_tensors: usize) -> Description {
    let data = &rank.config.data;
    Description {
        format: 1,
        architecture: recipe.model.architecture(),
        task: recipe.dataset.task,
        classes: recipe.dataset.classes.clone(),
        positive_class,
        input: recipe.geometry,
        windows: data.windows.clone(),
        normalisation: recipe.normaliser.clone(),
        padding: recipe.padding,
        feature_width: recipe.model.feature_width(),
        source_weights_sha256: recipe.weights_digest.clone(),
        data_digest: recipe.data_digest.clone(),
        seed: recipe.seed,
        frozen_tensors,
        frozen_tensors_changed: 0,
        test_uri: data.test.as_ref().map_or_else(|| data.train.uri.clone(), |test| test.uri.clone()),
        trainer: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A model that was loaded from its folder.
pub struct Trained {
    /// What it is.
    pub description: Description,
    model: Model,
}

/// Load a written model after checking that the output is whole.
///
/// # Errors
/// `OutputIncomplete` when a file is missing or is not the one that was written.
pub fn load(folder: &Path) -> Result<Trained, Failure> {
    let incomplete = |what: String| {
        Failure::user("OutputIncomplete", format!("{}: {what}; the run that wrote it did not end, or the files were changed", folder.display()))
    };
    let text = fs::read(folder.join(MANIFEST)).map_err(|e| incomplete(format!("{MANIFEST}: {e}")))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| incomplete(format!("{MANIFEST}: {e}")))?;
    for (name, expected) in &manifest.files {
        match storage::entry(&folder.join(name)) {
            Ok(found) if found == *expected => {}
            Ok(_) => return Err(incomplete(format!("{name} has another SHA-256 than {MANIFEST} says"))),
            Err(error) => return Err(incomplete(format!("{name}: {error}"))),
        }
    }
    let text = fs::read(folder.join(DESCRIPTION)).map_err(|e| incomplete(format!("{DESCRIPTION}: {e}")))?;
    let description: Description = serde_json::from_slice(&text).map_err(|e| incomplete(format!("{DESCRIPTION}: {e}")))?;
    let stored = weights::load(&folder.join(MODEL), None)?;
    let mut model = models::build(description.architecture, description.classes.len() as i64, description.padding, Device::Cpu, 0)?;
    weights::apply(&mut model, &stored, HeadPolicy::KeepIfItFits)?;
    Ok(Trained { description, model })
}

impl Trained {
    /// Probabilities `[N][classes]` of image files, or the numbers of a regression task.
    ///
    /// # Errors
    /// An image that cannot be decoded.
    pub fn predict(&self, images: Vec<graft_data::Sample>) -> Result<Vec<Vec<f64>>, Failure> {
        let n = images.len();
        let reading = Reading { windows: self.description.windows.clone(), ..Reading::default() };
        let mut loader = Loader::new(images, self.description.input, reading, 1, DecodeCache::new(0));
        let mut rows = Vec::with_capacity(n);
        let all: Vec<usize> = (0..n).collect();
        for chunk in all.chunks(32) {
            let bytes = loader.batch(chunk)?;
            let inputs = self.description.normalisation.apply(&bytes, self.description.input.size, Device::Cpu)?;
            let logits = no_grad(|| self.model.forward(&inputs, Mode::Evaluate))?;
            let flat = Vec::<f64>::try_from(said(self.description.task, &logits)?.f_flatten(0, 1)?)?;
            rows.extend(flat.chunks_exact(self.description.classes.len()).map(<[f64]>::to_vec));
        }
        Ok(rows)
    }
}

/// How a model that was loaded afresh compares with its stored predictions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verified {
    /// Images that were predicted again.
    pub images: usize,
    /// Largest difference of a probability; of a number above 1 its share.
    pub largest_difference: f64,
}

/// Load a written model and predict its test set again. `locate` gives the local folder of the test set's URI.
///
/// # Errors
/// The output is not whole, an image is gone, or a prediction differs by more than 1e-4.
pub fn verify(folder: &Path, locate: impl Fn(&str) -> PathBuf) -> Result<Verified, Failure> {
    let trained = load(folder)?;
    let root = locate(&trained.description.test_uri);
    let path = folder.join(PREDICTIONS);
    let unreadable = |error: &dyn std::fmt::Display| Failure::user("OutputIncomplete", format!("{}: {error}", path.display()));
    let mut reader = csv::Reader::from_path(&path).map_err(|e| unreadable(&e))?;
    let (mut samples, mut stored) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|e| unreadable(&e))?;
        let key = record.get(0).unwrap_or_default().to_owned();
        let row: Result<Vec<f64>, _> = record.iter().skip(3).map(str::parse).collect();
        stored.push(row.map_err(|e| unreadable(&e))?);
        let (path, slice) = graft_data::locate(&root, &key);
        samples.push(graft_data::Sample::unlabelled(path, slice, key, Split::Test));
    }
    let fresh = trained.predict(samples)?;
    let pairs = fresh.iter().flatten().zip(stored.iter().flatten());
    // A probability that is no number differs from everything.
    let largest_difference =
        pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, |most: f64, d| if d.is_nan() { f64::INFINITY } else { most.max(d) });
    if fresh.len() != stored.len() || largest_difference > TOLERANCE {
        let text =
            format!("{}: predictions differ by {largest_difference:.1e} from the stored ones; the images are not those of the run", folder.display());
        return Err(Failure::user("PredictionsDiffer", text));
    }
    Ok(Verified { images: fresh.len(), largest_difference })
}
