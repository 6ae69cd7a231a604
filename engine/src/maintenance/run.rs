//! The frame of every maintenance run: sidecar, bounded attempts, clean prefix, sidecar away.

use super::plan::beyond_us;
use super::{Shown, Target};
use crate::clock::Backoff;
use crate::error::{Disposition, Error, ErrorKind, Result, caught};
use crate::ids::{OpId, TableName};
use crate::journal::{Journal, Journalled, Journalling, RunTable};
use crate::oversight::{Oversight, Paced};
use crate::protocol::Kind;
use crate::publish::Record;
use crate::recovery::{DeadRun, Skipped};
use crate::store::{
    COMMITS_PATH, GuardedCommitHandler, Opened, Records, Sidecar, SidecarKind, SidecarTable,
    SlotChoice, Store, StrictCommit, is_denied,
};
use lance::Dataset;
use lance::dataset::transaction::{Operation, TransactionBuilder, UpdateMap, UpdateMapEntry};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a run reopens HEAD and plans afresh after losing to a writer. Each attempt redoes at most one batch of
/// tasks; five losses in a row mean that the table is too busy now, and the scheduler's cool-down is the better place to wait.
const ATTEMPTS: u32 = 5;

/// What a run did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct MaintenanceReport {
    /// Why nothing was done, if a safety check said so.
    pub skipped: Option<Skipped>,
    /// Whether it was asked to stop before it was through; what it had finished is committed all the same.
    pub cancelled: bool,
    /// Attempts lost to writers.
    pub conflicts: u32,
    /// Fragments read and replaced.
    pub fragments_removed: u64,
    /// Fragments written.
    pub fragments_added: u64,
    /// Bytes of the fragments that were rewritten.
    pub bytes_rewritten: u64,
    /// Commits that were lost to writers, and landed with what those had deleted, without another rewrite.
    pub carried: u32,
    /// Indexes built or extended.
    pub indexes: Vec<String>,
    /// Bytes of the segments that were built, extended or moved, by index.
    pub index_bytes: BTreeMap<String, u64>,
    /// Indexes built anew, and what they would have lost if they had been extended.
    pub rebuilt_indexes: Vec<(String, String)>,
    /// Indexes that cannot be built yet, and why: a vector index of a table without enough rows.
    pub pending_indexes: Vec<(String, String)>,
    /// Indexes that could not be built or extended, and why, with what helps. Nothing was committed for them.
    pub failed_indexes: Vec<(String, String)>,
    /// Those of them that would fail the same way again.
    pub unfit_indexes: Vec<String>,
    /// Rewrites that were not what they should replace, and what was seen. They were not committed.
    pub unfit: Vec<String>,
    /// Whether something was done at the second try, and what the first one wrote is left over.
    #[serde(skip)]
    pub(crate) retried: bool,
    /// Bytes rewritten for nothing and deleted again.
    pub reclaimed_bytes: u64,
    /// The pin afterwards.
    pub pin: Option<u64>,
}

impl MaintenanceReport {
    /// Counts what was written into indexes, and gives the sum.
    pub(super) fn wrote(&mut self, indexes: BTreeMap<String, u64>) -> u64 {
        let sum = indexes.values().sum();
        for (index, bytes) in indexes {
            *self.index_bytes.entry(index).or_default() += bytes;
        }
        sum
    }

    /// Whether everything that was written was committed.
    fn all_landed(&self) -> bool {
        // Each lost commit has left files of its own.
        !self.cancelled
            && self.conflicts == 0
            && self.carried == 0
            && self.failed_indexes.is_empty()
            && self.rebuilt_indexes.is_empty()
            && !self.retried
            && self.unfit.is_empty()
            && self.skipped.is_none()
    }
}

