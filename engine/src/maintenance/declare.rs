//! Declared indexes: what maintenance builds and keeps, until it is withdrawn.

use super::Target;
use super::reindex::index_params;
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
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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
        let (kind, _) = index_params(&declaration.kind, None)?;
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
