//! Input files, as Arrow record batches.
//!
//! One file of any supported format becomes a list of batches; where the caller knows the table's schema, the batches have
//! exactly that schema and every value of the file, or the file is refused with an error that says where and what to do.
//!
//! 1. [`Format::of`] decides by the extension; a content that is certainly another one is refused by [`source`], not guessed.
//!    [`compressed`] unpacks what gzip, zstd or bzip2 made of any of them.
//! 2. [`text`] (CSV, NDJSON) parses straight to the target's types. Without a target they are inferred from the whole file.
//! 3. Binary formats ([`parquet`], Arrow [`ipc`]) carry types: [`conform`] matches columns by name and casts where no value changes.
//!    [`damage`] and [`jsonb`] refuse what types and extensions do not have, whatever a file says.
//! 4. [`shape`] says what columns are called, what stands in for those that are missing, and which values may be changed.
//! 5. [`InputLimits`] bounds what one file may take, and [`caught`] turns the panics of parsers into refusals.
//! 6. A [`Meter`] counts what is read, for whoever shows how far it is.
//!
//! Batches are handed on as they are read ([`read_into`]); of Arrow files the bytes are held as a whole.

mod by_name;
mod compressed;
mod conform;
mod damage;
mod error;
mod ipc;
mod jsonb;
mod limits;
mod meter;
mod parquet;
mod schema_file;
mod shape;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod visible;

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, FieldRef, Schema, SchemaRef},
};
use clap::ValueEnum;
use squire_engine::error::panic_text;

use compressed::Compression;
pub(crate) use compressed::compression_of;
use conform::Conformer;
pub(crate) use conform::decoded_bytes;
pub(crate) use error::{FormatError, Shown};
pub(crate) use ipc::check_stream;
pub(crate) use limits::InputLimits;
pub(crate) use meter::{Meter, Metered};
pub(crate) use schema_file::{parse_type, read_schema_file};
pub(crate) use shape::{Coerced, Coercion, Given, Reading, Setting, Shape, check_coercions};
pub(crate) use source::Input;
use source::Source;

/// Rows per batch. Large enough that the cost per batch vanishes, small enough that a batch of wide rows stays in the megabytes.
const BATCH_ROWS: usize = 8_192;

/// The supported file formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// `.parquet`
    Parquet,
    /// `.arrow`, `.feather` (version 2) and `.ipc`: the Arrow IPC file format, which ends in a footer. It begins with a mark;
    /// what does not is read as the stream format, as which many tools write these names.
    ArrowFile,
    /// `.arrows`: the Arrow IPC stream format. A stream may legally end without a marker, so a copy that was cut off between two
    /// messages cannot be told from a whole one: producers must rename finished files into place.
    ArrowStream,
    /// `.csv` with a header row; an empty field without quotes is null.
    Csv,
    /// `.ndjson`, `.jsonl`: one JSON object a line.
    Ndjson,
}

impl Format {
    /// The extensions, as error messages list them.
    pub(crate) const EXTENSIONS: &str = ".parquet, .arrow, .feather, .ipc, .arrows, .csv, .ndjson, .jsonl, each also with .gz, .zst or .bz2 behind it";

