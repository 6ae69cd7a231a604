//! The proof of an index: before a version counts, a sample is asked of it with and without the index.
//!
//! Lance's indexes lose rows without an error: one remapped past a fragment-reuse index finds nothing any more, and
//! nothing says so. The sample is bounded by [`FRAGMENTS`] and [`ROWS`], whatever the size of the table:
//!
//! * keys (and nulls), parts of texts, labels of lists, values in JSON: the rows that the index finds in the sampled fragments are
//!   those that a scan finds, of each key, label and value alone.
//! * words that the index keeps: the rows that were found before, in the whole table; extended, no others; of a new index, some. Where rows
//!   have got other addresses, no fewer and no more.
//! * vectors, one or several of a row, and texts that are alike: what is found nearest to each sampled one is as near as before;
//!   of a new index, the sampled one itself.
//!
//! Vector indexes approximate, so half of the vectors suffice, of old and of new rows alike. Where an index answered before as well, no more
//! than one sampled vector may be lost. An index of a type that is not listed here is not believed.
//!
//! A table that is written to has fragments that an index does not cover yet, more of them the longer a proof takes. They say nothing
//! of the index and are not sampled, and a search that may leave them out does: each would read all of them.

mod json;
mod labels;
mod likes;
mod place;
mod truth;
mod vectors;
mod words;

use super::Target;
use super::listed::{Listed, covered_by, ids_of, kind_of};
use crate::error::{Error, ErrorKind, Result};
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, UInt64Array};
use arrow_schema::DataType;
use futures::TryStreamExt;
use json::InJson;
use lance::Dataset;
use lance::dataset::scanner::Scanner;
use lance::deps::datafusion::common::ScalarValue;
use lance::deps::datafusion::prelude::Expr;
use lance::index::DatasetIndexExt;
use lance_table::format::{Fragment, IndexMetadata};
use place::Place;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use words::texts_of;

/// Fragments that are sampled, old and new.
const FRAGMENTS: usize = 8;

/// Rows of the sampled fragments together, at most: a scan of one column of them is what the proof costs.
const ROWS: u64 = 1_000_000;

/// Values that are taken of each sampled fragment.
const VALUES: i64 = 2;

/// Labels, or values in JSON, that are asked for at once.
const LABELS: usize = 32;

/// The share of vectors, or of words, that has to be found: indexes of vectors approximate.
const KEPT: f64 = 0.5;

/// Neighbours that are asked for, and how many times as many the index may look at.
const NEIGHBOURS: usize = 10;

/// Lance's column of row addresses.
const ROW_ADDR: &str = "_rowaddr";

/// Checks that the index `name` answers in `after` as it did in `before`, and as a scan does. `before` is a version with
/// the same rows; it need not have the index.
///
/// # Errors
/// `Unfit` says what the index does not find. What a scan cannot answer proves nothing and is no error.
pub(crate) async fn prove_index(before: &Dataset, after: &Dataset, name: &str) -> Result<()> {
    prove(before, after, name, false).await
}

/// The same of an index that was extended: it finds no more than before either. One of words that had lost rows of what it covers
/// finds as few of them as before, so each word must lead to the row that it was taken from, too.
///
/// # Errors
/// Those of [`prove_index`].
pub(crate) async fn prove_extended(before: &Dataset, after: &Dataset, name: &str) -> Result<()> {
    prove(before, after, name, true).await?;
    truth::prove(after, name, &["Inverted"]).await
}

/// Checks what the index `name` answers against the rows alone: it may have been wrong from the start.
///
/// # Errors
/// Those of [`prove_index`].
pub(crate) async fn prove_answers(dataset: &Dataset, name: &str) -> Result<()> {
    prove_index(dataset, dataset, name).await?;
    truth::prove(dataset, name, &["Inverted", "Vector"]).await
}

