//! Every format round trip, every cast rule, every bad input.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{
        DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
    },
    ipc::writer::{FileWriter, StreamWriter},
};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use super::{Format, FormatError, Input, InputLimits, Reading, read_schema_file};

mod bombs;
mod by_hand;
mod casts;
mod compressed;
mod fuzz;
mod good;
mod limits;
mod meter;
mod shape;
mod thrift;

fn read(path: &Path, target: Option<&Schema>) -> Result<Vec<RecordBatch>, FormatError> {
    read_within(path, target, &InputLimits::default())
}

fn read_within(
    path: &Path,
    target: Option<&Schema>,
    limits: &InputLimits,
) -> Result<Vec<RecordBatch>, FormatError> {
    let reading = target.map(Reading::exactly);
    let rows = super::read(&Input::file(path), reading.as_ref(), limits)?;
    assert!(rows.coerced.is_empty(), "nobody asked for it");
    Ok(rows.batches)
}

fn schema_of(path: &Path) -> Result<SchemaRef, FormatError> {
    schema_within(path, &InputLimits::default())
}

fn schema_within(path: &Path, limits: &InputLimits) -> Result<SchemaRef, FormatError> {
    super::schema_of(&Input::file(path), limits)
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn binary(&self, name: &str, batch: &RecordBatch) -> PathBuf {
        let path = self.0.path().join(name);
        let file = File::create(&path).unwrap();
        match Format::of(&path).unwrap() {
            Format::Parquet => {
                let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
                writer.write(batch).unwrap();
                writer.close().unwrap();
            }
            Format::ArrowFile => {
                let mut writer = FileWriter::try_new(file, &batch.schema()).unwrap();
                writer.write(batch).unwrap();
                writer.finish().unwrap();
            }
            Format::ArrowStream => {
                let mut writer = StreamWriter::try_new(file, &batch.schema()).unwrap();
                writer.write(batch).unwrap();
                writer.finish().unwrap();
            }
            Format::Csv | Format::Ndjson => unreachable!(),
        }
        path
    }
}

fn table() -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new(
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
    ])
}

fn column(name: &str, data_type: DataType) -> Schema {
    Schema::new(vec![Field::new(name, data_type, true)])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn refusal(result: Result<Vec<RecordBatch>, FormatError>, file: &str, parts: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    for part in [file].iter().chain(parts) {
        assert!(message.contains(part), "`{part}` not in: {message}");
    }
}

#[test]
fn binary_formats_reorder_and_fill() {
    let files = Files::new();
    let rows = batch(vec![
        ("name", Arc::new(StringArray::from(vec![Some("a"), None]))),
        ("id", Arc::new(Int32Array::from(vec![1, 2]))),
    ]);
    for name in [
        "t.1.parquet",
        "t.1.arrow",
        "t.1.feather",
        "t.1.IPC",
        "t.1.arrows",
    ] {
        let path = files.binary(name, &rows);
        assert_eq!(schema_of(&path).unwrap().fields().len(), 2, "{name}");
        let read = read(&path, Some(&table())).unwrap();
        assert_eq!(*read[0].schema(), table(), "{name}");
        assert_eq!(
            read[0].column(0).as_primitive::<Int64Type>().values(),
            &[1, 2]
        );
        assert_eq!(read[0].column(2).null_count(), 2);
    }
    assert_eq!(
        read(&files.binary("t.parquet", &rows), None).unwrap()[0],
        rows
    );
}

#[test]
fn csv_matches_the_header_by_name() {
    let files = Files::new();
    let path = files.text(
        "t.csv",
        "\u{feff}at,id,name\n2026-01-02T03:04:05Z,1,007\n,2,\n",
    );
    let read = read(&path, Some(&table())).unwrap();
    assert_eq!(*read[0].schema(), table());
    assert_eq!(
        read[0].column(0).as_primitive::<Int64Type>().values(),
        &[1, 2]
    );
    assert_eq!(read[0].column(1).as_string::<i32>().value(0), "007");
    assert!(read[0].column(1).is_null(1));
    assert_eq!(
        read[0]
            .column(2)
            .as_primitive::<TimestampMicrosecondType>()
            .value(0),
        1_767_323_045_000_000
    );
}

#[test]
fn ndjson_is_parsed_to_the_target() {
    let files = Files::new();
    let lines = "{\"name\": \"x\", \"id\": 9007199254740993}\n\n{\"id\": 2.0, \"at\": \"2026-01-02T03:04:05Z\"}\n";
    for name in ["t.ndjson", "t.jsonl"] {
        let read = read(&files.text(name, lines), Some(&table())).unwrap();
        assert_eq!(*read[0].schema(), table());
        assert_eq!(
            read[0].column(0).as_primitive::<Int64Type>().values(),
            &[9_007_199_254_740_993, 2]
        );
        assert!(read[0].column(1).is_null(1));
    }
    let vectors = files.text("t.jsonl", "{\"v\": [1, 2.5]}\n");
    let list = DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, true)), 2);
    assert_eq!(
        read(&vectors, Some(&column("v", list.clone()))).unwrap()[0]
            .column(0)
            .data_type(),
        &list
    );
    refusal(
        read(
            &files.text("u.jsonl", "{\"v\": [1]}\n"),
            Some(&column("v", list)),
        ),
        "u.jsonl:1",
        &[],
    );
}

