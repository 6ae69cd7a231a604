//! `resolve(X)`: `recovery/resolve.rs` of the engine, and what its recovery pass finds to resolve.

use crate::ids::OpId;
use crate::invariants::Event;
use crate::mutation::Mutation;
use crate::prefix;
use crate::process::{Fault, Proc};
use crate::protocol::{
    Chain, Class, OperationView, Role, Step, WrittenTable, clean_prefix, is_unchanged, may_restore,
    next_step,
};
use crate::scenario::{Process, Write};
use crate::squire::Squire;
use crate::world::{Change, Flight, Made, Manifest, NAMES, Ops, PATHS, Told, Version, World};
use crate::writer::{batch_committed, burned, delete_sidecar, ended};

/// Where a resolution is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    Load,
    /// Scans the tables; up to these heads only where they were read too early.
    View(Manifest, [u8; PATHS]),
    /// Takes the step that was decided on this manifest version.
    Act(u8, Step),
    /// Lance accepted the restore of a target as this version of the table with this index.
    Restore {
        table: u8,
        target: u8,
        slot: u8,
    },
    /// Removes the dataset of a create that was decided to abort.
    RemoveDataset,
    Retire(Told),
}

pub fn choices(world: &World, at: &At) -> u8 {
    match at {
        At::Load | At::View(..) | At::RemoveDataset => 1,
        At::Act(_, Step::Undo { .. }) => 1,
        At::Act(..) | At::Restore { .. } => Fault::ways(world),
        At::Retire(_) => 1 + u8::from(world.faults > 0),
    }
}

/// What a recovery pass would take up now.
pub fn tasks(model: &Squire, world: &World) -> Vec<Proc> {
    let mut tasks = Vec::new();
    for op in world.sidecars.iter() {
        let config = &model.scenario.ops[op as usize];
        tasks.push(if config.write == Write::Maintain {
            let after = prefix::After::Retire(op);
            Proc::Prefix(config.writes[0], after, prefix::At::Load)
        } else {
            Proc::Resolve(op, Role::Expired, At::Load)
        });
    }
    let latest = world.latest();
    for op in undecided(model, world, &latest).iter() {
        tasks.push(Proc::Resolve(op, Role::Expired, At::Load));
    }
    for op in latest.aborted.iter().filter(|op| !world.sidecars.has(*op)) {
        if has_dead_version(model, world, &latest, op) {
            model.reached(Event::DeadVersionHealed);
            tasks.push(Proc::Resolve(op, Role::Helper, At::Load));
        }
    }
    for (name, pin) in (0u8..).zip(latest.pins) {
        let chain = world.chain(pin.path, pin.version);
        if pin.version > 0 && clean_prefix(&chain, pin.version.into()) > pin.version.into() {
            tasks.push(Proc::Prefix(name, prefix::After::Idle, prefix::At::Load));
        }
    }
    tasks
}

/// Operations without a sidecar that stand above a pin and were not decided against.
pub fn undecided(model: &Squire, world: &World, latest: &Manifest) -> Ops {
    let mut found = Ops::default();
    if model.lacks(Mutation::LookForSidecars) {
        return found;
    }
    for pin in latest.pins.iter().filter(|pin| pin.version > 0) {
        for (_, class) in world.chain(pin.path, pin.version).iter() {
            if let Class::Logical(OpId(op)) = class
                && model.has_no_sidecar(op)
                && !latest.aborted.has(op)
            {
                found.put(op);
            }
        }
    }
    found
}

fn has_dead_version(model: &Squire, world: &World, latest: &Manifest, op: u8) -> bool {
    let facts = world.facts[op as usize];
    let config = &model.scenario.ops[op as usize];
    config.writes.iter().any(|name| {
        let pin = latest.pins[*name as usize];
        let path = facts.path[*name as usize];
        if config.write == Write::Create {
            return dead_create(world, op, path);
        }
        pin.version > 0
            && world.chain(path, pin.version).iter().any(
                |(_, class)| matches!(class, Class::Logical(o) | Class::Undo(o) if o == OpId(op)),
            )
    })
}

fn dead_create(world: &World, op: u8, path: u8) -> bool {
    let visible = world
        .latest()
        .pins
        .iter()
        .any(|p| p.version > 0 && p.path == path);
    !visible && world.chain(path, 0).landed(OpId(op)) == Some(1)
}

