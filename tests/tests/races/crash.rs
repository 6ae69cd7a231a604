//! A two-table commit that dies, stops or fails at every seam that it passes, and the recovery of one that died.
//!
//! One table ([`POINTS`]) says what must come of each seam. "Absent" and "whole" are the only two outcomes; which one is
//! a fact of the protocol: a commit is complete as soon as its last table has landed.

use super::{
    Batch, armed, assert_rows, assert_whole_at_every_readable_version,
    assert_whole_at_every_version, clean_up, op_of, outcome_of, sidecars,
};
use squire_failpoints::{Phase, Seam};
use squire_tests::{Done, Lake};
use std::collections::BTreeSet;

/// What becomes of a commit whose process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// It left nothing: no sidecar, no version.
    NoTrace,
    /// It left a sidecar; others abort it.
    Aborted,
    /// All its tables have landed; others complete it.
    Committed,
}

/// What a commit says whose step fails once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// It fails, and nothing of it is ever visible.
    Absent,
    /// It finds its way and is committed.
    Committed,
}

/// One time that a two-table commit passes a seam.
#[derive(Debug, Clone, Copy)]
struct Point {
    seam: &'static str,
    nth: u32,
    killed: Killed,
    failed: Failed,
}

impl Point {
    fn armed(&self, action: &str) -> String {
        armed(self.seam, self.nth, action)
    }
}

/// Makes the table and, for each of its rows, one test for each way to go wrong there.
macro_rules! points {
    ($($test:ident: $seam:literal #$nth:literal killed $killed:ident, failed $failed:ident;)*) => {
        const POINTS: &[Point] = &[$(Point {
            seam: $seam,
            nth: $nth,
            killed: Killed::$killed,
            failed: Failed::$failed,
        }),*];

        #[derive(Clone, Copy)]
        #[expect(non_camel_case_types, reason = "the names of the tests")]
        enum Row { $($test),* }

        /// kill -9 there; then another process and the daemon go on.
        mod killed_at {
            $(#[tokio::test]
            async fn $test() {
                super::killed_at(super::POINTS[super::Row::$test as usize]).await;
            })*
        }

        /// SIGSTOP there; others resolve, commit and maintain; then SIGCONT.
        mod stopped_while_others_commit_at {
            $(#[tokio::test]
            async fn $test() {
                super::stopped_at(super::POINTS[super::Row::$test as usize], super::Others::Commit).await;
            })*
        }

        /// SIGSTOP there; others only resolve, so that its slots are still free; then SIGCONT.
        mod stopped_while_others_resolve_at {
            $(#[tokio::test]
            async fn $test() {
                super::stopped_at(super::POINTS[super::Row::$test as usize], super::Others::Resolve).await;
            })*
        }

        /// SIGSTOP there; others go on until even its base is cleaned up; then SIGCONT.
        mod stopped_until_its_base_is_cleaned_up_at {
            $(#[tokio::test]
            async fn $test() {
                super::stopped_until_cleaned_up_at(super::POINTS[super::Row::$test as usize]).await;
            })*
        }

        /// An error there, once.
        mod failed_at {
            $(#[tokio::test]
            async fn $test() {
                super::failed_at(super::POINTS[super::Row::$test as usize]).await;
            })*
        }
    };
}

// Tables land in the order a, b; the third put is the manifest's.
points! {
    write_after_stage: "write.after_stage" #1 killed NoTrace, failed Absent;
    write_after_scan: "write.after_scan" #1 killed NoTrace, failed Absent;
    sidecar_before_put: "sidecar.before_put" #1 killed NoTrace, failed Absent;
    sidecar_after_put: "sidecar.after_put" #1 killed Aborted, failed Absent;
    write_before_commit_table_a: "write.before_commit_table" #1 killed Aborted, failed Absent;
    commit_before_put_of_table_a: "commit.before_put" #1 killed Aborted, failed Absent;
    commit_after_put_of_table_a: "commit.after_put" #1 killed Aborted, failed Committed;
    write_after_commit_table_a: "write.after_commit_table" #1 killed Aborted, failed Absent;
    write_before_commit_table_b: "write.before_commit_table" #2 killed Aborted, failed Absent;
    commit_before_put_of_table_b: "commit.before_put" #2 killed Aborted, failed Absent;
    commit_after_put_of_table_b: "commit.after_put" #2 killed Committed, failed Committed;
    write_after_commit_table_b: "write.after_commit_table" #2 killed Committed, failed Committed;
    write_after_phase_b: "write.after_phase_b" #1 killed Committed, failed Committed;
    publish_before_commit: "publish.before_commit" #1 killed Committed, failed Committed;
    commit_before_put_of_the_manifest: "commit.before_put" #3 killed Committed, failed Committed;
    commit_after_put_of_the_manifest: "commit.after_put" #3 killed Committed, failed Committed;
    publish_after_commit: "publish.after_commit" #1 killed Committed, failed Committed;
    sidecar_before_delete: "sidecar.before_delete" #1 killed Committed, failed Committed;
}

/// A seam that is added to a commit turns this red until its row stands in the table.
#[test]
fn every_seam_of_a_commit_has_its_row() {
    let listed: BTreeSet<&str> = POINTS.iter().map(|p| p.seam).collect();
    let commit: BTreeSet<&str> = Seam::ALL
        .iter()
        .filter(|s| matches!(s.phase(), Phase::Write | Phase::Commit | Phase::Publish))
        // The first publish of a commit stands on the snapshot that it was staged on; only later ones load.
        .filter(|s| **s != Seam::PublishAfterLoad)
        .map(|s| s.name())
        .collect();
    assert_eq!(listed, commit);
}

const BOTH: &[&str] = &["a", "b"];

/// Tables a and b with one batch in both.
struct Scene {
    lake: Lake,
    before: Batch,
    victim: Batch,
    other: Batch,
    later: Batch,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            lake: Lake::with_tables(BOTH),
            before: Batch::new("before", BOTH, 0..3),
            victim: Batch::new("victim", BOTH, 100..103),
            other: Batch::new("other", BOTH, 200..203),
            later: Batch::new("later", BOTH, 300..303),
        };
        scene.before.commit(&scene.lake).ok();
        scene
    }

    /// Starts the commit that goes wrong. It waits for others as long as a real one does.
    fn start_victim(&self, failpoints: &str) -> squire_tests::Child {
        let directory = self.victim.directory(&self.lake);
        self.lake.with_seam(
            failpoints,
            &["commit", &self.lake.uri, &directory, "--json"],
        )
    }

    /// Runs the commit until it kills itself.
    fn kill_victim(&self, failpoints: &str) {
        let done = self.start_victim(failpoints).wait();
        assert_eq!(done.code, None, "the seam was not reached: {done:?}");
    }

    fn recover_now(&self) -> Done {
        self.lake
            .run(&["recover", &self.lake.uri, "--force", "--json"])
    }

    /// The end of every story: a daemon pass, then nothing left to do, and the rows of `batches`, whole at every
    /// version.
    async fn ends_with(&self, batches: &[&Batch]) {
        self.lake.daemon_pass("0s").ok();
        assert_rows(&self.lake, batches).await;
        let all = [&self.before, &self.victim, &self.other, &self.later];
        assert_whole_at_every_version(&self.lake, &all).await;
        self.lake.assert_at_rest();
    }
}

