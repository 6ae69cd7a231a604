//! The agent's rounds: claims that nobody works on, then what is incoming.

use super::attempt::{Attempt, Origin, Verdict};
use super::hand::Hand;
use super::health::{Health, answer_of};
use super::spool::{Claim, Spool, shown};
use super::waiting::{Cause, MAX_PAUSE, Waiting, brief, gives_up, pause};
use super::{Left, Options, Summary, spool_error};
use crate::metrics::{BatchResult, Metrics};
use crate::systemd;
use crate::watch::watch_local;
use squire_engine::error::{Error, ErrorKind, Result, caught};
use squire_engine::store::Store;
use squire_failpoints::{Seam, hit};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

/// How many claims are resumed before it is the turn of what is incoming: enough that orphans of a crash are not left
/// behind, few enough that those which have to wait hold nobody up.
const RESUMED_PER_ROUND: usize = 16;

pub(super) struct Agent {
    pub(super) store: Arc<Store>,
    pub(super) spool: Spool,
    pub(super) metrics: Metrics,
    pub(super) options: Options,
    pub(super) hand: Hand,
    pub(super) health: Arc<Health>,
}

/// What has to wait, in `claimed` and in `incoming`.
#[derive(Default)]
struct Memory {
    claims: Waiting,
    incoming: Waiting,
}

/// How a round went.
struct Round {
    /// Entries that were committed or rejected.
    ended: usize,
    /// Whether claims were left for the next round.
    more: bool,
}

