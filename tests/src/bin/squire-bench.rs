//! `make bench`: the engine against bare Lance, both sides in one run, printed as ratios and written as JSON.
//!
//! Time is measured on a local disk, rounds of the two sides alternating. Requests are counted where nothing bypasses
//! the object-store interface: in memory, each answered after some milliseconds as a remote store does, and on a local
//! disk beside a `squire daemon`.

use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use clap::Parser;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use serde_json::{Value, json};
use squire_engine::commit::{CommitRequest, TableWrite, Write};
use squire_engine::events::{EventSink, ProtocolEvent};
use squire_engine::maintenance::{CompactionLimits, Oversight, Target, Verify};
use squire_engine::store::{Durability, Store, StoreOptions};
use squire_tests::bounds;
use squire_tests::history::measure;
use squire_tests::requests::{Counter, Counting, Requests};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Utf8, true),
    ]))
}

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let values = StringArray::from_iter_values(ids.clone().map(|id| format!("value {id}")));
    let ids = Int64Array::from_iter_values(ids);
    RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(values)]).expect("rows")
}

async fn append_bare(dataset: Arc<Dataset>, batch: RecordBatch) -> Arc<Dataset> {
    let params = WriteParams {
        mode: WriteMode::Append,
        ..WriteParams::default()
    };
    let appended = InsertBuilder::new(dataset)
        .with_params(&params)
        .execute(vec![batch])
        .await;
    Arc::new(appended.expect("append"))
}

async fn create_bare(uri: &str) -> Arc<Dataset> {
    let empty = RecordBatch::new_empty(schema());
    Arc::new(
        InsertBuilder::new(uri)
            .execute(vec![empty])
            .await
            .expect("create"),
    )
}

async fn create(store: &Store, table: &str) {
    store
        .commit(&CommitRequest::new(vec![squire_tests::create(table)]))
        .await
        .expect("create");
}

async fn append(store: &Store, tables: &[&str], batch: &RecordBatch) {
    let writes = tables
        .iter()
        .map(|table| TableWrite {
            table: table.parse().expect("name"),
            write: Write::Append(vec![batch.clone()].into()),
        })
        .collect();
    store
        .commit(&CommitRequest::new(writes))
        .await
        .expect("commit");
}

/// What bare Lance outlives; what a power cut adds has rows of its own.
fn as_lance() -> StoreOptions {
    StoreOptions {
        durability: Durability::Process,
        ..StoreOptions::default()
    }
}

async fn store_at(uri: &str, options: StoreOptions) -> Arc<Store> {
    Store::init(uri, options).await.expect("store")
}

/// Measures publishes: from a table that landed to the manifest that shows it, verified.
#[derive(Debug, Default)]
struct Publishes {
    landed: Mutex<Option<Instant>>,
    took: Mutex<Vec<Duration>>,
}

