//! Cleanup: removes versions that nothing needs.
//!
//! The order, and what breaks without each rule:
//!
//! 1. Roots first: pins of each table's retention window, keeps, leases, tags, `v - 1` of undecided operations, and files
//!    that other tables refer to. A missed root is data loss.
//! 2. Nothing of a table goes whose HEAD or pin lacks a file, or refers to a newer one than goes which cannot be read: one
//!    of its older versions may be the last good one.
//! 3. Floors are published before anything is deleted: a reader is refused instead of failing on a missing file. Then
//!    keeps and leases are looked at once more: one that came since the plan is obeyed.
//! 4. Only versions below the floor go, by exact list; unverified files are left to Lance's 7-day rule.
//! 5. The manifest's own versions go last, and only archived ones: they say which tables' versions are pinned.
//!
//! `plan` decides, `holds`, `references` and `readable` are what it looks at, `run` does what the plan says. `dropped` are tables
//! that go as a whole. `known` spares reading a manifest twice, and deletes nothing once what `watch` watches has changed.
//!
//! Retention is per table, and a snapshot spans tables. So the manifest is kept for the longest retention of all tables,
//! and each table's floor says which of its versions a snapshot in there may still open: one below it is refused
//! as expired, by name, while the others open. A table whose cleanup is off keeps every version and its floor.

mod dropped;
mod holdings;
mod holds;
mod known;
mod plan;
mod readable;
mod references;
mod run;
mod watch;

pub use dropped::DroppedCleanup;
pub use holdings::Holding;
pub use holds::{Hold, HoldKind};
pub(in crate::maintenance) use known::is_foreign_index;
pub(super) use readable::{Referred, files_of, files_of_fragment, read_ends};
pub(super) use references::spelled;

use super::{Shown, Target, bare};
use crate::history::ArchiveReport;
use crate::ids::{OpId, TableName};
use crate::store::{Stamp, Store};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How far the local clock and the storage's may differ: ages are compared across them.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(600);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Retention {
    /// Snapshots younger than this are kept.
    pub age: Duration,
    /// And this many of the latest, whatever their age.
    pub versions: u64,
}

/// What one table's policy says of cleanup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// What is kept.
    pub retention: Retention,
    /// Whether anything may be removed.
    pub enabled: bool,
}

/// Which tables a policy is for, by their names without `.lance`.
#[derive(Clone)]
pub struct Matching(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl Matching {
    /// Those for which `matches` says so.
    pub fn new(matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(matches))
    }
}

impl std::fmt::Debug for Matching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Matching")
    }
}

/// The policies of a place's tables.
#[derive(Debug, Clone)]
pub struct CleanupPolicies {
    /// For tables without one of their own, and for the manifest's permission.
    pub default: CleanupPolicy,
    /// By table, or by path without `.lance` in a watched directory.
    pub tables: BTreeMap<String, CleanupPolicy>,
    /// For tables that `tables` does not name; of those that match, the first counts.
    pub patterns: Vec<(Matching, CleanupPolicy)>,
    /// Other locations that this process watches: what their tables refer to stays, too.
    pub neighbours: Vec<Arc<Store>>,
    /// Whether one table alone is watched here. Its folder may be anything, a home directory for example, so clones are
    /// looked for where tables usually lie, and no further.
    pub one_table: bool,
}

impl From<Retention> for CleanupPolicies {
    /// The same for every table.
    fn from(retention: Retention) -> Self {
        Self {
            default: CleanupPolicy {
                retention,
                enabled: true,
            },
            tables: BTreeMap::new(),
            patterns: Vec::new(),
            neighbours: Vec::new(),
            one_table: false,
        }
    }
}

impl CleanupPolicies {
    /// The policy of a table; a plain one is named by its path.
    pub fn of(&self, table: &str) -> CleanupPolicy {
        let name = bare(table);
        let pattern = || {
            self.patterns
                .iter()
                .find(|(matching, _)| (matching.0)(name))
        };
        let of_table = self.tables.get(name).copied();
        let of_table = of_table.or_else(|| pattern().map(|(_, policy)| *policy));
        of_table.unwrap_or(self.default)
    }

