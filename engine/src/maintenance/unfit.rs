//! What rests of a location's maintenance, since its result could not replace what it should have replaced.
//!
//! One object beside the ledger, `unfit.json`. Without it each restart, and each single pass, would write the same result once
//! more only to find it unfit again. Another release may do better, so what one release noted says nothing to the next.

use crate::error::Result;
use crate::store::{Lasting, Store};
use serde::{Deserialize, Serialize};

/// The record of what rests as unfit.
const UNFIT: Lasting = Lasting {
    name: "unfit.json",
    format: 1,
    to_begin: "have everything tried once more",
};

/// The release that notes and reads.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// One part of a table's maintenance that rests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// The table.
    pub table: String,
    /// `compact` or `reindex`.
    pub kind: String,
    /// The index, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// What the table, or the index, looked like: it rests until this changes. See [`TableHealth`](super::TableHealth).
    pub fingerprint: u64,
    /// Why its result was unfit.
    pub reason: String,
}

/// The record.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    release: String,
    rests: Vec<Unfit>,
}

impl Store {
    /// What rests here as unfit, as this release noted it.
    ///
    /// # Errors
    /// Those of the storage; a record that is damaged, or of a newer format.
    pub async fn unfit(&self) -> Result<Vec<Unfit>> {
        let record: Record = self.lasting(&UNFIT).await?.unwrap_or_default();
        Ok(match record.release == RELEASE {
            true => record.rests,
            false => Vec::new(),
        })
    }

    /// Notes that `rests` is all that rests here as unfit.
    ///
    /// # Errors
    /// Those of the storage, when it may be noted nowhere.
    pub async fn note_unfit(&self, rests: &[Unfit]) -> Result<()> {
        let record = Record {
            release: RELEASE.to_owned(),
            rests: rests.to_vec(),
        };
        self.put_lasting(&UNFIT, &record).await
    }

    /// `kind` of `table` was done by hand, and its result was fit: it rests no more.
    ///
    /// # Errors
    /// As [`Self::unfit`] and [`Self::note_unfit`].
    pub async fn forget_unfit(&self, table: &str, kind: &str) -> Result<()> {
        let before = self.unfit().await?;
        let is_other = |rests: &&Unfit| rests.table != table || rests.kind != kind;
        let left: Vec<Unfit> = before.iter().filter(is_other).cloned().collect();
        match left.len() == before.len() {
            true => Ok(()),
            false => self.note_unfit(&left).await,
        }
    }
}
