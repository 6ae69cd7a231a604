//! Whether the agent works: what `/healthz`, `/readyz`, `/status` and the watchdog say.
//!
//! *Healthy* is an agent that makes progress: its loop turns, and attempts come to an answer. An attempt that storage
//! never answers is given up after `agent.attempt_timeout`, and is no progress: after that the watchdog is not fed
//! any more, and a service manager starts the agent anew. *Ready* is one that has resumed what earlier ones left, and
//! whose spool and store answer.

use super::held::{Hold, Why};
use super::spool::Lag;
use super::waiting::{Cause, Wait, brief};
use crate::http::{Ask, Refusal, Scope, StatusSource};
use crate::input::{Named, shown};
use crate::metrics::{BatchResult, Metrics};
use serde_json::{Value, json};
use squire_engine::clock::Clock;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::store::Store;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long after an attempt had to end the loop may take to notice.
const SLACK: Duration = Duration::from_secs(60);

/// Time between two looks whether store and spool answer. One read of the manifest each.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// How long such a look may take before it counts as no answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many of the entries that were rejected last `/status` names.
const REJECTED: usize = 20;

/// How many waiting entries `/status` names.
const LISTED: usize = 100;

pub(super) struct Health {
    clock: Arc<dyn Clock>,
    attempt_timeout: Duration,
    metrics: Metrics,
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    resumed: bool,
    /// When the loop last turned or an attempt last came to an answer.
    progress: Duration,
    /// When the current attempt, or its current try at a commit, began.
    began: Duration,
    /// Whether the last attempt had no answer.
    hangs: bool,
    /// What the last round failed with, and what is wrong with the spool and the store otherwise.
    failed: Option<String>,
    spool: Option<String>,
    storage: Option<String>,
    failures: u32,
    claims: Vec<(String, Wait)>,
    unclaimable: Vec<(String, Wait)>,
    held: Vec<(String, Hold)>,
    lag: Vec<Lag>,
    /// When an entry was rejected, its name, and why; the last ones.
    rejected: VecDeque<(u64, String, String)>,
    ignored: Vec<OsString>,
}

