//! What a run was and what it found: a table for people, a document for others.

use super::check::Verdict;
use super::observe::Counts as ReaderCounts;
use super::processes::Processes;
use super::replay::Replay;
use super::run::{Room, Settings};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A whole run in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How long the processes were tormented.
    pub seconds: u64,
    /// Calls and what became of them.
    pub calls: Verdict,
    /// Processes: started, killed, paused; by the monkey and at seams.
    pub processes: BTreeMap<&'static str, u64>,
    /// Injected storage faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// What the protocol did about it.
    pub protocol: BTreeMap<&'static str, u64>,
    /// What maintenance did.
    pub maintenance: BTreeMap<&'static str, u64>,
    /// Snapshots: compared, expired, read again.
    pub snapshots: BTreeMap<&'static str, u64>,
    /// What was wrong.
    pub violations: Vec<String>,
}

impl Report {
    /// Counts what the run left.
    pub fn new(
        settings: &Settings,
        tormented: Duration,
        left: Left<'_>,
        calls: Verdict,
        violations: Vec<String>,
    ) -> Self {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &left.processes.counts;
        let said = Said::of(left.room);
        let kinds = |kind: &str| {
            let entries = left.replay.entries.iter();
            entries.filter(|e| e.record.kind == kind).count() as u64
        };
        let undone = left.replay.entries.iter();
        let undone = undone.filter(|e| e.record.kind == "undo");
        Self {
            seed: settings.seed,
            seconds: tormented.as_secs(),
            calls,
            processes: BTreeMap::from([
                ("started", read(&counts.started)),
                ("killed", read(&counts.killed)),
                ("killed at a seam", read(&counts.killed_at_seam)),
                ("paused", read(&counts.paused)),
                ("paused at a seam", read(&counts.paused_at_seam)),
            ]),
            faults: faults(left.room),
            protocol: BTreeMap::from([
                ("manifest versions", left.replay.version()),
                ("commits", left.replay.commits.len() as u64),
                ("published for another process", said.helped),
                ("aborted", left.replay.aborted.len() as u64),
                ("operations taken back", kinds("undo")),
                (
                    "versions taken back",
                    undone.map(|e| e.record.tables.len() as u64).sum(),
                ),
                ("dead versions healed by a daemon", said.healed),
                ("prefixes published", kinds("maintenance")),
            ]),
            maintenance: said.maintenance,
            snapshots: BTreeMap::from([
                ("compared", left.replay.compared),
                ("expired", read(&left.readers.expired)),
                ("read again", read(&left.readers.repeated)),
            ]),
            violations,
        }
    }

    /// The table.
    pub fn lines(&self) -> Vec<String> {
        let calls = &self.calls;
        let mut lines = vec![row("seed", self.seed), row("seconds", self.seconds)];
        for (name, count) in [
            ("calls acknowledged", calls.acknowledged),
            ("  told that the batch was committed", calls.already),
            ("  refused (conflict, aborted, error)", calls.refused),
            ("  unknown", calls.unknown),
            ("    of these killed before an answer", calls.killed),
            ("    of these committed", calls.unknown_committed),
            ("    of these aborted", calls.unknown_aborted),
            ("    of these without a trace", calls.unknown_absent),
            ("  batches repeated", calls.repeated),
        ] {
            lines.push(row(name, count));
        }
        for (title, counts) in [
            ("processes", owned(&self.processes)),
            ("faults", self.faults.clone()),
            ("protocol", owned(&self.protocol)),
            ("maintenance", owned(&self.maintenance)),
            ("snapshots", owned(&self.snapshots)),
        ] {
            lines.extend(
                counts
                    .iter()
                    .map(|(k, n)| row(&format!("{title}: {k}"), *n)),
            );
        }
        lines.push(row("events ordered in real time", calls.ordered));
        lines.push(row("outcomes asked", calls.asked));
        lines.push(row("violations", self.violations.len() as u64));
        lines
    }
}

