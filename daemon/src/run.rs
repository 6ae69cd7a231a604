//! Running decided work: one attempt is one [`execute_claimed`], from a [`WorkItem`](crate::decide::work::WorkItem) to a [`report`].
//!
//! Which work runs, and when, is decided elsewhere (`crate::decide::board`); an attempt neither retries nor waits for another.
//! `claimed` leaves alone what another daemon works on.

mod claimed;
mod execute;
pub(crate) mod report;

pub(crate) use claimed::{Claims, execute_claimed};
pub(crate) use execute::{CLEANED_AS_A_WHOLE, Surroundings, cleanup_policies, neighbours};
