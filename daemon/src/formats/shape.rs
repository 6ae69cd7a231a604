//! How an input's columns become those of its table, where they are not the same: other names, values that it lacks, values
//! that are written in a way which the table's type does not take.
//!
//! 1. A [`Shape`] is what somebody asked for, by option or in a `batch.toml`; each part knows where it stands.
//! 2. With the table's schema it becomes a [`Reading`], or is refused: nothing of it may be without effect.
//! 3. Readers look for the columns of [`Reading::input`] and give batches of [`Reading::target`]; what they changed on the way is
//!    told as [`Coerced`].

use std::{collections::HashMap, fmt, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, UInt32Array},
    compute::take,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    FormatError,
    conform::column_names,
    error::named,
    text::{Value, one_value},
};

/// What may be changed of a value, because it is asked for. Everything else is taken exactly as it is, or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Coercion {
    /// CSV, NDJSON: blanks around numbers, dates, times and booleans go.
    Trim,
    /// CSV, NDJSON: NULL, null, NA and N/A are null, in columns of texts only where CSV has them without quotes.
    Null,
    /// Parquet, Arrow: whole numbers in a column of floats become the integers of the table. (Texts such as 1.0 always do.)
    Whole,
    /// CSV, NDJSON: dates as 31.12.2026, 31/12/2026 or 31-12-2026.
    DatesDmy,
    /// CSV, NDJSON: dates as 12/31/2026 or 12-31-2026.
    DatesMdy,
}

impl fmt::Display for Coercion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trim => "trim",
            Self::Null => "null",
            Self::Whole => "whole",
            Self::DatesDmy => "dates-dmy",
            Self::DatesMdy => "dates-mdy",
        })
    }
}

/// Refuses two orders of day and month at once: most dates fit both.
pub(crate) fn check_coercions(coercions: &[Coercion]) -> Result<(), &'static str> {
    let both = [Coercion::DatesDmy, Coercion::DatesMdy];
    if both.iter().all(|order| coercions.contains(order)) {
        return Err("dates-dmy and dates-mdy exclude each other; keep one");
    }
    Ok(())
}

/// What was changed of a column's values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Coerced {
    /// The column, as the table calls it.
    pub(crate) column: String,
    /// How.
    pub(crate) coercion: Coercion,
    /// How many values.
    pub(crate) count: u64,
    /// The first of them, as it stood in the input.
    pub(crate) first: String,
    /// Its line, or its row where the input has no lines.
    pub(crate) at: u64,
}

impl fmt::Display for Coerced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            column,
            coercion,
            count,
            first,
            at,
        } = self;
        let place = match coercion {
            Coercion::Whole => "row",
            _ => "line",
        };
        write!(
            f,
            "column {column}: {coercion} changed {count} values, the first {} in {place} {at}",
            super::error::quoted(first)
        )
    }
}

/// A value that somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// On a command line: what it is, the column says. Nothing is null, and `""` a text without letters.
    Field(String),
    /// In TOML.
    Number(String),
    Bool(bool),
    Text(String),
    List(Vec<Given>),
    Object(Vec<(String, Given)>),
}

impl From<&toml::Value> for Given {
    fn from(value: &toml::Value) -> Self {
        match value {
            toml::Value::String(text) => Self::Text(text.clone()),
            toml::Value::Integer(number) => Self::Number(number.to_string()),
            toml::Value::Float(number) => Self::Number(number.to_string()),
            toml::Value::Boolean(value) => Self::Bool(*value),
            toml::Value::Datetime(time) => Self::Text(time.to_string()),
            toml::Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            toml::Value::Table(members) => {
                let members = members.iter();
                Self::Object(members.map(|(k, v)| (k.clone(), v.into())).collect())
            }
        }
    }
}

impl Given {
    pub(crate) fn null() -> Self {
        Self::Field(String::new())
    }

    /// As a file of texts would have it.
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Field(text) => match text.as_str() {
                "" => Value::Null,
                r#""""# => Value::Text("".into()),
                text => Value::Field(text),
            },
            Self::Number(text) => Value::Number(text),
            Self::Bool(value) => Value::Bool(*value),
            Self::Text(text) => Value::Text(text.as_str().into()),
            Self::List(items) => Value::List(items.iter().map(Self::value).collect()),
            Self::Object(members) => {
                let members = members.iter();
                Value::Object(
                    members
                        .map(|(k, v)| (k.as_str().into(), v.value()))
                        .collect(),
                )
            }
        }
    }
}

