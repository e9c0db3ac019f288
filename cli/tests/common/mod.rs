//! A small place to train in: phantom slices, fresh weights of the smallest backbone, and jobs that change a field or two.
#![allow(dead_code, clippy::unwrap_used)] // Each test program uses its own part of this.

#[path = "../../../trainer/tests/hashed/mod.rs"]
mod hashed;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use graft_crds::Architecture;
use graft_data::phantom;
use graft_torch::tch::{Device, Tensor};
use graft_trainer::{models, weights};
use serde_json::{Value, json};

/// Data in `phantom/`, weights in `weights.safetensors`, outputs beside them.
pub struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    /// 60 slices of 20 patients.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        phantom::write_phantom(&folder.path().join("phantom"), 1, 20).unwrap();
        let architecture = Architecture::MobileNetV1x025;
        let model = models::build(architecture, 3, architecture.padding(), Device::Cpu, 5).unwrap();
        let tensors = model.tensors().iter().map(|t| (t.name.as_str(), &t.tensor));
        weights::save_safetensors(&folder.path().join("weights.safetensors"), tensors, &BTreeMap::new()).unwrap();
        Self { folder }
    }

    /// The same with weights that carry a signal: through fresh ones hardly any gradient comes.
    pub fn with_a_signal() -> Self {
        let site = Self::new();
        site.hashed_weights("weights.safetensors", 2);
        site
    }

    /// Weights from an integer hash, for so many classes, written into this file.
    pub fn hashed_weights(&self, file: &str, classes: i64) -> BTreeMap<String, Tensor> {
        self.hashed_weights_of(Architecture::MobileNetV1x025, file, classes)
    }

    /// The same of another architecture.
    pub fn hashed_weights_of(&self, architecture: Architecture, file: &str, classes: i64) -> BTreeMap<String, Tensor> {
        let model = models::build(architecture, classes, architecture.padding(), Device::Cpu, 0).unwrap();
        let tensors: BTreeMap<String, Tensor> = model.tensors().iter().map(|t| (t.name.clone(), hashed::values(&t.name, &t.tensor.size()))).collect();
        weights::save_safetensors(&self.path(file), tensors.iter().map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).unwrap();
        tensors
    }

    pub fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().join(inner)
    }

    pub fn uri(&self, inner: &str) -> String {
        format!("file://{}", self.path(inner).display())
    }

    /// A job of this name whose model goes to the folder of the same name: two ranks, two epochs of the last blocks, then a head.
    pub fn job(&self, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let mut job = json!({
            "apiVersion": "graft.dev/v1alpha1", "kind": "TransferJob", "metadata": {"name": name},
            "spec": {
                "task": {"classes": ["normal", "lesion"], "positiveClass": "lesion"},
                "backbone": {"architecture": "mobilenet_v1_025", "weights": {"uri": self.uri("weights.safetensors")},
                             "preprocessing": {"size": 32, "fit": "stretch"}},
                "data": {"train": {"uri": self.uri("phantom"), "manifest": "manifest.csv"}, "columns": {"patient": "patient", "split": "split"}},
                "fineTune": {"unfreeze": ["25", "26"], "epochs": 2, "globalBatchSize": 12, "optimizer": {"learningRate": "1e-3"}},
                "head": {"epochs": 20},
                "workers": {"processes": 2},
                "output": {"uri": self.uri(name)}
            }
        });
        change(&mut job);
        let file = self.path(&format!("{name}.json"));
        fs::write(&file, serde_json::to_vec_pretty(&job).unwrap()).unwrap();
        file
    }

    /// `graft run` of such a job, which must succeed.
    pub fn run(&self, name: &str, change: impl FnOnce(&mut Value)) -> Run {
        let run = Run::of(graft(&["run", &self.job(name, change).to_string_lossy()]));
        assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
        run
    }

    pub fn read(&self, inner: &str) -> Vec<u8> {
        fs::read(self.path(inner)).unwrap_or_else(|e| panic!("{inner}: {e}"))
    }

    pub fn text(&self, inner: &str) -> String {
        String::from_utf8(self.read(inner)).unwrap()
    }

    /// The tensors of a written model.
    pub fn model(&self, name: &str) -> BTreeMap<String, Tensor> {
        weights::load(&self.path(name).join("model.safetensors"), None).unwrap().tensors
    }

    /// Rewrite the manifest line by line.
    pub fn manifest(&self, change: impl Fn(usize, &str) -> Option<String>) {
        let path = self.path("phantom/manifest.csv");
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<String> = text.lines().enumerate().filter_map(|(i, line)| change(i + 1, line)).collect();
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }
}

/// The program under test, not yet started; its output is no terminal.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graft"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

pub fn graft(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// The words of the one command of docs/data.md that begins so, without `graft`.
pub fn documented(beginning: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/data.md")).unwrap();
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with(beginning)).collect();
    assert_eq!(commands.len(), 1, "{beginning}: {commands:?}");
    commands[0].split_whitespace().skip(1).map(str::to_owned).collect()
}

/// What `graft data inspect` prints but for the sizes of pictures, which are told of files on this machine only.
pub fn without_sizes(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("note: width × height of ")).map(|line| format!("{line}\n")).collect()
}

/// What a run said.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The JSON lines of standard output.
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The summary, which comes last.
    pub fn summary(&self) -> Value {
        self.events().pop().unwrap_or_default()
    }

    pub fn logs(&self, part: &str) -> bool {
        self.events().iter().any(|e| e["event"] == "log" && e["message"].as_str().is_some_and(|m| m.contains(part)))
    }
}

/// Process ids of the children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let of = |entry: fs::DirEntry| -> Option<u32> {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, after) = stat.rsplit_once(") ")?;
        (after.split(' ').nth(1)?.parse() == Ok(parent)).then_some(pid)
    };
    fs::read_dir(Path::new("/proc")).unwrap().flatten().filter_map(of).collect()
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}
