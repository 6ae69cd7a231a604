//! The audit: the inverse proof of cleanup. Whatever a version that stands refers to is there, and has its size.
//!
//! 1. `records` looks at what a store keeps of itself: the manifest's history, floors, keeps, leases, sidecars, the commit
//!    log. It finds which version of which table some readable snapshot shows.
//! 2. `table` reads all manifests of one table and holds them against one listing of its folder, and of each folder
//!    elsewhere that they refer to. What a store shows must be there, and be what was committed.
//!    `refs` looks for what its tags and branches name.
//! 3. `deep` reads a few rows of every data file, and asks every index of what is visible. `types` tells a damaged file from
//!    a column that this release cannot read.
//!
//! Only manifests and listings are read before the third. Blobs beside data files stand in rows alone, and are not looked
//! for. Nothing is written. What others remove or write meanwhile is
//! no finding: each is looked at once more before it counts.

mod deep;
mod inventory;
mod records;
mod refs;
mod table;
mod types;

pub(crate) use inventory::{Listing, Version, What};
pub use types::Unreadable;

use crate::error::{Error, ErrorKind, Result};
use crate::oversight::Oversight;
use crate::store::Store;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Something that is missing, torn, or contradicts something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, below the table or whole.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
    /// The branch whose versions need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The versions that need it, ascending.
    pub versions: Vec<u64>,
    /// What to do.
    pub remedy: String,
}

/// What an audit of one table, or of a store's records, came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The table, or the folder of the records.
    pub table: String,
    /// Versions whose manifests were read.
    pub versions: u64,
    /// Files that these refer to.
    pub files: u64,
    /// Data files that rows were read of, and indexes that were asked.
    pub read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Columns of types that this release cannot read: whether their rows are whole is not known.
    pub unreadable: Vec<Unreadable>,
}

/// How an audit is made, and how it is told what it has done so far.
pub struct AuditOptions<'a> {
    /// Whether rows are read, and indexes asked.
    pub deep: bool,
    /// Ends it between two requests.
    pub cancel: &'a Oversight,
    /// Is called with a table, how many of its manifests (or of its data files) are done, and how many there are.
    pub progress: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
}

impl std::fmt::Debug for AuditOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditOptions")
            .field("deep", &self.deep)
            .finish_non_exhaustive()
    }
}

/// The version of a table that some snapshot shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    version: u64,
    transaction: Option<String>,
}

/// An audit of one location.
pub struct Auditor<'a> {
    store: &'a Store,
    options: AuditOptions<'a>,
    /// By path, what snapshots show of it, with the newest manifest version that does.
    shown: BTreeMap<String, BTreeMap<Shown, u64>>,
    /// What stands in folders that tables refer to, or why that is not known.
    elsewhere: Mutex<BTreeMap<String, Result<Arc<Listing>, String>>>,
}

impl std::fmt::Debug for Auditor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auditor").finish_non_exhaustive()
    }
}

impl<'a> Auditor<'a> {
    /// An audit of the tables at `store`.
    pub fn new(store: &'a Store, options: AuditOptions<'a>) -> Self {
        Self {
            store,
            options,
            shown: BTreeMap::new(),
            elsewhere: Mutex::default(),
        }
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.options.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        Ok(())
    }
}

/// Gathers findings: one for each file and branch, with all versions that need it.
#[derive(Debug, Default)]
struct Findings(BTreeMap<(String, Option<String>), Finding>);

impl Findings {
    fn add(&mut self, file: &str, branch: Option<&str>, version: u64, what: String, remedy: &str) {
        let key = (file.to_owned(), branch.map(str::to_owned));
        let found = self.0.entry(key).or_insert_with(|| Finding {
            branch: branch.map(str::to_owned),
            ..finding(file, what, remedy)
        });
        found.versions.push(version);
    }

    /// Sorted by file, and each with its versions ascending.
    fn list(self) -> Vec<Finding> {
        let mut list: Vec<Finding> = self.0.into_values().collect();
        for found in &mut list {
            found.versions.sort_unstable();
            found.versions.dedup();
        }
        list
    }
}

/// A finding that is about no version.
fn finding(file: &str, what: impl Into<String>, remedy: &str) -> Finding {
    Finding {
        file: file.to_owned(),
        what: what.into(),
        branch: None,
        versions: Vec::new(),
        remedy: remedy.to_owned(),
    }
}
