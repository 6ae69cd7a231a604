//! Why work that is due does not run now, in the words that `/status`, the page, `squire plan` and `squire status` share.

use super::planning::OperationKind;
use super::work::Trigger;
use crate::units::rough_size;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Why work waits although there may be a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    Paused(String),
    /// Its next window opens then.
    Closed(Option<Timestamp>),
    /// After what became of it; without an end it would come out the same again.
    Rests(String, Option<Timestamp>),
    /// Its disk has so much free, it may need so much of it, and so much stays free.
    NoRoom {
        free: u64,
        needs: u64,
        least: u64,
    },
}

impl Held {
    fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Paused(_) | Self::NoRoom { .. } => None,
            Self::Closed(until) | Self::Rests(_, until) => *until,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused(what) => f.write_str(what),
            Self::Closed(Some(opens)) => write!(f, "its maintenance window opens at {opens}"),
            Self::Closed(None) => f.write_str("its maintenance window does not open"),
            Self::NoRoom { free, needs, least } => write!(
                f,
                "room on its disk: {} are free, it may write {}, and {} stay free (min_free)",
                rough_size(*free),
                rough_size(*needs),
                rough_size(*least)
            ),
            Self::Rests(why, Some(until)) => write!(f, "{why}; it rests until {until}"),
            Self::Rests(why, None) => write!(
                f,
                "{why}; it rests until the schema or the release changes, or someone asks for it"
            ),
        }
    }
}

/// Work that is due and does not run now, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wait {
    pub(crate) kind: OperationKind,
    /// What it waits for.
    pub(crate) held: String,
    /// Until when, in milliseconds since the epoch, where that is known.
    pub(crate) until_ms: Option<u64>,
}

impl Wait {
    pub(crate) fn held(kind: OperationKind, held: &Held) -> Self {
        let until = held.until().map(Timestamp::as_millisecond);
        Self {
            kind,
            held: held.to_string(),
            until_ms: until.and_then(|ms| u64::try_from(ms).ok()),
        }
    }

    /// Whether it may still be so at `now_ms`.
    pub(crate) fn lasts(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| until > now_ms)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits: {}", self.kind.as_str(), self.held)
    }
}

/// Work that rests by what is known of its table: why, and until when on the monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resting {
    pub(crate) kind: OperationKind,
    pub(crate) why: String,
    pub(crate) until: Option<Duration>,
}

impl Resting {
    /// It would come out the same again.
    pub(crate) fn unfit(kind: OperationKind, why: String) -> Self {
        let until = None;
        Self { kind, why, until }
    }

    /// As it is shown, where the monotonic clock began at `began_ms`. A second more does not matter to people.
    pub(crate) fn shown(self, began_ms: u64) -> Wait {
        let until = self.until.and_then(|until| {
            let ms = u128::from(began_ms) + until.as_millis();
            Timestamp::from_second(i64::try_from(ms.div_ceil(1_000)).ok()?).ok()
        });
        Wait::held(self.kind, &Held::Rests(self.why, until))
    }
}

impl fmt::Display for Resting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rests: {}", self.kind.as_str(), self.why)
    }
}

/// Decided work that waits, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Waits {
    pub(crate) location: String,
    pub(crate) table: String,
    pub(crate) reason: String,
    pub(crate) trigger: Trigger,
    pub(crate) seconds: u64,
    #[serde(flatten)]
    pub(crate) wait: Wait,
}

#[cfg(test)]
mod tests {
    use super::{Held, OperationKind, Resting, Wait};
    use std::time::Duration;

    #[test]
    fn what_is_held_back_says_why_and_until_when() {
        let at = "2026-11-26T22:00:00Z".parse().unwrap();
        let paused = Held::Paused("paused: all work (an audit)".into());
        for (held, told, until) in [
            (paused, "paused: all work (an audit)", None),
            (
                Held::Closed(Some(at)),
                "its maintenance window opens at 2026-11-26T22:00:00Z",
                Some(1_795_730_400_000),
            ),
            (
                Held::Rests("it failed 3 times".into(), Some(at)),
                "it failed 3 times; it rests until 2026-11-26T22:00:00Z",
                Some(1_795_730_400_000),
            ),
            (
                Held::NoRoom {
                    free: 5 << 30,
                    needs: 3 << 20,
                    least: 5 << 30,
                },
                "room on its disk: 5.0 GiB are free, it may write 3.0 MiB, and 5.0 GiB stay free (min_free)",
                None,
            ),
            (
                Held::Rests("rows are missing".into(), None),
                "rows are missing; it rests until the schema or the release changes, or someone asks for it",
                None,
            ),
        ] {
            let wait = Wait::held(OperationKind::Compact, &held);
            assert_eq!((&*wait.held, wait.until_ms), (told, until));
            assert_eq!(wait.to_string(), format!("compact waits: {told}"));
        }
    }

    #[test]
    fn a_rest_ends_when_it_is_said_to() {
        let rests = Resting {
            kind: OperationKind::Cleanup,
            why: "it failed".into(),
            until: Some(Duration::from_secs(60)),
        };
        let shown = rests.shown(1_795_730_400_001);
        assert_eq!(shown.held, "it failed; it rests until 2026-11-26T22:01:01Z");
        assert!(shown.lasts(1_795_730_460_000) && !shown.lasts(1_795_730_461_000));
    }
}