/// What the engine's resolver sees, with the guard that a mutation takes out.
fn view(
    model: &Squire,
    world: &World,
    (op, role): (u8, Role),
    snapshot: &Manifest,
    heads: &[u8; PATHS],
) -> OperationView {
    let config = &model.scenario.ops[op as usize];
    let facts = world.facts[op as usize];
    let chain_of = |name: u8| {
        let path = facts.path[name as usize];
        let mut chain: Chain = world.chain(path, facts.base[name as usize]);
        let seen = heads[path as usize].saturating_sub(facts.base[name as usize]);
        chain.classes.truncate(seen.into());
        chain
    };
    let floor_of = |name: u8| match model.lacks(Mutation::IgnoreFloor) {
        true => 0,
        false => snapshot.floors[name as usize].into(),
    };
    let mut pruned = false;
    let writes = config
        .writes
        .iter()
        .map(|name| {
            let pin = snapshot.pins[*name as usize];
            let path = facts.path[*name as usize];
            let dropped = snapshot.dropped & (1 << path) != 0;
            if dropped {
                model.reached(Event::DroppedUnderWay);
            }
            pruned |= snapshot.floors[*name as usize] > facts.base[*name as usize] + 1 || dropped;
            let burned =
                burned(model, world, snapshot, path, op) && !model.lacks(Mutation::IgnoreBurned);
            WrittenTable {
                pin: (pin.version > 0).then_some(pin.version.into()),
                floor: floor_of(*name),
                chain: chain_of(*name),
                replaced: (pin.version > 0 && pin.path != path) || (pin.version == 0 && burned),
            }
        })
        .collect();
    let aborted = snapshot.aborted.has(op);
    let logged = pruned && !aborted && world.logged(snapshot, op);
    if logged {
        model.reached(Event::FoundInLog);
    }
    // What is rebuilt from a decision has neither reads nor a batch.
    let is_bare = model.lacks(Mutation::BareVersion) && role == Role::Expired;
    let is_told = role != Role::Helper && !is_bare;
    // A decision against it may have been forgotten: all were published above what it stands on.
    let outlived = model.has_no_sidecar(op)
        && facts.on < snapshot.forgotten
        && !model.lacks(Mutation::ForgetForgetting);
    let batch_free = model.lacks(Mutation::IgnoreBatch) || batch_free(model, world, snapshot, op);
    let reads_hold = model.lacks(Mutation::IgnoreReads)
        || config.reads.iter().all(|name| {
            let pin = snapshot.pins[*name as usize];
            pin.path == facts.path[*name as usize]
                && is_unchanged(&chain_of(*name), floor_of(*name), pin.version.into())
        });
    if !reads_hold {
        model.reached(Event::StaleRead);
    }
    OperationView {
        op: OpId(op),
        aborted: aborted && !(model.lacks(Mutation::IgnoreDecision) && role == Role::Owner),
        logged: logged && !model.lacks(Mutation::IgnoreLog),
        writes,
        valid: !outlived && (!is_told || (batch_free && reads_hold)),
    }
}

fn batch_free(model: &Squire, world: &World, snapshot: &Manifest, op: u8) -> bool {
    let Some(batch) = model.scenario.ops[op as usize].batch else {
        return true;
    };
    if model.lacks(Mutation::ForgetBatch) {
        let entry = snapshot.batches[batch as usize];
        return entry == 0 || entry == op + 1;
    }
    !batch_committed(model, world, snapshot, op)
}

/// The engine's decision, with the guards that stand inside it taken out from outside.
fn decide(model: &Squire, mut view: OperationView, role: Role) -> Step {
    let landed: Option<Vec<u64>> = view
        .writes
        .iter()
        .map(|t| t.chain.landed(view.op))
        .collect();
    let resurrected = view.writes.iter().any(|t| {
        let landed = t.chain.landed(view.op);
        landed.is_some_and(|v| {
            t.pin.is_some_and(|pin| v <= pin) && t.chain.undone(view.op, v).is_none()
        })
    });
    if model.lacks(Mutation::BelieveResurrected) && resurrected {
        return Step::Committed;
    }
    let step = next_step(&view, role);
    if step != Step::Decide {
        return step;
    }
    if model.lacks(Mutation::UndoFirst) {
        view.aborted = true;
        let undo = next_step(&view, role);
        return if matches!(undo, Step::Undo { .. }) {
            undo
        } else {
            Step::Decide
        };
    }
    match landed {
        Some(versions) if model.lacks(Mutation::IgnoreChain) && view.valid => {
            Step::Forward(versions)
        }
        _ => Step::Decide,
    }
}