async fn killed_at(point: Point) {
    let scene = Scene::new();
    let lake = &scene.lake;
    scene.kill_victim(&point.armed("kill"));

    let left = sidecars(lake);
    let expected = usize::from(point.killed != Killed::NoTrace);
    assert_eq!(left.len(), expected, "sidecars: {left:?}");

    scene.other.commit(lake).ok();
    let mut batches = vec![&scene.before, &scene.other];
    if point.killed == Killed::Committed {
        batches.push(&scene.victim);
    }
    scene.ends_with(&batches).await;
    for op in left {
        let outcome = match point.killed {
            Killed::Committed => "committed",
            Killed::NoTrace | Killed::Aborted => "aborted",
        };
        assert_eq!(outcome_of(lake, &op), outcome);
    }
}

/// What goes on while the commit is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Commit,
    Resolve,
}

async fn stopped_at(point: Point, others: Others) {
    let scene = Scene::new();
    let lake = &scene.lake;
    let mut child = scene.start_victim(&point.armed("stop"));
    child.wait_stopped();

    let mut batches = vec![&scene.before, &scene.victim];
    if others == Others::Commit {
        scene.other.commit(lake).ok();
        batches.push(&scene.other);
    }
    scene.recover_now().ok();
    lake.daemon_pass("0s").ok();
    if others == Others::Commit {
        lake.run(&["optimize", &lake.uri, "--json"]).ok();
        scene.later.commit(lake).ok();
        batches.push(&scene.later);
    }
    let left = sidecars(lake);
    assert!(
        left.is_empty(),
        "what was stopped still stands in the way: {left:?}"
    );

    // Aborted by the others, it tries again as a new operation; completed by them, it says so.
    let done = child.resume().ok();
    assert_eq!(done.json()["outcome"], "committed");
    assert_eq!(outcome_of(lake, &op_of(&done)), "committed");
    let attempts = done.json()["attempts"].as_u64().expect("attempts");
    if point.killed == Killed::Committed {
        assert_eq!(attempts, 1, "it was complete and yet tried again");
    }
    assert_rows(lake, &batches).await;
    scene.ends_with(&batches).await;
}

