//! Running decided work: one attempt is one [`execute()`], from a [`WorkItem`](crate::decide::work::WorkItem) to a [`report`].
//!
//! Which work runs, and when, is decided elsewhere (`crate::decide::board`); an attempt neither retries nor waits for another.

mod execute;
pub(crate) mod report;

pub(crate) use execute::{CLEANED_AS_A_WHOLE, Surroundings, cleanup_policies, execute, neighbours};