/// One running maintenance attempt's surroundings.
pub(crate) struct Run<'a> {
    pub(crate) target: &'a Target,
    pub(crate) op: OpId,
    pub(crate) oversight: &'a Oversight,
    pub(crate) properties: HashMap<String, String>,
    /// What the run writes is named here first.
    pub(crate) journal: Arc<Journal>,
    /// What of it is executed by others.
    pub(crate) lent: Lent,
    /// The version that its table was opened at last.
    opened: Mutex<Option<Opened>>,
}

/// What a run has others execute.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    /// Tasks that were handed out.
    tasks: AtomicU32,
    /// Whether somebody may still be at work on one.
    has_strays: AtomicBool,
}

impl Lent {
    /// The number of a task that is about to be handed out.
    pub(crate) fn next(&self) -> u32 {
        self.tasks.fetch_add(1, Ordering::Relaxed)
    }

    /// Nobody knows whether a worker is still at work.
    pub(crate) fn stray(&self) {
        self.has_strays.store(true, Ordering::Relaxed);
    }

    fn has_strays(&self) -> bool {
        self.has_strays.load(Ordering::Relaxed)
    }

    /// Whether names in the journal may be of others.
    fn any(&self) -> bool {
        self.tasks.load(Ordering::Relaxed) > 0
    }
}

impl Run<'_> {
    /// The dataset below the root.
    pub(crate) fn path(&self) -> &str {
        &self.journal.table().path
    }

    /// Whether its record stands; a run without one needs none.
    pub(crate) async fn is_licensed(&self) -> Result<bool> {
        match self.journal.records() {
            Some(records) => records.has_sidecar(self.op).await,
            None => Ok(true),
        }
    }

    /// Whether its table was dropped since it was opened, and perhaps made again.
    pub(super) async fn is_gone(&self, store: &Store) -> Result<bool> {
        let Some(opened) = self.opened() else {
            return Ok(false);
        };
        let Some(head) = store.open_latest(self.path()).await? else {
            return Ok(true);
        };
        let latest = &head.manifest_location().path;
        Ok(!opened.is_table(&store.objects, latest).await?)
    }

    pub(super) fn opened(&self) -> Option<Opened> {
        let opened = self.opened.lock();
        opened.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn open_at(&self, version: Opened) {
        let opened = self.opened.lock();
        *opened.unwrap_or_else(PoisonError::into_inner) = Some(version);
    }

    /// Has `guard` commit only to the table that was opened last.
    pub(crate) fn stand_on_opened(&self, guard: &GuardedCommitHandler) {
        if let Some(opened) = self.opened() {
            guard.stand_on(opened);
        }
    }

    /// A safe point: nothing is half-done here.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.oversight.is_cancelled() {
            true => Err(self.cancelled()),
            false => Ok(()),
        }
    }

    fn cancelled(&self) -> Error {
        Error::new(ErrorKind::Cancelled, format!("{}: cancelled", self.target))
    }

    /// Waits before more tries to come before writers. A run that was taken for dead has nothing to wait for.
    pub(crate) async fn rest(&self, store: &Store, backoff: &mut Backoff) -> Result<()> {
        if !self.is_licensed().await? {
            return Err(Error::conflict("the record of this run is gone"));
        }
        tracing::debug!(op = %self.op, target = %self.target, "what was made waits for the writers");
        let rest = async {
            backoff.wait(store.clock(), &store.entropy).await;
            Ok::<(), Error>(())
        };
        self.unless_given_up(rest).await
    }

    /// `work`, which is finished when the run is asked to stop, if it is given the time. Only for what commits nothing: what it
    /// was writing is reclaimed.
    pub(crate) async fn unless_given_up<T, E: Into<Error>>(
        &self,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            () = self.oversight.given_up() => Err(self.cancelled()),
            done = work => done.map_err(Into::into),
        }
    }

    /// `work`, given up when the run is asked to stop. Only for what commits nothing: what it was writing is reclaimed.
    pub(crate) async fn unless_cancelled<T, E: Into<Error>>(
        &self,
        work: impl Future<Output = std::result::Result<T, E>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            () = self.oversight.cancelled() => Err(self.cancelled()),
            done = work => done.map_err(Into::into),
        }
    }
}

