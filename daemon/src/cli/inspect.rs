//! Commands that only look.

use super::Context;
use super::args::{LogArgs, OpArgs, SnapshotArgs};
use crate::exit::{code, graver};
use crate::place::step;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use squire_engine::error::Result;
use squire_engine::ids::OpId;
use squire_engine::maintenance::Target;
use squire_engine::recovery::{LogEntry, OperationOutcome};
use squire_engine::store::Member;
use squire_failpoints::Seam;
use std::process::ExitCode;

/// A time of the log, for people.
pub(super) fn moment(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |t| t.to_string())
}

fn log_line(entry: &LogEntry) -> String {
    let at = moment(entry.at_ms);
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

/// A publish, and below it the batches that it committed together.
fn log_lines(entry: &LogEntry) -> Vec<String> {
    let members = entry.record.members.iter().map(|member| {
        let Member {
            batch,
            actor,
            message,
            ..
        } = member;
        let id = batch.as_ref().map(|id| format!(", batch id {id}"));
        format!("    by {actor}: {message}{}", id.unwrap_or_default())
    });
    std::iter::once(log_line(entry)).chain(members).collect()
}

pub(super) async fn log(context: &Context, args: LogArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let entries = store.log(args.limit).await?;
    let lines: Vec<String> = entries.iter().flat_map(log_lines).collect();
    context.out.print(&json!({ "entries": entries }), &lines);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn op(context: &Context, args: OpArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let op = OpId::parse(&args.ulid)?;
    let outcome = store.outcome_of(op).await?;
    let lines = match &outcome {
        OperationOutcome::Committed { entry: None } => vec![String::from("committed")],
        OperationOutcome::Committed { entry: Some(entry) } => {
            let mut lines = log_lines(entry);
            if let Some(first) = lines.first_mut() {
                first.insert_str(0, "committed: ");
            }
            lines
        }
        OperationOutcome::Aborted => {
            vec![String::from(
                "aborted: nothing of it is visible, now or later",
            )]
        }
        OperationOutcome::Undecided => {
            vec![String::from(
                "undecided: its sidecar stands; `squire recover` decides it",
            )]
        }
        OperationOutcome::Absent => {
            vec![String::from(
                "absent: it never began, or was aborted more than 30 days ago",
            )]
        }
    };
    context.out.print(&outcome, &lines);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn snapshot(context: &Context, args: SnapshotArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let snapshot = match (&args.name, args.at) {
        (Some(name), _) => store.kept(name).await?,
        (None, Some(version)) => store.snapshot_at(version).await?,
        (None, None) => store.load().await?,
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
