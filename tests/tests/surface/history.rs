//! Archive and cleanup: what was said stays true after the versions are gone. And what is damaged is named.

use crate::{one_document, versions};
use serde_json::Value;
use squire_engine::commit::{CommitRequest, Committed, Outcome, TableWrite, Write};
use squire_engine::error::ErrorKind;
use squire_engine::ids::OpId;
use squire_engine::maintenance::{CleanupReport, Retention};
use squire_engine::recovery::OperationOutcome;
use squire_engine::store::Store;
use squire_engine::store::state::MAX_BATCHES;
use squire_tests::{Lake, append, rows_of};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

fn delete(table: &str, predicate: &str) -> TableWrite {
    TableWrite {
        table: table.parse().expect("name"),
        write: Write::Delete {
            predicate: predicate.to_owned(),
        },
    }
}

async fn commit(store: &Store, writes: Vec<TableWrite>, batch: Option<String>) -> Outcome {
    let mut request = CommitRequest::new(writes);
    request.batch = batch;
    store.commit(&request).await.expect("commit")
}

fn committed(outcome: Outcome) -> Committed {
    match outcome {
        Outcome::Committed(committed) => committed,
        Outcome::AlreadyCommitted(op) => panic!("already committed by {op}"),
    }
}

/// Cleans with the smallest retention; nothing may fail.
async fn clean(store: &Store, keep: u64) -> CleanupReport {
    let retention = Retention {
        age: Duration::ZERO,
        versions: keep,
    };
    // A version of this very millisecond counts as young.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let plan = store.plan_cleanup(&retention.into()).await.expect("plan");
    let report = store.cleanup(&plan, None, &Default::default()).await;
    let report = report.expect("cleanup");
    assert_eq!(report.failed, [], "{report:?}");
    report
}

/// Manifest versions of the log, newest first: every one from the latest down to 2, each once.
fn assert_log_is_whole(lake: &Lake) -> Vec<Value> {
    let entries = lake.log();
    let found: Vec<u64> = entries
        .iter()
        .map(|e| e["manifest_version"].as_u64().expect("version"))
        .collect();
    let latest = lake.status()["manifest_version"].as_u64().expect("version");
    let expected: Vec<u64> = (2..=latest).rev().collect();
    assert_eq!(found, expected, "the log has a gap or says something twice");
    entries
}

