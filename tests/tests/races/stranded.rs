//! Files that maintenance rewrote for nothing: reclaimed by the run itself after a lost race, by one daemon pass after a
//! crash. That a run which wakes later does no harm is shown with the guards (`crash_matrix::guards`: licence, fence).

use super::{Batch, assert_rows};
use squire_engine::clock::{Clock, SystemClock};
use squire_engine::recovery::Watch;
use squire_engine::store::{Store, StoreOptions};
use squire_tests::{Child, Lake};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ONE: &[&str] = &["a"];

fn scene() -> (Lake, Vec<Batch>) {
    let lake = Lake::with_tables(ONE);
    let batches: Vec<Batch> = (0..3)
        .map(|n| Batch::new(format!("b{n}"), ONE, n * 10..n * 10 + 3))
        .collect();
    for batch in &batches {
        batch.commit(&lake).ok();
    }
    (lake, batches)
}

fn data_files(lake: &Lake) -> BTreeSet<String> {
    let listed = std::fs::read_dir(lake.path("lake/a.lance/data")).expect("data");
    listed
        .map(|f| f.expect("file").file_name().to_string_lossy().into_owned())
        .collect()
}

/// The entries of all journals.
fn entries(lake: &Lake) -> Vec<PathBuf> {
    let recovery = lake.path("lake/_squire/recovery");
    let entries = squire_tests::tree(&recovery).into_iter();
    let entries = entries.filter(|p| p.to_string_lossy().contains(".files/"));
    entries.map(|path| recovery.join(path)).collect()
}

/// The names in all journals.
fn journalled(lake: &Lake) -> Vec<String> {
    entries(lake)
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).expect("an entry");
            let entry: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            entry["name"].as_str().expect("a name").to_owned()
        })
        .collect()
}

fn stranded(lake: &Lake) -> u64 {
    lake.status()["stranded_bytes"].as_u64().expect("bytes")
}

#[tokio::test]
async fn a_crashed_run_is_reclaimed_by_one_daemon_pass() {
    let (lake, batches) = scene();
    let before = data_files(&lake);
    lake.with_seam(
        "maintain.after_rewrite=return(kill)",
        &["optimize", &lake.uri],
    )
    .killed();
    assert!(stranded(&lake) > 0);
    let left: Vec<String> = data_files(&lake).difference(&before).cloned().collect();
    assert_eq!(left.len(), 1, "the rewritten file");

    // Three fragments are no reason to compact, so the pass only recovers.
    lake.daemon_pass("0s").ok();
    assert_eq!(stranded(&lake), 0);
    assert_eq!(data_files(&lake), before);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}

/// A power cut tore the name, so what it was to name was not begun: it stands for nothing and stops nobody.
#[tokio::test]
async fn a_torn_name_of_a_journal_is_none() {
    for length in [0, 20] {
        let (lake, batches) = scene();
        let before = data_files(&lake);
        let seam = "maintain.after_journal=return(kill)";
        lake.with_seam(seam, &["optimize", &lake.uri]).killed();
        let entries = entries(&lake);
        assert!(!entries.is_empty());
        for entry in entries {
            let file = std::fs::OpenOptions::new().write(true).open(entry);
            file.expect("an entry").set_len(length).expect("torn");
        }
        lake.daemon_pass("0s").ok();
        assert_eq!((stranded(&lake), data_files(&lake)), (0, before));
        assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
        lake.assert_at_rest();
        lake.run(&["optimize", &lake.uri]).ok();
        lake.assert_at_rest();
    }
}

/// Its name is durable before its first byte: whatever the run wrote of it goes, a part that an upload leaves on a local
/// disk too.
#[tokio::test]
async fn a_run_killed_while_it_writes_leaves_nothing() {
    let (lake, batches) = scene();
    let before = data_files(&lake);
    let args = ["optimize", &lake.uri];
    let seam = "maintain.after_journal=return(kill)";
    lake.with_seam(seam, &args).killed();
    let name = &journalled(&lake)[0];
    for part in [".lance", ".lance#1", "/1.blob"] {
        let path = lake.path(&format!("lake/a.lance/{name}{part}"));
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(&path, "as far as it got").expect("a part");
    }
    assert_eq!(
        stranded(&lake),
        32,
        "the finished object and what is beside it"
    );
    lake.daemon_pass("0s").ok();
    assert_eq!(data_files(&lake), before);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}

#[tokio::test]
async fn an_index_that_lost_its_commit_is_reclaimed() {
    let (lake, batches) = scene();
    lake.run(&["index", &lake.uri, "a", "id", "--type", "btree"])
        .ok();
    let indices = || squire_tests::tree(&lake.path("lake/a.lance/_indices"));
    let args = ["reindex", &lake.uri];
    lake.with_seam("commit.before_put=1*return(kill)", &args)
        .killed();
    assert!(!indices().is_empty());
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    assert!(indices().is_empty(), "{:?}", indices());
    lake.run(&args).ok();
    assert!(!indices().is_empty(), "the index that was built then stays");
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.daemon_pass("0s").ok();
    assert!(!indices().is_empty());
    lake.assert_at_rest();
}

#[tokio::test]
async fn a_committed_index_is_never_reclaimed() {
    let (lake, batches) = scene();
    lake.run(&["index", &lake.uri, "a", "id", "--type", "btree"])
        .ok();
    let seam = "maintain.after_reindex=1*return(kill)";
    lake.with_seam(seam, &["reindex", &lake.uri]).killed();
    let indices = || squire_tests::tree(&lake.path("lake/a.lance/_indices"));
    let built = indices();
    assert!(!built.is_empty());
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    assert_eq!(indices(), built);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}

