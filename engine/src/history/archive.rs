//! The commit log as rows: publishes are copied from the manifest's transactions before cleanup takes those away.
//!
//! `commits.lance` is derived and internal: HEAD is what is visible. Each append is strict and says in its own
//! properties how far it reaches, so two daemons that archive at once never write a publish twice.

use super::LogEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::OpId;
use crate::protocol::Kind;
use crate::publish::{Change, Record};
use crate::store::state::{Archive, encode};
use crate::store::{
    COMMITS_PATH, Member, Slot, Snapshot, Store, StrictCommit, read_version, together,
};
use arrow_array::{Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::transaction::TransactionBuilder;
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use serde::Serialize;
use squire_failpoints::{Seam, hit};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The property of an append that says up to which manifest version the log reaches.
const PROP_THROUGH: &str = "squire.archived_through";

/// The column of batches' digests. Logs that an earlier release began have none.
const DIGEST: &str = "digest";

/// Rows copied by one append, but for the batches of the last publish. Enough to keep the log's fragments few, small
/// enough to hold in memory.
const BATCH: u64 = 10_000;

/// What an archive pass did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct ArchiveReport {
    /// Publishes copied.
    pub rows: u64,
    /// The manifest version up to which the log is read instead of the manifest.
    pub through: u64,
}

fn schema() -> Arc<Schema> {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        Field::new("manifest_version", DataType::UInt64, false),
        Field::new("at_ms", DataType::Int64, false),
        text("op", false),
        text("kind", false),
        text("actor", false),
        text("message", false),
        text("batch", true),
        text("tables", false),
        text(DIGEST, true),
    ]))
}

/// A row for each batch of a publish, so that one is found by its id, whoever it was committed with.
fn rows_of(entry: &LogEntry) -> Vec<LogEntry> {
    if entry.record.members.is_empty() {
        return vec![entry.clone()];
    }
    let alone = |member: &Member| {
        let mut entry = entry.clone();
        entry.record = Record {
            actor: member.actor.clone(),
            message: member.message.clone(),
            batch: member.batch.clone(),
            digest: member.digest.clone(),
            members: Vec::new(),
            ..entry.record
        };
        entry
    };
    entry.record.members.iter().map(alone).collect()
}

/// The publishes that `rows` are of: those of one publish are its batches, in the order in which they stand.
pub(crate) fn publishes_of(rows: Vec<LogEntry>) -> Vec<LogEntry> {
    let mut publishes: BTreeMap<u64, Vec<LogEntry>> = BTreeMap::new();
    for row in rows {
        let of = publishes.entry(row.manifest_version).or_default();
        of.push(row);
    }
    let join = |mut rows: Vec<LogEntry>| {
        let several = rows.len() > 1;
        let members = rows.iter().map(|row| Member {
            batch: row.record.batch.clone(),
            digest: row.record.digest.clone(),
            actor: row.record.actor.clone(),
            message: row.record.message.clone(),
        });
        let members: Vec<Member> = members.collect();
        let mut publish = rows.swap_remove(0);
        if several {
            publish.record.message = together(members.len());
            (publish.record.batch, publish.record.digest) = (None, None);
            publish.record.members = members;
        }
        publish
    };
    publishes.into_values().map(join).collect()
}

/// Rows of the commit log; `has_digests` says whether the log has that column.
fn encode_rows(publishes: &[LogEntry], has_digests: bool) -> Result<RecordBatch> {
    let entries: Vec<LogEntry> = publishes.iter().flat_map(rows_of).collect();
    let text = |f: &dyn Fn(&LogEntry) -> String| {
        Arc::new(StringArray::from_iter_values(entries.iter().map(f)))
    };
    let tables: Vec<String> = entries
        .iter()
        .map(|e| encode(&e.record.tables))
        .collect::<Result<_>>()?;
    let rows = RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(UInt64Array::from_iter_values(
                entries.iter().map(|e| e.manifest_version),
            )),
            Arc::new(Int64Array::from_iter_values(
                entries.iter().map(|e| e.at_ms),
            )),
            text(&|e| e.record.op.to_string()),
            text(&|e| e.record.kind.clone()),
            text(&|e| e.record.actor.clone()),
            text(&|e| e.record.message.clone()),
            Arc::new(StringArray::from_iter(
                entries.iter().map(|e| e.record.batch.clone()),
            )),
            Arc::new(StringArray::from_iter_values(tables)),
            Arc::new(StringArray::from_iter(
                entries.iter().map(|e| e.record.digest.clone()),
            )),
        ],
    );
    let mut rows = rows.map_err(|e| Error::internal("encoding the commit log").caused_by(e))?;
    if !has_digests {
        rows.remove_column(rows.num_columns() - 1);
    }
    Ok(rows)
}