    /// The format that the extension of `path` stands for (in any case, before that of a compression); [`FormatError::Extension`]
    /// when there is none.
    pub(crate) fn of(path: &Path) -> Result<Self, FormatError> {
        let unpacked = Compression::of_name(path).map(|(_, name)| Path::new(name));
        let extension = unpacked
            .unwrap_or(path)
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

/// The rows of an input.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Rows {
    /// At least one, possibly an empty one, so that the schema is never lost.
    pub(crate) batches: Vec<RecordBatch>,
    /// What was changed of their values, because it was asked for.
    pub(crate) coerced: Vec<Coerced>,
}

/// All rows of an input, as [`read_into`] reads them.
#[cfg(test)]
pub(crate) fn read(
    input: &Input,
    reading: Option<&Reading>,
    limits: &InputLimits,
) -> Result<Rows, FormatError> {
    let mut batches = Vec::new();
    let coerced = read_into(input, reading, limits, &mut |batch| {
        batches.push(batch);
        Ok(())
    })?;
    Ok(Rows { batches, coerced })
}

/// Takes the batches of an input, in order; its error ends the reading.
pub(crate) type Sink<'s> = dyn FnMut(RecordBatch) -> Result<(), FormatError> + 's;

/// Reads a whole input and hands each batch to `sink`, at least one, possibly an empty one, so that the schema is never lost. What
/// is wrong may show after batches were handed on. Gives what was changed of the values.
///
/// With a `reading`, every batch has exactly its target's schema: columns are matched by name, a missing column is its default or
/// null, and a value is stored exactly, or as the coercions say. A missing required column, an unknown column, a null in a required
/// column, types that do not fit and values that would change are errors. Without one, the file's own schema is used, or an inferred
/// one for CSV and NDJSON.
pub(crate) fn read_into(
    input: &Input,
    reading: Option<&Reading>,
    limits: &InputLimits,
    sink: &mut Sink<'_>,
) -> Result<Vec<Coerced>, FormatError> {
    caught(input.path(), || {
        let source = Source::open(input, limits)?;
        let path = source.path;
        match (source.format, reading) {
            (Format::Csv | Format::Ndjson, Some(reading)) => {
                return text::read(source, reading, limits, sink);
            }
            (Format::Csv | Format::Ndjson, None) => {
                text::read_inferred(source, input, limits, sink)?;
                return Ok(Vec::new());
            }
            (Format::Parquet | Format::ArrowFile | Format::ArrowStream, _) => {}
        }
        let (mut rows, mut conformer) = (0, None);
        let mut each = |batch: RecordBatch| {
            damage::check(path, &batch, rows)?;
            rows += batch.num_rows();
            let Some(reading) = reading else {
                return sink(batch);
            };
            let conformer = match &mut conformer {
                Some(conformer) => conformer,
                none => none.insert(Conformer::new(path, &batch.schema(), reading)?),
            };
            sink(conformer.take(&batch, limits)?)
        };
        let mut any = false;
        let mut handed = |batch| {
            any = true;
            each(batch)
        };
        let schema = match source.format {
            Format::Parquet => {
                let target = reading.map(|reading| reading.input.as_ref());
                parquet::read(source, target, limits, &mut handed)?
            }
            _ => ipc::read(source, limits, &mut handed)?,
        };
        if !any {
            each(RecordBatch::new_empty(schema))?;
        }
        Ok(conformer.map(Conformer::finish).unwrap_or_default())
    })
}

/// The schema of an input without its rows: stored (Parquet, Arrow) or inferred from all of its rows (CSV, NDJSON), where every column
/// is nullable and one without any value is `utf8`.
pub(crate) fn schema_of(input: &Input, limits: &InputLimits) -> Result<SchemaRef, FormatError> {
    caught(input.path(), || {
        let source = Source::open(input, limits)?;
        match source.format {
            Format::Parquet => parquet::schema_of(source, limits),
            Format::ArrowFile | Format::ArrowStream => ipc::schema_of(source, limits),
            Format::Csv | Format::Ndjson => text::schema_of(source, limits),
        }
    })
}

/// The same, where a column of CSV or NDJSON without any value is null: what it holds is not known.
pub(crate) fn columns_of(input: &Input, limits: &InputLimits) -> Result<SchemaRef, FormatError> {
    caught(input.path(), || {
        let source = Source::open(input, limits)?;
        match source.format {
            Format::Parquet => parquet::schema_of(source, limits),
            Format::ArrowFile | Format::ArrowStream => ipc::schema_of(source, limits),
            Format::Csv | Format::Ndjson => text::columns_of(source, limits),
        }
    })
}

/// Runs a parser. It reads what anyone may have put there, and a panic on it is one more way to refuse it.
fn caught<T>(
    path: &Path,
    parse: impl FnOnce() -> Result<T, FormatError>,
) -> Result<T, FormatError> {
    catch_unwind(AssertUnwindSafe(parse)).unwrap_or_else(|panic| {
        let detail = format!("is damaged ({})", panic_text(panic.as_ref()));
        Err(FormatError::content(path, &detail))
    })
}

/// The names of an input's columns, whatever their types are.
pub(crate) fn names_of(input: &Input, limits: &InputLimits) -> Result<Vec<String>, FormatError> {
    caught(input.path(), || {
        let source = Source::open(input, limits)?;
        let schema = match source.format {
            Format::Csv | Format::Ndjson => return text::names_of(source, limits),
            Format::Parquet => parquet::schema_of(source, limits)?,
            Format::ArrowFile | Format::ArrowStream => ipc::schema_of(source, limits)?,
        };
        Ok(schema.fields().iter().map(|f| f.name().clone()).collect())
    })
}

/// Whether the file's schema is within the limits, and each of its fields has a name of its own.
fn check_schema(path: &Path, schema: &Schema, limits: &InputLimits) -> Result<(), FormatError> {
    let deepest = schema.fields().iter().map(|field| depth(field.data_type()));
    limits
        .columns(schema.fields().len())
        .and_then(|()| limits.nesting(deepest.max().unwrap_or(0)))
        .map_err(FormatError::limit(path))?;
    check_names(path, "", schema.fields())
}

/// No field within `outer` is without a name, and no two have the same.
fn check_names<'f>(
    path: &Path,
    outer: &str,
    fields: impl IntoIterator<Item = &'f FieldRef>,
) -> Result<(), FormatError> {
    let mut seen = HashSet::new();
    for (index, field) in fields.into_iter().enumerate() {
        if field.name().is_empty() {
            return Err(FormatError::Unnamed {
                path: path.into(),
                number: index + 1,
                outer: outer.to_owned(),
            });
        }
        let full = match outer {
            "" => field.name().clone(),
            outer => format!("{outer}.{}", field.name()),
        };
        if !seen.insert(field.name()) {
            return Err(FormatError::RepeatedColumn {
                path: path.into(),
                column: full,
            });
        }
        check_names_within(path, &full, field.data_type())?;
    }
    Ok(())
}

fn check_names_within(path: &Path, outer: &str, data_type: &DataType) -> Result<(), FormatError> {
    use DataType as T;
    match data_type {
        T::Struct(fields) => check_names(path, outer, fields),
        // Items have no names of their own.
        T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) | T::Map(item, _) => {
            check_names_within(path, outer, item.data_type())
        }
        T::Dictionary(_, values) => check_names_within(path, outer, values),
        _ => Ok(()),
    }
}

/// Lists and structs within each other.
fn depth(data_type: &DataType) -> usize {
    use DataType as T;
    match data_type {
        T::List(item)
        | T::LargeList(item)
        | T::ListView(item)
        | T::LargeListView(item)
        | T::FixedSizeList(item, _)
        | T::Map(item, _)
        | T::RunEndEncoded(_, item) => 1 + depth(item.data_type()),
        T::Struct(fields) => {
            1 + fields
                .iter()
                .map(|field| depth(field.data_type()))
                .max()
                .unwrap_or(0)
        }
        T::Union(fields, _) => {
            1 + fields
                .iter()
                .map(|(_, field)| depth(field.data_type()))
                .max()
                .unwrap_or(0)
        }
        T::Dictionary(_, values) => depth(values),
        _ => 0,
    }
}
