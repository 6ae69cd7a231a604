//! Maintenance: compaction, reindexing, cleanup, the commit log, and the observations that planning needs.
//!
//! 1. `Store::health` observes one table from manifests alone; `observe` does it again and again, and reads what has changed.
//! 2. `tasks` groups fragments into bounded tasks: a pure function. `plan` feeds it: `decoded` samples how wide rows are,
//!    `settings` is what the table says itself.
//! 3. `run` is the frame of every maintenance run: sidecar, bounded attempts and, where the table is pinned, clean prefix. An
//!    `Oversight` sees it move and stops it at a safe point; a `Pace` is the rate at which it reads and writes.
//! 4. `compact` and `reindex` are what runs inside it. `journal` names what they write before they do; `stranded` deletes
//!    what was written for nothing. `rehearsal` builds a version without committing it, and `index_proof` asks it a
//!    sample of what its indexes should find. `declare` says which indexes there should be. `verify` reads a rewrite back
//!    before it is committed: two `side`s, each with its `tally`. `carrier` lands a rewrite above writers that deleted
//!    some of its rows meanwhile; `carry` says which.
//! 5. `cleanup` publishes floors, then deletes below them. `archive` copies the commit log out of the manifest. `audit`
//!    proves that what stands has all that it refers to.
//! 6. `ledger` counts bytes by why they were written. `unreferenced` counts the files that no version refers to, whoever wrote them.
//!
//! A `Target` is a table of a store or a plain Lance table in a watched directory, where HEAD is what is visible.

pub mod archive;
pub mod audit;
mod carrier;
mod carry;
pub mod cleanup;
mod compact;
mod declare;
mod decoded;
mod health;
mod index_proof;
mod journal;
mod ledger;
mod listed;
mod observe;
mod oversight;
mod pace;
mod plan;
mod rehearsal;
mod reindex;
mod run;
mod settings;
mod side;
mod stranded;
mod tally;
pub mod tasks;
mod unreferenced;
mod verify;

pub use archive::ArchiveReport;
pub(crate) use cleanup::ReferenceMemo;
pub use cleanup::{
    CleanupPlan, CleanupPolicies, CleanupPolicy, CleanupReport, DroppedCleanup, Held, Hold,
    HoldKind, Holding, Retention, Spare, TableCleanup,
};
pub use compact::CompactionLimits;
pub(crate) use health::own_file;
pub use health::{IndexHealth, TableHealth};
pub(crate) use journal::Progress;
pub(crate) use ledger::Ledger;
pub use ledger::{Account, Amounts};
pub(crate) use observe::Memo;
pub use observe::{Looking, Observed};
pub use oversight::{Headway, Oversight};
pub use pace::Pace;
pub use plan::CompactionPlan;
pub use run::{MaintenanceReport, Skipped};
pub use stranded::RunFiles;
pub use unreferenced::{Files, Unreferenced};
pub use verify::Verify;
pub(crate) use verify::{Given, read_back};

use crate::ids::TableName;

/// What is maintained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A table of the store: maintained at HEAD, published by pin.
    Pinned(TableName),
    /// A plain Lance dataset below the root.
    Plain(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pinned(table) => table.fmt(f),
            Self::Plain(path) => f.write_str(path),
        }
    }
}
