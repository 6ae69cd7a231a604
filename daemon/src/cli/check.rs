//! `squire check`: one line per location that says whether anybody has to act, and the exit code for a script or a monitor.

use super::Context;
use super::args::CheckArgs;
use super::status::{Looked, look};
use super::table::{Line, Span, Tone, age, size};
use super::waits::resting;
use crate::config::{MinFree, Watch};
use crate::decide::room::Room;
use crate::exit::exit_code;
use crate::place::{Place, watch_of};
use serde::Serialize;
use serde_json::json;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::recovery::LogEntry;
use std::process::ExitCode;

/// Maintenance that is this many times over its threshold is not keeping up.
const BEHIND: f64 = 4.0;

/// How many publishes are searched for the last maintenance.
const SEARCHED: usize = 200;

/// Less free than `min_free` hinders maintenance, which writes before it deletes; and less than this hinders everyone.
const FULL: MinFree = MinFree::Percent(1);

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Critical,
}

#[derive(Debug, Clone, Serialize)]
struct Finding {
    level: Level,
    /// The table it is about, or nothing when it is about the location.
    table: Option<String>,
    text: String,
}

/// What is to be said about one location.
#[derive(Debug, Default, Serialize)]
struct Report {
    location: String,
    tables: u64,
    failed: u64,
    drift: u64,
    due: u64,
    sidecars: u64,
    free_bytes: Option<u64>,
    /// Age of the last publish of maintenance; plain tables have no log to tell it from.
    last_maintenance_seconds: Option<u64>,
    findings: Vec<Finding>,
    #[serde(skip)]
    names: Vec<String>,
}

impl Report {
    fn level(&self) -> Level {
        let levels = self.findings.iter().map(|f| f.level);
        levels.max().unwrap_or(Level::Ok)
    }

    fn find(&mut self, level: Level, table: Option<&str>, text: impl Into<String>) {
        self.findings.push(Finding {
            level,
            table: table.map(str::to_owned),
            text: text.into(),
        });
    }

    /// What is wrong, the worst first; or what there is.
    fn text(&self) -> String {
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|f| std::cmp::Reverse(f.level));
        let said: Vec<String> = findings
            .into_iter()
            .map(|f| match &f.table {
                Some(table) => format!("{table}: {}", f.text),
                None => f.text.clone(),
            })
            .collect();
        if !said.is_empty() {
            return said.join("; ");
        }
        let last = self.last_maintenance_seconds;
        let last = last.map_or_else(String::new, |s| format!(", last maintained {} ago", age(s)));
        let free = self.free_bytes;
        let free = free.map_or_else(String::new, |b| format!(", {} free", size(b)));
        format!("{} tables, {} due{last}{free}", self.tables, self.due)
    }

    fn line(&self) -> Line {
        let (word, tone) = match self.level() {
            Level::Ok => ("ok", Tone::Good),
            Level::Warning => ("warning", Tone::Due),
            Level::Critical => ("critical", Tone::Bad),
        };
        Span::new(
            tone,
            format!("{word:<8} {}: {}", self.location, self.text()),
        )
        .into()
    }

    fn table(&mut self, name: &str, looked: &Looked) {
        if let Some(version) = looked.drift {
            self.drift += 1;
            let text =
                format!("drift: version {version} was committed past the pin; see `squire repair`");
            self.find(Level::Warning, Some(name), text);
        }
        self.due += u64::from(!looked.plan.operations.is_empty());
        for due in looked.plan.operations.iter().filter(|o| o.debt >= BEHIND) {
            let text = format!("{} is behind: {}", due.kind.as_str(), due.reason);
            self.find(Level::Warning, Some(name), text);
        }
        if let Some(why) = &looked.plan.left_alone {
            self.find(
                Level::Warning,
                Some(name),
                format!("cannot be compacted: {why}"),
            );
        }
    }
}

/// Looks at a location; nothing is changed, and what fails is a finding.
async fn location(context: &Context, watch: &Watch) -> Report {
    let mut report = Report {
        location: watch.uri.clone(),
        ..Report::default()
    };
    let place = match Place::open(watch, context.options.clone()).await {
        Ok(place) => place,
        Err(e) => {
            report.failed += 1;
            report.find(Level::Critical, None, e.to_string());
            return report;
        }
    };
    if let Err(e) = tables(context, &place, &mut report).await {
        report.find(Level::Critical, None, e.to_string());
    }
    if place.managed
        && let Err(e) = records(context, &place, &mut report).await
    {
        report.find(Level::Critical, None, e.to_string());
    }
    disk(context, &place, &mut report);
    report
}

