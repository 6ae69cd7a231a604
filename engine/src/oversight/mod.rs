//! How whoever started a run watches it.

mod crew;
mod pace;

pub use crew::{AtWork, Crew};
pub use pace::Pace;
pub(crate) use pace::Paced;

use async_trait::async_trait;
use lance_index::progress::IndexBuildProgress;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// How far a run is, as far as its plan says: what it works through, and how much of it is behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Headway {
    /// What is counted: `bytes` that a compaction reads, `indexes`, `tables` of a cleanup. Empty before there is a plan.
    pub unit: &'static str,
    /// How many are behind it. A conflict plans afresh, and adds to `total` what is planned then.
    pub done: u64,
    /// How many there are.
    pub total: u64,
}

/// Asks a run to stop at its next safe point, and counts its steps: a run whose count stands still hangs. A step is what
/// storage answered, a rewritten task, a commit, a stage of an index build.
#[derive(Debug, Clone, Default)]
pub struct Oversight {
    cancel: CancellationToken,
    /// Whether what is in hand is to be given up as well.
    give_up: CancellationToken,
    steps: Arc<AtomicU64>,
    progress: Arc<Mutex<Headway>>,
    crew: Arc<Mutex<Crew>>,
    /// What its requests to the storage keep to.
    pace: Option<Arc<Pace>>,
    /// Held by the request that pays.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Oversight {
    /// Of a run that reads and writes at this pace.
    pub fn paced(pace: Arc<Pace>) -> Self {
        Self {
            pace: Some(pace),
            ..Self::default()
        }
    }

    pub(crate) fn is_paced(&self) -> bool {
        self.pace.as_ref().is_some_and(|pace| pace.is_limited())
    }

    /// Bytes per second that the run keeps to, with those that share its pace; `None` for no limit.
    pub fn rate(&self) -> Option<u64> {
        self.pace.as_ref().and_then(|pace| pace.rate())
    }

    /// Waits until the run may move `bytes` more.
    pub(crate) async fn pay(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            pace.pay(bytes, self).await;
        }
    }

    /// Waits for those of the run's requests that pay already.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Asks the run to stop: it commits what it has finished, and reports that it was cancelled.
    pub fn cancel(&self) {
        self.cancel.cancel();
        self.give_up.cancel();
    }

    /// Asks the run to stop when the rewrite in hand is finished and committed: that may be a fragment of full size, of which
    /// nothing could be kept. It keeps to no pace any more.
    pub fn wind_down(&self) {
        self.cancel.cancel();
    }

    /// Whether what is in hand is given up.
    pub fn is_given_up(&self) -> bool {
        self.give_up.is_cancelled()
    }

    /// Waits until what is in hand is to be given up.
    pub async fn given_up(&self) {
        self.give_up.cancelled().await;
    }

    /// Whether the run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until the run is asked to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// How far it is.
    pub fn progress(&self) -> Headway {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a step.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// `more` of `unit` lie ahead; what an earlier plan had left is not waited for any more.
    pub(crate) fn planned(&self, unit: &'static str, more: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.unit = unit;
        progress.total = progress.done + more;
    }

    /// `more` of them are behind it.
    pub(crate) fn did(&self, more: u64) {
        self.step();
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.done += more;
        progress.total = progress.total.max(progress.done);
    }
}

#[async_trait]
impl IndexBuildProgress for Oversight {
    async fn stage_start(&self, _: &str, _: Option<u64>, _: &str) -> lance::Result<()> {
        self.step();
        Ok(())
    }

    async fn stage_progress(&self, _: &str, _: u64) -> lance::Result<()> {
        self.step();
        Ok(())
    }

    async fn stage_complete(&self, _: &str) -> lance::Result<()> {
        self.step();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Headway, Oversight};

    #[test]
    fn a_plan_made_afresh_adds_to_what_is_done() {
        let oversight = Oversight::default();
        oversight.planned("bytes", 10);
        oversight.did(4);
        oversight.planned("bytes", 8);
        let at = |done, total| Headway {
            unit: "bytes",
            done,
            total,
        };
        assert_eq!(oversight.progress(), at(4, 12));
        oversight.did(9);
        assert_eq!(oversight.progress(), at(13, 13));
        assert_eq!(oversight.steps(), 2);
    }
}
