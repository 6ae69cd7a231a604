//! Merges: rows meet those of the table by their key.
//!
//! An update or a merge replaces whole rows; a delete by keys reads nothing but the keys.

use super::stage::Staged;
use crate::error::{Error, Result};
use crate::ids::Key;
use arrow_array::RecordBatch;
use lance::dataset::{Dataset, MergeInsertBuilder, WhenMatched, WhenNotMatched};
use std::sync::Arc;

/// Which of its rows a merge takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    /// All: a row whose key the table has replaces that one, any other is added.
    #[default]
    Upsert,
    /// Those whose key the table does not have, which are added.
    Insert,
    /// Those whose key the table has, which replace that row.
    Update,
}

impl When {
    /// What it is called, in the digest of a batch as well.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Upsert => "merge",
            Self::Insert => "insert",
            Self::Update => "update",
        }
    }

    /// Whether rows with a key that the table has count.
    pub(super) fn updates(self) -> bool {
        matches!(self, Self::Upsert | Self::Update)
    }

    /// Whether rows with a key that the table does not have count.
    pub(super) fn inserts(self) -> bool {
        matches!(self, Self::Upsert | Self::Insert)
    }
}

pub(super) async fn merge(
    dataset: Arc<Dataset>,
    key: &Key,
    when: When,
    rows: Vec<RecordBatch>,
) -> Result<Staged> {
    let matched = match when.updates() {
        true => WhenMatched::UpdateAll,
        false => WhenMatched::DoNothing,
    };
    let not_matched = match when.inserts() {
        true => WhenNotMatched::InsertAll,
        false => WhenNotMatched::DoNothing,
    };
    stage(dataset, key, (matched, not_matched), rows).await
}

pub(super) async fn delete_keys(
    dataset: Arc<Dataset>,
    key: &Key,
    rows: &[RecordBatch],
) -> Result<Staged> {
    let keys = rows.iter().map(|batch| {
        let columns = key.columns().iter();
        let places = columns.map(|column| batch.schema().index_of(column));
        let places = places.collect::<Result<Vec<_>, _>>();
        places.and_then(|places| batch.project(&places))
    });
    let keys = keys.collect::<Result<_, _>>();
    let keys = keys.map_err(|e| Error::invalid("the key's columns").caused_by(e))?;
    let when = (WhenMatched::Delete, WhenNotMatched::DoNothing);
    stage(dataset, key, when, keys).await
}

async fn stage(
    dataset: Arc<Dataset>,
    key: &Key,
    (matched, not_matched): (WhenMatched, WhenNotMatched),
    rows: Vec<RecordBatch>,
) -> Result<Staged> {
    let merged = MergeInsertBuilder::try_new(dataset, key.columns().to_vec())?
        .when_matched(matched)
        .when_not_matched(not_matched)
        .conflict_retries(0)
        .skip_auto_cleanup(true)
        .try_build()?
        .execute_uncommitted_batches(rows)
        .await?;
    Ok(merged.into())
}
