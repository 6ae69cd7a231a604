//! CSV and NDJSON: texts -> record batches of a given schema, every value exactly as written, or an error with line and column.
//!
//! 1. [`lines`] counts lines and ends with the file as it was when it was opened.
//! 2. [`csv`] and [`ndjson`] (on [`json`]) cut them into records of [`cell::Value`]s, which keep every digit.
//! 3. [`mod@column`] has one builder a column, [`nested`] those that are made of others; [`number`] and [`time`] parse single values.
//! 4. [`coerce`] changes values before that, where it was asked for.
//! 5. [`infer`] finds a schema for a file by the same parsers, so that it promises nothing they refuse.

mod cell;
mod coerce;
mod column;
mod csv;
mod infer;
mod json;
mod lines;
mod ndjson;
mod nested;
mod number;
#[cfg(test)]
mod tests;
mod time;

use std::{collections::HashSet, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    datatypes::{DataType, FieldRef, Schema},
};

use super::{
    Format, FormatError, Input, InputLimits, Sink,
    conform::batch_rows,
    error::quoted,
    shape::{Coerced, Reading, StandIn},
    source::Source,
};
pub(super) use cell::Value;
use coerce::Coercer;
use column::{Reason, Refusal, Slot};
use csv::Records;
pub(super) use infer::{columns_of, schema_of};
use lines::Lines;
use ndjson::Objects;
use nested::Members;

/// A batch ends after this many bytes of text, so that long texts do not make it larger than the offsets of a column can count.
const BATCH_BYTES: usize = 64 << 20;

/// Reads a file as rows of a table, which `sink` takes; gives what was changed of them.
pub(super) fn read<'a>(
    source: Source<'a>,
    reading: &'a Reading,
    limits: &'a InputLimits,
    sink: &'a mut Sink<'a>,
) -> Result<Vec<Coerced>, FormatError> {
    let (path, format, target) = (source.path, source.format, &reading.input);
    let rows = Rows {
        path,
        reading,
        target,
        coercer: Coercer::new(reading),
        limits,
        sink,
        any: false,
        batch_rows: batch_rows(target, limits).map_err(FormatError::limit(path))?,
        pending: 0,
        bytes: 0,
        rows: 0,
        decoded: 0,
    };
    match format {
        Format::Csv => {
            let lines = Lines::new(source);
            rows.of_records(Records::new(lines, limits.max_columns)?)
        }
        _ => rows.of_objects(Objects::new(Lines::new(source), limits)),
    }
}

/// Who takes the batches, and what the next one holds.
struct Rows<'a> {
    path: &'a Path,
    reading: &'a Reading,
    /// The columns as the file calls them.
    target: &'a Schema,
    /// Only where values are to be changed.
    coercer: Option<Coercer<'a>>,
    limits: &'a InputLimits,
    sink: &'a mut Sink<'a>,
    /// Whether there was a batch.
    any: bool,
    batch_rows: usize,
    /// Rows and bytes of text of the batch in hand.
    pending: usize,
    bytes: usize,
    /// Rows and bytes in memory of the whole file.
    rows: u64,
    decoded: u64,
}

