//! COVID-CT, official split: accuracy and AUROC on the test set after fine-tuning, for five seeds. The reference point is a
//! frozen MobileNetV1 with logistic regression: 0.744 and 0.803. With 203 test images a figure is uncertain by ± 0.05.

use anyhow::{Context, Result};

use super::{conditions, local};
use crate::report::{Aim, Row, print};
use crate::scenario;

const SEEDS: i32 = 5;

pub(super) fn run() -> Result<()> {
    let data = scenario::real_data().context("set GRAFT_DATA to the folder of real data")?;
    let work = tempfile::tempdir()?;
    let (mut accuracy, mut auroc) = (Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let folder = work.path().join(format!("seed-{seed}"));
        let output = local::train("lung-ct", &data, &folder, |job| job["spec"]["fineTune"]["seed"] = seed.into())?;
        let metrics = local::json(&output.join("metrics.json"))?;
        let value = |path: &str| metrics.pointer(path).and_then(serde_json::Value::as_f64).with_context(|| format!("metrics.json has no {path}"));
        accuracy.push(value("/test/accuracy")?);
        auroc.push(value("/test/auroc/value")?);
        println!("seed {seed}: accuracy {:.3}, auroc {:.3}", accuracy[accuracy.len() - 1], auroc[auroc.len() - 1]);
    }
    let rows = [
        Row::new("accuracy, mean of five seeds", mean(&accuracy), "", Aim::AtLeast(0.74)),
        Row::new("accuracy, lowest", lowest(&accuracy), "", Aim::None),
        Row::new("accuracy, highest", highest(&accuracy), "", Aim::None),
        Row::new("auroc, mean of five seeds", mean(&auroc), "", Aim::AtLeast(0.80)),
        Row::new("auroc, lowest", lowest(&auroc), "", Aim::None),
        Row::new("auroc, highest", highest(&auroc), "", Aim::None),
        Row::beside("accuracy (peer: frozen backbone, logistic regression)", mean(&accuracy), "", 0.744, Aim::None),
        Row::beside("auroc (peer: frozen backbone, logistic regression)", mean(&auroc), "", 0.803, Aim::None),
    ];
    print("covid-ct", &conditions(), &rows);
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