async fn prove(before: &Dataset, after: &Dataset, name: &str, extended: bool) -> Result<()> {
    let was = before.load_indices_by_name(name).await?;
    let segments = after.load_indices_by_name(name).await?;
    let Some(segment) = segments.first() else {
        return Err(match was.is_empty() {
            true => Error::conflict("the index was dropped meanwhile"),
            false => unfit("the index is gone".to_owned()),
        });
    };
    let Some(subject) = Subject::of(name, before, after, (&was, &segments), segment) else {
        return Ok(());
    };
    match kind_to_ask(after, name, segment).await?.as_str() {
        "BTree" | "Bitmap" => subject.prove_keys(true).await,
        "ZoneMap" | "BloomFilter" => subject.prove_keys(false).await,
        "LabelList" => subject.prove_labels().await,
        "Json" => subject.prove_json(segment).await,
        "NGram" | "FM" => subject.prove_parts().await,
        "Inverted" => subject.prove_words(extended).await,
        "Vector" => subject.prove_vectors().await,
        "MinHashLsh" => subject.prove_likes().await,
        kind => Err(unfit(format!(
            "nothing says how an index of its type ({kind}) is asked, so what it holds cannot be proved"
        ))),
    }
}

/// The type of the index `name`. Releases that noted none are told apart by what they wrote.
async fn kind_to_ask(dataset: &Dataset, name: &str, segment: &IndexMetadata) -> Result<String> {
    let noted = kind_of(segment);
    if !noted.is_empty() {
        return Ok(noted);
    }
    let statistics = dataset.index_statistics(name).await?;
    let statistics: Value = serde_json::from_str(&statistics).unwrap_or_default();
    let kind = statistics["index_type"].as_str().unwrap_or_default();
    Ok(kind.to_owned())
}

/// Checks those of `followers` that can be read, after what they cover was rewritten.
///
/// # Errors
/// Those of [`prove_index`], with the index.
pub(crate) async fn prove_followers(
    target: &Target,
    before: &Dataset,
    after: &Dataset,
    followers: &[Listed],
) -> Result<()> {
    for index in followers.iter().filter(|index| index.unreadable.is_none()) {
        prove_index(before, after, &index.name)
            .await
            .map_err(|e| {
                let name = &index.name;
                let renewal = target.renewal();
                e.context(format!(
                    "asking index {name} after the rewrite (where that fails again and again, {renewal})"
                ))
            })?;
    }
    Ok(())
}

/// What of a table a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// All rows: those that the index does not cover are scanned.
    All,
    /// What the index covers.
    Indexed,
}

impl Reach {
    fn of(self, scan: &mut Scanner) {
        if self == Self::Indexed {
            scan.fast_search();
        }
    }
}

fn unfit(why: String) -> Error {
    Error::new(ErrorKind::Unfit, why)
}

/// An index under proof.
struct Subject<'a> {
    name: &'a str,
    before: &'a Dataset,
    after: &'a Dataset,
    /// Whether `before` has the index, and whether it covered all rows there.
    is_old: bool,
    was_complete: bool,
    /// Whether rows have the ids in both versions by which an index finds them.
    same_ids: bool,
    column: Place,
    /// Whether it is known what the index covers. What is sampled is covered then.
    reach: Reach,
    /// Sampled fragments that the index covered before, and others.
    sampled: [Vec<Fragment>; 2],
}

