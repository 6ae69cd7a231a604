//! The agent's rounds: claims that nobody works on, then what is incoming.

use super::attempt::{Attempt, Origin, Verdict};
use super::followed::Followed;
use super::hand::Hand;
use super::health::{Health, answer_of, why_ignored};
use super::held::Held;
use super::reason::{Reason, Rejection};
use super::retention::Retention;
use super::spool::{Claim, Claimed, EntryId, Found, Spool, SpoolError};
use super::waiting::{Cause, MAX_PAUSE, Waiting, brief, gives_up, pause};
use super::{Left, Options, Summary, spool_error};
use crate::input::{Named, shown};
use crate::metrics::{BatchResult, Metrics};
use crate::systemd;
use crate::watch::{Depth, watch_local};
use squire_engine::error::{Error, ErrorKind, Result, caught};
use squire_engine::store::Store;
use squire_failpoints::{Seam, hit};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

/// How many claims are resumed before, and how many that have waited after what is incoming: enough that orphans of a crash are not
/// left behind, few enough that those which have to wait hold nobody up.
const RESUMED_PER_ROUND: usize = 16;

/// What is said of an entry that the engine broke on so often that it is not read again.
const TRIED_OFTEN: &str = "each of agent.max_attempts attempts ended like this; please report it, and move the file back into \
                           incoming to have it tried again";

pub(super) struct Agent {
    pub(super) store: Arc<Store>,
    pub(super) spool: Spool,
    pub(super) metrics: Metrics,
    pub(super) options: Options,
    pub(super) hand: Hand,
    pub(super) health: Arc<Health>,
}

/// What has to wait, in `claimed` and in `incoming`, and what was committed a moment ago.
#[derive(Default)]
struct Memory {
    claims: Waiting,
    incoming: Waiting,
    held: Held,
    followed: Followed,
    retention: Retention,
}

/// Which claims are resumed: what failed before comes after what is new.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Orphans,
    Waited,
}

/// How a round went.
struct Round {
    /// Entries that were committed or rejected.
    ended: usize,
    /// Whether claims were left for the next round.
    more: bool,
    /// Whether another agent was faster, so that what was listed says little of what is left.
    overtaken: bool,
}

