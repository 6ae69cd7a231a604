//! The history: what every writer began and what it was told.
//!
//! Each line is one write to a file opened for appending, so what a killed process had done stands there.

use super::model::{Change, Digest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What a writer was told. A writer that was killed was told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Committed now.
    Committed,
    /// An earlier call with this batch id committed.
    AlreadyCommitted,
    /// Not committed, and never will be.
    Refused,
    /// It may or may not commit.
    Unknown,
}

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A call begins.
    Begin(Begin),
    /// An attempt of a call gets its ULID.
    Attempt {
        /// The call.
        call: String,
        /// The operation.
        op: String,
    },
    /// A call ends.
    End(End),
}

/// A call begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    /// The call: writer, incarnation, number.
    pub call: String,
    /// The batch: its message and, mostly, its batch id. A repeated batch has the same.
    pub tag: String,
    /// When.
    pub at_us: u64,
    /// What it does to each table.
    pub changes: BTreeMap<String, Change>,
    /// What it read of each table that must be unchanged.
    pub reads: BTreeMap<String, Digest>,
    /// Whether the tag is its batch id.
    pub batched: bool,
}

/// A call ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct End {
    /// The call.
    pub call: String,
    /// When.
    pub at_us: u64,
    /// What it was told.
    pub answer: Answer,
    /// The operation, if one was named.
    pub op: Option<String>,
    /// The error.
    pub error: Option<String>,
}

/// Appends events to one file.
#[derive(Debug)]
pub struct Recorder(File);

impl Recorder {
    /// Opens `path` for appending.
    pub fn open(path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path);
        Self(file.expect("the history can be written"))
    }

    /// Writes one event; it stands in the file when this returns.
    pub fn record(&self, event: &Event) {
        let mut line = serde_json::to_string(event).expect("an event is JSON");
        line.push('\n');
        (&self.0)
            .write_all(line.as_bytes())
            .expect("the history can be written");
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// How it began.
    pub begin: Begin,
    /// Its attempts, as far as it named them.
    pub attempts: Vec<String>,
    /// How it ended; `None` for one that was killed or still runs.
    pub end: Option<End>,
}

impl Call {
    /// What it was told.
    pub fn answer(&self) -> Option<Answer> {
        self.end.as_ref().map(|e| e.answer)
    }

    /// The process that made it: writer and incarnation.
    pub fn process(&self) -> &str {
        let call = &self.begin.call;
        call.rsplit_once('/').map_or(call, |(process, _)| process)
    }
}

/// Every call of a run, read as its files grow.
#[derive(Debug, Default)]
pub struct History {
    directory: PathBuf,
    read: HashMap<PathBuf, u64>,
    /// By name.
    pub calls: BTreeMap<String, Call>,
    by_op: HashMap<String, String>,
    by_tag: HashMap<String, Vec<String>>,
    /// Calls that ended since this was last emptied.
    pub ended: Vec<String>,
}

impl History {
    /// The history in `directory`.
    pub fn of(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            ..Self::default()
        }
    }

    /// Reads what was added.
    pub fn catch_up(&mut self) {
        let listed = std::fs::read_dir(&self.directory).expect("the history's directory");
        let mut paths: Vec<PathBuf> = listed.map(|f| f.expect("a file").path()).collect();
        paths.sort();
        for path in paths {
            let mut file = File::open(&path).expect("a history file");
            let from = self.read.entry(path).or_default();
            if file.metadata().expect("its length").len() == *from {
                continue;
            }
            file.seek(SeekFrom::Start(*from)).expect("seek");
            let mut text = String::new();
            file.read_to_string(&mut text).expect("UTF-8");
            // A line without its end is still being written.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            *from += whole as u64;
            for line in text[..whole].lines() {
                let event: Event = serde_json::from_str(line).expect("an event");
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begin(begin) => {
                let tagged = self.by_tag.entry(begin.tag.clone()).or_default();
                tagged.push(begin.call.clone());
                let call = Call {
                    begin,
                    attempts: Vec::new(),
                    end: None,
                };
                self.calls.insert(call.begin.call.clone(), call);
            }
            Event::Attempt { call, op } => self.attempt(call, op),
            Event::End(end) => {
                if let Some(op) = end.op.clone()
                    && end.answer != Answer::AlreadyCommitted
                {
                    self.attempt(end.call.clone(), op);
                }
                let call = self.calls.get_mut(&end.call).expect("it began");
                self.ended.push(end.call.clone());
                call.end = Some(end);
            }
        }
    }

    fn attempt(&mut self, call: String, op: String) {
        let attempts = &mut self.calls.get_mut(&call).expect("it began").attempts;
        if !attempts.contains(&op) {
            attempts.push(op.clone());
            self.by_op.insert(op, call);
        }
    }

    /// The call that made operation `op`; by its batch when it was killed before it named the operation.
    pub fn call_of(&self, op: &str, tag: &str) -> Option<&Call> {
        let call = self.by_op.get(op).or_else(|| self.by_tag.get(tag)?.first());
        call.and_then(|call| self.calls.get(call))
    }

    /// The calls with this tag, in the order in which they began.
    pub fn calls_tagged(&self, tag: &str) -> impl Iterator<Item = &Call> {
        let calls = self.by_tag.get(tag).map_or(&[][..], Vec::as_slice);
        calls.iter().filter_map(|call| self.calls.get(call))
    }
}
