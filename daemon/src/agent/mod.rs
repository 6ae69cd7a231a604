//! The write agent: takes batches from a spool and commits each atomically and exactly once.
//!
//! 1. `spool` is the directory protocol: claims by rename, ownership by flock, resumption after a crash.
//! 2. `batch` says what one entry wants; `crate::formats` reads its files.
//! 3. [`run`] loops: resume what dead agents left, claim, commit, finish or reject.
//!
//! Exactly once rests on one rule: a claim is named by the operation that commits it, durably, before that operation
//! puts anything. Whoever finds the claim asks the store what became of the operation.

pub(crate) mod batch;
pub(crate) mod load;
mod spool;

use crate::config::AgentConfig;
use crate::daemon::{Event, Signals};
use crate::http::{Ask, Refusal, StatusSource, serve};
use crate::metrics::{BatchResult, Metrics};
use crate::supervisor::Supervisor;
use crate::systemd;
use crate::watch::watch_local;
use load::Loaded;
use serde_json::{Value, json};
use spool::{Claim, Spool, SpoolError};
use squire_engine::commit::Outcome;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::OpId;
use squire_engine::recovery::OperationOutcome;
use squire_engine::store::Store;
use squire_failpoints::{Seam, hit};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

/// Waits longest between attempts to reach a store that fails.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How often a batch that has to wait is tried before `--until-empty` gives up on it.
const TRIES_UNTIL_EMPTY: u32 = 5;

/// How the agent was started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) spool: PathBuf,
    pub(crate) config: AgentConfig,
    /// End when the spool is empty instead of waiting for more.
    pub(crate) until_empty: bool,
}

struct Agent {
    store: Arc<Store>,
    spool: Spool,
    metrics: Metrics,
    options: Options,
}

/// How work on one claim ended.
enum Ended {
    /// Committed or rejected.
    Done,
    /// Not now: a drifted table, an undecided outcome, a store that is away. The claim stays ours.
    Waits(Claim, Error),
}

/// A claim to try again later.
struct Waiting {
    claim: Claim,
    next: Duration,
    tries: u32,
    kind: ErrorKind,
    reason: String,
}

/// Runs until SIGTERM or SIGINT; the batch in hand is finished first.
pub(crate) async fn run(store: Arc<Store>, options: Options) -> Result<()> {
    let spool = Spool::open(&options.spool).map_err(spool_error)?;
    let metrics = Metrics::new().map_err(|e| Error::internal("metrics").caused_by(e))?;
    let cancel = CancellationToken::new();
    let mut tasks = Supervisor::default();
    if let Some(listen) = options.config.listen {
        let listener = crate::http::listen(listen, "agent.listen").await?;
        let source = Arc::new(AgentStatus {
            metrics: metrics.clone(),
            spool: options.spool.clone(),
        });
        let stop = cancel.clone();
        tasks.start("http", async move {
            if let Err(error) = serve(listener, source, None, stop).await {
                tracing::error!(%error, "the http server ended");
            }
        });
    }
    start_watchdog(&store, &mut tasks, &cancel);
    let mut signals = Signals::new()?;
    let stop = cancel.clone();
    tasks.start("signals", async move {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = signals.next() => if matches!(event, Event::Stop) {
                    systemd::stopping();
                    stop.cancel();
                }
            }
        }
    });
    systemd::ready();
    let agent = Agent {
        store,
        spool,
        metrics,
        options,
    };
    let ended = agent.work(&cancel).await;
    cancel.cancel();
    tasks.drain().await;
    ended
}

fn start_watchdog(store: &Arc<Store>, tasks: &mut Supervisor, cancel: &CancellationToken) {
    let Some(interval) = systemd::watchdog_interval() else {
        return;
    };
    let (store, cancel) = (store.clone(), cancel.clone());
    tasks.start("watchdog", async move {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = store.clock().sleep(interval) => systemd::watchdog_ping(),
            }
        }
    });
}

