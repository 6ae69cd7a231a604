//! What maintenance plans, what a table has a say in, and how little it gets in the way.

use futures::future::BoxFuture;
use lance::dataset::optimize::COMPACTION_CONFIG_PREFIX;
use serde_json::Value;
use squire_engine::clock::{Clock, SystemClock};
use squire_engine::commit::CommitRequest;
use squire_engine::maintenance::tasks::TaskBounds;
use squire_engine::maintenance::{CompactionLimits, Oversight, Target, Verify};
use squire_engine::store::{Store, StoreOptions};
use squire_tests::plain::{Plain, TABLE};
use squire_tests::{Done, Lake, PATIENCE, append, bounds};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A watched directory with a table of twenty fragments of ten rows, and what it says of itself.
async fn configured(lake: &Lake, settings: &[(&str, &str)]) -> Plain {
    let mut plain = Plain::new(&lake.path("plain"));
    for id in 0..20 {
        plain.append(id * 10..id * 10 + 10).await;
    }
    let settings: HashMap<String, Option<String>> = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())))
        .collect();
    let mut table = plain.open().await;
    table.update_config(settings).await.expect("settings");
    plain
}

fn of(plain: &Plain, lake: &Lake, args: &[&str]) -> Done {
    lake.run(&[&args[..1], &[plain.uri.as_str()], &args[1..]].concat())
}

fn tasks(plan: &Value) -> Vec<usize> {
    let tasks = plan["tables"][0]["rewrites"]["tasks"].as_array();
    let tasks = tasks.expect("tasks").iter();
    tasks
        .map(|t| t["fragments"].as_array().expect("fragments").len())
        .collect()
}

#[tokio::test]
async fn a_plan_says_of_each_task_what_it_costs_and_gains() {
    let lake = Lake::with_tables(&[]);
    let mut plain = configured(&lake, &[]).await;
    plain.index().await;
    plain.delete(5).await;
    let plan = of(&plain, &lake, &["plan", "--json"]).ok().json();
    assert_eq!(tasks(&plan), [20]);
    let task = &plan["tables"][0]["rewrites"]["tasks"][0];
    let number = |key: &str| task[key].as_u64().expect("a number");
    assert!(
        0 < number("written") && number("written") < number("bytes"),
        "{task}"
    );
    assert!(number("remapped") > 0 && number("touched") > 20, "{task}");
    assert_eq!(number("outputs"), 1);
    let told = of(&plain, &lake, &["plan"]).ok().stdout;
    let line = "rewrite 20 fragments (0 to 19) into 1: reads ";
    assert!(
        told.contains(line) && told.contains("of indexes follow"),
        "{told}"
    );
    of(&plain, &lake, &["optimize"]).ok();
    let plan = of(&plain, &lake, &["plan", "--json"]).ok().json();
    assert_eq!(tasks(&plan), [0; 0], "the plan's own output gives no plan");
    let left = &plan["tables"][0]["rewrites"]["left"][0];
    assert_eq!(
        (&left["fragments"], &left["why"].to_string()),
        (
            &1.into(),
            &"\"small, without a neighbour to be merged with\"".to_owned()
        )
    );
    plain.assert_whole().await;
}

#[tokio::test]
async fn a_table_has_a_say_in_its_compaction() {
    let lake = Lake::with_tables(&[]);
    let key = |name: &str| format!("{COMPACTION_CONFIG_PREFIX}{name}");
    let (rows, fragments, deferred) = (
        key("target_rows_per_fragment"),
        key("max_source_fragments"),
        key("defer_index_remap"),
    );
    let settings = [(&*rows, "100"), (&*fragments, "5"), (&*deferred, "true")];
    let plain = configured(&lake, &settings).await;
    let plan = of(&plain, &lake, &["plan", "--json"]).ok().json();
    assert_eq!(tasks(&plan), [5, 5, 5, 5]);
    let not_followed = plan["tables"][0]["rewrites"]["not_followed"].to_string();
    assert!(not_followed.contains("defer_index_remap"), "{not_followed}");
    of(&plain, &lake, &["optimize"]).ok();
    // Half of a hundred rows is large enough.
    assert_eq!(plain.open().await.count_fragments(), 4);
    assert_eq!(
        tasks(&of(&plain, &lake, &["plan", "--json"]).ok().json()),
        [0; 0]
    );
    plain.assert_whole().await;
}

