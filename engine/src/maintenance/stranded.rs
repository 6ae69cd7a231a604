//! Stranded files: what a maintenance run rewrote and no version refers to.
//!
//! Lance leaves them for seven days, because it cannot know whether a commit that refers to them is still under way.
//! We can, in this order; without each step a version could refer to files that are gone:
//!
//! 1. The run journals its files before it commits them. Only what stands in a journal is ever deleted.
//! 2. Its sidecar is removed. It is the run's licence: the guard asks for it before each put of the run, so a run that
//!    wakes later commits nothing.
//! 3. A fence takes version HEAD+1. A put that had passed the guard was for that version or one before it.
//! 4. The proof: every version since the run began says which of the files it refers to. If one is missing, nothing
//!    is proved and the files stay.
//! 5. The rest is deleted, then the journal.

use crate::commit::publish::{Record, Rounds};
use crate::error::{Disposition, Error, Result};
use crate::ids::{OpId, TableName};
use crate::protocol::{Kind, PROP_OP};
use crate::store::{INTERNAL, SidecarTable, Store, StrictCommit, marks, read_version};
use futures::TryStreamExt;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance_table::format::Fragment;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use squire_failpoints::{Guard, Seam, hit, stands};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// The newest journal format that this squire reads.
const FORMAT: u32 = 1;

/// One file of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct JournalFile {
    /// Below the dataset.
    path: String,
    bytes: u64,
}

/// The files that one batch of tasks wrote: put before the commit that refers to them, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    format: u32,
    table: SidecarTable,
    files: Vec<JournalFile>,
}

/// What became of the files of one run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Reclaimed {
    /// Files deleted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn files_of(fragments: &[Fragment]) -> impl Iterator<Item = JournalFile> + '_ {
    fragments
        .iter()
        .flat_map(|f| &f.files)
        .map(|file| JournalFile {
            path: format!("data/{}", file.path),
            bytes: file.file_size_bytes.get().map_or(0, u64::from),
        })
}

impl Store {
    fn journal_prefix(&self, op: OpId) -> String {
        format!("{INTERNAL}/recovery/{op}.files")
    }

    /// Puts the journal of the `sequence`th batch of run `op`.
    pub(crate) async fn put_journal(
        &self,
        op: OpId,
        sequence: u32,
        table: &SidecarTable,
        fragments: &[Fragment],
    ) -> Result<()> {
        hit(Seam::MaintainBeforeJournal)?;
        let journal = Journal {
            format: FORMAT,
            table: table.clone(),
            files: files_of(fragments).collect(),
        };
        let bytes = serde_json::to_vec(&journal)
            .map_err(|e| Error::internal("encoding a journal").caused_by(e))?;
        let path = self.object_path(&format!("{}/{sequence}.json", self.journal_prefix(op)));
        self.put_if_absent(&path, bytes).await?;
        hit(Seam::MaintainAfterJournal)?;
        Ok(())
    }

    /// The journals of run `op`, unread.
    async fn journal_objects(&self, op: OpId) -> Result<Vec<ObjectMeta>> {
        let prefix = self.object_path(&self.journal_prefix(op));
        let mut listed: Vec<ObjectMeta> = self.objects.list(Some(prefix)).try_collect().await?;
        listed.retain(|meta| meta.location.extension() == Some("json"));
        Ok(listed)
    }

    async fn journal(&self, op: OpId) -> Result<Vec<Journal>> {
        let listed = self.journal_objects(op).await?;
        let mut journals = Vec::with_capacity(listed.len());
        for meta in listed {
            let bytes = match self.objects.inner.get(&meta.location).await {
                Ok(got) => got.bytes().await?,
                // Another process settled this run meanwhile.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(e) => return Err(e.into()),
            };
            let journal: Journal = serde_json::from_slice(&bytes).map_err(|e| {
                Error::internal(format!("journal {} cannot be read", meta.location)).caused_by(e)
            })?;
            if journal.format > FORMAT {
                return Err(Error::internal(format!(
                    "journal {} has format {}, this squire reads up to {FORMAT}; upgrade squire",
                    meta.location, journal.format
                )));
            }
            journals.push(journal);
        }
        Ok(journals)
    }

    /// The runs whose files are journalled, the living ones among them.
    pub(crate) async fn journalled_runs(&self) -> Result<BTreeSet<OpId>> {
        let recovery = self.object_path(&format!("{INTERNAL}/recovery"));
        let listed = self.objects.list_with_delimiter(Some(&recovery)).await?;
        let names = listed.common_prefixes.iter().filter_map(|p| p.filename());
        Ok(names
            .filter_map(|n| OpId::parse(n.strip_suffix(".files")?).ok())
            .collect())
    }

