//! SGD, Adam, AdamW and LAMB over named parameters in groups of one learning rate and weight decay each, with a state that
//! goes into checkpoints. SGD and Adam run by torch's fused kernels; the formulas are torch.optim's and LAMB's paper's.

use std::collections::BTreeMap;

use graft_crds::spec::{Clip, DecayScope, Optimizer as Settings, OptimizerName};
use graft_torch::optim::{AdamState, AdamStep, Momentum, OnDevice, SgdStep, SgdTurn, WeightDecay, fused_adam, fused_sgd, unscale, update_scale};
use graft_torch::tch::{Device, Kind, Tensor, no_grad};
use graft_trainer_core::schedule::layer_factor;

use crate::event::Failure;
use crate::models::Model;

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// A parameter with its own learning rate and weight decay.
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
}

/// The trained parameters of a model, with the rates that the settings give each.
pub(crate) fn parameters(model: &Model, settings: &Settings) -> Vec<Parameter> {
    let groups = model.groups();
    let rate = settings.learning_rate.value();
    let of = |name: &str, group: &str| {
        let place = groups.iter().position(|g| g == group).unwrap_or(groups.len());
        match &settings.head_learning_rate {
            Some(own) if model.is_head(name) => own.value(),
            _ => rate * layer_factor(settings.layer_decay.value(), groups.len(), place),
        }
    };
    let trained = model.trainable();
    trained
        .map(|t| {
            // Offsets and normalisation's factors are the parameters of one dimension.
            let decays = settings.decay == DecayScope::All || t.tensor.dim() > 1;
            let weight_decay = if decays { settings.weight_decay.value() } else { 0.0 };
            Parameter { name: t.name.clone(), tensor: t.tensor.shallow_clone(), learning_rate: of(&t.name, &t.group), weight_decay }
        })
        .collect()
}

/// Parameters that are stepped together, and their state.
#[derive(Default)]
struct Group {
    learning_rate: f64,
    /// The rate of the next step, beside parameters on a GPU.
    rate: Option<Tensor>,
    weight_decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    /// First moments of Adam and LAMB, momentum of SGD.
    first: Vec<Tensor>,
    /// Second moments of Adam and LAMB; none of SGD.
    second: Vec<Tensor>,
    /// Steps done, a float scalar per parameter.
    steps: Vec<Tensor>,
}

/// An optimizer and its state.
pub(crate) struct Optimizer {
    name: OptimizerName,
    momentum: f64,
    kind: Momentum,
    learning_rate: f64,
    /// What the schedule makes of the learning rates.
    factor: f64,
    groups: Vec<Group>,
    /// Every parameter, for what concerns all of them.
    all: Vec<Tensor>,
    scaler: Option<Scaler>,
}

impl Optimizer {
    /// An optimizer that has done no step.
    pub(crate) fn new(settings: &Settings, parameters: Vec<Parameter>) -> Result<Self, Failure> {
        let all = parameters.iter().map(|p| p.tensor.shallow_clone()).collect();
        let mut groups: Vec<Group> = Vec::new();
        for Parameter { name, tensor, learning_rate, weight_decay } in parameters {
            let same = |g: &Group| g.learning_rate.total_cmp(&learning_rate).is_eq() && g.weight_decay.total_cmp(&weight_decay).is_eq();
            let at = groups.iter().position(same).unwrap_or(groups.len());
            if at == groups.len() {
                let rate = match tensor.device() {
                    Device::Cpu => None,
                    gpu => Some(Tensor::f_full([], learning_rate, (Kind::Float, gpu))?),
                };
                groups.push(Group { learning_rate, rate, weight_decay, ..Group::default() });
            }
            let group = &mut groups[at];
            group.names.push(name);
            group.first.push(tensor.detach().f_zeros_like()?);
            if settings.name != OptimizerName::Sgd {
                group.second.push(tensor.detach().f_zeros_like()?);
            }
            group.steps.push(Tensor::f_zeros([] as [i64; 0], (Kind::Float, tensor.device()))?);
            group.parameters.push(tensor);
        }
        let kind = if settings.nesterov { Momentum::Nesterov } else { Momentum::Classical };
        Ok(Self {
            name: settings.name,
            momentum: settings.momentum.value(),
            kind,
            learning_rate: settings.learning_rate.value(),
            factor: 1.0,
            groups,
            all,
            scaler: None,
        })
    }

