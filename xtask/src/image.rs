//! The trainer image: compiles the trainer and lets the program `image` of graft-tests pack it with its libraries.

use std::path::PathBuf;

use anyhow::Result;

use crate::build::Cargo;
use crate::libtorch;
use crate::machine;
use crate::run;

/// What the image can compute on besides CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Nothing.
    None,
    /// NVIDIA GPUs.
    Cuda,
}

/// Build the image and give the path of its tar file.
///
/// # Errors
/// It does not compile, or a library is not found.
pub fn build(accelerator: Accelerator) -> Result<PathBuf> {
    let cargo = Cargo::find()?;
    cargo.binaries()?;
    let (name, wheels) = match accelerator {
        Accelerator::None => ("graft-trainer.oci.tar", None),
        Accelerator::Cuda => ("graft-trainer-cuda.oci.tar", Some(libtorch::cuda_wheels()?)),
    };
    let mut trainer = cargo.path("graft-trainer")?;
    if let Some(wheels) = &wheels {
        // A folder of its own, or the next CPU build would find a trainer with other features in its place.
        let target = machine::target().join("cuda");
        let includes = ["nvidia/cu13/include", "nvidia/nccl/include"].map(|f| wheels.join(f).display().to_string()).join(":");
        let mut build = cargo.command("build");
        build.args(["--release", "--quiet", "--package", "graft-trainer", "--features", "cuda"]);
        build.env("CARGO_TARGET_DIR", &target).env("GRAFT_CUDA_INCLUDE", includes);
        run::step("compile the trainer with NCCL", || run::through(&mut build))?;
        trainer = target.join("release/graft-trainer");
    }
    let target = machine::target().join("image").join(name);
    let mut pack = cargo.built("image")?;
    pack.arg(&trainer).arg(&cargo.libtorch.folder).arg(&target).args(wheels);
    run::step("write the trainer image", || run::through(&mut pack))?;
    Ok(target)
}
