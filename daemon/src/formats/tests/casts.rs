//! What may become what, and what must not.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, DictionaryArray, DurationSecondArray,
        FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, LargeListArray,
        LargeStringArray, ListArray, MapArray, NullArray, StringArray, StructArray,
        TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
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

/// Words as a dictionary with keys of the given type.
fn words(keys: DataType, words: &[Option<&str>]) -> ArrayRef {
    let words: ArrayRef = Arc::new(StringArray::from(words.to_vec()));
    let to = DataType::Dictionary(Box::new(keys), Box::new(DataType::Utf8));
    arrow::compute::cast(&words, &to).unwrap()
}

#[test]
fn whatever_may_become_its_values_goes_into_a_dictionary() {
    let given = [Some("a"), None, Some("b"), Some("a")];
    let texts: ArrayRef = Arc::new(StringArray::from(given.to_vec()));
    let views = arrow::compute::cast(&texts, &DataType::Utf8View).unwrap();
    let of_views = DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8View));
    let sources = [
        words(DataType::Int8, &given),
        words(DataType::Int16, &given),
        words(DataType::UInt32, &given),
        words(DataType::Int64, &given),
        arrow::compute::cast(&texts, &DataType::LargeUtf8).unwrap(),
        arrow::compute::cast(&texts, &of_views).unwrap(),
        views,
        texts,
    ];
    for keys in [DataType::Int8, DataType::UInt32, DataType::Int64] {
        let expected = words(keys, &given);
        for source in &sources {
            let stored = cast(Arc::clone(source), expected.data_type().clone());
            assert_eq!(stored.unwrap().as_ref(), expected.as_ref());
        }
    }
    let other = cast(
        Arc::new(Int64Array::from(vec![1])),
        words(DataType::Int8, &given).data_type().clone(),
    );
    assert!(matches!(other, Err(FormatError::Type { .. })));
    // One word more than the keys can name.
    let many: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let many: ArrayRef = Arc::new(StringArray::from(many));
    let error = cast(many, words(DataType::Int8, &given).data_type().clone()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("column `c`, row 129: \"128\""), "{error}");
}

#[test]
fn a_value_that_no_row_shows_refuses_nothing() {
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40, 2, 3, 1 << 40]));
    let item = Arc::new(Field::new("item", DataType::Int64, false));
    let nulls = Some(vec![false, true].into());
    let narrow = |nullable| Arc::new(Field::new("item", DataType::Int32, nullable));
    let offsets = OffsetBuffer::new(vec![0, 1, 3].into());
    let list = ListArray::new(Arc::clone(&item), offsets, Arc::clone(&wide), nulls.clone());
    let stored = cast(Arc::new(list), DataType::List(narrow(false))).unwrap();
    let shown = stored.as_list::<i32>();
    assert!(shown.is_null(0));
    assert_eq!(shown.value(1).as_primitive::<Int32Type>().values(), &[2, 3]);

    let pairs: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40, 1 << 40, 2, 3]));
    let fixed = FixedSizeListArray::new(item, 2, pairs, nulls.clone());
    let fixed = cast(Arc::new(fixed), DataType::FixedSizeList(narrow(true), 2)).unwrap();
    assert!(fixed.is_null(0) && fixed.is_valid(1));

    let field = |data_type| Fields::from(vec![Field::new("a", data_type, true)]);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40, 2]));
    let of = StructArray::new(field(DataType::Int64), vec![numbers], nulls);
    let stored = cast(Arc::new(of), DataType::Struct(field(DataType::Int32))).unwrap();
    assert!(stored.is_null(0));
    assert_eq!(
        stored
            .as_struct()
            .column(0)
            .as_primitive::<Int32Type>()
            .value(1),
        2
    );
}

const LISTS: [&str; 3] = ["list", "large list", "fixed"];

/// Two items, a null, and two items again as lists of a kind whose items have a name.
fn lists(kind: &str, item: (&str, bool), values: &ArrayRef) -> ArrayRef {
    let (name, nullable) = item;
    let item = Arc::new(Field::new(name, values.data_type().clone(), nullable));
    let (lengths, nulls) = ([2, 0, 2], Some(vec![true, false, true].into()));
    let values = Arc::clone(values);
    match kind {
        "list" => {
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(item, offsets, values, nulls))
        }
        "large list" => {
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(LargeListArray::new(item, offsets, values, nulls))
        }
        _ => {
            let places = UInt64Array::from(vec![Some(0), Some(1), None, None, Some(2), Some(3)]);
            let values = arrow::compute::take(values.as_ref(), &places, None).unwrap();
            Arc::new(FixedSizeListArray::new(item, 2, values, nulls))
        }
    }
}

