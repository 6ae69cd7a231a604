//! Stranded files: what a maintenance run wrote and no version refers to.
//!
//! Lance leaves them for seven days, because it cannot know whether a commit that refers to them is still under way.
//! We can, in this order; without each step a version could refer to files that are gone:
//!
//! 1. The run journals the name of each file before it writes it. Only what stands in a journal is ever deleted.
//! 2. Its sidecar is removed. It is the run's licence: the guard asks for it before each put of the run, so a run that
//!    wakes later commits nothing.
//! 3. A fence takes version HEAD+1. A put that had passed the guard was for that version or one before it. A run that
//!    settles itself, and knows of each version that it put whether that landed, has none under way and needs no fence.
//! 4. The proof: every version since the run began says which of the files it refers to. If one is missing, nothing
//!    is proved and the files stay.
//! 5. The rest is deleted, then the journal.
//!
//! All dead runs of one table share one fence and one proof. On plain tables it is the same, but for what a store would
//! publish: there HEAD is what is visible.

use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::ids::{OpId, TableName};
use crate::journal::{AT_ONCE, Amounts, Journalled, names_of_fragment};
use crate::protocol::Kind;
use crate::publish::{Record, Rounds};
use crate::store::{
    Records, Store, StrictCommit, TABLE_FOLDERS, is_of_table, marks, read_version, unless_denied,
};
use futures::{StreamExt, TryStreamExt};
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance_table::io::commit::ManifestNamingScheme;
use object_store::ObjectStoreExt;
use serde::Serialize;
use squire_failpoints::{Guard, Seam, hit, stands};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A run without a sidecar, and what it wrote.
#[derive(Debug, Clone)]
pub(crate) struct DeadRun {
    pub(crate) op: OpId,
    pub(crate) journalled: Journalled,
    /// Whether a version that it put may land yet. Of another process's run that is never known.
    pub(crate) is_in_doubt: bool,
}

/// Which journal names the versions of one table refer to, and which versions are gone.
#[derive(Debug, Default)]
struct References {
    names: BTreeSet<String>,
    missing: BTreeSet<u64>,
}

impl References {
    /// What nothing refers to of the names of a run that began on `base`; nothing when a version since then is gone.
    fn unreferenced(&self, base: u64, names: &BTreeSet<String>) -> BTreeSet<String> {
        if self.missing.range(base + 1..).next().is_some() {
            return BTreeSet::new();
        }
        names.difference(&self.names).cloned().collect()
    }
}

/// The run `op` with its journal, unless its sidecar stands. A journal without entries is removed on the way.
async fn dead_run(records: &Records, op: OpId) -> Result<Option<DeadRun>> {
    if records.has_sidecar(op).await? {
        return Ok(None);
    }
    let Some(journalled) = records.journalled(op).await? else {
        records.forget_journal(op).await?;
        return Ok(None);
    };
    Ok(Some(DeadRun {
        op,
        journalled,
        is_in_doubt: true,
    }))
}

/// The journal names of what a version adds.
fn names_of(operation: &Operation) -> Vec<String> {
    let index = |id: &dyn std::fmt::Display| format!("_indices/{id}");
    match operation {
        Operation::Rewrite {
            groups,
            rewritten_indices,
            frag_reuse_index,
            ..
        } => {
            let fragments = groups.iter().flat_map(|g| &g.new_fragments);
            fragments
                .flat_map(names_of_fragment)
                .chain(rewritten_indices.iter().map(|i| index(&i.new_id)))
                .chain(frag_reuse_index.iter().map(|i| index(&i.uuid)))
                .collect()
        }
        Operation::CreateIndex { new_indices, .. } => {
            new_indices.iter().map(|i| index(&i.uuid)).collect()
        }
        _ => Vec::new(),
    }
}

/// What can be said of the table of dead runs.
enum Ground {
    /// The table that they wrote to, and whose versions its are.
    Stands { store: OpId },
    /// It is another one: what they wrote is nobody's, and nothing can be proved of it.
    Gone,
    /// It has no version at all: nothing refers to what they wrote.
    Dropped,
    /// Something undecided stands on it, or versions are missing.
    Unsettled,
}

