//! Maintenance windows: when work may run, in the time of a place on earth.
//!
//! A window is the local times that are written, and opens and ends once a day. Where the clocks are put forward, an hour that is
//! skipped is no part of it; where they are put back, an hour that comes twice belongs to it from its first time on, and it
//! ends at the first time of its end.

use std::sync::Arc;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// How far ahead the next opening is looked for: a window comes every week.
const DAYS_AHEAD: i64 = 8;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

const HINT: &str = "write it as \"Mon-Fri 22:00-06:00 Europe/Berlin\", \"Sat,Sun 00:00-24:00\" or \"01:00-05:00\"; without a time zone it is UTC";

/// One window.
#[derive(Clone, Debug)]
struct Window {
    text: String,
    /// Whether it begins on Monday, Tuesday ...
    days: [bool; 7],
    /// Minutes of the day; an end that is not later than the beginning is one of the next day.
    from: u16,
    to: u16,
    zone: TimeZone,
}

/// When work may run; always, when there are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows(Arc<Vec<Window>>);

/// What windows say at one time, and until when they go on saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Work may run; for ever, when there is no end.
    Open {
        until: Option<Timestamp>,
    },
    Closed {
        opens: Option<Timestamp>,
    },
}

impl Opening {
    /// Whether it still says so at `now`.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        let (Self::Open { until: end } | Self::Closed { opens: end }) = self;
        end.is_none_or(|end| now < end)
    }
}

impl Windows {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they say at `now`.
    pub(crate) fn at(&self, now: Timestamp) -> Opening {
        if self.0.is_empty() {
            return Opening::Open { until: None };
        }
        let spans: Vec<(Timestamp, Timestamp)> =
            self.0.iter().flat_map(|w| w.spans_around(now)).collect();
        let end_at = |at: Timestamp| {
            let open = spans.iter().filter(|(from, to)| *from <= at && at < *to);
            open.map(|(_, to)| *to).max()
        };
        let Some(mut until) = end_at(now) else {
            let opens = spans
                .iter()
                .map(|(from, _)| *from)
                .filter(|from| *from > now);
            return Opening::Closed { opens: opens.min() };
        };
        // One that begins where another ends goes on.
        while let Some(later) = end_at(until) {
            until = later;
        }
        Opening::Open { until: Some(until) }
    }
}

impl Window {
    /// When it is open, from yesterday on.
    fn spans_around(&self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let today = self.zone.to_datetime(now).date();
        let days = (-1..=DAYS_AHEAD).filter_map(|n| today.checked_add(Span::new().days(n)).ok());
        days.filter(|day| {
            self.days[usize::from(day.weekday().to_monday_zero_offset().unsigned_abs())]
        })
        .filter_map(|day| {
            let last = match self.to > self.from {
                true => day,
                false => day.tomorrow().ok()?,
            };
            let span = (self.instant(day, self.from)?, self.instant(last, self.to)?);
            (span.0 < span.1).then_some(span)
        })
        .collect()
    }

