//! Weights into a model. Everything but the head must be there and fit, or nothing is loaded and the error says which
//! tensors are wrong; the head is kept where it fits and is wanted, and stays fresh otherwise.

use super::{Weights, WeightsError, fitted, names};
use crate::models::{HeadForm, Kind, Model, NamedTensor, outline};
use graft_crds::Architecture;
use graft_torch::tch::{self, TchError, Tensor};
use std::collections::BTreeMap;

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
    /// Tensors that were loaded although their shape is another, and how they were made to fit.
    pub adapted: Vec<String>,
}

/// Copies weights into the model's tensors.
///
/// # Errors
/// [`WeightsError::Fit`] when a tensor of the backbone is missing, or has another shape and cannot be made to fit; the model is
/// unchanged then.
pub fn apply(model: &mut Model, weights: &Weights, head: HeadPolicy) -> Result<LoadReport, WeightsError> {
    let plan = plan(model, weights, head)?;
    tch::no_grad(|| plan.copies.into_iter().try_for_each(|(mut target, source)| target.f_copy_(&source)))
        .map_err(|e| graft_torch::Error::from_tch("load weights", &e))?;
    model.loaded();
    if plan.whole_head {
        let pooled = weights.metadata.get(HEAD_FORM_KEY).is_some_and(|form| form == HeadForm::Pooled.name());
        model.set_head_form(if pooled { HeadForm::Pooled } else { HeadForm::published(model.architecture()) });
    }
    Ok(plan.report)
}

struct Plan {
    /// Where to, and what.
    copies: Vec<(Tensor, Tensor)>,
    report: LoadReport,
    whole_head: bool,
}

fn plan(model: &Model, weights: &Weights, head: HeadPolicy) -> Result<Plan, WeightsError> {
    let mut plan = Plan { copies: Vec::new(), report: LoadReport::default(), whole_head: false };
    let sources = names::own(model.architecture(), &weights.tensors);
    let mut differences = Vec::new();
    let head_fits = model
        .tensors()
        .iter()
        .filter(|t| model.is_head(&t.name))
        .all(|t| sources.get(&t.name).is_some_and(|source| source.size() == t.tensor.size()));
    let keep_head = match head {
        HeadPolicy::KeepIfItFits => head_fits,
        HeadPolicy::Drop => false,
    };
    for named in model.tensors() {
        let name = &named.name;
        let is_head = model.is_head(name);
        match sources.get(name) {
            Some(source) if is_head && !keep_head => {
                plan.report.dropped_head.push(format!("{name} {:?}", source.size()));
            }
            Some(source) if source.size() == named.tensor.size() => {
                plan.copies.push((named.tensor.shallow_clone(), source.shallow_clone()));
            }
            Some(source) => match made_to_fit(model, named, source).map_err(|e| graft_torch::Error::from_tch("adapt weights", &e))? {
                Some((source, how)) => {
                    plan.report.adapted.push(format!("{name}: {how}"));
                    plan.copies.push((named.tensor.shallow_clone(), source));
                }
                None => differences.push(format!("{name} is {:?} instead of {:?}", source.size(), named.tensor.size())),
            },
            None if is_head || (named.kind == Kind::Buffer && name.ends_with(".num_batches_tracked")) => {
                plan.report.missing.push(name.clone());
            }
            None => differences.push(format!("{name} is missing")),
        }
    }
    let known = |name: &str| model.tensors().iter().any(|t| t.name == name);
    plan.report.unexpected = sources.keys().filter(|n| !known(n)).cloned().collect();
    if !differences.is_empty() {
        differences.extend(plan.report.unexpected.iter().map(|name| format!("{name} is not of this architecture")));
        let architecture = model.architecture().name();
        return Err(WeightsError::Fit { architecture, problems: format!("{}{}", listed(&differences), whose(&weights.tensors)) });
    }
    plan.report.loaded = plan.copies.len();
    plan.whole_head = keep_head;
    Ok(plan)
}

/// What can be made of a tensor of another shape.
fn made_to_fit(model: &Model, named: &NamedTensor, source: &Tensor) -> Result<Option<fitted::Fitted>, TchError> {
    let shape = named.tensor.size();
    let first = model.parameters().find(|t| t.tensor.dim() == 4);
    if first.is_some_and(|first| first.name == named.name) {
        return fitted::first_convolution(source, &shape);
    }
    fitted::positions(source, &shape)
}

/// The first ten differences, then how many more.
fn listed(differences: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = differences.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if differences.len() > SHOWN { format!("{shown} and {} more", differences.len() - SHOWN) } else { shown }
}

/// The architectures whose backbone the tensors are, as words for the end of a message.
fn whose(tensors: &BTreeMap<String, Tensor>) -> String {
    let fits = |architecture: &&Architecture| {
        let sources = names::own(**architecture, tensors);
        let same = |name: &str, shape: &[i64]| sources.get(name).is_some_and(|t| t.size() == shape);
        outline(**architecture).is_ok_and(|all| all.iter().all(|(name, shape)| same(name, shape)))
    };
    let names: Vec<&str> = Architecture::ALL.iter().filter(fits).map(|a| a.name()).collect();
    if names.is_empty() { String::new() } else { format!(". They are those of {}: name that in spec.backbone.architecture", names.join(" or ")) }
}
