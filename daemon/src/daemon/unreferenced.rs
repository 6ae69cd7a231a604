//! What no version of a table refers to, counted as rarely as cleanup looks for work: each count lists a whole table.

use crate::place::{Place, step};
use squire_engine::maintenance::{Target, Unreferenced};
use std::collections::HashMap;
use std::time::Duration;

/// The last count of each table, by place, and when it was made.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<(String, Target), (Duration, Option<Unreferenced>)>);

impl Counts {
    /// The count of `target`, made anew when the last one is older than `every`. `None` when it cannot be had.
    pub(super) async fn of(
        &mut self,
        place: &Place,
        target: &Target,
        now: Duration,
        every: Duration,
    ) -> Option<Unreferenced> {
        let key = (place.uri.clone(), target.clone());
        match self.0.get(&key) {
            Some((at, counted)) if now.saturating_sub(*at) < every => *counted,
            _ => {
                let counted = step("look", target, place.unreferenced(target)).await;
                let counted = counted.unwrap_or_else(|error| {
                    tracing::debug!(%target, %error, "what nothing refers to cannot be counted now");
                    None
                });
                self.0.insert(key, (now, counted));
                counted
            }
        }
    }
}
