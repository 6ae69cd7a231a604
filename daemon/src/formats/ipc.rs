//! Arrow IPC, file and stream.
//!
//! Arrow trusts what a message announces: it allocates lengths, skips to offsets, decompresses to sizes. An allocation that fails ends
//! the process, which no boundary catches. So every message is checked against the bytes that are there before Arrow sees it.

use std::{path::Path, sync::Arc};

use arrow::{
    array::RecordBatch,
    buffer::Buffer,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::{
        Block, CompressionType, MessageHeader, MetadataVersion, RecordBatch as BatchMessage,
        Schema as SchemaMessage,
        convert::fb_to_schema,
        reader::{FileDecoder, StreamDecoder, read_footer_length},
        root_as_footer, root_as_message,
    },
};

use lz4_flex::frame::FrameDecoder;

use super::{
    Format, FormatError, InputLimits, Sink, check_schema, conform::decoded_bytes,
    limits::is_longer, source::Source,
};

/// In front of a message's length, since format version 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// What the file format begins with.
const FILE_MAGIC: &[u8] = b"ARROW1";

/// Messages begin at multiples of it.
const LEAST_ALIGNMENT: usize = 8;

/// A message of no length ends a stream.
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The footer's length and the magic after it.
const FOOTER_TAIL: usize = 10;

/// What an array takes at least, if it has no rows: an empty batch can stand in a file again and again.
const ARRAY_BYTES: u64 = 256;

/// How often all bytes that may be decoded may be copied: a dictionary that grows is copied with each part that is added to it.
const MOST_COPIES: u64 = 16;

const CUT_OFF: &str = "is cut off or damaged: it announces more bytes than it has";

/// Reads the whole file, whose bytes are held. Gives its schema.
pub(super) fn read(
    mut source: Source<'_>,
    limits: &InputLimits,
    sink: &mut Sink<'_>,
) -> Result<SchemaRef, FormatError> {
    let path = source.path;
    let (bytes, format) = load(&mut source)?;
    let mut reader = Reader {
        path,
        limits,
        announced: 0,
        dictionaries: 0,
        copied: 0,
        rows: 0,
        decoded: 0,
        sink,
    };
    match format {
        Format::ArrowFile => reader.file(&bytes),
        _ => reader.stream(bytes),
    }
}

/// Reads only the schema.
pub(super) fn schema_of(
    mut source: Source<'_>,
    limits: &InputLimits,
) -> Result<SchemaRef, FormatError> {
    let path = source.path;
    let (bytes, format) = load(&mut source)?;
    let schema = match format {
        Format::ArrowFile => footer(path, &bytes)?.0,
        _ => stream_schema(path, &bytes)?,
    };
    check_schema(path, &schema, limits)?;
    Ok(schema)
}

/// The bytes, and which of the two formats they begin as: both have names that are often mixed up.
fn load(source: &mut Source<'_>) -> Result<(Buffer, Format), FormatError> {
    let bytes = source.read_all()?;
    let found = if bytes.starts_with(FILE_MAGIC) {
        Format::ArrowFile
    } else if source.format == Format::ArrowFile && !bytes.starts_with(&CONTINUATION) {
        let detail = "begins neither as an Arrow file nor as a stream of Arrow messages";
        return Err(FormatError::content(source.path, &detail));
    } else {
        Format::ArrowStream
    };
    Ok((Buffer::from_vec(bytes), found))
}

/// Refuses a stream that begins with `head`, its first message, if its values are not as they are read here.
pub(crate) fn check_stream(head: &[u8]) -> Result<(), FormatError> {
    stream_schema(Path::new("standard input"), head).map(drop)
}

/// The schema of a stream, its first message.
fn stream_schema(path: &Path, bytes: &[u8]) -> Result<SchemaRef, FormatError> {
    let (message, _) = message_at(path, bytes, 0)?.ok_or_else(|| cut_off(path))?;
    let message = root_as_message(message.0).map_err(|e| FormatError::content(path, &e))?;
    let schema = message.header_as_schema();
    schema_from(path, schema.ok_or_else(|| cut_off(path))?)
}

