//! Vectors: what is found nearest to each sampled one.

use super::labels::items_of;
use super::truth::to_itself;
use super::{KEPT, NEIGHBOURS, Reach, Subject, distances_of, rows_of, unfit};
use crate::error::Result;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance_table::format::Fragment;
use serde_json::Value;

/// How much further a vector's nearest may be: the arithmetic of two searches differs in the last digits.
const SLACK: f32 = 1e-3;

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
    pub(super) async fn prove_vectors(&self) -> Result<()> {
        let metric = self.metric().await?;
        // What was not indexed before was found by a scan, which misses nothing.
        let kinds = [
            ("indexed before", self.is_old),
            ("new", self.is_old && self.was_complete),
        ];
        for (fragments, (which, indexed_before)) in self.sampled.iter().zip(kinds) {
            let mut found = Found::default();
            let (scanned, indexed): (Vec<_>, Vec<_>) =
                fragments.iter().cloned().partition(|f| self.was_scanned(f));
            let mut vectors = Vec::new();
            for (of, was_scanned) in [(scanned, true), (indexed, false)] {
                let values = self.values(&of).await?;
                let of = values.iter().flat_map(vectors_of);
                vectors.extend(of.map(|vector| (vector, was_scanned)));
            }
            for (vector, was_scanned) in vectors {
                let own = to_itself(&vector, &metric);
                let before = match (self.is_old, was_scanned, own) {
                    // A new index is of a metric by which a vector is the nearest to itself.
                    (false, _, _) => vec![0.0],
                    // A scan misses nothing, and found it.
                    (true, true, Some(own)) => vec![own],
                    (true, true, None) => self.nearest(self.before, &vector, Reach::All).await?,
                    (true, false, _) => self.nearest(self.before, &vector, self.reach).await?,
                };
                let after = self.nearest(self.after, &vector, self.reach).await?;
                let has_own =
                    |nearest: &[f32]| own.is_some_and(|own| finds_as_well(&[own], nearest));
                found.asked += 1;
                found.kept += usize::from(finds_as_well(&before, &after));
                found.before += usize::from(has_own(&before));
                found.after += usize::from(has_own(&after));
            }
            found.check(which, indexed_before)?;
        }
        Ok(())
    }

    /// Whether `fragment` stood there before and was not covered, so that its rows were found by a scan.
    fn was_scanned(&self, fragment: &Fragment) -> bool {
        let stood = self.before.fragments().iter().any(|f| f.id == fragment.id);
        stood && self.sampled[1].iter().any(|new| new.id == fragment.id)
    }

    /// The metric of the index, as Lance's statistics say it.
    pub(super) async fn metric(&self) -> Result<Value> {
        let statistics = self.after.index_statistics(self.name).await?;
        let statistics: Value = serde_json::from_str(&statistics).unwrap_or_default();
        Ok(statistics["indices"][0]["metric_type"].clone())
    }

    /// How far the nearest rows are, in order. Of several indexes of the column Lance would ask any.
    pub(super) async fn nearest(
        &self,
        dataset: &Dataset,
        vector: &ArrayRef,
        reach: Reach,
    ) -> Result<Vec<f32>> {
        let mut scan = dataset.scan();
        reach.of(&mut scan);
        if reach == Reach::Indexed {
            let segments = dataset.load_indices_by_name(self.name).await?;
            scan.with_index_segments(segments.iter().map(|segment| segment.uuid).collect())?;
        }
        scan.project(&["_distance"])?
            .nearest(&self.column.path(), vector.as_ref(), NEIGHBOURS)?
            .refine(u32::try_from(NEIGHBOURS).unwrap_or(1));
        Ok(distances_of(&rows_of(&scan).await?))
    }
}

/// The vectors of the rows of `values`, or of one row the several that it has, each as it is asked for. Left out is what is
/// near to nothing by some metric, not even to itself: an index by that metric does not hold it.
pub(super) fn vectors_of(values: &ArrayRef) -> Vec<ArrayRef> {
    let single = values.as_fixed_size_list_opt();
    let rows = match single {
        Some(vectors) => vectors.iter().collect(),
        None => items_of(values),
    };
    let is_near_itself = |row: &ArrayRef| !row.is_empty() && squares(row).is_some();
    rows.into_iter().flatten().filter(is_near_itself).collect()
}

/// The squares of the lengths of a vector, or of each of several; `None` where one is not finite, or 0.
pub(super) fn squares(vector: &ArrayRef) -> Option<Vec<f32>> {
    if let Some(several) = vector.as_fixed_size_list_opt() {
        let all = several.iter().map(|vector| squares(&vector?));
        return Some(all.collect::<Option<Vec<_>>>()?.concat());
    }
    let numbers = arrow_cast::cast(vector, &DataType::Float32).ok()?;
    let numbers = numbers.as_primitive::<Float32Type>().values();
    let square: f32 = numbers.iter().map(|number| number * number).sum();
    (square.is_finite() && square > 0.0).then(|| vec![square])
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
    use super::{Found, finds_as_well, vectors_of};
    use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, ListBuilder};
    use arrow_array::{Array, ArrayRef};
    use std::sync::Arc;

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

    #[test]
    fn vectors_without_a_direction_are_not_asked_for() {
        let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), 2);
        for pair in [[1.0, 2.0], [0.0, 0.0], [f32::NAN, 1.0], [3.0, 0.0]] {
            vectors.values().append_slice(&pair);
            vectors.append(true);
        }
        vectors.values().append_nulls(2);
        vectors.append(false);
        assert_eq!(
            vectors_of(&(Arc::new(vectors.finish()) as ArrayRef)).len(),
            2
        );

        let several = FixedSizeListBuilder::new(Float32Builder::new(), 2);
        let mut rows = ListBuilder::new(several);
        for row in [
            &[[1.0, 2.0], [3.0, 4.0]][..],
            &[[1.0, 0.0], [0.0, 0.0]],
            &[],
        ] {
            for pair in row {
                rows.values().values().append_slice(pair);
                rows.values().append(true);
            }
            rows.append(true);
        }
        let rows = vectors_of(&(Arc::new(rows.finish()) as ArrayRef));
        assert_eq!(rows.iter().map(Array::len).collect::<Vec<_>>(), [2]);
    }
}
