//! Cleanup obeys every policy and every reference, and what cannot be cleaned stops nothing else.

use crate::version_files;
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use serde_json::{Value, json};
use squire_engine::error::ErrorKind;
use squire_engine::maintenance::{CleanupPolicies, Retention};
use squire_tests::{Lake, rows_of};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Everything but the latest version is old, and table `off` is not to be touched.
const CONFIG: &str = "[policy]\nmin_versions = 1\n[policy.cleanup]\nenabled = true\n[[table]]\nname = \"off\"\ncleanup.enabled = false\n";

/// A store whose tables have four versions each, and a configuration under which all but the latest are old.
fn aged(tables: &[&str]) -> (Lake, String) {
    let mut lake = Lake::with_tables(tables);
    for i in 0..3 {
        let batch = lake.batch(&format!("b{i}"), tables, i..i + 1);
        lake.run(&["commit", &lake.uri, &batch]).ok();
    }
    let config = lake.path("squire.toml");
    std::fs::write(&config, CONFIG).expect("configuration");
    lake.env
        .push(("SQUIRE_RETENTION".to_owned(), "0".to_owned()));
    (lake, config.to_string_lossy().into_owned())
}

fn versions(lake: &Lake, table: &str) -> usize {
    version_files(&Path::new(&lake.uri).join(format!("{table}.lance"))).len()
}

