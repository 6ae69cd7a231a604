//! N processes commit at the same time. The closest published system lets 1 of N commit and leaves the rest corrupt.

use super::{Batch, Rows, assert_rows, assert_whole_at_every_version, contents};
use squire_tests::{Done, Lake};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;

/// What a process commits, in order: the arguments of each `squire` call.
type Script = Vec<Vec<String>>;

/// Runs every script in its own thread, all starting together; each call is a process of its own.
fn race(lake: &Lake, scripts: Vec<Script>) -> Vec<Done> {
    let start = Barrier::new(scripts.len());
    std::thread::scope(|scope| {
        let racers: Vec<_> = scripts
            .into_iter()
            .map(|script| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    script
                        .iter()
                        .map(|call| lake.run(&call.iter().map(String::as_str).collect::<Vec<_>>()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        racers
            .into_iter()
            .flat_map(|racer| racer.join().expect("a racer"))
            .collect()
    })
}

fn call(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Every call ended with `committed`, and the commit log shows each of these operations once and no other.
fn assert_acknowledged(lake: &Lake, ended: Vec<Done>) {
    let mut acknowledged = BTreeSet::new();
    for done in ended {
        let done = done.ok();
        assert_eq!(done.json()["outcome"], "committed");
        assert!(
            acknowledged.insert(done.op()),
            "one operation acknowledged twice"
        );
    }
    let logged = log(lake);
    let ops: BTreeSet<String> = logged.iter().map(|(op, _)| op.clone()).collect();
    assert_eq!(
        ops.len(),
        logged.len(),
        "one operation stands twice in the log"
    );
    assert_eq!(ops, acknowledged, "the log is not what was acknowledged");
}

/// The logical commits that carry a message, oldest first: operation and message.
fn log(lake: &Lake) -> Vec<(String, String)> {
    let said = lake
        .run(&["log", &lake.uri, "--limit", "100000", "--json"])
        .ok()
        .json();
    let text = |v: &serde_json::Value| v.as_str().expect("text").to_owned();
    said["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .rev()
        .filter(|e| e["kind"] == "logical" && e["message"] != "")
        .map(|e| (text(&e["op"]), text(&e["message"])))
        .collect()
}

async fn appends_to_one_table(processes: usize, writes: usize) {
    let lake = Lake::with_tables(&["t"]);
    let mut batches = Vec::new();
    let scripts = (0..processes)
        .map(|p| {
            (0..writes)
                .map(|w| {
                    let first = (p * writes + w) as i64 * 10;
                    let batch = Batch::new(format!("p{p}w{w}"), &["t"], first..first + 3);
                    let file = format!("{}/t.csv", batch.directory(&lake));
                    let write = call(&[
                        "write",
                        &lake.uri,
                        "t",
                        &file,
                        "--message",
                        &batch.name,
                        "--json",
                    ]);
                    batches.push(batch);
                    write
                })
                .collect()
        })
        .collect();
    assert_acknowledged(&lake, race(&lake, scripts));
    let batches: Vec<&Batch> = batches.iter().collect();
    assert_rows(&lake, &batches).await;
    assert_whole_at_every_version(&lake, &batches).await;
    lake.assert_at_rest();
}

/// Every two of these meet in at least one table.
const SETS: [&[&str]; 4] = [&["a", "b"], &["b", "c"], &["a", "c"], &["a", "b", "c"]];

async fn batches_to_overlapping_sets(processes: usize, commits: usize) {
    let lake = Lake::with_tables(&["a", "b", "c"]);
    let mut batches = Vec::new();
    let scripts = (0..processes)
        .map(|p| {
            (0..commits)
                .map(|c| {
                    let first = (p * commits + c) as i64 * 10;
                    let tables = SETS[(p + c) % SETS.len()];
                    let batch = Batch::new(format!("p{p}c{c}"), tables, first..first + 3);
                    let commit = call(&[
                        "commit",
                        &lake.uri,
                        &batch.directory(&lake),
                        "--message",
                        &batch.name,
                        "--json",
                    ]);
                    batches.push(batch);
                    commit
                })
                .collect()
        })
        .collect();
    assert_acknowledged(&lake, race(&lake, scripts));
    let batches: Vec<&Batch> = batches.iter().collect();
    assert_rows(&lake, &batches).await;
    assert_whole_at_every_version(&lake, &batches).await;
    lake.assert_at_rest();
}

#[tokio::test]
async fn processes_2_append_to_one_table_and_all_commit() {
    appends_to_one_table(2, 20).await;
}

#[tokio::test]
async fn processes_3_append_to_one_table_and_all_commit() {
    appends_to_one_table(3, 14).await;
}

#[tokio::test]
async fn processes_5_append_to_one_table_and_all_commit() {
    appends_to_one_table(5, 8).await;
}

#[tokio::test]
async fn processes_8_append_to_one_table_and_all_commit() {
    appends_to_one_table(8, 6).await;
}

#[tokio::test]
async fn processes_2_commit_to_overlapping_sets_of_tables_and_all_commit() {
    batches_to_overlapping_sets(2, 16).await;
}

#[tokio::test]
async fn processes_3_commit_to_overlapping_sets_of_tables_and_all_commit() {
    batches_to_overlapping_sets(3, 12).await;
}

#[tokio::test]
async fn processes_5_commit_to_overlapping_sets_of_tables_and_all_commit() {
    batches_to_overlapping_sets(5, 8).await;
}

#[tokio::test]
async fn processes_8_commit_to_overlapping_sets_of_tables_and_all_commit() {
    batches_to_overlapping_sets(8, 6).await;
}

/// What one call does to the table, for the replay.
#[derive(Debug, Clone, Copy)]
enum Change {
    Append,
    Merge,
}

fn apply(rows: &mut Rows, change: Change, source: &Rows) {
    for (id, value) in source {
        let mut matched = false;
        if matches!(change, Change::Merge) {
            for row in rows.iter_mut().filter(|row| row.0 == *id) {
                row.1.clone_from(value);
                matched = true;
            }
        }
        if !matched {
            rows.push((*id, value.clone()));
        }
    }
    rows.sort_unstable();
}

/// Appends do not look at keys and merges do, so the result depends on the order; the commit log is that order, and
/// every state in between was the replay of a prefix of it.
#[tokio::test]
async fn processes_that_append_and_merge_the_same_keys_are_serial_in_the_order_of_the_log() {
    let lake = Lake::with_tables(&["t"]);
    let mut changes = BTreeMap::new();
    let scripts = (0..4)
        .map(|p| {
            (0..4)
                .map(|w| {
                    let (change, mode) = match p {
                        0 => (Change::Append, "append"),
                        _ => (Change::Merge, "merge"),
                    };
                    let name = format!("{mode}-p{p}w{w}");
                    let rows: Rows = (0..4).map(|id| (id, name.clone())).collect();
                    let file = lake.csv(&format!("{name}.csv"), rows.clone());
                    let call = call(&[
                        "write",
                        &lake.uri,
                        "t",
                        &file,
                        "--mode",
                        mode,
                        "--message",
                        &name,
                        "--json",
                    ]);
                    changes.insert(name, (change, rows));
                    call
                })
                .collect()
        })
        .collect();
    assert_acknowledged(&lake, race(&lake, scripts));

    let mut states: Vec<Rows> = vec![Vec::new()];
    for (_, message) in log(&lake) {
        let (change, source) = &changes[&message];
        let mut rows = states.last().expect("a state").clone();
        apply(&mut rows, *change, source);
        states.push(rows);
    }
    assert_eq!(lake.rows("t").await, *states.last().expect("a state"));
    let store = lake.store().await;
    let latest = store.load().await.expect("snapshot").version();
    let mut reached = 0;
    for version in 1..=latest {
        let snapshot = store.snapshot_at(version).await.expect("snapshot");
        let Some(rows) = contents(&lake, &snapshot).await.remove("t") else {
            continue;
        };
        reached += states[reached..]
            .iter()
            .position(|state| *state == rows)
            .unwrap_or_else(|| panic!("manifest version {version} shows {rows:?}"));
    }
    lake.assert_at_rest();
}

/// Merges of new keys: if two of them could both see the keys missing, there would be two rows of one key.
#[tokio::test]
async fn processes_that_merge_the_same_new_keys_leave_one_row_for_each_key() {
    let lake = Lake::with_tables(&["t"]);
    let scripts = (0..5)
        .map(|p| {
            (0..3)
                .map(|w| {
                    // New keys each round, the same for all processes.
                    let rows = (w * 5..w * 5 + 5).map(|id| (id, format!("p{p}w{w}")));
                    let file = lake.csv(&format!("p{p}w{w}.csv"), rows);
                    call(&[
                        "write",
                        &lake.uri,
                        "t",
                        &file,
                        "--mode",
                        "merge",
                        "--message",
                        "m",
                        "--json",
                    ])
                })
                .collect()
        })
        .collect();
    assert_acknowledged(&lake, race(&lake, scripts));
    assert_eq!(lake.ids("t").await, (0..15).collect::<Vec<i64>>());
    // One merge is one commit: its five keys were all replaced by the same one.
    for round in lake.rows("t").await.chunks(5) {
        assert!(round.iter().all(|(_, value)| *value == round[0].1));
    }
    lake.assert_at_rest();
}

#[tokio::test]
async fn processes_with_one_batch_id_commit_it_exactly_once() {
    let lake = Lake::with_tables(&["a", "b"]);
    let mut batches = Vec::new();
    for round in 0..5_i64 {
        let batch = Batch::new(format!("r{round}"), &["a", "b"], round * 10..round * 10 + 3);
        let directory = batch.directory(&lake);
        let commit = call(&[
            "commit",
            &lake.uri,
            &directory,
            "--batch-id",
            &batch.name,
            "--json",
        ]);
        let racers = 2 + round as usize % 2;
        let ended: Vec<Done> = race(&lake, vec![vec![commit]; racers])
            .into_iter()
            .map(Done::ok)
            .collect();
        let said = |what: &str| -> Vec<String> {
            ended
                .iter()
                .filter(|d| d.json()["outcome"] == what)
                .map(Done::op)
                .collect()
        };
        let committed = said("committed");
        assert_eq!(committed.len(), 1, "round {round}: {ended:?}");
        let already = said("already_committed");
        assert_eq!(already.len(), racers - 1, "round {round}: {ended:?}");
        assert!(
            already.iter().all(|op| *op == committed[0]),
            "the others name another operation: {ended:?}"
        );
        batches.push(batch);
    }
    let batches: Vec<&Batch> = batches.iter().collect();
    assert_rows(&lake, &batches).await;
    assert_whole_at_every_version(&lake, &batches).await;
    lake.assert_at_rest();
}

/// The main job in small: writers of all kinds beside maintenance that never rests.
#[tokio::test]
async fn processes_5_and_maintenance_without_rest_lose_nothing() {
    let lake = Lake::with_tables(&["a", "b"]);
    let mut batches = Vec::new();
    let mut scripts: Vec<Script> = (0..4)
        .map(|p| {
            (0..8)
                .map(|c| {
                    let first = (p * 8 + c) as i64 * 10;
                    let batch = Batch::new(format!("p{p}c{c}"), &["a", "b"], first..first + 3);
                    let directory = batch.directory(&lake);
                    batches.push(batch);
                    call(&["commit", &lake.uri, &directory, "--message", "m", "--json"])
                })
                .collect()
        })
        .collect();
    // Upserts of rows that stand in the fragments which are being rewritten.
    let kept = Batch::new("kept", &["a", "b"], 10_000..10_005);
    let first = kept.commit(&lake);
    let again = format!("{}/a.csv", kept.directory(&lake));
    scripts.push(vec![
        call(&[
            "write",
            &lake.uri,
            "a",
            &again,
            "--mode",
            "merge",
            "--message",
            "m",
            "--json",
        ]);
        8
    ]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut ended, runs) = std::thread::scope(|scope| {
        let maintenance = scope.spawn(|| {
            let mut runs = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                runs.push(lake.run(&["optimize", &lake.uri, "--json"]));
            }
            runs
        });
        let ended = race(&lake, scripts);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (ended, maintenance.join().expect("maintenance"))
    });
    ended.push(first);
    assert_acknowledged(&lake, ended);
    for run in runs {
        // Done, lost, or left alone because an operation was not decided.
        assert!(matches!(run.code, Some(0 | 3 | 75)), "{run:?}");
        assert!(!run.stdout.contains("drift"), "{run:?}");
    }
    batches.push(kept);
    let batches: Vec<&Batch> = batches.iter().collect();
    assert_rows(&lake, &batches).await;
    assert_whole_at_every_version(&lake, &batches).await;
    lake.daemon_pass("0s").ok();
    assert_rows(&lake, &batches).await;
    lake.assert_at_rest();
}
