//! Limits below HTTP: how many connections there are, and how long one may go without an answer.
//!
//! axum puts neither limit on a connection, and a limit per request only starts when its headers
//! are complete. Without these, clients that open connections and send nothing, or a byte now and then, would take every place. What
//! a client sends earns it no time, therefore: only an answer does. And where others wait for a place, one that
//! has none to show gives way at once.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Open connections at one time. A Prometheus, a probe and some browsers need ten; further ones
/// wait in the backlog of the socket. A quarter of the files that a process usually may have open.
const MAX_CONNECTIONS: usize = 256;

/// A connection without an answer for this long is closed, within a request or between two.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same while others wait for a place. Every answer is made from memory: one that was asked for is there sooner.
const HURRY: Duration = Duration::from_millis(250);

/// How long a connection may go without an answer.
#[derive(Debug, Clone, Copy)]
struct Limits {
    patience: Duration,
    hurry: Duration,
}

/// A TCP listener whose connections obey the limits.
#[derive(Debug)]
pub(super) struct LimitedListener {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    /// Connections that have no place yet.
    waiting: Arc<AtomicUsize>,
    limits: Limits,
}

impl LimitedListener {
    pub(super) fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            waiting: Arc::default(),
            limits: Limits {
                patience: PATIENCE,
                hurry: HURRY,
            },
        }
    }
}

/// Somebody waits while this is there.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (inner, address) = Listener::accept(&mut self.inner).await;
        let waits = Waits::new(&self.waiting);
        // The semaphore is never closed; if it were, a connection without a permit would still be
        // bounded by its time.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        drop(waits);
        let stream = LimitedStream {
            inner,
            tick: Box::pin(tokio::time::sleep(self.limits.hurry)),
            answered: Instant::now(),
            limits: self.limits,
            waiting: Arc::clone(&self.waiting),
            _permit: permit,
        };
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that fails after too long a time without an answer, and frees its place when dropped.
#[derive(Debug)]
pub(super) struct LimitedStream {
    inner: TcpStream,
    /// When it is looked again whether its time is over.
    tick: Pin<Box<Sleep>>,
    answered: Instant,
    limits: Limits,
    waiting: Arc<AtomicUsize>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl LimitedStream {
    /// Ready when its time is over.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.tick.as_mut().poll(cx).is_ready() {
            let limit = match self.waiting.load(Ordering::Relaxed) {
                0 => self.limits.patience,
                _ => self.limits.hurry,
            };
            if self.answered.elapsed() >= limit {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            let next = Instant::now() + self.limits.hurry;
            self.tick.as_mut().reset(next);
        }
        Poll::Pending
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(over) = self.poll_over(cx) {
            return Poll::Ready(Err(over));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
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
            self.answered = Instant::now();
            return written;
        }
        // A peer that does not read its answer is as silent as one that does not ask.
        self.poll_over(cx).map(Err)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listener(patience: Duration, places: usize) -> LimitedListener {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut limited = LimitedListener::new(inner);
        let hurry = Duration::from_millis(5);
        limited.limits = Limits { patience, hurry };
        limited.permits = Arc::new(Semaphore::new(places));
        limited
    }

    async fn connect(limited: &LimitedListener) -> TcpStream {
        let address = Listener::local_addr(limited).unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// What a client sends, a byte now and then, earns it no time.
    #[tokio::test]
    async fn a_connection_without_an_answer_times_out_whatever_it_sends() {
        let mut limited = listener(Duration::from_millis(50), 1).await;
        let mut client = connect(&limited).await;
        let (mut stream, _) = Listener::accept(&mut limited).await;
        assert_eq!(limited.permits.available_permits(), 0);
        let drips = async {
            // It ends when the connection does.
            while client.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let reads = async {
            loop {
                if let Err(error) = stream.read_u8().await {
                    drop(stream);
                    return error;
                }
            }
        };
        let (error, ()) = tokio::join!(reads, drips);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(limited.permits.available_permits(), 1);
    }

    /// Where all places are taken for an hour to come, one that nothing was answered on gives way.
    #[tokio::test]
    async fn a_silent_connection_gives_way_to_one_that_waits() {
        let mut limited = listener(Duration::from_secs(3_600), 1).await;
        let _silent = connect(&limited).await;
        let (mut first, _) = Listener::accept(&mut limited).await;
        let mut client = connect(&limited).await;
        let silent = async {
            let error = first.read_u8().await.unwrap_err();
            drop(first);
            error
        };
        let (error, (mut second, _)) = tokio::join!(silent, Listener::accept(&mut limited));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        client.write_all(b"x").await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), b'x');
    }
}
