//! The footer of a file: what it says is looked over before the reader builds it in memory.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::{
    FormatError, InputLimits,
    thrift::{
        Part,
        Shape::{self, Binary, Bool, Byte, Double, Int, List, Struct},
        Stop, walk,
    },
};
use crate::formats::source::io_error;

/// The footer's length and the magic after it.
const TAIL_BYTES: u64 = 8;

/// What a file begins and ends with.
const MAGIC: &[u8; 4] = b"PAR1";

/// Bytes of a gap that are looked through at once.
const CHUNK: usize = 1 << 16;

/// What the reader takes for an item of a list, at most: for one that is a struct, and for any other.
const STRUCT_BYTES: u64 = 512;
const ITEM_BYTES: u64 = 32;

const STATISTICS: Shape = Struct(&[
    (1, Binary),
    (2, Binary),
    (3, Int),
    (4, Int),
    (5, Binary),
    (6, Binary),
    (7, Bool),
    (8, Bool),
]);
const EMPTY: Shape = Struct(&[]);
const UNIT: Shape = Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]);
const TIME: Shape = Struct(&[(1, Bool), (2, UNIT)]);
const LOGICAL_TYPE: Shape = Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Struct(&[(1, Int), (2, Int)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Int)])),
]);
const SCHEMA_ELEMENT: Shape = Struct(&[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Binary),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, Int),
    (9, Int),
    (10, LOGICAL_TYPE),
]);
const KEY_VALUE: Shape = Struct(&[(1, Binary), (2, Binary)]);
const BOX: Shape = Struct(&[
    (1, Double),
    (2, Double),
    (3, Double),
    (4, Double),
    (5, Double),
    (6, Double),
    (7, Double),
    (8, Double),
]);
const COLUMN: Shape = Struct(&[
    (1, Int),
    (2, List(&Int)),
    (3, List(&Binary)),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, List(&KEY_VALUE)),
    (9, Int),
    (10, Int),
    (11, Int),
    (12, STATISTICS),
    (13, List(&Struct(&[(1, Int), (2, Int), (3, Int)]))),
    (14, Int),
    (15, Int),
    (16, Struct(&[(1, Int), (2, List(&Int)), (3, List(&Int))])),
    (17, Struct(&[(1, BOX), (2, List(&Int))])),
]);
const COLUMN_CHUNK: Shape = Struct(&[
    (1, Binary),
    (2, Int),
    (3, COLUMN),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
]);
const ROW_GROUP: Shape = Struct(&[
    (1, List(&COLUMN_CHUNK)),
    (2, Int),
    (3, Int),
    (4, List(&Struct(&[(1, Int), (2, Bool), (3, Bool)]))),
    (5, Int),
    (6, Int),
    (7, Int),
]);
const FOOTER: &[(i16, Shape)] = &[
    (1, Int),
    (SCHEMA, List(&SCHEMA_ELEMENT)),
    (3, Int),
    (4, List(&ROW_GROUP)),
    (5, List(&KEY_VALUE)),
    (6, Binary),
    (7, List(&Struct(&[(1, EMPTY), (2, EMPTY)]))),
];

/// With what a column is encrypted; the footer may be signed only.
const ENCRYPTED_COLUMN: [i16; 3] = [4, 1, 8];

/// The flattened tree of columns, and of each its name and its number of children.
const SCHEMA: i16 = 2;
const NAME: i16 = 4;
const CHILDREN: i16 = 5;

/// Refuses two files behind one another (`cat a.parquet b.parquet`): the last footer would be taken for the first one's
/// bytes, whose pages it fits, and the rows of the others would be lost. Nothing stands between what a file refers to and
/// its footer, which begins at `end`, or padding.
pub(super) fn check_one_file(
    path: &Path,
    file: &File,
    end: u64,
    metadata: &ParquetMetaData,
) -> Result<(), FormatError> {
    let part = |offset: Option<i64>, length: Option<i32>| {
        let offset = u64::try_from(offset?).ok()?;
        Some(offset.saturating_add(u64::try_from(length.unwrap_or(0)).ok()?))
    };
    let chunks = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns());
    let ends = chunks.flat_map(|chunk| {
        let (start, bytes) = chunk.byte_range();
        [
            Some(start.saturating_add(bytes)),
            part(chunk.column_index_offset(), chunk.column_index_length()),
            part(chunk.offset_index_offset(), chunk.offset_index_length()),
            part(chunk.bloom_filter_offset(), chunk.bloom_filter_length()),
        ]
    });
    let mut at = ends.flatten().max().unwrap_or(MAGIC.len() as u64);
    let mut chunk = vec![0; CHUNK];
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        file.read_exact_at(&mut chunk[..most], at)
            .map_err(io_error(path))?;
        if chunk[..most].windows(MAGIC.len()).any(|four| four == MAGIC) {
            let detail = "holds more than one Parquet file, and only the rows of one would be read; give each as a file of its own";
            return Err(FormatError::content(path, &detail));
        }
        if at + most as u64 == end {
            break;
        }
        // What is cut by the end of a chunk is seen with the next one.
        at += (most - (MAGIC.len() - 1)) as u64;
    }
    Ok(())
}

