//! The images of trainer and operator: compiles both and lets the program `image` of graft-tests pack them with their libraries.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

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

/// Compile trainer and operator once more, in an empty folder, and see that the images are the same to the byte.
///
/// # Errors
/// They are not, or cannot be built.
pub fn build_again() -> Result<()> {
    let cargo = Cargo::find()?;
    let folder = machine::target().join("again");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let mut build = cargo.command("build");
    build.args(["--release", "--workspace", "--quiet", "--bin", "graft-operator", "--bin", "graft-trainer"]).env("CARGO_TARGET_DIR", &folder);
    run::step("compile both in an empty folder (about 10 minutes)", || run::through(&mut build))?;
    for (program, libraries) in [("graft-operator", None), ("graft-trainer", Some(&cargo.libtorch.folder))] {
        let name = format!("{program}.oci.tar");
        let (first, again) = (machine::target().join("image").join(&name), folder.join(&name));
        let mut pack = cargo.built("image")?;
        match libraries {
            None => pack.arg("--operator").arg(folder.join("release").join(program)),
            Some(libraries) => pack.arg(folder.join("release").join(program)).arg(libraries),
        };
        run::step(&format!("write {name}"), || run::through(pack.arg(&again).stdout(std::io::stderr())))?;
        let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
        ensure!(read(&first)? == read(&again)?, "{} and {} differ", first.display(), again.display());
        println!("{name}: the same after two compilations");
    }
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())
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
    let program = cross::operator(&cargo)?;
    println!("{}", operator(&cargo, "graft-operator-arm64.oci.tar", || Ok(program.clone()))?.display());
    match cross::version(&program) {
        Some(version) => println!("{version}, under {}", cross::EMULATOR),
        None => println!("not started: {} (Debian's qemu-user-static) is not installed", cross::EMULATOR),
    }
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
