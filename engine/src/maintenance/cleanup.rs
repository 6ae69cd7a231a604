//! Cleanup: removes versions that nothing needs.
//!
//! The order, and what breaks without each rule:
//!
//! 1. Roots first: pins of the retention window, keeps, and `v - 1` of undecided operations. A missed root is data loss.
//! 2. Floors are published before anything is deleted: a reader is refused instead of failing on a missing file.
//! 3. Only versions below the floor go, by exact list; unverified files are left to Lance's 7-day rule.
//! 4. The manifest's own versions go last, and only archived ones: they say which tables' versions are pinned.

use super::CompactionLimits;
use super::Target;
use super::archive::ArchiveReport;
use super::tasks::TaskBounds;
use crate::commit::publish::{Record, Rounds};
use crate::error::{Error, ErrorKind, Result};
use crate::events::ProtocolEvent;
use crate::ids::{OpId, TableName};
use crate::protocol::{cleanup_floor, may_forget};
use crate::store::state::State;
use crate::store::{COMMITS_PATH, MANIFEST_PATH, Snapshot, Store, read_version};
use lance::Dataset;
use lance::dataset::cleanup::CleanupPolicyBuilder;
use object_store::ObjectStoreExt;
use serde::Serialize;
use squire_failpoints::{Guard, Seam, hit, stands};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How far the local clock and the storage's may differ: ages are compared across them.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(600);

/// How long a decision to abort is kept: longer than any process is believed to sleep.
const DECISION_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// The commit log's rows are short: a million of them are some 200 MB, read by filter only.
const LOG_BOUNDS: TaskBounds = TaskBounds {
    target_rows: 1 << 20,
    max_fragments: 1_000,
    max_input_bytes: 1 << 30,
    max_output_bytes: 1 << 30,
    max_deleted_ratio: 1.0,
};

/// The log is compacted when this many small fragments have gathered; each archive pass adds one.
const LOG_CANDIDATES: u64 = 16;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Retention {
    /// Snapshots younger than this are kept.
    pub age: Duration,
    /// And this many of the latest, whatever their age.
    pub versions: u64,
}

/// One table of a cleanup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableCleanup {
    /// The table, or its path in a watched directory, or an internal table's path.
    pub table: String,
    /// Its floor: versions below are refused to readers, then removed.
    pub floor: u64,
    /// The exact versions to remove.
    pub versions: Vec<u64>,
}

/// What a cleanup would do. The dry run prints it; the real run does it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CleanupPlan {
    /// Tables with something to remove.
    pub tables: Vec<TableCleanup>,
    /// The manifest's own floor and versions.
    pub manifest: Option<TableCleanup>,
    /// Decisions old enough to be forgotten.
    pub decisions: Vec<OpId>,
}

/// What a cleanup did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CleanupReport {
    /// Versions removed.
    pub versions_removed: u64,
    /// Bytes removed.
    pub bytes_removed: u64,
    /// Tables that failed, and why; the others were cleaned.
    pub failed: Vec<(String, String)>,
    /// What was archived first.
    pub archived: ArchiveReport,
}

impl CleanupPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.manifest.is_none() && self.decisions.is_empty()
    }
}

impl Store {
    /// Plans a cleanup of the whole store. Another daemon's cleanup may take a version away between its listing and
    /// its reading; what is planned from a fresh look does not miss it.
    pub async fn plan_cleanup(&self, retention: Retention) -> Result<CleanupPlan> {
        let mut rounds = Rounds::new();
        loop {
            match self.plan_from_fresh_look(retention).await {
                Err(e) if e.kind() == ErrorKind::Storage => rounds.lost(self, e).await?,
                planned => return planned,
            }
        }
    }

