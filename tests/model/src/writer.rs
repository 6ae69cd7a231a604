//! A writer: the attempts of one request, `commit/logical.rs` and `commit/landing.rs` of the engine.

use crate::ids::OpId;
use crate::invariants::Event;
use crate::mutation::Mutation;
use crate::process::{Fault, Proc};
use crate::protocol::{
    Class, Refused, Role, after_refusal, is_burned, is_without_trace, obstacle, publish_counts,
};
use crate::resolver;
use crate::scenario::{Process, Write};
use crate::squire::Squire;
use crate::world::{
    Change, Facts, Flight, Made, Manifest, NAMES, OPS, PATHS, Told, Version, World,
};

/// By position in the operation's writes: the slot, then the version that landed.
pub type Slots = [u8; NAMES];

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// Loads the manifest.
    Load,
    /// Looks for obstacles and picks the slots.
    Scan,
    /// Phase A.
    Sidecar(Slots),
    /// Phase A failed: takes it back.
    DropSidecar,
    /// Phase B: Lance looks at what was committed since the base; the guard refuses all but the slot.
    Check(u8, Slots),
    /// Phase B: the put.
    Put(u8, Slots),
    /// Looks again after a refusal, which was definite or not.
    Rescan(u8, Slots, bool),
    /// Phase C.
    Publish(Slots),
    /// Looks whether the publish counts.
    Verify,
    /// Phase D.
    Retire(Told),
}

pub fn choices(world: &World, at: &At) -> u8 {
    match at {
        At::Load | At::Scan | At::Check(..) | At::Rescan(..) | At::Verify => 1,
        At::Sidecar(_) | At::Put(..) | At::Publish(_) => Fault::ways(world),
        At::DropSidecar | At::Retire(_) => 1 + u8::from(world.faults > 0),
    }
}

pub fn step(
    model: &Squire,
    world: &mut World,
    config: Process,
    op: u8,
    at: At,
    choice: u8,
) -> Proc {
    match at {
        At::Load => load(model, world, op),
        At::Scan => scan(model, world, config, op),
        At::Sidecar(slots) => put_sidecar(model, world, op, slots, choice),
        At::DropSidecar => {
            delete_sidecar(world, op, choice);
            ended(world, config, op, Told::Aborted)
        }
        At::Check(i, slots) => check(model, world, op, (i, slots)),
        At::Put(i, slots) => put(model, world, op, (i, slots), choice),
        At::Rescan(i, slots, definite) => rescan(model, world, op, (i, slots), definite),
        At::Publish(versions) => publish(model, world, op, versions, choice),
        At::Verify => {
            let Facts { on, mark, .. } = world.facts[op as usize];
            let slot = on + 1;
            if mark == world.mark {
                // No number above the base was freed, so that nothing newer has to be looked for.
                return Proc::Write(op, At::Retire(Told::Committed));
            }
            let latest = world.latest();
            if latest.number == slot
                || publish_counts(slot.into(), latest.floor.into())
                || model.lacks(Mutation::BelievePublish)
            {
                return Proc::Write(op, At::Retire(Told::Committed));
            }
            model.reached(Event::PublishNotCounted);
            resolve(op)
        }
        At::Retire(told) => {
            delete_sidecar(world, op, choice);
            ended(world, config, op, told)
        }
    }
}

fn resolve(op: u8) -> Proc {
    Proc::Resolve(op, Role::Owner, resolver::At::Load)
}

/// Best effort: with a fault to spend it may fail.
pub fn delete_sidecar(world: &mut World, op: u8, choice: u8) {
    if choice == 0 {
        world.sidecars.drop(op);
    } else {
        world.faults -= 1;
    }
}

/// The caller is told; the next attempt begins if this one was lost.
pub fn ended(world: &mut World, config: Process, op: u8, told: Told) -> Proc {
    world.tell(op, told);
    let Process::Writer(attempts) = config else {
        return Proc::Idle;
    };
    let next = attempts.iter().skip_while(|o| **o != op).nth(1);
    match next {
        Some(next) if told == Told::Aborted => Proc::Write(*next, At::Load),
        _ => Proc::Over,
    }
}

