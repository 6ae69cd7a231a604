//! What each table looks like: gauges, replaced as a whole after each scan.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{MetricVec, MetricVecBuilder};
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
    /// The indexes that are shown of each table, by store and table: to look for them among all series would take longer
    /// with every table.
    shown: Arc<Mutex<HashMap<[String; 2], BTreeSet<String>>>>,
}

/// What the ledger of a table counts.
const LEDGER: [&str; 6] = [
    "found",
    "written",
    "rewritten",
    "wasted",
    "indexed",
    "deleted",
];

/// The ages of files that no version refers to.
const AGES: [&str; 3] = ["under_1h", "under_7d", "older"];

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
                "Bytes written into a table by users (written) and by maintenance (rewritten, wasted, indexed), and deleted by cleanup, since it was first seen; and what stood there then (found).",
                &["store", "table", "what"],
            )?,
            shown: Arc::default(),
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
            self.forget_unreferenced(store, table);
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
            match index.age {
                Some(age) => {
                    let of_index = self
                        .index_age
                        .with_label_values(&[store, table, &index.name]);
                    of_index.set(age.as_secs_f64());
                }
                None => forget(&self.index_age, &[store, table, &index.name]),
            }
        }
        let names = indexes.iter().map(|index| index.name.clone()).collect();
        self.show(store, table, names);
    }

    /// From now on these indexes of a table are shown; the series of others go.
    fn show(&self, store: &str, table: &str, indexes: BTreeSet<String>) {
        let key = [store.to_owned(), table.to_owned()];
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match indexes.is_empty() {
            true => shown.remove(&key),
            false => shown.insert(key, indexes.clone()),
        };
        for gone in before.unwrap_or_default().difference(&indexes) {
            forget(&self.unindexed_rows, &[store, table, gone]);
            forget(&self.index_age, &[store, table, gone]);
        }
    }

    fn forget_unreferenced(&self, store: &str, table: &str) {
        for age in AGES {
            forget(&self.unreferenced, &[store, table, age]);
        }
    }

    pub(super) fn forget(&self, store: &str, table: &str) {
        let per_table = [
            &self.fragments,
            &self.candidate_fragments,
            &self.rows,
            &self.deleted_rows,
            &self.bytes,
            &self.versions,
            &self.drift,
            &self.head_version,
            &self.pin_version,
        ];
        for gauge in per_table {
            forget(gauge, &[store, table]);
        }
        self.forget_unreferenced(store, table);
        self.show(store, table, BTreeSet::new());
        for what in LEDGER {
            forget(&self.ledger, &[store, table, what]);
        }
    }
}

/// Takes one series out. Fails only if there is none, which is what was wanted.
pub(super) fn forget<T: MetricVecBuilder>(vector: &MetricVec<T>, labels: &[&str]) {
    vector.remove_label_values(labels).ok();
}
