//! Several daemons on one store: they share the work, and what one was killed over another does.

use crate::metrics::{Served, write_config};
use crate::{eventually, small_commits};
use nix::sys::signal::Signal;
use squire_tests::{Lake, PATIENCE, armed};

/// A daemon that is killed is missed soon.
const CONFIG: &str = "[daemon]\nscan_interval = \"1s\"\ngrace = \"1s\"\nclaim_expiry = \"3s\"\n[policy]\nmin_candidate_fragments = 6\n";

fn scene(tables: &[&str]) -> (Lake, Vec<(i64, String)>, String) {
    let lake = Lake::with_tables(tables);
    let rows = small_commits(&lake, tables, 0, 12);
    let config = write_config(&lake, CONFIG);
    (lake, rows, config)
}

fn start(lake: &Lake, failpoints: Option<&str>, config: &str) -> Served {
    Served::start(lake, failpoints, &["daemon", &lake.uri, "--config", config])
}

/// How the attempts of a daemon on a table ended, and the details.
fn endings(daemon: &Served, table: &str) -> Vec<(String, String)> {
    let history = daemon.status()["history"].clone();
    let reports = history.as_array().expect("reports").iter();
    let of_table = reports.filter(|r| r["table"] == table && r["kind"] == "compact");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    of_table
        .map(|r| (text(&r["ending"]), text(&r["detail"])))
        .collect()
}

/// What is claimed.
fn claims(lake: &Lake) -> Vec<String> {
    let claims = std::path::Path::new(&lake.uri).join("_squire/claims");
    let entries = std::fs::read_dir(claims).into_iter().flatten().flatten();
    // One may go while it is read.
    let read = entries.filter_map(|entry| std::fs::read(entry.path()).ok());
    let records = read.filter_map(|bytes| serde_json::from_slice(&bytes).ok());
    let what = records.map(|record: serde_json::Value| record["what"].as_str().map(str::to_owned));
    what.flatten().collect()
}

/// Nothing of a daemon that is gone holds anything: its cleanup is done as well.
fn wait_unclaimed(lake: &Lake) {
    eventually("no claim", PATIENCE, || {
        let claims = claims(lake);
        claims.is_empty().then_some(()).ok_or(format!("{claims:?}"))
    });
}

fn wait_compacted(daemon: &Served, table: &str) {
    eventually("a compaction", PATIENCE, || {
        let endings = endings(daemon, table);
        let done = endings.iter().any(|(ending, _)| ending == "success");
        done.then_some(()).ok_or(format!("{endings:?}"))
    });
}

/// One daemon is at work on a table, for good: the other leaves that table alone, and does everything else. When the first is
/// killed, its work is done by the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_works_on_the_other_leaves_alone_until_it_is_killed() {
    let (mut lake, rows, config) = scene(&["a", "b"]);
    let log = lake.path("faults.log");
    let (never, told) = (lake.path("never"), log.display().to_string());
    let faults = format!("hold=a.lance/data@1:{};log={told}", never.display());
    lake.env = vec![("SQUIRE_FAULTS".to_owned(), faults)];
    let first = start(&lake, None, &config);
    lake.env.clear();
    eventually("an attempt that stands", PATIENCE, || {
        let held = std::fs::read_to_string(&log).unwrap_or_default();
        held.contains("a.lance").then_some(()).ok_or(held)
    });
    let second = start(&lake, None, &config);
    let name = first.status()["daemon"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert_ne!(second.status()["daemon"].as_str(), Some(&*name));
    // Longer than an expiry: the living renews its claim.
    let skipped = eventually("work that is left alone, again and again", PATIENCE, || {
        let endings = endings(&second, "a");
        (endings.len() >= 3)
            .then_some(endings.clone())
            .ok_or(format!("{endings:?}"))
    });
    let left_alone = ("skipped".to_owned(), format!("{name} works on it"));
    assert!(
        skipped.iter().all(|ending| *ending == left_alone),
        "{skipped:?}"
    );
    assert!(lake.table_status("a", "fragments").as_u64() >= Some(12));

    first.child.kill();
    wait_compacted(&second, "a");
    second.wait_fragments_at_most("b", 5);
    wait_unclaimed(&lake);
    second.stop();
    for table in ["a", "b"] {
        assert_eq!(lake.rows(table).await, rows);
    }
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    lake.assert_at_rest();
}

/// Killed with a claim and no work, or with the work done and the claim: the table is another's when the claim has expired.
#[tokio::test(flavor = "multi_thread")]
async fn crash_at_a_claim_leaves_the_work_to_another() {
    for seam in ["claim.after_put", "claim.before_remove"] {
        let (lake, rows, config) = scene(&["a"]);
        let killing = armed(seam, 1, "kill");
        // It may be dead before it answers.
        let args = ["daemon", &lake.uri, "--config", &config, "--listen", "off"];
        lake.with_seam(&killing, &args).killed();
        assert!(!claims(&lake).is_empty(), "{seam}");
        let second = start(&lake, None, &config);
        second.wait_ready();
        let more = small_commits(&lake, &["a"], 100, 12);
        wait_compacted(&second, "a");
        wait_unclaimed(&lake);
        second.stop();
        assert_eq!(lake.rows("a").await, [rows, more].concat(), "{seam}");
        // It was killed over something else as well.
        lake.run(&["recover", &lake.uri, "--force"]).ok();
        lake.assert_at_rest();
    }
}

/// Stopped with a claim for longer than it holds: both do the work then, and what lands first counts.
#[tokio::test(flavor = "multi_thread")]
async fn crash_stop_past_the_expiry_loses_nothing() {
    let (lake, rows, config) = scene(&["a"]);
    let stopping = armed("claim.after_put", 1, "stop");
    let args = ["daemon", &lake.uri, "--config", &config, "--listen", "off"];
    let mut first = lake.with_seam(&stopping, &args);
    first.wait_stopped();
    let second = start(&lake, None, &config);
    wait_compacted(&second, "a");
    first.signal(Signal::SIGCONT);
    let more = small_commits(&lake, &["a"], 100, 12);
    second.wait_fragments_at_most("a", 8);
    wait_unclaimed(&lake);
    second.stop();
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_here().code, Some(0));
    assert_eq!(lake.rows("a").await, [rows, more].concat());
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    lake.assert_at_rest();
}
