//! Replay: what a policy would have done to a table that users wrote as they did, against what happened. Pure.
//!
//! 1. Versions come in order ([`Past`]). What users did is done to both worlds (`rows`); what maintenance did, to one.
//! 2. Behind each version, and whenever an index grows too old or a window opens, [`plan`] is asked, and what it wants is done at once.
//! 3. Both worlds are measured over time, so that a table which is dull for a minute costs less than one which is dull for a day.
//!
//! It knows what manifests say: stored bytes, not decoded ones, and nothing of failures, pauses, budgets and other tables.

mod rows;

use super::planning::{OperationKind, plan};
use crate::config::{Opening, Policy};
use jiff::Timestamp;
use rows::Rows;
use serde::Serialize;
use squire_engine::maintenance::tasks::{FragmentFacts, TaskBounds, candidates, plan_tasks};
use squire_engine::maintenance::{
    Account, Amounts, Change, CompactionPlan, IndexHealth, Past, PastVersion, TableHealth,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How often one moment may lead to another compaction; each takes fragments out of the candidates.
const MOST_AT_ONCE: usize = 64;

/// One run of maintenance, in one of the worlds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Run {
    pub(crate) at_ms: u64,
    /// The version that it followed, or was.
    pub(crate) version: u64,
    pub(crate) kind: OperationKind,
    /// Why, as `plan` says it; of what happened nothing is known but the version.
    pub(crate) reason: Option<String>,
    /// Fragments that it rewrote, and what became of them.
    pub(crate) fragments: u64,
    pub(crate) became: u64,
    /// Bytes of data files that it wrote.
    pub(crate) bytes: u64,
}

/// What one world comes to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) compactions: u64,
    pub(crate) fragments_rewritten: u64,
    pub(crate) bytes_rewritten: u64,
    pub(crate) reindexed: u64,
    /// Over time.
    pub(crate) fragments_mean: f64,
    pub(crate) fragments_most: u64,
    pub(crate) fragments_now: u64,
    /// Bytes that a scan reads for each byte of rows that are there, over time.
    pub(crate) read_amplification: f64,
    /// Rows that the index which lacks most does not cover, over time.
    pub(crate) unindexed_mean: f64,
    pub(crate) versions_now: u64,
    pub(crate) runs: Vec<Run>,
    #[serde(skip)]
    course: Course,
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Replayed {
    pub(crate) from_version: u64,
    pub(crate) to_version: u64,
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    /// Bytes of data files that users wrote.
    pub(crate) bytes_written: u64,
    pub(crate) happened: Figures,
    pub(crate) policy: Figures,
}

/// Sums over time.
#[derive(Debug, Clone, Default, PartialEq)]
struct Course {
    ms: f64,
    fragments: f64,
    stored: f64,
    live: f64,
    unindexed: f64,
}

impl Figures {
    /// The fragments were these, with so many unindexed rows, for so long.
    fn stood<'a>(
        &mut self,
        facts: impl Iterator<Item = &'a FragmentFacts>,
        unindexed: u64,
        ms: u64,
    ) {
        let (mut count, mut stored, mut live) = (0_u64, 0.0, 0.0);
        for fact in facts {
            count += 1;
            stored += fact.bytes as f64;
            live += fact.bytes as f64 * fact.live() as f64 / fact.rows.max(1) as f64;
        }
        self.fragments_now = count;
        self.fragments_most = self.fragments_most.max(count);
        let (ms, course) = (ms as f64, &mut self.course);
        course.ms += ms;
        course.fragments += count as f64 * ms;
        course.stored += stored * ms;
        course.live += live * ms;
        course.unindexed += unindexed as f64 * ms;
    }

    fn end(&mut self) {
        let course = &self.course;
        let over = |sum: f64, by: f64| if by > 0.0 { sum / by } else { 0.0 };
        self.fragments_mean = over(course.fragments, course.ms);
        self.read_amplification = over(course.stored, course.live);
        self.unindexed_mean = over(course.unindexed, course.ms);
    }
}

