//! How far a job is, how fast, and how long it will still take. Times are passed in, in seconds from any fixed moment;
//! nothing here reads a clock.

use graft_crds::contract::Stage;

/// The speed is a mean over about this many seconds, so that one slow step does not throw the estimate about.
const HORIZON: f64 = 30.0;

/// The work of one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// The stage.
    pub stage: Stage,
    /// Images that pass through it, over all epochs and ranks.
    pub samples: u64,
    /// Cost of one of them; only the ratio between stages matters. A training step costs about three forward passes.
    pub cost: f64,
}

/// The progress of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracker {
    plan: Vec<Work>,
    at: usize,
    done: u64,
    percent: f64,
    last: Option<f64>,
    samples: Mean,
    work: Mean,
}

/// A rate with exponentially fading memory, exact from the first observation on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean {
    amount: f64,
    seconds: f64,
}

impl Mean {
    fn add(&mut self, amount: f64, seconds: f64) {
        let keep = (-seconds / HORIZON).exp();
        self.amount = self.amount * keep + amount;
        self.seconds = self.seconds * keep + seconds;
    }

    fn rate(self) -> Option<f64> {
        (self.seconds > 0.0 && self.amount > 0.0).then(|| self.amount / self.seconds)
    }
}

impl Tracker {
    /// Progress through `plan`, from its beginning.
    #[must_use]
    pub fn new(plan: Vec<Work>) -> Self {
        Self { plan, at: 0, done: 0, percent: 0.0, last: None, samples: Mean::default(), work: Mean::default() }
    }

    /// `stage` begins at `now`, with `done` of its samples already done by an earlier attempt. Stages before it count as
    /// done; a stage that is not in the plan changes nothing. The speed starts afresh: another stage has another one.
    pub fn begin(&mut self, stage: Stage, done: u64, now: f64) {
        if let Some(at) = self.plan.iter().position(|work| work.stage == stage) {
            (self.at, self.done, self.last) = (at, done, Some(now));
            (self.samples, self.work) = (Mean::default(), Mean::default());
            self.advance();
        }
    }

    /// `samples` more of the current stage are done at `now`, over all ranks.
    pub fn record(&mut self, samples: u64, now: f64) {
        let Some(work) = self.plan.get(self.at) else { return };
        let seconds = (now - self.last.unwrap_or(now)).max(0.0);
        self.samples.add(samples as f64, seconds);
        self.work.add(samples as f64 * work.cost, seconds);
        self.done += samples;
        self.last = Some(now);
        self.advance();
    }

    /// The whole job is done.
    pub fn finish(&mut self) {
        self.at = self.plan.len();
        self.percent = 100.0;
    }

    fn totals(&self) -> (f64, f64) {
        let size = |work: &Work| work.samples as f64 * work.cost;
        let before: f64 = self.plan.iter().take(self.at).map(size).sum();
        let now = self.plan.get(self.at).map_or(0.0, |work| self.done.min(work.samples) as f64 * work.cost);
        (before + now, self.plan.iter().map(size).sum())
    }

    fn advance(&mut self) {
        let (done, all) = self.totals();
        if all > 0.0 {
            self.percent = self.percent.max(100.0 * done / all);
        }
    }

    /// Share of the job that is done, 0 to 100; it never goes back.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.percent
    }

    /// Images per second over all ranks, of late; none before the first step of a stage.
    #[must_use]
    pub fn samples_per_second(&self) -> Option<f64> {
        self.samples.rate()
    }

    /// Estimated seconds that are left, at the present speed per unit of cost; none before a speed is known.
    #[must_use]
    pub fn eta_seconds(&self) -> Option<f64> {
        let (done, all) = self.totals();
        self.work.rate().map(|rate| (all - done).max(0.0) / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> Tracker {
        let work = |stage, samples, cost| Work { stage, samples, cost };
        Tracker::new(vec![work(Stage::FineTune, 1000, 3.0), work(Stage::Features, 500, 1.0), work(Stage::Evaluate, 500, 1.0)])
    }

    #[test]
    fn percent_counts_cost_and_the_estimate_is_exact_at_a_steady_speed() {
        let mut tracker = tracker();
        assert_eq!((tracker.percent(), tracker.eta_seconds()), (0.0, None));
        tracker.begin(Stage::FineTune, 0, 100.0);
        assert_eq!(tracker.samples_per_second(), None);
        for step in 1..=50 {
            tracker.record(10, 100.0 + f64::from(step));
        }
        assert!((tracker.percent() - 37.5).abs() < 1e-9);
        assert!((tracker.samples_per_second().unwrap() - 10.0).abs() < 1e-9);
        assert!((tracker.eta_seconds().unwrap() - 2500.0 / 30.0).abs() < 1e-9);
        tracker.begin(Stage::Evaluate, 0, 200.0);
        assert!((tracker.percent() - 87.5).abs() < 1e-9);
        tracker.finish();
        assert_eq!(tracker.percent(), 100.0);
    }

    #[test]
    fn a_resumed_stage_starts_where_it_was_and_percent_never_falls() {
        let mut tracker = tracker();
        tracker.begin(Stage::FineTune, 500, 0.0);
        assert!((tracker.percent() - 37.5).abs() < 1e-9);
        tracker.begin(Stage::FineTune, 0, 1.0);
        assert!((tracker.percent() - 37.5).abs() < 1e-9);
        tracker.record(5000, 2.0);
        assert!((tracker.percent() - 75.0).abs() < 1e-9, "more samples than planned do not run ahead");
    }

    #[test]
    fn old_speeds_fade_and_no_time_is_no_speed() {
        let mut tracker = tracker();
        tracker.begin(Stage::FineTune, 0, 0.0);
        tracker.record(10, 0.0);
        assert_eq!((tracker.samples_per_second(), tracker.eta_seconds()), (None, None));
        tracker.record(10, 1.0);
        for step in 1..=300 {
            tracker.record(2, 1.0 + f64::from(step));
        }
        assert!((tracker.samples_per_second().unwrap() - 2.0).abs() < 0.01);
    }
}
