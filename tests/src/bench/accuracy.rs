//! COVID-CT, official split: accuracy and AUROC on the test set after fine-tuning, for five seeds, each run of two ranks. With 203
//! test images a figure is uncertain by ± 0.05.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{conditions, local};
use crate::report::{Aim, Row, print};
use crate::scenario;

const SEEDS: i32 = 5;

/// A way to train, what it should at least reach, and what it is compared with.
pub(super) struct Recipe {
    name: &'static str,
    change: fn(&mut Value),
    aims: [f64; 2],
    peer: &'static str,
    peers: [f64; 2],
}

/// `examples/lung-ct.yaml` as it is.
pub(super) const EXAMPLE: Recipe =
    Recipe { name: "covid-ct", change: |_| {}, aims: [0.74, 0.80], peer: "frozen backbone, logistic regression", peers: [0.744, 0.803] };

/// Linear probing, then fine-tuning (Kumar et al. 2022, arXiv:2202.10054) from the 21st convolution on.
pub(super) const PROBE_THEN_TUNE: Recipe = Recipe {
    name: "covid-ct-lpft",
    change: |spec| {
        spec["fineTune"] = json!({
            "unfreeze": ["20", "21", "22", "23", "24", "25", "26"], "epochs": 15, "globalBatchSize": 32, "headFirst": true, "keep": "last",
            "optimizer": {"name": "adamw", "learningRate": "3e-4", "headLearningRate": "9e-4"},
            "augment": {"horizontalFlip": "0.5"}, "loss": {"labelSmoothing": "0.1"}, "dropout": "0.2",
        });
        spec["head"]["afterFineTune"] = "keep".into();
    },
    aims: [0.76, 0.84],
    peer: "the same recipe as a plain PyTorch script, three seeds",
    peers: [0.773, 0.844],
};

pub(super) fn run(recipe: &Recipe) -> Result<()> {
    let data = scenario::real_data().context("set GRAFT_DATA to the folder of real data")?;
    let work = tempfile::tempdir()?;
    let (mut accuracy, mut auroc) = (Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let folder = work.path().join(format!("seed-{seed}"));
        let output = local::train("lung-ct", &data, &folder, |job| {
            (recipe.change)(&mut job["spec"]);
            job["spec"]["fineTune"]["seed"] = seed.into();
        })?;
        let metrics = local::json(&output.join("metrics.json"))?;
        let value = |path: &str| metrics.pointer(path).and_then(Value::as_f64).with_context(|| format!("metrics.json has no {path}"));
        accuracy.push(value("/test/accuracy")?);
        auroc.push(value("/test/auroc/value")?);
        println!("seed {seed}: accuracy {:.3}, auroc {:.3}", accuracy[accuracy.len() - 1], auroc[auroc.len() - 1]);
    }
    let mut rows = Vec::new();
    for (name, values, aim, peer) in [("accuracy", &accuracy, recipe.aims[0], recipe.peers[0]), ("auroc", &auroc, recipe.aims[1], recipe.peers[1])] {
        rows.push(Row::new(format!("{name}, mean of five seeds"), mean(values), "", Aim::AtLeast(aim)));
        rows.push(Row::new(format!("{name}, lowest"), lowest(values), "", Aim::None));
        rows.push(Row::new(format!("{name}, highest"), highest(values), "", Aim::None));
        rows.push(Row::beside(format!("{name} (peer: {})", recipe.peer), mean(values), "", peer, Aim::None));
    }
    print(recipe.name, &conditions(), &rows);
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / f64::from(SEEDS)
}

fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}
