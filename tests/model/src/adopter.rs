//! Drift: `recovery/repair.rs` of the engine.

use crate::invariants::Event;
use crate::process::{Fault, Proc};
use crate::protocol::{Obstacle, obstacle};
use crate::scenario::Process;
use crate::squire::Squire;
use crate::world::{Change, Flight, Made, Manifest, OPS, Version, World};

/// Where a repair is: pin and HEAD are those of the preview.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Load,
    Scan(Manifest),
    Review { pin: u8, head: u8 },
    Look(Manifest, u8, u8),
    Restore { on: u8, target: u8, slot: u8 },
    Publish { on: u8, to: u8 },
}

pub fn choices(world: &World, at: &At) -> u8 {
    match at {
        At::Load | At::Scan(_) | At::Review { .. } | At::Look(..) => 1,
        At::Restore { .. } | At::Publish { .. } => Fault::ways(world),
    }
}

/// The undo of a repair names no operation of the scenario.
const REPAIR: u8 = OPS as u8;

pub fn step(model: &Squire, world: &mut World, config: Process, at: At, choice: u8) -> Proc {
    let Process::Adopter { name, discard } = config else {
        return Proc::Over;
    };
    match at {
        At::Load => Proc::Adopt(At::Scan(world.latest())),
        At::Scan(snapshot) => match drift(world, &snapshot, name) {
            Some((pin, head)) => Proc::Adopt(At::Review { pin, head }),
            None => Proc::Idle,
        },
        At::Review { pin, head } => Proc::Adopt(At::Look(world.latest(), pin, head)),
        At::Look(snapshot, pin, head) => {
            if drift(world, &snapshot, name) != Some((pin, head)) {
                return Proc::Idle;
            }
            let on = snapshot.number;
            if !discard {
                return Proc::Adopt(At::Publish { on, to: head });
            }
            let (target, slot) = (pin, head + 1);
            Proc::Adopt(At::Restore { on, target, slot })
        }
        At::Restore { on, target, slot } => {
            let path = world.latest().pins[name as usize].path;
            let version = Version {
                made: Made::Undo(REPAIR),
                content: world.content(path, target),
                there: true,
            };
            let put = match Fault::take(world, choice) {
                Fault::None => world.put_version(model, path, slot, version),
                Fault::Landed => {
                    world.put_version(model, path, slot, version);
                    false
                }
                Fault::Lost => false,
                Fault::Late => {
                    world.flight.push(Flight::Version {
                        path,
                        slot,
                        version,
                    });
                    false
                }
            };
            if !put {
                return Proc::Idle;
            }
            Proc::Adopt(At::Publish { on, to: slot })
        }
        At::Publish { on, to } => {
            model.reached(Event::Drift);
            let change = Change::Adopt(name, to);
            match Fault::take(world, choice) {
                Fault::None | Fault::Landed => {
                    world.publish(model, on, change);
                }
                Fault::Lost => {}
                Fault::Late => world.flight.push(Flight::Publish { on, change }),
            }
            Proc::Idle
        }
    }
}

/// The pin and HEAD of a table above whose pin something foreign stands first.
fn drift(world: &World, snapshot: &Manifest, name: u8) -> Option<(u8, u8)> {
    let pin = snapshot.pins[name as usize];
    let chain = world.chain(pin.path, pin.version);
    match obstacle(&chain, pin.version.into()) {
        Some(Obstacle::Foreign(_)) => Some((pin.version, chain.head() as u8)),
        Some(Obstacle::Operation(_)) | None => None,
    }
}
