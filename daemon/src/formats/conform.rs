//! Batches of a file's schema -> batches of the table's schema, without changing a value.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array},
    compute::{CastOptions, can_cast_types, cast_with_options},
    datatypes::{DataType, Field, Schema},
    util::display::{ArrayFormatter, FormatOptions, array_value_to_string},
};

use super::{
    BATCH_ROWS, FormatError, InputLimits,
    by_name::{by_name, filled_bytes, pair, places},
    jsonb,
    limits::Exceeded,
    shape::{Coerced, Coercion, Reading, StandIn},
    visible::visible,
};

/// Memory that nulls may take in a batch of rows.
const BATCH_BYTES: u64 = 1 << 29;

/// The mapping of one file's columns to a target schema; made once, applied to each batch in order.
#[derive(Debug)]
pub(super) struct Conformer<'a> {
    path: &'a Path,
    reading: &'a Reading,
    /// For each target column, where it is in the file; `None` = not there, filled with its default or nulls.
    sources: Vec<Option<usize>>,
    /// What was changed of values, by column.
    coerced: BTreeMap<usize, Coerced>,
    /// Rows of the batches seen so far, so that errors name the row of the file.
    rows_before: usize,
    /// Bytes that these take with the target's schema, where more than in the file.
    bytes: u64,
}

impl<'a> Conformer<'a> {
    /// Checks the columns and their types; values are checked by [`Self::apply`].
    pub(super) fn new(
        path: &'a Path,
        file: &Schema,
        reading: &'a Reading,
    ) -> Result<Self, FormatError> {
        let (target, whole) = (&reading.input, reading.coerces(Coercion::Whole));
        let mut seen = HashSet::new();
        for field in file.fields() {
            if !seen.insert(field.name()) {
                return Err(FormatError::RepeatedColumn {
                    path: path.into(),
                    column: field.name().clone(),
                });
            }
            let Ok(wanted) = target.field_with_name(field.name()) else {
                let found = (field.name().as_str(), field.data_type().to_string());
                let has = |name: &str| file.index_of(name).is_ok();
                return Err(reading.unknown(path, None, found, has));
            };
            let (from, to) = (field.data_type(), wanted.data_type());
            let may_be = may_cast(from, to) || (whole && is_to_integer(from, to));
            if !may_be {
                return Err(type_error(path, wanted, field.data_type()));
            }
        }
        let names = target.fields().iter().map(|field| field.name());
        let sources: Vec<_> = names.map(|name| file.index_of(name).ok()).collect();
        reading.check_given(path, None, |index| sources[index].is_some())?;
        Ok(Self {
            path,
            reading,
            sources,
            coerced: BTreeMap::new(),
            rows_before: 0,
            bytes: 0,
        })
    }

    /// The next batch, with the target's schema.
    pub(super) fn take(
        &mut self,
        batch: &RecordBatch,
        limits: &InputLimits,
    ) -> Result<RecordBatch, FormatError> {
        self.bytes = self.bytes.saturating_add(self.bytes_of(batch));
        let within = limits.decoded_bytes(self.bytes);
        within.map_err(FormatError::limit(self.path))?;
        self.apply(batch)
    }

    /// What was changed of their values.
    pub(super) fn finish(self) -> Vec<Coerced> {
        self.coerced.into_values().collect()
    }

    /// Bytes that a batch takes with the target's schema, where more than in the file: nulls for missing columns, and values that
    /// stand once in the file and often in the table.
    fn bytes_of(&self, batch: &RecordBatch) -> u64 {
        let columns = self.reading.input.fields().iter().zip(&self.sources);
        let columns = columns.zip(&self.reading.defaults);
        let bytes = columns.map(|((field, source), default)| match source {
            None => {
                let null = slot_bytes(field.data_type());
                let value = default.as_ref().map_or(null, StandIn::bytes);
                value.saturating_mul(batch.num_rows() as u64)
            }
            Some(index) => match batch.column(*index) {
                column if column.data_type() == field.data_type() => 0,
                column => {
                    expanded_bytes(column).saturating_add(filled_bytes(column, field.data_type()))
                }
            },
        });
        bytes.fold(0, u64::saturating_add)
    }