impl Agent {
    pub(super) async fn work(&self, cancel: &CancellationToken) -> Result<Summary> {
        let wake = Arc::new(Notify::new());
        let incoming = [self.spool.incoming_dir().to_path_buf()];
        let _files = watch_local(&incoming, |_| true, wake.clone());
        let mut memory = Memory::default();
        while !cancel.is_cancelled() {
            let round = self.round(&mut memory, cancel).await;
            self.health.turned();
            self.health
                .shows_waiting(memory.claims.list(), memory.incoming.list());
            let (failures, news) = self.health.round(round.as_ref().map(|round| round.ended));
            match round {
                Err(e) if e.kind() == ErrorKind::FormatTooNew => return Err(e),
                Err(error) => {
                    let error = brief(&error);
                    if news {
                        tracing::warn!(error, "the spool or the store fails; it is tried again");
                    }
                    if self.options.until_empty && gives_up(failures) {
                        return self.summary(&memory, Some(error));
                    }
                }
                Ok(Round { ended, more }) => {
                    if !more && self.health.resumed() {
                        systemd::ready();
                        tracing::info!("what earlier agents left is resumed");
                    }
                    if ended > 0 {
                        continue;
                    }
                    let tried = memory.claims.all_tried() && memory.incoming.all_tried();
                    if self.options.until_empty && tried && !more {
                        break;
                    }
                }
            }
            let unit = self.options.config.poll_interval;
            let nap = pause(unit, failures).min(MAX_PAUSE);
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = wake.notified() => {}
                () = self.store.clock().sleep(self.store.jitter(nap)) => {}
            }
        }
        self.summary(&memory, None)
    }

    async fn round(&self, memory: &mut Memory, cancel: &CancellationToken) -> Result<Round> {
        let mut round = self.resume_claims(&mut memory.claims, cancel).await?;
        let listing = block_in_place(|| self.spool.list_incoming()).map_err(spool_error)?;
        let now = UNIX_EPOCH + Duration::from_millis(self.store.clock().now_ms());
        let oldest = listing.oldest_age(now).unwrap_or_default();
        self.metrics
            .agent
            .spool(listing.entries.len(), oldest.as_secs_f64());
        self.health.shows_ignored(listing.ignored);
        let names: HashSet<&OsStr> = listing.entries.iter().map(|e| e.name.as_os_str()).collect();
        memory.incoming.keep(&names);
        for entry in &listing.entries {
            if cancel.is_cancelled() {
                return Ok(round);
            }
            let now = self.store.clock().monotonic();
            if !memory.incoming.is_due(&entry.name, now) {
                continue;
            }
            let Some(claim) = self.claim(&entry.name, &mut memory.incoming)? else {
                continue;
            };
            hit(Seam::AgentAfterClaim)?;
            round.ended += self.work_on(claim, Origin::New, &mut memory.claims).await?;
        }
        Ok(round)
    }

    /// Resumes orphans and claims that have waited.
    async fn resume_claims(
        &self,
        waiting: &mut Waiting,
        cancel: &CancellationToken,
    ) -> Result<Round> {
        let claims = block_in_place(|| self.spool.claims()).map_err(spool_error)?;
        waiting.keep(&claims.iter().filter_map(|(_, e)| e.as_deref()).collect());
        let (mut round, mut resumed) = (
            Round {
                ended: 0,
                more: false,
            },
            0,
        );
        for (operation, entry) in &claims {
            let entry = entry.clone().unwrap_or_default();
            let now = self.store.clock().monotonic();
            if cancel.is_cancelled() || !waiting.is_due(&entry, now) {
                continue;
            }
            if resumed == RESUMED_PER_ROUND {
                round.more = true;
                break;
            }
            let claim = block_in_place(|| self.spool.resume(*operation)).map_err(spool_error)?;
            let Some(claim) = claim else { continue };
            resumed += 1;
            let waited = waiting.has(&entry);
            let origin = Origin::Resumed { waited };
            round.ended += self.work_on(claim, origin, waiting).await?;
        }
        Ok(round)
    }

    /// Claims one entry; `None` if others were faster, or if it cannot be moved.
    fn claim(&self, name: &OsString, unclaimable: &mut Waiting) -> Result<Option<Claim>> {
        let op = self.store.new_op();
        let claimed = block_in_place(|| self.spool.claim(op.into(), &[name]));
        let claimed = claimed.map_err(spool_error)?;
        if claimed.claim.is_some() {
            unclaimable.remove(name);
        }
        for error in claimed.refused {
            let why = (Cause::Unclaimable, brief(&error));
            let unit = self.options.config.poll_interval;
            let now = self.store.clock().monotonic();
            if unclaimable.add(name, why, now, unit) {
                let error = brief(&error);
                tracing::warn!(error, "this entry cannot be claimed; it is tried again");
            }
        }
        Ok(claimed.claim)
    }

    /// One attempt on `claim`. One that has to wait is let go, so that the others go on; if the store itself fails, that
    /// ends the round. Returns how many entries it ended.
    async fn work_on(&self, claim: Claim, origin: Origin, waiting: &mut Waiting) -> Result<usize> {
        self.hand.take_up(claim);
        self.health.begins();
        let attempt = Attempt {
            store: &self.store,
            spool: &self.spool,
            hand: &self.hand,
            health: &self.health,
            metrics: &self.metrics,
            config: &self.options.config,
        };
        let attempt = caught("this batch", attempt.run(origin));
        let verdict = self.health.within(attempt).await;
        let mut claim = self.hand.put_down()?;
        let entry = claim.entries().first().cloned().unwrap_or_default();
        let now = self.store.clock().monotonic();
        let unit = self.options.config.poll_interval;
        let error = match verdict {
            Ok(Verdict::Finished) => {
                block_in_place(|| self.spool.finish(claim)).map_err(spool_error)?;
                waiting.remove(&entry);
                return Ok(1);
            }
            Ok(Verdict::Rejected(reason)) => {
                self.reject(claim, &entry, &reason)?;
                waiting.remove(&entry);
                return Ok(1);
            }
            Ok(Verdict::PutOff(times)) => {
                waiting.put_off(&entry, times, now, unit);
                let entry = shown(&entry);
                tracing::warn!(
                    entry,
                    times,
                    "agents died over this entry; it comes after the others"
                );
                return Ok(0);
            }
            Err(error) => error,
        };
        block_in_place(|| self.spool.answered(&mut claim)).map_err(spool_error)?;
        drop(claim);
        if error.kind() == ErrorKind::FormatTooNew {
            return Err(error);
        }
        let (cause, reason) = (Cause::of(&error), brief(&error));
        if waiting.add(&entry, (cause, reason.clone()), now, unit) {
            let (entry, cause) = (shown(&entry), cause.as_str());
            tracing::warn!(entry, cause, reason, "this batch has to wait");
        }
        // One table or file that cannot be read stops only what needs it.
        if cause == Cause::Storage && !matches!(answer_of(&self.store).await, Some(Ok(()))) {
            return Err(error);
        }
        Ok(0)
    }

    fn reject(&self, mut claim: Claim, entry: &OsStr, reason: &Error) -> Result<()> {
        let from = claim.path(entry);
        let mut told = String::new();
        block_in_place(|| {
            self.spool.reject(&mut claim, entry, |to| {
                told = reason_for(reason, &from, to);
                told.clone()
            })?;
            self.spool.finish(claim)
        })
        .map_err(spool_error)?;
        tracing::info!(entry = shown(entry), reason = told, "batch rejected");
        self.metrics.agent.batch_finished(BatchResult::Rejected);
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
        if let (Some(failed), Ok(listing)) = (&failed, &listing) {
            let names = listing.entries.iter().map(|entry| &entry.name);
            left.extend(names.filter(|n| !memory.incoming.has(n)).map(|n| Left {
                entry: shown(n),
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
