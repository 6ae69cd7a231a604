//! Mutations: the protocol with one guard taken out. Each must break something in the scenario named here.

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

/// A mutation, the scenario that must find it, and what it is called on the command line.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub mutation: Mutation,
    pub name: &'static str,
    pub scenario: &'static str,
}

const fn case(mutation: Mutation, name: &'static str, scenario: &'static str) -> Case {
    Case {
        mutation,
        name,
        scenario,
    }
}

/// All mutations.
pub const CASES: &[Case] = &[
    case(Mutation::NoSlot, "no-slot", "writers"),
    case(Mutation::NoContiguity, "no-contiguity", "floor"),
    case(Mutation::PublishHead, "publish-head", "maintenance"),
    case(Mutation::UndoFirst, "undo-before-decide", "writers"),
    case(Mutation::LaxRestore, "lax-restore", "resolvers"),
    case(Mutation::IgnoreDecision, "ignore-decision", "resolvers"),
    case(Mutation::IgnoreChain, "ignore-chain", "zombie"),
    case(Mutation::BelievePublish, "believe-publish", "history"),
    case(Mutation::IgnoreReads, "ignore-reads", "skew"),
    case(Mutation::IgnoreBatch, "ignore-batch", "batch"),
    case(Mutation::ForgetBatch, "forget-batch", "batch"),
    case(Mutation::DeleteFirst, "delete-first", "zombie"),
    case(Mutation::IgnoreRoots, "ignore-roots", "zombie"),
    case(Mutation::ListFirst, "list-sidecars-first", "zombie"),
    case(Mutation::HeadsFirst, "heads-first", "resolvers"),
    case(
        Mutation::BelieveResurrected,
        "believe-resurrected",
        "zombie",
    ),
    case(Mutation::IgnoreLog, "ignore-log", "log"),
    case(Mutation::LateSidecar, "late-sidecar", "resolvers"),
    case(Mutation::DoubtIsRefusal, "doubt-is-refusal", "faults"),
    case(Mutation::IgnoreBurned, "ignore-burned", "create"),
    case(Mutation::ForgetDecisions, "forget-decisions", "forget"),
    case(Mutation::RetireFirst, "retire-first", "resolvers"),
];
