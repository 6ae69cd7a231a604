//! Declared indexes: what maintenance builds and keeps, until it is withdrawn.

use super::Target;
use super::run::{MaintenanceReport, Run, Work};
use crate::commit::publish::Record;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::TableName;
use crate::store::Store;
use crate::store::state::{IndexDeclaration, encode};
use arrow_schema::DataType;
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::scalar::{InvertedIndexParams, ScalarIndexParams};
use lance_index::{IndexParams, IndexType};
use lance_linalg::distance::MetricType;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Rows that an IVF_PQ index needs to train: 256 centroids per sub-vector.
pub(super) const MIN_VECTOR_ROWS: usize = 256;

/// Sub-vectors of an IVF_PQ index, where the dimension can be divided by it: a byte each.
const SUB_VECTORS: i32 = 16;

/// Drops the index of this name.
struct Drop<'a>(&'a str);

impl Store {
    /// Declares an index; maintenance builds it.
    pub async fn declare_index(
        &self,
        table: &TableName,
        name: &str,
        declaration: IndexDeclaration,
    ) -> Result<()> {
        let (kind, _) = index_params(&declaration.kind, 0, None)?;
        let snapshot = self.load().await?;
        let dataset = self.open_pinned(snapshot.state.table(table)?).await?;
        let column = &declaration.column;
        let field = dataset
            .schema()
            .field(column)
            .ok_or_else(|| Error::invalid(format!("table {table} has no column {column:?}")))?;
        if kind.is_vector() && !matches!(field.data_type(), DataType::FixedSizeList(..)) {
            return Err(Error::invalid(format!(
                "table {table}: column {column:?} is {}, and {} needs a fixed-size list of floats",
                field.data_type(),
                declaration.kind
            )));
        }
        let op = self.new_op();
        let key = format!("index/{table}/{name}");
        self.publish_until(|snapshot| {
            snapshot.state.table(table)?;
            match snapshot
                .state
                .indexes
                .get(&(table.clone(), name.to_owned()))
            {
                Some(existing) if *existing == declaration => return Ok(None),
                Some(existing) => {
                    return Err(Error::new(
                        ErrorKind::Refused,
                        format!(
                            "table {table} has an index {name:?} on {:?} ({}) already",
                            existing.column, existing.kind
                        ),
                    ));
                }
                None => {}
            }
            let record = Record::new(
                op,
                "declare",
                &self.options().actor,
                format!("index {name} on {table}"),
            );
            Ok(Some((
                vec![(key.clone(), Some(encode(&declaration)?))],
                record,
            )))
        })
        .await
        .map(drop)
    }

    /// Withdraws the declaration of an index, then drops what was built of it: not declared any more, nobody builds it
    /// again. An index that was only built, by whomever, is dropped alike.
    ///
    /// # Errors
    /// `NotFound` when the table has no such index, declared or built.
    pub async fn withdraw_index(
        &self,
        table: &TableName,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<MaintenanceReport> {
        let op = self.new_op();
        let key = (table.clone(), name.to_owned());
        let snapshot = self.load().await?;
        let dataset = self.open_pinned(snapshot.state.table(table)?).await?;
        let is_built = !dataset.load_indices_by_name(name).await?.is_empty();
        if !is_built && !snapshot.state.indexes.contains_key(&key) {
            let missing = format!("table {table} has no index {name:?}; see `squire status`");
            return Err(Error::new(ErrorKind::NotFound, missing));
        }
        let actor = &self.options().actor;
        self.publish_until(|snapshot| {
            if !snapshot.state.indexes.contains_key(&key) {
                return Ok(None);
            }
            let message = format!("index {name} of {table} withdrawn");
            let record = Record::new(op, "withdraw", actor, message);
            Ok(Some((
                vec![(format!("index/{table}/{name}"), None)],
                record,
            )))
        })
        .await?;
        self.maintain(&Target::Pinned(table.clone()), &Drop(name), cancel)
            .await
    }
}

#[async_trait::async_trait]
impl Work for Drop<'_> {
    fn kind(&self) -> &'static str {
        "drop index"
    }

    async fn attempt(
        &self,
        run: &Run<'_>,
        _: &Store,
        head: Dataset,
        _: &mut MaintenanceReport,
    ) -> Result<()> {
        let removed_indices = head.load_indices_by_name(self.0).await?;
        if removed_indices.is_empty() {
            return Ok(());
        }
        let operation = Operation::CreateIndex {
            new_indices: Vec::new(),
            removed_indices,
        };
        let transaction = TransactionBuilder::new(head.manifest().version, operation)
            .transaction_properties(Some(Arc::new(run.properties.clone())))
            .build();
        CommitBuilder::new(Arc::new(head))
            .with_skip_auto_cleanup(true)
            .execute(transaction)
            .await?;
        Ok(())
    }
}

/// The most sub-vectors up to [`SUB_VECTORS`] that vectors of this type divide into.
fn sub_vectors(column: Option<&DataType>) -> usize {
    let dimension = match column {
        Some(DataType::FixedSizeList(_, dimension)) => *dimension,
        _ => SUB_VECTORS,
    };
    let divisors = (1..=SUB_VECTORS).filter(|n| dimension % n == 0);
    divisors
        .max()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(1)
}

/// What Lance needs to build an index of `kind` over `rows` rows of a column of type `column`.
pub(super) fn index_params(
    kind: &str,
    rows: usize,
    column: Option<&DataType>,
) -> Result<(IndexType, Box<dyn IndexParams>)> {
    let scalar = |index: IndexType| {
        (
            index,
            Box::new(ScalarIndexParams::default()) as Box<dyn IndexParams>,
        )
    };
    // A partition of about 4,096 rows keeps a probe short without many empty partitions.
    let partitions = rows.div_ceil(4_096).clamp(1, 4_096);
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
                sub_vectors(column),
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

#[cfg(test)]
mod tests {
    use super::sub_vectors;
    use arrow_schema::{DataType, Field};
    use std::sync::Arc;

    #[test]
    fn sub_vectors_divide_the_dimension() {
        let of = |dimension| {
            let item = Arc::new(Field::new("item", DataType::Float32, true));
            sub_vectors(Some(&DataType::FixedSizeList(item, dimension)))
        };
        assert_eq!([768, 100, 17, 7].map(of), [16, 10, 1, 7]);
    }
}
