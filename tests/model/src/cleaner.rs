//! One cleanup: roots, archive, floors, deletes. `maintenance/cleanup.rs` of the engine.

use crate::mutation::Mutation;
use crate::process::{Fault, Proc};
use crate::protocol::{cleanup_floor, may_forget, publish_counts};
use crate::scenario::Process;
use crate::squire::Squire;
use crate::world::{Change, Flight, Manifest, NAMES, Ops, World};

/// What is to go: versions below these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    floors: [u8; NAMES],
    manifest: u8,
    forget: Ops,
}

/// Where a cleanup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Load,
    /// Lists the sidecars and picks a window; with sidecars that were listed too early.
    Plan(Manifest, Ops),
    /// Copies the history into the commit log and loads again.
    Archive(Plan),
    Floors(Plan, u8),
    Verify(Plan, u8),
    /// Deletes one version after the other, from either end.
    Delete(Plan),
    /// Tells that versions of the manifest go.
    Mark(Plan),
    DeleteManifest(Plan),
}

pub fn choices(model: &Squire, world: &World, at: &At) -> u8 {
    match at {
        At::Load | At::Archive(_) | At::Verify(..) | At::Mark(_) | At::DeleteManifest(_) => 1,
        At::Plan(snapshot, _) => windows(world, snapshot).len() as u8,
        At::Floors(..) => Fault::ways(world),
        At::Delete(plan) => deletable(model, world, plan).len().clamp(1, 2) as u8,
    }
}

/// The manifest versions that may be the oldest one kept: the loaded one and the one before it.
fn windows(world: &World, snapshot: &Manifest) -> Vec<Manifest> {
    world
        .history
        .iter()
        .rev()
        .skip_while(|m| m.number > snapshot.number)
        .take(2)
        .copied()
        .collect()
}

/// Versions below the plan's floor and the declared one.
fn deletable(model: &Squire, world: &World, plan: &Plan) -> Vec<(u8, u8)> {
    let latest = world.latest();
    let mut versions = Vec::new();
    for (name, pin) in (0..NAMES).zip(latest.pins) {
        let declared = if model.lacks(Mutation::DeleteFirst) {
            u8::MAX
        } else {
            latest.floors[name]
        };
        let below = plan.floors[name].min(declared);
        let there = |v: &u8| world.version(pin.path, *v).is_some_and(|v| v.there);
        versions.extend((1..below).filter(there).map(|v| (pin.path, v)));
    }
    versions
}

pub fn step(model: &Squire, world: &mut World, config: Process, at: At, choice: u8) -> Proc {
    match at {
        At::Load => {
            let early = model.lacks(Mutation::ListFirst);
            let listed = if early {
                world.sidecars
            } else {
                Ops::default()
            };
            Proc::Clean(At::Plan(world.latest(), listed))
        }
        At::Plan(snapshot, listed) => {
            let Some(window) = windows(world, &snapshot).get(choice as usize).copied() else {
                return Proc::Over;
            };
            let sidecars = if model.lacks(Mutation::ListFirst) {
                listed
            } else {
                world.sidecars
            };
            let plan = plan(model, world, config, (&snapshot, &window), sidecars);
            Proc::Clean(At::Archive(plan))
        }
        At::Archive(mut plan) => {
            let latest = world.latest();
            world.log.add(world.committed);
            plan.manifest = plan.manifest.min(latest.number + 1);
            if (0..NAMES).any(|n| plan.floors[n] > latest.pins[n].version) {
                return Proc::Over;
            }
            if model.lacks(Mutation::DeleteFirst) && !deletable(model, world, &plan).is_empty() {
                return Proc::Clean(At::Delete(plan));
            }
            Proc::Clean(At::Floors(plan, latest.number))
        }
        At::Floors(plan, on) => publish_floors(model, world, plan, on, choice),
        At::Verify(plan, on) => {
            let latest = world.latest();
            if latest.number == on + 1 || publish_counts((on + 1).into(), latest.floor.into()) {
                return Proc::Clean(At::Delete(plan));
            }
            Proc::Clean(At::Archive(plan))
        }
        At::Delete(plan) => Proc::Clean(delete_one(model, world, plan, choice)),
        At::Mark(plan) => {
            world.mark += 1;
            match model.lacks(Mutation::MarkAfter) {
                true => Proc::Over,
                false => Proc::Clean(At::DeleteManifest(plan)),
            }
        }
        At::DeleteManifest(plan) => {
            world.manifest_from = world.manifest_from.max(plan.manifest);
            let from = world.manifest_from;
            world.history.retain(|m| m.number >= from);
            match model.lacks(Mutation::MarkAfter) {
                true => Proc::Clean(At::Mark(plan)),
                false => Proc::Over,
            }
        }
    }
}

/// Takes one version away from an end of what is left, and stays; with nothing left goes on.
fn delete_one(model: &Squire, world: &mut World, plan: Plan, choice: u8) -> At {
    let left = deletable(model, world, &plan);
    let end = if choice == 0 {
        left.first()
    } else {
        left.last()
    };
    if let Some((path, v)) = end.copied() {
        world.tables[path as usize][usize::from(v) - 1].there = false;
        crate::invariants::check_readable(world);
        return At::Delete(plan);
    }
    let floors = world.latest().floors;
    let unpublished = || (0..NAMES).any(|n| plan.floors[n] > floors[n]);
    if model.lacks(Mutation::DeleteFirst) && unpublished() {
        At::Archive(plan)
    } else if model.lacks(Mutation::MarkAfter) {
        At::DeleteManifest(plan)
    } else {
        At::Mark(plan)
    }
}

fn plan(
    model: &Squire,
    world: &World,
    config: Process,
    (snapshot, window): (&Manifest, &Manifest),
    sidecars: Ops,
) -> Plan {
    let mut floors = [0; NAMES];
    for (name, floor) in floors.iter_mut().enumerate() {
        let on_name = |op: &u8| {
            let config = &model.scenario.ops[*op as usize];
            config
                .writes
                .iter()
                .chain(config.reads)
                .any(|n| usize::from(*n) == name)
        };
        let undecided = sidecars
            .iter()
            .filter(on_name)
            .map(|op| world.facts[op as usize].base[name])
            .min()
            .filter(|_| !model.lacks(Mutation::IgnoreRoots));
        let pinned = window.pins[name].version;
        let old = snapshot.floors[name];
        *floor = cleanup_floor(pinned.into(), undecided.map(u64::from), old.into()) as u8;
    }
    let aged = matches!(config, Process::Cleaner { forgets: true });
    let mut forget = Ops::default();
    for op in snapshot.aborted.iter() {
        let standing = sidecars.has(op) && !model.lacks(Mutation::ForgetStanding);
        if may_forget(aged, standing) {
            forget.put(op);
        }
    }
    Plan {
        floors,
        manifest: window.number.max(snapshot.floor),
        forget,
    }
}

fn publish_floors(model: &Squire, world: &mut World, plan: Plan, on: u8, choice: u8) -> Proc {
    let change = Change::Floors {
        floors: plan.floors,
        manifest: plan.manifest,
        through: on,
        forget: plan.forget,
    };
    let won = match Fault::take(world, choice) {
        Fault::None => world.publish(model, on, change),
        Fault::Landed => {
            world.publish(model, on, change);
            false
        }
        Fault::Lost => false,
        Fault::Late => {
            world.flight.push(Flight::Publish { on, change });
            false
        }
    };
    Proc::Clean(if won {
        At::Verify(plan, on)
    } else {
        At::Archive(plan)
    })
}
