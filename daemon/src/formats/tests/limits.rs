//! No input ends the process, waits for ever or takes more than it is allowed to.

use std::{process::Command, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, DictionaryArray, Int64Array, ListArray, NullArray, RecordBatch,
        StringArray, StringViewBuilder,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Int32Type, Schema, TimeUnit, TimestampMicrosecondType},
    ipc::{
        CompressionType,
        writer::{DictionaryHandling, FileWriter, IpcWriteOptions, StreamWriter},
    },
};
use parquet::{
    data_type::{ByteArray, ByteArrayType, Int96, Int96Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use super::{Files, FormatError, InputLimits, batch, column, read, schema_of};

/// Text, and the limit that it is beyond.
fn beyond(limits: &InputLimits, path: &std::path::Path, target: &Schema, name: &str) {
    let message = super::read_within(path, Some(target), limits)
        .expect_err(name)
        .to_string();
    let setting = format!("[agent] {name} = ");
    assert!(message.contains(&setting), "{message}");
}

#[test]
fn each_limit_is_named() {
    let files = Files::new();
    let number = column("c", DataType::Int64);
    let rows: ArrayRef = Arc::new(Int64Array::from((0..20_000).collect::<Vec<i64>>()));
    let text: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let lines: String = (0..20_000).map(|n| format!("{{\"c\":{n}}}\n")).collect();
    let inputs = [
        files.text("t.csv", &format!("c\n{text}")),
        files.text("t.ndjson", &lines),
        files.binary("t.parquet", &batch(vec![("c", Arc::clone(&rows))])),
        files.binary("t.arrow", &batch(vec![("c", Arc::clone(&rows))])),
        files.binary("t.arrows", &batch(vec![("c", rows)])),
    ];
    let most = InputLimits::default;
    for path in &inputs {
        beyond(
            &InputLimits {
                max_input_bytes: 100,
                ..most()
            },
            path,
            &number,
            "max_input_bytes",
        );
        beyond(
            &InputLimits {
                max_rows: 19_999,
                ..most()
            },
            path,
            &number,
            "max_rows",
        );
        beyond(
            &InputLimits {
                max_decoded_bytes: 150_000,
                ..most()
            },
            path,
            &number,
            "max_decoded_bytes",
        );
        let exact = InputLimits {
            max_rows: 20_000,
            max_columns: 1,
            ..most()
        };
        assert!(super::read_within(path, Some(&number), &exact).is_ok());
        let none = InputLimits {
            max_columns: 0,
            ..most()
        };
        let inferred = super::schema_within(path, &none).unwrap_err().to_string();
        assert!(inferred.contains("max_columns"), "{inferred}");
    }
}

/// A few bytes that stand for many.
#[test]
fn bombs_are_refused_before_they_go_off() {
    let files = Files::new();
    let limits = InputLimits {
        max_decoded_bytes: 1 << 20,
        ..InputLimits::default()
    };
    // A dictionary whose one value stands a hundred thousand times.
    let long = "x".repeat(10_000);
    let keys = arrow::array::Int32Array::from(vec![0; 100_000]);
    let words = DictionaryArray::<Int32Type>::new(keys, Arc::new(StringArray::from(vec![long])));
    let path = files.binary("d.arrow", &batch(vec![("c", Arc::new(words))]));
    beyond(
        &limits,
        &path,
        &column("c", DataType::Utf8),
        "max_decoded_bytes",
    );
    // Nulls of a wide type, for a column that the file does not have.
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let wide = Schema::new(vec![
        Field::new("c", DataType::Null, true),
        Field::new("v", DataType::FixedSizeList(item, 768), true),
    ]);
    let path = files.binary(
        "n.arrow",
        &batch(vec![("c", Arc::new(NullArray::new(1_000_000)))]),
    );
    beyond(&limits, &path, &wide, "max_decoded_bytes");
    // Compressed zeros, honest about their size and not.
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 1_000_000]));
    let zeros = batch(vec![("c", zeros)]);
    let mut bytes = Vec::new();
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::ZSTD))
        .unwrap();
    let mut writer =
        FileWriter::try_new_with_options(&mut bytes, &zeros.schema(), options).unwrap();
    writer.write(&zeros).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let path = files.0.path().join("z.arrow");
    std::fs::write(&path, &bytes).unwrap();
    beyond(
        &limits,
        &path,
        &column("c", DataType::Int64),
        "max_decoded_bytes",
    );
    let announced = 8_000_000_i64.to_le_bytes();
    let at = bytes
        .windows(8)
        .position(|window| window == announced)
        .unwrap();
    bytes[at..at + 8].copy_from_slice(&(1_i64 << 60).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    beyond(
        &InputLimits::default(),
        &path,
        &column("c", DataType::Int64),
        "max_decoded_bytes",
    );
}

