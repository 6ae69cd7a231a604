//! Commands that only look.

use super::args::{LogArgs, OpArgs, SnapshotArgs, TargetArgs};
use super::results::Results;
use super::{Context, code, graver};
use crate::daemon::planning::bounds;
use crate::place::{Place, step};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use squire_engine::error::Result;
use squire_engine::ids::OpId;
use squire_engine::maintenance::{TableHealth, Target, Unreferenced};
use squire_engine::recovery::{LogEntry, OperationOutcome};
use squire_failpoints::Seam;
use std::process::ExitCode;

pub(super) async fn status(context: &Context, args: TargetArgs) -> Result<ExitCode> {
    let place = context.place(&args.store).await?;
    let selection = place.select(&args.tables).await?;
    let version = match place.managed {
        true => Some(place.store.load().await?.version()),
        false => None,
    };
    let sidecars = place.sidecar_ops().await?;
    let stranded = place.stranded_bytes().await?;
    let mut results = Results::of(&selection);
    let recorded = format!("{} sidecars, {stranded} stranded bytes", sidecars.len());
    match version {
        Some(version) => {
            let uri = &place.uri;
            results.say(format!("{uri}: manifest version {version}, {recorded}"));
        }
        None if stranded > 0 || !sidecars.is_empty() => {
            results.say(format!("{}: {recorded}", place.uri));
        }
        None => {}
    }
    for target in selection {
        let policy = context.config.policy_for(Place::config_name(&target));
        let bounds = bounds(&policy);
        let look = async {
            let health = place.store.health(&target, &bounds).await?;
            let drift = match target.table() {
                Some(table) => place.store.drift_now(table).await?,
                None => None,
            };
            let unreferenced = place.unreferenced(&target).await?;
            Ok((health, drift, unreferenced))
        };
        match step("look", &target, look).await {
            Ok((health, drift, unreferenced)) => {
                let left = unreferenced.as_ref().map_or_else(String::new, left_line);
                let line = health_line(&health, drift) + &left;
                let drift = json!(drift.map(|version| json!({ "first_version": version })));
                let mut document = json!(health);
                if let Value::Object(fields) = &mut document {
                    fields.insert("drift".to_owned(), drift);
                    fields.insert("unreferenced".to_owned(), json!(unreferenced));
                }
                results.add(document, [line]);
            }
            Err(e) => results.fail(&target.to_string(), &e, json!({ "drift": null })),
        }
    }
    let mut more = Map::new();
    more.insert("manifest_version".to_owned(), json!(version));
    more.insert("sidecars".to_owned(), json!(sidecars));
    more.insert("stranded_bytes".to_owned(), json!(stranded));
    Ok(results.finish(context, more))
}

fn health_line(health: &TableHealth, drift: Option<u64>) -> String {
    let indexes = health.indexes.iter();
    let unindexed = indexes.map(|i| i.unindexed_rows).max().unwrap_or(0);
    format!(
        "{}: version {} ({} stored), {} rows in {} fragments ({} to compact), {} deleted, {} bytes, {unindexed} unindexed{}",
        health.table,
        health.pin,
        health.versions,
        health.rows,
        health.fragments,
        health.candidate_fragments,
        health.deleted_rows,
        health.bytes,
        drift.map_or_else(String::new, |v| format!(", DRIFT from version {v}")),
    )
}

/// What no version refers to; nothing when there is none.
fn left_line(unreferenced: &Unreferenced) -> String {
    let by_age = unreferenced.by_age();
    let bytes: u64 = by_age.iter().map(|(_, of_age)| of_age.bytes).sum();
    let files: u64 = by_age.iter().map(|(_, of_age)| of_age.files).sum();
    if files == 0 {
        return String::new();
    }
    let [young, week, old] = by_age.map(|(_, of_age)| of_age.bytes);
    format!(
        ", {bytes} bytes in {files} files that no version refers to ({young} younger than an hour, {week} than 7 days, {old} older)"
    )
}

fn log_line(entry: &LogEntry) -> String {
    let at = Timestamp::from_millisecond(entry.at_ms)
        .map_or_else(|_| entry.at_ms.to_string(), |t| t.to_string());
    let record = &entry.record;
    let tables: Vec<String> = record
        .tables
        .iter()
        .map(|t| format!("{} {}->{}", t.table, t.from, t.to))
        .collect();
    format!(
        "{} {at} {} {} by {}: {} {}",
        entry.manifest_version,
        record.op,
        record.kind,
        record.actor,
        tables.join(", "),
        record.message
    )
}

pub(super) async fn log(context: &Context, args: LogArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let entries = store.log(args.limit).await?;
    let lines: Vec<String> = entries.iter().map(log_line).collect();
    context.out.print(&json!({ "entries": entries }), &lines);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn op(context: &Context, args: OpArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let op = OpId::parse(&args.ulid)?;
    let outcome = store.outcome_of(op).await?;
    let line = match &outcome {
        OperationOutcome::Committed { entry } => {
            format!(
                "committed{}",
                entry
                    .as_ref()
                    .map_or_else(String::new, |e| format!(": {}", log_line(e)))
            )
        }
        OperationOutcome::Aborted => {
            String::from("aborted: nothing of it is visible, now or later")
        }
        OperationOutcome::Undecided => {
            String::from("undecided: its sidecar stands; `squire recover` decides it")
        }
        OperationOutcome::Absent => {
            String::from("absent: it never began, or was aborted more than 30 days ago")
        }
    };
    context.out.print(&outcome, &[line]);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn snapshot(context: &Context, args: SnapshotArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let snapshot = match args.at {
        Some(version) => store.snapshot_at(version).await?,
        None => store.load().await?,
    };
    let mut lines = vec![format!("manifest version {}", snapshot.version())];
    let mut tables = Map::new();
    let mut ends = 0;
    for table in snapshot.state.tables.keys() {
        let target = Target::Pinned(table.clone());
        let shown = match step("look", &target, store.describe_table(&snapshot, table)).await {
            Ok(t) => {
                lines.push(format!(
                    "{table}: version {}, {} rows, {}",
                    t.version, t.rows, t.uri
                ));
                json!(t)
            }
            // Without a URI: nobody reads by mistake what stands there.
            Err(e) => {
                lines.push(format!("{table}: failed: {e}"));
                ends = graver(ends, code(e.kind()));
                json!({ "error": e.to_string() })
            }
        };
        tables.insert(table.to_string(), shown);
    }
    let document = json!({ "manifest_version": snapshot.version(), "tables": tables });
    context.out.print(&document, &lines);
    Ok(ExitCode::from(ends))
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of every command")]
pub(super) fn seams(context: &Context) -> Result<ExitCode> {
    let document: Vec<Value> = Seam::ALL
        .iter()
        .map(|s| {
            json!({
                "name": s.name(),
                "room": format!("{:?}", s.phase()).to_lowercase(),
                "durable": s.durable(),
                "after_crash": s.after_crash(),
            })
        })
        .collect();
    let lines: Vec<String> = Seam::ALL
        .iter()
        .map(|s| {
            format!(
                "{:<28} {:<9} durable: {}. A crash: {}",
                s.name(),
                format!("{:?}", s.phase()).to_lowercase(),
                s.durable(),
                s.after_crash()
            )
        })
        .collect();
    context.out.print(
        &json!({ "enabled": squire_failpoints::ENABLED, "seams": document }),
        &lines,
    );
    Ok(ExitCode::SUCCESS)
}
