//! What the daemon shows: `/status`, `/metrics`, readiness. Written by the loop, read by HTTP and systemd.

use super::pauses::Pauses;
use super::reload::ReloadOutcome;
use crate::config::MinFree;
use crate::decide::gate::{Pause, Paused};
use crate::decide::planning::OperationKind;
use crate::decide::room::Room;
use crate::decide::waits::{Resting, Wait, Waits};
use crate::decide::work::Trigger;
use crate::http::{Ask, ControlVerb, Refusal, Scope, StatusSource};
use crate::metrics::{Load, Metrics};
use crate::place::same_place;
use crate::place::table::{Phase, TableStatus};
use crate::run::report::OperationReport;
use serde::Serialize;
use serde_json::{Value, json};
use squire_engine::clock::Clock;
use squire_engine::error::Error;
use squire_engine::maintenance::{Headway, Target};
use squire_engine::store::discovery::PassedOver;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

mod asked;
mod show;
mod tell;
#[cfg(test)]
mod tests;

/// Reports and errors kept for `/status`: a page's worth.
const HISTORY: usize = 50;

/// Waiting work shown in `/status`: a page's worth, the most urgent.
const WAITING: usize = 100;

/// The loop turns every second; this much silence is a hang.
const STALL: Duration = Duration::from_secs(30);

/// An attempt at work.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Doing {
    pub(crate) attempt: u64,
    pub(crate) location: String,
    pub(crate) table: String,
    pub(crate) kind: OperationKind,
    pub(crate) reason: String,
    pub(crate) what: String,
    pub(crate) trigger: Trigger,
    pub(crate) seconds: u64,
    /// How much of what its plan holds is behind it.
    pub(crate) progress: Headway,
    /// What it has done so far: answers of storage, tasks, commits, stages of an index build.
    pub(crate) steps: u64,
    /// Why it was asked to stop at its next safe point.
    pub(crate) stopping: Option<&'static str>,
}

/// What is known of a location as a whole.
#[derive(Debug, Clone, Default, Serialize)]
struct OfLocation {
    /// Why it cannot be opened or observed.
    unreadable: Option<String>,
    /// Bytes that maintenance wrote and did not settle.
    stranded_bytes: Option<u64>,
    /// Operations that run, or wait for recovery.
    sidecars: Option<u64>,
    /// The cleanup of a store, while it rests.
    rests: Option<Wait>,
    /// Its disk, and how much of that stays free, in bytes; of a bucket there is nothing to tell.
    disk: Option<Disk>,
}

/// A local disk.
#[derive(Debug, Clone, Copy, Serialize)]
struct Disk {
    free: u64,
    all: u64,
    min_free: Option<u64>,
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
    /// What rests of each table.
    rests: BTreeMap<(String, String), Vec<Wait>>,
    skipped: BTreeMap<String, Vec<PassedOver>>,
    counts: BTreeMap<&'static str, u64>,
    history: VecDeque<OperationReport>,
    last_errors: VecDeque<String>,
    requests: Vec<Ask>,
    doing: Vec<Doing>,
    /// What waits, the most urgent first.
    waiting: Vec<Waits>,
    locations: BTreeMap<String, OfLocation>,
    pauses: Pauses,
    /// What this daemon is called in its claims.
    holder: String,
    /// What was at work or waited when the daemon was drained.
    handed_back: Option<Vec<Value>>,
    /// What came of the last reload, and when it was, in seconds since the epoch.
    reload: Option<(f64, ReloadOutcome)>,
    /// What systemd was told last.
    told: String,
    /// How many locations are open and can be observed.
    answering: usize,
    /// When the monotonic clock began, in milliseconds since the epoch.
    began_ms: u64,
}

/// The shared status.
#[derive(Debug)]
pub(crate) struct Status {
    seen: Mutex<Seen>,
    pub(crate) metrics: Metrics,
    clock: Arc<dyn Clock>,
    ready: AtomicBool,
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

