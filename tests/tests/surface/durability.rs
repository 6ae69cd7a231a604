//! What a power cut leaves: the system calls of real commands, and the disks on which they may have stopped.

use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use squire_engine::recovery::Watch;
use squire_engine::store::{Durability, Store, StoreOptions};
use squire_tests::disk::{Disk, Effect, Tree, restore};
use squire_tests::{Lake, append, batch_of};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an effect is to the protocol.
fn step(effect: &Effect, root: &Path) -> Option<String> {
    let name = match effect {
        Effect::Answer => return Some("answer".to_owned()),
        Effect::Link(_, to) => to.strip_prefix(root).ok()?.to_str()?,
        _ => return None,
    };
    let (place, file) = name.rsplit_once('/')?;
    let step = match place.rsplit_once('/') {
        Some((_, "recovery")) => "sidecar",
        Some((dataset, "_versions")) if file.ends_with(".manifest") => dataset,
        Some((_, journal)) if journal.ends_with(".files") && file.ends_with(".json") => "name",
        _ => return None,
    };
    Some(step.to_owned())
}

/// The steps of a traced command, each only after all before it was durable. A table's transaction file is written beside the
/// steps before its first version, which refers to it.
fn steps(before: &Disk, effects: &[Effect], root: &Path) -> Result<Vec<String>, String> {
    let mut disk = before.clone();
    let mut steps = Vec::new();
    for effect in effects {
        if let Some(step) = step(effect, root) {
            let is_awaited = |path: &PathBuf| {
                let place = path.strip_prefix(root).ok().and_then(Path::parent);
                let transactions =
                    |table: &String| place == Some(&Path::new(table).join("_transactions"));
                let late = place.is_some_and(|place| place.ends_with("_transactions"));
                !late || step == "answer" || steps.iter().chain([&step]).any(transactions)
            };
            let loose: Vec<PathBuf> = disk.loose().into_iter().filter(is_awaited).collect();
            if !loose.is_empty() {
                return Err(format!("at {step:?} a power cut would take {loose:?}"));
            }
            steps.push(step);
        }
        disk.take(effect);
    }
    Ok(steps)
}

/// A store of two tables with rows 0 and 1 in both, and a batch with rows 2 and 3.
fn two_tables() -> (Lake, String) {
    let lake = Lake::with_tables(&["a", "b"]);
    let first = lake.batch("first", &["a", "b"], 0..2);
    lake.run(&["commit", &lake.uri, &first]).ok();
    let batch = lake.batch("batch", &["a", "b"], 2..4);
    (lake, batch)
}

async fn ids(store: &Store, table: &str) -> Result<Vec<i64>, String> {
    let snapshot = store.load().await.map_err(|e| e.to_string())?;
    let dataset = store.read(&snapshot, &table.parse().expect("a name")).await;
    let dataset = dataset.map_err(|e| e.to_string())?;
    let rows = squire_tests::read_rows(&dataset).await;
    Ok(rows
        .map_err(|e| e.to_string())?
        .iter()
        .map(|r| r.0)
        .collect())
}

fn in_process(durability: Durability) -> StoreOptions {
    StoreOptions {
        durability,
        grace: Duration::ZERO,
        ..StoreOptions::default()
    }
}

/// What readers and recovery find on the disk that a power cut left.
async fn after_the_cut(tree: &Tree, answered: bool) -> Result<(), String> {
    let dir = tempfile::TempDir::new().expect("a directory");
    restore(tree, dir.path());
    let uri = dir.path().to_string_lossy();
    let told = |e: squire_engine::error::Error| e.to_string();
    let store = Store::open(&uri, in_process(Durability::Process)).await;
    let store = store.map_err(told)?;
    let report = store.recover(&mut Watch::default(), true).await;
    let report = report.map_err(told)?;
    if !report.failed.is_empty() {
        return Err(format!("recovery failed: {:?}", report.failed));
    }
    let (a, b) = (ids(&store, "a").await?, ids(&store, "b").await?);
    let whole = a == [0, 1, 2, 3];
    if a != b || !(whole || a == [0, 1] && !answered) {
        return Err(format!("a has {a:?}, b has {b:?}, answered: {answered}"));
    }
    // What is left can be written to.
    let again =
        squire_engine::commit::CommitRequest::new(vec![append("a", 9..10), append("b", 9..10)]);
    store.commit(&again).await.map_err(told)?;
    Ok(())
}