/// Something about one column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    /// The column.
    pub(crate) column: String,
    /// What is said of it.
    pub(crate) value: T,
    /// Where that stands, for messages: `batch.toml:7: tables.t.columns.a`, `--column a=b`.
    pub(crate) at: String,
    /// The line, where it stands in a file.
    pub(crate) line: Option<u64>,
}

/// What somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// What columns are called in the input.
    pub(crate) columns: Vec<Setting<String>>,
    /// What stands in columns that the input, or an object of it, does not have.
    pub(crate) defaults: Vec<Setting<Given>>,
    /// What may be changed of values.
    pub(crate) coerce: Vec<Coercion>,
}

/// The value of a column that the input does not have.
#[derive(Debug, Clone)]
pub(super) struct StandIn {
    pub(super) given: Given,
    /// It alone, in the column's type.
    one: ArrayRef,
}

impl StandIn {
    /// `rows` of it.
    pub(super) fn column(&self, rows: usize) -> Result<ArrayRef, ArrowError> {
        take(&self.one, &UInt32Array::from(vec![0; rows]), None)
    }

    /// Bytes that it takes in a row.
    pub(super) fn bytes(&self) -> u64 {
        self.one.to_data().get_slice_memory_size().unwrap_or(8) as u64
    }
}

/// How an input is read for a table.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// The table's columns.
    pub(super) target: SchemaRef,
    /// The same under the names that they have in the input.
    pub(super) input: SchemaRef,
    /// For each, what stands in for it.
    pub(super) defaults: Vec<Option<StandIn>>,
    coerce: Vec<Coercion>,
    /// The table that the rows are merged into.
    merged_into: Option<String>,
}

impl Reading {
    /// The table's columns by their own names, every value exactly as it is.
    pub(crate) fn exactly(target: &Schema) -> Self {
        let target = Arc::new(target.clone());
        Self {
            input: Arc::clone(&target),
            defaults: vec![None; target.fields().len()],
            coerce: Vec::new(),
            merged_into: None,
            target,
        }
    }

    pub(super) fn coerces(&self, coercion: Coercion) -> bool {
        self.coerce.contains(&coercion)
    }

    /// Whether an input, or an object on a line of it, that `has` these columns has all that it must have.
    pub(super) fn check_given(
        &self,
        path: &Path,
        line: Option<u64>,
        has: impl Fn(usize) -> bool,
    ) -> Result<(), FormatError> {
        let places = 0..self.defaults.len();
        let mut lacking = places.filter(|index| self.defaults[*index].is_none() && !has(*index));
        let Some(table) = &self.merged_into else {
            let required = lacking.find(|index| !self.target.field(*index).is_nullable());
            return required.map_or(Ok(()), |index| {
                let field = self.input.field(index);
                Err(FormatError::MissingColumn {
                    path: path.into(),
                    column: field.name().clone(),
                    expected: field.data_type().to_string(),
                })
            });
        };
        let lacking: Vec<usize> = lacking.collect();
        let Some(first) = lacking.first() else {
            return Ok(());
        };
        let names = lacking.iter().map(|i| self.input.field(*i).name().clone());
        Err(FormatError::Incomplete {
            path: path.into(),
            line,
            columns: names.collect(),
            table: table.clone(),
            default: self.target.field(*first).name().clone(),
        })
    }

    /// The table's column that an input calls `source`; `None` for one that the table does not have.
    pub(crate) fn column_of(&self, source: &str) -> Option<&Field> {
        let index = self.input.index_of(source).ok()?;
        Some(self.target.field(index))
    }

    /// Why an input's column has no place; `found` is its type, if it has one, and `has` says which others are there.
    pub(super) fn unknown(
        &self,
        path: &Path,
        line: Option<u64>,
        (column, found): (&str, String),
        has: impl Fn(&str) -> bool,
    ) -> FormatError {
        let (path, column) = (path.into(), column.to_owned());
        match self.target.index_of(&column) {
            // The table has it, and reads it under another name.
            Ok(index) => {
                let source_name = self.input.field(index).name().clone();
                FormatError::Mapped {
                    path,
                    line,
                    column,
                    is_there: has(&source_name),
                    source_name,
                }
            }
            Err(_) => FormatError::UnknownColumn {
                path,
                line,
                column,
                found,
                expected: column_names(&self.input),
            },
        }
    }

    /// What an input calls the column `name`; `None` where a default stands in for it.
    pub(crate) fn source_of(&self, name: &str) -> Option<&str> {
        let index = self.target.index_of(name).ok()?;
        let has_default = self.defaults[index].is_some();
        (!has_default).then(|| self.input.field(index).name().as_str())
    }

