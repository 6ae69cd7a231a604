//! What the daemon shows: `/status`, `/metrics`, readiness. Written by the loop, read by HTTP and systemd.

use super::reload::ReloadOutcome;
use crate::decide::work::Trigger;
use crate::http::{Ask, ControlVerb, Refusal, StatusSource};
use crate::metrics::Metrics;
use crate::place::table::{Phase, TableStatus};
use crate::run::CLEANED_AS_A_WHOLE;
use crate::run::report::OperationReport;
use serde::Serialize;
use serde_json::{Value, json};
use squire_engine::clock::Clock;
use squire_engine::error::Error;
use squire_engine::maintenance::Target;
use squire_engine::store::discovery::PassedOver;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

mod tell;
#[cfg(test)]
mod tests;

/// Reports and errors kept for `/status`: a page's worth.
const HISTORY: usize = 50;

/// The loop turns every second; this much silence is a hang.
const STALL: Duration = Duration::from_secs(30);

/// An attempt at work.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Doing {
    pub(crate) attempt: u64,
    pub(crate) location: String,
    pub(crate) what: String,
    pub(crate) trigger: Trigger,
    pub(crate) seconds: u64,
    /// What it has done so far: answers of storage, tasks, commits, stages of an index build.
    pub(crate) steps: u64,
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
    doing: Vec<Doing>,
    /// What came of the last reload, and when it was, in seconds since the epoch.
    reload: Option<(f64, ReloadOutcome)>,
    /// What systemd was told last.
    told: String,
    /// How many locations are open and can be observed.
    answering: usize,
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
    turned_ms: AtomicU64,
    pub(crate) wake: Notify,
}

impl Status {
    pub(crate) fn new(metrics: Metrics, clock: Arc<dyn Clock>) -> Self {
        let status = Self {
            seen: Mutex::default(),
            metrics,
            clock,
            ready: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            reload: AtomicBool::new(false),
            turned_ms: AtomicU64::new(0),
            wake: Notify::new(),
        };
        status.turned();
        status
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop turned.
    pub(crate) fn turned(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.turned_ms.store(now, Ordering::Relaxed);
    }

    /// Every location was recovered and observed once. Whether that is news.
    pub(crate) fn set_ready(&self) -> bool {
        !self.ready.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The attempts at work.
    pub(crate) fn doing(&self, doing: Vec<Doing>) {
        let mut seen = self.seen();
        seen.doing = doing;
        let what = seen.what();
        if seen.told != what {
            crate::systemd::status(&what);
            seen.told = what;
        }
    }

    /// How many of the watched locations are open, and how many of those can be observed.
    pub(crate) fn opened(&self, open: usize, answering: usize) {
        let mut seen = self.seen();
        seen.answering = answering;
        let closed = seen.places.len().saturating_sub(open);
        let closed = i64::try_from(closed).unwrap_or(i64::MAX);
        self.metrics.locations_not_open.set(closed);
    }

    /// Takes what HTTP asked for since the last time.
    pub(crate) fn take_requests(&self) -> Vec<Ask> {
        std::mem::take(&mut self.seen().requests)
    }

    /// Remembers a reload that was asked for.
    pub(crate) fn ask_reload(&self) {
        self.reload.store(true, Ordering::Relaxed);
    }

    /// What came of a reload.
    pub(crate) fn reloaded(&self, outcome: ReloadOutcome) {
        let now = self.now_seconds();
        self.seen().reload = Some((now, outcome));
    }

    /// Whether a reload was asked for; asked only once.
    pub(crate) fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// A table moved to another phase between two looks.
    pub(crate) fn moved(&self, store: &str, target: &Target, phase: Phase) {
        let key = (store.to_owned(), target.to_string());
        if let Some(Shown::Observed(table)) = self.seen().tables.get_mut(&key) {
            table.phase = phase;
        }
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

    /// The location at `uri` is watched no more: nothing of it is shown.
    pub(crate) fn forget(&self, uri: &str) {
        self.retain(uri, &[], Vec::new());
        let mut seen = self.seen();
        seen.skipped.remove(uri);
        seen.stores.remove(uri);
        self.metrics.set_unreadable(uri, "", false);
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
            "ready": self.ready.load(Ordering::Relaxed) && seen.answering > 0,
            "paused": self.is_paused(),
            "doing": seen.what(),
            "attempts": seen.doing,
            "stores": stores,
            "maintenance": {
                "compactions": count("compact"),
                "reindexes": count("reindex"),
                "cleanups": count("cleanup"),
                "conflicts": count("conflicts"),
                "failures": count("failures"),
            },
            "history": seen.history,
            "reload": seen.reload.as_ref().map(|(at, outcome)| json!({ "at": at, "outcome": outcome })),
            "last_errors": seen.last_errors,
        })
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && self.seen().answering > 0
    }

    fn healthy(&self) -> bool {
        let last = Duration::from_millis(self.turned_ms.load(Ordering::Relaxed));
        self.clock.monotonic().saturating_sub(last) < STALL
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn request(&self, ask: Ask) -> Result<Value, Refusal> {
        let verb = ask.verb;
        match verb {
            ControlVerb::Pause | ControlVerb::Resume
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
    fn what(&self) -> String {
        let what: Vec<&str> = self.doing.iter().map(|doing| doing.what.as_str()).collect();
        match what.is_empty() {
            true => "idle".to_owned(),
            false => what.join("; "),
        }
    }

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
