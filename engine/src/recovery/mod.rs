//! Recovery: one idempotent function that completes, aborts or takes back an operation, run by anyone.
//!
//! 1. `Store::resolve` drives `crate::protocol::next_step` from fresh loads until the operation is settled.
//! 2. `encounter` is what is done with an undecided operation in the way: a writer helps, waits, or aborts it; a run helps, or goes.
//! 3. `Store::recover` is the daemon's pass over all sidecars and dead versions.
//! 4. `repair` handles drift, which needs a person.
//! 5. `stranded` deletes what a dead run wrote for nothing.

mod encounter;
mod pass;
mod repair;
mod resolve;
mod stranded;

pub use crate::history::{LogEntry, OperationOutcome};
pub(crate) use encounter::Met;
pub use encounter::Skipped;
pub use pass::{RecoveryReport, Watch};
pub use repair::{DriftReport, DriftVersion, RepairAction};
pub use resolve::{PlannedRecovery, Resolution};
pub(crate) use stranded::DeadRun;
pub use stranded::RunFiles;