#[tokio::test]
async fn a_setting_that_cannot_be_followed_is_named_and_nothing_is_rewritten() {
    let lake = Lake::with_tables(&[]);
    let key = format!("{COMPACTION_CONFIG_PREFIX}batch_size");
    let plain = configured(&lake, &[(&key, "many")]).await;
    of(&plain, &lake, &["optimize"]).failed(3, &key);
    let told = of(&plain, &lake, &["plan"]).ok().stdout;
    assert!(told.contains(&key), "{told}");
    assert_eq!(plain.open().await.count_fragments(), 20);
}

#[tokio::test]
async fn auto_cleanup_of_a_plain_table_is_reported_and_left() {
    let lake = Lake::with_tables(&[]);
    let (every, age) = (
        "lance.auto_cleanup.interval",
        "lance.auto_cleanup.older_than",
    );
    let plain = configured(&lake, &[(every, "1000"), (age, "30d")]).await;
    let line =
        format!("{TABLE}: commits of every client, maintenance included, remove old versions");
    for command in ["status", "plan"] {
        let told = of(&plain, &lake, &[command]).ok().stdout;
        assert!(told.contains(&line) && told.contains(every), "{told}");
    }
    let status = of(&plain, &lake, &["status", "--json"]).ok().json();
    assert_eq!(status["tables"][0]["auto_cleanup"][every], "1000");
    of(&plain, &lake, &["optimize"]).ok();
    let config = plain.open().await.manifest().config.clone();
    assert_eq!((&*config[every], &*config[age]), ("1000", "30d"));
}

/// A clock that goes on by a step whenever it is read.
#[derive(Debug)]
struct Striding {
    machine: SystemClock,
    step: Duration,
    read: AtomicU32,
}

impl Clock for Striding {
    fn now_ms(&self) -> u64 {
        self.machine.now_ms()
    }

    fn monotonic(&self) -> Duration {
        self.step * self.read.fetch_add(1, Ordering::Relaxed)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.machine.sleep(duration)
    }
}

/// The versions that a compaction of four tasks makes when its clock goes on by `step` whenever it is read.
async fn versions_made(step: Duration) -> u64 {
    let lake = Lake::with_tables(&[]);
    let plain = configured(&lake, &[]).await;
    let before = plain.open().await.version().version;
    let clock = Striding {
        machine: SystemClock::default(),
        step,
        read: AtomicU32::new(0),
    };
    let options = StoreOptions {
        clock: Arc::new(clock),
        ..StoreOptions::default()
    };
    let store = Store::connect(&plain.uri, options).await.expect("connect");
    let limits = CompactionLimits {
        bounds: TaskBounds {
            max_fragments: 5,
            ..bounds()
        },
        tasks_per_commit: 8,
        commit_after: Duration::from_secs(60),
        verify: Verify::Counts,
    };
    let target = Target::Plain(TABLE.to_owned());
    let done = store.compact(&target, &limits, &Oversight::default()).await;
    assert_eq!(done.expect("a compaction").fragments_added, 4);
    plain.assert_whole().await;
    plain.open().await.version().version - before
}

#[tokio::test]
async fn what_is_finished_does_not_wait_for_what_is_not() {
    let together = versions_made(Duration::ZERO).await;
    // The first of two has waited when the second is finished.
    let in_twos = versions_made(Duration::from_secs(61)).await;
    assert_eq!(in_twos, 2 * together);
}

/// What the ledger says of the table, each amount by its name.
fn ledger(plain: &Plain, lake: &Lake) -> Value {
    let status = of(plain, lake, &["status", "--json"]).ok().json();
    status["tables"][0]["ledger"]["total"].clone()
}

fn stored(plain: &Plain) -> u64 {
    let data = plain.path(TABLE).join("data");
    let files = std::fs::read_dir(data).expect("a table");
    files
        .map(|f| f.expect("a file").metadata().expect("a size").len())
        .sum()
}

