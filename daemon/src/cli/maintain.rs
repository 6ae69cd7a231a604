//! Commands that maintain.

use super::Context;
use super::args::{DaemonArgs, OptimizeArgs, PlanArgs, RecoverArgs, ReindexArgs};
use super::cleanup::{held_back, holdings, tell_unknown_tables_beside};
use super::progress::shown;
use super::results::Results;
use super::status::cleans_itself;
use super::table::size;
use super::waits::Waiting;
use crate::config::{nested::why_not_together, parse_listen};
use crate::daemon::{self, Options};
use crate::decide::planning::{
    OperationKind, OperationSpec, TablePlan, bounds, disk_estimate, limits, plan as decide,
};
use crate::executor;
use crate::exit::code;
use crate::place::{Place, step};
use serde_json::{Map, Value, json};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::tasks::Task;
use squire_engine::maintenance::{
    CompactionPlan, IndexHealth, MaintenanceReport, Oversight, Pace, Reindexing, TableHealth,
    Target,
};
use squire_engine::recovery::Watch as RecoveryWatch;
use squire_engine::store::location::check_presentable;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// How a command ends that left a table alone, because of drift for example.
const SKIPPED: u8 = 3;

/// Tasks of one table that a plan shows to people.
const TASKS_TOLD: usize = 20;

