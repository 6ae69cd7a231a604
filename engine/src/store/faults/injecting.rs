//! The wrapper itself.

use crate::error::{Error, Result};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StorageError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result as StorageResult, UploadPart,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use squire_failpoints::FaultSpec;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often a held put looks whether it may go.
const HOLD_POLL: Duration = Duration::from_millis(5);

/// Deletes in flight at once, as in a bulk delete.
const DELETES: usize = 10;

/// Wraps every store with the faults of `spec`.
///
/// # Errors
/// When its log cannot be opened.
pub(super) fn wrapper(spec: FaultSpec) -> Result<Arc<dyn WrappingObjectStore>> {
    let log = spec
        .log
        .as_ref()
        .map(|path| File::options().create(true).append(true).open(path))
        .transpose()
        .map_err(|e| Error::invalid("SQUIRE_FAULTS: the log cannot be opened").caused_by(e))?;
    let faults = Faults {
        rng: Mutex::new(StdRng::seed_from_u64(spec.seed)),
        outage_until: Mutex::new(None),
        met: spec.hold.iter().map(|_| AtomicUsize::new(0)).collect(),
        log,
        spec,
    };
    Ok(Arc::new(Injecting(Arc::new(faults))))
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    LoseResponse,
}

#[derive(Debug)]
struct Faults {
    spec: FaultSpec,
    rng: Mutex<StdRng>,
    outage_until: Mutex<Option<Instant>>,
    /// How many puts each hold has met.
    met: Vec<AtomicUsize>,
    log: Option<File>,
}

impl Faults {
    fn random(&self) -> f64 {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        rng.random::<f64>()
    }

    fn failed(&self, kind: &str, what: &str, path: &str) -> StorageError {
        self.note(kind, what, path);
        let said = match kind {
            "throttle" => "503 Slow Down",
            "after" => "the response was lost",
            "deny" => "no space left",
            _ => "the connection failed",
        };
        StorageError::Generic {
            store: "SQUIRE_FAULTS",
            source: format!("{said}: {what} {path}").into(),
        }
    }

    fn note(&self, kind: &str, what: &str, path: &str) {
        if let Some(mut log) = self.log.as_ref()
            && let Err(e) = log.write_all(format!("{kind} {what} {path}\n").as_bytes())
        {
            tracing::warn!(error = %e, "a fault is not in the log");
        }
    }

    /// What comes before a request's effect.
    async fn before(&self, what: &str, path: &str) -> StorageResult<Fate> {
        if matches!(what, "put" | "delete") && self.spec.denies(path) {
            return Err(self.failed("deny", what, path));
        }
        if !self.spec.touches(path) {
            return Ok(Fate::Pass);
        }
        if let Some((least, most)) = self.spec.latency {
            let wait = least + (most - least).mul_f64(self.random());
            tokio::time::sleep(wait).await;
        }
        if self.is_out() {
            return Err(self.failed("outage", what, path));
        }
        let mut drawn = self.random();
        for (kind, p) in [
            ("before", self.spec.before),
            ("throttle", self.spec.throttle),
        ] {
            if drawn < p {
                return Err(self.failed(kind, what, path));
            }
            drawn -= p;
        }
        if let Some((p, length)) = self.spec.outage {
            if drawn < p {
                let mut until = self
                    .outage_until
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *until = Some(Instant::now() + length);
                return Err(self.failed("outage", what, path));
            }
            drawn -= p;
        }
        Ok(if drawn < self.spec.after {
            Fate::LoseResponse
        } else {
            Fate::Pass
        })
    }

    fn is_out(&self) -> bool {
        let until = self
            .outage_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits while `path` is held.
    async fn hold(&self, path: &str) {
        for (hold, met) in self.spec.hold.iter().zip(&self.met) {
            if !path.contains(hold.part.as_str()) {
                continue;
            }
            if met.fetch_add(1, Ordering::Relaxed) + 1 < hold.from {
                continue;
            }
            self.note("hold", "put", path);
            while !hold.release.try_exists().unwrap_or(false) {
                tokio::time::sleep(HOLD_POLL).await;
            }
        }
    }

    /// `done`, unless its response is lost.
    fn after<T>(
        &self,
        fate: Fate,
        what: &str,
        path: &str,
        done: StorageResult<T>,
    ) -> StorageResult<T> {
        match (fate, done) {
            (Fate::LoseResponse, Ok(_)) => Err(self.failed("after", what, path)),
            (_, done) => done,
        }
    }
}

#[derive(Debug)]
struct Injecting(Arc<Faults>);

impl WrappingObjectStore for Injecting {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Faulty {
            inner,
            faults: self.0.clone(),
        })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        _: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        // Listings then go through `wrap`, where they meet the faults.
        None
    }
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