async fn tables(context: &Context, place: &Place, report: &mut Report) -> Result<()> {
    let unfit = place.unfit().await;
    for target in place.maintained(&context.config).await? {
        report.tables += 1;
        report.names.push(Place::config_name(&target).to_owned());
        match look(context, place, &target).await {
            Ok(looked) => {
                let table = target.to_string();
                report.table(&table, &looked);
                for rests in resting(&unfit, &table, &looked.health) {
                    report.find(Level::Warning, Some(&table), rests.to_string());
                }
            }
            Err(e) => {
                report.failed += 1;
                report.find(Level::Critical, Some(&target.to_string()), e.to_string());
            }
        }
    }
    Ok(())
}

/// Whether a publish is one of maintenance.
fn maintains(entry: &LogEntry) -> bool {
    ["maintenance", "cleanup"].contains(&entry.record.kind.as_str())
}

/// What the store's own records say: operations without an end, and when it was maintained last.
async fn records(context: &Context, place: &Place, report: &mut Report) -> Result<()> {
    let now = context.options.clock.now_ms();
    let grace = u64::try_from(context.options.grace.as_millis()).unwrap_or(u64::MAX);
    for op in place.store.sidecar_ops().await? {
        report.sidecars += 1;
        let waits = match place.store.sidecar(op).await {
            Ok(Some(sidecar)) => now.saturating_sub(sidecar.started_ms),
            // Torn: it was never written, and recovery removes it.
            Ok(None) => continue,
            Err(e) => {
                report.find(Level::Critical, None, e.to_string());
                continue;
            }
        };
        if waits > grace {
            let text = format!(
                "operation {op} began {} ago and has no end; if nobody works on it, see `squire recover`",
                age(waits / 1_000)
            );
            report.find(Level::Warning, None, text);
        }
    }
    let log = place.store.log(SEARCHED).await?;
    let last = log.iter().find(|entry| maintains(entry));
    report.last_maintenance_seconds = last.map(|entry| {
        let at = u64::try_from(entry.at_ms).unwrap_or(0);
        now.saturating_sub(at) / 1_000
    });
    Ok(())
}

/// The room on a local disk. A bucket has no end to tell.
fn disk(context: &Context, place: &Place, report: &mut Report) {
    let room = match place.room() {
        Ok(None) => return,
        Ok(Some(room)) => room,
        Err(e) => {
            report.find(
                Level::Warning,
                None,
                format!("its disk tells no free space: {e}"),
            );
            return;
        }
    };
    report.free_bytes = Some(room.free);
    if let Some(level) = scarce(room, context.config.budget.min_free) {
        let percent = room.free.saturating_mul(100) / room.all.max(1);
        let text = format!("{} ({percent} %) of its disk are free", size(room.free));
        report.find(level, None, text);
    }
}

/// How bad it is that no more is free, if it is.
fn scarce(room: Room, least: Option<MinFree>) -> Option<Level> {
    match room {
        Room { all: 0, .. } => None,
        room if room.is_short(FULL) => Some(Level::Critical),
        room => least
            .is_some_and(|least| room.is_short(least))
            .then_some(Level::Warning),
    }
}

/// What is asked about: the locations named, or those of the configuration.
fn watches(context: &Context, locations: &[String]) -> Vec<Watch> {
    if locations.is_empty() {
        return context.config.watches.clone();
    }
    let given = locations.iter();
    given.map(|uri| watch_of(&context.config, uri)).collect()
}

/// The line of every location, for a report.
pub(super) async fn health(context: &Context, locations: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for watch in watches(context, locations) {
        lines.push(location(context, &watch).await.line().render(false));
    }
    if lines.is_empty() {
        lines.push(String::from("no location was named"));
    }
    lines
}

