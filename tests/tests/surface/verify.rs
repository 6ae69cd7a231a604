//! `squire verify` names what is missing or torn, with the versions that need it and what to do.

use lance::Dataset;
use serde_json::Value;
use squire_engine::error::ErrorKind;
use squire_engine::maintenance::Oversight;
use squire_engine::maintenance::Target;
use squire_engine::maintenance::audit::{AuditOptions, Auditor};
use squire_tests::{Lake, tree};
use std::path::{Path, PathBuf};

/// A store with tables t and u: three commits, an index, deleted rows.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t", "u"]);
    for i in 0..3 {
        let batch = lake.batch(&format!("b{i}"), &["t", "u"], 10 * i..10 * i + 3);
        lake.run(&["commit", &lake.uri, &batch]).ok();
    }
    lake.run(&["index", &lake.uri, "t", "id", "--type", "btree"])
        .ok();
    lake.run(&["delete", &lake.uri, "t", "--where", "id = 1"])
        .ok();
    lake.run(&["reindex", &lake.uri]).ok();
    lake
}

/// The one file below the table whose path holds `part`, the last in the order of names.
fn file(table: &Path, part: &str) -> PathBuf {
    let mut found = tree(table)
        .into_iter()
        .filter(|path| table.join(path).is_file() && path.to_string_lossy().contains(part));
    table.join(found.next_back().unwrap_or_else(|| panic!("no {part}")))
}

/// The findings about `table`.
fn findings(document: &Value, table: &str) -> Vec<Value> {
    let tables = document["tables"].as_array().expect("tables");
    let found = tables.iter().find(|t| t["table"] == table);
    let found = found.unwrap_or_else(|| panic!("no {table}: {document}"));
    found["findings"].as_array().expect("findings").clone()
}

#[test]
fn what_is_whole_is_told_so_and_nothing_is_written() {
    let lake = lake();
    lake.clean_up();
    let before = tree(Path::new(&lake.uri));
    for more in [&[][..], &["--deep"], &["--table", "t"]] {
        let args = [&["verify", lake.uri.as_str()], more].concat();
        let done = lake.run(&args).ok();
        assert!(done.stdout.contains("t: whole; "), "{done:?}");
    }
    assert_eq!(tree(Path::new(&lake.uri)), before);
}

/// A file of each kind is lost, or cut, or a version made by someone else's hand: each time that one is named.
#[test]
fn every_kind_of_loss_is_named() {
    let cut = |path: &Path| {
        let file = std::fs::File::options().write(true).open(path);
        file.and_then(|file| file.set_len(10)).expect("cut");
    };
    let lose = |path: &Path| std::fs::remove_file(path).expect("removed");
    type Damage<'a> = &'a dyn Fn(&Path);
    let losses: [(&str, Damage, &str, &str); 6] = [
        ("data/", &lose, "is missing", "from a backup"),
        ("data/", &cut, "has 10 bytes and had", "from a backup"),
        ("_deletions/", &lose, "is missing", "from a backup"),
        ("_indices/", &lose, "is missing", "build it anew"),
        (".manifest", &cut, "cannot be read", "from a backup"),
        (
            ".manifest",
            &lose,
            "which manifest version",
            "from a backup",
        ),
    ];
    for (part, damage, what, remedy) in losses {
        let lake = lake();
        let damaged = file(&Path::new(&lake.uri).join("t.lance"), part);
        damage(&damaged);
        let done = lake.run(&["verify", &lake.uri, "--json"]);
        assert_eq!(done.code, Some(1), "{part}: {done:?}");
        let found = findings(&done.json(), "t");
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        let text = |key: &str| found[0][key].as_str().unwrap_or_default().to_owned();
        assert!(text("what").contains(what), "{part}: {found:?}");
        assert!(text("remedy").contains(remedy), "{part}: {found:?}");
        assert!(
            !found[0]["versions"]
                .as_array()
                .expect("versions")
                .is_empty()
        );
        if part != ".manifest" {
            assert!(
                damaged.to_string_lossy().ends_with(&text("file")),
                "{found:?}"
            );
        }
        assert_eq!(findings(&done.json(), "u"), Vec::<Value>::new());
        // For people the same, one line each.
        lake.run(&["verify", &lake.uri]).failed(1, what);
    }
}

