//! The demo: one TransferJob from `kubectl apply` to a model, in a real cluster on this machine. `cargo xtask demo` builds
//! everything it needs and starts it. Where no node can run it says why and trains the same job with `graft run`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use graft_crds::names::{CONDITION_DATA_CHECKED, CONDITION_SHORTCUT_SUSPECTED};
use graft_crds::status::{Phase, TransferJobStatus};
use graft_tests::cluster::{Cluster, Lifetime, Parts, can_run_node};
use graft_tests::scenario::{self, Operator, TRAINER_IMAGE, kubectl};

const NAMESPACE: &str = "radiology";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let keep = arguments.iter().any(|a| a == "--keep");
    let image = arguments.iter().position(|a| a == "--image").and_then(|i| arguments.get(i + 1)).map(PathBuf::from);
    let work = tempfile::Builder::new().prefix("graft-demo-").tempdir()?;
    let result = demo(work.path(), image.as_deref(), keep);
    if keep {
        println!("kept: {}", work.keep().display());
    }
    result
}

/// What is trained on: a folder that becomes `/data`, and the example that uses it.
struct Material {
    data: PathBuf,
    example: PathBuf,
    job: String,
}

fn demo(work: &Path, image: Option<&Path>, keep: bool) -> Result<()> {
    let models = work.join("models");
    fs::create_dir(&models)?;
    // The trainer runs as a user of its own; a real cluster gives it the volume through fsGroup.
    fs::set_permissions(&models, fs::Permissions::from_mode(0o777))?;
    fs::set_permissions(work, fs::Permissions::from_mode(0o755))?;
    let material = material(work)?;
    match (can_run_node(), image) {
        (Ok(()), Some(image)) => in_cluster(work, &models, &material, image, keep)?,
        (Ok(()), None) => bail!("--image PATH is missing: `cargo xtask demo` builds the image and passes it"),
        (Err(reason), _) => {
            println!("This machine cannot run a Kubernetes node: {reason}. Training the same TransferJob with `graft run` instead.");
            graft(&["run", &material.example.to_string_lossy(), "--mount", &mount("/data", &material.data), "--mount", &mount("/models", &models)])?;
        }
    }
    step("load the written model in a fresh process and compare with the stored predictions");
    let model = models.join(&material.job);
    graft(&["verify", &model.to_string_lossy(), "--mount", &mount("/data", &material.data)])?;
    let files: Vec<String> =
        fs::read_dir(&model)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| !n.starts_with('.')).collect();
    println!("{}: {}", model.display(), files.join(", "));
    println!("demo done");
    Ok(())
}

/// Real data where it is to be had, else what the code generates itself.
fn material(work: &Path) -> Result<Material> {
    let examples = scenario::workspace().join("examples");
    if let Some(data) = scenario::real_data() {
        println!("data: COVID-CT and ImageNet weights in {}", data.display());
        return Ok(Material { data, example: examples.join("lung-ct.yaml"), job: "lung-ct".into() });
    }
    println!("data: none in GRAFT_DATA; generating phantom lung slices, and training a small backbone on a generated source domain first");
    let data = work.join("data");
    let folder = data.to_string_lossy().into_owned();
    graft(&["generate", &folder])?;
    graft(&[
        "run",
        &examples.join("phantom-source.yaml").to_string_lossy(),
        "--mount",
        &mount("/data", &data),
        "--mount",
        &mount("/models", &data.join("models")),
    ])?;
    Ok(Material { data, example: examples.join("phantom.yaml"), job: "phantom".into() })
}

fn mount(inside: &str, outside: &Path) -> String {
    format!("{inside}={}", outside.display())
}

fn graft(arguments: &[&str]) -> Result<()> {
    let status = Command::new(scenario::binary("graft")?).args(arguments).status().context("starting graft")?;
    if !status.success() {
        bail!("graft {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

fn step(what: &str) {
    println!("\n── {what}");
}

fn in_cluster(work: &Path, models: &Path, material: &Material, image: &Path, keep: bool) -> Result<()> {
    let began = Instant::now();
    step("start a cluster: etcd, API server, controller-manager, scheduler, kube-proxy, CoreDNS, containerd, kubelet");
    let lifetime = if keep { Lifetime::Detached } else { Lifetime::Owned };
    let cluster = Cluster::start_with(Parts::Node, lifetime)?;
    println!("ready after {:.1} s; KUBECONFIG={}", began.elapsed().as_secs_f64(), cluster.kubeconfig().display());
    step("import the trainer image into the node");
    let imported = Instant::now();
    cluster.load_image(image)?;
    println!("{TRAINER_IMAGE} after {:.1} s", imported.elapsed().as_secs_f64());

    step("kubectl apply -f crds/manifests/transferjobs.yaml, and start the operator");
    scenario::install_crd(&cluster)?;
    scenario::restricted_namespace(&cluster, NAMESPACE)?;
    cluster.create_hostpath_volume("graft-data", NAMESPACE, &material.data, "10Gi")?;
    cluster.create_hostpath_volume("graft-models", NAMESPACE, models, "10Gi")?;
    let log = work.join("operator.log");
    let operator = Operator::start(&cluster, &log, 10)?;

    step(&format!("kubectl apply -n {NAMESPACE} -f {}", material.example.display()));
    print!("{}", kubectl(&cluster, &["apply", "-n", NAMESPACE, "-f", &material.example.to_string_lossy()])?);
    let applied = Instant::now();
    let end = scenario::wait_for(
        &cluster,
        (NAMESPACE, &material.job),
        Duration::from_secs(40 * 60),
        |status| println!("{:>5.0} s  {}", applied.elapsed().as_secs_f64(), line(status)),
        |status| status.phase.is_some_and(Phase::is_terminal),
    )?;
    step("kubectl get tj -o wide");
    print!("{}", kubectl(&cluster, &["get", "tj", "-n", NAMESPACE, "-o", "wide"])?);
    if end.phase != Some(Phase::Succeeded) {
        bail!("the job did not succeed: {}", serde_json::to_string_pretty(&end.failure)?);
    }
    for (name, value) in &end.metrics {
        println!("{name:>24}  {value}");
    }
    for kind in [CONDITION_DATA_CHECKED, CONDITION_SHORTCUT_SUSPECTED] {
        let condition = end.conditions.iter().find(|c| c.type_ == kind).with_context(|| format!("the status has no condition {kind}"))?;
        println!("{kind}={}  {}: {}", condition.status, condition.reason, condition.message);
    }
    if let Some(output) = &end.output {
        println!("model: {} (manifest sha256 {})", output.uri, output.digest);
    }
    drop(operator);
    if keep {
        println!("kept: export KUBECONFIG={}; `cargo xtask cluster down` removes it", cluster.kubeconfig().display());
    } else {
        step("clean up");
        cluster.stop();
    }
    Ok(())
}

fn line(status: &TransferJobStatus) -> String {
    let phase = status.phase.map_or("", Phase::name);
    let stage = status.stage.map_or("", graft_crds::contract::Stage::name);
    let progress = status.progress.clone().unwrap_or_default();
    let metrics: Vec<String> = status.metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let eta = progress.eta.map(|eta| format!("{eta} left")).unwrap_or_default();
    format!("{phase:<10} {stage:<9} {:>4}  {eta:<10} {}", progress.summary, metrics.join(" "))
}