/// A run that has a journal: what it wrote, and not yet settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunFiles {
    /// The run.
    pub op: OpId,
    /// Its table's path.
    pub table: String,
    /// The version that the table showed when it began.
    pub base: u64,
    /// Whether its sidecar stands: without it the run lands nothing any more.
    pub is_licensed: bool,
    /// The names in its journal, below the table, each with its bytes; 0 for what is named and was not written.
    pub files: Vec<(String, u64)>,
}

impl Store {
    /// Bytes of what the journals of this store name: of runs at work, and of dead ones until they are reclaimed.
    pub async fn stranded_bytes(&self) -> Result<u64> {
        self.named_bytes(&self.records, None).await
    }

    /// [`Store::stranded_bytes`] of runs on plain tables, or on `only` one of them.
    pub async fn plain_stranded_bytes(&self, only: Option<&str>) -> Result<u64> {
        let mut bytes = 0;
        for records in self.plain_records().await {
            bytes += unless_denied(self.named_bytes(records, only).await)?.unwrap_or_default();
        }
        Ok(bytes)
    }

    async fn named_bytes(&self, records: &Records, only: Option<&str>) -> Result<u64> {
        let runs = self.runs_of(records, only, &[]).await?;
        let files = runs.iter().flat_map(|run| &run.files);
        Ok(files.map(|(_, bytes)| bytes).sum())
    }

    /// The runs that have a journal, at work or dead, with what they wrote.
    pub async fn journals(&self) -> Result<Vec<RunFiles>> {
        let licensed = self.records.sidecar_ops().await?;
        self.runs_of(&self.records, None, &licensed).await
    }

    /// [`Store::journals`] of runs on plain tables, or on `only` one of them.
    pub async fn plain_journals(&self, only: Option<&str>) -> Result<Vec<RunFiles>> {
        let mut runs = Vec::new();
        for records in self.plain_records().await {
            let Some(licensed) = unless_denied(records.sidecar_ops().await)? else {
                continue;
            };
            let found = unless_denied(self.runs_of(records, only, &licensed).await)?;
            runs.extend(found.unwrap_or_default());
        }
        Ok(runs)
    }

    async fn runs_of(
        &self,
        records: &Records,
        only: Option<&str>,
        licensed: &[OpId],
    ) -> Result<Vec<RunFiles>> {
        let mut runs = Vec::new();
        for op in records.journalled_runs().await? {
            let Some(Journalled { table, names }) = records.journalled(op).await? else {
                continue;
            };
            if only.is_some_and(|only| !is_of_table(&table.path, only)) {
                continue;
            }
            let path = &table.path;
            let sizes = names.into_iter().map(|name| async move {
                let objects = self.named_objects(path, &name).await?;
                Ok::<_, Error>((name, objects.iter().map(|meta| meta.size).sum()))
            });
            let sizes = futures::stream::iter(sizes).buffer_unordered(AT_ONCE);
            let mut files: Vec<(String, u64)> = sizes.try_collect().await?;
            files.sort_unstable();
            runs.push(RunFiles {
                op,
                base: table.base,
                is_licensed: licensed.contains(&op),
                files,
                table: table.path,
            });
        }
        Ok(runs)
    }

    /// Deletes what dead runs in `records` wrote and never committed, table by table; of one table, if `only` that is
    /// asked for. The bytes of each run that was looked at.
    pub(crate) async fn reclaim_dead_runs(
        &self,
        records: &Records,
        only: Option<&str>,
    ) -> Result<Vec<(OpId, Result<u64>)>> {
        let mut by_table: BTreeMap<String, Vec<DeadRun>> = BTreeMap::new();
        let mut outcomes = Vec::new();
        for op in records.journalled_runs().await? {
            match dead_run(records, op).await {
                Ok(None) => {}
                Ok(Some(run)) => by_table
                    .entry(run.journalled.table.path.clone())
                    .or_default()
                    .push(run),
                Err(e) => outcomes.push((op, Err(e))),
            }
        }
        by_table.retain(|path, _| only.is_none_or(|only| is_of_table(path, only)));
        for runs in by_table.into_values() {
            let first = runs[0].op;
            match self.reclaim(Some(records), &runs).await {
                Ok(reclaimed) => outcomes.extend(reclaimed.into_iter().map(|(op, r)| (op, Ok(r)))),
                Err(e) => outcomes.push((first, Err(e))),
            }
        }
        Ok(outcomes)
    }

