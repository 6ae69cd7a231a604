//! Time, randomness and ids, injected: one seed repeats a run.

use crate::ids::OpId;
use futures::future::BoxFuture;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A source of time. Safety never depends on it; it only decides when to try.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// Wall time, milliseconds since the epoch.
    fn now_ms(&self) -> u64;
    /// Monotonic time since some fixed point of this process.
    fn monotonic(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn now_ms(&self) -> u64 {
        u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or(0)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Seeded randomness for ids and jitter.
#[derive(Debug)]
pub struct Entropy(Mutex<StdRng>);

impl Entropy {
    /// Repeats with `seed`; differs on every call without one.
    pub fn new(seed: Option<u64>) -> Self {
        let rng = seed.map_or_else(|| StdRng::from_rng(&mut rand::rng()), StdRng::seed_from_u64);
        Self(Mutex::new(rng))
    }

    /// A new operation id at the wall time `ms`.
    pub fn op_id(&self, ms: u64) -> OpId {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let random = (u128::from(rng.next_u64()) << 16) | u128::from(rng.next_u32() & 0xffff);
        OpId::from_parts(ms, random)
    }

    /// A duration between half of `base` and `base`.
    pub fn jitter(&self, base: Duration) -> Duration {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        base.mul_f64(rng.random_range(0.5..=1.0))
    }
}

/// Back-off of one retry loop: doubles from `first` to `most`, jittered.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// Waits once.
    pub async fn wait(&mut self, clock: &dyn Clock, entropy: &Entropy) {
        let pause = entropy.jitter(self.next);
        self.next = (self.next * 2).min(self.most);
        clock.sleep(pause).await;
    }
}
