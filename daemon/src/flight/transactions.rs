//! Puts that wait for the end of their transaction. They live in memory, and their rows in files without a name.
//!
//! A put names its transaction: by the field of `CommandStatementIngest`, or by the header `squire.transaction`. ADBC's driver begins
//! one for each connection whose autocommit is off and names it in no put: such a put belongs to the transaction that was begun on
//! its connection. Other clients share connections within a process, so of theirs nothing is concluded from a connection.
//!
//! One that is over, by its age, is remembered until it is ended or its connection is: a put into it must not become a commit of its
//! own.

use super::failure::beyond;
use super::received::{Missing, Put};
use crate::config::FlightConfig;
use squire_engine::ids::TableName;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// What is committed together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) puts: Vec<Put>,
    pub(super) id: Option<String>,
    pub(super) message: Option<String>,
}

impl Batch {
    /// Takes the batch id that a call names.
    pub(super) fn name(&mut self, id: Option<String>) -> Result<(), Status> {
        match (&self.id, id) {
            (_, None) => {}
            (Some(own), Some(other)) if *own != other => {
                return Err(Status::invalid_argument(format!(
                    "a transaction is one batch, and its calls name the batch ids {own:?} and {other:?}"
                )));
            }
            (_, id) => self.id = id,
        }
        Ok(())
    }

    /// Takes a put. Rows for a table that has some already go with them.
    pub(super) fn add(&mut self, put: Put) -> Result<(), Status> {
        let same = self.puts.iter_mut().find(|other| other.table == put.table);
        match same {
            None => self.puts.push(put),
            Some(other) if other.takes(&put) => other.join(put),
            Some(_) => {
                return Err(Status::invalid_argument(format!(
                    "a transaction writes table {} in one mode; end it, and write to the table in the next one",
                    put.table
                )));
            }
        }
        Ok(())
    }
}

/// All of them, by what they are called.
#[derive(Debug)]
pub(super) struct Transactions {
    most: usize,
    age: Duration,
    all: Mutex<HashMap<String, Transaction>>,
}

#[derive(Debug)]
struct Transaction {
    /// Where it was begun; `None` when that connection is closed.
    connection: Option<u64>,
    /// Whether what comes on that connection without a name belongs to it.
    is_of_connection: bool,
    /// When the first rows were put.
    since: Option<Instant>,
    /// `None`: it is over.
    batch: Option<Batch>,
    /// Why a part of it was refused.
    refused: Option<String>,
}

/// One that was ended, without what was put.
#[derive(Debug)]
pub(super) struct Ended(Transaction);

