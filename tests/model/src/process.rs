//! Processes: what each does next. A step is one request to storage, or the thinking between two.
//!
//! A process that is never scheduled again is one that was killed, so writers, maintainers and cleaners need no action for
//! that; a resolver that dies is replaced.

use crate::protocol::Role;
use crate::scenario::{Process, Scenario, Write};
use crate::squire::Squire;
use crate::world::{NAMES, Told, World};
use crate::{adopter, cleaner, heir, maintainer, prefix, resolver, writer};

/// What a process is doing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Proc {
    Idle,
    Over,
    Write(u8, writer::At),
    Resolve(u8, Role, resolver::At),
    Prefix(u8, prefix::After, prefix::At),
    Maintain(u8, maintainer::At),
    Clean(cleaner::At),
    Adopt(adopter::At),
    Inherit(u8, heir::At),
    /// This operation of another client.
    Client(u8),
    Sweep,
    /// Drops the table of this name.
    Drop(u8),
}

/// How a put fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It lands; an error is returned.
    Landed,
    /// It does not land; an error is returned.
    Lost,
    /// An error is returned; it may land later.
    Late,
}

impl Fault {
    /// How many ways a put may fare now.
    pub fn ways(world: &World) -> u8 {
        if world.faults > 0 { 4 } else { 1 }
    }

    /// The way that `choice` means, taken from the budget.
    pub fn take(world: &mut World, choice: u8) -> Self {
        let fault = match choice {
            0 => return Self::None,
            1 => Self::Landed,
            2 => Self::Lost,
            _ => Self::Late,
        };
        world.faults -= 1;
        fault
    }
}

pub fn begin(scenario: &Scenario, process: &Process) -> Proc {
    match process {
        Process::Writer(ops) => Proc::Write(ops[0], writer::At::Load),
        Process::Resolver | Process::Adopter { .. } => Proc::Idle,
        Process::Stopped(op) => Proc::Write(*op, writer::At::Put(0, [2; NAMES])),
        Process::Quick(op) if scenario.ops[*op as usize].write != Write::Maintain => {
            Proc::Write(*op, writer::At::Load)
        }
        Process::Quick(op) => Proc::Maintain(*op, maintainer::At::Sidecar),
        Process::Maintainer { op, begins, .. } => Proc::Maintain(*op, maintainer::begin(*begins)),
        Process::Cleaner { .. } => Proc::Clean(cleaner::At::Load),
        Process::Client(op) => Proc::Client(*op),
        Process::Sweeper => Proc::Sweep,
        Process::Dropper(name) => Proc::Drop(*name),
        Process::Heir(op) => Proc::Inherit(*op, heir::At::TakeOver),
    }
}

/// How many things `proc` may do next.
pub fn choices(model: &Squire, world: &World, index: u8, proc: &Proc) -> u8 {
    match proc {
        Proc::Over => 0,
        Proc::Idle => match model.scenario.procs[index as usize] {
            Process::Resolver => resolver::tasks(model, world).len() as u8,
            Process::Adopter { .. } | Process::Heir(_) => 1,
            Process::Writer(_)
            | Process::Quick(_)
            | Process::Stopped(_)
            | Process::Maintainer { .. }
            | Process::Client(_)
            | Process::Sweeper
            | Process::Dropper(_)
            | Process::Cleaner { .. } => 0,
        },
        Proc::Write(op, _) | Proc::Resolve(op, Role::Owner, _) if world.inherited.has(*op) => 0,
        Proc::Inherit(op, heir::At::TakeOver) => {
            u8::from(world.told[*op as usize] == Told::Nothing)
        }
        Proc::Inherit(..) => 1,
        Proc::Write(_, at) => writer::choices(world, at),
        Proc::Resolve(_, _, at) => resolver::choices(world, at),
        Proc::Prefix(_, _, at) => prefix::choices(world, at),
        Proc::Maintain(_, at) => maintainer::choices(world, at),
        Proc::Clean(at) => cleaner::choices(model, world, at),
        Proc::Adopt(at) => adopter::choices(world, at),
        Proc::Client(_) | Proc::Sweep => 1,
        Proc::Drop(name) => u8::from(world.latest().pins[*name as usize].version > 0),
    }
}

pub fn may_restart(model: &Squire, index: u8, proc: &Proc) -> bool {
    *proc != Proc::Idle && matches!(model.scenario.procs[index as usize], Process::Resolver)
}

pub fn step(model: &Squire, world: &mut World, index: u8, proc: &mut Proc, choice: u8) {
    one_step(model, world, index, proc, choice);
    if matches!(model.scenario.procs[index as usize], Process::Quick(_)) {
        while !matches!(proc, Proc::Idle | Proc::Over | Proc::Resolve(..)) {
            one_step(model, world, index, proc, 0);
        }
    }
}

fn one_step(model: &Squire, world: &mut World, index: u8, proc: &mut Proc, choice: u8) {
    let config = model.scenario.procs[index as usize];
    *proc = match proc {
        Proc::Over => Proc::Over,
        Proc::Idle => match config {
            Process::Adopter { .. } => Proc::Adopt(adopter::At::Load),
            Process::Heir(op) => Proc::Inherit(op, heir::At::Ask),
            Process::Resolver
            | Process::Writer(_)
            | Process::Quick(_)
            | Process::Stopped(_)
            | Process::Maintainer { .. }
            | Process::Client(_)
            | Process::Sweeper
            | Process::Dropper(_)
            | Process::Cleaner { .. } => resolver::tasks(model, world)
                .get(choice as usize)
                .cloned()
                .unwrap_or(Proc::Idle),
        },
        Proc::Write(op, at) => writer::step(model, world, config, *op, *at, choice),
        Proc::Resolve(op, role, at) => {
            resolver::step(model, world, config, (*op, *role), at.clone(), choice)
        }
        Proc::Prefix(name, after, at) => prefix::step(model, world, (*name, *after), *at, choice),
        Proc::Maintain(op, at) => maintainer::step(model, world, config, *op, *at, choice),
        Proc::Clean(at) => cleaner::step(model, world, config, *at, choice),
        Proc::Adopt(at) => adopter::step(model, world, config, *at, choice),
        Proc::Inherit(op, at) => heir::step(model, world, *op, *at),
        Proc::Client(op) => {
            crate::outside::client_commit(world, *op);
            Proc::Over
        }
        Proc::Drop(name) => {
            crate::outside::drop_table(model, world, *name);
            Proc::Over
        }
        Proc::Sweep => {
            crate::outside::sweep(world);
            Proc::Over
        }
    };
}
