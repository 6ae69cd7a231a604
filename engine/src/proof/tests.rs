use super::*;
use arrow_array::types::Int8Type;
use arrow_array::{DictionaryArray, Float64Array, Int8Array, Int32Array, StringArray, StructArray};
use arrow_schema::Field;

fn batch(column: impl Array + 'static) -> RecordBatch {
    RecordBatch::try_from_iter([("a", Arc::new(column) as ArrayRef)]).expect("a batch")
}

fn same(was: &RecordBatch, is: &RecordBatch) -> bool {
    same_values(was, is, &BTreeSet::new()).is_ok()
}

/// `x`, null, `x`: the null is a key that is null or one that refers to a null.
fn dictionary(null_is_a_key: bool) -> DictionaryArray<Int8Type> {
    let middle = (!null_is_a_key).then_some(1);
    let keys = Int8Array::from(vec![Some(0), middle, Some(0)]);
    DictionaryArray::new(keys, Arc::new(StringArray::from(vec![Some("x"), None])))
}

#[test]
fn values_are_compared_bit_by_bit_and_dictionaries_by_value() {
    let nan = || batch(Float64Array::from(vec![f64::NAN, 0.0]));
    assert!(same(&nan(), &nan()));
    assert!(!same(
        &nan(),
        &batch(Float64Array::from(vec![f64::NAN, -0.0]))
    ));
    assert!(same(&batch(dictionary(true)), &batch(dictionary(false))));
    let inside = |null_is_a_key| {
        let child: ArrayRef = Arc::new(dictionary(null_is_a_key));
        let field = Field::new("d", child.data_type().clone(), true);
        let structs = StructArray::from(vec![(Arc::new(field), child)]);
        batch(structs)
    };
    assert!(same(&inside(true), &inside(false)));
    let narrow = batch(Int32Array::from(vec![1]));
    assert!(!same(&narrow, &batch(Int8Array::from(vec![1]))));
}

#[test]
fn a_null_more_or_less_is_seen_at_any_depth() {
    let tally = |values: Vec<Option<i32>>| {
        let field = Arc::new(Field::new("x", DataType::Int32, true));
        let child: ArrayRef = Arc::new(Int32Array::from(values));
        let mut tally = Tally::default();
        tally.add(&batch(StructArray::from(vec![(field, child)])));
        tally
    };
    let (one, two) = (tally(vec![Some(1), None]), tally(vec![None, None]));
    let moved = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let seen = same_nulls(&one, &two, &moved(&[])).expect_err("differs");
    assert_eq!(
        seen.to_string(),
        "column a.x has 2 nulls when read back and had 1"
    );
    assert!(same_nulls(&one, &two, &moved(&["a"])).is_ok());
}
