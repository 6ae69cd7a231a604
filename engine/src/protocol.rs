//! The protocol as pure functions: what a version is, what is clean, what a resolver does next.
//!
//! Nothing here reads storage or time. The engine, the model and the tests call the same functions, so that the
//! model cannot drift from the code. The rules, and what breaks without each:
//!
//! | rule | function | without it |
//! |---|---|---|
//! | a version is what its own transaction says | `classify` | an external commit is published unreviewed |
//! | only content-preserving versions are stepped over | `is_clean`, `clean_prefix` | half of a multi-table commit becomes visible |
//! | decide before undo | `next_step` | committed data is undone |
//! | a landed operation is published, not aborted | `next_step` | a complete write is thrown away |
//! | an undo restores `v - 1` and nothing foreign is above it | `next_step` | someone else's rows are lost |
//! | the pin is looked at again before an undo | `may_restore` | committed rows are restored away |
//! | a pin only goes up, and nothing that cleanup passed over is believed | `next_step`, `is_genuine` | a delayed put brings old rows back |

use crate::ids::OpId;

/// Property key: the store that made the version.
pub const PROP_STORE: &str = "squire.store";
/// Property key: the operation that made the version.
pub const PROP_OP: &str = "squire.op";
/// Property key: `logical`, `maintenance` or `undo`.
pub const PROP_KIND: &str = "squire.kind";

/// The kind of a version that we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Changes what a reader sees.
    Logical,
    /// Preserves content.
    Maintenance,
    /// Takes an aborted operation back.
    Undo,
}

impl Kind {
    /// Its value of [`PROP_KIND`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logical => "logical",
            Self::Maintenance => "maintenance",
            Self::Undo => "undo",
        }
    }
}

/// What a Lance operation does to content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Rewrite, ReserveFragments, CreateIndex.
    PreservesContent,
    /// UpdateConfig.
    Config,
    /// Restore.
    Restore,
    /// Everything else.
    ChangesContent,
}

/// What a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Content-preserving, whoever made it.
    Maintenance,
    /// The undo of an operation of this store.
    Undo(OpId),
    /// A logical operation of this store.
    Logical(OpId),
    /// Anything else, missing and unreadable versions included.
    Foreign,
}

/// Our marks on a version's transaction, if they name this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marks {
    /// The operation.
    pub op: OpId,
    /// Its kind.
    pub kind: Kind,
}

/// Classifies a version by its own transaction.
pub fn classify(effect: Effect, marks: Option<Marks>) -> Class {
    match (effect, marks) {
        (Effect::PreservesContent, _)
        | (
            Effect::Config,
            Some(Marks {
                kind: Kind::Maintenance,
                ..
            }),
        ) => Class::Maintenance,
        (
            Effect::Restore,
            Some(Marks {
                kind: Kind::Undo,
                op,
            }),
        ) => Class::Undo(op),
        (
            Effect::ChangesContent,
            Some(Marks {
                kind: Kind::Logical,
                op,
            }),
        ) => Class::Logical(op),
        (Effect::Config | Effect::Restore | Effect::ChangesContent, _) => Class::Foreign,
    }
}

/// The versions of one table above some version, in order and without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The version that the chain starts above.
    pub from: u64,
    /// The class of `from + 1`, `from + 2`, ... HEAD.
    pub classes: Vec<Class>,
}

impl Chain {
    /// The latest version.
    pub fn head(&self) -> u64 {
        self.from + self.classes.len() as u64
    }

    /// The class of version `v`; `Foreign` when the chain does not hold it.
    pub fn class(&self, v: u64) -> Class {
        v.checked_sub(self.from + 1)
            .and_then(|i| self.classes.get(usize::try_from(i).ok()?))
            .copied()
            .unwrap_or(Class::Foreign)
    }

    /// The versions with their classes.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Class)> + '_ {
        (self.from + 1..).zip(self.classes.iter().copied())
    }

    /// The latest version that `op` landed logically.
    pub fn landed(&self, op: OpId) -> Option<u64> {
        self.iter()
            .filter(|(_, c)| *c == Class::Logical(op))
            .map(|(v, _)| v)
            .last()
    }

    /// The undo of `op` above version `v`.
    pub fn undone(&self, op: OpId, v: u64) -> Option<u64> {
        self.iter()
            .find(|(u, c)| *u > v && *c == Class::Undo(op))
            .map(|(u, _)| u)
    }
}

/// Whether every version in `(a, b]` is content-preserving. Versions at or below `chain.from` count as unknown.
pub fn is_clean(chain: &Chain, a: u64, b: u64) -> bool {
    (a + 1..=b).all(|v| chain.class(v) == Class::Maintenance)
}