/// Three values by themselves, and as an item, as a field of a struct in a list, and as the value of a map, in the words of a writer.
fn nested(values: &ArrayRef, (name, nullable): (&str, bool)) -> Vec<ArrayRef> {
    let field = |name: &str, nullable| Field::new(name, values.data_type().clone(), nullable);
    let offsets = || OffsetBuffer::new(vec![0, 1, 3].into());
    let values = || Arc::clone(values);
    let list = ListArray::new(Arc::new(field(name, true)), offsets(), values(), None);
    let of = StructArray::new(vec![field("a", true)].into(), vec![values()], None);
    let item = Arc::new(Field::new(name, of.data_type().clone(), nullable));
    let structs = ListArray::new(item, offsets(), Arc::new(of), None);
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    let names = [format!("{name} key"), format!("{name} value")];
    let fields = vec![
        Field::new(&names[0], DataType::Utf8, false),
        field(&names[1], true),
    ];
    let entries = StructArray::new(fields.into(), vec![keys, values()], None);
    let entry = Arc::new(Field::new(name, entries.data_type().clone(), false));
    let map = MapArray::new(entry, offsets(), entries, None, false);
    vec![values(), Arc::new(list), Arc::new(structs), Arc::new(map)]
}

/// What each of these leaves is in a table that has another type for it, and in one that has the same.
fn leaves() -> Vec<(ArrayRef, ArrayRef)> {
    let floats: ArrayRef = Arc::new(Float32Array::from(vec![0.5, 1.5, 2.5, 3.5]));
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5, 3.5]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
    let views = arrow::compute::cast(&texts, &DataType::Utf8View).unwrap();
    vec![
        (Arc::clone(&floats), Arc::clone(&floats)),
        (doubles, floats),
        (Arc::clone(&numbers), Arc::clone(&numbers)),
        (views, Arc::clone(&texts)),
        (
            words(
                DataType::Int32,
                &[Some("a"), Some("b"), Some("c"), Some("d")],
            ),
            texts,
        ),
    ]
}

#[test]
fn what_a_writer_calls_the_items_of_a_list_matters_to_no_table() {
    let mut read = 0;
    for ((from, leaf), kind, to_kind) in leaves().iter().flat_map(|leaf| {
        let kinds = LISTS.iter().flat_map(|from| LISTS.map(|to| (*from, to)));
        kinds.map(move |(from, to)| (leaf, from, to))
    }) {
        for (item, to_item) in [
            (("element", true), ("item", true)),
            (("element", false), ("item", true)),
            (("item", true), ("item", false)),
            (("array", true), ("element", false)),
        ] {
            let file = nested(&lists(kind, item, from), item);
            let table = nested(&lists(to_kind, to_item, leaf), to_item);
            for (file, expected) in file.into_iter().zip(table) {
                let types = format!("{} -> {}", file.data_type(), expected.data_type());
                let stored = cast(file, expected.data_type().clone()).expect(&types);
                assert_eq!(stored.as_ref(), expected.as_ref(), "{types}");
                stored.to_data().validate_full().expect(&types);
                read += 1;
            }
        }
    }
    assert_eq!(read, 5 * 9 * 4 * 4);
}

/// What a writer has no type for, because it saw no value of it.
#[test]
fn lists_of_nothing_are_lists_of_anything() {
    let item = Arc::new(Field::new("element", DataType::Null, true));
    let nothing: ArrayRef = Arc::new(NullArray::new(1));
    let offsets = OffsetBuffer::new(vec![0, 0, 1].into());
    let lists = ListArray::new(item, offsets, nothing, None);
    let to = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let stored = cast(Arc::new(lists.clone()), to).unwrap();
    assert_eq!(array_value_to_string(&stored, 0).unwrap(), "[]");
    assert_eq!(stored.as_list::<i32>().value(1).null_count(), 1);
    let required = DataType::List(Arc::new(Field::new("item", DataType::Int64, false)));
    let error = cast(Arc::new(lists), required).unwrap_err();
    assert!(error.to_string().contains("row 2"), "{error}");
}

#[test]
fn a_message_tells_a_null_from_nothing() {
    let lists = |nullable| {
        let item = Arc::new(Field::new("item", DataType::Int64, nullable));
        let values: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        ListArray::new(item, OffsetBuffer::new(vec![0, 1].into()), values, None)
    };
    let required = Arc::new(Field::new("item", DataType::Int64, false));
    let error = cast(Arc::new(lists(true)), DataType::List(required)).unwrap_err();
    assert!(error.to_string().contains("\"[null]\""), "{error}");
}

