//! `squire repair`.

use super::Context;
use super::args::RepairArgs;
use super::results::Results;
use crate::place::{Place, step};
use serde::Serialize;
use serde_json::{Map, json};
use squire_engine::error::{Error, Result};
use squire_engine::recovery::{DriftReport, RepairAction};
use squire_engine::store::Store;
use std::process::ExitCode;

/// How the command ends that shows drift and does nothing about it.
const LEFT: u8 = 3;

#[derive(Serialize)]
struct Repaired {
    table: String,
    pin: u64,
}

pub(super) async fn repair(context: &Context, args: RepairArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let place = context.place(&args.store).await?;
    let action = match (args.action.publish, args.action.force, args.action.discard) {
        (true, _, _) => Some(RepairAction::Publish),
        (_, true, _) => Some(RepairAction::Force),
        (_, _, true) => Some(RepairAction::Discard),
        (false, false, false) => None,
    };
    if let Some(action) = action {
        check_named(&store, &place, &args, action).await?;
    }
    let selection = place.select(&args.tables).await?;
    let mut results = Results::of(&selection);
    let mut drifted = Vec::new();
    let mut repaired = Vec::new();
    for target in selection {
        let Some(table) = target.table() else {
            continue;
        };
        let name = table.to_string();
        let report = match step("look", &target, store.drift(table)).await {
            Ok(report) => report,
            Err(e) => {
                results.fail(&name, &e, json!({}));
                continue;
            }
        };
        let mut lines: Vec<String> = report.iter().flat_map(describe).collect();
        if let (Some(report), Some(action)) = (&report, action) {
            match step("repair", &target, act(&store, report, action, args.head)).await {
                Ok(pin) => {
                    lines.push(format!("{name}: pinned at {pin}"));
                    repaired.push(Repaired {
                        table: name.clone(),
                        pin,
                    });
                    results.add(json!({ "table": name }), lines);
                }
                Err(e) => {
                    lines.into_iter().for_each(|line| results.say(line));
                    results.fail(&name, &e, json!({}));
                }
            }
        } else {
            results.add(json!({ "table": name }), lines);
        }
        drifted.extend(report);
    }
    if drifted.is_empty() && !results.failed() {
        results.say(String::from("no drift"));
    } else if !drifted.is_empty() && action.is_none() {
        results.say(String::from(
            "nothing was done; --publish, --force --head N or --discard acts on the --table",
        ));
        results.exits(LEFT);
    }
    let mut more = Map::new();
    more.insert("drift".to_owned(), json!(drifted));
    more.insert("repaired".to_owned(), json!(repaired));
    Ok(results.finish(context, more))
}

/// Acts on what `report` shows, if it is what was reviewed, and gives the new pin.
async fn act(
    store: &Store,
    report: &DriftReport,
    action: RepairAction,
    reviewed: Option<u64>,
) -> Result<u64> {
    if reviewed.is_some_and(|head| head != report.head) {
        return Err(Error::conflict(format!(
            "HEAD is {} now; look again",
            report.head
        )));
    }
    store.repair(report, action).await
}

/// A force names what it forces, and a discard what it discards: the message offers the words, which a person reviews.
async fn check_named(
    store: &Store,
    place: &Place,
    args: &RepairArgs,
    action: RepairAction,
) -> Result<()> {
    let (tables, head) = (&args.tables, args.head);
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
        // A table that cannot be read has nothing to offer; its own repair says why.
        if let Ok(Some(report)) = step("look", &target, store.drift(table)).await {
            offers.push(format!(
                "squire repair {} --table {table} {flag} --head {}",
                place.uri, report.head
            ));
        }
    }
    if offers.is_empty() {
        offers.push(String::from("no table that can be read has drifted"));
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
    let gone = report.gone.then(|| {
        let lost = match report.head < report.pin {
            true => "what was committed since HEAD is lost",
            false => "another client removed it",
        };
        format!(
            "{table}: pin {} is gone, and HEAD {} is there: {lost}; --force adopts HEAD, and expires every snapshot from before",
            report.pin, report.head
        )
    });
    let lacks = (!report.lacks.is_empty()).then(|| {
        format!(
            "{table}: HEAD lacks {}; what is built on them fails from then on",
            report.lacks.join(", ")
        )
    });
    let told = replaced.into_iter().chain(gone).chain([drift]);
    told.chain(lacks).collect()
}