/// Reads rows of the commit log.
pub(crate) fn decode(batch: &RecordBatch) -> Result<Vec<LogEntry>> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| Error::internal(format!("the commit log has no column {name:?}")))
    };
    let text = |name: &str| -> Result<StringArray> {
        let any = column(name)?
            .as_any()
            .downcast_ref::<StringArray>()
            .cloned();
        any.ok_or_else(|| Error::internal(format!("the commit log's column {name:?} is not text")))
    };
    let versions = column("manifest_version")?
        .as_any()
        .downcast_ref::<UInt64Array>()
        .cloned();
    let times = column("at_ms")?
        .as_any()
        .downcast_ref::<Int64Array>()
        .cloned();
    let (Some(versions), Some(times)) = (versions, times) else {
        return Err(Error::internal(
            "the commit log's numbers have another type",
        ));
    };
    let (op, kind, actor) = (text("op")?, text("kind")?, text("actor")?);
    let (message, batches, tables) = (text("message")?, text("batch")?, text("tables")?);
    let digests = batch
        .column_by_name(DIGEST)
        .map(|_| text(DIGEST))
        .transpose()?;
    (0..batch.num_rows())
        .map(|i| {
            let tables: Vec<Change> = serde_json::from_str(tables.value(i)).map_err(|e| {
                Error::internal("the commit log's tables cannot be read").caused_by(e)
            })?;
            Ok(LogEntry {
                manifest_version: versions.value(i),
                at_ms: times.value(i),
                record: Record {
                    op: OpId::parse(op.value(i))?,
                    kind: kind.value(i).to_owned(),
                    actor: actor.value(i).to_owned(),
                    message: message.value(i).to_owned(),
                    batch: batches.is_valid(i).then(|| batches.value(i).to_owned()),
                    digest: digests
                        .as_ref()
                        .filter(|digests| digests.is_valid(i))
                        .map(|digests| digests.value(i).to_owned()),
                    tables,
                    members: Vec::new(),
                },
            })
        })
        .collect()
}

impl Store {
    /// Copies every publish that is not in the log yet, then records how far it reaches.
    pub async fn archive(&self) -> Result<ArchiveReport> {
        let mut report = ArchiveReport::default();
        loop {
            let snapshot = self.load().await?;
            let log = self.commit_log().await?;
            let through = match &log {
                Some(log) => archived_through(log).await?,
                None => 0,
            };
            if snapshot.version() > through {
                report.rows += self.append_log(&snapshot, log, through).await?;
                continue;
            }
            report.through = self.record_archive(through).await?;
            return Ok(report);
        }
    }

    /// The commit log as it is now; `None` before the first archive.
    pub(crate) async fn commit_log(&self) -> Result<Option<Dataset>> {
        let log = self.open_latest(COMMITS_PATH).await;
        log.map_err(|e| e.context("commit log"))
    }

