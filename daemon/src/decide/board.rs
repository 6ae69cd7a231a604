//! What waits for its turn, and the permits of what runs.
//!
//! Permits are of three lanes, so that nothing waits behind work of another sort. Heavy attempts share `max_concurrent`
//! and the memory of the budget. An attempt on little data has one permit beside them, with memory set apart for it: a
//! small table never waits for a large one. Cleanups have their own.

use super::planning::OperationKind;
use super::waits::{Held, Wait, Waits};
use super::work::{Scope, WorkItem, WorkKey};
use crate::config::Budget;
use squire_engine::maintenance::Target;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// An attempt that holds no more than this is light. Compacting so much takes a second or two.
const LIGHT: u64 = 64 << 20;

/// Light attempts at one time, beside the heavy ones.
pub(crate) const LIGHT_AT_ONCE: usize = 1;

/// Cleanups at one time: they wait for storage, and hold next to no memory.
const CLEANUPS_AT_ONCE: usize = 4;

/// Whose permit an attempt holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Heavy,
    Light,
    Cleanup,
}

/// How much may run.
#[derive(Debug)]
struct Permits {
    heavy: usize,
    light: usize,
    cleanups: usize,
    /// Bytes of all heavy attempts, and of a light one.
    memory: u64,
    light_memory: u64,
}

impl Permits {
    fn of(budget: &Budget) -> Self {
        let light_memory = LIGHT.min(budget.memory / 4);
        Self {
            heavy: budget.max_concurrent.max(1),
            light: LIGHT_AT_ONCE,
            cleanups: CLEANUPS_AT_ONCE,
            memory: budget.memory - light_memory,
            light_memory,
        }
    }

    /// Of a single pass, in which nothing else waits: `max_concurrent` of whatever kind.
    fn of_one_pass(budget: &Budget) -> Self {
        Self {
            light: 0,
            cleanups: 0,
            memory: budget.memory,
            ..Self::of(budget)
        }
    }
}

#[derive(Debug)]
struct Waiting {
    item: WorkItem,
    since: Duration,
}

impl Waiting {
    fn urgency(&self, now: Duration) -> u64 {
        self.item.urgency(now.saturating_sub(self.since))
    }
}

#[derive(Debug)]
struct Running {
    lane: Lane,
    memory: u64,
}

/// All decided work of all locations.
#[derive(Debug)]
pub(crate) struct Board {
    permits: Permits,
    one_pass: bool,
    waiting: BTreeMap<WorkKey, Waiting>,
    running: BTreeMap<WorkKey, Running>,
    /// Whether there was a change since nothing could be taken.
    changed: bool,
}

impl Board {
    pub(crate) fn new(budget: &Budget, one_pass: bool) -> Self {
        let mut board = Self {
            permits: Permits::of(budget),
            one_pass,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            changed: true,
        };
        board.set_budget(budget);
        board
    }

    /// From now on; what runs goes on.
    pub(crate) fn set_budget(&mut self, budget: &Budget) {
        self.changed = true;
        self.permits = match self.one_pass {
            true => Permits::of_one_pass(budget),
            false => Permits::of(budget),
        };
    }

    /// Puts `item` up; one of the same key that waits already keeps its place in the line.
    pub(crate) fn add(&mut self, item: WorkItem, now: Duration) {
        self.changed = true;
        let before = self.waiting.remove(&item.key);
        let since = before.map_or(now, |waiting| waiting.since);
        let key = item.key.clone();
        self.waiting.insert(key, Waiting { item, since });
    }

    /// What a look at `target` of `location` decided, in place of what the look before did. Cleanups stay: they are not
    /// decided by looks.
    pub(crate) fn replace(
        &mut self,
        location: &str,
        target: &Target,
        items: Vec<WorkItem>,
        now: Duration,
    ) {
        for kind in [OperationKind::Compact, OperationKind::Reindex] {
            let key = WorkKey {
                location: location.to_owned(),
                scope: Scope::Table(target.clone()),
                kind,
            };
            if items.iter().all(|item| item.key != key) {
                self.waiting.remove(&key);
            }
        }
        for item in items {
            self.add(item, now);
        }
    }

