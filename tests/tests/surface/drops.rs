//! Tables that are dropped, and made again.

use crate::input::refused;
use crate::{error_message, one_document};
use arrow_array::RecordBatchIterator;
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use serde_json::Value;
use squire_engine::error::ErrorKind;
use squire_engine::store::Snapshot;
use squire_tests::{Done, Lake, append, batch_of, rows_of, tree};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn lake() -> Lake {
    let lake = Lake::with_tables(&["t", "u"]);
    let batch = lake.batch("before", &["t", "u"], 1..4);
    lake.run(&["commit", &lake.uri, &batch]).ok();
    lake
}

fn drop_t(lake: &Lake) -> Done {
    lake.run(&["drop", &lake.uri, "t", "--json"])
}

fn folder(lake: &Lake, path: &str) -> bool {
    Path::new(&lake.uri).join(path).exists()
}

async fn snapshot(lake: &Lake) -> Snapshot {
    lake.store().await.load().await.expect("snapshot")
}

/// What a reader of `snapshot` sees of `t`, or what it is told.
async fn rows_at(lake: &Lake, snapshot: &Snapshot) -> Result<usize, ErrorKind> {
    let store = lake.store().await;
    let read = store.read(snapshot, &"t".parse().expect("name")).await;
    match read {
        Ok(dataset) => Ok(rows_of(&dataset).await.len()),
        Err(e) => Err(e.kind()),
    }
}

fn cleanup(lake: &Lake, config: &str) -> Value {
    let args = ["cleanup", &lake.uri, "--config", config, "--json"];
    let dry = lake.run(&[&args[..], &["--dry-run"]].concat()).ok().json();
    let real = lake.run(&args).ok().json();
    assert_eq!(dry["plan"], real["plan"], "the dry run says the same");
    real
}

/// LanceDB lists its folder until that is removed, and lets people write there.
#[tokio::test]
async fn what_others_commit_to_a_dropped_table_stays() {
    let mut lake = lake();
    drop_t(&lake).ok();
    let at = format!("{}/t.lance", lake.uri);
    let rows = batch_of((90..93).map(|id| (id, "theirs".to_owned())).collect());
    let schema = rows.schema();
    let appends = WriteParams {
        mode: WriteMode::Append,
        ..WriteParams::default()
    };
    let reader = RecordBatchIterator::new([Ok(rows)], schema);
    let written = Dataset::write(reader, &at, Some(appends)).await;
    written.expect("somebody writes there");
    lake.env
        .push(("SQUIRE_RETENTION".to_owned(), "0".to_owned()));
    let config = lake.path("squire.toml");
    std::fs::write(&config, "[policy]\nmin_versions = 1\n").expect("configuration");
    let config = config.to_string_lossy();
    let done = lake.run(&["cleanup", &lake.uri, "--config", &config, "--json"]);
    done.failed(1, "after t was dropped");
    let left = Dataset::open(&at).await.expect("the folder");
    assert_eq!(rows_of(&left).await.len(), 6);
}

#[tokio::test]
async fn a_dropped_table_is_read_on_until_the_retention_has_passed() {
    let lake = lake();
    let before = snapshot(&lake).await;
    lake.run(&["index", &lake.uri, "t", "id", "--type", "btree"])
        .ok();
    let unchanged = tree(Path::new(&lake.uri));
    let dry = lake.run(&["drop", &lake.uri, "t", "--dry-run"]).ok();
    assert!(dry.stdout.contains("would drop t at version 2"), "{dry:?}");
    assert_eq!(tree(Path::new(&lake.uri)), unchanged);
    let dropped = one_document(&drop_t(&lake).ok());
    let op = dropped["op"].as_str().expect("op");
    assert_eq!(lake.outcome_of(op), "committed");
    refused(
        &lake,
        &["drop", &lake.uri, "t"],
        1,
        &["table t was dropped", op],
    );
    let rows = lake.csv("more.csv", [(9, "x".to_owned())]);
    refused(
        &lake,
        &["write", &lake.uri, "t", &rows],
        1,
        &["table t was dropped"],
    );
    let now = snapshot(&lake).await.state;
    assert_eq!(now.tables.len(), 1);
    assert_eq!((now.indexes.len(), now.floors.len()), (0, 0));
    assert_eq!(lake.status()["skipped"].as_array().map(Vec::len), Some(0));
    // Inside the retention nothing goes.
    lake.run(&["cleanup", &lake.uri]).ok();
    assert_eq!(rows_at(&lake, &before).await, Ok(3));
    lake.clean_up();
    assert_eq!(rows_at(&lake, &before).await, Err(ErrorKind::Expired));
    assert!(!folder(&lake, "t.lance"), "its files are gone");
    assert_eq!(lake.ids("u").await, [1, 2, 3]);
    lake.assert_at_rest();
}

