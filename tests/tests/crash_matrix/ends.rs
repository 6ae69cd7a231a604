//! How every cell ends: the invariants that can be seen from outside.
//!
//! | | seen in |
//! |---|---|
//! | I1 whole or absent, I5 nothing lost, I11 no file missing | [`check_history`]: at every readable version the rows are those of the committed operations up to there, in order |
//! | I2 pins, I3 decisions, I7 floors | [`Lake::assert_at_rest`], which replays the trace of every process |
//! | I4 what was told is true | the stories: answer, `squire op`, log and rows agree; and the trace |
//! | I6 an undo restores the version before | [`check_undos`] |
//! | I8 nothing left to do, I10 nothing undecided | [`ends_well`]: at rest, and a second daemon pass does nothing |
//!
//! I9 needs reads that a commit declares, which no command of the matrix has; the model has it.

use crate::subject::{Rows, Scene};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use serde_json::Value;
use squire_engine::error::ErrorKind;
use squire_engine::store::{Snapshot, Store};
use squire_tests::{Lake, rows_of, tree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rows of every table.
type Content = BTreeMap<String, Rows>;

/// A reader that took its snapshot before the operation, and what it saw.
pub struct Reader {
    snapshot: Snapshot,
    content: Content,
}

impl Reader {
    /// Takes a snapshot and reads it.
    pub async fn pin(lake: &Lake) -> Self {
        let store = lake.store().await;
        let snapshot = store.load().await.expect("snapshot");
        let content = read(&store, &snapshot).await.expect("nothing is expired");
        Self { snapshot, content }
    }

    /// Whether it has to take a fresh snapshot.
    pub async fn is_expired(&self, lake: &Lake) -> bool {
        let store = lake.store().await;
        read(&store, &self.snapshot).await.is_err()
    }

    /// It still reads the same rows. When versions were cleaned up it may be told that its own are expired.
    async fn reads_on(&self, lake: &Lake) {
        let store = lake.store().await;
        match read(&store, &self.snapshot).await {
            Ok(content) => assert_eq!(content, self.content, "a pinned reader sees other rows"),
            Err(Expired) => {
                let state = store.load().await.expect("snapshot").state;
                let raised = self
                    .snapshot
                    .state
                    .tables
                    .iter()
                    .any(|(table, entry)| entry.version < state.floor_at(table, &entry.path));
                assert!(raised, "expired above the floor");
            }
        }
    }
}

/// Some version of the snapshot is below its floor.
#[derive(Debug)]
struct Expired;

/// What `snapshot` shows. Anything but rows or "expired", such as a missing file, is a failure.
async fn read(store: &Store, snapshot: &Snapshot) -> Result<Content, Expired> {
    let mut content = Content::new();
    for table in snapshot.state.tables.keys() {
        let dataset = match store.read(snapshot, table).await {
            Ok(dataset) => dataset,
            Err(e) if e.kind() == ErrorKind::Expired => return Err(Expired),
            Err(e) => panic!("table {table} at {}: {e}", snapshot.version()),
        };
        let rows = rows_of(&dataset).await;
        let by_id: Rows = rows.iter().cloned().collect();
        assert_eq!(by_id.len(), rows.len(), "an id twice in {table}: {rows:?}");
        content.insert(table.to_string(), by_id);
    }
    Ok(content)
}

/// The end of every cell: after a daemon pass nothing is left to do, and everything that was ever visible is right.
pub async fn ends_well(scene: &Scene) {
    comes_to_rest(&scene.lake).await;
    scene.lake.assert_at_rest();
    check_history(scene).await;
    scene.reader.reads_on(&scene.lake).await;
}

/// A daemon pass; then nothing is left to do, and every undo was one.
pub async fn comes_to_rest(lake: &Lake) {
    lake.daemon_pass("0s").ok();
    assert_second_pass_is_idle(lake);
    check_undos(lake).await;
}

/// A second daemon pass changes nothing. One thing is left to it when the first one had something to do after it had
/// archived: to archive that. Copying the publish of the watermark itself is no publish.
fn assert_second_pass_is_idle(lake: &Lake) {
    let root = Path::new(&lake.uri);
    let (tables, published) = (tree(root), lake.log().len());
    lake.daemon_pass("0s").ok();
    let log = lake.log();
    let new = &log[..log.len() - published];
    let archived = new.len() == 1 && new[0]["kind"] == "archive";
    assert!(
        new.is_empty() || archived,
        "a second daemon pass published: {new:#?}"
    );
    let internal = |path: &PathBuf| {
        path.starts_with("_squire/commits.lance")
            || archived && path.starts_with("_squire/manifest.lance")
    };
    let now = tree(root);
    let changed: Vec<_> = now
        .symmetric_difference(&tables)
        .filter(|p| !internal(p))
        .collect();
    assert!(
        changed.is_empty(),
        "a second daemon pass changed {changed:?}"
    );
}

/// From the reader's snapshot on, every manifest version shows exactly the operations that the log has up to there.
async fn check_history(scene: &Scene) {
    let lake = &scene.lake;
    let store = lake.store().await;
    let mut log = lake.log();
    log.reverse();
    let latest = store.load().await.expect("snapshot");
    let logged: Vec<u64> = log
        .iter()
        .map(|e| e["manifest_version"].as_u64().expect("version"))
        .collect();
    let versions: Vec<u64> = (2..=latest.version()).collect();
    assert_eq!(
        logged, versions,
        "the log has a gap or says a publish twice"
    );

    let mut content = scene.reader.content.clone();
    let mut shown = 0;
    for (version, entry) in versions.iter().zip(&log) {
        if *version <= scene.reader.snapshot.version() {
            continue;
        }
        replay(scene, entry, &mut content);
        let snapshot = match store.snapshot_at(*version).await {
            Ok(snapshot) => snapshot,
            Err(e) if e.kind() == ErrorKind::Expired => continue,
            Err(e) => panic!("manifest version {version}: {e}"),
        };
        if let Ok(rows) = read(&store, &snapshot).await {
            assert_eq!(rows, content, "manifest version {version}; log: {log:#?}");
            shown = *version;
        }
    }
    assert!(
        shown == latest.version()
            || shown == 0 && latest.version() == scene.reader.snapshot.version(),
        "the latest version does not read"
    );
}

/// Applies one publish to the rows.
fn replay(scene: &Scene, entry: &Value, content: &mut Content) {
    let tables = entry["tables"].as_array().expect("tables").iter();
    let tables: Vec<String> = tables
        .map(|t| t["table"].as_str().expect("name").to_owned())
        .collect();
    for table in &tables {
        let rows = content.entry(table.clone()).or_default();
        scene.subject.apply(entry, rows);
    }
    let creates = entry["tables"][0]["from"] == 0;
    if entry["tables"][0]["to"] == 0 {
        tables.iter().for_each(|table| drop(content.remove(table)));
    }
    if entry["kind"] == "logical" && !creates {
        let visible: Vec<String> = content.keys().cloned().collect();
        let actor = entry["actor"].as_str().expect("actor");
        let all = scene.subject.written_by(actor, &visible);
        assert_eq!(
            tables, all,
            "I1: a part of an operation was published: {entry}"
        );
    }
}

/// I6: every undo restores the version before what it takes back.
async fn check_undos(lake: &Lake) {
    let state = lake.store().await.load().await.expect("snapshot").state;
    for entry in state.tables.values() {
        let dataset = Dataset::open(&format!("{}/{}", lake.uri, entry.path)).await;
        let dataset = dataset.expect("the table");
        let mut landed: BTreeMap<String, u64> = BTreeMap::new();
        for version in dataset.versions().await.expect("versions") {
            let read = dataset.read_transaction_by_version(version.version).await;
            let Some(transaction) = read.expect("the transaction") else {
                continue;
            };
            let Some((op, kind)) = marks(&transaction) else {
                continue;
            };
            match (&transaction.operation, kind.as_str()) {
                (Operation::Restore { version: target }, "undo") => {
                    if let Some(v) = landed.get(&op) {
                        assert_eq!(*target, v - 1, "I6: the undo of {op} in {}", entry.path);
                    }
                }
                (_, "logical") => drop(landed.insert(op, version.version)),
                _ => {}
            }
        }
    }
}

fn marks(transaction: &Transaction) -> Option<(String, String)> {
    let properties = transaction.transaction_properties.as_ref()?;
    let text = |key: &str| properties.get(key).cloned();
    Some((text("squire.op")?, text("squire.kind")?))
}
