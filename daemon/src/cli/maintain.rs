//! Commands that maintain.

use super::args::{DaemonArgs, OptimizeArgs, RecoverArgs, TargetArgs};
use super::{Context, exit_code};
use crate::config::parse_listen;
use crate::daemon::planning::{TablePlan, bounds, limits, plan as decide};
use crate::daemon::{self, Options};
use crate::place::Place;
use serde_json::{Value, json};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::{MaintenanceReport, Target};
use squire_engine::recovery::Watch as RecoveryWatch;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

pub(super) async fn daemon(
    context: Context,
    args: DaemonArgs,
    config_path: Option<PathBuf>,
) -> Result<ExitCode> {
    let mut config = context.config;
    if let Some(listen) = &args.listen {
        config.daemon.listen =
            parse_listen(listen).map_err(|e| Error::invalid(format!("--listen: {e}")))?;
    }
    let options = Options {
        config_path,
        places: args.places,
        once: args.once,
        store: context.options,
    };
    if options.watches(&config).is_empty() {
        return Err(Error::invalid(
            "nothing to watch: name a STORE, or add a [[watch]] to the configuration",
        ));
    }
    let failed = daemon::run(config, options).await?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn plans(context: &Context, args: &TargetArgs) -> Result<Vec<(TablePlan, Vec<usize>)>> {
    let place = context.place(&args.store).await?;
    let mut plans = Vec::new();
    for target in place.select(&args.tables).await? {
        let policy = context.config.policy_for(Place::config_name(&target));
        let health = place.store.health(&target, &bounds(&policy)).await?;
        let tasks = place
            .store
            .compaction_tasks(&target, &bounds(&policy))
            .await?;
        let sizes = tasks.iter().map(|t| t.fragments.len()).collect();
        plans.push((decide(&health, tasks.len(), &policy), sizes));
    }
    Ok(plans)
}

pub(super) async fn plan(context: &Context, args: TargetArgs) -> Result<ExitCode> {
    let plans = plans(context, &args).await?;
    let mut lines = Vec::new();
    for (plan, _) in &plans {
        for operation in &plan.operations {
            lines.push(format!(
                "{}: {} because of {}",
                plan.table,
                operation.kind.as_str(),
                operation.reason
            ));
        }
        if plan.operations.is_empty() {
            lines.push(format!("{}: nothing; {}", plan.table, plan.otherwise));
        }
    }
    let document: Vec<&TablePlan> = plans.iter().map(|(plan, _)| plan).collect();
    context.out.print(&json!({ "tables": document }), &lines);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn optimize(context: &Context, args: OptimizeArgs) -> Result<ExitCode> {
    if args.dry_run {
        let plans = plans(context, &args.target).await?;
        let lines: Vec<String> = plans
            .iter()
            .map(|(p, tasks)| {
                format!(
                    "{}: {} tasks would rewrite {} fragments",
                    p.table,
                    tasks.len(),
                    tasks.iter().sum::<usize>()
                )
            })
            .collect();
        let document: Vec<Value> = plans
            .iter()
            .map(|(p, tasks)| json!({ "table": p.table, "tasks": tasks }))
            .collect();
        context.out.print(&json!({ "tables": document }), &lines);
        return Ok(ExitCode::SUCCESS);
    }
    let place = context.place(&args.target.store).await?;
    let cancel = cancel_on_signal();
    let mut results = Results::default();
    for target in place.select(&args.target.tables).await? {
        let policy = context.config.policy_for(Place::config_name(&target));
        let done = place
            .store
            .compact(&target, &limits(&policy, &context.config.budget), &cancel)
            .await;
        results.add(&target, done, |r| {
            format!(
                "{} fragments became {}",
                r.fragments_removed, r.fragments_added
            )
        });
    }
    results.finish(context)
}

pub(super) async fn reindex(context: &Context, args: OptimizeArgs) -> Result<ExitCode> {
    let place = context.place(&args.target.store).await?;
    let cancel = cancel_on_signal();
    let mut results = Results::default();
    for target in place.select(&args.target.tables).await? {
        if args.dry_run {
            let policy = context.config.policy_for(Place::config_name(&target));
            let health = place.store.health(&target, &bounds(&policy)).await?;
            let due: Vec<_> = health
                .indexes
                .into_iter()
                .filter(|i| i.missing || i.unindexed_rows > 0)
                .collect();
            let names: Vec<&str> = due.iter().map(|i| i.name.as_str()).collect();
            results.lines.push(format!(
                "{target}: would extend or build: {}",
                if names.is_empty() {
                    "none".into()
                } else {
                    names.join(", ")
                }
            ));
            results
                .tables
                .push(json!({ "table": target.to_string(), "indexes": due }));
            continue;
        }
        let done = place.store.reindex(&target, &cancel).await;
        results.add(&target, done, |r| {
            let of = |what: &str, indexes: &[(String, String)]| {
                indexes
                    .iter()
                    .map(|(name, why)| format!("; {name} {what}: {why}"))
                    .collect::<String>()
            };
            format!(
                "{} indexes extended or built{}{}",
                r.indexes.len(),
                of("failed", &r.failed_indexes),
                of("is pending", &r.pending_indexes)
            )
        });
    }
    results.finish(context)
}

/// Results of several tables: one that fails does not stop the others.
#[derive(Default)]
struct Results {
    tables: Vec<Value>,
    lines: Vec<String>,
    worst: Option<ErrorKind>,
    skipped: bool,
}

impl Results {
    fn add(
        &mut self,
        target: &Target,
        done: Result<MaintenanceReport>,
        describe: impl Fn(&MaintenanceReport) -> String,
    ) {
        let table = target.to_string();
        match done {
            Ok(report) => {
                self.lines.push(match report.skipped {
                    Some(why) => format!("{table}: skipped: {}", format!("{why:?}").to_lowercase()),
                    None => format!("{table}: {}", describe(&report)),
                });
                self.skipped |= report.skipped.is_some();
                if !report.failed_indexes.is_empty() {
                    self.worst.get_or_insert(ErrorKind::Internal);
                }
                self.tables
                    .push(json!({ "table": table, "report": report, "error": null }));
            }
            Err(e) => {
                self.lines.push(format!("{table}: failed: {e}"));
                self.tables
                    .push(json!({ "table": table, "report": null, "error": e.to_string() }));
                self.worst = Some(e.kind());
            }
        }
    }

    fn finish(self, context: &Context) -> Result<ExitCode> {
        context
            .out
            .print(&json!({ "tables": self.tables }), &self.lines);
        Ok(match (self.worst, self.skipped) {
            (Some(kind), _) => exit_code(kind),
            (None, true) => ExitCode::from(3),
            (None, false) => ExitCode::SUCCESS,
        })
    }
}

/// A token that Ctrl-C cancels: work stops at its next safe point.
pub(super) fn cancel_on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "a one-shot command has no supervisor; this task ends with the process"
    )]
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
    });
    token
}

pub(super) async fn recover(context: &Context, args: RecoverArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    if args.dry_run {
        let plans = store.recovery_plan().await?;
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
    let mut report = store.recover(&mut watch, args.force).await?;
    let grace = store.options().grace;
    if !args.force && !report.pending.is_empty() {
        // One grace of watching is what it takes to know that nobody is at work on them.
        store.clock().sleep(grace).await;
        report = store.recover(&mut watch, false).await?;
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
    lines.extend(names("pending", &report.pending));
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
