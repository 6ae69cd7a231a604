//! `squire repair`.

use super::Context;
use super::args::RepairArgs;
use crate::place::Place;
use serde::Serialize;
use serde_json::json;
use squire_engine::error::{Error, Result};
use squire_engine::recovery::{DriftReport, RepairAction};
use squire_engine::store::Store;
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
    if let Some(action) = action {
        check_named(&store, &place, &args, action).await?;
    }
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
        lines.extend(describe(&report));
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
            "nothing was done; --publish, --force --head N or --discard acts on the --table",
        ));
    }
    let left = !drifted.is_empty() && action.is_none();
    context
        .out
        .print(&json!({ "drift": drifted, "repaired": repaired }), &lines);
    Ok(ExitCode::from(if left { 3 } else { 0 }))
}

/// A force names what it forces, and a discard what it discards: the message offers the words, which a person reviews.
async fn check_named(
    store: &Store,
    place: &Place,
    args: &RepairArgs,
    action: RepairAction,
) -> Result<()> {
    let (tables, head) = (&args.target.tables, args.head);
    let (flag, rule) = match action {
        RepairAction::Force if tables.len() != 1 || head.is_none() => (
            "--force",
            "publishes what somebody else wrote, so it takes one --table and the --head that was reviewed",
        ),
        RepairAction::Discard if tables.is_empty() => (
            "--discard",
            "takes back what somebody else wrote, so it takes the --table",
        ),
        RepairAction::Publish | RepairAction::Force | RepairAction::Discard => return Ok(()),
    };
    let mut offers = Vec::new();
    for target in place.select(tables).await? {
        let Some(table) = target.table() else {
            continue;
        };
        if let Some(report) = store.drift(table).await? {
            offers.push(format!(
                "squire repair {} --table {table} {flag} --head {}",
                place.uri, report.head
            ));
        }
    }
    if offers.is_empty() {
        offers.push(String::from("no table has drifted"));
    }
    Err(Error::invalid(format!(
        "{flag} {rule}; now: {}",
        offers.join(", or ")
    )))
}

fn describe(report: &DriftReport) -> Vec<String> {
    let table = &report.table;
    let rows = report.head_rows;
    let versions = report.versions.iter();
    let above: Vec<String> = versions
        .map(|v| format!("{} {}", v.version, v.operation))
        .collect();
    let replaced = report.replaced.then(|| {
        format!(
            "{table}: was dropped and made again; pin {} is gone; --force adopts what stands there",
            report.pin
        )
    });
    let drift = format!(
        "{table}: pin {} with {} rows, HEAD {} with {} rows; above the pin: {}",
        report.pin,
        report.pinned_rows,
        report.head,
        rows.map_or_else(|| "unreadable".to_owned(), |r| r.to_string()),
        above.join(", ")
    );
    replaced.into_iter().chain([drift]).collect()
}
