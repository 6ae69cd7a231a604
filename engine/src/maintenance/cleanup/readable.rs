//! Whether a version that stays can be read, before older ones go.
//!
//! 1. The files that it refers to are there, with the sizes that they were written with: one listing of each directory.
//! 2. Those that are newer than what goes are read from. A power cut leaves files of full length without their bytes,
//!    and then what was replaced is all that is left. Of a file that says which rows are deleted no version says the size: all
//!    of them are read.

use super::references::spelled;
use crate::error::{Error, ErrorKind, Result, caught};
use crate::proof::blob_columns;
use crate::store::Store;
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::scanner::Scanner;
use lance::datatypes::BlobHandling;
use lance::session::Session;
use lance_io::object_store::ObjectStore;
use lance_table::format::{Fragment, Manifest};
use lance_table::io::deletion::relative_deletion_file_path;
use object_store::path::Path;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Fragments that are read from at one cleanup of a table, the newest first: what a compaction wrote, which replaces the
/// most, is among them. Each costs some requests, once per process; data files beyond are taken to be as good as their sizes.
const FRAGMENTS: usize = 256;

/// Rows that are read from each end of a fragment.
const ROWS: usize = 8;

/// Fragments that are read from at one time.
const AT_ONCE: usize = 4;

/// What reading may keep in memory meanwhile, for metadata and for indexes.
const CACHE_BYTES: usize = 16 << 20;

/// A file, or the folder of an index, that a version refers to.
pub(in crate::maintenance) struct Referred {
    /// The base that it lies in; `None` for the table's own.
    pub(in crate::maintenance) base: Option<u32>,
    /// Its path below that.
    pub(in crate::maintenance) path: String,
    /// Its size in bytes, where the version says one: old releases did not.
    pub(in crate::maintenance) size: Option<u64>,
}

/// The data and deletion files of a version.
pub(in crate::maintenance) fn files_of(manifest: &Manifest) -> impl Iterator<Item = Referred> + '_ {
    manifest
        .fragments
        .iter()
        .flat_map(|fragment| files_of_fragment(manifest, fragment))
}

pub(in crate::maintenance) fn files_of_fragment<'a>(
    manifest: &'a Manifest,
    fragment: &'a Fragment,
) -> impl Iterator<Item = Referred> + 'a {
    let data = fragment.referenced_lance_files().map(|file| {
        let base = file.base_id.and_then(|id| manifest.base_paths.get(&id));
        // A base that is no dataset holds the files themselves.
        let path = match base {
            Some(base) if !base.is_dataset_root => file.path.clone(),
            _ => format!("data/{}", file.path),
        };
        Referred {
            base: file.base_id,
            path,
            size: file.file_size_bytes.get().map(u64::from),
        }
    });
    let deletion = fragment.deletion_file.iter().map(|file| Referred {
        base: file.base_id,
        path: relative_deletion_file_path(fragment.id, file),
        size: None,
    });
    data.chain(deletion)
}

/// A fragment to be read from, because of these of its files.
struct Unread {
    fragment: Fragment,
    /// Whether only the deleted rows are read.
    only_deletions: bool,
    /// Paths below the table's root.
    files: Vec<String>,
    /// The same as they are remembered, with their sizes.
    remembered: Vec<(String, u64)>,
}

impl Unread {
    /// The same, if it is also about which rows are deleted, for that alone.
    fn of_deletions(self) -> Option<Self> {
        let deletion = self.fragment.deletion_file.as_ref()?;
        let path = relative_deletion_file_path(self.fragment.id, deletion);
        let at = self.files.iter().position(|file| *file == path)?;
        Some(Self {
            only_deletions: true,
            files: vec![path],
            remembered: self.remembered.into_iter().skip(at).take(1).collect(),
            fragment: self.fragment,
        })
    }

    async fn read(&self, dataset: &Arc<Dataset>) -> Result<()> {
        if !self.only_deletions {
            return read_ends(dataset, &self.fragment, None).await;
        }
        let fragment = FileFragment::new(dataset.clone(), self.fragment.clone());
        fragment.get_deletion_vector().await?;
        Ok(())
    }
}

