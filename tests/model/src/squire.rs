//! The model: a scenario, at most one missing guard, and what was reached.

use crate::invariants::{Event, Invariant};
use crate::mutation::Mutation;
use crate::process::{self, Proc};
use crate::scenario::{OpConfig, Process, Scenario, Write};
use crate::world::{Content, Made, Manifest, NAMES, Pin, Told, Version, World};
use stateright::{Model, Property};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub world: World,
    pub procs: Vec<Proc>,
}

/// One atomic step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// This process takes its next step; the number picks among what may happen.
    Step(u8, u8),
    /// This process dies, and another one takes its place.
    Restart(u8),
    /// Someone else commits to table 0.
    Foreign,
    /// Someone else publishes something of no concern here.
    Publish,
    /// This put, reported as failed before, arrives.
    Arrive(u8),
}

/// Without this, nothing else that holds means much.
pub const COMMITS: &str = "an operation commits";

/// What is known of worlds: many states share one.
#[derive(Debug)]
struct Memo(Vec<Mutex<HashMap<u64, bool>>>);

impl Default for Memo {
    fn default() -> Self {
        Self((0..64).map(|_| Mutex::default()).collect())
    }
}

/// The model.
#[derive(Debug)]
pub struct Squire {
    pub scenario: &'static Scenario,
    pub without: &'static [Mutation],
    events: AtomicU32,
    at_rest: Memo,
}

impl Squire {
    pub fn new(scenario: &'static Scenario, without: &'static [Mutation]) -> Self {
        Self {
            scenario,
            without,
            events: AtomicU32::new(0),
            at_rest: Memo::default(),
        }
    }

    pub fn lacks(&self, mutation: Mutation) -> bool {
        self.without.contains(&mutation)
    }

    /// Notes that `event` happened. Not part of the state: it would only multiply states.
    pub fn reached(&self, event: Event) {
        self.events.fetch_or(1 << event as u32, Ordering::Relaxed);
    }

    pub fn has_reached(&self, event: Event) -> bool {
        self.events.load(Ordering::Relaxed) & (1 << event as u32) != 0
    }

    /// Whether `world` was found to come to rest before, or does so now.
    pub fn rests(&self, world: &World, look: impl FnOnce() -> bool) -> bool {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        world.hash(&mut hasher);
        let key = hasher.finish();
        let shard = &self.at_rest.0[(key % 64) as usize];
        let known = |shard: &Mutex<HashMap<u64, bool>>| {
            let map = shard.lock().unwrap_or_else(PoisonError::into_inner);
            map.get(&key).copied()
        };
        known(shard).unwrap_or_else(|| {
            let rests = look();
            let mut map = shard.lock().unwrap_or_else(PoisonError::into_inner);
            map.insert(key, rests);
            rests
        })
    }

    /// Whether the versions of `op` are all that tells of it.
    pub fn has_no_sidecar(&self, op: u8) -> bool {
        let covered = match self.scenario.ops[op as usize].write {
            Write::Append | Write::Update => true,
            Write::Create => self.lacks(Mutation::NoSidecarOfCreate),
            Write::Maintain => false,
        };
        covered && self.lacks(Mutation::NoSidecar)
    }

    pub fn op(&self, op: u8) -> Option<&OpConfig> {
        self.scenario.ops.get(op as usize)
    }
}

/// The operation of a stopped writer: its sidecar stands, and so does the decision.
fn abort_from_the_start(model: &Squire, world: &mut World, op: u8) {
    let facts = &mut world.facts[op as usize];
    facts.on = 1;
    facts.base = [1; NAMES];
    facts.path = std::array::from_fn(|name| name as u8);
    if !model.has_no_sidecar(op) {
        world.sidecars.put(op);
    }
    world.decided.put(op);
    world.history[0].number = 2;
    world.history[0].aborted.put(op);
}

