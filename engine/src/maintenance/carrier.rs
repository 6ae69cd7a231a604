//! The carrier: lands rewrites above HEAD, whatever writers did to their fragments meanwhile.
//!
//! 1. It compares HEAD with the version that was rewritten, by their manifests. A result whose fragments changed in
//!    another way than by deletions, or of which an index covers a part, is given up; the rest goes on.
//! 2. Once, it gives the new fragments ids, and lets indexes follow and proves them as if nothing had been deleted (a
//!    rehearsal). Ids are some ahead of HEAD's: until writers have come so far they are nobody's, and the commit takes them.
//! 3. It writes what was deleted meanwhile as deletion files of the new fragments, whose names hold those ids.
//! 4. Once, if there is any of that, it rehearses it above a HEAD and proves it: rows are compared, and the indexes are asked.
//! 5. It commits above the newest HEAD, at exactly the next version: nothing lands between what was compared and what is
//!    committed. A slot that is lost leads back to 1, not to another rewrite; after many of them, to 1 some time later.
//!
//! A writer of twenty versions a second leaves a few hundredths of a second between two of them. Between the reading of HEAD
//! and the commit stands therefore only what depends on HEAD: the comparison, and deletion files that are others than before.

use super::carry::{Next, Patience, between_bursts};
use super::comparison::{Carried, Comparison, deletions, rows_of};
use super::index_proof::prove_followers;
use super::listed::{followers, ids_of};
use super::rehearsal::{put, slot_after};
use super::run::Run;
use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::proof::{Rewrite, Verify};
use crate::store::{Opened, SlotChoice, Store, fragment_bytes, own_file};
use lance::Dataset;
use lance::dataset::index::DatasetIndexRemapperOptions;
use lance::dataset::optimize::{CompactionOptions, RewriteResult, commit_compaction};
use lance::dataset::transaction::{
    Operation, RewriteGroup, RewrittenIndex, Transaction, TransactionBuilder,
};
use lance_table::format::Fragment;
use lance_table::io::deletion::{read_deletion_file, write_deletion_file};
use roaring::RoaringBitmap;
use squire_failpoints::{Seam, hit};
use std::sync::Arc;

/// What carries the results of one batch.
pub(super) struct Carrier<'a> {
    pub(super) store: &'a Store,
    pub(super) run: &'a Run<'a>,
    pub(super) options: &'a CompactionOptions,
    /// The version that was rewritten.
    pub(super) base: &'a Dataset,
}

/// What was committed.
#[derive(Debug, Default)]
pub(super) struct Landed {
    pub(super) fragments_removed: u64,
    pub(super) fragments_added: u64,
    pub(super) bytes: u64,
    /// Bytes of the new fragments.
    pub(super) written: u64,
    /// Whether deletions were carried.
    pub(super) carried: bool,
    /// Results that were given up.
    pub(super) dropped: usize,
}

impl Landed {
    /// What `results` are when they are committed.
    pub(super) fn of<'a>(results: impl IntoIterator<Item = &'a RewriteResult>) -> Self {
        let mut landed = Self::default();
        for result in results {
            landed.fragments_removed += result.original_fragments.len() as u64;
            landed.fragments_added += result.new_fragments.len() as u64;
            let written = result.new_fragments.iter().map(fragment_bytes);
            landed.written += written.sum::<u64>();
            landed.bytes += result
                .original_fragments
                .iter()
                .map(fragment_bytes)
                .sum::<u64>();
        }
        landed
    }
}

/// A rewrite whose fragments have ids and whose indexes have followed, whatever HEAD is.
struct Prepared {
    /// The new fragments of each result, with the deletions that were written for them last.
    fragments: Vec<Vec<New>>,
    indexes: Vec<RewrittenIndex>,
    /// What of it was proved above some HEAD.
    proved: Proved,
}

