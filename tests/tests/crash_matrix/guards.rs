//! A cell for each guard of the protocol: what goes wrong at which seam so that this guard alone stands in the way. And
//! the proof that the guard is needed: the same cell in processes without it ends badly ([`every_guard_is_needed`]).
//!
//! They end as all cells do ([`comes_to_rest`]), and stand in the printed table.

use crate::ends::comes_to_rest;
use crate::{subject, table};
use lance::Dataset;
use lance::dataset::cleanup::CleanupPolicyBuilder;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use squire_engine::clock::{Clock, SystemClock};
use squire_engine::commit::CommitRequest;
use squire_engine::error::ErrorKind;
use squire_engine::recovery::Watch;
use squire_engine::store::{Store, StoreOptions};
use squire_failpoints::Guard;
use squire_tests::plain::{Plain, TABLE};
use squire_tests::{Child, Done, Lake, append, rows_of};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Plays each guard's cell once more in processes that leave the guard out: it must fail.
#[test]
fn every_guard_is_needed() {
    let exe = std::env::current_exe().expect("this test binary");
    for guard in Guard::ALL {
        let test = guard
            .seen_by()
            .strip_prefix("crash_matrix::")
            .unwrap_or_else(|| panic!("{} is seen by a test of another binary", guard.name()));
        let run = Command::new(&exe)
            .args([test, "--exact"])
            .env("SQUIRE_WITHOUT", guard.name())
            .output()
            .expect("the cell runs");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(
            said.contains("0 passed; 1 failed"),
            "without {:?}, {test} must fail ({}): {said}",
            guard.name(),
            guard.without()
        );
    }
}

/// How each of these cells ends.
async fn ends_well(guard: Guard, lake: &Lake) {
    comes_to_rest(lake).await;
    lake.assert_at_rest();
    table::note_guard(guard);
}

const BOTH: &[&str] = &["a", "b"];

/// Tables a and b with rows 0 to 2 in both.
fn lake() -> Lake {
    let lake = Lake::with_tables(BOTH);
    commit(&lake, "before", 0..3).ok();
    lake
}

fn commit(lake: &Lake, name: &str, ids: std::ops::Range<i64>) -> Done {
    let batch = lake.batch(name, BOTH, ids);
    lake.run(&["commit", &lake.uri, &batch, "--grace", "0s", "--json"])
}

/// Starts a commit of rows 100 to 102 to both tables that stops at `seam`.
fn stopped_commit(lake: &Lake, seam: &str) -> Child {
    let batch = lake.batch("victim", BOTH, 100..103);
    let mut child = lake.with_seam(
        &format!("{seam}=1*return(stop)"),
        &["commit", &lake.uri, &batch, "--json"],
    );
    child.wait_stopped();
    child
}

fn recover(lake: &Lake) -> Done {
    lake.run(&["recover", &lake.uri, "--force", "--json"])
}

async fn ids(lake: &Lake) -> [Vec<i64>; 2] {
    [lake.ids("a").await, lake.ids("b").await]
}

fn both(ids: &[i64]) -> [Vec<i64>; 2] {
    [ids.to_vec(), ids.to_vec()]
}

/// Three commits, rows 10, 20 and 30, and then everything goes that nothing pins, as long after the retention.
fn move_on_and_clean_up(lake: &Lake) {
    for id in [10, 20, 30] {
        commit(lake, &format!("more{id}"), id..id + 1).ok();
    }
    lake.clean_up();
}

/// Starts the declaration of an index that stops before it puts the manifest.
fn stopped_declaration(lake: &Lake) -> Child {
    let mut declare = lake.with_seam(
        "commit.before_put=1*return(stop)",
        &[
            "index", &lake.uri, "a", "id", "--type", "btree", "--name", "declared",
        ],
    );
    declare.wait_stopped();
    declare
}

#[tokio::test]
async fn a_lost_slot_is_not_rebased() {
    let lake = lake();
    let file = lake.csv("one.csv", [(50, "one".to_owned())]);
    let mut one = lake.with_seam(
        "write.after_scan=1*return(stop)",
        &["write", &lake.uri, "a", &file, "--grace", "0s", "--json"],
    );
    one.wait_stopped();
    let half = stopped_commit(&lake, "write.after_commit_table");
    // Lance would put the append on top of the half that nobody decided about.
    one.resume().ok();
    assert_eq!(lake.ids("a").await, [0, 1, 2, 50]);
    half.resume().ok();
    assert_eq!(lake.ids("b").await, [0, 1, 2, 100, 101, 102]);
    ends_well(Guard::Slot, &lake).await;
}

