//! Staging: a write becomes data files and an uncommitted Lance transaction on the pinned version.

use super::validate::{check_key, conform};
use crate::error::{Error, Result};
use crate::ids::TableName;
use crate::store::state::TableEntry;
use crate::store::{Slot, Store};
use arrow_array::RecordBatch;
use arrow_schema::Schema;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{
    Dataset, DeleteBuilder, InsertBuilder, MergeInsertBuilder, WhenMatched, WhenNotMatched,
    WriteMode, WriteParams,
};
use lance_select::RowAddrTreeMap;
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

/// A staged write. Its transaction is committed by this process only (fact 15).
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) operation: Operation,
    pub(super) affected_rows: Option<RowAddrTreeMap>,
}

impl From<Transaction> for Staged {
    fn from(transaction: Transaction) -> Self {
        Self {
            operation: transaction.operation,
            affected_rows: None,
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
        Ok(transaction.into())
    }
}

async fn insert(
    dataset: Arc<Dataset>,
    mut rows: Vec<RecordBatch>,
    mode: WriteMode,
) -> Result<Staged> {
    if rows.is_empty() {
        rows = empty_batch(Arc::new(Schema::from(dataset.schema())));
    }
    let transaction = InsertBuilder::new(dataset)
        .with_params(&write_params(mode))
        .execute_uncommitted(rows)
        .await?;
    Ok(transaction.into())
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
    Ok(Staged {
        operation: merged.transaction.operation,
        affected_rows: merged.affected_rows,
    })
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
    Ok(Staged {
        operation: merged.transaction.operation,
        affected_rows: merged.affected_rows,
    })
}

async fn delete(dataset: Arc<Dataset>, predicate: &str) -> Result<Staged> {
    // Lance reports a predicate that does not parse as an execution error; asking the planner first tells bad
    // input from bad storage.
    // In parentheses, because the parser reads one expression and ignores what stands behind it.
    dataset
        .scan()
        .filter(&format!(
            "({predicate}
)"
        ))
        .and_then(|s| s.get_expr_filter().map(drop))
        .map_err(|e| Error::invalid("the predicate does not fit the table").caused_by(e))?;
    let deleted = DeleteBuilder::new(dataset, predicate)
        .conflict_retries(0)
        .execute_uncommitted()
        .await?;
    Ok(Staged {
        operation: deleted.transaction.operation,
        affected_rows: deleted.affected_rows,
    })
}
