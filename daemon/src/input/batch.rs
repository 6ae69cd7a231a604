//! A spool entry -> what it asks the store to do. Nothing here opens a data file.
//!
//! An entry is a file `<table>.<anything>.<ext>`, which is appended to its table, or a directory, which is one atomic commit: data files of
//! that same form, and optionally a `batch.toml` that says how each table is changed. What people and tools leave beside data
//! (`_SUCCESS`, checksums, notes, older copies, hidden files) is passed over.
//!
//! ```toml
//! message = "nightly load"
//! batch_id = "2026-10-01"
//!
//! [tables.orders]
//! mode = "merge"          # append (default) | merge | insert | update | delete | overwrite | replace
//! key = "id"              # merge, insert, update, delete: the column, or several: ["region", "id"]; not if the table has one
//!
//! schema = "add"          # append, merge, insert, update: strict (default) | add | widen the table's columns with the rows
//! coerce = ["trim"]       # what may be changed of values: trim, null, whole, dates-dmy, dates-mdy
//! [tables.orders.columns]
//! id = "Order No."        # what a column of the table is called in the files
//! [tables.orders.defaults]
//! plant = 7               # what stands in a column that a file, or an object of it, does not have
//!
//! [tables.sessions]
//! mode = "delete"
//! where = "day < '2026-01-01'"    # needs no file
//!
//! [tables.prices]
//! mode = "overwrite"
//! allow_empty = true      # overwrite, replace: also by files without rows
//!
//! [tables.days]
//! mode = "replace"        # the rows of the files come for those that `where` selects, and lie in that slice themselves
//! where = "day = '2026-01-01'"
//!
//! [require]
//! orders = 812            # only if this table is what it was in the snapshot at manifest version 812
//! ```
//!
//! A merge replaces the rows whose key is there and adds the others; an insert only adds, an update only replaces. A delete with
//! files deletes the rows with their keys.

mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Named, is_log, shown};
use crate::config::SchemaChange;
use crate::formats::{Format, FormatError, Shape};
use settings::Settings;
use squire_engine::commit::When;
use squire_engine::ids::Key;

/// The file of a batch directory that says what to do with the others.
pub(crate) const BATCH_FILE: &str = "batch.toml";

/// Bytes of the longest message: some paragraphs. Every log and every answer that shows a commit has all of it.
const LONGEST_MESSAGE: usize = 4096;

/// Longest table name. Long enough for any naming scheme, short enough that a path of a table stays below every filesystem's limit.
const LONGEST_TABLE_NAME: usize = 128;

/// One atomic commit, as its producer described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchSpec {
    /// The entry's file name, for messages.
    pub(crate) name: String,
    /// What to do, sorted by table; never empty.
    pub(crate) tables: Vec<TableInput>,
    /// For the commit log.
    pub(crate) message: Option<String>,
    /// The producer's own id of this batch, under which the store accepts it at most once.
    pub(crate) batch_id: Option<String>,
    /// Tables that must be what they were in the snapshot at this manifest version.
    pub(crate) require: BTreeMap<String, u64>,
}

/// What a batch does to one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableInput {
    /// The table.
    pub(crate) table: String,
    /// How its rows are changed.
    pub(crate) mode: Mode,
    /// The rows, sorted by file name; empty only for [`Mode::DeleteWhere`].
    pub(crate) files: Vec<PathBuf>,
    /// How the columns of the files become the table's.
    pub(crate) shape: Shape,
    /// Whether the batch says what may be changed of values; otherwise the agent's setting does.
    pub(crate) says_coerce: bool,
    /// What may be changed of the table's columns; `None`: what the agent's setting says.
    pub(crate) schema: Option<SchemaChange>,
}

/// How the rows of a batch change a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Adds the rows.
    Append,
    /// Replaces the rows with the same key, adds the others, or both.
    Merge {
        /// The key; `None` = the table's own.
        key: Option<Key>,
        /// Which of the rows count.
        when: When,
    },
    /// Deletes the rows whose key is among those of the files.
    DeleteByKey {
        /// The key; `None` = the table's own.
        key: Option<Key>,
    },
    /// Deletes the rows for which the predicate holds.
    DeleteWhere {
        /// A SQL expression over the table's columns.
        predicate: String,
    },
    /// Replaces all rows.
    Overwrite {
        /// Also by none.
        allow_empty: bool,
    },
    /// Replaces the rows for which the predicate holds, by others for which it does.
    Replace {
        /// A SQL expression over the table's columns.
        predicate: String,
        /// Also by none.
        allow_empty: bool,
    },
}

/// An entry does not describe a batch. Its producer must correct it; trying again is of no use, except after [`BatchError::Io`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// The entry cannot be read.
    #[error(
        "{}: cannot be read: {source}; check that it exists and its permissions",
        shown(path)
    )]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A data file has no supported extension.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The name of a file does not begin with the name of a table.
    #[error(
        "{}: `{table}` is no table name; name files `<table>.<anything>.<ext>`, the table from {TABLE_NAME_RULE}",
        shown(path)
    )]
    TableName {
        /// The file.
        path: PathBuf,
        /// What stands there.
        table: String,
    },
    /// Something else than a plain file is where data is expected.
    #[error("{}: {detail}", shown(path))]
    Layout {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        detail: &'static str,
    },
    /// `batch.toml` is not valid TOML, or has an unknown key or value.
    #[error("{}:{line}: {detail}", shown(path))]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong; names the key.
        detail: String,
    },
    /// `batch.toml` asks for something that makes no sense.
    #[error("{}:{line}: {key}: {detail}", shown(path))]
    Setting {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key with its tables, e.g. `tables.orders.where`.
        key: String,
        /// What is wrong and what to do.
        detail: String,
    },
}

