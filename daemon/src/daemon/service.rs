//! The daemon's life: open, recover, ready, loop, drain.

use super::pass::{Memory, Pass};
use super::status::Status;
use crate::cli::{code, graver};
use crate::config::{Config, DaemonConfig, Watch};
use crate::http::{StatusSource, Token, serve};
use crate::metrics::Metrics;
use crate::place::{Place, same_place, watch_of};
use crate::supervisor::Supervisor;
use crate::systemd;
use crate::watch::{FileWatch, watch_local};
use serde_json::Value;
use squire_engine::clock::Clock;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::store::StoreOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// File events that come closer together than this are one wake: a writer's burst is observed once.
const SETTLE: Duration = Duration::from_millis(500);

/// How long a place may take to open before the pass goes on without it; the next pass tries again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

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
pub(crate) async fn run(mut config: Config, options: Options) -> Result<Ended> {
    let clock = options.store.clock.as_ref();
    let metrics = Metrics::new().map_err(|e| Error::internal("metrics").caused_by(e))?;
    let stall = config.daemon.watchdog_progress;
    let status = Arc::new(Status::new(metrics, options.store.clock.clone(), stall));
    let cancel = CancellationToken::new();
    let mut tasks = Supervisor::default();
    if !options.once {
        start_http(&config, &options, &status, &mut tasks, &cancel).await?;
        let ticking = options.store.clock.clone();
        start_watchdog(&status, ticking, &mut tasks, &cancel);
    }
    let mut signals = Signals::new()?;
    let started_with = config.daemon.clone();
    let mut places = Vec::new();
    let mut memory = Memory::default();
    let opened = open_places(&config, &options, &status, &mut places, &mut signals).await;
    let Some(unopened) = opened else {
        return Ok(end(0, &status, tasks, &cancel).await);
    };
    let failed_to_open = unopened.len();
    if let (true, true, Some(error)) = (places.is_empty(), options.once, gravest(unopened)) {
        return Err(error);
    }
    let wake = Arc::new(Notify::new());
    let mut watched = watch_versions(&places, wake.clone());
    let _config_watch = watch_config(&options, &status, wake.clone());
    let failed = loop {
        let turn = Turn {
            config: &config,
            status: &status,
            clock,
            cancel: &cancel,
        };
        let failed = turn.run(&places, &mut memory, &mut signals).await;
        if options.once || cancel.is_cancelled() {
            break if options.once {
                failed + failed_to_open
            } else {
                0
            };
        }
        status.set_ready();
        systemd::ready();
        match wait(&config, &status, &wake, clock, &mut signals).await {
            Next::Stop => {
                systemd::stopping();
                break 0;
            }
            Next::Reload => reload(&mut config, &started_with, &options, &status),
            Next::Pass => {}
        }
        let before: Vec<String> = places.iter().map(|p| p.uri.clone()).collect();
        let opened = open_places(&config, &options, &status, &mut places, &mut signals).await;
        if opened.is_none() {
            systemd::stopping();
            break 0;
        }
        if !before.iter().eq(places.iter().map(|p| &p.uri)) {
            watched = watch_versions(&places, wake.clone());
        }
    };
    drop(watched);
    Ok(end(failed, &status, tasks, &cancel).await)
}

/// Has what runs beside the loop end.
async fn end(
    failed: usize,
    status: &Status,
    mut tasks: Supervisor,
    cancel: &CancellationToken,
) -> Ended {
    cancel.cancel();
    tasks.drain().await;
    Ended {
        failed,
        status: status.status(),
    }
}

/// One pass, with an ear for signals and requests.
struct Turn<'a> {
    config: &'a Config,
    status: &'a Arc<Status>,
    clock: &'a dyn Clock,
    cancel: &'a CancellationToken,
}

impl Turn<'_> {
    /// Returns how much failed.
    async fn run(&self, places: &[Place], memory: &mut Memory, signals: &mut Signals) -> usize {
        let stop = self.cancel.child_token();
        let pass = Pass {
            config: self.config,
            status: self.status,
            clock: self.clock,
            cancel: &stop,
            requests: self.status.take_requests(),
        };
        let work = pass.timed(places, memory);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                event = signals.next() => match event {
                    Event::Stop => break,
                    Event::Reload => self.status.ask_reload(),
                },
                () = cancelled_by_request(self.status) => stop.cancel(),
                failed = &mut work => return failed,
            }
        }
        // Drain: the attempt ends at its next safe point, or is dropped after the drain time; whatever it committed
        // is published by the next pass.
        systemd::stopping();
        self.cancel.cancel();
        if tokio::time::timeout(self.config.daemon.drain, &mut work)
            .await
            .is_err()
        {
            tracing::warn!("the drain time is over; the running attempt is left to recovery");
        }
        0
    }
}

