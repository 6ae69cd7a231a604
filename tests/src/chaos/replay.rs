//! The replay: the commit log is the order of all commits, so it says what every manifest version shows.

use super::history::{Begin, History};
use super::model::{Contents, Digest, difference};
use super::observe::{Observation, Seen};
use super::writer::balance;
use super::{ACCOUNTS, ACCOUNTS_EACH, BALANCE, TABLES, Violations, now_us};
use squire_engine::recovery::LogEntry;
use squire_engine::store::Store;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often a manifest version that is missing in the log is looked for. A cleanup moves it from the manifest to the
/// archive while it is read; a version that stays missing is lost history.
const LOOKS: u32 = 100;

/// One logical commit in the log.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The manifest version that shows it first.
    pub version: u64,
    /// Its operation.
    pub op: String,
    /// The tag of each batch that it made visible, in their order, and the call that made it.
    pub batches: Vec<(String, String)>,
}

/// One manifest version.
#[derive(Debug, Clone, Copy, Default)]
struct Version {
    digests: [Digest; TABLES.len()],
    pins: [u64; TABLES.len()],
}

/// The commit log as far as it was read, and what it says.
pub struct Replay {
    store: Arc<Store>,
    violations: Violations,
    /// What the writers began and were told.
    pub history: History,
    /// The log, from manifest version 2 on.
    pub entries: Vec<LogEntry>,
    tables: [Contents; TABLES.len()],
    /// By manifest version, from 0 on.
    versions: Vec<Version>,
    /// Logical commits by operation.
    pub commits: HashMap<String, Commit>,
    /// The operation that committed a tag.
    pub tags: HashMap<String, String>,
    /// Decisions to abort, with the version that made them.
    pub aborted: HashMap<String, u64>,
    /// Snapshots that were compared.
    pub compared: u64,
    /// Everything that was committed before this moment is in the replay.
    pub complete_us: u64,
    /// When which reader saw which version.
    pub seen: Vec<Seen>,
    /// Whether the clock by which processes compare times jumped.
    pub clock_jumped: bool,
}

impl Replay {
    /// An empty replay of `store`.
    pub fn new(store: Arc<Store>, history: &Path, violations: Violations) -> Self {
        Self {
            store,
            violations,
            history: History::of(history),
            entries: Vec::new(),
            tables: Default::default(),
            versions: vec![Version::default(); 2],
            commits: HashMap::new(),
            tags: HashMap::new(),
            aborted: HashMap::new(),
            compared: 0,
            complete_us: 0,
            seen: Vec::new(),
            clock_jumped: false,
        }
    }

    /// The manifest version that it reached.
    pub fn version(&self) -> u64 {
        self.versions.len() as u64 - 1
    }

