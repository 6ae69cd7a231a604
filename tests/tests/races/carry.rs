//! Rewrites of plain tables that other Lance clients delete from, update and merge into meanwhile: nothing is rewritten
//! twice, and content, row ids and what indexes find are as if nothing had been rewritten.

use arrow_array::{Int64Array, RecordBatch, RecordBatchIterator, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{
    MergeInsertBuilder, NewColumnTransform, UpdateBuilder, WhenMatched, WriteMode, WriteParams,
};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use nix::sys::signal::Signal;
use serde_json::Value;
use squire_tests::{Child, Lake, armed};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A plain table of four fragments of ten rows, and what should be in it.
struct Plain {
    lake: Lake,
    uri: String,
    stable: bool,
    rows: BTreeMap<i64, String>,
}

fn batch(ids: impl Iterator<Item = i64> + Clone, word: &str) -> RecordBatch {
    let values: Vec<String> = ids.clone().map(|id| format!("{word}-{id}")).collect();
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("value", DataType::Utf8, true),
    ]);
    let ids = Int64Array::from_iter_values(ids);
    let columns = vec![Arc::new(ids) as _, Arc::new(StringArray::from(values)) as _];
    RecordBatch::try_new(Arc::new(schema), columns).expect("rows")
}

impl Plain {
    async fn new(stable: bool, indexed: bool) -> Self {
        let mut plain = Self::undeleted(stable, indexed).await;
        // Offsets and ranks are not the same in any fragment but the last.
        plain.delete("id IN (0, 3, 14, 21, 22)").await;
        plain
    }

    async fn undeleted(stable: bool, indexed: bool) -> Self {
        let lake = Lake::new();
        let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
        let mut plain = Self {
            lake,
            uri,
            stable,
            rows: BTreeMap::new(),
        };
        for first in [0, 10, 20, 30] {
            plain.append(first..first + 10).await;
        }
        if indexed {
            let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
            let mut table = plain.open().await;
            let built = table.create_index(&["id"], kind, None, &params, false);
            built.await.expect("an index");
        }
        plain
    }

    async fn open(&self) -> Dataset {
        Dataset::open(&self.uri).await.expect("the table")
    }

    async fn append(&mut self, ids: std::ops::Range<i64>) {
        let rows = batch(ids.clone(), "old");
        self.rows.extend(ids.map(|id| (id, format!("old-{id}"))));
        let params = WriteParams {
            mode: WriteMode::Append,
            enable_stable_row_ids: self.stable,
            ..WriteParams::default()
        };
        let rows = RecordBatchIterator::new([Ok(rows.clone())], rows.schema());
        let written = Dataset::write(rows, &self.uri, Some(params)).await;
        written.expect("an append");
    }

    async fn delete(&mut self, predicate: &str) {
        let before = self.scan(None).await;
        self.open().await.delete(predicate).await.expect("a delete");
        let after = self.scan(None).await;
        self.rows
            .retain(|id, _| after.contains_key(id) || !before.contains_key(id));
    }

    async fn update(&mut self, id: i64) {
        let table = UpdateBuilder::new(Arc::new(self.open().await));
        let table = table.update_where(&format!("id = {id}")).expect("where");
        let table = table.set("value", "'updated'").expect("set");
        let update = table.build().expect("an update").execute().await;
        update.expect("an update");
        self.rows.insert(id, "updated".to_owned());
    }

    async fn merge(&mut self, ids: &[i64]) {
        let rows = batch(ids.iter().copied(), "merged");
        let merged = ids.iter().map(|id| (*id, format!("merged-{id}")));
        self.rows.extend(merged);
        let on = vec![String::from("id")];
        let mut merge = MergeInsertBuilder::try_new(Arc::new(self.open().await), on).expect("keys");
        merge.when_matched(WhenMatched::UpdateAll);
        let job = merge.try_build().expect("a merge");
        let rows = RecordBatchIterator::new([Ok(rows.clone())], rows.schema());
        let merged = job.execute_reader(rows).await;
        merged.expect("a merge");
    }

