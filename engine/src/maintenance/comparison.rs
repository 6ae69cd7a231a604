//! The comparison: what became of the sources of rewrites, from the version that was read up to any later one.
//!
//! It is made anew for each HEAD, between two commits of a busy writer, so what was read once is kept: what was deleted in
//! the version that was rewritten, and what in the last HEAD, of which only deletion files that are others are read.

use super::carry::{
    Change, Coverage, Source, carry, comparable, compare, neighbours, same_coverage,
    uniform_coverage,
};
use super::listed::ids_of;
use super::plan::beyond_us;
use crate::error::{Error, Result};
use lance::Dataset;
use lance::dataset::optimize::RewriteResult;
use lance_index::frag_reuse::FRAG_REUSE_INDEX_NAME;
use lance_index::is_system_index;
use lance_table::format::Fragment;
use lance_table::io::manifest::read_manifest_indexes;
use roaring::{RoaringBitmap, RoaringTreemap};
use std::collections::{BTreeSet, HashMap};

/// Results that are to be carried, and what happened to their sources up to the version that was compared last.
pub(super) struct Comparison<'a> {
    /// The version that was rewritten.
    base: &'a Dataset,
    /// What covers the fragments of the version that was compared last; `None` when that cannot be compared.
    covered: Option<Coverage>,
    /// Those that still hold.
    pub(super) carried: Vec<Carried>,
    /// Why the last of the others does not.
    pub(super) given_up: Option<&'static str>,
}

/// A result, and what happened to its fragments up to a certain version.
pub(super) struct Carried {
    pub(super) result: RewriteResult,
    /// Its fragments as they were rewritten.
    rewritten: Vec<Fragment>,
    /// Its fragments as that version has them.
    pub(super) sources: Vec<Fragment>,
    /// What is deleted in each of them; of none, as long as nothing was deleted since they were rewritten.
    offsets: Vec<Source>,
    /// The offsets that are to be deleted in each new fragment.
    pub(super) deleted: Vec<RoaringBitmap>,
}

impl<'a> Comparison<'a> {
    /// Reads of `base`, the version that was rewritten to `results`, what later ones are compared with.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn of(base: &'a Dataset, results: Vec<RewriteResult>) -> Result<Self> {
        let was = by_id(base);
        let offered = results.len();
        let carried = results.into_iter().filter_map(|r| Carried::of(&was, r));
        let carried: Vec<Carried> = carried.collect();
        let given_up = "they are no rewrites of what was there";
        Ok(Self {
            base,
            covered: coverage(base).await?,
            given_up: (carried.len() < offered).then_some(given_up),
            carried,
        })
    }

    /// Compares all with `head`, and gives up those that do not hold there. Says whether those that are left are the same, with
    /// the same index segments over them.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn follow(&mut self, head: &Dataset) -> Result<bool> {
        let (was, is) = (self.base.manifest(), head.manifest());
        let comparable =
            (was.version == is.version || comparable(was, is)) && beyond_us(is).is_none();
        let covers = match was.version == is.version {
            true => self.covered.clone(),
            false => coverage(head).await?,
        };
        let (true, Some(covered), Some(covers)) = (comparable, self.covered.take(), covers) else {
            self.carried.clear();
            self.given_up = Some(
                "the table is another one now: its columns, its format or its kind of indexes",
            );
            return Ok(false);
        };
        let is = by_id(head);
        let mut same = true;
        for mut carried in std::mem::take(&mut self.carried) {
            let ids = ids_of(&carried.result.original_fragments);
            let followed = same_coverage(&covered, &covers, &ids);
            let why = if !followed && carried.result.row_addrs.is_none() {
                Some(
                    "an index was built over its fragments, and it does not say where their rows are",
                )
            } else if !uniform_coverage(&covers, &ids) {
                Some("an index covers a part of its fragments now")
            } else if !carried.follow(self.base, head, &is).await? {
                Some("its fragments were replaced or changed, or all of their rows deleted")
            } else {
                None
            };
            same &= followed && why.is_none();
            match why {
                Some(why) => self.given_up = Some(why),
                None => self.carried.push(carried),
            }
        }
        self.covered = Some(covers);
        Ok(same)
    }
}

