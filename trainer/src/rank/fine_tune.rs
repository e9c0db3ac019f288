//! Fine-tuning, data-parallel: every rank takes its share of each global batch, libtorch's reducer averages the gradients
//! during the backward pass, and all ranks take the same optimizer step. The epoch with the lowest validation loss is kept.

use std::time::Instant;

use graft_crds::contract::{ExitReason, Stage};
use graft_crds::spec::FineTune;
use graft_data::Split;
use graft_torch::tch::{Kind, Reduction as Loss, Tensor};
use graft_torch::{Parameter, Reducer, ReducerSettings, Reduction, device, memory};
use graft_trainer_core::artefact::digest_of;
use graft_trainer_core::metrics::Evaluation;
use graft_trainer_core::report::HistoryRow;
use graft_trainer_core::sampler::{self, Epoch, Sampler};

use super::checkpoint::{Checkpoints, Notes};
use super::optimizer::Optimizer;
use super::{Rank, Recipe, say};
use crate::event::{Event, Failure, StepTimes};
use crate::models::{self, Mode};

/// Images in one forward pass without gradients.
pub(super) const EVALUATION_BATCH: usize = 32;

/// Train, and leave the best epoch's values in the model; gives the digest of what was trained.
pub(super) fn fine_tune(rank: &mut Rank, recipe: &mut Recipe, settings: &FineTune) -> Result<Option<String>, Failure> {
    let train = recipe.dataset.range(Split::Train).len();
    let batch = usize::try_from(settings.global_batch_size).unwrap_or(1).min(train);
    let sampler =
        Sampler::new(train, batch, rank.world, recipe.seed).map_err(|e| Failure::user("InvalidBatchSize", format!("spec.fineTune: {e}")))?;
    let epochs = u64::try_from(settings.epochs).unwrap_or(1);

    let mut trainer = Trainer::new(rank, recipe, settings)?;
    let first = trainer.resume(rank, recipe)?;
    rank.begin(Stage::FineTune, epochs, first * train as u64);
    for epoch in first..epochs {
        trainer.epoch(rank, recipe, &sampler, epoch)?;
    }
    trainer.finish(rank, recipe)
}

struct Trainer {
    optimizer: Optimizer,
    reducer: Reducer,
    checkpoints: Checkpoints,
    notes: Notes,
    /// Values of everything that training changes, at the best epoch.
    best: Vec<(String, Tensor)>,
    inputs: String,
}

impl Trainer {
    fn new(rank: &Rank, recipe: &Recipe, settings: &FineTune) -> Result<Self, Failure> {
        let all: Vec<Tensor> = recipe.model.tensors().iter().map(|t| t.tensor.shallow_clone()).collect();
        rank.group.broadcast_coalesced(&all, 0)?;
        let parameters: Vec<(String, Tensor)> = recipe.model.trainable().map(|t| (t.name.clone(), t.tensor.shallow_clone())).collect();
        let reducer = {
            let named: Vec<Parameter<'_>> = parameters.iter().map(|(name, tensor)| Parameter { name, tensor }).collect();
            Reducer::new(&rank.group, &named, ReducerSettings::default())?
        };
        let optimizer = Optimizer::new(settings.optimizer.clone(), parameters)?;
        let inputs =
            digest_of("fine-tune", 1, &description(rank, recipe, settings)).map_err(|e| Failure::new(ExitReason::Bug, "NoDigest", e.to_string()))?;
        let checkpoints = Checkpoints::new(rank, inputs.clone());
        Ok(Self { optimizer, reducer, checkpoints, notes: Notes::default(), best: Vec::new(), inputs })
    }

