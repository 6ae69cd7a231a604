//! Publish: the compare-and-swap of the manifest from M to M+1.
//!
//! 1. `Store::try_publish` moves the manifest, or says that it lost; a `Record` says what for.
//! 2. `prefix` fast-forwards a pin over content-preserving versions.

mod prefix;

use crate::clock::Backoff;
use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::events::ProtocolEvent;
use crate::ids::{OpId, TableName};
use crate::protocol::{Kind, publish_counts};
use crate::store::state::encode;
use crate::store::{Member, Sidecar, SidecarKind, Snapshot, Store, TableEntry, Updates};
use serde::{Deserialize, Serialize};
use squire_failpoints::{Guard, Seam, hit, stands};
use std::collections::HashMap;
use std::time::Duration;

/// How often a publish is evaluated again before the caller hears of it. Each round lost means that someone else's
/// publish won, so the store makes progress; 200 rounds outlast any burst that a machine can produce.
pub(crate) const PUBLISH_ROUNDS: u32 = 200;

/// How many failures of the storage itself are borne before the caller hears of it: a full disk does not get better.
const STORAGE_FAILURES: u32 = 5;

/// The rounds of one publish loop: bounded, with jittered back-off in between.
#[derive(Debug)]
pub(crate) struct Rounds {
    lost: u32,
    failures: u32,
    backoff: Backoff,
}

impl Rounds {
    pub(crate) fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(250));
        Self {
            lost: 0,
            failures: 0,
            backoff,
        }
    }

    /// Waits before the next round, or gives up with what made this one lose.
    pub(crate) async fn lost(&mut self, store: &Store, error: Error) -> Result<()> {
        self.lost += 1;
        self.failures += u32::from(error.kind() == ErrorKind::Storage);
        if self.failures >= STORAGE_FAILURES {
            return Err(error);
        }
        if self.lost >= PUBLISH_ROUNDS {
            let often = format!("the manifest was taken by others {PUBLISH_ROUNDS} times in a row");
            return Err(Error::conflict(often).caused_by(error));
        }
        self.backoff.wait(store.clock(), &store.entropy).await;
        Ok(())
    }
}

/// One table of a publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The table.
    pub table: TableName,
    /// The pin before; 0 for a create.
    pub from: u64,
    /// The pin after.
    pub to: u64,
}

/// What a publish says of itself: a row of the commit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The operation.
    pub op: OpId,
    /// `logical`, `maintenance`, `undo`, `abort`, `declare`, `cleanup`, ...
    pub kind: String,
    /// Whose operation it is.
    pub actor: String,
    /// Its message.
    pub message: String,
    /// The caller's batch id.
    pub batch: Option<String>,
    /// A digest of what that batch does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The pins that it moves.
    pub tables: Vec<Change>,
    /// The batches of an operation that commits several: each has its own actor, message, id and digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
}

impl Record {
    /// A record of `kind` for `op`.
    pub(crate) fn new(op: OpId, kind: &str, actor: &str, message: impl Into<String>) -> Self {
        Self {
            op,
            kind: kind.to_owned(),
            actor: actor.to_owned(),
            message: message.into(),
            batch: None,
            digest: None,
            tables: Vec::new(),
            members: Vec::new(),
        }
    }

    /// The record of the operation that `sidecar` describes, whoever publishes it.
    pub(crate) fn of_sidecar(sidecar: &Sidecar, kind: &str) -> Self {
        let kind = match sidecar.kind {
            SidecarKind::Logical => kind,
            SidecarKind::Maintenance => Kind::Maintenance.as_str(),
        };
        let mut record = Self::new(sidecar.op, kind, &sidecar.actor, sidecar.message.clone());
        record.batch.clone_from(&sidecar.batch);
        record.digest.clone_from(&sidecar.digest);
        record.members.clone_from(&sidecar.members);
        record
    }

    pub(crate) fn properties(&self, store: OpId) -> Result<HashMap<String, String>> {
        let mut properties = HashMap::from([
            ("squire.store".to_owned(), store.to_string()),
            ("squire.op".to_owned(), self.op.to_string()),
            ("squire.kind".to_owned(), self.kind.clone()),
            ("squire.actor".to_owned(), self.actor.clone()),
            ("squire.message".to_owned(), self.message.clone()),
            ("squire.tables".to_owned(), encode(&self.tables)?),
        ]);
        if !self.members.is_empty() {
            properties.insert("squire.members".to_owned(), encode(&self.members)?);
        }
        for (key, value) in [
            ("squire.batch", &self.batch),
            ("squire.digest", &self.digest),
        ] {
            if let Some(value) = value {
                properties.insert(key.to_owned(), value.clone());
            }
        }
        Ok(properties)
    }

