use super::*;
use arrow_array::builder::{Int32Builder, ListBuilder, StringDictionaryBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, Int32Array, StringArray, StructArray};
use arrow_schema::{Field, Fields};
use std::sync::Arc;

fn tally(column: ArrayRef) -> Tally {
    let mut tally = Tally::default();
    tally.add(&RecordBatch::try_from_iter([("a", column)]).expect("a batch"));
    tally
}

fn nulls(tally: &Tally) -> Vec<(&str, u64)> {
    tally
        .columns
        .iter()
        .map(|(name, c)| (name.as_str(), c.nulls))
        .collect()
}

#[test]
fn what_stands_below_a_null_is_not_counted() {
    let field = Arc::new(Field::new("x", DataType::Int32, true));
    let child: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, None, Some(4)]));
    let valid = vec![true, true, false, false].into();
    let array = StructArray::new(Fields::from(vec![field]), vec![child], Some(valid));
    let seen = tally(Arc::new(array.clone()));
    assert_eq!(nulls(&seen), [("a", 2), ("a.x", 1)]);
    let seen = tally(Arc::new(array.slice(1, 3)));
    assert_eq!(nulls(&seen), [("a", 2), ("a.x", 1)]);
}

#[test]
fn lists_count_their_items_also_when_sliced() {
    let mut lists = ListBuilder::new(Int32Builder::new());
    lists.append_value([Some(1), None]);
    lists.append_null();
    lists.append_value([None, None, Some(3)]);
    let array = lists.finish();
    let seen = tally(Arc::new(array.clone()));
    assert_eq!(nulls(&seen), [("a", 1), ("a.item", 3)]);
    assert_eq!(seen.widest(), ("a", 5));
    let seen = tally(Arc::new(array.slice(2, 1)));
    assert_eq!(nulls(&seen), [("a", 0), ("a.item", 2)]);
}

#[test]
fn text_counts_its_bytes_and_a_dictionary_its_keys() {
    let text = StringArray::from(vec![Some("abc"), None, Some("defgh")]);
    let seen = tally(Arc::new(text.slice(1, 2)));
    assert_eq!((seen.widest(), seen.bytes()), (("a", 5), 13));
    let mut keys = StringDictionaryBuilder::<Int8Type>::new();
    keys.append_value("long text");
    keys.append_null();
    let seen = tally(Arc::new(keys.finish()));
    assert_eq!(nulls(&seen), [("a", 1)]);
    assert_eq!(seen.bytes(), 2);
}