impl<'a> Subject<'a> {
    /// `None` where nothing can be asked: a field within a list, or a table without rows.
    fn of(
        name: &'a str,
        before: &'a Dataset,
        after: &'a Dataset,
        (was, is): (&[IndexMetadata], &[IndexMetadata]),
        segment: &IndexMetadata,
    ) -> Option<Self> {
        let column = Place::of(after.schema(), *segment.fields.first()?)?;
        let covered = |f: &&Fragment| {
            u32::try_from(f.id).is_ok_and(|id| {
                let mut bitmaps = was.iter().filter_map(|s| s.fragment_bitmap.as_ref());
                bitmaps.any(|bitmap| bitmap.contains(id))
            })
        };
        // Old releases did not write down what a segment covers; one that covers nothing is asked all the same.
        let covers = covered_by(is) & ids_of(after.fragments().iter());
        let is_known = is.iter().all(|s| s.fragment_bitmap.is_some()) && !covers.is_empty();
        let reach = if is_known { Reach::Indexed } else { Reach::All };
        let says_something = |f: &&Fragment| {
            reach == Reach::All || u32::try_from(f.id).is_ok_and(|id| covers.contains(id))
        };
        let asked = after.fragments().iter().filter(says_something);
        let (old, new): (Vec<_>, Vec<_>) = asked.partition(covered);
        let sampled = [old, new].map(|fragments| sample(&fragments));
        let is_empty = sampled.iter().all(Vec::is_empty);
        (!is_empty).then_some(Self {
            name,
            before,
            after,
            is_old: !was.is_empty(),
            was_complete: ids_of(before.fragments().iter()).is_subset(&covered_by(was)),
            same_ids: after.manifest().uses_stable_row_ids()
                || ids_of(before.fragments().iter()) == ids_of(after.fragments().iter()),
            column,
            reach,
            sampled,
        })
    }

    /// A few values of the column, of the beginning and the middle of each fragment.
    async fn values(&self, fragments: &[Fragment]) -> Result<Vec<ArrayRef>> {
        self.values_of(&self.column.sql(), fragments).await
    }

    /// The same of an expression.
    async fn values_of(&self, expression: &str, fragments: &[Fragment]) -> Result<Vec<ArrayRef>> {
        let mut values = Vec::new();
        for fragment in fragments {
            let rows = i64::try_from(fragment.num_rows().unwrap_or(0)).unwrap_or(0);
            for offset in BTreeSet::from([0, rows / 2]) {
                let mut scan = self.after.scan();
                scan.with_fragments(vec![fragment.clone()])
                    .project_with_transform(&[("value", expression)])?
                    .limit(Some(VALUES), Some(offset))?;
                let batches = rows_of(&scan).await?;
                values.extend(batches.iter().map(|batch| batch.column(0).clone()));
            }
        }
        Ok(values)
    }

