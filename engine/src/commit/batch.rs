//! Batch ids: a batch is committed at most once, and its id stands for what it does.
//!
//! A digest tells an id that is used again for something else, which is an error, from a batch that is sent again. It
//! covers tables, modes, keys, predicates and every value, whatever file format the values came in and however they are
//! cut into batches. It does not cover messages, which a retry may change.

use super::joined::Joined;
use super::logical::TableWrite;
use super::stage::Write;
use super::streamed::Purpose;
use crate::error::{Error, Result};
use crate::ids::{Key, OpId};
use crate::store::{Member, Snapshot, Store};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, make_array};
use arrow_schema::DataType;
use sha2::{Digest, Sha256};
use squire_failpoints::{Guard, stands};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of the digest that are kept: two different batches under one id never collide by chance.
const KEPT_BYTES: usize = 16;

/// How digests are made; the first one took nested values by their words, in which different ones may be the same.
/// The second took a column of nothing but nulls for more than none: a batch that came again after a column had been added was
/// another one.
const MAKE: &str = "3.";

/// A batch whose id was committed before.
#[derive(Debug)]
pub struct Repeated {
    /// Which one, counted from 0.
    pub index: usize,
    /// The operation that committed it; `InvalidInput` when that was with other content.
    pub answer: Result<OpId>,
}

impl Store {
    /// Those of the batches that were committed before.
    pub(super) async fn repeated(
        &self,
        base: &Snapshot,
        joined: &Joined<'_>,
    ) -> Result<Vec<Repeated>> {
        let ids = joined.batches.iter().filter_map(Member::id);
        let ids: Vec<&str> = ids.map(|(id, _)| id).collect();
        if ids.is_empty() || !stands(Guard::BatchId) {
            return Ok(Vec::new());
        }
        let committed = self.batches_committed(base, ids).await?;
        let known = joined.batches.iter().enumerate().filter_map(|(index, is)| {
            let (id, digest) = is.id()?;
            let (op, was) = committed.get(id)?;
            let answer = if is_other(was.as_deref(), digest) {
                Err(used(id, *op))
            } else {
                Ok(*op)
            };
            Some(Repeated { index, answer })
        });
        let known: Vec<Repeated> = known.collect();
        if !known.is_empty() {
            // The caller hears that it is committed, whoever did it and whether or not it has reached the disk.
            self.sync_found().await?;
        }
        Ok(known)
    }
}

fn used(id: &str, op: OpId) -> Error {
    Error::invalid(format!(
        "batch id {id:?} was committed by operation {op} with other content, so nothing of this batch was committed; give it an id of its own"
    ))
}

/// Whether a batch of the digest `was` is another one than that of `digest`. Of one whose digest was made in another way
/// the id alone is known.
fn is_other(was: Option<&str>, digest: Option<&str>) -> bool {
    was.filter(|was| was.starts_with(MAKE))
        .is_some_and(|was| digest != Some(was))
}

/// The digest of `writes`: how it was made, and lower-case hexadecimal digits.
///
/// # Errors
/// `InvalidInput` for a column of a type that has none.
pub(super) fn digest(writes: &[TableWrite]) -> Result<String> {
    let mut whole = Sha256::new();
    for TableWrite { table, write } in writes {
        text(&mut whole, table.as_str());
        let (mode, detail) = parts(write);
        text(&mut whole, mode);
        text(&mut whole, &detail);
        let mut columns = Columns::default();
        match write.added() {
            // Whether its rows were held or not is nobody's concern.
            Some(rows) => rows.read(Purpose::Digest, &mut |batch| columns.add(&batch))?,
            None => write
                .held()
                .iter()
                .try_for_each(|batch| columns.add(batch))?,
        }
        whole.update(columns.rows.to_le_bytes());
        for (column, (hash, _)) in columns.hashes.into_iter().filter(|(_, (_, has))| *has) {
            text(&mut whole, &column);
            whole.update(hash.finalize());
        }
    }
    let kept = &whole.finalize()[..KEPT_BYTES];
    let digits: String = kept.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{MAKE}{digits}"))
}

fn parts(write: &Write) -> (&'static str, Cow<'_, str>) {
    // No column's name holds U+0000.
    let columns = |key: &Key| key.columns().join("\0");
    match write {
        Write::Append(_) => ("append", "".into()),
        Write::Overwrite(_) => ("overwrite", "".into()),
        Write::Replace { predicate, .. } => ("replace", predicate.into()),
        Write::Merge { key, when, .. } => (when.as_str(), columns(key).into()),
        Write::DeleteKeys { key, .. } => ("delete_keys", columns(key).into()),
        Write::Delete { predicate } => ("delete", predicate.into()),
        Write::Alter(alteration) => ("alter", alteration.to_string().into()),
        // When it is sent again, its columns are there.
        Write::Evolve { then, .. } => parts(then),
        Write::Create { key, .. } => {
            let columns = key.as_ref().map(columns);
            ("create", columns.unwrap_or_default().into())
        }
    }
}

/// A hash per column, by name, and whether it has any value.
#[derive(Default)]
struct Columns {
    rows: u64,
    hashes: BTreeMap<String, (Sha256, bool)>,
}

