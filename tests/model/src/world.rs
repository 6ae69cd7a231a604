//! What lies on storage, as far as the protocol can see it, and ghosts that only the invariants read.
//!
//! A version is who made it, what rows it shows and whether cleanup took it. The manifest's history keeps its numbers. Every
//! function here is one request to storage: a put-if-absent, a delete, a listing.

use crate::ids::OpId;
use crate::invariants::Invariant;
use crate::protocol::{self, Chain, Effect, Kind, Marks};
use crate::scenario::{OpConfig, Write};
use crate::squire::Squire;

/// Names of tables.
pub const NAMES: usize = 2;
/// Datasets: one for each name, and fresh paths for creates.
pub const PATHS: usize = 5;
/// Operations of a scenario, maintenance runs included.
pub const OPS: usize = 6;
/// The first id of a foreign commit in [`Content`].
pub const FOREIGN: u8 = 8;

/// A set of operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ops(u8);

impl Ops {
    pub fn has(self, op: u8) -> bool {
        self.0 & (1 << op) != 0
    }
    pub fn put(&mut self, op: u8) {
        self.0 |= 1 << op;
    }
    pub fn drop(&mut self, op: u8) {
        self.0 &= !(1 << op);
    }
    pub fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..OPS as u8).filter(move |op| self.has(*op))
    }
}

/// The rows that a version shows: whose effects they hold, in order. Four bits each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Content(u64);

impl Content {
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..16)
            .rev()
            .map(move |i| (self.0 >> (4 * i)) & 15)
            .filter(|e| *e != 0)
            .map(|e| e as u8 - 1)
    }
    pub fn has(self, op: u8) -> bool {
        self.iter().any(|o| o == op)
    }
    pub fn with(self, op: u8) -> Self {
        Self(self.0 << 4 | u64::from(op + 1))
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Who made a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Made {
    Initial,
    Maintenance,
    Logical(u8),
    Undo(u8),
    Foreign,
}

/// One version of one dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    pub made: Made,
    pub content: Content,
    /// False once cleanup removed it. Its number can then be put again (fact 8).
    pub there: bool,
}

/// What a table shows; version 0 stands for a table that was not created yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Pin {
    pub path: u8,
    pub version: u8,
}

/// One version of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Manifest {
    pub number: u8,
    pub pins: [Pin; NAMES],
    pub floors: [u8; NAMES],
    pub floor: u8,
    pub aborted: Ops,
    /// Decisions that were published up to here may be forgotten.
    pub forgotten: u8,
    /// Paths whose table was dropped, a bit each.
    pub dropped: u8,
    /// By batch id: the operation that committed it, plus one.
    pub batches: [u8; 2],
    /// Whether a batch id was dropped because the commit log holds it.
    pub evicted: bool,
    /// Up to which version the commit log was copied.
    pub through: u8,
    /// The operation that this version published, plus one.
    pub record: u8,
}

/// What an operation found when it began, and what its sidecar says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The manifest version that it stands on.
    pub on: u8,
    /// The mark of cleanup when that was looked for.
    pub mark: u8,
    /// By name: the pin, of written and read tables.
    pub base: [u8; NAMES],
    /// By name: the dataset.
    pub path: [u8; NAMES],
    /// By name: what the pins showed, which is what an update was staged on.
    pub content: [Content; NAMES],
    /// Ghost: by name, what was committed then.
    pub seen: [Content; NAMES],
}

/// What a caller was told of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Told {
    #[default]
    Nothing,
    Committed,
    Aborted,
    Unknown,
}

/// What a publish changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// The pins of a complete operation, by position in its writes.
    Forward(u8, [u8; NAMES]),
    /// The decision to abort.
    Abort(u8),
    /// The pins of an undone operation, by position; 0 for none.
    Settle(u8, [u8; NAMES]),
    /// The clean prefix of a table, by name.
    Prefix(u8, u8),
    /// Reviewed drift of a table.
    Adopt(u8, u8),
    /// A table, by name, is shown no more.
    Drop(u8),
    /// Floors of tables and of the manifest; how far the log reaches; decisions to forget.
    Floors {
        floors: [u8; NAMES],
        manifest: u8,
        through: u8,
        forget: Ops,
    },
}

/// A put that was reported as failed and may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flight {
    Sidecar(u8),
    Version {
        path: u8,
        slot: u8,
        version: Version,
    },
    Publish {
        on: u8,
        change: Change,
    },
}

