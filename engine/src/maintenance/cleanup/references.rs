//! Files that other tables refer to by `base_paths`, as shallow clones do. Lance's own cleanup does not know of them.
//!
//! A clone's source says nothing of the clone, so every table of this location and of the other watched ones is looked at,
//! also those that are not maintained. Where that is not possible nothing is removed. Clones elsewhere cannot be known.

use super::readable::{Referred, files_of};
use super::{CleanupPolicies, Held, TableCleanup};
use crate::error::{Error, ErrorKind, Result, caught};
use crate::store::location::decoded;
use crate::store::{BRANCHES, Store, content_of};
use futures::TryStreamExt;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_io::object_store::ObjectStore;
use lance_table::format::IndexMetadata;
use lance_table::io::commit::{ManifestLocation, ManifestNamingScheme};
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};
use object_store::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long what was found in a location is taken for true, as a multiple of the time that the look took, and at most. Each cleanup
/// of a table would look at all the others again; a clone that is made meanwhile is not seen.
const MEMO_LOOKS: u32 = 10;
const MEMO_AGE: Duration = Duration::from_secs(30);

/// Stands for the files that a version refers to which cannot be read.
const UNREADABLE: &str = "?";

/// What was found in a location, or why it is not known, and until when that is taken for true.
#[derive(Debug, Default)]
struct ReferenceMemo(Mutex<Option<(Duration, Result<References, String>)>>);

type References = Arc<BTreeSet<Reference>>;

/// A file outside of the table that needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    /// The root of the table that refers to it.
    owner: String,
    /// The file.
    file: String,
    /// Whether the base that it lies in is there, as far as can be seen from here.
    is_found: bool,
}

impl Reference {
    /// The file below the table at `root`, if it lies there. A relative base is relative to wherever the clone was made, so it
    /// may be any table whose path ends like it. One that is not there may be known by another path where the clone was made, as
    /// on a disk that is mounted elsewhere: it may be any table of the same name.
    fn inside(&self, root: &str) -> Option<&str> {
        if self.owner == root {
            return None;
        }
        let below = |start: &str| self.file.strip_prefix(start)?.strip_prefix('/');
        if !self.is_found
            && let Some((_, name)) = root.rsplit_once('/')
        {
            let name = format!("/{name}/");
            let at = self.file.rfind(&name)?;
            return Some(&self.file[at + name.len()..]);
        }
        if self.file.starts_with('/') || self.file.contains("://") {
            return below(root);
        }
        root.match_indices('/')
            .find_map(|(at, _)| below(&root[at + 1..]))
    }
}

/// One spelling of a root: bases are stored as their writer spelled them. One with a scheme is read as a URL, any other as
/// the path that it is.
pub(in crate::maintenance) fn spelled(uri: &str) -> String {
    if let Some(url) = uri.strip_prefix("file:") {
        let path = url.strip_prefix("//").unwrap_or(url);
        let after_host = path.strip_prefix("localhost");
        let path = after_host.filter(|p| p.starts_with('/')).unwrap_or(path);
        return real(&normalised(&decoded(path)));
    }
    match uri.split_once("://") {
        Some(("file-object-store", path)) => real(&normalised(&decoded(path))),
        Some((scheme, path)) => format!("{scheme}://{}", normalised(&decoded(path))),
        // The home of whoever made it.
        None => real(uri.strip_prefix("~/").unwrap_or(uri)),
    }
}

/// Whether the base `spelled` is there; of one that is not a local path nobody asks.
fn is_found(spelled: &str) -> bool {
    let there = || std::path::Path::new(spelled).try_exists();
    !spelled.starts_with('/') || there().is_ok_and(|there| there)
}

/// A local path without links in it; a relative one is relative to something unknown.
fn real(path: &str) -> String {
    let found = Some(path).filter(|path| path.starts_with('/'));
    let found = found.and_then(|path| std::fs::canonicalize(path).ok());
    found.map_or_else(
        || normalised(path),
        |real| real.to_string_lossy().into_owned(),
    )
}

