//! One optimizer step of fine-tuning: images, loss, gradients averaged over the ranks, limits on them, and the step itself. A GPU is
//! given the next step before it has done the last one, whose loss is looked at one step later; and where all of a step's tensors
//! keep their shapes, the step is recorded once and given to it whole (`recorded.rs`).

use std::time::Instant;

use graft_crds::contract::ExitReason;
use graft_crds::spec::{FineTune, Precision};
use graft_torch::device::{AutocastGuard, AutocastType};
use graft_torch::tch::{Device, Tensor, no_grad};
use graft_torch::transfer::{Later, on_device};
use graft_torch::{Graph, Reducer, device, memory};
use graft_trainer_core::augment::{self, Augment, Blend};
use graft_trainer_core::sampler::{self, Epoch, Sampler};

use super::criterion::{Criterion, Labels};
use super::fine_tune::reducer;
use super::kept::{Kept, parts};
use super::optimizer::{Optimizer, clip, parameters};
use super::recorded::{Batch, Recorder};
use super::{Rank, Recipe, room, say};
use crate::event::{Event, Failure, GradientExchange, StepTimes};
use crate::models::Mode;

/// Samples that an error names.
const NAMED: usize = 3;
/// Steps in a row that a scaled loss may leave out before training counts as diverged.
const LEFT_OUT: u32 = 50;

/// What takes the steps of a run.
pub(super) struct Stepper {
    pub(super) optimizer: Optimizer,
    reducer: Option<Reducer>,
    settings: FineTune,
    criterion: Criterion,
    augment: Option<Augment>,
    autocast: Option<AutocastType>,
    /// Pretrained parameters and copies of their values, for L2-SP.
    anchors: Vec<(Tensor, Tensor)>,
    recorder: Recorder,
    /// Outputs of the frozen layers, where these are the same in each epoch.
    kept: Option<Kept>,
    /// The loss of the last step, if it is still on its way.
    coming: Option<Coming>,
    /// Images of a rank in a step at most.
    share: usize,
    left_out: u32,
    /// The sum of this rank's losses in this epoch, and what the images weigh: the mean loss is the losses of all ranks over this.
    loss: f64,
    mass: f64,
}

/// The losses of a step, and which step it was.
struct Coming {
    losses: Vec<Later>,
    epoch: u32,
    step: usize,
    /// The first few of this rank's, and how many there were.
    samples: Vec<usize>,
    count: usize,
    learning_rate: f64,
}

impl Stepper {
    pub(super) fn new(
        rank: &mut Rank,
        recipe: &Recipe,
        settings: &FineTune,
        moving: &[(String, Tensor)],
        sampler: &Sampler,
    ) -> Result<Self, Failure> {
        let anchored = |(name, t): &&(String, Tensor)| settings.l2sp.value() > 0.0 && !recipe.model.is_head(name) && t.is_floating_point();
        let autocast = autocast(rank, settings);
        let optimizer = optimizer(rank, recipe, settings, autocast)?;
        let mut stepper = Self {
            recorder: Recorder::new(false),
            optimizer,
            reducer: reducer(rank, recipe, settings)?,
            criterion: Criterion::new(&settings.loss, &recipe.dataset, rank.device)?,
            augment: settings.augment.as_ref().map(super::augment::numbers),
            autocast,
            anchors: moving.iter().filter(anchored).map(|(_, t)| (t.shallow_clone(), t.detach().copy())).collect(),
            settings: settings.clone(),
            kept: Kept::new(settings, recipe, 0),
            coming: None,
            share: sampler.epoch(0).global_batch(0).len().div_ceil(rank.world),
            left_out: 0,
            loss: 0.0,
            mass: 0.0,
        };
        stepper.make_room(rank, recipe)?;
        Ok(stepper)
    }

    /// Take steps in as many parts as memory needs, and record them where that can be done.
    fn make_room(&mut self, rank: &mut Rank, recipe: &Recipe) -> Result<(), Failure> {
        let wanted = usize::try_from(self.settings.accumulate).unwrap_or(1);
        let parts = room::parts(rank, recipe, self.share, wanted, self.autocast)?;
        self.settings.accumulate = i32::try_from(parts).unwrap_or(i32::MAX);
        if self.settings.sync_batch_norm && rank.world > 1 {
            recipe.model.normalise_over(Some(rank.group.clone()));
        }
        // A pair of blended images has more than one label, and parts of a batch add up: neither is recorded.
        let whole = self.settings.mix.is_none() && parts <= 1 && rank.world == 1;
        self.recorder = Recorder::new(whole && self.optimizer.is_recordable() && matches!(rank.device, Device::Cuda(_)));
        Ok(())
    }

