//! Which entries of `incoming` are ready to be claimed: nobody writes to them, they have rested, and they may be read. The others
//! stay where their producers look for them.

use super::rounds::Agent;
use super::spool::{Entry, EntryId};
use super::waiting::{Cause, Waiting, brief};
use crate::input::shown;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;
use tokio::task::block_in_place;

/// Entries that follow each other and are claimed together.
pub(super) struct Run {
    pub(super) names: Vec<OsString>,
    /// It is one that goes with no other: it may read rows.
    pub(super) is_alone: bool,
}

impl Agent {
    /// Those that may be claimed now; of the others `waiting` says why they stay. `clock` is that of the files.
    pub(super) fn ready<'e>(
        &self,
        entries: &'e [Entry],
        waiting: &mut Waiting,
        clock: SystemTime,
    ) -> Vec<&'e Entry> {
        let names = entries.iter().map(|e| EntryId::named(&e.name));
        waiting.keep(&names.collect());
        let now = self.store.clock().monotonic();
        let mut ready: Vec<&Entry> = entries.iter().collect();
        ready.retain(|entry| waiting.is_due(&EntryId::named(&entry.name), now));
        // One look for all of them; none where nothing is to be done.
        let open = match ready.as_slice() {
            [] => HashSet::new(),
            [..] => block_in_place(|| self.spool.being_written()),
        };
        ready.retain(|Entry { name, .. }| {
            if open.contains(name) {
                let reason = "it is still being written: a process has it open; rename finished files into incoming";
                self.leave(name, (Cause::Unfinished, reason.to_owned()), waiting);
            } else if !block_in_place(|| self.spool.rests(name, self.options.config.settle, clock)) {
                self.let_settle(name, waiting);
            } else if let Err(error) = block_in_place(|| self.spool.may_read(name)) {
                self.leave(name, (Cause::Unreadable, brief(&error)), waiting);
            } else {
                return true;
            }
            false
        });
        ready
    }

    /// Leaves an entry in `incoming`, which is told once.
    pub(super) fn leave(&self, name: &OsStr, why: (Cause, String), waiting: &mut Waiting) {
        let (cause, reason) = (why.0.as_str(), why.1.clone());
        let now = self.store.clock().monotonic();
        let unit = self.options.config.poll_interval;
        if waiting.add(&EntryId::named(name), why, now, unit) {
            let entry = shown(name);
            tracing::warn!(entry, cause, reason, "this entry has to wait");
        }
    }

    /// Leaves an entry in `incoming` that has not rested for `agent.settle`: every new one, so that it is no news.
    fn let_settle(&self, name: &OsStr, waiting: &mut Waiting) {
        let settle = self.options.config.settle;
        let reason = format!(
            "it was written to less than {settle:?} ago, and agent.settle has it rest so long"
        );
        let unit = self.options.config.poll_interval.max(settle);
        let now = self.store.clock().monotonic();
        waiting.add(
            &EntryId::named(name),
            (Cause::Unfinished, reason),
            now,
            unit,
        );
    }

    /// Entries in the order of their names, cut where the next one does not go with those before it. Only a guess: what an
    /// entry is shows when it is ours.
    pub(super) fn runs<'a>(&'a self, due: &'a [&'a Entry]) -> impl Iterator<Item = Run> + 'a {
        let config = &self.options.config;
        let mut due = due.iter().peekable();
        std::iter::from_fn(move || {
            let first = due.next()?;
            let (mut names, mut bytes) = (vec![first.name.clone()], first.bytes);
            let is_alone = !block_in_place(|| self.spool.goes_with_others(first));
            if is_alone {
                return Some(Run { names, is_alone });
            }
            while names.len() < config.group_batches
                && let Some(next) = due.next_if(|next| {
                    bytes.saturating_add(next.bytes) <= config.group_bytes
                        && block_in_place(|| self.spool.goes_with_others(next))
                })
            {
                names.push(next.name.clone());
                bytes += next.bytes;
            }
            Some(Run { names, is_alone })
        })
    }
}
