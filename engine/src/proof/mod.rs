//! Reading back: what was written is read as users read it, and compared with what it replaces, before anything refers
//! to it.
//!
//! Lance writes some tables so that they cannot be read any more (dictionaries with narrow keys, for one), and there
//! will be others. A file is not known to be good because it was written.
//!
//! 1. A view: the dataset at the version that was read, with nothing but the new fragments in its manifest. No version
//!    is made. Its scan is the one that every Lance client starts with.
//! 2. Both sides are scanned in order, side by side. Rows and nulls are counted, for each level of each column.
//! 3. Rows are compared by value: the first, the last and some in between of each new fragment, or all.
//! 4. What a write staged is read back the same way, beside the rows that were given ([`read_back`]).
//! 5. A batch of the default size must fit: 32-bit offsets hold 2 GiB of text.

mod keyed;
mod side;
mod tally;

pub(crate) use side::READER_ROWS;
pub(crate) use tally::Tally;

use self::keyed::Keyed;
use self::side::{Reading, Side, Wide};
use crate::error::{Error, ErrorKind, Result, caught};
use crate::oversight::Oversight;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use arrow_schema::extension::EXTENSION_TYPE_NAME_KEY;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lance::Dataset;
use lance::datatypes::{Field, Schema};
use lance_table::format::{Fragment, Manifest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a rewrite is compared with what it replaces.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Rows, and nulls of each column.
    Counts,
    /// Also the values of some rows of each new fragment.
    #[default]
    Sample,
    /// The values of all rows.
    Full,
}

/// Rows of a new fragment that are compared by value, besides its first and its last; of rows with keys, all that are.
const SAMPLE: usize = 8;

/// A view's version is nobody's: caches that go by versions must not take it for one.
static VIEWS: AtomicU64 = AtomicU64::new(0);

/// `base` as it would be with `schema` and nothing but `fragments`. Nothing is put on storage.
fn view(base: &Dataset, schema: &Schema, fragments: &[Fragment]) -> Dataset {
    let previous = base.manifest();
    // The handle looks fragments up by the ids that `base` has.
    let known = previous.fragments.iter().map(|fragment| fragment.id);
    let free = previous.max_fragment_id.map_or(0, |id| u64::from(id) + 1);
    let ids = known.chain(free..);
    let numbered = fragments.iter().zip(ids).map(|(fragment, id)| Fragment {
        id,
        ..fragment.clone()
    });
    let fragments = Arc::new(numbered.collect());
    let mut manifest = Manifest::new_from_previous(previous, schema.clone(), fragments);
    manifest.version = u64::MAX / 2 + VIEWS.fetch_add(1, Ordering::Relaxed);
    manifest.reader_feature_flags = previous.reader_feature_flags;
    manifest.writer_feature_flags = previous.writer_feature_flags;
    manifest.writer_version.clone_from(&previous.writer_version);
    let mut view = base.clone();
    view.manifest = Arc::new(manifest);
    view
}

/// A rewrite to be checked: `new` shall replace `old` of `dataset`.
pub(crate) struct Rewrite<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) old: &'a [Fragment],
    pub(crate) new: &'a [Fragment],
    pub(crate) verify: Verify,
    /// Rows to hold at once, where a default batch would be too much.
    pub(crate) batch_rows: Option<usize>,
    /// Bytes that each side may read ahead.
    pub(crate) read_ahead: u64,
    /// Who watches the run.
    pub(crate) oversight: &'a Oversight,
}

