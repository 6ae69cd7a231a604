//! Files that other tables refer to by `base_paths`, as shallow clones do. Lance's own cleanup does not know of them.
//!
//! A clone's source says nothing of the clone, so every table of this location and of the other watched ones is looked at.
//! Clones elsewhere cannot be known.

use super::readable::{Referred, files_of};
use super::{Held, TableCleanup};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use futures::TryStreamExt;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_table::format::IndexMetadata;
use lance_table::io::commit::{ManifestLocation, ManifestNamingScheme};
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};
use object_store::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long what was found in a location is taken for true: one round of cleanups of its tables, each of which would
/// look at all the others again.
const MEMO_AGE: Duration = Duration::from_secs(30);

/// Stands for the files that a version refers to which cannot be read.
const UNREADABLE: &str = "?";

/// What was found in a location, and when.
pub(crate) type ReferenceMemo = Mutex<Option<(Duration, Arc<BTreeSet<Reference>>)>>;

/// A file outside of the table that needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    /// The root of the table that refers to it.
    owner: String,
    /// The file.
    file: String,
}

impl Reference {
    /// The file below the table at `root`, if it lies there. A relative base is relative to wherever the clone was made, so it
    /// may be any table whose path ends like it.
    fn inside(&self, root: &str) -> Option<&str> {
        if self.owner == root {
            return None;
        }
        let below = |start: &str| self.file.strip_prefix(start)?.strip_prefix('/');
        if self.file.starts_with('/') || self.file.contains("://") {
            return below(root);
        }
        root.match_indices('/')
            .find_map(|(at, _)| below(&root[at + 1..]))
    }
}

/// One spelling of a root: bases are stored as their writer spelled them.
fn spelled(uri: &str) -> String {
    let local = ["file://", "file-object-store://"]
        .iter()
        .find_map(|scheme| uri.strip_prefix(scheme))
        .unwrap_or(uri)
        .trim_end_matches('/');
    if local.contains("://") {
        return local.to_owned();
    }
    if local.starts_with('/') {
        let real = std::fs::canonicalize(local);
        return real.map_or_else(|_| local.to_owned(), |p| p.to_string_lossy().into_owned());
    }
    local.trim_start_matches("./").to_owned()
}

