//! One maintenance run: sidecar, commits on HEAD that Lance may rebase, clean prefix. `maintenance/run.rs` of the engine.

use crate::invariants::Event;
use crate::mutation::Mutation;
use crate::prefix;
use crate::process::{Fault, Proc};
use crate::scenario::{Begins, Process, Write};
use crate::squire::Squire;
use crate::world::{Content, Facts, Flight, Made, Version, World};
use crate::writer::gap;

/// The version that a rewrite was staged on, and what it showed.
pub type Staged = (u8, Content);

/// Where a run is. Numbers: commits done, the version it was staged on, the version it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Sidecar,
    /// Opens HEAD and rewrites it.
    Stage(u8),
    /// Lance looks at what was committed meanwhile.
    Check(u8, Staged),
    /// The guard asks for the sidecar.
    Licence(u8, Staged, u8),
    Put(u8, Staged, u8),
    /// The commit is lost: looks at HEAD, and what was deleted since.
    Compare(u8, Staged),
    /// The guard asks for the sidecar of what is carried: the rewrite, what is carried, the slot.
    CarryLicence(u8, Staged, Content, u8),
    Carry(u8, Staged, Content, u8),
}

pub fn begin(begins: Begins) -> At {
    let first = (1, Content::default());
    match begins {
        Begins::Now => At::Sidecar,
        Begins::Staged => At::Check(0, first),
        Begins::Licensed => At::Put(0, first, 2),
    }
}