impl<'a> Rows<'a> {
    fn of_records(mut self, mut records: Records<'_>) -> Result<Vec<Coerced>, FormatError> {
        self.limits
            .columns(records.header.len())
            .map_err(FormatError::limit(self.path))?;
        let given = self.columns_of(&records.header)?;
        for index in &given {
            let field = self.target.field(*index);
            if field.data_type().is_nested() {
                return Err(FormatError::Untyped {
                    path: self.path.into(),
                    column: field.name().clone(),
                    expected: field.data_type().to_string(),
                });
            }
        }
        let absent = (0..self.target.fields().len()).filter(|index| !given.contains(index));
        let absent: Vec<(usize, Value<'_>)> =
            absent.map(|index| (index, self.default(index))).collect();
        let columns = absent.iter().map(|(index, _)| *index);
        let columns: Vec<usize> = given.iter().copied().chain(columns).collect();
        let mut members = Members::new(self.target.fields());
        while records.next()? {
            let (record, path) = (&records.record, self.path);
            let fields: Vec<csv::Field<'_>> = record.fields().collect();
            let values = fields.iter().zip(&given).map(|(field, index)| {
                let (value, is_bare) = (field.value(), !field.quoted);
                match &mut self.coercer {
                    Some(coercer) => coercer.apply(*index, value, is_bare, record.line),
                    None => value,
                }
            });
            let values = values.chain(absent.iter().map(|(_, value)| value.clone()));
            members
                .append_row(&columns, values)
                .map_err(|refusal| refused(path, record.line, self.reading, refusal, |_| true))?;
            let length = record.length();
            self.count(&mut members, length)?;
        }
        self.finish(members)
    }

    fn of_objects(mut self, mut objects: Objects<'_>) -> Result<Vec<Coerced>, FormatError> {
        let reading = self.reading;
        let given = |default: &StandIn| default.given.clone();
        let defaults = reading.defaults.iter().map(|d| d.as_ref().map(given));
        let mut members = Members::new(self.target.fields()).with_defaults(defaults.collect());
        while objects.next()? {
            let (mut object, line) = (objects.object()?, objects.line());
            if let Some(coercer) = &mut self.coercer {
                for (name, value) in &mut object {
                    if let Some(index) = members.index_of(name) {
                        let written = std::mem::replace(value, Value::Null);
                        *value = coercer.apply(index, written, false, line);
                    }
                }
            }
            let appended = members.append(&object);
            appended.map_err(|refusal| {
                let has = |name: &str| object.iter().any(|(other, _)| other == name);
                refused(self.path, line, reading, refusal, has)
            })?;
            reading.check_given(self.path, Some(line), |index| members.has(index))?;
            self.count(&mut members, objects.length())?;
        }
        if self.rows == 0 {
            return Err(FormatError::Empty {
                path: self.path.into(),
            });
        }
        self.finish(members)
    }

    /// What stands in a column that the file does not have.
    fn default(&self, index: usize) -> Value<'a> {
        let default = self.reading.defaults[index].as_ref();
        default.map_or(Value::Null, |default| default.given.value())
    }

    /// The target's columns in the order of the header.
    fn columns_of(&self, header: &[String]) -> Result<Vec<usize>, FormatError> {
        check_names(self.path, header)?;
        let find = |name: &String| {
            let index = self.target.index_of(name);
            index.map_err(|_| {
                let has = |other: &str| header.iter().any(|name| name == other);
                let found = (name.as_str(), String::new());
                self.reading.unknown(self.path, None, found, has)
            })
        };
        let columns = header.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let has = |index| columns.contains(&index);
        self.reading.check_given(self.path, None, has)?;
        Ok(columns)
    }

    /// Counts a row, and ends the batch when it is full.
    fn count(&mut self, members: &mut Members, bytes: usize) -> Result<(), FormatError> {
        self.rows += 1;
        self.pending += 1;
        self.bytes += bytes;
        self.limits
            .rows(self.rows)
            .map_err(FormatError::limit(self.path))?;
        if self.pending == self.batch_rows || self.bytes >= BATCH_BYTES {
            self.end_batch(members)?;
        }
        Ok(())
    }

    fn end_batch(&mut self, members: &mut Members) -> Result<(), FormatError> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.pending));
        let batch = members.finish().and_then(|columns| {
            RecordBatch::try_new_with_options(Arc::clone(&self.reading.target), columns, &options)
        });
        let batch = batch.map_err(|e| FormatError::content(self.path, &e))?;
        self.decoded += batch.get_array_memory_size() as u64;
        self.limits
            .decoded_bytes(self.decoded)
            .map_err(FormatError::limit(self.path))?;
        (self.pending, self.bytes, self.any) = (0, 0, true);
        (self.sink)(batch)
    }

    fn finish(mut self, mut members: Members) -> Result<Vec<Coerced>, FormatError> {
        if self.pending > 0 || !self.any {
            self.end_batch(&mut members)?;
        }
        Ok(self.coercer.map(Coercer::finish).unwrap_or_default())
    }
}

