//! Reads the store through the engine, as any reader would: at one snapshot.

use crate::error::{Context, Result};
use crate::source::{HOUR_COLUMN, hours_in};
use arrow::array::RecordBatch;
use futures::TryStreamExt;
use squire_engine::error::{Error, ErrorKind};
use squire_engine::store::{Snapshot, Store, StoreOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The rows of each hour in one snapshot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct HourCounts {
    /// The snapshot.
    pub(crate) manifest_version: u64,
    /// Rows of flights and weather by the start of the hour.
    pub(crate) rows: BTreeMap<i64, (usize, usize)>,
}

impl HourCounts {
    /// Rows of flights and weather of one hour.
    pub(crate) fn rows_of(&self, start_ms: i64) -> (usize, usize) {
        self.rows.get(&start_ms).copied().unwrap_or_default()
    }
}

/// An open store.
#[derive(Debug)]
pub(crate) struct Reader {
    store: Arc<Store>,
}

impl Reader {
    /// Opens the store at `uri`; `None` when there is none.
    pub(crate) async fn open(uri: &str) -> Result<Option<Self>> {
        match Store::open(uri, StoreOptions::default()).await {
            Ok(store) => Ok(Some(Self { store })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context(|| format!("cannot open {uri}")),
        }
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.store
            .load()
            .await
            .context(|| "cannot read the manifest".to_owned())
    }

    /// The names of the tables, and of the tables with a declared index.
    pub(crate) async fn catalogue(&self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let state = self.snapshot().await?.state;
        let tables = state.tables.keys().map(ToString::to_string).collect();
        let indexed = state
            .indexes
            .keys()
            .map(|(table, _)| table.to_string())
            .collect();
        Ok((tables, indexed))
    }

    /// Counts the rows of every hour, all in one snapshot: the latest, or that of an older manifest
    /// version.
    pub(crate) async fn hours(&self, at: Option<u64>) -> Result<HourCounts> {
        let snapshot = match at {
            Some(version) => {
                let older = self.store.snapshot_at(version).await;
                older.context(|| format!("cannot open the snapshot {version}"))?
            }
            None => self.snapshot().await?,
        };
        let mut counts = HourCounts {
            manifest_version: snapshot.version(),
            rows: BTreeMap::new(),
        };
        for batch in self.scan(&snapshot, "flights", Some(HOUR_COLUMN)).await? {
            for hour in hours_in(&batch)? {
                counts.rows.entry(*hour).or_default().0 += 1;
            }
        }
        for batch in self.scan(&snapshot, "weather", Some(HOUR_COLUMN)).await? {
            for hour in hours_in(&batch)? {
                counts.rows.entry(*hour).or_default().1 += 1;
            }
        }
        Ok(counts)
    }

    /// All rows of some tables, all in one snapshot.
    pub(crate) async fn rows<const N: usize>(
        &self,
        tables: [&str; N],
    ) -> Result<[Vec<RecordBatch>; N]> {
        let snapshot = self.snapshot().await?;
        let mut found = [const { Vec::new() }; N];
        for (table, rows) in tables.into_iter().zip(&mut found) {
            *rows = self.scan(&snapshot, table, None).await?;
        }
        Ok(found)
    }

    async fn scan(
        &self,
        snapshot: &Snapshot,
        table: &str,
        column: Option<&str>,
    ) -> Result<Vec<RecordBatch>> {
        let read = async {
            let dataset = self.store.read(snapshot, &table.parse()?).await?;
            let mut scanner = dataset.scan();
            if let Some(column) = column {
                scanner.project(&[column])?;
            }
            let rows: Vec<RecordBatch> = scanner.try_into_stream().await?.try_collect().await?;
            Ok::<_, Error>(rows)
        };
        read.await.context(|| format!("cannot read table {table}"))
    }
}
