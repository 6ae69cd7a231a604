//! Keeps and leases: cleanup spares what they hold, and takes it once they are gone.

use crate::version_files;
use lance::Dataset;
use serde_json::Value;
use squire_engine::error::ErrorKind;
use squire_engine::maintenance::Retention;
use squire_tests::{Child, Lake, PATIENCE, tree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A store with table t whose row 0 is committed, and the manifest version that shows it.
fn lake() -> (Lake, u64) {
    let lake = Lake::with_tables(&["t"]);
    write(&lake, 0);
    let version = lake.status()["manifest_version"].as_u64();
    (lake, version.expect("a version"))
}

fn write(lake: &Lake, id: i64) {
    let file = lake.csv(&format!("{id}.csv"), [(id, "row".to_owned())]);
    lake.run(&["write", &lake.uri, "t", &file]).ok();
}

/// Two further commits, and a cleanup that keeps nothing but the latest snapshot.
fn move_on(lake: &Lake, ids: [i64; 2]) {
    ids.iter().for_each(|id| write(lake, *id));
    lake.clean_up();
}

fn versions(lake: &Lake) -> usize {
    version_files(&Path::new(&lake.uri).join("t.lance")).len()
}

fn leases(lake: &Lake) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(Path::new(&lake.uri).join("_squire/leases"));
    let files = listed.into_iter().flatten();
    files.map(|file| file.expect("file").path()).collect()
}

/// Waits for a state that must come.
fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn shown(lake: &Lake, args: &[&str]) -> Value {
    let args = [&["snapshot", lake.uri.as_str(), "--json"], args].concat();
    lake.run(&args).ok().json()
}

#[test]
fn a_keep_is_spared_until_it_is_let_go() {
    let (lake, version) = lake();
    let at = version.to_string();
    write(&lake, 1);
    lake.run(&["keep", &lake.uri, "first", "--at", &at]).ok();
    // Again is fine; the name for another snapshot is not.
    lake.run(&["keep", &lake.uri, "first", "--at", &at]).ok();
    lake.run(&["keep", &lake.uri, "first"])
        .failed(3, "holds manifest version");
    move_on(&lake, [2, 3]);
    assert_eq!(versions(&lake), 2, "the kept one and the latest");
    for args in [["--name", "first"], ["--at", &at]] {
        let kept = shown(&lake, &args);
        assert_eq!(kept["manifest_version"], version);
        assert_eq!(kept["tables"]["t"]["rows"], 1);
    }
    let status = lake.status();
    assert_eq!(status["holds"][0]["name"], "first");
    assert_eq!(status["holds"][0]["kind"], "keep");

    // What is below the floors and not kept may be gone; what is kept can be kept once more.
    let between = (version + 2).to_string();
    lake.run(&["keep", &lake.uri, "late", "--at", &between])
        .failed(3, "below the floor");
    lake.run(&["keep", &lake.uri, "second", "--at", &at]).ok();
    lake.run(&["unkeep", &lake.uri, "first"]).ok();
    move_on(&lake, [4, 5]);
    assert_eq!(
        shown(&lake, &["--name", "second"])["tables"]["t"]["rows"],
        1
    );
    lake.run(&["unkeep", &lake.uri, "second"]).ok();
    lake.run(&["unkeep", &lake.uri, "second"])
        .failed(1, "no keep \"second\"; there are: none");
    lake.clean_up();
    assert_eq!(versions(&lake), 1);
    lake.run(&["snapshot", &lake.uri, "--at", &at])
        .failed(1, "below the floor");
    lake.run(&["keep", &lake.uri, "a/b"])
        .failed(2, "no name of a keep");
    lake.run(&["keep", &lake.uri, "a", "--at", "999"])
        .failed(1, "no manifest version 999");
    lake.assert_at_rest();
}