    /// Go on from the newest checkpoint; gives the epochs that it holds.
    fn resume(&mut self, rank: &mut Rank, recipe: &Recipe) -> Result<u64, Failure> {
        let Some(loaded) = self.checkpoints.newest(rank)? else { return Ok(0) };
        let mut whole = self.optimizer.restore(&loaded.tensors)?;
        let moving = moving(recipe);
        whole &= moving.iter().all(|(name, _)| loaded.tensors.contains_key(&format!("model/{name}")));
        if !whole {
            let text = "a checkpoint lacks tensors of this model; remove .graft/checkpoints beside the output".to_owned();
            return Err(Failure::new(ExitReason::CheckpointError, "CheckpointUnusable", text));
        }
        restore(&moving, &loaded.tensors, "model/")?;
        self.best = loaded.tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("best/")?.to_owned(), t.shallow_clone()))).collect();
        self.notes = loaded.notes;
        rank.history.clone_from(&self.notes.history);
        rank.log(format!("going on after epoch {} from its checkpoint", loaded.epoch));
        rank.checkpointed(loaded.reference);
        Ok(loaded.epoch)
    }

    fn epoch(&mut self, rank: &mut Rank, recipe: &mut Recipe, sampler: &Sampler, epoch: u64) -> Result<(), Failure> {
        let began = Instant::now();
        // Dropout draws from torch's generator: seeded anew per epoch and rank, so that a resumed run draws the same.
        device::manual_seed(recipe.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (epoch << 20) ^ rank.rank as u64);
        let plan = sampler.epoch(u32::try_from(epoch).unwrap_or(u32::MAX));
        let (mut loss, mut trained) = (0.0, 0);
        for step in 0..plan.steps() {
            loss += self.step(rank, recipe, &plan, step)?;
            let samples = plan.global_batch(step).len();
            trained += samples;
            rank.record(samples);
        }
        let seconds = began.elapsed().as_secs_f64();
        let loss = sum(rank, loss)? / trained as f64;
        let moving = moving(recipe);
        // Batch statistics differ by rank; rank 0's are everybody's.
        rank.group.broadcast_coalesced(&moving.iter().map(|(_, t)| t.shallow_clone()).collect::<Vec<_>>(), 0)?;
        let validation = validate(rank, recipe)?;
        if self.notes.best.is_none_or(|(_, best)| validation.log_loss < best) {
            self.notes.best = Some((epoch + 1, validation.log_loss));
            self.best = moving.iter().map(|(name, t)| (name.clone(), t.detach().copy())).collect();
        }
        let row = HistoryRow {
            stage: Stage::FineTune,
            epoch: epoch + 1,
            attempt: rank.config.run.attempt,
            learning_rate: self.optimizer.learning_rate(),
            train_loss: loss,
            validation_loss: Some(validation.log_loss),
            validation_accuracy: Some(validation.accuracy),
            validation_auroc: validation.auroc.value,
            seconds,
            samples_per_second: Some(trained as f64 / seconds),
        };
        rank.epoch_done(row);
        self.save(rank, &moving, epoch + 1)
    }

    /// One optimizer step; gives the sum of this rank's losses.
    fn step(&mut self, rank: &mut Rank, recipe: &mut Recipe, plan: &Epoch<'_>, step: usize) -> Result<f64, Failure> {
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
        let share = plan.share(step, rank.rank);
        let images = recipe.images(share.samples, rank.device)?;
        let labels = recipe.labels(share.samples, rank.device)?;
        if step + 1 < plan.steps() {
            recipe.loader.prefetch(plan.share(step + 1, rank.rank).samples);
        }
        let data = lap();
        self.reducer.begin_step()?;
        let logits = recipe.model.forward(&images, Mode::Train)?;
        self.reducer.prepare_backward::<Tensor>(&[])?;
        let loss = logits.f_cross_entropy_loss::<Tensor>(&labels, None, Loss::Mean, -100, 0.0)?;
        let weighted = loss.f_mul_scalar(share.loss_weight)?;
        let forward = lap();
        memory::zero_grads_to_none(self.optimizer.parameters())?;
        device::backward(&weighted)?;
        self.reducer.finish_step()?;
        let backward = lap();
        self.optimizer.step()?;
        let optimizer = lap();
        rank.first_step();
        say(&Event::Step(StepTimes { samples: share.samples.len() as u64, data, forward, backward, optimizer }));
        let value = loss.f_double_value(&[])?;
        if !value.is_finite() {
            let text = format!("the training loss became {value} in step {step}; lower spec.fineTune.optimizer.learningRate");
            return Err(Failure::user("LossDiverged", text));
        }
        Ok(value * share.samples.len() as f64)
    }

    fn save(&mut self, rank: &mut Rank, moving: &[(String, Tensor)], epoch: u64) -> Result<(), Failure> {
        self.notes.history.clone_from(&rank.history);
        if rank.rank == 0 {
            let prefixed =
                |prefix: &str, list: &[(String, Tensor)]| list.iter().map(|(n, t)| (format!("{prefix}{n}"), t.detach())).collect::<Vec<_>>();
            let tensors =
                [prefixed("model/", moving), prefixed("best/", &self.best), self.optimizer.state()].into_iter().flatten().collect::<Vec<_>>();
            let reference = self.checkpoints.write(epoch, &tensors, &self.notes)?;
            rank.checkpointed(reference);
        }
        Ok(())
    }

    /// The best epoch's values go into the model; gives their digest.
    fn finish(self, rank: &mut Rank, recipe: &Recipe) -> Result<Option<String>, Failure> {
        let saved = self.best.into_iter().collect();
        restore(&moving(recipe), &saved, "")?;
        if let Some((epoch, loss)) = self.notes.best {
            rank.log(format!("fine-tuning keeps epoch {epoch}, validation loss {loss:.4}"));
        }
        Ok(Some(self.inputs))
    }
}

