//! Inputs that are larger than what may be held: one commit, in the memory of a few batches, or nothing.

use crate::input::refused;
use lance::Dataset;
use serde_json::Value;
use squire_tests::{Child, Lake, PATIENCE, armed};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lake `t` and `u`, and the options that make a stream of whatever takes more than a few kilobytes.
fn lake() -> (Lake, [String; 2]) {
    let lake = Lake::with_tables(&["t", "u"]);
    let config = lake.path("squire.toml");
    fs::write(&config, "[agent]\ngroup_bytes = \"64KiB\"\n").expect("the configuration");
    let config = config.to_string_lossy().into_owned();
    // A table that has had rows has its folders.
    let seed = lake.csv("seed.csv", [(1, String::new())]);
    for table in ["t", "u"] {
        lake.run(&["write", &lake.uri, table, &seed]).ok();
        lake.run(&["delete", &lake.uri, table, "--where", "true"])
            .ok();
    }
    (lake, ["--config".to_owned(), config])
}

/// Rows of NDJSON, of some 100 bytes each.
fn rows(ids: std::ops::Range<i64>) -> String {
    let mut text = String::new();
    for id in ids {
        writeln!(text, "{{\"id\":{id},\"value\":\"{id:>080}\"}}").expect("a string");
    }
    text
}

fn put(lake: &Lake, name: &str, text: &str) -> String {
    let path = lake.path(name);
    fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    fs::write(&path, text).expect("file");
    path.to_string_lossy().into_owned()
}

fn with<'a>(args: &[&'a str], config: &'a [String; 2]) -> Vec<&'a str> {
    let config = config.iter().map(String::as_str);
    args.iter().copied().chain(config).collect()
}

async fn table(lake: &Lake, name: &str) -> Dataset {
    let uri = Path::new(&lake.uri).join(format!("{name}.lance"));
    Dataset::open(&uri.to_string_lossy())
        .await
        .expect("a table")
}

async fn count(lake: &Lake, name: &str) -> usize {
    table(lake, name)
        .await
        .count_rows(None)
        .await
        .expect("rows")
}

