//! The training engine beside PyTorch's usual loop: steps on one and two ranks, steps of a mostly frozen network, features, peak
//! memory, and the time to the first step. Both sides have the same libtorch version, architecture, weights, batch, optimizer,
//! processors and threads, and take turns; images are decoded already on both. `bench gpu` is the same on an NVIDIA GPU, with the
//! trainer's feature `cuda`. `GRAFT_BENCH_ROUNDS` chooses another number of turns, `GRAFT_BENCH_ONLY` the pairs whose names have this in
//! them, `GRAFT_BENCH_PYTHON` another interpreter with torch and torchvision.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{conditions, local, memory_of, rounds};
use crate::report::{Aim, Row, print};
use crate::scenario;

const CLASSES: &str = "2";

/// A training that both sides do.
pub(super) struct Pair {
    pub(super) name: &'static str,
    pub(super) architecture: &'static str,
    pub(super) ranks: usize,
    side: i64,
    global_batch: i64,
    /// A prefix of what is trained beside the head; `*` is everything.
    pub(super) unfreeze: &'static str,
    precision: &'static str,
    /// What Graft's images per second should at least be, as a multiple of PyTorch's.
    aim: f64,
}

/// A step of one rank on 16 images, all of the network trained.
const STEP: Pair = Pair { name: "", architecture: "", ranks: 1, side: 128, global_batch: 16, unfreeze: "*", precision: "fp32", aim: 1.0 };

pub(super) const PAIRS: &[Pair] = &[
    Pair { name: "step of 1 rank, ResNet-18, batch 16, 128 px", architecture: "resnet18", ..STEP },
    Pair { name: "step of 1 rank, MobileNetV2, batch 16, 128 px", architecture: "mobilenet_v2", ..STEP },
    Pair { name: "step of 2 ranks, ResNet-18, batch 2 x 16, 128 px", architecture: "resnet18", ranks: 2, global_batch: 32, ..STEP },
    Pair { name: "step of 2 ranks, MobileNetV2, batch 2 x 16, 128 px", architecture: "mobilenet_v2", ranks: 2, global_batch: 32, ..STEP },
    Pair {
        name: "step of 2 ranks, MobileNetV1-0.25, batch 2 x 2, 32 px",
        architecture: "mobilenet_v1_025",
        ranks: 2,
        side: 32,
        global_batch: 4,
        aim: 1.3,
        ..STEP
    },
    Pair { name: "step of 1 rank, ResNet-18 frozen but layer4, batch 16", architecture: "resnet18", unfreeze: "layer4", aim: 1.3, ..STEP },
];

const FEATURES: Pair =
    Pair { name: "features, MobileNetV2, 224 px", architecture: "mobilenet_v2", side: 224, unfreeze: "classifier", aim: 1.1, ..STEP };

const ON_GPU: &[Pair] = &[
    Pair { name: "step, ResNet-50, batch 256, 224 px, bf16", architecture: "resnet50", side: 224, global_batch: 256, precision: "bf16", ..STEP },
    Pair { name: "step, ResNet-18, batch 16, 128 px, bf16", architecture: "resnet18", precision: "bf16", ..STEP },
    Pair { name: "step, MobileNetV2, batch 32, 224 px, tf32", architecture: "mobilenet_v2", side: 224, global_batch: 32, precision: "tf32", ..STEP },
    Pair { name: "step, ViT-B/16, batch 128, 224 px, bf16", architecture: "vit_b_16", side: 224, global_batch: 128, precision: "bf16", ..STEP },
];

/// Where both sides compute.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    Cpu,
    Gpu,
}

impl Device {
    /// Patients with three slices each; a GPU needs more for an epoch that can be measured.
    fn patients(self) -> u32 {
        match self {
            Self::Cpu => 80,
            Self::Gpu => 1200,
        }
    }

    /// Epochs of a run; the first one warms up and does not count.
    fn epochs(self) -> i32 {
        match self {
            Self::Cpu => 3,
            Self::Gpu => 8,
        }
    }
}

