//! The operator for 64-bit Arm, compiled on another machine: statically with musl, linked by the linker that comes with Rust, its
//! little C compiled by Zig from a pinned wheel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::Cargo;
use crate::{machine, reference, run};

const TARGET: &str = "aarch64-unknown-linux-musl";

/// The compiled operator.
///
/// # Errors
/// Rust's library for the target or Zig cannot be had, or it does not compile.
pub fn operator(cargo: &Cargo) -> Result<PathBuf> {
    let installed = run::output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    if !Path::new(installed.trim()).is_dir() {
        run::step(&format!("rustup target add {TARGET}"), || run::output(Command::new("rustup").args(["target", "add", TARGET])).map(drop))?;
    }
    let python = reference::python("cross", "install Zig, a C compiler for Arm (100 MB download)")?;
    let tools = machine::target().join("cross");
    fs::create_dir_all(&tools).with_context(|| tools.display().to_string())?;
    let tool = |name: &str| -> Result<PathBuf> {
        let path = tools.join(name);
        fs::write(&path, script(&python, name)).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    let mut build = cargo.command("build");
    build.args(["--release", "--quiet", "--package", "graft-operator", "--target", TARGET]);
    build.env("CC_aarch64_unknown_linux_musl", tool("cc")?).env("AR_aarch64_unknown_linux_musl", tool("ar")?);
    build.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    run::step("compile the operator for 64-bit Arm (about 5 minutes at first)", || run::through(&mut build))?;
    Ok(machine::target().join(TARGET).join("release/graft-operator"))
}

/// Runs programs for 64-bit Arm on another machine.
pub const EMULATOR: &str = "qemu-aarch64-static";

/// What a program says its version is, where there is an emulator.
pub fn version(program: &Path) -> Option<String> {
    let said = run::output(Command::new(EMULATOR).arg(program).arg("--version")).ok()?;
    Some(said.trim().to_owned())
}

/// A shell script that is `cc` or `ar`. Rust names the target in its own way, which Zig does not know.
fn script(python: &Path, tool: &str) -> String {
    let target = if tool == "cc" { " -target aarch64-linux-musl" } else { "" };
    format!(
        "#!/bin/sh\nfor word do\n  shift\n  case $word in --target=*) ;; *) set -- \"$@\" \"$word\" ;; esac\ndone\nexec '{}' -m ziglang {tool}{target} \"$@\"\n",
        python.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_not_told_rusts_name_of_the_target() {
        let folder = std::env::temp_dir().join(format!("graft-cross-{}", std::process::id()));
        fs::write(&folder, script(Path::new("echo"), "cc")).unwrap();
        let said = run::output(Command::new("sh").arg(&folder).args(["-O2", "--target=aarch64-unknown-linux-musl", "a file.c"]));
        fs::remove_file(&folder).unwrap();
        assert_eq!(said.unwrap().trim(), "-m ziglang cc -target aarch64-linux-musl -O2 a file.c");
    }
}
