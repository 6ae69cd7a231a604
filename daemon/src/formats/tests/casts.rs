//! What may become what, and what must not.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, DictionaryArray, FixedSizeListArray, Float32Array, Float64Array,
        Int32Array, Int64Array, LargeStringArray, ListArray, MapArray, NullArray, StringArray,
        StructArray, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    },
    buffer::OffsetBuffer,
    datatypes::{
        DataType, Field, Fields, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    },
    util::display::array_value_to_string,
};

use super::{Files, FormatError, batch, column, read};

/// Reads one column of `array` into a table whose column has `to`.
fn cast(array: ArrayRef, to: DataType) -> Result<ArrayRef, FormatError> {
    let files = Files::new();
    let path = files.binary("t.1.arrow", &batch(vec![("c", array)]));
    Ok(Arc::clone(
        read(&path, Some(&column("c", to)))?[0].column(0),
    ))
}

#[test]
fn wide_casts_keep_every_value() {
    assert_eq!(
        cast(Arc::new(Int32Array::from(vec![7])), DataType::Int64)
            .unwrap()
            .as_primitive::<Int64Type>()
            .value(0),
        7
    );
    let fits = cast(
        Arc::new(Int64Array::from(vec![Some(7), None])),
        DataType::Int32,
    )
    .unwrap();
    assert_eq!(
        (fits.as_primitive::<Int32Type>().value(0), fits.is_null(1)),
        (7, true)
    );
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    assert_eq!(
        cast(text, DataType::LargeUtf8).unwrap().as_ref(),
        &LargeStringArray::from(vec!["a"]) as &dyn Array
    );
    let nulls: ArrayRef = Arc::new(NullArray::new(2));
    assert_eq!(cast(nulls, DataType::Utf8).unwrap().null_count(), 2);
    let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    assert_eq!(
        cast(Arc::new(words), DataType::Utf8)
            .unwrap()
            .as_string::<i32>()
            .value(2),
        "a"
    );
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![5_000]));
    assert_eq!(
        cast(nanos, micros.clone())
            .unwrap()
            .as_primitive::<TimestampMicrosecondType>()
            .value(0),
        5
    );
    let zoned: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![5]).with_timezone("+02:00"));
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(cast(zoned, utc.clone()).unwrap().data_type(), &utc);
    assert!(cast(Arc::new(Float32Array::from(vec![0.1])), DataType::Float64).is_ok());
}

/// A struct of numbers with these names.
fn numbers(named: &[(&str, i64)]) -> StructArray {
    let columns = named.iter().map(|(name, value)| {
        let field = Arc::new(Field::new(*name, DataType::Int64, true));
        (field, Arc::new(Int64Array::from(vec![*value])) as ArrayRef)
    });
    StructArray::from(columns.collect::<Vec<_>>())
}

/// The same type in a list, in a list of a fixed size and as the value of a map; and an array that holds `array` once.
fn nestings(array: &StructArray) -> Vec<ArrayRef> {
    let values: ArrayRef = Arc::new(array.clone());
    let item = Arc::new(Field::new("item", array.data_type().clone(), true));
    let list = ListArray::new(
        Arc::clone(&item),
        OffsetBuffer::new(vec![0, 1].into()),
        Arc::clone(&values),
        None,
    );
    let fixed = FixedSizeListArray::new(item, 1, Arc::clone(&values), None);
    let fields = Fields::from(vec![
        Field::new("keys", DataType::Int64, false),
        Field::new("values", array.data_type().clone(), true),
    ]);
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let entries = StructArray::new(fields.clone(), vec![keys, Arc::clone(&values)], None);
    let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    let offsets = OffsetBuffer::new(vec![0, 1].into());
    let map = MapArray::new(entry, offsets, entries, None, false);
    vec![values, Arc::new(list), Arc::new(fixed), Arc::new(map)]
}

#[test]
fn fields_of_structs_go_by_their_names() {
    let table = nestings(&numbers(&[("a", 0), ("b", 0)]));
    let stored = |named: &[(&str, i64)]| -> Vec<Result<ArrayRef, FormatError>> {
        let files = nestings(&numbers(named)).into_iter().zip(&table);
        files
            .map(|(file, table)| cast(file, table.data_type().clone()))
            .collect()
    };
    let expected = nestings(&numbers(&[("a", 10), ("b", 20)]));
    for (stored, expected) in stored(&[("b", 20), ("a", 10)]).iter().zip(&expected) {
        assert_eq!(stored.as_ref().unwrap().as_ref(), expected.as_ref());
    }
    for stored in stored(&[("b", 20)]) {
        let text = array_value_to_string(&stored.unwrap(), 0).unwrap();
        assert!(text.contains("a: , b: 20"), "{text}");
    }
    for other in [
        &[("b", 20), ("c", 10)][..],
        &[("a", 1), ("b", 2), ("c", 3)],
        &[("a", 1), ("a", 2)],
    ] {
        for refused in stored(other) {
            let error = refused.unwrap_err();
            assert!(matches!(error, FormatError::Type { .. }), "{error}");
        }
    }
}

#[test]
fn a_cast_that_would_change_a_value_names_the_row() {
    let lossy = |array: ArrayRef, to: DataType, row: &str| {
        let error = cast(array, to).unwrap_err();
        assert!(matches!(error, FormatError::Lossy { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains(&format!("column `c`, row {row}")),
            "{error}"
        );
    };
    lossy(
        Arc::new(Int64Array::from(vec![1, 1 << 40])),
        DataType::Int32,
        "2",
    );
    lossy(
        Arc::new(Int64Array::from(vec![i64::MAX])),
        DataType::Float64,
        "1",
    );
    lossy(Arc::new(Int32Array::from(vec![-1])), DataType::UInt64, "1");
    lossy(
        Arc::new(Float64Array::from(vec![0.5, 0.1])),
        DataType::Float32,
        "2",
    );
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![5_000, 5_001]));
    lossy(nanos, DataType::Timestamp(TimeUnit::Microsecond, None), "2");
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
    lossy(
        seconds,
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        "1",
    );
}

#[test]
fn another_kind_of_type_is_refused_with_both_types() {
    let refused = |array: ArrayRef, to: DataType, from: &str| {
        let error = cast(array, to.clone()).unwrap_err();
        assert!(matches!(error, FormatError::Type { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("t.1.arrow") && message.contains("`c`"),
            "{message}"
        );
        assert!(
            message.contains(from) && message.contains(&to.to_string()),
            "{message}"
        );
    };
    refused(
        Arc::new(StringArray::from(vec!["1"])),
        DataType::Int64,
        "Utf8",
    );
    refused(
        Arc::new(Float64Array::from(vec![1.0])),
        DataType::Int64,
        "Float64",
    );
    refused(Arc::new(Int64Array::from(vec![1])), DataType::Utf8, "Int64");
    refused(
        Arc::new(Int64Array::from(vec![1])),
        DataType::Timestamp(TimeUnit::Microsecond, None),
        "Int64",
    );
    let local: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![5]));
    refused(
        local,
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "Timestamp",
    );
}
