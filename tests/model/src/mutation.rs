//! Mutations: the protocol with one guard taken out. Each must break something in the scenario named here.

use crate::invariants::Invariant;

/// A guard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Lance rebases a table commit over whatever landed.
    NoSlot,
    /// Lance rebases over versions that are gone.
    NoContiguity,
    /// Maintenance publishes HEAD.
    PublishHead,
    /// An incomplete operation is undone before the decision.
    UndoFirst,
    /// A restore lands on whatever HEAD is.
    LaxRestore,
    /// A publish does not look for the decision to abort.
    IgnoreDecision,
    /// A publish does not look at what stands between the pin and its version.
    IgnoreChain,
    /// A publish is believed.
    BelievePublish,
    /// A publish does not look at what was read.
    IgnoreReads,
    /// A publish does not look at its batch id.
    IgnoreBatch,
    /// A publish asks only the manifest for its batch id, not the commit log.
    ForgetBatch,
    /// Versions are deleted before the floor is declared.
    DeleteFirst,
    /// Cleanup does not spare what undecided operations stand on.
    IgnoreRoots,
    /// Cleanup lists the sidecars before it loads the manifest.
    ListFirst,
    /// A resolver reads heads before the manifest.
    HeadsFirst,
    /// A version at or below the pin proves a commit, whatever the decision and the floor say.
    BelieveResurrected,
    /// The commit log is not asked.
    IgnoreLog,
    /// The sidecar is put after the tables.
    LateSidecar,
    /// Any failure of the first table counts as a refusal.
    DoubtIsRefusal,
    /// A path that an aborted create wrote may be published.
    IgnoreBurned,
    /// Decisions are forgotten while somebody may still land.
    ForgetDecisions,
    /// The sidecar is deleted before the outcome is published.
    RetireFirst,
}

/// Guards taken out together, the scenario in which that is looked at, and what must break.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// On the command line.
    pub name: &'static str,
    pub without: &'static [Mutation],
    pub scenario: &'static str,
    /// `None`: another guard stands behind it, and nothing breaks.
    pub breaks: Option<Invariant>,
}

const fn case(
    name: &'static str,
    without: &'static [Mutation],
    scenario: &'static str,
    breaks: Invariant,
) -> Case {
    Case {
        name,
        without,
        scenario,
        breaks: Some(breaks),
    }
}

const fn safe(name: &'static str, without: &'static [Mutation], scenario: &'static str) -> Case {
    Case {
        name,
        without,
        scenario,
        breaks: None,
    }
}

/// All mutations.
pub const CASES: &[Case] = &[
    case("no-slot", &[Mutation::NoSlot], "writers", Invariant::I1),
    case(
        "no-contiguity",
        &[Mutation::NoContiguity],
        "floor",
        Invariant::I5,
    ),
    case(
        "publish-head",
        &[Mutation::PublishHead],
        "maintenance",
        Invariant::I1,
    ),
    case(
        "undo-before-decide",
        &[Mutation::UndoFirst],
        "writers",
        Invariant::I1,
    ),
    case(
        "lax-restore",
        &[Mutation::LaxRestore],
        "writers",
        Invariant::I5,
    ),
    case(
        "ignore-decision",
        &[Mutation::IgnoreDecision],
        "resolvers",
        Invariant::I3,
    ),
    case(
        "believe-publish",
        &[Mutation::BelievePublish],
        "history",
        Invariant::I4,
    ),
    case(
        "ignore-reads",
        &[Mutation::IgnoreReads],
        "skew",
        Invariant::I9,
    ),
    case(
        "ignore-batch",
        &[Mutation::IgnoreBatch],
        "batch",
        Invariant::Once,
    ),
    case(
        "forget-batch",
        &[Mutation::ForgetBatch],
        "batch",
        Invariant::Once,
    ),
    case(
        "delete-first",
        &[Mutation::DeleteFirst],
        "zombie",
        Invariant::I11,
    ),
    case(
        "ignore-roots",
        &[Mutation::IgnoreRoots],
        "late",
        Invariant::I2,
    ),
    case(
        "list-sidecars-first",
        &[Mutation::ListFirst],
        "late",
        Invariant::I2,
    ),
    case(
        "heads-first",
        &[Mutation::HeadsFirst],
        "resolvers",
        Invariant::I3,
    ),
    case(
        "believe-resurrected",
        &[Mutation::BelieveResurrected],
        "late",
        Invariant::I4,
    ),
    case("ignore-log", &[Mutation::IgnoreLog], "log", Invariant::I3),
    case(
        "late-sidecar",
        &[Mutation::LateSidecar],
        "resolvers",
        Invariant::I8,
    ),
    case(
        "retire-first",
        &[Mutation::RetireFirst],
        "resolvers",
        Invariant::I8,
    ),
    case(
        "doubt-is-refusal",
        &[Mutation::DoubtIsRefusal],
        "faults",
        Invariant::I8,
    ),
    case(
        "ignore-burned",
        &[Mutation::IgnoreBurned],
        "create",
        Invariant::I11,
    ),
    case(
        "forget-decisions",
        &[Mutation::ForgetDecisions],
        "forget",
        Invariant::I8,
    ),
    safe("ignore-chain", &[Mutation::IgnoreChain], "late"),
];
