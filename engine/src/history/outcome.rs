//! What became of an operation or a batch: the pins first, then the manifest's history, then the commit log.

use super::LogEntry;
use super::archive::{decode, publishes_of};
use crate::error::{Error, Result};
use crate::ids::OpId;
use crate::protocol::Kind;
use crate::publish::Record;
use crate::store::{MANIFEST_PATH, Snapshot, Store, read_version};
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::HashMap;

/// The kinds of publishes that carry the ULID of an operation and are not what it did: the decision against it, and its undo.
const NOT_ITS_OWN: [&str; 2] = ["abort", Kind::Undo.as_str()];

/// The answer of `squire op`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum OperationOutcome {
    /// Published.
    Committed {
        /// The publish, when the history still holds it.
        entry: Option<Box<LogEntry>>,
    },
    /// Decided to abort.
    Aborted,
    /// Its sidecar stands: not decided yet.
    Undecided,
    /// Neither sidecar nor decision nor publish: it never began, or was aborted more than 30 days ago.
    Absent,
}

impl Store {
    /// What became of `op`. Stays right after cleanup and archiving.
    pub async fn outcome_of(&self, op: OpId) -> Result<OperationOutcome> {
        loop {
            let archived = self.load().await?.state.archive.through;
            let outcome = self.look_for(op).await?;
            // What is copied to the log meanwhile may be in neither of the two places when it is looked for there.
            let unmoved = self.load().await?.state.archive.through == archived;
            if outcome != OperationOutcome::Absent || unmoved {
                // An answer for good: it may rest on a publish that has not reached the disk.
                self.sync_found().await?;
                return Ok(outcome);
            }
        }
    }

    async fn look_for(&self, op: OpId) -> Result<OperationOutcome> {
        // Sidecar first: it is removed only after the outcome is published, so a state loaded later holds it.
        let sidecar = self.sidecar(op).await?;
        let snapshot = self.load().await?;
        if snapshot.state.aborted.contains_key(&op) {
            return Ok(OperationOutcome::Aborted);
        }
        if let Some(entry) = self.find_publish(&snapshot, op).await? {
            return Ok(OperationOutcome::Committed {
                entry: Some(Box::new(entry)),
            });
        }
        if sidecar.is_some() {
            return Ok(OperationOutcome::Undecided);
        }
        Ok(OperationOutcome::Absent)
    }

    /// Whether the history or the commit log shows `op` published.
    pub(crate) async fn logged(&self, snapshot: &Snapshot, op: OpId) -> Result<bool> {
        Ok(self.find_publish(snapshot, op).await?.is_some())
    }

    async fn find_publish(&self, snapshot: &Snapshot, op: OpId) -> Result<Option<LogEntry>> {
        let through = snapshot.state.archive.through;
        for version in (through + 1..=snapshot.version()).rev() {
            let Some(entry) = self.log_entry(version).await? else {
                continue;
            };
            if entry.record.op == op && !NOT_ITS_OWN.contains(&entry.record.kind.as_str()) {
                return Ok(Some(entry));
            }
        }
        if through == 0 {
            return Ok(None);
        }
        let others = NOT_ITS_OWN.join("', '");
        let filter = format!("op = '{op}' AND kind NOT IN ('{others}')");
        let publishes = publishes_of(self.archived(&filter).await?);
        Ok(publishes.into_iter().next())
    }

    /// Those of the batches `ids` that are committed: the operation that did it, and the digest of what it did.
    pub(crate) async fn batches_committed<'a>(
        &self,
        snapshot: &Snapshot,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<HashMap<String, (OpId, Option<String>)>> {
        let mut committed = HashMap::new();
        let mut older = Vec::new();
        for id in ids {
            match snapshot.state.batches.get(id) {
                Some(entry) => {
                    committed.insert(id.to_owned(), (entry.op, entry.digest.clone()));
                }
                None => older.push(format!("'{}'", id.replace('\'', "''"))),
            }
        }
        if older.is_empty() || !snapshot.state.archive.evicted {
            return Ok(committed);
        }
        let filter = format!("batch IN ({}) AND kind = 'logical'", older.join(", "));
        for LogEntry { record, .. } in self.archived(&filter).await? {
            if let Some(id) = record.batch {
                committed.insert(id, (record.op, record.digest));
            }
        }
        Ok(committed)
    }

