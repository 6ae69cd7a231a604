//! `resolve(X)`: recovery, helping and self-abort are one function.

use crate::error::{Error, ErrorKind, Result};
use crate::events::{At, ProtocolEvent};
use crate::ids::OpId;
use crate::protocol::{
    Kind, OperationView, Role, Step, WrittenTable, is_unchanged, may_restore, next_step,
};
use crate::publish::{Change, Published, Record, Rounds, forward_updates};
use crate::store::state::{Decision, encode};
use crate::store::{Sidecar, SidecarKind, SidecarTable, Snapshot, Store, data_files_of};
use serde::Serialize;
use squire_failpoints::{Guard, Seam, hit, stands};

/// How long staged files are trusted to be there: Lance takes unreferenced ones after seven days.
const TRUSTED_AGE_MS: u64 = 3_600_000;

/// How a resolution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Published, now or before; the changes as far as this process saw them.
    Committed(Vec<Change>),
    /// Decided to abort and settled.
    Aborted,
    /// Incomplete, and not this role's to abort.
    Pending,
}

/// What recovery would do with one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRecovery {
    /// The operation.
    pub op: OpId,
    /// Whose it is.
    pub actor: String,
    /// The tables that it writes, plain ones by their paths.
    pub tables: Vec<String>,
    /// What would be done.
    pub next: &'static str,
}

impl Store {
    /// Completes, aborts or waits for the operation that `sidecar` describes. Idempotent; anyone may run it.
    ///
    /// # Errors
    /// `Drift` when a foreign version stands above it: an operator decides.
    pub async fn resolve(&self, sidecar: &Sidecar, role: Role) -> Result<Resolution> {
        if sidecar.kind == SidecarKind::Maintenance {
            return self.resolve_maintenance(sidecar).await;
        }
        let mut rounds = Rounds::new();
        let mut published = false;
        loop {
            let snapshot = self.load().await?;
            hit(Seam::ResolveAfterLoad)?;
            let mut view = self.view(&snapshot, sidecar).await?;
            view.aborted |= role == Role::Expired && !stands(Guard::DecideFirst);
            let step = self.next_step(&mut view, sidecar, role).await?;
            tracing::debug!(op = %sidecar.op, ?role, ?step, "resolving");
            if matches!(step, Step::Committed | Step::Aborted) && !published {
                // Maybe by a process that died before it knew that its publish is on the disk.
                self.sync_found().await?;
            }
            let publishes = !matches!(step, Step::Undo { .. });
            let lost = match step {
                Step::Committed => {
                    self.records.retire_sidecar(sidecar.op).await;
                    return Ok(Resolution::Committed(changes_seen(sidecar, &view)));
                }
                Step::Aborted => {
                    self.remove_dead_creates(&snapshot, sidecar).await?;
                    self.records.retire_sidecar(sidecar.op).await;
                    return Ok(Resolution::Aborted);
                }
                Step::Wait => return Ok(Resolution::Pending),
                Step::Blocked(table) => {
                    let table = &sidecar.writes[table].table;
                    return Err(Error::new(
                        ErrorKind::Drift,
                        format!("table {table}: a version that squire did not make stands above an aborted operation; see `squire repair`"),
                    )
                    .of(sidecar.op));
                }
                Step::Forward(versions) => {
                    let lost = self.forward(&snapshot, sidecar, &versions).await?;
                    if lost.is_none() && role != Role::Owner {
                        tracing::debug!(op = %sidecar.op, "published for another process");
                    }
                    lost
                }
                Step::Decide => self.decide(&snapshot, sidecar).await?,
                Step::Undo {
                    table,
                    target,
                    slot,
                } => self.undo(&snapshot, sidecar, table, target, slot).await?,
                Step::Settle(undone) => self.settle(&snapshot, sidecar, &undone).await?,
            };
            match lost {
                Some(e) => rounds.lost(self, e).await?,
                None => published |= publishes,
            }
        }
    }

