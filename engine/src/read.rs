//! Snapshot reads: every table of a store at one manifest version.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::TableName;
use crate::store::{Snapshot, Store};
use lance::Dataset;
use lance::datafusion::LanceTableProvider;
use lance::deps::datafusion::common::TableReference;
use lance::deps::datafusion::prelude::SessionContext;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One table of a snapshot, for any Lance client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotTable {
    /// The dataset's URI.
    pub uri: String,
    /// The version to open.
    pub version: u64,
    /// The rows that it shows.
    pub rows: u64,
}

/// A whole snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotDocument {
    /// The manifest version.
    pub manifest_version: u64,
    /// Its tables.
    pub tables: BTreeMap<TableName, SnapshotTable>,
}

impl Store {
    /// Opens `table` as `snapshot` shows it.
    pub async fn read(&self, snapshot: &Snapshot, table: &TableName) -> Result<Arc<Dataset>> {
        let entry = snapshot.state.table(table)?;
        let latest = self.load().await?.state;
        let now = latest.tables.get(table);
        if now.is_some_and(|now| now.path == entry.path && !now.is_same_table(entry)) {
            return Err(Error::new(
                ErrorKind::Expired,
                format!("table {table} was made again since; take a fresh snapshot"),
            ));
        }
        let floor = latest.floor_at(table, &entry.path);
        if entry.version < floor && !self.is_held(&latest, snapshot.version()).await? {
            let why = match floor {
                u64::MAX => format!("table {table} was dropped, and its files are removed"),
                floor => format!(
                    "table {table}: version {} is below the floor {floor}; take a fresh snapshot",
                    entry.version
                ),
            };
            return Err(Error::new(ErrorKind::Expired, why));
        }
        self.open_pinned(entry).await
    }

    /// Registers every table of `snapshot` with DataFusion, under its name: a query over several of them reads what belongs
    /// together.
    ///
    /// ```no_run
    /// # use lance::deps::datafusion::prelude::SessionContext;
    /// # async fn example(store: &squire_engine::store::Store) -> Result<(), Box<dyn std::error::Error>> {
    /// let context = SessionContext::new();
    /// store.register(&store.load().await?, &context).await?;
    /// let joined = context.sql("SELECT * FROM flights JOIN weather USING (origin, time_hour)");
    /// joined.await?.show().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// That of the first table that cannot be read; `Refused` when a table of that name is registered already.
    pub async fn register(&self, snapshot: &Snapshot, context: &SessionContext) -> Result<()> {
        for table in snapshot.state.tables.keys() {
            let dataset = self.read(snapshot, table).await?;
            let provider = LanceTableProvider::new(dataset, false, false);
            let name = TableReference::bare(table.as_str());
            let registered = context.register_table(name, Arc::new(provider));
            registered.map_err(|e| {
                let taken = format!("table {table} cannot be registered");
                Error::new(ErrorKind::Refused, taken).caused_by(e)
            })?;
        }
        Ok(())
    }

    /// Describes `table` as `snapshot` shows it.
    pub async fn describe_table(
        &self,
        snapshot: &Snapshot,
        table: &TableName,
    ) -> Result<SnapshotTable> {
        let entry = snapshot.state.table(table)?;
        let dataset = self.read(snapshot, table).await?;
        Ok(SnapshotTable {
            uri: self.uri_of(&entry.path),
            version: entry.version,
            rows: dataset.count_rows(None).await? as u64,
        })
    }

    /// Describes `snapshot`.
    ///
    /// # Errors
    /// That of the first table that cannot be read.
    pub async fn describe(&self, snapshot: &Snapshot) -> Result<SnapshotDocument> {
        let mut tables = BTreeMap::new();
        for table in snapshot.state.tables.keys() {
            let shown = self.describe_table(snapshot, table).await?;
            tables.insert(table.clone(), shown);
        }
        Ok(SnapshotDocument {
            manifest_version: snapshot.version(),
            tables,
        })
    }
}
