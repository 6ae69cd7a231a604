//! Indexes: one that fails is named and stops nothing else; one that lost rows is not extended; one can be withdrawn.

use crate::input::refused;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray,
    StructArray,
};
use arrow_schema::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::optimize::OptimizeOptions;
use lance_index::scalar::{FullTextSearchQuery, InvertedIndexParams, ScalarIndexParams};
use lance_linalg::distance::MetricType;
use serde_json::{Value, json};
use squire_tests::{Done, Lake, tree};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A table with an index of each of its columns, both built, and rows that neither covers.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t"]);
    for (column, kind) in [("id", "btree"), ("value", "bitmap")] {
        lake.run(&["index", &lake.uri, "t", column, "--type", kind])
            .ok();
    }
    write(&lake, 0..300);
    lake.run(&["reindex", &lake.uri]).ok();
    write(&lake, 300..350);
    lake
}

fn write(lake: &Lake, ids: std::ops::Range<i64>) {
    let name = format!("{}.csv", ids.start);
    let rows = lake.csv(&name, ids.map(|id| (id, format!("v{}", id % 7))));
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
}

/// The folders of the table's indexes.
fn folders(lake: &Lake) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(Path::new(&lake.uri).join("t.lance/_indices"));
    let paths = entries.expect("indexes").map(|e| e.expect("entry").path());
    paths.collect()
}

/// The folder of index `name`, at HEAD.
async fn folder_of(lake: &Lake, name: &str) -> PathBuf {
    let uri = format!("{}/t.lance", lake.uri);
    let table = Dataset::open(&uri).await.expect("table");
    let index = table.load_index_by_name(name).await.expect("indexes");
    let uuid = index.expect("built").uuid.to_string();
    Path::new(&uri).join("_indices").join(uuid)
}