    /// Train what is trainable now, and has been since the epoch `began`; the optimizer keeps what it knows of those layers that were
    /// trained before.
    pub(super) fn thaw(&mut self, rank: &mut Rank, recipe: &Recipe, began: u64) -> Result<(), Failure> {
        let mut optimizer = optimizer(rank, recipe, &self.settings, self.autocast)?;
        optimizer.restore(&self.optimizer.state().into_iter().collect())?;
        self.kept = Kept::new(&self.settings, recipe, began);
        self.optimizer = optimizer;
        // The old one's hooks go before the new one's come.
        self.reducer = None;
        self.reducer = reducer(rank, recipe, &self.settings)?;
        self.make_room(rank, recipe)
    }

    /// An epoch begins: where it goes on from a checkpoint, the outputs of frozen layers that it would find are computed.
    pub(super) fn begin_epoch(&mut self, rank: &Rank, recipe: &mut Recipe, sampler: &Sampler, epoch: u32) -> Result<(), Failure> {
        let Some(mut kept) = self.kept.take() else { return Ok(()) };
        let plan = sampler.epoch(kept.began());
        let late = !kept.is_complete() && kept.began() < epoch;
        for step in (0..plan.steps()).filter(|_| late) {
            for samples in parts(plan.share(step, rank.rank).samples, self.settings.accumulate) {
                let _ = kept.training(rank, recipe, samples)?;
            }
            if !kept.fits(rank, recipe) {
                return Ok(());
            }
        }
        if late {
            kept.complete(rank, &plan)?;
        }
        self.kept = Some(kept);
        Ok(())
    }

    /// An epoch's steps are done; gives the sum of this rank's losses, and what the images of all ranks weighed.
    pub(super) fn end_epoch(&mut self, rank: &Rank, recipe: &Recipe, plan: &Epoch<'_>) -> Result<(f64, f64), Failure> {
        if let Some(kept) = self.kept.as_mut().filter(|kept| !kept.is_complete()) {
            kept.complete(rank, plan)?;
        }
        if let Some(reducer) = &self.reducer {
            let stats = reducer.stats()?;
            say(&Event::Exchange(GradientExchange {
                bucket_bytes: stats.bucket_bytes,
                seconds: stats.communication.as_secs_f64(),
                overlapped_seconds: stats.overlapped.as_secs_f64(),
            }));
        }
        self.losses(recipe)
    }

    /// What [`Self::logits`] takes for a batch of this rank's validation images.
    pub(super) fn validation(&mut self, rank: &Rank, recipe: &mut Recipe, batch: usize, samples: &[usize]) -> Result<Tensor, Failure> {
        match &mut self.kept {
            Some(kept) => kept.validation(rank, recipe, batch, samples),
            None => recipe.images(samples, rank.device),
        }
    }

    /// Logits `[N, classes]` of images, or of what the frozen layers made of them if that is kept.
    pub(super) fn logits(&self, recipe: &Recipe, inputs: &Tensor, mode: Mode) -> Result<Tensor, Failure> {
        Ok(if self.kept.is_some() { recipe.model.forward_from(inputs, mode)? } else { recipe.model.forward(inputs, mode)? })
    }

    /// The sum of this rank's losses since the last call, and what the images of all ranks weighed.
    fn losses(&mut self, recipe: &Recipe) -> Result<(f64, f64), Failure> {
        if let Some(last) = self.coming.take() {
            self.look_at(recipe, &last)?;
        }
        Ok((std::mem::take(&mut self.loss), std::mem::take(&mut self.mass)))
    }

