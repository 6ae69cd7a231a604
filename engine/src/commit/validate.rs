//! Checks of incoming rows against the table, before anything is written.

use crate::error::{Error, Result, quoted};
use crate::ids::TableName;
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::Schema;
use std::collections::HashSet;

/// The batches must have the table's columns, types and nullability, in any order.
pub(super) fn check_schema(
    table: &TableName,
    expected: &Schema,
    batches: &[RecordBatch],
) -> Result<()> {
    for batch in batches {
        let found = batch.schema();
        for field in expected.fields() {
            let Ok(other) = found.field_with_name(field.name()) else {
                return Err(Error::invalid(format!(
                    "table {table}: the rows have no column {:?}",
                    field.name()
                )));
            };
            if !other.data_type().equals_datatype(field.data_type()) {
                return Err(Error::invalid(format!(
                    "table {table}: column {:?} is {} in the table and {} in the rows",
                    field.name(),
                    field.data_type(),
                    other.data_type()
                )));
            }
            let nulls = batch
                .column_by_name(field.name())
                .map_or(0, |c| c.null_count());
            if nulls > 0 && !field.is_nullable() {
                return Err(Error::invalid(format!(
                    "table {table}: column {:?} may not be null, but {nulls} rows have no value",
                    field.name()
                )));
            }
        }
        if let Some(extra) = found
            .fields()
            .iter()
            .find(|f| expected.field_with_name(f.name()).is_err())
        {
            return Err(Error::invalid(format!(
                "table {table} has no column {:?}, but the rows do",
                extra.name()
            )));
        }
    }
    Ok(())
}

/// The rows in the table's column order and with its fields.
pub(super) fn conform(
    table: &TableName,
    expected: &Schema,
    batches: &[RecordBatch],
) -> Result<Vec<RecordBatch>> {
    check_schema(table, expected, batches)?;
    let schema = std::sync::Arc::new(expected.clone());
    batches
        .iter()
        .map(|batch| {
            let columns = expected
                .fields()
                .iter()
                .filter_map(|f| batch.column_by_name(f.name()).cloned())
                .collect();
            RecordBatch::try_new(schema.clone(), columns).map_err(|e| {
                Error::invalid(format!("table {table}: rows do not fit the table")).caused_by(e)
            })
        })
        .collect()
}

/// A key column must exist, hold no null, and hold no value twice.
pub(super) fn check_key(table: &TableName, key: &str, batches: &[RecordBatch]) -> Result<()> {
    let mut seen = HashSet::new();
    for batch in batches {
        let column = batch.column_by_name(key).ok_or_else(|| {
            Error::invalid(format!(
                "table {table}: the rows have no key column {key:?}"
            ))
        })?;
        if column.null_count() > 0 {
            return Err(Error::invalid(format!(
                "table {table}: key column {key:?} is null in {} rows",
                column.null_count()
            )));
        }
        let options = FormatOptions::default();
        let text = ArrayFormatter::try_new(column.as_ref(), &options).map_err(|e| {
            Error::invalid(format!("table {table}: column {key:?} cannot be a key")).caused_by(e)
        })?;
        for row in 0..column.len() {
            let value = text.value(row).to_string();
            if seen.contains(&value) {
                let is_text = column.data_type().is_string() || column.data_type().is_binary();
                let shown = if is_text { quoted(&value) } else { value };
                return Err(Error::invalid(format!(
                    "table {table}: key {key} = {shown} stands twice in one batch"
                )));
            }
            seen.insert(value);
        }
    }
    Ok(())
}
