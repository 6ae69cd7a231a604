//! Nothing waits behind an attempt: one is held at a put, for good, and the daemon goes on with all else.

use crate::metrics::{Served, heard_until, listen_at, write_config};
use crate::{eventually, small_commits, tagged};
use nix::sys::signal::Signal;
use squire_tests::{Lake, PATIENCE};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Fragments of `big` before anything is done to it: three tasks of eight.
const FRAGMENTS: i64 = 24;

/// Small enough a budget for `big` to be a heavy attempt and `small` a light one.
const CONFIG: &str =
    "[budget]\nmemory = \"1MiB\"\n[policy]\nmin_candidate_fragments = 6\nmax_task_fragments = 8\n";

/// Text that does not get much smaller when it is compressed.
fn noise(id: i64) -> String {
    let mut state = id.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    (0..6).map(|_| word()).collect()
}

/// A store with a large table and a small one, and a daemon whose third put of a data file of the large one never ends.
struct Scene {
    lake: Lake,
    big: Vec<(i64, String)>,
    small: Vec<(i64, String)>,
    daemon: Served,
    words: Receiver<(Instant, String)>,
}

impl Scene {
    fn new(daemon: &str) -> Self {
        let mut lake = Lake::with_tables(&["big", "small"]);
        let mut big = Vec::new();
        for fragment in 0..FRAGMENTS {
            let ids = fragment * 400..(fragment + 1) * 400;
            let rows: Vec<(i64, String)> = ids.map(|id| (id, noise(id))).collect();
            let file = lake.csv("rows.csv", rows.iter().cloned());
            lake.run(&["write", &lake.uri, "big", &file]).ok();
            big.extend(rows);
        }
        let small = small_commits(&lake, &["small"], 0, 2);
        let (socket, log) = (lake.path("notify"), lake.path("faults.log"));
        let words = listen_at(&socket);
        let never = lake.path("never");
        let faults = format!(
            "hold=big.lance/data@3:{};log={}",
            never.display(),
            log.display()
        );
        let set = |name: &str, value: String| (name.to_owned(), value);
        lake.env = vec![
            set("SQUIRE_FAULTS", faults),
            set("NOTIFY_SOCKET", socket.to_string_lossy().into_owned()),
            set("WATCHDOG_USEC", "2000000".to_owned()),
        ];
        let token = lake.path("token");
        std::fs::write(&token, "correct-horse\n").expect("token");
        let token = format!("[daemon]\ntoken_file = \"{}\"\n{daemon}", token.display());
        let config = write_config(&lake, &format!("{token}{CONFIG}"));
        let args = ["daemon", &lake.uri, "--config", &config];
        let daemon = Served::start(&lake, None, &args);
        lake.env.clear();
        eventually("an attempt that stands", PATIENCE, || {
            let held = std::fs::read_to_string(&log).unwrap_or_default();
            held.contains("big.lance").then_some(()).ok_or(held)
        });
        Self {
            lake,
            big,
            small,
            daemon,
            words,
        }
    }

