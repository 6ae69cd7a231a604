//! The one guarded commit handler, used for every handle of every table and of the manifest.
//!
//! * **slot**: refuses any version but the expected one. Lance has no strict commit (fact 1); without the slot a
//!   commit is rebased over whatever landed in between. All below the slot was read when the slot was chosen, so no
//!   latest version is asked for.
//! * **contiguity**: refuses a list of versions with a gap. Rebase skips versions that were cleaned up (fact 5);
//!   without this a stale handle brings deleted rows back.
//! * **licence**: a maintenance run commits only while its sidecar stands; without this a run that was taken for dead
//!   lands a version whose files were deleted as stranded.
//! * **standing**: a commit lands only on the table that was opened; without this a rewrite of a table
//!   that was dropped lands on the one that was made again in its place, and rows in a folder of nothing else.
//! * **rehearsal**: a version is built and not put, so that it can be looked at before it counts.
//! * **gate**: puts a version when what has to stand before it does, so that both are made ready at once.
//! * **delegation** of what tells Lance how to read a refusal (fact 2); without it a refusal is "status unknown".
//! * one place for versions: a handle's data may go through another store than the versions of its table.
//! * the seams around the put, and the counters.

use super::Opened;
use crate::error::{Error, ErrorKind};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use lance::Error as LanceError;
use lance_io::object_store::ObjectStore;
use lance_table::format::{IndexMetadata, Manifest, Transaction, pb};
use lance_table::io::commit::{
    CommitError, CommitHandler, ManifestLocation, ManifestNamingScheme, ManifestWriter,
};
use object_store::{ObjectStore as OSObjectStore, path::Path};
use squire_failpoints::{Guard, Seam, hit, stands};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Mutex, SetOnce};

/// What this process committed, and what the guard refused.
#[derive(Debug, Default)]
pub struct CommitCounters {
    committed: AtomicU64,
    lost: AtomicU64,
    refused_slots: AtomicU64,
    refused_gaps: AtomicU64,
}

/// A reading of [`CommitCounters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitCounts {
    /// Versions put.
    pub committed: u64,
    /// Puts that lost to another writer.
    pub lost: u64,
    /// Commits refused because their version was not the slot.
    pub refused_slots: u64,
    /// Commits refused because versions since their base are gone.
    pub refused_gaps: u64,
}

impl CommitCounters {
    /// Reads all counters.
    pub fn read(&self) -> CommitCounts {
        CommitCounts {
            committed: self.committed.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            refused_slots: self.refused_slots.load(Ordering::Relaxed),
            refused_gaps: self.refused_gaps.load(Ordering::Relaxed),
        }
    }
}

/// See the module's header.
#[derive(Debug)]
pub struct GuardedCommitHandler {
    inner: Arc<dyn CommitHandler>,
    slot: Option<SlotChoice>,
    /// The sidecar of the maintenance run that commits, and the storage that it stands in.
    licence: Option<(Arc<ObjectStore>, Path)>,
    /// The version that its handle was opened at.
    opened: OnceLock<Opened>,
    /// Where versions are found and put, whatever store a handle's data goes through: other stores would find the
    /// latest version by its hint (fact 16).
    objects: Option<Arc<ObjectStore>>,
    gate: Option<Gate>,
    is_rehearsal: bool,
    /// Ids that are left out before those that a rehearsal reserves.
    ids_ahead: u32,
    /// Puts whose outcome is not known.
    doubts: Arc<AtomicU64>,
    /// Where the version lies that a handle is about to be opened at.
    known: Mutex<Option<ManifestLocation>>,
    counters: Arc<CommitCounters>,
}

/// What a version waits for before it is put. All that Lance does before that goes on meanwhile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<SetOnce<bool>>);

impl Gate {
    /// Lets the version pass.
    pub(crate) fn open(&self) {
        self.decide(true);
    }

    /// Has the version refused: nothing is put.
    pub(crate) fn close(&self) {
        self.decide(false);
    }

    fn decide(&self, passes: bool) {
        // Whatever was decided first stands.
        drop(self.0.set(passes));
    }

    /// Waits until it is open.
    ///
    /// # Errors
    /// `Cancelled` once it is closed.
    pub(crate) async fn pass(&self) -> Result<(), Error> {
        match self.0.wait().await {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Cancelled,
                "what it stands on was not put",
            )),
        }
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.get() == Some(&false)
    }
}

