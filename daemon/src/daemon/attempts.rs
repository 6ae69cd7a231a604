//! The attempts at work, and that they move.

use super::status::Doing;
use crate::decide::work::WorkItem;
use squire_engine::maintenance::{Oversight, Pace};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Why an attempt was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It did not move.
    Hung,
    /// A person said so.
    Asked,
    /// Its maintenance window ended.
    Window,
    /// Its disk is almost full.
    Room,
    /// Its location is watched no more, or the daemon is stopped or drained.
    Ending,
}

impl Stop {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Hung => "it did not move",
            Self::Asked => "someone asked for it",
            Self::Window => "its maintenance window ended",
            Self::Room => "its disk is almost full",
            Self::Ending => "it is handed back",
        }
    }
}

/// One attempt at work.
#[derive(Debug)]
struct Attempt {
    item: WorkItem,
    oversight: Oversight,
    /// Drops it where it stands, as a crash would; what it left is for recovery.
    abandon: CancellationToken,
    began: Duration,
    /// Its steps, and when they were seen to grow.
    moved: (u64, Duration),
    stop: Option<Stop>,
    /// When it was seen to be handed back.
    handed_back: Option<Duration>,
}

impl Attempt {
    /// Asks it to stop at its next safe point. The first reason stays. One that is handed back has some time for the rewrite
    /// in hand: whoever looks next would begin it anew.
    fn stop(&mut self, why: Stop) {
        self.stop.get_or_insert(why);
        match why {
            Stop::Ending => self.oversight.wind_down(),
            Stop::Hung | Stop::Asked | Stop::Window | Stop::Room => self.oversight.cancel(),
        }
    }
}

/// All attempts at work, by their number in this process.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    last: u64,
    running: BTreeMap<u64, Attempt>,
}

/// What its task is given of an attempt.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) number: u64,
    pub(super) oversight: Oversight,
    pub(super) abandon: CancellationToken,
}

/// What is left of an attempt that ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) item: WorkItem,
    /// Why it was asked to stop.
    pub(super) stop: Option<Stop>,
    pub(super) began: Duration,
}

impl Attempts {
    pub(super) fn begin(&mut self, item: WorkItem, pace: &Arc<Pace>, now: Duration) -> Begun {
        self.last += 1;
        let (oversight, abandon) = (Oversight::paced(pace.clone()), CancellationToken::new());
        let attempt = Attempt {
            item,
            oversight: oversight.clone(),
            abandon: abandon.clone(),
            began: now,
            moved: (0, now),
            stop: None,
            handed_back: None,
        };
        self.running.insert(self.last, attempt);
        Begun {
            number: self.last,
            oversight,
            abandon,
        }
    }

