//! Mutations: the protocol with one guard taken out. Each must break something in the scenario named here.

use crate::invariants::Invariant;

/// A guard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Lance rebases a table commit over whatever landed.
    NoSlot,
    /// A writer does not look at what stands above the pin.
    DirtyBase,
    /// Lance rebases over versions that are gone.
    NoContiguity,
    /// Maintenance commits without its sidecar.
    NoLicence,
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
    /// Cleanup says that it removes manifest versions after it has.
    MarkAfter,
    /// A writer reads what cleanup says after it looked for the latest manifest version.
    LateMark,
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
    /// The path of a dropped table may be published.
    IgnoreDropped,
    /// Decisions are forgotten while the sidecar stands.
    ForgetStanding,
    /// The pin is not looked at again before an undo.
    NoSecondLook,
    /// What stands below a floor is taken for what was committed there.
    IgnoreFloor,
    /// The sidecar is deleted before the outcome is published.
    RetireFirst,
    /// Rows that were deleted under a rewrite are not carried.
    ForgetDeletes,
    /// What was deleted under a rewrite is asked of the transactions since, not of the manifests.
    CarryByLog,
    /// What was carried may land above more than it was compared with.
    CarryWithoutSlot,
    /// The variant without sidecars: a version says all that a resolver needs. What follows are its own guards.
    NoSidecar,
    /// So does the first version of a new table.
    NoSidecarOfCreate,
    /// Resolvers look for sidecars only, not for what stands above pins.
    LookForSidecars,
    /// A version names its operation, not its batch and what it read.
    BareVersion,
    /// Who takes over an operation of which nothing is to be seen begins anew, without deciding against it.
    BelieveAbsence,
    /// The manifest does not remember that decisions were forgotten.
    ForgetForgetting,
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

use Mutation as M;

/// All mutations; at the end those that another guard catches, and what breaks without any.
pub const CASES: &[Case] = &[
    case("no-slot", &[M::NoSlot], "writers", Invariant::I1),
    case("dirty-base", &[M::DirtyBase], "writers", Invariant::I10),
    case("no-licence", &[M::NoLicence], "fooled", Invariant::I5),
    case(
        "licence-and-contiguity",
        &[M::NoLicence, M::NoContiguity],
        "floor",
        Invariant::I5,
    ),
    case(
        "publish-head",
        &[M::PublishHead],
        "maintenance",
        Invariant::I1,
    ),
    case(
        "undo-before-decide",
        &[M::UndoFirst],
        "writers",
        Invariant::I8,
    ),
    case("lax-restore", &[M::LaxRestore], "resolvers", Invariant::I8),
    case(
        "ignore-decision",
        &[M::IgnoreDecision],
        "resolvers",
        Invariant::I3,
    ),
    case(
        "believe-publish",
        &[M::BelievePublish],
        "history",
        Invariant::I4,
    ),
    case("mark-after", &[M::MarkAfter], "history", Invariant::I4),
    case("late-mark", &[M::LateMark], "history", Invariant::I4),
    case("ignore-reads", &[M::IgnoreReads], "skew", Invariant::I9),
    case("ignore-batch", &[M::IgnoreBatch], "batch", Invariant::Once),
    case("forget-batch", &[M::ForgetBatch], "batch", Invariant::Once),
    case("delete-first", &[M::DeleteFirst], "zombie", Invariant::I11),
    case(
        "ignore-floor-of-reads",
        &[M::IgnoreFloor],
        "stale",
        Invariant::I9,
    ),
    case(
        "ignore-floor",
        &[M::IgnoreFloor],
        "stale-write",
        Invariant::I5,
    ),
    case("heads-first", &[M::HeadsFirst], "resolvers", Invariant::I3),
    case(
        "believe-resurrected",
        &[M::BelieveResurrected],
        "late",
        Invariant::I4,
    ),
    case("ignore-log", &[M::IgnoreLog], "log", Invariant::I3),
    case(
        "late-sidecar",
        &[M::LateSidecar],
        "resolvers",
        Invariant::I8,
    ),
    case(
        "retire-first",
        &[M::RetireFirst],
        "resolvers",
        Invariant::I8,
    ),
    case(
        "doubt-is-refusal",
        &[M::DoubtIsRefusal],
        "faults",
        Invariant::I8,
    ),
    case(
        "ignore-burned",
        &[M::IgnoreBurned],
        "create",
        Invariant::I11,
    ),
    case(
        "dropped-and-log",
        &[M::IgnoreDropped, M::IgnoreLog],
        "drop-create",
        Invariant::I5,
    ),
    case(
        "ignore-log-of-dropped",
        &[M::IgnoreLog],
        "drop",
        Invariant::I3,
    ),
    case(
        "forget-standing",
        &[M::ForgetStanding],
        "forget",
        Invariant::I3,
    ),
    case(
        "roots-and-chain",
        &[M::IgnoreRoots, M::IgnoreChain],
        "late",
        Invariant::I2,
    ),
    case(
        "no-second-look",
        &[M::NoSecondLook],
        "late-resolvers",
        Invariant::I8,
    ),
    case("carry-forgets", &[M::ForgetDeletes], "carry", Invariant::I5),
    case(
        "carry-without-slot",
        &[M::CarryWithoutSlot],
        "carry-two",
        Invariant::I5,
    ),
    case("carry-by-log", &[M::CarryByLog], "plain", Invariant::I5),
    safe("no-sidecar", &[M::NoSidecar], "late"),
    safe("no-sidecar-but-heirs", &[M::NoSidecar], "heir"),
    safe("no-sidecar-forgotten", &[M::NoSidecar], "forgotten"),
    case(
        "look-for-sidecars",
        &[M::NoSidecar, M::LookForSidecars],
        "resolvers",
        Invariant::I8,
    ),
    case(
        "bare-version-reads",
        &[M::NoSidecar, M::BareVersion],
        "skew",
        Invariant::I9,
    ),
    case(
        "bare-version-batch",
        &[M::NoSidecar, M::BareVersion],
        "batch",
        Invariant::Once,
    ),
    case(
        "believe-absence",
        &[M::NoSidecar, M::BelieveAbsence],
        "heir",
        Invariant::I4,
    ),
    case(
        "forget-forgetting",
        &[M::NoSidecar, M::ForgetForgetting],
        "forgotten",
        Invariant::I3,
    ),
    case(
        "no-sidecar-of-create",
        &[M::NoSidecar, M::NoSidecarOfCreate],
        "create",
        Invariant::I8,
    ),
    case(
        "no-roots-no-chain",
        &[M::NoSidecar, M::IgnoreChain],
        "late",
        Invariant::I2,
    ),
    safe("no-contiguity", &[M::NoContiguity], "floor"),
    safe("ignore-roots", &[M::IgnoreRoots], "late"),
    safe("ignore-chain", &[M::IgnoreChain], "late"),
    safe("ignore-dropped", &[M::IgnoreDropped], "drop-create"),
    safe("list-sidecars-first", &[M::ListFirst], "late"),
    safe("abort-without-grace", &[], "resolvers"),
    assumed("decision-forgotten", "forget", Invariant::I8),
    assumed("forgotten-published", "forgotten", Invariant::I3),
    assumed("two-repairs", "repairs", Invariant::I8),
];

/// Nothing is taken out: this breaks as things stand. ARCHITECTURE.md says what is assumed, and why.
const fn assumed(name: &'static str, scenario: &'static str, breaks: Invariant) -> Case {
    case(name, &[], scenario, breaks)
}
