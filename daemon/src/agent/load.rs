//! Loading: an entry of the spool, or a file or directory of the command line, becomes a commit request.

use super::batch::{BatchError, BatchSpec, Mode, TableInput};
use super::reason::Place;
use super::streamed::{Changes, Standing, Streamed};
use crate::config::AgentConfig;
use crate::formats::{self, Coerced, FormatError, Input, InputLimits, Reading, Shape};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use serde::Serialize;
use squire_engine::commit::{CommitRequest, RowSource, TableWrite, Write};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::TableName;
use squire_engine::store::{Snapshot, Store};
use std::path::Path;
use std::sync::Arc;
use tokio::task::block_in_place;

/// A loaded batch.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) request: CommitRequest,
    /// Those that are held; a stream's are counted when it is committed.
    pub(crate) rows: usize,
    /// What was changed of its values, by table.
    pub(crate) coerced: Vec<Changes>,
}

/// What was changed of the values of one file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Change {
    pub(crate) table: TableName,
    pub(crate) file: String,
    #[serde(flatten)]
    pub(crate) what: Coerced,
}

impl Change {
    pub(super) fn of(table: &TableName, input: &Input, coerced: Vec<Coerced>) -> Vec<Self> {
        let file = input.path().file_name().unwrap_or_default();
        let changes = coerced.into_iter().map(|what| Self {
            table: table.clone(),
            file: super::spool::shown(file),
            what,
        });
        changes.collect()
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// Rows of one table, and what was changed of them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) coerced: Vec<Change>,
}

/// Loads the entry at `path`: one file or a batch directory.
pub(crate) async fn load(store: &Store, path: &Path, config: &AgentConfig) -> Result<Loaded> {
    load_on((store, &store.load().await?), path, config, None).await
}

/// The same for the tables of a snapshot, and for an entry that may be moved before it is committed.
pub(crate) async fn load_on(
    (store, snapshot): (&Store, &Snapshot),
    path: &Path,
    config: &AgentConfig,
    standing: Option<Standing>,
) -> Result<Loaded> {
    let spec = block_in_place(|| BatchSpec::parse(path)).map_err(batch_error)?;
    let source = Source {
        store,
        snapshot,
        config,
        standing,
    };
    let mut writes = Vec::with_capacity(spec.tables.len());
    let mut coerced = Vec::new();
    for mut input in spec.tables {
        if !input.says_coerce {
            input.shape.coerce.clone_from(&config.coerce);
        }
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
        let table = input.table.clone();
        let loaded = source.table(input).await;
        let (write, changes) = loaded.map_err(|e| {
            let place = e.attached::<Place>().cloned().unwrap_or_default();
            let told = if place.is_of_settings() {
                e
            } else {
                name_source(e, &named)
            };
            told.with(place.of_table(&table))
        })?;
        writes.push(write);
        coerced.push(changes);
    }
    let mut request = CommitRequest::new(writes);
    request.read_for = Some(snapshot.clone());
    request.batch = spec.batch_id;
    request.message = spec.message.unwrap_or(spec.name);
    let rows = request.writes.iter().map(|w| w.write.rows()).sum();
    Ok(Loaded {
        request,
        rows,
        coerced,
    })
}

/// Says which file an error is about, unless it does so itself.
fn name_source(error: Error, named: &str) -> Error {
    if error.to_string().contains(named) {
        error
    } else {
        error.context(named)
    }
}

/// Rows that are added, or replace all others.
pub(crate) enum Incoming {
    /// They are held.
    Held(Vec<RecordBatch>),
    /// They are too many.
    Streamed(Arc<Streamed>),
}

impl Incoming {
    pub(crate) fn append(self) -> Write {
        match self {
            Self::Held(rows) => Write::Append(rows),
            Self::Streamed(source) => Write::Stream {
                source,
                replaces: false,
            },
        }
    }

