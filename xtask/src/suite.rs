//! Runs every test program of the workspace and adds up what they say. A program that ends without saying anything counts
//! as one failure, so a crash can never look like success.

use std::io::Read;
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
    // Those with a cluster wait for it most of the time, the others compute.
    let (waiting, computing): (Vec<&Program>, Vec<&Program>) = programs.iter().partition(|program| program.folder.ends_with("tests"));
    let both = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one_after_another(&cargo, &waiting));
        let computing = one_after_another(&cargo, &computing);
        [computing, waiting.join().unwrap_or_else(|_| Err(anyhow::anyhow!("running the tests with a cluster panicked")))]
    });
    for found in both {
        for (name, (found, skipped)) in found? {
            if found.failed > 0 {
                notes.push(format!("failed: {} tests of {name}", found.failed));
            }
            notes.extend(skipped);
            tally.add(found);
        }
    }
    let mut examples = cargo.command("test");
    tally.add(tests("examples in the documentation", examples.args(["--release", "--workspace", "--doc", "--no-fail-fast", "--quiet"]))?.0);
    Ok(())
}

/// Run programs in this order; gives what each one showed.
fn one_after_another<'a>(cargo: &Cargo, programs: &[&'a Program]) -> Result<Vec<(&'a str, Seen)>> {
    let mut found = Vec::new();
    for program in programs {
        let mut command = Command::new(&program.executable);
        cargo.environment(&mut command);
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        if program.threads == Threads::One {
            command.arg("--test-threads=1");
        }
        // Tables of what was seen, figures, and what could not be run here.
        command.arg("--show-output");
        found.push((program.name.as_str(), tests(&program.name, &mut command)?));
    }
    Ok(found)
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

/// What test programs showed, and the lines in which tests say that they were skipped: the harness counts those as passed.
type Seen = (Tally, Vec<String>);

/// Run test programs, show all that they print in one piece when they have ended, and count.
fn tests(name: &str, command: &mut Command) -> Result<Seen> {
    let began = Instant::now();
    let (mut reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("starting {}", run::shown(command)))?;
    // Else this process's own ends would keep the pipe open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    let status = child.wait()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut tally = Tally::default();
    for found in text.lines().filter_map(result_line) {
        tally.add(found);
    }
    let crashed = !status.success() && tally.failed == 0;
    if crashed {
        tally.add(Tally::FAILURE);
    }
    let why = if crashed { format!(": ended with {status} without naming a failed test") } else { String::new() };
    let Tally { passed, failed } = tally;
    println!("── test {name}\n{}\n   {passed} passed, {failed} failed in {:.1} s{why}", text.trim_end(), began.elapsed().as_secs_f64());
    Ok((tally, skipped(&text)))
}

/// The lines in which tests say that they were skipped, and why.
fn skipped(text: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with("skipped ")).map(str::to_owned).collect()
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
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 101";
        let seen = super::tests("a crash", Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(seen, (Tally { passed: 2, failed: 1 }, Vec::new()));
    }

    #[test]
    fn what_tests_skip_is_found_among_what_they_print() {
        let text = "test one ... ok\n---- one stdout ----\nskipped one: no GPU\nnothing skipped here\n";
        assert_eq!(skipped(text), ["skipped one: no GPU"]);
    }
}
