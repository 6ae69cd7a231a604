//! Staging: a write becomes data files and an uncommitted Lance transaction on the pinned version, once it was checked.

use super::alter::{self, Alteration};
use super::created::check_create;
use super::delete::{delete, runnable};
use super::evolve;
use super::merge::{When, delete_keys, merge};
use super::refusal::{unkept, unreadable};
use super::replace;
use super::streamed::{Rows, insert};
use super::validate::{check_key, conform};
use crate::error::{Error, ErrorKind, Result, caught, quoted};
use crate::ids::{Key, TableName};
use crate::proof::{Given, read_back};
use crate::store::state::TableEntry;
use crate::store::{Store, fragments_of, own_file};
use arrow_array::RecordBatch;
use arrow_schema::Schema;
use futures::FutureExt;
use lance::dataset::transaction::Operation;
use lance::dataset::write::merge_insert::UncommittedMergeInsert;
use lance::dataset::{Dataset, WriteMode, WriteParams};
use lance_select::RowAddrTreeMap;
use object_store::ObjectStoreExt;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;

/// One table's part of a logical commit.
#[derive(Debug, Clone)]
pub enum Write {
    /// Adds rows.
    Append(Rows),
    /// Replaces the whole content.
    Overwrite(Rows),
    /// Replaces the rows that a SQL predicate selects by others that it selects too.
    Replace {
        /// The predicate.
        predicate: String,
        /// The rows.
        rows: Rows,
    },
    /// Adds rows, replaces those with the same key, or both.
    Merge {
        /// The key.
        key: Key,
        /// Which rows count.
        when: When,
        /// The rows.
        rows: Vec<RecordBatch>,
    },
    /// Deletes the rows whose key is among these.
    DeleteKeys {
        /// The key.
        key: Key,
        /// Rows with at least the key's columns.
        rows: Vec<RecordBatch>,
    },
    /// Deletes the rows that a SQL predicate selects.
    Delete {
        /// The predicate.
        predicate: String,
    },
    /// Changes a column.
    Alter(Alteration),
    /// Adds or widens columns, and writes rows that have them.
    Evolve {
        /// What the rows need; what is done already is passed over.
        alterations: Vec<Alteration>,
        /// An append or a merge.
        then: Box<Write>,
    },
    /// Makes an empty table.
    Create {
        /// Its columns.
        schema: Arc<Schema>,
        /// Its key.
        key: Option<Key>,
    },
}

impl Write {
    /// The rows that it adds as they come.
    pub(super) fn added(&self) -> Option<&Rows> {
        match self {
            Self::Append(rows) | Self::Overwrite(rows) | Self::Replace { rows, .. } => Some(rows),
            Self::Evolve { then, .. } => then.added(),
            Self::Merge { .. }
            | Self::DeleteKeys { .. }
            | Self::Delete { .. }
            | Self::Alter(_)
            | Self::Create { .. } => None,
        }
    }

    /// The rows that it holds.
    pub(super) fn held(&self) -> &[RecordBatch] {
        match self {
            Self::Merge { rows, .. } | Self::DeleteKeys { rows, .. } => rows,
            Self::Evolve { then, .. } => then.held(),
            other => other.added().map_or(&[], Rows::held),
        }
    }

    /// How many rows it carries. Those of a stream are not known before it is staged.
    pub fn rows(&self) -> usize {
        self.held().iter().map(RecordBatch::num_rows).sum()
    }

    /// How much memory its rows take.
    pub fn bytes(&self) -> usize {
        let held = self.held().iter();
        held.map(RecordBatch::get_array_memory_size).sum()
    }

    /// What is done, for people.
    fn doing(&self) -> &'static str {
        match self {
            Self::Append(_) => "appending rows",
            Self::Overwrite(_) => "overwriting its rows",
            Self::Replace { .. } => "replacing rows",
            Self::Merge { .. } => "merging rows",
            Self::DeleteKeys { .. } | Self::Delete { .. } => "deleting rows",
            Self::Alter(_) => "changing a column",
            Self::Evolve { .. } => "changing columns and writing rows",
            Self::Create { .. } => "creating it",
        }
    }

    /// What it does to columns.
    pub fn alterations(&self) -> &[Alteration] {
        match self {
            Self::Alter(alteration) => std::slice::from_ref(alteration),
            Self::Evolve { alterations, .. } => alterations,
            _ => &[],
        }
    }

    /// Whether the table has other columns afterwards. Such a version says what fragments there are, so nothing may come
    /// between it and its base.
    pub(super) fn changes_columns(&self) -> bool {
        !self.alterations().is_empty()
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
    pub(super) table: &'a TableName,
    pub(super) path: &'a str,
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
    /// What has to be read back before a version refers to it.
    pub(super) unread: Option<Unread>,
}

/// A write whose files nobody has read yet.
#[derive(Debug, Clone)]
pub(super) struct Unread {
    table: TableName,
    on: Arc<Dataset>,
    write: Write,
}

