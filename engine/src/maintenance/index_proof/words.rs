//! Words: how many rows each sampled one is found in. Which words an index keeps of a text its own tokenizer says: one leaves
//! out stop words, another splits where there is no space.

use super::labels::items_of;
use super::{KEPT, Reach, Subject, rows_of, unfit};
use crate::error::Result;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_core::ROW_ID;
use lance_index::scalar::inverted::document_tokenizer::{DocType, LanceTokenizer};
use lance_index::scalar::inverted::query::collect_query_tokens;
use lance_index::scalar::{FullTextSearchQuery, InvertedIndexParams};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Words that are looked at of one text.
const WORDS: usize = 1_000;

/// Characters of a part of a text that is asked for, at most.
const PART: usize = 30;

/// How an index splits texts.
pub(super) struct Tokenizer(Box<dyn LanceTokenizer>);

impl Tokenizer {
    /// That of the index `name`; `None` where this build of Lance has none of its kind, which then cannot search it either.
    pub(super) async fn of(dataset: &Dataset, name: &str) -> Result<Option<Self>> {
        let statistics = dataset.index_statistics(name).await?;
        let statistics: Value = serde_json::from_str(&statistics).unwrap_or_default();
        let params = statistics["indices"][0]["params"].clone();
        let params = serde_json::from_value::<InvertedIndexParams>(params).ok();
        Ok(params.and_then(|params| params.build().ok()).map(Self))
    }

    /// The longest word that the index keeps of one of `texts`, as it is asked for.
    pub(super) fn longest(&mut self, texts: &[String]) -> Option<String> {
        let words = texts.iter().flat_map(|text| self.words(text));
        let mut words: Vec<(String, String)> = words.collect();
        words.sort_by_key(|(_, asked)| Reverse(asked.chars().count()));
        let kept = |(kept, asked): &(String, String)| {
            collect_query_tokens(asked, &mut self.0).contains(kept)
        };
        words.into_iter().find(kept).map(|(_, asked)| asked)
    }

    /// The words of `text`: as the index keeps them, and as they are asked for.
    fn words(&mut self, text: &str) -> Vec<(String, String)> {
        let in_json = matches!(self.0.doc_type(), DocType::Json);
        let mut words = Vec::new();
        let mut tokens = self.0.token_stream_for_doc(text);
        while let Ok(Some(token)) = tokens.try_next()
            && words.len() < WORDS
        {
            // Of a word that was cut to its stem, the stem may have another.
            let stood = text.get(token.offset_from..token.offset_to);
            let asked = if in_json { Some(&*token.text) } else { stood };
            words.extend(asked.map(|asked| (token.text.clone(), asked.to_owned())));
        }
        words
    }
}

impl Subject<'_> {
    /// `extended`: a row that it finds beside those found before holds the word no more; an index that was wrong may find
    /// more once it is built anew.
    pub(super) async fn prove_words(&self, extended: bool) -> Result<()> {
        let Some(mut tokenizer) = Tokenizer::of(self.after, self.name).await? else {
            return Ok(());
        };
        let mut words = BTreeSet::new();
        for values in self.values(&self.sampled.concat()).await? {
            let rows = (0..values.len()).map(|row| texts_of(&values.slice(row, 1)));
            words.extend(rows.filter_map(|texts| tokenizer.longest(&texts)));
        }
        // An index that covers more finds what was scanned before.
        let reach = match self.is_old && !extended {
            true => self.reach,
            false => Reach::All,
        };
        let mut kept = 0;
        for word in &words {
            let found = self.rows_with(self.after, word, reach).await?;
            kept += usize::from(!found.is_empty());
            if !self.is_old {
                continue;
            }
            let expected = self.rows_with(self.before, word, reach).await?;
            let same = match self.same_ids {
                true => found.intersection(&expected).count(),
                false => found.len().min(expected.len()),
            };
            if same < expected.len() || (extended && found.len() > same) {
                return Err(unfit(format!(
                    "asked for a word, it finds {} rows instead of {} ({same} of them)",
                    found.len(),
                    expected.len()
                )));
            }
        }
        let asked = words.len();
        match self.is_old || kept as f64 >= asked as f64 * KEPT {
            true => Ok(()),
            false => Err(unfit(format!(
                "asked for {asked} words of the table, it finds {kept}"
            ))),
        }
    }

    /// The ids of the rows that hold `word`.
    pub(super) async fn rows_with(
        &self,
        dataset: &Dataset,
        word: &str,
        reach: Reach,
    ) -> Result<BTreeSet<u64>> {
        let query = FullTextSearchQuery::new(word.to_owned()).with_column(self.column.path())?;
        let mut scan = dataset.scan();
        reach.of(&mut scan);
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

    /// A part of each sampled text.
    pub(super) async fn parts(&self) -> Result<BTreeSet<String>> {
        let values = self.values(&self.sampled.concat()).await?;
        let texts = values.iter().flat_map(texts_of);
        Ok(texts.filter_map(|text| longest_part(&text)).collect())
    }
}

