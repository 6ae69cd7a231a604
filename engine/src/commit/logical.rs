//! Logical commits: phases A to D of one attempt, and the retry loop.
//!
//! The order of writes, and what breaks without each rule:
//!
//! 1. Stage everything before phase A: the time between A and C is then a few manifest puts, far below the grace.
//! 2. A before B, whose versions wait at a gate: without the sidecar nobody could complete or abort what a killed writer left on a HEAD.
//! 3. B in table order: two operations that meet on several tables meet in one order.
//! 4. C is one compare-and-swap of all pins: a reader sees all of them or none.
//! 5. After phase A the outcome is what `resolve` reads from the manifest, never what a put returned.

use super::alter::check_uses;
use super::batch::Repeated;
use super::joined::Joined;
use super::kept::Kept;
use super::stage::{RowCounts, Staged, Write};
use super::streamed::Rows;
use crate::clock::Backoff;
use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::events::{Answer, ProtocolEvent};
use crate::ids::{OpId, TableName};
use crate::protocol::{Kind, Obstacle, obstacle};
use crate::publish::{Change, Record};
use crate::recovery::Met;
use crate::store::sidecar::CreateFacts;
use crate::store::state::TableEntry;
use crate::store::{Sidecar, SidecarTable, Snapshot, Store};
use squire_failpoints::{Guard, Seam, hit, stands};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One table's write.
#[derive(Debug, Clone)]
pub struct TableWrite {
    /// The table.
    pub table: TableName,
    /// What to do to it.
    pub write: Write,
}

/// Called with the ULID of an attempt before it puts anything.
pub type AttemptHook = Arc<dyn Fn(OpId) -> Result<()> + Send + Sync>;

/// A logical commit: everything in it becomes visible at once, or nothing.
#[derive(Clone)]
pub struct CommitRequest {
    /// The writes; each table at most once.
    pub writes: Vec<TableWrite>,
    /// Tables that must not have changed since the snapshot that the caller read: its manifest version.
    pub reads: BTreeMap<TableName, u64>,
    /// An id that makes the batch committed at most once, whoever sends it.
    pub batch: Option<String>,
    /// Who commits; the store's actor when `None`.
    pub actor: Option<String>,
    /// The commit message.
    pub message: String,
    /// How many conflicts are retried from a fresh snapshot.
    pub retries: u32,
    /// Told of each attempt's ULID before it begins.
    pub before_attempt: Option<AttemptHook>,
    /// For whose columns the rows were read: where those have changed since, what does not fit is a conflict.
    pub read_for: Option<Snapshot>,
}

impl std::fmt::Debug for CommitRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitRequest")
            .field("writes", &self.writes.len())
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

impl CommitRequest {
    /// A commit of `writes` with 100 retries and nothing else.
    pub fn new(writes: Vec<TableWrite>) -> Self {
        Self {
            writes,
            reads: BTreeMap::new(),
            batch: None,
            actor: None,
            message: String::new(),
            retries: 100,
            before_attempt: None,
            read_for: None,
        }
    }

    /// Whether it only appends what it holds, and reads nothing: such batches may be committed together.
    pub fn only_appends(&self) -> bool {
        is_blind(&self.reads, &self.writes) && !self.streams()
    }

    /// Whether rows of it are too many to be held.
    pub fn streams(&self) -> bool {
        let streams = |w: &TableWrite| matches!(w.write.added(), Some(Rows::Streamed(_)));
        self.writes.iter().any(streams)
    }
}

/// Whether `writes` only append and `reads` is empty: then a commit may land behind whatever came first.
pub(super) fn is_blind(reads: &BTreeMap<TableName, u64>, writes: &[TableWrite]) -> bool {
    reads.is_empty() && writes.iter().all(|w| appends(&w.write))
}

pub(super) fn appends(write: &Write) -> bool {
    matches!(write, Write::Append(_))
}

/// A commit that the manifest shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The operation.
    pub op: OpId,
    /// The tables with their pins before and after, as far as this process saw them.
    pub tables: Vec<Change>,
    /// What it did to the rows of each table.
    pub rows: BTreeMap<TableName, RowCounts>,
    /// How many attempts it took.
    pub attempts: u32,
}

/// How a commit ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Committed now.
    Committed(Committed),
    /// A batch with this id was committed before; nothing was done.
    AlreadyCommitted(OpId),
}

/// How a commit of several batches ended well.
#[derive(Debug)]
pub enum Together {
    /// All of them are committed now, by one operation.
    Committed(Committed),
    /// These were committed before; nothing was done, so the others may be committed without them.
    Repeated(Vec<Repeated>),
}

/// What to do about something that stands on a table's HEAD.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InTheWay {
    /// Help it to its end, or wait for that.
    Meet,
    /// Look no further: this was a guess.
    GiveUp,
}