    /// What was finished is there, and nothing else has changed.
    async fn assert_kept(&self, more: u64) {
        // Two tasks of three were through: sixteen fragments became two.
        let fragments = self.lake.table_status("big", "fragments");
        assert_eq!(fragments, 10 + more, "what was finished is kept");
        assert_eq!(self.lake.rows("big").await, self.big);
        assert_eq!(self.lake.rows("small").await, self.small);
        self.lake.assert_at_rest();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_behind_an_attempt_that_stands() {
    let mut scene = Scene::new("");
    let daemon = &scene.daemon;
    daemon.wait_ready();
    heard_until(&scene.words, "READY=1");

    // Another table is compacted.
    let more = small_commits(&scene.lake, &["small"], 100, 18);
    scene.small.extend(more);
    daemon.wait_fragments_at_most("small", 5);

    // The table itself is observed as ever, and left alone.
    let added = tagged("added", 1_000_000..1_000_002);
    let file = scene.lake.csv("added.csv", added.iter().cloned());
    scene
        .lake
        .run(&["write", &scene.lake.uri, "big", &file])
        .ok();
    scene.big.extend(added);
    let rows = scene.big.len();
    eventually("the new rows in /status", PATIENCE, || {
        let big = daemon.table("big").ok_or("no such table")?;
        let fresh = big["rows"] == rows && big["phase"] == "running";
        fresh.then_some(()).ok_or(big.to_string())
    });
    let attempts = daemon.status()["attempts"].clone();
    let what = attempts[0]["what"].as_str().expect("what it is");
    assert!(what.starts_with("compact big: 24 candidate"), "{attempts}");
    assert_eq!(daemon.get("/readyz").0, 200);
    assert_eq!(daemon.get("/healthz").0, 200);

    // A request is obeyed, and a reload.
    let bearer = "Authorization: Bearer correct-horse\r\n";
    let post = |path: &str| daemon.request("POST", path, bearer).0;
    assert_eq!(post("/api/v1/optimize?table=small"), 200);
    // How many are left depends on how many rewrites there were: one larger than all others together waits.
    daemon.wait_fragments_at_most("small", 5);
    assert_eq!(post("/api/v1/recover"), 200);
    let config = scene.lake.path("squire.toml");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let text = text.replace("min_candidate_fragments = 6", "min_candidate_fragments = 3");
    std::fs::write(&config, text).expect("the configuration");
    scene.daemon.child.signal(Signal::SIGHUP);
    heard_until(&scene.words, "RELOADING=1");
    heard_until(&scene.words, "READY=1");
    let more = small_commits(&scene.lake, &["small"], 200, 4);
    scene.small.extend(more);
    scene.daemon.wait_fragments_at_most("small", 5);
    heard_until(&scene.words, "WATCHDOG=1");

    // A stop does not wait for it any longer than it may, and keeps what it had finished.
    scene.daemon.child.signal(Signal::SIGTERM);
    let done = scene.daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.stderr.contains("maintenance was cancelled"),
        "{done:?}"
    );
    assert!(!done.stderr.contains("drain time is over"), "{done:?}");
    heard_until(&scene.words, "STOPPING=1");
    scene.assert_kept(1).await;
}

/// A rewrite in hand may be a fragment of full size: a stop gives it some time, and begins no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_the_rewrite_in_hand() {
    let mut scene = Scene::new("");
    scene.daemon.child.signal(Signal::SIGTERM);
    heard_until(&scene.words, "STOPPING=1");
    std::fs::write(scene.lake.path("never"), "").expect("what it waits for");
    let done = scene.daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(scene.lake.table_status("big", "fragments"), 3, "{done:?}");
    assert_eq!(scene.lake.rows("big").await, scene.big);
    scene.lake.assert_at_rest();
}

/// Only the attempt is stopped: systemd hears the daemon all the time.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_hangs_is_stopped_and_the_daemon_lives() {
    let mut scene = Scene::new("watchdog_progress = \"2s\"\n");
    let daemon = &scene.daemon;
    let detail = eventually("a report", PATIENCE, || {
        let history = daemon.status()["history"].clone();
        let reports = history.as_array().expect("reports").iter();
        let mut compactions = reports.filter(|r| r["kind"] == "compact" && r["table"] == "big");
        let failed = compactions.next_back().filter(|r| r["ending"] == "failed");
        let detail = failed.and_then(|r| r["detail"].as_str());
        detail.map(str::to_owned).ok_or(history.to_string())
    });
    assert!(detail.contains("without progress"), "{detail}");
    let heard = heard_until(&scene.words, "READY=1");
    let mut pings: Vec<Instant> = heard.into_iter().map(|(at, _)| at).collect();
    while let Ok((at, word)) = scene.words.try_recv() {
        if word == "WATCHDOG=1" {
            pings.push(at);
        }
    }
    let gap = pings.windows(2).map(|two| two[1] - two[0]).max();
    assert!(gap < Some(Duration::from_secs(2)), "{gap:?}");
    assert_eq!(daemon.get("/healthz").0, 200);
    scene.daemon.child.signal(Signal::SIGTERM);
    let done = scene.daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.stderr
            .contains("an attempt does not move and is stopped"),
        "{done:?}"
    );
    scene.assert_kept(0).await;
}

