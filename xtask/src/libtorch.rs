//! Finds libtorch, or installs the pinned wheels into the cache. It only reads files of what it finds and never changes an
//! installation that it did not make itself; every download is checked against the digest in `libtorch.txt`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::machine;
use crate::run;

/// The version that the bindings and the C++ shim are written for.
pub const VERSION: &str = "2.11.0";

/// Platform tags of the wheels; with them one set of wheels serves every Python.
const PLATFORMS: [&str; 9] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux_2_12_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
];

/// A libtorch of [`VERSION`].
#[derive(Clone, Debug)]
pub struct Libtorch {
    /// The folder that holds `lib/` and `include/`.
    pub folder: PathBuf,
    /// How it was found, for people.
    pub origin: &'static str,
}

impl Libtorch {
    /// Shell lines for people who call cargo themselves.
    pub fn exports(&self) -> String {
        format!("export LIBTORCH='{}'\n", self.folder.display())
    }
}

/// `LIBTORCH`, else an importable torch, else the pinned wheels in the cache.
///
/// # Errors
/// `LIBTORCH` names something else than libtorch [`VERSION`], or pip fails.
pub fn find_or_install() -> Result<Libtorch> {
    if let Some(named) = std::env::var_os("LIBTORCH") {
        let folder = PathBuf::from(named);
        return match version(&folder) {
            Some(found) if found == VERSION => Ok(Libtorch { folder, origin: "LIBTORCH" }),
            Some(found) => bail!(
                "LIBTORCH={} is libtorch {found}, Graft needs {VERSION}: name that version, or unset LIBTORCH and Graft installs it",
                folder.display()
            ),
            None => bail!(
                "LIBTORCH={} holds no libtorch (no include/torch/headeronly/version.h): name the folder with lib/ and include/, or unset LIBTORCH and Graft installs it",
                folder.display()
            ),
        };
    }
    let cached = machine::cache()?.join(format!("libtorch-{VERSION}")).join("torch");
    if version(&cached).as_deref() == Some(VERSION) {
        return Ok(Libtorch { folder: cached, origin: "cache" });
    }
    if let Some(folder) = importable().filter(|f| version(f).as_deref() == Some(VERSION)) {
        return Ok(Libtorch { folder, origin: "python3's torch" });
    }
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        bail!("there are no pinned libtorch wheels for this platform: set LIBTORCH to the folder of libtorch {VERSION}");
    }
    let folder = machine::cache()?.join(format!("libtorch-{VERSION}"));
    run::step("install libtorch (0.5 GB download, 1.2 GB on disk)", || install(&folder, "libtorch.txt"))?;
    Ok(Libtorch { folder: cached, origin: "installed now" })
}

/// The folder of the wheels with the CUDA libraries and headers; installed at first use.
///
/// # Errors
/// pip fails.
pub fn cuda_wheels() -> Result<PathBuf> {
    let folder = machine::cache()?.join(format!("cuda-for-{VERSION}"));
    if !folder.is_dir() {
        run::step("install the CUDA libraries (about 2 GB)", || install(&folder, "cuda.txt"))?;
    }
    Ok(folder)
}

/// Version in the headers, which wheels and libtorch's archives both have.
fn version(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("include/torch/headeronly/version.h")).ok()?;
    let full = text.split('"').nth(1)?;
    folder.join("lib/libtorch_cpu.so").is_file().then(|| full.split('+').next().unwrap_or(full).to_owned())
}

/// Where python3 would import torch from, without importing it.
fn importable() -> Option<PathBuf> {
    let script = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
    let text = run::output(Command::new("python3").args(["-c", script])).ok()?;
    Some(PathBuf::from(text.trim())).filter(|p| p.is_dir())
}

fn install(folder: &Path, list: &str) -> Result<()> {
    let parent = folder.parent().context("the cache folder has no parent")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let partial = parent.join(format!("{}.partial-{}", folder.file_name().unwrap_or_default().to_string_lossy(), std::process::id()));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--no-compile"]);
    pip.args(["--implementation", "cp", "--python-version", "3.11"]);
    for platform in PLATFORMS {
        pip.args(["--platform", platform]);
    }
    pip.arg("--progress-bar").arg(if run::watched() { "on" } else { "off" });
    // Standard output belongs to `cargo xtask env`.
    pip.stdout(std::io::stderr()).arg("--target").arg(&partial).arg("-r").arg(machine::workspace().join("xtask").join(list));
    let done =
        run::through(&mut pip).context("installing wheels; it needs python3 with pip (Debian: python3-pip) and a package index, or set LIBTORCH");
    if done.is_err() {
        let _ = fs::remove_dir_all(&partial);
        return done;
    }
    if fs::rename(&partial, folder).is_err() {
        // Another process was faster, or the cache is on a full or read-only disk.
        let _ = fs::remove_dir_all(&partial);
        if !folder.is_dir() {
            bail!("{} cannot be written", folder.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_version_and_digest() {
        for list in ["libtorch.txt", "cuda.txt", "reference.txt"] {
            let text = fs::read_to_string(machine::workspace().join("xtask").join(list)).unwrap();
            let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
            assert!(lines.len() >= 3, "{list}");
            for line in lines {
                // The first is for the Python that the wheels of libtorch are for; others may follow.
                let (name, digests) = line.split_once(" --hash=sha256:").unwrap_or_else(|| panic!("{list}: {line}"));
                let whole = |d: &str| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit());
                assert!(name.contains("==") && digests.split(" --hash=sha256:").all(whole), "{list}: {line}");
            }
        }
    }

    #[test]
    fn a_folder_without_libtorch_has_no_version() {
        assert_eq!(version(Path::new(env!("CARGO_MANIFEST_DIR"))), None);
    }
}
