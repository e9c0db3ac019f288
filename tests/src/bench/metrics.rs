//! What metrics cost of a training step. One agent trains as in a pod, with HTTP; its metrics and its progress are read as often as
//! Prometheus and the operator do by default. Two figures come from it. The account adds up what the steps' way costs: the time in
//! which a rank tells a step, and all of the agent's processor time, as if every bit of it were taken from the ranks. The comparison
//! sets steps that are told beside their neighbours that are not; it would show what the account forgets.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use graft_crds::TransferJob;
use graft_crds::contract::{Device as Kind, Gang, RunIdentity, TrainerConfig};
use serde::Deserialize;
use serde_json::Value;

use super::conditions;
use super::engine::{Device, Lab, PAIRS, Pair};
use crate::report::{Aim, Row, interval_of_median, median, print};
use crate::scenario::{self, free_port, http_get};

/// The chart's PodMonitor, and the operator's `progressIntervalSeconds`.
const READ: [(&str, Duration); 2] = [("/metrics", Duration::from_secs(15)), ("/progress", Duration::from_secs(10))];
/// How long each pair trains.
const LENGTH: Duration = Duration::from_secs(60);
/// So many that an epoch has several times eight steps.
const PATIENTS: u32 = 400;
/// More epochs than are trained in this time.
const EPOCHS: i32 = 100_000;

/// What `trainer/src/rank/telling.rs` tells of a second of steps, or of eight steps that take longer.
#[derive(Deserialize)]
struct Compared {
    /// On each side.
    steps: f64,
    told: f64,
    untold: f64,
    telling: f64,
}

pub(super) fn run() -> Result<()> {
    let only = std::env::var("GRAFT_BENCH_ONLY").unwrap_or_default();
    let chosen = |pair: &&Pair| ["resnet18", "mobilenet_v1_025"].contains(&pair.architecture) && pair.unfreeze == "*" && pair.name.contains(&only);
    let pairs: Vec<&Pair> = PAIRS.iter().filter(chosen).collect();
    let lab = Lab::new(Device::Cpu, &pairs, PATIENTS)?;
    let before = conditions();
    let mut rows = Vec::new();
    for pair in pairs {
        let seen = measure(&lab, pair).with_context(|| pair.name.to_owned())?;
        let agent = seen.agent_seconds / seen.steps_told;
        let account = |seen: &Compared| 100.0 * (seen.telling + agent * seen.steps) / seen.untold;
        let compared = |seen: &Compared| 100.0 * (seen.told / seen.untold - 1.0);
        let of = |figure: &dyn Fn(&Compared) -> f64| seen.compared.iter().map(figure).collect::<Vec<f64>>();
        println!("{}: {} comparisons, {} read, agent {:.0} us a step", pair.name, seen.compared.len(), seen.read, agent * 1e6);
        let (account, compared) = (of(&account), of(&compared));
        rows.push(Row::within(format!("{}: account", pair.name), median(&account), "%", interval_of_median(&account), Aim::AtMost(1.0)));
        rows.push(Row::within(format!("{}: told beside untold", pair.name), median(&compared), "%", interval_of_median(&compared), Aim::None));
    }
    print("metrics", &before, &rows);
    Ok(())
}

/// What one agent showed.
struct Seen {
    compared: Vec<Compared>,
    /// Processor time of the agent while these were trained.
    agent_seconds: f64,
    /// Steps that the agent counted meanwhile, of all its ranks.
    steps_told: f64,
    /// How often it was read.
    read: usize,
}

/// An agent, which is stopped with its ranks when this is dropped.
struct Agent {
    child: Child,
    address: String,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its ranks end with its pipes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    fn start(lab: &Lab, pair: &Pair) -> Result<Self> {
        let job: TransferJob = serde_json::from_value(lab.job(pair, EPOCHS))?;
        let (processes, port) = (u32::try_from(pair.ranks)?, free_port()?);
        let threads = u32::try_from(lab.processors.split(',').count())? / processes;
        let run = RunIdentity { namespace: "bench".into(), name: "metrics".into(), id: format!("metrics-{}", pair.architecture), attempt: 0 };
        let gang = Gang {
            replicas: 1,
            processes,
            device: Kind::Cpu,
            threads: threads.max(1),
            rendezvous_host: "127.0.0.1".into(),
            rendezvous_port: 0,
            http_port: port,
        };
        let folder = lab.folder.path();
        let config = folder.join("config.json");
        fs::write(&config, serde_json::to_vec(&TrainerConfig::render(&job.spec, run, gang))?)?;
        let mut command = lab.pinned(&scenario::binary("graft-trainer")?);
        command.args(["agent", "--config"]).arg(&config).arg("--termination-log").arg(folder.join("termination"));
        command.env("GRAFT_STEPS", "compared").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(folder.join("errors.txt"))?);
        Ok(Self { child: command.spawn().context("starting taskset (util-linux)")?, address: format!("127.0.0.1:{port}") })
    }

    /// Processor time of all its threads so far, in seconds.
    fn processor_seconds(&self) -> Result<f64> {
        let mut nanoseconds = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))?.flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        }
        Ok(nanoseconds / 1e9)
    }

    /// Steps that it has counted.
    fn steps(&self) -> Result<f64> {
        let text = http_get(&self.address, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix("graft_trainer_step_seconds_count{part=\"data\"} "));
        Ok(line.context("no steps in /metrics")?.parse()?)
    }
}

fn measure(lab: &Lab, pair: &Pair) -> Result<Seen> {
    let mut agent = Agent::start(lab, pair)?;
    let lines = BufReader::new(agent.child.stdout.take().context("no output")?).lines();
    // The first epoch decodes, and chooses kernels.
    let mut begun: Option<(Instant, f64, f64)> = None;
    let mut seen = Seen { compared: Vec::new(), agent_seconds: 0.0, steps_told: 0.0, read: 0 };
    let mut due = [Instant::now(); READ.len()];
    for line in lines {
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        let Some((since, agent_before, steps_before)) = begun else {
            if event["event"] == "epoch" {
                begun = Some((Instant::now(), agent.processor_seconds()?, agent.steps()?));
                due = READ.map(|(_, every)| Instant::now() + every);
            }
            continue;
        };
        // A line comes about once a second.
        for ((path, every), due) in READ.into_iter().zip(&mut due) {
            if *due <= Instant::now() {
                http_get(&agent.address, path)?;
                seen.read += 1;
                *due += every;
            }
        }
        if event["rank"] == 0
            && let Some(compared) = event["message"].as_str().and_then(|message| serde_json::from_str::<Compared>(message).ok())
        {
            seen.compared.push(compared);
        }
        if since.elapsed() > LENGTH {
            seen.agent_seconds = agent.processor_seconds()? - agent_before;
            seen.steps_told = agent.steps()? - steps_before;
            ensure!(seen.compared.len() >= 6 && seen.steps_told > 0.0, "only {} comparisons in {} s", seen.compared.len(), LENGTH.as_secs());
            return Ok(seen);
        }
    }
    let status = agent.child.wait()?;
    anyhow::bail!("it ended with {status}: {}", fs::read_to_string(lab.folder.path().join("errors.txt"))?.trim())
}