/// Longer than the retention. The process may give up then; what it says must still be true.
async fn stopped_until_cleaned_up_at(point: Point) {
    let scene = Scene::new();
    let lake = &scene.lake;
    let mut child = scene.start_victim(&point.armed("stop"));
    child.wait_stopped();
    scene.other.commit(lake).ok();
    scene.recover_now().ok();
    lake.run(&["optimize", &lake.uri, "--json"]).ok();
    scene.later.commit(lake).ok();
    clean_up(lake).await;

    let done = child.resume();
    let visible = lake.ids("a").await.contains(&100);
    match done.code {
        Some(0) => {
            assert_eq!(done.json()["outcome"], "committed");
            assert_eq!(outcome_of(lake, &op_of(&done)), "committed");
            assert!(visible, "{done:?}");
        }
        Some(1) => assert!(!visible, "{done:?}"),
        Some(75) => {
            let op = done.json()["error"]["op"]
                .as_str()
                .map(str::to_owned)
                .unwrap_or_else(|| panic!("unknown, and no operation: {done:?}"));
            assert_eq!(outcome_of(lake, &op) == "committed", visible, "{done:?}");
        }
        _ => panic!("neither done nor failed: {done:?}"),
    }
    let mut batches = vec![&scene.before, &scene.other, &scene.later];
    if visible {
        batches.push(&scene.victim);
    }
    lake.daemon_pass("0s").ok();
    assert_rows(lake, &batches).await;
    let all = [&scene.before, &scene.victim, &scene.other, &scene.later];
    assert_whole_at_every_readable_version(lake, &all).await;
    lake.assert_at_rest();
}

async fn failed_at(point: Point) {
    fails(&point.armed("error"), Some(point.failed)).await;
}

/// A commit with these failpoints ends with an answer that agrees with the rows, now and after recovery.
async fn fails(failpoints: &str, expected: Option<Failed>) {
    let scene = Scene::new();
    let lake = &scene.lake;
    let done = scene.start_victim(failpoints).wait();
    let committed = match done.code {
        Some(0) => {
            assert_eq!(done.json()["outcome"], "committed");
            assert_eq!(outcome_of(lake, &op_of(&done)), "committed");
            Some(true)
        }
        Some(1) => Some(false),
        // Unknown: `squire op` says.
        Some(75) => None,
        _ => panic!("neither done nor failed: {done:?}"),
    };
    if let Some(expected) = expected {
        assert_eq!(committed, Some(expected == Failed::Committed), "{done:?}");
    }
    let op = match done.code {
        Some(0) => Some(op_of(&done)),
        _ => done.json()["error"]["op"].as_str().map(str::to_owned),
    };
    let visible = lake.ids("a").await.contains(&100);
    if let Some(op) = &op {
        let said = outcome_of(lake, op);
        assert_eq!(
            said == "committed",
            visible,
            "`squire op` says {said}: {done:?}"
        );
    }
    scene.other.commit(lake).ok();
    lake.daemon_pass("0s").ok();

    let now = lake.ids("a").await.contains(&100);
    if let Some(committed) = committed {
        assert_eq!(now, committed, "told otherwise: {done:?}");
    }
    if let Some(op) = &op {
        let said = outcome_of(lake, op);
        assert_eq!(said == "committed", now, "`squire op` says {said}");
        assert_ne!(said, "undecided", "a daemon pass decides");
    } else {
        assert!(!now, "visible, and nobody was told its name: {done:?}");
    }
    let mut batches = vec![&scene.before, &scene.other];
    if now {
        batches.push(&scene.victim);
    }
    scene.ends_with(&batches).await;
}

/// The same when the step never works again in this process. Not for the puts themselves: a store that takes no more
/// versions is retried for half a minute.
mod failed_for_good_at {
    use super::fails;

    #[tokio::test]
    async fn sidecar_after_put() {
        fails("sidecar.after_put=return(error)", None).await;
    }

    #[tokio::test]
    async fn write_after_commit_table() {
        fails("write.after_commit_table=return(error)", None).await;
    }

    #[tokio::test]
    async fn publish_before_commit() {
        fails("publish.before_commit=return(error)", None).await;
    }

    #[tokio::test]
    async fn publish_after_commit() {
        fails("publish.after_commit=return(error)", None).await;
    }

    #[tokio::test]
    async fn resolve_after_load_when_a_table_failed() {
        fails(
            "write.before_commit_table=1*off->1*return(error);resolve.after_load=return(error)",
            None,
        )
        .await;
    }