#[test]
fn each_step_of_a_commit_is_durable_before_the_next() {
    let (lake, batch) = two_tables();
    let root = PathBuf::from(&lake.uri);
    let before = Disk::of(&root);
    let effects = lake.traced("power", &["commit", &lake.uri, &batch]);
    let order = [
        "sidecar",
        "a.lance",
        "b.lance",
        "_squire/manifest.lance",
        "answer",
    ];
    assert_eq!(steps(&before, &effects, &root).expect("durable"), order);
    // The same look at a commit that syncs nothing sees it.
    let before = Disk::of(&root);
    let effects = lake.traced("process", &["commit", &lake.uri, &batch]);
    let loose = steps(&before, &effects, &root).expect_err("nothing was synced");
    assert!(loose.starts_with("at \"sidecar\""), "{loose}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_power_cut_leaves_is_whole_or_absent() {
    let (lake, batch) = two_tables();
    let root = PathBuf::from(&lake.uri);
    let mut disk = Disk::of(&root);
    let mut seen = HashSet::new();
    let mut answered = false;
    for effect in lake.traced("power", &["commit", &lake.uri, &batch]) {
        disk.take(&effect);
        answered |= effect == Effect::Answer;
        for tree in [disk.without_names(), disk.without_contents()] {
            if seen.insert((tree.clone(), answered)) {
                let found = after_the_cut(&tree, answered).await;
                found.unwrap_or_else(|e| panic!("after {effect:?}: {e}"));
            }
        }
    }
    assert!(answered && seen.len() > 20, "{} disks", seen.len());
}

/// The check above would see what is acknowledged too early.
#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_a_power_cut_takes_what_was_acknowledged() {
    let (lake, batch) = two_tables();
    let mut disk = Disk::of(Path::new(&lake.uri));
    for effect in lake.traced("process", &["commit", &lake.uri, &batch]) {
        disk.take(&effect);
    }
    let lost = after_the_cut(&disk.without_names(), true).await;
    assert!(lost.expect_err("lost").contains("answered: true"));
    let torn = after_the_cut(&disk.without_contents(), true).await;
    let torn = torn.expect_err("torn");
    assert!(
        torn.contains("power cut") && torn.contains("remove"),
        "{torn}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_and_maintenance_are_durable_step_by_step() {
    let lake = Lake::new();
    let root = lake.path("a/new/lake");
    let uri = root.to_string_lossy().into_owned();
    let parent = lake.path("");
    let before = Disk::of(&parent);
    let effects = lake.traced("power", &["init", &uri]);
    let order = ["_squire/manifest.lance", "answer"];
    let made = steps(&before, &effects, &root).expect("durable");
    assert_eq!(made, order);

    let store = Lake::existing(&uri);
    store.create_tables(&["a"]);
    for id in 0..3 {
        let rows = lake.csv("a.csv", [(id, "x".to_owned())]);
        lake.run(&["write", &uri, "a", &rows]).ok();
    }
    lake.run(&["index", &uri, "a", "id", "--type", "btree"])
        .ok();
    for (command, versions) in [("optimize", 1), ("reindex", 1), ("cleanup", 0)] {
        let before = Disk::of(&root);
        let effects = lake.traced("power", &[command, &uri]);
        let steps = steps(&before, &effects, &root).unwrap_or_else(|e| panic!("{command}: {e}"));
        let of_table = steps.iter().filter(|s| *s == "a.lance").count();
        assert_eq!(of_table, versions, "{command}: {steps:?}");
        assert_eq!(
            versions > 0,
            steps.iter().any(|s| s == "name"),
            "{command}: {steps:?}"
        );
    }
    // A plain directory of tables: the same table without its store.
    std::fs::remove_dir_all(root.join("_squire")).expect("the store");
    append_foreign(&root).await;
    let before = Disk::of(&root);
    let effects = lake.traced("power", &["optimize", &uri]);
    let plain = steps(&before, &effects, &root).expect("durable");
    assert!(plain.contains(&"a.lance".to_owned()), "{plain:?}");
}

/// Appends two fragments as another Lance client does.
async fn append_foreign(root: &Path) {
    let uri = root.join("a.lance").to_string_lossy().into_owned();
    for ids in [20..21, 21..22] {
        let rows = vec![batch_of(
            ids.map(|id| (id, "appended".to_owned())).collect(),
        )];
        let params = WriteParams {
            mode: WriteMode::Append,
            ..WriteParams::default()
        };
        let insert = InsertBuilder::new(uri.as_str())
            .with_params(&params)
            .execute(rows)
            .await;
        insert.expect("append");
    }
}

/// Nobody synced a foreign commit, so the publish that shows it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_commit_is_synced_before_it_is_published() {
    let lake = Lake::with_tables(&["a"]);
    let root = PathBuf::from(&lake.uri);
    append_foreign(&root).await;
    for durability in ["process", "power"] {
        append_foreign(&root).await;
        let head = lake.table_status("a", "head").to_string();
        let force = [
            "repair", &lake.uri, "--table", "a", "--force", "--head", &head,
        ];
        let effects = lake.traced(durability, &force);
        let synced = effects.iter().position(|e| *e == Effect::SyncAll);
        let of_manifest =
            |e: &Effect| step(e, &root).is_some_and(|s| s == "_squire/manifest.lance");
        let published = effects.iter().position(of_manifest).expect("a publish");
        let before = synced.is_some_and(|at| at < published);
        assert_eq!(before, durability == "power", "{synced:?} {published}");
    }
}

