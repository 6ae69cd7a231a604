//! What the pages of a file stand for, counted before the reader writes it out.
//!
//! 1. The headers of all pages are walked. The reader allocates by the sizes and the numbers of values in them; what the footer
//!    says of the same is not looked at again. Where a header has a checksum, the bytes of its page have to have it.
//! 2. A dictionary's value may stand as often as there are rows, in a few bytes. Its widest value is taken for all, and only where
//!    that is too much are the indices counted. Texts that begin like the one before are always counted, and so are null lists of
//!    a fixed size where they stand in other lists: the reader fills them with items.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use arrow::datatypes::{DataType, Field};
use flate2::{CrcReader, read::MultiGzDecoder};
use lz4_flex::frame::FrameDecoder;
use parquet::{
    basic::{Compression, Encoding, Type},
    column::page::Page,
    file::{metadata::ColumnChunkMetaData, serialized_reader::SerializedPageReader},
    schema::types::ColumnDescriptor,
};

use super::{
    FormatError, Input,
    encoded::{Malformed, delta_count, delta_sum, runs},
    thrift::{
        Part,
        Shape::{self, Binary, Bool, Int, Struct},
        Stop, walk,
    },
};
use crate::formats::{conform::slot_bytes, limits::is_longer, source::io_error};

/// Bytes of a page's header that are read at first; statistics can make it longer.
const HEADER_BYTES: u64 = 256;

/// Memory that a page takes at least, so that a chunk of empty ones is no endless one.
const PAGE_BYTES: u64 = 512;

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
const HEADER: &[(i16, Shape)] = &[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Int),
    (
        DATA,
        Struct(&[(1, Int), (2, Int), (3, Int), (4, Int), (5, STATISTICS)]),
    ),
    (6, Struct(&[])),
    (DICTIONARY, Struct(&[(1, Int), (2, Int), (3, Bool)])),
    (
        DATA_V2,
        Struct(&[
            (1, Int),
            (2, Int),
            (3, Int),
            (4, Int),
            (5, Int),
            (6, Int),
            (7, Bool),
            (8, STATISTICS),
        ]),
    ),
];

/// Fields of a header that say what kind of page it is.
const DATA: i16 = 5;
const DICTIONARY: i16 = 7;
const DATA_V2: i16 = 8;

/// A page as its header has it. The numbers are at least 0.
#[derive(Debug, Default)]
struct Header {
    /// Bytes of the header.
    length: u64,
    /// 0, 1, 2 and 3 are a data page, an index, a dictionary and a data page of version 2.
    kind: i64,
    uncompressed: u64,
    compressed: u64,
    values: u64,
    /// Of its values, if it is a data page of version 1 and of version 2.
    encodings: [i64; 2],
    /// Bytes in front of what is compressed.
    levels: u64,
    /// CRC-32 of the bytes behind the header.
    crc: Option<u32>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, Stop<()>> {
        let mut header = Self::default();
        let length = walk(bytes, HEADER, &mut |path, part| {
            let Part::Int(value) = part else {
                return Ok(());
            };
            // The reader cuts what does not fit.
            let number = i32::try_from(value).map_err(drop)?;
            let size = || u64::try_from(number).map_err(drop);
            match path {
                [1] => header.kind = value,
                [2] => header.uncompressed = size()?,
                [3] => header.compressed = size()?,
                [4] => header.crc = Some(number.cast_unsigned()),
                [DATA | DICTIONARY | DATA_V2, 1] => header.values = header.values.max(size()?),
                [DATA, 2] => header.encodings[0] = value,
                [DATA_V2, 4] => header.encodings[1] = value,
                [DATA_V2, 5 | 6] => header.levels += size()?,
                _ => {}
            }
            Ok(())
        })?;
        header.length = length as u64;
        Ok(header)
    }
}

/// A column chunk whose pages have to be looked into.
struct Chunk<'a> {
    metadata: &'a ColumnChunkMetaData,
    /// Values that are indices of it.
    indexed: u64,
    /// Some texts, or fixed bytes, begin like the one before.
    deltas: bool,
    /// All values, and the bytes of a null list of a fixed size among them.
    values: u64,
    slot: u64,
    /// The column has its dictionary in Arrow, too.
    is_dictionary: bool,
}