impl Store {
    /// Takes out of `cleanup` what other tables need, with `head` the table's latest version.
    pub(super) async fn hold_referenced(
        &self,
        cleanup: &mut TableCleanup,
        path: &str,
        head: &Dataset,
        neighbours: &[Arc<Self>],
    ) -> Result<()> {
        let root = spelled(&self.uri_of(path));
        let mut needed: BTreeMap<String, String> = BTreeMap::new();
        for store in std::iter::once(self).chain(neighbours.iter().map(AsRef::as_ref)) {
            for reference in store.references().await?.iter() {
                if let Some(file) = reference.inside(&root) {
                    needed.insert(file.to_owned(), reference.owner.clone());
                }
            }
        }
        if let Some(by) = needed.get(UNREADABLE) {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "a version of {by} cannot be read, so what it needs of this table is not known; nothing is removed"
                ),
            ));
        }
        let refs = head.version_refs().await?;
        let mut stored: Vec<u64> = refs.iter().map(|r| r.version).collect();
        // The newest first: they hold the most, so the fewest old ones are needed.
        stored.sort_unstable_by_key(|version| std::cmp::Reverse(*version));
        for version in stored {
            if needed.is_empty() {
                return Ok(());
            }
            let dataset = head.checkout_version(version).await?;
            let indexes = dataset.load_indices().await?;
            let own = files_of(dataset.manifest()).chain(folders_of(&indexes));
            let mut held = None;
            for file in own.filter(|file| file.base.is_none()) {
                held = needed.remove(&file.path).or(held);
            }
            if let Some(by) = held.filter(|_| cleanup.versions.contains(&version)) {
                cleanup.versions.retain(|v| *v != version);
                cleanup.held.push(Held { version, by });
            }
        }
        self.check_unclaimed(path, &needed).await
    }

    /// Refuses when a needed file is in no version: Lance removes such files once they are 7 days old.
    async fn check_unclaimed(&self, path: &str, needed: &BTreeMap<String, String>) -> Result<()> {
        let gone = self.missing(path, needed.keys().cloned()).await?;
        let Some((file, by)) = needed.iter().find(|(file, _)| !gone.contains(file)) else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "{by} refers to {file}, which no version here holds; nothing is removed, since that file would go, too"
            ),
        ))
    }

    /// What tables of this location refer to outside of themselves.
    async fn references(&self) -> Result<Arc<BTreeSet<Reference>>> {
        let mut memo = self.reference_memo.lock().await;
        let now = self.clock().monotonic();
        if let Some((at, found)) = memo.as_ref()
            && now.saturating_sub(*at) < MEMO_AGE
        {
            return Ok(found.clone());
        }
        let mut found = BTreeSet::new();
        for path in self.datasets().await?.tables {
            let of_table = self.references_of(&path).await;
            found.extend(of_table.map_err(|e| e.context(format!("what {path} refers to")))?);
        }
        let found = Arc::new(found);
        *memo = Some((now, found.clone()));
        Ok(found)
    }

    /// What any stored version of the table at `path`, its branches included, refers to. Once set, bases stay in every
    /// later version, so a HEAD without any is the end of it. Of a table whose HEAD cannot be read, versions that cannot
    /// be read either need nothing: nobody can open them.
    async fn references_of(&self, path: &str) -> Result<Vec<Reference>> {
        let head = self.latest(path).await.ok();
        let bases: Option<Vec<String>> = head.map(|head| {
            let bases = head.manifest().base_paths.values();
            bases.map(|base| spelled(&base.path)).collect()
        });
        if bases.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let owner = spelled(&self.uri_of(path));
        let mut found = Vec::new();
        for area in ["_versions", "tree"] {
            let prefix = self.object_path(&format!("{path}/{area}"));
            let listed: Vec<ObjectMeta> = self.objects.list(Some(prefix)).try_collect().await?;
            for meta in listed {
                let name = meta.location.filename();
                let Some(naming) = name.and_then(ManifestNamingScheme::detect_scheme) else {
                    continue;
                };
                match self.references_in(&owner, &meta, naming).await {
                    Ok(references) => found.extend(references),
                    Err(lance::Error::NotFound { .. }) => {}
                    Err(_) => found.extend(bases.iter().flatten().map(|base| Reference {
                        owner: owner.clone(),
                        file: format!("{base}/{UNREADABLE}"),
                    })),
                }
            }
        }
        Ok(found)
    }

    async fn references_in(
        &self,
        owner: &str,
        meta: &ObjectMeta,
        naming_scheme: ManifestNamingScheme,
    ) -> lance::Result<Vec<Reference>> {
        let manifest = read_manifest(&self.objects, &meta.location, Some(meta.size)).await?;
        let location = ManifestLocation {
            version: manifest.version,
            path: meta.location.clone(),
            size: Some(meta.size),
            naming_scheme,
            e_tag: None,
            identity: None,
        };
        let indexes = read_manifest_indexes(&self.objects, &location, &manifest).await?;
        let all = files_of(&manifest).chain(folders_of(&indexes));
        let mut spellings: BTreeMap<u32, String> = BTreeMap::new();
        Ok(all
            .filter_map(|Referred { base, path, .. }| {
                let id = base?;
                let base = manifest.base_paths.get(&id)?;
                let base = spellings.entry(id).or_insert_with(|| spelled(&base.path));
                Some(Reference {
                    owner: owner.to_owned(),
                    file: format!("{base}/{path}"),
                })
            })
            .collect())
    }
}

/// The folders of a version's indexes, as [`files_of`] names its files.
fn folders_of(indexes: &[IndexMetadata]) -> impl Iterator<Item = Referred> + '_ {
    indexes.iter().map(|index| Referred {
        base: index.base_id,
        path: format!("_indices/{}", index.uuid),
        size: None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Reference, spelled};

    #[test]
    fn a_reference_lies_inside_the_table_that_its_base_names() {
        let to = |file: &str| Reference {
            owner: String::from("/lake/clone.lance"),
            file: file.to_owned(),
        };
        let root = "/lake/src.lance";
        let absolute = to("/lake/src.lance/data/a.lance");
        assert_eq!(absolute.inside(root), Some("data/a.lance"));
        assert_eq!(absolute.inside("/lake/src"), None);
        assert_eq!(absolute.inside("/other/lake/src.lance"), None);
        assert_eq!(absolute.inside("/lake/clone.lance"), None, "its own");
        let relative = to("lake/src.lance/data/a.lance");
        assert_eq!(relative.inside(root), Some("data/a.lance"));
        assert_eq!(relative.inside("/lake/other.lance"), None);
        let bucket = to("s3://b/lake/src.lance/data/a.lance");
        assert_eq!(bucket.inside("s3://b/lake/src.lance"), Some("data/a.lance"));
        assert_eq!(bucket.inside(root), None);
        assert_eq!(spelled("file:///no/such/place/"), "/no/such/place");
        assert_eq!(spelled("./db/t.lance"), "db/t.lance");
    }
}