fn schema_from(path: &Path, schema: SchemaMessage<'_>) -> Result<SchemaRef, FormatError> {
    if schema.endianness().equals_to_target_endianness() {
        return Ok(Arc::new(fb_to_schema(schema)));
    }
    let detail = "was written with another byte order than this machine's";
    Err(FormatError::content(path, &detail))
}

/// The mark that ends a stream, or none, and zeros.
fn is_padding(rest: &[u8]) -> bool {
    let rest = rest.strip_prefix(&CONTINUATION).unwrap_or(rest);
    rest.iter().all(|byte| *byte == 0)
}

/// Refuses what stands behind the mark that ends a stream, unless it is padding: another stream would be lost.
fn check_end(path: &Path, rest: &[u8]) -> Result<(), FormatError> {
    if is_padding(rest) {
        return Ok(());
    }
    let detail = "goes on behind the end of its stream of Arrow messages; give each stream as a file of its own";
    Err(FormatError::content(path, &detail))
}

fn cut_off(path: &Path) -> FormatError {
    FormatError::content(path, &CUT_OFF)
}

/// Metadata and body of the message at `at`, and where the next one begins; `None` at the end of a stream.
type Message<'b> = (&'b [u8], &'b [u8]);

fn message_at<'b>(
    path: &Path,
    bytes: &'b [u8],
    at: usize,
) -> Result<Option<(Message<'b>, usize)>, FormatError> {
    let word = |at: usize| {
        let word = at.checked_add(4).and_then(|end| bytes.get(at..end));
        word.and_then(|word| <[u8; 4]>::try_from(word).ok())
    };
    if at == bytes.len() {
        return Ok(None);
    }
    let mut start = at + 4;
    let mut length = word(at).ok_or_else(|| cut_off(path))?;
    if length == CONTINUATION {
        length = word(start).ok_or_else(|| cut_off(path))?;
        start += 4;
    }
    let length = usize::try_from(i32::from_le_bytes(length)).map_err(|_| cut_off(path))?;
    if length == 0 {
        return Ok(None);
    }
    let part = |start: usize, length: usize| {
        let end = start.checked_add(length)?;
        bytes.get(start..end).map(|part| (part, end))
    };
    let (metadata, start) = part(start, length).ok_or_else(|| cut_off(path))?;
    let message = root_as_message(metadata).map_err(|e| FormatError::content(path, &e))?;
    let length = usize::try_from(message.bodyLength()).map_err(|_| cut_off(path))?;
    let (body, end) = part(start, length).ok_or_else(|| cut_off(path))?;
    Ok(Some(((metadata, body), end)))
}

fn footer(path: &Path, bytes: &[u8]) -> Result<(SchemaRef, Vec<Block>, Vec<Block>), FormatError> {
    let content = |e: ArrowError| FormatError::content(path, &e);
    let tail = bytes.len().checked_sub(FOOTER_TAIL);
    let tail = tail.ok_or_else(|| cut_off(path))?;
    let length = <[u8; FOOTER_TAIL]>::try_from(&bytes[tail..]).map_err(|_| cut_off(path))?;
    let length = read_footer_length(length).map_err(content)?;
    let start = tail.checked_sub(length).ok_or_else(|| cut_off(path))?;
    let footer = root_as_footer(&bytes[start..tail]).map_err(|e| FormatError::content(path, &e))?;
    let schema = footer.schema().ok_or_else(|| cut_off(path))?;
    let batches = footer.recordBatches().ok_or_else(|| cut_off(path))?;
    let batches: Vec<Block> = batches.iter().copied().collect();
    let dictionaries = footer.dictionaries();
    let dictionaries =
        dictionaries.map_or_else(Vec::new, |blocks| blocks.iter().copied().collect());
    check_one_file(path, &bytes[..start], dictionaries.iter().chain(&batches))?;
    Ok((schema_from(path, schema)?, dictionaries, batches))
}

