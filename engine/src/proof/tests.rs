use super::*;
use arrow_array::builder::{Int8Builder, ListBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{
    DictionaryArray, Float64Array, Int8Array, Int32Array, MapArray, StringArray, StructArray,
};
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
    let mapped = |null_is_a_key| {
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let values: ArrayRef = Arc::new(dictionary(null_is_a_key));
        let fields = vec![
            Arc::new(Field::new("keys", DataType::Utf8, false)),
            Arc::new(Field::new("values", values.data_type().clone(), true)),
        ];
        let entries = StructArray::new(fields.clone().into(), vec![keys, values], None);
        let entry = Field::new("entries", DataType::Struct(fields.into()), false);
        let mut lists = ListBuilder::new(Int8Builder::new());
        lists.append_value([None, None]);
        lists.append_value([None]);
        let offsets = lists.finish().offsets().clone();
        batch(MapArray::new(
            Arc::new(entry),
            offsets,
            entries,
            None,
            false,
        ))
    };
    assert!(same(&mapped(true), &mapped(false)));
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
fn what_cannot_be_unpacked_is_no_fault_of_the_storage() {
    use super::side::is_storage;
    use std::io;
    let behind = |e: io::Error| is_storage(&Error::from(lance::Error::from(e)));
    for of_content in [
        io::Error::other("Unknown frame descriptor"),
        io::Error::new(io::ErrorKind::InvalidData, "lz4"),
        io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"),
    ] {
        assert!(!behind(of_content));
    }
    let away = || object_store::Error::Generic {
        store: "s3",
        source: "away".into(),
    };
    for of_storage in [
        io::Error::from_raw_os_error(5),
        io::Error::from(io::ErrorKind::TimedOut),
        io::Error::other(away()),
    ] {
        assert!(behind(of_storage));
    }
    assert!(is_storage(&Error::from(away())));
}

#[test]
fn rows_in_another_order_are_compared_by_their_keys() {
    let rows = |pairs: &[(i32, &str)]| {
        let keys = Int32Array::from_iter_values(pairs.iter().map(|(key, _)| *key));
        let texts = StringArray::from_iter_values(pairs.iter().map(|(_, text)| *text));
        let columns: [(&str, ArrayRef); 2] = [("k", Arc::new(keys)), ("v", Arc::new(texts))];
        RecordBatch::try_from_iter(columns).expect("a batch")
    };
    let given = rows(&[(1, "a"), (2, "b"), (3, "c")]);
    let compared = |written: &[RecordBatch]| {
        let mut sample = Keyed::of(std::slice::from_ref(&given), &["k".to_owned()])?;
        for batch in written {
            sample.see(batch, &BTreeSet::new())?;
        }
        sample.end()
    };
    let apart = [rows(&[(3, "c")]), rows(&[(2, "b"), (1, "a")])];
    assert!(compared(&apart).is_ok());
    for (written, why) in [
        (
            rows(&[(3, "c"), (2, "a"), (1, "b")]),
            "column v has other values",
        ),
        (
            rows(&[(3, "c"), (2, "b"), (9, "a")]),
            "1 of 3 rows are not read back under their keys",
        ),
    ] {
        let refused = compared(&[written]).expect_err("another row").to_string();
        assert!(refused.contains(why), "{refused}");
    }
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