/// What decides the outcome of fine-tuning.
fn description(rank: &Rank, recipe: &Recipe, settings: &FineTune) -> serde_json::Value {
    serde_json::json!({
        "architecture": rank.config.backbone.architecture, "weights": recipe.weights_digest, "data": recipe.data_digest, "settings": settings,
        "geometry": recipe.geometry, "normaliser": recipe.normaliser, "padding": recipe.padding, "world": rank.world, "classes": recipe.dataset.classes,
    })
}

/// Everything that training changes: trained parameters, and the buffers of their layers.
fn moving(recipe: &Recipe) -> Vec<(String, Tensor)> {
    let trained: Vec<&str> = recipe.model.trainable().filter_map(|t| t.name.rsplit_once('.')).map(|(layer, _)| layer).collect();
    let moves = |t: &&models::NamedTensor| match t.kind {
        models::Kind::Parameter => t.tensor.requires_grad(),
        models::Kind::Buffer => t.name.rsplit_once('.').is_some_and(|(layer, _)| trained.contains(&layer)),
    };
    recipe.model.tensors().iter().filter(moves).map(|t| (t.name.clone(), t.tensor.shallow_clone())).collect()
}

fn restore(targets: &[(String, Tensor)], saved: &std::collections::BTreeMap<String, Tensor>, prefix: &str) -> Result<(), Failure> {
    graft_torch::tch::no_grad(|| {
        for (name, target) in targets {
            if let Some(source) = saved.get(&format!("{prefix}{name}")) {
                target.shallow_clone().f_copy_(&source.f_view_as(target)?)?;
            }
        }
        Ok(())
    })
}

/// The sum of a number over all ranks.
fn sum(rank: &Rank, value: f64) -> Result<f64, Failure> {
    let total = Tensor::from_slice(&[value]).f_to_device(rank.device)?;
    rank.group.all_reduce(&total, Reduction::Sum)?;
    Ok(total.f_double_value(&[0])?)
}

/// The validation set, each image once, judged the same on all ranks.
fn validate(rank: &Rank, recipe: &mut Recipe) -> Result<Evaluation, Failure> {
    let range = recipe.dataset.range(Split::Validation);
    let mine: Vec<usize> = sampler::shard(range.len(), rank.rank, rank.world).map(|i| range.start + i).collect();
    let mut parts = vec![Tensor::f_zeros([0, recipe.classes() as i64], (Kind::Double, rank.device))?];
    for chunk in mine.chunks(EVALUATION_BATCH) {
        let images = recipe.images(chunk, rank.device)?;
        let logits = graft_torch::tch::no_grad(|| recipe.model.forward(&images, Mode::Evaluate))?;
        parts.push(logits.f_to_kind(Kind::Double)?.f_softmax(1, Kind::Double)?);
    }
    let all = rank.gather(&Tensor::f_cat(&parts, 0)?, range.len())?;
    judge(&all, recipe, range)
}

/// Judge probabilities `[N, C]` of a part of the data set.
pub(crate) fn judge(probabilities: &Tensor, recipe: &Recipe, range: std::ops::Range<usize>) -> Result<Evaluation, Failure> {
    let flat = Vec::<f64>::try_from(probabilities.f_to_device(graft_torch::tch::Device::Cpu)?.f_flatten(0, 1)?)?;
    let labels: Vec<usize> = recipe.dataset.samples[range].iter().map(|s| s.label).collect();
    Evaluation::of(&flat, &labels, recipe.classes(), recipe.dataset.positive).map_err(|e| Failure::new(ExitReason::Bug, "NotJudged", e.to_string()))
}
