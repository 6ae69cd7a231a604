//! Compaction: rewrites small and half-deleted fragments, in batches of bounded tasks. What was rewritten is read back
//! before it is committed.

use super::carrier::{Carrier, Landed};
use super::carry::holds;
use super::health::fragment_bytes;
use super::index_proof::prove_followers;
use super::listed::{followers, ids_of};
use super::plan::CompactionPlan;
use super::rehearsal::{base_of, commit_rehearsed};
use super::run::{MaintenanceReport, Run, Skipped, Work};
use super::tasks::{Task, TaskBounds, batches};
use super::verify::{Rewrite, Verify};
use super::{Oversight, Target};
use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::store::Store;
use lance::Dataset;
use lance::dataset::index::DatasetIndexRemapperOptions;
use lance::dataset::optimize::{
    CompactionMode, CompactionOptions, CompactionTask, RewriteResult, TaskData, commit_compaction,
};
use lance_table::format::Fragment;
use squire_failpoints::{Seam, conflict_injected, hit};
use std::sync::Arc;
use std::time::Duration;

/// Bounds of one compaction run.
#[derive(Debug, Clone, PartialEq)]
pub struct CompactionLimits {
    /// Bounds of its tasks.
    pub bounds: TaskBounds,
    /// Tasks per commit: one lost race loses this many; each commit remaps the indexes once.
    pub tasks_per_commit: usize,
    /// Bytes read and written per second, averaged over a task; `None` for no limit.
    pub bytes_per_second: Option<u64>,
    /// How each rewrite is compared with what it replaces, before it is committed.
    pub verify: Verify,
}

struct Compaction<'a>(&'a CompactionLimits);

impl Store {
    /// Compacts `target` once: plans on HEAD, rewrites, commits batch by batch, publishes the clean prefix.
    pub async fn compact(
        &self,
        target: &Target,
        limits: &CompactionLimits,
        oversight: &Oversight,
    ) -> Result<MaintenanceReport> {
        self.maintain(target, &Compaction(limits), oversight).await
    }

    /// Those of `tasks` whose fragments others have left in `head`, with the same indexes over all of them.
    async fn standing(&self, head: &Dataset, tasks: &[Task]) -> Result<Vec<Task>> {
        let facts = self.fragment_facts(head).await?;
        let stands = |task: &&Task| {
            let of_task = facts.iter().filter(|f| task.fragments.contains(&f.id));
            let of_task: Vec<_> = of_task.collect();
            let uniform = of_task
                .windows(2)
                .all(|two| two[0].indexes == two[1].indexes);
            of_task.len() == task.fragments.len() && uniform
        };
        Ok(tasks.iter().filter(stands).cloned().collect())
    }