/// Storage and ghosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The manifest's versions that can still matter, oldest first.
    pub history: Vec<Manifest>,
    /// Manifest versions below this number are gone.
    pub manifest_from: u8,
    /// Changed by a cleanup before it removes versions of the manifest.
    pub mark: u8,
    pub tables: [Vec<Version>; PATHS],
    pub sidecars: Ops,
    /// Operations whose processes are known to be dead.
    pub inherited: Ops,
    /// Operations that `commits.lance` shows as published.
    pub log: Ops,
    pub facts: [Facts; OPS],
    pub flight: Vec<Flight>,
    pub faults: u8,
    pub foreign: u8,
    pub publishes: u8,
    /// Ghost.
    pub told: [Told; OPS],
    /// Ghost: published, in truth.
    pub committed: Ops,
    /// Ghost: decided to abort, also when the decision was forgotten.
    pub decided: Ops,
    /// Ghost: by name, what the committed operations made.
    pub expected: [Content; NAMES],
    /// Ghost: invariants that a step broke.
    pub broken: u16,
}

impl World {
    pub fn latest(&self) -> Manifest {
        self.history[self.history.len() - 1]
    }

    pub fn broke(&mut self, invariant: Invariant) {
        self.broken |= 1 << invariant as u16;
    }

    pub fn head(&self, path: u8) -> u8 {
        self.tables[path as usize].len() as u8
    }

    pub fn version(&self, path: u8, v: u8) -> Option<&Version> {
        self.tables[path as usize].get(usize::from(v).checked_sub(1)?)
    }

    pub fn content(&self, path: u8, v: u8) -> Content {
        self.version(path, v)
            .map_or(Content::default(), |v| v.content)
    }

    /// The versions above `from`, classified by the engine's own function. What is gone is foreign.
    pub fn chain(&self, path: u8, from: u8) -> Chain {
        let classes = self.tables[path as usize]
            .iter()
            .skip(from.into())
            .map(|v| {
                if !v.there {
                    return protocol::Class::Foreign;
                }
                let mark = |op, kind| Some(Marks { op: OpId(op), kind });
                match v.made {
                    Made::Maintenance => protocol::classify(Effect::PreservesContent, None),
                    Made::Logical(op) => {
                        protocol::classify(Effect::ChangesContent, mark(op, Kind::Logical))
                    }
                    Made::Undo(op) => protocol::classify(Effect::Restore, mark(op, Kind::Undo)),
                    Made::Initial | Made::Foreign => {
                        protocol::classify(Effect::ChangesContent, None)
                    }
                }
            })
            .collect();
        Chain {
            from: from.into(),
            classes,
        }
    }

    /// Puts a version if its number is free: the next one, or one that cleanup freed.
    pub fn put_version(&mut self, model: &Squire, path: u8, slot: u8, version: Version) -> bool {
        let head = self.head(path);
        if slot > head + 1 || self.version(path, slot).is_some_and(|v| v.there) {
            return false;
        }
        if slot <= head {
            model.reached(crate::invariants::Event::PrunedTablePut);
            self.tables[path as usize][usize::from(slot) - 1] = version;
            return true;
        }
        self.tables[path as usize].push(version);
        if let Made::Undo(op) = version.made {
            crate::invariants::check_undo(self, path, slot, op);
        }
        crate::invariants::check_undecided(self, path);
        true
    }

    /// What Lance makes of a transaction that was staged on `base`, which showed `then`, and lands on top of `head`: the
    /// content of `head`, in which an update that Lance did not see, because its version is gone, is lost (fact 5).
    pub fn rebased(
        &self,
        model: &Squire,
        path: u8,
        (base, then): (u8, Content),
        head: u8,
    ) -> Content {
        self.content(path, head)
            .iter()
            .filter(|op| {
                let unseen = !then.has(*op)
                    && !self.tables[path as usize]
                        .iter()
                        .take(head.into())
                        .skip(base.into())
                        .any(|v| v.there && v.made == Made::Logical(*op));
                !(unseen && model.op(*op).is_some_and(|o| o.write == Write::Update))
            })
            .fold(Content::default(), Content::with)
    }

    /// The content of a rewrite that shows the updates of `rewritten`, and those that were carried, above `head`.
    pub fn carried(
        &self,
        model: &Squire,
        path: u8,
        (then, carried): (Content, Content),
        head: u8,
    ) -> Content {
        let is_update = |op: u8| model.op(op).is_some_and(|o| o.write == Write::Update);
        self.content(path, head)
            .iter()
            .filter(|op| !is_update(*op) || then.has(*op) || carried.has(*op))
            .fold(Content::default(), Content::with)
    }

