//! Writers on many tables and two daemons, one of which is killed again and again. What holds at all times is looked at every
//! second; what must hold at the end, at the end.

use super::daemons::{Daemon, tables};
use super::lake::Fleet;
use super::{Figures, until};
use crate::{batch_of, read_rows};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use squire_engine::commit::{CommitRequest, TableWrite, When, Write};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Heavy attempts of a daemon at one time, and bytes that its attempts move in a second.
const HEAVY: usize = 2;
const RATE: u64 = 4 << 20;

/// Beside the heavy ones: a light one, and cleanups.
const LIGHT: usize = 1;
const CLEANUPS: usize = 4;

const CONFIG: &str = "[daemon]\nscan_interval = \"10s\"\nfull_scan_interval = \"1m\"\nclaim_expiry = \"10s\"\ngrace = \"10s\"\n\
    [budget]\nmax_concurrent = 2\nmemory = \"512MiB\"\nbytes_per_second = \"4MiB\"\n\
    [policy]\nmin_candidate_fragments = 8\nmax_index_age = \"1m\"\nretention = \"1h\"\n";

/// How long a table may be due and not be served.
const STARVES: Duration = Duration::from_secs(90);

/// How long what is left may take once nobody writes.
const PATIENCE: Duration = Duration::from_secs(900);

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct Mixed {
    /// Tables.
    pub tables: usize,
    /// For how long there are writers.
    pub minutes: f64,
    /// How often a daemon is killed.
    pub kill_every: Duration,
    /// What is written where and when.
    pub seed: u64,
    /// Writers, each with tables of its own.
    pub writers: usize,
}

/// What a writer has left in its tables.
type Content = BTreeMap<String, BTreeMap<i64, String>>;

/// One writer: it knows what must be in its tables.
struct Writer {
    fleet: Arc<Fleet>,
    rng: StdRng,
    content: Content,
    next: i64,
    commits: u64,
}

impl Writer {
    fn new(fleet: &Arc<Fleet>, number: usize, of: Mixed) -> Self {
        let mine = fleet.tables.iter().enumerate();
        let mine = mine.filter(|(n, _)| n % of.writers == number);
        Self {
            fleet: fleet.clone(),
            rng: StdRng::seed_from_u64(of.seed ^ number as u64),
            content: mine.map(|(_, t)| (t.clone(), BTreeMap::new())).collect(),
            next: 0,
            commits: 0,
        }
    }

    /// A fifth of the tables gets most of it.
    fn table(&mut self) -> String {
        let tables = self.content.len();
        let among = match self.rng.random_bool(0.7) {
            true => tables.div_ceil(5),
            false => tables,
        };
        let n = self.rng.random_range(0..among);
        self.content.keys().nth(n).expect("a table").clone()
    }

    fn known(&mut self, table: &str, most: usize) -> Vec<i64> {
        let ids: Vec<i64> = self.content[table].keys().copied().collect();
        let first = self.rng.random_range(0..ids.len().max(1));
        ids.into_iter().skip(first).take(most).collect()
    }

    /// Mostly new rows, sometimes changed ones, sometimes fewer.
    fn write(&mut self, table: &str) -> TableWrite {
        let (kind, count) = (self.rng.random_range(0..10), self.rng.random_range(1..60));
        let known = self.known(table, usize::try_from(count).expect("a few"));
        let (version, name) = (self.commits, table.parse().expect("a name"));
        let value = |id: i64| (id, format!("{id} of {version}"));
        let of = self.content.get_mut(table).expect("a table");
        let key = "id".parse().expect("a key");
        let write = match kind {
            0 if !known.is_empty() => {
                of.retain(|id, _| !known.contains(id));
                let rows = vec![batch_of(known.into_iter().map(value).collect())];
                Write::DeleteKeys { key, rows }
            }
            1 | 2 if !known.is_empty() => {
                let rows: Vec<_> = known.into_iter().map(value).collect();
                of.extend(rows.iter().cloned());
                let (when, rows) = (When::Upsert, vec![batch_of(rows)]);
                Write::Merge { key, when, rows }
            }
            _ => {
                let rows: Vec<_> = (self.next..self.next + count).map(value).collect();
                self.next += count;
                of.extend(rows.iter().cloned());
                Write::Append(vec![batch_of(rows)].into())
            }
        };
        TableWrite { table: name, write }
    }

