//! Compaction: rewrites small and half-deleted fragments, in batches of bounded tasks. What was rewritten is read back
//! before it is committed. `rewrite` is one task; `elsewhere` has tasks executed by others.

use super::Target;
use super::carrier::{Carrier, Landed};
use super::carry::holds;
use super::comparison::coverage;
use super::elsewhere::{Executor, Lending};
use super::index_proof::prove_followers;
use super::listed::{followers, ids_of, listed_indexes, new_index_bytes};
use super::plan::CompactionPlan;
use super::rehearsal::slot_after;
use super::rewrite::Rewriter;
use super::run::{MaintenanceReport, Run, Work};
use super::tasks::{Task, TaskBounds, fitting};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Amounts;
use crate::oversight::Oversight;
use crate::proof::Verify;
use crate::recovery::Skipped;
use crate::store::Store;
use lance::Dataset;
use lance::dataset::index::DatasetIndexRemapperOptions;
use lance::dataset::optimize::{CompactionOptions, RewriteResult, commit_compaction};
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

struct Compaction<'a> {
    limits: &'a CompactionLimits,
    /// Who executes its tasks; this process, where there is none.
    executor: Option<&'a dyn Executor>,
}

impl Store {
    /// Compacts `target` once: plans on HEAD, rewrites, commits batch by batch, publishes the clean prefix.
    pub async fn compact(
        &self,
        target: &Target,
        limits: &CompactionLimits,
        oversight: &Oversight,
    ) -> Result<MaintenanceReport> {
        let executor = None;
        let work = Compaction { limits, executor };
        self.maintain(target, &work, oversight).await
    }

    /// The same; `executor` has its tasks executed, and this process commits what comes of them.
    ///
    /// # Errors
    /// Those of [`Store::compact`], and of the workers.
    pub async fn compact_elsewhere(
        &self,
        target: &Target,
        limits: &CompactionLimits,
        executor: &dyn Executor,
        oversight: &Oversight,
    ) -> Result<MaintenanceReport> {
        let executor = Some(executor);
        let work = Compaction { limits, executor };
        self.maintain(target, &work, oversight).await
    }

    /// Those of `tasks` whose fragments others have left in `head`, with the same indexes over all of them.
    pub(super) async fn standing(&self, head: &Dataset, tasks: &[Task]) -> Result<Vec<Task>> {
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
        let plan = store.plan_anew(&head, &self.limits.bounds).await?;
        report.skipped = plan.left_alone.clone().map(Skipped::Unsupported);
        let ahead = plan.tasks.iter().map(|task| task.bytes).sum();
        run.oversight.planned("bytes", ahead);
        hit(Seam::MaintainAfterPlan)?;
        let options = options(self.limits, &plan, run);
        let rewriting = Rewriting {
            limits: self.limits,
            options: &options,
            run,
            store,
        };
        let lending = self
            .executor
            .and_then(|executor| Lending::of(&rewriting, executor, &head));
        let dropped = match lending {
            Some(lending) => lending.work(&mut head, plan.tasks, report).await?,
            None => rewriting.work(&mut head, plan.tasks, report).await?,
        };
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
#[derive(Clone, Copy)]
pub(super) struct Rewriting<'a> {
    pub(super) limits: &'a CompactionLimits,
    pub(super) options: &'a CompactionOptions,
    pub(super) run: &'a Run<'a>,
    pub(super) store: &'a Store,
}

impl Rewriting<'_> {
    /// Rewrites `left` in this process and commits it batch by batch, from `head` on. Returns how many were overtaken.
    async fn work(
        &self,
        head: &mut Dataset,
        mut left: Vec<Task>,
        report: &mut MaintenanceReport,
    ) -> Result<usize> {
        let mut dropped = 0;
        // Whether others have committed since it was planned.
        let mut others = false;
        while !left.is_empty() {
            self.run.check_cancelled()?;
            let fitting = fitting(&left, &self.limits.bounds, self.limits.tasks_per_commit);
            let mut batch: Vec<Task> = left.drain(..fitting).collect();
            if others {
                batch = self.store.standing(head, &batch).await?;
            }
            let Batch {
                results,
                begun,
                overtaken,
                interrupted,
            } = self.batch(head, &batch, report).await?;
            dropped += overtaken;
            left.splice(..0, batch.drain(begun..));
            hit(Seam::MaintainAfterRewrite)?;
            if results.is_empty() {
                interrupted?;
                continue;
            }
            let before = head.manifest().version;
            dropped += self.commit_batch(head, results, None, report).await?;
            others |= head.manifest().version > before + 1;
            interrupted?;
        }
        Ok(dropped)
    }

