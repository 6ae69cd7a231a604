//! Cleanup obeys every policy and every reference, and what cannot be cleaned stops nothing else.

use crate::version_files;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchIterator};
use lance::Dataset;
use lance::dataset::{CommitBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use serde_json::{Value, json};
use squire_engine::error::ErrorKind;
use squire_engine::maintenance::{
    CleanupPolicies, Oversight, Reindexing, Retention, TableCleanup, Target,
};
use squire_engine::store::{Store, StoreOptions};
use squire_tests::plain::{Plain, TABLE};
use squire_tests::{Lake, rows_of, tree};
use std::collections::BTreeSet;
use std::fs::File;
use std::fs::Permissions;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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

/// Lance warns and goes on, and what it could not delete would stay for ever.
#[test]
fn files_that_cannot_be_deleted_are_a_failure() {
    for plain in [false, true] {
        let (mut lake, config) = aged(&["a", "b"]);
        let at = match plain {
            true => lake.path("plain/a.lance").to_string_lossy().into_owned(),
            false => lake.uri.clone(),
        };
        if plain {
            std::fs::create_dir_all(lake.path("plain")).expect("a directory");
            std::fs::rename(Path::new(&lake.uri).join("a.lance"), &at).expect("a plain table");
        }
        let args = ["cleanup", &at, "--config", &config];
        let faults = "deny=a.lance/_transactions/0-".to_owned();
        lake.env.push(("SQUIRE_FAULTS".to_owned(), faults));
        let done = lake.run(&args).failed(1, "1 files could not be deleted");
        assert!(!done.stdout.contains("removed 0"), "{done:?}");
        lake.env.pop();
    }
}

/// The data files of a table, the oldest first.
fn data_files(table: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(table.join("data")).expect("data");
    let mut files: Vec<PathBuf> = files.map(|f| f.expect("file").path()).collect();
    files.sort_by_key(|f| f.metadata().and_then(|m| m.modified()).expect("time"));
    files
}

fn newest_file(table: &Path) -> PathBuf {
    data_files(table).pop().expect("a file")
}

/// Leaves the first `kept` bytes of a file, and zeros in place of the others.
fn zero(path: &Path, kept: u64) {
    let length = std::fs::metadata(path).expect("file").len();
    let zeros = vec![0; usize::try_from(length - kept).expect("short")];
    let file = File::options().write(true).open(path).expect("file");
    file.write_all_at(&zeros, kept).expect("zeros");
}

/// A table whose directory is gone, one whose HEAD lacks a data file, one of which a data file was cut short, one that is
/// off: the rest is cleaned.
#[test]
fn what_cannot_be_cleaned_stops_nothing_else() {
    let (lake, config) = aged(&["cut", "fine", "gone", "holed", "off"]);
    let at = |table: &str| Path::new(&lake.uri).join(format!("{table}.lance"));
    std::fs::remove_dir_all(at("gone")).expect("removed");
    std::fs::remove_file(newest_file(&at("holed"))).expect("removed");
    let cut = File::options().write(true).open(newest_file(&at("cut")));
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

/// A power cut leaves files of full length without their bytes. Whatever could take their place stays.
#[test]
fn a_version_that_cannot_be_read_replaces_nothing() {
    let (lake, config) = aged(&["fine", "headless", "zeros"]);
    let at = |table: &str| Path::new(&lake.uri).join(format!("{table}.lance"));
    zero(&newest_file(&at("zeros")), 0);
    let headless = newest_file(&at("headless"));
    zero(&headless, headless.metadata().expect("file").len() - 16);
    let left = || ["fine", "headless", "zeros"].map(|table| versions(&lake, table));
    let (dry, real, code) = dry_then_real(&lake, &lake.uri, &config);
    assert_eq!(code, Some(1), "{real}");
    assert_eq!(dry["plan"], real["plan"], "the dry run says what is done");
    let failed = real["report"]["failed"].as_array().expect("failures");
    let names: Vec<&Value> = failed.iter().map(|f| &f[0]).collect();
    assert_eq!(names, ["headless", "zeros"], "{failed:?}");
    for failure in failed {
        let why = failure[1].as_str().expect("why");
        let all = ["version 4", "data/", "cannot be read (", "last good"];
        assert!(all.iter().all(|text| why.contains(text)), "{why}");
    }
    assert_eq!(left(), [1, 4, 4]);
    let done = lake.run(&["daemon", &lake.uri, "--once", "--config", &config]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(left(), [1, 4, 4]);

    // What is in all versions is no reason to keep any: none could take its place.
    let batch = lake.batch("late", &["fine"], 9..10);
    lake.run(&["commit", &lake.uri, &batch]).ok();
    zero(&data_files(&at("fine"))[0], 0);
    assert_eq!(left(), [2, 4, 4]);
    dry_then_real(&lake, &lake.uri, &config);
    assert_eq!(left(), [1, 4, 4]);
}

/// A reader asks each fragment which rows are deleted. No version says how long the file is that knows.
#[tokio::test]
async fn no_deletion_file_that_cannot_be_read_replaces_anything() {
    let (lake, config) = aged(&["fine"]);
    let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..600));
    let rows = RecordBatch::try_from_iter([("id", ids)]).expect("rows");
    let reader = RecordBatchIterator::new([Ok(rows.clone())], rows.schema());
    let params = WriteParams {
        max_rows_per_file: 2,
        ..WriteParams::default()
    };
    let table = Dataset::write(reader, &uri, Some(params)).await;
    let deleted = table.expect("a table").delete("id % 2 = 1").await;
    deleted.expect("a delete");
    let files = std::fs::read_dir(Path::new(&uri).join("_deletions")).expect("deletions");
    let files: Vec<PathBuf> = files.map(|f| f.expect("file").path()).collect();
    assert_eq!(files.len(), 300);
    // Of the fragments whose rows are read it is the last.
    let of_first = |f: &&PathBuf| {
        f.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("0-"))
    };
    zero(files.iter().find(of_first).expect("that of the first"), 8);
    let plain = lake.path("plain").to_string_lossy().into_owned();
    let cleanup = ["cleanup", &plain, "--config", &config];
    lake.run(&cleanup).failed(1, "refers to _deletions/0-");
    assert_eq!(version_files(Path::new(&uri)).len(), 2);
}

