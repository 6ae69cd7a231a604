//! A producer that puts batches into a spool, from which agents commit each exactly once.

use super::history::{Answer, Begin, End, Event, Recorder};
use super::model::Change;
use super::plan::{Workload, millis, rng};
use super::run::Room;
use super::{Violations, now_us};
use crate::squire;
use rand::RngExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Batches that may wait; more would only make the end longer.
const WAITING: usize = 30;

/// A producer and what it is still waiting for.
pub struct Producer {
    recorder: Recorder,
    spool: PathBuf,
    /// Calls by the name of their entry.
    open: BTreeMap<String, String>,
}

impl Producer {
    /// A producer for the spool of `room`.
    pub fn new(room: &Room) -> Self {
        let spool = room.spool();
        std::fs::create_dir_all(spool.join("incoming")).expect("a spool");
        Self {
            recorder: Recorder::open(&room.history().join("s0.0.jsonl")),
            spool,
            open: BTreeMap::new(),
        }
    }

    /// Produces until the run is over.
    pub fn run(mut self, room: &Room, violations: &Violations) -> Self {
        let mut work = Workload::new(room.seed, 700, 0);
        let mut rng = rng(room.seed, "producer");
        let mut made = 0;
        while !room.is_over() {
            if self.open.len() < WAITING {
                made += 1;
                let call = format!("s0.0/{made:06}");
                let changes = work.audit(&call, 0);
                self.put(room, call, changes, rng.random_bool(0.5));
            }
            self.collect(violations);
            std::thread::sleep(millis(&mut rng, 50..400));
        }
        self
    }

    fn put(&mut self, room: &Room, call: String, changes: BTreeMap<String, Change>, batched: bool) {
        let name = call.replace('/', "-");
        let directory = room.scratch().join(&name);
        std::fs::create_dir_all(&directory).expect("a directory");
        for (table, change) in &changes {
            let Change::Append(rows) = change else {
                continue;
            };
            let lines: String = rows.iter().map(|(id, v)| format!("{id},{v}\n")).collect();
            let path = directory.join(format!("{table}.csv"));
            std::fs::write(path, format!("id,value\n{lines}")).expect("a file of rows");
        }
        let mut settings = format!("message = \"{call}\"\n");
        if batched {
            settings.push_str(&format!("batch_id = \"{call}\"\n"));
        }
        std::fs::write(directory.join("batch.toml"), settings).expect("the batch's settings");
        self.recorder.record(&Event::Begin(Begin {
            tag: call.clone(),
            call: call.clone(),
            at_us: now_us(),
            changes,
            reads: BTreeMap::new(),
            batched,
        }));
        self.open.insert(name.clone(), call);
        let incoming = self.spool.join("incoming").join(name);
        std::fs::rename(directory, incoming).expect("the spool takes it");
    }

    /// Looks what became of the batches.
    fn collect(&mut self, violations: &Violations) {
        for name in names(&self.spool.join("done")) {
            // An empty directory is a name that was reserved by an agent that died before it moved the batch there.
            let whole = self.spool.join("done").join(&name).join("batch.toml");
            if whole.is_file() {
                self.end(entry(&name), Answer::Committed);
            }
        }
        for name in names(&self.spool.join("rejected")) {
            let Some(rejected) = name.strip_suffix(".reason.txt") else {
                continue;
            };
            let reason = std::fs::read_to_string(self.spool.join("rejected").join(&name));
            violations.add(format!("the agent rejected {rejected}: {reason:?}"));
            self.end(entry(rejected), Answer::Refused);
        }
    }

    fn end(&mut self, name: &str, answer: Answer) {
        let Some(call) = self.open.remove(name) else {
            return;
        };
        self.recorder.record(&Event::End(End {
            call,
            at_us: now_us(),
            answer,
            op: None,
            error: None,
        }));
    }

    /// Has an agent commit what is left, undisturbed.
    pub fn finish(mut self, room: &Room, violations: &Violations) {
        let done = Command::new(squire())
            .args(["agent", &room.store, "--until-empty", "--grace", "400ms"])
            .arg("--spool")
            .arg(&self.spool)
            .env_remove("FAILPOINTS")
            .env_remove("SQUIRE_FAULTS")
            .stderr(room.log("calm"))
            .output()
            .expect("squire runs");
        self.collect(violations);
        if !done.status.success() || !self.open.is_empty() {
            violations.add(format!(
                "the agent ends with {} and leaves {:?} in the spool",
                done.status,
                self.open.values()
            ));
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(listed) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = listed
        .filter_map(|f| f.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The entry's name without the operation that an agent adds to a name that is taken.
fn entry(name: &str) -> &str {
    name.split('~').next().unwrap_or(name)
}
