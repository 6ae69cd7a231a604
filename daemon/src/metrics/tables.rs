//! What each table looks like: gauges, replaced as a whole after each scan.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{Error, GaugeVec, IntCounterVec, IntGaugeVec, Registry};

use super::register::{counters, float_gauges, gauges, integer};
use super::{INDEX, TABLE};

/// What a scan saw of one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableObservation {
    /// Fragments of the visible version.
    pub(crate) fragments: u64,
    /// Of these, the ones that compaction would improve.
    pub(crate) candidate_fragments: u64,
    /// Live rows.
    pub(crate) rows: u64,
    /// Rows that are deleted but still stored.
    pub(crate) deleted_rows: u64,
    /// Size of the data files of the visible version.
    pub(crate) bytes: u64,
    /// Versions on storage.
    pub(crate) versions: u64,
    /// Whether versions of unknown origin stand above the pin.
    pub(crate) drift: bool,
    /// The newest version on storage.
    pub(crate) head_version: u64,
    /// The visible version; the same as the head in a watched directory.
    pub(crate) pin_version: u64,
    /// Every index of the table.
    pub(crate) indexes: Vec<IndexObservation>,
    /// Bytes written or deleted since the table was first seen, by why.
    pub(crate) ledger: Vec<(&'static str, u64)>,
    /// Bytes of files that no version refers to, by age; empty when they were not counted.
    pub(crate) unreferenced: Vec<(&'static str, u64)>,
}

/// What a scan saw of one index.
#[derive(Clone, Debug, Default)]
pub(crate) struct IndexObservation {
    /// Its name.
    pub(crate) name: String,
    /// Rows that it does not cover.
    pub(crate) unindexed_rows: u64,
    /// Time since it was last built or extended; `None` if unknown.
    pub(crate) age: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(super) struct TableGauges {
    fragments: IntGaugeVec,
    candidate_fragments: IntGaugeVec,
    rows: IntGaugeVec,
    deleted_rows: IntGaugeVec,
    bytes: IntGaugeVec,
    versions: IntGaugeVec,
    drift: IntGaugeVec,
    head_version: IntGaugeVec,
    pin_version: IntGaugeVec,
    unindexed_rows: IntGaugeVec,
    index_age: GaugeVec,
    unreferenced: IntGaugeVec,
    ledger: IntCounterVec,
}

impl TableGauges {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            fragments: gauges(
                r,
                "squire_fragments",
                "Fragments of the visible version.",
                &TABLE,
            )?,
            candidate_fragments: gauges(
                r,
                "squire_candidate_fragments",
                "Fragments that compaction would improve.",
                &TABLE,
            )?,
            rows: gauges(r, "squire_rows", "Live rows.", &TABLE)?,
            deleted_rows: gauges(
                r,
                "squire_deleted_rows",
                "Rows that are deleted but still stored.",
                &TABLE,
            )?,
            bytes: gauges(
                r,
                "squire_bytes",
                "Size of the data files of the visible version in bytes.",
                &TABLE,
            )?,
            versions: gauges(r, "squire_versions", "Versions on storage.", &TABLE)?,
            drift: gauges(
                r,
                "squire_drift",
                "1 while versions of unknown origin stand above the visible one.",
                &TABLE,
            )?,
            head_version: gauges(
                r,
                "squire_head_version",
                "The newest version on storage.",
                &TABLE,
            )?,
            pin_version: gauges(r, "squire_pin_version", "The visible version.", &TABLE)?,
            unindexed_rows: gauges(
                r,
                "squire_unindexed_rows",
                "Rows that an index does not cover.",
                &INDEX,
            )?,
            index_age: float_gauges(
                r,
                "squire_index_age_seconds",
                "Time since an index was last built or extended.",
                &INDEX,
            )?,
            unreferenced: gauges(
                r,
                "squire_unreferenced_bytes",
                "Bytes of files that no version refers to, by age, as of the last full scan.",
                &["store", "table", "age"],
            )?,
            ledger: counters(
                r,
                "squire_table_bytes_total",
                "Bytes written into a table by users (written) and by maintenance (rewritten, wasted, indexed), and deleted by cleanup, since it was first seen.",
                &["store", "table", "what"],
            )?,
        })
    }

    pub(super) fn observe(&self, store: &str, table: &str, seen: &TableObservation) {
        let TableObservation {
            fragments,
            candidate_fragments,
            rows,
            deleted_rows,
            bytes,
            versions,
            drift,
            head_version,
            pin_version,
            indexes,
            ledger,
            unreferenced,
        } = seen;
        let values = [
            (&self.fragments, *fragments),
            (&self.candidate_fragments, *candidate_fragments),
            (&self.rows, *rows),
            (&self.deleted_rows, *deleted_rows),
            (&self.bytes, *bytes),
            (&self.versions, *versions),
            (&self.drift, u64::from(*drift)),
            (&self.head_version, *head_version),
            (&self.pin_version, *pin_version),
        ];
        for (gauge, value) in values {
            gauge.with_label_values(&[store, table]).set(integer(value));
        }
        for (what, bytes) in ledger {
            let counter = self.ledger.with_label_values(&[store, table, what]);
            // It is kept across restarts, so it does not begin at nothing.
            counter.inc_by(bytes.saturating_sub(counter.get()));
        }
        if unreferenced.is_empty() {
            forget(&self.unreferenced, store, table, |_| false);
        }
        for (age, bytes) in unreferenced {
            self.unreferenced
                .with_label_values(&[store, table, age])
                .set(integer(*bytes));
        }
        for index in indexes {
            self.unindexed_rows
                .with_label_values(&[store, table, &index.name])
                .set(integer(index.unindexed_rows));
            if let Some(age) = index.age {
                self.index_age
                    .with_label_values(&[store, table, &index.name])
                    .set(age.as_secs_f64());
            }
        }
        forget(&self.unindexed_rows, store, table, |name| {
            indexes.iter().any(|index| index.name == name)
        });
        forget(&self.index_age, store, table, |name| {
            indexes
                .iter()
                .any(|index| index.name == name && index.age.is_some())
        });
    }

    pub(super) fn forget(&self, store: &str, table: &str) {
        let Self {
            fragments,
            candidate_fragments,
            rows,
            deleted_rows,
            bytes,
            versions,
            drift,
            head_version,
            pin_version,
            unindexed_rows,
            index_age,
            unreferenced,
            ledger,
        } = self;
        let per_table = [
            fragments,
            candidate_fragments,
            rows,
            deleted_rows,
            bytes,
            versions,
            drift,
            head_version,
            pin_version,
        ];
        for gauge in per_table {
            forget(gauge, store, table, |_| false);
        }
        forget(unindexed_rows, store, table, |_| false);
        forget(index_age, store, table, |_| false);
        forget(unreferenced, store, table, |_| false);
        forget(ledger, store, table, |_| false);
    }
}

/// Removes the series of a table, except those whose `index` label `keep` accepts. The library
/// removes by all labels only, hence the search.
pub(super) fn forget<T: MetricVecBuilder>(
    vector: &MetricVec<T>,
    store: &str,
    table: &str,
    keep: impl Fn(&str) -> bool,
) {
    for family in vector.collect() {
        for metric in family.get_metric() {
            let labels: HashMap<&str, &str> = metric
                .get_label()
                .iter()
                .map(|pair| (pair.name(), pair.value()))
                .collect();
            let is_of_table =
                labels.get("store") == Some(&store) && labels.get("table") == Some(&table);
            if is_of_table && !labels.get("index").is_some_and(|name| keep(name)) {
                // Fails only if another thread removed it between, which is what was wanted.
                vector.remove(&labels).ok();
            }
        }
    }
}
