//! What was read of manifests, for the next cleanup.
//!
//! Lance's cleanup reads every manifest of a table before it removes anything, and whoever looks for clones reads all of
//! theirs. A manifest never changes, so what was read of one is kept in memory and given again:
//!
//! 1. Bytes are kept, and nothing that was concluded from them: which files are needed is worked out anew each time, by the
//!    same code, from every manifest that stands.
//! 2. A manifest is known by its path, size, time and tag, as the listing of this very cleanup says them. One that was removed
//!    is in no listing, and one that was put at a number that was freed has another tag. Without a tag nothing is kept.
//! 3. The process's memory bounds it. What found no room is read again.
//!
//! What Lance would remove and may not is not seen through it: folders of indexes that no version names, as older clients of
//! LanceDB keep, and what is newer than the version that is kept. Of a table that is being copied here with its times (`cp -a`,
//! `rsync -a`) that belongs to versions which are yet to come, however old it is.
//! And nothing is deleted through it once what is watched has changed.

use super::watch::Watch;
use crate::store::Store;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance_core::cache::{CacheBackend, InternalCacheKey};
use lance_io::object_store::{ObjectStore as LanceStore, WrappingObjectStore};
use lance_table::io::commit::ManifestNamingScheme;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Extensions, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What a store keeps of manifests.
#[derive(Debug, Default)]
struct Kept(OnceLock<Arc<dyn CacheBackend>>);

/// The manifests that one cleanup has listed, and what is kept of them.
#[derive(Debug, Clone)]
struct Known {
    kept: Arc<dyn CacheBackend>,
    listed: Arc<Mutex<HashMap<Path, ObjectMeta>>>,
    /// What may not have changed where something is deleted.
    watch: Option<Watch>,
}

impl Store {
    /// The same storage, which does not ask twice for a manifest that it has listed, and deletes only while nothing has changed of
    /// what `watch` watches.
    pub(super) fn knowing_manifests(
        &self,
        objects: &LanceStore,
        watch: Option<Watch>,
    ) -> LanceStore {
        let kept = self.shelf.of::<Kept>();
        let kept = kept.0.get_or_init(|| self.options().memory.manifests());
        let known = Known {
            kept: kept.clone(),
            listed: Arc::default(),
            watch,
        };
        let mut objects = objects.clone();
        objects.apply_wrapper(&known);
        objects
    }
}

/// Whether it is a manifest by its name.
fn is_manifest(path: &Path) -> bool {
    let name = path.filename();
    name.and_then(ManifestNamingScheme::detect_scheme).is_some()
}

/// Whether it lies in a folder of indexes whose name is no UUID: no version refers to it, and Lance has not made it.
pub(in crate::maintenance) fn is_foreign_index(path: &Path) -> bool {
    let mut parts = path.parts().skip_while(|part| part.as_ref() != "_indices");
    parts.next();
    let (folder, file) = (parts.next(), parts.next());
    let is_uuid = |name: &str| {
        let mut letters = name.chars();
        name.len() == 36 && letters.all(|c| c.is_ascii_hexdigit() || c == '-')
    };
    file.is_some() && folder.is_some_and(|name| !is_uuid(name.as_ref()))
}

/// The bytes that are asked for of a file of `size`, if nothing else is.
fn plain_range(options: &GetOptions, size: u64) -> Option<Range<u64>> {
    let conditional = options.if_match.is_some()
        || options.if_none_match.is_some()
        || options.if_modified_since.is_some()
        || options.if_unmodified_since.is_some();
    if conditional || options.head || options.version.is_some() {
        return None;
    }
    match &options.range {
        None => Some(0..size),
        Some(GetRange::Bounded(range)) if range.end <= size => Some(range.clone()),
        Some(_) => None,
    }
}

/// Names what was read of a manifest as it was listed; `None` where nothing tells it from another one.
fn key(listed: &ObjectMeta, range: &Range<u64>) -> Option<InternalCacheKey> {
    let tag = listed.e_tag.as_ref()?;
    let ObjectMeta { location, size, .. } = listed;
    let time = listed.last_modified.timestamp_micros();
    let Range { start, end } = range;
    let named = format!("{location}\0{size}\0{time}\0{tag}\0{start}\0{end}");
    let digest: [u8; 32] = Sha256::digest(named).into();
    digest
        .first_chunk()
        .copied()
        .map(InternalCacheKey::from_bytes)
}

/// The answer that these bytes are.
fn answer(listed: ObjectMeta, range: Range<u64>, bytes: PutPayload) -> GetResult {
    GetResult {
        payload: GetResultPayload::Stream(futures::stream::iter(bytes).map(Ok).boxed()),
        meta: listed,
        range,
        attributes: Attributes::default(),
        extensions: Extensions::default(),
    }
}

impl Known {
    /// What is asked for, if it is a part of a manifest as it was listed.
    fn asked(&self, path: &Path, options: &GetOptions) -> Option<(ObjectMeta, Range<u64>)> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = listed.get(path)?;
        Some((listed.clone(), plain_range(options, listed.size)?))
    }

    fn list(
        &self,
        listed: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let all = self.listed.clone();
        let kept_since = self.watch.as_ref().map(Watch::kept_since);
        let is_seen = move |meta: &ObjectMeta| {
            let is_of_next = kept_since.is_some_and(|since| meta.last_modified > since);
            !is_foreign_index(&meta.location) && (is_manifest(&meta.location) || !is_of_next)
        };
        listed
            .try_filter(move |meta| std::future::ready(is_seen(meta)))
            .inspect(move |meta| {
                if let Ok(meta) = meta
                    && is_manifest(&meta.location)
                {
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.insert(meta.location.clone(), meta.clone());
                }
            })
            .boxed()
    }
}

impl WrappingObjectStore for Known {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(KnowingStore {
            inner,
            known: self.clone(),
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
struct KnowingStore {
    inner: Arc<dyn ObjectStore>,
    known: Known,
}

impl std::fmt::Display for KnowingStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "knowing {}", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for KnowingStore {
    async fn put_opts(
        &self,
        path: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(path, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let asked = self.known.asked(path, &options);
        let known = asked.and_then(|(listed, range)| Some((key(&listed, &range)?, listed, range)));
        let Some((key, listed, range)) = known else {
            return self.inner.get_opts(path, options).await;
        };
        let kept = self.known.kept.get(&key, None).await;
        if let Some(bytes) = kept.and_then(|kept| kept.downcast::<PutPayload>().ok()) {
            return Ok(answer(listed, range, bytes.as_ref().clone()));
        }
        let got = self.inner.get_opts(path, options).await?;
        let as_listed = got.meta.e_tag == listed.e_tag && got.meta.size == listed.size;
        if !as_listed || got.range != range {
            return Ok(got);
        }
        let bytes = PutPayload::from(got.bytes().await?);
        let size = bytes.content_length();
        self.known
            .kept
            .insert(&key, Arc::new(bytes.clone()), size, None)
            .await;
        Ok(answer(listed, range, bytes))
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let Some(watch) = self.known.watch.clone() else {
            return self.inner.delete_stream(paths);
        };
        // One by one, as Lance's cleanup asks for it: numbers of versions are names, and another table may have them by now.
        let inner = self.inner.clone();
        let delete = move |path: Result<Path>| {
            let (inner, watch) = (inner.clone(), watch.clone());
            async move {
                let path = path?;
                if let Some(changed) = watch.changed(inner.as_ref()).await? {
                    return Err(object_store::Error::Precondition {
                        path: path.to_string(),
                        source: changed.into(),
                    });
                }
                inner.delete(&path).await?;
                Ok(path)
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.known.list(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.known.list(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
}