/// Three hundred small commits over two tables, then cleanup, twice.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_commits_then_cleanup() {
    const COMMITS: i64 = 300;
    const KEEP: u64 = 30;
    let lake = Lake::with_tables(&["t", "u"]);
    let store = lake.store().await;
    // One operation that was aborted, so that the log holds one.
    let half = lake.batch("half", &["t", "u"], 9_000..9_002);
    let args = ["commit", &lake.uri, &half];
    let killed = lake.with_seam("write.after_commit_table=return(kill)", &args);
    assert_eq!(killed.wait().code, None);
    let aborted = lake.status()["sidecars"][0]
        .as_str()
        .expect("sidecar")
        .to_owned();
    lake.run(&["recover", &lake.uri, "--grace", "0s"]).ok();

    let mut ops: Vec<OpId> = Vec::new();
    let writes = |i: i64| match i % 10 {
        9 => vec![append("t", i..i + 1), append("u", i..i + 1)],
        4 => vec![
            append("t", i..i + 1),
            delete("u", &format!("id = {}", i - 5)),
        ],
        _ => vec![append("t", i..i + 1)],
    };
    for i in 0..COMMITS {
        ops.push(committed(commit(&store, writes(i), Some(format!("b{i}"))).await).op);
    }
    let log_before = assert_log_is_whole(&lake);
    let latest = store.load().await.expect("snapshot").version();
    let kept: Vec<u64> = (latest - KEEP + 1..=latest).collect();
    let mut shown = Vec::new();
    for version in &kept {
        let snapshot = store.snapshot_at(*version).await.expect("kept");
        shown.push(store.describe(&snapshot).await.expect("described"));
    }
    let old = store
        .snapshot_at(latest - KEEP - 50)
        .await
        .expect("still there");
    let kept_reader = store.snapshot_at(kept[3]).await.expect("kept");
    let t = "t".parse().expect("name");
    let kept_rows = rows_of(&store.read(&kept_reader, &t).await.expect("table")).await;
    let (rows_t, rows_u) = (lake.rows("t").await, lake.rows("u").await);
    let before = (
        versions(&lake, "t.lance"),
        versions(&lake, "_squire/manifest.lance"),
    );

    let report = clean(&store, KEEP).await;
    assert!(report.versions_removed > 400, "{report:?}");
    assert!(report.bytes_removed > 0, "{report:?}");
    let after = (
        versions(&lake, "t.lance"),
        versions(&lake, "_squire/manifest.lance"),
    );
    assert!(after.0 < 40, "table versions: {before:?} -> {after:?}");
    assert!(after.1 < 40, "manifest versions: {before:?} -> {after:?}");

    // Readers at kept snapshots read what they read before, in this process and in a new one.
    for process in [store.clone(), lake.store().await] {
        for (version, shown) in kept.iter().zip(&shown) {
            let snapshot = process.snapshot_at(*version).await.expect("kept");
            assert_eq!(
                &process.describe(&snapshot).await.expect("described"),
                shown
            );
        }
        let dataset = process.read(&kept_reader, &t).await.expect("table");
        assert_eq!(rows_of(&dataset).await, kept_rows);
    }
    assert_eq!(lake.rows("t").await, rows_t);
    assert_eq!(lake.rows("u").await, rows_u);

    // Below the floor: expired, in words.
    let expired = store
        .snapshot_at(latest - KEEP - 50)
        .await
        .expect_err("expired");
    assert_eq!(expired.kind(), ErrorKind::Expired);
    let expired = store.read(&old, &t).await.expect_err("expired");
    assert_eq!(expired.kind(), ErrorKind::Expired);
    let at = (latest - KEEP - 50).to_string();
    let refused = lake.run(&["snapshot", &lake.uri, "--at", &at, "--json"]);
    let refused = refused.failed(1, "below the floor");
    assert_eq!(one_document(&refused)["error"]["kind"], "Expired");

    // The log says what it said, and goes on.
    let log_after = assert_log_is_whole(&lake);
    let said = log_before.len();
    assert_eq!(log_after[log_after.len() - said..], log_before[..]);
    for limit in [1, 2, 5, 20, 31, 100] {
        let limit_text = limit.to_string();
        let args = ["log", &lake.uri, "--limit", &limit_text, "--json"];
        let some = lake.run(&args).ok().json();
        assert_eq!(
            some["entries"].as_array().expect("entries")[..],
            log_after[..limit]
        );
    }

    // Operations and batches answer as before.
    for i in [0, 1, 150, 298, 299_usize] {
        let op = ops[i].to_string();
        let outcome = lake.run(&["op", &lake.uri, &op, "--json"]).ok().json();
        assert_eq!(outcome["outcome"], "committed", "operation {i}");
        assert_eq!(outcome["entry"]["batch"], format!("b{i}"), "operation {i}");
        let again = writes(i64::try_from(i).expect("small"));
        let outcome = commit(&store, again, Some(format!("b{i}"))).await;
        assert_eq!(outcome, Outcome::AlreadyCommitted(ops[i]), "batch b{i}");
    }
    let outcome = lake.run(&["op", &lake.uri, &aborted, "--json"]).ok().json();
    assert_eq!(outcome["outcome"], "aborted");

    // On with it: compaction, more commits, down to a single version, and again.
    for round in 0..3_i64 {
        lake.run(&["optimize", &lake.uri]).ok();
        for i in 0..20_i64 {
            let id = 20_000 + round * 100 + i;
            commit(&store, vec![append("t", id..id + 1)], None).await;
        }
        clean(&store, 1).await;
        assert_log_is_whole(&lake);
        assert_eq!(
            lake.rows("t").await.len(),
            rows_t.len() + 20 * (round as usize + 1)
        );
        assert_eq!(lake.rows("u").await, rows_u);
    }
    assert!(
        versions(&lake, "t.lance") < 10,
        "{}",
        versions(&lake, "t.lance")
    );
    let outcome = store.outcome_of(ops[0]).await.expect("outcome");
    assert!(matches!(
        outcome,
        OperationOutcome::Committed { entry: Some(_) }
    ));
    let outcome = lake.run(&["op", &lake.uri, &aborted, "--json"]).ok().json();
    assert_eq!(outcome["outcome"], "aborted");
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
}

