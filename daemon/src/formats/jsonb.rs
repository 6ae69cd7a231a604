//! JSON as Lance keeps it: large binaries of the extension `lance.json`, in the format that is called JSONB.
//!
//! ```text
//! container: header, entries, payloads      header: 3 bits kind, 29 bits how many values
//! an array has an entry a value, an object one a name and then one a value, a scalar one
//! entry: 1 bit, 3 bits kind, 28 bits length of its payload; all numbers big-endian
//! ```
//!
//! Its readers believe the lengths, and take texts for UTF-8 without a look: what is no JSONB becomes some other text, or ends them.

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{DataType, Field, Fields, Schema},
};

use super::visible::visible;

const EXTENSION: &str = "lance.json";

/// Containers within each other: as many as readers of JSON take.
const MOST_DEPTH: usize = 128;

const OF_CONTAINER: u32 = 0xe000_0000;
const ARRAY: u32 = 0x8000_0000;
const OBJECT: u32 = 0x4000_0000;
const SCALAR: u32 = 0x2000_0000;

const OF_ENTRY: u32 = 0x7000_0000;
const OF_LENGTH: u32 = 0x0fff_ffff;
const NULL: u32 = 0;
const STRING: u32 = 0x1000_0000;
const NUMBER: u32 = 0x2000_0000;
const FALSE: u32 = 0x3000_0000;
const TRUE: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;
const EXTENDED: u32 = 0x6000_0000;

/// The first row of a column in which a value that has to be JSONB is none.
pub(super) fn first_misfit(field: &Field, array: &ArrayRef) -> Option<usize> {
    let column = Schema::new(vec![field.clone()]);
    if !column.flattened_fields().into_iter().any(is_json) || is_whole(field, array) {
        return None;
    }
    let row = (0..array.len()).find(|row| !is_whole(field, &array.slice(*row, 1)));
    Some(row.unwrap_or(0))
}

fn is_json(field: &Field) -> bool {
    field.extension_type_name() == Some(EXTENSION) && *field.data_type() == DataType::LargeBinary
}

fn is_whole(field: &Field, array: &ArrayRef) -> bool {
    visible(array).is_none_or(|array| is_whole_throughout(field, &array))
}

/// Of an array that shows all of its children.
fn is_whole_throughout(field: &Field, array: &ArrayRef) -> bool {
    use DataType as T;
    match field.data_type() {
        _ if is_json(field) => array.as_binary::<i64>().iter().flatten().all(is_jsonb),
        T::Struct(fields) => are_whole(fields, array.as_struct().columns()),
        T::List(item) => is_whole_throughout(item, array.as_list::<i32>().values()),
        T::LargeList(item) => is_whole_throughout(item, array.as_list::<i64>().values()),
        T::FixedSizeList(item, _) => is_whole_throughout(item, array.as_fixed_size_list().values()),
        T::Map(..) => {
            let entries = array.as_map().entries();
            are_whole(entries.fields(), entries.columns())
        }
        _ => true,
    }
}

fn are_whole(fields: &Fields, columns: &[ArrayRef]) -> bool {
    let mut columns = fields.iter().zip(columns);
    columns.all(|(field, column)| is_whole_throughout(field, column))
}

fn is_jsonb(bytes: &[u8]) -> bool {
    container(bytes, MOST_DEPTH).is_some()
}

/// Reads to the end of a container; `None` where it is none.
fn container(bytes: &[u8], depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let (header, rest) = word(bytes)?;
    let count = usize::try_from(header & !OF_CONTAINER).ok()?;
    let (names, values) = match header & OF_CONTAINER {
        ARRAY => (0, count),
        OBJECT => (count, count),
        SCALAR => (0, 1),
        _ => return None,
    };
    let length = names.checked_add(values)?.checked_mul(4)?;
    let (entries, mut payloads) = rest.split_at_checked(length)?;
    for (index, entry) in entries.chunks_exact(4).enumerate() {
        let (entry, _) = word(entry)?;
        let length = usize::try_from(entry & OF_LENGTH).ok()?;
        let (payload, rest) = payloads.split_at_checked(length)?;
        payloads = rest;
        let is_value = match entry & OF_ENTRY {
            STRING => std::str::from_utf8(payload).is_ok(),
            _ if index < names => false,
            NULL | FALSE | TRUE => payload.is_empty(),
            NUMBER => is_number(payload),
            EXTENDED => is_extended(payload),
            CONTAINER => header & OF_CONTAINER != SCALAR && container(payload, depth).is_some(),
            _ => false,
        };
        is_value.then_some(())?;
    }
    payloads.is_empty().then_some(())
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*word), rest))
}

/// A kind, and as many bytes as it has: none for zero and what is no number, then integers, floats and decimals.
fn is_number(bytes: &[u8]) -> bool {
    bytes.split_first().is_some_and(|(kind, rest)| {
        matches!(
            (kind, rest.len()),
            (0x00 | 0x10 | 0x20 | 0x30, 0)
                | (0x40 | 0x50, 1 | 2 | 4 | 8)
                | (0x60, 8)
                | (0x70, 9 | 17 | 18 | 33 | 34)
        )
    })
}

/// Binary, a date, an instant without and with an offset, an interval.
fn is_extended(bytes: &[u8]) -> bool {
    bytes.split_first().is_some_and(|(kind, rest)| {
        matches!(
            (kind, rest.len()),
            (0x00, _) | (0x10, 4) | (0x20, 8) | (0x30, 9) | (0x40, 16)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::is_jsonb;

    /// `{"a":[1,-2,3.5,null,true,"é",12345678901234567890123],"b":{"c":{},"d":[]},"e":300}` as Lance wrote it.
    const WRITTEN: &str = "4000000310000001100000011000000150000038\
        5000001e200000036162658000000720000002200000022000000900000000400000001000000220000009\
        500140fe60400c000000000000c3a9604484ea15b273b38a\
        40000002100000011000000150000004500000046364400000008000000050012c";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        let digits = digits.map(|two| std::str::from_utf8(two).unwrap());
        digits
            .map(|two| u8::from_str_radix(two, 16).unwrap())
            .collect()
    }

    #[test]
    fn what_lance_writes_is_jsonb_and_no_part_of_it() {
        let written = bytes(WRITTEN);
        assert!(is_jsonb(&written));
        for end in 0..written.len() {
            assert!(!is_jsonb(&written[..end]), "its first {end} bytes");
        }
        assert!(!is_jsonb(&[&written[..], b"x"].concat()), "more behind it");
        for value in [
            "2000000000000000",
            "2000000040000000",
            "20000000100000026162",
        ] {
            assert!(is_jsonb(&bytes(value)), "{value}");
        }
    }

    #[test]
    fn nothing_else_is_jsonb() {
        for text in ["", "{}", "null", "[1,2", "\u{1}", "{\"a\":1}"] {
            assert!(!is_jsonb(text.as_bytes()), "{text}");
        }
        for other in [
            "ff0001",
            // A text that is no UTF-8, a name that is a number, a container in a scalar, and a number of three bytes.
            "2000000010000001ff",
            "40000001200000010000000000",
            "200000005000000480000000",
            "200000002000000440010203",
            "8000ffff",
        ] {
            let other = bytes(other);
            assert!(!is_jsonb(&other), "{other:x?}");
        }
        let deep = (0..200).fold(bytes("80000000"), |inner, _| {
            let length = u32::try_from(inner.len()).unwrap() | 0x5000_0000;
            [&bytes("80000001")[..], &length.to_be_bytes(), &inner].concat()
        });
        assert!(!is_jsonb(&deep));
    }
}
