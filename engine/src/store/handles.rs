//! Handles of tables that a process keeps. Opening a table anew costs requests; holding it costs its manifest, which names
//! every fragment. What was used longest ago goes first.

use lance::Dataset;
use lance_core::deepsize::DeepSizeOf;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a handle takes besides its manifest.
const OWN_BYTES: u64 = 16 << 10;

/// The handles of all stores of a process.
#[derive(Debug)]
pub(super) struct Kept {
    limit: u64,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    /// By the store's number and the table's path.
    handles: HashMap<(u64, String), Handle>,
    bytes: u64,
    /// Counts uses.
    now: u64,
}

#[derive(Debug)]
struct Handle {
    dataset: Arc<Dataset>,
    bytes: u64,
    used: u64,
}

impl Kept {
    /// Room for `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            all: Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn remove(&mut self, key: &(u64, String)) {
        if let Some(gone) = self.handles.remove(key) {
            self.bytes -= gone.bytes;
        }
    }

    fn oldest(&self) -> Option<(u64, String)> {
        let oldest = self.handles.iter().min_by_key(|(_, handle)| handle.used);
        oldest.map(|(key, _)| key.clone())
    }
}

/// Those of one store, which go with it.
#[derive(Debug)]
pub(super) struct Handles {
    kept: Arc<Kept>,
    store: u64,
}

impl Handles {
    pub(super) fn of(kept: &Arc<Kept>, store: u64) -> Self {
        Self {
            kept: kept.clone(),
            store,
        }
    }

    fn key(&self, path: &str) -> (u64, String) {
        (self.store, path.to_owned())
    }

    /// The handle of the table at `path`, at whatever version.
    pub(super) fn get(&self, path: &str) -> Option<Arc<Dataset>> {
        let mut all = self.kept.all();
        all.now += 1;
        let now = all.now;
        let handle = all.handles.get_mut(&self.key(path))?;
        handle.used = now;
        Some(handle.dataset.clone())
    }

    /// Keeps `dataset`, however large it is, and lets others go until there is room for it.
    pub(super) fn keep(&self, path: &str, dataset: Arc<Dataset>) {
        let bytes = OWN_BYTES + dataset.manifest().deep_size_of() as u64;
        let key = self.key(path);
        let mut all = self.kept.all();
        all.remove(&key);
        while all.bytes + bytes > self.kept.limit
            && let Some(oldest) = all.oldest()
        {
            all.remove(&oldest);
        }
        all.now += 1;
        all.bytes += bytes;
        let used = all.now;
        let handle = Handle {
            dataset,
            bytes,
            used,
        };
        all.handles.insert(key, handle);
    }

    pub(super) fn forget(&self, path: &str) {
        self.kept.all().remove(&self.key(path));
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        let mut all = self.kept.all();
        all.handles.retain(|(store, _), _| *store != self.store);
        all.bytes = all.handles.values().map(|handle| handle.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Dataset, Handles, Kept, OWN_BYTES};
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchIterator};

    async fn table() -> Arc<Dataset> {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let rows = RecordBatch::try_from_iter([("id", ids)]).unwrap();
        let reader = RecordBatchIterator::new([Ok(rows.clone())], rows.schema());
        Arc::new(Dataset::write(reader, "memory://", None).await.unwrap())
    }

    #[tokio::test]
    async fn what_was_used_longest_ago_goes_first() {
        // Each takes a little more than its own bytes.
        let kept = Arc::new(Kept::new(3 * OWN_BYTES));
        let (one, other) = (Handles::of(&kept, 1), Handles::of(&kept, 2));
        one.keep("a", table().await);
        other.keep("a", table().await);
        assert!(one.get("a").is_some());
        one.keep("b", table().await);
        assert!(one.get("a").is_some() && one.get("b").is_some());
        assert!(other.get("a").is_none());
        one.forget("b");
        other.keep("b", table().await);
        assert!(one.get("a").is_some() && other.get("b").is_some());
        drop((one, other));
        assert_eq!(kept.all().bytes, 0);
    }

    #[tokio::test]
    async fn one_that_is_larger_than_the_room_is_kept_alone() {
        let kept = Arc::new(Kept::new(1));
        let handles = Handles::of(&kept, 1);
        handles.keep("a", table().await);
        assert!(handles.get("a").is_some());
        handles.keep("b", table().await);
        assert!(handles.get("a").is_none() && handles.get("b").is_some());
    }
}