impl Health {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        attempt_timeout: Duration,
        metrics: Metrics,
        root: PathBuf,
    ) -> Self {
        let now = clock.monotonic();
        let state = State {
            progress: now,
            began: now,
            ..State::default()
        };
        Self {
            clock,
            attempt_timeout,
            metrics,
            root,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop turned. Whatever hung before must come to an answer first.
    pub(super) fn turned(&self) {
        let mut state = self.state();
        if !state.hangs {
            state.progress = self.clock.monotonic();
        }
    }

    /// An attempt, or another try at its commit, begins.
    pub(super) fn begins(&self) {
        self.state().began = self.clock.monotonic();
        self.turned();
    }

    /// Whether the last attempt had no answer.
    pub(super) fn hangs(&self) -> bool {
        self.state().hangs
    }

    /// Runs an attempt; without an answer for `agent.attempt_timeout` it is dropped.
    pub(super) async fn within<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(attempt);
        loop {
            let left =
                (self.state().began + self.attempt_timeout).saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                self.state().hangs = true;
                let seconds = self.attempt_timeout.as_secs();
                let text = format!("no answer in {seconds} s (agent.attempt_timeout)");
                return Err(Error::new(ErrorKind::Storage, text));
            }
            tokio::select! {
                biased;
                answer = &mut attempt => {
                    self.state().hangs = false;
                    self.turned();
                    return answer;
                }
                () = self.clock.sleep(left) => {}
            }
        }
    }

    /// What earlier agents left was resumed, or has to wait.
    pub(super) fn resumed(&self) -> bool {
        !std::mem::replace(&mut self.state().resumed, true)
    }

    /// A round is over: it ended so many entries, or failed. Gives the failures in a row, and whether this one is news.
    pub(super) fn round(&self, ended: Result<usize, &Error>) -> (u32, bool) {
        let mut state = self.state();
        let failed = ended.err().map(|error| brief(error));
        let news = failed.is_some() && failed != state.failed;
        state.failures = match failed {
            Some(_) => state.failures + 1,
            None => 0,
        };
        if ended.is_ok_and(|entries| entries > 0) {
            state.storage = None;
        }
        let nothing_waits = state.claims.is_empty() && state.unclaimable.is_empty();
        let well = match ended {
            Ok(0) => nothing_waits && state.storage.is_none() && state.spool.is_none(),
            Ok(_) => true,
            Err(_) => false,
        };
        let agent = &self.metrics.agent;
        agent.failures.set(i64::from(state.failures));
        if well {
            agent.succeeded(self.clock.now_ms());
        }
        state.failed = failed;
        (state.failures, news)
    }

    pub(super) fn shows_waiting(
        &self,
        claims: Vec<(String, Wait)>,
        unclaimable: Vec<(String, Wait)>,
    ) {
        for cause in Cause::ALL {
            let all = claims.iter().chain(&unclaimable);
            let count = all.filter(|(_, wait)| wait.cause == cause).count();
            self.metrics.agent.waiting(cause.as_str(), count);
        }
        let mut state = self.state();
        (state.claims, state.unclaimable) = (claims, unclaimable);
    }

    /// Shows the tables of which nothing is taken for now.
    pub(super) fn shows_held(&self, held: Vec<(String, Hold)>) {
        for why in Why::ALL {
            let left = held.iter().filter(|(_, hold)| hold.why == why);
            let left = left.map(|(_, hold)| hold.entries).sum();
            self.metrics.agent.held(why.as_str(), left);
        }
        self.state().held = held;
    }

    /// Shows what waits in `incoming`, by table.
    pub(super) fn shows_lag(&self, lag: Vec<Lag>) {
        self.state().lag = lag;
    }

    /// An entry was rejected.
    pub(super) fn rejected(&self, entry: String, reason: String) {
        let now = self.clock.now_ms();
        let mut state = self.state();
        state.rejected.truncate(REJECTED - 1);
        state.rejected.push_front((now, entry, reason));
    }

    /// Shows what stays in `incoming`, and names at INFO what was not there before.
    pub(super) fn shows_ignored(&self, ignored: Vec<(OsString, Named)>) {
        let unfinished = ignored.iter().filter(|i| i.1 == Named::Unfinished).count();
        let agent = &self.metrics.agent;
        agent.ignored("unfinished", unfinished);
        agent.ignored("unknown", ignored.len() - unfinished);
        let mut state = self.state();
        for (name, named) in &ignored {
            if state.ignored.binary_search(name).is_err() {
                let why = why_ignored(*named);
                tracing::info!(entry = shown(name), why, "this stays in incoming");
            }
        }
        state.ignored = ignored.into_iter().map(|(name, _)| name).collect();
    }

    /// Looks from time to time whether store and spool answer: also while an attempt hangs, or nothing is to be done.
    pub(super) async fn probe(self: Arc<Self>, store: Arc<Store>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.clock.sleep(PROBE_INTERVAL) => {}
            }
            let silence = |what: &str| format!("{what} does not answer");
            let storage = match answer_of(&store).await {
                Some(answer) => answer.err().map(|error| brief(&error)),
                None => Some(silence("the store")),
            };
            let incoming = self.root.join("incoming");
            let look = tokio::time::timeout(PROBE_TIMEOUT, tokio::fs::metadata(incoming));
            let spool = match look.await {
                Ok(answer) => answer.err().map(|error| format!("incoming: {error}")),
                Err(_) => Some(silence("the spool")),
            };
            let mut state = self.state();
            (state.storage, state.spool) = (storage, spool);
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}

/// Why a name stays in `incoming`.
pub(super) fn why_ignored(named: Named) -> &'static str {
    match named {
        Named::Unfinished => "its name, or one in it, says that it is still being written",
        Named::Data | Named::Beside | Named::Unknown => "its name is none of an input",
    }
}

/// What the store says when it is asked for its latest state; `None` if it does not.
pub(super) async fn answer_of(store: &Store) -> Option<Result<()>> {
    let asked = tokio::time::timeout(PROBE_TIMEOUT, store.load()).await;
    asked.ok().map(|answer| answer.map(drop))
}

fn named(waits: &[(String, Wait)]) -> Value {
    let named = waits.iter().take(LISTED).map(|(entry, wait)| {
        json!({ "entry": entry, "cause": wait.cause.as_str(), "reason": wait.reason, "tries": wait.tries })
    });
    named.collect()
}

fn last_rejected(rejected: &VecDeque<(u64, String, String)>) -> Value {
    let rejected = rejected
        .iter()
        .map(|(at, entry, why)| json!({ "time_ms": at, "entry": entry, "reason": why }));
    rejected.collect()
}

fn lag(lags: &[Lag]) -> Value {
    let lags = lags.iter().take(LISTED).map(|lag| {
        json!({ "table": lag.table, "entries": lag.entries, "oldest_seconds": lag.oldest.as_secs() })
    });
    lags.collect()
}