/// Refuses a file whose values take more memory than the limits allow, or whose pages are not what they say.
pub(super) fn check(input: &Input<'_>) -> Result<(), FormatError> {
    let leaves = leaves(input.metadata.schema().fields());
    let mut memory = 0_u64;
    let mut chunks = Vec::new();
    for group in input.metadata.metadata().row_groups() {
        for (leaf, metadata) in group.columns().iter().enumerate() {
            let leaf = leaves.get(leaf).copied().unwrap_or_default();
            let chunk = input.chunk(metadata, leaf, &mut memory)?;
            chunks.extend(chunk.filter(|c| c.indexed > 0 || c.deltas || c.slot > 0));
        }
    }
    let within = |bytes| input.limits.decoded_bytes(bytes);
    for exactly in [false, true] {
        let mut texts = chunks.iter().map(|chunk| input.inside(chunk, exactly));
        let texts = texts.try_fold(0_u64, |sum, bytes| bytes.map(|b| sum.saturating_add(b)));
        match within(memory.saturating_add(texts?)) {
            Err(exceeded) if exactly => return Err(FormatError::limit(input.path)(exceeded)),
            Err(_) => {}
            Ok(()) => break,
        }
    }
    Ok(())
}

/// For each leaf, the bytes of the list of a fixed size that it stands in, if that stands in another list; and whether it is a
/// dictionary.
fn leaves<'f>(fields: impl IntoIterator<Item = &'f Arc<Field>>) -> Vec<(u64, bool)> {
    fn add(data_type: &DataType, in_list: bool, slot: u64, leaves: &mut Vec<(u64, bool)>) {
        match data_type {
            DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
                add(item.data_type(), true, slot, leaves);
            }
            DataType::FixedSizeList(item, _) => {
                let own = if in_list { slot_bytes(data_type) } else { 0 };
                add(item.data_type(), in_list, slot.max(own), leaves);
            }
            DataType::Struct(fields) => {
                let inner = fields.iter().map(|field| field.data_type());
                inner.for_each(|inner| add(inner, in_list, slot, leaves));
            }
            single => leaves.push((slot, matches!(single, DataType::Dictionary(..)))),
        }
    }
    let mut leaves = Vec::new();
    let types = fields.into_iter().map(|field| field.data_type());
    types.for_each(|data_type| add(data_type, false, 0, &mut leaves));
    leaves
}

/// Bytes of a value of a column, less those that a text has of its own.
fn width(column: &ColumnDescriptor) -> u64 {
    let width = match column.physical_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => u64::try_from(column.type_length()).unwrap_or(0),
    };
    // One row of lists can have all values, and each value its levels.
    match column.max_rep_level() {
        0 => width,
        _ => width.max(4),
    }
}

impl<'a> Input<'a> {
    fn damaged(&self, what: &str) -> FormatError {
        FormatError::content(self.path, &format!("is damaged: {what}"))
    }

