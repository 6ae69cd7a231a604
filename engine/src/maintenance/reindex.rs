//! Reindexing: extends existing indexes over new rows and builds declared ones, each independently.

use super::Target;
use super::index_proof::prove_index;
use super::listed::{Listed, covered_by, listed_indexes};
use super::rehearsal::{base_of, commit_rehearsed};
use super::run::{MaintenanceReport, Run, Work};
use crate::error::{Disposition, Error, ErrorKind, Result, caught};
use crate::store::Store;
use crate::store::state::IndexDeclaration;
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::optimize::OptimizeOptions;
use lance_index::scalar::{InvertedIndexParams, ScalarIndexParams};
use lance_index::{IndexParams, IndexType};
use lance_linalg::distance::MetricType;
use roaring::RoaringBitmap;
use squire_failpoints::{Seam, hit};
use tokio_util::sync::CancellationToken;

/// Rows that an IVF_PQ index needs to train: 256 centroids per sub-vector.
const MIN_VECTOR_ROWS: usize = 256;

struct Reindex {
    declared: Vec<(String, IndexDeclaration)>,
}

impl Store {
    /// Extends every index of `target` that does not cover all rows and builds declared ones. An index that cannot
    /// be built yet is reported as pending, one that fails as failed; neither stops a sibling.
    pub async fn reindex(
        &self,
        target: &Target,
        cancel: &CancellationToken,
    ) -> Result<MaintenanceReport> {
        let declared = match target {
            Target::Plain(_) => Vec::new(),
            Target::Pinned(table) => {
                let snapshot = self.load().await?;
                snapshot
                    .state
                    .indexes_of(table)
                    .map(|(n, d)| (n.to_owned(), d.clone()))
                    .collect()
            }
        };
        self.maintain(target, &Reindex { declared }, cancel).await
    }
}

#[async_trait::async_trait]
impl Work for Reindex {
    fn kind(&self) -> &'static str {
        "reindex"
    }

    async fn attempt(
        &self,
        run: &Run<'_>,
        store: &Store,
        mut head: Dataset,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        report.pending_indexes.clear();
        report.failed_indexes.clear();
        let listed = listed_indexes(&head).await?;
        for index in &listed {
            run.check_cancelled()?;
            let done = caught("extending it", extend(&mut head, index, run, store)).await;
            settle_one(&index.name, done, run, store, report).await?;
        }
        let missing = |name: &str| listed.iter().all(|index| index.name != name);
        for (name, declaration) in self.declared.iter().filter(|(name, _)| missing(name)) {
            run.check_cancelled()?;
            let done = caught(
                "building it",
                build(&mut head, name, declaration, run, store),
            )
            .await;
            settle_one(name, done, run, store, report).await?;
        }
        Ok(())
    }
}

/// What became of one index.
enum Outcome {
    /// It covered everything.
    Complete,
    /// It was built, or extended over what it did not cover.
    Covered,
    /// It cannot be built yet.
    Pending(String),
}

