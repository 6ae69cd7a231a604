//! A table that is in trouble slows down, or keeps, its own input and nobody else's.

use super::trouble::{Served, one};
use super::*;

/// However much lies there for a drifted table, what is claimed of it is bounded; the rest stays where it is, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_drifted_table_claims_no_more_than_a_few() {
    let mut spool = Spool::new(&["a", "b"]);
    spool.drift("a").await;
    for id in 0..40 {
        spool.put(&format!("a.{id:02}.csv"), &one(&csv([id], "x")));
    }
    spool.put("b.0.csv", &one(&csv([0], "x")));
    let config = spool.config("group_batches = 8");
    let mut served = Served::start(&spool, &["--config", &config]);
    let metric = "squire_agent_held{cause=\"blocked\"} 24";
    served.wait_for(&spool, "/metrics", 200, metric);
    served.wait_for(&spool, "/status", 200, "16 batches for it wait already");
    spool.wait_for("the other table's commit", |s| {
        s.names("done").contains("b.0.csv")
    });
    assert_eq!(spool.names("incoming").len(), 24);
    spool.put("b.1.csv", &one(&csv([1], "x")));
    spool.wait_for("another commit", |s| s.names("done").contains("b.1.csv"));
    // All of it follows once somebody has decided.
    let repair = ["repair", &spool.lake.uri, "--table", "a", "--discard"];
    spool.lake.run(&repair).ok();
    spool.wait_for("the repaired table's commits", |s| {
        s.names("done").len() == 42
    });
    served.agent.signal(Signal::SIGTERM);
    let said = served.agent.wait().ok().stderr;
    let told = "no more input is taken for this table";
    assert_eq!(said.matches(told).count(), 1, "{said}");
    spool.assert_all_done();
}

/// With `--until-empty`, too, what stays for its table is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_tells_what_stays_for_its_table() {
    let mut spool = Spool::new(&["a"]);
    spool.drift("a").await;
    for id in 0..20 {
        spool.put(&format!("a.{id:02}.csv"), &one(&csv([id], "x")));
    }
    let config = spool.config("group_batches = 4");
    let agent = spool.start(&[
        "--until-empty",
        "--grace",
        "0s",
        "--json",
        "--config",
        &config,
    ]);
    let ended = agent.wait();
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let left = told["left"].as_array().expect("a list");
    let of = |cause: &str| left.iter().filter(|l| l["cause"] == cause).count();
    assert_eq!((of("drift"), of("blocked")), (16, 4), "{told}");
}

/// Beyond a number of fragments commits to a table rest, others go on, and it is told why. It is a pace and no stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_debt_slows_down_alone() {
    let mut spool = Spool::alone(&["a", "b"]);
    for id in 0..8 {
        spool.put(&format!("a.{id}.csv"), &one(&csv([id], "x")));
    }
    spool.put("b.0.csv", &one(&csv([0], "x")));
    let config = spool.config("debt_fragments = 2\ndebt_pause = \"1h\"");
    let mut served = Served::start(&spool, &["--config", &config]);
    served.wait_for(
        &spool,
        "/metrics",
        200,
        "squire_agent_held{cause=\"debt\"} 5",
    );
    served.wait_for(
        &spool,
        "/status",
        200,
        "it has 3 fragments, more than 2 (agent.debt_fragments)",
    );
    assert_eq!(spool.names("done").len(), 4, "three, and the other table's");
    spool.put("b.1.csv", &one(&csv([1], "x")));
    spool.wait_for("another commit", |s| s.names("done").contains("b.1.csv"));
    served.agent.signal(Signal::SIGTERM);
    let said = served.agent.wait().ok().stderr;
    assert_eq!(said.matches("this table is in debt").count(), 1, "{said}");
    // Nothing is left because of it.
    let config = spool.config("debt_fragments = 2\ndebt_pause = \"50ms\"");
    let agent = spool.start(&["--until-empty", "--config", &config]);
    agent.wait().ok();
    spool.assert_all_done();
}

/// A claim that failed before comes after what is new, also when both are due.
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_before_comes_after_what_is_new() {
    let mut spool = Spool::alone(&["a", "b"]);
    spool.drift("a").await;
    let config = spool.lake.path("slow.toml");
    fs::write(&config, "[agent]\npoll_interval = \"2s\"\n").expect("the configuration");
    let mut agent = spool.start(&["--config", &config.to_string_lossy()]);
    spool.put("a.0.csv", &one(&csv([0], "x")));
    let waits = |s: &Spool, file: &str| {
        let claim = s.names("claimed").into_iter().next()?;
        Some(s.path("claimed").join(claim).join(file))
    };
    let due = |s: &Spool| {
        let record = fs::read(waits(s, ".waiting")?).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        record["next_ms"].as_u64()
    };
    spool.wait_for("the claim waits", |s| due(s).is_some());
    spool.put("b.0.csv", &one(&csv([0], "x")));
    spool.wait_for("the other table's commit", |s| s.names("done").len() == 1);
    // What has waited comes last in a round, so then the next round is what sees both.
    let next = due(&spool);
    spool.wait_for("another attempt on the claim", |s| due(s) > next);
    spool.wait_for("the agent is between two attempts", |s| {
        agent.signal(Signal::SIGSTOP);
        let lock = waits(s, ".lock").map(fs::File::open);
        let is_free = lock.is_some_and(|lock| lock.is_ok_and(|lock| lock.try_lock().is_ok()));
        if !is_free {
            agent.signal(Signal::SIGCONT);
        }
        is_free
    });
    let repair = ["repair", &spool.lake.uri, "--table", "a", "--discard"];
    spool.lake.run(&repair).ok();
    spool.put("b.1.csv", &one(&csv([1], "x")));
    spool.wait_for("the claim is due", |s| {
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        due(s).is_some_and(|due| u128::from(due) < now.as_millis())
    });
    agent.signal(Signal::SIGCONT);
    spool.wait_for("all", |s| s.names("done").len() == 3);
    agent.signal(Signal::SIGTERM);
    agent.wait().ok();
    let log = spool.lake.log();
    let version = |name: &str| {
        let entry = log.iter().find(|e| e["message"] == name).expect(name);
        entry["manifest_version"].as_u64().expect("a version")
    };
    assert!(version("b.1.csv") < version("a.0.csv"), "{log:?}");
    spool.assert_all_done();
}
