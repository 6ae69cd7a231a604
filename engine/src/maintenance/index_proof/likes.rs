//! Texts that are alike: what is found most like each sampled one.

use super::vectors::finds_as_well;
use super::words::texts_of;
use super::{KEPT, NEIGHBOURS, Subject, distances_of, rows_of, unfit};
use crate::error::Result;
use lance::Dataset;
use lance_index::scalar::minhash_lsh::MinHashQuery;

impl Subject<'_> {
    pub(super) async fn prove_likes(&self) -> Result<()> {
        let values = self.values(&self.sampled.concat()).await?;
        let (mut asked, mut kept) = (0_usize, 0_usize);
        for text in values.iter().flat_map(texts_of) {
            let before = match self.is_old {
                true => self.like(self.before, &text).await?,
                // A text is like itself.
                false => vec![0.0],
            };
            asked += 1;
            let after = self.like(self.after, &text).await?;
            kept += usize::from(finds_as_well(&before, &after));
        }
        if (kept as f64) < asked as f64 * KEPT {
            return Err(unfit(format!(
                "of {asked} texts of the table it finds what is like {kept} alone"
            )));
        }
        Ok(())
    }

    /// How far from `text` the rows are that are most like it, in order.
    async fn like(&self, dataset: &Dataset, text: &str) -> Result<Vec<f32>> {
        let mut scan = dataset.scan();
        scan.project(&["_distance"])?
            .minhash_search(MinHashQuery::new(text, self.column.path()))?
            .limit(i64::try_from(NEIGHBOURS).ok(), None)?;
        Ok(distances_of(&rows_of(&scan).await?))
    }
}
