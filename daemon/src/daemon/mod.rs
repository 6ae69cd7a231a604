//! The daemon: watches stores and directories, decides, maintains, reports.
//!
//! ```text
//! discovery -> observation -> planning -> scheduling -> execution -> report
//! ```
//! 1. `crate::watch` wakes the loop: file events, a periodic scan, HTTP requests, SIGHUP. An event only wakes; the state is read again.
//! 2. `pass` runs recovery, observes every target, plans and executes.
//! 3. `planning` is pure: health and policy in, [`planning::OperationSpec`]s with reasons out.
//! 4. `scheduling` turns specs into scored work items and keeps cool-downs; `quarantine` lets unfit work rest.
//! 5. `execution` runs one work item and returns an [`execution::OperationReport`].
//! 6. `status` is what HTTP and systemd see; `unreferenced` counts for it what listings cost too much to look for at each pass.

pub(crate) mod execution;
mod pass;
pub(crate) mod planning;
mod quarantine;
mod scheduling;
mod service;
mod status;
mod unreferenced;

pub(crate) use service::{Event, Options, Signals, run};
