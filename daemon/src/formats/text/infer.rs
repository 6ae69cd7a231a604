//! A schema for a text file, from all of its values.
//!
//! Each value rules out the types that would not hold it exactly as written; what is left in the end is what every value fits.
//! The parsers of [`super::column`] decide, so that a file can be written to the table that was created like it.

use std::{collections::HashMap, path::Path, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use super::{
    cell::{Value, is_special},
    check_names,
    csv::Records,
    lines::Lines,
    ndjson::{Object, Objects},
    number::{self, fits_double, is_written_as_number},
    time,
};
use crate::formats::{Format, FormatError, InputLimits, error::quoted, source::Source};

/// A type that a column of single values may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Candidate {
    Boolean,
    Int64,
    UInt64,
    Float64,
    Date,
    /// Timestamps: the unit, and whether they are instants.
    Timestamp(TimeUnit, bool),
    Text,
}

use Candidate as C;

/// In the order of preference.
const CANDIDATES: [Candidate; 10] = [
    C::Boolean,
    C::Int64,
    C::UInt64,
    C::Float64,
    C::Date,
    C::Timestamp(TimeUnit::Microsecond, false),
    C::Timestamp(TimeUnit::Microsecond, true),
    C::Timestamp(TimeUnit::Nanosecond, false),
    C::Timestamp(TimeUnit::Nanosecond, true),
    C::Text,
];

impl Candidate {
    /// Whether a field without a type may be one of this type, and is not changed by becoming one.
    fn holds(self, text: &str) -> bool {
        match self {
            C::Boolean => Value::Field(text).boolean().is_ok(),
            C::Int64 => is_integer(text) && number::integer::<i64>(text).is_ok(),
            C::UInt64 => is_integer(text) && number::integer::<u64>(text).is_ok(),
            C::Float64 => is_special(text) || (is_written_as_number(text) && fits_double(text)),
            C::Date => time::date(text).is_ok(),
            C::Timestamp(unit, zoned) => {
                time::date(text).is_err() && time::timestamp(text, unit, zoned).is_ok()
            }
            C::Text => true,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            C::Boolean => DataType::Boolean,
            C::Int64 => DataType::Int64,
            C::UInt64 => DataType::UInt64,
            C::Float64 => DataType::Float64,
            C::Date => DataType::Date32,
            C::Timestamp(unit, zoned) => DataType::Timestamp(unit, zoned.then(|| "UTC".into())),
            C::Text => DataType::Utf8,
        }
    }
}

/// Written as an integer; minus zero is none.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    is_written_as_number(text) && digits.bytes().all(|b| b.is_ascii_digit()) && text != "-0"
}

/// What single values have left; starts with all.
#[derive(Debug, Clone)]
struct Left(Vec<Candidate>);

impl Left {
    fn of(candidates: &[Candidate]) -> Self {
        Self(candidates.to_vec())
    }

    fn rule_out(&mut self, text: &str) {
        self.0.retain(|candidate| candidate.holds(text));
    }

    fn best(&self) -> Option<DataType> {
        self.0.first().map(|candidate| candidate.data_type())
    }
}

/// What was seen of a column of objects.
#[derive(Debug, Clone)]
enum Seen {
    /// Nothing but nulls.
    Nothing,
    Boolean,
    Number(Left),
    Text,
    List(Box<Seen>),
    Object(Members),
}

/// The members of objects, in the order in which they were seen first, and where each is.
#[derive(Debug, Clone, Default)]
struct Members {
    seen: Vec<(String, Seen)>,
    by_name: HashMap<String, usize>,
}

/// The schema of a CSV or NDJSON file: every column is nullable, and one without any value is text, which can hold what comes later.
pub(in crate::formats) fn schema_of(
    source: Source<'_>,
    limits: &InputLimits,
) -> Result<SchemaRef, FormatError> {
    let columns = columns_of(source, limits)?;
    let fields = columns.fields().iter().map(|field| as_texts(field));
    Ok(Arc::new(Schema::new(fields.collect::<Fields>())))
}

/// `field`, text where it has no value.
fn as_texts(field: &Field) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => DataType::List(as_texts(item)),
        DataType::Struct(members) => {
            DataType::Struct(members.iter().map(|member| as_texts(member)).collect())
        }
        other => other.clone(),
    };
    Arc::new(field.clone().with_data_type(data_type))
}

/// The same, where a column, an item or a member without any value is null.
pub(in crate::formats) fn columns_of(
    source: Source<'_>,
    limits: &InputLimits,
) -> Result<SchemaRef, FormatError> {
    let (path, format) = (source.path, source.format);
    let lines = Lines::new(source);
    let fields = match format {
        Format::Csv => of_records(path, Records::new(lines, limits.max_columns)?, limits)?,
        _ => of_objects(path, Objects::new(lines, limits), limits)?,
    };
    Ok(Arc::new(Schema::new(fields)))
}

fn of_records(
    path: &Path,
    mut records: Records<'_>,
    limits: &InputLimits,
) -> Result<Fields, FormatError> {
    limits
        .columns(records.header.len())
        .map_err(FormatError::limit(path))?;
    check_names(path, &records.header)?;
    let mut columns = vec![None; records.header.len()];
    while records.next()? {
        for (left, field) in columns.iter_mut().zip(records.record.fields()) {
            // An empty text is a null for every other type.
            if !field.text.is_empty() {
                left.get_or_insert_with(|| Left::of(&CANDIDATES))
                    .rule_out(&field.text);
            }
        }
    }
    let fields = records.header.iter().zip(columns).map(|(name, left)| {
        let data_type = match left {
            Some(left) => left.best().unwrap_or(DataType::Utf8),
            None => DataType::Null,
        };
        Field::new(name, data_type, true)
    });
    Ok(fields.collect())
}

