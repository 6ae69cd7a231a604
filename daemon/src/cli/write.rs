//! Commands that change content.

use super::Context;
use super::args::{
    AgentArgs, CommitArgs, CommitFlags, CreateArgs, DeleteArgs, WriteArgs, WriteMode,
};
use crate::agent::{self, load};
use crate::config::parse_listen;
use crate::formats;
use crate::place::{check_outside, table_name, watch_of};
use serde_json::json;
use squire_engine::commit::{Change, CommitRequest, Outcome, RowCounts, TableWrite, Write};
use squire_engine::error::{Error, Result};
use squire_engine::ids::TableName;
use squire_engine::recovery::Watch as RecoveryWatch;
use squire_engine::store::Store;
use std::collections::BTreeMap;
use std::process::ExitCode;

pub(super) async fn init(context: &Context, uri: &str) -> Result<ExitCode> {
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
    context.out.print(
        &json!({ "store": store.uri() }),
        &[format!("made a store at {}", store.uri())],
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let table = table_name(&args.table)?;
    let schema = match (&args.like, &args.schema) {
        (Some(file), _) => formats::schema_of(file, &context.config.agent.input),
        (None, Some(file)) => formats::read_schema_file(file),
        (None, None) => return Err(Error::invalid("give --like FILE or --schema FILE")),
    }
    .map_err(load::format_error)?;
    let request = CommitRequest::new(vec![TableWrite {
        table,
        write: Write::Create {
            schema,
            key: args.key,
        },
    }]);
    report(context, &store.commit(&request).await?)
}

pub(super) async fn write(context: &Context, args: WriteArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let table = table_name(&args.table)?;
    let snapshot = store.load().await?;
    let declared = snapshot.state.table(&table)?.key.clone();
    let rows = load::rows(
        &store,
        &snapshot,
        &table,
        args.files,
        &context.config.agent.input,
    )
    .await?;
    let write = match args.mode {
        WriteMode::Append => Write::Append(rows),
        WriteMode::Overwrite => load::overwrite(&table, rows, args.allow_empty)?,
        WriteMode::Merge => {
            let key = args.key.or(declared).ok_or_else(|| {
                Error::invalid(format!(
                    "table {table} declares no key; name one with --key COLUMN"
                ))
            })?;
            Write::Merge { key, rows }
        }
    };
    submit(
        context,
        &store,
        vec![TableWrite { table, write }],
        args.commit,
    )
    .await
}

pub(super) async fn delete(context: &Context, args: DeleteArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let write = TableWrite {
        table: table_name(&args.table)?,
        write: Write::Delete {
            predicate: args.predicate,
        },
    };
    submit(context, &store, vec![write], args.commit).await
}

pub(super) async fn commit(context: &Context, args: CommitArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let mut request = load::load(&store, &args.batch, &context.config.agent.input)
        .await?
        .request;
    request.batch = args.commit.batch_id.or(request.batch);
    if !args.commit.message.is_empty() {
        request.message = args.commit.message;
    }
    request.retries = args.commit.retries;
    report(context, &store.commit(&request).await?)
}

async fn submit(
    context: &Context,
    store: &Store,
    writes: Vec<TableWrite>,
    flags: CommitFlags,
) -> Result<ExitCode> {
    let mut request = CommitRequest::new(writes);
    request.batch = flags.batch_id;
    request.message = flags.message;
    request.retries = flags.retries;
    report(context, &store.commit(&request).await?)
}

fn report(context: &Context, outcome: &Outcome) -> Result<ExitCode> {
    match outcome {
        Outcome::Committed(c) => {
            let tables: Vec<String> = c.tables.iter().map(|t| describe(t, &c.rows)).collect();
            let line = format!(
                "committed {} ({}; attempt {})",
                c.op,
                tables.join(", "),
                c.attempts
            );
            let document = json!({
                "outcome": "committed", "op": c.op, "tables": c.tables, "rows": c.rows, "attempts": c.attempts
            });
            context.out.print(&document, &[line]);
        }
        Outcome::AlreadyCommitted(op) => {
            let line = format!("already committed by {op}; nothing was done");
            context.out.print(
                &json!({ "outcome": "already_committed", "op": op }),
                &[line],
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `planes 3 -> 4: 10 inserted, 2 updated`; a create has no rows to tell of.
fn describe(change: &Change, rows: &BTreeMap<TableName, RowCounts>) -> String {
    let moved = format!("{} {} -> {}", change.table, change.from, change.to);
    let counts = rows.get(&change.table).copied().unwrap_or_default();
    let told: Vec<String> = [
        (counts.inserted, "inserted"),
        (counts.updated, "updated"),
        (counts.deleted, "deleted"),
    ]
    .into_iter()
    .filter(|(rows, _)| *rows > 0)
    .map(|(rows, what)| format!("{rows} {what}"))
    .collect();
    match (told.as_slice(), change.from) {
        ([], 0) => moved,
        ([], _) => format!("{moved}: no rows"),
        ([..], _) => format!("{moved}: {}", told.join(", ")),
    }
}

pub(super) async fn agent(context: &Context, args: AgentArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    check_outside(&store, &args.spool)?;
    let mut config = context.config.agent.clone();
    if let Some(listen) = &args.listen {
        config.listen =
            parse_listen(listen).map_err(|e| Error::invalid(format!("--listen: {e}")))?;
    }
    let options = agent::Options {
        spool: args.spool,
        config,
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
