//! Fine-tuning, data-parallel: every rank takes its share of each global batch, libtorch's reducer averages the gradients
//! during the backward pass, and all ranks take the same optimizer step. What one step does is in `step.rs`.

use std::collections::BTreeMap;
use std::time::Instant;

use graft_crds::contract::{ExitReason, Stage};
use graft_crds::spec::{FineTune, GradientTravel, Keep, Precision, Sampling, ScheduleName, TaskType};
use graft_data::Split;
use graft_torch::tch::{Kind, Tensor, no_grad};
use graft_torch::{Reducer, ReducerSettings, Reduction, Travel, device};
use graft_trainer_core::artefact::digest_of;
use graft_trainer_core::metrics::{Evaluation, MetricsError};
use graft_trainer_core::regression::Deviation;
use graft_trainer_core::report::{HistoryRow, Judgement};
use graft_trainer_core::sampler::{self, Sampler};
use graft_trainer_core::schedule::{Schedule, Shape, unfrozen};

use super::checkpoint::{Checkpoints, Notes};
use super::frozen::Frozen;
use super::step::Stepper;
use super::{Rank, Recipe, say};
use crate::event::{Event, Failure};
use crate::models::{self, Mode};

/// What fine-tuning leaves beside the values in the model.
pub(super) struct Tuned {
    /// Digest of everything that decided the outcome.
    pub(super) inputs: String,
    /// What must not have changed.
    pub(super) frozen: Frozen,
}

/// Train, and leave the values that are kept in the model.
pub(super) fn fine_tune(rank: &mut Rank, recipe: &mut Recipe, settings: &FineTune) -> Result<Tuned, Failure> {
    let train = recipe.dataset.range(Split::Train).len();
    let batch = usize::try_from(settings.global_batch_size).unwrap_or(1).min(train);
    let sampler =
        Sampler::new(train, batch, rank.world, recipe.seed).map_err(|e| Failure::user("InvalidBatchSize", format!("spec.fineTune: {e}")))?;
    let sampler = match settings.sampling {
        Sampling::All => sampler,
        Sampling::Balanced => sampler.balanced(recipe.dataset.split(Split::Train).iter().map(|sample| sample.label).collect()),
    };
    let epochs = u64::try_from(settings.epochs).unwrap_or(1);
    if let Some(probability) = &settings.dropout {
        recipe.model.set_dropout(probability.value());
    }

    // Features and the evaluation are computed in float32, so that whoever loads the model gets the same predictions.
    device::set_tf32(settings.precision == Precision::Tf32)?;
    let mut trainer = Trainer::new(rank, recipe, settings, &sampler)?;
    let first = trainer.resume(rank, recipe)?;
    rank.begin(Stage::FineTune, epochs, first * train as u64);
    for epoch in first..epochs {
        if trainer.is_out_of_patience(epoch) {
            rank.log(format!(
                "the validation loss has not fallen for {} epochs: fine-tuning stops after epoch {epoch}",
                settings.patience_epochs.unwrap_or(0)
            ));
            break;
        }
        trainer.thaw(rank, recipe, epoch)?;
        trainer.epoch(rank, recipe, &sampler, epoch)?;
    }
    device::set_tf32(false)?;
    trainer.finish(rank)
}

struct Trainer {
    settings: FineTune,
    schedule: Schedule,
    stepper: Stepper,
    checkpoints: Checkpoints,
    notes: Notes,
    /// Layers that are trained now, beside the head.
    layers: Vec<String>,
    /// Everything that training changes at some time: parameters, and the buffers of their layers.
    moving: Vec<(String, Tensor)>,
    /// The moving average of `moving`, where there is one.
    average: Vec<(String, Tensor)>,
    /// Values of `moving` at the best epoch.
    best: Vec<(String, Tensor)>,
    frozen: Frozen,
    inputs: String,
}

impl Trainer {
    fn new(rank: &mut Rank, recipe: &mut Recipe, settings: &FineTune, sampler: &Sampler) -> Result<Self, Failure> {
        let all: Vec<Tensor> = recipe.model.tensors().iter().map(|t| t.tensor.shallow_clone()).collect();
        rank.group.broadcast_coalesced(&all, 0)?;
        recipe.model.set_trainable(&settings.unfreeze)?;
        let moving = moving(recipe);
        let inputs =
            digest_of("fine-tune", 2, &description(rank, recipe, settings)).map_err(|e| Failure::new(ExitReason::Bug, "NoDigest", e.to_string()))?;
        let average = if settings.ema_decay.is_some() { copies(&moving) } else { Vec::new() };
        let layers = at(settings, 0).to_vec();
        recipe.model.set_trainable(&layers)?;
        Ok(Self {
            schedule: schedule(settings, sampler),
            stepper: Stepper::new(rank, recipe, settings, &moving, sampler)?,
            checkpoints: Checkpoints::new(rank, inputs.clone()),
            notes: Notes::default(),
            frozen: Frozen::of(&recipe.model, &moving)?,
            settings: settings.clone(),
            best: Vec::new(),
            layers,
            moving,
            average,
            inputs,
        })
    }

