//! What each holder alone holds back: the bytes that a cleanup would remove as well if this one keep, lease, tag, branch or
//! clone were not there.

use super::{CleanupPlan, HoldKind, Spare, TableCleanup};
use crate::error::Result;
use crate::maintenance::audit::{Version, What};
use crate::maintenance::cleanup::references::spelled;
use crate::store::{MANIFEST_PATH, Store};
use futures::StreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a holder holds of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// The table, or its path.
    pub table: String,
    /// What it is.
    pub kind: HoldKind,
    /// Its name.
    pub name: String,
    /// The old versions that it holds, ascending.
    pub versions: Vec<u64>,
    /// Bytes that would be removed without it.
    pub bytes: u64,
}

/// A version that is held by one holder, or a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Needing {
    Version(u64),
    Branch(String),
}

impl Store {
    /// What holders hold of the tables of `plan`, and of the manifest. Reads all manifests of a table of which anything is
    /// held.
    pub async fn holdings(&self, plan: &CleanupPlan) -> Result<Vec<Holding>> {
        let state = self.load().await?.state;
        let mut holdings = Vec::new();
        for cleanup in plan.tables.iter().chain(&plan.off).chain(&plan.manifest) {
            let named = state
                .tables
                .iter()
                .find(|(t, _)| t.as_str() == cleanup.table);
            let path = named.map_or(MANIFEST_PATH, |(_, entry)| entry.path.as_str());
            match self.table_holdings(path, cleanup).await {
                Ok(of_table) => holdings.extend(of_table),
                Err(error) => {
                    let table = &cleanup.table;
                    tracing::warn!(table, %error, "what is held back is not known");
                }
            }
        }
        Ok(holdings)
    }

    /// What holders hold of one table at `path`.
    pub async fn table_holdings(&self, path: &str, cleanup: &TableCleanup) -> Result<Vec<Holding>> {
        let spared = cleanup.spares();
        if spared.is_empty() {
            return Ok(Vec::new());
        }
        let mut holders: BTreeMap<(HoldKind, &str), BTreeSet<u64>> = BTreeMap::new();
        let mut holders_of: BTreeMap<u64, usize> = BTreeMap::new();
        for spare in &spared {
            let versions = holders
                .entry((spare.kind, spare.name.as_str()))
                .or_default();
            versions.insert(spare.version);
            *holders_of.entry(spare.version).or_default() += 1;
        }
        let gone: BTreeSet<u64> = cleanup.versions.iter().copied().collect();
        // Of each file what it takes, and who needs it as long as they are held; none where it stays whoever goes.
        let mut needed: BTreeMap<String, (u64, Option<BTreeSet<Needing>>)> = BTreeMap::new();
        let listing = self.listing(path).await?;
        let root = spelled(&self.uri_of(path));
        let mut versions = std::pin::pin!(self.versions_at(path, listing.places()));
        while let Some((place, version)) = versions.next().await {
            let needing = match place.branch {
                Some(branch) => Some(Needing::Branch(branch)),
                None if gone.contains(&place.version) => continue,
                None if holders_of.get(&place.version) == Some(&1) => {
                    Some(Needing::Version(place.version))
                }
                None => None,
            };
            for (file, bytes) in sizes(&listing, &version?, &root) {
                let (_, by) = needed.entry(file).or_insert((bytes, Some(BTreeSet::new())));
                match (&needing, by) {
                    (Some(needing), Some(by)) => {
                        by.insert(needing.clone());
                    }
                    (_, by) => *by = None,
                }
            }
        }
        let bytes_of = |kind: HoldKind, name: &str, versions: &BTreeSet<u64>| -> u64 {
            let held = |needing: &Needing| match needing {
                Needing::Version(version) => versions.contains(version),
                Needing::Branch(branch) => kind == HoldKind::Branch && branch == name,
            };
            let only = needed.iter().filter(|(file, (_, by))| {
                let by = by.as_ref();
                // What a branch has of its own is what it is for.
                !file.starts_with("tree/") && by.is_some_and(|by| by.iter().all(held))
            });
            only.map(|(_, (bytes, _))| bytes).sum()
        };
        let holdings = holders.into_iter().map(|((kind, name), versions)| Holding {
            table: cleanup.table.clone(),
            kind,
            name: name.to_owned(),
            bytes: bytes_of(kind, name, &versions),
            versions: versions.into_iter().collect(),
        });
        Ok(holdings.collect())
    }
}

/// The files of the table that a version needs, its manifest among them, with what they take.
fn sizes(
    listing: &crate::maintenance::audit::Listing,
    version: &Version,
    root: &str,
) -> Vec<(String, u64)> {
    let own = version.needs(root).into_iter();
    let own = own.filter(|need| need.elsewhere.is_none()).map(|need| {
        let bytes = match need.what {
            What::IndexFolder => listing.below(&need.path),
            // Blobs lie in a folder of the data file's name.
            What::Rows => {
                let blobs = need.path.strip_suffix(".lance");
                let blobs = blobs.and_then(|folder| listing.below(folder));
                let size = listing.size(&need.path);
                size.map(|size| size + blobs.unwrap_or(0))
            }
            What::Index | What::Transaction => listing.size(&need.path),
        };
        (need.path, bytes.unwrap_or(0))
    });
    let file = &version.place.file;
    let manifest = (file.clone(), listing.size(file).unwrap_or(0));
    // It goes with its version, wherever it is read from.
    let transaction = version.manifest.transaction_file.iter().map(|name| {
        let path = format!("{}_transactions/{name}", version.place.root);
        let bytes = listing.size(&path).unwrap_or(0);
        (path, bytes)
    });
    own.chain([manifest]).chain(transaction).collect()
}

impl TableCleanup {
    /// What it spares, and for whom.
    fn spares(&self) -> Vec<Spare> {
        let clones = self.held.iter().map(|held| Spare {
            version: held.version,
            kind: HoldKind::Clone,
            name: held.by.clone(),
        });
        self.spared.iter().cloned().chain(clones).collect()
    }
}
