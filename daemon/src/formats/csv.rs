//! CSV: columns are matched by the header's names, and a bad record is named by its line.

use std::{
    fs::{self, File},
    io::{BufReader, Seek},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    csv::{ReaderBuilder, reader},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};

use super::{BATCH_ROWS, FormatError, conform::Conformer, parse_schema, schema_of};

/// How every CSV file is read.
pub(super) fn options() -> reader::Format {
    reader::Format::default().with_header(true)
}

/// Reads the file. Arrow matches CSV columns by position. So the header is read first, and the file is parsed in the header's order
/// with the target's types; [`Conformer`] reorders afterwards.
pub(super) fn read(
    path: &Path,
    mut file: File,
    target: Option<&Schema>,
) -> Result<(SchemaRef, Vec<RecordBatch>), FormatError> {
    let schema = match target {
        None => schema_of(path)?,
        Some(target) => {
            let (header, _) = options()
                .infer_schema(BufReader::new(&file), Some(0))
                .map_err(|e| FormatError::content(path, &e))?;
            file.rewind().map_err(|source| FormatError::Io {
                path: path.into(),
                source,
            })?;
            let typed = parse_schema(target);
            let fields = header.fields().iter().map(|column| {
                let known = typed.field_with_name(column.name());
                known
                    .cloned()
                    .unwrap_or_else(|_| Field::new(column.name(), DataType::Utf8, true))
            });
            let schema = Schema::new(fields.collect::<Vec<_>>());
            // Refuses unknown and missing columns before a possibly misleading parse error.
            Conformer::new(path, &schema, target)?;
            Arc::new(schema)
        }
    };
    let builder = ReaderBuilder::new(Arc::clone(&schema))
        .with_format(options())
        .with_batch_size(BATCH_ROWS);
    let batches = builder
        .build(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let batches = batches.map_err(|cause| locate(path, &schema, &cause))?;
    Ok((schema, batches))
}

/// Arrow counts records, and not always from the same number. So the file is decoded again, one record at a time, up to the bad one.
fn locate(path: &Path, schema: &SchemaRef, cause: &ArrowError) -> FormatError {
    let line = fs::read(path)
        .ok()
        .and_then(|text| first_bad_line(&text, schema));
    let detail = if line.is_some() {
        without_line(&cause.to_string())
    } else {
        cause.to_string()
    };
    FormatError::Content {
        path: path.into(),
        line,
        detail,
    }
}

fn first_bad_line(text: &[u8], schema: &SchemaRef) -> Option<u64> {
    let builder = ReaderBuilder::new(Arc::clone(schema))
        .with_format(options())
        .with_batch_size(1);
    let mut decoder = builder.build_decoder();
    let (mut read, mut line, mut record_line) = (0, 1_u64, 1_u64);
    loop {
        // The end of a line is consumed with the record before it or with the one after, as the decoder likes.
        let blank = text[read..]
            .iter()
            .take_while(|byte| matches!(byte, b'\n' | b'\r'));
        let at_record = line + blank.filter(|byte| **byte == b'\n').map(|_| 1).sum::<u64>();
        if decoder.capacity() == 1 {
            record_line = at_record;
        }
        let Ok(consumed) = decoder.decode(&text[read..]) else {
            // The header is skipped in the same call as the first record is read.
            return Some(if read == 0 {
                at_record + 1
            } else {
                record_line
            });
        };
        line += text[read..read + consumed]
            .iter()
            .filter(|byte| **byte == b'\n')
            .map(|_| 1)
            .sum::<u64>();
        let first = read == 0;
        read += consumed;
        if consumed > 0 && decoder.capacity() > 0 {
            continue;
        }
        match decoder.flush() {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(_) => return Some(if first { record_line + 1 } else { record_line }),
        }
    }
}

/// Arrow's message less its own count, which would contradict the line before it.
fn without_line(detail: &str) -> String {
    for marker in [" at line ", " for line "] {
        if let Some((before, after)) = detail.split_once(marker) {
            return format!(
                "{before}{}",
                after.trim_start_matches(|c: char| c.is_ascii_digit())
            );
        }
    }
    detail.to_owned()
}
