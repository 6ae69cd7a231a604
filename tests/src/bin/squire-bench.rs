//! `make bench`: the engine against bare Lance, both sides in one run, printed as ratios and written as JSON.
//!
//! Time is measured on a local disk, rounds of the two sides alternating; requests are counted on an in-memory
//! object store, where nothing bypasses the object-store interface.

use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use serde_json::{Value, json};
use squire_engine::commit::{CommitRequest, TableWrite, Write};
use squire_engine::maintenance::tasks::TaskBounds;
use squire_engine::maintenance::{CompactionLimits, Target};
use squire_engine::store::state::IndexDeclaration;
use squire_engine::store::{Store, StoreOptions};
use squire_tests::requests::{Counter, Counting, Requests};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

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
    let write = Write::Create {
        schema: schema(),
        key: None,
    };
    let table = table.parse().expect("name");
    store
        .commit(&CommitRequest::new(vec![TableWrite { table, write }]))
        .await
        .expect("create");
}

async fn append(store: &Store, tables: &[&str], batch: &RecordBatch) {
    let writes = tables
        .iter()
        .map(|table| TableWrite {
            table: table.parse().expect("name"),
            write: Write::Append(vec![batch.clone()]),
        })
        .collect();
    store
        .commit(&CommitRequest::new(writes))
        .await
        .expect("commit");
}

async fn store_at(uri: &str) -> Arc<Store> {
    Store::init(uri, StoreOptions::default())
        .await
        .expect("store")
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

/// One-row commit through the engine, and publish alone, against a bare append; rounds alternate.
async fn commits(rounds: i64) -> Vec<Value> {
    let dir = TempDir::new().expect("directory");
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let store = store_at(&at("lake")).await;
    create(&store, "t").await;
    let mut bare = create_bare(&at("bare.lance")).await;
    let (mut ours, mut theirs, mut publishes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let batch = rows(round..round + 1);
        let start = Instant::now();
        append(&store, &["t"], &batch).await;
        ours.push(start.elapsed());
        let start = Instant::now();
        bare = append_bare(bare, batch).await;
        theirs.push(start.elapsed());
        let start = Instant::now();
        let declaration = IndexDeclaration {
            column: "id".into(),
            kind: "btree".into(),
        };
        store
            .declare_index(
                &"t".parse().expect("name"),
                &format!("i{round}"),
                declaration,
            )
            .await
            .expect("publish");
        publishes.push(start.elapsed());
    }
    let theirs = median(theirs);
    vec![
        entry("one-row commit / bare append", median(ours), theirs, 1.5),
        entry(
            "publish alone / bare append",
            median(publishes),
            theirs,
            0.25,
        ),
    ]
}

/// The same fragments compacted by the engine and by `compact_files`.
async fn compaction(fragments: i64, rounds: usize) -> Value {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let dir = TempDir::new().expect("directory");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let store = store_at(&at("lake")).await;
        create(&store, "t").await;
        let mut bare = create_bare(&at("bare.lance")).await;
        for f in 0..fragments {
            let batch = rows(f * 10_000..(f + 1) * 10_000);
            append(&store, &["t"], &batch).await;
            bare = append_bare(bare, batch).await;
        }
        let bounds = TaskBounds {
            target_rows: 1 << 20,
            max_fragments: 32,
            max_input_bytes: 2 << 30,
            max_output_bytes: 1 << 30,
            max_deleted_ratio: 0.1,
        };
        let limits = CompactionLimits {
            bounds,
            tasks_per_commit: 8,
            bytes_per_second: None,
        };
        let target = Target::Pinned("t".parse().expect("name"));
        let start = Instant::now();
        let report = store
            .compact(&target, &limits, &CancellationToken::new())
            .await
            .expect("compaction");
        ours.push(start.elapsed());
        assert_eq!(report.fragments_removed, fragments.unsigned_abs());
        let mut dataset = bare.as_ref().clone();
        let start = Instant::now();
        compact_files(
            &mut dataset,
            CompactionOptions {
                num_threads: Some(1),
                ..CompactionOptions::default()
            },
            None,
        )
        .await
        .expect("compaction");
        theirs.push(start.elapsed());
    }
    entry(
        &format!("compaction of {fragments} x 10,000 rows / compact_files"),
        median(ours),
        median(theirs),
        1.05,
    )
}

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
    append(&store, tables, &rows(before..before + 1)).await;
    if show {
        for line in counter.log() {
            println!("    {line}");
        }
    }
    counter.take()
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let show = std::env::args().any(|a| a == "--requests");
    println!("{:<44} {:>12} {:>12}", "", "squire", "lance");
    let mut table = commits(if quick { 30 } else { 200 }).await;
    table.push(compaction(32, if quick { 1 } else { 5 }).await);
    for (what, tables) in [("one table", &["a"][..]), ("two tables", &["a", "b"][..])] {
        for before in [10, if quick { 200 } else { 5_000 }] {
            let r = requests(tables, before, show && before == 10).await;
            println!(
                "requests of commit {:>5}, {what:<10}  {:>3} in sequence, {:>3} in total   aim 7 in sequence for one table",
                before + 1,
                r.sequential,
                r.total
            );
            table.push(json!({ "what": format!("requests, {what}"), "commit": before + 1, "sequential": r.sequential, "total": r.total }));
        }
    }
    let path = std::env::var("SQUIRE_BENCH_JSON").unwrap_or_else(|_| "bench.json".to_owned());
    let document = serde_json::to_string_pretty(&table).expect("json");
    std::fs::write(&path, document).expect("the result file can be written");
    println!("written to {path}");
}
