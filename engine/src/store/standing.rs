//! Where a table of a store stands: what is visible of it, and what was committed above that.

use super::{Snapshot, Store, TableEntry};
use crate::error::Result;
use crate::ids::TableName;
use crate::protocol::{Chain, Obstacle, clean_prefix, obstacle};

/// What is visible of a table now.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    pub(crate) snapshot: Snapshot,
    pub(crate) entry: TableEntry,
}

/// The same, and the versions above its pin.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) snapshot: Snapshot,
    pub(crate) entry: TableEntry,
    pub(crate) chain: Chain,
}

impl Standing {
    /// What keeps maintenance and writers off the table.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        obstacle(&self.chain, self.entry.version)
    }

    /// The highest version that maintenance may publish.
    pub(crate) fn clean(&self) -> u64 {
        clean_prefix(&self.chain, self.entry.version)
    }
}

impl Store {
    /// What is visible of `table`.
    ///
    /// # Errors
    /// `NotFound`, and those of the storage.
    pub(crate) async fn pinned(&self, table: &TableName) -> Result<Pinned> {
        let snapshot = self.load().await?;
        let entry = snapshot.state.table(table)?.clone();
        Ok(Pinned { snapshot, entry })
    }

    /// The same, with what stands above it now. Whoever has to tell a table that was made again asks [`Store::pin_stands`] before.
    ///
    /// # Errors
    /// `Drift` where nothing of the table is left, and those of the storage.
    pub(crate) async fn above(&self, Pinned { snapshot, entry }: Pinned) -> Result<Standing> {
        let chain = self
            .scan(snapshot.state.store, &entry.path, entry.version)
            .await?;
        Ok(Standing {
            snapshot,
            entry,
            chain,
        })
    }

    /// Both.
    ///
    /// # Errors
    /// Theirs.
    pub(crate) async fn look_at(&self, table: &TableName) -> Result<Standing> {
        let pinned = self.pinned(table).await?;
        self.above(pinned).await
    }
}
