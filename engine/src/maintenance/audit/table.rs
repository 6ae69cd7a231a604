//! One table: its manifests against listings of what they refer to.

use super::deep::hollow;
use super::inventory::{Listing, Need, Place};
use super::{Audit, Auditor, Finding, Findings, Version, What};
use crate::error::Result;
use crate::maintenance::cleanup::spelled;
use crate::maintenance::{Shown, Target};
use crate::store::transaction_id;
use futures::StreamExt;
use lance_table::io::commit::ManifestNamingScheme;
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const RESTORE: &str =
    "restore this file from a backup; without one, the versions that need it are lost";
pub(super) const REBUILD: &str = "drop this index and build it anew (in a store: `squire index --withdraw`, then declare it again)";
const SOURCE: &str = "restore it where it was; a clone is whole only with the files of its source";
const MADE_AGAIN: &str = "see `squire repair`";

/// Files of a table that versions need, by place, as far as they are not what they should be.
struct Suspect {
    need: Need,
    branch: Option<String>,
    versions: BTreeSet<u64>,
}

impl Auditor<'_> {
    /// Audits one table. What is wrong with it stands in the answer.
    ///
    /// # Errors
    /// Those of the storage, and `Cancelled`.
    pub async fn table(&self, target: &Target) -> Result<Audit> {
        let path = match target.shown() {
            Shown::Head(path) => path.into_owned(),
            Shown::Pin(table) => {
                let state = self.store.load().await?.state;
                state.table(table)?.path.clone()
            }
        };
        let mut audit = Audit {
            table: target.to_string(),
            ..Audit::default()
        };
        let listing = self.store.listing(&path).await?;
        let places = listing.places();
        if places.is_empty() {
            let error = self.store.without_version(&path).to_string();
            let gone = super::finding(&path, error, "restore the table's folder from a backup");
            audit.findings.push(gone);
            return Ok(audit);
        }
        audit.findings = self
            .store
            .check_refs(&path, listing.files(), &places)
            .await?;
        audit.findings.extend(two_namings(&places));
        let stored: BTreeSet<u64> = main_of(&places).map(|place| place.version).collect();
        let (total, root) = (places.len() as u64, spelled(&self.store.uri_of(&path)));
        let (mut findings, mut suspects) = (Findings::default(), BTreeMap::new());
        let mut files: BTreeSet<(Option<String>, String)> = BTreeSet::new();
        let mut unread = Vec::new();
        let mut versions = std::pin::pin!(self.store.versions_at(&path, places));
        while let Some((place, version)) = versions.next().await {
            self.check_cancelled()?;
            audit.versions += 1;
            (self.options.progress)(&audit.table, audit.versions, total);
            match version {
                Ok(version) => {
                    self.check_shown(&path, &version, &mut findings);
                    if place.branch.is_none() && stored.last() == Some(&place.version) {
                        audit.findings.extend(hollow(&version.manifest));
                    }
                    for need in version.needs(&root) {
                        self.check_need(&listing, need, &version, &mut suspects, &mut files)
                            .await;
                    }
                }
                Err(e) => unread.push((place, e.to_string())),
            }
        }
        audit.files = files.len() as u64;
        self.check_missing(&path, &stored, &mut findings);
        self.settle(&path, suspects, unread, &mut findings).await?;
        audit.findings.extend(findings.list());
        if self.options.deep {
            self.deepen(&path, &mut audit).await?;
        }
        Ok(audit)
    }

    /// Whether a version that the store shows is the one that was committed.
    fn check_shown(&self, path: &str, version: &Version, findings: &mut Findings) {
        if version.place.branch.is_some() {
            return;
        }
        let is = transaction_id(&version.manifest);
        for (shown, manifest) in self.shown.get(path).into_iter().flatten() {
            let number = version.place.version;
            let fits = shown.transaction.is_none() || shown.transaction == is;
            if shown.version == number && !fits {
                let other = format!(
                    "is not what manifest version {manifest} shows: another transaction made it"
                );
                findings.add(&version.place.file, None, number, other, MADE_AGAIN);
            }
        }
    }

    /// Whether all that the store shows is there.
    fn check_missing(&self, path: &str, stored: &BTreeSet<u64>, findings: &mut Findings) {
        for (shown, manifest) in self.shown.get(path).into_iter().flatten() {
            if !stored.contains(&shown.version) {
                let gone = format!(
                    "has no version {}, which manifest version {manifest} shows",
                    shown.version
                );
                findings.add("_versions", None, shown.version, gone, RESTORE);
            }
        }
    }

    async fn check_need(
        &self,
        listing: &Listing,
        need: Need,
        version: &Version,
        suspects: &mut BTreeMap<(Option<String>, Option<String>, String), Suspect>,
        files: &mut BTreeSet<(Option<String>, String)>,
    ) {
        let wrong = self.wrong(listing, &need).await;
        files.insert((need.elsewhere.clone(), need.path.clone()));
        if wrong.is_none() {
            return;
        }
        let branch = version.place.branch.clone();
        let key = (branch.clone(), need.elsewhere.clone(), need.path.clone());
        let suspect = suspects.entry(key).or_insert_with(|| Suspect {
            need,
            branch,
            versions: BTreeSet::new(),
        });
        suspect.versions.insert(version.place.version);
    }

    async fn wrong(&self, listing: &Listing, need: &Need) -> Option<String> {
        let Some(base) = &need.elsewhere else {
            return listing.wrong(need);
        };
        match self.listing_elsewhere(base).await {
            Ok(there) => there.wrong(need),
            Err(why) => Some(format!("cannot be looked for: {why}")),
        }
    }

    async fn listing_elsewhere(&self, base: &str) -> Result<Arc<Listing>, String> {
        let mut known = self.elsewhere.lock().await;
        if let Some(found) = known.get(base) {
            return found.clone();
        }
        let found = self.look_elsewhere(base).await;
        known.insert(base.to_owned(), found.clone());
        found
    }

    async fn look_elsewhere(&self, base: &str) -> Result<Arc<Listing>, String> {
        let opened = self.store.base_at(base).await.map_err(|e| e.brief())?;
        let (objects, prefix) = opened.ok_or_else(|| {
            String::from("its base is a relative path, relative to wherever the clone was made")
        })?;
        let listed = Listing::of(&objects, &prefix).await;
        listed.map(Arc::new).map_err(|e| e.brief())
    }

    /// What is wrong still: others may have written or removed what did not fit when it was looked at.
    async fn settle(
        &self,
        path: &str,
        suspects: BTreeMap<(Option<String>, Option<String>, String), Suspect>,
        unread: Vec<(Place, String)>,
        findings: &mut Findings,
    ) -> Result<()> {
        if suspects.is_empty() && unread.is_empty() {
            return Ok(());
        }
        let now = self.store.listing(path).await?;
        self.elsewhere.lock().await.clear();
        let stands: BTreeSet<(Option<String>, u64)> = now
            .places()
            .into_iter()
            .map(|place| (place.branch, place.version))
            .collect();
        for suspect in suspects.into_values() {
            let Some(what) = self.wrong(&now, &suspect.need).await else {
                continue;
            };
            let (file, remedy) = match (&suspect.need.elsewhere, suspect.need.what) {
                (Some(base), _) => (format!("{base}/{}", suspect.need.path), SOURCE),
                (None, What::Index | What::IndexFolder) => (suspect.need.path, REBUILD),
                (None, What::Rows | What::Transaction) => (suspect.need.path, RESTORE),
            };
            for version in suspect.versions {
                if stands.contains(&(suspect.branch.clone(), version)) {
                    let branch = suspect.branch.as_deref();
                    findings.add(&file, branch, version, what.clone(), remedy);
                }
            }
        }
        for (place, why) in unread {
            if stands.contains(&(place.branch.clone(), place.version)) {
                let why = format!("cannot be read: {why}");
                let branch = place.branch.as_deref();
                findings.add(&place.file, branch, place.version, why, RESTORE);
            }
        }
        Ok(())
    }
}

fn main_of(places: &[Place]) -> impl Iterator<Item = &Place> {
    places.iter().filter(|place| place.branch.is_none())
}

/// Whether versions have names of both schemes, as a migration leaves them that died: no client opens such a table.
fn two_namings(places: &[Place]) -> Option<Finding> {
    let of = |naming| main_of(places).find(move |place| place.naming == naming);
    let (old, _) = of(ManifestNamingScheme::V1).zip(of(ManifestNamingScheme::V2))?;
    let name = ManifestNamingScheme::V2.manifest_path(&Path::default(), old.version);
    let name = name.filename().unwrap_or_default();
    let what = "is named by an older scheme than other versions, so that nobody can open the table";
    let remedy = format!("rename it to {name} (remove it where that is there), and others like it");
    Some(super::finding(&old.file, what, &remedy))
}

/// What a finding of rows that cannot be read says.
pub(super) fn unreadable(file: String, version: u64, branch: Option<String>, why: &str) -> Finding {
    Finding {
        file,
        what: format!("cannot be read: {why}"),
        branch,
        versions: vec![version],
        remedy: RESTORE.to_owned(),
    }
}
