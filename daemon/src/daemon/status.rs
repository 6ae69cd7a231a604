//! What the daemon shows: `/status`, `/metrics`, readiness. Written by the loop, read by HTTP and systemd.

use super::execution::{Ending, OperationReport};
use crate::http::{ControlVerb, StatusSource};
use crate::metrics::{IndexObservation, Metrics, Removed, RunResult, TableObservation};
use serde::Serialize;
use serde_json::{Value, json};
use squire_engine::clock::Clock;
use squire_engine::maintenance::TableHealth;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Reports and errors kept for `/status`: a page's worth.
const HISTORY: usize = 50;

/// One table as last observed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TableStatus {
    #[serde(flatten)]
    pub(crate) health: TableHealth,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
    pub(crate) drift: bool,
}

#[derive(Debug, Default)]
struct Seen {
    tables: BTreeMap<(String, String), TableStatus>,
    counts: BTreeMap<&'static str, u64>,
    history: VecDeque<OperationReport>,
    last_errors: VecDeque<String>,
    requests: Vec<(ControlVerb, Option<String>)>,
    doing: String,
}

/// The shared status.
#[derive(Debug)]
pub(crate) struct Status {
    seen: Mutex<Seen>,
    pub(crate) metrics: Metrics,
    clock: Arc<dyn Clock>,
    ready: AtomicBool,
    paused: AtomicBool,
    reload: AtomicBool,
    progress_ms: AtomicU64,
    stall: Duration,
    pub(crate) wake: Notify,
}