/// A power cut of a time before syncs: records that are empty or cut short.
#[tokio::test(flavor = "multi_thread")]
async fn torn_records_stop_nobody_and_a_torn_version_is_named() {
    let (lake, batch) = two_tables();
    let root = PathBuf::from(&lake.uri);
    let recovery = root.join("_squire/recovery");
    std::fs::create_dir_all(&recovery).expect("recovery");
    let sidecar = recovery.join("01M8A8P11PW650GHHT29KPMH41.json");
    std::fs::write(&sidecar, "{\"format\":1,\"op\":\"01M8").expect("torn");
    lake.run(&["commit", &lake.uri, &batch]).ok();
    lake.clean_up();
    lake.run(&["cleanup", &lake.uri]).ok();
    assert!(sidecar.try_exists().expect("looked"), "cleanup removed it");
    let report = lake
        .run(&["recover", &lake.uri, "--grace", "0s", "--json"])
        .ok();
    assert_eq!(report.json()["aborted"][0], "01M8A8P11PW650GHHT29KPMH41");
    lake.assert_at_rest();

    // A version of one table: the other goes on, and the message names the file.
    let torn = root.join("a.lance/_versions/18446744073709550615.manifest");
    std::fs::write(&torn, "").expect("torn");
    let more = lake.csv("b.csv", [(7, "x".to_owned())]);
    lake.run(&["write", &lake.uri, "b", &more]).ok();
    let name = torn.to_string_lossy();
    lake.run(&["write", &lake.uri, "a", &more]).failed(1, &name);
    std::fs::remove_file(&torn).expect("as told");
    lake.run(&["write", &lake.uri, "a", &more]).ok();
    assert_eq!(lake.ids("a").await, [0, 1, 2, 3, 7]);
}
