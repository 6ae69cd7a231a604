//! The trace check: what every process said it did, replayed against the commit log.
//!
//! The log is the truth: it has every publish that counts, archived or not. The events tell what the log cannot: what
//! callers were answered, which versions landed, what was undone, which versions were deleted.

use squire_engine::events::{Answer, ProtocolEvent};
use squire_engine::ids::{OpId, TableName};
use squire_engine::recovery::LogEntry;
use squire_engine::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every event below `dir`, in the order of each process. The last line of a killed process may be torn.
pub fn read(dir: &Path) -> Vec<ProtocolEvent> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("the trace directory")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    let lines = |path: &std::path::PathBuf| std::fs::read_to_string(path).expect("a trace");
    files
        .iter()
        .flat_map(|path| lines(path).lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect()
}

/// What the log and the events disagree about, or what breaks an invariant; nothing when all is well.
pub async fn violations(store: &Store, events: &[ProtocolEvent]) -> Vec<String> {
    let mut log = store.log(usize::MAX).await.expect("the commit log");
    log.reverse();
    let mut found = state_violations(store).await;
    let history = History::of(&log, &mut found);
    let (begun, landed) = (begun_by_op(events), landed_by_op(events));
    for event in events {
        found.extend(history.contradicts(event, &landed));
    }
    for entry in log.iter().filter(|e| e.record.kind == "logical") {
        found.extend(published_violations(entry, &begun, &log));
    }
    found
}

/// I2, I3 and I7 on the states that can still be read: the predicates of the running daemon.
async fn state_violations(store: &Store) -> Vec<String> {
    let latest = store.load().await.expect("snapshot");
    let mut found = Vec::new();
    let mut before: Option<std::sync::Arc<squire_engine::store::State>> = None;
    for version in latest.state.manifest_floor.max(1)..=latest.version() {
        let state = store.snapshot_at(version).await.expect("a snapshot").state;
        let broken = squire_engine::invariants::violations(before.as_deref(), &state);
        found.extend(
            broken
                .iter()
                .map(|v| format!("{}: {} at {version}", v.invariant, v.seen)),
        );
        before = Some(state);
    }
    found
}

/// Reads and writes of the operations that began.
type Begun<'a> = BTreeMap<OpId, &'a ProtocolEvent>;

fn begun_by_op(events: &[ProtocolEvent]) -> Begun<'_> {
    events
        .iter()
        .filter_map(|e| match e {
            ProtocolEvent::Begun { op, .. } => Some((*op, e)),
            _ => None,
        })
        .collect()
}

/// The versions that each operation landed, by table.
type Landed<'a> = BTreeMap<(OpId, &'a TableName), Vec<u64>>;

fn landed_by_op(events: &[ProtocolEvent]) -> Landed<'_> {
    let mut landed = Landed::new();
    for event in events {
        if let ProtocolEvent::Landed { op, at } = event {
            landed.entry((*op, &at.table)).or_default().push(at.version);
        }
    }
    landed
}

/// What the log says of each operation.
struct History {
    by_manifest: BTreeMap<u64, (OpId, String)>,
    committed: BTreeSet<OpId>,
    aborted: BTreeSet<OpId>,
}

impl History {
    fn of(log: &[LogEntry], found: &mut Vec<String>) -> Self {
        let mut history = Self {
            by_manifest: BTreeMap::new(),
            committed: BTreeSet::new(),
            aborted: BTreeSet::new(),
        };
        let mut batches = BTreeSet::new();
        for LogEntry {
            manifest_version,
            record,
            ..
        } in log
        {
            let op = record.op;
            let named = (op, record.kind.clone());
            if history
                .by_manifest
                .insert(*manifest_version, named)
                .is_some()
            {
                found.push(format!(
                    "the log has manifest version {manifest_version} twice"
                ));
            }
            match record.kind.as_str() {
                "logical" if !history.committed.insert(op) => {
                    found.push(format!("I4: {op} was published twice"));
                }
                "abort" if !history.aborted.insert(op) => {
                    found.push(format!("I3: {op} was decided twice"));
                }
                _ => {}
            }
            let members = record.members.iter().filter_map(|m| m.batch.as_ref());
            for batch in record.batch.iter().chain(members) {
                if record.kind == "logical" && !batches.insert(batch.clone()) {
                    found.push(format!("batch {batch} was committed twice"));
                }
            }
        }
        for op in history.committed.intersection(&history.aborted) {
            found.push(format!("I3: {op} was both published and aborted"));
        }
        history
    }

    /// What `event` claims against the log.
    fn contradicts(&self, event: &ProtocolEvent, landed: &Landed<'_>) -> Option<String> {
        match event {
            ProtocolEvent::Answered { op, answer } => match answer {
                Answer::Committed if !self.committed.contains(op) => Some(format!(
                    "I4: {op} was called committed and is not in the log"
                )),
                Answer::Conflict if self.committed.contains(op) => {
                    Some(format!("I4: {op} was called a conflict and is in the log"))
                }
                _ => None,
            },
            ProtocolEvent::Published { manifest, op, kind } => {
                let logged = self.by_manifest.get(manifest);
                (logged != Some(&(*op, kind.clone()))).then(|| {
                    format!("I4: {op} counted its publish of {manifest}, the log has {logged:?}")
                })
            }
            ProtocolEvent::Undone { op, at, target } => {
                if !self.aborted.contains(op) {
                    return Some(format!("{op} was undone without a decision"));
                }
                // A process that died between its commit and its event leaves none.
                let landed = landed.get(&(*op, &at.table))?;
                (!landed.contains(&(target + 1))).then(|| {
                    format!("I6: the undo of {op} restored {target}, it had landed {landed:?}")
                })
            }
            ProtocolEvent::Removing {
                table,
                floor,
                versions,
            } => {
                let above = versions.iter().find(|v| *v >= floor);
                above.map(|v| {
                    format!("I11: version {v} of {table} was removed above its floor {floor}")
                })
            }
            ProtocolEvent::Landed { .. } | ProtocolEvent::Begun { .. } => None,
        }
    }
}

/// I1: all written tables in one publish. I9: what was read had seen only maintenance when it was published.
fn published_violations(entry: &LogEntry, begun: &Begun<'_>, log: &[LogEntry]) -> Vec<String> {
    let op = entry.record.op;
    let Some(ProtocolEvent::Begun { writes, reads, .. }) = begun.get(&op) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let wanted: BTreeSet<_> = writes.iter().map(|w| &w.table).collect();
    let shown: BTreeSet<_> = entry.record.tables.iter().map(|c| &c.table).collect();
    if wanted != shown {
        found.push(format!("I1: {op} wrote {wanted:?} and published {shown:?}"));
    }
    for read in reads {
        let moved = log
            .iter()
            .filter(|e| e.manifest_version < entry.manifest_version)
            .filter(|e| e.record.kind != "maintenance")
            .flat_map(|e| &e.record.tables)
            .find(|c| c.table == read.table && c.to > read.version);
        if let Some(change) = moved {
            found.push(format!(
                "I9: {op} read {} at {} and was published after it moved to {}",
                read.table, read.version, change.to
            ));
        }
    }
    found
}
