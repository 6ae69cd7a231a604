//! A store of many tables of (id, value).

use crate::{append_rows, create, squire};
use squire_engine::commit::{CommitRequest, TableWrite, Write};
use squire_engine::store::{Durability, Store, StoreOptions};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// Tables in one commit: more would only make each longer.
const AT_ONCE: usize = 100;

/// A store in a directory of its own.
#[derive(Debug)]
pub struct Fleet {
    dir: TempDir,
    /// Where the store is.
    pub uri: String,
    /// The store.
    pub store: Arc<Store>,
    /// Names of its tables.
    pub tables: Vec<String>,
}

/// Nothing here is to outlive a power cut.
fn options() -> StoreOptions {
    StoreOptions {
        durability: Durability::Process,
        ..StoreOptions::default()
    }
}

/// A write that creates a table keyed by id.
fn keyed(table: &str) -> TableWrite {
    let mut write = create(table);
    if let Write::Create { key, .. } = &mut write.write {
        *key = Some("id".parse().expect("a key"));
    }
    write
}

/// The rows of these ids.
pub fn rows(ids: Range<i64>) -> Vec<(i64, String)> {
    ids.map(|id| (id, format!("value {id}"))).collect()
}

impl Fleet {
    /// So many empty tables, keyed by id.
    pub async fn of(tables: usize) -> Self {
        let dir = TempDir::new().expect("a directory");
        let uri = dir.path().join("lake").to_string_lossy().into_owned();
        let store = Store::init(&uri, options()).await.expect("a store");
        let tables = (0..tables).map(|n| format!("t{n:05}")).collect();
        let fleet = Self {
            dir,
            uri,
            store,
            tables,
        };
        // A table is created by a commit of its own.
        for table in &fleet.tables {
            fleet.commit(vec![keyed(table)]).await;
        }
        fleet
    }

    /// One commit.
    ///
    /// # Panics
    /// When it fails.
    pub async fn commit(&self, writes: Vec<TableWrite>) {
        let done = self.store.commit(&CommitRequest::new(writes)).await;
        done.expect("a commit");
    }

    /// So many fragments of so many rows to each table.
    pub async fn fill(&self, fragments: i64, rows_each: i64) {
        for n in 0..fragments {
            let ids = n * rows_each..(n + 1) * rows_each;
            for some in self.tables.chunks(AT_ONCE) {
                let write = |table: &String| append_rows(table, rows(ids.clone()));
                self.commit(some.iter().map(write).collect()).await;
            }
        }
    }

    /// Another one with the same content.
    pub async fn copy(&self) -> Self {
        let dir = TempDir::new().expect("a directory");
        let uri = dir.path().join("lake").to_string_lossy().into_owned();
        let copied = Command::new("cp").args(["-a", &self.uri, &uri]).status();
        assert!(copied.expect("cp runs").success(), "cp of {}", self.uri);
        Self {
            dir,
            store: Store::open(&uri, options()).await.expect("the copy"),
            uri,
            tables: self.tables.clone(),
        }
    }

    /// A file beside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration.
    pub fn config(&self, text: &str) -> PathBuf {
        let path = self.path("squire.toml");
        std::fs::write(&path, text).expect("a configuration");
        path
    }

    /// How many fragments readers of `table` see.
    pub async fn fragments(&self, table: &str) -> usize {
        let snapshot = self.store.load().await.expect("a snapshot");
        let name = table.parse().expect("a name");
        let table = self.store.read(&snapshot, &name).await.expect("a table");
        table.count_fragments()
    }

    /// `squire ARGS` on this store; its output when it succeeds.
    pub fn run(&self, args: &[&str]) -> Result<String, String> {
        let done = Command::new(squire())
            .args(args)
            .output()
            .expect("squire runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match done.status.success() {
            true => Ok(text(&done.stdout)),
            false => Err(format!(
                "squire {args:?}: {}{}",
                text(&done.stdout),
                text(&done.stderr)
            )),
        }
    }

    /// Bytes that maintenance has rewritten, and those that it wrote for nothing.
    pub fn rewritten(&self) -> (u64, u64) {
        let status = self
            .run(&["status", &self.uri, "--json"])
            .expect("a status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let tables = status["tables"].as_array().expect("tables");
        let sum = |of: &str| {
            let total = tables.iter().map(|t| t["ledger"]["total"][of].as_u64());
            total.flatten().sum()
        };
        (sum("rewritten"), sum("wasted"))
    }
}