    /// Replays the log up to `version` at least.
    pub async fn reach(&mut self, version: u64) {
        for _ in 0..LOOKS {
            if self.version() >= version {
                return;
            }
            match self.fetch().await {
                Ok(()) => {}
                Err(e) => eprintln!("the log cannot be read now: {e}"),
            }
            if self.version() < version {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        self.violations.add(format!(
            "manifest version {} is missing in the log, though the manifest is at {version}",
            self.version() + 1
        ));
    }

    /// Replays what is there now.
    pub async fn fetch(&mut self) -> squire_engine::error::Result<()> {
        let asked_us = now_us();
        let latest = self.store.load().await?.version();
        let missing = usize::try_from(latest.saturating_sub(self.version())).expect("a count");
        if missing == 0 {
            self.complete_us = asked_us;
            return Ok(());
        }
        let mut entries = self.store.log(missing).await?;
        entries.sort_unstable_by_key(|e| e.manifest_version);
        self.history.catch_up();
        for entry in entries {
            if entry.manifest_version == self.version() + 1 {
                self.take(entry);
            }
        }
        if self.version() >= latest {
            self.complete_us = asked_us;
        }
        Ok(())
    }

    fn take(&mut self, entry: LogEntry) {
        let mut next = self.versions.last().copied().unwrap_or_default();
        let at = entry.manifest_version;
        for change in &entry.record.tables {
            let index = index_of(change.table.as_str());
            let pin = &mut next.pins[index];
            if *pin != change.from || change.to < change.from {
                self.violations.add(format!(
                    "I2: manifest version {at} moves {} from {} to {}, but its pin is {pin}",
                    change.table, change.from, change.to
                ));
            }
            *pin = change.to;
        }
        match entry.record.kind.as_str() {
            "logical" => self.commit(&entry),
            "abort" => {
                let op = entry.record.op.to_string();
                if let Some(commit) = self.commits.get(&op) {
                    let version = commit.version;
                    self.violations.add(format!(
                        "I3: operation {op} is aborted at version {at} and was committed at version {version}"
                    ));
                }
                self.aborted.insert(op, at);
            }
            _ => {}
        }
        next.digests = std::array::from_fn(|i| self.tables[i].digest());
        self.versions.push(next);
        self.entries.push(entry);
    }

    fn commit(&mut self, entry: &LogEntry) {
        let record = &entry.record;
        if record.tables.iter().all(|c| c.from == 0) {
            return; // A table was made.
        }
        let (op, at) = (record.op.to_string(), entry.manifest_version);
        // An agent commits several batches together.
        let tags: Vec<&String> = match record.members.as_slice() {
            [] => vec![&record.message],
            members => members.iter().map(|member| &member.message).collect(),
        };
        let mut begun = Vec::new();
        for tag in tags {
            let Some(call) = self.history.call_of(&op, tag) else {
                let what = format!("version {at}: operation {op} ({tag}) was begun by nobody");
                return self.violations.add(what);
            };
            begun.push((tag, call.begin.clone()));
        }
        if let Some(version) = self.aborted.get(&op) {
            self.violations.add(format!(
                "I4: operation {op} was aborted at version {version} and committed at version {at}"
            ));
        }
        let written: BTreeSet<&str> = record.tables.iter().map(|c| c.table.as_str()).collect();
        let tables = begun.iter().flat_map(|(_, begin)| begin.changes.keys());
        let wanted: BTreeSet<&str> = tables.map(String::as_str).collect();
        if written != wanted {
            self.violations.add(format!(
                "I1: version {at} shows {op} in {written:?}, it writes {wanted:?}"
            ));
        }
        let mut batches = Vec::new();
        for (tag, begin) in begun {
            if let Some(first) = self.tags.insert(tag.clone(), op.clone()) {
                self.violations.add(format!(
                    "I4: batch {tag} is committed by {first} and again by {op} at version {at}"
                ));
            }
            self.check_reads(&op, at, &begin);
            for (table, change) in &begin.changes {
                self.tables[index_of(table)].apply(change);
            }
            batches.push((tag.clone(), begin.call));
        }
        let commit = Commit {
            version: at,
            op: op.clone(),
            batches,
        };
        self.commits.insert(op, commit);
    }

    /// I9: what a committed operation read was still so when it was committed.
    fn check_reads(&self, op: &str, at: u64, begin: &Begin) {
        for (table, read) in &begin.reads {
            let now = self.tables[index_of(table)].digest();
            if now != *read {
                self.violations.add(format!(
                    "I9: operation {op} ({}) at version {at} read {table} as {read:?}, before it there is {now:?}",
                    begin.tag
                ));
            }
        }
    }

    /// Compares a snapshot with the replay at its version.
    pub async fn compare(&mut self, observation: Observation) {
        let seen = &observation.seen;
        self.reach(seen.version).await;
        let Some(version) = self
            .versions
            .get(usize::try_from(seen.version).expect("an index"))
        else {
            return;
        };
        for (index, table) in TABLES.iter().enumerate() {
            let (rows, pin) = &observation.tables[index];
            if *pin != version.pins[index] {
                self.violations.add(format!(
                    "{} saw {table} at {pin} in manifest version {}; the log says {}",
                    seen.reader, seen.version, version.pins[index]
                ));
            }
            if Digest::of(rows) != version.digests[index] {
                let expected = self.contents_at(seen.version, index);
                self.violations.add(format!(
                    "{} saw {table} (version {pin}) wrongly in manifest version {}: {}",
                    seen.reader,
                    seen.version,
                    difference(&expected.rows(), rows)
                ));
            }
        }
        let accounts = ACCOUNTS
            .iter()
            .flat_map(|t| &observation.tables[index_of(t)].0);
        let sum: i64 = accounts.map(|(_, value)| balance(value)).sum();
        let whole = 2 * ACCOUNTS_EACH * BALANCE;
        if sum != whole && sum != 0 {
            self.violations.add(format!(
                "{} saw {sum} in all accounts of manifest version {}, not {whole}",
                seen.reader, seen.version
            ));
        }
        self.compared += 1;
        self.seen.push(observation.seen);
    }

    /// One table as the replay has it at an older version.
    fn contents_at(&self, version: u64, index: usize) -> Contents {
        let mut contents = Contents::default();
        let mut commits: Vec<&Commit> = self.commits.values().collect();
        commits.sort_unstable_by_key(|c| c.version);
        for commit in commits.iter().filter(|c| c.version <= version) {
            for (_, call) in &commit.batches {
                let call = &self.history.calls[call];
                if let Some(change) = call.begin.changes.get(TABLES[index]) {
                    contents.apply(change);
                }
            }
        }
        contents
    }
}

/// Where a table stands in [`TABLES`].
fn index_of(table: &str) -> usize {
    TABLES
        .iter()
        .position(|t| *t == table)
        .expect("a table of the run")
}
