//! `squire ingest`: a stream on standard input, committed piece by piece, each row once.
//!
//! 1. A thread reads rows: lines of NDJSON, or the batches of an Arrow stream (`rows`). Rows that are committed already are passed
//!    over, by counting.
//! 2. Rows gather until they are as many, as large or as old as a piece may be. A piece is a batch whose id is the table's folder, the
//!    producer and the offset at which it begins: whoever commits that, it is committed once. Where it ends stands in its message.
//! 3. When it is committed, a line on standard output says up to which offset. Whoever starts again goes on from the last piece
//!    that the store has, and is told its end first.
//!
//! Of a piece with a row that the table does not take, nothing is committed: what was acknowledged is committed, and nothing
//! behind it.

mod rows;

use super::Context;
use super::args::IngestArgs;
use crate::config::SchemaChange;
use crate::daemon::{Event, Signals};
use crate::formats::{Input, Meter, Shape};
use crate::input::batch::Mode;
use crate::input::load;
use crate::place::table_name;
use rows::{Item, read_rows};
use serde_json::json;
use squire_engine::commit::{CommitRequest, Outcome, TableWrite};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::{OpId, TableName};
use squire_engine::store::Store;
use std::fs::File;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a batch id, and of what stands in one behind a producer's name.
const ID_BYTES: usize = 256;
const OFFSET_BYTES: usize = ":18446744073709551615".len();

pub(super) async fn ingest(context: &Context, args: IngestArgs) -> Result<ExitCode> {
    let (store, table) = (context.store(&args.store).await?, table_name(&args.table)?);
    let folder = store.load().await?.state.table(&table)?.path.clone();
    let most = ID_BYTES.saturating_sub(folder.len() + OFFSET_BYTES + 1);
    if args.producer.is_empty() || args.producer.len() > most {
        return Err(Error::invalid(format!(
            "--producer: a name has 1 to {most} bytes for this table"
        )));
    }
    let stream = Stream {
        store,
        table,
        schema: args.schema_change.unwrap_or(context.config.agent.schema),
        folder,
        context,
        args,
    };
    let resume = stream.position().await?;
    let from = stream.args.from;
    context
        .out
        .say(&json!({ "resume": resume, "from": from.min(resume) }));
    if from > resume {
        return Err(Error::invalid(format!(
            "the stream begins at {from}, and only {resume} rows of {} are committed: what lies between is missing; send it from {resume}",
            stream.args.producer
        )));
    }
    let skip = resume - from;
    if skip > 0 {
        tracing::warn!(
            "the input is taken to begin at row {from}, so its first {skip} rows are passed over: they are committed; --from OFFSET says where else it begins"
        );
    }
    let piece = Piece {
        skip,
        ..Piece::at(resume)
    };
    stream.run(piece).await?;
    Ok(ExitCode::SUCCESS)
}

/// Rows that are committed together.
#[derive(Debug, Default)]
struct Piece {
    /// The offset of its first row.
    start: u64,
    items: Vec<Item>,
    rows: u64,
    bytes: u64,
    /// When its first row came.
    since: Option<Duration>,
    /// Rows of the stream that are to be passed over before the next one counts.
    skip: u64,
}

impl Piece {
    fn at(start: u64) -> Self {
        Self {
            start,
            ..Self::default()
        }
    }

    fn end(&self) -> u64 {
        self.start + self.rows
    }

    fn take(&mut self, item: Item, now: Duration) {
        let passed = self.skip.min(item.rows());
        self.skip -= passed;
        if let Some(item) = item.without(passed) {
            self.rows += item.rows();
            self.bytes += item.bytes();
            self.items.push(item);
            self.since.get_or_insert(now);
        }
    }

    /// What is left of it when the rows up to `offset` are committed.
    fn behind(self, offset: u64, now: Duration) -> Self {
        let mut left = Self {
            skip: self.skip + (offset - self.start),
            ..Self::at(offset)
        };
        for item in self.items {
            left.take(item, now);
        }
        left
    }
}

struct Stream<'a> {
    context: &'a Context,
    store: Arc<Store>,
    table: TableName,
    schema: SchemaChange,
    /// The table's, which no other table ever has: a producer counts for each table anew.
    folder: String,
    args: IngestArgs,
}

