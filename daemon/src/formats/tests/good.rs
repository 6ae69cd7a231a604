//! Good files, from which the fuzzer starts.

use std::{fs, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, DictionaryArray, Float64Array,
        Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
    },
    csv::WriterBuilder,
    datatypes::{DataType, Field, Int32Type, Schema},
    ipc::{
        CompressionType,
        writer::{FileWriter, IpcWriteOptions, StreamWriter},
    },
    json::LineDelimitedWriter,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, GzipLevel, ZstdLevel},
    file::properties::{WriterProperties, WriterVersion},
    schema::types::ColumnPath,
};

use super::{Files, limits::int96};

/// Flat columns of every kind that text knows.
pub(super) fn flat() -> RecordBatch {
    let rows = 40;
    let odd = |i: i64| (i % 3 != 0).then_some(i);
    let columns: [(&str, ArrayRef); 6] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..rows))),
        (
            "f",
            Arc::new(
                (0..rows)
                    .map(|i| odd(i).map(|i| i as f64 / 7.0))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            "s",
            Arc::new(
                (0..rows)
                    .map(|i| odd(i).map(|i| format!("text \"{i}\"")))
                    .collect::<StringArray>(),
            ),
        ),
        (
            "b",
            Arc::new(
                (0..rows)
                    .map(|i| odd(i).map(|i| i % 2 == 0))
                    .collect::<BooleanArray>(),
            ),
        ),
        (
            "t",
            Arc::new(
                (0..rows)
                    .map(odd)
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            ),
        ),
        (
            "d",
            Arc::new(
                (0..rows)
                    .map(|i| odd(i).map(i128::from))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(12, 3)
                    .expect("a decimal"),
            ),
        ),
    ];
    RecordBatch::try_from_iter(columns).expect("a batch")
}

/// Nested columns and a dictionary, too.
fn deep() -> RecordBatch {
    let flat = flat();
    let rows = flat.num_rows();
    let texts = flat.column(2).as_string::<i32>();
    let dictionary: DictionaryArray<Int32Type> = texts.iter().collect();
    let items = (0..rows).map(|i| (i % 4 != 0).then(|| (0..i % 5).map(|x| Some(x as i32))));
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(items);
    let inner = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int64, true)),
            flat.column(0).clone(),
        ),
        (
            Arc::new(Field::new("l", list.data_type().clone(), true)),
            Arc::new(list) as ArrayRef,
        ),
    ]);
    let mut fields: Vec<_> = flat.schema().fields().iter().cloned().collect();
    let mut columns = flat.columns().to_vec();
    for (name, column) in [
        ("dict", Arc::new(dictionary) as ArrayRef),
        ("nested", Arc::new(inner)),
    ] {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
}

/// A good file of each format, compression and encoding: its extension and its bytes.
pub(super) fn good() -> Vec<(&'static str, Vec<u8>)> {
    let (flat, deep) = (flat(), deep());
    let mut good = Vec::new();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(GzipLevel::default()),
    ] {
        let properties = WriterProperties::builder().set_compression(compression);
        good.push(("parquet", parquet(&deep, properties.build())));
    }
    for encoding in [
        Encoding::DELTA_BYTE_ARRAY,
        Encoding::DELTA_LENGTH_BYTE_ARRAY,
    ] {
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_data_page_row_count_limit(10)
            .set_dictionary_enabled(false)
            .set_column_encoding(ColumnPath::from("s"), encoding);
        good.push(("parquet", parquet(&deep, properties.build())));
    }
    let files = Files::new();
    let old = int96(&files, &[(2_440_588, 0), (2_440_589, 1_000)]);
    good.push(("parquet", fs::read(old).expect("int96")));
    let long = StringArray::from(vec!["x".repeat(100_000), "y".into(), "x".repeat(100_000)]);
    let long = RecordBatch::try_from_iter([("s", Arc::new(long) as ArrayRef)]).expect("a batch");
    good.push(("parquet", parquet(&long, WriterProperties::default())));
    good.extend(ipc(&deep));
    let schema = concat!(
        r#"[{"name": "id", "type": "int64", "nullable": false},"#,
        r#"{"name": "v", "type": "fixed_size_list<float32,128>"}]"#
    );
    good.push(("json", schema.as_bytes().to_vec()));
    for _ in 0..4 {
        let mut text = Vec::new();
        WriterBuilder::new()
            .build(&mut text)
            .write(&flat)
            .expect("csv");
        good.push(("csv", text));
        let mut lines = Vec::new();
        LineDelimitedWriter::new(&mut lines)
            .write(&deep)
            .expect("ndjson");
        good.push(("ndjson", lines));
    }
    good
}

fn parquet(rows: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties));
    let mut writer = writer.expect("parquet");
    writer.write(rows).expect("parquet");
    writer.close().expect("parquet");
    bytes
}

/// The two formats of Arrow in each compression.
fn ipc(deep: &RecordBatch) -> Vec<(&'static str, Vec<u8>)> {
    let mut good = Vec::new();
    for compression in [
        None,
        Some(CompressionType::LZ4_FRAME),
        Some(CompressionType::ZSTD),
    ] {
        let options = || {
            IpcWriteOptions::default()
                .try_with_compression(compression)
                .expect("options")
        };
        let (mut file, mut stream) = (Vec::new(), Vec::new());
        let mut writer =
            FileWriter::try_new_with_options(&mut file, &deep.schema(), options()).expect("file");
        writer.write(deep).expect("file");
        writer.finish().expect("file");
        drop(writer);
        let mut writer = StreamWriter::try_new_with_options(&mut stream, &deep.schema(), options())
            .expect("stream");
        writer.write(deep).expect("stream");
        writer.finish().expect("stream");
        drop(writer);
        good.extend([("arrow", file), ("arrows", stream)]);
    }
    good
}