/// An index that would be.
#[derive(Debug)]
struct Index {
    built_ms: u64,
    covered: BTreeSet<u64>,
}

/// A replay that is under way.
struct Replay<'a> {
    policy: &'a Policy,
    bounds: TaskBounds,
    cleanup_every: Duration,
    may_delete: bool,
    rows: Rows,
    now_ms: u64,
    version: u64,
    indexes: BTreeMap<String, Index>,
    /// When each version that would be there was committed.
    versions: VecDeque<u64>,
    account: Account,
    halved_ms: u64,
    /// When a window opens for what is due.
    opens_ms: Option<u64>,
    unindexed: u64,
    happened: Figures,
    would: Figures,
}

/// How a table would be kept.
#[derive(Debug)]
pub(crate) struct Keeping<'a> {
    pub(crate) policy: &'a Policy,
    /// Time between two regular cleanups.
    pub(crate) cleanup_every: Duration,
    /// Whether the location is a store.
    pub(crate) managed: bool,
}

/// Plays `past` under `keeping` until `now_ms`; nothing, where there is no version.
pub(crate) fn replay(past: &Past, keeping: &Keeping<'_>, now_ms: u64) -> Option<Replayed> {
    let (first, last) = (past.versions.first()?, past.versions.last()?);
    let mut replay = Replay {
        policy: keeping.policy,
        bounds: past.bounds.clone(),
        cleanup_every: keeping.cleanup_every,
        may_delete: keeping.policy.may_delete(keeping.managed),
        rows: Rows::default(),
        now_ms: first.at_ms,
        version: first.version,
        indexes: BTreeMap::new(),
        versions: VecDeque::new(),
        account: Account::default(),
        halved_ms: 0,
        opens_ms: None,
        unindexed: 0,
        happened: Figures::default(),
        would: Figures::default(),
    };
    for version in &past.versions {
        replay.wait_until(version.at_ms);
        replay.take(version, version.version == first.version);
        replay.act();
    }
    // The clocks of writers may be ahead of this one.
    let until_ms = now_ms.max(replay.now_ms);
    replay.wait_until(until_ms);
    let Replay {
        mut happened,
        mut would,
        versions,
        account,
        ..
    } = replay;
    happened.versions_now = past.stored;
    would.versions_now = versions.len() as u64;
    happened.end();
    would.end();
    Some(Replayed {
        from_version: first.version,
        to_version: last.version,
        from_ms: first.at_ms,
        until_ms,
        bytes_written: account.total.written,
        happened,
        policy: would,
    })
}