/// A folder that leads to itself, of which Lance asks for seconds at each look.
#[test]
fn a_folder_that_leads_to_itself_stops_nothing_else() {
    let (lake, config) = aged(&["fine", "looped"]);
    let looped = Path::new(&lake.uri).join("looped.lance");
    std::fs::remove_dir_all(&looped).expect("removed");
    symlink("looped.lance", &looped).expect("link");
    let (dry, real, code) = dry_then_real(&lake, &lake.uri, &config);
    assert_eq!(code, Some(1), "{real}");
    assert_eq!(dry["plan"], real["plan"], "the dry run says what is done");
    let failed = real["report"]["failed"].as_array().expect("failures");
    assert_eq!((failed.len(), &failed[0][0]), (1, &json!("looped")));
    assert_eq!(versions(&lake, "fine"), 1);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("parent")).expect("directory");
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
}

/// Copies the store's table `t` to `source`, which `spelled` names, makes `clone` a shallow clone of its third version,
/// and writes it anew: only old versions hold what the clone needs. Gives the clone's rows.
async fn cloned(lake: &Lake, source: &Path, spelled: &str, clone: &Path) -> Vec<(i64, String)> {
    copy(&Path::new(&lake.uri).join("t.lance"), source);
    let mut dataset = Dataset::open(spelled).await.expect("source");
    let target = clone.to_string_lossy();
    let version: u64 = 3;
    let made = dataset.shallow_clone(&target, version, None).await;
    made.expect("clone");
    let batch = dataset.scan().try_into_batch().await.expect("rows");
    let schema = batch.schema();
    let reader = RecordBatchIterator::new([Ok(batch)], schema);
    let over = WriteParams {
        mode: WriteMode::Overwrite,
        ..WriteParams::default()
    };
    let written = Dataset::write(reader, spelled, Some(over)).await;
    written.expect("overwritten");
    rows_at(clone).await
}

async fn rows_at(path: &Path) -> Vec<(i64, String)> {
    let dataset = Dataset::open(&path.to_string_lossy()).await;
    rows_of(&dataset.expect("table")).await
}

