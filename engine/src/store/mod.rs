//! The store: storage access, the guarded commit handler, the manifest's state, sidecars and table handles.
//!
//! 1. `Store::open` checks the URI's scheme, probes put-if-absent and loads the manifest.
//! 2. `Store::load` gives a `Snapshot`: the manifest's latest version M and its `State`; `put_manifest` makes M+1.
//! 3. `Store::scan` gives the versions of one table above some version, classified.
//! 4. `Store::datasets` finds the tables below the root.
//! 5. `Store::open_at` opens a table at a version; every handle carries the guarded commit handler.
//!
//! Nothing here publishes; that is the room of `commit` and `recovery`.

mod answer;
mod at_work;
mod beside;
mod branches;
mod claims;
pub mod discovery;
pub mod durability;
pub mod faults;
mod files;
pub mod guard;
mod handles;
mod heads;
mod held;
mod lasting;
pub mod lease;
pub mod location;
mod manifest;
mod memory;
mod newest;
mod records;
mod rehearsal;
mod shelf;
pub mod sidecar;
mod stamp;
mod standing;
pub mod state;
mod tables;

use at_work::AtWork;
pub(crate) use beside::is_incarnation;
pub(crate) use branches::{BRANCHES, branch_path, branches_of, is_of_table};
pub use claims::{Claim, Claimed};
pub use durability::Durability;
pub(crate) use durability::version_named;
pub(crate) use files::{FileFacts, Width, fragment_bytes, own_file};
pub use guard::{CommitCounters, GuardedCommitHandler, Slot};
pub(crate) use guard::{Gate, SlotChoice};
use handles::Handles;
use heads::Heads;
pub(crate) use held::check_floors;
pub(crate) use lasting::Lasting;
pub use lease::{Lease, StandingLease};
pub use manifest::Snapshot;
pub use memory::Memory;
pub use records::RecordsAt;
pub(crate) use records::{Records, content_of, is_denied, unless_denied};
use shelf::Shelf;
use sidecar::Untidy;
pub(crate) use sidecar::together;
pub use sidecar::{Member, Sidecar, SidecarKind, SidecarTable};
pub(crate) use stamp::{Opened, Stamp, TABLE_FOLDERS};
pub(crate) use standing::{Pinned, Standing};
pub use state::{State, TableEntry, Updates};
pub use tables::Gathered;
pub(crate) use tables::{
    StrictCommit, data_files_of, fragments_of, marks, read_version, tags_of, transaction_id,
};

use crate::clock::{Clock, Entropy, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{EventSink, ProtocolEvent};
use crate::ids::OpId;
use lance::dataset::builder::DatasetBuilder;
use lance::session::Session;
use lance_io::object_store::{
    ObjectStore, ObjectStoreParams, StorageOptionsAccessor, WrappingObjectStore,
};
use lance_table::io::commit::{CommitHandler, commit_handler_from_url};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
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
    /// What an acknowledged commit outlives, on local disks.
    pub durability: Durability,
    /// What the process may hold; all of its stores have the same.
    pub memory: Memory,
    /// Wraps every object store: request counting and fault injection.
    pub wrapper: Option<Arc<dyn WrappingObjectStore>>,
    /// Is told of every step of the protocol.
    pub events: Option<Arc<dyn EventSink>>,
    /// Where runs on plain tables are recorded that may write no record beside them.
    pub state_dir: Option<PathBuf>,
    /// Bytes up to which an index is written whole when rows come to it: that costs little more than its requests, and
    /// fragments that one segment covers can be merged.
    pub whole_index: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            storage_options: HashMap::new(),
            grace: Duration::from_secs(30),
            clock: Arc::new(SystemClock::default()),
            seed: None,
            actor: String::from("squire"),
            durability: Durability::default(),
            memory: Memory::default(),
            wrapper: None,
            events: None,
            state_dir: None,
            whole_index: 4 << 20,
        }
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    uri: String,
    base: Path,
    pub(crate) objects: Arc<ObjectStore>,
    /// The storage with every request going through the object-store interface, where a wrapper sees it. Lance goes
    /// past it on plain local paths.
    pub(crate) interface: Arc<ObjectStore>,
    params: ObjectStoreParams,
    session: Arc<Session>,
    inner_handler: Arc<dyn CommitHandler>,
    counters: Arc<CommitCounters>,
    options: StoreOptions,
    pub(crate) entropy: Entropy,
    probed: OnceCell<()>,
    /// The store's records.
    pub(crate) records: Records,
    /// Those of runs on plain tables, beside the tables and, where that may not be, in the state directory.
    records_beside: Records,
    records_elsewhere: OnceCell<Option<Records>>,
    /// Whether it was said that there is no room for them.
    is_unrecorded: AtomicBool,
    manifest: Mutex<Option<Snapshot>>,
    tables: Handles,
    /// What rooms above know of it.
    pub(crate) shelf: Shelf,
    heads: Heads,
    /// What planning looked up of data files.
    pub(crate) files: FileFacts,
    /// The maintenance runs that this process has under way.
    pub(crate) at_work: AtWork,
    untidy: Untidy,
}

