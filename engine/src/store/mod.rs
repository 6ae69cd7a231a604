//! The store: storage access, the guarded commit handler, the manifest's state, sidecars and table handles.
//!
//! 1. `Store::open` checks the URI's scheme, probes put-if-absent and loads the manifest.
//! 2. `Store::load` gives a `Snapshot`: the manifest's latest version M and its `State`.
//! 3. `Store::scan` gives the versions of one table above some version, classified.
//! 4. `Store::open_at` opens a table at a version; every handle carries the guarded commit handler.
//!
//! Nothing here publishes; that is the room of `commit` and `recovery`.

pub mod guard;
pub mod location;
pub mod sidecar;
pub mod state;
mod tables;

pub use guard::{CommitCounters, GuardedCommitHandler};
pub use sidecar::{Sidecar, SidecarKind, SidecarTable};
pub use state::{State, TableEntry, Updates};
pub(crate) use tables::{StrictCommit, data_files_of, marks, read_version};

use crate::clock::{Clock, Entropy, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::OpId;
use futures::{StreamExt, TryStreamExt};
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::dataset::{CommitBuilder, Dataset};
use lance::session::Session;
use lance_io::object_store::{
    ObjectStore, ObjectStoreParams, StorageOptionsAccessor, WrappingObjectStore,
};
use lance_table::io::commit::{CommitHandler, commit_handler_from_url};
use object_store::{ObjectStoreExt, path::Path};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};

/// The internal directory of a store.
pub const INTERNAL: &str = "_squire";
/// The manifest's path below the store's root.
pub const MANIFEST_PATH: &str = "_squire/manifest.lance";
/// The commit log's path below the store's root.
pub const COMMITS_PATH: &str = "_squire/commits.lance";

/// How a process uses a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Storage options for Lance's object stores (credentials, endpoint, region).
    pub storage_options: HashMap<String, String>,
    /// How long an undecided operation of someone else is left alone, on this process's monotonic clock.
    pub grace: Duration,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// Seed of ids and jitter; `None` takes the machine's randomness.
    pub seed: Option<u64>,
    /// Who commits, for the commit log.
    pub actor: String,
    /// Wraps every object store: request counting and fault injection.
    pub wrapper: Option<Arc<dyn WrappingObjectStore>>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            storage_options: HashMap::new(),
            grace: Duration::from_secs(30),
            clock: Arc::new(SystemClock::default()),
            seed: None,
            actor: String::from("squire"),
            wrapper: None,
        }
    }
}

/// The manifest at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The manifest dataset at version M.
    pub(crate) manifest: Arc<Dataset>,
    /// The facts that it holds.
    pub state: Arc<State>,
}