    pub(super) fn end(&mut self, number: u64) -> Option<Ended> {
        let Attempt {
            item, stop, began, ..
        } = self.running.remove(&number)?;
        Some(Ended { item, stop, began })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Asks those that `which` names, by number and by what they are about, to stop at their next safe point.
    pub(super) fn cancel(&mut self, why: Stop, mut which: impl FnMut(u64, &WorkItem) -> bool) {
        let named = self.running.iter_mut();
        let named = named.filter(|(number, a)| a.stop.is_none() && which(**number, &a.item));
        for (number, attempt) in named {
            let (what, why_text) = (attempt.item.to_string(), why.as_str());
            tracing::debug!(
                attempt = number,
                what,
                why = why_text,
                "an attempt is asked to stop"
            );
            attempt.stop(why);
        }
    }

    /// Has those that were handed back give up what they have in hand, once they had the time `finishing` for it.
    pub(super) fn press(&mut self, now: Duration, finishing: Duration) {
        let ending = |attempt: &&mut Attempt| attempt.stop == Some(Stop::Ending);
        for attempt in self.running.values_mut().filter(ending) {
            let since = *attempt.handed_back.get_or_insert(now);
            if now.saturating_sub(since) >= finishing {
                attempt.oversight.cancel();
            }
        }
    }

    /// Stops those that have not moved for `patience`; after twice as long they are dropped where they stand.
    pub(super) fn watch(&mut self, now: Duration, patience: Duration) {
        for (number, attempt) in &mut self.running {
            let steps = attempt.oversight.steps();
            if steps != attempt.moved.0 {
                attempt.moved = (steps, now);
                continue;
            }
            let still = now.saturating_sub(attempt.moved.1);
            if still < patience {
                continue;
            }
            if attempt.stop != Some(Stop::Hung) && still < 2 * patience {
                let (what, seconds) = (attempt.item.to_string(), still.as_secs());
                tracing::warn!(
                    attempt = number,
                    what,
                    seconds,
                    "an attempt does not move and is stopped"
                );
                attempt.stop = Some(Stop::Hung);
                attempt.oversight.cancel();
            } else if still >= 2 * patience {
                attempt.abandon.cancel();
            }
        }
    }

    /// The longest time for which one has made no step.
    pub(super) fn longest_still(&self, now: Duration) -> Duration {
        let still = |attempt: &Attempt| now.saturating_sub(attempt.moved.1);
        self.running.values().map(still).max().unwrap_or_default()
    }

    /// What is shown of them.
    pub(super) fn doing(&self, now: Duration) -> Vec<Doing> {
        let doing = |(number, attempt): (&u64, &Attempt)| Doing {
            attempt: *number,
            location: attempt.item.key.location.clone(),
            table: attempt.item.key.scope.to_string(),
            kind: attempt.item.key.kind,
            reason: attempt.item.reason.clone(),
            what: attempt.item.to_string(),
            trigger: attempt.item.trigger,
            progress: attempt.oversight.progress(),
            seconds: now.saturating_sub(attempt.began).as_secs(),
            steps: attempt.oversight.steps(),
            stopping: attempt.stop.map(Stop::as_str),
        };
        self.running.iter().map(doing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempts, Duration, Pace, Stop};
    use crate::config::Policy;
    use crate::decide::planning::{OperationKind, OperationSpec};
    use crate::decide::work::{Scope, Trigger, WorkItem};
    use crate::place::table::cleanup_item;
    use squire_engine::clock::SystemClock;
    use std::sync::Arc;

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    fn cleanup() -> WorkItem {
        let spec = OperationSpec {
            kind: OperationKind::Cleanup,
            reason: String::new(),
            debt: 1.0,
            needs: 0,
        };
        cleanup_item(
            "lake",
            Scope::Store,
            spec,
            (Trigger::Regular, Policy::default()),
        )
    }

    /// What is handed back has some time for what it has in hand; what a person stops has none.
    #[test]
    fn what_is_handed_back_may_finish() {
        let pace = Arc::new(Pace::new(None, Arc::new(SystemClock::default())));
        let mut attempts = Attempts::default();
        let asked = attempts.begin(cleanup(), &pace, Duration::ZERO);
        attempts.cancel(Stop::Asked, |_, _| true);
        assert!(asked.oversight.is_given_up());
        let ending = attempts.begin(cleanup(), &pace, Duration::ZERO);
        attempts.cancel(Stop::Ending, |_, _| true);
        for minute in [3, 4, 7] {
            attempts.press(minutes(minute), minutes(5));
            assert!(ending.oversight.is_cancelled() && !ending.oversight.is_given_up());
        }
        attempts.press(minutes(8), minutes(5));
        assert!(ending.oversight.is_given_up());
    }

    /// However long it lasts: what counts is that its steps grow, as those of a long index build do with its stages.
    #[test]
    fn an_attempt_is_stopped_for_standing_still_and_not_for_lasting() {
        let item = cleanup();
        let pace = Arc::new(Pace::new(None, Arc::new(SystemClock::default())));
        let (mut attempts, patience) = (Attempts::default(), minutes(10));
        let begun = attempts.begin(item, &pace, Duration::ZERO);
        for n in 1..=5 {
            // Another number of steps than was seen last.
            attempts.running.values_mut().for_each(|a| a.moved.0 = n);
            attempts.watch(minutes(9 * n), patience);
            assert_eq!(attempts.longest_still(minutes(9 * n)), Duration::ZERO);
        }
        attempts.watch(minutes(54), patience);
        assert!(!begun.oversight.is_cancelled());
        attempts.watch(minutes(55), patience);
        assert!(begun.oversight.is_cancelled() && !begun.abandon.is_cancelled());
        attempts.watch(minutes(65), patience);
        assert!(begun.abandon.is_cancelled());
        let stop = attempts.end(begun.number).and_then(|ended| ended.stop);
        assert_eq!(stop, Some(Stop::Hung));
    }
}
