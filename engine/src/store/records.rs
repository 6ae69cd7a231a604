//! Where the records of operations stand: sidecars, and the journals of maintenance runs.
//!
//! 1. A store keeps them in `_squire/recovery`.
//! 2. Runs on plain tables keep theirs beside the tables, in `.squire/recovery` of the watched location. No Lance client
//!    takes a hidden folder for a table, it makes no store of the location, and on a local disk it is there only while
//!    something is recorded.
//! 3. Where that may not be written they stand in the state directory of this machine. Others do not see them there, which
//!    costs room only: what a run wrote waits for this machine.
//!
//! Beside them stand the claims of daemons; see `claims`.
//!
//! Which one it is changes nothing else: the record is the run's licence wherever it stands.

use super::guard::check_readable;
use super::{INTERNAL, Store, durability, put_absent};
use crate::error::{Error, Result};
use crate::ids::OpId;
use lance_io::object_store::{ObjectStore, ObjectStoreParams};
use object_store::path::Path;
use object_store::{ListResult, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The hidden folder of a location of plain tables.
pub(super) const BESIDE: &str = ".squire";

/// Below the state directory.
const IN_STATE: &str = "runs";

/// How many digits of a digest name a location in the state directory.
const KEY_DIGITS: usize = 32;

/// Where the records of a run stand that whoever reaches the location reaches, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordsAt {
    /// In the store.
    Store,
    /// Beside the plain tables of the location.
    Beside,
}

/// A place of records.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pub(crate) objects: Arc<ObjectStore>,
    root: Path,
    /// Whether its folders go when nothing is recorded.
    comes_and_goes: bool,
}

impl Records {
    pub(super) fn of_store(objects: Arc<ObjectStore>, base: &Path) -> Self {
        Self {
            objects,
            root: base.clone().join(INTERNAL),
            comes_and_goes: false,
        }
    }

    pub(super) fn of_plain_tables(objects: Arc<ObjectStore>, root: Path) -> Self {
        Self {
            objects,
            root,
            comes_and_goes: true,
        }
    }

    /// Where everything of every operation stands.
    pub(crate) fn directory(&self) -> Path {
        self.area("recovery")
    }

    /// A folder of this place.
    pub(crate) fn area(&self, name: &str) -> Path {
        self.root.clone().join(name)
    }

    /// Puts a new object; `Conflict` when one is there.
    pub(super) async fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<()> {
        let put = put_absent(&self.objects, path, bytes.clone()).await;
        match put {
            // A run that ended took the empty folders away while they were made.
            Err(e) if self.comes_and_goes && caused_by_io(&e, &[io::ErrorKind::NotFound]) => {
                put_absent(&self.objects, path, bytes).await
            }
            put => put,
        }
    }

    /// What stands in the directory: sidecars as objects, journals as prefixes.
    pub(crate) async fn listed(&self) -> Result<ListResult> {
        let directory = self.directory();
        Ok(self.objects.list_with_delimiter(Some(&directory)).await?)
    }

    /// How long the record of `op` has shown no sign of life, by the clock of the storage alone: its newest object against
    /// `probe`, one that is put now and removed.
    pub(crate) async fn silence(&self, op: OpId, probe: OpId) -> Result<Duration> {
        let now = self.now(probe).await?;
        let mut last = match self.objects.inner.head(&self.sidecar_path(op)).await {
            Ok(meta) => meta.last_modified,
            Err(object_store::Error::NotFound { .. }) => now,
            Err(e) => return Err(e.into()),
        };
        for meta in self.journal_objects(op).await? {
            last = last.max(meta.last_modified);
        }
        Ok((now - last).to_std().unwrap_or_default())
    }

    /// Removes what is empty of a place that comes and goes. A put that meets it makes its folders anew.
    pub(crate) async fn tidy(&self) {
        if !self.comes_and_goes || !self.objects.is_local() {
            return;
        }
        for folder in ["recovery", "probe", "claims", ""] {
            let folder = match folder {
                "" => format!("/{}", self.root),
                folder => format!("/{}/{folder}", self.root),
            };
            // Fails while something is in it, which is what is asked.
            tokio::fs::remove_dir(folder).await.ok();
        }
    }
}

