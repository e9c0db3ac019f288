//! Runs every test program of the workspace and adds up what they say. A program that ends without saying anything counts
//! as one failure, so a crash can never look like success.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::build::Cargo;
use crate::lint::{self, Outcome};
use crate::{image, machine, run, setup};

/// Number of tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    const FAILURE: Self = Self { passed: 0, failed: 1 };
}

/// A compiled test program.
struct Program {
    name: String,
    executable: PathBuf,
    folder: PathBuf,
    threads: Threads,
}

/// How many tests of a program run at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Threads {
    /// As many as there are processors.
    Many,
    /// One after another: each starts a cluster, or ranks that use all processors.
    One,
}

/// Lint and every test; the last line is `N passed, N failed`.
///
/// # Errors
/// Something failed.
pub fn test() -> Result<()> {
    let mut tally = Tally::default();
    let mut notes = Vec::new();
    if let Err(error) = everything(&mut tally, &mut notes) {
        eprintln!("error: {error:#}");
        tally.add(Tally::FAILURE);
        notes.push(format!("failed: {error:#}"));
    }
    finish(tally, &notes)
}

/// Only the lints, counted the same way.
///
/// # Errors
/// Something failed.
pub fn lint_only() -> Result<()> {
    let (mut tally, mut notes) = (Tally::default(), Vec::new());
    lints(&Cargo::find()?, &mut tally, &mut notes);
    finish(tally, &notes)
}

fn finish(tally: Tally, notes: &[String]) -> Result<()> {
    for note in notes {
        println!("{}", note.lines().next().unwrap_or_default());
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 || tally.passed == 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn everything(tally: &mut Tally, notes: &mut Vec<String>) -> Result<()> {
    let cargo = setup::compilers()?;
    lints(&cargo, tally, notes);
    // Before the cluster's programs, whose own program would be compiled alone and leave processors idle.
    cargo.everything()?;
    setup::programs(&cargo)?;
    if machine::can_hold_a_node() {
        image::build(image::Accelerator::None)?;
    }
    let programs = programs(&cargo)?;
    for program in &programs {
        eprintln!("── test {}", program.name);
        let mut command = Command::new(&program.executable);
        cargo.environment(&mut command);
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        if program.threads == Threads::One {
            command.arg("--test-threads=1");
        }
        let found = tests(&mut command)?;
        if found.failed > 0 {
            notes.push(format!("failed: {} tests of {}", found.failed, program.name));
        }
        tally.add(found);
    }
    eprintln!("── examples in the documentation");
    tally.add(tests(cargo.command("test").args(["--release", "--workspace", "--doc", "--no-fail-fast", "--quiet"]))?);
    Ok(())
}

fn lints(cargo: &Cargo, tally: &mut Tally, notes: &mut Vec<String>) {
    for (name, outcome) in lint::all(cargo) {
        match outcome {
            Outcome::Passed => tally.passed += 1,
            Outcome::Failed => {
                tally.failed += 1;
                notes.push(format!("failed: {name}"));
            }
            Outcome::Skipped(why) => notes.push(format!("skipped {name}: {why}")),
        }
    }
}

/// A line of cargo's `--message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    profile: Profile,
}

#[derive(Default, Deserialize)]
struct Target {
    name: String,
}

#[derive(Default, Deserialize)]
struct Profile {
    test: bool,
}

/// The test programs, which are compiled.
fn programs(cargo: &Cargo) -> Result<Vec<Program>> {
    let mut build = cargo.command("test");
    build.args(["--release", "--workspace", "--no-run", "--quiet", "--message-format=json-render-diagnostics"]);
    let output = build.stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Message>(line) else { continue };
        if let (true, "compiler-artifact", Some(executable)) = (message.profile.test, message.reason.as_str(), message.executable) {
            let folder = message.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
            let package = folder.strip_prefix(machine::workspace()).unwrap_or(&folder).display().to_string();
            let threads = if matches!(package.as_str(), "tests" | "trainer" | "cli") { Threads::One } else { Threads::Many };
            programs.push(Program { name: format!("{package} {}", message.target.name), executable, folder, threads });
        }
    }
    // Fast ones first, the cluster last.
    programs.sort_by_key(|p| (p.threads == Threads::One, p.folder.ends_with("tests"), p.name.clone()));
    Ok(programs)
}

/// Run test programs, show what they print, and count.
fn tests(command: &mut Command) -> Result<Tally> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("starting {}", run::shown(command)))?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            tally.add(result_line(&line).unwrap_or_default());
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        eprintln!("   ended with {status} without naming a failed test");
        tally.add(Tally::FAILURE);
    }
    eprintln!("   {} passed, {} failed in {:.1} s", tally.passed, tally.failed, began.elapsed().as_secs_f64());
    Ok(tally)
}

/// The numbers of `test result: ok. 3 passed; 0 failed; …`.
fn result_line(line: &str) -> Option<Tally> {
    let numbers = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| numbers.split("; ").find_map(|part| part.strip_suffix(word)?.trim().parse().ok());
    Some(Tally { passed: count(" passed")?, failed: count(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_harness_says() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.53s";
        assert_eq!(result_line(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(result_line("test the_result ... ok"), None);
    }

    #[test]
    fn a_crash_is_a_failure() {
        let tally = super::tests(Command::new("sh").args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 101"])).unwrap();
        assert_eq!(tally, Tally { passed: 2, failed: 1 });
    }
}