/// The only version that may be committed.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// Its number.
    pub version: u64,
    /// How the versions of its dataset are named.
    pub naming: ManifestNamingScheme,
}

/// A slot that is chosen when HEAD was read, so that HEAD need not be read again to be committed through. Until then nothing may
/// be committed.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlotChoice(Arc<OnceLock<Slot>>);

impl SlotChoice {
    /// Chooses `slot`; whatever was chosen first stands.
    pub(crate) fn choose(&self, slot: Slot) {
        self.0.get_or_init(|| slot);
    }

    fn get(&self) -> Option<Slot> {
        self.0.get().copied()
    }
}

impl Slot {
    /// A version of a dataset that is not there yet, or that only this engine writes.
    pub const fn ours(version: u64) -> Self {
        Self {
            version,
            naming: NAMING,
        }
    }
}

/// Bytes of a version at most: it is one message of protocol buffers.
const MANIFEST_BYTES: u64 = 2 << 30;

/// Refuses what is no version, and would end the process or never be read to its end.
///
/// # Errors
/// `CorruptFile`, with the file.
pub(super) async fn check_readable(
    objects: &ObjectStore,
    path: &Path,
    size: Option<u64>,
) -> lance::Result<()> {
    let mut size = size.unwrap_or(0);
    if objects.has_direct_local_paths() {
        let Ok(file) = tokio::fs::metadata(format!("/{path}")).await else {
            return Ok(());
        };
        if !file.is_file() {
            let what = "it is no regular file; remove it";
            return Err(LanceError::corrupt_file(path.clone(), what));
        }
        size = file.len();
    }
    if size > MANIFEST_BYTES {
        // Lance takes memory for all of it, and an allocation that fails ends the process.
        let what =
            format!("its {size} bytes are more than a version can have; restore it from a backup");
        return Err(LanceError::corrupt_file(path.clone(), what));
    }
    Ok(())
}

/// Folders of a table: of its versions, and of their transactions.
const VERSIONS: &str = "_versions";
const TRANSACTIONS: &str = "_transactions";

/// Lance's hint at the latest version, beside the versions.
pub(crate) const VERSION_HINT: &str = "latest_version_hint.json";

/// How Lance names the versions of new datasets.
pub(super) const NAMING: ManifestNamingScheme = ManifestNamingScheme::V2;

impl GuardedCommitHandler {
    /// Guards `inner`.
    pub fn new(inner: Arc<dyn CommitHandler>, counters: Arc<CommitCounters>) -> Self {
        Self {
            inner,
            slot: None,
            licence: None,
            opened: OnceLock::new(),
            objects: None,
            gate: None,
            is_rehearsal: false,
            ids_ahead: 0,
            doubts: Arc::default(),
            known: Mutex::default(),
            counters,
        }
    }

    /// Refuses to commit any version but `slot`.
    #[must_use]
    pub fn at(self, slot: Slot) -> Self {
        let choice = SlotChoice::default();
        choice.choose(slot);
        self.at_chosen(choice)
    }

    /// Refuses to commit any version but the one that is chosen until then.
    #[must_use]
    pub(crate) fn at_chosen(mut self, slot: SlotChoice) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Answers the first question for where this version lies without asking the storage. Later ones are asked: it may
    /// be gone by then.
    #[must_use]
    pub fn knowing(mut self, location: ManifestLocation) -> Self {
        self.known = Mutex::new(Some(location));
        self
    }

    /// Refuses to commit once the object at `path` of `objects` is gone.
    #[must_use]
    pub fn with_licence(mut self, objects: Arc<ObjectStore>, path: Path) -> Self {
        self.licence = Some((objects, path));
        self
    }

    /// Refuses to commit once the table is another one than was `opened`, or none.
    pub(crate) fn stand_on(&self, opened: Opened) {
        // A handle is opened once.
        drop(self.opened.set(opened));
    }

