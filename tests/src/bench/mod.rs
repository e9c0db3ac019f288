//! The benchmarks behind `cargo xtask bench NAME`. Each measures both sides alternately in one run where there is a peer to
//! run, prints what it saw and ends with one line of JSON.

mod accuracy;
mod ddp;
mod doctor;
mod engine;
mod input;
mod install;
mod local;
mod metrics;
mod operator;
mod parity;
mod start;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Every benchmark with what it measures.
pub const ALL: &[(&str, &str)] = &[
    ("parity", "features of test images against PyTorch's on the same weights"),
    ("covid-ct", "accuracy and AUROC on COVID-CT's official split after fine-tuning, five seeds"),
    ("covid-ct-lpft", "the same after linear probing, then fine-tuning of seven convolutions"),
    ("start", "kubectl apply to the first training step, in parts"),
    ("install", "helm install to a ready operator, with the image on the node"),
    ("metrics", "what telling, counting and scraping steps costs of a training step"),
    ("operator", "memory when idle, and writes to the API server over a job's life"),
    ("ddp", "a training step on two ranks beside PyTorch's DistributedDataParallel"),
    ("input", "images and manifests read beside torchvision, Pillow and pydicom"),
    ("doctor", "duplicates and shortcuts among 100,000 pictures that are decoded already, and the memory of it"),
    ("engine", "steps, features, memory and start of the training engine beside PyTorch's usual loop"),
    ("gpu", "steps and features beside PyTorch on an NVIDIA GPU; needs a build with the feature cuda"),
];

/// Run one benchmark, or print the list.
///
/// # Errors
/// There is no such benchmark, or it cannot run here.
pub fn run(name: &str) -> Result<()> {
    match name {
        "parity" => parity::run(),
        "covid-ct" => accuracy::run(&accuracy::EXAMPLE),
        "covid-ct-lpft" => accuracy::run(&accuracy::PROBE_THEN_TUNE),
        "start" => start::run(),
        "install" => install::run(),
        "metrics" => metrics::run(),
        "operator" => operator::run(),
        "ddp" => ddp::run(),
        "doctor" => doctor::run(),
        "engine" => engine::on_cpu(),
        "gpu" => engine::on_gpu(),
        "input" => input::run(),
        "list" => {
            for (name, about) in ALL {
                println!("{name:<14} {about}");
            }
            Ok(())
        }
        other => bail!("there is no benchmark {other:?}; `cargo xtask bench list` shows them"),
    }
}

/// How often both sides take turns: five times, unless `GRAFT_BENCH_ROUNDS` says otherwise.
fn rounds() -> usize {
    std::env::var("GRAFT_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// A line such as `VmRSS:` of a process's status, in bytes.
fn memory_of(process: &str, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix(field)).and_then(|value| value.split_whitespace().next());
    Ok(1024.0 * kib.with_context(|| format!("process {process} has no {field}"))?.parse::<f64>()?)
}

/// What a figure depends on.
fn conditions() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo").lines().find_map(|l| l.strip_prefix("model name").map(|v| v.trim_start_matches([' ', '\t', ':']).to_owned()));
    json!({
        "cpu": cpu, "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "load": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}
