//! Compaction: rewrites small and half-deleted fragments, in batches of bounded tasks. What was rewritten is read back
//! before it is committed.

use super::Target;
use super::carrier::{Carrier, Landed, Prepared};
use super::carry::{Change, holds, most_changed};
use super::index_proof::prove_followers;
use super::listed::{followers, ids_of, listed_indexes, new_index_bytes};
use super::plan::CompactionPlan;
use super::rehearsal::{base_of, commit_rehearsed};
use super::run::{MaintenanceReport, Run, Work};
use super::tasks::{Task, TaskBounds, fitting};
use crate::error::{Disposition, Error, ErrorKind, Result};
use crate::journal::Amounts;
use crate::oversight::Oversight;
use crate::proof::{Rewrite, Verify};
use crate::recovery::Skipped;
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
    /// How long what is finished may wait for its commit, whatever else the run has to do.
    pub commit_after: Duration,
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
        let listed = listed_indexes(head).await?;
        let facts = self.fragment_facts(head, &listed).await?;
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
        self.plan_anew(&dataset, bounds).await
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
        store
            .ledger()
            .saw(run.path(), &head, store.clock().now_ms());
        let plan = store.plan_anew(&head, &self.0.bounds).await?;
        report.skipped = plan.left_alone.clone().map(Skipped::Unsupported);
        let ahead = plan.tasks.iter().map(|task| task.bytes).sum();
        run.oversight.planned("bytes", ahead);
        hit(Seam::MaintainAfterPlan)?;
        let options = options(self.0, &plan, run);
        let rewriting = Rewriting {
            limits: self.0,
            options: &options,
            run,
            store,
        };
        let mut dropped = 0;
        let mut left = plan.tasks;
        while !left.is_empty() {
            run.check_cancelled()?;
            let fitting = fitting(&left, &self.0.bounds, self.0.tasks_per_commit);
            let mut batch: Vec<Task> = left.drain(..fitting).collect();
            if report.carried > 0 {
                batch = store.standing(&head, &batch).await?;
            }
            let Batch {
                results,
                begun,
                overtaken,
                interrupted,
            } = rewriting.batch(&head, &batch, report).await?;
            dropped += overtaken;
            left.splice(..0, batch.drain(begun..));
            hit(Seam::MaintainAfterRewrite)?;
            if results.is_empty() {
                interrupted?;
                continue;
            }
            let landed = match rewriting.land(&mut head, results, report).await {
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

/// What came of a batch of tasks.
struct Batch {
    results: Vec<RewriteResult>,
    /// How many tasks were begun: what is finished goes first when it has waited long enough.
    begun: usize,
    /// How many of them had been overtaken by writers.
    overtaken: usize,
    /// Whether the run was asked to stop; what it had finished is committed all the same.
    interrupted: Result<()>,
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
    /// asked to stop, the task in hand is the last one; when that is given up, those before it are there to be committed. So are those that have
    /// waited for `commit_after` while there is more to do. Tasks that were overtaken before they began are only counted.
    async fn batch(
        &self,
        head: &Dataset,
        batch: &[Task],
        report: &mut MaintenanceReport,
    ) -> Result<Batch> {
        let (run, clock) = (self.run, self.store.clock());
        let mut done = Batch {
            results: Vec::with_capacity(batch.len()),
            begun: 0,
            overtaken: 0,
            interrupted: Ok(()),
        };
        let mut first_finished = None;
        for (nth, task) in batch.iter().enumerate() {
            done.begun += 1;
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
                done.overtaken += 1;
                continue;
            }
            tracing::debug!(op = %run.op, target = %run.target, fragments = task.fragments.len(), bytes = task.bytes, "rewriting");
            match run.unless_given_up(self.rewrite(head, task)).await {
                Ok(result) => done.results.push(result),
                Err(e) if e.kind() == ErrorKind::Cancelled => {
                    done.interrupted = Err(e);
                    return Ok(done);
                }
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
            run.oversight.did(task.bytes);
            if let Err(e) = run.check_cancelled() {
                done.interrupted = Err(e);
                return Ok(done);
            }
            let now = clock.monotonic();
            let waits_since = *first_finished.get_or_insert(now);
            if now.saturating_sub(waits_since) >= self.limits.commit_after {
                break;
            }
        }
        Ok(done)
    }

    /// Rewrites the fragments of `task` and reads the result back. Rows that turn out to be wider than they were taken
    /// to be are rewritten once more, into smaller fragments.
    async fn rewrite(&self, head: &Dataset, task: &Task) -> Result<RewriteResult> {
        // Not through what names the files of this run.
        let reader = head.with_object_store(self.store.reading(self.run.oversight), None);
        let fragments: Vec<Fragment> = head
            .fragments()
            .iter()
            .filter(|f| task.fragments.contains(&f.id))
            .cloned()
            .collect();
        let memory = self.store.memory();
        let batch_rows = least(task.batch_rows(memory.batch()), self.options.batch_size);
        // A table may ask for less.
        let own = self.options.io_buffer_size.unwrap_or(u64::MAX);
        let read_ahead = memory.read_ahead(task.widest_row).min(own);
        let mut target_rows = task.target_rows;
        for _ in 0..WIDTHS_TRIED {
            let rewrite = CompactionTask {
                task: TaskData {
                    fragments: fragments.clone(),
                },
                read_version: head.manifest().version,
                options: CompactionOptions {
                    target_rows_per_fragment: usize::try_from(target_rows).unwrap_or(usize::MAX),
                    batch_size: batch_rows,
                    io_buffer_size: Some(read_ahead),
                    compaction_mode: self.options.compaction_mode.or(Some(mode(task))),
                    ..self.options.clone()
                },
            };
            let result = rewrite.execute(head).await?;
            let check = Rewrite {
                dataset: &reader,
                old: &fragments,
                new: &result.new_fragments,
                verify: self.limits.verify,
                batch_rows,
                read_ahead,
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

    /// Commits `results`, moves `head` there, and counts what that wrote.
    async fn land(
        &self,
        head: &mut Dataset,
        results: Vec<RewriteResult>,
        report: &mut MaintenanceReport,
    ) -> Result<Landed> {
        let (ledger, path) = (self.store.ledger(), self.run.path());
        ledger.expect(path, &results);
        let before = head.clone();
        let landed = self.commit(head, results).await?;
        let amounts = Amounts {
            rewritten: landed.written,
            indexed: report.wrote(new_index_bytes(&before, head).await?),
            ..Amounts::default()
        };
        let now = self.store.clock().now_ms();
        ledger.add(path, amounts, now);
        ledger.saw(path, head, now);
        Ok(landed)
    }

    /// Commits `results`, and moves `head` there. Where that is lost to a writer, they are carried.
    async fn commit(&self, head: &mut Dataset, results: Vec<RewriteResult>) -> Result<Landed> {
        let mut prepared = None;
        let lost = match self.commit_above(head, &results, &mut prepared).await {
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
        let (landed, at) = carrier.land(results, prepared, lost).await?;
        tracing::debug!(op = %self.run.op, target = %self.run.target, dropped = landed.dropped, "carried what was deleted meanwhile");
        *head = at;
        Ok(landed)
    }

    /// Commits `results` above `head`. Where indexes have to follow, the version is rehearsed and they are asked first; it is
    /// `prepared` then, whatever becomes of the commit.
    async fn commit_above(
        &self,
        head: &mut Dataset,
        results: &[RewriteResult],
        prepared: &mut Option<Prepared>,
    ) -> Result<()> {
        let remap = Arc::new(DatasetIndexRemapperOptions::default());
        let rewritten = ids_of(results.iter().flat_map(|r| &r.original_fragments));
        let followers = followers(head, &rewritten).await?;
        if followers.is_empty() {
            commit_compaction(head, results.to_vec(), remap, self.options).await?;
            return Ok(());
        }
        // Lance would find out once all indexes have followed.
        let now = self.store.head_of(self.run).await?;
        let fragments: Vec<u64> = rewritten.iter().map(u64::from).collect();
        if most_changed(head.manifest(), now.manifest(), &fragments) == Change::Deletions {
            return Err(Error::conflict("rows of it were deleted meanwhile"));
        }
        let mut staged = self.store.rehearsal(self.run, head, None).await?;
        commit_compaction(&mut staged, results.to_vec(), remap, self.options).await?;
        // One that lets fragment-reuse indexes follow is not carried.
        if !self.options.defer_index_remap {
            *prepared = Some(Prepared::of(&staged, results).await?);
        }
        let before = base_of(&staged, head).await?;
        prove_followers(&before, &staged, &followers).await?;
        commit_rehearsed(head, &staged).await
    }
}

/// Copying pages takes a third of the memory of decoding them, at the same speed, but it keeps the pages as they
/// are: many pages of a few rows stay many and large. Fragments of this size have pages worth keeping.
const COPY_FROM_BYTES: u64 = 16 << 20;

fn least(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    a.into_iter().chain(b).min()
}

fn mode(task: &Task) -> CompactionMode {
    if task.bytes / task.fragments.len().max(1) as u64 >= COPY_FROM_BYTES {
        CompactionMode::TryBinaryCopy
    } else {
        CompactionMode::Reencode
    }
}

/// How often a task is rewritten when its rows are wider than the sample said. The first time says how wide they are.
const WIDTHS_TRIED: usize = 3;

fn options(limits: &CompactionLimits, plan: &CompactionPlan, run: &Run<'_>) -> CompactionOptions {
    let bounds = plan.bounds.as_ref().unwrap_or(&limits.bounds);
    CompactionOptions {
        defer_index_remap: plan.defers_remap,
        max_bytes_per_file: usize::try_from(bounds.max_output_bytes).ok(),
        num_threads: Some(1),
        transaction_properties: Some(Arc::new(run.properties.clone())),
        ..plan.settings.options()
    }
}
