//! A real Prometheus beside a real daemon: the alerts fire for what they are for, and every query of the dashboard has an answer.
//!
//! Hours are made seconds: the rules are those of `ops/prometheus`, with their waiting times shortened.

use crate::metrics::Served;
use crate::page::Scene;
use crate::{cache, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;
use squire_tests::{Lake, PATIENCE, loopback};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn ops(path: &str) -> String {
    let path = format!("{}/../ops/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).expect("a file of ops")
}

/// `rules` with `for:` of a second, and with each of `bounds` replaced, which must be there.
fn hurried(mut rules: String, bounds: &[(&str, &str)]) -> String {
    for (bound, short) in bounds {
        assert!(rules.contains(bound), "no rule says {bound}");
        rules = rules.replace(bound, short);
    }
    let lines = rules.lines().map(|line| match line.trim_start() {
        waits if waits.starts_with("for: ") => "        for: 1s",
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

struct Prometheus {
    process: Child,
    port: u16,
}

impl Prometheus {
    /// Starts one that scrapes `targets`, each a job and an address, every second.
    fn start(lake: &Lake, targets: &[(&str, String)], rules: &str) -> Self {
        let path = |name: &str| lake.path(name);
        std::fs::write(path("rules.yml"), rules).expect("rules");
        let job = |(job, target): &(&str, String)| {
            format!("  - job_name: {job}\n    static_configs: [{{targets: [\"{target}\"]}}]\n")
        };
        let jobs: String = targets.iter().map(job).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs:\n{jobs}"
        );
        std::fs::write(path("prometheus.yml"), config).expect("config");
        let port = loopback::free_port();
        let environment = std::env::var("PATH").unwrap_or_default();
        let process = Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                path("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .env(
                "PATH",
                format!("{environment}:{}", cache().join("bin").display()),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts; `make test` sets it up (ops/setup.sh --test)");
        let prometheus = Self { process, port };
        eventually("a Prometheus that answers", PATIENCE, || {
            prometheus.try_get("/-/ready").map_err(|e| e.to_string())
        });
        prometheus
    }

    fn try_get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok(body.to_owned())
    }

    /// What a query gives: how many series, or why it is none.
    fn query(&self, query: &str) -> Result<usize, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let body = self.try_get(&path).map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
        match (
            answer["status"].as_str(),
            answer["data"]["result"].as_array(),
        ) {
            (Some("success"), Some(series)) => Ok(series.len()),
            _ => Err(format!("{query}: {body}")),
        }
    }

    fn wait_for(&self, query: &str) {
        eventually(query, PATIENCE, || match self.query(query)? {
            0 => Err("no series".to_owned()),
            _ => Ok(()),
        });
    }

    fn fires(&self, alert: &str) {
        self.wait_for(&format!(
            "ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}"
        ));
    }

    fn is_silent(&self, alert: &str) {
        let firing = format!("ALERTS{{alertname=\"{alert}\"}}");
        assert_eq!(self.query(&firing), Ok(0), "{alert} fires");
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The queries of the dashboard, with what Grafana puts in for its variables.
fn queries() -> Vec<String> {
    fn collect(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(query)) = fields.get("expr") {
                    into.push(query.clone());
                }
                fields.values().for_each(|field| collect(field, into));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let dashboard = serde_json::from_str(&ops("grafana/squire.json")).expect("JSON");
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    let variables = [
        ("$instance", ".*"),
        ("$store", ".*"),
        ("$__rate_interval", "10s"),
    ];
    for query in &mut queries {
        for (variable, value) in variables {
            *query = query.replace(variable, value);
        }
        assert!(!query.contains('$'), "an unknown variable: {query}");
    }
    queries
}

#[test]
fn the_alerts_fire_for_a_daemon_that_is_stuck_starves_or_stops() {
    let Scene { lake, mut daemon } = Scene::new();
    let rules = hurried(
        ops("prometheus/squire.rules.yml"),
        &[
            (
                "squire_longest_still_seconds > 1500",
                "squire_longest_still_seconds > 4",
            ),
            (
                "squire_longest_wait_seconds > 2 * 3600",
                "squire_longest_wait_seconds > 4",
            ),
            (
                "squire_loop_turned_timestamp_seconds > 120",
                "squire_loop_turned_timestamp_seconds > 5",
            ),
        ],
    );
    let prometheus = Prometheus::start(&lake, &[("squire", daemon.address())], &rules);
    prometheus.wait_for("up{job=\"squire\"} == 1");
    // One attempt stands for good, and what waits behind it does so, too.
    prometheus.fires("SquireAttemptStands");
    prometheus.fires("SquireStarving");
    prometheus.fires("SquireUnreadable");
    for alert in [
        "SquireDown",
        "SquireLoopStands",
        "SquirePaused",
        "SquireInvariantViolated",
    ] {
        prometheus.is_silent(alert);
    }
    // A process that stands as a whole does not answer, as one that is gone.
    daemon.child.signal(Signal::SIGSTOP);
    prometheus.fires("SquireDown");
    daemon.child.signal(Signal::SIGCONT);
    eventually("it answers again", PATIENCE, || {
        match prometheus.query("ALERTS{alertname=\"SquireDown\"}")? {
            0 => Ok(()),
            _ => Err("it fires on".to_owned()),
        }
    });
    daemon.child.signal(Signal::SIGKILL);
    prometheus.fires("SquireDown");
}

#[test]
fn every_query_of_the_dashboard_has_an_answer() {
    // What nothing refers to is counted with the regular cleanups.
    let scene = Scene::with("scan_interval = \"1s\"\nfull_scan_interval = \"3s\"\n");
    let (lake, daemon) = (&scene.lake, &scene.daemon);
    lake.run(&["index", &lake.uri, "small", "id", "--type", "btree"])
        .ok();
    let spool = lake.path("spool");
    let name = spool.to_string_lossy().into_owned();
    let agent = Served::start(lake, None, &["agent", &lake.uri, "--spool", &name]);
    agent.wait_ready();
    let targets = [
        ("squire", daemon.address()),
        ("squire-agent", agent.address()),
    ];
    let rules = ops("prometheus/squire.rules.yml").replace("for: 15m", "for: 1s");
    let prometheus = Prometheus::start(lake, &targets, &rules);
    prometheus.wait_for("up{job=\"squire-agent\"} == 1");
    let batch = lake.csv("small.one.csv", [(1_000_000, "spooled".to_owned())]);
    std::fs::rename(batch, spool.join("incoming/small.one.csv")).expect("spooled");
    let queries = queries();
    assert!(queries.len() > 25, "{queries:#?}");
    for query in &queries {
        // What was counted since the daemon's start takes another count to have a rate.
        prometheus.wait_for(query);
    }
}

#[test]
fn every_alert_has_a_runbook_and_a_test() {
    let (rules, tests) = (
        ops("prometheus/squire.rules.yml"),
        ops("prometheus/squire.rules.test.yml"),
    );
    let named = |line: &str| Some(line.trim().strip_prefix("- alert: ")?.to_owned());
    let alerts: Vec<String> = rules.lines().filter_map(named).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    let folder = format!("{}/../ops/runbooks", env!("CARGO_MANIFEST_DIR"));
    let mut runbooks: Vec<String> = std::fs::read_dir(Path::new(&folder))
        .expect("runbooks")
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    runbooks.sort();
    let mut expected = alerts.clone();
    expected.sort();
    assert_eq!(runbooks, expected);
    for alert in alerts {
        let runbook = format!("runbook: ops/runbooks/{alert}.md");
        assert!(rules.contains(&runbook), "{alert} names no runbook");
        // One that fires together with another is tested by a pattern.
        let short = alert.trim_start_matches("Squire");
        assert!(tests.contains(short), "{alert} has no test");
    }
}
