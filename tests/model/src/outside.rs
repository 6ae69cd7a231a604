//! What no process of ours decides: commits of others, and puts that arrive late.

use crate::invariants::Event;
use crate::squire::Squire;
use crate::world::{Change, FOREIGN, Flight, Made, NAMES, Ops, Version, World};

/// Somebody appends to table 0 with plain Lance, on whatever HEAD is.
pub fn foreign_commit(model: &Squire, world: &mut World) {
    let path = world.latest().pins[0].path;
    let head = world.head(path);
    let row = FOREIGN + model.scenario.foreign - world.foreign;
    world.foreign -= 1;
    let version = Version {
        made: Made::Foreign,
        content: world.content(path, head).with(row),
        there: true,
    };
    world.put_version(model, path, head + 1, version);
}

/// Another client commits `op` to a plain table: from then on it is committed.
pub fn client_commit(world: &mut World, op: u8) {
    let head = world.head(0);
    let content = world.content(0, head).with(op);
    world.tables[0].push(Version {
        made: Made::Logical(op),
        content,
        there: true,
    });
    world.committed.put(op);
    world.expected[0] = world.expected[0].with(op);
    crate::invariants::check_plain(world);
}

/// Another client removes all versions of a plain table but HEAD.
pub fn sweep(world: &mut World) {
    let old = usize::from(world.head(0)) - 1;
    world.tables[0][..old]
        .iter_mut()
        .for_each(|v| v.there = false);
}

/// Somebody declares an index, say. Where batch ids are dropped: after 256 other batches and an archive pass.
pub fn publish(model: &Squire, world: &mut World) {
    world.publishes -= 1;
    if model.scenario.evicts {
        world.log.add(world.committed);
    }
    let change = Change::Floors {
        floors: [0; NAMES],
        manifest: 0,
        through: 0,
        forget: Ops::default(),
    };
    let on = world.latest().number;
    world.publish(model, on, change);
}

/// Drops a table.
pub fn drop_table(model: &Squire, world: &mut World, name: u8) {
    model.reached(Event::Dropped);
    let on = world.latest().number;
    world.publish(model, on, Change::Drop(name));
}

/// A put that its process was told had failed.
pub fn arrive(model: &Squire, world: &mut World, index: usize) {
    model.reached(Event::LateArrival);
    match world.flight.remove(index) {
        Flight::Sidecar(op) => world.sidecars.put(op),
        Flight::Version {
            path,
            slot,
            version,
        } => {
            world.put_version(model, path, slot, version);
        }
        Flight::Publish { on, change } => {
            world.publish(model, on, change);
        }
    }
}
