//! SGD, Adam and AdamW over a list of named parameters, by torch's fused kernels, with a state that goes into checkpoints.
//! The formulas are torch.optim's.

use std::collections::BTreeMap;

use graft_crds::spec::{Optimizer as Settings, OptimizerName};
use graft_torch::optim::{AdamState, AdamStep, Momentum, SgdStep, SgdTurn, WeightDecay, fused_adam, fused_sgd};
use graft_torch::tch::{Kind, Tensor};

use crate::event::Failure;

/// An optimizer and its state.
pub(crate) struct Optimizer {
    settings: Settings,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    /// First moments of Adam, momentum of SGD.
    first: Vec<Tensor>,
    /// Second moments of Adam.
    second: Vec<Tensor>,
    /// Steps done, a float scalar per parameter.
    steps: Vec<Tensor>,
}

impl Optimizer {
    /// An optimizer that has done no step.
    pub(crate) fn new(settings: Settings, parameters: Vec<(String, Tensor)>) -> Result<Self, Failure> {
        let (names, parameters): (Vec<_>, Vec<_>) = parameters.into_iter().unzip();
        let zeros = || parameters.iter().map(|p: &Tensor| p.detach().f_zeros_like()).collect::<Result<Vec<_>, _>>();
        let (first, second) = (zeros()?, zeros()?);
        let steps: Result<Vec<_>, _> =
            parameters.iter().map(|p| Tensor::f_zeros([1], (Kind::Float, p.device())).and_then(|t| t.f_squeeze())).collect();
        Ok(Self { settings, names, first, second, steps: steps?, parameters })
    }

    pub(crate) fn learning_rate(&self) -> f64 {
        self.settings.learning_rate.value()
    }

    pub(crate) fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// One step with the parameters' gradients.
    pub(crate) fn step(&mut self) -> Result<(), Failure> {
        let gradients: Vec<Tensor> = self.parameters.iter().map(Tensor::grad).collect();
        let (lr, weight_decay) = (self.learning_rate(), self.settings.weight_decay.value());
        match self.settings.name {
            OptimizerName::Sgd => {
                let turn = if self.steps.first().is_none_or(|s| s.double_value(&[]) == 0.0) { SgdTurn::First } else { SgdTurn::Later };
                let step = SgdStep { lr, momentum: self.settings.momentum.value(), weight_decay, kind: Momentum::Classical, turn };
                fused_sgd(&self.parameters, &gradients, &self.first, step)?;
                for steps in &mut self.steps {
                    let _ = steps.f_add_scalar_(1.0)?;
                }
            }
            OptimizerName::Adam | OptimizerName::Adamw => {
                let decay = if self.settings.name == OptimizerName::Adam { WeightDecay::Coupled } else { WeightDecay::Decoupled };
                let step = AdamStep { lr, beta1: 0.9, beta2: 0.999, weight_decay, eps: 1e-8, decay };
                let state = AdamState { first: &self.first, second: &self.second, steps: &self.steps };
                fused_adam(&self.parameters, &gradients, &state, step)?;
            }
        }
        Ok(())
    }

    /// The state by name, for a checkpoint.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
        let named = |kind: &'static str, list: &[Tensor]| -> Vec<(String, Tensor)> {
            self.names.iter().zip(list).map(|(name, t)| (format!("optimizer/{kind}/{name}"), t.shallow_clone())).collect()
        };
        [named("first", &self.first), named("second", &self.second), named("steps", &self.steps)].into_iter().flatten().collect()
    }

    /// Take the state from a checkpoint; `false` when it lacks a tensor.
    pub(crate) fn restore(&mut self, saved: &BTreeMap<String, Tensor>) -> Result<bool, Failure> {
        for (kind, list) in [("first", &mut self.first), ("second", &mut self.second), ("steps", &mut self.steps)] {
            for (name, target) in self.names.iter().zip(list.iter_mut()) {
                let Some(source) = saved.get(&format!("optimizer/{kind}/{name}")) else { return Ok(false) };
                target.f_copy_(&source.f_view_as(target)?)?;
            }
        }
        Ok(true)
    }
}
