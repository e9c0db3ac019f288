//! The operator against a real control plane, under its own role. There is no node: the test plays the kubelet and
//! writes the status of pods, so every state can be reached at once and on purpose.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod scrapes;
mod traces;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use graft_crds::status::{FailureClass, Phase};
use graft_operator::access::{ACCESS, Access, SCRAPES, Seen};
use graft_tests::audit;
use graft_tests::cluster::can_run_node;
use graft_tests::observe::{Prometheus, check_metrics, queries};
use graft_tests::scenario::{http_get, install_crd, status};
use serde_json::{Value, json};

use bench::{Bench, NAMESPACE, OPERATOR, Operator, PATIENCE, terminated};

#[test]
fn operator_against_a_control_plane() {
    if let Err(reason) = can_run_node() {
        println!("skipped operator_against_a_control_plane: {reason}");
        return;
    }
    let bench = Bench::start();
    let mut operator = bench.operator();
    let prometheus = Prometheus::start(&bench.cluster, bench.folder.path(), &operator.address).unwrap();
    not_ready_without_the_crd(&bench, &operator);
    memory(&operator);
    rejected_by_cel(&bench);
    undisturbed(&bench);
    finished_stays_finished(&bench);
    another_run_token_runs_again(&bench);
    operator = killed_in_mid_run(&bench, operator);
    bad_image_is_told(&bench);
    refused_child_is_told(&bench);
    gang_starts_again(&bench);
    deleted_job_is_asked_for(&bench);
    suspended_and_resumed(&bench);
    metrics_are_served(&operator);
    panels_show_what_happened(&bench, &prometheus);
    series_vanish_with_the_job(&bench, &operator);
    rights_are_what_is_used(&bench, &[ACCESS]);
    memory(&operator);
    stops_on_sigterm(&mut operator);
    drop((operator, prometheus));
    traces::go_on_over_a_restart(&bench);
    scrapes::are_let_in_by_token(&bench);
    rights_are_what_is_used(&bench, &[ACCESS, SCRAPES]);
}