#[test]
fn text_without_a_target_is_inferred_and_empty_files_keep_their_schema() {
    let files = Files::new();
    let csv = files.text("t.csv", "a,b,c\n1,x,\n2,y,\n");
    let types: Vec<_> = schema_of(&csv)
        .unwrap()
        .fields()
        .iter()
        .map(|f| f.data_type().clone())
        .collect();
    assert_eq!(types, [DataType::Int64, DataType::Utf8, DataType::Utf8]);
    assert_eq!(read(&csv, None).unwrap()[0].num_rows(), 2);
    let json = files.text("t.ndjson", "{\"a\": 1, \"b\": null}\n{\"a\": 2.5}\n");
    assert_eq!(
        schema_of(&json).unwrap().field(0).data_type(),
        &DataType::Float64
    );
    assert_eq!(read(&json, None).unwrap()[0].num_rows(), 2);

    let read = read(&files.text("e.csv", "id,name,at\n"), Some(&table())).unwrap();
    assert_eq!(
        (read.len(), read[0].num_rows(), read[0].schema().as_ref()),
        (1, 0, &table())
    );
}

#[test]
fn wrong_columns_are_refused() {
    let files = Files::new();
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let extra = files.binary(
        "t.parquet",
        &batch(vec![("id", Arc::clone(&one)), ("idd", Arc::clone(&one))]),
    );
    refusal(
        read(&extra, Some(&table())),
        "t.parquet",
        &["`idd`", "id, name, at", "remove or rename"],
    );
    let twice = files.binary(
        "d.arrow",
        &batch(vec![("id", Arc::clone(&one)), ("id", one)]),
    );
    refusal(
        read(&twice, Some(&table())),
        "d.arrow",
        &["`id`", "more than once"],
    );
    refusal(
        read(&files.text("a.csv", "name\nx\n"), Some(&table())),
        "a.csv",
        &["`id`", "Int64", "missing"],
    );
    refusal(
        read(&files.text("b.csv", "id,nam\n1,x\n"), Some(&table())),
        "b.csv",
        &["`nam`"],
    );
    refusal(
        read(&files.text("c.csv", "id,id\n1,1\n"), Some(&table())),
        "c.csv",
        &["more than once"],
    );
    refusal(
        read(&files.text("d.csv", "id,name\n1,x\n,y\n"), Some(&table())),
        "d.csv:3",
        &["`id`"],
    );
    refusal(
        read(
            &files.text("e.jsonl", "{\"id\":1}\n{\"name\":\"x\"}\n"),
            Some(&table()),
        ),
        "e.jsonl:2",
        &["`id`"],
    );
    refusal(
        read(
            &files.text("f.jsonl", "{\"id\":1}\n{\"id\":2,\"z\":1}\n"),
            Some(&table()),
        ),
        "f.jsonl:2",
        &["z"],
    );
}