/// What one side showed in one turn.
#[derive(Clone, Copy, Debug)]
struct Seen {
    images_per_second: f64,
    peak_bytes: f64,
    /// From the start of the program.
    first_step_seconds: f64,
}

pub(super) fn on_cpu() -> Result<()> {
    run("engine", Device::Cpu, PAIRS)
}

pub(super) fn on_gpu() -> Result<()> {
    run("gpu", Device::Gpu, ON_GPU)
}

fn run(bench: &str, device: Device, pairs: &'static [Pair]) -> Result<()> {
    let rounds = rounds();
    let only = std::env::var("GRAFT_BENCH_ONLY").unwrap_or_default();
    let pairs: Vec<&Pair> = pairs.iter().filter(|pair| pair.name.contains(&only)).collect();
    let lab = Lab::new(device, &pairs, device.patients())?;
    let mut rows = Vec::new();
    for pair in pairs {
        let (ours, theirs) = lab.turns(pair.name, rounds, || lab.graft(pair), || lab.torch("train", pair, lab.trained))?;
        rows.push(row(pair.name, (&ours, &theirs), "images/s", |s| s.images_per_second, Aim::AtLeast(pair.aim)));
        if device == Device::Gpu || pair.ranks == 1 && pair.unfreeze == "*" {
            let name = format!("start to first step, {}", pair.architecture);
            rows.push(row(&name, (&ours, &theirs), "s", |s| s.first_step_seconds, Aim::AtMost(0.25)));
        }
        if device == Device::Gpu {
            continue;
        }
        rows.push(row(&format!("peak memory of it, {}", pair.architecture), (&ours, &theirs), "MiB", |s| s.peak_bytes / 1048576.0, Aim::AtMost(1.0)));
    }
    if FEATURES.name.contains(&only) {
        let (ours, theirs) = lab.turns(FEATURES.name, rounds, || lab.features(&FEATURES), || lab.torch("features", &FEATURES, lab.all))?;
        rows.push(row(FEATURES.name, (&ours, &theirs), "images/s", |s| s.images_per_second, Aim::AtLeast(FEATURES.aim)));
    }
    let mut conditions = conditions();
    conditions["rounds"] = rounds.into();
    conditions["processors"] = lab.processors.clone().into();
    if device == Device::Gpu {
        let told = Command::new("nvidia-smi").args(["--query-gpu=name,driver_version", "--format=csv,noheader"]).output()?;
        conditions["gpu"] = String::from_utf8_lossy(&told.stdout).trim().into();
    }
    print(bench, &conditions, &rows);
    Ok(())
}

fn row(name: &str, (ours, theirs): (&[Seen], &[Seen]), unit: &'static str, of: impl Fn(&Seen) -> f64, aim: Aim) -> Row {
    let values = |list: &[Seen]| list.iter().map(&of).collect::<Vec<_>>();
    Row::of_runs(name, &values(ours), unit, &values(theirs), aim)
}

/// Data and weights that both sides read, and the processors that both are pinned to.
pub(super) struct Lab {
    device: Device,
    pub(super) folder: tempfile::TempDir,
    /// Images that are trained on.
    trained: usize,
    /// All images.
    all: usize,
    /// As `taskset` takes them.
    pub(super) processors: String,
}

impl Lab {
    pub(super) fn new(device: Device, pairs: &[&Pair], patients: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let generated =
            Command::new(scenario::binary("graft")?).args(["generate", "--patients", &patients.to_string()]).arg(folder.path()).output()?;
        anyhow::ensure!(generated.status.success(), "graft generate: {}", String::from_utf8_lossy(&generated.stderr).trim());
        let manifest = std::fs::read_to_string(folder.path().join("phantom/manifest.csv"))?;
        let trained = manifest.lines().filter(|line| line.split(',').any(|field| field == "train")).count();
        let processors = processors(if device == Device::Cpu { 2 } else { usize::MAX })?;
        let lab = Self { device, all: manifest.lines().count() - 1, trained, processors, folder };
        anyhow::ensure!(lab.trained > 0, "no training images in {manifest}");
        let wanted: BTreeSet<&str> = pairs.iter().chain([&&FEATURES]).map(|pair| pair.architecture).collect();
        let all = wanted.into_iter().collect::<Vec<_>>().join(",");
        let status = lab.python("weights", &all)?.stdin(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "engine.py weights {all} failed");
        Ok(lab)
    }

