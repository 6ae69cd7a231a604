//! A table that was dropped and made again under its pin, as LanceDB's `drop_table` and `create_table` do: reported, and
//! never taken for the one that was committed.

use arrow_array::{Int64Array, RecordBatch, RecordBatchIterator, StringArray};
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use serde_json::{Value, json};
use squire_tests::Lake;
use std::path::Path;
use std::sync::Arc;

/// Makes table `t` anew with `versions` versions, and gives its rows.
async fn made_again(lake: &Lake, versions: i64) -> Vec<(i64, String)> {
    let path = Path::new(&lake.uri).join("t.lance");
    let old = Dataset::open(&path.to_string_lossy()).await.expect("table");
    let schema: Arc<arrow_schema::Schema> = Arc::new(old.schema().into());
    std::fs::remove_dir_all(&path).expect("dropped");
    let mut rows = Vec::new();
    for i in 0..versions {
        let row = (900 + i, format!("new-{i}"));
        let mode = match i {
            0 => WriteMode::Create,
            _ => WriteMode::Append,
        };
        write(&path, &schema, &row, mode).await;
        rows.push(row);
    }
    rows
}

/// Another client writes one row.
async fn write(
    path: &Path,
    schema: &Arc<arrow_schema::Schema>,
    (id, value): &(i64, String),
    mode: WriteMode,
) {
    let columns: Vec<Arc<dyn arrow_array::Array>> = vec![
        Arc::new(Int64Array::from(vec![*id])),
        Arc::new(StringArray::from(vec![value.clone()])),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns);
    let reader = RecordBatchIterator::new([batch], schema.clone());
    let params = WriteParams {
        mode,
        ..WriteParams::default()
    };
    let uri = path.to_string_lossy().into_owned();
    let written = Dataset::write(reader, &uri, Some(params));
    written.await.expect("written");
}

/// With fewer versions than the pin, just as many, and more.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_again_is_reported_and_never_shown() {
    for versions in [1, 4, 6] {
        let lake = Lake::with_tables(&["t", "other"]);
        for i in 0..3 {
            let batch = lake.batch(&format!("b{i}"), &["t", "other"], i..i + 1);
            lake.run(&["commit", &lake.uri, &batch]).ok();
        }
        assert_eq!(lake.table_status("t", "pin"), 4);
        let before = lake.rows("other").await;
        let new = made_again(&lake, versions).await;
        let uri = lake.uri.clone();
        let file = lake.csv("t.csv", [(50, "more".to_owned())]);

        let said = "made again";
        lake.run(&["snapshot", &uri]).failed(3, said);
        lake.run(&["write", &uri, "t", &file]).failed(3, said);
        lake.run(&["delete", &uri, "t", "--where", "id = 900"])
            .failed(3, said);
        lake.run(&["drop", &uri, "t"]).failed(3, said);
        for work in ["optimize", "reindex"] {
            let done = lake.run(&[work, &uri, "--table", "t", "--json"]);
            assert_eq!(done.code, Some(3), "{done:?}");
            assert_eq!(
                done.json()["tables"][0]["report"]["skipped"],
                "replaced",
                "{versions}"
            );
        }
        lake.run(&["write", &uri, "other", &file]).ok();
        lake.daemon_pass("0s");
        let cleanup = lake.run(&["cleanup", &uri, "--json"]);
        assert_eq!(cleanup.code, Some(1), "{cleanup:?}");
        assert_eq!(cleanup.json()["report"]["failed"][0][0], "t");

        let preview = lake.run(&["repair", &uri, "--json"]).failed(3, "").json();
        let drift = &preview["drift"][0];
        assert_eq!(
            (&drift["replaced"], &drift["pin"]),
            (&json!(true), &json!(4))
        );
        assert_eq!(drift["head"], json!(versions));
        assert_eq!(drift["versions"][0]["version"], 1, "all are foreign");
        for action in ["--publish", "--discard"] {
            lake.run(&["repair", &uri, "--table", "t", action])
                .failed(3, said);
        }
        let head = versions.to_string();
        lake.run(&["repair", &uri, "--table", "t", "--force", "--head", &head])
            .ok();
        assert_eq!(lake.rows("t").await, new);
        lake.run(&["snapshot", &uri, "--at", "6"]).failed(1, said);
        assert_eq!(lake.rows("other").await.len(), before.len() + 1);
        lake.run(&["write", &uri, "t", &file]).ok();
        lake.daemon_pass("0s").ok();
        let young = lake.run(&["cleanup", &uri, "--json"]).ok().json();
        assert_eq!(young["plan"]["tables"], json!([]), "{young}");
        assert_eq!(lake.rows("t").await.len(), new.len() + 1);
        let status: Value = lake.status();
        assert_eq!(status["tables"].as_array().map(Vec::len), Some(2));
        lake.assert_at_rest();
    }
}