#[test]
fn wrong_values_name_the_line() {
    let files = Files::new();
    refusal(
        read(
            &files.text("a.csv", "id,name\n1,x\ntwo,y\n"),
            Some(&table()),
        ),
        "a.csv:3",
        &["two", "Int64"],
    );
    refusal(
        read(
            &files.text("b.csv", "id,name\n1,x\n2,y,z\n"),
            Some(&table()),
        ),
        "b.csv:3",
        &["fields"],
    );
    for (text, line) in [
        ("id,name\nz,x\n", 2),
        ("id,name\r\n1,\"a\nb\"\r\n\r\nz,x\r\n", 5),
        ("id,name\n1,2,3\n", 2),
        ("id,name\n1\n", 2),
    ] {
        refusal(
            read(&files.text("l.csv", text), Some(&table())),
            &format!("l.csv:{line}: "),
            &[],
        );
    }
    refusal(
        read(
            &files.text("a.jsonl", "{\"id\":1}\n\n{\"id\":\n"),
            Some(&table()),
        ),
        "a.jsonl:3",
        &[],
    );
    refusal(
        read(
            &files.text("b.jsonl", "{\"id\":1}\n{\"id\":true}\n"),
            Some(&table()),
        ),
        "b.jsonl:2",
        &["id"],
    );
    refusal(
        read(
            &files.text("c.jsonl", "{\"id\":1}\n{\"id\":1.5}\n"),
            Some(&table()),
        ),
        "c.jsonl:2",
        &["`id`", "1.5"],
    );
    let below = "{\"id\":-9223372036854775809}\n";
    refusal(
        read(&files.text("d.jsonl", below), Some(&table())),
        "d.jsonl",
        &["-9223372036854775809"],
    );
    let list = DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, true)), 2);
    refusal(
        read(&files.text("v.csv", "v\n1\n"), Some(&column("v", list))),
        "v.csv",
        &["FixedSizeList"],
    );
}

#[test]
fn unreadable_files_are_refused() {
    let files = Files::new();
    for name in [
        "a.txt", "parquet", "a.csv.xz", "a.gz", "a.tar.gz", "gz", ".gz",
    ] {
        refusal(
            read(&files.text(name, ""), None),
            name,
            &["unsupported extension", ".parquet"],
        );
    }
    refusal(
        read(&files.0.path().join("none.csv"), None),
        "none.csv",
        &["cannot be read"],
    );
    for name in ["a.parquet", "a.arrow", "a.arrows"] {
        refusal(
            read(&files.text(name, "not what the name says"), None),
            name,
            &["write it again"],
        );
    }
    let whole = files.binary(
        "w.parquet",
        &batch(vec![("id", Arc::new(Int64Array::from(vec![1])))]),
    );
    let bytes = fs::read(&whole).unwrap();
    fs::write(&whole, &bytes[..bytes.len() - 9]).unwrap();
    refusal(read(&whole, None), "w.parquet", &[]);
}