/// Where one write goes.
pub(super) struct Goal {
    pub(super) entry: SidecarTable,
    /// The table as readers see it; `None` for one that is being created.
    pub(super) visible: Option<TableEntry>,
}

/// One table's write, staged, with the version that it may become.
pub(super) struct Prepared {
    pub(super) entry: SidecarTable,
    pub(super) staged: Staged,
    pub(super) slot: u64,
}

impl Store {
    /// Commits `request`, retrying conflicts from a fresh snapshot.
    ///
    /// # Errors
    /// `Conflict`: nothing of it is or will be visible. `Unknown`: ask `outcome_of` with the error's operation.
    /// `InvalidInput`, `NotFound`, `Refused`, `Drift`: nothing was committed.
    pub async fn commit(&self, request: &CommitRequest) -> Result<Outcome> {
        let ended = self.commit_together(std::slice::from_ref(request)).await;
        self.tidy().await;
        match ended? {
            Together::Committed(committed) => Ok(Outcome::Committed(committed)),
            Together::Repeated(repeated) => match repeated.into_iter().next() {
                Some(repeated) => repeated.answer.map(Outcome::AlreadyCommitted),
                None => Err(Error::internal("a batch is neither committed nor repeated")),
            },
        }
    }

    /// Commits `requests` as one operation, retrying conflicts from a fresh snapshot. Several of them must only append, and
    /// the first one's `retries` and `before_attempt` count for all. The rows of one table become one append, in the
    /// order of the requests; each batch keeps its id, digest, actor and message.
    ///
    /// It answers as soon as the manifest shows it. What is left of it goes with the next commit, or with [`Self::tidy`].
    ///
    /// # Errors
    /// As [`Self::commit`], for all of them: nothing of any is committed, but for `Unknown`.
    pub async fn commit_together(&self, requests: &[CommitRequest]) -> Result<Together> {
        let joined = Joined::of(requests, &self.options().actor)?;
        let ended = self.commit_retrying(&joined).await;
        let answered = match &ended {
            Ok(Together::Committed(committed)) => vec![(committed.op, Answer::Committed)],
            Ok(Together::Repeated(repeated)) => {
                let ops = repeated.iter().filter_map(|r| r.answer.as_ref().ok());
                ops.map(|op| (*op, Answer::Committed)).collect()
            }
            Err(e) => {
                let answer = match e.kind() {
                    ErrorKind::Unknown => Answer::Unknown,
                    _ => Answer::Conflict,
                };
                e.op().map(|op| (op, answer)).into_iter().collect()
            }
        };
        for (op, answer) in answered {
            self.tell(|| ProtocolEvent::Answered { op, answer });
        }
        ended
    }

    async fn commit_retrying(&self, joined: &Joined<'_>) -> Result<Together> {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        let mut kept = Kept::default();
        let mut attempt = 1;
        loop {
            let failed = match self.attempt(joined, attempt, &mut kept).await {
                Ok(outcome) => return Ok(outcome),
                Err(e) => e,
            };
            let unfit = failed.kind() == ErrorKind::InvalidInput;
            if unfit && (attempt > 1 || self.has_other_columns(joined).await?) {
                return Err(changed_meanwhile(failed));
            }
            if failed.disposition() != Disposition::Retry || attempt > joined.retries {
                return Err(failed);
            }
            tracing::debug!(attempt, error = %failed, "attempt lost, retrying from a fresh snapshot");
            if failed.op().is_some() {
                // Some of it had landed and was taken back: cleanup may delete those versions with their files.
                kept.clear();
            }
            self.catch_up(&joined.writes).await?;
            attempt += 1;
            backoff.wait(self.clock(), &self.entropy).await;
        }
    }

