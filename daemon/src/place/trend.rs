//! How many fragments a table had, at even distances up to now. Pure, and bounded however long the daemon runs.

use serde::Serialize;
use std::time::Duration;

/// Values that are kept: what a small chart shows.
const VALUES: usize = 48;

/// The distance of the first values; it doubles when there are too many, until they span a day.
const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// The fragments of a table over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Trend {
    /// Seconds from one value to the next.
    every_seconds: u64,
    /// The most in each span of that length, the oldest first.
    fragments: Vec<u64>,
    /// When the span of the last value began.
    #[serde(skip)]
    since: Duration,
}

impl Default for Trend {
    fn default() -> Self {
        Self {
            every_seconds: SHORTEST.as_secs(),
            fragments: Vec::new(),
            since: Duration::ZERO,
        }
    }
}

impl Trend {
    /// There are `fragments` now. Where nothing was looked at for a while, what was seen last holds on.
    pub(crate) fn note(&mut self, now: Duration, fragments: u64) {
        let Some(last) = self.fragments.last().copied() else {
            self.since = now;
            self.fragments.push(fragments);
            return;
        };
        let every = Duration::from_secs(self.every_seconds);
        let spans = now.saturating_sub(self.since).as_secs() / self.every_seconds.max(1);
        // What is further back than the chart reaches is not shown.
        let spans = usize::try_from(spans).unwrap_or(usize::MAX).min(VALUES);
        if spans == 0 {
            if let Some(value) = self.fragments.last_mut() {
                *value = last.max(fragments);
            }
            return;
        }
        self.since += every.saturating_mul(u32::try_from(spans).unwrap_or(u32::MAX));
        if now.saturating_sub(self.since) >= every {
            self.since = now;
        }
        self.fragments.extend(vec![last; spans - 1]);
        self.fragments.push(fragments);
        while self.fragments.len() > VALUES {
            self.shorten();
        }
    }

    /// Makes one of each two values, or forgets the oldest where they reach a day back.
    fn shorten(&mut self) {
        if self.every_seconds >= LONGEST.as_secs() {
            self.fragments.remove(0);
            return;
        }
        if self.fragments.len() % 2 == 1 {
            self.fragments.remove(0);
        }
        let pairs = self.fragments.chunks(2);
        self.fragments = pairs
            .filter_map(|pair| pair.iter().max().copied())
            .collect();
        self.every_seconds *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, SHORTEST, Trend, VALUES};
    use std::time::Duration;

    #[test]
    fn it_stays_small_and_shows_the_peaks_of_a_day() {
        let mut trend = Trend::default();
        let seconds = |s: u64| Duration::from_secs(s);
        for at in (0..200_000).step_by(10) {
            trend.note(
                seconds(at),
                if at % 40_000 == 20_000 {
                    99
                } else {
                    at / 50_000
                },
            );
            assert!(trend.fragments.len() <= VALUES);
        }
        assert!(trend.every_seconds >= LONGEST.as_secs(), "{trend:?}");
        assert!(
            trend.every_seconds * VALUES as u64 > 20 * 3_600,
            "{trend:?}"
        );
        assert_eq!(trend.fragments.last(), Some(&3));
        assert_eq!(
            trend.fragments.iter().filter(|f| **f == 99).count(),
            2,
            "{trend:?}"
        );
    }

    #[test]
    fn what_was_seen_last_holds_on() {
        let mut trend = Trend::default();
        trend.note(Duration::from_secs(1_000), 5);
        trend.note(Duration::from_secs(1_010), 7);
        trend.note(Duration::from_secs(1_000) + 3 * SHORTEST, 1);
        assert_eq!(trend.fragments, [7, 7, 7, 1]);
        trend.note(Duration::MAX, 2);
        assert!(trend.fragments.len() <= VALUES && trend.fragments.last() == Some(&2));
    }
}
