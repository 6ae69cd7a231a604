//! Small files that ask the Parquet reader for what no machine has. Each is refused before it is read: most of them would end
//! the process instead.

use std::{fs, io::Write, path::PathBuf, sync::Arc};

use arrow::{
    array::{
        Array, AsArray, DictionaryArray, FixedSizeListArray, Float32Array, ListArray, RecordBatch,
        StringArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Int32Type},
};
use flate2::{Compression, write::GzEncoder};
use parquet::{
    arrow::ArrowWriter,
    basic::Encoding,
    file::properties::{WriterProperties, WriterVersion},
    schema::types::ColumnPath,
};

use super::{
    Files, InputLimits, batch,
    by_hand::{
        BYTES, Column, DELTA, DELTA_LENGTH, DICTIONARY, FIXED, INT32, INT64, MOST, OPTIONAL, PLAIN,
        REPEATED, REQUIRED, RLE, arrow, data_page, deltas, dictionary_page, file, fixed, group,
        leaf, list_of, one_column, page, plain, run, with_footer,
    },
    read, schema_of,
    thrift::{Thrift as T, varint},
};

fn write(files: &Files, bytes: &[u8]) -> PathBuf {
    let path = files.0.path().join("t.parquet");
    fs::write(&path, bytes).unwrap();
    path
}

