//! What the operator costs: its resident memory when idle, and its writes to the API server from a job's creation to
//! Running and over an undisturbed life, counted from the API server's audit log. JobSet's and training-operator's
//! figures beside it were measured the same way on the same kind of machine (1,000 jobs of 8 pods; medians of three).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use graft_crds::status::Phase;
use serde_json::Value;

use super::{conditions, memory_of};
use crate::lab::Lab;
use crate::report::{Aim, Row, print};

const JOBSET_IDLE_MIB: f64 = 48.0;
const JOBSET_WRITES_TO_RUNNING: f64 = 4.0;
const TRAINING_OPERATOR_WRITES_TO_RUNNING: f64 = 34.0;

/// What a write of the operator was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    /// A child or an event.
    Object,
    /// A status whose phase or conditions differ from the last.
    Transition(Option<Phase>),
    /// A status in which only progress moved.
    Progress,
}

pub(super) fn run() -> Result<()> {
    let lab = Lab::start()?;
    std::thread::sleep(Duration::from_secs(5));
    let idle = memory_of(&lab.operator.pid().to_string(), "VmRSS:")? / 1_048_576.0;
    let end = lab.run_example()?;
    if end.phase != Some(Phase::Succeeded) {
        bail!("the job did not succeed: {:?}", end.failure);
    }
    // The events follow the last status write.
    std::thread::sleep(Duration::from_secs(1));
    let writes = classify(&fs::read_to_string(lab.cluster.audit_log())?);
    let running = writes.iter().position(|w| *w == Write::Transition(Some(Phase::Running))).context("the job never was Running")? + 1;
    let progress = writes.iter().filter(|w| **w == Write::Progress).count();
    let to_running = count(running);
    let rows = [
        Row::beside("operator RSS idle (peer: JobSet)", idle, "MiB", JOBSET_IDLE_MIB, Aim::None),
        Row::new("operator RSS idle", idle, "MiB", Aim::AtMost(15.0)),
        Row::new("API writes, create to Running", to_running, "writes", Aim::AtMost(6.0)),
        Row::beside("API writes to Running (peer: JobSet)", to_running, "writes", JOBSET_WRITES_TO_RUNNING, Aim::None),
        Row::beside("API writes to Running (peer: training-operator)", to_running, "writes", TRAINING_OPERATOR_WRITES_TO_RUNNING, Aim::None),
        Row::new("API writes, whole life without progress", count(writes.len() - progress), "writes", Aim::AtMost(15.0)),
        Row::new("API writes for progress", count(progress), "writes", Aim::None),
        Row::new("operator RSS after the job", memory_of(&lab.operator.pid().to_string(), "VmRSS:")? / 1_048_576.0, "MiB", Aim::None),
    ];
    print("operator", &conditions(), &rows);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of writes are small")]
fn count(n: usize) -> f64 {
    n as f64
}

/// The operator's writes in the order of the audit log.
fn classify(log: &str) -> Vec<Write> {
    let mut last = Value::Null;
    let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries
        .filter(|e| e["userAgent"].as_str().is_some_and(|agent| agent.starts_with("graft-operator")))
        .map(|e| {
            if e["objectRef"]["subresource"] != "status" {
                return Write::Object;
            }
            let status = &e["requestObject"]["status"];
            let shape = serde_json::json!([status["phase"], conditions_of(status)]);
            if shape == last {
                return Write::Progress;
            }
            last = shape;
            Write::Transition(serde_json::from_value(status["phase"].clone()).ok())
        })
        .collect()
}

fn conditions_of(status: &Value) -> Vec<String> {
    status["conditions"].as_array().into_iter().flatten().map(|c| format!("{}={}", c["type"], c["status"])).collect()
}
