//! Staging: a write becomes data files and an uncommitted Lance transaction on the pinned version.

use super::predicate;
use super::validate::{check_key, conform};
use crate::error::{Error, Result};
use crate::ids::TableName;
use crate::store::state::TableEntry;
use crate::store::{Slot, Store};
use arrow_array::RecordBatch;
use arrow_schema::Schema;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::write::merge_insert::UncommittedMergeInsert;
use lance::dataset::{
    Dataset, DeleteBuilder, InsertBuilder, MergeInsertBuilder, WhenMatched, WhenNotMatched,
    WriteMode, WriteParams,
};
use lance_select::RowAddrTreeMap;
use serde::Serialize;
use std::sync::Arc;

/// One table's part of a logical commit.
#[derive(Debug, Clone)]
pub enum Write {
    /// Adds rows.
    Append(Vec<RecordBatch>),
    /// Replaces rows whose key exists, adds the others.
    Merge {
        /// The key column.
        key: String,
        /// The rows.
        rows: Vec<RecordBatch>,
    },
    /// Deletes the rows whose key is among these.
    DeleteKeys {
        /// The key column.
        key: String,
        /// Rows with at least the key column.
        rows: Vec<RecordBatch>,
    },
    /// Deletes the rows that a SQL predicate selects.
    Delete {
        /// The predicate.
        predicate: String,
    },
    /// Replaces the whole content.
    Overwrite(Vec<RecordBatch>),
    /// Makes an empty table.
    Create {
        /// Its columns.
        schema: Arc<Schema>,
        /// Its key column.
        key: Option<String>,
    },
}

impl Write {
    /// How many rows it carries.
    pub fn rows(&self) -> usize {
        match self {
            Self::Append(rows)
            | Self::Overwrite(rows)
            | Self::Merge { rows, .. }
            | Self::DeleteKeys { rows, .. } => rows.iter().map(RecordBatch::num_rows).sum(),
            Self::Delete { .. } | Self::Create { .. } => 0,
        }
    }
}

/// Rows that a write inserts, updates and deletes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// New rows.
    pub inserted: u64,
    /// Rows whose values were replaced.
    pub updated: u64,
    /// Rows taken away.
    pub deleted: u64,
}

/// A staged write. Its transaction is committed by this process only (fact 15).
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) operation: Operation,
    pub(super) affected_rows: Option<RowAddrTreeMap>,
    pub(super) rows: RowCounts,
}

impl Staged {
    fn new(transaction: Transaction, rows: RowCounts) -> Self {
        Self {
            operation: transaction.operation,
            affected_rows: None,
            rows,
        }
    }
}

impl From<UncommittedMergeInsert> for Staged {
    fn from(merged: UncommittedMergeInsert) -> Self {
        let rows = RowCounts {
            inserted: merged.stats.num_inserted_rows,
            updated: merged.stats.num_updated_rows,
            deleted: merged.stats.num_deleted_rows,
        };
        Self {
            affected_rows: merged.affected_rows,
            ..Self::new(merged.transaction, rows)
        }
    }
}

fn empty_batch(schema: Arc<Schema>) -> Vec<RecordBatch> {
    vec![RecordBatch::new_empty(schema)]
}

fn write_params(mode: WriteMode) -> WriteParams {
    WriteParams {
        mode,
        skip_auto_cleanup: true,
        ..WriteParams::default()
    }
}

impl Store {
    /// Stages `write` on `entry`'s pinned version; `None` stands for a table that is being created at `path`.
    pub(super) async fn stage(
        &self,
        table: &TableName,
        entry: Option<&TableEntry>,
        path: &str,
        write: &Write,
    ) -> Result<Staged> {
        let context = |e: Error| e.context(format!("table {table}"));
        let Some(entry) = entry else {
            let Write::Create { schema, key } = write else {
                return Err(Error::internal(format!(
                    "table {table} is not visible and not being created"
                )));
            };
            return self.stage_create(table, path, schema, key.as_deref()).await;
        };
        let dataset = self.open_pinned(entry).await?;
        let schema = Schema::from(dataset.schema());
        match write {
            Write::Append(rows) => {
                let rows = conform(table, &schema, rows)?;
                insert(dataset, rows, WriteMode::Append)
                    .await
                    .map_err(context)
            }
            Write::Overwrite(rows) => {
                let rows = conform(table, &schema, rows)?;
                insert(dataset, rows, WriteMode::Overwrite)
                    .await
                    .map_err(context)
            }
            Write::Merge { key, rows } => {
                let rows = conform(table, &schema, rows)?;
                check_key(table, key, &rows)?;
                merge(dataset, key, rows).await.map_err(context)
            }
            Write::DeleteKeys { key, rows } => {
                check_key(table, key, rows)?;
                delete_keys(dataset, key, rows).await.map_err(context)
            }
            Write::Delete { predicate } => delete(dataset, predicate)
                .await
                .map_err(|e| e.context(format!("table {table}: predicate {predicate:?}"))),
            Write::Create { .. } => Err(Error::new(
                crate::error::ErrorKind::Refused,
                format!("table {table} exists already"),
            )),
        }
    }

