//! `squire status`: the health of every table, problems first, and what `plan` would do about it.

use super::Context;
use super::args::{PlanArgs, StatusArgs};
use super::keep::told;
use super::maintain::cancel_on_signal;
use super::results::Results;
use super::table::{Column, Span, Tone, age, count, lay_out, size};
use super::waits::Waiting;
use crate::decide::planning::{OperationSpec, TablePlan, bounds, plan as decide};
use crate::decide::waits::Wait;
use crate::exit::code;
use crate::place::{Place, step};
use serde_json::{Map, Value, json};
use squire_engine::error::Result;
use squire_engine::maintenance::{Hold, TableHealth, Target, Unreferenced};
use std::process::ExitCode;
use std::time::Duration;

/// The least time between two looks.
const SHORTEST: Duration = Duration::from_millis(200);

const COLUMNS: [Column; 9] = [
    Column("TABLE", false),
    Column("STATE", false),
    Column("ROWS", true),
    Column("SIZE", true),
    Column("FRAGMENTS", true),
    Column("VERSIONS", true),
    Column("DELETED", true),
    Column("UNINDEXED", true),
    Column("NEXT", false),
];

/// What a look at one table found.
pub(super) struct Looked {
    pub(super) health: TableHealth,
    /// The first version that someone else committed above the pin.
    pub(super) drift: Option<u64>,
    pub(super) plan: TablePlan,
    /// What of the plan does not run now.
    pub(super) waits: Vec<Wait>,
}

/// How urgent a table is; its row's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Failed,
    Drift,
    Due,
    /// All that is due waits.
    Held,
    Fine,
}

/// Looks at one table; nothing is changed.
pub(super) async fn look(context: &Context, place: &Place, target: &Target) -> Result<Looked> {
    let policy = context.config.policy_for(Place::config_name(target));
    let bounds = bounds(&policy);
    let looking = async {
        let health = place.store.health(target, &bounds).await?;
        let drift = match target.table() {
            Some(table) => place.store.drift_now(table).await?,
            None => None,
        };
        let rewrites = place.store.compaction_plan(target, &bounds).await?;
        let plan = decide(&health, &rewrites, &policy);
        Ok(Looked {
            health,
            drift,
            plan,
            waits: Vec::new(),
        })
    };
    step("look", target, looking).await
}

impl Looked {
    fn state(&self) -> State {
        let mut due = self.plan.operations.iter();
        let waits = |o: &OperationSpec| self.waits.iter().any(|wait| wait.kind == o.kind);
        match self.drift {
            Some(_) => State::Drift,
            None if self.plan.operations.is_empty() => State::Fine,
            None if due.all(waits) => State::Held,
            None => State::Due,
        }
    }

    fn document(&self) -> Value {
        let drift = json!(
            self.drift
                .map(|version| json!({ "first_version": version }))
        );
        let mut document = json!(self.health);
        if let Value::Object(fields) = &mut document {
            fields.insert("drift".to_owned(), drift);
            fields.insert("plan".to_owned(), json!(self.plan));
            fields.insert("waits".to_owned(), json!(self.waits));
        }
        document
    }

    fn row(&self) -> Vec<Span> {
        let Self { health, plan, .. } = self;
        let (word, tone) = match self.state() {
            State::Failed | State::Drift => ("drift", Tone::Bad),
            State::Due => ("due", Tone::Due),
            State::Held => ("waits", Tone::Due),
            State::Fine => ("ok", Tone::Good),
        };
        let because = |o: &OperationSpec| format!("{}: {}", o.kind.as_str(), o.reason);
        let next: Vec<String> = plan.operations.iter().map(because).collect();
        let next = match &plan.left_alone {
            _ if !next.is_empty() => next.join("; "),
            Some(why) => format!("left alone: {why}"),
            None => String::from("nothing"),
        };
        let lacking = health.indexes.iter().max_by_key(|i| i.unindexed_rows);
        let unindexed = lacking.map_or_else(
            || String::from("-"),
            |index| match index.stale_seconds.filter(|_| index.unindexed_rows > 0) {
                Some(since) => format!("{} for {}", count(index.unindexed_rows), age(since)),
                None => count(index.unindexed_rows),
            },
        );
        let number = |text: String| Span::new(Tone::Plain, text);
        vec![
            Span::new(Tone::Plain, &health.table),
            Span::new(tone, word),
            number(count(health.rows)),
            number(size(health.bytes)),
            number(count(health.fragments)),
            number(count(health.versions)),
            number(count(health.deleted_rows)),
            number(unindexed),
            Span::new(
                match tone {
                    Tone::Due => Tone::Due,
                    _ => Tone::Faint,
                },
                next,
            ),
        ]
    }
}

