//! Parquet.
//!
//! The reader believes what a file says of itself, and an allocation that fails or a stack that ends takes the process with it. So
//! [`footer`] looks over what the metadata announces (on [`thrift`]), and [`pages`] counts what the pages stand for (on
//! [`encoded`]), before anything is built. [`int96`] are the oldest timestamps.

mod encoded;
mod footer;
mod int96;
mod pages;
mod thrift;

use std::{fs::File, path::Path, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder,
        },
    },
    basic::Compression,
    file::metadata::ParquetMetaData,
};

use super::{
    FormatError, InputLimits, Sink, check_schema,
    conform::{batch_rows, decoded_bytes},
    source::{Source, io_error},
};

/// A file whose metadata is read.
struct Input<'a> {
    path: &'a Path,
    limits: &'a InputLimits,
    source: Source<'a>,
    file: File,
    length: u64,
    metadata: ArrowReaderMetadata,
    /// Rows of a batch: fewer where a null takes much.
    batch_rows: usize,
}

/// Bytes of a batch, as far as the file's metadata tells: what is read of it at once.
const BATCH_BYTES: u64 = 32 << 20;

/// Reads the whole file, its INT96 columns in the unit of the target's columns. Gives its schema.
pub(super) fn read(
    source: Source<'_>,
    target: Option<&Schema>,
    limits: &InputLimits,
    sink: &mut Sink<'_>,
) -> Result<SchemaRef, FormatError> {
    let input = Input::open(source, limits)?;
    let schema = input.schema(target)?;
    input.check_int96(&schema)?;
    input.read(&schema, sink)?;
    input.source.check_unchanged()?;
    Ok(schema)
}

/// The stored schema; an INT96 column counts nanoseconds only if it has to.
pub(super) fn schema_of(
    source: Source<'_>,
    limits: &InputLimits,
) -> Result<SchemaRef, FormatError> {
    Input::open(source, limits)?.schema(None)
}

impl<'a> Input<'a> {
    fn open(mut source: Source<'a>, limits: &'a InputLimits) -> Result<Self, FormatError> {
        let path = source.path;
        let (file, length) = source.seekable()?;
        let (metadata, end) = footer::read(path, &file, length, limits)?;
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())
            .map_err(|e| FormatError::content(path, &e))?;
        check_schema(path, metadata.schema(), limits)?;
        let announced = metadata.metadata().file_metadata().num_rows();
        let rows = u64::try_from(announced).map_err(|_| {
            FormatError::content(path, &"is damaged: it announces a negative number of rows")
        })?;
        limits.rows(rows).map_err(FormatError::limit(path))?;
        let bytes = check_sizes(path, metadata.metadata(), limits)?;
        check_compressions(path, metadata.metadata())?;
        footer::check_one_file(path, &file, end, metadata.metadata())?;
        let most = batch_rows(metadata.schema(), limits).map_err(FormatError::limit(path))?;
        let fitting = BATCH_BYTES.checked_div(bytes / rows.max(1));
        let fitting = fitting.and_then(|rows| usize::try_from(rows).ok());
        let batch_rows = fitting.map_or(most, |rows| rows.clamp(1, most));
        let input = Self {
            path,
            limits,
            source,
            file,
            length,
            metadata,
            batch_rows,
        };
        pages::check(&input)?;
        Ok(input)
    }

    fn reader(
        &self,
        schema: &SchemaRef,
        leaves: Option<&dyn Fn(usize) -> bool>,
    ) -> Result<ParquetRecordBatchReader, FormatError> {
        let failed = |e| FormatError::content(self.path, &e);
        let file = self.file.try_clone().map_err(io_error(self.path))?;
        let metadata = if schema == self.metadata.schema() {
            self.metadata.clone()
        } else {
            let options = ArrowReaderOptions::new().with_schema(Arc::clone(schema));
            let parsed = Arc::clone(self.metadata.metadata());
            ArrowReaderMetadata::try_new(parsed, options).map_err(failed)?
        };
        let parquet = self.metadata.parquet_schema();
        let mask = match leaves {
            None => ProjectionMask::all(),
            Some(leaves) => {
                let indices = (0..parquet.num_columns()).filter(|leaf| leaves(*leaf));
                ProjectionMask::leaves(parquet, indices)
            }
        };
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_batch_size(self.batch_rows)
            .with_projection(mask)
            .build()
            .map_err(failed)
    }

    /// The first column that cannot be read: of a batch nobody says which it is.
    fn unreadable<'s>(&self, schema: &'s Schema) -> Option<&'s str> {
        let parquet = self.metadata.parquet_schema();
        let of = |column: usize| move |leaf: usize| parquet.get_column_root_idx(leaf) == column;
        let fails = |column: usize| {
            let mut batches = self
                .reader(self.metadata.schema(), Some(&of(column)))
                .ok()?;
            batches.any(|batch| batch.is_err()).then_some(column)
        };
        let column = (0..schema.fields().len()).find_map(fails)?;
        Some(schema.field(column).name())
    }

    fn read(&self, schema: &SchemaRef, sink: &mut Sink<'_>) -> Result<(), FormatError> {
        let (mut rows, mut decoded) = (0, 0);
        let announced = self.metadata.metadata().file_metadata().num_rows();
        let announced = u64::try_from(announced).unwrap_or(0);
        for batch in self.reader(schema, None)? {
            let batch = batch
                .map_err(|e| FormatError::content_of(self.path, self.unreadable(schema), &e))?;
            rows += batch.num_rows() as u64;
            decoded += decoded_bytes(&batch);
            self.limits
                .rows(rows)
                .and_then(|()| self.limits.decoded_bytes(decoded))
                .map_err(FormatError::limit(self.path))?;
            self.source.count_share(batch.num_rows() as u64, announced);
            sink(batch)?;
        }
        Ok(())
    }
}

/// Refuses what the reader is built without.
fn check_compressions(path: &Path, metadata: &ParquetMetaData) -> Result<(), FormatError> {
    let mut chunks = metadata.row_groups().iter().flat_map(|g| g.columns());
    let name = chunks.find_map(|chunk| match chunk.compression() {
        Compression::BROTLI(_) => Some("brotli"),
        Compression::LZO => Some("LZO"),
        _ => None,
    });
    name.map_or(Ok(()), |name| {
        let detail = format!(
            "is compressed with {name}, which is not supported; write it with zstd, snappy, gzip or lz4, or without compression"
        );
        Err(FormatError::unsupported(path, detail))
    })
}

/// What the metadata announces is within the limits: readers allocate by it. Gives the bytes of all columns.
fn check_sizes(
    path: &Path,
    metadata: &ParquetMetaData,
    limits: &InputLimits,
) -> Result<u64, FormatError> {
    let chunks = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns());
    let mut total = 0_u64;
    for chunk in chunks {
        let size = u64::try_from(chunk.uncompressed_size());
        let size = size.map_err(|_| {
            FormatError::content(
                path,
                &"is damaged: it announces a negative size of a column",
            )
        })?;
        total = total.saturating_add(size);
    }
    let within = limits.decoded_bytes(total);
    within.map_err(FormatError::limit(path))?;
    Ok(total)
}
