//! The images of trainer and operator: compiles both and lets the program `image` of graft-tests pack them with their libraries.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::Cargo;
use crate::{gpu, libtorch, machine, run};

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
    cargo.binary("graft-operator")?;
    let operator = folder.join("graft-operator.oci.tar");
    let mut pack = cargo.built("image")?;
    pack.arg("--operator").arg(cargo.path("graft-operator")?).arg(&operator);
    run::step("write the operator image", || run::through(pack.stdout(std::io::stderr())))?;
    println!("{}\n{}", target.display(), operator.display());
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
