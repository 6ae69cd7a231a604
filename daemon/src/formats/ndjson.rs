//! NDJSON, strictly: Arrow's decoder says neither which line is wrong nor that it rounded a number, so both are found here.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    json::ReaderBuilder,
};

use super::{BATCH_ROWS, FormatError};

/// 2^53: up to here every whole number is exact as a float.
const EXACT_FLOAT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// Reads the file with `schema`; a name that is not in it is an error, a missing one is null.
pub(super) fn read(path: &Path, schema: &SchemaRef) -> Result<Vec<RecordBatch>, FormatError> {
    let reader = ReaderBuilder::new(Arc::clone(schema))
        .with_strict_mode(true)
        .with_batch_size(BATCH_ROWS);
    let decoded = reader
        .build(open(path)?)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let batches = decoded.map_err(|cause| locate(path, schema, &cause))?;
    check_whole_numbers(path, schema)?;
    Ok(batches)
}

fn open(path: &Path) -> Result<BufReader<File>, FormatError> {
    File::open(path)
        .map(BufReader::new)
        .map_err(|source| FormatError::Io {
            path: path.into(),
            source,
        })
}

/// Decodes line by line until one fails alone. If none does (an object over several lines, say), the line stays unknown.
fn locate(path: &Path, schema: &SchemaRef, cause: &ArrowError) -> FormatError {
    let found = open(path)
        .ok()
        .and_then(|file| first_bad_line(file, schema));
    let (line, detail) = match found {
        Some((line, detail)) => (Some(line), detail),
        None => (None, cause.to_string()),
    };
    FormatError::Content {
        path: path.into(),
        line,
        detail,
    }
}

fn first_bad_line(mut file: impl BufRead, schema: &SchemaRef) -> Option<(u64, String)> {
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        if file.read_until(b'\n', &mut text).ok()? == 0 {
            return None;
        }
        let reader = ReaderBuilder::new(Arc::clone(schema))
            .with_strict_mode(true)
            .build(text.as_slice());
        let failed = reader
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .err();
        if let Some(cause) = failed {
            return Some((number, cause.to_string()));
        }
    }
    None
}

/// Arrow decodes `1.5` into an integer column as `1`. So the columns that hold whole numbers are decoded once more as the text that
/// stands in the file, and anything that is a number but not a whole one is refused. Lists of integers are not looked into.
fn check_whole_numbers(path: &Path, schema: &SchemaRef) -> Result<(), FormatError> {
    let whole = schema.fields().iter().filter(|field| {
        field.data_type().is_integer()
            || matches!(
                field.data_type(),
                DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
            )
    });
    let fields: Vec<Field> = whole
        .map(|field| Field::new(field.name(), DataType::Utf8, true))
        .collect();
    if fields.is_empty() {
        return Ok(());
    }
    let reader = ReaderBuilder::new(Arc::new(Schema::new(fields)))
        .with_coerce_primitive(true)
        .with_batch_size(BATCH_ROWS)
        .build(open(path)?)
        .map_err(|e| FormatError::content(path, &e))?;
    let mut rows_before = 0;
    for batch in reader {
        let batch = batch.map_err(|e| FormatError::content(path, &e))?;
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let texts = column.as_string::<i32>();
            let bad = texts
                .iter()
                .enumerate()
                .find_map(|(row, text)| text.filter(|t| is_rounded(t)).map(|t| (row, t)));
            if let Some((row, text)) = bad {
                let wanted = schema
                    .field_with_name(field.name())
                    .map(Field::data_type)
                    .unwrap_or(&DataType::Int64);
                return Err(FormatError::Lossy {
                    path: path.into(),
                    column: field.name().clone(),
                    row: rows_before + row + 1,
                    value: format!("{text} ({wanted})"),
                });
            }
        }
        rows_before += batch.num_rows();
    }
    Ok(())
}

/// Whether the text is a number that an integer cannot hold exactly. `1.0` and `1e3` can; a date is not a number.
fn is_rounded(text: &str) -> bool {
    if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() {
        return false;
    }
    text.parse::<f64>()
        .is_ok_and(|value| value.fract() != 0.0 || value.abs() > EXACT_FLOAT_INTEGERS)
}