/// Values that stand once in the file and often in the table.
#[test]
fn shared_values_are_counted_for_each_row() {
    let files = Files::new();
    let limits = InputLimits {
        max_decoded_bytes: 1 << 20,
        ..InputLimits::default()
    };
    let long = "x".repeat(10_000);
    let keys = arrow::array::Int32Array::from(vec![0; 20_000]);
    let values = Arc::new(StringArray::from(vec![long.as_str()]));
    let words = DictionaryArray::<Int32Type>::new(keys, values);
    let item = Arc::new(Field::new_list_field(words.data_type().clone(), true));
    let offsets = OffsetBuffer::<i32>::from_lengths([10_000, 10_000]);
    let lists = ListArray::new(item, offsets, Arc::new(words), None);
    let path = files.binary("d.arrow", &batch(vec![("c", Arc::new(lists))]));
    let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let target = column("c", DataType::List(item));
    beyond(&limits, &path, &target, "max_decoded_bytes");

    let mut views = StringViewBuilder::new();
    let block = views.append_block(long.as_bytes().into());
    for _ in 0..20_000 {
        views.try_append_view(block, 0, 10_000).unwrap();
    }
    let views: ArrayRef = Arc::new(views.finish());
    let path = files.binary("v.arrow", &batch(vec![("c", views)]));
    let target = column("c", DataType::Utf8);
    beyond(&limits, &path, &target, "max_decoded_bytes");
}

fn replace(bytes: &mut [u8], from: &[i64], to: &[i64]) {
    let bytes_of = |numbers: &[i64]| -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    };
    let (from, to) = (bytes_of(from), bytes_of(to));
    let at = bytes.windows(from.len()).position(|window| window == from);
    let at = at.expect("the numbers");
    bytes[at..at + to.len()].copy_from_slice(&to);
}

#[test]
fn buffers_are_as_long_as_they_say_and_lie_beside_each_other() {
    let files = Files::new();
    let limits = InputLimits {
        max_decoded_bytes: 1 << 20,
        ..InputLimits::default()
    };
    let refused = |path: &std::path::Path, part: &str| {
        let read = super::read_within(path, None, &limits);
        let message = read.expect_err(part).to_string();
        assert!(message.contains(part), "{message}");
    };
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 8_000_000]));
    let zeros = batch(vec![("c", zeros)]);
    let mut bytes = Vec::new();
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .unwrap();
    let mut writer =
        FileWriter::try_new_with_options(&mut bytes, &zeros.schema(), options).unwrap();
    writer.write(&zeros).unwrap();
    writer.finish().unwrap();
    drop(writer);
    replace(&mut bytes, &[64_000_000], &[8]);
    let path = files.0.path().join("z.arrow");
    std::fs::write(&path, &bytes).unwrap();
    refused(&path, "a buffer is longer than it says");

    // The mask of a column without nulls, which nobody looks at, over the bytes of all.
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7; 1_000]));
    let path = files.binary("o.arrow", &batch(vec![("c", numbers)]));
    assert!(read(&path, None).is_ok());
    let mut bytes = std::fs::read(&path).unwrap();
    let masked = [0, 0, 0, 8_000];
    replace(&mut bytes, &masked, &[0, 8_000, 0, 8_000]);
    std::fs::write(&path, &bytes).unwrap();
    refused(&path, "announces more bytes than it has");
}

