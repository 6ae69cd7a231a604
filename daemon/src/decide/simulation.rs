//! A day of many tables, on a virtual clock and a store that is only counted. What decides is what the daemon runs: locations,
//! tables, the gate and the board. `SQUIRE_SIMULATION_SEED` is the seed; it is printed, and every failure names it.
//!
//! Of each location the first tables have a window, and the next are paused for some hours; the day is one on which the clocks of
//! the window's zone are put back. People ask for compactions now and then, and for some hours the disk of one location is full.

use super::board::{Board, LIGHT_AT_ONCE};
use super::gate::{Gate, Pause, Paused};
use super::planning::OperationKind;
use super::rest::Outcome;
use super::room::Room;
use super::work::{Scope, Trigger, WorkItem};
use crate::config::Config;
use crate::place::location::{Found, Job, Location};
use crate::place::table::{Lesson, Observation, Phase};
use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use squire_engine::maintenance::tasks::Task;
use squire_engine::maintenance::{CompactionPlan, IndexHealth, TableHealth, Target};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

const LOCATIONS: usize = 3;

/// Tables of each location that have a window, and behind them those that are paused.
const WINDOWED: usize = 5;
const PAUSED: std::ops::Range<usize> = 5..8;
const PAUSE: std::ops::Range<u64> = 6 * 3_600..12 * 3_600;

/// While the disk of the first location is all but full, and how long it may take until that is known.
const FULL: std::ops::Range<u64> = 14 * 3_600..16 * 3_600;
const KNOWN_AFTER: Duration = Duration::from_secs(15);

/// The beginning of the day: in its night Berlin's clocks are put back.
const BEGIN: &str = "2026-10-24T22:00:00Z";

/// When Berlin's clocks show 22:00 to 06:00 of that day, and of the next night.
const OPEN: [(&str, &str); 2] = [
    ("2026-10-24T20:00:00Z", "2026-10-25T05:00:00Z"),
    ("2026-10-25T21:00:00Z", "2026-10-26T05:00:00Z"),
];

/// How long what a person asked for may wait: for a permit that the longest attempt holds, and for others who asked before.
const ASKED_PATIENCE: Duration = Duration::from_secs(20 * 60);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How long work may wait for its turn on a table that nothing is wrong with.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);

