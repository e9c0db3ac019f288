//! Programs with NCCL in one folder, for a machine that has a GPU and need not have Rust.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::Cargo;
use crate::{libtorch, machine, run};

/// What the programs need beside themselves, from the workspace.
const FILES: [&str; 3] = ["tests/gpu/check.sh", "tests/reference/engine.py", "tests/reference/reference.py"];

/// Compile `programs` with the feature `cuda`; the next build without it takes their place in `target/release`.
///
/// # Errors
/// The CUDA wheels cannot be installed, or it does not compile.
pub fn compile(cargo: &Cargo, programs: &[&str]) -> Result<()> {
    let mut build = with_cuda(cargo, "build", "graft-trainer/cuda")?;
    build.arg("--quiet").args(programs.iter().flat_map(|name| ["--bin", name]));
    run::step("compile with NCCL", || run::through(&mut build))
}

/// Write everything that `check.sh` runs into `folder`.
///
/// # Errors
/// It does not compile, or cannot be written.
pub fn kit(folder: &Path) -> Result<()> {
    let cargo = Cargo::find()?;
    let programs = ["graft", "graft-trainer", "bench"];
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let copy = |from: &Path, name: &str| std::fs::copy(from, folder.join(name)).map(drop).with_context(|| format!("copying {}", from.display()));
    compile(&cargo, &programs)?;
    for name in programs {
        copy(&cargo.path(name)?, name)?;
    }
    let mut tests = with_cuda(&cargo, "test", "graft-torch/cuda")?;
    tests.args(["--test", "gpu", "--no-run", "--message-format=json"]);
    let told = run::step("compile the tests with NCCL", || run::output(&mut tests))?;
    let mut executables = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["executable"].as_str().map(str::to_owned));
    copy(Path::new(&executables.next_back().context("cargo named no test program")?), "gpu-tests")?;
    for file in FILES {
        let from = machine::workspace().join(file);
        copy(&from, &from.file_name().unwrap_or_default().to_string_lossy())?;
    }
    println!("{}", folder.display());
    Ok(())
}

fn with_cuda(cargo: &Cargo, task: &str, feature: &str) -> Result<std::process::Command> {
    let wheels = libtorch::cuda_wheels()?;
    let includes = ["nvidia/cu13/include", "nvidia/nccl/include"].map(|f| wheels.join(f).display().to_string()).join(":");
    let mut command = cargo.command(task);
    command.args(["--release", "--workspace", "--features", feature]).env("GRAFT_CUDA_INCLUDE", includes);
    Ok(command)
}
