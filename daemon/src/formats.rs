//! Input files, as Arrow record batches.
//!
//! One file of any supported format becomes a list of batches; where the caller knows the table's schema, the batches have
//! exactly that schema, or the file is refused with an error that says which column is wrong and what to do.
//!
//! 1. [`Format::of`] decides by the extension; nothing is sniffed, so that one name always means one thing.
//! 2. Text formats (CSV, NDJSON) have no types of their own: they are parsed straight to the target's types. Without a target the
//!    types are inferred from the whole file.
//! 3. Binary formats (Parquet, Arrow IPC) carry types: [`conform`] matches columns by name and casts where no value changes.
//!
//! A whole file is held in memory: how large a file may be is the caller's decision, taken before it calls [`read`].

mod conform;
mod csv;
mod error;
mod ndjson;
mod schema_file;
#[cfg(test)]
mod tests;

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    ipc::reader::{FileReader, StreamReader},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use conform::Conformer;
pub(crate) use error::FormatError;
pub(crate) use schema_file::read_schema_file;

/// Rows per batch. Large enough that the cost per batch vanishes, small enough that a batch of wide rows stays in the megabytes.
const BATCH_ROWS: usize = 8_192;

/// The supported file formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `.parquet`
    Parquet,
    /// `.arrow`, `.feather` (version 2) and `.ipc`: the Arrow IPC file format, which ends in a footer.
    ArrowFile,
    /// `.arrows`: the Arrow IPC stream format. A stream may legally end without a marker, so a copy that was cut off between two
    /// messages cannot be told from a whole one: producers must rename finished files into place.
    ArrowStream,
    /// `.csv` with a header row; an empty field is null.
    Csv,
    /// `.ndjson`, `.jsonl`: one JSON object a line.
    Ndjson,
}

impl Format {
    /// The extensions, as error messages list them.
    pub(crate) const EXTENSIONS: &str =
        ".parquet, .arrow, .feather, .ipc, .arrows, .csv, .ndjson, .jsonl";

    /// The format that the extension of `path` stands for (in any case); [`FormatError::Extension`] when there is none.
    pub(crate) fn of(path: &Path) -> Result<Self, FormatError> {
        let extension = path
            .extension()
            .map(|extension| extension.to_ascii_lowercase());
        match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("arrow" | "feather" | "ipc") => Ok(Self::ArrowFile),
            Some("arrows") => Ok(Self::ArrowStream),
            Some("csv") => Ok(Self::Csv),
            Some("ndjson" | "jsonl") => Ok(Self::Ndjson),
            _ => Err(FormatError::Extension { path: path.into() }),
        }
    }
}

/// Reads a whole file. The result has at least one batch, possibly an empty one, so that the schema is never lost.
///
/// With a `target`, every batch has exactly that schema: columns are matched by name, a missing nullable column is null, and a value is
/// cast only if casting it back gives the same value. A missing required column, an unknown column, a null in a required column, and
/// types that do not fit are errors. Without one, the file's own schema is used, or an inferred one for CSV and NDJSON.
pub(crate) fn read(path: &Path, target: Option<&Schema>) -> Result<Vec<RecordBatch>, FormatError> {
    let format = Format::of(path)?;
    let file = open(path)?;
    let (schema, batches) = match format {
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)
                .map_err(|e| FormatError::content(path, &e))?;
            let schema = Arc::clone(builder.schema());
            let reader = builder
                .with_batch_size(BATCH_ROWS)
                .build()
                .map_err(|e| FormatError::content(path, &e))?;
            (schema, collect(path, reader)?)
        }
        Format::ArrowFile => {
            let reader = FileReader::try_new(BufReader::new(file), None)
                .map_err(|e| FormatError::content(path, &e))?;
            (reader.schema(), collect(path, reader)?)
        }
        Format::ArrowStream => {
            let reader = StreamReader::try_new(BufReader::new(file), None)
                .map_err(|e| FormatError::content(path, &e))?;
            (reader.schema(), collect(path, reader)?)
        }
        Format::Csv => csv::read(path, file, target)?,
        Format::Ndjson => {
            let schema = match target {
                Some(target) => Arc::new(parse_schema(target)),
                None => schema_of(path)?,
            };
            let batches = ndjson::read(path, &schema)?;
            (schema, batches)
        }
    };
    let batches = if batches.is_empty() {
        vec![RecordBatch::new_empty(Arc::clone(&schema))]
    } else {
        batches
    };
    match target {
        None => Ok(batches),
        Some(target) => {
            let mut conformer = Conformer::new(path, &schema, target)?;
            batches.iter().map(|batch| conformer.apply(batch)).collect()
        }
    }
}

/// The schema of a file without its rows: stored (Parquet, Arrow) or inferred from all of its rows (CSV, NDJSON), where every column
/// is nullable and one without any value is `utf8`.
pub(crate) fn schema_of(path: &Path) -> Result<SchemaRef, FormatError> {
    let format = Format::of(path)?;
    let file = open(path)?;
    let content = |e: ArrowError| FormatError::content(path, &e);
    match format {
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)
                .map_err(|e| FormatError::content(path, &e))?;
            Ok(Arc::clone(builder.schema()))
        }
        Format::ArrowFile => Ok(FileReader::try_new(BufReader::new(file), None)
            .map_err(content)?
            .schema()),
        Format::ArrowStream => Ok(StreamReader::try_new(BufReader::new(file), None)
            .map_err(content)?
            .schema()),
        Format::Csv => {
            let (schema, _) = csv::options()
                .infer_schema(BufReader::new(file), None)
                .map_err(content)?;
            Ok(Arc::new(without_null_types(&schema)))
        }
        Format::Ndjson => {
            let (schema, _) = arrow::json::reader::infer_json_schema(BufReader::new(file), None)
                .map_err(content)?;
            Ok(Arc::new(without_null_types(&schema)))
        }
    }
}

fn open(path: &Path) -> Result<File, FormatError> {
    File::open(path).map_err(|source| FormatError::Io {
        path: path.into(),
        source,
    })
}

fn collect(
    path: &Path,
    reader: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
) -> Result<Vec<RecordBatch>, FormatError> {
    reader
        .map(|batch| batch.map_err(|e| FormatError::content(path, &e)))
        .collect()
}

/// The schema to parse text with on the way to `target`.
///
/// Every column is nullable, so that nulls are found by [`Conformer`], which names the column and the row. UTC is spelled as an offset,
/// which Arrow parses without a time zone database.
fn parse_schema(target: &Schema) -> Schema {
    let fields = target.fields().iter().map(|field| {
        let data_type = if let DataType::Timestamp(unit, Some(_)) = field.data_type() {
            DataType::Timestamp(*unit, Some("+00:00".into()))
        } else {
            field.data_type().clone()
        };
        Field::new(field.name(), data_type, true)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// A column in which inference saw no value could be anything: it becomes text, which can hold whatever comes later.
fn without_null_types(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let data_type = if field.data_type().is_null() {
            DataType::Utf8
        } else {
            field.data_type().clone()
        };
        Field::new(field.name(), data_type, true)
    });
    Schema::new(fields.collect::<Vec<_>>())
}