    /// The same for gradients of a scaled loss.
    pub(crate) fn scaled(mut self, device: Device) -> Result<Self, Failure> {
        self.scaler = Some(Scaler::new(device)?);
        Ok(self)
    }

    /// The settings' rate in the next step; each group's own may differ.
    pub(crate) fn learning_rate(&self) -> f64 {
        self.learning_rate * self.factor
    }

    /// From now on every learning rate is times `factor`.
    pub(crate) fn set_factor(&mut self, factor: f64) -> Result<(), Failure> {
        self.factor = factor;
        for group in &mut self.groups {
            if let Some(rate) = &mut group.rate {
                let _ = rate.f_fill_(group.learning_rate * factor)?;
            }
        }
        Ok(())
    }

    /// Whether a step never waits for the device.
    pub(crate) fn is_recordable(&self) -> bool {
        self.name != OptimizerName::Lamb
    }

    /// The loss as it goes into the backward pass.
    pub(crate) fn scale(&self, loss: Tensor) -> Result<Tensor, Failure> {
        match &self.scaler {
            Some(scaler) => Ok(loss.f_mul(&scaler.scale)?),
            None => Ok(loss),
        }
    }

    /// Gradients as if the loss had not been scaled.
    pub(crate) fn unscale(&mut self) -> Result<(), Failure> {
        let Some(scaler) = &mut self.scaler else { return Ok(()) };
        let gradients: Vec<Tensor> = self.all.iter().map(Tensor::grad).collect();
        let _ = scaler.not_finite.f_zero_()?;
        Ok(unscale(&gradients, &scaler.scale.f_reciprocal()?, &scaler.not_finite)?)
    }

    pub(crate) fn parameters(&self) -> &[Tensor] {
        &self.all
    }

    /// One step with the parameters' gradients; none where a scaled loss had some that are not finite.
    pub(crate) fn step(&mut self) -> Result<(), Failure> {
        let skip = self.scaler.as_ref().map(|scaler| &scaler.not_finite);
        for group in &self.groups {
            let there = OnDevice { lr: group.rate.as_ref(), skip };
            let gradients: Vec<Tensor> = group.parameters.iter().map(Tensor::grad).collect();
            let (lr, weight_decay) = (group.learning_rate * self.factor, group.weight_decay);
            match self.name {
                OptimizerName::Sgd => {
                    // Momentum that begins with zeros is the first gradient after the first step, as torch has it.
                    let step = SgdStep { lr, momentum: self.momentum, weight_decay, kind: self.kind, turn: SgdTurn::Later };
                    fused_sgd(&group.parameters, &gradients, &group.first, step, there)?;
                }
                OptimizerName::Adam | OptimizerName::Adamw => {
                    let decay = if self.name == OptimizerName::Adam { WeightDecay::Coupled } else { WeightDecay::Decoupled };
                    let step = AdamStep { lr, beta1: BETAS.0, beta2: BETAS.1, weight_decay, eps: EPSILON, decay };
                    let state = AdamState { first: &group.first, second: &group.second, steps: &group.steps };
                    fused_adam(&group.parameters, &gradients, &state, step, there)?;
                }
                OptimizerName::Lamb => {
                    let skipped = skip.map(|skip| skip.f_double_value(&[])).transpose()?.is_some_and(|skip| skip > 0.0);
                    if !skipped {
                        no_grad(|| group.lamb(&gradients, lr))?;
                    }
                }
            }
        }
        if let Some(Scaler { scale, growth, not_finite }) = &self.scaler {
            update_scale(scale, growth, not_finite, 2.0, STEPS_TO_GROW)?;
        }
        Ok(())
    }