/// What is known of a rewrite that stands nowhere yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Proved {
    /// That it has the rows of what it replaces.
    Rewrite,
    /// That indexes which follow it find them.
    Indexes,
    /// The same of deletions that are carried.
    Deletions,
}

/// A new fragment, and what is deleted in it.
struct New {
    fragment: Fragment,
    deleted: RoaringBitmap,
}

impl Prepared {
    /// `results` whose fragments have the ids from `first` on. No index follows them.
    fn numbered(results: &[RewriteResult], first: u64) -> Self {
        let mut ids = first..;
        let mut numbered = |fragment: &Fragment| Fragment {
            id: ids.next().unwrap_or(u64::MAX),
            ..fragment.clone()
        };
        let fragments = results.iter().map(|result| {
            let new = result.new_fragments.iter();
            new.map(|fragment| New::whole(numbered(fragment))).collect()
        });
        Self {
            fragments: fragments.collect(),
            indexes: Vec::new(),
            proved: Proved::Indexes,
        }
    }

    /// What was `staged` for `results`.
    ///
    /// # Errors
    /// `Internal` when that is not a rewrite of theirs.
    async fn of(staged: &Dataset, results: &[RewriteResult]) -> Result<Self> {
        let transaction = staged.read_transaction().await?;
        let Some(Operation::Rewrite {
            groups,
            rewritten_indices,
            frag_reuse_index: None,
        }) = transaction.map(|transaction| transaction.operation)
        else {
            return Err(Error::internal("what was rehearsed is no rewrite"));
        };
        let fits = |(group, result): (&RewriteGroup, &RewriteResult)| {
            ids_of(&group.old_fragments) == ids_of(&result.original_fragments)
                && rows_of(&group.new_fragments) == rows_of(&result.new_fragments)
        };
        if groups.len() != results.len() || !groups.iter().zip(results).all(fits) {
            return Err(Error::internal("what was rehearsed are other rewrites"));
        }
        let groups = groups.into_iter().map(|group| group.new_fragments);
        Ok(Self {
            fragments: groups
                .map(|fragments| fragments.into_iter().map(New::whole).collect())
                .collect(),
            indexes: rewritten_indices,
            proved: Proved::Rewrite,
        })
    }

    /// Whether nobody has, or had, the ids of its fragments in `head` or before.
    fn has_free_ids(&self, head: &Dataset) -> bool {
        let mut ids = self.fragments.iter().flatten().map(|new| new.fragment.id);
        ids.all(|id| id >= next_id(head))
    }

    /// Writes through `handle` what is to be deleted and was not written yet.
    async fn delete(&mut self, handle: &Dataset, carried: &[Carried]) -> Result<()> {
        let all = carried.iter().flat_map(|carried| &carried.deleted);
        for (new, deleted) in self.fragments.iter_mut().flatten().zip(all) {
            if new.deleted != *deleted {
                new.delete(handle, deleted).await?;
            }
        }
        Ok(())
    }

    /// What replaces what, as the sources of `carried` are.
    fn groups(&self, carried: &[Carried]) -> Vec<RewriteGroup> {
        let groups = self.fragments.iter().zip(carried);
        let groups = groups.map(|(new, carried)| RewriteGroup {
            old_fragments: carried.sources.clone(),
            new_fragments: new.iter().map(|new| new.fragment.clone()).collect(),
        });
        groups.collect()
    }
}

impl New {
    fn whole(fragment: Fragment) -> Self {
        let deleted = RoaringBitmap::new();
        Self { fragment, deleted }
    }

    /// Writes that `deleted` is deleted, and reads it back.
    async fn delete(&mut self, handle: &Dataset, deleted: &RoaringBitmap) -> Result<()> {
        let objects = handle.object_store(None).await?;
        let base = handle.branch_location().path;
        let (id, version) = (self.fragment.id, handle.manifest().version);
        let written = deleted.clone().into();
        let written = write_deletion_file(&base, id, version, &written, &objects).await?;
        if let Some(file) = &written {
            let read = read_deletion_file(id, file, &base, &objects).await?;
            let read: RoaringBitmap = read.to_sorted_iter().collect();
            let counted = file.num_deleted_rows.map(|rows| rows as u64);
            if read != *deleted || counted != Some(deleted.len()) {
                return Err(other_deletions(id));
            }
        }
        self.fragment.deletion_file = written;
        self.deleted = deleted.clone();
        Ok(())
    }
}

