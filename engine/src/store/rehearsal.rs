//! Handles whose commits put nothing, so that what would be committed can be looked at.

use super::{Slot, Store};
use crate::error::Result;
use lance::Dataset;
use lance::session::Session;
use std::sync::Arc;

/// Bytes of the caches of a rehearsal. What it would commit lives in them alone, so nothing may be evicted.
const CACHE_BYTES: usize = 4 << 30;

impl Store {
    /// A handle of `pinned`, the dataset at `path`, through which a write rehearses what it will commit right above it.
    pub(crate) async fn rehearsal_of(&self, path: &str, pinned: &Dataset) -> Result<Dataset> {
        let location = pinned.manifest_location().clone();
        let slot = Slot {
            version: location.version + 1,
            naming: location.naming_scheme,
        };
        let builder = self.builder(path).with_version(location.version);
        let guard = self.guard().at(slot).rehearsing().knowing(location);
        let builder = builder.with_commit_handler(Arc::new(guard));
        let opened = builder.with_session(self.own_session()).load().await?;
        Ok(self.writing(&opened))
    }

    /// A session of a rehearsal's own.
    pub(crate) fn own_session(&self) -> Arc<Session> {
        let registry = self.session().store_registry();
        Arc::new(Session::new(CACHE_BYTES, CACHE_BYTES, registry))
    }
}
