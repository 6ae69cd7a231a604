//! Whoever takes over the claim of a dead agent, or asks later what became of an operation: `attempt.rs` of the daemon,
//! `history/outcome.rs` of the engine.

use crate::mutation::Mutation;
use crate::process::Proc;
use crate::protocol::Role;
use crate::resolver;
use crate::squire::Squire;
use crate::world::{Told, World};

/// Where that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// Learns that the writer is dead. What it sent may still arrive.
    TakeOver,
    /// Settles what it finds of the operation.
    Settle,
    /// Asks for the outcome. With none, the operation never began, and another one may.
    Ask,
}

pub fn step(model: &Squire, world: &mut World, op: u8, at: At) -> Proc {
    match at {
        At::TakeOver => {
            world.inherited.put(op);
            Proc::Inherit(op, At::Settle)
        }
        At::Settle => {
            let stands = match model.has_no_sidecar(op) {
                false => world.sidecars.has(op),
                // Nothing to be seen may still be on its way: decided against, it is dead wherever it arrives.
                true => {
                    !model.lacks(Mutation::BelieveAbsence)
                        || resolver::undecided(model, world, &world.latest()).has(op)
                }
            };
            match stands {
                true => Proc::Resolve(op, Role::Expired, resolver::At::Load),
                false => Proc::Inherit(op, At::Ask),
            }
        }
        At::Ask => {
            let latest = world.latest();
            let published = !latest.aborted.has(op) && world.logged(&latest, op);
            let told = match published {
                true => Told::Committed,
                false => Told::Aborted,
            };
            world.tell(op, told);
            Proc::Over
        }
    }
}