    /// The batch with the target's schema.
    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch, FormatError> {
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(self.sources.len());
        let reading = self.reading;
        for (place, field) in reading.input.fields().iter().enumerate() {
            columns.push(match (self.sources[place], &reading.defaults[place]) {
                (Some(index), _) => self.column(place, field, batch.column(index))?,
                (None, Some(default)) => default
                    .column(rows)
                    .map_err(|e| FormatError::content(self.path, &e))?,
                (None, None) => new_null_array(field.data_type(), rows),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let conformed =
            RecordBatch::try_new_with_options(Arc::clone(&reading.target), columns, &options)
                .map_err(|e| FormatError::content(self.path, &e))?;
        self.rows_before += rows;
        Ok(conformed)
    }

    fn column(
        &mut self,
        place: usize,
        field: &Field,
        array: &ArrayRef,
    ) -> Result<ArrayRef, FormatError> {
        let cast = cast_exact(array, field.data_type()).ok_or_else(|| self.lossy(field, array))?;
        if is_to_integer(array.data_type(), field.data_type()) {
            self.count_whole(place, array);
        }
        if !field.is_nullable() && cast.logical_null_count() > 0 {
            let row = cast
                .logical_nulls()
                .and_then(|nulls| (0..nulls.len()).find(|row| nulls.is_null(*row)));
            return Err(FormatError::Null {
                path: self.path.into(),
                column: field.name().clone(),
                row: self.rows_before + row.unwrap_or(0) + 1,
            });
        }
        if let Some(row) = jsonb::first_misfit(field, &cast) {
            return Err(FormatError::NoJson {
                path: self.path.into(),
                column: field.name().clone(),
                row: self.rows_before + row + 1,
            });
        }
        Ok(cast)
    }

    /// Takes note of floats that became integers.
    fn count_whole(&mut self, place: usize, array: &ArrayRef) {
        let Some(first) = (0..array.len()).find(|row| array.is_valid(*row)) else {
            return;
        };
        let (reading, row) = (self.reading, self.rows_before + first + 1);
        let coerced = self.coerced.entry(place).or_insert_with(|| Coerced {
            column: reading.target.field(place).name().clone(),
            coercion: Coercion::Whole,
            count: 0,
            first: array_value_to_string(array, first).unwrap_or_default(),
            at: row as u64,
        });
        coerced.count += (array.len() - array.null_count()) as u64;
    }

    /// Finds the first row that cannot be cast with those before it, which may have taken all keys of a dictionary.
    fn lossy(&self, field: &Field, array: &ArrayRef) -> FormatError {
        let (mut row, mut after) = (0, array.len());
        while after - row > 1 {
            let middle = usize::midpoint(row, after);
            match cast_exact(&array.slice(0, middle), field.data_type()) {
                Some(_) => row = middle,
                None => after = middle,
            }
        }
        let options = FormatOptions::default().with_null("null");
        // A duration that is too long for the usual words is a number with a unit.
        let counted = match array.data_type() {
            DataType::Duration(_) => arrow::compute::cast(array, &DataType::Int64),
            _ => Ok(Arc::clone(array)),
        };
        let shown = counted.and_then(|array| {
            ArrayFormatter::try_new(&array, &options)?
                .value(row)
                .try_to_string()
        });
        let value = shown.unwrap_or_else(|_| "a value".to_owned());
        FormatError::Lossy {
            path: self.path.into(),
            column: field.name().clone(),
            row: self.rows_before + row + 1,
            value,
            types: format!("{} -> {}", array.data_type(), field.data_type()),
        }
    }
}

/// Bytes of a batch's values, not of the buffers that it shares with others.
pub(crate) fn decoded_bytes(batch: &RecordBatch) -> u64 {
    let bytes = batch.columns().iter().map(|column| {
        let sliced = column.to_data().get_slice_memory_size();
        sliced.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    });
    bytes.fold(0, u64::saturating_add)
}

/// Bytes of one null.
pub(super) fn slot_bytes(data_type: &DataType) -> u64 {
    match data_type {
        DataType::FixedSizeList(item, size) => {
            slot_bytes(item.data_type()).saturating_mul(u64::from(size.unsigned_abs()))
        }
        DataType::FixedSizeBinary(size) => u64::from(size.unsigned_abs()),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| slot_bytes(field.data_type()));
            fields.fold(1, u64::saturating_add)
        }
        other => other.primitive_width().unwrap_or(8) as u64,
    }
}

/// Rows of a batch: fewer where a null is filled with more than a batch should take, and an error where one is more than all may.
pub(super) fn batch_rows(schema: &Schema, limits: &InputLimits) -> Result<usize, Exceeded> {
    let types = schema.fields().iter().map(|field| field.data_type());
    let null = types.map(null_bytes).fold(0, u64::saturating_add);
    limits.decoded_bytes(null)?;
    let most = limits.max_decoded_bytes.min(BATCH_BYTES);
    let rows = most.checked_div(null).map(usize::try_from);
    Ok(rows.map_or(BATCH_ROWS, |rows| {
        rows.unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
    }))
}

/// Bytes that a row is filled with where it has a null list of a fixed size.
fn null_bytes(data_type: &DataType) -> u64 {
    match data_type {
        DataType::FixedSizeList(..) => slot_bytes(data_type),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| null_bytes(field.data_type()));
            fields.fold(0, u64::saturating_add)
        }
        _ => 0,
    }
}

