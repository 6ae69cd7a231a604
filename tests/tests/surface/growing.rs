//! How an index grows: by segments that are merged in tiers, found complete by whatever asks, at the price of a few writes of each byte.

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, FixedSizeListArray, Int64Array, RecordBatch, StringArray};
use lance::Dataset;
use lance::dataset::{InsertBuilder, UpdateBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::scalar::{
    BuiltinIndexType, FullTextSearchQuery, InvertedIndexParams, ScalarIndexParams,
};
use lance_index::{IndexParams, IndexType};
use lance_linalg::distance::MetricType;
use serde_json::Value;
use squire_engine::commit::{CommitRequest, TableWrite, Write};
use squire_engine::ids::TableName;
use squire_engine::maintenance::{
    CompactionLimits, MaintenanceReport, Oversight, Reindexing, Target, Verify,
};
use squire_engine::store::state::IndexDeclaration;
use squire_engine::store::{Store, StoreOptions};
use squire_tests::{Lake, bounds};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const TABLE: &str = "t.lance";

/// Segments of an index, at most.
const MOST: usize = 8;

/// The indexes of the table: one of each kind that Lance extends, by its name, its column and its type.
const INDEXES: [(&str, &str, IndexType); 9] = [
    ("btree", "id", IndexType::BTree),
    ("bitmap", "kind", IndexType::Bitmap),
    ("labels", "labels", IndexType::LabelList),
    ("zones", "zone", IndexType::ZoneMap),
    ("bloom", "bloom", IndexType::BloomFilter),
    ("words", "text", IndexType::Inverted),
    ("parts", "part", IndexType::NGram),
    ("flat", "place", IndexType::IvfFlat),
    ("pq", "point", IndexType::IvfPq),
];

/// Ten numbers that look like chance, the same for each id.
fn vector_of(id: i64) -> [f32; 8] {
    let mut state = id.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u32 << 24) as f32
    })
}

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let numbers = || Arc::new(Int64Array::from_iter_values(ids.clone())) as ArrayRef;
    let texts = |of: fn(i64) -> String| {
        Arc::new(StringArray::from_iter_values(ids.clone().map(of))) as ArrayRef
    };
    let mut labels = ListBuilder::new(StringBuilder::new());
    for id in ids.clone() {
        labels.append_value([Some(format!("l{}", id % 5)), Some(format!("m{}", id % 11))]);
    }
    let vectors = || {
        let vectors = ids.clone().map(|id| Some(vector_of(id).map(Some)));
        let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 8);
        Arc::new(vectors) as ArrayRef
    };
    RecordBatch::try_from_iter([
        ("id", numbers()),
        ("kind", texts(|id| format!("k{}", id % 7))),
        ("labels", Arc::new(labels.finish()) as ArrayRef),
        ("zone", numbers()),
        ("bloom", numbers()),
        ("text", texts(|id| format!("word{} common", id % 97))),
        ("part", texts(|id| format!("part{}of{}", id % 13, id % 3))),
        ("place", vectors()),
        ("point", vectors()),
    ])
    .expect("rows")
}

/// A table in a watched directory, and an engine under which small indexes are worth as much thought as large ones.
struct Growing {
    dir: TempDir,
    store: Store,
}

impl Growing {
    /// With an index of each of `kinds` over `base` rows.
    async fn of(kinds: &[&str], base: i64, whole_index: u64) -> Self {
        let dir = TempDir::new().expect("a directory");
        let uri = dir.path().join(TABLE).to_string_lossy().into_owned();
        let insert = InsertBuilder::new(uri.as_str());
        let mut table = insert.execute(vec![rows(0..base)]).await.expect("created");
        for (name, column, kind) in INDEXES.iter().filter(|(name, ..)| kinds.contains(name)) {
            let params: Box<dyn IndexParams> = match kind {
                IndexType::IvfFlat => Box::new(VectorIndexParams::ivf_flat(2, MetricType::L2)),
                IndexType::IvfPq => {
                    Box::new(VectorIndexParams::ivf_pq(2, 8, 4, MetricType::L2, 20))
                }
                IndexType::Inverted => Box::new(InvertedIndexParams::default()),
                IndexType::ZoneMap => {
                    Box::new(ScalarIndexParams::for_builtin(BuiltinIndexType::ZoneMap))
                }
                IndexType::BloomFilter => Box::new(ScalarIndexParams::for_builtin(
                    BuiltinIndexType::BloomFilter,
                )),
                _ => Box::new(ScalarIndexParams::default()),
            };
            let columns = [*column];
            let build = table.create_index_builder(&columns, *kind, params.as_ref());
            build.name((*name).to_owned()).await.expect(name);
        }
        let options = StoreOptions {
            whole_index,
            ..StoreOptions::default()
        };
        let root = dir.path().to_string_lossy().into_owned();
        let store = Store::connect(&root, options).await.expect("a directory");
        Self { dir, store }
    }

