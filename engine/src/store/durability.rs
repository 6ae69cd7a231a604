//! Acknowledged means durable: what outlives a power cut on a local disk.
//!
//! One rule: **a put has returned when it is on the disk**, its content before its name and its name with all new
//! directories above it. The order of writes then is the order of the protocol, and no step has to remember a sync:
//!
//! * Sidecars, journals and versions are put through the object-store interface, which syncs (`wrapper`).
//! * Data, deletion, index and transaction files are what Lance writes past that interface on plain local paths, so
//!   handles that write go through it (`Store::writing`, `Store::writing_uri`). Handles that read do not.
//! * What others wrote and a publish or an answer of ours would vouch for is synced as a whole (`Store::sync_found`):
//!   foreign commits were never synced, and a process of ours may have died between its put and the sync.
//!
//! Removals are not synced. One that a cut takes back leaves what a process that died before it leaves.

use super::guard::check_readable;
use super::{Store, location};
use crate::error::{Error, ErrorKind, Result};
use lance::Dataset;
use lance_io::object_store::{ChainedWrappingObjectStore, WrappingObjectStore, uri_to_url};
use lance_table::io::commit::ManifestNamingScheme;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::Arc;

/// What every version of a Lance dataset ends with.
const VERSION_END: &[u8] = b"LANC";

/// How long the end of a version is, with the position and the format before these letters.
const VERSION_END_BYTES: usize = 16;

/// What an acknowledged commit outlives. It says something about local disks only; object stores answer when an object
/// is safe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The machine: a power cut loses nothing that was acknowledged. Each file that is put costs two syncs.
    #[default]
    Power,
    /// The process: a power cut may lose the last seconds, and may leave a store that needs a person.
    Process,
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "power" => Ok(Self::Power),
            "process" => Ok(Self::Process),
            other => Err(Error::invalid(format!(
                "durability {other:?} is neither \"power\" nor \"process\""
            ))),
        }
    }
}

/// Puts that sync, below whatever else is wrapped around the storage.
#[derive(Debug)]
struct Syncing;

impl WrappingObjectStore for Syncing {
    fn wrap(&self, _: &str, _: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        // What it replaces is the same without the syncs.
        Arc::new(LocalFileSystem::new().with_fsync(true))
    }

    fn wrap_paginated(
        &self,
        _: &str,
        inner: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        Some(inner)
    }
}

/// What is wrapped around the storage of the store at `uri`.
pub(super) fn wrapper(
    uri: &str,
    durability: Durability,
    outer: Option<Arc<dyn WrappingObjectStore>>,
) -> Option<Arc<dyn WrappingObjectStore>> {
    if durability == Durability::Process || !location::is_local(uri) {
        return outer;
    }
    let mut wrappers: Vec<Arc<dyn WrappingObjectStore>> = vec![Arc::new(Syncing)];
    wrappers.extend(outer);
    Some(Arc::new(ChainedWrappingObjectStore::new(wrappers)))
}

impl Store {
    /// Whether Lance would write past the syncs.
    fn is_bypassed(&self) -> bool {
        self.options().durability == Durability::Power && self.objects.has_direct_local_paths()
    }

    /// The same dataset, for writing: what is written through it is durable when the write returns.
    pub(crate) fn writing(&self, dataset: &Dataset) -> Dataset {
        if !self.is_bypassed() {
            return dataset.clone();
        }
        dataset.with_object_store(self.interface.clone(), None)
    }

    /// The URI of a path below the root, for making a dataset there whose files are durable when the write returns.
    pub(crate) fn writing_uri(&self, path: &str) -> Result<String> {
        let uri = self.uri_of(path);
        if !self.is_bypassed() {
            return Ok(uri);
        }
        // By way of a URL: a path may hold what means something else in one.
        let url = uri_to_url(&uri)?.to_string();
        Ok(url.replacen("file:", "file-object-store:", 1))
    }

