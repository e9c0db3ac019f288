//! Which sample goes to which rank in which step. It is a pure function of (seed, epoch, number of samples, global
//! batch size, and their classes where these are balanced): the world size only cuts each global batch into shares and never
//! changes the order. It never pads, and unless classes are balanced it never repeats a sample.
//!
//! The order of an epoch is the sample indices sorted by (`rng::bits(seed, Order, epoch, index)`, index). Sorting by
//! independent 64-bit keys is a uniform permutation but for ties, which need about 2³² samples to be likely.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::rng::{self, Purpose};

/// Sampling is impossible with these numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// Some rank would never see a sample.
    #[error("{samples} training samples are fewer than {world} ranks; use fewer workers or more data")]
    TooFewSamples {
        /// Number of training samples.
        samples: usize,
        /// Number of ranks.
        world: usize,
    },
    /// Some rank would have no sample in a batch.
    #[error("a global batch of {global_batch} is smaller than {world} ranks; raise globalBatchSize or use fewer workers")]
    BatchTooSmall {
        /// Samples in one optimizer step.
        global_batch: usize,
        /// Number of ranks.
        world: usize,
    },
    /// There is no rank to sample for.
    #[error("the world has no rank; at least one is needed")]
    NoRank,
}

/// The order of `samples` sample indices in `epoch` under `seed`.
#[must_use]
pub fn permutation(samples: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = (0..samples).map(|index| (rng::bits(seed, Purpose::Order, epoch, index as u64), index)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, index)| index).collect()
}

/// An order of as many samples in which every class comes equally often, within one: rare classes' samples are repeated, and of frequent
/// classes only a part is seen, another one in each epoch. `classes` has the class of each sample.
///
/// Each round of the order has every class once, in an order of its own; each class goes through its samples in a random order and
/// then through them again in another.
#[must_use]
pub fn balanced(classes: &[usize], seed: u64, epoch: u32) -> Vec<usize> {
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (sample, class) in classes.iter().enumerate() {
        members.entry(*class).or_default().push(sample);
    }
    let samples = classes.len() as u64;
    let mut queues: Vec<(u64, Vec<usize>, Vec<usize>)> = members.into_values().map(|own| (0, own, Vec::new())).collect();
    let kinds = queues.len() as u64;
    let mut order = Vec::with_capacity(classes.len());
    let mut round = 0u64;
    while order.len() < classes.len() {
        let mut turn: Vec<(u64, usize)> = (0..kinds).map(|k| (rng::bits(seed, Purpose::Balance, epoch, round * kinds + k), k as usize)).collect();
        turn.sort_unstable();
        for (_, kind) in turn.into_iter().take(classes.len() - order.len()) {
            let (lap, own, left) = &mut queues[kind];
            if left.is_empty() {
                let mut keyed: Vec<(u64, usize)> =
                    own.iter().map(|s| (rng::bits(seed, Purpose::Order, epoch, *lap * samples + *s as u64), *s)).collect();
                keyed.sort_unstable();
                *left = keyed.into_iter().rev().map(|(_, sample)| sample).collect();
                *lap += 1;
            }
            order.extend(left.pop());
        }
        round += 1;
    }
    order
}

/// The contiguous part of `0..length` that belongs to `rank` of `world`. Sizes differ by at most one, the larger ones
/// come first; a share is empty when there are more ranks than items. Nothing is repeated, so results of all ranks
/// joined in rank order are the whole in its order. An empty range for a rank outside the world.
#[must_use]
pub fn shard(length: usize, rank: usize, world: usize) -> Range<usize> {
    if rank >= world {
        return length..length;
    }
    let (base, extra) = (length / world, length % world);
    let start = rank * base + rank.min(extra);
    start..start + base + usize::from(rank < extra)
}

/// The factor on a rank's mean loss that makes the mean over ranks, as DDP takes it of gradients, the exact mean over
/// the global batch: `local × world / global`. Zero for an empty global batch.
#[must_use]
pub fn loss_weight(local: usize, global: usize, world: usize) -> f64 {
    if global == 0 { 0.0 } else { local as f64 * world as f64 / global as f64 }
}