pub(super) async fn check(context: &Context, args: CheckArgs) -> Result<ExitCode> {
    let watches = watches(context, &args.locations);
    if watches.is_empty() {
        let what = "nothing to check: name a LOCATION, or give a --config with a [[watch]]";
        let error = Error::invalid(what);
        return if args.nagios {
            Ok(unknown(context.out, &error))
        } else {
            Err(error)
        };
    }
    let mut reports = Vec::new();
    for watch in &watches {
        reports.push(location(context, watch).await);
    }
    // Only the whole configuration knows whether a name is nobody's.
    if args.locations.is_empty() && reports.iter().all(|r| r.level() < Level::Critical) {
        let known: Vec<String> = reports.iter().flat_map(|r| r.names.clone()).collect();
        let strange = context.config.unknown_tables(&known);
        if let (Some(last), false) = (reports.last_mut(), strange.is_empty()) {
            let text = format!(
                "no location has a table for [[table]] {}",
                strange.join(", ")
            );
            last.find(Level::Warning, None, text);
        }
    }
    let level = reports.iter().map(Report::level).max();
    let level = level.unwrap_or(Level::Ok);
    let document = json!({ "level": level, "locations": reports });
    if args.nagios {
        context.out.print(&document, &[nagios(level, &reports)]);
        return Ok(ExitCode::from(level as u8));
    }
    reports.sort_by_key(|r| std::cmp::Reverse(r.level()));
    let lines: Vec<Line> = reports.iter().map(Report::line).collect();
    context.out.print_lines(&document, &lines);
    Ok(match level {
        Level::Ok => ExitCode::SUCCESS,
        Level::Warning => exit_code(ErrorKind::Refused),
        Level::Critical => ExitCode::FAILURE,
    })
}

/// One line as the monitoring plugins' guidelines have it: state, text, and after a bar the numbers to plot.
fn nagios(level: Level, reports: &[Report]) -> String {
    let word = match level {
        Level::Ok => "OK",
        Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
    };
    let troubled = reports.iter().filter(|r| r.level() > Level::Ok);
    let mut said: Vec<String> = troubled
        .map(|r| format!("{}: {}", r.location, r.text()))
        .collect();
    if said.is_empty() {
        said.push(String::from("all is well"));
    }
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    format!(
        "SQUIRE {word} - {} | locations={} tables={} failed={} drift={} due={} sidecars={}",
        one_text(&said.join("; ")),
        reports.len(),
        sum(|r| r.tables),
        sum(|r| r.failed),
        sum(|r| r.drift),
        sum(|r| r.due),
        sum(|r| r.sidecars)
    )
}

/// A text for the one line of a plugin: a bar in it would begin the numbers, a line's end would end it.
fn one_text(text: &str) -> String {
    text.replace('|', "/").replace(['\n', '\r'], " ")
}

/// What a monitor is told when nothing could be checked at all: usage or configuration is wrong.
pub(super) fn unknown(out: super::output::Output, error: &Error) -> ExitCode {
    let line = format!("SQUIRE UNKNOWN - {}", one_text(&error.to_string()));
    out.print(
        &json!({ "level": "unknown", "error": { "message": error.to_string() } }),
        &[line],
    );
    ExitCode::from(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_is_told_in_time() {
        let room = |free| Room { free, all: 100 };
        let least = Some(MinFree::Percent(5));
        let told = [50, 5, 4, 1, 0].map(|free| scarce(room(free), least));
        let (low, full) = (Some(Level::Warning), Some(Level::Critical));
        assert_eq!(told, [None, None, low, low, full]);
        assert_eq!([4, 0].map(|free| scarce(room(free), None)), [None, full]);
        let empty = Room { free: 0, all: 0 };
        assert_eq!(
            scarce(empty, least),
            None,
            "a file system without blocks tells nothing"
        );
    }

    #[test]
    fn a_plugin_says_one_line_with_one_bar() {
        let mut report = Report {
            location: String::from("./lake"),
            tables: 2,
            ..Report::default()
        };
        assert!(nagios(report.level(), &[]).starts_with("SQUIRE OK - all is well | locations=0 "));
        report.find(Level::Critical, Some("t"), "torn | and\nlost");
        let line = nagios(report.level(), std::slice::from_ref(&report));
        assert_eq!(
            line,
            "SQUIRE CRITICAL - ./lake: t: torn / and lost | locations=1 tables=2 failed=0 drift=0 due=0 sidecars=0"
        );
    }
}