    /// What the next resolver would do with every sidecar, were its grace over. Does nothing.
    pub async fn recovery_plan(&self) -> Result<Vec<PlannedRecovery>> {
        let mut plans = Vec::new();
        for op in self.sidecar_ops().await? {
            let Some(sidecar) = self.sidecar(op).await? else {
                continue;
            };
            let snapshot = self.load().await?;
            let next = match sidecar.kind {
                SidecarKind::Maintenance => "publish its clean prefix, remove the sidecar",
                SidecarKind::Logical => {
                    let mut view = self.view(&snapshot, &sidecar).await?;
                    match self.next_step(&mut view, &sidecar, Role::Expired).await? {
                        Step::Committed | Step::Aborted => "remove the sidecar",
                        Step::Forward(_) => "publish it",
                        Step::Decide => "abort it",
                        Step::Undo { .. } | Step::Settle(_) => "finish taking it back",
                        Step::Wait => "wait",
                        Step::Blocked(_) => "blocked by a foreign version; see `squire repair`",
                    }
                }
            };
            let tables = sidecar.writes.iter().map(|w| w.table.to_string());
            let tables = tables.collect();
            plans.push(PlannedRecovery {
                op,
                actor: sidecar.actor,
                tables,
                next,
            });
        }
        Ok(plans)
    }

    /// The same for the runs on plain tables, or on `only` one of them.
    pub async fn plain_recovery_plan(&self, only: Option<&str>) -> Result<Vec<PlannedRecovery>> {
        let mut plans = Vec::new();
        for op in self.plain_sidecar_ops(only).await? {
            for records in self.plain_records().await {
                if let Some(sidecar) = records.sidecar(op).await? {
                    plans.push(PlannedRecovery {
                        op,
                        actor: sidecar.actor,
                        tables: sidecar.plain.into_iter().collect(),
                        next: "end the run, delete what it wrote for nothing",
                    });
                }
            }
        }
        Ok(plans)
    }

    /// What stands on storage of `sidecar`'s operation. Loaded after the manifest, so a pin is never ahead of it.
    async fn view(&self, snapshot: &Snapshot, sidecar: &Sidecar) -> Result<OperationView> {
        let state = &snapshot.state;
        let mut writes = Vec::with_capacity(sidecar.writes.len());
        let mut pruned = false;
        for entry in &sidecar.writes {
            let visible = state.tables.get(&entry.table);
            // Of a table that was dropped meanwhile only the log knows whether this was published before.
            pruned |= state.floor(&entry.table) > entry.base + 1
                || state.dropped.contains_key(&entry.path);
            writes.push(WrittenTable {
                pin: visible.map(|v| v.version),
                floor: if stands(Guard::TableFloor) {
                    state.floor(&entry.table)
                } else {
                    0
                },
                chain: self.scan(state.store, &entry.path, entry.base).await?,
                replaced: visible.is_some_and(|v| v.path != entry.path)
                    || (visible.is_none() && state.is_burned(&entry.path, sidecar.op)),
            });
        }
        let aborted = stands(Guard::Decision) && state.aborted.contains_key(&sidecar.op);
        let logged = pruned && !aborted && self.logged(snapshot, sidecar.op).await?;
        // The manifest drops old batch ids; asked of it alone, an operation that slept long enough would commit a batch again.
        let mut valid = true;
        if stands(Guard::BatchId) {
            let ids = sidecar.batch_ids().map(|(id, _)| id);
            let committed = self.batches_committed(snapshot, ids).await?;
            valid = committed.values().all(|(op, _)| *op == sidecar.op);
        }
        for read in &sidecar.reads {
            valid = valid && self.unchanged(snapshot, read).await?;
        }
        Ok(OperationView {
            op: sidecar.op,
            aborted,
            logged,
            writes,
            valid,
        })
    }

    /// The next step. An operation that would go forward and has lost staged files is not valid; its owner knows that it has
    /// just staged them.
    async fn next_step(
        &self,
        view: &mut OperationView,
        sidecar: &Sidecar,
        role: Role,
    ) -> Result<Step> {
        let step = next_step(view, role);
        let trusted = role == Role::Owner && !self.staged_long_ago(sidecar);
        if let Step::Forward(versions) = &step
            && !trusted
            && !self.has_files(sidecar, versions).await?
        {
            view.valid = false;
            return Ok(next_step(view, role));
        }
        Ok(step)
    }

