//! Rows in an order of the write's own: a sample of them is looked for by their keys.

use super::{SAMPLE, same_values, unfit, without_dictionaries};
use crate::error::{Error, Result};
use arrow_array::RecordBatch;
use arrow_row::{OwnedRow, RowConverter, Rows, SortField};
use arrow_schema::DataType;
use std::collections::{BTreeSet, HashMap};

/// Rows that were given, by their keys.
pub(super) struct Keyed {
    /// The columns of the key, each as what its dictionary refers to, if it is in one.
    key: Vec<(String, DataType)>,
    converter: RowConverter,
    asked: usize,
    missing: HashMap<OwnedRow, RecordBatch>,
}

fn not_comparable(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::internal("comparing rows by their keys").caused_by(e)
}

impl Keyed {
    /// Rows spread over `rows`, the first and the last among them, by the columns `key`.
    pub(super) fn of(rows: &[RecordBatch], key: &[String]) -> Result<Self> {
        let plain = |name: &String| {
            let column = rows.first().and_then(|batch| batch.column_by_name(name));
            let stored = column.map_or(DataType::Null, |column| column.data_type().clone());
            (
                name.clone(),
                without_dictionaries(&stored).unwrap_or(stored),
            )
        };
        let key: Vec<(String, DataType)> = key.iter().map(plain).collect();
        let fields = key.iter().map(|(_, plain)| SortField::new(plain.clone()));
        let converter = RowConverter::new(fields.collect());
        let mut sample = Self {
            key,
            converter: converter.map_err(not_comparable)?,
            asked: 0,
            missing: HashMap::new(),
        };
        let all: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let picks = (0..=SAMPLE).map(|i| i * all.saturating_sub(1) / SAMPLE);
        let picks: BTreeSet<usize> = picks.collect();
        let mut first = 0;
        for batch in rows {
            let end = first + batch.num_rows();
            for at in picks.range(first..end).map(|pick| pick - first) {
                let row = batch.slice(at, 1);
                let key = sample.keys(&row)?.row(0).owned();
                sample.missing.insert(key, row);
            }
            first = end;
        }
        sample.asked = sample.missing.len();
        Ok(sample)
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns = self.key.iter().map(|(name, plain)| {
            let column = batch.column_by_name(name);
            let column = column.ok_or_else(|| unfit(format!("column {name} is not there")))?;
            arrow_cast::cast(column, plain).map_err(not_comparable)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let keys = self.converter.convert_columns(&columns);
        keys.map_err(not_comparable)
    }

    /// Compares those rows of the sample that `written` has, but for the values of `moved` columns.
    pub(super) fn see(&mut self, written: &RecordBatch, moved: &BTreeSet<String>) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let keys = self.keys(written)?;
        for (at, key) in keys.iter().enumerate() {
            if let Some(given) = self.missing.remove(&key.owned()) {
                same_values(&given, &written.slice(at, 1), moved)?;
            }
        }
        Ok(())
    }

    /// All of them must have been seen.
    pub(super) fn end(&self) -> Result<()> {
        match self.missing.len() {
            0 => Ok(()),
            lost => Err(unfit(format!(
                "{lost} of {} rows are not read back under their keys",
                self.asked
            ))),
        }
    }
}