    /// What an input of these columns is read as where it need not have the others: the columns of the key, and what it has.
    pub(crate) fn of_what_is_in(&self, names: &[String], key: &[String]) -> Self {
        let kept = |index: &usize| {
            key.contains(self.target.field(*index).name())
                || names.contains(self.input.field(*index).name())
        };
        let kept: Vec<usize> = (0..self.target.fields().len()).filter(kept).collect();
        let of = |schema: &Schema| {
            let fields = kept.iter().map(|index| schema.field(*index).clone());
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        Self {
            target: of(&self.target),
            input: of(&self.input),
            defaults: kept.iter().map(|i| self.defaults[*i].clone()).collect(),
            coerce: self.coerce.clone(),
            merged_into: None,
        }
    }

    /// The same for rows that are merged into `table`. They replace whole rows, so a column that they lack would lose its values.
    pub(crate) fn merged_into(self, table: &str) -> Self {
        Self {
            merged_into: Some(table.to_owned()),
            ..self
        }
    }
}

impl Shape {
    /// What it means for a table of these columns.
    pub(crate) fn reading(&self, target: &Schema) -> Result<Reading, FormatError> {
        let mut reading = Reading::exactly(target);
        reading.coerce.clone_from(&self.coerce);
        reading.input = Arc::new(Schema::new(self.input_fields(target)?));
        for setting in &self.defaults {
            let (index, field) = column_of(setting, target)?;
            if reading.defaults[index].is_some() {
                return Err(setting.refuse("has a default already; keep one"));
            }
            let one = one_value(target.fields()[index].clone(), &setting.value.value());
            let one = one.map_err(|detail| {
                let column = named(field.name());
                setting.refuse(format!("column {column} ({}) {detail}", field.data_type()))
            })?;
            let given = setting.value.clone();
            reading.defaults[index] = Some(StandIn { given, one });
        }
        Ok(reading)
    }

    /// The table's columns under the names that they have in the input.
    fn input_fields(&self, target: &Schema) -> Result<Vec<Field>, FormatError> {
        let mut fields: Vec<Field> = target.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut mapped: HashMap<&str, &str> = HashMap::new();
        for setting in &self.columns {
            let (index, _) = column_of(setting, target)?;
            let (column, source) = (setting.column.as_str(), setting.value.as_str());
            if mapped.insert(column, source).is_some() {
                return Err(setting.refuse("is mapped already; keep one"));
            }
            fields[index] = fields[index].clone().with_name(source);
        }
        let mut taken: HashMap<&str, &str> = HashMap::new();
        for (field, own) in fields.iter().zip(target.fields()) {
            let Some(other) = taken.insert(field.name(), own.name()) else {
                continue;
            };
            let is_it = |s: &&Setting<String>| s.column == other || s.column == *own.name();
            let twice = format!(
                "the input's column {} would be read into {} and {}; map the other one as well",
                named(field.name()),
                named(other),
                named(own.name())
            );
            let setting = self.columns.iter().rev().find(is_it);
            return Err(setting.map_or_else(
                || FormatError::Setting {
                    at: column_names(target),
                    column: own.name().clone(),
                    line: None,
                    detail: "has two columns of one name".to_owned(),
                },
                |setting| setting.refuse(twice),
            ));
        }
        Ok(fields)
    }
}

impl<T> Setting<T> {
    fn refuse(&self, detail: impl Into<String>) -> FormatError {
        FormatError::Setting {
            at: self.at.clone(),
            column: self.column.clone(),
            line: self.line,
            detail: detail.into(),
        }
    }
}

/// The table's column that a setting is about.
fn column_of<'t, T>(
    setting: &Setting<T>,
    target: &'t Schema,
) -> Result<(usize, &'t Field), FormatError> {
    let found = target.column_with_name(&setting.column);
    found.ok_or_else(|| {
        setting.refuse(format!(
            "the table has no column {}; it has {}",
            named(&setting.column),
            super::error::short(&column_names(target))
        ))
    })
}

/// What a column holds, as far as coercions ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Date,
    /// Whose values are no texts of their own and begin with a date.
    Timestamp,
    Other,
}

impl Holds {
    pub(super) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Dictionary(_, values) => Self::of(values),
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Timestamp(..) => Self::Timestamp,
            other if other.is_string() => Self::Text,
            _ => Self::Other,
        }
    }
}