    /// Ids with their values and row ids, by a scan or by what an index may answer.
    async fn scan(&self, predicate: Option<&str>) -> BTreeMap<i64, (String, u64)> {
        let table = self.open().await;
        let mut scanner = table.scan();
        scanner.with_row_id();
        scanner.use_scalar_index(predicate.is_some());
        if let Some(predicate) = predicate {
            scanner.filter(predicate).expect("a filter");
        }
        let batches = scanner.try_into_stream().await.expect("a scan");
        let batches: Vec<RecordBatch> = batches.try_collect().await.expect("rows");
        let mut rows = BTreeMap::new();
        for batch in &batches {
            let ids = batch["id"].as_any().downcast_ref::<Int64Array>();
            let values = batch["value"].as_any().downcast_ref::<StringArray>();
            let row_ids = batch["_rowid"].as_any().downcast_ref::<UInt64Array>();
            let (ids, values) = (ids.expect("int64"), values.expect("utf8"));
            for row in 0..batch.num_rows() {
                let found = (
                    values.value(row).to_owned(),
                    row_ids.expect("uint64").value(row),
                );
                let before = rows.insert(ids.value(row), found);
                assert_eq!(before, None, "id {} is there twice", ids.value(row));
            }
        }
        rows
    }

    fn stop(&self, failpoints: &str) -> Child {
        let args = ["optimize", &self.uri, "--json"];
        let mut child = self.lake.with_seam(failpoints, &args);
        child.wait_stopped();
        child
    }

    /// Stops a run whose tasks take two fragments.
    fn stop_pairs(&self, failpoints: &str) -> Child {
        let config = self.lake.path("pairs.toml");
        std::fs::write(&config, "[policy]\nmax_task_fragments = 2\n").expect("a configuration");
        let config = config.to_string_lossy();
        let args = ["optimize", &self.uri, "--json", "--config", &config];
        let mut child = self.lake.with_seam(failpoints, &args);
        child.wait_stopped();
        child
    }

    /// All rows are there once, and each way to ask for them finds them.
    async fn assert_whole(&self) {
        let table = self.open().await;
        table.validate().await.expect("a valid table");
        let found = self.scan(None).await;
        let values = found.iter().map(|(id, (value, _))| (*id, value.clone()));
        assert_eq!(values.collect::<BTreeMap<_, _>>(), self.rows);
        let rows = table.count_rows(None).await.expect("a count");
        assert_eq!(rows, self.rows.len());
        assert_eq!(self.scan(Some("id >= -1")).await, found);
        for id in -1..60 {
            let asked = self.scan(Some(&format!("id = {id}"))).await;
            let expected = found.get(&id).map(|row| (id, row.clone()));
            assert_eq!(asked, expected.into_iter().collect(), "id {id}");
        }
    }

    /// How many files, or folders, lie in this one of the table.
    fn count(&self, folder: &str) -> usize {
        let folder = self.lake.path("plain/t.lance").join(folder);
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }

    /// Deletion files that no version of the last few refers to.
    async fn stray_deletions(&self) -> Vec<String> {
        let listed = std::fs::read_dir(self.lake.path("plain/t.lance/_deletions"));
        let listed = listed.expect("deletions").map(|file| {
            let name = file.expect("a file").file_name();
            name.to_string_lossy().into_owned()
        });
        let mut stray: Vec<String> = listed.collect();
        let table = self.open().await;
        for version in 1..=table.version().version {
            let table = table.checkout_version(version).await.expect("a version");
            for fragment in table.manifest().fragments.iter() {
                let Some(file) = &fragment.deletion_file else {
                    continue;
                };
                let name = format!("{}-{}-{}.", fragment.id, file.read_version, file.id);
                stray.retain(|stray| !stray.starts_with(&name));
            }
        }
        stray
    }
}

fn report(done: &Value) -> &Value {
    &done["tables"][0]["report"]
}

