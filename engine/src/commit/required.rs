//! What a commit was computed from: tables that must be what they were in the snapshot that its caller read.
//!
//! It is looked at before anything is put, so that nothing is staged in vain, and counts at the publish, which wins on the
//! snapshot that was looked at alone. Maintenance does not change a table.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::TableName;
use crate::store::{SidecarTable, Snapshot, Store, TableEntry};
use squire_failpoints::{Guard, stands};
use std::collections::BTreeMap;

impl Store {
    /// The tables of `reads` as `base` has them, each of them unchanged since it was read.
    ///
    /// # Errors
    /// `Stale`, with the table, also for a snapshot that is gone: no later attempt can go better. `InvalidInput` for one that
    /// never was, or did not show the table.
    pub(super) async fn standing_reads(
        &self,
        base: &Snapshot,
        reads: &BTreeMap<TableName, u64>,
    ) -> Result<Vec<SidecarTable>> {
        let mut standing = Vec::with_capacity(reads.len());
        for (table, at) in reads.iter().filter(|_| stands(Guard::ReadSet)) {
            let read = self.read_at(base, table, *at).await?;
            let now = base.state.tables.get(table);
            let now = now.filter(|now| now.path == read.path);
            match now {
                Some(now) if self.unchanged(base, &read).await? => standing.push(SidecarTable {
                    base: now.version,
                    ..read
                }),
                _ => return Err(stale(base, &read, *at, now)),
            }
        }
        Ok(standing)
    }

    /// What `table` was in the snapshot at manifest version `at`.
    async fn read_at(&self, base: &Snapshot, table: &TableName, at: u64) -> Result<SidecarTable> {
        let earlier = match at == base.version() {
            true => None,
            false => Some(self.snapshot_at(at).await.map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::invalid(e.to_string()),
                // What it was then cannot be told any more.
                ErrorKind::Expired => Error::new(ErrorKind::Stale, e.to_string()),
                _ => e,
            })?),
        };
        let state = &earlier.as_ref().unwrap_or(base).state;
        let entry = state.tables.get(table).ok_or_else(|| {
            Error::invalid(format!(
                "snapshot {at} shows no table {table}, so it cannot be unchanged since"
            ))
        })?;
        Ok(SidecarTable {
            table: table.clone(),
            path: entry.path.clone(),
            base: entry.version,
            create: None,
        })
    }
}

fn stale(base: &Snapshot, read: &SidecarTable, at: u64, now: Option<&TableEntry>) -> Error {
    let now = match now {
        Some(now) => format!(
            "stood at version {} then, and stands at {} now",
            read.base, now.version
        ),
        None => "was dropped since".to_owned(),
    };
    Error::new(
        ErrorKind::Stale,
        format!(
            "table {} has changed since snapshot {at}: it {now} (snapshot {}); read it again, and compute the batch anew",
            read.table,
            base.version()
        ),
    )
}