    fn weights(&self, architecture: &str) -> PathBuf {
        self.folder.path().join(format!("{architecture}.pth"))
    }

    /// `taskset -c PROCESSORS PROGRAM`.
    pub(super) fn pinned(&self, program: &Path) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.processors]).arg(program);
        command
    }

    fn python(&self, task: &str, architecture: &str) -> Result<Command> {
        let [python, script] = local::script("engine.py")?;
        let mut command = self.pinned(&python);
        command.arg(script).args([task, architecture, CLASSES]).arg(self.folder.path());
        Ok(command)
    }

    /// Both sides in turn.
    fn turns(&self, name: &str, rounds: usize, ours: impl Fn() -> Result<Seen>, theirs: impl Fn() -> Result<Seen>) -> Result<(Vec<Seen>, Vec<Seen>)> {
        let (mut mine, mut peers) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            mine.push(ours().with_context(|| format!("{name}: graft"))?);
            peers.push(theirs().with_context(|| format!("{name}: PyTorch"))?);
            println!("{name}, round {round}: {:?} beside {:?}", mine[round], peers[round]);
        }
        Ok((mine, peers))
    }

    /// One run of PyTorch's side over this many images.
    fn torch(&self, task: &str, pair: &Pair, images: usize) -> Result<Seen> {
        let mut command = self.python(task, pair.architecture)?;
        let threads = (self.processors.split(',').count() / pair.ranks).max(1);
        for (option, value) in [
            ("--world", pair.ranks.to_string()),
            ("--threads", threads.to_string()),
            ("--batch", pair.global_batch.to_string()),
            ("--epochs", self.device.epochs().to_string()),
            ("--images", images.to_string()),
            ("--size", pair.side.to_string()),
            ("--unfreeze", pair.unfreeze.to_owned()),
            ("--precision", pair.precision.to_owned()),
            ("--device", if self.device == Device::Cpu { "cpu" } else { "cuda" }.to_owned()),
        ] {
            command.args([option, &value]);
        }
        let told = self.listen(command)?;
        let (_, last) = told.lines.last().context("it said nothing")?;
        let result: Value = serde_json::from_str(last)?;
        Ok(Seen {
            images_per_second: result["images_per_second"].as_f64().context("images_per_second")?,
            peak_bytes: result["peak_bytes"].as_f64().context("peak_bytes")?,
            first_step_seconds: told.when("first step").unwrap_or(f64::NAN),
        })
    }

    fn run(&self, pair: &Pair) -> Result<Told> {
        let file = self.folder.path().join("job.json");
        std::fs::write(&file, self.job(pair, self.device.epochs()).to_string())?;
        let mut command = self.pinned(&scenario::binary("graft")?);
        command.arg("run").arg(&file);
        self.listen(command)
    }

    /// The TransferJob of a pair, over so many epochs, whose output is empty.
    pub(super) fn job(&self, pair: &Pair, epochs: i32) -> Value {
        let output = self.folder.path().join("out");
        let _ = std::fs::remove_dir_all(&output);
        let uri = |path: &Path| format!("file://{}", path.display());
        json!({
            "apiVersion": "graft.dev/v1alpha1", "kind": "TransferJob", "metadata": {"name": "engine"},
            "spec": {
                "task": {"classes": ["normal", "lesion"], "positiveClass": "lesion"},
                "backbone": {"architecture": pair.architecture, "weights": {"uri": uri(&self.weights(pair.architecture))},
                             "preprocessing": {"size": pair.side, "fit": "stretch"}},
                "data": {"train": {"uri": uri(&self.folder.path().join("phantom")), "manifest": "manifest.csv"},
                         "columns": {"patient": "patient", "split": "split"}},
                "fineTune": {"unfreeze": [pair.unfreeze], "epochs": epochs, "globalBatchSize": pair.global_batch,
                             "precision": pair.precision, "optimizer": {"name": "sgd", "learningRate": "1e-3"}},
                "head": {"epochs": 1},
                "workers": if self.device == Device::Cpu { json!({"processes": pair.ranks}) } else { json!({"gpus": pair.ranks}) },
                "output": {"uri": uri(&output)}
            }
        })
    }

    fn graft(&self, pair: &Pair) -> Result<Seen> {
        let told = self.run(pair)?;
        let epochs = told.events("epoch").filter(|(_, e)| e["stage"] == "fineTune").skip(1);
        let speeds: Vec<f64> = epochs.filter_map(|(_, e)| e["samples_per_second"].as_f64()).collect();
        let first_step_seconds = told.events("firstStep").map(|(at, _)| at).next().context("no first step")?;
        anyhow::ensure!(!speeds.is_empty(), "no epoch after the first was told");
        Ok(Seen { images_per_second: crate::report::median(&speeds), peak_bytes: told.peak_bytes, first_step_seconds })
    }

    /// Run a program to its end and note when it says what. Its errors go to a file: on a terminal `graft run` draws a bar.
    fn listen(&self, mut command: Command) -> Result<Told> {
        let log = self.folder.path().join("errors.txt");
        let began = Instant::now();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?).spawn().context("starting taskset (util-linux)")?;
        let mut told = Told { lines: Vec::new(), peak_bytes: 0.0 };
        let output = child.stdout.take().context("no output")?;
        for line in BufReader::new(output).lines() {
            told.lines.push((began.elapsed().as_secs_f64(), line?));
            told.peak_bytes = told.peak_bytes.max(children_peak(child.id()));
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("it ended with {status}: {}", std::fs::read_to_string(&log)?.trim());
        }
        Ok(told)
    }

    /// The stage that runs the backbone over all images, after a fine-tuning of the head that warms up and fills the cache.
    fn features(&self, pair: &Pair) -> Result<Seen> {
        let told = self.run(pair)?;
        let began = told.events("progress").find(|(_, e)| e["stage"] == "features").context("no features")?.0;
        let ended = told.when("features of ").context("no end of the features")?;
        Ok(Seen { images_per_second: self.all as f64 / (ended - began), peak_bytes: told.peak_bytes, first_step_seconds: f64::NAN })
    }
}

