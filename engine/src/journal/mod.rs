//! The journal of a maintenance run: the name of everything that it writes, put before the first byte of it.
//!
//! Lance names a file when it opens it, so the only place that learns the name in time is the storage below: a run
//! writes through a [`Journal`], which lets no data or index file be put before its name is durable. What a run that died
//! left behind is then what its journal names, finished or not. (The parts of an upload that a bucket never completed are
//! its lifecycle rule's.)
//!
//! A run at work also puts a beat now and then. A journal that moves belongs to the living, however long a file takes.
//!
//! A worker that executes a task of a run elsewhere keeps the same journal: its names and beats stand beside the run's, each
//! under the worker's attempt, and it names nothing once the run's record is gone. Beside them stands what came of each task,
//! put once.
//!
//! `ledger` counts bytes by why they were written.

mod ledger;

pub use ledger::{Account, Amounts};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{OpId, TableName};
use crate::oversight::{Oversight, Paced};
use crate::store::{GuardedCommitHandler, Records, Store, content_of, put_new};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance_io::object_store::{ObjectStore as LanceStore, WrappingObjectStore};
use lance_table::format::Fragment;
use lance_table::io::deletion::{DELETIONS_DIR, relative_deletion_file_path};
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result as StorageResult,
};
use serde::{Deserialize, Serialize};
use squire_failpoints::{Seam, hit};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// The newest journal format that this squire reads. Format 1 had lists of files, put after them.
const FORMAT: u32 = 2;

/// Requests that are under way at one time.
pub(crate) const AT_ONCE: usize = 16;

/// How often a run puts a beat. Recovery waits many times as long before it takes a run for dead.
const BEAT: Duration = Duration::from_secs(10);

/// The table of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunTable {
    /// Its name in the store; a plain table has none.
    #[serde(rename = "table", default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<TableName>,
    /// Its dataset below the root.
    pub(crate) path: String,
    /// The version that it showed when the run began.
    pub(crate) base: u64,
}

/// One name of a journal: put before what it names, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    format: u32,
    table: RunTable,
    /// Below the dataset; see [`name_of`].
    name: String,
}

impl Entry {
    /// `None` for what a power cut left torn: the file that it was to name was not begun.
    fn parse(bytes: &[u8], at: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        match serde_json::from_slice::<Versioned>(bytes) {
            Ok(Versioned { format }) if format > FORMAT => Err(Error::new(
                ErrorKind::FormatTooNew,
                format!(
                    "journal {at} has format {format}, this squire reads up to {FORMAT}; upgrade squire"
                ),
            )),
            Ok(_) => Ok(serde_json::from_slice(bytes).ok()),
            Err(_) => Ok(None),
        }
    }
}

/// How far a run's journal is. It grows while the run is alive.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Progress {
    names: usize,
    beat: Option<DateTime<Utc>>,
}

/// What a run wrote, by its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Journalled {
    /// The run's table.
    pub(crate) table: RunTable,
    /// Names below the dataset; see [`name_of`].
    pub(crate) names: BTreeSet<String>,
}

/// What the object at `path` belongs to, below `dataset`: `data/<key>` for a data file and what stands beside it
/// (`data/<key>.lance`, `data/<key>/...`), `_indices/<uuid>` for a file of an index, a deletion file for itself. Versions and transactions belong
/// to nobody in this sense: the guard and Lance's own rules have them.
pub(crate) fn name_of(dataset: &Path, path: &Path) -> Option<String> {
    let mut parts = path.prefix_match(dataset)?;
    let (area, name) = (parts.next()?, parts.next()?);
    match area.as_ref() {
        "data" => Some(format!("data/{}", name.as_ref().split('.').next()?)),
        "_indices" => Some(format!("_indices/{}", name.as_ref())),
        DELETIONS_DIR => Some(format!("{DELETIONS_DIR}/{}", name.as_ref())),
        _ => None,
    }
}

/// The names, as [`name_of`] gives them, of the files of a fragment.
pub(crate) fn names_of_fragment(fragment: &Fragment) -> Vec<String> {
    let data = fragment.referenced_lance_files();
    let data = data.map(|file| format!("data/{}", file.path.split('.').next().unwrap_or_default()));
    let deletions = fragment.deletion_file.iter();
    let deletions = deletions.map(|file| relative_deletion_file_path(fragment.id, file));
    data.chain(deletions).collect()
}

