//! Commands that change content.

use super::Context;
use super::args::{
    AgentArgs, CommitArgs, CommitFlags, CreateArgs, DeleteArgs, WriteArgs, WriteMode,
};
use super::inputs::{Inputs, Skipped};
use super::progress::{Line, of_inputs};
use crate::agent;
use crate::config::parse_listen;
use crate::formats::{self, Coercion, Given, Input, Meter, Setting, Shape, check_coercions};
use crate::input::batch::Mode;
use crate::input::load;
use crate::input::streamed::Changes;
use crate::place::{beside, check_outside, table_name, watch_of};
use serde_json::{Value, json};
use squire_engine::commit::{Change, CommitRequest, Outcome, RowCounts, TableWrite, When, Write};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::{Key, TableName};
use squire_engine::recovery::Watch as RecoveryWatch;
use squire_engine::store::Store;
use squire_engine::store::location::check_lasting;
use std::collections::BTreeMap;
use std::process::ExitCode;

pub(super) async fn init(context: &Context, uri: &str) -> Result<ExitCode> {
    check_lasting(uri)?;
    let mut options = context.options.clone();
    options.storage_options = watch_of(&context.config, uri)
        .storage_options
        .into_iter()
        .collect();
    // Runs on what were plain tables end here: a store does not ask for their records.
    let plain = Store::connect(uri, options.clone()).await?;
    if !plain.has_manifest().await? {
        plain
            .recover_plain(None, &mut RecoveryWatch::default(), true)
            .await?;
    }
    let store = Store::init(uri, options).await?;
    let beside = beside(&store).await;
    let mut lines = vec![format!("made a store at {}", store.uri())];
    lines.extend(beside.iter().map(ToString::to_string));
    let document = json!({ "store": store.uri(), "skipped": beside });
    context.out.print(&document, &lines);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let table = table_name(&args.table)?;
    let schema = match (&args.like, &args.schema) {
        (Some(file), _) => formats::schema_of(&Input::file(file), &context.config.agent.input),
        (None, Some(file)) => formats::read_schema_file(file),
        (None, None) => return Err(Error::invalid("give --like FILE or --schema FILE")),
    }
    .map_err(load::format_error)?;
    let key = args.key;
    let request = CommitRequest::new(vec![TableWrite {
        table: table.clone(),
        write: Write::Create {
            schema: schema.clone(),
            key: key.clone(),
        },
    }]);
    let exists = match store.commit(&request).await {
        Ok(outcome) => return report(context, &outcome, &Told::default()),
        Err(e) if args.if_missing && e.kind() == ErrorKind::Refused => e,
        Err(e) => return Err(e),
    };
    let snapshot = store.load().await?;
    let Some(entry) = snapshot.state.tables.get(&table) else {
        return Err(exists);
    };
    let compared = store.differences(&snapshot, &table, &schema, key.as_ref());
    let differences = compared.await?;
    if !differences.is_empty() {
        let differences = differences.join("; ");
        let other = format!("table {table} is there already, and another one: {differences}");
        return Err(Error::invalid(other));
    }
    let document = json!({ "outcome": "exists", "table": table, "version": entry.version });
    let line = format!("table {table} is there already, with these columns and this key");
    context.out.print(&document, &[line]);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn write(context: &Context, args: WriteArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let table = table_name(&args.table)?;
    let snapshot = store.load().await?;
    let shape = shape_of(&args, &context.config.agent.coerce)?;
    let inputs = Inputs::of(&args.files, args.format)?;
    let (on, config) = ((store.as_ref(), &snapshot), &context.config.agent);
    let read = (inputs.inputs.as_slice(), &shape);
    let mode = mode_of(args.mode, args.key, args.predicate, args.allow_empty)?;
    let schema = args.schema_change.unwrap_or(config.schema);
    if args.schema_change.is_some() && !matches!(mode, Mode::Append | Mode::Merge { .. }) {
        return Err(Error::invalid(
            "--schema-change is only for the modes append, merge, insert and update",
        ));
    }
    let meter = Meter::default();
    let line = of_inputs(context, &meter);
    let written = load::write_of(on, &table, (mode, schema), read, config, &meter);
    let (write, coerced) = written.await?;
    meter.rest(args.commit.doing());
    let told = Told {
        coerced: vec![coerced],
        skipped: inputs.skipped,
        line,
        ..Told::default()
    };
    let writes = vec![TableWrite { table, write }];
    submit(context, &store, writes, args.commit, told).await
}

/// What the options say of the rows that are there.
fn mode_of(
    mode: WriteMode,
    key: Option<Key>,
    predicate: Option<String>,
    allow_empty: bool,
) -> Result<Mode> {
    let merge = |when| Mode::Merge {
        key: key.clone(),
        when,
    };
    if predicate.is_some() && mode != WriteMode::Replace {
        return Err(Error::invalid(
            "--where is only for --mode replace; see also `squire delete`",
        ));
    }
    Ok(match (mode, predicate) {
        (WriteMode::Append, _) => Mode::Append,
        (WriteMode::Merge, _) => merge(When::Upsert),
        (WriteMode::Insert, _) => merge(When::Insert),
        (WriteMode::Update, _) => merge(When::Update),
        (WriteMode::Overwrite, _) => Mode::Overwrite { allow_empty },
        (WriteMode::Replace, Some(predicate)) => Mode::Replace {
            predicate,
            allow_empty,
        },
        (WriteMode::Replace, None) => {
            return Err(Error::invalid(
                "--mode replace needs --where, the slice that the rows replace",
            ));
        }
    })
}

/// What the options say of the columns.
fn shape_of(args: &WriteArgs, usual: &[Coercion]) -> Result<Shape> {
    let coerce = if args.coerce.is_empty() {
        usual.to_vec()
    } else {
        args.coerce.clone()
    };
    let checked = check_coercions(&coerce);
    checked.map_err(|why| Error::invalid(format!("--coerce: {why}")))?;
    let columns = args.columns.iter().map(|text| {
        let (column, source) = pair("--column", text)?;
        Ok(Setting {
            at: format!("--column {text}"),
            line: None,
            column,
            value: source,
        })
    });
    let defaults = args.defaults.iter().map(|text| {
        let (column, value) = pair("--default", text)?;
        Ok(Setting {
            at: format!("--default {text}"),
            line: None,
            column,
            value: Given::Field(value),
        })
    });
    Ok(Shape {
        columns: columns.collect::<Result<_>>()?,
        defaults: defaults.collect::<Result<_>>()?,
        coerce,
    })
}

/// The two sides of `COLUMN=SOMETHING`.
fn pair(option: &str, text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((column, other)) if !column.is_empty() => Ok((column.to_owned(), other.to_owned())),
        _ => Err(Error::invalid(format!(
            "{option} {text}: is no pair; write COLUMN=..."
        ))),
    }
}

