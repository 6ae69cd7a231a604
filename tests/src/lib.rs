//! The harness of the tests that use real processes: stores in temporary directories, the `squire` binary with its
//! seams compiled in, and what a reader sees.
//!
//! A test arms a seam with [`Lake::with_seam`], waits until the child stopped or died there ([`Child::wait_stopped`],
//! [`Child::wait`]), lets others go on, and then asserts on rows and on [`Lake::assert_at_rest`].

pub mod chaos;
mod child;
pub mod cost;
pub mod disk;
pub mod fleet;
pub mod history;
pub mod loopback;
pub mod plain;
pub mod requests;
pub mod trace;

pub use child::{Child, Done};

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use serde_json::Value;
use squire_engine::commit::{TableWrite, Write};
use squire_engine::maintenance::tasks::TaskBounds;
use squire_engine::store::{Store, StoreOptions};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How long a test waits for something that must happen before it calls it hung.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test: the one that this workspace built, with seams.
pub fn squire() -> PathBuf {
    binary("squire")
}

/// A binary that this workspace built.
fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the program has a path");
    // Programs stand beside it, test binaries one directory below.
    let beside = exe.parent().expect("target/<profile>");
    let above = beside.parent().expect("target");
    let places = [beside.join(name), above.join(name)];
    let found = places.iter().find(|path| path.is_file()).cloned();
    found.unwrap_or_else(|| {
        panic!(
            "{} is missing; run `make test`, or cargo build --workspace --features squire-tests/failpoints",
            places[1].display()
        )
    })
}

/// A store in a temporary directory, with files to write into it.
#[derive(Debug)]
pub struct Lake {
    dir: TempDir,
    /// The store's URI.
    pub uri: String,
    /// Environment of every command (credentials of an S3 server).
    pub env: Vec<(String, String)>,
    /// Whether the modes of files bind every command, as they bind everybody but root.
    pub is_bound: bool,
    traces: TempDir,
}

impl Default for Lake {
    fn default() -> Self {
        Self::new()
    }
}

