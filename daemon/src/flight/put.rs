//! One put: its stream from the first message to its answer.
//!
//! The table, the mode and the columns are checked with the first two messages, before any row is read.

use super::Flight;
use super::commit::{Done, exists};
use super::failure::{beyond, refused, unreadable};
use super::intent::{Asked, Belongs, Intent};
use super::received::{Missing, Piece, Receiving};
use super::transactions::Batch;
use super::wire::FlightData;
use crate::formats::{self, Input, Meter};
use crate::input::batch::Mode;
use crate::input::load;
use futures::FutureExt;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::store::Snapshot;
use std::sync::Arc;
use tokio::task::block_in_place;
use tonic::codegen::http::HeaderMap;
use tonic::{Status, Streaming};

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    /// The number of its connection.
    pub(super) connection: u64,
    /// Whether it is ADBC's driver, which has a connection of its own for each of its connections.
    pub(super) is_adbc: bool,
}

impl Flight {
    /// The rows of `stream`, and what became of them; whether that is to be said as Flight SQL does.
    pub(super) async fn put(
        self: &Arc<Self>,
        caller: Caller,
        headers: &HeaderMap,
        mut stream: Streaming<FlightData>,
    ) -> Result<(Done, bool), Status> {
        let asked = Asked::of(headers)?;
        let most = self.config.flight.streams;
        let full = |_| {
            beyond(
                format!("{most} streams are open, and no more may be"),
                "flight_streams",
            )
        };
        let _permit = self.streams.try_acquire().map_err(full)?;
        let _shown = self.metrics.agent.flight.stream();
        let first = self.next(&mut stream).await?.ok_or_else(nothing)?;
        let descriptor = first.flight_descriptor.clone().unwrap_or_default();
        let intent = Intent::of(descriptor, asked)?;
        let transaction = self.transaction_of(&intent, caller)?;
        let received = self.receive((first, &mut stream), intent, transaction.as_deref());
        let received = received.await;
        if let (Err(why), Some(name)) = (&received, &transaction) {
            self.transactions.refuse(name, why.message());
        }
        received
    }

    /// The same of a stream whose `first` message has come, and which belongs to `transaction`, if to any.
    async fn receive(
        self: &Arc<Self>,
        (first, stream): (FlightData, &mut Streaming<FlightData>),
        intent: Intent,
        transaction: Option<&str>,
    ) -> Result<(Done, bool), Status> {
        let snapshot = self.store.load().await.map_err(refused)?;
        let is_checked = self.check_table(&snapshot, &intent, transaction)?;
        let mut message = first;
        while message.data_header.is_empty() {
            message = self.next(stream).await?.ok_or_else(no_columns)?;
        }
        let to = (&intent.table, &intent.mode);
        let within = (&self.config.input, &self.room, self.aside.as_path());
        let receiving = Receiving::begin(to, &piece(&message), within);
        let mut receiving = receiving.map_err(refused)?;
        if !is_checked {
            let columns = self.check_columns(&snapshot, &intent, receiving.empty());
            columns.await.map_err(refused)?;
        }
        while let Some(message) = self.next(stream).await? {
            if !message.data_header.is_empty() {
                receiving.take(&piece(&message)).map_err(refused)?;
            }
        }
        let put = receiving
            .end(intent.mode, intent.missing)
            .map_err(refused)?;
        if let Some(name) = transaction {
            let rows = put.rows;
            self.transactions.add(name, put, intent.batch)?;
            return Ok((Done::nothing("in_transaction", rows), intent.is_sql));
        }
        let batch = Batch {
            puts: vec![put],
            id: intent.batch,
            message: intent.message,
        };
        let (_, done) = self.commit(batch).await;
        Ok((done.map_err(refused)?, intent.is_sql))
    }

    /// The next message; `None` at the end.
    async fn next(&self, stream: &mut Streaming<FlightData>) -> Result<Option<FlightData>, Status> {
        let (idle, most) = (self.config.flight.idle, self.config.flight.message_bytes);
        match tokio::time::timeout(idle, stream.message()).await {
            Ok(message) => message.map_err(|status| unreadable(status, most)),
            Err(_) => {
                let seconds = idle.as_secs_f64();
                let what = format!(
                    "no message came for {seconds} s (agent.flight_idle); nothing of the stream is committed"
                );
                Err(Status::deadline_exceeded(what))
            }
        }
    }

    fn transaction_of(&self, intent: &Intent, caller: Caller) -> Result<Option<String>, Status> {
        let name = match &intent.belongs {
            Belongs::Named(name) => Some(name.clone()),
            Belongs::ToConnection if caller.is_adbc => {
                self.transactions.of_connection(caller.connection)?
            }
            Belongs::ToConnection | Belongs::Alone => None,
        };
        if let Some(name) = &name {
            self.transactions.check(name)?;
        }
        Ok(name)
    }

    /// Refuses what cannot go to its table, whatever its columns are. Whether nothing more can be checked.
    fn check_table(
        &self,
        snapshot: &Snapshot,
        intent: &Intent,
        transaction: Option<&str>,
    ) -> Result<bool, Status> {
        let table = &intent.table;
        let is_there = snapshot.state.tables.contains_key(table);
        let is_made = transaction.is_some_and(|name| self.transactions.makes(name, table));
        match &intent.missing {
            Missing::Fails if is_made => Ok(true),
            Missing::Fails => {
                snapshot.state.table(table).map_err(refused)?;
                Ok(false)
            }
            // With a batch id it may be the second time, and then that is told when all is there.
            Missing::MadeNew(_) if is_there && intent.batch.is_none() => {
                Err(refused(exists(table)))
            }
            Missing::MadeNew(_) | Missing::Made(_) => Ok(is_made),
        }
    }

    /// Refuses columns that the table does not take: as it refuses a file that has them and no row.
    async fn check_columns(
        &self,
        snapshot: &Snapshot,
        intent: &Intent,
        columns: Input,
    ) -> Result<()> {
        let store = self.store.as_ref();
        if snapshot.state.tables.contains_key(&intent.table) {
            let mode = match &intent.mode {
                Mode::Overwrite { .. } => Mode::Overwrite { allow_empty: true },
                mode => mode.clone(),
            };
            let (on, change) = ((store, snapshot), (mode, self.config.schema));
            let (shape, inputs, meter) = (self.shape(), [columns], Meter::default());
            let read = (&inputs[..], &shape);
            let checked = load::write_of(on, &intent.table, change, read, &self.config, &meter);
            return checked.boxed().await.map(drop);
        }
        let schema = block_in_place(|| formats::schema_of(&columns, &self.config.input));
        let schema = schema.map_err(load::format_error)?;
        let key = match &intent.missing {
            Missing::Made(key) | Missing::MadeNew(key) => key.as_ref(),
            Missing::Fails => None,
        };
        // Whether such a table can be made at all is asked first.
        let compared = store.differences(snapshot, &intent.table, &schema, key);
        match compared.boxed().await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

fn piece(message: &FlightData) -> Piece<'_> {
    Piece {
        header: &message.data_header,
        body: &message.data_body,
    }
}

fn nothing() -> Status {
    let text = "the stream has no message at all, so nobody knows what it is for: ADBC's driver sends none where there are no rows; \
                leave such a call out";
    refused(Error::invalid(text))
}

fn no_columns() -> Status {
    let text = "the stream ends before it says its columns";
    refused(Error::invalid(text))
}