    /// The loop turned: so many attempts are at work, and this is the longest time for which one has made no step.
    pub(crate) fn loaded(&self, running: usize, longest_still: Duration) {
        let load = Load {
            running,
            longest_still,
            paused: self.seen().is_paused(),
            away: crate::executor::away(),
        };
        self.metrics.turned(self.now_seconds(), load);
    }

    /// Every location was recovered and observed once. Whether that is news.
    pub(crate) fn set_ready(&self) -> bool {
        !self.ready.swap(true, Ordering::Relaxed)
    }

    /// The pauses that were kept.
    pub(super) fn set_pauses(&self, pauses: Pauses) {
        self.seen().pauses = pauses;
    }

    /// What this daemon is called in its claims.
    pub(crate) fn set_holder(&self, holder: &str) {
        self.seen().holder = holder.to_owned();
    }

    /// What people keep from running.
    pub(crate) fn pauses(&self) -> Arc<Vec<Pause>> {
        self.seen().pauses.list()
    }

    /// What waits, the most urgent first, and how long the one that waits for longest has.
    pub(crate) fn waits(&self, waiting: Vec<Waits>, longest: Duration) {
        self.metrics.waits(waiting.len(), longest);
        self.seen().waiting = waiting;
    }

    /// What rests at `uri` as a whole.
    pub(crate) fn location_rests(&self, uri: &str, rests: Option<Resting>) {
        let mut seen = self.seen();
        let began_ms = seen.began(self.clock.as_ref());
        let rests = rests.map(|rests| rests.shown(began_ms));
        seen.locations.entry(uri.to_owned()).or_default().rests = rests;
    }

    /// Nothing is begun any more. Gives how many attempts stop, and what is handed back in all, as it is shown.
    pub(crate) fn drained(&self) -> (usize, Vec<Value>) {
        let mut seen = self.seen();
        let handed_back = seen.open_work();
        seen.handed_back.get_or_insert_with(|| handed_back.clone());
        (seen.doing.len(), handed_back)
    }

    /// The attempts at work.
    pub(crate) fn doing(&self, doing: Vec<Doing>) {
        let mut seen = self.seen();
        seen.doing = doing;
        let what = what(seen.doing.iter());
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
        let mut seen = self.seen();
        seen.rests.remove(&key);
        seen.tables.insert(key, shown);
    }

    /// Shows why the location at `uri` cannot be opened or observed, or that it can.
    pub(crate) fn location_unreadable(&self, uri: &str, why: Option<String>) {
        self.metrics.set_unreadable(uri, "", why.is_some());
        let mut seen = self.seen();
        seen.locations.entry(uri.to_owned()).or_default().unreadable = why;
    }

    /// Shows how many bytes are stranded at `uri`.
    pub(crate) fn stranded(&self, uri: &str, bytes: u64) {
        self.metrics.set_stranded(uri, bytes);
        let mut seen = self.seen();
        seen.locations
            .entry(uri.to_owned())
            .or_default()
            .stranded_bytes = Some(bytes);
    }

    /// Shows the disk of the location at `uri`, of which `least` stays free.
    pub(crate) fn measured(&self, uri: &str, room: Option<Room>, least: Option<MinFree>) {
        let disk = room.map(|Room { free, all }| Disk {
            free,
            all,
            min_free: least.map(|least| least.of(all)),
        });
        let of = |what: fn(Disk) -> Option<u64>| disk.and_then(what);
        self.metrics
            .set_disk(uri, of(|disk| Some(disk.free)), of(|disk| disk.min_free));
        let mut seen = self.seen();
        seen.locations.entry(uri.to_owned()).or_default().disk = disk;
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
        seen.locations.remove(uri);
        seen.stores.remove(uri);
        self.metrics.set_unreadable(uri, "", false);
        self.metrics.forget_object_store(uri);
        self.metrics.set_disk(uri, None, None);
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
            let mut seen = self.seen();
            seen.tables.remove(&key);
            seen.rests.remove(&key);
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
    fn status(&self, scope: &Scope) -> Value {
        let settled = self.ready.load(Ordering::Relaxed);
        self.seen().document(scope, settled, self.clock.now_ms())
    }

    fn ready(&self) -> bool {
        self.seen().ready(self.ready.load(Ordering::Relaxed))
    }

    fn unready(&self) -> &'static str {
        match self.seen().handed_back {
            Some(_) => "not ready: it was drained, and begins nothing any more; see /status\n",
            None => {
                "not ready: recovery or the first look still runs, or nothing can be opened; see /status\n"
            }
        }
    }