impl Staged {
    pub(super) fn new(operation: Operation, rows: RowCounts) -> Self {
        Self {
            operation,
            affected_rows: None,
            rows,
            unread: None,
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
            ..Self::new(merged.transaction.operation, rows)
        }
    }
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
            Write::Append(rows) => Write::Append(rows.conform(table, &schema)?),
            Write::Overwrite(rows) => Write::Overwrite(rows.conform(table, &schema)?),
            Write::Replace { predicate, rows } => {
                let whole = checked_predicate(table, &dataset, predicate)?;
                let rows = replace::check(table, &dataset, (predicate, &whole), rows)?;
                Write::Replace {
                    predicate: whole,
                    rows,
                }
            }
            Write::Merge { key, when, rows } => {
                let rows = conform(table, &schema, rows)?;
                check_key(table, key, &rows)?;
                Write::Merge {
                    key: key.clone(),
                    when: *when,
                    rows,
                }
            }
            Write::DeleteKeys { key, rows } => {
                check_key(table, key, rows)?;
                write.clone()
            }
            Write::Delete { predicate } => Write::Delete {
                predicate: checked_predicate(table, &dataset, predicate)?,
            },
            Write::Alter(alteration) => {
                alter::check(&dataset, table, alteration).await?;
                write.clone()
            }
            Write::Evolve { alterations, then } => {
                evolve::check(table, &dataset, alterations, then).await?
            }
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
        let staged = self.stage_unread(checked).await?;
        if let Err(e) = self.read_staged(&staged).await {
            if let Some(unread) = &staged.unread {
                self.unstage(&unread.on, &staged.operation).await;
            }
            return Err(e);
        }
        Ok(Staged {
            unread: None,
            ..staged
        })
    }

    /// Stages what was checked.
    pub(super) async fn stage_unread(&self, checked: Checked<'_>) -> Result<Staged> {
        let table = checked.table.clone();
        let (write, on) = (checked.write.clone(), checked.dataset.clone());
        let staged = caught(write.doing(), self.stage_files(checked)).await;
        let staged = staged.map_err(|e| unkept(e, &write).context(format!("table {table}")))?;
        Ok(Staged {
            unread: on.map(|on| Unread { table, on, write }),
            ..staged
        })
    }

    /// Reads back what `staged` put, if nobody has yet.
    ///
    /// # Errors
    /// `InvalidInput` when it is not what was given.
    pub(super) async fn read_staged(&self, staged: &Staged) -> Result<()> {
        let Some(Unread { table, on, write }) = &staged.unread else {
            return Ok(());
        };
        let Some(given) = given(write, staged.rows, table, on) else {
            return Ok(());
        };
        let schema = match &staged.operation {
            Operation::Overwrite { schema, .. } => schema,
            _ => on.schema(),
        };
        let fragments = fragments_of(&staged.operation);
        let read = read_back(on, schema, fragments, given).await;
        read.map_err(|e| unreadable(e).context(format!("table {table}")))
    }

    async fn stage_files(&self, checked: Checked<'_>) -> Result<Staged> {
        match (checked.dataset, checked.write) {
            (Some(on), Write::Append(rows)) => {
                insert(on, checked.table, rows, WriteMode::Append).await
            }
            (Some(on), Write::Overwrite(rows)) => {
                insert(on, checked.table, rows, WriteMode::Overwrite).await
            }
            (Some(on), Write::Replace { predicate, rows }) => {
                self.replace(on, checked.table, predicate, rows).await
            }
            (Some(on), Write::Merge { key, when, rows }) => merge(on, &key, when, rows).await,
            (Some(on), Write::DeleteKeys { key, rows }) => delete_keys(on, &key, &rows).await,
            (Some(on), Write::Delete { predicate }) => delete(on, predicate).await,
            (Some(on), Write::Alter(alteration)) => {
                let at = (checked.table, checked.path);
                self.stage_alteration(at, &on, &alteration).boxed().await
            }
            (Some(on), Write::Evolve { alterations, then }) => {
                let at = (checked.table, checked.path);
                self.stage_evolution(at, &on, &alterations, &then).await
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
}

/// What a write that did `counts` was given to stage. A merge writes a row for each that it replaces, so where a key stands
/// twice in the table, more rows than it was given; one that only inserts or updates passes over the others.
fn given<'a>(
    write: &'a Write,
    counts: RowCounts,
    table: &TableName,
    on: &Dataset,
) -> Option<Given<'a>> {
    match write {
        // Read back when its rows were staged.
        Write::Evolve { .. } => None,
        Write::Merge { key, rows, .. } => {
            let written = counts.inserted + counts.updated;
            if written == write.rows() as u64 {
                Some(Given::InAnyOrder {
                    rows,
                    key: key.columns(),
                })
            } else {
                Some(Given::Rows(written))
            }
        }
        other => other.added().map(|rows| rows.given(table, on)),
    }
}

fn checked_predicate(table: &TableName, dataset: &Dataset, predicate: &str) -> Result<String> {
    runnable(dataset, predicate)
        .map_err(|e| e.context(format!("table {table}: predicate {}", quoted(predicate))))
}
