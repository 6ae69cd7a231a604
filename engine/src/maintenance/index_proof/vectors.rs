//! Vectors: what is found nearest to each sampled one.

use super::truth::to_itself;
use super::{KEPT, Subject, rows_of, unfit};
use crate::error::Result;
use arrow_array::{Array, ArrayRef, Float32Array};
use lance::Dataset;
use lance::index::DatasetIndexExt;
use serde_json::Value;

/// How much further a vector's nearest may be: the arithmetic of two searches differs in the last digits.
const SLACK: f32 = 1e-3;

/// Neighbours that are asked for, and how many times as many the index may look at.
const NEIGHBOURS: usize = 10;

/// How many of some vectors are found, before and after.
#[derive(Debug, Default, Clone, Copy)]
struct Found {
    asked: usize,
    /// As well as before.
    kept: usize,
    /// Those of which the nearest is known without a search, a vector's own row: how many had it before, and have it after.
    before: usize,
    after: usize,
}

impl Found {
    /// # Errors
    /// `Unfit`: fewer than half are found as well; or, where an index answered `before`, too, their own rows are not found of
    /// more than one that were. To miss one or another is what an approximation may do.
    fn check(self, which: &str, indexed_before: bool) -> Result<()> {
        let Self {
            asked,
            kept,
            before,
            after,
        } = self;
        if (kept as f64) < asked as f64 * KEPT {
            return Err(unfit(format!(
                "of {asked} vectors that were {which} it finds the nearest of {kept} alone"
            )));
        }
        if indexed_before && after + 1 < before {
            return Err(unfit(format!(
                "of {asked} vectors that were {which} it finds the rows of {after}, and found those of {before} before"
            )));
        }
        Ok(())
    }
}

impl Subject<'_> {
    pub(super) async fn prove_vectors(&self, name: &str) -> Result<()> {
        let metric = self.metric(name).await?;
        // What was not indexed before was found by a scan, which misses nothing.
        let kinds = [
            ("indexed before", self.is_old),
            ("new", self.is_old && self.was_complete),
        ];
        for (fragments, (which, indexed_before)) in self.sampled.iter().zip(kinds) {
            let mut found = Found::default();
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
                    let after = self.nearest(self.after, &vector).await?;
                    let own = to_itself(&vector, &metric);
                    let has_own =
                        |nearest: &[f32]| own.is_some_and(|own| finds_as_well(&[own], nearest));
                    found.asked += 1;
                    found.kept += usize::from(finds_as_well(&before, &after));
                    found.before += usize::from(has_own(&before));
                    found.after += usize::from(has_own(&after));
                }
            }
            found.check(which, indexed_before)?;
        }
        Ok(())
    }

    /// The metric of the index `name`, as Lance's statistics say it.
    pub(super) async fn metric(&self, name: &str) -> Result<Value> {
        let statistics = self.after.index_statistics(name).await?;
        let statistics: Value = serde_json::from_str(&statistics).unwrap_or_default();
        Ok(statistics["indices"][0]["metric_type"].clone())
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
    use super::{Found, finds_as_well};

    #[test]
    fn fewer_are_found_than_before_when_it_is_more_than_one() {
        let of = |kept, before, after| Found {
            asked: 16,
            kept,
            before,
            after,
        };
        for (found, indexed_before, holds) in [
            (of(16, 16, 16), true, true),
            (of(15, 16, 15), true, true),
            (of(14, 16, 14), true, false),
            (of(14, 16, 14), false, true),
            (of(7, 7, 7), true, false),
            (of(9, 2, 16), true, true),
        ] {
            let checked = found.check("new", indexed_before);
            assert_eq!(checked.is_ok(), holds, "{found:?}");
        }
    }

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