    async fn plan_from_fresh_look(&self, retention: Retention) -> Result<CleanupPlan> {
        let snapshot = self.load().await?;
        let window = self.window(&snapshot, retention).await?;
        let now = self.clock().now_ms();
        let mut plan = CleanupPlan::default();
        let standing = self.sidecar_ops().await?;
        let undecided = self.undecided_roots(&standing).await?;
        for (table, entry) in &snapshot.state.tables {
            let kept = self.kept_pins(&snapshot, table).await?;
            // A table that the oldest snapshot of the window does not show was made inside it: all of it is kept.
            let oldest = window
                .state
                .tables
                .get(table)
                .filter(|t| t.path == entry.path);
            let pinned = oldest.map_or(0, |t| t.version);
            let floor = cleanup_floor(
                pinned,
                undecided.get(table).copied(),
                snapshot.state.floor(table),
            );
            let dataset = self.open_pinned(entry).await?;
            let versions = removable(&dataset, floor, &kept).await?;
            if !versions.is_empty() {
                plan.tables.push(TableCleanup {
                    table: table.to_string(),
                    floor,
                    versions,
                });
            }
        }
        // Only archived publishes may go; the watermark itself is published by the run.
        let floor = window.oldest.max(snapshot.state.manifest_floor);
        let kept: Vec<u64> = snapshot.state.keeps.values().copied().collect();
        let versions = removable(
            self.manifest_dataset(&snapshot).await?.as_ref(),
            floor,
            &kept,
        )
        .await?;
        if !versions.is_empty() {
            plan.manifest = Some(TableCleanup {
                table: MANIFEST_PATH.to_owned(),
                floor,
                versions,
            });
        }
        let oldest =
            now.saturating_sub(u64::try_from(DECISION_RETENTION.as_millis()).unwrap_or(u64::MAX));
        plan.decisions = snapshot
            .state
            .aborted
            .iter()
            .filter(|(op, d)| may_forget(d.at_ms < oldest, standing.contains(op)))
            .map(|(op, _)| *op)
            .collect();
        Ok(plan)
    }

    /// Runs `plan`: archives, publishes floors, deletes below them. A table that fails does not stop the others.
    pub async fn cleanup(
        &self,
        plan: &CleanupPlan,
        rate: Option<u64>,
        cancel: &CancellationToken,
    ) -> Result<CleanupReport> {
        let mut report = CleanupReport::default();
        hit(Seam::CleanupAfterPlan)?;
        self.check_clock_skew().await?;
        report.archived = self.archive().await?;
        let archived = report.archived.through;
        let manifest_floor = plan.manifest.as_ref().map(|m| m.floor.min(archived + 1));
        if stands(Guard::FloorFirst) {
            self.publish_floors(plan, manifest_floor).await?;
        }
        hit(Seam::CleanupAfterFloor)?;
        for cleanup in &plan.tables {
            if cancel.is_cancelled() {
                return Err(Error::new(
                    ErrorKind::Cancelled,
                    "cleanup: cancelled between tables",
                ));
            }
            hit(Seam::CleanupBeforeTable)?;
            if let Err(e) = self.clean_pinned(cleanup, rate, &mut report).await {
                report.failed.push((cleanup.table.clone(), e.to_string()));
            }
            hit(Seam::CleanupAfterTable)?;
        }
        if let (Some(manifest), Some(floor)) = (&plan.manifest, manifest_floor) {
            let versions = manifest
                .versions
                .iter()
                .copied()
                .filter(|v| *v < floor)
                .collect();
            let dataset = self.manifest_dataset(&self.load().await?).await?;
            self.delete_versions(&dataset, versions, rate, &mut report)
                .await?;
        }
        self.keep_log(rate, cancel, &mut report).await?;
        Ok(report)
    }

    /// Cleans a plain table of a watched directory: its own versions by age and number.
    pub async fn plan_plain_cleanup(
        &self,
        path: &str,
        retention: Retention,
    ) -> Result<TableCleanup> {
        let dataset = self.latest(path).await?;
        let floor = self.oldest_kept(&dataset, retention).await?;
        let versions = removable(&dataset, floor, &[]).await?;
        Ok(TableCleanup {
            table: path.to_owned(),
            floor,
            versions,
        })
    }

    /// Runs the plan of a plain table.
    pub async fn cleanup_plain(
        &self,
        plan: &TableCleanup,
        rate: Option<u64>,
    ) -> Result<CleanupReport> {
        let mut report = CleanupReport::default();
        let dataset = self.latest(&plan.table).await?;
        self.delete_versions(&dataset, plan.versions.clone(), rate, &mut report)
            .await?;
        Ok(report)
    }

    fn oldest_kept_ms(&self, retention: Retention) -> i64 {
        let age = retention.age
            + if retention.age.is_zero() {
                Duration::ZERO
            } else {
                MAX_CLOCK_SKEW
            };
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        i64::try_from(self.clock().now_ms().saturating_sub(age)).unwrap_or(i64::MAX)
    }

    /// The manifest versions that must stay readable. Pins never go down, so the oldest one bounds every table.
    async fn window(&self, snapshot: &Snapshot, retention: Retention) -> Result<Window> {
        let oldest = self
            .oldest_kept(self.manifest_dataset(snapshot).await?.as_ref(), retention)
            .await?;
        Ok(Window {
            oldest,
            state: self.manifest_at(oldest).await?.state,
        })
    }