/// The plan by which one run draws its training samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampler {
    samples: usize,
    global_batch: usize,
    world: usize,
    seed: u64,
    /// The class of each sample, if every class is to come equally often.
    classes: Option<Vec<usize>>,
}

impl Sampler {
    /// A sampler over `samples` samples in steps of `global_batch`, cut over `world` ranks.
    ///
    /// # Errors
    /// When a rank would be without a sample in some step, or there is no rank.
    pub fn new(samples: usize, global_batch: usize, world: usize, seed: u64) -> Result<Self, SamplerError> {
        if world == 0 {
            return Err(SamplerError::NoRank);
        }
        if samples < world {
            return Err(SamplerError::TooFewSamples { samples, world });
        }
        if global_batch < world {
            return Err(SamplerError::BatchTooSmall { global_batch, world });
        }
        Ok(Self { samples, global_batch, world, seed, classes: None })
    }

    /// The same with every class equally often, see [`balanced`]; `classes` has the class of each sample.
    #[must_use]
    pub fn balanced(self, classes: Vec<usize>) -> Self {
        Self { samples: classes.len(), classes: Some(classes), ..self }
    }

    /// Optimizer steps in one epoch. A last batch smaller than the world joins the one before it, so that no rank
    /// ever has an empty share.
    #[must_use]
    pub fn steps(&self) -> usize {
        let (whole, rest) = (self.samples / self.global_batch, self.samples % self.global_batch);
        if whole == 0 { 1 } else { whole + usize::from(rest >= self.world) }
    }

    /// The samples of `epoch` in their order.
    #[must_use]
    pub fn epoch(&self, epoch: u32) -> Epoch<'_> {
        let order = match &self.classes {
            None => permutation(self.samples, self.seed, epoch),
            Some(classes) => balanced(classes, self.seed, epoch),
        };
        Epoch { sampler: self, order }
    }
}

/// One epoch of a [`Sampler`].
#[derive(Clone, Debug)]
pub struct Epoch<'a> {
    sampler: &'a Sampler,
    order: Vec<usize>,
}

/// What one rank does in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Share<'a> {
    /// Indices of the rank's samples.
    pub samples: &'a [usize],
    /// Samples in the step over all ranks.
    pub global: usize,
    /// The factor on the rank's mean loss; see [`loss_weight`].
    pub loss_weight: f64,
}

