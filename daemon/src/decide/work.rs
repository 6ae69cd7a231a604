//! Decided work, and what of it goes first.

use super::planning::{OperationKind, OperationSpec};
use super::quarantine::Fingerprints;
use crate::config::Policy;
use serde::Serialize;
use squire_engine::maintenance::Target;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// What work is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    /// All tables of a store together: its snapshots span them, so it is cleaned as a whole.
    Store,
    Table(Target),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("all tables"),
            Self::Table(target) => target.fmt(f),
        }
    }
}

/// Why there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trigger {
    /// A table is past a threshold of its policy.
    Threshold,
    /// It is time.
    Regular,
    /// A person asked for it: it goes first, and no cool-down holds it back.
    Asked,
    /// Its disk is short of room: a cleanup goes before all else.
    Room,
}

impl Trigger {
    /// Whether it waits for the windows of its policy. Neither people nor a disk that fills wait for the night.
    pub(crate) fn keeps_windows(self) -> bool {
        match self {
            Self::Threshold | Self::Regular => true,
            Self::Asked | Self::Room => false,
        }
    }
}

/// What names work, from one look to the next. By the location's URI: its number changes with a reload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkKey {
    pub(crate) location: String,
    pub(crate) scope: Scope,
    pub(crate) kind: OperationKind,
}

/// Decided work.
#[derive(Debug, Clone)]
pub(crate) struct WorkItem {
    pub(crate) key: WorkKey,
    pub(crate) trigger: Trigger,
    pub(crate) reason: String,
    pub(crate) score: u64,
    /// Estimated bytes of memory.
    pub(crate) memory: u64,
    /// Bytes that it may write before a cleanup frees what they replace.
    pub(crate) needs: u64,
    pub(crate) policy: Policy,
    /// What the table looked like when it was decided.
    pub(crate) fingerprints: Fingerprints,
    /// The indexes that rest.
    pub(crate) resting: BTreeSet<String>,
}

impl fmt::Display for WorkItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorkKey { scope, kind, .. } = &self.key;
        write!(f, "{} {scope}: {}", kind.as_str(), self.reason)
    }
}

/// What separates one class of work from the next.
const CLASS: u64 = 10_000_000;

/// How many classes what a person asked for is above the others: each is half an hour of waiting.
const ASKED: u64 = 8;

/// What a second of waiting adds. Half an hour outweighs a class: nothing waits for ever behind what keeps coming.
const AGING: u64 = CLASS / 1_800;

/// The priority of a piece of work, larger first.
///
/// The cleanup of a disk that is short of room goes first. Then what a person asked for, before all that has waited for less than four hours. Then cleanup: it is short and frees space that the others need. Then compaction
/// before reindexing, because a rewritten fragment would have to be indexed again. Within a kind, the table that is
/// furthest past its threshold.
pub(crate) fn score(spec: &OperationSpec, trigger: Trigger) -> u64 {
    let class = match (trigger, spec.kind) {
        (Trigger::Room, _) => 4 + ASKED,
        (Trigger::Asked, _) => 3 + ASKED,
        (_, OperationKind::Cleanup) => 3,
        (_, OperationKind::Compact) => 2,
        (_, OperationKind::Reindex) => 1,
    };
    let debt = (spec.debt.clamp(0.0, 1_000.0) * 1_000.0).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=1,000,000"
    )]
    let debt = debt as u64;
    class * CLASS + debt
}

impl WorkItem {
    /// Its priority after it has `waited`.
    pub(crate) fn urgency(&self, waited: Duration) -> u64 {
        self.score
            .saturating_add(waited.as_secs().saturating_mul(AGING))
    }
}

#[cfg(test)]
mod tests {
    use super::{OperationKind, OperationSpec, Trigger, score};

    fn of(kind: OperationKind, debt: f64, trigger: Trigger) -> u64 {
        let reason = String::new();
        let needs = 0;
        let spec = OperationSpec {
            kind,
            reason,
            debt,
            needs,
        };
        score(&spec, trigger)
    }

    #[test]
    fn what_was_asked_for_goes_first_then_cleanup_and_then_the_largest_debt() {
        use OperationKind::{Cleanup, Compact, Reindex};
        let due = |kind, debt| of(kind, debt, Trigger::Threshold);
        assert!(of(Cleanup, 1.0, Trigger::Room) > of(Cleanup, 900.0, Trigger::Asked));
        assert!(of(Reindex, 1.0, Trigger::Asked) > due(Cleanup, 900.0));
        assert!(due(Cleanup, 1.0) > due(Compact, 900.0));
        assert!(due(Compact, 1.0) > due(Reindex, 900.0));
        assert!(due(Compact, 3.0) > due(Compact, 2.0));
    }
}