fn text(prefix: Option<&Path>) -> String {
    prefix.map_or_else(String::new, |path| path.as_ref().to_owned())
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> StorageResult<PutResult> {
        let fate = self.faults.before("put", path.as_ref()).await?;
        self.faults.hold(path.as_ref()).await;
        let done = self.inner.put_opts(path, bytes, options).await;
        self.faults.after(fate, "put", path.as_ref(), done)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StorageResult<Box<dyn MultipartUpload>> {
        self.faults.before("put_multipart", path.as_ref()).await?;
        Ok(Box::new(FaultyUpload {
            inner: self.inner.put_multipart_opts(path, options).await?,
            path: path.clone(),
            faults: self.faults.clone(),
        }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StorageResult<GetResult> {
        let what = if options.head { "head" } else { "get" };
        let fate = self.faults.before(what, path.as_ref()).await?;
        let done = self.inner.get_opts(path, options).await;
        self.faults.after(fate, what, path.as_ref(), done)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StorageResult<Path>>,
    ) -> BoxStream<'static, StorageResult<Path>> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        paths
            .map(move |path| {
                let (inner, faults) = (inner.clone(), faults.clone());
                async move {
                    let path = path?;
                    let fate = faults.before("delete", path.as_ref()).await?;
                    let done = inner.delete(&path).await;
                    faults.after(fate, "delete", path.as_ref(), done)?;
                    Ok(path)
                }
            })
            .buffered(DELETES)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StorageResult<ObjectMeta>> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        let prefix = prefix.cloned();
        futures::stream::once(async move {
            faults.before("list", &text(prefix.as_ref())).await?;
            Ok::<_, StorageError>(inner.list(prefix.as_ref()))
        })
        .try_flatten()
        .boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, StorageResult<ObjectMeta>> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        let (prefix, offset) = (prefix.cloned(), offset.clone());
        futures::stream::once(async move {
            faults.before("list", &text(prefix.as_ref())).await?;
            Ok::<_, StorageError>(inner.list_with_offset(prefix.as_ref(), &offset))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StorageResult<ListResult> {
        self.faults.before("list", &text(prefix)).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StorageResult<()> {
        let fate = self.faults.before("copy", to.as_ref()).await?;
        self.faults.hold(to.as_ref()).await;
        let done = self.inner.copy_opts(from, to, options).await;
        self.faults.after(fate, "copy", to.as_ref(), done)
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> StorageResult<()> {
        let fate = self.faults.before("rename", to.as_ref()).await?;
        self.faults.hold(to.as_ref()).await;
        let done = self.inner.rename_opts(from, to, options).await;
        self.faults.after(fate, "rename", to.as_ref(), done)
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    path: Path,
    faults: Arc<Faults>,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StorageResult<PutResult> {
        let fate = self.faults.before("put", self.path.as_ref()).await?;
        self.faults.hold(self.path.as_ref()).await;
        let done = self.inner.complete().await;
        self.faults.after(fate, "put", self.path.as_ref(), done)
    }

    async fn abort(&mut self) -> StorageResult<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn store(spec: &str) -> (Arc<dyn ObjectStore>, Arc<InMemory>) {
        let inner = Arc::new(InMemory::new());
        let spec = FaultSpec::parse(spec).expect("a spec");
        let wrapped = wrapper(spec).expect("a wrapper").wrap("", inner.clone());
        (wrapped, inner)
    }

    async fn put(store: &Arc<dyn ObjectStore>, path: &str) -> StorageResult<()> {
        store.put(&path.into(), "x".into()).await.map(drop)
    }

    async fn there(inner: &InMemory, path: &str) -> bool {
        inner.head(&path.into()).await.is_ok()
    }

    #[tokio::test]
    async fn an_error_before_the_effect_leaves_nothing() {
        let (store, inner) = store("before=1;only=_versions");
        assert!(put(&store, "t/_versions/1").await.is_err());
        assert!(!there(&inner, "t/_versions/1").await);
        assert!(store.get(&"t/_versions/1".into()).await.is_err());
        assert!(store.delete(&"t/_versions/1".into()).await.is_err());
        let listed: Vec<_> = store.list(Some(&"t/_versions".into())).collect().await;
        assert!(listed.iter().all(|meta| meta.is_err()) && listed.len() == 1);
        put(&store, "t/data/1").await.expect("another path");
        assert!(there(&inner, "t/data/1").await);
    }

    #[tokio::test]
    async fn a_lost_response_has_its_effect() {
        let dir = std::env::temp_dir().join(format!("squire-faults-{}", std::process::id()));
        let (store, inner) = store(&format!("after=1;log={}", dir.display()));
        assert!(put(&store, "t/1").await.is_err());
        assert!(there(&inner, "t/1").await);
        assert!(store.delete(&"t/1".into()).await.is_err());
        assert!(!there(&inner, "t/1").await);
        let noted = std::fs::read_to_string(&dir).expect("the log");
        assert_eq!(noted, "after put t/1\nafter delete t/1\n");
        std::fs::remove_file(&dir).expect("it was there");
    }

    #[tokio::test]
    async fn an_overloaded_server_says_so_and_an_outage_ends() {
        let (store, _) = store("throttle=1");
        let said = put(&store, "t/1").await.expect_err("throttled").to_string();
        assert!(said.contains("503"), "{said}");
        let (store, _) = self::store("outage=0.5:20ms;seed=1");
        while put(&store, "t/1").await.is_ok() {}
        assert!(put(&store, "t/2").await.is_err());
        while put(&store, "t/2").await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_held_put_waits_for_its_file() {
        let release = std::env::temp_dir().join(format!("squire-release-{}", std::process::id()));
        let (store, inner) = store(&format!("hold=recovery:{}", release.display()));
        put(&store, "t/1").await.expect("not held");
        let held = put(&store, "recovery/1");
        tokio::pin!(held);
        let early = tokio::time::timeout(Duration::from_millis(20), &mut held).await;
        assert!(early.is_err() && !there(&inner, "recovery/1").await);
        std::fs::write(&release, "").expect("the release file");
        held.await.expect("released");
        assert!(there(&inner, "recovery/1").await);
        std::fs::remove_file(&release).expect("it was there");
    }
}
