//! Runs on plain tables: what a dead one left is reclaimed by whoever comes next, a living one is left alone, and one that
//! was taken for dead lands nothing. That it is so at every seam, the crash matrix shows.

use lance::index::DatasetIndexExt;
use squire_tests::plain::{Plain, TABLE};
use squire_tests::{Child, Lake, armed};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A watched directory with a table of three fragments.
async fn scene() -> (Lake, Plain) {
    let lake = Lake::new();
    let mut plain = Plain::new(&lake.path("plain"));
    for first in [0, 10, 20] {
        plain.append(first..first + 3).await;
    }
    (lake, plain)
}

const DIES: &str = "maintain.after_rewrite=1*return(kill)";

fn sidecars(lake: &Lake, uri: &str) -> usize {
    let status = lake.run(&["status", uri, "--json"]).ok().json();
    status["sidecars"].as_array().expect("operations").len()
}

/// Starts a compaction that stops at a seam, and takes it for dead.
fn given_up(lake: &Lake, plain: &Plain, failpoints: &str) -> Child {
    let mut run = lake.with_seam(failpoints, &["optimize", &plain.uri]);
    run.wait_stopped();
    let recover = ["recover", &plain.uri, "--force", "--json"];
    let recovered = lake.run(&recover).ok().json();
    let reclaimed = recovered["reclaimed"].as_array().expect("runs");
    assert_eq!(reclaimed.len(), 1, "{recovered}");
    run
}

/// A second table like the first.
fn copy(table: impl AsRef<OsStr>, copy: impl AsRef<OsStr>) {
    let mut copying = Command::new("cp");
    copying.arg("-r").arg(table).arg(copy);
    assert!(copying.status().expect("cp").success());
}

async fn assert_nothing_left(plain: &Plain) {
    plain.assert_whole().await;
    assert_eq!(plain.unreferenced().await, BTreeSet::new());
    // What a daemon has counted and noted is no record of a run.
    let records = squire_tests::tree(&plain.path(".squire"));
    let left = records
        .iter()
        .find(|file| !file.ends_with("ledger.json") && !file.ends_with("history.json"));
    assert_eq!(left, None, "records are left");
}

#[tokio::test]
async fn a_run_without_its_record_lands_nothing() {
    let (lake, plain) = scene().await;
    let run = given_up(&lake, &plain, &armed("maintain.after_rewrite", 1, "stop"));
    run.resume().failed(75, "took this run for dead");
    assert_nothing_left(&plain).await;
}

#[tokio::test]
async fn a_delayed_put_meets_the_fence() {
    let (lake, plain) = scene().await;
    // It refers to the rewritten files; the guard was asked before.
    let run = given_up(&lake, &plain, &armed("commit.before_put", 1, "stop"));
    run.resume();
    plain.assert_whole().await;
    let pass = ["daemon", &plain.uri, "--once", "--grace", "0s"];
    lake.run(&pass).ok();
    assert_nothing_left(&plain).await;
}

/// A store asks for no records of plain runs, so whoever makes one ends them.
#[tokio::test]
async fn a_directory_that_becomes_a_store_ends_its_runs() {
    let (lake, plain) = scene().await;
    lake.with_seam(DIES, &["optimize", &plain.uri]).killed();
    let seam = armed("maintain.after_rewrite", 1, "stop");
    let mut run = lake.with_seam(&seam, &["optimize", &plain.uri]);
    run.wait_stopped();
    lake.run(&["init", &plain.uri]).ok();
    run.resume().failed(75, "took this run for dead");
    assert_nothing_left(&plain).await;
}

/// Who comes soon does not know that it is dead; who comes late does, from what the storage says.
#[tokio::test]
async fn a_run_is_dead_when_its_record_has_been_silent() {
    for command in ["optimize", "reindex", "cleanup", "recover"] {
        let (lake, plain) = scene().await;
        lake.with_seam(DIES, &["optimize", &plain.uri]).killed();
        if command != "recover" {
            lake.run(&[command, &plain.uri]).ok();
            assert_eq!(sidecars(&lake, &plain.uri), 1, "{command}: it may be alive");
        }
        let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
        for file in squire_tests::tree(&plain.path(".squire")) {
            let file = std::fs::File::open(plain.path(".squire").join(file));
            let aged = file.expect("a record").set_modified(hour_ago);
            aged.expect("its time can be set");
        }
        lake.run(&[command, &plain.uri]).ok();
        assert_eq!(sidecars(&lake, &plain.uri), 0, "{command}");
        assert_nothing_left(&plain).await;
    }
}

/// A table that is named alone is recorded in its folder, where whoever watches the folder finds it.
#[tokio::test]
async fn a_table_and_its_folder_share_their_records() {
    let (lake, plain) = scene().await;
    let (folder, table) = (plain.path("org"), plain.path(TABLE));
    let [folder, table] = [folder, table].map(|path| path.to_string_lossy().into_owned());
    for (dies, recovers) in [(&table, &folder), (&folder, &table)] {
        lake.with_seam(DIES, &["optimize", dies]).killed();
        assert_eq!(sidecars(&lake, recovers), 1);
        lake.run(&["recover", recovers, "--force"]).ok();
        assert_eq!(sidecars(&lake, dies), 0);
        assert!(!Path::new(&folder).join(".squire").exists());
        assert_nothing_left(&plain).await;
    }
    // A sibling's run is not this table's.
    let sibling = format!("{folder}/u.lance");
    copy(&table, &sibling);
    lake.with_seam(DIES, &["optimize", &sibling]).killed();
    lake.run(&["recover", &table, "--force"]).ok();
    assert_eq!((sidecars(&lake, &table), sidecars(&lake, &folder)), (0, 1));
}

