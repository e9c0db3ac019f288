//! TransferJobs from `kubectl apply` to a model on a real node: two restricted pods, the real trainer. The data are generated; `demo.rs` takes the real ones.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Command;
use std::time::Duration;

use graft_crds::status::{FailureClass, Phase, TransferJobStatus};
use graft_tests::cluster::can_run_node;
use graft_tests::lab::{Lab, NAMESPACE};
use graft_tests::scenario::{binary, kubectl, status, wait_for, workspace};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(240);

struct Site {
    lab: Lab,
    data: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        let data = tempfile::Builder::new().prefix("graft-data-").tempdir().unwrap();
        let made = Command::new(binary("graft").unwrap()).arg("generate").arg(data.path()).args(["--patients", "30"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let open = Command::new("chmod").args(["-R", "a+rX"]).arg(data.path()).status().unwrap();
        assert!(open.success());
        Self { lab: Lab::with_data(data.path()).unwrap(), data }
    }

    /// `examples/phantom.yaml` from fresh weights at 64 pixels, after `change`.
    fn apply(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(workspace().join("examples/phantom.yaml")).unwrap();
        let mut job: Value = serde_saphyr::from_str(&text).unwrap();
        job["metadata"]["name"] = name.into();
        let spec = &mut job["spec"];
        spec["backbone"]["weights"]["uri"] = "file:///data/weights/fresh-resnet18.safetensors".into();
        spec["backbone"]["preprocessing"] = json!({"size": 64, "fit": "stretch"});
        spec["fineTune"]["epochs"] = 2.into();
        spec["recovery"] = json!({"backoffSeconds": 0});
        spec["output"]["uri"] = format!("file:///models/{name}").into();
        change(&mut job);
        let file = self.lab.work.path().join(format!("{name}.json"));
        fs::write(&file, job.to_string()).unwrap();
        self.lab.apply(&file).unwrap();
    }

    fn until(&self, name: &str, done: impl Fn(&TransferJobStatus) -> bool) -> TransferJobStatus {
        let found = wait_for(&self.lab.cluster, (NAMESPACE, name), PATIENCE, |_| {}, done);
        found.unwrap_or_else(|e| panic!("{e}\n{}\n{}", self.describe(name), fs::read_to_string(self.log()).unwrap_or_default()))
    }

    fn end(&self, name: &str, phase: Phase) -> TransferJobStatus {
        let end = self.until(name, |s| s.phase.is_some_and(Phase::is_terminal));
        assert_eq!(end.phase, Some(phase), "{:#?}\n{}", end.failure, self.describe(name));
        end
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&self.lab.cluster, arguments).unwrap()
    }

    fn describe(&self, name: &str) -> String {
        let pods = self.kubectl(&["describe", "pods", "-n", NAMESPACE, "-l", &format!("graft.dev/job={name}")]);
        pods + &self.kubectl(&["logs", "-n", NAMESPACE, "-l", &format!("graft.dev/job={name}"), "--prefix", "--tail=50"])
    }

    fn log(&self) -> std::path::PathBuf {
        self.lab.work.path().join("operator.log")
    }

    fn names(&self, kind: &str, job: &str) -> Vec<String> {
        let text = self.kubectl(&["get", kind, "-n", NAMESPACE, "-l", &format!("graft.dev/job={job}"), "-o", "name"]);
        text.lines().map(str::to_owned).collect()
    }

    fn verify(&self, name: &str) {
        let mount = format!("/data={}", self.data.path().display());
        let output =
            Command::new(binary("graft").unwrap()).arg("verify").arg(self.lab.models().join(name)).args(["--mount", &mount]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn transfer_jobs_on_a_node() {
    if let Err(reason) = can_run_node() {
        println!("skipped transfer_jobs_on_a_node: {reason}");
        return;
    }
    let site = Site::start();
    explained(&site);
    from_apply_to_a_model(&site);
    a_finished_job_stays_finished(&site);
    bad_data_fails_once(&site);
}

fn explained(site: &Site) {
    let text = site.kubectl(&["explain", "tj.spec.fineTune"]);
    for part in ["epochs", "Default: 10", "globalBatchSize", "Images in one optimizer step"] {
        assert!(text.contains(part), "kubectl explain lacks {part:?}:\n{text}");
    }
}

fn from_apply_to_a_model(site: &Site) {
    site.apply("calm", |_| {});
    let end = site.end("calm", Phase::Succeeded);
    assert!(end.metrics.contains_key("auroc") && end.output.is_some() && end.restarts.total == 0, "{end:#?}");
    let wide = site.kubectl(&["get", "tj", "calm", "-n", NAMESPACE, "-o", "wide"]);
    for part in ["Succeeded", "100%", "auroc=", "resnet18", "2"] {
        assert!(wide.contains(part), "{part} is missing in\n{wide}");
    }
    site.kubectl(&["wait", "--for=condition=Complete", "tj/calm", "-n", NAMESPACE, "--timeout=5s"]);
    site.verify("calm");
    let logs = site.kubectl(&["logs", "-n", NAMESPACE, "-l", "graft.dev/job=calm", "--tail=-1"]);
    assert!(!logs.contains("phantom-0"), "a patient id in the log");
}

fn a_finished_job_stays_finished(site: &Site) {
    site.kubectl(&["delete", "job,service,configmap", "-n", NAMESPACE, "-l", "graft.dev/job=calm"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(site.names("job,pod", "calm").is_empty());
    assert_eq!(status(&site.lab.cluster, NAMESPACE, "calm").unwrap().phase, Some(Phase::Succeeded));
}

fn bad_data_fails_once(site: &Site) {
    site.apply("bad", |job| job["spec"]["data"]["columns"]["label"] = "lable".into());
    let end = site.end("bad", Phase::Failed);
    let failure = end.failure.unwrap();
    assert_eq!((failure.class, failure.reason.as_str(), end.restarts.total), (FailureClass::DataError, "ColumnNotFound", 0));
    assert!(failure.message.contains("manifest.csv") && failure.message.contains("label"), "{}", failure.message);
}
