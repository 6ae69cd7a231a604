//! INT96: a day and the nanoseconds of it, in a range that no unit of Arrow covers as a whole.
//!
//! Arrow reads it as nanoseconds since 1970 and lets the years before 1678 and after 2262 wrap around. So it is read as
//! microseconds, or as nanoseconds where the table has them, and a value that this unit does not hold is refused. Whether it
//! does, the same value in three units tells.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StructArray},
    datatypes::{
        DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
        TimestampNanosecondType, TimestampSecondType,
    },
};
use parquet::basic::Type as PhysicalType;

use super::{FormatError, Input};

impl Input<'_> {
    /// The file's schema with a unit for each INT96 column: the target's, or else microseconds unless that loses nanoseconds.
    pub(super) fn schema(&self, target: Option<&Schema>) -> Result<SchemaRef, FormatError> {
        if !self.has_int96() {
            return Ok(Arc::clone(self.metadata.schema()));
        }
        if let Some(target) = target {
            return Ok(self.with_units(|name| {
                let field = target.field_with_name(name);
                unit_of(field.map_or(&DataType::Null, Field::data_type))
            }));
        }
        let micros = self.with_units(|_| TimeUnit::Microsecond);
        if self.check_int96(&micros).is_ok() {
            return Ok(micros);
        }
        let nanos = self.with_units(|_| TimeUnit::Nanosecond);
        self.check_int96(&nanos).map(|()| nanos)
    }

    /// Refuses INT96 values that the units of `schema` do not hold.
    pub(super) fn check_int96(&self, schema: &SchemaRef) -> Result<(), FormatError> {
        if !self.has_int96() {
            return Ok(());
        }
        // A map cannot be read without its keys, so a column is read whole.
        let parquet = self.metadata.parquet_schema();
        let leaves = (0..parquet.num_columns()).filter(|leaf| self.is_int96(*leaf));
        let roots: HashSet<usize> = leaves.map(|l| parquet.get_column_root_idx(l)).collect();
        let read = |unit| {
            let in_root = |leaf| roots.contains(&parquet.get_column_root_idx(leaf));
            self.reader(&self.with_units(|_| unit), Some(&in_root))
        };
        let seconds = read(TimeUnit::Second)?;
        let (micros, nanos) = (read(TimeUnit::Microsecond)?, read(TimeUnit::Nanosecond)?);
        let mut rows = 0;
        for ((seconds, micros), nanos) in seconds.zip(micros).zip(nanos) {
            let failed = |e| FormatError::content(self.path, &e);
            let batches = [seconds, micros, nanos].map(|batch| batch.map_err(failed));
            let [seconds, micros, nanos] = batches;
            let batches = [&seconds?, &micros?, &nanos?];
            if let Some((row, field, unit)) = first_misfit(batches, schema) {
                return Err(FormatError::Lossy {
                    path: self.path.into(),
                    column: field.name().clone(),
                    row: rows + row + 1,
                    value: "an INT96 timestamp".to_owned(),
                    types: format!("INT96 -> {unit:?}"),
                });
            }
            rows += batches[0].num_rows();
        }
        Ok(())
    }

    fn is_int96(&self, leaf: usize) -> bool {
        let column = self.metadata.parquet_schema().column(leaf);
        column.physical_type() == PhysicalType::INT96
    }

    fn has_int96(&self) -> bool {
        let leaves = self.metadata.parquet_schema().num_columns();
        (0..leaves).any(|leaf| self.is_int96(leaf))
    }

    fn with_units(&self, unit_of: impl Fn(&str) -> TimeUnit) -> SchemaRef {
        let stored = self.metadata.schema();
        let mut leaf = 0;
        let fields = stored.fields().iter().map(|field| {
            let unit = unit_of(field.name());
            self.with_unit(field, unit, &mut leaf)
        });
        let fields: Fields = fields.collect();
        Arc::new(Schema::new_with_metadata(fields, stored.metadata().clone()))
    }

    /// The field, its INT96 leaves in `unit`. Both schemas have their leaves in the same order.
    fn with_unit(&self, field: &FieldRef, unit: TimeUnit, leaf: &mut usize) -> FieldRef {
        let data_type = match field.data_type() {
            DataType::List(item) => DataType::List(self.with_unit(item, unit, leaf)),
            DataType::LargeList(item) => DataType::LargeList(self.with_unit(item, unit, leaf)),
            DataType::FixedSizeList(item, size) => {
                DataType::FixedSizeList(self.with_unit(item, unit, leaf), *size)
            }
            DataType::Map(item, ordered) => {
                DataType::Map(self.with_unit(item, unit, leaf), *ordered)
            }
            DataType::Struct(fields) => {
                let fields = fields.iter().map(|field| self.with_unit(field, unit, leaf));
                DataType::Struct(fields.collect())
            }
            single => {
                *leaf += 1;
                match single {
                    DataType::Timestamp(_, zone) if self.is_int96(*leaf - 1) => {
                        DataType::Timestamp(unit, zone.clone())
                    }
                    other => other.clone(),
                }
            }
        };
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    }
}

