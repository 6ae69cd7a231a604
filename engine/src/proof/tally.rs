//! What decoded columns hold: nulls, bytes, and items behind 32-bit offsets. Pure.
//!
//! Everything is counted as a reader sees it: what stands below a null parent or outside a list's offsets is not there.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use std::collections::BTreeMap;
use std::ops::Range;

/// One column, or one level of a nested one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    /// Rows that are null although their parents are not.
    pub(crate) nulls: u64,
    /// Bytes of its own buffers, without its children's.
    pub(crate) bytes: u64,
    /// What its 32-bit offsets count, if it has some: bytes of text, items of a list. An array holds 2^31 - 1 at most.
    pub(crate) items: u64,
}

/// Some rows, by column: `a`, `a.b` for a field of a struct, `a.item` for a list's items.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) columns: BTreeMap<String, Column>,
}

fn total(ranges: &[Range<usize>]) -> u64 {
    ranges.iter().map(|r| r.len() as u64).sum()
}

/// The ranges of items that `live` rows refer to.
fn through<T: Copy + Into<i64>>(offsets: &[T], live: &[Range<usize>]) -> Vec<Range<usize>> {
    let at = |i: usize| usize::try_from(offsets[i].into()).unwrap_or(0);
    live.iter().map(|r| at(r.start)..at(r.end)).collect()
}

fn times(live: &[Range<usize>], size: usize) -> Vec<Range<usize>> {
    live.iter().map(|r| r.start * size..r.end * size).collect()
}

fn view_bytes(views: &[u128], live: &[Range<usize>]) -> u64 {
    let lengths = live.iter().flat_map(|r| &views[r.clone()]);
    // The low 32 bits of a view are its length.
    lengths
        .map(|view| (view & u128::from(u32::MAX)) as u64)
        .sum()
}

impl Tally {
    /// Adds the rows of `batch`.
    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let all = 0..column.len();
            self.visit(field.name(), column.as_ref(), std::slice::from_ref(&all));
        }
    }

    /// Adds what another tally saw.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        for (name, seen) in &other.columns {
            let column = self.columns.entry(name.clone()).or_default();
            column.nulls += seen.nulls;
            column.bytes += seen.bytes;
            column.items += seen.items;
        }
    }

    /// Bytes of all columns.
    pub(crate) fn bytes(&self) -> u64 {
        self.columns.values().map(|c| c.bytes).sum()
    }

    /// The column with the most items behind 32-bit offsets.
    pub(crate) fn widest(&self) -> (&str, u64) {
        let items = self
            .columns
            .iter()
            .map(|(name, c)| (name.as_str(), c.items));
        items.max_by_key(|(_, items)| *items).unwrap_or(("", 0))
    }

    fn visit(&mut self, path: &str, array: &dyn Array, live: &[Range<usize>]) {
        let mut valid = live.to_vec();
        let mut nulls = 0;
        if let Some(buffer) = array.logical_nulls() {
            valid.clear();
            for rows in live {
                let part = buffer.slice(rows.start, rows.len());
                nulls += part.null_count() as u64;
                let slices = part.valid_slices();
                valid.extend(slices.map(|(from, to)| rows.start + from..rows.start + to));
            }
        }
        let (bytes, items) = self.descend(path, array, live, &valid);
        let column = self.columns.entry(path.to_owned()).or_default();
        column.nulls += nulls;
        column.bytes += bytes;
        column.items += items;
    }

    /// Visits the children of `array`; the bytes of its own buffers and what its 32-bit offsets count.
    fn descend(
        &mut self,
        path: &str,
        array: &dyn Array,
        live: &[Range<usize>],
        valid: &[Range<usize>],
    ) -> (u64, u64) {
        let rows = total(live);
        match array.data_type() {
            DataType::Struct(fields) => {
                for (field, child) in fields.iter().zip(array.as_struct().columns()) {
                    self.visit(&format!("{path}.{}", field.name()), child.as_ref(), valid);
                }
                (0, 0)
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let items = through(list.value_offsets(), valid);
                self.visit(&format!("{path}.item"), list.values().as_ref(), &items);
                (rows * 4, total(&items))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let items = through(list.value_offsets(), valid);
                self.visit(&format!("{path}.item"), list.values().as_ref(), &items);
                (rows * 8, 0)
            }
            DataType::FixedSizeList(_, size) => {
                let items = times(valid, usize::try_from(*size).unwrap_or(0));
                let values = array.as_fixed_size_list().values();
                self.visit(&format!("{path}.item"), values.as_ref(), &items);
                (0, 0)
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let items = through(map.value_offsets(), valid);
                self.visit(&format!("{path}.item"), map.entries(), &items);
                (rows * 4, total(&items))
            }
            _ => leaf(array, rows, valid),
        }
    }
}

/// Bytes of the buffers of an array without children, and what its 32-bit offsets count.
fn leaf(array: &dyn Array, rows: u64, valid: &[Range<usize>]) -> (u64, u64) {
    let narrow = |offsets: &[i32]| {
        let bytes = total(&through(offsets, valid));
        (rows * 4 + bytes, bytes)
    };
    let wide = |offsets: &[i64]| (rows * 8 + total(&through(offsets, valid)), 0);
    match array.data_type() {
        DataType::Utf8 => narrow(array.as_string::<i32>().value_offsets()),
        DataType::Binary => narrow(array.as_binary::<i32>().value_offsets()),
        DataType::LargeUtf8 => wide(array.as_string::<i64>().value_offsets()),
        DataType::LargeBinary => wide(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => {
            let views = array.as_string_view().views();
            (rows * 16 + view_bytes(views, valid), 0)
        }
        DataType::BinaryView => {
            let views = array.as_binary_view().views();
            (rows * 16 + view_bytes(views, valid), 0)
        }
        DataType::Boolean => (rows.div_ceil(8), 0),
        DataType::FixedSizeBinary(size) => (rows * u64::try_from(*size).unwrap_or(0), 0),
        // The values of a dictionary are held once, however many rows refer to them.
        DataType::Dictionary(key, _) => (rows * key.primitive_width().unwrap_or(4) as u64, 0),
        other => (rows * other.primitive_width().unwrap_or(0) as u64, 0),
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
