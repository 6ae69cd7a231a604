//! A writer process: one operation after another through the engine, each in the history before and after.

use super::history::{Answer, Begin, Call, End, Event, History, Recorder};
use super::model::{Change, Digest, Row};
use super::plan::{Operation, Workload};
use super::{ACCOUNTS, now_us};
use crate::read_rows;
use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use squire_engine::clock::{Clock, SystemClock};
use squire_engine::commit::{AttemptHook, CommitRequest, Outcome, TableWrite, When, Write};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::TableName;
use squire_engine::store::{Store, StoreOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long writers leave an undecided operation of another process alone: far shorter than many pauses.
pub const GRACE: Duration = Duration::from_millis(400);

/// The exit code of a writer that could not even open the store.
pub const NO_STORE: i32 = 7;

/// Who this process is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The store.
    pub uri: String,
    /// Its number among the writers.
    pub number: u32,
    /// How often it was started before.
    pub incarnation: u32,
    /// The run's seed.
    pub seed: u64,
    /// The directory of the history.
    pub history: PathBuf,
}

impl Identity {
    fn process(&self) -> String {
        format!("w{}.{}", self.number, self.incarnation)
    }
}

/// Commits until it is killed, or its parent is gone.
pub async fn run(identity: &Identity) -> Result<()> {
    let parent = nix::unistd::getppid();
    let options = StoreOptions {
        grace: GRACE,
        actor: identity.process(),
        wrapper: squire_engine::store::faults::from_env()?,
        events: squire_engine::trace::from_env(SystemClock::default().now_ms())?,
        ..StoreOptions::default()
    };
    let store = open(&identity.uri, options).await?;
    let mut writer = Writer::new(store, identity);
    let mut work = Workload::new(identity.seed, identity.number, identity.incarnation);
    if let Some(call) = unresolved(identity)
        && work.chance(0.7)
    {
        writer.repeat(&call.begin).await;
    }
    while nix::unistd::getppid() == parent {
        let answered = writer.one(&mut work).await;
        // Whoever does not know repeats the batch: the batch id makes it safe.
        if let Some((begin, Answer::Unknown)) = answered
            && begin.batched
            && begin.reads.is_empty()
            && work.chance(0.7)
        {
            writer.repeat(&begin).await;
        }
        tokio::time::sleep(work.pause()).await;
    }
    Ok(())
}

