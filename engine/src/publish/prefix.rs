//! The clean prefix: maintenance's publish.
//!
//! A monotonic fast-forward over content-preserving versions. It never passes a version that was not decided, and it
//! never fails because someone else moved the pin: if the pin is already there, the work is done.

use super::{Change, Published, Record, Rounds};
use crate::error::Result;
use crate::ids::TableName;
use crate::store::{Standing, Store};
use squire_failpoints::{Guard, Seam, hit, stands};

impl Store {
    /// Publishes the highest clean version of `table`. Returns the pin that stands afterwards.
    pub(crate) async fn publish_prefix(&self, table: &TableName, record: &Record) -> Result<u64> {
        let mut rounds = Rounds::new();
        loop {
            let pinned = self.pinned(table).await?;
            hit(Seam::PublishAfterLoad)?;
            let at = self.above(pinned).await?;
            let n = if stands(Guard::CleanPrefix) {
                at.clean()
            } else {
                at.chain.head()
            };
            let Standing {
                snapshot, entry, ..
            } = at;
            if n <= entry.version {
                return Ok(entry.version);
            }
            if !self.pin_stands(&entry).await? {
                return Err(entry.replaced(format!("table {table}")));
            }
            let made = self.made_by(&entry.path, n).await?;
            self.sync_found().await?;
            hit(Seam::MaintainBeforePublish)?;
            let mut record = record.clone();
            record.tables = vec![Change {
                table: table.clone(),
                from: entry.version,
                to: n,
            }];
            let updates = vec![snapshot.state.pin_update(table, n, made)?];
            match self.try_publish(&snapshot, updates, &record).await? {
                Published::Won(_) => return Ok(n),
                Published::Lost(e) => rounds.lost(self, e).await?,
            }
        }
    }
}