    /// Walks the headers of a column chunk, and adds the memory that its pages take.
    fn chunk<'m>(
        &self,
        metadata: &'m ColumnChunkMetaData,
        (slot, is_dictionary): (u64, bool),
        memory: &mut u64,
    ) -> Result<Option<Chunk<'m>>, FormatError> {
        let (start, length) = metadata.byte_range();
        let end = start.checked_add(length);
        let end = end.filter(|end| *end <= self.length);
        let end = end.ok_or_else(|| self.damaged("a column ends behind the file"))?;
        let width = width(metadata.column_descr());
        let (mut chunk, mut at, mut first) = (None, start, true);
        while at < end {
            let page = self.header(at, end)?;
            let body = at + page.length;
            at = body + page.compressed;
            if at > end {
                return Err(self.damaged("a page ends behind its column"));
            }
            let decoded = page.values.saturating_mul(width).max(page.uncompressed);
            *memory = memory.saturating_add(decoded).saturating_add(PAGE_BYTES);
            let within = self.limits.decoded_bytes(*memory);
            within.map_err(FormatError::limit(self.path))?;
            self.check_crc(&page, body)?;
            self.check_inflated(metadata.compression(), &page, body)?;
            let chunk = chunk.get_or_insert(Chunk {
                metadata,
                indexed: 0,
                deltas: false,
                values: 0,
                slot,
                is_dictionary: is_dictionary && metadata.column_descr().max_rep_level() == 0,
            });
            let is_text = metadata.column_type() == Type::BYTE_ARRAY;
            match (page.kind, page.encodings) {
                (2, _) if !first => return Err(self.damaged("a dictionary follows its values")),
                // Both names of a dictionary's indices.
                (0, [2 | 8, _]) | (3, [_, 2 | 8]) if is_text => chunk.indexed += page.values,
                // DELTA_LENGTH_BYTE_ARRAY and DELTA_BYTE_ARRAY.
                (0, [6 | 7, _]) | (3, [_, 6 | 7]) => chunk.deltas = true,
                _ => {}
            }
            chunk.values += page.values;
            first &= page.kind == 1;
        }
        Ok(chunk)
    }

    fn header(&self, at: u64, end: u64) -> Result<Header, FormatError> {
        let mut size = HEADER_BYTES;
        loop {
            size = size.min(end - at);
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
            let read = self.file.read_exact_at(&mut bytes, at);
            read.map_err(io_error(self.path))?;
            match Header::parse(&bytes) {
                Ok(header) => return Ok(header),
                Err(Stop::CutOff) if size < end - at => size *= 16,
                Err(_) => return Err(self.damaged("the header of a page makes no sense")),
            }
        }
    }

    /// Refuses a page whose bytes are no longer those that were written, where the writer left a checksum.
    fn check_crc(&self, page: &Header, at: u64) -> Result<(), FormatError> {
        let Some(written) = page.crc else {
            return Ok(());
        };
        let mut bytes = CrcReader::new(self.part(at, page.compressed));
        io::copy(&mut bytes, &mut io::sink()).map_err(io_error(self.path))?;
        match bytes.crc().sum() == written {
            true => Ok(()),
            false => Err(FormatError::content(
                self.path,
                &"a page is damaged (checksum)",
            )),
        }
    }

    fn part(&self, at: u64, left: u64) -> PartOf<'_> {
        let file = &self.file;
        PartOf { file, at, left }
    }

    /// Refuses a page that becomes longer than it says. The reader has a limit for the other compressions.
    fn check_inflated(
        &self,
        compression: Compression,
        page: &Header,
        at: u64,
    ) -> Result<(), FormatError> {
        if !self.limits.may_inflate_beyond(page.compressed) {
            return Ok(());
        }
        let levels = page.levels.min(page.compressed);
        let bytes = self.part(at + levels, page.compressed - levels);
        let said = page.uncompressed.saturating_sub(levels);
        let longer = match compression {
            Compression::GZIP(_) => is_longer(MultiGzDecoder::new(bytes), said),
            Compression::LZ4 => is_longer(FrameDecoder::new(bytes), said),
            _ => false,
        };
        match longer {
            true => Err(self.damaged("a page is longer than it says")),
            false => Ok(()),
        }
    }

    /// The bytes that the values of a chunk have beyond those of [`width`]: at most, or `exactly`.
    fn inside(&self, chunk: &Chunk<'_>, exactly: bool) -> Result<u64, FormatError> {
        let quickly = !exactly && !chunk.deltas;
        let empty = chunk.values.saturating_mul(chunk.slot);
        if quickly && chunk.indexed == 0 {
            return Ok(empty);
        }
        let failed = |e| FormatError::content(self.path, &e);
        let file = self.file.try_clone().map_err(io_error(self.path))?;
        let pages = SerializedPageReader::new(Arc::new(file), chunk.metadata, 0, None);
        let (mut bytes, mut widths) = (0_u64, Vec::new());
        for page in pages.map_err(failed)? {
            match page.map_err(failed)? {
                Page::DictionaryPage {
                    buf, num_values, ..
                } if chunk.indexed > 0 => {
                    widths = lengths(&buf, num_values);
                    let widest = widths.iter().copied().max().unwrap_or(0);
                    // A dictionary stays one, unless texts that are not of it follow in the same batch.
                    let batch = self.batch_rows as u64;
                    let most = if chunk.is_dictionary { batch } else { u64::MAX };
                    let texts = chunk.indexed.min(most).saturating_mul(widest.into());
                    if quickly || (chunk.is_dictionary && !chunk.deltas) {
                        return Ok(texts.saturating_add(empty));
                    }
                }
                Page::DictionaryPage { .. } => {}
                page => {
                    let added = expanded(&page, chunk, &widths);
                    let damaged = |Malformed| self.damaged("a page is not what it says");
                    bytes = bytes.saturating_add(added.map_err(damaged)?);
                }
            }
        }
        Ok(bytes)
    }
}

