//! Which patients are held out for validation. A pure function of the seed and of who has which labels; the order of
//! the rows does not matter. It never cuts through a patient and never takes a class's last training image.
//!
//! Patients are visited in the order of a random key of (seed, SHA-256 of the id). A patient is taken when that brings
//! the class counts of the validation set nearer to `fraction` of each class, measured as the sum over classes of
//! |target − taken| / images of the class. With one image per patient each class ends at its target to within one
//! image; with several, as near as the patients allow in one pass (compare iterative stratification, Sechidis,
//! Tsoumakas and Vlahavas 2011, which does the same for labels).

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use graft_trainer_core::rng::{self, Purpose};
use sha2::{Digest, Sha256};

/// Returns the ids that are held out. `samples` are (patient, class) with classes below `classes`.
pub(crate) fn hold_out<'a>(samples: &[(&'a str, usize)], classes: usize, fraction: f64, seed: u64) -> HashSet<&'a str, RandomState> {
    let mut counts: HashMap<&str, Vec<usize>, RandomState> = HashMap::default();
    let mut left = vec![0usize; classes];
    for (patient, class) in samples {
        counts.entry(patient).or_insert_with(|| vec![0; classes])[*class] += 1;
        left[*class] += 1;
    }
    let total = left.clone();
    let mut patients: Vec<(u64, &str)> = counts.keys().map(|patient| (key(patient, seed), *patient)).collect();
    patients.sort_unstable();
    let gap = |class: usize, taken: usize| (total[class] as f64 * fraction - taken as f64).abs() / total[class].max(1) as f64;
    let mut held_out = HashSet::default();
    for (_, patient) in patients {
        let own = &counts[patient];
        let mut change = 0.0;
        for class in 0..classes {
            let taken = total[class] - left[class];
            change += gap(class, taken + own[class]) - gap(class, taken);
        }
        let leaves_all_classes = own.iter().zip(&left).all(|(own, left)| *own == 0 || own < left);
        if change < -1e-12 && leaves_all_classes {
            held_out.insert(patient);
            for (left, own) in left.iter_mut().zip(own) {
                *left -= own;
            }
        }
    }
    held_out
}

/// A random number of a patient under a seed.
pub(crate) fn key(patient: &str, seed: u64) -> u64 {
    let digest = Sha256::digest(patient);
    let index = digest.iter().take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    rng::bits(seed, Purpose::Split, 0, index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_images_are_stratified_to_within_one() {
        let names: Vec<String> = (0..200).map(|i| format!("p{i}")).collect();
        let samples: Vec<(&str, usize)> = names.iter().enumerate().map(|(i, name)| (name.as_str(), usize::from(i % 4 == 0))).collect();
        for seed in 0..20 {
            let held_out = hold_out(&samples, 2, 0.15, seed);
            for (class, total) in [(0, 150.0), (1, 50.0)] {
                let taken = samples.iter().filter(|(p, c)| *c == class && held_out.contains(p)).count();
                assert!((taken as f64 - total * 0.15).abs() <= 1.0, "seed {seed}: {taken} of class {class}");
            }
        }
        assert_ne!(hold_out(&samples, 2, 0.15, 1), hold_out(&samples, 2, 0.15, 2));
    }

    proptest! {
        #[test]
        fn it_is_whole_patients_whatever_the_order_and_training_keeps_every_class(
            rows in prop::collection::vec((0usize..30, 0usize..3), 1..120), fraction in 0.05f64..0.9, seed: u64,
        ) {
            let names: Vec<String> = (0..30).map(|i| format!("p{i}")).collect();
            let samples: Vec<(&str, usize)> = rows.iter().map(|(p, c)| (names[*p].as_str(), *c)).collect();
            let held_out = hold_out(&samples, 3, fraction, seed);
            let mut reversed = samples.clone();
            reversed.reverse();
            prop_assert_eq!(&held_out, &hold_out(&reversed, 3, fraction, seed));
            for class in 0..3 {
                let of = |wanted: bool| samples.iter().filter(|(p, c)| *c == class && held_out.contains(p) == wanted).count();
                prop_assert!(of(true) + of(false) == 0 || of(false) > 0);
            }
        }

        #[test]
        fn small_patients_come_close_to_the_fraction(seed: u64) {
            let names: Vec<String> = (0..100).map(|i| format!("p{i}")).collect();
            let samples: Vec<(&str, usize)> = (0..300).map(|i| (names[i / 3].as_str(), (i / 3) % 2)).collect();
            let taken = samples.iter().filter(|(p, _)| hold_out(&samples, 2, 0.2, seed).contains(p)).count();
            prop_assert!((57..=63).contains(&taken), "{taken}");
        }
    }
}
