//! An unmodified pylance commits to a store's table.

use crate::{client, rows_in, small_commits, tagged, uri};
use serde_json::{Value, json};
use squire_tests::Lake;

/// Ids that only the external program writes.
const EXTERNAL: std::ops::Range<i64> = 1_000..1_003;

/// A store with table `events` holding rows 0..4, to which pylance appended three rows.
fn drifted() -> Lake {
    let lake = Lake::with_tables(&["events"]);
    small_commits(&lake, &["events"], 0, 2);
    append(&lake, "events");
    lake
}

fn append(lake: &Lake, table: &str) {
    let (start, stop) = (EXTERNAL.start.to_string(), EXTERNAL.end.to_string());
    client(lake, &["append", &uri(lake, table), &start, &stop, "ext"]);
}

fn version(lake: &Lake, table: &str, field: &str) -> u64 {
    lake.table_status(table, field).as_u64().expect("a version")
}

/// What pylance sees at HEAD.
fn head(lake: &Lake, table: &str) -> Value {
    client(lake, &["head", &uri(lake, table)])
}

fn ours() -> Vec<(i64, String)> {
    [tagged("b0-0", 0..2), tagged("b0-1", 2..4)].concat()
}

fn ours_and_external() -> Vec<(i64, String)> {
    [ours(), tagged("ext", EXTERNAL)].concat()
}