/// A run that has its record.
struct Begun {
    /// Whose versions they are: a run on a plain table has its own name.
    store: OpId,
    table: RunTable,
    /// Where it is recorded; nowhere if that may not be.
    records: Option<Records>,
    sidecar: Sidecar,
}

/// Something to do inside the frame.
#[async_trait::async_trait]
pub(crate) trait Work: Sync {
    /// The word for the commit log.
    fn kind(&self) -> &'static str;
    /// One attempt on HEAD.
    async fn attempt(
        &self,
        run: &Run<'_>,
        store: &Store,
        head: Dataset,
        report: &mut MaintenanceReport,
    ) -> Result<()>;
}

impl Store {
    /// The same dataset, written through the journal of `run`. On plain local paths Lance writes past the object-store interface, so
    /// there the run goes through it; versions are found and put as ever, see [`Store::guard_of`].
    pub(crate) async fn written_through(
        &self,
        dataset: &Dataset,
        run: &Run<'_>,
    ) -> Result<Dataset> {
        Ok(self.journalled_handle(dataset, &run.journal, run.oversight))
    }

    /// The same, through `journal`.
    pub(crate) fn journalled_handle(
        &self,
        dataset: &Dataset,
        journal: &Arc<Journal>,
        oversight: &Oversight,
    ) -> Dataset {
        let mut objects = self.interface.as_ref().clone();
        objects.apply_wrapper(&Paced(oversight.clone()));
        objects.apply_wrapper(&Journalling(journal.clone()));
        dataset.with_object_store(Arc::new(objects), None)
    }

    pub(crate) async fn maintain(
        &self,
        target: &Target,
        work: &dyn Work,
        oversight: &Oversight,
    ) -> Result<MaintenanceReport> {
        let mut report = MaintenanceReport::default();
        let (actor, now) = (&self.options().actor, self.clock().now_ms());
        let op = self.new_op();
        let _at_work = self.at_work.enter(op);
        let sidecar = Sidecar::new(op, SidecarKind::Maintenance, actor, work.kind(), now);
        let begun = match target.shown() {
            Shown::Head(path) => self.begin_plain(sidecar, &path).await?,
            Shown::Pin(table) => {
                if let Some(skipped) = self.in_the_way(table).await? {
                    report.skipped = Some(skipped);
                    return Ok(report);
                }
                self.begin_pinned(sidecar, table).await?
            }
        };
        let run = Run {
            target,
            op,
            oversight,
            properties: crate::store::marks(begun.store, op, Kind::Maintenance),
            journal: self.new_journal(op, begun.table, begun.records),
            lent: Lent::default(),
            opened: Mutex::default(),
        };
        let attempts = self.attempts(&run, work, &mut report);
        let worked = tokio::select! {
            worked = attempts => worked,
            never = run.journal.beat(self.clock()) => match never {},
        };
        // What was committed is published even when a later step failed: it must not look like drift.
        if let Some(table) = &run.journal.table().name {
            let record = Record::of_sidecar(&begun.sidecar, Kind::Maintenance.as_str());
            report.pin = Some(self.publish_prefix(table, &record).await?);
        }
        if run.lent.has_strays() {
            // Their names must outlive them: recovery ends this run when they have fallen silent.
            tracing::warn!(%op, %target, "a worker may still be at work; what it writes is reclaimed once it has shown no sign of life for long");
            return worked.map(|()| report);
        }
        if let Some(records) = run.journal.records() {
            records.retire_sidecar(op).await;
        }
        let all_landed = worked.is_ok() && report.all_landed() && !run.lent.any();
        self.settle_journal(&run, all_landed, &mut report).await;
        worked.map(|()| report)
    }