    fn path(&self) -> String {
        self.dir.path().join(TABLE).to_string_lossy().into_owned()
    }

    async fn open(&self) -> Dataset {
        Dataset::open(&self.path()).await.expect("the table")
    }

    async fn append(&self, ids: std::ops::Range<i64>) {
        let params = WriteParams {
            mode: WriteMode::Append,
            ..WriteParams::default()
        };
        let path = self.path();
        let insert = InsertBuilder::new(path.as_str()).with_params(&params);
        insert.execute(vec![rows(ids)]).await.expect("appended");
    }

    /// Every index follows, extended and not built anew.
    async fn reindex(&self) -> MaintenanceReport {
        let (target, oversight) = (Target::Plain(TABLE.to_owned()), Oversight::default());
        let done = self
            .store
            .reindex(&target, &Reindexing::default(), &oversight)
            .await;
        let report = done.expect("a reindex");
        assert_eq!(report.failed_indexes, [], "{report:?}");
        assert_eq!(report.rebuilt_indexes, [], "{report:?}");
        report
    }

    async fn compact(&self) -> u64 {
        let limits = CompactionLimits {
            bounds: bounds(),
            tasks_per_commit: 8,
            commit_after: Duration::from_secs(60),
            verify: Verify::default(),
        };
        let (target, oversight) = (Target::Plain(TABLE.to_owned()), Oversight::default());
        let done = self.store.compact(&target, &limits, &oversight).await;
        done.expect("a compaction").fragments_removed
    }

    /// How many segments each index has.
    async fn segments(&self) -> BTreeMap<String, usize> {
        let mut segments = BTreeMap::new();
        for index in self
            .open()
            .await
            .load_indices()
            .await
            .expect("indexes")
            .iter()
        {
            *segments.entry(index.name.clone()).or_default() += 1;
        }
        segments
    }

    /// Each index finds what a scan finds: a key, a label, a word, a part of each age; and of vectors the row itself.
    async fn assert_complete(&self, ids: i64) {
        let table = self.open().await;
        let some = [0, ids / 3, ids / 2, ids - 2, ids - 1];
        for id in some {
            for filter in [
                format!("id = {id}"),
                format!("kind = 'k{}'", id % 7),
                format!("array_has_any(labels, ['m{}'])", id % 11),
                format!("zone = {id}"),
                format!("bloom = {id}"),
                format!("contains(part, 'part{}of')", id % 13),
            ] {
                let count = async |with_index: bool| {
                    let mut scan = table.scan();
                    scan.use_scalar_index(with_index)
                        .filter(&filter)
                        .expect("a filter");
                    scan.project::<&str>(&[]).expect("nothing").with_row_id();
                    scan.try_into_batch().await.expect("rows").num_rows()
                };
                assert_eq!(count(true).await, count(false).await, "{filter}");
            }
            let word = format!("word{}", id % 97);
            let query = FullTextSearchQuery::new(word.clone());
            let mut scan = table.scan();
            let query = query.with_column("text".to_owned()).expect("a column");
            scan.full_text_search(query).expect("a query");
            let found = scan.project(&["id"]).expect("ids").try_into_batch().await;
            let words = table
                .count_rows(Some(format!("text LIKE '{word} %'")))
                .await;
            assert_eq!(
                found.expect("rows").num_rows(),
                words.expect("a count"),
                "{word}"
            );
        }
        for column in ["place", "point"] {
            let mut missed = 0;
            for id in (0..ids).step_by(usize::try_from(ids / 20).expect("some")) {
                let is_there = table.count_rows(Some(format!("id = {id}"))).await;
                let query = arrow_array::Float32Array::from(vector_of(id).to_vec());
                let mut scan = table.scan();
                scan.nearest(column, &query, 3).expect("a query").refine(10);
                let batch = scan
                    .project(&["_distance"])
                    .expect("rows")
                    .try_into_batch()
                    .await;
                let batch = batch.expect("rows");
                let nearest = batch["_distance"].as_primitive::<Float32Type>();
                let own = !nearest.is_empty() && nearest.value(0) < 1e-3;
                missed += usize::from(is_there.expect("a count") > 0 && !own);
            }
            assert!(missed <= 1, "{column} misses {missed}");
        }
    }
}