    /// Keys and nulls. `exact`: whether what the index finds is believed, so that each key has to be asked for alone: a row
    /// that stands under a wrong one shows in no other way. Otherwise Lance looks at the values again.
    async fn prove_keys(&self, exact: bool) -> Result<()> {
        let fragments = self.sampled.concat();
        let mut keys = Vec::new();
        for values in self.values(&fragments).await? {
            for key in keys_of(&values) {
                let Some(key) = key else { return Ok(()) };
                if !key.is_null() && !is_in_doubt(&key) && !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        let column = self.column.expression();
        let literals = keys.iter().map(|key| Expr::Literal(key.clone(), None));
        let is_asked = column.clone().in_list(literals.collect(), false);
        let any = is_asked.or(column.clone().is_null());
        let asked = format!("asked for {} of its keys and for nulls", keys.len());
        let ask_any = |scan: &mut Scanner| {
            scan.filter_expr(any.clone());
            Ok(())
        };
        if !exact {
            return self.compare(&fragments, &asked, ask_any).await;
        }
        let each = |values: &ArrayRef| {
            let keys = keys_of(values).into_iter();
            let no_null = |key: ScalarValue| (!key.is_null()).then_some(key);
            keys.map(|key| vec![key.and_then(no_null)]).collect()
        };
        let mut wanted: Vec<Option<ScalarValue>> = keys.into_iter().map(Some).collect();
        wanted.push(None);
        self.compare_each(
            (&fragments, &self.column.sql()),
            &wanted,
            (ask_any, each),
            |scan, key| {
                scan.filter_expr(match key {
                    Some(key) => column.clone().eq(Expr::Literal(key.clone(), None)),
                    None => column.clone().is_null(),
                });
                Ok(())
            },
        )
        .await
    }

    /// Values at a path in JSON.
    async fn prove_json(&self, segment: &IndexMetadata) -> Result<()> {
        let Some(path) = InJson::of(segment, self.column.sql()) else {
            return Ok(());
        };
        let fragments = self.sampled.concat();
        let Ok(texts) = self.values_of(&path.text(), &fragments).await else {
            return Ok(());
        };
        let Some(value) = path.value(&texts.iter().flat_map(texts_of).collect::<Vec<_>>()) else {
            return Ok(());
        };
        let values = self.values_of(&value, &fragments).await?;
        let values: BTreeSet<String> = values.iter().flat_map(literals).collect();
        let values: Vec<String> = values.into_iter().take(LABELS).collect();
        let ask = |scan: &mut Scanner, values: &str| {
            scan.filter(&format!("{value} IN ({values})"))?;
            Ok(())
        };
        let all = values.join(", ");
        let each = |array: &ArrayRef| {
            let rows = 0..array.len();
            rows.map(|row| literals(&array.slice(row, 1))).collect()
        };
        self.compare_each(
            (&fragments, &value),
            &values,
            (|scan: &mut Scanner| ask(scan, &all), each),
            |scan, value| ask(scan, value),
        )
        .await
    }

    /// Parts of texts.
    async fn prove_parts(&self) -> Result<()> {
        let fragments = self.sampled.concat();
        for part in self.parts().await? {
            let filter = format!("contains({}, '{part}')", self.column.sql());
            self.compare(&fragments, "asked for a part of a text", |scan| {
                scan.filter(&filter)?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// What the index finds in `fragments` of what `ask` asks for is what a scan finds.
    async fn compare(
        &self,
        fragments: &[Fragment],
        asked: &str,
        ask: impl Fn(&mut Scanner) -> Result<()> + Sync,
    ) -> Result<()> {
        let Ok(scanned) = self.addresses(fragments, &ask, false).await else {
            return Ok(());
        };
        let found = self.addresses(fragments, &ask, true).await?;
        differs(asked, &found, &scanned)
    }

    /// The same for each of `keys` alone, with one scan of `expression` for all of them: `any` asks for rows that have one,
    /// and `each` says which keys each row of a batch has.
    async fn compare_each<K: Eq + Hash + Clone + Sync>(
        &self,
        (fragments, expression): (&[Fragment], &str),
        keys: &[K],
        (any, each): (
            impl Fn(&mut Scanner) -> Result<()> + Sync,
            impl Fn(&ArrayRef) -> Vec<Vec<K>> + Sync,
        ),
        ask: impl Fn(&mut Scanner, &K) -> Result<()> + Sync,
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut scan = self.after.scan();
        scan.with_fragments(fragments.to_vec())
            .project_with_transform(&[("value", expression)])?
            .with_row_address()
            .use_scalar_index(false);
        any(&mut scan)?;
        // What a scan cannot answer proves nothing.
        let Ok(batches) = rows_of(&scan).await else {
            return Ok(());
        };
        let mut scanned: HashMap<K, BTreeSet<u64>> = HashMap::new();
        for batch in &batches {
            let values = batch.column_by_name("value");
            let each = values.map(&each).unwrap_or_default();
            for (address, keys) in addresses_in(batch).zip(each) {
                for key in keys {
                    scanned.entry(key).or_default().insert(address);
                }
            }
        }
        for key in keys {
            let ask = |scan: &mut Scanner| ask(scan, key);
            let found = self.addresses(fragments, &ask, true).await?;
            let scanned = scanned.remove(key).unwrap_or_default();
            differs("asked for one of its keys", &found, &scanned)?;
        }
        Ok(())
    }

    /// The addresses of the rows of `fragments` that `ask` asks for.
    async fn addresses(
        &self,
        fragments: &[Fragment],
        ask: &(impl Fn(&mut Scanner) -> Result<()> + Sync),
        with_index: bool,
    ) -> Result<BTreeSet<u64>> {
        let mut scan = self.after.scan();
        scan.with_fragments(fragments.to_vec())
            .project::<&str>(&[])?
            .with_row_address()
            .use_scalar_index(with_index);
        ask(&mut scan)?;
        let mut addresses = BTreeSet::new();
        for batch in rows_of(&scan).await? {
            addresses.extend(addresses_in(&batch));
        }
        Ok(addresses)
    }
}

/// Refuses an index that `found` other rows than those that were `scanned`.
fn differs(asked: &str, found: &BTreeSet<u64>, scanned: &BTreeSet<u64>) -> Result<()> {
    if found == scanned {
        return Ok(());
    }
    Err(unfit(format!(
        "{asked}, it finds {} rows where a scan finds {} ({} of them)",
        found.len(),
        scanned.len(),
        found.intersection(scanned).count(),
    )))
}

/// The addresses of the rows of a batch, in order.
fn addresses_in(batch: &RecordBatch) -> impl Iterator<Item = u64> {
    let column = batch.column_by_name(ROW_ADDR);
    let column = column.and_then(|c| c.as_any().downcast_ref::<UInt64Array>());
    column.into_iter().flat_map(|c| c.values().iter().copied())
}

/// The distances of all rows, in order. Of what is near to nothing there is none.
fn distances_of(batches: &[RecordBatch]) -> Vec<f32> {
    let columns = batches.iter().filter_map(|b| b.column_by_name("_distance"));
    let columns = columns.filter_map(|c| c.as_any().downcast_ref::<Float32Array>());
    let distances = columns.flat_map(|column| column.iter().flatten());
    let mut distances: Vec<f32> = distances.filter(|d| !d.is_nan()).collect();
    distances.sort_by(f32::total_cmp);
    distances
}

/// The key of each row; `None` for one that cannot be asked for.
fn keys_of(values: &ArrayRef) -> Vec<Option<ScalarValue>> {
    let key = |row| match ScalarValue::try_from_array(values, row) {
        Ok(ScalarValue::Dictionary(_, value)) => Some(*value),
        Ok(key) => Some(key),
        Err(_) => None,
    };
    (0..values.len()).map(key).collect()
}

/// # Errors
/// `Unfit` when an index refuses to answer: it would do so tomorrow.
async fn rows_of(scan: &Scanner) -> Result<Vec<RecordBatch>> {
    let rows = async { scan.try_into_stream().await?.try_collect().await };
    rows.await.map_err(|e: lance::Error| match e {
        lance::Error::Index { .. } => unfit("it cannot be asked".to_owned()).caused_by(e),
        other => other.into(),
    })
}

/// Whether comparisons disagree about it: NaN, and the two zeros, which a key tells apart and a filter does not.
fn is_in_doubt(key: &ScalarValue) -> bool {
    let number = match key {
        ScalarValue::Float16(Some(value)) => f64::from(*value),
        ScalarValue::Float32(Some(value)) => f64::from(*value),
        ScalarValue::Float64(Some(value)) => *value,
        _ => return false,
    };
    number.is_nan() || number == 0.0
}

/// Fragments spread over `fragments`, the first and the last among them, of [`ROWS`] rows together; one at least.
fn sample(fragments: &[&Fragment]) -> Vec<Fragment> {
    let most = FRAGMENTS / 2;
    let step = fragments.len().saturating_sub(1).max(1) as f64 / (most - 1) as f64;
    let spread = (0..most).map(|i| (i as f64 * step).round() as usize);
    let mut rows = 0;
    let mut sampled = Vec::new();
    for position in spread.collect::<BTreeSet<_>>() {
        let Some(fragment) = fragments.get(position) else {
            continue;
        };
        rows += fragment.physical_rows.unwrap_or(0) as u64;
        if rows <= ROWS || sampled.is_empty() {
            sampled.push((*fragment).clone());
        }
    }
    sampled
}

/// The values of `array` as SQL has them, if they are texts, numbers or booleans.
fn literals(array: &ArrayRef) -> Vec<String> {
    let is_plain = array.data_type().is_numeric() || *array.data_type() == DataType::Boolean;
    let is_text = matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8);
    if !is_plain && !is_text {
        return Vec::new();
    }
    let quoted = |text: &String| match is_plain {
        true => text.clone(),
        false => format!("'{}'", text.replace('\'', "''")),
    };
    // As in `is_in_doubt`.
    let is_zero = |text: &String| {
        array.data_type().is_floating() && text.parse().is_ok_and(|number: f64| number == 0.0)
    };
    let texts = texts_of(array);
    let asked = texts.iter().filter(|text| !is_zero(text));
    asked.map(quoted).collect()
}

#[cfg(test)]
mod tests {
    use super::{prove_answers, prove_index, sample};
    use arrow_array::types::Float32Type;
    use arrow_array::{FixedSizeListArray, RecordBatch, RecordBatchIterator, StringArray};
    use lance::Dataset;
    use lance::dataset::{WriteMode, WriteParams};
    use lance::index::DatasetIndexExt;
    use lance::index::vector::VectorIndexParams;
    use lance_index::IndexType;
    use lance_index::scalar::InvertedIndexParams;
    use lance_linalg::distance::MetricType;
    use lance_table::format::Fragment;
    use std::sync::Arc;

    /// Appends so many rows with a vector and a text.
    async fn append(uri: &str, rows: std::ops::Range<u16>) {
        let vectors = rows
            .clone()
            .map(|row| Some([Some(f32::from(row)), Some(1.0)]));
        let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 2);
        let texts: StringArray = rows.map(|row| Some(format!("row{row} all"))).collect();
        let batch = RecordBatch::try_from_iter([
            ("vector", Arc::new(vectors) as _),
            ("text", Arc::new(texts) as _),
        ]);
        let batch = batch.unwrap();
        let schema = batch.schema();
        let params = WriteParams {
            mode: WriteMode::Append,
            ..WriteParams::default()
        };
        let rows = RecordBatchIterator::new([Ok(batch)], schema);
        Dataset::write(rows, uri, Some(params)).await.unwrap();
    }

    /// A proof costs the same however much has been written since: what the index does not cover need not even be there.
    #[tokio::test]
    async fn what_an_index_does_not_cover_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().join("t.lance");
        let uri = uri.to_str().unwrap();
        append(uri, 1..40).await;
        let mut table = Dataset::open(uri).await.unwrap();
        let flat = VectorIndexParams::ivf_flat(1, MetricType::L2);
        let (texts, name) = (InvertedIndexParams::default(), |name: &str| {
            Some(name.to_owned())
        });
        let built = table.create_index(&["vector"], IndexType::Vector, name("vector"), &flat, true);
        built.await.unwrap();
        let built = table.create_index(&["text"], IndexType::Inverted, name("text"), &texts, true);
        built.await.unwrap();
        let before: Vec<_> = files(uri);
        append(uri, 40..50).await;
        append(uri, 50..60).await;
        for file in files(uri).into_iter().filter(|file| !before.contains(file)) {
            std::fs::remove_file(file).unwrap();
        }
        let table = Dataset::open(uri).await.unwrap();
        assert_eq!(table.fragments().len(), 3);
        for name in ["vector", "text"] {
            prove_index(&table, &table, name).await.unwrap();
            prove_answers(&table, name).await.unwrap();
        }
    }

    fn files(uri: &str) -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(format!("{uri}/data")).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    #[test]
    fn a_sample_is_spread_and_bounded() {
        let fragments: Vec<Fragment> = (0..100)
            .map(|id| {
                let mut fragment = Fragment::new(id);
                fragment.physical_rows = Some(10);
                fragment
            })
            .collect();
        let of = |n: usize| {
            let sampled = sample(&fragments.iter().take(n).collect::<Vec<_>>());
            sampled.iter().map(|f| f.id).collect::<Vec<_>>()
        };
        assert_eq!(of(0), [] as [u64; 0]);
        assert_eq!(of(1), [0]);
        assert_eq!(of(3), [0, 1, 2]);
        assert_eq!(of(100), [0, 33, 66, 99]);

        let mut large = Fragment::new(7);
        large.physical_rows = Some(5_000_000);
        assert_eq!(sample(&[&large, &large]).len(), 1);
    }
}
