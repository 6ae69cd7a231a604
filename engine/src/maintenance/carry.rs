//! Carry: which rows of a rewrite were deleted while it was made, as pure functions.
//!
//! A delete, an update or a merge marks rows of old fragments as deleted and appends new ones. The bytes of a rewrite
//! that read those fragments before are right nevertheless: only the deletions are missing. Two manifests say what
//! happened, the one that was read and the one of HEAD; the transactions between may be gone.
//!
//! A rewrite keeps the order of rows: the row that was the n-th to survive in its sources is the n-th of its targets.

use crate::clock::Backoff;
use lance_io::utils::CachedFileSize;
use lance_table::format::{Fragment, Manifest};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// What happened to a fragment between two manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// It has another deletion file.
    Deletions,
    /// Anything else: it is gone, or its files, its row ids or its versions are others.
    Other,
}

/// Compares the fragment as it was read with the one that HEAD has under its id. Older releases did not write down how long
/// a file is, nor the oldest how many rows a fragment has: whatever is committed next, by us too, adds that.
pub(super) fn compare(was: &Fragment, is: Option<&Fragment>) -> Change {
    let apart_from_deletions = |fragment: &Fragment| {
        let mut fragment = Fragment {
            deletion_file: None,
            physical_rows: was.physical_rows.and(fragment.physical_rows),
            ..fragment.clone()
        };
        for file in &mut fragment.files {
            file.file_size_bytes = CachedFileSize::default();
        }
        fragment
    };
    match is {
        Some(is)
            if is.overlays.is_empty()
                && is.physical_rows.is_some()
                && apart_from_deletions(was) == apart_from_deletions(is) =>
        {
            if was.deletion_file == is.deletion_file {
                Change::None
            } else {
                Change::Deletions
            }
        }
        _ => Change::Other,
    }
}

/// Whether anything that was rewritten of `was` may stand above `is`: the same columns in the same format, with row ids of
/// the same kind.
pub(super) fn comparable(was: &Manifest, is: &Manifest) -> bool {
    is.version > was.version
        && was.schema == is.schema
        && was.data_storage_format == is.data_storage_format
        && was.uses_stable_row_ids() == is.uses_stable_row_ids()
}

/// Whether a rewrite of these fragments of `was` could be landed above `is`.
pub(super) fn holds(was: &Manifest, is: &Manifest, fragments: &[u64]) -> bool {
    was.version == is.version
        || (comparable(was, is) && most_changed(was, is, fragments) != Change::Other)
}

/// The most that happened to one of these fragments between `was` and `is`.
pub(super) fn most_changed(was: &Manifest, is: &Manifest, fragments: &[u64]) -> Change {
    let asked_for: HashSet<&u64> = fragments.iter().collect();
    let of = |manifest: &Manifest| -> HashMap<u64, Fragment> {
        let asked = manifest
            .fragments
            .iter()
            .filter(|f| asked_for.contains(&f.id));
        asked.map(|f| (f.id, f.clone())).collect()
    };
    let (was, is) = (of(was), of(is));
    let change = |id: &u64| match was.get(id) {
        Some(fragment) => compare(fragment, is.get(id)),
        None => Change::Other,
    };
    fragments.iter().map(change).max().unwrap_or(Change::None)
}

/// What covers fragments: segments, with the fragments that each covers.
pub(super) type Coverage = BTreeMap<String, RoaringBitmap>;

/// What of `fragments` each segment covers; those that cover nothing of them are left out.
fn over(coverage: &Coverage, fragments: &RoaringBitmap) -> Coverage {
    let covers = coverage
        .iter()
        .map(|(id, covered)| (id.clone(), covered & fragments));
    covers.filter(|(_, covered)| !covered.is_empty()).collect()
}

/// Whether the same segments cover the same of `fragments`: those are what follows a rewrite.
pub(super) fn same_coverage(was: &Coverage, is: &Coverage, fragments: &RoaringBitmap) -> bool {
    over(was, fragments) == over(is, fragments)
}

/// Whether each segment covers all of `fragments` or none: then it can follow a rewrite of them.
pub(super) fn uniform_coverage(is: &Coverage, fragments: &RoaringBitmap) -> bool {
    over(is, fragments)
        .values()
        .all(|covered| covered == fragments)
}

