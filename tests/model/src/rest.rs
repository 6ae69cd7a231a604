//! I8: wherever all processes die, one pass of a daemon leaves nothing behind.

use crate::process::{self, Proc};
use crate::protocol::Class;
use crate::resolver;
use crate::squire::{Squire, State};
use crate::world::World;

/// More steps than any resolution takes when nobody else runs.
const STEPS: usize = 60;

/// Kills everything in `state`, runs a pass, and looks at what is left.
pub fn comes_to_rest(model: &Squire, state: &State) -> bool {
    // What is broken is reported under its own name; on a plain table nothing is published that could be left over.
    if state.world.broken != 0 || model.scenario.plain {
        return true;
    }
    let mut world = state.world.clone();
    world.flight.clear();
    (world.faults, world.foreign, world.publishes) = (0, 0, 0);
    let start = world.clone();
    model.rests(&start, || settles(model, world))
}

fn settles(model: &Squire, mut world: World) -> bool {
    // Each task settles something; a task that leaves the store as it was is blocked.
    let mut blocked = 0;
    for _ in 0..STEPS {
        let tasks = resolver::tasks(model, &world);
        let Some(task) = tasks.get(blocked) else {
            return is_clean(&world, blocked);
        };
        let before = world.clone();
        if !run(model, &mut world, task.clone()) {
            return false;
        }
        if world == before {
            blocked += 1;
        }
    }
    false
}

fn run(model: &Squire, world: &mut World, task: Proc) -> bool {
    let mut proc = task;
    for _ in 0..STEPS {
        if proc == Proc::Idle {
            return true;
        }
        process::step(model, world, model.scenario.resolver(), &mut proc, 0);
    }
    false
}

/// Nothing is left but what a foreign version above it keeps from being settled.
fn is_clean(world: &World, blocked: usize) -> bool {
    let latest = world.latest();
    let mut foreign_above = false;
    for pin in latest.pins.iter().filter(|p| p.version > 0) {
        let chain = world.chain(pin.path, pin.version);
        let foreign = chain.iter().any(|(_, class)| class == Class::Foreign);
        foreign_above |= foreign;
        if chain.head() > pin.version.into() && !foreign {
            return false;
        }
    }
    let strays = (0u8..).zip(&world.tables).any(|(path, versions)| {
        let dropped = latest.dropped & (1 << path) != 0;
        !versions.is_empty()
            && !dropped
            && !latest.pins.iter().any(|p| p.version > 0 && p.path == path)
    });
    !strays && (foreign_above || (blocked == 0 && world.sidecars.is_empty()))
}
