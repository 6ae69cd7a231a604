//! Columns under construction: one per column of the table, nested as its type is.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, BooleanBuilder, GenericStringBuilder, NullArray,
        OffsetSizeTrait, PrimitiveBuilder, StringViewBuilder, new_null_array,
    },
    compute::{CastOptions, cast_with_options},
    datatypes::{
        DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
        Decimal256Type, DecimalType, DurationMicrosecondType, DurationMillisecondType,
        DurationNanosecondType, DurationSecondType, FieldRef, Float16Type, Float32Type,
        Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
        Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
    },
    error::ArrowError,
};

use super::{
    cell::{Misfit, Value},
    nested::{FixedList, List, Map, Struct},
    number, time,
};
use crate::formats::shape::Coercion;

/// Why a value was refused, and where in its column.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The path below the column, outermost first; empty for the column itself.
    pub(super) inner: Vec<String>,
    pub(super) reason: Reason,
}

#[derive(Debug)]
pub(super) enum Reason {
    /// The value (shortened by whoever shows it) and what is wrong with it.
    Value(String, Misfit),
    /// The same of a date whose day and month have an order.
    Dated(String, Coercion, Misfit),
    /// Null where a value is required.
    Null,
    /// A list of this many items for a type with another number of them.
    Length(usize, i32),
    /// The type has no such field.
    Unknown,
}

impl Refusal {
    pub(super) fn value(value: &Value<'_>, misfit: Misfit) -> Self {
        let written = value.shown().into_owned();
        match value {
            Value::Dated { order, .. } => Reason::Dated(written, *order, misfit).into(),
            _ => Reason::Value(written, misfit).into(),
        }
    }

    pub(super) fn below(mut self, name: &str) -> Self {
        self.inner.insert(0, name.to_owned());
        self
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            inner: Vec::new(),
            reason,
        }
    }
}

/// Takes values and becomes an array. After an error it is of no further use.
pub(super) trait Column {
    /// Adds a value that is not null.
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal>;
    /// Adds a null.
    fn append_null(&mut self);
    /// Adds so many of them.
    fn append_nulls(&mut self, count: usize) {
        (0..count).for_each(|_| self.append_null());
    }
    /// Everything since the last call.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

/// A column together with what its schema says about nulls.
pub(super) struct Slot {
    pub(super) field: FieldRef,
    pub(super) column: Box<dyn Column>,
    /// An empty text is a value and not a null.
    holds_text: bool,
}

impl Slot {
    pub(super) fn new(field: &FieldRef) -> Self {
        Self {
            field: Arc::clone(field),
            column: column(field.data_type()),
            holds_text: holds_text(field.data_type()),
        }
    }

    pub(super) fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        match value {
            Value::Null if self.field.is_nullable() => self.column.append_null(),
            Value::Null => return Err(Reason::Null.into()),
            // Whoever quotes every field writes a null like this; no other type has an empty value.
            Value::Field("") if !self.holds_text => return self.append(&Value::Null),
            value => self.column.append(value)?,
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.column.finish()
    }
}

fn holds_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => holds_text(values),
        other => other.is_string(),
    }
}

