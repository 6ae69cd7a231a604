//! The run's side: hands tasks out, and takes in what comes of them.
//!
//! All tasks of an attempt are of one version, the one that was planned on. HEAD moves on while they are executed, by the run's
//! own commits too, so what is taken in is first compared with HEAD: where nothing happened to its fragments, it is as if it had
//! been read there; where rows were deleted, it is carried; anything else is given up. Workers are not held up by a commit.

use super::envelope::{Envelope, FORMAT, lance_release};
use super::outcome::{Made, Outcome};
use super::{Ended, Executor, Handed};
use crate::error::{Error, ErrorKind, Result};
use crate::maintenance::carry::{Change, comparable, holds, most_changed};
use crate::maintenance::compact::Rewriting;
use crate::maintenance::run::MaintenanceReport;
use crate::maintenance::tasks::Task;
use crate::store::{RecordsAt, transaction_id};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, RewriteResult};
use object_store::ObjectStoreExt;
use squire_failpoints::{Seam, hit};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// Workers that may die over one task: one that takes each of them with it will take the next one, too.
const WORKERS_TRIED: u32 = 3;

/// A task that came back.
#[derive(Debug)]
struct Back {
    task: Task,
    what: What,
}

#[derive(Debug)]
enum What {
    Rewritten(RewriteResult),
    /// It cannot be replaced, and why.
    Unfit(String),
    /// Writers changed its fragments before it was handed out.
    Overtaken,
    Failed(Error),
}

/// The tasks of an attempt that others execute.
pub(in crate::maintenance) struct Lending<'a> {
    rewriting: Rewriting<'a>,
    executor: &'a dyn Executor,
    /// The version that is rewritten.
    base: Dataset,
    records: RecordsAt,
    /// Nobody has a use any more for what is in flight.
    stop: CancellationToken,
}

/// What was taken in and is not committed yet.
#[derive(Default)]
struct Ready {
    results: Vec<(Task, RewriteResult)>,
    bytes: u64,
    /// When the first of them came.
    since: Option<Duration>,
}

impl<'a> Lending<'a> {
    /// `None` where others cannot execute tasks of this run: it is recorded where they do not see it, or nowhere, or earlier
    /// rewrites of its table are not followed yet.
    pub(in crate::maintenance) fn of(
        rewriting: &Rewriting<'a>,
        executor: &'a dyn Executor,
        head: &Dataset,
    ) -> Option<Self> {
        let (run, store) = (rewriting.run, rewriting.store);
        let records = run.journal.records();
        let records = records.filter(|_| !rewriting.options.defer_index_remap);
        let Some(records) = records.and_then(|records| store.records_at(records)) else {
            tracing::info!(op = %run.op, target = %run.target, "its tasks are executed in this process: no worker could be told of this run");
            return None;
        };
        Some(Self {
            rewriting: *rewriting,
            executor,
            base: head.clone(),
            records,
            stop: CancellationToken::new(),
        })
    }