    async fn append_log(
        &self,
        snapshot: &Snapshot,
        log: Option<Dataset>,
        through: u64,
    ) -> Result<u64> {
        let (mut entries, mut until, mut copied) = (Vec::new(), through, 0);
        while until < snapshot.version() && copied < BATCH {
            until += 1;
            if let Some(entry) = self.log_entry(until).await? {
                copied += entry.record.members.len().max(1) as u64;
                entries.push(entry);
            }
        }
        hit(Seam::ArchiveAfterRead)?;
        let rows = entries.len() as u64;
        let slot = log.as_ref().map_or(1, |l| l.manifest().version + 1);
        let params = WriteParams {
            mode: match log.is_some() {
                true => WriteMode::Append,
                false => WriteMode::Create,
            },
            store_params: Some(self.params().clone()),
            session: Some(self.session()),
            commit_handler: Some(Arc::new(self.guard().at(Slot::ours(slot)))),
            skip_auto_cleanup: true,
            ..WriteParams::default()
        };
        let handle = log.map(|log| Arc::new(self.writing(&log)));
        let uri = self.writing_uri(COMMITS_PATH)?;
        let has_digests = handle
            .as_ref()
            .is_none_or(|log| log.schema().field(DIGEST).is_some());
        let batch = vec![encode_rows(&entries, has_digests)?];
        let staged = match &handle {
            Some(log) => {
                InsertBuilder::new(log.clone())
                    .with_params(&params)
                    .execute_uncommitted(batch)
                    .await
            }
            None => {
                InsertBuilder::new(uri.as_str())
                    .with_params(&params)
                    .execute_uncommitted(batch)
                    .await
            }
        };
        let staged = match staged {
            Ok(staged) => staged,
            Err(e) => return lost_to_another(e.into()),
        };
        let mut properties =
            crate::store::marks(snapshot.state.store, self.new_op(), Kind::Logical);
        properties.insert(PROP_THROUGH.to_owned(), until.to_string());
        let transaction = TransactionBuilder::new(slot - 1, staged.operation)
            .transaction_properties(Some(Arc::new(properties)))
            .build();
        let commit = StrictCommit {
            handle,
            path: COMMITS_PATH.to_owned(),
            transaction,
            affected_rows: None,
            slot,
            gate: None,
            on: None,
        };
        match self.commit_strict(commit).await {
            Ok(_) => {
                hit(Seam::ArchiveAfterAppend)?;
                Ok(rows)
            }
            Err(e) => lost_to_another(e),
        }
    }

    /// Publishes the watermark, if what was copied is more than watermarks and floors: those are publishes too, and
    /// an idle store must come to rest. Returns the watermark that stands: what is above it, only the manifest shows.
    async fn record_archive(&self, through: u64) -> Result<u64> {
        let snapshot = self.load().await?;
        let mut worth = false;
        for version in snapshot.state.archive.through + 1..=through {
            let entry = self.log_entry(version).await?;
            if entry.is_some_and(|e| e.record.kind != "archive" && e.record.kind != "cleanup") {
                worth = true;
                break;
            }
        }
        if !worth {
            return Ok(snapshot.state.archive.through);
        }
        let op = self.new_op();
        let recorded = self
            .publish_until(|snapshot| {
                let archive = snapshot.state.archive;
                if through <= archive.through {
                    return Ok(None);
                }
                let value = encode(&Archive { through, ..archive })?;
                let what = format!("commit log through {through}");
                let record = Record::new(op, "archive", &self.options().actor, what);
                Ok(Some((vec![("archive".to_owned(), Some(value))], record)))
            })
            .await?;
        Ok(recorded.state.archive.through)
    }
}

/// Another daemon appended first: what its append says of itself decides where to go on.
fn lost_to_another(error: Error) -> Result<u64> {
    if error.kind() == ErrorKind::Conflict {
        Ok(0)
    } else {
        Err(error)
    }
}

/// How far the log reaches: the latest append says it; compactions above it say nothing.
async fn archived_through(log: &Dataset) -> Result<u64> {
    for version in (1..=log.manifest().version).rev() {
        let Some(read) = read_version(log, version).await? else {
            break;
        };
        let through = read
            .transaction
            .and_then(|t| t.transaction_properties)
            .and_then(|p| p.get(PROP_THROUGH)?.parse().ok());
        if let Some(through) = through {
            return Ok(through);
        }
    }
    // The appends' versions were cleaned up: the rows themselves say it.
    let rows = log.count_rows(None).await?;
    if rows == 0 {
        return Ok(0);
    }
    let mut scan = log.scan();
    scan.project(&["manifest_version"])?;
    let batch = scan.try_into_batch().await?;
    let versions = batch
        .column(0)
        .as_any()
        .downcast_ref::<UInt64Array>()
        .cloned();
    Ok(versions.and_then(|v| v.iter().flatten().max()).unwrap_or(0))
}
