//! Structs of a file in the order of the table's fields, and lists and maps with the names that the table has for what is in
//! them. Arrow's cast goes by position where names differ, and back by position again, so that a value under another name would
//! seem to be kept; and between lists of two kinds it keeps the name of the items, which every writer calls as it likes.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
        StructArray, new_null_array,
    },
    datatypes::{DataType, Field, FieldRef, Fields},
};

use super::conform::slot_bytes;

/// The index in `from` of each field of `to`; `None` where it is not there and may be null. `None` at all where the
/// fields cannot be told by their names: one is unknown or there twice, or one that must not be null is missing.
pub(super) fn places(from: &Fields, to: &Fields) -> Option<Vec<Option<usize>>> {
    let mut places = Vec::with_capacity(to.len());
    for field in to {
        let mut found = from
            .iter()
            .enumerate()
            .filter(|(_, f)| f.name() == field.name());
        let place = found.next().map(|(index, _)| index);
        if found.next().is_some() || (place.is_none() && !field.is_nullable()) {
            return None;
        }
        places.push(place);
    }
    let known = places.iter().flatten().count();
    (known == from.len()).then_some(places)
}

/// `array` with the fields of its structs where `to` has them, nulls for those that it lacks, and all fields within it as `to` has
/// them but for their types. `None` where [`places`] is, or a null stands where `to` has none.
pub(super) fn by_name(array: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    use DataType as T;
    Some(match (array.data_type(), to) {
        (T::Null, to) => new_null_array(to, array.len()),
        (T::Struct(from), T::Struct(to)) if !to.is_empty() => {
            let array = array.as_struct();
            let (mut fields, mut columns) = (Vec::new(), Vec::new());
            for (place, to) in places(from, to)?.into_iter().zip(to) {
                let column = match place {
                    Some(place) => by_name(array.column(place), to.data_type())?,
                    None => new_null_array(to.data_type(), array.len()),
                };
                fields.push(retyped(to, &column));
                columns.push(column);
            }
            let nulls = array.nulls().cloned();
            Arc::new(StructArray::try_new(fields.into(), columns, nulls).ok()?)
        }
        (T::List(_), T::List(to) | T::LargeList(to) | T::FixedSizeList(to, _)) => {
            list(array.as_list::<i32>(), to)?
        }
        (T::LargeList(_), T::List(to) | T::LargeList(to) | T::FixedSizeList(to, _)) => {
            list(array.as_list::<i64>(), to)?
        }
        (T::FixedSizeList(_, size), T::List(to) | T::LargeList(to) | T::FixedSizeList(to, _)) => {
            let array = array.as_fixed_size_list();
            let values = by_name(array.values(), to.data_type())?;
            let (item, nulls) = (retyped(to, &values), array.nulls().cloned());
            Arc::new(FixedSizeListArray::try_new(item, *size, values, nulls).ok()?)
        }
        // An order of the keys can be forgotten, and not be made up.
        (T::Map(_, sorted), T::Map(to, to_sorted)) if *sorted || !*to_sorted => {
            let array = array.as_map();
            let (to_key, to_value) = pair(to)?;
            let keys = by_name(array.keys(), to_key.data_type())?;
            let values = by_name(array.values(), to_value.data_type())?;
            let fields: Fields = vec![retyped(to_key, &keys), retyped(to_value, &values)].into();
            let entries = StructArray::try_new(fields, vec![keys, values], None).ok()?;
            let field = Field::clone(to).with_data_type(entries.data_type().clone());
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            let map = MapArray::try_new(Arc::new(field), offsets, entries, nulls, *to_sorted);
            Arc::new(map.ok()?)
        }
        _ => Arc::clone(array),
    })
}

/// Bytes that [`by_name`] fills in.
pub(super) fn filled_bytes(array: &ArrayRef, to: &DataType) -> u64 {
    use DataType as T;
    match (array.data_type(), to) {
        (T::Null, to) => slot_bytes(to).saturating_mul(array.len() as u64),
        (T::Struct(from), T::Struct(to)) => {
            let Some(places) = places(from, to) else {
                return 0;
            };
            let columns = places.iter().zip(to).map(|(place, to)| match place {
                Some(place) => filled_bytes(array.as_struct().column(*place), to.data_type()),
                None => slot_bytes(to.data_type()).saturating_mul(array.len() as u64),
            });
            columns.fold(0, u64::saturating_add)
        }
        (from, T::List(to) | T::LargeList(to) | T::FixedSizeList(to, _)) => {
            let values = match from {
                T::List(_) => array.as_list::<i32>().values(),
                T::LargeList(_) => array.as_list::<i64>().values(),
                T::FixedSizeList(..) => array.as_fixed_size_list().values(),
                _ => return 0,
            };
            filled_bytes(values, to.data_type())
        }
        (T::Map(..), T::Map(to, _)) => pair(to).map_or(0, |(_, value)| {
            filled_bytes(array.as_map().values(), value.data_type())
        }),
        _ => 0,
    }
}

fn list<O: OffsetSizeTrait>(array: &GenericListArray<O>, to: &Field) -> Option<ArrayRef> {
    let values = by_name(array.values(), to.data_type())?;
    let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
    let list = GenericListArray::try_new(retyped(to, &values), offsets, values, nulls);
    Some(Arc::new(list.ok()?))
}

/// `field` with the type of `column`.
fn retyped(field: &Field, column: &ArrayRef) -> FieldRef {
    Arc::new(field.clone().with_data_type(column.data_type().clone()))
}

/// The key and the value of a map's entries, which writers name as they like.
pub(super) fn pair(entries: &Field) -> Option<(&FieldRef, &FieldRef)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Some((&fields[0], &fields[1])),
        _ => None,
    }
}