/// Both ways into a file refuse it with these words; the schema is refused because nothing is read before the pages are counted.
fn refused(bytes: &[u8], part: &str) {
    let files = Files::new();
    let path = write(&files, bytes);
    for message in [
        schema_of(&path).expect_err(part).to_string(),
        read(&path, None).expect_err(part).to_string(),
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_file_written_by_hand_is_read() {
    let files = Files::new();
    let pages = vec![
        dictionary_page(&[b"aa", b"b"]),
        data_page(3, DICTIONARY, &[&[1][..], &run(3, &[1])].concat()),
    ];
    let path = write(&files, &one_column(leaf("c", BYTES, REQUIRED), pages, 3));
    let rows = read(&path, None).unwrap();
    assert_eq!(rows[0].column(0).as_binary::<i64>().value(2), b"b");
    let texts = [deltas(&[0, 1, 2]), deltas(&[2, 2, 1]), b"xyzab".to_vec()].concat();
    let pages = vec![data_page(3, DELTA, &texts)];
    let path = write(&files, &one_column(leaf("c", BYTES, REQUIRED), pages, 3));
    let rows = read(&path, None).unwrap();
    assert_eq!(rows[0].column(0).as_binary::<i64>().value(2), b"xzb");
}

#[test]
fn a_schema_without_end_is_refused() {
    let mut schema: Vec<T> = (0..200_000).map(|_| group("g", OPTIONAL, 1)).collect();
    schema.push(leaf("c", INT32, OPTIONAL));
    refused(&file(schema, &[], 0, Vec::new()), "max_nesting");
}

#[test]
fn a_footer_has_what_it_announces() {
    let damaged = "its footer announces";
    let schema = || vec![group("m", REQUIRED, 1), leaf("c", INT32, OPTIONAL)];
    refused(
        &file(vec![group("m", REQUIRED, MOST)], &[], 0, Vec::new()),
        damaged,
    );
    let many = |kind| T::List(kind, MOST as u64, Vec::new());
    // Row groups, key values, orders, and a field that nobody knows.
    for (field, value) in [(4, many(12)), (5, many(12)), (7, many(12)), (9, many(8))] {
        let bytes = file(schema(), &[], 0, vec![(field, value)]);
        refused(&bytes, damaged);
    }
    refused(
        &with_footer(b"PAR1".to_vec(), &T::Struct(vec![(2, many(12))])),
        damaged,
    );
    // A list as something else, which the reader takes for one.
    let row_groups = T::Int(i64::from(u32::MAX));
    refused(&file(schema(), &[], 0, vec![(4, row_groups)]), damaged);
    // Lists of booleans have no bytes for the reader, so that a few of them never end.
    let endless = T::list(vec![many(1); 1_000]);
    refused(&file(schema(), &[], 0, vec![(9, endless)]), damaged);
}

#[test]
fn a_name_for_many_columns_is_counted_for_each() {
    let mut schema = vec![
        group("m", REQUIRED, 1),
        group(&"n".repeat(1 << 20), OPTIONAL, 8_000),
    ];
    schema.extend((0..8_000).map(|i| leaf(&i.to_string(), INT32, OPTIONAL)));
    refused(&file(schema, &[], 0, Vec::new()), "max_decoded_bytes");
}

#[test]
fn a_wide_value_of_a_dictionary_is_counted_for_each_row() {
    let wide = vec![b'x'; 10 << 20];
    let pages = vec![
        dictionary_page(&[&wide]),
        data_page(8_192, DICTIONARY, &[&[1][..], &run(8_192, &[0])].concat()),
    ];
    let bytes = one_column(leaf("c", BYTES, REQUIRED), pages, 8_192);
    refused(&bytes, "max_decoded_bytes");
}

#[test]
fn a_text_that_begins_like_the_one_before_is_counted_whole() {
    // The first text is written out, and each of the others is the same without a byte.
    let (size, count) = (1 << 20, 20_000);
    let (mut prefixes, mut suffixes) = (vec![size; count], vec![0; count]);
    (prefixes[0], suffixes[0]) = (0, size);
    let text = vec![b'x'; 1 << 20];
    let body = [deltas(&prefixes), deltas(&suffixes), text].concat();
    let pages = vec![data_page(count as i64, DELTA, &body)];
    let bytes = one_column(leaf("c", BYTES, REQUIRED), pages, count as i64);
    refused(&bytes, "max_decoded_bytes");
}

#[test]
fn a_page_has_as_many_texts_as_values() {
    for encoding in [DELTA_LENGTH, DELTA] {
        let mut body = Vec::new();
        for number in [128, 4, 1 << 50, 0, 0] {
            varint(number, &mut body);
        }
        body.extend([0; 64]);
        let pages = vec![data_page(3, encoding, &body)];
        let bytes = one_column(leaf("c", BYTES, REQUIRED), pages, 3);
        refused(&bytes, "a page is not what it says");
    }
}

#[test]
fn what_a_page_announces_is_counted() {
    let limit = "max_decoded_bytes";
    // The bytes that it becomes.
    let header = vec![
        (1, T::Int(3)),
        (2, T::Int(PLAIN)),
        (3, T::Int(RLE)),
        (4, T::Int(RLE)),
    ];
    let pages = vec![page(0, 5, MOST, header, b"xxxx"); 3];
    let column = |codec, pages| Column {
        physical: INT32,
        codec,
        pages,
    };
    let schema = || vec![group("m", REQUIRED, 1), leaf("c", INT32, REQUIRED)];
    refused(&file(schema(), &[column(1, pages)], 3, Vec::new()), limit);
    // The values of a dictionary.
    let header = vec![(1, T::Int(MOST)), (2, T::Int(PLAIN))];
    let pages = vec![page(2, 7, 4, header, b"xxxx")];
    refused(&file(schema(), &[column(0, pages)], 3, Vec::new()), limit);
    // The items of one row of a list: nulls, which are two runs of levels.
    let repeated = run((MOST as u64) - 1, &[1]);
    let repeated = [run(1, &[0]), repeated].concat();
    let levels = [plain(&repeated), plain(&run(MOST as u64, &[2]))].concat();
    let pages = vec![data_page(MOST, PLAIN, &levels)];
    let column = Column {
        physical: INT64,
        codec: 0,
        pages,
    };
    let schema = list_of(leaf("item", INT64, OPTIONAL));
    refused(&file(schema, &[column], 1, Vec::new()), limit);
    // Nulls that are as wide as values.
    let nulls = data_page(8_192, PLAIN, &plain(&run(8_192, &[0])));
    let column = Column {
        physical: FIXED,
        codec: 0,
        pages: vec![nulls],
    };
    let schema = vec![group("m", REQUIRED, 1), fixed("c", MOST)];
    refused(&file(schema, &[column], 8_192, Vec::new()), limit);
}

/// A page with a checksum of which `flipped` bits are wrong.
fn checked(kind: i64, field: i16, header: &[i64], body: &[u8], flipped: u32) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    let crc = (crc.sum() ^ flipped).cast_signed();
    let numbers = (1..).zip(header.iter().map(|n| T::Int(*n)));
    let header = T::Struct(vec![
        (1, T::Int(kind)),
        (2, T::Int(body.len() as i64)),
        (3, T::Int(body.len() as i64)),
        (4, T::Int(crc.into())),
        (field, T::Struct(numbers.collect())),
    ]);
    [header.bytes(), body.to_vec()].concat()
}

#[test]
fn a_page_has_the_bytes_of_its_checksum() {
    let text = plain(b"abc");
    let index = [&[1][..], &run(1, &[0])].concat();
    for flipped in [0, 1, 1 << 31] {
        let v1 = checked(0, 5, &[1, PLAIN, RLE, RLE], &text, flipped);
        let v2 = checked(3, 8, &[1, 0, 1, PLAIN, 0, 0], &text, flipped);
        let dictionary = checked(2, 7, &[1, PLAIN], &text, flipped);
        let indices = checked(0, 5, &[1, DICTIONARY, RLE, RLE], &index, 0);
        for pages in [vec![v1], vec![v2], vec![dictionary, indices]] {
            let bytes = one_column(leaf("c", BYTES, REQUIRED), pages, 1);
            if flipped > 0 {
                refused(&bytes, "a page is damaged (checksum)");
                continue;
            }
            let files = Files::new();
            let rows = read(&write(&files, &bytes), None).unwrap();
            assert_eq!(rows[0].column(0).as_binary::<i64>().value(0), b"abc");
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let schema = || vec![group("m", REQUIRED, 1), leaf("c", BYTES, REQUIRED)];
    for (codec, name) in [(4, "compressed with brotli"), (3, "compressed with LZO")] {
        let column = Column {
            physical: BYTES,
            codec,
            pages: vec![data_page(1, PLAIN, &plain(b"a"))],
        };
        refused(&file(schema(), &[column], 1, Vec::new()), name);
    }
    let footer = || file(schema(), &[], 0, Vec::new());
    let mut encrypted = footer();
    let magic = encrypted.len() - 4;
    encrypted[magic..].copy_from_slice(b"PARE");
    refused(
        &encrypted,
        "is encrypted, which is not supported; write it without",
    );
    // A column with a key of its own, or with the footer's, under a footer that is not encrypted.
    for key in [1, 2] {
        let crypto = T::Struct(vec![(key, T::Struct(Vec::new()))]);
        let chunk = T::Struct(vec![(2, T::Int(4)), (8, crypto)]);
        let row_group = T::Struct(vec![(1, T::list(vec![chunk]))]);
        let with_column = vec![(4, T::list(vec![row_group]))];
        refused(&file(schema(), &[], 0, with_column), "is encrypted");
    }
}

#[test]
fn pages_lie_in_their_columns() {
    let mut pages = vec![data_page(1, PLAIN, &[0; 4])];
    pages[0].pop();
    let bytes = one_column(leaf("c", INT32, REQUIRED), pages, 1);
    refused(&bytes, "a page ends behind its column");
    let twice = vec![
        dictionary_page(&[b"a"]),
        data_page(1, DICTIONARY, &[&[1][..], &run(1, &[0])].concat()),
        dictionary_page(&[&[b'x'; 1_000]]),
    ];
    let bytes = one_column(leaf("c", BYTES, REQUIRED), twice, 1);
    refused(&bytes, "a dictionary follows its values");
}

/// GZIP and LZ4 in frames are written out to their end, whatever their page says.
#[test]
fn a_page_that_becomes_longer_than_it_says_is_refused() {
    let zeros = vec![0; 64 << 20];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&zeros).unwrap();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&zeros).unwrap();
    let files = Files::new();
    for (codec, body) in [(2, gzip.finish().unwrap()), (5, lz4.finish().unwrap())] {
        let header = vec![
            (1, T::Int(1)),
            (2, T::Int(PLAIN)),
            (3, T::Int(RLE)),
            (4, T::Int(RLE)),
        ];
        let pages = vec![page(0, 5, 4, header, &body)];
        let column = Column {
            physical: INT32,
            codec,
            pages,
        };
        let schema = vec![group("m", REQUIRED, 1), leaf("c", INT32, REQUIRED)];
        let path = write(&files, &file(schema, &[column], 1, Vec::new()));
        let limits = InputLimits {
            max_decoded_bytes: 1 << 20,
            ..InputLimits::default()
        };
        let message = super::schema_within(&path, &limits)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("a page is longer than it says"),
            "{message}"
        );
    }
}

