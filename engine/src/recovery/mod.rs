//! Recovery: one idempotent function that completes, aborts or takes back an operation, run by anyone.
//!
//! 1. `Store::resolve` drives `crate::protocol::next_step` from fresh loads until the operation is settled.
//! 2. `Store::meet` is what a writer does with an undecided operation in its way: help, wait, or abort it.
//! 3. `Store::recover` is the daemon's pass over all sidecars and dead versions.
//! 4. `repair` handles drift, which needs a person. `way` says what stands in the way of a run.
//! 5. `stranded` deletes what a dead run wrote for nothing.

mod pass;
mod repair;
mod resolve;
mod stranded;
mod way;

pub use crate::history::{LogEntry, OperationOutcome};
pub use pass::{RecoveryReport, Watch};
pub use repair::{DriftReport, DriftVersion, RepairAction};
pub(crate) use resolve::Met;
pub use resolve::{PlannedRecovery, Resolution};
pub(crate) use stranded::DeadRun;
pub use stranded::RunFiles;
pub use way::Skipped;
