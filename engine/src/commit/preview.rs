//! What a commit would do, found without putting anything: a request is read and checked as if it were committed, and its rows
//! are counted against the versions that the store shows now.
//!
//! What shows only in writing is not tried: rows that Lance cannot give back, storage that is full, a commit of others in between.

use super::alter::check_uses;
use super::joined::Joined;
use super::logical::{CommitRequest, TableWrite, drift_error};
use super::stage::{Checked, RowCounts, Write};
use super::streamed::rows_of;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{OpId, TableName};
use crate::protocol::{Obstacle, obstacle};
use crate::store::state::TableEntry;
use crate::store::{Snapshot, Store};
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::Schema;
use futures::TryStreamExt;
use lance::Dataset;
use serde::Serialize;
use std::collections::HashSet;

/// What a commit would do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The operation that committed its batch id; then nothing would be done.
    pub already_committed: Option<OpId>,
    /// The tables, by name.
    pub tables: Vec<TablePreview>,
}

/// What a commit would do to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TablePreview {
    /// The table.
    pub table: TableName,
    /// The version that it was counted against.
    pub version: u64,
    /// Its rows.
    pub rows: RowCounts,
}

impl Store {
    /// Says what [`Store::commit`] would do. Puts nothing, and settles nothing of others.
    ///
    /// # Errors
    /// Those of a commit that come before anything is written: `InvalidInput`, `NotFound`, `Refused`, `Drift`.
    pub async fn preview(&self, request: &CommitRequest) -> Result<Preview> {
        let joined = Joined::of(std::slice::from_ref(request), &self.options().actor)?;
        let base = self.load().await?;
        let repeated = self.repeated(&base, &joined).await?.into_iter().next();
        let already_committed = repeated.map(|repeated| repeated.answer).transpose()?;
        let mut tables = Vec::with_capacity(joined.writes.len());
        for TableWrite { table, write } in &joined.writes {
            let entry = base.state.table(table)?;
            check_uses(&base.state, table, write)?;
            self.check_drift(&base, table, entry).await?;
            let checked = self.check(table, Some(entry), &entry.path, write).await?;
            let told = |e: Error| e.context(format!("table {table}"));
            tables.push(TablePreview {
                table: table.clone(),
                version: entry.version,
                rows: count(table, &checked).await.map_err(told)?,
            });
        }
        Ok(Preview {
            already_committed,
            tables,
        })
    }

    /// Refuses a table that a commit would be refused for. What an operation has left undecided is settled by the commit.
    async fn check_drift(
        &self,
        base: &Snapshot,
        table: &TableName,
        entry: &TableEntry,
    ) -> Result<()> {
        let chain = self
            .scan(base.state.store, &entry.path, entry.version)
            .await?;
        match obstacle(&chain, entry.version) {
            None | Some(Obstacle::Operation(_)) => Ok(()),
            Some(Obstacle::Foreign(version)) => {
                let now = self.load().await?;
                let moved = now.state.tables.get(table);
                if moved.is_some_and(|now| now.version > entry.version) {
                    return Err(Error::conflict(format!("table {table} moved on")));
                }
                Err(drift_error(table, version))
            }
        }
    }
}

async fn count(table: &TableName, checked: &Checked<'_>) -> Result<RowCounts> {
    let none = RowCounts::default();
    let (Some(dataset), rows) = (&checked.dataset, checked.write.rows() as u64) else {
        return Ok(none);
    };
    Ok(match &checked.write {
        Write::Append(_) => RowCounts {
            inserted: rows,
            ..none
        },
        Write::Overwrite(_) => RowCounts {
            inserted: rows,
            deleted: dataset.count_rows(None).await? as u64,
            ..none
        },
        Write::Stream { source, replaces } => {
            let mut rows = rows_of(source.clone(), table, Schema::from(dataset.schema()));
            let mut inserted = 0;
            while let Some(batch) = rows.try_next().await? {
                inserted += batch.num_rows() as u64;
            }
            let deleted = match replaces {
                true => dataset.count_rows(None).await? as u64,
                false => 0,
            };
            RowCounts {
                inserted,
                deleted,
                ..none
            }
        }
        Write::Delete { predicate } => RowCounts {
            deleted: dataset.count_rows(Some(predicate.clone())).await? as u64,
            ..none
        },
        Write::Merge { key, rows: given } => {
            let (matched, keys) = matches(dataset, key, given).await?;
            RowCounts {
                inserted: rows - keys,
                updated: matched,
                ..none
            }
        }
        Write::DeleteKeys { key, rows: given } => RowCounts {
            deleted: matches(dataset, key, given).await?.0,
            ..none
        },
        Write::Alter(_) | Write::Create { .. } => none,
    })
}

/// The rows of the table whose key is among those of `given`, and how many of these keys it has.
async fn matches(dataset: &Dataset, key: &str, given: &[RecordBatch]) -> Result<(u64, u64)> {
    let mut keys = HashSet::new();
    for batch in given {
        each_key(batch, key, |value| {
            keys.insert(value);
        })?;
    }
    let (mut rows, mut found) = (0, HashSet::new());
    let mut scan = dataset.scan();
    scan.project(&[key])?;
    let mut batches = scan.try_into_stream().await?;
    while let Some(batch) = batches.try_next().await? {
        each_key(&batch, key, |value| {
            if keys.contains(&value) {
                rows += 1;
                found.insert(value);
            }
        })?;
    }
    Ok((rows, found.len() as u64))
}

/// The keys of a batch in words, as they are told apart when they are checked; nulls match nothing.
fn each_key(batch: &RecordBatch, key: &str, mut each: impl FnMut(String)) -> Result<()> {
    let column = batch.column_by_name(key);
    let column =
        column.ok_or_else(|| Error::internal(format!("the key column {key:?} is gone")))?;
    let options = FormatOptions::default();
    let words = ArrayFormatter::try_new(column.as_ref(), &options)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, "the key column").caused_by(e))?;
    for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
        each(words.value(row).to_string());
    }
    Ok(())
}
