//! The attempts at work, and that they move.

use super::status::Doing;
use crate::decide::work::{WorkItem, WorkKey};
use squire_engine::maintenance::Oversight;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
    hung: bool,
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
    /// Whether it was stopped because it did not move.
    pub(super) hung: bool,
    pub(super) began: Duration,
}

impl Attempts {
    pub(super) fn begin(&mut self, item: WorkItem, now: Duration) -> Begun {
        self.last += 1;
        let (oversight, abandon) = (Oversight::default(), CancellationToken::new());
        let attempt = Attempt {
            item,
            oversight: oversight.clone(),
            abandon: abandon.clone(),
            began: now,
            moved: (0, now),
            hung: false,
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
            item, hung, began, ..
        } = self.running.remove(&number)?;
        Some(Ended { item, hung, began })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Asks those that `which` names to stop at their next safe point.
    pub(super) fn cancel(&self, which: impl Fn(&WorkKey) -> bool) {
        let named = self.running.values().filter(|a| which(&a.item.key));
        named.for_each(|attempt| attempt.oversight.cancel());
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
            if !attempt.hung {
                let (what, seconds) = (attempt.item.to_string(), still.as_secs());
                tracing::warn!(
                    attempt = number,
                    what,
                    seconds,
                    "an attempt does not move and is stopped"
                );
                attempt.hung = true;
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
            stopping: match (attempt.hung, attempt.oversight.is_cancelled()) {
                (true, _) => Some("it did not move"),
                (false, true) => Some("it was asked to"),
                (false, false) => None,
            },
            progress: attempt.oversight.progress(),
            seconds: now.saturating_sub(attempt.began).as_secs(),
            steps: attempt.oversight.steps(),
        };
        self.running.iter().map(doing).collect()
    }
}
