//! Whether the files that a version refers to are there: one listing of each directory that they lie in.

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use lance::Dataset;
use lance_table::format::{Fragment, Manifest};
use lance_table::io::deletion::relative_deletion_file_path;
use std::collections::{BTreeMap, BTreeSet};

/// A file, or the folder of an index, that a version refers to.
pub(super) struct Referred {
    /// The base that it lies in; `None` for the table's own.
    pub(super) base: Option<u32>,
    /// Its path below that.
    pub(super) path: String,
    /// Its size in bytes, where the version says one: old releases did not.
    pub(super) size: Option<u64>,
}

/// The data and deletion files of a version.
pub(super) fn files_of(manifest: &Manifest) -> impl Iterator<Item = Referred> + '_ {
    manifest
        .fragments
        .iter()
        .flat_map(|fragment| files_of_fragment(manifest, fragment))
}

fn files_of_fragment<'a>(
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
    /// Refuses a version of the table at `path` that lacks a file, or of which one was cut short. Files in a base
    /// elsewhere are not looked for.
    ///
    /// # Errors
    /// `Refused`, with the file.
    pub(super) async fn check_readable(&self, dataset: &Dataset, path: &str) -> Result<()> {
        let manifest = dataset.manifest();
        let own = files_of(manifest).filter(|file| file.base.is_none());
        let own: Vec<Referred> = own.collect();
        let found = self.find(path, own.iter().map(|file| &file.path)).await?;
        let damaged = own.iter().find_map(|file| {
            let why = wrong(found.get(&file.path), file.size)?;
            Some(format!("{}, which {why}", file.path))
        });
        let Some(damaged) = damaged else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "version {} refers to {damaged}; nothing is removed, since an older version may be the last good one",
                manifest.version
            ),
        ))
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

    /// What stands in the directories of `files` below the table at `path`, by their paths below it.
    async fn find(
        &self,
        path: &str,
        files: impl Iterator<Item = &String>,
    ) -> Result<BTreeMap<String, Found>> {
        let directories: BTreeSet<&str> = files
            .map(|file| file.rsplit_once('/').map_or("", |(directory, _)| directory))
            .collect();
        let mut found = BTreeMap::new();
        for directory in directories {
            let prefix = self.object_path(&format!("{path}/{directory}"));
            let listed = self.objects.list_with_delimiter(Some(&prefix)).await?;
            let files = listed.objects.iter();
            let files = files.map(|object| (&object.location, Found::File(object.size)));
            let folders = listed.common_prefixes.iter();
            let folders = folders.map(|folder| (folder, Found::Folder));
            for (path, what) in files.chain(folders) {
                let name = path.filename().unwrap_or_default();
                found.insert(format!("{directory}/{name}"), what);
            }
        }
        Ok(found)
    }
}
