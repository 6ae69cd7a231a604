//! Sidecars: the recovery record of one operation, put if absent and never changed.

use super::{Records, Store, content_of};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{At, ProtocolEvent};
use crate::ids::{Key, OpId, TableName};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use squire_failpoints::{Seam, hit};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The newest sidecar format that this squire reads.
const FORMAT: u32 = SEVERAL_KEYS;

/// The format of a sidecar without anything that came later.
const PLAIN: u32 = 1;

/// The format of one with members: an earlier release, which would publish the operation without their batch ids, refuses it.
const MEMBERS: u32 = 2;

/// The format of one that creates a table whose key is more than one column, which an earlier release cannot read.
const SEVERAL_KEYS: u32 = 3;

/// What a sidecar's operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SidecarKind {
    /// Changes content: complete or abort.
    Logical,
    /// Preserves content: publish the clean prefix.
    Maintenance,
}

/// One table of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarTable {
    /// The table.
    pub table: TableName,
    /// Its dataset below the store's root.
    pub path: String,
    /// The pin that the operation was staged on; 0 for a create.
    pub base: u64,
    /// What a create declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<CreateFacts>,
}

impl SidecarTable {
    /// The same without the key that a create declares: who heals what it left asks for none, and an earlier release could
    /// not read every key.
    pub(crate) fn without_key(&self) -> Self {
        let create = self.create.as_ref().map(|_| CreateFacts::default());
        Self {
            create,
            ..self.clone()
        }
    }

    fn at(&self) -> At {
        At {
            table: self.table.clone(),
            version: self.base,
        }
    }
}

/// What a create declares besides its schema.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateFacts {
    /// The key, for merge and delete by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
}

/// One of several batches that an operation commits together, as its sidecar, its publish and the commit log name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The caller's id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// A digest of what it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whose it is.
    pub actor: String,
    /// Its message.
    pub message: String,
}

impl Member {
    /// Its batch id, with the digest of what it does.
    pub(crate) fn id(&self) -> Option<(&str, Option<&str>)> {
        let id = self.batch.as_deref()?;
        Some((id, self.digest.as_deref()))
    }
}

/// The recovery record of one operation: all that anyone needs to finish or abort it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// The record's format.
    pub format: u32,
    /// The operation.
    pub op: OpId,
    /// What it does.
    pub kind: SidecarKind,
    /// Written tables, sorted by name.
    pub writes: Vec<SidecarTable>,
    /// Tables that it read and that must be unchanged.
    pub reads: Vec<SidecarTable>,
    /// The caller's id of the batch, for exactly-once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// A digest of what the batch does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Who commits.
    pub actor: String,
    /// The commit message.
    pub message: String,
    /// The batches of an operation that commits several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// When it began, milliseconds since the epoch; only the check of old staged files looks at it.
    pub started_ms: u64,
    /// The plain table that a run maintains, below its location. Such a run has no writes: nothing is to be published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<String>,
}

impl Sidecar {
    /// A sidecar of the current format.
    pub fn new(op: OpId, kind: SidecarKind, actor: &str, message: &str, started_ms: u64) -> Self {
        Self {
            format: PLAIN,
            op,
            kind,
            writes: Vec::new(),
            reads: Vec::new(),
            batch: None,
            digest: None,
            actor: actor.to_owned(),
            message: message.to_owned(),
            members: Vec::new(),
            started_ms,
            plain: None,
        }
    }

    /// The sidecar of a logical operation that commits `batches`: one, or several as its members.
    pub(crate) fn of_batches(op: OpId, batches: &[Member], started_ms: u64) -> Self {
        let kind = SidecarKind::Logical;
        let first = batches.first();
        let actor = first.map_or("", |first| &first.actor);
        if batches.len() > 1 {
            let mut sidecar = Self::new(op, kind, actor, &together(batches.len()), started_ms);
            sidecar.members = batches.to_vec();
            sidecar.format = MEMBERS;
            return sidecar;
        }
        let message = first.map_or("", |first| &first.message);
        let mut sidecar = Self::new(op, kind, actor, message, started_ms);
        sidecar.batch = first.and_then(|first| first.batch.clone());
        sidecar.digest = first.and_then(|first| first.digest.clone());
        sidecar
    }

