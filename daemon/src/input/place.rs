//! Where in an input something is wrong, in fields; attached to the error that says so in words.

use super::batch::{BATCH_FILE, BatchError};
use crate::formats::FormatError;
use std::path::Path;

/// The cause of what cannot be read: nothing may be wrong with it.
const UNREADABLE: &str = "unreadable";

/// The cause of what is wrong with a `batch.toml`.
const SETTINGS: &str = "settings";

/// The cause of what is beyond a limit.
const LIMIT: &str = "limit";

/// What is wrong, and where; attached to the error that says so in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) cause: Option<&'static str>,
    pub(crate) table: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u64>,
    pub(crate) row: Option<u64>,
    pub(crate) column: Option<String>,
}

impl Place {
    /// The column that it is about, as the file calls it.
    pub(crate) fn names_column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// Agents died over it.
    pub(crate) fn killed() -> Self {
        Self {
            cause: Some("killed"),
            ..Self::default()
        }
    }

    /// Something is beyond a limit.
    pub(crate) fn limit() -> Self {
        Self {
            cause: Some(LIMIT),
            ..Self::default()
        }
    }

    /// Whether something is.
    pub(crate) fn is_of_limit(&self) -> bool {
        self.cause == Some(LIMIT)
    }

    /// The same, about a table.
    pub(crate) fn of_table(self, table: &str) -> Self {
        Self {
            table: Some(table.to_owned()),
            ..self
        }
    }

    /// Whether it is about what somebody asked for, and no data file.
    pub(crate) fn is_of_settings(&self) -> bool {
        self.cause == Some(SETTINGS)
    }

    /// Whether a file could not be read.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.cause == Some(UNREADABLE)
    }

    /// About what cannot be read.
    pub(crate) fn unreadable(path: &Path) -> Self {
        Self::at(UNREADABLE, path)
    }

    fn at(cause: &'static str, path: &Path) -> Self {
        let file = path.file_name().map(super::shown);
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
            E::Limit { path, .. } => Self::at(LIMIT, path),
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
