//! What the daemon shows: `/status`, `/metrics`, readiness. Written by the loop, read by HTTP and systemd.

use super::execution::{CLEANED_AS_A_WHOLE, OperationReport};
use crate::http::{Ask, ControlVerb, Refusal, StatusSource};
use crate::metrics::{IndexObservation, Metrics, Removed, RunResult, TableObservation};
use serde::Serialize;
use serde_json::{Value, json};
use squire_engine::clock::Clock;
use squire_engine::error::Error;
use squire_engine::maintenance::{TableHealth, Unreferenced};
use squire_engine::store::discovery::PassedOver;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// What no version refers to, as of the last full scan.
    pub(crate) unreferenced: Option<Unreferenced>,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
    pub(crate) drift: bool,
}

/// A table that could not be observed.
#[derive(Debug, Clone, Serialize)]
struct Unreadable {
    table: String,
    state: &'static str,
    reason: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Shown {
    Observed(Box<TableStatus>),
    Unreadable(Unreadable),
}

#[derive(Debug, Default)]
struct Seen {
    /// URIs of what is watched.
    places: Vec<String>,
    /// Those of them that are stores.
    stores: BTreeSet<String>,
    tables: BTreeMap<(String, String), Shown>,
    skipped: BTreeMap<String, Vec<PassedOver>>,
    counts: BTreeMap<&'static str, u64>,
    history: VecDeque<OperationReport>,
    last_errors: VecDeque<String>,
    requests: Vec<Ask>,
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

fn bytes_by_age(unreferenced: &Unreferenced) -> [(&'static str, u64); 3] {
    unreferenced.by_age().map(|(age, files)| (age, files.bytes))
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
    pub(crate) fn take_requests(&self) -> Vec<Ask> {
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
        seen.requests.retain(|ask| ask.verb != ControlVerb::Cancel);
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
            unreferenced: table.unreferenced.iter().flat_map(bytes_by_age).collect(),
        };
        self.metrics.observe_table(store, &h.table, &observation);
        self.metrics.set_unreadable(store, &h.table, false);
        let key = (store.to_owned(), h.table.clone());
        self.seen()
            .tables
            .insert(key, Shown::Observed(Box::new(table)));
    }

    /// A table could not be observed: what was known of it is not shown as if it were so now.
    pub(crate) fn unreadable(&self, store: &str, table: &str, error: &Error) {
        self.metrics.set_unreadable(store, table, true);
        self.metrics.forget_gauges(store, table);
        self.error(format!("{table}: {error}"));
        let shown = Shown::Unreadable(Unreadable {
            table: table.to_owned(),
            state: "unreadable",
            reason: error.to_string(),
        });
        let key = (store.to_owned(), table.to_owned());
        self.seen().tables.insert(key, shown);
    }

    /// What is watched from now on.
    pub(crate) fn watches(&self, places: Vec<String>) {
        self.seen().places = places;
    }

    /// The URIs of what is watched, opened or not.
    pub(crate) fn watched(&self) -> Vec<String> {
        self.seen().places.clone()
    }

    /// The place at `uri` is a store: its tables are cleaned together.
    pub(crate) fn note_store(&self, uri: &str) {
        self.seen().stores.insert(uri.to_owned());
    }

    /// All tables, as last observed.
    pub(crate) fn table_names(&self) -> Vec<String> {
        let seen = self.seen();
        seen.tables.keys().map(|(_, table)| table.clone()).collect()
    }

    /// Drops the tables of `store` that are not among `present`, and shows what was passed over.
    pub(crate) fn retain(&self, store: &str, present: &[String], skipped: Vec<PassedOver>) {
        let before = self
            .seen()
            .skipped
            .insert(store.to_owned(), skipped.clone());
        for passed in skipped {
            if before.as_ref().is_none_or(|all| !all.contains(&passed)) {
                let PassedOver { path, reason } = passed;
                tracing::info!(store, path, reason, "this folder is not maintained");
            }
        }
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

    fn tables_of(&self, place: &str) -> Vec<String> {
        let seen = self.seen();
        let here = seen.tables.keys().filter(|(store, _)| store == place);
        here.map(|(_, table)| table.clone()).collect()
    }

    pub(crate) fn report(&self, report: OperationReport) {
        let kind = report.kind.as_str();
        let labels = [report.place.as_str(), report.table.as_str(), kind];
        let all = self.tables_of(&report.place);
        for (table, result) in report.results(all) {
            let run = [report.place.as_str(), &table, kind];
            self.metrics.run_finished(run, result, self.now_seconds());
        }
        for _ in 0..report.conflicts {
            self.metrics.run_retried(labels);
        }
        let removed = Removed {
            fragments: report.fragments_removed,
            bytes: report.bytes_removed,
            versions: report.versions_removed,
        };
        self.metrics.removed(&report.place, &report.table, removed);
        let failed = report.ending.is_bad();
        let mut seen = self.seen();
        let counted = if failed { "failures" } else { kind };
        *seen.counts.entry(counted).or_default() += 1;
        *seen.counts.entry("conflicts").or_default() += u64::from(report.conflicts);
        if failed {
            let text = format!(
                "{kind} {}: {}",
                report.table,
                report.detail.as_deref().unwrap_or("")
            );
            push(&mut seen.last_errors, text);
        }
        push(&mut seen.history, report);
    }

    /// That a look found nothing to do counts as a success: silence must not look like health. Not so for a cleanup,
    /// which looks when it runs.
    pub(crate) fn nothing_to_do(&self, run: [&str; 3]) {
        let now = self.now_seconds();
        self.metrics.run_finished(run, RunResult::Success, now);
    }

    /// Work is due: from the first time on, that it does not succeed can be seen.
    pub(crate) fn due(&self, run: [&str; 3]) {
        self.metrics.due(run, self.now_seconds());
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
        let mut stores: BTreeMap<&str, Vec<&Shown>> = BTreeMap::new();
        for uri in &seen.places {
            stores.entry(uri).or_default();
        }
        for ((store, _), table) in &seen.tables {
            stores.entry(store).or_default().push(table);
        }
        let count = |name: &str| seen.counts.get(name).copied().unwrap_or(0);
        let stores: Vec<Value> = stores
            .into_iter()
            .map(|(uri, tables)| json!({ "uri": uri, "tables": tables, "skipped": seen.skipped.get(uri) }))
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

    fn request(&self, ask: Ask) -> Result<Value, Refusal> {
        let verb = ask.verb;
        match verb {
            ControlVerb::Pause | ControlVerb::Resume | ControlVerb::Cancel
                if ask.store.is_some() || ask.table.is_some() =>
            {
                let why = format!("{verb} is about the whole daemon; leave store and table out");
                return Err(Refusal::NotNow(why));
            }
            ControlVerb::Pause => self.paused.store(true, Ordering::Relaxed),
            ControlVerb::Resume => self.paused.store(false, Ordering::Relaxed),
            ControlVerb::Optimize
            | ControlVerb::Reindex
            | ControlVerb::Cleanup
            | ControlVerb::Recover
            | ControlVerb::Cancel => {
                let mut seen = self.seen();
                seen.check(&ask)?;
                seen.requests.push(ask);
            }
        }
        self.wake.notify_one();
        Ok(json!({ "accepted": verb.as_str() }))
    }
}

impl Seen {
    /// Whether what is asked about is known here.
    fn check(&self, ask: &Ask) -> Result<(), Refusal> {
        if !self.places.iter().any(|uri| ask.is_about(uri)) && ask.store.is_some() {
            return Err(Refusal::Unknown(format!(
                "no such store is watched; there are: {}",
                self.places.join(", ")
            )));
        }
        let Some(wanted) = &ask.table else {
            return Ok(());
        };
        let is = |table: &str| table == wanted || table.strip_suffix(".lance") == Some(wanted);
        let named = self.tables.keys();
        let named: Vec<_> = named
            .filter(|(store, table)| ask.is_about(store) && is(table))
            .collect();
        if named.is_empty() {
            let unknown = format!("no table {wanted:?} was seen; /status names all");
            return Err(Refusal::Unknown(unknown));
        }
        let of_store = named.iter().any(|(store, _)| self.stores.contains(store));
        if ask.verb == ControlVerb::Cleanup && of_store {
            return Err(Refusal::Wrong(CLEANED_AS_A_WHOLE.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Status;
    use crate::http::{Ask, ControlVerb, Refusal, StatusSource};
    use crate::metrics::Metrics;
    use squire_engine::clock::SystemClock;
    use squire_engine::error::Error;
    use std::sync::Arc;
    use std::time::Duration;

    fn status() -> Status {
        let clock = Arc::new(SystemClock::default());
        Status::new(Metrics::new().unwrap(), clock, Duration::from_secs(60))
    }

    fn ask(verb: ControlVerb, store: Option<&str>, table: Option<&str>) -> Ask {
        Ask {
            verb,
            store: store.map(str::to_owned),
            table: table.map(str::to_owned),
        }
    }

    #[test]
    fn a_request_reaches_the_store_and_the_table_that_it_names() {
        let status = status();
        status.watches(vec!["/lake/a".into(), "/lake/b".into()]);
        status.unreadable("/lake/a", "t.lance", &Error::internal("bad"));
        let recover = ask(ControlVerb::Recover, Some("/lake/a/"), None);
        assert!(status.request(recover.clone()).is_ok());
        assert!(recover.is_about("/lake/a") && !recover.is_about("/lake/b"));
        assert_eq!(status.take_requests(), [recover]);

        let optimize = |store, table| status.request(ask(ControlVerb::Optimize, store, table));
        assert!(optimize(None, Some("t")).is_ok());
        assert!(optimize(Some("/lake/a"), Some("t.lance")).is_ok());
        for (store, table) in [
            (Some("/lake/c"), None),
            (Some("/lake/b"), Some("t")),
            (None, Some("u")),
        ] {
            let refused = optimize(store, table).unwrap_err();
            assert!(matches!(refused, Refusal::Unknown(_)), "{refused:?}");
        }
        // Of a directory one table can be cleaned, of a store all together.
        let cleanup = |table| status.request(ask(ControlVerb::Cleanup, Some("/lake/a"), table));
        assert!(cleanup(Some("t")).is_ok());
        status.note_store("/lake/a");
        assert!(matches!(cleanup(Some("t")), Err(Refusal::Wrong(_))));
        assert!(cleanup(None).is_ok() && optimize(Some("/lake/a"), Some("t")).is_ok());
        let pause = status.request(ask(ControlVerb::Pause, Some("/lake/a"), None));
        assert!(matches!(pause, Err(Refusal::NotNow(_))));
        assert!(!status.is_paused());
    }

    #[test]
    fn a_table_that_cannot_be_read_is_shown_as_such() {
        let status = status();
        status.unreadable("/lake", "t.lance", &Error::internal("bad"));
        let shown = status.status()["stores"][0]["tables"][0].clone();
        assert_eq!(
            (&shown["table"], &shown["state"]),
            (&"t.lance".into(), &"unreadable".into())
        );
        let series = "squire_unreadable{store=\"/lake\",table=\"t.lance\"} 1";
        assert!(status.metrics().contains(series));
        status.retain("/lake", &[], Vec::new());
        assert!(!status.metrics().contains("squire_unreadable{"));
    }
}