pub fn choices(world: &World, at: &At) -> u8 {
    match at {
        At::Sidecar
        | At::Stage(_)
        | At::Check(..)
        | At::Licence(..)
        | At::Compare(..)
        | At::CarryLicence(..) => 1,
        At::Put(..) | At::Carry(..) => Fault::ways(world),
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
    let name = model.scenario.ops[op as usize].writes[0];
    let path = world.latest().pins[name as usize].path;
    match at {
        At::Sidecar => {
            let mut facts = Facts::default();
            facts.base[name as usize] = world.latest().pins[name as usize].version;
            facts.path[name as usize] = path;
            world.facts[op as usize] = facts;
            world.sidecars.put(op);
            Proc::Maintain(op, At::Stage(0))
        }
        At::Stage(done) => {
            let head = world.head(path);
            Proc::Maintain(op, At::Check(done, (head, world.content(path, head))))
        }
        At::Check(done, staged) => {
            if gap(world, path, staged.0) && !model.lacks(Mutation::NoContiguity) {
                model.reached(Event::GapRefused);
                return Proc::Maintain(op, At::Compare(done, staged));
            }
            if collides(model, world, path, staged.0) {
                return Proc::Maintain(op, At::Compare(done, staged));
            }
            Proc::Maintain(op, At::Licence(done, staged, world.head(path) + 1))
        }
        At::Licence(done, staged, slot) => {
            if !world.sidecars.has(op) && !model.lacks(Mutation::NoLicence) {
                model.reached(Event::LicenceGone);
                return Proc::Prefix(name, prefix::After::Idle, prefix::At::Load);
            }
            Proc::Maintain(op, At::Put(done, staged, slot))
        }
        At::Put(done, staged, slot) => {
            let content = world.rebased(model, path, staged, slot - 1);
            match put(model, world, (path, slot, content), choice) {
                // Lance rebases by itself.
                None => Proc::Maintain(op, At::Check(done, staged)),
                Some(fault) => landed(model, config, op, done, fault),
            }
        }
        At::Compare(done, staged) => compare(model, world, op, path, (done, staged)),
        At::CarryLicence(done, staged, carried, slot) => {
            if !world.sidecars.has(op) && !model.lacks(Mutation::NoLicence) {
                model.reached(Event::LicenceGone);
                return Proc::Prefix(name, prefix::After::Idle, prefix::At::Load);
            }
            Proc::Maintain(op, At::Carry(done, staged, carried, slot))
        }
        At::Carry(done, staged, carried, slot) => {
            let slot = match model.lacks(Mutation::CarryWithoutSlot) {
                true => world.head(path) + 1,
                false => slot,
            };
            let content = world.carried(model, path, (staged.1, carried), slot - 1);
            match put(model, world, (path, slot, content), choice) {
                // Compared again, not rewritten again.
                None => {
                    model.reached(Event::SlotOfCarryLost);
                    Proc::Maintain(op, At::Compare(done, staged))
                }
                Some(fault) => landed(model, config, op, done, fault),
            }
        }
    }
}

/// What was deleted since `staged`, by the manifests of both versions, becomes part of the rewrite. Where a row came back,
/// which a restore may do, it is rewritten afresh.
fn compare(model: &Squire, world: &World, op: u8, path: u8, (done, staged): (u8, Staged)) -> Proc {
    let head = world.head(path);
    let is = world.content(path, head);
    let updates = |content: Content| {
        let of_update = |o: &u8| model.op(*o).is_some_and(|o| o.write == Write::Update);
        content.iter().filter(of_update).collect::<Vec<_>>()
    };
    if updates(staged.1).iter().any(|o| !is.has(*o)) {
        return Proc::Maintain(op, At::Stage(done));
    }
    if gap(world, path, staged.0) {
        model.reached(Event::CarriedPastGap);
    }
    let is_told = |o: &u8| {
        let since = world.tables[path as usize].iter().skip(staged.0.into());
        let mut told = since.filter(|v| v.there);
        !model.lacks(Mutation::CarryByLog) || told.any(|v| v.made == Made::Logical(*o))
    };
    let deleted = updates(is).into_iter().filter(|o| !staged.1.has(*o));
    let deleted = deleted.filter(|_| !model.lacks(Mutation::ForgetDeletes));
    let carried = deleted
        .filter(is_told)
        .fold(Content::default(), Content::with);
    if carried != Content::default() {
        model.reached(Event::Carried);
    }
    Proc::Maintain(op, At::CarryLicence(done, staged, carried, head + 1))
}

/// Puts a version at `slot`; `None` when its number is taken.
fn put(
    model: &Squire,
    world: &mut World,
    (path, slot, content): (u8, u8, Content),
    choice: u8,
) -> Option<Fault> {
    let fault = Fault::take(world, choice);
    let version = Version {
        made: Made::Maintenance,
        content,
        there: true,
    };
    let put = match fault {
        Fault::None | Fault::Landed => world.put_version(model, path, slot, version),
        Fault::Lost => true,
        Fault::Late => {
            world.flight.push(Flight::Version {
                path,
                slot,
                version,
            });
            true
        }
    };
    if model.scenario.plain {
        crate::invariants::check_plain(world);
    }
    put.then_some(fault)
}

/// The next batch, or the end: nothing is published of a plain table.
fn landed(model: &Squire, config: Process, op: u8, done: u8, fault: Fault) -> Proc {
    let commits = match config {
        Process::Maintainer { commits, .. } => commits,
        _ => 1,
    };
    if fault == Fault::None && done + 1 < commits {
        return Proc::Maintain(op, At::Stage(done + 1));
    }
    if model.scenario.plain {
        return Proc::Over;
    }
    let name = model.scenario.ops[op as usize].writes[0];
    Proc::Prefix(name, prefix::After::Retire(op), prefix::At::Load)
}

/// A rewrite does not commute with an update of the same fragments, nor with a restore.
fn collides(model: &Squire, world: &World, path: u8, base: u8) -> bool {
    world.tables[path as usize]
        .iter()
        .skip(base.into())
        .any(|v| {
            v.there
                && match v.made {
                    Made::Undo(_) => true,
                    Made::Logical(op) => model.op(op).is_some_and(|o| o.write == Write::Update),
                    Made::Initial | Made::Maintenance | Made::Foreign => false,
                }
        })
}
