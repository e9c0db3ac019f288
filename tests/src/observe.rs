//! A real Prometheus in the cluster's network, with the chart's rules, and the queries of the chart's dashboards: what a
//! person would see in Grafana, asked by a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::programs::tool;
use crate::scenario::workspace;

/// A running Prometheus; it is stopped when this is dropped.
pub struct Prometheus<'a> {
    cluster: &'a Cluster,
    child: Child,
    log: PathBuf,
}

/// Only inside the cluster's network.
const ADDRESS: &str = "127.0.0.1:9090";

impl<'a> Prometheus<'a> {
    /// Start it with one target that is scraped every second.
    ///
    /// # Errors
    /// It cannot be built or started.
    pub fn start(cluster: &'a Cluster, folder: &Path, target: &str) -> Result<Self> {
        let rules = workspace().join("charts/graft/rules/graft.yaml");
        // As the ServiceMonitor asks for: the series' own namespace stands.
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{}']
scrape_configs:
- job_name: graft-operator
  honor_labels: true
  static_configs: [{{targets: ['{target}'], labels: {{namespace: graft-system}}}}]
",
            rules.display()
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, config)?;
        let log = folder.join("prometheus.log");
        let out = fs::File::create(&log)?;
        let mut command = cluster.command(&tool("prometheus")?);
        command.arg(format!("--config.file={}", file.display())).arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()));
        command.arg(format!("--web.listen-address={ADDRESS}")).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().context("starting prometheus")?;
        let prometheus = Self { cluster, child, log };
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(error) = prometheus.query("vector(1)") {
            if Instant::now() > until {
                bail!("prometheus does not answer: {error:#}\n{}", fs::read_to_string(&prometheus.log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(prometheus)
    }

    /// The series that an expression gives now; one without a number is none.
    ///
    /// # Errors
    /// Prometheus refuses the expression; its words.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut command = self.cluster.command(&tool("promtool")?);
        command.args(["query", "instant", "-o", "json", &format!("http://{ADDRESS}"), expression]);
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("{expression}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| expression.to_owned())?;
        let number = |series: &&Value| series["value"][1] != "NaN";
        Ok(answer.as_array().into_iter().flatten().filter(number).cloned().collect())
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A query of a panel, as it stands in the dashboard.
#[derive(Clone, Debug)]
pub struct Query {
    /// Title of the panel.
    pub panel: String,
    /// The expression, with Grafana's variables.
    pub expression: String,
}

/// All queries of one of the chart's dashboards.
///
/// # Errors
/// There is no such dashboard.
pub fn queries(dashboard: &str) -> Result<Vec<Query>> {
    let file = workspace().join(format!("charts/graft/dashboards/{dashboard}.json"));
    let value: Value = serde_json::from_str(&fs::read_to_string(&file).with_context(|| file.display().to_string())?)?;
    let mut found = Vec::new();
    for panel in value["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            found.push(Query { panel: text(&panel["title"]), expression: text(&target["expr"]) });
        }
    }
    Ok(found)
}

impl Query {
    /// The expression as Grafana would send it for all namespaces and this job.
    #[must_use]
    pub fn filled(&self, job: &str) -> String {
        self.expression.replace("$__rate_interval", "2m").replace("$namespace", ".*").replace("$transferjob", job)
    }
}

/// `promtool check metrics`: names, types, help and units of a scrape.
///
/// # Errors
/// What it complains of.
pub fn check_metrics(scrape: &str) -> Result<()> {
    use std::io::Write;
    let mut child =
        Command::new(tool("promtool")?).args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("promtool has no input")?.write_all(scrape.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() || !said.trim().is_empty() {
        bail!("promtool check metrics: {said}");
    }
    Ok(())
}
