//! Bad input and full disks: a clear error that names the thing, the right exit code, nothing committed, and nothing
//! left behind that a daemon pass does not remove.

use crate::{assert_no_litter, error_message};
use lance::Dataset;
use squire_tests::{Done, Lake, tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Tables `t` and `u` (id, value) with key id, and `nokey` with none; a row in each.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t", "u"]);
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    lake.run(&["create", &lake.uri, "nokey", "--schema", &schema])
        .ok();
    let seed = lake.csv("seed.csv", [(1, "seed".to_owned())]);
    for table in ["t", "u", "nokey"] {
        lake.run(&["write", &lake.uri, table, &seed]).ok();
    }
    lake
}

fn file(lake: &Lake, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = lake.path(name);
    fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    fs::write(&path, content).expect("file");
    path.to_string_lossy().into_owned()
}

/// Runs `args`, for people and for machines: it must fail with `code` and name `texts`, and the store must be to the
/// file what it was.
pub(crate) fn refused(lake: &Lake, args: &[&str], code: i32, texts: &[&str]) -> Done {
    let root = Path::new(&lake.uri);
    let before = tree(root);
    let done = lake.run(args);
    assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
    assert_eq!(done.stdout, "", "{args:?}: an error is not an answer");
    for text in texts {
        assert!(done.stderr.contains(text), "{args:?}: {text:?}: {done:?}");
    }
    let json = lake.run(&[args, &["--json"]].concat());
    assert_eq!(json.code, Some(code), "{args:?} --json: {json:?}");
    let message = error_message(&json);
    for text in texts {
        assert!(message.contains(text), "{args:?}: {text:?} in {message}");
    }
    let after = tree(root);
    let left: Vec<&PathBuf> = after.symmetric_difference(&before).collect();
    assert!(left.is_empty(), "{args:?} changed the store: {left:?}");
    done
}

#[test]
fn a_schema_that_does_not_match_is_refused() {
    let lake = lake();
    let cases = [
        ("type.csv", "id,value\nx,a\n", vec!["type.csv:2", "Int64"]),
        (
            "type.ndjson",
            "{\"id\":\"x\"}\n",
            vec!["type.ndjson:1", "id"],
        ),
        ("missing.csv", "value\na\n", vec!["missing.csv", "`id`"]),
        (
            "extra.csv",
            "id,value,extra\n2,a,b\n",
            vec!["extra.csv", "`extra`"],
        ),
        (
            "null.csv",
            "id,value\n2,a\n,b\n",
            vec!["null.csv:3", "`id`"],
        ),
        ("twice.csv", "id,id\n2,3\n", vec!["twice.csv", "`id`"]),
        ("torn.csv", "id,value\n2\n", vec!["torn.csv:2"]),
        (
            "torn.ndjson",
            "{\"id\":2,\"value\":\"a\"}\n{\"id\":",
            vec!["torn.ndjson:2"],
        ),
    ];
    for (name, content, texts) in cases {
        let path = file(&lake, name, content);
        refused(&lake, &["write", &lake.uri, "t", &path], 2, &texts);
        for mode in ["merge", "overwrite"] {
            let args = ["write", &lake.uri, "t", &path, "--mode", mode];
            refused(&lake, &args, 2, &texts);
        }
        // A good file beside it does not help it.
        let good = lake.csv("good.csv", [(7, "good".to_owned())]);
        refused(&lake, &["write", &lake.uri, "t", &good, &path], 2, &texts);
    }
    lake.assert_at_rest();
}

