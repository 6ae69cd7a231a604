//! The clean prefix: `commit/prefix.rs` of the engine.

use crate::invariants::Event;
use crate::mutation::Mutation;
use crate::process::{Fault, Proc};
use crate::protocol::clean_prefix;
use crate::squire::Squire;
use crate::world::{Change, Flight, Manifest, World};

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum After {
    /// Nothing: somebody caught up.
    Idle,
    /// The sidecar of this maintenance run goes.
    Retire(u8),
}

/// Where a fast-forward is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Load,
    Scan(Manifest),
    Publish { on: u8, to: u8 },
    Retire,
}

pub fn choices(world: &World, at: &At) -> u8 {
    match at {
        At::Load | At::Scan(_) | At::Retire => 1,
        At::Publish { .. } => Fault::ways(world),
    }
}

pub fn step(
    model: &Squire,
    world: &mut World,
    (name, after): (u8, After),
    at: At,
    choice: u8,
) -> Proc {
    let then = |at| Proc::Prefix(name, after, at);
    match at {
        At::Load => then(At::Scan(world.latest())),
        At::Scan(snapshot) => {
            let pin = snapshot.pins[name as usize];
            let chain = world.chain(pin.path, pin.version);
            let mut to = clean_prefix(&chain, pin.version.into()) as u8;
            if u64::from(to) < chain.head() {
                model.reached(Event::PrefixBelowUndecided);
            }
            if model.lacks(Mutation::PublishHead) {
                to = chain.head() as u8;
            }
            if to > pin.version {
                let on = snapshot.number;
                return then(At::Publish { on, to });
            }
            match after {
                After::Idle => Proc::Idle,
                After::Retire(_) => then(At::Retire),
            }
        }
        // Won or lost, the state is looked at again: the work is done when the pin is there.
        At::Publish { on, to } => {
            let change = Change::Prefix(name, to);
            match Fault::take(world, choice) {
                Fault::None | Fault::Landed => {
                    world.publish(model, on, change);
                }
                Fault::Lost => {}
                Fault::Late => world.flight.push(Flight::Publish { on, change }),
            }
            then(At::Load)
        }
        At::Retire => {
            if let After::Retire(op) = after {
                world.sidecars.drop(op);
            }
            Proc::Idle
        }
    }
}