    /// What [`Store::compact`] would do now to what readers see.
    pub async fn compaction_plan(
        &self,
        target: &Target,
        bounds: &TaskBounds,
    ) -> Result<CompactionPlan> {
        let dataset = self.visible(None, target).await?;
        self.plan_compaction(&dataset, bounds).await
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
        let plan = store.plan_compaction(&head, &self.0.bounds).await?;
        report.skipped = plan.left_alone.map(Skipped::Unsupported);
        hit(Seam::MaintainAfterPlan)?;
        let options = options(self.0, plan.defers_remap, run);
        let rewriting = Rewriting {
            limits: self.0,
            options: &options,
            run,
            store,
        };
        let mut dropped = 0;
        for batch in batches(&plan.tasks, &self.0.bounds, self.0.tasks_per_commit) {
            run.check_cancelled()?;
            let batch = if report.carried > 0 {
                store.standing(&head, batch).await?
            } else {
                batch.to_vec()
            };
            let offered = (batch.as_slice(), &mut dropped);
            let (results, interrupted) = rewriting.batch(&head, offered, report).await?;
            hit(Seam::MaintainAfterRewrite)?;
            if results.is_empty() {
                interrupted?;
                continue;
            }
            let landed = match rewriting.commit(&mut head, results).await {
                Ok(landed) => landed,
                Err(e) if e.kind() == ErrorKind::Unfit => {
                    report.unfit.push(format!("{}: {e}", run.target));
                    continue;
                }
                Err(e) => return Err(e),
            };
            run.oversight.step();
            report.fragments_removed += landed.fragments_removed;
            report.fragments_added += landed.fragments_added;
            report.bytes_rewritten += landed.bytes;
            report.carried += u32::from(landed.carried);
            dropped += landed.dropped;
            hit(Seam::MaintainAfterCompact)?;
            interrupted?;
            if conflict_injected(Seam::MaintainInjectConflict) {
                return Err(Error::conflict("injected after the commit"));
            }
        }
        if dropped > 0 {
            let message = format!("{dropped} rewrites were overtaken by writers");
            return Err(Error::conflict(message));
        }
        match report.unfit.first() {
            Some(first) if report.fragments_removed == 0 => {
                Err(Error::new(ErrorKind::Unfit, first.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// What the rewrites of an attempt share.
struct Rewriting<'a> {
    limits: &'a CompactionLimits,
    options: &'a CompactionOptions,
    run: &'a Run<'a>,
    store: &'a Store,
}

impl Rewriting<'_> {
    /// Rewrites the tasks of `batch`. What cannot replace what it should replace is left out, and reported. When the run is
    /// asked to stop, the task in hand is given up, and those before it are there to be committed: the second answer says so.
    /// Tasks that were overtaken before they began are counted in `dropped`.
    async fn batch(
        &self,
        head: &Dataset,
        (batch, dropped): (&[Task], &mut usize),
        report: &mut MaintenanceReport,
    ) -> Result<(Vec<RewriteResult>, Result<()>)> {
        let (run, clock) = (self.run, self.store.clock());
        let mut results = Vec::with_capacity(batch.len());
        for (nth, task) in batch.iter().enumerate() {
            // What others have changed since HEAD was read, so that no rewrite could land, is not rewritten.
            let overtaken = match nth {
                0 => false,
                _ => !holds(
                    head.manifest(),
                    self.store.head_of(run).await?.manifest(),
                    &task.fragments,
                ),
            };
            if overtaken {
                *dropped += 1;
                continue;
            }
            tracing::debug!(op = %run.op, target = %run.target, fragments = task.fragments.len(), bytes = task.bytes, "rewriting");
            let started = clock.monotonic();
            let mut moved = 0;
            match run
                .unless_cancelled(self.rewrite(head, task, &mut moved))
                .await
            {
                Ok(result) => results.push(result),
                Err(e) if e.kind() == ErrorKind::Cancelled => return Ok((results, Err(e))),
                Err(e) if e.kind() == ErrorKind::Unfit => {
                    let (first, last) = (task.fragments.first(), task.fragments.last());
                    report.unfit.push(format!(
                        "{}: fragments {} to {} stay as they are: {e}",
                        run.target,
                        first.copied().unwrap_or(0),
                        last.copied().unwrap_or(0),
                    ));
                }
                Err(e) => return Err(e),
            }
            run.oversight.step();
            let took = clock.monotonic().saturating_sub(started);
            self.pace(moved, took).await;
        }
        Ok((results, Ok(())))
    }

    /// Rewrites the fragments of `task` and reads the result back. Rows that turn out to be wider than they were taken
    /// to be are rewritten once more, into smaller fragments. The bytes that were read and written are added to `moved`.
    async fn rewrite(&self, head: &Dataset, task: &Task, moved: &mut u64) -> Result<RewriteResult> {
        // Read as others read, not through what names the files of this run.
        let reader = head.with_object_store(self.store.objects.clone(), None);
        let fragments: Vec<Fragment> = head
            .fragments()
            .iter()
            .filter(|f| task.fragments.contains(&f.id))
            .cloned()
            .collect();
        let mut target_rows = task.target_rows;
        for _ in 0..WIDTHS_TRIED {
            let rewrite = CompactionTask {
                task: TaskData {
                    fragments: fragments.clone(),
                },
                read_version: head.manifest().version,
                options: CompactionOptions {
                    target_rows_per_fragment: usize::try_from(target_rows).unwrap_or(usize::MAX),
                    batch_size: task.batch_rows,
                    compaction_mode: Some(mode(task)),
                    ..self.options.clone()
                },
            };
            let result = rewrite.execute(head).await?;
            let written: u64 = result.new_fragments.iter().map(fragment_bytes).sum();
            // Both are read once more.
            *moved += 2 * (task.bytes + written);
            let check = Rewrite {
                dataset: &reader,
                old: &fragments,
                new: &result.new_fragments,
                verify: self.limits.verify,
                batch_rows: task.batch_rows,
                oversight: self.run.oversight,
            };
            let Some(wide) = check.check().await? else {
                return Ok(result);
            };
            // Lance writes up to twice its target.
            target_rows = target_rows.min(wide.fitting_rows).div_ceil(2);
        }
        Err(Error::new(
            ErrorKind::Unfit,
            "its rows are too wide for a default scan",
        ))
    }

    /// Commits `results`, and moves `head` there. Where that is lost to a writer, they are carried.
    async fn commit(&self, head: &mut Dataset, results: Vec<RewriteResult>) -> Result<Landed> {
        let lost = match self.commit_above(head, results.clone()).await {
            Ok(()) => return Ok(Landed::of(&results)),
            Err(e) if e.disposition() == Disposition::Retry => e,
            Err(e) => return Err(e),
        };
        // What earlier rewrites moved is found by addresses that a carried rewrite would not have.
        if self.options.defer_index_remap {
            return Err(lost);
        }
        tracing::debug!(op = %self.run.op, target = %self.run.target, error = %lost, "a commit was lost, carrying it");
        let carrier = Carrier {
            store: self.store,
            run: self.run,
            options: self.options,
            base: head,
        };
        let (landed, at) = carrier.land(results, lost).await?;
        *head = at;
        Ok(landed)
    }

    /// Commits `results` above `head`. Where indexes have to follow, the version is rehearsed and they are asked first.
    async fn commit_above(&self, head: &mut Dataset, results: Vec<RewriteResult>) -> Result<()> {
        let remap = Arc::new(DatasetIndexRemapperOptions::default());
        let rewritten = ids_of(results.iter().flat_map(|r| &r.original_fragments));
        let followers = followers(head, &rewritten).await?;
        if followers.is_empty() {
            commit_compaction(head, results, remap, self.options).await?;
            return Ok(());
        }
        let mut staged = self.store.rehearsal(self.run, head, None).await?;
        commit_compaction(&mut staged, results, remap, self.options).await?;
        let before = base_of(&staged, head).await?;
        prove_followers(&before, &staged, &followers).await?;
        commit_rehearsed(head, &staged).await
    }

    /// Rests until `moved` bytes are as old as the rate wants them, or the run is cancelled.
    async fn pace(&self, moved: u64, took: Duration) {
        let Some(rate) = self.limits.bytes_per_second else {
            return;
        };
        let due = Duration::from_secs_f64(moved as f64 / rate.max(1) as f64);
        let mut left = due.saturating_sub(took);
        while !left.is_zero() && !self.run.oversight.is_cancelled() {
            let nap = left.min(NAP);
            tokio::select! {
                () = self.run.oversight.cancelled() => {}
                () = self.store.clock().sleep(nap) => {}
            }
            // It rests because it was told to; that is no hang.
            self.run.oversight.step();
            left -= nap;
        }
    }
}

/// How long a run rests at once for the sake of its rate.
const NAP: Duration = Duration::from_secs(1);

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

/// How often a task is rewritten when its rows are wider than the sample said. The first time says how wide they are.
const WIDTHS_TRIED: usize = 3;

fn options(limits: &CompactionLimits, defers_remap: bool, run: &Run<'_>) -> CompactionOptions {
    CompactionOptions {
        defer_index_remap: defers_remap,
        max_bytes_per_file: usize::try_from(limits.bounds.max_output_bytes).ok(),
        num_threads: Some(1),
        transaction_properties: Some(Arc::new(run.properties.clone())),
        ..CompactionOptions::default()
    }
}
