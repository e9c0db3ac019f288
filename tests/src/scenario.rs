//! A TransferJob's life in the test cluster, as an administrator and a user would drive it: install the CRD, start the
//! operator, apply a file, watch its status. The demo, the end-to-end tests and the benchmarks all go through here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use graft_crds::spec::TransferJob;
use graft_crds::status::{Phase, TransferJobStatus};

use crate::cluster::Cluster;

/// Name under which the trainer image is imported into the nodes.
pub const TRAINER_IMAGE: &str = "docker.io/library/graft-trainer:dev";

/// Name under which the image of a program is imported into the nodes.
#[must_use]
pub fn image_of(program: &str) -> String {
    format!("docker.io/library/{program}:dev")
}

/// The workspace's root folder.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A binary of this workspace, built beside the running one.
///
/// # Errors
/// It has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built beside {}; `cargo xtask test` and `cargo xtask demo` build it", own.display()))
}

/// The folder of real data: `GRAFT_DATA`, else `../shared/data` beside the workspace, if there is one.
#[must_use]
pub fn real_data() -> Option<PathBuf> {
    let folder = std::env::var_os("GRAFT_DATA").map_or_else(|| workspace().join("../shared/data"), PathBuf::from);
    folder.join("covid-ct/manifest.csv").is_file().then(|| folder.canonicalize().unwrap_or(folder))
}

/// A running operator; it is stopped when this is dropped.
pub struct Operator {
    child: Child,
    /// Address of its health and metrics endpoints.
    pub address: String,
    log: PathBuf,
}

impl Operator {
    /// Start the operator on this machine, in the cluster's network: it reads the progress of pods by their addresses, every so many seconds.
    ///
    /// # Errors
    /// It is not built, or does not become ready within 30 seconds; the end of its log is in the message.
    pub fn start(cluster: &Cluster, log: &Path, progress_seconds: u32) -> Result<Self> {
        Self::start_on(cluster, log, free_port()?, progress_seconds)
    }

    /// Start it on this port, where a Prometheus may look for one that was killed.
    ///
    /// # Errors
    /// As [`Operator::start`].
    pub fn start_on(cluster: &Cluster, log: &Path, port: u16, progress_seconds: u32) -> Result<Self> {
        let address = format!("{}:{port}", cluster.address());
        let out = File::options().create(true).append(true).open(log)?;
        let child = cluster
            .command(&binary("graft-operator")?)
            .env("KUBECONFIG", cluster.kubeconfig())
            .args(["--trainer-image", TRAINER_IMAGE, "--listen", &format!("0.0.0.0:{port}")])
            .args(["--progress-interval-seconds", &progress_seconds.to_string()])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("starting graft-operator")?;
        let mut operator = Self { child, address, log: log.to_path_buf() };
        let until = Instant::now() + Duration::from_secs(30);
        while operator.get("/readyz").is_err() {
            if let Some(status) = operator.child.try_wait()? {
                bail!("graft-operator ended with {status}:\n{}", tail(&operator.log));
            }
            if Instant::now() > until {
                bail!("graft-operator is not ready after 30 s:\n{}", tail(&operator.log));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(operator)
    }

    /// The body of one of its HTTP endpoints.
    ///
    /// # Errors
    /// No answer, or not 200.
    pub fn get(&self, path: &str) -> Result<String> {
        http_get(&self.address, path)
    }

    /// The port of [`Operator::address`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default()
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as a crash would.
    ///
    /// # Errors
    /// The process cannot be signalled.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A plain HTTP/1.1 GET.
///
/// # Errors
/// No connection, or an answer other than 200.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// A port that was free a moment ago.
///
/// # Errors
/// No port is free.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Install the CRD the way a user does, and wait until the API server serves it.
///
/// # Errors
/// `kubectl apply` fails.
pub fn install_crd(cluster: &Cluster) -> Result<()> {
    let manifest = workspace().join("crds/manifests/transferjobs.yaml");
    kubectl(cluster, &["apply", "-f", &manifest.to_string_lossy()])?;
    kubectl(cluster, &["wait", "--for=condition=Established", "crd/transferjobs.graft.dev", "--timeout=30s"])?;
    Ok(())
}

/// A namespace under the `restricted` pod security standard.
///
/// # Errors
/// `kubectl` fails.
pub fn restricted_namespace(cluster: &Cluster, name: &str) -> Result<()> {
    kubectl(cluster, &["create", "namespace", name])?;
    kubectl(cluster, &["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"])?;
    Ok(())
}

/// Run kubectl and give its standard output.
///
/// # Errors
/// A non-zero exit; its standard error is the message.
pub fn kubectl(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let output = cluster.kubectl(args)?;
    if !output.status.success() {
        bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The status of a TransferJob; the default before there is one.
///
/// # Errors
/// There is no such object.
pub fn status(cluster: &Cluster, namespace: &str, name: &str) -> Result<TransferJobStatus> {
    let text = kubectl(cluster, &["get", "tj", name, "-n", namespace, "-o", "json"])?;
    let job: TransferJob = serde_json::from_str(&text)?;
    Ok(job.status.unwrap_or_default())
}

/// Look at the status twice a second until `done`; `seen` is called with each status that differs from the last.
///
/// # Errors
/// Not within `limit`; the last status is in the message.
pub fn wait_for(
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    limit: Duration,
    mut seen: impl FnMut(&TransferJobStatus),
    done: impl Fn(&TransferJobStatus) -> bool,
) -> Result<TransferJobStatus> {
    let until = Instant::now() + limit;
    let mut last = None;
    loop {
        let now = status(cluster, namespace, name)?;
        if last.as_ref() != Some(&now) {
            seen(&now);
        }
        if done(&now) {
            return Ok(now);
        }
        if Instant::now() > until {
            bail!("{namespace}/{name} did not get there within {} s; status:\n{}", limit.as_secs(), serde_json::to_string_pretty(&now)?);
        }
        last = Some(now);
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Wait for the end of a run.
///
/// # Errors
/// Not within `limit`.
pub fn wait_for_end(cluster: &Cluster, job: (&str, &str), limit: Duration) -> Result<TransferJobStatus> {
    wait_for(cluster, job, limit, |_| {}, |s| s.phase.is_some_and(Phase::is_terminal))
}