#[test]
fn a_snapshot_that_is_gone_is_not_kept() {
    let (lake, version) = lake();
    let table = Path::new(&lake.uri).join("t.lance");
    let first = version_files(&table);
    write(&lake, 1);
    for file in &first {
        std::fs::remove_file(table.join("_versions").join(file)).expect("removed");
    }
    let at = version.to_string();
    lake.run(&["keep", &lake.uri, "gone", "--at", &at])
        .failed(3, "table t: version");
    lake.run(&["lease", &lake.uri, "--at", &at, "--", "true"])
        .failed(3, "table t: version");
    assert_eq!(leases(&lake), Vec::<PathBuf>::new());
}

/// Starts `squire lease` with a shell command, and waits until it runs. `$DIR` is the test's directory.
fn held(lake: &Lake, ttl: &str, script: &str) -> Child {
    let child = lake.start(&lease_args(lake, ttl, &script_of(lake, script)));
    let started = lake.path("started");
    wait_until("the command runs", || started.is_file());
    child
}

fn script_of(lake: &Lake, script: &str) -> String {
    let dir = lake.path("");
    let dir = dir.to_string_lossy();
    format!("DIR='{dir}'; touch \"$DIR/started\"; {script}")
}

fn lease_args<'a>(lake: &'a Lake, ttl: &'a str, script: &'a str) -> [&'a str; 8] {
    let uri = lake.uri.as_str();
    ["lease", uri, "--ttl", ttl, "--", "sh", "-c", script]
}

/// Runs until `go` is there.
const UNTIL_GO: &str = "while [ ! -e \"$DIR/go\" ]; do sleep 0.05; done";

fn go(lake: &Lake) {
    std::fs::write(lake.path("go"), "").expect("file");
}

#[test]
fn a_lease_holds_while_its_command_runs() {
    let (lake, version) = lake();
    let squire = squire_tests::squire();
    let look = format!(
        "{UNTIL_GO}; '{}' snapshot \"$SQUIRE_LEASE_STORE\" --at \"$SQUIRE_LEASE_MANIFEST_VERSION\" --json > \"$DIR/seen\"; exit 7",
        squire.display()
    );
    let child = held(&lake, "1h", &look);
    move_on(&lake, [1, 2]);
    assert_eq!(versions(&lake), 2, "the leased one and the latest");
    assert_eq!(lake.status()["holds"][0]["kind"], "lease");
    go(&lake);
    child.wait().failed(7, "");
    let seen = std::fs::read_to_string(lake.path("seen")).expect("the command looked");
    let seen: Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(seen["manifest_version"], version);
    assert_eq!(seen["tables"]["t"]["rows"], 1);
    assert_eq!(leases(&lake), Vec::<PathBuf>::new());
    lake.clean_up();
    assert_eq!(versions(&lake), 1);
    lake.assert_at_rest();
}

#[test]
fn a_lease_is_renewed_and_a_dead_one_expires() {
    let (lake, _) = lake();
    let mut child = held(&lake, "2s", UNTIL_GO);
    let first = leases(&lake);
    wait_until("it is renewed twice", || {
        let now = leases(&lake);
        now.len() == 1 && now != first && {
            let second = now;
            wait_until("it is renewed again", || {
                let now = leases(&lake);
                now.len() == 1 && now != second
            });
            true
        }
    });
    move_on(&lake, [1, 2]);
    assert_eq!(versions(&lake), 2, "the leased one and the latest");
    child.signal(nix::sys::signal::Signal::SIGKILL);
    drop(child);
    wait_until("cleanup takes what nobody holds any more", || {
        lake.clean_up();
        versions(&lake) == 1
    });
    assert_eq!(leases(&lake), Vec::<PathBuf>::new());
    go(&lake);
    lake.assert_at_rest();
}