    async fn stage_create(
        &self,
        table: &TableName,
        path: &str,
        schema: &Arc<Schema>,
        key: Option<&str>,
    ) -> Result<Staged> {
        if schema.fields().is_empty() {
            return Err(Error::invalid(format!(
                "table {table} would have no columns"
            )));
        }
        if let Some(key) = key {
            schema.field_with_name(key).map_err(|_| {
                Error::invalid(format!(
                    "table {table}: the schema has no key column {key:?}"
                ))
            })?;
        }
        let params = WriteParams {
            store_params: Some(self.params().clone()),
            commit_handler: Some(Arc::new(self.guard().at(Slot::ours(1)))),
            session: Some(self.session()),
            ..write_params(WriteMode::Create)
        };
        let uri = self.uri_of(path);
        let transaction = InsertBuilder::new(uri.as_str())
            .with_params(&params)
            .execute_uncommitted(empty_batch(schema.clone()))
            .await
            .map_err(|e| Error::from(e).context(format!("table {table}")))?;
        Ok(Staged::new(transaction, RowCounts::default()))
    }
}

async fn insert(
    dataset: Arc<Dataset>,
    mut rows: Vec<RecordBatch>,
    mode: WriteMode,
) -> Result<Staged> {
    let inserted = rows.iter().map(|batch| batch.num_rows() as u64).sum();
    let deleted = match mode {
        WriteMode::Overwrite => dataset.count_rows(None).await? as u64,
        WriteMode::Append | WriteMode::Create => 0,
    };
    if rows.is_empty() {
        rows = empty_batch(Arc::new(Schema::from(dataset.schema())));
    }
    let transaction = InsertBuilder::new(dataset)
        .with_params(&write_params(mode))
        .execute_uncommitted(rows)
        .await?;
    let rows = RowCounts {
        inserted,
        deleted,
        ..RowCounts::default()
    };
    Ok(Staged::new(transaction, rows))
}

async fn merge(dataset: Arc<Dataset>, key: &str, rows: Vec<RecordBatch>) -> Result<Staged> {
    let merged = MergeInsertBuilder::try_new(dataset, vec![key.to_owned()])?
        .when_matched(WhenMatched::UpdateAll)
        .when_not_matched(WhenNotMatched::InsertAll)
        .conflict_retries(0)
        .skip_auto_cleanup(true)
        .try_build()?
        .execute_uncommitted_batches(rows)
        .await?;
    Ok(merged.into())
}

async fn delete_keys(dataset: Arc<Dataset>, key: &str, rows: &[RecordBatch]) -> Result<Staged> {
    let keys: Vec<RecordBatch> = rows
        .iter()
        .map(|batch| {
            let index = batch
                .schema()
                .index_of(key)
                .map_err(|e| Error::invalid("key column").caused_by(e))?;
            batch
                .project(&[index])
                .map_err(|e| Error::invalid("key column").caused_by(e))
        })
        .collect::<Result<_>>()?;
    let merged = MergeInsertBuilder::try_new(dataset, vec![key.to_owned()])?
        .when_matched(WhenMatched::Delete)
        .when_not_matched(WhenNotMatched::DoNothing)
        .conflict_retries(0)
        .skip_auto_cleanup(true)
        .try_build()?
        .execute_uncommitted_batches(keys)
        .await?;
    Ok(merged.into())
}

async fn delete(dataset: Arc<Dataset>, predicate: &str) -> Result<Staged> {
    let checked = predicate::whole(predicate)?;
    // Lance reports a predicate that does not parse as an execution error; asking the planner first tells bad
    // input from bad storage.
    let mut scan = dataset.scan();
    let expression = scan
        .filter(&checked)
        .and_then(|scan| scan.get_expr_filter())
        .map_err(|e| Error::invalid("the predicate does not fit the table").caused_by(e))?;
    let reads_nothing = expression.is_none_or(|e| e.column_refs().is_empty());
    if reads_nothing && !predicate::means_every_row(predicate) {
        return Err(Error::invalid(
            "it reads no column, so it means every row or none; name a column, or write true to delete every row",
        ));
    }
    let deleted = DeleteBuilder::new(dataset, checked)
        .conflict_retries(0)
        .execute_uncommitted()
        .await?;
    let rows = RowCounts {
        deleted: deleted.num_deleted_rows,
        ..RowCounts::default()
    };
    Ok(Staged {
        affected_rows: deleted.affected_rows,
        ..Staged::new(deleted.transaction, rows)
    })
}
