//! One optimizer step over all parameters in one call: torch's fused kernels. The state is the caller's own tensors, so
//! it can be saved and restored as it is; nothing is kept here between steps.

use crate::ffi::{self, c_count, check, ptr, ptr_or_null, ptrs};
use crate::{Error, ErrorKind, Result};
use tch::Tensor;

/// How weight decay enters Adam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightDecay {
    /// Added to the gradient: Adam, Kingma and Ba 2014, arXiv:1412.6980.
    Coupled,
    /// Taken from the weights: AdamW, Loshchilov and Hutter 2017, arXiv:1711.05101.
    Decoupled,
}

/// The numbers of an Adam step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment, per step.
    pub beta1: f64,
    /// Decay of the second moment, per step.
    pub beta2: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// How weight decay enters.
    pub decay: WeightDecay,
}

/// The state of Adam, each list in the order of the parameters.
#[derive(Debug)]
pub struct AdamState<'a> {
    /// First moments, shaped as the parameters.
    pub first: &'a [Tensor],
    /// Second moments, shaped as the parameters.
    pub second: &'a [Tensor],
    /// Steps done: float scalars; each step adds one.
    pub steps: &'a [Tensor],
}

/// What a step reads from the device that the parameters are on, so that the CPU need not know it yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnDevice<'a> {
    /// The learning rate, a float scalar on a GPU, in place of the step's own.
    pub lr: Option<&'a Tensor>,
    /// A float scalar: where it is 1 the step does nothing.
    pub skip: Option<&'a Tensor>,
}

/// An Adam or AdamW step in place.
pub fn fused_adam(parameters: &[Tensor], gradients: &[Tensor], state: &AdamState<'_>, step: AdamStep, there: OnDevice<'_>) -> Result<()> {
    const DOING: &str = "Adam step";
    for list in [gradients, state.first, state.second, state.steps] {
        same_length(DOING, parameters, list)?;
    }
    let (p, g) = (ptrs(parameters), ptrs(gradients));
    let (m, v, s) = (ptrs(state.first), ptrs(state.second), ptrs(state.steps));
    let count = c_count(DOING, p.len())?;
    let decoupled = match step.decay {
        WeightDecay::Coupled => 0,
        WeightDecay::Decoupled => 1,
    };
    // SAFETY: all tensors are live, and each list was checked to have `count` entries.
    let status = unsafe {
        ffi::graft_fused_adam(
            decoupled,
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            s.as_ptr(),
            count,
            step.lr,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.eps,
            ptr_or_null(there.lr),
            ptr_or_null(there.skip),
        )
    };
    check(DOING, status)?;
    Ok(())
}

/// Which step of SGD this is: the first one sets the momentum buffers instead of decaying them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgdTurn {
    /// The buffers hold nothing yet.
    First,
    /// The buffers hold the steps so far.
    Later,
}

/// The kind of momentum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Momentum {
    /// Sutskever's form as torch has it.
    Classical,
    /// Nesterov's look-ahead.
    Nesterov,
}

/// The numbers of an SGD step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the momentum buffer; 0 for none.
    pub momentum: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// The kind of momentum.
    pub kind: Momentum,
    /// Whether the buffers are empty.
    pub turn: SgdTurn,
}

/// An SGD step in place. `momenta` are shaped as the parameters and are not read where the momentum is 0.
pub fn fused_sgd(parameters: &[Tensor], gradients: &[Tensor], momenta: &[Tensor], step: SgdStep, there: OnDevice<'_>) -> Result<()> {
    const DOING: &str = "SGD step";
    same_length(DOING, parameters, gradients)?;
    let with_momentum = step.momentum != 0.0;
    if with_momentum {
        same_length(DOING, parameters, momenta)?;
    }
    let (p, g, m) = (ptrs(parameters), ptrs(gradients), ptrs(momenta));
    let count = c_count(DOING, p.len())?;
    let nesterov = match step.kind {
        Momentum::Classical => 0,
        Momentum::Nesterov => 1,
    };
    let first = match step.turn {
        SgdTurn::First => 1,
        SgdTurn::Later => 0,
    };
    let m_ptr = if with_momentum { m.as_ptr() } else { std::ptr::null() };
    let (lr, skip) = (ptr_or_null(there.lr), ptr_or_null(there.skip));
    // SAFETY: all tensors are live, and each list that is passed was checked to have `count` entries.
    let status =
        unsafe { ffi::graft_fused_sgd(p.as_ptr(), g.as_ptr(), m_ptr, count, step.lr, step.momentum, step.weight_decay, nesterov, first, lr, skip) };
    check(DOING, status)?;
    Ok(())
}

/// Multiplies gradients of a scaled loss by `inverse_scale`, and sets `not_finite` to 1 if one of them is not finite; float scalars all.
pub fn unscale(gradients: &[Tensor], inverse_scale: &Tensor, not_finite: &Tensor) -> Result<()> {
    const DOING: &str = "unscale gradients";
    let g = ptrs(gradients);
    let count = c_count(DOING, g.len())?;
    // SAFETY: all tensors are live and `count` is their number.
    check(DOING, unsafe { ffi::graft_unscale(g.as_ptr(), count, ptr(inverse_scale), ptr(not_finite)) })?;
    Ok(())
}

/// The scale of the next step: divided by `factor` after gradients that were not finite, multiplied by it after `every` sound steps in a
/// row, which `growth`, an int scalar, counts.
pub fn update_scale(scale: &Tensor, growth: &Tensor, not_finite: &Tensor, factor: f64, every: u32) -> Result<()> {
    // SAFETY: all tensors are live.
    let status = unsafe { ffi::graft_update_scale(ptr(scale), ptr(growth), ptr(not_finite), factor, i64::from(every)) };
    check("update the loss scale", status)?;
    Ok(())
}

fn same_length(operation: &'static str, parameters: &[Tensor], list: &[Tensor]) -> Result<()> {
    if parameters.len() == list.len() {
        return Ok(());
    }
    let text = format!("{} parameters but {} tensors of gradients or state", parameters.len(), list.len());
    Err(Error::new(ErrorKind::Torch, operation, &text))
}
