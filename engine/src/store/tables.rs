//! Table handles, scans and strict commits of single versions.

use super::{Gate, GuardedCommitHandler, Opened, Slot, Store, state::TableEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{OpId, TableName};
use crate::protocol::{
    Chain, Class, Effect, Kind, Marks, PROP_KIND, PROP_OP, PROP_STORE, classify,
};
use lance::dataset::transaction::{Operation, Transaction, TransactionBuilder};
use lance::dataset::{CommitBuilder, Dataset, VersionTransaction};
use lance_select::RowAddrTreeMap;
use lance_table::format::{Fragment, Manifest};
use lance_table::io::manifest::read_manifest;
use std::collections::HashMap;
use std::sync::Arc;

/// A strict commit of one version.
#[derive(Debug)]
pub(crate) struct StrictCommit {
    /// Commit through this handle; `None` creates the dataset at `path`.
    pub(crate) handle: Option<Arc<Dataset>>,
    /// The dataset below the store's root.
    pub(crate) path: String,
    /// The transaction, with its properties.
    pub(crate) transaction: Transaction,
    /// Rows that a delete or an update touched, for Lance's finer conflict check.
    pub(crate) affected_rows: Option<RowAddrTreeMap>,
    /// The only version that it may become.
    pub(crate) slot: u64,
    /// What it waits for before it is put, if for anything.
    pub(crate) gate: Option<Gate>,
    /// The version that has to stand when it is put.
    pub(crate) on: Option<Opened>,
}

/// What a table has gathered since it was last maintained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathered {
    /// Its fragments.
    pub fragments: u64,
    /// The versions from its floor to its pin; others may have been removed in between.
    pub versions: u64,
}

/// The properties that every version of ours carries.
pub(crate) fn marks(store: OpId, op: OpId, kind: Kind) -> HashMap<String, String> {
    HashMap::from([
        (PROP_STORE.to_owned(), store.to_string()),
        (PROP_OP.to_owned(), op.to_string()),
        (PROP_KIND.to_owned(), kind.as_str().to_owned()),
    ])
}

fn marks_of(transaction: &Transaction, store: OpId) -> Option<Marks> {
    let properties = transaction.transaction_properties.as_ref()?;
    if properties.get(PROP_STORE)? != &store.to_string() {
        return None;
    }
    let kind = match properties.get(PROP_KIND)?.as_str() {
        "logical" => Kind::Logical,
        "maintenance" => Kind::Maintenance,
        "undo" => Kind::Undo,
        _ => return None,
    };
    let op = OpId::parse(properties.get(PROP_OP)?).ok()?;
    Some(Marks { op, kind })
}

fn effect_of(operation: &Operation) -> Effect {
    match operation {
        Operation::Rewrite { .. }
        | Operation::ReserveFragments { .. }
        | Operation::CreateIndex { .. } => Effect::PreservesContent,
        Operation::UpdateConfig { .. } => Effect::Config,
        Operation::Restore { .. } => Effect::Restore,
        _ => Effect::ChangesContent,
    }
}

/// The fragments that a write names: those that it adds, and of one that changes columns all.
pub(crate) fn fragments_of(operation: &Operation) -> &[Fragment] {
    match operation {
        Operation::Append { fragments }
        | Operation::Overwrite { fragments, .. }
        | Operation::Merge { fragments, .. } => fragments,
        Operation::Update { new_fragments, .. } => new_fragments,
        _ => &[],
    }
}

/// Their data files, below the dataset.
pub(crate) fn data_files_of(operation: &Operation) -> Vec<String> {
    fragments_of(operation)
        .iter()
        .flat_map(|f| {
            f.files
                .iter()
                .filter(|file| file.base_id.is_none())
                .map(|file| format!("data/{}", file.path))
        })
        .collect()
}

/// The transaction that made a version: the first digits of its UUID, which stands in its file's name behind the version
/// that it read. Eight tell any two apart, and every publish writes those of all tables.
pub(crate) fn transaction_id(manifest: &Manifest) -> Option<String> {
    let name = manifest.transaction_file.as_deref()?;
    let (_, uuid) = name.strip_suffix(".txn")?.split_once('-')?;
    Some(uuid.chars().take(8).collect())
}

