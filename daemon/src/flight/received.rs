//! Rows on their way: the messages of a stream, as Arrow streams in a file without a name.
//!
//! A long stream lies there in parts, each an Arrow stream of its own that begins with the schema and with the dictionaries so far:
//! whoever reads it holds one part. Rows that are merged are held all at once anyway, and are one part, so that the limits of an input
//! count for all of them.

use crate::config::FlightConfig;
use crate::formats::{Format, Input, InputLimits};
use crate::input::Place;
use crate::input::batch::Mode;
use arrow::ipc::{Message, MessageHeader, root_as_message};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::{Key, TableName};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::block_in_place;

/// Bytes of a part after which the next one begins.
const PART_BYTES: u64 = 32 << 20;

/// In front of a message's length.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Messages begin and end at multiples of it.
const ALIGNMENT: usize = 8;

/// What ends an Arrow stream.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// What all streams and transactions together may have on disk.
#[derive(Debug, Clone)]
pub(super) struct Room {
    most: u64,
    taken: Arc<AtomicU64>,
}

impl Room {
    pub(super) fn of(most: u64) -> Self {
        let taken = Arc::default();
        Self { most, taken }
    }

    /// How much of it is taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn share(&self) -> Share {
        let room = self.clone();
        Share { room, bytes: 0 }
    }
}

/// What one stream has of it, which is free when this is dropped.
#[derive(Debug)]
struct Share {
    room: Room,
    bytes: u64,
}

impl Share {
    fn take(&mut self, bytes: u64) -> Result<()> {
        let before = self.room.taken.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) <= self.room.most {
            return Ok(());
        }
        let what = "all streams and transactions together have more bytes than [agent] flight_bytes allows; try again when others have ended";
        Err(Error::invalid(what).with(Place::limit()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Rows of a table that are all there, and what is to be done with them.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) table: TableName,
    pub(super) mode: Mode,
    /// What is made of a table that is missing.
    pub(super) missing: Missing,
    pub(super) inputs: Vec<Input>,
    pub(super) rows: u64,
    shares: Vec<Share>,
}

/// What becomes of a put whose table is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is refused.
    Fails,
    /// The table is made, with this key.
    Made(Option<Key>),
    /// The same, and a table that is there is refused.
    MadeNew(Option<Key>),
}

impl Put {
    /// Whether `later` rows for the same table can go with these.
    pub(super) fn takes(&self, later: &Self) -> bool {
        !matches!(later.missing, Missing::MadeNew(_))
            && (self.mode == later.mode
                || later.mode == Mode::Append && matches!(self.mode, Mode::Overwrite { .. }))
    }

    pub(super) fn join(&mut self, later: Self) {
        self.inputs.extend(later.inputs);
        self.shares.extend(later.shares);
        self.rows += later.rows;
    }
}

/// One message of a stream.
pub(super) struct Piece<'a> {
    pub(super) header: &'a [u8],
    pub(super) body: &'a [u8],
}

impl Piece<'_> {
    /// As it stands in an Arrow stream.
    pub(super) fn framed(&self) -> Result<Vec<u8>> {
        let padded = self.header.len().next_multiple_of(ALIGNMENT);
        let length = i32::try_from(padded).map_err(|_| broken("its metadata are too long"))?;
        let mut framed = Vec::with_capacity(2 * ALIGNMENT + padded);
        framed.extend(CONTINUATION);
        framed.extend(length.to_le_bytes());
        framed.extend(self.header);
        framed.resize(ALIGNMENT + padded, 0);
        Ok(framed)
    }

    fn message(&self) -> Result<Message<'_>> {
        let message = root_as_message(self.header);
        let message = message.map_err(|e| broken(&e.to_string()))?;
        if u64::try_from(message.bodyLength()).ok() != Some(self.body.len() as u64) {
            return Err(broken("its body is not as long as its metadata say"));
        }
        if !self.body.len().is_multiple_of(ALIGNMENT) {
            return Err(broken("its body does not end at a multiple of 8 bytes"));
        }
        Ok(message)
    }
}

fn broken(why: &str) -> Error {
    Error::invalid(format!("a message of the stream is none of Arrow: {why}"))
}

/// Where one part lies, and which row of the stream is its first.
#[derive(Debug, Clone, Copy)]
struct Part {
    from: u64,
    row: u64,
}

/// A stream that is being received.
pub(super) struct Receiving<'a> {
    limits: &'a InputLimits,
    table: TableName,
    part_bytes: u64,
    is_whole: bool,
    file: Arc<File>,
    at: u64,
    part: Part,
    inputs: Vec<Input>,
    /// The schema, and what is known of each dictionary.
    schema: Vec<u8>,
    dictionaries: BTreeMap<i64, Vec<u8>>,
    rows: u64,
    share: Share,
}

