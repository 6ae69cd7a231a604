//! A watched directory with one plain table of (id, value), which other Lance clients write.

use crate::{batch_of, rows_of};
use arrow_array::RecordBatchIterator;
use lance::Dataset;
use lance::dataset::{UpdateBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The table below its directory.
pub const TABLE: &str = "org/t.lance";

/// The directory, and what should be in its table.
#[derive(Debug)]
pub struct Plain {
    /// The watched directory.
    pub uri: String,
    rows: BTreeMap<i64, String>,
}

impl Plain {
    /// An empty directory.
    pub fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        Self {
            uri: directory.to_string_lossy().into_owned(),
            rows: BTreeMap::new(),
        }
    }

    /// A path in the directory.
    pub fn path(&self, below: &str) -> PathBuf {
        Path::new(&self.uri).join(below)
    }

    /// The table as it is now.
    pub async fn open(&self) -> Dataset {
        let uri = format!("{}/{TABLE}", self.uri);
        Dataset::open(&uri).await.expect("the table")
    }

    /// Someone appends these ids, or makes the table of them.
    pub async fn append(&mut self, ids: Range<i64>) {
        let rows: Vec<(i64, String)> = ids.map(|id| (id, format!("row-{id}"))).collect();
        self.rows.extend(rows.iter().cloned());
        let rows = batch_of(rows);
        let schema = rows.schema();
        let reader = RecordBatchIterator::new([Ok(rows)], schema);
        let params = WriteParams {
            mode: WriteMode::Append,
            ..WriteParams::default()
        };
        let uri = format!("{}/{TABLE}", self.uri);
        let written = Dataset::write(reader, &uri, Some(params)).await;
        written.expect("an append");
    }

    /// Someone deletes an id.
    pub async fn delete(&mut self, id: i64) {
        let deleted = self.open().await.delete(&format!("id = {id}")).await;
        deleted.expect("a delete");
        self.rows.remove(&id);
    }

    /// Someone changes the row with an id.
    pub async fn update(&mut self, id: i64) {
        let table = UpdateBuilder::new(Arc::new(self.open().await));
        let table = table.update_where(&format!("id = {id}")).expect("where");
        let table = table.set("value", "'updated'").expect("set");
        let update = table.build().expect("an update").execute().await;
        update.expect("an update");
        self.rows.insert(id, String::from("updated"));
    }

    /// Someone indexes the ids.
    pub async fn index(&self) {
        let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
        let mut table = self.open().await;
        let built = table.create_index(&["id"], kind, None, &params, false);
        built.await.expect("an index");
    }

    /// Someone whose release names versions by their number makes the table, without rows.
    pub async fn old_names(&self) {
        let rows = batch_of(Vec::new());
        let schema = rows.schema();
        let params = WriteParams {
            enable_v2_manifest_paths: false,
            ..WriteParams::default()
        };
        let uri = format!("{}/{TABLE}", self.uri);
        let reader = RecordBatchIterator::new([Ok(rows)], schema);
        let made = Dataset::write(reader, &uri, Some(params)).await;
        made.expect("an empty table");
    }

    /// Someone removes all versions but the latest.
    pub async fn clean_up(&self) {
        let table = self.open().await;
        let cleaned = table.cleanup_old_versions(chrono::TimeDelta::zero(), None, None);
        cleaned.await.expect("a cleanup");
    }

    /// All rows are there once, in a table that any client can check and read.
    pub async fn assert_whole(&self) {
        let table = self.open().await;
        table.validate().await.expect("a valid table");
        let expected: Vec<(i64, String)> = self.rows.clone().into_iter().collect();
        assert_eq!(rows_of(&table).await, expected);
        for id in self.rows.keys() {
            let found = table.count_rows(Some(format!("id = {id}"))).await;
            assert_eq!(found.expect("a count"), 1, "id {id}");
        }
    }

    /// The files of the table that no version refers to, those of indexes by their folders.
    pub async fn unreferenced(&self) -> BTreeSet<String> {
        let table = self.open().await;
        let mut found = BTreeSet::new();
        for area in ["data", "_deletions", "_indices"] {
            let Ok(listed) = std::fs::read_dir(self.path(TABLE).join(area)) else {
                continue;
            };
            for file in listed {
                let name = file.expect("a file").file_name();
                found.insert(format!("{area}/{}", name.to_string_lossy()));
            }
        }
        for version in table.versions().await.expect("versions") {
            let table = table.checkout_version(version.version).await;
            let table = table.expect("a version");
            for fragment in table.manifest().fragments.iter() {
                for file in &fragment.files {
                    found.remove(&format!("data/{}", file.path));
                }
                if let Some(file) = &fragment.deletion_file {
                    let of = format!(
                        "_deletions/{}-{}-{}.",
                        fragment.id, file.read_version, file.id
                    );
                    found.retain(|name| !name.starts_with(&of));
                }
            }
            for index in table.load_indices().await.expect("indexes").iter() {
                found.remove(&format!("_indices/{}", index.uuid));
            }
        }
        found
    }
}
