//! What does not run now, why, and until when: `/status`, `squire plan` and `squire status` say it in the same words.

use crate::line::closed_now;
use crate::metrics::{Served, write_config};
use crate::{eventually, small_commits};
use serde_json::Value;
use squire_tests::{Lake, PATIENCE};

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
