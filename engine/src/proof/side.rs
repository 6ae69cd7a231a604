//! One side of a comparison: a scan, batch by batch, with what was seen of it.

use super::tally::Tally;
use crate::error::{Error, ErrorKind, Result, caught};
use crate::oversight::Oversight;
use arrow_array::RecordBatch;
use arrow_schema::Schema;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use lance::Dataset;
use lance::dataset::scanner::{DatasetRecordBatchStream, Scanner};
use lance::datatypes::BlobHandling;
use lance_table::format::Fragment;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

/// Rows in a batch of a default scan: 8,192 on local disks, 16,384 on object stores.
pub(crate) const READER_ROWS: u64 = 16_384;

/// What 32-bit offsets can count in one batch.
const READER_ITEMS: u64 = i32::MAX as u64;

/// How much of what Lance says is repeated.
const SAID_CHARS: usize = 200;

/// What is scanned.
#[derive(Debug, Default, Clone)]
pub(super) struct Reading {
    /// Only these columns, with the bytes of blobs; what a default scan gives when empty.
    pub(super) blobs_of: Vec<String>,
    pub(super) batch_rows: Option<usize>,
    pub(super) row_ids: bool,
    /// Only this row.
    pub(super) only: Option<u64>,
    /// Bytes that may be read ahead; by default more than what is streamed may hold.
    pub(super) read_ahead: Option<u64>,
    /// Each batch is a step of the run.
    pub(super) oversight: Oversight,
}

/// Rows that a default scan would give as one batch, and that do not fit into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wide {
    /// The column.
    pub(crate) column: String,
    /// How many rows of this width do fit.
    pub(crate) fitting_rows: u64,
}

/// Where the rows of a side come from.
enum Source {
    /// What is replaced: these fragments of the dataset.
    Old(Vec<Fragment>),
    /// What was written, of which the dataset is a view.
    New,
    /// What was to be written.
    Given(BoxStream<'static, Result<RecordBatch>>),
}

/// One side.
pub(super) struct Side {
    dataset: Dataset,
    source: Source,
    reading: Reading,
    stream: Option<DatasetRecordBatchStream>,
    batch: RecordBatch,
    /// Rows of the batch that are done.
    at: usize,
    pub(super) tally: Tally,
    /// What a default scan would give as one batch, so far.
    window: Tally,
    pub(super) wide: Option<Wide>,
}

impl Side {
    /// What is replaced.
    pub(super) fn of_old(dataset: Dataset, fragments: Vec<Fragment>, reading: &Reading) -> Self {
        Self {
            source: Source::Old(fragments),
            ..Self::of_new(dataset, reading)
        }
    }

    /// What was to be written into `dataset`.
    pub(super) fn of_given(
        dataset: Dataset,
        rows: BoxStream<'static, Result<RecordBatch>>,
        reading: &Reading,
    ) -> Self {
        Self {
            source: Source::Given(rows),
            ..Self::of_new(dataset, reading)
        }
    }

    /// What was written: all that `view` holds.
    pub(super) fn of_new(view: Dataset, reading: &Reading) -> Self {
        Self {
            dataset: view,
            source: Source::New,
            reading: reading.clone(),
            stream: None,
            batch: RecordBatch::new_empty(Arc::new(Schema::empty())),
            at: 0,
            tally: Tally::default(),
            window: Tally::default(),
            wide: None,
        }
    }

    /// Rows of the batch that are not done.
    pub(super) fn left(&self) -> usize {
        self.batch.num_rows() - self.at
    }

    /// The batch, if none of its rows is done.
    pub(super) fn begun(&self) -> Option<&RecordBatch> {
        (self.at == 0 && self.batch.num_rows() > 0).then_some(&self.batch)
    }

    /// Rows from `offset` after those that are done.
    pub(super) fn slice(&self, offset: usize, length: usize) -> RecordBatch {
        self.batch.slice(self.at + offset, length)
    }

    /// `rows` more are done.
    pub(super) fn advance(&mut self, rows: usize) {
        self.at += rows;
    }

    /// Reads the next batch if all rows are done; whether there are rows.
    pub(super) async fn fill(&mut self) -> Result<bool> {
        while self.left() == 0 {
            let next = match &mut self.source {
                Source::Given(rows) => rows.try_next().await?,
                Source::Old(_) => self.next().await?,
                // Decoders panic, too, on what they do not expect.
                Source::New => match caught("reading back", self.next()).await {
                    Ok(next) => next,
                    Err(e) => return Err(self.unfit(e).await),
                },
            };
            let Some(batch) = next else {
                return Ok(false);
            };
            self.see(&batch);
            self.batch = batch;
            self.at = 0;
        }
        Ok(true)
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.stream.is_none() {
            let scanner = self.scanner(&self.reading.blobs_of)?;
            self.stream = Some(scanner.try_into_stream().await?);
        }
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        let next = stream.try_next().await?;
        self.reading.oversight.step();
        Ok(next)
    }

