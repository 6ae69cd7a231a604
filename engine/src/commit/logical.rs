//! Logical commits: phases A to D of one attempt, and the retry loop.
//!
//! The order of writes, and what breaks without each rule:
//!
//! 1. Stage everything before phase A: the time between A and C is then a few manifest puts, far below the grace.
//! 2. A before B: without the sidecar nobody could complete or abort what a killed writer left on a HEAD.
//! 3. B in table order: two operations that meet on several tables meet in one order.
//! 4. C is one compare-and-swap of all pins: a reader sees all of them or none.
//! 5. After phase A the outcome is what `resolve` reads from the manifest, never what a put returned.

use super::publish::{Change, Published, Record};
use super::stage::{Staged, Write};
use crate::clock::Backoff;
use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::ids::{OpId, TableName};
use crate::protocol::{Kind, Obstacle, Role, is_clean, obstacle};
use crate::recovery::{Met, Resolution};
use crate::store::sidecar::CreateFacts;
use crate::store::state::{TableEntry, encode};
use crate::store::{Sidecar, SidecarKind, SidecarTable, Snapshot, Store, Updates};
use lance::dataset::transaction::{Operation, TransactionBuilder};
use squire_failpoints::{Seam, hit};
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
    /// Tables that must not have changed since the snapshot that the caller read.
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
        }
    }
}

/// A commit that the manifest shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The operation.
    pub op: OpId,
    /// The tables with their pins before and after, as far as this process saw them.
    pub tables: Vec<Change>,
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

/// What attempts of one request share: staged files of blind appends outlive a lost attempt.
#[derive(Default)]
struct Kept {
    appends: BTreeMap<TableName, Operation>,
}

/// Where one write goes.
struct Goal {
    entry: SidecarTable,
    /// The table as readers see it; `None` for one that is being created.
    visible: Option<TableEntry>,
}

struct Prepared {
    entry: SidecarTable,
    staged: Staged,
    slot: u64,
}

impl Store {
    /// Commits `request`, retrying conflicts from a fresh snapshot.
    ///
    /// # Errors
    /// `Conflict`: nothing of it is or will be visible. `Unknown`: ask `outcome_of` with the error's operation.
    /// `InvalidInput`, `NotFound`, `Refused`, `Drift`: nothing was committed.
    pub async fn commit(&self, request: &CommitRequest) -> Result<Outcome> {
        let mut writes: Vec<&TableWrite> = request.writes.iter().collect();
        writes.sort_by(|a, b| a.table.cmp(&b.table));
        check_request(request, &writes)?;
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        let mut kept = Kept::default();
        let mut attempt = 1;
        loop {
            let failed = match self.attempt(request, &writes, attempt, &mut kept).await {
                Ok(outcome) => return Ok(outcome),
                Err(e) => e,
            };
            if failed.disposition() != Disposition::Retry || attempt > request.retries {
                return Err(failed);
            }
            tracing::debug!(attempt, error = %failed, "attempt lost, retrying from a fresh snapshot");
            if failed.op().is_some() {
                // Some of it had landed and was taken back: cleanup may delete those versions with their files.
                kept.appends.clear();
            }
            self.catch_up(&writes).await?;
            attempt += 1;
            backoff.wait(self.clock(), &self.entropy).await;
        }
    }

