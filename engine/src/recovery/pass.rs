//! One recovery pass: over a store every sidecar, then dead versions without one; over plain tables the records of runs.
//! In the end what dead runs left is reclaimed.

use super::resolve::{Resolution, dead_sidecar};
use crate::error::{Error, Result};
use crate::ids::{OpId, TableName};
use crate::journal::Progress;
use crate::protocol::{Class, Role};
use crate::store::{Records, SidecarKind, Store, is_of_table, unless_denied};
use futures::TryStreamExt;
use object_store::ObjectMeta;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How old a leftover staging file must be before it is removed.
const STAGING_AGE_MS: u64 = 3_600_000;

/// What a recovery pass did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// Operations completed or found committed.
    pub committed: Vec<OpId>,
    /// Operations aborted.
    pub aborted: Vec<OpId>,
    /// Operations left alone: their grace is not over.
    pub pending: Vec<OpId>,
    /// Dead versions taken back.
    pub healed: Vec<OpId>,
    /// Runs whose stranded files were deleted, with their bytes.
    pub reclaimed: Vec<(OpId, u64)>,
    /// What could not be resolved, and why.
    pub failed: Vec<(String, String)>,
}

impl RecoveryReport {
    /// Whether the pass found nothing to do.
    pub fn is_noop(&self) -> bool {
        self == &Self::default()
    }
}

/// A maintenance run is taken for dead after this many graces in which its journal did not grow.
const MAINTENANCE_PATIENCE: u32 = 20;

/// Since when each sidecar has stood without progress before the eyes of this process, on its monotonic clock.
#[derive(Debug, Default)]
pub struct Watch {
    seen: HashMap<OpId, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Duration,
    journal: Progress,
    /// When the journal was seen to grow.
    grew: Duration,
}

impl Seen {
    /// Seen for the first time.
    fn at(now: Duration, journal: Progress) -> Self {
        Self {
            first: now,
            journal,
            grew: now,
        }
    }
}

impl Store {
    /// Resolves what can be resolved now. `watch` is kept between passes: an operation is aborted only when this
    /// process saw its sidecar for the whole grace. With `force` the grace is taken as over.
    pub async fn recover(&self, watch: &mut Watch, force: bool) -> Result<RecoveryReport> {
        let mut report = RecoveryReport::default();
        let records = &self.records;
        let ops = records.sidecar_ops().await?;
        watch.seen.retain(|op, _| ops.contains(op));
        for op in ops {
            if let Err(e) = self
                .recover_one(records, op, watch, force, &mut report)
                .await
            {
                report.failed.push((op.to_string(), e.to_string()));
            }
        }
        self.heal_dead_versions(&mut report).await?;
        self.reclaim_stranded(records, None, &mut report).await?;
        self.sweep_staging(records).await?;
        Ok(report)
    }

    /// The same for plain tables, or `only` one of them: ends the runs that show no sign of life and reclaims what dead
    /// ones wrote.
    pub async fn recover_plain(
        &self,
        only: Option<&str>,
        watch: &mut Watch,
        force: bool,
    ) -> Result<RecoveryReport> {
        let mut report = RecoveryReport::default();
        let mut standing = BTreeSet::new();
        for records in self.plain_records().await {
            let Some(listed) = unless_denied(records.listed().await)? else {
                continue;
            };
            if listed.objects.is_empty() && listed.common_prefixes.is_empty() {
                continue;
            }
            let ops = self.plain_ops(records, only).await?;
            standing.extend(ops.iter().copied());
            for op in ops {
                if let Err(e) = self
                    .recover_one(records, op, watch, force, &mut report)
                    .await
                {
                    report.failed.push((op.to_string(), e.to_string()));
                }
            }
            self.reclaim_stranded(records, only, &mut report).await?;
            self.sweep_staging(records).await?;
            records.tidy().await;
        }
        watch.seen.retain(|op, _| standing.contains(op));
        Ok(report)
    }

    /// The runs on plain tables here, or on `only` one of them, whose records stand.
    pub async fn plain_sidecar_ops(&self, only: Option<&str>) -> Result<Vec<OpId>> {
        let mut ops = Vec::new();
        for records in self.plain_records().await {
            let found = unless_denied(self.plain_ops(records, only).await)?;
            ops.extend(found.unwrap_or_default());
        }
        Ok(ops)
    }

    async fn plain_ops(&self, records: &Records, only: Option<&str>) -> Result<Vec<OpId>> {
        let mut ops = records.sidecar_ops().await?;
        let Some(only) = only else {
            return Ok(ops);
        };
        let mut concerned = BTreeSet::new();
        for op in &ops {
            let sidecar = records.sidecar(*op).await?;
            if sidecar.is_some_and(|s| s.plain.is_some_and(|path| is_of_table(&path, only))) {
                concerned.insert(*op);
            }
        }
        ops.retain(|op| concerned.contains(op));
        Ok(ops)
    }

    /// Completes or aborts an operation whose process is known to be dead: there is nobody to wait for.
    pub async fn settle_dead(&self, op: OpId) -> Result<()> {
        match self.sidecar(op).await? {
            Some(sidecar) => self.resolve(&sidecar, Role::Expired).await.map(drop),
            None => Ok(()),
        }
    }

