//! What each type takes from a text, exactly, and what it refuses. CSV and NDJSON share the parsers, so most cases go through both.

use std::{fs, path::Path, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, UInt64Type},
    util::display::array_value_to_string,
};

use crate::formats::{FormatError, Input, InputLimits, Reading, names_of, read, schema_of};

fn read_as(path: &Path, schema: &Schema) -> Result<Vec<RecordBatch>, FormatError> {
    let (input, reading) = (Input::file(path), Reading::exactly(schema));
    let rows = read(&input, Some(&reading), &InputLimits::default());
    Ok(rows?.batches)
}

/// One column `c` of a file of that name with these bytes.
fn column_of(name: &str, text: &[u8], data_type: &DataType) -> Result<ArrayRef, FormatError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    let schema = Schema::new(vec![Field::new("c", data_type.clone(), true)]);
    Ok(Arc::clone(read_as(&path, &schema)?[0].column(0)))
}

/// The value as Arrow shows it, from a CSV file and from a JSON string (or, for what JSON writes without quotes, as that).
fn stored(text: &str, data_type: &DataType) -> Vec<Result<String, String>> {
    let json = if text.parse::<f64>().is_ok_and(f64::is_finite) && text.parse::<i8>().is_err() {
        text.trim_start_matches('+').to_owned()
    } else {
        serde_json::to_string(text).unwrap()
    };
    [
        ("t.csv", format!("c\n\"{}\"\n", text.replace('"', "\"\""))),
        ("t.ndjson", format!("{{\"c\":{json}}}\n")),
    ]
    .into_iter()
    .map(
        |(name, file)| match column_of(name, file.as_bytes(), data_type) {
            Ok(array) if array.is_null(0) => Ok("null".to_owned()),
            Ok(array) => Ok(array_value_to_string(&array, 0).unwrap()),
            Err(error) => Err(error.to_string()),
        },
    )
    .collect()
}

fn timestamp(unit: TimeUnit, zoned: bool) -> DataType {
    DataType::Timestamp(unit, zoned.then(|| "UTC".into()))
}

#[test]
fn a_number_is_stored_as_written() {
    use DataType as T;
    assert_stored(&[
        (T::Int64, "-9223372036854775808", "-9223372036854775808"),
        (T::UInt64, "18446744073709551615", "18446744073709551615"),
        (T::Int64, "9007199254740993", "9007199254740993"),
        (T::Int8, "1.20e2", "120"),
        (T::Float64, "0.1", "0.1"),
        (T::Float64, "9007199254740994", "9007199254740994.0"),
        // All digits of floats, one of them beyond an integer of 128 bits.
        (
            T::Float64,
            "-1437277866477963914557456550139361610432512",
            "-1.437277866477964e42",
        ),
        (T::Float32, "16777216", "16777216.0"),
        (T::Float16, "2048", "2048"),
        // In the middle of two halves, and nearer to it than a double can tell.
        (T::Float16, "74.65625", "74.625"),
        (T::Float16, "74.65625000000000000000000000001", "74.6875"),
        (T::Float16, "-74.65625000000000000000000000001", "-74.6875"),
        (T::Float16, "834.7499999999999999999999999999", "834.5"),
        (T::Float16, "-834.7499999999999999999999999999", "-834.5"),
        (
            T::Decimal128(38, 10),
            "1234567890123456789012345678.0123456789",
            "1234567890123456789012345678.0123456789",
        ),
        (T::Decimal128(10, 2), "19.990", "19.99"),
        (T::Decimal128(10, 2), "1.9e1", "19.00"),
        (T::Decimal128(10, -2), "1200", "1200"),
        (
            T::Decimal256(76, 0),
            "-9999999999999999999999999999999999999999999999999999999999999999999999999999",
            "-9999999999999999999999999999999999999999999999999999999999999999999999999999",
        ),
    ]);
}

