//! Rows that a write adds: held, or too many for that. A source of these is read batch by batch, as often as they are needed.
//!
//! It is read to be staged, once more to compare what was staged with them, and for the digest of a batch that has an id.
//! Between the reader, which blocks, and who takes the batches there is room for one.

use super::stage::{RowCounts, Staged, write_params};
use super::validate::conform;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::TableName;
use crate::proof::Given;
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use lance::dataset::{Dataset, InsertBuilder, WriteMode, WriteParams};
use lance::deps::datafusion::error::DataFusionError;
use lance::deps::datafusion::execution::SendableRecordBatchStream;
use lance::deps::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// What rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be staged.
    Stage,
    /// To be compared with what was staged.
    Compare,
    /// For the digest of a batch that has an id.
    Digest,
    /// To be counted, for a preview.
    Count,
}

/// Rows that can be read again and again.
pub trait RowSource: Debug + Send + Sync {
    /// Gives each batch to `sink`, in order: the same rows each time, whatever they are read for. It may block.
    ///
    /// # Errors
    /// The first one, be it of the rows or of `sink`; nothing of what was given before is committed then.
    fn read(&self, purpose: Purpose, sink: &mut dyn FnMut(RecordBatch) -> Result<()>)
    -> Result<()>;
}

/// Rows that a write adds, whether they replace others or not.
#[derive(Debug, Clone)]
pub enum Rows {
    /// They are held.
    Held(Vec<RecordBatch>),
    /// They are too many to be held.
    Streamed(Arc<dyn RowSource>),
}

impl From<Vec<RecordBatch>> for Rows {
    fn from(rows: Vec<RecordBatch>) -> Self {
        Self::Held(rows)
    }
}

impl Rows {
    /// Those that are held.
    pub fn held(&self) -> &[RecordBatch] {
        match self {
            Self::Held(rows) => rows,
            Self::Streamed(_) => &[],
        }
    }

    /// Gives each batch to `sink`, in order.
    ///
    /// # Errors
    /// The first one, be it of the rows or of `sink`.
    pub fn read(
        &self,
        purpose: Purpose,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Held(rows) => rows.iter().cloned().try_for_each(sink),
            Self::Streamed(source) => source.read(purpose, sink),
        }
    }

    /// The same as rows of `table`, which has the columns of `schema`; a source's are checked as they are read.
    pub(super) fn conform(&self, table: &TableName, schema: &Schema) -> Result<Self> {
        Ok(match self {
            Self::Held(rows) => Self::Held(conform(table, schema, rows)?),
            Self::Streamed(_) => self.clone(),
        })
    }

    /// What was given to be staged.
    pub(super) fn given(&self, table: &TableName, on: &Dataset) -> Given<'_> {
        match self {
            Self::Held(rows) => Given::InOrder(rows),
            Self::Streamed(source) => {
                let schema = Schema::from(on.schema());
                let rows = rows_of((source.clone(), Purpose::Compare), table, schema);
                Given::Streamed(rows)
            }
        }
    }
}

/// Batches that lie between the reader and who takes them.
const AHEAD: usize = 1;

/// The rows of `source` as those of `table`, which has the columns of `schema`.
pub(super) fn rows_of(
    (source, purpose): (Arc<dyn RowSource>, Purpose),
    table: &TableName,
    schema: Schema,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let table = table.clone();
    let reading = tokio::task::spawn_blocking(move || {
        source.read(purpose, &mut |batch| {
            for batch in conform(&table, &schema, std::slice::from_ref(&batch))? {
                let sent = sender.blocking_send(batch);
                sent.map_err(|_| Error::new(ErrorKind::Cancelled, "the rest is not wanted"))?;
            }
            Ok(())
        })
    });
    let given = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|batch| (Ok(batch), receiver))
    });
    // The channel is closed when the source is at its end, or has failed.
    let ended = stream::once(reading).filter_map(|ended| async move {
        let ended = ended.map_err(|e| Error::internal("reading the input").caused_by(e));
        ended.and_then(|ended| ended).err().map(Err)
    });
    given.chain(ended).boxed()
}

/// What was seen of rows on their way into Lance, which has no place for our errors.
#[derive(Debug, Clone, Default)]
struct Passed {
    rows: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<Error>>>,
}

impl Passed {
    /// `rows` as Lance takes them.
    fn stream(
        &self,
        rows: BoxStream<'static, Result<RecordBatch>>,
        schema: SchemaRef,
    ) -> SendableRecordBatchStream {
        let seen = self.clone();
        let rows = rows.map(move |batch| match batch {
            Ok(batch) => {
                let more = batch.num_rows() as u64;
                seen.rows.fetch_add(more, Ordering::Relaxed);
                Ok(batch)
            }
            Err(e) => {
                let told = DataFusionError::External(e.to_string().into());
                *seen.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                Err(told)
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// What ended the rows, if it was not Lance.
    fn failed(&self) -> Option<Error> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take()
    }
}

/// Bytes of a data file of a stream, after which the next one begins: as large as what a compaction makes at most.
const STREAMED_FILE_BYTES: usize = 1 << 30;

/// Stages rows, which are added to those of `dataset` or replace them. Of a stream that fails, Lance takes away what it has
/// written.
pub(super) async fn insert(
    dataset: Arc<Dataset>,
    table: &TableName,
    rows: Rows,
    mode: WriteMode,
) -> Result<Staged> {
    let deleted = match mode {
        WriteMode::Overwrite => dataset.count_rows(None).await? as u64,
        WriteMode::Append | WriteMode::Create => 0,
    };
    let schema = Schema::from(dataset.schema());
    let (transaction, inserted) = match rows {
        Rows::Held(mut rows) => {
            let inserted = rows.iter().map(|batch| batch.num_rows() as u64).sum();
            if rows.is_empty() {
                rows = vec![RecordBatch::new_empty(Arc::new(schema))];
            }
            let params = write_params(mode);
            let builder = InsertBuilder::new(dataset).with_params(&params);
            (builder.execute_uncommitted(rows).await?, inserted)
        }
        Rows::Streamed(source) => {
            let passed = Passed::default();
            let rows = rows_of((source, Purpose::Stage), table, schema.clone());
            let rows = passed.stream(rows, Arc::new(schema));
            let params = WriteParams {
                max_bytes_per_file: STREAMED_FILE_BYTES,
                ..write_params(mode)
            };
            let builder = InsertBuilder::new(dataset).with_params(&params);
            let staged = builder.execute_uncommitted_stream(rows).await;
            let transaction = staged.map_err(|e| passed.failed().unwrap_or_else(|| e.into()))?;
            (transaction, passed.rows())
        }
    };
    let rows = RowCounts {
        inserted,
        deleted,
        ..RowCounts::default()
    };
    Ok(Staged::new(transaction.operation, rows))
}
