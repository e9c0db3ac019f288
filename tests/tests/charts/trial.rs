//! `helm test`, when all is well and when jobs cannot run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use graft_operator::access::TRIAL;
use graft_tests::audit;
use serde_json::{Value, json};

use crate::{SYSTEM, Site, helm};

/// `helm test`: a job is trained on a volume that is made for it, and nothing of it stays.
pub fn succeeds(site: &Site, version: &str, namespace: &str, arguments: &[&str]) {
    let folder = volume(site, version);
    let took = site.helm(version, &[arguments, &["--timeout", "120s"]].concat());
    println!("{version} test: {:.1} s", took.as_secs_f64());
    let metrics: Value = serde_json::from_str(&fs::read_to_string(folder.join("model/metrics.json")).unwrap()).unwrap();
    assert!(metrics.is_object(), "{metrics}");
    let kinds = "transferjobs,jobs,pods,persistentvolumeclaims,serviceaccounts,roles,rolebindings";
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        // The claim goes a moment after its pod.
        let left = site.kubectl(&["get", kinds, "-n", namespace, "-o", "name"]);
        if !left.contains("graft-test") {
            break;
        }
        assert!(Instant::now() < until, "left behind: {left}");
        std::thread::sleep(Duration::from_millis(200));
    }
    trial_rights_are_what_is_used(site, namespace);
}

/// A volume for one test; gives its folder.
fn volume(site: &Site, name: &str) -> PathBuf {
    let folder = site.folder.path().join(name);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": folder, "type": "Directory"}}});
    let file = site.folder.path().join("volume.json");
    fs::write(&file, volume.to_string()).unwrap();
    site.kubectl(&["apply", "-f", &file.to_string_lossy()]);
    folder
}

/// Proof by audit log: the trial used each of its rights and no other, and the trainers have none to use.
fn trial_rights_are_what_is_used(site: &Site, namespace: &str) {
    let used = audit::used(&site.cluster, &format!("system:serviceaccount:{namespace}:graft-test")).unwrap();
    let granted = TRIAL.iter().flat_map(|a| {
        let verbs = move |resource: &'static str| a.verbs.iter().map(move |v| (a.group.to_owned(), resource.to_owned(), (*v).to_owned()));
        a.resources.iter().copied().flat_map(verbs)
    });
    let granted = granted.collect();
    assert_eq!(audit::compare(&used, &granted), (Vec::new(), Vec::new()), "used but not granted, and granted but never used");
    let trainer = audit::used(&site.cluster, &format!("system:serviceaccount:{namespace}:default")).unwrap();
    assert!(trainer.is_empty(), "a trainer asked the API server: {trainer:?}");
}

/// `helm test` fails where jobs cannot run, and the log of its pod says why.
pub fn failures_say_why(site: &Site) {
    site.upgrade("helm", &["test.seconds=10", "test.resources.requests.memory=1Ti", "test.resources.limits=null"]);
    fails(site, "too-little-memory", &["the job's pods do not run", "Insufficient memory"]);
    site.kubectl(&["scale", "deployment/graft-operator", "-n", SYSTEM, "--replicas=0"]);
    fails(site, "no-operator", &["no operator has looked at the job"]);
    site.upgrade("helm", &["test.seconds=10", "test.image=localhost/none:1"]);
    volume(site, "no-image");
    let said = helm("helm", &site.cluster.kubeconfig(), &["test", "graft", "--namespace", SYSTEM, "--timeout", "60s"]).expect_err("no image");
    assert!(said.contains("graft-test-data"), "{said}");
    let pod = site.kubectl(&["describe", "pod", "graft-test-data", "-n", SYSTEM]);
    assert!(pod.contains("localhost/none:1") && pod.contains("DeadlineExceeded"), "{pod}");
}

/// The test fails, and the end of its pod's log has these words.
pub fn fails(site: &Site, name: &str, words: &[&str]) {
    volume(site, name);
    let began = Instant::now();
    let said = helm("helm", &site.cluster.kubeconfig(), &["test", "graft", "--namespace", SYSTEM, "--timeout", "60s"]).expect_err(name);
    let log = site.kubectl(&["logs", "graft-test", "-n", SYSTEM]);
    println!("helm test, {name}: fails after {:.1} s: {}", began.elapsed().as_secs_f64(), log.lines().last().unwrap_or_default());
    for word in words {
        assert!(log.contains(word), "{name}: {word} is not in\n{log}\n{said}");
    }
}