fn vectors(size: i32) -> DataType {
    DataType::FixedSizeList(
        Arc::new(Field::new_list_field(DataType::Float32, true)),
        size,
    )
}

/// A null list of a fixed size is filled with items, of which nothing stands in the file.
#[test]
fn null_lists_of_a_fixed_size_are_counted() {
    let floats = |levels: Vec<u8>, rows| Column {
        physical: 4,
        codec: 0,
        pages: vec![data_page(rows, PLAIN, &levels)],
    };
    let nulls = |rows: u64| [plain(&run(rows, &[0])), plain(&run(rows, &[0]))].concat();
    let schema = || list_of(leaf("item", 4, OPTIONAL));
    let bytes = file(
        schema(),
        &[floats(nulls(3), 3)],
        3,
        arrow("v", vectors(i32::MAX)),
    );
    refused(&bytes, "max_decoded_bytes");
    // A null of 64 megabytes is within the limit, and 8,192 of them are not read at once.
    let files = Files::new();
    let column = [floats(nulls(8_192), 8_192)];
    let bytes = file(schema(), &column, 8_192, arrow("v", vectors(1 << 24)));
    let limits = InputLimits {
        max_decoded_bytes: 65 << 20,
        ..InputLimits::default()
    };
    let path = write(&files, &bytes);
    assert!(super::schema_within(&path, &limits).is_ok());
    assert!(super::read_within(&path, None, &limits).is_err());
    // In another list: one row of a million null vectors.
    let item = Field::new_list_field(vectors(768), true);
    let mut nested = list_of(group("item", OPTIONAL, 1));
    if let T::Struct(fields) = &mut nested[3] {
        fields.push((6, T::Int(3)));
    }
    nested.extend([group("list", REPEATED, 1), leaf("item", 4, OPTIONAL)]);
    let count = 4_000_000_u64;
    let repeated = [run(1, &[0]), run(count - 1, &[1])].concat();
    let levels = [plain(&repeated), plain(&run(count, &[2]))].concat();
    let column = floats(levels, count as i64);
    let bytes = file(
        nested,
        &[column],
        1,
        arrow("v", DataType::List(Arc::new(item))),
    );
    refused(&bytes, "max_decoded_bytes");
}

