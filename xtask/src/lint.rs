//! Formatting, clippy and cargo-deny, each as one check with a name. A check that this machine cannot do says so and is
//! not counted as passed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::build::Cargo;
use crate::machine;
use crate::run;

const DENY_VERSION: &str = "0.20.2";

/// How a check ended.
pub enum Outcome {
    /// Nothing to complain about.
    Passed,
    /// Complaints are on the terminal.
    Failed,
    /// It could not be done here, and why.
    Skipped(String),
}

/// Every check in turn; a failing one does not stop the others.
pub fn all(cargo: &Cargo) -> Vec<(&'static str, Outcome)> {
    let mut outcomes = vec![
        ("rustfmt", check("rustfmt", cargo.command("fmt").args(["--all", "--", "--check"]))),
        ("clippy", check("clippy", cargo.command("clippy").args(["--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))),
    ];
    match deny_program() {
        Ok(program) => {
            let deny = |arguments: &[&str]| {
                let mut command = Command::new(&program);
                command.current_dir(machine::workspace()).args(["--log-level", "warn"]).args(arguments);
                command
            };
            outcomes.push(("cargo deny", check("cargo deny: bans, licences, sources", &mut deny(&["check", "bans", "licenses", "sources"]))));
            outcomes.push((
                "advisories",
                match run::output(&mut deny(&["fetch", "db"])) {
                    Ok(_) => check("cargo deny: advisories", &mut deny(&["check", "--disable-fetch", "advisories"])),
                    Err(_) => Outcome::Skipped("the advisory database cannot be reached".into()),
                },
            ));
        }
        Err(error) => outcomes.push(("cargo deny", Outcome::Skipped(format!("{error:#}")))),
    }
    outcomes
}

fn check(what: &str, command: &mut Command) -> Outcome {
    match run::step(what, || run::through(command)) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            eprintln!("   {error:#}");
            Outcome::Failed
        }
    }
}

/// cargo-deny from the path or the cache, else compiled into the cache.
fn deny_program() -> Result<PathBuf> {
    let root = machine::cache()?.join("tools");
    let cached = root.join("bin/cargo-deny");
    let is_right = |program: &PathBuf| run::output(Command::new(program).arg("--version")).is_ok_and(|v| v.trim().ends_with(DENY_VERSION));
    if let Some(found) = machine::program("cargo-deny").into_iter().chain([cached.clone()]).find(is_right) {
        return Ok(found);
    }
    run::step(&format!("compile cargo-deny {DENY_VERSION} (about 5 minutes, once)"), || {
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install.args(["install", "cargo-deny", "--locked", "--quiet", "--version", DENY_VERSION, "--root"]).arg(&root);
        install.current_dir(machine::cache()?).env("CARGO_TARGET_DIR", root.join("target"));
        run::through(&mut install)?;
        let _ = std::fs::remove_dir_all(root.join("target"));
        Ok(())
    })?;
    Ok(cached)
}