#[tokio::test]
async fn a_table_that_is_made_again_is_another_one() {
    let lake = lake();
    let before = snapshot(&lake).await;
    drop_t(&lake).ok();
    lake.create_tables(&["t"]);
    let rows = lake.csv("new.csv", [(7, "new".to_owned())]);
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    assert_eq!(lake.ids("t").await, [7]);
    assert_eq!(
        rows_at(&lake, &before).await,
        Ok(3),
        "the old one, of its snapshot"
    );
    lake.clean_up();
    assert!(!folder(&lake, "t.lance"));
    assert_eq!(lake.ids("t").await, [7]);
    // The path is free on the disk, and never used again: a put that was delayed for as long would land in it.
    drop_t(&lake).ok();
    lake.clean_up();
    lake.create_tables(&["t"]);
    assert!(!folder(&lake, "t.lance"), "a path is never used twice");
    assert!(lake.ids("t").await.is_empty());
    lake.assert_at_rest();
}

/// What was held keeps the files, a tag as well, and is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_holds_a_dropped_table_is_obeyed() {
    let lake = lake();
    lake.run(&["keep", &lake.uri, "audit"]).ok();
    let kept = snapshot(&lake).await;
    let mut table = Dataset::open(&format!("{}/t.lance", lake.uri))
        .await
        .expect("table");
    table.tags().create("release", 2_u64).await.expect("tag");
    drop_t(&lake).ok();
    let config = lake.path("squire.toml");
    let everything =
        "[policy]\nretention = \"1h\"\nmin_versions = 1\n[policy.cleanup]\nenabled = true\n";
    std::fs::write(&config, everything).expect("configuration");
    let config = config.to_string_lossy();
    lake.clean_up();
    assert_eq!(rows_at(&lake, &kept).await, Ok(3));
    lake.run(&["unkeep", &lake.uri, "audit"]).ok();
    lake.clean_up();
    assert!(folder(&lake, "t.lance"), "the tag holds it");
    table = Dataset::open(&format!("{}/t.lance", lake.uri))
        .await
        .expect("table");
    table.tags().delete("release").await.expect("tag");
    let cleaned = cleanup(&lake, &config);
    assert_eq!(
        cleaned["report"]["tables_removed"],
        serde_json::json!(["t"])
    );
    assert!(!folder(&lake, "t.lance"));
    lake.assert_at_rest();
}

/// Rows that something else committed would go with the table, and nobody has seen them.
#[tokio::test]
async fn drift_takes_a_flag() {
    let lake = lake();
    let path = format!("{}/t.lance", lake.uri);
    let store = lake.store().await;
    let mut table = Dataset::open(&path).await.expect("table");
    table.delete("id = 1").await.expect("an external delete");
    drop(store);
    refused(
        &lake,
        &["drop", &lake.uri, "t"],
        3,
        &["table t", "--discard-drift"],
    );
    let dry = ["drop", &lake.uri, "t", "--dry-run"];
    refused(&lake, &dry, 3, &["table t", "--discard-drift"]);
    lake.run(&["drop", &lake.uri, "t", "--discard-drift"]).ok();
    lake.assert_at_rest();
}

/// A create that was published and whose writer died before it could remove its sidecar.
#[tokio::test]
async fn whoever_resolves_an_operation_on_a_dropped_table_brings_nothing_back() {
    for kind in ["create", "write"] {
        let lake = lake();
        let schema = lake.path("schema.json").to_string_lossy().into_owned();
        let create = ["create", &lake.uri, "made", "--schema", &schema];
        let rows = lake.csv("more.csv", [(9, "x".to_owned())]);
        let (command, table) = match kind {
            "create" => (create.to_vec(), "made"),
            _ => (vec!["write", &lake.uri, "t", &rows], "t"),
        };
        let died = lake.with_seam("sidecar.before_delete=1*return(kill)", &command);
        assert_eq!(died.wait().code, None);
        let op = lake.sidecars().pop().expect("a sidecar");
        lake.run(&["drop", &lake.uri, table]).ok();
        lake.run(&["recover", &lake.uri, "--force"]).ok();
        let state = snapshot(&lake).await.state;
        assert!(
            !state.tables.contains_key(&table.parse().expect("name")),
            "{kind}"
        );
        assert_eq!(lake.outcome_of(&op), "committed", "{kind}: it was, then");
        assert!(state.aborted.is_empty(), "{kind}: {:?}", state.aborted);
        assert_eq!(lake.sidecars(), Vec::<String>::new());
        lake.assert_at_rest();
    }
}

