//! What a commit would do, found without putting anything: a request is read and checked as if it were committed, and its rows
//! are counted against the versions that the store shows now.
//!
//! What shows only in writing is not tried: rows that Lance cannot give back, storage that is full, a commit of others in between.

use super::alter::check_uses;
use super::evolve::evolved;
use super::joined::Joined;
use super::logical::{CommitRequest, TableWrite, drift_error};
use super::stage::{Checked, RowCounts, Write};
use super::streamed::{Purpose, Rows, rows_of};
use crate::error::{Error, Result};
use crate::ids::{Key, OpId, TableName};
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
        if already_committed.is_none() {
            self.standing_reads(&base, joined.reads).await?;
        }
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
    let mut counts = RowCounts::default();
    let Some(dataset) = &checked.dataset else {
        return Ok(counts);
    };
    let write = match &checked.write {
        Write::Evolve { then, .. } => &**then,
        write => write,
    };
    if let Some(rows) = write.added() {
        let schema = Schema::from(dataset.schema());
        let schema = evolved(&schema, checked.write.alterations());
        counts.inserted = count_of(rows, table, schema).await?;
    }
    match write {
        Write::Overwrite(_) => counts.deleted = dataset.count_rows(None).await? as u64,
        Write::Delete { predicate } | Write::Replace { predicate, .. } => {
            counts.deleted = dataset.count_rows(Some(predicate.clone())).await? as u64;
        }
        Write::Merge { key, when, rows } => {
            let (matched, keys) = matches(dataset, key, rows).await?;
            if when.inserts() {
                counts.inserted = write.rows() as u64 - keys;
            }
            if when.updates() {
                counts.updated = matched;
            }
        }
        Write::DeleteKeys { key, rows } => counts.deleted = matches(dataset, key, rows).await?.0,
        Write::Append(_) | Write::Alter(_) | Write::Evolve { .. } | Write::Create { .. } => {}
    }
    Ok(counts)
}

async fn count_of(rows: &Rows, table: &TableName, schema: Schema) -> Result<u64> {
    let source = match rows {
        Rows::Held(rows) => return Ok(rows.iter().map(|batch| batch.num_rows() as u64).sum()),
        Rows::Streamed(source) => source.clone(),
    };
    let mut rows = rows_of((source, Purpose::Count), table, schema);
    let mut count = 0;
    while let Some(batch) = rows.try_next().await? {
        count += batch.num_rows() as u64;
    }
    Ok(count)
}

/// The rows of the table whose key is among those of `given`, and how many of these keys it has.
async fn matches(dataset: &Dataset, key: &Key, given: &[RecordBatch]) -> Result<(u64, u64)> {
    let mut keys = HashSet::new();
    for batch in given {
        each_key(batch, key, |value| {
            keys.insert(value);
        })?;
    }
    let (mut rows, mut found) = (0, HashSet::new());
    let mut scan = dataset.scan();
    scan.project(key.columns())?;
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
fn each_key(batch: &RecordBatch, key: &Key, mut each: impl FnMut(Vec<String>)) -> Result<()> {
    let columns = key.columns().iter().map(|name| {
        let gone = || Error::internal(format!("the key column {name:?} is gone"));
        batch.column_by_name(name).ok_or_else(gone)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = FormatOptions::default();
    let words = columns.iter().map(|column| {
        ArrayFormatter::try_new(column.as_ref(), &options)
            .map_err(|e| Error::invalid("the key's columns").caused_by(e))
    });
    let words = words.collect::<Result<Vec<_>>>()?;
    let has_key = |row: &usize| columns.iter().all(|column| column.is_valid(*row));
    for row in (0..batch.num_rows()).filter(has_key) {
        each(words.iter().map(|of| of.value(row).to_string()).collect());
    }
    Ok(())
}