async fn open(uri: &str, options: StoreOptions) -> Result<Arc<Store>> {
    let mut last = None;
    for _ in 0..20 {
        match Store::open(uri, options.clone()).await {
            Ok(store) => return Ok(store),
            Err(e) => last = Some(e),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(last.unwrap_or_else(|| Error::internal("opened nothing")))
}

/// What the incarnation before this one began and did not see the end of, if it can be repeated.
fn unresolved(identity: &Identity) -> Option<Call> {
    let before = identity.incarnation.checked_sub(1)?;
    let mut history = History::of(&identity.history);
    history.catch_up();
    let process = format!("w{}.{before}", identity.number);
    let open = history
        .calls
        .into_values()
        .filter(|c| c.process() == process);
    open.filter(|c| c.begin.batched && c.begin.reads.is_empty())
        .find(|c| c.answer().is_none())
}

/// Commits and records.
pub struct Writer {
    store: Arc<Store>,
    recorder: Arc<Recorder>,
    process: String,
    calls: u32,
}

impl Writer {
    /// A writer on `store`.
    pub fn new(store: Arc<Store>, identity: &Identity) -> Self {
        let process = identity.process();
        let path = identity.history.join(format!("{process}.jsonl"));
        Self {
            store,
            recorder: Arc::new(Recorder::open(&path)),
            process,
            calls: 0,
        }
    }

    /// The name of the next call; a call is its own batch unless it repeats one.
    fn next_call(&mut self) -> String {
        self.calls += 1;
        format!("{}/{:06}", self.process, self.calls)
    }

    /// One operation; `None` when there was nothing to do.
    async fn one(&mut self, work: &mut Workload) -> Option<(Begin, Answer)> {
        let call = self.next_call();
        let begin = Begin {
            tag: call.clone(),
            call,
            at_us: 0,
            changes: BTreeMap::new(),
            reads: BTreeMap::new(),
            batched: work.chance(0.8),
        };
        match work.next(&begin.tag) {
            Operation::Blind(changes) => {
                let begin = Begin { changes, ..begin };
                let answer = self.submit(&begin, BTreeMap::new()).await;
                Some((begin, answer))
            }
            planned => self.after_reading(begin, planned, work).await,
        }
    }

    /// Reads both tables of accounts and writes what follows from them, if they are still the same then.
    async fn after_reading(
        &mut self,
        mut begin: Begin,
        planned: Operation,
        work: &mut Workload,
    ) -> Option<(Begin, Answer)> {
        // The operation begins with its first read: it may not stand before anything that was acknowledged by then,
        // and need not stand behind what is acknowledged later.
        let at_us = now_us();
        let (versions, tables) = match self.accounts().await {
            Ok(read) => read,
            Err(e) => {
                tracing::debug!(error = %e, "the accounts cannot be read now");
                return None;
            }
        };
        begin.reads = ACCOUNTS
            .iter()
            .zip(&tables)
            .map(|(table, rows)| ((*table).to_owned(), Digest::of(rows)))
            .collect();
        begin.changes = match planned {
            Operation::Transfer {
                giver,
                accounts,
                amount,
            } => transfer(&tables, giver, accounts, amount)?,
            _ => work.audit(&begin.tag, sum(&tables)),
        };
        begin.at_us = at_us;
        let answer = self.submit(&begin, versions).await;
        Some((begin, answer))
    }

    async fn accounts(&self) -> Result<(BTreeMap<TableName, u64>, [Vec<Row>; 2])> {
        let snapshot = self.store.load().await?;
        let mut versions = BTreeMap::new();
        let mut tables = [Vec::new(), Vec::new()];
        for (rows, table) in tables.iter_mut().zip(ACCOUNTS) {
            let table: TableName = table.parse()?;
            let dataset = self.store.read(&snapshot, &table).await?;
            *rows = read_rows(&dataset).await?;
            versions.insert(table, snapshot.version());
        }
        Ok((versions, tables))
    }

    /// The same batch once more.
    pub async fn repeat(&mut self, begin: &Begin) {
        let begin = Begin {
            call: self.next_call(),
            at_us: 0,
            ..begin.clone()
        };
        self.submit(&begin, BTreeMap::new()).await;
    }

    /// Records the call, commits, records the answer.
    pub async fn submit(&mut self, begin: &Begin, reads: BTreeMap<TableName, u64>) -> Answer {
        let begun = Begin {
            at_us: if begin.at_us == 0 {
                now_us()
            } else {
                begin.at_us
            },
            ..begin.clone()
        };
        let mut request = CommitRequest::new(writes(&begin.changes));
        // What was computed from reads cannot be tried again from another snapshot.
        request.retries = if reads.is_empty() { 20 } else { 0 };
        request.reads = reads;
        request.message.clone_from(&begin.tag);
        request.batch = begin.batched.then(|| begin.tag.clone());
        request.before_attempt = Some(self.attempts_of(&begin.call));
        self.recorder.record(&Event::Begin(begun));
        let done = self.store.commit(&request).await;
        let (answer, op, error) = match done {
            Ok(Outcome::Committed(c)) => (Answer::Committed, Some(c.op), None),
            Ok(Outcome::AlreadyCommitted(op)) => (Answer::AlreadyCommitted, Some(op), None),
            Err(e) => {
                let answer = match e.kind() {
                    ErrorKind::Unknown => Answer::Unknown,
                    _ => Answer::Refused,
                };
                (answer, e.op(), Some(e.to_string()))
            }
        };
        self.recorder.record(&Event::End(End {
            call: begin.call.clone(),
            at_us: now_us(),
            answer,
            op: op.map(|op| op.to_string()),
            error,
        }));
        answer
    }

    fn attempts_of(&self, call: &str) -> AttemptHook {
        let (recorder, call) = (self.recorder.clone(), call.to_owned());
        Arc::new(move |op| {
            recorder.record(&Event::Attempt {
                call: call.clone(),
                op: op.to_string(),
            });
            Ok(())
        })
    }
}

/// The sum of all balances.
pub fn sum(tables: &[Vec<Row>; 2]) -> i64 {
    tables.iter().flatten().map(|(_, v)| balance(v)).sum()
}

/// A balance as it is stored.
pub fn balance(value: &str) -> i64 {
    value.parse().expect("a balance")
}

fn transfer(
    tables: &[Vec<Row>; 2],
    giver: usize,
    accounts: [i64; 2],
    amount: i64,
) -> Option<BTreeMap<String, Change>> {
    let taker = 1 - giver;
    let held = |table: usize, account: i64| {
        let rows = &tables[table];
        rows.iter()
            .find(|(id, _)| *id == account)
            .map(|(_, value)| balance(value))
    };
    let (from, to) = (held(giver, accounts[0])?, held(taker, accounts[1])?);
    if from < amount {
        return None;
    }
    let set = |table: usize, account, value: i64| {
        let rows = vec![(account, value.to_string())];
        (ACCOUNTS[table].to_owned(), Change::Merge(rows))
    };
    Some(BTreeMap::from([
        set(giver, accounts[0], from - amount),
        set(taker, accounts[1], to + amount),
    ]))
}

fn batch(rows: &[Row]) -> Vec<RecordBatch> {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Utf8, true),
    ]);
    let ids = Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id));
    let values = StringArray::from_iter_values(rows.iter().map(|(_, value)| value));
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(values)]);
    vec![batch.expect("two columns of one length")]
}

