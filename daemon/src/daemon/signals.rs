//! What the operating system says.

use squire_engine::error::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) enum Event {
    Stop,
    Reload,
}

/// SIGTERM and SIGINT stop, SIGHUP reloads.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
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
