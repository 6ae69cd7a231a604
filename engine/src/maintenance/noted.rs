//! What the daemon did to the tables of a location, run by run: when, why, and to what effect.
//!
//! One object beside the ledger, `history.json`, with the latest runs of all tables. The commit log of a store says what was published, and
//! nothing of reasons and effects; plain tables have no log. It is read and put anew for each run that changed
//! something, so of two daemons on one location one may lose a line of the other. It decides about nothing.

use crate::error::Result;
use crate::store::{Lasting, Records, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The record of the runs of a location.
const HISTORY: Lasting = Lasting {
    name: "history.json",
    format: 1,
    to_begin: "begin a new history",
};

/// Runs of one location that are kept, about 300 kB; beyond it the oldest go.
pub const MOST_RUNS: usize = 1_000;

/// One run that changed something.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotedRun {
    /// When it ended, in milliseconds since the epoch.
    pub at_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Who ran it.
    pub actor: String,
    /// The table; empty for a cleanup of a whole store.
    pub table: String,
    /// `compact`, `reindex` or `cleanup`.
    pub kind: String,
    /// Why it was begun.
    pub reason: String,
    /// Why it ended before it was through, or what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The version that it published, of a table of a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<u64>,
    /// Fragments that were replaced...
    pub fragments_removed: u64,
    /// ...and by how many.
    pub fragments_added: u64,
    /// Bytes of the fragments that were replaced.
    pub bytes_rewritten: u64,
    /// Indexes that were built or extended.
    pub indexes: Vec<String>,
    /// Bytes that were written into each index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub index_bytes: BTreeMap<String, u64>,
    /// Versions that were removed...
    pub versions_removed: u64,
    /// ...and the bytes that became free.
    pub bytes_removed: u64,
}

/// The record.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The oldest first.
    runs: Vec<NotedRun>,
}

/// One run is noted at a time.
#[derive(Debug, Default)]
struct Noting(tokio::sync::Mutex<()>);

impl Records {
    async fn note(&self, run: NotedRun) -> Result<()> {
        let Record { mut runs } = self.lasting(&HISTORY).await?.unwrap_or_default();
        runs.push(run);
        runs.drain(..runs.len().saturating_sub(MOST_RUNS));
        self.put_lasting(&HISTORY, Record { runs }).await
    }
}

impl Store {
    /// Notes a run that changed something.
    ///
    /// # Errors
    /// Those of the storage, when it may be noted nowhere; a history that cannot be read stays as it is.
    pub async fn note_run(&self, run: NotedRun) -> Result<()> {
        let noting = self.shelf.of::<Noting>();
        let _one_at_a_time = noting.0.lock().await;
        let mut noted = Ok(());
        for records in self.lasting_records().await? {
            noted = records.note(run.clone()).await;
            if noted.is_ok() {
                break;
            }
        }
        noted
    }

    /// The runs that were noted, the latest first.
    ///
    /// # Errors
    /// Those of the storage; a record that is damaged, or of a newer release.
    pub async fn noted_runs(&self) -> Result<Vec<NotedRun>> {
        let Record { runs } = self.lasting(&HISTORY).await?.unwrap_or_default();
        Ok(runs.into_iter().rev().collect())
    }
}
