//! A strict commit handler: a slot, contiguity, delegation, and a hook just before the put.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use lance_core::{Error, Result};
use lance_io::object_store::ObjectStore;
use lance_table::format::{IndexMetadata, Manifest, Transaction};
use lance_table::io::commit::{
    CommitError, CommitHandler, ConditionalPutCommitHandler, ManifestLocation,
    ManifestNamingScheme, ManifestWriter,
};
use object_store::path::Path;

type Hook = BoxFuture<'static, ()>;

/// Wraps a commit handler; every switch is off in [`Guard::new`].
pub(crate) struct Guard {
    inner: Arc<dyn CommitHandler>,
    slot: Option<u64>,
    contiguous: bool,
    delegates_verdicts: bool,
    loses_answer: bool,
    before_put: Mutex<Option<(usize, Hook)>>,
    seen: Mutex<Vec<u64>>,
}

impl Guard {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(ConditionalPutCommitHandler))
    }

    pub(crate) fn over(inner: Arc<dyn CommitHandler>) -> Self {
        Self {
            inner,
            slot: None,
            contiguous: false,
            delegates_verdicts: true,
            loses_answer: false,
            before_put: Mutex::new(None),
            seen: Mutex::new(Vec::new()),
        }
    }

    /// Refuses every version but this one.
    pub(crate) fn slot(mut self, version: u64) -> Self {
        self.slot = Some(version);
        self
    }

    /// Fails the conflict scan when a version between the base and the newest one is missing.
    pub(crate) fn contiguous(mut self) -> Self {
        self.contiguous = true;
        self
    }

    /// Leaves the two verdicts about doubtful commits at the trait's defaults.
    pub(crate) fn without_delegation(mut self) -> Self {
        self.delegates_verdicts = false;
        self
    }

    /// Reports an I/O error after the put has landed.
    pub(crate) fn losing_the_answer(mut self) -> Self {
        self.loses_answer = true;
        self
    }

    /// Runs once, between the conflict scan and the first put.
    pub(crate) fn before_put(self, hook: Hook) -> Self {
        self.before_nth_put(1, hook)
    }

    /// Runs once, between the conflict scan and the put of the n-th commit attempt.
    pub(crate) fn before_nth_put(self, n: usize, hook: Hook) -> Self {
        *self.before_put.lock().unwrap() = Some((n, hook));
        self
    }

    /// The target version of every commit that came by, refused ones included.
    pub(crate) fn seen(&self) -> Vec<u64> {
        self.seen.lock().unwrap().clone()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl CommitHandler for Guard {
    fn is_version_not_found_definitive(&self) -> bool {
        self.delegates_verdicts && self.inner.is_version_not_found_definitive()
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        !self.delegates_verdicts || self.inner.propagate_commit_error_after_success()
    }

    fn list_manifest_locations_since<'a>(
        &self,
        base_path: &Path,
        object_store: &'a ObjectStore,
        since_version: u64,
    ) -> BoxStream<'a, Result<ManifestLocation>> {
        if !self.contiguous {
            return self.inner.list_manifest_locations_since(
                base_path,
                object_store,
                since_version,
            );
        }
        // The full listing, because "since" believes the version hint (fact 16).
        let listed = self
            .inner
            .list_manifest_locations(base_path, object_store, true)
            .try_take_while(move |location| future::ready(Ok(location.version > since_version)));
        stream::once(async move {
            let locations: Vec<_> = listed.try_collect().await?;
            let newest = locations
                .first()
                .map_or(since_version, |location| location.version);
            if newest - since_version != locations.len() as u64 {
                return Err(Error::internal(format!(
                    "versions are missing between {since_version} and {newest}"
                )));
            }
            Ok(stream::iter(locations.into_iter().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    async fn commit(
        &self,
        manifest: &mut Manifest,
        indices: Option<Vec<IndexMetadata>>,
        base_path: &Path,
        object_store: &ObjectStore,
        manifest_writer: ManifestWriter,
        naming_scheme: ManifestNamingScheme,
        transaction: Option<Transaction>,
    ) -> std::result::Result<ManifestLocation, CommitError> {
        let version = manifest.version;
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(version);
            seen.len()
        };
        if self.slot.is_some_and(|slot| slot != version) {
            // `OtherError`, because Lance answers a `CommitConflict` with a rebase and a retry.
            let refusal = Error::commit_conflict_source(version, "not the expected slot".into());
            return Err(CommitError::OtherError(refusal));
        }
        let hook = self.before_put.lock().unwrap().take_if(|(n, _)| *n == nth);
        if let Some((_, hook)) = hook {
            hook.await;
        }
        let location = self
            .inner
            .commit(
                manifest,
                indices,
                base_path,
                object_store,
                manifest_writer,
                naming_scheme,
                transaction,
            )
            .await?;
        if self.loses_answer {
            return Err(CommitError::OtherError(Error::io("the answer was lost")));
        }
        Ok(location)
    }
}
