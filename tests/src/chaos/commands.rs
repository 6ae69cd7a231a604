//! A writer that runs one `squire` command for each call, as a script would, and goes by its exit code.

use super::history::{Answer, Begin, End, Event, Recorder};
use super::model::{Change, Row};
use super::plan::{Mischief, Part, Workload, mischief, rng};
use super::processes::{Processes, judge};
use super::run::{Room, store_uri};
use super::{Violations, now_us};
use crate::squire;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The exit codes that a command may end with here: done, failed, conflict or unknown.
const CODES: [i32; 3] = [0, 1, 75];

/// Runs commands until the run is over.
pub fn run(room: &Room, number: u32, processes: &Processes, violations: &Violations) {
    let mut commander = Commander::new(room, format!("c{number}.0"));
    let mut work = Workload::new(room.seed, 500 + number, 0);
    let mut repeat: Option<Begin> = None;
    while !room.is_over() {
        let begin = repeat
            .take()
            .unwrap_or_else(|| commander.begin(|tag| commandable(&mut work, tag)));
        let (begin, answer) = commander.call(begin, processes, violations);
        if answer == Answer::Unknown && commander.rng.random_bool(0.8) {
            repeat = Some(begin);
        }
        std::thread::sleep(work.pause());
    }
}

/// Someone who runs one command for each call.
pub struct Commander<'a> {
    room: &'a Room,
    process: String,
    recorder: Recorder,
    rng: StdRng,
    calls: u32,
}

impl<'a> Commander<'a> {
    /// The one that the history calls `process`.
    pub fn new(room: &'a Room, process: String) -> Self {
        let recorder = Recorder::open(&room.history().join(format!("{process}.jsonl")));
        let rng = rng(room.seed, &process);
        Self {
            room,
            process,
            recorder,
            rng,
            calls: 0,
        }
    }

    /// A batch of its own of the changes that bear its tag.
    pub fn begin(&self, changes: impl FnOnce(&str) -> BTreeMap<String, Change>) -> Begin {
        let tag = format!("{}/{:06}", self.process, self.calls + 1);
        Begin {
            call: tag.clone(),
            at_us: 0,
            changes: changes(&tag),
            tag,
            reads: BTreeMap::new(),
            batched: true,
        }
    }

    /// Records the next call, runs its command, records the answer.
    pub fn call(
        &mut self,
        mut begin: Begin,
        processes: &Processes,
        violations: &Violations,
    ) -> (Begin, Answer) {
        self.calls += 1;
        begin.call = format!("{}/{:06}", self.process, self.calls);
        begin.at_us = now_us();
        self.recorder.record(&Event::Begin(begin.clone()));
        let mischief = mischief(&mut self.rng, Part::Writer, &self.room.fault_log());
        let (answer, op, error) = submit(self.room, &begin, &mischief, processes, violations);
        self.recorder.record(&Event::End(End {
            call: begin.call.clone(),
            at_us: now_us(),
            answer,
            op,
            error,
        }));
        (begin, answer)
    }
}

/// A change that the command line can express in one command.
fn commandable(work: &mut Workload, tag: &str) -> BTreeMap<String, Change> {
    loop {
        let changes = work.blind(tag);
        let several = changes.len() > 1;
        let can = |change: &Change| match change {
            Change::Append(_) => true,
            Change::Merge(_) | Change::Insert(_) | Change::Update(_) | Change::Replace(..) => {
                !several
            }
            Change::Overwrite(_) | Change::DeleteRange(..) => !several,
            Change::DeleteKeys(_) => false,
        };
        if changes.values().all(can) {
            return changes;
        }
    }
}

fn csv(directory: &Path, table: &str, rows: &[Row]) -> PathBuf {
    std::fs::create_dir_all(directory).expect("a directory");
    let path = directory.join(format!("{table}.csv"));
    let lines: String = rows.iter().map(|(id, v)| format!("{id},{v}\n")).collect();
    std::fs::write(&path, format!("id,value\n{lines}")).expect("a file of rows");
    path
}

fn range(from: i64, until: i64) -> String {
    format!("id >= {from} AND id < {until}")
}

/// The command without the store's URI, which stands second.
fn arguments(directory: &Path, changes: &BTreeMap<String, Change>) -> Vec<String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let write = |table: &str, rows: &[Row], mode: &str| {
        let file = text(csv(directory, table, rows));
        ["write", table, &file, "--mode", mode]
            .map(str::to_owned)
            .to_vec()
    };
    let mut named = changes.iter();
    match (named.next(), changes.len()) {
        (Some((table, Change::Append(rows))), 1) => write(table, rows, "append"),
        (Some((table, Change::Merge(rows))), _) => write(table, rows, "merge"),
        (Some((table, Change::Insert(rows))), _) => write(table, rows, "insert"),
        (Some((table, Change::Update(rows))), _) => write(table, rows, "update"),
        (Some((table, Change::Replace(from, until, rows))), _) => {
            let mut replace = write(table, rows, "replace");
            replace.extend(["--where".to_owned(), range(*from, *until)]);
            replace
        }
        (Some((table, Change::Overwrite(rows))), _) => write(table, rows, "overwrite"),
        (Some((table, Change::DeleteRange(from, until))), _) => {
            ["delete", table, "--where", &range(*from, *until)]
                .map(str::to_owned)
                .to_vec()
        }
        _ => {
            for (table, change) in changes {
                if let Change::Append(rows) = change {
                    csv(directory, table, rows);
                }
            }
            vec!["commit".to_owned(), text(directory.to_owned())]
        }
    }
}

fn submit(
    room: &Room,
    begin: &Begin,
    mischief: &Mischief,
    processes: &Processes,
    violations: &Violations,
) -> (Answer, Option<String>, Option<String>) {
    let directory = room.scratch().join(begin.call.replace('/', "-"));
    let process = begin.call.split('.').next().unwrap_or("c");
    let said = room.scratch().join(format!("{process}.json"));
    let mut arguments = arguments(&directory, &begin.changes);
    arguments.insert(1, store_uri(&room.store, mischief));
    let mut command = Command::new(squire());
    command
        .args(arguments)
        .args(["--json", "--grace", "400ms", "--retries", "20"])
        .args(["--batch-id", &begin.tag, "--message", &begin.tag])
        .stdin(Stdio::null())
        .stdout(File::create(&said).expect("a file"))
        .stderr(room.log(process));
    room.equip(&mut command, mischief);
    let id = processes.start(&begin.call, &mut command);
    let ended = processes.wait(id);
    judge(&begin.call, ended, &CODES, violations);
    if directory.is_dir() {
        std::fs::remove_dir_all(&directory).expect("it was made here");
    }
    let said: Value = std::fs::read_to_string(&said)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(Value::Null);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if ended.killed {
        // A document that was printed before the end is an answer all the same, but nobody read it in time.
        return (Answer::Unknown, None, Some("killed".to_owned()));
    }
    match ended.status.code() {
        Some(0) if said["outcome"] == "committed" => (Answer::Committed, text(&said["op"]), None),
        Some(0) => (Answer::AlreadyCommitted, text(&said["op"]), None),
        _ => {
            let answer = match said["error"]["kind"].as_str() {
                Some("Unknown") | None => Answer::Unknown,
                Some(_) => Answer::Refused,
            };
            let error = &said["error"];
            (answer, text(&error["op"]), text(&error["message"]))
        }
    }
}
