//! A rewrite never makes a table worse: plain tables that Lance's own compaction spoils, compacted by the engine.

use arrow_array::builder::{Int32Builder, ListBuilder, StringDictionaryBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Int64Array, LargeBinaryArray, ListArray, RecordBatch,
    StringArray, StructArray,
};
use arrow_schema::{DataType, Field, Fields, Schema};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use squire_engine::error::{Error, ErrorKind};
use squire_engine::maintenance::tasks::TaskBounds;
use squire_engine::maintenance::{
    CompactionLimits, MaintenanceReport, Oversight, Skipped, TableHealth, Target, Verify,
};
use squire_engine::store::{Store, StoreOptions};
use squire_tests::{Lake, bounds};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A watched directory with one table.
struct Watched {
    dir: TempDir,
    bounds: TaskBounds,
}

impl Watched {
    fn new() -> Self {
        Self {
            dir: TempDir::new().expect("directory"),
            bounds: bounds(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("t.lance")
    }

    fn uri(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }

    /// The table with a fragment of each of `batches`.
    async fn holding(batches: impl IntoIterator<Item = RecordBatch>) -> Self {
        let watched = Self::new();
        for batch in batches {
            let params = WriteParams {
                mode: if watched.path().is_dir() {
                    WriteMode::Append
                } else {
                    WriteMode::Create
                },
                ..WriteParams::default()
            };
            InsertBuilder::new(watched.uri().as_str())
                .with_params(&params)
                .execute(vec![batch])
                .await
                .expect("a fragment");
        }
        watched
    }

    async fn dataset(&self) -> Dataset {
        Dataset::open(&self.uri()).await.expect("the table opens")
    }

    async fn rows(&self) -> usize {
        let scanned = self.dataset().await.scan().try_into_stream().await;
        let batches: Vec<RecordBatch> = scanned
            .expect("a scan")
            .try_collect()
            .await
            .expect("it reads");
        batches.iter().map(RecordBatch::num_rows).sum()
    }

    async fn store(&self) -> Store {
        let root = self.dir.path().to_string_lossy().into_owned();
        Store::connect(&root, StoreOptions::default())
            .await
            .expect("the directory")
    }

    /// Compacts with `verify`, in a process of its own as far as caches go.
    async fn compact(&self, verify: Verify) -> Result<MaintenanceReport, Error> {
        let limits = CompactionLimits {
            bounds: self.bounds.clone(),
            tasks_per_commit: 8,
            commit_after: Duration::from_secs(60),
            verify,
        };
        let target = Target::Plain("t.lance".to_owned());
        let unwatched = Oversight::default();
        let store = self.store().await;
        store.compact(&target, &limits, &unwatched).await
    }

    async fn tasks(&self) -> Vec<usize> {
        let target = Target::Plain("t.lance".to_owned());
        let store = self.store().await;
        let plan = store.compaction_plan(&target, &self.bounds).await;
        let tasks = plan.expect("a plan").tasks;
        tasks.iter().map(|t| t.fragments.len()).collect()
    }

    async fn health(&self) -> TableHealth {
        let target = Target::Plain("t.lance".to_owned());
        let health = self.store().await.health(&target, &self.bounds).await;
        health.expect("health")
    }

    /// Data and index files, and what a writer would leave of them.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let mut directories = vec![self.path().join("data"), self.path().join("_indices")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    directories.push(path.clone());
                }
                files.insert(path);
            }
        }
        files
    }

    async fn index(&self, kind: IndexType) {
        let mut dataset = self.dataset().await;
        let params = ScalarIndexParams::default();
        dataset
            .create_index(&["id"], kind, Some("i".into()), &params, true)
            .await
            .expect("an index");
    }

    /// How many rows `predicate` finds by index and by scan.
    async fn found(&self, path: &Path, predicate: &str) -> (usize, usize) {
        let dataset = Dataset::open(&path.to_string_lossy()).await.expect("opens");
        let mut counts = [0, 0];
        for (count, by_index) in counts.iter_mut().zip([true, false]) {
            let mut scan = dataset.scan();
            scan.filter(predicate).expect("a predicate");
            scan.use_scalar_index(by_index);
            let stream = scan.try_into_stream().await.expect("a scan");
            let batches: Vec<RecordBatch> = stream.try_collect().await.expect("rows");
            *count = batches.iter().map(RecordBatch::num_rows).sum();
        }
        (counts[0], counts[1])
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("a batch")
}

fn ids(fragment: i64) -> RecordBatch {
    let ids = Int64Array::from_iter_values(fragment * 10..fragment * 10 + 10);
    batch(vec![("id", Arc::new(ids) as ArrayRef)])
}

/// A hundred airports behind keys of eight bits, as pandas and many writers make them.
fn narrow_keys() -> DictionaryArray<Int8Type> {
    let mut column = StringDictionaryBuilder::<Int8Type>::new();
    for row in 0..129 {
        column.append_value(format!("A{:03}", row % 100));
    }
    column.finish()
}