/// A lost race ends the attempt, and so does a lost licence; any other failure stays with its index.
async fn settle_one(
    name: &str,
    done: Result<Outcome>,
    run: &Run<'_>,
    store: &Store,
    report: &mut MaintenanceReport,
) -> Result<()> {
    match done {
        Ok(Outcome::Complete) => Ok(()),
        Ok(Outcome::Covered) => {
            report.indexes.push(name.to_owned());
            hit(Seam::MaintainAfterReindex)?;
            Ok(())
        }
        Ok(Outcome::Pending(why)) => {
            report.pending_indexes.push((name.to_owned(), why));
            Ok(())
        }
        Err(e) if e.disposition() == Disposition::Fail && run.is_licensed(store).await? => {
            let why = format!("{}; {REMEDY}", e.brief());
            report.failed_indexes.push((name.to_owned(), why));
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// What helps an index that cannot be extended or built: nothing that is tried again does.
const REMEDY: &str = "drop it and create it again";

fn fragment_ids(dataset: &Dataset) -> RoaringBitmap {
    let fragments = dataset.fragments().iter();
    fragments.filter_map(|f| u32::try_from(f.id).ok()).collect()
}

/// Extends `index` over the fragments that it does not cover, as one version above `head`.
async fn extend(
    head: &mut Dataset,
    index: &Listed,
    run: &Run<'_>,
    store: &Store,
) -> Result<Outcome> {
    index.check_files(store, run.path()).await?;
    let fragments = fragment_ids(head);
    if index.uncovered(&fragments).is_empty() {
        return Ok(Outcome::Complete);
    }
    index.check_extensible(head)?;
    let options = OptimizeOptions::merge(1)
        .index_names(vec![index.name.clone()])
        .transaction_properties(run.properties.clone());
    let mut staged = store.rehearsal(run, head).await?;
    staged.optimize_indices(&options).await?;
    let segments = staged.load_indices_by_name(&index.name).await?;
    let covered = covered_by(&segments);
    if index.is_definition() && covered.is_empty() {
        return Ok(Outcome::Pending(String::from(
            "the table has too few rows to train it",
        )));
    }
    let left = (&fragments & fragment_ids(&staged)) - covered;
    if !left.is_empty() {
        let (left, all) = (left.len(), fragments.len());
        let why = format!("Lance extends it, but not over {left} of {all} fragments");
        return Err(Error::new(ErrorKind::Unfit, why));
    }
    prove_and_commit(head, &staged, &index.name).await
}

/// Commits `staged` if its index `name` answers as it should.
async fn prove_and_commit(head: &mut Dataset, staged: &Dataset, name: &str) -> Result<Outcome> {
    let before = base_of(staged, head).await?;
    prove_index(&before, staged, name).await?;
    commit_rehearsed(head, staged).await?;
    Ok(Outcome::Covered)
}

async fn build(
    head: &mut Dataset,
    name: &str,
    declaration: &IndexDeclaration,
    run: &Run<'_>,
    store: &Store,
) -> Result<Outcome> {
    let rows = head.count_rows(None).await?;
    let (kind, params) = index_params(&declaration.kind, Some(rows))?;
    if kind.is_vector() && rows < MIN_VECTOR_ROWS {
        return Ok(Outcome::Pending(format!(
            "a vector index needs {MIN_VECTOR_ROWS} rows to train and the table has {rows}"
        )));
    }
    let mut staged = store.rehearsal(run, head).await?;
    staged
        .create_index_builder(&[declaration.column.as_str()], kind, params.as_ref())
        .name(name.to_owned())
        .transaction_properties(run.properties.clone())
        .await?;
    prove_and_commit(head, &staged, name).await
}

pub(crate) fn index_params(
    kind: &str,
    rows: Option<usize>,
) -> Result<(IndexType, Box<dyn IndexParams>)> {
    let scalar = |index: IndexType| {
        (
            index,
            Box::new(ScalarIndexParams::default()) as Box<dyn IndexParams>,
        )
    };
    // A partition of about 4,096 rows keeps a probe short without many empty partitions.
    let partitions = rows.unwrap_or(0).div_ceil(4_096).clamp(1, 4_096);
    Ok(match kind {
        "btree" => scalar(IndexType::BTree),
        "bitmap" => scalar(IndexType::Bitmap),
        "label_list" => scalar(IndexType::LabelList),
        "ngram" => scalar(IndexType::NGram),
        "zonemap" => scalar(IndexType::ZoneMap),
        "bloomfilter" => scalar(IndexType::BloomFilter),
        "inverted" => (
            IndexType::Inverted,
            Box::new(InvertedIndexParams::default()),
        ),
        "ivf_flat" => (
            IndexType::IvfFlat,
            Box::new(VectorIndexParams::ivf_flat(partitions, MetricType::L2)),
        ),
        "ivf_pq" => (
            IndexType::IvfPq,
            Box::new(VectorIndexParams::ivf_pq(
                partitions,
                8,
                16,
                MetricType::L2,
                50,
            )),
        ),
        other => {
            return Err(Error::invalid(format!(
                "unknown index type {other:?}; one of btree, bitmap, label_list, ngram, zonemap, bloomfilter, inverted, ivf_flat, ivf_pq"
            )));
        }
    })
}
