//! The image's one binary: `agent` supervises a pod's ranks, `rank` is one of them, `verify` checks a written model, `check`
//! shows that image and devices work.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use graft_crds::Architecture;
use graft_crds::contract::{ExitReason, Stage, TerminationSummary, TrainerConfig};
use graft_torch::tch::{Cuda, Device, Kind, Tensor};
use graft_trainer::agent::{self, AgentOptions, Serve};
use graft_trainer::event::{Event, Failure};
use graft_trainer::{generate, output, rank};

/// Graft's trainer.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Supervise this pod's rank processes
    Agent {
        /// The configuration
        #[arg(long)]
        config: PathBuf,
        /// Number of this pod in the gang
        #[arg(long, env = "JOB_COMPLETION_INDEX", default_value_t = 0)]
        index: u32,
        /// Where the termination message goes
        #[arg(long, env = "GRAFT_TERMINATION_LOG", default_value = "/dev/termination-log")]
        termination_log: PathBuf,
    },
    /// One rank, started by an agent
    #[command(hide = true)]
    Rank,
    /// Add two numbers on every device that is there, and say which these are
    Check,
    /// Write generated data and fresh weights to try a cluster with
    Generate {
        /// The folder to write to
        folder: PathBuf,
        /// Number of phantom patients
        #[arg(long, default_value_t = 20)]
        patients: usize,
    },
    /// Load a written model afresh and compare it with its stored predictions
    Verify {
        /// The folder with model.json
        model: PathBuf,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Agent { config, index, termination_log } => supervise(&config, index, termination_log),
        Task::Rank => rank::main(),
        Task::Check => check(),
        // The smallest architecture: what it learns does not matter.
        Task::Generate { folder, patients } => match generate::write(&folder, 0, patients, Architecture::MobileNetV1x025) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(ExitReason::UserError.code())
            }
        },
        Task::Verify { model } => match output::verify(&model, |uri| graft_data::local_path(uri).to_path_buf()) {
            Ok(verified) => {
                println!("{} images, largest difference {:.1e}", verified.images, verified.largest_difference);
                ExitCode::SUCCESS
            }
            Err(failure) => {
                eprintln!("error: {failure}");
                ExitCode::from(failure.exit.code())
            }
        },
    }
}

fn check() -> ExitCode {
    let gpus = usize::try_from(Cuda::device_count()).unwrap_or(0);
    for device in std::iter::once(Device::Cpu).chain((0..gpus).map(Device::Cuda)) {
        let sum = Tensor::f_ones([2], (Kind::Float, device)).and_then(|ones| ones.f_sum(Kind::Float)?.f_double_value(&[]));
        match sum {
            Ok(sum) => println!("{device:?}: 1 + 1 = {sum}"),
            Err(error) => {
                eprintln!("error: {device:?}: {}", graft_torch::Error::from_tch("add", &error));
                return ExitCode::from(ExitReason::DeviceError.code());
            }
        }
    }
    ExitCode::SUCCESS
}

fn supervise(path: &std::path::Path, index: u32, termination_log: PathBuf) -> ExitCode {
    let termination_log = Some(termination_log);
    let own = std::env::current_exe().map(OsString::from).unwrap_or_else(|_| "graft-trainer".into());
    let text = std::fs::read_to_string(path).map_err(|e| Failure::user("ConfigUnreadable", format!("{}: {e}", path.display())));
    let config = text.and_then(|text| TrainerConfig::parse(&text).map_err(|e| Failure::user("ConfigRejected", e.to_string())));
    let (run, first_rank) = match &config {
        Ok(config) => (Some(config.run.clone()), index * config.gang.processes),
        Err(_) => (None, 0),
    };
    let summary: TerminationSummary = match config {
        Ok(config) => {
            let options = AgentOptions {
                rank_command: vec![own, "rank".into()],
                serve: Serve::On,
                termination_log,
                observer: Some(Box::new({
                    let run = config.run.clone();
                    let mut stages: HashMap<u32, Stage> = HashMap::new();
                    move |rank, event| {
                        stages.extend(event.stage().map(|stage| (rank, stage)));
                        match event {
                            Event::Steps { .. } | Event::Exchange(_) | Event::Checkpoint { .. } => {}
                            other => println!("{}", other.line(&run, rank, stages.get(&rank).copied())),
                        }
                    }
                })),
            };
            agent::run(config, index, options)
        }
        Err(failure) => agent::refuse(&failure, termination_log.as_deref()),
    };
    if let Some(failure) = &summary.failure {
        let event = Event::Failed(failure.clone());
        match run {
            Some(run) => eprintln!("{}", event.line(&run, failure.rank.unwrap_or(first_rank), Some(summary.progress.stage))),
            None => eprintln!("{}", serde_json::to_string(&event).unwrap_or_default()),
        }
    }
    ExitCode::from(match summary.exit {
        ExitReason::Ok => 0,
        other => other.code(),
    })
}
