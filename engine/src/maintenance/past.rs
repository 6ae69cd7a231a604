//! The past of a table: what each version that still stands changed of its fragments. Manifests and transactions alone are read.

use super::settings::TableSettings;
use super::tasks::{FragmentFacts, TaskBounds};
use super::{Target, listed::Listed, listed::covered_by, listed::listed_indexes};
use crate::error::{Error, Result};
use crate::protocol::{Kind, PROP_KIND};
use crate::store::Store;
use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Versions that are read at most, the latest ones: some seconds on a local disk, and a request or two for each elsewhere.
const MOST: usize = 10_000;

/// Versions that are read side by side.
const AT_ONCE: usize = 16;

/// What a version did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Somebody wrote, deleted, or changed the table itself.
    Written,
    /// Fragments were replaced by others with the same rows.
    Rewritten,
    /// An index was built or extended.
    Indexed,
    /// Nothing of the table's content: settings, reserved ids.
    Noted,
}

impl Change {
    fn of(transaction: Option<&Transaction>) -> Self {
        match transaction.map(|t| &t.operation) {
            Some(Operation::Rewrite { .. }) => Self::Rewritten,
            Some(Operation::CreateIndex { .. }) => Self::Indexed,
            Some(Operation::ReserveFragments { .. } | Operation::UpdateConfig { .. }) => {
                Self::Noted
            }
            // What is not known is what others did.
            _ => Self::Written,
        }
    }
}

/// An index at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastIndex {
    /// Its name.
    pub name: String,
    /// When it was last built or extended, if it says so.
    pub built_ms: Option<u64>,
    /// Rows that it does not cover.
    pub unindexed_rows: u64,
    /// The fragments that it does not cover, where the version before did not list it.
    pub uncovered: Vec<u64>,
}

/// One version.
#[derive(Debug, Clone, PartialEq)]
pub struct PastVersion {
    /// Its number.
    pub version: u64,
    /// When it was committed, by the clock of whoever did.
    pub at_ms: u64,
    /// What it did.
    pub change: Change,
    /// Whether a maintenance run of squire made it.
    pub is_ours: bool,
    /// Fragments that the version before did not have, in table order; of the first version all.
    pub added: Vec<FragmentFacts>,
    /// Fragments that the version before had.
    pub removed: Vec<u64>,
    /// Fragments with other deletions or files than in the version before.
    pub changed: Vec<FragmentFacts>,
    /// Its indexes.
    pub indexes: Vec<PastIndex>,
}

/// What is known of a table's past.
#[derive(Debug, Clone)]
pub struct Past {
    /// The bounds of compaction tasks that were asked about, and what the table itself asks for.
    pub bounds: TaskBounds,
    /// Versions up to the visible one, the oldest first, without a gap.
    pub versions: Vec<PastVersion>,
    /// Versions on storage up to the visible one, those in front of a gap too.
    pub stored: u64,
}

/// A version as it was read.
struct Read {
    version: u64,
    at_ms: u64,
    change: Change,
    is_ours: bool,
    facts: Vec<FragmentFacts>,
    indexes: Vec<PastIndex>,
}

impl Store {
    /// Reads the past of `target` as far as versions follow on each other: what stands in front of a gap has lost the reason why
    /// the next one differs.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn past(&self, target: &Target, bounds: &TaskBounds) -> Result<Past> {
        let visible = self.visible(None, target).await?;
        let latest = visible.manifest().version;
        let refs = visible.version_refs().await?;
        let mut versions: Vec<u64> = refs.iter().map(|r| r.version).collect();
        versions.retain(|version| *version <= latest);
        let stored = versions.len() as u64;
        let follows = |pair: &[u64]| pair[0] + 1 != pair[1];
        let first = versions
            .windows(2)
            .rposition(follows)
            .map_or(0, |at| at + 1);
        let first = first.max(versions.len().saturating_sub(MOST));
        let reads = versions.split_off(first).into_iter();
        let reads = stream::iter(reads.map(|version| self.read_past(&visible, version)));
        let mut reads = reads.buffered(AT_ONCE);
        let (mut before, mut past) = (Before::default(), Vec::new());
        while let Some(read) = reads.try_next().await? {
            past.push(before.next(read));
        }
        let settings = TableSettings::of(&visible.manifest().config);
        Ok(Past {
            bounds: settings.map_or_else(|_| bounds.clone(), |of| of.bounds(bounds)),
            versions: past,
            stored,
        })
    }

    async fn read_past(&self, visible: &Dataset, version: u64) -> Result<Read> {
        let read = async {
            let dataset = visible.checkout_version(version).await?;
            let transaction = match dataset.read_transaction().await {
                // One of an older release that this one cannot read: what it did is seen from what it left.
                Err(lance::Error::InvalidInput { .. }) => None,
                read => read?,
            };
            let listed = listed_indexes(&dataset).await?;
            let facts = self.fragment_facts(&dataset, &listed).await?;
            let properties = transaction
                .as_ref()
                .and_then(|t| t.transaction_properties.clone());
            let kind = properties.as_ref().and_then(|p| p.get(PROP_KIND));
            Ok(Read {
                version,
                at_ms: u64::try_from(dataset.manifest().timestamp().timestamp_millis())
                    .unwrap_or(0),
                change: Change::of(transaction.as_ref()),
                is_ours: kind.is_some_and(|kind| kind == Kind::Maintenance.as_str()),
                indexes: indexes_of(listed, &facts),
                facts,
            })
        };
        let read: Result<Read> = read.await;
        read.map_err(|e: Error| {
            e.context(format!("reading version {version} of {}", visible.uri()))
        })
    }
}

fn indexes_of(listed: Vec<Listed>, facts: &[FragmentFacts]) -> Vec<PastIndex> {
    let past = listed.into_iter().map(|index| {
        let covered = covered_by(&index.segments);
        let is_covered = |id: u64| u32::try_from(id).is_ok_and(|id| covered.contains(id));
        let without = || facts.iter().filter(|f| !is_covered(f.id));
        let built = index.segments.iter().filter_map(|s| s.created_at).max();
        PastIndex {
            name: index.name,
            built_ms: built.and_then(|at| u64::try_from(at.timestamp_millis()).ok()),
            unindexed_rows: without().map(FragmentFacts::live).sum(),
            uncovered: without().map(|f| f.id).collect(),
        }
    });
    past.collect()
}

/// What the version before had.
#[derive(Default)]
struct Before {
    fragments: BTreeMap<u64, FragmentFacts>,
    indexes: BTreeSet<String>,
}

impl Before {
    /// What `read` changed.
    fn next(&mut self, read: Read) -> PastVersion {
        let Read {
            version,
            at_ms,
            change,
            is_ours,
            facts,
            mut indexes,
        } = read;
        for index in &mut indexes {
            if self.indexes.contains(&index.name) {
                index.uncovered = Vec::new();
            }
        }
        self.indexes = indexes.iter().map(|index| index.name.clone()).collect();
        let mut gone = std::mem::take(&mut self.fragments);
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for mut fact in facts {
            // Coverage is that of this version's list of indexes.
            fact.indexes = Vec::new();
            match gone.remove(&fact.id) {
                None => added.push(fact.clone()),
                Some(before) if before != fact => changed.push(fact.clone()),
                Some(_) => {}
            }
            self.fragments.insert(fact.id, fact);
        }
        PastVersion {
            version,
            at_ms,
            change,
            is_ours,
            added,
            removed: gone.into_keys().collect(),
            changed,
            indexes,
        }
    }
}