#[test]
fn schema_files() {
    let files = Files::new();
    let text = r#"[{"name": "id", "type": "int64", "nullable": false}, {"name": "at", "type": "timestamp_us_utc"},
                   {"name": "v", "type": "fixed_size_list<float32, 128>"}]"#;
    let schema = read_schema_file(&files.text("s.json", text)).unwrap();
    assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    assert_eq!(
        schema.field(2).data_type(),
        &DataType::FixedSizeList(item, 128)
    );

    let marked = files.text("s.json", &format!("\u{feff}{text}"));
    assert_eq!(read_schema_file(&marked).unwrap(), schema);

    let refused = |text: &str, part: &str| {
        let message = read_schema_file(&files.text("s.json", text))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("s.json") && message.contains(part),
            "{message}"
        );
    };
    refused("[\n{\"name\": \"a\", \"typ\": \"int8\"}]", "s.json:2");
    refused("{", "s.json:1");
    refused("[]", "at least one");
    refused(r#"[{"name": "a", "type": "int"}]"#, "unknown type `int`");
    refused(
        r#"[{"name": "a", "type": "fixed_size_list<float32,0>"}]"#,
        "unknown type",
    );
    refused(&" ".repeat(2 << 20), "longer than 1 MiB");
    refused(
        r#"[{"name": "a", "type": "int8"}, {"name": "a", "type": "int8"}]"#,
        "more than once",
    );
    refused(r#"[{"name": "", "type": "int8"}]"#, "empty name");
    assert!(matches!(
        read_schema_file(&files.0.path().join("none")),
        Err(FormatError::Io { .. })
    ));
}

#[test]
fn each_field_of_a_binary_file_has_a_name_of_its_own() {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let of = |fields: Vec<Field>| DataType::Struct(fields.into());
    let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
    for (fields, part) in [
        (
            vec![number("a"), number("")],
            "column 2 has no name; name it",
        ),
        (
            vec![number("a"), number("a")],
            "column `a` appears more than once",
        ),
        (
            vec![Field::new("x", of(vec![number("a"), number("a")]), true)],
            "column `x.a` appears more than once",
        ),
        (
            vec![Field::new("x", list(of(vec![number("")])), true)],
            "column 1 of `x` has no name",
        ),
    ] {
        let files = Files::new();
        let rows = RecordBatch::new_empty(Arc::new(Schema::new(fields)));
        for name in ["t.1.arrow", "t.1.arrows", "t.1.parquet"] {
            let path = files.binary(name, &rows);
            for message in [
                schema_of(&path).unwrap_err().to_string(),
                read(&path, None).unwrap_err().to_string(),
            ] {
                assert!(
                    message.contains(part) && !message.contains('\n'),
                    "{message}"
                );
            }
        }
    }
}

#[test]
fn files_behind_one_another_are_not_one() {
    let files = Files::new();
    let rows = |of: [i64; 2]| {
        batch(vec![(
            "id",
            Arc::new(Int64Array::from(of.to_vec())) as ArrayRef,
        )])
    };
    for (extension, told) in [
        ("arrows", "goes on behind the end"),
        ("parquet", "more than one Parquet file"),
        ("arrow", "more than one Arrow file"),
    ] {
        let parts = [("a", rows([1, 2])), ("b", rows([3, 4]))];
        let bytes = parts.map(|(name, rows)| {
            fs::read(files.binary(&format!("{name}.{extension}"), &rows)).unwrap()
        });
        let path = files.text(&format!("both.{extension}"), "");
        fs::write(&path, bytes.concat()).unwrap();
        refusal(read(&path, None), "both", &[told]);
        let packed = compressed::packed("gz", &bytes[0]);
        let packed = [packed, compressed::packed("gz", &bytes[1])].concat();
        let members = files.text(&format!("members.{extension}.gz"), "");
        fs::write(&members, packed).unwrap();
        refusal(read(&members, None), "members", &[told]);
        let alone = files.text(&format!("alone.{extension}"), "");
        let padding: &[u8] = if extension == "arrows" { &[0; 56] } else { &[] };
        fs::write(&alone, [&bytes[1], padding].concat()).unwrap();
        assert_eq!(read(&alone, None).unwrap(), [rows([3, 4])]);
    }
}

/// Arrow and Parquet say what is wrong and not where.
#[test]
fn a_column_that_cannot_be_read_is_named() {
    let files = Files::new();
    let words = Arc::new(StringArray::from(vec!["abcdefgh", "stuvwxyz"])) as ArrayRef;
    let whole = Arc::new(StringArray::from(vec!["one", "two"])) as ArrayRef;
    let rows = batch(vec![
        ("ok", whole.clone()),
        ("no text", words),
        ("id", whole),
    ]);
    for name in ["a.parquet", "a.arrow", "a.arrows"] {
        let path = files.binary(name, &rows);
        assert!(read(&path, None).is_ok(), "{name}");
        let mut bytes = fs::read(&path).unwrap();
        while let Some(at) = bytes.windows(8).position(|word| word == b"stuvwxyz") {
            bytes[at + 3] = 0xff;
        }
        fs::write(&path, bytes).unwrap();
        refusal(read(&path, None), name, &["column `no text`: ", "UTF"]);
    }
}

#[test]
fn an_arrow_file_is_what_it_begins_as() {
    let files = Files::new();
    let rows = batch(vec![("x", Arc::new(Int64Array::from(vec![1])))]);
    for (own, other) in [("t.1.arrows", "t.2.arrow"), ("t.1.arrow", "t.2.arrows")] {
        let path = files.binary(own, &rows);
        let renamed = path.with_file_name(other);
        fs::rename(&path, &renamed).unwrap();
        assert_eq!(schema_of(&renamed).unwrap(), rows.schema());
        assert_eq!(read(&renamed, None).unwrap(), std::slice::from_ref(&rows));
    }
    refusal(
        read(&files.text("t.arrow", "id\n1\n"), None),
        "t.arrow",
        &["neither"],
    );
}

#[test]
fn messages_of_version_4_are_read_under_a_newer_footer() {
    use arrow::ipc::{MetadataVersion, writer::IpcWriteOptions};
    let rows = batch(vec![("x", Arc::new(Int64Array::from(vec![1])))]);
    let written = |version| {
        let options = IpcWriteOptions::try_new(64, false, version).unwrap();
        let mut bytes = Vec::new();
        let mut writer =
            FileWriter::try_new_with_options(&mut bytes, &rows.schema(), options).unwrap();
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        drop(writer);
        bytes
    };
    let footer = |bytes: &[u8]| {
        let tail = bytes.len() - 10;
        let length = u32::from_le_bytes(bytes[tail..tail + 4].try_into().unwrap());
        tail - length as usize
    };
    let (old, new) = (written(MetadataVersion::V4), written(MetadataVersion::V5));
    let mixed = [&old[..footer(&old)], &new[footer(&new)..]].concat();
    let files = Files::new();
    let path = files.0.path().join("t.arrow");
    for bytes in [old, mixed] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(schema_of(&path).unwrap(), rows.schema());
        assert_eq!(read(&path, None).unwrap(), std::slice::from_ref(&rows));
    }
}