    /// Takes down what waits and is not `wanted` any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&WorkKey) -> bool) {
        self.waiting.retain(|key, _| wanted(key));
    }

    /// Whether work waits, or runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Something outside of the board has changed: what was held back may not be so any more.
    pub(crate) fn look_again(&mut self) {
        self.changed = true;
    }

    /// Everything that waits, the most urgent first; `held` says what is held back, and why.
    pub(crate) fn waiting(
        &self,
        now: Duration,
        mut held: impl FnMut(&WorkItem) -> Option<Held>,
    ) -> Vec<Waits> {
        let mut waiting: Vec<&Waiting> = self.waiting.values().collect();
        waiting.sort_by_key(|w| Reverse((w.urgency(now), Reverse(w.since))));
        let shown = waiting.into_iter().map(|Waiting { item, since }| Waits {
            location: item.key.location.clone(),
            table: item.key.scope.to_string(),
            reason: item.reason.clone(),
            trigger: item.trigger,
            seconds: now.saturating_sub(*since).as_secs(),
            wait: match held(item) {
                Some(held) => Wait::held(item.key.kind, &held),
                None => Wait {
                    kind: item.key.kind,
                    held: self.waits_for(item).to_owned(),
                    until_ms: None,
                },
            },
        });
        shown.collect()
    }

    /// How long the work that waits for longest has waited. What is `held` back is not behind.
    pub(crate) fn longest_wait(
        &self,
        now: Duration,
        mut held: impl FnMut(&WorkItem) -> Option<Held>,
    ) -> Duration {
        let free = self.waiting.values().filter(|w| held(&w.item).is_none());
        let waited = free.map(|waiting| now.saturating_sub(waiting.since));
        waited.max().unwrap_or_default()
    }

    /// What stands before `item`.
    fn waits_for(&self, item: &WorkItem) -> &'static str {
        if self.is_in_hand(&item.key) {
            return "the attempt that works on the same table";
        }
        let lane = match item.key.kind {
            OperationKind::Cleanup if !self.one_pass => Lane::Cleanup,
            _ => Lane::Heavy,
        };
        let of_lane = || self.running.values().filter(|running| running.lane == lane);
        let held: u64 = of_lane().map(|running| running.memory).sum();
        match lane {
            _ if of_lane().count() >= self.limit(lane) => {
                "an attempt that ends: all permits are taken"
            }
            Lane::Heavy if held + self.holds(lane, item) > self.permits.memory => {
                "memory of the budget, which running attempts hold"
            }
            _ => "its turn, behind what is more urgent",
        }
    }

    fn limit(&self, lane: Lane) -> usize {
        match lane {
            Lane::Heavy => self.permits.heavy,
            Lane::Light => self.permits.light,
            Lane::Cleanup => self.permits.cleanups,
        }
    }

    /// Takes down what is held back, and gives it with the reason.
    pub(crate) fn take_down(
        &mut self,
        mut held: impl FnMut(&WorkItem) -> Option<Held>,
    ) -> Vec<(WorkItem, Held)> {
        let mut down = Vec::new();
        self.waiting
            .retain(|_, Waiting { item, .. }| match held(item) {
                None => true,
                Some(why) => {
                    down.push((item.clone(), why));
                    false
                }
            });
        down
    }

    /// The most urgent work for which there is a permit and that is not `held` back. It holds the permit until it
    /// [ended](Self::ended).
    pub(crate) fn take(
        &mut self,
        now: Duration,
        mut held: impl FnMut(&WorkItem) -> Option<Held>,
    ) -> Option<WorkItem> {
        if !self.changed {
            return None;
        }
        for lane in [Lane::Cleanup, Lane::Light, Lane::Heavy] {
            let Some(key) = self.first_of(lane, now, &mut held) else {
                continue;
            };
            let Waiting { item, .. } = self.waiting.remove(&key)?;
            let memory = self.holds(lane, &item);
            self.running.insert(key, Running { lane, memory });
            return Some(item);
        }
        self.changed = false;
        None
    }

    /// Gives its permit back.
    pub(crate) fn ended(&mut self, key: &WorkKey) {
        self.running.remove(key);
        self.changed = true;
    }

    /// The first in the line of `lane`, if it may start. What does not fit into the memory that is left is waited for:
    /// smaller ones that kept coming would pass it for ever.
    fn first_of(
        &self,
        lane: Lane,
        now: Duration,
        held: &mut impl FnMut(&WorkItem) -> Option<Held>,
    ) -> Option<WorkKey> {
        let limit = self.limit(lane);
        let of_lane = || self.running.values().filter(|running| running.lane == lane);
        if of_lane().count() >= limit {
            return None;
        }
        let mut first: Option<((u64, Reverse<Duration>), &Waiting)> = None;
        for waiting in self.waiting.values() {
            let rank = (waiting.urgency(now), Reverse(waiting.since));
            let is_behind = first.as_ref().is_some_and(|(of_first, _)| *of_first > rank);
            // The cheap questions come first: there may be thousands.
            if !is_behind
                && self.may_take(lane, &waiting.item)
                && !self.is_in_hand(&waiting.item.key)
                && held(&waiting.item).is_none()
            {
                first = Some((rank, waiting));
            }
        }
        let (_, first) = first?;
        let in_use: u64 = of_lane().map(|running| running.memory).sum();
        let fits =
            lane != Lane::Heavy || in_use + self.holds(lane, &first.item) <= self.permits.memory;
        fits.then(|| first.item.key.clone())
    }

    fn may_take(&self, lane: Lane, item: &WorkItem) -> bool {
        let is_cleanup = item.key.kind == OperationKind::Cleanup;
        match lane {
            Lane::Heavy => !is_cleanup || self.one_pass,
            Lane::Light => !is_cleanup && item.memory <= self.permits.light_memory,
            Lane::Cleanup => is_cleanup,
        }
    }

    /// One that would never fit holds all there is, and so runs alone.
    fn holds(&self, lane: Lane, item: &WorkItem) -> u64 {
        match lane {
            Lane::Heavy => item.memory.min(self.permits.memory),
            Lane::Light | Lane::Cleanup => item.memory,
        }
    }

    /// Whether an attempt runs on the same table, or on the same store as a whole.
    fn is_in_hand(&self, key: &WorkKey) -> bool {
        let same =
            |running: &WorkKey| running.location == key.location && running.scope == key.scope;
        self.running.keys().any(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::decide::planning::OperationSpec;
    use crate::decide::quarantine::Fingerprints;
    use crate::decide::work::{Trigger, score};
    use OperationKind::{Cleanup, Compact, Reindex};

    const NOW: Duration = Duration::from_secs(1_000);

    fn budget(max_concurrent: usize, memory: u64) -> Budget {
        Budget {
            max_concurrent,
            memory,
            bytes_per_second: None,
            min_free: None,
        }
    }

    fn target(table: &str) -> Target {
        Target::Plain(table.to_owned())
    }

    fn spec(kind: OperationKind) -> OperationSpec {
        OperationSpec {
            kind,
            reason: String::new(),
            debt: 1.0,
            needs: 0,
        }
    }

    fn item(table: &str, kind: OperationKind, memory: u64) -> WorkItem {
        WorkItem {
            key: WorkKey {
                location: "lake".into(),
                scope: Scope::Table(target(table)),
                kind,
            },
            trigger: Trigger::Threshold,
            reason: String::new(),
            score: score(&spec(kind), Trigger::Threshold),
            memory,
            needs: 0,
            policy: Policy::default(),
            fingerprints: Fingerprints::default(),
            resting: Default::default(),
        }
    }

    fn board(max_concurrent: usize, memory: u64, items: &[(&str, OperationKind, u64)]) -> Board {
        let mut board = Board::new(&budget(max_concurrent, memory), false);
        for (table, kind, memory) in items {
            board.add(item(table, *kind, *memory), NOW);
        }
        board
    }

    /// What may start now, each as kind and table.
    fn started(board: &mut Board) -> Vec<String> {
        let take = || board.take(NOW, |_| None);
        let named = |i: WorkItem| format!("{} {}", i.key.kind.as_str(), i.key.scope);
        std::iter::from_fn(take).map(named).collect()
    }

    const BIG: u64 = 1 << 30;

    #[test]
    fn a_small_table_and_a_cleanup_do_not_wait_for_a_large_one() {
        let mut board = board(
            1,
            4 * BIG,
            &[
                ("big", Compact, BIG),
                ("large", Compact, BIG),
                ("small", Compact, 1 << 20),
                ("tiny", Reindex, 1),
                ("any", Cleanup, 0),
            ],
        );
        let first = ["cleanup any", "compact small", "compact large"];
        assert_eq!(started(&mut board), first);
        board.ended(&item("small", Compact, 0).key);
        assert_eq!(started(&mut board), ["reindex tiny"]);
        board.ended(&item("large", Compact, 0).key);
        assert_eq!(started(&mut board), ["compact big"]);
    }

    #[test]
    fn one_attempt_at_a_time_works_on_a_table() {
        let work = [("t", Compact, BIG), ("t", Reindex, BIG), ("t", Cleanup, 0)];
        let mut board = board(4, 8 * BIG, &work);
        for next in ["cleanup t", "compact t", "reindex t"] {
            assert_eq!(started(&mut board), [next]);
            let kind = *OperationKind::ALL
                .iter()
                .find(|kind| next.starts_with(kind.as_str()))
                .unwrap();
            board.ended(&item("t", kind, 0).key);
        }
        assert!(board.is_empty());
    }

    #[test]
    fn what_does_not_fit_into_memory_is_waited_for() {
        let mut board = board(4, 4 * BIG, &[("a", Compact, 3 * BIG)]);
        assert_eq!(started(&mut board), ["compact a"]);
        board.add(item("b", Compact, 2 * BIG), NOW);
        board.add(item("c", Reindex, BIG / 2), NOW);
        assert_eq!(
            started(&mut board),
            [""; 0],
            "the smaller one does not pass"
        );
        board.ended(&item("a", Compact, 0).key);
        assert_eq!(started(&mut board), ["compact b", "reindex c"]);
    }

    #[test]
    fn an_attempt_larger_than_the_budget_runs_alone() {
        let mut board = board(4, BIG, &[("a", Compact, 9 * BIG)]);
        assert_eq!(started(&mut board), ["compact a"]);
        board.add(item("b", Compact, BIG / 2), NOW);
        assert_eq!(started(&mut board), [""; 0]);
    }

    #[test]
    fn one_pass_has_no_lane_of_its_own_for_anything() {
        let mut board = Board::new(&budget(1, 4 * BIG), true);
        board.add(item("a", Compact, 1), NOW);
        board.add(item("b", Cleanup, 0), NOW);
        assert_eq!(started(&mut board), ["cleanup b"]);
        board.ended(&item("b", Cleanup, 0).key);
        assert_eq!(started(&mut board), ["compact a"]);
    }

    #[test]
    fn waiting_outweighs_a_class() {
        let mut board = board(1, 4 * BIG, &[("old", Reindex, BIG)]);
        let later = NOW + Duration::from_secs(1_900);
        board.add(item("new", Compact, BIG), later);
        // Put up again by a look, it keeps its place.
        board.replace(
            "lake",
            &target("old"),
            vec![item("old", Reindex, BIG)],
            later,
        );
        let first = board.take(later, |_| None).unwrap();
        assert_eq!(first.key.scope, Scope::Table(target("old")));
    }

    #[test]
    fn what_waits_is_shown_with_what_it_waits_for() {
        let mut board = board(2, 4 * BIG, &[("a", Compact, 3 * BIG)]);
        assert_eq!(started(&mut board), ["compact a"]);
        board.add(item("a", Reindex, BIG), NOW);
        board.add(item("b", Compact, 2 * BIG), NOW);
        let later = NOW + Duration::from_secs(7);
        let first = board.waiting(later, |_| None);
        assert_eq!((first.len(), first[0].seconds), (2, 7));
        assert_eq!(board.longest_wait(later, |_| None).as_secs(), 7);
        let closed = |_: &WorkItem| Some(Held::Closed(None));
        assert_eq!(board.longest_wait(later, closed).as_secs(), 0);
        assert_eq!(first[0].table, "b");
        assert!(first[0].wait.held.starts_with("memory"), "{first:?}");
        assert!(first[1].wait.held.contains("same table"), "{first:?}");
        board.set_budget(&budget(1, 4 * BIG));
        assert!(
            board.waiting(NOW, |_| None)[0]
                .wait
                .held
                .contains("permits")
        );
    }

    #[test]
    fn what_a_person_asked_for_goes_first_and_holds_a_permit_like_all_else() {
        let mut board = board(1, 4 * BIG, &[]);
        for table in ["a", "b", "c"] {
            board.add(item(table, Compact, BIG), NOW);
        }
        assert_eq!(started(&mut board), ["compact c"]);
        let asked = WorkItem {
            trigger: Trigger::Asked,
            score: score(&spec(Reindex), Trigger::Asked),
            ..item("z", Reindex, BIG)
        };
        // What waits has waited for two hours.
        let later = NOW + Duration::from_secs(2 * 3_600);
        board.add(asked, later);
        assert!(board.take(later, |_| None).is_none(), "the permit is taken");
        board.ended(&item("c", Compact, 0).key);
        let first = board.take(later, |_| None).unwrap();
        assert_eq!(first.key.scope, Scope::Table(target("z")));
        assert!(board.take(later, |_| None).is_none());
    }

    #[test]
    fn what_is_held_back_waits_with_a_reason_and_stands_in_nobodys_way() {
        let mut board = board(1, 4 * BIG, &[("a", Compact, BIG), ("b", Reindex, BIG)]);
        let mut closed = true;
        let held = |closed: bool| {
            move |item: &WorkItem| {
                let is_a = item.key.scope == Scope::Table(target("a"));
                (closed && is_a).then_some(Held::Closed(None))
            }
        };
        let first = board.take(NOW, held(closed)).unwrap();
        assert_eq!(first.key.scope, Scope::Table(target("b")));
        board.ended(&first.key);
        assert!(board.take(NOW, held(closed)).is_none());
        let waiting = board.waiting(NOW, held(closed));
        let why = waiting[0].wait.held.as_str();
        assert_eq!(
            (waiting.len(), why),
            (1, "its maintenance window does not open")
        );
        closed = false;
        board.look_again();
        assert!(board.take(NOW, held(closed)).is_some());

        let mut board = self::board(1, BIG, &[("a", Compact, 1), ("b", Compact, 1)]);
        let down = board.take_down(held(true));
        assert_eq!(down[0].0.key.scope, Scope::Table(target("a")));
        assert_eq!((down.len(), board.waiting(NOW, held(true)).len()), (1, 1));
    }

    #[test]
    fn a_look_replaces_what_the_look_before_decided() {
        let mut board = board(4, 8 * BIG, &[("t", Compact, BIG), ("t", Cleanup, 0)]);
        board.replace("lake", &target("t"), Vec::new(), NOW);
        assert_eq!(started(&mut board), ["cleanup t"]);
    }
}