pub fn step(
    model: &Squire,
    world: &mut World,
    config: Process,
    who: (u8, Role),
    at: At,
    choice: u8,
) -> Proc {
    let (op, role) = who;
    let then = |at| Proc::Resolve(op, role, at);
    match at {
        At::Load if model.lacks(Mutation::HeadsFirst) => {
            then(At::View(world.latest(), heads(world)))
        }
        // What is read later is not carried along: it would only multiply states.
        At::Load => then(At::View(world.latest(), [0; PATHS])),
        At::View(snapshot, heads_before) => {
            let early = model.lacks(Mutation::HeadsFirst);
            let snapshot = if early { world.latest() } else { snapshot };
            let heads = if early { heads_before } else { heads(world) };
            let view = view(model, world, who, &snapshot, &heads);
            let step = decide(model, view, role);
            match step {
                Step::Committed => then(At::Retire(Told::Committed)),
                Step::Aborted if dead_dataset(model, world, op).is_some() => {
                    then(At::RemoveDataset)
                }
                Step::Aborted => then(At::Retire(Told::Aborted)),
                Step::Wait => Proc::Idle,
                Step::Blocked(_) => {
                    model.reached(Event::Blocked);
                    blocked(world, config, op, role)
                }
                Step::Forward(_) | Step::Decide | Step::Undo { .. } | Step::Settle(_) => {
                    then(At::Act(snapshot.number, step))
                }
            }
        }
        At::Act(on, step) => act(model, world, who, (on, step), choice),
        At::Restore {
            table,
            target,
            slot,
        } => {
            restore(model, world, op, (table, target, slot), choice);
            then(At::Load)
        }
        At::RemoveDataset => {
            // What it saw may be gone by now, and something else there.
            model.reached(Event::DeadCreateRemoved);
            let path = written_path(model, world, op, 0);
            world.tables[path as usize].clear();
            crate::invariants::check_readable(world);
            then(At::Retire(Told::Aborted))
        }
        At::Retire(told) => {
            delete_sidecar(world, op, choice);
            if role == Role::Owner {
                return ended(world, config, op, told);
            }
            Proc::Idle
        }
    }
}

fn heads(world: &World) -> [u8; PATHS] {
    std::array::from_fn(|path| world.head(path as u8))
}

fn blocked(world: &mut World, config: Process, op: u8, role: Role) -> Proc {
    if role == Role::Owner {
        return ended(world, config, op, Told::Unknown);
    }
    Proc::Idle
}

/// The dataset that an aborted create left.
fn dead_dataset(model: &Squire, world: &World, op: u8) -> Option<u8> {
    let config = &model.scenario.ops[op as usize];
    let path = world.facts[op as usize].path[*config.writes.first()? as usize];
    (config.write == Write::Create && dead_create(world, op, path)).then_some(path)
}

fn act(
    model: &Squire,
    world: &mut World,
    (op, role): (u8, Role),
    (on, step): (u8, Step),
    choice: u8,
) -> Proc {
    let then = |at| Proc::Resolve(op, role, at);
    let change = match step {
        Step::Forward(versions) => {
            if role != Role::Owner {
                model.reached(Event::HelperPublishes);
            }
            Change::Forward(op, by_position(versions.iter().copied().enumerate()))
        }
        Step::Decide => Change::Abort(op),
        Step::Settle(undone) => Change::Settle(op, by_position(undone)),
        Step::Undo {
            table,
            target,
            slot,
        } => {
            let path = written_path(model, world, op, table as u8);
            let name = model.scenario.ops[op as usize].writes[table];
            let pin = world.latest().pins[name as usize].version;
            // A dropped table is not restored either.
            if (pin == 0 || !may_restore(target, pin.into()))
                && !model.lacks(Mutation::NoSecondLook)
            {
                model.reached(Event::PinMovedPast);
                return then(At::Load);
            }
            let free = world.head(path) + 1;
            if role == Role::Owner {
                model.reached(Event::SelfUndo);
            }
            if u64::from(free) != slot && !model.lacks(Mutation::LaxRestore) {
                model.reached(Event::SlotRefused);
                return then(At::Load);
            }
            return then(At::Restore {
                table: table as u8,
                target: target as u8,
                slot: free,
            });
        }
        Step::Committed | Step::Aborted | Step::Wait | Step::Blocked(_) => return then(At::Load),
    };
    match Fault::take(world, choice) {
        Fault::None | Fault::Landed => {
            world.publish(model, on, change);
        }
        Fault::Lost => {}
        Fault::Late => world.flight.push(Flight::Publish { on, change }),
    }
    then(At::Load)
}

fn by_position<I, V>(versions: I) -> [u8; NAMES]
where
    I: IntoIterator<Item = (usize, V)>,
    V: TryInto<u8>,
{
    let mut all = [0; NAMES];
    for (index, version) in versions {
        all[index] = version.try_into().unwrap_or(u8::MAX);
    }
    all
}

fn written_path(model: &Squire, world: &World, op: u8, table: u8) -> u8 {
    let name = model.scenario.ops[op as usize].writes[table as usize];
    world.facts[op as usize].path[name as usize]
}

fn restore(
    model: &Squire,
    world: &mut World,
    op: u8,
    (table, target, mut slot): (u8, u8, u8),
    choice: u8,
) {
    let path = written_path(model, world, op, table);
    if model.lacks(Mutation::LaxRestore) {
        slot = world.head(path) + 1;
    }
    let version = Version {
        made: Made::Undo(op),
        content: world.content(path, target),
        there: true,
    };
    match Fault::take(world, choice) {
        Fault::None | Fault::Landed => {
            world.put_version(model, path, slot, version);
        }
        Fault::Lost => {}
        Fault::Late => world.flight.push(Flight::Version {
            path,
            slot,
            version,
        }),
    }
}
