//! `squire cleanup`.

use super::Context;
use super::args::CleanupArgs;
use super::keep::told;
use super::maintain::cancel_on_signal;
use super::progress::shown;
use crate::place::{CLONES_ELSEWHERE, Place, UNKNOWN_TABLE, beside, step};
use crate::run::{CLEANED_AS_A_WHOLE, cleanup_policies, neighbours};
use serde_json::json;
use squire_engine::error::{Error, Result};
use squire_engine::maintenance::{
    CleanupPlan, CleanupPolicies, CleanupPolicy, CleanupReport, DroppedCleanup, Holding, Oversight,
    Shown, TableCleanup,
};
use std::process::ExitCode;
use std::sync::Once;
use std::time::Duration;

/// The shortest retention: readers and writers in flight need their versions.
const MIN_RETENTION: Duration = Duration::from_secs(3_600);

pub(super) async fn cleanup(context: &Context, args: CleanupArgs) -> Result<ExitCode> {
    let context = &context.seen_from(&args.target.store);
    let mut policies = policies(context, &args)?;
    let place = context.place(&args.target.store).await?;
    if place.managed && (place.is_single_table() || !args.target.tables.is_empty()) {
        return Err(Error::invalid(CLEANED_AS_A_WHOLE));
    }
    let opened = watched(context, &place).await;
    let watches = context.config.watches.iter();
    let uris: Vec<String> = watches.map(|watch| watch.uri.clone()).collect();
    policies.neighbours = neighbours(&place, &uris, &opened)?;
    policies.one_table = place.is_single_table();
    tell_unknown_tables(context, &place, &opened).await;
    if !place.managed {
        return cleanup_plain(context, &place, &args, &policies).await;
    }
    let plan = place.store.plan_cleanup(&policies).await?;
    let skipped = beside(&place.store).await;
    let mut lines: Vec<String> = skipped.iter().map(ToString::to_string).collect();
    lines.extend(describe(&plan));
    let mut holdings = Vec::new();
    let (report, failed) = if args.dry_run {
        holdings = place.store.holdings(&plan).await?;
        lines.extend(holdings.iter().map(held_back));
        (None, plan.failed.clone())
    } else {
        let cancel = cancel_on_signal();
        let work = place.store.cleanup(&plan, args.rate, &cancel);
        let report = shown(context, "cleaning up", &cancel, work).await?;
        lines.push(removed(&report));
        let failed = report.failed.clone();
        (Some(report), failed)
    };
    lines.extend(
        failed
            .iter()
            .map(|(table, why)| format!("{table}: failed: {why}")),
    );
    context.out.print(
        &json!({ "plan": plan, "holdings": holdings, "report": report, "skipped": skipped }),
        &lines,
    );
    Ok(ending(failed.is_empty()))
}

/// The watched locations that can be opened now, `place` among them if it is one; of the others it is logged why not.
async fn watched(context: &Context, place: &Place) -> Vec<Place> {
    let mut opened = Vec::new();
    for watch in &context.config.watches {
        if watch.uri == place.uri {
            opened.push(place.clone());
            continue;
        }
        match Place::open(watch, context.options.clone()).await {
            Ok(other) => opened.push(other),
            Err(error) => {
                tracing::warn!(uri = watch.uri, %error, "this place cannot be opened");
            }
        }
    }
    opened
}

/// Warns of tables that have settings and are neither at `place` nor in one of `others`, the watched locations. Says
/// nothing while one of these cannot be looked at.
async fn tell_unknown_tables(context: &Context, place: &Place, others: &[Place]) {
    if context.config.table_sections() == 0 || others.len() < context.config.watches.len() {
        return;
    }
    let mut known = Vec::new();
    for place in others.iter().chain([place]) {
        let Ok(selection) = place.targets().await else {
            return;
        };
        known.extend(selection.targets.iter().map(ToString::to_string));
    }
    for table in context.config.unknown_tables(&known) {
        tracing::warn!(table, "{UNKNOWN_TABLE}");
    }
}