fn report(done: &Done) -> Value {
    done.json()["tables"][0]["report"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_files_are_gone_fails_by_name_and_its_sibling_is_extended() {
    let lake = lake();
    let gone = folder_of(&lake, "id_idx").await;
    std::fs::remove_dir_all(&gone).expect("its files");

    let done = lake.run(&["reindex", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(report(&done)["indexes"], json!(["value_idx"]));
    let failed = &report(&done)["failed_indexes"][0];
    let uuid = gone
        .file_name()
        .expect("uuid")
        .to_string_lossy()
        .into_owned();
    assert_eq!(failed[0], "id_idx");
    for part in [uuid.as_str(), "is gone", "--withdraw"] {
        assert!(failed[1].as_str().expect("why").contains(part), "{failed}");
    }

    // Again and again: the same answer, and nothing is written for it.
    let (before, version) = (folders(&lake), lake.table_status("t", "head"));
    let again = lake.run(&["daemon", &lake.uri, "--once"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(lake.run(&["reindex", &lake.uri]).code, Some(1));
    assert_eq!(lake.table_status("t", "head"), version);
    assert_eq!(folders(&lake), before);
}

/// Of an index that covers all rows nothing is asked for; that it can answer nobody has to be told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_damaged_fails_by_name_although_it_covers_everything() {
    let lake = lake();
    lake.run(&["reindex", &lake.uri]).ok();
    let damaged = folder_of(&lake, "value_idx").await;
    let file = std::fs::read_dir(&damaged).expect("its files").next();
    let file = file.expect("one").expect("entry").path();
    let bytes = std::fs::metadata(&file).expect("a file").len();
    let cut = std::fs::OpenOptions::new().write(true).open(&file);
    cut.expect("open").set_len(bytes / 2).expect("cut");
    let name = file.file_name().expect("name").to_string_lossy();
    let what = format!("{name} has {} bytes, not {bytes}", bytes / 2);

    let done = lake.run(&["reindex", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let failed = &report(&done)["failed_indexes"][0];
    assert_eq!(failed[0], "value_idx");
    assert!(failed[1].as_str().expect("why").contains(&what), "{failed}");

    let (before, version) = (folders(&lake), lake.table_status("t", "head"));
    lake.run(&["daemon", &lake.uri, "--once"])
        .failed(1, "value_idx");
    for command in [&["plan", &lake.uri][..], &["status", &lake.uri]] {
        let told = lake.run(command).ok().stdout;
        assert!(told.contains("index value_idx: "), "{told}");
    }
    let dry = lake.run(&["reindex", &lake.uri, "--dry-run"]).ok().stdout;
    assert!(dry.contains(&what), "{dry}");
    assert_eq!(lake.table_status("t", "head"), version);
    assert_eq!(folders(&lake), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_one_index_is_extended_leaves_the_others_alone() {
    let lake = lake();
    let before = folders(&lake);
    let seam = "maintain.before_journal=1*panic(not for this index)";
    let done = lake
        .with_seam(seam, &["reindex", &lake.uri, "--json"])
        .wait();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(report(&done)["failed_indexes"][0][0], "id_idx");
    assert_eq!(report(&done)["indexes"], json!(["value_idx"]));
    assert_eq!(folders(&lake).difference(&before).count(), 1);
    lake.run(&["reindex", &lake.uri]).ok();
    lake.assert_at_rest();
}

async fn append(uri: &str, rows: RecordBatch) -> Dataset {
    let params = WriteParams {
        mode: WriteMode::Append,
        ..WriteParams::default()
    };
    let mut insert = InsertBuilder::new(uri);
    insert = insert.with_params(&params);
    insert.execute(vec![rows]).await.expect("append")
}

async fn found(uri: &str, filter: &str, with_index: bool) -> usize {
    let mut scan = Dataset::open(uri).await.expect("table").scan();
    scan.use_scalar_index(with_index)
        .filter(filter)
        .expect("filter");
    let rows = scan.try_into_batch().await.expect("rows");
    rows.num_rows()
}

/// Where the indexed number of a row stands.
#[derive(Clone, Copy)]
enum Kept {
    Column,
    Struct,
    Json,
    /// As a word, behind one that is in each row.
    Words,
}

impl Kept {
    fn rows(self, ids: std::ops::Range<i64>) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
        let plain = Field::new("id", DataType::Int64, false);
        let (field, column): (Field, ArrayRef) = match self {
            Self::Column => (plain, numbers),
            Self::Struct => {
                let kept = StructArray::from(vec![(Arc::new(plain), numbers)]);
                let kind = kept.data_type().clone();
                (Field::new("kept", kind, false), Arc::new(kept))
            }
            Self::Words => {
                let texts = ids.map(|id| format!("北京 第{id}"));
                let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
                let words = Field::new("words", DataType::Utf8, false);
                let schema = Arc::new(Schema::new(vec![plain, words]));
                return RecordBatch::try_new(schema, vec![numbers, texts]).expect("rows");
            }
            Self::Json => {
                let texts = ids.map(|id| format!("{{\"id\": {id}}}"));
                let name = ("ARROW:extension:name".to_owned(), "arrow.json".to_owned());
                let field = Field::new("kept", DataType::Utf8, false).with_metadata([name].into());
                (field, Arc::new(StringArray::from_iter_values(texts)))
            }
        };
        let schema = Arc::new(Schema::new(vec![field]));
        RecordBatch::try_new(schema, vec![column]).expect("rows")
    }

    /// The number, as a query names it.
    fn value(self) -> &'static str {
        match self {
            Self::Column | Self::Words => "id",
            Self::Struct => "kept.id",
            Self::Json => "json_get_int(kept, 'id')",
        }
    }

    async fn index(self, table: &mut Dataset) {
        if matches!(self, Self::Words) {
            let params = InvertedIndexParams::default();
            let build = table.create_index(&["words"], IndexType::Inverted, None, &params, false);
            build.await.expect("index");
            return;
        }
        let (column, kind, params) = match self {
            Self::Column | Self::Words => ("id", IndexType::BTree, ScalarIndexParams::default()),
            Self::Struct => ("kept.id", IndexType::BTree, ScalarIndexParams::default()),
            Self::Json => {
                let path = json!({ "target_index_type": "btree", "path": "id" });
                let params = ScalarIndexParams::new("json".into()).with_params(&path);
                ("kept", IndexType::Scalar, params)
            }
        };
        let (columns, name) = ([column], Some("numbers".to_owned()));
        let build = table.create_index(&columns, kind, name, &params, false);
        build.await.expect("index");
    }
}

/// A plain table whose index finds nothing any more: it was remapped past a fragment-reuse index. Lance says nothing.
async fn lossy(uri: &str, kept: Kept) {
    let insert = InsertBuilder::new(uri);
    insert
        .execute(vec![kept.rows(0..50)])
        .await
        .expect("create");
    let mut table = append(uri, kept.rows(50..100)).await;
    kept.index(&mut table).await;
    let deferred = CompactionOptions {
        defer_index_remap: true,
        ..CompactionOptions::default()
    };
    compact_files(&mut table, deferred, None)
        .await
        .expect("compaction");
    let fifth = format!("{} % 5 = 1", kept.value());
    table.delete(&fifth).await.expect("delete");
    let eager = CompactionOptions::default();
    compact_files(&mut table, eager, None)
        .await
        .expect("compaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lost_rows_is_built_anew_and_nothing_is_left_of_what_was_unfit() {
    for kept in [Kept::Column, Kept::Struct, Kept::Json] {
        is_built_anew(kept, true).await;
    }
}

/// A compaction of another client's leaves nothing to be indexed, and an index that finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lost_rows_is_built_anew_although_it_covers_everything() {
    is_built_anew(Kept::Column, false).await;
}

/// `waits`: there are also rows that the index does not cover.
async fn is_built_anew(kept: Kept, waits: bool) {
    let lake = Lake::new();
    let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
    let few = format!("{} < 10", kept.value());
    lossy(&uri, kept).await;
    assert_eq!(found(&uri, &few, false).await, 8);
    assert_eq!(found(&uri, &few, true).await, 0, "Lance mended it");
    if waits {
        append(&uri, kept.rows(100..150)).await;
    }
    let indices = Path::new(&uri).join("_indices");
    let before = std::fs::read_dir(&indices).expect("indexes").count();

    let done = lake.run(&["reindex", &uri, "--json"]).ok();
    let rebuilt = report(&done)["rebuilt_indexes"][0].clone();
    assert_eq!(rebuilt[0], "numbers", "{done:?}");
    let why = rebuilt[1].as_str().expect("why");
    assert!(why.contains("where a scan finds"), "{rebuilt}");
    assert_eq!(found(&uri, &few, true).await, 8);
    let after = std::fs::read_dir(&indices).expect("indexes").count();
    assert_eq!(after, before + 1);
}

/// How many rows a text index finds that hold `word`.
async fn holding(uri: &str, word: &str) -> usize {
    let query = FullTextSearchQuery::new(word.to_owned());
    let query = query.with_column("words".to_owned()).expect("a query");
    let mut scan = Dataset::open(uri).await.expect("table").scan();
    scan.full_text_search(query).expect("a query");
    scan.try_into_batch().await.expect("rows").num_rows()
}

/// Extended, it finds what it found before, and no one looks for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_index_that_had_lost_rows_is_built_anew_when_it_is_extended() {
    let lake = Lake::new();
    let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
    lossy(&uri, Kept::Words).await;
    append(&uri, Kept::Words.rows(100..150)).await;
    assert_eq!(holding(&uri, "北京").await, 50, "Lance mended it");
    let done = lake.run(&["reindex", &uri, "--json"]).ok();
    let rebuilt = report(&done)["rebuilt_indexes"].clone();
    assert_eq!(rebuilt[0][0], "words_idx", "{done:?}");
    assert_eq!(holding(&uri, "北京").await, 130);
}

/// A disk that is full or does not let write has said that the version is not there.
#[test]
fn nothing_is_left_of_an_index_whose_version_cannot_be_put() {
    let mut lake = lake();
    let before = folders(&lake);
    let head = lake.table_status("t", "head").as_u64().expect("a number");
    let next = format!("t.lance/_versions/{}.manifest", u64::MAX - head - 1);
    let faults = format!("deny={next}");
    lake.env.push(("SQUIRE_FAULTS".to_owned(), faults));
    let done = lake.run(&["reindex", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let failed = report(&done)["failed_indexes"].clone();
    assert_eq!(failed.as_array().map(Vec::len), Some(2), "{failed}");
    assert!(
        failed.to_string().contains("where that stays so, "),
        "{failed}"
    );
    assert_eq!(folders(&lake), before);
    lake.env.pop();
    lake.run(&["reindex", &lake.uri]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_an_index_that_cannot_be_read() {
    let lake = Lake::new();
    let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
    let insert = InsertBuilder::new(uri.as_str());
    let mut table = insert
        .execute(vec![Kept::Column.rows(0..3_000)])
        .await
        .expect("create");
    let params = ScalarIndexParams::default();
    let build = table.create_index(&["id"], IndexType::BTree, None, &params, false);
    build.await.expect("index");
    append(&uri, Kept::Column.rows(3_000..3_050)).await;
    for file in tree(Path::new(&uri)) {
        let file = Path::new(&uri).join(file);
        if file.starts_with(Path::new(&uri).join("_indices")) && file.is_file() {
            let size = std::fs::metadata(&file).expect("file").len();
            std::fs::write(&file, vec![7; usize::try_from(size).expect("small")]).expect("file");
        }
    }
    let before = tree(Path::new(&uri));
    let done = lake.run(&["reindex", &uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(report(&done)["failed_indexes"][0][0], "id_idx");
    assert_eq!(tree(Path::new(&uri)), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_index_is_gone_and_not_built_again() {
    let lake = lake();
    let withdraw = ["index", &lake.uri, "t", "id", "--withdraw"];
    lake.run(&withdraw).ok();
    lake.run(&["reindex", &lake.uri]).ok();
    let indexes = lake.table_status("t", "indexes");
    assert_eq!(indexes.as_array().expect("indexes").len(), 1, "{indexes}");
    assert_eq!(indexes[0]["name"], "value_idx");
    lake.run(&withdraw).failed(1, "no index \"id_idx\"");
    lake.assert_at_rest();

    // It can be declared again, as another type.
    lake.run(&["index", &lake.uri, "t", "id", "--type", "bitmap"])
        .ok();
    lake.run(&["reindex", &lake.uri]).ok();
    assert_eq!(
        lake.table_status("t", "indexes").as_array().map(Vec::len),
        Some(2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reindex_writes_nothing() {
    let lake = lake();
    lake.run(&["reindex", &lake.uri]).ok();
    let before = tree(&Path::new(&lake.uri).join("t.lance"));
    let again = lake.run(&["reindex", &lake.uri, "--json"]).ok();
    assert_eq!(report(&again)["indexes"], json!([]));
    assert_eq!(tree(&Path::new(&lake.uri).join("t.lance")), before);
}

/// A key tells the two zeros apart where a filter does not, so they say nothing of an index.
#[test]
fn a_column_with_both_zeros_is_indexed() {
    let lake = Lake::new();
    let file = |rows: &str| {
        let path = lake.path("rows.csv");
        std::fs::write(&path, format!("a,f\n{rows}")).expect("rows");
        path.to_string_lossy().into_owned()
    };
    let first = file("1,0.0\n2,1.5\n");
    lake.run(&["create", &lake.uri, "t", "--like", &first]).ok();
    lake.run(&["write", &lake.uri, "t", &first]).ok();
    for kind in ["btree", "bitmap"] {
        let name = format!("of_{kind}");
        let index = [
            "index", &lake.uri, "t", "f", "--type", kind, "--name", &name,
        ];
        lake.run(&index).ok();
    }
    lake.run(&["reindex", &lake.uri]).ok();
    lake.run(&["write", &lake.uri, "t", &file("3,-0.0\n4,2.5\n")])
        .ok();
    lake.run(&["reindex", &lake.uri]).ok();
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
}

/// 16 random numbers a row, the same at every run.
fn vectors(rows: std::ops::Range<u64>) -> RecordBatch {
    let numbers = rows.flat_map(|row| {
        let mut state = row.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u32 << 24) as f32
        })
        .take(16)
    });
    let numbers = Float32Array::from_iter_values(numbers);
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::new(item, 16, Arc::new(numbers), None);
    RecordBatch::try_from_iter([("vec", Arc::new(vectors) as ArrayRef)]).expect("rows")
}

/// How many of the ten rows that are truly nearest to each of some vectors the index finds.
async fn recall(uri: &str) -> usize {
    let table = Dataset::open(uri).await.expect("table");
    let asked = vectors(0..8);
    let asked = asked["vec"].as_fixed_size_list();
    let mut found = 0;
    for vector in asked.iter().flatten() {
        let mut rows = Vec::new();
        for with_index in [false, true] {
            let mut scan = table.scan();
            scan.project::<&str>(&[]).expect("projection").with_row_id();
            scan.nearest("vec", vector.as_ref(), 10).expect("query");
            scan.distance_metric(MetricType::Dot)
                .refine(10)
                .use_index(with_index);
            let batch = scan.try_into_batch().await.expect("rows");
            let ids = batch["_rowid"].as_primitive::<UInt64Type>();
            rows.push(ids.values().iter().copied().collect::<BTreeSet<u64>>());
        }
        found += rows[0].intersection(&rows[1]).count();
    }
    found
}

/// A plain table of so many vectors, and its URI.
async fn of_vectors(lake: &Lake, rows: u64) -> (String, Dataset) {
    let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
    let insert = InsertBuilder::new(uri.as_str());
    let created = insert.execute(vec![vectors(0..rows)]).await;
    (uri, created.expect("create"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lance_extends_badly_is_built_anew() {
    let lake = Lake::new();
    let (uri, mut table) = of_vectors(&lake, 600).await;
    let params = VectorIndexParams::ivf_pq(2, 8, 4, MetricType::Dot, 50);
    let build = table.create_index(&["vec"], IndexType::IvfPq, None, &params, false);
    build.await.expect("index");
    append(&uri, vectors(600..900)).await;
    let before = recall(&uri).await;

    // What it would be if Lance merged.
    let copy = lake.path("copy.lance").to_string_lossy().into_owned();
    let copied = std::process::Command::new("cp")
        .args(["-r", &uri, &copy])
        .status();
    assert!(copied.expect("cp").success());
    let mut merged = Dataset::open(&copy).await.expect("table");
    let options = OptimizeOptions::merge(1);
    merged.optimize_indices(&options).await.expect("merge");
    let worse = recall(&copy).await;
    assert!(worse < before / 2, "Lance mended it: {worse} of {before}");

    lake.run(&["reindex", &uri]).ok();
    let after = recall(&uri).await;
    assert!(after >= before * 3 / 4, "{after} of {before}");
    let again = lake.run(&["reindex", &uri, "--json"]).ok();
    assert_eq!(report(&again)["indexes"], json!([]));
}

/// Lance answers a search from any one of them.
#[tokio::test(flavor = "multi_thread")]
async fn two_indexes_of_one_column_of_vectors_are_both_extended() {
    let lake = Lake::new();
    let (uri, mut table) = of_vectors(&lake, 60).await;
    let params = VectorIndexParams::ivf_flat(2, MetricType::L2);
    for name in ["one", "two"] {
        let name = Some(name.to_owned());
        let build = table.create_index(&["vec"], IndexType::IvfFlat, name, &params, false);
        build.await.expect("index");
    }
    append(&uri, vectors(100..114)).await;

    lake.run(&["reindex", &uri]).ok();
    let table = Dataset::open(&uri).await.expect("table");
    for name in ["one", "two"] {
        let segments = table.load_indices_by_name(name).await.expect("index");
        let covered = segments.iter().filter_map(|s| s.fragment_bitmap.as_ref());
        let covered: BTreeSet<u32> = covered.flat_map(|bitmap| bitmap.iter()).collect();
        assert_eq!(covered, BTreeSet::from([0, 1]), "{name}");
    }
    let again = lake.run(&["reindex", &uri, "--json"]).ok();
    assert_eq!(report(&again)["indexes"], json!([]));
}

/// Of stop words a text index keeps nothing. It has not lost them.
#[test]
fn an_index_is_built_over_what_it_leaves_out() {
    let lake = Lake::with_tables(&["t"]);
    lake.run(&["index", &lake.uri, "t", "value", "--type", "inverted"])
        .ok();
    let rows = lake.csv("rows.csv", (0..100).map(|id| (id, "the".to_owned())));
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    let done = lake.run(&["reindex", &lake.uri, "--json"]).ok();
    assert_eq!(report(&done)["indexes"], json!(["value_idx"]));
    let again = lake.run(&["reindex", &lake.uri, "--json"]).ok();
    assert_eq!(report(&again)["rebuilt_indexes"], json!([]));
}

/// Neither nulls nor what is no number is anything to train by: the index waits for vectors, and comes when they do.
#[test]
fn an_index_over_vectors_that_are_none_yet_is_pending() {
    let lake = Lake::with_tables(&["u"]);
    let schema = lake.path("types.json").to_string_lossy().into_owned();
    let columns =
        r#"[{"name":"id","type":"int64"},{"name":"vec","type":"fixed_size_list<float32,2>"}]"#;
    std::fs::write(&schema, columns).expect("schema file");
    lake.run(&["create", &lake.uri, "t", "--schema", &schema])
        .ok();
    let write = |vector: &dyn Fn(i64) -> String| {
        let rows: String = (0..300)
            .map(|id| format!("{{\"id\":{id},\"vec\":{}}}\n", vector(id)))
            .collect();
        let file = lake.path("rows.ndjson").to_string_lossy().into_owned();
        std::fs::write(&file, rows).expect("rows");
        lake.run(&["write", &lake.uri, "t", &file]).ok();
    };
    write(&|_| String::from("null"));
    for kind in ["ivf_flat", "ivf_pq"] {
        let index = [
            "index", &lake.uri, "t", "vec", "--type", kind, "--name", kind,
        ];
        lake.run(&index).ok();
    }
    let reindex = ["reindex", &lake.uri, "--table", "t", "--json"];
    let waiting = report(&lake.run(&reindex).ok());
    let pending = waiting["pending_indexes"].as_array().expect("pending");
    assert_eq!(pending.len(), 2, "{waiting:#}");
    assert_eq!(waiting["failed_indexes"], json!([]));
    write(&|id| format!("[{id}, {}]", id % 7));
    let built = report(&lake.run(&reindex).ok());
    assert_eq!(built["indexes"], json!(["ivf_flat", "ivf_pq"]), "{built:#}");
}

/// Declared, each would fail at every reindex; the store is as it was.
#[test]
fn an_index_that_lance_cannot_build_is_not_declared() {
    let lake = Lake::with_tables(&["t"]);
    let schema = lake.path("types.json").to_string_lossy().into_owned();
    let columns = r#"[{"name":"text","type":"utf8"},{"name":"number","type":"float64"},{"name":"vec","type":"fixed_size_list<float32,8>"}]"#;
    std::fs::write(&schema, columns).expect("schema file");
    lake.run(&["create", &lake.uri, "u", "--schema", &schema])
        .ok();
    for (column, kind, fits) in [
        ("text", "label_list", "inverted"),
        ("number", "inverted", "btree, bitmap"),
        ("number", "ivf_flat", "btree, bitmap"),
        ("vec", "btree", "ivf_flat, ivf_pq"),
    ] {
        let index = ["index", &lake.uri, "u", column, "--type", kind];
        refused(&lake, &index, 2, &["table u", column, kind, fits]);
    }
    for name in ["", " ", "a//", "\u{1b}[2J", "__mem_wal"] {
        let index = [
            "index", &lake.uri, "t", "id", "--type", "btree", "--name", name,
        ];
        let done = refused(&lake, &index, 2, &["is no name of an index"]);
        assert!(!done.stderr.contains('\u{1b}'), "{done:?}");
    }
}