/// Requests to a location's storage and what they moved, as Lance counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that read or listed.
    pub reads: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Requests that wrote or deleted.
    pub writes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
}

impl Store {
    /// Makes a store in an empty or table-holding directory or prefix.
    ///
    /// # Errors
    /// `Refused` when one is there already, when `_squire` holds something that is not ours, and in a table or a store.
    pub async fn init(uri: &str, options: StoreOptions) -> Result<Arc<Self>> {
        let store = Self::connect(uri, options).await?;
        if store.is_ours().await? {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{uri} is a squire store already"),
            ));
        }
        store.check_surroundings().await?;
        if let Err(e) = store.ensure_probed().await {
            store.is_object_store().await?;
            return Err(e);
        }
        store.create_manifest().await?;
        store.load().await?;
        Ok(Arc::new(store))
    }

    /// Opens a store.
    ///
    /// # Errors
    /// `NotFound` without `_squire`, `InvalidInput` for an endpoint without a scheme and the like, `Refused` when `_squire` is not ours (and, at the first commit, when the storage
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
        store.load().await.map_err(Error::of_what_stands)?;
        Ok(Arc::new(store))
    }

    /// Connects without requiring a store: for watched directories.
    pub async fn connect(uri: &str, options: StoreOptions) -> Result<Self> {
        let uri = location::checked(uri, &options).await?;
        let mut params = ObjectStoreParams {
            object_store_wrapper: durability::wrapper(
                &uri,
                options.durability,
                options.wrapper.clone(),
            ),
            ..ObjectStoreParams::default()
        };
        if !options.storage_options.is_empty() {
            params.storage_options_accessor = Some(Arc::new(
                StorageOptionsAccessor::with_static_options(options.storage_options.clone()),
            ));
        }
        let session = options.memory.session(Arc::default());
        let connecting = async {
            let registry = session.store_registry();
            let connected = ObjectStore::from_uri_and_params(registry, &uri, &params).await;
            connected.map_err(|e| Error::from(e).context(format!("cannot reach {uri}")))
        };
        let (objects, base) = answer::first_answer(&uri, &options, connecting).await?;
        let interface = if objects.has_direct_local_paths() {
            let root = "file-object-store:///";
            let registry = session.store_registry();
            ObjectStore::from_uri_and_params(registry, root, &params)
                .await?
                .0
        } else {
            objects.clone()
        };
        let inner_handler = commit_handler_from_url(&uri, &Some(params.clone())).await?;
        let entropy = Entropy::new(options.seed);
        let beside = base.clone().join(records::BESIDE);
        Ok(Self {
            uri,
            records: Records::of_store(objects.clone(), &base),
            records_beside: Records::of_plain_tables(objects.clone(), beside),
            records_elsewhere: OnceCell::new(),
            is_unrecorded: AtomicBool::new(false),
            base,
            objects,
            interface,
            params,
            session,
            inner_handler,
            counters: Arc::default(),
            tables: options.memory.handles(),
            files: FileFacts::of(options.memory.facts()),
            options,
            entropy,
            probed: OnceCell::new(),
            manifest: Mutex::new(None),
            shelf: Shelf::default(),
            heads: Heads::default(),
            at_work: AtWork::default(),
            untidy: Untidy::default(),
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
        // As Lance spells it. Joined part by part, the `~` of a path that was made again would be escaped, and name nothing.
        let whole = match self.base.as_ref() {
            "" => path.to_owned(),
            base => format!("{base}/{path}"),
        };
        Path::parse(whole).unwrap_or_else(|_| {
            path.split('/')
                .fold(self.base.clone(), |base, part| base.join(part))
        })
    }

    /// How this process uses the store.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Tells of a step that is durable now.
    pub(crate) fn tell(&self, event: impl FnOnce() -> ProtocolEvent) {
        if let Some(sink) = &self.options.events {
            sink.record(&event());
        }
    }

    /// The source of time.
    pub fn clock(&self) -> &dyn Clock {
        self.options.clock.as_ref()
    }

    /// What was asked of the storage since the last call.
    pub fn take_traffic(&self) -> Traffic {
        let counted = self.objects.io_stats_incremental();
        Traffic {
            reads: counted.read_iops,
            read_bytes: counted.read_bytes,
            writes: counted.write_iops,
            written_bytes: counted.written_bytes,
        }
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

    /// A guard of the store's commits.
    pub(crate) fn guard(&self) -> GuardedCommitHandler {
        GuardedCommitHandler::new(self.inner_handler.clone(), self.counters.clone())
            .with_versions_in(self.objects.clone())
    }

    pub(crate) fn builder(&self, path: &str) -> DatasetBuilder {
        DatasetBuilder::from_uri(self.uri_of(path))
            .with_store_params(self.params.clone())
            .with_commit_handler(Arc::new(self.guard()))
            .with_session(self.session.clone())
    }

    pub(crate) fn params(&self) -> &ObjectStoreParams {
        &self.params
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        self.session.clone()
    }

    /// What the process may hold.
    pub(crate) fn memory(&self) -> &Memory {
        &self.options.memory
    }

    /// Whether the root itself is a Lance dataset.
    pub async fn is_dataset(&self) -> Result<bool> {
        let listed = self
            .objects
            .list_with_delimiter(Some(&self.base.clone().join("_versions")))
            .await?;
        Ok(!listed.objects.is_empty())
    }

    /// Refuses a root that is a table, or lies in one or in a store: what stands there is not ours to keep, and cleanup of
    /// the table removes it. What may not be listed above the root is not asked about.
    async fn check_surroundings(&self) -> Result<()> {
        let real = location::canonical(&self.uri);
        let root = match real.contains("://") {
            true => self.base.to_string(),
            false => real.trim_start_matches('/').to_owned(),
        };
        let mut folder: &str = &root;
        while !folder.is_empty() {
            let (above, name) = folder.rsplit_once('/').unwrap_or(("", folder));
            let (what, at) = if name == records::BESIDE {
                ("the records of maintenance runs", folder)
            } else if self.is_table(folder).await {
                ("a Lance table", folder)
            } else if self.is_table(&discovery::below(above, MANIFEST_PATH)).await {
                ("a store", above)
            } else {
                folder = above;
                continue;
            };
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "{} is in {what}, at /{at}; a store is a directory of its own, with its tables in it: choose one beside it",
                    self.uri
                ),
            ));
        }
        Ok(())
    }

    /// Whether a listing of `folder`, a whole path, shows versions.
    async fn is_table(&self, folder: &str) -> bool {
        let Ok(versions) = Path::parse(format!("{folder}/_versions")) else {
            return false;
        };
        let listed = self.objects.list_with_delimiter(Some(&versions)).await;
        listed.is_ok_and(|listed| !listed.objects.is_empty())
    }

    /// Fails when what answers is no object store: the sign-in page of a network answers every request, with a page.
    ///
    /// # Errors
    /// `Storage`, naming what was asked for.
    pub async fn is_object_store(&self) -> Result<()> {
        let absent = self.object_path(&format!("{INTERNAL}/no-such-object-{}", self.new_op()));
        match self.objects.inner.get(&absent).await {
            Ok(_) => Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "what answers for {} is no object store: it has an answer for an object that does not exist; is a proxy or a sign-in page in between?",
                    self.uri
                ),
            )),
            Err(_) => Ok(()),
        }
    }

    /// Removes everything below `path`; that it is gone already, because someone else was faster, is fine.
    pub(crate) async fn remove_dir(&self, path: &str) -> Result<()> {
        match self.objects.remove_dir_all(self.object_path(path)).await {
            Ok(()) | Err(lance::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether versions of a manifest stand below the root: then it is a store, whatever it was when it was connected to.
    /// Whoever opens a location asks this first.
    pub async fn has_manifest(&self) -> Result<bool> {
        let asking = self.has_manifest_in("");
        answer::first_answer(&self.uri, &self.options, asking).await
    }

    async fn has_manifest_in(&self, folder: &str) -> Result<bool> {
        let versions = discovery::below(folder, &format!("{MANIFEST_PATH}/_versions"));
        let versions = self.object_path(&versions);
        let listed = self.objects.list_with_delimiter(Some(&versions)).await?;
        Ok(!listed.objects.is_empty())
    }

    /// Refuses to maintain the table at `path` as a plain one when it belongs to a store: its readers would lose the
    /// version that the store pins. A root may have become a store since it was connected to.
    pub(crate) async fn check_plain(&self, path: &str) -> Result<()> {
        // The commit log has no pin.
        if path == COMMITS_PATH {
            return Ok(());
        }
        let belongs_to = |store: &str| {
            Error::new(
                ErrorKind::Refused,
                format!(
                    "{path} belongs to the store {store}, which pins its tables; it is maintained as a table of that store only"
                ),
            )
        };
        let mut folder = path;
        while !folder.is_empty() {
            folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
            if self.has_manifest_in(folder).await? {
                let store = discovery::below(&self.uri, folder);
                return Err(belongs_to(store.trim_end_matches('/')));
            }
        }
        match location::store_behind(&discovery::below(&self.uri, path)).await? {
            Some(store) => Err(belongs_to(&store.to_string_lossy())),
            None => Ok(()),
        }
    }

    pub(crate) async fn is_ours(&self) -> Result<bool> {
        let strange = || {
            Error::new(
                ErrorKind::Refused,
                format!(
                    "{}/{INTERNAL} exists but holds no squire manifest; move it away or choose another directory",
                    self.uri
                ),
            )
        };
        if self.objects.has_direct_local_paths() {
            let path = format!("/{}", self.object_path(INTERNAL));
            let there = tokio::fs::metadata(&path).await;
            if there.as_ref().is_ok_and(|there| !there.is_dir()) {
                return Err(strange());
            }
            // Whoever begins a store makes the folder with something in it: this one has lost what it held.
            let mut inside = tokio::fs::read_dir(&path).await;
            if let Ok(inside) = &mut inside
                && inside.next_entry().await.is_ok_and(|entry| entry.is_none())
            {
                return Err(strange());
            }
        }
        if self.has_manifest().await? {
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
        Err(strange())
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

    /// Puts a new object as versions are put; `Conflict` when one is there.
    pub(crate) async fn put_if_absent(&self, path: &Path, bytes: Vec<u8>) -> Result<()> {
        put_absent(&self.objects, path, bytes).await
    }
}

/// A path as its storage's users write it: object_store leaves out the slash that those of a local disk begin with.
fn shown(objects: &ObjectStore, path: &Path) -> String {
    match objects.has_direct_local_paths() {
        true => format!("/{path}"),
        false => path.to_string(),
    }
}

/// [`put_new`]; `Conflict` when an object is there.
async fn put_absent(objects: &ObjectStore, path: &Path, bytes: Vec<u8>) -> Result<()> {
    put_new(objects, path, bytes).await.map_err(|e| match e {
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            Error::conflict(format!("{} exists", shown(objects, path))).caused_by(e)
        }
        other => Error::from(other).context(format!("putting {}", shown(objects, path))),
    })
}

/// One put that another object at `path` refuses. Lance's own `put_if_absent` puts a local file under a second name
/// first and then renames it.
pub(crate) async fn put_new(
    objects: &ObjectStore,
    path: &Path,
    bytes: Vec<u8>,
) -> object_store::Result<()> {
    let new = PutOptions::from(PutMode::Create);
    let put = objects.inner.put_opts(path, bytes.into(), new).await;
    put.map(drop)
}