#[test]
fn signals_and_exit_codes_are_passed_on() {
    let (lake, _) = lake();
    let trap = "trap 'exit 9' TERM; touch \"$DIR/ready\"; while :; do sleep 0.05; done";
    for (script, code) in [
        (trap, 9),
        ("touch \"$DIR/ready\"; exec sleep 1000", 128 + 15),
    ] {
        drop(std::fs::remove_file(lake.path("ready")));
        let mut child = held(&lake, "1h", script);
        let ready = lake.path("ready");
        wait_until("the command is ready", || ready.is_file());
        assert_eq!(leases(&lake).len(), 1);
        child.signal(nix::sys::signal::Signal::SIGTERM);
        child.wait().failed(code, "");
        assert_eq!(leases(&lake), Vec::<PathBuf>::new());
    }
    lake.run(&["lease", &lake.uri, "--", "no-such-command"])
        .failed(127, "cannot run no-such-command");
    lake.run(&["lease", &lake.uri, "--ttl", "1s", "--", "true"])
        .failed(2, "--ttl is at least 2 s");
    lake.run(&["lease", &lake.uri]).failed(2, "COMMAND");
    assert_eq!(leases(&lake), Vec::<PathBuf>::new());
}

/// A holder that dies at a seam holds for its ttl at most, and a cleanup that dies while it gives a lease up is finished by
/// the next.
#[test]
fn whoever_dies_at_a_seam_leaves_nothing_for_ever() {
    for (seam, left) in [
        ("lease.before_put", 0),
        ("lease.after_put", 1),
        ("lease.before_delete", 1),
    ] {
        let (lake, _) = lake();
        let script = script_of(&lake, "true");
        let kill = format!("{seam}=1*return(kill)");
        lake.with_seam(&kill, &lease_args(&lake, "2s", &script))
            .killed();
        assert_eq!(leases(&lake).len(), left, "{seam}");
        move_on(&lake, [1, 2]);
        if left == 1 {
            wait_until("the lease has expired", || {
                let kill = "cleanup.before_lease=1*return(kill)";
                let cleaned = lake.with_seam_in("squire-clean", kill, &[&lake.uri]);
                cleaned.wait().code.is_none()
            });
            assert_eq!(leases(&lake).len(), 1, "{seam}");
            lake.clean_up();
        }
        assert_eq!((leases(&lake).len(), versions(&lake)), (0, 1), "{seam}");
        lake.assert_at_rest();
    }
}

/// A holder that was stopped for longer than its ttl is told, whatever its clock says.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_given_up_is_told_so() {
    let (lake, _) = lake();
    let store = lake.store().await;
    let short = Duration::from_millis(1);
    let lease = store.lease(None, short, "a test").await.expect("lease");
    let renewed = store.renew_lease(&lease).await.expect("nobody looked");
    move_on(&lake, [1, 2]);
    assert_eq!(versions(&lake), 1);
    let lost = store.renew_lease(&renewed).await.expect_err("given up");
    assert_eq!(lost.kind(), ErrorKind::Expired, "{lost}");
    assert_eq!(leases(&lake), Vec::<PathBuf>::new());
}

/// A record that is no lease stops cleanup and is named; one that a power cut tore was never put.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_lease_is_named_and_a_torn_one_goes() {
    let (lake, _) = lake();
    let dir = Path::new(&lake.uri).join("_squire/leases");
    std::fs::create_dir_all(&dir).expect("folder");
    let file = dir.join("01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json");
    std::fs::write(&file, "portal").expect("file");
    let store = lake.store().await;
    let keep = Retention {
        age: Duration::ZERO,
        versions: 1,
    };
    let refused = store.plan_cleanup(&keep.into()).await.expect_err("damaged");
    let told = refused.to_string();
    assert!(told.contains("01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json"), "{told}");
    std::fs::write(&file, "{\"format\":1,\"id\"").expect("file");
    move_on(&lake, [1, 2]);
    assert_eq!((leases(&lake).len(), versions(&lake)), (0, 1));
}

/// What lies below `root` and is not Squire's own, with its size.
fn sizes(root: &Path) -> BTreeMap<String, u64> {
    let files = tree(root)
        .into_iter()
        .filter(|path| root.join(path).is_file());
    files
        .map(|path| {
            let size = root.join(&path).metadata().expect("file").len();
            (path.to_string_lossy().into_owned(), size)
        })
        .collect()
}