    /// The state by name, for a checkpoint.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
        let named = |kind: &'static str, list: fn(&Group) -> &Vec<Tensor>| -> Vec<(String, Tensor)> {
            let pairs = self.groups.iter().flat_map(|g| g.names.iter().zip(list(g)));
            pairs.map(|(name, t)| (format!("optimizer/{kind}/{name}"), t.shallow_clone())).collect()
        };
        let scaler = self.scaler.iter().flat_map(|s| [("optimizer/scale", &s.scale), ("optimizer/growth", &s.growth)]);
        let scaler = scaler.map(|(name, t)| (name.to_owned(), t.shallow_clone())).collect();
        [named("first", |g| &g.first), named("second", |g| &g.second), named("steps", |g| &g.steps), scaler].into_iter().flatten().collect()
    }

    /// Take the state of those parameters that it is there for; gives how many it is not there for.
    pub(crate) fn restore(&mut self, saved: &BTreeMap<String, Tensor>) -> Result<usize, Failure> {
        let mut missing = 0;
        for (name, target) in self.scaler.iter_mut().flat_map(|s| [("optimizer/scale", &mut s.scale), ("optimizer/growth", &mut s.growth)]) {
            match saved.get(name) {
                Some(source) => drop(target.f_copy_(&source.f_view_as(target)?)?),
                None => missing += 1,
            }
        }
        for group in &mut self.groups {
            for (kind, list) in [("first", &mut group.first), ("second", &mut group.second), ("steps", &mut group.steps)] {
                for (name, target) in group.names.iter().zip(list.iter_mut()) {
                    match saved.get(&format!("optimizer/{kind}/{name}")) {
                        Some(source) => drop(target.f_copy_(&source.f_view_as(target)?)?),
                        None => missing += 1,
                    }
                }
            }
        }
        Ok(missing)
    }
}

/// A factor of the loss that keeps small gradients above what float16 can tell from 0: as large as keeps them finite, found as
/// Micikevicius et al. 2018 (arXiv:1710.03740) do, with torch's numbers.
struct Scaler {
    scale: Tensor,
    /// Steps since the last that was left out or made the scale grow.
    growth: Tensor,
    /// 1 if a gradient of this step is not finite.
    not_finite: Tensor,
}

const FIRST_SCALE: f64 = 65536.0;
const STEPS_TO_GROW: u32 = 2000;

impl Scaler {
    fn new(device: Device) -> Result<Self, Failure> {
        let scalar = |value: f64, kind: Kind| Tensor::f_full([], value, (kind, device));
        Ok(Self { scale: scalar(FIRST_SCALE, Kind::Float)?, growth: scalar(0.0, Kind::Int)?, not_finite: scalar(0.0, Kind::Float)? })
    }
}

impl Group {
    /// LAMB, algorithm 2 of You et al. 2019, with Adam's bias correction and a trust ratio of 1 where either norm is 0.
    fn lamb(&self, gradients: &[Tensor], lr: f64) -> Result<(), Failure> {
        let lists = self.parameters.iter().zip(gradients).zip(&self.first).zip(&self.second).zip(&self.steps);
        for ((((parameter, gradient), first), second), steps) in lists {
            let (mut parameter, mut first, mut second, mut steps) =
                (parameter.shallow_clone(), first.shallow_clone(), second.shallow_clone(), steps.shallow_clone());
            let _ = steps.f_add_scalar_(1.0)?;
            let t = steps.f_double_value(&[])?;
            let _ = first.f_lerp_(gradient, 1.0 - BETAS.0)?;
            let _ = second.f_mul_scalar_(BETAS.1)?.f_addcmul_(&gradient.f_mul_scalar(1.0 - BETAS.1)?, gradient)?;
            let root = second.f_div_scalar(1.0 - BETAS.1.powf(t))?.f_sqrt()?.f_add_scalar(EPSILON)?;
            let mut update = first.f_div_scalar(1.0 - BETAS.0.powf(t))?.f_div(&root)?;
            if self.weight_decay > 0.0 {
                update = update.f_add(&parameter.f_mul_scalar(self.weight_decay)?)?;
            }
            let (weight, length) = (parameter.f_norm()?.f_double_value(&[])?, update.f_norm()?.f_double_value(&[])?);
            let trust = if weight > 0.0 && length > 0.0 { weight / length } else { 1.0 };
            let _ = parameter.f_sub_(&update.f_mul_scalar(lr * trust)?)?;
        }
        Ok(())
    }
}

