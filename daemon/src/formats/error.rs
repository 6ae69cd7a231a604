//! What can be wrong with an input file, in words for whoever made it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::Format;

/// An input file (or its rows) cannot be used. Every message names the file where there is one, and says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    /// The name says no supported format.
    #[error("{}: unsupported extension; rename it to one of {}", path.display(), Format::EXTENSIONS)]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("{}: cannot be read: {source}; check that it exists and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The bytes are not what the extension says. `detail` is the reader's own message, with a line where it knows one.
    #[error("{}: {detail}; correct the file, or write it again if it is incomplete or has the wrong extension", Place(path, *line))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where it is known apart from `detail`.
        line: Option<u64>,
        /// What the reader says.
        detail: String,
    },
    /// A column that the table does not have.
    #[error("{}: column `{column}` ({found}) is not in the table, which has {expected}; remove or rename it", path.display())]
    UnknownColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type in the file.
        found: String,
        /// The table's columns.
        expected: String,
    },
    /// A required column of the table is not in the file.
    #[error("{}: required column `{column}` ({expected}) is missing; add it", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type in the table.
        expected: String,
    },
    /// Two columns of the file have one name.
    #[error("{}: column `{column}` appears more than once; rename or remove one", path.display())]
    RepeatedColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// No lossless cast exists between the two types.
    #[error("{}: column `{column}` is {found}, but the table has {expected}; write it with the table's type", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type in the file.
        found: String,
        /// Its type in the table.
        expected: String,
    },
    /// A cast exists, but this value would not survive it.
    #[error("{}: column `{column}`, row {row}: {value} does not fit the table's type; write it with the table's type", path.display())]
    Lossy {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The first such row, from 1, header not counted.
        row: usize,
        /// The value and both types.
        value: String,
    },
    /// A required column holds a null.
    #[error("{}: required column `{column}` is null or missing in row {row}; give it a value", path.display())]
    Null {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The first such row, from 1, header not counted.
        row: usize,
    },
    /// A `--schema` file that does not describe a schema.
    #[error("{}: {detail}", Place(path, *line))]
    SchemaFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where it is known.
        line: Option<u64>,
        /// What is wrong and what to do.
        detail: String,
    },
}

impl FormatError {
    /// The reader refused the file.
    pub(super) fn content(path: &Path, cause: &impl fmt::Display) -> Self {
        Self::Content {
            path: path.into(),
            line: None,
            detail: cause.to_string(),
        }
    }
}

/// `file` or `file:line`, the form that editors and terminals make clickable.
struct Place<'a>(&'a Path, Option<u64>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())?;
        match self.1 {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}
