//! A job that trains while the operator is upgraded, rolled back and taken away. With `uninstall.jobs=stop` gangs go with the operator,
//! everything else stays, and a new installation goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use graft_crds::status::{Phase, TransferJobStatus};
use graft_operator::access::{Access, STOP, STOP_OPERATOR};
use graft_tests::audit::{self, Right};
use graft_tests::scenario::{binary, status, wait_for};
use serde_json::json;

use crate::{NAMESPACE, SYSTEM, Site};

const JOB: &str = "trains";

/// A job that trains on generated pictures until it is deleted, in the namespace of the jobs that wait for ever; it has a checkpoint.
pub fn train(site: &Site) {
    let folder = site.folder.path().join("stop");
    fs::create_dir(&folder).unwrap();
    let generate = Command::new(binary("graft-trainer").unwrap()).args(["generate", "--patients", "60"]).arg(&folder).output().unwrap();
    assert!(generate.status.success(), "{}", String::from_utf8_lossy(&generate.stderr));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    site.cluster.create_hostpath_volume("stop", NAMESPACE, &folder, "1Gi").unwrap();
    let file = site.file(JOB, |spec| {
        *spec = json!({
            "backbone": {"architecture": "mobilenet_v1_025", "weights": {"uri": "file:///trial/weights/fresh-mobilenet_v1_025.safetensors"},
                         "preprocessing": {"size": 32, "fit": "stretch"}},
            "data": {"train": {"uri": "file:///trial/phantom", "manifest": "manifest.csv"}, "columns": {"patient": "patient", "split": "split"}},
            "fineTune": {"epochs": EPOCHS},
            "workers": {"resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}},
            "output": {"uri": "file:///trial/model"},
            "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "stop"}}],
            "volumeMounts": [{"name": "work", "mountPath": "/trial"}],
        });
    });
    site.kubectl(&["apply", "-f", &file]);
    reaches(site, JOB, |s| s.phase == Some(Phase::Running) && kept(s) > 0);
}

/// Its epoch, as its pod tells.
pub fn epoch(site: &Site) -> i64 {
    let pod = site.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &format!("graft.dev/job={JOB}"), "-o", "jsonpath={.items[0].metadata.name}"]);
    let told = site.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9480/proxy/progress")]);
    serde_json::from_str::<serde_json::Value>(&told).unwrap()["epoch"].as_i64().unwrap()
}

/// It is in its first attempt, past `epoch`, and the operator has noticed.
pub fn trains_on(site: &Site, epoch: i64) {
    let seen = reaches(site, JOB, |s| kept(s) > epoch);
    assert_eq!((seen.phase, seen.attempt, seen.restarts.total), (Some(Phase::Running), 0, 0), "{seen:?}");
}

/// As many as a job may have: it trains until it is deleted, on any machine.
const EPOCHS: u32 = 10_000;

fn reaches(site: &Site, name: &str, done: impl Fn(&TransferJobStatus) -> bool) -> TransferJobStatus {
    wait_for(&site.cluster, (NAMESPACE, name), Duration::from_secs(240), |_| {}, done).unwrap()
}

/// Epochs in the newest checkpoint.
fn kept(status: &TransferJobStatus) -> i64 {
    status.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch)
}

pub fn stopped_and_back(site: &Site) {
    let settings = ["config.progressIntervalSeconds=1", "uninstall.jobs=stop"];
    site.upgrade("helm", &settings);
    // A job that somebody has suspended stays that.
    site.kubectl(&["patch", "tj", "during", "-n", NAMESPACE, "--type=merge", "-p", "{\"spec\":{\"suspend\":true}}"]);
    reaches(site, "during", |s| s.phase == Some(Phase::Suspended));
    let specs =
        || site.kubectl(&["get", "tj", "-n", NAMESPACE, "-o", "jsonpath={range .items[*]}{.metadata.uid} {.metadata.generation}{\"\\n\"}{end}"]);
    let before = specs();

    let took = site.helm("helm", &["uninstall", "graft", "--namespace", SYSTEM, "--wait"]);
    println!("helm uninstall with uninstall.jobs=stop: {:.1} s", took.as_secs_f64());
    assert!(site.children().is_empty(), "left of the gangs: {:?}", site.children());
    assert_eq!(specs(), before, "uninstalling changes a TransferJob's spec or takes one with it");
    let at_stop = status(&site.cluster, NAMESPACE, JOB).unwrap();
    let message = at_stop.message.clone().unwrap_or_default();
    assert!(at_stop.phase == Some(Phase::Suspended) && message.contains("installed again"), "{at_stop:?}");
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let kinds = "jobs,pods,deployments,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
        let left = site.kubectl(&["get", kinds, "-A", "-o", "name"]);
        if !left.contains("graft-operator") && !left.contains("graft-uninstall") {
            break;
        }
        assert!(Instant::now() < until, "left behind: {left}");
        std::thread::sleep(Duration::from_millis(200));
    }
    rights_are_what_is_used(site);

    site.upgrade("helm", &settings);
    let again = reaches(site, JOB, |s| s.attempt == 1 && kept(s) > kept(&at_stop));
    assert_eq!((again.phase, again.restarts.total), (Some(Phase::Running), 0), "going on is an attempt that is not counted");
    reaches(site, "before", |s| s.phase == Some(Phase::Starting) && s.attempt == 1);
    assert_eq!(status(&site.cluster, NAMESPACE, "during").unwrap().phase, Some(Phase::Suspended));
    // The second attempt has no epoch that the first one kept.
    let log = site.kubectl(&["logs", "-n", NAMESPACE, "-l", &format!("graft.dev/job={JOB},graft.dev/attempt=1"), "--tail=-1"]);
    let said = log.split_once("going on after epoch ").unwrap_or_else(|| panic!("from the beginning again? {log}")).1;
    let epoch: i64 = said.split(' ').next().unwrap().parse().unwrap();
    println!("stopped at epoch {} or later of {EPOCHS}, and went on after {epoch}", kept(&at_stop));
    assert!(epoch > 0 && epoch >= kept(&at_stop) && epoch < kept(&again), "{epoch}");
    site.kubectl(&["delete", "tj", JOB, "-n", NAMESPACE]);
}

/// Proof by audit log: the hook used each of its rights and no other.
fn rights_are_what_is_used(site: &Site) {
    let used = audit::used(&site.cluster, &format!("system:serviceaccount:{SYSTEM}:graft-uninstall")).unwrap();
    let rights = |a: &'static Access| {
        a.resources.iter().flat_map(move |r| a.verbs.iter().map(move |v| -> Right { (a.group.to_owned(), (*r).to_owned(), (*v).to_owned()) }))
    };
    let granted = STOP.iter().chain(STOP_OPERATOR).flat_map(rights).collect();
    assert_eq!(audit::compare(&used, &granted), (Vec::new(), Vec::new()), "used but not granted, and granted but never used");
}