pub(super) async fn daemon(
    context: Context,
    args: DaemonArgs,
    config_path: Option<PathBuf>,
) -> Result<ExitCode> {
    let (out, once) = (context.out, args.once);
    let config = context.config;
    let listen = match &args.listen {
        Some(listen) => {
            parse_listen(listen).map_err(|e| Error::invalid(format!("--listen: {e}")))?
        }
        None => config.daemon.listen,
    };
    for place in &args.places {
        check_presentable(place)?;
    }
    let options = Options {
        config_path,
        places: args.places,
        once: args.once,
        listen,
        store: context.options,
    };
    let watches = options.watches(&config);
    if watches.is_empty() {
        return Err(Error::invalid(
            "nothing to watch: name a STORE, or add a [[watch]] to the configuration",
        ));
    }
    if let Some(why) = why_not_together(&watches) {
        return Err(Error::invalid(why));
    }
    let mut ended = daemon::run(config, options).await?;
    if once && out.json {
        if let Value::Object(fields) = &mut ended.status {
            fields.insert("failed".to_owned(), json!(ended.failed));
        }
        out.print(&ended.status, &[]);
    }
    Ok(if ended.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One table's plan, with what a compaction would do.
async fn plan_of(
    context: &Context,
    place: &Place,
    target: &Target,
) -> Result<(TablePlan, CompactionPlan, TableHealth)> {
    let policy = context.config.policy_for(Place::config_name(target));
    let bounds = bounds(&policy);
    let work = async {
        let health = place.store.health(target, &bounds).await?;
        let rewrites = place.store.compaction_plan(target, &bounds).await?;
        Ok((decide(&health, &rewrites, &policy), rewrites, health))
    };
    step("plan", target, work).await
}

/// What each task of `rewrites` reads, writes and gains, what is left as it is, and why.
fn told(target: &Target, rewrites: &CompactionPlan) -> Vec<String> {
    let task = |task: &Task| {
        let (first, last) = (task.fragments.first(), task.fragments.last());
        let follow = match task.remapped {
            0 => String::new(),
            bytes => format!(", and {} of indexes follow", size(bytes)),
        };
        let touched = match task.touched {
            0 => String::new(),
            version => format!("; rows were deleted from it on version {version}"),
        };
        format!(
            "{target}:   rewrite {} fragments ({} to {}) into {}: reads {}, writes {}{follow}; {} of deleted rows go{touched}",
            task.fragments.len(),
            first.copied().unwrap_or(0),
            last.copied().unwrap_or(0),
            task.outputs,
            size(task.bytes),
            size(task.written),
            size(task.reclaimed()),
        )
    };
    let mut lines: Vec<String> = rewrites.tasks.iter().take(TASKS_TOLD).map(task).collect();
    if let Some(more) = rewrites.tasks.len().checked_sub(TASKS_TOLD + 1) {
        lines.push(format!(
            "{target}:   and {} more; --json has them all",
            more + 1
        ));
    }
    lines.extend(rewrites.left.iter().map(|left| {
        let (fragments, bytes) = (left.fragments, size(left.bytes));
        format!(
            "{target}:   leave {fragments} fragments ({bytes}): {}",
            left.why
        )
    }));
    lines
}

fn rewrites_document(rewrites: &CompactionPlan) -> Value {
    let CompactionPlan {
        tasks,
        left,
        not_followed,
        ..
    } = rewrites;
    json!({ "tasks": tasks, "left": left, "not_followed": not_followed })
}

pub(super) async fn plan(context: &Context, args: PlanArgs) -> Result<ExitCode> {
    let PlanArgs {
        target: args,
        daemon,
    } = args;
    let context = &context.seen_from(&args.store);
    let place = context.place(&args.store).await?;
    tell_unknown_tables_beside(context, &place).await;
    let selection = place.select_maintained(&args.tables, &context.config);
    let selection = selection.await?;
    let mut results = Results::of(&selection);
    let mut waiting = Waiting::at(context, &place, daemon).await;
    for target in selection {
        match plan_of(context, &place, &target).await {
            Ok((plan, rewrites, health)) => {
                let because = |o: &OperationSpec| {
                    format!("{target}: {} because of {}", o.kind.as_str(), o.reason)
                };
                let mut lines: Vec<String> = plan.operations.iter().map(because).collect();
                if lines.is_empty() {
                    lines.push(format!("{target}: nothing; {}", plan.otherwise));
                }
                if plan
                    .operations
                    .iter()
                    .any(|o| o.kind == OperationKind::Compact)
                {
                    lines.extend(told(&target, &rewrites));
                }
                let waits = waiting.of(context, (&place, &target), (&plan, &health));
                lines.extend(waits.iter().map(|wait| format!("{target}: {wait}")));
                let not_followed = rewrites.not_followed.iter();
                lines.extend(not_followed.map(|what| format!("{target}: {what}")));
                lines.extend(cleans_itself(&target, &health));
                let mut document = json!(plan);
                if let Value::Object(fields) = &mut document {
                    fields.insert("rewrites".to_owned(), rewrites_document(&rewrites));
                    fields.insert("waits".to_owned(), json!(waits));
                }
                results.add(document, lines);
            }
            Err(e) => {
                let nothing = json!({ "operations": [], "otherwise": "failed", "waits": [] });
                results.fail(&target.to_string(), &e, nothing);
            }
        }
    }
    waiting
        .lines()
        .into_iter()
        .for_each(|line| results.say(line));
    let mut more = Map::new();
    more.insert("daemon".to_owned(), json!(waiting.daemon));
    match holdings(context, &place).await {
        Ok(held) => {
            held.iter()
                .for_each(|holding| results.say(held_back(holding)));
            more.insert("holdings".to_owned(), json!(held));
        }
        Err(error) => tracing::warn!(%error, "what is held back is not known"),
    }
    Ok(results.finish(context, more))
}

/// Why what may write so many bytes as `needs` says is not begun by hand: it would fill the disk, of which others have need. How much is to
/// stay free is for the daemon to keep to. Nobody asks how much that is where there is no disk to fill.
async fn no_room(
    context: &Context,
    place: &Place,
    needs: impl Future<Output = Option<u64>>,
) -> Option<String> {
    context.config.budget.min_free?;
    let room = place.clone().measure().await?;
    let needs = needs.await?;
    (room.free < needs).then(|| {
        format!(
            "it may write {}, and {} are free on its disk; free some space, or set [budget] min_free = \"off\" to try it",
            size(needs),
            size(room.free)
        )
    })
}

/// Bytes that a reindex may write.
fn reindex_estimate(health: &TableHealth) -> u64 {
    disk_estimate(OperationKind::Reindex, health, &CompactionPlan::default())
}

/// Adds that a table was left alone.
fn skip(results: &mut Results, target: &Target, why: &str) {
    results.exits(SKIPPED);
    let table = target.to_string();
    let line = format!("{table}: skipped: {why}");
    results.add(
        json!({ "table": table, "report": null, "skipped": why }),
        [line],
    );
}

async fn optimize_dry(context: &Context, place: &Place, names: &[String]) -> Result<ExitCode> {
    let selection = place.select_maintained(names, &context.config).await?;
    let mut results = Results::of(&selection);
    for target in selection {
        match plan_of(context, place, &target).await {
            Ok((_, rewrites, health)) => {
                let tasks = rewrites.tasks.iter().map(|task| task.fragments.len());
                let tasks: Vec<usize> = tasks.collect();
                let needs =
                    async { Some(disk_estimate(OperationKind::Compact, &health, &rewrites)) };
                let left_alone = rewrites.left_alone.clone();
                let left_alone = left_alone.or(no_room(context, place, needs).await);
                let line = match &left_alone {
                    Some(why) => {
                        results.exits(SKIPPED);
                        format!("{target}: skipped: {why}")
                    }
                    None => format!(
                        "{target}: {} tasks would rewrite {} fragments",
                        tasks.len(),
                        tasks.iter().sum::<usize>()
                    ),
                };
                let document = json!({ "table": target.to_string(), "tasks": tasks, "left_alone": left_alone });
                results.add(document, [line]);
            }
            Err(e) => results.fail(&target.to_string(), &e, json!({ "tasks": [] })),
        }
    }
    Ok(results.finish(context, Map::new()))
}

pub(super) async fn optimize(context: &Context, args: OptimizeArgs) -> Result<ExitCode> {
    let context = &context.seen_from(&args.target.store);
    let place = context.place(&args.target.store).await?;
    if args.dry_run {
        return optimize_dry(context, &place, &args.target.tables).await;
    }
    let cancel = paced(context);
    let selection = place.select_maintained(&args.target.tables, &context.config);
    let selection = selection.await?;
    place.reclaim_first().await;
    let mut results = Results::of(&selection);
    for target in selection {
        // What cannot be looked at is for the run to tell.
        let needs = async {
            let (_, rewrites, health) = plan_of(context, &place, &target).await.ok()?;
            Some(disk_estimate(OperationKind::Compact, &health, &rewrites))
        };
        if let Some(why) = no_room(context, &place, needs).await {
            skip(&mut results, &target, &why);
            continue;
        }
        let policy = context.config.policy_for(Place::config_name(&target));
        let limits = limits(&policy);
        let kind = args.executor.unwrap_or(policy.executor);
        let by = (kind, &context.config.executor);
        let work = executor::compact(&place.store, &target, &limits, by, &cancel);
        let work = step("compact", &target, work);
        let done = shown(context, &format!("compacting {target}"), &cancel, work).await;
        if let Ok(report) = &done {
            lift(&place, OperationKind::Compact, &target, report).await;
        }
        report(&mut results, &target, done, |r| {
            format!(
                "{} fragments became {}",
                r.fragments_removed, r.fragments_added
            )
        });
    }
    Ok(results.finish(context, Map::new()))
}

async fn reindex_dry(context: &Context, place: &Place, names: &[String]) -> Result<ExitCode> {
    let selection = place.select_maintained(names, &context.config).await?;
    let mut results = Results::of(&selection);
    for target in selection {
        let policy = context.config.policy_for(Place::config_name(&target));
        let bounds = bounds(&policy);
        match step("look", &target, place.store.health(&target, &bounds)).await {
            Ok(health) => {
                let needs = async { Some(reindex_estimate(&health)) };
                let no_room = no_room(context, place, needs).await;
                let mut due = health.indexes;
                due.retain(|i| i.missing || i.unindexed_rows > 0 || i.damaged.is_some());
                let whole = due.iter().filter(|i| i.damaged.is_none());
                let names: Vec<&str> = whole.map(|i| i.name.as_str()).collect();
                let named = match names.is_empty() {
                    true => "none".to_owned(),
                    false => names.join(", "),
                };
                let mut lines = vec![format!("{target}: would extend or build: {named}")];
                let why = |i: &IndexHealth| {
                    Some(format!(
                        "{target}: index {}: {}",
                        i.name,
                        i.damaged.as_ref()?
                    ))
                };
                lines.extend(due.iter().filter_map(why));
                if let Some(why) = no_room {
                    results.exits(SKIPPED);
                    lines = vec![format!("{target}: skipped: {why}")];
                }
                let table = target.to_string();
                results.add(json!({ "table": table, "indexes": due }), lines);
            }
            Err(e) => results.fail(&target.to_string(), &e, json!({ "indexes": [] })),
        }
    }
    Ok(results.finish(context, Map::new()))
}

pub(super) async fn reindex(context: &Context, args: ReindexArgs) -> Result<ExitCode> {
    let context = &context.seen_from(&args.target.store);
    let place = context.place(&args.target.store).await?;
    if args.dry_run {
        return reindex_dry(context, &place, &args.target.tables).await;
    }
    let cancel = paced(context);
    let selection = place.select_maintained(&args.target.tables, &context.config);
    let selection = selection.await?;
    place.reclaim_first().await;
    let mut results = Results::of(&selection);
    let how = Reindexing {
        asks_all: true,
        ..Reindexing::default()
    };
    for target in selection {
        let bounds = bounds(&context.config.policy_for(Place::config_name(&target)));
        let needs = async {
            let health = place.store.health(&target, &bounds).await.ok()?;
            Some(reindex_estimate(&health))
        };
        if let Some(why) = no_room(context, &place, needs).await {
            skip(&mut results, &target, &why);
            continue;
        }
        let work = place.store.reindex(&target, &how, &cancel);
        let work = step("reindex", &target, work);
        let done = shown(context, &format!("indexing {target}"), &cancel, work).await;
        if let Ok(report) = &done {
            lift(&place, OperationKind::Reindex, &target, report).await;
        }
        report(&mut results, &target, done, |r| {
            let of = |what: &str, indexes: &[(String, String)]| {
                indexes
                    .iter()
                    .map(|(name, why)| format!("; {name} {what}: {why}"))
                    .collect::<String>()
            };
            format!(
                "{} indexes extended or built{}{}{}",
                r.indexes.len() + r.rebuilt_indexes.len(),
                of("was built anew", &r.rebuilt_indexes),
                of("failed", &r.failed_indexes),
                of("is pending", &r.pending_indexes)
            )
        });
    }
    Ok(results.finish(context, Map::new()))
}

/// What rested as unfit of `kind` rests no more where its result was fit by hand.
async fn lift(place: &Place, kind: OperationKind, target: &Target, report: &MaintenanceReport) {
    let is_fit = report.unfit.is_empty() && report.failed_indexes.is_empty();
    if is_fit && report.skipped.is_none() && !report.cancelled {
        place.lift_unfit(target, kind).await;
    }
}

/// Adds how a run on one table ended.
fn report(
    results: &mut Results,
    target: &Target,
    done: Result<MaintenanceReport>,
    describe: impl Fn(&MaintenanceReport) -> String,
) {
    let table = target.to_string();
    match done {
        Ok(report) => {
            let told = match &report.skipped {
                Some(why) => format!("{table}: skipped: {why}"),
                None if report.cancelled => format!("{table}: cancelled; {}", describe(&report)),
                None => format!("{table}: {}", describe(&report)),
            };
            let unfit = report.unfit.iter().map(|what| format!("unfit: {what}"));
            let lines: Vec<String> = std::iter::once(told).chain(unfit).collect();
            if report.cancelled {
                results.exits(code(ErrorKind::Cancelled));
            }
            if report.skipped.is_some() || !report.unfit.is_empty() {
                results.exits(SKIPPED);
            }
            if !report.failed_indexes.is_empty() {
                results.exits(code(ErrorKind::Internal));
            }
            results.add(json!({ "table": table, "report": report }), lines);
        }
        Err(e) => results.fail(&table, &e, json!({ "report": null })),
    }
}

/// What Ctrl-C cancels: work stops at its next safe point.
pub(super) fn cancel_on_signal() -> Oversight {
    on_signal(Oversight::default())
}

/// The same, of work that keeps to the rate of the budget.
fn paced(context: &Context) -> Oversight {
    let rate = context.config.budget.bytes_per_second;
    let pace = Pace::new(rate, context.options.clock.clone());
    on_signal(Oversight::paced(Arc::new(pace)))
}

pub(super) fn on_signal(oversight: Oversight) -> Oversight {
    let cancel = oversight.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "a one-shot command has no supervisor; this task ends with the process"
    )]
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
    });
    oversight
}

