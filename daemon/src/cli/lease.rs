//! `squire lease`: holds a snapshot while a command runs.
//!
//! The command finds the snapshot in its environment ([`STORE`], [`MANIFEST_VERSION`], [`ID`]). Signals go on to it, and
//! its exit code is ours.

use super::Context;
use super::args::LeaseArgs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::store::{Lease, Store};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Variables of the command's environment: the store's URI, the manifest version whose snapshot is held, the lease's id.
const STORE: &str = "SQUIRE_LEASE_STORE";
const MANIFEST_VERSION: &str = "SQUIRE_LEASE_MANIFEST_VERSION";
const ID: &str = "SQUIRE_LEASE_ID";

/// A lease is renewed this often within its ttl, so that two renewals may fail.
const RENEWALS: u32 = 3;

/// The shortest ttl. Storage may tell times in whole seconds, and a renewal takes some requests.
const MIN_TTL: Duration = Duration::from_secs(2);

/// Exit codes as a shell gives them: the command cannot be run, is not there, or was ended by a signal.
const CANNOT_RUN: u8 = 126;
const NO_COMMAND: u8 = 127;
const SIGNALLED: i32 = 128;

pub(super) async fn lease(context: &Context, args: LeaseArgs) -> Result<ExitCode> {
    if args.ttl < MIN_TTL {
        return Err(Error::invalid(format!(
            "--ttl is at least {} s: a lease is renewed {RENEWALS} times within it",
            MIN_TTL.as_secs()
        )));
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Error::invalid("no command to run: name it after --"));
    };
    let store = context.store(&args.store).await?;
    let at = match (&args.name, args.at) {
        (Some(name), _) => Some(store.kept(name).await?.version()),
        (None, at) => at,
    };
    // Before anything is put: a signal from now on ends the command, and the lease with it.
    let mut signals = Signals::open()?;
    let message = program.to_string_lossy();
    let lease = store.lease(at, args.ttl, &message).await?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env(STORE, store.uri())
        .env(MANIFEST_VERSION, lease.manifest_version.to_string())
        .env(ID, lease.id.to_string());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            store.remove_lease(&lease).await?;
            let code = match e.kind() {
                std::io::ErrorKind::NotFound => NO_COMMAND,
                _ => CANNOT_RUN,
            };
            let why = Error::invalid(format!("cannot run {message}: {e}"));
            context.out.fail(&why);
            return Ok(ExitCode::from(code));
        }
    };
    let mut held = Held {
        store,
        lease,
        lost: false,
    };
    let status = held.while_running(&mut child, &mut signals).await;
    held.end().await;
    status.map(code_of)
}

/// Signals that end a command, or tell it something.
struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    fn open() -> Result<Self> {
        let opened = [
            (Signal::SIGINT, SignalKind::interrupt()),
            (Signal::SIGTERM, SignalKind::terminate()),
            (Signal::SIGHUP, SignalKind::hangup()),
            (Signal::SIGQUIT, SignalKind::quit()),
            (Signal::SIGUSR1, SignalKind::user_defined1()),
            (Signal::SIGUSR2, SignalKind::user_defined2()),
        ]
        .map(|(which, kind)| signal(kind).map(|signal| (which, signal)));
        let opened: std::io::Result<Vec<_>> = opened.into_iter().collect();
        let opened = opened.map_err(|e| Error::internal("listening for signals").caused_by(e))?;
        Ok(Self(opened))
    }

    async fn next(&mut self) -> Signal {
        let each = self.0.iter_mut().map(|(which, signal)| {
            let which = *which;
            Box::pin(async move {
                signal.recv().await;
                which
            })
        });
        futures::future::select_all(each).await.0
    }
}

/// A lease while its command runs.
struct Held {
    store: Arc<Store>,
    lease: Lease,
    lost: bool,
}

impl Held {
    async fn while_running(
        &mut self,
        child: &mut Child,
        signals: &mut Signals,
    ) -> Result<ExitStatus> {
        let every = Duration::from_millis(self.lease.ttl_ms) / RENEWALS;
        let clock = self.store.options().clock.clone();
        let mut due = clock.sleep(every);
        loop {
            tokio::select! {
                biased;
                ended = child.wait() => {
                    return ended.map_err(|e| Error::internal("waiting for the command").caused_by(e));
                }
                which = signals.next() => forward(child, which),
                () = &mut due => {
                    self.renew(child, signals).await;
                    due = clock.sleep(every);
                }
            }
        }
    }

    /// Renews, while signals still reach the command: storage may not answer for long.
    async fn renew(&mut self, child: &Child, signals: &mut Signals) {
        if self.lost {
            return;
        }
        let renewed = {
            let renewing = self.store.renew_lease(&self.lease);
            tokio::pin!(renewing);
            loop {
                tokio::select! {
                    renewed = &mut renewing => break renewed,
                    which = signals.next() => forward(child, which),
                }
            }
        };
        match renewed {
            Ok(next) => self.lease = next,
            Err(error) if error.kind() == ErrorKind::Expired => {
                self.lost = true;
                tracing::error!(%error, "the lease is lost; the command may fail on missing files");
            }
            Err(error) => tracing::warn!(%error, "the lease is not renewed; it is tried again"),
        }
    }

    /// The lease is needed no more. One that stays blocks cleanup for its ttl at most.
    async fn end(self) {
        if let Err(error) = self.store.remove_lease(&self.lease).await {
            tracing::warn!(%error, lease = %self.lease.id, "the lease stays until its ttl has passed");
        }
    }
}

/// Sends a signal on. Ctrl-C at a terminal has reached the command already, as one of the same group; a second one does no
/// harm.
fn forward(child: &Child, which: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid
        && let Err(error) = kill(Pid::from_raw(pid), which)
    {
        tracing::debug!(%error, signal = which.as_str(), "the command does not take a signal");
    }
}

/// The exit code of a command, with that of a shell where a signal ended it.
fn code_of(status: ExitStatus) -> ExitCode {
    let signalled = status.signal().map(|signal| SIGNALLED + signal);
    let code = status.code().or(signalled).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