/// Deleted from, updated and merged into under one rewrite, and deleted from once more when it is about to land.
async fn carried(stable: bool, indexed: bool) {
    let mut plain = Plain::new(stable, indexed).await;
    let both = format!(
        "{};{}",
        armed("maintain.after_rewrite", 1, "stop"),
        armed("maintain.after_carry", 1, "stop")
    );
    let mut child = plain.stop(&both);
    plain.delete("id IN (1, 9, 15, 39)").await;
    plain.update(23).await;
    plain.merge(&[12, 30, 50]).await;
    plain.append(40..43).await;
    let row_ids = |rows: &BTreeMap<i64, (String, u64)>| -> Vec<(i64, u64)> {
        rows.iter()
            .map(|(id, (_, row_id))| (*id, *row_id))
            .collect()
    };
    child.signal(Signal::SIGCONT);
    child.wait_stopped();
    plain.delete("id IN (2, 38)").await;
    plain.assert_whole().await;
    let before = plain.scan(None).await;
    let done = child.resume().ok().json();
    let report = report(&done);
    assert_eq!(report["conflicts"], 0, "{report}");
    assert_eq!(report["carried"], 1, "{report}");
    assert_eq!(report["fragments_removed"], 4, "{report}");
    assert_eq!(report["unfit"], serde_json::json!([]), "{report}");
    plain.assert_whole().await;
    let after = plain.scan(None).await;
    if stable {
        assert_eq!(row_ids(&before), row_ids(&after));
    }
    assert_eq!(plain.stray_deletions().await, Vec::<String>::new());
    // What was carried is a table like any other.
    plain.delete("id IN (4, 24)").await;
    plain.update(5).await;
    plain.merge(&[6, 51]).await;
    plain.assert_whole().await;
    plain.lake.run(&["optimize", &plain.uri]).ok();
    plain.assert_whole().await;
}

#[tokio::test]
async fn deletions_are_carried() {
    carried(false, false).await;
}

#[tokio::test]
async fn deletions_are_carried_with_stable_row_ids() {
    carried(true, false).await;
}

#[tokio::test]
async fn deletions_are_carried_past_an_index() {
    carried(false, true).await;
}

#[tokio::test]
async fn deletions_are_carried_past_an_index_with_stable_row_ids() {
    carried(true, true).await;
}

/// What a rewrite cannot take along is rewritten once more.
#[tokio::test]
async fn a_rewrite_that_does_not_hold_any_more_is_given_up() {
    for other in ["a column", "an index", "a fragment", "a restore"] {
        let mut plain = Plain::new(false, false).await;
        let child = plain.stop(&armed("maintain.after_rewrite", 1, "stop"));
        plain.delete("id = 1").await;
        let mut table = plain.open().await;
        match other {
            "a column" => {
                let two = vec![(String::from("two"), String::from("id * 2"))];
                let two = NewColumnTransform::SqlExpressions(two);
                table.add_columns(two, None, None).await.expect("a column");
            }
            "an index" => {
                let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
                let built = table.create_index(&["id"], kind, None, &params, false);
                built.await.expect("an index");
            }
            "a fragment" => plain.delete("id BETWEEN 10 AND 19").await,
            _ => {
                let mut before = table.checkout_version(4).await.expect("a version");
                before.restore().await.expect("a restore");
                for id in [0, 1, 3, 14, 21, 22] {
                    plain.rows.insert(id, format!("old-{id}"));
                }
            }
        }
        let done = child.resume().ok().json();
        let report = report(&done);
        assert_eq!(report["carried"], 0, "{other}: {report}");
        assert_eq!(report["conflicts"], 1, "{other}: {report}");
        plain.assert_whole().await;
    }
}

/// One rewrite of two has lost a fragment: it is given up, and the other lands with what was deleted.
#[tokio::test]
async fn one_of_two_rewrites_is_given_up() {
    let mut plain = Plain::undeleted(false, false).await;
    let child = plain.stop_pairs(&armed("maintain.after_rewrite", 1, "stop"));
    plain.delete("id = 1").await;
    plain.delete("id BETWEEN 30 AND 39").await;
    let done = child.resume().ok().json();
    let report = report(&done);
    assert_eq!(report["carried"], 1, "{report}");
    assert_eq!(report["conflicts"], 1, "{report}");
    assert_ne!(report["reclaimed_bytes"], 0, "{report}");
    plain.assert_whole().await;
}

/// A fragment of the second task goes while the first is rewritten: the second is not begun, and nothing was in vain.
#[tokio::test]
async fn what_was_overtaken_is_not_rewritten() {
    let mut plain = Plain::undeleted(false, false).await;
    let child = plain.stop_pairs(&armed("maintain.after_journal", 1, "stop"));
    plain.delete("id BETWEEN 30 AND 39").await;
    let done = child.resume().ok().json();
    let report = report(&done);
    assert_eq!(report["conflicts"], 1, "{report}");
    assert_eq!(report["reclaimed_bytes"], 0, "{report}");
    plain.assert_whole().await;
}