/// Where nothing is maintained there may be clones all the same, and a base may be spelled in many ways.
#[tokio::test(flavor = "multi_thread")]
async fn clones_are_found_wherever_they_lie_in_a_location() {
    let (lake, config) = aged(&["t"]);
    std::fs::create_dir(lake.path("outside")).expect("directory");
    for (i, (clone, url)) in [
        ("1/2/3/4/5/clone.lance", false),
        (".hidden/clone.lance", false),
        ("t.lance/inside/clone.lance", false),
        ("link/clone.lance", false),
        ("clone.lance", true),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = lake.path(&format!("plain {i}"));
        let source = directory.join("t.lance");
        std::fs::create_dir(&directory).expect("directory");
        symlink(lake.path("outside"), directory.join("link")).expect("link");
        let path = source.to_string_lossy().into_owned();
        let spelled = match url {
            true => format!("file://{}", path.replace(' ', "%20")),
            false => path,
        };
        let clone = directory.join(clone);
        let rows = cloned(&lake, &source, &spelled, &clone).await;
        let uri = directory.to_string_lossy();
        let (_, real, code) = dry_then_real(&lake, &uri, &config);
        assert_eq!(code, Some(0), "{real}");
        let tables = real["tables"].as_array().expect("tables");
        let source_of = |t: &&Value| t["plan"]["table"] == "t.lance";
        let plan = &tables.iter().find(source_of).expect("its plan")["plan"];
        assert_eq!(plan["held"][0]["version"], 4, "{}: {plan}", clone.display());
        assert_eq!(rows_at(&clone).await, rows, "{}", clone.display());
        assert_eq!(version_files(&source).len(), 2);
    }
}

/// What is mounted elsewhere where a clone was made is at a path there that is none here.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_whose_base_has_another_path_here_keeps_what_it_needs() {
    let (lake, config) = aged(&["t"]);
    let (there, here) = (lake.path("there"), lake.path("here"));
    std::fs::create_dir(&there).expect("directory");
    let (source, clone) = (there.join("t.lance"), there.join("clone.lance"));
    let rows = cloned(&lake, &source, &source.to_string_lossy(), &clone).await;
    std::fs::rename(&there, &here).expect("moved");
    let (_, real, _) = dry_then_real(&lake, &here.to_string_lossy(), &config);
    let tables = real["tables"].as_array().expect("tables");
    let source_of = |t: &&Value| t["plan"]["table"] == "t.lance";
    let plan = &tables.iter().find(source_of).expect("its plan")["plan"];
    assert_eq!(plan["held"][0]["version"], 4, "{plan}");
    std::fs::rename(&here, &there).expect("moved back");
    assert_eq!(rows_at(&clone).await, rows);
}

/// What other tables, other tools or versions that nobody lists keep in a table's folders is nobody's garbage.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_version_of_a_table_names_is_not_taken_for_garbage() {
    let (lake, config) = aged(&["linked", "detached", "texts"]);
    let directory = lake.path("plain");
    std::fs::create_dir(&directory).expect("directory");
    for table in ["linked.lance", "detached.lance", "texts.lance"] {
        std::fs::rename(Path::new(&lake.uri).join(table), directory.join(table)).expect("moved");
    }
    let elsewhere = lake.path("elsewhere");
    std::fs::rename(directory.join("linked.lance/data"), &elsewhere).expect("moved");
    symlink(&elsewhere, directory.join("linked.lance/data")).expect("a link");
    let detached = directory.join("detached.lance");
    let uri = detached.to_string_lossy().into_owned();
    let dataset = Dataset::open(&uri).await.expect("table");
    let transaction = dataset.read_transaction().await.expect("read");
    let committed = CommitBuilder::new(Arc::new(dataset))
        .with_detached(true)
        .execute(transaction.expect("its transaction"));
    committed.await.expect("a detached version");
    // As LanceDB's clients kept texts before Lance had indexes of them.
    let texts = directory.join("texts.lance/_indices/fts/meta.json");
    std::fs::create_dir_all(texts.parent().expect("a folder")).expect("folders");
    std::fs::write(&texts, "{}").expect("an index");
    let month_ago = SystemTime::now() - Duration::from_secs(30 * 86_400);
    let file = File::options().append(true).open(&texts).expect("file");
    file.set_modified(month_ago).expect("its time");

    let before = tree(&elsewhere);
    let versions = |table: &str| version_files(&directory.join(table)).len();
    let (_, real, code) = dry_then_real(&lake, &directory.to_string_lossy(), &config);
    assert_eq!(code, Some(1), "{real}");
    let said = real.to_string();
    for why in ["is a link", "is a detached version"] {
        assert!(said.contains(why), "{said}");
    }
    assert_eq!((versions("linked.lance"), versions("texts.lance")), (4, 1));
    assert_eq!(tree(&elsewhere), before);
    assert!(texts.exists(), "an index of another kind");
    let status = ["status", &directory.to_string_lossy(), "--json"];
    let tables = lake.run(&status).json()["tables"].clone();
    let tables = tables.as_array().expect("tables");
    let texts = tables.iter().find(|t| t["table"] == "texts.lance");
    let older = &texts.expect("its status")["unreferenced"]["older"];
    assert_eq!(older["files"], 0, "{older}");
}

