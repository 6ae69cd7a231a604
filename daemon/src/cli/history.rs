//! `squire history`: what maintenance did. A store's commit log says what was published, by whomever; what the daemon noted says why it began
//! a run and what came of it, and is all there is of plain tables.

use super::Context;
use super::args::LogArgs;
use super::inspect::moment;
use super::table::{Column, Line, Span, Tone, age, count, lay_out, size};
use crate::place::Place;
use serde_json::{Value, json};
use squire_engine::error::Result;
use squire_engine::maintenance::{NotedRun, Target};
use squire_engine::recovery::LogEntry;
use std::collections::HashMap;
use std::process::ExitCode;

/// Publishes that change what people wrote or declared, and are no maintenance.
const BY_PEOPLE: [&str; 3] = ["logical", "declare", "init"];

/// How many publishes are read at first, and at most. A store may have millions of them.
const FIRST: usize = 500;
const MOST: usize = 50_000;

const COLUMNS: [Column; 7] = [
    Column("WHEN", false),
    Column("AGO", true),
    Column("WHAT", false),
    Column("BY", false),
    Column("TABLES", false),
    Column("EFFECT", false),
    Column("WHY", false),
];

fn maintains(entry: &LogEntry) -> bool {
    !BY_PEOPLE.contains(&entry.record.kind.as_str())
}

/// The latest publishes of maintenance, newest first.
struct Latest {
    entries: Vec<LogEntry>,
    /// How many publishes were read for them, and whether there are no more.
    read: usize,
    whole: bool,
}

impl Latest {
    async fn of(place: &Place, limit: usize) -> Result<Self> {
        let mut read = FIRST.max(limit);
        loop {
            let log = place.store.log(read).await?;
            let (found, whole) = (log.len(), log.len() < read);
            let mut entries: Vec<LogEntry> = log.into_iter().filter(maintains).collect();
            if entries.len() >= limit || whole || read >= MOST {
                entries.truncate(limit);
                return Ok(Self {
                    entries,
                    read: found,
                    whole,
                });
            }
            read = read.saturating_mul(4).min(MOST.max(limit));
        }
    }
}

/// What came of a run.
fn effect(run: &NotedRun) -> String {
    let mut effects = Vec::new();
    if run.fragments_removed > 0 {
        let (from, to) = (run.fragments_removed, run.fragments_added);
        effects.push(format!(
            "{from} fragments -> {to}, {}",
            size(run.bytes_rewritten)
        ));
    }
    if !run.indexes.is_empty() {
        effects.push(run.indexes.join(", "));
    }
    if run.versions_removed > 0 {
        let (versions, bytes) = (count(run.versions_removed), size(run.bytes_removed));
        effects.push(format!("{versions} versions removed, {bytes} free"));
    }
    effects.extend(run.detail.clone());
    effects.join("; ")
}

/// One line: when, what, by whom, which tables, to what effect, why.
fn row(context: &Context, at_ms: i64, tone: Tone, cells: [String; 5]) -> Vec<Span> {
    let now = context.options.clock.now_ms();
    let ago = now.saturating_sub(u64::try_from(at_ms).unwrap_or(0)) / 1_000;
    let [what, by, tables, effect, why] = cells;
    vec![
        Span::new(Tone::Faint, moment(at_ms)),
        Span::new(Tone::Plain, age(ago)),
        Span::new(tone, what),
        Span::new(Tone::Plain, by),
        Span::new(Tone::Plain, tables),
        Span::new(Tone::Plain, effect),
        Span::new(Tone::Plain, why),
    ]
}

fn noted_row(context: &Context, run: &NotedRun) -> Vec<Span> {
    let at_ms = i64::try_from(run.at_ms).unwrap_or(i64::MAX);
    let cells = [
        run.kind.clone(),
        run.actor.clone(),
        run.table.clone(),
        effect(run),
        run.reason.clone(),
    ];
    row(context, at_ms, Tone::Plain, cells)
}

fn published_row(context: &Context, entry: &LogEntry, run: Option<&NotedRun>) -> Vec<Span> {
    let record = &entry.record;
    let tables = record.tables.iter();
    let tables: Vec<String> = tables
        .map(|t| format!("{} {}->{}", t.table, t.from, t.to))
        .collect();
    let tone = match record.kind.as_str() {
        "abort" | "undo" => Tone::Due,
        _ => Tone::Plain,
    };
    // What the log calls its message is the run's kind.
    let what = match run {
        Some(run) => run.kind.clone(),
        None => record.kind.clone(),
    };
    let why = run.map_or_else(|| record.message.clone(), |run| run.reason.clone());
    let cells = [
        what,
        record.actor.clone(),
        tables.join(", "),
        run.map(effect).unwrap_or_default(),
        why,
    ];
    row(context, entry.at_ms, tone, cells)
}

async fn of_store(context: &Context, place: &Place, limit: usize) -> Result<(Value, Vec<Line>)> {
    let Latest {
        entries,
        read,
        whole,
    } = Latest::of(place, limit).await?;
    let noted = place.store.noted_runs().await?;
    let by_pin: HashMap<(&str, u64), &NotedRun> = noted
        .iter()
        .filter_map(|run| Some(((run.table.as_str(), run.pin?), run)))
        .collect();
    let run_of = |entry: &LogEntry| {
        let mut tables = entry.record.tables.iter();
        tables.find_map(|t| by_pin.get(&(t.table.as_str(), t.to)).copied())
    };
    let rows = entries.iter();
    let rows = rows.map(|entry| published_row(context, entry, run_of(entry)));
    let mut lines: Vec<Line> = match entries.is_empty() {
        true => vec![format!("no maintenance in the last {read} publishes").into()],
        false => lay_out(&COLUMNS, rows.collect()),
    };
    if !whole && entries.len() < limit {
        lines.push(format!("older ones are not shown: {read} publishes were read").into());
    }
    let runs: Vec<&NotedRun> = noted.iter().take(limit).collect();
    let document = json!({ "entries": entries, "runs": runs, "read": read, "whole": whole });
    Ok((document, lines))
}

async fn of_plain_tables(
    context: &Context,
    place: &Place,
    limit: usize,
) -> Result<(Value, Vec<Line>)> {
    let mut noted = place.store.noted_runs().await?;
    if place.is_single_table() {
        let selection = place.targets().await?;
        let of = |table: &str, t: &Target| {
            let rest = table.strip_prefix(&t.to_string());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
        };
        let named = |run: &NotedRun| selection.targets.iter().any(|t| of(&run.table, t));
        noted.retain(named);
    }
    let read = noted.len();
    noted.truncate(limit);
    let lines = match noted.is_empty() {
        true => vec![String::from("no run of a daemon that changed anything is noted here").into()],
        false => lay_out(
            &COLUMNS,
            noted.iter().map(|run| noted_row(context, run)).collect(),
        ),
    };
    let document = json!({ "entries": [], "runs": noted, "read": read, "whole": read <= limit });
    Ok((document, lines))
}

pub(super) async fn history(context: &Context, args: LogArgs) -> Result<ExitCode> {
    let place = context.place(&args.store).await?;
    let (document, lines) = match place.managed {
        true => of_store(context, &place, args.limit).await?,
        false => of_plain_tables(context, &place, args.limit).await?,
    };
    context.out.print_lines(&document, &lines);
    Ok(ExitCode::SUCCESS)
}