fn of_objects(
    path: &Path,
    mut objects: Objects<'_>,
    limits: &InputLimits,
) -> Result<Fields, FormatError> {
    let (mut members, most) = (Members::default(), limits.max_columns);
    while objects.next()? {
        let merged = merge_members(&mut members, &objects.object()?, most);
        merged.map_err(|(name, detail)| FormatError::Value {
            path: path.into(),
            line: objects.line(),
            column: name,
            expected: "not known".to_owned(),
            detail,
        })?;
    }
    if members.seen.is_empty() {
        return Err(FormatError::Empty { path: path.into() });
    }
    fields_of(path, "", members)
}

/// Where and why a value does not go with those before it.
type Clash = (String, String);

/// The path of something within something.
pub(super) fn joined(outer: &str, inner: &str) -> String {
    let dot = if outer.is_empty() || inner.is_empty() || inner.starts_with('[') {
        ""
    } else {
        "."
    };
    format!("{outer}{dot}{inner}")
}

fn merge_members(members: &mut Members, object: &Object<'_>, most: usize) -> Result<(), Clash> {
    let Members { seen, by_name } = members;
    for (place, (name, value)) in object.iter().enumerate() {
        if name.is_empty() {
            return Err((String::new(), "has an empty name; name it".to_owned()));
        }
        // Objects mostly have their names in one order.
        let index = match seen.get(place) {
            Some((known, _)) if known == name => Some(place),
            _ => by_name.get(name.as_ref()).copied(),
        };
        let index = match index {
            Some(index) => index,
            None if seen.len() >= most => {
                let detail = "is one more member than [agent] max_columns allows";
                return Err((name.clone().into_owned(), detail.to_owned()));
            }
            None => {
                let name = name.clone().into_owned();
                by_name.insert(name.clone(), seen.len());
                seen.push((name, Seen::Nothing));
                seen.len() - 1
            }
        };
        merge(&mut seen[index].1, value, most)
            .map_err(|(inner, detail)| (joined(name, &inner), detail))?;
    }
    Ok(())
}

fn merge(seen: &mut Seen, value: &Value<'_>, most: usize) -> Result<(), Clash> {
    match (&mut *seen, value) {
        (_, Value::Null)
        | (Seen::Boolean, Value::Bool(_))
        | (Seen::Text, Value::Text(_) | Value::Field(_)) => Ok(()),
        (Seen::Number(left), Value::Number(text)) => {
            left.rule_out(text);
            if left.0.is_empty() {
                let detail = format!(
                    "{} has no type that holds it exactly together with the values before it; {NAME_IT}",
                    quoted(text)
                );
                return Err((String::new(), detail));
            }
            Ok(())
        }
        (Seen::List(item), Value::List(items)) => {
            let mut items = items.iter();
            items.try_for_each(|value| {
                merge(item, value, most).map_err(|(inner, d)| (joined("[]", &inner), d))
            })
        }
        (Seen::Object(members), Value::Object(object)) => merge_members(members, object, most),
        (Seen::Nothing, value) => {
            *seen = match value {
                Value::Bool(_) | Value::Null => Seen::Boolean,
                Value::Number(_) => Seen::Number(Left::of(&[C::Int64, C::UInt64, C::Float64])),
                Value::Text(_) | Value::Field(_) | Value::Dated { .. } => Seen::Text,
                Value::List(_) => Seen::List(Box::new(Seen::Nothing)),
                Value::Object(_) => Seen::Object(Members::default()),
            };
            merge(seen, value, most)
        }
        (seen, value) => {
            let (value, before) = (kind(value), seen.kind());
            let detail =
                format!("is {value} here and {before} before, and no type holds both; {NAME_IT}");
            Err((String::new(), detail))
        }
    }
}

const NAME_IT: &str = "give the types with --schema, or write the values in quotes";

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::Text(_) | Value::Field(_) | Value::Dated { .. } => "a text",
        Value::List(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Seen {
    fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "null",
            Self::Boolean => "a boolean",
            Self::Number(_) => "a number",
            Self::Text => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    fn data_type(self, path: &Path, name: &str) -> Result<DataType, FormatError> {
        Ok(match self {
            Self::Boolean => DataType::Boolean,
            Self::Number(left) => left.best().unwrap_or(DataType::Utf8),
            Self::Nothing => DataType::Null,
            Self::Text => DataType::Utf8,
            Self::List(item) => DataType::List(Arc::new(Field::new_list_field(
                item.data_type(path, name)?,
                true,
            ))),
            Self::Object(members) if members.seen.is_empty() => {
                let detail = format!(
                    "column {}: objects without members have no type; {NAME_IT}",
                    quoted(name)
                );
                return Err(FormatError::content(path, &detail));
            }
            Self::Object(members) => DataType::Struct(fields_of(path, name, members)?),
        })
    }
}

fn fields_of(path: &Path, parent: &str, members: Members) -> Result<Fields, FormatError> {
    let fields = members.seen.into_iter().map(|(name, seen)| {
        let full = joined(parent, &name);
        Ok(Field::new(name, seen.data_type(path, &full)?, true))
    });
    fields.collect()
}
