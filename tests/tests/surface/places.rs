//! What is whose: a store's tables and files are its own, however they are named, and what stands beside them is nobody's.

use crate::cli::{lake, plain_directory};
use crate::version_files;
use squire_engine::error::ErrorKind;
use squire_engine::maintenance::{CleanupPolicies, Oversight, Reindexing, Retention, Target};
use squire_engine::store::{Store, StoreOptions};
use squire_tests::Lake;
use std::path::Path;
use std::time::Duration;

/// A table of a store, named by its own URI, as someone does who does not know of the store.
#[test]
fn a_tables_own_directory_inside_a_store_is_still_the_stores() {
    let lake = lake(2);
    let pinned = format!("{}/t.lance", lake.uri);
    // Maintained as a plain table, its HEAD would run ahead of the pin; the store's pass then publishes it.
    let done = lake.run(&["optimize", &pinned, "--json"]);
    assert!(matches!(done.code, Some(0 | 3)), "{done:?}");
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
    assert_eq!(lake.table_status("t", "rows"), 2);
}

/// By a link, too: its versions are those that the store's readers and keeps need.
#[test]
fn a_link_to_a_table_of_a_store_is_still_the_stores() {
    let lake = lake(3);
    lake.run(&["keep", &lake.uri, "before"]).ok();
    let table = Path::new(&lake.uri).join("t.lance");
    let before = version_files(&table);
    let places = lake.path("places");
    std::fs::create_dir(&places).expect("a directory");
    let link = places.join("k.lance");
    std::os::unix::fs::symlink(&table, &link).expect("a link");
    let (places, link) = (places.to_string_lossy(), link.to_string_lossy());
    for command in [
        &["optimize"][..],
        &["reindex"],
        &["cleanup", "--retention", "1h"],
    ] {
        let mut args = vec![command[0], &*link];
        args.extend(&command[1..]);
        let done = lake.run(&args);
        assert!(matches!(done.code, Some(1 | 3)), "{done:?}");
        let said = done.stdout + &done.stderr;
        assert!(said.contains("belongs to the store"), "{said}");
    }
    lake.run(&["daemon", &*places, "--once"])
        .failed(1, "a link to a table of the store");
    assert_eq!(version_files(&table), before);
    lake.assert_at_rest();
}

/// Whoever may put a link into a watched directory does not choose what else is rewritten and cleaned up.
#[test]
fn a_link_that_leads_out_of_a_watched_directory_is_passed_over() {
    let lake = lake(20);
    let (outside, inside) = (plain_directory(&lake), lake.path("watched"));
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(&outside)
        .arg(&inside)
        .status();
    assert!(copied.expect("cp").success());
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, inside.join(name)).expect("a link");
    };
    link(&format!("{outside}/t.lance"), "far.lance");
    link("../plain/t.lance", "near.lance");
    link("../plain/../plain", "folder");
    link("/proc/self/root", "root.lance");
    let config = lake.path("eager.toml");
    let eager = "[policy]\nmin_candidate_fragments = 2\nretention = \"1h\"\nmin_versions = 1\ncleanup.enabled = true\n";
    std::fs::write(&config, eager).expect("written");
    let config = config.to_string_lossy();
    let before = squire_tests::tree(Path::new(&outside));
    let inside = inside.to_string_lossy();
    for command in [
        &["optimize"][..],
        &["reindex"],
        &["cleanup", "--min-versions", "1"],
        &["recover"],
        &["daemon", "--once"],
    ] {
        let mut args = vec![command[0], &*inside, "--config", &*config];
        args.extend(&command[1..]);
        lake.run(&args).ok();
    }
    let shown = lake.run(&["status", &inside, "--json"]).ok().json();
    assert_eq!(shown["tables"].as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(shown["tables"][0]["fragments"], 1, "{shown}");
    assert_eq!(
        shown["skipped"].as_array().map(Vec::len),
        Some(4),
        "{shown}"
    );
    for passed in shown["skipped"].as_array().expect("links") {
        let why = passed["reason"].as_str().expect("why");
        assert!(why.contains("place of its own"), "{passed}");
    }
    assert_eq!(squire_tests::tree(Path::new(&outside)), before);
}

