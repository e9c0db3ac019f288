//! The backbones and the head on top: forward passes with torchvision's names, shapes and results. A model knows which
//! of its tensors are trained and runs its frozen beginning without autograd; it never reads a file.

mod builder;
mod catalogue;
mod convnext;
mod densenet;
mod efficientnet;
pub(crate) mod layers;
mod mobilenet;
mod mobilenet_v3;
mod resnet;
mod squeezenet;
mod vgg;
pub(crate) mod vit;

pub use layers::Mode;

use builder::{Builder, Values};
use graft_crds::Architecture;
use graft_crds::architectures::{Family, Padding};
use graft_torch::memory;
use graft_torch::tch::{self, Device, TchError, Tensor};
use layers::Layer;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What a tensor of a state dict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trained, unless frozen.
    Parameter,
    /// Batch normalisation's statistics.
    Buffer,
}

/// A tensor of a model under its name in the state dict. The tensor is a handle: what is written to it is the model's.
#[derive(Debug)]
pub struct NamedTensor {
    /// The name, torchvision's where torchvision has the architecture.
    pub name: String,
    /// The tensor.
    pub tensor: Tensor,
    /// What it is.
    pub kind: Kind,
    /// The layer group, one of [`Model::groups`].
    pub group: String,
}

/// What a model cannot do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A prefix in the list of layers to train fits no parameter.
    #[error("no layer of {architecture} is called {name:?}{}; its layers are {}", near(name, known), known.join(", "))]
    UnknownLayer {
        /// The prefix.
        name: String,
        /// The architecture.
        architecture: &'static str,
        /// What would have been known.
        known: Vec<String>,
    },
    /// A model of no classes.
    #[error("a head of {0} classes cannot be built: it needs at least one")]
    Classes(i64),
    /// torch failed.
    #[error(transparent)]
    Torch(#[from] graft_torch::Error),
}

/// The layer that was probably meant, as words in a message.
fn near(name: &str, known: &[String]) -> String {
    graft_data::nearest(name, known.iter().map(String::as_str)).map_or_else(String::new, |near| format!(", did you mean {near:?}?"))
}

fn torch(operation: &'static str) -> impl FnOnce(TchError) -> ModelError {
    move |error| ModelError::Torch(graft_torch::Error::from_tch(operation, &error))
}

/// How the head reads the backbone's last map. The two differ for SqueezeNet alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadForm {
    /// A linear layer on the pooled features: every head that Graft makes. [`Model::forward`] is then the same as
    /// [`Model::head`] of [`Model::features`], which is what lets a head be trained on stored features.
    Pooled,
    /// SqueezeNet as published: the classifier and a ReLU at each position, averaged afterwards. In this form alone does
    /// [`Model::forward`] equal torchvision's `squeezenet1_1`; the ReLU between makes it another function than
    /// `Pooled`, so a head that Graft trained gives other numbers there.
    PerPosition,
}

