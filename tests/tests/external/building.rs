//! systemd and people, while an index is built for long: what is held at a put takes as long as a test wants, as the training of a large one
//! takes twenty minutes.

use crate::metrics::{Served, heard_until, listen_at, write_config};
use crate::{eventually, small_commits};
use nix::sys::signal::Signal;
use squire_tests::{Lake, PATIENCE};
use std::time::{Duration, Instant};

/// What systemd waits for a sign of life.
const WATCHDOG: Duration = Duration::from_secs(1);

/// How many times as long the build is watched.
const PERIODS: u32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_the_daemon_while_an_index_is_built_for_long() {
    let mut lake = Lake::with_tables(&["t", "small"]);
    let rows = small_commits(&lake, &["t"], 0, 3);
    lake.run(&["index", &lake.uri, "t", "id", "--type", "btree"])
        .ok();
    let (socket, log) = (lake.path("notify"), lake.path("faults.log"));
    let words = listen_at(&socket);
    let never = lake.path("never");
    let set = |name: &str, value: String| (name.to_owned(), value);
    lake.env = vec![
        set(
            "SQUIRE_FAULTS",
            format!(
                "hold=t.lance/_indices@1:{};log={}",
                never.display(),
                log.display()
            ),
        ),
        set("NOTIFY_SOCKET", socket.to_string_lossy().into_owned()),
        set("WATCHDOG_USEC", WATCHDOG.as_micros().to_string()),
    ];
    let config = write_config(&lake, "[policy]\nmin_candidate_fragments = 6\n");
    let mut daemon = Served::start(&lake, None, &["daemon", &lake.uri, "--config", &config]);
    lake.env.clear();
    heard_until(&words, "READY=1");
    eventually("a build that stands", PATIENCE, || {
        let held = std::fs::read_to_string(&log).unwrap_or_default();
        held.contains("t.lance/_indices").then_some(()).ok_or(held)
    });

    // It goes on to say that it lives, and what it does.
    let began = Instant::now();
    let mut heard = heard_until(&words, "WATCHDOG=1");
    while began.elapsed() < PERIODS * WATCHDOG {
        heard.extend(heard_until(&words, "WATCHDOG=1"));
    }
    let pings: Vec<Instant> = heard
        .iter()
        .filter(|(_, word)| word == "WATCHDOG=1")
        .map(|(at, _)| *at)
        .collect();
    let gap = pings.windows(2).map(|two| two[1] - two[0]).max();
    assert!(gap < Some(WATCHDOG), "systemd would have ended it: {gap:?}");
    let doing = daemon.status()["attempts"].clone();
    assert_eq!(
        (&doing[0]["kind"], &doing[0]["table"]),
        (&"reindex".into(), &"t".into()),
        "{doing}"
    );
    assert_eq!(daemon.get("/readyz").0, 200);

    // It takes up a new configuration, and other work goes on under it.
    write_config(&lake, "[policy]\nmin_candidate_fragments = 3\n");
    daemon.child.signal(Signal::SIGHUP);
    heard_until(&words, "RELOADING=1");
    heard_until(&words, "READY=1");
    small_commits(&lake, &["small"], 100, 12);
    daemon.wait_fragments_at_most("small", 5);

    // A stop in the middle waits for nothing, and leaves nothing.
    daemon.child.signal(Signal::SIGTERM);
    heard_until(&words, "STOPPING=1");
    let done = daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.stderr.contains("drain time is over"), "{done:?}");
    let unindexed = || {
        lake.run(&["status", &lake.uri, "--table", "t", "--json"])
            .ok()
            .json()
    };
    let index = unindexed()["tables"][0]["indexes"][0].clone();
    assert_eq!(index["missing"], true, "half an index is none: {index}");
    assert_eq!(lake.rows("t").await, rows);

    // The next one builds it.
    lake.daemon_pass("0s").ok();
    let index = unindexed()["tables"][0]["indexes"][0].clone();
    assert_eq!(
        (&index["missing"], &index["unindexed_rows"]),
        (&false.into(), &0.into()),
        "{index}"
    );
    lake.assert_at_rest();
}