/// [`tell_unknown_tables`] for a command that needs `place` alone.
pub(super) async fn tell_unknown_tables_beside(context: &Context, place: &Place) {
    if context.config.table_sections() > 0 {
        let others = watched(context, place).await;
        tell_unknown_tables(context, place, &others).await;
    }
}

/// The policies of the configuration, with the command's own words over them. Asked by hand, cleanup is on wherever
/// the configuration does not say that it is off.
fn policies(context: &Context, args: &CleanupArgs) -> Result<CleanupPolicies> {
    let short = args.retention.filter(|age| *age < MIN_RETENTION);
    let refused = match (short, args.min_versions) {
        (Some(age), _) => Some(format!(
            "--retention is at least 1h (got {} s)",
            age.as_secs()
        )),
        (None, Some(0)) => Some(String::from("--min-versions is at least 1")),
        (None, _) => None,
    };
    if let Some(refused) = refused {
        return Err(Error::invalid(format!(
            "{refused}: readers and writers in flight need their versions"
        )));
    }
    let mut policies = cleanup_policies(&context.config, true);
    let said = |policy: &mut CleanupPolicy| {
        let keep = &mut policy.retention;
        keep.age = args.retention.unwrap_or(keep.age);
        keep.versions = args.min_versions.unwrap_or(keep.versions);
    };
    said(&mut policies.default);
    policies.tables.values_mut().for_each(said);
    policies.patterns.iter_mut().for_each(|(_, of)| said(of));
    Ok(policies)
}

async fn cleanup_plain(
    context: &Context,
    place: &Place,
    args: &CleanupArgs,
    policies: &CleanupPolicies,
) -> Result<ExitCode> {
    let selection = place.select_maintained(&args.target.tables, &context.config);
    let selection = selection.await?;
    if !args.dry_run {
        place.reclaim_first().await;
    }
    let skipped = selection.skipped.clone();
    let mut documents = Vec::new();
    let mut lines: Vec<String> = skipped.iter().map(ToString::to_string).collect();
    let mut whole = true;
    let mut removes = false;
    let oversight = cancel_on_signal();
    for target in selection {
        let Shown::Head(path) = target.shown() else {
            continue;
        };
        let policies = &policies.with_branch(&target);
        let work = clean_plain(place, &path, args, policies, &oversight);
        let (document, said, went) = match step("cleanup", &target, work).await {
            Ok((plan, holdings, report)) => {
                removes |= !plan.versions.is_empty();
                let mut said = describe_table(&plan);
                let off = !policies.of(&path).enabled;
                if off {
                    let versions = in_runs(&plan.versions);
                    said = vec![format!("{path}: {OFF}; it would remove {versions}")];
                }
                said.extend(holdings.iter().map(held_back));
                said.extend(report.as_ref().map(|r| format!("{path}: {}", removed(r))));
                (
                    json!({ "plan": plan, "holdings": holdings, "report": report, "off": off, "error": null }),
                    said,
                    true,
                )
            }
            Err(e) => (
                json!({ "plan": null, "report": null, "table": path, "error": e.to_string() }),
                vec![format!("{path}: failed: {e}")],
                false,
            ),
        };
        documents.push(document);
        lines.extend(said);
        whole &= went;
    }
    if removes {
        lines.push(format!("note: {CLONES_ELSEWHERE}"));
    }
    context
        .out
        .print(&json!({ "tables": documents, "skipped": skipped }), &lines);
    Ok(ending(whole))
}

async fn clean_plain(
    place: &Place,
    path: &str,
    args: &CleanupArgs,
    policies: &CleanupPolicies,
    oversight: &Oversight,
) -> Result<(TableCleanup, Vec<Holding>, Option<CleanupReport>)> {
    let plan = place.store.plan_plain_cleanup(path, policies).await?;
    if args.dry_run || !policies.of(path).enabled {
        let holdings = place.store.table_holdings(path, &plan).await?;
        return Ok((plan, holdings, None));
    }
    if !plan.versions.is_empty() {
        tell_of_clones();
    }
    let cleaned = place.store.cleanup_plain(&plan, args.rate, oversight);
    let report = cleaned.await?;
    Ok((plan, Vec::new(), Some(report)))
}

