//! Each step is told to the agent, which counts it; short ones together, because waking the agent costs more than what it is told.
//! What that costs is measured with `GRAFT_STEPS=compared`: two steps are told, four are not, two are told again, and the times of
//! both sides are told beside each other. Steps so near to each other find the same machine, and what slows it down over these
//! eight hits both sides alike. `cargo xtask bench metrics` reads them.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::say;
use crate::event::{Event, StepTimes};

/// Which of eight steps are told.
const TOLD: [bool; 8] = [true, true, false, false, false, false, true, true];

/// Steps are told at most so often.
const EVERY: Duration = Duration::from_millis(100);

/// Eights are compared over so many seconds, so that each comparison has its share of what is not done at every step.
const COMPARED: f64 = 1.0;

/// What is told of the steps.
pub(crate) struct Telling {
    /// Those that have not been told yet.
    waiting: Vec<StepTimes>,
    /// When some were told last.
    said: Instant,
    /// Set where half of the steps are not told, to be compared.
    compared: Option<Comparison>,
}

/// Steps that are compared, eight after eight.
#[derive(Default)]
pub(crate) struct Comparison {
    /// When the last step ended; none before the first of an epoch.
    last: Option<Instant>,
    /// How many images each has; another number ends the comparison.
    samples: u64,
    /// Of these eight.
    taken: usize,
    eight: Compared,
    /// Eights before them that have not been told.
    eights: Compared,
}

/// What some eights took, in seconds.
#[derive(Default, Serialize)]
struct Compared {
    /// Steps that were told, and as many that were not.
    steps: u32,
    /// The former.
    told: f64,
    /// The latter.
    untold: f64,
    /// Of the former, the time in which they were told.
    telling: f64,
}

impl Compared {
    fn add(&mut self, eight: &Self) {
        self.steps += 4;
        self.told += eight.told;
        self.untold += eight.untold;
        self.telling += eight.telling;
    }
}

impl Telling {
    /// As `GRAFT_STEPS` has it.
    pub(super) fn from_environment() -> Self {
        let compared = std::env::var_os("GRAFT_STEPS").is_some_and(|value| value == "compared");
        Self { waiting: Vec::new(), said: Instant::now(), compared: compared.then(Comparison::default) }
    }

    /// What happens between two epochs belongs to no step.
    pub(super) fn begin_epoch(&mut self) {
        if let Some(comparison) = &mut self.compared {
            comparison.interrupted();
        }
    }

    /// A step is done.
    pub(super) fn step(&mut self, times: StepTimes) {
        match self.compared.take() {
            None => self.tell(times),
            Some(comparison) => self.compared = Some(comparison.step(times, self)),
        }
    }

    fn tell(&mut self, times: StepTimes) {
        self.waiting.push(times);
        if self.said.elapsed() >= EVERY {
            self.end_epoch();
        }
    }

    /// Nothing waits any longer.
    pub(super) fn end_epoch(&mut self) {
        if !self.waiting.is_empty() {
            say(&Event::Steps { steps: std::mem::take(&mut self.waiting) });
            self.said = Instant::now();
        }
    }
}

impl Comparison {
    /// The next step is no neighbour of the last one.
    fn interrupted(&mut self) {
        (self.last, self.taken, self.eight) = (None, 0, Compared::default());
    }

    /// A step is done; gives what is known before the next one.
    fn step(mut self, times: StepTimes, telling: &mut Telling) -> Self {
        let samples = times.samples;
        let told = TOLD[self.taken];
        let began = Instant::now();
        if told {
            telling.tell(times);
        }
        let took = began.elapsed();
        match self.last.filter(|_| self.samples == samples) {
            None => self.interrupted(),
            Some(last) => {
                let side = if told { &mut self.eight.told } else { &mut self.eight.untold };
                *side += last.elapsed().as_secs_f64();
                self.eight.telling += if told { took.as_secs_f64() } else { 0.0 };
                self.taken += 1;
            }
        }
        self.samples = samples;
        if self.taken == TOLD.len() {
            self.eights.add(&std::mem::take(&mut self.eight));
            self.taken = 0;
        }
        if self.eights.told + self.eights.untold >= COMPARED {
            say(&Event::Log { message: serde_json::to_string(&std::mem::take(&mut self.eights)).unwrap_or_default() });
        }
        self.last = Some(Instant::now());
        self
    }
}
