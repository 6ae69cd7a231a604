//! Values that their types do not have. Parquet and Arrow files hold numbers, and a reader that does not look stores a time of
//! day after midnight, or a decimal with a digit too many, of which the next reader makes something else.

use std::path::Path;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{
        DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
        Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
        TimeUnit,
    },
};

use super::{FormatError, visible::visible};

const SECONDS_OF_A_DAY: i64 = 86_400;

/// Refuses rows in which a decimal is over its precision or a time of day out of its day; `before` them were others.
pub(super) fn check(path: &Path, batch: &RecordBatch, before: usize) -> Result<(), FormatError> {
    let schema = batch.schema();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !may_be_damaged(field.data_type()) || is_whole(column) {
            continue;
        }
        let misfit = |row: &usize| !is_whole(&column.slice(*row, 1));
        let row = (0..column.len()).find(misfit).unwrap_or(0);
        return Err(FormatError::Damaged {
            path: path.into(),
            column: field.name().clone(),
            row: before + row + 1,
            found: field.data_type().to_string(),
        });
    }
    Ok(())
}

fn may_be_damaged(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Time32(_) | T::Time64(_) => true,
        T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) | T::Map(item, _) => {
            may_be_damaged(item.data_type())
        }
        T::Struct(fields) => fields.iter().any(|field| may_be_damaged(field.data_type())),
        T::Dictionary(_, values) => may_be_damaged(values),
        other => other.is_decimal(),
    }
}

fn is_whole(array: &ArrayRef) -> bool {
    visible(array).is_none_or(|array| is_whole_throughout(&array))
}

/// Of an array that shows all of its children.
fn is_whole_throughout(array: &ArrayRef) -> bool {
    use DataType as T;
    match array.data_type() {
        T::Decimal32(p, _) => has_precision::<Decimal32Type>(array, *p),
        T::Decimal64(p, _) => has_precision::<Decimal64Type>(array, *p),
        T::Decimal128(p, _) => has_precision::<Decimal128Type>(array, *p),
        T::Decimal256(p, _) => has_precision::<Decimal256Type>(array, *p),
        T::Time32(TimeUnit::Second) => {
            let array = array.as_primitive::<Time32SecondType>();
            in_a_day(array.iter().map(|time| time.map(i64::from)), 1)
        }
        T::Time32(_) => {
            let array = array.as_primitive::<Time32MillisecondType>();
            in_a_day(array.iter().map(|time| time.map(i64::from)), 1_000)
        }
        T::Time64(TimeUnit::Microsecond) => in_a_day(
            array.as_primitive::<Time64MicrosecondType>().iter(),
            1_000_000,
        ),
        T::Time64(_) => {
            let array = array.as_primitive::<Time64NanosecondType>();
            in_a_day(array.iter(), 1_000_000_000)
        }
        T::Struct(_) => array.as_struct().columns().iter().all(is_whole_throughout),
        T::List(_) => is_whole_throughout(array.as_list::<i32>().values()),
        T::LargeList(_) => is_whole_throughout(array.as_list::<i64>().values()),
        T::FixedSizeList(..) => is_whole_throughout(array.as_fixed_size_list().values()),
        T::Map(..) => {
            let entries = array.as_map().entries();
            entries.columns().iter().all(is_whole_throughout)
        }
        T::Dictionary(..) => {
            let dictionary = array.as_any_dictionary_opt();
            dictionary.is_none_or(|dictionary| is_whole(dictionary.values()))
        }
        _ => true,
    }
}

/// Whatever the scale is: Arrow's own check takes a negative one for one that is too large.
fn has_precision<T: DecimalType>(array: &ArrayRef, precision: u8) -> bool {
    let mut values = array.as_primitive::<T>().iter().flatten();
    values.all(|value| T::is_valid_decimal_precision(value, precision))
}

fn in_a_day(mut times: impl Iterator<Item = Option<i64>>, per_second: i64) -> bool {
    times.all(|time| time.is_none_or(|t| (0..SECONDS_OF_A_DAY * per_second).contains(&t)))
}
