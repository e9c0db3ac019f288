//! Each step is told to the agent, which counts it. What that costs is measured with `GRAFT_STEPS=compared`: two steps are told, four are
//! not, two are told again, and the times of both sides are told beside each other. Steps so near to each other find the same
//! machine, and what slows it down over these eight hits both sides alike. `cargo xtask bench metrics` reads them.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::say;
use crate::event::{Event, StepTimes};

/// Which of eight steps are told.
const TOLD: [bool; 8] = [true, true, false, false, false, false, true, true];

/// Whether steps are told.
pub(crate) enum Telling {
    /// All of them.
    Always,
    /// Half of them.
    Compared(Eight),
}

/// Steps that are compared, from the end of the step before them.
#[derive(Default)]
pub(crate) struct Eight {
    /// When the last step ended; none before the first of an epoch.
    last: Option<Instant>,
    /// How many images each has; another number ends the comparison.
    samples: u64,
    taken: usize,
    told: Duration,
    untold: Duration,
    telling: Duration,
}

/// What eight steps took, in seconds.
#[derive(Serialize)]
struct Compared {
    /// The four that were told.
    told: f64,
    /// The four that were not.
    untold: f64,
    /// Of the former, the time in which they were told.
    telling: f64,
}

impl Telling {
    /// As `GRAFT_STEPS` has it.
    pub(super) fn from_environment() -> Self {
        match std::env::var_os("GRAFT_STEPS") {
            Some(value) if value == "compared" => Self::Compared(Eight::default()),
            Some(_) | None => Self::Always,
        }
    }

    /// What happens between two epochs belongs to no step.
    pub(super) fn begin_epoch(&mut self) {
        if let Self::Compared(eight) = self {
            *eight = Eight::default();
        }
    }

    /// A step is done.
    pub(super) fn step(&mut self, times: StepTimes) {
        match self {
            Self::Always => say(&Event::Step(times)),
            Self::Compared(eight) => eight.step(times),
        }
    }
}

impl Eight {
    fn step(&mut self, times: StepTimes) {
        let told = TOLD[self.taken];
        let began = Instant::now();
        if told {
            say(&Event::Step(times));
        }
        let telling = began.elapsed();
        let Some(last) = self.last.filter(|_| self.samples == times.samples) else {
            *self = Self { last: Some(Instant::now()), samples: times.samples, ..Self::default() };
            return;
        };
        let side = if told { &mut self.told } else { &mut self.untold };
        *side += last.elapsed();
        self.telling += if told { telling } else { Duration::ZERO };
        self.taken += 1;
        self.last = Some(Instant::now());
        if self.taken == TOLD.len() {
            let compared = Compared { told: self.told.as_secs_f64(), untold: self.untold.as_secs_f64(), telling: self.telling.as_secs_f64() };
            say(&Event::Log { message: serde_json::to_string(&compared).unwrap_or_default() });
            *self = Self { last: Some(Instant::now()), samples: self.samples, ..Self::default() };
        }
    }
}
