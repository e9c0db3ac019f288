//! One optimizer step of fine-tuning: images, loss, gradients averaged over the ranks, limits on them, and the step itself.

use std::time::Instant;

use graft_crds::contract::ExitReason;
use graft_crds::spec::{FineTune, Precision};
use graft_torch::device::{AutocastGuard, AutocastType};
use graft_torch::tch::{Device, Tensor, no_grad};
use graft_torch::{Reducer, device, memory};
use graft_trainer_core::augment::{self, Augment, Blend};
use graft_trainer_core::sampler::{self, Epoch};

use super::criterion::{Criterion, Labels};
use super::fine_tune::reducer;
use super::optimizer::{Optimizer, clip, parameters};
use super::{Rank, Recipe, say};
use crate::event::{Event, Failure, StepTimes};
use crate::models::Mode;

/// Samples that an error names.
const NAMED: usize = 3;

/// What takes the steps of a run.
pub(super) struct Stepper {
    pub(super) optimizer: Optimizer,
    pub(super) reducer: Option<Reducer>,
    settings: FineTune,
    criterion: Criterion,
    augment: Option<Augment>,
    autocast: Option<AutocastType>,
    /// Pretrained parameters and copies of their values, for L2-SP.
    anchors: Vec<(Tensor, Tensor)>,
}

/// What one step did.
pub(super) struct Done {
    /// The sum of this rank's losses.
    pub(super) loss: f64,
    /// What the global batch weighs: the mean loss is the losses of all ranks over this.
    pub(super) mass: f64,
}

impl Stepper {
    pub(super) fn new(rank: &Rank, recipe: &Recipe, settings: &FineTune, moving: &[(String, Tensor)]) -> Result<Self, Failure> {
        let anchored = |(name, t): &&(String, Tensor)| settings.l2sp.value() > 0.0 && !recipe.model.is_head(name) && t.is_floating_point();
        Ok(Self {
            optimizer: Optimizer::new(&settings.optimizer, parameters(&recipe.model, &settings.optimizer))?,
            reducer: reducer(rank, recipe)?,
            criterion: Criterion::new(&settings.loss, &recipe.dataset, rank.device)?,
            augment: settings.augment.as_ref().map(super::augment::numbers),
            autocast: autocast(rank, settings),
            anchors: moving.iter().filter(anchored).map(|(_, t)| (t.shallow_clone(), t.detach().copy())).collect(),
            settings: settings.clone(),
        })
    }

    /// One optimizer step of (plan, epoch, step), every learning rate times `factor`.
    pub(super) fn step(&mut self, rank: &mut Rank, recipe: &mut Recipe, at: (&Epoch<'_>, u32, usize), factor: f64) -> Result<Done, Failure> {
        let (plan, epoch, step) = at;
        let global = plan.global_batch(step);
        let mine = sampler::shard(global.len(), rank.rank, rank.world);
        let mix = self.settings.mix.as_ref();
        let number = |d: &graft_crds::Decimal| d.value();
        let blend = mix.and_then(|m| augment::blend(m.mixup.as_ref().map(number), m.cutmix.as_ref().map(number), recipe.seed, epoch, step));
        let mass = self.criterion.mass(global.iter().map(|i| &recipe.dataset.samples[*i]), blend.is_some());
        let mut times = StepTimes { samples: mine.len() as u64, data: 0.0, forward: 0.0, backward: 0.0, optimizer: 0.0 };
        let mut loss = 0.0;
        memory::zero_grads_to_none(self.optimizer.parameters())?;
        let part = mine.len().div_ceil(usize::try_from(self.settings.accumulate).unwrap_or(1).max(1));
        let parts: Vec<_> = mine.clone().step_by(part).map(|from| from..(from + part).min(mine.end)).collect();
        for (i, positions) in parts.iter().enumerate() {
            let mut clock = Instant::now();
            let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
            let (images, labels) = self.batch(rank, recipe, (global, positions.clone()), epoch, blend.as_ref())?;
            if i + 1 == parts.len() && step + 1 < plan.steps() {
                recipe.loader.prefetch(plan.share(step + 1, rank.rank).samples);
            }
            times.data += lap();
            // Gradients are averaged once, with the last part.
            let mut reducer = self.reducer.as_mut().filter(|_| i + 1 == parts.len());
            if let Some(reducer) = &mut reducer {
                reducer.begin_step()?;
            }
            let logits = {
                let _guard = self.autocast.map(|kind| AutocastGuard::new(rank.device, kind)).transpose()?;
                recipe.model.forward(&images, Mode::Train)?
            };
            if let Some(reducer) = &mut reducer {
                reducer.prepare_backward::<Tensor>(&[])?;
            }
            let sum = self.criterion.sum(&logits, &labels)?;
            let scaled = sum.f_mul_scalar(rank.world as f64 / mass)?;
            times.forward += lap();
            device::backward(&scaled)?;
            if let Some(reducer) = &mut reducer {
                reducer.finish_step()?;
            }
            times.backward += lap();
            let value = sum.f_double_value(&[])?;
            if !value.is_finite() {
                return Err(self.diverged(recipe, (epoch, step), &global[positions.clone()], factor, value));
            }
            loss += value;
        }
        let clock = Instant::now();
        self.pull()?;
        if let Some(limit) = &self.settings.clip {
            clip(self.optimizer.parameters(), limit)?;
        }
        self.optimizer.step(factor)?;
        times.optimizer = clock.elapsed().as_secs_f64();
        rank.first_step();
        say(&Event::Step(times));
        Ok(Done { loss, mass })
    }

    /// Normalised images and labels of some positions of a global batch.
    fn batch(
        &self,
        rank: &Rank,
        recipe: &mut Recipe,
        (global, positions): (&[usize], std::ops::Range<usize>),
        epoch: u32,
        blend: Option<&Blend>,
    ) -> Result<(Tensor, Labels), Failure> {
        let own = &global[positions.clone()];
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

    fn diverged(&self, recipe: &Recipe, (epoch, step): (u32, usize), samples: &[usize], factor: f64, value: f64) -> Failure {
        let names: Vec<&str> = samples.iter().take(NAMED).map(|i| recipe.dataset.samples[*i].place.as_str()).collect();
        let text = format!(
            "the training loss became {value} in step {step} of epoch {} at learning rate {:e}, with {} and {} more; lower spec.fineTune.optimizer.learningRate or set spec.fineTune.clip",
            epoch + 1,
            self.optimizer.learning_rate() * factor,
            names.join(", "),
            samples.len().saturating_sub(NAMED),
        );
        Failure::new(ExitReason::UserError, "LossDiverged", text)
    }
}

/// The type that the forward pass computes in, if it is not float32; a CPU without instructions for it says so.
fn autocast(rank: &Rank, settings: &FineTune) -> Option<AutocastType> {
    match (settings.precision, rank.device) {
        (Precision::Fp32, _) => None,
        (Precision::Bf16, Device::Cpu) if !cpu_has_bf16() => {
            rank.log("this CPU has no bfloat16 instructions: training in float32, which is faster and more exact here");
            None
        }
        (Precision::Bf16, _) => Some(AutocastType::BFloat16),
    }
}

fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
