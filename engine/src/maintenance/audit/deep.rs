//! Reads a little of everything: the first and the last rows of every data file, and a sample of every index.

use super::table::unreadable;
use super::types::{Unreadable, unreadable_columns};
use super::{Audit, Auditor, Finding, finding};
use crate::error::{Result, caught};
use crate::maintenance::cleanup::{files_of_fragment, read_ends};
use crate::maintenance::index_proof::prove_answers;
use futures::StreamExt;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_index::is_system_index;
use lance_table::format::{Fragment, Manifest};
use std::collections::BTreeSet;

/// Fragments that are read from at one time.
const AT_ONCE: usize = 4;

/// Reads from the columns of a fragment that are not among `types`.
async fn read_others(dataset: &Dataset, fragment: &Fragment, types: &[Unreadable]) -> Result<()> {
    let fields = dataset.schema().fields.iter();
    let names = fields.map(|field| field.name.as_str());
    let others: Vec<&str> = names
        .filter(|name| types.iter().all(|unreadable| unreadable.column != **name))
        .collect();
    match others.is_empty() {
        true => Ok(()),
        false => caught("reading", read_ends(dataset, fragment, Some(&others))).await,
    }
}

/// The fragments of a version that no reader gives the rows of: a column may be added without values, and all others dropped.
pub(super) fn hollow(manifest: &Manifest) -> impl Iterator<Item = Finding> {
    let fragments = manifest.fragments.iter().filter(|f| f.files.is_empty());
    fragments.map(|fragment| Finding {
        versions: vec![manifest.version],
        ..finding(
            &format!("fragment {}", fragment.id),
            "has no data file left, so nobody can open the table: its columns were added without values, and all others dropped",
            "restore the version before its columns were dropped",
        )
    })
}

impl Auditor<'_> {
    /// Reads from the table at `path`, each data file once, through the newest version that refers to it.
    pub(super) async fn deepen(&self, path: &str, audit: &mut Audit) -> Result<()> {
        let Ok(head) = self.store.latest(path).await else {
            // Its manifest is among the findings.
            return Ok(());
        };
        let fresh = self.store.without_caches(&head, path).await?;
        let damaged: BTreeSet<String> = audit.findings.iter().map(|f| f.file.clone()).collect();
        let mut seen: BTreeSet<(Option<u32>, String)> = BTreeSet::new();
        let places = self.store.listing(path).await?.places();
        let mut versions = std::pin::pin!(self.store.versions_at(path, places));
        while let Some((place, version)) = versions.next().await {
            self.check_cancelled()?;
            let Ok(version) = version else { continue };
            let mut unread: Vec<(Fragment, String)> = Vec::new();
            for fragment in version.manifest.fragments.iter() {
                let files: Vec<_> = files_of_fragment(&version.manifest, fragment)
                    .map(|file| (file.base, format!("{}{}", place.root, file.path)))
                    .collect();
                let is_damaged = files.iter().any(|(_, file)| damaged.contains(file));
                let new: Vec<_> = files.into_iter().filter(|f| !seen.contains(f)).collect();
                if let Some((_, file)) = new.first()
                    && !is_damaged
                {
                    unread.push((fragment.clone(), file.clone()));
                }
                seen.extend(new);
            }
            if unread.is_empty() {
                continue;
            }
            let at = (place.branch.as_deref(), Some(place.version));
            let Ok(dataset) = fresh.checkout_version(at).await else {
                continue;
            };
            let dataset = &dataset;
            let mut reads = std::pin::pin!(
                futures::stream::iter(unread)
                    .map(|(fragment, file)| async move {
                        let read = caught("reading", read_ends(dataset, &fragment, None)).await;
                        (fragment, file, read)
                    })
                    .buffer_unordered(AT_ONCE)
            );
            // Known once something cannot be read.
            let mut types: Option<Vec<Unreadable>> = None;
            while let Some((fragment, file, mut read)) = reads.next().await {
                self.check_cancelled()?;
                audit.read += 1;
                (self.options.progress)(&audit.table, audit.read, seen.len() as u64);
                if read.is_err() {
                    if types.is_none() {
                        types = Some(unreadable_columns(dataset).await);
                    }
                    let types = types.as_deref().unwrap_or_default();
                    if !types.is_empty() {
                        read = read_others(dataset, &fragment, types).await;
                        audit.unreadable.extend_from_slice(types);
                    }
                }
                if let Err(e) = read {
                    let branch = place.branch.clone();
                    let found = unreadable(file, place.version, branch, &e.brief());
                    audit.findings.push(found);
                }
            }
        }
        audit.unreadable.sort();
        audit.unreadable.dedup();
        self.ask_indexes(&fresh, audit).await
    }

    /// Asks each index for some of what is there.
    async fn ask_indexes(&self, fresh: &Dataset, audit: &mut Audit) -> Result<()> {
        let indexes = fresh.load_indices().await?;
        let names = indexes.iter().filter(|index| !is_system_index(index));
        let names: BTreeSet<String> = names.map(|index| index.name.clone()).collect();
        for name in names {
            self.check_cancelled()?;
            audit.read += 1;
            let proof = prove_answers(fresh, &name);
            if let Err(e) = caught("asking the index", proof).await {
                let version = fresh.manifest().version;
                let mut found = unreadable(format!("index {name}"), version, None, &e.brief());
                found.remedy = super::table::REBUILD.to_owned();
                audit.findings.push(found);
            }
        }
        Ok(())
    }
}
