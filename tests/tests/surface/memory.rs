//! `[budget] memory` bounds the process, whatever the table: its peak is measured over a whole pass.

use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int64Array, LargeBinaryArray, RecordBatch,
    RecordBatchIterator, StringArray,
};
use arrow_schema::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use squire_tests::Lake;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

const BUDGET: u64 = 256 << 20;

/// What the process may have resident besides: its code, stacks, and what the allocator does not give back.
const BESIDE: u64 = 256 << 20;

/// Bytes that do not compress; values are parts of it.
fn noise() -> Vec<u8> {
    let mut bits = 1_u64;
    let next = |_| {
        // Knuth's MMIX generator: the same in every run.
        bits = bits.wrapping_mul(6_364_136_223_846_793_005);
        bits = bits.wrapping_add(1_442_695_040_888_963_407);
        b'a' + u8::try_from(bits >> 60).expect("four bits")
    };
    (0..4 << 20).map(next).collect()
}

/// A part of `noise` for each of `rows`, of `bytes` bytes.
fn parts(noise: &[u8], rows: Range<i64>, bytes: usize) -> impl Iterator<Item = &[u8]> {
    rows.map(move |row| {
        let at = usize::try_from(row).expect("a row") * 7_919 % (noise.len() - bytes);
        &noise[at..at + bytes]
    })
}

/// A table: its fragments, the rows of each, and the column beside the ids.
struct Shape<'a> {
    fragments: i64,
    rows: i64,
    field: Field,
    values: &'a dyn Fn(Range<i64>) -> ArrayRef,
}

impl Shape<'_> {
    fn batch(&self, rows: Range<i64>) -> RecordBatch {
        let id = Field::new("id", DataType::Int64, false);
        let schema = Arc::new(Schema::new(vec![id, self.field.clone()]));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
        RecordBatch::try_new(schema, vec![ids, (self.values)(rows)]).expect("a batch")
    }

    /// Appends these of its fragments to the table at `uri`, or makes it of them.
    async fn append(&self, uri: &str, fragments: Range<i64>) -> Dataset {
        let schema = self.batch(0..0).schema();
        let batches: Vec<_> = fragments
            .map(|f| Ok(self.batch(f * self.rows..(f + 1) * self.rows)))
            .collect();
        let params = WriteParams {
            mode: WriteMode::Append,
            max_rows_per_file: usize::try_from(self.rows).expect("rows"),
            ..WriteParams::default()
        };
        let reader = RecordBatchIterator::new(batches, schema);
        let written = Dataset::write(reader, uri, Some(params)).await;
        written.expect("a table")
    }
}

/// A pass over the table at `uri` below `lake`: it stays in its budget, and does what there is to do.
async fn assert_bounded(lake: &Lake, uri: &str) {
    let before = Dataset::open(uri).await.expect("the table");
    let config = lake.path("squire.toml");
    let text = format!("[budget]\nmemory = \"{}MiB\"\n", BUDGET >> 20);
    std::fs::write(&config, text).expect("the configuration");
    let config = config.to_string_lossy().into_owned();
    let folder = lake.path("watched").to_string_lossy().into_owned();
    let pass = lake.start(&["daemon", &folder, "--once", "--config", &config]);
    let (done, peak) = pass.wait_for_peak();
    done.ok();
    println!("{} MiB at the peak", peak >> 20);
    assert!(
        peak < BUDGET + BESIDE,
        "{} MiB at the peak, and {} MiB are the budget",
        peak >> 20,
        BUDGET >> 20
    );
    let after = Dataset::open(uri).await.expect("the table");
    let (was, is) = (before.fragments().len(), after.fragments().len());
    assert!(is * 2 <= was, "{is} of {was} fragments are left");
    let rows = |of: Dataset| async move { of.count_rows(None).await.expect("rows") };
    assert_eq!(rows(before).await, rows(after).await);
}

async fn assert_shape_is_bounded(shape: Shape<'_>) {
    let lake = Lake::with_tables(&[]);
    let uri = lake.path("watched/t.lance").to_string_lossy().into_owned();
    shape.append(&uri, 0..shape.fragments).await;
    assert_bounded(&lake, &uri).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_stay_within_the_budget() {
    const DIMENSION: usize = 1_536;
    let noise = noise();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let list = DataType::FixedSizeList(item.clone(), 1_536);
    assert_shape_is_bounded(Shape {
        fragments: 40,
        rows: 2_000,
        field: Field::new("vector", list, true),
        values: &|rows| {
            let floats = parts(&noise, rows, DIMENSION * 4).flat_map(|part| {
                let four = part.chunks_exact(4);
                four.map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")))
            });
            let floats = Arc::new(Float32Array::from_iter_values(floats));
            let vectors = FixedSizeListArray::try_new(item.clone(), 1_536, floats, None);
            Arc::new(vectors.expect("vectors"))
        },
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_stay_within_the_budget() {
    let noise = noise();
    assert_shape_is_bounded(Shape {
        fragments: 60,
        rows: 100,
        field: Field::new("text", DataType::Utf8, true),
        values: &|rows| {
            let texts = parts(&noise, rows, 100_000);
            let texts = texts.map(|part| std::str::from_utf8(part).expect("letters"));
            Arc::new(StringArray::from_iter_values(texts))
        },
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_stay_within_the_budget() {
    let noise = noise();
    let marks = HashMap::from([("lance-encoding:blob".to_owned(), "true".to_owned())]);
    assert_shape_is_bounded(Shape {
        fragments: 40,
        rows: 8,
        field: Field::new("blob", DataType::LargeBinary, true).with_metadata(marks),
        values: &|rows| {
            Arc::new(LargeBinaryArray::from_iter_values(parts(
                &noise,
                rows,
                1 << 20,
            )))
        },
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_fragments_stay_within_the_budget() {
    assert_shape_is_bounded(Shape {
        fragments: 10_000,
        rows: 10,
        field: Field::new("value", DataType::Int64, true),
        values: &|rows| Arc::new(Int64Array::from_iter_values(rows)),
    })
    .await;
}

/// Its index has to follow the rewrite, and to be extended over half of the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_larger_than_the_budget_stays_within_it() {
    let noise = noise();
    let shape = Shape {
        fragments: 40,
        rows: 50_000,
        field: Field::new("text", DataType::Utf8, true),
        values: &|rows| {
            let texts = parts(&noise, rows, 160);
            let texts = texts.map(|part| std::str::from_utf8(part).expect("letters"));
            Arc::new(StringArray::from_iter_values(texts))
        },
    };
    let lake = Lake::with_tables(&[]);
    let uri = lake.path("watched/t.lance").to_string_lossy().into_owned();
    let half = shape.fragments / 2;
    let mut table = shape.append(&uri, 0..half).await;
    let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
    let built = table.create_index(&["text"], kind, None, &params, false);
    built.await.expect("an index");
    shape.append(&uri, half..shape.fragments).await;
    assert_bounded(&lake, &uri).await;
}
