//! The manifest: its latest version, its older ones, and the put of the next.
//!
//! It is a Lance dataset without rows whose config map holds the state. Its versions are read and written here as
//! single objects, through the guarded commit handler: Lance's own commit would list once more, and put a transaction
//! file beside the transaction that the version carries anyway.

use super::guard::NAMING;
use super::newest::Mark;
use super::{GuardedCommitHandler, MANIFEST_PATH, Slot, State, Store, Updates};
use crate::error::{Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt};
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, TransactionBuilder, UpdateMap, UpdateMapEntry};
use lance_table::format::{Manifest, pb};
use lance_table::io::commit::{
    CommitError, CommitHandler, ManifestLocation, write_manifest_file_to_path,
};
use lance_table::io::manifest::read_manifest;
use std::collections::HashMap;
use std::sync::Arc;

/// The manifest at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    manifest: Arc<Manifest>,
    /// The facts that it holds.
    pub state: Arc<State>,
    /// What stood as the mark before this version was looked for.
    mark: Mark,
    /// What tells its object from any other of its number; nothing until it was looked at again.
    tag: Option<Arc<str>>,
}

impl Snapshot {
    fn new(manifest: Manifest, mark: Mark) -> Result<Self> {
        let state = State::parse(manifest.version, &manifest.config)?;
        Ok(Self {
            manifest: Arc::new(manifest),
            state: Arc::new(state),
            mark,
            tag: None,
        })
    }

    /// The same, if `tag` is its object's: a store that was copied back has other versions at the numbers that are known.
    pub(super) fn tagged(mut self, tag: Option<&str>) -> Option<Self> {
        match (&self.tag, tag) {
            (Some(known), Some(tag)) if **known != *tag => None,
            (None, Some(tag)) => {
                self.tag = Some(tag.into());
                Some(self)
            }
            _ => Some(self),
        }
    }

    /// What stood as the mark before this version was looked for.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// M, the manifest's version.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }
}

impl Store {
    /// Loads the manifest's latest version.
    pub async fn load(&self) -> Result<Snapshot> {
        self.load_latest().await.map_err(|e| e.context(&self.uri))
    }

    async fn load_latest(&self) -> Result<Snapshot> {
        let cached = self.remembered().await;
        if let Some(cached) = &cached
            && let Some(snapshot) = self.followed(cached).await?
        {
            self.remember(&snapshot).await;
            return Ok(snapshot);
        }
        let mark = self.mark().await?;
        let newest = self.newest_manifests(2).await?;
        let Some(latest) = newest.first() else {
            return Err(self.history_gone(1));
        };
        if let Some(cached) = cached.filter(|c| c.version() == latest.version)
            && let Some(mut cached) = cached.tagged(self.tag_of(latest).await?.as_deref())
        {
            cached.mark = mark;
            self.remember(&cached).await;
            return Ok(cached);
        }
        let manifest = match read_manifest(&self.objects, &latest.path, latest.size).await {
            Ok(manifest) => manifest,
            Err(e) => return Err(self.unless_torn(&latest.path, e.into()).await),
        };
        let snapshot = Snapshot::new(manifest, mark)?;
        // A version that another process published: it must stand on what was there before it.
        let before = latest.version - 1;
        if before > 0
            && before >= snapshot.state.manifest_floor
            && newest.get(1).is_none_or(|l| l.version != before)
        {
            return Err(self.history_gone(before));
        }
        self.remember(&snapshot).await;
        Ok(snapshot)
    }

    async fn tag_of(&self, listed: &ManifestLocation) -> Result<Option<String>> {
        match self.objects.is_local() {
            // Lance makes tags of its own for a local file.
            true => self.manifest_tag(listed.version).await,
            false => Ok(listed.e_tag.clone()),
        }
    }

    /// The `count` newest versions of the manifest, newest first.
    async fn newest_manifests(&self, count: usize) -> Result<Vec<ManifestLocation>> {
        let base = self.object_path(MANIFEST_PATH);
        if !self.objects.is_local() {
            // One request: object stores list in the order of names, and names run backwards.
            return Ok(self
                .inner_handler
                .list_manifest_locations(&base, &self.objects, true)
                .take(count)
                .try_collect()
                .await?);
        }
        // A local listing stats every version; names alone tell the latest.
        let latest = self
            .inner_handler
            .resolve_latest_location(&base, &self.objects)
            .await?;
        let (version, naming_scheme) = (latest.version, latest.naming_scheme);
        let mut newest = vec![latest];
        for version in (1..version).rev().take(count - 1) {
            let objects = self.objects.inner.as_ref();
            let there = self
                .inner_handler
                .version_exists(&base, version, objects, naming_scheme)
                .await?;
            if !there {
                break;
            }
            newest.push(ManifestLocation {
                version,
                path: naming_scheme.manifest_path(&base, version),
                size: None,
                naming_scheme,
                e_tag: None,
                identity: None,
            });
        }
        Ok(newest)
    }

    /// The newest versions of the manifest, newest first.
    pub(crate) async fn latest_manifest_versions(&self, count: usize) -> Result<Vec<u64>> {
        let newest = self.newest_manifests(count).await?;
        Ok(newest.iter().map(|l| l.version).collect())
    }

    /// A store whose history is gone is not the store it was: an unmounted directory, most likely. Puts make missing
    /// directories, so without this a commit into the empty place would be acknowledged.
    pub(crate) fn history_gone(&self, version: u64) -> Error {
        Error::new(
            ErrorKind::Storage,
            format!(
                "{}: manifest version {version} is gone; is the storage still mounted?",
                self.uri
            ),
        )
    }

