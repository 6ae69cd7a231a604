//! Runs a plan: archives, publishes floors, deletes below them.

use super::dropped::removal_update;
use super::watch::Watch;
use super::{CleanupPlan, CleanupReport, MAX_CLOCK_SKEW, TableCleanup};
use crate::error::{Disposition, Error, ErrorKind, Result, caught};
use crate::events::ProtocolEvent;
use crate::ids::TableName;
use crate::journal::Amounts;
use crate::maintenance::tasks::TaskBounds;
use crate::maintenance::{CompactionLimits, Target};
use crate::oversight::{Oversight, Paced};
use crate::proof::Verify;
use crate::publish::{Record, Rounds};
use crate::store::state::Removal;
use crate::store::{COMMITS_PATH, Stamp, Store};
use lance::Dataset;
use lance::dataset::cleanup::CleanupPolicyBuilder;
use object_store::ObjectStoreExt;
use squire_failpoints::{Guard, Seam, hit, stands};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// The commit log's rows are short: a million of them are some 200 MB, read by filter only.
const LOG_BOUNDS: TaskBounds = TaskBounds {
    target_rows: 1 << 20,
    max_fragments: 1_000,
    max_input_rows: u64::MAX,
    max_input_bytes: 1 << 30,
    max_output_bytes: 1 << 30,
    max_deleted_ratio: 1.0,
};

/// The log is compacted when this many small fragments have gathered; each archive pass adds one.
const LOG_CANDIDATES: u64 = 16;

fn could_not_delete(files: u64) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "{files} files could not be deleted; see that squire may delete there, and run cleanup again"
        ),
    )
}

impl Store {
    /// Runs `plan`: archives, publishes floors, deletes below them. A table that fails does not stop the others.
    pub async fn cleanup(
        &self,
        plan: &CleanupPlan,
        rate: Option<u64>,
        oversight: &Oversight,
    ) -> Result<CleanupReport> {
        let mut report = CleanupReport {
            failed: plan.failed.clone(),
            ..CleanupReport::default()
        };
        hit(Seam::CleanupAfterPlan)?;
        let ahead_ms = self.check_clock_skew().await?;
        let log = self.commit_log().await;
        let has_log = log.is_ok();
        match log {
            Ok(_) => report.archived = self.archive().await?,
            // It is derived: while it cannot be read tables are cleaned, and no version of the manifest goes.
            Err(e) if e.disposition() == Disposition::Fail => {
                report.failed.push((COMMITS_PATH.to_owned(), e.to_string()));
            }
            Err(e) => return Err(e),
        }
        let archived = report.archived.through;
        let manifest = plan.manifest.as_ref().filter(|m| !m.versions.is_empty());
        let manifest_floor = manifest.map(|m| m.floor.min(archived + 1));
        if stands(Guard::FloorFirst) {
            self.publish_floors(plan, manifest_floor).await?;
        }
        hit(Seam::CleanupAfterFloor)?;
        let mut plan = plan.clone();
        if stands(Guard::HoldsAgain) {
            self.spare_held(&mut plan, ahead_ms).await?;
        }
        let due = || plan.tables.iter().filter(|t| !t.versions.is_empty());
        oversight.planned("tables", due().count() as u64);
        for cleanup in due() {
            hit(Seam::CleanupBeforeTable)?;
            let clean = self.clean_pinned(cleanup, rate, oversight, &mut report);
            match caught(&format!("table {}", cleanup.table), clean).await {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => report.failed.push((cleanup.table.clone(), e.to_string())),
            }
            oversight.did(1);
            hit(Seam::CleanupAfterTable)?;
        }
        self.remove_dropped(&plan, oversight, &mut report).await?;
        if let (Some(manifest), Some(floor)) = (&plan.manifest, manifest_floor) {
            let versions = manifest
                .versions
                .iter()
                .copied()
                .filter(|v| *v < floor)
                .collect();
            self.mark_cleaned().await?;
            let dataset = self.manifest_dataset(&self.load().await?).await?;
            let going = (versions, manifest.planned_at.as_ref());
            self.delete_versions(&dataset, going, rate, oversight, &mut report)
                .await?;
        }
        if has_log {
            self.keep_log(rate, oversight, &mut report).await?;
        }
        Ok(report)
    }

