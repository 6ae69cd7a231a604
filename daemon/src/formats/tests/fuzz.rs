//! Mutated files of every format: each is read or refused in a few words, whatever it claims.
//!
//! `SQUIRE_FUZZ_SEED` is the seed of the first case, `SQUIRE_FUZZ_CASES` how many follow. `SQUIRE_FUZZ_DIR` keeps the file of
//! a case that fails, under its seed's name: after an abort, which no test outlives, it is the one that is left.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

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
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{Files, InputLimits};

/// Longer than any message should be, paths apart.
const MESSAGE_CHARS: usize = 700;

/// What a claimed size is most likely to be wrong by.
const NUMBERS: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    u64::MAX,
];

/// What text is made of where parsers differ.
const TOKENS: [&str; 20] = [
    "\"",
    "\"\"",
    ",",
    "\n",
    "\r",
    "\r\n",
    "\0",
    "{",
    "}",
    "[",
    "]",
    "[[[[[[[[",
    ":",
    "null",
    "1e999",
    "-0",
    "99999999999999999999",
    "\\u0000",
    "\u{feff}",
    "2024-02-30T25:61:00+99:99",
];

/// Flat columns of every kind that text knows.
fn flat() -> RecordBatch {
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

/// A good file of each format and compression: its extension and its bytes.
fn good() -> Vec<(&'static str, Vec<u8>)> {
    let (flat, deep) = (flat(), deep());
    let mut good = Vec::new();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4_RAW,
    ] {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, deep.schema(), Some(properties)).expect("parquet");
        writer.write(&deep).expect("parquet");
        writer.close().expect("parquet");
        good.push(("parquet", bytes));
    }
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
        writer.write(&deep).expect("file");
        writer.finish().expect("file");
        drop(writer);
        let mut writer = StreamWriter::try_new_with_options(&mut stream, &deep.schema(), options())
            .expect("stream");
        writer.write(&deep).expect("stream");
        writer.finish().expect("stream");
        drop(writer);
        good.extend([("arrow", file), ("arrows", stream)]);
    }
    for _ in 0..3 {
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

/// Changes `bytes` in one way.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let length = bytes.len();
    if length < 16 {
        bytes.extend(other.iter().take(64));
        return;
    }
    // What a file says of itself stands at its ends more often than not.
    let at = match random.random_range(0..4) {
        0 => random.random_range(0..length.min(256)),
        1 => length - 1 - random.random_range(0..length.min(256)),
        _ => random.random_range(0..length),
    };
    let end = (at + random.random_range(1..64)).min(length);
    match random.random_range(0..8) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.next_u32() as u8,
        2 => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())].to_le_bytes();
            let width = [4, 8][random.random_range(0..2)].min(length - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => bytes.truncate(at.max(1)),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let twice = bytes[at..end].to_vec();
            bytes.splice(at..at, twice);
        }
        6 => {
            let token = TOKENS[random.random_range(0..TOKENS.len())];
            let times = [1, 1, 1, 300][random.random_range(0..4)];
            bytes.splice(at..at, token.repeat(times).into_bytes());
        }
        _ => {
            let from = random.random_range(0..other.len());
            let part = &other[from..(from + 64).min(other.len())];
            bytes.splice(at..end, part.iter().copied());
        }
    }
}

/// Reads one file in every way; what is wrong with what comes of it.
fn read_or_refused(path: &Path) -> Result<(), String> {
    let limits = InputLimits {
        max_decoded_bytes: 64 << 20,
        max_rows: 1_000_000,
        ..InputLimits::default()
    };
    let target = flat().schema();
    for target in [None, Some(target.as_ref())] {
        match super::super::read(path, target, &limits) {
            Ok(batches) => {
                for column in batches.iter().flat_map(RecordBatch::columns) {
                    let valid = column.to_data().validate_full();
                    valid.map_err(|e| format!("an invalid array was let in: {e}"))?;
                }
            }
            Err(error) => {
                let message = error.to_string();
                let length = message.chars().count();
                if length > MESSAGE_CHARS + path.as_os_str().len() {
                    return Err(format!("a message of {length} characters"));
                }
                if message.chars().any(char::is_control) || message.contains("registry/src") {
                    return Err(format!(
                        "control characters or a place in a source: {message:?}"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

#[test]
fn mutated_files_are_read_or_refused() {
    let (first, cases) = (
        number("SQUIRE_FUZZ_SEED", 1),
        number("SQUIRE_FUZZ_CASES", 1_000),
    );
    let files = Files::new();
    let dir = std::env::var_os("SQUIRE_FUZZ_DIR").map_or(files.0.path().into(), PathBuf::from);
    let good = good();
    for (extension, bytes) in &good {
        let path = dir.join(format!("good.{extension}"));
        fs::write(&path, bytes).expect("file");
        super::super::read(&path, None, &InputLimits::default()).expect("a good file");
        fs::remove_file(&path).expect("file");
    }
    for seed in first..first.saturating_add(cases) {
        let mut random = StdRng::seed_from_u64(seed);
        let (extension, mut bytes) = good[random.random_range(0..good.len())].clone();
        for _ in 0..random.random_range(1..5) {
            let other = &good[random.random_range(0..good.len())].1;
            mutate(&mut bytes, other, &mut random);
        }
        let path = dir.join(format!("case-{seed}.{extension}"));
        fs::write(&path, &bytes).expect("file");
        if let Err(wrong) = read_or_refused(&path) {
            panic!(
                "seed {seed} ({extension}): {wrong}; SQUIRE_FUZZ_SEED={seed} SQUIRE_FUZZ_CASES=1 repeats it"
            );
        }
        fs::remove_file(&path).expect("file");
    }
}