fn load(model: &Squire, world: &mut World, op: u8) -> Proc {
    let base = world.latest();
    let config = &model.scenario.ops[op as usize];
    if config.batch.is_some() && batch_committed(model, world, &base, op) {
        model.reached(Event::BatchTaken);
        return Proc::Over;
    }
    let mut facts = Facts {
        on: base.number,
        mark: world.mark,
        ..Facts::default()
    };
    let mut named = config.writes.iter().chain(config.reads);
    if config.write != Write::Create && named.any(|n| base.pins[*n as usize].version == 0) {
        return Proc::Over;
    }
    for name in config.writes.iter().chain(config.reads) {
        let name = *name as usize;
        facts.base[name] = base.pins[name].version;
        facts.path[name] = base.pins[name].path;
        facts.content[name] = world.content(facts.path[name], facts.base[name]);
        facts.seen[name] = world.expected[name];
    }
    if config.write == Write::Create {
        let name = config.writes[0] as usize;
        if base.pins[name].version > 0 {
            return Proc::Over;
        }
        let plain = name as u8;
        if burned(model, world, &base, plain, op) || world.head(plain) > 0 {
            facts.path[name] = NAMES as u8 + op;
        } else {
            facts.path[name] = plain;
        }
    }
    world.facts[op as usize] = facts;
    Proc::Write(op, At::Scan)
}

/// `batch_committed` of the engine, for the batch of `op`.
pub fn batch_committed(model: &Squire, world: &World, snapshot: &Manifest, op: u8) -> bool {
    let Some(batch) = model.scenario.ops[op as usize].batch else {
        return false;
    };
    let entry = snapshot.batches[batch as usize];
    if entry != 0 {
        return entry != op + 1;
    }
    snapshot.evicted
        && world
            .log
            .iter()
            .any(|o| o != op && model.scenario.ops[o as usize].batch == Some(batch))
}

/// Whether the engine's rule says that `path` is burned for `op`.
pub fn burned(model: &Squire, world: &World, snapshot: &Manifest, path: u8, op: u8) -> bool {
    let written: Vec<(OpId, u8)> = snapshot
        .aborted
        .iter()
        .flat_map(|o| {
            let written = model.scenario.ops[o as usize].writes.iter();
            written.map(move |name| (OpId(o), world.facts[o as usize].path[*name as usize]))
        })
        .collect();
    let dropped = (0..PATHS as u8)
        .filter(|p| snapshot.dropped & (1 << p) != 0 && !model.lacks(Mutation::IgnoreDropped));
    let dropped: Vec<(OpId, u8)> = dropped.map(|p| (OpId(OPS as u8), p)).collect();
    let all = written.iter().chain(&dropped);
    is_burned(all.map(|(o, p)| (*o, p)), &path, OpId(op))
}

fn scan(model: &Squire, world: &mut World, config: Process, op: u8) -> Proc {
    let facts = world.facts[op as usize];
    let mut slots = Slots::default();
    for (slot, name) in slots.iter_mut().zip(model.scenario.ops[op as usize].writes) {
        let base = facts.base[*name as usize];
        let chain = world.chain(facts.path[*name as usize], base);
        if obstacle(&chain, base.into()).is_some() && !model.lacks(Mutation::DirtyBase) {
            return ended(world, config, op, Told::Aborted);
        }
        *slot = chain.head() as u8 + 1;
    }
    if model.lacks(Mutation::LateSidecar) || model.has_no_sidecar(op) {
        return Proc::Write(op, At::Check(0, slots));
    }
    Proc::Write(op, At::Sidecar(slots))
}

fn put_sidecar(model: &Squire, world: &mut World, op: u8, slots: Slots, choice: u8) -> Proc {
    let next = if model.lacks(Mutation::LateSidecar) {
        At::Publish(slots)
    } else {
        At::Check(0, slots)
    };
    let failed = Proc::Write(op, At::DropSidecar);
    match Fault::take(world, choice) {
        Fault::None => {
            world.sidecars.put(op);
            Proc::Write(op, next)
        }
        Fault::Landed => {
            world.sidecars.put(op);
            failed
        }
        Fault::Lost => failed,
        Fault::Late => {
            world.flight.push(Flight::Sidecar(op));
            failed
        }
    }
}

/// What Lance does between the commit call and the put. Without the slot it would rebase onto what it finds.
fn check(model: &Squire, world: &mut World, op: u8, (i, mut slots): (u8, Slots)) -> Proc {
    let config = &model.scenario.ops[op as usize];
    let facts = world.facts[op as usize];
    let name = config.writes[i as usize] as usize;
    let (path, base) = (facts.path[name], facts.base[name]);
    let head = world.head(path);
    let refused = Proc::Write(op, At::Rescan(i, slots, true));
    if head + 1 != slots[i as usize] {
        if !model.lacks(Mutation::NoSlot) || config.write == Write::Create {
            model.reached(Event::SlotRefused);
            return refused;
        }
        slots[i as usize] = head + 1;
    }
    if gap(world, path, base) && !model.lacks(Mutation::NoContiguity) {
        model.reached(Event::GapRefused);
        return refused;
    }
    let collides = world
        .chain(path, base)
        .iter()
        .any(|(_, class)| match class {
            Class::Undo(_) => true,
            Class::Logical(other) => {
                config.write == Write::Update
                    && model.op(other.0).is_some_and(|o| o.write == Write::Update)
            }
            Class::Maintenance | Class::Foreign => false,
        });
    if collides {
        return refused;
    }
    Proc::Write(op, At::Put(i, slots))
}

