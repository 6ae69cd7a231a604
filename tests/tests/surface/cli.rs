//! The command line: help, one JSON document, exit codes, and every command on a store, a watched directory and a
//! single table.

use crate::{error_message, one_document, version_files, versions};
use serde_json::{Value, json};
use squire_failpoints::Seam;
use squire_tests::{Done, Lake, squire};
use std::path::Path;
use std::process::{Command, Stdio};

const COMMANDS: [&str; 38] = [
    "worker",
    "init",
    "create",
    "alter",
    "drop",
    "index",
    "write",
    "delete",
    "commit",
    "agent",
    "daemon",
    "plan",
    "optimize",
    "reindex",
    "cleanup",
    "recover",
    "repair",
    "status",
    "check",
    "log",
    "history",
    "replay",
    "op",
    "snapshot",
    "debug",
    "bugreport",
    "completions",
    "man",
    "seams",
    "spool",
    "keep",
    "unkeep",
    "lease",
    "verify",
    "pause",
    "resume",
    "cancel",
    "drain",
];

/// Commands that the design names for later; a test of its help begins to count as soon as one is there.
const LATER: [&str; 4] = ["ingest", "adopt", "config", "bench"];

/// Tables t and u with `commits` single-row commits each.
pub(crate) fn lake(commits: i64) -> Lake {
    let lake = Lake::with_tables(&["t", "u"]);
    for i in 0..commits {
        let batch = lake.batch(&format!("seed-{i}"), &["t", "u"], i..i + 1);
        lake.run(&["commit", &lake.uri, &batch]).ok();
    }
    lake
}

/// Copies the store's table `t` into a directory of plain tables, as someone else's. Gives the directory.
pub(crate) fn plain_directory(lake: &Lake) -> String {
    let dir = lake.path("plain");
    std::fs::create_dir_all(&dir).expect("directory");
    let table = Path::new(&lake.uri).join("t.lance");
    let copied = Command::new("cp").arg("-r").arg(table).arg(&dir).status();
    assert!(copied.expect("cp").success());
    dir.to_string_lossy().into_owned()
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let lake = Lake::new();
    let overview = lake.run(&["--help"]).ok().stdout;
    let known: Vec<&str> = overview
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    for command in COMMANDS {
        assert!(known.contains(&command), "{command} is not in: {overview}");
    }
    for command in known {
        assert!(
            COMMANDS.contains(&command) || LATER.contains(&command),
            "{command} is not in the design"
        );
        let help = lake.run(&[command, "--help"]).ok().stdout;
        let example = help
            .lines()
            .any(|l| l.contains(&format!("squire {command}")));
        assert!(help.contains("Example: ") && example, "no example: {help}");
        assert!(help.contains("Usage: "), "{help}");
    }
    let version = lake.run(&["--version"]).ok().stdout;
    assert!(version.starts_with("squire "), "{version}");
}

/// Every reporting command that needs a store, with its arguments but the store.
fn reporting(store: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["plan", store],
        vec!["optimize", store],
        vec!["optimize", store, "--dry-run"],
        vec!["reindex", store],
        vec!["reindex", store, "--dry-run"],
        vec!["cleanup", store],
        vec!["cleanup", store, "--dry-run"],
        vec!["recover", store],
        vec!["repair", store],
        vec!["status", store],
        vec!["log", store],
        vec!["history", store],
        vec!["replay", store],
        vec!["debug", "sidecar", store],
        vec!["debug", "manifest", store],
        vec!["op", store, "01JD2Q3V5W6X7Y8Z9A0B1C2D3E"],
        vec!["snapshot", store],
        vec!["verify", store],
        vec!["verify", store, "--deep"],
    ]
}