    /// Runs the plan of a plain table.
    pub async fn cleanup_plain(
        &self,
        plan: &TableCleanup,
        rate: Option<u64>,
        oversight: &Oversight,
    ) -> Result<CleanupReport> {
        let mut report = CleanupReport::default();
        oversight.planned("tables", 1);
        let clean = async {
            self.check_plain(&plan.table).await?;
            hit(Seam::CleanupBeforeTable)?;
            let dataset = self.latest(&plan.table).await?;
            let versions = plan.versions.clone();
            if !versions.is_empty() {
                // What others wrote last may not be on the disk yet, and what it replaces is about to go.
                self.sync_found().await?;
            }
            let planned_at = plan.planned_at.as_ref();
            let going = (versions, planned_at);
            self.delete_versions(&dataset, going, rate, oversight, &mut report)
                .await
        };
        let cleaned = caught(&plan.table, clean).await;
        oversight.did(1);
        self.memo().forget(&plan.table);
        cleaned.map(|()| report)
    }

    async fn publish_floors(&self, plan: &CleanupPlan, manifest_floor: Option<u64>) -> Result<()> {
        let op = self.new_op();
        let floors: BTreeMap<TableName, u64> = plan
            .tables
            .iter()
            .filter(|t| !t.versions.is_empty())
            .map(|t| Ok((TableName::new(t.table.as_str())?, t.floor)))
            .collect::<Result<_>>()?;
        self.publish_until(|snapshot| {
            let mut updates = Vec::new();
            for (table, floor) in &floors {
                let Some(entry) = snapshot.state.tables.get(table) else {
                    continue;
                };
                if *floor > entry.version {
                    return Err(Error::internal(format!(
                        "table {table}: floor {floor} would pass pin {}",
                        entry.version
                    )));
                }
                if *floor > snapshot.state.floor(table) {
                    updates.push((format!("floor/{table}"), Some(floor.to_string())));
                }
            }
            if let Some(floor) = manifest_floor.filter(|f| *f > snapshot.state.manifest_floor) {
                updates.push(("floor/__manifest".to_owned(), Some(floor.to_string())));
            }
            for decision in plan
                .decisions
                .iter()
                .filter(|d| snapshot.state.aborted.contains_key(*d))
            {
                updates.push((format!("op/{decision}"), None));
            }
            for dropped in plan.dropped.iter().filter(|dropped| dropped.goes()) {
                updates.extend(removal_update(snapshot, &dropped.path, Removal::Expired)?);
            }
            let forgotten = plan.forgotten.iter();
            let forgotten = forgotten.filter(|path| snapshot.state.dropped.contains_key(*path));
            updates.extend(forgotten.map(|path| (format!("dropped/{path}"), None)));
            if updates.is_empty() {
                return Ok(None);
            }
            Ok(Some((
                updates,
                Record::new(op, "cleanup", &self.options().actor, "raise floors"),
            )))
        })
        .await
        .map(drop)
    }

    async fn clean_pinned(
        &self,
        cleanup: &TableCleanup,
        rate: Option<u64>,
        oversight: &Oversight,
        report: &mut CleanupReport,
    ) -> Result<()> {
        let snapshot = self.load().await?;
        let table = TableName::new(cleanup.table.as_str())?;
        let entry = snapshot.state.table(&table)?;
        let floor = if stands(Guard::FloorFirst) {
            snapshot.state.floor(&table)
        } else {
            cleanup.floor
        };
        let versions: Vec<u64> = cleanup
            .versions
            .iter()
            .copied()
            .filter(|v| *v < floor)
            .collect();
        self.tell(|| ProtocolEvent::Removing {
            table: table.clone(),
            floor: snapshot.state.floor(&table),
            versions: versions.clone(),
        });
        let dataset = self.latest(&entry.path).await?;
        let going = (versions, cleanup.planned_at.as_ref());
        let deleted = self
            .delete_versions(&dataset, going, rate, oversight, report)
            .await;
        self.memo().forget(&entry.path);
        deleted
    }

    /// The log is internal: compacted like any table, and its old versions serve nobody.
    async fn keep_log(
        &self,
        rate: Option<u64>,
        oversight: &Oversight,
        report: &mut CleanupReport,
    ) -> Result<()> {
        let Some(_) = self.any_handle(COMMITS_PATH).await? else {
            return Ok(());
        };
        let target = Target::Plain(COMMITS_PATH.to_owned());
        if self.health(&target, &LOG_BOUNDS).await?.candidate_fragments >= LOG_CANDIDATES {
            let limits = CompactionLimits {
                bounds: LOG_BOUNDS,
                tasks_per_commit: usize::MAX,
                commit_after: Duration::from_secs(60),
                verify: Verify::default(),
            };
            self.compact(&target, &limits, oversight).await?;
        }
        let log = self.latest(COMMITS_PATH).await?;
        let latest = log.manifest().version;
        let old = log
            .version_refs()
            .await?
            .iter()
            .map(|r| r.version)
            .filter(|v| v + 1 < latest)
            .collect();
        self.delete_versions(&log, (old, None), rate, oversight, report)
            .await
    }

