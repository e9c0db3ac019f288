//! From `kubectl apply` to the first training step, with the image on the node already: where the time goes. Moments come
//! from the API server's audit log and from the trainer's log; both clocks are this machine's.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use graft_crds::status::Phase;
use serde_json::Value;

use super::conditions;
use crate::lab::{Lab, NAMESPACE};
use crate::report::{Aim, Row, median, print};
use crate::scenario::{self, kubectl};

const ROUNDS: usize = 3;

pub(super) fn run() -> Result<()> {
    let lab = Lab::start()?;
    let mut parts: Vec<[f64; 4]> = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("start-{round}");
        let file = lab.work.path().join(format!("{name}.yaml"));
        let text = fs::read_to_string(scenario::workspace().join("examples/lung-ct.yaml"))?;
        let mut job: Value = serde_saphyr::from_str(&text)?;
        job["metadata"]["name"] = name.clone().into();
        job["spec"]["output"]["uri"] = format!("file:///models/{name}").into();
        fs::write(&file, serde_json::to_vec(&job)?)?;
        let applied = seconds(SystemTime::now());
        lab.apply(&file)?;
        // A job that is over before anybody looked has begun as well.
        let begun = |s: &graft_crds::status::TransferJobStatus| {
            s.phase == Some(Phase::Succeeded) || s.phase == Some(Phase::Running) && s.progress.as_ref().is_some_and(|p| p.epoch > 0)
        };
        scenario::wait_for(&lab.cluster, (NAMESPACE, &name), Duration::from_secs(300), |_| {}, begun)?;
        let audit = fs::read_to_string(lab.cluster.audit_log())?;
        let created =
            moment(&audit, |e| e["verb"] != "get" && e["objectRef"]["resource"] == "jobs" && named(e, &name)).context("no Job in the audit log")?;
        let log = kubectl(&lab.cluster, &["logs", "-n", NAMESPACE, "-l", &format!("graft.dev/job={name}"), "--tail=-1", "--prefix=false"])?;
        let (process, step) = trainer_moments(&log).context("the trainer's log has no start_unix and first_step_unix")?;
        parts.push([created - applied, process - created, step - process, step - applied]);
        kubectl(&lab.cluster, &["delete", "tj", &name, "-n", NAMESPACE, "--wait=true"])?;
    }
    let part = |i: usize| median(&parts.iter().map(|p| p[i]).collect::<Vec<_>>());
    let first_tensor = median(&(0..2 * ROUNDS).map(|_| first_tensor()).collect::<Result<Vec<_>>>()?);
    let rows = [
        Row::new("trainer start to first tensor operation", first_tensor, "s", Aim::AtMost(0.6)),
        Row::new("apply to Job created (operator)", part(0), "s", Aim::None),
        Row::new("Job created to trainer process (Kubernetes)", part(1), "s", Aim::None),
        Row::new("trainer process to first step (data checked, weights read)", part(2), "s", Aim::None),
        Row::new("apply to first training step", part(3), "s", Aim::AtMost(3.0)),
    ];
    print("start", &conditions(), &rows);
    Ok(())
}

/// Duration of a whole `graft-trainer check`: loading libtorch, one sum, and the exit.
fn first_tensor() -> Result<f64> {
    let began = Instant::now();
    let output = Command::new(scenario::binary("graft-trainer")?).arg("check").output()?;
    anyhow::ensure!(output.status.success(), "graft-trainer check: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(began.elapsed().as_secs_f64())
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn named(entry: &Value, prefix: &str) -> bool {
    entry["objectRef"]["name"].as_str().is_some_and(|n| n.starts_with(prefix))
}

/// When the first matching request was received, in seconds since 1970.
fn moment(audit: &str, matches: impl Fn(&Value) -> bool) -> Option<f64> {
    let entries = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let first = entries.into_iter().find(|e| matches(e))?;
    let time: jiff::Timestamp = first["requestReceivedTimestamp"].as_str()?.parse().ok()?;
    Some(time.as_duration().as_secs_f64())
}

/// Start of the first rank and its first step, from the JSON lines of its log.
fn trainer_moments(log: &str) -> Option<(f64, f64)> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.into_iter().find_map(|l| Some((l["start_unix"].as_f64()?, l["first_step_unix"].as_f64()?)))
}