/// What a program said and when, in seconds from its start.
struct Told {
    lines: Vec<(f64, String)>,
    /// The largest resident memory of its child processes together, as last seen.
    peak_bytes: f64,
}

impl Told {
    /// When a line with `part` was said first.
    fn when(&self, part: &str) -> Option<f64> {
        self.lines.iter().find(|(_, line)| line.contains(part)).map(|(at, _)| *at)
    }

    /// The trainer's events of a kind.
    fn events(&self, kind: &str) -> impl Iterator<Item = (f64, Value)> {
        let parsed = self.lines.iter().filter_map(|(at, line)| Some((*at, serde_json::from_str::<Value>(line).ok()?)));
        parsed.filter(move |(_, event)| event["event"] == kind)
    }
}

/// The sum of the largest resident memories of a process's children so far; `taskset` is replaced by what it starts.
fn children_peak(parent: u32) -> f64 {
    let peak = |child: &str| memory_of(child, "VmHWM:").ok();
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().filter_map(peak).sum::<f64>()).sum()
}

/// The first processors that this process may use, as `0,1`.
fn processors(wanted: usize) -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).context("no Cpus_allowed_list")?;
    let list = listed(allowed.trim()).into_iter().take(wanted).map(|n| n.to_string()).collect::<Vec<_>>();
    Ok(list.join(","))
}

/// The numbers of a list like `0-2,8`.
fn listed(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<usize>().ok()?..=to.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_from_the_kernels_list() {
        assert_eq!(listed("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(listed("5"), [5]);
    }
}
