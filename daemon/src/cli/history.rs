//! `squire history`: the maintenance of a store, out of its own commit log; nothing else is kept for it.

use super::Context;
use super::args::LogArgs;
use super::table::{Column, Line, Span, Tone, age, lay_out};
use serde_json::json;
use squire_engine::error::Result;
use squire_engine::recovery::LogEntry;
use std::process::ExitCode;

/// Publishes that change what people wrote or declared, and are no maintenance.
const BY_PEOPLE: [&str; 3] = ["logical", "declare", "init"];

/// How many publishes are read at first, and at most. A store may have millions of them.
const FIRST: usize = 500;
const MOST: usize = 50_000;

const COLUMNS: [Column; 6] = [
    Column("WHEN", false),
    Column("AGO", true),
    Column("WHAT", false),
    Column("BY", false),
    Column("TABLES", false),
    Column("WHY", false),
];

fn maintains(entry: &LogEntry) -> bool {
    !BY_PEOPLE.contains(&entry.record.kind.as_str())
}

/// The latest `limit` publishes of maintenance, newest first, and how many publishes were read for them.
async fn latest(context: &Context, args: &LogArgs) -> Result<(Vec<LogEntry>, usize, bool)> {
    let store = context.store(&args.store).await?;
    let mut read = FIRST.max(args.limit);
    loop {
        let log = store.log(read).await?;
        let (found, whole) = (log.len(), log.len() < read);
        let mut entries: Vec<LogEntry> = log.into_iter().filter(maintains).collect();
        if entries.len() >= args.limit || whole || read >= MOST {
            entries.truncate(args.limit);
            return Ok((entries, found, whole));
        }
        read = read.saturating_mul(4).min(MOST.max(args.limit));
    }
}

pub(super) async fn history(context: &Context, args: LogArgs) -> Result<ExitCode> {
    let (entries, read, whole) = latest(context, &args).await?;
    let now = context.options.clock.now_ms();
    let rows = entries.iter().map(|entry| {
        let record = &entry.record;
        let at = u64::try_from(entry.at_ms).unwrap_or(0);
        let tables: Vec<String> = record
            .tables
            .iter()
            .map(|t| format!("{} {}->{}", t.table, t.from, t.to))
            .collect();
        let tone = match record.kind.as_str() {
            "abort" | "undo" => Tone::Due,
            _ => Tone::Plain,
        };
        vec![
            Span::new(Tone::Faint, super::inspect::moment(entry.at_ms)),
            Span::new(Tone::Plain, age(now.saturating_sub(at) / 1_000)),
            Span::new(tone, &record.kind),
            Span::new(Tone::Plain, &record.actor),
            Span::new(Tone::Plain, tables.join(", ")),
            Span::new(Tone::Plain, &record.message),
        ]
    });
    let mut lines: Vec<Line> = if entries.is_empty() {
        vec![format!("no maintenance in the last {read} publishes").into()]
    } else {
        lay_out(&COLUMNS, rows.collect())
    };
    if !whole && entries.len() < args.limit {
        lines.push(format!("older ones are not shown: {read} publishes were read").into());
    }
    let document = json!({ "entries": entries, "read": read, "whole": whole });
    context.out.print_lines(&document, &lines);
    Ok(ExitCode::SUCCESS)
}