#[test]
fn a_time_or_a_text_is_stored_as_written() {
    use DataType as T;
    use TimeUnit as U;
    assert_stored(&[
        (T::Date32, "0001-01-01", "0001-01-01"),
        (T::Date32, "2024-02-29", "2024-02-29"),
        (T::Date64, "9999-12-31", "9999-12-31T00:00:00"),
        (
            timestamp(U::Microsecond, false),
            "2024-01-05 10:00:00.123456000",
            "2024-01-05T10:00:00.123456",
        ),
        (
            timestamp(U::Microsecond, false),
            "1969-12-31T23:59:59.999999",
            "1969-12-31T23:59:59.999999",
        ),
        (
            timestamp(U::Second, false),
            "2024-01-05",
            "2024-01-05T00:00:00",
        ),
        (
            timestamp(U::Nanosecond, true),
            "2024-01-05T10:00:00.123456789+02:00",
            "2024-01-05T08:00:00.123456789Z",
        ),
        (
            timestamp(U::Millisecond, true),
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59.999Z",
        ),
        (
            timestamp(U::Microsecond, true),
            "2024-01-05 10:00:00-0530",
            "2024-01-05T15:30:00Z",
        ),
        (T::Time64(U::Microsecond), "23:59:59.5", "23:59:59.500"),
        (T::Time32(U::Second), "07:05", "07:05:00"),
        (T::Duration(U::Millisecond), "P1DT2H3M4.5S", "PT93784.5S"),
        (T::Utf8, "007", "007"),
        (T::LargeUtf8, "null", "null"),
        (T::Utf8View, " a\"b, ", " a\"b, "),
        (
            T::Dictionary(Box::new(T::Int32), Box::new(T::Utf8)),
            "x",
            "x",
        ),
    ]);
}

/// Each text, read as its type, is shown as expected.
fn assert_stored(cases: &[(DataType, &str, &str)]) {
    for (data_type, text, expected) in cases {
        for stored in stored(text, data_type) {
            let message = stored.as_ref().err().cloned().unwrap_or_default();
            assert_eq!(
                stored.ok().as_deref(),
                Some(*expected),
                "{text} as {data_type}: {message}"
            );
        }
    }
}

#[test]
fn a_value_that_would_change_is_refused_with_its_line_and_column() {
    use DataType as T;
    use TimeUnit as U;
    let cases = [
        (T::Int64, "9223372036854775808"),
        (T::UInt64, "-1"),
        (T::Int8, "128"),
        (T::Int32, "1.5"),
        (T::Int32, "1e-1"),
        (T::Int32, "1,000"),
        (T::Int32, "0x10"),
        (T::Int32, " 1"),
        (T::Int64, "1e400"),
        (T::Float64, "9007199254740993"),
        (T::Float64, "1437277866477963914557456550139361610432513"),
        (T::Float32, "16777217"),
        (T::Float16, "2049"),
        (T::Float64, "1e400"),
        (T::Float32, "1e39"),
        (T::Float64, "1e-400"),
        (T::Float64, "1.5x"),
        (T::Decimal128(10, 2), "19.999"),
        (T::Decimal128(4, 2), "123.45"),
        (T::Decimal128(10, -2), "1250"),
        (T::Decimal128(38, 0), "1e38"),
        (T::Boolean, "1"),
        (T::Boolean, "yes"),
        (T::Date32, "2024-01-05T23:30:00-05:00"),
        (T::Date32, "2024-01-05 00:00:00"),
        (T::Date32, "2023-02-29"),
        (T::Date32, "20240105"),
        (T::Date32, "05/01/2024"),
        (T::Date32, "19000"),
        (timestamp(U::Microsecond, false), "2024-01-05T10:00:00Z"),
        (
            timestamp(U::Microsecond, false),
            "2024-01-05T10:00:00.1234567",
        ),
        (timestamp(U::Second, false), "2024-01-05T10:00:00.5"),
        (timestamp(U::Microsecond, true), "2024-01-05T10:00:00"),
        (timestamp(U::Microsecond, true), "2024-01-05"),
        (timestamp(U::Microsecond, true), "1700000000"),
        (timestamp(U::Microsecond, false), "1700000000.5"),
        (timestamp(U::Microsecond, false), "2024-01-05T24:00:00"),
        (timestamp(U::Nanosecond, false), "2300-01-01T00:00:00"),
        (
            timestamp(U::Microsecond, true),
            "2024-01-05T10:00:00 Europe/Berlin",
        ),
        (T::Time64(U::Microsecond), "10:00:00.1234567"),
        (T::Time32(U::Second), "36000"),
        (T::Duration(U::Second), "PT0.5S"),
        (T::Duration(U::Second), "P1M"),
        (T::Duration(U::Second), "90"),
    ];
    for (data_type, text) in cases {
        for (stored, place) in stored(text, &data_type)
            .into_iter()
            .zip(["t.csv:2: column `c`", "t.ndjson:1: column `c`"])
        {
            let message = stored.expect_err(&format!("{text} as {data_type}"));
            assert!(message.contains(place) && message.len() < 400, "{message}");
        }
    }
}