    /// Replaces all of `table` by them. To replace it by nothing is more often an export that failed than a wish.
    pub(crate) fn overwrite(self, table: &TableName, allow_empty: bool) -> Result<Write> {
        match self {
            Self::Held(rows) => overwrite(table, rows, allow_empty),
            Self::Streamed(source) => Ok(Write::Stream {
                source,
                replaces: true,
            }),
        }
    }
}

fn overwrite(table: &TableName, rows: Vec<RecordBatch>, allow_empty: bool) -> Result<Write> {
    if !allow_empty && rows.iter().all(|batch| batch.num_rows() == 0) {
        return Err(Error::invalid(format!(
            "table {table}: the input has no rows, so overwriting would empty the table; if that is meant, say --allow-empty, or allow_empty = true in batch.toml"
        )));
    }
    Ok(Write::Overwrite(rows))
}

/// Reads inputs as rows that are merged into `table`, which are held whatever they take.
pub(crate) async fn rows(
    (store, snapshot): (&Store, &Snapshot),
    table: &TableName,
    (inputs, shape): (&[Input], &Shape),
    config: &AgentConfig,
) -> Result<Rows> {
    Source::of(store, snapshot, config)
        .rows(table, inputs, shape)
        .await
}

/// The same for rows that are added or replace all others; gives what is changed of their values besides.
pub(crate) async fn incoming(
    (store, snapshot): (&Store, &Snapshot),
    table: &TableName,
    (inputs, shape): (&[Input], &Shape),
    config: &AgentConfig,
) -> Result<(Incoming, Changes)> {
    Source::of(store, snapshot, config)
        .incoming(table, inputs, shape)
        .await
}

/// What files are read for and within.
struct Source<'a> {
    store: &'a Store,
    snapshot: &'a Snapshot,
    config: &'a AgentConfig,
    standing: Option<Standing>,
}

impl<'a> Source<'a> {
    /// Of files that nobody else writes to.
    fn of(store: &'a Store, snapshot: &'a Snapshot, config: &'a AgentConfig) -> Self {
        Self {
            store,
            snapshot,
            config,
            standing: None,
        }
    }

    fn limits(&self) -> &InputLimits {
        &self.config.input
    }

    async fn table(&self, input: TableInput) -> Result<(TableWrite, Changes)> {
        let table = TableName::new(input.table)?;
        let declared = self.snapshot.state.table(&table)?.key.clone();
        let key_of = |key: Option<String>| {
            key.or_else(|| declared.clone()).ok_or_else(|| {
                Error::invalid(format!(
                    "table {table} declares no key; name one with --key or key = \"...\" in batch.toml"
                ))
            })
        };
        let inputs: Vec<Input> = input.files.into_iter().map(Input::file).collect();
        let (inputs, shape) = (inputs.as_slice(), &input.shape);
        let (write, coerced) = match input.mode {
            Mode::DeleteWhere { predicate } => (Write::Delete { predicate }, Changes::default()),
            Mode::Append => {
                let (rows, coerced) = self.incoming(&table, inputs, shape).await?;
                (rows.append(), coerced)
            }
            Mode::Overwrite { allow_empty } => {
                let (rows, coerced) = self.incoming(&table, inputs, shape).await?;
                (rows.overwrite(&table, allow_empty)?, coerced)
            }
            Mode::Merge { key } => {
                let key = key_of(key)?;
                let rows = self.rows(&table, inputs, shape).await?;
                let (rows, coerced) = (rows.batches, rows.coerced);
                (Write::Merge { key, rows }, Changes::of(coerced))
            }
            Mode::DeleteByKey { key } => {
                let key = key_of(key)?;
                let rows = self.keys(&table, &key, inputs, shape).await?;
                let (rows, coerced) = (rows.batches, rows.coerced);
                (Write::DeleteKeys { key, rows }, Changes::of(coerced))
            }
        };
        Ok((TableWrite { table, write }, coerced))
    }

    async fn schema(&self, table: &TableName) -> Result<Schema> {
        let entry = self.snapshot.state.table(table)?;
        // A damaged table makes no input bad.
        let dataset = self.store.open_pinned(entry).await;
        let dataset = dataset.map_err(Error::of_what_stands)?;
        Ok(Schema::from(dataset.schema()))
    }

    /// Reads files whose rows are merged.
    async fn rows(&self, table: &TableName, inputs: &[Input], shape: &Shape) -> Result<Rows> {
        let schema = self.schema(table).await?;
        let reading = shape.reading(&schema).map_err(format_error)?;
        let reading = reading.merged_into(table.as_str());
        let mut rows = Rows::default();
        for input in inputs {
            self.read(table, input, &reading, &mut rows)?;
        }
        Ok(rows)
    }