/// Files of full length without their bytes are seen by those who read them.
#[test]
fn zeros_are_seen_deep() {
    let lake = lake();
    let damaged = file(&Path::new(&lake.uri).join("t.lance"), "data/");
    let length = std::fs::metadata(&damaged).expect("file").len();
    let zeros = vec![0; usize::try_from(length).expect("short")];
    std::fs::write(&damaged, zeros).expect("zeros");
    lake.run(&["verify", &lake.uri]).ok();
    let done = lake.run(&["verify", &lake.uri, "--deep", "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "t");
    let what = found[0]["what"].as_str().expect("what");
    assert!(what.contains("cannot be read"), "{found:?}");
    assert_eq!(findings(&done.json(), "u"), Vec::<Value>::new());
}

#[test]
fn what_a_store_keeps_of_itself_is_verified() {
    let lake = lake();
    let internal = Path::new(&lake.uri).join("_squire");
    let put = |path: &str, text: &str| {
        let path = internal.join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    };
    put("recovery/01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json", "portal");
    put("leases/01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json", "portal");
    let version = file(&internal.join("manifest.lance"), ".manifest");
    std::fs::write(&version, "portal").expect("file");
    let done = lake.run(&["verify", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "_squire");
    let files: Vec<&str> = found.iter().filter_map(|f| f["file"].as_str()).collect();
    let all = [
        "_squire/leases",
        "_squire/manifest.lance",
        "_squire/recovery/01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json",
    ];
    assert_eq!(files, all, "{found:?}");
}

/// Plain tables: a clone needs files of its source, and one bad table stops only itself.
#[tokio::test(flavor = "multi_thread")]
async fn clones_need_their_source() {
    let lake = lake();
    let dir = lake.path("plain");
    std::fs::create_dir_all(&dir).expect("folder");
    for table in ["t.lance", "u.lance"] {
        let from = Path::new(&lake.uri).join(table);
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(from)
            .arg(&dir)
            .status();
        assert!(copied.expect("cp").success());
    }
    let source = dir.join("t.lance");
    let clone = dir.join("clone.lance").to_string_lossy().into_owned();
    let mut dataset = Dataset::open(&source.to_string_lossy())
        .await
        .expect("source");
    let version = dataset.version().version;
    dataset
        .shallow_clone(&clone, version, None)
        .await
        .expect("clone");
    let mut branch = dataset
        .create_branch("dev", version, None)
        .await
        .expect("branch");
    branch.delete("id = 2").await.expect("a version of its own");
    let dir = dir.to_string_lossy().into_owned();
    let whole = lake.run(&["verify", &dir, "--deep"]).ok();
    assert!(whole.stdout.contains("clone.lance: whole"), "{whole:?}");
    lake.run(&["verify", &clone]).ok();

    std::fs::remove_file(file(&source, "data/")).expect("removed");
    let done = lake.run(&["verify", &dir, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "clone.lance");
    let lost = found[0]["file"].as_str().expect("file");
    assert!(lost.contains("plain/t.lance/data/"), "{found:?}");
    assert_eq!(findings(&done.json(), "u.lance"), Vec::<Value>::new());
    let of_source = findings(&done.json(), "t.lance");
    assert!(
        of_source.iter().any(|f| f["branch"] == "dev"),
        "{of_source:?}"
    );
}

/// Cancelled is no answer.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_cancelled_between_requests() {
    let lake = lake();
    let store = lake.store().await;
    let cancel = Oversight::default();
    cancel.cancel();
    let options = AuditOptions {
        deep: true,
        cancel: &cancel,
        progress: &|_, _, _| {},
    };
    let mut auditor = Auditor::new(&store, options);
    let records = auditor.records().await.expect_err("cancelled");
    let target = Target::Pinned("t".parse().expect("name"));
    let table = auditor.table(&target).await.expect_err("cancelled");
    for error in [records, table] {
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    }
}
