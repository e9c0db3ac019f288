//! `graft`: trains, checks and inspects TransferJobs on this machine, without a cluster. It takes the file that
//! `kubectl apply` takes and runs the stages that the trainer's pods run; its exit codes are the trainer's.

mod data;
mod job;
mod models;
mod mounts;
mod run;
mod structural;
mod validate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use graft_crds::contract::{ExitReason, TrainerFailure};
use graft_crds::{Architecture, TransferJob};

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
    /// Train on this machine, with a progress bar on a terminal and JSON lines otherwise
    Run {
        /// The YAML file that `kubectl apply` takes
        job: PathBuf,
        /// Where a folder of the pods lies here, as /data=/home/me/data; may be given several times
        #[arg(long = "mount", value_name = "INSIDE=OUTSIDE")]
        mounts: Vec<Mount>,
    },
    /// Check a TransferJob, its data and its weights, without training
    Validate {
        /// The YAML file
        job: PathBuf,
        /// Where a folder of the pods lies here, as /data=/home/me/data
        #[arg(long = "mount", value_name = "INSIDE=OUTSIDE")]
        mounts: Vec<Mount>,
    },
    /// Load a written model afresh and compare it with its stored predictions
    Verify {
        /// The folder with model.json
        model: PathBuf,
        /// Where a folder of the pods lies here, as /data=/home/me/data
        #[arg(long = "mount", value_name = "INSIDE=OUTSIDE")]
        mounts: Vec<Mount>,
    },
    /// List the architectures with their parameters, cost and input size
    Models,
    /// Write generated data and fresh weights, for where there are no real ones
    Generate {
        /// The folder to write to
        folder: PathBuf,
        /// Seed of everything
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Number of phantom patients, and of textures per class
        #[arg(long, default_value_t = 120)]
        patients: usize,
    },
    /// Look at data: is the split sound, how is a folder laid out, and what would its manifest be
    #[command(subcommand)]
    Data(data::Data),
    /// One rank, started by `run`
    #[command(hide = true)]
    Rank,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Rank => return graft_trainer::rank::main(),
        Command::Run { job, mounts } => read(&job, &mounts).and_then(|job| {
            let summary = run::run(&job);
            summary.failure.map_or(Ok(summary.exit), Err)
        }),
        Command::Models => models::table().map(|table| print!("{table}")).map(|()| ExitReason::Ok).map_err(|e| TrainerFailure {
            exit: ExitReason::Bug,
            reason: "NoModel".into(),
            message: e.to_string(),
            rank: None,
        }),
        Command::Verify { model, mounts } => verify(&model, &mounts).map(|()| ExitReason::Ok),
        Command::Validate { job, mounts } => read(&job, &mounts).and_then(|job| validate::run(&job.spec)).map(|()| ExitReason::Ok),
        Command::Data(data) => data.run().map(|()| ExitReason::Ok),
        Command::Generate { folder, seed, patients } => graft_trainer::generate::write(&folder, seed, patients, Architecture::ResNet18)
            .map(|()| ExitReason::Ok)
            .map_err(|e| job::spec_failure("NotWritable", format!("{e:#}"))),
    };
    match result {
        Ok(exit) => ExitCode::from(exit.code()),
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

fn verify(model: &Path, mounts: &[Mount]) -> Result<(), TrainerFailure> {
    let here = |uri: &str| graft_data::local_path(&mounts::rewrite(uri, mounts)).to_path_buf();
    let verified = graft_trainer::output::verify(model, here).map_err(|failure| failure.of_rank(None))?;
    println!("{}: {} stored predictions, largest difference {:.1e}", model.display(), verified.images, verified.largest_difference);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// Every `graft …` that a page quotes exists, and so does every file of the repository that one names.
    #[test]
    fn the_pages_are_true() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
        pages.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()));
        let names: Vec<String> = Arguments::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let (mut commands, mut files) = (0, 0);
        for page in pages.iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
            let text = std::fs::read_to_string(page).unwrap();
            for line in text.lines() {
                for tail in line
                    .match_indices("graft ")
                    .filter(|(at, _)| *at == 0 || line[..*at].ends_with(['`', '$', ' ']) && line[..*at].trim_end().ends_with(['`', '$']))
                    .map(|(at, m)| &line[at + m.len()..])
                {
                    let word: String = tail.chars().take_while(char::is_ascii_lowercase).collect();
                    assert!(names.contains(&word), "{}: `graft {word}` does not exist: {line}", page.display());
                    commands += 1;
                }
            }
            for quoted in text.split('`').skip(1).step_by(2) {
                let top = quoted.split('/').next().unwrap_or_default();
                let is_path = quoted.contains('/')
                    && !quoted.contains([' ', '*', ':', '=', '…'])
                    && ["crds", "operator", "trainer", "cli", "tests", "xtask", "examples", "docs", ".ci"].contains(&top);
                if is_path {
                    assert!(root.join(quoted).exists(), "{}: {quoted} does not exist", page.display());
                    files += 1;
                }
            }
        }
        assert!(commands >= 5 && files >= 10, "only {commands} commands and {files} files found in the pages: is the search broken?");
    }
}
