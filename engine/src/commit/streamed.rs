//! Rows that are too many to be held: a source of them is read batch by batch, as often as they are needed.
//!
//! They are read to be staged, once more to compare what was staged with them, and for the digest of a batch that has an id.
//! Between the reader, which blocks, and who takes the batches there is room for one.

use super::stage::{RowCounts, Staged, write_params};
use super::validate::conform;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::TableName;
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

/// Rows that can be read again and again.
pub trait RowSource: Debug + Send + Sync {
    /// Gives each batch to `sink`, in order: the same rows each time. It may block.
    ///
    /// # Errors
    /// The first one, be it of the rows or of `sink`; nothing of what was given before is committed then.
    fn read(&self, sink: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()>;
}

/// Batches that lie between the reader and who takes them.
const AHEAD: usize = 1;

/// The rows of `source` as those of `table`, which has the columns of `schema`.
pub(super) fn rows_of(
    source: Arc<dyn RowSource>,
    table: &TableName,
    schema: Schema,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let table = table.clone();
    let reading = tokio::task::spawn_blocking(move || {
        source.read(&mut |batch| {
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

/// Stages rows of `source`. Lance takes away what it has written of a stream that fails.
pub(super) async fn insert_streamed(
    dataset: Arc<Dataset>,
    table: &TableName,
    source: Arc<dyn RowSource>,
    replaces: bool,
) -> Result<Staged> {
    let (mode, deleted) = if replaces {
        (WriteMode::Overwrite, dataset.count_rows(None).await? as u64)
    } else {
        (WriteMode::Append, 0)
    };
    let schema = Schema::from(dataset.schema());
    let passed = Passed::default();
    let rows = rows_of(source, table, schema.clone());
    let params = WriteParams {
        max_bytes_per_file: STREAMED_FILE_BYTES,
        ..write_params(mode)
    };
    let staged = InsertBuilder::new(dataset)
        .with_params(&params)
        .execute_uncommitted_stream(passed.stream(rows, Arc::new(schema)))
        .await;
    let transaction = staged.map_err(|e| passed.failed().unwrap_or_else(|| e.into()))?;
    let rows = RowCounts {
        inserted: passed.rows(),
        deleted,
        ..RowCounts::default()
    };
    Ok(Staged::new(transaction, rows))
}