impl Model for Squire {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut manifest = Manifest {
            number: 1,
            pins: [Pin::default(); 2],
            floors: [0; 2],
            floor: 0,
            aborted: crate::world::Ops::default(),
            forgotten: 0,
            dropped: 0,
            batches: [0; 2],
            evicted: false,
            through: 0,
            record: 0,
        };
        let mut tables: [Vec<Version>; crate::world::PATHS] = Default::default();
        for name in 0..self.scenario.tables {
            manifest.pins[name as usize] = Pin {
                path: name,
                version: 1,
            };
            tables[name as usize].push(Version {
                made: Made::Initial,
                content: Content::default(),
                there: true,
            });
        }
        for name in self.scenario.tables..2 {
            manifest.pins[name as usize].path = name;
        }
        let world = World {
            history: vec![manifest],
            manifest_from: 1,
            mark: 0,
            tables,
            sidecars: crate::world::Ops::default(),
            inherited: crate::world::Ops::default(),
            log: crate::world::Ops::default(),
            facts: Default::default(),
            flight: Vec::new(),
            faults: self.scenario.faults,
            foreign: self.scenario.foreign,
            publishes: self.scenario.publishes,
            told: [Told::Nothing; crate::world::OPS],
            committed: crate::world::Ops::default(),
            decided: crate::world::Ops::default(),
            expected: Default::default(),
            broken: 0,
        };
        let mut world = world;
        let stopped = self.scenario.procs.iter().filter_map(|p| match p {
            Process::Stopped(op) => Some(*op),
            _ => None,
        });
        stopped.for_each(|op| abort_from_the_start(self, &mut world, op));
        let procs = self.scenario.procs.iter();
        let procs = procs.map(|p| process::begin(self.scenario, p)).collect();
        vec![State { world, procs }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, proc) in (0u8..).zip(&state.procs) {
            let choices = process::choices(self, &state.world, index, proc);
            actions.extend((0..choices).map(|c| Action::Step(index, c)));
            if process::may_restart(self, index, proc) {
                actions.push(Action::Restart(index));
            }
        }
        if state.world.foreign > 0 {
            actions.push(Action::Foreign);
        }
        if state.world.publishes > 0 {
            actions.push(Action::Publish);
        }
        actions.extend((0..state.world.flight.len() as u8).map(Action::Arrive));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step(index, choice) => {
                let mut proc = state.procs[index as usize].clone();
                process::step(self, &mut state.world, index, &mut proc, choice);
                state.procs[index as usize] = proc;
            }
            Action::Restart(index) => state.procs[index as usize] = Proc::Idle,
            Action::Foreign => crate::outside::foreign_commit(self, &mut state.world),
            Action::Publish => crate::outside::publish(self, &mut state.world),
            Action::Arrive(index) => {
                crate::outside::arrive(self, &mut state.world, index as usize);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn holds(invariant: Invariant, state: &State) -> bool {
            state.world.broken & (1 << invariant as u16) == 0
        }
        use Invariant as I;
        vec![
            Property::always(I::I1.name(), |_, s| holds(I::I1, s)),
            Property::always(I::I2.name(), |_, s| holds(I::I2, s)),
            Property::always(I::I3.name(), |_, s| holds(I::I3, s)),
            Property::always(I::I4.name(), |_, s| holds(I::I4, s)),
            Property::always(I::I5.name(), |_, s| holds(I::I5, s)),
            Property::always(I::I6.name(), |_, s| holds(I::I6, s)),
            Property::always(I::I7.name(), |_, s| holds(I::I7, s)),
            Property::always(I::I8.name(), crate::rest::comes_to_rest),
            Property::always(I::I9.name(), |_, s| holds(I::I9, s)),
            Property::always(I::I10.name(), |_, s| holds(I::I10, s)),
            Property::always(I::I11.name(), |_, s| holds(I::I11, s)),
            Property::always(I::Once.name(), |_, s| holds(I::Once, s)),
            Property::sometimes(COMMITS, |_, s: &State| !s.world.committed.is_empty()),
        ]
    }
}