    /// When the clocks of its zone show `minute` of `day`: for the first time, or, where they skip it, when they are put
    /// forward.
    fn instant(&self, day: Date, minute: u16) -> Option<Timestamp> {
        let day = match minute == DAY {
            true => day.tomorrow().ok()?,
            false => day,
        };
        let minute = minute % DAY;
        let (hour, minute) = (
            i8::try_from(minute / 60).ok()?,
            i8::try_from(minute % 60).ok()?,
        );
        let time: DateTime = day.at(hour, minute, 0, 0);
        let ambiguous = self.zone.to_ambiguous_timestamp(time);
        match ambiguous.offset() {
            AmbiguousOffset::Gap { .. } => {
                let before = ambiguous.earlier().ok()?;
                let change = self.zone.following(before).next()?;
                Some(change.timestamp())
            }
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                ambiguous.earlier().ok()
            }
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("\"{text}\": {why}; {HINT}");
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let is_times = |word: &&&str| word.contains(':');
        let times = words.iter().find(is_times).copied();
        let times = times.ok_or_else(|| refused("no times are given"))?;
        let at = words.iter().position(|word| *word == times).unwrap_or(0);
        let zone = words.split_off(at).get(1..).unwrap_or_default().to_vec();
        let days = match words.as_slice() {
            [] => [true; 7],
            [days] => days_of(days).map_err(|why| refused(&why))?,
            _ => return Err(refused("days are one word")),
        };
        let (from, to) = times
            .split_once('-')
            .ok_or_else(|| refused("the end is missing"))?;
        let minute = |time| minute_of(time).ok_or_else(|| refused("a time is not HH:MM"));
        let (from, to) = (minute(from)?, minute(to)?);
        if from == to || from == DAY {
            return Err(refused("it would never be open"));
        }
        let zone = match zone.as_slice() {
            [] => TimeZone::UTC,
            [name] => TimeZone::get(name).map_err(|_| {
                refused(&format!(
                    "there is no time zone {name} on this machine (package tzdata)"
                ))
            })?,
            _ => return Err(refused("a time zone is one word")),
        };
        Ok(Self {
            text: text.to_owned(),
            days,
            from,
            to,
            zone,
        })
    }
}

fn minute_of(time: &str) -> Option<u16> {
    let (hour, minute) = time.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let at = hour * 60 + minute;
    (minute < 60 && at <= DAY).then_some(at)
}

