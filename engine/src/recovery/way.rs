//! What stands in the way of a run on a table.

use super::resolve::{Resolution, dead_sidecar};
use crate::error::Result;
use crate::ids::TableName;
use crate::protocol::{Obstacle, Role, obstacle};
use crate::publish::PUBLISH_ROUNDS;
use crate::store::Store;
use serde::Serialize;

/// Why a table was left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// Foreign versions stand above its pin.
    Drift,
    /// An operation on it is not decided yet.
    Undecided,
    /// It was dropped and made again under its pin.
    Replaced,
    /// It was dropped while it was worked on, and perhaps made again.
    Dropped,
    /// Lance would do it harm, or cannot do it: why.
    Unsupported(String),
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drift => f.write_str("drift"),
            Self::Undecided => f.write_str("undecided"),
            Self::Replaced => f.write_str("replaced"),
            Self::Dropped => f.write_str(
                "it was dropped while it was worked on, made again, or lost the version that was read to another cleanup; nothing was done to what stands there now",
            ),
            Self::Unsupported(why) => f.write_str(why),
        }
    }
}

impl Store {
    /// What keeps maintenance off a table. A complete operation is published on the way.
    pub(crate) async fn in_the_way(&self, table: &TableName) -> Result<Option<Skipped>> {
        for _ in 0..PUBLISH_ROUNDS {
            let snapshot = self.load().await?;
            let entry = snapshot.state.table(table)?;
            if !self.pin_stands(entry).await? {
                return Ok(Some(Skipped::Replaced));
            }
            let chain = self
                .scan(snapshot.state.store, &entry.path, entry.version)
                .await?;
            let op = match obstacle(&chain, entry.version) {
                None => return Ok(None),
                Some(Obstacle::Foreign(_)) => return Ok(Some(Skipped::Drift)),
                Some(Obstacle::Operation(op)) => op,
            };
            if let Some(decision) = snapshot.state.aborted.get(&op) {
                self.resolve(&dead_sidecar(self, op, decision), Role::Helper)
                    .await?;
                continue;
            }
            let Some(sidecar) = self.sidecar(op).await? else {
                if self.load().await?.version() == snapshot.version() {
                    return Ok(Some(Skipped::Drift));
                }
                continue;
            };
            if self.resolve(&sidecar, Role::Helper).await? == Resolution::Pending {
                return Ok(Some(Skipped::Undecided));
            }
        }
        Ok(Some(Skipped::Undecided))
    }
}
