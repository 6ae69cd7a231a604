//! Dropping a table: one publish that takes it out of the manifest.
//!
//! Nothing is put besides, so there is nothing that anyone could complete or take back, and no sidecar: the swap of the
//! manifest is the whole operation. Its record, its ULID and its answer are those of any other.
//!
//! An operation that is under way on the table is not waited for. If it publishes first, what it wrote is dropped with the
//! table; if the drop does, it is aborted, in all of its tables.

use super::logical::{Committed, drift_error};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Answer, ProtocolEvent};
use crate::ids::TableName;
use crate::protocol::{Kind, Obstacle, obstacle};
use crate::publish::{Change, Record};
use crate::store::{Snapshot, Store, is_denied};
use std::collections::BTreeMap;

/// What may be lost with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// Versions that something else committed keep the table from being dropped.
    Refuse,
    /// They go with it.
    Discard,
}

impl Store {
    /// Says what [`Store::drop_table`] would drop: the table's pin.
    ///
    /// # Errors
    /// Those of a drop.
    pub async fn preview_drop(&self, table: &TableName, drift: Drift) -> Result<u64> {
        let snapshot = self.load().await?;
        self.check_drop(&snapshot, table, drift).await?;
        Ok(snapshot.state.table(table)?.version)
    }

    /// Takes `table` out of the store. Snapshots from before show it until the retention has passed; its files go with the
    /// first cleanup after that, and its path is never used again.
    ///
    /// # Errors
    /// `NotFound`; `Drift` when versions stand above the pin that the store does not know and that would go with it;
    /// `Conflict` when another table of that name stands there now; `Unknown`: ask `outcome_of` with the error's operation.
    pub async fn drop_table(
        &self,
        table: &TableName,
        drift: Drift,
        message: &str,
    ) -> Result<Committed> {
        let op = self.new_op();
        let first = self.load().await?;
        self.check_drop(&first, table, drift).await?;
        let entry = first.state.table(table)?;
        let at_ms = self.clock().now_ms();
        let (mut from, mut asked) = (entry.version, false);
        let published = self.publish_until(|snapshot| {
            let state = &snapshot.state;
            if state.dropped.get(&entry.path).is_some_and(|d| d.op == op) {
                return Ok(None);
            }
            let now = state.table(table)?;
            if now.path != entry.path {
                let other = format!("table {table} was dropped and made again meanwhile");
                return Err(Error::conflict(other));
            }
            (from, asked) = (now.version, true);
            let (kind, actor) = (Kind::Logical.as_str(), &self.options().actor);
            let mut record = Record::new(op, kind, actor, message);
            record.tables = vec![Change {
                table: table.clone(),
                from,
                to: 0,
            }];
            Ok(Some((
                state.drop_updates(table, op, at_ms, drift == Drift::Discard)?,
                record,
            )))
        });
        published.await.map_err(|e| match e.kind() {
            // A swap was asked for, and may have landed.
            ErrorKind::Storage if asked && !is_denied(&e) => {
                let unknown = "whether the table was dropped could not be read back";
                Error::new(ErrorKind::Unknown, unknown).caused_by(e).of(op)
            }
            _ => e.of(op),
        })?;
        self.forget_handle(&entry.path);
        let answer = Answer::Committed;
        self.tell(|| ProtocolEvent::Answered { op, answer });
        let change = Change {
            table: table.clone(),
            from,
            to: 0,
        };
        Ok(Committed {
            op,
            tables: vec![change],
            rows: BTreeMap::new(),
            attempts: 1,
        })
    }

    /// Refuses to drop rows that something else committed, which the store has never shown.
    async fn check_drop(&self, on: &Snapshot, table: &TableName, drift: Drift) -> Result<()> {
        let entry = on.state.table(table)?;
        if drift == Drift::Discard {
            return Ok(());
        }
        if !self.pin_stands(entry).await? {
            return Err(entry
                .replaced(format!("table {table}"))
                .advice("or drop it with --discard-drift, and what stands there with it"));
        }
        let scanned = self.scan(on.state.store, &entry.path, entry.version).await;
        match scanned.map(|chain| obstacle(&chain, entry.version)) {
            Ok(Some(Obstacle::Foreign(version))) => Err(drift_error(table, version)
                .advice("or drop the table with --discard-drift, and these versions with it")),
            // Of a table that cannot be read nothing more can be lost.
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::Drift => Ok(()),
            Err(e) => Err(e),
        }
    }
}
