//! The newest manifest on a local disk, asked for by number.
//!
//! A local listing reads the whole directory, so that commits slowed down with the store's history. What is known is kept
//! instead, and only what is newer is asked for: number by number, up to the first that is missing.
//!
//! A number that is missing was never taken, or cleanup freed it: an older version may stay, because it is held, while those
//! above it go. So a cleanup changes the **mark** before it removes a version of the manifest, and after it has published
//! the floor below which it does. The mark is read *before* a listing, and kept with what was found. As long as it has not
//! changed no number above that was freed: a cleanup whose floor lies above what was listed has published it after the
//! listing, so that its mark came later than the one that was read. No clock is asked.
//!
//! Object stores list the newest versions in one request, whatever the history.

use super::guard::NAMING;
use super::state::MARKED;
use super::{INTERNAL, MANIFEST_PATH, Snapshot, Store, content_of};
use crate::error::Result;
use object_store::ObjectStoreExt;
use squire_failpoints::{Guard, stands};
use std::sync::Arc;

/// The name of the mark, beside the manifest.
const MARK: &str = "cleaned";

/// How many versions of others are looked for one by one. Beyond that a listing is cheaper.
const FOLLOWED: u64 = 64;

/// What a cleanup left as its mark; nothing before the first.
pub(super) type Mark = Option<Arc<[u8]>>;

impl Store {
    /// Whether a listing of this store reads a whole directory.
    fn lists_directories(&self) -> bool {
        self.objects.has_direct_local_paths()
    }

    /// The mark as it is now.
    pub(super) async fn mark(&self) -> Result<Mark> {
        if !self.lists_directories() {
            return Ok(None);
        }
        let path = self.object_path(&format!("{INTERNAL}/{MARK}"));
        let mark = content_of(&self.objects, &path).await?;
        Ok(mark.map(Into::into))
    }

    /// Changes the mark. Comes after the manifest's floor is published, and before a version below it is removed.
    pub(crate) async fn mark_cleaned(&self) -> Result<()> {
        if !self.lists_directories() || !stands(Guard::CleanupMark) {
            return Ok(());
        }
        let path = self.object_path(&format!("{INTERNAL}/{MARK}"));
        let mark = self.new_op().to_string();
        self.objects.inner.put(&path, mark.into()).await?;
        Ok(())
    }

    /// The newest manifest, found by following `known`; `None` when only a listing can tell.
    pub(super) async fn followed(&self, known: &Snapshot) -> Result<Option<Snapshot>> {
        if !self.lists_directories() || known.state.format < MARKED {
            return Ok(None);
        }
        let mut newest = known.version();
        // Where the disk is not mounted any more, nothing is newer.
        let (tag, mut follows) = futures::future::try_join(
            self.manifest_tag(newest),
            self.has_manifest_version(newest + 1),
        )
        .await?;
        while follows {
            newest += 1;
            if newest - known.version() > FOLLOWED {
                return Ok(None);
            }
            follows = self.has_manifest_version(newest + 1).await?;
        }
        let same = tag.and_then(|tag| known.clone().tagged(Some(&tag)));
        let Some(known) = same else {
            return Ok(None);
        };
        if self.mark().await? != *known.mark() {
            return Ok(None);
        }
        if newest == known.version() {
            return Ok(Some(known));
        }
        // One that cannot be read is told of by the listing.
        Ok(self
            .read_manifest_at(newest, known.mark().clone())
            .await
            .ok())
    }

    /// Whether a version that was put at a free number, right above one that was the newest, is known to be no freed number.
    pub(crate) async fn is_no_freed_number(&self, published: &Snapshot) -> Result<bool> {
        if !self.lists_directories() || published.state.format < MARKED {
            return Ok(false);
        }
        // Asked after the put: a cleanup that freed the number came before it.
        let stands = self.has_manifest_version(published.version() - 1).await?;
        Ok(stands && self.mark().await? == *published.mark())
    }

    /// What tells the object of a manifest version from any other of its number; `None` for one that is not there.
    pub(super) async fn manifest_tag(&self, version: u64) -> Result<Option<String>> {
        let path = NAMING.manifest_path(&self.object_path(MANIFEST_PATH), version);
        match self.objects.inner.head(&path).await {
            Ok(found) => Ok(Some(found.e_tag.unwrap_or_default())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn has_manifest_version(&self, version: u64) -> Result<bool> {
        Ok(self.manifest_tag(version).await?.is_some())
    }
}