impl Agent {
    pub(super) async fn work(&self, cancel: &CancellationToken) -> Result<Summary> {
        let wake = Arc::new(Notify::new());
        let watch = || {
            let incoming = [self.spool.incoming_dir().to_path_buf()];
            watch_local(&incoming, Depth::Recursive, |_| true, wake.clone())
        };
        let mut files = watch();
        let mut memory = Memory::default();
        while !cancel.is_cancelled() {
            let round = self.round(&mut memory, cancel).await;
            self.health.turned();
            self.health
                .shows_waiting(memory.claims.list(), memory.incoming.list());
            self.health.shows_held(memory.held.list());
            let (failures, news) = self.health.round(round.as_ref().map(|round| round.ended));
            match round {
                Err(e) if e.kind() == ErrorKind::FormatTooNew => return Err(e),
                Err(error) => {
                    let error = brief(&error);
                    if news {
                        tracing::warn!(error, "the spool or the store fails; it is tried again");
                    }
                    if self.options.until_empty && gives_up(failures) {
                        memory.followed.look(Duration::MAX);
                        return self.summary(&memory, Some(error));
                    }
                    // The others are the agent's to make; a spool that is not there at all may not be mounted.
                    if self.spool.is_in_part() && Spool::open(self.health.root()).is_ok() {
                        drop(std::mem::replace(&mut files, watch()));
                    }
                }
                Ok(Round {
                    ended,
                    more,
                    overtaken,
                }) => {
                    if !more && self.health.resumed() {
                        systemd::ready();
                        tracing::info!("what earlier agents left is resumed");
                    }
                    if ended > 0 || overtaken {
                        continue;
                    }
                    let tried = memory.claims.all_tried() && memory.incoming.all_tried();
                    let paced = memory.held.rests(self.store.clock().monotonic()).is_some();
                    if self.options.until_empty && tried && !more && !paced {
                        break;
                    }
                }
            }
            // With nothing more to commit, nothing else takes away what is left of the last commit.
            self.store.tidy().await;
            let unit = self.options.config.poll_interval;
            let rests = memory.held.rests(self.store.clock().monotonic());
            let nap = pause(unit, failures).min(rests.unwrap_or(MAX_PAUSE));
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = wake.notified() => {}
                () = self.store.clock().sleep(self.store.jitter(nap)) => {}
            }
        }
        self.store.tidy().await;
        memory.followed.look(Duration::MAX);
        self.summary(&memory, None)
    }

    async fn round(&self, memory: &mut Memory, cancel: &CancellationToken) -> Result<Round> {
        let now = self.store.clock().monotonic();
        block_in_place(|| {
            memory.followed.look(now);
            let clock = UNIX_EPOCH + Duration::from_millis(self.store.clock().now_ms());
            memory
                .retention
                .look(&self.spool, &self.options.config, now, clock);
        });
        let mut round = self.resume_claims(memory, Turn::Orphans, cancel).await?;
        self.take(memory, &mut round, cancel).await?;
        let waited = self.resume_claims(memory, Turn::Waited, cancel).await?;
        round.ended += waited.ended;
        round.more |= waited.more;
        Ok(round)
    }

    /// Claims what is incoming and works it off, but for what is for tables that are held.
    async fn take(
        &self,
        memory: &mut Memory,
        round: &mut Round,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let listing = block_in_place(|| self.spool.list_incoming()).map_err(spool_error)?;
        let clock = UNIX_EPOCH + Duration::from_millis(self.store.clock().now_ms());
        let oldest = listing.oldest_age(clock).unwrap_or_default();
        self.metrics
            .agent
            .spool(listing.entries.len(), oldest.as_secs_f64());
        self.health.shows_lag(listing.lag(clock));
        self.health.shows_ignored(listing.ignored);
        let due = self.ready(&listing.entries, &mut memory.incoming, clock);
        for run in self.runs(&due) {
            // What was left behind comes before what reads rows; it is listed again.
            if cancel.is_cancelled() || (round.overtaken && run.is_alone) {
                return Ok(());
            }
            let names = self.not_held(run.names, &mut memory.held);
            if names.is_empty() {
                continue;
            }
            let claimed = self.claim(&names, &mut memory.incoming)?;
            round.overtaken |= claimed.overtaken;
            let Some(claim) = claimed.claim else {
                continue;
            };
            hit(Seam::AgentAfterClaim)?;
            round.ended += self.work_off(claim, Origin::New, memory, cancel).await?;
        }
        Ok(())
    }

    /// Resumes claims that nobody works on: orphans, or those that have waited.
    async fn resume_claims(
        &self,
        memory: &mut Memory,
        turn: Turn,
        cancel: &CancellationToken,
    ) -> Result<Round> {
        let claims = block_in_place(|| self.spool.claims()).map_err(spool_error)?;
        let keys: Vec<Vec<EntryId>> = claims.iter().map(keys_of).collect();
        let there = keys.iter().flatten().cloned().collect();
        memory.claims.keep(&there);
        if turn == Turn::Orphans {
            memory.held.round(self.store.clock().monotonic(), &there);
        }
        let (mut round, mut resumed) = (
            Round {
                ended: 0,
                more: false,
                overtaken: false,
            },
            0,
        );
        for (found, keys) in claims.into_iter().zip(&keys) {
            let now = self.store.clock().monotonic();
            let due = keys.iter().all(|key| memory.claims.is_due(key, now));
            let waited = keys.iter().any(|key| memory.claims.has(key));
            if cancel.is_cancelled() || !due || waited != (turn == Turn::Waited) {
                continue;
            }
            if resumed == RESUMED_PER_ROUND {
                round.more = true;
                break;
            }
            let operation = found.operation;
            let claim = found
                .entries
                .and_then(|_| block_in_place(|| self.spool.resume(operation)));
            let claim = match claim {
                Ok(Some(claim)) => claim,
                Ok(None) => continue,
                // Whatever is wrong with this one, the others go on.
                Err(e) => {
                    let why = (Cause::Unclaimable, brief(&spool_error(e)));
                    self.has_to_wait(keys, why, &mut memory.claims);
                    continue;
                }
            };
            resumed += 1;
            let origin = Origin::Resumed { waited };
            round.ended += self.work_off(claim, origin, memory, cancel).await?;
        }
        Ok(round)
    }

    /// The entries of a claim have to wait, which is told once.
    fn has_to_wait(&self, keys: &[EntryId], why: (Cause, String), waiting: &mut Waiting) {
        let now = self.store.clock().monotonic();
        let unit = self.options.config.poll_interval;
        let mut news = keys
            .iter()
            .filter(|k| waiting.add(k, why.clone(), now, unit));
        let (first, others) = (news.next().map(|key| shown(&key.name)), news.count());
        if let Some(entry) = first {
            let (cause, reason) = (why.0.as_str(), why.1);
            tracing::warn!(entry, others, cause, reason, "this batch has to wait");
        }
    }

    /// Claims some entries together.
    fn claim(&self, names: &[OsString], unclaimable: &mut Waiting) -> Result<Claimed> {
        let op = self.store.new_op();
        let claimed = block_in_place(|| self.spool.claim(op.into(), names));
        let claimed = claimed.map_err(spool_error)?;
        for name in claimed.claim.iter().flat_map(Claim::entries) {
            unclaimable.remove(&EntryId::named(name));
        }
        for (name, error) in &claimed.refused {
            self.leave(name, (Cause::Unclaimable, brief(error)), unclaimable);
        }
        Ok(claimed)
    }

    /// Works on `claim`, then on what was parted from it, which the next agent resumes if this one stops. Returns how many
    /// entries it ended.
    async fn work_off(
        &self,
        claim: Claim,
        origin: Origin,
        memory: &mut Memory,
        cancel: &CancellationToken,
    ) -> Result<usize> {
        let mut ended = 0;
        let mut next = VecDeque::from([claim]);
        let mut origin = Some(origin);
        while let Some(claim) = next.pop_front() {
            let origin = origin.take().unwrap_or(Origin::Part);
            ended += self.work_on(claim, origin, memory, &mut next).await?;
            if cancel.is_cancelled() {
                break;
            }
        }
        Ok(ended)
    }

    /// One attempt on `claim`. One that has to wait is let go, so that the others go on; if the store itself fails, that
    /// ends the round. What was parted from it comes before what is `next`. Returns how many entries it ended.
    async fn work_on(
        &self,
        claim: Claim,
        origin: Origin,
        memory: &mut Memory,
        next: &mut VecDeque<Claim>,
    ) -> Result<usize> {
        let entry = claim.entries().first().cloned().unwrap_or_default();
        let keys = claim.ids();
        let first = keys.first();
        self.hand.take_up(claim);
        self.health.begins();
        let told = first.and_then(|key| memory.claims.cause_of(key)) == Some(Cause::Stuck);
        let verdict = self.attempt(origin, told).await;
        let (mut claim, parts) = self.hand.put_down()?;
        parts
            .into_iter()
            .rev()
            .for_each(|part| next.push_front(part));
        let waiting = &mut memory.claims;
        // Others were parted from it.
        let ended: Vec<EntryId> = keys
            .iter()
            .filter(|key| claim.entries().contains(&key.name))
            .cloned()
            .collect();
        let moved = match verdict {
            Ok(Verdict::Committed(read, tables)) => {
                self.pace(&tables, &mut memory.held).await;
                self.finish(claim).map(|done| {
                    let now = self.store.clock().monotonic();
                    for (path, read) in done.into_iter().zip(read) {
                        memory.followed.add(path, read, now);
                    }
                })
            }
            Ok(Verdict::Finished) => self.finish(claim).map(drop),
            Ok(Verdict::Rejected(reason)) => match self.reject(&mut claim, &entry, &reason) {
                Ok(()) => self.finish(claim).map(drop),
                // Nobody died over it: it is its place that cannot be written.
                Err(e) => block_in_place(|| self.spool.answered(&mut claim)).and(Err(e)),
            },
            Err(broken) if self.is_broken_by(&claim, &broken) => self
                .reject(&mut claim, &entry, &broken.advice(TRIED_OFTEN))
                .and_then(|()| self.finish(claim).map(drop)),
            Ok(Verdict::GivenUp(reason)) => self
                .reject(&mut claim, &entry, &reason)
                .and_then(|()| self.finish(claim).map(drop)),
            Ok(Verdict::PutOff(times)) => {
                let now = self.store.clock().monotonic();
                let unit = self.options.config.poll_interval;
                keys.iter()
                    .for_each(|key| waiting.put_off(key, times, now, unit));
                let entry = shown(&entry);
                tracing::warn!(
                    entry,
                    times,
                    "agents died over this entry; it comes after the others"
                );
                return Ok(0);
            }
            Err(error) => return self.let_go(claim, error, memory).await,
        };
        match moved {
            Ok(()) => {
                for key in &ended {
                    memory.claims.remove(key);
                    memory.held.ended(key);
                }
                Ok(ended.len())
            }
            Err(e) => {
                let why = (Cause::Stuck, brief(&spool_error(e)));
                self.has_to_wait(&ended, why, waiting);
                Ok(0)
            }
        }
    }

    /// The attempt on the claim in hand; it comes to an end, whatever happens in it.
    async fn attempt(&self, origin: Origin, told: bool) -> Result<Verdict> {
        let attempt = Attempt {
            store: &self.store,
            spool: &self.spool,
            hand: &self.hand,
            health: &self.health,
            metrics: &self.metrics,
            config: &self.options.config,
            told,
        };
        let attempt = caught("this batch", attempt.run(origin));
        self.health.within(attempt).await
    }

    /// Whether it is the only entry of a claim on which the engine breaks, time after time: a panic counts like a death.
    fn is_broken_by(&self, claim: &Claim, error: &Error) -> bool {
        error.kind() == ErrorKind::Internal
            && claim.entries().len() == 1
            && claim.unanswered() >= self.options.config.max_attempts
    }

    /// Lets a claim go that has to wait. If it is the store that fails, so does the round.
    async fn let_go(&self, mut claim: Claim, error: Error, memory: &mut Memory) -> Result<usize> {
        let cause = Cause::of(&error);
        let noted = block_in_place(|| {
            if cause == Cause::Unfinished {
                self.spool.tell_changed(&mut claim)?;
            }
            match error.kind() {
                ErrorKind::Internal => Ok(()),
                _ => self.spool.answered(&mut claim),
            }
        });
        if error.kind() == ErrorKind::FormatTooNew {
            return Err(error);
        }
        let waiting = &mut memory.claims;
        let keys = claim.ids();
        self.has_to_wait(&keys, (cause, brief(&error)), waiting);
        self.hold_blocked(&claim, (cause, &brief(&error)), &mut memory.held);
        let clock = self.store.clock();
        let record = keys
            .first()
            .and_then(|key| waiting.record(key, clock.monotonic(), clock.now_ms()));
        if let Some(record) = record {
            block_in_place(|| self.spool.tell_waiting(&claim, &record));
        }
        drop(claim);
        if let Err(e) = noted {
            tracing::debug!(error = brief(&e), "a claim's records cannot be written");
        }
        // One table or file that cannot be read stops only what needs it.
        if cause == Cause::Storage && !matches!(answer_of(&self.store).await, Some(Ok(()))) {
            return Err(error);
        }
        Ok(0)
    }

    /// Moves a claim that is committed to `done`; gives where its entries lie now.
    fn finish(&self, claim: Claim) -> Result<Vec<PathBuf>, SpoolError> {
        block_in_place(|| self.spool.finish(claim))
    }

    fn reject(&self, claim: &mut Claim, entry: &OsStr, reason: &Error) -> Result<(), SpoolError> {
        let from = claim.path(entry);
        let mut told = String::new();
        let (operation, attempts) = (claim.operation().to_string(), claim.unanswered());
        block_in_place(|| {
            self.spool.reject(claim, entry, |to| {
                told = reason_for(reason, &from, to);
                let rejection = Rejection {
                    entry: shown(entry),
                    operation,
                    attempts,
                    time_ms: self.store.clock().now_ms(),
                    text: &told,
                };
                let record = Reason::new(reason, rejection).to_json();
                [told.clone(), record]
            })
        })?;
        tracing::info!(entry = shown(entry), reason = told, "batch rejected");
        self.metrics.agent.batch_finished(BatchResult::Rejected);
        self.health.rejected(shown(entry), told);
        Ok(())
    }

    fn summary(&self, memory: &Memory, failed: Option<String>) -> Result<Summary> {
        let waits = memory
            .claims
            .list()
            .into_iter()
            .chain(memory.incoming.list());
        let mut left: Vec<Left> = waits
            .map(|(entry, wait)| Left {
                entry,
                cause: wait.cause.as_str(),
                reason: wait.reason,
            })
            .collect();
        let listing = self.spool.list_incoming();
        if let Ok(listing) = &listing {
            left.extend(listing.ignored.iter().filter_map(left_by_name));
        }
        if let (None, Ok(listing)) = (&failed, &listing) {
            left.extend(
                listing
                    .entries
                    .iter()
                    .filter_map(|e| self.left_for_its_table(&e.name, &memory.held)),
            );
        }
        if let (Some(failed), Ok(listing)) = (&failed, &listing) {
            let names = listing.entries.iter().map(|entry| &entry.name);
            let is_new = |name: &&OsString| !memory.incoming.has(&EntryId::named(*name));
            left.extend(names.filter(is_new).map(|name| Left {
                entry: shown(name),
                cause: Cause::Storage.as_str(),
                reason: failed.clone(),
            }));
        }
        let agent = &self.metrics.agent;
        Ok(Summary {
            committed: agent.finished(BatchResult::Committed),
            already_committed: agent.finished(BatchResult::AlreadyCommitted),
            rejected: agent.finished(BatchResult::Rejected),
            rows: agent.rows.get(),
            ignored: listing.map_or(0, |listing| listing.ignored.len()),
            left,
            failed,
        })
    }
}