#[test]
fn what_the_own_type_does_not_have_is_damaged() {
    use arrow::array::{Decimal128Array, Time32MillisecondArray, Time64NanosecondArray};
    let decimals = Decimal128Array::from(vec![12, 100]).with_precision_and_scale(3, 1);
    let decimals: ArrayRef = Arc::new(decimals.unwrap());
    let narrow = decimals
        .to_data()
        .into_builder()
        .data_type(DataType::Decimal128(2, 1));
    let day = 86_400_000;
    let list = |values: ArrayRef| {
        let item = Arc::new(Field::new("item", values.data_type().clone(), true));
        let offsets = OffsetBuffer::new(vec![0, 1, 2].into());
        ListArray::new(item, offsets, values, None)
    };
    let times: ArrayRef = Arc::new(Time32MillisecondArray::from(vec![day - 1, day]));
    for damaged in [
        arrow::array::make_array(narrow.build().unwrap()),
        Arc::new(list(Arc::clone(&times))),
        times,
        Arc::new(Time64NanosecondArray::from(vec![0, -1])),
    ] {
        let files = Files::new();
        for name in ["t.1.arrow", "t.1.parquet"] {
            let path = files.binary(name, &batch(vec![("c", Arc::clone(&damaged))]));
            let error = read(&path, None).unwrap_err().to_string();
            assert!(
                error.contains("`c`, row 2: the value is damaged"),
                "{error}"
            );
            let whole = files.binary(name, &batch(vec![("c", damaged.slice(0, 1))]));
            read(&whole, None).unwrap();
        }
    }
}

/// Arrow's own check takes a scale below zero for one beyond the precision.
#[test]
fn a_decimal_of_hundreds_is_whole() {
    use arrow::array::Decimal128Array;
    let hundreds = |precision, values: Vec<i128>| -> ArrayRef {
        let array = Decimal128Array::from(values);
        Arc::new(array.with_precision_and_scale(precision, -2).unwrap())
    };
    let wide = hundreds(5, vec![1, 99_999, -99_999]);
    let stored = cast(Arc::clone(&wide), wide.data_type().clone()).unwrap();
    assert_eq!(stored.as_ref(), wide.as_ref());
    assert_eq!(array_value_to_string(&stored, 1).unwrap(), "9999900");
    let damaged = hundreds(6, vec![1, 100_000]).to_data().into_builder();
    let damaged = damaged.data_type(wide.data_type().clone()).build().unwrap();
    let damaged = cast(arrow::array::make_array(damaged), wide.data_type().clone());
    let error = damaged.unwrap_err().to_string();
    assert!(error.contains("row 2: the value is damaged"), "{error}");
}

/// At the top, in a struct and in a list; a value that no row shows is none.
#[test]
fn a_column_of_json_takes_nothing_that_its_readers_would_stumble_over() {
    let extension = ("ARROW:extension:name".to_owned(), "lance.json".to_owned());
    let json = |name: &str| {
        let field = Field::new(name, DataType::LargeBinary, true);
        Arc::new(field.with_metadata([extension.clone()].into()))
    };
    let null = [0x20, 0, 0, 0, 0, 0, 0, 0];
    let binary = |last: &'static [u8]| -> ArrayRef {
        let values = [Some(&null[..]), None, Some(last)];
        Arc::new(BinaryArray::from(values.to_vec()))
    };
    let to = DataType::Struct(vec![json("a")].into());
    for (last, refused) in [
        (&b"{}"[..], true),
        (&b""[..], true),
        (&b"\x40\0\0\0"[..], false),
    ] {
        let values = binary(last);
        let fields = Fields::from(vec![Field::new("a", DataType::Binary, true)]);
        let of = StructArray::new(fields, vec![Arc::clone(&values)], None);
        let item = Arc::new(Field::new("element", DataType::Binary, true));
        let offsets = OffsetBuffer::new(vec![0, 1, 2, 3].into());
        let shows = Some(vec![true, true, false].into());
        let hidden = ListArray::new(item, offsets, Arc::clone(&values), shows);
        let files = Files::new();
        let stored = |array: ArrayRef, field: Arc<Field>| {
            let path = files.binary("t.1.arrow", &batch(vec![("c", array)]));
            let field = Field::clone(&field).with_name("c");
            let read = read(&path, Some(&arrow::datatypes::Schema::new(vec![field])));
            read.map(drop).map_err(|e| e.to_string())
        };
        let told = "column `c`, row 3: the value is no JSONB";
        for result in [
            stored(values, json("c")),
            stored(Arc::new(of), Arc::new(Field::new("c", to.clone(), true))),
        ] {
            assert_eq!(result.is_err(), refused, "{result:?}");
            assert!(result.err().is_none_or(|error| error.contains(told)));
        }
        let list = DataType::List(json("item"));
        let list = Arc::new(Field::new("c", list, true));
        assert_eq!(stored(Arc::new(hidden), list), Ok(()));
    }
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
            let twice = other[0].0 == other[1].0;
            let named = matches!(error, FormatError::RepeatedColumn { .. });
            let typed = matches!(error, FormatError::Type { .. });
            assert!(if twice { named } else { typed }, "{error}");
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
    // No words of Arrow's are long enough for it.
    let long: ArrayRef = Arc::new(DurationSecondArray::from(vec![i64::MAX]));
    let long = cast(long, DataType::Duration(TimeUnit::Nanosecond)).unwrap_err();
    let long = long.to_string();
    assert!(
        long.contains("\"9223372036854775807\" does not fit"),
        "{long}"
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