/// The plan of a dry run, and the document and exit code of the real run after it.
fn dry_then_real(lake: &Lake, at: &str, config: &str) -> (Value, Value, Option<i32>) {
    let args = ["cleanup", at, "--config", config, "--json"];
    let dry = lake.run(&[&args[..], &["--dry-run"]].concat());
    let real = lake.run(&args);
    assert_eq!(dry.code, real.code, "{dry:?} {real:?}");
    (dry.json(), real.json(), real.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_table_is_kept_as_its_own_policy_says() {
    let (lake, _) = aged(&["brief", "long", "off"]);
    let store = lake.store().await;
    let keep = |versions| Retention {
        age: Duration::ZERO,
        versions,
    };
    let mut policies = CleanupPolicies::from(keep(1));
    let mut of = |table: &str, versions, enabled| {
        let mut policy = policies.default;
        (policy.retention, policy.enabled) = (keep(versions), enabled);
        policies.tables.insert(table.to_owned(), policy);
    };
    of("long", 3, true);
    of("off", 2, false);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let latest = store.load().await.expect("snapshot").version();
    let plan = store.plan_cleanup(&policies).await.expect("plan");
    let planned: Vec<_> = plan.tables.iter().map(|t| (&*t.table, t.floor)).collect();
    assert_eq!(planned, [("brief", 4), ("long", 2)]);
    assert_eq!(plan.off.len(), 1, "{plan:?}");
    let report = store.cleanup(&plan, None, &Default::default()).await;
    assert_eq!(report.expect("cleanup").failed, []);
    let left = ["brief", "long", "off"].map(|table| versions(&lake, table));
    assert_eq!(left, [1, 3, 4]);
    // The manifest is kept for the most patient: each table of an old snapshot opens or is expired, by name.
    let old = store.snapshot_at(latest - 2).await.expect("kept");
    let shown = store.read(&old, &"long".parse().expect("name")).await;
    assert_eq!(shown.expect("inside its retention").version().version, 2);
    let gone = store.read(&old, &"brief".parse().expect("name")).await;
    assert_eq!(gone.expect_err("removed").kind(), ErrorKind::Expired);
}

/// A table whose directory is gone, one whose HEAD lacks a data file, one of which a data file was cut short, one that is
/// off: the rest is cleaned.
#[test]
fn what_cannot_be_cleaned_stops_nothing_else() {
    let (lake, config) = aged(&["cut", "fine", "gone", "holed", "off"]);
    let at = |table: &str| Path::new(&lake.uri).join(format!("{table}.lance"));
    std::fs::remove_dir_all(at("gone")).expect("removed");
    let newest = |table: &str| {
        let files = std::fs::read_dir(at(table).join("data")).expect("data");
        let files = files.map(|f| f.expect("file"));
        let newest = files.max_by_key(|f| f.metadata().and_then(|m| m.modified()).expect("time"));
        newest.expect("a file").path()
    };
    std::fs::remove_file(newest("holed")).expect("removed");
    let cut = File::options().write(true).open(newest("cut"));
    cut.and_then(|file| file.set_len(100)).expect("cut short");

    let (dry, real, code) = dry_then_real(&lake, &lake.uri, &config);
    assert_eq!(code, Some(1), "{real}");
    assert_eq!(dry["plan"], real["plan"], "the dry run says what is done");
    let failed = &real["report"]["failed"];
    let failed = failed.as_array().expect("failures");
    let names: Vec<&Value> = failed.iter().map(|f| &f[0]).collect();
    assert_eq!(names, ["cut", "gone", "holed"], "{failed:?}");
    for (at, said) in [(0, "has 100 bytes"), (2, "missing")] {
        let why = failed[at][1].as_str().expect("why");
        let all = ["data/", "last good", said];
        assert!(all.iter().all(|text| why.contains(text)), "{why}");
    }
    assert_eq!(real["plan"]["off"][0]["table"], "off");
    let left = ["cut", "fine", "holed", "off"].map(|table| versions(&lake, table));
    assert_eq!(left, [4, 1, 4, 4]);

    // The daemon alike: `off` is not the policy of all, nor is the first one's.
    let done = lake.run(&["daemon", &lake.uri, "--once", "--config", &config]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(versions(&lake, "off"), 4);
}

/// The same of a plain directory, and what a shallow clone refers to.
#[tokio::test(flavor = "multi_thread")]
async fn plain_tables_keep_what_a_clone_refers_to() {
    let (lake, config) = aged(&["t", "holed", "off"]);
    let directory = lake.path("plain");
    std::fs::create_dir(&directory).expect("directory");
    for table in ["t.lance", "holed.lance", "off.lance"] {
        std::fs::rename(Path::new(&lake.uri).join(table), directory.join(table)).expect("moved");
    }
    let at = |table: &str| directory.join(table).to_string_lossy().into_owned();
    let mut source = Dataset::open(&at("t.lance")).await.expect("source");
    let version: u64 = 3;
    source
        .shallow_clone(&at("clone.lance"), version, None)
        .await
        .expect("clone");
    let clone = || async {
        let clone = Dataset::open(&at("clone.lance")).await.expect("clone");
        rows_of(&clone).await
    };
    let rows = clone().await;
    assert_eq!(rows.len(), 2);
    // What HEAD holds is rewritten, so the old files are only the clone's.
    let batch = source.scan().try_into_batch().await.expect("rows");
    let schema = batch.schema();
    let reader = arrow_array::RecordBatchIterator::new([Ok(batch)], schema);
    let over = WriteParams {
        mode: WriteMode::Overwrite,
        ..WriteParams::default()
    };
    Dataset::write(reader, &at("t.lance"), Some(over))
        .await
        .expect("overwritten");
    for file in std::fs::read_dir(directory.join("holed.lance/data")).expect("data") {
        std::fs::remove_file(file.expect("file").path()).expect("removed");
    }

    let (dry, real, code) = dry_then_real(&lake, &directory.to_string_lossy(), &config);
    assert_eq!(code, Some(1), "{real}");
    let of = |document: &Value, part: &str, table: &str| {
        let tables = document["tables"].as_array().expect("tables").clone();
        let mut parts = tables.into_iter().map(|t| t[part].clone());
        parts.find(|plan| plan["table"] == table).expect("its plan")
    };
    let plan = of(&dry, "plan", "t.lance");
    assert_eq!(plan, of(&real, "plan", "t.lance"));
    // The newest version that holds what version 3 holds.
    assert_eq!(plan["versions"], json!([1, 2, 3]));
    assert_eq!(plan["held"][0]["version"], 4);
    let by = plan["held"][0]["by"].as_str().expect("by whom");
    assert!(by.ends_with("clone.lance"), "{by}");
    assert_eq!(clone().await, rows, "the clone reads");
    let left = ["t.lance", "holed.lance", "off.lance"];
    let left = left.map(|table| version_files(&directory.join(table)).len());
    assert_eq!(left, [2, 4, 4]);
}
