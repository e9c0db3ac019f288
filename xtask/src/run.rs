//! Starts other programs and shows how long each step takes. Nothing here knows what the programs are for.

use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Do `work` under a heading on standard error; its duration is printed at the end. A step that takes long says every minute that it still runs.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("── {what}");
    let began = Instant::now();
    let (done, waiting) = mpsc::channel::<()>();
    let heartbeat = std::thread::spawn({
        let what = what.to_owned();
        move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = waiting.recv_timeout(Duration::from_secs(60)) {
                eprintln!("   {what}: {:.0} s so far", began.elapsed().as_secs_f64());
            }
        }
    });
    let result = work();
    drop(done);
    let _ = heartbeat.join();
    let seconds = began.elapsed().as_secs_f64();
    match &result {
        Ok(_) => eprintln!("   {what}: done in {seconds:.1} s"),
        Err(_) => eprintln!("   {what}: failed after {seconds:.1} s"),
    }
    result
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program()).chain(command.get_args()).map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Run with this terminal's input and output.
///
/// # Errors
/// It cannot be started or ends with another status than 0.
pub fn through(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Run and give standard output; standard error is in the error.
///
/// # Errors
/// It cannot be started or ends with another status than 0.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` ended with {}:\n{}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a person is likely to watch.
pub fn watched() -> bool {
    std::io::stderr().is_terminal()
}
