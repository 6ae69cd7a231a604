//! One watched location: everything that is known of it, and what is to be looked at next. Pure: it asks for [`Job`]s,
//! and is told what came of them. Nothing of it is kept under a number, so a reload cannot hand it to another location.
//!
//! ```text
//! a round, now and then:  Open ──> Recover          at the same time; neither waits for the other
//!                              └─> Scan ──> Look, Look, Look ...
//! a version appears:                        Look    at that table alone; a publish of a store: Scan for what it moved
//! ```

use super::Place;
use super::table::{Observation, Phase, TableState, Verdict};
use crate::config::Config;
use crate::decide::planning::OperationKind;
use crate::decide::work::Scope;
use squire_engine::ids::TableName;
use squire_engine::invariants::violations;
use squire_engine::maintenance::{Target, Unfit};
use squire_engine::store::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
mod tests;
mod work;

/// Tables of one location that are looked at side by side: a look waits for storage most of the time.
const LOOKS_AT_ONCE: usize = 8;

/// How often its disk is asked how much is free: at a gigabyte per second, what fills meanwhile is part of what stays free.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether a table has rested.
const SECOND: Duration = Duration::from_secs(1);

/// Something to be done to a location that only looks, or settles what others left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    /// Open it, or see that it still is what it was.
    Open,
    /// Settle interrupted operations, at once with `force`.
    Recover {
        force: bool,
    },
    /// List its tables.
    Scan,
    Look(Target),
    /// Ask its disk how much is free.
    Measure,
    /// Note what rests as unfit, for those that come after this process.
    Note(Vec<Unfit>),
}

/// What one scan found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// Each table, with the folder and the version that readers of a store are shown; 0 for a plain table.
    pub(crate) tables: BTreeMap<Target, (String, u64)>,
    /// The manifest's state, of a store.
    pub(crate) state: Option<Arc<State>>,
    /// Why the commit log could not be written.
    pub(crate) unarchived: Option<String>,
}

/// A broken invariant that was not known before.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) invariant: &'static str,
    pub(crate) seen: String,
}

/// How far a scan reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// What is new, or was moved.
    Changes,
    /// Everything: the backstop of all events.
    All,
}

#[derive(Debug, Default)]
struct Tracked {
    state: TableState,
    version: u64,
}

/// What is known of a location.
#[derive(Debug, Default)]
pub(crate) struct Location {
    uri: String,
    /// Whether it is looked at once, and no more.
    one_pass: bool,
    tables: BTreeMap<Target, Tracked>,
    /// Where each table lies.
    folders: BTreeMap<String, Target>,
    /// The manifest's state as last seen.
    manifest: Option<Arc<State>>,
    /// Tables with a broken invariant, which one, and what was seen: not maintained until a person has looked and starts
    /// the daemon again.
    broken: BTreeMap<TableName, BTreeMap<&'static str, String>>,
    /// Whether it is a store; `None` while it is not open.
    managed: Option<bool>,
    next_round: Duration,
    opening: bool,
    /// A recovery that is wanted, and whether the grace is over for it.
    recover: Option<bool>,
    recovering: bool,
    scan: Option<Reach>,
    scanning: Option<Reach>,
    to_look: BTreeSet<Target>,
    looking: BTreeSet<Target>,
    /// Tables that the round which began then has still to look at.
    round: Option<(Duration, BTreeSet<Target>)>,
    /// Whether it was opened and recovered, and whether every table was looked at, or that was tried in vain.
    tried: bool,
    recovered: bool,
    seen: bool,
    scan_failed: bool,
    last_cleanup: Option<Duration>,
    /// What another daemon was cleaning: it may have been killed over it.
    to_clean: BTreeSet<Scope>,
    /// Of the cleanup of a store.
    rests: crate::decide::rest::Rests,
    /// Until when ended rests were looked for.
    last_rested: Duration,
    /// When its disk was asked last, and whether it has not answered yet.
    last_measured: Option<Duration>,
    measuring: bool,
    /// What an earlier process noted as unfit, of tables that no scan has found yet.
    noted: Vec<Unfit>,
    /// What rests as unfit, and whether that is to be noted, or is being noted.
    unfit: BTreeMap<Target, Vec<Unfit>>,
    unnoted: bool,
    noting: bool,
    /// How much failed: opening, recoveries, looks.
    pub(crate) failed: usize,
}

