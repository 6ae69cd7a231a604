//! An operation that nobody has decided stands above the pin of a table: what whoever meets it does.

use super::resolve::{Resolution, dead_sidecar};
use crate::clock::Backoff;
use crate::error::Result;
use crate::ids::{OpId, TableName};
use crate::protocol::{Obstacle, Role};
use crate::publish::PUBLISH_ROUNDS;
use crate::store::{Standing, Store};
use serde::Serialize;
use std::time::Duration;

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

/// What became of an operation that stood in a writer's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// Committed or aborted: look again.
    Gone,
    /// Its version has neither sidecar nor decision nor pin: drift.
    Unexplained(u64),
}

impl Store {
    /// One look at operation `other`, which stands above the pin of a table: it is completed, or aborted where `role` may. `None` while it is
    /// undecided.
    async fn encounter(&self, at: &Standing, other: OpId, role: Role) -> Result<Option<Met>> {
        if let Some(decision) = at.snapshot.state.aborted.get(&other) {
            let dead = dead_sidecar(self, other, decision);
            self.resolve(&dead, Role::Helper).await?;
            return Ok(Some(Met::Gone));
        }
        if let Some(sidecar) = self.sidecar(other).await? {
            let resolved = self.resolve(&sidecar, role).await?;
            return Ok((resolved != Resolution::Pending).then_some(Met::Gone));
        }
        // The sidecar is deleted after the outcome is published, and the state was loaded before: look once more.
        let is_same = self.load().await?.version() == at.snapshot.version();
        Ok(Some(match is_same {
            true => Met::Unexplained(at.clean() + 1),
            false => Met::Gone,
        }))
    }

    /// What a writer does with operation `other` in its way on `table`: complete it, wait, or abort it after the grace.
    pub(crate) async fn meet(&self, other: OpId, table: &TableName) -> Result<Met> {
        let since = self.clock().monotonic();
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(500));
        loop {
            let at = self.look_at(table).await?;
            if at.obstacle() != Some(Obstacle::Operation(other)) {
                return Ok(Met::Gone);
            }
            let expired = self.clock().monotonic().saturating_sub(since) >= self.options().grace;
            let role = if expired { Role::Expired } else { Role::Helper };
            if let Some(met) = self.encounter(&at, other, role).await? {
                return Ok(met);
            }
            backoff.wait(self.clock(), &self.entropy).await;
        }
    }

    /// What keeps maintenance off a table. A complete operation is published on the way; nobody is waited for.
    pub(crate) async fn in_the_way(&self, table: &TableName) -> Result<Option<Skipped>> {
        // Each round settles one.
        for _ in 0..PUBLISH_ROUNDS {
            let pinned = self.pinned(table).await?;
            if !self.pin_stands(&pinned.entry).await? {
                return Ok(Some(Skipped::Replaced));
            }
            let at = self.above(pinned).await?;
            let other = match at.obstacle() {
                None => return Ok(None),
                Some(Obstacle::Foreign(_)) => return Ok(Some(Skipped::Drift)),
                Some(Obstacle::Operation(other)) => other,
            };
            match self.encounter(&at, other, Role::Helper).await? {
                Some(Met::Gone) => {}
                Some(Met::Unexplained(_)) => return Ok(Some(Skipped::Drift)),
                None => return Ok(Some(Skipped::Undecided)),
            }
        }
        Ok(Some(Skipped::Undecided))
    }
}