/// The rule of [`is_table_name`] in words.
const TABLE_NAME_RULE: &str =
    "letters, digits, `_` and `-`, beginning with a letter or `_`, at most 128";

/// Whether a table may have this name: `[A-Za-z_][A-Za-z0-9_-]{0,127}`. It becomes a directory name and part of an object key, so
/// nothing that a filesystem, a URL or a shell would treat specially is allowed.
pub(crate) fn is_table_name(name: &str) -> bool {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let continues_well = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    starts_well && continues_well && name.len() <= LONGEST_TABLE_NAME
}

impl TableInput {
    fn append(table: String, files: Vec<PathBuf>) -> Self {
        Self {
            table,
            mode: Mode::Append,
            files,
            shape: Shape::default(),
            says_coerce: false,
            schema: None,
        }
    }
}

impl BatchSpec {
    /// Whether it only appends and reads nothing: such batches may be committed together.
    pub(crate) fn only_appends(&self) -> bool {
        self.require.is_empty() && self.tables.iter().all(|t| t.mode == Mode::Append)
    }

    /// Reads the entry at `path`: a data file, or a directory of them.
    pub(crate) fn parse(path: &Path) -> Result<Self, BatchError> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let kind = fs::metadata(path).map_err(io_error(path))?;
        if kind.is_dir() {
            return parse_directory(name, path);
        }
        let table = table_of(path, &kind)?;
        let input = TableInput::append(table, vec![path.to_path_buf()]);
        Ok(Self {
            name,
            tables: vec![input],
            message: None,
            batch_id: None,
            require: BTreeMap::new(),
        })
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BatchError {
    move |source| BatchError::Io {
        path: path.to_path_buf(),
        source,
    }
}

fn parse_directory(name: String, dir: &Path) -> Result<BatchSpec, BatchError> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut settings = None;
    let paths: io::Result<Vec<PathBuf>> =
        fs::read_dir(dir).and_then(|all| all.map(|entry| Ok(entry?.path())).collect());
    let mut paths = paths.map_err(io_error(dir))?;
    paths.sort();
    for path in paths {
        let file_name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let kind = fs::metadata(&path).map_err(io_error(&path))?;
        if file_name == BATCH_FILE && kind.is_file() {
            settings = Some(Settings::read(path)?);
            continue;
        }
        if Named::inside(&path, kind.is_dir()) == Named::Beside {
            continue;
        }
        files.entry(table_of(&path, &kind)?).or_default().push(path);
    }

    let mut tables = Vec::new();
    let (mut message, mut batch_id, mut require) = (None, None, BTreeMap::new());
    if let Some(settings) = settings {
        (message, batch_id) = (
            settings.text("message", &settings.file.message)?,
            settings.text("batch_id", &settings.file.batch_id)?,
        );
        if let Some(message) = &settings.file.message
            && message.as_ref().len() > LONGEST_MESSAGE
        {
            let detail = format!("is longer than {LONGEST_MESSAGE} bytes; shorten it");
            return settings.refuse(message.span(), "message".to_owned(), detail);
        }
        require = settings.require()?;
        for (table, setting) in &settings.file.tables {
            let files = files.remove(table.as_ref()).unwrap_or_default();
            let mode = settings.mode(table, setting, &files)?;
            tables.push(TableInput {
                table: table.as_ref().clone(),
                mode,
                shape: settings.shape(table, setting, &files)?,
                says_coerce: setting.coerce.is_some(),
                schema: settings.schema(table, setting)?,
                files,
            });
        }
    }
    let others = files.into_iter();
    tables.extend(others.map(|(table, files)| TableInput::append(table, files)));
    tables.sort_by(|a, b| a.table.cmp(&b.table));
    if tables.is_empty() {
        let detail = "holds no data file; put one file per table into it before it is renamed into the spool";
        return Err(BatchError::Layout {
            path: dir.to_path_buf(),
            detail,
        });
    }
    Ok(BatchSpec {
        name,
        tables,
        message,
        batch_id,
        require,
    })
}

/// The table that a data file is for: its name up to the first dot. The extension must be one that can be read.
fn table_of(path: &Path, kind: &fs::Metadata) -> Result<String, BatchError> {
    let layout = |detail| {
        Err(BatchError::Layout {
            path: path.to_path_buf(),
            detail,
        })
    };
    if kind.is_dir() && path.file_name().is_some_and(is_log) {
        return layout(
            "is the log of a table in another format, which alone says what files beside it count; put the rows of the table, as files of their own, into a batch",
        );
    }
    if kind.is_dir() {
        return layout("is a directory inside a batch; put its files into the batch itself");
    }
    if !kind.is_file() {
        return layout("is neither a file nor a directory; replace it by a data file");
    }
    let file_name = path.file_name().unwrap_or_default();
    if Named::of(file_name, false) == Named::Unfinished {
        return layout(
            "is still being written; rename the batch into the spool only when all of its files are whole",
        );
    }
    let name = file_name.to_string_lossy();
    let table = name.split('.').next().unwrap_or_default();
    if !is_table_name(table) {
        return Err(BatchError::TableName {
            path: path.to_path_buf(),
            table: table.to_owned(),
        });
    }
    Format::of(path)?;
    Ok(table.to_owned())
}
