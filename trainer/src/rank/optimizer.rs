//! SGD, Adam, AdamW and LAMB over named parameters in groups of one learning rate and weight decay each, with a state that
//! goes into checkpoints. SGD and Adam run by torch's fused kernels; the formulas are torch.optim's and LAMB's paper's.

use std::collections::BTreeMap;

use graft_crds::spec::{Clip, DecayScope, Optimizer as Settings, OptimizerName};
use graft_torch::optim::{AdamState, AdamStep, Momentum, SgdStep, SgdTurn, WeightDecay, fused_adam, fused_sgd};
use graft_torch::tch::{Kind, Tensor, no_grad};
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
struct Group {
    learning_rate: f64,
    weight_decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    /// First moments of Adam and LAMB, momentum of SGD.
    first: Vec<Tensor>,
    /// Second moments of Adam and LAMB.
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
    groups: Vec<Group>,
    /// Every parameter, for what concerns all of them.
    all: Vec<Tensor>,
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
                let none = Vec::new;
                groups.push(Group {
                    learning_rate,
                    weight_decay,
                    names: Vec::new(),
                    parameters: none(),
                    first: none(),
                    second: none(),
                    steps: none(),
                });
            }
            let group = &mut groups[at];
            group.names.push(name);
            group.first.push(tensor.detach().f_zeros_like()?);
            group.second.push(tensor.detach().f_zeros_like()?);
            group.steps.push(Tensor::f_zeros([] as [i64; 0], (Kind::Float, tensor.device()))?);
            group.parameters.push(tensor);
        }
        let kind = if settings.nesterov { Momentum::Nesterov } else { Momentum::Classical };
        Ok(Self { name: settings.name, momentum: settings.momentum.value(), kind, learning_rate: settings.learning_rate.value(), groups, all })
    }

    /// The rate of the settings; each group's own may differ.
    pub(crate) fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    pub(crate) fn parameters(&self) -> &[Tensor] {
        &self.all
    }

    /// One step with the parameters' gradients, every learning rate times `factor`.
    pub(crate) fn step(&mut self, factor: f64) -> Result<(), Failure> {
        for group in &self.groups {
            let gradients: Vec<Tensor> = group.parameters.iter().map(Tensor::grad).collect();
            let (lr, weight_decay) = (group.learning_rate * factor, group.weight_decay);
            match self.name {
                OptimizerName::Sgd => {
                    // Momentum that begins with zeros is the first gradient after the first step, as torch has it.
                    let step = SgdStep { lr, momentum: self.momentum, weight_decay, kind: self.kind, turn: SgdTurn::Later };
                    fused_sgd(&group.parameters, &gradients, &group.first, step)?;
                }
                OptimizerName::Adam | OptimizerName::Adamw => {
                    let decay = if self.name == OptimizerName::Adam { WeightDecay::Coupled } else { WeightDecay::Decoupled };
                    let step = AdamStep { lr, beta1: BETAS.0, beta2: BETAS.1, weight_decay, eps: EPSILON, decay };
                    let state = AdamState { first: &group.first, second: &group.second, steps: &group.steps };
                    fused_adam(&group.parameters, &gradients, &state, step)?;
                }
                OptimizerName::Lamb => no_grad(|| group.lamb(&gradients, lr))?,
            }
        }
        Ok(())
    }

    /// The state by name, for a checkpoint.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
        let named = |kind: &'static str, list: fn(&Group) -> &Vec<Tensor>| -> Vec<(String, Tensor)> {
            let pairs = self.groups.iter().flat_map(|g| g.names.iter().zip(list(g)));
            pairs.map(|(name, t)| (format!("optimizer/{kind}/{name}"), t.shallow_clone())).collect()
        };
        [named("first", |g| &g.first), named("second", |g| &g.second), named("steps", |g| &g.steps)].into_iter().flatten().collect()
    }

    /// Take the state of those parameters that it is there for; gives how many it is not there for.
    pub(crate) fn restore(&mut self, saved: &BTreeMap<String, Tensor>) -> Result<usize, Failure> {
        let mut missing = 0;
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
        let total = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?;
        if total > most {
            for mut gradient in parameters.iter().map(Tensor::grad) {
                let _ = gradient.f_mul_scalar_(most / (total + 1e-6))?;
            }
        }
        Ok(())
    })
}
