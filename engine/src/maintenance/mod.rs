//! Maintenance: compaction, reindexing, cleanup, and the observations that planning needs.
//!
//! 1. `Store::health` observes one table from manifests alone; `observe` does it again and again, and reads what has changed.
//! 2. `tasks` groups fragments into bounded tasks: a pure function. `plan` feeds it: `decoded` samples how wide rows are,
//!    `settings` is what the table says itself.
//! 3. `run` is the frame of every maintenance run: sidecar, bounded attempts and, where the table is pinned, clean prefix.
//! 4. `compact` and `reindex` are what runs inside it; `deltas` says how an index grows. `rehearsal` builds a version without committing it, and `index_proof` asks it a
//!    sample of what its indexes should find. `declare` says which indexes there should be. `carrier` lands a rewrite above
//!    writers that deleted some of its rows meanwhile; `comparison` reads what they did, and `carry` says which rows those are.
//!    `rewrite` is one task of a compaction; `elsewhere` hands tasks to workers and takes in what comes of them.
//! 5. `cleanup` publishes floors, then deletes below them. `audit` proves that what stands has all that it refers to.
//! 6. `unreferenced` counts the files that no version refers to, whoever wrote them.
//!    `noted` is what the daemon did and why, `unfit` what it does not try again; `past` reads what each version changed.
//!
//! A `Target` is a table of a store or, in a watched directory, a plain Lance table or a branch of one: there HEAD is what is
//! visible.

pub mod audit;
mod carrier;
mod carry;
pub mod cleanup;
mod compact;
mod comparison;
mod declare;
mod decoded;
mod deltas;
mod elsewhere;
mod health;
mod index_proof;
mod listed;
mod noted;
mod observe;
mod past;
mod plan;
mod rehearsal;
mod reindex;
mod rewrite;
mod run;
mod settings;
pub mod tasks;
mod unfit;
mod unreferenced;

pub use crate::history::ArchiveReport;
pub use crate::journal::{Account, Amounts};
pub use crate::oversight::{AtWork, Crew, Headway, Oversight, Pace};
pub use crate::proof::Verify;
pub use crate::recovery::{RunFiles, Skipped};
pub use cleanup::{
    CleanupPlan, CleanupPolicies, CleanupPolicy, CleanupReport, DroppedCleanup, Held, Hold,
    HoldKind, Holding, Matching, Retention, Spare, TableCleanup,
};
pub use compact::CompactionLimits;
pub use elsewhere::{Ended, Envelope, Executed, Executor, Handed, WorkerBounds};
pub use health::{IndexHealth, TableHealth};
pub use noted::{MOST_RUNS, NotedRun};
pub use observe::{Looking, Observed};
pub use past::{Change, Past, PastIndex, PastVersion};
pub use plan::CompactionPlan;
pub use reindex::Reindexing;
pub use run::MaintenanceReport;
pub use unfit::Unfit;
pub use unreferenced::{Files, Unreferenced};

use crate::ids::TableName;
use crate::store::branch_path;
use std::borrow::Cow;

/// What is maintained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A table of the store: maintained at HEAD, published by pin.
    Pinned(TableName),
    /// A plain Lance dataset below the root.
    Plain(String),
    /// A branch of one, which Lance keeps in a folder of the table: a dataset of its own, whose first files are the table's.
    Branch {
        /// The table's path below the root.
        table: String,
        /// The branch's name.
        branch: String,
    },
}

/// What readers of a target are shown.
#[derive(Debug)]
pub enum Shown<'a> {
    /// The pin of this table.
    Pin(&'a TableName),
    /// HEAD of what lies at this path below the root.
    Head(Cow<'a, str>),
}

/// Without what may be left out at the end of a table's name.
fn bare(name: &str) -> &str {
    name.strip_suffix(".lance").unwrap_or(name)
}

impl Target {
    /// How people have an index of it built anew.
    fn renewal(&self) -> &'static str {
        match self {
            Self::Pinned(_) => "withdraw it (squire index --withdraw) and declare it again",
            Self::Plain(_) | Self::Branch { .. } => "drop it and create it again",
        }
    }

    /// Whether people name it so: with or without `.lance`, a branch as `table@branch`.
    pub fn is_named(&self, name: &str) -> bool {
        match self {
            Self::Pinned(table) => bare(table.as_str()) == bare(name),
            Self::Plain(path) => bare(path) == bare(name),
            Self::Branch { table, branch } => name
                .rsplit_once('@')
                .is_some_and(|(of, named)| bare(of) == bare(table) && named == branch),
        }
    }

    /// Whether it is what people name so, or a branch of that.
    pub fn is_within(&self, name: &str) -> bool {
        match self {
            Self::Branch { table, .. } if bare(table) == bare(name) => true,
            of => of.is_named(name),
        }
    }

    /// What its readers are shown.
    pub fn shown(&self) -> Shown<'_> {
        match self {
            Self::Pinned(table) => Shown::Pin(table),
            Self::Plain(path) => Shown::Head(Cow::Borrowed(path)),
            Self::Branch { table, branch } => Shown::Head(Cow::Owned(branch_path(table, branch))),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pinned(table) => table.fmt(f),
            Self::Plain(path) => f.write_str(path),
            Self::Branch { table, branch } => write!(f, "{table}@{branch}"),
        }
    }
}
