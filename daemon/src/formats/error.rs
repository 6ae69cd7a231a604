//! What can be wrong with an input file, in words for whoever made it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::{Format, limits::Exceeded};

/// Characters of a value that a message quotes: enough to find it, too few for a log to hold what users store.
const VALUE_CHARS: usize = 40;

/// Characters of a name, a type or a reader's own message.
const DETAIL_CHARS: usize = 200;

/// An input file (or its rows) cannot be used. Every message names the file where there is one, and says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    /// The name says no supported format.
    #[error(
        "{}: unsupported extension; rename it to one of {}",
        Shown(path),
        Format::EXTENSIONS
    )]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// Nobody says what comes on standard input, and its first bytes do not either.
    #[error("{}: its format is not known; name it with --format", Shown(path))]
    Unrecognised {
        /// What it is called.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error(
        "{}: cannot be read: {source}; check that it exists and its permissions",
        Shown(path)
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Something else than a regular file.
    #[error(
        "{}: is {kind}, not a regular file; write the rows to a file first",
        Shown(path)
    )]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Nothing: not even a header. Whoever meant no rows would have said so.
    #[error("{}: is empty; write it again, or leave it out", Shown(path))]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// More than we are willing to hold.
    #[error("{}: {exceeded}; split the file, or raise the limit", Shown(path))]
    Limit {
        /// The file.
        path: PathBuf,
        /// Which limit.
        exceeded: Exceeded,
    },
    /// Whoever takes the rows wants no more of them, and knows why.
    #[error("the rest of the rows is not wanted")]
    Stopped,
    /// The bytes are not what the extension says. `detail` is the reader's own message, with a line where it knows one.
    #[error("{}: {}; correct the file, or write it again if it is incomplete or has the wrong extension", Place(path, *line), short(detail))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where it is known apart from `detail`.
        line: Option<u64>,
        /// What the reader says.
        detail: String,
    },
    /// A value of a text that its column does not take exactly as it is.
    #[error("{}: column `{}` ({}): {}", Place(path, Some(*line)), short(column), short(expected), short(detail))]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, and where in it: `a.b[3]`.
        column: String,
        /// The column's type.
        expected: String,
        /// The value, shortened, and what is wrong with it.
        detail: String,
    },
    /// A column whose values are more than one field holds.
    #[error(
        "{}: column `{}` is {}, for which CSV has no text; write NDJSON, Parquet or Arrow, or leave it out",
        Shown(path),
        short(column),
        short(expected)
    )]
    Untyped {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type in the table.
        expected: String,
    },
    /// A column, or a field of a struct, has no name.
    #[error(
        "{}: column {number}{} has no name; name it",
        Shown(path),
        within(outer)
    )]
    Unnamed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        /// The column that it is a field of; empty for a column.
        outer: String,
    },
    /// A way to write that we do not read. Nothing is wrong with the file.
    #[error("{}: {detail}", Shown(path))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is and what to do.
        detail: String,
    },
    /// A value that the column's own type does not have.
    #[error(
        "{}: column `{}`, row {row}: the value is damaged, it is out of the range of its type ({}); write the file again",
        Shown(path),
        short(column),
        short(found)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The first such row, from 1.
        row: usize,
        /// The column's type.
        found: String,
    },
    /// A value of a column of JSON that is not written as Lance keeps JSON.
    #[error(
        "{}: column `{}`, row {row}: the value is no JSONB, as which the table keeps JSON (lance.json), and nobody could read it; write it as JSONB, not as text",
        Shown(path),
        short(column)
    )]
    NoJson {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The first such row, from 1.
        row: usize,
    },
    /// A column of the file that the table has, and takes from another one.
    #[error(
        "{}: column `{}` of the table is read from `{}`{}",
        Place(path, *line),
        short(column),
        short(source_name),
        if *is_there { ", and the file's own has no place; remove or rename it" } else { ", which is not there; map it to a column that is" }
    )]
    Mapped {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where each has names of its own.
        line: Option<u64>,
        /// The column, as file and table call it.
        column: String,
        /// Where the table's is read from.
        source_name: String,
        /// Whether the file has that one.
        is_there: bool,
    },
    /// A column that the table does not have.
    #[error("{}: column `{}`{} is not in the table, which has {}; remove or rename it", Place(path, *line), short(column), in_brackets(found), short(expected))]
    UnknownColumn {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where each has names of its own.
        line: Option<u64>,
        /// The column.
        column: String,
        /// Its type in the file; empty for texts, which have none.
        found: String,
        /// The table's columns.
        expected: String,
    },
    /// A required column of the table is not in the file.
    #[error(
        "{}: required column `{}` ({}) is missing; add it",
        Shown(path),
        short(column),
        short(expected)
    )]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type in the table.
        expected: String,
    },
    /// Rows to merge, or one of them, lack columns of the table.
    #[error(
        "{}: lacks {} of table {table}, which a merge would make null in the rows that it updates; write it, as null where that is meant, or say what stands in for it: --default {}=VALUE, or [tables.{table}.defaults] in batch.toml",
        Place(path, *line),
        listed(columns),
        short(default)
    )]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where each has columns of its own.
        line: Option<u64>,
        /// The columns as the file would call them; at least one.
        columns: Vec<String>,
        /// The table.
        table: String,
        /// The first of the columns as the table calls it.
        default: String,
    },
    /// Two columns of the file have one name.
    #[error(
        "{}: column `{}` appears more than once; rename or remove one",
        Shown(path),
        short(column)
    )]
    RepeatedColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// No lossless cast exists between the two types.
    #[error(
        "{}: column `{}` is {}, but the table has {}; write it with the table's type",
        Shown(path),
        short(column),
        short(found),
        short(expected)
    )]
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
    #[error(
        "{}: column `{}`, row {row}: {} does not fit the table's type ({}); write it with the table's type",
        Shown(path),
        short(column),
        quoted(value),
        short(types)
    )]
    Lossy {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The first such row, from 1.
        row: usize,
        /// The value.
        value: String,
        /// Its type and the table's.
        types: String,
    },
    /// A required column holds a null.
    #[error(
        "{}: required column `{}` is null in row {row}; give it a value",
        Shown(path),
        short(column)
    )]
    Null {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The first such row, from 1.
        row: usize,
    },
    /// What was asked of the columns does not go with the table.
    #[error("{at}: {detail}")]
    Setting {
        /// Where that stands.
        at: String,
        /// The column that it is about.
        column: String,
        /// The line, where it stands in a file.
        line: Option<u64>,
        /// What is wrong and what to do.
        detail: String,
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

    /// The reader refused what the file holds of a column, or of it knows not which.
    pub(super) fn content_of(path: &Path, column: Option<&str>, cause: &impl fmt::Display) -> Self {
        match column {
            Some(column) => Self::content(path, &format!("column {}: {cause}", named(column))),
            None => Self::content(path, cause),
        }
    }

    /// The file is written in a way that we do not read.
    pub(super) fn unsupported(path: &Path, detail: impl Into<String>) -> Self {
        Self::Unsupported {
            path: path.into(),
            detail: detail.into(),
        }
    }

    /// The file is beyond a limit.
    pub(super) fn limit(path: &Path) -> impl Fn(Exceeded) -> Self + '_ {
        move |exceeded| Self::Limit {
            path: path.into(),
            exceeded,
        }
    }
}

