//! Why an entry was rejected, for programs: what its text says for people, in fields.

use crate::input::Place;
use serde::{Deserialize, Serialize};
use squire_engine::error::{Error, ErrorKind};

/// Version of the record; one that is newer is shown as far as it is understood.
const FORMAT_VERSION: u32 = 1;

/// What stands in `<name>.reason.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reason {
    /// Version of this record.
    pub(crate) format_version: u32,
    /// The name that the entry had in `incoming`.
    pub(crate) entry: String,
    /// In one word: format, unreadable, empty, limit, damaged, value, columns, settings, name, layout, table, stale, killed or refused.
    pub(crate) cause: String,
    /// In words, as the text beside it.
    pub(crate) reason: String,
    /// What it is about, as far as that is one.
    pub(crate) table: Option<String>,
    /// The file, by its name in the entry.
    pub(crate) file: Option<String>,
    /// From 1, for texts.
    pub(crate) line: Option<u64>,
    /// From 1, for files without lines.
    pub(crate) row: Option<u64>,
    /// The column, as the file calls it.
    pub(crate) column: Option<String>,
    /// When, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// How many attempts had begun without an answer, the last one included.
    pub(crate) attempts: u32,
    /// The operation that was to commit it; it never will.
    pub(crate) operation: String,
}

/// What is known of a rejection beside its error.
#[derive(Debug)]
pub(super) struct Rejection<'a> {
    pub(super) entry: String,
    pub(super) operation: String,
    pub(super) attempts: u32,
    pub(super) time_ms: u64,
    /// The reason in words.
    pub(super) text: &'a str,
}

impl Reason {
    /// The record of a rejection for `error`.
    pub(super) fn new(error: &Error, rejection: Rejection<'_>) -> Self {
        let place = error.attached::<Place>().cloned().unwrap_or_default();
        let Place {
            cause,
            table,
            file,
            line,
            row,
            column,
        } = place;
        let cause = cause.unwrap_or(match error.kind() {
            ErrorKind::NotFound => "table",
            ErrorKind::Stale => "stale",
            _ => "refused",
        });
        Self {
            format_version: FORMAT_VERSION,
            entry: rejection.entry,
            cause: cause.to_owned(),
            reason: rejection.text.to_owned(),
            table,
            file,
            line,
            row,
            column,
            time_ms: rejection.time_ms,
            attempts: rejection.attempts,
            operation: rejection.operation,
        }
    }

    /// As it is written.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