/// Nanoseconds for a column that has them somewhere, microseconds for all others: seconds and milliseconds come of them by a
/// cast that loses nothing.
fn unit_of(data_type: &DataType) -> TimeUnit {
    let inner = match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => return TimeUnit::Nanosecond,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => std::slice::from_ref(item),
        DataType::Struct(fields) => fields,
        _ => &[],
    };
    let nanos = |field: &FieldRef| unit_of(field.data_type()) == TimeUnit::Nanosecond;
    if inner.iter().any(nanos) {
        TimeUnit::Nanosecond
    } else {
        TimeUnit::Microsecond
    }
}

/// The first row that does not fit the unit of its column in `schema`; the batches hold seconds, microseconds and nanoseconds.
fn first_misfit(
    batches: [&RecordBatch; 3],
    schema: &SchemaRef,
) -> Option<(usize, FieldRef, TimeUnit)> {
    let fields = batches[0].schema();
    fields
        .fields()
        .iter()
        .enumerate()
        .find_map(|(index, field)| {
            let wanted = schema.field_with_name(field.name());
            let unit = unit_of(wanted.map_or(&DataType::Null, Field::data_type));
            let columns = batches.map(|batch| Arc::clone(batch.column(index)));
            if fits(&columns, unit) {
                return None;
            }
            let misfit = |row: &usize| !fits(&columns.each_ref().map(|c| c.slice(*row, 1)), unit);
            let row = (0..batches[0].num_rows()).find(misfit).unwrap_or(0);
            Some((row, Arc::clone(field), unit))
        })
}

/// Whether every value is what it was. Arrow wraps around where a unit ends, so that microseconds are whole if a thousand times
/// as many are the nanoseconds, modulo 2^64, and in range if they are as many seconds.
fn fits(columns: &[ArrayRef; 3], unit: TimeUnit) -> bool {
    let [seconds, micros, nanos] = columns;
    if seconds.data_type() == nanos.data_type() {
        // Not one of them is an INT96.
        return true;
    }
    match seconds.data_type() {
        DataType::Timestamp(..) => {
            let seconds = seconds.as_primitive::<TimestampSecondType>();
            let micros = micros.as_primitive::<TimestampMicrosecondType>();
            let nanos = nanos.as_primitive::<TimestampNanosecondType>();
            let values = seconds.iter().zip(micros).zip(nanos);
            values.into_iter().all(|values| match values {
                ((Some(seconds), Some(micros)), Some(nanos)) => {
                    let range = micros.div_euclid(1_000_000) == seconds;
                    range
                        && match unit {
                            TimeUnit::Nanosecond => nanos.div_euclid(1_000) == micros,
                            _ => micros.wrapping_mul(1_000) == nanos,
                        }
                }
                _ => true,
            })
        }
        _ => {
            let inner = columns.each_ref().map(children);
            let [seconds, micros, nanos] = inner;
            let triples = seconds.into_iter().zip(micros).zip(nanos);
            triples
                .into_iter()
                .all(|((seconds, micros), nanos)| fits(&[seconds, micros, nanos], unit))
        }
    }
}

/// The columns within a column, cut to its rows.
fn children(array: &ArrayRef) -> Vec<ArrayRef> {
    fn of_struct(array: &StructArray) -> Vec<ArrayRef> {
        array.columns().to_vec()
    }
    match array.data_type() {
        DataType::Struct(_) => of_struct(array.as_struct()),
        DataType::Map(..) => {
            let map = array.as_map();
            let (start, end) = (map.value_offsets()[0], map.value_offsets()[map.len()]);
            let (start, end) = (usize::try_from(start), usize::try_from(end));
            let (start, end) = (start.unwrap_or(0), end.unwrap_or(0));
            of_struct(&map.entries().slice(start, end - start))
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            (0..list.len()).map(|row| list.value(row)).collect()
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (0..list.len()).map(|row| list.value(row)).collect()
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            (0..list.len()).map(|row| list.value(row)).collect()
        }
        _ => Vec::new(),
    }
}
