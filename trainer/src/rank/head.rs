//! The linear head, trained by rank 0 on the features of all ranks; the epoch with the lowest validation loss is kept.
//! Features are standardised for training with the mean and deviation of the training set, which makes one learning rate
//! fit every backbone; the map is then folded into weight and bias, so the model has a plain linear head. Weight decay
//! therefore acts on the standardised scale.

use std::time::Instant;

use graft_crds::contract::{ExitReason, Stage};
use graft_crds::spec::Optimizer as OptimizerSettings;
use graft_data::Split;
use graft_torch::memory;
use graft_torch::tch::{Device, Kind, Tensor, no_grad};
use graft_trainer_core::report::HistoryRow;
use graft_trainer_core::sampler::permutation;

use super::criterion::{Criterion, Labels};
use super::fine_tune::judge;
use super::optimizer::{Optimizer, Parameter};
use super::{Rank, Recipe};
use crate::event::Failure;

/// Train the head and put it into the model.
pub(super) fn train(rank: &mut Rank, recipe: &mut Recipe, features: &Tensor) -> Result<(), Failure> {
    let settings = rank.config.head.clone();
    let epochs = u64::try_from(settings.epochs).unwrap_or(1);
    rank.begin(Stage::Head, epochs, 0);
    recipe.model.reset_head(recipe.seed)?;
    let (train, validation) = (recipe.dataset.range(Split::Train), recipe.dataset.range(Split::Validation));
    let rows = |range: &std::ops::Range<usize>| features.f_narrow(0, range.start as i64, range.len() as i64);
    let scale = Scale::of(&rows(&train)?)?;
    let (x, x_validation) = (scale.apply(&rows(&train)?)?, scale.apply(&rows(&validation)?)?);
    let indices: Vec<usize> = train.clone().collect();
    let y = recipe.labels(&indices, Device::Cpu)?;
    let criterion = Criterion::plain(&recipe.dataset);
    let [weight, bias] = recipe.head()?;
    let start = |t: &Tensor| -> Result<Tensor, Failure> { Ok(t.detach().f_to_device(Device::Cpu)?.copy().set_requires_grad(true)) };
    let (w, b) = (start(&weight.f_flatten(1, -1)?)?, start(&bias)?);
    let given: OptimizerSettings = settings.optimizer.clone().into();
    let (learning_rate, weight_decay) = (given.learning_rate.value(), given.weight_decay.value());
    let parameter = |name: &str, tensor: &Tensor| Parameter { name: name.to_owned(), tensor: tensor.shallow_clone(), learning_rate, weight_decay };
    let mut optimizer = Optimizer::new(&given, vec![parameter("weight", &w), parameter("bias", &b)])?;
    let batch = usize::try_from(settings.batch_size).unwrap_or(1).max(1);
    let mut best: Option<(f64, u64, Tensor, Tensor)> = None;
    for epoch in 0..epochs {
        let began = Instant::now();
        let order: Vec<i64> =
            permutation(train.len(), recipe.seed ^ 0x4845_4144, u32::try_from(epoch).unwrap_or(u32::MAX)).iter().map(|i| *i as i64).collect();
        let mut total = 0.0;
        for chunk in order.chunks(batch) {
            let pick = Tensor::from_slice(chunk);
            let logits = x.f_index_select(0, &pick)?.f_linear(&w, Some(&b))?;
            let labels = Labels { own: y.f_index_select(0, &pick)?, partner: None };
            let mass = criterion.mass(chunk.iter().map(|i| &recipe.dataset.samples[indices[*i as usize]]), false);
            let loss = criterion.sum(&logits, &labels)?.f_div_scalar(mass)?;
            memory::zero_grads_to_none(optimizer.parameters())?;
            graft_torch::device::backward(&loss)?;
            optimizer.step()?;
            total += loss.f_double_value(&[])? * chunk.len() as f64;
        }
        let said = recipe.said(&no_grad(|| x_validation.f_linear(&w, Some(&b)))?)?;
        let judged = judge(&said, recipe, validation.clone())?;
        let loss = judged.loss(recipe.unit.deviation);
        if !loss.is_finite() {
            return Err(Failure::new(ExitReason::UserError, "LossDiverged", "the head's loss is no number; lower spec.head.optimizer.learningRate"));
        }
        if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
            best = Some((loss, epoch + 1, w.detach().copy(), b.detach().copy()));
        }
        rank.record(train.len());
        let row = HistoryRow {
            stage: Stage::Head,
            epoch: epoch + 1,
            attempt: rank.config.run.attempt,
            learning_rate: optimizer.learning_rate(),
            train_loss: total / train.len() as f64,
            validation_loss: Some(loss),
            validation_accuracy: judged.metric("accuracy"),
            validation_auroc: judged.metric("auroc"),
            validation_mae: judged.metric("mae"),
            seconds: began.elapsed().as_secs_f64(),
            samples_per_second: None,
        };
        rank.head_epoch_done(row);
    }
    if let Some((loss, epoch, w, b)) = best {
        rank.log(format!("head keeps epoch {epoch}, validation loss {loss:.4}"));
        let (w, b) = scale.fold(&w, &b)?;
        no_grad(|| -> Result<(), Failure> {
            weight.shallow_clone().f_copy_(&w.f_view_as(&weight)?)?;
            bias.shallow_clone().f_copy_(&b)?;
            Ok(())
        })?;
    }
    rank.report();
    Ok(())
}

/// Mean and deviation of each feature over the training set.
struct Scale {
    mean: Tensor,
    deviation: Tensor,
}

impl Scale {
    fn of(x: &Tensor) -> Result<Self, Failure> {
        let mean = x.f_mean_dim(Some(&[0i64][..]), false, Kind::Float)?;
        // A feature that never changes stays as it is.
        let deviation = x.f_sub(&mean)?.f_square()?.f_mean_dim(Some(&[0i64][..]), false, Kind::Float)?.f_sqrt()?;
        let flat = deviation.f_lt(1e-6)?;
        let deviation = deviation.f_masked_fill(&flat, 1.0)?;
        Ok(Self { mean, deviation })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor, Failure> {
        Ok(x.f_sub(&self.mean)?.f_div(&self.deviation)?)
    }

    /// W·((x − m) / s) + b = (W / s)·x + (b − W·(m / s)).
    fn fold(&self, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, Tensor), Failure> {
        let w = weight.f_div(&self.deviation)?;
        let b = bias.f_sub(&w.f_mv(&self.mean)?)?;
        Ok((w, b))
    }
}