    /// Whether a table that was read has seen only maintenance since.
    pub(crate) async fn unchanged(&self, snapshot: &Snapshot, read: &SidecarTable) -> Result<bool> {
        let Some(entry) = snapshot.state.tables.get(&read.table) else {
            return Ok(false);
        };
        if entry.path != read.path || entry.version < read.base {
            return Ok(false);
        }
        if entry.version == read.base {
            return Ok(true);
        }
        let chain = self
            .scan(snapshot.state.store, &read.path, read.base)
            .await?;
        let floor = snapshot.state.floor(&read.table);
        Ok(is_unchanged(&chain, floor, entry.version))
    }

    async fn forward(
        &self,
        on: &Snapshot,
        sidecar: &Sidecar,
        versions: &[u64],
    ) -> Result<Option<Error>> {
        self.sync_found().await?;
        hit(Seam::ResolveBeforeForward)?;
        let changes: Vec<Change> = sidecar
            .writes
            .iter()
            .zip(versions)
            .map(|(entry, to)| Change {
                table: entry.table.clone(),
                from: on.state.tables.get(&entry.table).map_or(0, |t| t.version),
                to: *to,
            })
            .collect();
        let mut made = Vec::with_capacity(versions.len());
        for (entry, version) in sidecar.writes.iter().zip(versions) {
            made.push(self.made_by(&entry.path, *version).await?);
        }
        let updates = forward_updates(on, sidecar, &changes, made)?;
        let mut record = Record::of_sidecar(sidecar, Kind::Logical.as_str());
        record.tables = changes;
        self.publish_step(on, updates, &record).await
    }

    /// Whether what an operation staged is old enough for a cleanup of unreferenced files to come into sight.
    pub(crate) fn staged_long_ago(&self, sidecar: &Sidecar) -> bool {
        self.clock().now_ms().abs_diff(sidecar.started_ms) > TRUSTED_AGE_MS
    }