    /// The latest of the batches that are called `prefix` and a number, by that number, with the record of its commit.
    pub async fn last_numbered(&self, prefix: &str) -> Result<Option<(u64, Record)>> {
        let number = |id: &str| {
            let rest = id.strip_prefix(prefix)?;
            let number: u64 = rest.parse().ok()?;
            (number.to_string() == rest).then_some(number)
        };
        let snapshot = self.load().await?;
        let recent = snapshot.state.batches.iter();
        let recent = recent.filter_map(|(id, entry)| Some((number(id)?, entry.op)));
        if let Some((number, op)) = recent.max() {
            let found = self.find_publish(&snapshot, op).await?;
            let gone = || Error::internal(format!("the commit of batch {prefix}{number} is gone"));
            return Ok(Some((number, found.ok_or_else(gone)?.record)));
        }
        let mut above = prefix.to_owned();
        let last = above.pop().filter(|_| snapshot.state.archive.evicted);
        let Some(next) = last.and_then(|last| char::from_u32(u32::from(last) + 1)) else {
            return Ok(None);
        };
        above.push(next);
        let [from, below] = [prefix, &above].map(|text| text.replace('\'', "''"));
        let filter = format!("batch >= '{from}' AND batch < '{below}' AND kind = 'logical'");
        let older = self.archived(&filter).await?.into_iter();
        let older = older.filter_map(|LogEntry { record, .. }| {
            let id = record.batch.as_deref()?;
            Some((number(id)?, record))
        });
        Ok(older.max_by_key(|(number, _)| *number))
    }

    /// The publish that made manifest version `version`; `None` for the first version and ones that are gone.
    pub(crate) async fn log_entry(&self, version: u64) -> Result<Option<LogEntry>> {
        let Some(manifest) = self.any_handle(MANIFEST_PATH).await? else {
            return Ok(None);
        };
        let Some(read) = read_version(&manifest, version).await? else {
            return Ok(None);
        };
        let record = read
            .transaction
            .and_then(|t| t.transaction_properties)
            .and_then(|properties| Record::from_properties(&properties));
        Ok(record.map(|record| LogEntry {
            manifest_version: version,
            at_ms: read.timestamp.timestamp_millis(),
            record,
        }))
    }

    /// The latest `limit` publishes, newest first.
    pub async fn log(&self, limit: usize) -> Result<Vec<LogEntry>> {
        let snapshot = self.load().await?;
        let through = snapshot.state.archive.through;
        let mut entries = Vec::new();
        for version in (through + 1..=snapshot.version()).rev() {
            if entries.len() == limit {
                return Ok(entries);
            }
            entries.extend(self.log_entry(version).await?);
        }
        if through > 0 && entries.len() < limit {
            let oldest = (through + 1).saturating_sub((limit - entries.len()) as u64);
            let filter = format!("manifest_version >= {oldest} AND manifest_version <= {through}");
            let mut older = publishes_of(self.archived(&filter).await?);
            older.sort_unstable_by_key(|e| std::cmp::Reverse(e.manifest_version));
            older.truncate(limit - entries.len());
            entries.extend(older);
        }
        Ok(entries)
    }

    /// The rows of the commit log that `filter` selects: one for each batch of a publish.
    async fn archived(&self, filter: &str) -> Result<Vec<LogEntry>> {
        let Some(log) = self.commit_log().await? else {
            return Ok(Vec::new());
        };
        let mut scan = log.scan();
        scan.filter(filter)?;
        let batches: Vec<arrow_array::RecordBatch> =
            scan.try_into_stream().await?.try_collect().await?;
        let entries: Result<Vec<Vec<LogEntry>>> = batches.iter().map(decode).collect();
        entries
            .map(|e| e.into_iter().flatten().collect())
            .map_err(|e| e.context("commit log"))
    }
}
