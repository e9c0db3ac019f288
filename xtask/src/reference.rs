//! The Python environments: one that Graft is compared with and that makes goldens, one that draws the dashboards, one that holds a C
//! compiler for other machines. Every package in `reference.txt`, `pictures.txt` and `cross.txt` is pinned and checked by digest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::image::{self, Accelerator};
use crate::{machine, run, setup};

/// Folders of `tests/reference` that the script writes.
const MADE: [&str; 2] = ["goldens", "fixtures"];

/// The environment's Python; installed at first use, and anew when the list of packages has changed.
///
/// # Errors
/// There is no python3 of a version that the wheels are for, or pip fails.
pub fn environment() -> Result<PathBuf> {
    python("reference", "install PyTorch, torchvision and timm (2.5 GB download, 5 GB on disk)")
}

/// Python with what `xtask/NAME.txt` lists, in an environment of that name.
///
/// # Errors
/// As [`environment`].
pub fn python(name: &str, what: &str) -> Result<PathBuf> {
    let folder = machine::cache()?.join(format!("{name}-venv"));
    let list = machine::workspace().join(format!("xtask/{name}.txt"));
    let wanted = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    if fs::read_to_string(folder.join(format!("{name}.txt"))).ok() != Some(wanted.clone()) {
        run::step(what, || install(&folder, &list, &wanted))?;
    }
    Ok(folder.join("bin/python"))
}

/// Run jobs in a cluster under a Prometheus, and draw what the dashboards' panels asked of it into `docs/dashboards`.
///
/// # Errors
/// The run fails, or the environment cannot be made.
pub fn dashboards() -> Result<()> {
    let cargo = setup::everything()?;
    image::build(Accelerator::None)?;
    let recorded = machine::target().join("dashboards");
    fs::create_dir_all(&recorded).with_context(|| recorded.display().to_string())?;
    let mut test = cargo.command("test");
    test.args(["--release", "--quiet", "--workspace", "--test", "transfer"]).env("GRAFT_RECORD", &recorded);
    run::step("run TransferJobs under a Prometheus (about 3 minutes)", || run::through(&mut test))?;
    let root = machine::workspace();
    let mut draw = Command::new(python("pictures", "install matplotlib (40 MB download)")?);
    draw.arg(root.join("tests/dashboards/draw.py")).arg(root.join("charts/graft/dashboards")).arg(&recorded).arg(root.join("docs/dashboards"));
    run::step("draw the panels", || run::through(&mut draw))
}

/// Make goldens and fixtures anew with PyTorch, and say where they lie.
///
/// # Errors
/// The environment cannot be made, or the script fails.
pub fn goldens() -> Result<()> {
    let python = environment()?;
    let folder = machine::workspace().join("tests/reference");
    let mut script = Command::new(&python);
    script.arg(folder.join("reference.py")).args(MADE);
    if let Some(data) = machine::real_data() {
        script.arg("real").arg(data.join("weights"));
    }
    run::step("run tests/reference/reference.py", || run::through(&mut script))?;
    if let Some(data) = machine::real_data() {
        for name in ["medical.py", "series.py"] {
            let mut script = Command::new(&python);
            script.arg(folder.join(name)).arg(&data);
            run::step(&format!("run tests/reference/{name}"), || run::through(&mut script))?;
        }
    }
    eprintln!("── {}: `git diff --stat` shows what changed", folder.display());
    Ok(())
}

/// An environment is whole when its list of packages lies in it: that file comes last.
fn install(folder: &Path, list: &Path, wanted: &str) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let made = run::output(Command::new("python3").args(["-m", "venv"]).arg(folder));
    made.context("it needs python3 with venv (Debian: python3-venv)")?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--no-compile"]);
    pip.arg("--progress-bar").arg(if run::watched() { "on" } else { "off" });
    pip.stdout(std::io::stderr()).arg("-r").arg(list);
    if let Err(error) = run::through(&mut pip) {
        bail!("{error:#}; the wheels are for CPython 3.11 to 3.13 on x86-64 Linux, and python3 here is {}", python_version());
    }
    fs::write(folder.join(list.file_name().unwrap_or_default()), wanted).with_context(|| folder.display().to_string())
}

fn python_version() -> String {
    run::output(Command::new("python3").arg("--version")).map_or_else(|e| e.to_string(), |text| text.trim().to_owned())
}
