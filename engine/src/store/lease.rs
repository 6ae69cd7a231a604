//! Reader leases: records under `_squire/leases` that make cleanup spare one snapshot while a reader runs.
//!
//! A lease never changes. To renew it its holder puts a new record, sees that the old one still stands, and removes the
//! old one. Cleanup removes what has expired, looks again, and only then deletes versions. So whichever of the two is
//! first, the other sees it: a holder learns that its lease is lost, or cleanup learns that it was renewed. Clocks decide
//! when a lease is given up, and not whether a reader is told.
//!
//! A lease has expired when its ttl has passed since the storage took the record, by the storage's own clock where cleanup
//! has measured that, and by the local one where it only plans.

use super::{INTERNAL, Store, content_of};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::OpId;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use squire_failpoints::{Seam, hit};
use std::time::Duration;

/// The newest lease format that this squire reads.
const FORMAT: u32 = 1;

/// The record of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The record's format.
    pub format: u32,
    /// Its name.
    pub id: OpId,
    /// The manifest version whose snapshot is spared.
    pub manifest_version: u64,
    /// How long it holds after its put, in milliseconds.
    pub ttl_ms: u64,
    /// Who holds it.
    pub actor: String,
    /// What it is held for: the command that runs.
    pub message: String,
}

/// A lease as it stands on storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingLease {
    /// What it says; `None` where a power cut left a part of it, so that its put never ended.
    pub lease: Option<Lease>,
    /// When the storage took it, milliseconds since the epoch by the storage's clock.
    pub put_ms: i64,
    path: Path,
}

impl StandingLease {
    /// What still holds at `now_ms`.
    pub fn live(&self, now_ms: i64) -> Option<&Lease> {
        let lease = self.lease.as_ref()?;
        let ttl = i64::try_from(lease.ttl_ms).unwrap_or(i64::MAX);
        (now_ms < self.put_ms.saturating_add(ttl)).then_some(lease)
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Option<Lease>> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let told = |e| {
        let damaged = format!(
            "the lease /{path} is damaged, and what it holds is not known, so that nothing is cleaned: remove it when its reader has ended"
        );
        Error::internal(damaged).caused_by(e)
    };
    let versioned: Versioned = match serde_json::from_slice(bytes) {
        Ok(versioned) => versioned,
        Err(e) if super::sidecar::is_torn(bytes, &e) => return Ok(None),
        Err(e) => return Err(told(e)),
    };
    if versioned.format > FORMAT {
        let newer = format!(
            "lease /{path} has format {}, this squire reads up to {FORMAT}; upgrade squire",
            versioned.format
        );
        return Err(Error::new(ErrorKind::FormatTooNew, newer));
    }
    serde_json::from_slice(bytes).map(Some).map_err(told)
}

impl Store {
    fn lease_path(&self, id: OpId) -> Path {
        self.object_path(&format!("{INTERNAL}/leases/{id}.json"))
    }

    /// The leases that stand, expired ones among them, the oldest first.
    ///
    /// # Errors
    /// One that is no lease, by its file: what it holds is not known.
    pub async fn leases(&self) -> Result<Vec<StandingLease>> {
        let prefix = self.object_path(&format!("{INTERNAL}/leases"));
        let listed: Vec<ObjectMeta> = self.objects.list(Some(prefix)).try_collect().await?;
        let mut leases = Vec::new();
        for meta in listed {
            let name = meta.location.filename().unwrap_or_default();
            let id = name.strip_suffix(".json").map(OpId::parse);
            if !matches!(id, Some(Ok(_))) {
                continue;
            }
            let Some(bytes) = content_of(&self.objects, &meta.location).await? else {
                continue;
            };
            leases.push(StandingLease {
                lease: parse(&bytes, &meta.location)?,
                put_ms: meta.last_modified.timestamp_millis(),
                path: meta.location,
            });
        }
        leases.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(leases)
    }

    /// Leases the snapshot at manifest version `at`, or the latest.
    ///
    /// # Errors
    /// `Expired` and `NotFound` as for [`Store::snapshot_at`]; `Refused` when a version that it needs is gone.
    pub async fn lease(&self, at: Option<u64>, ttl: Duration, message: &str) -> Result<Lease> {
        let snapshot = match at {
            Some(version) => self.snapshot_at(version).await?,
            None => self.load().await?,
        };
        let lease = Lease {
            format: FORMAT,
            id: self.new_op(),
            manifest_version: snapshot.version(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            actor: self.options().actor.clone(),
            message: message.to_owned(),
        };
        self.put_lease(&lease).await?;
        // A cleanup that did not see the lease has raised its floors before it looked.
        if let Err(e) = self.check_holdable(&snapshot).await {
            self.remove_lease(&lease).await?;
            return Err(e);
        }
        Ok(lease)
    }

    async fn put_lease(&self, lease: &Lease) -> Result<()> {
        self.ensure_probed().await?;
        hit(Seam::LeaseBeforePut)?;
        let bytes = serde_json::to_vec(lease)
            .map_err(|e| Error::internal("encoding a lease").caused_by(e))?;
        self.put_if_absent(&self.lease_path(lease.id), bytes)
            .await?;
        hit(Seam::LeaseAfterPut).map_err(Into::into)
    }

    /// Renews `lease`: from now on it is the one that this gives.
    ///
    /// # Errors
    /// `Expired` when cleanup has given it up: what it held may be gone.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<Lease> {
        let next = Lease {
            id: self.new_op(),
            ..lease.clone()
        };
        self.put_lease(&next).await?;
        // In this order: a cleanup that takes the old one away looks again afterwards, and sees the new one.
        if !self.objects.exists(&self.lease_path(lease.id)).await? {
            self.remove_lease(&next).await?;
            return Err(Error::new(
                ErrorKind::Expired,
                format!(
                    "lease {} was given up after {} s without a renewal: the snapshot at manifest version {} may be gone",
                    lease.id,
                    lease.ttl_ms / 1000,
                    lease.manifest_version
                ),
            ));
        }
        self.remove_lease(lease).await?;
        Ok(next)
    }

    /// Ends a lease; one that is gone already is fine.
    pub async fn remove_lease(&self, lease: &Lease) -> Result<()> {
        hit(Seam::LeaseBeforeDelete)?;
        self.delete_lease(&self.lease_path(lease.id)).await
    }

    /// Removes one that has expired.
    pub(crate) async fn give_up_lease(&self, lease: &StandingLease) -> Result<()> {
        hit(Seam::CleanupBeforeLease)?;
        self.delete_lease(&lease.path).await
    }

    async fn delete_lease(&self, path: &Path) -> Result<()> {
        match self.objects.inner.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