/// Reads the first rows of a fragment and the last, as a reader would: all columns, or these. A scan says where blobs stand; the bytes
/// of those in the first row and the last are read, too.
pub(in crate::maintenance) async fn read_ends(
    dataset: &Dataset,
    fragment: &Fragment,
    columns: Option<&[&str]>,
) -> Result<()> {
    let last = fragment.num_rows().unwrap_or(0).saturating_sub(ROWS);
    for offset in BTreeSet::from([0, last]) {
        let mut scanner = rows_at(dataset, fragment, offset, ROWS)?;
        if let Some(columns) = columns {
            scanner.project(columns)?;
        }
        read_all(&scanner).await?;
    }
    let blobs = blob_columns(dataset.schema());
    let asked = |column: &&String| columns.is_none_or(|of| of.contains(&column.as_str()));
    let blobs: Vec<&String> = blobs.iter().filter(asked).collect();
    if blobs.is_empty() {
        return Ok(());
    }
    let last = fragment.num_rows().unwrap_or(0).saturating_sub(1);
    for offset in BTreeSet::from([0, last]) {
        let mut scanner = rows_at(dataset, fragment, offset, 1)?;
        scanner.blob_handling(BlobHandling::AllBinary);
        scanner.project(&blobs)?;
        read_all(&scanner).await?;
    }
    Ok(())
}

/// A scan of so many rows of a fragment, in one batch.
fn rows_at(dataset: &Dataset, fragment: &Fragment, offset: usize, rows: usize) -> Result<Scanner> {
    let mut scanner = dataset.scan();
    scanner.with_fragments(vec![fragment.clone()]);
    scanner.batch_size(rows);
    scanner.limit(i64::try_from(rows).ok(), i64::try_from(offset).ok())?;
    Ok(scanner)
}

async fn read_all(scanner: &Scanner) -> Result<()> {
    let mut rows = scanner.try_into_stream().await?;
    while rows.try_next().await?.is_some() {}
    Ok(())
}

/// What is wrong with a file of which `found` is what a listing says, and `size` what its version says, if they do.
fn wrong(found: Option<&Found>, size: Option<u64>) -> Option<String> {
    match (found, size) {
        (None, _) => Some(String::from("is missing")),
        (Some(Found::File(0)), None) => Some(String::from("is empty")),
        (Some(Found::File(is)), Some(was)) if *is != was => {
            Some(format!("has {is} bytes and had {was} when it was written"))
        }
        _ => None,
    }
}

/// What a listing says of a path.
enum Found {
    /// Its size, in bytes.
    File(u64),
    Folder,
}

impl Store {
    /// Refuses a version of the table at `path` that lacks a file, or of which one was cut short. A base that is a relative path
    /// is relative to something unknown, and is not looked at.
    ///
    /// # Errors
    /// `Refused`, with the file.
    pub(super) async fn check_readable(&self, dataset: &Dataset, path: &str) -> Result<()> {
        let mut by_base: BTreeMap<Option<u32>, Vec<Referred>> = BTreeMap::new();
        for file in files_of(dataset.manifest()) {
            by_base.entry(file.base).or_default().push(file);
        }
        for (base, files) in by_base {
            let names = files.iter().map(|file| &file.path);
            let (place, found) = match base {
                None => (String::new(), self.find(path, names).await?),
                Some(id) => {
                    let Some(base) = dataset.manifest().base_paths.get(&id) else {
                        continue;
                    };
                    let Some((objects, root)) = self.base_at(&spelled(&base.path)).await? else {
                        continue;
                    };
                    let found = find_below(&objects, &root, names).await?;
                    (format!("{}/", base.path), found)
                }
            };
            let damaged = files.iter().find_map(|file| {
                let why = wrong(found.get(&file.path), file.size)?;
                Some(format!("{place}{}, which {why}", file.path))
            });
            if let Some(damaged) = damaged {
                return Err(self.damaged(dataset, &damaged).await);
            }
        }
        Ok(())
    }

