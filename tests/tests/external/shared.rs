//! Several daemons on one store: they share the work, and what one was killed over another does.

use crate::metrics::{Served, write_config};
use crate::s3::Server;
use crate::{client, eventually, small_commits};
use nix::sys::signal::Signal;
use squire_tests::{Lake, PATIENCE, armed};
use std::time::Duration;

/// A daemon that is killed is missed soon.
const CONFIG: &str = "[daemon]\nscan_interval = \"1s\"\ngrace = \"1s\"\nclaim_expiry = \"3s\"\n[policy]\nmin_candidate_fragments = 6\n";

fn scene(tables: &[&str]) -> (Lake, Vec<(i64, String)>, String) {
    in_need(Lake::with_tables(tables), tables)
}

/// All `tables` of `lake` are due.
fn in_need(lake: Lake, tables: &[&str]) -> (Lake, Vec<(i64, String)>, String) {
    let rows = small_commits(&lake, tables, 0, 12);
    let config = write_config(&lake, CONFIG);
    (lake, rows, config)
}

fn start(lake: &Lake, failpoints: Option<&str>, config: &str) -> Served {
    Served::start(lake, failpoints, &["daemon", &lake.uri, "--config", config])
}

/// The compactions of a daemon.
fn compactions(daemon: &Served) -> Vec<serde_json::Value> {
    let history = daemon.status()["history"].clone();
    let reports = history.as_array().expect("reports").iter();
    reports
        .filter(|r| r["kind"] == "compact")
        .cloned()
        .collect()
}

/// How the attempts of a daemon on a table ended, and the details.
fn endings(daemon: &Served, table: &str) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    compactions(daemon)
        .iter()
        .filter(|r| r["table"] == table)
        .map(|r| (text(&r["ending"]), text(&r["detail"])))
        .collect()
}

/// What is claimed.
fn claims(lake: &Lake) -> Vec<String> {
    let what = |record: serde_json::Value| record["what"].as_str().map(str::to_owned);
    if let Some((bucket, prefix)) = lake
        .uri
        .strip_prefix("s3://")
        .and_then(|at| at.split_once('/'))
    {
        let prefix = format!("{prefix}/_squire/claims");
        let records = client(lake, &["objects", bucket, &prefix]);
        return records
            .as_array()
            .cloned()
            .into_iter()
            .flatten()
            .filter_map(what)
            .collect();
    }
    let claims = std::path::Path::new(&lake.uri).join("_squire/claims");
    let entries = std::fs::read_dir(claims).into_iter().flatten().flatten();
    // One may go while it is read.
    let read = entries.filter_map(|entry| std::fs::read(entry.path()).ok());
    let records = read.filter_map(|bytes| serde_json::from_slice(&bytes).ok());
    records.filter_map(what).collect()
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
    one_works_and_is_killed(scene(&["a", "b"])).await;
}

/// The same in a bucket whose clock is hours late: neither that clock nor the machine's is asked how late it is. Its server
/// may be slow: a claim that is not renewed in time is another's by right.
#[tokio::test(flavor = "multi_thread")]
async fn claims_hold_and_expire_on_s3_by_its_clock() {
    let server = Server::late(Duration::from_secs(3 * 3_600));
    let lake = server.lake("claims");
    lake.create_tables(&["a", "b"]);
    let (lake, rows, _) = in_need(lake, &["a", "b"]);
    let patient = CONFIG.replace("claim_expiry = \"3s\"", "claim_expiry = \"10s\"");
    let config = write_config(&lake, &patient);
    one_works_and_is_killed((lake, rows, config)).await;
}

/// Two daemons that begin together on a backlog in a bucket rewrite no fragment twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_do_nothing_twice_on_s3() {
    let server = Server::late(Duration::ZERO);
    let lake = server.lake("backlog");
    let tables = ["a", "b", "c", "d", "e", "f"];
    lake.create_tables(&tables);
    let (lake, rows, config) = in_need(lake, &tables);
    let daemons = [start(&lake, None, &config), start(&lake, None, &config)];
    let rewritten = eventually("compactions of all tables", PATIENCE * 3, || {
        let reports: Vec<serde_json::Value> = daemons.iter().flat_map(compactions).collect();
        let done = |table: &&str| {
            reports
                .iter()
                .any(|r| r["table"] == **table && r["fragments_removed"] == 12)
        };
        let all = tables.iter().all(&done);
        all.then_some(reports.clone()).ok_or(format!("{reports:?}"))
    });
    wait_unclaimed(&lake);
    let removed = rewritten
        .iter()
        .filter_map(|r| r["fragments_removed"].as_u64());
    assert_eq!(
        removed.sum::<u64>(),
        12 * tables.len() as u64,
        "{rewritten:?}"
    );
    let lost = |r: &serde_json::Value| r["conflicts"] != 0 || r["ending"] == "failed";
    assert!(!rewritten.iter().any(lost), "{rewritten:?}");
    for daemon in daemons {
        daemon.stop();
    }
    for table in tables {
        assert_eq!(lake.rows(table).await, rows);
    }
    lake.assert_at_rest();
}

async fn one_works_and_is_killed((mut lake, rows, config): (Lake, Vec<(i64, String)>, String)) {
    let environment = lake.env.clone();
    let log = lake.path("faults.log");
    let (never, told) = (lake.path("never"), log.display().to_string());
    let faults = format!("hold=a.lance/data@1:{};log={told}", never.display());
    lake.env.push(("SQUIRE_FAULTS".to_owned(), faults));
    let first = start(&lake, None, &config);
    lake.env = environment;
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