    /// Train the layers that it is time for; the optimizer keeps what it knows of those that are trained already.
    fn thaw(&mut self, rank: &mut Rank, recipe: &mut Recipe, epoch: u64) -> Result<(), Failure> {
        let layers = at(&self.settings, epoch);
        if layers == self.layers {
            return Ok(());
        }
        rank.log(format!("epoch {}: trained layers are now {} and the head", epoch + 1, layers.join(", ")));
        self.layers = layers.to_vec();
        recipe.model.set_trainable(&self.layers)?;
        // A run that goes on from a checkpoint may come to them later.
        let began = (0..epoch).find(|e| at(&self.settings, *e) == self.layers).unwrap_or(epoch);
        self.stepper.thaw(rank, recipe, began)
    }

    /// Go on from the newest checkpoint; gives the epochs that it holds.
    fn resume(&mut self, rank: &mut Rank, recipe: &mut Recipe) -> Result<u64, Failure> {
        let Some(loaded) = self.checkpoints.newest(rank)? else { return Ok(0) };
        self.thaw(rank, recipe, loaded.epoch.saturating_sub(1))?;
        let missing = self.stepper.optimizer.restore(&loaded.tensors)?
            + restore(&self.moving, &loaded.tensors, "model/")?
            + restore(&self.average, &loaded.tensors, "average/")?;
        if missing > 0 {
            let text = format!("a checkpoint lacks {missing} tensors of this model; remove .graft/checkpoints beside the output");
            return Err(Failure::new(ExitReason::CheckpointError, "CheckpointUnusable", text));
        }
        self.best = loaded.tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("best/")?.to_owned(), t.shallow_clone()))).collect();
        self.notes = loaded.notes;
        rank.history.clone_from(&self.notes.history);
        rank.log(format!("going on after epoch {} from its checkpoint", loaded.epoch));
        rank.checkpointed(loaded.reference);
        Ok(loaded.epoch)
    }

    /// Whether the best epoch lies so far back that training stops before `epoch`.
    fn is_out_of_patience(&self, epoch: u64) -> bool {
        let patience = self.settings.patience_epochs.and_then(|p| u64::try_from(p).ok());
        patience.zip(self.notes.best).is_some_and(|(patience, (best, _))| epoch - best >= patience)
    }

    fn epoch(&mut self, rank: &mut Rank, recipe: &mut Recipe, sampler: &Sampler, epoch: u64) -> Result<(), Failure> {
        let began = Instant::now();
        // Dropout draws from torch's generator: seeded anew per epoch and rank, so that a resumed run draws the same.
        device::manual_seed(recipe.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (epoch << 20) ^ rank.rank as u64);
        let number = u32::try_from(epoch).unwrap_or(u32::MAX);
        let plan = sampler.epoch(number);
        self.stepper.begin_epoch(rank, recipe, sampler, number)?;
        rank.telling.begin_epoch();
        let mut trained = 0;
        for step in 0..plan.steps() {
            let factor = self.schedule.factor(epoch * plan.steps() as u64 + step as u64);
            self.stepper.step(rank, recipe, (&plan, number, step), factor)?;
            self.follow()?;
            let samples = plan.global_batch(step).len();
            trained += samples;
            rank.record(samples);
        }
        rank.telling.end_epoch();
        let (loss, mass) = self.stepper.end_epoch(rank, recipe, &plan)?;
        let seconds = began.elapsed().as_secs_f64();
        let loss = sum(rank, loss)? / mass;
        // Batch statistics differ by rank; rank 0's are everybody's.
        let all: Vec<Tensor> = self.moving.iter().chain(&self.average).map(|(_, t)| t.shallow_clone()).collect();
        rank.group.broadcast_coalesced(&all, 0)?;
        let validation = self.validate(rank, recipe)?;
        let validation_loss = validation.loss(recipe.unit.deviation);
        if self.notes.best.is_none_or(|(_, best)| validation_loss < best) {
            self.notes.best = Some((epoch + 1, validation_loss));
            self.best = copies(self.judged());
        }
        let row = HistoryRow {
            stage: Stage::FineTune,
            epoch: epoch + 1,
            attempt: rank.config.run.attempt,
            learning_rate: self.stepper.optimizer.learning_rate(),
            train_loss: loss,
            validation_loss: Some(validation_loss),
            validation_accuracy: validation.metric("accuracy"),
            validation_auroc: validation.metric("auroc"),
            validation_mae: validation.metric("mae"),
            seconds,
            samples_per_second: Some(trained as f64 / seconds),
        };
        rank.epoch_done(row);
        self.save(rank, recipe, epoch + 1)
    }

    /// The moving average takes the weights in: average ← decay · average + (1 − decay) · weights.
    fn follow(&mut self) -> Result<(), Failure> {
        let Some(decay) = self.settings.ema_decay.as_ref().map(graft_crds::Decimal::value) else { return Ok(()) };
        no_grad(|| {
            for ((_, average), (_, value)) in self.average.iter_mut().zip(&self.moving) {
                let _ = if value.is_floating_point() {
                    average.f_lerp_(value, 1.0 - decay)?
                } else {
                    average.f_copy_(value)?;
                    average.shallow_clone()
                };
            }
            Ok(())
        })
    }

    /// The values that are judged and kept.
    fn judged(&self) -> &[(String, Tensor)] {
        if self.average.is_empty() { &self.moving } else { &self.average }
    }

    fn validate(&mut self, rank: &Rank, recipe: &mut Recipe) -> Result<Judgement, Failure> {
        if self.average.is_empty() {
            return validate(rank, recipe, &mut self.stepper);
        }
        let weights: BTreeMap<String, Tensor> = copies(&self.moving).into_iter().collect();
        restore(&self.moving, &self.average.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect(), "")?;
        let judged = validate(rank, recipe, &mut self.stepper);
        restore(&self.moving, &weights, "")?;
        judged
    }

    fn save(&mut self, rank: &mut Rank, recipe: &Recipe, epoch: u64) -> Result<(), Failure> {
        self.notes.history.clone_from(&rank.history);
        if rank.rank == 0 {
            let began = Instant::now();
            self.frozen.check(&recipe.model)?;
            let prefixed =
                |prefix: &str, list: &[(String, Tensor)]| list.iter().map(|(n, t)| (format!("{prefix}{n}"), t.detach())).collect::<Vec<_>>();
            let lists = [
                prefixed("model/", &self.moving),
                prefixed("average/", &self.average),
                prefixed("best/", &self.best),
                self.stepper.optimizer.state(),
            ];
            let reference = self.checkpoints.write(epoch, &lists.into_iter().flatten().collect::<Vec<_>>(), &self.notes)?;
            say(&Event::Checkpoint { seconds: began.elapsed().as_secs_f64() });
            rank.checkpointed(reference);
        }
        Ok(())
    }

    /// The kept epoch's values go into the model.
    fn finish(self, rank: &Rank) -> Result<Tuned, Failure> {
        let kept = match self.settings.keep {
            Keep::Best => &self.best,
            Keep::Last => self.judged(),
        };
        restore(&self.moving, &kept.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect(), "")?;
        if let Some((epoch, loss)) = self.notes.best {
            let which = if self.settings.keep == Keep::Best { "keeps" } else { "keeps the last epoch; the best was" };
            rank.log(format!("fine-tuning {which} epoch {epoch}, validation loss {loss:.4}"));
        }
        Ok(Tuned { inputs: self.inputs, frozen: self.frozen })
    }
}

