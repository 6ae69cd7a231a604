//! Loading: an entry of the spool, or a file or directory of the command line, becomes a commit request.

use super::Place;
use super::batch::{BatchError, BatchSpec, Mode, TableInput};
use super::evolution::Evolution;
use super::streamed::{Changes, Standing, Streamed};
use crate::config::{AgentConfig, SchemaChange};
use crate::formats::{self, Coerced, FormatError, Input, InputLimits, Meter, Reading, Shape};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use serde::Serialize;
use squire_engine::commit::{CommitRequest, Rows, TableWrite, When, Write};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::{Key, TableName};
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
            file: super::shown(file),
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

/// Rows that were read, and what was changed of them.
#[derive(Debug, Default)]
struct Read {
    batches: Vec<RecordBatch>,
    coerced: Vec<Change>,
}

/// Loads the entry at `path`: one file or a batch directory. `meter` is told what is read of it, now and later.
pub(crate) async fn load(
    store: &Store,
    path: &Path,
    config: &AgentConfig,
    meter: &Meter,
) -> Result<Loaded> {
    let on = (store, &store.load().await?);
    load_on(on, path, config, (None, meter)).await
}

/// The same for the tables of a snapshot, and for an entry that may be moved before it is committed.
pub(crate) async fn load_on(
    (store, snapshot): (&Store, &Snapshot),
    path: &Path,
    config: &AgentConfig,
    (standing, meter): (Option<Standing>, &Meter),
) -> Result<Loaded> {
    let spec = block_in_place(|| BatchSpec::parse(path)).map_err(batch_error)?;
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
        let source = Source {
            store,
            snapshot,
            config,
            standing: standing.clone(),
            meter: meter.of(&table),
        };
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
    for (table, snapshot) in spec.require {
        request.reads.insert(TableName::new(table)?, snapshot);
    }
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

/// Refuses to take away rows for none: that is more often an export that failed than a wish.
fn check_any(table: &TableName, rows: &Rows, allow_empty: bool, what: &str) -> Result<()> {
    let Rows::Held(held) = rows else {
        return Ok(());
    };
    if !allow_empty && held.iter().all(|batch| batch.num_rows() == 0) {
        return Err(Error::invalid(format!(
            "table {table}: the input has no rows, so {what}; if that is meant, say --allow-empty, or allow_empty = true in batch.toml"
        )));
    }
    Ok(())
}

/// What is done to `table` in `mode` with the rows of `inputs`, and what is changed of their values. Its columns change as far
/// as `schema` says. `meter` is told what is read, now and later.
pub(crate) async fn write_of(
    (store, snapshot): (&Store, &Snapshot),
    table: &TableName,
    (mode, schema): (Mode, SchemaChange),
    (inputs, shape): (&[Input], &Shape),
    config: &AgentConfig,
    meter: &Meter,
) -> Result<(Write, Changes)> {
    // Files that nobody else writes to.
    let source = Source {
        store,
        snapshot,
        config,
        standing: None,
        meter: meter.of(table.as_str()),
    };
    source.write(table, (mode, schema), (inputs, shape)).await
}

/// What files are read for and within.
struct Source<'a> {
    store: &'a Store,
    snapshot: &'a Snapshot,
    config: &'a AgentConfig,
    standing: Option<Standing>,
    meter: Meter,
}

