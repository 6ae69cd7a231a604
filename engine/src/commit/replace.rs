//! Replacing a slice: the rows that a predicate selects go, and the rows that are given come, in one version.
//!
//! Whatever comes must lie in the slice: a row outside of it would be there twice when the same batch came again, and is mostly a
//! sign that predicate and rows are of two different days. The predicate is asked of the rows as it is asked of the table.

use super::delete::{delete, planned};
use super::stage::{RowCounts, Staged};
use super::streamed::{Purpose, RowSource, Rows, insert};
use super::validate::{conform, shown};
use crate::error::{Error, Result, quoted};
use crate::ids::TableName;
use crate::store::Store;
use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::Schema;
use lance::dataset::transaction::Operation;
use lance::dataset::{Dataset, WriteMode};
use lance::deps::datafusion::common::DFSchema;
use lance::deps::datafusion::error::DataFusionError;
use lance::deps::datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use std::fmt::Display;
use std::sync::Arc;

/// The slice that a predicate selects, asked of rows.
#[derive(Debug, Clone)]
struct Slice {
    table: TableName,
    schema: Schema,
    predicate: String,
    /// The columns that it reads.
    columns: Vec<String>,
    runs: Arc<dyn PhysicalExpr>,
}

impl Slice {
    /// That of `predicate`, which runs on `dataset` as `whole`.
    fn new(table: &TableName, dataset: &Dataset, predicate: &str, whole: &str) -> Result<Self> {
        let expression = planned(dataset, whole)?;
        let schema = Schema::from(dataset.schema());
        let runs = DFSchema::try_from(schema.clone())
            .and_then(|known| create_physical_expr(&expression, &known, &Default::default()));
        let columns = expression.column_refs().into_iter();
        let mut columns: Vec<String> = columns.map(|column| column.name.clone()).collect();
        columns.sort();
        Ok(Self {
            table: table.clone(),
            schema,
            predicate: predicate.to_owned(),
            columns,
            runs: runs.map_err(|e| cannot_run(predicate, e))?,
        })
    }

    /// Refuses rows that do not lie in it. `before` came before them.
    fn check(&self, batch: &RecordBatch, before: usize) -> Result<()> {
        let lies = self
            .lies(batch)
            .map_err(|e| cannot_run(&self.predicate, e))?;
        let outside = |row: &usize| lies.is_null(*row) || !lies.value(*row);
        let Some(row) = (0..batch.num_rows()).find(outside) else {
            return Ok(());
        };
        let told = self.columns.iter().filter_map(|column| {
            let values = batch.column_by_name(column)?;
            Some(format!("{column} = {}", shown(values, row)))
        });
        let told: Vec<String> = told.collect();
        Err(Error::invalid(format!(
            "table {}: row {} of the input does not lie in the slice {} that it is to replace: {}; nothing was committed",
            self.table,
            before + row + 1,
            quoted(&self.predicate),
            told.join(", ")
        )))
    }

    fn lies(&self, batch: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
        let lies = self.runs.evaluate(batch)?.into_array(batch.num_rows())?;
        let none = || DataFusionError::Execution("it is neither true nor false".to_owned());
        lies.as_boolean_opt().cloned().ok_or_else(none)
    }
}

fn cannot_run(predicate: &str, why: impl Display) -> Error {
    Error::invalid(format!(
        "the predicate {} cannot be asked of the rows that are to replace its slice: {why}",
        quoted(predicate)
    ))
}

/// Rows that are too many to be held, asked as they are read.
#[derive(Debug)]
struct Asked {
    slice: Slice,
    source: Arc<dyn RowSource>,
}

impl RowSource for Asked {
    fn read(
        &self,
        purpose: Purpose,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let Slice { table, schema, .. } = &self.slice;
        let mut before = 0;
        self.source.read(purpose, &mut |batch| {
            for batch in conform(table, schema, std::slice::from_ref(&batch))? {
                self.slice.check(&batch, before)?;
                before += batch.num_rows();
                sink(batch)?;
            }
            Ok(())
        })
    }
}

/// The rows, each of which lies in the slice that `predicate` selects of `dataset`, where it runs as `whole`.
pub(super) fn check(
    table: &TableName,
    dataset: &Dataset,
    (predicate, whole): (&str, &str),
    rows: &Rows,
) -> Result<Rows> {
    let slice = Slice::new(table, dataset, predicate, whole)?;
    match rows.conform(table, &slice.schema)? {
        Rows::Held(rows) => {
            let mut before = 0;
            for batch in &rows {
                slice.check(batch, before)?;
                before += batch.num_rows();
            }
            Ok(Rows::Held(rows))
        }
        Rows::Streamed(source) => Ok(Rows::Streamed(Arc::new(Asked { slice, source }))),
    }
}

impl Store {
    /// Stages the delete and the append as one update, which conflicts as the delete does.
    pub(super) async fn replace(
        &self,
        dataset: Arc<Dataset>,
        table: &TableName,
        whole: String,
        rows: Rows,
    ) -> Result<Staged> {
        let added = insert(dataset.clone(), table, rows, WriteMode::Append).await?;
        let deleted = match delete(dataset.clone(), whole).await {
            Ok(deleted) => deleted,
            Err(e) => {
                self.unstage(&dataset, &added.operation).await;
                return Err(e);
            }
        };
        let (
            Operation::Delete {
                updated_fragments,
                deleted_fragment_ids,
                ..
            },
            Operation::Append { fragments },
        ) = (deleted.operation, added.operation)
        else {
            return Err(Error::internal("a slice is no delete and append"));
        };
        let operation = Operation::Update {
            removed_fragment_ids: deleted_fragment_ids,
            updated_fragments,
            new_fragments: fragments,
            fields_modified: Vec::new(),
            compacted_sstables: Vec::new(),
            fields_for_preserving_frag_bitmap: Vec::new(),
            // None of the new rows is an old one that moved, so no index covers them yet.
            update_mode: None,
            inserted_rows_filter: None,
            updated_fragment_offsets: None,
        };
        let rows = RowCounts {
            deleted: deleted.rows.deleted,
            ..added.rows
        };
        Ok(Staged {
            affected_rows: deleted.affected_rows,
            ..Staged::new(operation, rows)
        })
    }
}
