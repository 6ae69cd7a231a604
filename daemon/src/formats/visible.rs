//! What a column shows of its children. Behind a null list, and in front of and behind the part that a column has of its
//! children, anything may stand; it is no part of the data and must not decide over it.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, MapArray,
        OffsetSizeTrait, StructArray, UInt64Array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    compute::{nullif, take},
    datatypes::DataType,
};

/// `array` with nothing but nulls in the places of its children that it does not show, or without these places. `None` where
/// Arrow builds no such array.
pub(super) fn visible(array: &ArrayRef) -> Option<ArrayRef> {
    use DataType as T;
    Some(match array.data_type() {
        T::Struct(fields) if !fields.is_empty() => {
            let array = array.as_struct();
            let columns = array.columns().iter();
            let columns = columns.map(|column| shown(column, array.nulls()));
            let columns = columns.collect::<Option<Vec<_>>>()?;
            let nulls = array.nulls().cloned();
            Arc::new(StructArray::try_new(fields.clone(), columns, nulls).ok()?)
        }
        T::List(_) => list(array.as_list::<i32>())?,
        T::LargeList(_) => list(array.as_list::<i64>())?,
        T::FixedSizeList(item, size) if *size > 0 => {
            let array = array.as_fixed_size_list();
            let items = usize::try_from(*size).ok()?;
            let nulls = array.nulls().map(|nulls| nulls.expand(items));
            let values = shown(array.values(), nulls.as_ref())?;
            let (item, nulls) = (Arc::clone(item), array.nulls().cloned());
            Arc::new(FixedSizeListArray::try_new(item, *size, values, nulls).ok()?)
        }
        T::Map(entries, sorted) => {
            let array = array.as_map();
            let values: ArrayRef = Arc::new(array.entries().clone());
            let (offsets, values) = items(array.offsets(), array.nulls(), &values)?;
            let (field, nulls) = (Arc::clone(entries), array.nulls().cloned());
            let entries = values.as_struct().clone();
            Arc::new(MapArray::try_new(field, offsets, entries, nulls, *sorted).ok()?)
        }
        _ => Arc::clone(array),
    })
}

/// A child of as many places as `outer` has, null where that is null.
fn shown(child: &ArrayRef, outer: Option<&NullBuffer>) -> Option<ArrayRef> {
    let takes_nulls = !matches!(
        child.data_type(),
        DataType::Union(..) | DataType::RunEndEncoded(..)
    );
    match outer.filter(|nulls| takes_nulls && nulls.null_count() > 0) {
        None => visible(child),
        Some(nulls) => {
            let hidden = BooleanArray::new(!nulls.inner(), None);
            visible(&nullif(child.as_ref(), &hidden).ok()?)
        }
    }
}

fn list<O: OffsetSizeTrait>(array: &GenericListArray<O>) -> Option<ArrayRef> {
    let (DataType::List(item) | DataType::LargeList(item)) = array.data_type() else {
        return None;
    };
    let (offsets, values) = items(array.offsets(), array.nulls(), array.values())?;
    let nulls = array.nulls().cloned();
    let list = GenericListArray::try_new(Arc::clone(item), offsets, values, nulls);
    Some(Arc::new(list.ok()?))
}

/// The items of the lists that are not null, and where each list has them.
fn items<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    nulls: Option<&NullBuffer>,
    values: &ArrayRef,
) -> Option<(OffsetBuffer<O>, ArrayRef)> {
    let lists = offsets.windows(2).enumerate();
    let lists: Vec<_> = lists
        .map(|(row, ends)| match nulls {
            Some(nulls) if nulls.is_null(row) => 0..0,
            _ => ends[0].as_usize()..ends[1].as_usize(),
        })
        .collect();
    if lists.iter().map(ExactSizeIterator::len).sum::<usize>() == values.len() {
        return Some((offsets.clone(), visible(values)?));
    }
    let offsets = OffsetBuffer::from_lengths(lists.iter().map(ExactSizeIterator::len));
    let indices: UInt64Array = lists.into_iter().flatten().map(|i| i as u64).collect();
    let values = take(values.as_ref(), &indices, None).ok()?;
    Some((offsets, visible(&values)?))
}