/// A fragment that was rewritten.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Source {
    /// Its rows, deleted ones among them.
    pub(super) rows: u64,
    /// Offsets that were deleted when it was read.
    pub(super) before: RoaringBitmap,
    /// Offsets that are deleted now.
    pub(super) after: RoaringBitmap,
}

impl Source {
    fn survivors(&self) -> u64 {
        self.rows.saturating_sub(self.before.len())
    }
}

/// The offsets that have to be deleted in each of the fragments that `sources` were rewritten to, of `targets` rows
/// each. `None` when they cannot be carried: a row came back, nothing would be left of a target, or the targets do not
/// have the rows that survived.
pub(super) fn carry(sources: &[Source], targets: &[u64]) -> Option<Vec<RoaringBitmap>> {
    let survivors: u64 = sources.iter().map(Source::survivors).sum();
    if survivors != targets.iter().sum::<u64>() {
        return None;
    }
    let mut carried = vec![RoaringBitmap::new(); targets.len()];
    // Deletions come in order, so targets do.
    let (mut target, mut target_first) = (0, 0);
    let mut source_first = 0;
    for source in sources {
        let within =
            |offsets: &RoaringBitmap| offsets.max().is_none_or(|m| u64::from(m) < source.rows);
        if !source.before.is_subset(&source.after) || !within(&source.after) {
            return None;
        }
        for offset in &source.after - &source.before {
            let row = source_first + u64::from(offset) - source.before.rank(offset);
            while row >= target_first + targets.get(target)? {
                target_first += targets[target];
                target += 1;
            }
            carried[target].insert(u32::try_from(row - target_first).ok()?);
        }
        source_first += source.survivors();
    }
    let is_left = |(deleted, rows): (&RoaringBitmap, &u64)| deleted.len() < *rows;
    carried.iter().zip(targets).all(is_left).then_some(carried)
}

/// What comes after a try to land that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another try.
    AtOnce,
    /// Another try when the writers have had some time.
    Later,
    /// Nothing: it is not writers that it is lost to.
    GiveUp,
}

/// Tries in a row that follow each other at once; then the writers have some time, and so on. A try takes a few hundredths
/// of a second, and each is as likely to come first as any other: alone after a pause it would be one of few.
const HASTY: u32 = 12;

/// The pauses between such bursts.
pub(super) fn between_bursts() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(2))
}

/// The tries of one set of results. As long as it is writers who come first, what was rewritten holds, and waits.
#[derive(Debug, Default)]
pub(super) struct Patience {
    overtaken: u32,
    failed: u32,
}

impl Patience {
    /// A try was lost; `overtaken` says whether HEAD is another one since.
    pub(super) fn next(&mut self, overtaken: bool) -> Next {
        if overtaken {
            self.overtaken += 1;
        } else {
            self.failed += 1;
        }
        if self.failed >= HASTY {
            Next::GiveUp
        } else if overtaken && self.overtaken.is_multiple_of(HASTY) {
            Next::Later
        } else {
            Next::AtOnce
        }
    }
}

/// Deletions next to which rows are compared, in each fragment.
const PICKS: u64 = 3;

/// The rows beside some of the carried deletions, counted over the rows that are left in all targets: were a deletion
/// off by one row, these would not be the same any more.
pub(super) fn neighbours(carried: &[RoaringBitmap], targets: &[u64]) -> BTreeSet<u64> {
    let mut rows = BTreeSet::new();
    let mut first = 0;
    for (deleted, target) in carried.iter().zip(targets) {
        let left = target.saturating_sub(deleted.len());
        if let Some(most) = deleted.len().checked_sub(1) {
            for pick in 0..PICKS {
                let nth = u32::try_from(most * pick / (PICKS - 1)).ok();
                let Some(offset) = nth.and_then(|nth| deleted.select(nth)) else {
                    continue;
                };
                let next = u64::from(offset) + 1 - deleted.rank(offset);
                let beside = [next.checked_sub(1), Some(next)];
                let beside = beside.into_iter().flatten().filter(|row| *row < left);
                rows.extend(beside.map(|row| first + row));
            }
        }
        first += left;
    }
    rows
}

#[cfg(test)]
#[path = "carry_tests.rs"]
mod tests;