impl Rewrite<'_> {
    /// Compares both sides. A default batch of the new one that would not fit into its arrays is given back, if there is
    /// one: fewer rows in a fragment help.
    ///
    /// # Errors
    /// `Unfit` when `new` cannot be read or is not the same; those of reading `old`.
    pub(crate) async fn check(&self) -> Result<Option<Wide>> {
        let checked = caught("comparing a rewrite", self.compare()).await;
        checked.map_err(|e| match e.kind() {
            ErrorKind::Internal => Error::new(ErrorKind::Unfit, e.to_string()),
            _ => e,
        })
    }

    /// Compares single rows, counted over all that are left, of `old` and of `new` as `after` has them. Where blobs stand
    /// is not compared.
    ///
    /// # Errors
    /// `Unfit` when a row is not the same; those of reading `old`.
    pub(crate) async fn check_rows(&self, after: &Dataset, rows: BTreeSet<u64>) -> Result<()> {
        let moved = blob_columns(self.dataset.schema());
        for row in rows {
            let reading = Reading {
                only: Some(row),
                batch_rows: self.batch_rows,
                read_ahead: Some(self.read_ahead),
                row_ids: self.dataset.manifest().uses_stable_row_ids(),
                oversight: self.oversight.clone(),
                ..Reading::default()
            };
            let old = Side::of_old(self.dataset.clone(), self.old.to_vec(), &reading);
            let new = Side::of_old(after.clone(), self.new.to_vec(), &reading);
            compare_sides(old, new, &mut Picks::All, &moved).await?;
        }
        Ok(())
    }

    async fn compare(&self) -> Result<Option<Wide>> {
        let view = view(self.dataset, self.dataset.schema(), self.new);
        let blobs = blob_columns(self.dataset.schema());
        let reading = Reading {
            batch_rows: self.batch_rows,
            read_ahead: Some(self.read_ahead),
            row_ids: self.dataset.manifest().uses_stable_row_ids(),
            oversight: self.oversight.clone(),
            ..Reading::default()
        };
        let wide = self.compare_rows(&view, &reading, &blobs).await?;
        if wide.is_some() || blobs.is_empty() || self.verify == Verify::Counts {
            return Ok(wide);
        }
        // A default scan says where blobs stand, and a rewrite moves them. Their bytes are read on their own.
        let bytes = Reading {
            blobs_of: blobs.into_iter().collect(),
            batch_rows: Some(1),
            read_ahead: Some(self.read_ahead),
            oversight: self.oversight.clone(),
            ..Reading::default()
        };
        let none = BTreeSet::new();
        if self.verify == Verify::Full {
            return self.compare_rows(&view, &bytes, &none).await.map(|_| None);
        }
        for row in sampled(self.new) {
            let one = Reading {
                only: Some(row),
                ..bytes.clone()
            };
            self.compare_rows(&view, &one, &none).await?;
        }
        Ok(None)
    }

    /// Reads both sides to their ends, in order. The values of `moved` columns are not compared.
    async fn compare_rows(
        &self,
        view: &Dataset,
        reading: &Reading,
        moved: &BTreeSet<String>,
    ) -> Result<Option<Wide>> {
        let old = Side::of_old(self.dataset.clone(), self.old.to_vec(), reading);
        let new = Side::of_new(view.clone(), reading);
        let mut picks = match self.verify {
            Verify::Counts => Picks::None,
            _ if reading.only.is_some() => Picks::All,
            Verify::Sample => Picks::These(sampled(self.new)),
            Verify::Full => Picks::All,
        };
        compare_sides(old, new, &mut picks, moved).await
    }
}