/// What ends a wait; a pass follows a reload, too.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Pass,
    Reload,
    Stop,
}

async fn wait(
    config: &Config,
    status: &Arc<Status>,
    wake: &Notify,
    clock: &dyn Clock,
    signals: &mut Signals,
) -> Next {
    if status.take_reload() {
        return Next::Reload;
    }
    if status.has_requests() {
        return Next::Pass;
    }
    // Jittered, so that daemons that were started together do not scan together.
    let pause = config
        .daemon
        .scan_interval
        .mul_f64(0.9 + f64::from(std::process::id() % 100) / 1_000.0);
    tokio::select! {
        biased;
        event = signals.next() => match event {
            Event::Stop => return Next::Stop,
            Event::Reload => return Next::Reload,
        },
        () = status.wake.notified() => {}
        () = wake.notified() => clock.sleep(SETTLE).await,
        () = clock.sleep(pause) => {}
    }
    Next::Pass
}

/// Wakes when a version of a local table appears.
fn watch_versions(places: &[Place], wake: Arc<Notify>) -> FileWatch {
    let local = places
        .iter()
        .map(|p| p.store.uri())
        .filter(|uri| !uri.contains("://"));
    let roots: Vec<PathBuf> = local.map(PathBuf::from).collect();
    watch_local(
        &roots,
        |path| path.parent().is_some_and(|dir| dir.ends_with("_versions")),
        wake,
    )
}

/// Asks for a reload when the configuration file is written or replaced. Its directory is watched, since editors replace
/// files.
fn watch_config(options: &Options, status: &Arc<Status>, wake: Arc<Notify>) -> Option<FileWatch> {
    let path = std::path::absolute(options.config_path.as_deref()?).ok()?;
    let directory = path.parent()?.to_path_buf();
    let status = status.clone();
    let edited = move |changed: &Path| {
        let edited = changed == path;
        if edited {
            status.ask_reload();
        }
        edited
    };
    Some(watch_local(&[directory], edited, wake))
}

/// A bad file keeps the old configuration, sets a metric, and says so.
fn reload(config: &mut Config, started_with: &DaemonConfig, options: &Options, status: &Status) {
    let Some(path) = &options.config_path else {
        return;
    };
    systemd::reloading();
    match Config::load(path) {
        Ok(new) => {
            *config = new;
            status.metrics.config_reload_failed.set(0);
            tracing::info!(path = %path.display(), "configuration reloaded");
            for setting in needs_restart(started_with, &config.daemon) {
                tracing::warn!(
                    "daemon.{setting} needs a restart: what the daemon started with stays in force"
                );
            }
        }
        Err(error) => {
            status.metrics.config_reload_failed.set(1);
            status.error(format!("configuration not reloaded: {error}"));
            tracing::warn!(%error, "the configuration is bad; the old one stays");
        }
    }
    systemd::ready();
}

/// The settings that differ from those the daemon started with and that it cannot take up while it runs: they are part
/// of its socket, its log, its watchdog and its open stores.
fn needs_restart(started_with: &DaemonConfig, now: &DaemonConfig) -> Vec<&'static str> {
    let DaemonConfig {
        listen,
        watchdog_progress,
        token_file,
        grace,
        durability,
        log,
        // Each pass reads these.
        scan_interval: _,
        full_scan_interval: _,
        drain: _,
    } = now;
    let settings = [
        ("listen", *listen == started_with.listen),
        (
            "watchdog_progress",
            *watchdog_progress == started_with.watchdog_progress,
        ),
        ("token_file", *token_file == started_with.token_file),
        ("grace", *grace == started_with.grace),
        ("durability", *durability == started_with.durability),
        ("log", *log == started_with.log),
    ];
    let changed = settings.into_iter().filter(|(_, same)| !same);
    changed.map(|(name, _)| name).collect()
}