impl Epoch<'_> {
    /// Optimizer steps in this epoch.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.sampler.steps()
    }

    /// The samples of a step over all ranks; empty after the last step.
    #[must_use]
    pub fn global_batch(&self, step: usize) -> &[usize] {
        let steps = self.sampler.steps();
        if step >= steps {
            return &[];
        }
        let start = step * self.sampler.global_batch;
        let end = if step + 1 == steps { self.order.len() } else { start + self.sampler.global_batch };
        &self.order[start..end]
    }

    /// The share of `rank` in `step`.
    #[must_use]
    pub fn share(&self, step: usize, rank: usize) -> Share<'_> {
        let batch = self.global_batch(step);
        let samples = &batch[shard(batch.len(), rank, self.sampler.world)];
        Share { samples, global: batch.len(), loss_weight: loss_weight(samples.len(), batch.len(), self.sampler.world) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sample_comes_once_and_in_an_order_that_ignores_the_world(
            samples in 1usize..400, batch in 1usize..64, world in 1usize..9, seed: u64, epoch in 0u32..5,
        ) {
            prop_assume!(samples >= world && batch >= world);
            let sampler = Sampler::new(samples, batch, world, seed).unwrap();
            let plan = sampler.epoch(epoch);
            let mut joined = Vec::new();
            for step in 0..plan.steps() {
                let mut sizes = Vec::new();
                let mut weight = 0.0;
                for rank in 0..world {
                    let share = plan.share(step, rank);
                    prop_assert!(!share.samples.is_empty(), "rank {rank} is idle in step {step}");
                    sizes.push(share.samples.len());
                    weight += share.loss_weight;
                    joined.extend_from_slice(share.samples);
                }
                prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
                prop_assert!((weight / world as f64 - 1.0).abs() < 1e-12);
                prop_assert!(sizes.iter().sum::<usize>() < batch + world);
            }
            prop_assert_eq!(&joined, &permutation(samples, seed, epoch));
            joined.sort_unstable();
            prop_assert_eq!(joined, (0..samples).collect::<Vec<_>>());
        }

        #[test]
        fn weighted_means_of_ranks_are_the_mean_of_the_batch(losses in prop::collection::vec(-5.0f64..5.0, 1..50), world in 1usize..9) {
            prop_assume!(losses.len() >= world);
            let over_ranks: f64 = (0..world).map(|rank| {
                let local = &losses[shard(losses.len(), rank, world)];
                loss_weight(local.len(), losses.len(), world) * local.iter().sum::<f64>() / local.len() as f64
            }).sum::<f64>() / world as f64;
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            prop_assert!((over_ranks - mean).abs() < 1e-12);
        }

        #[test]
        fn balanced_orders_have_every_class_equally_often(classes in prop::collection::vec(0usize..6, 1..200), seed: u64, epoch in 0u32..3) {
            let order = balanced(&classes, seed, epoch);
            prop_assert_eq!(order.len(), classes.len());
            let present: std::collections::BTreeSet<usize> = classes.iter().copied().collect();
            for class in &present {
                let own = classes.iter().filter(|c| *c == class).count();
                let drawn: Vec<usize> = order.iter().copied().filter(|s| classes[*s] == *class).collect();
                prop_assert!(drawn.len() >= classes.len() / present.len() && drawn.len() <= classes.len().div_ceil(present.len()));
                // No sample comes again before all others of its class have come.
                let times = |sample: usize| drawn.iter().filter(|s| **s == sample).count();
                let all: Vec<usize> = (0..classes.len()).filter(|s| classes[*s] == *class).map(times).collect();
                prop_assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 1, "{own}: {all:?}");
            }
            prop_assert_eq!(&order, &balanced(&classes, seed, epoch));
        }

        #[test]
        fn shards_tile_the_whole(length in 0usize..200, world in 1usize..20) {
            let mut at = 0;
            for rank in 0..world {
                let part = shard(length, rank, world);
                prop_assert_eq!(part.start, at);
                at = part.end;
            }
            prop_assert_eq!(at, length);
        }
    }

    /// The order is part of what makes a run repeatable, so a change of it must be seen. These two come from the
    /// reference in tests/golden/metrics.py, which has its own Philox.
    #[test]
    fn the_order_is_the_documented_one() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../tests/golden/metrics.json")).unwrap();
        for case in golden["permutations"].as_array().unwrap() {
            let number = |name: &str| case[name].as_u64().unwrap();
            let expected: Vec<usize> = serde_json::from_value(case["order"].clone()).unwrap();
            assert_eq!(permutation(number("samples") as usize, number("seed"), number("epoch") as u32), expected);
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        assert_ne!(permutation(50, 1, 0), permutation(50, 1, 1));
        assert_ne!(permutation(50, 1, 0), permutation(50, 2, 0));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        assert_eq!(Sampler::new(3, 8, 4, 0), Err(SamplerError::TooFewSamples { samples: 3, world: 4 }));
        assert_eq!(Sampler::new(30, 3, 4, 0), Err(SamplerError::BatchTooSmall { global_batch: 3, world: 4 }));
        assert_eq!(Sampler::new(30, 3, 0, 0), Err(SamplerError::NoRank));
    }

    #[test]
    fn a_short_rest_joins_the_last_batch() {
        let sampler = Sampler::new(17, 8, 2, 0).unwrap();
        let plan = sampler.epoch(0);
        assert_eq!((0..plan.steps()).map(|step| plan.global_batch(step).len()).collect::<Vec<_>>(), [8, 9]);
        assert_eq!(Sampler::new(18, 8, 2, 0).unwrap().steps(), 3);
    }
}