    /// Commits `results`, which were read of `base` where that is not `head`, and moves `head` there. Returns how many of
    /// them were given up; those that cannot replace what they should are reported.
    pub(super) async fn commit_batch(
        &self,
        head: &mut Dataset,
        results: Vec<RewriteResult>,
        base: Option<&Dataset>,
        report: &mut MaintenanceReport,
    ) -> Result<usize> {
        let landed = match self.land(head, results, base, report).await {
            Ok(landed) => landed,
            Err(e) if e.kind() == ErrorKind::Unfit => {
                report.unfit.push(format!("{}: {e}", self.run.target));
                return Ok(0);
            }
            Err(e) => return Err(e),
        };
        self.run.oversight.step();
        report.fragments_removed += landed.fragments_removed;
        report.fragments_added += landed.fragments_added;
        report.bytes_rewritten += landed.bytes;
        report.carried += u32::from(landed.carried);
        hit(Seam::MaintainAfterCompact)?;
        if conflict_injected(Seam::MaintainInjectConflict) {
            return Err(Error::conflict("injected after the commit"));
        }
        Ok(landed.dropped)
    }

    /// That the rewrite of `task` cannot replace it.
    pub(super) fn unfit(&self, task: &Task, why: impl std::fmt::Display) -> String {
        let (first, last) = (task.fragments.first(), task.fragments.last());
        format!(
            "{}: fragments {} to {} stay as they are: {why}",
            self.run.target,
            first.copied().unwrap_or(0),
            last.copied().unwrap_or(0),
        )
    }

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
        let rewriter = Rewriter {
            store: self.store,
            oversight: run.oversight,
            options: self.options,
            verify: self.limits.verify,
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
            match run.unless_given_up(rewriter.rewrite(head, task)).await {
                Ok(result) => done.results.push(result),
                Err(e) if e.kind() == ErrorKind::Cancelled => {
                    done.interrupted = Err(e);
                    return Ok(done);
                }
                Err(e) if e.kind() == ErrorKind::Unfit => report.unfit.push(self.unfit(task, e)),
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

    /// Commits `results`, moves `head` there, and counts what that wrote.
    async fn land(
        &self,
        head: &mut Dataset,
        results: Vec<RewriteResult>,
        base: Option<&Dataset>,
        report: &mut MaintenanceReport,
    ) -> Result<Landed> {
        let (ledger, path) = (self.store.ledger(), self.run.path());
        ledger.expect(path, &results);
        let before = head.clone();
        let landed = match base {
            None => self.commit(head, results).await?,
            Some(base) => self.carry(head, base, results).await?,
        };
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

    /// Commits `results`, and moves `head` there.
    async fn commit(&self, head: &mut Dataset, results: Vec<RewriteResult>) -> Result<Landed> {
        // What earlier rewrites moved is found by addresses that a carried rewrite would not have.
        if self.options.defer_index_remap || coverage(head).await?.is_none() {
            return self.commit_uncarried(head, results).await;
        }
        let base = head.clone();
        self.carry(head, &base, results).await
    }

    /// Commits `results`, which were read of `base`, whatever was deleted meanwhile; moves `head` to the version that has them.
    async fn carry(
        &self,
        head: &mut Dataset,
        base: &Dataset,
        results: Vec<RewriteResult>,
    ) -> Result<Landed> {
        let carrier = Carrier {
            store: self.store,
            run: self.run,
            options: self.options,
            base,
        };
        let (landed, at) = carrier.land(results).await?;
        tracing::debug!(op = %self.run.op, target = %self.run.target, carried = landed.carried, dropped = landed.dropped, "committed rewrites");
        *head = at;
        Ok(landed)
    }

    /// Commits `results` as Lance does, above whatever leaves their fragments alone. Where indexes have to follow, that is
    /// rehearsed and they are asked first.
    async fn commit_uncarried(
        &self,
        head: &mut Dataset,
        results: Vec<RewriteResult>,
    ) -> Result<Landed> {
        let landed = Landed::of(&results);
        let remap = Arc::new(DatasetIndexRemapperOptions::default());
        let rewritten = ids_of(results.iter().flat_map(|r| &r.original_fragments));
        let followers = followers(head, &rewritten).await?;
        if !followers.is_empty() {
            let slot = Some(slot_after(head));
            let mut staged = self.store.rehearsal(self.run, head, slot).await?;
            commit_compaction(&mut staged, results.clone(), remap.clone(), self.options).await?;
            prove_followers(self.run.target, head, &staged, &followers).await?;
        }
        commit_compaction(head, results, remap, self.options).await?;
        Ok(landed)
    }
}

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
