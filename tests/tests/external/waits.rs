//! What does not run now, why, and until when: `/status`, `squire plan` and `squire status` say it in the same words.

use crate::line::closed_now;
use crate::metrics::{Served, write_config};
use crate::{eventually, small_commits};
use serde_json::Value;
use squire_tests::{Lake, PATIENCE};
use std::path::PathBuf;
use std::process::Command;

/// What waits of `table` in a document of tables: kind, words, and whether an end is known.
fn waits(tables: &Value, table: &str) -> Vec<(String, String, bool)> {
    let all = tables.as_array().expect("tables").iter();
    let of = all.filter(|t| t["table"] == table);
    let waits = of.flat_map(|t| t["waits"].as_array().cloned().unwrap_or_default());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    waits
        .map(|w| (text(&w["kind"]), text(&w["held"]), w["until_ms"].is_u64()))
        .collect()
}

/// Three tables that are due, two of them outside of their windows.
fn scene() -> (Lake, String, String) {
    let tables = ["closed", "paused", "failing"];
    let lake = Lake::with_tables(&tables);
    small_commits(&lake, &tables, 0, 12);
    let token = lake.path("token");
    std::fs::write(&token, "correct-horse\n").expect("token");
    let token = token.to_string_lossy().into_owned();
    let window = closed_now();
    let config = format!(
        "[daemon]\ntoken_file = {token:?}\nscan_interval = \"1s\"\n\
         [policy]\nmin_candidate_fragments = 6\nfailures_before_cooldown = 1\nwindows = [\"{window}\"]\n\
         [[table]]\nname = \"failing\"\nwindows = []\n"
    );
    let config = write_config(&lake, &config);
    (lake, token, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_in_the_same_words_wherever_it_is_asked() {
    let (lake, token, config) = scene();
    let failing = "maintain.before_compact=return(error)";
    let args = ["daemon", &lake.uri, "--config", &config];
    let daemon = Served::start(&lake, Some(failing), &args);
    daemon.wait_ready();
    let at = daemon.address();
    let known = ["--daemon", &at, "--token-file", &token];
    let pause = ["pause", "--table", "paused", "--reason", "an audit"];
    lake.run(&[&pause[..], &known].concat()).ok();

    let expected = [
        ("closed", "its maintenance window opens at ", true),
        ("paused", "paused: all work of paused (an audit)", false),
        ("failing", "the last attempt failed; it rests until ", true),
    ];
    let shown = eventually("work that is held back", PATIENCE, || {
        let tables = daemon.status()["stores"][0]["tables"].clone();
        let all = expected.map(|(table, words, ends)| {
            let of = waits(&tables, table);
            let is = |w: &&(String, String, bool)| {
                w.0 == "compact" && w.1.starts_with(words) && w.2 == ends
            };
            of.iter().find(is).cloned()
        });
        let all: Option<Vec<_>> = all.into_iter().collect();
        all.ok_or(tables.to_string())
    });
    let waiting = daemon.status()["waiting"]["first"].clone();
    let of_board = waiting.as_array().expect("work").iter();
    let of_board = of_board
        .filter(|w| w["table"] == "closed")
        .map(|w| &w["until_ms"]);
    assert!(
        of_board.clone().count() > 0 && of_board.clone().all(Value::is_u64),
        "{waiting}"
    );

    for command in ["plan", "status"] {
        let asked = [command, &lake.uri, "--daemon", &at];
        let document = lake.run(&[&asked[..], &["--json"]].concat()).ok().json();
        assert_eq!(document["daemon"], daemon.status()["daemon"]);
        let told = lake.run(&asked).ok().stdout;
        for ((table, ..), (kind, held, ends)) in expected.iter().zip(&shown) {
            let of = waits(&document["tables"], table);
            let same = (kind.clone(), held.clone(), *ends);
            assert!(
                of.contains(&same),
                "{command} of {table}: {of:?} has no {same:?}"
            );
            let line = format!("{table}: {kind} waits: {held}");
            assert!(told.contains(&line), "{command}: no {line:?} in {told}");
        }
    }
    daemon.stop();
}

/// Without a daemon the windows of the configuration are known, and that nothing else is.
#[test]
fn without_a_daemon_windows_are_known() {
    let (lake, _, config) = scene();
    for command in ["plan", "status"] {
        let asked = [command, &lake.uri, "--config", &config];
        let document = lake.run(&[&asked[..], &["--json"]].concat()).ok().json();
        assert_eq!(document["daemon"], Value::Null);
        let closed = waits(&document["tables"], "closed");
        assert!(
            closed[0].1.starts_with("its maintenance window opens at "),
            "{document}"
        );
        assert_eq!(waits(&document["tables"], "failing"), []);
        let nowhere = [&asked[..], &["--daemon", "127.0.0.1:1"]].concat();
        let told = lake.run(&nowhere).ok().stdout;
        assert!(told.contains("no daemon answers on 127.0.0.1:1"), "{told}");
    }
}

/// A small file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and a word about it, where none may be mounted.
    fn mounted(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
        match mount.arg(&at).output() {
            Ok(done) if done.status.success() => Some(Self(at)),
            refused => {
                eprintln!("SKIPPED: no file system may be mounted here: {refused:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still has a file open there holds it for a moment.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// What would leave too little of its disk waits, cleanup goes first, and all of it ends with the shortage.
#[test]
fn on_a_disk_that_fills_compaction_waits_and_cleanup_goes_first() {
    let outside = Lake::new();
    let Some(disk) = SmallDisk::mounted(outside.path("disk")) else {
        return;
    };
    let uri = disk.0.join("lake").to_string_lossy().into_owned();
    let retention = ("SQUIRE_RETENTION".to_owned(), "0".to_owned());
    let lake = Lake::at(&uri, vec![retention]);
    lake.create_tables(&["small"]);
    small_commits(&lake, &["small"], 0, 12);
    let config = "[daemon]\nscan_interval = \"1s\"\n[budget]\nmin_free = \"50%\"\n\
                  [policy]\nmin_candidate_fragments = 6\nmin_versions = 1\n";
    let config = write_config(&lake, config);
    let filler = disk.0.join("of somebody else");
    std::fs::write(&filler, vec![0; 48 << 20]).expect("it fits");

    let daemon = Served::start(&lake, None, &["daemon", &lake.uri, "--config", &config]);
    let words = "room on its disk: ";
    let status = eventually("a compaction that waits", PATIENCE, || {
        let status = daemon.status();
        let of = waits(&status["stores"][0]["tables"], "small");
        let waits = of
            .iter()
            .any(|w| w.0 == "compact" && w.1.starts_with(words));
        let history = status["history"].as_array().cloned().unwrap_or_default();
        let cleaned = history.iter().any(|done| {
            (&done["kind"], &done["trigger"]) == (&"cleanup".into(), &"room".into())
                && done["versions_removed"].as_u64() > Some(0)
        });
        (waits && cleaned)
            .then_some(status.clone())
            .ok_or(status.to_string())
    });
    let disk_of = &status["stores"][0]["disk"];
    assert!(
        disk_of["free"].as_u64() < disk_of["min_free"].as_u64(),
        "{disk_of}"
    );
    let fragments = |status: &Value| status["stores"][0]["tables"][0]["fragments"].as_u64();
    assert_eq!(fragments(&status), Some(12));
    let (_, metrics) = daemon.get("/metrics");
    for name in ["squire_disk_free_bytes", "squire_disk_min_free_bytes"] {
        assert!(metrics.contains(&format!("{name}{{store=")), "{metrics}");
    }
    let at = daemon.address();
    for asked in [
        vec!["plan", &uri, "--daemon", &at],
        vec!["plan", &uri, "--config", &config],
        vec!["status", &uri, "--config", &config],
    ] {
        let told = lake.run(&asked).ok().stdout;
        let line = format!("small: compact waits: {words}");
        assert!(told.contains(&line), "{asked:?}: {told}");
    }
    let checked = lake.run(&["check", &uri, "--config", &config]);
    assert!(
        checked.stdout.contains("of its disk are free"),
        "{checked:?}"
    );

    std::fs::remove_file(filler).expect("it stands");
    daemon.wait_fragments_at_most("small", 2);
    let log = daemon.stop().stderr;
    let told = |level: &str, what: &str| {
        let is_it = |line: &&str| line.contains(level) && line.contains(what);
        log.lines().filter(is_it).count()
    };
    let told = (
        told("WARN", "work waits for room on its disk"),
        told("INFO", "no work waits for room on its disk any more"),
    );
    assert_eq!(told, (1, 1), "{log}");
    lake.run(&["verify", &uri]).ok();
}