fn column(data_type: &DataType) -> Box<dyn Column> {
    use DataType as T;
    match data_type {
        T::Null => Box::new(Nulls(0)),
        T::Boolean => Box::new(Booleans(BooleanBuilder::new())),
        T::Int8 => integers::<Int8Type>(),
        T::Int16 => integers::<Int16Type>(),
        T::Int32 => integers::<Int32Type>(),
        T::Int64 => integers::<Int64Type>(),
        T::UInt8 => integers::<UInt8Type>(),
        T::UInt16 => integers::<UInt16Type>(),
        T::UInt32 => integers::<UInt32Type>(),
        T::UInt64 => integers::<UInt64Type>(),
        T::Float16 => floats::<Float16Type>(number::half),
        T::Float32 => floats::<Float32Type>(number::single),
        T::Float64 => floats::<Float64Type>(number::double),
        T::Decimal32(precision, scale) => {
            let native = |value: i256| value.to_i128().and_then(|v| i32::try_from(v).ok());
            decimals::<Decimal32Type>(data_type, *precision, *scale, native)
        }
        T::Decimal64(precision, scale) => {
            let native = |value: i256| value.to_i128().and_then(|v| i64::try_from(v).ok());
            decimals::<Decimal64Type>(data_type, *precision, *scale, native)
        }
        T::Decimal128(precision, scale) => {
            decimals::<Decimal128Type>(data_type, *precision, *scale, i256::to_i128)
        }
        T::Decimal256(precision, scale) => {
            decimals::<Decimal256Type>(data_type, *precision, *scale, Some)
        }
        T::Utf8 => Box::new(Texts(GenericStringBuilder::<i32>::new())),
        T::LargeUtf8 => Box::new(Texts(GenericStringBuilder::<i64>::new())),
        T::Utf8View => Box::new(TextViews(StringViewBuilder::new())),
        T::Dictionary(_, values) => Box::new(Dictionary {
            values: column(values),
            data_type: data_type.clone(),
        }),
        T::List(item) => Box::new(List::<i32>::new(item)),
        T::LargeList(item) => Box::new(List::<i64>::new(item)),
        T::FixedSizeList(item, size) => Box::new(FixedList::new(item, *size)),
        T::Struct(fields) => Box::new(Struct::new(fields)),
        T::Map(entries, ordered) => match Map::new(entries, *ordered) {
            Some(map) => Box::new(map),
            None => Box::new(NoText::new(data_type)),
        },
        other => times(other).unwrap_or_else(|| Box::new(NoText::new(other))),
    }
}

fn times(data_type: &DataType) -> Option<Box<dyn Column>> {
    use DataType as T;
    use TimeUnit as U;
    Some(match data_type {
        T::Date32 => primitive::<Date32Type>(data_type, |value| time::date(value.time()?)),
        T::Date64 => primitive::<Date64Type>(data_type, |value| {
            Ok(i64::from(time::date(value.time()?)?) * 86_400_000)
        }),
        T::Time32(U::Second) => short_times::<Time32SecondType>(data_type, U::Second),
        T::Time32(_) => short_times::<Time32MillisecondType>(data_type, U::Millisecond),
        T::Time64(U::Microsecond) => long_times::<Time64MicrosecondType>(data_type, U::Microsecond),
        T::Time64(_) => long_times::<Time64NanosecondType>(data_type, U::Nanosecond),
        T::Timestamp(unit, zone) => {
            let (unit, zoned) = (*unit, zone.is_some());
            let parse = move |value: &Value<'_>| time::timestamp(value.time()?, unit, zoned);
            match unit {
                U::Second => primitive::<TimestampSecondType>(data_type, parse),
                U::Millisecond => primitive::<TimestampMillisecondType>(data_type, parse),
                U::Microsecond => primitive::<TimestampMicrosecondType>(data_type, parse),
                U::Nanosecond => primitive::<TimestampNanosecondType>(data_type, parse),
            }
        }
        T::Duration(unit) => {
            let unit = *unit;
            let parse = move |value: &Value<'_>| time::duration(value.time()?, unit);
            match unit {
                U::Second => primitive::<DurationSecondType>(data_type, parse),
                U::Millisecond => primitive::<DurationMillisecondType>(data_type, parse),
                U::Microsecond => primitive::<DurationMicrosecondType>(data_type, parse),
                U::Nanosecond => primitive::<DurationNanosecondType>(data_type, parse),
            }
        }
        _ => return None,
    })
}

struct Primitive<T: ArrowPrimitiveType, P> {
    values: PrimitiveBuilder<T>,
    parse: P,
}

