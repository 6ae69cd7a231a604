//! Landing: phases B to D of one attempt. From phase A on, only the manifest says how it ended.

use super::logical::{Committed, Prepared};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{At, ProtocolEvent};
use crate::ids::OpId;
use crate::protocol::{Kind, Refused, Role, after_refusal, is_without_trace};
use crate::publish::{Change, Published, Record, forward_updates};
use crate::recovery::Resolution;
use crate::store::{Sidecar, Snapshot, Store};
use lance::dataset::transaction::{Operation, TransactionBuilder};
use squire_failpoints::{Seam, hit};
use std::sync::Arc;

impl Store {
    /// Phases B to D. From here on only the manifest says how it ended.
    pub(super) async fn finish(
        &self,
        base: &Snapshot,
        sidecar: &Sidecar,
        prepared: Vec<Prepared>,
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
        let failed = match self.land_and_publish(base, sidecar, prepared).await {
            Ok(Some(tables)) => {
                self.records.retire_sidecar(op).await;
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

    /// Lands every table and publishes on the base if nobody else published meanwhile; `None` when someone did.
    async fn land_and_publish(
        &self,
        base: &Snapshot,
        sidecar: &Sidecar,
        prepared: Vec<Prepared>,
    ) -> Result<Option<Vec<Change>>, Unlanded> {
        let mut changes = Vec::with_capacity(prepared.len());
        let mut made = Vec::with_capacity(prepared.len());
        for table in prepared {
            hit(Seam::WriteBeforeCommitTable).map_err(Error::from)?;
            let (version, transaction) = match self.land(base, sidecar.op, &table).await {
                Ok(landed) => landed,
                // A refusal is definite: Lance read back who owns the slot.
                Err(e) if is_without_trace(changes.is_empty(), e.kind() == ErrorKind::Conflict) => {
                    return Err(Unlanded::Nothing(e));
                }
                Err(e) => return Err(Unlanded::Doubtful(e)),
            };
            self.tell(|| ProtocolEvent::Landed {
                op: sidecar.op,
                at: At {
                    table: table.entry.table.clone(),
                    version,
                },
            });
            hit(Seam::WriteAfterCommitTable).map_err(Error::from)?;
            made.push(transaction);
            changes.push(Change {
                table: table.entry.table,
                from: table.entry.base,
                to: version,
            });
        }
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

    /// Phase B for one table: commits at the slot, or the next one while only maintenance takes them. Gives the version and
    /// the transaction that made it.
    async fn land(
        &self,
        base: &Snapshot,
        op: OpId,
        table: &Prepared,
    ) -> Result<(u64, Option<String>)> {
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
            let lost = match self.commit_strict(commit).await {
                Ok(made) => return Ok((slot, made)),
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