/// What the object at `path` holds; `None` where there is none.
///
/// # Errors
/// Those of the storage; what is no regular file is damaged, since a pipe would never end.
pub(crate) async fn content_of(objects: &ObjectStore, path: &Path) -> Result<Option<Vec<u8>>> {
    check_readable(objects, path, None).await?;
    match objects.inner.get(path).await {
        Ok(got) => Ok(Some(got.bytes().await?.into())),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// How a local disk says that we may not write, or read, somewhere. A file may have the name that a folder wants.
const DENIED: [io::ErrorKind; 3] = [
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::NotADirectory,
];

/// Whether a storage may not be written, or read, by us; anything else that fails may work the next time.
pub(crate) fn is_denied(e: &Error) -> bool {
    use object_store::Error as S;
    e.causes().any(|cause| {
        let said = cause.downcast_ref::<S>();
        said.is_some_and(|s| matches!(s, S::PermissionDenied { .. } | S::Unauthenticated { .. }))
    }) || caused_by_io(e, &DENIED)
}

fn caused_by_io(e: &Error, kinds: &[io::ErrorKind]) -> bool {
    e.causes().any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|io| kinds.contains(&io.kind()))
    })
}

impl Store {
    /// The places where runs on plain tables here may be recorded, the first that may be written first.
    pub(crate) async fn plain_records(&self) -> Vec<&Records> {
        let elsewhere = self.records_elsewhere.get_or_init(|| async {
            match self.connect_state().await {
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(uri = self.uri, %error, "the state directory cannot be used");
                    None
                }
            }
        });
        let elsewhere = elsewhere.await.as_ref();
        std::iter::once(&self.records_beside)
            .chain(elsewhere)
            .collect()
    }

    /// This location's records in the state directory, if there is one.
    async fn connect_state(&self) -> Result<Option<Records>> {
        let options = self.options();
        let Some(state) = &options.state_dir else {
            return Ok(None);
        };
        let state = state.to_string_lossy();
        let mut key: String = Sha256::digest(self.uri.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        key.truncate(KEY_DIGITS);
        let params = ObjectStoreParams {
            object_store_wrapper: durability::wrapper(
                &state,
                options.durability,
                options.wrapper.clone(),
            ),
            ..ObjectStoreParams::default()
        };
        let registry = self.session().store_registry();
        let (objects, base) = ObjectStore::from_uri_and_params(registry, &state, &params).await?;
        let root = base.join(IN_STATE).join(key);
        Ok(Some(Records::of_plain_tables(objects, root)))
    }

    /// Where `records` are; `None` for the state directory, which is one machine's.
    pub(crate) fn records_at(&self, records: &Records) -> Option<RecordsAt> {
        let is = |place: &Records| place.directory() == records.directory();
        match (is(&self.records), is(&self.records_beside)) {
            (true, _) => Some(RecordsAt::Store),
            (_, true) => Some(RecordsAt::Beside),
            _ => None,
        }
    }

    /// The records there.
    pub(crate) fn records_of(&self, at: RecordsAt) -> &Records {
        match at {
            RecordsAt::Store => &self.records,
            RecordsAt::Beside => &self.records_beside,
        }
    }

    /// Says once that runs here leave no records.
    pub(crate) fn tell_unrecorded(&self, why: &Error) {
        if !self.is_unrecorded.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                uri = self.uri,
                error = %why,
                "no record of maintenance can be written beside the tables ({BESIDE}) or in a state directory (STATE_DIRECTORY); what a run that dies leaves behind stays for Lance's seven days"
            );
        }
    }
}

/// What was found, or nothing where we may not look: no record of ours is there.
pub(crate) fn unless_denied<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(e) if is_denied(&e) => Ok(None),
        found => found.map(Some),
    }
}
