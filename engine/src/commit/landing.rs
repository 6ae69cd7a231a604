//! Landing: phases A to D of one attempt. From phase A on, only the manifest says how it ended.

use super::kept::Kept;
use super::logical::{Committed, Prepared};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{At, ProtocolEvent};
use crate::ids::OpId;
use crate::protocol::{Kind, Refused, Role, after_refusal, is_without_trace};
use crate::publish::{Change, Published, Record, forward_updates};
use crate::recovery::Resolution;
use crate::store::{Gate, Opened, Sidecar, Snapshot, Store};
use lance::Dataset;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use squire_failpoints::{Guard, Seam, hit, stands};
use std::sync::Arc;

impl Store {
    /// Phases A to D. From here on only the manifest says how it ended.
    pub(super) async fn finish(
        &self,
        base: &Snapshot,
        sidecar: &Sidecar,
        prepared: Vec<Prepared>,
        kept: &mut Kept,
        attempt: u32,
    ) -> Result<Committed> {
        let op = sidecar.op;
        let rows = prepared
            .iter()
            .map(|p| (p.entry.table.clone(), p.staged.rows))
            .collect();
        let committed = |tables| Committed {
            op,
            tables,
            rows,
            attempts: attempt,
        };
        let failed = match self.land_and_publish(base, sidecar, prepared, kept).await {
            Ok(Some(tables)) => {
                self.tidy_later(op);
                return Ok(committed(tables));
            }
            Ok(None) => None,
            Err(Unlanded::Nothing(e)) => {
                // No version of it exists or can appear: without its sidecar it never happened, and no decision has
                // to be kept for it. If the sidecar stays, whoever finds it decides.
                self.records.retire_sidecar(op).await;
                return Err(e);
            }
            Err(Unlanded::Doubtful(e)) => Some(e),
        };
        match self.resolve(sidecar, Role::Owner).await {
            Ok(Resolution::Committed(tables)) => Ok(committed(tables)),
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

    /// Puts the sidecar, lands every table and publishes on the base if nobody else published meanwhile; `None` when someone did.
    async fn land_and_publish(
        &self,
        base: &Snapshot,
        sidecar: &Sidecar,
        prepared: Vec<Prepared>,
        kept: &mut Kept,
    ) -> Result<Option<Vec<Change>>, Unlanded> {
        let gates: Vec<Gate> = prepared.iter().map(|_| Gate::default()).collect();
        let beginning = async {
            let begun = self.begin(sidecar, &prepared, kept).await;
            open_next(begun, gates.first())
        };
        let (begun, landed) = futures::future::join(
            beginning,
            self.land_all(base, sidecar.op, &prepared, &gates),
        )
        .await;
        begun.map_err(Unlanded::Nothing)?;
        let (changes, made) = landed?;
        hit(Seam::WriteAfterPhaseB).map_err(Error::from)?;
        if self.staged_long_ago(sidecar) {
            let versions: Vec<u64> = changes.iter().map(|c| c.to).collect();
            if !self.has_files(sidecar, &versions).await? {
                return Err(Error::conflict("a staged file is gone").into());
            }
        }
        // Every precondition, what was read among them, was checked against `base`, and the publish wins only on `base`: no
        // second look is needed.
        let updates = forward_updates(base, sidecar, &changes, made)?;
        let mut record = Record::of_sidecar(sidecar, Kind::Logical.as_str());
        record.tables.clone_from(&changes);
        match self.try_publish(base, updates, &record).await? {
            Published::Won(_) => Ok(Some(changes)),
            Published::Lost(_) => Ok(None),
        }
    }

    /// Phase A, and what must hold before the first version refers to what was staged: that it can be read back.
    async fn begin(&self, sidecar: &Sidecar, prepared: &[Prepared], kept: &mut Kept) -> Result<()> {
        let putting = async {
            match stands(Guard::Sidecar) {
                true => self.put_sidecar(sidecar).await,
                false => Ok(()),
            }
        };
        let reading = prepared.iter().map(|table| self.read_staged(&table.staged));
        let reading = futures::future::try_join_all(reading);
        // Not cut short: a put that is on its way may land.
        let (put, read) = futures::future::join(putting, reading).await;
        let Err(unread) = read else {
            kept.values_mut()
                .for_each(|append| append.staged.unread = None);
            return put;
        };
        kept.clear();
        for Prepared { entry, staged, .. } in prepared {
            if let Ok(on) = self.open_at(&entry.path, entry.base).await {
                self.unstage(&on, &staged.operation).await;
            }
        }
        Err(unread)
    }

    /// Phase B. All tables are made ready at once, and each is put once the one before it has landed.
    async fn land_all(
        &self,
        base: &Snapshot,
        op: OpId,
        prepared: &[Prepared],
        gates: &[Gate],
    ) -> Result<(Vec<Change>, Vec<Option<String>>), Unlanded> {
        let landing = prepared.iter().enumerate().map(|(turn, table)| async move {
            let landed = self.land(base, op, table, &gates[turn]).await;
            let landed = landed.and_then(|landed| {
                self.tell(|| ProtocolEvent::Landed {
                    op,
                    at: At {
                        table: table.entry.table.clone(),
                        version: landed.0,
                    },
                });
                hit(Seam::WriteAfterCommitTable)?;
                Ok(landed)
            });
            open_next(landed, gates.get(turn + 1))
        });
        let mut changes = Vec::with_capacity(prepared.len());
        let mut made = Vec::with_capacity(prepared.len());
        for (landed, table) in futures::future::join_all(landing)
            .await
            .into_iter()
            .zip(prepared)
        {
            let (version, transaction) = match landed {
                Ok(landed) => landed,
                // A refusal is definite: Lance read back who owns the slot.
                Err(e) if is_without_trace(changes.is_empty(), e.kind() == ErrorKind::Conflict) => {
                    return Err(Unlanded::Nothing(e));
                }
                Err(e) => return Err(Unlanded::Doubtful(e)),
            };
            made.push(transaction);
            changes.push(Change {
                table: table.entry.table.clone(),
                from: table.entry.base,
                to: version,
            });
        }
        Ok((changes, made))
    }

    /// Phase B for one table: commits at the slot, or the next one while only maintenance takes them. Gives the version and
    /// the transaction that made it.
    async fn land(
        &self,
        base: &Snapshot,
        op: OpId,
        table: &Prepared,
        gate: &Gate,
    ) -> Result<(u64, Option<String>)> {
        let Prepared { entry, staged, .. } = table;
        if entry.base == 0 {
            // Making it ready makes its folder, which only a sidecar explains.
            gate.pass().await?;
        }
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
                on: self.standing_of(handle.as_deref()).await?,
                handle,
                path: entry.path.clone(),
                transaction,
                affected_rows: staged.affected_rows.clone(),
                slot,
                gate: Some(gate.clone()),
            };
            let lost = match self.commit_strict(commit).await {
                Ok(made) => return Ok((slot, made)),
                Err(closed) if gate.is_closed() => return Err(closed),
                Err(lost) => lost,
            };
            let chain = self.scan(store, &entry.path, entry.base).await?;
            let definite = lost.kind() == ErrorKind::Conflict;
            match after_refusal(&chain, op, slot, definite) {
                Refused::Landed(version) => {
                    return Ok((version, self.made_by(&entry.path, version).await?));
                }
                Refused::Again(_) if stands_on_base(&staged.operation) => return Err(lost),
                Refused::Again(next) => slot = next,
                Refused::Lost => return Err(lost),
            }
        }
    }
}