    #[tokio::test]
    async fn resolve_before_settle_when_a_table_failed() {
        fails(
            "write.before_commit_table=1*off->1*return(error);resolve.before_settle=return(error)",
            None,
        )
        .await;
    }
}

/// What the operation was that a resolver died over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Table a landed, table b did not.
    Half,
    /// Both landed.
    Complete,
}

impl Left {
    fn of(self, scene: &Scene) -> Vec<&Batch> {
        scene.kill_victim(match self {
            Self::Half => "write.after_commit_table=1*return(kill)",
            Self::Complete => "write.after_phase_b=1*return(kill)",
        });
        match self {
            Self::Half => vec![&scene.before],
            Self::Complete => vec![&scene.before, &scene.victim],
        }
    }
}

/// A resolver that dies or stops at this seam while it settles what `left` says.
macro_rules! resolvers {
    ($($test:ident: $seam:literal #$nth:literal of $left:ident;)*) => {
        const RESOLVER_SEAMS: &[&str] = &[$($seam),*];

        /// kill -9 of the resolver; the next one finishes.
        mod resolver_killed_at {
            $(#[tokio::test]
            async fn $test() {
                super::resolver_killed_at($seam, $nth, super::Left::$left).await;
            })*
        }

        /// SIGSTOP of the resolver; another one finishes and writers go on; then SIGCONT.
        mod resolver_stopped_at {
            $(#[tokio::test]
            async fn $test() {
                super::resolver_stopped_at($seam, $nth, super::Left::$left).await;
            })*
        }
    };
}

// Puts of a resolver that aborts: the decision, the undo, the settled pins.
resolvers! {
    after_load: "resolve.after_load" #1 of Half;
    before_decide: "resolve.before_decide" #1 of Half;
    put_of_the_decision: "commit.before_put" #1 of Half;
    after_put_of_the_decision: "commit.after_put" #1 of Half;
    after_decide: "resolve.after_decide" #1 of Half;
    before_undo: "resolve.before_undo" #1 of Half;
    put_of_the_undo: "commit.before_put" #2 of Half;
    after_put_of_the_undo: "commit.after_put" #2 of Half;
    after_undo: "resolve.after_undo" #1 of Half;
    before_settle: "resolve.before_settle" #1 of Half;
    put_of_the_settled_pins: "commit.before_put" #3 of Half;
    after_put_of_the_settled_pins: "commit.after_put" #3 of Half;
    after_settle: "resolve.after_settle" #1 of Half;
    before_delete_of_an_aborted: "sidecar.before_delete" #1 of Half;
    before_forward: "resolve.before_forward" #1 of Complete;
    put_of_the_forward: "commit.before_put" #1 of Complete;
    after_put_of_the_forward: "commit.after_put" #1 of Complete;
    before_delete_of_a_committed: "sidecar.before_delete" #1 of Complete;
}

#[test]
fn every_seam_of_a_resolver_has_its_row() {
    for seam in Seam::ALL.iter().filter(|s| s.phase() == Phase::Resolve) {
        assert!(
            RESOLVER_SEAMS.contains(&seam.name()),
            "{} has no row",
            seam.name()
        );
    }
}

async fn resolver_killed_at(seam: &str, nth: u32, left: Left) {
    let scene = Scene::new();
    let lake = &scene.lake;
    let mut batches = left.of(&scene);
    let resolver = lake.with_seam(
        &armed(seam, nth, "kill"),
        &["recover", &lake.uri, "--force"],
    );
    let done = resolver.wait();
    assert_eq!(done.code, None, "the seam was not reached: {done:?}");
    scene.recover_now().ok();
    assert_rows(lake, &batches).await;
    assert!(sidecars(lake).is_empty());
    scene.other.commit(lake).ok();
    batches.push(&scene.other);
    scene.ends_with(&batches).await;
}

async fn resolver_stopped_at(seam: &str, nth: u32, left: Left) {
    let scene = Scene::new();
    let lake = &scene.lake;
    let mut batches = left.of(&scene);
    let mut resolver = lake.with_seam(
        &armed(seam, nth, "stop"),
        &["recover", &lake.uri, "--force"],
    );
    resolver.wait_stopped();
    scene.recover_now().ok();
    assert_rows(lake, &batches).await;
    scene.other.commit(lake).ok();
    lake.run(&["optimize", &lake.uri]).ok();
    scene.later.commit(lake).ok();
    batches.extend([&scene.other, &scene.later]);
    resolver.resume().ok();
    assert_rows(lake, &batches).await;
    scene.ends_with(&batches).await;
}