/// One proof and one fence for all dead runs of a table.
#[tokio::test]
async fn many_dead_runs_meet_one_fence() {
    let (lake, batches) = scene();
    let before = data_files(&lake);
    for _ in 0..3 {
        let seam = "maintain.after_rewrite=return(kill)";
        lake.with_seam(seam, &["optimize", &lake.uri]).killed();
    }
    let head = lake.table_status("a", "head").as_u64().expect("a version");
    let recovered = lake.run(&["recover", &lake.uri, "--force", "--json"]).ok();
    let reclaimed = recovered.json()["reclaimed"].clone();
    assert_eq!(reclaimed.as_array().expect("runs").len(), 3, "{reclaimed}");
    assert_eq!(lake.table_status("a", "head"), head + 1);
    assert_eq!(data_files(&lake), before);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}

#[tokio::test]
async fn a_lost_race_is_reclaimed_by_the_run_itself() {
    let (lake, _) = scene();
    let mut run = lake.with_seam(
        "maintain.after_rewrite=1*return(stop)",
        &["optimize", &lake.uri, "--json"],
    );
    run.wait_stopped();
    lake.run(&[
        "delete", &lake.uri, "a", "--where", "id < 10", "--grace", "0s",
    ])
    .ok();
    // One of its fragments is gone: that cannot be carried.
    let report = run.resume().ok().json().to_string();
    assert!(report.contains(r#""reclaimed_bytes":"#), "{report}");
    assert!(!report.contains(r#""reclaimed_bytes":0"#), "{report}");
    assert_eq!(stranded(&lake), 0);
    assert_eq!(lake.ids("a").await, [10, 11, 12, 20, 21, 22]);
    lake.assert_at_rest();
}

/// What was committed stays, although its journal says that the run wrote it.
#[tokio::test]
async fn a_committed_batch_is_never_reclaimed() {
    let (lake, batches) = scene();
    lake.with_seam(
        "maintain.after_compact=return(kill)",
        &["optimize", &lake.uri],
    )
    .killed();
    assert_eq!(lake.sidecars().len(), 1);
    lake.daemon_pass("0s").ok();
    assert_eq!(stranded(&lake), 0);
    assert_eq!(lake.table_status("a", "fragments"), 1);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}

/// Waits for a state, with a limit.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + squire_tests::PATIENCE;
    while !holds() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a compaction whose put of what `part` names is held until the file that it returns is there.
fn held_optimize(lake: &mut Lake, part: &str) -> (Child, PathBuf) {
    let (release, log) = (lake.path("release"), lake.path("faults.log"));
    let faults = format!("hold={part}:{};log={}", release.display(), log.display());
    lake.env.push(("SQUIRE_FAULTS".into(), faults));
    let run = lake.start(&["optimize", &lake.uri, "--json"]);
    lake.env.clear();
    wait_until("the put was not held", || {
        std::fs::read_to_string(&log).is_ok_and(|said| said.contains("hold"))
    });
    (run, release)
}

/// A clock that only the test moves.
#[derive(Debug, Default)]
struct Moved(SystemClock, AtomicU64);

impl Clock for Moved {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.1.load(Ordering::Relaxed))
    }

    fn sleep(&self, duration: Duration) -> futures::future::BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

/// One file may take longer than anyone waits: the run's beats say that it is alive.
#[tokio::test]
async fn a_slow_run_is_not_taken_for_dead() {
    let (mut lake, batches) = scene();
    let (run, release) = held_optimize(&mut lake, "a.lance/data/");
    let clock = Arc::new(Moved::default());
    let options = StoreOptions {
        clock: clock.clone(),
        ..StoreOptions::default()
    };
    let store = Store::open(&lake.uri, options).await.expect("the store");
    let mut watch = Watch::default();
    let recovery = lake.path("lake/_squire/recovery");
    for _ in 0..2 {
        let last_beat = || {
            let tree = squire_tests::tree(&recovery).into_iter();
            let beat = tree
                .into_iter()
                .find(|p| p.extension().is_some_and(|e| e == "beat"))?;
            std::fs::metadata(recovery.join(beat)).ok()?.modified().ok()
        };
        let seen = last_beat();
        wait_until("the run puts no beat", || last_beat() > seen);
        store.recover(&mut watch, false).await.expect("recovery");
        assert_eq!(lake.sidecars().len(), 1, "the run was taken for dead");
        clock.1.fetch_add(3_600, Ordering::Relaxed);
    }
    std::fs::write(&release, "").expect("the put goes on");
    run.wait().ok();
    assert_eq!(lake.table_status("a", "fragments"), 1);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}

/// A put that storage delivers after the run was taken for dead, its files deleted: the fence stands where it wanted to.
#[tokio::test]
async fn a_put_that_arrives_after_the_reclaim_lands_nowhere() {
    let (mut lake, batches) = scene();
    let head = lake.table_status("a", "head").as_u64().expect("a version");
    // Names count backwards.
    let rewrite = format!("a.lance/_versions/{:020}", u64::MAX - (head + 1));
    let (run, release) = held_optimize(&mut lake, &rewrite);

    let recovered = lake.run(&["recover", &lake.uri, "--force", "--json"]).ok();
    let reclaimed = recovered.json()["reclaimed"].clone();
    assert_eq!(reclaimed.as_array().expect("runs").len(), 1, "{reclaimed}");
    std::fs::write(&release, "").expect("the put goes on");
    run.wait().failed(75, "took this run for dead");
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.daemon_pass("0s").ok();
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}