/// The lowest id that no fragment has, or had, in `head` or before.
fn next_id(head: &Dataset) -> u64 {
    head.manifest().max_fragment_id().map_or(0, |most| most + 1)
}

/// Ids that writers may take between the preparation of a rewrite and its commit, at least and at most. A table has four billion,
/// and those that nobody took by then are lost.
const LEAST_AHEAD: u64 = 16;
const MOST_AHEAD: u64 = 1 << 16;

/// What has to be proved of `carried`.
fn wanted(carried: &[Carried]) -> Proved {
    let mut deleted = carried.iter().flat_map(|carried| &carried.deleted);
    match deleted.any(|deleted| !deleted.is_empty()) {
        true => Proved::Deletions,
        false => Proved::Indexes,
    }
}

fn other_deletions(fragment: u64) -> Error {
    let why = format!("fragment {fragment} has other deletions when read back");
    Error::new(ErrorKind::Unfit, why)
}

impl Carrier<'_> {
    /// Lands what holds of `results`, and gives the version that has it. While writers come first again and again, it waits
    /// for them.
    ///
    /// # Errors
    /// `Conflict`, or what was lost last, when nothing holds; `Cancelled` when the run is asked to stop.
    pub(super) async fn land(&self, results: Vec<RewriteResult>) -> Result<(Landed, Dataset)> {
        let offered = results.len();
        let mut lost = Error::conflict("others have changed what it replaces");
        let opened = self.run.opened();
        let mut comparison = Comparison::of(self.base, results).await?;
        let mut prepared: Option<Prepared> = None;
        let (mut patience, mut backoff) = (Patience::default(), between_bursts());
        // The version above which a commit was tried last.
        let mut tried = None;
        loop {
            let slot = SlotChoice::default();
            let head = self.store.head_at(self.run, &slot).await?;
            if let Some(version) = tried.take() {
                match patience.next(head.manifest().version > version) {
                    Next::AtOnce => {}
                    Next::Later => {
                        self.run.rest(self.store, &mut backoff).await?;
                        continue;
                    }
                    Next::GiveUp => return Err(lost),
                }
            }
            let same = comparison.follow(&head).await?;
            let carried = &comparison.carried;
            if let Some(why) = comparison.given_up.take() {
                self.check_standing(opened.as_ref(), &head).await?;
                let left = carried.len();
                tracing::info!(op = %self.run.op, target = %self.run.target, offered, left, why, "rewrites are given up, and planned afresh");
                lost = Error::conflict(why);
            }
            if carried.is_empty() {
                return Err(lost);
            }
            let is_free = |ready: &Prepared| ready.has_free_ids(&head);
            if !same || !prepared.as_ref().is_some_and(is_free) {
                prepared = None;
            }
            let done = self.step(&head, &slot, &mut prepared, carried, &mut tried);
            match done.await {
                Ok(None) => {}
                Ok(Some(head)) => {
                    let landed = Landed {
                        carried: wanted(carried) == Proved::Deletions,
                        dropped: offered - carried.len(),
                        ..Landed::of(carried.iter().map(|carried| &carried.result))
                    };
                    return Ok((landed, head));
                }
                Err(e) if e.disposition() != Disposition::Retry => return Err(e),
                Err(e) if tried.is_none() && patience.next(false) == Next::GiveUp => return Err(e),
                Err(e) => {
                    tracing::debug!(op = %self.run.op, target = %self.run.target, error = %e, "lost a try, trying again");
                    lost = e;
                    if prepared.is_none() {
                        self.keep_standing(&mut comparison.carried).await?;
                    }
                }
            }
        }
    }

    /// Does what comes next above `head`: preparation, proof or, which is `tried`, the commit. What takes its time needs a newer
    /// HEAD behind it.
    async fn step(
        &self,
        head: &Dataset,
        slot: &SlotChoice,
        prepared: &mut Option<Prepared>,
        carried: &[Carried],
        tried: &mut Option<u64>,
    ) -> Result<Option<Dataset>> {
        let ready = match prepared {
            Some(ready) => ready,
            None => {
                let ready = prepared.insert(self.prepare(head, carried).await?);
                if !ready.indexes.is_empty() {
                    return Ok(None);
                }
                ready
            }
        };
        if ready.proved < wanted(carried) {
            self.prove(head, ready, carried).await?;
            return Ok(None);
        }
        *tried = Some(head.manifest().version);
        self.commit(head, slot, ready, carried).await.map(Some)
    }

    /// That `head` is of the table that was `opened`: another one has other fragments, which are none of this run's.
    async fn check_standing(&self, opened: Option<&Opened>, head: &Dataset) -> Result<()> {
        let Some(opened) = opened else {
            return Ok(());
        };
        let at = &head.manifest_location().path;
        if opened.is_table(&self.store.objects, at).await? {
            return Ok(());
        }
        // What the run was about, not what it met.
        self.run.open_at(opened.clone());
        Err(opened.gone())
    }

    /// Gives up those whose files are gone: Lance removes them when a rehearsal fails early.
    async fn keep_standing(&self, carried: &mut Vec<Carried>) -> Result<()> {
        let mut standing = Vec::with_capacity(carried.len());
        for carried in std::mem::take(carried) {
            if self.files_stand(&carried.result.new_fragments).await? {
                standing.push(carried);
            }
        }
        *carried = standing;
        Ok(())
    }

    async fn files_stand(&self, fragments: &[Fragment]) -> Result<bool> {
        for file in fragments.iter().flat_map(|fragment| &fragment.files) {
            match own_file(self.base, file) {
                Some(path) if self.store.objects.exists(&path).await? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Gives ids, and lets indexes follow, as if nothing had been deleted. Nothing of it counts yet.
    async fn prepare(&self, head: &Dataset, carried: &[Carried]) -> Result<Prepared> {
        let results = carried.iter().map(|carried| RewriteResult {
            read_version: head.manifest().version,
            original_fragments: carried.sources.clone(),
            ..carried.result.clone()
        });
        let results: Vec<RewriteResult> = results.collect();
        let ahead = self.ids_ahead(head, &results)?;
        let rewritten = ids_of(results.iter().flat_map(|r| &r.original_fragments));
        let followers = followers(head, &rewritten).await?;
        if followers.is_empty() {
            let first = next_id(head) + u64::from(ahead);
            return Ok(Prepared::numbered(&results, first));
        }
        let mut staged = self.store.rehearsal_ahead(self.run, head, ahead).await?;
        let remap = Arc::new(DatasetIndexRemapperOptions::default());
        commit_compaction(&mut staged, results.clone(), remap, self.options).await?;
        let mut ready = Prepared::of(&staged, &results).await?;
        if wanted(carried) == Proved::Indexes {
            prove_followers(self.run.target, head, &staged, &followers).await?;
            ready.proved = Proved::Indexes;
        }
        Ok(ready)
    }

    /// How many ids writers may take from `head` on before `results` need others: twice as many as they took during the
    /// rewrite, so that it grows while they are faster.
    fn ids_ahead(&self, head: &Dataset, results: &[RewriteResult]) -> Result<u32> {
        let next = next_id(head);
        let taken = next.saturating_sub(next_id(self.base));
        let ahead = (LEAST_AHEAD + 2 * taken).min(MOST_AHEAD);
        let new: usize = results
            .iter()
            .map(|result| result.new_fragments.len())
            .sum();
        let left = (u64::from(u32::MAX) - 1).checked_sub(next + new as u64);
        let Some(left) = left else {
            let why = "its fragments have had all ids that there are; write it anew";
            return Err(Error::new(ErrorKind::Unfit, why));
        };
        Ok(u32::try_from(ahead.min(left)).unwrap_or(0))
    }

    /// Looks at what would stand above `head`. What is deleted until it stands above a later one is carried in the same way,
    /// and read back; rows and indexes are then the same.
    async fn prove(
        &self,
        head: &Dataset,
        prepared: &mut Prepared,
        carried: &[Carried],
    ) -> Result<()> {
        let slot = slot_after(head);
        let staged = self.store.rehearsal(self.run, head, Some(slot)).await?;
        prepared.delete(&staged, carried).await?;
        let groups = prepared.groups(carried);
        let staged = put(staged, self.transaction(head, prepared, groups.clone())).await?;
        self.check(head, &staged, &groups, carried).await?;
        prepared.proved = Proved::Deletions;
        tracing::debug!(op = %self.run.op, target = %self.run.target, "proved, committing it");
        Ok(())
    }

    /// Commits `prepared` with the deletions of `carried` at the version after `head`, and gives that version. Whatever can
    /// be done before is done before.
    async fn commit(
        &self,
        head: &Dataset,
        slot: &SlotChoice,
        prepared: &mut Prepared,
        carried: &[Carried],
    ) -> Result<Dataset> {
        slot.choose(slot_after(head));
        let handle = self.store.written_through(head, self.run).await?;
        prepared.delete(&handle, carried).await?;
        if wanted(carried) == Proved::Deletions {
            hit(Seam::MaintainAfterCarry)?;
        }
        let transaction = self.transaction(head, prepared, prepared.groups(carried));
        let landed = put(handle, transaction).await?;
        // The next commit wants this version, without the slot.
        self.store.committing(self.run, &landed, None).await
    }

    fn transaction(
        &self,
        head: &Dataset,
        prepared: &Prepared,
        groups: Vec<RewriteGroup>,
    ) -> Transaction {
        let operation = Operation::Rewrite {
            groups,
            rewritten_indices: prepared.indexes.clone(),
            frag_reuse_index: None,
        };
        TransactionBuilder::new(head.manifest().version, operation)
            .transaction_properties(self.options.transaction_properties.clone())
            .build()
    }

    /// Looks at `staged`, which is to stand above `head`.
    async fn check(
        &self,
        head: &Dataset,
        staged: &Dataset,
        groups: &[RewriteGroup],
        carried: &[Carried],
    ) -> Result<()> {
        let (was, is) = (head.count_rows(None).await?, staged.count_rows(None).await?);
        if was != is {
            return Err(Error::new(
                ErrorKind::Unfit,
                format!("{is} rows are left and {was} were to be left"),
            ));
        }
        let mut rewritten = RoaringBitmap::new();
        for (group, carried) in groups.iter().zip(carried) {
            rewritten |= ids_of(&group.old_fragments);
            for (fragment, expected) in group.new_fragments.iter().zip(&carried.deleted) {
                let mut standing = staged.manifest().fragments.iter();
                let Some(stands) = standing.find(|stands| stands.id == fragment.id) else {
                    return Err(Error::internal(format!(
                        "fragment {} is not there",
                        fragment.id
                    )));
                };
                if deletions(staged, stands).await? != *expected {
                    return Err(other_deletions(fragment.id));
                }
            }
            let check = Rewrite {
                dataset: head,
                old: &group.old_fragments,
                new: &group.new_fragments,
                verify: Verify::Sample,
                batch_rows: Some(1),
                read_ahead: self.store.memory().read_ahead(0),
                oversight: self.run.oversight,
            };
            check.check_rows(staged, carried.neighbours()).await?;
        }
        let followers = followers(head, &rewritten).await?;
        prove_followers(self.run.target, head, staged, &followers).await
    }
}