/// A writer comes first at every try, many times over: what was rewritten waits, and lands when the writer rests.
#[tokio::test]
async fn what_loses_every_slot_is_not_rewritten() {
    const TRIES: i64 = 16;
    let mut plain = Plain::new(false, true).await;
    let every_try = format!("maintain.after_carry={TRIES}*return(stop)");
    let rewritten = armed("maintain.after_rewrite", 1, "stop");
    let mut child = plain.stop(&format!("{rewritten};{every_try}"));
    plain.delete("id = 1").await;
    let (mut tries, mut deletions) = (0, 0);
    child.signal(Signal::SIGCONT);
    while child.stopped_or_ended() {
        tries += 1;
        // The index has followed once, and what was deleted is written once.
        assert_eq!(plain.count("_indices"), 2, "try {tries}");
        if tries % 4 != 1 {
            assert_eq!(plain.count("_deletions"), deletions, "try {tries}");
        }
        plain.append(100 + tries..101 + tries).await;
        if tries % 4 == 0 {
            plain.delete(&format!("id = {}", 1 + tries)).await;
        }
        deletions = plain.count("_deletions");
        child.signal(Signal::SIGCONT);
    }
    let done = child.wait().ok().json();
    assert_eq!(tries, TRIES);
    let report = report(&done);
    assert_eq!(report["conflicts"], 0, "{report}");
    assert_eq!(report["carried"], 1, "{report}");
    assert_eq!(report["fragments_removed"], 4, "{report}");
    plain.assert_whole().await;
    assert_eq!(plain.stray_deletions().await, Vec::<String>::new());
}

/// The same of an index, more often than Lance tries: it is not extended a second time.
#[tokio::test]
async fn an_index_that_loses_every_slot_is_not_built_again() {
    const TRIES: i64 = 24;
    let mut plain = Plain::undeleted(false, true).await;
    plain.append(40..50).await;
    let every_try = format!("commit.before_put={TRIES}*return(stop)");
    let args = ["reindex", &plain.uri, "--json"];
    let mut child = plain.lake.with_seam(&every_try, &args);
    let mut tries = 0;
    while child.stopped_or_ended() {
        tries += 1;
        plain.append(100 + tries..101 + tries).await;
        if tries % 4 == 0 {
            plain.delete(&format!("id = {}", 1 + tries)).await;
        }
        child.signal(Signal::SIGCONT);
    }
    let done = child.wait().ok().json();
    assert_eq!(tries, TRIES);
    let report = report(&done);
    assert_eq!(report["conflicts"], 0, "{report}");
    assert_eq!(report["indexes"], serde_json::json!(["id_idx"]), "{report}");
    assert_eq!(plain.count("_indices"), 2);
    plain.assert_whole().await;
}

/// What others did to its fragments, to its column or to the index itself while it lost its slot: it is built again.
#[tokio::test]
async fn an_index_that_does_not_stand_any_more_is_built_again() {
    for other in ["a compaction", "an index", "a column"] {
        let mut plain = Plain::undeleted(false, true).await;
        plain.append(40..50).await;
        let args = ["reindex", &plain.uri, "--json"];
        let mut child = plain
            .lake
            .with_seam(&armed("commit.before_put", 1, "stop"), &args);
        child.wait_stopped();
        let mut table = plain.open().await;
        match other {
            "a compaction" => {
                let compacted = compact_files(&mut table, CompactionOptions::default(), None).await;
                assert_eq!(compacted.expect("a compaction").fragments_added, 1);
            }
            "an index" => {
                let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
                let name = Some(String::from("id_idx"));
                let built = table.create_index(&["id"], kind, name, &params, true);
                built.await.expect("an index");
            }
            _ => {
                let two = vec![(String::from("two"), String::from("id * 2"))];
                let two = NewColumnTransform::SqlExpressions(two);
                table.add_columns(two, None, None).await.expect("a column");
            }
        }
        let done = child.resume().ok().json();
        let report = report(&done);
        assert_eq!(report["conflicts"], 1, "{other}: {report}");
        plain.assert_whole().await;
    }
}

/// Writers come first at each of its commits, more often than Lance tries, and it is rewritten once.
#[tokio::test]
async fn a_rewrite_that_writers_come_before_is_not_lost() {
    const TRIES: i64 = 24;
    for (indexed, deletes) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut plain = Plain::new(false, indexed).await;
        let rewritten = armed("maintain.after_rewrite", 1, "stop");
        let every_try = format!("commit.before_put={TRIES}*return(stop)");
        let mut child = plain.stop(&format!("{rewritten};{every_try}"));
        if deletes {
            plain.delete("id = 1").await;
        }
        let mut tries = 0;
        child.signal(Signal::SIGCONT);
        while child.stopped_or_ended() {
            tries += 1;
            plain.append(100 + tries..101 + tries).await;
            child.signal(Signal::SIGCONT);
        }
        let done = child.wait().ok().json();
        assert_eq!(tries, TRIES, "{indexed} {deletes}");
        let report = report(&done);
        assert_eq!(report["conflicts"], 0, "{report}");
        assert_eq!(report["carried"], u32::from(deletes), "{report}");
        assert_eq!(report["fragments_removed"], 4, "{report}");
        plain.assert_whole().await;
    }
}