pub(super) async fn delete(context: &Context, args: DeleteArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let write = TableWrite {
        table: table_name(&args.table)?,
        write: Write::Delete {
            predicate: args.predicate,
        },
    };
    submit(context, &store, vec![write], args.commit, Told::default()).await
}

pub(super) async fn commit(context: &Context, args: CommitArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let meter = Meter::default();
    let line = of_inputs(context, &meter);
    let loaded = load::load(&store, &args.batch, &context.config.agent, &meter).await?;
    meter.rest(args.commit.doing());
    let mut request = loaded.request;
    let told = Told {
        coerced: loaded.coerced,
        line,
        ..Told::default()
    };
    request.batch = args.commit.batch_id.or(request.batch);
    if !args.commit.message.is_empty() {
        request.message = args.commit.message;
    }
    request.retries = args.commit.retries;
    request.reads.extend(args.commit.require);
    carry_out(context, &store, &request, args.commit.dry_run, told).await
}

pub(super) async fn submit(
    context: &Context,
    store: &Store,
    writes: Vec<TableWrite>,
    flags: CommitFlags,
    told: Told,
) -> Result<ExitCode> {
    let mut request = CommitRequest::new(writes);
    request.batch = flags.batch_id;
    request.message = flags.message;
    request.retries = flags.retries;
    request.reads.extend(flags.require);
    carry_out(context, store, &request, flags.dry_run, told).await
}

/// Commits, or says what that would do.
async fn carry_out(
    context: &Context,
    store: &Store,
    request: &CommitRequest,
    dry_run: bool,
    mut told: Told,
) -> Result<ExitCode> {
    for TableWrite { table, write } in &request.writes {
        let changes = write.alterations().iter();
        told.columns
            .extend(changes.map(|change| format!("{table}: {change}")));
    }
    if !dry_run {
        let outcome = store.commit(request).await?;
        told.line = None;
        return report(context, &outcome, &told);
    }
    let preview = store.preview(request).await?;
    told.line = None;
    let mut lines: Vec<String> = told.lines().collect();
    match preview.already_committed {
        Some(op) => lines.push(format!(
            "would commit nothing: operation {op} committed this batch id"
        )),
        None => lines.extend(preview.tables.iter().map(|table| {
            let counts = in_words(table.rows).unwrap_or_else(|| "no rows".to_owned());
            format!(
                "would commit to {} {}: {counts}",
                table.table, table.version
            )
        })),
    }
    let document = json!({
        "outcome": "dry_run",
        "already_committed": preview.already_committed,
        "tables": preview.tables,
    });
    context.out.print(&told.with(document), &lines);
    Ok(ExitCode::SUCCESS)
}

