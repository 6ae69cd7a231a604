//! Whether rows can be merged by a key: every row has one, no two rows share one.

use std::{collections::HashSet, slice};

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    row::{RowConverter, SortField},
    util::display::array_value_to_string,
};

use super::{FormatError, conform::column_names};

/// Refuses a missing key column, a null key and a repeated key over all `batches` (of one schema); rows are counted from 1 over all of them.
///
/// Holds an encoded copy of every key in memory.
pub fn check_key(batches: &[RecordBatch], key_column: &str) -> Result<(), FormatError> {
    let Some(first) = batches.first() else {
        return Ok(());
    };
    let missing = |batch: &RecordBatch| FormatError::KeyColumn {
        column: key_column.to_owned(),
        columns: column_names(&batch.schema()),
    };
    let unusable = |cause: arrow::error::ArrowError| FormatError::KeyType {
        column: key_column.to_owned(),
        detail: cause.to_string(),
    };
    let key_type = first
        .column_by_name(key_column)
        .ok_or_else(|| missing(first))?
        .data_type()
        .clone();
    let converter = RowConverter::new(vec![SortField::new(key_type)]).map_err(unusable)?;

    let mut encoded = Vec::with_capacity(batches.len());
    let mut rows_before = 0;
    for batch in batches {
        let column = batch
            .column_by_name(key_column)
            .ok_or_else(|| missing(batch))?;
        if let Some(row) = first_null(column) {
            return Err(FormatError::KeyNull {
                column: key_column.to_owned(),
                row: rows_before + row + 1,
            });
        }
        encoded.push((
            column,
            converter
                .convert_columns(slice::from_ref(column))
                .map_err(unusable)?,
        ));
        rows_before += batch.num_rows();
    }

    let mut seen = HashSet::with_capacity(rows_before);
    let mut row_number = 0;
    for (column, keys) in &encoded {
        for (row, key) in keys.iter().enumerate() {
            row_number += 1;
            if !seen.insert(key) {
                let value = array_value_to_string(column, row).map_err(unusable)?;
                return Err(FormatError::KeyRepeated {
                    column: key_column.to_owned(),
                    value,
                    row: row_number,
                });
            }
        }
    }
    Ok(())
}

fn first_null(column: &ArrayRef) -> Option<usize> {
    let nulls = column.logical_nulls()?;
    (0..nulls.len()).find(|row| nulls.is_null(*row))
}