/// More batch ids than the manifest holds: the oldest answer from the commit log.
#[tokio::test(flavor = "multi_thread")]
async fn batch_ids_beyond_the_manifests_bound_count_once() {
    let lake = Lake::with_tables(&["t"]);
    let store = lake.store().await;
    let total = i64::try_from(MAX_BATCHES).expect("small") + 150;
    let mut ops: Vec<OpId> = Vec::new();
    for i in 0..total {
        if i == 150 || i == 250 {
            store.archive().await.expect("archive");
            // Hundreds of fragments only cost time here.
            lake.run(&["optimize", &lake.uri]).ok();
        }
        let writes = vec![append("t", i..i + 1)];
        ops.push(committed(commit(&store, writes, Some(format!("it's {i}"))).await).op);
    }
    let state = store.load().await.expect("snapshot").state;
    assert!(
        state.batches.len() <= MAX_BATCHES,
        "{} batch ids",
        state.batches.len()
    );
    assert!(state.archive.evicted, "{:?}", state.archive);
    assert!(
        !state.batches.contains_key("it's 0"),
        "the oldest went first"
    );
    clean(&store, 1).await;
    let fresh = lake.store().await;
    for i in [0, 1, 49, 149, 249, 250, total - 1] {
        let at = usize::try_from(i).expect("small");
        let batch = Some(format!("it's {i}"));
        let outcome = commit(&fresh, vec![append("t", i..i + 1)], batch).await;
        assert_eq!(outcome, Outcome::AlreadyCommitted(ops[at]), "batch {i}");
        let mut other = CommitRequest::new(vec![append("t", 9_000..9_001)]);
        other.batch = Some(format!("it's {i}"));
        let refused = fresh.commit(&other).await.expect_err("another content");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "batch {i}");
    }
    assert_eq!(lake.ids("t").await, (0..total).collect::<Vec<i64>>());
    assert_log_is_whole(&lake);
}

/// Cleanups publish floors and little else: their own publishes are in the log, too, once their versions are gone.
#[tokio::test]
async fn the_log_of_a_store_that_only_cleans_stays_whole() {
    let lake = Lake::with_tables(&["t"]);
    let store = lake.store().await;
    commit(&store, vec![append("t", 0..3)], None).await;
    for _ in 0..5 {
        clean(&store, 1).await;
        assert_log_is_whole(&lake);
    }
}