impl EventSink for Publishes {
    fn record(&self, event: &ProtocolEvent) {
        let mut landed = self.landed.lock().expect("landed");
        match event {
            ProtocolEvent::Landed { .. } => *landed = Some(Instant::now()),
            ProtocolEvent::Published { .. } => {
                let took = landed.take().map(|at| at.elapsed());
                self.took.lock().expect("times").extend(took);
            }
            _ => {}
        }
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1_000.0
}

fn entry(what: &str, ours: f64, bare: f64, aim: f64) -> Value {
    println!(
        "{what:<44} {ours:>9.2} ms {bare:>9.2} ms   {:>6.2}x   aim {aim}x",
        ours / bare
    );
    json!({ "what": what, "squire_ms": ours, "lance_ms": bare, "ratio": ours / bare, "aim": aim })
}

/// One-row commit through the engine, with and without syncs, and the publish in it, against a bare append; rounds
/// alternate.
async fn commits(rounds: i64) -> Vec<Value> {
    let dir = TempDir::new().expect("directory");
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let publishes = Arc::new(Publishes::default());
    let options = StoreOptions {
        events: Some(publishes.clone()),
        ..as_lance()
    };
    let store = store_at(&at("lake"), options).await;
    create(&store, "t").await;
    let synced = store_at(&at("synced"), StoreOptions::default()).await;
    create(&synced, "t").await;
    let mut bare = create_bare(&at("bare.lance")).await;
    publishes.took.lock().expect("times").clear();
    let (mut ours, mut outlive, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let batch = rows(round..round + 1);
        let start = Instant::now();
        append(&store, &["t"], &batch).await;
        ours.push(start.elapsed());
        let start = Instant::now();
        append(&synced, &["t"], &batch).await;
        outlive.push(start.elapsed());
        let start = Instant::now();
        bare = append_bare(bare, batch).await;
        theirs.push(start.elapsed());
    }
    let publishes = std::mem::take(&mut *publishes.took.lock().expect("times"));
    assert_eq!(publishes.len(), ours.len(), "each commit publishes once");
    let (publishes, theirs) = (median(publishes), median(theirs));
    vec![
        entry("one-row commit / bare append", median(ours), theirs, 1.5),
        entry("publish alone / bare append", publishes, theirs, 0.25),
        entry(
            "one-row commit, power / bare append",
            median(outlive),
            theirs,
            3.0,
        ),
    ]
}

/// How a rewrite is compared with what it replaces, in words.
const VERIFIED: [(&str, Verify); 3] = [
    ("counts", Verify::Counts),
    ("sample", Verify::Sample),
    ("full", Verify::Full),
];

/// The same fragments compacted by the engine, once for each way to verify and once as it is set by default (`sample`,
/// synced), and by `compact_files`, which neither verifies nor syncs; rounds alternate.
async fn compaction(fragments: i64, rows_each: i64, rounds: usize) -> Vec<Value> {
    let mut modes: Vec<(&str, Verify, StoreOptions)> = VERIFIED
        .map(|(name, verify)| (name, verify, as_lance()))
        .into();
    modes.push(("sample, power", Verify::Sample, StoreOptions::default()));
    let (mut ours, mut theirs) = (vec![Vec::new(); modes.len()], Vec::new());
    for _ in 0..rounds {
        for ((_, verify, options), times) in modes.iter().zip(&mut ours) {
            times.push(compact_ours(fragments, rows_each, *verify, options.clone()).await);
        }
        theirs.push(compact_theirs(fragments, rows_each).await);
    }
    let theirs = median(theirs);
    modes
        .iter()
        .zip(ours)
        .map(|((mode, ..), times)| {
            let what = format!("compaction {fragments} x {rows_each}, {mode} / compact_files");
            entry(&what, median(times), theirs, 2.0)
        })
        .collect()
}

async fn compact_ours(
    fragments: i64,
    rows_each: i64,
    verify: Verify,
    options: StoreOptions,
) -> Duration {
    let dir = TempDir::new().expect("directory");
    let store = store_at(&dir.path().join("lake").to_string_lossy(), options).await;
    create(&store, "t").await;
    for f in 0..fragments {
        append(&store, &["t"], &rows(f * rows_each..(f + 1) * rows_each)).await;
    }
    let limits = CompactionLimits {
        bounds: bounds(),
        tasks_per_commit: 8,
        commit_after: Duration::from_secs(60),
        verify,
    };
    let target = Target::Pinned("t".parse().expect("name"));
    let start = Instant::now();
    let report = store
        .compact(&target, &limits, &Oversight::default())
        .await
        .expect("compaction");
    assert_eq!(report.fragments_removed, fragments.unsigned_abs());
    start.elapsed()
}

async fn compact_theirs(fragments: i64, rows_each: i64) -> Duration {
    let dir = TempDir::new().expect("directory");
    let mut bare = create_bare(&dir.path().join("bare.lance").to_string_lossy()).await;
    for f in 0..fragments {
        bare = append_bare(bare, rows(f * rows_each..(f + 1) * rows_each)).await;
    }
    let mut dataset = bare.as_ref().clone();
    let options = CompactionOptions {
        num_threads: Some(1),
        ..CompactionOptions::default()
    };
    let start = Instant::now();
    compact_files(&mut dataset, options, None)
        .await
        .expect("compaction");
    start.elapsed()
}

/// How long a request takes that is counted, as long as a remote store's: long beside what is computed in between.
const LATENCY: Duration = Duration::from_millis(25);

/// Requests of one commit after `before` others.
async fn requests(tables: &[&str], before: i64, show: bool) -> Requests {
    let counter = Arc::new(Counter::default());
    let options = StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    let store = Store::init("memory://bench", options).await.expect("store");
    for table in tables {
        create(&store, table).await;
    }
    for i in 0..before {
        append(&store, tables, &rows(i..i + 1)).await;
    }
    counter.take();
    counter.answer_after(LATENCY);
    append(&store, tables, &rows(before..before + 1)).await;
    if show {
        for line in counter.log() {
            println!("    {line}");
        }
    }
    counter.take()
}

/// Requests of the passes over a store, or over as many plain tables: the first, one after which nothing has changed, and one
/// after a commit to one of them.
async fn passes(tables: usize) -> Vec<Value> {
    let counter = Arc::new(Counter::default());
    let options = StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    let dir = TempDir::new().expect("directory");
    let uri = format!("file-object-store://{}", dir.path().join("lake").display());
    let store = store_at(&uri, as_lance()).await;
    let names: Vec<String> = (0..tables).map(|i| format!("t{i}")).collect();
    for name in &names {
        create(&store, name).await;
    }
    let mut rows = Vec::new();
    for what in ["store", "plain"] {
        let target = |name: &String| match what {
            "store" => Target::Pinned(name.parse().expect("name")),
            _ => Target::Plain(format!("{name}.lance")),
        };
        let targets: Vec<Target> = names.iter().map(target).collect();
        // As a daemon that has just been started.
        let daemon = match what {
            "store" => Store::open(&uri, options.clone()).await.expect("store"),
            _ => Arc::new(Store::connect(&uri, options.clone()).await.expect("store")),
        };
        for pass in ["first", "unchanged", "one commit"] {
            if pass == "one commit" {
                append(&store, &["t0"], &self::rows(0..1)).await;
            }
            counter.take();
            squire_tests::requests::pass(&daemon, &targets).await;
            let asked = counter.take().total;
            let (all, each) = (tables as u64, asked as f64 / tables as f64);
            println!(
                "pass over {all:>5} tables ({what}), {pass:<10}: {asked:>6} requests, {each:>6.2} a table"
            );
            rows.push(json!({ "what": format!("requests, a pass over a {what}"), "tables": all, "pass": pass, "total": asked }));
        }
    }
    rows
}

/// Stops the daemon when the benchmark ends, however it ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Requests of commits while a daemon maintains the table: the medians of a hundred early and of the hundred last of
/// `commits` commits; and how many fragments are left.
async fn beside_a_daemon(commits: usize) -> Value {
    let dir = TempDir::new().expect("directory");
    let path = dir.path().join("lake").to_string_lossy().into_owned();
    let counter = Arc::new(Counter::default());
    let options = StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    let uri = format!("file-object-store://{path}");
    let store = Store::init(&uri, options).await.expect("store");
    create(&store, "t").await;
    let mut squire = Command::new(squire_tests::squire());
    squire.args(["daemon", &path, "--listen", "127.0.0.1:0"]);
    let quiet = squire.stdout(Stdio::null()).stderr(Stdio::null());
    let _daemon = Daemon(quiet.spawn().expect("the daemon starts"));
    let mut counted = Vec::new();
    for i in (0..).take(commits) {
        counter.take();
        append(&store, &["t"], &rows(i..i + 1)).await;
        counted.push(counter.take());
    }
    let state = store.load().await.expect("snapshot").state;
    let entry = &state.tables[&"t".parse().expect("name")];
    let table = store.open_pinned(entry).await.expect("table");
    let row = |commit: usize, of: &[Requests]| {
        let middle = |field: fn(&Requests) -> u64| {
            let mut values: Vec<u64> = of.iter().map(field).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let (sequential, total) = (middle(|r| r.sequential), middle(|r| r.total));
        json!({ "what": "requests, beside a daemon", "commit": commit, "sequential": sequential, "total": total })
    };
    let (early, late) = (&counted[10..110], &counted[commits - 100..]);
    json!({ "rows": [row(10, early), row(commits, late)], "fragments": table.count_fragments() })
}

/// [`beside_a_daemon`] in a process of its own, where Lance does not read version hints: they would hide listings.
fn in_a_process_without_hints(commits: usize) -> Value {
    let exe = std::env::current_exe().expect("this program");
    let mut command = Command::new(exe);
    command.args(["--beside-a-daemon", &commits.to_string()]);
    command.env("LANCE_USE_VERSION_HINT", "0");
    let output = command.stderr(Stdio::inherit()).output();
    serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON")
}

fn print_requests(row: &Value) {
    println!(
        "{:<28} commit {:>5}: {:>3} in sequence, {:>3} in total   aim 6 in sequence for one table, the last one behind the answer",
        row["what"].as_str().unwrap_or_default(),
        row["commit"],
        row["sequential"],
        row["total"]
    );
}

/// One-row commits, with and without syncs, at growing ages of a store and its table. In between the table is overwritten
/// time and again: how many fragments it has is another matter.
async fn history(ages: &[u64]) -> Vec<Value> {
    let dir = TempDir::new().expect("directory");
    let uri = dir.path().join("lake").to_string_lossy().into_owned();
    let store = store_at(&uri, as_lance()).await;
    create(&store, "t").await;
    let synced = Store::open(&uri, StoreOptions::default()).await;
    let measured = [
        ("process", store.clone()),
        ("power", synced.expect("store")),
    ];
    let row = rows(0..1);
    let (mut values, mut age) = (Vec::new(), 0);
    for next in ages {
        while age < *next {
            let table = "t".parse().expect("name");
            let write = Write::Overwrite(vec![row.clone()].into());
            let request = CommitRequest::new(vec![TableWrite { table, write }]);
            store.commit(&request).await.expect("overwrite");
            age += 1;
        }
        for (what, store) in &measured {
            values.push(measure(what, age, async || append(store, &["t"], &row).await).await);
        }
    }
    values
}

/// The engine against bare Lance, both sides in one run: ratios, and bench.json or $SQUIRE_BENCH_JSON.
#[derive(Debug, Parser)]
struct Args {
    /// Fewer commits and rounds.
    #[arg(long)]
    quick: bool,
    /// Show each request of the commits that are counted.
    #[arg(long)]
    requests: bool,
    /// Only what a pass of the daemon asks of the storage.
    #[arg(long)]
    passes: bool,
    /// Only what a long history costs.
    #[arg(long)]
    history: bool,
    /// What one process of the bench does for another.
    #[arg(long, hide = true, value_name = "COMMITS")]
    beside_a_daemon: Option<usize>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    if let Some(commits) = args.beside_a_daemon {
        println!("{}", beside_a_daemon(commits).await);
        return;
    }
    if args.passes {
        for tables in [1, 100, 1_000] {
            passes(tables).await;
        }
        return;
    }
    if args.history {
        history(&[10, 1_000, 5_000, 10_000]).await;
        return;
    }
    let quick = args.quick;
    println!("{:<44} {:>12} {:>12}", "", "squire", "lance");
    let mut table = commits(if quick { 30 } else { 200 }).await;
    let rounds = if quick { 1 } else { 5 };
    table.extend(compaction(32, 10_000, rounds).await);
    table.extend(compaction(8, 100_000, rounds).await);
    let many = if quick { 200 } else { 5_000 };
    for (what, tables) in [("one table", &["a"][..]), ("two tables", &["a", "b"][..])] {
        for commit in [10, many] {
            let r = requests(tables, commit - 1, args.requests).await;
            let row = json!({ "what": format!("requests, {what}"), "commit": commit, "sequential": r.sequential, "total": r.total });
            print_requests(&row);
            table.push(row);
        }
    }
    for tables in [1, 100, 1_000] {
        table.extend(passes(tables).await);
    }
    let daemon = in_a_process_without_hints(usize::try_from(many).expect("a few thousand"));
    let rows = daemon["rows"].as_array().expect("rows");
    rows.iter().for_each(print_requests);
    println!("the daemon left {} fragments", daemon["fragments"]);
    table.extend(rows.iter().cloned());
    let path = std::env::var("SQUIRE_BENCH_JSON").unwrap_or_else(|_| "bench.json".to_owned());
    let document = serde_json::to_string_pretty(&table).expect("json");
    std::fs::write(&path, document).expect("the result file can be written");
    println!("written to {path}");
}
