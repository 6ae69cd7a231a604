//! Indexes: one that fails is named and stops nothing else.

use serde_json::Value;
use squire_tests::{Done, Lake};
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
    use lance::index::DatasetIndexExt;
    let uri = format!("{}/t.lance", lake.uri);
    let table = lance::Dataset::open(&uri).await.expect("table");
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
    assert_eq!(report(&done)["indexes"], serde_json::json!(["value_idx"]));
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
    assert_eq!(report(&done)["indexes"], serde_json::json!(["value_idx"]));
    assert_eq!(folders(&lake).difference(&before).count(), 1);
    lake.run(&["reindex", &lake.uri]).ok();
    lake.assert_at_rest();
}