    async fn begin_pinned(&self, mut sidecar: Sidecar, table: &TableName) -> Result<Begun> {
        let snapshot = self.load().await?;
        let entry = snapshot.state.table(table)?;
        let written = SidecarTable {
            table: table.clone(),
            path: entry.path.clone(),
            base: entry.version,
            create: None,
        };
        sidecar.writes.push(written);
        self.put_sidecar(&sidecar).await?;
        Ok(Begun {
            store: snapshot.state.store,
            table: RunTable {
                name: Some(table.clone()),
                path: entry.path.clone(),
                base: entry.version,
            },
            records: Some(self.records.clone()),
            sidecar,
        })
    }

    async fn begin_plain(&self, mut sidecar: Sidecar, path: &str) -> Result<Begun> {
        self.check_plain(path).await?;
        let base = self.latest(path).await?.manifest().version;
        sidecar.plain = Some(path.to_owned());
        // The commit log is a plain table inside a store: it can be made anew.
        let records = match path {
            COMMITS_PATH => None,
            _ => self.record_plain(&sidecar).await?,
        };
        Ok(Begun {
            store: sidecar.op,
            table: RunTable {
                name: None,
                path: path.to_owned(),
                base,
            },
            records,
            sidecar,
        })
    }

    /// Puts the record of a run on a plain table at the first place that may be written; `None` when there is none.
    async fn record_plain(&self, sidecar: &Sidecar) -> Result<Option<Records>> {
        let mut denied = None;
        for records in self.plain_records().await {
            match records.put_sidecar(sidecar).await {
                Ok(()) => return Ok(Some(records.clone())),
                // The second place is there to help: whatever is wrong with it, the run goes on.
                Err(e) if is_denied(&e) || denied.is_some() => denied = Some(e),
                Err(e) => return Err(e),
            }
        }
        if let Some(why) = denied {
            self.tell_unrecorded(&why);
        }
        Ok(None)
    }

    /// Best effort: a journal that stays is settled by the next recovery pass. The names are those in memory: whoever took
    /// this run for dead has removed those on storage, and a file that was being written then is finished now.
    async fn settle_journal(
        &self,
        run: &Run<'_>,
        all_landed: bool,
        report: &mut MaintenanceReport,
    ) {
        let (op, journal) = (run.op, &run.journal);
        let records = journal.records();
        let is_empty = journal.is_empty() && !run.lent.any();
        let settled = match (all_landed || is_empty, records) {
            (true, Some(records)) if !journal.is_empty() => records.forget_journal(op).await,
            (true, _) => Ok(()),
            (false, _) => self
                .reclaim_own(run)
                .await
                .map(|bytes| report.reclaimed_bytes = bytes),
        };
        if let Err(e) = settled {
            tracing::debug!(%op, error = %e, "stranded files are left for recovery");
        }
        if let Some(records) = records {
            records.tidy().await;
        }
    }

    /// Deletes what `run` and those who worked for it wrote and never committed. Returns the bytes.
    async fn reclaim_own(&self, run: &Run<'_>) -> Result<u64> {
        let (op, journal) = (run.op, &run.journal);
        let mut names = journal.names().await;
        if let (Some(records), true) = (journal.records(), run.lent.any()) {
            let theirs = records.journalled(op).await?;
            names.extend(theirs.into_iter().flat_map(|theirs| theirs.names));
        }
        let dead = DeadRun {
            op,
            journalled: Journalled {
                table: journal.table().clone(),
                names,
            },
            is_in_doubt: journal.is_in_doubt(),
        };
        let runs = self.reclaim(journal.records(), &[dead]).await?;
        Ok(runs.iter().map(|(_, bytes)| bytes).sum())
    }

