//! The carrier: lands rewrites above writers that touched their fragments meanwhile.
//!
//! 1. It compares HEAD with the version that was rewritten, by their manifests. A result whose fragments changed in
//!    another way than by deletions, or whose indexes are others, is given up; the rest goes on.
//! 2. It rehearses the rewrite as if nothing had been deleted: fragments get their ids, and indexes follow.
//! 3. It writes what was deleted meanwhile as deletion files of the new fragments, whose names hold those ids.
//! 4. It rehearses that above HEAD, looks at it, and commits it at exactly the next version: nothing lands between what
//!    was compared and what is committed. A slot that is lost leads back to 1, not to another rewrite; after many of them,
//!    to 1 some time later.

use super::carry::{
    Change, Coverage, Next, Patience, Source, carry, comparable, compare, neighbours, same_coverage,
};
use super::index_proof::prove_followers;
use super::listed::{followers, ids_of};
use super::plan::beyond_us;
use super::run::Run;
use crate::clock::Backoff;
use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::proof::{Rewrite, Verify};
use crate::store::{Slot, Store, fragment_bytes, own_file};
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::index::DatasetIndexRemapperOptions;
use lance::dataset::optimize::{CompactionOptions, RewriteResult, commit_compaction};
use lance::dataset::transaction::{
    Operation, RewriteGroup, RewrittenIndex, Transaction, TransactionBuilder,
};
use lance_index::frag_reuse::FRAG_REUSE_INDEX_NAME;
use lance_index::is_system_index;
use lance_table::format::Fragment;
use lance_table::io::deletion::write_deletion_file;
use lance_table::io::manifest::read_manifest_indexes;
use roaring::{RoaringBitmap, RoaringTreemap};
use squire_failpoints::{Seam, hit};
use std::sync::Arc;
use std::time::Duration;

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
    /// Whether it was carried.
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

/// A result, and what happened to its fragments up to a certain version.
struct Carried {
    result: RewriteResult,
    /// Its fragments as that version has them.
    sources: Vec<Fragment>,
    /// The offsets that are to be deleted in each new fragment.
    deleted: Vec<RoaringBitmap>,
}

/// A rewrite whose fragments have their ids and whose indexes have followed.
struct Prepared {
    /// The new fragments of each result.
    fragments: Vec<Vec<Fragment>>,
    indexes: Vec<RewrittenIndex>,
}