/// A table that is no store's has no pin and no sidecar: only the list of its versions tells what was missed to a compaction that
/// is not carried, since an earlier one has left the indexes behind.
#[tokio::test]
async fn a_run_behind_a_cleanup_is_refused() {
    let lake = lake();
    let plain = lake.path("plain/t.lance").to_string_lossy().into_owned();
    for id in [60, 70] {
        subject::append_externally(&plain, id..id + 2).await;
    }
    let mut dataset = Dataset::open(&plain).await.expect("the table");
    let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
    let index = dataset.create_index(&["id"], kind, None, &params, false);
    index.await.expect("an index");
    let deferred = CompactionOptions {
        defer_index_remap: true,
        ..CompactionOptions::default()
    };
    let compacted = compact_files(&mut dataset, deferred, None).await;
    compacted.expect("a compaction");
    for id in [0, 10, 20, 30] {
        subject::append_externally(&plain, id..id + 2).await;
    }
    let mut run = lake.with_seam(
        "maintain.after_rewrite=1*return(stop)",
        &["optimize", &plain],
    );
    run.wait_stopped();
    let mut dataset = Dataset::open(&plain).await.expect("the table");
    let rewritten = dataset.version().version;
    dataset.delete("id = 1").await.expect("delete");
    for id in [40, 50] {
        subject::append_externally(&plain, id..id + 1).await;
    }
    let gone = CleanupPolicyBuilder::default()
        .versions((rewritten + 1..rewritten + 3).collect())
        .expect("versions")
        .build();
    dataset.checkout_latest().await.expect("the latest version");
    dataset.cleanup_with_policy(gone).await.expect("cleanup");
    run.resume().ok();
    let now = Dataset::open(&plain).await.expect("the table");
    let ids = rows_of(&now).await.into_iter().map(|(id, _)| id);
    let expected = [0, 10, 11, 20, 21, 30, 31, 40, 50, 60, 61, 70, 71];
    assert_eq!(ids.collect::<Vec<_>>(), expected, "1 was deleted");
    ends_well(Guard::Contiguity, &lake).await;
}

#[tokio::test]
async fn an_undecided_version_is_not_built_on() {
    let lake = lake();
    let half = stopped_commit(&lake, "write.after_commit_table");
    let file = lake.csv("one.csv", [(50, "one".to_owned())]);
    lake.run(&["write", &lake.uri, "a", &file, "--grace", "0s"])
        .ok();
    assert_eq!(ids(&lake).await, [vec![0, 1, 2, 50], vec![0, 1, 2]]);
    half.resume().ok();
    ends_well(Guard::CleanBase, &lake).await;
}

#[tokio::test]
async fn maintenance_does_not_publish_half_a_commit() {
    let lake = lake();
    commit(&lake, "more", 10..13).ok();
    let mut optimize = lake.with_seam(
        "maintain.after_compact=1*return(stop)",
        &["optimize", &lake.uri, "--table", "a"],
    );
    optimize.wait_stopped();
    let half = stopped_commit(&lake, "write.after_commit_table");
    optimize.resume().ok();
    assert_eq!(ids(&lake).await, both(&[0, 1, 2, 10, 11, 12]));
    half.resume().ok();
    assert_eq!(
        ids(&lake).await,
        both(&[0, 1, 2, 10, 11, 12, 100, 101, 102])
    );
    ends_well(Guard::CleanPrefix, &lake).await;
}

#[tokio::test]
async fn a_dead_writer_leaves_a_sidecar() {
    let lake = lake();
    stopped_commit(&lake, "write.after_commit_table").kill();
    recover(&lake).ok();
    assert_eq!(ids(&lake).await, both(&[0, 1, 2]));
    ends_well(Guard::Sidecar, &lake).await;
}

#[tokio::test]
async fn nothing_is_undone_before_the_decision() {
    let lake = lake();
    let complete = stopped_commit(&lake, "publish.before_commit");
    // With the decision first there is nothing to undo: the operation is complete and goes forward.
    let mut resolver = lake.with_seam(
        "resolve.after_undo=1*return(stop)",
        &["recover", &lake.uri, "--force"],
    );
    let stopped = resolver.stopped_or_ended();
    complete.resume().ok();
    if stopped {
        resolver.resume();
    }
    recover(&lake).ok();
    assert_eq!(ids(&lake).await, both(&[0, 1, 2, 100, 101, 102]));
    ends_well(Guard::DecideFirst, &lake).await;
}