/// The most memory that a write of `file` takes until it publishes.
fn peak_of(lake: &Lake, file: &str, config: &[String; 2]) -> u64 {
    let args = with(&["write", &lake.uri, "t", file], config);
    let mut write = lake.with_seam(&armed("publish.before_commit", 1, "stop"), &args);
    write.wait_stopped();
    let peak = write.peak_memory();
    write.resume().ok();
    peak
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_follow_the_size_of_the_input() {
    const ROWS: i64 = 1_200_000;
    let (lake, config) = lake();
    let small = put(&lake, "small.ndjson", &rows(0..10));
    let least = peak_of(&lake, &small, &config);
    let path = lake.path("large.ndjson");
    let mut file = BufWriter::new(File::create(&path).expect("file"));
    let long = "x".repeat(300);
    for id in 0..ROWS {
        writeln!(file, "{{\"id\":{id},\"value\":\"{id}{long}\"}}").expect("written");
    }
    file.into_inner().expect("written");
    let bytes = fs::metadata(&path).expect("file").len();
    let most = peak_of(&lake, &path.to_string_lossy(), &config);
    fs::remove_file(&path).expect("removed");
    let took = most - least;
    assert!(bytes > 370 << 20, "{bytes}");
    assert!(took < 256 << 20, "{took} bytes for an input of {bytes}");
    assert_eq!(count(&lake, "t").await as i64, ROWS + 10);
    let fragments = table(&lake, "t").await.get_fragments().len();
    assert_eq!(fragments, 3, "the small one, and two of one commit");
    lake.assert_at_rest();
}

#[test]
fn what_is_wrong_at_the_end_leaves_nothing() {
    let (lake, config) = lake();
    let bad = rows(0..20_000) + "{\"id\":\"x\",\"value\":\"\"}\n";
    let bad = put(&lake, "bad.ndjson", &bad);
    let args = with(&["write", &lake.uri, "t", &bad], &config);
    refused(&lake, &args, 2, &["bad.ndjson:20001", "column `id`"]);
    let args = with(
        &["write", &lake.uri, "t", &bad, "--mode", "overwrite"],
        &config,
    );
    refused(&lake, &args, 2, &["bad.ndjson:20001"]);
    let args = with(&["write", &lake.uri, "t", &bad, "--dry-run"], &config);
    refused(&lake, &args, 2, &["bad.ndjson:20001"]);
    put(&lake, "batch/t.ndjson", &rows(0..20_000));
    put(
        &lake,
        "batch/u.ndjson",
        &fs::read_to_string(&bad).expect("file"),
    );
    let batch = lake.path("batch").to_string_lossy().into_owned();
    let args = with(&["commit", &lake.uri, &batch], &config);
    refused(&lake, &args, 2, &["u.ndjson:20001"]);
}

#[test]
fn limits_count_all_of_a_stream() {
    let (lake, _) = lake();
    let good = put(&lake, "good.ndjson", &rows(0..20_000));
    for limit in [
        "max_rows = 19999",
        "max_decoded_bytes = \"1MiB\"",
        "max_input_bytes = \"1MiB\"",
    ] {
        let text = format!("[agent]\ngroup_bytes = \"64KiB\"\n{limit}\n");
        let config = ["--config".to_owned(), put(&lake, "limit.toml", &text)];
        let args = with(&["write", &lake.uri, "t", &good], &config);
        let (name, _) = limit.split_once(' ').expect("a setting");
        refused(&lake, &args, 2, &["good.ndjson", name]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_batch_that_it_would_be_if_it_were_held() {
    let (lake, config) = lake();
    let text = rows(0..20_000);
    let file = put(&lake, "a.ndjson", &text);
    lake.run(&["write", &lake.uri, "t", &file, "--batch-id", "a"])
        .ok();
    let again = with(
        &["write", &lake.uri, "t", &file, "--batch-id", "a", "--json"],
        &config,
    );
    assert_eq!(lake.run(&again).ok().json()["outcome"], "already_committed");
    let other = put(&lake, "b.ndjson", &rows(1..20_001));
    let other = with(
        &["write", &lake.uri, "t", &other, "--batch-id", "a"],
        &config,
    );
    lake.run(&other).failed(2, "other content");
    let given = with(
        &[
            "write",
            &lake.uri,
            "t",
            "-",
            "--json",
            "--mode",
            "overwrite",
        ],
        &config,
    );
    let fed = lake.feed(&given, rows(0..30_000).as_bytes()).ok().json();
    assert_eq!(fed["rows"]["t"]["inserted"], 30_000);
    assert_eq!(fed["rows"]["t"]["deleted"], 20_000);
    assert_eq!(count(&lake, "t").await, 30_000);
    lake.assert_at_rest();
}

#[test]
fn what_is_changed_of_a_stream_is_told() {
    let (lake, config) = lake();
    let text = rows(0..20_000) + "{\"id\":\" 7\",\"value\":\"\"}\n";
    let file = put(&lake, "a.ndjson", &text);
    for more in ["--dry-run", "--json"] {
        let args = [
            "write", &lake.uri, "t", &file, "--coerce", "trim", "--json", more,
        ];
        let args = match more {
            "--json" => &args[..7],
            _ => &args[..],
        };
        let told: Value = lake.run(&with(args, &config)).ok().json();
        let coerced = told["coerced"].as_array().expect("a list");
        assert_eq!(coerced.len(), 1, "{told}");
        assert_eq!(coerced[0]["at"], 20_001, "{told}");
    }
}

fn agent(lake: &Lake, config: &[String; 2], seam: &str) -> Child {
    let spool = lake.path("spool").to_string_lossy().into_owned();
    let args = [
        "agent",
        &lake.uri,
        "--spool",
        &spool,
        "--listen",
        "off",
        "--until-empty",
    ];
    let args = with(&[&args[..], &["--grace", "1s"]].concat(), config);
    lake.with_seam(seam, &args)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Large entries between small ones, by agents that die where the claim has another name than when it was read.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_commits_a_stream_once_and_rejects_one_alone() {
    let (lake, config) = lake();
    let incoming = |name: &str| format!("spool/incoming/{name}");
    put(&lake, &incoming("t.1.ndjson"), &rows(0..10));
    put(&lake, &incoming("t.2.ndjson"), &rows(10..20_000));
    put(&lake, &incoming("t.3.ndjson"), &rows(20_000..20_010));
    put(
        &lake,
        &incoming("t.4.ndjson"),
        &(rows(0..20_000) + "{\"id\":null}\n"),
    );
    put(&lake, &incoming("pair/t.ndjson"), &rows(30_000..50_000));
    put(&lake, &incoming("pair/u.ndjson"), &rows(0..20_000));
    for nth in [2, 3] {
        let seam = armed("write.after_stage", nth, "kill");
        agent(&lake, &config, &seam).killed();
    }
    let done = agent(&lake, &config, "").wait().ok();
    assert!(done.stdout.contains("rejected 1"), "{done:?}");
    assert_eq!(count(&lake, "t").await, 40_010);
    assert_eq!(count(&lake, "u").await, 20_000);
    let spool: PathBuf = lake.path("spool");
    assert_eq!(
        names(&spool.join("done")),
        ["pair", "t.1.ndjson", "t.2.ndjson", "t.3.ndjson"]
    );
    let reason = fs::read_to_string(spool.join("rejected/t.4.ndjson.reason.txt"));
    let reason = reason.expect("a reason");
    assert!(reason.contains("rejected/t.4.ndjson:20001"), "{reason}");
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
}

/// Somebody writes to an entry while its rows are staged: it waits, and is neither committed in half nor rejected.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_grows_waits() {
    let (lake, config) = lake();
    put(&lake, "spool/incoming/t.1.ndjson", &rows(0..20_000));
    let mut agent = agent(&lake, &config, &armed("agent.before_commit", 1, "stop"));
    agent.wait_stopped();
    let claims = lake.path("spool/claimed");
    let claim = names(&claims).pop().expect("a claim");
    let entry = claims.join(claim).join("t.1.ndjson");
    let mut late = File::options()
        .append(true)
        .open(&entry)
        .expect("the entry");
    late.write_all(rows(20_000..20_001).as_bytes())
        .expect("written");
    drop(late);
    agent.signal(nix::sys::signal::Signal::SIGCONT);
    let deadline = Instant::now() + PATIENCE;
    while names(&lake.path("spool/done")).is_empty() {
        assert!(Instant::now() < deadline, "it is not committed");
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.wait().ok();
    assert_eq!(count(&lake, "t").await, 20_001);
}
