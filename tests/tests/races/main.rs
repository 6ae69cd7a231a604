//! Real processes that meet on one store: they race, they die, they stop and wake hours later, and maintenance runs
//! between their steps.
//!
//! * [`race`]: two to eight processes commit to one table and to overlapping sets of tables.
//! * [`carry`]: rewrites of plain tables under which others delete, update and merge.
//! * [`maintenance`]: `optimize` and `reindex` are stopped, killed and made to lose while others write.
//! * [`liveness`]: nobody waits for a dead process longer than the grace, and somebody always gets on.
//! * [`stranded`]: what maintenance rewrote for nothing is reclaimed.
//! * [`workers`]: tasks that processes of their own execute.
//! * [`ray`]: the same on a Ray cluster, with something else in Ray's place.
//! * [`plain`]: the same on plain tables, where there is no store.
//!
//! What every test asserts: each acknowledged row exactly once (I4), each batch whole or absent in all its tables at
//! every manifest version (I1), pins that only go up (I2), and nothing left to do at the end (I8).

mod carry;
mod liveness;
mod maintenance;
mod plain;
mod race;
mod ray;
mod stranded;
mod workers;

use squire_engine::store::Snapshot;
use squire_tests::{Done, Lake, rows_of};
use std::collections::BTreeMap;
use std::ops::Range;

/// `(id, value)`, sorted: what a reader sees of one table.
type Rows = Vec<(i64, String)>;

/// A batch as [`Lake::batch`] writes it: the same rows for each of its tables, its name in every value.
#[derive(Debug, Clone)]
struct Batch {
    name: String,
    tables: Vec<&'static str>,
    ids: Range<i64>,
}

impl Batch {
    fn new(name: impl Into<String>, tables: &[&'static str], ids: Range<i64>) -> Self {
        Self {
            name: name.into(),
            tables: tables.to_vec(),
            ids,
        }
    }

    /// The batch directory.
    fn directory(&self, lake: &Lake) -> String {
        lake.batch(&self.name, &self.tables, self.ids.clone())
    }

    fn rows(&self) -> Rows {
        self.ids
            .clone()
            .map(|id| (id, format!("{}-{id}", self.name)))
            .collect()
    }

    /// Commits it from here, with a grace of nothing.
    fn commit(&self, lake: &Lake) -> Done {
        let directory = self.directory(lake);
        lake.run(&["commit", &lake.uri, &directory, "--json", "--grace", "0s"])
    }
}

/// The rows that `batches` together give `table`.
fn rows_in(table: &str, batches: &[&Batch]) -> Rows {
    let mut rows: Rows = batches
        .iter()
        .filter(|b| b.tables.contains(&table))
        .flat_map(|b| b.rows())
        .collect();
    rows.sort_unstable();
    rows
}

/// What a reader of `snapshot` sees of every table.
async fn contents(lake: &Lake, snapshot: &Snapshot) -> BTreeMap<String, Rows> {
    let store = lake.store().await;
    let mut contents = BTreeMap::new();
    for table in snapshot.state.tables.keys() {
        let dataset = store.read(snapshot, table).await.expect("the table reads");
        contents.insert(table.to_string(), rows_of(&dataset).await);
    }
    contents
}

/// Each table holds exactly `batches`: every row once, nothing else.
async fn assert_rows(lake: &Lake, batches: &[&Batch]) {
    let store = lake.store().await;
    let snapshot = store.load().await.expect("snapshot");
    for (table, rows) in contents(lake, &snapshot).await {
        assert_eq!(rows, rows_in(&table, batches), "rows of table {table}");
    }
}

/// I1 and I2: at every manifest version each of `batches` shows all its rows in all its tables, once, or none in any;
/// and no pin ever goes down.
async fn assert_whole_at_every_version(lake: &Lake, batches: &[&Batch]) {
    let store = lake.store().await;
    let latest = store.load().await.expect("snapshot").version();
    let mut pins = BTreeMap::new();
    for version in 1..=latest {
        let snapshot = store.snapshot_at(version).await.expect("old snapshot");
        for (table, entry) in &snapshot.state.tables {
            let before = pins.insert(table.clone(), entry.version).unwrap_or(0);
            assert!(
                before <= entry.version,
                "the pin of {table} went from {before} to {} at manifest version {version}",
                entry.version
            );
        }
        let contents = contents(lake, &snapshot).await;
        for batch in batches {
            let prefix = format!("{}-", batch.name);
            let shown: Vec<Rows> = batch
                .tables
                .iter()
                .map(|table| {
                    let rows = contents.get(*table).cloned().unwrap_or_default();
                    rows.into_iter()
                        .filter(|(_, value)| value.starts_with(&prefix))
                        .collect()
                })
                .collect();
            let whole = shown.iter().all(|rows| *rows == batch.rows());
            let absent = shown.iter().all(Vec::is_empty);
            assert!(
                whole || absent,
                "batch {} is torn at manifest version {version}: {shown:?}",
                batch.name
            );
        }
    }
}