#[test]
fn json_numbers_are_no_times_and_no_texts() {
    use DataType as T;
    let refused = [
        (timestamp(TimeUnit::Second, true), "1700000000"),
        (T::Date32, "19000"),
        (T::Duration(TimeUnit::Second), "90"),
        (T::Time32(TimeUnit::Second), "90"),
        (T::Utf8, "1"),
        (T::Utf8, "true"),
        (T::Boolean, "1"),
        (T::Boolean, "\"true\""),
        (T::Int32, "true"),
        (T::Int32, "[1]"),
        (T::Float64, "NaN"),
        (T::Int32, "01"),
        (T::Utf8, "\"\\ud800\""),
        (T::Utf8, "\"\\x\""),
        (T::Utf8, "\"a\tb\""),
    ];
    for (data_type, json) in refused {
        let text = format!("\n{{\"c\": {json}}}\n");
        let message = column_of("t.jsonl", text.as_bytes(), &data_type)
            .expect_err(json)
            .to_string();
        assert!(message.contains("t.jsonl:2"), "{message}");
    }
    let escaped = column_of("t.jsonl", br#"{"c": "\ud83e\udd80\u00e9\n\/"}"#, &T::Utf8).unwrap();
    assert_eq!(escaped.as_string::<i32>().value(0), "\u{1f980}\u{e9}\n/");
    let text = br#"{"c": "Infinity"}"#;
    assert!(column_of("t.jsonl", text, &T::Float64).is_ok());
}

/// What a message tells to write is taken.
#[test]
fn a_number_for_a_time_is_told_the_form_of_its_type() {
    use DataType as T;
    use TimeUnit as U;
    for data_type in [
        T::Date32,
        T::Date64,
        T::Time32(U::Second),
        T::Time64(U::Nanosecond),
        timestamp(U::Microsecond, false),
        timestamp(U::Second, true),
        T::Duration(U::Millisecond),
    ] {
        for error in stored("90", &data_type) {
            let error = error.unwrap_err();
            let told = error.split("such as \"").nth(1).expect(&error);
            let told = told.trim_end_matches('"');
            assert!(error.contains("without a unit"), "{error}");
            for stored in stored(told, &data_type) {
                stored.expect(told);
            }
        }
    }
}

#[test]
fn nested_values_keep_their_path() {
    let fields = vec![
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::Utf8, true),
    ];
    let pair = DataType::Struct(fields.into());
    let list = DataType::List(Arc::new(Field::new("item", pair.clone(), true)));
    let text = br#"{"c": [{"a": 9007199254740993, "b": "x"}, null, {"a": 1}]}"#;
    let array = column_of("t.jsonl", text, &list).unwrap();
    let items = array.as_list::<i32>().values().as_struct();
    assert_eq!((items.len(), items.null_count()), (3, 1));
    assert_eq!(
        items.column(0).as_primitive::<Int64Type>().value(0),
        9_007_199_254_740_993
    );

    for (text, path) in [
        (r#"{"c": [{"a": 1}, {"a": 1.5}]}"#, "`c[1].a`"),
        (r#"{"c": [{"b": "x"}]}"#, "`c[0].a`"),
        (r#"{"c": [{"a": 1, "d": 1}]}"#, "`c[0].d`"),
        (r#"{"c": [{"a": 1, "a": 2}]}"#, "twice"),
        (r#"{"c": 1, "c": 2}"#, "twice"),
        (r#"{"c": {"a": 1}}"#, "no list"),
    ] {
        let message = column_of("t.jsonl", text.as_bytes(), &list)
            .expect_err(text)
            .to_string();
        assert!(
            message.contains(path) && message.contains("t.jsonl:1"),
            "{message}"
        );
    }
    let many: Vec<String> = (0..40).map(|n| format!("\"k{n}\": {n}")).collect();
    let many = format!("{{\"c\": {{{}, \"k39\": 0}}}}", many.join(", "));
    let message = column_of("t.jsonl", many.as_bytes(), &pair)
        .unwrap_err()
        .to_string();
    assert!(message.contains("twice"), "{message}");

    let deep = format!("{{\"c\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let message = column_of("t.jsonl", deep.as_bytes(), &list)
        .unwrap_err()
        .to_string();
    assert!(message.contains("max_nesting"), "{message}");
}

#[test]
fn an_empty_field_is_null_and_a_quoted_one_an_empty_text() {
    let column = column_of(
        "t.csv",
        b"c\n\"\"\nx\n\"a\r\n\"\"b\"\"\"\n",
        &DataType::Utf8,
    )
    .unwrap();
    let column = column.as_string::<i32>();
    assert_eq!(
        column.iter().collect::<Vec<_>>(),
        [Some(""), Some("x"), Some("a\r\n\"b\"")]
    );
    // Quotes around every field are how some programs write nulls of other types.
    assert!(
        column_of("t.csv", b"c\n\"\"\n", &DataType::Int64)
            .unwrap()
            .is_null(0)
    );
    // Alone on its line it could be a null, or nothing.
    let message = column_of("t.csv", b"c\na\n\nb\n", &DataType::Utf8)
        .unwrap_err()
        .to_string();
    assert!(message.contains("t.csv:3: is blank"), "{message}");
}

#[test]
fn what_is_no_csv_names_its_line() {
    for (text, place, part) in [
        (&b"c\n1\n\"2\n3\n4\n"[..], "t.csv:3", "quote"),
        (b"c\n\"a\n\"b\"\n", "t.csv:2", "quote"),
        (b"c\na\"b\n", "t.csv:2", "quote"),
        (b"c\n\"a\nb\"\n1,2\n", "t.csv:4", "2 fields"),
        (b"c\ra\rb\r", "t.csv:1", "carriage return"),
        (b"c\na\n\xff\n", "t.csv:3", "UTF-8"),
        (b"c,c\n1,2\n", "t.csv", "more than once"),
        (b"c,\n1,2\n", "t.csv", "column 2 has no name"),
        (b"", "t.csv", "is empty"),
        (b"\n\n", "t.csv", "is empty"),
        (b"\xff\xfec\x00", "t.csv", "UTF-16"),
        (b"\xff\xfe\x00\x00c\x00\x00\x00", "t.csv", "UTF-32"),
        (b"\x1f\x8b\x08\x00", "t.csv", "gzip"),
        (b"PK\x03\x04", "t.csv", "zip"),
        (b"\n <!DOCTYPE html>", "t.csv", "web page"),
    ] {
        let message = column_of("t.csv", text, &DataType::Utf8)
            .unwrap_err()
            .to_string();
        let shown = String::from_utf8_lossy(text);
        assert!(
            message.contains(place) && message.contains(part),
            "{shown}: {message}"
        );
    }
}

#[test]
fn another_separator_is_told_from_one_column() {
    let text = DataType::Utf8;
    for header in ["c;d", "c\td;e", "c|d"] {
        let refused = column_of("t.csv", format!("{header}\n1;2\n").as_bytes(), &text);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("t.csv:1: has one column"), "{error}");
        assert!(inferred("t.csv", &format!("{header}\n1;2\n")).is_err());
        assert!(inferred("t.csv", &format!("\"{header}\"\n1;2\n")).is_ok());
        assert!(inferred("t.csv", &format!("{header},e\n1;2,3\n")).is_ok());
    }
}

#[test]
fn byte_order_marks_do_not_count() {
    for (name, text) in [
        ("t.csv", "\u{feff}c\n1\n"),
        ("t.ndjson", "\u{feff}{\"c\":1}\n"),
    ] {
        let array = column_of(name, text.as_bytes(), &DataType::Int64).unwrap();
        assert_eq!(array.len(), 1);
    }
}

#[test]
fn messages_are_short() {
    let long = "y".repeat(2_000_000);
    for text in [
        format!("c\n{long}\n"),
        format!("{long}\n1\n"),
        format!("c\n\"\u{1b}[2J\n{long}\n"),
    ] {
        let message = column_of("t.csv", text.as_bytes(), &DataType::Int64)
            .unwrap_err()
            .to_string();
        assert!(
            message.len() < 600 && !message.contains('\u{1b}'),
            "{} bytes",
            message.len()
        );
    }
}

/// The type of one column that is inferred for a file, after a proof that the file can be read with it.
fn inferred(name: &str, text: &str) -> Result<DataType, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    let schema =
        schema_of(&Input::file(&path), &InputLimits::default()).map_err(|e| e.to_string())?;
    read_as(&path, &schema).expect(text);
    Ok(schema.field(0).data_type().clone())
}

#[test]
fn inference_picks_no_type_that_loses() {
    use DataType as T;
    let micros = |zoned| timestamp(TimeUnit::Microsecond, zoned);
    let cases = [
        (&["1", "-2"][..], T::Int64),
        (&["1", "18446744073709551615"], T::UInt64),
        (&["-1", "18446744073709551615"], T::Utf8),
        (&["1", "0.5"], T::Float64),
        (&["0.5", "9007199254740993"], T::Utf8),
        (&["0.5", "36028797018963968"], T::Float64),
        (&["123456789012345678.123"], T::Utf8),
        (&["1234567890123456.7"], T::Utf8),
        (&["9007199254740993.0"], T::Utf8),
        (&["9007199254740992.0", "0.0", "0e7"], T::Float64),
        (&["0.30000000000000003"], T::Utf8),
        (&["0.30000000000000004", "-1.50e-300"], T::Float64),
        (&["99999999999999.995"], T::Utf8),
        (&["1e23", "17976931348623157e292"], T::Float64),
        (&["01234", "5"], T::Utf8),
        (&["+49151"], T::Utf8),
        (&["-0"], T::Float64),
        (&["1e400"], T::Utf8),
        (&["true", "false"], T::Boolean),
        (&["true", "1"], T::Utf8),
        (&["2024-01-05"], T::Date32),
        (&["2024-01-05", "2024-01-05T10:00:00"], T::Utf8),
        (&["2024-01-05 10:00:00.123456"], micros(false)),
        (
            &["2024-01-05 10:00:00.123456789"],
            timestamp(TimeUnit::Nanosecond, false),
        ),
        (&["2024-01-05 10:00:00.1234567891"], T::Utf8),
        (&["9999-01-05 10:00:00.123456789"], T::Utf8),
        (
            &["2024-01-05T10:00:00Z", "2024-01-05T10:00:00+02:00"],
            micros(true),
        ),
        (&["2024-01-05T10:00:00Z", "2024-01-05T10:00:00"], T::Utf8),
        (&["1", "x"], T::Utf8),
        (&["1700000000"], T::Int64),
        (&["10:00:00"], T::Utf8),
    ];
    for (values, expected) in cases {
        let text = format!("c,d\n{},\n,1\n", values.join(",\n"));
        assert_eq!(inferred("t.csv", &text), Ok(expected), "{values:?}");
    }
    assert!(
        inferred("t.csv", "a,,b\n1,2,3\n")
            .unwrap_err()
            .contains("column 2 has no name")
    );
}

#[test]
fn inference_of_objects_refuses_what_no_type_holds() {
    use DataType as T;
    let list = |item| T::List(Arc::new(Field::new_list_field(item, true)));
    let cases = [
        ("{\"c\":1}\n{\"c\":18446744073709551615}", Ok(T::UInt64)),
        ("{\"c\":[]}\n{\"c\":[null,2.5]}", Ok(list(T::Float64))),
        (
            "{\"c\":{\"a\":1}}\n{\"c\":{\"b\":\"x\"}}",
            Ok(T::Struct(
                vec![
                    Field::new("a", T::Int64, true),
                    Field::new("b", T::Utf8, true),
                ]
                .into(),
            )),
        ),
        ("{\"c\":\"2024-01-05\"}", Ok(T::Utf8)),
        ("{\"c\":null}", Ok(T::Utf8)),
        ("{\"c\":1}\n{\"c\":\"x\"}", Err("t.ndjson:2: column `c`")),
        ("{\"c\":[{\"a\":1},{\"a\":[]}]}", Err("column `c[].a`")),
        ("{\"c\":0.5}\n{\"c\":9007199254740993}", Err("--schema")),
        ("{\"c\":123456789012345678901234567890}", Err("--schema")),
        ("{\"c\":[0.5,1234567890123456.7]}", Err("t.ndjson:1")),
        ("{\"c\":9007199254740993.0}", Err("--schema")),
        ("{\"c\":{}}", Err("without members")),
        ("{\"\":1}", Err("empty name")),
        ("[{\"c\":1}]", Err("one object a line")),
        ("{\"c\":\n1}", Err("t.ndjson:1")),
        ("\n", Err("is empty")),
    ];
    for (text, expected) in cases {
        match (inferred("t.ndjson", text), expected) {
            (found, Ok(expected)) => assert_eq!(found, Ok(expected), "{text}"),
            (found, Err(part)) => {
                let message = found.expect_err(text);
                assert!(message.contains(part), "{message}");
            }
        }
    }
}

/// Whatever inference promises, the reader keeps: random fields of every kind, side by side.
#[test]
fn a_file_can_be_read_as_inferred() {
    let fields = [
        "",
        "\"\"",
        "1",
        "-7",
        "0",
        "-0",
        "007",
        "1.5",
        "1e5",
        "1e-7",
        ".5",
        "5.",
        "NaN",
        "inf",
        "true",
        "False",
        "2024-02-29",
        "2023-02-29",
        "2024-01-05T10:00:00",
        "2024-01-05 10:00:00.123456789",
        "2024-01-05T10:00:00Z",
        "9223372036854775808",
        "9007199254740993",
        "3.14159265358979323846",
        "x",
        "\"a,b\"",
        "\"1\"",
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |most: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % most as u64).unwrap()
    };
    for _ in 0..500 {
        let pool: Vec<&str> = (0..3).map(|_| fields[next(fields.len())]).collect();
        let rows: Vec<String> = (0..4).map(|_| format!("{},1", pool[next(3)])).collect();
        inferred("t.csv", &format!("c,d\n{}\n", rows.join("\n"))).unwrap();
    }
}

#[test]
fn what_is_malformed_names_its_column() {
    for (text, part) in [
        ("{\"v\":1,\"v\":2}", "t.ndjson:1: column `v`: stands twice"),
        (
            "{\"v\":{\"a\":[0,{\"b\":1,\"b\":1}]}}",
            "column `v.a[1].b`: stands twice",
        ),
        ("{\"v\":[01]}", "column `v[0]`: a number is malformed"),
        ("{\"v\" 1}", "t.ndjson:1: a colon is expected"),
    ] {
        let message = column_of("t.ndjson", text.as_bytes(), &DataType::Int64);
        let message = message.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn names_do_not_depend_on_types() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("t.csv", "b,a\n1,2\n"),
        ("t.ndjson", "{\"b\":1}\n{\"a\":2,\"b\":\"2.5\"}\n"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        let mut names = names_of(&Input::file(path), &InputLimits::default()).unwrap();
        names.sort();
        assert_eq!(names, ["a", "b"]);
    }
}

#[test]
fn unsigned_numbers_come_back() {
    let array = column_of(
        "t.ndjson",
        b"{\"c\":18446744073709551615}",
        &DataType::UInt64,
    )
    .unwrap();
    assert_eq!(array.as_primitive::<UInt64Type>().value(0), u64::MAX);
}

/// Its values are refused where they stand; a file without it is as good as for any other column.
#[test]
fn binary_columns_have_no_text() {
    for (name, text, without, place) in [
        (
            "t.csv",
            "c,d\n,1\nabc,2\n",
            "d\n1\n",
            "t.csv:3: column `c` (Binary)",
        ),
        (
            "t.ndjson",
            "{\"d\":1}\n{\"c\":\"abc\"}\n",
            "{\"d\":1}\n",
            "t.ndjson:2: column `c` (Binary)",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        let fields = vec![
            Field::new("c", DataType::Binary, true),
            Field::new("d", DataType::Int8, true),
        ];
        let schema = Schema::new(fields);
        fs::write(&path, text).unwrap();
        let refused = read_as(&path, &schema);
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains(place) && message.contains("Parquet or Arrow"),
            "{message}"
        );
        fs::write(&path, without).unwrap();
        let batches = read_as(&path, &schema).unwrap();
        assert_eq!(batches[0].column(0).null_count(), 1);
    }
}
