//! The write agent: takes batches from a spool and commits each atomically and exactly once.
//!
//! 1. `spool` is the directory protocol: claims by rename, ownership by flock, resumption after a crash.
//! 2. `crate::input` says what one entry wants, and reads it.
//! 3. `rounds` loops: resume what nobody works on, claim what is `ready`, then finish, reject, or let go of what has to `wait`.
//! 4. `attempt` is the work on one claim, which lies in the `hand` meanwhile; its batches are a `group`, which is one commit.
//! 5. `followed` looks once more, later, at what was committed.
//! 6. `retention` takes from `done` what has been there long enough.
//! 7. `held` are the tables of which nothing more is taken for now: in debt, or with batches that wait.
//! 8. `health` says whether all that works.
//! 9. `crate::flight` takes rows beside the spool, where it is switched on.
//!
//! Exactly once rests on one rule: a claim is named by the operation that commits it, durably, before that operation
//! puts anything. Whoever finds the claim asks the store what became of the operation.
//!
//! # Groups
//! Batches that wait and only append are claimed together, up to `agent.group_batches`, and committed by one operation. Whatever
//! cannot go with the others is parted from their claim and goes on as a claim of its own, in the order of names: what is
//! bad, was committed before, still grows, reads rows (a merge, a delete, an overwrite), is streamed or is too much. A group whose commit
//! is lost for good, and one over which agents died twice, is taken apart into smaller ones: what is wrong with one batch is found
//! with that batch alone, and settled as it would be without groups.
//!
//! # No input stops the agent
//! A panic ends one attempt. What cannot be caught (an abort for lack of memory or stack, a kill) is counted in the claim:
//! each attempt says durably that it begins, and says again when it came to an answer. An entry over which
//! `agent.max_attempts` agents in a row have died is rejected. Only deaths while the input was read and staged count: an
//! operation that put its sidecar has shown that this can be done, so the count starts over, and one that is committed
//! is committed, whoever died then. Waiting is an answer (drift, storage that is away or hangs, a conflict), and so is
//! a clean stop. A panic is none: it counts as a death does. Agents that are killed at random die over whatever they have in hand, and again and again over the same
//! entry only if nothing else is there to be done: from the second death on an entry comes after all others, later each
//! time.

mod attempt;
mod followed;
mod group;
mod hand;
mod health;
mod held;
mod ready;
mod reason;
mod retention;
mod rounds;
pub(crate) mod spool;
mod waiting;

pub(crate) use reason::Reason;

use crate::config::AgentConfig;
use crate::daemon::{Event, Signals};
use crate::flight;
use crate::http::{Access, StatusSource, serve};
use crate::input::shown;
use crate::metrics::Metrics;
use crate::supervisor::Supervisor;
use crate::systemd;
use hand::Hand;
use health::Health;
use rounds::Agent;
use serde::Serialize;
use spool::{Spool, SpoolError};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::store::Store;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How the agent was started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) spool: PathBuf,
    pub(crate) config: AgentConfig,
    /// Who may read what the HTTP server tells.
    pub(crate) access: Access,
    /// End when the spool is empty instead of waiting for more.
    pub(crate) until_empty: bool,
}

/// What an agent did until it ended.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    /// Batches committed, and their rows.
    pub(crate) committed: u64,
    pub(crate) rows: u64,
    /// Batches that an attempt before a crash, or a batch of the same id, had committed.
    pub(crate) already_committed: u64,
    /// Batches moved to `rejected/`: an answer, not a failure of the agent.
    pub(crate) rejected: u64,
    /// How many names stay in `incoming/` because they say that they are unfinished or no input.
    pub(crate) ignored: usize,
    /// What could not be worked off, of those that are ignored all but hidden files and what tools leave beside data.
    pub(crate) left: Vec<Left>,
    /// What kept failing: the spool or the store.
    pub(crate) failed: Option<String>,
}

/// An entry that could not be worked off.
#[derive(Debug, Serialize)]
pub(crate) struct Left {
    pub(crate) entry: String,
    pub(crate) cause: &'static str,
    pub(crate) reason: String,
}

