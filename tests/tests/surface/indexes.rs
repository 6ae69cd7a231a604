//! Indexes: one that fails is named and stops nothing else; one that lost rows is not extended; one can be withdrawn.

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use serde_json::{Value, json};
use squire_tests::{Done, Lake, tree};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A table with an index of each of its columns, both built, and rows that neither covers.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t"]);
    for (column, kind) in [("id", "btree"), ("value", "bitmap")] {
        lake.run(&["index", &lake.uri, "t", column, "--type", kind])
            .ok();
    }
    write(&lake, 0..300);
    lake.run(&["reindex", &lake.uri]).ok();
    write(&lake, 300..350);
    lake
}

fn write(lake: &Lake, ids: std::ops::Range<i64>) {
    let name = format!("{}.csv", ids.start);
    let rows = lake.csv(&name, ids.map(|id| (id, format!("v{}", id % 7))));
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
}

/// The folders of the table's indexes.
fn folders(lake: &Lake) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(Path::new(&lake.uri).join("t.lance/_indices"));
    let paths = entries.expect("indexes").map(|e| e.expect("entry").path());
    paths.collect()
}

/// The folder of index `name`, at HEAD.
async fn folder_of(lake: &Lake, name: &str) -> PathBuf {
    let uri = format!("{}/t.lance", lake.uri);
    let table = Dataset::open(&uri).await.expect("table");
    let index = table.load_index_by_name(name).await.expect("indexes");
    let uuid = index.expect("built").uuid.to_string();
    Path::new(&uri).join("_indices").join(uuid)
}

fn report(done: &Done) -> Value {
    done.json()["tables"][0]["report"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_files_are_gone_fails_by_name_and_its_sibling_is_extended() {
    let lake = lake();
    let gone = folder_of(&lake, "id_idx").await;
    std::fs::remove_dir_all(&gone).expect("its files");

    let done = lake.run(&["reindex", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(report(&done)["indexes"], json!(["value_idx"]));
    let failed = &report(&done)["failed_indexes"][0];
    let uuid = gone
        .file_name()
        .expect("uuid")
        .to_string_lossy()
        .into_owned();
    assert_eq!(failed[0], "id_idx");
    for part in [uuid.as_str(), "is gone", "create it again"] {
        assert!(failed[1].as_str().expect("why").contains(part), "{failed}");
    }

    // Again and again: the same answer, and nothing is written for it.
    let (before, version) = (folders(&lake), lake.table_status("t", "head"));
    let again = lake.run(&["daemon", &lake.uri, "--once"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(lake.run(&["reindex", &lake.uri]).code, Some(1));
    assert_eq!(lake.table_status("t", "head"), version);
    assert_eq!(folders(&lake), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_one_index_is_extended_leaves_the_others_alone() {
    let lake = lake();
    let before = folders(&lake);
    let seam = "maintain.before_journal=1*panic(not for this index)";
    let done = lake
        .with_seam(seam, &["reindex", &lake.uri, "--json"])
        .wait();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(report(&done)["failed_indexes"][0][0], "id_idx");
    assert_eq!(report(&done)["indexes"], json!(["value_idx"]));
    assert_eq!(folders(&lake).difference(&before).count(), 1);
    lake.run(&["reindex", &lake.uri]).ok();
    lake.assert_at_rest();
}

fn ids(ids: std::ops::Range<i64>) -> RecordBatch {
    let ids: ArrayRef = std::sync::Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter([("id", ids)]).expect("rows")
}

async fn append(uri: &str, rows: std::ops::Range<i64>) -> Dataset {
    let params = WriteParams {
        mode: WriteMode::Append,
        ..WriteParams::default()
    };
    let mut insert = InsertBuilder::new(uri);
    insert = insert.with_params(&params);
    insert.execute(vec![ids(rows)]).await.expect("append")
}

async fn found(uri: &str, filter: &str, with_index: bool) -> usize {
    let mut scan = Dataset::open(uri).await.expect("table").scan();
    scan.use_scalar_index(with_index)
        .filter(filter)
        .expect("filter");
    let rows = scan.try_into_batch().await.expect("rows");
    rows.num_rows()
}

/// A plain table whose index finds nothing any more: it was remapped past a fragment-reuse index. Lance says nothing.
async fn lossy(uri: &str) {
    let insert = InsertBuilder::new(uri);
    insert.execute(vec![ids(0..50)]).await.expect("create");
    let mut table = append(uri, 50..100).await;
    let params = ScalarIndexParams::default();
    let build = table.create_index(&["id"], IndexType::BTree, None, &params, false);
    build.await.expect("index");
    let deferred = CompactionOptions {
        defer_index_remap: true,
        ..CompactionOptions::default()
    };
    compact_files(&mut table, deferred, None)
        .await
        .expect("compaction");
    table.delete("id % 5 = 1").await.expect("delete");
    let eager = CompactionOptions::default();
    compact_files(&mut table, eager, None)
        .await
        .expect("compaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lost_rows_is_not_extended_and_nothing_is_left_of_the_attempt() {
    let lake = Lake::new();
    let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
    lossy(&uri).await;
    assert_eq!(found(&uri, "id < 10", false).await, 8);
    assert_eq!(found(&uri, "id < 10", true).await, 0, "Lance mended it");
    let head = append(&uri, 100..150).await.manifest().version;
    let before = tree(Path::new(&uri));

    let done = lake.run(&["reindex", &uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let failed = report(&done)["failed_indexes"][0].clone();
    assert_eq!(failed[0], "id_idx");
    assert!(
        failed[1]
            .as_str()
            .expect("why")
            .contains("where a scan finds"),
        "{failed}"
    );
    let table = Dataset::open(&uri).await.expect("table");
    assert_eq!(table.manifest().version, head);
    assert_eq!(tree(Path::new(&uri)), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_index_is_gone_and_not_built_again() {
    let lake = lake();
    let withdraw = ["index", &lake.uri, "t", "id", "--withdraw"];
    lake.run(&withdraw).ok();
    lake.run(&["reindex", &lake.uri]).ok();
    let indexes = lake.table_status("t", "indexes");
    assert_eq!(indexes.as_array().expect("indexes").len(), 1, "{indexes}");
    assert_eq!(indexes[0]["name"], "value_idx");
    lake.run(&withdraw).failed(1, "no index \"id_idx\"");
    lake.assert_at_rest();

    // It can be declared again, as another type.
    lake.run(&["index", &lake.uri, "t", "id", "--type", "bitmap"])
        .ok();
    lake.run(&["reindex", &lake.uri]).ok();
    assert_eq!(
        lake.table_status("t", "indexes").as_array().map(Vec::len),
        Some(2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reindex_writes_nothing() {
    let lake = lake();
    lake.run(&["reindex", &lake.uri]).ok();
    let before = tree(&Path::new(&lake.uri).join("t.lance"));
    let again = lake.run(&["reindex", &lake.uri, "--json"]).ok();
    assert_eq!(report(&again)["indexes"], json!([]));
    assert_eq!(tree(&Path::new(&lake.uri).join("t.lance")), before);
}