/// The messages of a stream, each with its body.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while bytes.len() > 8 {
        let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let message = arrow::ipc::root_as_message(&bytes[8..8 + length]).unwrap();
        let body = usize::try_from(message.bodyLength()).unwrap();
        let (message, rest) = bytes.split_at(8 + length + body);
        messages.push(message);
        bytes = rest;
    }
    messages
}

/// A batch without rows, or a part of a dictionary, again and again.
#[test]
fn messages_are_counted_for_each_time() {
    let files = Files::new();
    let limits = InputLimits {
        max_decoded_bytes: 1 << 20,
        ..InputLimits::default()
    };
    let read = |messages: &[&[u8]]| {
        let path = files.0.path().join("m.arrows");
        std::fs::write(&path, messages.concat()).unwrap();
        super::read_within(&path, None, &limits)
    };
    let names: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    let empty: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
    let columns = names.iter().map(|name| (name.as_str(), Arc::clone(&empty)));
    let path = files.binary("e.arrows", &batch(columns.collect()));
    let bytes = std::fs::read(path).unwrap();
    let [schema, batch] = messages(&bytes)[..] else {
        unreachable!()
    };
    assert!(read(&[schema, batch]).is_ok());
    let many = [&[schema][..], &[batch; 100]].concat();
    let message = read(&many).unwrap_err().to_string();
    assert!(message.contains("max_decoded_bytes"), "{message}");

    // Few large parts are too much in all; many small ones are, because the whole is copied for each of them.
    for (length, times, is_ok) in [(20_000, 10, true), (20_000, 45, false), (300_000, 2, false)] {
        let bytes = growing_dictionary(length);
        let all = messages(&bytes);
        let [.., delta, _] = all[..] else {
            unreachable!()
        };
        assert!(read(&all).is_ok());
        let read = read(&[&all[..], &vec![delta; times]].concat());
        assert_eq!(read.is_ok(), is_ok, "{read:?}");
    }
}