impl Carrier<'_> {
    /// Lands what still holds of `results`, whose commit was `lost`; also gives the version that has it. While writers come
    /// first again and again, it waits for them.
    ///
    /// # Errors
    /// `lost`, or what was lost last, when nothing holds; `Cancelled` when the run is asked to stop.
    pub(super) async fn land(
        &self,
        results: Vec<RewriteResult>,
        lost: Error,
    ) -> Result<(Landed, Dataset)> {
        let mut lost = lost;
        let mut results = results;
        let offered = results.len();
        let mut prepared = None;
        let mut patience = Patience::default();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        // The version above which a commit was tried last.
        let mut tried = None;
        loop {
            let head = self.store.head_of(self.run).await?;
            if let Some(version) = tried.take() {
                match patience.next(head.manifest().version > version) {
                    Next::AtOnce => {}
                    Next::Later => {
                        self.rest(&mut backoff).await?;
                        continue;
                    }
                    Next::GiveUp => return Err(lost),
                }
            }
            let before = results.len();
            let carried = self.compare(&head, results).await?;
            results = carried.iter().map(|c| c.result.clone()).collect();
            if carried.is_empty() {
                return Err(lost);
            }
            if carried.len() < before {
                prepared = None;
            }
            let Some(ready) = &prepared else {
                // Ids are reserved by a version of their own: HEAD is another one afterwards.
                match self.prepare(&head, &carried).await {
                    Ok(made) => prepared = Some(made),
                    Err(e) if e.disposition() != Disposition::Retry => return Err(e),
                    Err(e) => match patience.next(false) {
                        Next::GiveUp => return Err(e),
                        Next::AtOnce | Next::Later => lost = e,
                    },
                }
                continue;
            };
            match self.commit(&head, ready, &carried).await {
                Ok(head) => {
                    let landed = Landed {
                        carried: true,
                        dropped: offered - results.len(),
                        ..Landed::of(&results)
                    };
                    return Ok((landed, head));
                }
                Err(e) if e.disposition() == Disposition::Retry => {
                    lost = e;
                    tried = Some(head.manifest().version);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits before another try. A run that was taken for dead has nothing to wait for.
    async fn rest(&self, backoff: &mut Backoff) -> Result<()> {
        if !self.run.is_licensed().await? {
            return Err(Error::conflict("the record of this run is gone"));
        }
        tracing::debug!(op = %self.run.op, target = %self.run.target, "what was rewritten waits for the writers");
        let rest = async {
            backoff.wait(self.store.clock(), &self.store.entropy).await;
            Ok::<(), Error>(())
        };
        self.run.unless_cancelled(rest).await
    }

    /// Those of `results` that hold at `head`.
    async fn compare(&self, head: &Dataset, results: Vec<RewriteResult>) -> Result<Vec<Carried>> {
        let mut carried = Vec::new();
        let comparable = comparable(self.base.manifest(), head.manifest())
            && beyond_us(head.manifest()).is_none();
        let coverage = (coverage(self.base).await?, coverage(head).await?);
        let (true, (Some(covered), Some(covers))) = (comparable, coverage) else {
            return Ok(carried);
        };
        for result in results {
            let ids = ids_of(&result.original_fragments);
            if same_coverage(&covered, &covers, &ids)
                && self.files_stand(&result.new_fragments).await?
                && let Some((sources, deleted)) = self.deleted(head, &result).await?
            {
                carried.push(Carried {
                    result,
                    sources,
                    deleted,
                });
            }
        }
        Ok(carried)
    }

    /// The sources of `result` in `head`, and what is to be deleted of its new fragments; `None` when it does not hold.
    async fn deleted(
        &self,
        head: &Dataset,
        result: &RewriteResult,
    ) -> Result<Option<(Vec<Fragment>, Vec<RoaringBitmap>)>> {
        let (mut fragments, mut sources) = (Vec::new(), Vec::new());
        let mut survived = RoaringTreemap::new();
        for rewritten in &result.original_fragments {
            let was = find(self.base, rewritten.id);
            let is = find(head, rewritten.id);
            let (Some(was), Some(is)) = (was, is) else {
                return Ok(None);
            };
            let change = compare(was, Some(is));
            let recounted =
                was.physical_rows.is_some() && rewritten.physical_rows != was.physical_rows;
            if change == Change::Other || recounted {
                return Ok(None);
            }
            let before = deletions(self.base, was).await?;
            let after = match change {
                Change::Deletions => deletions(head, is).await?,
                Change::None | Change::Other => before.clone(),
            };
            let rows = is.physical_rows.unwrap_or(0) as u64;
            let first = rewritten.id << u32::BITS;
            survived.insert_range(first..first + rows);
            for offset in &before {
                survived.remove(first + u64::from(offset));
            }
            fragments.push(is.clone());
            sources.push(Source {
                rows,
                before,
                after,
            });
        }
        // Ranks go by the order in which Lance reads, and so do its addresses.
        let in_order = fragments.is_sorted_by_key(|fragment| fragment.id);
        if !in_order || !has_addresses(result, &survived) {
            return Ok(None);
        }
        Ok(carry(&sources, &rows_of(&result.new_fragments)).map(|deleted| (fragments, deleted)))
    }

    /// Whether the files of `fragments` are there: Lance removes them when no ids could be reserved for them.
    async fn files_stand(&self, fragments: &[Fragment]) -> Result<bool> {
        for file in fragments.iter().flat_map(|fragment| &fragment.files) {
            match own_file(self.base, file) {
                Some(path) if self.store.objects.exists(&path).await? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reserves ids and lets indexes follow, as if nothing had been deleted. Nothing of it counts yet.
    async fn prepare(&self, head: &Dataset, carried: &[Carried]) -> Result<Prepared> {
        let results = carried.iter().map(|carried| RewriteResult {
            read_version: head.manifest().version,
            original_fragments: carried.sources.clone(),
            ..carried.result.clone()
        });
        let mut staged = self.store.rehearsal(self.run, head, None).await?;
        let remap = Arc::new(DatasetIndexRemapperOptions::default());
        commit_compaction(&mut staged, results.collect(), remap, self.options).await?;
        let transaction = staged.read_transaction().await?;
        let Some(Operation::Rewrite {
            groups,
            rewritten_indices,
            frag_reuse_index: None,
        }) = transaction.map(|transaction| transaction.operation)
        else {
            return Err(Error::internal("what was rehearsed is no rewrite"));
        };
        let fits = |(group, carried): (&RewriteGroup, &Carried)| {
            group.old_fragments == carried.sources
                && rows_of(&group.new_fragments) == rows_of(&carried.result.new_fragments)
        };
        if groups.len() != carried.len() || !groups.iter().zip(carried).all(fits) {
            return Err(Error::internal("what was rehearsed are other rewrites"));
        }
        Ok(Prepared {
            fragments: groups
                .into_iter()
                .map(|group| group.new_fragments)
                .collect(),
            indexes: rewritten_indices,
        })
    }

    /// Commits `prepared` with the deletions of `carried` at the version after `head`, and gives that version.
    async fn commit(
        &self,
        head: &Dataset,
        prepared: &Prepared,
        carried: &[Carried],
    ) -> Result<Dataset> {
        let slot = Slot {
            version: head.manifest().version + 1,
            naming: head.manifest_location().naming_scheme,
        };
        let handle = self.store.committing(self.run, head, Some(slot)).await?;
        let mut groups = Vec::new();
        for (fragments, carried) in prepared.fragments.iter().zip(carried) {
            groups.push(RewriteGroup {
                old_fragments: carried.sources.clone(),
                new_fragments: with_deletions(&handle, fragments, &carried.deleted).await?,
            });
        }
        hit(Seam::MaintainAfterCarry)?;
        let operation = Operation::Rewrite {
            groups: groups.clone(),
            rewritten_indices: prepared.indexes.clone(),
            frag_reuse_index: None,
        };
        let transaction = TransactionBuilder::new(head.manifest().version, operation)
            .transaction_properties(self.options.transaction_properties.clone())
            .build();
        let staged = self.store.rehearsal(self.run, head, Some(slot)).await?;
        let staged = put(staged, transaction.clone()).await?;
        self.check(head, &staged, &groups, carried).await?;
        let landed = put(handle, transaction).await?;
        // The next commit wants this version, without the slot.
        self.store.committing(self.run, &landed, None).await
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
                let Some(stands) = find(staged, fragment.id) else {
                    return Err(Error::internal(format!(
                        "fragment {} is not there",
                        fragment.id
                    )));
                };
                if deletions(staged, stands).await? != *expected {
                    return Err(Error::new(
                        ErrorKind::Unfit,
                        format!(
                            "fragment {} has other deletions when read back",
                            fragment.id
                        ),
                    ));
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
            let targets = rows_of(&group.new_fragments);
            check
                .check_rows(staged, neighbours(&carried.deleted, &targets))
                .await?;
        }
        prove_followers(head, staged, &followers(head, &rewritten).await?).await
    }
}

async fn put(handle: Dataset, transaction: Transaction) -> Result<Dataset> {
    let commit = CommitBuilder::new(Arc::new(handle))
        .with_max_retries(0)
        .with_skip_auto_cleanup(true);
    Ok(commit.execute(transaction).await?)
}

/// `fragments` with the offsets of `deleted`, written through `handle`.
async fn with_deletions(
    handle: &Dataset,
    fragments: &[Fragment],
    deleted: &[RoaringBitmap],
) -> Result<Vec<Fragment>> {
    let objects = handle.object_store(None).await?;
    let base = handle.branch_location().path;
    let version = handle.manifest().version;
    let mut with_deletions = Vec::with_capacity(fragments.len());
    for (fragment, deleted) in fragments.iter().zip(deleted) {
        let mut fragment = fragment.clone();
        if !deleted.is_empty() {
            let deleted = deleted.clone().into();
            fragment.deletion_file =
                write_deletion_file(&base, fragment.id, version, &deleted, &objects).await?;
        }
        with_deletions.push(fragment);
    }
    Ok(with_deletions)
}

fn find(dataset: &Dataset, id: u64) -> Option<&Fragment> {
    dataset.manifest().fragments.iter().find(|f| f.id == id)
}

/// The offsets that are deleted in `fragment`.
async fn deletions(dataset: &Dataset, fragment: &Fragment) -> Result<RoaringBitmap> {
    if fragment.deletion_file.is_none() {
        return Ok(RoaringBitmap::new());
    }
    let id = usize::try_from(fragment.id).unwrap_or(usize::MAX);
    let opened = dataset.get_fragment(id);
    let opened = opened.ok_or_else(|| Error::internal(format!("fragment {id} is not there")))?;
    let deletions = opened.get_deletion_vector().await?;
    Ok(deletions.iter().flat_map(|d| d.to_sorted_iter()).collect())
}

/// Whether the addresses that were rewritten, where they are known, are those that survived.
fn has_addresses(result: &RewriteResult, survived: &RoaringTreemap) -> bool {
    let Some(addresses) = &result.row_addrs else {
        return true;
    };
    RoaringTreemap::deserialize_from(addresses.as_slice()).is_ok_and(|a| a == *survived)
}

fn rows_of(fragments: &[Fragment]) -> Vec<u64> {
    let rows = fragments
        .iter()
        .map(|f| f.physical_rows.unwrap_or(0) as u64);
    rows.collect()
}

/// What covers the fragments of `dataset`; `None` when it is not known, or earlier rewrites are not followed yet.
async fn coverage(dataset: &Dataset) -> Result<Option<Coverage>> {
    let objects = dataset.object_store(None).await?;
    let location = dataset.manifest_location();
    let listed = read_manifest_indexes(&objects, location, dataset.manifest()).await?;
    let mut coverage = Coverage::new();
    for segment in listed {
        if segment.name == FRAG_REUSE_INDEX_NAME {
            return Ok(None);
        }
        if is_system_index(&segment) {
            continue;
        }
        let Some(covered) = segment.fragment_bitmap else {
            return Ok(None);
        };
        coverage.insert(segment.uuid.to_string(), covered);
    }
    Ok(Some(coverage))
}
