//! The rate that maintenance keeps, byte by byte: each request to the storage waits for those before it, so that it holds over
//! seconds and not only over a task. Runs that share a pace take turns, a slice each: whoever moves much holds nobody up.

use super::Oversight;
use crate::clock::Clock;
use futures::StreamExt;
use futures::stream::BoxStream;
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result as StorageResult,
    UploadPart,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a run rests at once for the sake of its rate. It rests because it was told to; that is no hang.
const NAP: Duration = Duration::from_secs(1);

/// What an idle second leaves to those that follow: a run that begins need not wait for its first byte, and two rests of half a
/// second are not a lost second.
const ALLOWANCE: Duration = Duration::from_secs(1);

/// How many turns there are in a second.
const TURNS: u64 = 20;

/// Bytes per second, read and written together.
#[derive(Debug)]
pub struct Pace {
    /// 0: no limit.
    rate: AtomicU64,
    clock: Arc<dyn Clock>,
    /// When all that was let through is paid for.
    paid: Mutex<Duration>,
}

impl Pace {
    /// A pace of `rate` bytes per second; none for no limit.
    pub fn new(rate: Option<u64>, clock: Arc<dyn Clock>) -> Self {
        let paid = Mutex::new(clock.monotonic());
        let pace = Self {
            rate: AtomicU64::new(0),
            clock,
            paid,
        };
        pace.set(rate);
        pace
    }

    /// From now on, for the runs at work too.
    pub fn set(&self, rate: Option<u64>) {
        let rate = rate.map_or(0, |rate| rate.max(1));
        self.rate.store(rate, Ordering::Relaxed);
    }

    pub(crate) fn rate(&self) -> Option<u64> {
        let rate = self.rate.load(Ordering::Relaxed);
        (rate > 0).then_some(rate)
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.rate().is_some()
    }

    /// How many of `bytes` are moved in one turn, and when.
    fn next(&self, bytes: u64) -> Option<(u64, Duration)> {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let slice = bytes.min((rate / TURNS).max(1));
        let now = self.clock.monotonic();
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(now.saturating_sub(ALLOWANCE));
        *paid += Duration::from_secs_f64(slice as f64 / rate as f64);
        Some((slice, *paid))
    }

    /// Waits until `bytes` may be moved. A run that is asked to stop waits no more: what it has finished is still to be committed.
    pub(crate) async fn pay(&self, bytes: u64, oversight: &Oversight) {
        let mut left = bytes;
        // Without a limit nobody waits for a turn, however briefly: it is handed to the request that came next, and whoever asked
        // for that may look at it no more before another request is through, which then waits for ever.
        while left > 0 && self.is_limited() && !oversight.is_cancelled() {
            // One request of a run at a time: its turn comes no more often for having many.
            let _turn = oversight.turn().await;
            let Some((slice, due)) = self.next(left) else {
                return;
            };
            left -= slice;
            self.wait(due, oversight).await;
        }
    }

    async fn wait(&self, due: Duration, oversight: &Oversight) {
        loop {
            let left = due.saturating_sub(self.clock.monotonic());
            if left.is_zero() || oversight.is_cancelled() {
                return;
            }
            tokio::select! {
                biased;
                () = oversight.cancelled() => {}
                () = self.clock.sleep(left.min(NAP)) => {}
            }
            oversight.step();
        }
    }
}

/// A storage through which a run reads and writes at its pace. Each answer is a step of the run.
#[derive(Debug, Clone)]
pub(crate) struct Paced(pub(crate) Oversight);

impl WrappingObjectStore for Paced {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(PacedStore {
            inner,
            oversight: self.0.clone(),
        })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        inner: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        Some(inner)
    }
}

#[derive(Debug)]
struct PacedStore {
    inner: Arc<dyn ObjectStore>,
    oversight: Oversight,
}

