//! `graft run`: one agent and its ranks on this machine, with the configuration that the operator would render. What a
//! terminal sees is a bar; anything else gets the trainer's events as JSON lines on standard output.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use graft_crds::contract::{Device, ExitReason, Gang, Progress, RunIdentity, TerminationSummary, TrainerConfig, run_id};
use graft_crds::{TransferJob, TransferJobSpec};
use graft_trainer::agent::{self, AgentOptions, Observer, Serve};
use graft_trainer::event::Event;
use indicatif::{ProgressBar, ProgressStyle};

/// Train; the summary's `exit` is the process's exit code.
pub fn run(job: &TransferJob) -> TerminationSummary {
    let spec = &job.spec;
    let name = job.metadata.name.clone().unwrap_or_default();
    let identity = RunIdentity { namespace: "local".into(), id: identity_of(&name, spec), name, attempt: 0 };
    let config = TrainerConfig::render(spec, identity, gang(spec));
    let own = std::env::current_exe().map(OsString::from).unwrap_or_else(|_| "graft".into());
    let bar = std::io::stderr().is_terminal().then(bar);
    let observer: Observer = match &bar {
        Some(bar) => draw(bar.clone()),
        None => Box::new(|_, event| print_line(event)),
    };
    let options = AgentOptions { rank_command: vec![own, "rank".into()], serve: Serve::Off, termination_log: None, observer: Some(observer) };
    let summary = agent::run(config, 0, options);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    report(&summary);
    summary
}

/// The same job with the same paths is the same run, so that what was interrupted goes on from its checkpoint.
fn identity_of(name: &str, spec: &TransferJobSpec) -> String {
    let what = (&spec.task, &spec.backbone, &spec.data, &spec.fine_tune, &spec.head, &spec.output);
    run_id(&format!("local/{name}/{}", serde_json::to_string(&what).unwrap_or_default()), &spec.run_token)
}

/// All ranks of the job in one gang of this machine.
fn gang(spec: &TransferJobSpec) -> Gang {
    let world = u32::try_from(spec.workers.world_size()).unwrap_or(1).max(1);
    let processors = u32::try_from(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).unwrap_or(1);
    let wanted = spec.workers.gpus > 0;
    let gpus = graft_torch::tch::Cuda::device_count();
    let enough = u32::try_from(gpus).unwrap_or(0) >= world;
    if wanted && !enough {
        eprintln!("spec.workers asks for {world} GPUs, this machine has {gpus} that this build can use: training on CPUs");
    }
    Gang {
        replicas: 1,
        processes: world,
        device: if wanted && enough { Device::Cuda } else { Device::Cpu },
        threads: (processors / world).max(1),
        rendezvous_host: "127.0.0.1".into(),
        rendezvous_port: 0,
        http_port: 0,
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>9} {bar:40} {percent:>3} %  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(1000).with_style(style)
}

fn draw(bar: ProgressBar) -> Observer {
    Box::new(move |_, event| match event {
        Event::Progress(progress) => {
            bar.set_prefix(progress.stage.name());
            bar.set_position(position(progress.percent));
            bar.set_message(line(progress));
        }
        Event::Log { message } => bar.println(message),
        Event::Failed(failure) => bar.println(format!("{}: {}", failure.reason, failure.message)),
        Event::Epoch(_) | Event::FirstStep { .. } | Event::Steps { .. } => {}
        Event::Exchange(_) | Event::Checkpoint { .. } | Event::Output(_) => {}
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000")]
fn position(percent: f64) -> u64 {
    (percent * 10.0).clamp(0.0, 1000.0) as u64
}

fn line(progress: &Progress) -> String {
    let mut parts = Vec::new();
    if progress.epochs > 0 {
        parts.push(format!("epoch {}/{}", progress.epoch, progress.epochs));
    }
    parts.extend(progress.loss.map(|loss| format!("loss {loss:.4}")));
    parts.extend(progress.samples_per_second.map(|rate| format!("{rate:.0} images/s")));
    parts.extend(progress.eta_seconds.map(|eta| format!("{eta:.0} s left")));
    parts.join("  ")
}

fn print_line(event: &Event) {
    match event {
        Event::Steps { .. } | Event::Exchange(_) | Event::Checkpoint { .. } => {}
        Event::Progress(_) | Event::Log { .. } | Event::Epoch(_) | Event::FirstStep { .. } | Event::Failed(_) | Event::Output(_) => {
            let mut out = std::io::stdout().lock();
            // A reader that went away is no reason to stop training.
            let _ = writeln!(out, "{}", serde_json::to_string(event).unwrap_or_default());
        }
    }
}

/// The last word: for people on a terminal, else the summary as the pods write it.
fn report(summary: &TerminationSummary) {
    if !std::io::stdout().is_terminal() {
        println!("{}", serde_json::to_string(summary).unwrap_or_default());
    } else if let (ExitReason::Ok, Some(output)) = (summary.exit, &summary.output) {
        for (name, value) in &summary.progress.metrics {
            println!("{name:>24}  {value:.4}");
        }
        println!("model: {} (manifest sha256 {})", output.uri, output.digest);
    }
}
