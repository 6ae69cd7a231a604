//! Rehearsal: a version is built as it would be committed, and looked at, before it is.
//!
//! 1. `Store::rehearsal` gives a handle of HEAD whose commits put nothing (see the guard) and whose caches are its own.
//! 2. Lance commits through it whatever it likes. The files that this writes are journalled as ever.
//! 3. The handle then shows the version that would be; [`base_of`] is the one before it.
//! 4. [`commit_index`] commits the same transaction for good, however busy the writers are; rewrites have their carrier.

use super::carry::{Change, Next, Patience, between_bursts, comparable, most_changed};
use super::listed::{covered_by, ids_of};
use super::plan::beyond_us;
use super::run::Run;
use crate::error::{Disposition, Error, Result};
use crate::store::{GuardedCommitHandler, Slot, SlotChoice, Store};
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, Transaction, TransactionBuilder};
use lance_index::is_system_index;
use lance_table::format::IndexMetadata;
use lance_table::io::manifest::read_manifest_indexes;
use std::collections::BTreeSet;
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
        self.rehearsed_by(run, head, self.guard_at(run, slot).rehearsing())
            .await
    }

    /// The same of a rewrite right above `head`, whose fragments get ids that are `ahead` of the next ones.
    pub(crate) async fn rehearsal_ahead(
        &self,
        run: &Run<'_>,
        head: &Dataset,
        ahead: u32,
    ) -> Result<Dataset> {
        let guard = self.guard_at(run, Some(slot_after(head)));
        let guard = guard.rehearsing().with_ids_ahead(ahead);
        self.rehearsed_by(run, head, guard).await
    }

    async fn rehearsed_by(
        &self,
        run: &Run<'_>,
        head: &Dataset,
        guard: GuardedCommitHandler,
    ) -> Result<Dataset> {
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

async fn transaction_of(rehearsed: &Dataset) -> Result<Transaction> {
    let transaction = rehearsed.read_transaction().await?;
    transaction.ok_or_else(|| Error::internal("what was rehearsed has no transaction"))
}

/// Commits the index that was `rehearsed` above `head`, and moves `head` there. When the commit is lost, Lance would read what all writers committed since, with longer and longer
/// pauses. The manifests say whether the index still stands: then it is committed at exactly the next version, in bursts of
/// tries, for as long as writers come first.
///
/// # Errors
/// What was lost last, when the index does not stand any more; `Cancelled` when the run is asked to stop.
pub(crate) async fn commit_index(
    (store, run): (&Store, &Run<'_>),
    head: &mut Dataset,
    rehearsed: &Dataset,
) -> Result<()> {
    let transaction = transaction_of(rehearsed).await?;
    let built = Built::of(base_of(rehearsed, head).await?, &transaction).await?;
    let once = CommitBuilder::new(Arc::new(head.clone()))
        .with_max_retries(1)
        .with_skip_auto_cleanup(true);
    let mut lost = match once.execute(transaction.clone()).await {
        Ok(landed) => {
            *head = landed;
            return Ok(());
        }
        Err(e) => Error::from(e),
    };
    let (mut patience, mut backoff) = (Patience::default(), between_bursts());
    // The version above which a commit was tried last.
    let mut tried: Option<u64> = None;
    while lost.disposition() == Disposition::Retry {
        let slot = SlotChoice::default();
        let now = store.head_at(run, &slot).await?;
        let version = now.manifest().version;
        match tried.take().map(|tried| patience.next(version > tried)) {
            None | Some(Next::AtOnce) => {}
            Some(Next::Later) => {
                run.rest(store, &mut backoff).await?;
                continue;
            }
            Some(Next::GiveUp) => break,
        }
        if !built.stands(&now).await? {
            break;
        }
        slot.choose(slot_after(&now));
        tried = Some(version);
        let again = TransactionBuilder::new(version, transaction.operation.clone())
            .transaction_properties(transaction.transaction_properties.clone())
            .build();
        match put(store.written_through(&now, run).await?, again).await {
            Ok(landed) => {
                // The next commit wants this version, without the slot.
                *head = store.committing(run, &landed, None).await?;
                return Ok(());
            }
            Err(e) => lost = e,
        }
    }
    Err(lost)
}

/// Segments of an index, and the version that they were built of.
struct Built {
    base: Dataset,
    segments: Vec<IndexMetadata>,
    /// What the version had under their names.
    replaced: BTreeSet<String>,
}

impl Built {
    async fn of(base: Dataset, transaction: &Transaction) -> Result<Self> {
        let Operation::CreateIndex { new_indices, .. } = &transaction.operation else {
            return Err(Error::internal("what was rehearsed is no index"));
        };
        let mut built = Self {
            base,
            segments: new_indices.clone(),
            replaced: BTreeSet::new(),
        };
        built.replaced = built.named_in(&built.base).await?.unwrap_or_default();
        Ok(built)
    }

    /// The segments in `version` under the names of these; `None` where Lance keeps indexes of its own, which say what others were
    /// built of.
    async fn named_in(&self, version: &Dataset) -> Result<Option<BTreeSet<String>>> {
        let objects = version.object_store(None).await?;
        let location = version.manifest_location();
        let listed = read_manifest_indexes(&objects, location, version.manifest()).await?;
        if listed.iter().any(is_system_index) {
            return Ok(None);
        }
        let is_named =
            |listed: &&IndexMetadata| self.segments.iter().any(|s| s.name == listed.name);
        let named = listed.iter().filter(is_named);
        Ok(Some(
            named.map(|segment| segment.uuid.to_string()).collect(),
        ))
    }

    /// Whether they may stand above `now`: nothing but deletions has come to what they cover, and nothing to the index.
    async fn stands(&self, now: &Dataset) -> Result<bool> {
        let (was, is) = (self.base.manifest(), now.manifest());
        let covered = covered_by(&self.segments) & ids_of(self.base.fragments().iter());
        let covered: Vec<u64> = covered.iter().map(u64::from).collect();
        let comparable = was.version == is.version || comparable(was, is);
        Ok(comparable
            && beyond_us(is).is_none()
            && most_changed(was, is, &covered) != Change::Other
            && self.named_in(now).await?.as_ref() == Some(&self.replaced))
    }
}

/// The version after `head`.
pub(crate) fn slot_after(head: &Dataset) -> Slot {
    Slot {
        version: head.manifest().version + 1,
        naming: head.manifest_location().naming_scheme,
    }
}

/// Commits `transaction` at the slot of `handle`, or not at all.
pub(crate) async fn put(handle: Dataset, transaction: Transaction) -> Result<Dataset> {
    let commit = CommitBuilder::new(Arc::new(handle))
        .with_max_retries(0)
        .with_skip_auto_cleanup(true);
    Ok(commit.execute(transaction).await?)
}
