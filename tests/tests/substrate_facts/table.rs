//! The fixture: one table `(id, val)` in a temporary directory, and one handle per action.
//!
//! Every function that takes a URI opens its own session, as another process would.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow_array::{Int32Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use lance::Dataset;
use lance::Result;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::cleanup::{CleanupPolicy, CleanupPolicyBuilder, RemovalStats};
use lance::dataset::optimize::{CompactionMetrics, CompactionOptions, compact_files};
use lance::dataset::transaction::Transaction;
use lance::dataset::{
    CommitBuilder, DeleteBuilder, InsertBuilder, UpdateBuilder, WriteMode, WriteParams,
};
use tempfile::TempDir;

use crate::guard::Guard;

pub(crate) struct Table {
    pub(crate) uri: String,
    dir: TempDir,
}

impl Table {
    /// A table at version 1 with these ids in one fragment.
    pub(crate) async fn create(ids: Range<i32>) -> Self {
        Self::create_with(vec![rows(ids)], WriteParams::default()).await
    }

    /// A table with one fragment of `rows_each` rows per version, ids counted from 0.
    pub(crate) async fn with_fragments(fragments: i32, rows_each: i32) -> Self {
        let table = Self::create(0..rows_each).await;
        for n in 1..fragments {
            append(&table.uri, n * rows_each..(n + 1) * rows_each).await;
        }
        table
    }

    pub(crate) async fn create_with(batches: Vec<RecordBatch>, params: WriteParams) -> Self {
        let dir = TempDir::new().unwrap();
        let uri = dir.path().join("t.lance").to_str().unwrap().to_owned();
        InsertBuilder::new(uri.as_str())
            .with_params(&params)
            .execute(batches)
            .await
            .unwrap();
        Self { uri, dir }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join("t.lance").join(relative)
    }

    /// The names in one directory of the table; none when it does not exist.
    pub(crate) fn files(&self, directory: &str) -> BTreeSet<String> {
        fs::read_dir(self.path(directory)).map_or_else(
            |_| BTreeSet::new(),
            |entries| {
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect()
            },
        )
    }

    /// Makes a file look as if it had been written this long ago.
    pub(crate) fn age(&self, relative: &str, age: Duration) {
        let file = File::options()
            .write(true)
            .open(self.path(relative))
            .unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
}

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn rows(ids: Range<i32>) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("val", DataType::Int32, false),
    ]));
    let ids: Int32Array = ids.collect::<Vec<_>>().into();
    RecordBatch::try_new(schema, vec![Arc::new(ids.clone()), Arc::new(ids)]).unwrap()
}

pub(crate) fn properties(op: &str) -> HashMap<String, String> {
    HashMap::from([("squire.op".to_owned(), op.to_owned())])
}

/// The `squire.op` that a transaction carries.
pub(crate) fn op_of(transaction: &Transaction) -> Option<&str> {
    transaction
        .transaction_properties
        .as_ref()?
        .get("squire.op")
        .map(String::as_str)
}

pub(crate) async fn open(uri: &str) -> Dataset {
    DatasetBuilder::from_uri(uri).load().await.unwrap()
}

pub(crate) async fn open_guarded(uri: &str, guard: &Arc<Guard>) -> Dataset {
    DatasetBuilder::from_uri(uri)
        .with_commit_handler(guard.clone())
        .load()
        .await
        .unwrap()
}

pub(crate) async fn head(uri: &str) -> u64 {
    open(uri).await.version_id()
}

pub(crate) async fn versions(uri: &str) -> Vec<u64> {
    open(uri)
        .await
        .versions()
        .await
        .unwrap()
        .iter()
        .map(|version| version.version)
        .collect()
}

/// The ids that a reader of the latest version sees, sorted.
pub(crate) async fn try_ids(uri: &str) -> Result<Vec<i32>> {
    let batch = DatasetBuilder::from_uri(uri)
        .load()
        .await?
        .scan()
        .try_into_batch()
        .await?;
    let column = batch.column_by_name("id").unwrap();
    let mut ids = column
        .as_any()
        .downcast_ref::<Int32Array>()
        .unwrap()
        .values()
        .to_vec();
    ids.sort_unstable();
    Ok(ids)
}

pub(crate) async fn ids(uri: &str) -> Vec<i32> {
    try_ids(uri).await.unwrap()
}

pub(crate) fn span(ids: Range<i32>) -> Vec<i32> {
    ids.collect()
}

/// Writes the files of an insert against `dataset`'s version, and does not commit.
pub(crate) async fn stage(dataset: &Dataset, mode: WriteMode, ids: Range<i32>) -> Transaction {
    let params = WriteParams {
        mode,
        ..WriteParams::default()
    };
    InsertBuilder::new(Arc::new(dataset.clone()))
        .with_params(&params)
        .execute_uncommitted(vec![rows(ids)])
        .await
        .unwrap()
}

pub(crate) async fn commit(dataset: &Dataset, transaction: Transaction) -> Result<Dataset> {
    CommitBuilder::new(Arc::new(dataset.clone()))
        .execute(transaction)
        .await
}

/// Deletes through this handle, stale or not, without reopening it on a conflict.
pub(crate) async fn try_delete(dataset: &Dataset, predicate: &str) -> Result<Dataset> {
    let dataset = Arc::new(dataset.clone());
    let staged = DeleteBuilder::new(dataset.clone(), predicate)
        .execute_uncommitted()
        .await?;
    let mut builder = CommitBuilder::new(dataset);
    if let Some(rows) = staged.affected_rows {
        builder = builder.with_affected_rows(rows);
    }
    builder.execute(staged.transaction).await
}

/// Sets `val` through this handle, stale or not, without reopening it on a conflict.
pub(crate) async fn try_update(dataset: &Dataset, predicate: &str) -> Result<()> {
    UpdateBuilder::new(Arc::new(dataset.clone()))
        .update_where(predicate)?
        .set("val", "-1")?
        .conflict_retries(0)
        .build()?
        .execute()
        .await
        .map(drop)
}

pub(crate) async fn append(uri: &str, ids: Range<i32>) {
    let dataset = open(uri).await;
    let staged = stage(&dataset, WriteMode::Append, ids).await;
    commit(&dataset, staged).await.unwrap();
}

pub(crate) async fn overwrite(uri: &str, ids: Range<i32>) {
    let dataset = open(uri).await;
    let staged = stage(&dataset, WriteMode::Overwrite, ids).await;
    commit(&dataset, staged).await.unwrap();
}

pub(crate) async fn delete(uri: &str, predicate: &str) {
    try_delete(&open(uri).await, predicate).await.unwrap();
}

pub(crate) async fn update(uri: &str, predicate: &str) {
    try_update(&open(uri).await, predicate).await.unwrap();
}

pub(crate) async fn compact(dataset: &mut Dataset, spared: &[u32]) -> Result<CompactionMetrics> {
    let options = CompactionOptions {
        excluded_fragment_ids: spared.to_vec(),
        ..CompactionOptions::default()
    };
    compact_files(dataset, options, None).await
}

/// A cleanup of exactly these versions.
pub(crate) fn only(versions: &[u64]) -> CleanupPolicy {
    CleanupPolicyBuilder::default()
        .versions(versions.to_vec())
        .unwrap()
        .error_if_tagged_old_versions(false)
        .build()
}

pub(crate) async fn remove_versions(uri: &str, versions: &[u64]) -> RemovalStats {
    open(uri)
        .await
        .cleanup(only(versions))
        .execute()
        .await
        .unwrap()
}