impl Stream<'_> {
    async fn run(&self, mut piece: Piece) -> Result<()> {
        let mut rows = read_rows(self.args.format, &self.context.config.agent.input)?;
        let mut signals = Signals::new()?;
        loop {
            let due = self.due_in(&piece);
            tokio::select! {
                biased;
                event = signals.next() => if matches!(event, Event::Stop) {
                    break;
                },
                () = self.store.clock().sleep(due.unwrap_or(Duration::MAX)), if due.is_some() => {
                    piece = self.commit(piece).await?;
                }
                row = rows.recv() => match row {
                    None => break,
                    Some(Ok(item)) => {
                        piece.take(item, self.store.clock().monotonic());
                        if piece.rows >= self.args.rows || piece.bytes >= self.args.bytes {
                            piece = self.commit(piece).await?;
                        }
                    }
                    Some(Err(e)) => {
                        let piece = self.commit(piece).await?;
                        return Err(behind(e, piece.start));
                    }
                },
            }
        }
        self.commit(piece).await.map(drop)
    }

    /// How long the piece may still wait for more rows; `None` without any.
    fn due_in(&self, piece: &Piece) -> Option<Duration> {
        let age = self.store.clock().monotonic().saturating_sub(piece.since?);
        Some(self.args.age.saturating_sub(age))
    }

    /// Up to which offset the producer's rows are committed.
    async fn position(&self) -> Result<u64> {
        let last = self.store.last_numbered(&self.prefix()).await?;
        let Some((start, record)) = last else {
            return Ok(0);
        };
        end_of(&record.message, start).ok_or_else(|| {
            Error::invalid(format!(
                "batch id {}{start} is of no stream ({:?}); take another name for the producer",
                self.prefix(),
                record.message
            ))
        })
    }

    fn prefix(&self) -> String {
        format!("{}/{}:", self.folder, self.args.producer)
    }

    /// Commits the piece, and gives the next one, which is empty unless rows came that nobody had.
    async fn commit(&self, mut piece: Piece) -> Result<Piece> {
        while piece.rows > 0 {
            let e = match self.try_commit(&piece).await {
                Ok(op) => {
                    let offset = piece.end();
                    self.context.out.say(&json!({ "offset": offset, "op": op }));
                    return Ok(Piece::at(offset));
                }
                Err(e) => e,
            };
            if e.kind() != ErrorKind::InvalidInput {
                return Err(behind(e, piece.start));
            }
            // A run before this one, whose end nobody saw, may have committed another piece from here.
            let position = self.position().await?;
            if position <= piece.start {
                return Err(behind(e, piece.start));
            }
            piece = piece.behind(position, self.store.clock().monotonic());
        }
        Ok(piece)
    }

    async fn try_commit(&self, piece: &Piece) -> Result<OpId> {
        let (snapshot, config) = (self.store.load().await?, &self.context.config.agent);
        if snapshot.state.table(&self.table)?.path != self.folder {
            let other = format!("table {} was dropped and made again meanwhile", self.table);
            return Err(Error::new(ErrorKind::Refused, other));
        }
        let file = tokio::task::block_in_place(|| rows::write(&piece.items))?;
        let input = self.input(piece, file);
        let shape = Shape {
            coerce: config.coerce.clone(),
            ..Shape::default()
        };
        let (on, read) = ((self.store.as_ref(), &snapshot), (&[input][..], &shape));
        let mode = (Mode::Append, self.schema);
        let meter = Meter::default();
        let (write, _) = load::write_of(on, &self.table, mode, read, config, &meter).await?;
        let table = self.table.clone();
        let mut request = CommitRequest::new(vec![TableWrite { table, write }]);
        request.batch = Some(format!("{}{}", self.prefix(), piece.start));
        request.message = message_of(piece.start, piece.end());
        Ok(match self.store.commit(&request).await? {
            Outcome::Committed(committed) => committed.op,
            Outcome::AlreadyCommitted(op) => op,
        })
    }

    fn input(&self, piece: &Piece, file: File) -> Input {
        let name = format!("standard input, behind row {}", piece.start);
        Input::piece(name, file).in_format(Some(self.args.format.into()))
    }
}

/// Says what is committed beside what is not.
fn behind(e: Error, offset: u64) -> Error {
    e.advice(format!(
        "{offset} rows of the stream are committed, and nothing behind them"
    ))
}

fn message_of(start: u64, end: u64) -> String {
    format!("rows {start} to {end} of a stream")
}

/// The end that the message of a piece names, which begins at `start`.
fn end_of(message: &str, start: u64) -> Option<u64> {
    let end = message.strip_prefix(&format!("rows {start} to "))?;
    let end = end.strip_suffix(" of a stream")?.parse().ok()?;
    (end >= start).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Item {
        Item::Line(text.as_bytes().to_vec())
    }

    #[test]
    fn rows_that_are_committed_are_passed_over_by_counting() {
        let mut piece = Piece {
            skip: 2,
            ..Piece::at(7)
        };
        for text in ["a", "b", "c", "d"] {
            piece.take(line(text), Duration::ZERO);
        }
        assert_eq!((piece.start, piece.rows, piece.end()), (7, 2, 9));
        let left = piece.behind(8, Duration::ZERO);
        assert_eq!((left.start, left.rows, left.skip), (8, 1, 0));
        let left = left.behind(20, Duration::ZERO);
        assert_eq!((left.start, left.rows, left.skip), (20, 0, 11));
        assert_eq!(left.since, None);
    }

    #[test]
    fn the_end_of_a_piece_stands_in_its_message() {
        assert_eq!(end_of(&message_of(7, 12), 7), Some(12));
        assert_eq!(end_of(&message_of(7, 12), 8), None);
        for other in [
            "",
            "nightly",
            "rows 7 to 6 of a stream",
            "rows 7 to x of a stream",
        ] {
            assert_eq!(end_of(other, 7), None, "{other}");
        }
    }
}
