//! One attempt on the claim in hand: what became of its operation decides, then its entry is read and committed.

use super::hand::Hand;
use super::health::Health;
use super::load::{self, Loaded};
use super::reason::Place;
use super::spool::{Contents, ContentsError, Spool, shown};
use super::spool_error;
use super::waiting::QUIET;
use crate::config::AgentConfig;
use crate::metrics::{BatchResult, Metrics};
use squire_engine::commit::{Committed, Outcome};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::OpId;
use squire_engine::recovery::OperationOutcome;
use squire_engine::store::Store;
use squire_failpoints::{Seam, hit};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::block_in_place;

/// Where a claim comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Claimed just now: its operation has never begun.
    New,
    /// Its last attempt is over, or its owner is dead; and whether this process has had it wait.
    Resumed { waited: bool },
}

/// How an attempt came to its end; an error is a reason to wait.
pub(super) enum Verdict {
    /// Its rows are visible, as its files were read.
    Committed(Contents),
    /// Its rows were visible before; or a crash left nothing in it.
    Finished,
    /// The input is wrong and will stay wrong.
    Rejected(Error),
    /// So many agents in a row died over it that it is not read again.
    GivenUp(Error),
    /// So many agents in a row died over it: others come first.
    PutOff(u32),
}

/// What an attempt needs.
pub(super) struct Attempt<'a> {
    pub(super) store: &'a Store,
    pub(super) spool: &'a Spool,
    pub(super) hand: &'a Hand,
    pub(super) health: &'a Arc<Health>,
    pub(super) metrics: &'a Metrics,
    pub(super) config: &'a AgentConfig,
    /// Its end was told before, and then it could not be moved on.
    pub(super) told: bool,
}