impl Source<'_> {
    fn limits(&self) -> &InputLimits {
        &self.config.input
    }

    async fn table(&self, input: TableInput) -> Result<(TableWrite, Changes)> {
        let table = TableName::new(input.table)?;
        let inputs: Vec<Input> = input.files.into_iter().map(Input::file).collect();
        let change = (input.mode, input.schema.unwrap_or(self.config.schema));
        let written = self.write(&table, change, (&inputs, &input.shape)).await;
        let (write, coerced) = written?;
        Ok((TableWrite { table, write }, coerced))
    }

    /// Reads the inputs for the table as it is, and again for what it becomes where they need other columns.
    async fn write(
        &self,
        table: &TableName,
        (mode, schema): (Mode, SchemaChange),
        read: (&[Input], &Shape),
    ) -> Result<(Write, Changes)> {
        let allowed = match mode {
            Mode::Append | Mode::Merge { .. } => schema,
            _ => SchemaChange::Strict,
        };
        let mut evolution = Evolution::of(self.schema(table).await?, allowed);
        let (inputs, shape) = read;
        let metered = inputs
            .iter()
            .map(|input| input.clone().metered(&self.meter));
        let inputs: Vec<Input> = metered.collect();
        let read = (inputs.as_slice(), shape);
        loop {
            match self.write_as(table, mode.clone(), &evolution, read) {
                Ok((write, coerced)) => return Ok((evolution.then(write), coerced)),
                Err(refused) => evolution.follow(refused, read, self.limits())?,
            }
        }
    }

    fn write_as(
        &self,
        table: &TableName,
        mode: Mode,
        evolution: &Evolution,
        (inputs, shape): (&[Input], &Shape),
    ) -> Result<(Write, Changes)> {
        let read = (evolution, inputs, shape);
        let declared = &self.snapshot.state.table(table)?.key;
        let key_of = |key: Option<Key>| match (key, declared) {
            (Some(key), Some(declared)) if !key.is_of_the_columns_of(declared) => {
                Err(Error::invalid(format!(
                    "table {table} declares the key {declared}, by which its rows are told apart; leave out the key {key}"
                )))
            }
            (Some(key), _) => Ok(key),
            (None, Some(declared)) => Ok(declared.clone()),
            (None, None) => Err(Error::invalid(format!(
                "table {table} declares no key; name one with --key or key = \"...\" in batch.toml"
            ))),
        };
        Ok(match mode {
            Mode::DeleteWhere { predicate } => (Write::Delete { predicate }, Changes::default()),
            Mode::Append => {
                let (rows, coerced) = self.incoming(table, read)?;
                (Write::Append(rows), coerced)
            }
            Mode::Overwrite { allow_empty } => {
                let (rows, coerced) = self.incoming(table, read)?;
                check_any(
                    table,
                    &rows,
                    allow_empty,
                    "overwriting would empty the table",
                )?;
                (Write::Overwrite(rows), coerced)
            }
            Mode::Replace {
                predicate,
                allow_empty,
            } => {
                let (rows, coerced) = self.incoming(table, read)?;
                check_any(
                    table,
                    &rows,
                    allow_empty,
                    "replacing would only delete the slice",
                )?;
                (Write::Replace { predicate, rows }, coerced)
            }
            Mode::Merge { key, when } => {
                let key = key_of(key)?;
                let rows = self.merged(table, when, read)?;
                let (rows, coerced) = (rows.batches, Changes::of(rows.coerced));
                (Write::Merge { key, when, rows }, coerced)
            }
            Mode::DeleteByKey { key } => {
                let key = key_of(key)?;
                let rows = self.keys(table, &key, read)?;
                let (rows, coerced) = (rows.batches, Changes::of(rows.coerced));
                (Write::DeleteKeys { key, rows }, coerced)
            }
        })
    }

    async fn schema(&self, table: &TableName) -> Result<Schema> {
        let entry = self.snapshot.state.table(table)?;
        // A damaged table makes no input bad.
        let dataset = self.store.open_pinned(entry).await;
        let dataset = dataset.map_err(Error::of_what_stands)?;
        Ok(Schema::from(dataset.schema()))
    }

    /// Reads rows that are merged: they are held, whatever they take.
    fn merged(
        &self,
        table: &TableName,
        when: When,
        (evolution, inputs, shape): (&Evolution, &[Input], &Shape),
    ) -> Result<Read> {
        let reading = shape.reading(&evolution.target()).map_err(format_error)?;
        // Rows that are only added replace none.
        let reading = match when {
            When::Insert => reading,
            When::Upsert | When::Update => reading.merged_into(table.as_str()),
        };
        self.meter.begin("reading for", inputs);
        let mut rows = Read::default();
        for input in inputs {
            self.read(table, input, &reading, &mut rows)?;
        }
        Ok(rows)
    }

    /// Reads inputs until they take more than a group of batches may; then they are left to be streamed, and only read on for
    /// what they need of the table.
    fn incoming(
        &self,
        table: &TableName,
        (evolution, inputs, shape): (&Evolution, &[Input], &Shape),
    ) -> Result<(Rows, Changes)> {
        self.meter.begin("reading for", inputs);
        let put_aside = |input: &Input| input.clone().put_aside(self.limits());
        let inputs = block_in_place(|| inputs.iter().map(put_aside).collect::<Result<_, _>>());
        let coerced = Changes::default();
        let streamed = Streamed {
            table: table.clone(),
            inputs: inputs.map_err(format_error)?,
            reading: shape.reading(&evolution.target()).map_err(format_error)?,
            limits: self.limits().clone(),
            standing: self.standing.clone(),
            coerced: coerced.clone(),
            meter: self.meter.clone(),
        };
        let (mut rows, mut bytes, mut is_more) = (Vec::new(), 0_u64, false);
        let read = streamed.read_for("reading for", &mut |batch| {
            bytes = bytes.saturating_add(formats::decoded_bytes(&batch));
            is_more = bytes > self.config.group_bytes;
            if is_more && evolution.is_open() {
                rows.clear();
                return Ok(());
            }
            if is_more {
                return Err(Error::new(ErrorKind::Cancelled, "more than can be held"));
            }
            rows.push(batch);
            Ok(())
        });
        if is_more {
            if evolution.is_open() {
                read?;
            }
            return Ok((Rows::Streamed(Arc::new(streamed)), coerced));
        }
        read.map(|()| (Rows::Held(rows), coerced))
    }

    /// Reads files of which only the key counts.
    fn keys(
        &self,
        table: &TableName,
        key: &Key,
        (evolution, inputs, shape): (&Evolution, &[Input], &Shape),
    ) -> Result<Read> {
        let schema = evolution.target();
        for column in key.columns() {
            schema.field_with_name(column).map_err(|_| {
                Error::invalid(format!("table {table} has no key column {column:?}"))
            })?;
        }
        let reading = shape.reading(&schema).map_err(format_error)?;
        self.meter.begin("reading for", inputs);
        let mut rows = Read::default();
        for input in inputs {
            // Whatever other columns of the table the file has may be there; the key must.
            let given = self.names(input, &reading, key)?;
            let reading = reading.of_what_is_in(&given, key.columns());
            self.read(table, input, &reading, &mut rows)?;
        }
        Ok(rows)
    }

    /// The columns of a file, with those of the key among them, unless a default stands in for one.
    fn names(&self, input: &Input, reading: &Reading, key: &Key) -> Result<Vec<String>> {
        let names = block_in_place(|| formats::names_of(input, self.limits()));
        let names = names.map_err(format_error)?;
        let mut sources = key
            .columns()
            .iter()
            .filter_map(|key| reading.source_of(key));
        match sources.find(|source| !names.iter().any(|name| name == source)) {
            Some(source) => {
                let shown = formats::Shown(input.path());
                Err(Error::invalid(format!(
                    "{shown}: the key column {source:?} is missing; add it"
                )))
            }
            None => Ok(names),
        }
    }

    fn read(
        &self,
        table: &TableName,
        input: &Input,
        reading: &Reading,
        rows: &mut Read,
    ) -> Result<()> {
        let coerced = block_in_place(|| {
            formats::read_into(input, Some(reading), self.limits(), &mut |batch| {
                self.meter.rows(batch.num_rows());
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
    use ErrorKind::{InvalidInput, NotFound, Stale};
    matches!(error.kind(), InvalidInput | NotFound | Stale)
}

/// Whether no later look can go better. One that is not permitted may, when somebody mends the permissions.
pub(crate) fn never_opens(error: &std::io::Error) -> bool {
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
