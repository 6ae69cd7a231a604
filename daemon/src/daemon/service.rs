//! The daemon's life: start, loop, drain. The loop waits for nothing but wakes.

use super::jobs::Done;
use super::pauses::Pauses;
use super::reconciler::Reconciler;
use super::reload::{Before, reload, watch_config};
use super::signals::{Event, Signals};
use super::status::Status;
use crate::config::{Config, Watch};
use crate::exit::{code, graver};
use crate::http::{Access, Scope, StatusSource, serve};
use crate::metrics::Metrics;
use crate::place::{same_place, watch_of};
use crate::supervisor::Supervisor;
use crate::systemd;
use serde_json::Value;
use squire_engine::clock::Clock;
use squire_engine::error::{Error, Result};
use squire_engine::store::StoreOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// File events that come closer together than this are one wake: a writer's burst is observed once.
const SETTLE: Duration = Duration::from_millis(500);

/// The loop turns at least this often, to see what time has brought, and that attempts move.
const TICK: Duration = Duration::from_secs(1);

/// How the daemon was started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) config_path: Option<PathBuf>,
    /// The places named on the command line.
    pub(crate) places: Vec<String>,
    pub(crate) once: bool,
    /// Where the HTTP server listens, if anywhere: the command line comes before the configuration.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) store: StoreOptions,
}

impl Options {
    /// What to watch: the configured places, then those of the command line.
    pub(crate) fn watches(&self, config: &Config) -> Vec<Watch> {
        let mut watches = config.watches.clone();
        for place in &self.places {
            let watch = watch_of(config, place);
            if !watches.iter().any(|w| same_place(&w.uri, &watch.uri)) {
                watches.push(watch);
            }
        }
        watches
    }
}

/// How a daemon ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How much failed in the pass of `once`: places that could not be opened, recoveries, observations and attempts.
    pub(crate) failed: usize,
    /// What it shows, as HTTP would.
    pub(crate) status: Value,
}

/// Runs until SIGTERM or SIGINT, or one pass with `once`.
pub(crate) async fn run(config: Config, options: Options) -> Result<Ended> {
    // Before anything of it shows: who sees it may stop or reload it.
    let signals = Signals::new()?;
    let metrics = Metrics::new().map_err(|e| Error::internal("metrics").caused_by(e))?;
    let status = Arc::new(Status::new(metrics, options.store.clock.clone()));
    status.set_pauses(Pauses::load(options.store.state_dir.as_deref())?);
    let cancel = CancellationToken::new();
    let mut tasks = Supervisor::default();
    let mut access = None;
    if !options.once {
        access = start_http(&config, &options, &status, &mut tasks, &cancel).await?;
        let ticking = options.store.clock.clone();
        start_watchdog(&status, ticking, &mut tasks, &cancel);
    }
    let (done, outcomes) = unbounded_channel();
    let started_with = config.clone();
    let mut life = Life {
        reconciler: Reconciler::new(config, options.clone(), status.clone(), done),
        outcomes,
        signals,
        settle: None,
        started_with,
        access,
        options,
    };
    let _config_watch = life.watch_config();
    // A pass that came to its end has nothing to stop and nothing to hand back.
    if let End::Stopped = life.live().await {
        life.drain().await;
    }
    let Life {
        reconciler,
        options,
        ..
    } = life;
    cancel.cancel();
    tasks.drain().await;
    let failed = match options.once {
        true => reconciler.failed(),
        false => 0,
    };
    let closed = reconciler.is_closed();
    match gravest(reconciler.unopened) {
        Some(error) if closed => Err(error),
        _ => Ok(Ended {
            failed,
            status: status.status(&Scope::All),
        }),
    }
}

/// Why the loop ended.
enum End {
    /// A signal asked for it.
    Stopped,
    /// The single pass is through.
    Through,
}

/// The loop, and what it listens to.
struct Life {
    reconciler: Reconciler,
    outcomes: UnboundedReceiver<Done>,
    signals: Signals,
    /// When the files that changed have settled.
    settle: Option<Duration>,
    started_with: Config,
    /// Whom the HTTP server lets in.
    access: Option<Access>,
    options: Options,
}

impl Life {
    fn now(&self) -> Duration {
        self.options.store.clock.monotonic()
    }

    fn watch_config(&self) -> Option<crate::watch::FileWatch> {
        let (path, wake) = (self.options.config_path.as_deref(), &self.reconciler.wakes);
        watch_config(path, &self.reconciler.status, wake.notify.clone())
    }