    /// Publishes the clean prefix of every table whose rows a write reads: staged on a pin below an unpublished
    /// rewrite it would lose again and again, for ever when the rewrite's process is dead.
    async fn catch_up(&self, writes: &[&TableWrite]) -> Result<()> {
        for TableWrite { table, write } in writes {
            if matches!(write, Write::Append(_) | Write::Create { .. }) {
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
        request: &CommitRequest,
        writes: &[&TableWrite],
        attempt: u32,
        kept: &mut Kept,
    ) -> Result<Outcome> {
        let op = self.new_op();
        if let Some(hook) = &request.before_attempt {
            hook(op)?;
        }
        let base = self.load().await?;
        if let Some(batch) = &request.batch
            && let Some(op) = self.batch_committed(&base, batch).await?
        {
            return Ok(Outcome::AlreadyCommitted(op));
        }
        let targets: Vec<Goal> = self.goals(&base, op, writes).await?;
        // Looking for obstacles while staging: a round trip less, and an early end when something stands there.
        let (staged, slots) = futures::future::try_join(
            self.stage_all(&targets, writes, kept),
            self.free_slots(&base, &targets),
        )
        .await?;
        hit(Seam::WriteAfterStage)?;
        let prepared: Vec<Prepared> = targets
            .into_iter()
            .zip(staged)
            .zip(slots)
            .map(|((goal, staged), slot)| Prepared {
                entry: goal.entry,
                staged,
                slot,
            })
            .collect();
        hit(Seam::WriteAfterScan)?;
        let sidecar = self.sidecar_of(request, &base, op, &prepared)?;
        self.put_first(&sidecar).await?;
        hit(Seam::SidecarAfterPut).map_err(|e| Error::from(e).of(op))?;
        self.finish(&base, &sidecar, prepared, attempt).await
    }

    async fn goals(&self, base: &Snapshot, op: OpId, writes: &[&TableWrite]) -> Result<Vec<Goal>> {
        let mut goals = Vec::with_capacity(writes.len());
        for TableWrite { table, write } in writes {
            goals.push(self.goal(base, op, table, write).await?);
        }
        Ok(goals)
    }

    async fn stage_all(
        &self,
        goals: &[Goal],
        writes: &[&TableWrite],
        kept: &mut Kept,
    ) -> Result<Vec<Staged>> {
        let appends = &kept.appends;
        let staged = futures::future::try_join_all(goals.iter().zip(writes).map(
            |(goal, write)| async move {
                match appends.get(&write.table) {
                    Some(operation) => Ok(Staged {
                        operation: operation.clone(),
                        affected_rows: None,
                    }),
                    None => {
                        self.stage(
                            &write.table,
                            goal.visible.as_ref(),
                            &goal.entry.path,
                            &write.write,
                        )
                        .await
                    }
                }
            },
        ))
        .await?;
        for (write, staged) in writes.iter().zip(&staged) {
            if matches!(write.write, Write::Append(_)) {
                kept.appends
                    .insert(write.table.clone(), staged.operation.clone());
            }
        }
        Ok(staged)
    }

    async fn free_slots(&self, base: &Snapshot, goals: &[Goal]) -> Result<Vec<u64>> {
        futures::future::try_join_all(goals.iter().map(|goal| self.free_slot(base, &goal.entry)))
            .await
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
        let plain = format!("{table}.lance");
        let burned = base
            .state
            .aborted
            .values()
            .flat_map(|d| &d.writes)
            .any(|w| w.path == plain);
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
    async fn free_slot(&self, base: &Snapshot, entry: &SidecarTable) -> Result<u64> {
        let chain = self.scan(base.state.store, &entry.path, entry.base).await?;
        match obstacle(&chain, entry.base) {
            None => Ok(chain.head() + 1),
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

    fn sidecar_of(
        &self,
        request: &CommitRequest,
        base: &Snapshot,
        op: OpId,
        prepared: &[Prepared],
    ) -> Result<Sidecar> {
        let actor = request.actor.as_deref().unwrap_or(&self.options().actor);
        let mut sidecar = Sidecar::new(
            op,
            SidecarKind::Logical,
            actor,
            &request.message,
            self.clock().now_ms(),
        );
        sidecar.batch.clone_from(&request.batch);
        sidecar.writes = prepared.iter().map(|p| p.entry.clone()).collect();
        for (table, version) in &request.reads {
            let entry = base.state.table(table)?;
            sidecar.reads.push(SidecarTable {
                table: table.clone(),
                path: entry.path.clone(),
                base: *version,
                create: None,
            });
        }
        Ok(sidecar)
    }

    /// Phase A. Fails without a trace that outlives the grace.
    async fn put_first(&self, sidecar: &Sidecar) -> Result<()> {
        hit(Seam::SidecarBeforePut)?;
        if let Err(e) = self.put_sidecar(sidecar).await {
            // It may have landed; nothing else has, so whoever finds it later aborts it.
            if let Err(left) = self.delete_sidecar(sidecar.op).await {
                tracing::debug!(op = %sidecar.op, error = %left, "a sidecar may be left for recovery");
            }
            return Err(e);
        }
        Ok(())
    }

    /// Phases B to D. From here on only the manifest says how it ended.
    async fn finish(
        &self,
        base: &Snapshot,
        sidecar: &Sidecar,
        prepared: Vec<Prepared>,
        attempt: u32,
    ) -> Result<Outcome> {
        let op = sidecar.op;
        let failed = match self.land_and_publish(base, sidecar, prepared).await {
            Ok(Some(tables)) => {
                self.retire_sidecar(op).await;
                return Ok(Outcome::Committed(Committed {
                    op,
                    tables,
                    attempts: attempt,
                }));
            }
            Ok(None) => None,
            Err(Unlanded::Nothing(e)) => {
                // No version of it exists or can appear: without its sidecar it never happened, and no decision has
                // to be kept for it. If the sidecar stays, whoever finds it decides.
                self.retire_sidecar(op).await;
                return Err(e);
            }
            Err(Unlanded::Doubtful(e)) => Some(e),
        };
        match self.resolve(sidecar, Role::Owner).await {
            Ok(Resolution::Committed(tables)) => Ok(Outcome::Committed(Committed {
                op,
                tables,
                attempts: attempt,
            })),
            Ok(Resolution::Aborted) => Err(failed
                .unwrap_or_else(|| Error::conflict("another commit came first"))
                .of(op)),
            Ok(Resolution::Pending) => {
                Err(Error::new(ErrorKind::Unknown, "the operation was left undecided").of(op))
            }
            Err(e) => Err(
                Error::new(ErrorKind::Unknown, "the outcome could not be read back")
                    .of(op)
                    .caused_by(e),
            ),
        }
    }

    /// Lands every table and publishes on the base if nobody else published meanwhile; `None` when someone did.
    async fn land_and_publish(
        &self,
        base: &Snapshot,
        sidecar: &Sidecar,
        prepared: Vec<Prepared>,
    ) -> Result<Option<Vec<Change>>, Unlanded> {
        let mut changes = Vec::with_capacity(prepared.len());
        for table in prepared {
            hit(Seam::WriteBeforeCommitTable).map_err(Error::from)?;
            let version = match self.land(base, sidecar.op, &table).await {
                Ok(version) => version,
                // A refusal is definite: Lance read back who owns the slot.
                Err(e) if changes.is_empty() && e.kind() == ErrorKind::Conflict => {
                    return Err(Unlanded::Nothing(e));
                }
                Err(e) => return Err(Unlanded::Doubtful(e)),
            };
            hit(Seam::WriteAfterCommitTable).map_err(Error::from)?;
            changes.push(Change {
                table: table.entry.table,
                from: table.entry.base,
                to: version,
            });
        }
        hit(Seam::WriteAfterPhaseB).map_err(Error::from)?;
        // Every precondition was checked against `base`, and the publish wins only on `base`: no second look is needed.
        if sidecar.reads.iter().any(|r| {
            base.state
                .tables
                .get(&r.table)
                .is_none_or(|t| t.version != r.base)
        }) {
            return Ok(None);
        }
        let updates = forward_updates(base, sidecar, &changes)?;
        let mut record = Record::of_sidecar(sidecar, Kind::Logical.as_str());
        record.tables.clone_from(&changes);
        match self.try_publish(base, updates, &record).await? {
            Published::Won(_) => Ok(Some(changes)),
            Published::Lost(_) => Ok(None),
        }
    }

    /// Phase B for one table: commits at the slot, or the next one while only maintenance takes them.
    async fn land(&self, base: &Snapshot, op: OpId, table: &Prepared) -> Result<u64> {
        let Prepared { entry, staged, .. } = table;
        let store = base.state.store;
        let mut slot = table.slot;
        let properties = Arc::new(crate::store::marks(store, op, Kind::Logical));
        loop {
            // Overwrite alone is strict in Lance: it must claim to have read what it stands on. All between the base
            // and the slot preserves content, so that is what it read.
            let read = if matches!(staged.operation, Operation::Overwrite { .. }) {
                slot - 1
            } else {
                entry.base
            };
            let transaction = TransactionBuilder::new(read, staged.operation.clone())
                .transaction_properties(Some(properties.clone()))
                .build();
            let handle = if entry.base == 0 {
                None
            } else {
                Some(self.open_at(&entry.path, entry.base).await?)
            };
            let commit = crate::store::StrictCommit {
                handle,
                path: entry.path.clone(),
                transaction,
                affected_rows: staged.affected_rows.clone(),
                slot,
            };
            let Err(lost) = self.commit_strict(commit).await else {
                return Ok(slot);
            };
            let chain = self.scan(store, &entry.path, entry.base).await?;
            if let Some(version) = chain.landed(op) {
                return Ok(version);
            }
            let next = chain.head() + 1;
            if lost.kind() != ErrorKind::Conflict
                || next == slot
                || !is_clean(&chain, entry.base, chain.head())
            {
                return Err(lost);
            }
            slot = next;
        }
    }

    /// Phase D, best effort: a sidecar that stays is removed by whoever finds its operation committed.
    pub(crate) async fn retire_sidecar(&self, op: OpId) {
        let deleted = match hit(Seam::SidecarBeforeDelete) {
            Ok(()) => self.delete_sidecar(op).await,
            Err(e) => Err(e.into()),
        };
        if let Err(e) = deleted {
            tracing::debug!(%op, error = %e, "a sidecar is left for recovery");
        }
    }
}

/// Why an operation did not land.
enum Unlanded {
    /// Its first table was taken by someone else: no version of it exists.
    Nothing(Error),
    /// Some of it may exist: only `resolve` knows.
    Doubtful(Error),
}

impl From<Error> for Unlanded {
    fn from(error: Error) -> Self {
        Self::Doubtful(error)
    }
}

/// The publish of a complete operation: the same keys, whoever puts them.
pub(crate) fn forward_updates(
    on: &Snapshot,
    sidecar: &Sidecar,
    changes: &[Change],
) -> Result<Updates> {
    let mut updates = Vec::new();
    for (entry, change) in sidecar.writes.iter().zip(changes) {
        updates.push(match &entry.create {
            None => on.state.pin_update(&entry.table, change.to)?,
            Some(facts) => {
                let created = TableEntry {
                    path: entry.path.clone(),
                    version: change.to,
                    key: facts.key.clone(),
                };
                (format!("pin/{}", entry.table), Some(encode(&created)?))
            }
        });
    }
    if let Some(batch) = &sidecar.batch {
        updates.extend(on.state.batch_updates(batch, sidecar.op)?);
    }
    Ok(updates)
}

fn drift_error(table: &TableName, version: u64) -> Error {
    Error::new(
        ErrorKind::Drift,
        format!(
            "table {table}: version {version} was committed by something else than squire; see `squire repair`"
        ),
    )
}

fn check_request(request: &CommitRequest, sorted: &[&TableWrite]) -> Result<()> {
    if sorted.is_empty() {
        return Err(Error::invalid("a commit needs at least one table"));
    }
    if let Some(twice) = sorted.windows(2).find(|w| w[0].table == w[1].table) {
        return Err(Error::invalid(format!(
            "table {} stands twice in one commit",
            twice[0].table
        )));
    }
    if sorted.len() > 1
        && sorted
            .iter()
            .any(|w| matches!(w.write, Write::Create { .. }))
    {
        return Err(Error::invalid("a table is created by a commit of its own"));
    }
    if request
        .batch
        .as_ref()
        .is_some_and(|b| b.is_empty() || b.len() > 256)
    {
        return Err(Error::invalid("a batch id has 1 to 256 bytes"));
    }
    Ok(())
}