impl Agent {
    async fn work(&self, cancel: &CancellationToken) -> Result<()> {
        let wake = Arc::new(Notify::new());
        let incoming = [self.spool.incoming_dir().to_path_buf()];
        let _files = watch_local(&incoming, |_| true, wake.clone());
        let mut pause = self.options.config.poll_interval;
        let mut waiting = Vec::new();
        while !cancel.is_cancelled() {
            match self.round(&mut waiting, cancel).await {
                Ok(0) => {
                    pause = self.options.config.poll_interval;
                    if self.options.until_empty {
                        match waiting
                            .iter()
                            .find(|w: &&Waiting| w.tries >= TRIES_UNTIL_EMPTY)
                        {
                            Some(stuck) => {
                                return Err(Error::new(stuck.kind, stuck.reason.clone()));
                            }
                            None if waiting.is_empty() => return Ok(()),
                            None => {}
                        }
                    }
                }
                Ok(_) => {
                    pause = self.options.config.poll_interval;
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::FormatTooNew => return Err(e),
                Err(error) => {
                    tracing::warn!(%error, "the spool or the store fails; trying again");
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = wake.notified() => {}
                () = self.store.clock().sleep(self.store.jitter(pause)) => {}
            }
        }
        Ok(())
    }

    /// Resumes orphans and claims that wait, then works through what is incoming. Returns how many entries it ended.
    async fn round(&self, waiting: &mut Vec<Waiting>, cancel: &CancellationToken) -> Result<usize> {
        let mut ended = 0;
        for claim in block_in_place(|| self.spool.resume_orphans()).map_err(spool_error)? {
            if cancel.is_cancelled() {
                return Ok(ended);
            }
            ended += self.note(self.resume(claim).await?, 0, waiting)?;
        }
        let now = self.store.clock().monotonic();
        let (due, later): (Vec<Waiting>, Vec<Waiting>) = std::mem::take(waiting)
            .into_iter()
            .partition(|w| w.next <= now);
        waiting.extend(later);
        for Waiting { claim, tries, .. } in due {
            ended += self.note(self.resume(claim).await?, tries, waiting)?;
        }
        let incoming = block_in_place(|| self.spool.list_incoming()).map_err(spool_error)?;
        self.observe_spool(incoming.len())?;
        for entry in incoming {
            if cancel.is_cancelled() {
                return Ok(ended);
            }
            let op = self.store.new_op();
            let claimed = block_in_place(|| self.spool.claim(op.into(), &[&entry.name]));
            let claimed = claimed.map_err(spool_error)?;
            for error in claimed.refused {
                tracing::warn!(%error, "this entry cannot be claimed");
            }
            let Some(claim) = claimed.claim else { continue };
            hit(Seam::AgentAfterClaim)?;
            ended += self.note(self.commit_claim(claim).await?, 0, waiting)?;
        }
        Ok(ended)
    }

    fn observe_spool(&self, depth: usize) -> Result<()> {
        let agent = &self.metrics.agent;
        agent
            .spool_depth
            .set(i64::try_from(depth).unwrap_or(i64::MAX));
        let now = UNIX_EPOCH + Duration::from_millis(self.store.clock().now_ms());
        let oldest = block_in_place(|| self.spool.oldest_age(now)).map_err(spool_error)?;
        agent
            .spool_oldest_age
            .set(oldest.unwrap_or_default().as_secs_f64());
        Ok(())
    }

    /// Keeps a claim that must wait, so that the others go on; a failing storage ends the round instead.
    fn note(&self, ended: Ended, tries: u32, waiting: &mut Vec<Waiting>) -> Result<usize> {
        let (claim, error) = match ended {
            Ended::Done => return Ok(1),
            Ended::Waits(_, error) if error.kind() == ErrorKind::FormatTooNew => return Err(error),
            Ended::Waits(claim, error) => (claim, error),
        };
        let doubled = 2u32.saturating_pow(tries.min(16));
        let pause = self
            .options
            .config
            .poll_interval
            .saturating_mul(doubled)
            .min(MAX_PAUSE);
        let next = self.store.clock().monotonic() + pause;
        let (kind, reason) = (error.kind(), error.to_string());
        tracing::warn!(claim = %claim.operation(), reason, "this batch has to wait");
        waiting.push(Waiting {
            claim,
            next,
            tries: tries + 1,
            kind,
            reason,
        });
        if kind == ErrorKind::Storage {
            Err(error)
        } else {
            Ok(0)
        }
    }

    /// A claim whose last attempt is over or whose owner is dead: what became of its operation decides.
    async fn resume(&self, claim: Claim) -> Result<Ended> {
        let op = OpId::from(claim.operation());
        let outcome = match self.store.settle_dead(op).await {
            Ok(()) => self.store.outcome_of(op).await,
            Err(e) => Err(e),
        };
        match outcome {
            Ok(OperationOutcome::Committed { .. }) => {
                self.metrics
                    .agent
                    .batch_finished(BatchResult::AlreadyCommitted);
                block_in_place(|| self.spool.finish(claim)).map_err(spool_error)?;
                Ok(Ended::Done)
            }
            Ok(OperationOutcome::Aborted | OperationOutcome::Absent) => {
                self.commit_claim(claim).await
            }
            Ok(OperationOutcome::Undecided) => {
                let e = Error::new(ErrorKind::Unknown, "the operation is not decided yet");
                Ok(Ended::Waits(claim, e.of(op)))
            }
            Err(e) => Ok(Ended::Waits(claim, e)),
        }
    }

    async fn commit_claim(&self, claim: Claim) -> Result<Ended> {
        let entries: Vec<OsString> = claim.entries().to_vec();
        let entry = match entries.as_slice() {
            // What a crash left after the last entry was moved on.
            [] => {
                block_in_place(|| self.spool.finish(claim)).map_err(spool_error)?;
                return Ok(Ended::Done);
            }
            [entry] => entry,
            [..] => {
                let many = format!(
                    "claim {} holds {} entries, not one",
                    claim.operation(),
                    entries.len()
                );
                return Ok(Ended::Waits(claim, Error::internal(many)));
            }
        };
        match load::load(&self.store, &claim.path(entry), &self.options.config.input).await {
            Ok(loaded) => self.commit_loaded(claim, entry, loaded).await,
            Err(e) if load::is_bad_input(&e) => self.reject(claim, entry, &e),
            Err(e) => Ok(Ended::Waits(claim, e)),
        }
    }

    async fn commit_loaded(&self, claim: Claim, entry: &OsString, loaded: Loaded) -> Result<Ended> {
        let Loaded { mut request, rows } = loaded;
        request.retries = self.options.config.conflict_retries;
        let claim = Arc::new(Mutex::new(Some(claim)));
        let (renamed, spool) = (claim.clone(), self.spool.clone());
        request.before_attempt = Some(Arc::new(move |op| {
            let mut claim = renamed.lock().unwrap_or_else(PoisonError::into_inner);
            let claim = claim
                .as_mut()
                .ok_or_else(|| Error::internal("the claim is gone"))?;
            block_in_place(|| spool.retry_as(claim, op.into())).map_err(spool_error)?;
            hit(Seam::AgentBeforeCommit).map_err(Error::from)
        }));
        let started = self.store.clock().monotonic();
        let committed = self.store.commit(&request).await;
        let took = self.store.clock().monotonic().saturating_sub(started);
        self.metrics
            .agent
            .commit_seconds
            .observe(took.as_secs_f64());
        drop(request);
        let taken = claim.lock().unwrap_or_else(PoisonError::into_inner).take();
        let claim = taken.ok_or_else(|| Error::internal("the claim is gone"))?;
        match committed {
            Ok(outcome) => {
                hit(Seam::AgentAfterCommit)?;
                self.count(&outcome, rows);
                block_in_place(|| self.spool.finish(claim)).map_err(spool_error)?;
                Ok(Ended::Done)
            }
            Err(e) if load::is_bad_input(&e) => self.reject(claim, entry, &e),
            Err(e) => Ok(Ended::Waits(claim, e)),
        }
    }

    fn count(&self, outcome: &Outcome, rows: usize) {
        let agent = &self.metrics.agent;
        match outcome {
            Outcome::Committed(committed) => {
                agent.batch_finished(BatchResult::Committed);
                agent.commits.inc();
                agent.rows.inc_by(rows as u64);
                agent
                    .conflicts
                    .inc_by(u64::from(committed.attempts.saturating_sub(1)));
            }
            Outcome::AlreadyCommitted(_) => agent.batch_finished(BatchResult::AlreadyCommitted),
        }
    }

    fn reject(&self, mut claim: Claim, entry: &OsString, reason: &Error) -> Result<Ended> {
        let name = entry.to_string_lossy();
        let reason = match reason.to_string() {
            text if text.contains(name.as_ref()) => text,
            text => format!("{name}: {text}"),
        };
        tracing::info!(entry = %name, reason, "batch rejected");
        block_in_place(|| {
            self.spool.reject(&mut claim, entry, &reason)?;
            self.spool.finish(claim)
        })
        .map_err(spool_error)?;
        self.metrics.agent.batch_finished(BatchResult::Rejected);
        Ok(Ended::Done)
    }
}

fn spool_error(error: SpoolError) -> Error {
    Error::new(ErrorKind::Storage, "the spool failed").caused_by(error)
}

/// What the agent shows over HTTP.
struct AgentStatus {
    metrics: Metrics,
    spool: PathBuf,
}

impl StatusSource for AgentStatus {
    fn status(&self) -> Value {
        json!({ "spool": self.spool, "depth": self.metrics.agent.spool_depth.get() })
    }

    fn ready(&self) -> bool {
        true
    }

    fn healthy(&self) -> bool {
        true
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn request(&self, ask: Ask) -> Result<Value, Refusal> {
        let why = format!("an agent cannot {}; ask the daemon", ask.verb);
        Err(Refusal::NotNow(why))
    }
}
