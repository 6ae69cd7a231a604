//! Files that maintenance rewrote for nothing: reclaimed by the run itself after a lost race, by one daemon pass after a
//! crash. That a run which wakes later does no harm is shown with the guards (`surface::guards`: licence, fence).

use super::{Batch, assert_rows};
use squire_tests::Lake;
use std::collections::BTreeSet;

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

fn stranded(lake: &Lake) -> u64 {
    lake.status()["stranded_bytes"].as_u64().expect("bytes")
}

#[tokio::test]
async fn a_crashed_run_is_reclaimed_by_one_daemon_pass() {
    let (lake, batches) = scene();
    let before = data_files(&lake);
    let done = lake
        .with_seam(
            "maintain.after_journal=return(kill)",
            &["optimize", &lake.uri],
        )
        .wait();
    assert_eq!(done.code, None, "the seam was not reached");
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

#[tokio::test]
async fn a_lost_race_is_reclaimed_by_the_run_itself() {
    let (lake, _) = scene();
    let mut run = lake.with_seam(
        "maintain.after_journal=1*return(stop)",
        &["optimize", &lake.uri, "--json"],
    );
    run.wait_stopped();
    lake.run(&[
        "delete", &lake.uri, "a", "--where", "id = 0", "--grace", "0s",
    ])
    .ok();
    let report = run.resume().ok().json().to_string();
    assert!(report.contains(r#""reclaimed_bytes":"#), "{report}");
    assert!(!report.contains(r#""reclaimed_bytes":0"#), "{report}");
    assert_eq!(stranded(&lake), 0);
    assert_eq!(lake.ids("a").await, [1, 2, 10, 11, 12, 20, 21, 22]);
    lake.assert_at_rest();
}

/// What was committed stays, although its journal says that the run wrote it.
#[tokio::test]
async fn a_committed_batch_is_never_reclaimed() {
    let (lake, batches) = scene();
    let done = lake
        .with_seam(
            "maintain.after_compact=return(kill)",
            &["optimize", &lake.uri],
        )
        .wait();
    assert_eq!(done.code, None, "the seam was not reached");
    assert_eq!(lake.sidecars().len(), 1);
    lake.daemon_pass("0s").ok();
    assert_eq!(stranded(&lake), 0);
    assert_eq!(lake.table_status("a", "fragments"), 1);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.assert_at_rest();
}

/// A put that storage delivers after the run was taken for dead, its files deleted: the fence stands where it wanted to.
#[tokio::test]
async fn a_put_that_arrives_after_the_reclaim_lands_nowhere() {
    let (mut lake, batches) = scene();
    let head = lake.table_status("a", "head").as_u64().expect("a version");
    // First the reserved fragments, then the version that refers to the rewritten files. Names count backwards.
    let rewrite = format!("a.lance/_versions/{:020}", u64::MAX - (head + 2));
    let (release, log) = (lake.path("release"), lake.path("faults.log"));
    let faults = format!("hold={rewrite}:{};log={}", release.display(), log.display());
    lake.env.push(("SQUIRE_FAULTS".into(), faults));
    let run = lake.start(&["optimize", &lake.uri, "--json"]);
    lake.env.clear();
    let patience = std::time::Instant::now() + squire_tests::PATIENCE;
    while !std::fs::read_to_string(&log).is_ok_and(|said| said.contains("hold")) {
        assert!(std::time::Instant::now() < patience, "the put was not held");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }

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