    /// Deletes what `runs` of one table wrote and never committed, and gives the bytes of each. Nothing happens while
    /// something undecided stands on the table.
    pub(crate) async fn reclaim(
        &self,
        records: Option<&Records>,
        runs: &[DeadRun],
    ) -> Result<Vec<(OpId, u64)>> {
        let Some(first) = runs.first() else {
            return Ok(Vec::new());
        };
        let table = &first.journalled.table;
        let mut outcomes = Vec::new();
        let store = match self.ground(runs).await? {
            Ground::Unsettled => return Ok(outcomes),
            Ground::Gone => None,
            Ground::Dropped => {
                for run in runs {
                    let names = &run.journalled.names;
                    outcomes.push((run.op, self.delete_stranded(&table.path, names).await?));
                }
                self.remove_empty(&table.path).await;
                None
            }
            Ground::Stands { store } => Some(store),
        };
        if let Some(store) = store {
            let named = || {
                runs.iter()
                    .map(|r| (r.journalled.table.base, &r.journalled.names))
            };
            let stranded = self.unreferenced(&table.path, named()).await?;
            if stranded.iter().any(|names| !names.is_empty()) {
                let fenced = runs.iter().any(|run| run.is_in_doubt);
                if fenced {
                    self.fence(first.op, store, &table.path).await?;
                }
                // Once more: the delayed put may have landed before the fence did.
                for (run, names) in runs
                    .iter()
                    .zip(self.unreferenced(&table.path, named()).await?)
                {
                    let bytes = self.delete_stranded(&table.path, &names).await?;
                    tracing::debug!(op = %run.op, bytes, "stranded files reclaimed");
                    let amounts = Amounts {
                        wasted: bytes,
                        ..Amounts::default()
                    };
                    self.ledger()
                        .add(&table.path, amounts, self.clock().now_ms());
                    outcomes.push((run.op, bytes));
                }
                if let (true, Some(table)) = (fenced, &table.name) {
                    self.publish_fence(first.op, table).await?;
                }
            }
        }
        if let Some(records) = records {
            for run in runs {
                records.forget_journal(run.op).await?;
            }
        }
        Ok(outcomes)
    }

    /// What can be said now of the table of `runs`.
    async fn ground(&self, runs: &[DeadRun]) -> Result<Ground> {
        let table = &runs[0].journalled.table;
        let bases = runs.iter().map(|run| run.journalled.table.base);
        let Some(name) = &table.name else {
            return self.plain_ground(runs, bases.fold(0, u64::max)).await;
        };
        let snapshot = self.load().await?;
        let visible = snapshot.state.tables.get(name);
        let Some(visible) = visible.filter(|v| v.path == table.path) else {
            return Ok(Ground::Gone);
        };
        // A head below what was published or begun on says that versions are missing: nothing could be proved.
        let known = bases.fold(visible.version, u64::max);
        let head = self.latest(&table.path).await?.manifest().version;
        if head < known || self.in_the_way(name).await?.is_some() {
            return Ok(Ground::Unsettled);
        }
        let store = snapshot.state.store;
        Ok(Ground::Stands { store })
    }

    /// The same of a plain table, on which `runs` began at versions up to `base`. Made anew, or without its last versions,
    /// it is another one. One that has become a store's is fenced by nobody but the store.
    async fn plain_ground(&self, runs: &[DeadRun], base: u64) -> Result<Ground> {
        let path = &runs[0].journalled.table.path;
        let Some(head) = self.open_latest(path).await? else {
            return Ok(match self.has_versions(path).await? {
                true => Ground::Gone,
                false => Ground::Dropped,
            });
        };
        let is_in_doubt = runs.iter().any(|run| run.is_in_doubt);
        let owned = match self.check_plain(path).await {
            Err(e) if e.kind() == ErrorKind::Refused => is_in_doubt,
            checked => checked.map(|()| false)?,
        };
        if owned || head.manifest().version < base {
            return Ok(Ground::Gone);
        }
        Ok(Ground::Stands { store: runs[0].op })
    }

