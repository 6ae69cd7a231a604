//! Compaction: rewrites small and half-deleted fragments, in batches of bounded tasks.

use super::Target;
use super::health::{fragment_bytes, fragment_facts};
use super::run::{MaintenanceReport, Run, Work};
use super::tasks::{Task, TaskBounds, plan_tasks, row_target};
use crate::error::{Error, Result};
use crate::store::Store;
use lance::Dataset;
use lance::dataset::index::DatasetIndexRemapperOptions;
use lance::dataset::optimize::{
    CompactionMode, CompactionOptions, CompactionTask, RewriteResult, TaskData, commit_compaction,
};
use squire_failpoints::{Seam, conflict_injected, hit};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Bounds of one compaction run.
#[derive(Debug, Clone, PartialEq)]
pub struct CompactionLimits {
    /// Bounds of its tasks.
    pub bounds: TaskBounds,
    /// Tasks per commit: one lost race loses this many; each commit remaps the indexes once.
    pub tasks_per_commit: usize,
    /// Bytes read and written per second, averaged over a task; `None` for no limit.
    pub bytes_per_second: Option<u64>,
}

struct Compaction<'a>(&'a CompactionLimits);

impl Store {
    /// Compacts `target` once: plans on HEAD, rewrites, commits batch by batch, publishes the clean prefix.
    pub async fn compact(
        &self,
        target: &Target,
        limits: &CompactionLimits,
        cancel: &CancellationToken,
    ) -> Result<MaintenanceReport> {
        self.maintain(target, &Compaction(limits), cancel).await
    }

    /// The tasks that [`Store::compact`] would run now on what readers see.
    pub async fn compaction_tasks(
        &self,
        target: &Target,
        bounds: &TaskBounds,
    ) -> Result<Vec<Task>> {
        let dataset = self.visible(None, target).await?;
        Ok(plan_tasks(&fragment_facts(&dataset).await?, bounds))
    }
}

#[async_trait::async_trait]
impl Work for Compaction<'_> {
    fn kind(&self) -> &'static str {
        "compact"
    }

    async fn attempt(
        &self,
        run: &Run<'_>,
        store: &Store,
        mut head: Dataset,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        hit(Seam::MaintainBeforeCompact)?;
        let facts = fragment_facts(&head).await?;
        let tasks = plan_tasks(&facts, &self.0.bounds);
        hit(Seam::MaintainAfterPlan)?;
        let options = options(self.0, row_target(&facts, &self.0.bounds), run);
        for batch in tasks.chunks(self.0.tasks_per_commit.max(1)) {
            run.check_cancelled()?;
            let results = self
                .rewrite_batch(&head, batch, &options, run, store)
                .await?;
            hit(Seam::MaintainAfterRewrite)?;
            let remap = Arc::new(DatasetIndexRemapperOptions::default());
            let metrics = commit_compaction(&mut head, results, remap, &options).await?;
            report.fragments_removed += metrics.fragments_removed as u64;
            report.fragments_added += metrics.fragments_added as u64;
            report.bytes_rewritten += batch.iter().map(|t| t.bytes).sum::<u64>();
            hit(Seam::MaintainAfterCompact)?;
            if conflict_injected(Seam::MaintainInjectConflict) {
                return Err(Error::conflict("injected after the commit"));
            }
        }
        Ok(())
    }
}

impl Compaction<'_> {
    async fn rewrite_batch(
        &self,
        head: &Dataset,
        batch: &[Task],
        options: &CompactionOptions,
        run: &Run<'_>,
        store: &Store,
    ) -> Result<Vec<RewriteResult>> {
        let mut results = Vec::with_capacity(batch.len());
        for task in batch {
            run.check_cancelled()?;
            let fragments = head
                .fragments()
                .iter()
                .filter(|f| task.fragments.contains(&f.id))
                .cloned()
                .collect();
            let rewrite = CompactionTask {
                task: TaskData { fragments },
                read_version: head.manifest().version,
                options: CompactionOptions {
                    compaction_mode: Some(mode(task)),
                    ..options.clone()
                },
            };
            tracing::debug!(op = %run.op, target = %run.target, fragments = task.fragments.len(), bytes = task.bytes, "rewriting");
            let started = store.clock().monotonic();
            let result = rewrite.execute(head).await?;
            let written: u64 = result.new_fragments.iter().map(fragment_bytes).sum();
            results.push(result);
            let took = store.clock().monotonic().saturating_sub(started);
            self.pace(run, store, task.bytes + written, took).await;
        }
        Ok(results)
    }

    /// Rests until `moved` bytes are as old as the rate wants them, or the run is cancelled.
    async fn pace(&self, run: &Run<'_>, store: &Store, moved: u64, took: Duration) {
        let Some(rate) = self.0.bytes_per_second else {
            return;
        };
        let due = Duration::from_secs_f64(moved as f64 / rate.max(1) as f64);
        tokio::select! {
            () = run.cancel.cancelled() => {}
            () = store.clock().sleep(due.saturating_sub(took)) => {}
        }
    }
}

/// Copying pages takes a third of the memory of decoding them, at the same speed, but it keeps the pages as they
/// are: many pages of a few rows stay many and large. Fragments of this size have pages worth keeping.
const COPY_FROM_BYTES: u64 = 16 << 20;

fn mode(task: &Task) -> CompactionMode {
    if task.bytes / task.fragments.len().max(1) as u64 >= COPY_FROM_BYTES {
        CompactionMode::TryBinaryCopy
    } else {
        CompactionMode::Reencode
    }
}

fn options(limits: &CompactionLimits, target_rows: u64, run: &Run<'_>) -> CompactionOptions {
    CompactionOptions {
        target_rows_per_fragment: usize::try_from(target_rows).unwrap_or(usize::MAX),
        max_bytes_per_file: usize::try_from(limits.bounds.max_output_bytes).ok(),
        num_threads: Some(1),
        transaction_properties: Some(Arc::new(run.properties.clone())),
        ..CompactionOptions::default()
    }
}