impl Status {
    pub(crate) fn new(metrics: Metrics, clock: Arc<dyn Clock>, stall: Duration) -> Self {
        let status = Self {
            seen: Mutex::default(),
            metrics,
            clock,
            ready: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            reload: AtomicBool::new(false),
            progress_ms: AtomicU64::new(0),
            stall,
            wake: Notify::new(),
        };
        status.progressed();
        status
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop turned.
    pub(crate) fn progressed(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.progress_ms.store(now, Ordering::Relaxed);
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn doing(&self, what: String) {
        crate::systemd::status(&what);
        self.seen().doing = what;
    }

    /// Takes what HTTP asked for since the last pass.
    pub(crate) fn take_requests(&self) -> Vec<(ControlVerb, Option<String>)> {
        std::mem::take(&mut self.seen().requests)
    }

    /// Remembers a reload that was asked for while a pass runs on the old configuration.
    pub(crate) fn ask_reload(&self) {
        self.reload.store(true, Ordering::Relaxed);
    }

    /// Whether a reload was asked for; asked only once.
    pub(crate) fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Whether someone asked to cancel what runs; asked only once.
    pub(crate) fn take_cancel(&self) -> bool {
        let mut seen = self.seen();
        let before = seen.requests.len();
        seen.requests
            .retain(|(verb, _)| *verb != ControlVerb::Cancel);
        seen.requests.len() < before
    }

    /// Whether something was asked for since the last pass took it.
    pub(crate) fn has_requests(&self) -> bool {
        !self.seen().requests.is_empty()
    }

    pub(crate) fn observe(&self, store: &str, table: TableStatus) {
        let h = &table.health;
        let observation = TableObservation {
            fragments: h.fragments,
            candidate_fragments: h.candidate_fragments,
            rows: h.rows,
            deleted_rows: h.deleted_rows,
            bytes: h.bytes,
            versions: h.versions,
            drift: table.drift,
            head_version: h.head,
            pin_version: h.pin,
            indexes: h
                .indexes
                .iter()
                .map(|i| IndexObservation {
                    name: i.name.clone(),
                    unindexed_rows: i.unindexed_rows,
                    age: i.stale_seconds.map(Duration::from_secs),
                })
                .collect(),
        };
        self.metrics.observe_table(store, &h.table, &observation);
        self.seen()
            .tables
            .insert((store.to_owned(), h.table.clone()), table);
    }

    /// Drops the tables of `store` that are not among `present`.
    pub(crate) fn retain(&self, store: &str, present: &[String]) {
        let gone: Vec<(String, String)> = self
            .seen()
            .tables
            .keys()
            .filter(|(s, t)| s == store && !present.contains(t))
            .cloned()
            .collect();
        for key in gone {
            self.metrics.forget_table(&key.0, &key.1);
            self.seen().tables.remove(&key);
        }
    }

    pub(crate) fn report(&self, report: OperationReport) {
        let labels = [
            report.place.as_str(),
            report.table.as_str(),
            report.kind.as_str(),
        ];
        let result = match report.ending {
            Ending::Success => RunResult::Success,
            Ending::Conflict => RunResult::Conflict,
            Ending::Failed => RunResult::Failed,
            Ending::Skipped => RunResult::Skipped,
        };
        self.metrics
            .run_finished(labels, result, self.now_seconds());
        for _ in 0..report.conflicts {
            self.metrics.run_retried(labels);
        }
        let removed = Removed {
            fragments: report.fragments_removed,
            bytes: report.bytes_removed,
            versions: report.versions_removed,
        };
        self.metrics.removed(&report.place, &report.table, removed);
        let failed = matches!(report.ending, Ending::Failed | Ending::Conflict);
        let mut seen = self.seen();
        let counted = if failed {
            "failures"
        } else {
            report.kind.as_str()
        };
        *seen.counts.entry(counted).or_default() += 1;
        *seen.counts.entry("conflicts").or_default() += u64::from(report.conflicts);
        if failed {
            let text = format!(
                "{} {}: {}",
                report.kind.as_str(),
                report.table,
                report.detail.as_deref().unwrap_or("")
            );
            push(&mut seen.last_errors, text);
        }
        push(&mut seen.history, report);
    }

    /// Nothing to do counts as a success: silence must not look like health.
    pub(crate) fn nothing_to_do(&self, store: &str, table: &str, kind: &str) {
        self.metrics
            .run_finished([store, table, kind], RunResult::Success, self.now_seconds());
    }

    pub(crate) fn error(&self, text: String) {
        push(&mut self.seen().last_errors, text);
    }

    fn now_seconds(&self) -> f64 {
        self.clock.now_ms() as f64 / 1_000.0
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == HISTORY {
        queue.pop_front();
    }
    queue.push_back(item);
}

impl StatusSource for Status {
    fn status(&self) -> Value {
        let seen = self.seen();
        let mut stores: BTreeMap<&str, Vec<&TableStatus>> = BTreeMap::new();
        for ((store, _), table) in &seen.tables {
            stores.entry(store).or_default().push(table);
        }
        let count = |name: &str| seen.counts.get(name).copied().unwrap_or(0);
        let stores: Vec<Value> = stores
            .into_iter()
            .map(|(uri, tables)| json!({ "uri": uri, "tables": tables }))
            .collect();
        json!({
            "ready": self.ready(),
            "paused": self.is_paused(),
            "doing": seen.doing,
            "stores": stores,
            "maintenance": {
                "compactions": count("compact"),
                "reindexes": count("reindex"),
                "cleanups": count("cleanup"),
                "conflicts": count("conflicts"),
                "failures": count("failures"),
            },
            "history": seen.history,
            "last_errors": seen.last_errors,
        })
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn healthy(&self) -> bool {
        let last = Duration::from_millis(self.progress_ms.load(Ordering::Relaxed));
        self.clock.monotonic().saturating_sub(last) < self.stall
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn request(
        &self,
        verb: ControlVerb,
        _store: Option<String>,
        table: Option<String>,
    ) -> Result<Value, String> {
        match verb {
            ControlVerb::Pause => self.paused.store(true, Ordering::Relaxed),
            ControlVerb::Resume => self.paused.store(false, Ordering::Relaxed),
            ControlVerb::Optimize
            | ControlVerb::Reindex
            | ControlVerb::Cleanup
            | ControlVerb::Recover
            | ControlVerb::Cancel => self.seen().requests.push((verb, table)),
        }
        self.wake.notify_one();
        Ok(json!({ "accepted": verb.as_str() }))
    }
}