/// The bytes that a holding of `document` says.
fn bytes(document: &Value, kind: &str, name: &str) -> u64 {
    let holdings = document["holdings"].as_array().expect("holdings");
    let of_table = holdings.iter().filter(|h| h["table"] == "t");
    let mut named = of_table.filter(|h| h["kind"] == kind && h["name"] == name);
    let found = named
        .next()
        .unwrap_or_else(|| panic!("no {kind} {name}: {document}"));
    found["bytes"].as_u64().expect("bytes")
}

/// With a keep, a lease, a tag and a branch, each on a version of its own: the dry run names exactly what the real run
/// removes, and for each holder what would be removed without it.
#[tokio::test(flavor = "multi_thread")]
async fn the_dry_run_is_the_real_run() {
    let (mut lake, first) = lake();
    let table = Path::new(&lake.uri).join("t.lance");
    let config = lake.path("squire.toml");
    std::fs::write(&config, "[policy]\nmin_versions = 1\n").expect("configuration");
    let config = config.to_string_lossy().into_owned();
    lake.env
        .push(("SQUIRE_RETENTION".to_owned(), "0".to_owned()));
    // Every overwrite has files of its own: versions share none.
    let overwrite = |id: i64| {
        let file = lake.csv(&format!("{id}.csv"), [(id, "row".to_owned())]);
        lake.run(&["write", &lake.uri, "t", &file, "--mode", "overwrite"])
            .ok();
    };
    lake.run(&["keep", &lake.uri, "nightly", "--at", &first.to_string()])
        .ok();
    overwrite(1);
    let child = held(&lake, "1h", UNTIL_GO);
    overwrite(2);
    let mut dataset = Dataset::open(&table.to_string_lossy())
        .await
        .expect("table");
    let version = dataset.version().version;
    dataset
        .tags()
        .create("released", version)
        .await
        .expect("tag");
    overwrite(3);
    dataset.checkout_latest().await.expect("latest");
    let version = dataset.version().version;
    dataset
        .create_branch("dev", version, None)
        .await
        .expect("branch");
    (4..8).for_each(overwrite);

    let root = Path::new(&lake.uri);
    let args = ["cleanup", &lake.uri, "--config", &config, "--json"];
    let plan = || lake.run(&[&args[..], &["--dry-run"]].concat()).ok().json();
    let (before, dry) = (sizes(root), plan());
    let lease = lake.status()["holds"][1]["name"].clone();
    let lease = lease.as_str().expect("a lease").to_owned();
    let holders = [
        ("keep", "nightly"),
        ("lease", lease.as_str()),
        ("tag", "released"),
        ("branch", "dev"),
    ];
    let mut said = BTreeMap::new();
    for (kind, name) in holders {
        said.insert(kind, bytes(&dry, kind, name));
    }
    let stored = versions(&lake);
    let real = lake.run(&args).ok().json();
    assert_eq!(dry["plan"], real["plan"]);
    let listed = dry["plan"]["tables"][0]["versions"]
        .as_array()
        .expect("versions")
        .len();
    assert_eq!(versions(&lake), stored - listed, "{dry}");
    let after = sizes(root);
    let gone = |before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>| -> u64 {
        let gone = before.iter().filter(|(path, _)| !after.contains_key(*path));
        let own = |path: &str| !path.contains("/_refs/") && !path.contains("/tree/");
        gone.filter(|(path, _)| path.starts_with("t.lance/") && own(path))
            .map(|(_, size)| size)
            .sum()
    };
    assert!(gone(&before, &after) > 0);
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
    let branch = dataset.checkout_branch("dev").await.expect("the branch");
    assert_eq!(branch.count_rows(None).await.expect("its rows"), 1);

    // Without each of them goes what was said, to the byte.
    let mut before = after;
    let mut freed = |kind: &str| {
        lake.run(&args).ok();
        let after = sizes(root);
        assert_eq!(gone(&before, &after), said[kind], "{kind}");
        before = after;
    };
    lake.run(&["unkeep", &lake.uri, "nightly"]).ok();
    freed("keep");
    go(&lake);
    child.wait().ok();
    freed("lease");
    dataset.tags().delete("released").await.expect("tag");
    freed("tag");
    dataset.delete_branch("dev").await.expect("branch");
    freed("branch");
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
    lake.assert_at_rest();
}
