//! How whoever started a run watches it.

use super::pace::Pace;
use async_trait::async_trait;
use lance_index::progress::IndexBuildProgress;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// Asks a run to stop at its next safe point, and counts its steps: a run whose count stands still hangs. A step is what
/// storage answered, a rewritten task, a commit, a stage of an index build.
#[derive(Debug, Clone, Default)]
pub struct Oversight {
    cancel: CancellationToken,
    steps: Arc<AtomicU64>,
    /// What its requests to the storage keep to.
    pace: Option<Arc<Pace>>,
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

    /// Waits until the run may move `bytes` more.
    pub(crate) async fn pay(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            pace.pay(bytes, self).await;
        }
    }

    /// Asks the run to stop: it commits what it has finished, and reports that it was cancelled.
    pub fn cancel(&self) {
        self.cancel.cancel();
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

    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
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