#[test]
fn json_is_one_document_for_answers_and_for_errors() {
    let lake = lake(2);
    let good = lake.csv("good.csv", [(70, "good".to_owned())]);
    let batch = lake.batch("batch", &["t", "u"], 80..82);
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    let other = lake.path("other").to_string_lossy().into_owned();
    let mut answers = reporting(&lake.uri);
    answers.extend([
        vec!["seams"],
        vec!["check", &lake.uri],
        vec!["completions", "bash"],
        vec!["bugreport", &lake.uri],
        vec!["init", &other],
        vec!["create", &lake.uri, "v", "--schema", &schema],
        vec!["index", &lake.uri, "t", "id", "--type", "btree"],
        vec!["write", &lake.uri, "t", &good],
        vec!["delete", &lake.uri, "t", "--where", "id = 70"],
        vec!["commit", &lake.uri, &batch],
    ]);
    for args in answers {
        let done = lake.run(&[args.as_slice(), &["--json"]].concat()).ok();
        let document = one_document(&done);
        assert!(document.is_object(), "{args:?}: {document}");
        assert!(document.get("error").is_none(), "{args:?}: {document}");
        // Without the flag it is for people.
        if args[0] != "init" && args[0] != "create" {
            let people = lake.run(&args).ok().stdout;
            assert!(serde_json::from_str::<Value>(&people).is_err(), "{args:?}");
        }
    }

    let nowhere = lake.path("nowhere").to_string_lossy().into_owned();
    let mut errors = reporting(&nowhere);
    errors.extend([
        vec!["init", &lake.uri],
        vec!["create", &nowhere, "v", "--schema", &schema],
        vec!["index", &nowhere, "t", "id", "--type", "btree"],
        vec!["write", &nowhere, "t", &good],
        vec!["delete", &nowhere, "t", "--where", "id = 70"],
        vec!["commit", &nowhere, &batch],
        vec!["status", &lake.uri, "--table", "none"],
        vec!["status", &lake.uri, "--config", "/nowhere/squire.toml"],
        vec!["op", &lake.uri, "not-a-ulid"],
        vec!["snapshot", &lake.uri, "--at", "999"],
        vec!["cleanup", &lake.uri, "--retention", "1s"],
        vec!["cleanup", &lake.uri, "--min-versions", "0"],
        vec!["cleanup", &lake.uri, "--table", "t"],
    ]);
    for args in errors {
        let done = lake.run(&[args.as_slice(), &["--json"]].concat());
        assert!(matches!(done.code, Some(1..=3)), "{args:?}: {done:?}");
        let document = one_document(&done);
        assert!(!error_message(&done).is_empty(), "{args:?}");
        let kind = document["error"]["kind"].as_str();
        assert!(kind.is_some_and(|k| !k.is_empty()), "{args:?}: {document}");
        let people = lake.run(&args);
        assert_eq!(people.code, done.code, "{args:?}");
        assert_eq!(people.stdout, "", "{args:?}: an error is not an answer");
        assert!(people.stderr.contains("squire: "), "{args:?}: {people:?}");
    }
}