/// The highest version that can be published from `pin` without passing a version that was not decided.
pub fn clean_prefix(chain: &Chain, pin: u64) -> u64 {
    let mut n = pin;
    while n < chain.head() && chain.class(n + 1) == Class::Maintenance {
        n += 1;
    }
    n
}

/// Why a table's HEAD is not its pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The first version that is not maintenance belongs to this operation.
    Operation(OpId),
    /// The first such version is foreign.
    Foreign(u64),
}

/// The first version above `pin` that a logical commit may not step over.
pub fn obstacle(chain: &Chain, pin: u64) -> Option<Obstacle> {
    let first = clean_prefix(chain, pin) + 1;
    if first > chain.head() {
        return None;
    }
    Some(match chain.class(first) {
        Class::Logical(op) | Class::Undo(op) => Obstacle::Operation(op),
        Class::Foreign | Class::Maintenance => Obstacle::Foreign(first),
    })
}

/// Whether what stands above `chain.from` is what was committed there. Below the floor, a delayed put can stand on a number
/// that cleanup freed (fact 8): maintenance in the place of somebody's rows makes a chain look clean that is not.
pub fn is_genuine(chain: &Chain, floor: u64) -> bool {
    floor <= chain.from + 1
}

/// Whether a table that an operation read at `chain.from` shows the same at `pin`.
pub fn is_unchanged(chain: &Chain, floor: u64, pin: u64) -> bool {
    pin >= chain.from && is_genuine(chain, floor) && is_clean(chain, chain.from, pin)
}

/// What follows from a refused commit of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It stands all the same, at this version.
    Landed(u64),
    /// Only maintenance took the slot: try this one.
    Again(u64),
    /// Someone else's content is in the way, or it is not known what happened.
    Lost,
}

/// Looks at the versions above the base after a commit of `op` at `slot` did not succeed. `definite` is a refusal that
/// leaves nothing under way.
pub fn after_refusal(chain: &Chain, op: OpId, slot: u64, definite: bool) -> Refused {
    if let Some(version) = chain.landed(op) {
        return Refused::Landed(version);
    }
    let next = chain.head() + 1;
    if definite && next != slot && is_clean(chain, chain.from, chain.head()) {
        Refused::Again(next)
    } else {
        Refused::Lost
    }
}

/// Whether an operation that did not land left nothing that anyone could complete or would have to undo: its first
/// table was refused, definitely. Then it needs no decision.
pub fn is_without_trace(first_table: bool, definite: bool) -> bool {
    first_table && definite
}

/// Whether a publish that was told to have made manifest version `slot` did, now that `floor` is the manifest's floor:
/// a put at a number that cleanup freed succeeds (fact 8).
pub fn publish_counts(slot: u64, floor: u64) -> bool {
    slot > floor
}

/// Whether an operation of `writers` other than `op` wrote to `path`. With the aborted ones: such a path is never
/// published, a resolver may be deleting what is there.
pub fn is_burned<'a, P: PartialEq + ?Sized + 'a>(
    writers: impl IntoIterator<Item = (OpId, &'a P)>,
    path: &P,
    op: OpId,
) -> bool {
    writers
        .into_iter()
        .any(|(other, written)| other != op && written == path)
}

/// A table's floor: what the oldest kept snapshot pins, but not above the base of an undecided operation, and never
/// down.
pub fn cleanup_floor(pinned: u64, undecided: Option<u64>, floor: u64) -> u64 {
    undecided.map_or(pinned, |base| pinned.min(base)).max(floor)
}

/// Whether `target` may be restored to undo the version above it, with `pin` loaded after the scan that found that version.
/// A restore is not a publish: no swap of the manifest tells it that the pin moved past meanwhile, and that the version is
/// a delayed put on a number that cleanup had freed. Above the pin no number is ever freed.
pub fn may_restore(target: u64, pin: u64) -> bool {
    pin <= target
}

/// Whether a decision to abort may be forgotten. `aged`: no process is believed to sleep that long. While its sidecar
/// stands the operation is not settled, and without its decision it could still be completed.
pub fn may_forget(aged: bool, sidecar: bool) -> bool {
    aged && !sidecar
}

/// One written table of an operation as a resolver sees it.
#[derive(Debug, Clone)]
pub struct WrittenTable {
    /// The pin; `None` while a create is not published.
    pub pin: Option<u64>,
    /// The table's floor: a version below it that is still there was put on a number that cleanup had freed (fact 8).
    pub floor: u64,
    /// The versions above the operation's base: the pin it was staged on, 0 for a create.
    pub chain: Chain,
    /// Whether the pin stands on another path than the operation wrote to.
    pub replaced: bool,
}

/// An operation as a resolver sees it.
#[derive(Debug, Clone)]
pub struct OperationView {
    /// The operation.
    pub op: OpId,
    /// Whether `op/X = aborted` stands in the manifest.
    pub aborted: bool,
    /// Whether the commit log shows it published; only asked when versions above its base are gone.
    pub logged: bool,
    /// Its written tables.
    pub writes: Vec<WrittenTable>,
    /// Whether every table it read is unchanged since its base, and its batch id is not taken.
    pub valid: bool,
}

impl OperationView {
    /// Committed is: a pin at or above the operation's version with no undo of it in between.
    ///
    /// Never when the decision to abort stands, and a version below the floor proves nothing: a zombie may have put it.
    pub fn is_published(&self) -> bool {
        if self.aborted {
            return false;
        }
        self.logged
            || self.writes.iter().any(|t| {
                let (Some(pin), Some(v)) = (t.pin, t.chain.landed(self.op)) else {
                    return false;
                };
                !t.replaced
                    && v >= t.floor
                    && v <= pin
                    && t.chain.undone(self.op, v).is_none_or(|undo| undo > pin)
            })
    }
}

/// Who resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The operation's own process, which will land nothing more.
    Owner,
    /// Someone who met it; may complete it, may not abort it.
    Helper,
    /// Someone who watched its sidecar for the whole grace; may abort it.
    Expired,
}

