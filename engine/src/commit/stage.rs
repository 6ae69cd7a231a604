//! Staging: a write becomes data files and an uncommitted Lance transaction on the pinned version, once it was checked.

use super::alter::{self, Alteration};
use super::predicate;
use super::refusal::{unkept, unless_it_cannot_run, unreadable};
use super::streamed::{RowSource, insert_streamed, rows_of};
use super::validate::{check_key, check_new, conform};
use crate::error::{Error, ErrorKind, Result, caught, quoted};
use crate::ids::TableName;
use crate::proof::{Given, read_back};
use crate::store::state::TableEntry;
use crate::store::{Slot, Store, fragments_of, own_file};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Schema, TimeUnit};
use futures::FutureExt;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::write::merge_insert::UncommittedMergeInsert;
use lance::dataset::{
    Dataset, DeleteBuilder, InsertBuilder, MergeInsertBuilder, WhenMatched, WhenNotMatched,
    WriteMode, WriteParams,
};
use lance_core::{ROW_ADDR, ROW_ID, ROW_OFFSET};
use lance_select::RowAddrTreeMap;
use object_store::ObjectStoreExt;
use serde::Serialize;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// Adds rows that are too many to be held, or replaces the whole content by them.
    Stream {
        /// The rows.
        source: Arc<dyn RowSource>,
        /// Whether they replace what is there.
        replaces: bool,
    },
    /// Changes a column.
    Alter(Alteration),
    /// Makes an empty table.
    Create {
        /// Its columns.
        schema: Arc<Schema>,
        /// Its key column.
        key: Option<String>,
    },
}

impl Write {
    /// How many rows it carries. Those of a stream are not known before it is staged.
    pub fn rows(&self) -> usize {
        match self {
            Self::Append(rows)
            | Self::Overwrite(rows)
            | Self::Merge { rows, .. }
            | Self::DeleteKeys { rows, .. } => rows.iter().map(RecordBatch::num_rows).sum(),
            Self::Stream { .. } | Self::Delete { .. } | Self::Alter(_) | Self::Create { .. } => 0,
        }
    }

    /// What is done, for people.
    fn doing(&self) -> &'static str {
        match self {
            Self::Append(_)
            | Self::Stream {
                replaces: false, ..
            } => "appending rows",
            Self::Overwrite(_) | Self::Stream { .. } => "overwriting its rows",
            Self::Merge { .. } => "merging rows",
            Self::DeleteKeys { .. } | Self::Delete { .. } => "deleting rows",
            Self::Alter(_) => "changing a column",
            Self::Create { .. } => "creating it",
        }
    }

    /// What it does to columns.
    pub fn alterations(&self) -> &[Alteration] {
        match self {
            Self::Alter(alteration) => std::slice::from_ref(alteration),
            _ => &[],
        }
    }

    /// Whether the table has other columns afterwards. Such a version says what fragments there are, so nothing may come
    /// between it and its base.
    pub(super) fn changes_columns(&self) -> bool {
        !self.alterations().is_empty()
    }

    /// How much memory its rows take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Append(rows)
            | Self::Overwrite(rows)
            | Self::Merge { rows, .. }
            | Self::DeleteKeys { rows, .. } => {
                rows.iter().map(RecordBatch::get_array_memory_size).sum()
            }
            Self::Stream { .. } | Self::Delete { .. } | Self::Alter(_) | Self::Create { .. } => 0,
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

/// A write that fits its table: the rows have its columns, the predicate is what will run. Nothing is put yet.
pub(super) struct Checked<'a> {
    table: &'a TableName,
    path: &'a str,
    /// The pinned version; `None` for a table that is being created.
    pub(super) dataset: Option<Arc<Dataset>>,
    pub(super) write: Write,
}

/// A staged write. Its transaction is committed by this process only (fact 15).
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) operation: Operation,
    pub(super) affected_rows: Option<RowAddrTreeMap>,
    pub(super) rows: RowCounts,
}

