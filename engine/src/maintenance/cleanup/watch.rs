//! What may not change while files of a table are deleted: the table itself, its tags and its branches.
//!
//! Lance reads these once, before the first file goes, and deletes for as long as it takes. A table may be dropped meanwhile and
//! made again, whose versions have the same numbers; a version that is about to go may be given a tag.

use crate::clock::Clock;
use crate::error::Error;
use crate::store::{Stamp, Store, branch_path};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use lance::Dataset;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, Result};
use squire_failpoints::{Guard, stands};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long tags and branches that do not lie on a local disk are taken for unchanged: each look is a request.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is watched of one table, since its deletion began.
#[derive(Debug, Clone)]
pub(super) struct Watch(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    table: Stamp,
    refs: Path,
    found: Vec<ObjectMeta>,
    every: Duration,
    looked: Mutex<Duration>,
    have_refs_changed: AtomicBool,
    clock: Arc<dyn Clock>,
}

/// Tags and branches, as they stand below `refs`, in the order of their names.
async fn refs_below(objects: &dyn ObjectStore, refs: &Path) -> Result<Vec<ObjectMeta>> {
    let mut found: Vec<ObjectMeta> = objects.list(Some(refs)).try_collect().await?;
    found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
    Ok(found)
}

impl Store {
    /// Begins to watch the table of `dataset`, which stood at `table` when its cleanup was planned.
    pub(super) async fn watch(&self, dataset: &Dataset, table: Stamp) -> Result<Watch> {
        let path = self.below_root(dataset);
        let branch = dataset.manifest().branch.as_deref();
        let of_table = branch.and_then(|branch| path.strip_suffix(&branch_path("", branch)));
        let refs = self.object_path(&format!("{}/_refs", of_table.unwrap_or(&path)));
        let every = match self.objects.is_local() {
            true => Duration::ZERO,
            false => LOOK_EVERY,
        };
        Ok(Watch(Arc::new(Watched {
            looked: Mutex::new(self.clock().monotonic()),
            have_refs_changed: AtomicBool::new(false),
            found: refs_below(self.objects.inner.as_ref(), &refs).await?,
            clock: self.options().clock.clone(),
            table,
            refs,
            every,
        })))
    }
}

impl Watch {
    /// When the version was put that the cleanup keeps.
    pub(super) fn kept_since(&self) -> DateTime<Utc> {
        self.0.table.since()
    }

    /// Why nothing more may be deleted, if something has changed by now; tags and branches are looked at every second.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn changed(&self, objects: &dyn ObjectStore) -> Result<Option<Error>> {
        let watched = &self.0;
        if stands(Guard::SameTable) && !watched.table.stands(objects).await? {
            return Ok(Some(watched.table.gone()));
        }
        if stands(Guard::RefsAgain) && self.is_due() {
            let now = refs_below(objects, &watched.refs).await?;
            if now != watched.found {
                watched.have_refs_changed.store(true, Ordering::Relaxed);
            }
        }
        let have_refs_changed = watched.have_refs_changed.load(Ordering::Relaxed);
        Ok(have_refs_changed
            .then(|| Error::conflict("tags or branches changed while versions were removed")))
    }

    fn is_due(&self) -> bool {
        let now = self.0.clock.monotonic();
        let mut looked = self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now.saturating_sub(*looked) >= self.0.every;
        if is_due {
            *looked = now;
        }
        is_due
    }
}
