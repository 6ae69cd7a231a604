//! What is known of one table. Pure: looks and ends of attempts go in, decided work comes out. [`phase`] says where it stands.

mod phase;

pub(crate) use phase::Phase;

use super::Place;
use super::trend::Trend;
use crate::config::Policy;
use crate::decide::planning::{
    OperationKind, OperationSpec, TablePlan, disk_estimate, memory_estimate, plan,
};
use crate::decide::quarantine::{Convergence, Fingerprints, Part, Quarantine};
use crate::decide::rest::{Outcome, Rests};
use crate::decide::waits::Resting;
use crate::decide::work::{Scope, Trigger, WorkItem, WorkKey, score};
use phase::{Event, Need};
use serde::Serialize;
use squire_engine::maintenance::{CompactionPlan, TableHealth, Target, Unfit, Unreferenced};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Why a table that others have written to is left alone.
const DRIFTED: &str =
    "skipped: versions above the pin that squire did not make; see `squire repair`";

/// The reason of work that a person asked for.
pub(crate) const ASKED_FOR: &str = "asked for";

/// What one look saw.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) health: TableHealth,
    /// What a compaction would do.
    pub(crate) rewrites: CompactionPlan,
    pub(crate) drift: bool,
    /// What no version refers to, as last counted.
    pub(crate) unreferenced: Option<Unreferenced>,
}

/// One table as last observed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TableStatus {
    #[serde(flatten)]
    pub(crate) health: TableHealth,
    /// What no version refers to, as last counted.
    pub(crate) unreferenced: Option<Unreferenced>,
    /// How many fragments there would be after a compaction now.
    pub(crate) ideal_fragments: u64,
    /// How many fragments there were.
    pub(crate) trend: Trend,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
    pub(crate) phase: Phase,
    pub(crate) drift: bool,
}

/// What a look decided.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) status: TableStatus,
    /// Whether each kind is due, and whether it or a part of it rests as unfit; of a table that is not left alone.
    pub(crate) kinds: Vec<(OperationKind, bool, bool)>,
    /// Why a table that should be compacted is not, when that is news.
    pub(crate) left_alone: Option<String>,
    /// What rests of what is due, or has failed.
    pub(crate) resting: Vec<Resting>,
    /// Kinds of work that get nowhere and rest from now on, and why.
    pub(crate) in_vain: Vec<(OperationKind, String)>,
    /// What may begin, in place of what was decided before; `None` while an attempt is at work, and what waits goes on waiting.
    pub(crate) work: Option<Vec<WorkItem>>,
}

/// How an attempt went, as far as its table is concerned.
#[derive(Debug, Default)]
pub(crate) struct Lesson {
    pub(crate) outcome: Option<Outcome>,
    /// Why the result as a whole was unfit.
    pub(crate) unfit: Option<String>,
    /// Indexes that would fail the same way again, and why.
    pub(crate) unfit_indexes: Vec<(String, String)>,
}

/// What is known of one table.
#[derive(Debug, Default)]
pub(crate) struct TableState {
    phase: Phase,
    rests: Rests,
    quarantine: Quarantine,
    convergence: Convergence,
    /// What a person asked for and has not begun yet.
    asked: BTreeSet<OperationKind>,
    /// Why it is not compacted although it should be, as it was told last.
    left_alone: Option<String>,
    /// The cleanup that a threshold asks for.
    cleanup: Option<OperationSpec>,
}

/// The state of a table that nothing keeps maintenance off, and why it is in it.
fn state_of(planned: &TablePlan) -> (&'static str, String) {
    match (planned.operations.first(), &planned.left_alone) {
        (Some(first), _) => ("due", first.reason.clone()),
        (None, Some(why)) => ("left alone", why.clone()),
        (None, None) => ("healthy", planned.otherwise.clone()),
    }
}

/// How many fragments there would be after a compaction now: each task makes one of its own.
fn ideal(health: &TableHealth, rewrites: &CompactionPlan) -> u64 {
    let merged = rewrites.tasks.iter().map(|task| task.fragments.len());
    let merged: usize = merged.map(|fragments| fragments.saturating_sub(1)).sum();
    health.fragments.saturating_sub(merged as u64)
}

impl TableState {
    /// That of a table of which an earlier process noted what rests.
    pub(crate) fn resumed(noted: &[Unfit]) -> Self {
        Self {
            quarantine: Quarantine::resumed(noted),
            ..Self::default()
        }
    }

