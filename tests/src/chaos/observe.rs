//! Readers in the runner's own process: whole snapshots, new ones and old ones, and what became of operations.

use super::history::{Answer, History};
use super::model::Row;
use super::plan::{millis, one_of, rng};
use super::run::Room;
use super::{TABLES, Violations, now_us};
use crate::read_rows;
use rand::RngExt;
use rand::rngs::StdRng;
use squire_engine::error::{ErrorKind, Result};
use squire_engine::ids::OpId;
use squire_engine::recovery::OperationOutcome;
use squire_engine::store::{Snapshot, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// How often a read that failed is tried again before it counts: a cleanup may take a version away between the look at
/// the floor and the read, and then the floor is above it at the second look.
const TRIES: u32 = 5;

/// When a reader saw a version.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The reader.
    pub reader: String,
    /// When it asked for the snapshot.
    pub began_us: u64,
    /// When it had it.
    pub ended_us: u64,
    /// The manifest version.
    pub version: u64,
    /// Whether it asked for the latest; an old snapshot says nothing about time.
    pub fresh: bool,
}

/// A snapshot with its rows.
#[derive(Debug)]
pub struct Observation {
    /// When it was seen.
    pub seen: Seen,
    /// Rows and version of each table, in the order of [`TABLES`].
    pub tables: Vec<(Vec<Row>, u64)>,
}

/// An answer about an operation whose call was over.
#[derive(Debug, Clone)]
pub struct Told {
    /// The operation.
    pub op: String,
    /// `committed`, `aborted`, `undecided` or `absent`.
    pub outcome: &'static str,
}

/// What readers count.
#[derive(Debug, Default)]
pub struct Counts {
    /// Reads of snapshots that a cleanup had taken away.
    pub expired: AtomicU64,
    /// Reads that succeeded only when they were tried again.
    pub repeated: AtomicU64,
}

/// What a reader reports to.
#[derive(Clone)]
pub struct Desk {
    /// The run.
    pub room: Arc<Room>,
    /// Where snapshots are compared.
    pub snapshots: Sender<Observation>,
    /// Findings.
    pub violations: Violations,
    /// Counts.
    pub counts: Arc<Counts>,
}

/// Reads snapshots until the run is over.
pub async fn read_on(desk: Desk, store: Arc<Store>, name: String) {
    let mut rng = rng(desk.room.seed, &name);
    let mut held: Option<Snapshot> = None;
    while !desk.room.is_over() {
        let began_us = now_us();
        let Some(snapshot) = load(&desk, &store, &name).await else {
            return;
        };
        let ended_us = now_us();
        let seen = |version, fresh| Seen {
            reader: name.clone(),
            began_us,
            ended_us,
            version,
            fresh,
        };
        report(&desk, &store, &snapshot, seen(snapshot.version(), true)).await;
        // An open reader keeps seeing what it saw.
        if let Some(old) = &held {
            report(&desk, &store, old, seen(old.version(), false)).await;
        }
        if held.is_none() || rng.random_bool(0.3) {
            held = Some(snapshot.clone());
        }
        older(&desk, &store, &snapshot, &mut rng, &seen).await;
        tokio::time::sleep(millis(&mut rng, 20..250)).await;
    }
}

/// Sometimes asks for an older version by number.
async fn older(
    desk: &Desk,
    store: &Arc<Store>,
    latest: &Snapshot,
    rng: &mut StdRng,
    seen: &impl Fn(u64, bool) -> Seen,
) {
    if !rng.random_bool(0.2) {
        return;
    }
    let back = rng.random_range(1..40);
    let version = latest.version().saturating_sub(back).max(1);
    match store.snapshot_at(version).await {
        Ok(old) if old.state.tables.len() == TABLES.len() => {
            report(desk, store, &old, seen(version, false)).await;
        }
        Ok(_) => {}
        // Gone, or going while it was looked for: the floor says which, the next time.
        Err(_) => {
            desk.counts.expired.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The latest snapshot. That it cannot be had, again and again, without any fault here, is a finding.
async fn load(desk: &Desk, store: &Arc<Store>, name: &str) -> Option<Snapshot> {
    let mut last = String::new();
    for _ in 0..4 * TRIES {
        match store.load().await {
            Ok(snapshot) => return Some(snapshot),
            Err(e) => last = e.to_string(),
        }
        desk.counts.repeated.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let what = format!("{name} cannot load the manifest: {last}");
    desk.violations.add(what);
    None
}

async fn report(desk: &Desk, store: &Arc<Store>, snapshot: &Snapshot, seen: Seen) {
    let mut last = String::new();
    for _ in 0..TRIES {
        match read_all(store, snapshot).await {
            Ok(tables) => {
                // Nobody listens any more once the run is over.
                drop(desk.snapshots.send(Observation { seen, tables }).await);
                return;
            }
            Err(e) if e.kind() == ErrorKind::Expired => {
                desk.counts.expired.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(e) => last = e.to_string(),
        }
        desk.counts.repeated.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    desk.violations.add(format!(
        "I11: {} cannot read manifest version {}, which has not expired: {last}",
        seen.reader, seen.version
    ));
}

/// Every table of `snapshot`.
pub async fn read_all(store: &Arc<Store>, snapshot: &Snapshot) -> Result<Vec<(Vec<Row>, u64)>> {
    let mut tables = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        let table = table.parse()?;
        let pin = snapshot.state.table(&table)?.version;
        let dataset = store.read(snapshot, &table).await?;
        tables.push((read_rows(&dataset).await?, pin));
    }
    Ok(tables)
}

/// What the store says of `op`.
pub async fn outcome(store: &Store, op: &str) -> Result<&'static str> {
    Ok(match store.outcome_of(OpId::parse(op)?).await? {
        OperationOutcome::Committed { .. } => "committed",
        OperationOutcome::Aborted => "aborted",
        OperationOutcome::Undecided => "undecided",
        OperationOutcome::Absent => "absent",
    })
}

/// Asks what became of operations whose calls are over, until the run is: no later answer may contradict it.
pub async fn ask_on(desk: Desk, store: Arc<Store>) -> Vec<Told> {
    let mut rng = rng(desk.room.seed, "asker");
    let mut history = History::of(&desk.room.history());
    let mut told = Vec::new();
    while !desk.room.is_over() {
        tokio::time::sleep(millis(&mut rng, 100..600)).await;
        history.catch_up();
        let over: Vec<(&String, Option<Answer>)> = history
            .calls
            .values()
            .rev()
            .filter(|call| call.end.is_some())
            .flat_map(|call| call.attempts.iter().map(|op| (op, call.answer())))
            .collect();
        // Half of the questions are about operations that nobody knows the end of.
        let doubtful: Vec<&String> = over
            .iter()
            .filter(|(_, answer)| *answer == Some(Answer::Unknown))
            .map(|(op, _)| *op)
            .collect();
        let op = if !doubtful.is_empty() && rng.random_bool(0.5) {
            (*one_of(&mut rng, &doubtful)).clone()
        } else if over.is_empty() {
            continue;
        } else {
            one_of(&mut rng, &over).0.clone()
        };
        match outcome(&store, &op).await {
            Ok(outcome) => told.push(Told { op, outcome }),
            Err(_) => {
                desk.counts.repeated.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    told
}
