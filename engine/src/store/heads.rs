//! Heads that this process made: on a local disk, where a look for the latest version reads the whole directory.
//!
//! A writer that was the last to commit to a table need not list its versions again. Two things must both say that nothing
//! came since: the next number is missing, and the directory has the time of change that it had right after the commit. The
//! number alone would not do. Other clients clean up tables as they like and leave no mark (`newest`); one that commits
//! twice and removes the first of its versions, while a tag keeps ours, leaves the next number free below a newer version.
//! Each of that changes the directory, which the kernel writes down.
//!
//! What may be missed is what others do within the tick of the kernel's clock in which this process committed: no more
//! than between a listing and the commit that rests on it. Where a file system keeps whole seconds, or is not one of this
//! machine, whose times others keep, versions are listed.

use super::Store;
use crate::error::Result;
use lance_table::io::commit::ManifestNamingScheme;
use rustix::fs::FsWord;
use squire_failpoints::{Guard, stands};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

/// File systems of this machine that keep a directory's time of change to the tick: ext4, XFS, Btrfs, tmpfs, F2FS, ZFS and
/// overlays of them, by their magic numbers.
const KEPT_HERE: [FsWord; 7] = [
    0xEF53,
    0x5846_5342,
    0x9123_683E,
    0x0102_1994,
    0xF2F5_2010,
    0x2FC1_2FC1,
    0x794C_7630,
];

/// By dataset: the version that this process made last, and when its directory of versions was changed by that.
#[derive(Debug, Default)]
pub(super) struct Heads(Mutex<HashMap<String, (u64, SystemTime)>>);

impl Store {
    /// This process made `version` of the dataset at `path`.
    pub(super) async fn made_head(&self, path: &str, version: u64) {
        let changed = self.versions_changed(path).await;
        let mut heads = self.heads.0.lock().unwrap_or_else(PoisonError::into_inner);
        match changed {
            Some(changed) => heads.insert(path.to_owned(), (version, changed)),
            None => heads.remove(path),
        };
    }

    /// Whether `version` of the dataset at `path` is known to be its latest.
    pub(super) async fn is_head(
        &self,
        path: &str,
        version: u64,
        naming: ManifestNamingScheme,
    ) -> Result<bool> {
        let made = {
            let heads = self.heads.0.lock().unwrap_or_else(PoisonError::into_inner);
            heads.get(path).copied()
        };
        let Some((_, changed)) = made.filter(|(made, _)| *made == version) else {
            return Ok(false);
        };
        if stands(Guard::DirectoryTime) && self.versions_changed(path).await != Some(changed) {
            return Ok(false);
        }
        let (base, objects) = (self.object_path(path), self.objects.inner.as_ref());
        let handler = &self.inner_handler;
        let next = handler
            .version_exists(&base, version + 1, objects, naming)
            .await?;
        Ok(!next)
    }

    /// When the versions of the dataset at `path` were last changed, where that can be told.
    async fn versions_changed(&self, path: &str) -> Option<SystemTime> {
        if !self.objects.has_direct_local_paths() {
            return None;
        }
        let folder = format!("/{}/_versions", self.object_path(path));
        let look = move || {
            let kind = rustix::fs::statfs(&folder).ok()?.f_type;
            let changed = std::fs::metadata(&folder).ok()?.modified().ok()?;
            let to_the_tick = changed.duration_since(UNIX_EPOCH).ok()?.subsec_nanos() != 0;
            (KEPT_HERE.contains(&kind) && to_the_tick).then_some(changed)
        };
        tokio::task::spawn_blocking(look).await.ok()?
    }
}