#[test]
fn a_key_that_is_missing_null_or_twice_is_refused() {
    let lake = lake();
    let merge = |table: &str, path: &str, key: Option<&str>, texts: &[&str]| {
        let mut args = vec!["write", &lake.uri, table, path, "--mode", "merge"];
        args.extend(key.iter().flat_map(|key| ["--key", key]));
        refused(&lake, &args, 2, texts);
    };
    let good = lake.csv("good.csv", [(7, "good".to_owned())]);
    merge("nokey", &good, None, &["nokey", "--key"]);
    merge("nokey", &good, Some("zz"), &["nokey", "zz"]);
    let null = file(&lake, "null.ndjson", "{\"id\":2}\n{\"id\":3}\n");
    let texts = ["null.ndjson:1", "lacks `value` of table nokey"];
    merge("nokey", &null, Some("value"), &texts);
    let twice = file(&lake, "twice.csv", "id,value\n5,a\n6,b\n5,c\n");
    merge("t", &twice, None, &["table t", "id = 5", "twice"]);
    let (one, two) = (
        lake.csv("one.csv", [(5, "a".to_owned())]),
        lake.csv("two.csv", [(5, "b".to_owned())]),
    );
    let args = ["write", &lake.uri, "t", &one, &two, "--mode", "merge"];
    refused(&lake, &args, 2, &["table t", "id = 5", "twice"]);

    // The same in a batch directory, where deletes by key exist.
    for (mode, rows) in [("merge", "id,value\n5,a\n5,c\n"), ("delete", "id\n5\n5\n")] {
        let batch = format!("batch-{mode}");
        file(&lake, &format!("{batch}/t.1.csv"), rows);
        let settings = format!("[tables.t]\nmode = \"{mode}\"\n");
        file(&lake, &format!("{batch}/batch.toml"), settings);
        let dir = lake.path(&batch).to_string_lossy().into_owned();
        refused(
            &lake,
            &["commit", &lake.uri, &dir],
            2,
            &["table t", "id = 5"],
        );
    }
    lake.assert_at_rest();
}

/// A merge replaces whole rows: what the input does not have would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_makes_no_column_null_that_its_input_lacks() {
    let lake = lake();
    let keys = file(&lake, "keys.csv", "id\n1\n9\n");
    let objects = file(&lake, "o.ndjson", "{\"id\":1,\"value\":null}\n{\"id\":9}\n");
    let told = ["lacks `value` of table t", "--default value="];
    for (path, at) in [(&keys, "keys.csv: "), (&objects, "o.ndjson:2: ")] {
        let args = ["write", &lake.uri, "t", path, "--mode", "merge"];
        refused(&lake, &args, 2, &[at, told[0], told[1]]);
    }
    file(&lake, "batch/t.1.csv", "id\n1\n9\n");
    let settings = "[tables.t]\nmode = \"merge\"\n";
    file(&lake, "batch/batch.toml", settings);
    let dir = lake.path("batch").to_string_lossy().into_owned();
    refused(&lake, &["commit", &lake.uri, &dir], 2, &told);
    let given = format!("{settings}[tables.t.defaults]\nvalue = \"new\"\n");
    file(&lake, "batch/batch.toml", given);
    lake.run(&["commit", &lake.uri, &dir]).ok();
    assert!(lake.ids("t").await.contains(&9));
    // Nothing is null, of texts, too; a text without letters has quotes.
    for (default, counted) in [("value=", "value IS NULL"), ("value=\"\"", "value = ''")] {
        let args = [
            "write",
            &lake.uri,
            "t",
            &keys,
            "--mode",
            "merge",
            "--default",
            default,
        ];
        lake.run(&args).ok();
        let store = lake.store().await;
        let snapshot = store.load().await.expect("a snapshot");
        let table = store.read(&snapshot, &"t".parse().expect("a name")).await;
        let rows = table.expect("t").count_rows(Some(counted.to_owned())).await;
        assert_eq!(rows.expect("a count"), 2, "{counted}");
    }
}

/// Of the rows to delete by key only the key counts: a file of whole rows serves as well as a list of keys.
#[tokio::test(flavor = "multi_thread")]
async fn whole_rows_can_name_what_to_delete() {
    let lake = lake();
    let rows = lake.csv("rows.csv", (10..14).map(|id| (id, format!("v{id}"))));
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    file(&lake, "batch/t.1.csv", "id,value\n10,v10\n12,other\n");
    file(&lake, "batch/batch.toml", "[tables.t]\nmode = \"delete\"\n");
    let dir = lake.path("batch").to_string_lossy().into_owned();
    lake.run(&["commit", &lake.uri, &dir]).ok();
    assert_eq!(lake.ids("t").await, [1, 11, 13]);
}

