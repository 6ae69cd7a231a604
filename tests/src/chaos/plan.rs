//! Everything that is chosen at random, from the seed.

use super::model::{Change, Row};
use super::{ACCOUNTS_EACH, BIN, LOGS, UPSERTS};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use squire_failpoints::{Phase, Seam};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

/// The random choices of one part of a run: the same for the same seed and name.
pub fn rng(seed: u64, name: &str) -> StdRng {
    let mut hasher = DefaultHasher::new();
    (seed, name).hash(&mut hasher);
    StdRng::seed_from_u64(hasher.finish())
}

/// One of `choices`.
pub fn one_of<'a, T>(rng: &mut StdRng, choices: &'a [T]) -> &'a T {
    &choices[rng.random_range(0..choices.len())]
}

/// A duration between two numbers of milliseconds.
pub fn millis(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// What a writer does next.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Changes that depend on nothing that was read.
    Blind(BTreeMap<String, Change>),
    /// Moves money from an account of one table to one of the other, if there is enough.
    Transfer {
        /// Index into [`super::ACCOUNTS`] of the table that gives.
        giver: usize,
        /// The account that gives, and the one that takes.
        accounts: [i64; 2],
        /// How much.
        amount: i64,
    },
    /// Writes down what both tables of accounts hold together; they must not change meanwhile.
    Audit,
}

/// What a writer process does, one operation after another.
#[derive(Debug)]
pub struct Workload {
    rng: StdRng,
    first_id: i64,
}

impl Workload {
    /// The workload of incarnation `incarnation` of the writer with this number; ids never meet those of another.
    pub fn new(seed: u64, writer: u32, incarnation: u32) -> Self {
        Self {
            rng: rng(seed, &format!("workload {writer} {incarnation}")),
            first_id: (i64::from(writer) + 1) * 1_000_000_000_000
                + i64::from(incarnation) * 1_000_000,
        }
    }

    /// Whether something with probability `p` happens.
    pub fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    /// A pause between two operations.
    pub fn pause(&mut self) -> Duration {
        millis(&mut self.rng, 0..30)
    }

    fn new_rows(&mut self, tag: &str) -> Vec<Row> {
        let count = self.rng.random_range(1..=4);
        let first = self.first_id;
        self.first_id += count;
        (first..first + count)
            .map(|id| (id, tag.to_owned()))
            .collect()
    }

    /// The rows of an audit.
    pub fn audit(&mut self, tag: &str, sum: i64) -> BTreeMap<String, Change> {
        let rows: Vec<Row> = self
            .new_rows(tag)
            .into_iter()
            .map(|(id, tag)| (id, format!("{tag} sum {sum}")))
            .collect();
        append_to_logs(&rows)
    }

    /// The next operation, for any writer.
    pub fn next(&mut self, tag: &str) -> Operation {
        match self.rng.random_range(0..100) {
            0..30 => Operation::Transfer {
                giver: self.rng.random_range(0..2),
                accounts: [0, 0].map(|_: i64| self.rng.random_range(0..ACCOUNTS_EACH)),
                amount: self.rng.random_range(1..50),
            },
            30..42 => Operation::Audit,
            _ => Operation::Blind(self.blind(tag)),
        }
    }

    /// The next operation that depends on nothing that was read.
    pub fn blind(&mut self, tag: &str) -> BTreeMap<String, Change> {
        let one = |table: &str, change| BTreeMap::from([(table.to_owned(), change)]);
        match self.rng.random_range(0..100) {
            0..35 => append_to_logs(&self.new_rows(tag)),
            35..55 => one(UPSERTS, self.upsert(tag)),
            55..63 => {
                // Several tables of several kinds in one commit.
                let mut changes = append_to_logs(&self.new_rows(tag));
                changes.insert(UPSERTS.to_owned(), self.upsert(tag));
                changes
            }
            63..80 => {
                let first = self.rng.random_range(0..400);
                let rows = (first..first + self.rng.random_range(1..12))
                    .map(|id| (id, tag.to_owned()))
                    .collect();
                one(BIN, Change::Append(rows))
            }
            80..84 => {
                let (from, until) = self.range();
                one(BIN, Change::DeleteRange(from, until))
            }
            84..88 => {
                let (from, until) = self.range();
                let rows = (from..until).step_by(3).map(|id| (id, tag.to_owned()));
                one(BIN, Change::Replace(from, until, rows.collect()))
            }
            88..97 => {
                let first = self.rng.random_range(0..400);
                let keys = (first..first + self.rng.random_range(1..20)).collect();
                one(BIN, Change::DeleteKeys(keys))
            }
            _ => one(BIN, Change::Overwrite(vec![(0, tag.to_owned())])),
        }
    }

    fn upsert(&mut self, tag: &str) -> Change {
        let first = self.rng.random_range(0..60);
        let rows = (first..first + self.rng.random_range(1..6))
            .map(|id| (id, tag.to_owned()))
            .collect();
        match self.rng.random_range(0..4) {
            0 => Change::Insert(rows),
            1 => Change::Update(rows),
            _ => Change::Merge(rows),
        }
    }

