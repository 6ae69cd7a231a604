//! Columns that come, change and go.

use crate::input::refused;
use crate::{error_message, one_document};
use lance::Dataset;
use lance::index::DatasetIndexExt;
use squire_tests::{Lake, tree};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A table `t` (id int64, value utf8, n int32, at struct), keyed by id, with the ids 1 to 3 in one fragment and 4 in another.
fn lake() -> Lake {
    let lake = Lake::new();
    let schema = lake.path("schema.json");
    let columns = r#"[{"name":"id","type":"int64","nullable":false},{"name":"value","type":"utf8"},
        {"name":"n","type":"int32"},{"name":"at","type":"struct<x:float32,y:float32>"}]"#;
    std::fs::write(&schema, columns).expect("schema");
    let schema = schema.to_string_lossy();
    lake.run(&["create", &lake.uri, "t", "--schema", &schema, "--key", "id"])
        .ok();
    for ids in [1..4, 4..5] {
        let rows = file(&lake, "rows.ndjson", ids);
        lake.run(&["write", &lake.uri, "t", &rows]).ok();
    }
    lake
}

fn file(lake: &Lake, name: &str, ids: std::ops::Range<i64>) -> String {
    let line = |id| {
        format!(r#"{{"id":{id},"value":"v{id}","n":{id},"at":{{"x":{id}.5,"y":null}}}}"#) + "\n"
    };
    let path = lake.path(name);
    std::fs::write(&path, ids.map(line).collect::<String>()).expect("file");
    path.to_string_lossy().into_owned()
}

fn alter<'a>(lake: &'a Lake, change: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["alter", lake.uri.as_str(), "t"];
    args.extend(change);
    args
}

async fn shown(lake: &Lake, at: Option<u64>) -> Arc<Dataset> {
    let store = lake.store().await;
    let snapshot = match at {
        Some(at) => store.snapshot_at(at).await,
        None => store.load().await,
    };
    let table = "t".parse().expect("name");
    let snapshot = snapshot.expect("snapshot");
    store.read(&snapshot, &table).await.expect("table")
}

/// The columns, those of structs by their paths, with their types.
fn columns(dataset: &Dataset) -> Vec<String> {
    let schema = dataset.schema();
    let leaves = schema
        .fields_pre_order()
        .filter(|field| field.children.is_empty());
    let told = leaves.map(|field| {
        let path = schema.field_path_minimal(field.id).expect("a path");
        format!("{path} {}", field.data_type())
    });
    told.collect()
}

async fn count(lake: &Lake, predicate: &str) -> usize {
    let dataset = shown(lake, None).await;
    let counted = dataset.count_rows(Some(predicate.to_owned())).await;
    counted.unwrap_or_else(|e| panic!("{predicate}: {e}"))
}

async fn manifest_version(lake: &Lake) -> u64 {
    lake.store().await.load().await.expect("snapshot").version()
}

fn data_files(lake: &Lake) -> BTreeSet<PathBuf> {
    tree(&Path::new(&lake.uri).join("t.lance/data"))
}