/// The journal of one run at work. Wraps the object store that the run writes through.
#[derive(Debug)]
pub(crate) struct Journal {
    op: OpId,
    table: RunTable,
    /// Where the names are put; a run without a record knows them while it lives.
    records: Option<Records>,
    /// What the names of its entries begin with: nothing for the run itself.
    keeper: String,
    /// Whether it is kept by a worker, which does not know by itself whether its run is alive.
    is_workers: bool,
    dataset: Path,
    named: Mutex<BTreeSet<String>>,
    /// Puts of versions whose outcome the run does not know.
    doubts: Arc<AtomicU64>,
    /// Names and beats begun.
    puts: AtomicU32,
}

impl Journal {
    /// The run's table.
    pub(crate) fn table(&self) -> &RunTable {
        &self.table
    }

    /// Where the run is recorded.
    pub(crate) fn records(&self) -> Option<&Records> {
        self.records.as_ref()
    }

    /// What the run has named so far.
    pub(crate) async fn names(&self) -> BTreeSet<String> {
        self.named.lock().await.clone()
    }

    /// Whether a version that the run put may land yet.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubts.load(Ordering::Relaxed) > 0
    }

    /// Puts the name of what `path` belongs to, once. The lock is held over the put: a second file of one index waits
    /// until the name is durable.
    async fn name(&self, path: &Path) -> Result<()> {
        let Some(name) = name_of(&self.dataset, path) else {
            return Ok(());
        };
        let mut named = self.named.lock().await;
        if named.contains(&name) {
            return Ok(());
        }
        self.check_run().await?;
        hit(Seam::MaintainBeforeJournal)?;
        // A put that reports an error may have landed: each has a number of its own.
        let put = self.puts.fetch_add(1, Ordering::Relaxed);
        if let Some(records) = &self.records {
            self.put_name(records, put, &name).await?;
        }
        named.insert(name);
        hit(Seam::MaintainAfterJournal)?;
        Ok(())
    }

    async fn put_name(&self, records: &Records, put: u32, name: &str) -> Result<()> {
        let entry = Entry {
            format: FORMAT,
            table: self.table.clone(),
            name: name.to_owned(),
        };
        let bytes = serde_json::to_vec(&entry)
            .map_err(|e| Error::internal("encoding a journal").caused_by(e))?;
        let entry = format!("{}{put}.json", self.keeper);
        let at = records.journal(self.op).join(entry);
        put_new(&records.objects, &at, bytes).await?;
        Ok(())
    }

    /// Refuses once the record is gone of the run that a worker works for: what it wrote was reclaimed, or will be.
    ///
    /// # Errors
    /// `Refused`, and those of the storage.
    pub(crate) async fn check_run(&self) -> Result<()> {
        match &self.records {
            Some(records) if self.is_workers && !records.has_sidecar(self.op).await? => {
                let ended = format!(
                    "run {} has ended, or others took it for dead; nothing of this task lands, and what was written of it is reclaimed",
                    self.op
                );
                Err(Error::new(ErrorKind::Refused, ended))
            }
            _ => Ok(()),
        }
    }

    /// Puts every name once more: whoever took the run for dead has removed those that stood there, and deleted what they named,
    /// but not what was written since. The next recovery pass finds them.
    pub(crate) async fn name_again(&self) -> Result<()> {
        let Some(records) = &self.records else {
            return Ok(());
        };
        for name in self.names().await {
            let put = self.puts.fetch_add(1, Ordering::Relaxed);
            self.put_name(records, put, &name).await?;
        }
        Ok(())
    }

    /// Shows for ever that the run is alive.
    pub(crate) async fn beat(&self, clock: &dyn Clock) -> Infallible {
        loop {
            clock.sleep(BEAT).await;
            let Some(records) = &self.records else {
                continue;
            };
            self.puts.fetch_add(1, Ordering::Relaxed);
            let beat = format!("{}alive.beat", self.keeper);
            let at = records.journal(self.op).join(beat);
            if let Err(e) = records.objects.inner.put(&at, PutPayload::new()).await {
                tracing::debug!(error = %e, "a beat was not put");
            }
        }
    }

    /// Whether nothing was named, and nothing of it can be on storage.
    pub(crate) fn is_empty(&self) -> bool {
        self.puts.load(Ordering::Relaxed) == 0
    }

    async fn before_put(&self, path: &Path) -> StorageResult<()> {
        self.name(path)
            .await
            .map_err(|e| object_store::Error::Generic {
                store: "journal",
                source: e.into(),
            })
    }
}

