//! What the operator remembers between two reconciles of a TransferJob. All of it may be lost at any time: it only
//! saves requests, and decisions are made from what the API server has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use graft_crds::TransferJob;
use graft_crds::contract::Progress;
use jiff::Timestamp;

/// First delay after an error; doubled for each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest delay after an error.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// What is remembered of one TransferJob.
#[derive(Default)]
struct Entry {
    written: Option<Written>,
    progress: Option<(String, Progress)>,
    pulled: Option<Instant>,
    progress_written: Option<Timestamp>,
    errors: u32,
    not_before: Option<Instant>,
}

/// The last status that was written: which version it replaced, and what came out.
struct Written {
    replaced: String,
    job: Arc<TransferJob>,
}

/// Memories by UID.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<String, Entry>>);

impl Memory {
    /// The job itself, or what the last status write made of it when the watch has not brought that yet.
    pub fn freshest(&self, uid: &str, job: &TransferJob) -> TransferJob {
        let rows = self.locked();
        match rows.get(uid).and_then(|e| e.written.as_ref()) {
            Some(written) if job.metadata.resource_version.as_ref() == Some(&written.replaced) => (*written.job).clone(),
            Some(_) | None => job.clone(),
        }
    }

    /// A status was written over the version `replaced`.
    pub fn wrote(&self, uid: &str, replaced: String, job: TransferJob, progress_at: Option<Timestamp>) {
        let mut rows = self.locked();
        let entry = rows.entry(uid.to_owned()).or_default();
        entry.written = Some(Written { replaced, job: Arc::new(job) });
        if progress_at.is_some() {
            entry.progress_written = progress_at;
        }
    }

    /// When progress was last written.
    pub fn progress_written(&self, uid: &str) -> Option<Timestamp> {
        self.locked().get(uid)?.progress_written
    }

    /// It is time to ask for progress again; if so, the question counts as asked.
    pub fn may_pull(&self, uid: &str, interval: Duration) -> bool {
        let mut rows = self.locked();
        let entry = rows.entry(uid.to_owned()).or_default();
        let due = entry.pulled.is_none_or(|at| at.elapsed() >= interval);
        if due {
            entry.pulled = Some(Instant::now());
        }
        due
    }

    /// Remember what an attempt said.
    pub fn pulled(&self, uid: &str, attempt: String, progress: Progress) {
        self.locked().entry(uid.to_owned()).or_default().progress = Some((attempt, progress));
    }

    /// What this attempt said last.
    pub fn progress(&self, uid: &str, attempt: &str) -> Option<Progress> {
        self.locked().get(uid)?.progress.as_ref().filter(|(of, _)| of == attempt).map(|(_, p)| p.clone())
    }

    /// All went well: the next error starts from the shortest delay.
    pub fn succeeded(&self, uid: &str) {
        if let Some(entry) = self.locked().get_mut(uid) {
            entry.errors = 0;
            entry.not_before = None;
        }
    }

    /// Delay after an error, with full jitter. What is tried before the delay is over counts as the same error.
    pub fn failed(&self, uid: &str) -> Duration {
        let mut rows = self.locked();
        let entry = rows.entry(uid.to_owned()).or_default();
        let now = Instant::now();
        if let Some(left) = entry.not_before.and_then(|at| at.checked_duration_since(now)) {
            return left;
        }
        let cap = FIRST_BACKOFF.saturating_mul(1 << entry.errors.min(9)).min(MAX_BACKOFF);
        entry.errors = entry.errors.saturating_add(1);
        let delay = cap.mul_f64(rand::random::<f64>()).max(Duration::from_millis(100));
        entry.not_before = Some(now + delay);
        delay
    }

    /// Forget a TransferJob that is gone.
    pub fn forget(&self, uid: &str) {
        self.locked().remove(uid);
    }

    /// Forget all but these.
    pub fn keep(&self, uids: &HashSet<String>) {
        self.locked().retain(|uid, _| uids.contains(uid));
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