/// Refuses `bytes` in front of a footer if it does not name all of them. Of two files behind each other the second one's footer
/// is read, and the places that it names are taken for places in the first.
fn check_one_file<'b>(
    path: &Path,
    bytes: &[u8],
    blocks: impl Iterator<Item = &'b Block>,
) -> Result<(), FormatError> {
    let mut parts = blocks
        .map(|block| place(path, block).map(|(start, _, end)| (start, end)))
        .collect::<Result<Vec<_>, _>>()?;
    parts.sort_unstable();
    // Behind the magic come as many zeros as its writer aligns with.
    let zeros = bytes.iter().skip(FILE_MAGIC.len());
    let head = FILE_MAGIC.len() + zeros.take_while(|byte| **byte == 0).count();
    let head = (head / LEAST_ALIGNMENT * LEAST_ALIGNMENT).max(LEAST_ALIGNMENT);
    let schema = message_at(path, bytes, head)?;
    let mut known = schema.map_or(head, |(_, end)| end);
    for (start, end) in parts.into_iter().chain([(bytes.len(), bytes.len())]) {
        if bytes.get(known..start).is_some_and(|gap| !is_padding(gap)) {
            let detail = "holds more than one Arrow file, and only the rows of one would be read; give each as a file of its own";
            return Err(FormatError::content(path, &detail));
        }
        known = known.max(end);
    }
    Ok(())
}

/// Where a block begins, how long its metadata are, and where it ends.
fn place(path: &Path, block: &Block) -> Result<(usize, usize, usize), FormatError> {
    let size = |size: i64| usize::try_from(size).map_err(|_| cut_off(path));
    let start = size(block.offset())?;
    let metadata = size(block.metaDataLength().into())?;
    let body = size(block.bodyLength())?;
    let end = start.checked_add(metadata);
    let end = end.and_then(|end| end.checked_add(body));
    Ok((start, metadata, end.ok_or_else(|| cut_off(path))?))
}

/// A message of a batch, or of a dictionary, with its place in the bytes that are held of it.
struct Part {
    block: Block,
    bytes: Buffer,
}

impl Part {
    /// That of a message of `bytes`, whose last ones are its body.
    fn of(bytes: Buffer, body: usize) -> Self {
        let metadata = i32::try_from(bytes.len() - body).unwrap_or(i32::MAX);
        let block = Block::new(0, metadata, i64::try_from(body).unwrap_or(i64::MAX));
        Self { block, bytes }
    }
}

/// The first column of a batch that cannot be decoded: Arrow does not say of which it speaks.
fn undecodable<'s>(schema: &'s SchemaRef, dictionaries: &[Part], batch: &Part) -> Option<&'s str> {
    let fails = |column: &usize| {
        let decoder = FileDecoder::new(Arc::clone(schema), MetadataVersion::V1);
        let mut decoder = decoder.with_projection(vec![*column]);
        for Part { block, bytes } in dictionaries {
            if decoder.read_dictionary(block, bytes).is_err() {
                return false;
            }
        }
        decoder
            .read_record_batch(&batch.block, &batch.bytes)
            .is_err()
    };
    let column = (0..schema.fields().len()).find(fails)?;
    Some(schema.field(column).name())
}

/// That a batch cannot be decoded, with the name of its first column of which that is true.
fn undecoded(
    path: &Path,
    error: &ArrowError,
    (schema, dictionaries): (&SchemaRef, &[Part]),
    batch: &Part,
) -> FormatError {
    FormatError::content_of(path, undecodable(schema, dictionaries, batch), error)
}

fn is_dictionary(metadata: &[u8]) -> bool {
    root_as_message(metadata)
        .is_ok_and(|message| message.header_type() == MessageHeader::DictionaryBatch)
}

struct Reader<'a, 's> {
    path: &'a Path,
    limits: &'a InputLimits,
    /// Bytes that compressed buffers say they decompress to.
    announced: u64,
    /// Bytes of dictionaries, and those that are copied when they grow.
    dictionaries: u64,
    copied: u64,
    rows: u64,
    decoded: u64,
    sink: &'a mut Sink<'s>,
}