/// Reads what a writer made of `rows` with its settings, in a megabyte.
fn read_as_written(rows: &RecordBatch, properties: WriterProperties) {
    let files = Files::new();
    let path = files.0.path().join("w.parquet");
    let file = fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    let limits = InputLimits {
        max_decoded_bytes: 1 << 20,
        ..InputLimits::default()
    };
    let batches = super::read_within(&path, None, &limits).unwrap();
    let read = arrow::compute::concat_batches(&rows.schema(), &batches).unwrap();
    assert_eq!(&read, rows);
}

#[test]
fn a_dictionary_that_stays_one_is_not_counted_for_each_row() {
    let words: Vec<String> = (0..10).map(|i| i.to_string().repeat(40)).collect();
    let words: DictionaryArray<Int32Type> = (0..50_000).map(|i| words[i % 10].as_str()).collect();
    let rows = batch(vec![("c", Arc::new(words))]);
    read_as_written(&rows, WriterProperties::default());
}

/// Of each text, and of nulls and empty lists between them, only what is there is counted.
#[test]
fn what_fits_is_not_refused() {
    // One wide text among narrow ones: as wide as all of them it would be two gigabytes.
    let texts = (0..5_000).map(|i| match i {
        77 => Some("x".repeat(400_000)),
        i if i % 5 == 0 => None,
        i => Some(format!("text {}", i % 50)),
    });
    let texts: StringArray = texts.collect();
    let lengths = (0..1_000).map(|i| if i % 3 == 0 { 0 } else { i % 16 });
    let offsets: OffsetBuffer<i32> = OffsetBuffer::from_lengths(lengths);
    let count = offsets[1_000] as usize;
    let nulls = NullBuffer::from_iter((0..1_000).map(|i| i % 6 != 0));
    let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let lists = ListArray::new(
        item,
        offsets.clone(),
        Arc::new(texts.slice(0, count.min(5_000))),
        Some(nulls.clone()),
    );
    // Vectors in lists, a few of them null: if all were, they would be far too many.
    let floats = Float32Array::from_iter_values((0..count * 16).map(|i| i as f32));
    let vector = Arc::new(Field::new_list_field(DataType::Float32, true));
    let some = NullBuffer::from_iter((0..count).map(|i| i % 100 != 0));
    let vectors = FixedSizeListArray::new(vector, 16, Arc::new(floats), Some(some));
    let item = Arc::new(Field::new_list_field(vectors.data_type().clone(), true));
    let vectors = ListArray::new(item, offsets, Arc::new(vectors), Some(nulls));
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for encoding in [
            None,
            Some(Encoding::DELTA_BYTE_ARRAY),
            Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
        ] {
            for column in [&texts as &dyn Array, &lists, &vectors] {
                let rows = batch(vec![("c", column.slice(0, column.len()))]);
                let is_text = column.data_type() != vectors.data_type();
                let mut properties = WriterProperties::builder()
                    .set_writer_version(version)
                    .set_dictionary_enabled(encoding.is_none())
                    .set_data_page_row_count_limit(300);
                if let Some(encoding) = encoding.filter(|_| is_text) {
                    for path in ["c", "c.list.item"] {
                        properties =
                            properties.set_column_encoding(ColumnPath::from(path), encoding);
                    }
                }
                read_as_written(&rows, properties.build());
            }
        }
    }
}