fn failed_row(target: &Target) -> Vec<Span> {
    let mut row = vec![
        Span::new(Tone::Plain, target.to_string()),
        Span::new(Tone::Bad, "failed"),
    ];
    row.extend((row.len()..COLUMNS.len() - 1).map(|_| Span::new(Tone::Faint, "-")));
    row.push(Span::new(Tone::Faint, "unknown"));
    row
}

/// What no version refers to; nothing when there is none.
fn left_line(table: &Target, unreferenced: &Unreferenced) -> Option<String> {
    let by_age = unreferenced.by_age();
    let bytes: u64 = by_age.iter().map(|(_, of_age)| of_age.bytes).sum();
    let files: u64 = by_age.iter().map(|(_, of_age)| of_age.files).sum();
    if files == 0 {
        return None;
    }
    let [young, week, old] = by_age.map(|(_, of_age)| size(of_age.bytes));
    Some(format!(
        "{table}: {} in {files} files that no version refers to ({young} younger than an hour, {week} than 7 days, {old} older)",
        size(bytes)
    ))
}

/// What was written into a table, and why, as far as the daemon has counted.
fn ledger_line(target: &Target, health: &TableHealth) -> Option<String> {
    let of = health.ledger.as_ref()?.total;
    (of.maintained() > 0).then(|| {
        format!(
            "{target}: {} were found, users wrote {} since; maintenance rewrote {}, wrote {} for nothing and {} of indexes ({:.1} bytes for each of those), and deleted {}",
            size(of.found),
            size(of.written),
            size(of.rewritten),
            size(of.wasted),
            size(of.indexed),
            of.amplification(),
            size(of.deleted),
        )
    })
}

/// That commits of any client clean a plain table up; from a table of a store the setting is taken away.
pub(super) fn cleans_itself(target: &Target, health: &TableHealth) -> Option<String> {
    let is_plain = target.table().is_none() && !health.auto_cleanup.is_empty();
    is_plain.then(|| {
        let set = health.auto_cleanup.iter();
        let set: Vec<String> = set.map(|(key, value)| format!("{key} = {value}")).collect();
        format!(
            "{target}: commits of every client, maintenance included, remove old versions of it, since it is configured so ({}); squire leaves that as it is",
            set.join(", ")
        )
    })
}

/// What is told of a table below all of them.
fn below(target: &Target, looked: &Looked, unreferenced: Option<&Unreferenced>) -> Vec<String> {
    let waits = looked.waits.iter();
    let waits = waits.map(|wait| format!("{target}: {wait}"));
    let others = [
        ledger_line(target, &looked.health),
        cleans_itself(target, &looked.health),
        unreferenced.and_then(|u| left_line(target, u)),
    ];
    waits.chain(others.into_iter().flatten()).collect()
}

fn drifted(target: &Target, version: u64) -> Span {
    let what = "was committed past the pin; see `squire repair`";
    let line = format!("{target}: DRIFT: version {version} {what}");
    Span::new(Tone::Bad, line)
}

/// What is kept and leased of a store.
async fn holds_at(place: &Place) -> Result<Vec<Hold>> {
    match place.managed {
        true => place.store.holds().await,
        false => Ok(Vec::new()),
    }
}