    fn healthy(&self) -> bool {
        let last = Duration::from_millis(self.turned_ms.load(Ordering::Relaxed));
        self.clock.monotonic().saturating_sub(last) < STALL
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn request(&self, mut ask: Ask) -> Result<Value, Refusal> {
        let since = self.clock.now_ms() / 1_000;
        let mut seen = self.seen();
        ask.what.store = ask.what.store.map(|store| seen.as_watched(store));
        asked::check_fields(&ask)?;
        let answer = match ask.verb {
            ControlVerb::Pause => seen.pause(ask, since)?,
            ControlVerb::Resume => seen.resume(ask)?,
            ControlVerb::Drain => {
                let handed_back = seen.open_work();
                seen.requests.push(ask);
                json!({ "accepted": "drain", "handed_back": handed_back })
            }
            ControlVerb::Optimize
            | ControlVerb::Reindex
            | ControlVerb::Cleanup
            | ControlVerb::Recover
            | ControlVerb::Cancel => {
                seen.check(&ask)?;
                let answer = json!({ "accepted": ask.verb.as_str() });
                seen.requests.push(ask);
                answer
            }
        };
        self.wake.notify_one();
        Ok(answer)
    }
}

/// The wall clock is adjusted all the time; what is said of one rest stays the same for so little.
const ADJUSTED_MS: u64 = 2_000;

impl Seen {
    /// When the monotonic clock began.
    fn began(&mut self, clock: &dyn Clock) -> u64 {
        let passed = u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let began_ms = clock.now_ms().saturating_sub(passed);
        if self.began_ms.abs_diff(began_ms) > ADJUSTED_MS {
            self.began_ms = began_ms;
        }
        self.began_ms
    }

    /// A location as it is called here, if it is one that is watched.
    fn as_watched(&self, location: String) -> String {
        let called = self.places.iter().find(|uri| same_place(uri, &location));
        called.cloned().unwrap_or(location)
    }

    /// Whether all of the daemon is paused.
    fn is_paused(&self) -> bool {
        let pauses = self.pauses.list();
        pauses.iter().any(|pause| pause.what == Paused::default())
    }

    fn ready(&self, settled: bool) -> bool {
        settled && self.answering > 0 && self.handed_back.is_none()
    }

    /// What is at work, and what waits.
    fn open_work(&self) -> Vec<Value> {
        let of = |was: &str, location: &str, table: &str, kind: OperationKind| json!({ "was": was, "location": location, "table": table, "kind": kind });
        let running = self.doing.iter();
        let running = running.map(|d| of("running", &d.location, &d.table, d.kind));
        let waiting = self.waiting.iter().take(WAITING);
        let waiting = waiting.map(|w| of("waiting", &w.location, &w.table, w.wait.kind));
        running.chain(waiting).collect()
    }

    /// What a drain has come to; nothing when the daemon was not drained.
    fn drain(&self) -> Option<Value> {
        let handed_back = self.handed_back.as_ref()?;
        Some(json!({ "done": self.doing.is_empty(), "handed_back": handed_back }))
    }
}

/// One line about what is at work.
fn what<'a>(doing: impl Iterator<Item = &'a Doing>) -> String {
    let what: Vec<&str> = doing.map(|doing| doing.what.as_str()).collect();
    match what.is_empty() {
        true => "idle".to_owned(),
        false => what.join("; "),
    }
}
