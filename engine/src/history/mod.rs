//! What was published: the commit log, and what became of an operation.
//!
//! 1. `archive` copies the log out of the manifest's transactions.
//! 2. `outcome` looks for an operation or a batch in the pins, the manifest's history and the log.

mod archive;
mod outcome;

pub use archive::ArchiveReport;
pub use outcome::OperationOutcome;

use crate::publish::Record;
use serde::Serialize;

/// One publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// The manifest version that it made.
    pub manifest_version: u64,
    /// When, milliseconds since the epoch, by the publisher's clock.
    pub at_ms: i64,
    /// What it says of itself.
    #[serde(flatten)]
    pub record: Record,
}