impl Snapshot {
    /// M, the manifest's version.
    pub fn version(&self) -> u64 {
        self.manifest.manifest().version
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    uri: String,
    base: Path,
    pub(crate) objects: Arc<ObjectStore>,
    params: ObjectStoreParams,
    session: Arc<Session>,
    inner_handler: Arc<dyn CommitHandler>,
    counters: Arc<CommitCounters>,
    options: StoreOptions,
    pub(crate) entropy: Entropy,
    probed: OnceCell<()>,
    manifest: Mutex<Option<Arc<Dataset>>>,
    tables: Mutex<HashMap<String, Arc<Dataset>>>,
}

impl Store {
    /// Makes a store in an empty or table-holding directory or prefix.
    ///
    /// # Errors
    /// `Refused` when one is there already, or `_squire` holds something that is not ours.
    pub async fn init(uri: &str, options: StoreOptions) -> Result<Arc<Self>> {
        let store = Self::connect(uri, options).await?;
        if store.is_ours().await? {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{uri} is a squire store already"),
            ));
        }
        store.ensure_probed().await?;
        store.create_manifest().await?;
        store.load().await?;
        Ok(Arc::new(store))
    }

    /// Opens a store.
    ///
    /// # Errors
    /// `NotFound` without `_squire`, `Refused` when `_squire` is not ours (and, at the first commit, when the storage
    /// has no conditional puts),
    /// `FormatTooNew` when a newer squire wrote it.
    pub async fn open(uri: &str, options: StoreOptions) -> Result<Arc<Self>> {
        let store = Self::connect(uri, options).await?;
        if !store.is_ours().await? {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{uri} is not a squire store; make one with `squire init {uri}`"),
            ));
        }
        store.load().await?;
        Ok(Arc::new(store))
    }

    /// Connects without requiring a store: for watched directories.
    pub async fn connect(uri: &str, options: StoreOptions) -> Result<Self> {
        let uri = location::normalise(uri)?;
        let mut params = ObjectStoreParams {
            object_store_wrapper: options.wrapper.clone(),
            ..ObjectStoreParams::default()
        };
        if !options.storage_options.is_empty() {
            params.storage_options_accessor = Some(Arc::new(
                StorageOptionsAccessor::with_static_options(options.storage_options.clone()),
            ));
        }
        let session = Arc::new(Session::default());
        let (objects, base) =
            ObjectStore::from_uri_and_params(session.store_registry(), &uri, &params)
                .await
                .map_err(|e| Error::from(e).context(format!("cannot reach {uri}")))?;
        let inner_handler = commit_handler_from_url(&uri, &Some(params.clone())).await?;
        let entropy = Entropy::new(options.seed);
        Ok(Self {
            uri,
            base,
            objects,
            params,
            session,
            inner_handler,
            counters: Arc::default(),
            options,
            entropy,
            probed: OnceCell::new(),
            manifest: Mutex::new(None),
            tables: Mutex::new(HashMap::new()),
        })
    }

    /// The store's URI, without a trailing slash.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI of a path below the root.
    pub fn uri_of(&self, path: &str) -> String {
        format!("{}/{path}", self.uri)
    }

    pub(crate) fn object_path(&self, path: &str) -> Path {
        path.split('/')
            .fold(self.base.clone(), |base, part| base.join(part))
    }

    /// How this process uses the store.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// The source of time.
    pub fn clock(&self) -> &dyn Clock {
        self.options.clock.as_ref()
    }

    /// Object-store requests since the last call, as (reads, writes).
    pub fn take_requests(&self) -> (u64, u64) {
        let counted = self.objects.io_stats_incremental();
        (counted.read_iops, counted.write_iops)
    }

    /// What this process committed, and what the guard refused.
    pub fn counters(&self) -> &CommitCounters {
        &self.counters
    }

    /// A pause between half of `base` and `base`.
    pub fn jitter(&self, base: Duration) -> Duration {
        self.entropy.jitter(base)
    }

    /// A new operation's id.
    pub fn new_op(&self) -> OpId {
        self.entropy.op_id(self.clock().now_ms())
    }

    /// A commit handler that refuses every version but `slot`, where one is given.
    pub(crate) fn handler(&self, slot: Option<u64>) -> Arc<dyn CommitHandler> {
        Arc::new(GuardedCommitHandler::new(
            self.inner_handler.clone(),
            slot,
            self.counters.clone(),
        ))
    }

    pub(crate) fn builder(&self, path: &str) -> DatasetBuilder {
        DatasetBuilder::from_uri(self.uri_of(path))
            .with_store_params(self.params.clone())
            .with_commit_handler(self.handler(None))
            .with_session(self.session.clone())
    }

    pub(crate) fn params(&self) -> &ObjectStoreParams {
        &self.params
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        self.session.clone()
    }

    /// Loads the manifest's latest version.
    pub async fn load(&self) -> Result<Snapshot> {
        self.load_latest().await.map_err(|e| e.context(&self.uri))
    }

    async fn load_latest(&self) -> Result<Snapshot> {
        let cached = self.manifest.lock().await.clone();
        let known = cached.as_ref().map(|dataset| dataset.manifest().version);
        let manifest = match cached {
            Some(dataset) => {
                let mut dataset = dataset.as_ref().clone();
                dataset.checkout_latest().await?;
                Arc::new(dataset)
            }
            None => Arc::new(self.builder(MANIFEST_PATH).load().await?),
        };
        let version = manifest.manifest().version;
        if known == Some(version) {
            return self.remember_manifest(manifest).await;
        }
        let state = State::parse(version, &manifest.manifest().config)?;
        let before = version - 1;
        // A version that another process published: it must stand on what was there before it.
        if before > 0 && before >= state.manifest_floor {
            let naming = manifest.manifest_location().naming_scheme;
            let base = self.object_path(MANIFEST_PATH);
            let objects = self.objects.inner.as_ref();
            if !self
                .inner_handler
                .version_exists(&base, before, objects, naming)
                .await?
            {
                return Err(self.history_gone(before));
            }
        }
        self.remember_manifest(manifest).await
    }

    /// The newest versions of the manifest, newest first.
    pub(crate) async fn latest_manifest_versions(&self, count: usize) -> Result<Vec<u64>> {
        let base = self.object_path(MANIFEST_PATH);
        if self.objects.is_local() {
            // A local listing stats every version; names alone tell the latest.
            let latest = self
                .inner_handler
                .resolve_latest_location(&base, &self.objects)
                .await?;
            let mut versions = vec![latest.version];
            for version in (1..latest.version).rev().take(count - 1) {
                let objects = self.objects.inner.as_ref();
                if !self
                    .inner_handler
                    .version_exists(&base, version, objects, latest.naming_scheme)
                    .await?
                {
                    break;
                }
                versions.push(version);
            }
            return Ok(versions);
        }
        let listed = self
            .inner_handler
            .list_manifest_locations(&base, &self.objects, true);
        let newest: Vec<u64> = listed
            .map_ok(|location| location.version)
            .take(count)
            .try_collect()
            .await?;
        Ok(newest)
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

    pub(crate) async fn remember_manifest(&self, manifest: Arc<Dataset>) -> Result<Snapshot> {
        let state = Arc::new(State::parse(
            manifest.manifest().version,
            &manifest.manifest().config,
        )?);
        *self.manifest.lock().await = Some(manifest.clone());
        Ok(Snapshot { manifest, state })
    }

    /// The snapshot at an older manifest version.
    pub async fn snapshot_at(&self, version: u64) -> Result<Snapshot> {
        let latest = self.load().await?;
        if version < latest.state.manifest_floor {
            return Err(Error::new(
                ErrorKind::Expired,
                format!(
                    "manifest version {version} is below the floor {}; take a fresh snapshot",
                    latest.state.manifest_floor
                ),
            ));
        }
        if version == latest.version() {
            return Ok(latest);
        }
        let manifest = Arc::new(latest.manifest.checkout_version(version).await?);
        let state = Arc::new(State::parse(version, &manifest.manifest().config)?);
        Ok(Snapshot { manifest, state })
    }

    /// The Lance datasets directly below the root, by path; a store's internal ones are not among them.
    pub async fn datasets(&self) -> Result<Vec<String>> {
        let listed = self.objects.list_with_delimiter(Some(&self.base)).await?;
        let names = listed.common_prefixes.iter().filter_map(|p| p.filename());
        Ok(names
            .filter(|n| n.ends_with(".lance"))
            .map(str::to_owned)
            .collect())
    }

    /// Whether the root itself is a Lance dataset.
    pub async fn is_dataset(&self) -> Result<bool> {
        let listed = self
            .objects
            .list_with_delimiter(Some(&self.base.clone().join("_versions")))
            .await?;
        Ok(!listed.objects.is_empty())
    }

    async fn is_ours(&self) -> Result<bool> {
        let versions = self.object_path(&format!("{MANIFEST_PATH}/_versions"));
        let listed = self.objects.list_with_delimiter(Some(&versions)).await?;
        if !listed.objects.is_empty() {
            return Ok(true);
        }
        let internal = self
            .objects
            .list_with_delimiter(Some(&self.object_path(INTERNAL)))
            .await?;
        if internal.objects.is_empty()
            && internal
                .common_prefixes
                .iter()
                .all(|p| p.as_ref().ends_with("/probe"))
        {
            return Ok(false);
        }
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "{}/{INTERNAL} exists but holds no squire manifest; move it away or choose another directory",
                self.uri
            ),
        ))
    }

    /// Proves once for this process, before its first commit, that put-if-absent refuses a second put: everything
    /// rests on it. Readers put nothing, so a full or read-only storage can still be looked at.
    pub(crate) async fn ensure_probed(&self) -> Result<()> {
        self.probed.get_or_try_init(|| self.probe()).await.copied()
    }

    async fn probe(&self) -> Result<()> {
        let path = self.object_path(&format!("{INTERNAL}/probe/{}", self.new_op()));
        self.put_if_absent(&path, b"probe".to_vec()).await?;
        let second = self.put_if_absent(&path, b"again".to_vec()).await;
        self.objects.inner.delete(&path).await?;
        match second {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
            Err(e) => Err(e.context("probing the storage")),
            Ok(()) => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the storage of {} accepts two puts of one new object, so concurrent commits would overwrite each other; use storage with conditional puts",
                    self.uri
                ),
            )),
        }
    }

    /// Puts a new object; `Conflict` when one is there.
    pub(crate) async fn put_if_absent(&self, path: &Path, bytes: Vec<u8>) -> Result<()> {
        let put = self.objects.put_if_absent(path, bytes.into()).await;
        put.map_err(|e| match e {
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. } => {
                Error::conflict(format!("{path} exists")).caused_by(e)
            }
            other => Error::from(other).context(format!("putting {path}")),
        })
    }

    async fn create_manifest(&self) -> Result<()> {
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
        CommitBuilder::new(self.uri_of(MANIFEST_PATH).as_str())
            .with_commit_handler(self.handler(Some(1)))
            .with_store_params(self.params.clone())
            .with_session(self.session.clone())
            .with_max_retries(0)
            .execute(transaction)
            .await?;
        Ok(())
    }
}