impl Staged {
    pub(super) fn new(transaction: Transaction, rows: RowCounts) -> Self {
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

pub(super) fn write_params(mode: WriteMode) -> WriteParams {
    WriteParams {
        mode,
        skip_auto_cleanup: true,
        ..WriteParams::default()
    }
}

impl Store {
    /// Checks `write` against `entry`'s pinned version; `None` stands for a table that is being created at `path`.
    pub(super) async fn check<'a>(
        &self,
        table: &'a TableName,
        entry: Option<&TableEntry>,
        path: &'a str,
        write: &Write,
    ) -> Result<Checked<'a>> {
        let Some(entry) = entry else {
            check_create(table, write)?;
            return Ok(Checked {
                table,
                path,
                dataset: None,
                write: write.clone(),
            });
        };
        let opened = self.open_pinned(entry).await;
        let opened = opened.map_err(Error::of_what_stands)?;
        let dataset = Arc::new(self.writing(opened.as_ref()));
        let schema = Schema::from(dataset.schema());
        let write = match write {
            Write::Append(rows) => Write::Append(conform(table, &schema, rows)?),
            Write::Overwrite(rows) => Write::Overwrite(conform(table, &schema, rows)?),
            Write::Merge { key, rows } => {
                let rows = conform(table, &schema, rows)?;
                check_key(table, key, &rows)?;
                Write::Merge {
                    key: key.clone(),
                    rows,
                }
            }
            Write::DeleteKeys { key, rows } => {
                check_key(table, key, rows)?;
                write.clone()
            }
            Write::Delete { predicate } => {
                let runs = runnable(&dataset, predicate);
                let told =
                    |e: Error| e.context(format!("table {table}: predicate {}", quoted(predicate)));
                Write::Delete {
                    predicate: runs.map_err(told)?,
                }
            }
            Write::Alter(alteration) => {
                alter::check(&dataset, table, alteration).await?;
                write.clone()
            }
            // Its rows are checked as they are staged, and what was staged goes when they do not fit.
            Write::Stream { .. } => write.clone(),
            Write::Create { .. } => {
                let exists = format!("table {table} exists already");
                return Err(Error::new(ErrorKind::Refused, exists));
            }
        };
        Ok(Checked {
            table,
            path,
            dataset: Some(dataset),
            write,
        })
    }

    /// Stages what was checked, and reads it back.
    pub(super) async fn stage(&self, checked: Checked<'_>) -> Result<Staged> {
        let table = checked.table;
        let told = |e: Error| e.context(format!("table {table}"));
        let (write, dataset) = (checked.write.clone(), checked.dataset.clone());
        let staged = caught(write.doing(), self.stage_unread(checked)).await;
        let staged = staged.map_err(|e| told(unkept(e, &write)))?;
        let Some(on) = dataset else {
            return Ok(staged);
        };
        if let Some(given) = given(&write, staged.rows, table, &on) {
            let schema = match &staged.operation {
                Operation::Overwrite { schema, .. } => schema,
                _ => on.schema(),
            };
            let fragments = fragments_of(&staged.operation);
            if let Err(e) = read_back(&on, schema, fragments, given).await {
                self.unstage(&on, &staged.operation).await;
                return Err(told(unreadable(e)));
            }
        }
        Ok(staged)
    }

    async fn stage_unread(&self, checked: Checked<'_>) -> Result<Staged> {
        match (checked.dataset, checked.write) {
            (Some(on), Write::Append(rows)) => insert(on, rows, WriteMode::Append).await,
            (Some(on), Write::Overwrite(rows)) => insert(on, rows, WriteMode::Overwrite).await,
            (Some(on), Write::Stream { source, replaces }) => {
                insert_streamed(on, checked.table, source, replaces).await
            }
            (Some(on), Write::Merge { key, rows }) => merge(on, &key, rows).await,
            (Some(on), Write::DeleteKeys { key, rows }) => delete_keys(on, &key, &rows).await,
            (Some(on), Write::Delete { predicate }) => delete(on, predicate).await,
            (Some(on), Write::Alter(alteration)) => {
                let at = (checked.table, checked.path);
                self.stage_alteration(at, &on, &alteration).boxed().await
            }
            (None, Write::Create { schema, .. }) => self.stage_create(checked.path, schema).await,
            (Some(_), Write::Create { .. }) | (None, _) => {
                Err(Error::internal("the write does not belong to the table"))
            }
        }
    }

    /// Takes the data files away that `operation` adds to `on` and that no sidecar and no version names. Best effort: what
    /// stays is for cleanup.
    pub(super) async fn unstage(&self, on: &Dataset, operation: &Operation) {
        let old = on.manifest().fragments.iter().flat_map(|f| &f.files);
        let old: HashSet<&str> = old.map(|file| file.path.as_str()).collect();
        let files = fragments_of(operation).iter().flat_map(|f| &f.files);
        let new = files.filter(|file| !old.contains(file.path.as_str()));
        for path in new.filter_map(|file| own_file(on, file)) {
            if let Err(e) = self.objects.inner.delete(&path).await {
                tracing::debug!(%path, error = %e, "a staged file is left for cleanup");
            }
        }
    }

    async fn stage_create(&self, path: &str, schema: Arc<Schema>) -> Result<Staged> {
        let params = WriteParams {
            store_params: Some(self.params().clone()),
            commit_handler: Some(Arc::new(self.guard().at(Slot::ours(1)))),
            session: Some(self.session()),
            ..write_params(WriteMode::Create)
        };
        let uri = self.writing_uri(path)?;
        let transaction = InsertBuilder::new(uri.as_str())
            .with_params(&params)
            .execute_uncommitted(empty_batch(schema))
            .await?;
        Ok(Staged::new(transaction, RowCounts::default()))
    }
}