async fn cancelled_by_request(status: &Status) {
    loop {
        status.wake.notified().await;
        if status.take_cancel() {
            return;
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

/// The place of `watch`: the one that is open, or another where something else stands now.
async fn open_place(watch: &Watch, open: Option<Place>, options: &Options) -> Result<Place> {
    if let Some(place) = open
        && place.still_is(watch).await
    {
        return Ok(place);
    }
    let place = Place::open(watch, options.store.clone()).await?;
    tracing::info!(uri = place.uri, managed = place.managed, "watching");
    Ok(place)
}

/// Opens what is wanted and not open yet or not what it was, all at once, and lets go of what is not wanted any more.
/// Storage that does not answer keeps neither the other places nor a signal waiting. Returns why some could not be
/// opened, or nothing at a signal to stop.
async fn open_places(
    config: &Config,
    options: &Options,
    status: &Status,
    places: &mut Vec<Place>,
    signals: &mut Signals,
) -> Option<Vec<Error>> {
    let wanted = options.watches(config);
    status.watches(wanted.iter().map(|w| w.uri.clone()).collect());
    let held = std::mem::take(places);
    let opening = futures::future::join_all(wanted.iter().map(|watch| {
        let open = held.iter().find(|place| place.uri == watch.uri).cloned();
        async move {
            let opened = tokio::time::timeout(OPEN_TIMEOUT, open_place(watch, open, options)).await;
            let slow = || {
                Error::new(
                    ErrorKind::Storage,
                    format!("no answer in {} s", OPEN_TIMEOUT.as_secs()),
                )
            };
            (watch, opened.unwrap_or_else(|_| Err(slow())))
        }
    }));
    tokio::pin!(opening);
    let opened = loop {
        tokio::select! {
            biased;
            event = signals.next() => match event {
                Event::Stop => return None,
                Event::Reload => status.ask_reload(),
            },
            opened = &mut opening => break opened,
        }
    };
    let mut failures = Vec::new();
    for (watch, opened) in opened {
        match opened {
            Ok(place) => {
                if place.managed {
                    status.note_store(&place.uri);
                }
                places.push(place);
            }
            Err(error) => {
                tracing::warn!(uri = watch.uri, %error, "this place cannot be opened; it is tried again");
                status.error(format!("{}: {error}", watch.uri));
                status.metrics.set_unreadable(&watch.uri, "", true);
                failures.push(error);
            }
        }
    }
    Some(failures)
}

async fn start_http(
    config: &Config,
    options: &Options,
    status: &Arc<Status>,
    tasks: &mut Supervisor,
    cancel: &CancellationToken,
) -> Result<()> {
    let Some(listen) = options.listen else {
        return Ok(());
    };
    let token = match &config.daemon.token_file {
        Some(path) => Some(Token::load(path).map_err(|e| Error::invalid(e.to_string()))?),
        None => None,
    };
    let listener = crate::http::listen(listen, "daemon.listen").await?;
    let (source, cancel) = (status.clone(), cancel.clone());
    tasks.start("http", async move {
        if let Err(error) = serve(listener, source, token, cancel).await {
            tracing::error!(%error, "the http server ended");
        }
    });
    Ok(())
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

pub(crate) enum Event {
    Stop,
    Reload,
}

/// SIGTERM and SIGINT stop, SIGHUP reloads.
pub(crate) struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let open = |kind| signal(kind).map_err(|e| Error::internal("signals").caused_by(e));
        Ok(Self {
            term: open(SignalKind::terminate())?,
            int: open(SignalKind::interrupt())?,
            hup: open(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            _ = self.term.recv() => Event::Stop,
            _ = self.int.recv() => Event::Stop,
            _ = self.hup.recv() => Event::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::needs_restart;
    use crate::config::Config;

    #[test]
    fn what_a_reload_cannot_take_up_is_named() {
        let of = |text: &str| Config::parse(text, "squire.toml").unwrap().daemon;
        let started_with = of("[daemon]\nlog = \"warn\"\n");
        assert!(needs_restart(&started_with, &started_with).is_empty());
        let taken_up = of("[daemon]\nlog = \"warn\"\nscan_interval = \"5s\"\ndrain = \"5s\"\n");
        assert!(needs_restart(&started_with, &taken_up).is_empty());
        let changed = of("[daemon]\nlisten = \"off\"\ngrace = \"5s\"\n");
        assert_eq!(
            needs_restart(&started_with, &changed),
            ["listen", "grace", "log"]
        );
    }
}
