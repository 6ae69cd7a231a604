//! What the tools print stands in `ops/tools.md`, of a store that is made here from the demo's data (`UPDATE_DOCS=1` writes it; `make
//! docs` does that). Numbers, sizes, times and names of operations are of that day; all else has to be what is printed now.

use squire_tests::{Done, Lake};
use std::path::{Path, PathBuf};

/// The commands, without the store, and what they are for.
const SHOWN: [(&[&str], &str); 9] = [
    (
        &["status"],
        "The health of every table, problems first, and what is due.",
    ),
    (
        &["check"],
        "Has anybody to act? One line per location; the exit code says it, too.",
    ),
    (
        &["history", "--limit", "6"],
        "What maintenance did, and what came of it.",
    ),
    (
        &["replay", "--table", "weather", "--policy", "new.toml"],
        "What another policy would have done (here `min_candidate_fragments = 6`), against what happened.",
    ),
    (
        &["verify"],
        "Whether all that any version refers to is there.",
    ),
    (
        &["debug", "manifest"],
        "What the newest version of the manifest holds.",
    ),
    (
        &["debug", "sidecar"],
        "Operations that have no end yet: here a commit whose process was killed between its two tables.",
    ),
    (&["recover", "--force"], "What is done about it."),
    (
        &["bugreport"],
        "What a maintainer asks for first; it holds no rows and no credentials. What is of this machine, and most settings, are left out here.",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Twenty loads of the weather, two passes of the daemon, and a commit that died half-way.
fn store() -> Lake {
    let lake = Lake::new();
    let data = |table: &str| {
        let file = root().join(format!("ops/demo/data/{table}.parquet"));
        file.to_string_lossy().into_owned()
    };
    for (table, key) in [("planes", "tailnum"), ("airlines", "carrier")] {
        lake.run(&[
            "create",
            &lake.uri,
            table,
            "--like",
            &data(table),
            "--key",
            key,
        ])
        .ok();
        lake.run(&["write", &lake.uri, table, &data(table), "--mode", "merge"])
            .ok();
    }
    lake.run(&["create", &lake.uri, "weather", "--like", &data("weather")])
        .ok();
    for _ in 0..20 {
        lake.run(&["write", &lake.uri, "weather", &data("weather")])
            .ok();
    }
    // Of one pass nobody knows what it does first.
    let pass = [
        "daemon", &lake.uri, "--once", "--listen", "off", "--actor", "squire",
    ];
    lake.run(&pass).ok();
    let index = ["index", &lake.uri, "planes", "tailnum", "--type", "btree"];
    lake.run(&index).ok();
    lake.run(&pass).ok();
    lake.run(&["delete", &lake.uri, "weather", "--where", "month = 2"])
        .ok();
    let batch = lake.path("batch");
    std::fs::create_dir(&batch).expect("a directory");
    for table in ["planes", "airlines"] {
        std::fs::copy(data(table), batch.join(format!("{table}.parquet"))).expect("copied");
    }
    let batch = batch.to_string_lossy();
    let half = ["commit", &lake.uri, &batch, "--actor", "loader"];
    let dead = lake.with_seam("write.after_commit_table=return(kill)", &half);
    assert_eq!(dead.wait().code, None);
    std::fs::write(
        lake.path("new.toml"),
        "[policy]\nmin_candidate_fragments = 6\n",
    )
    .expect("written");
    lake
}

/// The document, as the commands print now.
fn document(lake: &Lake) -> String {
    let mut text = String::from(
        "# What the tools print\n\nOf a store with three tables of the demo: twenty loads of one of them, two passes of the daemon, a delete, and a commit that was killed\nhalf-way. Written by `make docs`.\n",
    );
    for (command, what) in SHOWN {
        let policy = lake.path("new.toml").to_string_lossy().into_owned();
        let words = |store: &str, policy: &str| -> Vec<String> {
            let at = if command[0] == "debug" { 2 } else { 1 };
            let mut words: Vec<String> = command.iter().map(ToString::to_string).collect();
            words.insert(at, store.to_owned());
            let named = words.iter_mut().filter(|word| *word == "new.toml");
            named.for_each(|word| policy.clone_into(word));
            words
        };
        let run = words(&lake.uri, &policy);
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let Done { stdout, .. } = lake.run(&run);
        let stdout = stdout.replace(&lake.uri, "./store");
        let stdout = match command {
            ["bugreport"] => of_any_machine(&stdout),
            _ => stdout,
        };
        let shown = words("./store", "new.toml").join(" ");
        text += &format!(
            "\n## `squire {shown}`\n\n{what}\n\n```\n{}\n```\n",
            stdout.trim_end()
        );
    }
    text
}

/// A bug report without what is of this machine, and with a few of its settings.
fn of_any_machine(report: &str) -> String {
    let (mut lines, mut shown) = (Vec::new(), 0);
    for line in report.lines() {
        if line.starts_with("== ") {
            shown = 0;
        }
        shown += 1;
        // Which system it is, and whether a daemon listens here.
        let other = ["system: ", "kernel: ", "linux ", "no daemon answers"];
        let other = other.iter().find(|start| line.starts_with(*start));
        match (other, shown) {
            (Some(start), _) => lines.push(format!("{start}...")),
            (None, ..7) => lines.push(line.to_owned()),
            (None, 7) => lines.push("...".to_owned()),
            (None, _) => {}
        }
    }
    lines.join("\n")
}

/// A word without what is of its day.
fn word(word: &str) -> String {
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_ulid = bare.len() == 26
        && bare
            .chars()
            .all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
    if is_ulid {
        return word.replace(bare, "ULID");
    }
    let mut text = String::new();
    for part in word.split_inclusive(|c: char| !c.is_ascii_digit() && c != '.' && c != ',') {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ',');
        let counted = part.len() > rest.len() && part.starts_with(|c: char| c.is_ascii_digit());
        text += if counted {
            "0"
        } else {
            &part[..part.len() - rest.len()]
        };
        text += rest;
    }
    match text.as_str() {
        "KiB" | "MiB" | "GiB" | "TiB" => String::from("B"),
        "0s" | "0m" | "0h" | "0d" => String::from("0s"),
        _ => text,
    }
}

/// Its lines, word by word, without what is of its day.
fn timeless(text: &str) -> Vec<String> {
    let line = |line: &str| {
        line.split_whitespace()
            .map(word)
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines().map(line).collect()
}

#[test]
fn the_tools_print_what_the_document_shows() {
    let lake = store();
    let now = document(&lake);
    let path = root().join("ops/tools.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, now).expect("ops/tools.md is written");
        return;
    }
    let told = std::fs::read_to_string(&path).expect("ops/tools.md");
    let (told, now) = (timeless(&told), timeless(&now));
    for (told, now) in told.iter().zip(&now) {
        assert_eq!(
            told, now,
            "ops/tools.md is older than what is printed; run `make docs`"
        );
    }
    assert_eq!(told.len(), now.len(), "ops/tools.md; run `make docs`");
}

#[test]
fn what_is_of_a_day_is_left_out() {
    let line = "2026-11-27T03:02:08.541Z   12s  t 21->23  20 fragments -> 1, 1.2 KiB  01M8DF7NVZQHX1CCZKS0PF3P6P";
    let other =
        "2027-01-01T00:00:00Z  2h  t 1->3  9 fragments -> 1, 999 B  01JD2Q3V5W6X7Y8Z9A0B1C2D3E";
    assert_eq!(timeless(line), timeless(other));
    assert_ne!(
        timeless(line),
        timeless(&other.replace("fragments", "files"))
    );
}
