//! Where trainers can be scraped: follows the pods of all jobs, as a Prometheus with the chart's PodMonitor would, and writes
//! the list of targets that a Prometheus without Kubernetes' discovery reads.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use graft_crds::contract::HTTP_PORT;
use graft_crds::names::{LABEL_ATTEMPT, LABEL_JOB};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The pods that are followed; it ends when this is dropped.
pub struct Trainers {
    watch: Child,
    reader: Option<JoinHandle<()>>,
}

impl Trainers {
    /// Keep `file` as Prometheus' `file_sd_configs` take it.
    ///
    /// # Errors
    /// kubectl cannot be started, or the file not be written.
    pub fn follow(cluster: &Cluster, file: &Path) -> Result<Self> {
        fs::write(file, "[]")?;
        let mut command = cluster.kubectl_command();
        command.args(["get", "pods", "--all-namespaces", "--selector", LABEL_JOB, "--watch", "--output-watch-events", "--output=json"]);
        let mut watch = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("starting kubectl")?;
        let output = watch.stdout.take().context("kubectl has no output")?;
        let file = file.to_path_buf();
        let reader = std::thread::spawn(move || {
            let mut targets = BTreeMap::new();
            for event in serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>().map_while(Result::ok) {
                let pod = &event["object"];
                let id = pod["metadata"]["uid"].to_string();
                match target(pod).filter(|_| event["type"] != "DELETED") {
                    Some(target) => targets.insert(id, target),
                    None => targets.remove(&id),
                };
                // Prometheus reads a file that appears under its name whole.
                let partial = file.with_extension("partial");
                let text = json!(targets.values().collect::<Vec<_>>()).to_string();
                let _ = fs::write(&partial, text).and_then(|()| fs::rename(&partial, &file));
            }
        });
        Ok(Self { watch, reader: Some(reader) })
    }
}

impl Drop for Trainers {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// A running pod with the labels that the PodMonitor gives its series.
fn target(pod: &Value) -> Option<Value> {
    let address = pod["status"]["podIP"].as_str().filter(|_| pod["status"]["phase"] == "Running")?;
    let metadata = &pod["metadata"];
    let labels = json!({"namespace": metadata["namespace"], "pod": metadata["name"], "transferjob": metadata["labels"][LABEL_JOB],
                        "attempt": metadata["labels"][LABEL_ATTEMPT]});
    Some(json!({"targets": [format!("{address}:{HTTP_PORT}")], "labels": labels}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_that_run_are_scraped() {
        let mut pod = json!({"metadata": {"namespace": "n", "name": "p", "labels": {"graft.dev/job": "j", "graft.dev/attempt": "2"}},
                             "status": {"phase": "Running", "podIP": "10.0.0.7"}});
        let labels = json!({"namespace": "n", "pod": "p", "transferjob": "j", "attempt": "2"});
        assert_eq!(target(&pod), Some(json!({"targets": ["10.0.0.7:9480"], "labels": labels})));
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(target(&pod), None);
    }
}