    /// Until a signal to stop, or the end of a single pass.
    async fn live(&mut self) -> End {
        let (clock, once) = (self.options.store.clock.clone(), self.options.once);
        let (wakes, status) = (
            self.reconciler.wakes.clone(),
            self.reconciler.status.clone(),
        );
        loop {
            self.reconciler.turn();
            if once && self.reconciler.is_through() {
                return End::Through;
            }
            if !once && self.reconciler.is_settled() && status.set_ready() {
                systemd::ready();
            }
            let settles = self.settle.map(|at| at.saturating_sub(self.now()));
            tokio::select! {
                biased;
                event = self.signals.next() => match event {
                    Event::Stop => return End::Stopped,
                    Event::Reload => self.reload(),
                },
                () = status.wake.notified() => self.reconciler.obey(),
                Some(done) = self.outcomes.recv() => self.fold(done),
                Some(ended) = self.reconciler.tasks.next_ended() => Supervisor::tell(ended),
                () = wakes.notify.notified(), if settles.is_none() => {
                    self.settle = Some(self.now() + SETTLE);
                }
                () = clock.sleep(settles.unwrap_or(TICK).min(TICK)) => {}
            }
            if self.settle.is_some_and(|at| at <= self.now()) {
                self.settle = None;
                if status.take_reload() {
                    self.reload();
                }
                self.reconciler.wake();
            }
        }
    }

    /// Folds in what has come.
    fn fold(&mut self, done: Done) {
        self.reconciler.fold(done);
        while let Ok(done) = self.outcomes.try_recv() {
            self.reconciler.fold(done);
        }
    }

    fn reload(&mut self) {
        let Some(path) = &self.options.config_path else {
            return;
        };
        let before = Before {
            started_with: &self.started_with,
            running: &self.reconciler.config,
            access: self.access.as_ref(),
        };
        if let Some(mut config) = reload(path, &before, &self.reconciler.status) {
            config.budget.memory = self.started_with.budget.memory;
            self.reconciler.reload(config);
        }
    }

    /// Attempts end at their next safe point, and commit what they have finished. One that takes longer than the drain
    /// time is dropped: what it committed is published by whoever recovers it.
    async fn drain(&mut self) {
        let clock = self.options.store.clock.clone();
        if !self.options.once {
            systemd::stopping();
        }
        self.reconciler.drain();
        let deadline = self.now() + self.reconciler.config.daemon.drain;
        while !self.reconciler.attempts.is_empty() {
            self.reconciler.turn();
            let left = deadline.saturating_sub(self.now());
            if left.is_zero() {
                tracing::warn!("the drain time is over; the running attempt is left to recovery");
                return;
            }
            tokio::select! {
                biased;
                Some(done) = self.outcomes.recv() => self.fold(done),
                () = clock.sleep(left.min(TICK)) => {}
            }
        }
    }
}

/// The error that asks most of a person.
fn gravest(errors: Vec<Error>) -> Option<Error> {
    errors.into_iter().reduce(|a, b| {
        let (of_a, of_b) = (code(a.kind()), code(b.kind()));
        if graver(of_a, of_b) == of_a { a } else { b }
    })
}

async fn start_http(
    config: &Config,
    options: &Options,
    status: &Arc<Status>,
    tasks: &mut Supervisor,
    cancel: &CancellationToken,
) -> Result<Option<Access>> {
    let Some(listen) = options.listen else {
        return Ok(None);
    };
    let access = config.access().map_err(|e| Error::invalid(e.to_string()))?;
    let listener = crate::http::listen(listen, "daemon.listen", access.reads_freely()).await?;
    let (source, cancel, served) = (status.clone(), cancel.clone(), access.clone());
    tasks.start("http", async move {
        if let Err(error) = serve(listener, source, served, cancel).await {
            tracing::error!(%error, "the http server ended");
        }
    });
    Ok(Some(access))
}

/// Tells systemd that the loop turns, and stops telling when it does not.
fn start_watchdog(
    status: &Arc<Status>,
    clock: Arc<dyn Clock>,
    tasks: &mut Supervisor,
    cancel: &CancellationToken,
) {
    let Some(interval) = systemd::watchdog_interval() else {
        return;
    };
    let (status, cancel) = (status.clone(), cancel.clone());
    tasks.start("watchdog", async move {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = clock.sleep(interval) => {}
            }
            if StatusSource::healthy(status.as_ref()) {
                systemd::watchdog_ping();
            }
        }
    });
}
