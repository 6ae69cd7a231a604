//! Limits below HTTP: how many connections there are, and how long one may go without an answer.
//!
//! axum puts neither limit on a connection, and a limit per request only starts when its headers
//! are complete. Without these, clients that open connections and send nothing, or a byte now and then, would take every place. What
//! a client sends earns it no time, therefore: only an answer does. And where every place is taken, the one that has gone
//! without an answer for longest gives way to whoever comes, at once: thousands of slow clients push out each other, while every
//! answer is made from memory, sooner than so many others come.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Open connections at one time. A Prometheus, a probe and some browsers need ten. A quarter of the files that a process usually may
/// have open.
const MAX_CONNECTIONS: usize = 256;

/// A connection without an answer for this long is closed, within a request or between two.
const PATIENCE: Duration = Duration::from_secs(30);

/// One that was told to give way is closed when its task runs next. If that takes longer than this, another one is told, too.
const HURRY: Duration = Duration::from_millis(250);

/// A TCP listener whose connections obey the limits.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    places: Arc<Places>,
    patience: Duration,
}

impl LimitedListener {
    pub(crate) fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            places: Arc::default(),
            patience: PATIENCE,
        }
    }

    /// A permit for one more connection; where there is none, another one gives way.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        loop {
            self.places.dismiss_one();
            let permit = Arc::clone(&self.permits).acquire_owned();
            // The semaphore is never closed; if it were, a connection without a permit would still be bounded by its time.
            if let Ok(permit) = tokio::time::timeout(HURRY, permit).await {
                return permit.ok();
            }
        }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (inner, address) = Listener::accept(&mut self.inner).await;
        let permit = self.permit().await;
        let place = Places::take(&self.places, permit);
        let stream = LimitedStream {
            inner,
            tick: Box::pin(tokio::time::sleep(self.patience)),
            dismissed: Box::pin(place.dismissed.clone().cancelled_owned()),
            patience: self.patience,
            place,
        };
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// Who is connected, by number.
#[derive(Debug, Default)]
struct Places(Mutex<Seats>);

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: HashMap<u64, Seat>,
}

#[derive(Debug)]
struct Seat {
    /// When it was answered last, or came.
    answered: Instant,
    /// Tells it to go.
    dismissed: CancellationToken,
}

impl Places {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(places: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Place {
        let mut seats = places.seats();
        let number = seats.next;
        seats.next += 1;
        let seat = Seat {
            answered: Instant::now(),
            dismissed: CancellationToken::new(),
        };
        let dismissed = seat.dismissed.clone();
        seats.taken.insert(number, seat);
        Place {
            number,
            dismissed,
            places: Arc::clone(places),
            _permit: permit,
        }
    }

    /// Tells the one to go that has gone without an answer for longest.
    fn dismiss_one(&self) {
        let seats = self.seats();
        let stay = seats
            .taken
            .iter()
            .filter(|(_, s)| !s.dismissed.is_cancelled());
        if let Some((_, seat)) = stay.min_by_key(|(number, seat)| (seat.answered, **number)) {
            seat.dismissed.cancel();
        }
    }
}

/// The place of one connection, which is free when this is dropped.
#[derive(Debug)]
struct Place {
    number: u64,
    dismissed: CancellationToken,
    places: Arc<Places>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    fn was_answered(&self) {
        if let Some(seat) = self.places.seats().taken.get_mut(&self.number) {
            seat.answered = Instant::now();
        }
    }

    /// How long it has gone without an answer.
    fn silence(&self) -> Duration {
        let seats = self.places.seats();
        let seat = seats.taken.get(&self.number);
        seat.map_or(Duration::ZERO, |seat| seat.answered.elapsed())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.seats().taken.remove(&self.number);
    }
}

/// A connection that fails after too long a time without an answer, or when another one needs its place.
#[derive(Debug)]
pub(crate) struct LimitedStream {
    inner: TcpStream,
    /// When it is looked again whether its time is over.
    tick: Pin<Box<Sleep>>,
    dismissed: Pin<Box<WaitForCancellationFutureOwned>>,
    patience: Duration,
    place: Place,
}

impl LimitedStream {
    /// Ready when its time is over.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.dismissed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(io::ErrorKind::TimedOut.into());
        }
        while self.tick.as_mut().poll(cx).is_ready() {
            let left = self.patience.saturating_sub(self.place.silence());
            if left.is_zero() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.tick.as_mut().reset(Instant::now() + left);
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
            self.place.was_answered();
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
        limited.patience = patience;
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

    /// What was answered stays, however old it is: the others are slower.
    #[tokio::test]
    async fn who_was_answered_last_gives_way_last() {
        let mut limited = listener(Duration::from_secs(3_600), 2).await;
        let _first = connect(&limited).await;
        let (mut answered, _) = Listener::accept(&mut limited).await;
        let _second = connect(&limited).await;
        let (mut silent, _) = Listener::accept(&mut limited).await;
        answered.write_all(b"x").await.unwrap();
        let _third = connect(&limited).await;
        let goes = async {
            let error = silent.read_u8().await.unwrap_err();
            drop(silent);
            error
        };
        let (error, _) = tokio::join!(goes, Listener::accept(&mut limited));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        answered.write_all(b"x").await.unwrap();
        let stays = std::future::poll_fn(|cx| Poll::Ready(answered.poll_over(cx).is_pending()));
        assert!(stays.await);
    }
}
