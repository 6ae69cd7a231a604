//! `batch.toml`: what it may say, and where it says what makes no sense.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;

use super::{BatchError, Mode, TABLE_NAME_RULE, io_error, is_table_name, shown};
use crate::config::SchemaChange;
use crate::formats::{Coercion, Given, Setting, Shape, check_coercions};
use squire_engine::commit::When;
use squire_engine::ids::Key;

/// Largest `batch.toml`: far more than any list of tables needs, and little enough to be read whole. A larger one is refused.
const BATCH_FILE_BYTES: u64 = 1024 * 1024;

/// `batch.toml` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchFile {
    pub(super) message: Option<Spanned<String>>,
    pub(super) batch_id: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) tables: BTreeMap<Spanned<String>, TableSetting>,
    #[serde(default)]
    require: BTreeMap<Spanned<String>, u64>,
}

/// One `[tables.NAME]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableSetting {
    #[serde(default)]
    mode: ModeName,
    key: Option<Spanned<KeySetting>>,
    r#where: Option<Spanned<String>>,
    allow_empty: Option<Spanned<bool>>,
    schema: Option<Spanned<SchemaChange>>,
    pub(super) coerce: Option<Spanned<Vec<Coercion>>>,
    #[serde(default)]
    columns: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    defaults: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    /// As [`Self::defaults`], of columns that are null: TOML has no word for it.
    #[serde(default)]
    nulls: Vec<Spanned<String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeName {
    #[default]
    Append,
    Merge,
    Insert,
    Update,
    Delete,
    Overwrite,
    Replace,
}

impl ModeName {
    fn uses_key(self) -> bool {
        matches!(
            self,
            Self::Merge | Self::Insert | Self::Update | Self::Delete
        )
    }

    fn uses_where(self) -> bool {
        matches!(self, Self::Delete | Self::Replace)
    }

    fn changes_schema(self) -> bool {
        matches!(
            self,
            Self::Append | Self::Merge | Self::Insert | Self::Update
        )
    }

    fn allows_empty(self) -> bool {
        matches!(self, Self::Overwrite | Self::Replace)
    }
}

/// A key as written.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected the name of a column, or a list of such names"
)]
enum KeySetting {
    One(String),
    Several(Vec<String>),
}

/// A `batch.toml` with its text, by which errors find their line.
#[derive(Debug)]
pub(super) struct Settings {
    path: PathBuf,
    text: String,
    pub(super) file: BatchFile,
}

impl Settings {
    pub(super) fn read(path: PathBuf) -> Result<Self, BatchError> {
        let text = read_text(&path)?;
        match toml::from_str(&text) {
            Ok(file) => Ok(Self { path, text, file }),
            Err(e) => {
                let line = line_of(&text, e.span().unwrap_or_default());
                Err(BatchError::Toml {
                    path,
                    line,
                    detail: e.message().to_owned(),
                })
            }
        }
    }

    pub(super) fn refuse<T>(
        &self,
        span: Range<usize>,
        key: String,
        detail: impl Into<String>,
    ) -> Result<T, BatchError> {
        let line = line_of(&self.text, span);
        Err(BatchError::Setting {
            path: self.path.clone(),
            line,
            key,
            detail: detail.into(),
        })
    }

    /// A text that must say something if it is there.
    pub(super) fn text(
        &self,
        key: &str,
        value: &Option<Spanned<String>>,
    ) -> Result<Option<String>, BatchError> {
        match value {
            Some(text) if text.as_ref().trim().is_empty() => self.refuse(
                text.span(),
                key.to_owned(),
                "is empty; give it a value or remove it",
            ),
            Some(text) => Ok(Some(text.as_ref().clone())),
            None => Ok(None),
        }
    }

    /// The mode of one table, with the checks that need its files.
    pub(super) fn mode(
        &self,
        table: &Spanned<String>,
        setting: &TableSetting,
        files: &[PathBuf],
    ) -> Result<Mode, BatchError> {
        let at = format!("tables.{}", table.as_ref());
        if !is_table_name(table.as_ref()) {
            return self.refuse(
                table.span(),
                at,
                format!("is no table name; use {TABLE_NAME_RULE}"),
            );
        }
        let allow_empty = self.allows_empty(&at, setting)?;
        let key = self.key(&at, setting)?;
        let predicate = self.text(&format!("{at}.where"), &setting.r#where)?;
        if let Some(where_key) = &setting.r#where {
            let refuse = |detail| self.refuse(where_key.span(), format!("{at}.where"), detail);
            if !setting.mode.uses_where() {
                return refuse("is only for the modes delete and replace; remove it");
            }
            if setting.mode == ModeName::Delete && (key.is_some() || !files.is_empty()) {
                return refuse(
                    "deletes by itself; remove it, or remove the key and the files of this table",
                );
            }
        }
        let predicate = match (setting.mode, predicate) {
            (ModeName::Delete, Some(predicate)) => return Ok(Mode::DeleteWhere { predicate }),
            (_, predicate) => predicate,
        };
        if files.is_empty() {
            return self.refuse(
                table.span(),
                at,
                "has no data file in this batch; add one, or remove the section",
            );
        }
        let merge = |key, when| Mode::Merge { key, when };
        Ok(match (setting.mode, predicate) {
            (ModeName::Append, _) => Mode::Append,
            (ModeName::Merge, _) => merge(key, When::Upsert),
            (ModeName::Insert, _) => merge(key, When::Insert),
            (ModeName::Update, _) => merge(key, When::Update),
            (ModeName::Delete, _) => Mode::DeleteByKey { key },
            (ModeName::Overwrite, _) => Mode::Overwrite { allow_empty },
            (ModeName::Replace, Some(predicate)) => Mode::Replace {
                predicate,
                allow_empty,
            },
            (ModeName::Replace, None) => {
                let detail = "needs a where, the slice that its rows replace; add it";
                return self.refuse(table.span(), at, detail);
            }
        })
    }

