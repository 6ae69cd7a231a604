//! Whether the files that a version refers to are there: one listing of each directory that they lie in.

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use lance::Dataset;
use lance_table::format::{Fragment, Manifest};
use lance_table::io::deletion::relative_deletion_file_path;
use std::collections::{BTreeMap, BTreeSet};

/// The data and deletion files of a version: the base that each lies in, and its path below that.
pub(super) fn files_of(manifest: &Manifest) -> impl Iterator<Item = (Option<u32>, String)> + '_ {
    manifest
        .fragments
        .iter()
        .flat_map(|fragment| files_of_fragment(manifest, fragment))
}

fn files_of_fragment<'a>(
    manifest: &'a Manifest,
    fragment: &'a Fragment,
) -> impl Iterator<Item = (Option<u32>, String)> + 'a {
    let data = fragment.referenced_lance_files().map(|file| {
        let base = file.base_id.and_then(|id| manifest.base_paths.get(&id));
        // A base that is no dataset holds the files themselves.
        let path = match base {
            Some(base) if !base.is_dataset_root => file.path.clone(),
            _ => format!("data/{}", file.path),
        };
        (file.base_id, path)
    });
    let deletion = fragment
        .deletion_file
        .iter()
        .map(|file| (file.base_id, relative_deletion_file_path(fragment.id, file)));
    data.chain(deletion)
}

impl Store {
    /// Refuses a version of the table at `path` that lacks a file. Files in a base elsewhere are not looked for.
    ///
    /// # Errors
    /// `Refused`, with the file.
    pub(super) async fn check_readable(&self, dataset: &Dataset, path: &str) -> Result<()> {
        let manifest = dataset.manifest();
        let own = files_of(manifest).filter(|(base, _)| base.is_none());
        let missing = self.missing(path, own.map(|(_, file)| file)).await?;
        let Some(file) = missing.first() else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "version {} refers to {file}, which is missing; nothing is removed, since an older version may be the last good one",
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
        let mut directories: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in files {
            let (directory, name) = file.rsplit_once('/').unwrap_or(("", &file));
            let names = directories.entry(directory.to_owned()).or_default();
            names.insert(name.to_owned());
        }
        let mut missing = Vec::new();
        for (directory, names) in directories {
            let prefix = self.object_path(&format!("{path}/{directory}"));
            let listed = self.objects.list_with_delimiter(Some(&prefix)).await?;
            let objects = listed.objects.iter().map(|object| &object.location);
            let there: BTreeSet<&str> = objects
                .chain(&listed.common_prefixes)
                .filter_map(|found| found.filename())
                .collect();
            let gone = names.iter().filter(|name| !there.contains(name.as_str()));
            missing.extend(gone.map(|name| format!("{directory}/{name}")));
        }
        Ok(missing)
    }
}