impl HeadForm {
    /// Its name in the metadata of a weights file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::PerPosition => "perPosition",
        }
    }

    /// The form of an architecture's published classifiers.
    #[must_use]
    pub fn published(architecture: Architecture) -> Self {
        match architecture.family() {
            Family::SqueezeNet => Self::PerPosition,
            Family::ResNet | Family::Vgg | Family::DenseNet | Family::MobileNetV1 | Family::MobileNetV2 | Family::MobileNetV3 => Self::Pooled,
            Family::EfficientNet | Family::ConvNeXt | Family::Vit => Self::Pooled,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadShape {
    /// Weight `[classes, features]`.
    Linear,
    /// Weight `[classes, features, 1, 1]`.
    Conv,
}

/// Layers that are frozen or run under autograd together.
#[derive(Debug)]
struct Stage(Vec<Layer>);

impl Stage {
    fn new(layers: Vec<Layer>) -> Self {
        Self(layers)
    }
}

/// What an architecture's page says of it.
struct Description {
    stages: Vec<Stage>,
    pool: Vec<Layer>,
    head_name: &'static str,
    head_shape: HeadShape,
    dropout: f64,
    width: i64,
}

#[derive(Debug)]
struct Head {
    name: &'static str,
    weight: Tensor,
    bias: Tensor,
    dropout: f64,
    form: HeadForm,
}

/// A backbone and a head.
#[derive(Debug)]
pub struct Model {
    architecture: Architecture,
    device: Device,
    tensors: Vec<NamedTensor>,
    stages: Vec<Stage>,
    /// The first stages with batch normalisation folded in, of those that are frozen; made when they are first needed, and thrown away when
    /// what is frozen may change.
    folded: RefCell<Vec<Stage>>,
    pool: Vec<Layer>,
    /// Of all its batch normalisation.
    together: layers::Together,
    head: Head,
    width: i64,
    classes: i64,
}

/// What is trained, after [`Model::set_trainable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainableSummary {
    /// Numbers that are trained.
    pub trained: usize,
    /// Numbers in frozen parameters.
    pub frozen: usize,
    /// Groups with a trained parameter, in the model's order.
    pub groups: Vec<String>,
}

/// Builds a model with fresh weights on `device`, everything trainable. The values depend on architecture, classes and
/// `seed` alone.
pub fn build(architecture: Architecture, classes: i64, padding: Padding, device: Device, seed: u64) -> Result<Model, ModelError> {
    if classes < 1 {
        return Err(ModelError::Classes(classes));
    }
    assemble(architecture, classes, Builder::new(device, padding, Values::Seed(seed)))
}

fn assemble(architecture: Architecture, classes: i64, mut builder: Builder) -> Result<Model, ModelError> {
    let device = builder.device();
    tch::no_grad(|| {
        let description = catalogue::describe(architecture, &mut builder)?;
        let Description { stages, pool, head_name, head_shape, dropout, width } = description;
        let shape: &[i64] = match head_shape {
            HeadShape::Linear => &[classes, width],
            HeadShape::Conv => &[classes, width, 1, 1],
        };
        let (weight, bias) = builder.head(head_name, shape)?;
        let head = Head { name: head_name, weight, bias, dropout, form: HeadForm::Pooled };
        let folded = RefCell::default();
        Ok(Model { architecture, device, tensors: builder.tensors, stages, folded, pool, together: builder.together, head, width, classes })
    })
    .map_err(torch("build a model"))
}

/// What a backbone is and costs, without its head: of `classes` classes that has classes × (features + 1) parameters more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Numbers in the parameters.
    pub parameters: usize,
    /// Multiply-accumulates of one image's forward pass.
    pub macs: i64,
}

/// The facts about an architecture at a square input of `side` pixels. Nothing is computed and no weights are made.
pub fn facts(architecture: Architecture, side: u32) -> Result<Facts, ModelError> {
    let model = assemble(architecture, 1, Builder::new(Device::Cpu, architecture.padding(), Values::Outline))?;
    let parameters = model.parameters().filter(|t| !model.is_head(&t.name)).map(|t| t.tensor.numel()).sum();
    let mut walk = layers::Walk { shape: vec![3, i64::from(side), i64::from(side)], macs: 0 };
    model.stages.iter().for_each(|stage| walk.through(&stage.0));
    walk.through(&model.pool);
    Ok(Facts { parameters, macs: walk.macs })
}

/// Names and shapes of a backbone's parameters, without its head. No weights are made.
pub fn outline(architecture: Architecture) -> Result<Vec<(String, Vec<i64>)>, ModelError> {
    let model = assemble(architecture, 1, Builder::new(Device::Cpu, architecture.padding(), Values::Outline))?;
    Ok(model.parameters().filter(|t| !model.is_head(&t.name)).map(|t| (t.name.clone(), t.tensor.size())).collect())
}

impl Model {
    /// The architecture.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Where its tensors are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// How many classes the head tells apart.
    #[must_use]
    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// Width F of the features `[N, F]`.
    #[must_use]
    pub fn feature_width(&self) -> i64 {
        self.width
    }