/// Each compaction makes one version, and takes no id that another fragment has or had.
#[tokio::test]
async fn writers_may_take_the_ids_of_a_rewrite() {
    for (indexed, deletes) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut plain = Plain::new(false, indexed).await;
        let before = plain.open().await.manifest().version;
        let rewritten = armed("maintain.after_rewrite", 1, "stop");
        let mut child = plain.stop(&format!("{rewritten};commit.before_put=1*return(stop)"));
        let mut others = 0;
        if deletes {
            plain.delete("id = 1").await;
            others += 1;
        }
        child.signal(Signal::SIGCONT);
        child.wait_stopped();
        for id in 100..140 {
            plain.append(id..id + 1).await;
        }
        // Whoever had them last may be gone.
        plain.delete("id >= 100 AND id < 139").await;
        others += 41;
        let table = plain.open().await;
        let had = table.manifest().max_fragment_id().expect("an id");
        let stand: Vec<u64> = table.fragments().iter().map(|f| f.id).collect();
        let done = child.resume().ok().json();
        let report = report(&done);
        assert_eq!(report["conflicts"], 0, "{report}");
        assert_eq!(report["fragments_removed"], 4, "{report}");
        let table = plain.open().await;
        assert_eq!(table.manifest().version, before + others + 1);
        let is_new = |id: &u64| !stand.contains(id);
        let new: Vec<u64> = table
            .fragments()
            .iter()
            .map(|f| f.id)
            .filter(is_new)
            .collect();
        assert!(
            !new.is_empty() && new.iter().all(|id| *id > had),
            "{new:?} {had}"
        );
        plain.assert_whole().await;
    }
}

/// An index that others build over its fragments meanwhile follows it, where it knows which rows went where; otherwise it is
/// planned afresh.
#[tokio::test]
async fn a_rewrite_is_carried_over_an_index_that_was_built_meanwhile() {
    for indexed in [true, false] {
        let mut plain = Plain::new(false, indexed).await;
        let mut child = plain.stop(&armed("maintain.after_rewrite", 1, "stop"));
        plain.delete("id = 1").await;
        let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
        let name = Some(String::from("id_idx"));
        let mut table = plain.open().await;
        let built = table.create_index(&["id"], kind, name, &params, true);
        built.await.expect("an index");
        child.signal(Signal::SIGCONT);
        let done = child.wait().ok().json();
        let report = report(&done);
        assert_eq!(report["conflicts"], u32::from(!indexed), "{report}");
        assert_eq!(report["carried"], u32::from(indexed), "{report}");
        assert_eq!(report["fragments_removed"], 4, "{report}");
        plain.assert_whole().await;
    }
}

/// A run that waits for writers stops when it is asked to, and leaves nothing.
#[tokio::test]
async fn a_run_that_waits_for_writers_can_be_stopped() {
    let mut plain = Plain::new(false, false).await;
    let rewritten = armed("maintain.after_rewrite", 1, "stop");
    let mut child = plain.stop(&format!("{rewritten};maintain.after_carry=return(stop)"));
    plain.delete("id = 1").await;
    let before = plain.open().await.count_fragments();
    child.signal(Signal::SIGCONT);
    let mut tries = 0;
    while child.stopped_or_ended() {
        tries += 1;
        if tries == 20 {
            child.signal(Signal::SIGINT);
        }
        assert!(tries < 40, "it goes on");
        plain.append(100 + tries..101 + tries).await;
        child.signal(Signal::SIGCONT);
    }
    let done = child.wait().json();
    let report = report(&done);
    assert_eq!(report["cancelled"], true, "{report}");
    assert_eq!(report["carried"], 0, "{report}");
    assert!(plain.open().await.count_fragments() > before);
    plain.assert_whole().await;
    assert_eq!(plain.stray_deletions().await, Vec::<String>::new());
}
