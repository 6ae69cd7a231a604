//! Loading: an entry of the spool, or a file or directory of the command line, becomes a commit request.

use super::batch::{BatchError, BatchSpec, Mode, TableInput};
use crate::formats::{self, FormatError, InputLimits};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use squire_engine::commit::{CommitRequest, TableWrite, Write};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::TableName;
use squire_engine::store::{Snapshot, Store};
use std::path::{Path, PathBuf};
use tokio::task::block_in_place;

/// A loaded batch.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) request: CommitRequest,
    pub(crate) rows: usize,
}

/// Loads the entry at `path`: one file or a batch directory.
pub(crate) async fn load(store: &Store, path: &Path, limits: &InputLimits) -> Result<Loaded> {
    load_on(store, &store.load().await?, path, limits).await
}

/// The same for the tables of `snapshot`.
pub(crate) async fn load_on(
    store: &Store,
    snapshot: &Snapshot,
    path: &Path,
    limits: &InputLimits,
) -> Result<Loaded> {
    let spec = block_in_place(|| BatchSpec::parse(path)).map_err(batch_error)?;
    let source = Source {
        store,
        snapshot,
        limits,
    };
    let mut writes = Vec::with_capacity(spec.tables.len());
    for input in spec.tables {
        let files: Vec<String> = input
            .files
            .iter()
            .map(|f| f.display().to_string())
            .collect();
        let named = if files.is_empty() {
            path.display().to_string()
        } else {
            files.join(", ")
        };
        let loaded = source.table(input).await;
        writes.push(loaded.map_err(|e| name_source(e, &named))?);
    }
    let mut request = CommitRequest::new(writes);
    request.batch = spec.batch_id;
    request.message = spec.message.unwrap_or(spec.name);
    let rows = request.writes.iter().map(|w| w.write.rows()).sum();
    Ok(Loaded { request, rows })
}

/// Says which file an error is about, unless it does so itself.
fn name_source(error: Error, named: &str) -> Error {
    if error.to_string().contains(named) {
        error
    } else {
        error.context(named)
    }
}

/// Replaces all of `table` by `rows`. To replace it by nothing is more often an export that failed than a wish.
pub(crate) fn overwrite(
    table: &TableName,
    rows: Vec<RecordBatch>,
    allow_empty: bool,
) -> Result<Write> {
    if !allow_empty && rows.iter().all(|batch| batch.num_rows() == 0) {
        return Err(Error::invalid(format!(
            "table {table}: the input has no rows, so overwriting would empty the table; if that is meant, say --allow-empty, or allow_empty = true in batch.toml"
        )));
    }
    Ok(Write::Overwrite(rows))
}

/// Reads files as rows of `table`.
pub(crate) async fn rows(
    store: &Store,
    snapshot: &Snapshot,
    table: &TableName,
    files: Vec<PathBuf>,
    limits: &InputLimits,
) -> Result<Vec<RecordBatch>> {
    let source = Source {
        store,
        snapshot,
        limits,
    };
    source.rows(table, files).await
}

/// What files are read for and within.
struct Source<'a> {
    store: &'a Store,
    snapshot: &'a Snapshot,
    limits: &'a InputLimits,
}

impl Source<'_> {
    async fn table(&self, input: TableInput) -> Result<TableWrite> {
        let table = TableName::new(input.table)?;
        let declared = self.snapshot.state.table(&table)?.key.clone();
        let key_of = |key: Option<String>| {
            key.or_else(|| declared.clone()).ok_or_else(|| {
                Error::invalid(format!(
                    "table {table} declares no key; name one with --key or key = \"...\" in batch.toml"
                ))
            })
        };
        let write = match input.mode {
            Mode::DeleteWhere { predicate } => Write::Delete { predicate },
            Mode::Append => Write::Append(self.rows(&table, input.files).await?),
            Mode::Overwrite { allow_empty } => {
                let rows = self.rows(&table, input.files).await?;
                overwrite(&table, rows, allow_empty)?
            }
            Mode::Merge { key } => {
                let key = key_of(key)?;
                let rows = self.rows(&table, input.files).await?;
                Write::Merge { key, rows }
            }
            Mode::DeleteByKey { key } => {
                let key = key_of(key)?;
                let rows = self.keys(&table, &key, input.files).await?;
                Write::DeleteKeys { key, rows }
            }
        };
        Ok(TableWrite { table, write })
    }

    async fn schema(&self, table: &TableName) -> Result<Schema> {
        let entry = self.snapshot.state.table(table)?;
        // A damaged table makes no input bad.
        let dataset = self.store.open_pinned(entry).await;
        let dataset = dataset.map_err(Error::of_what_stands)?;
        Ok(Schema::from(dataset.schema()))
    }

    async fn rows(&self, table: &TableName, files: Vec<PathBuf>) -> Result<Vec<RecordBatch>> {
        let schema = self.schema(table).await?;
        self.read(files, &schema)
    }

    /// Reads files of which only the key column counts.
    async fn keys(
        &self,
        table: &TableName,
        key: &str,
        files: Vec<PathBuf>,
    ) -> Result<Vec<RecordBatch>> {
        let schema = self.schema(table).await?;
        schema
            .field_with_name(key)
            .map_err(|_| Error::invalid(format!("table {table} has no key column {key:?}")))?;
        let mut batches = Vec::new();
        for file in files {
            // Whatever other columns of the table the file has may be there; the key must.
            let given = block_in_place(|| formats::schema_of(&file, self.limits));
            let given = given.map_err(format_error)?;
            let fields: Vec<_> = schema
                .fields()
                .iter()
                .filter(|f| f.name() == key || given.field_with_name(f.name()).is_ok())
                .cloned()
                .collect();
            batches.extend(self.read(vec![file], &Schema::new(fields))?);
        }
        Ok(batches)
    }

    fn read(&self, files: Vec<PathBuf>, schema: &Schema) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for file in files {
            let read = block_in_place(|| formats::read(&file, Some(schema), self.limits));
            batches.extend(read.map_err(format_error)?);
        }
        Ok(batches)
    }
}

/// Whether the input itself is wrong, so that trying again cannot help.
pub(crate) fn is_bad_input(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound)
}

fn never_opens(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Io;
    matches!(
        error.kind(),
        Io::NotFound | Io::PermissionDenied | Io::IsADirectory | Io::NotADirectory
    )
}

pub(crate) fn format_error(error: FormatError) -> Error {
    let kind = match &error {
        FormatError::Io { source, .. } if !never_opens(source) => ErrorKind::Storage,
        _ => ErrorKind::InvalidInput,
    };
    Error::new(kind, error.to_string())
}

fn batch_error(error: BatchError) -> Error {
    match error {
        BatchError::Format(error) => format_error(error),
        // A claimed entry is ours: when it cannot be opened now, it never can.
        BatchError::Io { ref source, .. } if never_opens(source) => {
            Error::invalid(error.to_string())
        }
        BatchError::Io { .. } => Error::new(ErrorKind::Storage, error.to_string()),
        other => Error::invalid(other.to_string()),
    }
}