    /// `error`, or what to do when the version at `path` is one that a power cut left empty or cut short.
    pub(crate) async fn unless_torn(&self, path: &Path, error: Error) -> Error {
        if check_readable(&self.objects, path, None).await.is_err() {
            return error;
        }
        let Ok(got) = self.objects.inner.get(path).await else {
            return error;
        };
        let Ok(bytes) = got.bytes().await else {
            return error;
        };
        if bytes.ends_with(VERSION_END) {
            let told = error.to_string().contains(path.as_ref());
            return if told {
                error
            } else {
                error.context(format!("reading /{path}"))
            };
        }
        // Lance's own words quote the bytes, and say less.
        tracing::debug!(%path, %error, "a version cannot be read");
        let length = bytes.len();
        let why = if is_cut(&bytes) && self.is_below_another(path).await {
            format!(
                "/{path} is torn, {length} bytes long, and newer versions were made after it; restore this file from a backup, or, if nobody needs this version any more, remove this file"
            )
        } else if is_cut(&bytes) {
            format!(
                "/{path} is torn, {length} bytes long, as a power cut leaves a version that was not synced: it was never written; stop all writers, remove this file, and run this again"
            )
        } else {
            format!(
                "/{path} is damaged: its {length} bytes are no version of a table, and no beginning of one; restore this file from a backup"
            )
        };
        Error::new(ErrorKind::Storage, why)
    }

    /// Whether a newer version stands beside the one at `path`, as far as can be seen.
    async fn is_below_another(&self, path: &Path) -> bool {
        let Some(folder) = path.parent() else {
            return false;
        };
        let Ok(listed) = self.objects.list_with_delimiter(Some(&folder)).await else {
            return false;
        };
        let mut others = listed.objects.iter().map(|other| &other.location);
        others.any(|other| version_named(other) > version_named(path))
    }

    /// Makes durable whatever stands in the store, whoever wrote it: before a publish shows versions that were found
    /// rather than made, and before an answer that rests on someone else's publish.
    pub(crate) async fn sync_found(&self) -> Result<()> {
        if self.options().durability == Durability::Process || !location::is_local(self.uri()) {
            return Ok(());
        }
        let failed = |e: std::io::Error| {
            Error::from(object_store::Error::Generic {
                store: "local",
                source: e.into(),
            })
            .context("syncing the file system")
        };
        let root = format!("/{}", self.base);
        let root = tokio::fs::File::open(root).await.map_err(failed)?;
        // Waits for the disk: off the runtime's threads.
        tokio::task::spawn_blocking(move || rustix::fs::syncfs(root))
            .await
            .map_err(|e| Error::internal("syncing the file system").caused_by(e))?
            .map_err(|e| failed(e.into()))
    }
}

/// The version whose file this is, by its name.
pub(crate) fn version_named(path: &Path) -> Option<u64> {
    let name = path.filename()?;
    ManifestNamingScheme::detect_scheme(name)?.parse_version(name)
}

/// Whether `bytes` are the beginning of a version: messages, each behind its length. Zeros at the end were never written.
fn is_cut(bytes: &[u8]) -> bool {
    let written = bytes.iter().rposition(|byte| *byte != 0);
    let mut rest = &bytes[..written.map_or(0, |last| last + 1)];
    // Shorter than what every version ends with, nothing tells it from another.
    while rest.len() >= VERSION_END_BYTES {
        let Some((length, message)) = rest.split_first_chunk::<4>() else {
            return true;
        };
        // The first field of a manifest, a transaction, or a section of indexes.
        if !message
            .first()
            .is_some_and(|field| matches!(field, 0x08 | 0x0a | 0x12))
        {
            return false;
        }
        let end = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        match message.get(end..) {
            Some(next) => rest = next,
            None => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::is_cut;

    #[test]
    fn the_beginning_of_a_version_is_told_from_other_bytes() {
        let message = |field: u8, length: u8| {
            let mut bytes = vec![length, 0, 0, 0, field];
            bytes.resize(4 + usize::from(length), 7);
            bytes
        };
        let mut version = [message(0x08, 40), message(0x0a, 90)].concat();
        version.extend([44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        for end in 0..version.len() {
            assert!(is_cut(&version[..end]), "cut at {end}");
            let mut zeros = version.clone();
            zeros[end..].fill(0);
            assert!(is_cut(&zeros), "zeros from {end}");
        }
        assert!(is_cut(b"abc"));
        assert!(is_cut(&[0; 4_096]));
        assert!(!is_cut(b"this was never a version"));
        let other = |i: u8| i.wrapping_mul(7).wrapping_add(101);
        let random: Vec<u8> = (0..200).map(other).collect();
        assert!(!is_cut(&random));
        version.extend(*b"DAMAGED BEYOND ITS END");
        assert!(!is_cut(&version));
    }
}
