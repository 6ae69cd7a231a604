//! The end-to-end story on an S3-compatible server: moto, on loopback.

use crate::{client, client_with, eventually, python, readers, small_commits, tagged};
use serde_json::json;
use squire_engine::maintenance::Retention;
use squire_tests::{Lake, PATIENCE, loopback, squire};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// moto's server; ended when dropped.
pub(crate) struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start() -> Self {
        Self::late(Duration::ZERO)
    }

    /// One whose clock is `late`.
    pub(crate) fn late(late: Duration) -> Self {
        let port = loopback::free_port();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/external/client.py");
        let child = Command::new(python())
            .args([
                script,
                "serve",
                &port.to_string(),
                &late.as_secs().to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto starts");
        let mut server = Self {
            child,
            endpoint: format!("http://127.0.0.1:{port}"),
        };
        eventually("moto's server listens", PATIENCE, || {
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("moto's server ended with {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())
        });
        server
    }

    /// A store in a new bucket.
    pub(crate) fn lake(&self, bucket: &str) -> Lake {
        let mut lake = Lake::new();
        lake.env = environment(&self.endpoint);
        client(&lake, &["bucket", bucket]);
        Lake::at(&format!("s3://{bucket}/lake"), environment(&self.endpoint))
    }
}

/// What every process that uses the server at `endpoint` has in its environment.
fn environment(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// What stands between and answers whatever is asked with `status` and `body`. Its thread ends with the tests.
fn portal(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        let answer = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = Vec::new();
            let mut part = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => head.extend_from_slice(&part[..read]),
                }
            }
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    endpoint
}

/// What a portal answers is not taken for an empty bucket, and no store is made in it.
#[test]
fn what_is_no_object_store_is_no_empty_bucket() {
    let page = "<!doctype html><html><body>Please sign in.</body></html>";
    for (status, body) in [
        ("200 OK", page),
        ("200 OK", "{\"ok\":true}"),
        ("200 OK", ""),
        ("403 Forbidden", ""),
        ("403 Forbidden", page),
        ("404 Not Found", "{\"detail\":\"Not Found\"}"),
    ] {
        let mut lake = Lake::new();
        lake.env = environment(&portal(status, body));
        for command in ["status", "plan", "optimize", "cleanup", "init"] {
            let done = lake.run(&[command, "s3://bucket/lake"]);
            let what = format!("{status} {body}: {command}: {done:?}");
            assert_eq!(done.code, Some(1), "{what}");
            assert!(!done.stderr.contains("squire init"), "{what}");
            let is_told = done.stderr.contains("does not answer as an object store")
                || done.stderr.contains("is no object store");
            assert!(is_told, "{what}");
            assert_eq!(done.stderr.lines().count(), 1, "{what}");
        }
    }
}

/// How a server that is no object store ends a connection.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// It reads a request and hangs up.
    Closes,
    /// It does not even read it.
    Resets,
    /// Never.
    Silent,
}

/// Such a server, and how many connections it had. Its threads end with the tests.
fn no_answers(ends: Ends) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            counted.fetch_add(1, Ordering::SeqCst);
            let mut part = [0; 4096];
            match ends {
                Ends::Closes => drop(stream.read(&mut part)),
                // What was not read when a connection ends resets it.
                Ends::Resets => drop(stream.peek(&mut part)),
                Ends::Silent => open.push(stream),
            }
        }
    });
    (endpoint, connections)
}

