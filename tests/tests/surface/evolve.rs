//! Columns that come with rows: added or widened where that is allowed, in the commit of the rows.

use crate::input::refused;
use crate::one_document;
use serde_json::json;
use squire_tests::Lake;

/// A table `t` (id, n int32), keyed by id, with the ids 1 to 3.
fn lake() -> Lake {
    let lake = Lake::new();
    let schema = file(
        &lake,
        "schema.json",
        r#"[{"name":"id","type":"int64"},{"name":"n","type":"int32"}]"#,
    );
    lake.run(&["create", &lake.uri, "t", "--schema", &schema, "--key", "id"])
        .ok();
    let rows = file(&lake, "rows.csv", "id,n\n1,1\n2,2\n3,3\n");
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    lake
}

fn file(lake: &Lake, name: &str, content: &str) -> String {
    let path = lake.path(name);
    std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    std::fs::write(&path, content).expect("file");
    path.to_string_lossy().into_owned()
}

async fn count(lake: &Lake, predicate: &str) -> usize {
    let store = lake.store().await;
    let snapshot = store.load().await.expect("snapshot");
    let dataset = store.read(&snapshot, &"t".parse().expect("name")).await;
    let dataset = dataset.expect("the table");
    let counted = dataset.count_rows(Some(predicate.to_owned())).await;
    counted.unwrap_or_else(|e| panic!("{predicate}: {e}"))
}

/// What has no value has no type, the items of a list and the members of an object among it.
#[tokio::test]
async fn a_column_is_not_added_before_all_of_it_has_a_value() {
    let lake = lake();
    let adding = |content: &str| {
        let rows = file(&lake, "new.ndjson", content);
        ["write", &lake.uri, "t", &rows, "--schema-change", "add"].map(str::to_owned)
    };
    for unknown in ["[]", "[null]", "[[]]", "{\"a\":1,\"b\":[]}", "{\"a\":null}"] {
        let args = adding(&format!("{{\"id\":4,\"e\":{unknown}}}\n"));
        refused(
            &lake,
            &args.each_ref().map(String::as_str),
            2,
            &["e", "has no value"],
        );
    }
    let args = adding("{\"id\":4,\"e\":[]}\n{\"id\":5,\"e\":[1]}\n");
    lake.run(&args.each_ref().map(String::as_str)).ok();
    assert_eq!(count(&lake, "array_length(e) = 1").await, 1);
}

#[tokio::test]
async fn a_new_column_comes_with_its_rows_in_one_version() {
    let lake = lake();
    let rows = file(
        &lake,
        "new.ndjson",
        "{\"id\":4,\"n\":4}\n{\"id\":5,\"note\":\"five\"}\n",
    );
    let strict = ["write", &lake.uri, "t", &rows];
    refused(&lake, &strict, 2, &["`note` is not in the table"]);
    let add = [&strict[..], &["--schema-change", "add", "--json"]].concat();
    let dry = lake.run(&[&add[..], &["--dry-run"]].concat()).ok().json();
    assert_eq!(dry["columns"], json!(["t: add note Utf8"]));
    assert_eq!(dry["tables"][0]["rows"]["inserted"], 2);
    let done = one_document(&lake.run(&[&add[..], &["--batch-id", "b"]].concat()).ok());
    assert_eq!(done["columns"], json!(["t: add note Utf8"]));
    assert_eq!(
        done["tables"],
        json!([{ "table": "t", "from": 2, "to": 3 }])
    );
    assert_eq!(count(&lake, "note IS NULL").await, 4);
    assert_eq!(count(&lake, "note = 'five' AND id = 5").await, 1);
    // Sent again it is the same batch, although its column is there now; so it is after another one was added.
    for more in ["first", "second"] {
        let again = one_document(&lake.run(&[&add[..], &["--batch-id", "b"]].concat()).ok());
        assert_eq!(again["outcome"], "already_committed", "{more}");
        lake.run(&["alter", &lake.uri, "t", "add", more, "utf8"])
            .ok();
    }
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
    lake.assert_at_rest();
}

#[tokio::test]
async fn a_column_is_widened_only_when_a_value_needs_it() {
    let lake = lake();
    let fits = file(&lake, "fits.csv", "id,n\n4,4\n");
    let large = file(&lake, "large.csv", "id,n,note\n5,3000000000,x\n");
    let write = |file: &str, change: &str| {
        lake.run(&[
            "write",
            &lake.uri,
            "t",
            file,
            "--schema-change",
            change,
            "--json",
        ])
    };
    let done = one_document(&write(&fits, "widen").ok());
    assert_eq!(done.get("columns"), None, "nothing has to change");
    write(&large, "add").failed(2, "3000000000");
    let done = one_document(&write(&large, "widen").ok());
    let both = ["t: widen n Int64", "t: add note Utf8"];
    let told = done["columns"].as_array().expect("a list");
    assert!(
        both.iter().all(|change| told.contains(&json!(change))),
        "{done}"
    );
    assert_eq!(count(&lake, "n = 3000000000 AND note = 'x'").await, 1);
    assert_eq!(count(&lake, "n < 10").await, 4);
    // Nothing holds every value of both.
    let text = file(&lake, "text.csv", "id,n\n6,six\n");
    write(&text, "widen").failed(2, "six");
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
    lake.assert_at_rest();
}

