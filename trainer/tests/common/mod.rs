//! A small job on generated images and freshly initialised weights, and the agent as a pod would start it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use graft_crds::Architecture;
use graft_crds::architectures::Padding;
use graft_crds::contract::{TerminationSummary, TrainerConfig};
use graft_crds::names::GANG_TOKEN;
use graft_torch::tch::Device;
use graft_trainer::event::Event;
use graft_trainer::{models, weights};
use serde_json::{Value, json};

pub const TRAINER: &str = env!("CARGO_BIN_EXE_graft-trainer");

/// A folder with `data/` (phantom slices), `weights.safetensors`, and room for outputs.
pub struct Site {
    pub folder: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        graft_data::phantom::write_phantom(&folder.path().join("data"), 1, 14).unwrap();
        let model = models::build(Architecture::MobileNetV1x025, 2, Padding::Same, Device::Cpu, 3).unwrap();
        let tensors = model.tensors().iter().map(|t| (t.name.as_str(), &t.tensor));
        weights::save_safetensors(&folder.path().join("weights.safetensors"), tensors, &BTreeMap::new()).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn uri(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    /// The configuration of a job that writes to `output`.
    pub fn job(&self, output: &str) -> Value {
        json!({
            "contractVersion": 1,
            "run": {"namespace": "tests", "name": "phantom", "id": format!("run-{output}"), "attempt": 0},
            "gang": {"replicas": 1, "processes": 2, "device": "cpu", "threads": 1, "rendezvousHost": "127.0.0.1", "rendezvousPort": 0, "httpPort": 0},
            "task": {"classes": ["normal", "lesion"], "positiveClass": "lesion"},
            "backbone": {"architecture": "mobilenet_v1_025", "weights": {"uri": self.uri("weights.safetensors")}, "preprocessing": {"size": 64, "resize": 64}},
            "data": {"train": {"uri": self.uri("data"), "manifest": "manifest.csv"}, "columns": {"patient": "patient", "split": "split"}},
            "fineTune": {"unfreeze": ["22", "24", "26"], "epochs": 3, "globalBatchSize": 8, "optimizer": {"learningRate": "1e-3"}, "seed": 5},
            "head": {"epochs": 20},
            "evaluation": {"metrics": ["auroc", "accuracy"]},
            "output": {"uri": self.uri(output)},
        })
    }

    /// Start the agent of the job as a process.
    pub fn start(&self, job: &Value) -> Agent {
        self.start_pod(job, 0, "")
    }

    /// Start the agent of one pod of the job, with the gang's token as the operator's pods have it.
    pub fn start_pod(&self, job: &Value, index: u32, token: &str) -> Agent {
        // As the operator does it: defaults filled in, then written for the pod.
        let config: TrainerConfig = serde_json::from_value(job.clone()).unwrap();
        let name = format!("{}-{}-{index}", config.run.id, config.run.attempt);
        let (file, termination) = (self.path(&format!("{name}.json")), self.path(&format!("{name}.termination")));
        std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
        let mut command = Command::new(TRAINER);
        command.arg("agent").arg("--config").arg(&file).arg("--termination-log").arg(&termination);
        command.env("JOB_COMPLETION_INDEX", index.to_string()).env(GANG_TOKEN, token);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Agent { child, lines, termination }
    }
}

pub struct Agent {
    pub child: Child,
    lines: BufReader<std::process::ChildStdout>,
    termination: PathBuf,
}

/// How an agent ended.
pub struct Ended {
    pub code: Option<i32>,
    pub summary: TerminationSummary,
}

impl Agent {
    /// Hear every event, calling `seen` with the agent's process id.
    pub fn finish(mut self, mut seen: impl FnMut(u32, &Event)) -> Ended {
        let pid = self.child.id();
        for line in (&mut self.lines).lines() {
            if let Ok(event) = serde_json::from_str::<Event>(&line.unwrap()) {
                seen(pid, &event);
            }
        }
        let code = self.child.wait().unwrap().code();
        let text = std::fs::read_to_string(&self.termination).unwrap();
        Ended { code, summary: TerminationSummary::from_message(&text).unwrap() }
    }
}

pub fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}