fn held(held: &[(String, Hold)]) -> Value {
    let held = held.iter().take(LISTED).map(|(table, hold)| {
        json!({ "table": table, "cause": hold.why.as_str(), "reason": hold.reason, "entries": hold.entries })
    });
    held.collect()
}

impl StatusSource for Health {
    fn status(&self, _: &Scope) -> Value {
        let (ready, healthy) = (self.ready(), self.healthy());
        let agent = &self.metrics.agent;
        let state = self.state();
        json!({
            "commits": agent.commits.get(),
            "conflicts": agent.conflicts.get(),
            "committed": agent.finished(BatchResult::Committed),
            "already_committed": agent.finished(BatchResult::AlreadyCommitted),
            "rejected": agent.finished(BatchResult::Rejected),
            "rows": agent.rows.get(),
            "last_rejected": last_rejected(&state.rejected),
            "lag": lag(&state.lag),
            "flight": agent.flight.shown(),
            "spool": self.root,
            "depth": self.metrics.agent.spool_depth.get(),
            "ready": ready,
            "healthy": healthy,
            "failed": state.failed,
            "spool_error": state.spool,
            "store_error": state.storage,
            "consecutive_failures": state.failures,
            "waiting": named(&state.claims),
            "unclaimable": named(&state.unclaimable),
            "held": held(&state.held),
            "ignored": state.ignored.iter().take(LISTED).map(shown).collect::<Vec<_>>(),
        })
    }

    fn ready(&self) -> bool {
        let state = self.state();
        let fails = [&state.failed, &state.spool, &state.storage];
        state.resumed && !state.hangs && fails.iter().all(|what| what.is_none())
    }

    fn unready(&self) -> &'static str {
        "not ready: claims of an earlier run are not resumed yet, or the spool or the store does not answer; see /status\n"
    }

    fn healthy(&self) -> bool {
        let silent = self.clock.monotonic().saturating_sub(self.state().progress);
        silent <= self.attempt_timeout + SLACK
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn request(&self, ask: Ask) -> Result<Value, Refusal> {
        let why = format!("an agent cannot {}; ask the daemon", ask.verb);
        Err(Refusal::NotNow(why))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;

    /// Time that passes when somebody sleeps.
    #[derive(Debug, Default)]
    struct Passing(Mutex<Duration>);

    impl Clock for Passing {
        fn now_ms(&self) -> u64 {
            5_000
        }
        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            *self.0.lock().unwrap() += duration;
            Box::pin(std::future::ready(()))
        }
    }

    fn health() -> (Arc<Passing>, Health) {
        let clock = Arc::new(Passing::default());
        let metrics = Metrics::new().unwrap();
        let timeout = Duration::from_secs(600);
        let health = Health::new(clock.clone(), timeout, metrics, PathBuf::from("/spool"));
        (clock, health)
    }

    #[tokio::test]
    async fn storage_that_never_answers_ends_the_attempt_and_then_the_agent() {
        let (clock, health) = health();
        health.resumed();
        assert!(health.ready() && health.healthy());
        health.begins();
        let silence = health.within(std::future::pending::<Result<()>>()).await;
        let silence = silence.unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::Storage, "it waits");
        assert!(
            silence.to_string().contains("no answer in 600 s"),
            "{silence}"
        );
        assert!(
            !health.ready() && health.healthy(),
            "one may be an accident"
        );
        // The loop turns, and its next attempt hangs as well.
        health.turned();
        health.begins();
        drop(clock.sleep(SLACK + Duration::from_secs(1)));
        assert!(!health.healthy(), "turning is no progress");
        health.within(async { Ok(()) }).await.unwrap();
        assert!(health.ready() && health.healthy(), "an answer is");
    }

    #[test]
    fn failing_rounds_are_counted_and_told_once() {
        let (_, health) = health();
        assert!(health.resumed() && !health.resumed());
        let stamp = "squire_agent_last_success_timestamp_seconds";
        let away = Error::new(ErrorKind::Storage, "away");
        assert_eq!(health.round(Err(&away)), (1, true));
        assert_eq!(health.round(Err(&away)), (2, false));
        assert!(!health.ready() && health.status(&Scope::All)["failed"] == "away");
        assert!(
            health
                .metrics()
                .contains("squire_agent_consecutive_failures 2")
        );
        assert!(health.metrics().contains(&format!("{stamp} 0")));
        assert_eq!(health.round(Ok(0)), (0, false));
        assert!(health.ready());
        assert!(health.metrics().contains(&format!("{stamp} 5")));
    }
}