/// A root may have become a store since it was connected to, and so may a folder below it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stores_tables_are_never_maintained_as_plain_ones() {
    let lake = lake(2);
    let table = Path::new(&lake.uri).join("t.lance");
    let before = version_files(&table);
    let above = Path::new(&lake.uri).parent().expect("a directory above");
    let above = above.to_string_lossy();
    for (root, path) in [(lake.uri.as_str(), "t.lance"), (&*above, "lake/t.lance")] {
        let store = Store::connect(root, StoreOptions::default()).await;
        let store = store.expect("a directory");
        let everything = CleanupPolicies::from(Retention {
            age: Duration::ZERO,
            versions: 1,
        });
        let planned = store.plan_plain_cleanup(path, &everything).await;
        assert_eq!(planned.err().map(|e| e.kind()), Some(ErrorKind::Refused));
        let (target, unwatched) = (Target::Plain(path.to_owned()), Oversight::default());
        let run = store
            .reindex(&target, &Reindexing::default(), &unwatched)
            .await;
        let refused = run.expect_err("a store's table");
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        assert!(refused.to_string().contains(&lake.uri), "{refused}");
    }
    assert_eq!(version_files(&table), before);
    lake.assert_at_rest();
}

/// Each would be taken for a part of what stands there, or for its waste.
#[test]
fn nothing_is_made_inside_a_table_or_a_store() {
    let lake = lake(1);
    let directory = plain_directory(&lake);
    for inside in ["t.lance", "t.lance/data", "t.lance/new/store"] {
        let uri = format!("{directory}/{inside}");
        lake.run(&["init", &uri]).failed(3, "a Lance table");
        assert!(!Path::new(&uri).join("_squire").exists());
    }
    std::os::unix::fs::symlink(&lake.uri, lake.path("link")).expect("a link");
    let linked = lake.path("link/new").to_string_lossy().into_owned();
    let as_objects = format!("file-object-store://{}/new", lake.uri);
    for inside in [format!("{}/new/store", lake.uri), linked, as_objects] {
        lake.run(&["init", &inside]).failed(3, "is in a store");
        assert!(!Path::new(&inside).exists());
    }
    let linked = lake.path("link/spool").to_string_lossy().into_owned();
    for spool in [
        lake.uri.clone(),
        format!("{}/spool", lake.uri),
        format!("{}/new/spool", lake.uri),
        linked,
    ] {
        let agent = ["agent", &lake.uri, "--spool", &spool, "--until-empty"];
        lake.run(&agent).failed(3, "beside it");
        assert!(!Path::new(&spool).join("incoming").exists());
    }
    let file = lake.path("schema.json").to_string_lossy().into_owned();
    for command in [&["init", &file][..], &["status", &file]] {
        lake.run(command).failed(2, "is a file, not a directory");
    }
    let odd = |name: &str| lake.path(name).to_string_lossy().into_owned();
    std::os::unix::fs::symlink("turn", lake.path("turn")).expect("a link");
    for (uri, why) in [
        (odd("schema.json/x"), "leads through a file"),
        (odd("turn/x"), "a link that leads to itself"),
        (odd(&"x".repeat(300)), "too long"),
        (odd("a\nb"), "control characters"),
    ] {
        let told = lake.run(&["init", &uri]).failed(2, why).stderr;
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    let spaced = format!("file://{}", odd("two%20words"));
    lake.run(&["init", &spaced]).ok();
    assert!(lake.path("two words/_squire").is_dir());
    lake.assert_at_rest();
}

/// The manifest's versions and the commit log are kept by the store's rules, whatever command is pointed at them.
#[test]
fn the_files_of_a_store_are_no_location() {
    let lake = lake(1);
    let inside = |path: &str| format!("{}/_squire{path}", lake.uri);
    std::os::unix::fs::symlink(inside(""), lake.path("link")).expect("a link");
    let manifest = Path::new(&lake.uri).join("_squire/manifest.lance");
    let before = version_files(&manifest);
    for location in [
        inside(""),
        inside("/"),
        inside("/manifest.lance"),
        inside("/commits.lance"),
        inside("/store"),
        lake.path("link").to_string_lossy().into_owned(),
        lake.path("link/manifest.lance")
            .to_string_lossy()
            .into_owned(),
    ] {
        for command in [
            &["init"][..],
            &["status"],
            &["plan"],
            &["optimize"],
            &["reindex"],
            &["cleanup", "--retention", "1h"],
            &["verify"],
            &["log"],
            &["recover"],
        ] {
            let mut args = vec![command[0], &location];
            args.extend(&command[1..]);
            lake.run(&args).failed(3, "files of a store");
        }
        lake.run(&["check", &location])
            .failed(1, "files of a store");
    }
    let config = lake.path("inside.toml");
    let text = format!("[[watch]]\nuri = \"{}\"\n", inside("/manifest.lance"));
    std::fs::write(&config, text).expect("written");
    let config = config.to_string_lossy();
    let once = ["daemon", "--once", "--config", &config];
    for command in [&["config", "check", &config][..], &once] {
        lake.run(command).failed(2, "inside.toml:2:");
    }
    assert_eq!(version_files(&manifest), before);
    lake.assert_at_rest();
}

/// Tables in a store's directory that it does not know are nobody's: every look says so. Its own are not among them,
/// wherever they stand, nor is one that a writer is making.
#[test]
fn plain_tables_beside_those_of_a_store_are_named() {
    let lake = lake(1);
    let directory = plain_directory(&lake);
    let told = "t.lance: skipped: a table that this store does not know";
    let made = lake.run(&["init", &directory]).ok().stdout;
    assert!(made.contains(told), "{made}");
    assert!(made.contains("squire create"), "{made}");
    for command in [
        &["status"][..],
        &["plan"],
        &["optimize"],
        &["optimize", "--dry-run"],
        &["reindex"],
        &["cleanup"],
        &["cleanup", "--dry-run"],
    ] {
        let mut args = vec![command[0], &directory];
        args.extend(&command[1..]);
        let said = lake.run(&args).ok().stdout;
        assert_eq!(said.matches(told).count(), 1, "{command:?}: {said}");
        args.push("--json");
        let said = lake.run(&args).ok().json();
        assert_eq!(said["skipped"][0]["path"], "t.lance", "{command:?}");
    }
    let once = lake.run(&["daemon", &directory, "--once"]).ok().stderr;
    assert_eq!(once.matches("does not know").count(), 1, "{once}");
    // Nobody asked it to stop.
    assert!(!once.contains("handed back"), "{once}");

    // The plain name is taken, so the store's own stands under another.
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    let create = |table| ["create", &directory, table, "--schema", &schema].map(str::to_owned);
    let own = create("t");
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    lake.run(&own).ok();
    let other = create("u");
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let mut slow = lake.with_seam("publish.before_commit=1*return(stop)", &other);
    slow.wait_stopped();
    let beside = |lake: &Lake| {
        let said = lake.run(&["status", &directory, "--json"]).ok().json();
        let skipped = said["skipped"].as_array().expect("a list").clone();
        skipped
            .iter()
            .map(|s| s["path"].to_string())
            .collect::<Vec<_>>()
    };
    assert!(Path::new(&directory).join("u.lance/_versions").exists());
    assert_eq!(beside(&lake), ["\"t.lance\""]);
    slow.resume().ok();
    assert_eq!(beside(&lake), ["\"t.lance\""]);
}

#[test]
fn a_table_cannot_take_a_reserved_name() {
    let lake = lake(1);
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    for name in ["__manifest", "__t", "_squire"] {
        let create = ["create", &lake.uri, name, "--schema", &schema];
        lake.run(&create).failed(2, "__ or _squire");
    }
    lake.run(&["create", &lake.uri, "_t", "--schema", &schema])
        .ok();
    lake.assert_at_rest();
}

/// Two processes create one table: one makes it, the other is told that it exists, wherever they met.
#[test]
fn crash_creates_of_one_table_meet() {
    let lake = Lake::with_tables(&["t"]);
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    for seam in [
        "write.after_stage",
        "write.after_scan",
        "sidecar.after_put",
        "write.before_commit_table",
        "commit.before_put",
    ] {
        let table = seam.replace('.', "_");
        let create = ["create", &lake.uri, &table, "--schema", &schema];
        let mut slow = lake.with_seam(&format!("{seam}=1*return(stop)"), &create);
        slow.wait_stopped();
        lake.run(&create).ok();
        slow.resume().failed(3, "exists already");
        assert_eq!(lake.table_status(&table, "rows"), 0);
    }
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
}