    async fn recover_one(
        &self,
        records: &Records,
        op: OpId,
        watch: &mut Watch,
        force: bool,
        report: &mut RecoveryReport,
    ) -> Result<()> {
        let Some(sidecar) = records.sidecar(op).await? else {
            return self.recover_torn(records, op, watch, force, report).await;
        };
        let is_run = sidecar.kind == SidecarKind::Maintenance;
        let (patience, journal) = match sidecar.kind {
            SidecarKind::Logical => (1, Progress::default()),
            SidecarKind::Maintenance => (MAINTENANCE_PATIENCE, records.journal_progress(op).await?),
        };
        let now = self.clock().monotonic();
        let known = watch.seen.get(&op).copied();
        let new = Seen::at(now, journal);
        let seen = match known {
            None => new,
            Some(seen) if journal > seen.journal => Seen {
                first: seen.first,
                ..new
            },
            Some(seen) => seen,
        };
        watch.seen.insert(op, seen);
        let patience = self.options().grace * patience;
        // A run of this process is at work, whatever its journal says.
        let ours = self.at_work.contains(op);
        let mut expired = !ours && (force || now.saturating_sub(seen.grew) >= patience);
        if !expired && !ours && known.is_none() && is_run {
            // Whoever looks at it for the first time need not wait for what the storage knows already.
            expired = records.silence(op, self.new_op()).await? >= patience;
        }
        if !expired && (known.is_none() || is_run) {
            // Most likely alive and about to publish by itself: helping now would only make it lose the race.
            if !ours {
                report.pending.push(op);
            }
            let long = now.saturating_sub(seen.first) >= self.options().grace;
            if is_run && long {
                self.publish_landed(&sidecar).await?;
            }
            return Ok(());
        }
        if sidecar.plain.is_some() {
            // What it has landed is visible; without its record it lands nothing more.
            records.delete_sidecar(op).await?;
            report.committed.push(op);
            return Ok(());
        }
        let role = if expired { Role::Expired } else { Role::Helper };
        match self.resolve(&sidecar, role).await? {
            Resolution::Committed(_) => report.committed.push(op),
            Resolution::Aborted => report.aborted.push(op),
            Resolution::Pending => report.pending.push(op),
        }
        Ok(())
    }

    /// A sidecar that is gone or torn. A torn one is never written any further, and nothing of its operation began.
    async fn recover_torn(
        &self,
        records: &Records,
        op: OpId,
        watch: &mut Watch,
        force: bool,
        report: &mut RecoveryReport,
    ) -> Result<()> {
        if !records.has_sidecar(op).await? {
            return Ok(());
        }
        let now = self.clock().monotonic();
        let new = Seen::at(now, Progress::default());
        let seen = watch.seen.entry(op).or_insert(new);
        if !force && now.saturating_sub(seen.first) < self.options().grace {
            report.pending.push(op);
            return Ok(());
        }
        tracing::info!(%op, "a sidecar that a power cut left torn is removed");
        records.delete_sidecar(op).await?;
        report.aborted.push(op);
        Ok(())
    }

    /// Takes back versions that a writer landed after its operation was decided and its sidecar removed.
    async fn heal_dead_versions(&self, report: &mut RecoveryReport) -> Result<()> {
        let snapshot = self.load().await?;
        for (op, decision) in &snapshot.state.aborted {
            self.remove_dead_creates(&snapshot, &dead_sidecar(self, *op, decision))
                .await?;
        }
        let tables: Vec<TableName> = snapshot.state.tables.keys().cloned().collect();
        for table in tables {
            if let Err(e) = self.heal_table(&table, report).await {
                report.failed.push((table.to_string(), e.to_string()));
            }
        }
        Ok(())
    }

    /// Removes what a put that was killed half-way left beside the sidecars, and old beats. A live put takes milliseconds, and one
    /// that loses its staging file fails without a trace.
    async fn sweep_staging(&self, records: &Records) -> Result<()> {
        let old = self.clock().now_ms().saturating_sub(STAGING_AGE_MS);
        for area in ["recovery", "probe"] {
            let prefix = records.area(area);
            let listed: Vec<ObjectMeta> = records.objects.list(Some(prefix)).try_collect().await?;
            for meta in listed {
                let sidecar = area == "recovery" && meta.location.as_ref().ends_with(".json");
                let aged = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0) < old;
                if !sidecar && aged {
                    records.objects.delete(&meta.location).await?;
                }
            }
        }
        Ok(())
    }

    /// Deletes what maintenance runs that ended or died rewrote for nothing.
    async fn reclaim_stranded(
        &self,
        records: &Records,
        only: Option<&str>,
        report: &mut RecoveryReport,
    ) -> Result<()> {
        for (op, outcome) in self.reclaim_dead_runs(records, only).await? {
            match outcome {
                Ok(0) => {}
                Ok(bytes) => report.reclaimed.push((op, bytes)),
                Err(e) => report.failed.push((op.to_string(), e.to_string())),
            }
        }
        Ok(())
    }

    async fn heal_table(
        &self,
        table: &TableName,
        report: &mut RecoveryReport,
    ) -> Result<(), Error> {
        let at = self.look_at(table).await?;
        for (_, class) in at.chain.iter() {
            let (Class::Logical(op) | Class::Undo(op)) = class else {
                continue;
            };
            if report.healed.contains(&op) {
                continue;
            }
            let Some(decision) = at.snapshot.state.aborted.get(&op) else {
                continue;
            };
            self.resolve(&dead_sidecar(self, op, decision), Role::Helper)
                .await?;
            report.healed.push(op);
        }
        Ok(())
    }
}