impl Lake {
    /// A store without tables.
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let uri = dir.path().join("lake").to_string_lossy().into_owned();
        let lake = Self {
            dir,
            uri,
            env: Vec::new(),
            is_bound: false,
            traces: TempDir::new().expect("a temporary directory"),
        };
        lake.run(&["init", &lake.uri]).ok();
        lake
    }

    /// A store somewhere else, with environment for every command; files still go to a temporary directory.
    pub fn at(uri: &str, env: Vec<(String, String)>) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let lake = Self {
            dir,
            uri: uri.to_owned(),
            env,
            is_bound: false,
            traces: TempDir::new().expect("a temporary directory"),
        };
        lake.run(&["init", &lake.uri]).ok();
        lake
    }

    /// A store that is there already.
    pub fn existing(uri: &str) -> Self {
        Self {
            dir: TempDir::new().expect("a temporary directory"),
            uri: uri.to_owned(),
            env: Vec::new(),
            is_bound: false,
            traces: TempDir::new().expect("a temporary directory"),
        }
    }

    /// A store with tables (id int64, value utf8), keyed by id.
    pub fn with_tables(tables: &[&str]) -> Self {
        let lake = Self::new();
        lake.create_tables(tables);
        lake
    }

    /// Adds tables (id int64, value utf8), keyed by id.
    pub fn create_tables(&self, tables: &[&str]) {
        let schema = self.path("schema.json");
        let columns = r#"[{"name":"id","type":"int64","nullable":false},{"name":"value","type":"utf8","nullable":true}]"#;
        std::fs::write(&schema, columns).expect("schema file");
        for table in tables {
            let schema = schema.to_string_lossy();
            self.run(&[
                "create", &self.uri, table, "--schema", &schema, "--key", "id",
            ])
            .ok();
        }
    }

    /// A path in the test's own directory, outside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a CSV file of rows `(id, value)` and gives its path.
    pub fn csv(&self, name: &str, rows: impl IntoIterator<Item = (i64, String)>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        let lines: String = rows
            .into_iter()
            .map(|(id, value)| format!("{id},{value}\n"))
            .collect();
        std::fs::write(&path, format!("id,value\n{lines}")).expect("csv");
        path.to_string_lossy().into_owned()
    }

    /// A batch directory with the same rows for each table.
    pub fn batch(&self, name: &str, tables: &[&str], ids: std::ops::Range<i64>) -> String {
        for table in tables {
            self.csv(
                &format!("{name}/{table}.csv"),
                ids.clone().map(|id| (id, format!("{name}-{id}"))),
            );
        }
        self.path(name).to_string_lossy().into_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_of("squire", args)
    }

    fn command_of(&self, program: &str, args: &[&str]) -> Command {
        let mut command = if self.is_bound && is_root() {
            let mut bound = Command::new("setpriv");
            let caps = "-dac_override,-dac_read_search";
            bound.args(["--bounding-set", caps, "--inh-caps", caps]);
            bound.arg(binary(program));
            bound
        } else {
            Command::new(binary(program))
        };
        command.args(args);
        self.surround(&mut command);
        command
    }

    /// The environment of every command. Tens of thousands of them sync nothing: what a power cut does is the
    /// business of the tests that ask for it ([`Lake::traced`]), and of those that set `SQUIRE_DURABILITY`.
    fn surround(&self, command: &mut Command) {
        command
            .env_remove("FAILPOINTS")
            .env_remove("SQUIRE_SEAMS_LOG")
            .env("SQUIRE_DURABILITY", "process")
            .env("SQUIRE_TRACE", self.traces.path())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
    }

    /// Runs `squire ARGS` with this durability, and gives what it did to the disk.
    pub fn traced(&self, durability: &str, args: &[&str]) -> Vec<disk::Effect> {
        let log = self.path("strace.log");
        let mut command = Command::new("strace");
        command.args(disk::STRACE).arg("-o").arg(&log);
        command.arg(squire()).args(args);
        self.surround(&mut command);
        let ran = command.env("SQUIRE_DURABILITY", durability).output();
        let ran = ran.expect("strace is missing: `make test` sets it up (ops/setup.sh --test)");
        Done::from(ran).ok();
        disk::effects(&std::fs::read_to_string(log).expect("strace's log"))
    }

    /// Runs `squire ARGS` to its end.
    pub fn run(&self, args: &[&str]) -> Done {
        self.command(args).output().expect("squire runs").into()
    }

    /// Runs `squire ARGS` with `input` on its standard input.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> Done {
        let mut command = self.command(args);
        let mut child = self.spawn(command.stdin(Stdio::piped()));
        child.say(input);
        child.wait()
    }

    /// Starts `squire ARGS`, to be fed on its standard input, with `FAILPOINTS=failpoints`.
    pub fn start_fed(&self, failpoints: &str, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.env("FAILPOINTS", failpoints);
        self.spawn(command.stdin(Stdio::piped()))
    }

    /// Starts `squire ARGS`.
    pub fn start(&self, args: &[&str]) -> Child {
        self.spawn(&mut self.command(args))
    }

    /// Starts `squire ARGS` as the leader of a session of its own, as services are.
    pub fn start_service(&self, args: &[&str]) -> Child {
        let squire = self.command(args);
        let mut service = Command::new("setsid");
        service.arg(squire.get_program()).args(squire.get_args());
        for (name, value) in squire.get_envs() {
            match value {
                Some(value) => service.env(name, value),
                None => service.env_remove(name),
            };
        }
        self.spawn(&mut service)
    }

    /// Starts `squire ARGS` with `FAILPOINTS=failpoints`, such as `commit.before_put=return(stop)`.
    pub fn with_seam(&self, failpoints: &str, args: &[&str]) -> Child {
        self.with_seam_in("squire", failpoints, args)
    }

    /// The same for another binary of the workspace.
    pub fn with_seam_in(&self, program: &str, failpoints: &str, args: &[&str]) -> Child {
        drop(std::fs::remove_file(self.seams_log()));
        self.spawn(
            self.command_of(program, args)
                .env("FAILPOINTS", failpoints)
                .env("SQUIRE_SEAMS_LOG", self.seams_log()),
        )
    }

    fn seams_log(&self) -> PathBuf {
        self.path("seams.log")
    }

    /// The seams that the process of the last [`Lake::with_seam`] has passed until now, in order.
    pub fn seams_passed(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.seams_log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn spawn(&self, command: &mut Command) -> Child {
        Child(Some(
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("squire starts"),
        ))
    }

    /// `squire status --json`.
    pub fn status(&self) -> Value {
        self.run(&["status", &self.uri, "--json"]).ok().json()
    }

    /// One field of one table in `squire status`.
    pub fn table_status(&self, table: &str, field: &str) -> Value {
        let status = self.status();
        let tables = status["tables"].as_array().expect("tables");
        let found = tables
            .iter()
            .find(|t| t["table"] == table)
            .unwrap_or_else(|| panic!("no table {table}"));
        found[field].clone()
    }

    /// The operations whose sidecars stand.
    pub fn sidecars(&self) -> Vec<String> {
        self.status()["sidecars"]
            .as_array()
            .expect("sidecars")
            .iter()
            .map(|op| op.as_str().expect("a ULID").to_owned())
            .collect()
    }

    /// `squire op`: what the store says became of `op`.
    pub fn outcome_of(&self, op: &str) -> String {
        let said = self.run(&["op", &self.uri, op, "--json"]).ok().json();
        said["outcome"].as_str().expect("an outcome").to_owned()
    }

    /// The whole commit log, newest first.
    pub fn log(&self) -> Vec<Value> {
        let log = self.run(&["log", &self.uri, "--limit", "1000000", "--json"]);
        log.ok().json()["entries"]
            .as_array()
            .expect("entries")
            .clone()
    }

    /// Removes everything that nothing pins now, as a cleanup does long after the retention.
    pub fn clean_up(&self) {
        let cleaned = self.command_of("squire-clean", &[&self.uri]).output();
        Done::from(cleaned.expect("squire-clean runs")).ok();
    }

    /// One daemon pass, with the grace taken as `grace`.
    pub fn daemon_pass(&self, grace: &str) -> Done {
        self.run(&["daemon", &self.uri, "--once", "--grace", grace])
    }

    /// Opens the store with the engine.
    pub async fn store(&self) -> Arc<Store> {
        let options = StoreOptions {
            storage_options: self.env.iter().cloned().collect(),
            ..StoreOptions::default()
        };
        Store::open(&self.uri, options)
            .await
            .expect("the store opens")
    }

    /// The rows that a reader sees, sorted: `(id, value)`.
    pub async fn rows(&self, table: &str) -> Vec<(i64, String)> {
        let store = self.store().await;
        let snapshot = store.load().await.expect("snapshot");
        let dataset = store
            .read(&snapshot, &table.parse().expect("name"))
            .await
            .expect("table");
        rows_of(&dataset).await
    }

    /// The ids that a reader sees, sorted.
    pub async fn ids(&self, table: &str) -> Vec<i64> {
        self.rows(table)
            .await
            .into_iter()
            .map(|(id, _)| id)
            .collect()
    }

    /// What the processes so far said they did agrees with the commit log and breaks no invariant.
    fn assert_trace(&self) {
        let events = trace::read(self.traces.path());
        // A thread of its own, because the caller may or may not be in a runtime.
        let found = std::thread::scope(|scope| {
            let check = scope.spawn(|| {
                let runtime = tokio::runtime::Runtime::new().expect("a runtime");
                runtime.block_on(async {
                    trace::violations(self.store().await.as_ref(), &events).await
                })
            });
            check.join().expect("the trace check")
        });
        assert!(found.is_empty(), "{found:#?}");
    }

    /// I8: no sidecar, no version above a pin; and a further daemon pass changes nothing. And the trace of all
    /// processes holds.
    pub fn assert_at_rest(&self) {
        self.assert_trace();
        let status = self.status();
        assert_eq!(
            status["sidecars"],
            serde_json::json!([]),
            "sidecars are left"
        );
        assert_eq!(status["stranded_bytes"], 0, "files are stranded");
        for table in status["tables"].as_array().expect("tables") {
            assert_eq!(
                table["head"], table["pin"],
                "HEAD is ahead of its pin: {table}"
            );
            assert!(table["drift"].is_null(), "drift: {table}");
        }
        let report = self
            .run(&["recover", &self.uri, "--json", "--grace", "0s"])
            .ok()
            .json();
        for what in [
            "committed",
            "aborted",
            "pending",
            "healed",
            "reclaimed",
            "failed",
        ] {
            assert_eq!(
                report[what],
                serde_json::json!([]),
                "a second pass found work: {report}"
            );
        }
        assert_eq!(
            self.status()["manifest_version"],
            status["manifest_version"],
            "a second pass published"
        );
    }
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Utf8, true),
    ]))
}