/// One version's time and transaction; `None` when the version is gone. Lance reports a missing manifest as any of
/// several errors, so the listing decides.
pub(crate) async fn read_version(
    handle: &Dataset,
    version: u64,
) -> Result<Option<VersionTransaction>> {
    match handle.read_version_transaction(version).await {
        Ok(read) => Ok(Some(read)),
        Err(e) => {
            let listed = handle.version_refs().await?;
            if listed.iter().any(|r| r.version == version) {
                return Err(Error::from(e)
                    .context(format!("reading version {version} of {}", handle.uri())));
            }
            Ok(None)
        }
    }
}

/// Why a table ends below its pin.
enum Below {
    /// It ends in a version of ours, so the manifests above that are missing.
    Lost(u64),
    /// Somebody else's table stands there.
    Replaced,
}

/// The error of a table whose latest version is `latest`, and of which `version` was committed.
fn version_lost(uri: String, version: u64, latest: u64) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "{uri}: version {version}, which was committed, is missing: the latest that is there is {latest}; restore the files in its _versions from a backup, or see `squire repair` to adopt what stands there"
        ),
    )
}

/// That what is in a folder of `_refs` cannot be listed. Lance tells of JSON, and of no file.
pub(super) fn torn_ref(dataset: &Dataset, folder: &str, what: &str, e: lance::Error) -> Error {
    let root = dataset.uri().split("/tree/").next().unwrap_or_default();
    let folder = format!("{}/_refs/{folder}", root.trim_end_matches('/'));
    match e {
        lance::Error::Arrow { .. } => Error::new(
            ErrorKind::Storage,
            format!(
                "a file in {folder} is no {what}: `squire verify` says which; restore it, or remove it"
            ),
        ),
        e => Error::from(e).context(format!("reading {folder}")),
    }
}

/// The versions that the tags of a dataset name.
pub(crate) async fn tags_of(dataset: &Dataset) -> Result<HashMap<String, u64>> {
    let tags = dataset.tags().list().await;
    let tags = tags.map_err(|e| torn_ref(dataset, "tags", "tag", e))?;
    let named = tags.into_iter().map(|(name, tag)| (name, tag.version));
    Ok(named.collect())
}

impl Store {
    /// The dataset at `path` at its latest version.
    pub(crate) async fn latest(&self, path: &str) -> Result<Arc<Dataset>> {
        let handle = self.any_handle(path).await?;
        let handle = handle.ok_or_else(|| self.without_version(path))?;
        let mut dataset = handle.as_ref().clone();
        if let Err(e) = dataset.checkout_latest().await {
            // Removed, or made anew: the next look starts from storage.
            self.forget_handle(path);
            return Err(Error::from(e).context(format!("reading {}", self.uri_of(path))));
        }
        self.check_version(&dataset).await?;
        let dataset = Arc::new(dataset);
        self.tables.keep(path, dataset.clone());
        Ok(dataset)
    }

    /// A handle of the dataset at `path`, at whatever version; `None` when nothing is there.
    pub(crate) async fn any_handle(&self, path: &str) -> Result<Option<Arc<Dataset>>> {
        if let Some(dataset) = self.tables.get(path) {
            return Ok(Some(dataset));
        }
        let Some(dataset) = self.open_latest(path).await? else {
            return Ok(None);
        };
        let dataset = Arc::new(dataset);
        self.tables.keep(path, dataset.clone());
        Ok(Some(dataset))
    }

    /// The dataset at `path` as it is now; `None` when nothing is there.
    ///
    /// # Errors
    /// Those of the storage; a latest version that is torn or damaged is named with its file.
    pub(crate) async fn open_latest(&self, path: &str) -> Result<Option<Dataset>> {
        self.check_listable(path).await?;
        match self.builder(path).load().await {
            Ok(dataset) => {
                self.check_version(&dataset).await?;
                Ok(Some(dataset))
            }
            Err(lance::Error::DatasetNotFound { .. } | lance::Error::NotFound { .. }) => Ok(None),
            Err(e) => {
                let base = self.object_path(path);
                let latest = self
                    .inner_handler
                    .resolve_latest_location(&base, &self.objects);
                let error = match latest.await {
                    Ok(latest) => self.unless_torn(&latest.path, e.into()).await,
                    Err(_) => e.into(),
                };
                Err(error.context(format!("opening {}", self.uri_of(path))))
            }
        }
    }