#[tokio::test]
async fn what_was_written_and_why_is_kept_across_restarts() {
    let lake = Lake::with_tables(&[]);
    let mut plain = configured(&lake, &[]).await;
    plain.index().await;
    let found = stored(&plain);
    assert_eq!(ledger(&plain, &lake), Value::Null);
    let uri = plain.uri.clone();
    let pass = ["daemon", uri.as_str(), "--once"];
    lake.run(&pass).ok();
    let first = ledger(&plain, &lake);
    let of_first = |what: &str| first[what].as_u64().expect("bytes");
    // Nobody knows who wrote what stood there, or how often.
    assert_eq!(of_first("found"), found, "{first}");
    assert_eq!(of_first("written"), 0, "{first}");
    assert_eq!(of_first("rewritten"), stored(&plain) - found, "{first}");
    assert!(
        of_first("indexed") > 0 && of_first("wasted") == 0,
        "{first}"
    );
    let told = of(&plain, &lake, &["status"]).ok().stdout;
    assert!(
        told.contains("were found, users wrote 0 B since") && told.contains("bytes for each of"),
        "{told}"
    );
    // A daemon that starts anew counts what came since, and nothing twice.
    let before = stored(&plain);
    plain.append(900..910).await;
    let appended = stored(&plain) - before;
    lake.run(&pass).ok();
    let second = ledger(&plain, &lake);
    assert_eq!(second["found"], found, "{second}");
    assert_eq!(second["written"], appended, "{second}");
    assert_eq!(second["rewritten"], first["rewritten"]);
    // A record that cannot be read is left, and stops nothing.
    let record = plain.path(".squire/ledger.json");
    std::fs::write(&record, r#"{ "format": 9, "tables": {} }"#).expect("a record");
    plain.append(910..920).await;
    let done = lake.run(&pass).ok();
    assert!(done.stderr.contains("upgrade squire"), "{}", done.stderr);
    assert!(
        std::fs::read_to_string(&record)
            .expect("a record")
            .contains('9')
    );
    plain.assert_whole().await;
}

#[tokio::test]
async fn the_ledger_of_a_store_stands_in_the_store() {
    let lake = Lake::with_tables(&["a"]);
    let request = CommitRequest::new(vec![append("a", 0..9)]);
    let committed = lake.store().await.commit(&request).await;
    committed.expect("a commit");
    lake.daemon_pass("0s").ok();
    let record = std::fs::read_to_string(lake.path("lake/_squire/ledger.json"));
    assert!(record.expect("a record").contains("\"a.lance\""));
    lake.run(&["verify", &lake.uri]).ok();
    lake.assert_at_rest();
}

/// The threads of a process, with their niceness.
fn niceness(pid: u32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(16)?
            .parse()
            .ok()
    };
    threads.filter_map(of_thread).collect()
}

/// Waits until all threads of a daemon have stepped back to 7 but the first, which waits for the others.
fn wait_stepped_back(pid: u32) {
    let ours = niceness(std::process::id())[0];
    let patience = Instant::now() + PATIENCE;
    loop {
        let threads = niceness(pid);
        let lowered = threads.iter().filter(|nice| **nice == ours.max(7)).count();
        if lowered > 2 && lowered + 1 == threads.len() {
            break;
        }
        assert!(Instant::now() < patience, "{threads:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The kernel may share the cores among sessions first: a daemon that leads one lowers that as well.
#[test]
fn a_daemon_lets_others_go_first() {
    let lake = Lake::with_tables(&["a"]);
    let config = lake.path("nice.toml");
    std::fs::write(&config, "[daemon]\nnice = 7\nlisten = \"off\"\n").expect("a file");
    let args = ["daemon", &lake.uri, "--config", &config.to_string_lossy()];
    let session = |process: &str| std::fs::read_to_string(format!("/proc/{process}/autogroup"));
    let before = session("self").ok();
    let mut beside = lake.start(&args);
    wait_stepped_back(beside.pid());
    assert_eq!(session("self").ok(), before, "others are in it");
    let mut service = lake.start_service(&args);
    wait_stepped_back(service.pid());
    if before.is_some() {
        let its = session(&service.pid().to_string()).expect("it runs");
        assert!(its.ends_with(" nice 7\n"), "{its}");
    }
}
