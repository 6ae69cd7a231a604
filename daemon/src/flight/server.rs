//! Connections: HTTP/2, with TLS where there is a certificate.
//!
//! Limits are those of the agent's HTTP server: places, and time without anything that is written to a connection. A peer that is
//! there answers pings, and what is sent to it for that is enough to keep its place.

use super::{Flight, Server};
use crate::config::FlightConfig;
use crate::http::LimitedListener;
use crate::supervisor::Supervisor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use squire_engine::error::{Error, Result};
use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time between two pings: less than a connection may go without anything that is written to it.
const PING: Duration = Duration::from_secs(10);

/// How long a ping may be without an answer.
const PONG: Duration = Duration::from_secs(20);

/// Calls at one time on a connection; a client needs one.
const CALLS: u32 = 64;

/// Bytes of the headers of a call.
const HEADERS: u32 = 16 << 10;

/// Time between two looks for transactions that are too old.
const TICK: Duration = Duration::from_secs(1);

/// What is to be shown to clients, if anything is.
pub(super) fn tls_of(config: &FlightConfig) -> Result<Option<TlsAcceptor>> {
    let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok(None);
    };
    let unfit = |setting: &str, path: &Path, why: String| {
        Error::invalid(format!("agent.{setting}: {}: {why}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let certificates: Vec<CertificateDer<'static>> =
        certificates.map_err(|e| unfit("flight_tls_cert", certificate, e.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|e| unfit("flight_tls_key", key, e.to_string()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| {
            b.with_no_client_auth()
                .with_single_cert(certificates, private)
        });
    let mut server = server.map_err(|e| unfit("flight_tls_cert", certificate, e.to_string()))?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

impl Server {
    /// Serves until the agent is stopped; then takes nothing new, and gives what runs the drain time.
    pub(crate) async fn serve(self) {
        let Self {
            flight,
            mut listener,
            tls,
            mut work,
        } = self;
        let mut tasks = Supervisor::default();
        let (mut tick, mut next) = (interval(TICK), 0);
        loop {
            tokio::select! {
                biased;
                () = flight.stop.cancelled() => break,
                Some(commit) = work.recv() => tasks.start("flight commit", commit),
                Some(ended) = tasks.next_ended() => Supervisor::tell(ended),
                _ = tick.tick() => {
                    flight.transactions.expire();
                    flight.show();
                }
                (stream, _) = accept(&mut listener) => {
                    next += 1;
                    let connection = connection(flight.clone(), next, stream, tls.clone());
                    tasks.start("flight connection", connection);
                }
            }
        }
        drop(listener);
        let drained = async {
            loop {
                tokio::select! {
                    biased;
                    Some(commit) = work.recv() => tasks.start("flight commit", commit),
                    ended = tasks.next_ended() => match ended {
                        Some(ended) => Supervisor::tell(ended),
                        None => return,
                    }
                }
            }
        };
        if timeout(flight.config.drain, drained).await.is_err() {
            tracing::warn!(
                "calls of Flight that were open at the end of the drain time were dropped"
            );
        }
    }
}

async fn accept(
    listener: &mut LimitedListener,
) -> (
    impl AsyncRead + AsyncWrite + Unpin + Send + use<>,
    std::net::SocketAddr,
) {
    axum::serve::Listener::accept(listener).await
}

async fn connection(
    flight: Arc<Flight>,
    number: u64,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<TlsAcceptor>,
) {
    match tls {
        None => converse(&flight, number, stream).await,
        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => converse(&flight, number, stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "no handshake with a client of Flight"),
            Err(_) => tracing::debug!("a client of Flight does not shake hands"),
        },
    }
    flight.transactions.closed(number);
}

async fn converse(
    flight: &Arc<Flight>,
    number: u64,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(|request| {
        let flight = flight.clone();
        async move { Ok::<_, Infallible>(flight.call(number, request).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(CALLS)
        .max_header_list_size(HEADERS);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        () = flight.stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        ended = serving.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of Flight ended");
    }
}
