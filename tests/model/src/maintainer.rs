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
        At::Sidecar | At::Stage(_) | At::Check(..) | At::Licence(..) => 1,
        At::Put(..) => Fault::ways(world),
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
                return Proc::Maintain(op, At::Stage(done));
            }
            if collides(model, world, path, staged.0) {
                return Proc::Maintain(op, At::Stage(done));
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
            let fault = Fault::take(world, choice);
            let version = Version {
                made: Made::Maintenance,
                content: world.rebased(model, path, staged, slot - 1),
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
            let commits = match config {
                Process::Maintainer { commits, .. } => commits,
                _ => 1,
            };
            if !put {
                // Lance rebases by itself.
                return Proc::Maintain(op, At::Check(done, staged));
            }
            if fault == Fault::None && done + 1 < commits {
                return Proc::Maintain(op, At::Stage(done + 1));
            }
            Proc::Prefix(name, prefix::After::Retire(op), prefix::At::Load)
        }
    }
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
