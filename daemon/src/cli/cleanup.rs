//! `squire cleanup`.

use super::Context;
use super::args::CleanupArgs;
use super::maintain::cancel_on_signal;
use crate::daemon::execution::retention;
use crate::place::Place;
use serde_json::json;
use squire_engine::error::{Error, Result};
use squire_engine::maintenance::{CleanupPlan, Retention, TableCleanup, Target};
use std::process::ExitCode;
use std::time::Duration;

/// The shortest retention: readers and writers in flight need their versions.
const MIN_RETENTION: Duration = Duration::from_secs(3_600);

pub(super) async fn cleanup(context: &Context, args: CleanupArgs) -> Result<ExitCode> {
    let policy = &context.config.policy;
    let mut keep: Retention = retention(policy);
    keep.age = args.retention.unwrap_or(keep.age);
    keep.versions = args.min_versions.unwrap_or(keep.versions);
    if keep.age < MIN_RETENTION || keep.versions == 0 {
        return Err(Error::invalid(format!(
            "--retention is at least 1h and --min-versions at least 1 (got {} s and {}): readers and writers in flight need their versions",
            keep.age.as_secs(),
            keep.versions
        )));
    }
    let place = context.place(&args.target.store).await?;
    if !place.managed {
        return cleanup_plain(context, &place, &args, keep).await;
    }
    if !args.target.tables.is_empty() {
        return Err(Error::invalid(
            "a store is cleaned as a whole, since its snapshots span tables; leave --table out",
        ));
    }
    let plan = place.store.plan_cleanup(keep).await?;
    let mut lines = describe(&plan);
    if args.dry_run {
        context
            .out
            .print(&json!({ "plan": plan, "report": null }), &lines);
        return Ok(ExitCode::SUCCESS);
    }
    let report = place
        .store
        .cleanup(&plan, args.rate, &cancel_on_signal())
        .await?;
    lines.push(format!(
        "removed {} versions, {} bytes",
        report.versions_removed, report.bytes_removed
    ));
    lines.extend(
        report
            .failed
            .iter()
            .map(|(table, why)| format!("{table}: failed: {why}")),
    );
    context
        .out
        .print(&json!({ "plan": plan, "report": report }), &lines);
    Ok(if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn cleanup_plain(
    context: &Context,
    place: &Place,
    args: &CleanupArgs,
    keep: Retention,
) -> Result<ExitCode> {
    let mut documents = Vec::new();
    let mut lines = Vec::new();
    for target in place.select(&args.target.tables).await? {
        let Target::Plain(path) = &target else {
            continue;
        };
        let plan = place.store.plan_plain_cleanup(path, keep).await?;
        lines.push(describe_table(&plan));
        let report = match args.dry_run {
            true => None,
            false => Some(place.store.cleanup_plain(&plan, args.rate).await?),
        };
        documents.push(json!({ "plan": plan, "report": report }));
    }
    context.out.print(&json!({ "tables": documents }), &lines);
    Ok(ExitCode::SUCCESS)
}

fn describe_table(table: &TableCleanup) -> String {
    format!(
        "{}: floor {}, versions to remove: {:?}",
        table.table, table.floor, table.versions
    )
}

fn describe(plan: &CleanupPlan) -> Vec<String> {
    if plan.is_empty() {
        return vec![String::from("nothing to remove")];
    }
    let mut lines: Vec<String> = plan
        .tables
        .iter()
        .chain(&plan.manifest)
        .map(describe_table)
        .collect();
    if !plan.decisions.is_empty() {
        lines.push(format!("decisions to forget: {}", plan.decisions.len()));
    }
    lines
}