/// A write that creates a table of (id, value).
pub fn create(table: &str) -> TableWrite {
    TableWrite {
        table: table.parse().expect("name"),
        write: Write::Create {
            schema: schema(),
            key: None,
        },
    }
}

/// A write that appends rows with these ids to a table of (id, value).
pub fn append(table: &str, ids: std::ops::Range<i64>) -> TableWrite {
    append_rows(table, ids.map(|id| (id, "appended".to_owned())).collect())
}

/// A write that appends these rows to a table of (id, value).
pub fn append_rows(table: &str, rows: Vec<(i64, String)>) -> TableWrite {
    TableWrite {
        table: table.parse().expect("name"),
        write: Write::Append(vec![batch_of(rows)].into()),
    }
}

/// Rows of (id, value).
pub fn batch_of(rows: Vec<(i64, String)>) -> RecordBatch {
    let (ids, values): (Vec<i64>, Vec<String>) = rows.into_iter().unzip();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids)),
        Arc::new(StringArray::from(values)),
    ];
    RecordBatch::try_new(schema(), columns).expect("rows")
}

/// The bounds that a policy without settings gives.
pub fn bounds() -> TaskBounds {
    TaskBounds {
        target_rows: 1 << 20,
        max_fragments: 32,
        max_input_rows: u64::MAX,
        max_input_bytes: 2 << 30,
        max_output_bytes: 1 << 30,
        max_deleted_ratio: 0.1,
    }
}

