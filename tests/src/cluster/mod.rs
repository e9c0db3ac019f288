//! One Kubernetes cluster on this machine: a control plane and, if wanted, a node, all in a network namespace of their
//! own. Two clusters therefore never share an address, a port, an iptables chain or a cgroup. What a killed owner
//! left behind is found by its record and removed at the next start.

mod config;
mod preconditions;
mod remains;

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::programs::Programs;
pub use preconditions::can_run_node;
pub(crate) use preconditions::in_path;
pub use remains::{clean_up, list, remove_all};

/// Address of the node, the API server and the DNS server inside the cluster's network namespace.
pub const NODE_ADDRESS: &str = "10.244.0.1";

/// Who ends the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It ends with the process that started it.
    Owned,
    /// It goes on until `cluster down`.
    Detached,
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// etcd, API server, controller-manager and scheduler.
    ControlPlane,
    /// The control plane and a node: kubelet, containerd, kube-proxy and CoreDNS.
    Node,
}

/// A running cluster.
pub struct Cluster {
    programs: Programs,
    place: Place,
    lifetime: Lifetime,
    children: Mutex<Vec<(String, Child)>>,
}

/// Where a cluster keeps its things; all names follow from its id.
#[derive(Clone, Debug)]
pub struct Place {
    id: String,
    state: PathBuf,
    network: u8,
}

impl Place {
    fn new(id: String, network: u8) -> Self {
        let state = Path::new(remains::STATE_ROOT).join(format!("{}{id}", remains::STATE_PREFIX));
        Self { id, state, network }
    }

    fn namespace(&self) -> String {
        format!("graft-{}", self.id)
    }

    /// The cgroup that holds the node's pods.
    fn cgroup(&self) -> String {
        format!("graft-{}", self.id)
    }

    fn host_link(&self) -> String {
        format!("graft{}", self.network)
    }

    /// Address of the cluster as this machine reaches it.
    fn address(&self) -> String {
        format!("10.231.{}.2", self.network)
    }

    /// Address of this machine as the cluster reaches it.
    fn host_address(&self) -> String {
        format!("10.231.{}.1", self.network)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }
}

impl Cluster {
    /// Start a cluster with a node that ends with this process.
    ///
    /// # Errors
    /// A program cannot be built or does not become ready; the end of its log is in the message.
    pub fn start() -> Result<Self> {
        Self::start_with(Parts::Node, Lifetime::Owned)
    }

    /// Start a cluster.
    ///
    /// # Errors
    /// A program cannot be built or does not become ready; the end of its log is in the message.
    pub fn start_with(parts: Parts, lifetime: Lifetime) -> Result<Self> {
        clean_up();
        let programs = Programs::ensure()?;
        let place = remains::claim(lifetime)?;
        let cluster = Self { programs, place, lifetime, children: Mutex::default() };
        if let Err(error) = cluster.bring_up(parts) {
            cluster.remove();
            return Err(error);
        }
        Ok(cluster)
    }

    fn bring_up(&self, parts: Parts) -> Result<()> {
        self.make_network()?;
        config::write_pki(&self.place)?;
        match parts {
            Parts::ControlPlane => self.start_control_plane()?,
            Parts::Node => {
                // containerd needs no API server: the two start side by side.
                self.start_containerd()?;
                self.start_control_plane()?;
                self.start_node()?;
            }
        }
        // The last thing that a pod needs of the control plane; the controller-manager takes seconds to get there.
        self.wait("kube-controller-manager", || self.succeeds(&["wait", "--for=create", "serviceaccount/default", "--timeout=5s"]))
    }

    /// Remove the cluster, detached or not, and reap what this process started of it.
    fn remove(&self) {
        remains::remove(&self.place);
        for (_, child) in &mut *self.children() {
            let _ = child.wait();
        }
    }