    /// Reads the record back from a manifest version's transaction.
    pub(crate) fn from_properties(properties: &HashMap<String, String>) -> Option<Self> {
        let text = |key: &str| properties.get(key).cloned();
        Some(Self {
            op: OpId::parse(properties.get("squire.op")?).ok()?,
            kind: text("squire.kind")?,
            actor: text("squire.actor").unwrap_or_default(),
            message: text("squire.message").unwrap_or_default(),
            batch: text("squire.batch"),
            digest: text("squire.digest"),
            tables: serde_json::from_str(properties.get("squire.tables")?).ok()?,
            members: match properties.get("squire.members") {
                Some(members) => serde_json::from_str(members).ok()?,
                None => Vec::new(),
            },
        })
    }
}

/// What became of one publish.
#[derive(Debug)]
pub(crate) enum Published {
    /// The manifest is at M+1 with these updates.
    Won(Snapshot),
    /// Someone else took M+1, or it is not known: load and evaluate again.
    Lost(Error),
}

impl Store {
    /// Publishes `updates` on exactly `on`, or loses. The caller checked its preconditions against `on`.
    pub(crate) async fn try_publish(
        &self,
        on: &Snapshot,
        updates: Updates,
        record: &Record,
    ) -> Result<Published> {
        self.ensure_probed().await?;
        hit(Seam::PublishBeforeCommit)?;
        let properties = record.properties(on.state.store)?;
        let published = match self.put_manifest(on, updates, properties).await {
            Ok(published) => published,
            // A failed put may have landed: what the state says decides.
            Err(e) if e.disposition() != Disposition::Fail || e.kind() == ErrorKind::Storage => {
                return Ok(Published::Lost(e));
            }
            Err(e) => return Err(e),
        };
        hit(Seam::PublishAfterCommit)?;
        let verified = self.verify_publish(published).await?;
        if let Published::Won(won) = &verified {
            self.tell(|| ProtocolEvent::Published {
                manifest: won.version(),
                op: record.op,
                kind: record.kind.clone(),
            });
        }
        Ok(verified)
    }

    /// A put at a version number that cleanup freed succeeds (fact 8), so a success counts only above the floor. And a
    /// put into a directory that was unmounted meanwhile succeeds too: what it stood on must still be there.
    async fn verify_publish(&self, published: Snapshot) -> Result<Published> {
        let slot = published.version();
        if self.is_no_freed_number(&published).await? {
            self.remember(&published).await;
            return Ok(Published::Won(published));
        }
        let latest = self.latest_manifest_versions(2).await?;
        match latest.as_slice() {
            [newest, before, ..] if *newest == slot && *before == slot - 1 => {}
            [newest, ..] if *newest > slot => {
                let latest = self.load().await?;
                if stands(Guard::PublishFloor) && !publish_counts(slot, latest.state.manifest_floor)
                {
                    let pruned = "the manifest moved on and this version was cleaned up";
                    return Ok(Published::Lost(Error::conflict(pruned)));
                }
            }
            _ if stands(Guard::PublishHistory) => return Err(self.history_gone(slot - 1)),
            _ => {}
        }
        self.remember(&published).await;
        Ok(Published::Won(published))
    }

    /// Publishes what `plan` asks for, evaluated against a fresh state until it wins; `None` from `plan` means
    /// that what was wanted holds already.
    pub(crate) async fn publish_until<F>(&self, mut plan: F) -> Result<Snapshot>
    where
        F: FnMut(&Snapshot) -> Result<Option<(Updates, Record)>> + Send,
    {
        let mut rounds = Rounds::new();
        loop {
            let snapshot = self.load().await?;
            hit(Seam::PublishAfterLoad)?;
            let Some((updates, record)) = plan(&snapshot)? else {
                return Ok(snapshot);
            };
            match self.try_publish(&snapshot, updates, &record).await? {
                Published::Won(snapshot) => return Ok(snapshot),
                Published::Lost(e) => rounds.lost(self, e).await?,
            }
        }
    }
}

/// The publish of a complete operation, each of whose versions a transaction of `made` made: the same keys, whoever
/// puts them.
pub(crate) fn forward_updates(
    on: &Snapshot,
    sidecar: &Sidecar,
    changes: &[Change],
    made: Vec<Option<String>>,
) -> Result<Updates> {
    let mut updates = Vec::new();
    for ((entry, change), transaction) in sidecar.writes.iter().zip(changes).zip(made) {
        match &entry.create {
            None => updates.push(on.state.pin_update(&entry.table, change.to, transaction)?),
            Some(facts) => {
                let created = TableEntry {
                    path: entry.path.clone(),
                    version: change.to,
                    key: facts.key.clone(),
                    transaction,
                    incarnation: 0,
                };
                updates.extend(on.state.create_updates(&entry.table, &created)?);
            }
        }
    }
    updates.extend(on.state.batch_updates(sidecar)?);
    Ok(updates)
}