    /// Refuses a version of the table at `path` that refers to a file which cannot be read, and which is newer than
    /// `oldest`, the oldest version to be removed. What that one refers to as well is in all that goes, so nothing that
    /// goes could take its place. Rows of at most [`FRAGMENTS`] are read.
    ///
    /// # Errors
    /// `Refused`, with the file.
    pub(super) async fn check_rows(
        &self,
        dataset: &Dataset,
        path: &str,
        oldest: u64,
    ) -> Result<()> {
        let manifest = dataset.manifest();
        // If it cannot be read itself, it shares nothing.
        let oldest = dataset.checkout_version(oldest).await.ok();
        let shared = oldest.iter().flat_map(|oldest| files_of(oldest.manifest()));
        let shared: BTreeSet<String> = shared.map(|file| file.path).collect();
        let mut unread: Vec<Unread> = Vec::new();
        for fragment in manifest.fragments.iter() {
            let mut of_fragment = Unread {
                fragment: fragment.clone(),
                only_deletions: false,
                files: Vec::new(),
                remembered: Vec::new(),
            };
            for file in files_of_fragment(manifest, fragment) {
                let (name, bytes) = (format!("{path}/{}", file.path), file.size.unwrap_or(0));
                let known = shared.contains(&file.path) || self.files.is_readable(&name, bytes);
                if file.base.is_none() && !known {
                    of_fragment.files.push(file.path);
                    of_fragment.remembered.push((name, bytes));
                }
            }
            if !of_fragment.files.is_empty() {
                unread.push(of_fragment);
            }
        }
        if unread.is_empty() {
            return Ok(());
        }
        unread.sort_by_key(|unread| Reverse(unread.fragment.id));
        let beyond = unread.split_off(unread.len().min(FRAGMENTS));
        let deletions = beyond.into_iter().filter_map(Unread::of_deletions);
        let fresh = Arc::new(self.without_caches(dataset, path).await?);
        futures::stream::iter(unread.into_iter().chain(deletions))
            .map(|unread| self.read_from(&fresh, unread))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    /// The same version with nothing of it in memory: what this process read or wrote earlier says nothing about now.
    pub(in crate::maintenance) async fn without_caches(
        &self,
        dataset: &Dataset,
        path: &str,
    ) -> Result<Dataset> {
        let registry = self.session().store_registry();
        let session = Arc::new(Session::new(CACHE_BYTES, CACHE_BYTES, registry));
        let builder = self.builder(path).with_session(session);
        let version = dataset.manifest().version;
        Ok(builder.with_version(version).load().await?)
    }

    async fn read_from(&self, dataset: &Arc<Dataset>, unread: Unread) -> Result<()> {
        match caught("reading", unread.read(dataset)).await {
            Ok(()) => self.files.readable(unread.remembered),
            Err(e) => {
                let files = unread.files.join(" and ");
                let damaged = format!("{files}, which cannot be read ({})", e.brief());
                return Err(self.damaged(dataset, &damaged).await);
            }
        }
        Ok(())
    }

    /// What it means that a version refers to something `damaged`. It says nothing if someone else removed that version
    /// meanwhile: a fresh look finds a newer one.
    async fn damaged(&self, dataset: &Dataset, damaged: &str) -> Error {
        let version = dataset.manifest().version;
        let stored = dataset.version_refs().await;
        if stored.is_ok_and(|refs| refs.iter().all(|r| r.version != version)) {
            let gone = format!("version {version} was removed while it was looked at");
            return Error::new(ErrorKind::Storage, gone);
        }
        Error::new(
            ErrorKind::Refused,
            format!(
                "version {version} refers to {damaged}; nothing is removed, since an older version may be the last good one"
            ),
        )
    }

    /// Which of `files` below the table at `path` are not there.
    pub(super) async fn missing(
        &self,
        path: &str,
        files: impl Iterator<Item = String>,
    ) -> Result<Vec<String>> {
        let files: Vec<String> = files.collect();
        let found = self.find(path, files.iter()).await?;
        Ok(files
            .into_iter()
            .filter(|file| !found.contains_key(file))
            .collect())
    }

    /// The storage of `base`, as [`spelled`] spells it, and its root there; `None` for a relative one, which is relative to something
    /// unknown.
    pub(in crate::maintenance) async fn base_at(
        &self,
        base: &str,
    ) -> Result<Option<(Arc<ObjectStore>, Path)>> {
        if !base.starts_with('/') && !base.contains("://") {
            return Ok(None);
        }
        let session = self.session();
        let opened =
            ObjectStore::from_uri_and_params(session.store_registry(), base, self.params());
        Ok(Some(opened.await?))
    }

    /// What stands in the directories of `files` below the table at `path`, by their paths below it.
    async fn find(
        &self,
        path: &str,
        files: impl Iterator<Item = &String>,
    ) -> Result<BTreeMap<String, Found>> {
        find_below(&self.objects, &self.object_path(path), files).await
    }
}

/// What stands in the directories of `files` below `root`, by their paths below it.
async fn find_below(
    objects: &ObjectStore,
    root: &Path,
    files: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Found>> {
    let directories: BTreeSet<&str> = files
        .map(|file| file.rsplit_once('/').map_or("", |(directory, _)| directory))
        .collect();
    let mut found = BTreeMap::new();
    for directory in directories {
        let parts = directory.split('/').filter(|part| !part.is_empty());
        let prefix = parts.fold(root.clone(), |path, part| path.join(part));
        let listed = objects.list_with_delimiter(Some(&prefix)).await?;
        let files = listed.objects.iter();
        let files = files.map(|object| (&object.location, Found::File(object.size)));
        let folders = listed.common_prefixes.iter();
        let folders = folders.map(|folder| (folder, Found::Folder));
        for (path, what) in files.chain(folders) {
            let name = path.filename().unwrap_or_default();
            let file = match directory {
                "" => name.to_owned(),
                _ => format!("{directory}/{name}"),
            };
            found.insert(file, what);
        }
    }
    Ok(found)
}