fn writes(changes: &BTreeMap<String, Change>) -> Vec<TableWrite> {
    let key = || "id".parse().expect("a key");
    let merge = |when, rows: &[Row]| Write::Merge {
        key: key(),
        when,
        rows: batch(rows),
    };
    let range = |from: &i64, until: &i64| format!("id >= {from} AND id < {until}");
    let write = |change: &Change| match change {
        Change::Append(rows) => Write::Append(batch(rows).into()),
        Change::Merge(rows) => merge(When::Upsert, rows),
        Change::Insert(rows) => merge(When::Insert, rows),
        Change::Update(rows) => merge(When::Update, rows),
        Change::Replace(from, until, rows) => Write::Replace {
            predicate: range(from, until),
            rows: batch(rows).into(),
        },
        Change::DeleteKeys(ids) => Write::DeleteKeys {
            key: key(),
            rows: batch(
                &ids.iter()
                    .map(|id| (*id, String::new()))
                    .collect::<Vec<_>>(),
            ),
        },
        Change::DeleteRange(from, until) => Write::Delete {
            predicate: range(from, until),
        },
        Change::Overwrite(rows) => Write::Overwrite(batch(rows).into()),
    };
    let named = changes.iter().map(|(table, change)| TableWrite {
        table: table.parse().expect("a table's name"),
        write: write(change),
    });
    named.collect()
}

/// Puts the first money into the accounts.
pub async fn endow(uri: &str, history: &Path) -> Result<()> {
    let store = Store::open(uri, StoreOptions::default()).await?;
    let identity = Identity {
        uri: uri.to_owned(),
        number: 999,
        incarnation: 0,
        seed: 0,
        history: history.to_owned(),
    };
    let mut writer = Writer::new(store, &identity);
    let rows: Vec<Row> = (0..super::ACCOUNTS_EACH)
        .map(|id| (id, super::BALANCE.to_string()))
        .collect();
    let call = writer.next_call();
    let begin = Begin {
        tag: call.clone(),
        call,
        at_us: 0,
        changes: ACCOUNTS
            .map(|table| (table.to_owned(), Change::Append(rows.clone())))
            .into(),
        reads: BTreeMap::new(),
        batched: true,
    };
    match writer.submit(&begin, BTreeMap::new()).await {
        Answer::Committed => Ok(()),
        other => Err(Error::internal(format!("the accounts: {other:?}"))),
    }
}