impl Location {
    pub(crate) fn new(uri: &str, one_pass: bool) -> Self {
        Self {
            uri: uri.to_owned(),
            one_pass,
            ..Self::default()
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.managed.is_some()
    }

    /// Whether it was tried to open it.
    pub(crate) fn is_tried(&self) -> bool {
        self.tried
    }

    /// Whether it was recovered and observed once, as far as that went.
    pub(crate) fn is_settled(&self) -> bool {
        self.tried && (!self.is_open() || (self.recovered && self.seen))
    }

    /// Whether all its tables are known.
    pub(crate) fn is_known(&self) -> bool {
        self.is_open() && self.seen && !self.scan_failed
    }

    /// Whether no job of it is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.opening
            && !self.recovering
            && !self.measuring
            && !self.unnoted
            && !self.noting
            && self.scan.is_none()
            && self.scanning.is_none()
            && self.to_look.is_empty()
            && self.looking.is_empty()
    }

    /// Whether the work on `scope` is still about something that is here and may be worked on.
    pub(crate) fn wants(&self, scope: &Scope, kind: OperationKind) -> bool {
        let stopped = kind == OperationKind::Cleanup && self.is_stopped();
        match scope {
            _ if !self.is_open() || stopped => false,
            Scope::Store => self.managed == Some(true),
            Scope::Table(target) => {
                self.tables.contains_key(target) && self.why_stopped(target).is_none()
            }
        }
    }

    /// A cleanup covers what belongs together, and what is wrong with one table is not known.
    fn is_stopped(&self) -> bool {
        !self.broken.is_empty()
    }

    /// Which invariant of `target` is broken, and what was seen.
    pub(crate) fn why_stopped(&self, target: &Target) -> Option<String> {
        self.broken.get(target.table()?)?.values().next().cloned()
    }

    /// Begins a round now.
    pub(crate) fn look_again(&mut self) {
        self.next_round = Duration::ZERO;
    }

    /// What is to be done now; the next round begins after `pause`. In a single pass a scan waits for the recovery.
    pub(crate) fn jobs(&mut self, now: Duration, pause: Duration) -> Vec<Job> {
        let mut jobs = Vec::new();
        if !self.opening && now >= self.next_round && !(self.one_pass && self.tried) {
            self.opening = true;
            self.next_round = now + pause;
            jobs.push(Job::Open);
        }
        if !self.is_open() {
            return jobs;
        }
        if !self.recovering
            && let Some(force) = self.recover.take()
        {
            self.recovering = true;
            jobs.push(Job::Recover { force });
        }
        let is_due = |last: Duration| !self.one_pass && now.saturating_sub(last) >= MEASURE_EVERY;
        if !self.measuring && self.last_measured.is_none_or(is_due) {
            self.measuring = true;
            self.last_measured = Some(now);
            jobs.push(Job::Measure);
        }
        if !self.noting && std::mem::take(&mut self.unnoted) {
            self.noting = true;
            jobs.push(Job::Note(self.unfit.values().flatten().cloned().collect()));
        }
        let waits = self.one_pass && self.recovering;
        if self.scanning.is_none()
            && !waits
            && let Some(reach) = self.scan.take()
        {
            self.scanning = Some(reach);
            jobs.push(Job::Scan);
        }
        if now.saturating_sub(self.last_rested) >= SECOND {
            let before = std::mem::replace(&mut self.last_rested, now);
            let is_rested = |t: &Tracked| t.state.is_rested(before, now);
            let rested = self.tables.iter().filter(|(_, t)| is_rested(t));
            self.to_look
                .extend(rested.map(|(target, _)| target.clone()));
        }
        while self.looking.len() < LOOKS_AT_ONCE {
            let next = self.to_look.iter().find(|t| !self.looking.contains(*t));
            let Some(target) = next.cloned() else { break };
            self.to_look.remove(&target);
            self.looking.insert(target.clone());
            jobs.push(Job::Look(target));
        }
        jobs
    }

