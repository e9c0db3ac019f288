//! A real Prometheus in the cluster's network, with the chart's rules, and the queries of the chart's dashboards: what a
//! person would see in Grafana, asked by a test.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::programs::tool;
use crate::scenario::workspace;
use crate::trainers::Trainers;

/// A running Prometheus; it is stopped when this is dropped.
pub struct Prometheus {
    child: Child,
    url: String,
    /// Ends with it.
    trainers: Option<Trainers>,
}

const PORT: u16 = 9090;

impl Prometheus {
    /// Start it with the operator at `target` and the trainers of all jobs, all scraped every second.
    ///
    /// # Errors
    /// It cannot be built or started.
    pub fn start(cluster: &Cluster, folder: &Path, target: &str) -> Result<Self> {
        let rules = workspace().join("charts/graft/rules/graft.yaml");
        let pods = folder.join("trainers.json");
        let trainers = Trainers::follow(cluster, &pods)?;
        // As the ServiceMonitor asks for: the series' own namespace stands.
        let config = format!(
            "rule_files: ['{}']
scrape_configs:
- job_name: graft-operator
  honor_labels: true
  static_configs: [{{targets: ['{target}'], labels: {{namespace: graft-system}}}}]
- job_name: trainers
  file_sd_configs: [{{files: ['{}'], refresh_interval: 1s}}]
",
            rules.display(),
            pods.display(),
        );
        let mut prometheus = Self::start_with(cluster, folder, &config)?;
        prometheus.trainers = Some(trainers);
        Ok(prometheus)
    }

    /// The names under which the chart's rules record.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn recorded() -> Result<Vec<String>> {
        let text = std::fs::read_to_string(workspace().join("charts/graft/rules/graft.yaml"))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned)).collect())
    }

    /// Start it with these rules and `scrape_configs`, all once a second, and its files in `folder`.
    ///
    /// # Errors
    /// It cannot be built or started.
    pub fn start_with(cluster: &Cluster, folder: &Path, config: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let file = folder.join("prometheus.yml");
        fs::write(&file, format!("global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{config}"))?;
        let log = folder.join("prometheus.log");
        let out = fs::File::create(&log)?;
        let mut command = cluster.command(&tool("prometheus")?);
        command.arg(format!("--config.file={}", file.display())).arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()));
        command.arg(format!("--web.listen-address=0.0.0.0:{PORT}")).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().context("starting prometheus")?;
        let prometheus = Self { child, url: format!("http://{}:{PORT}/api/v1", cluster.address()), trainers: None };
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(error) = prometheus.query("vector(1)") {
            if Instant::now() > until {
                bail!("prometheus does not answer: {error:#}\n{}", fs::read_to_string(&log).unwrap_or_default());
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
        let mut found = self.ask("query", &[("query", expression)])?;
        found.retain(|series| series["value"][1] != "NaN");
        Ok(found)
    }

    /// The series that an expression gave over a time; points without a number are left out, and so is a series of none else.
    ///
    /// # Errors
    /// As [`Prometheus::query`].
    pub fn range(&self, expression: &str, span: &Span) -> Result<Vec<Value>> {
        let [start, end, step] = [span.start, span.end, span.step].map(|seconds| seconds.to_string());
        let mut found = self.ask("query_range", &[("query", expression), ("start", &start), ("end", &end), ("step", &step)])?;
        for series in &mut found {
            if let Some(points) = series["values"].as_array_mut() {
                points.retain(|point| point[1] != "NaN");
            }
        }
        found.retain(|series| series["values"].as_array().is_some_and(|points| !points.is_empty()));
        Ok(found)
    }

    fn ask(&self, what: &str, pairs: &[(&str, &str)]) -> Result<Vec<Value>> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(10))).build().into();
        let mut answer = agent.get(format!("{}/{what}", self.url)).query_pairs(pairs.iter().copied()).call()?;
        let mut answer: Value = answer.body_mut().read_json()?;
        if answer["status"] != "success" {
            bail!("{pairs:?}: {}", answer["error"]);
        }
        Ok(answer["data"]["result"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.trainers.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A time that is looked back on, in seconds since 1970, and the distance of its points.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Span {
    /// Its first point.
    pub start: f64,
    /// Its last point.
    pub end: f64,
    /// From one point to the next.
    pub step: f64,
}

impl Span {
    /// From `start` until now, in about 120 points.
    #[must_use]
    pub fn since(start: SystemTime) -> Self {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let (start, end) = (seconds(start), seconds(SystemTime::now()));
        Self { start, end, step: ((end - start) / 120.0).max(1.0) }
    }
}

/// A query of a panel, as it stands in the dashboard.
#[derive(Clone, Debug)]
pub struct Query {
    /// Number of the panel.
    pub id: u64,
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
            found.push(Query { id: panel["id"].as_u64().unwrap_or_default(), panel: text(&panel["title"]), expression: text(&target["expr"]) });
        }
    }
    Ok(found)
}

impl Query {
    /// The expression as Grafana would send it for all namespaces and this job, with rates over `interval`.
    #[must_use]
    pub fn filled(&self, job: &str, interval: &str) -> String {
        self.expression.replace("$__rate_interval", interval).replace("$namespace", ".*").replace("$transferjob", job)
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
