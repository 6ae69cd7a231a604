//! Counting object-store requests: how many in total, and how many one after another.
//!
//! Time is noisy and says nothing about a remote store; requests in sequence times its latency does. Requests that
//! overlap count as one in sequence.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use squire_engine::maintenance::{Looking, Target};
use squire_engine::store::Store;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// All requests.
    pub total: u64,
    /// Stretches during which at least one request was in flight.
    pub sequential: u64,
}

/// Counts the requests of every store that it wraps.
#[derive(Debug, Default)]
pub struct Counter {
    total: AtomicU64,
    sequential: AtomicU64,
    in_flight: AtomicU64,
    log: Mutex<Vec<String>>,
    latency_ms: AtomicU64,
}

impl Counter {
    /// The requests since the last call.
    pub fn take(&self) -> Requests {
        self.log.lock().expect("log").clear();
        Requests {
            total: self.total.swap(0, Ordering::Relaxed),
            sequential: self.sequential.swap(0, Ordering::Relaxed),
        }
    }

    /// Answers each request from now on after `latency`, as a remote store does: what overlaps there then overlaps here.
    pub fn answer_after(&self, latency: Duration) {
        let millis = u64::try_from(latency.as_millis()).expect("a short time");
        self.latency_ms.store(millis, Ordering::Relaxed);
    }

    /// What was asked since the last [`Counter::take`], in order: `then` begins a stretch, `with` falls into one.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("log").clone()
    }

    fn begin(self: &Arc<Self>, what: &str, path: &str) -> InFlight {
        self.total.fetch_add(1, Ordering::Relaxed);
        let alone = self.in_flight.fetch_add(1, Ordering::Relaxed) == 0;
        if alone {
            self.sequential.fetch_add(1, Ordering::Relaxed);
        }
        let order = if alone { "then" } else { "with" };
        let line = format!("{order} {what} {path}");
        self.log.lock().expect("log").push(line);
        InFlight(self.clone())
    }

    async fn asked(self: &Arc<Self>, what: &str, path: &Path) -> InFlight {
        let counted = self.begin(what, path.as_ref());
        let latency = self.latency_ms.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
        counted
    }
}

struct InFlight(Arc<Counter>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at `targets` as a round of the daemon does, without a full scan.
///
/// # Panics
/// When one of them cannot be observed.
pub async fn pass(store: &Store, targets: &[Target]) {
    if targets.iter().any(|target| target.table().is_some()) {
        store.load().await.expect("the manifest");
    }
    let looking = Looking {
        bounds: &crate::bounds(),
        adopt: Some(false),
        anew_after: Duration::from_secs(600),
    };
    for target in targets {
        store.observe(target, &looking).await.expect("a look");
    }
}

/// The wrapper to put into `StoreOptions::wrapper`.
#[derive(Debug, Default)]
pub struct Counting(pub Arc<Counter>);

impl WrappingObjectStore for Counting {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Counted {
            inner,
            counter: self.0.clone(),
        })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        _: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        // Listings then go through `wrap`, where they are counted.
        None
    }
}

#[derive(Debug)]
struct Counted {
    inner: Arc<dyn ObjectStore>,
    counter: Arc<Counter>,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "counted {}", self.inner)
    }
}

impl Counted {
    fn listed(
        &self,
        prefix: Option<&Path>,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let counter = self.counter.clone();
        let prefix = prefix.cloned().unwrap_or_default();
        futures::stream::once(async move {
            let counted = counter.asked("list", &prefix).await;
            inner.inspect(move |_| {
                let _keep = &counted;
            })
        })
        .flatten()
        .boxed()
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counted {
    async fn put_opts(
        &self,
        path: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let _counted = self.counter.asked("put", path).await;
        self.inner.put_opts(path, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let _counted = self.counter.asked("put_multipart", path).await;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let what = if options.head { "head" } else { "get" };
        let _counted = self.counter.asked(what, path).await;
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let _counted = self.counter.asked("get_ranges", path).await;
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let counter = self.counter.clone();
        let counted = paths.inspect(move |_| drop(counter.begin("delete", "")));
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Path::default();
        let _counted = self.counter.asked("list", prefix.unwrap_or(&root)).await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let _counted = self.counter.asked("copy", to).await;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let _counted = self.counter.asked("rename", to).await;
        self.inner.rename_opts(from, to, options).await
    }
}