    /// Puts no version before `gate`, if there is one, is open.
    #[must_use]
    pub(crate) fn behind(mut self, gate: Option<Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Finds and puts versions in `objects`, whatever store a handle's data goes through.
    #[must_use]
    pub fn with_versions_in(mut self, objects: Arc<ObjectStore>) -> Self {
        self.objects = Some(objects);
        self
    }

    /// Counts in `doubts` the puts whose outcome it does not know.
    #[must_use]
    pub fn with_doubts(mut self, doubts: Arc<AtomicU64>) -> Self {
        self.doubts = doubts;
        self
    }

    /// Puts no version, and says that it did: the handle then shows what the version would be. So it is with ids of
    /// fragments that are reserved: whoever commits what refers to them sees that nobody has them by then.
    #[must_use]
    pub fn rehearsing(mut self) -> Self {
        self.is_rehearsal = true;
        self
    }

    /// Leaves out so many ids before those that are reserved.
    #[must_use]
    pub(crate) fn with_ids_ahead(mut self, ahead: u32) -> Self {
        self.ids_ahead = ahead;
        self
    }

    async fn check_licence(&self) -> Result<(), CommitError> {
        let Some((objects, path)) = &self.licence else {
            return Ok(());
        };
        if stands(Guard::Licence) && !objects.exists(path).await? {
            let given_up = format!("{path} is gone: others took this run for dead");
            return Err(CommitError::OtherError(LanceError::io(given_up)));
        }
        Ok(())
    }

    /// `below` is where the version lies that the next one is put above.
    async fn check_standing(&self, objects: &ObjectStore, below: &Path) -> Result<(), CommitError> {
        let Some(opened) = self.opened.get() else {
            return Ok(());
        };
        if !stands(Guard::Standing) || opened.is_table(objects, below).await? {
            return Ok(());
        }
        Err(match opened.is_pinned {
            true => CommitError::CommitConflict,
            false => CommitError::OtherError(LanceError::io(opened.gone().to_string())),
        })
    }

    /// Counts what became of a put at the version of the dataset at a path, and whether it is known that it is there, or is not.
    async fn count(
        &self,
        put: &Result<ManifestLocation, CommitError>,
        (base, version, naming): (&Path, u64, ManifestNamingScheme),
        objects: &ObjectStore,
    ) {
        let counter = match put {
            Ok(_) => &self.counters.committed,
            Err(_) => &self.counters.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let is_known = match put {
            Ok(_) | Err(CommitError::CommitConflict) => true,
            // A local disk does nothing once it has answered, and may have failed after the version got its name.
            Err(CommitError::OtherError(_)) if objects.is_local() => {
                let there =
                    self.inner
                        .version_exists(base, version, objects.inner.as_ref(), naming);
                there.await.is_ok_and(|there| !there)
            }
            Err(CommitError::OtherError(_)) => false,
        };
        if is_known {
            self.doubts.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn versions<'a>(&'a self, object_store: &'a ObjectStore) -> &'a ObjectStore {
        self.objects.as_deref().unwrap_or(object_store)
    }
}

/// Whether it only takes ids for fragments that are yet to come.
fn reserves_ids(transaction: Option<&Transaction>) -> bool {
    let operation = transaction.and_then(|t| t.inner.operation.as_ref());
    matches!(
        operation,
        Some(pb::transaction::Operation::ReserveFragments(_))
    )
}

/// Takes away the transaction's file, which Lance put before it asked for `manifest` to be put.
async fn remove_transaction(
    manifest: &Manifest,
    base: &Path,
    object_store: &ObjectStore,
) -> lance::Result<()> {
    let Some(file) = &manifest.transaction_file else {
        return Ok(());
    };
    let file = base.clone().join(TRANSACTIONS).join(file.as_str());
    unless_gone(object_store.delete(&file).await)
}

/// What is gone is deleted.
fn unless_gone(deleted: lance::Result<()>) -> lance::Result<()> {
    match deleted {
        Err(LanceError::NotFound { .. }) => Ok(()),
        deleted => deleted,
    }
}

/// Where `manifest` would lie.
async fn rehearse(
    manifest: &Manifest,
    base: &Path,
    object_store: &ObjectStore,
    naming_scheme: ManifestNamingScheme,
) -> Result<ManifestLocation, CommitError> {
    remove_transaction(manifest, base, object_store).await?;
    Ok(ManifestLocation {
        version: manifest.version,
        path: naming_scheme.manifest_path(base, manifest.version),
        size: None,
        naming_scheme,
        e_tag: None,
        identity: None,
    })
}

/// Takes away what was put of `manifest` at `path`, the hint at the latest version beside it, which may name it, and the folders
/// that were made for it anew.
async fn take_back(
    (manifest, path): (&Manifest, &Path),
    base: &Path,
    (versions, data): (&ObjectStore, &ObjectStore),
) -> lance::Result<()> {
    let folder = base.clone().join(VERSIONS);
    unless_gone(versions.delete(path).await)?;
    unless_gone(versions.delete(&folder.clone().join(VERSION_HINT)).await)?;
    remove_transaction(manifest, base, data).await?;
    if versions.has_direct_local_paths() {
        for folder in [folder, base.clone().join(TRANSACTIONS), base.clone()] {
            // One that holds anything stays.
            tokio::fs::remove_dir(format!("/{folder}")).await.ok();
        }
    }
    Ok(())
}

/// The latest version. On a local disk Lance reads the whole directory without a pause: off the runtime's threads, so that
/// whatever goes on beside it does go on.
async fn latest_of(
    inner: &Arc<dyn CommitHandler>,
    base: &Path,
    objects: &ObjectStore,
) -> lance::Result<ManifestLocation> {
    if !objects.has_direct_local_paths() {
        return inner.resolve_latest_location(base, objects).await;
    }
    let (inner, base, objects) = (inner.clone(), base.clone(), objects.clone());
    let runtime = tokio::runtime::Handle::current();
    let look = move || runtime.block_on(inner.resolve_latest_location(&base, &objects));
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|e| LanceError::io(e.to_string()))?
}

fn gap_error(expected: u64, found: u64) -> LanceError {
    LanceError::retryable_commit_conflict_source(
        found,
        format!("version {expected} is gone, so what it changed cannot be checked").into(),
    )
}

#[async_trait]
impl CommitHandler for GuardedCommitHandler {
    fn is_version_not_found_definitive(&self) -> bool {
        self.inner.is_version_not_found_definitive()
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        self.inner.propagate_commit_error_after_success()
    }

    async fn resolve_latest_location(
        &self,
        base_path: &Path,
        object_store: &ObjectStore,
    ) -> lance::Result<ManifestLocation> {
        let objects = self.versions(object_store);
        let found = latest_of(&self.inner, base_path, objects).await?;
        check_readable(objects, &found.path, found.size).await?;
        Ok(found)
    }

    async fn resolve_version_location(
        &self,
        base_path: &Path,
        version: u64,
        object_store: &dyn OSObjectStore,
    ) -> lance::Result<ManifestLocation> {
        let known = self.known.lock().await.take();
        if let Some(known) = known.filter(|k| k.version == version) {
            return Ok(known);
        }
        self.inner
            .resolve_version_location(base_path, version, object_store)
            .await
    }

    async fn version_exists(
        &self,
        base_path: &Path,
        version: u64,
        object_store: &dyn OSObjectStore,
        naming_scheme: ManifestNamingScheme,
    ) -> lance::Result<bool> {
        self.inner
            .version_exists(base_path, version, object_store, naming_scheme)
            .await
    }

    fn list_detached_manifest_locations<'a>(
        &self,
        base_path: &Path,
        object_store: &'a ObjectStore,
    ) -> BoxStream<'a, lance::Result<ManifestLocation>> {
        self.inner
            .list_detached_manifest_locations(base_path, object_store)
    }

    fn list_manifest_locations<'a>(
        &self,
        base_path: &Path,
        object_store: &'a ObjectStore,
        sorted_descending: bool,
    ) -> BoxStream<'a, lance::Result<ManifestLocation>> {
        self.inner
            .list_manifest_locations(base_path, object_store, sorted_descending)
    }

    fn list_manifest_locations_since<'a>(
        &self,
        base_path: &Path,
        object_store: &'a ObjectStore,
        since_version: u64,
    ) -> BoxStream<'a, lance::Result<ManifestLocation>> {
        // Not the inner `_since`: on local disks it believes the version hint, which a resurrected version or a writer
        // paused before its hint turns backwards (fact 16), so a gap would look like "nothing new". Nor a listing of
        // all versions, which on a local disk costs a stat for each: what is newer is the latest and what leads to it.
        let inner = self.inner.clone();
        let counters = self.counters.clone();
        let base = base_path.clone();
        let own = self.objects.clone();
        let slot = self.slot.as_ref().and_then(SlotChoice::get);
        let slot = slot.filter(|_| stands(Guard::Slot));
        futures::stream::once(async move {
            let object_store = own.as_deref().unwrap_or(object_store);
            let mut locations = Vec::new();
            let (below, naming) = match slot {
                Some(slot) => (slot.version, slot.naming),
                None => {
                    let latest = inner.resolve_latest_location(&base, object_store).await?;
                    let found = (latest.version, latest.naming_scheme);
                    if latest.version > since_version {
                        locations.push(latest);
                    }
                    found
                }
            };
            let objects = object_store.inner.as_ref();
            for version in (since_version + 1..below).rev() {
                // Asked first: a location is made up from the number, whether or not something is there.
                if !inner
                    .version_exists(&base, version, objects, naming)
                    .await?
                {
                    if !stands(Guard::Contiguity) {
                        continue;
                    }
                    counters.refused_gaps.fetch_add(1, Ordering::Relaxed);
                    return Err(gap_error(version, below));
                }
                locations.push(
                    inner
                        .resolve_version_location(&base, version, objects)
                        .await?,
                );
            }
            Ok(futures::stream::iter(locations.into_iter().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    async fn commit(
        &self,
        manifest: &mut Manifest,
        indices: Option<Vec<IndexMetadata>>,
        base_path: &Path,
        object_store: &ObjectStore,
        manifest_writer: ManifestWriter,
        naming_scheme: ManifestNamingScheme,
        transaction: Option<Transaction>,
    ) -> Result<ManifestLocation, CommitError> {
        // What is rehearsed above a rehearsal comes behind the slot, and is put as little.
        let is_another = |slot: Slot| match self.is_rehearsal {
            true => manifest.version < slot.version,
            false => manifest.version != slot.version,
        };
        let is_refused = |slot: &SlotChoice| slot.get().is_none_or(is_another);
        if stands(Guard::Slot) && self.slot.as_ref().is_some_and(is_refused) {
            self.counters.refused_slots.fetch_add(1, Ordering::Relaxed);
            return Err(CommitError::CommitConflict);
        }
        if self.is_rehearsal {
            if reserves_ids(transaction.as_ref()) {
                let most = manifest.max_fragment_id.unwrap_or(0);
                manifest.max_fragment_id = Some(most.saturating_add(self.ids_ahead));
            }
            return rehearse(manifest, base_path, object_store, naming_scheme).await;
        }
        // Asked after everything that this commit stands on was read: whoever takes the licence away later fences
        // the version that is about to be put, or finds it there.
        self.check_licence().await?;
        if let Some(gate) = &self.gate {
            gate.pass()
                .await
                .map_err(|e| CommitError::OtherError(LanceError::io(e.to_string())))?;
        }
        let data = object_store;
        let object_store = self.versions(object_store);
        let below = naming_scheme.manifest_path(base_path, manifest.version.saturating_sub(1));
        if let Err(gone) = self.check_standing(object_store, &below).await {
            remove_transaction(manifest, base_path, data).await?;
            return Err(gone);
        }
        hit(Seam::CommitBeforePut)
            .map_err(|e| CommitError::OtherError(LanceError::io(e.to_string())))?;
        self.doubts.fetch_add(1, Ordering::Relaxed);
        let put = self
            .inner
            .commit(
                manifest,
                indices,
                base_path,
                object_store,
                manifest_writer,
                naming_scheme,
                transaction,
            )
            .await;
        let at = (base_path, manifest.version, naming_scheme);
        self.count(&put, at, object_store).await;
        let location = put?;
        if let Err(gone) = self.check_standing(object_store, &below).await {
            // Dropped while it was being put: what it stood on is gone, and so is whatever it says.
            let put = (&*manifest, &location.path);
            take_back(put, base_path, (object_store, data)).await?;
            return Err(gone);
        }
        hit(Seam::CommitAfterPut)
            .map_err(|e| CommitError::OtherError(LanceError::io(e.to_string())))?;
        Ok(location)
    }

    async fn delete(&self, base_path: &Path) -> lance::Result<()> {
        self.inner.delete(base_path).await
    }
}