    fn range(&mut self) -> (i64, i64) {
        let from = self.rng.random_range(0..400);
        (from, from + self.rng.random_range(1..60))
    }
}

fn append_to_logs(rows: &[Row]) -> BTreeMap<String, Change> {
    LOGS.map(|table| (table.to_owned(), Change::Append(rows.to_vec())))
        .into()
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Commits.
    Writer,
    /// Commits from a spool.
    Agent,
    /// Maintains.
    Daemon,
}

/// The variables that a new process gets: seams, storage faults, and how it reaches the store.
#[derive(Debug, Clone, Default)]
pub struct Mischief {
    /// `FAILPOINTS`.
    pub seams: Option<String>,
    /// `SQUIRE_FAULTS`.
    pub faults: Option<String>,
    /// Whether every request goes through the object-store interface, data files too.
    pub through_objects: bool,
}

/// What a process that starts now meets.
pub fn mischief(rng: &mut StdRng, part: Part, fault_log: &Path) -> Mischief {
    Mischief {
        seams: rng.random_bool(0.8).then(|| seams(rng, part)),
        faults: rng.random_bool(0.5).then(|| faults(rng, part, fault_log)),
        through_objects: rng.random_bool(0.5),
    }
}

/// The seams between the last look at the state and the put that rests on it.
const DECISIVE: [Seam; 4] = [
    Seam::CommitBeforePut,
    Seam::PublishBeforeCommit,
    Seam::PublishAfterCommit,
    Seam::CommitAfterPut,
];

fn seams(rng: &mut StdRng, part: Part) -> String {
    let passed: Vec<Seam> = Seam::ALL
        .iter()
        .copied()
        .filter(|seam| match (seam.phase(), part) {
            (Phase::Repair | Phase::Lease, _) => false,
            (Phase::Agent, part) => part == Part::Agent,
            (Phase::Commit | Phase::Publish | Phase::Resolve, _) => true,
            (Phase::Write, part) => part != Part::Daemon,
            (Phase::Maintain | Phase::Cleanup | Phase::Archive, part) => part == Part::Daemon,
        })
        .collect();
    let mut armed: BTreeMap<&str, String> = BTreeMap::new();
    // Delays make others come in between, where two steps are otherwise a fraction of a millisecond apart.
    for _ in 0..rng.random_range(0..=4) {
        let (often, long) = (rng.random_range(5..60), rng.random_range(1..60));
        armed.insert(
            one_of(rng, &passed).name(),
            format!("{often}%sleep({long})"),
        );
    }
    // A writer that sleeps between its last look and its put, while others decide, publish and clean up.
    if part != Part::Daemon && rng.random_bool(0.6) {
        let seam = *one_of(rng, &DECISIVE);
        let passes = rng.random_range(1..50);
        armed.insert(seam.name(), format!("{passes}*off->1*return(stop)"));
    }
    for _ in 0..rng.random_range(0..=2) {
        // Every second time one of the few around the compare-and-swap and the put that it is.
        let seam = if rng.random_bool(0.5) {
            *one_of(rng, &DECISIVE)
        } else {
            *one_of(rng, &passed)
        };
        armed.insert(seam.name(), once(rng, seam));
    }
    let armed: Vec<String> = armed.iter().map(|(s, a)| format!("{s}={a}")).collect();
    armed.join(";")
}

/// Dies, stops or fails at a seam, the n-th time that it is passed.
fn once(rng: &mut StdRng, seam: Seam) -> String {
    let action = *one_of(rng, &["kill", "kill", "stop", "stop", "error"]);
    // Most seams are passed once for each operation; some only when something else went wrong.
    let most = if seam.phase() == Phase::Resolve {
        3
    } else {
        30
    };
    match rng.random_range(0..most) {
        0 => format!("1*return({action})"),
        n => format!("{n}*off->1*return({action})"),
    }
}

fn faults(rng: &mut StdRng, part: Part, log: &Path) -> String {
    // One cleanup makes hundreds of requests; if one of a hundred fails, none ever succeeds.
    let rare = if part == Part::Daemon { 0.1 } else { 1.0 };
    let mut p = |most: f64| rng.random_range(0.0..most);
    let mut spec = format!(
        "seed={};latency=0..{}ms;before={:.5};after={:.5};throttle={:.5};outage={:.6}:{}ms",
        (p(1.0) * 1e9) as u64,
        (p(12.0)) as u64,
        p(0.02) * rare,
        p(0.02) * rare,
        p(0.01) * rare,
        p(0.002) * rare,
        (p(800.0)) as u64,
    );
    let only = *one_of(rng, &["", "", ";only=_versions", ";only=_squire"]);
    spec.push_str(only);
    spec.push_str(&format!(";log={}", log.display()));
    spec
}
