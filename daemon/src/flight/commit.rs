//! From rows that are all there to an answer.
//!
//! A table that has to be made is made first, empty, by a commit of its own; the rows of all tables are one commit after that. With a
//! batch id, whoever sends both again finds what was done of them: the making of table T has the id `ID/create/T`.

use super::Flight;
use super::received::{Missing, Put};
use super::transactions::Batch;
use crate::formats::{self, Meter, Shape};
use crate::input::load;
use crate::input::streamed::Changes;
use futures::FutureExt;
use serde::Serialize;
use squire_engine::commit::{CommitRequest, Outcome, TableWrite, Write};
use squire_engine::error::{Error, ErrorKind, Result, caught};
use squire_engine::ids::{OpId, TableName};
use squire_engine::recovery::OperationOutcome;
use squire_engine::store::Snapshot;
use squire_engine::{commit::AttemptHook, ids::Key};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tokio::task::block_in_place;

/// A commit that goes on without whoever asked for it.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Attached to the error about a table that was to be new and is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exists;

/// What became of a put, or of the end of a transaction.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Done {
    pub(super) outcome: &'static str,
    pub(super) op: Option<OpId>,
    /// The version of the manifest that shows it first.
    pub(super) manifest_version: Option<u64>,
    /// The rows that came: the same for whoever sends them again.
    pub(super) rows: u64,
    /// The versions of the tables that show it, where this commit made them.
    pub(super) tables: BTreeMap<TableName, u64>,
}

impl Done {
    /// Nothing was committed, or not yet.
    pub(super) fn nothing(outcome: &'static str, rows: u64) -> Self {
        Self {
            outcome,
            op: None,
            manifest_version: None,
            rows,
            tables: BTreeMap::new(),
        }
    }
}

/// The operation of the latest attempt.
#[derive(Debug, Clone, Default)]
struct Latest(Arc<Mutex<Option<OpId>>>);

impl Latest {
    fn hook(&self) -> AttemptHook {
        let latest = self.0.clone();
        Arc::new(move |op| {
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(op);
            Ok(())
        })
    }

    fn op(&self) -> Option<OpId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Commits `batch` in a task of its own, and gives it back: what cannot be committed now may be later.
    pub(super) async fn commit(self: &Arc<Self>, batch: Batch) -> (Batch, Result<Done>) {
        let (answer, answered) = oneshot::channel();
        let flight = self.clone();
        let work = async move {
            let what = "committing rows that came by Flight";
            let ended = caught(what, flight.within(&batch)).await;
            // Whoever asked may have gone away.
            drop(answer.send((batch, ended)));
        };
        let gone = || Error::internal("the server of Flight has ended");
        if self.work.send(Box::pin(work)).is_err() {
            return (Batch::default(), Err(gone()));
        }
        let lost = (Batch::default(), Err(gone()));
        answered.await.unwrap_or(lost)
    }

    /// The same, given up when storage leaves it without an answer.
    async fn within(&self, batch: &Batch) -> Result<Done> {
        let latest = Latest::default();
        let committing = self.carry_out(batch, &latest);
        let ended = match tokio::time::timeout(self.config.attempt_timeout, committing).await {
            Ok(ended) => ended,
            Err(_) => Err(self.hangs(latest.op())),
        };
        ended.map_err(|e| match (&batch.id, e.kind()) {
            (Some(id), ErrorKind::Unknown) => e.advice(format!(
                "ask `squire op`, or send the same rows again with the batch id {id:?}: they are committed once"
            )),
            _ => e,
        })
    }

    fn hangs(&self, op: Option<OpId>) -> Error {
        let seconds = self.config.attempt_timeout.as_secs();
        let text = format!("no answer in {seconds} s (agent.attempt_timeout)");
        match op {
            Some(op) => Error::new(ErrorKind::Unknown, text).of(op),
            None => Error::new(ErrorKind::Storage, text),
        }
    }

    async fn carry_out(&self, batch: &Batch, latest: &Latest) -> Result<Done> {
        let rows = batch.puts.iter().map(|put| put.rows).sum();
        if batch.puts.is_empty() {
            return Ok(Done::nothing("empty", 0));
        }
        let before = self.store.load().await?;
        for put in &batch.puts {
            self.make(put, &before, batch.id.as_deref()).await?;
        }
        let snapshot = self.store.load().await?;
        let mut writes = Vec::with_capacity(batch.puts.len());
        let mut coerced = Vec::new();
        for put in &batch.puts {
            let (write, changes) = self.read(put, &snapshot).await?;
            let table = put.table.clone();
            writes.push(TableWrite { table, write });
            coerced.push(changes);
        }
        let mut request = CommitRequest::new(writes);
        request.read_for = Some(snapshot);
        request.batch.clone_from(&batch.id);
        request.message = batch.message.clone().unwrap_or_default();
        request.retries = self.config.conflict_retries;
        request.before_attempt = Some(latest.hook());
        let clock = self.store.clock();
        let started = clock.monotonic();
        let outcome = self.store.commit(&request).boxed().await?;
        let took = clock.monotonic().saturating_sub(started);
        self.tell(&outcome, rows, &coerced);
        let agent = &self.metrics.agent;
        agent.commit_seconds.observe(took.as_secs_f64());
        Ok(self.done(outcome, rows).await)
    }

