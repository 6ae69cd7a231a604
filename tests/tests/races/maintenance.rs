//! Maintenance beside writers: `optimize` and `reindex` stop and lose at every step while others write. What comes of
//! their deaths and failures stands in the crash matrix.
//!
//! The writer never fails because of maintenance, maintenance converges, and what is not decided is never published.

use super::{Batch, Rows, assert_rows, assert_whole_at_every_version};
use squire_engine::commit::CommitRequest;
use squire_tests::{Child, Done, Lake, append_rows, armed};
use std::collections::BTreeMap;

/// What a writer does while maintenance is stopped. All of it touches the fragments that are being rewritten, except
/// the insert.
#[derive(Debug, Clone, Copy)]
enum Writer {
    Insert,
    Delete,
    Update,
}

/// Retries of a writer: enough for a race, not enough to wait for maintenance.
const FEW: &str = "5";

impl Writer {
    /// Writes in one process, which must succeed at first go.
    fn write(self, lake: &Lake, rows: &mut BTreeMap<i64, String>) -> Done {
        let done = match self {
            Self::Insert => {
                let new: Rows = (50..53).map(|id| (id, format!("new-{id}"))).collect();
                rows.extend(new.clone());
                let file = lake.csv("insert.csv", new);
                lake.run(&["write", &lake.uri, "t", &file, "--retries", FEW, "--json"])
            }
            Self::Delete => {
                rows.retain(|id, _| *id != 1 && *id != 11);
                let predicate = "id = 1 OR id = 11";
                lake.run(&[
                    "delete",
                    &lake.uri,
                    "t",
                    "--where",
                    predicate,
                    "--retries",
                    FEW,
                    "--json",
                ])
            }
            Self::Update => {
                let new: Rows = [2, 12]
                    .into_iter()
                    .map(|id| (id, format!("updated-{id}")))
                    .collect();
                rows.extend(new.clone());
                let file = lake.csv("update.csv", new);
                lake.run(&[
                    "write",
                    &lake.uri,
                    "t",
                    &file,
                    "--mode",
                    "merge",
                    "--retries",
                    FEW,
                    "--json",
                ])
            }
        };
        let done = done.ok();
        assert_eq!(done.json()["outcome"], "committed");
        done
    }
}

/// A table of four fragments of five rows.
struct Scene {
    lake: Lake,
    rows: BTreeMap<i64, String>,
}

impl Scene {
    fn new() -> Self {
        let lake = Lake::with_tables(&["t"]);
        let mut rows = BTreeMap::new();
        for fragment in 0..4 {
            let first = fragment * 10;
            let new: Rows = (first..first + 5)
                .map(|id| (id, format!("old-{id}")))
                .collect();
            rows.extend(new.clone());
            let file = lake.csv("old.csv", new);
            lake.run(&["write", &lake.uri, "t", &file]).ok();
        }
        Self { lake, rows }
    }

    fn with_index() -> Self {
        let scene = Self::new();
        let uri = &scene.lake.uri;
        scene
            .lake
            .run(&["index", uri, "t", "id", "--type", "btree"])
            .ok();
        scene
    }

    fn start(&self, maintenance: &str, failpoints: &str) -> Child {
        self.lake
            .with_seam(failpoints, &[maintenance, &self.lake.uri, "--json"])
    }

    fn stop(&self, maintenance: &str, failpoints: &str) -> Child {
        let mut child = self.start(maintenance, failpoints);
        child.wait_stopped();
        child
    }

    async fn assert_rows(&self) {
        let expected: Rows = self.rows.clone().into_iter().collect();
        assert_eq!(self.lake.rows("t").await, expected);
    }

    /// The end of every story: a daemon pass leaves nothing to do, the rows are the expected ones, no pin went down.
    async fn ends(&self) {
        self.assert_rows().await;
        self.lake.daemon_pass("0s").ok();
        self.assert_rows().await;
        assert_whole_at_every_version(&self.lake, &[]).await;
        self.lake.assert_at_rest();
    }
}

