//! Checks of incoming rows against the table, before anything is written.

use crate::error::{Error, Result, quoted};
use crate::ids::TableName;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_cast::display::array_value_to_string;
use arrow_row::{OwnedRow, RowConverter, SortField};
use arrow_schema::{DataType, Schema};
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

/// A key column must exist, and hold no null, no value twice, and nothing that equals what it is not.
pub(super) fn check_key(table: &TableName, key: &str, batches: &[RecordBatch]) -> Result<()> {
    let mut seen: HashSet<OwnedRow> = HashSet::new();
    let mut converter = None;
    for batch in batches {
        let column = batch.column_by_name(key).ok_or_else(|| {
            Error::invalid(format!(
                "table {table}: the rows have no key column {key:?}"
            ))
        })?;
        // Those behind a dictionary's keys, and of a column of nothing else, too.
        let nulls = column.logical_null_count();
        if nulls > 0 {
            return Err(Error::invalid(format!(
                "table {table}: key column {key:?} is null in {nulls} rows"
            )));
        }
        if let Some(float) = odd_float(column.as_ref()) {
            return Err(Error::invalid(format!(
                "table {table}: key column {key:?} holds {float}; write 0 for -0, and give rows without a number another key"
            )));
        }
        let unfit = |e| {
            Error::invalid(format!("table {table}: column {key:?} cannot be a key")).caused_by(e)
        };
        let converter = match &mut converter {
            Some(converter) => converter,
            none => {
                let fields = vec![SortField::new(column.data_type().clone())];
                none.insert(RowConverter::new(fields).map_err(unfit)?)
            }
        };
        let columns = [column.clone()];
        let rows = converter.convert_columns(&columns).map_err(unfit)?;
        for (index, row) in rows.iter().enumerate() {
            if !seen.insert(row.owned()) {
                return Err(Error::invalid(format!(
                    "table {table}: key {key} = {} stands twice in one batch",
                    shown(column, index)
                )));
            }
        }
    }
    Ok(())
}

/// One key, for people.
fn shown(column: &ArrayRef, row: usize) -> String {
    let text = array_value_to_string(column, row).unwrap_or_default();
    match column.data_type().is_string() || column.data_type().is_binary() {
        true => quoted(&text),
        false => text,
    }
}

/// A number in `array`, within lists and structs too, that equals another of other bits, or not even itself: SQL takes -0
/// for 0 where a merge, which compares bits, does not, and every NaN is another.
fn odd_float(array: &dyn Array) -> Option<&'static str> {
    fn odd<T: ArrowPrimitiveType>(
        array: &dyn Array,
        of: impl Fn(T::Native) -> f64,
    ) -> Option<&'static str> {
        array
            .as_primitive::<T>()
            .iter()
            .flatten()
            .find_map(|value| match of(value) {
                value if value.is_nan() => Some("NaN, which equals nothing"),
                value if value == 0.0 && value.is_sign_negative() => Some("-0, which equals 0"),
                _ => None,
            })
    }
    match array.data_type() {
        DataType::Float16 => odd::<Float16Type>(array, f64::from),
        DataType::Float32 => odd::<Float32Type>(array, f64::from),
        DataType::Float64 => odd::<Float64Type>(array, f64::from),
        DataType::Struct(_) => {
            let columns = array.as_struct().columns();
            columns.iter().find_map(|column| odd_float(column.as_ref()))
        }
        DataType::List(_) => odd_in(array.as_list::<i32>().iter()),
        DataType::LargeList(_) => odd_in(array.as_list::<i64>().iter()),
        DataType::FixedSizeList(_, _) => odd_in(array.as_fixed_size_list().iter()),
        DataType::Dictionary(_, _) => odd_float(array.as_any_dictionary_opt()?.values().as_ref()),
        _ => None,
    }
}

fn odd_in(lists: impl Iterator<Item = Option<ArrayRef>>) -> Option<&'static str> {
    let mut lists = lists.flatten();
    lists.find_map(|list| odd_float(list.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::check_key;
    use crate::ids::TableName;
    use arrow_array::builder::{Int64Builder, ListBuilder};
    use arrow_array::{
        ArrayRef, DictionaryArray, Float64Array, Int32Array, NullArray, RecordBatch, StringArray,
    };
    use std::sync::Arc;

    fn refusal(key: ArrayRef) -> Option<String> {
        let batch = RecordBatch::try_from_iter_with_nullable([("k", key, true)]).unwrap();
        let checked = check_key(&TableName::new("t").unwrap(), "k", &[batch]);
        checked.err().map(|e| e.to_string())
    }

    #[test]
    fn nulls_are_found_where_they_hide() {
        let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
        let keys = Int32Array::from(vec![0, 1]);
        let dictionary: ArrayRef = Arc::new(DictionaryArray::try_new(keys, values).unwrap());
        for (key, nulls) in [
            (dictionary, "null in 1"),
            (Arc::new(NullArray::new(2)), "null in 2"),
        ] {
            let refused = refusal(key).unwrap();
            assert!(refused.contains(nulls), "{refused}");
        }
    }

    #[test]
    fn a_number_that_is_not_what_it_equals_is_no_key() {
        let floats = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
        assert_eq!(refusal(floats(vec![0.0, 1.5, f64::INFINITY])), None);
        assert!(
            refusal(floats(vec![1.0, -0.0]))
                .unwrap()
                .contains("-0, which equals 0")
        );
        assert!(refusal(floats(vec![f64::NAN])).unwrap().contains("NaN"));
    }

    #[test]
    fn keys_that_only_look_the_same_are_two() {
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([None]);
        lists.append_value([] as [Option<i64>; 0]);
        assert_eq!(refusal(Arc::new(lists.finish())), None);
        let twice = refusal(Arc::new(StringArray::from(vec!["a", "b", "a"]))).unwrap();
        assert!(twice.contains("\"a\" stands twice"), "{twice}");
    }
}