    /// What is done to the table of `put`, as `snapshot` shows it.
    async fn read(&self, put: &Put, snapshot: &Snapshot) -> Result<(Write, Changes)> {
        let (on, change) = (
            (self.store.as_ref(), snapshot),
            (put.mode.clone(), self.config.schema),
        );
        let (shape, meter) = (self.shape(), Meter::default());
        let read = (put.inputs.as_slice(), &shape);
        load::write_of(on, &put.table, change, read, &self.config, &meter)
            .boxed()
            .await
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            coerce: self.config.coerce.clone(),
            ..Shape::default()
        }
    }

    /// Makes the table of `put`, if that is asked for and it is not there.
    async fn make(&self, put: &Put, before: &Snapshot, batch: Option<&str>) -> Result<()> {
        let is_there = before.state.tables.contains_key(&put.table);
        let key = match &put.missing {
            Missing::Fails => return Ok(()),
            Missing::Made(_) if is_there => return Ok(()),
            Missing::MadeNew(_) if is_there && batch.is_none() => return Err(exists(&put.table)),
            Missing::Made(key) | Missing::MadeNew(key) => key,
        };
        let making = self.making(put, key, batch)?;
        let made = self.store.commit(&making).boxed().await;
        match made {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::Refused => {
                let now = self.store.load().await?;
                match (&put.missing, now.state.tables.contains_key(&put.table)) {
                    // Somebody was faster.
                    (Missing::Made(_), true) => Ok(()),
                    (_, true) => Err(exists(&put.table)),
                    (_, false) => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    }

    fn making(&self, put: &Put, key: &Option<Key>, batch: Option<&str>) -> Result<CommitRequest> {
        let first = put.inputs.first();
        let first = first.ok_or_else(|| Error::internal("a put without a part"))?;
        let schema = block_in_place(|| formats::schema_of(first, &self.config.input));
        let table = put.table.clone();
        let write = Write::Create {
            schema: schema.map_err(load::format_error)?,
            key: key.clone(),
        };
        let mut request = CommitRequest::new(vec![TableWrite { table, write }]);
        request.batch = batch.map(|id| format!("{id}/create/{}", put.table));
        request.message = format!("table {} for rows that follow", put.table);
        Ok(request)
    }

    fn tell(&self, outcome: &Outcome, rows: u64, coerced: &[Changes]) {
        let agent = &self.metrics.agent;
        match outcome {
            Outcome::Committed(committed) => {
                agent.commits.inc();
                agent.rows.inc_by(rows);
                let retries = committed.attempts.saturating_sub(1);
                agent.conflicts.inc_by(u64::from(retries));
                let versions = committed.tables.iter();
                let versions = versions.map(|t| format!("{}@{}", t.table, t.to));
                let tables = versions.collect::<Vec<_>>().join(" ");
                tracing::info!(tables, rows, operation = %committed.op, "rows that came by Flight are committed");
                for change in coerced.iter().flat_map(Changes::all) {
                    let (table, file) = (change.table.as_str(), change.file);
                    tracing::info!(table, file, "{}", change.what);
                }
            }
            Outcome::AlreadyCommitted(op) => {
                tracing::info!(rows, operation = %op, "rows that came by Flight were committed before");
            }
        }
    }

    /// The answer. It is committed, so not to know its place in the log is no failure.
    async fn done(&self, outcome: Outcome, rows: u64) -> Done {
        let (outcome, op, changes) = match outcome {
            Outcome::Committed(committed) => ("committed", committed.op, committed.tables),
            Outcome::AlreadyCommitted(op) => ("already_committed", op, Vec::new()),
        };
        let manifest_version = match self.store.outcome_of(op).boxed().await {
            Ok(OperationOutcome::Committed { entry: Some(entry) }) => Some(entry.manifest_version),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, operation = %op, "its place in the log is not known");
                None
            }
        };
        Done {
            outcome,
            op: Some(op),
            manifest_version,
            rows,
            tables: changes.into_iter().map(|t| (t.table, t.to)).collect(),
        }
    }
}

pub(super) fn exists(table: &TableName) -> Error {
    let text = format!("table {table} exists already");
    Error::new(ErrorKind::Refused, text).with(Exists)
}
