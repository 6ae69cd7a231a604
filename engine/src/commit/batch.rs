//! Batch ids: a batch is committed at most once, and its id stands for what it does.
//!
//! A digest tells an id that is used again for something else, which is an error, from a batch that is sent again. It
//! covers tables, modes, keys, predicates and every value, whatever file format the values came in and however they are
//! cut into batches. It does not cover messages, which a retry may change.

use super::joined::Joined;
use super::logical::TableWrite;
use super::stage::Write;
use crate::error::{Error, Result};
use crate::ids::OpId;
use crate::store::{Member, Snapshot, Store};
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType;
use sha2::{Digest, Sha256};
use squire_failpoints::{Guard, stands};
use std::collections::BTreeMap;

/// Bytes of the digest that are kept: two different batches under one id never collide by chance.
const KEPT_BYTES: usize = 16;

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
            let other = was.is_some() && was.as_deref() != digest;
            let answer = if other { Err(used(id, *op)) } else { Ok(*op) };
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

/// The digest of `writes`, as lower-case hexadecimal digits.
///
/// # Errors
/// `Internal` for a value that cannot be put into words.
pub(super) fn digest(writes: &[TableWrite]) -> Result<String> {
    let mut whole = Sha256::new();
    for TableWrite { table, write } in writes {
        text(&mut whole, table.as_str());
        let (mode, detail, rows) = parts(write);
        text(&mut whole, mode);
        text(&mut whole, detail);
        for (column, hash) in columns(rows)? {
            text(&mut whole, &column);
            whole.update(hash);
        }
    }
    let kept = &whole.finalize()[..KEPT_BYTES];
    Ok(kept.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn parts(write: &Write) -> (&'static str, &str, &[RecordBatch]) {
    match write {
        Write::Append(rows) => ("append", "", rows),
        Write::Merge { key, rows } => ("merge", key, rows),
        Write::DeleteKeys { key, rows } => ("delete_keys", key, rows),
        Write::Delete { predicate } => ("delete", predicate, &[]),
        Write::Overwrite(rows) => ("overwrite", "", rows),
        Write::Create { key, .. } => ("create", key.as_deref().unwrap_or_default(), &[]),
    }
}

/// A hash per column, by name.
fn columns(rows: &[RecordBatch]) -> Result<BTreeMap<String, [u8; 32]>> {
    let mut hashes: BTreeMap<String, Sha256> = BTreeMap::new();
    for batch in rows {
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let hash = hashes.entry(field.name().clone()).or_insert_with(|| {
                let mut hash = Sha256::new();
                text(&mut hash, &field.data_type().to_string());
                hash
            });
            values(hash, column.as_ref())?;
        }
    }
    Ok(hashes
        .into_iter()
        .map(|(name, hash)| (name, hash.finalize().into()))
        .collect())
}

/// Feeds every value of `array`, nulls as such.
fn values(hash: &mut Sha256, array: &dyn Array) -> Result<()> {
    if let Some(width) = array.data_type().primitive_width() {
        let data = array.to_data();
        let bytes = &data.buffers()[0].as_slice()[data.offset() * width..];
        each_valid(hash, array, |hash, row| {
            hash.update(&bytes[row * width..(row + 1) * width]);
            Ok(())
        })
    } else {
        match array.data_type() {
            DataType::Utf8 => {
                let strings = array.as_string::<i32>();
                each_valid(hash, array, |hash, row| {
                    text(hash, strings.value(row));
                    Ok(())
                })
            }
            DataType::FixedSizeList(..) => {
                let lists = array.as_fixed_size_list();
                each_valid(hash, array, |hash, row| {
                    values(hash, lists.value(row).as_ref())
                })
            }
            _ => in_words(hash, array),
        }
    }
}

fn in_words(hash: &mut Sha256, array: &dyn Array) -> Result<()> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options)
        .map_err(|e| Error::internal("a value has no words").caused_by(e))?;
    each_valid(hash, array, |hash, row| {
        let words = formatter.value(row).try_to_string();
        text(
            hash,
            &words.map_err(|e| Error::internal("a value has no words").caused_by(e))?,
        );
        Ok(())
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

/// With its length first, so that two texts are never one.
fn text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::Float32Type;
    use arrow_array::{FixedSizeListArray, Int64Array, StringArray};
    use std::sync::Arc;

    fn rows(ids: &[Option<i64>], names: &[&str], vectors: &[f32]) -> RecordBatch {
        let vectors: Vec<_> = vectors.iter().map(|v| Some(vec![Some(*v)])).collect();
        let list = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(vectors, 1);
        let columns: Vec<(&str, arrow_array::ArrayRef)> = vec![
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
            of("t", Write::Append(vec![whole])),
            of("t", Write::Append(cut))
        );
    }

    #[test]
    fn every_difference_shows() {
        let base = || rows(&[Some(1), Some(2)], &["ab", "c"], &[1.0, 2.0]);
        let key = || "id".to_owned();
        let different = [
            of("t", Write::Append(vec![base()])),
            of("u", Write::Append(vec![base()])),
            of("t", Write::Overwrite(vec![base()])),
            of(
                "t",
                Write::Merge {
                    key: key(),
                    rows: vec![base()],
                },
            ),
            of("t", Write::Append(vec![base().slice(0, 1)])),
            of(
                "t",
                Write::Append(vec![rows(&[Some(1), None], &["ab", "c"], &[1.0, 2.0])]),
            ),
            of(
                "t",
                Write::Append(vec![rows(&[Some(1), Some(2)], &["a", "bc"], &[1.0, 2.0])]),
            ),
            of(
                "t",
                Write::Append(vec![rows(&[Some(1), Some(2)], &["ab", "c"], &[1.0, 2.5])]),
            ),
            of(
                "t",
                Write::Delete {
                    predicate: "a".into(),
                },
            ),
            of(
                "t",
                Write::Delete {
                    predicate: "b".into(),
                },
            ),
        ];
        let distinct: std::collections::BTreeSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len());
    }
}