#[tokio::test]
async fn a_column_is_added_dropped_and_renamed_without_a_row_being_written() {
    let lake = lake();
    let (before, files) = (manifest_version(&lake).await, data_files(&lake));
    let done = lake.run(&alter(&lake, &["add", "note", "utf8"])).ok();
    assert!(done.stdout.contains("t: add note Utf8"), "{done:?}");
    assert!(done.stdout.contains("t 3 -> 4"), "{done:?}");
    assert_eq!(count(&lake, "note IS NULL").await, 4);
    let done = lake.run(&alter(&lake, &["rename", "note", "remark", "--json"]));
    let document = one_document(&done.ok());
    assert_eq!(document["outcome"], "committed");
    assert_eq!(document["columns"][0], "t: rename note remark");
    let op = document["op"].as_str().expect("op");
    assert_eq!(lake.outcome_of(op), "committed");
    lake.run(&alter(&lake, &["drop", "value"])).ok();
    lake.run(&alter(&lake, &["add", "at.z", "int8"])).ok();
    lake.run(&alter(&lake, &["rename", "at.x", "east"])).ok();
    lake.run(&alter(&lake, &["drop", "at.y"])).ok();
    assert_eq!(data_files(&lake), files, "no row was written");
    let now = shown(&lake, None).await;
    assert_eq!(
        columns(&now),
        [
            "id Int64",
            "n Int32",
            "at.east Float32",
            "at.z Int8",
            "remark Utf8"
        ]
    );
    let old = shown(&lake, Some(before)).await;
    assert!(columns(&old).contains(&"value Utf8".to_owned()));
    // What is written now stands beside what was there.
    let rows = lake.path("more.ndjson");
    let line = r#"{"id":5,"n":5,"at":{"east":5.5,"z":1},"remark":"new"}"#;
    std::fs::write(&rows, line).expect("file");
    lake.run(&["write", &lake.uri, "t", &rows.to_string_lossy()])
        .ok();
    assert_eq!(count(&lake, "remark = 'new' AND at.z = 1").await, 1);
    assert_eq!(count(&lake, "remark IS NULL AND at.z IS NULL").await, 4);
    assert_eq!(count(&lake, "at.east = n + 0.5").await, 5);
    // A name that was let go is free for another column, which has nothing of the old one.
    lake.run(&alter(&lake, &["add", "value", "int64"])).ok();
    assert_eq!(count(&lake, "value IS NULL").await, 5);
    lake.run(&["optimize", &lake.uri]).ok();
    assert_eq!(count(&lake, "value IS NULL AND at.east = n + 0.5").await, 5);
    // A struct of nothing is no column: Lance would let it go with its last one.
    lake.run(&alter(&lake, &["drop", "at.z"])).ok();
    let last = alter(&lake, &["drop", "at.east"]);
    refused(&lake, &last, 2, &["\"at.east\" is all that \"at\" has"]);
    lake.assert_at_rest();
}

#[tokio::test]
async fn what_cannot_be_altered_is_refused_with_the_column() {
    let lake = lake();
    for (change, code, texts) in [
        (
            vec!["drop", "nope"],
            2,
            vec!["table t", "\"nope\"", "id, value, n, at"],
        ),
        (vec!["add", "n", "int8"], 2, vec!["\"n\" already", "Int32"]),
        (
            vec!["add", "value.x", "int8"],
            2,
            vec!["\"value\" is no struct"],
        ),
        (vec!["add", "x", "int7"], 2, vec!["int7"]),
        (vec!["add", "a`b", "int8"], 2, vec!["table t"]),
        (vec!["rename", "n", "value"], 2, vec!["\"value\" already"]),
        (
            vec!["rename", "at.x", "at.z"],
            2,
            vec!["the new name alone"],
        ),
        (vec!["drop", "id"], 3, vec!["\"id\" is its key"]),
        (vec!["rename", "id", "uid"], 3, vec!["\"id\" is its key"]),
        (vec!["widen", "n", "int16"], 2, vec!["\"n\" is Int32"]),
        (
            vec!["widen", "n", "int32"],
            2,
            vec!["\"n\" is Int32 already"],
        ),
        (vec!["widen", "n", "float64"], 2, vec!["\"n\" is Int32"]),
    ] {
        refused(&lake, &alter(&lake, &change), code, &texts);
    }
    let absent = ["alter", &lake.uri, "nope", "drop", "n"];
    refused(&lake, &absent, 1, &["no table nope"]);
    lake.run(&["index", &lake.uri, "t", "n", "--type", "btree"])
        .ok();
    for change in [
        vec!["drop", "n"],
        vec!["rename", "n", "m"],
        vec!["widen", "n", "int64"],
    ] {
        refused(&lake, &alter(&lake, &change), 3, &["n_idx", "--withdraw"]);
    }
    lake.run(&["reindex", &lake.uri]).ok();
    lake.run(&["index", &lake.uri, "t", "n", "--withdraw"]).ok();
    lake.run(&alter(&lake, &["rename", "n", "m"])).ok();
    lake.assert_at_rest();
}

