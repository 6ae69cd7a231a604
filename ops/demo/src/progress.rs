//! What the parts of a run tell each other.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many of the last problems are shown.
const SHOWN_PROBLEMS: usize = 3;

/// The counters of one run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    /// Hours put into the spool.
    pub(crate) fed: usize,
    /// Hours that agents acknowledged.
    pub(crate) acknowledged: usize,
    /// Slices of planes upserted.
    pub(crate) upserts: usize,
    /// Deletes of cancelled flights.
    pub(crate) deletes: usize,
    /// One-shot commands that ended with 75 and were repeated.
    pub(crate) repeats: usize,
    /// Attempts that one-shot commands lost and made again themselves.
    pub(crate) lost_attempts: u64,
    /// Snapshots in which every hour was whole.
    pub(crate) whole_snapshots: usize,
    /// What readers saw that must not be: torn hours, snapshots that could not be read.
    pub(crate) unsound: Vec<String>,
    /// Daemons and agents that ended by themselves and were started again.
    pub(crate) restarts: usize,
}

#[derive(Debug)]
struct Inner {
    committed: Vec<bool>,
    counts: Counts,
    problems: VecDeque<String>,
}

/// The state of a run, shared by its parts.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Inner>);

impl Progress {
    /// Nothing is committed yet of `hours` hours.
    pub(crate) fn new(hours: usize) -> Self {
        let committed = vec![false; hours];
        let (counts, problems) = (Counts::default(), VecDeque::new());
        Self(Mutex::new(Inner {
            committed,
            counts,
            problems,
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks an hour as committed.
    pub(crate) fn mark(&self, hour: usize) {
        if let Some(committed) = self.inner().committed.get_mut(hour) {
            *committed = true;
        }
    }

    /// Whether an hour is committed.
    pub(crate) fn is_committed(&self, hour: usize) -> bool {
        self.inner().committed.get(hour).copied().unwrap_or(false)
    }

    /// How many hours are committed.
    pub(crate) fn committed(&self) -> usize {
        self.inner().committed.iter().filter(|c| **c).count()
    }

    /// How many hours are committed without a gap before them.
    pub(crate) fn prefix(&self) -> usize {
        self.inner().committed.iter().take_while(|c| **c).count()
    }

    /// One past the last committed hour.
    pub(crate) fn reach(&self) -> usize {
        self.inner()
            .committed
            .iter()
            .rposition(|c| *c)
            .map_or(0, |last| last + 1)
    }

    /// Changes the counters.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.inner().counts);
    }

    /// The counters now.
    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts.clone()
    }

    /// Notes something that went wrong and was dealt with.
    pub(crate) fn problem(&self, text: impl Into<String>) {
        let mut inner = self.inner();
        inner.problems.push_back(text.into());
        if inner.problems.len() > SHOWN_PROBLEMS {
            inner.problems.pop_front();
        }
    }

    /// The last of them.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.inner().problems.iter().cloned().collect()
    }
}