/// What a resolver does next. Every step is idempotent and evaluated again from a fresh load.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Published: remove the sidecar.
    Committed,
    /// Aborted and settled: remove the sidecar.
    Aborted,
    /// Publish these versions, one for each written table.
    Forward(Vec<u64>),
    /// Publish the decision to abort.
    Decide,
    /// Restore `target` at exactly `slot` on the table with this index.
    Undo {
        /// Index into the operation's written tables.
        table: usize,
        /// The version to restore.
        target: u64,
        /// The version that the restore must become.
        slot: u64,
    },
    /// Publish these undo versions, as (index, version).
    Settle(Vec<(usize, u64)>),
    /// Not complete, not mine to abort: wait.
    Wait,
    /// A foreign version stands above it on the table with this index: an operator decides.
    Blocked(usize),
}

/// The recovery function. Decide before undo, always.
pub fn next_step(view: &OperationView, role: Role) -> Step {
    if view.is_published() {
        return Step::Committed;
    }
    if view.aborted {
        return next_undo_step(view);
    }
    let landed: Option<Vec<u64>> = view
        .writes
        .iter()
        .map(|t| {
            let v = t.chain.landed(view.op)?;
            let pin = t.pin.unwrap_or(0);
            // A version at or below the pin was put on a number that cleanup had freed: publishing it would turn the
            // table back.
            let publishable = !t.replaced
                && pin < v
                && is_genuine(&t.chain, t.floor)
                && is_clean(&t.chain, pin, v - 1);
            publishable.then_some(v)
        })
        .collect();
    match (landed, role) {
        (Some(versions), _) if view.valid => Step::Forward(versions),
        (_, Role::Owner | Role::Expired) => Step::Decide,
        (_, Role::Helper) => Step::Wait,
    }
}

fn next_undo_step(view: &OperationView) -> Step {
    let mut settle = Vec::new();
    for (index, table) in view.writes.iter().enumerate() {
        let Some(v) = table.chain.landed(view.op) else {
            continue;
        };
        if table
            .pin
            .is_none_or(|pin| v <= pin && table.chain.undone(view.op, v).is_none())
            || table.replaced
        {
            // A create that lost: its path is never published. Or a put that landed on a version number that
            // cleanup had freed (fact 8): it lies below the floor. Neither is visible, so nothing is taken back.
            continue;
        }
        let Some(undo) = table.chain.undone(view.op, v) else {
            let foreign_above = table
                .chain
                .iter()
                .any(|(u, c)| u > v && c == Class::Foreign);
            if foreign_above {
                return Step::Blocked(index);
            }
            return Step::Undo {
                table: index,
                target: v - 1,
                slot: table.chain.head() + 1,
            };
        };
        // Something undecided below the dead version is resolved first; its pin then moves past it.
        let pin = table.pin.unwrap_or(0);
        if undo <= pin {
            continue;
        }
        if pin < v && is_clean(&table.chain, pin, v - 1) {
            settle.push((index, undo));
        } else {
            return Step::Blocked(index);
        }
    }
    if settle.is_empty() {
        Step::Aborted
    } else {
        Step::Settle(settle)
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
