//! The agent as a pod starts it: what it answers over HTTP, leaves as its termination message, and exits with.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::Command;

use common::{Site, signal};
use graft_crds::contract::{ExitReason, Stage, TerminationSummary};
use graft_trainer::event::Event;
use serde_json::json;

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
fn a_configuration_of_another_release() {
    let site = Site::new();
    let path = site.path("config.json");
    fs::write(&path, r#"{"contractVersion": 99}"#).unwrap();
    let message = site.path("termination");
    let status = Command::new(common::TRAINER).arg("agent").arg("--config").arg(&path).arg("--termination-log").arg(&message).status().unwrap();
    assert_eq!(status.code(), Some(64));
    let summary = TerminationSummary::from_message(&fs::read_to_string(&message).unwrap()).unwrap();
    assert_eq!(summary.failure.unwrap().reason, "ConfigRejected");
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
    for name in [
        "graft_trainer_samples_total",
        "graft_trainer_step_seconds_bucket{part=\"backward\"",
        "graft_trainer_loss",
        "graft_trainer_metric{",
        "graft_trainer_gradient_buckets 1",
        "graft_trainer_checkpoint_seconds_count 1",
        "graft_trainer_gpu_seconds_total 0",
    ] {
        assert!(answers[1].contains(name), "{name} is not in:\n{}", answers[1]);
    }
    let memory = answers[1].lines().find_map(|line| line.strip_prefix("graft_trainer_memory_bytes ")).unwrap();
    assert!(memory.parse::<f64>().unwrap() > 50e6, "libtorch alone has more than {memory} bytes");
    assert_eq!(answers[2], "ok\n");
}

/// Two pods on this machine: their ranks meet through the gate while strangers knock at it.
#[test]
fn a_gang_of_two_pods_meets_behind_its_token() {
    let site = Site::new();
    let mut job = site.job("out");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    job["gang"]["replicas"] = json!(2);
    job["gang"]["processes"] = json!(1);
    job["gang"]["rendezvousPort"] = json!(port);
    let token = "0b8f6a52-1c5e-4c0a-9a7e-2f1f6a0f3b11";
    let second = site.start_pod(&job, 1, token);
    let first = site.start_pod(&job, 0, token);
    let strangers = std::thread::spawn(move || {
        let mut held = Vec::new();
        for n in 0..300 {
            if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
                let _ = stream.write_all(&vec![n as u8; n]);
                held.extend((n % 10 == 0).then_some(stream));
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        held.len()
    });
    let second = std::thread::spawn(move || second.finish(|_, _| {}));
    assert_eq!(first.finish(|_, _| {}).code, Some(0));
    assert_eq!(second.join().unwrap().code, Some(0));
    assert!(strangers.join().unwrap() > 0, "no stranger came");
}

#[test]
fn a_pod_of_a_larger_gang_needs_a_token() {
    let site = Site::new();
    let mut job = site.job("out");
    job["gang"]["replicas"] = json!(2);
    let failure = site.start(&job).finish(|_, _| {}).summary.failure.unwrap();
    assert_eq!(failure.reason, "GangTokenMissing");
}

fn get(port: u16, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
