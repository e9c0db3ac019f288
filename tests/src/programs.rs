//! The cluster's programs, compiled from the projects' own Go modules into the user's cache. go.mod and go.sum pin every
//! module by digest; the folder of a program is named by the digest of its sources, so a change builds it anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::hex;

/// Kubernetes' version; it is stamped into the binary, or clients take the server for v0.0.0.
pub const KUBERNETES: &str = "v1.37.2";

/// One Go module under `tests/programs` and what is built from it.
struct Program {
    folder: &'static str,
    packages: &'static [(&'static str, &'static str)],
    cgo: Cgo,
    about: &'static str,
}

#[derive(Clone, Copy)]
enum Cgo {
    Off,
    /// With libseccomp: without it every pod with the RuntimeDefault profile fails.
    Seccomp,
}

const PROGRAMS: &[Program] = &[
    Program { folder: "cluster", packages: &[("cluster", ".")], cgo: Cgo::Off, about: "etcd and Kubernetes, 5 to 10 minutes" },
    Program {
        folder: "containerd",
        packages: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        cgo: Cgo::Off,
        about: "containerd, 1 minute",
    },
    Program { folder: "runc", packages: &[("runc", "github.com/opencontainers/runc")], cgo: Cgo::Seccomp, about: "runc" },
    Program {
        folder: "cni",
        packages: &[
            ("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            ("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
            ("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
        ],
        cgo: Cgo::Off,
        about: "network plugins",
    },
    Program { folder: "dns", packages: &[("coredns", ".")], cgo: Cgo::Off, about: "CoreDNS, 1 minute" },
    Program { folder: "pause", packages: &[("pause", ".")], cgo: Cgo::Off, about: "the pause container" },
    Program { folder: "probe", packages: &[("probe", ".")], cgo: Cgo::Off, about: "the probe of the cluster's own test" },
];

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    folders: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Build what is not in the cache yet, one line per program.
    ///
    /// # Errors
    /// Go is missing, or a build fails.
    pub fn ensure() -> Result<Self> {
        let sources = crate::scenario::workspace().join("tests/programs");
        let mut folders = Vec::new();
        for program in PROGRAMS {
            let folder = build(program, &sources.join(program.folder))?;
            folders.extend(program.packages.iter().map(|(name, _)| ((*name).to_owned(), folder.clone())));
        }
        Ok(Self { folders })
    }

    /// Path of a program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        let folder = self.folders.iter().find(|(n, _)| n == name).map(|(_, f)| f.clone()).unwrap_or_default();
        folder.join(name)
    }

    /// Folder of a program.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        self.path(name).parent().map(Path::to_path_buf).unwrap_or_default()
    }
}

/// The user's cache folder of this project: `GRAFT_CACHE`, else `graft` under `XDG_CACHE_HOME` or `~/.cache`.
#[must_use]
pub fn cache() -> PathBuf {
    if let Some(own) = std::env::var_os("GRAFT_CACHE") {
        return PathBuf::from(own);
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache")).join("graft")
}

fn link_flags() -> String {
    let package = "k8s.io/component-base/version";
    format!("-s -w -X {package}.gitVersion={KUBERNETES} -X {package}.gitMajor=1 -X {package}.gitMinor=37")
}

fn build(program: &Program, source: &Path) -> Result<PathBuf> {
    let flags = link_flags();
    let mut digest = Sha256::new();
    digest.update(&flags);
    let mut files: Vec<PathBuf> = fs::read_dir(source).with_context(|| source.display().to_string())?.flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        digest.update(fs::read(&file)?);
    }
    let key = hex(&digest.finalize());
    let folder = cache().join("programs").join(format!("{}-{}", program.folder, &key[..12]));
    if folder.is_dir() {
        return Ok(folder);
    }
    println!("building {} (once)", program.about);
    let began = Instant::now();
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial)?;
    for (name, package) in program.packages {
        let mut go = Command::new("go");
        go.current_dir(source).args(["build", "-trimpath", "-ldflags", &flags]);
        match program.cgo {
            Cgo::Off => go.env("CGO_ENABLED", "0"),
            Cgo::Seccomp => go.env("CGO_ENABLED", "1").args(["-tags", "seccomp"]),
        };
        let output = go.arg("-o").arg(partial.join(name)).arg(package).output().context("starting go; install Go 1.26 or newer")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let errors: Vec<&str> = text.lines().filter(|l| !l.contains("go: downloading")).collect();
            let hint = match program.cgo {
                Cgo::Off => "",
                Cgo::Seccomp => "\nrunc needs a C compiler, pkg-config and libseccomp's headers (Debian: gcc pkg-config libseccomp-dev)",
            };
            bail!("building {name} failed:\n{}{hint}", errors.join("\n"));
        }
    }
    if fs::rename(&partial, &folder).is_err() && !folder.is_dir() {
        bail!("{} cannot be written", folder.display());
    }
    println!("built {} in {:.0} s", program.folder, began.elapsed().as_secs_f64());
    Ok(folder)
}