    /// Says what it writes.
    pub(crate) fn set_writes(&mut self, writes: Vec<SidecarTable>) {
        let mut keys = writes
            .iter()
            .filter_map(|w| w.create.as_ref()?.key.as_ref());
        if keys.any(Key::has_several) {
            self.format = SEVERAL_KEYS;
        }
        self.writes = writes;
    }

    /// The batch ids that it commits, each with the digest of what its batch does.
    pub(crate) fn batch_ids(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let own = self.batch.as_deref().map(|id| (id, self.digest.as_deref()));
        own.into_iter()
            .chain(self.members.iter().filter_map(Member::id))
    }

    /// `None` for a torn one: its put never ended, so nothing of its operation began.
    fn parse(bytes: &[u8], name: &str) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let unreadable = |e| {
            let damaged = format!(
                "the sidecar /{name} is damaged, and what its operation did is not known, so that nothing is cleaned: restore this file from a backup, or remove it when its writer has ended (what it left above a pin is drift then, see `squire repair`)"
            );
            Error::internal(damaged).caused_by(e)
        };
        let versioned: Versioned = match serde_json::from_slice(bytes) {
            Ok(versioned) => versioned,
            Err(e) if is_torn(bytes, &e) => return Ok(None),
            Err(e) => return Err(unreadable(e)),
        };
        if versioned.format > FORMAT {
            return Err(Error::new(
                ErrorKind::FormatTooNew,
                format!(
                    "sidecar {name} has format {}, this squire reads up to {FORMAT}; upgrade squire",
                    versioned.format
                ),
            ));
        }
        serde_json::from_slice(bytes).map(Some).map_err(unreadable)
    }
}

/// The message of an operation that commits `batches` batches; each has its own.
pub(crate) fn together(batches: usize) -> String {
    format!("{batches} batches")
}

/// Whether a power cut took the end of these bytes: they stop too early, or what was never written reads as zeros.
pub(super) fn is_torn(bytes: &[u8], error: &serde_json::Error) -> bool {
    error.is_eof() || bytes.contains(&0)
}

impl Records {
    pub(crate) fn sidecar_path(&self, op: OpId) -> object_store::path::Path {
        self.directory().join(format!("{op}.json"))
    }

    /// Puts the sidecar, or fails without a trace that outlives the grace.
    pub(crate) async fn put_sidecar(&self, sidecar: &Sidecar) -> Result<()> {
        hit(Seam::SidecarBeforePut)?;
        let Err(e) = self.try_put_sidecar(sidecar).await else {
            return Ok(());
        };
        // It may have landed; nothing else has, so whoever finds it later aborts it.
        if let Err(left) = self.delete_sidecar(sidecar.op).await {
            tracing::debug!(op = %sidecar.op, error = %left, "a sidecar may be left for recovery");
        }
        Err(e)
    }

    async fn try_put_sidecar(&self, sidecar: &Sidecar) -> Result<()> {
        let path = self.sidecar_path(sidecar.op);
        let bytes = serde_json::to_vec(sidecar)
            .map_err(|e| Error::internal("encoding a sidecar").caused_by(e))?;
        match self.put(&path, bytes).await {
            Ok(()) => {}
            // A ULID is used once, so what is there is what a lost response put.
            Err(e)
                if e.kind() == ErrorKind::Conflict
                    && self.sidecar(sidecar.op).await?.as_ref() == Some(sidecar) => {}
            Err(e) => return Err(e),
        }
        // An error here is a put that landed and whose answer was lost.
        hit(Seam::SidecarAfterPut)?;
        Ok(())
    }

    /// The sidecar of `op`, if it stands. One that is torn was never written.
    pub(crate) async fn sidecar(&self, op: OpId) -> Result<Option<Sidecar>> {
        let path = self.sidecar_path(op);
        match content_of(&self.objects, &path).await? {
            Some(bytes) => Sidecar::parse(&bytes, path.as_ref()),
            None => Ok(None),
        }
    }

    /// Whether the sidecar of `op` stands.
    pub(crate) async fn has_sidecar(&self, op: OpId) -> Result<bool> {
        Ok(self.objects.exists(&self.sidecar_path(op)).await?)
    }