/// Whether a version between `base` and HEAD is gone: what Lance, left alone, would not notice.
pub fn gap(world: &World, path: u8, base: u8) -> bool {
    world.tables[path as usize]
        .iter()
        .skip(base.into())
        .any(|v| !v.there)
}

fn put(model: &Squire, world: &mut World, op: u8, (i, slots): (u8, Slots), choice: u8) -> Proc {
    let facts = world.facts[op as usize];
    let name = model.scenario.ops[op as usize].writes[i as usize] as usize;
    let (path, slot) = (facts.path[name], slots[i as usize]);
    let fault = Fault::take(world, choice);
    let doubtful = Proc::Write(op, At::Rescan(i, slots, false));
    let version = version_of(model, world, op, path, slot);
    match fault {
        Fault::Lost => return doubtful,
        Fault::Late => {
            world.flight.push(Flight::Version {
                path,
                slot,
                version,
            });
            return doubtful;
        }
        Fault::None | Fault::Landed => {}
    }
    if !world.put_version(model, path, slot, version) {
        return Proc::Write(op, At::Rescan(i, slots, true));
    }
    if fault == Fault::Landed {
        return doubtful;
    }
    landed(model, world, op, i, slots)
}

fn version_of(model: &Squire, world: &World, op: u8, path: u8, slot: u8) -> Version {
    let facts = world.facts[op as usize];
    let writes = model.scenario.ops[op as usize].writes;
    let name = writes.iter().find(|n| facts.path[**n as usize] == path);
    let name = name.map_or(0, |n| *n as usize);
    let staged = (facts.base[name], facts.content[name]);
    let content = world.rebased(model, path, staged, slot.saturating_sub(1));
    Version {
        made: Made::Logical(op),
        content: content.with(op),
        there: true,
    }
}

fn landed(model: &Squire, world: &mut World, op: u8, i: u8, slots: Slots) -> Proc {
    if usize::from(i) + 1 < model.scenario.ops[op as usize].writes.len() {
        return Proc::Write(op, At::Check(i + 1, slots));
    }
    if model.lacks(Mutation::LateSidecar) && !world.sidecars.has(op) {
        return Proc::Write(op, At::Sidecar(slots));
    }
    if model.lacks(Mutation::RetireFirst) {
        world.sidecars.drop(op);
    }
    Proc::Write(op, At::Publish(slots))
}

fn rescan(
    model: &Squire,
    world: &mut World,
    op: u8,
    (i, mut slots): (u8, Slots),
    definite: bool,
) -> Proc {
    let facts = world.facts[op as usize];
    let name = model.scenario.ops[op as usize].writes[i as usize] as usize;
    let chain = world.chain(facts.path[name], facts.base[name]);
    match after_refusal(&chain, OpId(op), slots[i as usize].into(), definite) {
        Refused::Landed(version) => {
            slots[i as usize] = version as u8;
            landed(model, world, op, i, slots)
        }
        Refused::Again(slot) => {
            model.reached(Event::SlotAgain);
            slots[i as usize] = slot as u8;
            Proc::Write(op, At::Check(i, slots))
        }
        Refused::Lost => {
            let definite = definite || model.lacks(Mutation::DoubtIsRefusal);
            if is_without_trace(i == 0, definite) {
                model.reached(Event::WithoutTrace);
                return Proc::Write(op, At::Retire(Told::Aborted));
            }
            resolve(op)
        }
    }
}

/// Everything was checked against the base, and the publish wins only on the base.
fn publish(model: &Squire, world: &mut World, op: u8, versions: Slots, choice: u8) -> Proc {
    if model.lacks(Mutation::LateMark) {
        world.facts[op as usize].mark = world.mark;
    }
    let on = world.facts[op as usize].on;
    let change = Change::Forward(op, versions);
    match Fault::take(world, choice) {
        Fault::None => {
            if world.publish(model, on, change) {
                return Proc::Write(op, At::Verify);
            }
        }
        Fault::Landed => {
            world.publish(model, on, change);
        }
        Fault::Lost => {}
        Fault::Late => world.flight.push(Flight::Publish { on, change }),
    }
    resolve(op)
}
