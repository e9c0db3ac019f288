//! What a cluster leaves on the machine, and how it is removed: processes (by a mark in their environment, or by the
//! cluster's cgroup), mounts, network, cgroups and the state folder. A process that is not the cluster's is never touched.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Lifetime, Place, run};

/// Short, because paths of Unix sockets have at most 108 bytes.
pub(super) const STATE_ROOT: &str = "/tmp";
pub(super) const STATE_PREFIX: &str = "graft-cluster-";
/// A folder of this name and a network's number: that number is taken.
const LOCK_PREFIX: &str = "graft-network-";
/// Environment variable of every process of a cluster: its state folder.
pub(super) const MARK: &str = "GRAFT_CLUSTER_STATE";

/// A folder younger than this and without a record belongs to a start that is not that far yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Who owns a state folder.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Process id and start time of the owner; none of a detached cluster.
    owner: Option<(u32, String)>,
}

/// Take a free network number and make the state folder with its record.
pub(super) fn claim(lifetime: Lifetime) -> Result<Place> {
    let id = format!("{:05x}", std::process::id());
    for network in 0..=250 {
        // The folder is the lock: two starts at the same time cannot both make it.
        let lock = lock(network);
        if fs::create_dir(&lock).is_err() {
            continue;
        }
        let place = Place::new(format!("{id}-{network}"), network);
        fs::create_dir(&place.state).with_context(|| place.state.display().to_string())?;
        let owner = match lifetime {
            Lifetime::Owned => Some((std::process::id(), start_time(std::process::id()).unwrap_or_default())),
            Lifetime::Detached => None,
        };
        let mut file = fs::File::create(place.file("record.json"))?;
        file.write_all(&serde_json::to_vec(&Record { owner })?)?;
        return Ok(place);
    }
    bail!("no free network for a cluster; `cargo xtask cluster down` removes old ones")
}

fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

fn lock(network: u8) -> PathBuf {
    Path::new(STATE_ROOT).join(format!("{LOCK_PREFIX}{network}"))
}

/// What follows `prefix` in the names of the state root's folders.
fn named(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(STATE_ROOT).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().strip_prefix(prefix).map(str::to_owned)).collect()
}

/// Every state folder. The record is missing where a start or a removal was killed halfway.
fn places() -> Vec<(Place, Option<Record>)> {
    let place = |id: String| {
        let network = id.rsplit_once('-')?.1.parse().ok()?;
        let place = Place::new(id, network);
        let record = fs::read(place.file("record.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Some((place, record))
    };
    named(STATE_PREFIX).into_iter().filter_map(place).collect()
}

fn old(folder: &Path) -> bool {
    let changed = fs::metadata(folder).and_then(|m| m.modified());
    changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG))
}

/// Remove the clusters whose owner is gone.
pub fn clean_up() {
    for (place, record) in places() {
        let orphan = match record {
            Some(Record { owner: Some((pid, started)) }) => start_time(pid).as_deref() != Some(started.as_str()),
            Some(Record { owner: None }) => false,
            None => old(&place.state),
        };
        if orphan {
            remove(&place);
        }
    }
    let used: Vec<u8> = places().iter().map(|(place, _)| place.network).collect();
    for network in named(LOCK_PREFIX).iter().filter_map(|n| n.parse().ok()).filter(|n| !used.contains(n)) {
        if old(&lock(network)) {
            let _ = fs::remove_dir(lock(network));
        }
    }
}

/// Ids of all clusters.
#[must_use]
pub fn list() -> Vec<String> {
    places().into_iter().map(|(place, _)| place.id).collect()
}

/// Remove one cluster by its id, or with `None` every detached one; gives the ids.
#[must_use]
pub fn remove_all(id: Option<&str>) -> Vec<String> {
    clean_up();
    let wanted = places().into_iter().filter(|(place, record)| match id {
        Some(id) => place.id == id,
        None => record.as_ref().is_some_and(|r| r.owner.is_none()),
    });
    wanted
        .map(|(place, _)| {
            remove(&place);
            place.id
        })
        .collect()
}

/// Remove everything of one cluster, in the order in which nothing comes back.
pub(super) fn remove(place: &Place) {
    for _ in 0..20 {
        let alive = processes(place);
        if alive.is_empty() {
            break;
        }
        for pid in alive {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for mount in mounts(&place.state) {
        let _ = Command::new("umount").args(["-l", &mount]).output();
    }
    let _ = run(Command::new("ip").args(["netns", "del", &place.namespace()]));
    let _ = run(Command::new("ip").args(["link", "del", &place.host_link()]));
    for group in cgroups(&place.cgroup()) {
        remove_cgroup(&group);
    }
    // The kubelet links each container's log there; the folder cannot be configured.
    for link in fs::read_dir("/var/log/containers").into_iter().flatten().flatten() {
        if fs::read_link(link.path()).is_ok_and(|target| target.starts_with(&place.state)) {
            let _ = fs::remove_file(link.path());
        }
    }
    let _ = fs::remove_dir_all(&place.state);
    let _ = fs::remove_dir(lock(place.network));
}

fn processes(place: &Place) -> Vec<u32> {
    let mark = format!("{MARK}={}\0", place.state.display());
    let group = format!("/{}/", place.cgroup());
    let socket = format!("\0-address\0{}", place.file("containerd.sock").display());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let marked = fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| String::from_utf8_lossy(&e).contains(&mark));
            // A shim's environment is its own, but its arguments name the socket in the state folder.
            let named = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(&socket));
            marked || named || fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|c| c.contains(&group))
        })
        .filter(|pid| {
            !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")))
        })
        .collect()
}

/// Mount points under a folder, innermost first.
fn mounts(folder: &Path) -> Vec<String> {
    let prefix = format!("{}/", folder.display());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<String> = text.lines().filter_map(|l| l.split(' ').nth(4)).filter(|m| m.starts_with(&prefix)).map(str::to_owned).collect();
    found.reverse();
    found
}

/// The folders of a cgroup: one per controller with cgroup v1, one with v2.
pub(super) fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(name)];
    }
    fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path().join(name)).collect()
}

/// Make the cgroup in every controller; a new cpuset starts empty in v1 and takes its parent's.
pub(super) fn make_cgroup(name: &str) -> Result<()> {
    for group in cgroups(name) {
        match fs::create_dir(&group) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(_) if group.parent().is_some_and(|p| !p.join("cgroup.procs").exists()) => continue,
            Err(error) => bail!("{}: {error}", group.display()),
        }
        let Some(parent) = group.parent() else { continue };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(parent.join(file)) {
                let _ = fs::write(group.join(file), value.trim());
            }
        }
        if parent.join("cgroup.controllers").exists() {
            let all = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
            // One by one: a single controller that cannot be enabled would refuse them all.
            for controller in all.split_whitespace() {
                for folder in [parent, &group] {
                    let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
    }
    Ok(())
}

fn remove_cgroup(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    let _ = fs::remove_dir(group);
}