/// The tables of a batch are checked before any of them is staged: one that cannot be committed leaves no data files
/// of the others.
#[test]
fn a_batch_with_one_bad_table_leaves_no_files_of_the_good_ones() {
    let lake = lake();
    file(&lake, "batch/t.1.csv", "id,value\n50,a\n51,c\n");
    file(&lake, "batch/u.1.csv", "id,value\n5,a\n5,c\n");
    file(&lake, "batch/batch.toml", "[tables.u]\nmode = \"merge\"\n");
    let dir = lake.path("batch").to_string_lossy().into_owned();
    refused(
        &lake,
        &["commit", &lake.uri, &dir],
        2,
        &["table u", "id = 5"],
    );
    file(
        &lake,
        "predicate/batch.toml",
        "[tables.u]\nmode = \"delete\"\nwhere = \"zz = 1\"\n",
    );
    file(&lake, "predicate/t.1.csv", "id,value\n50,a\n51,c\n");
    let dir = lake.path("predicate").to_string_lossy().into_owned();
    refused(&lake, &["commit", &lake.uri, &dir], 2, &["table u", "zz"]);
}

#[test]
fn an_unknown_table_or_a_file_that_cannot_be_read_is_refused() {
    let lake = lake();
    let good = lake.csv("good.csv", [(7, "good".to_owned())]);
    let write = |path: &str, texts: &[&str]| {
        refused(&lake, &["write", &lake.uri, "t", path], 2, texts);
    };
    let unknown: [&[&str]; 4] = [
        &["write", &lake.uri, "none", &good],
        &["delete", &lake.uri, "none", "--where", "id = 1"],
        &["index", &lake.uri, "none", "id", "--type", "btree"],
        &["optimize", &lake.uri, "--table", "none"],
    ];
    for args in unknown {
        refused(&lake, args, 1, &["none", "nokey, t, u"]);
    }
    for name in ["../t", "t.lance", "", "9t"] {
        let args = ["write", &lake.uri, name, &good];
        refused(&lake, &args, 2, &["is not a table name"]);
    }
    let missing = lake.path("missing.csv").to_string_lossy().into_owned();
    write(&missing, &["missing.csv", "cannot be read"]);
    let cut = file(
        &lake,
        "cut.parquet",
        b"PAR1\x15\x04\x15\x10\x15\x14L\x15\x02",
    );
    write(&cut, &["cut.parquet"]);
    let empty = file(&lake, "empty.parquet", "");
    write(&empty, &["empty.parquet"]);
    let cut = file(&lake, "cut.arrow", b"ARROW1\0\0\xff\xff\xff\xff");
    write(&cut, &["cut.arrow"]);
    let bytes = file(&lake, "bytes.csv", b"id,value\n7,\xff\xfe\n");
    write(&bytes, &["bytes.csv"]);
    let extension = file(&lake, "rows.txt", "id,value\n7,a\n");
    write(&extension, &["rows.txt", "extension", ".parquet"]);
    let none = file(&lake, "rows", "id,value\n7,a\n");
    write(&none, &["rows", "extension"]);
    for name in ["dir.csv", "dir.parquet", "dir.ndjson"] {
        fs::create_dir(lake.path(name)).expect("directory");
        write(&lake.path(name).to_string_lossy(), &[name]);
    }
    let twice = ["create", &lake.uri, "t", "--like", &good];
    refused(&lake, &twice, 3, &["table t exists"]);
    let key = ["create", &lake.uri, "new", "--like", &good, "--key", "zz"];
    refused(&lake, &key, 2, &["new", "zz"]);
    let schema = file(&lake, "s.json", r#"[{"name":"a","type":"int"}]"#);
    let schema = ["create", &lake.uri, "new", "--schema", &schema];
    refused(&lake, &schema, 2, &["s.json", "int"]);
    lake.assert_at_rest();
}

#[test]
fn a_predicate_that_does_not_fit_is_refused() {
    let lake = lake();
    let cases = [
        ("id = = 1", "id = = 1"),
        ("zz = 1", "zz"),
        ("", "predicate"),
        ("id", "boolean"),
        ("id = 'x'", "id = 'x'"),
        ("id = 1 and", "id = 1 and"),
        ("nosuchfunction(id)", "nosuchfunction"),
    ];
    for (predicate, text) in cases {
        let args = ["delete", &lake.uri, "t", "--where", predicate];
        refused(&lake, &args, 2, &["table t", text]);
    }
    lake.assert_at_rest();
}

/// Each fits the table as far as the planner sees, and fails over its rows.
#[test]
fn a_predicate_that_cannot_run_is_bad_input() {
    let lake = lake();
    for predicate in [
        "CAST(value AS INT) = 1",
        "id = 1/0",
        "regexp_match(value, '(((') IS NOT NULL",
        "count(id) > 0",
    ] {
        let args = ["delete", &lake.uri, "t", "--where", predicate];
        refused(&lake, &args, 2, &["table t", "predicate"]);
    }
    lake.assert_at_rest();
}

/// What stands after the end of an expression is not silently left out.
#[test]
fn a_predicate_with_something_behind_it_is_refused() {
    let lake = lake();
    for predicate in [
        "id = 1; drop table t",
        "1 = 1; select 2",
        "id = 1 order by id",
    ] {
        let args = ["delete", &lake.uri, "t", "--where", predicate];
        refused(&lake, &args, 2, &["table t", predicate]);
    }
}

#[test]
fn a_batch_directory_that_makes_no_sense_is_refused() {
    let lake = lake();
    let rows = "id,value\n5,a\n";
    let cases: [(&str, &[(&str, &str)], i32, &[&str]); 12] = [
        ("empty", &[], 2, &["empty", "holds no data file"]),
        ("none", &[("none.csv", rows), ("t.csv", rows)], 1, &["none"]),
        (
            "key",
            &[("t.csv", rows), ("batch.toml", "foo = 1\n")],
            2,
            &["batch.toml:1", "foo"],
        ),
        (
            "mode",
            &[
                ("t.csv", rows),
                ("batch.toml", "\n[tables.t]\nmode = \"upsert\"\n"),
            ],
            2,
            &["batch.toml:3", "upsert"],
        ),
        (
            "toml",
            &[("t.csv", rows), ("batch.toml", "[tables.t\n")],
            2,
            &["batch.toml:1"],
        ),
        (
            "nofile",
            &[
                ("t.csv", rows),
                ("batch.toml", "[tables.u]\nmode = \"merge\"\n"),
            ],
            2,
            &["batch.toml:1", "tables.u"],
        ),
        (
            "where",
            &[
                ("t.csv", rows),
                ("batch.toml", "[tables.t]\nwhere = \"id = 1\"\n"),
            ],
            2,
            &["batch.toml:2", "tables.t.where"],
        ),
        (
            "nokey",
            &[
                ("nokey.csv", rows),
                ("batch.toml", "[tables.nokey]\nmode = \"delete\"\n"),
            ],
            2,
            &["nokey"],
        ),
        ("name", &[("9.csv", rows)], 2, &["9.csv", "`9`"]),
        ("part", &[("t.csv.part", rows)], 2, &["t.csv.part"]),
        ("inner", &[("t/t.csv", rows)], 2, &["inner/t"]),
        (
            "bad",
            &[("t.csv", rows), ("u.csv", "id,value\nx,y\n")],
            2,
            &["u.csv:2"],
        ),
    ];
    for (name, files, code, texts) in cases {
        fs::create_dir_all(lake.path(name)).expect("directory");
        for (path, content) in files {
            file(&lake, &format!("{name}/{path}"), content);
        }
        let dir = lake.path(name).to_string_lossy().into_owned();
        refused(&lake, &["commit", &lake.uri, &dir], code, texts);
    }
    let missing = lake.path("missing").to_string_lossy().into_owned();
    let done = lake.run(&["commit", &lake.uri, &missing]);
    assert!(matches!(done.code, Some(1 | 2)), "{done:?}");
    assert!(done.stderr.contains("missing"), "{done:?}");
    lake.assert_at_rest();
}

/// Rewrites the store's format key as a newer squire would have.
async fn upgrade(lake: &Lake) {
    let uri = format!("{}/_squire/manifest.lance", lake.uri);
    let mut manifest = Dataset::open(&uri).await.expect("manifest");
    let format = manifest.config()["format"].clone();
    assert!(format.contains("\"format\":2"), "{format}");
    let newer = format.replace("\"format\":2", "\"format\":99");
    manifest
        .update_config([("format", newer.as_str())])
        .await
        .expect("update");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_format_is_left_alone() {
    let lake = lake();
    upgrade(&lake).await;
    let good = lake.csv("good.csv", [(7, "good".to_owned())]);
    let spool = lake.path("spool").to_string_lossy().into_owned();
    fs::create_dir_all(lake.path("spool/incoming")).expect("spool");
    fs::copy(&good, lake.path("spool/incoming/t.1.csv")).expect("entry");
    let commands: [&[&str]; 14] = [
        &["write", &lake.uri, "t", &good],
        &["delete", &lake.uri, "t", "--where", "true"],
        &["create", &lake.uri, "new", "--like", &good],
        &["index", &lake.uri, "t", "id", "--type", "btree"],
        &["plan", &lake.uri],
        &["optimize", &lake.uri],
        &["cleanup", &lake.uri],
        &["recover", &lake.uri],
        &["repair", &lake.uri],
        &["status", &lake.uri],
        &["log", &lake.uri],
        &["op", &lake.uri, "01JD2Q3V5W6X7Y8Z9A0B1C2D3E"],
        &["snapshot", &lake.uri],
        &["agent", &lake.uri, "--spool", &spool, "--until-empty"],
    ];
    for args in commands {
        refused(&lake, args, 1, &["format 99", "upgrade squire"]);
    }
    assert!(lake.path("spool/incoming/t.1.csv").exists());
    let before = tree(Path::new(&lake.uri));
    let daemon = lake.daemon_pass("0s");
    assert_ne!(daemon.code, Some(0), "{daemon:?}");
    assert!(daemon.stderr.contains("upgrade squire"), "{daemon:?}");
    assert_eq!(tree(Path::new(&lake.uri)), before);
    lake.run(&["init", &lake.uri]).failed(3, "already");
}

/// A rolling upgrade: the store moves on while an old agent runs. It ends, and its batch is nobody's fault.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_ends_when_its_store_is_upgraded() {
    let lake = lake();
    let spool = lake.path("spool").to_string_lossy().into_owned();
    fs::create_dir_all(lake.path("spool/incoming")).expect("spool");
    let good = lake.csv("good.csv", [(7, "good".to_owned())]);
    fs::copy(&good, lake.path("spool/incoming/t.1.csv")).expect("entry");
    let args = ["agent", &lake.uri, "--spool", &spool, "--listen", "off"];
    let mut agent = lake.with_seam("agent.after_claim=return(stop)", &args);
    agent.wait_stopped();
    upgrade(&lake).await;
    agent.resume().failed(1, "upgrade squire");
    let rejected = tree(&lake.path("spool/rejected"));
    assert!(rejected.is_empty(), "rejected: {rejected:?}");
    assert!(tree(&lake.path("spool/done")).is_empty());
    let claims = tree(&lake.path("spool/claimed"));
    assert!(
        claims.iter().any(|p| p.ends_with("t.1.csv")),
        "the batch waits for a newer agent: {claims:?}"
    );
}

#[test]
fn a_sidecar_of_a_newer_format_is_left_alone() {
    let lake = lake();
    let op = "01JD2Q3V5W6X7Y8Z9A0B1C2D3E";
    let sidecar = Path::new(&lake.uri).join(format!("_squire/recovery/{op}.json"));
    fs::create_dir_all(sidecar.parent().expect("parent")).expect("directory");
    fs::write(&sidecar, r#"{"format":99,"new":"shape"}"#).expect("sidecar");
    let report = lake.run(&["recover", &lake.uri, "--grace", "0s", "--json"]);
    assert_eq!(report.code, Some(1), "{report:?}");
    let failed = report.json()["failed"].to_string();
    assert!(failed.contains(op), "{failed}");
    assert!(failed.contains("format 99") && failed.contains("upgrade squire"));
    // It does not stand in the way of others, but nothing that it might need is removed.
    lake.csv("good.csv", [(7, "good".to_owned())]);
    let good = lake.path("good.csv").to_string_lossy().into_owned();
    lake.run(&["write", &lake.uri, "t", &good]).ok();
    refused(
        &lake,
        &["cleanup", &lake.uri],
        1,
        &[op, "format 99", "upgrade squire"],
    );
    lake.daemon_pass("0s");
    assert!(sidecar.exists(), "the sidecar was taken away");
    lake.run(&["recover", &lake.uri, "--grace", "0s", "--force"]);
    assert!(sidecar.exists(), "the sidecar was forced away");
    fs::remove_file(&sidecar).expect("remove");
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
}

#[test]
fn what_is_not_a_store_is_refused() {
    let lake = lake();
    let good = lake.csv("good.csv", [(7, "good".to_owned())]);
    lake.run(&["init", &lake.uri]).failed(3, "already");
    let spool = lake.path("spool").to_string_lossy().into_owned();
    for (name, make) in [("absent", false), ("empty", true)] {
        let path = lake.path(name);
        if make {
            fs::create_dir(&path).expect("directory");
        }
        let uri = path.to_string_lossy().into_owned();
        let commands: [&[&str]; 9] = [
            &["write", &uri, "t", &good],
            &["delete", &uri, "t", "--where", "true"],
            &["recover", &uri],
            &["log", &uri],
            &["snapshot", &uri],
            &["status", &uri],
            &["plan", &uri],
            &["optimize", &uri],
            &["agent", &uri, "--spool", &spool, "--until-empty"],
        ];
        for args in commands {
            refused(&lake, args, 1, &[name, "squire init"]);
            assert!(tree(&path).is_empty(), "{args:?} wrote {:?}", tree(&path));
            assert_eq!(path.exists(), make, "{args:?} made {name}");
        }
    }
}

#[test]
fn a_squire_directory_that_is_not_ours_is_left_alone() {
    let lake = lake();
    let good = lake.csv("good.csv", [(7, "good".to_owned())]);
    let path = lake.path("theirs");
    fs::create_dir_all(path.join("_squire/nuts")).expect("directory");
    fs::write(path.join("_squire/nuts/acorn"), "theirs").expect("file");
    let before = tree(&path);
    let uri = path.to_string_lossy().into_owned();
    let commands: [&[&str]; 6] = [
        &["init", &uri],
        &["write", &uri, "t", &good],
        &["status", &uri],
        &["recover", &uri],
        &["optimize", &uri],
        &["cleanup", &uri],
    ];
    for args in commands {
        refused(&lake, args, 3, &["theirs/_squire", "manifest"]);
        assert_eq!(tree(&path), before, "{args:?} changed it");
    }
    // Whoever restores half of a store has its tables without their pins.
    fs::remove_dir_all(path.join("_squire/nuts")).expect("emptied");
    for args in commands {
        refused(&lake, args, 3, &["theirs/_squire", "manifest"]);
    }
    // A manifest.lance that some other tool made.
    let path = lake.path("other");
    fs::create_dir_all(path.join("_squire")).expect("directory");
    let table = Path::new(&lake.uri).join("t.lance");
    let to = path.join("_squire/manifest.lance");
    let copied = Command::new("cp").arg("-r").arg(table).arg(&to).status();
    assert!(copied.expect("cp").success());
    let before = tree(&path);
    let uri = path.to_string_lossy().into_owned();
    for args in [["status", &uri], ["recover", &uri]] {
        refused(&lake, &args, 3, &["not a squire manifest"]);
        assert_eq!(tree(&path), before, "{args:?} changed it");
    }
}

#[test]
fn a_place_without_conditional_puts_is_refused() {
    let lake = lake();
    let good = lake.csv("good.csv", [(7, "good".to_owned())]);
    for (uri, code) in [
        ("gs://bucket/lake", 2),
        ("az://bucket/lake", 2),
        ("s3+ddb://bucket/lake?ddbTableName=t", 2),
        ("https://example.org/lake", 2),
        ("memory://lake", 2),
        // A scheme that is known, and a place that is not safe.
        ("s3://bucket--use1-az4--x-s3/lake", 3),
    ] {
        let commands: [&[&str]; 8] = [
            &["init", uri],
            &["write", uri, "t", &good],
            &["status", uri],
            &["verify", uri],
            &["optimize", uri],
            &["cleanup", uri],
            &["log", uri],
            &["daemon", uri, "--once"],
        ];
        // What stands behind a ? may be a signature.
        let shown = uri.split('?').next().unwrap_or(uri);
        for args in commands {
            refused(&lake, args, code, &[shown, "not supported"]);
        }
    }
    refused(&lake, &["init", ""], 2, &["empty"]);
}

/// A small filesystem of its own; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, with a printed reason, where mounting is not permitted.
    fn new(size: &str) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        let why = match mount {
            Ok(done) if done.status.success() => return Some(Self(dir)),
            Ok(done) => String::from_utf8_lossy(&done.stderr).into_owned(),
            Err(e) => e.to_string(),
        };
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI must be able to mount a tmpfs: {why}"
        );
        println!("skipped: a tmpfs cannot be mounted here (needs root): {why}");
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Fills the disk but for about `room` bytes.
    fn fill(&self, room: u64) {
        let block = [0_u8; 4096];
        let mut file = fs::File::create(self.filler()).expect("filler");
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        let len = file.metadata().expect("metadata").len();
        file.set_len(len.saturating_sub(room)).expect("truncate");
    }

    /// Mounts it anew, `ro` or `rw`.
    fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        let mut mount = Command::new("mount");
        mount.args(["-o", &how]).arg(self.0.path());
        assert!(mount.status().expect("mount").success());
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let umount = Command::new("umount").arg("-l").arg(self.0.path()).status();
        drop(umount);
    }
}