impl Transactions {
    pub(super) fn of(config: &FlightConfig) -> Self {
        Self {
            most: config.transactions,
            age: config.transaction_age,
            all: Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Transaction>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all().len()
    }

    /// Begins one that is called `name`.
    pub(super) fn begin(
        &self,
        name: String,
        (connection, is_of_connection): (u64, bool),
        batch: Batch,
    ) -> Result<(), Status> {
        let mut all = self.all();
        if all.len() >= self.most {
            let most = self.most;
            let what = format!("{most} transactions are open, and no more may be");
            return Err(beyond(what, "flight_transactions"));
        }
        let transaction = Transaction {
            connection: Some(connection),
            is_of_connection,
            since: None,
            batch: Some(batch),
            refused: None,
        };
        all.insert(name, transaction);
        Ok(())
    }

    /// The one that a put on `connection` belongs to which names none.
    pub(super) fn of_connection(&self, connection: u64) -> Result<Option<String>, Status> {
        let all = self.all();
        let mut own = all
            .iter()
            .filter(|(_, t)| t.is_of_connection && t.connection == Some(connection));
        match (own.next(), own.next()) {
            (Some(_), Some(_)) => Err(Status::failed_precondition(
                "several transactions were begun on this connection, and the put names none; is there a proxy that several clients \
                 share? Connect to the agent itself, or name the transaction in the header squire.transaction",
            )),
            (one, _) => Ok(one.map(|(name, _)| name.clone())),
        }
    }

    /// Whether rows may be put into `name`.
    pub(super) fn check(&self, name: &str) -> Result<(), Status> {
        match self.all().get(name) {
            Some(Transaction { batch: Some(_), .. }) => Ok(()),
            _ => Err(over(name)),
        }
    }

    /// Whether `name` makes `table`, so that it is not there yet.
    pub(super) fn makes(&self, name: &str, table: &TableName) -> bool {
        let all = self.all();
        let batch = all.get(name).and_then(|t| t.batch.as_ref());
        let mut puts = batch.into_iter().flat_map(|batch| &batch.puts);
        puts.any(|put| put.table == *table && put.missing != Missing::Fails)
    }

    /// Puts rows into `name`.
    pub(super) fn add(&self, name: &str, put: Put, id: Option<String>) -> Result<(), Status> {
        let mut all = self.all();
        let transaction = all.get_mut(name).ok_or_else(|| over(name))?;
        let batch = transaction.batch.as_mut().ok_or_else(|| over(name))?;
        batch.name(id)?;
        batch.add(put)?;
        transaction.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// A part of it was refused: what is left is not the batch that somebody wanted.
    pub(super) fn refuse(&self, name: &str, why: &str) {
        if let Some(transaction) = self.all().get_mut(name) {
            transaction.refused.get_or_insert_with(|| why.to_owned());
        }
    }

    /// Ends it, and gives what was put, with what takes it back.
    ///
    /// # Errors
    /// It is over, or a part of it was refused: nothing of it is committed.
    pub(super) fn end(&self, name: &str) -> Result<(Batch, Ended), Status> {
        let mut ended = self.all().remove(name).ok_or_else(|| over(name))?;
        if let Some(why) = ended.refused {
            return Err(Status::failed_precondition(format!(
                "transaction {name} is rolled back: a part of it was refused ({why}); send all of its rows again in another one"
            )));
        }
        let batch = ended.batch.take().ok_or_else(|| over(name))?;
        Ok((batch, Ended(ended)))
    }

    /// What was ended could not be committed, and may be tried again.
    pub(super) fn reopen(&self, name: &str, batch: Batch, Ended(mut ended): Ended) {
        ended.batch = Some(batch);
        self.all().insert(name.to_owned(), ended);
    }

    /// Ends it, and forgets what was put.
    pub(super) fn roll_back(&self, name: &str) {
        drop(self.all().remove(name));
    }

    /// A connection is closed. What only it could end is over.
    pub(super) fn closed(&self, connection: u64) {
        self.all().retain(|_, t| {
            if t.connection != Some(connection) {
                return true;
            }
            t.connection = None;
            !t.is_of_connection && t.batch.is_some()
        });
    }

    /// Takes the rows from those that are too old.
    pub(super) fn expire(&self) {
        let age = self.age;
        self.all().retain(|name, t| {
            let is_old = t.since.is_some_and(|since| since.elapsed() >= age);
            let is_left = t.connection.is_none() && t.since.is_none();
            if is_old && t.batch.take().is_some() {
                tracing::warn!(
                    transaction = name,
                    "rolled back: it was open for longer than agent.flight_transaction_age"
                );
            }
            !(is_left || is_old && t.connection.is_none())
        });
    }
}

fn over(name: &str) -> Status {
    Status::failed_precondition(format!(
        "transaction {name} is not open: it was ended, was open for longer than agent.flight_transaction_age, or was begun before the \
         agent was started anew; nothing of it is committed unless its end was answered: roll it back, and send its rows again in \
         another one"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AgentConfig;
    use tonic::Code;

    fn all(most: usize) -> Transactions {
        let config = AgentConfig::default().flight;
        Transactions::of(&FlightConfig {
            transactions: most,
            ..config
        })
    }

    fn begin(all: &Transactions, name: &str, of: (u64, bool)) -> Result<(), Status> {
        all.begin(name.to_owned(), of, Batch::default())
    }

    #[test]
    fn rows_without_a_name_belong_to_the_only_one_of_their_connection() {
        let all = all(9);
        begin(&all, "a", (1, true)).unwrap();
        begin(&all, "named", (1, false)).unwrap();
        assert_eq!(all.of_connection(1).unwrap().as_deref(), Some("a"));
        assert_eq!(all.of_connection(2).unwrap(), None);
        begin(&all, "b", (1, true)).unwrap();
        let several = all.of_connection(1).unwrap_err();
        assert_eq!(several.code(), Code::FailedPrecondition);
        assert!(several.message().contains("squire.transaction"));
        all.roll_back("b");
        assert_eq!(all.of_connection(1).unwrap().as_deref(), Some("a"));
        all.closed(1);
        assert!(all.check("a").is_err() && all.check("named").is_ok());
        all.expire();
        assert_eq!(
            all.count(),
            0,
            "nobody has put anything into it, and nobody is there"
        );
    }

    #[test]
    fn there_are_no_more_than_may_be_and_each_ends_once() {
        let all = all(1);
        begin(&all, "a", (1, false)).unwrap();
        let full = begin(&all, "b", (1, false)).unwrap_err();
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert!(full.message().contains("agent.flight_transactions"));
        let (batch, ended) = all.end("a").unwrap();
        assert!(all.end("a").is_err());
        all.reopen("a", batch, ended);
        assert!(all.check("a").is_ok() && all.end("a").is_ok());
    }

    #[test]
    fn what_was_refused_in_part_is_not_committed() {
        let all = all(1);
        begin(&all, "a", (1, false)).unwrap();
        all.refuse("a", "column x is a text");
        all.refuse("a", "and more");
        let refused = all.end("a").unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("column x is a text"));
        assert_eq!(all.count(), 0, "it is over");
    }

    #[test]
    fn a_batch_has_one_id() {
        let mut batch = Batch::default();
        batch.name(Some("a".to_owned())).unwrap();
        batch.name(None).unwrap();
        batch.name(Some("a".to_owned())).unwrap();
        assert!(batch.name(Some("b".to_owned())).is_err());
    }
}