impl Columns {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let entry = self.hashes.entry(field.name().clone());
            let (hash, has_any) = entry.or_insert_with(|| {
                let mut hash = Sha256::new();
                text(&mut hash, &field.data_type().to_string());
                (hash, false)
            });
            values(hash, column.as_ref())?;
            *has_any |= column.logical_null_count() < column.len();
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
}

/// Feeds every value of `array`, nulls as such, row by row. What is of no fixed length says its length first, so that no two
/// different values are the same bytes.
fn values(hash: &mut Sha256, array: &dyn Array) -> Result<()> {
    use DataType as T;
    if let Some(width) = array.data_type().primitive_width() {
        let data = array.to_data();
        let data_bytes = &data.buffers()[0].as_slice()[data.offset() * width..];
        return each_valid(hash, array, |hash, row| {
            hash.update(&data_bytes[row * width..(row + 1) * width]);
            Ok(())
        });
    }
    match array.data_type() {
        T::Null => each_valid(hash, array, |_, _| Ok(())),
        T::Boolean => {
            let values = array.as_boolean();
            each_valid(hash, array, |hash, row| {
                hash.update([u8::from(values.value(row))]);
                Ok(())
            })
        }
        T::Utf8 => each_bytes(hash, array, |row| {
            array.as_string::<i32>().value(row).as_bytes()
        }),
        T::LargeUtf8 => each_bytes(hash, array, |row| {
            array.as_string::<i64>().value(row).as_bytes()
        }),
        T::Utf8View => each_bytes(hash, array, |row| {
            array.as_string_view().value(row).as_bytes()
        }),
        T::Binary => each_bytes(hash, array, |row| array.as_binary::<i32>().value(row)),
        T::LargeBinary => each_bytes(hash, array, |row| array.as_binary::<i64>().value(row)),
        T::BinaryView => each_bytes(hash, array, |row| array.as_binary_view().value(row)),
        T::FixedSizeBinary(_) => {
            each_bytes(hash, array, |row| array.as_fixed_size_binary().value(row))
        }
        T::List(_) => each_list(hash, array, |row| array.as_list::<i32>().value(row)),
        T::LargeList(_) => each_list(hash, array, |row| array.as_list::<i64>().value(row)),
        T::FixedSizeList(..) => each_list(hash, array, |row| array.as_fixed_size_list().value(row)),
        T::Map(..) => each_list(hash, array, |row| Arc::new(array.as_map().value(row))),
        T::Struct(_) => each_valid(hash, array, |hash, row| {
            let mut fields = array.as_struct().columns().iter();
            fields.try_for_each(|field| values(hash, field.slice(row, 1).as_ref()))
        }),
        T::Dictionary(_, of) => {
            let plain = arrow_cast::cast(&make_array(array.to_data()), of);
            let plain =
                plain.map_err(|e| Error::invalid("a dictionary is damaged").caused_by(e))?;
            values(hash, plain.as_ref())
        }
        other => Err(Error::invalid(format!(
            "a batch with a column of type {other} cannot be told from another one; give it no id"
        ))),
    }
}

fn each_bytes<'a>(
    hash: &mut Sha256,
    array: &dyn Array,
    value: impl Fn(usize) -> &'a [u8],
) -> Result<()> {
    each_valid(hash, array, |hash, row| {
        bytes(hash, value(row));
        Ok(())
    })
}

fn each_list(
    hash: &mut Sha256,
    array: &dyn Array,
    value: impl Fn(usize) -> ArrayRef,
) -> Result<()> {
    each_valid(hash, array, |hash, row| {
        let items = value(row);
        hash.update((items.len() as u64).to_le_bytes());
        values(hash, items.as_ref())
    })
}

fn each_valid(
    hash: &mut Sha256,
    array: &dyn Array,
    feed: impl Fn(&mut Sha256, usize) -> Result<()>,
) -> Result<()> {
    for row in 0..array.len() {
        let valid = array.is_valid(row);
        hash.update([u8::from(valid)]);
        if valid {
            feed(hash, row)?;
        }
    }
    Ok(())
}

fn text(hash: &mut Sha256, text: &str) {
    bytes(hash, text.as_bytes());
}

