//! What has to wait: since when, why, and when it is tried again. Bookkeeping alone; it is told the time.
//!
//! Kept by the entry, because a claim gets a new name with each attempt, from whichever agent made it.

use super::spool::{EntryId, WaitRecord};
use crate::input::Place;
use crate::input::{printable, shown};
use squire_engine::error::{Error, ErrorKind};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Waits longest between two attempts.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long the files of an entry must rest after somebody was seen to write to them. A producer writes on within fractions of
/// a second, or keeps its file open, which is seen where it can be.
pub(super) const QUIET: Duration = Duration::from_secs(2);

/// How often something is tried before `--until-empty` leaves it: with a poll interval of 1 s, for 7 s.
const TRIES_UNTIL_EMPTY: u32 = 4;

/// Length to which a reason is cut, in characters: a line of a log, not the data that it is about.
const REASON_CHARS: usize = 400;

/// Why something waits: few values, for people and for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// A table has versions that an operator must decide about.
    Drift,
    /// Others committed first, again and again.
    Conflict,
    /// It is not known yet what became of its operation.
    Undecided,
    /// Storage failed or did not answer.
    Storage,
    /// Somebody still writes to its files.
    Unfinished,
    /// Its files may not be read, or reading them fails.
    Unreadable,
    /// Agents died over it.
    Killed,
    /// It cannot be taken: neither moved out of `incoming`, nor taken over from `claimed`.
    Unclaimable,
    /// It is committed or rejected, but cannot be moved to `done` or `rejected`.
    Stuck,
    /// Something else; the reason says what.
    Other,
}

impl Cause {
    /// Every cause, in the order above.
    pub(crate) const ALL: [Self; 10] = [
        Self::Drift,
        Self::Conflict,
        Self::Undecided,
        Self::Storage,
        Self::Unfinished,
        Self::Unreadable,
        Self::Killed,
        Self::Unclaimable,
        Self::Stuck,
        Self::Other,
    ];

    /// The value of the `cause` label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Drift => "drift",
            Self::Conflict => "conflict",
            Self::Undecided => "undecided",
            Self::Storage => "storage",
            Self::Unfinished => "unfinished",
            Self::Unreadable => "unreadable",
            Self::Killed => "killed",
            Self::Unclaimable => "unclaimable",
            Self::Stuck => "stuck",
            Self::Other => "other",
        }
    }

    /// What an attempt's error makes a claim wait for.
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Drift => Self::Drift,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Unknown => Self::Undecided,
            ErrorKind::Storage if error.attached().is_some_and(Place::is_unreadable) => {
                Self::Unreadable
            }
            ErrorKind::Storage => Self::Storage,
            ErrorKind::Cancelled => Self::Unfinished,
            _ => Self::Other,
        }
    }
}

/// One that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) cause: Cause,
    pub(super) reason: String,
    pub(super) tries: u32,
    next: Duration,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<EntryId, Wait>);

impl Waiting {
    /// Whether `entry` may be tried at `now`: it does not wait, or not any more.
    pub(super) fn is_due(&self, entry: &EntryId, now: Duration) -> bool {
        self.0.get(entry).is_none_or(|wait| wait.next <= now)
    }

    pub(super) fn has(&self, entry: &EntryId) -> bool {
        self.0.contains_key(entry)
    }

    /// What `entry` waits for.
    pub(super) fn cause_of(&self, entry: &EntryId) -> Option<Cause> {
        self.0.get(entry).map(|wait| wait.cause)
    }

    /// `entry` was tried at `now` and has to wait: `unit`, doubled with each try. Whether that is news: it is told once,
    /// and again when the reason changes.
    pub(super) fn add(
        &mut self,
        entry: &EntryId,
        (cause, reason): (Cause, String),
        now: Duration,
        unit: Duration,
    ) -> bool {
        let before = self.0.remove(entry);
        let tries = before.as_ref().map_or(0, |wait| wait.tries) + 1;
        let unit = match cause {
            Cause::Unfinished => unit.max(QUIET),
            _ => unit,
        };
        let wait = Wait {
            cause,
            reason,
            tries,
            next: now + pause(unit, tries),
        };
        let news = before.is_none_or(|before| {
            (before.cause, without_ids(&before.reason)) != (cause, without_ids(&wait.reason))
        });
        self.0.insert(entry.clone(), wait);
        news
    }

    /// Agents died over `entry`, `times` in a row. It is put off without having been tried.
    pub(super) fn put_off(&mut self, entry: &EntryId, times: u32, now: Duration, unit: Duration) {
        let wait = Wait {
            cause: Cause::Killed,
            reason: format!("{times} agents in a row died over it; it comes after the others"),
            tries: 0,
            next: now + pause(unit, times.saturating_sub(1)),
        };
        self.0.insert(entry.clone(), wait);
    }

    /// Forgets those that are not `there` any more.
    pub(super) fn keep(&mut self, there: &HashSet<EntryId>) {
        self.0.retain(|entry, _| there.contains(entry));
    }

