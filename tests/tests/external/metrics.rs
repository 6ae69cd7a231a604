//! The daemon from outside: its HTTP endpoints, its metrics, its signals, its words to systemd.

use crate::{cache, client, eventually, small_commits, tagged, uri};
use lance::index::DatasetIndexExt;
use nix::sys::signal::Signal;
use serde_json::Value;
use squire_tests::{Child, Done, Lake, PATIENCE, loopback, squire};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// File events wake the daemon: what it notices must not wait for the scan, a minute apart by default.
const NOTICED: Duration = Duration::from_secs(30);

/// A running daemon or agent with an HTTP port.
pub(crate) struct Served {
    pub(crate) child: Child,
    port: u16,
}

impl Served {
    /// Starts `squire ARGS --listen ADDR` and waits until it answers.
    pub(crate) fn start(lake: &Lake, failpoints: Option<&str>, args: &[&str]) -> Self {
        let port = loopback::free_port();
        let listen = format!("127.0.0.1:{port}");
        let args = [args, &["--listen", &listen]].concat();
        let child = match failpoints {
            Some(failpoints) => lake.with_seam(failpoints, &args),
            None => lake.start(&args),
        };
        let served = Self { child, port };
        eventually("an answer", PATIENCE, || {
            served
                .try_request("GET", "/healthz", "")
                .map_err(|e| e.to_string())
        });
        served
    }