    /// Whether a written table has other columns than those that its rows were read for.
    async fn has_other_columns(&self, joined: &Joined<'_>) -> Result<bool> {
        let Some(then) = joined.read_for else {
            return Ok(false);
        };
        let now = self.load().await?;
        for write in &joined.writes {
            let entries = (
                then.state.tables.get(&write.table),
                now.state.tables.get(&write.table),
            );
            let (Some(then), Some(now)) = entries else {
                continue;
            };
            if then == now {
                continue;
            }
            // Of a version that is gone nothing is known.
            let Ok(then) = self.open_pinned(then).await else {
                return Ok(true);
            };
            if then.schema() != self.open_pinned(now).await?.schema() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Publishes the clean prefix of every table whose rows a write reads: staged on a pin below an unpublished
    /// rewrite it would lose again and again, for ever when the rewrite's process is dead.
    async fn catch_up(&self, writes: &[TableWrite]) -> Result<()> {
        for TableWrite { table, write } in writes {
            if appends(write) || matches!(write, Write::Create { .. }) {
                continue;
            }
            let kind = Kind::Maintenance.as_str();
            let record = Record::new(self.new_op(), kind, &self.options().actor, "catch up");
            self.publish_prefix(table, &record).await?;
        }
        Ok(())
    }

    async fn attempt(
        &self,
        joined: &Joined<'_>,
        attempt: u32,
        kept: &mut Kept,
    ) -> Result<Together> {
        let op = self.new_op();
        if let Some(hook) = joined.before_attempt {
            hook(op)?;
        }
        let writes = &joined.writes;
        let guess = self.guess(joined).await;
        // Asked before anything is staged, and again if the manifest has moved on.
        if let Some(guess) = &guess {
            let repeated = self.repeated(guess, joined).await?;
            if !repeated.is_empty() {
                return Ok(Together::Repeated(repeated));
            }
        }
        let basing = self.base(op, writes, guess.as_ref(), kept);
        let (based, ()) = futures::future::join(basing, self.tidy()).await;
        let (base, guessed) = based?;
        if guess.is_none_or(|guess| guess.version() != base.version()) {
            let repeated = self.repeated(&base, joined).await?;
            if !repeated.is_empty() {
                return Ok(Together::Repeated(repeated));
            }
        }
        // What was committed before has moved what it read itself.
        let reads = self.standing_reads(&base, joined.reads).await?;
        let prepared = match guessed {
            Some(prepared) => prepared,
            None => {
                self.prepare(&base, op, writes, kept, InTheWay::Meet)
                    .await?
            }
        };
        hit(Seam::WriteAfterStage)?;
        hit(Seam::WriteAfterScan)?;
        let sidecar = sidecar_of(joined, op, &prepared, reads);
        let committed = self.finish(&base, &sidecar, prepared, kept, attempt);
        let committed = committed.await?;
        Ok(Together::Committed(committed))
    }

    /// The latest manifest, and what was prepared on `guess` if that counts.
    async fn base(
        &self,
        op: OpId,
        writes: &[TableWrite],
        guess: Option<&Snapshot>,
        kept: &mut Kept,
    ) -> Result<(Snapshot, Option<Vec<Prepared>>)> {
        let Some(guess) = guess else {
            return Ok((self.load().await?, None));
        };
        let preparing = self.prepare(guess, op, writes, kept, InTheWay::GiveUp);
        let (now, prepared) = futures::future::join(self.load(), preparing).await;
        let now = now?;
        match prepared {
            Ok(prepared) if same_pins(guess, &now, writes) => Ok((now, Some(prepared))),
            // An attempt that stands on a manifest from before its scan is lost to who was published in between.
            _ => Ok((self.load().await?, None)),
        }
    }

    /// What a blind append is prepared on while the manifest is asked for: it reads nothing, so a guess that turns out
    /// stale costs one more look at the manifest and the tables.
    async fn guess(&self, joined: &Joined<'_>) -> Option<Snapshot> {
        if is_blind(joined.reads, &joined.writes) {
            self.remembered().await
        } else {
            None
        }
    }

    /// Stages every write and finds its slot, at the same time: a round trip less, and an early end when something
    /// stands in the way. A guess is staged to its end: appends are kept, whatever slot they find.
    async fn prepare(
        &self,
        base: &Snapshot,
        op: OpId,
        writes: &[TableWrite],
        kept: &mut Kept,
        on: InTheWay,
    ) -> Result<Vec<Prepared>> {
        let goals = self.goals(base, op, writes).await?;
        let is_local = self.objects.has_direct_local_paths();
        if is_local {
            // The files of a write would make a folder anew that is gone, and a local disk answers at once.
            self.check_pins(&goals).await?;
        }
        let pins = async {
            match is_local {
                true => Ok(()),
                false => self.check_pins(&goals).await,
            }
        };
        let slots = goals.iter().zip(writes);
        let slots = slots.map(|(goal, w)| self.free_slot(base, &goal.entry, &w.write, on));
        // Not cut short by the first that fails: who has met an operation brings it to its end, its sidecar included.
        let slots = async {
            let slots = futures::future::join_all(slots);
            let (pins, slots) = futures::future::join(pins, slots).await;
            pins?;
            slots.into_iter().collect::<Result<Vec<_>>>()
        };
        let staging = self.stage_all(&goals, writes, kept);
        let (staged, slots) = match on {
            InTheWay::Meet => futures::future::try_join(staging, slots).await?,
            InTheWay::GiveUp => {
                let (staged, slots) = futures::future::join(staging, slots).await;
                (staged?, slots?)
            }
        };
        let parts = goals.into_iter().zip(staged).zip(slots);
        Ok(parts
            .map(|((goal, staged), slot)| Prepared {
                entry: goal.entry,
                staged,
                slot,
            })
            .collect())
    }

    async fn check_pins(&self, goals: &[Goal]) -> Result<()> {
        let visible = goals.iter().filter_map(|goal| goal.visible.as_ref());
        let checks = visible.map(|entry| self.check_pin(entry));
        futures::future::try_join_all(checks).await.map(drop)
    }

    async fn goals(&self, base: &Snapshot, op: OpId, writes: &[TableWrite]) -> Result<Vec<Goal>> {
        let mut goals = Vec::with_capacity(writes.len());
        for TableWrite { table, write } in writes {
            goals.push(self.goal(base, op, table, write).await?);
        }
        Ok(goals)
    }

    /// Where a write goes: a visible table's path and pin, or a fresh path for a create.
    async fn goal(
        &self,
        base: &Snapshot,
        op: OpId,
        table: &TableName,
        write: &Write,
    ) -> Result<Goal> {
        let Write::Create { key, .. } = write else {
            let visible = base.state.table(table)?.clone();
            check_uses(&base.state, table, write)?;
            let entry = SidecarTable {
                table: table.clone(),
                path: visible.path.clone(),
                base: visible.version,
                create: None,
            };
            return Ok(Goal {
                entry,
                visible: Some(visible),
            });
        };
        if base.state.tables.contains_key(table) {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("table {table} exists already"),
            ));
        }
        table.check_new()?;
        let plain = format!("{table}.lance");
        let burned = stands(Guard::BurnedPath) && base.state.is_burned(&plain, op);
        let path = if burned || self.any_handle(&plain).await?.is_some() {
            format!("{table}~{op}.lance")
        } else {
            plain
        };
        let create = Some(CreateFacts { key: key.clone() });
        let entry = SidecarTable {
            table: table.clone(),
            path,
            base: 0,
            create,
        };
        Ok(Goal {
            entry,
            visible: None,
        })
    }