    fn children(&self) -> MutexGuard<'_, Vec<(String, Child)>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The administrator's kubeconfig, for use on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.place.file("admin.kubeconfig")
    }

    /// The API server's audit log: one JSON object per write.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.place.file("audit.log")
    }

    /// Address at which this machine reaches programs in the cluster's network.
    #[must_use]
    pub fn address(&self) -> String {
        self.place.address()
    }

    /// Address at which programs in the cluster's network reach this machine.
    #[must_use]
    pub fn host_address(&self) -> String {
        self.place.host_address()
    }

    /// Id, as `cluster down` takes it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.place.id
    }

    /// A command that will run in the cluster's network, where pods have addresses.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/var/run/netns/{}", self.place.namespace())).arg(program);
        // The state folder's name in the environment marks the process as this cluster's; see `remains`.
        command.env(remains::MARK, &self.place.state);
        command
    }

    /// Run kubectl as the administrator.
    ///
    /// # Errors
    /// It cannot be started; a non-zero exit is in the output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_command().args(arguments).stdin(Stdio::null()).output().context("starting kubectl")
    }

    /// kubectl as the administrator, without arguments.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.programs.path("cluster"));
        command.arg("kubectl").env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Import an image (an OCI layout in a tar file) into the node.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn load_image(&self, tar: &Path) -> Result<()> {
        let mut ctr = Command::new(self.programs.path("ctr"));
        run(ctr.arg("--address").arg(self.place.file("containerd.sock")).args(["--namespace", "k8s.io", "images", "import"]).arg(tar))?;
        Ok(())
    }

    /// A PersistentVolume of a folder of this machine, bound to a claim of the same name.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn create_hostpath_volume(&self, name: &str, namespace: &str, folder: &Path, size: &str) -> Result<()> {
        let spec = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("{namespace}-{name}")},
             "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteMany"], "persistentVolumeReclaimPolicy": "Retain",
                      "storageClassName": "", "hostPath": {"path": folder, "type": "Directory"}, "claimRef": {"namespace": namespace, "name": name}}},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": namespace},
             "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": format!("{namespace}-{name}"), "resources": {"requests": {"storage": size}}}}]});
        let file = self.place.file(&format!("volume-{namespace}-{name}.json"));
        fs::write(&file, serde_json::to_vec(&spec)?)?;
        crate::scenario::kubectl(self, &["apply", "-f", &file.to_string_lossy()])?;
        Ok(())
    }

    /// Stop everything and remove every trace.
    pub fn stop(self) {
        drop(self);
    }

    fn make_network(&self) -> Result<()> {
        let (namespace, link) = (self.place.namespace(), self.place.host_link());
        let inner = format!("{link}n");
        let host = format!("10.231.{}.1/30", self.place.network);
        let own = format!("{}/30", self.place.address());
        let node = format!("{NODE_ADDRESS}/24");
        let default = self.place.host_address();
        let outside: [&[&str]; 5] = [
            &["netns", "add", &namespace],
            &["link", "add", &link, "type", "veth", "peer", "name", &inner],
            &["link", "set", &inner, "netns", &namespace],
            &["addr", "add", &host, "dev", &link],
            &["link", "set", &link, "up"],
        ];
        // The network's number is ours alone, so a link of its name is a killed run's.
        let _ = run(Command::new("ip").args(["link", "del", &link]));
        for arguments in outside {
            run(Command::new("ip").args(arguments))?;
        }
        let inside: [&[&str]; 7] = [
            &["link", "set", "lo", "up"],
            &["addr", "add", &own, "dev", &inner],
            &["link", "set", &inner, "up"],
            &["route", "add", "default", "via", &default],
            &["link", "add", "cni0", "type", "bridge"],
            &["addr", "add", &node, "dev", "cni0"],
            &["link", "set", "cni0", "up"],
        ];
        for arguments in inside {
            run(Command::new("ip").args(["-n", &namespace]).args(arguments))?;
        }
        run(self.command(Path::new("sh")).args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))?;
        Ok(())
    }

    fn start_control_plane(&self) -> Result<()> {
        let place = &self.place;
        let path = |name: &str| place.file(name).to_string_lossy().into_owned();
        fs::write(place.file("audit-policy.yaml"), config::AUDIT_POLICY)?;
        self.spawn(
            "etcd",
            "cluster",
            &["etcd".into(), format!("--data-dir={}", path("etcd")), "--unsafe-no-fsync".into(), "--log-level=warn".into()],
        )?;
        self.spawn("kube-apiserver", "cluster", &config::apiserver_arguments(place))?;
        // kubectl costs a third of a second of CPU time: it asks only once the port is open.
        let listens = || TcpStream::connect((place.address(), 6443)).is_ok();
        self.wait("kube-apiserver", || listens() && self.succeeds(&["get", "--raw", "/readyz"]))?;
        let controllers = [
            "kube-controller-manager".into(),
            format!("--kubeconfig={}", path("controller-manager.kubeconfig")),
            format!("--service-account-private-key-file={}", path("service-account.key")),
            format!("--root-ca-file={}", path("ca.crt")),
            format!("--cert-dir={}", path("certs")),
            "--use-service-account-credentials=true".into(),
            // At the default of 20 requests a second it takes longer to start than all the others together.
            "--kube-api-qps=1000".into(),
            "--kube-api-burst=1000".into(),
            "--leader-elect=false".into(),
        ];
        self.spawn("kube-controller-manager", "cluster", &controllers)?;
        let scheduler = [
            "kube-scheduler".into(),
            format!("--kubeconfig={}", path("scheduler.kubeconfig")),
            format!("--cert-dir={}", path("certs")),
            "--leader-elect=false".into(),
        ];
        self.spawn("kube-scheduler", "cluster", &scheduler)
    }

    fn start_containerd(&self) -> Result<()> {
        config::write_node(&self.place, &self.programs)?;
        remains::make_cgroup(&self.place.cgroup())?;
        let file = self.place.file("containerd.toml").to_string_lossy().into_owned();
        self.spawn("containerd", "containerd", &["--config".into(), file])
    }

    fn start_node(&self) -> Result<()> {
        let place = &self.place;
        let path = |name: &str| place.file(name).to_string_lossy().into_owned();
        self.wait("containerd", || place.file("containerd.sock").exists())?;
        let pause = place.file("pause.tar");
        let entry = crate::oci::Entry::File { path: "pause".into(), source: self.programs.path("pause"), mode: 0o755 };
        let settings = crate::oci::Settings { entrypoint: vec!["/pause".into()], user: "65535:65535".into(), ..Default::default() };
        crate::oci::write_image(&pause, config::PAUSE_IMAGE, &[vec![entry]], &settings)?;
        self.wait("containerd", || self.load_image(&pause).is_ok())?;
        let kubelet = [
            "kubelet".into(),
            format!("--config={}", path("kubelet.yaml")),
            format!("--kubeconfig={}", path("kubelet.kubeconfig")),
            format!("--root-dir={}", path("kubelet")),
            format!("--cert-dir={}", path("certs")),
            format!("--node-ip={NODE_ADDRESS}"),
            format!("--hostname-override={}", config::NODE),
        ];
        self.spawn("kubelet", "cluster", &kubelet)?;
        self.spawn("kube-proxy", "cluster", &["kube-proxy".into(), format!("--config={}", path("kube-proxy.yaml"))])?;
        self.spawn("coredns", "coredns", &["-conf".into(), path("Corefile")])?;
        self.wait("kubelet", || self.succeeds(&["wait", "--for=create", "node", config::NODE, "--timeout=5s"]))?;
        self.wait("kubelet", || self.succeeds(&["wait", "--for=condition=Ready", "node", config::NODE, "--timeout=5s"]))
    }

    /// Start a program of the cluster in its network; its output goes to `NAME.log`.
    fn spawn(&self, name: &str, program: &str, arguments: &[String]) -> Result<()> {
        let log = File::create(self.place.file(&format!("{name}.log")))?;
        let mut command = self.command(&self.programs.path(program));
        let shims = self.programs.folder("containerd-shim-runc-v2");
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(arguments).env("PATH", format!("{}:{path}", shims.display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if self.lifetime == Lifetime::Detached {
            command.process_group(0);
        }
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        self.children().push((name.to_owned(), child));
        Ok(())
    }

    fn succeeds(&self, arguments: &[&str]) -> bool {
        self.kubectl(arguments).is_ok_and(|output| output.status.success())
    }

    fn wait(&self, name: &str, ready: impl Fn() -> bool) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(90);
        while !ready() {
            let ended = self.children().iter_mut().any(|(n, child)| n == name && !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > until {
                let log = fs::read_to_string(self.place.file(&format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                bail!("{name} ended, or is not ready after 90 s; the end of its log:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Owned || std::thread::panicking() {
            self.remove();
        }
    }
}

/// Run to the end; a failure names the command and what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