impl Reader<'_, '_> {
    fn content(&self) -> impl Fn(ArrowError) -> FormatError + '_ {
        |e| FormatError::content(self.path, &e)
    }

    fn file(&mut self, bytes: &Buffer) -> Result<SchemaRef, FormatError> {
        let (schema, dictionaries, batches) = footer(self.path, bytes)?;
        check_schema(self.path, &schema, self.limits)?;
        // Each message says its version, by which it is decoded. The footer may say another: pyarrow's says the newest. This one
        // stands for any.
        let mut decoder = FileDecoder::new(Arc::clone(&schema), MetadataVersion::V1);
        let mut known = Vec::with_capacity(dictionaries.len());
        for block in dictionaries {
            let bytes = self.block(bytes, &block)?;
            let read = decoder.read_dictionary(&block, &bytes);
            read.map_err(self.content())?;
            known.push(Part { block, bytes });
        }
        for block in batches {
            let bytes = self.block(bytes, &block)?;
            let part = Part { block, bytes };
            let read = decoder.read_record_batch(&block, &part.bytes);
            let told = |e| undecoded(self.path, &e, (&schema, &known), &part);
            if let Some(batch) = read.map_err(told)? {
                self.keep(batch)?;
            }
        }
        Ok(schema)
    }

    fn stream(&mut self, mut bytes: Buffer) -> Result<SchemaRef, FormatError> {
        let schema = stream_schema(self.path, &bytes)?;
        check_schema(self.path, &schema, self.limits)?;
        let mut decoder = StreamDecoder::new();
        let mut known = Vec::new();
        while let Some(((metadata, body), end)) = message_at(self.path, &bytes, 0)? {
            self.check(metadata, body)?;
            let part = Part::of(bytes.slice_with_length(0, end), body.len());
            let path = self.path;
            let told = |e| undecoded(path, &e, (&schema, &known), &part);
            self.decode(&mut decoder, part.bytes.clone(), told)?;
            if is_dictionary(metadata) {
                known.push(part);
            }
            bytes = bytes.slice(end);
        }
        check_end(self.path, &bytes)?;
        // The decoder ends a message without a body when the next one comes; a stream may end without its mark.
        let path = self.path;
        let told = |e| FormatError::content(path, &e);
        self.decode(&mut decoder, Buffer::from(END_OF_STREAM), told)?;
        decoder.finish().map_err(self.content())?;
        Ok(schema)
    }

    /// What Arrow refuses, `told` says.
    fn decode(
        &mut self,
        decoder: &mut StreamDecoder,
        message: Buffer,
        told: impl Fn(ArrowError) -> FormatError,
    ) -> Result<(), FormatError> {
        let mut rest = message;
        while !rest.is_empty() {
            let decoded = decoder.decode(&mut rest).map_err(&told)?;
            let Some(batch) = decoded else { break };
            self.keep(batch)?;
        }
        Ok(())
    }

    /// The bytes of a block, which holds a message that is checked.
    fn block(&mut self, bytes: &Buffer, block: &Block) -> Result<Buffer, FormatError> {
        let path = self.path;
        let (start, metadata, end) = place(path, block)?;
        let part = bytes.get(start..end).ok_or_else(|| cut_off(path))?;
        let (message, _) = message_at(path, part, 0)?.ok_or_else(|| cut_off(path))?;
        // Arrow looks for the body behind the block's own length of the metadata.
        let body = part.get(metadata..).ok_or_else(|| cut_off(path))?;
        self.check(message.0, body)?;
        Ok(bytes.slice_with_length(start, part.len()))
    }

    fn check(&mut self, metadata: &[u8], body: &[u8]) -> Result<(), FormatError> {
        let message = root_as_message(metadata).map_err(|e| FormatError::content(self.path, &e))?;
        if message.version() < MetadataVersion::V4 {
            let detail = "was written by a version of Arrow before 0.8, whose layout is another; write it again with a newer one";
            return Err(FormatError::unsupported(self.path, detail));
        }
        let cut_off = || cut_off(self.path);
        if message.header_type() == MessageHeader::RecordBatch {
            let batch = message.header_as_record_batch().ok_or_else(cut_off)?;
            return self.check_batch(batch, body).map(drop);
        }
        let Some(dictionary) = message.header_as_dictionary_batch() else {
            return Ok(());
        };
        let added = self.check_batch(dictionary.data().ok_or_else(cut_off)?, body)?;
        self.dictionaries = self.dictionaries.saturating_add(added);
        if dictionary.isDelta() {
            self.copied = self.copied.saturating_add(self.dictionaries);
        }
        let most = self.dictionaries.max(self.copied / MOST_COPIES);
        let within = self.limits.decoded_bytes(most);
        within.map_err(FormatError::limit(self.path))
    }

    /// Checks what a batch says of itself; the bytes that its buffers become.
    fn check_batch(&mut self, batch: BatchMessage<'_>, body: &[u8]) -> Result<u64, FormatError> {
        let path = self.path;
        let size = |size: i64| u64::try_from(size).map_err(|_| cut_off(path));
        let lengths = batch.nodes().into_iter().flatten();
        let lengths = lengths.flat_map(|node| [node.length(), node.null_count()]);
        for length in lengths.chain([batch.length()]) {
            size(length)?;
        }
        self.limits
            .rows(size(batch.length())?)
            .map_err(FormatError::limit(path))?;
        let arrays = batch.nodes().map_or(0, |nodes| nodes.len() as u64);
        self.decoded = self.decoded.saturating_add(arrays * ARRAY_BYTES);
        self.limits
            .decoded_bytes(self.decoded)
            .map_err(FormatError::limit(path))?;
        // Items of lists are no rows, but without any bytes there can be any number of them.
        for node in batch.nodes().into_iter().flatten() {
            let items = size(node.length())? / 8;
            self.limits
                .decoded_bytes(items)
                .map_err(FormatError::limit(path))?;
        }
        let codec = batch.compression().map(|compression| compression.codec());
        let (mut present, before) = (0_usize, self.announced);
        for buffer in batch.buffers().into_iter().flatten() {
            let start = usize::try_from(buffer.offset()).map_err(|_| cut_off(path))?;
            let length = usize::try_from(buffer.length()).map_err(|_| cut_off(path))?;
            let end = start.checked_add(length);
            let bytes = end.and_then(|end| body.get(start..end));
            let bytes = bytes.ok_or_else(|| cut_off(path))?;
            // Those that lie on each other are copied if their place is odd: thousands of times the same bytes.
            present = present.saturating_add(bytes.len());
            if present > body.len() {
                return Err(cut_off(path));
            }
            if let (Some(codec), Some((prefix, compressed))) = (codec, bytes.split_first_chunk()) {
                // -1 stands for bytes that are not compressed.
                let announced = i64::from_le_bytes(*prefix).max(0).unsigned_abs();
                self.announced = self.announced.saturating_add(announced);
                self.limits
                    .decoded_bytes(self.announced)
                    .map_err(FormatError::limit(path))?;
                if codec == CompressionType::LZ4_FRAME
                    && self.limits.may_inflate_beyond(compressed.len() as u64)
                    && is_longer(FrameDecoder::new(compressed), announced)
                {
                    let detail = "is damaged: a buffer is longer than it says";
                    return Err(FormatError::content(path, &detail));
                }
            }
        }
        Ok((self.announced - before).max(present as u64))
    }

    fn keep(&mut self, batch: RecordBatch) -> Result<(), FormatError> {
        self.rows = self.rows.saturating_add(batch.num_rows() as u64);
        self.decoded = self.decoded.saturating_add(decoded_bytes(&batch));
        self.limits
            .rows(self.rows)
            .and_then(|()| self.limits.decoded_bytes(self.decoded))
            .map_err(FormatError::limit(self.path))?;
        (self.sink)(batch)
    }
}