impl Replay<'_> {
    /// Lets time pass, and does what it makes due.
    fn wait_until(&mut self, until_ms: u64) {
        while let Some(due) = self.next_deadline().filter(|due| *due < until_ms) {
            self.stand_until(due);
            self.opens_ms = None;
            self.act();
        }
        self.stand_until(until_ms);
    }

    /// When something becomes due although nobody writes.
    fn next_deadline(&self) -> Option<u64> {
        let age = u64::try_from(self.policy.max_index_age.as_millis()).unwrap_or(u64::MAX);
        let would = self.rows.would();
        let lacks = |index: &&Index| would.iter().any(|f| !index.covered.contains(&f.id));
        let indexes = self.indexes.values().filter(lacks);
        let aged = indexes.map(|index| index.built_ms.saturating_add(age));
        let due = aged.chain(self.opens_ms);
        due.filter(|due| *due > self.now_ms).min()
    }

    fn stand_until(&mut self, until_ms: u64) {
        let ms = until_ms.saturating_sub(self.now_ms);
        self.happened
            .stood(self.rows.happened(), self.unindexed, ms);
        let would = self.rows.would();
        let unindexed = self
            .health(&would)
            .indexes
            .iter()
            .map(|i| i.unindexed_rows)
            .max();
        self.would.stood(would.iter(), unindexed.unwrap_or(0), ms);
        self.now_ms = self.now_ms.max(until_ms);
        self.clean();
    }

    /// Versions go with the last regular cleanup before now.
    fn clean(&mut self) {
        if !self.may_delete {
            return;
        }
        let every = u64::try_from(self.cleanup_every.as_millis()).unwrap_or(u64::MAX);
        let cleaned_ms = self.now_ms - self.now_ms % every.max(1);
        let age = u64::try_from(self.policy.retention.as_millis()).unwrap_or(u64::MAX);
        let kept = usize::try_from(self.policy.min_versions).unwrap_or(usize::MAX);
        while self.versions.len() > kept
            && self
                .versions
                .front()
                .is_some_and(|at| at.saturating_add(age) < cleaned_ms)
        {
            self.versions.pop_front();
        }
    }

    /// Takes a version over, which starts the story if it `is_first`.
    fn take(&mut self, version: &PastVersion, is_first: bool) {
        self.version = version.version;
        self.rows.apply(version);
        let bytes: u64 = version.added.iter().map(|f| f.bytes).sum();
        let ours = matches!(version.change, Change::Rewritten | Change::Indexed);
        let kind = match version.change {
            Change::Rewritten => Some(OperationKind::Compact),
            Change::Indexed => Some(OperationKind::Reindex),
            Change::Written | Change::Noted => None,
        };
        if let Some(kind) = kind.filter(|_| !is_first) {
            self.happened.ran(Run {
                at_ms: version.at_ms,
                version: version.version,
                kind,
                reason: None,
                fragments: version.removed.len() as u64,
                became: version.added.len() as u64,
                bytes,
            });
        }
        // What stands there when the story begins is found, as at a daemon's first look.
        self.wrote(Amounts {
            found: if is_first { bytes } else { 0 },
            written: if ours || is_first { 0 } else { bytes },
            ..Amounts::default()
        });
        if !ours && !version.is_ours || is_first {
            self.versions.push_back(version.at_ms);
        }
        let lacking = version.indexes.iter().map(|i| i.unindexed_rows).max();
        self.unindexed = lacking.unwrap_or(0);
        self.take_indexes(version);
    }

    /// An index begins as it was built; it is kept up by what would be.
    fn take_indexes(&mut self, version: &PastVersion) {
        let named = |name: &String| version.indexes.iter().any(|index| index.name == *name);
        self.indexes.retain(|name, _| named(name));
        let would: BTreeSet<u64> = self.rows.would().iter().map(|f| f.id).collect();
        for index in &version.indexes {
            if self.indexes.contains_key(&index.name) {
                continue;
            }
            let lacks = self.rows.beside(&index.uncovered);
            self.indexes.insert(
                index.name.clone(),
                Index {
                    built_ms: index.built_ms.unwrap_or(version.at_ms),
                    covered: would.difference(&lacks).copied().collect(),
                },
            );
        }
    }

    fn wrote(&mut self, amounts: Amounts) {
        self.account.add(&amounts, &mut self.halved_ms, self.now_ms);
    }

    /// How the table would be.
    fn health(&self, would: &[FragmentFacts]) -> TableHealth {
        let indexes = self.indexes.iter().map(|(name, index)| {
            let lacks = would.iter().filter(|f| !index.covered.contains(&f.id));
            let unindexed_rows = lacks.map(FragmentFacts::live).sum();
            let age = self.now_ms.saturating_sub(index.built_ms) / 1_000;
            IndexHealth {
                bytes: 0,
                name: name.clone(),
                unindexed_rows,
                stale_seconds: Some(age).filter(|_| unindexed_rows > 0),
                missing: false,
                damaged: None,
                fingerprint: 0,
            }
        });
        TableHealth {
            versions: self.versions.len() as u64,
            fragments: would.len() as u64,
            candidate_fragments: candidates(would, &self.bounds) as u64,
            rows: would.iter().map(FragmentFacts::live).sum(),
            deleted_rows: would.iter().map(|f| f.deleted).sum(),
            bytes: would.iter().map(|f| f.bytes).sum(),
            indexes: indexes.collect(),
            ledger: Some(self.account),
            ..TableHealth::default()
        }
    }

    /// Does what the policy wants now, until it wants nothing.
    fn act(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            let mut would = self.rows.would();
            for (at, index) in self.indexes.values().enumerate() {
                let covered = would.iter_mut().filter(|f| index.covered.contains(&f.id));
                covered.for_each(|fact| fact.indexes.push(at));
            }
            let health = self.health(&would);
            let mut rewrites = CompactionPlan::default();
            if health.candidate_fragments > 0 {
                rewrites.tasks = plan_tasks(&would, &self.bounds);
            }
            let wanted = plan(&health, &rewrites, self.policy).operations;
            // Versions go with the regular cleanup: one that comes early finds the same ones too young.
            let mut due = wanted
                .into_iter()
                .filter(|o| o.kind != OperationKind::Cleanup);
            let Some(operation) = due.next() else { return };
            if let Some(opens_ms) = self.closed() {
                self.opens_ms = opens_ms;
                return;
            }
            match operation.kind {
                OperationKind::Compact => self.compact(&rewrites, operation.reason),
                OperationKind::Reindex => self.reindex(operation.reason),
                OperationKind::Cleanup => {}
            }
        }
    }

    /// When the next window opens, where all are closed.
    fn closed(&self) -> Option<Option<u64>> {
        let now = i64::try_from(self.now_ms).unwrap_or(i64::MAX);
        let now = Timestamp::from_millisecond(now).unwrap_or(Timestamp::MAX);
        match self.policy.windows.at(now) {
            Opening::Open { .. } => None,
            Opening::Closed { opens } => {
                let opens = opens.map(|at| u64::try_from(at.as_millisecond()).unwrap_or(0));
                Some(opens)
            }
        }
    }

    fn compact(&mut self, rewrites: &CompactionPlan, reason: String) {
        let (mut fragments, mut became, mut bytes) = (0, 0, 0);
        for task in &rewrites.tasks {
            let new = self.rows.rewrite(task);
            for index in self.indexes.values_mut() {
                if task.fragments.iter().all(|id| index.covered.contains(id)) {
                    index.covered.extend(new.iter().copied());
                }
            }
            fragments += task.fragments.len() as u64;
            became += new.len() as u64;
            bytes += task.written;
        }
        self.versions.push_back(self.now_ms);
        self.wrote(Amounts {
            rewritten: bytes,
            ..Amounts::default()
        });
        self.ran(OperationKind::Compact, reason, (fragments, became, bytes));
    }

    fn reindex(&mut self, reason: String) {
        let would: BTreeSet<u64> = self.rows.would().iter().map(|f| f.id).collect();
        for index in self.indexes.values_mut() {
            if !would.is_subset(&index.covered) {
                index.built_ms = self.now_ms;
                self.versions.push_back(self.now_ms);
            }
            index.covered.clone_from(&would);
        }
        self.ran(OperationKind::Reindex, reason, (0, 0, 0));
    }

    fn ran(
        &mut self,
        kind: OperationKind,
        reason: String,
        (fragments, became, bytes): (u64, u64, u64),
    ) {
        self.would.ran(Run {
            at_ms: self.now_ms,
            version: self.version,
            kind,
            reason: Some(reason),
            fragments,
            became,
            bytes,
        });
    }
}

impl Figures {
    fn ran(&mut self, run: Run) {
        match run.kind {
            OperationKind::Compact => self.compactions += 1,
            OperationKind::Reindex => self.reindexed += 1,
            OperationKind::Cleanup => {}
        }
        self.fragments_rewritten += run.fragments;
        self.bytes_rewritten += run.bytes;
        self.runs.push(run);
    }
}

#[cfg(test)]
mod tests;