/// Two daemons archive and clean at once while a writer commits: no publish is logged twice or never.
#[tokio::test(flavor = "multi_thread")]
async fn archiving_and_cleaning_beside_a_writer() {
    let lake = Lake::with_tables(&["t"]);
    let store = lake.store().await;
    let cleaner = |keep| {
        let (uri, store) = (lake.uri.clone(), lake.store());
        async move {
            let store = store.await;
            for _ in 0..6 {
                let retention = Retention {
                    age: Duration::ZERO,
                    versions: keep,
                };
                let plan = store.plan_cleanup(&retention.into()).await;
                let plan = plan.unwrap_or_else(|e| panic!("{uri}: plan: {e}"));
                let report = store.cleanup(&plan, None, &Default::default()).await;
                let report = report.unwrap_or_else(|e| panic!("{uri}: cleanup: {e}"));
                assert_eq!(report.failed, [], "{report:?}");
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }
    };
    let writer = async {
        let mut ops = Vec::new();
        for i in 0..120_i64 {
            ops.push(committed(commit(&store, vec![append("t", i..i + 1)], None).await).op);
        }
        ops
    };
    let (ops, (), ()) = futures::join!(writer, cleaner(20), cleaner(25));
    assert_eq!(lake.ids("t").await, (0..120).collect::<Vec<i64>>());
    let logged: Vec<String> = assert_log_is_whole(&lake)
        .iter()
        .map(|e| e["op"].as_str().expect("op").to_owned())
        .collect();
    for op in ops {
        let times = logged.iter().filter(|o| **o == op.to_string()).count();
        assert_eq!(times, 1, "{op}");
    }
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
}

/// A version that a snapshot inside the window pins is never planned away, whenever its table was made.
#[tokio::test(flavor = "multi_thread")]
async fn cleanup_keeps_what_the_window_pins() {
    let lake = Lake::with_tables(&["t"]);
    let store = lake.store().await;
    for i in 0..10_i64 {
        commit(&store, vec![append("t", i..i + 1)], None).await;
    }
    // Made inside the window, so the window's oldest snapshot does not know it.
    let first = store.load().await.expect("snapshot").version();
    lake.create_tables(&["late"]);
    for i in 0..10_i64 {
        commit(
            &store,
            vec![append("late", i..i + 1), append("t", 100 + i..101 + i)],
            None,
        )
        .await;
    }
    let latest = store.load().await.expect("snapshot").version();
    let keep = latest - first + 1;
    let mut shown = Vec::new();
    for version in first..=latest {
        let snapshot = store.snapshot_at(version).await.expect("kept");
        shown.push((version, store.describe(&snapshot).await.expect("described")));
    }
    clean(&store, keep).await;
    let store = lake.store().await;
    for (version, shown) in shown {
        let snapshot = store.snapshot_at(version).await.expect("kept");
        let now = store.describe(&snapshot).await;
        let now =
            now.unwrap_or_else(|e| panic!("manifest version {version} is in the window: {e}"));
        assert_eq!(now, shown, "manifest version {version}");
    }
}

/// A writer stops with its sidecar standing; others write and clean up, and what it stands on stays. It wakes, notices,
/// starts again from a fresh snapshot, and brings back nothing that was deleted meanwhile. What comes of one whose base
/// does go stands in the crash matrix.
async fn stale_writer(seam: &str, mode: &str) {
    let lake = Lake::with_tables(&["t", "u"]);
    let store = lake.store().await;
    commit(&store, vec![append("t", 0..10), append("u", 0..10)], None).await;
    let base =
        store.load().await.expect("snapshot").state.tables[&"t".parse().expect("name")].version;
    let late = lake.csv(
        "late.csv",
        [(5, "late".to_owned()), (500, "late".to_owned())],
    );
    let args: Vec<&str> = match mode {
        "delete" => vec!["delete", &lake.uri, "t", "--where", "id = 5"],
        mode => vec!["write", &lake.uri, "t", &late, "--mode", mode],
    };
    let args = [args.as_slice(), &["--json"]].concat();
    let mut writer = lake.with_seam(&format!("{seam}=1*return(stop)"), &args);
    writer.wait_stopped();

    commit(&store, vec![delete("t", "id < 3")], None).await;
    for i in 0..6_i64 {
        commit(&store, vec![append("t", 100 + i..101 + i)], None).await;
    }
    lake.run(&["optimize", &lake.uri]).ok();
    commit(&store, vec![delete("t", "id = 9")], None).await;
    clean(&store, 1).await;
    let table = lance::Dataset::open(&format!("{}/t.lance", lake.uri))
        .await
        .expect("table");
    let left: BTreeSet<u64> = table
        .versions()
        .await
        .expect("versions")
        .iter()
        .map(|v| v.version)
        .collect();
    assert!(left.contains(&base), "{seam}: base {base} in {left:?}");

    let done = writer.resume().ok().json();
    assert_eq!(done["outcome"], "committed", "{seam} {mode}");
    let attempts = done["attempts"].as_u64().expect("attempts");
    assert!(attempts >= 2, "{seam} {mode}: it did not notice: {done}");
    let mut expected: Vec<i64> = (3..9).chain(100..106).collect();
    match mode {
        "merge" => expected.push(500),
        "append" => expected.extend([5, 500]),
        _ => expected.retain(|id| *id != 5),
    }
    expected.sort_unstable();
    assert_eq!(lake.ids("t").await, expected, "{seam} {mode}");
    let late = lake
        .rows("t")
        .await
        .iter()
        .filter(|(_, v)| v == "late")
        .count();
    assert_eq!(late, if mode == "delete" { 0 } else { 2 }, "{seam} {mode}");
    let op = done["op"].as_str().expect("op");
    let times = lake.log().iter().filter(|e| e["op"] == op).count();
    assert_eq!(times, 1, "{seam} {mode}: published once");
    lake.daemon_pass("0s").ok();
    assert_eq!(
        lake.ids("t").await,
        expected,
        "{seam} {mode}: after a daemon pass"
    );
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_stale_writer_with_a_sidecar() {
    for seam in ["sidecar.after_put", "write.before_commit_table"] {
        for mode in ["append", "merge", "delete"] {
            stale_writer(seam, mode).await;
        }
    }
}

/// A power cut of a time before syncs left the log's newest version torn: tables are cleaned, and the log is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_version_of_the_log_stops_only_the_log() {
    let lake = Lake::with_tables(&["t"]);
    let store = lake.store().await;
    for i in 0..3 {
        commit(&store, vec![append("t", i..i + 1)], None).await;
    }
    store.archive().await.expect("archive");
    commit(&store, vec![append("t", 3..4)], None).await;
    let next = versions(&lake, "_squire/commits.lance") as u64 + 1;
    let name = format!(
        "_squire/commits.lance/_versions/{}.manifest",
        u64::MAX - next
    );
    let torn = Path::new(&lake.uri).join(&name);
    std::fs::write(&torn, "abc").expect("torn");

    let store = lake.store().await;
    let retention = Retention {
        age: Duration::ZERO,
        versions: 1,
    };
    // A version of this very millisecond counts as young.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let plan = store.plan_cleanup(&retention.into()).await.expect("plan");
    let before = versions(&lake, "_squire/manifest.lance");
    let report = store.cleanup(&plan, None, &Default::default()).await;
    let failed = report.expect("cleanup").failed;
    assert_eq!(failed.len(), 1, "{failed:?}");
    for part in [name.as_str(), "is torn", "remove this file"] {
        assert!(failed[0].1.contains(part), "{failed:?}");
    }
    assert_eq!(versions(&lake, "t.lance"), 1);
    let kept = versions(&lake, "_squire/manifest.lance");
    assert!(kept >= before, "{before} -> {kept}: not archived, and gone");
    lake.run(&["cleanup", &lake.uri]).failed(1, &name);
    lake.run(&["log", &lake.uri]).failed(1, &name);
    let bytes = std::fs::read(&torn).expect("still there");
    assert_eq!(bytes, b"abc", "nobody but a person removes it");

    std::fs::remove_file(&torn).expect("as told");
    let store = lake.store().await;
    clean(&store, 1).await;
    assert_log_is_whole(&lake);
    lake.assert_at_rest();
}

/// Looks at `lake` with `command`: it fails, names `told`, and prints no list of bytes.
fn named(lake: &Lake, command: &[&str], told: &[&str]) -> String {
    let done = lake.run(command);
    assert_eq!(done.code, Some(1), "{command:?}: {done:?}");
    let said = format!("{}{}", done.stdout, done.stderr);
    for part in told {
        assert!(said.contains(part), "{command:?}: {part}: {said}");
    }
    assert!(!said.contains("magic: ["), "{command:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_missing_is_named_with_what_helps() {
    let lake = Lake::with_tables(&["t"]);
    let store = lake.store().await;
    for i in 0..3 {
        commit(&store, vec![append("t", i..i + 1)], None).await;
    }
    let uri = lake.uri.clone();
    let root = Path::new(&uri).join("t.lance");
    let version = |v: u64| root.join(format!("_versions/{}.manifest", u64::MAX - v));

    // The manifest of the pinned version alone: nobody made the table again.
    let away = lake.path("away");
    std::fs::rename(version(4), &away).expect("moved");
    let rows = lake.csv("rows.csv", [(9, "x".to_owned())]);
    let status = ["status", uri.as_str()];
    for command in [
        &status[..],
        &["snapshot", &uri],
        &["write", &uri, "t", &rows],
        &["delete", &uri, "t", "--where", "id = 1"],
    ] {
        let said = named(&lake, command, &["version 4", "is missing", "backup"]);
        assert!(!said.contains("made again"), "{said}");
    }
    lake.run(&["repair", &uri]).failed(3, "pin 4 is gone");
    std::fs::rename(&away, version(4)).expect("moved back");

    // Bytes that no power cut leaves.
    std::fs::write(version(5), "no version at all".repeat(9)).expect("written");
    let file = format!("{}.manifest", u64::MAX - 5);
    let said = named(&lake, &status, &[&file, "is damaged", "backup"]);
    assert!(!said.contains("remove this file"), "{said}");
    std::fs::remove_file(version(5)).expect("removed");

    let tags = root.join("_refs/tags");
    std::fs::create_dir_all(&tags).expect("tags");
    std::fs::write(tags.join("x.json"), "hello").expect("written");
    let dry = ["cleanup", uri.as_str(), "--dry-run"];
    named(&lake, &dry, &["t: failed: ", "t.lance/_refs/tags"]);
    std::fs::remove_dir_all(root.join("_refs")).expect("removed");

    let data = std::fs::read_dir(root.join("data")).expect("data").next();
    let data = data.expect("a file").expect("entry").path();
    let mut bytes = std::fs::read(&data).expect("read");
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(b"DAMA");
    std::fs::write(&data, bytes).expect("written");
    let name = data.file_name().expect("name").to_string_lossy();
    named(&lake, &["optimize", &uri], &[&name]);
}

/// Whatever the log shows was done; what it shows against an operation, and its undo, was not it.
#[test]
fn an_operation_of_the_log_is_known_by_its_ulid() {
    let lake = Lake::with_tables(&["t", "u"]);
    let seam = "write.after_commit_table=1*return(kill)";
    let batch = lake.batch("doomed", &["t", "u"], 0..1);
    lake.with_seam(seam, &["commit", &lake.uri, &batch]).wait();
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    let uri = lake.uri.as_str();
    for command in [
        vec!["index", uri, "t", "id", "--type", "btree"],
        vec!["index", uri, "t", "id", "--withdraw"],
        vec!["keep", uri, "here"],
        vec!["unkeep", uri, "here"],
        vec!["drop", uri, "u"],
    ] {
        lake.run(&command).ok();
    }
    let mut kinds = BTreeSet::new();
    for entry in lake.log() {
        let (kind, op) = (entry["kind"].as_str().expect("kind"), &entry["op"]);
        let outcome = lake.outcome_of(op.as_str().expect("op"));
        let expected = match kind {
            "abort" | "undo" => "aborted",
            _ => "committed",
        };
        assert_eq!(outcome, expected, "{entry}");
        kinds.insert(kind.to_owned());
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}