/// The budget grows with the tables.
fn config(each: usize) -> Config {
    let (concurrent, gib) = (each.div_ceil(50), each.div_ceil(25));
    let mut text = format!(
        "[daemon]\nscan_interval = \"10m\"\n[budget]\nmax_concurrent = {concurrent}\nmemory = \"{gib}GiB\"\n"
    );
    for table in 0..WINDOWED {
        let name = target(table);
        text +=
            &format!("[[table]]\nname = \"{name}\"\nwindows = [\"22:00-06:00 Europe/Berlin\"]\n");
    }
    Config::parse(&text, "squire.toml").unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What the store holds of one table.
#[derive(Debug, Clone, Default)]
struct Stored {
    /// Fragments worth merging, and those that are large.
    small: u64,
    large: u64,
    rows: u64,
    unindexed: u64,
    bytes: u64,
    /// Every attempt at it fails.
    broken: bool,
    /// Since when it has been past the threshold of each kind without an attempt of it.
    due_since: BTreeMap<OperationKind, Duration>,
    attempts: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Written(usize, usize),
    /// A person asks for its compaction.
    Asked(usize, usize),
    Did(usize, Done),
    /// An attempt ended, with the small fragments and rows that it began with.
    Ended(u64, u64, u64),
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Done {
    Opened,
    Recovered,
    Scanned,
    Looked(usize),
    Measured,
    Noted,
}

struct World {
    seed: u64,
    random: StdRng,
    now: Duration,
    config: Config,
    /// Tables of each location.
    each: usize,
    stored: Vec<Vec<Stored>>,
    gate: Gate,
    /// When the gate was turned last.
    ticked: Duration,
    /// Since when people wait for what they asked for.
    asked: BTreeMap<(usize, usize), Duration>,
    locations: Vec<Location>,
    board: Board,
    running: BTreeMap<u64, WorkItem>,
    attempts: u64,
    /// Cleanups that began because the disk was full.
    for_room: u64,
    queue: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    queued: u64,
}

fn target(table: usize) -> Target {
    Target::Plain(format!("t{table:04}.lance"))
}

fn number(target: &Target) -> usize {
    let name = target.to_string();
    name[1..5].parse().unwrap()
}

fn uri(location: usize) -> String {
    format!("lake{location}")
}

fn place(uri: &str) -> usize {
    uri["lake".len()..].parse().unwrap()
}

impl World {
    fn new(seed: u64, each: usize) -> Self {
        let config = config(each);
        let mut random = StdRng::seed_from_u64(seed);
        let mut table = || Stored {
            rows: random.random_range(1_000..10_000_000),
            bytes: 1 << random.random_range(20..36),
            broken: random.random_range(0..50) == 0,
            ..Stored::default()
        };
        let mut tables = || (0..each).map(|_| table()).collect();
        let mut gate = Gate::default();
        gate.keep_free(config.budget.min_free);
        Self {
            seed,
            each,
            gate,
            ticked: Duration::ZERO,
            asked: BTreeMap::new(),
            stored: (0..LOCATIONS).map(|_| tables()).collect(),
            random,
            now: Duration::ZERO,
            locations: (0..LOCATIONS)
                .map(|l| Location::new(&uri(l), false))
                .collect(),
            board: Board::new(&config.budget, false),
            config,
            running: BTreeMap::new(),
            attempts: 0,
            for_room: 0,
            queue: BinaryHeap::new(),
            queued: 0,
        }
    }

    fn at(&mut self, at: Duration, what: Happening) {
        self.queued += 1;
        self.queue.push(Reverse((at, self.queued, what)));
    }

    fn after(&mut self, seconds: f64, what: Happening) {
        self.at(self.now + Duration::from_secs_f64(seconds), what);
    }

    /// Writers: some tables take a commit every ten seconds, most a few in a day, and there are bursts.
    fn write(&mut self) {
        for location in 0..LOCATIONS {
            for table in 0..self.each {
                if self.random.random_range(0..3) == 0 {
                    let asked = DAY.mul_f64(self.random.random_range(0.05..1.0));
                    self.at(asked, Happening::Asked(location, table));
                }
                let commits = match self.random.random_range(0..60) {
                    0 => 8_000,
                    1..4 => 1_000,
                    4..15 => 100,
                    _ => 20,
                };
                let burst = self.random.random_range(0..10) == 0;
                let begin = self.random.random_range(0.0..0.9);
                for _ in 0..commits {
                    let share: f64 = self.random.random_range(0.0..1.0);
                    let part = if burst { begin + share / 100.0 } else { share };
                    self.at(DAY.mul_f64(part), Happening::Written(location, table));
                }
            }
        }
    }

    /// Runs until `end`, or until nothing happens any more.
    fn run(&mut self, end: Duration) {
        self.at(self.now, Happening::Tick);
        while let Some(Reverse((at, order, what))) = self.queue.pop() {
            if at > end {
                self.queue.push(Reverse((at, order, what)));
                self.now = end;
                return;
            }
            self.now = at;
            self.happen(what);
            self.turn();
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Tick => {
                self.ticked = self.now;
                self.mind_the_gate();
                self.starve();
                self.after(5.0, Happening::Tick);
            }
            Happening::Written(location, table) => {
                let rows = self.random.random_range(1..2_000);
                let stored = &mut self.stored[location][table];
                stored.small += 1;
                stored.rows += rows;
                stored.unindexed += rows;
                stored.bytes += rows * 100;
                let folder = target(table).to_string();
                self.locations[location].woken(&folder);
            }
            Happening::Asked(location, table) => {
                // One that is at work, or whose table fails, is no measure of the queue.
                if self.is_free(location, table) {
                    self.asked.insert((location, table), self.now);
                }
                let named = |t: &Target| *t == target(table);
                let kind = OperationKind::Compact;
                self.locations[location].ask(kind, named, &self.config);
            }
            Happening::Did(location, done) => self.did(location, done),
            Happening::Ended(attempt, small, rows) => self.ended(attempt, small, rows),
        }
    }

    fn is_free(&self, location: usize, table: usize) -> bool {
        let phase = self.locations[location].phase(&target(table));
        let paused = PAUSED.contains(&table) && self.paused(self.now + ASKED_PATIENCE);
        let full = location == 0 && (is_full(self.now) || is_full(self.now + ASKED_PATIENCE));
        phase != Some(Phase::Running) && !paused && !self.paused(self.now) && !full
    }

    /// Whether the pause is in force at `now`.
    fn paused(&self, now: Duration) -> bool {
        PAUSE.contains(&now.as_secs())
    }

    fn wall(&self) -> Timestamp {
        at(BEGIN) + self.now
    }

    /// Whether work that nobody asked for may not run, as the day was planned, and as of the last tick.
    fn is_held(&self, table: usize) -> bool {
        let wall = at(BEGIN) + self.ticked;
        let open = |(from, to): &(&str, &str)| (at(from)..at(to)).contains(&wall);
        let closed = table < WINDOWED && !OPEN.iter().any(open);
        closed || (PAUSED.contains(&table) && self.paused(self.ticked))
    }

    /// Once a tick, as the daemon does once a second: pauses and windows, and the end of what they end.
    fn mind_the_gate(&mut self) {
        let mut pauses = Vec::new();
        if self.paused(self.now) {
            pauses.extend(PAUSED.map(|table| Pause {
                what: Paused {
                    table: Some(target(table).to_string()),
                    ..Paused::default()
                },
                reason: None,
                since: 0,
            }));
        }
        self.gate.turn(self.wall(), Arc::new(pauses));
        self.board.look_again();
        let gate = &mut self.gate;
        let mut ends = |item: &WorkItem| {
            let closed = item.trigger.keeps_windows() && gate.is_closed(&item.policy.windows);
            closed || gate.ends_for_room(item)
        };
        let ended = self.running.iter().filter(|(_, item)| ends(item));
        let ended: Vec<u64> = ended.map(|(attempt, _)| *attempt).collect();
        for attempt in ended {
            let item = self.running.remove(&attempt).unwrap();
            self.board.ended(&item.key);
            let times = (self.now, self.config.daemon.scan_interval);
            let at = place(&item.key.location);
            self.locations[at].ended(&item, Lesson::default(), times);
        }
    }

    fn did(&mut self, at: usize, done: Done) {
        let (now, config) = (self.now, &self.config);
        let location = &mut self.locations[at];
        match done {
            Done::Opened => location.opened(false, Vec::new()),
            Done::Recovered => location.recovered(0, false),
            Done::Noted => location.noted(),
            Done::Measured => {
                location.measured();
                let room = Room {
                    free: if is_full(now) { 1 } else { 50 },
                    all: 100,
                };
                self.gate.measured(&uri(at), (at == 0).then_some(room));
            }
            Done::Scanned => {
                let tables = (0..self.each).map(target);
                let tables = tables.map(|t| (t.clone(), (t.to_string(), 0)));
                let found = Found {
                    tables: tables.collect(),
                    ..Found::default()
                };
                location.scanned(found, now);
            }
            Done::Looked(table) => {
                let seen = self.stored[at][table].observed(table);
                let verdict = location.looked(&target(table), seen, config, now);
                if let Some(work) = verdict.unwrap().work {
                    self.board.replace(&uri(at), &target(table), work, now);
                }
            }
        }
        if location.end_round().is_some() {
            let short = self.gate.short(&uri(at)).is_some();
            let (items, _) = location.regular_cleanups(now, config, short);
            items.into_iter().for_each(|item| self.board.add(item, now));
        }
    }

    fn ended(&mut self, attempt: u64, small: u64, rows: u64) {
        // Its window may have ended it.
        let Some(item) = self.running.remove(&attempt) else {
            return;
        };
        self.board.ended(&item.key);
        let at = place(&item.key.location);
        let Scope::Table(target) = item.key.scope.clone() else {
            panic!("plain tables are cleaned one by one");
        };
        let stored = &mut self.stored[at][number(&target)];
        let outcome = match item.key.kind {
            OperationKind::Cleanup => Outcome::Idle,
            _ if stored.broken => Outcome::Bad,
            OperationKind::Compact => {
                stored.small -= small;
                stored.large += 1;
                stored.unindexed = stored.unindexed.min(stored.rows);
                Outcome::Effective
            }
            OperationKind::Reindex => {
                stored.unindexed -= rows;
                Outcome::Effective
            }
        };
        let lesson = Lesson {
            outcome: Some(outcome),
            ..Lesson::default()
        };
        let times = (self.now, self.config.daemon.scan_interval);
        self.locations[at].ended(&item, lesson, times);
    }

    fn turn(&mut self) {
        for at in 0..LOCATIONS {
            let pause = self.config.daemon.scan_interval;
            for job in self.locations[at].jobs(self.now, pause) {
                let (seconds, done) = match job {
                    Job::Open => (0.01, Done::Opened),
                    Job::Scan => (0.05, Done::Scanned),
                    Job::Look(target) => (0.03, Done::Looked(number(&target))),
                    Job::Recover { .. } => (0.02, Done::Recovered),
                    Job::Measure => (0.01, Done::Measured),
                    Job::Note(_) => (0.01, Done::Noted),
                };
                self.after(seconds, Happening::Did(at, done));
            }
        }
        loop {
            let gate = &mut self.gate;
            let Some(item) = self.board.take(self.now, |item| gate.held(item)) else {
                break;
            };
            self.begin(item);
        }
        self.check();
    }

    fn begin(&mut self, item: WorkItem) {
        let at = place(&item.key.location);
        self.locations[at].started(&item);
        let Scope::Table(target) = item.key.scope.clone() else {
            panic!("plain tables are cleaned one by one");
        };
        let (seed, table) = (self.seed, number(&target));
        let paused = PAUSED.contains(&table) && self.paused(self.ticked);
        let closed = self.is_held(table) && item.trigger.keeps_windows();
        let full = at == 0 && !is_cleanup(&item) && is_known_full(self.now);
        let held = closed || paused || full;
        assert!(!held, "seed {seed}: {item} of {at} at {}", self.wall());
        if item.key.kind == OperationKind::Compact {
            self.asked.remove(&(at, table));
        }
        let stored = &mut self.stored[at][table];
        let (small, rows) = (stored.small, stored.unindexed);
        let megabytes = (item.memory >> 20) as f64;
        let seconds = match item.key.kind {
            OperationKind::Cleanup => 2.0,
            // A compaction reads at most what it may hold at once, some times over.
            OperationKind::Compact => 1.0 + megabytes / 20.0,
            OperationKind::Reindex => 1.0 + megabytes.min(8_192.0) / 40.0,
        };
        if item.key.kind != OperationKind::Cleanup {
            stored.attempts += 1;
            stored.due_since.remove(&item.key.kind);
        }
        self.for_room += u64::from(item.trigger == Trigger::Room);
        self.attempts += 1;
        self.running.insert(self.attempts, item);
        self.after(seconds, Happening::Ended(self.attempts, small, rows));
    }

    /// What holds at all times.
    fn check(&mut self) {
        let seed = self.seed;
        let budget = &self.config.budget;
        let heavy: Vec<&WorkItem> = self.running.values().filter(|i| !is_cleanup(i)).collect();
        assert!(
            heavy.len() <= budget.max_concurrent + LIGHT_AT_ONCE,
            "seed {seed}: {} attempts at once",
            heavy.len()
        );
        let large = heavy.iter().filter(|i| i.memory > 64 << 20);
        assert!(large.count() <= budget.max_concurrent, "seed {seed}");
        let memory: u64 = heavy
            .iter()
            .map(|i| i.memory.min(budget.memory - (64 << 20)))
            .sum();
        assert!(
            memory <= budget.memory,
            "seed {seed}: {memory} bytes at once"
        );
        let mut about: Vec<_> = self
            .running
            .values()
            .map(|i| (&i.key.location, &i.key.scope))
            .collect();
        about.sort();
        about.dedup();
        assert_eq!(
            about.len(),
            self.running.len(),
            "seed {seed}: two on one table"
        );
    }

    /// Nothing waits for ever: not what is due and may run, and not what a person asked for.
    fn starve(&mut self) {
        let (seed, now) = (self.seed, self.now);
        let held: Vec<bool> = (0..self.each).map(|table| self.is_held(table)).collect();
        for ((at, table), since) in &self.asked {
            assert!(
                now - *since <= ASKED_PATIENCE,
                "seed {seed}: table {table} of location {at} was asked for at {since:?}"
            );
        }
        for (at, tables) in self.stored.iter_mut().enumerate() {
            let full = at == 0 && is_full(now);
            for (table, stored) in tables.iter_mut().enumerate() {
                let (due, held) = (stored.due(), held[table] || full);
                if due.is_empty() && stored.due_since.is_empty() {
                    continue;
                }
                stored
                    .due_since
                    .retain(|kind, _| due.contains(kind) && !held);
                for kind in due.into_iter().filter(|_| !stored.broken && !held) {
                    let since = *stored.due_since.entry(kind).or_insert(now);
                    assert!(
                        now - since <= PATIENCE,
                        "seed {seed}: {kind:?} of table {table} of location {at} starves since {since:?}"
                    );
                }
            }
        }
    }
}

fn is_full(now: Duration) -> bool {
    FULL.contains(&now.as_secs())
}

fn is_known_full(now: Duration) -> bool {
    is_full(now) && is_full(now.saturating_sub(KNOWN_AFTER))
}

fn is_cleanup(item: &WorkItem) -> bool {
    item.key.kind == OperationKind::Cleanup
}

impl Stored {
    /// What is past its threshold.
    fn due(&self) -> Vec<OperationKind> {
        if self.small < 16 && self.unindexed < 100_000 {
            return Vec::new();
        }
        let compact = (self.small >= 16).then_some(OperationKind::Compact);
        let reindex = (self.unindexed >= 100_000).then_some(OperationKind::Reindex);
        compact.into_iter().chain(reindex).collect()
    }

    fn observed(&self, table: usize) -> Observation {
        let mut rewrites = CompactionPlan::default();
        if self.small > 1 {
            rewrites.tasks = vec![Task {
                fragments: vec![0, 1],
                bytes: 2,
                target_rows: 2,
                ..Task::default()
            }];
        }
        let index = IndexHealth {
            bytes: 0,
            name: "i".into(),
            unindexed_rows: self.unindexed,
            stale_seconds: Some(0),
            missing: false,
            damaged: None,
            fingerprint: 0,
        };
        Observation {
            health: TableHealth {
                table: target(table).to_string(),
                pin: 1,
                head: 1,
                versions: 1,
                fragments: self.small + self.large,
                candidate_fragments: self.small,
                rows: self.rows,
                deleted_rows: 0,
                bytes: self.bytes,
                indexes: vec![index],
                ..TableHealth::default()
            },
            rewrites,
            drift: false,
            unreferenced: None,
        }
    }
}

#[test]
fn a_day_of_a_few_hundred_tables() {
    play(100);
}

#[test]
#[ignore = "it takes minutes: make simulate"]
fn a_day_of_two_thousand_tables() {
    play(667);
}

/// Plays a day of so many tables of each location.
#[expect(clippy::disallowed_macros, reason = "a test says its seed")]
fn play(each: usize) {
    let seed = std::env::var("SQUIRE_SIMULATION_SEED");
    let seed = seed.map_or(7, |seed| seed.parse().unwrap());
    println!("SQUIRE_SIMULATION_SEED={seed}");
    let mut world = World::new(seed, each);
    world.write();
    world.run(DAY);
    // The writers are gone: what was left is worked off, and then nothing is begun but cleanups.
    world.run(DAY + PATIENCE);
    for (at, location) in world.locations.iter().enumerate() {
        for (target, phase) in location.phases() {
            let stored = &world.stored[at][number(target)];
            let due = !stored.due().is_empty();
            let expected = match (stored.broken, phase) {
                (true, _) => !due || phase != Phase::Idle,
                (false, phase) => !due && phase == Phase::Idle,
            };
            assert!(
                expected,
                "seed {seed}: {target} of {at} is {phase:?}: {stored:?}"
            );
            // A table that fails again and again costs a few attempts in a day, and no more.
            let most = if stored.broken { 40 } else { u64::MAX };
            assert!(
                stored.attempts <= most,
                "seed {seed}: {target} of {at}: {stored:?}"
            );
        }
    }
    assert!(
        world.for_room >= each as u64,
        "seed {seed}: {} cleanups",
        world.for_room
    );
    let worked: u64 = world.stored.iter().flatten().map(|s| s.attempts).sum();
    let least = 3 * each as u64;
    assert!(worked > least, "seed {seed}: {worked} attempts");
}