/// fail-rs syntax: does `action` at the `nth` time that `seam` is passed, and at no other.
pub fn armed(seam: &str, nth: usize, action: &str) -> String {
    match nth {
        1 => format!("{seam}=1*return({action})"),
        n => format!("{seam}={}*off->1*return({action})", n - 1),
    }
}

/// Every file and directory below `root`, relative to it.
pub fn tree(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                todo.push(path.clone());
            }
            found.insert(path.strip_prefix(root).expect("below").to_path_buf());
        }
    }
    found
}

/// The rows of a dataset with columns id and value, sorted.
pub async fn rows_of(dataset: &lance::Dataset) -> Vec<(i64, String)> {
    read_rows(dataset).await.expect("the rows can be read")
}

/// The same, where the read may fail.
pub async fn read_rows(dataset: &lance::Dataset) -> lance::Result<Vec<(i64, String)>> {
    let batches: Vec<RecordBatch> = dataset
        .scan()
        .try_into_stream()
        .await?
        .try_collect()
        .await?;
    let mut rows = Vec::new();
    for batch in &batches {
        let ids = batch["id"]
            .as_any()
            .downcast_ref::<Int64Array>()
            .expect("int64")
            .clone();
        let values = batch["value"]
            .as_any()
            .downcast_ref::<StringArray>()
            .expect("utf8")
            .clone();
        rows.extend((0..batch.num_rows()).map(|i| (ids.value(i), values.value(i).to_owned())));
    }
    rows.sort_unstable();
    Ok(rows)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}
