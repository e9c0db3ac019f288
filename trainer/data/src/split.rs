//! Splits of a manifest by patient: a test set, folds of a cross-validation, one site left out. Pure functions of who has which labels and
//! of a seed; the order of rows does not matter, and no patient is ever in two parts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::holdout::{hold_out, key};

/// A row, as far as splits care.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// Who must stay together.
    pub patient: &'a str,
    /// The classes that the row counts for.
    pub strata: Vec<&'a str>,
}

/// Places of the strata of all items, by name.
fn places<'a>(items: &[Item<'a>]) -> HashMap<&'a str, usize> {
    let distinct: BTreeSet<&str> = items.iter().flat_map(|item| item.strata.iter().copied()).collect();
    distinct.into_iter().zip(0..).collect()
}

/// Which rows are for testing: about `fraction` of each class, by whole patients. Training keeps some of each class.
#[must_use]
pub fn test(items: &[Item<'_>], fraction: f64, seed: u64) -> Vec<bool> {
    let places = places(items);
    let samples: Vec<(&str, usize)> =
        items.iter().flat_map(|item| item.strata.iter().filter_map(|stratum| Some((item.patient, *places.get(stratum)?)))).collect();
    let chosen = hold_out(&samples, places.len(), fraction, seed);
    items.iter().map(|item| chosen.contains(item.patient)).collect()
}

/// The fold of each row, below `folds`. Patients with most rows are placed first, each where its classes are rarest so far: as shares of all
/// of a class, then by rows. With one row a patient, each class is in each fold as often as in any other, to within one.
#[must_use]
pub fn folds(items: &[Item<'_>], folds: usize, seed: u64) -> Vec<usize> {
    let places = places(items);
    let mut total = vec![0usize; places.len()];
    let mut patients: BTreeMap<&str, (usize, BTreeMap<usize, usize>)> = BTreeMap::new();
    for item in items {
        let (rows, own) = patients.entry(item.patient).or_default();
        *rows += 1;
        for place in item.strata.iter().filter_map(|stratum| places.get(stratum)) {
            total[*place] += 1;
            *own.entry(*place).or_default() += 1;
        }
    }
    let mut order: Vec<(usize, u64, &str)> = patients.iter().map(|(patient, (rows, _))| (usize::MAX - rows, key(patient, seed), *patient)).collect();
    order.sort_unstable();
    let mut taken = vec![(0usize, vec![0usize; places.len()]); folds.max(1)];
    let mut found: HashMap<&str, usize> = HashMap::new();
    for (_, _, patient) in order {
        let (rows, own) = &patients[patient];
        let crowd = |(_, classes): &(usize, Vec<usize>)| own.iter().map(|(c, n)| (*n * classes[*c]) as f64 / total[*c].max(1) as f64).sum::<f64>();
        let best = (0..taken.len()).min_by(|a, b| crowd(&taken[*a]).total_cmp(&crowd(&taken[*b])).then(taken[*a].0.cmp(&taken[*b].0))).unwrap_or(0);
        taken[best].0 += rows;
        own.iter().for_each(|(class, count)| taken[best].1[*class] += count);
        found.insert(patient, best);
    }
    items.iter().map(|item| found.get(item.patient).copied().unwrap_or(0)).collect()
}

/// Patients with rows of two values, such as two sites; leaving one of these out would leave them in both parts.
#[must_use]
pub fn in_several<'a>(patients: &[&'a str], values: &[&'a str]) -> BTreeSet<&'a str> {
    let mut first: HashMap<&str, &str> = HashMap::new();
    patients.iter().zip(values).filter(|(patient, value)| **first.entry(patient).or_insert(value) != ***value).map(|(patient, _)| *patient).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLASSES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn single_rows_are_in_each_fold_to_within_one() {
        let names: Vec<String> = (0..203).map(|i| format!("p{i}")).collect();
        let items: Vec<Item<'_>> = names.iter().enumerate().map(|(i, patient)| Item { patient, strata: vec![CLASSES[i % 7 % 3]] }).collect();
        for seed in 0..20 {
            let found = folds(&items, 5, seed);
            for class in CLASSES {
                let count = |fold: usize| items.iter().zip(&found).filter(|(item, own)| item.strata[0] == class && **own == fold).count();
                let counts: Vec<usize> = (0..5).map(count).collect();
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "seed {seed}, class {class}: {counts:?}");
            }
        }
        assert_ne!(folds(&items, 5, 1), folds(&items, 5, 2));
    }

    #[test]
    fn patients_of_two_sites_are_named() {
        assert_eq!(in_several(&["p", "q", "p", "r", "q"], &["x", "x", "y", "y", "x"]), BTreeSet::from(["p"]));
    }

    proptest! {
        #[test]
        fn no_patient_is_in_two_parts_whatever_the_order(
            rows in prop::collection::vec((0usize..25, 0usize..3), 1..150), count in 2usize..7, fraction in 0.05f64..0.9, seed: u64,
        ) {
            let names: Vec<String> = (0..25).map(|i| format!("p{i}")).collect();
            let items: Vec<Item<'_>> = rows.iter().map(|(p, c)| Item { patient: &names[*p], strata: vec![CLASSES[*c]] }).collect();
            let reversed: Vec<Item<'_>> = items.iter().rev().cloned().collect();
            let mut backwards = folds(&reversed, count, seed);
            backwards.reverse();
            let found = folds(&items, count, seed);
            prop_assert_eq!(&found, &backwards);
            prop_assert!(found.iter().all(|fold| *fold < count));
            let text: Vec<String> = found.iter().map(ToString::to_string).collect();
            let patients: Vec<&str> = items.iter().map(|item| item.patient).collect();
            prop_assert!(in_several(&patients, &text.iter().map(String::as_str).collect::<Vec<_>>()).is_empty());
            let tested: Vec<&str> = test(&items, fraction, seed).into_iter().map(|test| if test { "test" } else { "train" }).collect();
            prop_assert!(in_several(&patients, &tested).is_empty());
        }

        #[test]
        fn patients_of_several_rows_fill_folds_evenly(seed: u64) {
            let names: Vec<String> = (0..60).map(|i| format!("p{i}")).collect();
            let items: Vec<Item<'_>> = (0..300).map(|i| Item { patient: &names[i / 5], strata: vec![CLASSES[i / 5 % 3]] }).collect();
            let found = folds(&items, 4, seed);
            for fold in 0..4 {
                prop_assert_eq!(found.iter().filter(|own| **own == fold).count(), 75);
            }
        }
    }
}