/// Bytes of a column of a dictionary or of views as the values that it stands for.
fn expanded_bytes(array: &ArrayRef) -> u64 {
    let sum = |lengths: &mut dyn Iterator<Item = u32>| lengths.map(u64::from).sum();
    match array.data_type() {
        DataType::Utf8View => return sum(&mut array.as_string_view().lengths()),
        DataType::BinaryView => return sum(&mut array.as_binary_view().lengths()),
        DataType::List(_) => return expanded_bytes(array.as_list::<i32>().values()),
        DataType::LargeList(_) => return expanded_bytes(array.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => return expanded_bytes(array.as_fixed_size_list().values()),
        _ => {}
    }
    let Some(dictionary) = array.as_any_dictionary_opt() else {
        return 0;
    };
    let values = dictionary.values();
    if values.is_empty() {
        // Of nulls alone, or of no rows.
        return 0;
    }
    let widths: Vec<u64> = (0..values.len())
        .map(|index| {
            let sliced = values.slice(index, 1).to_data().get_slice_memory_size();
            sliced.unwrap_or(0) as u64
        })
        .collect();
    let keys = dictionary.normalized_keys().into_iter();
    let bytes = keys.map(|key| widths.get(key).copied().unwrap_or(0));
    bytes.fold(0, u64::saturating_add)
}

fn type_error(path: &Path, wanted: &Field, found: &DataType) -> FormatError {
    FormatError::Type {
        path: path.into(),
        column: wanted.name().clone(),
        found: found.to_string(),
        expected: wanted.data_type().to_string(),
    }
}

/// The names of a schema's columns for an error message.
pub(super) fn column_names(schema: &Schema) -> String {
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    names.join(", ")
}

/// Casts and casts back; `None` unless every value came back the same. The return trip is what makes one rule serve all
/// types: an overflow, a fraction, a truncated nanosecond or a list of the wrong length all show up as a difference.
fn cast_exact(array: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    let from = array.data_type();
    if from == to {
        return Some(Arc::clone(array));
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    if let DataType::Dictionary(_, values) = from {
        return cast_exact(&cast_with_options(array, values, &strict).ok()?, to);
    }
    if let DataType::Dictionary(_, values) = to {
        let values = cast_exact(array, values)?;
        let cast = cast_with_options(&values, to, &strict).ok()?;
        let back = cast_with_options(&cast, values.data_type(), &strict).ok()?;
        return (back.as_ref() == values.as_ref()).then_some(cast);
    }
    let named = by_name(&visible(array)?, to)?;
    if named.data_type() == to {
        return Some(named);
    }
    let cast = cast_with_options(&named, to, &strict).ok()?;
    let back = cast_with_options(&cast, named.data_type(), &strict).ok()?;
    // The items of a null list of a fixed size are no items of any other list.
    if back.as_ref() == named.as_ref() {
        return visible(&cast);
    }
    None
}

/// Whether floats would become integers, which has to be asked for.
fn is_to_integer(from: &DataType, to: &DataType) -> bool {
    from.is_floating() && to.is_integer()
}

/// Whether a value of `from` may become one of `to` at all: the same kind of thing in another width, never another kind (no text
/// to number, no number to time, no local time to instant), whatever Arrow's cast would accept.
///
/// Two time zones are one kind: both are instants, the zone is only how they are shown. Integers may become floats, not the reverse.
fn may_cast(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    if from == to || from.is_null() {
        return true;
    }
    let same_kind = match (from, to) {
        (T::Dictionary(_, values), _) => return may_cast(values, to),
        (_, T::Dictionary(_, values)) => {
            return may_cast(from, values) && can_cast_types(values, to);
        }
        (T::Struct(from), T::Struct(to)) => {
            let may = |(place, to): (Option<usize>, &Arc<Field>)| {
                place.is_none_or(|place| may_cast(from[place].data_type(), to.data_type()))
            };
            return places(from, to).is_some_and(|places| places.into_iter().zip(to).all(may));
        }
        (T::Map(from, _), T::Map(to, _)) => {
            return pair(from)
                .zip(pair(to))
                .is_some_and(|((key, value), (to_key, to_value))| {
                    may_cast(key.data_type(), to_key.data_type())
                        && may_cast(value.data_type(), to_value.data_type())
                });
        }
        (T::Timestamp(_, from), T::Timestamp(_, to)) => from.is_some() == to.is_some(),
        (
            T::List(from) | T::LargeList(from) | T::FixedSizeList(from, _),
            T::List(to) | T::LargeList(to) | T::FixedSizeList(to, _),
        ) => return may_cast(from.data_type(), to.data_type()),
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8 | T::Utf8View)
        | (T::Date32 | T::Date64, T::Date32 | T::Date64)
        | (T::Time32(_) | T::Time64(_), T::Time32(_) | T::Time64(_))
        | (T::Duration(_), T::Duration(_))
        | (
            T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_),
            T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_),
        ) => true,
        (from, to) if from.is_integer() => to.is_integer() || to.is_floating(),
        (from, to) if from.is_floating() => to.is_floating(),
        (from, to) => from.is_decimal() && to.is_decimal(),
    };
    same_kind && can_cast_types(from, to) && can_cast_types(to, from)
}

#[cfg(test)]
mod tests {
    use super::expanded_bytes;
    use arrow::array::{ArrayRef, DictionaryArray};
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    #[test]
    fn a_dictionary_without_values_takes_no_bytes() {
        for rows in [Vec::<Option<&str>>::new(), vec![None, None]] {
            let nulls: DictionaryArray<Int32Type> = rows.into_iter().collect();
            let nulls: ArrayRef = Arc::new(nulls);
            assert_eq!(expanded_bytes(&nulls), 0);
        }
    }
}
