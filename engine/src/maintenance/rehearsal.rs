//! Rehearsal: a version is built as it would be committed, and looked at, before it is.
//!
//! 1. `Store::rehearsal` gives a handle of HEAD whose commits put nothing (see the guard) and whose caches are its own.
//! 2. Lance commits through it whatever it likes. The files that this writes are journalled as ever.
//! 3. The handle then shows the version that would be; [`base_of`] is the one before it.
//! 4. [`commit_rehearsed`] commits the same transaction for good.

use super::run::Run;
use crate::error::{Error, Result};
use crate::store::{GuardedCommitHandler, Slot, Store};
use lance::Dataset;
use lance::dataset::CommitBuilder;
use std::sync::Arc;

impl Store {
    /// A handle of `head`'s version through which `run` rehearses: what is to be committed at `slot` alone, or wherever
    /// there is room.
    pub(crate) async fn rehearsal(
        &self,
        run: &Run<'_>,
        head: &Dataset,
        slot: Option<Slot>,
    ) -> Result<Dataset> {
        let guard = self.guard_at(run, slot).rehearsing();
        let opened = self.guarded(run.path(), head, guard, self.own_session());
        self.written_through(&opened.await?, run).await
    }

    /// The same, through which `run` commits.
    pub(crate) async fn committing(
        &self,
        run: &Run<'_>,
        head: &Dataset,
        slot: Option<Slot>,
    ) -> Result<Dataset> {
        let guard = self.guard_at(run, slot);
        let opened = self.guarded(run.path(), head, guard, self.session());
        self.written_through(&opened.await?, run).await
    }

    fn guard_at(&self, run: &Run<'_>, slot: Option<Slot>) -> GuardedCommitHandler {
        let guard = self.guard_of(&run.journal);
        run.stand_on_opened(&guard);
        match slot {
            Some(slot) => guard.at(slot),
            None => guard,
        }
    }
}

/// The version that `rehearsed` was built on: `head`, or one that others committed meanwhile.
pub(crate) async fn base_of(rehearsed: &Dataset, head: &Dataset) -> Result<Dataset> {
    match rehearsed.manifest().version - 1 {
        base if base == head.manifest().version => Ok(head.clone()),
        base => Ok(head.checkout_version(base).await?),
    }
}

/// Commits what was `rehearsed` above `head`, and moves `head` there.
pub(crate) async fn commit_rehearsed(head: &mut Dataset, rehearsed: &Dataset) -> Result<()> {
    let transaction = rehearsed.read_transaction().await?;
    let transaction =
        transaction.ok_or_else(|| Error::internal("what was rehearsed has no transaction"))?;
    *head = CommitBuilder::new(Arc::new(head.clone()))
        .with_skip_auto_cleanup(true)
        .execute(transaction)
        .await?;
    Ok(())
}