pub(super) async fn recover(context: &Context, args: RecoverArgs) -> Result<ExitCode> {
    let place = context.place(&args.store).await?;
    if args.dry_run {
        let plans = place.recovery_plan().await?;
        let mut lines: Vec<String> = plans
            .iter()
            .map(|p| format!("{} by {}: {}", p.op, p.actor, p.next))
            .collect();
        if lines.is_empty() {
            lines.push(String::from("nothing to recover"));
        }
        context.out.print(&json!({ "plan": plans }), &lines);
        return Ok(ExitCode::SUCCESS);
    }
    let mut watch = RecoveryWatch::default();
    let mut report = place.recover(&mut watch, args.force).await?;
    if !args.force && !report.pending.is_empty() {
        // One grace of watching is what it takes to know that nobody is at work on them.
        let grace = place.store.options().grace;
        place.store.clock().sleep(grace).await;
        report = place.recover(&mut watch, false).await?;
    }
    let names = |what: &str, ops: &[squire_engine::ids::OpId]| {
        ops.iter()
            .map(|op| format!("{what} {op}"))
            .collect::<Vec<_>>()
    };
    let mut lines = names("committed", &report.committed);
    lines.extend(names("aborted", &report.aborted));
    lines.extend(names("healed", &report.healed));
    for (op, bytes) in &report.reclaimed {
        lines.push(format!(
            "reclaimed {bytes} bytes that {op} rewrote for nothing"
        ));
    }
    let pending = report.pending.iter();
    lines.extend(pending.map(|op| {
        format!("pending {op}: it may be at work still; `--force` settles it if it is not")
    }));
    lines.extend(
        report
            .failed
            .iter()
            .map(|(op, why)| format!("failed {op}: {why}")),
    );
    if lines.is_empty() {
        lines.push(String::from("nothing to recover"));
    }
    context.out.print(&report, &lines);
    Ok(if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