    async fn attempts(
        &self,
        run: &Run<'_>,
        work: &dyn Work,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            if run.oversight.is_cancelled() {
                report.cancelled = true;
                return Ok(());
            }
            let head = self.head_of(run).await?;
            if let Some(why) = beyond_us(head.manifest()) {
                report.skipped = Some(Skipped::Unsupported(why));
                return Ok(());
            }
            let head = self.maintainable(run, head).await?;
            report.unfit.clear();
            let attempt = work.attempt(run, self, head, report);
            let Err(e) = caught(work.kind(), attempt).await else {
                return Ok(());
            };
            if e.kind() == ErrorKind::Cancelled {
                report.cancelled = true;
                return Ok(());
            }
            if !run.is_licensed().await? {
                return Err(Error::conflict(format!(
                    "{}: others took this run for dead; what is left to do is for the next one",
                    run.target
                ))
                .caused_by(e));
            }
            if run.is_gone(self).await? {
                report.skipped = Some(Skipped::Dropped);
                return Ok(());
            }
            if e.disposition() == Disposition::Fail {
                return Err(e);
            }
            report.conflicts += 1;
            if report.conflicts >= ATTEMPTS {
                return Err(e.context(format!("{}: lost to writers {ATTEMPTS} times", run.target)));
            }
            tracing::debug!(target = %run.target, error = %e, "maintenance lost a race, planning afresh");
            backoff.wait(self.clock(), &self.entropy).await;
        }
    }

    /// `head`, with a stored auto-cleanup config taken away: it would make every commit delete old versions (fact 11).
    async fn maintainable(&self, run: &Run<'_>, mut head: Dataset) -> Result<Dataset> {
        // A plain table's config is its owner's.
        if run.journal.table().name.is_some() && self.strip_auto_cleanup(run, &head).await? {
            head = self.head_of(run).await?;
        }
        self.written_through(&head, run).await
    }

    /// HEAD, through a guard that commits for `run` alone.
    pub(crate) async fn head_of(&self, run: &Run<'_>) -> Result<Dataset> {
        self.head_through(run, self.guard_of(&run.journal)).await
    }

    /// The same; nothing is committed through it before `slot` was chosen.
    pub(crate) async fn head_at(&self, run: &Run<'_>, slot: &SlotChoice) -> Result<Dataset> {
        let guard = self.guard_of(&run.journal).at_chosen(slot.clone());
        self.head_through(run, guard).await
    }

    async fn head_through(&self, run: &Run<'_>, guard: GuardedCommitHandler) -> Result<Dataset> {
        let guard = Arc::new(guard);
        let builder = self.builder(run.path()).with_commit_handler(guard.clone());
        let head = builder.load().await?;
        run.open_at(Opened::of(&self.objects, &head).await?);
        run.stand_on_opened(&guard);
        Ok(head)
    }

    /// Whether there was anything to strip.
    async fn strip_auto_cleanup(&self, run: &Run<'_>, head: &Dataset) -> Result<bool> {
        let stale: Vec<UpdateMapEntry> = head
            .manifest()
            .config
            .keys()
            .filter(|key| key.starts_with("lance.auto_cleanup."))
            .map(|key| UpdateMapEntry {
                key: key.clone(),
                value: None,
            })
            .collect();
        if stale.is_empty() {
            return Ok(false);
        }
        let operation = Operation::UpdateConfig {
            config_updates: Some(UpdateMap {
                update_entries: stale,
                replace: false,
            }),
            table_metadata_updates: None,
            schema_metadata_updates: None,
            field_metadata_updates: HashMap::new(),
        };
        let version = head.manifest().version;
        let transaction = TransactionBuilder::new(version, operation)
            .transaction_properties(Some(Arc::new(run.properties.clone())))
            .build();
        let commit = StrictCommit {
            handle: Some(Arc::new(head.clone())),
            path: run.path().to_owned(),
            transaction,
            affected_rows: None,
            slot: version + 1,
            gate: None,
            on: None,
        };
        self.commit_strict(commit).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::MaintenanceReport;

    #[test]
    fn what_a_first_try_left_is_settled() {
        let mut report = MaintenanceReport::default();
        assert!(report.all_landed());
        report.retried = true;
        assert!(!report.all_landed());
    }
}
