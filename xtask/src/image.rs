//! The images of trainer and operator: compiles both and lets the program `image` of graft-tests pack them with their libraries.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::Cargo;
use crate::{cross, gpu, libtorch, machine, run};

/// What the image can compute on besides CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Nothing.
    None,
    /// NVIDIA GPUs.
    Cuda,
}

/// Build both images and give the path of the trainer's tar file.
///
/// # Errors
/// It does not compile, or a library is not found.
pub fn build(accelerator: Accelerator) -> Result<PathBuf> {
    let cargo = Cargo::find()?;
    cargo.binary("image")?;
    let folder = machine::target().join("image");
    let (name, trainer, wheels) = match accelerator {
        Accelerator::None => {
            cargo.binary("graft-trainer")?;
            ("graft-trainer.oci.tar", cargo.path("graft-trainer")?, None)
        }
        Accelerator::Cuda => {
            let wheels = libtorch::cuda_wheels()?;
            ("graft-trainer-cuda.oci.tar", with_nccl(&cargo, &folder)?, Some(wheels))
        }
    };
    let target = folder.join(name);
    let mut pack = cargo.built("image")?;
    pack.arg(&trainer).arg(&cargo.libtorch.folder).arg(&target).args(wheels);
    run::step("write the trainer image", || run::through(pack.stdout(std::io::stderr())))?;
    let operator = operator(&cargo, "graft-operator.oci.tar", || cargo.binary("graft-operator").and_then(|()| cargo.path("graft-operator")))?;
    println!("{}\n{}", target.display(), operator.display());
    Ok(target)
}

/// Build the image of the operator with traces.
///
/// # Errors
/// It does not compile, or a library is not found.
pub fn build_otel() -> Result<()> {
    let cargo = Cargo::find()?;
    let program = "graft-operator-otel";
    let target = operator(&cargo, "graft-operator-otel.oci.tar", || cargo.binary(program).and_then(|()| cargo.path(program)))?;
    println!("{}", target.display());
    Ok(())
}

/// Build the image of the operator for 64-bit Arm.
///
/// # Errors
/// See [`cross::operator`].
pub fn build_arm64() -> Result<()> {
    let cargo = Cargo::find()?;
    println!("{}", operator(&cargo, "graft-operator-arm64.oci.tar", || cross::operator(&cargo))?.display());
    Ok(())
}

/// Pack what `compile` gives.
fn operator(cargo: &Cargo, name: &str, compile: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    cargo.binary("image")?;
    let program = compile()?;
    let target = machine::target().join("image").join(name);
    let mut pack = cargo.built("image")?;
    pack.arg("--operator").arg(program).arg(&target);
    run::step(&format!("write {name}"), || run::through(pack.stdout(std::io::stderr())))?;
    Ok(target)
}

/// Compile the trainer with NCCL and put it aside.
fn with_nccl(cargo: &Cargo, folder: &Path) -> Result<PathBuf> {
    gpu::compile(cargo, &["graft-trainer"])?;
    std::fs::create_dir_all(folder)?;
    let aside = folder.join("graft-trainer-cuda");
    std::fs::copy(cargo.path("graft-trainer")?, &aside).with_context(|| aside.display().to_string())?;
    Ok(aside)
}