    /// Whether the data files of `versions` are there. A commit never checks that (fact 17), and a helper cannot know how long
    /// ago they were staged. An operation that has lost some is not published but taken back.
    pub(crate) async fn has_files(&self, sidecar: &Sidecar, versions: &[u64]) -> Result<bool> {
        if !stands(Guard::StagedFiles) {
            return Ok(true);
        }
        for (entry, version) in sidecar.writes.iter().zip(versions) {
            let Some(transaction) = self.transaction_of(&entry.path, *version).await? else {
                continue;
            };
            for file in data_files_of(&transaction.operation) {
                let path = self.object_path(&format!("{}/{file}", entry.path));
                if !self.objects.exists(&path).await? {
                    tracing::warn!(op = %sidecar.op, table = %entry.table, version, file, "a staged file is gone");
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// THE decision. It stands on the snapshot that showed the operation incomplete, so a publish of it that came
    /// first makes this one lose.
    async fn decide(&self, on: &Snapshot, sidecar: &Sidecar) -> Result<Option<Error>> {
        // In a table that was made again nothing says whether the operation had been published.
        for written in &sidecar.writes {
            if let Some(entry) = on.state.tables.get(&written.table)
                && !self.pin_stands(entry).await?
            {
                return Err(entry.replaced(format!("table {}", written.table)));
            }
        }
        hit(Seam::ResolveBeforeDecide)?;
        let decision = Decision {
            at_ms: self.clock().now_ms(),
            writes: sidecar
                .writes
                .iter()
                .map(SidecarTable::without_key)
                .collect(),
        };
        let updates = vec![(format!("op/{}", sidecar.op), Some(encode(&decision)?))];
        let lost = self
            .publish_step(on, updates, &Record::of_sidecar(sidecar, "abort"))
            .await?;
        if lost.is_none() {
            hit(Seam::ResolveAfterDecide)?;
        }
        Ok(lost)
    }

    async fn undo(
        &self,
        on: &Snapshot,
        sidecar: &Sidecar,
        table: usize,
        target: u64,
        slot: u64,
    ) -> Result<Option<Error>> {
        hit(Seam::ResolveBeforeUndo)?;
        let entry = &sidecar.writes[table];
        let now = self.load().await?.state;
        let visible = now.tables.get(&entry.table);
        if visible.is_none_or(|visible| !may_restore(target, visible.version)) {
            return Ok(Some(Error::conflict("the pin moved past it")));
        }
        match self
            .restore_strict(on.state.store, sidecar.op, &entry.path, target, slot)
            .await
        {
            Ok(()) => {
                self.tell(|| ProtocolEvent::Undone {
                    op: sidecar.op,
                    at: At {
                        table: entry.table.clone(),
                        version: slot,
                    },
                    target,
                });
                hit(Seam::ResolveAfterUndo)?;
                Ok(None)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::Conflict | ErrorKind::Unknown | ErrorKind::Storage
                ) =>
            {
                Ok(Some(e))
            }
            Err(e) => Err(e),
        }
    }

    async fn settle(
        &self,
        on: &Snapshot,
        sidecar: &Sidecar,
        undone: &[(usize, u64)],
    ) -> Result<Option<Error>> {
        self.sync_found().await?;
        hit(Seam::ResolveBeforeSettle)?;
        let mut updates = Vec::new();
        let mut record = Record::of_sidecar(sidecar, Kind::Undo.as_str());
        record.batch = None;
        record.members.clear();
        for (table, version) in undone {
            let SidecarTable {
                table: name, path, ..
            } = &sidecar.writes[*table];
            record.tables.push(Change {
                table: name.clone(),
                from: on.state.table(name)?.version,
                to: *version,
            });
            updates.push(on.state.pin_update(
                name,
                *version,
                self.made_by(path, *version).await?,
            )?);
        }
        let lost = self.publish_step(on, updates, &record).await?;
        if lost.is_none() {
            hit(Seam::ResolveAfterSettle)?;
        }
        Ok(lost)
    }

    async fn publish_step(
        &self,
        on: &Snapshot,
        updates: crate::store::Updates,
        record: &Record,
    ) -> Result<Option<Error>> {
        match self.try_publish(on, updates, record).await? {
            Published::Won(_) => Ok(None),
            Published::Lost(e) => Ok(Some(e)),
        }
    }

    /// Removes the dataset of a create that was decided to abort. Its path stands in the decision, and no publish
    /// pins a path that does ([`crate::store::State::is_burned`]), so nobody else's table can be there however late this runs.
    pub(crate) async fn remove_dead_creates(
        &self,
        snapshot: &Snapshot,
        sidecar: &Sidecar,
    ) -> Result<()> {
        if !snapshot.state.aborted.contains_key(&sidecar.op) {
            return Ok(());
        }
        for entry in sidecar.writes.iter().filter(|w| w.create.is_some()) {
            let visible = snapshot.state.tables.values().any(|t| t.path == entry.path);
            let chain = self.scan(snapshot.state.store, &entry.path, 0).await?;
            if !visible && chain.landed(sidecar.op) == Some(1) {
                hit(Seam::ResolveBeforeRemove)?;
                self.forget_handle(&entry.path);
                self.remove_dir(&entry.path).await?;
            }
        }
        Ok(())
    }

    /// Recovery of maintenance: publish what landed, remove the sidecar. Never an undo.
    async fn resolve_maintenance(&self, sidecar: &Sidecar) -> Result<Resolution> {
        self.publish_landed(sidecar).await?;
        self.records.retire_sidecar(sidecar.op).await;
        Ok(Resolution::Committed(Vec::new()))
    }

    /// Publishes what a maintenance run landed.
    pub(crate) async fn publish_landed(&self, sidecar: &Sidecar) -> Result<()> {
        let record = Record::of_sidecar(sidecar, Kind::Maintenance.as_str());
        for entry in &sidecar.writes {
            match self.publish_prefix(&entry.table, &record).await {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Enough of a sidecar to take back the dead versions of an operation that was decided to abort.
pub(crate) fn dead_sidecar(store: &Store, op: OpId, decision: &Decision) -> Sidecar {
    let mut sidecar = Sidecar::new(
        op,
        SidecarKind::Logical,
        &store.options().actor,
        "dead version",
        decision.at_ms,
    );
    sidecar.writes.clone_from(&decision.writes);
    sidecar
}

fn changes_seen(sidecar: &Sidecar, view: &OperationView) -> Vec<Change> {
    sidecar
        .writes
        .iter()
        .zip(&view.writes)
        .filter_map(|(entry, table)| {
            let to = table.chain.landed(sidecar.op)?;
            Some(Change {
                table: entry.table.clone(),
                from: entry.base,
                to,
            })
        })
        .collect()
}
