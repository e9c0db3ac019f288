//! The learning rate over the steps of a run, and which layers are trained in which epoch. Both are functions of the step or
//! the epoch alone, so a resumed run needs no state for them.

use std::f64::consts::PI;

/// Shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// 1 throughout.
    Constant,
    /// Half a cosine from 1 to `end` (Loshchilov and Hutter 2016, arXiv:1608.03983).
    Cosine {
        /// Last factor.
        end: f64,
    },
    /// From 1/25 to 1 over 30 % of the steps, then to 1/250,000, by half cosines (Smith and Topin 2017, arXiv:1708.07120,
    /// with the numbers of torch's `OneCycleLR`).
    OneCycle,
    /// `end` + (1 − `end`)·(1 − progress)^`power`.
    Polynomial {
        /// Last factor.
        end: f64,
        /// Exponent.
        power: f64,
    },
    /// `gamma` to the number of whole intervals that have passed.
    Step {
        /// Steps of an interval.
        every: u64,
        /// Factor of a drop.
        gamma: f64,
    },
}

/// A schedule over a known number of optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub shape: Shape,
    /// Steps of a linear rise; the first step has 1/`warmup` of the full rate.
    pub warmup: u64,
    /// All steps, the warm-up's among them.
    pub steps: u64,
}

impl Schedule {
    /// Factor on every learning rate in optimizer step `step`, counted from 0.
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let (step, steps) = (step - self.warmup, self.steps.saturating_sub(self.warmup));
        // The first step after the warm-up has the full rate, the last one the end of the curve.
        let progress = if steps > 1 { (step as f64 / (steps - 1) as f64).min(1.0) } else { 0.0 };
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Cosine { end } => half_cosine(1.0, end, progress),
            Shape::OneCycle => {
                let (rise, low, least) = (0.3, 1.0 / 25.0, 1.0 / 250_000.0);
                // torch ends the rise at step 0.3 × steps − 1.
                let top = if steps > 1 { (rise * steps as f64 - 1.0).max(0.0) / (steps - 1) as f64 } else { 0.0 };
                if progress < top { half_cosine(low, 1.0, progress / top) } else { half_cosine(1.0, least, (progress - top) / (1.0 - top)) }
            }
            Shape::Polynomial { end, power } => end + (1.0 - end) * (1.0 - progress).powf(power),
            Shape::Step { every, gamma } => gamma.powf((step / every.max(1)) as f64),
        }
    }
}

fn half_cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * (1.0 + (PI * progress).cos()) / 2.0
}

/// The layers that are trained in `epoch` (from 0). With `every` they are unfrozen one by one from the end of the list, one
/// each `every` epochs, the head alone first (Howard and Ruder 2018, arXiv:1801.06146); without it all are trained at once.
#[must_use]
pub fn unfrozen(layers: &[String], every: Option<u64>, epoch: u64) -> &[String] {
    let Some(every) = every else { return layers };
    let count = usize::try_from(epoch / every.max(1)).unwrap_or(usize::MAX).min(layers.len());
    &layers[layers.len() - count..]
}

/// Factor on the learning rate of each of `depth` layer groups in the model's order, the head being the last: the head has 1,
/// each group before it `decay` of the next (Clark et al. 2020, arXiv:2003.10555, as timm does).
#[must_use]
pub fn layer_factor(decay: f64, depth: usize, group: usize) -> f64 {
    let below = i32::try_from(depth.saturating_sub(group + 1)).unwrap_or(i32::MAX);
    decay.powi(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(shape: Shape, warmup: u64, steps: u64) -> Vec<f64> {
        (0..steps).map(|step| Schedule { shape, warmup, steps }.factor(step)).collect()
    }

    fn near(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() < 1e-6, "{got:?} instead of {expected:?}");
        }
    }

    #[test]
    fn shapes_begin_and_end_where_they_should() {
        near(&factors(Shape::Constant, 0, 3), &[1.0; 3]);
        near(&factors(Shape::Cosine { end: 0.0 }, 0, 5), &[1.0, 0.853_553_4, 0.5, 0.146_446_6, 0.0]);
        near(&factors(Shape::Cosine { end: 0.2 }, 2, 5), &[0.5, 1.0, 1.0, 0.6, 0.2]);
        near(&factors(Shape::Polynomial { end: 0.0, power: 2.0 }, 0, 3), &[1.0, 0.25, 0.0]);
        near(&factors(Shape::Step { every: 2, gamma: 0.1 }, 0, 5), &[1.0, 1.0, 0.1, 0.1, 0.01]);
        near(&factors(Shape::Cosine { end: 0.0 }, 0, 1), &[1.0]);
    }

    /// `OneCycleLR(max_lr=1, total_steps=10)` of torch 2.11.
    #[test]
    fn one_cycle_is_torchs() {
        let torch = [0.04, 0.52, 1.0, 0.950_484_6, 0.811_745_4, 0.611_261_4, 0.388_742_6, 0.188_258_6, 0.049_519_4, 0.000_004];
        near(&factors(Shape::OneCycle, 0, 10), &torch);
    }

    #[test]
    fn layers_thaw_from_the_end() {
        let layers: Vec<String> = ["a", "b", "c"].map(String::from).into();
        assert_eq!(unfrozen(&layers, None, 0), layers);
        let counts: Vec<usize> = (0..8).map(|epoch| unfrozen(&layers, Some(2), epoch).len()).collect();
        assert_eq!(counts, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(unfrozen(&layers, Some(2), 2), ["c"]);
    }

    #[test]
    fn the_head_learns_fastest() {
        let factors: Vec<f64> = (0..3).map(|group| layer_factor(0.5, 3, group)).collect();
        assert_eq!(factors, [0.25, 0.5, 1.0]);
    }
}