/// The values of `array` as texts, and those of lists in it.
pub(super) fn texts_of(array: &ArrayRef) -> Vec<String> {
    if matches!(
        array.data_type(),
        DataType::List(_) | DataType::LargeList(_)
    ) {
        let lists = items_of(array).into_iter().flatten();
        return lists.flat_map(|list| texts_of(&list)).collect();
    }
    let texts = arrow_cast::cast(array, &DataType::LargeUtf8).ok();
    let texts = texts.iter().flat_map(|texts| texts.as_string::<i64>());
    texts.flatten().map(str::to_owned).collect()
}

/// The longest run of letters and digits of a text, of any script, or its beginning.
fn longest_part(text: &str) -> Option<String> {
    let runs = text.split(|c: char| !c.is_alphanumeric());
    let longest = runs.max_by_key(|run| run.chars().count())?;
    (!longest.is_empty()).then(|| longest.chars().take(PART).collect())
}

#[cfg(test)]
mod tests {
    use super::{Tokenizer, longest_part, texts_of};
    use arrow_array::ArrayRef;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use lance_index::scalar::InvertedIndexParams;
    use std::sync::Arc;

    fn longest(params: InvertedIndexParams, text: &str) -> Option<String> {
        let mut tokenizer = Tokenizer(params.build().expect("a tokenizer"));
        tokenizer.longest(&[text.to_owned()])
    }

    #[test]
    fn a_word_is_one_that_the_index_keeps() {
        let plain = InvertedIndexParams::default;
        for (text, word) in [
            ("the Übersicht of Airports, 12", Some("Übersicht")),
            ("the it is", None),
            ("it is AB", Some("AB")),
            ("running", Some("running")),
            ("ü ?", Some("ü")),
            ("", None),
        ] {
            assert_eq!(longest(plain(), text).as_deref(), word, "{text}");
        }
        let grams = plain().base_tokenizer("ngram".to_owned());
        assert_eq!(longest(grams, "no").as_deref(), None);
        let whole = plain().base_tokenizer("raw".to_owned()).stem(false);
        assert_eq!(longest(whole, "two Words").as_deref(), Some("two Words"));
        let segments = plain().base_tokenizer("icu".to_owned());
        assert!(longest(segments, "北京大学很大").is_some_and(|word| word.chars().count() < 6));
    }

    #[test]
    fn a_part_is_the_longest_run_of_any_script() {
        let long = "ä".repeat(40);
        for (text, part) in [
            ("the Übersicht of Airports, 12", Some("Übersicht")),
            ("東京 no", Some("東京")),
            (long.as_str(), Some(&long[..60])),
            ("? !", None),
        ] {
            let part = part.map(str::to_owned);
            assert_eq!(
                longest_part(text).map(|p| p.chars().count()),
                part.map(|p| p.chars().count()),
                "{text}"
            );
        }
    }

    #[test]
    fn texts_stand_in_lists_too() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a b"), None, Some("c")]);
        lists.append_null();
        let lists = Arc::new(lists.finish()) as ArrayRef;
        assert_eq!(texts_of(&lists), ["a b", "c"]);
    }
}
