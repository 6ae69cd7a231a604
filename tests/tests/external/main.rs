//! Squire beside others: pylance, LanceDB, an S3 server, Prometheus and systemd.
//!
//! 1. `drift`: commits of other programs to a store's table.
//! 2. `readers`: other programs read what squire wrote.
//! 3. `s3`: the end-to-end story on an S3-compatible server.
//! 4. `metrics`: the daemon's endpoints, signals and words to systemd.
//! 5. `line`: nothing waits behind an attempt that stands.
//! 6. `zoo`: states of tables, of several releases, through every command.
//! 7. `page`: the daemon's page in a browser, and its API against its description.
//! 8. `prometheus`: alerts and dashboard, with a real Prometheus.
//! 9. `units`: what systemd says of the units.
//! 10. `package`: the Debian package and what a container holds.
//! 11. `differential`: text values, against what others read.
//! 12. `hostile`: connections that take places and say nothing.
//! 13. `building`: systemd and people, while an index is built for long.
//! 14. `shared`: several daemons on one store.
//! 15. `waits`: what does not run now, why, and until when.
//! 16. `log`: one line for each attempt, and on each line what it is about.
//! 17. `booted`: the package in a running systemd.
//! 18. `asked`: what people ask is about the store that they name.
//! 19. `newcomer`: the README's first five minutes.
//! 20. `flight`: rows by Arrow Flight, from ADBC and pyarrow.

mod asked;
mod booted;
mod building;
mod differential;
mod drift;
mod flight;
mod hostile;
mod line;
mod log;
mod metrics;
mod newcomer;
mod package;
mod page;
mod prometheus;
mod readers;
mod s3;
mod shared;
mod units;
mod waits;
mod zoo;

use serde_json::Value;
use squire_tests::Lake;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where `make test` puts what is not a system package.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    cache.join("squire")
}

/// The Python that has pylance, LanceDB and moto.
fn python() -> PathBuf {
    let python = std::env::var_os("SQUIRE_PYTHON")
        .map_or_else(|| cache().join("venv/bin/python"), PathBuf::from);
    assert!(
        python.is_file(),
        "{} is missing: `make test` sets it up (ops/setup.sh --test), or name one with SQUIRE_PYTHON",
        python.display()
    );
    python
}

/// Runs `client.py ARGS` with `input`, in the environment of `lake`'s commands.
fn client_with(lake: &Lake, args: &[&str], input: &str) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/external/client.py");
    let mut child = Command::new(python())
        .arg(script)
        .args(args)
        .envs(lake.env.iter().cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("python reads");
    drop(stdin);
    let output = child.wait_with_output().expect("python ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "client.py {args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("client.py prints JSON")
}

/// Runs `client.py ARGS`.
fn client(lake: &Lake, args: &[&str]) -> Value {
    client_with(lake, args, "")
}

/// The URI of a table, as another program names it.
fn uri(lake: &Lake, table: &str) -> String {
    format!("{}/{table}.lance", lake.uri)
}

/// Rows `(id, "tag-id")`, as [`Lake::batch`] and `client.py append` write them.
fn tagged(tag: &str, ids: std::ops::Range<i64>) -> Vec<(i64, String)> {
    ids.map(|id| (id, format!("{tag}-{id}"))).collect()
}

/// Rows as `client.py` prints them.
fn rows_in(document: &Value) -> Vec<(i64, String)> {
    let rows = document.as_array().expect("rows").iter();
    rows.map(|row| {
        let value = row[1].as_str().expect("value").to_owned();
        (row[0].as_i64().expect("id"), value)
    })
    .collect()
}

/// `count` commits of two rows each to every one of `tables`, with ids from `first` on. Returns the rows.
fn small_commits(lake: &Lake, tables: &[&str], first: i64, count: i64) -> Vec<(i64, String)> {
    let mut rows = Vec::new();
    for i in 0..count {
        let (tag, ids) = (format!("b{first}-{i}"), first + 2 * i..first + 2 * i + 2);
        let batch = lake.batch(&tag, tables, ids.clone());
        lake.run(&["commit", &lake.uri, &batch]).ok();
        rows.extend(tagged(&tag, ids));
    }
    rows
}

/// Waits until `check` gives something, or fails with what it gave last.
fn eventually<T>(what: &str, within: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) => assert!(
                Instant::now() < deadline,
                "not within {within:?}: {what}: {last}"
            ),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
