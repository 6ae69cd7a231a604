//! A commit written down step by step, for programs that write.

use super::logical::{CommitRequest, Committed, Outcome, TableWrite};
use super::merge::When;
use super::stage::Write;
use super::streamed::Rows;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Key, OpId, TableName};
use crate::store::{Snapshot, Store};
use arrow_array::RecordBatch;

/// Writes to several tables that become visible together, or not at all. Nothing happens before [`Self::commit`].
///
/// A batch that lands in two tables or in none, at most once however often it is sent:
/// ```no_run
/// # use squire_engine::{commit::Ending, error::Result, store::Store};
/// # async fn example(store: &Store, orders: arrow_array::RecordBatch, lines: arrow_array::RecordBatch) -> Result<()> {
/// let ending = store
///     .transaction()
///     .append(&"orders".parse()?, vec![orders])
///     .merge(&"lines".parse()?, &"order,line".parse()?, vec![lines])
///     .batch_id("orders-2026-11-27")
///     .message("nightly load")
///     .commit()
///     .await?;
/// match ending {
///     Ending::Committed(committed) => println!("{}", committed.op),
///     Ending::AlreadyCommitted(op) => println!("was there: {op}"),
///     // The same batch id makes it safe to send it again.
///     Ending::Conflict(why) | Ending::Unknown(why) => println!("again: {why}"),
/// }
/// # Ok(()) }
/// ```
///
/// What was computed from rows that were read is committed only if they are still the same:
/// ```no_run
/// # use squire_engine::{commit::Ending, error::{ErrorKind, Result}, store::Store};
/// # async fn example(store: &Store, totals: arrow_array::RecordBatch) -> Result<()> {
/// let read = store.load().await?;
/// // Read orders as that snapshot shows it, and compute the totals.
/// let ending = store
///     .transaction()
///     .require(&"orders".parse()?, &read)
///     .replace(&"totals".parse()?, "day = '2026-11-27'", vec![totals])
///     .commit()
///     .await?;
/// if let Ending::Conflict(why) = ending
///     && why.kind() == ErrorKind::Stale
/// {
///     // Read again, and compute the totals anew.
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "nothing is committed before `commit`"]
pub struct Transaction<'a> {
    store: &'a Store,
    request: CommitRequest,
}

/// How a transaction ended. Whatever was wrong with it itself is an error instead.
#[derive(Debug)]
pub enum Ending {
    /// Committed now.
    Committed(Committed),
    /// A batch with this id was committed before; nothing was done.
    AlreadyCommitted(OpId),
    /// Nothing of it is or will be visible: others came first, again and again, or changed what it was computed from (`Stale`).
    Conflict(Error),
    /// It may be visible or not: ask [`Store::outcome_of`] with the error's operation, or send it again with its batch id.
    Unknown(Error),
}

impl Store {
    /// A transaction without any write.
    pub fn transaction(&self) -> Transaction<'_> {
        Transaction {
            store: self,
            request: CommitRequest::new(Vec::new()),
        }
    }
}

impl Transaction<'_> {
    fn write(mut self, table: &TableName, write: Write) -> Self {
        let table = table.clone();
        self.request.writes.push(TableWrite { table, write });
        self
    }

    /// Adds rows to `table`.
    pub fn append(self, table: &TableName, rows: impl Into<Rows>) -> Self {
        self.write(table, Write::Append(rows.into()))
    }

    /// Replaces the rows of `table` whose key is among these, and adds the others.
    pub fn merge(self, table: &TableName, key: &Key, rows: Vec<RecordBatch>) -> Self {
        let (key, when) = (key.clone(), When::Upsert);
        self.write(table, Write::Merge { key, when, rows })
    }

    /// Deletes the rows of `table` that a SQL predicate selects.
    pub fn delete(self, table: &TableName, predicate: impl Into<String>) -> Self {
        let predicate = predicate.into();
        self.write(table, Write::Delete { predicate })
    }

    /// Replaces all rows of `table`.
    pub fn overwrite(self, table: &TableName, rows: impl Into<Rows>) -> Self {
        self.write(table, Write::Overwrite(rows.into()))
    }

    /// Replaces the rows of `table` that a SQL predicate selects by these, which it must select too.
    pub fn replace(
        self,
        table: &TableName,
        predicate: impl Into<String>,
        rows: impl Into<Rows>,
    ) -> Self {
        let (predicate, rows) = (predicate.into(), rows.into());
        self.write(table, Write::Replace { predicate, rows })
    }

    /// Commits only if `table` is what `snapshot` shows.
    pub fn require(mut self, table: &TableName, snapshot: &Snapshot) -> Self {
        self.request.reads.insert(table.clone(), snapshot.version());
        self
    }

    /// Has it committed at most once, whoever sends it.
    pub fn batch_id(mut self, id: impl Into<String>) -> Self {
        self.request.batch = Some(id.into());
        self
    }

    /// What the commit log says of it.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.request.message = message.into();
        self
    }

    /// Commits; what conflicts is tried again from a fresh snapshot.
    ///
    /// # Errors
    /// As [`Store::commit`], but for those that an [`Ending`] tells: nothing was committed.
    pub async fn commit(self) -> Result<Ending> {
        match self.store.commit(&self.request).await {
            Ok(Outcome::Committed(committed)) => Ok(Ending::Committed(committed)),
            Ok(Outcome::AlreadyCommitted(op)) => Ok(Ending::AlreadyCommitted(op)),
            Err(e) => match e.kind() {
                ErrorKind::Conflict | ErrorKind::Stale => Ok(Ending::Conflict(e)),
                ErrorKind::Unknown => Ok(Ending::Unknown(e)),
                _ => Err(e),
            },
        }
    }
}