#[tokio::test]
async fn a_run_that_may_leave_no_record_there_is_recorded_in_the_state_directory() {
    let (mut lake, plain) = scene().await;
    std::fs::write(plain.path(".squire"), "not a folder").expect("in the way");
    let state = lake.path("state");
    let of_lake = ("STATE_DIRECTORY".to_owned(), state.display().to_string());
    lake.env.push(of_lake);
    lake.with_seam(DIES, &["optimize", &plain.uri]).killed();
    assert_eq!(sidecars(&lake, &plain.uri), 1);
    assert_eq!(plain.unreferenced().await.len(), 1);
    let pass = ["daemon", &plain.uri, "--once", "--grace", "0s"];
    let said = lake.run(&pass).ok();
    assert!(!said.stderr.contains("no record"), "{said:?}");
    assert_eq!(plain.unreferenced().await, BTreeSet::new());
    assert_eq!(sidecars(&lake, &plain.uri), 0);
    let run = given_up(&lake, &plain, &armed("maintain.after_rewrite", 1, "stop"));
    run.resume().failed(75, "took this run for dead");
    plain.assert_whole().await;
}

#[tokio::test]
async fn a_run_that_may_leave_no_record_at_all_runs_and_says_so_once() {
    let (mut lake, plain) = scene().await;
    std::fs::write(plain.path(".squire"), "not a folder").expect("in the way");
    let state = lake.path("state");
    std::fs::write(&state, "not a folder either").expect("in the way");
    for given in [None, Some(&state)] {
        lake.env = given
            .map(|state| ("STATE_DIRECTORY".to_owned(), state.display().to_string()))
            .into_iter()
            .collect();
        let (table, copied) = (plain.path(TABLE), plain.path("org/u.lance"));
        copy(&table, &copied);
        let done = lake.run(&["optimize", &plain.uri, "--json"]).ok();
        let said = done.stderr.matches("no record of maintenance").count();
        assert_eq!(said, 1, "{done:?}");
        std::fs::remove_dir_all(&copied).expect("the copy goes");
    }
    plain.assert_whole().await;
    assert_eq!(plain.unreferenced().await, BTreeSet::new());
}

/// What others left is theirs, however old: it is counted and nothing else.
#[tokio::test]
async fn files_of_others_are_counted_by_age_and_never_touched() {
    let (lake, plain) = scene().await;
    let ages = [
        ("data/young.lance", 0),
        (
            "_indices/0b1d8f6e-0c55-4d0c-9b0b-3f1f2f6f7a10/page.lance",
            3_700,
        ),
    ];
    let week = 7 * 24 * 3_600;
    for (file, age) in ages
        .into_iter()
        .chain([("_deletions/9-1-7.arrow", week + 60)])
    {
        let file = plain.path(TABLE).join(file);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, "left over").expect("a file");
        let written = SystemTime::now() - Duration::from_secs(age);
        let aged = std::fs::File::open(&file)
            .expect("the file")
            .set_modified(written);
        aged.expect("its time can be set");
    }
    let stray = plain.unreferenced().await;
    assert_eq!(stray.len(), 3);
    let one = serde_json::json!({ "files": 1, "bytes": 9 });
    let each = serde_json::json!({ "under_1h": one, "under_7d": one, "older": one });
    let pass = ["daemon", &plain.uri, "--once", "--grace", "0s", "--json"];
    let told = lake.run(&pass).ok().json().to_string();
    assert!(told.contains(&each.to_string()), "{told}");
    lake.run(&["optimize", &plain.uri]).ok();
    let status = lake.run(&["status", &plain.uri, "--json"]).ok().json();
    assert_eq!(status["tables"][0]["unreferenced"], each);
    let said = lake.run(&["status", &plain.uri]).ok().stdout;
    let left = "27 B in 3 files that no version refers to (9 B younger than an hour, 9 B than 7 days, 9 B older)";
    assert!(said.contains(left), "{said}");
    assert_eq!(plain.unreferenced().await, stray);
}

/// An index that a person drops under a rewrite is no index that the rewrite has spoilt.
#[tokio::test]
async fn an_index_that_is_dropped_meanwhile_is_not_missed() {
    let (lake, plain) = scene().await;
    plain.index().await;
    let seam = armed("maintain.after_rewrite", 1, "stop");
    let mut run = lake.with_seam(&seam, &["optimize", &plain.uri]);
    run.wait_stopped();
    let mut table = plain.open().await;
    table.drop_index("id_idx").await.expect("dropped");
    run.resume().ok();
    assert_nothing_left(&plain).await;
    assert_eq!(plain.open().await.count_fragments(), 1);
}

/// Versions that get other names meanwhile: one that were put under a name of the old kind would make the table unreadable.
#[tokio::test]
async fn versions_that_are_renamed_meanwhile_get_no_other_kind_of_name() {
    for command in ["optimize", "reindex"] {
        let lake = Lake::new();
        let mut plain = Plain::new(&lake.path("plain"));
        plain.old_names().await;
        for first in [0, 10, 20] {
            plain.append(first..first + 3).await;
        }
        plain.index().await;
        plain.append(30..33).await;
        let seam = armed("commit.before_put", 1, "stop");
        let mut run = lake.with_seam(&seam, &[command, &plain.uri]);
        run.wait_stopped();
        let mut table = plain.open().await;
        table.migrate_manifest_paths_v2().await.expect("renamed");
        assert_ne!(run.resume().code, Some(0), "{command}");
        plain.assert_whole().await;
        lake.run(&[command, &plain.uri]).ok();
        plain.assert_whole().await;
    }
}