/// What a claim's waiting is kept by: its entries, or where it stands, which is the name of no entry.
fn keys_of(found: &Found) -> Vec<EntryId> {
    match &found.entries {
        Ok(entries) if !entries.is_empty() => entries.clone(),
        Ok(_) | Err(_) => vec![EntryId::named(format!("claimed/{}", found.operation))],
    }
}

/// What stays in `incoming` for its name, unless it was never meant as input.
fn left_by_name((name, named): &(OsString, Named)) -> Option<Left> {
    let cause = match named {
        Named::Unfinished if !name.as_bytes().starts_with(b".") => Cause::Unfinished,
        Named::Unknown => Cause::Unclaimable,
        Named::Unfinished | Named::Data | Named::Beside => return None,
    };
    Some(Left {
        entry: shown(name),
        cause: cause.as_str(),
        reason: why_ignored(*named).to_owned(),
    })
}

/// What a rejected entry's reason says: short, and about the place where it lies now.
fn reason_for(error: &Error, from: &Path, to: &Path) -> String {
    let name = shown(to.file_name().unwrap_or_default());
    let now = format!("rejected/{name}");
    let mut text = error.to_string();
    let read = crate::formats::Shown(from).to_string();
    for was in [from.display().to_string(), shown(from), read] {
        text = text.replace(&was, &now);
    }
    if !text.contains(&now) {
        text = format!("{now}: {text}");
    }
    brief(&text)
}