    /// Lance asks again for seconds, several times in a row, about a folder that cannot be listed: one that nobody may, one that is
    /// none, a link to itself.
    pub(crate) async fn check_listable(&self, path: &str) -> Result<()> {
        if !self.objects.has_direct_local_paths() {
            return Ok(());
        }
        let versions = self.object_path(&format!("{path}/_versions"));
        match tokio::fs::read_dir(format!("/{versions}")).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let told = format!("opening {}", self.uri_of(path));
                Err(Error::new(ErrorKind::Storage, "storage failed")
                    .caused_by(e)
                    .context(told))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a version that is another than its name says. One of zeros only is a valid message to Lance: version 0 of
    /// an empty table, which every older version would be cleaned up for.
    ///
    /// # Errors
    /// `Storage`, with the file.
    pub(crate) async fn check_version(&self, dataset: &Dataset) -> Result<()> {
        let (is, location) = (dataset.manifest().version, dataset.manifest_location());
        if is == location.version {
            return Ok(());
        }
        let other = format!(
            "/{} holds version {is}, which is not {}: it is damaged; restore it from a backup, or remove it to go back to the version before",
            location.path, location.version
        );
        let error = Error::new(ErrorKind::Storage, other);
        Err(self.unless_torn(&location.path, error).await)
    }

    /// The error of a table that should be at `path` and of which no version is there.
    pub(crate) fn without_version(&self, path: &str) -> Error {
        let uri = self.uri_of(path);
        let why = "holds no version of a table: half deleted, or never finished; bring its files back, or remove what is left";
        Error::new(ErrorKind::Storage, format!("{uri} {why}"))
    }

    /// What a table has gathered, as far as this process knows without asking; it does of one that it just committed to.
    pub async fn gathered(&self, table: &TableName) -> Option<Gathered> {
        let state = self.remembered().await?.state;
        let entry = state.tables.get(table)?;
        let handle = self.tables.get(&entry.path)?;
        Some(Gathered {
            fragments: handle.manifest().fragments.len() as u64,
            versions: (entry.version + 1).saturating_sub(state.floor(table).max(1)),
        })
    }

    pub(crate) fn forget_handle(&self, path: &str) {
        self.tables.forget(path);
    }

    /// Opens the dataset at `path` at `version`, through the guard.
    pub(crate) async fn open_at(&self, path: &str, version: u64) -> Result<Arc<Dataset>> {
        let handle = self.any_handle(path).await?;
        let handle = handle.ok_or_else(|| self.without_version(path))?;
        if handle.manifest().version == version {
            return Ok(handle);
        }
        let dataset = handle.checkout_version(version).await.map_err(|e| {
            Error::from(e).context(format!(
                "opening version {version} of {}",
                self.uri_of(path)
            ))
        })?;
        let dataset = Arc::new(dataset);
        self.tables.keep(path, dataset.clone());
        Ok(dataset)
    }

    /// Opens a table at its pin.
    ///
    /// # Errors
    /// `Drift` when another table was made at its path.
    pub async fn open_pinned(&self, entry: &TableEntry) -> Result<Arc<Dataset>> {
        let opened = match self.open_at(&entry.path, entry.version).await {
            Ok(dataset) if entry.stands_on(transaction_id(dataset.manifest()).as_deref()) => {
                return Ok(dataset);
            }
            Ok(_) => Err(entry.replaced(self.uri_of(&entry.path))),
            Err(e) => match self.below_pin(entry).await {
                None if self.is_pin_gone(entry).await? => {
                    let latest = self.latest(&entry.path).await?.manifest().version;
                    Err(version_lost(self.uri_of(&entry.path), entry.version, latest).caused_by(e))
                }
                None => Err(e),
                Some(Below::Lost(latest)) => Err(version_lost(
                    self.uri_of(&entry.path),
                    entry.version,
                    latest,
                )),
                Some(Below::Replaced) => Err(entry.replaced(self.uri_of(&entry.path))),
            },
        };
        self.forget_handle(&entry.path);
        opened
    }

    /// What it is when the table's latest version is below its pin; `None` when it is not, or that is not known.
    async fn below_pin(&self, entry: &TableEntry) -> Option<Below> {
        let handle = self.any_handle(&entry.path).await.ok()??;
        let latest = handle.latest_version_id().await.ok()?;
        if latest >= entry.version {
            return None;
        }
        let store = self.remembered().await?.state.store;
        Some(self.why_below(store, &handle, latest).await)
    }

    /// What it is that the table ends at `latest`, below its pin.
    async fn why_below(&self, store: OpId, handle: &Dataset, latest: u64) -> Below {
        let read = read_version(handle, latest).await.ok().flatten();
        let transaction = read.and_then(|read| read.transaction);
        match transaction.and_then(|t| marks_of(&t, store)) {
            Some(_) => Below::Lost(latest),
            None => Below::Replaced,
        }
    }

    /// Whether the table cannot be the one that was pinned, by its number of versions alone.
    async fn falls_short(&self, entry: &TableEntry) -> bool {
        matches!(self.below_pin(entry).await, Some(Below::Replaced))
    }

    /// Whether the pinned version is the one that was committed, as the storage says now. A table that is not there at all,
    /// or cannot be read, is told so by who opens it.
    pub(crate) async fn pin_stands(&self, entry: &TableEntry) -> Result<bool> {
        if entry.transaction.is_none() {
            return Ok(!self.falls_short(entry).await);
        }
        let Some(handle) = self.any_handle(&entry.path).await? else {
            return Ok(true);
        };
        let naming = handle.manifest_location().naming_scheme;
        let path = naming.manifest_path(&self.object_path(&entry.path), entry.version);
        match read_manifest(&self.objects, &path, None).await {
            Ok(manifest) => Ok(entry.stands_on(transaction_id(&manifest).as_deref())),
            Err(_) => Ok(!self.falls_short(entry).await),
        }
    }

    /// Whether the pinned version is gone while others of the table are there: another client's cleanup removed it, or it was
    /// lost with a disk.
    pub(crate) async fn is_pin_gone(&self, entry: &TableEntry) -> Result<bool> {
        let Some(handle) = self.any_handle(&entry.path).await? else {
            return Ok(false);
        };
        let naming = handle.manifest_location().naming_scheme;
        let path = naming.manifest_path(&self.object_path(&entry.path), entry.version);
        Ok(!self.objects.exists(&path).await?)
    }

    /// Refuses to build on a pin that the storage does not show any more, however well it is remembered here.
    ///
    /// # Errors
    /// That of a table that is gone, cut short, or somebody else's.
    pub(crate) async fn check_pin(&self, entry: &TableEntry) -> Result<()> {
        let Some(handle) = self.any_handle(&entry.path).await? else {
            return Err(self.without_version(&entry.path));
        };
        let naming = handle.manifest_location().naming_scheme;
        // Nothing has changed since this process committed it.
        if self.is_head(&entry.path, entry.version, naming).await? {
            return Ok(());
        }
        let path = naming.manifest_path(&self.object_path(&entry.path), entry.version);
        // With the size that is remembered it is one request; another one's manifest of another size cannot be read by it.
        let known = Some(handle.manifest_location()).filter(|known| known.version == entry.version);
        let size = known.and_then(|known| known.size);
        match read_manifest(&self.objects, &path, size).await {
            Ok(manifest) if entry.stands_on(transaction_id(&manifest).as_deref()) => Ok(()),
            Ok(_) => Err(entry.replaced(self.uri_of(&entry.path))),
            Err(e) => {
                // Who opens it anew can say more.
                self.forget_handle(&entry.path);
                match self.any_handle(&entry.path).await? {
                    None => Err(self.without_version(&entry.path)),
                    Some(_) => self.open_pinned(entry).await.and(Err(e.into())),
                }
            }
        }
    }

    /// The transaction that made `version` of the dataset at `path`.
    pub(crate) async fn made_by(&self, path: &str, version: u64) -> Result<Option<String>> {
        let dataset = self.open_at(path, version).await?;
        Ok(transaction_id(dataset.manifest()))
    }

    /// The versions of the dataset at `path` above `from`, classified. A dataset that does not exist has none.
    pub(crate) async fn scan(&self, store: OpId, path: &str, from: u64) -> Result<Chain> {
        let Some(handle) = self.any_handle(path).await? else {
            return Ok(Chain {
                from,
                classes: Vec::new(),
            });
        };
        let naming = handle.manifest_location().naming_scheme;
        if self.is_head(path, from, naming).await? {
            return Ok(Chain {
                from,
                classes: Vec::new(),
            });
        }
        let head = match handle.latest_version_id().await {
            Ok(head) => head,
            Err(lance::Error::NotFound { .. } | lance::Error::DatasetNotFound { .. }) => 0,
            Err(e) => {
                return Err(
                    Error::from(e).context(format!("listing versions of {}", self.uri_of(path)))
                );
            }
        };
        if 0 < head && head < from {
            let uri = self.uri_of(path);
            return Err(match self.why_below(store, &handle, head).await {
                Below::Lost(latest) => version_lost(uri, from, latest),
                Below::Replaced => Error::new(
                    ErrorKind::Drift,
                    format!(
                        "{uri} was dropped and made again: its latest version is {head}, and version {from} was committed; see `squire repair`"
                    ),
                ),
            });
        }
        let mut classes = Vec::new();
        for version in from + 1..=head {
            classes.push(self.class_of(store, &handle, version).await?);
        }
        Ok(Chain { from, classes })
    }

    async fn class_of(&self, store: OpId, handle: &Dataset, version: u64) -> Result<Class> {
        // Fail closed: what is gone or says nothing is not ours.
        Ok(
            match read_version(handle, version)
                .await?
                .and_then(|read| read.transaction)
            {
                Some(t) => classify(effect_of(&t.operation), marks_of(&t, store)),
                None => Class::Foreign,
            },
        )
    }

    /// The transaction of one version.
    pub(crate) async fn transaction_of(
        &self,
        path: &str,
        version: u64,
    ) -> Result<Option<Transaction>> {
        let Some(handle) = self.any_handle(path).await? else {
            return Ok(None);
        };
        Ok(handle.read_transaction_by_version(version).await?)
    }

    /// Commits one version at exactly `slot`, or `Conflict`. Gives the transaction that made it, as pins name it.
    pub(crate) async fn commit_strict(&self, commit: StrictCommit) -> Result<Option<String>> {
        let uri = self.writing_uri(&commit.path)?;
        let existing = commit.handle.is_some();
        let mut builder = match &commit.handle {
            Some(handle) => {
                let slot = Slot {
                    version: commit.slot,
                    naming: handle.manifest_location().naming_scheme,
                };
                let guard = self.guard().at(slot).behind(commit.gate);
                commit.on.into_iter().for_each(|on| guard.stand_on(on));
                let slotted = self.reopen(&commit.path, handle, guard);
                CommitBuilder::new(Arc::new(self.writing(&slotted.await?)))
            }
            None => CommitBuilder::new(uri.as_str())
                .with_store_params(self.params().clone())
                .with_session(self.session())
                .with_commit_handler(Arc::new(
                    self.guard().at(Slot::ours(commit.slot)).behind(commit.gate),
                )),
        };
        builder = builder.with_max_retries(0).with_skip_auto_cleanup(true);
        if let Some(rows) = commit.affected_rows {
            builder = builder.with_affected_rows(rows);
        }
        let dataset = match builder.execute(commit.transaction).await {
            Ok(dataset) => dataset,
            // Lance has no word for "created by someone else meanwhile": it fails on the version 0 that it read.
            Err(e) if !existing && self.any_handle(&commit.path).await?.is_some() => {
                let taken = format!("{} was created by someone else", self.uri_of(&commit.path));
                return Err(Error::conflict(taken).caused_by(e));
            }
            Err(e) => return Err(e.into()),
        };
        self.made_head(&commit.path, commit.slot).await;
        let made = transaction_id(dataset.manifest());
        // The next reader wants just this version, without the slot.
        if existing && let Ok(fresh) = self.reopen(&commit.path, &dataset, self.guard()).await {
            self.tables.keep(&commit.path, Arc::new(fresh));
        }
        Ok(made)
    }

    /// The same version under another guard, without a request while the session holds it.
    async fn reopen(
        &self,
        path: &str,
        dataset: &Dataset,
        guard: GuardedCommitHandler,
    ) -> Result<Dataset> {
        let location = dataset.manifest_location().clone();
        let builder = self.builder(path).with_version(location.version);
        let guard = Arc::new(guard.knowing(location));
        Ok(builder.with_commit_handler(guard).load().await?)
    }

    /// Restores `target` as exactly version `slot`, marked as the undo of `op`.
    pub(crate) async fn restore_strict(
        &self,
        store: OpId,
        op: OpId,
        path: &str,
        target: u64,
        slot: u64,
    ) -> Result<()> {
        let handle = self.open_at(path, slot - 1).await?;
        let transaction = TransactionBuilder::new(slot - 1, Operation::Restore { version: target })
            .transaction_properties(Some(Arc::new(marks(store, op, Kind::Undo))))
            .build();
        let commit = StrictCommit {
            handle: Some(handle),
            path: path.to_owned(),
            transaction,
            affected_rows: None,
            slot,
            gate: None,
            on: None,
        };
        self.commit_strict(commit).await.map(drop)
    }
}
