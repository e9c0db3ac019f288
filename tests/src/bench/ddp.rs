//! A training step on two ranks beside PyTorch's DistributedDataParallel: the same architecture, batch, threads and
//! optimizer, alternately in one run. Both sides report images per second of whole epochs over data that is decoded already.

use anyhow::{Context, Result};

use super::{conditions, local};
use crate::report::{Aim, Row, median, print};
use crate::scenario;

const ROUNDS: usize = 3;
const BATCH: i32 = 32;
const EPOCHS: i32 = 3;

pub(super) fn run() -> Result<()> {
    let data = scenario::real_data().context("set GRAFT_DATA to the folder of real data")?;
    let work = tempfile::tempdir()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let folder = work.path().join(format!("round-{round}"));
        let output = local::train("lung-ct", &data, &folder, |job| {
            let spec = &mut job["spec"];
            spec["backbone"] = serde_json::json!({"architecture": "mobilenet_v2", "weights": {"uri": "file:///data/weights/mobilenet_v2_imagenet.safetensors"},
                "preprocessing": {"size": 128, "fit": "stretch"}});
            spec["fineTune"] = serde_json::json!({"unfreeze": ["*"], "epochs": EPOCHS, "globalBatchSize": BATCH, "optimizer": {"name": "sgd", "learningRate": "1e-3"}});
            spec["head"] = serde_json::json!({"epochs": 1});
        })?;
        ours.push(speed(&std::fs::read_to_string(output.join("history.csv"))?).context("history.csv has no speed of fine-tuning")?);
        let peer =
            local::reference("ddp_step.py", &["--batch", &BATCH.to_string(), "--epochs", &EPOCHS.to_string(), "--images", "425", "--size", "128"])?;
        theirs.push(peer["images_per_second"].as_f64().context("images_per_second")?);
        println!("round {round}: {:.1} images/s, PyTorch {:.1}", ours[round], theirs[round]);
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    let milliseconds = |speed: f64| 1000.0 * f64::from(BATCH) / speed;
    let rows = [
        Row::beside("step of two ranks, MobileNetV2, batch 32, 128 px", milliseconds(ours), "ms", milliseconds(theirs), Aim::AtMost(1.05)),
        Row::beside("images per second", ours, "1/s", theirs, Aim::None),
    ];
    print("ddp", &conditions(), &rows);
    Ok(())
}

/// Median images per second of the fine-tuning epochs after the first, which fills caches.
fn speed(history: &str) -> Option<f64> {
    let mut lines = history.lines();
    let header: Vec<&str> = lines.next()?.split(',').collect();
    let column = header.iter().position(|c| *c == "samples_per_second")?;
    let values: Vec<f64> = lines.filter(|l| l.starts_with("fineTune,")).skip(1).filter_map(|l| l.split(',').nth(column)?.parse().ok()).collect();
    (!values.is_empty()).then(|| median(&values))
}