/// Said once, before anything goes.
fn tell_of_clones() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| tracing::warn!("before anything is removed: {CLONES_ELSEWHERE}"));
}

const OFF: &str = "off (cleanup.enabled = false)";

fn ending(whole: bool) -> ExitCode {
    if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn removed(report: &CleanupReport) -> String {
    let tables = match report.tables_removed.len() {
        0 => String::new(),
        tables => format!(", {tables} dropped tables"),
    };
    format!(
        "removed {} versions{tables}, {} bytes",
        report.versions_removed, report.bytes_removed
    )
}

fn describe_dropped(dropped: &DroppedCleanup) -> String {
    let (path, table) = (&dropped.path, &dropped.table);
    if dropped.stays_for.is_empty() {
        return format!("{path}: all files to remove: {table} was dropped");
    }
    let holders = dropped.stays_for.join(", ");
    format!("{path}: stays, though {table} was dropped: {holders}")
}

/// Ascending versions as a person reads them: "1-297, 299".
pub(super) fn in_runs(versions: &[u64]) -> String {
    let runs: Vec<String> = versions
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            other => other.iter().map(u64::to_string).collect(),
        })
        .collect();
    if runs.is_empty() {
        return String::from("none");
    }
    runs.join(", ")
}

fn describe_table(table: &TableCleanup) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: floor {}, versions to remove: {}",
        table.table,
        table.floor,
        in_runs(&table.versions)
    )];
    lines.extend(table.held.iter().map(|held| {
        format!(
            "{}: version {} stays: {} refers to its files",
            table.table, held.version, held.by
        )
    }));
    lines
}

/// What is held back as a person reads it.
pub(super) fn held_back(holding: &Holding) -> String {
    format!(
        "{}: {} {} alone holds back {} bytes (versions {})",
        holding.table,
        holding.kind,
        holding.name,
        holding.bytes,
        in_runs(&holding.versions)
    )
}

/// What keeps, leases, tags, branches and clones hold at `place` beyond the configured retention.
pub(super) async fn holdings(context: &Context, place: &Place) -> Result<Vec<Holding>> {
    let opened = watched(context, place).await;
    let watches = context.config.watches.iter();
    let uris: Vec<String> = watches.map(|watch| watch.uri.clone()).collect();
    let mut policies = cleanup_policies(&context.config, true);
    policies.neighbours = neighbours(place, &uris, &opened)?;
    policies.one_table = place.is_single_table();
    if place.managed {
        let plan = place.store.plan_cleanup(&policies).await?;
        return place.store.holdings(&plan).await;
    }
    let mut holdings = Vec::new();
    for target in place.maintained(&context.config).await? {
        let Shown::Head(path) = target.shown() else {
            continue;
        };
        let policies = policies.with_branch(&target);
        // A table that cannot be looked at is told of by its own line.
        if let Ok(plan) = place.store.plan_plain_cleanup(&path, &policies).await {
            holdings.extend(place.store.table_holdings(&path, &plan).await?);
        }
    }
    Ok(holdings)
}

fn describe(plan: &CleanupPlan) -> Vec<String> {
    let tables = plan.tables.iter().chain(&plan.manifest);
    let mut lines: Vec<String> = tables.flat_map(describe_table).collect();
    lines.extend(plan.off.iter().map(|t| {
        format!(
            "{}: {OFF}; it would remove {}",
            t.table,
            in_runs(&t.versions)
        )
    }));
    lines.extend(plan.dropped.iter().map(describe_dropped));
    lines.extend(plan.holds.iter().map(told));
    if !plan.decisions.is_empty() {
        lines.push(format!("decisions to forget: {}", plan.decisions.len()));
    }
    if plan.is_empty() {
        lines.push(String::from("nothing to remove"));
    } else {
        lines.push(format!("note: {CLONES_ELSEWHERE}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::in_runs;

    #[test]
    fn hundreds_of_versions_are_one_short_line() {
        let versions: Vec<u64> = (1..=297).chain([299, 301, 302]).collect();
        assert_eq!(in_runs(&versions), "1-297, 299, 301-302");
        assert_eq!(in_runs(&[]), "none");
    }
}
