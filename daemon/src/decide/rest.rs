//! How long work is left alone that did not succeed, or changed nothing. Pure.

use super::planning::OperationKind;
use super::waits::Resting;
use crate::config::Policy;
use std::collections::BTreeMap;
use std::time::Duration;

/// How an attempt ended, as far as the next one is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did something: if more is due, the next one may follow at once.
    Effective,
    /// It did nothing, and would do nothing again: the next look decides.
    Idle,
    /// Another daemon works on it, and has claimed it for so long still.
    Elsewhere(Duration),
    /// A person stopped it, and does not want it back at once.
    Cancelled,
    /// What was wanted does not hold.
    Bad,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rest {
    /// Failures in a row.
    failures: u32,
    until: Duration,
    /// What it rests after.
    after: Option<Outcome>,
}

impl Rest {
    fn why(self) -> String {
        match self.after {
            None | Some(Outcome::Effective | Outcome::Idle) => {
                String::from("the last attempt changed nothing")
            }
            Some(Outcome::Elsewhere(_)) => String::from("another daemon works on it"),
            Some(Outcome::Cancelled) => String::from("someone stopped it"),
            Some(Outcome::Bad) if self.failures == 1 => String::from("the last attempt failed"),
            Some(Outcome::Bad) => format!("{} attempts in a row failed", self.failures),
        }
    }
}

/// The rests of one table, or of one store, by kind, on the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Rests(BTreeMap<OperationKind, Rest>);

impl Rests {
    /// Whether work of `kind` must wait still.
    pub(crate) fn blocks(&self, kind: OperationKind, now: Duration) -> bool {
        self.0.get(&kind).is_some_and(|rest| now < rest.until)
    }

    /// Whether the last attempts of `kind` failed.
    pub(crate) fn is_failing(&self, kind: OperationKind) -> bool {
        self.0.get(&kind).is_some_and(|rest| rest.failures > 0)
    }

    /// That work of `kind` must wait still, and why.
    pub(crate) fn resting(&self, kind: OperationKind, now: Duration) -> Option<Resting> {
        let rest = self.0.get(&kind).filter(|rest| now < rest.until)?;
        Some(Resting {
            kind,
            why: rest.why(),
            until: Some(rest.until),
        })
    }

    /// When the first rest ends that still goes on at `now`.
    pub(crate) fn next_end(&self, now: Duration) -> Option<Duration> {
        let ends = self.0.values().map(|rest| rest.until);
        ends.filter(|until| *until > now).min()
    }

    /// Notes how an attempt ended. One that changed nothing rests for a `scan` interval; after enough failures in a row
    /// the cool-down starts, and doubles.
    pub(crate) fn note(
        &mut self,
        kind: OperationKind,
        outcome: Outcome,
        policy: &Policy,
        (now, scan): (Duration, Duration),
    ) {
        let rest = self.0.entry(kind).or_default();
        let pause = match outcome {
            Outcome::Effective => Duration::ZERO,
            Outcome::Idle => scan,
            Outcome::Elsewhere(left) => left.min(policy.cooldown_max),
            Outcome::Cancelled => policy.cooldown,
            Outcome::Bad => {
                rest.failures += 1;
                let first = policy.failures_before_cooldown.max(1);
                match rest.failures.checked_sub(first) {
                    None => scan,
                    Some(more) => {
                        let doubled = 2u32.saturating_pow(more.min(16));
                        let pause = policy.cooldown.saturating_mul(doubled);
                        pause.min(policy.cooldown_max)
                    }
                }
            }
        };
        if outcome != Outcome::Bad {
            rest.failures = 0;
        }
        rest.until = now + pause;
        rest.after = Some(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Rests};
    use crate::config::Policy;
    use crate::decide::planning::OperationKind::{Compact, Reindex};
    use std::time::Duration;

    const SCAN: Duration = Duration::from_secs(60);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_outcome_has_its_rest() {
        for (outcome, rest, why) in [
            (Outcome::Effective, 0, ""),
            (Outcome::Idle, 60, "the last attempt changed nothing"),
            (
                Outcome::Elsewhere(secs(20)),
                20,
                "another daemon works on it",
            ),
            (Outcome::Cancelled, 600, "someone stopped it"),
            (Outcome::Bad, 60, "the last attempt failed"),
        ] {
            let mut rests = Rests::default();
            rests.note(Compact, outcome, &Policy::default(), (secs(100), SCAN));
            let blocked = |at| rests.blocks(Compact, secs(100 + at));
            assert!(rest == 0 || blocked(rest - 1), "{outcome:?}");
            assert!(!blocked(rest), "{outcome:?}");
            let told = rests.resting(Compact, secs(100)).map(|r| (r.why, r.until));
            let end = (rest > 0).then(|| (why.to_owned(), Some(secs(100 + rest))));
            assert_eq!(told, end, "{outcome:?}");
            assert!(!rests.blocks(Reindex, secs(100)), "{outcome:?}");
            let end = rests.next_end(secs(100));
            assert_eq!(end, (rest > 0).then(|| secs(100 + rest)), "{outcome:?}");
        }
    }

    #[test]
    fn the_cooldown_starts_at_the_third_failure_doubles_and_ends_with_a_success() {
        let (mut rests, policy) = (Rests::default(), Policy::default());
        let fail = |rests: &mut Rests, at| {
            rests.note(Compact, Outcome::Bad, &policy, (secs(at), SCAN));
        };
        fail(&mut rests, 100);
        fail(&mut rests, 100);
        assert!(!rests.blocks(Compact, secs(160)));
        fail(&mut rests, 100);
        assert!(rests.blocks(Compact, secs(699)) && !rests.blocks(Compact, secs(700)));
        fail(&mut rests, 700);
        assert!(rests.blocks(Compact, secs(1_899)));
        let told = rests.resting(Compact, secs(700)).map(|r| r.why);
        assert_eq!(told.as_deref(), Some("4 attempts in a row failed"));
        for _ in 0..20 {
            fail(&mut rests, 700);
        }
        assert!(!rests.blocks(Compact, secs(700 + 6 * 3_600)));
        rests.note(Compact, Outcome::Effective, &policy, (secs(700), SCAN));
        assert!(!rests.blocks(Compact, secs(700)));
        fail(&mut rests, 700);
        assert!(!rests.blocks(Compact, secs(760)), "the count began anew");
    }
}