/// A script that asks for JSON gets JSON, also when it got an argument wrong.
#[test]
fn json_covers_usage_errors_too() {
    let lake = Lake::new();
    let commands: [&[&str]; 4] = [
        &["status", "--json"],
        &["cleanup", &lake.uri, "--retention", "soon", "--json"],
        &["log", &lake.uri, "--limit", "many", "--json"],
        &["snapshot", &lake.uri, "--no-such-flag", "--json"],
    ];
    for args in commands {
        let done = lake.run(args);
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
        assert!(!error_message(&done).is_empty(), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_to_do() {
    let lake = lake(1);
    let good = lake.csv("good.csv", [(70, "good".to_owned())]);
    // 2: usage.
    for args in [&["nosuch"][..], &["status"], &["write", &lake.uri, "t"]] {
        let done = lake.run(args);
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
    }
    let both = ["repair", &lake.uri, "--force", "--discard"];
    assert_eq!(lake.run(&both).code, Some(2));
    lake.run(&["write", &lake.uri, "t", "none.csv"])
        .failed(2, "none.csv");
    // 1: failed. 3: refused.
    lake.run(&["write", &lake.uri, "none", &good])
        .failed(1, "none");
    lake.run(&["init", &lake.uri]).failed(3, "already");
    // 75: lost, and nothing of it is visible.
    let write = ["write", &lake.uri, "t", &good, "--retries", "0", "--json"];
    let mut loser = lake.with_seam("write.after_scan=1*return(stop)", &write);
    loser.wait_stopped();
    lake.run(&["delete", &lake.uri, "t", "--where", "id = 0"])
        .ok();
    let lost = loser.resume();
    assert_eq!(lost.code, Some(75), "{lost:?}");
    assert_eq!(lost.json()["error"]["kind"], "Conflict");
    lake.run(&["write", &lake.uri, "t", &good]).ok();
    assert_eq!(lake.ids("t").await, [70]);
    // 75: not known, with the operation to ask for.
    let write = ["write", &lake.uri, "t", &good, "--retries", "0", "--json"];
    let failpoints = "write.after_phase_b=return(error);resolve.after_load=return(error)";
    let unknown = lake.with_seam(failpoints, &write).wait();
    assert_eq!(unknown.code, Some(75), "{unknown:?}");
    let error = unknown.json()["error"].clone();
    assert_eq!(error["kind"], "Unknown");
    let op = error["op"].as_str().expect("the operation").to_owned();
    let outcome = |lake: &Lake| lake.run(&["op", &lake.uri, &op, "--json"]).ok().json();
    assert_eq!(outcome(&lake)["outcome"], "undecided");
    lake.run(&["recover", &lake.uri, "--grace", "0s"]).ok();
    assert_eq!(outcome(&lake)["outcome"], "committed");
    // 3: drift.
    let uri = format!("{}/u.lance", lake.uri);
    let mut foreign = lance::Dataset::open(&uri).await.expect("table");
    foreign
        .update_config([("someone", "else")])
        .await
        .expect("an external commit");
    lake.run(&["write", &lake.uri, "u", &good])
        .failed(3, "table u");
    lake.run(&["repair", &lake.uri]).failed(3, "u");
    lake.run(&["repair", &lake.uri, "--table", "u", "--discard"])
        .ok();
    lake.run(&["repair", &lake.uri]).ok();
    // A seam that does not exist arms nothing, so it is an error.
    let typo = lake
        .with_seam("write.after_scam=return(kill)", &["seams"])
        .wait();
    typo.failed(2, "write.after_scam");
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
}

/// A full disk takes nothing; a reader that went away has seen enough.
#[test]
fn an_answer_that_cannot_be_written_is_no_success() {
    let lake = Lake::new();
    let run = |args: &[&str], stdout: Stdio| {
        let mut command = Command::new(squire());
        let output = command.args(args).stdout(stdout).output();
        Done::from(output.expect("squire runs"))
    };
    for args in [
        &["snapshot", &lake.uri, "--json"][..],
        &["status", &lake.uri],
        &["seams"],
        &["--help"],
        &["--version"],
    ] {
        let full = std::fs::File::create("/dev/full").expect("/dev/full");
        run(args, full.into()).failed(1, "could not be written");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        run(args, writer.into()).ok();
    }
}

#[test]
fn seams_lists_the_catalogue() {
    let lake = Lake::new();
    let document = lake.run(&["seams", "--json"]).ok().json();
    assert_eq!(
        document["enabled"], true,
        "the tests run a binary with seams"
    );
    let seams = document["seams"].as_array().expect("seams");
    let names: Vec<&str> = seams
        .iter()
        .map(|s| s["name"].as_str().expect("name"))
        .collect();
    let catalogue: Vec<&str> = Seam::ALL.iter().map(|s| s.name()).collect();
    assert_eq!(names, catalogue);
    for (seam, listed) in Seam::ALL.iter().zip(seams) {
        assert_eq!(listed["durable"], seam.durable());
        assert_eq!(listed["after_crash"], seam.after_crash());
    }
    let people = lake.run(&["seams"]).ok().stdout;
    for seam in Seam::ALL {
        let line = people.lines().find(|l| l.contains(seam.name()));
        let line = line.unwrap_or_else(|| panic!("{} is not listed", seam.name()));
        assert!(line.contains(seam.durable()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_what_the_predicate_selects() {
    let lake = Lake::with_tables(&["t"]);
    let rows = lake.csv("rows.csv", (0..20).map(|id| (id, format!("v{}", id % 3))));
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    let delete = |predicate: &str| {
        let args = ["delete", &lake.uri, "t", "--where", predicate, "--json"];
        lake.run(&args).ok().json()
    };
    let document = delete("id >= 10 and value = 'v1'");
    assert_eq!(document["outcome"], "committed");
    assert_eq!(
        document["tables"],
        json!([{"table": "t", "from": 2, "to": 3}])
    );
    let left: Vec<i64> = (0..20).filter(|id| *id < 10 || id % 3 != 1).collect();
    assert_eq!(lake.ids("t").await, left);
    // Nothing selected is no error.
    delete("id = 12345");
    assert_eq!(lake.ids("t").await, left);
    delete("true");
    assert_eq!(lake.ids("t").await, Vec::<i64>::new());
    // A batch id counts once, for deletes too.
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    let args = [
        "delete",
        &lake.uri,
        "t",
        "--where",
        "id = 1",
        "--batch-id",
        "d",
        "--json",
    ];
    assert_eq!(lake.run(&args).ok().json()["outcome"], "committed");
    lake.run(&["write", &lake.uri, "t", &rows, "--mode", "merge"])
        .ok();
    assert_eq!(lake.run(&args).ok().json()["outcome"], "already_committed");
    assert!(lake.ids("t").await.contains(&1));
    lake.assert_at_rest();
}

#[test]
fn log_and_op_say_who_did_what() {
    let lake = lake(1);
    let good = lake.csv("good.csv", [(70, "good".to_owned())]);
    let batch = lake.batch("both", &["t", "u"], 80..82);
    let commit = [
        "commit",
        &lake.uri,
        &batch,
        "--batch-id",
        "b1",
        "--actor",
        "ada",
        "--message",
        "two tables",
        "--json",
    ];
    let committed = lake.run(&commit).ok().json();
    let op = committed["op"].as_str().expect("op").to_owned();
    let newest = lake
        .run(&["log", &lake.uri, "--limit", "1", "--json"])
        .ok()
        .json();
    let entry = newest["entries"][0].clone();
    assert_eq!(newest["entries"].as_array().map(Vec::len), Some(1));
    for (field, value) in [
        ("op", json!(op)),
        ("kind", json!("logical")),
        ("actor", json!("ada")),
        ("message", json!("two tables")),
        ("batch", json!("b1")),
        ("tables", committed["tables"].clone()),
    ] {
        assert_eq!(entry[field], value, "{field}: {entry}");
    }
    let said = lake.run(&["op", &lake.uri, &op, "--json"]).ok().json();
    assert_eq!(said["outcome"], "committed");
    assert_eq!(said["entry"], entry);
    assert!(
        lake.run(&["log", &lake.uri])
            .ok()
            .stdout
            .contains("two tables")
    );

    // Aborted: killed half-way, then recovered.
    let batch = lake.batch("half", &["t", "u"], 90..92);
    let killed = lake.with_seam(
        "write.after_commit_table=return(kill)",
        &["commit", &lake.uri, &batch],
    );
    assert_eq!(killed.wait().code, None);
    let status = lake.status();
    let half = status["sidecars"][0]
        .as_str()
        .expect("a sidecar")
        .to_owned();
    let outcome = |lake: &Lake, op: &str| {
        let document = lake.run(&["op", &lake.uri, op, "--json"]).ok().json();
        document["outcome"].as_str().expect("outcome").to_owned()
    };
    assert_eq!(outcome(&lake, &half), "undecided");
    let report = lake
        .run(&["recover", &lake.uri, "--grace", "0s", "--json"])
        .ok()
        .json();
    assert_eq!(report["aborted"], json!([half]));
    assert_eq!(outcome(&lake, &half), "aborted");
    assert!(
        lake.run(&["op", &lake.uri, &half])
            .ok()
            .stdout
            .contains("aborted")
    );

    // Absent: nobody ever began it, or it was killed before its sidecar.
    assert_eq!(outcome(&lake, "01JD2Q3V5W6X7Y8Z9A0B1C2D3E"), "absent");
    let killed = lake.with_seam(
        "sidecar.before_put=return(kill)",
        &["write", &lake.uri, "t", &good],
    );
    assert_eq!(killed.wait().code, None);
    lake.run(&["op", &lake.uri, "not-a-ulid"])
        .failed(2, "not-a-ulid");
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_shows_the_past_as_it_was() {
    let lake = lake(3);
    let snapshot = |at: Option<u64>| {
        let mut args = vec!["snapshot".to_owned(), lake.uri.clone(), "--json".to_owned()];
        args.extend(at.iter().flat_map(|m| ["--at".to_owned(), m.to_string()]));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        lake.run(&args).ok().json()
    };
    let then = snapshot(None);
    let m = then["manifest_version"].as_u64().expect("version");
    assert_eq!(then["tables"]["t"]["rows"], 3);
    lake.run(&["delete", &lake.uri, "t", "--where", "id < 2"])
        .ok();
    let batch = lake.batch("later", &["t", "u"], 10..15);
    lake.run(&["commit", &lake.uri, &batch]).ok();
    lake.run(&["optimize", &lake.uri]).ok();
    assert_eq!(snapshot(Some(m)), then);
    let now = snapshot(None);
    assert_eq!(now["tables"]["t"]["rows"], 6);
    assert_eq!(now["tables"]["u"]["rows"], 8);
    // What it says is what any Lance client reads.
    for document in [&then, &now] {
        for (table, shown) in document["tables"].as_object().expect("tables") {
            let uri = shown["uri"].as_str().expect("uri");
            let version = shown["version"].as_u64().expect("version");
            let dataset = lance::dataset::builder::DatasetBuilder::from_uri(uri)
                .with_version(version)
                .load()
                .await
                .expect("a Lance dataset");
            let rows = dataset.count_rows(None).await.expect("rows") as u64;
            assert_eq!(shown["rows"], rows, "{table}");
        }
    }
    for at in ["0", "9999"] {
        let refused = lake.run(&["snapshot", &lake.uri, "--at", at]);
        refused.failed(1, at);
    }
}

#[test]
fn one_pass_of_the_daemon_answers_with_one_document() {
    let lake = lake(20);
    let once = ["daemon", &lake.uri, "--once", "--json"];
    let document = one_document(&lake.run(&once).ok());
    assert_eq!(document["failed"], 0, "{document}");
    let history = document["history"].as_array().expect("reports");
    let compacted = |r: &&Value| r["kind"] == "compact";
    assert_eq!(history.iter().filter(compacted).count(), 2, "{document}");
    let tables = document["stores"][0]["tables"].as_array();
    assert_eq!(tables.map(Vec::len), Some(2), "{document}");
    let people = lake.run(&["daemon", &lake.uri, "--once"]).ok();
    assert_eq!(people.stdout, "", "people read its log");
    std::fs::remove_dir_all(Path::new(&lake.uri).join("t.lance")).expect("removed");
    let failed = lake.run(&once).failed(1, "t.lance");
    assert!(
        one_document(&failed)["failed"].as_u64() >= Some(1),
        "{failed:?}"
    );
}

/// Messages and actors come from whoever names an entry of a spool: they clear no screen and forge no line.
#[test]
fn texts_of_others_are_escaped_for_people_and_whole_for_machines() {
    let lake = lake(1);
    let rows = lake.csv("rows.csv", [(70, "x".to_owned())]);
    let message = "m\u{1b}[2J\n9 2013-01-01T00:00:00Z forged";
    let write = [
        "write",
        &lake.uri,
        "t",
        &rows,
        "--actor",
        "a\nb",
        "--message",
        message,
    ];
    lake.run(&write).ok();
    let people = lake.run(&["log", &lake.uri, "--limit", "1"]).ok().stdout;
    assert_eq!(people.lines().count(), 1, "{people:?}");
    assert!(
        people.contains(r"a\nb: ") && people.contains(r"m\u{1b}[2J\n9"),
        "{people:?}"
    );
    let log = lake.run(&["log", &lake.uri, "--limit", "1", "--json"]).ok();
    assert_eq!(one_document(&log)["entries"][0]["message"], message);

    let nowhere = format!("{}/no\u{1b}[2J\nsquire: fine", lake.uri);
    let failed = lake.run(&["status", &nowhere]);
    assert_ne!(failed.code, Some(0), "{failed:?}");
    assert!(failed.stderr.contains("squire: "), "{failed:?}");
    assert!(!failed.stderr.contains('\u{1b}'), "{failed:?}");
    assert!(!failed.stderr.contains("\nsquire: fine"), "{failed:?}");
    let directory = plain_directory(&lake);
    let odd = Path::new(&directory).join("odd\u{1b}[2J\nforged.lance");
    std::os::unix::fs::symlink(&directory, odd).expect("link");
    let shown = lake.run(&["status", &directory]).ok().stdout;
    assert!(
        shown.contains(r"odd\u{1b}[2J\nforged.lance: skipped: "),
        "{shown:?}"
    );
    assert!(!shown.contains("\nforged"), "{shown:?}");
}

/// `a` torn or gone, `b` drifted, `c` healthy: whoever asks about all of them gets what there is about each.
#[tokio::test(flavor = "multi_thread")]
async fn one_broken_table_stops_neither_repair_nor_snapshot() {
    for gone in [false, true] {
        let lake = Lake::with_tables(&["a", "b", "c"]);
        let root = Path::new(&lake.uri);
        let rows = lake.csv("rows.csv", [(1, "x".to_owned())]);
        for table in ["a", "b", "c"] {
            lake.run(&["write", &lake.uri, table, &rows]).ok();
        }
        let foreign = lance::Dataset::open(&format!("{}/b.lance", lake.uri)).await;
        let mut foreign = foreign.expect("table");
        foreign.delete("id = 1").await.expect("a foreign delete");
        if gone {
            std::fs::remove_dir_all(root.join("a.lance")).expect("removed");
        } else {
            let version = root.join("a.lance/_versions/18446744073709551612.manifest");
            std::fs::write(version, "abc").expect("torn");
        }

        let shown = lake.run(&["snapshot", &lake.uri]).failed(1, "a: failed: ");
        assert!(shown.stdout.contains("c: version 2, 1 rows"), "{shown:?}");
        let shown = one_document(&lake.run(&["snapshot", &lake.uri, "--json"]));
        assert_eq!(shown["tables"]["b"]["rows"], 1, "{shown}");
        assert_eq!(shown["tables"]["a"]["uri"], Value::Null, "{shown}");
        assert!(shown["tables"]["a"]["error"].is_string(), "{shown}");

        let preview = lake.run(&["repair", &lake.uri]).failed(1, "a: failed: ");
        assert!(preview.stdout.contains("b: pin 2"), "{preview:?}");
        let done = lake.run(&["repair", &lake.uri, "--publish"]);
        let done = done.failed(1, "b: failed: ");
        assert!(done.stdout.contains("changes content"), "{done:?}");
        assert!(done.stdout.contains("a: failed: "), "{done:?}");
        let named = lake.run(&["repair", &lake.uri, "--discard"]);
        named.failed(2, "--table b --discard");
        let discard = ["repair", &lake.uri, "--table", "b", "--discard", "--json"];
        let document = one_document(&lake.run(&discard).ok());
        assert_eq!(document["repaired"][0]["table"], "b", "{document}");
        assert_eq!(document["tables"][0]["error"], Value::Null, "{document}");
        let rest = lake.run(&["repair", &lake.uri]).failed(1, "a: failed: ");
        assert!(!rest.stdout.contains("no drift"), "{rest:?}");
        assert_eq!(lake.ids("b").await, [1]);
    }
}

fn tables_of(done: &Done) -> Vec<Value> {
    one_document(done)["tables"]
        .as_array()
        .expect("tables")
        .clone()
}

/// The dry runs do nothing, and the plan comes true.
#[test]
fn plan_and_dry_runs_on_a_store() {
    let lake = lake(20);
    lake.run(&["index", &lake.uri, "t", "id", "--type", "btree"])
        .ok();
    let before = lake.status();
    let plan = lake.run(&["plan", &lake.uri, "--json"]).ok();
    for table in tables_of(&plan) {
        let operations = table["operations"].as_array().expect("operations");
        let compact = operations.iter().find(|o| o["kind"] == "compact");
        let compact = compact.unwrap_or_else(|| panic!("20 fragments, no compaction: {table}"));
        assert!(
            compact["reason"].as_str().is_some_and(|r| r.contains("20")),
            "{table}"
        );
    }
    let plan = lake.run(&["plan", &lake.uri]).ok().stdout;
    assert!(plan.contains("t: compact because of"), "{plan}");
    let dry = lake
        .run(&["optimize", &lake.uri, "--dry-run", "--json"])
        .ok();
    let rewritten: u64 = tables_of(&dry)
        .iter()
        .flat_map(|t| t["tasks"].as_array().expect("tasks").clone())
        .map(|n| n.as_u64().expect("a number"))
        .sum();
    assert_eq!(rewritten, 40);
    let dry = lake
        .run(&["reindex", &lake.uri, "--dry-run", "--json"])
        .ok();
    assert_eq!(tables_of(&dry)[0]["indexes"][0]["missing"], true);
    let dry = lake
        .run(&["optimize", &lake.uri, "--dry-run", "--table", "u", "--json"])
        .ok();
    assert_eq!(tables_of(&dry).len(), 1);
    lake.run(&["cleanup", &lake.uri, "--dry-run", "--json"])
        .ok();
    assert_eq!(lake.status(), before, "a dry run did something");

    lake.run(&["optimize", &lake.uri]).ok();
    lake.run(&["reindex", &lake.uri]).ok();
    assert_eq!(lake.table_status("t", "fragments"), 1);
    assert_eq!(lake.table_status("t", "indexes")[0]["missing"], false);
    for table in tables_of(&lake.run(&["plan", &lake.uri, "--json"]).ok()) {
        assert_eq!(table["operations"], json!([]), "nothing is left to do");
        assert!(table["otherwise"].as_str().is_some_and(|r| !r.is_empty()));
    }
    lake.assert_at_rest();
}

/// A young store: everything in it is inside the retention window, so nothing may go.
#[test]
fn cleanup_of_a_young_store_removes_nothing() {
    let lake = lake(30);
    let oldest = lake
        .run(&["snapshot", &lake.uri, "--at", "4", "--json"])
        .ok()
        .json();
    let dry = lake
        .run(&["cleanup", &lake.uri, "--dry-run", "--json"])
        .ok()
        .json();
    assert_eq!(
        dry["plan"]["tables"],
        json!([]),
        "versions inside the 7 days of retention"
    );
    assert_eq!(dry["plan"]["manifest"], Value::Null);
    assert_eq!(dry["report"], Value::Null);
    let before = versions(&lake, "t.lance");
    lake.run(&["cleanup", &lake.uri]).ok();
    assert_eq!(versions(&lake, "t.lance"), before);
    let again = lake
        .run(&["snapshot", &lake.uri, "--at", "4", "--json"])
        .ok()
        .json();
    assert_eq!(again, oldest);
    let short = lake.run(&["cleanup", &lake.uri, "--retention", "59m"]);
    let short = short.failed(2, "--retention");
    assert!(!short.stderr.contains("--min-versions"), "{short:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_of_a_watched_directory_and_of_a_single_table() {
    let lake = lake(20);
    let rows = lake.rows("t").await;
    let directory = plain_directory(&lake);
    let table = format!("{directory}/t.lance");
    for uri in [
        directory.clone(),
        table.clone(),
        format!("{table}/"),
        format!("file://{table}"),
    ] {
        let status = lake.run(&["status", &uri, "--json"]).ok().json();
        assert_eq!(status["manifest_version"], Value::Null, "{uri}");
        let status = &status["tables"][0];
        assert_eq!(status["table"], "t.lance", "{uri}");
        assert_eq!(
            (&status["rows"], &status["fragments"]),
            (&json!(20), &json!(20))
        );
        let plan = tables_of(&lake.run(&["plan", &uri, "--json"]).ok());
        assert_eq!(
            plan[0]["operations"][0]["kind"], "compact",
            "{uri}: {plan:?}"
        );
        let dry = tables_of(&lake.run(&["optimize", &uri, "--dry-run", "--json"]).ok());
        assert_eq!(dry[0]["tasks"], json!([20]), "{uri}");
        let dry = tables_of(&lake.run(&["cleanup", &uri, "--dry-run", "--json"]).ok());
        assert_eq!(dry[0]["plan"]["versions"], json!([]), "{uri}");
        assert_eq!(dry[0]["report"], Value::Null, "{uri}");
        let dry = tables_of(&lake.run(&["reindex", &uri, "--dry-run", "--json"]).ok());
        assert_eq!(dry[0]["indexes"], json!([]), "{uri}");
        for write in [&["log", &uri][..], &["snapshot", &uri]] {
            lake.run(write).failed(1, "squire init");
        }
        let recovered = lake.run(&["recover", &uri]).ok();
        assert_eq!(recovered.stdout.trim(), "nothing to recover");
    }
    // Looking leaves nothing of ours in it.
    for ours in ["_squire", ".squire"] {
        assert!(!Path::new(&directory).join(ours).exists());
    }
    let by_name = lake
        .run(&["status", &directory, "--table", "t", "--json"])
        .ok();
    assert_eq!(tables_of(&by_name).len(), 1);
    lake.run(&["status", &directory, "--table", "none"])
        .failed(1, "t.lance");

    let before = version_files(Path::new(&table));
    lake.run(&["optimize", &table]).ok();
    assert!(version_files(Path::new(&table)).len() > before.len());
    let status = lake.run(&["status", &directory, "--json"]).ok().json();
    assert_eq!(status["tables"][0]["fragments"], 1);
    lake.run(&["reindex", &directory]).ok();
    lake.run(&["cleanup", &directory]).ok();
    assert!(!Path::new(&directory).join("_squire").exists());
    let dataset = lance::Dataset::open(&table).await.expect("table");
    assert_eq!(squire_tests::rows_of(&dataset).await, rows);
    // The store that it was copied from is not touched.
    lake.assert_at_rest();
    assert_eq!(lake.table_status("t", "fragments"), 20);
}

/// A pipe that nobody writes to would be waited for, and a device read without end.
#[test]
fn only_regular_files_are_read_for_what_people_write() {
    let lake = lake(1);
    let pipe = lake.path("pipe.json").to_string_lossy().into_owned();
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let token = lake.path("token.toml").to_string_lossy().into_owned();
    let uri = lake.uri.as_str();
    for (file, kind) in [
        (pipe.as_str(), "a pipe, not a regular file"),
        ("/dev/zero", "a device, not a regular file"),
        (uri, "a directory, not a regular file"),
    ] {
        let text = format!("[daemon]\ntoken_file = \"{file}\"\n");
        std::fs::write(&token, text).expect("written");
        for command in [
            &["config", "check", file][..],
            &["config", "show", file],
            &["config", "check", &token],
            &["--config", file, "status", uri],
            &["daemon", "--once", "--config", file],
            &["create", uri, "v", "--schema", file],
        ] {
            lake.run(command).failed(2, kind);
        }
    }
    let long = lake.path("long.toml").to_string_lossy().into_owned();
    std::fs::write(&long, "#".repeat((1 << 20) + 1)).expect("written");
    lake.run(&["config", "check", &long]).failed(2, "1 MiB");
}
