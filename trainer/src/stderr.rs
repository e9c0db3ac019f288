//! What a rank's libraries write to standard error, where people look for what went wrong: warnings by the hundred and backtraces
//! are counted and told once at the end, everything else is told as it comes. Pure: lines in, sentences out.

use std::collections::VecDeque;

use graft_crds::contract::truncate;

/// How many of the last lines are kept for the report of a crash.
const LAST_LINES: usize = 4;
/// Bytes of a line in such a report.
const LINE: usize = 200;

/// What need not be read line by line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noise {
    Warning,
    Backtrace,
}

/// What was written so far.
#[derive(Default)]
pub(crate) struct Words {
    warnings: u64,
    first_warning: String,
    backtraces: u64,
    last: VecDeque<String>,
}

impl Words {
    /// Take note of a line; gives it back if it is to be told now.
    pub(crate) fn hear(&mut self, line: &str) -> Option<String> {
        match noise(line) {
            Some(Noise::Warning) => {
                self.warnings += 1;
                if self.first_warning.is_empty() {
                    self.first_warning = truncate(line.trim(), LINE).to_owned();
                }
                None
            }
            Some(Noise::Backtrace) => {
                self.backtraces += 1;
                None
            }
            None if line.trim().is_empty() => None,
            None => {
                self.last.push_back(truncate(line.trim(), LINE).to_owned());
                if self.last.len() > LAST_LINES {
                    self.last.pop_front();
                }
                Some(line.to_owned())
            }
        }
    }

    /// What was not told, in one sentence.
    pub(crate) fn left_out(&self) -> Option<String> {
        let warnings = (self.warnings > 0).then(|| format!("{} warnings of libraries, the first: {}", self.warnings, self.first_warning));
        let backtraces = (self.backtraces > 0).then(|| format!("{} lines of backtraces", self.backtraces));
        let parts: Vec<String> = warnings.into_iter().chain(backtraces).collect();
        (!parts.is_empty()).then(|| format!("left out: {}", parts.join("; ")))
    }

    /// The last lines that are no noise, as one.
    pub(crate) fn last(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

/// c10 writes `[W1128 10:01:02.123 socket.cpp:752] …`, with the rank before it where it knows one; its exceptions list
/// `frame #7: …`, Rust's panics `  7: name` and `at file`.
fn noise(line: &str) -> Option<Noise> {
    let line = line.trim_start();
    let text = match line.strip_prefix("[rank").and_then(|rest| rest.split_once("]:")) {
        Some((_, rest)) => rest.trim_start(),
        None => line,
    };
    let level = text.strip_prefix('[').and_then(|rest| rest.strip_prefix(['W', 'I']));
    if level.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Some(Noise::Warning);
    }
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(": ") && line.starts_with(|c: char| c.is_ascii_digit());
    let trace = ["frame #", "at /", "at ./", "stack backtrace:", "note: run with `RUST_BACKTRACE", "note: Some details are omitted"];
    (numbered || trace.iter().any(|start| line.starts_with(start))).then_some(Noise::Backtrace)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libtorch 2.11 and Rust write them.
    const CRASH: &str = "\
[W1128 10:01:02.1234 socket.cpp:752] [c10d] The client socket has failed to connect to [localhost]:29500 (errno: 99 - Cannot assign requested address).
[rank1]:[W1128 10:01:02.2345 ProcessGroupNCCL.cpp:1524] Warning: WARNING: destroy_process_group() was not called

terminate called after throwing an instance of 'c10::Error'
  what():  [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory
Exception raised from alloc_cpu at /pytorch/c10/core/impl/alloc_cpu.cpp:127 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x98 (0x7f in /lib/libc10.so)
frame #1: <unknown function> + 0x2f (0x7f in /lib/libc10.so)
stack backtrace:
   0: std::panicking::begin_panic
             at /rustc/library/std/src/panicking.rs:697:5
";

    #[test]
    fn a_crash_in_a_few_lines() {
        let mut words = Words::default();
        let told: Vec<String> = CRASH.lines().filter_map(|line| words.hear(line)).collect();
        assert_eq!(told.len(), 3, "{told:#?}");
        let left_out = words.left_out().unwrap();
        assert!(
            left_out.starts_with("left out: 2 warnings of libraries, the first: [W1128") && left_out.ends_with("; 5 lines of backtraces"),
            "{left_out}"
        );
        assert!(words.last().starts_with("terminate called after") && words.last().contains("can't allocate memory"), "{}", words.last());
    }

    #[test]
    fn what_people_must_read_is_told() {
        for line in ["thread 'main' panicked at trainer/src/main.rs:7:5:", "[E1128 10:01:02.1 x.cpp:1] lost", "12 images", "error: x"] {
            assert_eq!(Words::default().hear(line).as_deref(), Some(line));
        }
        assert_eq!(Words::default().left_out(), None);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut words = Words::default();
        for n in 0..10_000 {
            words.hear(&format!("[I1128 {}", "x".repeat(5000)));
            words.hear(&format!("line {n} {}", "ä".repeat(5000)));
        }
        assert!(words.last().len() <= LAST_LINES * (LINE + 3) && words.left_out().unwrap().len() < 2 * LINE);
        assert!(words.last().contains("line 9999"));
    }
}
