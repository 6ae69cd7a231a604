//! What the daemon's log says: one line for each attempt, by how it ended, and on every line of the engine what it is about.

use crate::metrics::Served;
use crate::{eventually, small_commits};
use nix::sys::signal::Signal;
use squire_tests::{Lake, PATIENCE};
use std::collections::BTreeMap;

/// How an attempt's line begins that says how it ended.
const ENDINGS: [&str; 4] = [
    "maintenance done",
    "maintenance was skipped",
    "maintenance was cancelled",
    "maintenance did not succeed",
];

/// The word after `name=` in a line.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let at = line.find(&format!("{name}="))? + name.len() + 1;
    line[at..].split([' ', '}', ':']).next()
}

/// A batch that a killed writer left is recovered, one of two compactions fails, and a cleanup finds nothing.
#[test]
fn each_attempt_has_one_line_and_each_line_says_what_it_is_about() {
    let lake = Lake::with_tables(&["t", "u"]);
    small_commits(&lake, &["t", "u"], 0, 20);
    let batch = lake.batch("dead", &["t"], 900..903);
    let killed = "write.after_phase_b=return(kill)";
    lake.with_seam(killed, &["commit", &lake.uri, &batch])
        .killed();
    let args = ["daemon", &lake.uri, "--grace", "0s"];
    let args = [&args[..], &["--log", "debug"]].concat();
    let failing = "maintain.before_compact=1*return(error)";
    let mut daemon = Served::start(&lake, Some(failing), &args);
    let of = |daemon: &Served, ending: &str| {
        let history = daemon.status()["history"].clone();
        let mut reports = history.as_array().expect("reports").iter();
        reports.any(|r| r["ending"] == ending)
    };
    for ending in ["failed", "success", "skipped"] {
        eventually(ending, PATIENCE, || {
            let ended = of(&daemon, ending);
            ended
                .then_some(())
                .ok_or(daemon.status()["history"].to_string())
        });
    }
    let attempts = daemon.status()["history"]
        .as_array()
        .expect("reports")
        .len();
    daemon.child.signal(Signal::SIGTERM);
    let done = daemon.child.wait_here();
    assert_eq!(done.code, Some(0), "{done:?}");

    let mut lines: BTreeMap<&str, u32> = BTreeMap::new();
    for line in done
        .stderr
        .lines()
        .filter(|l| ENDINGS.iter().any(|e| l.contains(e)))
    {
        let attempt = field(line, "attempt").unwrap_or_else(|| panic!("no attempt: {line}"));
        *lines.entry(attempt).or_default() += 1;
    }
    assert!(
        lines.len() >= attempts && lines.values().all(|n| *n == 1),
        "{}",
        done.stderr
    );

    let of_engine = done
        .stderr
        .lines()
        .filter(|l| l.contains("squire_engine::"));
    let of_engine: Vec<&str> = of_engine.collect();
    let is_attempt = |line: &&str| line.contains("attempt{") && line.contains("rewriting");
    let is_recovery = |line: &&str| line.contains("recover{");
    assert!(of_engine.iter().any(is_recovery), "{}", done.stderr);
    assert!(of_engine.iter().any(is_attempt), "{}", done.stderr);
    let location = format!("{:?}", lake.uri);
    for line in of_engine {
        assert_eq!(field(line, "location"), Some(&*location), "{line}");
    }
}