    /// Publishes `change` on exactly `on`. True is what storage says: it says so too for a number that cleanup freed.
    pub fn publish(&mut self, model: &Squire, on: u8, change: Change) -> bool {
        if on + 1 < self.manifest_from {
            model.reached(crate::invariants::Event::PrunedPublish);
            return true;
        }
        let before = self.latest();
        if before.number != on {
            return false;
        }
        let mut next = before;
        next.number = on + 1;
        next.record = 0;
        self.apply(model, &mut next, change);
        if !model.scenario.keeps_history() {
            self.history.clear();
        }
        self.history.push(next);
        crate::invariants::check_publish(self, model, &before);
        true
    }

    fn apply(&mut self, model: &Squire, next: &mut Manifest, change: Change) {
        match change {
            Change::Forward(op, versions) => {
                let config = &model.scenario.ops[op as usize];
                let facts = self.facts[op as usize];
                for (name, version) in config.writes.iter().zip(versions) {
                    let path = facts.path[*name as usize];
                    next.pins[*name as usize] = Pin { path, version };
                }
                next.record = op + 1;
                if let Some(batch) = config.batch {
                    next.batches[batch as usize] = op + 1;
                }
                self.commit(model, op, config);
            }
            Change::Abort(op) => {
                next.aborted.put(op);
                if self.committed.has(op) {
                    self.broke(Invariant::I3);
                }
                self.decided.put(op);
            }
            Change::Settle(op, versions) => {
                let writes = model.scenario.ops[op as usize].writes;
                for (name, version) in writes.iter().zip(versions).filter(|(_, v)| *v > 0) {
                    next.pins[*name as usize].version = version;
                }
            }
            Change::Prefix(name, to) => next.pins[name as usize].version = to,
            Change::Adopt(name, to) => {
                let pin = &mut next.pins[name as usize];
                pin.version = to;
                let shown = self.content(pin.path, to);
                let expected = &mut self.expected[name as usize];
                *expected = shown
                    .iter()
                    .filter(|f| *f >= FOREIGN && !expected.has(*f))
                    .fold(*expected, Content::with);
            }
            Change::Drop(name) => {
                let path = name;
                let gone =
                    std::mem::replace(&mut next.pins[name as usize], Pin { path, version: 0 });
                next.dropped |= 1 << gone.path;
                next.floors[name as usize] = 0;
                self.expected[name as usize] = Content::default();
            }
            Change::Floors {
                floors,
                manifest,
                through,
                forget,
            } => {
                for (floor, new) in next.floors.iter_mut().zip(floors) {
                    *floor = (*floor).max(new);
                }
                next.floor = next.floor.max(manifest);
                next.through = next.through.max(through);
                if model.scenario.evicts {
                    next.evicted = true;
                    next.batches = [0; 2];
                }
                if !forget.is_empty() {
                    next.forgotten = through;
                }
                forget.iter().for_each(|op| next.aborted.drop(op));
            }
        }
    }

    /// Ghost: `op` becomes visible now.
    fn commit(&mut self, model: &Squire, op: u8, config: &OpConfig) {
        if self.decided.has(op) {
            self.broke(Invariant::I3);
        }
        if self.told[op as usize] == Told::Aborted {
            self.broke(Invariant::I4);
        }
        if self.committed.has(op) {
            return;
        }
        let facts = self.facts[op as usize];
        let stale = |name: &&u8| facts.seen[**name as usize] != self.expected[**name as usize];
        if config.reads.iter().any(|name| stale(&name)) {
            self.broke(Invariant::I9);
        }
        let twin =
            |o: u8| config.batch.is_some() && model.scenario.ops[o as usize].batch == config.batch;
        if self.committed.iter().any(twin) {
            self.broke(Invariant::Once);
        }
        self.committed.put(op);
        for name in config.writes {
            let expected = &mut self.expected[*name as usize];
            *expected = expected.with(op);
        }
    }

    /// Tells a caller how `op` ended.
    pub fn tell(&mut self, op: u8, told: Told) {
        let wrong = match told {
            Told::Committed => !self.committed.has(op),
            Told::Aborted => self.committed.has(op),
            Told::Nothing | Told::Unknown => false,
        };
        if wrong {
            self.broke(Invariant::I4);
        }
        self.told[op as usize] = told;
    }

    /// What `outcome_of` reads: the history that the snapshot reaches, then the commit log.
    pub fn logged(&self, snapshot: &Manifest, op: u8) -> bool {
        let published = |m: &Manifest| {
            m.number > snapshot.through && m.number <= snapshot.number && m.record == op + 1
        };
        self.history.iter().any(published) || (snapshot.through > 0 && self.log.has(op))
    }
}