    /// One optimizer step of (plan, epoch, step), every learning rate times `factor`.
    pub(super) fn step(&mut self, rank: &mut Rank, recipe: &mut Recipe, at: (&Epoch<'_>, u32, usize), factor: f64) -> Result<(), Failure> {
        let (plan, epoch, step) = at;
        let global = plan.global_batch(step);
        let mine = sampler::shard(global.len(), rank.rank, rank.world);
        let mix = self.settings.mix.as_ref();
        let number = |d: &graft_crds::Decimal| d.value();
        let blend = mix.and_then(|m| augment::blend(m.mixup.as_ref().map(number), m.cutmix.as_ref().map(number), recipe.seed, epoch, step));
        let mass = self.criterion.mass(global.iter().map(|i| &recipe.dataset.samples[*i]), blend.is_some());
        self.optimizer.set_factor(factor)?;
        let mut times = StepTimes { samples: mine.len() as u64, ..StepTimes::default() };
        let (mut losses, mut stepped, mut start) = (Vec::new(), false, mine.start);
        for own in parts(&global[mine.clone()], self.settings.accumulate) {
            let positions = start..start + own.len();
            let (first, last) = (start == mine.start, positions.end == mine.end);
            start = positions.end;
            let clock = Instant::now();
            let (images, labels) = self.batch(rank, recipe, (global, positions), epoch, blend.as_ref())?;
            let weight = on_device(Tensor::from((rank.world as f64 / mass) as f32), rank.device)?;
            if last && step + 1 < plan.steps() && !self.kept.as_ref().is_some_and(Kept::is_complete) {
                recipe.loader.prefetch(plan.share(step + 1, rank.rank).samples);
            }
            times.data += clock.elapsed().as_secs_f64();
            let batch = Batch { images, labels, weight };
            let recorded = if self.recorder.takes(&batch) { self.replay(rank, recipe, &batch)? } else { None };
            stepped = recorded.is_some();
            let sum = match recorded {
                Some(sum) => sum,
                None => {
                    if first {
                        memory::zero_grads_to_none(self.optimizer.parameters())?;
                    }
                    self.gradients(rank, recipe, &batch, last, &mut times)?
                }
            };
            losses.push(Later::of(&sum)?);
        }
        if self.kept.as_ref().is_some_and(|kept| !kept.is_complete() && !kept.fits(rank, recipe)) {
            self.kept = None;
        }
        let samples = mine.clone().take(NAMED).map(|i| global[i]).collect();
        let coming = Coming { losses, epoch, step, samples, count: mine.len(), learning_rate: self.optimizer.learning_rate() };
        self.mass += mass;
        // A CPU has the loss already, so that nothing is changed by a step without one. The first step is waited for, to be told.
        let at_once = rank.device == Device::Cpu || rank.progress.step == 0;
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
        let before = if at_once {
            self.look_at(recipe, &coming)?;
            times.backward += lap();
            None
        } else {
            self.coming.replace(coming)
        };
        if !stepped {
            self.update()?;
            times.optimizer = lap();
        }
        if let Some(before) = before {
            self.look_at(recipe, &before)?;
            times.backward += lap();
        }
        rank.step_done();
        rank.telling.step(times);
        Ok(())
    }

    /// Forward and backward pass over one part of a step, with gradients averaged over the ranks after the last one; gives the sum of
    /// the losses.
    fn gradients(&mut self, rank: &Rank, recipe: &mut Recipe, batch: &Batch, last: bool, times: &mut StepTimes) -> Result<Tensor, Failure> {
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
        if let Some(reducer) = self.reducer.as_mut().filter(|_| last) {
            reducer.begin_step()?;
        }
        let logits = {
            let _guard = self.autocast.map(|kind| AutocastGuard::new(rank.device, kind)).transpose()?;
            self.logits(recipe, &batch.images, Mode::Train)?
        };
        if let Some(reducer) = self.reducer.as_mut().filter(|_| last) {
            reducer.prepare_backward::<Tensor>(&[])?;
        }
        let sum = self.criterion.sum(&logits, &batch.labels)?;
        let scaled = self.optimizer.scale(sum.f_mul(&batch.weight)?)?;
        times.forward += lap();
        device::backward(&scaled)?;
        if let Some(reducer) = self.reducer.as_mut().filter(|_| last) {
            reducer.finish_step()?;
        }
        times.backward += lap();
        Ok(sum.detach())
    }

    /// What is done with the gradients.
    fn update(&mut self) -> Result<(), Failure> {
        self.optimizer.unscale()?;
        self.pull()?;
        if let Some(limit) = &self.settings.clip {
            clip(self.optimizer.parameters(), limit)?;
        }
        self.optimizer.step()
    }

    /// A whole step in one piece, recorded first if it was not yet; gives the sum of the losses, or nothing if it cannot be recorded.
    fn replay(&mut self, rank: &mut Rank, recipe: &mut Recipe, batch: &Batch) -> Result<Option<Tensor>, Failure> {
        if !self.recorder.is_recorded() {
            let inputs = batch.copy();
            let mut unused = StepTimes::default();
            memory::zero_grads_to_none(self.optimizer.parameters())?;
            // What steps before had lies elsewhere than what the recorded one will have.
            if let Device::Cuda(index) = rank.device {
                memory::give_back(index)?;
            }
            let recording = Graph::record(|| -> Result<Tensor, Failure> {
                let sum = self.gradients(rank, recipe, &inputs, true, &mut unused)?;
                self.update()?;
                Ok(sum)
            });
            match recording {
                Ok((graph, sum)) => self.recorder.keep(graph, inputs, sum),
                Err(failure) => {
                    rank.log(format!("steps are given to the GPU one operation at a time, for they cannot be recorded: {failure}"));
                    self.recorder = Recorder::new(false);
                    return Ok(None);
                }
            }
        }
        self.recorder.replay(batch)
    }

    /// Add the losses of a step to those of the epoch, unless there is something wrong with them.
    fn look_at(&mut self, recipe: &Recipe, step: &Coming) -> Result<(), Failure> {
        let values = step.losses.iter().map(Later::wait).collect::<Result<Vec<f64>, _>>()?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            self.left_out += 1;
            // The step was left out, and the next one has a smaller scale.
            if self.autocast == Some(AutocastType::Half) && self.left_out < LEFT_OUT {
                return Ok(());
            }
            return Err(diverged(recipe, step, *value));
        }
        self.left_out = 0;
        self.loss += values.iter().sum::<f64>();
        Ok(())
    }