    /// The snapshot at an older manifest version.
    ///
    /// # Errors
    /// `Expired` below the manifest's floor unless it is held, `NotFound` for a version that was never made.
    pub async fn snapshot_at(&self, version: u64) -> Result<Snapshot> {
        let latest = self.load().await?;
        let floor = latest.state.manifest_floor;
        if version < floor && !self.is_held(&latest.state, version).await? {
            return Err(Error::new(
                ErrorKind::Expired,
                format!(
                    "manifest version {version} is below the floor {floor}; take a fresh snapshot"
                ),
            ));
        }
        if version == 0 || version > latest.version() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "there is no manifest version {version}; the latest is {}",
                    latest.version()
                ),
            ));
        }
        if version == latest.version() {
            return Ok(latest);
        }
        self.manifest_at(version).await
    }

    /// The manifest at a version, held below the floor or not.
    pub(crate) async fn manifest_at(&self, version: u64) -> Result<Snapshot> {
        self.read_manifest_at(version, Mark::default()).await
    }

    pub(super) async fn read_manifest_at(&self, version: u64, mark: Mark) -> Result<Snapshot> {
        let path = NAMING.manifest_path(&self.object_path(MANIFEST_PATH), version);
        let manifest = read_manifest(&self.objects, &path, None)
            .await
            .map_err(|e| Error::from(e).context(format!("manifest version {version}")))?;
        Snapshot::new(manifest, mark)
    }

    /// Puts version M+1 with `updates` on top of `on`, version M. An error does not say for certain that it did not land.
    pub(crate) async fn put_manifest(
        &self,
        on: &Snapshot,
        updates: Updates,
        properties: HashMap<String, String>,
    ) -> Result<Snapshot> {
        let mut manifest = on.manifest.as_ref().clone();
        manifest.version += 1;
        manifest.set_timestamp(u128::from(self.clock().now_ms()) * 1_000_000);
        manifest.transaction_file = None;
        let mut update_entries = Vec::with_capacity(updates.len());
        for (key, value) in updates {
            match &value {
                Some(value) => manifest.config_mut().insert(key.clone(), value.clone()),
                None => manifest.config_mut().remove(&key),
            };
            update_entries.push(UpdateMapEntry { key, value });
        }
        let operation = Operation::UpdateConfig {
            config_updates: Some(UpdateMap {
                update_entries,
                replace: false,
            }),
            table_metadata_updates: None,
            schema_metadata_updates: None,
            field_metadata_updates: HashMap::new(),
        };
        let transaction = TransactionBuilder::new(on.version(), operation)
            .transaction_properties(Some(Arc::new(properties)))
            .build();
        let slot = manifest.version;
        // Where listings have no order Lance leaves a version hint after each commit. Nobody reads the manifest's.
        let mut objects = self.objects.as_ref().clone();
        objects.list_is_lexically_ordered = true;
        let guard = GuardedCommitHandler::new(self.inner_handler.clone(), self.counters.clone());
        let put = guard
            .at(Slot::ours(slot))
            .commit(
                &mut manifest,
                None,
                &self.object_path(MANIFEST_PATH),
                &objects,
                write_manifest_file_to_path,
                NAMING,
                Some(pb::Transaction::try_from(&transaction)?.into()),
            )
            .await;
        let refused = match put {
            Ok(_) => return Snapshot::new(manifest, on.mark.clone()),
            Err(CommitError::CommitConflict) => {
                Error::conflict(format!("manifest version {slot} was made by someone else"))
            }
            Err(CommitError::OtherError(e)) => e.into(),
        };
        // The response may have been lost, and a client's own second try sees a conflict with its first.
        if self.is_manifest_of(slot, &transaction.uuid).await {
            self.sync_found().await?;
            return Snapshot::new(manifest, on.mark.clone());
        }
        Err(refused)
    }

    /// Whether manifest version `slot` was made by the transaction `uuid`; no when that cannot be read.
    async fn is_manifest_of(&self, slot: u64, uuid: &str) -> bool {
        let Ok(Some(handle)) = self.any_handle(MANIFEST_PATH).await else {
            return false;
        };
        let read = handle.read_version_transaction(slot).await;
        read.is_ok_and(|r| r.transaction.is_some_and(|t| t.uuid == uuid))
    }

    /// The newest manifest that this process has seen; others may have published since.
    pub(crate) async fn remembered(&self) -> Option<Snapshot> {
        self.manifest.lock().await.clone()
    }

    /// Keeps what this process published, so that its next load reads nothing.
    pub(crate) async fn remember(&self, snapshot: &Snapshot) {
        *self.manifest.lock().await = Some(snapshot.clone());
    }

    pub(super) async fn create_manifest(&self) -> Result<()> {
        let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new(
            "reserved",
            arrow_schema::DataType::Boolean,
            true,
        )]);
        let operation = Operation::Overwrite {
            fragments: Vec::new(),
            schema: (&schema).try_into()?,
            config_upsert_values: Some(State::initial(self.new_op())),
            initial_bases: None,
        };
        let transaction = TransactionBuilder::new(0, operation).build();
        CommitBuilder::new(self.writing_uri(MANIFEST_PATH)?.as_str())
            .with_commit_handler(Arc::new(self.guard().at(Slot::ours(1))))
            .with_store_params(self.params.clone())
            .with_session(self.session.clone())
            .with_max_retries(0)
            .execute(transaction)
            .await?;
        Ok(())
    }
}
