//! `graft run` of an example with a few fields changed, and what it wrote.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::scenario;

/// Run `examples/NAME.yaml` after `change`, with `data` as `/data`; gives the output folder.
pub(super) fn train(name: &str, data: &Path, folder: &Path, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
    let text = std::fs::read_to_string(scenario::workspace().join("examples").join(format!("{name}.yaml")))?;
    let mut job: Value = serde_saphyr::from_str(&text).with_context(|| format!("examples/{name}.yaml"))?;
    change(&mut job);
    job["spec"]["output"]["uri"] = "file:///models/out".into();
    std::fs::create_dir_all(folder)?;
    let file = folder.join("job.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&job)?)?;
    let mut graft = Command::new(scenario::binary("graft")?);
    graft.arg("run").arg(&file);
    graft.args(["--mount", &format!("/data={}", data.display()), "--mount", &format!("/models={}", folder.display())]);
    let output = graft.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().context("starting graft")?;
    if !output.status.success() {
        bail!("graft run: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(folder.join("out"))
}

/// A JSON file of an output.
pub(super) fn json(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path).with_context(|| path.display().to_string())?)?)
}

/// The reference environment's Python and a script of `tests/reference`, or what `GRAFT_BENCH_PYTHON` and the folder `GRAFT_BENCH_SCRIPTS` are.
pub(super) fn script(name: &str) -> Result<[PathBuf; 2]> {
    let given = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let python = given("GRAFT_BENCH_PYTHON").unwrap_or_else(|| crate::programs::cache().join("reference-venv/bin/python"));
    if !python.is_file() {
        bail!("{} is missing; `cargo xtask reference --environment-only` makes it", python.display());
    }
    let folder = given("GRAFT_BENCH_SCRIPTS").unwrap_or_else(|| scenario::workspace().join("tests/reference"));
    Ok([python, folder.join(name)])
}

/// Run a script of `tests/reference` with the reference environment's Python; gives the JSON of its last line.
pub(super) fn reference(script: &str, arguments: &[&str]) -> Result<Value> {
    let text = told(script, arguments)?;
    Ok(serde_json::from_str(text.lines().last().unwrap_or_default())?)
}

/// The same; gives all that it prints.
pub(super) fn told(name: &str, arguments: &[&str]) -> Result<String> {
    let [python, path] = script(name)?;
    let output = Command::new(python).arg(path).args(arguments).stdin(Stdio::null()).output().context("starting the reference")?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
