//! The bench: a control plane, the operator in it under its own role, and a hand that plays the kubelet.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use graft_crds::status::{Phase, TransferJobStatus};
use graft_tests::cluster::{Cluster, Lifetime, Parts};
use graft_tests::scenario::{binary, free_port, kubectl, restricted_namespace, wait_for, workspace};
use serde_json::{Value, json};

pub const NAMESPACE: &str = "radiology";
pub const OPERATOR: &str = "system:serviceaccount:graft-system:graft-operator";
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bench {
    pub cluster: Cluster,
    pub folder: tempfile::TempDir,
    /// The operator's, the same after a restart, so that one Prometheus sees it all.
    pub port: u16,
}

/// The operator under its service account.
pub struct Operator {
    pub child: Child,
    pub address: String,
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bench {
    pub fn start() -> Self {
        let cluster = Cluster::start_with(Parts::ControlPlane, Lifetime::Owned).unwrap();
        let bench = Self { cluster, folder: tempfile::tempdir().unwrap(), port: free_port().unwrap() };
        bench.kubectl(&["create", "namespace", "graft-system"]);
        bench.kubectl(&["apply", "-f", &workspace().join("operator/rbac.yaml").to_string_lossy()]);
        restricted_namespace(&bench.cluster, NAMESPACE).unwrap();
        bench
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&self.cluster, arguments).unwrap()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn operator(&self) -> Operator {
        self.operator_with(&[])
    }

    pub fn operator_with(&self, more: &[&str]) -> Operator {
        self.run_operator("graft-operator", |command| {
            command.args(more);
        })
    }

    pub fn run_operator(&self, program: &str, change: impl FnOnce(&mut Command)) -> Operator {
        let token = self.kubectl(&["create", "token", "graft-operator", "-n", "graft-system"]);
        let admin: Value = serde_json::from_str(&self.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"])).unwrap();
        let mut own = admin.clone();
        own["users"][0]["user"] = json!({"token": token.trim()});
        let kubeconfig = self.file("operator.kubeconfig");
        fs::write(&kubeconfig, own.to_string()).unwrap();
        let port = self.port;
        let log = fs::File::options().create(true).append(true).open(self.file("operator.log")).unwrap();
        let listen = format!("0.0.0.0:{port}");
        let mut command = self.cluster.command(&binary(program).unwrap());
        command.env("KUBECONFIG", &kubeconfig).args(["--trainer-image", "graft-trainer:test", "--listen", &listen]);
        change(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Operator { child, address: format!("{}:{port}", self.cluster.address()) }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.file("operator.log")).unwrap_or_default()
    }

    pub fn apply(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<String, anyhow::Error> {
        let mut job = json!({
            "apiVersion": "graft.dev/v1alpha1", "kind": "TransferJob", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "backbone": {"architecture": "resnet18", "weights": {"uri": "file:///data/r.pth"}},
                "data": {"train": {"uri": "file:///data/train"}, "test": {"uri": "file:///data/test"}},
                "workers": {"replicas": 2}, "recovery": {"backoffSeconds": 0}, "output": {"uri": "file:///data/out"}
            }
        });
        change(&mut job);
        let file = self.file(&format!("{name}.json"));
        fs::write(&file, job.to_string()).unwrap();
        kubectl(&self.cluster, &["apply", "-f", &file.to_string_lossy()])
    }

    pub fn until(&self, name: &str, done: impl Fn(&TransferJobStatus) -> bool) -> TransferJobStatus {
        wait_for(&self.cluster, (NAMESPACE, name), PATIENCE, |_| {}, done).unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    pub fn until_phase(&self, name: &str, phase: Phase) -> TransferJobStatus {
        self.until(name, |s| s.phase == Some(phase))
    }

    pub fn items(&self, kind: &str, job: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", kind, "-n", NAMESPACE, "-l", &format!("graft.dev/job={job}"), "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
    }

    /// The pods of the job that are not on their way out, as soon as there are so many.
    pub fn pods(&self, job: &str, count: usize) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let pods = self.items("pods", job);
            let live: Vec<_> = pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null() && p["status"]["phase"] == "Pending").collect();
            if live.len() == count {
                return live.iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect();
            }
            assert!(Instant::now() < until, "{} pods instead of {count}: {pods:#?}", live.len());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn set(&self, pod: &str, phase: &str, state: &Value) {
        let container = json!({"name": "trainer", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let patch = json!({"status": {"phase": phase, "containerStatuses": [container]}}).to_string();
        self.kubectl(&["patch", "pod", pod, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    pub fn run(&self, job: &str) -> Vec<String> {
        let pods = self.pods(job, 2);
        for pod in &pods {
            self.set(pod, "Running", &json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
        }
        self.until_phase(job, Phase::Running);
        pods
    }

    pub fn finish(&self, pods: &[String]) {
        let message = json!({"exit": "Ok", "progress": {"stage": "evaluate", "epoch": 1, "epochs": 1, "step": 9, "percent": 100.0, "metrics": {"auroc": 0.9412}},
                             "output": {"uri": "file:///data/out", "digest": "d1"}});
        for pod in pods {
            self.set(pod, "Succeeded", &terminated(0, &message.to_string()));
        }
    }

    pub fn events(&self, job: &str) -> Vec<(String, String)> {
        let text = self.kubectl(&["get", "events", "-n", NAMESPACE, "-o", "json"]);
        let events: Value = serde_json::from_str(&text).unwrap();
        let of_job = events["items"].as_array().unwrap().iter().filter(|e| e["involvedObject"]["name"] == job).cloned();
        of_job.map(|e| (e["type"].as_str().unwrap().to_owned(), e["reason"].as_str().unwrap().to_owned())).collect()
    }

    /// Writes of the operator that are about this job, as the API server's audit log has them.
    pub fn writes(&self, job: &str) -> Vec<String> {
        let text = fs::read_to_string(self.cluster.audit_log()).unwrap();
        let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let own = lines.filter(|e| e["user"]["username"] == OPERATOR && !matches!(e["verb"].as_str(), Some("get" | "list" | "watch")));
        own.filter(|e| {
            let name = e["objectRef"]["name"].as_str().unwrap_or_default();
            name == job || name.starts_with(&format!("{job}-")) || name.starts_with(&format!("{job}."))
        })
        .map(|e| format!("{} {}/{}", e["verb"].as_str().unwrap_or_default(), e["objectRef"]["resource"], e["objectRef"]["subresource"]))
        .collect()
    }
}

pub fn terminated(code: i32, message: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }, "message": message, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:09Z"}})
}