    /// The key of one table.
    fn key(&self, at: &str, setting: &TableSetting) -> Result<Option<Key>, BatchError> {
        let Some(given) = &setting.key else {
            return Ok(None);
        };
        let at = format!("{at}.key");
        let columns = match given.as_ref() {
            KeySetting::One(column) if column.trim().is_empty() => {
                return self.refuse(given.span(), at, "is empty; give it a value or remove it");
            }
            KeySetting::One(column) => vec![column.clone()],
            KeySetting::Several(columns) => columns.clone(),
        };
        if !setting.mode.uses_key() {
            let detail = "is only for the modes merge, insert, update and delete; remove it";
            return self.refuse(given.span(), at, detail);
        }
        match Key::new(columns) {
            Ok(key) => Ok(Some(key)),
            Err(e) => self.refuse(given.span(), at, e.to_string()),
        }
    }

    /// What may be changed of a table's columns.
    pub(super) fn schema(
        &self,
        table: &Spanned<String>,
        setting: &TableSetting,
    ) -> Result<Option<SchemaChange>, BatchError> {
        match &setting.schema {
            Some(schema) if !setting.mode.changes_schema() => self.refuse(
                schema.span(),
                format!("tables.{}.schema", table.as_ref()),
                "is only for the modes append, merge, insert and update; remove it",
            ),
            schema => Ok(schema.as_ref().map(|schema| *schema.as_ref())),
        }
    }

    /// The snapshots that tables must be unchanged since.
    pub(super) fn require(&self) -> Result<BTreeMap<String, u64>, BatchError> {
        let mut require = BTreeMap::new();
        for (table, snapshot) in &self.file.require {
            if !is_table_name(table.as_ref()) {
                let at = format!("require.{}", table.as_ref());
                let detail = format!("is no table name; use {TABLE_NAME_RULE}");
                return self.refuse(table.span(), at, detail);
            }
            require.insert(table.as_ref().clone(), *snapshot);
        }
        Ok(require)
    }

    /// How the columns of the files become the table's; the table itself is asked when they are read.
    pub(super) fn shape(
        &self,
        table: &Spanned<String>,
        setting: &TableSetting,
        files: &[PathBuf],
    ) -> Result<Shape, BatchError> {
        let at = format!("tables.{}", table.as_ref());
        let coerce = setting.coerce.as_ref();
        let first = coerce.map(|coerce| ("coerce", coerce.span()));
        let columns = setting.columns.keys().map(|k| ("columns", k.span()));
        let defaults = setting.defaults.keys().map(|k| ("defaults", k.span()));
        let nulls = setting.nulls.iter().map(|k| ("nulls", k.span()));
        let mut first = first
            .into_iter()
            .chain(columns)
            .chain(defaults)
            .chain(nulls);
        let first = first.next();
        if let (Some((key, span)), []) = (first, files) {
            let detail = "is about files, and this table has none in the batch; remove it";
            return self.refuse(span, format!("{at}.{key}"), detail);
        }
        if let Some(coerce) = coerce
            && let Err(why) = check_coercions(coerce.as_ref())
        {
            return self.refuse(coerce.span(), format!("{at}.coerce"), why);
        }
        let place = |kind: &str, column: &Spanned<String>| {
            let line = line_of(&self.text, column.span());
            let (path, column) = (shown(&self.path), shown(column.as_ref()));
            let at = format!("{path}:{line}: {at}.{kind}.{column}");
            (at, Some(line as u64))
        };
        let columns = setting.columns.iter().map(|(column, source)| {
            let (at, line) = place("columns", column);
            Setting {
                at,
                line,
                column: column.as_ref().clone(),
                value: source.as_ref().clone(),
            }
        });
        let defaults = setting.defaults.iter().map(|(column, value)| {
            let (at, line) = place("defaults", column);
            Setting {
                at,
                line,
                column: column.as_ref().clone(),
                value: value.as_ref().into(),
            }
        });
        let nulls = setting.nulls.iter().map(|column| {
            let (at, line) = place("nulls", column);
            Setting {
                at,
                line,
                column: column.as_ref().clone(),
                value: Given::null(),
            }
        });
        Ok(Shape {
            columns: columns.collect(),
            defaults: defaults.chain(nulls).collect(),
            coerce: coerce.map_or_else(Vec::new, |coerce| coerce.as_ref().clone()),
        })
    }

    fn allows_empty(&self, at: &str, setting: &TableSetting) -> Result<bool, BatchError> {
        match &setting.allow_empty {
            Some(allowed) if !setting.mode.allows_empty() => self.refuse(
                allowed.span(),
                format!("{at}.allow_empty"),
                "is only for the modes overwrite and replace; remove it",
            ),
            allowed => Ok(allowed.as_ref().is_some_and(|allowed| *allowed.as_ref())),
        }
    }
}

/// The text of a `batch.toml`.
fn read_text(path: &Path) -> Result<String, BatchError> {
    let refuse = |line, detail| BatchError::Toml {
        path: path.to_path_buf(),
        line,
        detail,
    };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(BATCH_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(io_error(path))?;
    if bytes.len() as u64 > BATCH_FILE_BYTES {
        let detail = format!("is larger than {BATCH_FILE_BYTES} bytes; put rows into data files");
        return Err(refuse(1, detail));
    }
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        refuse(line, "is not UTF-8 text; save it as UTF-8".to_owned())
    })
}

/// The line, from 1, on which a span begins.
fn line_of(text: &str, span: Range<usize>) -> usize {
    1 + text
        .bytes()
        .take(span.start)
        .filter(|byte| *byte == b'\n')
        .count()
}
