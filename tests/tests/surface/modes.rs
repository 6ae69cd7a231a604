//! What a write does to the rows that are there: merges of a part, slices, keys of several columns, and what it was computed from.

use crate::input::refused;
use crate::one_document;
use serde_json::json;
use squire_tests::Lake;
use std::collections::BTreeMap;
use std::path::Path;

/// A table `t` (id, value), keyed by id, with the ids 1 to 3.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t"]);
    let rows = lake.csv("rows.csv", (1..4).map(|id| (id, format!("v{id}"))));
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    lake
}

/// The rows that a reader sees.
async fn rows(lake: &Lake) -> BTreeMap<i64, String> {
    lake.rows("t").await.into_iter().collect()
}

fn expected(rows: &[(i64, &str)]) -> BTreeMap<i64, String> {
    let rows = rows.iter().map(|(id, value)| (*id, (*value).to_owned()));
    rows.collect()
}

/// A batch directory with one file, of table `t`, and a `batch.toml`.
fn batch(lake: &Lake, rows: &str, settings: &str) -> String {
    let directory = lake.path("batch");
    drop(std::fs::remove_dir_all(&directory));
    std::fs::create_dir(&directory).expect("directory");
    if !rows.is_empty() {
        std::fs::write(directory.join("t.csv"), rows).expect("rows");
    }
    std::fs::write(directory.join("batch.toml"), settings).expect("batch.toml");
    directory.to_string_lossy().into_owned()
}

fn manifest_version(lake: &Lake) -> u64 {
    let snapshot = lake.run(&["snapshot", &lake.uri, "--json"]).ok().json();
    snapshot["manifest_version"].as_u64().expect("a version")
}

#[tokio::test]
async fn an_insert_adds_what_is_new_and_an_update_replaces_what_is_there() {
    let lake = lake();
    let file = lake.csv("more.csv", (3..5).map(|id| (id, "new".to_owned())));
    for (mode, counts, then) in [
        (
            "insert",
            json!({ "inserted": 1, "updated": 0, "deleted": 0 }),
            expected(&[(1, "v1"), (2, "v2"), (3, "v3"), (4, "new")]),
        ),
        (
            "update",
            json!({ "inserted": 0, "updated": 2, "deleted": 0 }),
            expected(&[(1, "v1"), (2, "v2"), (3, "new"), (4, "new")]),
        ),
    ] {
        let write = ["write", &lake.uri, "t", &file, "--mode", mode, "--json"];
        let dry = lake.run(&[&write[..], &["--dry-run"]].concat()).ok().json();
        assert_eq!(dry["tables"][0]["rows"], counts, "{mode}");
        let done = one_document(&lake.run(&write).ok());
        assert_eq!(done["rows"]["t"], counts, "{mode}");
        assert_eq!(rows(&lake).await, then, "{mode}");
    }
    let none = lake.csv("none.csv", [(9, "x".to_owned())]);
    let write = ["write", &lake.uri, "t", &none, "--mode", "update", "--json"];
    let done = one_document(&lake.run(&write).ok());
    assert_eq!(done["rows"]["t"]["updated"], 0);
    assert_eq!(rows(&lake).await.len(), 4);
}

/// An id stands for its mode, too.
#[tokio::test]
async fn a_batch_id_is_no_other_mode_and_no_other_slice() {
    let lake = lake();
    let file = lake.csv("more.csv", [(3, "new".to_owned())]);
    let write = |more: &[&str]| {
        let head = ["write", &lake.uri, "t", &file, "--batch-id", "b"];
        lake.run(&[&head[..], more].concat())
    };
    write(&["--mode", "replace", "--where", "id = 3"]).ok();
    let again = write(&["--mode", "replace", "--where", "id = 3"]).ok();
    assert!(again.stdout.contains("already committed"), "{again:?}");
    for other in [
        &["--mode", "replace", "--where", "id >= 3"][..],
        &["--mode", "merge"],
        &["--mode", "insert"],
        &["--mode", "update"],
    ] {
        write(other).failed(2, "with other content");
    }
    assert_eq!(rows(&lake).await[&3], "new");
}

