//! Vectors: what is found nearest to each sampled one.

use super::{KEPT, Subject, rows_of, unfit};
use crate::error::Result;
use arrow_array::{Array, ArrayRef, Float32Array};
use lance::Dataset;

/// How much further a vector's nearest may be: the arithmetic of two searches differs in the last digits.
const SLACK: f32 = 1e-3;

/// Neighbours that are asked for, and how many times as many the index may look at.
const NEIGHBOURS: usize = 10;

impl Subject<'_> {
    pub(super) async fn prove_vectors(&self) -> Result<()> {
        for (fragments, which) in self.sampled.iter().zip(["indexed before", "new"]) {
            let (mut asked, mut kept) = (0_usize, 0_usize);
            for values in self.values(fragments).await? {
                let Some(vectors) = values
                    .as_any()
                    .downcast_ref::<arrow_array::FixedSizeListArray>()
                else {
                    return Ok(());
                };
                for vector in vectors.iter().flatten() {
                    let before = match self.is_old {
                        true => self.nearest(self.before, &vector).await?,
                        // A new index is of a metric by which a vector is the nearest to itself.
                        false => vec![0.0],
                    };
                    asked += 1;
                    let after = self.nearest(self.after, &vector).await?;
                    kept += usize::from(finds_as_well(&before, &after));
                }
            }
            if (kept as f64) < asked as f64 * KEPT {
                return Err(unfit(format!(
                    "of {asked} vectors that were {which} it finds the nearest of {kept} alone"
                )));
            }
        }
        Ok(())
    }

    /// How far the nearest rows are, in order.
    pub(super) async fn nearest(&self, dataset: &Dataset, vector: &ArrayRef) -> Result<Vec<f32>> {
        let mut scan = dataset.scan();
        scan.project(&["_distance"])?
            .nearest(&self.column.path(), vector.as_ref(), NEIGHBOURS)?
            .refine(u32::try_from(NEIGHBOURS).unwrap_or(1));
        let mut nearest = Vec::new();
        for batch in rows_of(&scan).await? {
            let distances = batch.column_by_name("_distance");
            let distances = distances.and_then(|d| d.as_any().downcast_ref::<Float32Array>());
            nearest.extend(distances.into_iter().flatten().flatten());
        }
        nearest.sort_by(f32::total_cmp);
        Ok(nearest)
    }
}

/// Whether a search that found `after` is as good as one that found `before`, by their distances in order. Where a vector
/// found itself it must find itself again; otherwise half of what is found must be as near as what was found. As many must be
/// found.
pub(super) fn finds_as_well(before: &[f32], after: &[f32]) -> bool {
    let within = |distance: f32, bound: f32| distance <= bound + SLACK * (1.0 + bound.abs());
    let (Some(nearest), Some(furthest)) = (before.first(), before.last()) else {
        return true;
    };
    // What is found and then dropped, since it is dead, is missing at the end.
    if after.len() < before.len() {
        return false;
    }
    if nearest.abs() <= SLACK {
        return after.first().is_some_and(|found| within(*found, *nearest));
    }
    let as_near = after.iter().filter(|found| within(**found, *furthest));
    as_near.count() as f64 >= before.len() as f64 * KEPT
}

#[cfg(test)]
mod tests {
    use super::finds_as_well;

    #[test]
    fn a_search_is_as_good_when_it_finds_itself_or_half_of_what_is_near() {
        assert!(finds_as_well(&[0.0, 0.4], &[0.000_1, 9.0]));
        assert!(!finds_as_well(&[0.0, 0.4], &[0.3, 0.4]));
        assert!(finds_as_well(
            &[-5.0, -4.0, -3.0, -2.0],
            &[-4.0, -2.0, -1.0, 0.0]
        ));
        assert!(!finds_as_well(
            &[-5.0, -4.0, -3.0, -2.0],
            &[-2.0, -1.0, 0.0, 0.0]
        ));
        assert!(!finds_as_well(&[0.0, 0.4], &[0.0]));
        assert!(!finds_as_well(&[0.0], &[]));
        assert!(finds_as_well(&[], &[]));
    }
}