/// What a write was given, as far as it can be compared with what it staged.
pub(crate) enum Given<'a> {
    /// These rows, in this order.
    InOrder(&'a [RecordBatch]),
    /// These rows, in this order, too many to be held.
    Streamed(BoxStream<'static, Result<RecordBatch>>),
    /// These rows, in an order of the write's own, each with a key of its own in the columns `key`.
    InAnyOrder {
        rows: &'a [RecordBatch],
        key: &'a [String],
    },
    /// So many rows.
    Rows(u64),
}

/// Bytes that are read ahead of rows that were too many to be held.
const STREAMED_AHEAD: u64 = 32 << 20;

/// Reads back what was written into `base`, before anything refers to it: `fragments` with the columns of `schema`.
///
/// # Errors
/// `Unfit`: it cannot be read, or is not what was given.
pub(crate) async fn read_back(
    base: &Dataset,
    schema: &Schema,
    fragments: &[Fragment],
    given: Given<'_>,
) -> Result<()> {
    let is_streamed = matches!(given, Given::Streamed(_));
    let reading = Reading {
        read_ahead: is_streamed.then_some(STREAMED_AHEAD),
        ..Reading::default()
    };
    let mut written = Side::of_new(view(base, schema, fragments), &reading);
    let (rows, mut picks) = match given {
        Given::InOrder(rows) => (held(rows), Picks::These(sampled(fragments))),
        Given::Streamed(rows) => (rows, Picks::These(sampled(fragments))),
        Given::InAnyOrder { rows, key } => (held(rows), Picks::Keyed(Keyed::of(rows, key)?)),
        Given::Rows(rows) => {
            while written.fill().await? {
                written.advance(written.left());
            }
            return same_rows(rows, written.tally.rows);
        }
    };
    let blobs = blob_columns(schema);
    let moved = &json_columns(schema) | &blobs;
    let comparable = move |batch: RecordBatch| {
        let fields = batch.schema();
        let names = fields.fields().iter().map(|field| field.name());
        let kept = names.enumerate().filter(|(_, n)| !blobs.contains(*n));
        let kept = batch.project(&kept.map(|(at, _)| at).collect::<Vec<_>>());
        kept.map_err(|e| Error::internal("the rows that were written").caused_by(e))
    };
    let rows = rows.map(move |batch| batch.and_then(&comparable)).boxed();
    let given = Side::of_given(base.clone(), rows, &reading);
    // A batch that is too wide for a default scan is what was given; a compaction will choose narrower fragments.
    let compared = compare_sides(given, written, &mut picks, &moved);
    caught("comparing what was written", compared)
        .await
        .map(|_| ())
}

fn held(rows: &[RecordBatch]) -> BoxStream<'static, Result<RecordBatch>> {
    let rows: Vec<Result<RecordBatch>> = rows.iter().cloned().map(Ok).collect();
    stream::iter(rows).boxed()
}

/// Which rows are compared by value.
enum Picks {
    None,
    These(BTreeSet<u64>),
    /// Some that stand anywhere.
    Keyed(Keyed),
    All,
}

impl Picks {
    /// Those from `row` on, below `row + step`: where they begin after `row`, and how many follow each other.
    fn within(&self, row: u64, step: usize) -> Vec<(usize, usize)> {
        match self {
            Self::None | Self::Keyed(_) => Vec::new(),
            Self::All => vec![(0, step)],
            Self::These(picks) => {
                let picked = picks.range(row..row + step as u64);
                let offsets = picked.filter_map(|at| usize::try_from(at - row).ok());
                offsets.map(|offset| (offset, 1)).collect()
            }
        }
    }
}

/// The rows that a sample compares, counted over all new fragments. They follow from the names of the files, which are
/// random.
fn sampled(fragments: &[Fragment]) -> BTreeSet<u64> {
    let mut picks = BTreeSet::new();
    let mut first = 0;
    for fragment in fragments {
        let rows = fragment.physical_rows.unwrap_or(0) as u64;
        if rows == 0 {
            continue;
        }
        let mut hasher = DefaultHasher::new();
        let names = fragment.files.iter().map(|file| &file.path);
        names.for_each(|name| name.hash(&mut hasher));
        let mut random = StdRng::seed_from_u64(hasher.finish());
        picks.extend([first, first + rows - 1]);
        picks.extend((0..SAMPLE).map(|_| first + random.random_range(0..rows)));
        first += rows;
    }
    picks
}

/// Reads both sides to their ends, in order, and compares rows, nulls and the values of `picks`. The values of `moved`
/// columns are not compared.
async fn compare_sides(
    mut old: Side,
    mut new: Side,
    picks: &mut Picks,
    moved: &BTreeSet<String>,
) -> Result<Option<Wide>> {
    let mut row = 0;
    loop {
        let filled = (old.fill().await?, new.fill().await?);
        if let (Picks::Keyed(sample), Some(batch)) = (&mut *picks, new.begun()) {
            sample.see(batch, moved)?;
        }
        match filled {
            (false, false) => break,
            (true, false) => old.advance(old.left()),
            (false, true) => new.advance(new.left()),
            (true, true) => {
                let step = old.left().min(new.left());
                for (offset, length) in picks.within(row, step) {
                    let (was, is) = (old.slice(offset, length), new.slice(offset, length));
                    same_values(&was, &is, moved)?;
                }
                old.advance(step);
                new.advance(step);
                row += step as u64;
            }
        }
    }
    same_rows(old.tally.rows, new.tally.rows)?;
    same_nulls(&old.tally, &new.tally, moved)?;
    if let Picks::Keyed(sample) = picks {
        sample.end()?;
    }
    Ok(new.wide)
}