impl Store {
    /// What has to stand when rows are committed to the table of `handle`: others drop a table by removing its folder, and the
    /// put would make it anew. Elsewhere than on a local disk that would be two requests more in sequence, for a moment as short.
    async fn standing_of(&self, handle: Option<&Dataset>) -> Result<Option<Opened>> {
        let Some(handle) = handle.filter(|_| self.objects.has_direct_local_paths()) else {
            return Ok(None);
        };
        let version = &handle.manifest_location().path;
        match Opened::pinned(&self.objects, version).await {
            Ok(opened) => Ok(Some(opened)),
            // Others have moved on and cleaned up, or the table is gone: whoever looks anew sees which.
            Err(object_store::Error::NotFound { .. }) => {
                Err(Error::conflict(format!("/{version} is gone")))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Opens the next table's gate after `step`, or closes it: what follows a step that failed is not put.
fn open_next<T>(step: Result<T>, next: Option<&Gate>) -> Result<T> {
    let Some(next) = next else {
        return step;
    };
    let step = step.and_then(|done| {
        hit(Seam::WriteBeforeCommitTable)?;
        Ok(done)
    });
    match &step {
        Ok(_) => next.open(),
        Err(_) => next.close(),
    }
    step
}

/// Whether an operation says what fragments or columns there are, so that nothing may come between it and its base.
fn stands_on_base(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Merge { .. } | Operation::Project { .. }
    )
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