/// A backup that is being copied here with its times: what is newer than the latest version belongs to one that is yet to come.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_still_being_copied_keeps_its_files() {
    let (lake, config) = aged(&["other"]);
    let mut backup = Plain::new(&lake.path("backup"));
    for first in 0..6 {
        backup.append(10 * first..10 * first + 2).await;
    }
    let table = backup.path(TABLE);
    // Each version a day after the one before it, the last of them a month ago.
    let at = |version: u64| SystemTime::now() - Duration::from_secs((36 - version) * 86_400);
    let age = |path: &Path, version: u64| {
        let file = File::options().append(true).open(path).expect("a file");
        file.set_modified(at(version)).expect("its time");
    };
    let manifest = |version: u64| format!("_versions/{:020}.manifest", u64::MAX - version);
    for (file, version) in data_files(&table).iter().zip(1..) {
        age(file, version);
        age(&table.join(manifest(version)), version);
    }
    let here = lake.path("here");
    let copied = here.join("t.lance");
    std::fs::create_dir_all(copied.join("_versions")).expect("folders");
    let copy = |what: &str| {
        let mut copying = Command::new("cp");
        copying.args(["-a", "-T"]);
        copying.arg(table.join(what)).arg(copied.join(what));
        assert!(copying.status().expect("cp").success());
    };
    copy("data");
    (1..=3).for_each(|version| copy(&manifest(version)));
    let at = here.to_string_lossy().into_owned();
    let (_, real, code) = dry_then_real(&lake, &at, &config);
    assert_eq!(
        (code, &real["tables"][0]["report"]["versions_removed"]),
        (Some(0), &json!(2)),
        "{real}"
    );
    (4..=6).for_each(|version| copy(&manifest(version)));
    assert_eq!(rows_at(&copied).await.len(), 12);
}

/// A file that is no tag or no branch is told by its folder, and by who says which.
#[tokio::test(flavor = "multi_thread")]
async fn torn_tags_and_branches_are_told_with_a_remedy() {
    let (lake, config) = aged(&["t"]);
    let table = Path::new(&lake.uri).join("t.lance");
    for kind in ["tags", "branches"] {
        let torn = table.join(format!("_refs/{kind}/torn.json"));
        std::fs::create_dir_all(torn.parent().expect("a folder")).expect("folders");
        std::fs::write(&torn, "{").expect("torn");
        let folder = format!("t.lance/_refs/{kind} is no ");
        let done = lake.run(&["cleanup", &lake.uri, "--config", &config]);
        let done = done.failed(1, &folder);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains("`squire verify` says which"), "{said}");
        assert!(!said.contains("LanceError"), "{said}");
        std::fs::remove_file(&torn).expect("removed");
    }
}

/// Clones in another watched location, by hand and by the daemon, while it can be opened and while it cannot.
#[tokio::test(flavor = "multi_thread")]
async fn clones_in_every_watched_location_keep_what_they_need() {
    let (lake, _) = aged(&["t"]);
    let (directory, others) = (lake.path("plain"), lake.path("others"));
    let (source, clone) = (directory.join("t.lance"), others.join("clone.lance"));
    let rows = cloned(&lake, &source, &source.to_string_lossy(), &clone).await;
    let config = lake.path("watched.toml");
    let watches = [&directory, &others].map(|d| format!("[[watch]]\nuri = {d:?}\n"));
    std::fs::write(&config, format!("{CONFIG}{}", watches.concat())).expect("configuration");
    let config = config.to_string_lossy();
    let uri = directory.to_string_lossy();

    let away = lake.path("away");
    std::fs::rename(&others, &away).expect("moved");
    let by_hand = ["cleanup", &uri, "--config", &config];
    lake.run(&by_hand).failed(3, &others.to_string_lossy());
    let done = lake.run(&["daemon", "--once", "--config", &config]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("nothing is removed"), "{done:?}");
    assert_eq!(version_files(&source).len(), 5);

    std::fs::rename(&away, &others).expect("moved back");
    lake.run(&by_hand).ok();
    assert_eq!(version_files(&source).len(), 2);
    assert_eq!(rows_at(&clone).await, rows);
    lake.run(&["daemon", "--once", "--config", &config]).ok();
    assert_eq!(rows_at(&clone).await, rows);
}