/// A stream of a dictionary of one text, a batch, one more text, and a batch.
fn growing_dictionary(length: usize) -> Vec<u8> {
    let words = |count: usize| {
        let words = (0..count).map(|i| i.to_string().repeat(length));
        let keys = arrow::array::Int32Array::from(vec![0]);
        let values = Arc::new(StringArray::from_iter_values(words));
        let words: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::new(keys, values));
        batch(vec![("c", words)])
    };
    let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let (mut bytes, schema) = (Vec::new(), words(1).schema());
    let mut writer = StreamWriter::try_new_with_options(&mut bytes, &schema, options).unwrap();
    for count in [1, 2] {
        writer.write(&words(count)).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// A schema that is nested without end is refused by whoever checks the message, or by us.
#[test]
fn a_deep_schema_is_refused() {
    let files = Files::new();
    let deep = (0..1_000).fold(DataType::Int64, |inner, _| {
        DataType::List(Arc::new(Field::new_list_field(inner, true)))
    });
    let empty = RecordBatch::new_empty(Arc::new(column("c", deep)));
    for name in ["d.arrow", "d.arrows"] {
        let path = files.binary(name, &empty);
        assert!(read(&path, None).is_err() && schema_of(&path).is_err());
    }
}

/// A null list of a fixed size is filled with items: 8,192 of them are not in one batch, and not any number in one row.
#[test]
fn null_lists_of_a_fixed_size_are_filled_within_limits() {
    let files = Files::new();
    let vector = |size| {
        let item = Arc::new(Field::new_list_field(DataType::Int8, true));
        DataType::FixedSizeList(item, size)
    };
    let limits = InputLimits {
        max_decoded_bytes: 64 << 20,
        ..InputLimits::default()
    };
    let path = files.text("n.ndjson", &"{}\n".repeat(8_192));
    beyond(
        &limits,
        &path,
        &column("c", vector(1 << 25)),
        "max_decoded_bytes",
    );
    beyond(
        &limits,
        &path,
        &column("c", vector(i32::MAX)),
        "max_decoded_bytes",
    );

    let lists = DataType::List(Arc::new(Field::new_list_field(vector(1 << 20), true)));
    let line = format!("{{\"c\":[{}null]}}\n", "null,".repeat(100_000));
    let path = files.text("l.ndjson", &line);
    let message = super::read_within(&path, Some(&column("c", lists)), &limits).unwrap_err();
    assert!(message.to_string().contains("too much memory"), "{message}");
}

/// A byte of text is dozens in memory until it is in a column.
#[test]
fn lines_are_counted_as_what_they_become() {
    let files = Files::new();
    let limits = InputLimits {
        max_decoded_bytes: 1 << 20,
        max_columns: 10,
        ..InputLimits::default()
    };
    let item = Arc::new(Field::new_list_field(DataType::Int8, true));
    let target = column("c", DataType::List(item));
    let line = format!("{{\"c\":[{}0]}}\n", "0,".repeat(100_000));
    let path = files.text("m.ndjson", &line);
    let message = super::read_within(&path, Some(&target), &limits).unwrap_err();
    assert!(
        message.to_string().contains("max_decoded_bytes"),
        "{message}"
    );

    let path = files.text("w.csv", &format!("a,b\n{}\n", ",".repeat(1_000)));
    let message = super::schema_within(&path, &limits).unwrap_err();
    let part = "w.csv:2: has at least 11 fields, and the header has 2";
    assert!(message.to_string().contains(part), "{message}");

    let members: Vec<String> = (0..11).map(|i| format!("\"{i}\":0")).collect();
    let line = format!("{{\"c\":{{{}}}}}\n", members.join(","));
    let path = files.text("o.ndjson", &line);
    let message = super::schema_within(&path, &limits).unwrap_err();
    let part = "column `c.10`";
    assert!(message.to_string().contains(part), "{message}");
}

#[test]
fn a_file_on_which_arrow_panics_is_refused() {
    let files = Files::new();
    let path = files.0.path().join("poison.arrow");
    std::fs::write(&path, include_bytes!("poison.arrow")).unwrap();
    let message = read(&path, None).unwrap_err().to_string();
    assert!(
        message.contains("poison.arrow: ") && message.len() < 500,
        "{message}"
    );
    assert!(!message.contains(".rs:"), "{message}");
}

#[test]
fn only_regular_files_are_opened() {
    let files = Files::new();
    let pipe = files.0.path().join("p.ndjson");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let socket = files.0.path().join("s.csv");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let device = files.0.path().join("d.csv");
    std::os::unix::fs::symlink("/dev/zero", &device).unwrap();
    for (path, kind) in [(pipe, "a pipe"), (socket, "a socket"), (device, "a device")] {
        let error = read(&path, None).unwrap_err();
        assert!(matches!(error, FormatError::NotAFile { .. }), "{error}");
        assert!(error.to_string().contains(kind), "{error}");
        assert!(schema_of(&path).is_err());
    }
}

#[test]
fn a_file_without_bytes_is_no_input() {
    let files = Files::new();
    for name in ["e.csv", "e.ndjson", "e.parquet", "e.arrow", "e.arrows"] {
        let path = files.text(name, "");
        assert!(
            matches!(read(&path, None), Err(FormatError::Empty { .. })),
            "{name}"
        );
        assert!(
            matches!(schema_of(&path), Err(FormatError::Empty { .. })),
            "{name}"
        );
    }
}

/// A Parquet file with one INT96 column `t`: Julian days and nanoseconds of them.
pub(super) fn int96(files: &Files, values: &[(u32, u64)]) -> std::path::PathBuf {
    let path = files.0.path().join("i.parquet");
    let schema = parse_message_type("message m { required int96 t; }").unwrap();
    let properties = Arc::new(WriterProperties::default());
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<Int96> = values
        .iter()
        .map(|(day, nanos)| {
            let mut value = Int96::new();
            let [low, high] = [nanos & 0xffff_ffff, nanos >> 32].map(|n| u32::try_from(n).unwrap());
            value.set_data(low, high, *day);
            value
        })
        .collect();
    column
        .typed::<Int96Type>()
        .write_batch(&values, None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    path
}

#[test]
fn int96_means_what_it_says() {
    const YEAR_9999: u32 = 5_373_484;
    const YEAR_1816: u32 = 2_384_000;
    let files = Files::new();
    let unit = |path: &std::path::Path| schema_of(path).unwrap().field(0).data_type().clone();
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);

    let path = int96(&files, &[(YEAR_9999, 1_000), (YEAR_1816, 0)]);
    assert_eq!(unit(&path), micros);
    let rows = read(&path, Some(&column("t", micros.clone()))).unwrap();
    let value = rows[0]
        .column(0)
        .as_primitive::<TimestampMicrosecondType>()
        .value(0);
    assert_eq!(value, 253_402_214_400_000_001);
    let error = read(&path, Some(&column("t", nanos.clone()))).unwrap_err();
    assert!(error.to_string().contains("column `t`, row 1"), "{error}");

    let path = int96(&files, &[(2_440_588, 0), (2_440_588, 1)]);
    assert_eq!(unit(&path), nanos);
    assert!(read(&path, Some(&column("t", nanos))).is_ok());
    let error = read(&path, Some(&column("t", micros))).unwrap_err();
    assert!(error.to_string().contains("column `t`, row 2"), "{error}");

    let path = int96(&files, &[(YEAR_9999, 1)]);
    assert!(schema_of(&path).is_err() && read(&path, None).is_err());
    let path = int96(&files, &[(u32::MAX / 2, 0)]);
    assert!(schema_of(&path).is_err() && read(&path, None).is_err());
}

#[test]
fn int96_stands_beside_other_columns_in_maps_and_structs() {
    let written = |day: u32, nanos: u32| {
        let files = Files::new();
        let path = files.0.path().join("m.parquet");
        let schema = "message m {
            optional group x (MAP) { repeated group key_value {
                required binary key (UTF8); optional int96 value; } }
            optional group s { optional int96 t; optional int64 u (TIMESTAMP(MICROS,true)); }
        }";
        let schema = parse_message_type(schema).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut value = Int96::new();
        value.set_data(nanos, 0, day);
        let mut column = group.next_column().unwrap().unwrap();
        let key = ByteArray::from("k");
        let keys = column.typed::<ByteArrayType>();
        keys.write_batch(&[key], Some(&[2]), Some(&[0])).unwrap();
        column.close().unwrap();
        for levels in [(3, Some(&[0_i16][..])), (2, None)] {
            let mut column = group.next_column().unwrap().unwrap();
            let values = column.typed::<Int96Type>();
            values
                .write_batch(&[value], Some(&[levels.0]), levels.1)
                .unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let values = column.typed::<parquet::data_type::Int64Type>();
        values.write_batch(&[7], Some(&[2]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let rows = read(&path, None)?;
        Ok::<_, FormatError>(format!("{:?}", rows[0]))
    };
    let shown = written(2_440_588, 5_000).unwrap();
    assert!(shown.contains("1970-01-01T00:00:00.000005"), "{shown}");
    let error = written(u32::MAX / 2, 0).unwrap_err().to_string();
    assert!(error.contains("column `x`, row 1"), "{error}");
}

#[test]
fn a_batch_counts_its_values_and_not_its_buffers() {
    let rows: ArrayRef = Arc::new(Int64Array::from(vec![0; 1_000]));
    let sliced = RecordBatch::try_from_iter([("c", rows.slice(10, 10))]).unwrap();
    assert_eq!(super::super::conform::decoded_bytes(&sliced), 80);
}