/// A path without `.`, `..` and empty parts. What a relative one begins with is not known, so it may begin with `..`.
fn normalised(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

impl Store {
    /// Takes out of `cleanup` what other tables need, with `head` the table's latest version.
    pub(super) async fn hold_referenced(
        &self,
        cleanup: &mut TableCleanup,
        path: &str,
        head: &Dataset,
        policies: &CleanupPolicies,
    ) -> Result<()> {
        let root = spelled(&self.uri_of(path));
        let mut needed: BTreeMap<String, String> = BTreeMap::new();
        let neighbours = policies
            .neighbours
            .iter()
            .map(|store| (store.as_ref(), true));
        let here = (self, !policies.one_table);
        for (store, anywhere) in std::iter::once(here).chain(neighbours) {
            let references = store.references(anywhere).await.map_err(|why| {
                let unknown =
                    "so which files tables there refer to is not known; nothing is removed";
                Error::new(
                    ErrorKind::Refused,
                    format!("{}: {why}, {unknown}", store.uri()),
                )
            })?;
            for reference in references.iter() {
                // No cleanup of the table looks into the folders of its branches.
                let of_table = |file: &&str| file.split('/').next() != Some(BRANCHES);
                if let Some(file) = reference.inside(&root).filter(of_table) {
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
        let going: BTreeSet<u64> = cleanup.versions.iter().copied().collect();
        for version in stored {
            if needed.is_empty() {
                break;
            }
            let dataset = head.checkout_version(version).await?;
            let indexes = dataset.load_indices().await?;
            let own = files_of(dataset.manifest()).chain(folders_of(&indexes));
            let mut held = None;
            for file in own.filter(|file| file.base.is_none()) {
                held = needed.remove(&file.path).or(held);
            }
            if let Some(by) = held.filter(|_| going.contains(&version)) {
                cleanup.held.push(Held { version, by });
            }
        }
        let held: BTreeSet<u64> = cleanup.held.iter().map(|held| held.version).collect();
        cleanup.versions.retain(|version| !held.contains(version));
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

    /// What tables of this location refer to outside of themselves, or why that is not known. Unless they are looked for
    /// `anywhere`, those that discovery finds.
    async fn references(&self, anywhere: bool) -> Result<References, String> {
        let memo = self.shelf.of::<ReferenceMemo>();
        let mut memo = memo.0.lock().await;
        let began = self.clock().monotonic();
        if let Some((until, found)) = memo.as_ref()
            && began < *until
        {
            return found.clone();
        }
        let looking = caught("looking for references", self.look_for_references(anywhere));
        let found = looking.await.map(Arc::new).map_err(|e| e.to_string());
        let now = self.clock().monotonic();
        let took = now.saturating_sub(began);
        *memo = Some((now + (took * MEMO_LOOKS).min(MEMO_AGE), found.clone()));
        found
    }

    async fn look_for_references(&self, anywhere: bool) -> Result<BTreeSet<Reference>> {
        let tables = match anywhere {
            true => self.tables_anywhere().await?,
            false => self.datasets().await?.tables,
        };
        // It was opened, so there was something: a directory that is not mounted any more, most likely.
        if tables.is_empty() && !self.is_ours().await? {
            let gone = "no table is there any more; is the storage still mounted?";
            return Err(Error::new(ErrorKind::Storage, gone));
        }
        let mut found = BTreeSet::new();
        for path in tables {
            let of_table = self.references_of(&path).await;
            found.extend(of_table.map_err(|e| e.context(&path))?);
        }
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
        let objects = self.knowing_manifests(&self.objects, None);
        let mut found = Vec::new();
        for area in ["_versions", BRANCHES] {
            let prefix = self.object_path(&format!("{path}/{area}"));
            let listed: Vec<ObjectMeta> = objects.list(Some(prefix)).try_collect().await?;
            for meta in listed {
                let name = meta.location.filename();
                let Some(naming) = name.and_then(ManifestNamingScheme::detect_scheme) else {
                    continue;
                };
                match references_in(&objects, &owner, &meta, naming).await {
                    Ok(references) => found.extend(references),
                    Err(lance::Error::NotFound { .. }) => {}
                    // What cannot be read now may be whole; only bytes that are there and make no sense are nobody's version.
                    Err(_) if content_of(&self.objects, &meta.location).await?.is_none() => {}
                    Err(_) => found.extend(bases.iter().flatten().map(|base| Reference {
                        owner: owner.clone(),
                        file: format!("{base}/{UNREADABLE}"),
                        is_found: is_found(base),
                    })),
                }
            }
        }
        Ok(found)
    }
}

/// What a version refers to outside of the table `owner`.
async fn references_in(
    objects: &ObjectStore,
    owner: &str,
    meta: &ObjectMeta,
    naming_scheme: ManifestNamingScheme,
) -> lance::Result<Vec<Reference>> {
    let manifest = read_manifest(objects, &meta.location, Some(meta.size)).await?;
    let location = ManifestLocation {
        version: manifest.version,
        path: meta.location.clone(),
        size: Some(meta.size),
        naming_scheme,
        e_tag: None,
        identity: None,
    };
    let indexes = read_manifest_indexes(objects, &location, &manifest).await?;
    let all = files_of(&manifest).chain(folders_of(&indexes));
    let mut bases: BTreeMap<u32, (String, bool)> = BTreeMap::new();
    Ok(all
        .filter_map(|Referred { base, path, .. }| {
            let id = base?;
            let base = manifest.base_paths.get(&id)?;
            let (base, is_found) = bases.entry(id).or_insert_with(|| {
                let base = spelled(&base.path);
                let is_found = is_found(&base);
                (base, is_found)
            });
            Some(Reference {
                owner: owner.to_owned(),
                file: format!("{base}/{path}"),
                is_found: *is_found,
            })
        })
        .collect())
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
            is_found: true,
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
        let mut lost = to("/mnt/lake/src.lance/data/a.lance");
        assert_eq!(lost.inside(root), None);
        lost.is_found = false;
        assert_eq!(lost.inside(root), Some("data/a.lance"));
        assert_eq!(lost.inside("/lake/other.lance"), None);
        let bucket = to("s3://b/lake/src.lance/data/a.lance");
        assert_eq!(bucket.inside("s3://b/lake/src.lance"), Some("data/a.lance"));
        assert_eq!(bucket.inside(root), None);
    }

    #[test]
    fn a_base_is_the_same_however_it_is_spelled() {
        for base in [
            "/no/such/my place",
            "/no/such/other/../my place/",
            "file:///no/such/my%20place/",
            "file:///no/such/./other/..//my%20place",
            "file://localhost/no/such/my place",
            "file:/no/such/my%20place",
            "file-object-store:///no/such/my%20place",
        ] {
            assert_eq!(spelled(base), "/no/such/my place", "{base}");
        }
        assert_eq!(spelled("/no/100%25"), "/no/100%25", "a path is no URL");
        assert_eq!(spelled("file:///no/100%25%2"), "/no/100%%2");
        for base in [
            "./db/t.lance",
            "../db/t.lance/",
            "~/db/t.lance",
            "x/../db/t.lance",
        ] {
            assert_eq!(spelled(base), "db/t.lance", "{base}");
        }
        assert_eq!(spelled("s3://b/x/../my%20t.lance/"), "s3://b/my t.lance");
        let real = std::env::temp_dir().canonicalize().unwrap();
        let around = real.join("../").join(real.file_name().unwrap());
        assert_eq!(spelled(around.to_str().unwrap()), real.to_str().unwrap());
    }
}
