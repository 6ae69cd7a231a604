//! `squire replay`: what a policy would have done, against what happened.

use serde_json::Value;
use squire_tests::Lake;
use std::path::Path;

/// A store whose table t has a history: 40 commits, a run of maintenance after 30 of them, and one dead row in ten of what came last.
fn with_history() -> Lake {
    let lake = Lake::with_tables(&["t"]);
    let write = |ids: std::ops::Range<i64>| {
        for id in ids {
            let rows = lake.csv(
                "rows.csv",
                (id * 10..id * 10 + 10).map(|i| (i, "x".to_owned())),
            );
            lake.run(&["write", &lake.uri, "t", &rows]).ok();
        }
    };
    write(0..30);
    lake.run(&["optimize", &lake.uri]).ok();
    write(30..40);
    lake.run(&[
        "delete",
        &lake.uri,
        "t",
        "--where",
        "id >= 300 AND id % 10 = 0",
    ])
    .ok();
    lake
}

/// Every file below `root`, with its length.
fn files(root: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<(String, u64)> = walkdir(root);
    files.sort();
    files
}

fn walkdir(root: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(root).expect("a directory").flatten();
    let below = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => walkdir(&path),
        path => vec![(
            path.display().to_string(),
            entry.metadata().expect("a file").len(),
        )],
    });
    below.collect()
}

#[test]
fn replay_tells_what_a_policy_would_have_done_to_a_real_history() {
    let lake = with_history();
    let plain = crate::cli::plain_directory(&lake);
    let file = lake.path("new.toml").to_string_lossy().into_owned();
    let played = |uri: &str, text: &str| {
        std::fs::write(&file, text).expect("written");
        let replay = ["replay", uri, "--policy", &file];
        let shown = lake.run(&replay).ok().stdout;
        let json = lake.run(&[&replay[..], &["--json"]].concat()).ok().json();
        (shown, json["tables"][0]["replay"].clone())
    };
    // Manifests alone are asked: there may be no data to read.
    for uri in [lake.uri.as_str(), plain.as_str()] {
        let data = Path::new(uri).join("t.lance/data");
        std::fs::rename(&data, lake.path("away")).expect("moved");
        let before = files(Path::new(uri));
        let (shown, eager) = played(uri, "[policy]\nmin_candidate_fragments = 4\n");
        assert_eq!(eager["happened"]["compactions"], 1, "{eager:#}");
        assert_eq!(eager["happened"]["runs"][0]["fragments"], 30, "{eager:#}");
        assert_eq!(eager["happened"]["fragments_now"], 11, "{eager:#}");
        let runs = eager["policy"]["runs"].as_array().expect("runs");
        assert!(runs.len() > 3, "{eager:#}");
        // A new table is version 1, and the fourth row of files version 5.
        assert_eq!(runs[0]["version"], 5, "{eager:#}");
        assert_eq!(runs[0]["fragments"], 4, "{eager:#}");
        assert!(
            shown.contains("4 candidate fragments, threshold 4") && shown.contains("happened"),
            "{shown}"
        );
        let (shown, lazy) = played(
            uri,
            "[policy]\nmin_candidate_fragments = 1000\nmax_deleted_ratio = 1\n",
        );
        assert_eq!(lazy["policy"]["compactions"], 0, "{lazy:#}");
        assert_eq!(lazy["policy"]["fragments_now"], 40, "{lazy:#}");
        assert!(shown.contains("bytes rewritten"), "{shown}");
        let read = |of: &Value, who: &str| of[who]["fragments_mean"].as_f64().expect("a number");
        assert!(read(&lazy, "policy") > read(&eager, "policy"));
        // What happened is the same, whatever is played; its mean goes on with the clock.
        assert_eq!(lazy["happened"]["runs"], eager["happened"]["runs"]);
        assert_eq!(files(Path::new(uri)), before, "nothing is written");
        std::fs::rename(lake.path("away"), &data).expect("moved back");
    }
    // The policy is a table's own; what is wrong with the file is told.
    let (_, own) = played(
        &lake.uri,
        "[[table]]\nname = \"t*\"\nmin_candidate_fragments = 4\n",
    );
    assert!(own["policy"]["compactions"].as_u64() > Some(3), "{own:#}");
    std::fs::write(&file, "[policy]\nretentoin = 1\n").expect("written");
    lake.run(&["replay", &lake.uri, "--policy", &file])
        .failed(2, "new.toml:2");
}

/// What stands in front of a gap is left out: what led over it is not known any more.
#[test]
fn replay_begins_behind_the_last_gap() {
    let lake = with_history();
    let versions = Path::new(&lake.uri).join("t.lance/_versions");
    let manifest = |v: u64| versions.join(format!("{}.manifest", u64::MAX - v));
    std::fs::remove_file(manifest(20)).expect("removed");
    let json = lake.run(&["replay", &lake.uri, "--json"]).ok().json();
    let table = &json["tables"][0];
    assert_eq!(table["older_versions"], 19, "{table:#}");
    assert_eq!(table["replay"]["from_version"], 21, "{table:#}");
    assert_eq!(table["replay"]["happened"]["runs"][0]["fragments"], 30);
    let shown = lake.run(&["replay", &lake.uri]).ok().stdout;
    assert!(shown.contains("19 older versions"), "{shown}");
}