#[tokio::test]
async fn an_aborted_operation_stays_aborted() {
    let lake = lake();
    let half = stopped_commit(&lake, "write.after_commit_table");
    let mut resolver = lake.with_seam(
        "resolve.after_decide=1*return(stop)",
        &["recover", &lake.uri, "--force"],
    );
    resolver.wait_stopped();
    // It lands the rest, and may only become visible as another operation.
    let done = half.resume().ok();
    let op = done.json()["op"].as_str().expect("a ULID").to_owned();
    resolver.resume();
    let said = lake.run(&["op", &lake.uri, &op, "--json"]).ok().json();
    assert_eq!(said["outcome"], "committed", "{op} was acknowledged");
    assert_eq!(ids(&lake).await, both(&[0, 1, 2, 100, 101, 102]));
    ends_well(Guard::Decision, &lake).await;
}

#[tokio::test]
async fn a_stale_read_is_refused() {
    let lake = lake();
    let store = lake.store().await;
    let read = store.load().await.expect("snapshot");
    // Each reads what the other writes; both at once would be a write skew.
    let mut first = CommitRequest::new(vec![append("a", 50..51)]);
    first
        .reads
        .insert("b".parse().expect("name"), read.version());
    let mut second = CommitRequest::new(vec![append("b", 51..52)]);
    second
        .reads
        .insert("a".parse().expect("name"), read.version());
    store.commit(&first).await.expect("the first");
    let refused = store.commit(&second).await.expect_err("its read is stale");
    assert_eq!(refused.kind(), ErrorKind::Stale, "{refused}");
    assert_eq!(ids(&lake).await, [vec![0, 1, 2, 50], vec![0, 1, 2]]);
    ends_well(Guard::ReadSet, &lake).await;
}

#[tokio::test]
async fn a_batch_is_committed_once() {
    let lake = lake();
    let file = lake.csv("one.csv", [(50, "one".to_owned())]);
    let write = ["write", &lake.uri, "a", &file, "--batch-id", "x"];
    // Killed after it was published and before it could say so; then whoever sent the batch sends it again.
    let seam = "sidecar.after_delete=1*return(kill)";
    assert_eq!(lake.with_seam(seam, &write).wait().code, None);
    lake.run(&write).ok();
    assert_eq!(lake.ids("a").await, [0, 1, 2, 50]);
    ends_well(Guard::BatchId, &lake).await;
}

/// What was acknowledged is there.
async fn assert_declared(lake: &Lake) {
    let state = lake.store().await.load().await.expect("snapshot").state;
    let declared = ("a".parse().expect("name"), "declared".to_owned());
    assert!(
        state.indexes.contains_key(&declared),
        "acknowledged and lost"
    );
}

#[tokio::test]
async fn a_publish_at_a_freed_number_is_lost() {
    let lake = lake();
    let declare = stopped_declaration(&lake);
    move_on_and_clean_up(&lake);
    // The put succeeds, at a number that is long past.
    declare.resume().ok();
    assert_declared(&lake).await;
    ends_well(Guard::PublishFloor, &lake).await;
}

#[tokio::test]
async fn cleanup_marks_that_it_frees_numbers() {
    let lake = lake();
    let declare = stopped_declaration(&lake);
    // What it loaded before it was stopped stays there, and the number after that is freed.
    lake.run(&["keep", &lake.uri, "held"]).ok();
    move_on_and_clean_up(&lake);
    declare.resume().ok();
    assert_declared(&lake).await;
    ends_well(Guard::CleanupMark, &lake).await;
}

/// A process that was the last to commit to a table lists its versions no more, unless others have changed something there.
#[tokio::test]
async fn a_commit_lands_on_no_number_that_others_freed() {
    let lake = lake();
    let store = lake.store().await;
    let append = |id| {
        let request = CommitRequest::new(vec![append("a", id..id + 1)]);
        let store = store.clone();
        async move { store.commit(&request).await }
    };
    append(10).await.expect("a commit");
    let pin = lake.table_status("a", "pin").as_u64().expect("a version");
    // Another client commits twice and removes the first of its versions; a tag keeps ours.
    let mut foreign = Dataset::open(&format!("{}/a.lance", lake.uri))
        .await
        .expect("table");
    foreign.tags().create("ours", pin).await.expect("a tag");
    for value in ["else", "again"] {
        let commit = foreign.update_config([("someone", value)]).await;
        commit.expect("an external commit");
    }
    let policy = CleanupPolicyBuilder::default().versions(vec![pin + 1]);
    let policy = policy
        .expect("a policy")
        .error_if_tagged_old_versions(false);
    let removed = foreign.cleanup_with_policy(policy.build()).await;
    assert_eq!(removed.expect("a cleanup").old_versions, 1);
    let blocked = append(11)
        .await
        .expect_err("what others did stands above the pin");
    assert_eq!(blocked.kind(), ErrorKind::Drift, "{blocked}");
    lake.run(&["repair", &lake.uri, "--table", "a", "--discard"])
        .ok();
    append(11).await.expect("a commit");
    ends_well(Guard::DirectoryTime, &lake).await;
}