    /// The operations that have a sidecar, oldest first.
    pub(crate) async fn sidecar_ops(&self) -> Result<Vec<OpId>> {
        let listed = self.listed().await?.objects;
        let mut ops: Vec<OpId> = listed
            .iter()
            .filter_map(|meta| OpId::parse(meta.location.filename()?.strip_suffix(".json")?).ok())
            .collect();
        ops.sort_unstable();
        Ok(ops)
    }

    /// Removes a sidecar; one that is gone already is fine.
    pub(crate) async fn delete_sidecar(&self, op: OpId) -> Result<()> {
        hit(Seam::SidecarBeforeDelete)?;
        match self.objects.inner.delete(&self.sidecar_path(op)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        hit(Seam::SidecarAfterDelete)?;
        Ok(())
    }

    /// [`Records::delete_sidecar`], best effort: what stays is removed by whoever finds its operation at its end.
    pub(crate) async fn retire_sidecar(&self, op: OpId) {
        if let Err(e) = self.delete_sidecar(op).await {
            tracing::debug!(%op, error = %e, "a sidecar is left for recovery");
        }
    }
}

/// Operations that are published and whose sidecars still stand: nothing needs these, and nobody's answer waits for them to go.
#[derive(Debug, Default)]
pub(super) struct Untidy(Mutex<Vec<OpId>>);

impl Untidy {
    fn ops(&self) -> MutexGuard<'_, Vec<OpId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Leaves the sidecar of `op`, which is published, to the next [`Self::tidy`].
    pub(crate) fn tidy_later(&self, op: OpId) {
        self.untidy.ops().push(op);
    }

    /// Removes what is left of operations that were answered: their sidecars. The next commit does it, too; what a process leaves
    /// is for recovery.
    pub async fn tidy(&self) {
        let ops = std::mem::take(&mut *self.untidy.ops());
        let retiring = ops.into_iter().map(|op| self.records.retire_sidecar(op));
        futures::future::join_all(retiring).await;
    }

    /// Puts the sidecar, or fails without a trace that outlives the grace.
    pub(crate) async fn put_sidecar(&self, sidecar: &Sidecar) -> Result<()> {
        self.ensure_probed().await?;
        self.records.put_sidecar(sidecar).await?;
        if sidecar.kind == SidecarKind::Logical {
            self.tell(|| ProtocolEvent::Begun {
                op: sidecar.op,
                writes: sidecar.writes.iter().map(SidecarTable::at).collect(),
                reads: sidecar.reads.iter().map(SidecarTable::at).collect(),
            });
        }
        Ok(())
    }

    /// The sidecar of `op`, if it stands. One that is torn was never written.
    pub async fn sidecar(&self, op: OpId) -> Result<Option<Sidecar>> {
        self.records.sidecar(op).await
    }

    /// The operations that have a sidecar, oldest first.
    pub async fn sidecar_ops(&self) -> Result<Vec<OpId>> {
        self.records.sidecar_ops().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_sidecar_was_never_written_and_a_strange_one_is_refused() {
        let op = OpId::from(ulid::Ulid::from_parts(1, 2));
        let sidecar = Sidecar::new(op, SidecarKind::Logical, "me", "", 1);
        let whole = serde_json::to_vec(&sidecar).expect("JSON");
        let parse = |bytes: &[u8]| Sidecar::parse(bytes, "s").map_err(|e| e.kind());
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Ok(None), "cut at {end}");
            let mut zeros = whole.clone();
            zeros[end..].fill(0);
            assert_eq!(parse(&zeros), Ok(None), "zeros from {end}");
        }
        assert_eq!(parse(&whole), Ok(Some(sidecar)));
        assert_eq!(parse(b"{\"format\":9}"), Err(ErrorKind::FormatTooNew));
        assert_eq!(parse(b"portal"), Err(ErrorKind::Internal));
        let told = Sidecar::parse(b"hello\n", "lake/_squire/recovery/x.json");
        let told = told.expect_err("no JSON").to_string();
        for part in ["/lake/_squire/recovery/x.json", "remove it"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
