//! What a commit asks of its storage, and that what it does not ask for is still true.

use squire_engine::commit::{CommitRequest, Outcome};
use squire_engine::maintenance::{
    CleanupPolicies, Looking, Oversight, Reindexing, Retention, Target,
};
use squire_engine::store::state::IndexDeclaration;
use squire_engine::store::{Store, StoreOptions};
use squire_tests::plain::{Plain, TABLE};
use squire_tests::requests::{Counter, Counting, pass};
use squire_tests::{Lake, append, create};
use std::sync::Arc;
use std::time::Duration;

/// A counter, and options under which a store's requests are counted by it.
fn counted() -> (Arc<Counter>, StoreOptions) {
    let counter = Arc::new(Counter::default());
    let options = StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    (counter, options)
}

/// Neither the commits before it nor the tables that it does not touch show in the requests of a commit.
#[tokio::test]
async fn a_commit_takes_eleven_requests_and_six_for_each_further_table() {
    let (counter, options) = counted();
    let store = Store::init("memory://requests", options)
        .await
        .expect("store");
    for table in ["a", "b", "c"] {
        let request = CommitRequest::new(vec![create(table)]);
        store.commit(&request).await.expect("create");
    }
    let mut counted = Vec::new();
    for id in 0..20 {
        for tables in [&["a"][..], &["a", "b"]] {
            let writes = tables.iter().map(|t| append(t, id..id + 1)).collect();
            counter.take();
            store
                .commit(&CommitRequest::new(writes))
                .await
                .expect("commit");
            counted.push(counter.take().total);
        }
    }
    // The first commit of a process meets each table for the first time.
    for (one, two) in counted[2..].chunks(2).map(|c| (c[0], c[1])) {
        assert_eq!((one, two), (11, 17), "{counted:?}");
    }
}

/// Each answer of the storage takes a while: what overlaps counts once.
#[tokio::test]
async fn a_commit_is_answered_after_five_requests_in_sequence_and_six_for_two_tables() {
    let (counter, options) = counted();
    let store = Store::init("memory://sequence", options).await;
    let store = store.expect("store");
    for table in ["a", "b"] {
        let request = CommitRequest::new(vec![create(table)]);
        store.commit(&request).await.expect("create");
    }
    let mut took = Vec::new();
    for id in 0..8 {
        for tables in [&["a"][..], &["a", "b"]] {
            let writes = tables.iter().map(|t| append(t, id..id + 1)).collect();
            counter.answer_after(Duration::from_millis(20));
            counter.take();
            let committed = store.commit_together(&[CommitRequest::new(writes)]).await;
            committed.expect("commit");
            let log = counter.log();
            took.push((counter.take().sequential, log));
            // What is left of it is no part of the answer.
            counter.answer_after(Duration::ZERO);
            store.tidy().await;
        }
    }
    assert!(store.sidecar_ops().await.expect("a listing").is_empty());
    // Where the machine is busy, requests that are sent at once may miss each other; then there are more. Of two tables the second one's
    // transaction may go on while the first is put; then there are fewer.
    let fewest = |first: usize| took.iter().skip(first).step_by(2).map(|took| took.0).min();
    assert_eq!(fewest(0), Some(5), "{took:#?}");
    assert!(fewest(1) <= Some(6), "{took:#?}");
}

/// What has not changed is not read again: a round asks for the latest version of each table, and of the manifest.
#[tokio::test]
async fn a_round_asks_each_table_for_its_latest_version_and_no_more() {
    let (counter, options) = counted();
    let lake = Lake::with_tables(&[]);
    let uri = format!("file-object-store://{}", lake.path("rounds").display());
    let store = Store::init(&uri, StoreOptions::default()).await;
    let store = store.expect("store");
    let names = ["a", "b", "c"];
    for name in names {
        let request = CommitRequest::new(vec![create(name)]);
        store.commit(&request).await.expect("create");
    }
    let daemon = Store::open(&uri, options).await.expect("store");
    let pinned = names.map(|name| Target::Pinned(name.parse().expect("a name")));
    let plain = names.map(|name| Target::Plain(format!("{name}.lance")));
    for (targets, of_location) in [(pinned, 1), (plain, 0)] {
        let asked = async || {
            counter.take();
            pass(&daemon, &targets).await;
            let log = counter.log();
            (counter.take().total, log)
        };
        let first = asked().await;
        let later = asked().await;
        // What an object store answers with one listing, a local disk does with a hint and a look at two versions.
        assert_eq!(later.0, of_location + 9, "{later:?} after {first:?}");
        let request = CommitRequest::new(vec![append("b", 0..1)]);
        store.commit(&request).await.expect("commit");
        let moved = asked().await;
        assert!((later.0 + 1..later.0 + 6).contains(&moved.0), "{moved:?}");
        assert_eq!(asked().await.0, later.0);
    }
}