/// A text of someone else's, about `chars` characters of it. Control characters are escaped: they move cursors and forge
/// lines. What is shown is counted: an escaped one takes six.
fn shortened(text: &str, chars: usize) -> String {
    let (mut shown, mut room) = (String::new(), chars);
    for c in text.chars() {
        if room == 0 {
            shown.push_str("...");
            break;
        }
        if c.is_control() {
            let escaped = c.escape_default();
            room = room.saturating_sub(escaped.len());
            shown.extend(escaped);
        } else {
            room -= 1;
            shown.push(c);
        }
    }
    shown
}

/// A value, a few characters of it.
pub(super) fn quoted(value: &str) -> String {
    format!("\"{}\"", shortened(value, VALUE_CHARS))
}

/// A name, the beginning of it.
pub(super) fn named(name: &str) -> String {
    format!("`{}`", shortened(name, VALUE_CHARS))
}

/// Names, the first of them.
fn listed(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| named(name)).collect();
    short(&names.join(", "))
}

/// What another program says, the beginning of it.
pub(super) fn short(text: &str) -> String {
    shortened(text, DETAIL_CHARS)
}

fn within(outer: &str) -> String {
    if outer.is_empty() {
        String::new()
    } else {
        format!(" of `{}`", short(outer))
    }
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(" ({})", short(text))
    }
}

/// A path without control characters.
#[derive(Debug)]
pub(crate) struct Shown<'a>(pub(crate) &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shortened(&self.0.to_string_lossy(), usize::MAX))
    }
}

/// `file` or `file:line`, the form that editors and terminals make clickable.
struct Place<'a>(&'a Path, Option<u64>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Shown(self.0))?;
        match self.1 {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}
