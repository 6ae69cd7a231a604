//! Rows by Arrow Flight: what ADBC's `adbc_ingest` and `pyarrow.flight` put becomes commits of the agent's store.
//!
//! 1. `server` takes connections and asks for the token; `wire` are the messages of the protocol, `calls` what may be called.
//! 2. `intent` is what a put says that it wants: a table, a mode, a batch id, a transaction. Whether it can be had is asked before the
//!    first row is read (`put`).
//! 3. `received` keeps the rows in a file without a name, as the Arrow streams that they came as, so that they are read as any other
//!    input is, within the same limits, as often as that takes. Nothing is staged before the last row is there.
//! 4. `commit` is the way from there to an answer, by `crate::input` and the engine. A put in a transaction waits for its end in
//!    `transactions`, and goes with the others in one commit.
//! 5. `failure` is what gRPC calls an error; `info` what a client asks about the server.
//!
//! A client that goes away, an agent that ends and a transaction that is rolled back leave nothing behind: files without a name
//! go with whoever holds them.

mod calls;
mod commit;
mod failure;
mod info;
mod intent;
mod put;
mod received;
mod server;
mod transactions;
mod wire;

use crate::config::AgentConfig;
use crate::http::{Guesses, LimitedListener, Token};
use crate::metrics::Metrics;
use commit::Work;
use received::Room;
use server::tls_of;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use transactions::Transactions;

/// What all calls share.
struct Flight {
    store: Arc<Store>,
    config: AgentConfig,
    metrics: Metrics,
    token: Option<Token>,
    guesses: Guesses,
    /// Where rows lie until they are committed.
    aside: PathBuf,
    room: Room,
    streams: Semaphore,
    transactions: Transactions,
    /// Commits, which go on when their client goes away.
    work: mpsc::UnboundedSender<Work>,
    stop: CancellationToken,
}

/// A server that listens.
pub(crate) struct Server {
    flight: Arc<Flight>,
    listener: LimitedListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    work: mpsc::UnboundedReceiver<Work>,
}

impl Server {
    /// Listens as the configuration says; `None` when it says nothing. `aside` is a directory for rows that are on their way.
    ///
    /// # Errors
    /// `InvalidInput` for a token, a certificate or a key that cannot be used; those of listening.
    pub(crate) async fn listen(
        store: &Arc<Store>,
        config: &AgentConfig,
        metrics: &Metrics,
        aside: PathBuf,
        stop: &CancellationToken,
    ) -> Result<Option<Self>> {
        let Some(address) = config.flight.listen else {
            return Ok(None);
        };
        let token = config.flight.token_file.as_deref();
        let token = token.map(Token::load).transpose();
        let token = token.map_err(|e| Error::invalid(format!("agent.flight_token_file: {e}")))?;
        let tls = tls_of(&config.flight)?;
        // Also for whoever gave the address by hand: the file is checked with it.
        if let Some(why) = config.flight.is_open_to_others() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("agent.flight: {why}"),
            ));
        }
        let listener: TcpListener = crate::http::listen(address, "agent.flight", false).await?;
        let (sender, work) = mpsc::unbounded_channel();
        let flight = Flight {
            store: store.clone(),
            metrics: metrics.clone(),
            token,
            guesses: Guesses::default(),
            aside,
            room: Room::of(config.flight.bytes),
            streams: Semaphore::new(config.flight.streams),
            transactions: Transactions::of(&config.flight),
            config: config.clone(),
            work: sender,
            stop: stop.clone(),
        };
        Ok(Some(Self {
            flight: Arc::new(flight),
            listener: LimitedListener::new(listener),
            tls,
            work,
        }))
    }
}
