//! One attempt on the claim in hand: what became of its operation decides, then its entries are read and committed.

use super::group::{Group, Member};
use super::hand::Hand;
use super::health::Health;
use super::spool::{Claim, Contents, ContentsError, Spool};
use super::spool_error;
use super::waiting::{Cause, QUIET, brief};
use crate::config::AgentConfig;
use crate::formats::Meter;
use crate::input::load;
use crate::input::streamed::{Changes, Standing};
use crate::input::{Place, shown};
use crate::metrics::{BatchResult, Metrics};
use squire_engine::commit::{AttemptHook, Committed, Repeated, TableWrite, Together};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::{OpId, TableName};
use squire_engine::recovery::OperationOutcome;
use squire_engine::store::{Snapshot, Store};
use squire_failpoints::{Seam, hit};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::block_in_place;

/// Into how many smaller groups a group is taken apart. Two steps find one among 256, at the cost of some 30 commits.
const PARTS: usize = 16;

/// Where a claim comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Claimed just now: its operation has never begun.
    New,
    /// Parted from another claim just now.
    Part,
    /// Its last attempt is over, or its owner is dead; and whether this process has had it wait.
    Resumed { waited: bool },
}

/// How an attempt came to its end; an error is a reason to wait.
pub(super) enum Verdict {
    /// Its rows are visible in these tables, as the files of each entry were read.
    Committed(Vec<Contents>, Vec<TableName>),
    /// Its rows were visible before; or nothing is in it, because a crash left nothing or all of it was parted.
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
        let ended = match origin {
            Origin::New => None,
            Origin::Part => self.begin(false)?,
            Origin::Resumed { waited } => self.resume(waited).await?,
        };
        if let Some(verdict) = ended {
            return Ok(verdict);
        }
        match self.read().await? {
            Read::Group(group) => self.commit(group).await,
            Read::Ended(verdict) => Ok(verdict),
        }
    }

    /// Asks what became of the operation that the claim is named by. `None`: nothing, so that another may begin.
    async fn resume(&self, waited: bool) -> Result<Option<Verdict>> {
        let op = self.hand.with(|claim| OpId::from(claim.operation()))?;
        self.store.settle_dead(op).await?;
        match self.store.outcome_of(op).await? {
            OperationOutcome::Committed { .. } => {
                for entry in self.hand.entries()? {
                    self.tell_committed_before(&entry, op);
                }
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
        let entries = self.hand.entries()?;
        let too_often = died >= self.config.max_attempts;
        if entries.len() > 1 && (died > 1 || too_often || waited) {
            // One death is mostly none of the input's; what is behind more of them, or keeps a group waiting, shows in parts.
            self.take_apart(&entries)?;
            return Ok(Some(Verdict::Finished));
        }
        if too_often {
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

    /// Looks in smaller groups for what is wrong with one of `entries`, at last in each of them alone.
    fn take_apart(&self, entries: &[OsString]) -> Result<()> {
        let most = entries.len().div_ceil(PARTS);
        let parts: Vec<&[OsString]> = entries.chunks(most.max(1)).collect();
        self.part(&parts)
    }

    /// Gives each of `parts` of the claim a claim of its own.
    fn part(&self, parts: &[&[OsString]]) -> Result<()> {
        block_in_place(|| {
            for entries in parts {
                let parted = self.parted(entries)?;
                self.hand.lay_aside(parted);
            }
            Ok(())
        })
    }

    fn parted(&self, entries: &[OsString]) -> Result<Claim> {
        let operation = self.store.new_op().into();
        let part = |claim: &mut Claim| self.spool.part(claim, entries, operation);
        self.hand.with(part)?.map_err(spool_error)
    }

    /// The same for one entry that somebody still writes to: it must rest.
    fn part_changed(&self, entry: &OsString) -> Result<()> {
        block_in_place(|| {
            let mut parted = self.parted(std::slice::from_ref(entry))?;
            let told = self.spool.tell_changed(&mut parted);
            self.hand.lay_aside(parted);
            told.map_err(spool_error)
        })
    }

    /// Reads the entries in the order of their names, as many as go together; the others are parted from the claim. What
    /// is wrong with the only one is its verdict.
    async fn read(&self) -> Result<Read> {
        let entries = self.hand.entries()?;
        let snapshot = self.store.load().await?;
        let mut group = Group::default();
        for (index, entry) in entries.iter().enumerate() {
            self.health.begins();
            let failed = match self.read_one(entry, &snapshot).await {
                Ok(member) => match group.take(member, self.config) {
                    Ok(()) => continue,
                    Err(_) => {
                        self.part(&[&entries[index..]])?;
                        break;
                    }
                },
                Err(failed) => failed,
            };
            let alone = entries.len() == 1;
            match failed {
                Failed::Bad(e) if alone => return Ok(Read::Ended(Verdict::Rejected(e))),
                Failed::Bad(_) => self.part(&[std::slice::from_ref(entry)])?,
                Failed::Passing(e) if e.kind() == ErrorKind::Cancelled && !alone => {
                    self.part_changed(entry)?;
                }
                Failed::Passing(e) if Cause::of(&e) == Cause::Unreadable && !alone => {
                    self.part(&[std::slice::from_ref(entry)])?;
                }
                Failed::Passing(e) => return Err(e),
            }
        }
        // Empty: what a crash left after the last entry was moved on, or all of it was parted.
        match group.members() {
            [] => Ok(Read::Ended(Verdict::Finished)),
            [..] => Ok(Read::Group(group)),
        }
    }

    async fn read_one(&self, entry: &OsString, snapshot: &Snapshot) -> Result<Member, Failed> {
        let path = self.hand.with(|claim| claim.path(entry))?;
        let before = match block_in_place(|| Contents::of(&path)) {
            Ok(contents) => contents,
            Err(e) if may_pass(&e) => {
                let e = Error::new(ErrorKind::Storage, e.to_string());
                return Err(Failed::Passing(e.with(Place::unreadable(&path))));
            }
            Err(e) => return Err(Failed::Bad(Error::invalid(e.to_string()))),
        };
        self.rests(&before)?;
        let standing = Some(self.standing(entry, &path));
        let on = (self.store, snapshot);
        let loaded = load::load_on(on, &path, self.config, (standing, &Meter::default())).await;
        // Whatever was read of a file that somebody writes to, be it an error, is not what it is going to be.
        still_as(&before, &path)?;
        match loaded {
            Ok(loaded) => Ok(Member::new(entry.clone(), before, loaded)),
            Err(e) if load::is_bad_input(&e) => Err(Failed::Bad(e)),
            Err(e) => Err(Failed::Passing(e)),
        }
    }

    /// How an entry that is streamed is found once its claim has another name. Reading it is progress.
    fn standing(&self, entry: &OsString, path: &Path) -> Standing {
        let (hand, name, health) = (self.hand.clone(), entry.clone(), self.health.clone());
        Standing {
            was: path.to_path_buf(),
            now: Arc::new(move || hand.with(|claim| claim.path(&name))),
            step: Arc::new(move || health.begins()),
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

    /// Commits what was read; batches that were committed before are parted, and the others go on.
    async fn commit(&self, mut group: Group) -> Result<Verdict> {
        loop {
            let mut requests = group.requests();
            // Those of the first count for all.
            if let Some(first) = requests.first_mut() {
                first.retries = self.config.conflict_retries;
                first.before_attempt = Some(self.before_attempt(&group));
            }
            let clock = self.store.clock();
            let started = clock.monotonic();
            let committed = self.store.commit_together(&requests).await;
            let took = clock.monotonic().saturating_sub(started);
            let seconds = &self.metrics.agent.commit_seconds;
            seconds.observe(took.as_secs_f64());
            let repeated = match committed {
                Ok(Together::Committed(committed)) => {
                    hit(Seam::AgentAfterCommit)?;
                    self.tell(&committed, &group);
                    let tables = committed.tables.into_iter().map(|t| t.table);
                    return Ok(Verdict::Committed(group.into_contents(), tables.collect()));
                }
                Ok(Together::Repeated(repeated)) => repeated,
                Err(e) => return self.lost(&group, e),
            };
            if let [only] = group.members() {
                return self.answer(&only.entry, repeated);
            }
            let indexes: BTreeSet<usize> = repeated.iter().map(|r| r.index).collect();
            for index in &indexes {
                self.part(&[std::slice::from_ref(&group.members()[*index].entry)])?;
            }
            group = group.without(&indexes);
            if group.members().is_empty() {
                return Ok(Verdict::Finished);
            }
        }
    }

    /// What is done before an attempt puts anything: the claim gets its name, and the files are still what was read.
    fn before_attempt(&self, group: &Group) -> AttemptHook {
        let (hand, spool, health) = (self.hand.clone(), self.spool.clone(), self.health.clone());
        let members = group.members().iter();
        let seen: Vec<(OsString, Contents)> = members
            .map(|m| (m.entry.clone(), m.contents.clone()))
            .collect();
        Arc::new(move |op| {
            block_in_place(|| hand.with(|claim| spool.retry_as(claim, op.into())))?
                .map_err(spool_error)?;
            hit(Seam::AgentBeforeCommit)?;
            health.begins();
            for (entry, contents) in &seen {
                let path = hand.with(|claim| claim.path(entry))?;
                still_as(contents, &path)?;
            }
            Ok(())
        })
    }

    /// The only batch was committed before.
    fn answer(&self, entry: &OsString, repeated: Vec<Repeated>) -> Result<Verdict> {
        let repeated = repeated.into_iter().next();
        let repeated = repeated.ok_or_else(|| Error::internal("no batch was repeated"))?;
        hit(Seam::AgentAfterCommit)?;
        match repeated.answer {
            Ok(op) => {
                self.tell_committed_before(entry, op);
                Ok(Verdict::Finished)
            }
            Err(e) => Ok(Verdict::Rejected(e)),
        }
    }

    /// Nothing of the group was committed, or that is not known. What can be one member's fault is looked for in smaller groups.
    fn lost(&self, group: &Group, error: Error) -> Result<Verdict> {
        let members = group.members();
        if let [only] = members
            && load::is_bad_input(&error)
        {
            // A stream was read after its entry was looked at.
            let path = self.hand.with(|claim| claim.path(&only.entry))?;
            still_as(&only.contents, &path)?;
            return Ok(Verdict::Rejected(error));
        }
        match error.kind() {
            // It may be committed yet, or nothing can be done for now.
            ErrorKind::Unknown | ErrorKind::Storage | ErrorKind::FormatTooNew => return Err(error),
            _ if members.len() == 1 => return Err(error),
            _ => {}
        }
        let mut rest = Vec::with_capacity(members.len());
        for member in members {
            let path = self.hand.with(|claim| claim.path(&member.entry))?;
            if still_as(&member.contents, &path).is_ok() {
                rest.push(member.entry.clone());
            } else {
                self.part_changed(&member.entry)?;
            }
        }
        tracing::debug!(
            batches = members.len(),
            error = brief(&error),
            "this group is taken apart"
        );
        self.take_apart(&rest)?;
        Ok(Verdict::Finished)
    }

    fn tell(&self, committed: &Committed, group: &Group) {
        let agent = &self.metrics.agent;
        agent.commits.inc();
        let retries = committed.attempts.saturating_sub(1);
        agent.conflicts.inc_by(u64::from(retries));
        let batches = group.members().len();
        for member in group.members() {
            let rows = match group.members() {
                // A stream is counted when it is staged.
                [only] if only.request.streams() => {
                    committed.rows.values().map(|rows| rows.inserted).sum()
                }
                _ => member.rows as u64,
            };
            agent.batch_finished(BatchResult::Committed);
            agent.rows.inc_by(rows);
            let written =
                |table: &TableName| member.request.writes.iter().any(|w| w.table == *table);
            let versions = committed.tables.iter().filter(|t| written(&t.table));
            let versions = versions.map(|t| format!("{}@{}", t.table, t.to));
            let tables = versions.collect::<Vec<_>>().join(" ");
            let (entry, operation) = (shown(&member.entry), committed.op);
            tracing::info!(entry, tables, rows, %operation, batches, "batch committed");
            for TableWrite { table, write } in &member.request.writes {
                for alteration in write.alterations() {
                    tracing::info!(%table, %alteration, "the table's columns changed with a batch");
                }
            }
            for change in member.coerced.iter().flat_map(Changes::all) {
                let (table, file) = (change.table.as_str(), change.file);
                tracing::info!(table, file, "{}", change.what);
            }
        }
    }

    fn tell_committed_before(&self, entry: &OsString, op: OpId) {
        if self.told {
            return;
        }
        let agent = &self.metrics.agent;
        agent.batch_finished(BatchResult::AlreadyCommitted);
        let entry = shown(entry);
        tracing::info!(entry, operation = %op, "batch was committed before");
    }
}

/// What reading the claim came to.
enum Read {
    /// These batches go together.
    Group(Group),
    /// It ends without a commit.
    Ended(Verdict),
}

/// Why an entry could not be read.
enum Failed {
    /// It is wrong and will stay wrong.
    Bad(Error),
    /// A later look may go better.
    Passing(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Passing(error)
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

/// Whether a later look may go better.
fn may_pass(error: &ContentsError) -> bool {
    match error {
        ContentsError::Link { .. } | ContentsError::Special { .. } => false,
        ContentsError::Io { source, .. } => !load::never_opens(source),
    }
}
