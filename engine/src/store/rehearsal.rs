//! Handles whose commits put nothing, so that what would be committed can be looked at.

use super::{GuardedCommitHandler, Slot, Store};
use crate::error::Result;
use lance::Dataset;
use lance::session::Session;
use std::sync::Arc;

impl Store {
    /// A handle of `pinned`, the dataset at `path`, through which a write rehearses what it will commit right above it.
    pub(crate) async fn rehearsal_of(&self, path: &str, pinned: &Dataset) -> Result<Dataset> {
        let location = pinned.manifest_location();
        let slot = Slot {
            version: location.version + 1,
            naming: location.naming_scheme,
        };
        let guard = self.guard().at(slot).rehearsing();
        let opened = self.guarded(path, pinned, guard, self.own_session());
        Ok(self.writing(&opened.await?))
    }

    /// A handle of the dataset at `path` at the version of `head`, whose commits go through `guard`.
    pub(crate) async fn guarded(
        &self,
        path: &str,
        head: &Dataset,
        guard: GuardedCommitHandler,
        session: Arc<Session>,
    ) -> Result<Dataset> {
        let location = head.manifest_location().clone();
        let builder = self.builder(path).with_version(location.version);
        let builder = builder.with_commit_handler(Arc::new(guard.knowing(location)));
        Ok(builder.with_session(session).load().await?)
    }

    /// A session of a rehearsal's own.
    pub(crate) fn own_session(&self) -> Arc<Session> {
        let registry = self.session().store_registry();
        self.memory().rehearsal(registry)
    }
}