    /// The same policies, of which a branch has that of its table: for what is asked by its path.
    pub fn with_branch(&self, target: &Target) -> Self {
        let mut policies = self.clone();
        if let (Target::Branch { table, .. }, Shown::Head(path)) = (target, target.shown()) {
            let name = bare(&path);
            policies.tables.insert(name.to_owned(), self.of(table));
        }
        policies
    }

    /// What the manifest is kept for: as long as the most patient of `tables`.
    fn longest<'a>(&self, tables: impl Iterator<Item = &'a TableName>) -> Retention {
        tables
            .map(|table| self.of(table.as_str()).retention)
            .reduce(|a, b| Retention {
                age: a.age.max(b.age),
                versions: a.versions.max(b.versions),
            })
            .unwrap_or(self.default.retention)
    }
}

/// A version that stays although it is old, and the table that refers to its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The version.
    pub version: u64,
    /// The table that refers to it by `base_paths`, most likely its shallow clone.
    pub by: String,
}

/// A version that stays although it is old, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spare {
    /// The version.
    pub version: u64,
    /// What holds it.
    pub kind: HoldKind,
    /// The holder's name.
    pub name: String,
}

/// One table of a cleanup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableCleanup {
    /// The table, or its path in a watched directory, or an internal table's path.
    pub table: String,
    /// Its floor: versions below are refused to readers, then removed.
    pub floor: u64,
    /// The exact versions to remove.
    pub versions: Vec<u64>,
    /// Versions below the floor that stay, since other tables refer to their files.
    pub held: Vec<Held>,
    /// Versions below the floor that keeps, leases, tags and branches hold.
    pub spared: Vec<Spare>,
    /// The version that it was planned at: while that stands, the table is the one that was looked at.
    #[serde(skip)]
    pub(crate) planned_at: Option<Stamp>,
}

/// What a cleanup would do. The dry run prints it; the real run does it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CleanupPlan {
    /// Tables with something to remove, or to hold.
    pub tables: Vec<TableCleanup>,
    /// The manifest's own floor and versions.
    pub manifest: Option<TableCleanup>,
    /// Dropped tables that no snapshot of the retention shows any more.
    pub dropped: Vec<DroppedCleanup>,
    /// Paths of dropped tables that need not be remembered.
    pub forgotten: Vec<String>,
    /// Decisions old enough to be forgotten.
    pub decisions: Vec<OpId>,
    /// What would be removed of tables whose cleanup is off.
    pub off: Vec<TableCleanup>,
    /// Tables that cannot be cleaned, and why; the others are.
    pub failed: Vec<(String, String)>,
    /// The snapshots that keeps and leases hold.
    pub holds: Vec<Hold>,
}

/// What a cleanup did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CleanupReport {
    /// Versions removed.
    pub versions_removed: u64,
    /// Dropped tables whose files were removed.
    pub tables_removed: Vec<TableName>,
    /// Bytes removed.
    pub bytes_removed: u64,
    /// Tables that failed, those of the plan among them, and why; the others were cleaned.
    pub failed: Vec<(String, String)>,
    /// What was archived first.
    pub archived: ArchiveReport,
}

impl TableCleanup {
    /// Whether nothing goes, and nothing is held.
    fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.held.is_empty() && self.spared.is_empty()
    }
}

impl CleanupPlan {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|t| t.versions.is_empty())
            && self.manifest.iter().all(|m| m.versions.is_empty())
            && self.decisions.is_empty()
            && self.forgotten.is_empty()
            && !self.dropped.iter().any(DroppedCleanup::goes)
    }
}

impl Target {
    /// The table of a pinned target.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Self::Pinned(table) => Some(table),
            Self::Plain(_) | Self::Branch { .. } => None,
        }
    }
}
