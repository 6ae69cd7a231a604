//! pylance and LanceDB read what squire wrote, with nothing of squire at hand.

use crate::{client, client_with, rows_in, small_commits, tagged, uri};
use serde_json::{Value, json};
use squire_tests::{Lake, rows_of};
use std::collections::BTreeMap;

/// The rows of every table at manifest version `at`, as squire reports them.
async fn rows_at(lake: &Lake, at: u64) -> BTreeMap<String, Vec<(i64, String)>> {
    let store = lake.store().await;
    let snapshot = store.snapshot_at(at).await.expect("snapshot");
    let mut rows = BTreeMap::new();
    for table in snapshot.state.tables.keys() {
        let dataset = store.read(&snapshot, table).await.expect("table");
        rows.insert(table.to_string(), rows_of(&dataset).await);
    }
    rows
}

/// Checks that both programs see `expected` at the versions of `snapshot`, or at HEAD.
pub(crate) fn check(
    lake: &Lake,
    snapshot: &Value,
    expected: &BTreeMap<String, Vec<(i64, String)>>,
) {
    let pinned = snapshot["tables"].as_object().expect("tables");
    assert_eq!(
        pinned.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    let request = json!({ "root": lake.uri, "tables": pinned }).to_string();
    let seen = client_with(lake, &["read"], &request);
    for (table, rows) in expected {
        for program in ["lance", "lancedb"] {
            let found = &seen[program][table];
            let version = &pinned[table]["version"];
            assert!(
                version.is_null() || found["version"] == *version,
                "{program} {table}"
            );
            assert_eq!(
                &rows_in(&found["rows"]),
                rows,
                "{program} sees {table} otherwise"
            );
        }
        if let Some(counted) = pinned[table]["rows"].as_u64() {
            assert_eq!(
                counted,
                rows.len() as u64,
                "`squire snapshot` counts {table} otherwise"
            );
        }
    }
}

/// The same document with every version taken out: HEAD.
pub(crate) fn at_head(snapshot: &Value) -> Value {
    let mut head = snapshot.clone();
    for table in head["tables"].as_object_mut().expect("tables").values_mut() {
        table["version"] = Value::Null;
        table["rows"] = Value::Null;
    }
    head
}

fn snapshot(lake: &Lake, at: Option<u64>) -> Value {
    let at = at.map(|at| at.to_string());
    let mut args = vec!["snapshot", &lake.uri, "--json"];
    if let Some(at) = &at {
        args.extend(["--at", at]);
    }
    lake.run(&args).ok().json()
}

#[tokio::test(flavor = "multi_thread")]
async fn pylance_and_lancedb_read_every_table_at_head_and_at_snapshots() {
    let lake = Lake::with_tables(&["flights", "weather", "planes"]);
    let mut stops = Vec::new();
    let mut stop = |lake: &Lake| stops.push(snapshot(lake, None)["manifest_version"].as_u64());

    small_commits(&lake, &["flights", "weather"], 0, 5);
    stop(&lake);
    let file = lake.csv("planes.csv", (0..6).map(|id| (id, format!("plane-{id}"))));
    lake.run(&["write", &lake.uri, "planes", &file]).ok();
    lake.run(&["delete", &lake.uri, "flights", "--where", "id % 3 = 0"])
        .ok();
    stop(&lake);
    lake.run(&["optimize", &lake.uri]).ok();
    stop(&lake);
    let file = lake.csv("merge.csv", (4..9).map(|id| (id, format!("merged-{id}"))));
    lake.run(&["write", &lake.uri, "planes", &file, "--mode", "merge"])
        .ok();
    lake.run(&["index", &lake.uri, "weather", "id", "--type", "btree"])
        .ok();
    lake.run(&["reindex", &lake.uri]).ok();
    stop(&lake);
    let file = lake.csv("over.csv", [(7, "alone".to_owned())]);
    lake.run(&["write", &lake.uri, "weather", &file, "--mode", "overwrite"])
        .ok();
    stop(&lake);
    lake.assert_at_rest();

    let latest = snapshot(&lake, None);
    let now = rows_at(&lake, latest["manifest_version"].as_u64().expect("version")).await;
    assert_eq!(now["weather"], [(7, "alone".to_owned())]);
    assert_eq!(now["planes"].len(), 9);
    check(&lake, &latest, &now);
    check(&lake, &at_head(&latest), &now);
    for at in stops {
        let document = snapshot(&lake, at);
        assert_eq!(document["manifest_version"].as_u64(), at);
        check(
            &lake,
            &document,
            &rows_at(&lake, at.expect("version")).await,
        );
    }
}

#[test]
fn lancedb_lists_the_tables_and_nothing_of_squire() {
    let lake = Lake::with_tables(&["flights", "weather"]);
    let request = json!({ "root": lake.uri, "tables": {} }).to_string();
    let seen = client_with(&lake, &["read"], &request);
    assert_eq!(seen["names"], json!(["flights", "weather"]));
}

/// The record of a run in a directory of plain tables is no table, and its files are no part of one.
#[tokio::test(flavor = "multi_thread")]
async fn lancedb_and_pylance_see_no_records_of_runs_on_plain_tables() {
    let lake = Lake::with_tables(&["flights"]);
    small_commits(&lake, &["flights"], 0, 3);
    let latest = snapshot(&lake, None)["manifest_version"].as_u64();
    let rows = rows_at(&lake, latest.expect("version")).await;
    // The same tables without the store: HEAD is what counts.
    std::fs::remove_dir_all(lake.path("lake/_squire")).expect("no store");
    let files = || squire_tests::tree(&lake.path("lake/.squire"));
    let document =
        json!({ "tables": { "flights": { "version": null, "uri": uri(&lake, "flights") } } });
    for seam in ["maintain.after_rewrite", "maintain.after_compact"] {
        let dies = format!("{seam}=1*return(kill)");
        lake.with_seam(&dies, &["optimize", &lake.uri]).killed();
        assert!(!files().is_empty(), "it left a record");
        let request = json!({ "root": lake.uri, "tables": {} }).to_string();
        let seen = client_with(&lake, &["read"], &request);
        assert_eq!(seen["names"], json!(["flights"]));
        check(&lake, &document, &rows);
    }
    // What others write meanwhile stays, and what they did not refer to goes.
    let status = lake.run(&["status", &lake.uri, "--json"]).ok().json();
    let left = &status["tables"][0]["unreferenced"]["under_1h"];
    assert_eq!(left["files"], 1, "{status}");
    client(
        &lake,
        &["append", &uri(&lake, "flights"), "900", "903", "later"],
    );
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    assert!(files().is_empty(), "{:?}", files());
    let rows = rows.into_iter().map(|(table, mut rows)| {
        rows.extend(tagged("later", 900..903));
        (table, rows)
    });
    check(&lake, &document, &rows.collect());
    let status = lake.run(&["status", &lake.uri, "--json"]).ok().json();
    let left = &status["tables"][0]["unreferenced"]["under_1h"];
    assert_eq!(left["files"], 0, "{status}");
}

/// Cleanup keeps seven days and ten versions: a daemon pass takes no snapshot of today away.
#[tokio::test(flavor = "multi_thread")]
async fn young_snapshots_stay_readable_after_daemon_passes() {
    let lake = Lake::with_tables(&["flights", "weather"]);
    small_commits(&lake, &["flights"], 0, 3);
    lake.create_tables(&["late"]);
    small_commits(&lake, &["flights", "late"], 100, 18);
    let latest = snapshot(&lake, None)["manifest_version"]
        .as_u64()
        .expect("version");
    let mut snapshots = Vec::new();
    for at in 2..=latest {
        snapshots.push((snapshot(&lake, Some(at)), rows_at(&lake, at).await));
    }
    lake.daemon_pass("0s").ok();
    lake.daemon_pass("0s").ok();
    assert_eq!(
        lake.table_status("flights", "fragments"),
        1,
        "the passes had work to do"
    );
    for (before, rows) in snapshots {
        let at = before["manifest_version"].as_u64().expect("version");
        assert_eq!(snapshot(&lake, Some(at)), before);
        assert_eq!(rows_at(&lake, at).await, rows);
    }
}

/// pylance sees the columns that each snapshot has, and what stands in them.
#[tokio::test(flavor = "multi_thread")]
async fn pylance_reads_what_was_altered_at_every_snapshot() {
    let lake = Lake::with_tables(&["flights"]);
    small_commits(&lake, &["flights"], 0, 1);
    let whole = || {
        let pinned = snapshot(&lake, None)["tables"]["flights"]["version"].clone();
        let version = pinned.to_string();
        let seen = client(&lake, &["whole", &uri(&lake, "flights"), &version]);
        (pinned, seen)
    };
    let (first, before) = whole();
    for change in [
        vec!["add", "seats", "int32"],
        vec!["rename", "value", "text"],
        vec!["widen", "seats", "int64"],
    ] {
        let args = [vec!["alter", &lake.uri, "flights"], change].concat();
        lake.run(&args).ok();
    }
    let rows = lake.path("more.ndjson");
    let line = r#"{"id":7,"text":"more","seats":3000000000}"#;
    std::fs::write(&rows, line).expect("file");
    lake.run(&["write", &lake.uri, "flights", &rows.to_string_lossy()])
        .ok();
    let (_, now) = whole();
    assert_eq!(
        now["columns"],
        json!({ "id": "int64", "text": "string", "seats": "int64" })
    );
    assert_eq!(
        now["rows"],
        json!([
            { "id": 0, "text": "b0-0-0", "seats": null },
            { "id": 1, "text": "b0-0-1", "seats": null },
            { "id": 7, "text": "more", "seats": 3_000_000_000_i64 },
        ])
    );
    let old = client(
        &lake,
        &["whole", &uri(&lake, "flights"), &first.to_string()],
    );
    assert_eq!(old, before, "an older snapshot is what it was");
    assert_eq!(old["columns"], json!({ "id": "int64", "value": "string" }));
    lake.assert_at_rest();
}