    /// It is open, as a store or not: a round begins. `noted` is what an earlier process found unfit, when it was opened anew.
    pub(crate) fn opened(&mut self, managed: bool, noted: Vec<Unfit>) {
        self.noted.extend(noted);
        self.opening = false;
        self.tried = true;
        self.managed = Some(managed);
        self.recover = Some(self.recover.unwrap_or(false));
        self.scan = Some(Reach::All);
    }

    /// It cannot be opened now.
    pub(crate) fn closed(&mut self) {
        self.opening = false;
        self.tried = true;
        self.managed = None;
        self.failed += 1;
    }

    /// A recovery ended; `changed` when it settled something that a look may have missed.
    pub(crate) fn recovered(&mut self, failed: usize, changed: bool) {
        self.recovering = false;
        self.recovered = true;
        self.failed += failed;
        if changed {
            self.scan = self.scan.max(Some(Reach::Changes));
        }
    }

    /// Its disk has answered.
    pub(crate) fn measured(&mut self) {
        self.measuring = false;
    }

    /// What rests as unfit was noted, or could not be.
    pub(crate) fn noted(&mut self) {
        self.noting = false;
    }

    /// Sees what rests as unfit of `target` now.
    fn note_unfit(&mut self, target: &Target) {
        let tracked = self.tables.get(target);
        let now = tracked.map(|t| t.state.unfit(&target.to_string()));
        let now = now.unwrap_or_default();
        let before = match now.is_empty() {
            true => self.unfit.remove(target).unwrap_or_default(),
            false => {
                let before = self.unfit.insert(target.clone(), now.clone());
                before.unwrap_or_default()
            }
        };
        self.unnoted |= before != now;
    }

    /// What is known of `target`, which a scan found for the first time.
    fn begin_tracking(&mut self, target: &Target) -> Tracked {
        let table = target.to_string();
        let is_its = |unfit: &mut Unfit| unfit.table == table;
        let noted: Vec<Unfit> = self.noted.extract_if(.., is_its).collect();
        let state = TableState::resumed(&noted);
        if !noted.is_empty() {
            self.unfit.insert(target.clone(), noted);
        }
        Tracked {
            state,
            ..Tracked::default()
        }
    }

    pub(crate) fn is_one_pass(&self) -> bool {
        self.one_pass
    }

    /// Whether the last scan of it succeeded, as far as there was one.
    pub(crate) fn answers(&self) -> bool {
        !self.scan_failed
    }

    /// A scan failed.
    pub(crate) fn unscanned(&mut self) {
        self.scanning = None;
        self.scan_failed = true;
        self.seen = true;
        self.failed += 1;
    }

    /// A scan ended. Returns what is broken as of now.
    pub(crate) fn scanned(&mut self, found: Found, now: Duration) -> Vec<Broken> {
        let reach = self.scanning.take().unwrap_or(Reach::Changes);
        self.scan_failed = false;
        self.tables.retain(|t, _| found.tables.contains_key(t));
        self.to_look.retain(|t| found.tables.contains_key(t));
        let rested = self.unfit.len();
        self.unfit.retain(|t, _| found.tables.contains_key(t));
        self.unnoted |= self.unfit.len() != rested;
        self.folders.clear();
        for (target, (folder, version)) in found.tables {
            let known = self.tables.remove(&target);
            let before = known.as_ref().map(|tracked| tracked.version);
            if before != Some(version) || reach == Reach::All {
                self.to_look.insert(target.clone());
            }
            self.folders.insert(folder, target.clone());
            let tracked = known.unwrap_or_else(|| self.begin_tracking(&target));
            self.tables.insert(target, Tracked { version, ..tracked });
        }
        let broken = self.check(found.state);
        match &mut self.round {
            _ if reach == Reach::All => {
                self.round = Some((now, self.tables.keys().cloned().collect()));
            }
            Some((_, left)) => left.retain(|t| self.tables.contains_key(t)),
            None => {}
        }
        broken
    }