/// What there is to tell about the inputs of a write.
#[derive(Debug, Default)]
pub(super) struct Told {
    coerced: Vec<Changes>,
    skipped: Vec<Skipped>,
    /// What is done to columns.
    pub(super) columns: Vec<String>,
    /// What a terminal shows until there is an answer.
    line: Option<Line>,
}

impl Told {
    fn coerced(&self) -> Vec<load::Change> {
        self.coerced.iter().flat_map(Changes::all).collect()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let skipped = self.skipped.iter().map(ToString::to_string);
        let coerced = self.coerced().into_iter().map(|c| c.to_string());
        let columns = self.columns.iter().cloned();
        skipped.chain(coerced).chain(columns)
    }

    /// `document` with what was changed and passed over.
    fn with(&self, mut document: Value) -> Value {
        if let Value::Object(fields) = &mut document {
            fields.insert("coerced".to_owned(), json!(self.coerced()));
            fields.insert("skipped".to_owned(), json!(self.skipped));
            if !self.columns.is_empty() {
                fields.insert("columns".to_owned(), json!(self.columns));
            }
        }
        document
    }
}

fn report(context: &Context, outcome: &Outcome, told: &Told) -> Result<ExitCode> {
    let mut lines: Vec<String> = told.lines().collect();
    match outcome {
        Outcome::Committed(c) => {
            let tables: Vec<String> = c.tables.iter().map(|t| describe(t, &c.rows)).collect();
            lines.push(format!(
                "committed {} ({}; attempt {})",
                c.op,
                tables.join(", "),
                c.attempts
            ));
            let document = json!({
                "outcome": "committed", "op": c.op, "tables": c.tables, "rows": c.rows, "attempts": c.attempts
            });
            context.out.print(&told.with(document), &lines);
        }
        Outcome::AlreadyCommitted(op) => {
            lines.push(format!("already committed by {op}; nothing was done"));
            let document = json!({ "outcome": "already_committed", "op": op });
            context.out.print(&told.with(document), &lines);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `planes 3 -> 4: 10 inserted, 2 updated`; a create has no rows to tell of.
fn describe(change: &Change, rows: &BTreeMap<TableName, RowCounts>) -> String {
    let moved = format!("{} {} -> {}", change.table, change.from, change.to);
    let counts = rows.get(&change.table).copied().unwrap_or_default();
    match (in_words(counts), change.from) {
        (None, 0) => moved,
        (None, _) => format!("{moved}: no rows"),
        (Some(counts), _) => format!("{moved}: {counts}"),
    }
}

/// `10 inserted, 2 updated`; `None` for nothing.
fn in_words(counts: RowCounts) -> Option<String> {
    let counts = [
        (counts.inserted, "inserted"),
        (counts.updated, "updated"),
        (counts.deleted, "deleted"),
    ];
    let some = counts.into_iter().filter(|(rows, _)| *rows > 0);
    let told: Vec<String> = some.map(|(rows, what)| format!("{rows} {what}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

pub(super) async fn agent(context: &Context, args: AgentArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    check_outside(&store, &args.spool)?;
    let mut config = context.config.agent.clone();
    if let Some(listen) = &args.listen {
        config.listen =
            parse_listen(listen).map_err(|e| Error::invalid(format!("--listen: {e}")))?;
    }
    if let Some(flight) = &args.flight {
        config.flight.listen =
            parse_listen(flight).map_err(|e| Error::invalid(format!("--flight: {e}")))?;
    }
    let access = context.config.access_to_agent(store.uri());
    let options = agent::Options {
        spool: args.spool,
        config,
        access: access.map_err(|e| Error::invalid(e.to_string()))?,
        until_empty: args.until_empty,
    };
    let until_empty = options.until_empty;
    let summary = agent::run(store, options).await?;
    if until_empty {
        context.out.print(&summary, &agent_lines(&summary));
    }
    let all = summary.left.is_empty() && summary.failed.is_none();
    Ok(ExitCode::from(u8::from(until_empty && !all)))
}

/// How many entries that were left are named to people; `--json` names all.
const LEFT_SHOWN: usize = 20;

fn agent_lines(summary: &agent::Summary) -> Vec<String> {
    let mut lines = vec![format!(
        "committed {} ({} rows), already committed {}, rejected {}, left {}, no input {}",
        summary.committed,
        summary.rows,
        summary.already_committed,
        summary.rejected,
        summary.left.len(),
        summary.ignored
    )];
    let left = summary.left.iter().take(LEFT_SHOWN);
    lines.extend(left.map(|left| format!("left: {}: {}", left.entry, left.reason)));
    if let Some(more @ 1..) = summary.left.len().checked_sub(LEFT_SHOWN) {
        lines.push(format!("left: {more} more"));
    }
    lines.extend(summary.failed.iter().map(|what| format!("failed: {what}")));
    lines
}