fn primitive<T: ArrowPrimitiveType>(
    data_type: &DataType,
    parse: impl Fn(&Value<'_>) -> Result<T::Native, Misfit> + 'static,
) -> Box<dyn Column> {
    let values = PrimitiveBuilder::<T>::new().with_data_type(data_type.clone());
    Box::new(Primitive { values, parse })
}

fn integers<T: ArrowPrimitiveType>() -> Box<dyn Column>
where
    T::Native: TryFrom<i128>,
{
    primitive::<T>(&T::DATA_TYPE, |value| number::integer(value.number()?))
}

fn floats<T: ArrowPrimitiveType>(parse: fn(&str) -> Result<T::Native, Misfit>) -> Box<dyn Column> {
    primitive::<T>(&T::DATA_TYPE, move |value| parse(value.number()?))
}

fn decimals<T: DecimalType>(
    data_type: &DataType,
    precision: u8,
    scale: i8,
    native: fn(i256) -> Option<T::Native>,
) -> Box<dyn Column> {
    primitive::<T>(data_type, move |value| {
        number::decimal::<T>(value.number()?, precision, scale, native)
    })
}

fn short_times<T: ArrowPrimitiveType<Native = i32>>(
    data_type: &DataType,
    unit: TimeUnit,
) -> Box<dyn Column> {
    primitive::<T>(data_type, move |value| {
        let time = time::time(value.time()?, unit)?;
        i32::try_from(time).map_err(|_| "is out of range")
    })
}

fn long_times<T: ArrowPrimitiveType<Native = i64>>(
    data_type: &DataType,
    unit: TimeUnit,
) -> Box<dyn Column> {
    primitive::<T>(data_type, move |value| time::time(value.time()?, unit))
}

impl<T, P> Column for Primitive<T, P>
where
    T: ArrowPrimitiveType,
    P: Fn(&Value<'_>) -> Result<T::Native, Misfit>,
{
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        let native = (self.parse)(value).map_err(|misfit| Refusal::value(value, misfit))?;
        self.values.append_value(native);
        Ok(())
    }

    fn append_null(&mut self) {
        self.values.append_null();
    }

    fn append_nulls(&mut self, count: usize) {
        self.values.append_nulls(count);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.values.finish()))
    }
}

/// The builders of Arrow that have no trait in common.
macro_rules! from_builder {
    ($column:ty, $parse:ident) => {
        impl Column for $column {
            fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
                let parsed = value.$parse();
                let parsed = parsed.map_err(|misfit| Refusal::value(value, misfit))?;
                self.0.append_value(parsed);
                Ok(())
            }

            fn append_null(&mut self) {
                self.0.append_null();
            }

            fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
                Ok(Arc::new(self.0.finish()))
            }
        }
    };
}

struct Booleans(BooleanBuilder);
struct Texts<O: OffsetSizeTrait>(GenericStringBuilder<O>);
struct TextViews(StringViewBuilder);

from_builder!(Booleans, boolean);
from_builder!(Texts<i32>, text);
from_builder!(Texts<i64>, text);
from_builder!(TextViews, text);

/// A column of a type whose values no text stands for: binary (base64, hex and plain text look alike), intervals, unions, columns
/// of runs, and maps whose keys are no texts. Its rows can be null.
struct NoText {
    data_type: DataType,
    rows: usize,
}

impl NoText {
    fn new(data_type: &DataType) -> Self {
        Self {
            data_type: data_type.clone(),
            rows: 0,
        }
    }
}

impl Column for NoText {
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        let misfit = "cannot be told to be a value of this type; write Parquet or Arrow";
        Err(Refusal::value(value, misfit))
    }

    fn append_null(&mut self) {
        self.rows += 1;
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        Ok(new_null_array(&self.data_type, rows))
    }
}

struct Nulls(usize);

impl Column for Nulls {
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        let misfit = "is a value, and the column holds nulls only";
        Err(Refusal::value(value, misfit))
    }

    fn append_null(&mut self) {
        self.0 += 1;
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(NullArray::new(std::mem::take(&mut self.0))))
    }
}

/// Built as plain values, and encoded at the end.
struct Dictionary {
    values: Box<dyn Column>,
    data_type: DataType,
}

impl Column for Dictionary {
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        self.values.append(value)
    }

    fn append_null(&mut self) {
        self.values.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        cast_with_options(&self.values.finish()?, &self.data_type, &strict)
    }
}
