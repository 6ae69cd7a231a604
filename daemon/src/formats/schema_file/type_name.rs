//! `list<struct<sku:utf8,price:decimal128<18,2>>>` -> a type.

use std::sync::Arc;

use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, Fields, TimeUnit,
};

use crate::formats::error::named;

/// The type names, as the error for a wrong one lists them.
const NAMES: &str = "int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, float32, float64, decimal128<P,S>, \
                     decimal256<P,S>, utf8, large_utf8, binary, large_binary, fixed_size_binary<N>, bool, date32, date64, \
                     time32_UNIT, time64_UNIT, timestamp_UNIT, timestamp_UNIT_utc, timestamp_UNIT<ZONE>, duration_UNIT, list<T>, \
                     large_list<T>, fixed_size_list<T,N>, struct<NAME:T,...>, where UNIT is s, ms, us or ns (time32: s or ms; \
                     time64: us or ns)";

/// Types within each other. Deeper than any table, and not as deep as a stack.
const MOST_DEPTH: usize = 32;

/// The type, or what is wrong with its name.
pub(crate) fn parse(name: &str) -> Result<DataType, String> {
    parse_within(name, MOST_DEPTH)
}

fn parse_within(name: &str, depth: usize) -> Result<DataType, String> {
    let name = name.trim();
    let parsed = match name.split_once('<') {
        None => single(name),
        Some((outer, rest)) => {
            let inner = rest.strip_suffix('>').map(|inner| parts(inner));
            match (inner, depth.checked_sub(1)) {
                (Some(parts), Some(depth)) => of_parts(outer.trim_end(), &parts, depth)?,
                _ => None,
            }
        }
    };
    parsed.ok_or_else(|| format!("unknown type {}; use one of {NAMES}", named(name)))
}

/// What stands between the commas that stand in no brackets.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let between = text.split(|c| {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    between.map(str::trim).collect()
}

/// A type that is made of others, or has numbers. `Err` says what is wrong with one of those.
fn of_parts(outer: &str, parts: &[&str], depth: usize) -> Result<Option<DataType>, String> {
    let item = |name: &str| {
        let item = parse_within(name, depth)?;
        Ok::<_, String>(Arc::new(Field::new_list_field(item, true)))
    };
    let size = |text: &str| text.parse::<i32>().ok().filter(|size| *size > 0);
    Ok(match (outer, parts) {
        ("list", [name]) => Some(DataType::List(item(name)?)),
        ("large_list", [name]) => Some(DataType::LargeList(item(name)?)),
        ("fixed_size_list", [name, count]) => {
            let item = item(name)?;
            size(count).map(|count| DataType::FixedSizeList(item, count))
        }
        ("fixed_size_binary", [count]) => size(count).map(DataType::FixedSizeBinary),
        ("struct", fields) => Some(DataType::Struct(members(fields, depth)?)),
        ("decimal128", [precision, scale]) => decimal(precision, scale, DECIMAL128_MAX_PRECISION)
            .map(|(p, s)| DataType::Decimal128(p, s)),
        ("decimal256", [precision, scale]) => decimal(precision, scale, DECIMAL256_MAX_PRECISION)
            .map(|(p, s)| DataType::Decimal256(p, s)),
        (outer, [zone]) => {
            let unit = outer.strip_prefix("timestamp_").and_then(unit);
            match unit {
                Some(unit) if is_zone(zone) => {
                    Some(DataType::Timestamp(unit, Some((*zone).into())))
                }
                Some(_) => {
                    let zone = named(zone);
                    return Err(format!(
                        "unknown time zone {zone}; use a name such as Europe/Berlin, or an offset such as +02:00"
                    ));
                }
                None => None,
            }
        }
        _ => None,
    })
}

/// The fields of a struct, all of which may be null.
fn members(fields: &[&str], depth: usize) -> Result<Fields, String> {
    let mut members: Vec<Field> = Vec::with_capacity(fields.len());
    for field in fields {
        let (name, data_type) = field.split_once(':').unwrap_or((field, ""));
        let name = name.trim();
        if name.is_empty() || data_type.is_empty() {
            let field = named(field);
            return Err(format!("{field} is no field of a struct; write NAME:TYPE"));
        }
        if members.iter().any(|member| member.name() == name) {
            return Err(format!("field {} stands twice in a struct", named(name)));
        }
        members.push(Field::new(name, parse_within(data_type, depth)?, true));
    }
    Ok(members.into())
}

/// At least one digit, at most `most`, and no more of them after the point than there are.
fn decimal(precision: &str, scale: &str, most: u8) -> Option<(u8, i8)> {
    let precision = precision.parse().ok().filter(|p| (1..=most).contains(p))?;
    let scale = scale.parse::<i8>().ok().filter(|s| *s >= 0)?;
    (scale.unsigned_abs() <= precision).then_some((precision, scale))
}

fn unit(name: &str) -> Option<TimeUnit> {
    Some(match name {
        "s" => TimeUnit::Second,
        "ms" => TimeUnit::Millisecond,
        "us" => TimeUnit::Microsecond,
        "ns" => TimeUnit::Nanosecond,
        _ => return None,
    })
}

/// A time zone of the IANA, or an offset.
fn is_zone(zone: &str) -> bool {
    let is_digit = |b: &u8| b.is_ascii_digit();
    match zone.as_bytes() {
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].into_iter().all(is_digit),
        _ => jiff::tz::TimeZone::get(zone).is_ok(),
    }
}

fn single(name: &str) -> Option<DataType> {
    use DataType as T;
    Some(match name {
        "int8" => T::Int8,
        "int16" => T::Int16,
        "int32" => T::Int32,
        "int64" => T::Int64,
        "uint8" => T::UInt8,
        "uint16" => T::UInt16,
        "uint32" => T::UInt32,
        "uint64" => T::UInt64,
        "float16" => T::Float16,
        "float32" => T::Float32,
        "float64" => T::Float64,
        "utf8" => T::Utf8,
        "large_utf8" => T::LargeUtf8,
        "binary" => T::Binary,
        "large_binary" => T::LargeBinary,
        "bool" => T::Boolean,
        "date32" => T::Date32,
        "date64" => T::Date64,
        _ => return time(name),
    })
}

fn time(name: &str) -> Option<DataType> {
    use TimeUnit as U;
    let (kind, rest) = name.split_once('_')?;
    let (rest, zone) = match rest.strip_suffix("_utc") {
        Some(rest) if kind == "timestamp" => (rest, Some("UTC".into())),
        _ => (rest, None),
    };
    Some(match (kind, unit(rest)?) {
        ("time32", unit @ (U::Second | U::Millisecond)) => DataType::Time32(unit),
        ("time64", unit @ (U::Microsecond | U::Nanosecond)) => DataType::Time64(unit),
        ("timestamp", unit) => DataType::Timestamp(unit, zone),
        ("duration", unit) => DataType::Duration(unit),
        _ => return None,
    })
}