/// What a run leaves to count.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    /// Its files.
    pub room: &'a Room,
    /// Its log.
    pub replay: &'a Replay,
    /// Its children.
    pub processes: &'a Processes,
    /// Its readers.
    pub readers: &'a ReaderCounts,
}

fn row(name: &str, count: u64) -> String {
    format!("{name:<48} {count:>12}")
}

fn owned(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect()
}

fn faults(room: &Room) -> BTreeMap<String, u64> {
    let mut faults = BTreeMap::new();
    for line in std::fs::read_to_string(room.fault_log())
        .unwrap_or_default()
        .lines()
    {
        let mut words = line.split(' ');
        if let (Some(kind), Some(request)) = (words.next(), words.next()) {
            *faults.entry(format!("{kind} {request}")).or_default() += 1;
        }
    }
    faults
}

/// Commits of rewrites in whose fragments others had deleted meanwhile.
pub const CARRIED: &str = "commits carried";

/// What the processes said of themselves.
#[derive(Debug, Default)]
struct Said {
    helped: u64,
    healed: u64,
    maintenance: BTreeMap<&'static str, u64>,
}

impl Said {
    fn of(room: &Room) -> Self {
        let mut said = Self::default();
        let mut helped = BTreeSet::new();
        for file in std::fs::read_dir(room.logs()).expect("the logs") {
            let text = std::fs::read(file.expect("a log").path()).expect("a log");
            for line in String::from_utf8_lossy(&text).lines() {
                said.take(line, &mut helped);
            }
        }
        said.helped = helped.len() as u64;
        said
    }

    fn take(&mut self, line: &str, helped: &mut BTreeSet<String>) {
        if line.contains("published for another process") {
            helped.extend(field(line, "op").map(str::to_owned));
        } else if line.contains("recovered an operation") {
            self.healed += u64::from(field(line, "outcome") == Some("\"healed\""));
        } else if line.contains("maintenance done") {
            let number = |name| {
                field(line, name)
                    .and_then(|n| n.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            let run = match field(line, "kind") {
                Some("\"compact\"") => "compactions",
                Some("\"reindex\"") => "reindexes",
                _ => "cleanups",
            };
            *self.maintenance.entry(run).or_default() += 1;
            for (name, count) in [
                ("fragments removed", number("removed")),
                ("versions removed", number("versions")),
                ("bytes removed with versions", number("bytes")),
            ] {
                *self.maintenance.entry(name).or_default() += count;
            }
        } else if line.contains("committed rewrites") {
            let carried = field(line, "carried") == Some("true");
            *self.maintenance.entry(CARRIED).or_default() += u64::from(carried);
        } else if line.contains("stranded files reclaimed") {
            let bytes = field(line, "bytes").and_then(|n| n.parse::<u64>().ok());
            *self
                .maintenance
                .entry("stranded bytes reclaimed")
                .or_default() += bytes.unwrap_or(0);
        } else if line.contains("maintenance did not succeed") {
            *self.maintenance.entry("failures").or_default() += 1;
        }
    }
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let from = line.find(&format!(" {name}="))? + name.len() + 2;
    line[from..].split(' ').next()
}

/// What no process may say: each such line is a finding.
pub fn alarms(room: &Room) -> Vec<String> {
    let mut alarms = Vec::new();
    for file in std::fs::read_dir(room.logs()).expect("the logs") {
        let path = file.expect("a log").path();
        let text = std::fs::read(&path).expect("a log");
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            // Lance unwraps the result of a read that it started itself: when a command ends with an error while
            // such a read runs, the runtime cancels it, and a thread that nobody waits for panics.
            let cancelled = || {
                let next = lines.get(at + 1);
                next.is_some_and(|next| next.contains("JoinError::Cancelled"))
            };
            if (line.contains("panicked at") && !cancelled())
                || line.contains("an invariant of the protocol is violated")
                || line.contains(" ERROR ")
            {
                alarms.push(format!("{}: {line}", path.display()));
            }
        }
    }
    alarms.truncate(10);
    alarms
}
