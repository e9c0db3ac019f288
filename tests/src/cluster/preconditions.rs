//! Whether this machine can run a node. Each precondition is tried, not guessed: a container often shows root and cgroups
//! and still may not make a bridge or an overlay mount. What a trial makes, it removes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::remains::{self, cgroups};
use super::run;

/// Programs that the cluster calls, and the Debian package of each.
const TOOLS: [(&str, &str); 5] =
    [("ip", "iproute2"), ("iptables", "iptables"), ("conntrack", "conntrack"), ("nsenter", "util-linux"), ("mount", "mount")];

/// Processes that are or hold a kubelet: of Kubernetes itself, k3s and MicroK8s.
const KUBELETS: [&str; 4] = ["kubelet", "k3s-server", "k3s-agent", "kubelite"];

/// Whether this machine can run a node; the error says what is missing and the remedy, where there is one.
///
/// # Errors
/// The first precondition that does not hold.
pub fn can_run_node() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("a node needs Linux".into());
    }
    if !fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0) {
        return Err("a node needs root; run this as root".into());
    }
    for (program, package) in TOOLS {
        if !in_path(program) {
            return Err(format!("{program} is missing; install it (Debian: {package})"));
        }
    }
    if let Some(kubelet) = foreign_kubelet() {
        return Err(format!("this machine is a node already ({kubelet} runs), and two kubelets would share /var/lib/kubelet/device-plugins"));
    }
    let name = format!("graft-try-{}", std::process::id());
    let tried = cgroup(&name).and_then(|()| network(&name)).and_then(|()| overlay());
    for group in cgroups(&name) {
        let _ = fs::remove_dir(group);
    }
    let _ = Command::new("ip").args(["netns", "del", &name]).output();
    tried
}

/// Whether a program is in the path.
pub(crate) fn in_path(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

/// The kubelet of a cluster that is not ours: our own runs under the name of the program that holds all components.
fn foreign_kubelet() -> Option<String> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| fs::read_to_string(e.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).find(|name| KUBELETS.contains(&name.as_str()))
}

fn cgroup(name: &str) -> Result<(), String> {
    remains::make_cgroup(name).map_err(|error| format!("control groups cannot be made below /sys/fs/cgroup: {error}"))?;
    // Without limits of its own a pod could take the whole machine's memory; version 2 names its controllers in a file.
    let limited = cgroups(name).iter().any(|group| {
        let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
        group.join("memory.limit_in_bytes").exists() || controllers.split_whitespace().any(|c| c == "memory")
    });
    if limited { Ok(()) } else { Err("no control group with the memory controller can be made below /sys/fs/cgroup".into()) }
}

fn network(name: &str) -> Result<(), String> {
    run(Command::new("ip").args(["netns", "add", name])).map_err(|error| format!("network namespaces cannot be made: {error}"))?;
    run(Command::new("ip").args(["-n", name, "link", "add", "cni0", "type", "bridge"]))
        .map_err(|error| format!("bridges cannot be made: {error}"))?;
    let space = format!("--net=/var/run/netns/{name}");
    let rule = ["iptables", "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", "try", "-j", "MASQUERADE"];
    run(Command::new("nsenter").arg(space).args(rule)).map_err(|error| format!("kube-proxy's iptables rules cannot be made: {error}"))?;
    Ok(())
}

/// containerd unpacks images as overlays below the state folder.
fn overlay() -> Result<(), String> {
    let attempt = || -> anyhow::Result<()> {
        let folder = tempfile::Builder::new().prefix("graft-try-").tempdir_in(remains::STATE_ROOT)?;
        let path = |name: &str| folder.path().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(path(name))?;
        }
        let options = format!("lowerdir={},upperdir={},workdir={}", path("lower").display(), path("upper").display(), path("work").display());
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(path("merged")))?;
        run(Command::new("umount").arg(path("merged")))?;
        Ok(())
    };
    let root = Path::new(remains::STATE_ROOT).display();
    attempt().map_err(|error| format!("overlay file systems cannot be mounted below {root}: {error}"))
}