/// Writers append, delete and update; every index of every kind follows by deltas that are merged in tiers, and a compaction moves
/// them all.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_any_kind_grows_by_deltas_and_finds_all_rows() {
    let kinds = INDEXES.map(|(name, ..)| name);
    let growing = Growing::of(&kinds, 1_200, 0).await;
    let mut most = BTreeMap::new();
    let mut ids = 1_200;
    for round in 0..10 {
        growing.append(ids..ids + 120).await;
        ids += 120;
        if round % 3 == 1 {
            let mut table = growing.open().await;
            table
                .delete(&format!("id % 50 = {round}"))
                .await
                .expect("deleted");
            let update = UpdateBuilder::new(Arc::new(growing.open().await));
            let update = update
                .update_where(&format!("id % 40 = {round}"))
                .expect("where");
            let update = update.set("kind", "'k3'").expect("set");
            let update = update.build().expect("an update").execute().await;
            update.expect("updated");
        }
        let report = growing.reindex().await;
        assert_eq!(report.indexes.len(), kinds.len(), "{report:?}");
        for (name, segments) in growing.segments().await {
            let most = most.entry(name).or_insert(0);
            *most = segments.max(*most);
        }
        if round == 6 {
            growing.assert_complete(ids).await;
        }
    }
    for name in kinds {
        let segments = most[name];
        assert!((2..=MOST).contains(&segments), "{name}: {most:?}");
    }
    growing.assert_complete(ids).await;
    assert!(growing.compact().await > 0);
    growing.assert_complete(ids).await;
}

/// Where ids of rows are stable, a segment that is left as it is would find updated rows under their old values.
#[tokio::test(flavor = "multi_thread")]
async fn with_stable_row_ids_an_index_stays_in_one_piece() {
    let dir = TempDir::new().expect("a directory");
    let uri = dir.path().join(TABLE).to_string_lossy().into_owned();
    let params = WriteParams {
        enable_stable_row_ids: true,
        ..WriteParams::default()
    };
    let insert = InsertBuilder::new(uri.as_str()).with_params(&params);
    let mut table = insert.execute(vec![rows(0..500)]).await.expect("created");
    let (kind, params) = (IndexType::Bitmap, ScalarIndexParams::default());
    let build = table.create_index(&["kind"], kind, Some("bitmap".into()), &params, false);
    build.await.expect("an index");
    let options = StoreOptions {
        whole_index: 0,
        ..StoreOptions::default()
    };
    let root = dir.path().to_string_lossy().into_owned();
    let store = Store::connect(&root, options).await.expect("a directory");
    let growing = Growing { dir, store };
    for round in 0..4 {
        growing.append(500 + round * 20..520 + round * 20).await;
        growing.reindex().await;
    }
    assert_eq!(growing.segments().await["bitmap"], 1);
}

/// Another client built two segments, each with centroids of its own, which Lance cannot merge. The last is extended alone, and nothing
/// is left of the try.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_do_not_merge_are_extended_all_the_same() {
    let growing = Growing::of(&[], 400, u64::MAX).await;
    growing.append(400..800).await;
    let mut table = growing.open().await;
    let params = VectorIndexParams::ivf_flat(2, MetricType::L2);
    let mut segments = Vec::new();
    for fragment in [0, 1] {
        let build = table.create_index_builder(&["place"], IndexType::IvfFlat, &params);
        let mut build = build.name(String::from("flat")).fragments(vec![fragment]);
        segments.push(build.execute_uncommitted().await.expect("a segment"));
    }
    let committed = table.commit_existing_index_segments("flat", "place", segments);
    committed.await.expect("an index");
    growing.append(800..900).await;
    assert_eq!(growing.reindex().await.indexes, ["flat"]);
    assert_eq!(growing.segments().await["flat"], 2);
    let folders = std::fs::read_dir(growing.dir.path().join(TABLE).join("_indices"));
    // Those two, and what the last one became.
    assert_eq!(folders.expect("indexes").count(), 3);
}

