//! The invariants of ARCHITECTURE.md, each checked at the step that could break it, and the events that must be reached so
//! that the search is known to have looked at something.

use crate::protocol::Class;
use crate::squire::Squire;
use crate::world::{Manifest, NAMES, World};

/// What must always hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    Once,
}

impl Invariant {
    pub fn name(self) -> &'static str {
        match self {
            Self::I1 => "I1 whole or none",
            Self::I2 => "I2 pins never go down",
            Self::I3 => "I3 decisions stay",
            Self::I4 => "I4 what was told is true",
            Self::I5 => "I5 published = committed, in order",
            Self::I6 => "I6 undo restores v - 1",
            Self::I7 => "I7 floor <= pin",
            Self::I8 => "I8 a pass leaves nothing",
            Self::I9 => "I9 no write skew",
            Self::I10 => "I10 one undecided version",
            Self::I11 => "I11 readable above the floor",
            Self::Once => "a batch id once",
        }
    }
}

/// What a search must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    HelperPublishes,
    SelfUndo,
    PrunedTablePut,
    PrunedPublish,
    PublishNotCounted,
    SlotRefused,
    GapRefused,
    StaleRead,
    BatchTaken,
    DeadVersionHealed,
    FoundInLog,
    Drift,
    Blocked,
    LateArrival,
    DeadCreateRemoved,
    WithoutTrace,
    PrefixBelowUndecided,
    SlotAgain,
    PinMovedPast,
    LicenceGone,
    Carried,
    SlotOfCarryLost,
    CarriedPastGap,
    Dropped,
    DroppedUnderWay,
}

impl Event {
    pub const ALL: [Self; 25] = [
        Self::HelperPublishes,
        Self::SelfUndo,
        Self::PrunedTablePut,
        Self::PrunedPublish,
        Self::PublishNotCounted,
        Self::SlotRefused,
        Self::GapRefused,
        Self::StaleRead,
        Self::BatchTaken,
        Self::DeadVersionHealed,
        Self::FoundInLog,
        Self::Drift,
        Self::Blocked,
        Self::LateArrival,
        Self::DeadCreateRemoved,
        Self::WithoutTrace,
        Self::PrefixBelowUndecided,
        Self::SlotAgain,
        Self::PinMovedPast,
        Self::LicenceGone,
        Self::Carried,
        Self::SlotOfCarryLost,
        Self::CarriedPastGap,
        Self::Dropped,
        Self::DroppedUnderWay,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::HelperPublishes => "somebody else publishes",
            Self::SelfUndo => "a writer undoes itself",
            Self::PrunedTablePut => "a put on a freed table version succeeds",
            Self::PrunedPublish => "a put on a freed manifest version succeeds",
            Self::PublishNotCounted => "such a publish is not counted",
            Self::SlotRefused => "the slot refuses",
            Self::GapRefused => "a gap refuses",
            Self::StaleRead => "a changed read aborts",
            Self::BatchTaken => "a batch id is taken",
            Self::DeadVersionHealed => "a dead version without sidecar is undone",
            Self::FoundInLog => "the commit log answers",
            Self::Drift => "drift is published or taken back",
            Self::Blocked => "a foreign version blocks an undo",
            Self::LateArrival => "a put arrives after its error",
            Self::DeadCreateRemoved => "a dead create is removed",
            Self::WithoutTrace => "an operation ends without a decision",
            Self::PrefixBelowUndecided => "a prefix stops below an undecided version",
            Self::PinMovedPast => "an undo finds that the pin moved past",
            Self::SlotAgain => "a writer steps over maintenance",
            Self::LicenceGone => "a run without its sidecar gives up",
            Self::Carried => "a rewrite is carried above an update",
            Self::SlotOfCarryLost => "a carried rewrite loses its slot",
            Self::CarriedPastGap => "a rewrite is carried past versions that are gone",
            Self::Dropped => "a table is dropped",
            Self::DroppedUnderWay => "an operation meets its dropped table",
        }
    }
}

/// What every publish must leave behind.
pub fn check_publish(world: &mut World, model: &Squire, before: &Manifest) {
    let now = world.latest();
    for name in 0..NAMES {
        let (old, new) = (before.pins[name], now.pins[name]);
        let same = old.path == new.path && now.dropped == before.dropped;
        if same && new.version < old.version {
            world.broke(Invariant::I2);
        }
        if now.floors[name] > new.version {
            world.broke(Invariant::I7);
        }
        if world.content(new.path, new.version) != world.expected[name] {
            world.broke(Invariant::I5);
        }
    }
    check_readable(world);
    for config in model.scenario.ops.iter().zip(0u8..) {
        let (config, op) = config;
        let shown = |name: &u8| {
            let pin = now.pins[*name as usize];
            world.content(pin.path, pin.version).has(op)
        };
        // A table that was dropped shows nothing, nor does one that was made again under its name.
        let facts = world.facts[op as usize];
        let there = |name: &&u8| {
            let pin = now.pins[**name as usize];
            pin.version > 0 && pin.path == facts.path[**name as usize]
        };
        let mut there = config.writes.iter().filter(there);
        let torn = there.clone().any(shown) && !there.all(shown);
        if torn {
            world.broke(Invariant::I1);
        }
    }
}

/// HEAD of a plain table shows what was committed to it.
pub fn check_plain(world: &mut World) {
    let head = world.head(0);
    if world.content(0, head) != world.expected[0] {
        world.broke(Invariant::I5);
    }
}

/// Every snapshot that readers may still ask for can be read, and so can what stands above it.
pub fn check_readable(world: &mut World) {
    let latest = world.latest();
    let gone = |m: &Manifest| {
        m.pins.iter().any(|pin| {
            pin.version > 0
                && world
                    .version(pin.path, pin.version)
                    .is_none_or(|v| !v.there)
        })
    };
    let lost_snapshot = world
        .history
        .iter()
        .filter(|m| m.number >= latest.floor)
        .any(|m| {
            let expired = (0..NAMES).any(|n| {
                m.pins[n].path == latest.pins[n].path && m.pins[n].version < latest.floors[n]
            });
            !expired && gone(m)
        });
    let lost_version = (0..NAMES).any(|n| {
        let pin = latest.pins[n];
        let from = latest.floors[n].max(1);
        (from..=world.head(pin.path)).any(|v| world.version(pin.path, v).is_none_or(|v| !v.there))
    });
    if lost_snapshot || lost_version {
        world.broke(Invariant::I11);
    }
}

/// An undo of `op` was put at `slot`.
pub fn check_undo(world: &mut World, path: u8, slot: u8, op: u8) {
    let undone = (1..slot).rev().find(|v| {
        world
            .version(path, *v)
            .is_some_and(|v| v.made == crate::world::Made::Logical(op))
    });
    let Some(v) = undone else {
        return;
    };
    if world.content(path, slot) != world.content(path, v - 1) {
        world.broke(Invariant::I6);
    }
    if world.version(path, v - 1).is_some_and(|v| !v.there) {
        world.broke(Invariant::I11);
    }
}

/// At most one version above a pin awaits its decision.
pub fn check_undecided(world: &mut World, path: u8) {
    let latest = world.latest();
    let Some(pin) = latest.pins.iter().find(|p| p.path == path && p.version > 0) else {
        return;
    };
    let chain = world.chain(path, pin.version);
    let undecided = chain
        .iter()
        .filter(|(_, class)| {
            matches!(class, Class::Logical(op)
                if !latest.aborted.has(op.0) && !world.committed.has(op.0))
        })
        .count();
    if undecided > 1 {
        world.broke(Invariant::I10);
    }
}
