//! Scheduling: which decided work runs next, and how long a failing table is left alone.

use super::planning::{OperationKind, OperationSpec};
use super::quarantine::Fingerprints;
use crate::config::Policy;
use squire_engine::maintenance::Target;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Decided work with its score.
#[derive(Debug, Clone)]
pub(crate) struct WorkItem {
    pub(crate) place: usize,
    pub(crate) target: Target,
    pub(crate) spec: OperationSpec,
    pub(crate) policy: Policy,
    pub(crate) score: u64,
    /// Estimated bytes of memory.
    pub(crate) memory: u64,
    /// What the table looked like when it was decided.
    pub(crate) fingerprints: Fingerprints,
    /// The indexes that rest.
    pub(crate) resting: BTreeSet<String>,
}

/// Memory that running attempts share. One that does not fit waits; one that would never fit runs alone.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    mebibytes: u32,
    free: Semaphore,
}

impl MemoryBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        let mebibytes = mebibytes(bytes).max(1);
        Self {
            mebibytes,
            free: Semaphore::new(mebibytes as usize),
        }
    }

    /// Waits until `bytes` are free, and holds them.
    pub(crate) async fn hold(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let wanted = mebibytes(bytes).min(self.mebibytes);
        // An error means a closed semaphore, and nobody closes this one.
        self.free.acquire_many(wanted).await.ok()
    }
}

fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX >> 3)
}

/// The priority of a piece of work, larger first.
///
/// Cleanup goes first: it is short and frees space that the others need. Then compaction before reindexing, because a
/// rewritten fragment would have to be indexed again. Within a kind, the table that is furthest past its threshold.
pub(crate) fn score(spec: &OperationSpec) -> u64 {
    let class = match spec.kind {
        OperationKind::Cleanup => 3,
        OperationKind::Compact => 2,
        OperationKind::Reindex => 1,
    };
    let debt = (spec.debt.clamp(0.0, 1_000.0) * 1_000.0).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=1,000,000"
    )]
    let debt = debt as u64;
    class * 10_000_000 + debt
}

/// Consecutive failures of one kind on one table.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    until: Duration,
}

/// Work of one kind on one table of one place, or on one index of it. By the place's URI: its number changes with a reload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WorkKey {
    place: String,
    target: Target,
    kind: OperationKind,
    index: Option<String>,
}

impl WorkKey {
    /// Work of `kind` on `target` of the place with the URI `place`.
    pub(crate) fn new(place: &str, target: Target, kind: OperationKind) -> Self {
        Self {
            place: place.to_owned(),
            target,
            kind,
            index: None,
        }
    }

    /// The part of this work that is about `index`.
    pub(crate) fn of_index(self, index: &str) -> Self {
        Self {
            index: Some(index.to_owned()),
            ..self
        }
    }
}

impl WorkItem {
    /// What this work is, in every pass; `place` is the URI of its place.
    pub(crate) fn key(&self, place: &str) -> WorkKey {
        WorkKey::new(place, self.target.clone(), self.spec.kind)
    }
}

/// Cool-downs, on the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Cooldowns(HashMap<WorkKey, Failures>);

impl Cooldowns {
    /// Whether this work must wait still.
    pub(crate) fn blocks(&self, key: &WorkKey, now: Duration) -> bool {
        self.0.get(key).is_some_and(|f| now < f.until)
    }

    /// Notes how an attempt ended; after enough failures in a row the cool-down starts and doubles.
    pub(crate) fn note(&mut self, key: WorkKey, policy: &Policy, failed: bool, now: Duration) {
        if !failed {
            self.0.remove(&key);
            return;
        }
        let failures = self.0.entry(key).or_default();
        failures.count += 1;
        let first = policy.failures_before_cooldown.max(1);
        if failures.count >= first {
            let doubled = 2u32.saturating_pow((failures.count - first).min(16));
            let pause = policy.cooldown.saturating_mul(doubled);
            failures.until = now + pause.min(policy.cooldown_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: OperationKind, debt: f64) -> WorkItem {
        let spec = OperationSpec {
            kind,
            reason: String::new(),
            debt,
        };
        let score = score(&spec);
        WorkItem {
            place: 0,
            target: Target::Plain("t.lance".into()),
            spec,
            policy: Policy::default(),
            score,
            memory: 0,
            fingerprints: Fingerprints::default(),
            resting: BTreeSet::new(),
        }
    }

    #[tokio::test]
    async fn an_attempt_that_does_not_fit_waits() {
        let budget = MemoryBudget::new(100 << 20);
        let first = budget.hold(60 << 20).await;
        let _second = budget.hold(40 << 20).await;
        let third = budget.hold(60 << 20);
        tokio::pin!(third);
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        assert!(futures::poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn an_attempt_larger_than_the_budget_runs_alone() {
        let budget = MemoryBudget::new(1 << 20);
        let alone = budget.hold(1 << 40).await;
        assert!(alone.is_some());
        assert!(futures::poll!(std::pin::pin!(budget.hold(1))).is_pending());
    }

    #[test]
    fn cleanup_goes_first_and_then_the_largest_debt() {
        assert!(
            item(OperationKind::Cleanup, 1.0).score > item(OperationKind::Compact, 900.0).score
        );
        assert!(
            item(OperationKind::Compact, 1.0).score > item(OperationKind::Reindex, 900.0).score
        );
        assert!(item(OperationKind::Compact, 3.0).score > item(OperationKind::Compact, 2.0).score);
    }

    #[test]
    fn cooldown_starts_at_the_third_failure_doubles_and_ends_with_a_success() {
        let mut cooldowns = Cooldowns::default();
        let item = item(OperationKind::Compact, 1.0);
        let (work, policy) = (item.key("lake"), item.policy.clone());
        let mut now = Duration::from_secs(100);
        for _ in 0..2 {
            cooldowns.note(work.clone(), &policy, true, now);
            assert!(!cooldowns.blocks(&work, now));
        }
        cooldowns.note(work.clone(), &policy, true, now);
        assert!(cooldowns.blocks(&work, now + Duration::from_secs(599)));
        now += Duration::from_secs(600);
        assert!(!cooldowns.blocks(&work, now));
        cooldowns.note(work.clone(), &policy, true, now);
        assert!(cooldowns.blocks(&work, now + Duration::from_secs(1_199)));
        for _ in 0..20 {
            cooldowns.note(work.clone(), &policy, true, now);
        }
        assert!(!cooldowns.blocks(&work, now + Duration::from_secs(6 * 3_600)));
        cooldowns.note(work.clone(), &policy, false, now);
        assert!(!cooldowns.blocks(&work, now));
    }
}
