//! Facts about the machine: folders, the user, the distribution, and which programs are in the path.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The user's cache folder of this project: `GRAFT_CACHE`, else `graft` under `XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// None of the variables is set.
pub fn cache() -> Result<PathBuf> {
    if let Some(own) = std::env::var_os("GRAFT_CACHE") {
        return Ok(PathBuf::from(own));
    }
    if let Some(base) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(base).join("graft"));
    }
    let home = std::env::var_os("HOME").context("no cache folder: set GRAFT_CACHE, XDG_CACHE_HOME or HOME")?;
    Ok(PathBuf::from(home).join(".cache/graft"))
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    std::path::absolute(&named).unwrap_or(named)
}

/// The folder of real data: `GRAFT_DATA`, else `../shared/data` beside the workspace, if there is one.
pub fn real_data() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("GRAFT_DATA") {
        return Some(PathBuf::from(named));
    }
    let beside = workspace().join("../shared/data");
    beside.is_dir().then(|| beside.canonicalize().unwrap_or(beside))
}

/// Path of a program, if it is in the path or where administrators' programs lie.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from));
    folders.map(|f| f.join(name)).find(|p| p.is_file())
}

/// Whether this process has the rights of root.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("Uid:")).and_then(|l| l.split_whitespace().nth(1).map(|uid| uid == "0")).unwrap_or(false)
}

/// Whether packages come by apt-get.
pub fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && program("apt-get").is_some()
}

/// Whether it is worth building an image for a node here; the demo itself finds out exactly and says why not.
pub fn can_hold_a_node() -> bool {
    cfg!(target_os = "linux") && is_root() && Path::new("/sys/fs/cgroup").is_dir()
}