    fn scanner(&self, columns: &[String]) -> Result<Scanner> {
        let mut scanner = self.dataset.scan();
        scanner.scan_in_order(true);
        // As the rewrite itself reads: what is held is bounded by the task, not by how far ahead a reader may go.
        scanner.batch_readahead(1).fragment_readahead(1);
        if let Source::Old(fragments) = &self.source {
            scanner.with_fragments(fragments.clone());
        }
        if !columns.is_empty() {
            scanner.project(columns)?;
        }
        if !self.reading.blobs_of.is_empty() {
            scanner.blob_handling(BlobHandling::AllBinary);
        }
        if self.reading.row_ids {
            scanner.with_row_id();
        }
        if let Some(rows) = self.reading.batch_rows {
            scanner.batch_size(rows);
        }
        if let Some(bytes) = self.reading.read_ahead {
            scanner.io_buffer_size(bytes);
        }
        if let Some(row) = self.reading.only {
            scanner.limit(Some(1), i64::try_from(row).ok())?;
        }
        Ok(scanner)
    }

    fn see(&mut self, batch: &RecordBatch) {
        let mut seen = Tally::default();
        seen.add(batch);
        self.tally.merge(&seen);
        if !matches!(self.source, Source::New) || !self.reading.blobs_of.is_empty() {
            return;
        }
        // A batch never holds rows of two fragments.
        let ends_fragment = self.ends_fragment();
        self.window.merge(&seen);
        let (column, items) = self.window.widest();
        if items > READER_ITEMS && self.wide.is_none() {
            let rows = u128::from(self.window.rows) * u128::from(READER_ITEMS) / u128::from(items);
            self.wide = Some(Wide {
                column: column.to_owned(),
                fitting_rows: u64::try_from(rows).unwrap_or(u64::MAX).max(1),
            });
        }
        if ends_fragment || self.window.rows >= READER_ROWS {
            self.window = Tally::default();
        }
    }

    /// Whether the rows that were read so far are whole fragments.
    fn ends_fragment(&self) -> bool {
        let mut end = 0;
        for fragment in self.dataset.fragments().iter() {
            end += fragment.physical_rows.unwrap_or(0) as u64;
            if end >= self.tally.rows {
                break;
            }
        }
        end == self.tally.rows
    }

    /// What it means that reading back failed with `e`. A storage that fails says nothing about what was written.
    async fn unfit(&mut self, e: Error) -> Error {
        if is_storage(&e) {
            return e;
        }
        let column = match self.unreadable_column().await {
            Some(name) => format!("column {name}"),
            None => String::from("what was written"),
        };
        Error::new(
            ErrorKind::Unfit,
            format!("{column} cannot be read back: {}", said(&e)),
        )
    }

    /// The first column that cannot be read by itself.
    async fn unreadable_column(&mut self) -> Option<String> {
        for field in self.dataset.schema().fields.clone() {
            let scanner = self.scanner(std::slice::from_ref(&field.name)).ok()?;
            let read = async move {
                let mut stream = scanner.try_into_stream().await?;
                while stream.try_next().await?.is_some() {}
                Ok(())
            };
            if caught("reading a column", read).await.is_err() {
                return Some(field.name);
            }
        }
        None
    }
}

/// Whether a storage is behind an error. What unpacks compressed pages says that it cannot as an I/O error, too; no
/// system stands behind that one.
pub(super) fn is_storage(e: &Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = e.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if error.is::<object_store::Error>() || io.is_some_and(is_of_system) {
            return true;
        }
        // What an I/O error wraps is not its source, but itself.
        let wrapped = io.and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

fn is_of_system(e: &io::Error) -> bool {
    use io::ErrorKind as Io;
    let is_of_content = matches!(
        e.kind(),
        Io::InvalidData | Io::InvalidInput | Io::UnexpectedEof | Io::Other
    );
    e.raw_os_error().is_some() || !is_of_content
}

/// The innermost of what is said, without where in Lance's source that was, shortened.
fn said(e: &Error) -> String {
    let mut innermost: &(dyn StdError + 'static) = e;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let text = innermost.to_string();
    let line = text.lines().next().unwrap_or_default();
    let without_place = match line.rfind(", /") {
        Some(at) if line[at..].contains(".rs:") => &line[..at],
        _ => line,
    };
    without_place.chars().take(SAID_CHARS).collect()
}