impl Attempt<'_> {
    pub(super) async fn run(&self, origin: Origin) -> Result<Verdict> {
        if let Origin::Resumed { waited } = origin
            && let Some(verdict) = self.resume(waited).await?
        {
            return Ok(verdict);
        }
        self.commit().await
    }

    /// Asks what became of the operation that the claim is named by. `None`: nothing, so that another may begin.
    async fn resume(&self, waited: bool) -> Result<Option<Verdict>> {
        let op = self.hand.with(|claim| OpId::from(claim.operation()))?;
        self.store.settle_dead(op).await?;
        match self.store.outcome_of(op).await? {
            OperationOutcome::Committed { .. } => {
                self.tell_committed_before(op)?;
                return Ok(Some(Verdict::Finished));
            }
            OperationOutcome::Undecided => {
                let e = Error::new(ErrorKind::Unknown, "the operation is not decided yet");
                return Err(e.of(op));
            }
            // Its attempt came as far as its sidecar: the input could be read and staged, and did not kill anybody.
            OperationOutcome::Aborted => block_in_place(|| {
                self.hand.with(|claim| {
                    self.spool.answered(claim)?;
                    self.spool.retry_as(claim, self.store.new_op().into())
                })
            })?
            .map_err(spool_error)?,
            OperationOutcome::Absent => {}
        }
        self.begin(waited)
    }

    /// Counts the attempt, durably, before the input is touched; or gives up an input over which too many died.
    fn begin(&self, waited: bool) -> Result<Option<Verdict>> {
        let died = self.hand.with(|claim| claim.unanswered())?;
        if died >= self.config.max_attempts {
            return Ok(Some(Verdict::GivenUp(Error::invalid(format!(
                "{died} agents in a row died while they read it (out of memory or stack, or killed); it may be too large or \
                 damaged: split or repair it, or move it back into incoming to have it tried again"
            ))
            .with(Place::killed()))));
        }
        if died > 1 && !waited {
            return Ok(Some(Verdict::PutOff(died)));
        }
        block_in_place(|| {
            self.hand.with(|claim| {
                // An agent whose storage hangs will be killed for that, over whatever it has in hand.
                if self.health.hangs() {
                    self.spool.answered(claim)
                } else {
                    self.spool.begin(claim)
                }
            })
        })?
        .map_err(spool_error)?;
        hit(Seam::AgentAfterCount)?;
        Ok(None)
    }

    async fn commit(&self) -> Result<Verdict> {
        let (entries, path) = self.hand.entries()?;
        match entries.len() {
            // What a crash left after the last entry was moved on.
            0 => return Ok(Verdict::Finished),
            1 => {}
            n => {
                return Err(Error::internal(format!(
                    "the claim holds {n} entries, not one"
                )));
            }
        }
        let before = match block_in_place(|| Contents::of(&path)) {
            Ok(contents) => contents,
            Err(e) if may_pass(&e) => {
                return Err(Error::new(ErrorKind::Storage, "the spool failed").caused_by(e));
            }
            Err(e) => return Ok(Verdict::Rejected(Error::invalid(e.to_string()))),
        };
        self.rests(&before)?;
        let loaded = load::load(self.store, &path, self.config).await;
        // Whatever was read of a file that somebody writes to, be it an error, is not what it is going to be.
        still_as(&before, &path)?;
        match loaded {
            Ok(loaded) => self.commit_loaded(loaded, before).await,
            Err(e) if load::is_bad_input(&e) => Ok(Verdict::Rejected(e)),
            Err(e) => Err(e),
        }
    }

    /// Refuses files that changed while they were read before, unless they have rested since.
    fn rests(&self, contents: &Contents) -> Result<()> {
        let now = UNIX_EPOCH + Duration::from_millis(self.store.clock().now_ms());
        let rests = block_in_place(|| {
            self.hand.with(|claim| {
                let quiet = QUIET.max(self.config.settle);
                let at_rest = || contents.rests(quiet, now) && !self.spool.is_being_written(claim);
                !claim.changed() || at_rest()
            })
        })?;
        if rests { Ok(()) } else { Err(unfinished()) }
    }

    async fn commit_loaded(&self, loaded: Loaded, before: Contents) -> Result<Verdict> {
        let Loaded {
            mut request,
            rows,
            coerced,
        } = loaded;
        request.retries = self.config.conflict_retries;
        let (hand, spool, health) = (self.hand.clone(), self.spool.clone(), self.health.clone());
        let seen = before.clone();
        request.before_attempt = Some(Arc::new(move |op| {
            block_in_place(|| hand.with(|claim| spool.retry_as(claim, op.into())))?
                .map_err(spool_error)?;
            hit(Seam::AgentBeforeCommit)?;
            health.begins();
            let (_, path) = hand.entries()?;
            still_as(&seen, &path)
        }));
        let clock = self.store.clock();
        let started = clock.monotonic();
        let committed = self.store.commit(&request).await;
        let took = clock.monotonic().saturating_sub(started);
        let seconds = &self.metrics.agent.commit_seconds;
        seconds.observe(took.as_secs_f64());
        match committed {
            Ok(outcome) => {
                hit(Seam::AgentAfterCommit)?;
                match outcome {
                    Outcome::AlreadyCommitted(op) => {
                        self.tell_committed_before(op)?;
                        Ok(Verdict::Finished)
                    }
                    Outcome::Committed(committed) => {
                        self.tell(&committed, rows)?;
                        for change in &coerced {
                            let table = change.table.as_str();
                            tracing::info!(table, file = change.file, "{}", change.what);
                        }
                        Ok(Verdict::Committed(before))
                    }
                }
            }
            Err(e) if load::is_bad_input(&e) => Ok(Verdict::Rejected(e)),
            Err(e) => Err(e),
        }
    }

    fn tell(&self, committed: &Committed, rows: usize) -> Result<()> {
        let agent = &self.metrics.agent;
        agent.batch_finished(BatchResult::Committed);
        agent.commits.inc();
        agent.rows.inc_by(rows as u64);
        let retries = committed.attempts.saturating_sub(1);
        agent.conflicts.inc_by(u64::from(retries));
        let (entries, _) = self.hand.entries()?;
        let entry = entries.first().map(shown);
        let versions = committed
            .tables
            .iter()
            .map(|t| format!("{}@{}", t.table, t.to));
        let tables = versions.collect::<Vec<_>>().join(" ");
        tracing::info!(entry, tables, rows, operation = %committed.op, "batch committed");
        Ok(())
    }

    fn tell_committed_before(&self, op: OpId) -> Result<()> {
        if self.told {
            return Ok(());
        }
        let agent = &self.metrics.agent;
        agent.batch_finished(BatchResult::AlreadyCommitted);
        let (entries, _) = self.hand.entries()?;
        let entry = entries.first().map(shown);
        tracing::info!(entry, operation = %op, "batch was committed before");
        Ok(())
    }
}

/// Refuses an entry that is not what it was.
fn still_as(before: &Contents, path: &Path) -> Result<()> {
    match block_in_place(|| Contents::of(path)) {
        Ok(now) if now == *before => Ok(()),
        _ => Err(unfinished()),
    }
}

fn unfinished() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "it is still being written: it changed while it was read; rename finished files into incoming",
    )
}

/// Whether a later look may go better. A claimed entry is ours: when it cannot be opened now, it never can.
fn may_pass(error: &ContentsError) -> bool {
    match error {
        ContentsError::Link { .. } | ContentsError::Special { .. } => false,
        ContentsError::Io { source, .. } => !matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
        ),
    }
}
