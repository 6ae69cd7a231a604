//! One bad thing costs one line and stops only itself: a table, a folder, a location, a setting.

use crate::one_document;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use squire_tests::{Done, Lake, squire};
use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A lake of two tables with three commits each.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t", "u"]);
    for i in 0..3 {
        let batch = lake.batch(&format!("seed-{i}"), &["t", "u"], i..i + 1);
        lake.run(&["commit", &lake.uri, &batch]).ok();
    }
    lake
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("parent")).expect("directory");
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
}

/// Plain tables, one of them nested, beside everything that was seen to stop a whole directory.
fn bad_directory(lake: &Lake) -> PathBuf {
    let dir = lake.path("plain");
    let table = Path::new(&lake.uri).join("t.lance");
    let healthy = ["aa.lance", "zz.lance", "org/model.lance"];
    for name in healthy.iter().chain(&["empty.lance", "zeros.lance"]) {
        copy(&table, &dir.join(name));
    }
    for (name, size) in [("empty", 0), ("zeros", 4_096)] {
        let versions = dir.join(format!("{name}.lance/_versions"));
        for manifest in std::fs::read_dir(versions).expect("versions") {
            let path = manifest.expect("entry").path();
            std::fs::write(path, vec![0; size]).expect("emptied");
        }
    }
    // Nobody has the memory for the one, and nobody writes into the other.
    for name in ["endless", "pipe"] {
        let versions = dir.join(format!("{name}.lance/_versions"));
        std::fs::create_dir_all(&versions).expect("directory");
        let manifest = versions.join(format!("{}.manifest", u64::MAX - 1));
        if name == "pipe" {
            mkfifo(&manifest, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        } else {
            let file = File::create(&manifest).expect("a file");
            file.set_len(40 << 30).expect("a file with a hole");
        }
    }
    std::fs::create_dir_all(dir.join("half.lance/data")).expect("directory");
    std::fs::create_dir_all(dir.join(OsStr::from_bytes(b"\xff.lance"))).expect("directory");
    symlink(&dir, dir.join("loop")).expect("link");
    symlink("self.lance", dir.join("self.lance")).expect("link");
    dir
}

fn names(document: &Value, key: &str, of: &str) -> Vec<String> {
    let all = document[key].as_array().expect("an array").iter();
    all.map(|t| t[of].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn one_bad_table_or_folder_costs_one_line() {
    let lake = lake();
    let dir = bad_directory(&lake);
    let uri = dir.to_str().expect("utf-8");
    for command in [
        vec!["status", uri],
        vec!["plan", uri],
        vec!["optimize", uri, "--dry-run"],
        vec!["reindex", uri, "--dry-run"],
    ] {
        let people = lake.run(&command).failed(1, "half.lance: failed: ");
        for line in [
            "empty.lance: failed: ",
            "zeros.lance: failed: ",
            "endless.lance: failed: ",
            "pipe.lance: failed: ",
            "loop: skipped: ",
            "self.lance: skipped: ",
            ".lance: skipped: its name is not UTF-8",
        ] {
            let told = people.stdout.lines().filter(|l| l.contains(line)).count();
            assert_eq!(told, 1, "{command:?}: {line}: {people:?}");
        }
        // A line, or a row of a table.
        for table in ["aa.lance", "zz.lance", "org/model.lance"] {
            let names = |l: &&str| {
                l.strip_prefix(table)
                    .is_some_and(|l| l.starts_with([':', ' ']))
            };
            let told = people.stdout.lines().filter(names).count();
            assert_eq!(told, 1, "{command:?}: {table}: {people:?}");
        }
        assert!(!people.stdout.contains(".cargo/registry"), "{people:?}");
        let document = one_document(&lake.run(&[command.as_slice(), &["--json"]].concat()));
        let tables = document["tables"].as_array().expect("tables");
        let failed: Vec<&Value> = tables.iter().filter(|t| !t["error"].is_null()).collect();
        assert_eq!((tables.len(), failed.len()), (8, 5), "{document}");
        assert_eq!(names(&document, "skipped", "path").len(), 3, "{document}");
    }
    let pass = lake.run(&["daemon", uri, "--once"]);
    assert_eq!(pass.code, Some(1), "{pass:?}");
    for table in ["half.lance", "empty.lance", "zeros.lance"] {
        assert!(pass.stderr.contains(table), "{pass:?}");
    }
    for line in ["aa.lance", "zz.lance", "org/model.lance"] {
        let done = |l: &str| l.contains("maintenance was skipped") && l.contains(line);
        assert!(pass.stderr.lines().any(done), "{line}: {pass:?}");
    }
}

#[test]
fn a_table_of_a_store_that_is_gone_is_one_line() {
    let lake = lake();
    std::fs::remove_dir_all(Path::new(&lake.uri).join("t.lance")).expect("removed");
    for command in ["status", "plan"] {
        let said = lake.run(&[command, &lake.uri]).failed(1, "t: failed: ");
        let healthy = |l: &str| l.starts_with("u ") || l.starts_with("u: ");
        assert!(said.stdout.lines().any(healthy), "{said:?}");
    }
    lake.daemon_pass("1s").failed(1, "t.lance");
}

/// Runs `squire` with an endpoint in its environment.
fn with_endpoint(endpoint: &str, args: &[&str]) -> Done {
    let mut command = Command::new(squire());
    command.args(args).env("AWS_ENDPOINT", endpoint);
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "y"),
        ("AWS_REGION", "r"),
    ] {
        command.env(name, value);
    }
    command.output().expect("squire runs").into()
}

#[test]
fn a_wrong_endpoint_is_an_error_of_its_location() {
    let status = |endpoint| with_endpoint(endpoint, &["status", "s3://bucket/lake"]);
    let bare = status("127.0.0.1:9000").failed(2, "AWS_ENDPOINT");
    assert!(bare.stderr.contains("http://127.0.0.1:9000"), "{bare:?}");
    status("http://127.0.0.1:9000").failed(2, "allow_http");

    let lake = lake();
    let both = ["daemon", "s3://bucket/lake", &lake.uri, "--once"];
    let pass = with_endpoint("127.0.0.1:9000", &both).failed(1, "AWS_ENDPOINT");
    let watching = |l: &str| l.contains("watching") && l.contains(&lake.uri);
    assert!(pass.stderr.lines().any(watching), "{pass:?}");
}

#[test]
fn an_address_in_use_is_worth_another_try_and_a_bad_log_level_is_not() {
    let lake = Lake::with_tables(&["t"]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let daemon = lake.run(&["daemon", &lake.uri, "--listen", &address]);
    daemon.failed(1, "cannot listen on");
    let bogus = lake.run(&["status", &lake.uri, "--log", "bogus"]);
    bogus.failed(2, "--log = \"bogus\"");
}