#[test]
fn schema_files_name_types() {
    let files = Files::new();
    let read = |name: &str| {
        let text = format!(r#"[{{"name": "a", "type": "{name}"}}]"#);
        read_schema_file(&files.text("s.json", &text))
    };
    let named = |name: &str| {
        let schema = read(name).expect(name);
        schema.field(0).data_type().clone()
    };
    let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
    let fixed =
        |item, size| DataType::FixedSizeList(Arc::new(Field::new_list_field(item, true)), size);
    let zone = |zone: &str| DataType::Timestamp(TimeUnit::Nanosecond, Some(zone.into()));
    let fields = vec![
        Field::new("sku", DataType::Utf8, true),
        Field::new("d", DataType::Decimal128(18, 2), true),
    ];
    for (name, expected) in [
        ("float16", DataType::Float16),
        ("decimal128<38, 9>", DataType::Decimal128(38, 9)),
        ("decimal256<76,76>", DataType::Decimal256(76, 76)),
        ("large_binary", DataType::LargeBinary),
        ("fixed_size_binary<16>", DataType::FixedSizeBinary(16)),
        ("date64", DataType::Date64),
        ("time32_s", DataType::Time32(TimeUnit::Second)),
        ("time64_ns", DataType::Time64(TimeUnit::Nanosecond)),
        (
            "timestamp_ms",
            DataType::Timestamp(TimeUnit::Millisecond, None),
        ),
        ("timestamp_ns_utc", zone("UTC")),
        ("timestamp_ns<Europe/Berlin>", zone("Europe/Berlin")),
        ("timestamp_ns<+02:00>", zone("+02:00")),
        ("duration_us", DataType::Duration(TimeUnit::Microsecond)),
        (
            "list< struct<sku:utf8, d:decimal128<18,2>> >",
            list(DataType::Struct(fields.into())),
        ),
        ("list<list<int8>>", list(list(DataType::Int8))),
        // What Lance cannot keep is said where a table is made.
        ("fixed_size_list<bool,9>", fixed(DataType::Boolean, 9)),
        ("fixed_size_list<utf8,2>", fixed(DataType::Utf8, 2)),
    ] {
        assert_eq!(named(name), expected);
    }
    for (name, part) in [
        (
            "decimal128<39,0>",
            "unknown type `decimal128<39,0>`; use one of int8",
        ),
        ("decimal128<4,5>", "unknown type"),
        ("time32_us", "unknown type `time32_us`"),
        ("time64_us_utc", "unknown type"),
        ("list<text>", "unknown type `text`"),
        ("list<int8", "unknown type"),
        ("struct<a>", "`a` is no field of a struct; write NAME:TYPE"),
        ("struct<a:int8,a:int8>", "`a` stands twice"),
        ("timestamp_us<Berlin>", "unknown time zone `Berlin`"),
        (&"list<".repeat(100_000), "unknown type"),
    ] {
        let message = read(name).expect_err(name).to_string();
        assert!(message.contains(part), "{message}");
    }
    let deep = format!("{}int8{}", "list<".repeat(10_000), ">".repeat(10_000));
    assert!(read(&deep).is_err());
}
