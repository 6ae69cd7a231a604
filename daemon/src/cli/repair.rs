//! `squire repair`.

use super::Context;
use super::args::RepairArgs;
use serde::Serialize;
use serde_json::json;
use squire_engine::error::{Error, Result};
use squire_engine::recovery::RepairAction;
use std::process::ExitCode;

#[derive(Serialize)]
struct Repaired {
    table: String,
    pin: u64,
}

pub(super) async fn repair(context: &Context, args: RepairArgs) -> Result<ExitCode> {
    let store = context.store(&args.target.store).await?;
    let place = context.place(&args.target.store).await?;
    let action = match (args.action.publish, args.action.force, args.action.discard) {
        (true, _, _) => Some(RepairAction::Publish),
        (_, true, _) => Some(RepairAction::Force),
        (_, _, true) => Some(RepairAction::Discard),
        (false, false, false) => None,
    };
    let mut drifted = Vec::new();
    let mut repaired = Vec::new();
    let mut lines = Vec::new();
    for target in place.select(&args.target.tables).await? {
        let Some(table) = target.table() else {
            continue;
        };
        let Some(report) = store.drift(table).await? else {
            continue;
        };
        lines.push(format!(
            "{table}: pin {} with {} rows, HEAD {} with {} rows; above the pin: {}",
            report.pin,
            report.pinned_rows,
            report.head,
            report
                .head_rows
                .map_or_else(|| "unreadable".to_owned(), |r| r.to_string()),
            report
                .versions
                .iter()
                .map(|v| format!("{} {}", v.version, v.operation))
                .collect::<Vec<_>>()
                .join(", ")
        ));
        if let Some(action) = action {
            if args.head.is_some_and(|head| head != report.head) {
                return Err(Error::conflict(format!(
                    "table {table}: HEAD is {} now; look again",
                    report.head
                )));
            }
            let pin = store.repair(&report, action).await?;
            lines.push(format!("{table}: pinned at {pin}"));
            repaired.push(Repaired {
                table: table.to_string(),
                pin,
            });
        }
        drifted.push(report);
    }
    if drifted.is_empty() {
        lines.push(String::from("no drift"));
    } else if action.is_none() {
        lines.push(String::from(
            "nothing was done; --publish, --force or --discard acts",
        ));
    }
    let left = !drifted.is_empty() && action.is_none();
    context
        .out
        .print(&json!({ "drift": drifted, "repaired": repaired }), &lines);
    Ok(ExitCode::from(if left { 3 } else { 0 }))
}