/// Whoever names a wrong endpoint hears of it in one line, after as many tries as its client makes of one request.
#[test]
fn an_endpoint_without_answers_is_named_and_given_up() {
    for ends in [Ends::Closes, Ends::Resets, Ends::Silent] {
        let (endpoint, connections) = no_answers(ends);
        let mut lake = Lake::new();
        lake.env = environment(&endpoint);
        if let Ends::Silent = ends {
            let seconds = ("OBJECT_STORE_CLIENT_RETRY_TIMEOUT", "1");
            lake.env.push((seconds.0.to_owned(), seconds.1.to_owned()));
        }
        for command in ["status", "init", "log", "optimize"] {
            let before = connections.load(Ordering::SeqCst);
            let done = lake.run(&[command, "s3://bucket/lake"]);
            let tries = connections.load(Ordering::SeqCst) - before;
            assert_eq!(done.code, Some(1), "{ends:?} {command}: {done:?}");
            assert!(
                (1..=16).contains(&tries),
                "{ends:?} {command}: {tries} tries"
            );
            let told = format!("s3://bucket/lake: {endpoint} does not answer as an object store: ");
            assert!(done.stderr.contains(&told), "{ends:?} {command}: {done:?}");
            assert!(done.stderr.contains("check the endpoint"), "{done:?}");
            assert_eq!(
                done.stderr.lines().count(),
                1,
                "{ends:?} {command}: {done:?}"
            );
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const BOTH: [&str; 2] = ["flights", "weather"];

/// `squire commit` of a batch, killed at a seam.
fn crash_commit(lake: &Lake, seam: &str, tag: &str, ids: std::ops::Range<i64>) {
    let batch = lake.batch(tag, &BOTH, ids);
    let failpoint = format!("{seam}=return(kill)");
    let killed = lake
        .with_seam(&failpoint, &["commit", &lake.uri, &batch])
        .wait();
    assert_eq!(killed.code, None, "killed at {seam}: {}", killed.stderr);
}

/// A prefix of plain tables: a run that dies leaves its record beside them, where no client takes it for a table, and what
/// it wrote is reclaimed.
#[test]
fn a_dead_run_on_a_plain_table_is_reclaimed_on_s3() {
    let server = Server::start();
    let lake = server.lake("plain-runs");
    let root = "s3://plain-runs/tables";
    let table = format!("{root}/t.lance");
    client(&lake, &["create", &table]);
    for first in ["0", "10", "20"] {
        let stop = format!("{}3", &first[..first.len() - 1]);
        client(&lake, &["append", &table, first, &stop, "row"]);
    }
    let status = || lake.run(&["status", root, "--json"]).ok().json();
    let seam = "commit.before_put=1*return(kill)";
    lake.with_seam(seam, &["optimize", root]).killed();
    let left = status();
    assert_eq!(left["sidecars"].as_array().expect("runs").len(), 1);
    assert_eq!(left["tables"][0]["unreferenced"]["under_1h"]["files"], 1);
    let request = json!({ "root": root, "tables": {} }).to_string();
    let seen = client_with(&lake, &["read"], &request);
    assert_eq!(seen["names"], json!(["t"]));
    let args = ["daemon", root, "--once", "--grace", "0s"];
    lake.run(&args).ok();
    let left = status();
    assert_eq!(left["sidecars"], json!([]));
    assert_eq!(left["stranded_bytes"], 0);
    assert_eq!(left["tables"][0]["unreferenced"]["under_1h"]["files"], 0);
    let head = client(&lake, &["head", &table]);
    assert_eq!(head["rows"].as_array().expect("rows").len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_story_holds_on_s3() {
    let server = Server::start();
    let lake = server.lake("whole-story");
    lake.create_tables(&BOTH);

    // Two processes at once, each commit in both tables.
    let mut rows = Vec::new();
    for round in 0..4 {
        let tags = [format!("left{round}"), format!("right{round}")];
        let mut running = Vec::new();
        for (i, tag) in (0..).zip(&tags) {
            let ids = round * 20 + i * 10..round * 20 + i * 10 + 10;
            let batch = lake.batch(tag, &BOTH, ids.clone());
            running.push(lake.start(&["commit", &lake.uri, &batch]));
            rows.extend(tagged(tag, ids));
        }
        for process in running {
            process.wait().ok();
        }
    }
    rows.sort_unstable();
    for table in BOTH {
        assert_eq!(lake.rows(table).await, rows, "{table}");
    }
    lake.assert_at_rest();

    // Many small appends, then compaction.
    let appended = small_commits(&lake, &["flights"], 1_000, 20);
    let all = [rows.clone(), appended].concat();
    assert_eq!(lake.table_status("flights", "fragments"), 28);
    let old = lake.run(&["snapshot", &lake.uri, "--json"]).ok().json();
    lake.run(&["optimize", &lake.uri, "--table", "flights"])
        .ok();
    assert_eq!(lake.table_status("flights", "fragments"), 1);
    assert_eq!(lake.rows("flights").await, all);
    lake.assert_at_rest();

    // Cleanup of everything but the present.
    let stored = lake
        .table_status("flights", "versions")
        .as_u64()
        .expect("versions");
    let store = lake.store().await;
    let retention = Retention {
        age: Duration::ZERO,
        versions: 1,
    };
    let plan = store.plan_cleanup(&retention.into()).await.expect("plan");
    assert!(!plan.is_empty());
    let report = store
        .cleanup(&plan, None, &Default::default())
        .await
        .expect("cleanup");
    assert_eq!(report.failed, []);
    assert!(report.versions_removed >= stored - 1, "{report:?}");
    assert!(report.bytes_removed > 0, "{report:?}");
    assert_eq!(lake.table_status("flights", "versions"), 1);
    assert_eq!(lake.rows("flights").await, all);
    assert_eq!(lake.rows("weather").await, rows);
    let at = old["manifest_version"].to_string();
    lake.run(&["snapshot", &lake.uri, "--at", &at])
        .failed(1, "floor");
    lake.assert_at_rest();

    // Other programs read it with the same environment.
    let document = lake.run(&["snapshot", &lake.uri, "--json"]).ok().json();
    let expected = [
        ("flights".to_owned(), all.clone()),
        ("weather".to_owned(), rows.clone()),
    ];
    readers::check(&lake, &document, &expected.into());

    // It goes on after the cleanup.
    let more = small_commits(&lake, &BOTH, 5_000, 2);
    assert_eq!(lake.rows("flights").await, [all, more.clone()].concat());
    assert_eq!(lake.rows("weather").await, [rows, more].concat());
    lake.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_of_a_writer_is_recovered_on_s3() {
    let server = Server::start();
    let lake = server.lake("crashes");
    lake.create_tables(&BOTH);
    let rows = small_commits(&lake, &BOTH, 0, 1);

    crash_commit(&lake, "write.after_commit_table", "half", 100..103);
    for table in BOTH {
        assert_eq!(
            lake.rows(table).await,
            rows,
            "half of a commit is not visible: {table}"
        );
    }
    let report = lake
        .run(&["recover", &lake.uri, "--json", "--grace", "0s"])
        .ok()
        .json();
    assert_eq!(
        report["aborted"].as_array().map(Vec::len),
        Some(1),
        "{report}"
    );
    for table in BOTH {
        assert_eq!(lake.rows(table).await, rows, "{table}");
    }
    lake.assert_at_rest();

    // All tables landed: the daemon completes it.
    crash_commit(&lake, "write.after_phase_b", "landed", 200..203);
    lake.daemon_pass("0s").ok();
    let rows = [rows, tagged("landed", 200..203)].concat();
    for table in BOTH {
        assert_eq!(lake.rows(table).await, rows, "{table}");
    }
    lake.assert_at_rest();

    // The next writer does not wait for a daemon.
    crash_commit(&lake, "write.after_commit_table", "again", 300..303);
    let batch = lake.batch("next", &BOTH, 400..403);
    lake.run(&["commit", &lake.uri, &batch, "--grace", "0s"])
        .ok();
    let rows = [rows, tagged("next", 400..403)].concat();
    for table in BOTH {
        assert_eq!(lake.rows(table).await, rows, "{table}");
    }
    assert_eq!(lake.status()["sidecars"], json!([]));
    lake.assert_at_rest();
}

/// Storage options come from the configuration as well, with the secret taken from the environment.
#[test]
fn storage_options_come_from_the_config() {
    let server = Server::start();
    let lake = server.lake("configured");
    lake.create_tables(&["flights"]);
    let config = lake.path("squire.toml");
    let text = format!(
        "[[watch]]\nuri = \"{}\"\n[watch.storage_options]\naccess_key_id = \"test\"\n\
         secret_access_key = \"env:LAKE_SECRET\"\nregion = \"us-east-1\"\n\
         endpoint = \"{}\"\nallow_http = \"true\"\n",
        lake.uri, server.endpoint
    );
    std::fs::write(&config, text).expect("config");
    let run = |args: &[&str]| {
        let mut command = Command::new(squire());
        command
            .args(args)
            .arg("--config")
            .arg(&config)
            .env("LAKE_SECRET", "test");
        for (name, _) in &lake.env {
            command.env_remove(name);
        }
        squire_tests::Done::from(command.output().expect("squire runs"))
    };
    let status = run(&["status", &lake.uri, "--json"]).ok().json();
    assert_eq!(status["tables"][0]["table"], "flights");
    run(&["daemon", "--once"]).ok();
}

/// S3 Express and schemes without conditional puts are refused before anything is written.
#[test]
fn unsafe_places_are_refused() {
    let lake = Lake::new();
    for (place, code) in [
        ("s3://fast--use1-az4--x-s3/lake", 3),
        ("s3+ddb://bucket/lake", 2),
        ("gs://bucket/lake", 2),
    ] {
        lake.run(&["init", place]).failed(code, "not supported");
    }
}