/// Runs `squire repair` with `action` on `events`, as a person does after a look at what HEAD is.
fn repair(lake: &Lake, action: &str) -> Vec<String> {
    let head = version(lake, "events", "head").to_string();
    let words = ["repair", &lake.uri, "--table", "events", action];
    let reviewed = ["--head", &head];
    let words = words.iter().chain(&reviewed);
    words.map(|word| (*word).to_owned()).collect()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Nothing differs from before: same manifest version, same pin, same HEAD.
fn standing(lake: &Lake, table: &str) -> (Value, u64, u64) {
    let manifest = lake.status()["manifest_version"].clone();
    (
        manifest,
        version(lake, table, "pin"),
        version(lake, table, "head"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn external_append_is_reported_as_drift_and_only_its_table_is_left_alone() {
    let lake = Lake::with_tables(&["events", "other"]);
    let rows = small_commits(&lake, &["events", "other"], 0, 20);
    let pin = version(&lake, "events", "pin");
    assert_eq!(version(&lake, "events", "candidate_fragments"), 20);
    append(&lake, "events");

    let first = &lake.table_status("events", "drift")["first_version"];
    assert_eq!(first, &json!(pin + 1), "status shows the drift");
    assert!(lake.table_status("other", "drift").is_null());

    let args = ["optimize", &lake.uri, "--table", "events", "--json"];
    let skipped = lake.run(&args).failed(3, "drift").json();
    assert_eq!(skipped["tables"][0]["table"], "events");
    assert_eq!(skipped["tables"][0]["report"]["skipped"], "drift");

    lake.daemon_pass("0s").ok();
    assert_eq!(version(&lake, "events", "pin"), pin);
    assert_eq!(version(&lake, "events", "head"), pin + 1);
    assert_eq!(version(&lake, "events", "fragments"), 20);
    assert_eq!(
        version(&lake, "other", "fragments"),
        1,
        "other tables are maintained"
    );
    assert_eq!(lake.rows("events").await, rows);
    assert_eq!(lake.rows("other").await, rows);
    assert_eq!(
        head(&lake, "events")["tags"],
        json!({ "squire-pin": pin }),
        "a tag keeps the pinned version from someone else's cleanup"
    );
    assert_eq!(lake.status()["sidecars"], json!([]));

    let versions = |table| [version(&lake, table, "pin"), version(&lake, table, "head")];
    let before = (versions("events"), versions("other"));
    lake.daemon_pass("0s").ok();
    assert_eq!(
        (versions("events"), versions("other")),
        before,
        "a second pass is idle"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_to_a_drifted_table_are_refused_whole_and_others_go_on() {
    let lake = Lake::with_tables(&["events", "other"]);
    append(&lake, "events");
    let before = standing(&lake, "events");

    let file = lake.csv("more.csv", tagged("more", 0..2));
    lake.run(&["write", &lake.uri, "events", &file])
        .failed(3, "events");
    let batch = lake.batch("both", &["events", "other"], 0..2);
    lake.run(&["commit", &lake.uri, &batch]).failed(3, "events");
    lake.run(&["delete", &lake.uri, "events", "--where", "id >= 0"])
        .failed(3, "events");
    assert_eq!(standing(&lake, "events").1, before.1);
    assert_eq!(standing(&lake, "events").2, before.2);
    assert_eq!(
        lake.rows("other").await,
        [],
        "nothing of a refused commit is visible"
    );
    assert_eq!(
        lake.status()["sidecars"],
        json!([]),
        "nothing of it is left behind"
    );

    lake.run(&["write", &lake.uri, "other", &file]).ok();
    assert_eq!(lake.rows("other").await, tagged("more", 0..2));
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_shows_external_versions_and_does_nothing() {
    let lake = drifted();
    client(&lake, &["compact", &uri(&lake, "events")]);
    client(&lake, &["delete", &uri(&lake, "events"), "id = 1000"]);
    let before = standing(&lake, "events");
    let (pin, head) = (before.1, before.2);

    let preview = lake
        .run(&["repair", &lake.uri, "--json"])
        .failed(3, "")
        .json();
    let drift = &preview["drift"][0];
    assert_eq!(drift["table"], "events");
    assert_eq!((&drift["pin"], &drift["head"]), (&json!(pin), &json!(head)));
    assert_eq!(
        (&drift["pinned_rows"], &drift["head_rows"]),
        (&json!(4), &json!(6))
    );
    assert_eq!(preview["repaired"], json!([]));
    let versions = drift["versions"].as_array().expect("versions");
    let numbers: Vec<u64> = versions
        .iter()
        .filter_map(|v| v["version"].as_u64())
        .collect();
    assert_eq!(numbers, (pin + 1..=head).collect::<Vec<_>>());
    let told: Vec<(&str, bool)> = versions
        .iter()
        .map(|v| {
            let operation = v["operation"].as_str().expect("operation");
            (operation, v["preserves_content"].as_bool().expect("flag"))
        })
        .collect();
    assert_eq!(told.first(), Some(&("Append", false)));
    assert!(told.contains(&("Rewrite", true)), "{told:?}");
    assert_eq!(told.last(), Some(&("Delete", false)));

    lake.run(&["repair", &lake.uri])
        .failed(3, &format!("{} Append", pin + 1));
    assert_eq!(
        standing(&lake, "events"),
        before,
        "a preview changes nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_force_publishes_external_rows() {
    let lake = drifted();
    lake.daemon_pass("0s").ok();
    let head_version = version(&lake, "events", "head");
    assert_eq!(lake.rows("events").await, ours());

    // A force names what it forces, and the refusal says how.
    let said = format!("--table events --force --head {head_version}");
    for unnamed in [
        &["--force"][..],
        &["--force", "--table", "events"],
        &["--force", "--head", "9"],
    ] {
        let args = [&["repair", &lake.uri][..], unnamed].concat();
        lake.run(&args).failed(2, &said);
    }
    lake.run(&["repair", &lake.uri, "--discard"])
        .failed(2, "--table events --discard");
    assert_eq!(lake.rows("events").await, ours());
    lake.run(&words(&repair(&lake, "--force"))).ok();
    assert_eq!(lake.rows("events").await, ours_and_external());
    assert_eq!(version(&lake, "events", "pin"), head_version);
    assert_eq!(
        head(&lake, "events")["tags"],
        json!({}),
        "the tag is gone with the drift"
    );
    lake.assert_at_rest();

    lake.run(&["repair", &lake.uri, "--json"]).ok();
    let file = lake.csv("more.csv", tagged("more", 2_000..2_001));
    lake.run(&["write", &lake.uri, "events", &file]).ok();
    lake.run(&["optimize", &lake.uri, "--table", "events"]).ok();
    let all = [ours_and_external(), tagged("more", 2_000..2_001)].concat();
    assert_eq!(
        lake.rows("events").await,
        all,
        "the table is a usual one again"
    );
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_discard_removes_external_rows() {
    let lake = drifted();
    lake.daemon_pass("0s").ok();
    lake.run(&words(&repair(&lake, "--discard"))).ok();
    assert_eq!(lake.rows("events").await, ours());
    let seen = head(&lake, "events");
    assert_eq!(
        rows_in(&seen["rows"]),
        ours(),
        "HEAD has them no more either"
    );
    assert_eq!(seen["version"], json!(version(&lake, "events", "pin")));
    assert_eq!(seen["tags"], json!({}));
    lake.assert_at_rest();

    let file = lake.csv("more.csv", tagged("more", 2_000..2_001));
    lake.run(&["write", &lake.uri, "events", &file]).ok();
    let all = [ours(), tagged("more", 2_000..2_001)].concat();
    assert_eq!(lake.rows("events").await, all);
}

/// pylance commits on top of the first half of a commit whose process is dead: the half cannot be undone over it, and
/// discarding both is the way out.
#[tokio::test(flavor = "multi_thread")]
async fn repair_discard_takes_back_a_dead_half_under_external_rows() {
    let lake = Lake::with_tables(&["events", "other"]);
    small_commits(&lake, &["events", "other"], 0, 2);
    let half = lake.batch("half", &["events", "other"], 500..503);
    lake.with_seam(
        "write.after_commit_table=return(kill)",
        &["commit", &lake.uri, &half],
    )
    .killed();
    append(&lake, "events");

    lake.run(&["recover", &lake.uri, "--force"])
        .failed(1, "squire repair");
    lake.run(&words(&repair(&lake, "--force")))
        .failed(3, "was aborted");
    lake.run(&words(&repair(&lake, "--discard"))).ok();
    assert_eq!(rows_in(&head(&lake, "events")["rows"]), ours());
    lake.daemon_pass("0s").ok();
    assert_eq!(lake.rows("events").await, ours());
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_publish_refuses_foreign_content() {
    let lake = drifted();
    let before = standing(&lake, "events");
    lake.run(&["repair", &lake.uri, "--publish"])
        .failed(3, "changes content");
    assert_eq!(standing(&lake, "events"), before);
    assert_eq!(lake.rows("events").await, ours());
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_acts_only_on_the_head_that_was_reviewed() {
    let lake = drifted();
    let reviewed = version(&lake, "events", "head").to_string();
    client(
        &lake,
        &["append", &uri(&lake, "events"), "5000", "5001", "late"],
    );
    for action in ["--force", "--discard"] {
        let args = [
            "repair", &lake.uri, "--table", "events", action, "--head", &reviewed,
        ];
        lake.run(&args).failed(75, "look again");
    }
    assert_eq!(lake.rows("events").await, ours());
}

/// Compaction and indexes of someone else preserve content; `--publish` is for them.
#[tokio::test(flavor = "multi_thread")]
async fn repair_publish_publishes_external_maintenance() {
    let lake = Lake::with_tables(&["events"]);
    small_commits(&lake, &["events"], 0, 2);
    client(&lake, &["compact", &uri(&lake, "events")]);
    client(&lake, &["index", &uri(&lake, "events"), "id"]);
    let head_version = version(&lake, "events", "head");
    assert!(version(&lake, "events", "pin") < head_version);
    assert!(
        lake.table_status("events", "drift").is_null(),
        "it is not drift"
    );

    lake.run(&["repair", &lake.uri, "--publish"]).ok();
    assert_eq!(version(&lake, "events", "pin"), head_version);
    assert_eq!(version(&lake, "events", "fragments"), 1);
    assert_eq!(lake.rows("events").await, ours());
    lake.assert_at_rest();
}

/// I8: after a daemon pass HEAD is above a pin only by drift.
#[tokio::test(flavor = "multi_thread")]
async fn daemon_pass_publishes_external_maintenance() {
    let lake = Lake::with_tables(&["events"]);
    small_commits(&lake, &["events"], 0, 2);
    client(&lake, &["compact", &uri(&lake, "events")]);
    lake.daemon_pass("0s").ok();
    assert_eq!(lake.rows("events").await, ours());
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_step_over_external_maintenance() {
    let lake = Lake::with_tables(&["events"]);
    small_commits(&lake, &["events"], 0, 2);
    client(&lake, &["compact", &uri(&lake, "events")]);
    let file = lake.csv("more.csv", tagged("more", 2_000..2_001));
    lake.run(&["write", &lake.uri, "events", &file]).ok();
    let all = [ours(), tagged("more", 2_000..2_001)].concat();
    assert_eq!(lake.rows("events").await, all);
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn adopting_policy_publishes_external_commits() {
    let lake = drifted();
    let config = lake.path("squire.toml");
    std::fs::write(&config, "[policy]\ndrift = \"adopt\"\n").expect("config");
    let config = config.to_string_lossy();
    let pass = ["daemon", "--config", &config, "--once", &lake.uri];
    lake.run(&pass).ok();
    assert_eq!(lake.rows("events").await, ours_and_external());
    lake.assert_at_rest();

    client(&lake, &["delete", &uri(&lake, "events"), "id >= 1000"]);
    lake.run(&pass).ok();
    assert_eq!(lake.rows("events").await, ours());
    assert_eq!(head(&lake, "events")["tags"], json!({}));
    lake.assert_at_rest();
}

/// Adopting for one table only leaves the others as reported drift.
#[tokio::test(flavor = "multi_thread")]
async fn adopting_policy_holds_for_one_table() {
    let lake = Lake::with_tables(&["events", "other"]);
    append(&lake, "events");
    append(&lake, "other");
    let config = lake.path("squire.toml");
    std::fs::write(&config, "[[table]]\nname = \"events\"\ndrift = \"adopt\"\n").expect("config");
    let config = config.to_string_lossy();
    lake.run(&["daemon", "--config", &config, "--once", &lake.uri])
        .ok();
    assert_eq!(lake.rows("events").await, tagged("ext", EXTERNAL));
    assert_eq!(lake.rows("other").await, []);
    assert!(lake.table_status("other", "drift").is_object());
}

async fn interrupted(action: &str, seam: &str, after: Vec<(i64, String)>) {
    let lake = drifted();
    let failpoint = format!("{seam}=return(kill)");
    let killed = lake
        .with_seam(&failpoint, &words(&repair(&lake, action)))
        .wait();
    assert_eq!(killed.code, None, "killed at {seam}: {}", killed.stderr);
    assert_eq!(lake.rows("events").await, ours(), "readers see the pin");

    lake.daemon_pass("0s").ok();
    assert_eq!(
        lake.rows("events").await,
        ours(),
        "a daemon does not decide it"
    );
    assert!(
        lake.table_status("events", "drift").is_object(),
        "it is drift still"
    );

    lake.run(&words(&repair(&lake, action))).ok();
    assert_eq!(lake.rows("events").await, after);
    assert_eq!(rows_in(&head(&lake, "events")["rows"]), after);
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn discard_killed_after_its_restore_is_finished_by_a_repetition() {
    interrupted("--discard", "repair.after_restore", ours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discard_killed_before_its_publish_is_finished_by_a_repetition() {
    interrupted("--discard", "repair.before_publish", ours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn force_killed_before_its_publish_is_finished_by_a_repetition() {
    interrupted("--force", "repair.before_publish", ours_and_external()).await;
}