/// By hand no more is begun than there is room for, and nothing is written of what is not begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_that_would_fill_the_disk_is_not_begun() {
    let Some(disk) = SmallDisk::new("16m") else {
        return;
    };
    let uri = disk.0.path().join("lake").to_string_lossy().into_owned();
    let lake = Lake::at(&uri, Vec::new());
    lake.create_tables(&["t"]);
    for n in 0..6_i64 {
        let batch = lake.batch(&format!("b{n}"), &["t"], n * 20_000..(n + 1) * 20_000);
        lake.run(&["commit", &uri, &batch]).ok();
    }
    disk.fill(300 << 10);
    let before = tree(Path::new(&uri));
    let told = "free on its disk; free some space";
    for how in [&["optimize", &uri, "--dry-run"][..], &["optimize", &uri]] {
        lake.run(how).failed(3, told);
    }
    assert_eq!(tree(Path::new(&uri)), before);
    disk.free();
    lake.run(&["optimize", &uri]).ok();
}

/// One write at every amount of room, so that each step is the one that finds the disk full: data files, the sidecar,
/// each table's version, the publish.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_commits_all_or_nothing() {
    let Some(disk) = SmallDisk::new("8m") else {
        return;
    };
    let uri = disk.0.path().join("lake").to_string_lossy().into_owned();
    let lake = Lake::at(&uri, Vec::new());
    lake.create_tables(&["t", "u"]);
    let mut expected: Vec<i64> = Vec::new();
    let (mut full, mut done_anyway) = (0, 0);
    for step in [0, 1, 2, 3, 6, 8, 9, 12, 16, 27_i64] {
        let ids = step * 100..step * 100 + 40;
        let batch = lake.batch(&format!("b{step}"), &["t", "u"], ids.clone());
        disk.fill(u64::try_from(step).expect("step") * 4096);
        let done = lake.run(&["commit", &lake.uri, &batch, "--grace", "0s", "--json"]);
        disk.free();
        match done.code {
            Some(0) => {
                done_anyway += 1;
                expected.extend(ids);
            }
            Some(1) => {
                full += 1;
                let message = error_message(&done);
                let named = message.contains("No space left on device");
                assert!(named, "room {step}: what is wrong is not said: {message}");
                assert!(message.len() < 400, "room {step}: {message}");
                let is_source = message.contains(".rs:") || message.contains("part_size");
                assert!(!is_source, "room {step}: {message}");
            }
            Some(75) => {
                full += 1;
                let message = error_message(&done);
                assert!(message.contains("space"), "room {step}: {message}");
                let op = done.json()["error"]["op"].clone();
                let op = op.as_str().expect("the operation to ask for");
                lake.daemon_pass("0s").ok();
                let outcome = lake.run(&["op", &lake.uri, op, "--json"]).ok().json();
                match outcome["outcome"].as_str() {
                    Some("committed") => expected.extend(ids),
                    Some("aborted") => {}
                    other => panic!("room {step}: {other:?}: {outcome}"),
                }
            }
            other => panic!("room {step}: {other:?}: {done:?}"),
        }
        lake.daemon_pass("0s").ok();
        for table in ["t", "u"] {
            assert_eq!(
                lake.ids(table).await,
                expected,
                "room {step}: table {table}"
            );
        }
        assert_no_litter(Path::new(&lake.uri));
    }
    assert!(full >= 3, "the disk was never full at a step that matters");
    assert!(done_anyway >= 1, "the largest room was too small");
    lake.assert_at_rest();
}