/// Of a clone whose versions cannot be read for now nothing is known, so nothing that it may need goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_cannot_be_read_now_keeps_what_it_may_need() {
    let (mut lake, config) = aged(&["t"]);
    lake.is_bound = true;
    let directory = lake.path("plain");
    let (source, clone) = (directory.join("t.lance"), directory.join("clone.lance"));
    let rows = cloned(&lake, &source, &source.to_string_lossy(), &clone).await;
    let set = |mode| {
        for file in version_files(&clone) {
            let path = clone.join("_versions").join(file);
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
        }
    };
    let uri = directory.to_string_lossy();
    set(0);
    let done = lake.run(&["cleanup", &uri, "--config", &config]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(version_files(&source).len(), 5, "{done:?}");
    set(0o644);
    lake.run(&["cleanup", &uri, "--config", &config]).ok();
    assert_eq!(version_files(&source).len(), 2);
    assert_eq!(rows_at(&clone).await, rows);
}

/// An old version that a power cut left empty is named with what to do, and stops its table alone.
#[test]
fn an_old_version_that_is_torn_is_named() {
    let (lake, config) = aged(&["t", "u"]);
    let directory = lake.path("plain");
    for table in ["t.lance", "u.lance"] {
        copy(&Path::new(&lake.uri).join(table), &directory.join(table));
    }
    let torn = format!("t.lance/_versions/{}.manifest", u64::MAX - 2);
    File::create(directory.join(&torn)).expect("an empty file");
    let uri = directory.to_string_lossy();
    let done = lake.run(&["cleanup", &uri, "--config", &config]);
    assert_eq!(done.code, Some(1), "{done:?}");
    for told in [torn.as_str(), "is torn, 0 bytes long", "remove this file"] {
        assert!(done.stdout.contains(told), "{told}: {done:?}");
    }
    // It was written: others were made after it.
    assert!(!done.stdout.contains("never written"), "{done:?}");
    assert_eq!(version_files(&directory.join("t.lance")).len(), 4);
    assert_eq!(version_files(&directory.join("u.lance")).len(), 1);
}