fn not_ready_without_the_crd(bench: &Bench, operator: &Operator) {
    let until = Instant::now() + PATIENCE;
    while http_get(&operator.address, "/livez").is_err() {
        assert!(Instant::now() < until, "{}", bench.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(http_get(&operator.address, "/readyz").is_err(), "ready without a CRD");
    install_crd(&bench.cluster).unwrap();
    while http_get(&operator.address, "/readyz").is_err() {
        assert!(Instant::now() < until, "{}", bench.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn rejected_by_cel(bench: &Bench) {
    let refuse = |field: &str, change: fn(&mut Value)| {
        let error = bench.apply("refused", change).expect_err(field).to_string();
        assert!(error.contains(field), "{field} is not named: {error}");
    };
    refuse("spec.data.test", |j| j["spec"]["data"]["test"] = Value::Null);
    refuse("spec.fineTune.globalBatchSize", |j| j["spec"]["fineTune"] = json!({"globalBatchSize": 1}));
    refuse("spec.workers.processes", |j| j["spec"]["workers"] = json!({"gpus": 1, "processes": 2}));
    refuse("spec.volumeMounts", |j| j["spec"]["volumeMounts"] = json!([{"name": "x", "mountPath": "/x"}]));
    refuse("spec.backbone.architecture", |j| j["spec"]["backbone"]["architecture"] = "resnet1".into());
    refuse("spec.data.validation", |j| j["spec"]["data"]["validation"] = json!({"fraction": "0.95"}));
    refuse("metadata.name", |j| j["metadata"]["name"] = "n".repeat(49).into());
    refuse("epoch", |j| j["spec"]["fineTune"] = json!({"epoch": 3}));
    assert!(bench.kubectl(&["get", "tj", "-n", NAMESPACE, "-o", "name"]).is_empty());
}

fn undisturbed(bench: &Bench) {
    bench.apply("calm", |_| {}).unwrap();
    let pods = bench.run("calm");
    // The event that it runs comes after the status that says so.
    let starting: Vec<_> = bench.writes("calm").into_iter().filter(|write| !write.contains("events")).collect();
    // One write more than with a node: status says that no node takes the pods.
    assert!(starting.len() <= 6 + 1, "create to Running: {starting:#?}");
    bench.finish(&pods);
    let status = bench.until_phase("calm", Phase::Succeeded);
    assert_eq!((status.headline.as_deref(), status.output.unwrap().digest.as_str()), (Some("auroc=0.941"), "d1"));
    bench.kubectl(&["wait", "--for=condition=Complete", "tj/calm", "-n", NAMESPACE, "--timeout=5s"]);
    std::thread::sleep(Duration::from_secs(2));
    let all = bench.writes("calm");
    println!("API writes: create to Running {}, whole life {}", starting.len(), all.len());
    assert!(all.len() <= 15, "whole life: {all:#?}");
    assert!(bench.kubectl(&["get", "tj", "calm", "-n", NAMESPACE]).contains("auroc=0.941"));
}

fn finished_stays_finished(bench: &Bench) {
    let before = bench.writes("calm").len();
    bench.kubectl(&["delete", "job,pod,service,configmap", "-n", NAMESPACE, "-l", "graft.dev/job=calm"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(bench.items("jobs", "calm").is_empty());
    assert_eq!(bench.writes("calm").len(), before);
    assert_eq!(status(&bench.cluster, NAMESPACE, "calm").unwrap().phase, Some(Phase::Succeeded));
}

fn another_run_token_runs_again(bench: &Bench) {
    bench.apply("calm", |j| j["spec"]["runToken"] = "2".into()).unwrap();
    let pods = bench.run("calm");
    let status = status(&bench.cluster, NAMESPACE, "calm").unwrap();
    assert_eq!((status.run_token.as_deref(), status.attempt, status.output, status.restarts.total), (Some("2"), 0, None, 0));
    bench.finish(&pods);
    bench.until_phase("calm", Phase::Succeeded);
}

fn killed_in_mid_run(bench: &Bench, mut operator: Operator) -> Operator {
    bench.apply("survivor", |_| {}).unwrap();
    let pods = bench.run("survivor");
    operator.child.kill().unwrap();
    operator.child.wait().unwrap();
    let before = bench.writes("survivor").len();
    let operator = bench.operator();
    let until = Instant::now() + PATIENCE;
    while http_get(&operator.address, "/readyz").is_err() {
        assert!(Instant::now() < until, "{}", bench.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(bench.writes("survivor").len(), before, "a restart of the operator writes nothing");
    // What happens while nobody watches is not lost either.
    drop(operator);
    bench.finish(&pods);
    let operator = bench.operator();
    let status = bench.until_phase("survivor", Phase::Succeeded);
    assert_eq!((status.attempt, status.restarts.total), (0, 0));
    assert_eq!(bench.events("survivor").iter().filter(|(_, reason)| reason == "Succeeded").count(), 1);
    operator
}

fn bad_image_is_told(bench: &Bench) {
    bench.apply("typo", |j| j["spec"]["image"] = "no/such:image".into()).unwrap();
    let pods = bench.pods("typo", 2);
    for reason in ["ErrImagePull", "ImagePullBackOff", "ErrImagePull"] {
        bench.set(&pods[0], "Pending", &json!({"waiting": {"reason": reason, "message": "not found"}}));
    }
    let status = bench.until("typo", |s| s.failure.is_some());
    let failure = status.failure.unwrap();
    assert_eq!((failure.class, failure.reason.as_str(), failure.pod.as_ref()), (FailureClass::PodNotStarted, "ImagePullBackOff", Some(&pods[0])));
    assert!(failure.message.contains("not found") && failure.message.contains("spec.image"), "{}", failure.message);
    let until = Instant::now() + PATIENCE;
    while !bench.events("typo").contains(&("Warning".into(), "ImagePullBackOff".into())) {
        assert!(Instant::now() < until, "no event: {:?}", bench.events("typo"));
        std::thread::sleep(Duration::from_millis(100));
    }
    bench.apply("typo", |j| j["spec"]["image"] = "the/right:image".into()).unwrap();
    let status = bench.until("typo", |s| s.attempt == 1);
    assert_eq!((status.restarts.total, status.failure), (0, None));
    bench.kubectl(&["delete", "tj", "typo", "-n", NAMESPACE]);
}

fn refused_child_is_told(bench: &Bench) {
    bench.apply("odd", |j| j["spec"]["volumes"] = json!([{"name": "Not A Name", "emptyDir": {}}])).unwrap();
    let failure = bench.until("odd", |s| s.failure.is_some()).failure.unwrap();
    assert!(failure.message.contains("volumes[0].name"), "{}", failure.message);
    bench.apply("odd", |j| j["spec"]["volumes"] = json!([])).unwrap();
    let pods = bench.run("odd");
    assert_eq!(status(&bench.cluster, NAMESPACE, "odd").unwrap().failure, None);
    bench.finish(&pods);
    bench.until_phase("odd", Phase::Succeeded);
}

fn gang_starts_again(bench: &Bench) {
    bench.apply("hurt", |_| {}).unwrap();
    let pods = bench.run("hurt");
    bench.set(&pods[1], "Failed", &terminated(137, ""));
    let status = bench.until("hurt", |s| s.attempt == 1);
    assert_eq!((status.restarts.failures, status.failure.unwrap().pod), (1, Some(pods[1].clone())));
    let pods = bench.run("hurt");
    let message = json!({"exit": "DataError", "progress": {"stage": "prepare", "epoch": 0, "epochs": 0, "step": 0, "percent": 0.0},
                         "failure": {"exit": "DataError", "reason": "PatientInTwoSplits", "message": "train.csv:7: patient 12 is in two splits"}});
    bench.set(&pods[0], "Failed", &terminated(65, &message.to_string()));
    let status = bench.until_phase("hurt", Phase::Failed);
    let failure = status.failure.unwrap();
    assert_eq!((failure.class, failure.reason.as_str(), status.attempt), (FailureClass::DataError, "PatientInTwoSplits", 1));
    assert_eq!(bench.items("jobs", "hurt").len(), 1, "the Job of the last attempt stays, with its logs");
}

/// A Job that somebody deletes: the operator asks for it before it believes that, and then starts the gang again.
fn deleted_job_is_asked_for(bench: &Bench) {
    bench.apply("lost", |_| {}).unwrap();
    bench.run("lost");
    bench.kubectl(&["delete", "job", "-n", NAMESPACE, "-l", "graft.dev/job=lost"]);
    let status = bench.until("lost", |s| s.attempt == 1);
    assert_eq!(status.failure.unwrap().reason, "JobDeleted");
    let pods = bench.run("lost");
    bench.finish(&pods);
    bench.until_phase("lost", Phase::Succeeded);
}

fn suspended_and_resumed(bench: &Bench) {
    bench.apply("pause", |_| {}).unwrap();
    bench.run("pause");
    bench.apply("pause", |j| j["spec"]["suspend"] = true.into()).unwrap();
    bench.until_phase("pause", Phase::Suspended);
    bench.pods("pause", 0);
    bench.apply("pause", |j| j["spec"]["suspend"] = false.into()).unwrap();
    let status = bench.until("pause", |s| s.attempt == 1);
    assert_eq!(status.restarts.total, 0);
    let pods = bench.run("pause");
    bench.finish(&pods);
    bench.until_phase("pause", Phase::Succeeded);
}

fn metrics_are_served(operator: &Operator) {
    let text = http_get(&operator.address, "/metrics").unwrap();
    for line in [
        "graft_jobs{namespace=\"radiology\",phase=\"Failed\"} 1",
        "graft_jobs_failed_total{class=\"DataError\",namespace=\"radiology\"} 1",
        "graft_gang_restarts_total{class=\"PodLost\",namespace=\"radiology\"} 2",
        "graft_job_headline{metric=\"auroc\",namespace=\"radiology\",transferjob=\"calm\"} 0.941",
        "graft_time_to_running_seconds_count",
        "rest_client_requests_total{code=\"200\",method=\"PATCH\"}",
        "controller_runtime_reconcile_total{controller=\"transferjob\",result=\"error\"}",
        "graft_build_info{version=",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    check_metrics(&text).unwrap();
}

/// Panels that stay empty here, and why.
const EMPTY: &[(&str, &str, &str)] = &[
    ("fleet", "GPU seconds", "no gang runs for the ten seconds from one point to the next"),
    ("fleet", "Stages", "no pod tells a stage: there is no trainer"),
    ("fleet", "Time to the first step", "no pod tells its progress: there is no trainer"),
    ("fleet", "Progress", "no pod tells its progress: there is no trainer"),
];

/// Every query of the dashboards Operator and Fleet gives data after all that happened, or is listed.
fn panels_show_what_happened(bench: &Bench, prometheus: &Prometheus) {
    // A job that runs while the panels are asked.
    bench.apply("shown", |_| {}).unwrap();
    bench.run("shown");
    std::thread::sleep(Duration::from_secs(3));
    println!("{:<10} {:<28} {:>6}  query", "dashboard", "panel", "series");
    let mut bare = Vec::new();
    for dashboard in ["operator", "fleet"] {
        for query in queries(dashboard).unwrap() {
            let found = prometheus.query(&query.filled("shown", "2m")).unwrap().len();
            println!("{dashboard:<10} {:<28} {found:>6}  {}", query.panel, query.expression);
            match EMPTY.iter().find(|(of, panel, _)| *of == dashboard && *panel == query.panel) {
                Some((_, _, why)) if found == 0 => println!("{:<46} empty: {why}", ""),
                Some(_) | None if found > 0 => {}
                Some(_) | None => bare.push(query),
            }
        }
    }
    assert!(bare.is_empty(), "panels without data: {bare:#?}");
    // The trainers' series are not here, but what is asked must at least be understood.
    for query in queries("job").unwrap() {
        let found = prometheus.query(&query.filled("shown", "2m")).unwrap().len();
        println!("{:<10} {:<28} {found:>6}  {}", "job", query.panel, query.expression);
    }
    let firing = prometheus.query("ALERTS{alertname=\"GraftDataRefused\",alertstate=\"firing\"}").unwrap();
    assert!(!firing.is_empty(), "GraftDataRefused does not fire after a job that refused its data");
    assert!(prometheus.query("ALERTS{alertname=\"GraftOperatorDown\",alertstate=\"firing\"}").unwrap().is_empty());
}

fn series_vanish_with_the_job(bench: &Bench, operator: &Operator) {
    let own = |text: &str| text.lines().filter(|l| l.contains("transferjob=\"shown\"")).count();
    assert!(own(&http_get(&operator.address, "/metrics").unwrap()) > 0);
    bench.kubectl(&["delete", "tj", "shown", "-n", NAMESPACE]);
    let until = Instant::now() + PATIENCE;
    while own(&http_get(&operator.address, "/metrics").unwrap()) > 0 {
        assert!(Instant::now() < until, "a deleted job still has series");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Proof by audit log: the operator used every verb that its role grants, and no other.
fn rights_are_what_is_used(bench: &Bench, tables: &[&[Access]]) {
    let used = audit::used(&bench.cluster, OPERATOR).unwrap();
    let granted: BTreeSet<_> = tables
        .iter()
        .copied()
        .flatten()
        .filter(|a| a.seen == Seen::Request)
        .flat_map(|a| a.resources.iter().flat_map(|r| a.verbs.iter().map(|v| (a.group.to_owned(), (*r).to_owned(), (*v).to_owned()))))
        .collect();
    assert_eq!(audit::compare(&used, &granted), (Vec::new(), Vec::new()), "used but not granted, and granted but never used");
    println!("{} rights granted, all of them used, no other asked for", granted.len());
}

fn memory(operator: &Operator) {
    let text = fs::read_to_string(Path::new("/proc").join(operator.child.id().to_string()).join("status")).unwrap();
    let memory: Vec<_> =
        text.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("Rss")).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    println!("operator's memory: {}", memory.join(", "));
}

fn stops_on_sigterm(operator: &mut Operator) {
    let killed = std::process::Command::new("kill").arg(operator.child.id().to_string()).status().unwrap();
    assert!(killed.success());
    let until = Instant::now() + Duration::from_secs(20);
    while operator.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "still there 20 s after SIGTERM");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(operator.child.wait().unwrap().success());
}