    /// Writes until `stop`, one commit in five to two tables.
    async fn run(mut self, stop: Arc<AtomicBool>) -> (Content, u64, f64) {
        let mut longest: f64 = 0.0;
        while !stop.load(Ordering::Relaxed) {
            let mut names = vec![self.table()];
            if self.rng.random_bool(0.2) {
                let other = self.table();
                names.extend((other != names[0]).then_some(other));
            }
            let writes = names.iter().map(|table| self.write(table)).collect();
            let request = CommitRequest {
                retries: 100,
                ..CommitRequest::new(writes)
            };
            let began = Instant::now();
            let done = self.fleet.store.commit(&request).await;
            done.unwrap_or_else(|e| panic!("a writer of {names:?}: {e}"));
            longest = longest.max(began.elapsed().as_secs_f64());
            self.commits += 1;
            let pause = self.rng.random_range(20..300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        (self.content, self.commits, longest)
    }
}

/// What was seen while it went on.
#[derive(Debug, Default)]
struct Seen {
    /// Of one daemon at one time: compactions and index builds, and cleanups.
    heavy: usize,
    cleanups: usize,
    /// Fragments that are worth merging, over time.
    debt: Vec<u64>,
    /// Of each table that is due: since when, and how many attempts there had been.
    due: BTreeMap<String, Instant>,
    /// The longest time that one was due, and which.
    longest_due: (f64, String),
    /// Bytes that one daemon moved in a second, over ten of them.
    fastest: f64,
    peak: u64,
    kills: u32,
    fragments: u64,
    conflicts: f64,
}

/// A daemon, and what it had moved when that was looked at last.
struct Slot {
    name: String,
    daemon: Daemon,
    moved: (Instant, u64),
}

impl Slot {
    fn start(fleet: &Fleet, name: &str, config: &Path) -> Self {
        let daemon = Daemon::start(fleet, name, config);
        Self {
            name: name.to_owned(),
            moved: (Instant::now(), daemon.cost().moved),
            daemon,
        }
    }
}

impl Seen {
    /// Looks at one daemon.
    fn look(&mut self, slot: &mut Slot) -> Option<()> {
        let cost = slot.daemon.cost();
        self.peak = self.peak.max(cost.peak);
        let (at, before) = slot.moved;
        if at.elapsed() >= Duration::from_secs(10) {
            let rate = cost.moved.saturating_sub(before) as f64 / at.elapsed().as_secs_f64();
            self.fastest = self.fastest.max(rate);
            slot.moved = (Instant::now(), cost.moved);
        }
        let status = slot.daemon.status()?;
        let attempts = status["attempts"].as_array()?;
        let cleanups = attempts.iter().filter(|a| a["kind"] == "cleanup").count();
        self.heavy = self.heavy.max(attempts.len() - cleanups);
        self.cleanups = self.cleanups.max(cleanups);
        if status["ready"] == true {
            self.note_debt(&status);
        }
        Some(())
    }

    fn note_debt(&mut self, status: &Value) {
        let mut debt = 0;
        for table in tables(status) {
            let name = table["table"].as_str().unwrap_or_default().to_owned();
            debt += table["candidate_fragments"].as_u64().unwrap_or(0);
            let is_due = table["state"] == "due" && table["phase"] != "running";
            if !is_due {
                self.due.remove(&name);
                continue;
            }
            let since = self.due.entry(name.clone()).or_insert_with(Instant::now);
            let waited = since.elapsed().as_secs_f64();
            if waited > self.longest_due.0 {
                self.longest_due = (waited, name);
            }
        }
        self.debt.push(debt);
    }
}

/// Runs it, and says what it came to.
pub async fn run(mixed: Mixed, figures: &mut Figures) {
    println!("seed {}", mixed.seed);
    let fleet = Arc::new(Fleet::of(mixed.tables).await);
    for table in fleet.tables.iter().step_by(10) {
        let index = ["index", &fleet.uri, table, "id", "--type", "btree"];
        fleet.run(&index).expect("an index");
    }
    let config = fleet.config(CONFIG);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<JoinHandle<(Content, u64, f64)>> = (0..mixed.writers)
        .map(|n| tokio::spawn(Writer::new(&fleet, n, mixed).run(stop.clone())))
        .collect();
    let (slots, seen) = torment(&fleet, &config, mixed).await;
    stop.store(true, Ordering::Relaxed);
    let (mut content, mut commits, mut slowest) = (Content::new(), 0, 0.0f64);
    for writer in writers {
        let (of, made, longest) = writer.await.expect("a writer ends well");
        content.extend(of);
        commits += made;
        slowest = slowest.max(longest);
    }
    figures.add("commits of writers", commits as f64, "");
    figures.add("the slowest commit", slowest, "s");
    tell(&seen, figures);
    settle(&fleet, slots, figures).await;
    check(&fleet, &content, figures).await;
}

/// Two daemons, one of which is killed every so often, in turn, and started again.
async fn torment(fleet: &Fleet, config: &Path, mixed: Mixed) -> (Vec<Slot>, Seen) {
    let end = Instant::now() + Duration::from_secs_f64(mixed.minutes * 60.0);
    let mut slots: Vec<Slot> = ["a", "b"].map(|n| Slot::start(fleet, n, config)).into();
    let (mut seen, mut strike) = (Seen::default(), Instant::now() + mixed.kill_every);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for slot in &mut slots {
            seen.look(slot);
        }
        if Instant::now() >= strike {
            let victim = slots.remove(0);
            let removed = victim.daemon.metric("squire_fragments_removed_total", "");
            seen.fragments += removed as u64;
            seen.conflicts += victim.daemon.metric("squire_maintenance_retries_total", "");
            victim.daemon.kill();
            slots.push(Slot::start(fleet, &victim.name, config));
            seen.kills += 1;
            strike = Instant::now() + mixed.kill_every;
        }
    }
    (slots, seen)
}

/// What was seen while there were writers.
fn tell(seen: &Seen, figures: &mut Figures) {
    figures.add("daemons killed", f64::from(seen.kills), "");
    figures.add(
        "compactions and index builds at once, at most",
        seen.heavy as f64,
        "",
    );
    figures.check(
        "no more than the budget permits",
        seen.heavy <= HEAVY + LIGHT,
    );
    figures.add("cleanups at once, at most", seen.cleanups as f64, "");
    figures.check(
        "no more than there are permits for",
        seen.cleanups <= CLEANUPS,
    );
    let (mib, fastest) = (f64::from(1 << 20), seen.fastest);
    figures.add(
        "moved by one daemon, looks included, 10 s",
        fastest / mib,
        "MiB/s at most",
    );
    figures.add(
        "rate of the budget, attempts alone",
        RATE as f64 / mib,
        "MiB/s",
    );
    figures.add("resident", seen.peak as f64 / mib, "MiB at most");
    let half = seen.debt.len() / 2;
    let (early, late) = seen.debt.split_at(half);
    let most = |of: &[u64]| of.iter().copied().max().unwrap_or(0) as f64;
    figures.add(
        "fragments worth merging, the first half",
        most(early),
        "at most",
    );
    figures.add(
        "fragments worth merging, the second half",
        most(late),
        "at most",
    );
    figures.check(
        "debt is bounded",
        most(late) <= 1.5 * most(early).max(100.0),
    );
    let (longest, table) = &seen.longest_due;
    figures.add(
        &format!("due and not at work, {table}"),
        *longest,
        "s at most",
    );
    figures.check("nobody starves", *longest <= STARVES.as_secs_f64());
}

/// Nobody writes any more: what is due is done, and the daemons end well.
async fn settle(fleet: &Fleet, slots: Vec<Slot>, figures: &mut Figures) {
    let began = Instant::now();
    until("nothing that is due", PATIENCE, || {
        let quiet = slots.iter().all(|slot| {
            let status = slot.daemon.status().unwrap_or_default();
            let idle = status["attempts"].as_array().is_some_and(Vec::is_empty);
            let due = tables(&status).any(|t| t["state"] == "due");
            status["ready"] == true && idle && !due
        });
        quiet.then_some(())
    })
    .await;
    figures.add("until nothing is due", began.elapsed().as_secs_f64(), "s");
    for slot in slots {
        let errors = slot.daemon.errors();
        errors
            .iter()
            .take(5)
            .for_each(|line| println!("{}: {line}", slot.name));
        figures.check(
            &format!("daemon {} asks for nobody", slot.name),
            errors.is_empty(),
        );
        figures.check(
            &format!("daemon {} ends well", slot.name),
            slot.daemon.stop(),
        );
    }
    let claims = std::fs::read_dir(Path::new(&fleet.uri).join("_squire/claims"));
    figures.add(
        "claims left",
        claims.into_iter().flatten().count() as f64,
        "",
    );
}

/// Every row is there once, with its last value, and no invariant is broken.
async fn check(fleet: &Fleet, content: &Content, figures: &mut Figures) {
    let recovered = fleet.run(&["recover", &fleet.uri, "--force"]);
    figures.check("recovery ends well", recovered.is_ok());
    let verified = fleet.run(&["verify", &fleet.uri, "--deep"]);
    if let Err(said) = &verified {
        println!("{said}");
    }
    figures.check("verify --deep is clean", verified.is_ok());
    let snapshot = fleet.store.load().await.expect("a snapshot");
    let mut wrong = Vec::new();
    for (table, rows) in content {
        let name = table.parse().expect("a name");
        let dataset = fleet.store.read(&snapshot, &name).await.expect("a table");
        let read = read_rows(&dataset).await.expect("rows");
        if !read.iter().map(|(id, value)| (id, value)).eq(rows) {
            wrong.push(table);
        }
    }
    wrong
        .iter()
        .for_each(|table| println!("{table} has other rows than were written"));
    figures.check(
        "every row is there once, with its last value",
        wrong.is_empty(),
    );
    let (rewritten, wasted) = fleet.rewritten();
    let mib = f64::from(1 << 20);
    figures.add("rewritten", rewritten as f64 / mib, "MiB");
    figures.add("rewritten for nothing", wasted as f64 / mib, "MiB");
    let share = wasted as f64 / (rewritten + wasted).max(1) as f64;
    figures.add("of all that was rewritten, for nothing", share * 100.0, "%");
}