    /// Normalised images, or what the frozen layers make of them, and labels of some positions of a global batch.
    fn batch(
        &mut self,
        rank: &Rank,
        recipe: &mut Recipe,
        (global, positions): (&[usize], std::ops::Range<usize>),
        epoch: u32,
        blend: Option<&Blend>,
    ) -> Result<(Tensor, Labels), Failure> {
        let own = &global[positions.clone()];
        if let Some(kept) = &mut self.kept {
            return Ok((kept.training(rank, recipe, own)?, Labels { own: recipe.labels(own, rank.device)?, partner: None }));
        }
        let mut images = self.changed(rank, recipe, own, epoch)?;
        let mut labels = Labels { own: recipe.labels(own, rank.device)?, partner: None };
        if let Some(blend) = blend {
            let partners: Vec<usize> = positions.map(|i| global[(i + 1) % global.len()]).collect();
            let others = self.changed(rank, recipe, &partners, epoch)?;
            let (mixed, share) = super::augment::blended(&images, &others, blend)?;
            images = mixed;
            labels.partner = Some((recipe.labels(&partners, rank.device)?, share));
        }
        Ok((recipe.inputs(images)?, labels))
    }

    fn changed(&self, rank: &Rank, recipe: &mut Recipe, samples: &[usize], epoch: u32) -> Result<Tensor, Failure> {
        let images = recipe.pixels(samples, rank.device)?;
        let Some(augment) = &self.augment else { return Ok(images) };
        let changes: Vec<_> = samples.iter().map(|sample| augment.change(recipe.seed, epoch, *sample)).collect();
        super::augment::apply(&images, &changes)
    }

    /// L2-SP: the gradient of strength / 2 · |w − pretrained w|².
    fn pull(&self) -> Result<(), Failure> {
        no_grad(|| {
            for (parameter, start) in self.anchors.iter().filter(|(p, _)| p.requires_grad()) {
                let pull = parameter.f_sub(start)?.f_mul_scalar(self.settings.l2sp.value())?;
                let _ = parameter.grad().f_add_(&pull)?;
            }
            Ok(())
        })
    }
}

fn optimizer(rank: &Rank, recipe: &Recipe, settings: &FineTune, autocast: Option<AutocastType>) -> Result<Optimizer, Failure> {
    let optimizer = Optimizer::new(&settings.optimizer, parameters(&recipe.model, &settings.optimizer))?;
    if autocast == Some(AutocastType::Half) { optimizer.scaled(rank.device) } else { Ok(optimizer) }
}

fn diverged(recipe: &Recipe, step: &Coming, value: f64) -> Failure {
    let names: Vec<String> = step.samples.iter().map(|i| recipe.dataset.samples[*i].place()).collect();
    let text = format!(
        "the training loss became {value} in step {} of epoch {} at learning rate {:e}, with {} and {} more; lower spec.fineTune.optimizer.learningRate or set spec.fineTune.clip",
        step.step,
        step.epoch + 1,
        step.learning_rate,
        names.join(", "),
        step.count - names.len(),
    );
    Failure::new(ExitReason::UserError, "LossDiverged", text)
}

/// The type that the forward pass computes in, if it is not float32; a CPU without instructions for it says so.
fn autocast(rank: &Rank, settings: &FineTune) -> Option<AutocastType> {
    match (settings.precision, rank.device) {
        (Precision::Fp32 | Precision::Tf32, _) => None,
        (Precision::Bf16, Device::Cpu) if !cpu_has_bf16() => {
            rank.log("this CPU has no bfloat16 instructions: training in float32, which is faster and more exact here");
            None
        }
        (Precision::Bf16, _) => Some(AutocastType::BFloat16),
        (Precision::Fp16, Device::Cpu) => {
            rank.log("float16 is for GPUs: training in float32");
            None
        }
        (Precision::Fp16, _) => Some(AutocastType::Half),
    }
}

fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
