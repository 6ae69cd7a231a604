//! What maintenance, cleanup and recovery did.

use prometheus::{Error, GaugeVec, IntCounterVec, IntGaugeVec, Registry};
use serde::Serialize;

use super::register::{counters, float_gauges, gauges};
use super::tables::forget;
use super::{INDEX, TABLE};
use crate::decide::planning::OperationKind;

const RUN: [&str; 3] = ["store", "table", "kind"];
const RUN_RESULT: [&str; 4] = ["store", "table", "kind", "result"];

/// How a maintenance run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    /// The wanted state holds.
    Success,
    /// The conflict budget was used up; the next run starts afresh.
    Conflict,
    /// An error that is not a conflict.
    Failed,
    /// What was made could not replace what it should have replaced; it rests.
    Unfit,
    /// Not started, for example because of drift.
    Skipped,
    /// Stopped by a person or with the process; what it had finished is committed.
    Cancelled,
}

impl Ending {
    /// The value of the `result` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Unfit => "unfit",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What one maintenance run took away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Removed {
    /// Fragments merged away by compaction.
    pub(crate) fragments: u64,
    /// Bytes deleted from storage.
    pub(crate) bytes: u64,
    /// Versions deleted by cleanup.
    pub(crate) versions: u64,
}

#[derive(Clone, Debug)]
pub(super) struct MaintenanceMetrics {
    runs: IntCounterVec,
    retries: IntCounterVec,
    last_success: GaugeVec,
    quarantined: IntGaugeVec,
    fragments_removed: IntCounterVec,
    bytes_reclaimed: IntCounterVec,
    versions_removed: IntCounterVec,
    recoveries: IntCounterVec,
    index_bytes: IntCounterVec,
}

impl MaintenanceMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        let help = "Maintenance runs by how they ended.";
        let runs = counters(r, "squire_maintenance_runs_total", help, &RUN_RESULT)?;
        let help = "Maintenance commits repeated after a conflict.";
        let retries = counters(r, "squire_maintenance_retries_total", help, &RUN)?;
        let help = "Unix time of the last successful run, or of when the process first saw it due.";
        let last_success = float_gauges(r, "squire_last_success_timestamp_seconds", help, &RUN)?;
        let help = "1 while this maintenance of a table rests, since its result was unfit.";
        let quarantined = gauges(r, "squire_quarantined", help, &RUN)?;
        let help = "Fragments merged away by compaction.";
        let fragments_removed = counters(r, "squire_fragments_removed_total", help, &TABLE)?;
        let help = "Bytes deleted from storage by cleanup.";
        let bytes_reclaimed = counters(r, "squire_bytes_reclaimed_total", help, &TABLE)?;
        let help = "Table versions deleted by cleanup.";
        let versions_removed = counters(r, "squire_versions_removed_total", help, &TABLE)?;
        let (help, labels) = (
            "Unfinished operations resolved, by outcome.",
            ["store", "outcome"],
        );
        let recoveries = counters(r, "squire_recovery_operations_total", help, &labels)?;
        let help =
            "Bytes that maintenance wrote into an index: built, extended, or moved with its rows.";
        let index_bytes = counters(r, "squire_index_bytes_total", help, &INDEX)?;
        Ok(Self {
            runs,
            retries,
            last_success,
            quarantined,
            fragments_removed,
            bytes_reclaimed,
            versions_removed,
            recoveries,
            index_bytes,
        })
    }

    pub(super) fn finished(&self, run: [&str; 3], result: Ending, now: f64) {
        let [store, table, kind] = run;
        self.runs
            .with_label_values(&[store, table, kind, result.as_str()])
            .inc();
        match result {
            Ending::Success => self.last_success.with_label_values(&run).set(now),
            Ending::Conflict | Ending::Failed | Ending::Unfit => self.due(run, now),
            Ending::Skipped | Ending::Cancelled => {}
        }
    }

    /// A run that fails from the start on has no last success; an alert needs a time to count from.
    pub(super) fn due(&self, run: [&str; 3], now: f64) {
        let last = self.last_success.with_label_values(&run);
        if last.get() == 0.0 {
            last.set(now);
        }
    }

    pub(super) fn retried(&self, run: [&str; 3]) {
        self.retries.with_label_values(&run).inc();
    }

    pub(super) fn removed(&self, store: &str, table: &str, removed: Removed) {
        let Removed {
            fragments,
            bytes,
            versions,
        } = removed;
        self.fragments_removed
            .with_label_values(&[store, table])
            .inc_by(fragments);
        self.bytes_reclaimed
            .with_label_values(&[store, table])
            .inc_by(bytes);
        self.versions_removed
            .with_label_values(&[store, table])
            .inc_by(versions);
    }

    pub(super) fn index_written(&self, index: [&str; 3], bytes: u64) {
        self.index_bytes.with_label_values(&index).inc_by(bytes);
    }

    pub(super) fn recovered(&self, store: &str, outcome: &str) {
        self.recoveries.with_label_values(&[store, outcome]).inc();
    }

    /// Shows whether a run, named by store, table and kind, rests.
    pub(super) fn quarantined(&self, run: [&str; 3], rests: bool) {
        if rests {
            self.quarantined.with_label_values(&run).set(1);
        } else {
            // Fails only if it did not rest.
            self.quarantined.remove_label_values(&run).ok();
        }
    }

    /// What is true of a table now; counters stay.
    pub(super) fn forget(&self, store: &str, table: &str) {
        for kind in OperationKind::ALL {
            let run = [store, table, kind.as_str()];
            forget(&self.quarantined, &run);
            forget(&self.last_success, &run);
        }
    }
}