impl Carried {
    /// `None` when `result` is not what a rewrite of the fragments in `was` comes to.
    fn of(was: &HashMap<u64, &Fragment>, result: RewriteResult) -> Option<Self> {
        let mut sources = Vec::new();
        for original in &result.original_fragments {
            let was = *was.get(&original.id)?;
            let recounted =
                was.physical_rows.is_some() && original.physical_rows != was.physical_rows;
            if recounted {
                return None;
            }
            sources.push(was.clone());
        }
        // Ranks go by the order in which Lance reads.
        let in_order = sources.is_sorted_by_key(|fragment| fragment.id);
        in_order.then(|| Self {
            deleted: vec![RoaringBitmap::new(); result.new_fragments.len()],
            result,
            rewritten: sources.clone(),
            sources,
            offsets: Vec::new(),
        })
    }

    /// Whether it holds at `head`, whose fragments are those in `is`; they were rewritten as `base` had them.
    async fn follow(
        &mut self,
        base: &Dataset,
        head: &Dataset,
        is: &HashMap<u64, &Fragment>,
    ) -> Result<bool> {
        let mut changed = Vec::new();
        for (nth, (was, source)) in self.rewritten.iter().zip(&mut self.sources).enumerate() {
            let Some(&is) = is.get(&was.id) else {
                return Ok(false);
            };
            // An old release has not counted the rows of one that nobody has touched since.
            if was != is && compare(was, Some(is)) == Change::Other {
                return Ok(false);
            }
            if is.deletion_file != source.deletion_file {
                changed.push(nth);
            }
            *source = is.clone();
        }
        if changed.is_empty() {
            return Ok(true);
        }
        if self.offsets.is_empty() && !self.read_offsets(base).await? {
            return Ok(false);
        }
        for nth in changed {
            self.offsets[nth].after = deletions(head, &self.sources[nth]).await?;
        }
        let Some(deleted) = carry(&self.offsets, &rows_of(&self.result.new_fragments)) else {
            return Ok(false);
        };
        self.deleted = deleted;
        Ok(true)
    }

    /// Reads what was deleted in `base`, and says whether the rest is what was rewritten.
    async fn read_offsets(&mut self, base: &Dataset) -> Result<bool> {
        for (was, is) in self.rewritten.iter().zip(&self.sources) {
            // An older release may not have counted them, and whoever committed next did; ranks go by them.
            let Some(rows) = is.physical_rows else {
                return Ok(false);
            };
            let before = deletions(base, was).await?;
            self.offsets.push(Source {
                rows: rows as u64,
                after: before.clone(),
                before,
            });
        }
        Ok(self.has_addresses())
    }

    /// Whether the addresses that were rewritten, where they are known, are those that had survived.
    fn has_addresses(&self) -> bool {
        let Some(addresses) = &self.result.row_addrs else {
            return true;
        };
        let mut survived = RoaringTreemap::new();
        for (fragment, offsets) in self.rewritten.iter().zip(&self.offsets) {
            let first = fragment.id << u32::BITS;
            survived.insert_range(first..first + offsets.rows);
            for offset in &offsets.before {
                survived.remove(first + u64::from(offset));
            }
        }
        RoaringTreemap::deserialize_from(addresses.as_slice()).is_ok_and(|a| a == survived)
    }

    /// The rows beside some of the deletions, counted over the rows that are left.
    pub(super) fn neighbours(&self) -> BTreeSet<u64> {
        neighbours(&self.deleted, &rows_of(&self.result.new_fragments))
    }
}

fn by_id(dataset: &Dataset) -> HashMap<u64, &Fragment> {
    let fragments = dataset.manifest().fragments.iter();
    fragments.map(|fragment| (fragment.id, fragment)).collect()
}

/// The offsets that are deleted in `fragment` of `dataset`.
pub(super) async fn deletions(dataset: &Dataset, fragment: &Fragment) -> Result<RoaringBitmap> {
    if fragment.deletion_file.is_none() {
        return Ok(RoaringBitmap::new());
    }
    let id = usize::try_from(fragment.id).unwrap_or(usize::MAX);
    let opened = dataset.get_fragment(id);
    let opened = opened.ok_or_else(|| Error::internal(format!("fragment {id} is not there")))?;
    let deletions = opened.get_deletion_vector().await?;
    Ok(deletions.iter().flat_map(|d| d.to_sorted_iter()).collect())
}

pub(super) fn rows_of(fragments: &[Fragment]) -> Vec<u64> {
    let rows = fragments
        .iter()
        .map(|f| f.physical_rows.unwrap_or(0) as u64);
    rows.collect()
}

/// What covers the fragments of `dataset`; `None` when it is not known, or earlier rewrites are not followed yet.
pub(super) async fn coverage(dataset: &Dataset) -> Result<Option<Coverage>> {
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