/// The layers that are trained in an epoch, counted from 0.
fn at(settings: &FineTune, epoch: u64) -> &[String] {
    unfrozen(&settings.unfreeze, settings.thaw_every_epochs.and_then(|every| u64::try_from(every).ok()), epoch)
}

fn schedule(settings: &FineTune, sampler: &Sampler) -> Schedule {
    let per_epoch = sampler.steps() as u64;
    let given = &settings.schedule;
    let end = given.final_ratio.value();
    let count = |number: i32| u64::try_from(number).unwrap_or(1);
    let shape = match given.name {
        ScheduleName::Constant => Shape::Constant,
        ScheduleName::Cosine => Shape::Cosine { end },
        ScheduleName::OneCycle => Shape::OneCycle,
        ScheduleName::Polynomial => Shape::Polynomial { end, power: given.power.value() },
        ScheduleName::Step => Shape::Step { every: count(given.step_epochs) * per_epoch, gamma: given.gamma.value() },
    };
    let warmup = (given.warmup_epochs.value() * per_epoch as f64).round() as u64;
    Schedule { shape, warmup, steps: count(settings.epochs) * per_epoch }
}

/// The reducer of what is trained now; none where there is nobody to average with.
pub(super) fn reducer(rank: &Rank, recipe: &Recipe, settings: &FineTune) -> Result<Option<Reducer>, Failure> {
    if rank.world == 1 {
        return Ok(None);
    }
    let named: Vec<graft_torch::Parameter<'_>> =
        recipe.model.trainable().map(|t| graft_torch::Parameter { name: &t.name, tensor: &t.tensor }).collect();
    let travel = match settings.gradient_travel {
        GradientTravel::Fp32 => Travel::Whole,
        GradientTravel::Bf16 => Travel::BFloat16,
    };
    Ok(Some(Reducer::new(&rank.group, &named, ReducerSettings { travel, ..ReducerSettings::default() })?))
}