/// A disk that is full stays full however often one asks: the answer comes at once, and blames the disk alone.
#[test]
fn a_full_disk_is_said_at_once() {
    let Some(disk) = SmallDisk::new("8m") else {
        return;
    };
    let uri = disk.0.path().join("lake").to_string_lossy().into_owned();
    let lake = Lake::at(&uri, Vec::new());
    lake.create_tables(&["t", "u"]);
    let batch = lake.batch("b", &["t", "u"], 0..40);
    disk.fill(4 * 4096);
    let begun = std::time::Instant::now();
    let done = lake.run(&["commit", &lake.uri, &batch, "--json"]);
    let took = begun.elapsed();
    disk.free();
    assert!(matches!(done.code, Some(1 | 75)), "{done:?}");
    let message = error_message(&done);
    assert!(message.contains("No space left"), "{message}");
    assert!(
        !message.contains("taken by others"),
        "nobody took anything: {message}"
    );
    assert!(took.as_secs() < 15, "{took:?} until it said: {message}");
    disk.remount("ro");
    let done = lake.run(&["commit", &lake.uri, &batch, "--json"]);
    disk.remount("rw");
    let message = error_message(&done);
    assert!(message.contains("Read-only file system"), "{message}");
    assert!(message.len() < 400, "{message}");
    lake.daemon_pass("0s").ok();
    lake.assert_at_rest();
}

