//! A task as data.
//!
//! JSON, with a format of its own. Lance's options stand in it as Lance writes them, which holds for one release of Lance alone:
//! a worker of another one refuses it. It carries no secret: whoever executes it has credentials of its own.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{OpId, TableName};
use crate::journal::RunTable;
use crate::maintenance::tasks::Task;
use crate::proof::Verify;
use crate::store::RecordsAt;
use crate::store::location::normalise;
use lance::dataset::optimize::CompactionOptions;
use lance_table::format::WriterVersion;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The newest format of envelopes and results that this squire reads, and the one that it writes.
pub(super) const FORMAT: u32 = 1;

/// Bytes of an envelope at most: a task has some thousand fragments, each a number of a few digits.
const MOST_BYTES: usize = 16 << 20;

/// The release of Lance that this squire is built with.
pub(super) fn lance_release() -> String {
    WriterVersion::default().version
}

/// One task of a compaction, for whoever executes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    pub(super) format: u32,
    pub(super) lance: String,
    /// Where the table's location is.
    pub(super) location: String,
    /// Where the run's record stands there.
    pub(super) records: RecordsAt,
    /// The table's name, in a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) table: Option<TableName>,
    /// Its dataset below the location.
    pub(super) path: String,
    /// The version that it showed when the run began.
    pub(super) base: u64,
    /// The version that is rewritten.
    pub(super) read_version: u64,
    /// What made that version, and the tag of its object: another table at the same path has others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transaction: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) e_tag: Option<String>,
    /// The run, whose record is the licence to write.
    pub(super) run: OpId,
    /// This attempt at the task.
    pub(super) attempt: OpId,
    /// The task's number in the run.
    pub(super) task: u32,
    pub(super) work: Task,
    pub(super) options: CompactionOptions,
    pub(super) verify: Verify,
    /// Bytes that its worker may hold.
    pub(super) memory: u64,
    /// Bytes per second that it may move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes_per_second: Option<u64>,
}

impl Envelope {
    /// The location of its table.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// This attempt at the task.
    pub fn attempt(&self) -> OpId {
        self.attempt
    }

    /// Bytes that its worker may hold.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes per second that it may move; `None` for no limit.
    pub fn bytes_per_second(&self) -> Option<u64> {
        self.bytes_per_second
    }

    pub(super) fn run_table(&self) -> RunTable {
        RunTable {
            name: self.table.clone(),
            path: self.path.clone(),
            base: self.base,
        }
    }

    /// As it travels.
    ///
    /// # Errors
    /// `Internal` when it cannot be written down.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal("encoding a task").caused_by(e))
    }

    /// Reads one.
    ///
    /// # Errors
    /// `FormatTooNew`; `Refused` for one of another release of Lance; `InvalidInput` for what is none, is cut off, has fields that
    /// this squire does not know, a location that is none or carries secrets, or a task without fragments.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        check_release(bytes, "a task")?;
        let envelope: Self = serde_json::from_slice(bytes).map_err(|e| not_one("a task", &e))?;
        let refused = |why: &str| Err(Error::invalid(format!("this task cannot be read: {why}")));
        // What is wrong with it is not told: that would quote it.
        let location = normalise(&envelope.location, false);
        if !location.is_ok_and(|location| location == envelope.location) {
            return refused(
                "its location is none, carries a login, or is spelled otherwise than squire spells it",
            );
        }
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        if !envelope.path.split('/').all(is_part) {
            return refused("its table is no path below its location");
        }
        let fragments: BTreeSet<&u64> = envelope.work.fragments.iter().collect();
        if fragments.is_empty() || fragments.len() != envelope.work.fragments.len() {
            return refused("it has no fragments, or one of them twice");
        }
        if !envelope.knows_options(bytes) {
            return refused("its options have fields that this release does not know");
        }
        Ok(envelope)
    }

    /// Whether nothing of the options in `bytes` was passed over: Lance reads what it knows of them.
    fn knows_options(&self, bytes: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Options {
            options: serde_json::Map<String, serde_json::Value>,
        }
        let Ok(Options { options }) = serde_json::from_slice(bytes) else {
            return false;
        };
        let known = serde_json::to_value(&self.options);
        known.is_ok_and(|known| options.keys().all(|name| known.get(name).is_some()))
    }
}

/// Refuses what a newer squire or another release of Lance wrote, before anything else of it is believed.
pub(super) fn check_release(bytes: &[u8], what: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
        #[serde(default)]
        lance: String,
    }
    if bytes.len() > MOST_BYTES {
        let most = MOST_BYTES >> 20;
        return Err(Error::invalid(format!(
            "this is not {what}: it has more than {most} MiB"
        )));
    }
    let Versioned { format, lance } =
        serde_json::from_slice(bytes).map_err(|e| not_one(what, &e))?;
    if format > FORMAT {
        let newer = format!(
            "{what} has format {format}, this squire reads up to {FORMAT}; upgrade squire where it is executed"
        );
        return Err(Error::new(ErrorKind::FormatTooNew, newer));
    }
    let ours = lance_release();
    if lance != ours {
        let quoted = crate::error::quoted(&lance);
        let other = format!(
            "{what} was written with Lance {quoted}, and this squire has Lance {ours}; run the same release of squire on both sides"
        );
        return Err(Error::new(ErrorKind::Refused, other));
    }
    Ok(())
}

/// The error of serde quotes what it met, which may be a secret: only where it stands is told.
fn not_one(what: &str, error: &serde_json::Error) -> Error {
    let why = match error.classify() {
        serde_json::error::Category::Eof => "it is cut off",
        serde_json::error::Category::Data => "a field is missing, unknown or of another type",
        serde_json::error::Category::Io | serde_json::error::Category::Syntax => "it is no JSON",
    };
    let (line, column) = (error.line(), error.column());
    Error::invalid(format!(
        "this is not {what}: {why} (line {line}, column {column})"
    ))
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