#[tokio::test]
async fn a_slice_is_replaced_in_one_version() {
    let lake = lake();
    let file = lake.csv("slice.csv", [(2, "new".to_owned()), (5, "new".to_owned())]);
    let write = [
        "write", &lake.uri, "t", &file, "--mode", "replace", "--where", "id >= 2", "--json",
    ];
    let counts = json!({ "inserted": 2, "updated": 0, "deleted": 2 });
    let dry = lake.run(&[&write[..], &["--dry-run"]].concat()).ok().json();
    assert_eq!(dry["tables"][0]["rows"], counts);
    let done = one_document(&lake.run(&write).ok());
    assert_eq!(done["rows"]["t"], counts);
    assert_eq!(
        done["tables"],
        json!([{ "table": "t", "from": 2, "to": 3 }])
    );
    let then = expected(&[(1, "v1"), (2, "new"), (5, "new")]);
    assert_eq!(rows(&lake).await, then);
    // A slice without rows yet is filled, and one that an index covers is found by it afterwards.
    let index = ["index", &lake.uri, "t", "id", "--type", "btree"];
    lake.run(&index).ok();
    lake.run(&["reindex", &lake.uri]).ok();
    let settings = "[tables.t]\nmode = \"replace\"\nwhere = \"id = 7\"\n";
    let filled = batch(&lake, "id,value\n7,seven\n", settings);
    lake.run(&["commit", &lake.uri, &filled]).ok();
    assert_eq!(rows(&lake).await.len(), 4);
    let gone = ["delete", &lake.uri, "t", "--where", "id = 7", "--json"];
    let gone = one_document(&lake.run(&gone).ok());
    assert_eq!(gone["rows"]["t"]["deleted"], 1);
    lake.assert_at_rest();
}

#[tokio::test]
async fn what_does_not_lie_in_the_slice_is_refused_with_its_row() {
    let lake = lake();
    let file = lake.csv("slice.csv", [(2, "new".to_owned()), (9, "new".to_owned())]);
    let outside = [
        "the slice \"id < 5\"",
        "row 2",
        "id = 9",
        "nothing was committed",
    ];
    for more in [&[][..], &["--dry-run"]] {
        let write = [
            "write", &lake.uri, "t", &file, "--mode", "replace", "--where", "id < 5",
        ];
        refused(&lake, &[&write[..], more].concat(), 2, &outside);
    }
    // Null is not in a slice, whatever is asked of it.
    let nulls = batch(
        &lake,
        "id,value\n2,\n",
        "[tables.t]\nmode = \"replace\"\nwhere = \"value <> 'x'\"\n",
    );
    refused(
        &lake,
        &["commit", &lake.uri, &nulls],
        2,
        &["row 1", "value = null"],
    );
    for (predicate, text) in [
        ("nothing = 1", "does not fit the table"),
        ("_rowid < 5 AND id < 5", "cannot be asked of the rows"),
        ("1 = 1", "reads no column"),
        ("id > random() * 0", "something else each time"),
    ] {
        let write = [
            "write", &lake.uri, "t", &file, "--mode", "replace", "--where", predicate,
        ];
        refused(&lake, &write, 2, &[text]);
    }
    let empty = lake.csv("empty.csv", []);
    let write = [
        "write", &lake.uri, "t", &empty, "--mode", "replace", "--where", "id = 1",
    ];
    refused(
        &lake,
        &write,
        2,
        &["only delete the slice", "--allow-empty"],
    );
    assert_eq!(rows(&lake).await.len(), 3);
    lake.run(&[&write[..], &["--allow-empty"]].concat()).ok();
    assert_eq!(lake.ids("t").await, [2, 3]);
}

