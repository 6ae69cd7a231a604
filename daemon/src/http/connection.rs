//! Limits below HTTP: how many connections there are, and how long one may be silent.
//!
//! axum puts neither limit on a connection, and a limit per request only starts when its headers
//! are complete. Without these, clients that open connections and send nothing would use up the
//! daemon's file descriptors.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Open connections at one time. A Prometheus, a probe and some browsers need ten; further ones
/// wait in the backlog of the socket.
const MAX_CONNECTIONS: usize = 64;

/// A connection that sends nothing for this long is closed, within a request or between two.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A TCP listener whose connections obey the limits.
#[derive(Debug)]
pub(super) struct LimitedListener {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    idle: Duration,
}

impl LimitedListener {
    pub(super) fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            idle: IDLE_TIMEOUT,
        }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed; if it were, a connection without a permit would still be
        // bounded by its idle timeout.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (inner, address) = Listener::accept(&mut self.inner).await;
        let silence = Box::pin(tokio::time::sleep(self.idle));
        (
            LimitedStream {
                inner,
                silence,
                idle: self.idle,
                _permit: permit,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that fails to read after too long a silence, and frees its place when dropped.
#[derive(Debug)]
pub(super) struct LimitedStream {
    inner: TcpStream,
    silence: Pin<Box<Sleep>>,
    idle: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl LimitedStream {
    fn restart_clock(&mut self) {
        let deadline = Instant::now() + self.idle;
        self.silence.as_mut().reset(deadline);
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_read(cx, buf) {
            self.restart_clock();
            return Poll::Ready(result);
        }
        self.silence
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if written.is_ready() {
            self.restart_clock();
            return written;
        }
        // A peer that does not read its answer is as silent as one that does not ask.
        self.silence
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_silent_connection_times_out() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut limited = LimitedListener::new(inner);
        limited.idle = Duration::from_millis(20);
        let address = Listener::local_addr(&limited).unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = Listener::accept(&mut limited).await;
        assert_eq!(limited.permits.available_permits(), MAX_CONNECTIONS - 1);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(stream);
        assert_eq!(limited.permits.available_permits(), MAX_CONNECTIONS);
    }
}