/// What 40 extensions by a fortieth write into each index, by its name.
async fn forty_extensions(kinds: &[&str], whole_index: u64) -> BTreeMap<String, u64> {
    const BASE: i64 = 8_000;
    let growing = Growing::of(kinds, BASE, whole_index).await;
    let mut bytes = BTreeMap::new();
    for round in 0..40 {
        let first = BASE + round * BASE / 40;
        growing.append(first..first + BASE / 40).await;
        for (name, of) in growing.reindex().await.index_bytes {
            *bytes.entry(name).or_default() += of;
        }
    }
    let segments = growing.segments().await;
    println!("whole up to {whole_index}: {bytes:?} bytes in {segments:?} segments");
    assert!(segments.values().all(|segments| *segments <= MOST));
    bytes
}

/// Both ways from one run: as before, in one piece, and in tiers.
#[tokio::test(flavor = "multi_thread")]
async fn forty_extensions_write_a_fraction_of_what_whole_indexes_would() {
    let kinds = ["btree", "words", "pq"];
    let (whole, deltas) = tokio::join!(
        forty_extensions(&kinds, u64::MAX),
        forty_extensions(&kinds, 0)
    );
    for name in kinds {
        let (whole, deltas) = (whole[name], deltas[name]);
        assert!(
            deltas * 3 < whole,
            "{name}: {deltas} bytes instead of {whole}"
        );
    }
}

/// What is declared follows its table: four times as many partitions are needed, and the index is built anew, once.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_that_outgrew_their_partitions_are_trained_anew() {
    let lake = Lake::new();
    let store = lake.store().await;
    let table: TableName = "t".parse().expect("a name");
    let of = |ids: std::ops::Range<i64>| {
        let rows = rows(ids);
        let columns = [0, 7].map(|i| {
            (
                rows.schema().field(i).name().clone(),
                rows.column(i).clone(),
            )
        });
        RecordBatch::try_from_iter(columns).expect("rows")
    };
    let commit = async |write: Write| {
        let table = table.clone();
        let request = CommitRequest::new(vec![TableWrite { table, write }]);
        store.commit(&request).await.expect("a commit");
    };
    commit(Write::Create {
        schema: of(0..1).schema(),
        key: None,
    })
    .await;
    let declaration = IndexDeclaration {
        column: String::from("place"),
        kind: String::from("ivf_flat"),
    };
    let declared = store.declare_index(&table, "near", declaration).await;
    declared.expect("declared");
    let (target, oversight) = (Target::Pinned(table.clone()), Oversight::default());
    let reindex = async || {
        let done = store
            .reindex(&target, &Reindexing::default(), &oversight)
            .await;
        let report = done.expect("a reindex");
        assert_eq!(report.failed_indexes, [], "{report:?}");
        let head = Dataset::open(&format!("{}/t.lance", lake.uri)).await;
        let statistics = head.expect("the table").index_statistics("near").await;
        let statistics: Value = serde_json::from_str(&statistics.expect("some")).expect("JSON");
        let partitions = statistics["indices"][0]["num_partitions"].as_u64();
        (report.indexes, report.rebuilt_indexes, partitions)
    };
    let near = vec![String::from("near")];
    for (ids, partitions) in [(0..300, 1), (300..12_000, 1)] {
        commit(Write::Append(vec![of(ids)].into())).await;
        assert_eq!(reindex().await, (near.clone(), vec![], Some(partitions)));
    }
    commit(Write::Append(vec![of(12_000..12_300)].into())).await;
    let why = "it was trained with 1 partitions, and the 12300 rows of the table need 4";
    let rebuilt = vec![(String::from("near"), why.to_owned())];
    assert_eq!(reindex().await, (vec![], rebuilt, Some(4)));
    commit(Write::Append(vec![of(12_300..12_400)].into())).await;
    assert_eq!(reindex().await, (near, vec![], Some(4)));
    assert_eq!(reindex().await, (vec![], vec![], Some(4)));
}