/// What people say to a daemon: pauses that survive a restart, one attempt stopped, a drain.
#[tokio::test(flavor = "multi_thread")]
async fn people_pause_cancel_and_drain() {
    let mut lake = Lake::with_tables(&["t", "u"]);
    let (state, token) = (lake.path("state"), lake.path("token"));
    std::fs::create_dir_all(&state).expect("a directory");
    std::fs::write(&token, "correct-horse\n").expect("token");
    let token = token.to_string_lossy().into_owned();
    let set = |name: &str, value: String| (name.to_owned(), value);
    lake.env = vec![set("STATE_DIRECTORY", state.to_string_lossy().into_owned())];
    let config = format!(
        "[daemon]\ntoken_file = {token:?}\n[policy]\nmin_candidate_fragments = 6\nmax_versions = 5\n"
    );
    let config = write_config(&lake, &config);
    let start = || {
        let args = ["daemon", &lake.uri, "--config", &config];
        let daemon = Served::start(&lake, None, &args);
        daemon.wait_ready();
        daemon
    };
    let ask = |daemon: &Served, args: &[&str]| {
        let at = daemon.address();
        let known = ["--daemon", &at, "--token-file", &token, "--json"];
        lake.run(&[args, &known].concat())
    };
    let daemon = start();
    let pause = [
        "pause", "--table", "t", "--kind", "compact", "--reason", "an audit",
    ];
    let answer = ask(&daemon, &pause).ok().json();
    assert_eq!(answer["survives_restart"], true);
    ask(&daemon, &["pause", "--table", "nobody"]).failed(1, "no table");
    ask(&daemon, &["cancel", "--attempt", "99"]).failed(1, "attempt 99 is not at work");
    let wrong = lake.path("wrong");
    std::fs::write(&wrong, "wrong\n").expect("token");
    let (at, wrong) = (daemon.address(), wrong.to_string_lossy().into_owned());
    lake.run(&["drain", "--daemon", &at, "--token-file", &wrong])
        .failed(2, "wrong token");
    lake.run(&["drain"]).failed(2, "--token-file");
    daemon.stop();

    // After a restart it still holds: the other table is compacted, this one waits with the reason.
    let daemon = start();
    small_commits(&lake, &["t", "u"], 0, 12);
    daemon.wait_fragments_at_most("u", 5);
    let held = eventually("work that waits", PATIENCE, || {
        let waiting = daemon.status()["waiting"].clone();
        let first = waiting["first"].as_array().expect("work").clone();
        let held = first
            .into_iter()
            .find(|w| w["table"] == "t" && w["kind"] == "compact");
        held.ok_or(waiting.to_string())
    });
    assert_eq!(held["held"], "paused: compact of t (an audit)");
    assert!(lake.table_status("t", "fragments").as_u64() >= Some(12));
    let answer = ask(&daemon, &["resume", "--table", "t.lance"]).ok().json();
    assert_eq!(answer["lifted"].as_array().map(Vec::len), Some(1));
    daemon.wait_fragments_at_most("t", 5);

    let answer = ask(&daemon, &["pause"]).ok().json();
    assert_eq!(answer["accepted"], "pause");
    small_commits(&lake, &["u"], 100, 12);
    eventually("work of u that waits", PATIENCE, || {
        let waiting = daemon.status()["waiting"].clone();
        (waiting["count"].as_u64() > Some(0))
            .then_some(())
            .ok_or(waiting.to_string())
    });
    let answer = ask(&daemon, &["drain"]).ok().json();
    let handed_back = answer["handed_back"].as_array().expect("work").clone();
    let is_u = |w: &serde_json::Value| w["table"] == "u" && w["was"] == "waiting";
    assert!(handed_back.iter().any(is_u), "{answer}");
    let drain = eventually("the end of the drain", PATIENCE, || {
        let drain = daemon.status()["drain"].clone();
        (drain["done"] == true)
            .then_some(drain.clone())
            .ok_or(drain.to_string())
    });
    assert!(
        drain["handed_back"]
            .as_array()
            .expect("work")
            .iter()
            .any(is_u)
    );
    assert_eq!(daemon.get("/readyz").0, 503);
    let mut daemon = daemon;
    daemon.child.signal(Signal::SIGTERM);
    let done = daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("this is handed back"), "{done:?}");
    assert!(done.stderr.contains("compact u (waiting)"), "{done:?}");

    // A state that cannot be understood starts nothing.
    std::fs::write(state.join("pauses.json"), "{").expect("the file");
    lake.run(&["daemon", &lake.uri, "--once"])
        .failed(3, "pauses.json is damaged");
}

