//! Parquet files as no writer writes them: schema, pages and footer by hand.

use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::encode_arrow_schema;

use super::thrift::{Thrift as T, varint, zigzag};

/// What Parquet calls types, repetitions and encodings.
pub(super) const INT32: i64 = 1;
pub(super) const INT64: i64 = 2;
pub(super) const BYTES: i64 = 6;
pub(super) const FIXED: i64 = 7;
pub(super) const REQUIRED: i64 = 0;
pub(super) const OPTIONAL: i64 = 1;
pub(super) const REPEATED: i64 = 2;
pub(super) const PLAIN: i64 = 0;
pub(super) const RLE: i64 = 3;
pub(super) const DELTA_LENGTH: i64 = 6;
pub(super) const DELTA: i64 = 7;
pub(super) const DICTIONARY: i64 = 8;

pub(super) const MOST: i64 = i32::MAX as i64;

pub(super) fn leaf(name: &str, physical: i64, repetition: i64) -> T {
    T::Struct(vec![
        (1, T::Int(physical)),
        (3, T::Int(repetition)),
        (4, T::text(name)),
    ])
}

pub(super) fn fixed(name: &str, width: i64) -> T {
    T::Struct(vec![
        (1, T::Int(FIXED)),
        (2, T::Int(width)),
        (3, T::Int(OPTIONAL)),
        (4, T::text(name)),
    ])
}

pub(super) fn group(name: &str, repetition: i64, children: i64) -> T {
    T::Struct(vec![
        (3, T::Int(repetition)),
        (4, T::text(name)),
        (5, T::Int(children)),
    ])
}

/// `optional list v of optional items`.
pub(super) fn list_of(item: T) -> Vec<T> {
    let mut list = group("v", OPTIONAL, 1);
    if let T::Struct(fields) = &mut list {
        fields.push((6, T::Int(3)));
    }
    vec![
        group("m", REQUIRED, 1),
        list,
        group("list", REPEATED, 1),
        item,
    ]
}

pub(super) fn page(
    kind: i64,
    field: i16,
    uncompressed: i64,
    header: Vec<(i16, T)>,
    body: &[u8],
) -> Vec<u8> {
    let header = T::Struct(vec![
        (1, T::Int(kind)),
        (2, T::Int(uncompressed)),
        (3, T::Int(body.len() as i64)),
        (field, T::Struct(header)),
    ]);
    [header.bytes(), body.to_vec()].concat()
}

pub(super) fn data_page(values: i64, encoding: i64, body: &[u8]) -> Vec<u8> {
    let header = vec![
        (1, T::Int(values)),
        (2, T::Int(encoding)),
        (3, T::Int(RLE)),
        (4, T::Int(RLE)),
    ];
    page(0, 5, body.len() as i64, header, body)
}

pub(super) fn dictionary_page(values: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = values.iter().flat_map(|v| plain(v)).collect();
    let header = vec![(1, T::Int(values.len() as i64)), (2, T::Int(PLAIN))];
    page(2, 7, body.len() as i64, header, &body)
}

pub(super) fn plain(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_le_bytes()[..], text].concat()
}

/// A run of the same value.
pub(super) fn run(times: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(times << 1, &mut bytes);
    bytes.extend(value);
    bytes
}

/// Numbers as `DELTA_BINARY_PACKED` has them: blocks of 128, in parts of 32, of differences of 0 or 32 bits.
pub(super) fn deltas(values: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [128, 4, values.len() as u64] {
        varint(number, &mut bytes);
    }
    varint(zigzag(values[0]), &mut bytes);
    let differences: Vec<i64> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for block in differences.chunks(128) {
        let least = block.iter().min().copied().unwrap_or(0);
        varint(zigzag(least), &mut bytes);
        let is_even = |part: &[i64]| part.iter().all(|d| *d == least);
        let widths: Vec<u8> = block
            .chunks(32)
            .map(|p| if is_even(p) { 0 } else { 32 })
            .collect();
        bytes.extend(widths.iter().chain([0; 4].iter()).take(4));
        for part in block.chunks(32).filter(|part| !is_even(part)) {
            let mut part: Vec<i64> = part.iter().map(|d| d - least).collect();
            part.resize(32, 0);
            bytes.extend(
                part.iter()
                    .flat_map(|d| u32::try_from(*d).unwrap().to_le_bytes()),
            );
        }
    }
    bytes
}

/// A column chunk of a type and a compression.
pub(super) struct Column {
    pub(super) physical: i64,
    pub(super) codec: i64,
    pub(super) pages: Vec<Vec<u8>>,
}

/// A file of one row group.
pub(super) fn file(
    schema: Vec<T>,
    columns: &[Column],
    rows: i64,
    metadata: Vec<(i16, T)>,
) -> Vec<u8> {
    let mut bytes = b"PAR1".to_vec();
    let chunks = columns.iter().map(|column| {
        let start = bytes.len() as i64;
        column.pages.iter().for_each(|page| bytes.extend(page));
        let size = T::Int(bytes.len() as i64 - start);
        let column = T::Struct(vec![
            (1, T::Int(column.physical)),
            (2, T::list(vec![T::Int(PLAIN)])),
            (3, T::list(vec![T::text("c")])),
            (4, T::Int(column.codec)),
            (5, T::Int(rows)),
            (6, size.clone()),
            (7, size),
            (9, T::Int(start)),
        ]);
        T::Struct(vec![(2, T::Int(start)), (3, column)])
    });
    let chunks = T::list(chunks.collect());
    let group = T::Struct(vec![(1, chunks), (2, T::Int(1)), (3, T::Int(rows))]);
    let mut footer = vec![
        (1, T::Int(1)),
        (2, T::list(schema)),
        (3, T::Int(rows)),
        (4, T::list(vec![group])),
    ];
    footer.extend(metadata);
    with_footer(bytes, &T::Struct(footer))
}

pub(super) fn with_footer(mut bytes: Vec<u8>, footer: &T) -> Vec<u8> {
    let footer = footer.bytes();
    bytes.extend(&footer);
    bytes.extend(u32::try_from(footer.len()).unwrap().to_le_bytes());
    bytes.extend(b"PAR1");
    bytes
}

/// The type of a column in Arrow, as writers add it.
pub(super) fn arrow(name: &str, data_type: DataType) -> Vec<(i16, T)> {
    let schema = Schema::new(vec![Field::new(name, data_type, true)]);
    let pair = vec![
        (1, T::text("ARROW:schema")),
        (2, T::text(&encode_arrow_schema(&schema))),
    ];
    vec![(5, T::list(vec![T::Struct(pair)]))]
}

/// A file of one column, whose texts may be longer than 2 gigabytes in all.
pub(super) fn one_column(schema: T, pages: Vec<Vec<u8>>, rows: i64) -> Vec<u8> {
    let T::Struct(fields) = &schema else {
        unreachable!()
    };
    let (1, T::Int(physical)) = fields[0] else {
        unreachable!()
    };
    let column = Column {
        physical,
        codec: 0,
        pages,
    };
    file(
        vec![group("m", REQUIRED, 1), schema],
        &[column],
        rows,
        arrow("c", DataType::LargeBinary),
    )
}