/// The lengths of the texts of a dictionary, each in front of its text.
fn lengths(mut bytes: &[u8], count: u32) -> Vec<u32> {
    let mut lengths = Vec::new();
    while let (true, Some((length, rest))) = (
        lengths.len() < count as usize,
        bytes.split_first_chunk::<4>(),
    ) {
        let length = u32::from_le_bytes(*length);
        lengths.push(length);
        bytes = rest.get(length as usize..).unwrap_or_default();
    }
    lengths
}

/// The bytes of a data page's texts that are not in the page, and of its null lists.
fn expanded(page: &Page, chunk: &Chunk<'_>, widths: &[u32]) -> Result<u64, Malformed> {
    let column = chunk.metadata.column_descr();
    let (levels, values) = parts(page, column)?;
    let count = u64::from(page.num_values());
    let mut bytes = 0_u64;
    if chunk.slot > 0 {
        let full = u64::try_from(column.max_def_level()).unwrap_or(0);
        let mut empty = if levels.is_none() { count } else { 0 };
        let levels = levels.unwrap_or_default();
        let width = level_bits(column.max_def_level());
        runs(levels, width, count, |level, times| {
            empty += if level < full { times } else { 0 };
        })?;
        bytes = empty.saturating_mul(chunk.slot);
    }
    let added = match (page.encoding(), values) {
        (Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY, [width, values @ ..])
            if chunk.indexed > 0 =>
        {
            let mut sum = 0_u64;
            runs(values, *width, count, |index, times| {
                let width = usize::try_from(index).ok().and_then(|i| widths.get(i));
                let width = width.copied().unwrap_or(0);
                sum = sum.saturating_add(times.saturating_mul(width.into()));
            })?;
            sum
        }
        (Encoding::DELTA_LENGTH_BYTE_ARRAY, values) if delta_count(values)? > count => {
            return Err(Malformed);
        }
        (Encoding::DELTA_BYTE_ARRAY, values) => {
            let (sum, suffixes) = delta_sum(values, count)?;
            if delta_count(suffixes)? > count {
                return Err(Malformed);
            }
            // The width of fixed bytes is counted.
            let is_text = column.physical_type() == Type::BYTE_ARRAY;
            if is_text { sum } else { 0 }
        }
        _ => 0,
    };
    Ok(bytes.saturating_add(added))
}

/// The definition levels of a data page, unless they are packed as before version 2, and its values.
fn parts<'p>(
    page: &'p Page,
    column: &ColumnDescriptor,
) -> Result<(Option<&'p [u8]>, &'p [u8]), Malformed> {
    let (repetition, definition) = (column.max_rep_level(), column.max_def_level());
    match page {
        Page::DataPage {
            buf,
            num_values,
            rep_level_encoding,
            def_level_encoding,
            ..
        } => {
            let (_, rest) = levels(buf, *num_values, repetition, *rep_level_encoding)?;
            levels(rest, *num_values, definition, *def_level_encoding)
        }
        Page::DataPageV2 {
            buf,
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => {
            let rest = buf.get(*rep_levels_byte_len as usize..).ok_or(Malformed)?;
            let split = rest.split_at_checked(*def_levels_byte_len as usize);
            split.map(|(l, v)| (Some(l), v)).ok_or(Malformed)
        }
        Page::DictionaryPage { .. } => Err(Malformed),
    }
}

/// The levels at the front of a page of version 1, and what follows them.
fn levels(
    bytes: &[u8],
    count: u32,
    most: i16,
    encoding: Encoding,
) -> Result<(Option<&[u8]>, &[u8]), Malformed> {
    if most == 0 {
        return Ok((Some(&[]), bytes));
    }
    if encoding == Encoding::RLE {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
        let split = rest.split_at_checked(u32::from_le_bytes(*length) as usize);
        return split.map(|(l, rest)| (Some(l), rest)).ok_or(Malformed);
    }
    let bits = u64::from(count) * u64::from(level_bits(most));
    let size = usize::try_from(bits.div_ceil(8)).map_err(|_| Malformed)?;
    let rest = bytes.get(size..).ok_or(Malformed)?;
    Ok((None, rest))
}

/// Bits of a level.
fn level_bits(most: i16) -> u8 {
    let bits = i16::BITS - most.leading_zeros();
    u8::try_from(bits).unwrap_or(u8::MAX)
}

/// A part of a file, without a cursor that others move.
struct PartOf<'f> {
    file: &'f File,
    at: u64,
    left: u64,
}

impl Read for PartOf<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