/// One value as a column of its own, or what is wrong with it.
pub(super) fn one_value(field: FieldRef, value: &Value<'_>) -> Result<ArrayRef, String> {
    let mut slot = Slot::new(&field);
    if let Err(Refusal { inner, reason }) = slot.append(value) {
        let detail = told(reason);
        return Err(match inner.as_slice() {
            [] => format!("does not take it: {detail}"),
            inner => format!("does not take it: {}: {detail}", inner.concat()),
        });
    }
    slot.finish().map_err(|e| e.to_string())
}

/// The names of an input's columns.
pub(super) fn names_of(
    source: Source<'_>,
    limits: &InputLimits,
) -> Result<Vec<String>, FormatError> {
    let (path, format) = (source.path, source.format);
    let lines = Lines::new(source);
    if format == Format::Csv {
        let header = Records::new(lines, limits.max_columns)?.header;
        check_names(path, &header)?;
        return Ok(header);
    }
    let (mut objects, mut seen) = (Objects::new(lines, limits), HashSet::new());
    while objects.next()? {
        for (name, _) in objects.object()?.iter() {
            if !seen.contains(name.as_ref()) {
                seen.insert(name.clone().into_owned());
            }
        }
        let within = limits.columns(seen.len());
        within.map_err(FormatError::limit(path))?;
    }
    if seen.is_empty() {
        return Err(FormatError::Empty { path: path.into() });
    }
    Ok(seen.into_iter().collect())
}

/// Every column has a name of its own.
fn check_names(path: &Path, names: &[String]) -> Result<(), FormatError> {
    let mut seen = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(FormatError::Unnamed {
                path: path.into(),
                number: index + 1,
                outer: String::new(),
            });
        }
        if !seen.insert(name) {
            return Err(FormatError::RepeatedColumn {
                path: path.into(),
                column: name.clone(),
            });
        }
    }
    Ok(())
}

/// A value that its column does not take.
fn refused(
    path: &Path,
    line: u64,
    reading: &Reading,
    refusal: Refusal,
    has: impl Fn(&str) -> bool,
) -> FormatError {
    let Refusal { inner, reason } = refusal;
    let name = inner.first().map(String::as_str).unwrap_or_default();
    let detail = match reason {
        Reason::Unknown if inner.len() < 2 => {
            return reading.unknown(path, Some(line), (name, String::new()), has);
        }
        reason => told(reason),
    };
    let column = inner
        .iter()
        .fold(String::new(), |path, part| infer::joined(&path, part));
    let expected = reading.input.field_with_name(name);
    FormatError::Value {
        path: path.into(),
        line,
        column,
        expected: expected
            .map_or(&DataType::Null, |f| f.data_type())
            .to_string(),
        detail,
    }
}

/// What is wrong with a value.
fn told(reason: Reason) -> String {
    match reason {
        Reason::Unknown => "is not in the table's type; remove or rename it".to_owned(),
        Reason::Null => "is required, and null or missing here; give it a value".to_owned(),
        Reason::Length(found, expected) => {
            format!("has {found} items, and the type {expected}")
        }
        Reason::Value(value, misfit) => format!("{} {misfit}", quoted(&value)),
        Reason::Dated(value, order, misfit) => {
            format!("{}, read in the order of {order}, {misfit}", quoted(&value))
        }
    }
}

/// What a text file is read as without a target: it is opened twice.
pub(super) fn read_inferred(
    source: Source<'_>,
    input: &Input,
    limits: &InputLimits,
    sink: &mut Sink<'_>,
) -> Result<(), FormatError> {
    let schema = schema_of(source, limits)?;
    let source = Source::open(input, limits)?;
    let mut handed = |batch| sink(batch);
    read(source, &Reading::exactly(&schema), limits, &mut handed).map(drop)
}