/// Runs until SIGTERM or SIGINT, or until the spool is empty. The batch in hand is finished first; one that takes longer
/// than the drain time is left to the next agent.
pub(crate) async fn run(store: Arc<Store>, options: Options) -> Result<Summary> {
    let spool = Spool::open(&options.spool).map_err(spool_error)?;
    let metrics = Metrics::new().map_err(|e| Error::internal("metrics").caused_by(e))?;
    let cancel = CancellationToken::new();
    let mut tasks = Supervisor::default();
    let health = Arc::new(Health::new(
        store.options().clock.clone(),
        options.config.attempt_timeout,
        metrics.clone(),
        options.spool.clone(),
    ));
    if let Some(listen) = options.config.listen {
        start_http(
            (listen, options.access.clone()),
            &health,
            &mut tasks,
            &cancel,
        )
        .await?;
    }
    let (config, aside) = (&options.config, options.spool.clone());
    let server = flight::Server::listen(&store, config, &metrics, aside, &cancel).await?;
    if let Some(server) = server {
        tasks.start("flight", server.serve());
    }
    start_watchdog(&store, &health, &mut tasks, &cancel);
    let probing = health.clone().probe(store.clone(), cancel.clone());
    tasks.start("probe", probing);
    start_signals(&mut tasks, &cancel)?;
    tracing::info!(
        store = store.uri(),
        spool = shown(health.root()),
        version = env!("CARGO_PKG_VERSION"),
        "agent started"
    );
    let (hand, drain) = (Hand::default(), options.config.drain);
    let agent = Agent {
        store: store.clone(),
        spool: spool.clone(),
        metrics,
        options,
        hand: hand.clone(),
        health,
    };
    let (done, mut ended) = oneshot::channel();
    let stop = cancel.clone();
    // In a task of its own, so that work that hangs, even in a system call, does not keep this from ending.
    tasks.start("work", async move {
        let summary = agent.work(&stop).await;
        // Nobody listens any more when the drain time is over.
        done.send(summary).unwrap_or_default();
    });
    let too_late = async {
        cancel.cancelled().await;
        store.clock().sleep(drain).await;
    };
    tokio::select! {
        biased;
        summary = &mut ended => {
            cancel.cancel();
            tasks.drain().await;
            summary.map_err(|_| Error::internal("the agent's work panicked"))?
        }
        () = too_late => {
            hand.forgive(&spool).map_err(spool_error)?;
            tracing::warn!("the drain time is over; the next agent resumes the batch in hand");
            Ok(Summary::default())
        }
    }
}

async fn start_http(
    (listen, access): (SocketAddr, Access),
    health: &Arc<Health>,
    tasks: &mut Supervisor,
    cancel: &CancellationToken,
) -> Result<()> {
    let listener = crate::http::listen(listen, "agent.listen", access.reads_freely()).await?;
    let (source, stop) = (health.clone(), cancel.clone());
    tasks.start("http", async move {
        if let Err(error) = serve(listener, source, access, stop).await {
            tracing::error!(%error, "the http server ended");
        }
    });
    Ok(())
}

fn start_signals(tasks: &mut Supervisor, cancel: &CancellationToken) -> Result<()> {
    let mut signals = Signals::new()?;
    let stop = cancel.clone();
    tasks.start("signals", async move {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = signals.next() => match event {
                    Event::Stop => {
                        systemd::stopping();
                        stop.cancel();
                    }
                    Event::Reload => tracing::info!(
                        "an agent does not reload its configuration; restart it, claims are resumed"
                    ),
                }
            }
        }
    });
    Ok(())
}

/// Tells systemd that the agent makes progress, and stops telling when it does not.
fn start_watchdog(
    store: &Arc<Store>,
    health: &Arc<Health>,
    tasks: &mut Supervisor,
    cancel: &CancellationToken,
) {
    let Some(interval) = systemd::watchdog_interval() else {
        return;
    };
    let (store, health, cancel) = (store.clone(), health.clone(), cancel.clone());
    tasks.start("watchdog", async move {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = store.clock().sleep(interval) => {}
            }
            if health.healthy() {
                systemd::watchdog_ping();
            }
        }
    });
}

fn spool_error(error: SpoolError) -> Error {
    Error::new(ErrorKind::Storage, "the spool failed").caused_by(error)
}
