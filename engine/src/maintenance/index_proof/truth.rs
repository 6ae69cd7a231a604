//! What an index answers, against the rows that it is about: one that was wrong from the start answers today as it did yesterday.
//!
//! Keys, labels and the like are held against a scan anyway. A row's own vector, and a word that stands in it, must lead to
//! that row; nothing else has to be read for that.

use super::vectors::{finds_as_well, squares, vectors_of};
use super::words::{Tokenizer, texts_of};
use super::{KEPT, Subject, VALUES, kind_of, rows_of, unfit};
use crate::error::Result;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch};
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_core::ROW_ID;
use lance_table::format::Fragment;
use serde_json::Value;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

/// How many of what was asked was found, in one fragment or in all.
#[derive(Default)]
struct Score {
    asked: usize,
    kept: usize,
}

impl Score {
    fn note(&mut self, is_found: bool) {
        self.asked += 1;
        self.kept += usize::from(is_found);
    }

    /// What is found by approximation is never nothing of a fragment.
    fn is_of_a_lost_fragment(&self) -> bool {
        self.asked > 1 && self.kept == 0
    }

    fn is_too_low(&self) -> bool {
        (self.kept as f64) < self.asked as f64 * KEPT
    }

    fn check(&self, what: &str) -> Result<()> {
        if !self.is_too_low() {
            return Ok(());
        }
        Err(unfit(format!(
            "of {} {what} of rows that it covers it finds the rows of {} alone",
            self.asked, self.kept
        )))
    }
}

/// Checks the index `name` of `dataset`, if it is of one of `kinds`: one that holds words, or finds what is nearest.
///
/// # Errors
/// `Unfit`: rows that it covers are not found.
pub(super) async fn prove(dataset: &Dataset, name: &str, kinds: &[&str]) -> Result<()> {
    let segments = dataset.load_indices_by_name(name).await?;
    let Some(segment) = segments.first() else {
        return Ok(());
    };
    let kind = kind_of(segment);
    if !kinds.contains(&kind.as_str()) {
        return Ok(());
    }
    let Some(subject) = Subject::of(name, dataset, dataset, (&segments, &segments), segment) else {
        return Ok(());
    };
    if kind == "Inverted" {
        return match Tokenizer::of(dataset, name).await? {
            Some(tokenizer) => subject.finds_words(tokenizer).await,
            None => Ok(()),
        };
    }
    subject.finds_vectors().await
}

impl Subject<'_> {
    /// The first and the middle rows of a covered fragment, with their ids.
    async fn rows(&self, fragment: &Fragment) -> Result<Vec<RecordBatch>> {
        let rows = i64::try_from(fragment.num_rows().unwrap_or(0)).unwrap_or(0);
        let mut batches = Vec::new();
        for offset in BTreeSet::from([0, rows / 2]) {
            let mut scan = self.after.scan();
            scan.with_fragments(vec![fragment.clone()])
                .project_with_transform(&[("value", &self.column.sql())])?
                .with_row_id()
                .limit(Some(VALUES), Some(offset))?;
            batches.extend(rows_of(&scan).await?);
        }
        Ok(batches)
    }

    async fn finds_vectors(&self) -> Result<()> {
        let metric = self.metric().await?;
        let mut all = Score::default();
        for fragment in &self.sampled[0] {
            let mut here = Score::default();
            for batch in self.rows(fragment).await? {
                let values = batch.column_by_name("value");
                for vector in values.iter().flat_map(|values| vectors_of(values)) {
                    let Some(nearest) = to_itself(&vector, &metric) else {
                        continue;
                    };
                    let found = self.nearest(self.after, &vector, self.reach).await?;
                    let is_found = finds_as_well(&[nearest], &found);
                    here.note(is_found);
                    all.note(is_found);
                }
            }
            if here.is_of_a_lost_fragment() {
                here.check("vectors")?;
            }
        }
        all.check("vectors")
    }

    async fn finds_words(&self, mut tokenizer: Tokenizer) -> Result<()> {
        let mut all = Score::default();
        // Many rows have the same words.
        let mut asked: HashMap<String, BTreeSet<u64>> = HashMap::new();
        for fragment in &self.sampled[0] {
            let mut here = Score::default();
            for batch in self.rows(fragment).await? {
                let (Some(values), Some(ids)) =
                    (batch.column_by_name("value"), batch.column_by_name(ROW_ID))
                else {
                    continue;
                };
                for (row, id) in ids.as_primitive::<UInt64Type>().values().iter().enumerate() {
                    let texts = texts_of(&values.slice(row, 1));
                    let Some(word) = tokenizer.longest(&texts) else {
                        continue;
                    };
                    let found = match asked.entry(word) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(unknown) => {
                            let found = self.rows_with(self.after, unknown.key(), self.reach);
                            let found = found.await?;
                            unknown.insert(found)
                        }
                    };
                    if !found.is_empty() && !found.contains(id) {
                        return Err(unfit(format!(
                            "asked for a word, it finds {} rows, and not one that holds it",
                            found.len()
                        )));
                    }
                    here.note(!found.is_empty());
                    all.note(!found.is_empty());
                }
            }
            if here.is_of_a_lost_fragment() {
                here.check("words")?;
            }
        }
        all.check("words")
    }
}

/// How far a vector, or several of one row, are from themselves; `None` where that is not known, or where none is near.
pub(super) fn to_itself(vector: &ArrayRef, metric: &Value) -> Option<f32> {
    let squares = squares(vector)?;
    match metric.as_str()? {
        "l2" | "cosine" | "hamming" => Some(0.0),
        // The furthest that may be found first: others may be nearer.
        "dot" => Some(squares.iter().map(|square| 1.0 - square).sum()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Score, to_itself};
    use arrow_array::{ArrayRef, Float32Array};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_vector_is_as_far_from_itself_as_its_metric_says() {
        let vector = |numbers: Vec<f32>| Arc::new(Float32Array::from(numbers)) as ArrayRef;
        let of = |numbers, metric| to_itself(&vector(numbers), &json!(metric));
        assert_eq!(of(vec![1.0, 2.0], "l2"), Some(0.0));
        assert_eq!(of(vec![1.0, 2.0], "dot"), Some(-4.0));
        assert_eq!(of(vec![0.0, 0.0], "cosine"), None);
        assert_eq!(of(vec![f32::NAN, 0.0], "l2"), None);
        assert_eq!(of(vec![1.0], "other"), None);
    }

    #[test]
    fn one_that_is_missed_is_no_lost_fragment() {
        let score = |asked, kept| Score { asked, kept };
        assert!(score(4, 0).is_of_a_lost_fragment());
        assert!(!score(4, 1).is_of_a_lost_fragment());
        assert!(!score(1, 0).is_of_a_lost_fragment());
        assert!(score(1, 0).check("words").is_err());
        assert!(score(8, 4).check("words").is_ok() && score(0, 0).check("words").is_ok());
    }
}
