//! File events, as the locations and folders that they are about.

use crate::place::Place;
use crate::watch::{Depth, FileWatch, watch_local};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Folders in which versions appeared.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    folders: Mutex<BTreeSet<PathBuf>>,
    pub(super) notify: Arc<Notify>,
}

impl Wakes {
    fn add(&self, folder: &Path) {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.insert(folder.to_path_buf());
    }

    /// The folders since the last time.
    pub(super) fn take(&self) -> BTreeSet<PathBuf> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut folders)
    }

    /// Watches the local ones of `places` for versions of tables.
    pub(super) fn watch<'a>(
        self: &Arc<Self>,
        places: impl Iterator<Item = &'a Place>,
    ) -> FileWatch {
        let local = places
            .map(|p| p.store.uri())
            .filter(|uri| !uri.contains("://"));
        let roots: BTreeSet<PathBuf> = local.map(PathBuf::from).collect();
        let roots: Vec<PathBuf> = roots.into_iter().collect();
        let wakes = self.clone();
        let is_version = move |path: &Path| {
            let versions = path.parent().filter(|dir| dir.ends_with("_versions"));
            let folder = versions.and_then(Path::parent);
            folder.inspect(|folder| wakes.add(folder)).is_some()
        };
        watch_local(&roots, Depth::Recursive, is_version, self.notify.clone())
    }
}

/// The path of `folder` below the root of `place`, if it is there.
pub(super) fn below(place: &Place, folder: &Path) -> Option<String> {
    let below = folder.strip_prefix(place.store.uri()).ok()?;
    Some(below.to_string_lossy().into_owned())
}