    /// Has `tasks` executed, and commits what comes of them, from `head` on. Returns how many were overtaken by writers.
    ///
    /// # Errors
    /// The first that a task or a commit failed with; what others had finished until then is committed.
    pub(in crate::maintenance) async fn work(
        &self,
        head: &mut Dataset,
        tasks: Vec<Task>,
        report: &mut MaintenanceReport,
    ) -> Result<usize> {
        let all = tasks.len();
        self.rewriting.run.oversight.lends(all);
        let (to, from) = unbounded_channel();
        let taking = async {
            let taken = self.take_in(head, from, report).await;
            // Nothing is stopped where all is done.
            self.stop.cancel();
            taken
        };
        let ((), taken) = tokio::join!(self.hand_out(tasks, to), taking);
        let (dropped, back) = taken?;
        match back == all {
            true => Ok(dropped),
            false => self.rewriting.run.check_cancelled().map(|()| dropped),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_cancelled() || self.rewriting.run.oversight.is_cancelled()
    }

    /// Hands out as many at a time as the executor takes. Where one fails, no further one is begun.
    async fn hand_out(&self, tasks: Vec<Task>, to: UnboundedSender<Back>) {
        let bounds = self.executor.bounds();
        let (most, most_bytes) = (bounds.at_once, bounds.bytes_at_once);
        let mut waiting = VecDeque::from(tasks);
        let mut flying = FuturesUnordered::new();
        let mut bytes = 0_u64;
        loop {
            while let Some(next) = waiting.front() {
                let fits = flying.len() < most && bytes.saturating_add(next.bytes) <= most_bytes;
                if !fits && !flying.is_empty() {
                    break;
                }
                let Some(task) = waiting.pop_front().filter(|_| !self.is_stopped()) else {
                    waiting.clear();
                    break;
                };
                bytes += task.bytes;
                flying.push(self.one(task));
            }
            let Some(back) = flying.next().await else {
                return;
            };
            bytes = bytes.saturating_sub(back.task.bytes);
            self.tell(&back);
            if matches!(back.what, What::Failed(_)) {
                waiting.clear();
            }
            if to.send(back).is_err() {
                waiting.clear();
            }
        }
    }

    /// Counts a task that came back, and says so.
    fn tell(&self, back: &Back) {
        let run = self.rewriting.run;
        run.oversight.is_back();
        let crew = run.oversight.crew();
        let (done, of, bytes) = (crew.done, crew.tasks, back.task.bytes);
        let came = match &back.what {
            What::Rewritten(_) => "rewritten",
            What::Unfit(_) => "unfit",
            What::Overtaken => "overtaken",
            What::Failed(_) => "failed",
        };
        tracing::info!(op = %run.op, target = %run.target, done, of, bytes, came, "a task came back");
    }

    async fn one(&self, task: Task) -> Back {
        let what = match self.executed(&task).await {
            Ok(what) => what,
            Err(e) => What::Failed(e),
        };
        Back { task, what }
    }

    /// One task, by as many workers as it takes.
    async fn executed(&self, task: &Task) -> Result<What> {
        let Rewriting { run, store, .. } = self.rewriting;
        let head = store.head_of(run).await?;
        // What could not land is not rewritten.
        if !holds(self.base.manifest(), head.manifest(), &task.fragments) {
            return Ok(What::Overtaken);
        }
        let mut envelope = self.envelope(task, run.lent.next()).await?;
        let mut last = String::new();
        for _ in 0..WORKERS_TRIED {
            envelope.attempt = store.new_op();
            let (op, attempt) = (run.op, envelope.attempt);
            tracing::debug!(%op, target = %run.target, %attempt, task = envelope.task, bytes = task.bytes, "handed out");
            let handed = Handed {
                envelope,
                oversight: run.oversight.clone(),
                stop: self.stop.clone(),
            };
            let ended = self.executor.run(&handed).await;
            envelope = handed.envelope;
            tracing::debug!(%op, target = %run.target, %attempt, task = envelope.task, ?ended, "came back");
            if matches!(ended, Ended::Lost(_)) {
                run.lent.stray();
            }
            // Whatever is said of it: what stands there counts.
            if let Some(what) = self.result(&envelope).await? {
                return Ok(what);
            }
            last = match ended {
                Ended::Stopped => return Err(Error::new(ErrorKind::Cancelled, "cancelled")),
                Ended::Away(why) => return Err(Error::new(ErrorKind::Storage, why)),
                Ended::Exited(code, said) if code != 0 => return Err(of_exit(code, said)),
                Ended::Exited(..) => String::from("it put no result"),
                Ended::Died(why) | Ended::Lost(why) => why,
            };
            if !run.is_licensed().await? {
                return Err(Error::conflict("the record of this run is gone"));
            }
        }
        Ok(What::Unfit(format!(
            "{WORKERS_TRIED} workers died over it: {last}"
        )))
    }

    async fn envelope(&self, task: &Task, number: u32) -> Result<Envelope> {
        let Rewriting {
            limits,
            options,
            run,
            store,
        } = self.rewriting;
        let version = &self.base.manifest_location().path;
        let table = run.journal.table();
        Ok(Envelope {
            format: FORMAT,
            lance: lance_release(),
            location: store.uri().to_owned(),
            records: self.records,
            table: table.name.clone(),
            path: table.path.clone(),
            base: table.base,
            read_version: self.base.manifest().version,
            transaction: transaction_id(self.base.manifest()),
            e_tag: store.objects.inner.head(version).await?.e_tag,
            run: run.op,
            // Another one for each attempt.
            attempt: run.op,
            task: number,
            work: task.clone(),
            // A worker commits nothing, so it has no need of the marks.
            options: CompactionOptions {
                transaction_properties: None,
                ..options.clone()
            },
            verify: limits.verify,
            memory: self.executor.bounds().memory,
            bytes_per_second: run
                .oversight
                .rate()
                .map(|rate| (rate / self.executor.bounds().at_once.max(1) as u64).max(1)),
        })
    }

    /// What stands there of the task.
    async fn result(&self, of: &Envelope) -> Result<Option<What>> {
        let Some(records) = self.rewriting.run.journal.records() else {
            return Ok(None);
        };
        let Some(bytes) = records.result_of(of.run, of.task).await? else {
            return Ok(None);
        };
        Ok(Some(match Outcome::parse(&bytes, of)?.made {
            Made::Rewritten(result) => What::Rewritten(result),
            Made::Unfit(why) => What::Unfit(why),
        }))
    }

    /// Takes in what comes, and commits it when enough has, or the first of it has waited for long. Returns how many tasks were
    /// overtaken, and how many came back.
    async fn take_in(
        &self,
        head: &mut Dataset,
        mut from: UnboundedReceiver<Back>,
        report: &mut MaintenanceReport,
    ) -> Result<(usize, usize)> {
        let (mut ready, mut failed) = (Ready::default(), None);
        let (mut dropped, mut back) = (0, 0);
        let mut ended = false;
        while !ended {
            let came = tokio::select! {
                biased;
                came = from.recv() => came.map_or_else(|| { ended = true; None }, Some),
                () = self.due(&ready) => None,
            };
            if let Some(Back { task, what }) = came {
                back += 1;
                match what {
                    What::Rewritten(result) => self.keep(&mut ready, task, result),
                    What::Unfit(why) => report.unfit.push(self.rewriting.unfit(&task, why)),
                    What::Overtaken => dropped += 1,
                    What::Failed(e) => drop(failed.get_or_insert(e)),
                }
            }
            if !ready.results.is_empty() && (ended || self.is_due(&ready)) {
                hit(Seam::MaintainAfterRewrite)?;
                let results = std::mem::take(&mut ready).results;
                dropped += self.commit(head, results, report).await?;
            }
        }
        match failed {
            Some(e) => Err(e),
            None => Ok((dropped, back)),
        }
    }

    fn keep(&self, ready: &mut Ready, task: Task, result: RewriteResult) {
        self.rewriting.run.oversight.did(task.bytes);
        let now = self.rewriting.store.clock().monotonic();
        ready.since.get_or_insert(now);
        ready.bytes = ready.bytes.saturating_add(task.bytes);
        ready.results.push((task, result));
    }

    /// How long the first of them may wait still; `None` when there is none.
    fn patience(&self, ready: &Ready) -> Option<Duration> {
        let now = self.rewriting.store.clock().monotonic();
        let waited = now.saturating_sub(ready.since?);
        Some(self.rewriting.limits.commit_after.saturating_sub(waited))
    }

    async fn due(&self, ready: &Ready) {
        match self.patience(ready) {
            Some(left) => self.rewriting.store.clock().sleep(left).await,
            None => std::future::pending().await,
        }
    }

    /// A commit has as many tasks as one of this process's own, or one of each worker.
    fn is_due(&self, ready: &Ready) -> bool {
        let limits = self.rewriting.limits;
        let bounds = self.executor.bounds();
        let most = limits.tasks_per_commit.max(bounds.at_once);
        let most_bytes = limits.bounds.max_input_bytes;
        let most_bytes = most_bytes.max(bounds.bytes_at_once);
        ready.results.len() >= most
            || ready.bytes >= most_bytes
            || self.patience(ready).is_some_and(|left| left.is_zero())
    }

    /// Commits what still holds of `results`, and moves `head` there. Returns how many were given up.
    async fn commit(
        &self,
        head: &mut Dataset,
        results: Vec<(Task, RewriteResult)>,
        report: &mut MaintenanceReport,
    ) -> Result<usize> {
        let offered = results.len();
        let (mut same, mut touched) = (Vec::new(), Vec::new());
        for (task, result) in results {
            match self.change(head, &task) {
                Change::None => same.push((task, result)),
                Change::Deletions => touched.push(result),
                Change::Other => {}
            }
        }
        if head.manifest().version > self.base.manifest().version {
            // Others may have committed below HEAD: indexes may cover parts of a task now.
            let tasks: Vec<Task> = same.iter().map(|(task, _)| task.clone()).collect();
            let standing = self.rewriting.store.standing(head, &tasks).await?;
            same.retain(|(task, _)| standing.contains(task));
        }
        let mut dropped = offered - same.len() - touched.len();
        let read_version = head.manifest().version;
        // As if they had been read there.
        let same = same.into_iter().map(|(_, result)| RewriteResult {
            read_version,
            ..result
        });
        let same: Vec<RewriteResult> = same.collect();
        if !same.is_empty() {
            dropped += self
                .rewriting
                .commit_batch(head, same, None, report)
                .await?;
        }
        if !touched.is_empty() {
            let count = touched.len();
            let base = Some(&self.base);
            match self
                .rewriting
                .commit_batch(head, touched, base, report)
                .await
            {
                Ok(given_up) => dropped += given_up,
                Err(e) if e.kind() == ErrorKind::Conflict => dropped += count,
                Err(e) => return Err(e),
            }
        }
        Ok(dropped)
    }

    /// What happened to the fragments of `task` between the version that was rewritten and `head`.
    fn change(&self, head: &Dataset, task: &Task) -> Change {
        let (was, is) = (self.base.manifest(), head.manifest());
        match was.version == is.version {
            true => Change::None,
            false if comparable(was, is) => most_changed(was, is, &task.fragments),
            false => Change::Other,
        }
    }
}

/// What the exit code of a worker means that put no result; see the design for the codes.
fn of_exit(code: i32, said: String) -> Error {
    let kind = match code {
        2 | 3 => ErrorKind::Refused,
        75 => ErrorKind::Conflict,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, said).context("a worker")
}