/// The [`Journal`] as Lance's wrapper of a store.
#[derive(Debug)]
pub(crate) struct Journalling(pub(crate) Arc<Journal>);

impl WrappingObjectStore for Journalling {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Named {
            inner,
            journal: self.0.clone(),
        })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        inner: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        // Listings name nothing.
        Some(inner)
    }
}

/// A store that names what is put before it is.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ObjectStore>,
    journal: Arc<Journal>,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "journalled {}", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Named {
    async fn put_opts(
        &self,
        path: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> StorageResult<PutResult> {
        self.journal.before_put(path).await?;
        self.inner.put_opts(path, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StorageResult<Box<dyn MultipartUpload>> {
        self.journal.before_put(path).await?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StorageResult<()> {
        self.journal.before_put(to).await?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> StorageResult<()> {
        self.journal.before_put(to).await?;
        self.inner.rename_opts(from, to, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StorageResult<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StorageResult<Path>>,
    ) -> BoxStream<'static, StorageResult<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StorageResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, StorageResult<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StorageResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
}

/// Whether an object of a journal is a name; otherwise it is a beat.
fn is_name(at: &Path) -> bool {
    at.extension() == Some("json")
}

impl Records {
    /// The directory of the journal of run `op`.
    fn journal(&self, op: OpId) -> Path {
        self.directory().join(format!("{op}.files"))
    }

    /// Names and beats of the journal of run `op`, unread.
    pub(crate) async fn journal_objects(&self, op: OpId) -> Result<Vec<ObjectMeta>> {
        let prefix = self.journal(op);
        Ok(self.objects.list(Some(prefix)).try_collect().await?)
    }

    /// The journal of run `op`; `None` when it has no entry.
    pub(crate) async fn journalled(&self, op: OpId) -> Result<Option<Journalled>> {
        let objects = self.journal_objects(op).await?.into_iter();
        let names = objects.map(|meta| meta.location).filter(is_name);
        let entries = futures::stream::iter(names.map(|at| async move {
            match content_of(&self.objects, &at).await? {
                Some(bytes) => Entry::parse(&bytes, &at),
                // Another process settled this run meanwhile.
                None => Ok(None),
            }
        }));
        let entries = entries.buffer_unordered(AT_ONCE);
        let entries: Vec<Option<Entry>> = entries.try_collect().await?;
        let mut journalled: Option<Journalled> = None;
        for entry in entries.into_iter().flatten() {
            let of_run = journalled.get_or_insert_with(|| Journalled {
                table: entry.table,
                names: BTreeSet::new(),
            });
            of_run.names.insert(entry.name);
        }
        Ok(journalled)
    }

    /// The runs that have a journal, the living ones among them.
    pub(crate) async fn journalled_runs(&self) -> Result<BTreeSet<OpId>> {
        let listed = self.listed().await?.common_prefixes;
        let names = listed.iter().filter_map(|p| p.filename());
        Ok(names
            .filter_map(|n| OpId::parse(n.strip_suffix(".files")?).ok())
            .collect())
    }

    /// How far the journal of run `op` is.
    pub(crate) async fn journal_progress(&self, op: OpId) -> Result<Progress> {
        let mut progress = Progress::default();
        for meta in self.journal_objects(op).await? {
            if is_name(&meta.location) {
                progress.names += 1;
            } else {
                progress.beat = progress.beat.max(Some(meta.last_modified));
            }
        }
        Ok(progress)
    }

    fn result(&self, op: OpId, task: u32) -> Path {
        self.journal(op).join(format!("{task}.result"))
    }

    /// Puts what came of a task of run `op`, unless something stands there. Returns whether it is this one.
    pub(crate) async fn put_result(&self, op: OpId, task: u32, bytes: Vec<u8>) -> Result<bool> {
        match put_new(&self.objects, &self.result(op, task), bytes).await {
            Ok(()) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(e) => Err(Error::from(e).context("putting what came of a task")),
        }
    }

    /// What came of a task of run `op`, if anything did yet.
    pub(crate) async fn result_of(&self, op: OpId, task: u32) -> Result<Option<Vec<u8>>> {
        content_of(&self.objects, &self.result(op, task)).await
    }

    /// Removes the journal of a run that has nothing to reclaim any more.
    pub(crate) async fn forget_journal(&self, op: OpId) -> Result<()> {
        for meta in self.journal_objects(op).await? {
            match self.objects.inner.delete(&meta.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if self.objects.is_local() {
            // An object store has no directories; a local disk keeps empty ones.
            match self.objects.remove_dir_all(self.journal(op)).await {
                Ok(()) | Err(lance::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl Store {
    /// An empty journal for run `op` on `table`, which is recorded in `records`.
    pub(crate) fn new_journal(
        &self,
        op: OpId,
        table: RunTable,
        records: Option<Records>,
    ) -> Arc<Journal> {
        self.journal_kept_by(String::new(), op, table, records)
    }

    /// The same, kept by one process that makes `attempt` at a task of run `op`. Another one may make the same attempt beside it.
    pub(crate) fn workers_journal(
        &self,
        attempt: OpId,
        op: OpId,
        table: RunTable,
        records: Records,
    ) -> Arc<Journal> {
        let keeper = format!("{attempt}.{}.", self.new_op());
        self.journal_kept_by(keeper, op, table, Some(records))
    }

    fn journal_kept_by(
        &self,
        keeper: String,
        op: OpId,
        table: RunTable,
        records: Option<Records>,
    ) -> Arc<Journal> {
        Arc::new(Journal {
            op,
            dataset: self.object_path(&table.path),
            table,
            records,
            is_workers: !keeper.is_empty(),
            keeper,
            named: Mutex::default(),
            doubts: Arc::default(),
            puts: AtomicU32::default(),
        })
    }

    /// A guard of the commits of the run that keeps `journal`: they need its record, if it has one. Versions are found and
    /// put as ever, whatever store the run's data goes through.
    pub(crate) fn guard_of(&self, journal: &Journal) -> GuardedCommitHandler {
        let guard = self.guard().with_doubts(journal.doubts.clone());
        match &journal.records {
            Some(records) => {
                guard.with_licence(records.objects.clone(), records.sidecar_path(journal.op))
            }
            None => guard,
        }
    }

    /// The storage, as a run reads it that keeps to a pace, and where it is looked whether it moves.
    pub(crate) fn reading(&self, oversight: &Oversight) -> Arc<LanceStore> {
        if !oversight.is_paced() {
            return self.objects.clone();
        }
        // On plain local paths Lance reads past the interface, too.
        let mut objects = self.interface.as_ref().clone();
        objects.apply_wrapper(&Paced(oversight.clone()));
        Arc::new(objects)
    }

    /// The objects that belong to `name` in the dataset at `table`.
    pub(crate) async fn named_objects(&self, table: &str, name: &str) -> Result<Vec<ObjectMeta>> {
        let path = format!("{table}/{name}");
        let below = self.objects.list(Some(self.object_path(&path)));
        let mut objects: Vec<ObjectMeta> = below.try_collect().await?;
        let file = match name.split_once('/') {
            Some(("data", _)) => Some(format!("{path}.lance")),
            Some((DELETIONS_DIR, _)) => Some(path),
            _ => None,
        };
        if let Some(file) = file {
            let file = self.object_path(&file);
            match self.objects.inner.head(&file).await {
                Ok(meta) => objects.push(meta),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn what_belongs_together_has_one_name() {
        let of = |path: &str| name_of(&"lake/t.lance".into(), &path.into());
        assert_eq!(
            of("lake/t.lance/data/01ab.lance").as_deref(),
            Some("data/01ab")
        );
        assert_eq!(
            of("lake/t.lance/data/01ab/1.blob").as_deref(),
            Some("data/01ab")
        );
        assert_eq!(
            of("lake/t.lance/_indices/u-1/page_data.lance").as_deref(),
            Some("_indices/u-1")
        );
        assert_eq!(
            of("lake/t.lance/_deletions/7-5-123.arrow").as_deref(),
            Some("_deletions/7-5-123.arrow")
        );
        assert_eq!(of("lake/t.lance/_versions/1.manifest"), None);
        assert_eq!(of("lake/t.lance/_transactions/1-x.txn"), None);
        assert_eq!(of("lake/other.lance/data/01ab.lance"), None);
    }
}
