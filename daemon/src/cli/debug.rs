//! `squire debug`: the records of a store, decoded, with a word on what each is for.

use super::Context;
use super::args::{DebugCommand, SnapshotArgs};
use super::table::{Line, Span, Tone, age, size};
use serde_json::{Value, json};
use squire_engine::error::Result;
use squire_engine::ids::OpId;
use squire_engine::store::{Sidecar, SidecarKind, Snapshot};
use std::process::ExitCode;

pub(super) async fn debug(context: &Context, command: DebugCommand) -> Result<ExitCode> {
    match command {
        DebugCommand::Sidecar { store, ulid } => sidecars(context, &store, ulid.as_deref()).await,
        DebugCommand::Journal { store, ulid } => journals(context, &store, ulid.as_deref()).await,
        DebugCommand::Manifest(args) => manifest(context, &args).await,
    }
}

async fn sidecars(context: &Context, uri: &str, ulid: Option<&str>) -> Result<ExitCode> {
    let store = context.store(uri).await?;
    let standing = store.sidecar_ops().await?;
    let wanted = match ulid {
        Some(ulid) => vec![OpId::parse(ulid)?],
        None => standing.clone(),
    };
    let mut lines: Vec<Line> = Vec::new();
    let mut documents = Vec::new();
    for op in &wanted {
        let (state, sidecar, why) = match store.sidecar(*op).await {
            Ok(Some(sidecar)) => ("whole", Some(sidecar), None),
            Ok(None) if standing.contains(op) => ("torn", None, None),
            Ok(None) => ("absent", None, None),
            Err(e) => ("damaged", None, Some(e.to_string())),
        };
        match (&sidecar, state) {
            (Some(sidecar), _) => lines.extend(explained(sidecar, context.options.clock.now_ms())),
            (None, "torn") => lines.push(bad(format!(
                "{op}: torn: its put never ended, so nothing of its operation began; `squire recover` removes it"
            ))),
            (None, "absent") => lines.push(
                format!("{op}: no sidecar: it has an end, or never began; see `squire op`").into(),
            ),
            (None, _) => lines.push(bad(format!("{op}: {}", why.as_deref().unwrap_or(state)))),
        }
        documents.push(json!({ "op": op, "state": state, "sidecar": sidecar, "error": why }));
    }
    if wanted.is_empty() {
        lines.push(String::from("no sidecar stands: every operation has an end").into());
    }
    context
        .out
        .print_lines(&json!({ "sidecars": documents }), &lines);
    Ok(ExitCode::SUCCESS)
}

async fn journals(context: &Context, uri: &str, ulid: Option<&str>) -> Result<ExitCode> {
    let wanted = ulid.map(OpId::parse).transpose()?;
    let mut runs = context.place(uri).await?.journals().await?;
    runs.retain(|run| wanted.is_none_or(|wanted| run.op == wanted));
    let now = context.options.clock.now_ms();
    let mut lines: Vec<Line> = Vec::new();
    for run in &runs {
        let bytes: u64 = run.files.iter().map(|(_, bytes)| bytes).sum();
        let since = age(now.saturating_sub(ulid::Ulid::from(run.op).timestamp_ms()) / 1_000);
        let what = format!(
            "{}: on {} from version {}, began {since} ago, {} in {} names",
            run.op,
            run.table,
            run.base,
            size(bytes),
            run.files.len()
        );
        match run.is_licensed {
            true => lines.push(format!("{what}; its sidecar stands: it is at work, or waits to be taken for dead").into()),
            false => lines.push(bad(format!("{what}; it has no sidecar and lands nothing any more: `squire recover` deletes what no version refers to"))),
        }
        let files = run.files.iter();
        lines.extend(files.map(|(name, bytes)| match bytes {
            0 => format!("  {name}: named, not there").into(),
            bytes => format!("  {name}: {}", size(*bytes)).into(),
        }));
    }
    if runs.is_empty() {
        lines.push(String::from("no journal stands: every run has settled what it wrote").into());
    }
    context
        .out
        .print_lines(&json!({ "journals": runs }), &lines);
    Ok(ExitCode::SUCCESS)
}