impl std::fmt::Display for PacedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "paced {}", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for PacedStore {
    async fn put_opts(
        &self,
        path: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> StorageResult<PutResult> {
        self.oversight.pay(bytes.content_length() as u64).await;
        let put = self.inner.put_opts(path, bytes, options).await;
        self.oversight.step();
        put
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StorageResult<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(path, options).await?;
        self.oversight.step();
        Ok(Box::new(PacedUpload {
            inner,
            oversight: self.oversight.clone(),
        }))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StorageResult<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> StorageResult<()> {
        self.inner.rename_opts(from, to, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StorageResult<GetResult> {
        let head = options.head;
        let got = self.inner.get_opts(path, options).await;
        if let (Ok(got), false) = (&got, head) {
            self.oversight.pay(got.range.end - got.range.start).await;
        }
        self.oversight.step();
        got
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StorageResult<Path>>,
    ) -> BoxStream<'static, StorageResult<Path>> {
        let oversight = self.oversight.clone();
        let deleted = self.inner.delete_stream(paths);
        deleted.inspect(move |_| oversight.step()).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StorageResult<ObjectMeta>> {
        let oversight = self.oversight.clone();
        let listed = self.inner.list(prefix);
        listed.inspect(move |_| oversight.step()).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, StorageResult<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StorageResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
}

/// A file that is written in parts.
#[derive(Debug)]
struct PacedUpload {
    inner: Box<dyn MultipartUpload>,
    oversight: Oversight,
}

#[async_trait::async_trait]
impl MultipartUpload for PacedUpload {
    fn put_part(&mut self, bytes: PutPayload) -> UploadPart {
        let oversight = self.oversight.clone();
        let length = bytes.content_length() as u64;
        let part = self.inner.put_part(bytes);
        Box::pin(async move {
            oversight.pay(length).await;
            let put = part.await;
            oversight.step();
            put
        })
    }

    async fn complete(&mut self) -> StorageResult<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> StorageResult<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::BoxFuture;

    /// Time that passes when somebody waits for it.
    #[derive(Debug, Default)]
    struct Virtual(Mutex<Duration>);

    impl Clock for Virtual {
        fn now_ms(&self) -> u64 {
            0
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            *self.0.lock().unwrap() += duration;
            Box::pin(tokio::task::yield_now())
        }
    }

    const RATE: u64 = 1 << 20;

    /// What is moved when, in requests of `size`, by two runs that share a pace.
    async fn moved(size: u64, requests: usize) -> (Vec<(Duration, u64)>, Oversight) {
        let clock = Arc::new(Virtual(Mutex::new(Duration::from_secs(100))));
        let pace = Arc::new(Pace::new(Some(RATE), clock.clone()));
        let runs = [Oversight::paced(pace.clone()), Oversight::paced(pace)];
        let mut moved = Vec::new();
        for request in 0..requests {
            runs[request % 2].pay(size).await;
            moved.push((clock.monotonic(), size));
        }
        let [first, _] = runs;
        (moved, first)
    }

    #[tokio::test]
    async fn the_rate_holds_over_every_few_seconds() {
        for size in [1, 4_096, 300_000, RATE] {
            let (moved, _) = moved(size, 200).await;
            for seconds in [1, 2, 5] {
                let window = Duration::from_secs(seconds);
                let most = RATE * (seconds + 1) + size;
                for (from, _) in &moved {
                    let within = moved
                        .iter()
                        .filter(|(at, _)| at >= from && *at < *from + window);
                    let bytes: u64 = within.map(|(_, bytes)| bytes).sum();
                    assert!(bytes <= most, "{bytes} bytes of {size} in {seconds} s");
                }
            }
        }
    }

    #[tokio::test]
    async fn whoever_moves_much_holds_nobody_up() {
        let begun = Duration::from_secs(100);
        let clock = Arc::new(Virtual(Mutex::new(begun)));
        let pace = Arc::new(Pace::new(Some(RATE), clock.clone()));
        let runs = [Oversight::paced(pace.clone()), Oversight::paced(pace)];
        let [large, small] = &runs;
        let requests = (0..16).map(|_| large.pay(10 * RATE));
        let large = futures::future::join_all(requests);
        let small = async {
            for _ in 0..10 {
                small.pay(RATE / 100).await;
            }
            clock.monotonic() - begun
        };
        let (_, took) = tokio::join!(large, small);
        assert!(took < Duration::from_secs(3), "{took:?}");
        let all = clock.monotonic() - begun;
        assert!(all >= Duration::from_secs(158), "{all:?}");
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits_for_a_turn() {
        let clock = Arc::new(Virtual::default());
        let run = Oversight::paced(Arc::new(Pace::new(None, clock)));
        let _asked_for_by_nobody = run.turn().await;
        assert!(run.pay(1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_rest_is_no_hang_and_a_stop_ends_it() {
        let (moved, run) = moved(10 * RATE, 4).await;
        let (last, _) = moved.last().unwrap();
        assert!(*last >= Duration::from_secs(100 + 39), "{last:?}");
        assert!(run.steps() >= 10, "{}", run.steps());
        run.cancel();
        let steps = run.steps();
        run.pay(100 * RATE).await;
        assert_eq!(run.steps(), steps);
    }
}
