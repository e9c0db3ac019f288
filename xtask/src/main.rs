//! `cargo xtask`: the one way to set up, build, test, measure and show Graft. It may assume cargo and a Unix shell's usual
//! programs, and says which of the others are missing. It installs nothing outside `target/` and the user's cache folder,
//! but for Debian packages when it runs as root there.

mod build;
mod cross;
mod gpu;
mod image;
mod libtorch;
mod lint;
mod machine;
mod reference;
mod run;
mod setup;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::image::Accelerator;

/// Set up, build, test, measure and show Graft.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install or find everything that the other commands need
    Setup,
    /// Run one TransferJob in a real cluster on this machine, from `kubectl apply` to a checked model
    Demo {
        /// Leave the cluster running at the end
        #[arg(long)]
        keep: bool,
    },
    /// Lint, then run every test; ends with `N passed, N failed`
    Test,
    /// rustfmt, clippy without warnings, dependency bans, licences and sources
    Lint,
    /// Write the generated files anew
    Codegen,
    /// Write the images of trainer and operator, each as an OCI layout in one tar file
    Image {
        /// Add NCCL and the CUDA libraries that libtorch needs on GPUs
        #[arg(long)]
        cuda: bool,
        /// Also the operator that sends traces
        #[arg(long)]
        otel: bool,
        /// Also the operator for 64-bit Arm
        #[arg(long)]
        arm64: bool,
        /// Compile trainer and operator twice, and see that the images are the same to the byte
        #[arg(long, conflicts_with = "cuda")]
        again: bool,
    },
    /// Write programs with NCCL, and the script that checks and measures them, into a folder for a machine with a GPU
    Gpu {
        /// The folder
        #[arg(default_value = "target/gpu")]
        folder: PathBuf,
    },
    /// A Kubernetes cluster of one node on this machine
    Cluster {
        #[command(subcommand)]
        action: ClusterAction,
    },
    /// Run one benchmark; ends with one line of JSON
    Bench {
        /// Which one; `list` shows them
        name: String,
        /// Passed on to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make the goldens anew with PyTorch, torchvision and timm in an environment of their own
    Reference {
        /// Only make the environment, which benchmarks with a peer in PyTorch need
        #[arg(long)]
        environment_only: bool,
    },
    /// Draw the pictures of the dashboards anew, from a run under a real Prometheus
    Dashboards,
    /// Print shell lines that let cargo be called without xtask
    Env,
}

#[derive(Subcommand)]
enum ClusterAction {
    /// Start one and print how to reach it
    Up,
    /// Stop those that are kept, or the one with this id
    Down {
        /// Id that `up` printed
        id: Option<String>,
    },
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::everything().map(drop),
        Task::Demo { keep } => demo(keep),
        Task::Test => suite::test(),
        Task::Lint => suite::lint_only(),
        Task::Codegen => build::Cargo::find()?.codegen(),
        Task::Image { cuda, otel, arm64, again } => {
            image::build(if cuda { Accelerator::Cuda } else { Accelerator::None })?;
            if otel {
                image::build_otel()?;
            }
            if arm64 {
                image::build_arm64()?;
            }
            if again { image::build_again() } else { Ok(()) }
        }
        Task::Gpu { folder } => gpu::kit(&folder),
        Task::Cluster { action } => cluster(&action),
        Task::Bench { name, arguments } => bench(&name, &arguments),
        Task::Reference { environment_only: true } => reference::environment().map(drop),
        Task::Reference { environment_only: false } => reference::goldens(),
        Task::Dashboards => reference::dashboards(),
        Task::Env => {
            print!("{}", libtorch::find_or_install()?.exports());
            Ok(())
        }
    }
}

fn demo(keep: bool) -> Result<()> {
    let cargo = setup::everything()?;
    cargo.binaries()?;
    let mut demo = cargo.built("demo")?;
    if machine::can_hold_a_node() {
        demo.arg("--image").arg(image::build(Accelerator::None)?);
    }
    if keep {
        demo.arg("--keep");
    }
    run::through(&mut demo)
}

fn cluster(action: &ClusterAction) -> Result<()> {
    let cargo = setup::everything()?;
    cargo.binary("testcluster")?;
    let mut program = cargo.built("testcluster")?;
    match action {
        ClusterAction::Up => program.arg("up"),
        ClusterAction::Down { id } => program.arg("down").args(id),
    };
    run::through(&mut program)
}

fn bench(name: &str, arguments: &[String]) -> Result<()> {
    let cargo = setup::everything()?;
    cargo.binaries()?;
    run::through(cargo.built("bench")?.arg(name).args(arguments))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// Every `cargo xtask …` and `.ci/run` that a page quotes can be typed.
    #[test]
    fn quoted_commands_exist() {
        let root = machine::workspace();
        let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
        pages.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()));
        let mut quoted = 0;
        for page in pages.iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
            let text = std::fs::read_to_string(page).unwrap();
            for tail in text.split("cargo xtask ").skip(1) {
                let end = tail.find(['`', '\n', '#', '|', ';', ',', ')', '"']).unwrap_or(tail.len());
                let words: Vec<&str> =
                    tail[..end].split_whitespace().take_while(|w| w.starts_with('-') || w.chars().all(|c| c.is_ascii_alphanumeric())).collect();
                if words.is_empty() {
                    continue;
                }
                let command = std::iter::once("cargo xtask").chain(words.iter().map(|w| if *w == "NAME" { "list" } else { w }));
                assert!(Arguments::try_parse_from(command).is_ok(), "{}: `cargo xtask {}` does not exist", page.display(), words.join(" "));
                quoted += 1;
            }
        }
        assert!(quoted >= 10, "only {quoted} commands found in the pages: is the search broken?");
    }
}
