//! Words: how many rows each sampled one is found in. Parts of texts are asked for by the same words.

use super::{Subject, rows_of, texts_of, unfit};
use crate::error::Result;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use lance::Dataset;
use lance_core::ROW_ID;
use lance_index::scalar::FullTextSearchQuery;
use std::collections::BTreeSet;

impl Subject<'_> {
    /// A word of each sampled value.
    pub(super) async fn words(&self) -> Result<BTreeSet<String>> {
        let mut words = BTreeSet::new();
        for values in self.values(&self.sampled.concat()).await? {
            words.extend(
                texts_of(&values)
                    .iter()
                    .filter_map(|text| longest_word(text)),
            );
        }
        Ok(words)
    }

    /// `extended`: a row that it finds beside those found before holds the word no more; an index that was wrong may find
    /// more once it is built anew.
    pub(super) async fn prove_words(&self, extended: bool) -> Result<()> {
        let words = self.words().await?;
        let mut found_any = words.is_empty();
        for word in &words {
            let found = self.rows_with(self.after, word).await?;
            found_any |= !found.is_empty();
            if !self.is_old {
                continue;
            }
            let expected = self.rows_with(self.before, word).await?;
            let kept = match self.same_ids {
                true => found.intersection(&expected).count(),
                false => found.len().min(expected.len()),
            };
            if kept < expected.len() || (extended && found.len() > kept) {
                return Err(unfit(format!(
                    "asked for a word, it finds {} rows instead of {} ({kept} of them)",
                    found.len(),
                    expected.len()
                )));
            }
        }
        match found_any || self.is_old {
            true => Ok(()),
            false => Err(unfit(format!(
                "asked for {} words of the table, it finds none",
                words.len()
            ))),
        }
    }

    /// The ids of the rows that hold `word`.
    pub(super) async fn rows_with(&self, dataset: &Dataset, word: &str) -> Result<BTreeSet<u64>> {
        let query = FullTextSearchQuery::new(word.to_owned()).with_column(self.column.path())?;
        let mut scan = dataset.scan();
        scan.project::<&str>(&[])?
            .with_row_id()
            .disable_scoring_autoprojection()
            .full_text_search(query)?;
        let batches = rows_of(&scan).await?;
        let ids = batches
            .iter()
            .filter_map(|batch| batch.column_by_name(ROW_ID));
        let ids = ids.flat_map(|ids| ids.as_primitive::<UInt64Type>().values().to_vec());
        Ok(ids.collect())
    }
}

/// A word that every tokenizer which splits text into words keeps: too long for a stop word, and of plain letters.
pub(super) fn longest_word(text: &str) -> Option<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let plain = words.filter(|word| (2..=30).contains(&word.len()) && word.is_ascii());
    plain.max_by_key(|word| word.len()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::longest_word;

    #[test]
    fn a_word_is_the_longest_plain_one() {
        assert_eq!(
            longest_word("the Übersicht of Airports, 12"),
            Some("Airports".into())
        );
        assert_eq!(longest_word("ü ?"), None);
    }
}