/// It succeeded, or lost; then the next run succeeds.
fn converges(lake: &Lake, maintenance: &str, done: &Done) {
    match done.code {
        Some(0) => {}
        Some(75) => {
            lake.run(&[maintenance, &lake.uri]).ok();
        }
        _ => panic!("neither done nor lost: {done:?}"),
    }
}

/// While maintenance is stopped there, `writers` write, one after the other.
async fn stopped(maintenance: &str, failpoints: &str, writers: &[Writer]) {
    let mut scene = match maintenance {
        "reindex" => Scene::with_index(),
        _ => Scene::new(),
    };
    let child = scene.stop(maintenance, failpoints);
    for writer in writers {
        writer.write(&scene.lake, &mut scene.rows);
        scene.assert_rows().await;
    }
    converges(&scene.lake, maintenance, &child.resume());
    scene.assert_rows().await;
    scene.lake.run(&["optimize", &scene.lake.uri]).ok();
    if maintenance == "optimize" {
        // Five at most before; a large head waits for its tail, so it need not be one.
        let fragments = scene.lake.table_status("t", "fragments");
        assert!(
            fragments.as_u64().expect("fragments") <= 2,
            "not compacted: {fragments} fragments"
        );
    }
    scene.ends().await;
}

/// Makes one test for each writer and each time that `optimize` passes a seam.
macro_rules! steps {
    ($($test:ident: $seam:literal #$nth:literal;)*) => {
        mod insert_while_optimize_is_stopped_at {
            $(#[tokio::test]
            async fn $test() {
                super::stopped("optimize", &super::armed($seam, $nth, "stop"), &[super::Writer::Insert]).await;
            })*
        }

        mod delete_in_its_fragments_while_optimize_is_stopped_at {
            $(#[tokio::test]
            async fn $test() {
                super::stopped("optimize", &super::armed($seam, $nth, "stop"), &[super::Writer::Delete]).await;
            })*
        }

        mod update_in_its_fragments_while_optimize_is_stopped_at {
            $(#[tokio::test]
            async fn $test() {
                super::stopped("optimize", &super::armed($seam, $nth, "stop"), &[super::Writer::Update]).await;
            })*
        }

        /// A two-table commit that is between its tables when maintenance goes on and publishes.
        mod undecided_commit_while_optimize_is_stopped_at {
            $(#[tokio::test]
            async fn $test() {
                super::undecided_meets(&super::armed($seam, $nth, "stop")).await;
            })*
        }
    };
}

// A compaction puts its Rewrite; the second put is the manifest's.
steps! {
    before_compact: "maintain.before_compact" #1;
    after_plan: "maintain.after_plan" #1;
    before_put_of_rewrite: "commit.before_put" #1;
    after_put_of_rewrite: "commit.after_put" #1;
    after_compact: "maintain.after_compact" #1;
    publish_after_load: "publish.after_load" #1;
    before_publish: "maintain.before_publish" #1;
    publish_before_commit: "publish.before_commit" #1;
    before_put_of_manifest: "commit.before_put" #2;
    after_put_of_manifest: "commit.after_put" #2;
    publish_after_commit: "publish.after_commit" #1;
    sidecar_before_delete: "sidecar.before_delete" #1;
}

#[tokio::test]
async fn insert_delete_and_update_all_succeed_while_optimize_is_stopped_before_its_compaction() {
    let all = [Writer::Insert, Writer::Delete, Writer::Update];
    stopped("optimize", "maintain.after_plan=1*return(stop)", &all).await;
}

#[tokio::test]
async fn insert_delete_and_update_all_succeed_while_optimize_is_stopped_after_its_compaction() {
    let all = [Writer::Delete, Writer::Insert, Writer::Update];
    stopped("optimize", "maintain.after_compact=1*return(stop)", &all).await;
}

#[tokio::test]
async fn insert_delete_and_update_all_succeed_while_reindex_is_stopped_before_its_publish() {
    let all = [Writer::Update, Writer::Insert, Writer::Delete];
    stopped("reindex", "maintain.before_publish=1*return(stop)", &all).await;
}

#[tokio::test]
async fn insert_delete_and_update_all_succeed_while_reindex_is_stopped_after_its_commit() {
    let all = [Writer::Insert, Writer::Update, Writer::Delete];
    stopped("reindex", "maintain.after_reindex=1*return(stop)", &all).await;
}

/// `optimize` is stopped after its rewrite, a writer touches its fragments, and then it carries; `action` is what happens then.
async fn carried(index: bool, action: &str) -> (Scene, Done) {
    let mut scene = if index {
        Scene::with_index()
    } else {
        Scene::new()
    };
    let both = format!(
        "{};{}",
        armed("maintain.after_rewrite", 1, "stop"),
        format_args!("maintain.after_carry={action}")
    );
    let child = scene.stop("optimize", &both);
    for writer in [Writer::Delete, Writer::Insert, Writer::Update] {
        writer.write(&scene.lake, &mut scene.rows);
    }
    let done = child.resume();
    scene.assert_rows().await;
    (scene, done)
}

#[tokio::test]
async fn a_rewrite_is_not_lost_to_a_delete_and_an_update() {
    for index in [false, true] {
        let (scene, done) = carried(index, "off").await;
        let report = done.ok().json()["tables"][0]["report"].clone();
        assert_eq!(report["carried"], 1, "{report}");
        assert_eq!(report["conflicts"], 0, "{report}");
        assert_eq!(report["fragments_removed"], 4, "{report}");
        scene.ends().await;
    }
}

#[tokio::test]
async fn a_run_that_ends_while_it_carries_leaves_nothing() {
    for (action, code) in [("return(kill)", None), ("return", Some(1))] {
        let (scene, done) = carried(true, action).await;
        assert_eq!(done.code, code, "{done:?}");
        scene.ends().await;
        let deletions = squire_tests::tree(&scene.lake.path("lake/t.lance/_deletions"));
        // Two fragments were deleted from, twice; what the dead run wrote is gone.
        assert_eq!(deletions.len(), 4, "{deletions:?}");
    }
}

/// Everything here is seconds old and the retention is days.
#[tokio::test]
async fn a_daemon_pass_removes_no_version_of_a_young_table() {
    let scene = Scene::new();
    scene.lake.run(&["optimize", &scene.lake.uri]).ok();
    let before = scene.lake.table_status("t", "versions");
    scene.lake.daemon_pass("0s").ok();
    assert_eq!(scene.lake.table_status("t", "versions"), before);
    scene.ends().await;
}

/// A conflict injected after the compaction committed.
async fn conflict_after_compaction(failpoints: &str) {
    let scene = Scene::new();
    let done = scene.start("optimize", failpoints).wait().ok();
    let report = &done.json()["tables"][0]["report"];
    assert_eq!(report["conflicts"], 1, "{report}");
    assert!(report["skipped"].is_null(), "{report}");
    let status = scene.lake.status()["tables"][0].clone();
    assert!(status["drift"].is_null(), "{status}");
    assert_eq!(status["head"], status["pin"], "{status}");
    assert_eq!(report["pin"], status["pin"], "{report}");
    assert_eq!(status["fragments"], 1, "{status}");
    scene
        .lake
        .run(&["repair", &scene.lake.uri])
        .failed(0, "no drift");
    scene.ends().await;
}

#[tokio::test]
async fn a_conflict_after_the_compaction_committed_the_retry_recognises_its_own_head() {
    conflict_after_compaction("maintain.inject_conflict=1*return(conflict)").await;
}

#[tokio::test]
async fn conflicts_without_end_after_the_compaction_committed_still_publish_it() {
    conflict_after_compaction("maintain.inject_conflict=return(conflict)").await;
}

/// The pin moves past our version while our publish is stopped: the work is done, that is no error.
#[tokio::test]
async fn a_publish_that_others_overtook_is_a_success() {
    for seam in [
        "maintain.after_compact",
        "maintain.before_publish",
        "publish.before_commit",
    ] {
        let mut scene = Scene::new();
        let child = scene.stop("optimize", &armed(seam, 1, "stop"));
        scene
            .lake
            .run(&["recover", &scene.lake.uri, "--force"])
            .ok();
        Writer::Insert.write(&scene.lake, &mut scene.rows);
        Writer::Delete.write(&scene.lake, &mut scene.rows);
        child.resume().ok();
        scene.ends().await;
    }
}

const BOTH: &[&str] = &["a", "b"];

/// Tables a and b with three fragments each, and a commit to both.
struct Pair {
    lake: Lake,
    before: Vec<Batch>,
    batch: Batch,
}

impl Pair {
    fn new() -> Self {
        let lake = Lake::with_tables(BOTH);
        let before: Vec<Batch> = (0..3)
            .map(|i| Batch::new(format!("before{i}"), BOTH, i * 10..i * 10 + 3))
            .collect();
        for batch in &before {
            batch.commit(&lake).ok();
        }
        let batch = Batch::new("undecided", BOTH, 100..103);
        Self {
            lake,
            before,
            batch,
        }
    }

    /// A commit that stopped between its two tables.
    fn stop_between_tables(&self) -> Child {
        let directory = self.batch.directory(&self.lake);
        let mut commit = self.lake.with_seam(
            "write.after_commit_table=1*return(stop)",
            &["commit", &self.lake.uri, &directory, "--json"],
        );
        commit.wait_stopped();
        commit
    }

    /// Nothing of it is visible, whatever maintenance published.
    async fn assert_neither(&self) {
        assert_rows(&self.lake, &self.before.iter().collect::<Vec<_>>()).await;
    }

    /// It goes on, and both tables show it.
    async fn resume(&self, commit: Child) {
        let done = commit.resume().ok();
        assert_eq!(done.json()["outcome"], "committed", "{}", done.op());
        let mut all: Vec<&Batch> = self.before.iter().collect();
        all.push(&self.batch);
        assert_rows(&self.lake, &all).await;
        self.lake.daemon_pass("0s").ok();
        assert_rows(&self.lake, &all).await;
        assert_whole_at_every_version(&self.lake, &all).await;
        self.lake.assert_at_rest();
    }
}

#[tokio::test]
async fn undecided_commit_between_its_tables_is_not_published_by_maintenance_that_comes_later() {
    let pair = Pair::new();
    let commit = pair.stop_between_tables();
    let pin = pair.lake.table_status("b", "pin").as_u64();

    let done = pair.lake.run(&["optimize", &pair.lake.uri, "--json"]);
    let tables = done.failed(3, "undecided").json()["tables"].clone();
    let skipped = |table: &str| {
        let tables = tables.as_array().expect("tables");
        let found = tables.iter().find(|t| t["table"] == table);
        found.expect("the table")["report"]["skipped"].clone()
    };
    assert_eq!(skipped("a"), "undecided");
    assert!(skipped("b").is_null());
    // The other table was compacted and published meanwhile.
    assert!(pair.lake.table_status("b", "pin").as_u64() > pin);
    pair.assert_neither().await;

    pair.lake.daemon_pass("30s").ok();
    pair.assert_neither().await;
    pair.resume(commit).await;
}

/// Maintenance that began before the commit lands its rewrite above or below the undecided version.
async fn undecided_meets(failpoints: &str) {
    let pair = Pair::new();
    let mut optimize = pair.lake.with_seam(
        failpoints,
        &["optimize", &pair.lake.uri, "--table", "a", "--json"],
    );
    optimize.wait_stopped();
    let commit = pair.stop_between_tables();
    let done = optimize.resume();
    assert!(
        matches!(done.code, Some(0 | 75)),
        "neither done nor lost: {done:?}"
    );
    pair.assert_neither().await;
    pair.lake.daemon_pass("30s").ok();
    pair.assert_neither().await;
    pair.resume(commit).await;
}

/// The same commit dies there instead: it is taken back, and the rewrite above it stays correct.
#[tokio::test]
async fn crash_of_a_commit_between_its_tables_below_a_rewrite_is_taken_back() {
    for failpoints in [
        "maintain.after_plan=1*return(stop)",
        "maintain.after_compact=1*return(stop)",
    ] {
        let pair = Pair::new();
        let mut optimize = pair.lake.with_seam(
            failpoints,
            &["optimize", &pair.lake.uri, "--table", "a", "--json"],
        );
        optimize.wait_stopped();
        let commit = pair.stop_between_tables();
        commit.kill();
        let done = optimize.resume();
        assert!(matches!(done.code, Some(0 | 75)), "{done:?}");
        pair.assert_neither().await;
        pair.lake.daemon_pass("0s").ok();
        pair.assert_neither().await;
        assert_whole_at_every_version(&pair.lake, &[&pair.batch]).await;
        pair.lake.assert_at_rest();
    }
}

/// Appends `fragments` fragments of 8 MiB that do not compress.
async fn heavy_fragments(lake: &Lake, fragments: i64) {
    const ROWS: i64 = 128;
    let store = lake.store().await;
    let mut bits = 1u64;
    for f in 0..fragments {
        let values: Vec<(i64, String)> = (f * ROWS..(f + 1) * ROWS)
            .map(|id| {
                let word = |_| {
                    // Knuth's MMIX generator: the same text in every run.
                    bits = bits.wrapping_mul(6_364_136_223_846_793_005);
                    bits = bits.wrapping_add(1_442_695_040_888_963_407);
                    format!("{:016x}", bits)
                };
                (id, (0..4_096).map(word).collect())
            })
            .collect();
        let request = CommitRequest::new(vec![append_rows("t", values)]);
        store.commit(&request).await.expect("commit");
    }
}

/// The peak memory of a daemon pass over a table of so many heavy fragments, when all are rewritten.
async fn peak_of_a_pass(fragments: i64) -> u64 {
    let lake = Lake::with_tables(&["t"]);
    heavy_fragments(&lake, fragments).await;
    let config = lake.path("squire.toml");
    let text = "[policy]\nmin_candidate_fragments = 4\nmax_task_input = \"40MiB\"\n";
    std::fs::write(&config, text).expect("the configuration");
    let config = config.to_string_lossy().into_owned();
    let args = ["daemon", &lake.uri, "--once", "--config", &config];
    let mut pass = lake.with_seam("maintain.before_publish=1*return(stop)", &args);
    pass.wait_stopped();
    let peak = pass.peak_memory();
    pass.resume().ok();
    let left = lake
        .table_status("t", "fragments")
        .as_i64()
        .expect("fragments");
    assert!(
        left <= fragments / 4 + 1,
        "{left} of {fragments} fragments are left"
    );
    peak
}

/// What a compaction needs is bounded by its task, not by its table: six times the table takes at most what one task
/// reads and writes more. Without the bound on tasks it was more.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_by_the_task() {
    let small = peak_of_a_pass(5).await;
    let large = peak_of_a_pass(30).await;
    let mib = |bytes: u64| bytes >> 20;
    println!("40 MiB: {} MiB, 240 MiB: {} MiB", mib(small), mib(large));
    let budget = (40 + 40) << 20;
    assert!(
        large < small + budget,
        "{} and {} MiB",
        mib(small),
        mib(large)
    );
    assert!(large < 640 << 20, "{} MiB", mib(large));
}