/// A writer whose clock is three days behind puts one version between those of others.
#[tokio::test(flavor = "multi_thread")]
async fn no_version_that_is_young_goes_with_one_that_says_it_is_old() {
    let mut plain = Plain::new(&Lake::new().path("plain"));
    for id in 0..9 {
        plain.append(id..id + 1).await;
    }
    let path = PathBuf::from(&plain.uri).join(TABLE);
    let dataset = Dataset::open(&path.to_string_lossy()).await.expect("table");
    let middle = dataset.checkout_version(5).await.expect("version");
    let file = PathBuf::from(format!("/{}", middle.manifest_location().path));
    let varint = |mut n: u64| {
        let mut bytes = Vec::new();
        while n > 0x7f {
            bytes.push((n as u8) | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    };
    let seconds = middle.manifest().timestamp().timestamp().unsigned_abs();
    let (now, old) = (varint(seconds), varint(seconds - 3 * 86_400));
    let mut bytes = std::fs::read(&file).expect("the version");
    let at = bytes.windows(now.len()).position(|window| window == now);
    let at = at.expect("its time");
    bytes[at..at + old.len()].copy_from_slice(&old);
    std::fs::write(&file, bytes).expect("the version");
    let store = Store::connect(&plain.uri, StoreOptions::default()).await;
    let store = store.expect("the directory");
    let hour = CleanupPolicies::from(Retention {
        age: Duration::from_secs(3_600),
        versions: 1,
    });
    let plan = store
        .plan_plain_cleanup(TABLE, &hour)
        .await
        .expect("a plan");
    assert_eq!(plan.versions, [0_u64; 0]);
}

/// A table goes by the name that `status` prints, too, and a name that no table has is told.
#[test]
fn a_policy_is_obeyed_under_either_name_and_one_for_nothing_is_told() {
    let (lake, _) = aged(&["off", "t"]);
    let config = lake.path("named.toml");
    let text = CONFIG.replace("\"off\"", "\"off.lance\"");
    let text = format!("{text}[[table]]\nname = \"misspelt\"\n");
    std::fs::write(&config, text).expect("configuration");
    let config = config.to_string_lossy();
    for command in [
        &["plan", &lake.uri][..],
        &["cleanup", &lake.uri],
        &["daemon", &lake.uri, "--once"],
    ] {
        let done = lake.run(&[command, &["--config", &config]].concat()).ok();
        let told = done.stderr.matches("misspelt").count();
        assert_eq!(told, 1, "{command:?}: {}", done.stderr);
        let untold = !done.stderr.contains("table=\"off");
        assert!(untold, "{}", done.stderr);
    }
    assert_eq!(["off", "t"].map(|table| versions(&lake, table)), [4, 1]);
}

/// A store is cleaned as a whole: its table's folder does not stand for it.
#[test]
fn a_table_of_a_store_is_not_cleaned_by_itself() {
    let (lake, config) = aged(&["t", "u"]);
    let table = format!("{}/t.lance", lake.uri);
    let by_hand = lake.run(&["cleanup", &table, "--config", &config]);
    by_hand.failed(2, "as a whole");
    let args = ["daemon", &table, "--once", "--config", &config];
    lake.run(&args).ok();
    assert_eq!(["t", "u"].map(|table| versions(&lake, table)), [4, 4]);
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
    let reader = RecordBatchIterator::new([Ok(batch)], schema);
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

async fn connected(plain: &Plain) -> Store {
    let store = Store::connect(&plain.uri, StoreOptions::default());
    store.await.expect("the directory")
}

/// What a cleanup removes that keeps the latest version alone.
async fn all_but_the_latest(store: &Store) -> TableCleanup {
    let latest = CleanupPolicies::from(Retention {
        age: Duration::ZERO,
        versions: 1,
    });
    let plan = store.plan_plain_cleanup(TABLE, &latest).await;
    plan.expect("a plan")
}

/// A local disk keeps the folders of segments whose files have gone; each extension leaves one.
#[tokio::test(flavor = "multi_thread")]
async fn no_empty_folder_of_an_index_stays() {
    let lake = Lake::with_tables(&[]);
    let mut plain = Plain::new(&lake.path("plain"));
    plain.append(0..10).await;
    plain.index().await;
    let store = connected(&plain).await;
    let target = Target::Plain(TABLE.to_owned());
    let (all, oversight) = (Reindexing::default(), Oversight::default());
    for id in 10..14 {
        plain.append(id..id + 1).await;
        let extended = store.reindex(&target, &all, &oversight).await;
        assert_eq!(extended.expect("a reindex").indexes, ["id_idx"]);
    }
    let folders = || -> BTreeSet<String> {
        let folders = std::fs::read_dir(plain.path(TABLE).join("_indices")).expect("indexes");
        let names = folders.map(|folder| folder.expect("a folder").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    };
    let before = folders().len();
    let plan = all_but_the_latest(&store).await;
    let cleaned = store.cleanup_plain(&plan, None, &oversight).await;
    cleaned.expect("a cleanup");
    let listed = plain.open().await.load_indices().await.expect("indexes");
    let listed: BTreeSet<String> = listed.iter().map(|index| index.uuid.to_string()).collect();
    assert_eq!(folders(), listed, "of {before}");
    assert!(listed.len() < before);
    plain.assert_whole().await;
}

/// A cleanup that is asked to stop does so between two files, as a crash would, and the next one removes the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_stops_within_a_table_and_the_next_one_ends_it() {
    let lake = Lake::with_tables(&[]);
    let mut plain = Plain::new(&lake.path("plain"));
    for id in 0..12 {
        plain.append(id..id + 1).await;
    }
    let store = connected(&plain).await;
    let (plan, oversight) = (all_but_the_latest(&store).await, Oversight::default());
    assert_eq!(plan.versions.len(), 11);
    let files = || tree(&plain.path(TABLE)).len();
    let before = files();
    let stopping = async {
        while files() == before {
            tokio::task::yield_now().await;
        }
        oversight.cancel();
    };
    // One file a second.
    let (cleaned, ()) = tokio::join!(store.cleanup_plain(&plan, Some(1), &oversight), stopping);
    assert_eq!(cleaned.expect_err("stopped").kind(), ErrorKind::Cancelled);
    assert!(files() > before - 11, "{} of {before} files", files());
    assert!(
        oversight.steps() > 12,
        "each answer of the storage is a step"
    );
    plain.assert_whole().await;

    let (again, oversight) = (all_but_the_latest(&store).await, Oversight::default());
    let cleaned = store.cleanup_plain(&again, None, &oversight).await;
    cleaned.expect("a cleanup");
    assert_eq!(version_files(&plain.path(TABLE)).len(), 1);
    plain.assert_whole().await;
}
