//! The work queue as client-go measures it. kube's controller does not show its own, so what asks for a reconcile is noted
//! here, and taken out again when the reconcile begins.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Namespace and name.
pub(super) type Key = (String, String);

#[derive(Default)]
struct State {
    waiting: HashMap<Key, Instant>,
    working: HashMap<Key, Instant>,
}

/// What waits and what is worked on.
#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

impl Queue {
    /// A reconcile is asked for; one that waits already stands for both.
    pub fn add(&self, key: Key) {
        self.locked().waiting.entry(key).or_insert_with(Instant::now);
    }

    /// A reconcile begins; gives how long it was waited for, which is not known of one that a timer asked for.
    pub fn begin(&self, key: Key) -> Option<Duration> {
        let mut state = self.locked();
        let waited = state.waiting.remove(&key).map(|since| since.elapsed());
        state.working.insert(key, Instant::now());
        waited
    }

    /// A reconcile is over.
    pub fn end(&self, key: &Key) {
        self.locked().working.remove(key);
    }

    /// How many wait, of those that `exist`: a child that outlives its job asks for a reconcile that never comes.
    pub fn depth(&self, exist: impl Fn(&Key) -> bool) -> usize {
        let mut state = self.locked();
        state.waiting.retain(|key, _| exist(key));
        state.waiting.len()
    }

    /// How long each running reconcile has taken so far.
    pub fn working(&self) -> Vec<Duration> {
        self.locked().working.values().map(Instant::elapsed).collect()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_once_and_what_is_gone_not_at_all() {
        let queue = Queue::default();
        let key = |name: &str| ("ns".to_owned(), name.to_owned());
        for name in ["a", "a", "gone"] {
            queue.add(key(name));
        }
        assert_eq!(queue.depth(|k| k.1 != "gone"), 1);
        assert!(queue.begin(key("a")).is_some() && queue.begin(key("b")).is_none());
        assert_eq!((queue.depth(|_| true), queue.working().len()), (0, 2));
        queue.end(&key("a"));
        queue.end(&key("b"));
        assert!(queue.working().is_empty());
    }
}