impl<'a> Receiving<'a> {
    /// Begins with the message that says the columns. Rows of `mode` go to `table`.
    pub(super) fn begin(
        (table, mode): (&TableName, &Mode),
        schema: &Piece<'_>,
        (limits, room, aside): (&'a InputLimits, &Room, &Path),
    ) -> Result<Self> {
        if schema.message()?.header_type() != MessageHeader::Schema {
            return Err(broken("the first one must say the columns"));
        }
        let file = block_in_place(|| tempfile::tempfile_in(aside)).map_err(unkept)?;
        let mut receiving = Self {
            limits,
            table: table.clone(),
            part_bytes: PART_BYTES,
            is_whole: matches!(mode, Mode::Merge { .. }),
            file: Arc::new(file),
            at: 0,
            part: Part { from: 0, row: 0 },
            inputs: Vec::new(),
            schema: schema.framed()?,
            dictionaries: BTreeMap::new(),
            rows: 0,
            share: room.share(),
        };
        receiving.begin_part()?;
        Ok(receiving)
    }

    /// What would be read if no row came.
    pub(super) fn empty(&self) -> Input {
        self.input(self.part, self.at - self.part.from)
    }

    /// Takes one message more.
    pub(super) fn take(&mut self, piece: &Piece<'_>) -> Result<()> {
        let message = piece.message()?;
        if let Some(batch) = message.header_as_record_batch() {
            let rows =
                u64::try_from(batch.length()).map_err(|_| broken("its length is negative"))?;
            let is_full = self.at - self.part.from >= self.part_bytes;
            if is_full && self.rows > self.part.row && !self.is_whole {
                self.end_part()?;
                self.begin_part()?;
            }
            self.rows = self.rows.saturating_add(rows);
            self.limits.rows(self.rows).map_err(|e| self.beyond(e))?;
            return self.write(&[&piece.framed()?, piece.body]);
        }
        let Some(dictionary) = message.header_as_dictionary_batch() else {
            return Err(broken("it is neither rows nor a dictionary"));
        };
        let mut framed = piece.framed()?;
        framed.extend(piece.body);
        self.write(&[&framed])?;
        let known = self.dictionaries.entry(dictionary.id()).or_default();
        if !dictionary.isDelta() {
            known.clear();
        }
        known.append(&mut framed);
        let all: usize = self.dictionaries.values().map(Vec::len).sum();
        // Each part would begin with them.
        if all as u64 > PART_BYTES / 4 {
            self.is_whole = true;
            self.dictionaries.clear();
        }
        Ok(())
    }

    /// The stream is at its end.
    pub(super) fn end(mut self, mode: Mode, missing: Missing) -> Result<Put> {
        self.end_part()?;
        Ok(Put {
            table: self.table,
            mode,
            missing,
            inputs: self.inputs,
            rows: self.rows,
            shares: vec![self.share],
        })
    }

    fn begin_part(&mut self) -> Result<()> {
        self.part = Part {
            from: self.at,
            row: self.rows,
        };
        let schema = std::mem::take(&mut self.schema);
        self.write(&[&schema])?;
        self.schema = schema;
        let dictionaries = std::mem::take(&mut self.dictionaries);
        let written = dictionaries.values().try_for_each(|d| self.write(&[d]));
        self.dictionaries = dictionaries;
        written
    }

    fn end_part(&mut self) -> Result<()> {
        self.write(&[&END])?;
        let input = self.input(self.part, self.at - self.part.from);
        self.inputs.push(input);
        Ok(())
    }

    fn input(&self, part: Part, length: u64) -> Input {
        let name = match part.row {
            0 => format!("the stream for {}", self.table),
            row => format!("the stream for {}, behind row {row}", self.table),
        };
        let range = part.from..part.from + length;
        Input::part(name, self.file.clone(), range).in_format(Some(Format::ArrowStream))
    }

    fn write(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let (all, limits) = (self.at + bytes, self.limits);
        limits.input_bytes(all).map_err(|e| self.beyond(e))?;
        self.share.take(bytes)?;
        let mut file: &File = &self.file;
        let written = block_in_place(|| pieces.iter().try_for_each(|piece| file.write_all(piece)));
        written.map_err(unkept)?;
        self.at = all;
        Ok(())
    }

    fn beyond(&self, exceeded: impl std::fmt::Display) -> Error {
        let what = format!(
            "the stream for {} {exceeded}; send it in several",
            self.table
        );
        Error::invalid(what).with(Place::limit())
    }
}

fn unkept(e: io::Error) -> Error {
    let what = "rows that came by Flight cannot be put aside";
    Error::new(ErrorKind::Storage, what).caused_by(e)
}

/// Bytes that one message may have, on this machine.
pub(super) fn most_bytes(config: &FlightConfig) -> usize {
    usize::try_from(config.message_bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats;
    use arrow::array::{Array, AsArray, DictionaryArray, Int64Array, RecordBatch};
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Int8Type, Schema};
    use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamWriter};
    use std::ops::Range;