#[tokio::test]
async fn a_publish_stands_on_its_history() {
    let lake = lake();
    let declare = stopped_declaration(&lake);
    // As when a disk is unmounted: puts make the directories that are missing.
    let away = lake.path("away");
    std::fs::rename(&lake.uri, &away).expect("unmount");
    declare.resume().failed(1, "still mounted");
    std::fs::remove_dir_all(&lake.uri).expect("what the put made");
    std::fs::rename(&away, &lake.uri).expect("mount");
    ends_well(Guard::PublishHistory, &lake).await;
}

#[tokio::test]
async fn a_version_below_the_floor_proves_nothing() {
    let mut lake = lake();
    let file = lake.csv("one.csv", [(50, "one".to_owned())]);
    // Elsewhere than on a local disk nothing else is asked before a version is put.
    let objects = format!("file-object-store://{}", lake.uri);
    let unhinted = ("LANCE_USE_VERSION_HINT".to_owned(), "0".to_owned());
    lake.env.push(unhinted);
    let mut writer = lake.with_seam(
        "commit.before_put=1*return(stop)",
        &["write", &objects, "a", &file, "--json"],
    );
    writer.wait_stopped();
    // Aborted, and longer asleep than decisions are kept: the resolver lives forty days ago.
    let long_ago = StoreOptions {
        clock: Arc::new(Late(SystemClock::default())),
        ..StoreOptions::default()
    };
    let resolver = Store::open(&lake.uri, long_ago).await.expect("the store");
    resolver
        .recover(&mut Watch::default(), true)
        .await
        .expect("recovery");
    move_on_and_clean_up(&lake);
    let store = lake.store().await;
    assert!(
        store
            .load()
            .await
            .expect("snapshot")
            .state
            .aborted
            .is_empty()
    );
    let done = writer.resume();
    let visible = lake.ids("a").await.contains(&50);
    assert_eq!(done.code == Some(0), visible, "{done:?}");
    assert_eq!(lake.ids("b").await, [0, 1, 2, 10, 20, 30]);
    // Not the trace: the decision was forgotten, and is made once more.
    comes_to_rest(&lake).await;
    table::note_guard(Guard::TableFloor);
}

/// A clock that is forty days late.
#[derive(Debug)]
struct Late(SystemClock);