    pub(super) fn remove(&mut self, entry: &EntryId) {
        self.0.remove(entry);
    }

    /// Whether each of them was tried so often that `--until-empty` leaves it; true of none.
    pub(super) fn all_tried(&self) -> bool {
        self.0.values().all(|wait| wait.tries >= TRIES_UNTIL_EMPTY)
    }

    /// What there is to say of `entry` to those who look at its claim. `now` is the clock of waits, `now_ms` the one of people.
    pub(super) fn record(&self, entry: &EntryId, now: Duration, now_ms: u64) -> Option<WaitRecord> {
        let wait = self.0.get(entry)?;
        let left = wait.next.saturating_sub(now).as_millis();
        Some(WaitRecord {
            cause: wait.cause.as_str().to_owned(),
            reason: wait.reason.clone(),
            tries: wait.tries,
            time_ms: now_ms,
            next_ms: now_ms.saturating_add(u64::try_from(left).unwrap_or(u64::MAX)),
        })
    }

    /// Those that wait, by name.
    pub(super) fn list(&self) -> Vec<(String, Wait)> {
        let waits = self
            .0
            .iter()
            .map(|(entry, wait)| (shown(&entry.name), wait.clone()));
        let mut all: Vec<_> = waits.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// Whether so many failures in a row are too many for `--until-empty`.
pub(super) fn gives_up(failures: u32) -> bool {
    failures >= TRIES_UNTIL_EMPTY
}

/// How long to wait after the `tries`-th failure.
pub(super) fn pause(unit: Duration, tries: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1).min(16));
    unit.saturating_mul(doubled).min(MAX_PAUSE)
}

/// An error as one short line: no line breaks, no control characters, no paths of the sources that it was raised in.
pub(super) fn brief(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let is_source = |word: &&str| word.contains("/.cargo/registry/") || word.contains("/rustc/");
    let words: Vec<&str> = text.split_whitespace().filter(|w| !is_source(w)).collect();
    let line = printable(&words.join(" "));
    let line = line.trim_end_matches([',', ' ']);
    match line.char_indices().nth(REASON_CHARS) {
        Some((cut, _)) => format!("{}...", &line[..cut]),
        None => line.to_owned(),
    }
}

/// A reason without what is new with each attempt: operations, and files that Lance names at random.
fn without_ids(reason: &str) -> String {
    let is_id = |word: &str| word.len() >= 20 && word.contains(|c: char| c.is_ascii_digit());
    let words = reason.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|w| !is_id(w)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pauses_double_and_only_news_is_told() {
        let (mut waiting, entry) = (Waiting::default(), &EntryId::named("a.csv"));
        let drift = |id: &str| (Cause::Drift, format!("table a has drift (operation {id})"));
        assert!(waiting.is_due(entry, at(0)) && waiting.all_tried());
        assert!(waiting.add(entry, drift("01JD2Q3V5W6X7Y8Z9A0B1C2D3E"), at(0), UNIT));
        assert!(!waiting.is_due(entry, at(0)) && waiting.is_due(entry, at(1)));
        assert!(!waiting.add(entry, drift("01JD2Q3V5W6X7Y8Z9A0B1C2D3F"), at(1), UNIT));
        assert!(!waiting.is_due(entry, at(2)) && waiting.is_due(entry, at(3)));
        let storage = (
            Cause::Storage,
            "no data/0110e4f2a8c94b7d8e61.lance".to_owned(),
        );
        let again = (
            Cause::Storage,
            "no data/9b7d8e610110e4f2a8c9.lance".to_owned(),
        );
        assert!(waiting.add(entry, storage, at(3), UNIT));
        assert!(!waiting.all_tried());
        assert!(!waiting.add(entry, again, at(7), UNIT));
        assert!(waiting.all_tried(), "four tries, as --until-empty makes");
        assert_eq!(pause(UNIT, u32::MAX), MAX_PAUSE);
        let (open, writing) = (&EntryId::named("b.csv"), (Cause::Unfinished, String::new()));
        waiting.add(open, writing, at(7), UNIT);
        assert!(!waiting.is_due(open, at(8)) && waiting.is_due(open, at(7) + QUIET));
        waiting.keep(&HashSet::new());
        assert!(!waiting.has(entry));
    }

    #[test]
    fn errors_are_told_in_a_short_line() {
        let long = format!(
            "a.csv:\n bad \u{1b}[2J {}, /home/x/.cargo/registry/src/x/lance-14.0.2/src/io.rs:1:2",
            "y".repeat(5_000)
        );
        let told = brief(&long);
        assert!(told.starts_with("a.csv: bad \\u{1b}[2J yyy") && told.ends_with("..."));
        assert!(told.len() < 500 && !told.contains("cargo"), "{told}");
        let lance =
            "read failed: not found, /home/x/.cargo/registry/src/x/lance-14.0.2/src/io.rs:1:2";
        assert_eq!(brief(&lance), "read failed: not found");
    }
}
