//! Whole runs through the agent: two rank processes, real libtorch, images and weights from files.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::io::{Read, Write};

use common::{Site, children, signal, tensors};
use graft_crds::contract::{ExitReason, Stage};
use graft_trainer::event::Event;
use graft_trainer::{output, weights};
use serde_json::json;

#[test]
fn a_run_writes_a_whole_model_that_a_fresh_process_reproduces() {
    let site = Site::new();
    let ended = site.run(&site.job("out"));
    assert_eq!((ended.code, ended.summary.exit), (Some(0), ExitReason::Ok), "{:?}", ended.summary.failure);
    let written = ended.summary.output.expect("the output");
    assert_eq!(written.uri, site.uri("out"));
    assert!(ended.summary.progress.metrics.contains_key("auroc"), "{:?}", ended.summary.progress);
    assert!((ended.summary.progress.percent - 100.0).abs() < 1e-9);
    let stages: Vec<Stage> = ended.events.iter().filter_map(|e| if let Event::Progress(p) = e { Some(p.stage) } else { None }).collect();
    for stage in [Stage::Prepare, Stage::FineTune, Stage::Features, Stage::Head, Stage::Evaluate] {
        assert!(stages.contains(&stage), "{stage:?} never ran");
    }
    let verified = output::verify(&site.path("out"), |uri| graft_data::local_path(uri).to_path_buf()).unwrap();
    assert!(verified.images > 0);

    // What was frozen is what the file held.
    let (before, after) = (weights::load(&site.path("weights.safetensors"), None).unwrap().tensors, tensors(&site.path("out")));
    assert!(after["00.conv.weight"].equal(&before["00.conv.weight"]));
    assert!(!after["26.conv.weight"].equal(&before["26.conv.weight"]));
    let history = std::fs::read_to_string(site.path("out/history.csv")).unwrap();
    assert_eq!(history.lines().filter(|l| l.starts_with("fineTune,")).count(), 3);
    assert_eq!(history.lines().filter(|l| l.starts_with("head,")).count(), 20);

    // A half-written output is never taken for a whole one.
    std::fs::write(site.path("out/predictions.csv"), "cut").unwrap();
    let failure = output::verify(&site.path("out"), |uri| graft_data::local_path(uri).to_path_buf()).unwrap_err();
    assert_eq!(failure.reason, "OutputIncomplete");
}

#[test]
fn the_same_seed_gives_the_same_bits_and_features_are_reused() {
    let site = Site::new();
    for name in ["a", "b"] {
        assert_eq!(site.run(&site.job(name)).code, Some(0));
    }
    let model = |name: &str| std::fs::read(site.path(name).join("model.safetensors")).unwrap();
    assert!(model("a") == model("b"), "two runs with one seed wrote different models");
    let mut other = site.job("a");
    other["run"]["id"] = json!("again");
    let again = site.run(&other);
    assert_eq!(again.code, Some(0));
    assert!(again.logged("features are reused"));
    assert!(model("a") == model("b"));
}

#[test]
fn a_killed_rank_ends_the_attempt_and_the_next_one_goes_on_to_the_same_model() {
    let site = Site::new();
    assert_eq!(site.run(&site.job("whole")).code, Some(0));
    let mut job = site.job("torn");
    let mut killed = false;
    let first = site.start(&job).finish(|pid, event| {
        if let Event::Progress(progress) = event
            && progress.checkpoint.as_ref().is_some_and(|c| c.epoch == 2)
            && !killed
        {
            signal("-KILL", &children(pid)[1]);
            killed = true;
        }
    });
    assert!(killed);
    assert_eq!((first.code, first.summary.exit), (Some(86), ExitReason::CollectiveLost), "{:?}", first.summary.failure);
    assert!(first.summary.output.is_none() && !site.path("torn/manifest.json").exists());
    // A checkpoint that was damaged since is left aside.
    let checkpoints = site.path("torn/.graft/checkpoints/run-torn");
    let newest = std::fs::read_dir(&checkpoints).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("manifest.json").exists()).max().unwrap();
    let damaged = newest.join("state.safetensors");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    job["run"]["attempt"] = json!(1);
    let second = site.run(&job);
    assert_eq!(second.code, Some(0), "{:?}", second.summary.failure);
    assert!(second.logged("damaged file") && second.logged("going on after epoch 1"), "{:?}", second.events);
    let model = |name: &str| std::fs::read(site.path(name).join("model.safetensors")).unwrap();
    assert!(model("whole") == model("torn"), "the resumed run wrote another model");
}

#[test]
fn sigterm_is_never_success() {
    let site = Site::new();
    let mut told = false;
    let ended = site.start(&site.job("out")).finish(|pid, event| {
        if matches!(event, Event::Epoch(_)) && !told {
            signal("-TERM", &pid.to_string());
            told = true;
        }
    });
    assert_eq!((ended.code, ended.summary.exit), (Some(85), ExitReason::Preempted));
    assert!(ended.summary.progress.checkpoint.is_none_or(|c| c.epoch >= 1));
}

#[test]
fn a_step_on_two_ranks_is_a_step_of_one_process_on_the_joint_batch() {
    let site = Site::new();
    for (name, processes) in [("one", 1), ("two", 2)] {
        let mut job = site.job(name);
        job["gang"]["processes"] = json!(processes);
        job["fineTune"]["epochs"] = json!(1);
        job["fineTune"]["globalBatchSize"] = json!(1000);
        job["fineTune"]["optimizer"] = json!({"name": "sgd", "learningRate": "1e-2"});
        assert_eq!(site.run(&job).code, Some(0));
    }
    let (source, one, two) =
        (weights::load(&site.path("weights.safetensors"), None).unwrap().tensors, tensors(&site.path("one")), tensors(&site.path("two")));
    let distance = |a: &graft_torch::tch::Tensor, b: &graft_torch::tch::Tensor| (a - b).abs().max().double_value(&[]);
    assert!(distance(&one["26.conv.weight"], &source["26.conv.weight"]) > 1e-5, "the step changed nothing");
    for (name, tensor) in one.iter().filter(|(name, _)| name.starts_with("2")) {
        let scale = tensor.abs().max().double_value(&[]).max(1e-3);
        assert!(distance(tensor, &two[name]) <= 1e-5 * scale, "{name} differs by {}", distance(tensor, &two[name]));
    }
}

#[test]
fn an_agent_answers_over_http_while_it_trains() {
    let site = Site::new();
    let mut job = site.job("out");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    job["gang"]["httpPort"] = json!(port);
    let mut answers = Vec::new();
    let ended = site.start(&job).finish(|_, event| {
        if matches!(event, Event::Epoch(row) if row.stage == Stage::FineTune && row.epoch == 2) {
            answers = ["/progress", "/metrics", "/healthz"].map(|path| get(port, path)).to_vec();
        }
    });
    assert_eq!(ended.code, Some(0));
    let progress: graft_crds::contract::Progress = serde_json::from_str(&answers[0]).unwrap();
    assert!(progress.step > 0 && progress.percent > 0.0, "{progress:?}");
    for name in ["graft_trainer_samples_total", "graft_trainer_step_seconds_bucket{part=\"backward\"", "graft_trainer_loss", "graft_trainer_metric{"]
    {
        assert!(answers[1].contains(name), "{name} is not in:\n{}", answers[1]);
    }
    assert_eq!(answers[2], "ok\n");
}

fn get(port: u16, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
