//! A group: the batches of one claim that are committed together, as they were read.

use super::spool::Contents;
use crate::config::AgentConfig;
use crate::input::load::Loaded;
use crate::input::streamed::Changes;
use squire_engine::commit::CommitRequest;
use squire_engine::ids::TableName;
use std::collections::BTreeSet;
use std::ffi::OsString;

/// Tables that one group writes at most. Each costs its own fragment and version before the publish; a single batch may
/// write more.
const MAX_TABLES: usize = 16;

/// One batch, as it was read.
pub(super) struct Member {
    pub(super) entry: OsString,
    /// What its files were when they were read.
    pub(super) contents: Contents,
    pub(super) request: CommitRequest,
    pub(super) rows: usize,
    /// What was changed of its values, because it was asked for.
    pub(super) coerced: Vec<Changes>,
    bytes: usize,
}

impl Member {
    pub(super) fn new(entry: OsString, contents: Contents, loaded: Loaded) -> Self {
        let Loaded {
            request,
            rows,
            coerced,
        } = loaded;
        let bytes = request.writes.iter().map(|w| w.write.bytes()).sum();
        Self {
            entry,
            contents,
            request,
            rows,
            coerced,
            bytes,
        }
    }
}

/// The members in the order of their names. The first may be anything; others are taken while all only append and the
/// limits hold.
#[derive(Default)]
pub(super) struct Group {
    members: Vec<Member>,
    rows: usize,
    bytes: usize,
    tables: BTreeSet<TableName>,
    ids: BTreeSet<String>,
}

impl Group {
    /// Takes `member`, or gives it back: then it begins the next group.
    pub(super) fn take(&mut self, member: Member, config: &AgentConfig) -> Result<(), Box<Member>> {
        if !self.has_room_for(&member, config) {
            return Err(Box::new(member));
        }
        self.rows += member.rows;
        self.bytes += member.bytes;
        let tables = member.request.writes.iter().map(|w| w.table.clone());
        self.tables.extend(tables);
        self.ids.extend(member.request.batch.clone());
        self.members.push(member);
        Ok(())
    }

    fn has_room_for(&self, member: &Member, config: &AgentConfig) -> bool {
        let Some(first) = self.members.first() else {
            return true;
        };
        let other = |w: &&squire_engine::commit::TableWrite| !self.tables.contains(&w.table);
        let more = member.request.writes.iter().filter(other).count();
        let repeats = |id: &String| self.ids.contains(id);
        first.request.only_appends()
            && member.request.only_appends()
            && !member.request.batch.as_ref().is_some_and(repeats)
            && self.members.len() < config.group_batches
            && self.rows + member.rows <= config.group_rows
            && (self.bytes + member.bytes) as u64 <= config.group_bytes
            && self.tables.len() + more <= MAX_TABLES
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn into_contents(self) -> Vec<Contents> {
        self.members.into_iter().map(|m| m.contents).collect()
    }

    /// Without the members at `indexes`.
    pub(super) fn without(mut self, indexes: &BTreeSet<usize>) -> Self {
        let members = std::mem::take(&mut self.members).into_iter().enumerate();
        let stay = members.filter(|(index, _)| !indexes.contains(index));
        self.members = stay.map(|(_, member)| member).collect();
        self
    }

    /// What is committed: `retries` and the hook of the first one count for all.
    pub(super) fn requests(&self) -> Vec<CommitRequest> {
        self.members.iter().map(|m| m.request.clone()).collect()
    }
}
