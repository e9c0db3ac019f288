//! Weights into a model. Everything but the head must be there and fit, or nothing is loaded and the error says which
//! tensors are wrong; the head is kept where it fits and is wanted, and stays fresh otherwise.

use super::{Weights, WeightsError};
use crate::models::{HeadForm, Kind, Model};
use graft_torch::tch;

/// The metadata key under which a safetensors file says how its head reads the last map ([`HeadForm::name`]). Without it
/// a head that is loaded is taken for a published one.
pub const HEAD_FORM_KEY: &str = "graft.head";

/// What becomes of the classifier in the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPolicy {
    /// Load it where its shape is the model's.
    KeepIfItFits,
    /// Never load it: the model's classes are not the weights'.
    Drop,
}

/// What a load did. Worth a log line: a partial load is never silent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// How many tensors were loaded.
    pub loaded: usize,
    /// Tensors of the model that the weights lack: of the head, or counters of batches.
    pub missing: Vec<String>,
    /// Tensors of the weights that the model has no place for.
    pub unexpected: Vec<String>,
    /// Tensors of the weights' head that were left out, with their shapes.
    pub dropped_head: Vec<String>,
}

/// Copies weights into the model's tensors.
///
/// # Errors
/// [`WeightsError::Fit`] when a tensor of the backbone is missing or has another shape; the model is unchanged then.
pub fn apply(model: &mut Model, weights: &Weights, head: HeadPolicy) -> Result<LoadReport, WeightsError> {
    let plan = plan(model, weights, head)?;
    tch::no_grad(|| plan.copies.into_iter().try_for_each(|(mut target, source)| target.f_copy_(&source)))
        .map_err(|e| graft_torch::Error::from_tch("load weights", &e))?;
    if plan.whole_head {
        let pooled = weights.metadata.get(HEAD_FORM_KEY).is_some_and(|form| form == HeadForm::Pooled.name());
        model.set_head_form(if pooled { HeadForm::Pooled } else { HeadForm::published(model.architecture()) });
    }
    Ok(plan.report)
}

struct Plan {
    /// Where to, and what.
    copies: Vec<(tch::Tensor, tch::Tensor)>,
    report: LoadReport,
    whole_head: bool,
}

fn plan(model: &Model, weights: &Weights, head: HeadPolicy) -> Result<Plan, WeightsError> {
    let mut plan = Plan { copies: Vec::new(), report: LoadReport::default(), whole_head: false };
    let (mut absent, mut misshapen) = (Vec::new(), Vec::new());
    let head_fits = model
        .tensors()
        .iter()
        .filter(|t| model.is_head(&t.name))
        .all(|t| weights.tensors.get(&t.name).is_some_and(|source| source.size() == t.tensor.size()));
    let keep_head = match head {
        HeadPolicy::KeepIfItFits => head_fits,
        HeadPolicy::Drop => false,
    };
    for named in model.tensors() {
        let name = &named.name;
        let is_head = model.is_head(name);
        match weights.tensors.get(name) {
            Some(source) if is_head && !keep_head => {
                plan.report.dropped_head.push(format!("{name} {:?}", source.size()));
            }
            Some(source) if source.size() == named.tensor.size() => {
                plan.copies.push((named.tensor.shallow_clone(), source.shallow_clone()));
            }
            Some(source) => {
                misshapen.push(format!("{name} is {:?} instead of {:?}", source.size(), named.tensor.size()));
            }
            None if is_head || (named.kind == Kind::Buffer && name.ends_with(".num_batches_tracked")) => {
                plan.report.missing.push(name.clone());
            }
            None => absent.push(name.clone()),
        }
    }
    let mut problems = Vec::new();
    if !absent.is_empty() {
        problems.push(format!("missing: {}", listed(&absent)));
    }
    if !misshapen.is_empty() {
        problems.push(format!("of another shape: {}", listed(&misshapen)));
    }
    let known = |name: &str| model.tensors().iter().any(|t| t.name == name);
    plan.report.unexpected = weights.tensors.keys().filter(|n| !known(n)).cloned().collect();
    if !problems.is_empty() {
        if !plan.report.unexpected.is_empty() {
            problems.push(format!("not of this architecture: {}", listed(&plan.report.unexpected)));
        }
        let architecture = model.architecture().name();
        return Err(WeightsError::Fit { architecture, problems: problems.join("; ") });
    }
    plan.report.loaded = plan.copies.len();
    plan.whole_head = keep_head;
    Ok(plan)
}

/// The first twenty names, then how many more.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
