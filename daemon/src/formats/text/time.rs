//! ISO 8601 texts -> days, times, instants and durations, exactly.
//!
//! Nothing is guessed: a number has no unit, a date has no time, an instant has an offset and a local time has none. More
//! fraction digits than the unit holds are refused unless they are zeros.

use arrow::datatypes::TimeUnit;

use super::cell::Misfit;

const NUMBER_FOR_DATE: Misfit = "is a number without a unit; write a text such as \"2026-01-31\"";
const NUMBER_FOR_TIME: Misfit = "is a number without a unit; write a text such as \"12:00:00\"";
const NUMBER_FOR_LOCAL: Misfit =
    "is a number without a unit; write a text such as \"2026-01-31T12:00:00\"";
const NUMBER_FOR_INSTANT: Misfit =
    "is a number without a unit; write a text such as \"2026-01-31T12:00:00Z\"";
const NUMBER_FOR_DURATION: Misfit = "is a number without a unit; write a text such as \"PT5S\"";
const NO_DATE: Misfit = "is no date; write YYYY-MM-DD";
const NO_TIME: Misfit = "is no time; write HH:MM:SS";
const NO_TIMESTAMP: Misfit = "is no timestamp; write YYYY-MM-DDTHH:MM:SS";
const NO_INSTANT: Misfit =
    "is no timestamp; write YYYY-MM-DDTHH:MM:SSZ, or with an offset such as +02:00";
const NO_DURATION: Misfit = "is no duration; write ISO 8601, for example P1DT2H3M4.5S";
const TIME_IN_DATE: Misfit = "has a time, which a date cannot keep; write YYYY-MM-DD";
const OFFSET: Misfit = "has an offset, which a timestamp without a time zone cannot keep";
const NO_OFFSET: Misfit =
    "has no offset, so that its instant is unknown; append Z or an offset such as +02:00";
const DIGITS: Misfit = "has more digits of a second than the type holds";
const RANGE: Misfit = "is out of the range of the type";

const DAY: i64 = 86_400;

/// Digits of a second that a unit holds.
fn places(unit: TimeUnit) -> usize {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn per_second(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Seconds and a fraction in `unit`.
fn in_unit(seconds: i64, fraction: &str, unit: TimeUnit) -> Result<i64, Misfit> {
    let value = i128::from(seconds) * per_second(unit) + i128::from(subsecond(fraction, unit)?);
    i64::try_from(value).map_err(|_| RANGE)
}

fn subsecond(fraction: &str, unit: TimeUnit) -> Result<i64, Misfit> {
    let places = places(unit);
    let (kept, rest) = fraction.split_at(fraction.len().min(places));
    if rest.bytes().any(|digit| digit != b'0') {
        return Err(DIGITS);
    }
    let digits = kept.bytes().chain(std::iter::repeat(b'0')).take(places);
    Ok(digits.fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

/// `DD`, a number of two digits up to `most`.
fn two(text: &[u8], most: i64) -> Option<i64> {
    match text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            let value = i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            (value <= most).then_some(value)
        }
        _ => None,
    }
}

/// `YYYY-MM-DD`, and nothing else, as days since 1970-01-01 of the Gregorian calendar.
fn day(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return None;
    };
    let year = two(&[*y1, *y2], 99)? * 100 + two(&[*y3, *y4], 99)?;
    let month = two(&[*m1, *m2], 12).filter(|month| *month > 0)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    };
    let day = two(&[*d1, *d2], length).filter(|day| *day > 0)?;
    // Years that begin in March end with the day that is not always there.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    const MARCH_OF_YEAR_0: i64 = 719_468;
    Some(year * 365 + leaps + (month * 153 + 2) / 5 + day - 1 - MARCH_OF_YEAR_0)
}

/// `HH:MM[:SS[.fraction]]` as seconds and the digits of the fraction.
fn clock(text: &str) -> Option<(i64, &str)> {
    let bytes = text.as_bytes();
    let hours = two(bytes.get(..2)?, 23)?;
    let minutes = (bytes.get(2) == Some(&b':')).then(|| two(bytes.get(3..5)?, 59))??;
    let whole = hours * 3_600 + minutes * 60;
    match bytes.get(5..)? {
        [] => Some((whole, "")),
        [b':', rest @ ..] => {
            let seconds = two(rest.get(..2)?, 59)?;
            let fraction = match &rest[2..] {
                [] => "",
                [b'.', digits @ ..]
                    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) =>
                {
                    text.get(9..)?
                }
                _ => return None,
            };
            Some((whole + seconds, fraction))
        }
        _ => None,
    }
}