    /// The slot after HEAD if everything since the base is content-preserving; otherwise meets what stands there.
    async fn free_slot(
        &self,
        base: &Snapshot,
        entry: &SidecarTable,
        write: &Write,
        on: InTheWay,
    ) -> Result<u64> {
        let chain = self.scan(base.state.store, &entry.path, entry.base).await?;
        match obstacle(&chain, entry.base).filter(|_| stands(Guard::CleanBase)) {
            // The next attempt stands on it: it is published before.
            None if write.changes_columns() && chain.head() > entry.base => Err(Error::conflict(
                format!("table {} was maintained meanwhile", entry.table),
            )),
            None => Ok(chain.head() + 1),
            Some(_) if on == InTheWay::GiveUp => {
                Err(Error::conflict(format!("table {} is taken", entry.table)))
            }
            Some(Obstacle::Foreign(version)) => {
                let now = self.load().await?;
                if now
                    .state
                    .tables
                    .get(&entry.table)
                    .is_some_and(|t| t.version > entry.base)
                {
                    return Err(Error::conflict(format!("table {} moved on", entry.table)));
                }
                if let Some(visible) = now.state.tables.get(&entry.table)
                    && !self.pin_stands(visible).await?
                {
                    return Err(visible.replaced(format!("table {}", entry.table)));
                }
                Err(drift_error(&entry.table, version))
            }
            Some(Obstacle::Operation(other)) => match self.meet(other, &entry.table).await? {
                Met::Gone => Err(Error::conflict(format!(
                    "table {} was taken by operation {other}",
                    entry.table
                ))),
                Met::Unexplained(version) => Err(drift_error(&entry.table, version)),
            },
        }
    }
}

fn sidecar_of(
    joined: &Joined<'_>,
    op: OpId,
    prepared: &[Prepared],
    reads: Vec<SidecarTable>,
) -> Sidecar {
    let started_ms = ulid::Ulid::from(op).timestamp_ms();
    let mut sidecar = Sidecar::of_batches(op, &joined.batches, started_ms);
    sidecar.set_writes(prepared.iter().map(|p| p.entry.clone()).collect());
    sidecar.reads = reads;
    sidecar
}

/// Whether the written tables are in `now` what they were in `guess`. Pins only go up, so then they were that at every
/// moment in between, and what was found on the guess holds.
fn same_pins(guess: &Snapshot, now: &Snapshot, writes: &[TableWrite]) -> bool {
    let entry = |of: &Snapshot, table| of.state.tables.get(table).cloned();
    writes
        .iter()
        .all(|w| entry(guess, &w.table) == entry(now, &w.table))
}

/// What fitted when it was read, or when the commit began, does so no more: the table's columns were changed, and nothing is wrong
/// with the input.
fn changed_meanwhile(unfit: Error) -> Error {
    Error::conflict("the columns changed while this was committed; read the input again")
        .caused_by(unfit)
}

pub(super) fn drift_error(table: &TableName, version: u64) -> Error {
    Error::new(
        ErrorKind::Drift,
        format!(
            "table {table}: version {version} was committed by something else than squire; see `squire repair`"
        ),
    )
}