/// Reads the metadata of a file of `length` bytes, and where its footer begins.
pub(super) fn read(
    path: &Path,
    file: &File,
    length: u64,
    limits: &InputLimits,
) -> Result<(ParquetMetaData, u64), FormatError> {
    let cut_off = || FormatError::content(path, &"is cut off or damaged: its footer is not there");
    let bytes_at = |start: Option<u64>, end: u64| {
        let start = start.ok_or_else(cut_off)?;
        let size = usize::try_from(end - start).map_err(|_| cut_off())?;
        let mut bytes = vec![0; size];
        let read = file.read_exact_at(&mut bytes, start);
        read.map_err(io_error(path)).map(|()| bytes)
    };
    let end = length.checked_sub(TAIL_BYTES);
    let tail = bytes_at(end, length)?;
    let (size, magic) = tail.split_at(4);
    let size = size.try_into().map(u32::from_le_bytes).map(u64::from);
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err(encrypted(path)),
        _ => return Err(cut_off()),
    }
    let end = end.unwrap_or(0);
    let start = end.checked_sub(size.unwrap_or(u64::MAX));
    let footer = bytes_at(start, end)?;
    check(&footer, limits).map_err(|refused| match refused {
        Stop::Visitor(Refused::Limit(exceeded)) => FormatError::limit(path)(exceeded),
        Stop::Visitor(Refused::Encrypted) => encrypted(path),
        _ => FormatError::content(
            path,
            &"is damaged: its footer announces what it does not have",
        ),
    })?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer)
        .map_err(|e| FormatError::content(path, &e))?;
    Ok((metadata, start.unwrap_or(0)))
}

fn encrypted(path: &Path) -> FormatError {
    FormatError::unsupported(
        path,
        "is encrypted, which is not supported; write it without encryption",
    )
}

#[derive(Debug)]
enum Refused {
    Encrypted,
    Limit(crate::formats::limits::Exceeded),
    Damaged,
}

fn check(footer: &[u8], limits: &InputLimits) -> Result<(), Stop<Refused>> {
    let mut tree = Tree::default();
    let mut memory = 0_u64;
    let mut visit = |path: &[i16], part: Part| {
        if path.starts_with(&ENCRYPTED_COLUMN) {
            return Err(Refused::Encrypted);
        }
        memory = memory.saturating_add(match part {
            Part::List(items) if is_of_structs(path) => items as u64 * STRUCT_BYTES,
            Part::List(items) => items as u64 * ITEM_BYTES,
            Part::Binary(bytes) => bytes as u64,
            Part::Int(_) | Part::End => 0,
        });
        memory = memory.saturating_add(match path {
            [SCHEMA, rest @ ..] => tree.visit(rest, part, limits)?,
            _ => 0,
        });
        limits.decoded_bytes(memory).map_err(Refused::Limit)
    };
    walk(footer, FOOTER, &mut visit).map(drop)
}

/// Whether the list at `path` is one of numbers or texts.
fn is_of_structs(path: &[i16]) -> bool {
    !matches!(path, [4, 1, 3, 2 | 3] | [4, 1, 3, 16 | 17, _])
}

/// The schema, as far as it is walked: one node after the other, each followed by its children.
#[derive(Debug, Default)]
struct Tree {
    /// Nodes in all.
    nodes: i64,
    /// Of each node that still waits for children, from the root: how many, and the bytes of the names that lead to it.
    open: Vec<(i64, u64)>,
    /// Of the node in hand.
    name: u64,
    children: i64,
}

impl Tree {
    /// The memory that a node takes with the path that leads to it: each column is given the whole of it.
    fn visit(&mut self, path: &[i16], part: Part, limits: &InputLimits) -> Result<u64, Refused> {
        match (path, part) {
            ([], Part::List(nodes)) => {
                *self = Self {
                    nodes: i64::try_from(nodes).map_err(|_| Refused::Damaged)?,
                    ..Self::default()
                };
            }
            ([NAME], Part::Binary(bytes)) => self.name = bytes as u64,
            ([CHILDREN], Part::Int(children)) => self.children = children,
            ([], Part::End) => return self.node(limits),
            _ => {}
        }
        Ok(0)
    }

    fn node(&mut self, limits: &InputLimits) -> Result<u64, Refused> {
        let (children, name) = (self.children, self.name);
        (self.children, self.name) = (0, 0);
        if !(0..self.nodes).contains(&children) {
            return Err(Refused::Damaged);
        }
        let outer = self.open.last().map_or(0, |(_, names)| *names);
        let names = outer + name + ITEM_BYTES;
        if let Some((left, _)) = self.open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            self.open.push((children, names));
        }
        // A list is two nodes within each other, and the root is one.
        limits
            .nesting(self.open.len().saturating_sub(1) / 2)
            .map_err(Refused::Limit)?;
        while matches!(self.open.last(), Some((0, _))) {
            self.open.pop();
        }
        Ok(names)
    }
}
