//! Deciding, without I/O: what was observed and what was configured go in, work comes out, with the reason.
//!
//! 1. [`planning`]: health and policy of one table in, [`planning::OperationSpec`]s and reasons out, also for doing nothing.
//! 2. [`work`]: decided [`work::WorkItem`]s and their urgency. `rest` and `quarantine` keep those back that failed or were unfit.
//! 3. [`board`]: everything that waits for its turn, and the permits of what runs. [`gate`]: what is held back: a pause, a closed window, a disk without `room`.
//! 4. [`replay`]: what a policy would have done to the versions of a table that are still there.
//! 5. [`waits`]: why what is due does not run, as people are told it.
//!
//! `simulation` plays a day of a few hundred tables through these and through `crate::place`, on a virtual clock.

pub(crate) mod board;
pub(crate) mod gate;
pub(crate) mod planning;
pub(crate) mod quarantine;
pub(crate) mod replay;
pub(crate) mod rest;
pub(crate) mod room;
#[cfg(test)]
mod simulation;
pub(crate) mod waits;
pub(crate) mod work;