fn bad(text: String) -> Line {
    Span::new(Tone::Bad, text).into()
}

fn explained(sidecar: &Sidecar, now_ms: u64) -> Vec<Line> {
    let kind = match sidecar.kind {
        SidecarKind::Logical => "changes content: complete in all its tables, or not at all",
        SidecarKind::Maintenance => "preserves content: what it finished is published",
    };
    let since = age(now_ms.saturating_sub(sidecar.started_ms) / 1_000);
    let mut lines: Vec<Line> = vec![
        format!(
            "{}: by {}, began {since} ago, {kind}",
            sidecar.op, sidecar.actor
        )
        .into(),
        format!("  message: {:?}", sidecar.message).into(),
    ];
    if let Some(batch) = &sidecar.batch {
        lines.push(format!("  batch: {batch:?}, committed once whoever repeats it").into());
    }
    let tables = sidecar.writes.iter().map(|t| ("writes", t));
    for (what, table) in tables.chain(sidecar.reads.iter().map(|t| ("reads", t))) {
        let base = match table.base {
            0 => String::from("which it creates"),
            base => format!("on version {base}"),
        };
        lines.push(format!("  {what} {} at {} {base}", table.table, table.path).into());
    }
    lines
}

async fn manifest(context: &Context, args: &SnapshotArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let snapshot = match args.at {
        Some(version) => store.snapshot_at(version).await?,
        None => store.load().await?,
    };
    let state = &snapshot.state;
    let indexes: Vec<Value> = state
        .indexes
        .iter()
        .map(|((table, name), declared)| json!({ "table": table, "name": name, "declared": declared }))
        .collect();
    let document = json!({
        "manifest_version": snapshot.version(),
        "store": state.store,
        "tables": state.tables,
        "floors": state.floors,
        "manifest_floor": state.manifest_floor,
        "aborted": state.aborted,
        "indexes": indexes,
        "policies": state.policies,
        "keeps": state.keeps,
        "batches": state.batches,
        "archive": state.archive,
    });
    context.out.print_lines(&document, &lines_of(&snapshot));
    Ok(ExitCode::SUCCESS)
}

/// A manifest's facts, for people.
fn lines_of(snapshot: &Snapshot) -> Vec<Line> {
    let state = &snapshot.state;
    let mut lines: Vec<Line> = vec![
        format!(
            "manifest version {} of store {}",
            snapshot.version(),
            state.store
        )
        .into(),
    ];
    for (name, entry) in &state.tables {
        let floor = state.floors.get(name).copied().unwrap_or(0);
        let key = entry
            .key
            .as_ref()
            .map_or_else(String::new, |k| format!(", key {k}"));
        lines.push(
            format!("table {name} at {}: readers see version {}{key}; below version {floor} cleanup may have removed", entry.path, entry.version).into(),
        );
    }
    for ((table, name), declared) in &state.indexes {
        let what = format!("{} on {}", declared.kind, declared.column);
        lines.push(format!("index {name} of {table}: {what} is declared").into());
    }
    for (op, decision) in &state.aborted {
        let tables: Vec<String> = decision
            .writes
            .iter()
            .map(|w| w.table.to_string())
            .collect();
        lines.push(format!("operation {op} was aborted, of {}", tables.join(", ")).into());
    }
    for (batch, entry) in &state.batches {
        lines.push(format!("batch {batch:?} was committed by {}", entry.op).into());
    }
    for (name, version) in &state.keeps {
        lines.push(format!("manifest version {version} is kept as {name}").into());
    }
    lines.push(
        format!(
            "the manifest's floor is {}; the commit log holds every publish up to {}",
            state.manifest_floor, state.archive.through
        )
        .into(),
    );
    lines
}