#[tokio::test]
async fn merged_rows_bring_columns_too() {
    let lake = lake();
    // Every row of the first fragment is replaced, so it goes.
    let rows = "id,n,note\n1,10,a\n2,20,b\n3,30,c\n4,40,d\n";
    file(&lake, "batch/t.csv", rows);
    let settings = "[tables.t]\nmode = \"merge\"\nschema = \"add\"\n";
    file(&lake, "batch/batch.toml", settings);
    let batch = lake.path("batch").to_string_lossy().into_owned();
    let done = one_document(&lake.run(&["commit", &lake.uri, &batch, "--json"]).ok());
    let counts = json!({ "inserted": 1, "updated": 3, "deleted": 0 });
    assert_eq!(done["rows"]["t"], counts);
    assert_eq!(count(&lake, "note IS NOT NULL AND n = id * 10").await, 4);
    assert_eq!(count(&lake, "true").await, 4);
    let more = file(&lake, "more.csv", "id,n,note,last\n2,21,e,z\n9,90,f,z\n");
    let merge = [
        "write",
        &lake.uri,
        "t",
        &more,
        "--mode",
        "merge",
        "--schema-change",
        "add",
    ];
    lake.run(&merge).ok();
    assert_eq!(count(&lake, "last = 'z'").await, 2);
    assert_eq!(count(&lake, "n = 21 OR n = 20").await, 1);
    assert_eq!(count(&lake, "true").await, 5);
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
    lake.assert_at_rest();
}

#[tokio::test]
async fn what_cannot_change_is_refused() {
    let lake = lake();
    let null = file(&lake, "null.ndjson", "{\"id\":4,\"note\":null}\n");
    let write = |file: &str, more: &[&str]| {
        let head = [
            "write",
            lake.uri.as_str(),
            "t",
            file,
            "--schema-change",
            "widen",
        ];
        lake.run(&[&head[..], more].concat())
    };
    write(&null, &[]).failed(2, "its type is not known");
    let rows = file(&lake, "rows.csv", "id,n,note\n4,4,x\n");
    write(&rows, &["--mode", "overwrite"]).failed(2, "only for the modes append");
    lake.run(&["index", &lake.uri, "t", "n", "--type", "btree"])
        .ok();
    let large = file(&lake, "large.csv", "id,n\n5,3000000000\n");
    write(&large, &[]).failed(3, "has the index");
    assert_eq!(count(&lake, "true").await, 3);
    lake.assert_at_rest();
}

/// Rows that are too many to be held, with a value far behind that needs another type.
#[tokio::test]
async fn a_stream_brings_columns() {
    let lake = lake();
    let config = file(
        &lake,
        "squire.toml",
        "[agent]\ngroup_bytes = \"1KiB\"\nschema = \"widen\"\n",
    );
    let mut rows = String::from("id,n,note\n");
    rows.extend((10..20_000).map(|id| format!("{id},{id},x{id}\n")));
    rows.push_str("20000,3000000000,last\n");
    let rows = file(&lake, "rows.csv", &rows);
    lake.run(&["write", &lake.uri, "t", &rows, "--config", &config])
        .ok();
    assert_eq!(count(&lake, "n = 3000000000 AND note = 'last'").await, 1);
    assert_eq!(count(&lake, "true").await, 3 + 19_991);
}

/// Two writers bring the same column: the later one finds it.
#[tokio::test]
async fn a_column_that_came_meanwhile_is_no_conflict() {
    let lake = lake();
    let rows = |name: &str, id: i64| file(&lake, name, &format!("id,n,note\n{id},1,x\n"));
    let (first, second) = (rows("first.csv", 4), rows("second.csv", 5));
    let add = |file: &str| {
        let args = ["write", &lake.uri, "t", file, "--schema-change", "add"];
        args.map(str::to_owned)
    };
    let first = add(&first);
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let mut waits = lake.with_seam("write.after_stage=1*return(stop)", &first);
    waits.wait_stopped();
    let second = add(&second);
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    lake.run(&second).ok();
    waits.resume().ok();
    assert_eq!(count(&lake, "note = 'x'").await, 2);
    lake.assert_at_rest();
}

/// A batch that brings a column goes alone among those that wait, and one that was computed from an older table is rejected.
#[tokio::test]
async fn an_agent_lets_columns_come_and_rejects_what_is_stale() {
    let lake = lake();
    let read = lake.run(&["snapshot", &lake.uri, "--json"]).ok().json();
    let read = &read["manifest_version"];
    let config = file(&lake, "squire.toml", "[agent]\nschema = \"add\"\n");
    for (name, content) in [
        ("t.1.ndjson", "{\"id\":4,\"n\":4}\n"),
        ("t.2.ndjson", "{\"id\":5,\"note\":\"five\"}\n"),
        ("t.3.ndjson", "{\"id\":6,\"n\":6}\n"),
        ("u/t.csv", "id,n\n7,7\n"),
        ("v/t.csv", "id,note\n8,x\n"),
    ] {
        file(&lake, &format!("spool/incoming/{name}"), content);
    }
    let stale = format!("[require]\nt = {read}\n");
    file(&lake, "spool/incoming/u/batch.toml", &stale);
    let strict = "[tables.t]\nschema = \"strict\"\n[tables.t.columns]\nn = \"note\"\n";
    file(&lake, "spool/incoming/v/batch.toml", strict);
    let spool = lake.path("spool").to_string_lossy().into_owned();
    let agent = [
        "agent",
        &lake.uri,
        "--spool",
        &spool,
        "--until-empty",
        "--config",
        &config,
    ];
    let done = lake.run(&[&agent[..], &["--json"]].concat()).ok().json();
    assert_eq!(
        (&done["committed"], &done["rejected"]),
        (&json!(3), &json!(2)),
        "{done}"
    );
    assert_eq!(count(&lake, "id = 5 AND note = 'five'").await, 1);
    assert_eq!(count(&lake, "id IN (4, 6) AND note IS NULL").await, 2);
    let reason = std::fs::read_to_string(lake.path("spool/rejected/u.reason.json"));
    assert!(reason.expect("a reason").contains("\"cause\": \"stale\""));
    lake.assert_at_rest();
}