    /// Reads inputs until they take more than a group of batches may; then they are left to be streamed.
    async fn incoming(
        &self,
        table: &TableName,
        inputs: &[Input],
        shape: &Shape,
    ) -> Result<(Incoming, Changes)> {
        let schema = self.schema(table).await?;
        let put_aside = |input: &Input| input.clone().put_aside(self.limits());
        let inputs = block_in_place(|| inputs.iter().map(put_aside).collect::<Result<_, _>>());
        let coerced = Changes::default();
        let streamed = Streamed {
            table: table.clone(),
            inputs: inputs.map_err(format_error)?,
            reading: shape.reading(&schema).map_err(format_error)?,
            limits: self.limits().clone(),
            standing: self.standing.clone(),
            coerced: coerced.clone(),
        };
        let (mut rows, mut bytes, mut is_more) = (Vec::new(), 0_u64, false);
        let read = streamed.read(&mut |batch| {
            bytes = bytes.saturating_add(formats::decoded_bytes(&batch));
            is_more = bytes > self.config.group_bytes;
            if is_more {
                return Err(Error::new(ErrorKind::Cancelled, "more than can be held"));
            }
            rows.push(batch);
            Ok(())
        });
        if is_more {
            return Ok((Incoming::Streamed(Arc::new(streamed)), coerced));
        }
        read.map(|()| (Incoming::Held(rows), coerced))
    }

    /// Reads files of which only the key column counts.
    async fn keys(
        &self,
        table: &TableName,
        key: &str,
        inputs: &[Input],
        shape: &Shape,
    ) -> Result<Rows> {
        let schema = self.schema(table).await?;
        schema
            .field_with_name(key)
            .map_err(|_| Error::invalid(format!("table {table} has no key column {key:?}")))?;
        let reading = shape.reading(&schema).map_err(format_error)?;
        let mut rows = Rows::default();
        for input in inputs {
            // Whatever other columns of the table the file has may be there; the key must.
            let given = self.names(input, &reading, key)?;
            let reading = reading.of_what_is_in(&given, key);
            self.read(table, input, &reading, &mut rows)?;
        }
        Ok(rows)
    }

    /// The columns of a file, of which the key is one, unless a default stands in for it.
    fn names(&self, input: &Input, reading: &Reading, key: &str) -> Result<Vec<String>> {
        let names = block_in_place(|| formats::names_of(input, self.limits()));
        let names = names.map_err(format_error)?;
        match reading.source_of(key) {
            Some(source) if !names.iter().any(|name| name == source) => {
                let shown = formats::Shown(input.path());
                Err(Error::invalid(format!(
                    "{shown}: the key column {source:?} is missing; add it"
                )))
            }
            _ => Ok(names),
        }
    }

    fn read(
        &self,
        table: &TableName,
        input: &Input,
        reading: &Reading,
        rows: &mut Rows,
    ) -> Result<()> {
        let coerced = block_in_place(|| {
            formats::read_into(input, Some(reading), self.limits(), &mut |batch| {
                rows.batches.push(batch);
                Ok(())
            })
        });
        let coerced = coerced.map_err(format_error)?;
        rows.coerced.extend(Change::of(table, input, coerced));
        Ok(())
    }
}

/// Whether the input itself is wrong, so that trying again cannot help.
pub(crate) fn is_bad_input(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound)
}

/// Whether no later look can go better. One that is not permitted may, when somebody mends the permissions.
pub(super) fn never_opens(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Io;
    matches!(
        error.kind(),
        Io::NotFound | Io::IsADirectory | Io::NotADirectory
    )
}

pub(crate) fn format_error(error: FormatError) -> Error {
    let kind = match &error {
        FormatError::Io { source, .. } if !never_opens(source) => ErrorKind::Storage,
        _ => ErrorKind::InvalidInput,
    };
    Error::new(kind, error.to_string()).with(Place::from(&error))
}

fn batch_error(error: BatchError) -> Error {
    let place = Place::from(&error);
    let error = match error {
        BatchError::Format(error) => format_error(error),
        BatchError::Io { ref source, .. } if never_opens(source) => {
            Error::invalid(error.to_string())
        }
        BatchError::Io { .. } => Error::new(ErrorKind::Storage, error.to_string()),
        other => Error::invalid(other.to_string()),
    };
    error.with(place)
}