    pub(crate) fn daemon(lake: &Lake, args: &[&str]) -> Self {
        let served = Self::start(lake, None, &[&["daemon", lake.uri.as_str()], args].concat());
        served.wait_ready();
        served
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn wait_ready(&self) {
        eventually("ready", PATIENCE, || match self.get("/readyz") {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
    ) -> std::io::Result<(u16, String)> {
        loopback::ask(self.port, method, path, headers)
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        self.try_request(method, path, headers).expect("an answer")
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, "")
    }

    /// Where it answers.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) fn status(&self) -> Value {
        let (code, body) = self.get("/status");
        assert_eq!(code, 200);
        serde_json::from_str(&body).expect("JSON")
    }

    /// One table in `/status`.
    pub(crate) fn table(&self, name: &str) -> Option<Value> {
        let status = self.status();
        let tables = status["stores"][0]["tables"].as_array()?;
        tables.iter().find(|t| t["table"] == name).cloned()
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics");
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub(crate) fn wait_fragments_at_most(&self, table: &str, most: u64) {
        eventually("fewer fragments", NOTICED, || {
            let table = self.table(table).ok_or("no such table")?;
            let fragments = table["fragments"].as_u64().expect("fragments");
            if fragments > 0 && fragments <= most {
                Ok(())
            } else {
                Err(table.to_string())
            }
        });
    }

    /// SIGTERM ends it with exit code 0.
    pub(crate) fn stop(mut self) -> Done {
        self.child.signal(Signal::SIGTERM);
        self.child.wait().ok()
    }
}

fn promtool_accepts(text: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .env("PATH", format!("{path}:{}", cache().join("bin").display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts; `make test` sets it up (ops/setup.sh --test)");
    let mut stdin = promtool.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}\n{text}"
    );
}

pub(crate) fn write_config(lake: &Lake, text: &str) -> String {
    let path = lake.path("squire.toml");
    std::fs::write(&path, text).expect("config");
    path.to_string_lossy().into_owned()
}

fn ops(path: &str) -> String {
    format!("{}/../ops/{path}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_answer_and_promtool_accepts_the_metrics() {
    let lake = Lake::with_tables(&["flights", "weather"]);
    small_commits(&lake, &["flights", "weather"], 0, 18);
    lake.run(&["index", &lake.uri, "weather", "id", "--type", "btree"])
        .ok();
    let daemon = Served::daemon(&lake, &[]);

    assert_eq!(daemon.get("/healthz").0, 200);
    let table = daemon.table("flights").expect("the status names the table");
    assert_eq!(table["rows"], 36);
    assert_eq!(table["drift"], false);
    assert_eq!(daemon.status()["ready"], true);
    assert_eq!(daemon.get("/").0, 200);
    assert_eq!(daemon.get("/nothing").0, 404);
    let (code, _) = daemon.request("POST", "/api/v1/optimize", "");
    assert_eq!(code, 403, "changing calls are off without a token");

    // After a maintenance run every family has a sample.
    daemon.wait_fragments_at_most("flights", 1);
    let (code, text) = daemon.get("/metrics");
    assert_eq!(code, 200);
    let sample = format!("squire_rows{{store=\"{}\",table=\"flights\"}} 36", lake.uri);
    assert!(text.contains(&sample), "{text}");
    // The first round has read every table.
    for what in ["requests", "bytes"] {
        let series = format!(
            "squire_object_store_{what}_total{{op=\"read\",store=\"{}\"}} ",
            lake.uri
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        let counted: f64 = line.and_then(|value| value.parse().ok()).expect("traffic");
        assert!(counted > 0.0, "{what}: {text}");
    }
    promtool_accepts(&text);
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_metrics_are_accepted_by_promtool() {
    let lake = Lake::with_tables(&["flights"]);
    let spool = lake.path("spool").to_string_lossy().into_owned();
    let agent = Served::start(&lake, None, &["agent", &lake.uri, "--spool", &spool]);
    let batch = lake.csv("flights.one.csv", tagged("spooled", 0..3));
    let incoming = lake.path("spool").join("incoming/flights.one.csv");
    eventually("a spool", PATIENCE, || {
        std::fs::rename(&batch, &incoming).map_err(|e| e.to_string())
    });
    let done = lake.path("spool").join("done");
    eventually("the batch is done", PATIENCE, || {
        let files = std::fs::read_dir(&done).map_err(|e| e.to_string())?.count();
        if files > 0 {
            Ok(())
        } else {
            Err("nothing is done".to_owned())
        }
    });
    promtool_accepts(&agent.get("/metrics").1);
    agent.stop();
    assert_eq!(lake.rows("flights").await, tagged("spooled", 0..3));
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_calls_need_the_token() {
    let lake = Lake::with_tables(&["flights"]);
    let rows = small_commits(&lake, &["flights"], 0, 3);
    let token = lake.path("token");
    std::fs::write(&token, "correct-horse\n").expect("token");
    let config = format!("[daemon]\ntoken_file = \"{}\"\n", token.display());
    let daemon = Served::daemon(&lake, &["--config", &write_config(&lake, &config)]);

    let post = |headers: &str| {
        daemon
            .request("POST", "/api/v1/optimize?table=flights", headers)
            .0
    };
    assert_eq!(post(""), 401);
    assert_eq!(post("Authorization: Bearer battery-staple\r\n"), 401);
    assert_eq!(daemon.table("flights").expect("table")["fragments"], 3);
    assert_eq!(post("Authorization: Bearer correct-horse\r\n"), 200);
    daemon.wait_fragments_at_most("flights", 1);
    daemon.stop();
    assert_eq!(lake.rows("flights").await, rows);
    lake.assert_at_rest();
}

/// What was heard at a `NOTIFY_SOCKET`, until the given word, with the time of each.
pub(crate) fn heard_until(
    words: &mpsc::Receiver<(Instant, String)>,
    last: &str,
) -> Vec<(Instant, String)> {
    let mut heard = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((at, word)) = words.recv_timeout(left) else {
            panic!("{last} was not heard, only {heard:?}");
        };
        let found = word.starts_with(last);
        heard.push((at, word));
        if found {
            return heard;
        }
    }
}

pub(crate) fn listen_at(path: &Path) -> mpsc::Receiver<(Instant, String)> {
    let socket = UnixDatagram::bind(path).expect("a socket");
    let (sender, words) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            for line in text.lines() {
                if sender.send((Instant::now(), line.to_owned())).is_err() {
                    return;
                }
            }
        }
    });
    words
}

#[test]
fn systemd_hears_ready_status_watchdog_and_stopping() {
    let mut lake = Lake::with_tables(&["flights"]);
    small_commits(&lake, &["flights"], 0, 18);
    let socket = lake.path("notify");
    let words = listen_at(&socket);
    lake.env = vec![
        (
            "NOTIFY_SOCKET".to_owned(),
            socket.to_string_lossy().into_owned(),
        ),
        ("WATCHDOG_USEC".to_owned(), "200000".to_owned()),
    ];
    let daemon = Served::daemon(&lake, &[]);
    lake.env.clear();

    let mut heard = heard_until(&words, "READY=1");
    heard.extend(heard_until(&words, "WATCHDOG=1"));
    let before = heard.len();
    for _ in 0..4 {
        heard.extend(heard_until(&words, "WATCHDOG=1"));
    }
    let gap = heard[before..]
        .windows(2)
        .map(|w| w[1].0 - w[0].0)
        .max()
        .expect("pings");
    assert!(
        gap < Duration::from_millis(200),
        "a watchdog period without a ping: {gap:?}"
    );
    assert!(
        heard
            .iter()
            .any(|(_, w)| w.starts_with("STATUS=") && w.contains("compact flights")),
        "the status line says what is done: {heard:?}"
    );
    daemon.stop();
    heard_until(&words, "STOPPING=1");
}

#[test]
fn systemd_is_told_of_a_reload() {
    let mut lake = Lake::with_tables(&["flights"]);
    let socket = lake.path("notify");
    let words = listen_at(&socket);
    lake.env = vec![(
        "NOTIFY_SOCKET".to_owned(),
        socket.to_string_lossy().into_owned(),
    )];
    let config = write_config(&lake, "[policy]\n");
    let mut daemon = Served::daemon(&lake, &["--config", &config]);
    lake.env.clear();
    heard_until(&words, "READY=1");
    daemon.child.signal(Signal::SIGHUP);
    heard_until(&words, "RELOADING=1");
    heard_until(&words, "MONOTONIC_USEC=");
    heard_until(&words, "READY=1");
    daemon.stop();
}

#[test]
fn systemd_analyze_accepts_the_units() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("systemd-analyze is not here; the units are not verified");
        return;
    };
    assert!(version.status.success());
    let lake = Lake::new();
    let binary = squire().to_string_lossy().into_owned();
    for (unit, instance) in [
        ("squire.service", "squire.service"),
        ("squire-agent@.service", "squire-agent@events.service"),
    ] {
        let text = std::fs::read_to_string(ops(&format!("systemd/{unit}"))).expect("the unit");
        assert!(
            text.contains("ExecStart=/usr/bin/squire "),
            "{unit} starts the packaged binary"
        );
        // An address in use is a failure like others, and may be free later; what is refused as wrong stays wrong.
        let says = |line: &str| text.lines().any(|said| said == line);
        assert!(says("Restart=on-failure") && says("RestartPreventExitStatus=2"));
        let copy = lake.path(instance);
        std::fs::write(&copy, text.replace("/usr/bin/squire", &binary)).expect("a copy");
        let verify = Command::new("systemd-analyze")
            .arg("verify")
            .arg(&copy)
            .output();
        let output = verify.expect("systemd-analyze runs");
        let said = String::from_utf8_lossy(&output.stderr);
        // A systemd before 253 does not know notify-reload, and keeps the line before it.
        let mut lines = said.lines().filter(|line| !line.contains("notify-reload"));
        assert!(
            output.status.success() && !lines.any(|line| line.contains(instance)),
            "{unit}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_config_keeps_the_old_one_and_sets_a_metric() {
    let lake = Lake::with_tables(&["flights"]);
    let rows = small_commits(&lake, &["flights"], 0, 18);
    let config = write_config(&lake, "[policy]\nmin_candidate_fragments = 1000\n");
    let mut daemon = Served::daemon(&lake, &["--config", &config]);
    assert_eq!(daemon.metric("squire_config_reload_failed"), Some(0.0));
    let wait_metric = |daemon: &Served, value: f64| {
        eventually("squire_config_reload_failed", PATIENCE, || {
            match daemon.metric("squire_config_reload_failed") {
                Some(found) if (found - value).abs() < 0.5 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };

    write_config(
        &lake,
        "[policy]\nmin_candidate_fragments = 4\nno_such_key = 1\n",
    );
    daemon.child.signal(Signal::SIGHUP);
    wait_metric(&daemon, 1.0);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        daemon.table("flights").expect("table")["fragments"],
        18,
        "the old policy holds"
    );
    let errors = daemon.status()["last_errors"].to_string();
    assert!(
        errors.contains("squire.toml:3") && errors.contains("no_such_key"),
        "{errors}"
    );

    write_config(&lake, "[policy]\nmin_candidate_fragments = 4\n");
    daemon.child.signal(Signal::SIGHUP);
    wait_metric(&daemon, 0.0);
    daemon.wait_fragments_at_most("flights", 1);
    daemon.stop();
    assert_eq!(lake.rows("flights").await, rows);
    lake.assert_at_rest();
}

/// Nobody has to send a signal.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_config_is_reloaded() {
    let lake = Lake::with_tables(&["flights"]);
    small_commits(&lake, &["flights"], 0, 18);
    let config = write_config(&lake, "[policy]\nmin_candidate_fragments = 1000\n");
    let daemon = Served::daemon(&lake, &["--config", &config]);
    daemon.wait_ready();
    assert_eq!(daemon.table("flights").expect("table")["fragments"], 18);
    // As editors do it: a new file takes the old one's name.
    let edited = std::fs::read_to_string(&config)
        .expect("config")
        .replace("1000", "4");
    let beside = format!("{config}.new");
    std::fs::write(&beside, edited).expect("new config");
    std::fs::rename(&beside, &config).expect("replaced");
    daemon.wait_fragments_at_most("flights", 1);
    daemon.stop();
    lake.assert_at_rest();
}

/// A stop at a seam puts the signal into the middle of a pass.
#[tokio::test(flavor = "multi_thread")]
async fn crash_sighup_during_a_pass_still_reloads() {
    let lake = Lake::with_tables(&["flights", "weather"]);
    small_commits(&lake, &["flights"], 0, 5);
    small_commits(&lake, &["weather"], 0, 18);
    let config = write_config(&lake, "[policy]\nmin_candidate_fragments = 16\n");
    let seam = "maintain.before_compact=1*return(stop)";
    let args = ["daemon", &lake.uri, "--config", &config];
    let mut daemon = Served::start_stopped(&lake, seam, &args);
    write_config(&lake, "[policy]\nmin_candidate_fragments = 4\n");
    daemon.child.signal(Signal::SIGHUP);
    daemon.child.signal(Signal::SIGCONT);
    daemon.wait_ready();
    daemon.wait_fragments_at_most("flights", 1);
    daemon.stop();
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_sigterm_during_a_compaction_drains() {
    for seam in [
        "maintain.before_compact",
        "maintain.after_plan",
        "maintain.after_compact",
    ] {
        let lake = Lake::with_tables(&["flights"]);
        let rows = small_commits(&lake, &["flights"], 0, 18);
        let args = ["daemon", lake.uri.as_str()];
        let mut daemon = Served::start_stopped(&lake, &format!("{seam}=1*return(stop)"), &args);
        daemon.child.signal(Signal::SIGTERM);
        daemon.child.resume().ok();
        assert_eq!(lake.rows("flights").await, rows);
        lake.daemon_pass("0s").ok();
        assert_eq!(lake.rows("flights").await, rows);
        assert_eq!(lake.table_status("flights", "fragments"), 1);
        lake.assert_at_rest();
    }
}

impl Served {
    /// Starts it with a seam armed to stop it, and waits for that.
    fn start_stopped(lake: &Lake, failpoints: &str, args: &[&str]) -> Self {
        let port = loopback::free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut child = lake.with_seam(failpoints, &[args, &["--listen", &listen]].concat());
        child.wait_stopped();
        Self { child, port }
    }
}

#[test]
fn tables_created_after_the_start_are_discovered() {
    let lake = Lake::with_tables(&["flights"]);
    let daemon = Served::daemon(&lake, &[]);
    assert!(daemon.table("late").is_none());
    lake.create_tables(&["late"]);
    small_commits(&lake, &["late"], 0, 2);
    eventually("the new table in /status", NOTICED, || {
        let table = daemon.table("late").ok_or("not there")?;
        if table["rows"] == 4 {
            Ok(())
        } else {
            Err(table.to_string())
        }
    });
    assert!(daemon.table("flights").is_some());
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_compacts_by_itself_while_a_writer_goes_on() {
    let lake = Lake::with_tables(&["flights"]);
    let config = write_config(&lake, "[policy]\nmin_candidate_fragments = 6\n");
    let daemon = Served::daemon(&lake, &["--config", &config]);
    let rows = small_commits(&lake, &["flights"], 0, 20);
    daemon.wait_fragments_at_most("flights", 5);
    let status = daemon.status();
    assert!(
        status["maintenance"]["compactions"].as_u64() > Some(0),
        "{status}"
    );
    assert_eq!(status["maintenance"]["failures"], 0, "{status}");
    daemon.stop();
    assert_eq!(lake.rows("flights").await, rows);
    lake.assert_at_rest();
}

/// A floor above its pin, as no squire makes it: that table is left alone and said to be, the other is maintained.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_invariant_stops_that_table_alone() {
    let lake = Lake::with_tables(&["broken", "whole"]);
    small_commits(&lake, &["broken", "whole"], 0, 8);
    let mut manifest = lance::Dataset::open(&format!("{}/_squire/manifest.lance", lake.uri))
        .await
        .expect("the manifest");
    let floor = [("floor/broken", Some("1000"))];
    manifest.update_config(floor).await.expect("a bad floor");

    let config = write_config(&lake, "[policy]\nmin_candidate_fragments = 6\n");
    let daemon = Served::daemon(&lake, &["--config", &config]);
    daemon.wait_fragments_at_most("whole", 1);
    let broken = daemon.table("broken").expect("table");
    assert_eq!(broken["state"], "stopped", "{broken}");
    assert_eq!(broken["fragments"], 8, "{broken}");
    let reason = broken["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("I7") && reason.contains("broken"),
        "{reason}"
    );
    let violations = daemon.metric("squire_invariants_violated_total{invariant=\"I7\"}");
    assert_eq!(violations, Some(1.0), "it is counted once");
    daemon.stop();
}

/// One index whose files are gone: it is tried once and rests, and its sibling is extended as rows come.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_fails_rests_while_its_sibling_is_extended() {
    let lake = Lake::with_tables(&["t"]);
    for (column, kind) in [("id", "btree"), ("value", "bitmap")] {
        lake.run(&["index", &lake.uri, "t", column, "--type", kind])
            .ok();
    }
    small_commits(&lake, &["t"], 0, 4);
    lake.run(&["reindex", &lake.uri]).ok();
    let table = lance::Dataset::open(&format!("{}/t.lance", lake.uri)).await;
    let index = table.expect("table").load_index_by_name("id_idx").await;
    let uuid = index.expect("indexes").expect("built").uuid.to_string();
    let files = Path::new(&lake.uri).join("t.lance/_indices").join(uuid);
    std::fs::remove_dir_all(files).expect("its files");
    small_commits(&lake, &["t"], 100, 2);

    let config = write_config(&lake, "[daemon]\nscan_interval = \"1s\"\n");
    let daemon = Served::daemon(&lake, &["--config", &config]);
    let labels = format!("store=\"{}\",table=\"t\"", lake.uri);
    let rests = format!("squire_quarantined{{kind=\"reindex\",{labels}}}");
    let failed =
        format!("squire_maintenance_runs_total{{kind=\"reindex\",result=\"failed\",{labels}}}");
    let is_covered = |daemon: &Served| {
        eventually("a covering sibling", PATIENCE, || {
            let table = daemon.table("t").ok_or("no such table")?;
            let indexes = table["indexes"].as_array().cloned().unwrap_or_default();
            let value = indexes.iter().find(|i| i["name"] == "value_idx");
            match value.map(|i| &i["unindexed_rows"]) {
                Some(rows) if rows == 0 => Ok(()),
                _ => Err(table.to_string()),
            }
        });
    };
    for round in 0..3 {
        small_commits(&lake, &["t"], 200 + round * 10, 2);
        eventually("a look at the new rows", PATIENCE, || {
            let table = daemon.table("t").ok_or("no such table")?;
            let rows = lake.table_status("t", "rows");
            match table["rows"] == rows {
                true => Ok(()),
                false => Err(table.to_string()),
            }
        });
        is_covered(&daemon);
        assert_eq!(daemon.metric(&rests), Some(1.0));
        assert_eq!(daemon.metric(&failed), Some(1.0), "it was tried again");
    }
    let seen = daemon.table("t").expect("table");
    assert_eq!(seen["state"], "quarantined", "{seen}");
    let reason = seen["reason"].as_str().expect("a reason");
    assert!(reason.contains("rests: index id_idx"), "{reason}");
    daemon.stop();

    // Another process does not try it either, until its files are there again.
    let next = Served::daemon(&lake, &["--config", &config]);
    small_commits(&lake, &["t"], 300, 2);
    is_covered(&next);
    assert_eq!(next.metric(&rests), Some(1.0));
    assert_eq!(next.metric(&failed), None, "it was tried again");
    next.stop();
}

/// The files of a run that died are counted until recovery may take it for dead, and then they are gone.
#[test]
fn stranded_bytes_are_shown_until_they_are_reclaimed() {
    let lake = Lake::with_tables(&["t"]);
    small_commits(&lake, &["t"], 0, 4);
    let seam = "maintain.after_rewrite=1*return(kill)";
    lake.with_seam(seam, &["optimize", &lake.uri]).killed();
    let of_store = |name: &str| format!("{name}{{store=\"{}\"}}", lake.uri);
    let wait_for = |daemon: &Served, name: &str, holds: fn(f64) -> bool| {
        eventually(name, PATIENCE, || {
            let value = daemon.metric(&of_store(name));
            value.filter(|v| holds(*v)).ok_or(format!("{value:?}"))
        })
    };
    let patient = Served::daemon(&lake, &[]);
    let bytes = wait_for(&patient, "squire_stranded_bytes", |bytes| bytes > 0.0);
    patient.stop();
    let hasty = Served::daemon(&lake, &["--grace", "0s"]);
    let reclaimed = "squire_stranded_bytes_reclaimed_total";
    assert_eq!(wait_for(&hasty, reclaimed, |bytes| bytes > 0.0), bytes);
    wait_for(&hasty, "squire_stranded_bytes", |bytes| bytes == 0.0);
    hasty.stop();
    lake.assert_at_rest();
}

#[test]
fn the_packaged_config_is_accepted_as_it_is_and_with_every_default_written_out() {
    let lake = Lake::with_tables(&["flights"]);
    let packaged = ops("config/squire.toml");
    lake.run(&["daemon", "--config", &packaged, "--once", &lake.uri])
        .ok();

    let text = std::fs::read_to_string(&packaged).expect("the packaged config");
    let mut settings = 0;
    let written: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => {
                settings += 1;
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(settings > 20, "{settings} settings are written out");
    let config = write_config(&lake, &written);
    lake.run(&["daemon", "--config", &config, "--once", &lake.uri])
        .ok();

    let unknown = write_config(&lake, &format!("{text}\nno_such_key = 1\n"));
    lake.run(&["daemon", "--config", &unknown, "--once", &lake.uri])
        .failed(2, "no_such_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_shows_in_status_and_metrics_and_goes_with_its_repair() {
    let lake = Lake::with_tables(&["flights"]);
    let rows = small_commits(&lake, &["flights"], 0, 2);
    let daemon = Served::daemon(&lake, &[]);
    let wait_drift = |drift: bool| {
        eventually("drift noticed", NOTICED, || {
            let table = daemon.table("flights").ok_or("no such table")?;
            if table["drift"] == drift {
                Ok(())
            } else {
                Err(table.to_string())
            }
        });
        let sample = |value| {
            format!(
                "squire_drift{{store=\"{}\",table=\"flights\"}} {value}",
                lake.uri
            )
        };
        let (_, text) = daemon.get("/metrics");
        assert!(text.contains(&sample(u8::from(drift))), "{text}");
    };
    wait_drift(false);
    client(
        &lake,
        &["append", &uri(&lake, "flights"), "1000", "1003", "ext"],
    );
    wait_drift(true);
    let reason = daemon.table("flights").expect("table")["reason"].to_string();
    assert!(
        reason.contains("squire repair"),
        "it says what to do: {reason}"
    );
    lake.run(&["repair", &lake.uri, "--table", "flights", "--discard"])
        .ok();
    wait_drift(false);
    daemon.stop();
    assert_eq!(lake.rows("flights").await, rows);
    lake.assert_at_rest();
}

/// A place is opened over the network; until it answers, the daemon must listen to its signals.
#[test]
fn signals_are_obeyed_while_a_place_does_not_answer() {
    let lake = Lake::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port that never answers");
    let config = format!(
        "[[watch]]\nuri = \"s3://silent/lake\"\n[watch.storage_options]\nregion = \"us-east-1\"\n\
         access_key_id = \"test\"\nsecret_access_key = \"test\"\nallow_http = \"true\"\n\
         endpoint = \"http://{}\"\n",
        silent.local_addr().expect("its address")
    );
    let config = write_config(&lake, &config);
    let mut daemon = Served::start(&lake, None, &["daemon", "--config", &config]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(daemon.get("/readyz").0, 503);
    daemon.child.signal(Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(
        daemon.get("/healthz").0,
        200,
        "SIGHUP reloads, it does not end the daemon"
    );
    daemon.stop();
}

#[test]
fn reload_takes_up_a_new_watch() {
    let lake = Lake::with_tables(&["flights"]);
    let other = Lake::with_tables(&["weather"]);
    let watch = |uri: &str| format!("[[watch]]\nuri = \"{uri}\"\n");
    let config = write_config(&lake, &watch(&lake.uri));
    let mut daemon = Served::start(&lake, None, &["daemon", "--config", &config]);
    daemon.wait_ready();
    // Past the wakes of the start.
    std::thread::sleep(Duration::from_secs(2));
    write_config(&lake, &[watch(&lake.uri), watch(&other.uri)].concat());
    daemon.child.signal(Signal::SIGHUP);
    eventually("the new store in /status", NOTICED, || {
        let stores = daemon.status()["stores"].clone();
        if stores.to_string().contains("weather") {
            Ok(())
        } else {
            Err(stores.to_string())
        }
    });
    daemon.stop();
}

/// A directory with a copy of the store's table `t`, as someone else's plain table.
fn plain_directory(lake: &Lake) -> String {
    let directory = lake.path("plain");
    std::fs::create_dir_all(&directory).expect("a directory");
    let table = Path::new(&lake.uri).join("t.lance");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(table)
        .arg(&directory)
        .status();
    assert!(copied.expect("cp").success());
    directory.to_string_lossy().into_owned()
}

const EVERY_SECOND: &str = "[daemon]\nscan_interval = \"1s\"\n";

/// As plain tables, the versions that the new store pins would be cleaned away.
#[test]
fn a_watched_directory_that_becomes_a_store_is_maintained_as_one() {
    let lake = Lake::with_tables(&["t"]);
    small_commits(&lake, &["t"], 0, 2);
    let directory = plain_directory(&lake);
    let config = write_config(&lake, EVERY_SECOND);
    let daemon = Served::start(&lake, None, &["daemon", &directory, "--config", &config]);
    daemon.wait_ready();
    assert!(daemon.table("t.lance").is_some());
    lake.run(&["init", &directory]).ok();
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    lake.run(&["create", &directory, "v", "--schema", &schema])
        .ok();
    eventually("the tables that the store pins", NOTICED, || {
        match (daemon.table("v"), daemon.table("t.lance")) {
            (Some(_), None) => Ok(()),
            _ => Err(daemon.status()["stores"].to_string()),
        }
    });
    daemon.stop();
}

/// What a reload takes up of a place that is open, and what it says of a setting that it cannot take up.
#[test]
fn reload_opens_a_changed_watch_anew_and_names_what_needs_a_restart() {
    let lake = Lake::with_tables(&["t"]);
    small_commits(&lake, &["t"], 0, 2);
    let directory = plain_directory(&lake);
    let watch = format!("[[watch]]\nuri = \"{directory}\"\n");
    let config = write_config(&lake, &watch);
    let mut daemon = Served::start(&lake, None, &["daemon", "--config", &config]);
    daemon.wait_ready();
    let changed = format!("[daemon]\ngrace = \"5s\"\n{watch}kind = \"store\"\n");
    write_config(&lake, &changed);
    daemon.child.signal(Signal::SIGHUP);
    let unreadable = format!("squire_unreadable{{store=\"{directory}\",table=\"\"}}");
    eventually(
        "the new kind, which is not there",
        NOTICED,
        || match daemon.metric(&unreadable) {
            Some(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    let outcome = daemon.status()["reload"]["outcome"].clone();
    assert_eq!(outcome["result"], "applied");
    assert_eq!(outcome["applied"][0], format!("watch {directory}: kind"));
    assert_eq!(outcome["needs_restart"][0], "daemon.grace");
    daemon.child.signal(Signal::SIGTERM);
    let done = daemon.child.wait().ok();
    assert!(
        done.stderr.contains("daemon.grace needs a restart"),
        "{done:?}"
    );
    assert!(!done.stderr.contains("daemon.listen"), "{done:?}");
}

/// A directory that goes with its disk looks empty to a listing.
#[test]
fn a_watched_directory_that_is_gone_is_told_until_it_is_back() {
    let lake = Lake::with_tables(&["t"]);
    small_commits(&lake, &["t"], 0, 2);
    let directory = plain_directory(&lake);
    let config = write_config(&lake, EVERY_SECOND);
    let daemon = Served::start(&lake, None, &["daemon", &directory, "--config", &config]);
    daemon.wait_ready();
    let unreadable = format!("squire_unreadable{{store=\"{directory}\",table=\"\"}}");
    let wait_for = |wanted: Option<f64>| {
        eventually("whether it is unreadable", NOTICED, || {
            match daemon.metric(&unreadable) {
                found if found == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    wait_for(None);
    let away = lake.path("away");
    std::fs::rename(&directory, &away).expect("it goes");
    wait_for(Some(1.0));
    let errors = daemon.status()["last_errors"].to_string();
    assert!(errors.contains(&directory), "{errors}");
    std::fs::rename(&away, &directory).expect("it comes back");
    wait_for(None);
    // A disk that was unmounted leaves the empty folder that it was mounted on.
    std::fs::rename(&directory, &away).expect("it goes again");
    std::fs::create_dir(&directory).expect("an empty folder");
    wait_for(Some(1.0));
    std::fs::remove_dir(&directory).expect("as it was");
    std::fs::rename(&away, &directory).expect("it comes back again");
    wait_for(None);
    assert_eq!(daemon.table("t.lance").expect("the table")["rows"], 4);
    daemon.stop();
}