/// Freeing space needs no space beyond a few kilobytes, and looking needs none.
#[test]
fn a_full_disk_can_be_looked_at() {
    let Some(disk) = SmallDisk::new("8m") else {
        return;
    };
    let uri = disk.0.path().join("lake").to_string_lossy().into_owned();
    let lake = Lake::at(&uri, Vec::new());
    lake.create_tables(&["t"]);
    disk.fill(0);
    for args in [
        ["status", &lake.uri],
        ["snapshot", &lake.uri],
        ["log", &lake.uri],
        ["plan", &lake.uri],
    ] {
        lake.run(&args).ok();
    }
    disk.free();
    assert_no_litter(Path::new(&lake.uri));
    lake.assert_at_rest();
}

/// Maintained as a directory of plain tables, a store's tables would lose versions that its readers see.
#[test]
fn a_store_is_not_maintained_as_a_directory() {
    let lake = lake();
    let seed = lake.csv("more.csv", [(2, "more".to_owned())]);
    for _ in 0..20 {
        lake.run(&["write", &lake.uri, "nokey", &seed]).ok();
    }
    for kind in ["directory", "table"] {
        let text = format!(
            "[policy]\nmin_versions = 1\n[policy.cleanup]\nenabled = true\n[[watch]]\nuri = \"{}\"\nkind = \"{kind}\"\n",
            lake.uri
        );
        let config = file(&lake, "squire.toml", text);
        let before = tree(Path::new(&lake.uri));
        let done = lake.run(&["daemon", "--once", "--config", &config]);
        assert_eq!(done.code, Some(3), "{kind}: {done:?}");
        assert!(
            done.stderr.contains("is a store") && done.stderr.contains("kind = \"store\""),
            "{kind}: {done:?}"
        );
        assert_eq!(tree(Path::new(&lake.uri)), before, "{kind}");
    }
}