/// With their length first, so that two are never one.
fn bytes(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::When;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::types::{Float32Type, Int8Type};
    use arrow_array::{
        BooleanArray, DictionaryArray, FixedSizeListArray, Int64Array, NullArray, StringArray,
        StructArray,
    };
    use arrow_schema::Field;

    fn rows(ids: &[Option<i64>], names: &[&str], vectors: &[f32]) -> RecordBatch {
        let vectors: Vec<_> = vectors.iter().map(|v| Some(vec![Some(*v)])).collect();
        let list = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 1);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(ids.to_vec()))),
            ("name", Arc::new(StringArray::from(names.to_vec()))),
            ("v", Arc::new(list)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn of(table: &str, write: Write) -> String {
        let table = table.parse().unwrap();
        digest(&[TableWrite { table, write }]).unwrap()
    }

    #[test]
    fn how_rows_are_cut_into_batches_does_not_matter() {
        let whole = rows(&[Some(1), None, Some(3)], &["a", "b", ""], &[1.0, 2.0, 3.0]);
        let cut = vec![whole.slice(0, 1), whole.slice(1, 2)];
        assert_eq!(
            of("t", Write::Append(vec![whole].into())),
            of("t", Write::Append(cut.into()))
        );
    }

    #[test]
    fn nested_values_differ_where_their_words_do_not() {
        let words = |lists: &[&[Option<&str>]]| -> ArrayRef {
            let mut built = ListBuilder::new(StringBuilder::new());
            for list in lists {
                built.append_value(list.iter().copied());
            }
            Arc::new(built.finish())
        };
        let pair = |p: Option<&str>, q: Option<&str>| -> ArrayRef {
            let column = |name: &str, value| {
                let text: ArrayRef = Arc::new(StringArray::from(vec![value]));
                (Arc::new(Field::new(name, DataType::Utf8, true)), text)
            };
            Arc::new(StructArray::from(vec![column("p", p), column("q", q)]))
        };
        let coded = |word: &str| -> ArrayRef {
            Arc::new(DictionaryArray::<Int8Type>::from_iter([Some(word)]))
        };
        let columns = [
            words(&[&[]]),
            words(&[&[None]]),
            words(&[&[Some("")]]),
            words(&[&[Some("a, b")]]),
            words(&[&[Some("a"), Some("b")]]),
            words(&[&[Some("a")], &[Some("b")]]),
            words(&[&[], &[Some("a"), Some("b")]]),
            pair(None, Some("")),
            pair(Some(""), None),
            pair(None, None),
            coded("a"),
            coded("b"),
            Arc::new(BooleanArray::from(vec![true])),
            Arc::new(BooleanArray::from(vec![false])),
            Arc::new(NullArray::new(1)),
            Arc::new(NullArray::new(2)),
        ];
        let digests = columns.map(|column| {
            let rows = RecordBatch::try_from_iter([("c", column)]).unwrap();
            of("t", Write::Append(vec![rows].into()))
        });
        let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }

    /// A column that was added when the batch came again is null in all of its rows.
    #[test]
    fn a_column_without_a_value_is_none() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let more = |values: Vec<Option<&str>>| {
            let more: ArrayRef = Arc::new(StringArray::from(values));
            let columns = [("id", ids.clone()), ("more", more)];
            of(
                "t",
                Write::Append(vec![RecordBatch::try_from_iter(columns).unwrap()].into()),
            )
        };
        let without = RecordBatch::try_from_iter([("id", ids.clone())]).unwrap();
        let without = of("t", Write::Append(vec![without].into()));
        assert_eq!(more(vec![None, None]), without);
        assert_ne!(more(vec![None, Some("")]), without);
    }

    #[test]
    fn a_digest_that_was_made_otherwise_tells_nothing() {
        assert!(!is_other(None, Some("3.ab")));
        assert!(!is_other(Some("2.ab"), Some("3.ab")));
        assert!(!is_other(Some("3.ab"), Some("3.ab")));
        assert!(is_other(Some("3.ab"), Some("3.ac")));
    }

    #[test]
    fn every_difference_shows() {
        let base = || vec![rows(&[Some(1), Some(2)], &["ab", "c"], &[1.0, 2.0])];
        let append = |rows: RecordBatch| of("t", Write::Append(vec![rows].into()));
        let merge = |key: &str, when| {
            let (key, rows) = (key.parse().unwrap(), base());
            of("t", Write::Merge { key, when, rows })
        };
        let delete = |predicate: &str| {
            let predicate = predicate.to_owned();
            of("t", Write::Delete { predicate })
        };
        let replace = |predicate: &str| {
            let (predicate, rows) = (predicate.to_owned(), base().into());
            of("t", Write::Replace { predicate, rows })
        };
        let part_of_merge = || {
            let (key, rows) = ("id".parse().unwrap(), vec![base()[0].slice(0, 1)]);
            let when = When::Upsert;
            of("t", Write::Merge { key, when, rows })
        };
        let delete_keys = |rows| {
            let key = "id".parse().unwrap();
            of("t", Write::DeleteKeys { key, rows })
        };
        let different = [
            of("t", Write::Append(base().into())),
            of("u", Write::Append(base().into())),
            of("t", Write::Overwrite(base().into())),
            replace("a"),
            replace("b"),
            merge("id", When::Upsert),
            merge("id", When::Insert),
            merge("id", When::Update),
            merge("id,name", When::Upsert),
            merge("name,id", When::Upsert),
            part_of_merge(),
            delete_keys(base()),
            delete_keys(vec![base()[0].slice(0, 1)]),
            append(base()[0].slice(0, 1)),
            append(rows(&[Some(1), None], &["ab", "c"], &[1.0, 2.0])),
            append(rows(&[Some(1), Some(2)], &["a", "bc"], &[1.0, 2.0])),
            append(rows(&[Some(1), Some(2)], &["ab", "c"], &[1.0, 2.5])),
            delete("a"),
            delete("b"),
        ];
        let distinct: std::collections::BTreeSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len());
    }
}