    /// Whether a version of the table at `path` stands, readable or not.
    async fn has_versions(&self, path: &str) -> Result<bool> {
        let versions = self.object_path(&format!("{path}/_versions"));
        let listed = self.objects.list_with_delimiter(Some(&versions)).await?;
        let mut names = listed.objects.iter().filter_map(|o| o.location.filename());
        Ok(names.any(|name| ManifestNamingScheme::detect_scheme(name).is_some()))
    }

    /// The proof: of each run's names, with the version that it began on, those that no version refers to.
    async fn unreferenced<'a>(
        &self,
        table: &str,
        named: impl Iterator<Item = (u64, &'a BTreeSet<String>)> + Clone,
    ) -> Result<Vec<BTreeSet<String>>> {
        let head = self.latest(table).await?;
        let mut references = References::default();
        let first = named.clone().map(|(base, _)| base).min().unwrap_or(0);
        for version in first + 1..=head.manifest().version {
            match read_version(&head, version)
                .await?
                .and_then(|read| read.transaction)
            {
                Some(transaction) => references.names.extend(names_of(&transaction.operation)),
                None => drop(references.missing.insert(version)),
            }
        }
        Ok(named
            .map(|(base, names)| references.unreferenced(base, names))
            .collect())
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
                gate: None,
                on: None,
            };
            match self.commit_strict(commit).await {
                Ok(_) => return Ok(()),
                Err(e) if e.disposition() == Disposition::Retry => rounds.lost(self, e).await?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Deletes what belongs to `names` of the dataset at `table`. Returns the bytes.
    async fn delete_stranded(&self, table: &str, names: &BTreeSet<String>) -> Result<u64> {
        let mut bytes = 0;
        for name in names {
            hit(Seam::ReclaimBeforeDelete)?;
            for meta in self.named_objects(table, name).await? {
                match self.objects.inner.delete(&meta.location).await {
                    Ok(()) => bytes += meta.size,
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            if self.objects.is_local() {
                // An object store has no directories; a local disk keeps empty ones.
                self.remove_dir(&format!("{table}/{name}")).await?;
            }
        }
        if self.objects.is_local() {
            self.delete_local_remains(table, names).await?;
        }
        Ok(bytes)
    }

    /// Removes the folders that Lance makes anew when it writes into a table that was dropped, as far as they are empty. Object
    /// stores have none.
    async fn remove_empty(&self, table: &str) {
        if !self.objects.is_local() {
            return;
        }
        let root = format!("/{}", self.object_path(table));
        for folder in TABLE_FOLDERS
            .iter()
            .map(|of| format!("{root}/{of}"))
            .chain([root.clone()])
        {
            // What is not empty is somebody's.
            tokio::fs::remove_dir(folder).await.unwrap_or_default();
        }
    }

    /// What an upload leaves on a local disk when its process is killed: `<file>#<n>`, which the object-store interface
    /// does not show.
    async fn delete_local_remains(&self, table: &str, names: &BTreeSet<String>) -> Result<()> {
        let failed = |e: std::io::Error| {
            Error::from(object_store::Error::Generic {
                store: "local",
                source: e.into(),
            })
        };
        let data = format!("/{}", self.object_path(&format!("{table}/data")));
        let mut listed = match tokio::fs::read_dir(data).await {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(failed)?,
        };
        while let Some(entry) = listed.next_entry().await.map_err(failed)? {
            let file = entry.file_name();
            let Some((file, _)) = file.to_str().and_then(|f| f.split_once(".lance#")) else {
                continue;
            };
            if names.contains(&format!("data/{file}")) {
                match tokio::fs::remove_file(entry.path()).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn publish_fence(&self, op: OpId, table: &TableName) -> Result<()> {
        let kind = Kind::Maintenance.as_str();
        let record = Record::new(op, kind, &self.options().actor, "reclaim stranded files");
        self.publish_prefix(table, &record).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::References;
    use std::collections::BTreeSet;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn nothing_is_proved_past_a_missing_version() {
        let references = References {
            names: names(&["data/a"]),
            missing: BTreeSet::from([5]),
        };
        let written = names(&["data/a", "data/b"]);
        assert_eq!(references.unreferenced(5, &written), names(&["data/b"]));
        assert_eq!(references.unreferenced(4, &written), names(&[]));
    }
}