/// Somebody's index that the store does not know: it follows a new name, and stands in the way of anything else.
#[tokio::test]
async fn an_index_that_was_only_built_is_never_broken() {
    let lake = lake();
    let table = format!("{}/t.lance", lake.uri);
    let mut dataset = Dataset::open(&table).await.expect("table");
    let params = lance_index::scalar::ScalarIndexParams::default();
    let kind = lance_index::IndexType::BTree;
    dataset
        .create_index(&["n"], kind, Some("theirs".into()), &params, false)
        .await
        .expect("index");
    // What the store did not make is published before the change, which stands right above it.
    lake.run(&alter(&lake, &["rename", "value", "text"])).ok();
    for change in [vec!["drop", "n"], vec!["widen", "n", "int64"]] {
        refused(&lake, &alter(&lake, &change), 3, &["theirs", "--withdraw"]);
    }
    lake.run(&alter(&lake, &["rename", "n", "m"])).ok();
    assert_eq!(count(&lake, "m = 2").await, 1);
    let now = shown(&lake, None).await;
    let mut scan = now.scan();
    scan.filter("m = 2").expect("filter");
    let plan = scan.explain_plan(true).await.expect("plan");
    assert!(
        plan.contains("ScalarIndexQuery"),
        "no index is used: {plan}"
    );
    lake.assert_at_rest();
}

#[tokio::test]
async fn a_dry_run_says_what_the_real_run_says_and_puts_nothing() {
    let lake = lake();
    for change in [
        vec!["add", "note", "utf8"],
        vec!["drop", "value"],
        vec!["rename", "n", "m"],
        vec!["widen", "m", "int64"],
    ] {
        let args = alter(&lake, &change);
        let before = tree(Path::new(&lake.uri));
        let dry = lake.run(&[args.as_slice(), &["--dry-run"]].concat()).ok();
        assert_eq!(tree(Path::new(&lake.uri)), before);
        let real = lake.run(&args).ok();
        let line = |text: &str| text.lines().next().map(str::to_owned);
        assert_eq!(line(&dry.stdout), line(&real.stdout));
        let said = dry.stdout.lines().nth(1).expect("the version");
        assert!(said.starts_with("would commit to t "), "{said}");
    }
}

/// Its rows are staged on columns that are not the table's any more when it wakes.
#[tokio::test]
async fn a_writer_of_the_older_columns_is_told_the_column() {
    for (change, named) in [
        (vec!["drop", "value"], "\"value\""),
        (vec!["rename", "value", "text"], "\"text\""),
        (vec!["widen", "n", "int64"], "\"n\""),
        (vec!["add", "note", "utf8"], "\"note\""),
    ] {
        let lake = lake();
        let more = file(&lake, "more.ndjson", 5..7);
        let write = ["write", &lake.uri, "t", &more, "--json"];
        let mut writer = lake.with_seam("write.after_stage=1*return(stop)", &write);
        writer.wait_stopped();
        lake.run(&alter(&lake, &change)).ok();
        let done = writer.resume();
        assert_eq!(done.code, Some(75), "{change:?}: {done:?}");
        assert!(error_message(&done).contains(named), "{change:?}: {done:?}");
        assert_eq!(count(&lake, "true").await, 4, "{change:?}");
        lake.assert_at_rest();
    }
}

#[test]
fn names_that_are_lances_own_are_refused() {
    let lake = lake();
    for name in [
        "_rowid",
        "_rowaddr",
        "_rowoffset",
        "_row_created_at_version",
    ] {
        for change in [vec!["add", name, "int64"], vec!["rename", "n", name]] {
            refused(&lake, &alter(&lake, &change), 2, &[name, "Lance's own"]);
            let dry = [alter(&lake, &change), vec!["--dry-run"]].concat();
            refused(&lake, &dry, 2, &[name]);
        }
    }
    lake.assert_at_rest();
}