fn in_struct(column: ArrayRef) -> ArrayRef {
    let field = Field::new("code", column.data_type().clone(), true);
    Arc::new(StructArray::from(vec![(Arc::new(field), column)]))
}

fn in_list(column: ArrayRef) -> ArrayRef {
    let mut rows = ListBuilder::new(Int32Builder::new());
    (0..column.len()).for_each(|_| rows.append_value([Some(0)]));
    let offsets = rows.finish().offsets().clone();
    let field = Field::new("item", column.data_type().clone(), true);
    Arc::new(ListArray::new(Arc::new(field), offsets, column, None))
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_with_narrow_keys_are_left_readable() {
    let flat = || Arc::new(narrow_keys()) as ArrayRef;
    let nestings: [(&str, ArrayRef); 3] = [
        ("flat", flat()),
        ("struct", in_struct(flat())),
        ("list", in_list(in_struct(flat()))),
    ];
    for (name, column) in nestings {
        let watched =
            Watched::holding((0..16).map(|_| batch(vec![("airport", column.clone())]))).await;
        let (before, version) = (watched.files(), watched.dataset().await.version().version);
        for verify in [Verify::Counts, Verify::Sample] {
            let failed = watched
                .compact(verify)
                .await
                .expect_err("it cannot be read back");
            assert_eq!(failed.kind(), ErrorKind::Unfit, "{name}: {failed}");
            let said = failed.to_string();
            assert!(
                said.contains("column airport cannot be read back"),
                "{name}: {said}"
            );
            assert!(said.len() < 500 && !said.contains(".rs"), "{name}: {said}");
        }
        assert_eq!(watched.rows().await, 16 * 129, "{name}");
        assert_eq!(watched.files(), before, "{name}: files are left behind");
        assert_eq!(watched.dataset().await.version().version, version, "{name}");
    }
}

/// In the older format Lance's writer refuses what its newer one spoils: as deterministic, so it rests as well, and `check` tells.
#[tokio::test]
async fn dictionaries_that_are_not_written_again_rest_and_are_told() {
    let lake = Lake::new();
    let directory = lake.path("plain").to_string_lossy().into_owned();
    for fragment in 0..4 {
        let mut column = StringDictionaryBuilder::<Int8Type>::new();
        for row in 0..100 {
            column.append_value(format!("{fragment}-{row}"));
        }
        let params = WriteParams {
            mode: match fragment {
                0 => WriteMode::Create,
                _ => WriteMode::Append,
            },
            data_storage_version: "2.0".parse().ok(),
            ..WriteParams::default()
        };
        let rows = batch(vec![("d", Arc::new(column.finish()) as ArrayRef)]);
        let uri = format!("{directory}/t.lance");
        let insert = InsertBuilder::new(&uri).with_params(&params);
        let written = insert.execute(vec![rows]).await;
        written.expect("a fragment");
    }
    let config = lake.path("squire.toml").to_string_lossy().into_owned();
    std::fs::write(&config, "[policy]\nmin_candidate_fragments = 2\n").expect("configuration");
    let run = |args: &[&str]| lake.run(&[args, &["--config", &config]].concat());
    run(&["optimize", &directory]).failed(3, "does not write its rows again");
    run(&["check", &directory]).ok();
    run(&["daemon", &directory, "--once"]).failed(1, "");
    run(&["check", &directory]).failed(3, "until the schema or the release changes");
    run(&["check", &directory, "--nagios"]).failed(1, "WARNING");
}

/// Nulls at every level, an extension, blobs, lists, a dictionary that is wide enough.
fn of_many_types(fragment: i64) -> RecordBatch {
    let rows = 20;
    let some = |row: i64| row % 3 != 0;
    let numbers = || (0..rows).map(|row| some(row).then_some(row + fragment));
    let mut lists = ListBuilder::new(Int32Builder::new());
    for row in 0..rows {
        match row % 4 {
            0 => lists.append_null(),
            1 => lists.append_value(Vec::<Option<i32>>::new()),
            _ => lists.append_value([None, Some(row as i32)]),
        }
    }
    let text = || (0..rows).map(|row| some(row).then(|| format!("text {row} {fragment}")));
    let child: ArrayRef = Arc::new(StringArray::from_iter(text()));
    let fields = Fields::from(vec![Field::new("text", DataType::Utf8, true)]);
    let valid: Vec<bool> = (0..rows).map(|row| row % 5 != 0).collect();
    let blobs =
        LargeBinaryArray::from_iter((0..rows).map(|row| some(row).then(|| vec![row as u8; 100])));
    let blob = Field::new("blob", DataType::LargeBinary, true).with_metadata(HashMap::from([(
        "lance-encoding:blob".into(),
        "true".into(),
    )]));
    let uuids =
        arrow_array::FixedSizeBinaryArray::try_from_iter((0..rows).map(|row| [row as u8; 16]));
    let uuid = Field::new("uuid", DataType::FixedSizeBinary(16), true).with_metadata(
        HashMap::from([("ARROW:extension:name".into(), "arrow.uuid".into())]),
    );
    let floats = numbers().map(|n| n.map(|n| if n % 2 == 0 { f64::NAN } else { n as f64 }));
    let columns: [(Field, ArrayRef); 6] = [
        (
            Field::new("id", DataType::Int64, true),
            Arc::new(Int64Array::from_iter(numbers())),
        ),
        (
            Field::new("float", DataType::Float64, true),
            Arc::new(arrow_array::Float64Array::from_iter(floats)),
        ),
        (
            Field::new("struct", DataType::Struct(fields.clone()), true),
            Arc::new(StructArray::new(fields, vec![child], Some(valid.into()))),
        ),
        (
            Field::new_list("list", Field::new_list_field(DataType::Int32, true), true),
            Arc::new(lists.finish()),
        ),
        (uuid, Arc::new(uuids.expect("uuids"))),
        (blob, Arc::new(blobs)),
    ];
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
}

/// What is right passes, whatever is compared: nested nulls, blobs that move, deleted rows.
#[tokio::test(flavor = "multi_thread")]
async fn rewrites_of_many_types_pass_every_comparison() {
    for verify in [Verify::Counts, Verify::Sample, Verify::Full] {
        let watched = Watched::holding((0..6).map(of_many_types)).await;
        let mut dataset = watched.dataset().await;
        dataset.delete("id < 3 OR id = 21").await.expect("a delete");
        let rows = watched.rows().await;
        let report = watched.compact(verify).await.expect("a compaction");
        assert_eq!((report.fragments_removed, report.fragments_added), (6, 1));
        assert_eq!((report.unfit, watched.rows().await), (vec![], rows));
    }
}

/// Text that compression makes small: 16 fragments of 20 rows of a megabyte, stored in some kilobytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_bounded_by_what_it_decodes() {
    let zstd = HashMap::from([("lance-encoding:compression".into(), "zstd".into())]);
    let schema = Schema::new(vec![
        Field::new("doc", DataType::Utf8, false).with_metadata(zstd),
    ]);
    let schema = Arc::new(schema);
    let doc = "abcdefgh".repeat(1 << 17);
    let rows = || StringArray::from_iter_values(std::iter::repeat_n(&doc, 20));
    let fragment = || RecordBatch::try_new(schema.clone(), vec![Arc::new(rows())]).expect("rows");
    let mut watched = Watched::holding((0..16).map(|_| fragment())).await;
    let stored = watched.health().await.bytes;
    assert!(stored < 32 << 20, "{stored} bytes are stored");
    watched.bounds.max_output_bytes = 90 << 20;
    let tasks = watched.tasks().await;
    assert_eq!(tasks, [4, 4, 4, 4]);
    let report = watched.compact(Verify::Sample).await.expect("a compaction");
    assert_eq!((report.fragments_removed, report.fragments_added), (16, 4));
    assert_eq!(watched.rows().await, 320);
    assert_eq!(
        watched.tasks().await,
        [0; 0],
        "its own output is left alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_finds_its_rows_after_a_rewrite_on_a_deferred_one() {
    let watched = Watched::holding((0..20).map(ids)).await;
    watched.index(IndexType::BTree).await;
    let deferred = CompactionOptions {
        defer_index_remap: true,
        target_rows_per_fragment: 60,
        ..CompactionOptions::default()
    };
    let mut dataset = watched.dataset().await;
    compact_files(&mut dataset, deferred, None)
        .await
        .expect("a deferred compaction");
    dataset.delete("id % 5 = 1").await.expect("a delete");
    let report = watched.compact(Verify::Sample).await.expect("a compaction");
    assert_eq!(report.fragments_added, 1);
    assert_eq!(watched.found(&watched.path(), "id < 20").await, (16, 16));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_keeps_the_fragments_that_an_index_of_its_source_covers() {
    let watched = Watched::holding((0..20).map(ids)).await;
    watched.index(IndexType::BTree).await;
    let clone = Watched::new();
    let mut source = watched.dataset().await;
    let version = source.version().version;
    source
        .shallow_clone(&clone.uri(), version, None)
        .await
        .expect("a clone");
    let report = clone.compact(Verify::Sample).await.expect("nothing to do");
    let Some(Skipped::Unsupported(why)) = &report.skipped else {
        panic!("not skipped: {report:?}");
    };
    assert!(why.contains("index i lies in the table"), "{why}");
    assert_eq!(clone.found(&clone.path(), "id < 20").await, (20, 20));
    assert!(clone.files().is_empty());
}