/// `Z`, `±HH`, `±HHMM` or `±HH:MM` as seconds.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [_, _] => (rest, &b"00"[..]),
        [_, _, b':', minutes @ ..] => (&rest[..2], minutes),
        [_, _, minutes @ ..] => (&rest[..2], minutes),
        _ => return None,
    };
    Some(sign * (two(hours, 23)? * 3_600 + two(minutes, 59)? * 60))
}

fn or_number(text: &str, number: Misfit, otherwise: Misfit) -> Misfit {
    if text.parse::<f64>().is_ok() {
        number
    } else {
        otherwise
    }
}

/// Days since 1970-01-01.
pub(super) fn date(text: &str) -> Result<i32, Misfit> {
    let bytes = text.as_bytes();
    match day(bytes) {
        Some(days) => i32::try_from(days).map_err(|_| RANGE),
        None if bytes.get(..10).and_then(day).is_some() => Err(TIME_IN_DATE),
        None => Err(or_number(text, NUMBER_FOR_DATE, NO_DATE)),
    }
}

/// The time of a day.
pub(super) fn time(text: &str, unit: TimeUnit) -> Result<i64, Misfit> {
    let (seconds, fraction) =
        clock(text).ok_or_else(|| or_number(text, NUMBER_FOR_TIME, NO_TIME))?;
    in_unit(seconds, fraction, unit)
}

/// A local time, or with `zoned` an instant since 1970-01-01T00:00:00Z. A date is a local midnight.
pub(super) fn timestamp(text: &str, unit: TimeUnit, zoned: bool) -> Result<i64, Misfit> {
    let refused = || match zoned {
        true => or_number(text, NUMBER_FOR_INSTANT, NO_INSTANT),
        false => or_number(text, NUMBER_FOR_LOCAL, NO_TIMESTAMP),
    };
    let days = text
        .as_bytes()
        .get(..10)
        .and_then(day)
        .ok_or_else(refused)?;
    let rest = &text[10..];
    let (clock_text, offset_text) = match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (seconds, fraction) = match clock_text.strip_prefix(['T', 't', ' ']) {
        Some(time) => clock(time).ok_or_else(refused)?,
        None if clock_text.is_empty() && offset_text.is_empty() => (0, ""),
        None => return Err(refused()),
    };
    let offset = match (offset_text, zoned) {
        ("", false) => 0,
        ("", true) => return Err(NO_OFFSET),
        (text, zoned) => {
            let seconds = offset(text.as_bytes()).ok_or_else(refused)?;
            if !zoned {
                return Err(OFFSET);
            }
            seconds
        }
    };
    in_unit(days * DAY + seconds - offset, fraction, unit)
}

/// `[-]P[nW][nD][T[nH][nM][n[.fraction]S]]`: units whose length is known, so no years and no months.
pub(super) fn duration(text: &str, unit: TimeUnit) -> Result<i64, Misfit> {
    let refused = || or_number(text, NUMBER_FOR_DURATION, NO_DURATION);
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let mut rest = rest.strip_prefix('P').ok_or_else(refused)?;
    let mut units: &[(char, i64)] = &[('W', 7 * DAY), ('D', DAY)];
    let (mut seconds, mut fraction) = (0_i64, "");
    let (mut any, mut in_time) = (false, false);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T').filter(|time| !time.is_empty()) {
            if in_time {
                return Err(refused());
            }
            in_time = true;
            units = &[('H', 3_600), ('M', 60), ('S', 1)];
            rest = time;
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic());
        let (number, tail) = rest.split_at(end.ok_or_else(refused)?);
        let letter = tail.chars().next().ok_or_else(refused)?;
        let at = units.iter().position(|(name, _)| *name == letter);
        let at = at.ok_or_else(refused)?;
        let number = match number.split_once('.') {
            Some((whole, digits)) if letter == 'S' && is_digits(digits) => {
                fraction = digits;
                whole
            }
            _ => number,
        };
        if !is_digits(number) {
            return Err(refused());
        }
        let count = number.parse::<i64>().map_err(|_| RANGE)?;
        let part = count.checked_mul(units[at].1).ok_or(RANGE)?;
        seconds = seconds.checked_add(part).ok_or(RANGE)?;
        units = &units[at + 1..];
        rest = &tail[1..];
        any = true;
    }
    if !any {
        return Err(refused());
    }
    Ok(sign * in_unit(seconds, fraction, unit)?)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