    /// Bytes that the journals name: of runs at work, and of dead ones until they are reclaimed.
    pub async fn stranded_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for op in self.journalled_runs().await? {
            let journals = self.journal(op).await?;
            let files = journals.iter().flat_map(|j| &j.files);
            bytes += files.map(|f| f.bytes).sum::<u64>();
        }
        Ok(bytes)
    }

    /// How many batches run `op` has journalled: while that grows it makes progress.
    pub(crate) async fn journalled_batches(&self, op: OpId) -> Result<usize> {
        Ok(self.journal_objects(op).await?.len())
    }

    /// Removes the journal of a run all of whose batches were committed.
    pub(crate) async fn forget_journal(&self, op: OpId) -> Result<()> {
        for meta in self.journal_objects(op).await? {
            match self.objects.inner.delete(&meta.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if self.objects.is_local() {
            // An object store has no directories; a local disk keeps empty ones.
            self.remove_dir(&self.journal_prefix(op)).await?;
        }
        Ok(())
    }

    /// Deletes what run `op` rewrote and never committed. Nothing happens while its sidecar stands, or while something
    /// undecided stands on its table.
    pub(crate) async fn reclaim(&self, op: OpId) -> Result<Reclaimed> {
        let mut reclaimed = Reclaimed::default();
        if self.sidecar(op).await?.is_some() {
            return Ok(reclaimed);
        }
        let journals = self.journal(op).await?;
        let Some(Journal { table, .. }) = journals.first() else {
            self.forget_journal(op).await?;
            return Ok(reclaimed);
        };
        let table = table.clone();
        let snapshot = self.load().await?;
        let visible = snapshot.state.tables.get(&table.table);
        if visible.is_some_and(|v| v.path == table.path) {
            if self.in_the_way(&table.table).await?.is_some() {
                return Ok(reclaimed);
            }
            let mut files: Vec<JournalFile> = journals.into_iter().flat_map(|j| j.files).collect();
            self.drop_landed(op, &table, &mut files).await?;
            if !files.is_empty() {
                self.fence(op, snapshot.state.store, &table.path).await?;
                // Once more: the delayed put may have landed before the fence did.
                self.drop_landed(op, &table, &mut files).await?;
                reclaimed = self.delete_stranded(&table.path, &files).await?;
                let (files, bytes) = (reclaimed.files, reclaimed.bytes);
                tracing::debug!(%op, files, bytes, "stranded files reclaimed");
                self.publish_fence(op, &table.table).await?;
            }
        }
        self.forget_journal(op).await?;
        Ok(reclaimed)
    }

    /// Removes from `files` what a version of the run refers to; all of them when a version is gone that might.
    async fn drop_landed(
        &self,
        op: OpId,
        table: &SidecarTable,
        files: &mut Vec<JournalFile>,
    ) -> Result<()> {
        let head = self.latest(&table.path).await?;
        for version in table.base + 1..=head.manifest().version {
            let Some(transaction) = read_version(&head, version)
                .await?
                .and_then(|r| r.transaction)
            else {
                files.clear();
                return Ok(());
            };
            let properties = transaction.transaction_properties.as_deref();
            let ours = properties.and_then(|p| p.get(PROP_OP)) == Some(&op.to_string());
            if let (true, Operation::Rewrite { groups, .. }) = (ours, &transaction.operation) {
                let landed: HashSet<String> = groups
                    .iter()
                    .flat_map(|g| files_of(&g.new_fragments))
                    .map(|f| f.path)
                    .collect();
                files.retain(|f| !landed.contains(&f.path));
            }
        }
        Ok(())
    }

    /// Takes version HEAD+1 of the dataset at `path` with a version that changes nothing.
    async fn fence(&self, op: OpId, store: OpId, path: &str) -> Result<()> {
        if !stands(Guard::Fence) {
            return Ok(());
        }
        let mut rounds = Rounds::new();
        loop {
            hit(Seam::ReclaimBeforeFence)?;
            let head = self.latest(path).await?;
            let version = head.manifest().version;
            let operation = Operation::ReserveFragments { num_fragments: 0 };
            let transaction = TransactionBuilder::new(version, operation)
                .transaction_properties(Some(Arc::new(marks(store, op, Kind::Maintenance))))
                .build();
            let commit = StrictCommit {
                handle: Some(head),
                path: path.to_owned(),
                transaction,
                affected_rows: None,
                slot: version + 1,
            };
            match self.commit_strict(commit).await {
                Ok(_) => return Ok(()),
                Err(e) if e.disposition() == Disposition::Retry => rounds.lost(self, e).await?,
                Err(e) => return Err(e),
            }
        }
    }

    async fn delete_stranded(&self, path: &str, files: &[JournalFile]) -> Result<Reclaimed> {
        let mut reclaimed = Reclaimed::default();
        for file in files {
            hit(Seam::ReclaimBeforeDelete)?;
            let location = self.object_path(&format!("{path}/{}", file.path));
            match self.objects.inner.delete(&location).await {
                Ok(()) => {
                    reclaimed.files += 1;
                    reclaimed.bytes += file.bytes;
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(reclaimed)
    }

    async fn publish_fence(&self, op: OpId, table: &TableName) -> Result<()> {
        let kind = Kind::Maintenance.as_str();
        let record = Record::new(op, kind, &self.options().actor, "reclaim stranded files");
        self.publish_prefix(table, &record).await.map(drop)
    }
}
