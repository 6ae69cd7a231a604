//! Recovery: one idempotent function that completes, aborts or takes back an operation, run by anyone.
//!
//! 1. `Store::resolve` drives `crate::protocol::next_step` from fresh loads until the operation is settled.
//! 2. `Store::meet` is what a writer does with an undecided operation in its way: help, wait, or abort it.
//! 3. `Store::recover` is the daemon's pass over all sidecars and dead versions.
//! 4. `repair` handles drift, which needs a person.

mod pass;
mod repair;
mod resolve;

pub use crate::history::{LogEntry, OperationOutcome};
pub use pass::{RecoveryReport, Watch};
pub use repair::{DriftReport, DriftVersion, RepairAction};
pub(crate) use resolve::{Met, dead_sidecar};
pub use resolve::{PlannedRecovery, Resolution};
