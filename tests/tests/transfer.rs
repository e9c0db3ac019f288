//! TransferJobs from `kubectl apply` to a model on a real node: two restricted pods, the real trainer, and what goes wrong in
//! the life of a cluster. The data are generated; `demo.rs` takes the real ones.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use graft_crds::status::{FailureClass, Phase, TransferJobStatus};
use graft_tests::audit;
use graft_tests::cluster::can_run_node;
use graft_tests::lab::{Lab, NAMESPACE, PROGRESS_SECONDS};
use graft_tests::observe::{Prometheus, Span, check_metrics, queries};
use graft_tests::scenario::{Operator, binary, http_get, kubectl, status, wait_for, workspace};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(240);
/// Epochs of the run that is disturbed: enough to be in their midst.
const EPOCHS: u64 = 20;

struct Site {
    lab: Lab,
    data: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        let data = tempfile::Builder::new().prefix("graft-data-").tempdir().unwrap();
        let made = Command::new(binary("graft").unwrap()).arg("generate").arg(data.path()).args(["--patients", "30"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        leak(&data.path().join("phantom"));
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

/// A picture of the training set once more in the test set, as another patient's: training goes on and it is told.
fn leak(folder: &Path) {
    let manifest = fs::read_to_string(folder.join("manifest.csv")).unwrap();
    let row = manifest.lines().find(|row| row.contains(",train,")).unwrap();
    let (image, rest) = row.split_once(',').unwrap();
    let label = rest.split(',').next().unwrap();
    fs::copy(folder.join(image), folder.join("images/again.png")).unwrap();
    fs::write(folder.join("manifest.csv"), format!("{manifest}images/again.png,{label},test,phantom-again\n")).unwrap();
}

#[test]
fn transfer_jobs_on_a_node() {
    if let Err(reason) = can_run_node() {
        println!("skipped transfer_jobs_on_a_node: {reason}");
        return;
    }
    let mut site = Site::start();
    let began = SystemTime::now();
    let prometheus = Prometheus::start(&site.lab.cluster, site.lab.work.path(), &site.lab.operator.address).unwrap();
    explained(&site);
    from_apply_to_a_model(&site);
    a_finished_job_stays_finished(&site);
    bad_data_fails_once(&site);
    an_image_that_is_not_there_is_told(&site);
    lost_pods_and_operators_lose_nothing(&mut site);
    // Prometheus looks once a second.
    std::thread::sleep(Duration::from_secs(3));
    panels_show_what_happened(&prometheus, began);
    series_are_documented(&prometheus);
    trainers_ask_the_api_server_nothing(&site);
    no_patient_is_told(&site);
}

fn explained(site: &Site) {
    let text = site.kubectl(&["explain", "tj.spec.fineTune"]);
    for part in ["epochs", "Default: 10", "globalBatchSize", "Images in one optimizer step"] {
        assert!(text.contains(part), "kubectl explain lacks {part:?}:\n{text}");
    }
}

/// Status and reason of a condition.
fn condition<'a>(status: &'a TransferJobStatus, kind: &str) -> (&'a str, &'a str) {
    let condition = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (&condition.status, &condition.reason)
}

fn from_apply_to_a_model(site: &Site) {
    site.apply("calm", |_| {});
    let end = site.end("calm", Phase::Succeeded);
    assert_eq!((condition(&end, "DataChecked").0, end.data.as_ref().map(|data| data.images > 0)), ("True", Some(true)), "{end:#?}");
    assert_ne!(condition(&end, "ShortcutSuspected").0, "Unknown");
    assert!(end.metrics.contains_key("auroc") && end.output.is_some() && end.restarts.total == 0, "{end:#?}");
    let wide = site.kubectl(&["get", "tj", "calm", "-n", NAMESPACE, "-o", "wide"]);
    for part in ["Succeeded", "100%", "auroc=", "resnet18", "2"] {
        assert!(wide.contains(part), "{part} is missing in\n{wide}");
    }
    site.kubectl(&["wait", "--for=condition=Complete", "tj/calm", "-n", NAMESPACE, "--timeout=5s"]);
    site.verify("calm");
    let logs = site.kubectl(&["logs", "-n", NAMESPACE, "-l", "graft.dev/job=calm", "--tail=-1"]);
    assert!(!logs.contains(PATIENT), "a patient id in the log");
}

fn a_finished_job_stays_finished(site: &Site) {
    site.kubectl(&["delete", "job,service,networkpolicy,configmap", "-n", NAMESPACE, "-l", "graft.dev/job=calm"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(site.names("job,pod", "calm").is_empty());
    assert_eq!(status(&site.lab.cluster, NAMESPACE, "calm").unwrap().phase, Some(Phase::Succeeded));
}

fn bad_data_fails_once(site: &Site) {
    site.apply("bad", |job| job["spec"]["data"]["columns"]["label"] = "lable".into());
    let end = site.end("bad", Phase::Failed);
    let failure = end.failure.as_ref().unwrap();
    assert_eq!((failure.class, failure.reason.as_str(), end.restarts.total), (FailureClass::DataError, "ColumnNotFound", 0));
    assert!(failure.message.contains("manifest.csv") && failure.message.contains("label"), "{}", failure.message);
    assert_eq!(condition(&end, "DataChecked"), ("False", "ColumnNotFound"));
    let events = site.kubectl(&[
        "get",
        "events",
        "-n",
        NAMESPACE,
        "--field-selector",
        "involvedObject.name=bad",
        "-o",
        "jsonpath={range .items[*]}{.reason}: {.message}{end}",
    ]);
    assert!(events.contains("Failed: ColumnNotFound"), "{events}");
}

fn an_image_that_is_not_there_is_told(site: &Site) {
    site.apply("typo", |job| job["spec"]["image"] = "localhost:1/no-such-trainer:1".into());
    let told = site.until("typo", |s| s.failure.is_some());
    let failure = told.failure.unwrap();
    assert_eq!(failure.class, FailureClass::PodNotStarted);
    assert!(failure.message.contains("no-such-trainer"), "{}", failure.message);
    site.kubectl(&["delete", "tj", "typo", "-n", NAMESPACE]);
}

/// The operator is killed while the gang trains, and a pod is deleted while it is away.
fn lost_pods_and_operators_lose_nothing(site: &mut Site) {
    site.apply("hurt", |job| job["spec"]["fineTune"]["epochs"] = EPOCHS.into());
    // Status hears of a checkpoint up to ten seconds later; the folder shows it at once.
    let until = Instant::now() + PATIENCE;
    while !second_checkpoint(&site.lab.models().join("hurt/.graft/checkpoints")) {
        assert!(Instant::now() < until, "{}", site.describe("hurt"));
        std::thread::sleep(Duration::from_millis(50));
    }
    trainers_metrics_are_well_formed(site, "hurt");
    let log = site.log();
    site.lab.operator.kill().unwrap();
    let victim = site.names("pod", "hurt").pop().unwrap();
    site.kubectl(&["delete", "-n", NAMESPACE, &victim, "--grace-period=1", "--wait=true"]);
    site.lab.operator = Operator::start_on(&site.lab.cluster, &log, site.lab.operator.port(), PROGRESS_SECONDS).unwrap();
    let end = site.end("hurt", Phase::Succeeded);
    assert!(end.attempt >= 1, "{end:#?}");
    let history = fs::read_to_string(site.lab.models().join("hurt/history.csv")).unwrap();
    let rows: Vec<Vec<&str>> = history.lines().filter(|l| l.starts_with("fineTune,")).map(|l| l.split(',').collect()).collect();
    let numbers: Vec<u64> = rows.iter().map(|r| r[1].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=EPOCHS).collect::<Vec<_>>(), "each epoch counts once");
    assert_eq!((rows[0][2], rows[rows.len() - 1][2]), ("0", end.attempt.to_string().as_str()), "the second attempt goes on from the checkpoint");
    site.verify("hurt");
    logs_tell_attempts_apart(site, "hurt", end.attempt);
}

fn trainers_metrics_are_well_formed(site: &Site, job: &str) {
    let pod = site.names("pod", job).remove(0).replace("pod/", "");
    let text = site.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9480/proxy/metrics")]);
    assert!(text.contains("graft_trainer_step_seconds_bucket"), "{text}");
    check_metrics(&text).unwrap();
}

/// Whatever Prometheus got from operator and trainers stands in the reference.
fn series_are_documented(prometheus: &Prometheus) {
    let reference = fs::read_to_string(workspace().join("docs/reference/metrics.md")).unwrap();
    let names = "count by (__name__) (last_over_time({__name__=~\"(graft|controller_runtime|workqueue|rest_client)_.+\"}[30m]))";
    let found = prometheus.query(names).unwrap();
    assert!(found.len() > 40, "{found:#?}");
    for series in &found {
        let name = series["metric"]["__name__"].as_str().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = |name: &str| reference.contains(&format!("| `{name}` |"));
        assert!(known(name) || base.is_some_and(known), "{name} is not in docs/reference/metrics.md");
    }
    println!("{} names of series, all in the reference", found.len());
}

/// How the ids of most patients begin.
const PATIENT: &str = "phantom-0";

/// No id of a patient is in what the runs leave behind: the cluster's objects and events, the operator's log and metrics, and all that
/// was written beside the models.
fn no_patient_is_told(site: &Site) {
    assert!(fs::read_to_string(site.data.path().join("phantom/manifest.csv")).unwrap().contains(PATIENT));
    let kinds = "transferjobs,jobs,pods,configmaps,services,networkpolicies,events";
    let objects = site.kubectl(&["get", kinds, "-A", "-o", "yaml"]);
    assert!(objects.contains("DataError"), "nothing is told of the job with bad data");
    let metrics = http_get(&site.lab.operator.address, "/metrics").unwrap();
    let mut told = vec![("objects".to_owned(), objects), ("metrics".into(), metrics), ("log".into(), fs::read_to_string(site.log()).unwrap())];
    let mut folders = vec![site.lab.models()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            told.push(("the name of a file".into(), path.display().to_string()));
            if path.is_dir() {
                folders.push(path);
            } else {
                told.push((path.display().to_string(), String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
            }
        }
    }
    assert!(told.iter().any(|(name, text)| name.ends_with("predictions.csv") && text.contains("patient#")));
    for (what, text) in told {
        assert!(!text.contains(PATIENT), "the id of a patient is in {what}");
    }
}

/// The pods of gangs have no token, and nobody uses their service account.
fn trainers_ask_the_api_server_nothing(site: &Site) {
    let used = audit::used(&site.lab.cluster, &format!("system:serviceaccount:{NAMESPACE}:default")).unwrap();
    assert!(used.is_empty(), "{used:?}");
}

/// The last attempt's pods have its number as a label, and all that their ranks tell has it in the log.
fn logs_tell_attempts_apart(site: &Site, job: &str, attempt: i32) {
    let logs = site.kubectl(&["logs", "-n", NAMESPACE, "-l", &format!("graft.dev/job={job},graft.dev/attempt={attempt}"), "--tail=-1"]);
    let told: Vec<Value> = logs.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for rank in 0..2 {
        assert!(told.iter().any(|line| line["rank"] == rank && line["event"] == "progress"), "rank {rank} tells nothing:\n{logs}");
    }
    for line in told {
        assert_eq!((&line["namespace"], &line["name"], &line["attempt"]), (&json!(NAMESPACE), &json!(job), &json!(attempt)), "{line}");
        assert!(line["stage"].is_string() || line["event"] == "log" || line["event"] == "firstStep", "{line}");
    }
}

/// Every query of every panel gave data in the run, but for those about GPUs. `GRAFT_RECORD` names a folder for what they gave,
/// from which `cargo xtask dashboards` draws.
fn panels_show_what_happened(prometheus: &Prometheus, began: SystemTime) {
    let span = Span::since(began);
    let mut bare = Vec::new();
    for dashboard in ["operator", "fleet", "job"] {
        let mut recorded = serde_json::Map::new();
        for query in queries(dashboard).unwrap() {
            let series = prometheus.range(&query.filled("hurt", "15s"), &span).unwrap();
            let empty = if series.is_empty() { "  empty: no DCGM exporter, because no GPU" } else { "" };
            println!("{dashboard:<10} {:<28} {:>6}  {}{empty}", query.panel, series.len(), query.expression);
            if series.is_empty() != query.expression.contains("DCGM_") {
                bare.push((dashboard, query.clone()));
            }
            recorded.entry(query.id.to_string()).or_insert_with(|| json!([])).as_array_mut().unwrap().push(json!(series));
        }
        if let Some(folder) = std::env::var_os("GRAFT_RECORD") {
            let text = json!({"span": span, "job": "hurt", "panels": recorded}).to_string();
            fs::write(Path::new(&folder).join(format!("{dashboard}.json")), text).unwrap();
        }
    }
    assert!(bare.is_empty(), "panels without data: {bare:#?}");
    let recorded = Prometheus::recorded().unwrap();
    assert_eq!(recorded.len(), 3, "{recorded:?}");
    for rule in recorded {
        let series = prometheus.range(&rule, &span).unwrap();
        let told = |value: &Value| value.as_str().is_some_and(|text| text.parse::<f64>().is_ok_and(f64::is_finite));
        let values = series.iter().flat_map(|one| one["values"].as_array().into_iter().flatten()).filter(|pair| told(&pair[1])).count();
        println!("{:<10} {rule:<45} {:>3} series, {values} values", "recorded", series.len());
        assert!(values > 0, "{rule} records nothing");
    }
    let leak = "ALERTS{alertname=\"GraftLeakFound\",transferjob=\"hurt\",alertstate=\"firing\"}";
    assert!(!prometheus.query(leak).unwrap().is_empty(), "a picture is in two splits, and no alert says so");
}

fn second_checkpoint(runs: &Path) -> bool {
    let epochs = fs::read_dir(runs).into_iter().flatten().flatten().flat_map(|run| fs::read_dir(run.path()).into_iter().flatten().flatten());
    epochs.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("epoch-000002"))
}