/// Limit the gradients in place, as torch's `clip_grad_norm_` and `clip_grad_value_` do.
pub(crate) fn clip(parameters: &[Tensor], limit: &Clip) -> Result<(), Failure> {
    no_grad(|| {
        if let Some(most) = limit.value.as_ref().map(graft_crds::Decimal::value) {
            for mut gradient in parameters.iter().map(Tensor::grad) {
                let _ = gradient.f_clamp_(-most, most)?;
            }
        }
        let Some(most) = limit.norm.as_ref().map(graft_crds::Decimal::value) else { return Ok(()) };
        let norms = parameters.iter().map(|p| p.grad().f_norm()).collect::<Result<Vec<_>, _>>()?;
        // Multiplied always, by 1 at most, so that nobody waits for the norm.
        let factor = Tensor::f_stack(&norms, 0)?.f_norm()?.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(most)?.f_clamp_max(1.0)?;
        for mut gradient in parameters.iter().map(Tensor::grad) {
            let _ = gradient.f_mul_(&factor)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use graft_crds::Architecture;
    use graft_torch::device;
    use serde_json::json;

    fn settings(value: serde_json::Value) -> Settings {
        serde_json::from_value(value).unwrap()
    }

    /// A parameter with these values and the gradient of `weights · parameter`, which is `weights`.
    fn parameter(values: &[f64], gradient: &[f64]) -> Tensor {
        let parameter = Tensor::from_slice(values).to_kind(Kind::Float).set_requires_grad(true);
        device::backward(&(&parameter * Tensor::from_slice(gradient).to_kind(Kind::Float)).sum(Kind::Float)).unwrap();
        parameter
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.detach().to_kind(Kind::Double).view([-1])).unwrap()
    }

    fn near(got: &[f64], expected: &[f64]) {
        assert!(got.len() == expected.len() && got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-5), "{got:?} instead of {expected:?}");
    }

    fn optimizer(settings: &Settings, tensor: &Tensor) -> Optimizer {
        let (learning_rate, weight_decay) = (settings.learning_rate.value(), settings.weight_decay.value());
        Optimizer::new(settings, vec![Parameter { name: "w".into(), tensor: tensor.shallow_clone(), learning_rate, weight_decay }]).unwrap()
    }

    #[test]
    fn lamb_is_the_papers() {
        let (w, g) = ([3.0, -4.0], [0.1, 0.2]);
        let tensor = parameter(&w, &g);
        let mut lamb = optimizer(&settings(json!({"name": "lamb", "learningRate": "0.1", "weightDecay": "0.5"})), &tensor);
        lamb.set_factor(0.5).unwrap();
        lamb.step().unwrap();
        // After the first step both moments, corrected, are the gradient and its square.
        let update: Vec<f64> = w.iter().zip(g).map(|(w, g)| g / (g * g).sqrt() + 0.5 * w).collect();
        let trust = 5.0 / update.iter().map(|u| u * u).sum::<f64>().sqrt();
        near(&numbers(&tensor), &[w[0] - 0.05 * trust * update[0], w[1] - 0.05 * trust * update[1]]);
    }

    #[test]
    fn the_state_goes_on_where_it_was() {
        for name in ["sgd", "adam", "adamw", "lamb"] {
            let given = settings(json!({"name": name, "learningRate": "0.1", "weightDecay": "0.01"}));
            let start = parameter(&[1.0, -2.0, 0.5], &[0.3, 0.1, -0.7]);
            let mut whole = optimizer(&given, &start);
            whole.step().unwrap();
            let copy = parameter(&numbers(&start), &[0.3, 0.1, -0.7]);
            let mut resumed = optimizer(&given, &copy);
            let saved: BTreeMap<String, Tensor> = whole.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
            assert_eq!(resumed.restore(&saved).unwrap(), 0);
            whole.step().unwrap();
            resumed.step().unwrap();
            assert!(start.equal(&copy), "{name}");
            assert_eq!(optimizer(&given, &copy).restore(&BTreeMap::new()).unwrap(), if name == "sgd" { 2 } else { 3 });
        }
    }

    #[test]
    fn a_scaled_loss_gives_the_same_step_and_goes_on_where_it_was() {
        for name in ["sgd", "adamw", "lamb"] {
            let given = settings(json!({"name": name, "learningRate": "0.1"}));
            let (plain, scaled) = (parameter(&[1.0, -2.0], &[0.3, 0.1]), parameter(&[1.0, -2.0], &[0.3 * FIRST_SCALE, 0.1 * FIRST_SCALE]));
            optimizer(&given, &plain).step().unwrap();
            let mut with_scale = optimizer(&given, &scaled).scaled(Device::Cpu).unwrap();
            with_scale.unscale().unwrap();
            with_scale.step().unwrap();
            near(&numbers(&scaled), &numbers(&plain));
            let _ = scaled.grad().fill_(f64::INFINITY);
            with_scale.unscale().unwrap();
            with_scale.step().unwrap();
            near(&numbers(&scaled), &numbers(&plain));
            let saved: BTreeMap<String, Tensor> = with_scale.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
            let mut resumed = optimizer(&given, &scaled).scaled(Device::Cpu).unwrap();
            assert_eq!(resumed.restore(&saved).unwrap(), 0);
            near(&numbers(&resumed.scale(Tensor::from(1f32)).unwrap()), &[FIRST_SCALE / 2.0]);
        }
    }

    #[test]
    fn gradients_are_limited_by_norm_and_by_value() {
        let limit = |value: serde_json::Value| serde_json::from_value::<Clip>(value).unwrap();
        let pair = || [parameter(&[0.0], &[3.0]), parameter(&[0.0, 0.0], &[0.0, -4.0])];
        for (most, factor) in [("1", 0.2), ("10", 1.0)] {
            let both = pair();
            clip(&both, &limit(json!({"norm": most}))).unwrap();
            near(&numbers(&both[0].grad()), &[3.0 * factor]);
            near(&numbers(&both[1].grad()), &[0.0, -4.0 * factor]);
        }
        let both = pair();
        clip(&both, &limit(json!({"value": "3.5"}))).unwrap();
        near(&numbers(&both[1].grad()), &[0.0, -3.5]);
        near(&numbers(&both[0].grad()), &[3.0]);
    }

    #[test]
    fn rates_and_decay_go_by_layer() {
        let model = models::build(Architecture::ResNet18, 2, Architecture::ResNet18.padding(), Device::Cpu, 0).unwrap();
        model.set_trainable(&["layer3", "layer4"]).unwrap();
        let given = json!({"learningRate": "1", "weightDecay": "0.1", "decay": "matrices", "layerDecay": "0.5"});
        let all = parameters(&model, &settings(given.clone()));
        let of = |name: &str| all.iter().find(|p| p.name == name).map(|p| (p.learning_rate, p.weight_decay)).unwrap();
        assert_eq!(of("fc.weight"), (1.0, 0.1));
        assert_eq!(of("fc.bias"), (1.0, 0.0));
        assert_eq!(of("layer4.1.conv2.weight"), (0.5, 0.1));
        assert_eq!(of("layer3.0.bn1.weight"), (0.25, 0.0));
        assert!(all.iter().all(|p| !p.name.starts_with("layer2")));
        let mut given = given;
        given["headLearningRate"] = "7".into();
        let all = parameters(&model, &settings(given));
        assert_eq!(all.iter().find(|p| p.name == "fc.weight").map(|p| p.learning_rate), Some(7.0));
    }
}