/// Versions are counted from what is known, and a cleanup of this process makes it be counted again.
#[tokio::test]
async fn versions_are_counted_without_a_listing() {
    let lake = Lake::with_tables(&[]);
    let mut plain = Plain::new(&lake.path("plain"));
    plain.append(0..1).await;
    let store = Store::connect(&plain.uri, StoreOptions::default());
    let store = store.await.expect("the directory");
    let target = Target::Plain(TABLE.to_owned());
    let looking = Looking {
        bounds: &squire_tests::bounds(),
        adopt: None,
        anew_after: Duration::from_secs(600),
    };
    let agrees = async || {
        let seen = store.observe(&target, &looking).await.expect("a look");
        let fresh = store.health(&target, looking.bounds).await;
        assert_eq!(seen.health, fresh.expect("a look"));
        seen.health.versions
    };
    for id in 1_i64..4 {
        assert_eq!(agrees().await, id.unsigned_abs());
        plain.append(id..id + 1).await;
    }
    let everything = CleanupPolicies::from(Retention {
        age: Duration::ZERO,
        versions: 1,
    });
    let plan = store.plan_plain_cleanup(TABLE, &everything).await;
    let plan = plan.expect("a plan");
    assert_eq!(plan.versions.len(), 3);
    let oversight = Default::default();
    let cleaned = store.cleanup_plain(&plan, None, &oversight).await;
    cleaned.expect("a cleanup");
    assert_eq!(agrees().await, 1);
}

/// A reindex that finds nothing to do only looks: nothing is put, not even a record of the run, and there is nothing to take away.
#[tokio::test]
async fn a_reindex_without_work_puts_nothing() {
    let lake = Lake::with_tables(&[]);
    let counter = Arc::new(Counter::default());
    let uri = format!("file-object-store://{}", lake.path("idle").display());
    let mut plain = Plain::new(&lake.path("plain"));
    plain.append(0..10).await;
    plain.index().await;
    let options = || StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    let store = Store::init(&uri, options()).await.expect("store");
    for write in [create("a"), append("a", 0..10)] {
        let request = CommitRequest::new(vec![write]);
        store.commit(&request).await.expect("a commit");
    }
    let table = "a".parse().expect("a name");
    let declaration = IndexDeclaration {
        column: String::from("id"),
        kind: String::from("btree"),
    };
    let declared = store.declare_index(&table, "ids", declaration).await;
    declared.expect("declared");
    let directory = format!("file-object-store://{}", plain.uri);
    let directory = Store::connect(&directory, options()).await;
    let directory = directory.expect("the directory");
    let pinned = (&*store, Target::Pinned(table));
    for (store, target) in [pinned, (&directory, Target::Plain(TABLE.to_owned()))] {
        let reindex = async || {
            let (all, oversight) = (Reindexing::default(), Oversight::default());
            let done = store.reindex(&target, &all, &oversight).await;
            done.expect("a reindex").indexes
        };
        reindex().await;
        counter.take();
        assert_eq!(reindex().await, [""; 0]);
        let asked = counter.log();
        let only_looks = |line: &&String| {
            let mut words = line.split(' ').skip(1);
            matches!(words.next(), Some("get" | "get_ranges" | "head" | "list"))
        };
        assert_eq!(
            asked.iter().find(|line| !only_looks(line)),
            None,
            "{asked:#?}"
        );
        assert!(asked.len() <= 8, "{asked:#?}");
    }
}

/// An agent that writes alone reads no directory of versions for a commit, so that its commits do not slow down with the history.
#[tokio::test]
async fn a_lone_agent_lists_no_versions() {
    let lake = Lake::with_tables(&["a"]);
    let spool = lake.path("spool");
    let config = lake.path("alone.toml");
    std::fs::write(&config, "[agent]\ngroup_batches = 1\n").expect("the configuration");
    std::fs::create_dir_all(spool.join("incoming")).expect("spool");
    let listed = |ids: std::ops::Range<i64>| {
        for id in ids.clone() {
            let file = lake.csv(&format!("a.{id:03}.csv"), [(id, "x".to_owned())]);
            let name = format!("a.{id:03}.csv");
            std::fs::rename(file, spool.join("incoming").join(name)).expect("rename");
        }
        let trace = lake.path("trace");
        let mut strace = std::process::Command::new("strace");
        strace
            .args(["-f", "-y", "-e", "trace=getdents64", "-o"])
            .arg(&trace);
        strace
            .arg(squire_tests::squire())
            .args(["agent", &lake.uri, "--spool"])
            .arg(&spool);
        strace
            .args(["--listen", "off", "--until-empty", "--config"])
            .arg(&config);
        let ended = strace.output().expect("strace runs");
        assert!(ended.status.success(), "{ended:?}");
        let trace = std::fs::read_to_string(trace).expect("the trace");
        let looks = trace.lines().filter(|line| line.contains("/_versions>"));
        looks.count()
    };
    let (few, many) = (listed(0..3), listed(3..33));
    assert!(many <= few, "3 commits: {few}, 30 more: {many}");
    assert_eq!(lake.ids("a").await, (0..33).collect::<Vec<_>>());
}

/// A blind append is staged on what the process remembers. A pin that another process moved meanwhile is not what the
/// commit stands on, although only maintenance lies in between.
#[tokio::test]
async fn a_stale_guess_is_not_what_a_commit_stands_on() {
    let lake = Lake::with_tables(&["a"]);
    let store = lake.store().await;
    let commit = |id| {
        let store = store.clone();
        async move {
            let request = CommitRequest::new(vec![append("a", id..id + 1)]);
            match store.commit(&request).await.expect("commit") {
                Outcome::Committed(committed) => committed,
                again => panic!("{again:?}"),
            }
        }
    };
    commit(1).await;
    let remembered = commit(2).await.tables[0].to;
    lake.run(&["optimize", &lake.uri]).ok();
    let pin = lake.table_status("a", "pin").as_u64().expect("a version");
    assert!(remembered < pin);
    let committed = commit(3).await;
    assert_eq!((committed.tables[0].from, committed.attempts), (pin, 1));
    assert_eq!(lake.ids("a").await, [1, 2, 3]);
    lake.assert_at_rest();
}
