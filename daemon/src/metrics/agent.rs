//! What the write agent does.

use prometheus::{Error, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::register::{counter, counters, float_gauge, gauge, histogram};

/// Upper bounds in seconds. A commit takes 6 ms on a local disk and some hundred on object storage;
/// conflicts stretch it to minutes.
const COMMIT_BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

/// How the agent finished a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchResult {
    /// Its rows are visible.
    Committed,
    /// Moved to `rejected/` with a reason file.
    Rejected,
    /// A publish before a crash had already made it visible; nothing was committed again.
    AlreadyCommitted,
}

impl BatchResult {
    const ALL: [Self; 3] = [Self::Committed, Self::Rejected, Self::AlreadyCommitted];

    /// The value of the `result` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Rejected => "rejected",
            Self::AlreadyCommitted => "already_committed",
        }
    }
}

/// The agent's metrics; zero in a daemon.
#[derive(Clone, Debug)]
pub(crate) struct AgentMetrics {
    /// Duration of one commit, retries included.
    pub(crate) commit_seconds: Histogram,
    /// Commits that met a concurrent one and were retried.
    pub(crate) conflicts: IntCounter,
    /// Commits made; one may hold many batches.
    pub(crate) commits: IntCounter,
    /// Rows committed.
    pub(crate) rows: IntCounter,
    /// Batches waiting in the spool.
    pub(crate) spool_depth: IntGauge,
    /// Age of the oldest batch in the spool, in seconds; 0 if it is empty.
    pub(crate) spool_oldest_age: Gauge,
    batches: IntCounterVec,
}

impl AgentMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let help = "Spooled batches by how they ended.";
        let batches = counters(r, "squire_agent_batches_total", help, &["result"])?;
        for result in BatchResult::ALL {
            // A rate needs a first sample: every result is shown from the start.
            batches.with_label_values(&[result.as_str()]).inc_by(0);
        }
        let help = "Duration of one commit, retries included.";
        let commit_seconds = histogram(r, "squire_agent_commit_seconds", help, &COMMIT_BUCKETS)?;
        let help = "Commits retried after meeting a concurrent one.";
        let conflicts = counter(r, "squire_agent_conflicts_total", help)?;
        let help = "Commits made; one may hold many batches.";
        let commits = counter(r, "squire_agent_commits_total", help)?;
        let rows = counter(r, "squire_agent_rows_total", "Rows committed.")?;
        let help = "Batches waiting in the spool.";
        let spool_depth = gauge(r, "squire_agent_spool_depth", help)?;
        let help = "Age of the oldest waiting batch; 0 if none waits.";
        let spool_oldest_age = float_gauge(r, "squire_agent_spool_oldest_age_seconds", help)?;
        Ok(Self {
            commit_seconds,
            conflicts,
            commits,
            rows,
            spool_depth,
            spool_oldest_age,
            batches,
        })
    }

    /// Counts a finished batch.
    pub(crate) fn batch_finished(&self, result: BatchResult) {
        self.batches.with_label_values(&[result.as_str()]).inc();
    }
}