/// Two files make one slice, whose rows are too many to be held.
#[tokio::test]
async fn a_slice_that_is_streamed_is_asked_row_by_row() {
    let lake = lake();
    let config = lake.path("squire.toml").to_string_lossy().into_owned();
    std::fs::write(&config, "[agent]\ngroup_bytes = \"1KiB\"\n").expect("config");
    let many = lake.csv("many.csv", (10..2_000).map(|id| (id, format!("n{id}"))));
    let write = |predicate: &str| {
        lake.run(&[
            "write", &lake.uri, "t", &many, "--mode", "replace", "--where", predicate, "--config",
            &config,
        ])
    };
    let outside = write("id >= 2 AND id < 1999");
    outside.failed(2, "row 1990 of the input");
    assert_eq!(rows(&lake).await.len(), 3);
    write("id >= 2").ok();
    assert_eq!(rows(&lake).await.len(), 1 + 1_990);
}

#[test]
fn a_table_is_made_if_it_is_missing() {
    let lake = Lake::new();
    let schema = |columns: &str| {
        let path = lake.path("schema.json").to_string_lossy().into_owned();
        std::fs::write(&path, columns).expect("schema file");
        path
    };
    let create = |schema: &str, key: &str| {
        let args = ["create", &lake.uri, "t", "--schema", schema, "--key", key];
        lake.run(&[&args[..], &["--if-missing", "--json"]].concat())
    };
    let id = r#"{"name":"id","type":"int64","nullable":false}"#;
    let made = create(
        &schema(&format!(r#"[{id},{{"name":"v","type":"utf8"}}]"#)),
        "id",
    );
    assert_eq!(made.ok().json()["outcome"], "committed");
    for columns in [
        format!(r#"[{id},{{"name":"v","type":"utf8"}}]"#),
        format!(r#"[{{"name":"v","type":"utf8"}},{id}]"#),
    ] {
        let there = create(&schema(&columns), "id").ok().json();
        assert_eq!(there["outcome"], "exists", "{there}");
    }
    for (columns, key, told) in [
        (format!("[{id}]"), "id", " besides"),
        (
            format!(r#"[{id},{{"name":"v","type":"int32"}}]"#),
            "id",
            "is Utf8 there, and Int32 here",
        ),
        (
            format!(r#"[{id},{{"name":"v","type":"utf8"}},{{"name":"w","type":"utf8"}}]"#),
            "id",
            "it has no column",
        ),
        (
            format!(r#"[{id},{{"name":"v","type":"utf8"}}]"#),
            "id,v",
            "its key is id, and id, v here",
        ),
    ] {
        create(&schema(&columns), key).failed(2, told);
    }
    // Without the option a table of the same columns is one too many.
    let path = schema(&format!("[{id}]"));
    let args = ["create", &lake.uri, "t", "--schema", &path];
    lake.run(&args).failed(3, "exists already");
}

#[tokio::test]
async fn what_was_computed_from_an_older_table_is_refused() {
    let lake = Lake::with_tables(&["t", "u"]);
    let file = lake.csv("rows.csv", [(1, "one".to_owned())]);
    lake.run(&["write", &lake.uri, "t", &file]).ok();
    let read = manifest_version(&lake);
    let require = format!("t@{read}");
    // Maintenance, and other tables, change nothing.
    lake.run(&["write", &lake.uri, "u", &file]).ok();
    lake.run(&["index", &lake.uri, "t", "id", "--type", "btree"])
        .ok();
    lake.run(&["reindex", &lake.uri]).ok();
    let write = |more: &[&str]| {
        let head = ["write", &lake.uri, "t", &file, "--require", &require];
        lake.run(&[&head[..], more].concat())
    };
    write(&["--batch-id", "once", "--mode", "overwrite"]).ok();
    // It moved the table itself, and is committed all the same.
    let again = write(&["--batch-id", "once", "--mode", "overwrite"]).ok();
    assert!(again.stdout.contains("already committed"), "{again:?}");
    for more in [&[][..], &["--dry-run"]] {
        let stale = write(more);
        stale.failed(
            2,
            &format!("table t has changed since snapshot {read}: it stood at"),
        );
    }
    let settings = format!("[require]\nt = {read}\n");
    let stale = batch(&lake, "id,value\n2,two\n", &settings);
    let commit = ["commit", &lake.uri, &stale];
    refused(
        &lake,
        &commit,
        2,
        &["has changed since", "compute the batch anew"],
    );
    let now = manifest_version(&lake);
    let settings = format!("[require]\nt = {now}\nu = {now}\n");
    let fresh = batch(&lake, "id,value\n2,two\n", &settings);
    lake.run(&["commit", &lake.uri, &fresh]).ok();
    assert_eq!(lake.ids("t").await, [1, 2]);
    for (require, text) in [
        ("t@999", "no manifest version 999"),
        ("t@1", "shows no table t"),
        ("t", "write TABLE@M"),
    ] {
        let args = ["write", &lake.uri, "t", &file, "--require", require];
        lake.run(&args).failed(2, text);
    }
    lake.run(&["drop", &lake.uri, "u"]).ok();
    let args = ["write", &lake.uri, "t", &file, "--require"];
    let gone = lake.run(&[&args[..], &[&format!("u@{now}")]].concat());
    gone.failed(2, "was dropped since");
}

/// A table `t` (region, id, value) whose key is region and id.
fn two_columns() -> Lake {
    let lake = Lake::new();
    let schema = lake.path("keyed.json").to_string_lossy().into_owned();
    let columns = r#"[{"name":"region","type":"utf8"},{"name":"id","type":"int64"},{"name":"value","type":"utf8"}]"#;
    std::fs::write(&schema, columns).expect("schema file");
    let create = ["create", &lake.uri, "t", "--schema", &schema];
    lake.run(&[&create[..], &["--key", "region,id"]].concat())
        .ok();
    lake
}

async fn regions(lake: &Lake) -> Vec<String> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    let store = lake.store().await;
    let snapshot = store.load().await.expect("snapshot");
    let dataset = store.read(&snapshot, &"t".parse().expect("name")).await;
    let rows = dataset.expect("table").scan().try_into_batch().await;
    let rows = rows.expect("rows");
    let column = |name: &str| rows.column_by_name(name).expect("column").clone();
    let (region, id, value) = (column("region"), column("id"), column("value"));
    let mut told: Vec<String> = (0..rows.num_rows())
        .map(|row| {
            let (region, id) = (region.as_string::<i32>(), id.as_primitive::<Int64Type>());
            let value = value.as_string::<i32>();
            format!(
                "{}{}={}",
                region.value(row),
                id.value(row),
                value.value(row)
            )
        })
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn a_key_may_have_several_columns() {
    let lake = two_columns();
    let write = |text: &str, mode: &str| {
        let path = lake.path("rows.csv").to_string_lossy().into_owned();
        std::fs::write(&path, format!("region,id,value\n{text}")).expect("rows");
        lake.run(&["write", &lake.uri, "t", &path, "--mode", mode])
    };
    write("a,1,x\na,2,x\nb,1,x\n", "merge").ok();
    let merged = write("a,2,y\nb,2,y\n", "merge").ok();
    assert!(
        merged.stdout.contains("1 inserted, 1 updated"),
        "{merged:?}"
    );
    assert_eq!(regions(&lake).await, ["a1=x", "a2=y", "b1=x", "b2=y"]);
    write("a,1,z\na,1,z\n", "merge").failed(2, "region = \"a\", id = 1 stands twice");
    write(",1,z\n", "merge").failed(2, "\"region\" is null");
    let delete = "[tables.t]\nmode = \"delete\"\n";
    let keys = batch(&lake, "region,id\na,1\nb,2\nc,1\n", delete);
    let dry = ["commit", &lake.uri, &keys, "--dry-run", "--json"];
    let dry = lake.run(&dry).ok().json();
    assert_eq!(dry["tables"][0]["rows"]["deleted"], 2);
    lake.run(&["commit", &lake.uri, &keys]).ok();
    assert_eq!(regions(&lake).await, ["a2=y", "b1=x"]);
    let half = batch(&lake, "id\n1\n", delete);
    refused(
        &lake,
        &["commit", &lake.uri, &half],
        2,
        &["\"region\" is missing"],
    );
    let settings = "[tables.t]\nmode = \"merge\"\nkey = [\"id\", \"region\"]\n";
    let merge = batch(&lake, "region,id,value\nb,1,w\n", settings);
    lake.run(&["commit", &lake.uri, &merge]).ok();
    assert_eq!(regions(&lake).await, ["a2=y", "b1=w"]);
    let alter = ["alter", &lake.uri, "t", "drop", "region"];
    refused(&lake, &alter, 3, &["\"region\" is its key"]);
    lake.assert_at_rest();
}

/// The store's format, as its manifest says.
async fn format(lake: &Lake) -> u32 {
    lake.store()
        .await
        .load()
        .await
        .expect("snapshot")
        .state
        .format
}

/// Earlier releases cannot read a key of several columns, and go on with stores that have none.
#[tokio::test]
async fn only_a_store_with_such_a_key_keeps_earlier_releases_out() {
    let lake = lake();
    assert_eq!(format(&lake).await, 2);
    let lake = two_columns();
    assert_eq!(format(&lake).await, 4);
    lake.run(&["drop", &lake.uri, "t"]).ok();
    assert_eq!(format(&lake).await, 4, "no format is taken back");
}

/// So does what such a create leaves when it dies: its sidecar is read by nobody who cannot finish it.
#[tokio::test]
async fn a_create_with_such_a_key_is_finished_by_others() {
    let lake = Lake::new();
    let schema = lake.path("keyed.json").to_string_lossy().into_owned();
    std::fs::write(
        &schema,
        r#"[{"name":"a","type":"utf8"},{"name":"b","type":"int64"}]"#,
    )
    .expect("schema file");
    let create = [
        "create", &lake.uri, "t", "--schema", &schema, "--key", "a,b",
    ];
    let died = lake.with_seam("write.after_phase_b=1*return(kill)", &create);
    assert_eq!(died.wait().code, None);
    let recovery = Path::new(&lake.uri).join("_squire/recovery");
    let sidecar = std::fs::read_dir(recovery).expect("directory").next();
    let sidecar = std::fs::read(sidecar.expect("a sidecar").expect("entry").path());
    let sidecar: serde_json::Value =
        serde_json::from_slice(&sidecar.expect("a sidecar")).expect("JSON");
    assert_eq!(sidecar["format"], 3);
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    assert_eq!(format(&lake).await, 4);
    let state = lake.store().await.load().await.expect("snapshot").state;
    let entry = state.table(&"t".parse().expect("name")).expect("the table");
    assert_eq!(
        entry.key.as_ref().map(ToString::to_string),
        Some("a, b".to_owned())
    );
}

/// A key that is named must be the one that the table declares: by another, rows would replace those of other keys.
#[tokio::test]
async fn rows_are_told_apart_by_the_declared_key_alone() {
    let lake = two_columns();
    let file = |rows: &str| {
        let path = lake.path("rows.csv");
        std::fs::write(&path, format!("region,id,value\n{rows}")).expect("rows");
        path.to_string_lossy().into_owned()
    };
    lake.run(&["write", &lake.uri, "t", &file("a,1,x\nb,1,y\n")])
        .ok();
    let more = file("a,1,z\n");
    let write = ["write", &lake.uri, "t", &more, "--mode", "update", "--key"];
    let other = [&write[..], &["id"]].concat();
    refused(
        &lake,
        &other,
        2,
        &["declares the key region, id", "leave out the key id"],
    );
    let delete = batch(
        &lake,
        "id\n1\n",
        "[tables.t]\nmode = \"delete\"\nkey = \"id\"\n",
    );
    refused(
        &lake,
        &["commit", &lake.uri, &delete],
        2,
        &["declares the key"],
    );
    assert_eq!(regions(&lake).await, ["a1=x", "b1=y"]);
    lake.run(&[&write[..], &["id,region"]].concat()).ok();
    assert_eq!(regions(&lake).await, ["a1=z", "b1=y"]);
}
