//! New tables: what is created, and whether a table that stands is what would be.

use super::stage::{RowCounts, Staged, Write, write_params};
use super::validate::check_new;
use crate::error::{Error, Result, quoted};
use crate::ids::{Key, TableName};
use crate::store::{Slot, Snapshot, Store};
use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance::datatypes::Schema as LanceSchema;
use std::sync::Arc;

pub(super) fn check_create(table: &TableName, write: &Write) -> Result<()> {
    let Write::Create { schema, key } = write else {
        return Err(Error::internal(format!(
            "table {table} is not visible and not being created"
        )));
    };
    check_new(table, schema, key.as_ref())
}

impl Store {
    pub(super) async fn stage_create(&self, path: &str, schema: Arc<Schema>) -> Result<Staged> {
        let params = WriteParams {
            store_params: Some(self.params().clone()),
            commit_handler: Some(Arc::new(self.guard().at(Slot::ours(1)))),
            session: Some(self.session()),
            ..write_params(WriteMode::Create)
        };
        let uri = self.writing_uri(path)?;
        let transaction = InsertBuilder::new(uri.as_str())
            .with_params(&params)
            .execute_uncommitted(vec![RecordBatch::new_empty(schema)])
            .await?;
        Ok(Staged::new(transaction.operation, RowCounts::default()))
    }

    /// In what `table`, which `snapshot` shows, differs from one that would be created with `schema` and `key`: columns, their
    /// types, whether they may be null, and the key. The order of the columns is no difference, since everything goes by name.
    ///
    /// # Errors
    /// Those of opening the table; `InvalidInput` when no table could be created like that.
    pub async fn differences(
        &self,
        snapshot: &Snapshot,
        table: &TableName,
        schema: &Schema,
        key: Option<&Key>,
    ) -> Result<Vec<String>> {
        check_new(table, schema, key)?;
        let entry = snapshot.state.table(table)?;
        let has = Schema::from(self.open_pinned(entry).await?.schema());
        // As Lance would keep it.
        let wanted = Schema::from(&LanceSchema::try_from(schema)?);
        let mut differences: Vec<String> = Vec::new();
        for field in wanted.fields() {
            match has.field_with_name(field.name()) {
                Ok(own) if is_same(own, field) => {}
                Ok(own) => differences.push(format!(
                    "column {} is {} there, and {} here",
                    quoted(field.name()),
                    kind(own),
                    kind(field)
                )),
                Err(_) => differences.push(format!("it has no column {}", quoted(field.name()))),
            }
        }
        let more = has.fields().iter().map(|field| field.name());
        let more = more.filter(|name| wanted.field_with_name(name).is_err());
        differences.extend(more.map(|name| format!("it has a column {} besides", quoted(name))));
        if entry.key.as_ref() != key {
            let told = |key: Option<&Key>| key.map_or_else(|| "none".to_owned(), Key::to_string);
            let (own, key) = (told(entry.key.as_ref()), told(key));
            differences.push(format!("its key is {own}, and {key} here"));
        }
        Ok(differences)
    }
}

fn is_same(a: &Field, b: &Field) -> bool {
    a.data_type().equals_datatype(b.data_type()) && a.is_nullable() == b.is_nullable()
}

fn kind(field: &Field) -> String {
    let nulls = match field.is_nullable() {
        true => "",
        false => " without nulls",
    };
    format!("{}{nulls}", field.data_type())
}