/// The pinned version goes with another client's cleanup, or with a disk: what stands there is shown, and a person may adopt it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_pin_is_gone_can_be_adopted() {
    for is_lost in [true, false] {
        let lake = Lake::with_tables(&["t", "other"]);
        for i in 0..3 {
            let batch = lake.batch(&format!("b{i}"), &["t", "other"], i..i + 1);
            lake.run(&["commit", &lake.uri, &batch]).ok();
        }
        let mut rows = lake.rows("t").await;
        let path = Path::new(&lake.uri).join("t.lance");
        let head = if is_lost {
            let hint = path.join("_versions/latest_version_hint.json");
            std::fs::remove_file(hint).ok();
            let latest = format!("_versions/{:020}.manifest", u64::MAX - 4);
            std::fs::remove_file(path.join(latest)).expect("the latest version");
            rows.retain(|(id, _)| *id < 2);
            "3"
        } else {
            let uri = path.to_string_lossy().into_owned();
            let table = Dataset::open(&uri).await.expect("table");
            let schema = Arc::new(table.schema().into());
            let row = (900, "foreign".to_owned());
            write(&path, &schema, &row, WriteMode::Append).await;
            let table = Dataset::open(&uri).await.expect("table");
            let all = chrono::TimeDelta::zero();
            let cleaned = table.cleanup_old_versions(all, Some(true), None).await;
            cleaned.expect("another client's cleanup");
            rows.push(row);
            "5"
        };
        let (uri, said) = (
            lake.uri.clone(),
            "version 4, which was committed, is missing",
        );
        let file = lake.csv("t.csv", [(50, "more".to_owned())]);
        let write = ["write", &uri, "t", &file];
        let refused = lake.run(&write).failed(1, said);
        assert!(refused.stderr.contains("squire repair"), "{refused:?}");
        lake.run(&["write", &uri, "other", &file]).ok();

        let preview = lake.run(&["repair", &uri, "--json"]).failed(3, "").json();
        let drift = &preview["drift"][0];
        assert_eq!(
            (&drift["gone"], drift["head"].to_string()),
            (&json!(true), head.to_owned()),
            "{drift}"
        );
        for action in ["--publish", "--discard"] {
            lake.run(&["repair", &uri, "--table", "t", action])
                .failed(1, said);
        }
        lake.run(&["repair", &uri, "--table", "t", "--force", "--head", head])
            .ok();
        assert_eq!(lake.rows("t").await, rows, "{is_lost}");
        lake.run(&write).ok();
        lake.daemon_pass("0s").ok();
        lake.run(&["verify", &uri]).ok();
        lake.assert_at_rest();
    }
}

/// A path stays burned, but what others put there later is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_where_one_was_dropped_is_not_removed() {
    let mut lake = Lake::with_tables(&["t", "other"]);
    let batch = lake.batch("b", &["t", "other"], 0..1);
    lake.run(&["commit", &lake.uri, &batch]).ok();
    lake.run(&["drop", &lake.uri, "t"]).ok();
    let new = made_again(&lake, 3).await;
    lake.env
        .push(("SQUIRE_RETENTION".to_owned(), "0".to_owned()));
    for i in 1..3 {
        let batch = lake.batch(&format!("b{i}"), &["other"], i..i + 1);
        lake.run(&["commit", &lake.uri, &batch]).ok();
        let all_but_the_latest = ["cleanup", &lake.uri, "--min-versions", "1", "--json"];
        let cleanup = lake.run(&all_but_the_latest);
        assert_eq!(cleanup.code, Some(1), "{cleanup:?}");
        let failed = cleanup.json()["report"]["failed"].to_string();
        assert!(failed.contains("something else than squire"), "{failed}");
    }
    let path = Path::new(&lake.uri).join("t.lance");
    let there = Dataset::open(&path.to_string_lossy()).await.expect("table");
    assert_eq!(squire_tests::rows_of(&there).await, new);
}

/// A backup of the folder is copied back under a process that knows newer versions, and others commit up to the number that it knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_copied_back_is_read_anew() {
    let lake = Lake::with_tables(&["t", "u"]);
    let backup = lake.path("backup");
    let copy = |from: &Path, to: &Path| {
        let done = std::process::Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(to)
            .status();
        assert!(done.expect("cp").success());
    };
    copy(Path::new(&lake.uri), &backup);
    let commit = |table: &str, id: i64| {
        let batch = lake.batch(&format!("{table}{id}"), &[table], id..id + 1);
        lake.run(&["commit", &lake.uri, &batch]).ok();
    };
    commit("t", 1);
    let store = lake.store().await;
    let before = store.load().await.expect("before");
    std::fs::remove_dir_all(&lake.uri).expect("the store goes");
    copy(&backup, Path::new(&lake.uri));
    commit("u", 2);
    let after = store.load().await.expect("after");
    assert_eq!(after.version(), before.version(), "by another history");
    let pin = |of: &squire_engine::store::Snapshot, table: &str| {
        of.state
            .table(&table.parse().expect("name"))
            .expect("table")
            .version
    };
    assert_eq!((pin(&before, "t"), pin(&before, "u")), (2, 1));
    assert_eq!((pin(&after, "t"), pin(&after, "u")), (1, 2));
}
