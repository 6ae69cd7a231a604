//! Tables that stand in a store's directory and are none of its own: nobody maintains them, and no reader of the store
//! sees them. They are named, so that nobody believes otherwise.

use super::Store;
use super::discovery::{Discovered, PassedOver};
use crate::error::Result;
use crate::ids::OpId;
use std::collections::BTreeSet;

/// Why a table beside those of a store is passed over.
const NOT_OURS: &str = "a table that this store does not know: nobody maintains it; move it to a directory of its own, which can be watched, or make it the store's with `squire create` and `squire write`";

impl Store {
    /// The tables below the store's root that it does not know, and the stores that stand there.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn beside(&self) -> Result<Vec<PassedOver>> {
        // What a writer is making right now has a sidecar before it has a version, and is pinned, or written down as
        // aborted, before that sidecar goes: listed in this order, no moment hides it.
        let Discovered { tables, skipped } = self.datasets().await?;
        let stores = skipped.into_iter().filter(|passed| passed.is_store());
        let mut beside: Vec<PassedOver> = stores.collect();
        let may_be_others = tables.into_iter().filter(|path| !is_incarnation(path));
        let mut others: BTreeSet<String> = may_be_others.collect();
        let pinned = self.load().await?;
        let state = &pinned.state;
        let pinned = state.tables.values().map(|entry| &entry.path);
        for path in pinned.chain(state.dropped.keys()) {
            others.remove(path);
        }
        if !others.is_empty() {
            for path in self.paths_under_way().await? {
                others.remove(&path);
            }
        }
        for path in others {
            // Lance writes the files of a table before its first version: without one it is nobody's yet.
            if self.is_table(self.object_path(&path).as_ref()).await {
                let reason = NOT_OURS.to_owned();
                beside.push(PassedOver { path, reason });
            }
        }
        beside.sort();
        Ok(beside)
    }

    /// What operations write that are not decided, are visible by now, or were aborted.
    async fn paths_under_way(&self) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        for op in self.sidecar_ops().await? {
            let sidecar = self.sidecar(op).await?;
            let writes = sidecar.into_iter().flat_map(|sidecar| sidecar.writes);
            paths.extend(writes.map(|write| write.path));
        }
        let state = self.load().await?.state;
        paths.extend(state.tables.values().map(|entry| entry.path.clone()));
        let aborted = state.aborted.values().flat_map(|decision| &decision.writes);
        paths.extend(aborted.map(|write| write.path.clone()));
        Ok(paths)
    }
}

/// Whether the store made this folder because the plain one was taken: `t~ULID.lance`.
pub(crate) fn is_incarnation(path: &str) -> bool {
    let name = path.strip_suffix(".lance");
    let op = name
        .and_then(|name| name.rsplit_once('~'))
        .map(|(_, op)| op);
    op.is_some_and(|op| OpId::parse(op).is_ok())
}