    /// How the head reads the last map.
    #[must_use]
    pub fn head_form(&self) -> HeadForm {
        self.head.form
    }

    /// Every parameter and buffer, in torchvision's order; the head's two come last.
    #[must_use]
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// The parameters, in the same order.
    pub fn parameters(&self) -> impl Iterator<Item = &NamedTensor> {
        self.tensors.iter().filter(|t| t.kind == Kind::Parameter)
    }

    /// The parameters that are trained, in the same order.
    pub fn trainable(&self) -> impl Iterator<Item = &NamedTensor> {
        self.parameters().filter(|t| t.tensor.requires_grad())
    }

    /// Whether a tensor of this name belongs to the head.
    #[must_use]
    pub fn is_head(&self, name: &str) -> bool {
        has_prefix(name, self.head.name)
    }

    /// The layer groups in the model's order: `layer1`, `features.17`. Prefixes of them (`features`) and longer ones
    /// (`layer4.1`) may be given to [`Self::set_trainable`] too.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        in_order(self.tensors.iter().map(|t| t.group.as_str()))
    }

    /// Trains the parameters whose name starts with one of the prefixes (whole parts between dots; `*` is every one) and
    /// those of the head, and freezes the rest.
    ///
    /// # Errors
    /// [`ModelError::UnknownLayer`] for a prefix that fits no parameter; nothing is changed then.
    pub fn set_trainable<S: AsRef<str>>(&self, prefixes: &[S]) -> Result<TrainableSummary, ModelError> {
        let fits = |name: &str, prefix: &str| prefix == "*" || has_prefix(name, prefix);
        for prefix in prefixes.iter().map(AsRef::as_ref) {
            if !self.parameters().any(|t| fits(&t.name, prefix)) {
                let (name, architecture) = (prefix.to_owned(), self.architecture.name());
                return Err(ModelError::UnknownLayer { name, architecture, known: self.groups() });
            }
        }
        self.folded.borrow_mut().clear();
        let mut summary = TrainableSummary { trained: 0, frozen: 0, groups: Vec::new() };
        for named in self.parameters() {
            let trained = self.is_head(&named.name) || prefixes.iter().any(|p| fits(&named.name, p.as_ref()));
            let _ = named.tensor.f_set_requires_grad(trained).map_err(torch("freeze layers"))?;
            let count = if trained { &mut summary.trained } else { &mut summary.frozen };
            *count += named.tensor.numel();
        }
        summary.groups = in_order(self.trainable().map(|t| t.group.as_str()));
        Ok(summary)
    }

    /// Features `[N, F]` of images `[N, 3, H, W]`: what the last linear layer reads, before its dropout. The stages
    /// before the first trained one run without autograd and as in [`Mode::Evaluate`].
    pub fn features(&self, images: &Tensor, mode: Mode) -> Result<Tensor, ModelError> {
        self.pooled(&self.frozen(images)?, mode).map_err(torch("forward pass"))
    }

    /// Logits `[N, classes]` of features `[N, F]`, in the form [`HeadForm::Pooled`].
    pub fn head(&self, features: &Tensor, mode: Mode) -> Result<Tensor, ModelError> {
        self.linear(features, mode).map_err(torch("head"))
    }

    /// Logits `[N, classes]` of images `[N, 3, H, W]`.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor, ModelError> {
        self.forward_from(&self.frozen(images)?, mode)
    }

    /// Whether the model begins with stages of which nothing is trained.
    #[must_use]
    pub fn has_frozen_stages(&self) -> bool {
        self.first_trained() > 0
    }

    /// What those stages make of images `[N, 3, H, W]`, without autograd and as in [`Mode::Evaluate`]; the images themselves if there are none.
    pub fn frozen(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        let first = self.first_trained();
        let run = || {
            let mut folded = self.folded.borrow_mut();
            while folded.len() < first {
                let next = layers::folded(&self.stages[folded.len()].0)?;
                folded.push(Stage(next));
            }
            run(&folded[..first], images.shallow_clone(), Mode::Evaluate)
        };
        tch::no_grad(run).map_err(torch("forward pass of frozen layers"))
    }

    /// Logits `[N, classes]` of what [`Self::frozen`] gave.
    pub fn forward_from(&self, x: &Tensor, mode: Mode) -> Result<Tensor, ModelError> {
        let logits = match self.head.form {
            HeadForm::Pooled => self.pooled(x, mode).and_then(|features| self.linear(&features, mode)),
            HeadForm::PerPosition => self.per_position(x, mode),
        };
        logits.map_err(torch("forward pass"))
    }

    /// Gives the head the fresh values that [`build`] gives it with this seed.
    pub fn reset_head(&mut self, seed: u64) -> Result<(), ModelError> {
        self.head.form = HeadForm::Pooled;
        tch::no_grad(|| {
            let (weight, bias) = builder::head_values(&self.head.weight.size(), seed)?;
            self.head.weight.f_copy_(&weight)?;
            self.head.bias.f_copy_(&bias)
        })
        .map_err(torch("reset the head"))
    }

    /// Another probability of dropping a feature before the head, in [`Mode::Train`].
    pub fn set_dropout(&mut self, probability: f64) {
        self.head.dropout = probability;
    }

    /// Batch normalisation that is trained takes its statistics over the batches of all ranks of a group together, or, without one, of
    /// this rank's alone. With a group every rank must run the same layers forward and backward.
    pub fn normalise_over(&self, group: Option<std::rc::Rc<graft_torch::ProcessGroup>>) {
        self.together.set(group);
    }

    /// Says how the head's values, which were just loaded, are meant.
    pub(crate) fn set_head_form(&mut self, form: HeadForm) {
        self.head.form = form;
    }

    /// Values were loaded into its tensors.
    pub(crate) fn loaded(&mut self) {
        self.folded.get_mut().clear();
    }

    /// Lays all convolutions' weights out in channels-last order, which is faster with inputs in that order.
    pub fn set_channels_last(&mut self) -> Result<(), ModelError> {
        self.folded.get_mut().clear();
        for named in &mut self.tensors {
            memory::set_channels_last(&mut named.tensor)?;
        }
        Ok(())
    }

    fn first_trained(&self) -> usize {
        self.stages.iter().position(|s| layers::trains(&s.0)).unwrap_or(self.stages.len())
    }

    /// The last map `[N, C, H, W]`, or the last tokens, of what the frozen stages gave.
    fn map(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        run(&self.stages[self.first_trained()..], x.shallow_clone(), mode)
    }

    fn pooled(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        layers::run(&self.pool, &self.map(x, mode)?, mode)
    }

    fn linear(&self, features: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let features = self.dropped(features, mode)?;
        features.f_linear(&self.head.weight.f_view([self.classes, self.width])?, Some(&self.head.bias))
    }

    fn per_position(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let map = self.dropped(&self.map(x, mode)?, mode)?;
        let weight = self.head.weight.f_view([self.classes, self.width, 1, 1])?;
        let logits = map.f_conv2d(&weight, Some(&self.head.bias), [1, 1], [0, 0], [1, 1], 1)?.f_relu()?;
        logits.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)
    }

    fn dropped(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        match mode {
            Mode::Train if self.head.dropout > 0.0 => x.f_dropout(self.head.dropout, true),
            Mode::Train | Mode::Evaluate => Ok(x.shallow_clone()),
        }
    }
}

fn run(stages: &[Stage], x: Tensor, mode: Mode) -> Result<Tensor, TchError> {
    stages.iter().try_fold(x, |x, stage| layers::run(&stage.0, &x, mode))
}

/// Whether `prefix` is the name or whole leading parts of it.
fn has_prefix(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Each name once, where it first comes.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|n| seen.insert(*n)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
