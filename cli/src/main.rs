//! `graft`: trains, checks and inspects TransferJobs on this machine, without a cluster. It takes the file that
//! `kubectl apply` takes and runs the stages that the trainer's pods run; its exit codes are the trainer's.

mod generate;
mod job;
mod mounts;
mod structural;
mod validate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use graft_crds::TransferJob;
use graft_crds::contract::{ExitReason, TrainerFailure};

use crate::mounts::Mount;

/// Transfer learning for Kubernetes, on this machine
#[derive(Parser)]
#[command(name = "graft", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a TransferJob, its data and its weights, without training
    Validate {
        /// The YAML file
        job: PathBuf,
        /// Where a folder of the pods lies here, as /data=/home/me/data
        #[arg(long = "mount", value_name = "INSIDE=OUTSIDE")]
        mounts: Vec<Mount>,
    },
    /// Write generated data and fresh weights, for where there are no real ones
    Generate {
        /// The folder to write to
        folder: PathBuf,
        /// Seed of everything
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Number of phantom patients, and of textures per class
        #[arg(long, default_value_t = 60)]
        patients: usize,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Validate { job, mounts } => read(&job, &mounts).and_then(|job| validate::run(&job.spec)),
        Command::Generate { folder, seed, patients } => {
            generate::write(&folder, seed, patients).map_err(|e| job::spec_failure("NotWritable", format!("{e:#}")))
        }
    };
    match result {
        Ok(()) => ExitCode::from(ExitReason::Ok.code()),
        Err(failure) => {
            eprintln!("error: {}: {}", failure.reason, failure.message);
            ExitCode::from(failure.exit.code())
        }
    }
}

fn read(path: &Path, mounts: &[Mount]) -> Result<TransferJob, TrainerFailure> {
    let mut job = job::read(path)?;
    mounts::apply(&mut job.spec, mounts);
    Ok(job)
}