/// Tells what is kept and leased. That it is not known hides no table: they are as they are, whoever reads them.
fn tell_holds(results: &mut Results, holds: &Result<Vec<Hold>>) {
    match holds {
        Ok(holds) => holds.iter().for_each(|hold| results.say(told(hold))),
        Err(e) => {
            let unknown = format!("what is kept and leased is not known: {e}");
            results.say(Span::new(Tone::Bad, unknown));
            results.exits(code(e.kind()));
        }
    }
}

/// Looks once and prints what it found.
async fn once(context: &Context, args: &PlanArgs, again: bool) -> Result<ExitCode> {
    let PlanArgs {
        target: args,
        daemon,
    } = args;
    let context = &context.seen_from(&args.store);
    let place = context.place(&args.store).await?;
    let selecting = place.select_maintained(&args.tables, &context.config);
    let selection = selecting.await?;
    let mut waiting = Waiting::at(context, &place, *daemon).await;
    let version = match place.managed {
        true => Some(place.store.load().await?.version()),
        false => None,
    };
    let sidecars = place.sidecar_ops().await?;
    let stranded = place.stranded_bytes().await?;
    let mut results = Results::of(&selection);
    let holds = holds_at(&place).await;
    let recorded = format!("{} sidecars, {} stranded", sidecars.len(), size(stranded));
    let uri = &place.uri;
    if version.is_none() && (stranded > 0 || !sidecars.is_empty()) {
        results.say(format!("{uri}: {recorded}"));
    }
    if let Some(version) = version {
        results.say(format!("{uri}: manifest version {version}, {recorded}"));
        tell_holds(&mut results, &holds);
    }
    let (mut rows, mut left) = (Vec::new(), Vec::new());
    for target in selection {
        match look(context, &place, &target).await {
            Ok(mut looked) => {
                let seen = (&looked.plan, &looked.health);
                looked.waits = waiting.of(context, (&place, &target), seen);
                let drifted = looked.drift.map(|version| drifted(&target, version));
                // A table that can be looked at may have too much to list.
                let looking = step("look", &target, place.unreferenced(&target)).await;
                let unreferenced = looking.ok().flatten();
                left.extend(below(&target, &looked, unreferenced.as_ref()));
                let mut document = looked.document();
                if let Value::Object(fields) = &mut document {
                    fields.insert("unreferenced".to_owned(), json!(unreferenced));
                }
                results.add(document, drifted);
                rows.push((looked.state(), looked.row()));
            }
            Err(e) => {
                let nothing = json!({ "drift": null, "plan": null, "waits": [] });
                results.fail(&target.to_string(), &e, nothing);
                rows.push((State::Failed, failed_row(&target)));
            }
        }
    }
    rows.sort_by_key(|(state, _)| *state);
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    let laid_out = lay_out(&COLUMNS, rows).into_iter();
    laid_out.for_each(|line| results.say(line));
    let left = left.into_iter().chain(waiting.lines());
    left.for_each(|line| results.say(line));
    let mut more = Map::new();
    more.insert("manifest_version".to_owned(), json!(version));
    more.insert("sidecars".to_owned(), json!(sidecars));
    more.insert("stranded_bytes".to_owned(), json!(stranded));
    more.insert("holds".to_owned(), json!(holds.ok()));
    more.insert("daemon".to_owned(), json!(waiting.daemon));
    if again {
        context.out.clear();
    }
    Ok(results.finish(context, more))
}

pub(super) async fn status(context: &Context, args: StatusArgs) -> Result<ExitCode> {
    let Some(interval) = args.watch else {
        return once(context, &args.of, false).await;
    };
    let interval = interval.max(SHORTEST);
    let stop = cancel_on_signal();
    // What cannot be opened at first is a mistake; later it is news.
    let mut again = false;
    while !context.out.closed() {
        let looked = tokio::select! {
            () = stop.cancelled() => break,
            looked = once(context, &args.of, again) => looked,
        };
        if let Err(error) = looked {
            if !again {
                return Err(error);
            }
            context.out.clear();
            context.out.fail(&error);
        }
        again = true;
        tokio::select! {
            () = stop.cancelled() => break,
            () = context.options.clock.sleep(interval) => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
