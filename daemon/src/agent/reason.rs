//! Why an entry was rejected, for programs: what its text says for people, in fields.

use super::batch::{BATCH_FILE, BatchError};
use crate::formats::FormatError;
use serde::{Deserialize, Serialize};
use squire_engine::error::{Error, ErrorKind};
use std::path::Path;

/// Version of the record; one that is newer is shown as far as it is understood.
const FORMAT_VERSION: u32 = 1;

/// The cause of what cannot be read: nothing may be wrong with it.
const UNREADABLE: &str = "unreadable";

/// The cause of what is wrong with a `batch.toml`.
const SETTINGS: &str = "settings";

/// What is wrong, and where; attached to the error that says so in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    cause: Option<&'static str>,
    table: Option<String>,
    file: Option<String>,
    line: Option<u64>,
    row: Option<u64>,
    column: Option<String>,
}

impl Place {
    /// The column that it is about, as the file calls it.
    pub(super) fn names_column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// Agents died over it.
    pub(super) fn killed() -> Self {
        Self {
            cause: Some("killed"),
            ..Self::default()
        }
    }

    /// The same, about a table.
    pub(super) fn of_table(self, table: &str) -> Self {
        Self {
            table: Some(table.to_owned()),
            ..self
        }
    }

    /// Whether it is about what somebody asked for, and no data file.
    pub(super) fn is_of_settings(&self) -> bool {
        self.cause == Some(SETTINGS)
    }

    /// Whether a file could not be read.
    pub(super) fn is_unreadable(&self) -> bool {
        self.cause == Some(UNREADABLE)
    }

    /// About what cannot be read.
    pub(super) fn unreadable(path: &Path) -> Self {
        Self::at(UNREADABLE, path)
    }

    fn at(cause: &'static str, path: &Path) -> Self {
        let file = path.file_name().map(super::spool::shown);
        Self {
            cause: Some(cause),
            file,
            ..Self::default()
        }
    }

    fn line(self, line: Option<u64>) -> Self {
        Self { line, ..self }
    }

    fn row(self, row: usize) -> Self {
        Self {
            row: Some(row as u64),
            ..self
        }
    }

    fn column(self, column: &str) -> Self {
        Self {
            column: Some(column.to_owned()),
            ..self
        }
    }
}

impl From<&FormatError> for Place {
    fn from(error: &FormatError) -> Self {
        use FormatError as E;
        match error {
            E::Extension { path } | E::Unrecognised { path } | E::Unsupported { path, .. } => {
                Self::at("format", path)
            }
            E::Io { path, .. } | E::NotAFile { path, .. } => Self::unreadable(path),
            E::Empty { path } => Self::at("empty", path),
            E::Limit { path, .. } => Self::at("limit", path),
            E::Content { path, line, .. } => Self::at("damaged", path).line(*line),
            E::Value {
                path, line, column, ..
            } => Self::at("value", path).line(Some(*line)).column(column),
            E::Lossy {
                path, column, row, ..
            }
            | E::Damaged {
                path, column, row, ..
            }
            | E::NoJson { path, column, row }
            | E::Null { path, column, row } => Self::at("value", path).row(*row).column(column),
            E::Stopped => Self::default(),
            E::Unnamed { path, .. } => Self::at("columns", path),
            E::UnknownColumn {
                path, line, column, ..
            }
            | E::Mapped {
                path, line, column, ..
            } => Self::at("columns", path).line(*line).column(column),
            E::Incomplete {
                path,
                line,
                columns,
                ..
            } => {
                let first = columns.first().map_or("", String::as_str);
                Self::at("columns", path).line(*line).column(first)
            }
            E::Untyped { path, column, .. }
            | E::MissingColumn { path, column, .. }
            | E::RepeatedColumn { path, column }
            | E::Type { path, column, .. } => Self::at("columns", path).column(column),
            E::SchemaFile { path, line, .. } => Self::at(SETTINGS, path).line(*line),
            E::Setting { column, line, .. } => Self {
                cause: Some(SETTINGS),
                file: line.map(|_| BATCH_FILE.to_owned()),
                ..Self::default()
            }
            .line(*line)
            .column(column),
        }
    }
}

impl From<&BatchError> for Place {
    fn from(error: &BatchError) -> Self {
        use BatchError as E;
        match error {
            E::Format(error) => error.into(),
            E::Io { path, .. } => Self::unreadable(path),
            E::TableName { path, .. } => Self::at("name", path),
            E::Layout { path, .. } => Self::at("layout", path),
            E::Toml { path, line, .. } | E::Setting { path, line, .. } => {
                Self::at(SETTINGS, path).line(Some(*line as u64))
            }
        }
    }
}

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