/// `Mon-Fri`, `Sat,Sun`, `Fri-Mon,Wed`.
fn days_of(text: &str) -> Result<[bool; 7], String> {
    let number = |name: &str| {
        let is = |day: &&str| day.eq_ignore_ascii_case(name);
        let at = DAYS.iter().position(is);
        at.ok_or_else(|| format!("\"{name}\" is none of {}", DAYS.join(", ")))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (number(first)?, number(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Ok(days)
}

impl PartialEq for Windows {
    fn eq(&self, other: &Self) -> bool {
        let texts = self.0.iter().map(|w| &w.text);
        Arc::ptr_eq(&self.0, &other.0) || texts.eq(other.0.iter().map(|w| &w.text))
    }
}

impl<'de> Deserialize<'de> for Windows {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(de)?;
        let windows: Result<Vec<Window>, String> = texts.iter().map(|t| Window::parse(t)).collect();
        let windows = windows.map_err(serde::de::Error::custom)?;
        Ok(Self(Arc::new(windows)))
    }
}

impl Serialize for Windows {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.collect_seq(self.0.iter().map(|w| &w.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(texts: &[&str]) -> Windows {
        let windows = texts.iter().map(|text| Window::parse(text).unwrap());
        Windows(Arc::new(windows.collect()))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn open(until: &str) -> Opening {
        let until = Some(at(until));
        Opening::Open { until }
    }

    fn closed(opens: &str) -> Opening {
        let opens = Some(at(opens));
        Opening::Closed { opens }
    }

    /// What `texts` say, each time with what is expected.
    fn assert_says(texts: &[&str], cases: &[(&str, Opening)]) {
        let windows = windows(texts);
        for (now, expected) in cases {
            assert_eq!(windows.at(at(now)), *expected, "{texts:?} at {now}");
        }
    }

    #[test]
    fn none_are_always_open() {
        let always = Opening::Open { until: None };
        assert_eq!(Windows::default().at(at("2026-11-26T12:00:00Z")), always);
        assert!(always.holds(at("2126-11-26T12:00:00Z")));
    }

    #[test]
    fn a_window_belongs_to_the_day_on_which_it_begins() {
        // 2026-11-26 is a Thursday.
        assert_says(
            &["Thu-Fri 22:00-06:00"],
            &[
                ("2026-11-26T05:00:00Z", closed("2026-11-26T22:00:00Z")),
                ("2026-11-26T22:00:00Z", open("2026-11-27T06:00:00Z")),
                ("2026-11-27T05:59:59Z", open("2026-11-27T06:00:00Z")),
                ("2026-11-27T06:00:00Z", closed("2026-11-27T22:00:00Z")),
                ("2026-11-28T05:00:00Z", open("2026-11-28T06:00:00Z")),
                ("2026-11-28T23:00:00Z", closed("2026-12-03T22:00:00Z")),
            ],
        );
        assert_says(
            &["Sat,Sun 00:00-24:00", "20:00-24:00"],
            &[
                ("2026-11-27T20:00:00Z", open("2026-11-30T00:00:00Z")),
                ("2026-11-30T00:00:00Z", closed("2026-11-30T20:00:00Z")),
            ],
        );
        let wed = days_of("Sun-Tue,Thu").unwrap();
        assert_eq!(wed, [true, true, false, true, false, false, true]);
    }

    /// Berlin: 2026-03-29 02:00 becomes 03:00.
    #[test]
    fn an_hour_that_the_clocks_skip_is_no_part_of_it() {
        let berlin = |times: &str| format!("{times} Europe/Berlin");
        assert_says(
            &[&berlin("01:00-04:00")],
            &[
                ("2026-03-28T00:30:00Z", open("2026-03-28T03:00:00Z")),
                // Two hours long.
                ("2026-03-29T00:00:00Z", open("2026-03-29T02:00:00Z")),
                ("2026-03-29T02:00:00Z", closed("2026-03-29T23:00:00Z")),
            ],
        );
        assert_says(
            &[&berlin("02:30-03:30")],
            &[
                ("2026-03-29T00:59:59Z", closed("2026-03-29T01:00:00Z")),
                ("2026-03-29T01:00:00Z", open("2026-03-29T01:30:00Z")),
            ],
        );
        assert_says(
            &[&berlin("02:00-03:00")],
            &[("2026-03-29T00:30:00Z", closed("2026-03-30T00:00:00Z"))],
        );
    }

    /// Berlin: 2026-10-25 03:00 becomes 02:00.
    #[test]
    fn an_hour_that_comes_twice_opens_it_once() {
        let berlin = |times: &str| format!("{times} Europe/Berlin");
        assert_says(
            &[&berlin("01:00-04:00")],
            &[("2026-10-24T23:00:00Z", open("2026-10-25T03:00:00Z"))],
        );
        assert_says(
            &[&berlin("02:00-02:30")],
            &[
                ("2026-10-25T00:00:00Z", open("2026-10-25T00:30:00Z")),
                ("2026-10-25T00:30:00Z", closed("2026-10-26T01:00:00Z")),
                // The second 02:15.
                ("2026-10-25T01:15:00Z", closed("2026-10-26T01:00:00Z")),
            ],
        );
        assert_says(
            &[&berlin("02:30-03:30")],
            &[("2026-10-25T01:15:00Z", open("2026-10-25T02:30:00Z"))],
        );
    }

    #[test]
    fn what_cannot_be_understood_is_told() {
        for (text, said) in [
            ("Mon-Fri", "no times are given"),
            ("22:00", "the end is missing"),
            ("2:00-06:00", "a time is not HH:MM"),
            ("22:00-24:01", "a time is not HH:MM"),
            ("22:60-23:00", "a time is not HH:MM"),
            ("06:00-06:00", "it would never be open"),
            ("Mon Tue 22:00-06:00", "days are one word"),
            ("Mo 22:00-06:00", "\"Mo\" is none of Mon"),
            (
                "22:00-06:00 Mars/Olympus",
                "there is no time zone Mars/Olympus",
            ),
            ("22:00-06:00 Europe/Berlin DST", "a time zone is one word"),
        ] {
            let refused = Window::parse(text).unwrap_err();
            assert!(
                refused.contains(said) && refused.contains(HINT),
                "{refused}"
            );
        }
    }
}
