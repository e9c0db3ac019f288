//! A training step as a CUDA graph. The first steps of a shape run one operation at a time, so that torch has chosen its kernels and
//! made its workspaces; then the step is recorded on tensors of its own, into which each batch is copied before the step is given to
//! the GPU in one call. A batch of another shape, such as the last of an epoch, still goes one operation at a time.

use graft_torch::Graph;
use graft_torch::tch::{Tensor, no_grad};

use super::criterion::Labels;
use crate::event::Failure;

/// Steps before recording.
const WARM_UP: u32 = 3;

/// What a step reads.
pub(super) struct Batch {
    /// As the network takes them.
    pub(super) images: Tensor,
    pub(super) labels: Labels,
    /// What the sum of the losses is multiplied with before the backward pass, a float scalar.
    pub(super) weight: Tensor,
}

impl Batch {
    /// The same in memory of its own.
    pub(super) fn copy(&self) -> Self {
        let labels = Labels { own: self.labels.own.copy(), partner: None };
        Self { images: self.images.copy(), labels, weight: self.weight.copy() }
    }

    fn take(&mut self, other: &Self) -> Result<(), Failure> {
        no_grad(|| {
            self.images.f_copy_(&other.images)?;
            self.labels.own.f_copy_(&other.labels.own)?;
            self.weight.f_copy_(&other.weight)?;
            Ok(())
        })
    }
}

/// What is recorded, if anything is.
pub(super) enum Recorder {
    /// Nothing is recorded here.
    Off,
    /// So many steps with images of this shape were taken.
    Warming(u32, Vec<i64>),
    /// A step, its inputs, and where the sum of its losses will lie.
    Recorded(Graph, Batch, Tensor),
}

impl Recorder {
    pub(super) fn new(on: bool) -> Self {
        if on { Self::Warming(0, Vec::new()) } else { Self::Off }
    }

    /// Whether a step with this batch is to be replayed, or recorded now.
    pub(super) fn takes(&mut self, batch: &Batch) -> bool {
        let size = batch.images.size();
        match self {
            Self::Off => false,
            Self::Warming(steps, shape) if *shape == size => {
                *steps += 1;
                *steps > WARM_UP
            }
            Self::Warming(steps, shape) => {
                (*steps, *shape) = (1, size);
                false
            }
            Self::Recorded(_, inputs, _) => inputs.images.size() == size,
        }
    }

    pub(super) fn is_recorded(&self) -> bool {
        matches!(self, Self::Recorded(..))
    }

    pub(super) fn keep(&mut self, graph: Graph, inputs: Batch, sum: Tensor) {
        *self = Self::Recorded(graph, inputs, sum);
    }

    /// The step with this batch; gives the sum of its losses, which lies there until the next step.
    pub(super) fn replay(&mut self, batch: &Batch) -> Result<Option<Tensor>, Failure> {
        let Self::Recorded(graph, inputs, sum) = self else { return Ok(None) };
        inputs.take(batch)?;
        graph.replay()?;
        Ok(Some(sum.shallow_clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_torch::tch::{Device, Kind};

    fn batch(images: i64) -> Batch {
        let labels = Labels { own: Tensor::zeros([images], (Kind::Int64, Device::Cpu)), partner: None };
        Batch { images: Tensor::zeros([images, 3, 8, 8], (Kind::Float, Device::Cpu)), labels, weight: Tensor::from(1f32) }
    }

    #[test]
    fn a_shape_is_recorded_after_its_first_steps() {
        let mut recorder = Recorder::new(true);
        let taken: Vec<bool> = [4, 4, 4, 3, 4, 4, 4, 4].map(|images| recorder.takes(&batch(images))).to_vec();
        assert_eq!(taken, [false, false, false, false, false, false, false, true]);
        assert!(!recorder.is_recorded() && recorder.replay(&batch(4)).unwrap().is_none());
        let mut off = Recorder::new(false);
        assert!((0..9).all(|_| !off.takes(&batch(4))));
    }
}