/// The swap landed, its answer was lost, and then the storage went away.
#[tokio::test]
async fn a_drop_whose_outcome_is_not_known_says_so() {
    let lake = lake();
    let seams = "publish.after_commit=1*return(error);publish.after_load=1*off->1*return(error)";
    let dropped = lake
        .with_seam(seams, &["drop", &lake.uri, "t", "--json"])
        .wait();
    assert_eq!(dropped.code, Some(75), "{dropped:?}");
    let told = error_message(&dropped);
    assert!(told.contains("could not be read back"), "{told}");
    let document = one_document(&dropped);
    let op = document["error"]["op"].as_str().expect("the operation");
    assert_eq!(lake.outcome_of(op), "committed");
    lake.assert_at_rest();
}

/// What may not be put was not put: nothing is unknown then.
#[test]
fn a_drop_that_is_denied_did_not_happen() {
    let mut lake = lake();
    lake.is_bound = true;
    let versions = Path::new(&lake.uri).join("_squire/manifest.lance/_versions");
    let permit = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&versions, mode).expect("permissions");
    };
    permit(0o555);
    let denied = drop_t(&lake);
    permit(0o755);
    assert_eq!(denied.code, Some(1), "{denied:?}");
    lake.run(&["drop", &lake.uri, "t"]).ok();
    lake.assert_at_rest();
}

/// A commit of two tables that is half done when one of them is dropped.
#[tokio::test]
async fn a_commit_under_way_is_aborted_as_a_whole() {
    for seam in [
        "write.after_stage",
        "write.after_commit_table",
        "write.after_phase_b",
    ] {
        let lake = lake();
        let batch = lake.batch("more", &["t", "u"], 10..12);
        let commit = ["commit", &lake.uri, &batch, "--json"];
        let mut writer = lake.with_seam(&format!("{seam}=1*return(stop)"), &commit);
        writer.wait_stopped();
        drop_t(&lake).ok();
        let done = writer.resume();
        assert_eq!(done.code, Some(1), "{seam}: {done:?}");
        assert!(
            done.stdout.contains("table t was dropped"),
            "{seam}: {done:?}"
        );
        lake.daemon_pass("0s").ok();
        assert_eq!(lake.ids("u").await, [1, 2, 3], "{seam}");
        lake.assert_at_rest();
    }
}

/// Cleanup dies between the steps of a removal; the next one goes on.
#[tokio::test]
async fn a_removal_that_was_cut_short_is_finished() {
    for seam in [
        "cleanup.after_floor",
        "cleanup.before_table",
        "cleanup.after_table",
    ] {
        let lake = lake();
        let before = snapshot(&lake).await;
        drop_t(&lake).ok();
        let batch = lake.batch("more", &["u"], 10..11);
        lake.run(&["commit", &lake.uri, &batch]).ok();
        let seam = format!("{seam}=1*return(kill)");
        let died = lake.with_seam_in("squire-clean", &seam, &[&lake.uri]);
        assert_eq!(died.wait().code, None, "{seam}");
        assert_eq!(
            rows_at(&lake, &before).await,
            Err(ErrorKind::Expired),
            "{seam}"
        );
        lake.clean_up();
        assert!(!folder(&lake, "t.lance"), "{seam}");
        assert_eq!(lake.ids("u").await, [1, 2, 3, 10]);
        lake.assert_at_rest();
    }
}

#[tokio::test]
async fn the_engine_refuses_a_table_that_was_dropped() {
    let lake = lake();
    drop_t(&lake).ok();
    let store = lake.store().await;
    let request = squire_engine::commit::CommitRequest::new(vec![append("t", 1..2)]);
    let refused = store.commit(&request).await.expect_err("it is gone");
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

/// An append that lost its slot is tried again, with the files that it has: but those lie in the folder of the table that was dropped.
#[tokio::test]
async fn rows_for_a_dropped_table_are_staged_again_for_the_one_of_its_name() {
    let lake = lake();
    let late = lake.csv("late.csv", [(7, "late".to_owned())]);
    let taken = lake.csv("taken.csv", [(8, "taken".to_owned())]);
    let write = ["write", &lake.uri, "t", &late, "--json"];
    let mut writer = lake.with_seam("write.after_scan=1*return(stop)", &write);
    writer.wait_stopped();
    lake.run(&["write", &lake.uri, "t", &taken]).ok();
    drop_t(&lake).ok();
    lake.create_tables(&["t"]);
    writer.resume().ok();
    assert_eq!(lake.ids("t").await, [7]);
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
    lake.assert_at_rest();
}