/// Top-level columns with blobs in them.
pub(crate) fn blob_columns(schema: &Schema) -> BTreeSet<String> {
    columns_with(schema, Field::is_blob)
}

/// Top-level columns with JSON in them, of which a scan gives the text and a write takes another form.
fn json_columns(schema: &Schema) -> BTreeSet<String> {
    columns_with(schema, |field| {
        let extension = field.metadata.get(EXTENSION_TYPE_NAME_KEY);
        extension.is_some_and(|name| name.ends_with(".json"))
    })
}

/// Top-level columns that are `wanted`, or have a field in them that is.
fn columns_with(schema: &Schema, wanted: impl Fn(&Field) -> bool) -> BTreeSet<String> {
    let mut columns = BTreeSet::new();
    for top in &schema.fields {
        let mut fields = vec![top];
        while let Some(field) = fields.pop() {
            if wanted(field) {
                columns.insert(top.name.clone());
                break;
            }
            fields.extend(&field.children);
        }
    }
    columns
}

fn unfit(message: String) -> Error {
    Error::new(ErrorKind::Unfit, message)
}

fn same_rows(expected: u64, read: u64) -> Result<()> {
    if expected == read {
        return Ok(());
    }
    Err(unfit(format!(
        "{read} rows are read back and {expected} were to be written"
    )))
}

fn same_nulls(old: &Tally, new: &Tally, moved: &BTreeSet<String>) -> Result<()> {
    for (name, was) in &old.columns {
        // Where a blob stands has levels of its own.
        let inside_moved = |column: &String| {
            name.strip_prefix(column.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        };
        let is = new.columns.get(name).map_or(0, |column| column.nulls);
        if was.nulls != is && !moved.iter().any(inside_moved) {
            return Err(unfit(format!(
                "column {name} has {is} nulls when read back and had {}",
                was.nulls
            )));
        }
    }
    Ok(())
}

fn same_values(was: &RecordBatch, is: &RecordBatch, moved: &BTreeSet<String>) -> Result<()> {
    for (field, was) in was.schema().fields().iter().zip(was.columns()) {
        let name = field.name();
        let same = || {
            let is = is.column_by_name(name)?;
            Some(was.to_data() == is.to_data() || same_without_dictionaries(was, is)?)
        };
        if !moved.contains(name) && same() != Some(true) {
            return Err(unfit(format!(
                "column {name} has other values when read back"
            )));
        }
    }
    Ok(())
}

/// `data_type` with the values of a dictionary in its place, at any depth; `None` when there is no dictionary.
fn without_dictionaries(data_type: &DataType) -> Option<DataType> {
    let of_field = |field: &Arc<arrow_schema::Field>| {
        let plain = without_dictionaries(field.data_type())?;
        Some(Arc::new(field.as_ref().clone().with_data_type(plain)))
    };
    Some(match data_type {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::List(item) => DataType::List(of_field(item)?),
        DataType::LargeList(item) => DataType::LargeList(of_field(item)?),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(of_field(item)?, *size),
        DataType::Map(entries, sorted) => DataType::Map(of_field(entries)?, *sorted),
        DataType::Struct(fields) => {
            let plain: Vec<_> = fields.iter().map(of_field).collect();
            if plain.iter().all(Option::is_none) {
                return None;
            }
            let fields = fields.iter().zip(plain);
            DataType::Struct(
                fields
                    .map(|(field, plain)| plain.unwrap_or_else(|| field.clone()))
                    .collect(),
            )
        }
        _ => return None,
    })
}

/// A dictionary may say null by a key or by a value.
fn same_without_dictionaries(was: &ArrayRef, is: &ArrayRef) -> Option<bool> {
    let plain = without_dictionaries(was.data_type())?;
    let values = |array| arrow_cast::cast(array, &plain).ok();
    Some(values(was)?.to_data() == values(is)?.to_data())
}

#[cfg(test)]
mod tests;
