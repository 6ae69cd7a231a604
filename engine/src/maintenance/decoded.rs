//! How wide rows are when they are decoded, by looking at some.
//!
//! Encodings hide it: text compressed a thousand times, one value repeated, blobs beside the file. What a rewrite and
//! later readers hold in memory follows from it, so planning asks before it rewrites. It asks for few rows of few files,
//! once per file and process.

use super::tasks::FragmentFacts;
use crate::error::{Error, Result};
use crate::proof::Tally;
use crate::store::{Store, Width};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::datatypes::Field;
use lance_table::format::Fragment;

/// Fragments of a table that are looked at, spread evenly; the others are taken to be like their neighbours.
const FRAGMENTS: usize = 64;

/// Rows of a fragment that are looked at, from its middle: enough to average, few enough when each has megabytes.
const ROWS: i64 = 8;

/// Fragments that are looked at at one time.
const AT_ONCE: usize = 4;

/// Bytes of the blobs in a column: a scan gives where they stand, and how large they are.
fn blob_bytes(field: &Field, array: &dyn Array) -> u64 {
    let Some(array) = array.as_struct_opt() else {
        return 0;
    };
    if field.is_blob() {
        let sizes = array.column_by_name("size");
        let sizes = sizes.and_then(|sizes| sizes.as_primitive_opt::<UInt64Type>());
        return sizes.map_or(0, |sizes| sizes.iter().flatten().sum());
    }
    let children = field.children.iter();
    children
        .filter_map(|child| Some(blob_bytes(child, array.column_by_name(&child.name)?)))
        .sum()
}

fn width_of(dataset: &Dataset, rows: &[RecordBatch]) -> Width {
    let mut tally = Tally::default();
    let (mut bytes, mut widest) = (0, 0);
    for batch in rows {
        for row in 0..batch.num_rows() {
            let row = batch.slice(row, 1);
            let mut of_row = Tally::default();
            of_row.add(&row);
            let schema = row.schema();
            let of_blobs = schema.fields().iter().zip(row.columns());
            let of_blobs = of_blobs.filter_map(|(name, column)| {
                let field = dataset.schema().field(name.name())?;
                Some(blob_bytes(field, column.as_ref()))
            });
            let of_row_bytes = of_row.bytes() + of_blobs.sum::<u64>();
            bytes += of_row_bytes;
            widest = widest.max(of_row_bytes);
            tally.merge(&of_row);
        }
    }
    let per_row = |all: u64| all.div_ceil(tally.rows.max(1));
    Width {
        bytes: per_row(bytes),
        widest,
        items: per_row(tally.widest().1),
    }
}

impl Store {
    /// Fills in the widths of `facts`, which are those of `dataset`.
    pub(crate) async fn measure(
        &self,
        dataset: &Dataset,
        facts: &mut [FragmentFacts],
    ) -> Result<()> {
        // A power of two, so that most of them are the same when the table has grown.
        let stride = facts.len().div_ceil(FRAGMENTS).next_power_of_two();
        let fragments = dataset.fragments().iter().step_by(stride);
        let fragments: Vec<Fragment> = fragments.cloned().collect();
        let widths: Vec<Width> = futures::stream::iter(fragments)
            .map(|fragment| self.width(dataset, fragment))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (near, width) in facts.chunks_mut(stride).zip(widths) {
            for fact in near {
                fact.row_bytes = width.bytes;
                fact.widest_row = width.widest;
                fact.row_items = width.items;
            }
        }
        Ok(())
    }

    async fn width(&self, dataset: &Dataset, fragment: Fragment) -> Result<Width> {
        // Added columns are further files.
        let names = fragment.files.iter().map(|file| file.path.as_str());
        let key = format!(
            "{}/{}",
            dataset.data_dir(),
            names.collect::<Vec<_>>().join("+")
        );
        if let Some(width) = self.files.width(&key) {
            return Ok(width);
        }
        let rows = i64::try_from(fragment.physical_rows.unwrap_or(0)).unwrap_or(0);
        let deleted = fragment.deletion_file.as_ref();
        let deleted = deleted.and_then(|d| d.num_deleted_rows).unwrap_or(0);
        let live = rows - i64::try_from(deleted).unwrap_or(0);
        let mut scanner = dataset.scan();
        scanner.with_fragments(vec![fragment]);
        scanner.limit(Some(ROWS), Some((live - ROWS).max(0) / 2))?;
        let read = async { scanner.try_into_stream().await?.try_collect().await };
        let read: lance::Result<Vec<RecordBatch>> = read.await;
        let rows = read.map_err(|e| Error::from(e).context(format!("reading /{key}")))?;
        let width = width_of(dataset, &rows);
        self.files.measured(key, width);
        Ok(width)
    }
}