    /// The cheap invariants, always.
    fn check(&mut self, state: Option<Arc<State>>) -> Vec<Broken> {
        let Some(state) = state else {
            return Vec::new();
        };
        let before = self.manifest.replace(state.clone());
        let mut news = Vec::new();
        for violation in violations(before.as_deref(), &state) {
            let (invariant, seen) = (violation.invariant, violation.seen);
            let mut is_news = violation.tables.is_empty();
            let why = format!("stopped: invariant {invariant} is violated: {seen}");
            for table in violation.tables {
                let broken = self.broken.entry(table).or_default();
                is_news |= broken.insert(invariant, why.clone()).is_none();
            }
            if is_news {
                news.push(Broken { invariant, seen });
            }
        }
        news
    }

    /// When the round that now ends began, if every table was looked at.
    pub(crate) fn end_round(&mut self) -> Option<Duration> {
        self.round
            .take_if(|(_, left)| left.is_empty())
            .map(|(began, _)| {
                self.seen = true;
                began
            })
    }

    fn end_look(&mut self, target: &Target) -> Option<&mut Tracked> {
        self.looking.remove(target);
        if let Some((_, left)) = &mut self.round {
            left.remove(target);
        }
        self.tables.get_mut(target)
    }

    /// A look ended; nothing comes of it when the table is gone.
    pub(crate) fn looked(
        &mut self,
        target: &Target,
        seen: Observation,
        config: &Config,
        now: Duration,
    ) -> Option<Verdict> {
        let policy = config.policy_for(Place::config_name(target));
        let (uri, stopped) = (self.uri.clone(), self.why_stopped(target));
        let tracked = self.end_look(target)?;
        let verdict = tracked
            .state
            .looked((&uri, target), seen, &policy, stopped, now);
        self.note_unfit(target);
        Some(verdict)
    }

    /// A look failed. Whether the table is still here.
    pub(crate) fn unseen(&mut self, target: &Target) -> bool {
        self.failed += 1;
        let tracked = self.end_look(target);
        tracked.map(|t| t.state.unseen()).is_some()
    }

    /// A version appeared below `folder`, a path below the location's root.
    pub(crate) fn woken(&mut self, folder: &str) {
        if folder.starts_with("_squire/") {
            // The commit log is ours; a publish says nothing of what it moved.
            if folder.ends_with("manifest.lance") {
                self.scan = self.scan.max(Some(Reach::Changes));
            }
            return;
        }
        // Its own folder, or the one that it lies in.
        let mut folders = std::iter::successors(Some(folder), |folder: &&str| {
            folder.rsplit_once('/').map(|split| split.0)
        });
        match folders.find_map(|folder| self.folders.get(folder)) {
            Some(target) => {
                self.to_look.insert(target.clone());
            }
            None => self.scan = self.scan.max(Some(Reach::Changes)),
        }
    }

    /// Where `target` stands.
    pub(crate) fn phase(&self, target: &Target) -> Option<Phase> {
        self.tables.get(target).map(|t| t.state.phase())
    }

    /// Where each table stands.
    #[cfg(test)]
    pub(crate) fn phases(&self) -> impl Iterator<Item = (&Target, Phase)> {
        self.tables
            .iter()
            .map(|(t, tracked)| (t, tracked.state.phase()))
    }
}
