//! What the write agent does.

use prometheus::{
    Error, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::flight::FlightMetrics;
use super::register::{counter, counters, float_gauge, gauge, gauges, histogram, integer};

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
    /// Rounds in a row in which the spool or the store failed.
    pub(crate) failures: IntGauge,
    spool_oldest_age: Gauge,
    ignored: IntGaugeVec,
    waiting: IntGaugeVec,
    held: IntGaugeVec,
    last_success: Gauge,
    batches: IntCounterVec,
    /// What comes by Flight.
    pub(crate) flight: FlightMetrics,
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
        let help = "Names in incoming that stay there: still being written, or no input.";
        let ignored = gauges(r, "squire_agent_spool_ignored", help, &["reason"])?;
        let help = "Batches that were tried and have to wait, by cause.";
        let waiting = gauges(r, "squire_agent_waiting", help, &["cause"])?;
        let help = "Batches left in incoming for the sake of their table, by cause.";
        let held = gauges(r, "squire_agent_held", help, &["cause"])?;
        let help = "When the agent last ended a batch or had nothing to do; 0 before.";
        let name = "squire_agent_last_success_timestamp_seconds";
        let last_success = float_gauge(r, name, help)?;
        let help = "Rounds in a row in which the spool or the store failed.";
        let failures = gauge(r, "squire_agent_consecutive_failures", help)?;
        Ok(Self {
            commit_seconds,
            conflicts,
            commits,
            rows,
            spool_depth,
            failures,
            spool_oldest_age,
            ignored,
            waiting,
            held,
            last_success,
            batches,
            flight: FlightMetrics::new(r)?,
        })
    }

    /// Counts a finished batch.
    pub(crate) fn batch_finished(&self, result: BatchResult) {
        self.batches.with_label_values(&[result.as_str()]).inc();
    }

    /// How many batches ended so.
    pub(crate) fn finished(&self, result: BatchResult) -> u64 {
        self.batches.with_label_values(&[result.as_str()]).get()
    }

    /// Shows how many batches are in `incoming`, and the age of the oldest in seconds; 0 if there is none.
    pub(crate) fn spool(&self, depth: usize, oldest_age: f64) {
        self.spool_depth.set(integer(depth as u64));
        self.spool_oldest_age.set(oldest_age);
    }

    /// Shows how many names in `incoming` are left alone for this reason.
    pub(crate) fn ignored(&self, reason: &str, count: usize) {
        self.ignored
            .with_label_values(&[reason])
            .set(integer(count as u64));
    }

    /// Shows how many batches wait for this cause.
    pub(crate) fn waiting(&self, cause: &str, count: usize) {
        self.waiting
            .with_label_values(&[cause])
            .set(integer(count as u64));
    }

    /// Shows how many batches stay in `incoming` because their table is held for this cause.
    pub(crate) fn held(&self, cause: &str, count: usize) {
        self.held
            .with_label_values(&[cause])
            .set(integer(count as u64));
    }

    /// A batch was ended, or there was none, at `now_ms` since the epoch.
    pub(crate) fn succeeded(&self, now_ms: u64) {
        let now = std::time::Duration::from_millis(now_ms);
        self.last_success.set(now.as_secs_f64());
    }
}
