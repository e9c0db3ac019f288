//! Makes the machine ready: Debian packages, libtorch, and the Kubernetes programs of the test cluster. Everything else
//! than Debian packages goes into the user's cache, pinned and checked by digest; a second call finds it all there.

use std::process::Command;

use anyhow::{Result, bail};

use crate::build::Cargo;
use crate::machine;
use crate::run;

/// A program from a Debian package, and what needs it.
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const FOR_BUILDING: &[Need] = &[
    Need { program: "g++", package: "g++", why: "the C++ part of graft-torch" },
    Need { program: "cmake", package: "cmake", why: "compiling libjpeg-turbo" },
    Need { program: "nasm", package: "nasm", why: "libjpeg-turbo's vector instructions" },
    Need { program: "pkg-config", package: "pkg-config", why: "compiling runc" },
];

const FOR_A_NODE: &[Need] = &[
    Need { program: "ip", package: "iproute2", why: "the cluster's network" },
    Need { program: "iptables", package: "iptables", why: "kube-proxy" },
    Need { program: "conntrack", package: "conntrack", why: "kube-proxy" },
    Need { program: "mount", package: "mount", why: "the kubelet's volumes" },
];

/// Everything that demo, tests and benchmarks need.
///
/// # Errors
/// Something is missing that cannot be installed here; the message names it.
pub fn everything() -> Result<Cargo> {
    let cargo = compilers()?;
    programs(&cargo)?;
    Ok(cargo)
}

/// What compiling needs: packages and libtorch.
///
/// # Errors
/// As [`everything`].
pub fn compilers() -> Result<Cargo> {
    packages()?;
    if machine::can_hold_a_node() && machine::program("go").is_none() {
        bail!("go is missing: the test cluster is compiled from Kubernetes' own Go modules; install Go 1.26 or newer");
    }
    let cargo = Cargo::find()?;
    eprintln!("── libtorch {}: {} ({})", crate::libtorch::VERSION, cargo.libtorch.folder.display(), cargo.libtorch.origin);
    Ok(cargo)
}

/// The programs of the test cluster.
///
/// # Errors
/// As [`everything`].
pub fn programs(cargo: &Cargo) -> Result<()> {
    if machine::can_hold_a_node() {
        cargo.binary("testcluster")?;
        run::step("programs of the test cluster (about 12 minutes at first, then cached)", || {
            run::through(cargo.built("testcluster")?.arg("programs"))
        })?;
    } else {
        eprintln!("── no test cluster on this machine: a node needs Linux, root and cgroups; the demo then trains without one");
    }
    Ok(())
}

/// Install missing Debian packages as root on Debian, and name what is missing elsewhere.
///
/// # Errors
/// Something is missing and cannot be installed.
fn packages() -> Result<()> {
    let node = if machine::can_hold_a_node() { FOR_A_NODE } else { &[] };
    let mut missing: Vec<(&str, String)> = FOR_BUILDING
        .iter()
        .chain(node)
        .filter(|need| machine::program(need.program).is_none())
        .map(|need| (need.package, format!("{} ({})", need.program, need.why)))
        .collect();
    if machine::can_hold_a_node() && !has_seccomp() {
        missing.push(("libseccomp-dev", "libseccomp's headers (runc with seccomp profiles)".into()));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let reasons: Vec<&str> = missing.iter().map(|(_, reason)| reason.as_str()).collect();
    if !(machine::is_root() && machine::is_debian()) {
        bail!("missing: {}. On Debian: apt-get install {}", reasons.join(", "), names.join(" "));
    }
    run::step(&format!("apt-get install {} for {}", names.join(" "), reasons.join(", ")), || {
        let install = |names: &[&str]| {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]).args(names);
            run::output(&mut apt)
        };
        if install(&names).is_err() {
            // The package lists of a fresh image are empty or old.
            run::output(Command::new("apt-get").args(["update", "-qq"]))?;
            install(&names)?;
        }
        Ok(())
    })
}

fn has_seccomp() -> bool {
    Command::new("pkg-config").args(["--exists", "libseccomp"]).status().is_ok_and(|s| s.success())
}