impl Clock for Late {
    fn now_ms(&self) -> u64 {
        self.0.now_ms() - 40 * 24 * 3_600_000
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) -> futures::future::BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

#[tokio::test]
async fn a_reader_hears_expired() {
    let lake = lake();
    let store = lake.store().await;
    let old = store.load().await.expect("snapshot");
    commit(&lake, "more", 10..13).ok();
    let seam = "cleanup.after_table=1*return(kill)";
    let cleanup = lake.with_seam_in("squire-clean", seam, &[&lake.uri]);
    cleanup.killed();
    let refused = store.read(&old, &"a".parse().expect("name")).await;
    let refused = refused.expect_err("its version is gone");
    assert_eq!(refused.kind(), ErrorKind::Expired, "{refused}");
    ends_well(Guard::FloorFirst, &lake).await;
}

#[tokio::test]
async fn a_keep_that_comes_late_is_obeyed() {
    let lake = lake();
    let store = lake.store().await;
    let old = store.load().await.expect("snapshot").version().to_string();
    commit(&lake, "more", 10..13).ok();
    let seam = "cleanup.after_plan=1*return(stop)";
    let mut cleanup = lake.with_seam_in("squire-clean", seam, &[&lake.uri]);
    cleanup.wait_stopped();
    lake.run(&["keep", &lake.uri, "late", "--at", &old]).ok();
    cleanup.resume().ok();
    let shown = lake.run(&["snapshot", &lake.uri, "--name", "late", "--json"]);
    assert_eq!(shown.ok().json()["tables"]["a"]["rows"], 3);
    ends_well(Guard::HoldsAgain, &lake).await;
}

#[tokio::test]
async fn a_version_without_its_files_is_not_published() {
    let lake = lake();
    let data = lake.path("lake/a.lance/data");
    let files = || -> Vec<_> {
        let listed = std::fs::read_dir(&data).expect("data");
        listed.map(|f| f.expect("file").path()).collect()
    };
    let before = files();
    stopped_commit(&lake, "write.after_phase_b").kill();
    for file in files().iter().filter(|f| !before.contains(f)) {
        std::fs::remove_file(file).expect("lose a staged file");
    }
    recover(&lake).ok();
    assert_eq!(ids(&lake).await, both(&[0, 1, 2]));
    ends_well(Guard::StagedFiles, &lake).await;
}

/// Starts a compaction of table a that stops at `seam`, and takes it for dead.
fn given_up(lake: &Lake, failpoints: &str) -> Child {
    let mut run = lake.with_seam(failpoints, &["optimize", &lake.uri, "--table", "a"]);
    run.wait_stopped();
    let stranded = recover(lake).ok().json();
    assert_eq!(stranded["reclaimed"].as_array().expect("runs").len(), 1);
    run
}

#[tokio::test]
async fn a_run_without_its_sidecar_commits_nothing() {
    let lake = lake();
    commit(&lake, "more", 10..13).ok();
    let run = given_up(&lake, "maintain.after_rewrite=1*return(stop)");
    run.resume().failed(75, "took this run for dead");
    assert_eq!(ids(&lake).await, both(&[0, 1, 2, 10, 11, 12]));
    ends_well(Guard::Licence, &lake).await;
}

#[tokio::test]
async fn a_delayed_put_meets_the_fence() {
    let lake = lake();
    commit(&lake, "more", 10..13).ok();
    // The put of a compaction refers to the rewritten files; the guard was asked before.
    let run = given_up(&lake, "commit.before_put=1*return(stop)");
    run.resume();
    assert_eq!(ids(&lake).await, both(&[0, 1, 2, 10, 11, 12]));
    lake.daemon_pass("0s").ok();
    assert_eq!(ids(&lake).await, both(&[0, 1, 2, 10, 11, 12]));
    ends_well(Guard::Fence, &lake).await;
}

#[tokio::test]
async fn a_burned_path_is_not_used_again() {
    let lake = lake();
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    let create = ["create", &lake.uri, "c", "--schema", &schema];
    let mut dead = lake.with_seam(
        "commit.before_put=1*return(stop);commit.after_put=1*return(kill)",
        &create,
    );
    dead.wait_stopped();
    recover(&lake).ok();
    dead.resume();
    // Two resolvers meet the dataset of the aborted create; one is slow.
    let mut slow = lake.with_seam(
        "resolve.before_remove=1*return(stop)",
        &["recover", &lake.uri, "--force"],
    );
    slow.wait_stopped();
    recover(&lake).ok();
    lake.run(&create).ok();
    slow.resume();
    assert_eq!(
        lake.ids("c").await,
        Vec::<i64>::new(),
        "the new table is there"
    );
    ends_well(Guard::BurnedPath, &lake).await;
}

/// A watched directory beside `lake` with a table of `count` versions, of rows that `first` begins.
async fn made(lake: &Lake, first: i64, count: i64) -> Plain {
    let mut plain = Plain::new(&lake.path("plain"));
    for n in 0..count {
        let first = first + 10 * n;
        plain.append(first..first + 3).await;
    }
    plain
}

/// LanceDB drops the table of `plain` and makes it again.
async fn made_again(lake: &Lake, plain: &Plain, count: i64) -> Plain {
    std::fs::remove_dir_all(plain.path(TABLE)).expect("it is dropped");
    made(lake, 1_000, count).await
}

#[tokio::test]
async fn a_table_that_was_made_again_is_not_committed_to() {
    let lake = lake();
    for (seam, versions) in [
        // As many as were read, so that nothing but their objects tells them apart.
        ("maintain.after_rewrite=1*return(stop)", 4),
        ("commit.before_put=1*return(stop)", 4),
        ("commit.before_put=1*return(stop)", 1),
    ] {
        let plain = made(&lake, 0, 4).await;
        let mut run = lake.with_seam(seam, &["optimize", &plain.uri]);
        run.wait_stopped();
        let again = made_again(&lake, &plain, versions).await;
        run.resume().failed(3, "dropped while it was worked on");
        again.assert_whole().await;
        std::fs::remove_dir_all(again.path(TABLE)).expect("the next one");
    }
    ends_well(Guard::Standing, &lake).await;
}

/// Rows are committed to a store's table that others drop, or drop and make again, while they are staged.
#[tokio::test]
async fn rows_are_not_committed_to_a_table_that_was_dropped() {
    for is_made_again in [false, true] {
        let lake = lake();
        let file = lake.csv("one.csv", [(50, "one".to_owned())]);
        let seam = "commit.before_put=1*return(stop)";
        let write = ["write", &lake.uri, "a", &file, "--grace", "0s"];
        let mut run = lake.with_seam(seam, &write);
        run.wait_stopped();
        let table = std::path::Path::new(&lake.uri).join("a.lance");
        std::fs::remove_dir_all(&table).expect("it is dropped");
        let path = table.to_string_lossy().into_owned();
        if is_made_again {
            subject::append_externally(&path, 7..9).await;
        }
        let done = run.resume();
        assert_ne!(done.code, Some(0), "{done:?}");
        match is_made_again {
            false => assert!(!table.join("_versions").exists(), "{done:?}"),
            true => {
                let table = Dataset::open(&path).await.expect("the new one");
                assert_eq!(table.count_rows(None).await.expect("rows"), 2);
            }
        }
    }
}

/// The same of a table with an index, whose build is lost with it: nothing of that is a failure of the index.
#[tokio::test]
async fn a_table_that_was_made_again_is_not_reindexed() {
    let lake = lake();
    let mut plain = made(&lake, 0, 4).await;
    plain.index().await;
    plain.append(100..103).await;
    let seam = "commit.before_put=1*return(stop)";
    let mut run = lake.with_seam(seam, &["reindex", &plain.uri]);
    run.wait_stopped();
    let again = made_again(&lake, &plain, 6).await;
    run.resume().failed(3, "dropped while it was worked on");
    again.assert_whole().await;
    ends_well(Guard::Standing, &lake).await;
}

/// Lance looks at tags before it deletes the first file. Ten versions go here, five in a second.
#[tokio::test]
async fn a_version_that_is_tagged_during_a_cleanup_stays() {
    let (mut lake, config) = cleaning();
    let plain = made(&lake, 0, 12).await;
    let versions = plain.path(TABLE).join("_versions");
    let cleanup = ["cleanup", &plain.uri, "--config", &config, "--rate", "5"];
    let run = lake.start(&cleanup);
    let manifest = |version: u64| versions.join(format!("{:020}.manifest", u64::MAX - version));
    let stands = |version: &u64| manifest(*version).is_file();
    while (1..=11).all(|v| stands(&v)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let standing = (1..=11).find(stands).expect("one that stands");
    let table = plain.open().await;
    table.tags().create("late", standing).await.expect("a tag");
    run.wait().ok();
    let tagged = table.checkout_version("late").await.expect("the version");
    let rows = tagged.count_rows(None).await.expect("its rows");
    assert_eq!(rows as u64, 3 * standing);
    assert_eq!(plain.open().await.versions().await.expect("all").len(), 2);
    lake.env.clear();
    ends_well(Guard::RefsAgain, &lake).await;
}

/// A lake, and the configuration of a cleanup that keeps nothing but the latest version.
fn cleaning() -> (Lake, String) {
    let mut lake = lake();
    let retention = ("SQUIRE_RETENTION".to_owned(), "0".to_owned());
    lake.env.push(retention);
    let config = lake.path("squire.toml");
    let policy = "[policy]\nmin_versions = 1\n[policy.cleanup]\nenabled = true\n";
    std::fs::write(&config, policy).expect("a configuration");
    let config = config.to_string_lossy().into_owned();
    (lake, config)
}

#[tokio::test]
async fn a_table_that_was_made_again_is_not_cleaned_up() {
    let (lake, config) = cleaning();
    let plain = made(&lake, 0, 6).await;
    let cleanup = ["cleanup", &plain.uri, "--config", &config];
    let mut run = lake.with_seam("cleanup.before_table=1*return(stop)", &cleanup);
    run.wait_stopped();
    let again = made_again(&lake, &plain, 8).await;
    run.resume().failed(1, "dropped meanwhile");
    again.assert_whole().await;
    assert_eq!(again.open().await.versions().await.expect("all").len(), 8);
    ends_well(Guard::SameTable, &lake).await;
}