    /// The oldest version that `retention` keeps. Found by bisection: reading every manifest of a long history costs
    /// more than all that cleanup saves. Clocks of writers differ, so a version counts as younger than it says.
    async fn oldest_kept(&self, dataset: &Dataset, retention: Retention) -> Result<u64> {
        let mut versions: Vec<u64> = dataset
            .version_refs()
            .await?
            .iter()
            .map(|r| r.version)
            .collect();
        versions.sort_unstable();
        let limit = self.oldest_kept_ms(retention);
        let spared = usize::try_from(retention.versions.max(1)).unwrap_or(usize::MAX);
        let (mut low, mut high) = (0, versions.len().saturating_sub(spared));
        while low < high {
            let middle = low.midpoint(high);
            let read = read_version(dataset, versions[middle]).await?;
            let at = read.map_or(i64::MIN, |read| read.timestamp.timestamp_millis());
            if at < limit {
                low = middle + 1
            } else {
                high = middle
            }
        }
        Ok(versions
            .get(low)
            .copied()
            .unwrap_or_else(|| dataset.manifest().version))
    }

    async fn manifest_dataset(&self, snapshot: &Snapshot) -> Result<Arc<Dataset>> {
        self.open_at(MANIFEST_PATH, snapshot.version()).await
    }

    async fn kept_pins(&self, snapshot: &Snapshot, table: &TableName) -> Result<Vec<u64>> {
        let mut pins = Vec::new();
        for version in snapshot.state.keeps.values() {
            let held = self.manifest_at(*version).await?;
            pins.extend(held.state.tables.get(table).map(|t| t.version));
        }
        Ok(pins)
    }

    /// The base of every table that an undecided operation writes or reads.
    async fn undecided_roots(&self, standing: &[OpId]) -> Result<BTreeMap<TableName, u64>> {
        let mut roots: BTreeMap<TableName, u64> = BTreeMap::new();
        for op in standing {
            let Some(sidecar) = self.sidecar(*op).await? else {
                continue;
            };
            for entry in sidecar.writes.iter().chain(&sidecar.reads) {
                let root = roots.entry(entry.table.clone()).or_insert(entry.base);
                *root = (*root).min(entry.base);
            }
        }
        Ok(roots)
    }

    async fn publish_floors(&self, plan: &CleanupPlan, manifest_floor: Option<u64>) -> Result<()> {
        let op = self.new_op();
        let floors: BTreeMap<TableName, u64> = plan
            .tables
            .iter()
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
        self.delete_versions(&dataset, versions, rate, report).await
    }

    /// The log is internal: compacted like any table, and its old versions serve nobody.
    async fn keep_log(
        &self,
        rate: Option<u64>,
        cancel: &CancellationToken,
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
                bytes_per_second: None,
            };
            self.compact(&target, &limits, cancel).await?;
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
        self.delete_versions(&log, old, rate, report).await
    }

    /// Deletes those of `versions` that are still there, whoever else deletes them at the same time.
    async fn delete_versions(
        &self,
        dataset: &Dataset,
        versions: Vec<u64>,
        rate: Option<u64>,
        report: &mut CleanupReport,
    ) -> Result<()> {
        let mut rounds = Rounds::new();
        loop {
            let stored = dataset.version_refs().await?;
            let left: Vec<u64> = versions
                .iter()
                .copied()
                .filter(|v| stored.iter().any(|r| r.version == *v))
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            let mut builder = CleanupPolicyBuilder::default()
                .versions(left)?
                .error_if_tagged_old_versions(false);
            if let Some(rate) = rate {
                builder = builder.delete_rate_limit(rate)?;
            }
            match dataset
                .cleanup_with_policy(builder.build())
                .await
                .map_err(Error::from)
            {
                Ok(removed) => {
                    report.versions_removed += removed.old_versions;
                    report.bytes_removed += removed.bytes_removed;
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Storage => rounds.lost(self, e).await?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Refuses when this machine's clock and the storage's differ too much: ages would be wrong.
    async fn check_clock_skew(&self) -> Result<()> {
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
        Ok(())
    }
}

/// The part of the manifest's history that stays readable.
struct Window {
    oldest: u64,
    state: Arc<State>,
}

async fn removable(dataset: &Dataset, floor: u64, kept: &[u64]) -> Result<Vec<u64>> {
    let tagged = tagged_versions(dataset).await?;
    let mut versions: Vec<u64> = dataset
        .version_refs()
        .await?
        .iter()
        .map(|r| r.version)
        .filter(|v| *v < floor && !kept.contains(v) && !tagged.contains(v))
        .collect();
    versions.sort_unstable();
    Ok(versions)
}

async fn tagged_versions(dataset: &Dataset) -> Result<Vec<u64>> {
    Ok(dataset
        .tags()
        .list()
        .await?
        .values()
        .map(|t| t.version)
        .collect())
}

impl Target {
    /// The table of a pinned target.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Self::Pinned(table) => Some(table),
            Self::Plain(_) => None,
        }
    }
}