    /// Rows of a number and of a text, by a dictionary of their own.
    fn batch(ids: Range<i64>) -> RecordBatch {
        let texts: Vec<String> = ids.clone().map(|id| format!("text {id}")).collect();
        let texts: DictionaryArray<Int8Type> =
            texts.iter().map(|text| Some(text.as_str())).collect();
        let ids = Int64Array::from_iter_values(ids);
        let columns: [(&str, arrow::array::ArrayRef); 2] =
            [("id", Arc::new(ids)), ("text", Arc::new(texts))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// The messages of a stream of `batches`, as header and body.
    fn messages(schema: &Schema, batches: &[RecordBatch]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let options = IpcWriteOptions::default();
        let options = options.with_dictionary_handling(DictionaryHandling::Resend);
        let mut stream = StreamWriter::try_new_with_options(Vec::new(), schema, options).unwrap();
        for batch in batches {
            stream.write(batch).unwrap();
        }
        let bytes = stream.into_inner().unwrap();
        let (mut at, mut found) = (0, Vec::new());
        loop {
            let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
            if length == 0 {
                return found;
            }
            let body = at + 8 + length;
            let header = bytes[at + 8..body].to_vec();
            let message = root_as_message(&header).unwrap();
            at = body + usize::try_from(message.bodyLength()).unwrap();
            found.push((header, bytes[body..at].to_vec()));
        }
    }

    fn receive(
        batches: &[RecordBatch],
        mode: &Mode,
        limits: &InputLimits,
        room: &Room,
    ) -> Result<Put> {
        let messages = messages(&batches[0].schema(), batches);
        let table = "t".parse().unwrap();
        let dir = std::env::temp_dir();
        let (header, body) = &messages[0];
        let first = Piece { header, body };
        let mut receiving = Receiving::begin((&table, mode), &first, (limits, room, &dir))?;
        receiving.part_bytes = 1;
        for (header, body) in &messages[1..] {
            receiving.take(&Piece { header, body })?;
        }
        receiving.end(mode.clone(), Missing::Fails)
    }

    fn merge() -> Mode {
        Mode::Merge {
            key: None,
            when: squire_engine::commit::When::Upsert,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_part_of_a_stream_can_be_read_alone() {
        let batches = [batch(0..5), batch(5..7), batch(7..9)];
        let (limits, room) = (InputLimits::default(), Room::of(1 << 20));
        for (mode, parts) in [(Mode::Append, 3), (merge(), 1)] {
            let put = receive(&batches, &mode, &limits, &room).unwrap();
            assert_eq!((put.inputs.len(), put.rows), (parts, 9));
            let mut read = Vec::new();
            for input in &put.inputs {
                formats::read_into(input, None, &limits, &mut |batch| {
                    let texts = cast(batch.column(1), &DataType::Utf8).unwrap();
                    let texts = texts.as_string::<i32>();
                    read.extend((0..texts.len()).map(|row| texts.value(row).to_owned()));
                    Ok(())
                })
                .unwrap();
            }
            let expected: Vec<String> = (0..9).map(|id| format!("text {id}")).collect();
            assert_eq!(read, expected);
            assert!(room.taken() > 0);
        }
        assert_eq!(room.taken(), 0, "free with the rows");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stream_beyond_a_limit_is_told_which() {
        let batches = [batch(0..5), batch(5..9)];
        let refused = |limits: InputLimits, room: u64| {
            let put = receive(&batches, &Mode::Append, &limits, &Room::of(room));
            let error = put.unwrap_err();
            assert!(
                error.attached::<Place>().is_some_and(Place::is_of_limit),
                "{error}"
            );
            error.to_string()
        };
        let rows = InputLimits {
            max_rows: 8,
            ..InputLimits::default()
        };
        assert!(refused(rows, 1 << 20).contains("max_rows"));
        let bytes = InputLimits {
            max_input_bytes: 1_000,
            ..InputLimits::default()
        };
        assert!(refused(bytes, 1 << 20).contains("max_input_bytes"));
        assert!(refused(InputLimits::default(), 1_000).contains("flight_bytes"));
    }

    #[test]
    fn a_message_that_is_not_what_it_says_is_refused() {
        let batches = [batch(0..5)];
        let messages = messages(&batches[0].schema(), &batches);
        let (header, body) = messages.last().unwrap();
        let short = Piece {
            header,
            body: &body[..body.len() - 8],
        };
        assert!(short.message().unwrap_err().to_string().contains("body"));
        let junk = Piece {
            header: b"junk",
            body: b"",
        };
        assert!(junk.message().is_err());
    }
}
