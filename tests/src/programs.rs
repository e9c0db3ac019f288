//! The cluster's programs, compiled from the projects' own Go modules into the user's cache. go.mod and go.sum pin every
//! module by digest; the folder of a program is named by the digest of its sources, so a change builds it anew.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cluster::in_path;
use crate::hex;

/// Kubernetes' version; it is stamped into the binary, or clients take the server for v0.0.0.
pub const KUBERNETES: &str = "v1.37.2";

const PROGRESS: Duration = Duration::from_secs(30);

/// One Go module under `tests/programs` and what is built from it.
struct Program {
    folder: &'static str,
    packages: &'static [(&'static str, &'static str)],
    cgo: Cgo,
    about: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Cgo {
    Off,
    /// With libseccomp: without it every pod with the RuntimeDefault profile fails.
    Seccomp,
    /// Off, and without the clouds' clients that Prometheus can discover targets by: half of its compile time.
    NoDiscovery,
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

/// Programs that only a few tests need: built when the first of them asks, not with the cluster.
const TOOLS: &[Program] = &[
    Program {
        folder: "helm",
        packages: &[("helm", "helm.sh/helm/v4/cmd/helm"), ("helm3", "helm.sh/helm/v3/cmd/helm")],
        cgo: Cgo::Off,
        about: "Helm 4 and Helm 3, 2 to 4 minutes",
    },
    Program {
        folder: "prometheus",
        packages: &[("promtool", "github.com/prometheus/prometheus/cmd/promtool"), ("prometheus", "github.com/prometheus/prometheus/cmd/prometheus")],
        cgo: Cgo::NoDiscovery,
        about: "Prometheus and promtool, 2 to 4 minutes",
    },
    Program {
        folder: "schemas",
        packages: &[("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"), ("dashboards", ".")],
        cgo: Cgo::Off,
        about: "kubeconform and the reader of dashboards, 1 minute",
    },
];

/// Path of a program that does not belong to the cluster, such as `helm` or `promtool`; built if it is not in the cache.
///
/// # Errors
/// There is no such program, Go is missing, or the build fails.
pub fn tool(name: &str) -> Result<PathBuf> {
    let program = TOOLS.iter().find(|p| p.packages.iter().any(|(n, _)| *n == name)).with_context(|| format!("there is no program {name}"))?;
    let source = crate::scenario::workspace().join("tests/programs").join(program.folder);
    let folder = folder(program, &source)?;
    if !folder.is_dir() {
        if !in_path("go") {
            bail!("go is missing: {name} is compiled from its Go module; install Go 1.26 or newer");
        }
        build(program, &source, &folder)?;
    }
    Ok(folder.join(name))
}

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
            let source = sources.join(program.folder);
            let folder = folder(program, &source)?;
            if !folder.is_dir() {
                check_tools()?;
                build(program, &source, &folder)?;
            }
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

    /// Name and path of every program.
    pub fn all(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.folders.iter().map(|(name, folder)| (name.as_str(), folder.join(name)))
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

/// Arguments of `go build` for a program.
fn flags(cgo: Cgo) -> Vec<String> {
    let version = "k8s.io/component-base/version";
    let link = format!("-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor=37");
    // No stamp of this repository's state: it differs with every commit, and git refuses to tell it of another user's clone.
    let mut flags = vec!["-trimpath".to_owned(), "-buildvcs=false".to_owned(), "-ldflags".to_owned(), link];
    match cgo {
        Cgo::Off => {}
        Cgo::Seccomp => flags.extend(["-tags".to_owned(), "seccomp".to_owned()]),
        Cgo::NoDiscovery => flags.extend(["-tags".to_owned(), "remove_all_sd".to_owned()]),
    }
    flags
}

/// The folder of a program in the cache, named by the digest of its sources and of how it is built.
fn folder(program: &Program, source: &Path) -> Result<PathBuf> {
    let mut digest = Sha256::new();
    digest.update(format!("{:?} {:?}", flags(program.cgo), program.packages));
    let mut files: Vec<PathBuf> = fs::read_dir(source).with_context(|| source.display().to_string())?.flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        digest.update(fs::read(&file).with_context(|| file.display().to_string())?);
    }
    let key = hex(&digest.finalize());
    Ok(cache().join("programs").join(format!("{}-{}", program.folder, &key[..12])))
}

/// Say what is missing before minutes are spent on compiling.
fn check_tools() -> Result<()> {
    if !in_path("go") {
        bail!("go is missing: the cluster's programs are compiled from their Go modules; install Go 1.26 or newer");
    }
    for (tool, package) in [("cc", "gcc"), ("pkg-config", "pkg-config")] {
        if !in_path(tool) {
            bail!("{tool} is missing, runc needs it; install it (Debian: {package})");
        }
    }
    if !Command::new("pkg-config").args(["--exists", "libseccomp"]).status()?.success() {
        bail!("libseccomp's headers are missing, runc needs them for the RuntimeDefault profile; install them (Debian: libseccomp-dev)");
    }
    Ok(())
}

/// Run `go build -v`, with a line of progress every half minute.
fn compile(name: &str, go: &mut Command, began: Instant) -> Result<()> {
    let mut child = go.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("starting go")?;
    let (mut packages, mut errors, mut next) = (0, Vec::new(), PROGRESS);
    for line in BufReader::new(child.stderr.take().context("go has no output")?).lines() {
        let line = line?;
        // A package that is compiled is a line of one word; all else but downloads is an error.
        if !line.contains(char::is_whitespace) {
            packages += 1;
        } else if !line.starts_with("go: downloading") {
            errors.push(line);
        }
        if began.elapsed() > next {
            println!("   {name}: {packages} packages compiled after {:.0} s", began.elapsed().as_secs_f64());
            next = began.elapsed() + PROGRESS;
        }
    }
    if !child.wait()?.success() {
        bail!("building {name} failed:\n{}", errors.join("\n"));
    }
    Ok(())
}

fn build(program: &Program, source: &Path, folder: &Path) -> Result<()> {
    println!("building {} (once)", program.about);
    let began = Instant::now();
    let parent = cache().join("programs");
    fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(&parent)?;
    for (name, package) in program.packages {
        let cgo = match program.cgo {
            Cgo::Off | Cgo::NoDiscovery => "0",
            Cgo::Seccomp => "1",
        };
        let mut go = Command::new("go");
        go.current_dir(source).args(["build", "-v"]).args(flags(program.cgo)).env("CGO_ENABLED", cgo);
        compile(name, go.arg("-o").arg(partial.path().join(name)).arg(package), began)?;
    }
    // Two that build at the same time make the same: the second to be done finds the folder there.
    if fs::rename(partial.path(), folder).is_err() && !folder.is_dir() {
        bail!("{} cannot be written", folder.display());
    }
    println!("built {} in {:.0} s", program.folder, began.elapsed().as_secs_f64());
    Ok(())
}
