//! What no version of a table refers to, counted rarely: each count lists a whole table.

use super::{Place, step};
use squire_engine::maintenance::{Target, Unreferenced};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The last count of each table, and when it was made. A table that is seen for the first time is counted the next time: a
/// start must not list them all.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<HashMap<Target, (Duration, Option<Unreferenced>)>>);

impl Counts {
    fn kept(&self) -> MutexGuard<'_, HashMap<Target, (Duration, Option<Unreferenced>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Forgets the counts of tables that are not among `targets` any more.
    pub(super) fn count_only(&self, targets: &[Target]) {
        self.counts
            .kept()
            .retain(|target, _| targets.contains(target));
    }

    /// The last count of `target`, made anew when it is older than `every`. `None` when there is none yet, or it cannot be had.
    pub(super) async fn counted(&self, target: &Target, every: Duration) -> Option<Unreferenced> {
        let now = self.store.clock().monotonic();
        let (at, counted) = *self
            .counts
            .kept()
            .entry(target.clone())
            .or_insert((now, None));
        if now.saturating_sub(at) < every {
            return counted;
        }
        let counted = step("look", target, self.unreferenced(target)).await;
        let counted = counted.unwrap_or_else(|error| {
            tracing::debug!(%target, %error, "what nothing refers to cannot be counted now");
            None
        });
        self.counts.kept().insert(target.clone(), (now, counted));
        counted
    }
}