    /// Deletes those of `versions` that are still there, whoever else deletes them at the same time, for as long as the table is the
    /// one that they were planned of, and spares those that are given a tag or a branch meanwhile. Asked to stop, it drops Lance's cleanup where it stands, as a crash does: the next one
    /// finds what is left by listing.
    async fn delete_versions(
        &self,
        dataset: &Dataset,
        (versions, planned_at): (Vec<u64>, Option<&Stamp>),
        rate: Option<u64>,
        oversight: &Oversight,
        report: &mut CleanupReport,
    ) -> Result<()> {
        let mut objects = dataset.object_store(None).await?.as_ref().clone();
        objects.apply_wrapper(&Paced(oversight.clone()));
        let mut rounds = Rounds::new();
        loop {
            let watch = match planned_at {
                Some(table) => Some(self.watch(dataset, table.clone()).await?),
                None => None,
            };
            let objects = self.knowing_manifests(&objects, watch.clone());
            let counted = dataset.with_object_store(Arc::new(objects), None);
            // Through what knows manifests: it knows those that it has listed.
            let refs = counted.version_refs().await?;
            let stored: HashSet<u64> = refs.iter().map(|r| r.version).collect();
            let left: Vec<u64> = versions
                .iter()
                .copied()
                .filter(|v| stored.contains(v))
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            // After the listing: what was listed is this table's.
            self.check_unchanged(watch.as_ref()).await?;
            let mut builder = CleanupPolicyBuilder::default()
                .versions(left)?
                .error_if_tagged_old_versions(false);
            if let Some(rate) = rate {
                builder = builder.delete_rate_limit(rate)?;
            }
            let removed = tokio::select! {
                biased;
                () = oversight.cancelled() => Err(Error::new(
                    ErrorKind::Cancelled,
                    "cleanup: cancelled; what is left goes with the next one",
                )),
                removed = counted.cleanup_with_policy(builder.build()) => removed.map_err(Error::from),
            };
            if let Ok(removed) = &removed {
                let amounts = Amounts {
                    deleted: removed.bytes_removed,
                    ..Amounts::default()
                };
                let path = self.below_root(dataset);
                self.ledger().add(&path, amounts, self.clock().now_ms());
                report.versions_removed += removed.old_versions;
                report.bytes_removed += removed.bytes_removed;
            }
            let unchanged = self.check_unchanged(watch.as_ref()).await;
            match unchanged.and(removed) {
                Ok(removed) if removed.failed_deletes == 0 => return Ok(()),
                Ok(removed) => return Err(could_not_delete(removed.failed_deletes)),
                // Lance looks at tags and branches anew, and spares what they name by now.
                Err(e) if matches!(e.kind(), ErrorKind::Storage | ErrorKind::Conflict) => {
                    rounds.lost(self, e).await?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Refuses when something has changed of what is watched.
    async fn check_unchanged(&self, watch: Option<&Watch>) -> Result<()> {
        let Some(watch) = watch else { return Ok(()) };
        let changed = watch.changed(self.objects.inner.as_ref()).await?;
        changed.map_or(Ok(()), Err)
    }

    /// Refuses when this machine's clock and the storage's differ too much: ages would be wrong. Gives how many
    /// milliseconds the storage's is ahead.
    async fn check_clock_skew(&self) -> Result<i64> {
        let path = self.object_path(&format!(
            "{}/probe/{}",
            crate::store::INTERNAL,
            self.new_op()
        ));
        self.put_if_absent(&path, b"clock".to_vec()).await?;
        let local = i64::try_from(self.clock().now_ms()).unwrap_or(i64::MAX);
        let listed = self
            .objects
            .inner
            .get_opts(
                &path,
                object_store::GetOptions {
                    head: true,
                    ..Default::default()
                },
            )
            .await?;
        let stored = listed.meta.last_modified.timestamp_millis();
        self.objects.inner.delete(&path).await?;
        let skew = Duration::from_millis(local.abs_diff(stored));
        if skew > MAX_CLOCK_SKEW {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "the local clock and the storage's differ by {} s; cleanup compares ages across them, so set the clock",
                    skew.as_secs()
                ),
            ));
        }
        Ok(stored.saturating_sub(local))
    }
}
