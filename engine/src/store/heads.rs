//! The latest versions of datasets on local disks: what is known is kept, and only what is newer is asked for.
//!
//! A local disk has no order of names, so the latest version is found by listing all of them, and a commit that lists
//! four times slows down with its table's history. Versions are numbered without gaps at their upper end, so from one
//! that was the latest a moment ago the next ones are found by their names.
//!
//! Only from *a moment ago*: a number that cleanup freed looks like one that was never made (fact 8), and from an old
//! version a gap would look like the end. So a listing counts for [`TRUSTED_FOR`]. What was made since then is younger
//! than that, and no cleanup of a store takes a version that young. Whether a publish counts is asked after its put: what it
//! stood on was listed at most that long before. Of a plain table others may remove any version at any time; they would
//! have to commit twice and take the first away again between a listing and a put, as they always could.

use crate::clock::Clock;
use lance_io::object_store::ObjectStore;
use lance_table::io::commit::{CommitHandler, ManifestLocation, ManifestNamingScheme};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a listing of versions is built on. Far below the shortest retention that a configuration may have, an hour, and
/// long enough that listings cost next to nothing.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// What this process knows of the latest versions of datasets.
#[derive(Debug)]
pub(crate) struct Heads {
    clock: Arc<dyn Clock>,
    trusted_for: Duration,
    known: Mutex<HashMap<Path, Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    version: u64,
    naming: ManifestNamingScheme,
    /// When it was found by a listing, or one below it was.
    listed: Duration,
}

impl Heads {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let trusted_for = squire_failpoints::trusted_for().unwrap_or(TRUSTED_FOR);
        Self {
            clock,
            trusted_for,
            known: Mutex::default(),
        }
    }

    /// The latest version of the dataset at `base`.
    pub(crate) async fn latest(
        &self,
        handler: &dyn CommitHandler,
        base: &Path,
        objects: &ObjectStore,
    ) -> lance::Result<ManifestLocation> {
        if !objects.has_direct_local_paths() {
            return handler.resolve_latest_location(base, objects).await;
        }
        let now = self.clock.monotonic();
        if let Some(known) = self.known(base, now)
            && let Some(latest) = above(known, base, objects).await?
        {
            self.keep(base, &latest, known.listed);
            return Ok(latest);
        }
        let latest = handler.resolve_latest_location(base, objects).await?;
        self.keep(base, &latest, now);
        Ok(latest)
    }

    fn known(&self, base: &Path, now: Duration) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(base).copied()?;
        (now.saturating_sub(known.listed) < self.trusted_for).then_some(known)
    }

    fn keep(&self, base: &Path, latest: &ManifestLocation, listed: Duration) {
        let found = Known {
            version: latest.version,
            naming: latest.naming_scheme,
            listed,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(base.clone(), found);
    }
}

/// The last of the versions from `known` on; `None` when it is gone itself.
async fn above(
    known: Known,
    base: &Path,
    objects: &ObjectStore,
) -> lance::Result<Option<ManifestLocation>> {
    let mut latest = None;
    for version in known.version.. {
        let path = known.naming.manifest_path(base, version);
        let there = match objects.inner.head(&path).await {
            Ok(there) => there,
            Err(object_store::Error::NotFound { .. }) => break,
            Err(e) => return Err(e.into()),
        };
        latest = Some(ManifestLocation {
            version,
            path,
            size: Some(there.size),
            naming_scheme: known.naming,
            e_tag: there.e_tag,
            identity: None,
        });
    }
    Ok(latest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use lance_table::io::commit::commit_handler_from_url;
    use std::fs;
    use tempfile::TempDir;

    /// Time that passes when a test says so.
    #[derive(Debug, Default)]
    struct Passing(Mutex<Duration>);

    impl Clock for Passing {
        fn now_ms(&self) -> u64 {
            0
        }
        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            *self.0.lock().unwrap() += duration;
            Box::pin(std::future::ready(()))
        }
    }

    fn put(dir: &TempDir, version: u64) -> std::path::PathBuf {
        let name = format!("_versions/{:020}.manifest", u64::MAX - version);
        let path = dir.path().join(name);
        fs::write(&path, "").unwrap();
        path
    }

    #[tokio::test]
    async fn what_is_newer_is_found_by_name_and_a_gap_is_believed_for_a_moment_only() {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("_versions")).unwrap();
        let uri = dir.path().to_str().unwrap();
        let handler = commit_handler_from_url(uri, &None).await.unwrap();
        let (objects, base) = ObjectStore::from_uri(uri).await.unwrap();
        let clock = Arc::new(Passing::default());
        let heads = Heads {
            trusted_for: TRUSTED_FOR,
            ..Heads::new(clock.clone())
        };
        let latest = async || {
            let found = heads.latest(handler.as_ref(), &base, &objects).await;
            found.map(|found| found.version)
        };
        assert!(latest().await.is_err(), "no version is there");
        let third = put(&dir, 3);
        assert_eq!(latest().await.unwrap(), 3);
        put(&dir, 4);
        put(&dir, 5);
        assert_eq!(latest().await.unwrap(), 5);
        // Six was freed meanwhile, which nobody does to a version this young.
        put(&dir, 7);
        drop(clock.sleep(TRUSTED_FOR / 2));
        assert_eq!(latest().await.unwrap(), 5);
        drop(clock.sleep(TRUSTED_FOR / 2));
        assert_eq!(latest().await.unwrap(), 7, "what was found is no listing");
        // The directory was emptied, or another one was mounted over it.
        fs::remove_file(third).unwrap();
        fs::remove_dir_all(dir.path().join("_versions")).unwrap();
        fs::create_dir(dir.path().join("_versions")).unwrap();
        put(&dir, 2);
        assert_eq!(latest().await.unwrap(), 2);
    }
}
