//! The rows of a stream: read from standard input on a thread of their own, since a read of a pipe cannot be cut short, and
//! written as an input that can be read again.

use crate::cli::args::StreamFormat;
use crate::formats::{Format, InputLimits, check_stream, compression_of, decoded_bytes};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use squire_engine::error::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use tokio::sync::mpsc;

/// Lines or batches that lie between the reader and who gathers them.
const AHEAD: usize = 64;

/// What comes at once.
#[derive(Debug)]
pub(super) enum Item {
    /// One row, as NDJSON has it.
    Line(Vec<u8>),
    Batch(RecordBatch),
}

impl Item {
    pub(super) fn rows(&self) -> u64 {
        match self {
            Self::Line(_) => 1,
            Self::Batch(batch) => batch.num_rows() as u64,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Line(line) => line.len() as u64,
            Self::Batch(batch) => decoded_bytes(batch),
        }
    }

    /// It without its first `rows`; `None` when nothing is left.
    pub(super) fn without(self, rows: u64) -> Option<Self> {
        if rows >= self.rows() {
            return None;
        }
        match (self, usize::try_from(rows)) {
            (Self::Batch(batch), Ok(rows)) => {
                Some(Self::Batch(batch.slice(rows, batch.num_rows() - rows)))
            }
            (item, _) => Some(item),
        }
    }
}

impl From<StreamFormat> for Format {
    fn from(format: StreamFormat) -> Self {
        match format {
            StreamFormat::Ndjson => Self::Ndjson,
            StreamFormat::Arrow => Self::ArrowStream,
        }
    }
}

type Sender = mpsc::Sender<Result<Item>>;

/// The rows of standard input. They end with it, or with an error.
pub(super) fn read_rows(
    format: StreamFormat,
    limits: &InputLimits,
) -> Result<mpsc::Receiver<Result<Item>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let longest = limits.max_input_bytes;
    let reading = move || {
        let read = match format {
            StreamFormat::Ndjson => read_lines(&sender, longest),
            StreamFormat::Arrow => read_batches(&sender),
        };
        if let Err(e) = read {
            // Whoever does not listen any more has its reasons.
            drop(sender.blocking_send(Err(e)));
        }
    };
    let thread = std::thread::Builder::new().name("standard input".to_owned());
    let started = thread.spawn(reading);
    started.map_err(|e| Error::internal("starting a thread").caused_by(e))?;
    Ok(receiver)
}

fn read_lines(sender: &Sender, longest: u64) -> Result<()> {
    let mut input = BufReader::new(io::stdin());
    if let Some(compression) = compression_of(input.fill_buf().map_err(unread)?) {
        return Err(Error::invalid(format!(
            "standard input is {compression} data; unpack it on the way, as in `zcat rows.gz | squire ingest ...`"
        )));
    }
    loop {
        let mut line = Vec::new();
        let mut most = input.by_ref().take(longest);
        let read = most.read_until(b'\n', &mut line).map_err(unread)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if read as u64 == longest {
            return Err(Error::invalid(format!(
                "a line of standard input is longer than {longest} bytes, which [agent] max_input_bytes allows"
            )));
        }
        // An empty line is no row.
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if sender.blocking_send(Ok(Item::Line(line))).is_err() {
            return Ok(());
        }
    }
}

/// One stream, or several of one schema behind each other.
fn read_batches(sender: &Sender) -> Result<()> {
    let mut input = BufReader::new(io::stdin());
    let mut schema: Option<SchemaRef> = None;
    loop {
        let noted = Noted {
            input: &mut input,
            head: Some(Vec::new()),
        };
        let mut stream = StreamReader::try_new(noted, None).map_err(unfit)?;
        let head = stream.get_mut().head.take().unwrap_or_default();
        check_stream(&head).map_err(|e| Error::invalid(e.to_string()))?;
        let own = stream.schema();
        if *schema.get_or_insert_with(|| own.clone()) != own {
            let why = "standard input goes on with a stream of other columns; send it by itself";
            return Err(Error::invalid(why));
        }
        for batch in stream {
            let batch = Item::Batch(batch.map_err(unfit)?);
            if sender.blocking_send(Ok(batch)).is_err() {
                return Ok(());
            }
        }
        if input.fill_buf().map_err(unread)?.is_empty() {
            return Ok(());
        }
    }
}

/// An input whose first bytes are kept: the message that says what a stream is.
struct Noted<R> {
    input: R,
    head: Option<Vec<u8>>,
}

impl<R: Read> Read for Noted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(bytes)?;
        if let Some(head) = &mut self.head {
            head.extend_from_slice(&bytes[..read]);
        }
        Ok(read)
    }
}

fn unread(e: io::Error) -> Error {
    Error::new(ErrorKind::Storage, "standard input cannot be read").caused_by(e)
}

fn unfit(e: arrow::error::ArrowError) -> Error {
    Error::invalid("standard input is no Arrow stream, or ends within a batch").caused_by(e)
}

/// The rows in a file without a name.
pub(super) fn write(items: &[Item]) -> Result<File> {
    let kept = |e: io::Error| {
        Error::new(
            ErrorKind::Storage,
            "rows of standard input cannot be put aside",
        )
        .caused_by(e)
    };
    let mut file = BufWriter::new(tempfile::tempfile().map_err(kept)?);
    let schema = items.iter().find_map(|item| match item {
        Item::Batch(batch) => Some(batch.schema()),
        Item::Line(_) => None,
    });
    match schema {
        Some(schema) => write_batches(items, &schema, &mut file)?,
        None => write_lines(items, &mut file).map_err(kept)?,
    }
    file.into_inner().map_err(|e| kept(e.into_error()))
}

fn write_lines(items: &[Item], file: &mut BufWriter<File>) -> io::Result<()> {
    for item in items {
        if let Item::Line(line) = item {
            file.write_all(line)?;
            file.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn write_batches(items: &[Item], schema: &Schema, file: &mut BufWriter<File>) -> Result<()> {
    let mut stream = StreamWriter::try_new(file, schema).map_err(unfit)?;
    for item in items {
        if let Item::Batch(batch) = item {
            stream.write(batch).map_err(unfit)?;
        }
    }
    stream.finish().map_err(unfit)
}