/// What a write that did `counts` was given to stage. A merge writes a row for each that it replaces, so where a key stands
/// twice in the table, more rows than it was given.
fn given<'a>(
    write: &'a Write,
    counts: RowCounts,
    table: &TableName,
    on: &Dataset,
) -> Option<Given<'a>> {
    match write {
        Write::Stream { source, .. } => {
            let rows = rows_of(source.clone(), table, Schema::from(on.schema()));
            Some(Given::Streamed(rows))
        }
        Write::Append(rows) | Write::Overwrite(rows) => Some(Given::InOrder(rows)),
        Write::Merge { key, rows } => {
            let written = counts.inserted + counts.updated;
            if written == write.rows() as u64 {
                Some(Given::InAnyOrder { rows, key })
            } else {
                Some(Given::Rows(written))
            }
        }
        Write::DeleteKeys { .. }
        | Write::Delete { .. }
        | Write::Alter(_)
        | Write::Create { .. } => None,
    }
}

fn check_create(table: &TableName, write: &Write) -> Result<()> {
    let Write::Create { schema, key } = write else {
        return Err(Error::internal(format!(
            "table {table} is not visible and not being created"
        )));
    };
    check_new(table, schema, key.as_deref())
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

/// What Lance calls where a row lies: no column of anybody's, and another after each rewrite.
const POSITIONS: [&str; 3] = [ROW_ID, ROW_ADDR, ROW_OFFSET];

/// How values are written that Lance's planner does not take as they stand.
const LITERALS: &str = "write a time as timestamp '2024-01-31T12:00:00', a day as date '2024-01-31', and a decimal as cast('1.24' as decimal(10, 2))";

/// `predicate` as it runs on `dataset`. Lance reports one that does not parse as an execution error; asking the planner
/// first tells bad input from bad storage.
fn runnable(dataset: &Dataset, predicate: &str) -> Result<String> {
    let whole = predicate::whole(predicate)?;
    let unfit = || Error::invalid("the predicate does not fit the table");
    let planned = catch_unwind(AssertUnwindSafe(|| {
        let mut scan = dataset.scan();
        scan.filter(&whole)?.get_expr_filter()
    }));
    let expression = match planned {
        Ok(planned) => planned.map_err(|e| match e.to_string().contains("Received literal") {
            true => unfit().advice(LITERALS).caused_by(e),
            false => unfit().caused_by(e),
        })?,
        // Lance has not written out every kind of literal.
        Err(_) => {
            return Err(
                unfit().context("placeholders and literals with a prefix are not supported")
            );
        }
    };
    let columns: Vec<String> = expression
        .iter()
        .flat_map(|e| {
            let columns = e.column_refs().into_iter();
            columns.map(|column| column.name.clone())
        })
        .collect();
    check_times(dataset, predicate, &columns)?;
    let reads = columns
        .iter()
        .any(|column| !POSITIONS.contains(&column.as_str()));
    if !reads && !predicate::means_every_row(predicate) {
        return Err(Error::invalid(
            "it reads no column of the table, so it means every row, none, or whatever stands at a place now; name a column, or write true to delete every row",
        ));
    }
    Ok(whole)
}

/// Refuses a point in time that is finer than one of `columns` keeps: cut off, it would be another.
fn check_times(dataset: &Dataset, predicate: &str, columns: &[String]) -> Result<()> {
    let digits = predicate::digits_of_second(predicate);
    for column in columns {
        let kept = match dataset
            .schema()
            .field(column)
            .map(|field| field.data_type())
        {
            Some(DataType::Timestamp(unit, _)) => match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            },
            _ => continue,
        };
        if digits > kept {
            return Err(Error::invalid(format!(
                "a time in the predicate has {digits} digits behind the second, and column {column} keeps {kept}: no row is at that time; write a time that the column can hold"
            )));
        }
    }
    Ok(())
}

async fn delete(dataset: Arc<Dataset>, runnable: String) -> Result<Staged> {
    let deleted = DeleteBuilder::new(dataset, runnable.as_str())
        .conflict_retries(0)
        .execute_uncommitted()
        .await
        .map_err(|e| unless_it_cannot_run(e, &runnable))?;
    let rows = RowCounts {
        deleted: deleted.num_deleted_rows,
        ..RowCounts::default()
    };
    Ok(Staged {
        affected_rows: deleted.affected_rows,
        ..Staged::new(deleted.transaction, rows)
    })
}