    /// What rests as unfit, as it is noted of `table`.
    pub(crate) fn unfit(&self, table: &str) -> Vec<Unfit> {
        self.quarantine.noted(table)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The cleanup that a threshold asks for, as last observed.
    pub(crate) fn cleanup(&self) -> Option<&OperationSpec> {
        self.cleanup.as_ref()
    }

    /// Whether `kind` rests after what became of it.
    pub(crate) fn rests(&self, kind: OperationKind, now: Duration) -> bool {
        self.rests.blocks(kind, now)
    }

    /// Whether a rest ended between `before` and `now`: time for a look.
    pub(crate) fn is_rested(&self, before: Duration, now: Duration) -> bool {
        let rests = self.phase == Phase::Cooling;
        let end = rests.then(|| self.rests.next_end(before)).flatten();
        end.is_some_and(|end| end <= now)
    }

    /// A person asks for `kind`, whatever thresholds, rests and quarantine say.
    pub(crate) fn ask(&mut self, kind: OperationKind) {
        self.asked.insert(kind);
        self.quarantine.release(&kind.into());
    }

    /// An attempt of `kind` began.
    pub(crate) fn started(&mut self, kind: OperationKind) {
        self.asked.remove(&kind);
        if kind != OperationKind::Cleanup {
            self.phase = self.phase.on(Event::Started);
        }
    }

    /// The attempt at `item` ended. Returns what rests from now on as unfit, each as index and reason.
    pub(crate) fn ended(
        &mut self,
        item: &WorkItem,
        lesson: Lesson,
        times: (Duration, Duration),
    ) -> Vec<(Option<String>, String)> {
        let kind = item.key.kind;
        if kind != OperationKind::Cleanup {
            self.phase = self.phase.on(Event::Ended);
        }
        let mut news = Vec::new();
        if let Some(why) = lesson.unfit {
            let schema = item.fingerprints.schema;
            if self.quarantine.hold(kind.into(), schema, why.clone()) {
                news.push((None, why));
            }
        }
        for (index, why) in lesson.unfit_indexes {
            let fingerprint = item.fingerprints.index(&index);
            if self
                .quarantine
                .hold(Part::index(&index), fingerprint, why.clone())
            {
                news.push((Some(index), why));
            }
        }
        if lesson.outcome == Some(Outcome::Effective) {
            self.convergence.attempted(kind);
        }
        if let Some(outcome) = lesson.outcome {
            self.rests.note(kind, outcome, &item.policy, times);
        }
        news
    }

    /// It could not be observed.
    pub(crate) fn unseen(&mut self) {
        self.phase = self.phase.on(Event::Looked(Need::Nothing));
    }

    /// Why the table is left alone from now on, if that is news.
    fn left_alone_anew(&mut self, why: Option<String>) -> Option<String> {
        let before = std::mem::replace(&mut self.left_alone, why.clone());
        why.filter(|why| before.as_ref() != Some(why))
    }

    /// Decides what comes of a look at `target` of `location`, which is `stopped` for a reason, or not.
    pub(crate) fn looked(
        &mut self,
        (location, target): (&str, &Target),
        seen: Observation,
        policy: &Policy,
        stopped: Option<String>,
        now: Duration,
    ) -> Verdict {
        let Observation {
            health,
            rewrites,
            drift,
            unreferenced,
        } = seen;
        let fingerprints = Fingerprints::of(&health);
        let in_vain = self.convergence.looked(&health);
        for (kind, why) in &in_vain {
            self.quarantine
                .hold((*kind).into(), fingerprints.schema, why.clone());
        }
        let resting = self.resting_indexes(&fingerprints);
        let mut considered = health.clone();
        considered
            .indexes
            .retain(|i| !resting.contains_key(&i.name));
        let ideal_fragments = ideal(&health, &rewrites);
        let mut planned = plan(&considered, &rewrites, policy);
        self.add_asked(&mut planned, |kind| {
            disk_estimate(kind, &considered, &rewrites)
        });
        let is_cleanup = |o: &&OperationSpec| o.kind == OperationKind::Cleanup;
        self.cleanup = planned.operations.iter().find(is_cleanup).cloned();
        if stopped.is_some() {
            self.phase = self.phase.on(Event::Broken);
        }
        let left_alone = drift || stopped.is_some();
        let mut kinds = Vec::new();
        let mut rests = match left_alone {
            true => Vec::new(),
            false => self.set_apart(&mut planned, fingerprints.schema, &resting, &mut kinds),
        };
        let (state, reason) = match (stopped, rests.first()) {
            (Some(why), _) => ("stopped", why),
            (None, _) if drift => ("drift", DRIFTED.to_owned()),
            (None, Some(first)) => ("quarantined", first.to_string()),
            (None, None) => state_of(&planned),
        };
        let left_alone_news = self.left_alone_anew(planned.left_alone.take());
        if left_alone {
            planned.operations.clear();
            self.asked.clear();
        }
        rests.extend(self.rested(&planned, now));
        let sides = (fingerprints, resting.into_keys().collect());
        let bytes = health.bytes;
        let key = |kind| WorkKey {
            location: location.to_owned(),
            scope: Scope::Table(target.clone()),
            kind,
        };
        let work = self.work(planned.operations, (policy, bytes, now), &sides, key);
        Verdict {
            status: TableStatus {
                health,
                unreferenced,
                ideal_fragments,
                trend: Trend::default(),
                state,
                reason,
                phase: self.phase,
                drift,
            },
            kinds,
            left_alone: left_alone_news,
            resting: rests,
            in_vain,
            work,
        }
    }

    /// What rests for some time still, of what is due or has failed.
    fn rested(&self, planned: &TablePlan, now: Duration) -> Vec<Resting> {
        let is_due = |kind| planned.operations.iter().any(|o| o.kind == kind);
        // When a cleanup is due is not known here, but that it failed is.
        let shown = |kind: &OperationKind| is_due(*kind) || self.rests.is_failing(*kind);
        let shown = OperationKind::ALL.into_iter().filter(shown);
        let shown = shown.filter(|kind| !self.asked.contains(kind));
        shown
            .filter_map(|kind| self.rests.resting(kind, now))
            .collect()
    }

    /// The work that may begin, of all that is `due`; `None` while an attempt is at work. Moves the phase.
    fn work(
        &mut self,
        due: Vec<OperationSpec>,
        (policy, bytes, now): (&Policy, u64, Duration),
        (fingerprints, resting): &(Fingerprints, BTreeSet<String>),
        key: impl Fn(OperationKind) -> WorkKey,
    ) -> Option<Vec<WorkItem>> {
        // When a cleanup runs is decided for the location.
        let due: Vec<_> = due
            .into_iter()
            .filter(|spec| spec.kind != OperationKind::Cleanup)
            .collect();
        let was_due = !due.is_empty();
        let work: Vec<WorkItem> = due
            .into_iter()
            .filter_map(|spec| {
                let trigger = match self.asked.contains(&spec.kind) {
                    true => Trigger::Asked,
                    false => Trigger::Threshold,
                };
                let rests = trigger != Trigger::Asked && self.rests.blocks(spec.kind, now);
                (!rests).then(|| WorkItem {
                    key: key(spec.kind),
                    trigger,
                    score: score(&spec, trigger),
                    memory: memory_estimate(spec.kind, bytes, policy),
                    needs: spec.needs,
                    reason: spec.reason,
                    policy: policy.clone(),
                    fingerprints: fingerprints.clone(),
                    resting: resting.clone(),
                })
            })
            .collect();
        let need = match (work.is_empty(), was_due) {
            (false, _) => Need::Work,
            (true, true) => Need::Rest,
            (true, false) => Need::Nothing,
        };
        self.phase = self.phase.on(Event::Looked(need));
        (self.phase != Phase::Running).then_some(work)
    }

    /// The indexes that rest, and why; none of them when a person asks for them.
    fn resting_indexes(&mut self, fingerprints: &Fingerprints) -> BTreeMap<String, String> {
        let asked = self.asked.contains(&OperationKind::Reindex);
        let mut resting = BTreeMap::new();
        for (index, fingerprint) in fingerprints.indexes() {
            let part = Part::index(index);
            if asked {
                self.quarantine.release(&part);
            }
            if let Some(why) = self.quarantine.why(&part, fingerprint) {
                resting.insert(index.to_owned(), why.to_owned());
            }
        }
        resting
    }

    fn add_asked(&self, plan: &mut TablePlan, needs: impl Fn(OperationKind) -> u64) {
        for kind in self.asked.iter().copied() {
            let reason = String::from(ASKED_FOR);
            match plan.operations.iter_mut().find(|o| o.kind == kind) {
                Some(planned) => planned.reason = reason,
                None => plan.operations.push(OperationSpec {
                    kind,
                    reason,
                    debt: 1.0,
                    needs: needs(kind),
                }),
            }
        }
    }

    /// Takes what rests as unfit out of `planned`, and says of each kind whether there is anything to do. `indexes` are those
    /// that rest, and why. Returns what rests.
    fn set_apart(
        &mut self,
        planned: &mut TablePlan,
        schema: u64,
        indexes: &BTreeMap<String, String>,
        kinds: &mut Vec<(OperationKind, bool, bool)>,
    ) -> Vec<Resting> {
        let mut rests = Vec::new();
        for kind in OperationKind::ALL {
            let indexes = indexes.iter().filter(|_| kind == OperationKind::Reindex);
            let of_indexes: Vec<Resting> = indexes
                .map(|(index, why)| Resting::unfit(kind, format!("index {index}: {why}")))
                .collect();
            let due = planned.operations.iter().any(|o| o.kind == kind) || !of_indexes.is_empty();
            let whole = self.quarantine.why(&kind.into(), schema).map(str::to_owned);
            kinds.push((kind, due, whole.is_some() || !of_indexes.is_empty()));
            if let Some(why) = whole {
                planned.operations.retain(|o| o.kind != kind);
                rests.push(Resting::unfit(kind, why));
            }
            rests.extend(of_indexes);
        }
        rests
    }
}

/// The regular cleanup of `scope`, or one that a person asked for, without a look.
pub(crate) fn cleanup_item(
    location: &str,
    scope: Scope,
    spec: OperationSpec,
    (trigger, policy): (Trigger, Policy),
) -> WorkItem {
    WorkItem {
        key: WorkKey {
            location: location.to_owned(),
            scope,
            kind: OperationKind::Cleanup,
        },
        trigger,
        score: score(&spec, trigger),
        reason: spec.reason,
        memory: 0,
        needs: 0,
        policy,
        fingerprints: Fingerprints::default(),
        resting: BTreeSet::new(),
    }
}

/// The name by which the configuration knows what `scope` covers; of a store, its first table.
pub(crate) fn config_name(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Store => None,
        Scope::Table(target) => Some(Place::config_name(target)),
    }
}