/// One attempt is stopped by its number; the others go on, and what it had finished is kept.
#[tokio::test(flavor = "multi_thread")]
async fn one_attempt_is_cancelled_by_its_number() {
    let mut scene = Scene::new("");
    let daemon = &scene.daemon;
    let number = daemon.status()["attempts"][0]["attempt"]
        .as_u64()
        .expect("a number");
    let post = |path: &str| {
        let bearer = "Authorization: Bearer correct-horse\r\n";
        daemon.request("POST", path, bearer).0
    };
    assert_eq!(post(&format!("/api/v1/cancel?attempt={}", number + 1)), 404);
    assert_eq!(post(&format!("/api/v1/cancel?attempt={number}")), 200);
    eventually("its end", PATIENCE, || {
        let history = daemon.status()["history"].clone();
        let mut reports = history.as_array().expect("reports").iter();
        let ended = reports.any(|r| r["attempt"] == number && r["ending"] == "cancelled");
        ended.then_some(()).ok_or(history.to_string())
    });
    scene.daemon.child.signal(Signal::SIGTERM);
    let done = scene.daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("someone asked for it"), "{done:?}");
    scene.assert_kept(0).await;
}

/// The end of a window stops what runs, and keeps what it had finished; until it opens again nothing is begun.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_window_stops_work() {
    let mut scene = Scene::new("");
    // The window that is closed now ends the attempt, as the passing of time would.
    let config = scene.lake.path("squire.toml");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let closed = format!("[policy]\nwindows = [\"{}\"]", closed_now());
    std::fs::write(&config, text.replace("[policy]", &closed)).expect("the configuration");
    scene.daemon.child.signal(Signal::SIGHUP);
    let more = small_commits(&scene.lake, &["small"], 100, 18);
    scene.small.extend(more);
    let daemon = &scene.daemon;
    eventually("the end of what ran", PATIENCE, || {
        let history = daemon.status()["history"].clone();
        let mut reports = history.as_array().expect("reports").iter();
        let ended =
            reports.any(|r| r["table"] == "big" && r["detail"] == "its maintenance window ended");
        ended.then_some(()).ok_or(history.to_string())
    });
    eventually("work that waits for its window", PATIENCE, || {
        let status = daemon.status();
        let waiting = status["waiting"]["first"].to_string();
        let told = waiting.contains("its maintenance window opens at");
        told.then_some(()).ok_or(waiting)
    });
    scene.daemon.child.signal(Signal::SIGTERM);
    let done = scene.daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(scene.lake.table_status("small", "fragments"), 20);
    scene.assert_kept(0).await;
}

/// A window that opens half a day from now.
pub(crate) fn closed_now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let hour = seconds.expect("a time").as_secs() / 3_600 % 24;
    format!("{:02}:00-{:02}:00", (hour + 12) % 24, (hour + 13) % 24)
}

/// A location that cannot be opened is counted; while it is the only one, the daemon is not ready.
#[test]
fn locations_that_are_not_open_are_counted() {
    let lake = Lake::with_tables(&["t"]);
    let missing = lake.path("missing").to_string_lossy().into_owned();
    let not_open = |daemon: &Served, expected: f64| {
        eventually("the locations that are not open", PATIENCE, || match daemon
            .metric("squire_locations_not_open")
        {
            Some(found) if (found - expected).abs() < 0.5 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    let both = Served::start(&lake, None, &["daemon", &missing, &lake.uri]);
    both.wait_ready();
    not_open(&both, 1.0);
    both.stop();

    let config = write_config(&lake, "[daemon]\nscan_interval = \"1s\"\n");
    let daemon = Served::start(&lake, None, &["daemon", &missing, "--config", &config]);
    let unreadable = format!("squire_unreadable{{store=\"{missing}\",table=\"\"}}");
    eventually("it was tried", PATIENCE, || {
        daemon
            .metric(&unreadable)
            .map(drop)
            .ok_or("not yet".to_owned())
    });
    assert_eq!(daemon.get("/readyz").0, 503);
    assert_eq!(daemon.get("/healthz").0, 200);
    not_open(&daemon, 1.0);
    lake.run(&["init", &missing]).ok();
    daemon.wait_ready();
    not_open(&daemon, 0.0);
    daemon.stop();
}