/// What decides the outcome of fine-tuning.
fn description(rank: &Rank, recipe: &Recipe, settings: &FineTune) -> serde_json::Value {
    serde_json::json!({
        "architecture": rank.config.backbone.architecture, "weights": recipe.weights_digest, "data": recipe.data_digest, "settings": settings,
        "geometry": recipe.geometry, "normaliser": recipe.normaliser, "padding": recipe.padding, "world": rank.world, "task": recipe.dataset.task, "classes": recipe.dataset.classes,
        "head": settings.head_first.then_some(&rank.config.head),
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

fn copies(list: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    list.iter().map(|(name, t)| (name.clone(), t.detach().copy())).collect()
}

/// Copy saved values into the targets; gives how many there are none for.
pub(super) fn restore(targets: &[(String, Tensor)], saved: &BTreeMap<String, Tensor>, prefix: &str) -> Result<usize, Failure> {
    no_grad(|| {
        let mut missing = 0;
        for (name, target) in targets {
            match saved.get(&format!("{prefix}{name}")) {
                Some(source) => target.shallow_clone().f_copy_(&source.f_view_as(target)?)?,
                None => missing += 1,
            }
        }
        Ok(missing)
    })
}

/// The sum of a number over all ranks.
pub(super) fn sum(rank: &Rank, value: f64) -> Result<f64, Failure> {
    let total = Tensor::from_slice(&[value]).f_to_device(rank.device)?;
    rank.group.all_reduce(&total, Reduction::Sum)?;
    Ok(total.f_double_value(&[0])?)
}

/// The validation set, each image once, judged the same on all ranks.
fn validate(rank: &Rank, recipe: &mut Recipe, stepper: &mut Stepper) -> Result<Judgement, Failure> {
    let range = recipe.dataset.range(Split::Validation);
    let mine: Vec<usize> = sampler::shard(range.len(), rank.rank, rank.world).map(|i| range.start + i).collect();
    let mut parts = vec![Tensor::f_zeros([0, recipe.classes() as i64], (Kind::Double, rank.device))?];
    for (batch, chunk) in mine.chunks(rank.evaluated_at_once).enumerate() {
        let inputs = stepper.validation(rank, recipe, batch, chunk)?;
        let logits = no_grad(|| stepper.logits(recipe, &inputs, Mode::Evaluate))?;
        parts.push(recipe.said(&logits)?);
    }
    let all = rank.gather(&Tensor::f_cat(&parts, 0)?, range.len())?;
    judge(&all, recipe, range)
}

/// Judge what the network said, `[N, C]`, of a part of the data set.
pub(crate) fn judge(said: &Tensor, recipe: &Recipe, range: std::ops::Range<usize>) -> Result<Judgement, Failure> {
    let flat = Vec::<f64>::try_from(said.f_to_device(graft_torch::tch::Device::Cpu)?.f_flatten(0, 1)?)?;
    let (samples, classes) = (&recipe.dataset.samples[range], recipe.classes());
    let judged = match recipe.dataset.task {
        TaskType::Classification => {
            Evaluation::of(&flat, &samples.iter().map(|s| s.label).collect::<Vec<_>>(), classes, recipe.dataset.positive).map(Judgement::Classes)
        }
        TaskType::MultiLabel => Evaluation::of_findings(&flat, &samples.iter().flat_map(|s| s.findings.iter().copied()).collect::<Vec<_>>(), classes)
            .map(Judgement::Classes),
        TaskType::Regression => Deviation::of(&flat, &samples.iter().filter_map(|s| s.number).collect::<Vec<_>>()).map(Judgement::Numbers),
    };
    judged.map_err(|error| match error {
        MetricsError::NotANumber { .. } => Failure::user("LossDiverged", format!("{error}; lower the learning rate")),
        other => Failure::new(ExitReason::Bug, "NotJudged", other.to_string()),
    })
}
