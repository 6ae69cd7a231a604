//! Durations and sizes as people write them (`"7d"`, `"2GiB"`), and serde adapters for them.
//!
//! A bare number is refused: seconds or minutes, bytes or kilobytes is exactly the guess that a
//! config file must not ask for.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The longest duration accepted. Beyond it nothing sensible was meant, and arithmetic on instants
/// stays far from overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// The units of [`parse_size`], in bytes. Binary and decimal ones are distinct, as everywhere else
/// in the field.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// The word that turns an optional value off; TOML has no null.
const OFF: &str = "off";

/// Parses `"90s"`, `"1h 30m"`, `"7d"`. `Err` holds a sentence that tells what to write instead.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "use a duration such as \"30s\", \"10m\", \"1h\" or \"7d\"";
    let parsed = humantime::parse_duration(text.trim())
        .map_err(|_| format!("\"{text}\" is not a duration; {hint}"))?;
    if parsed > MAX_DURATION {
        return Err(format!("\"{text}\" is longer than ten years; {hint}"));
    }
    Ok(parsed)
}

/// Parses `"512MiB"`, `"2GiB"`, `"1GB"`, `"100B"` into bytes. `Err` holds a sentence that tells
/// what to write instead.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let hint = "use a size such as \"512MiB\" or \"2GiB\"";
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start();
    let factor = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor);
    match (number.parse::<u64>().ok(), factor) {
        (Some(number), Some(factor)) => number
            .checked_mul(factor)
            .ok_or_else(|| format!("\"{text}\" does not fit 64 bits; {hint}")),
        _ => Err(format!("\"{text}\" is not a size; {hint}")),
    }
}

/// Writes a duration so that [`parse_duration`] reads the same value back, in the largest units
/// that fit.
pub(crate) fn format_duration(value: Duration) -> String {
    let whole_units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    if value.subsec_nanos() == 0 && !value.is_zero() {
        for (unit, seconds) in whole_units {
            if value.as_secs().is_multiple_of(seconds) {
                return format!("{}{unit}", value.as_secs() / seconds);
            }
        }
    }
    humantime::format_duration(value).to_string()
}

/// Writes a size so that [`parse_size`] reads the same value back, in the largest binary unit that
/// divides it.
pub(crate) fn format_size(bytes: u64) -> String {
    for (unit, factor) in [
        ("TiB", 1_u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// A size to three digits, for people; documents hold the bytes.
pub(crate) fn rough_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        let whole = 1_u64 << shift;
        if bytes >= whole {
            let value = bytes as f64 / whole as f64;
            let digits = if value < 10.0 { 1 } else { 0 };
            return format!("{value:.digits$} {unit}");
        }
    }
    format!("{bytes} B")
}

/// Deserializes a duration.
pub(crate) fn duration<'de, D: Deserializer<'de>>(de: D) -> Result<Duration, D::Error> {
    parse_duration(&text(de, "a duration such as \"7d\"")?).map_err(Error::custom)
}

/// Deserializes a duration that a table override may leave out.
pub(crate) fn some_duration<'de, D: Deserializer<'de>>(
    de: D,
) -> Result<Option<Duration>, D::Error> {
    duration(de).map(Some)
}

/// Deserializes a size in bytes.
pub(crate) fn size<'de, D: Deserializer<'de>>(de: D) -> Result<u64, D::Error> {
    parse_size(&text(de, "a size such as \"2GiB\"")?).map_err(Error::custom)
}

/// Deserializes a size in bytes that a table override may leave out.
pub(crate) fn some_size<'de, D: Deserializer<'de>>(de: D) -> Result<Option<u64>, D::Error> {
    size(de).map(Some)
}

/// Deserializes a plain value that a table override may leave out.
pub(crate) fn some_plain<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    de: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(de).map(Some)
}

/// Deserializes a size, or `"off"`.
pub(crate) fn size_or_off<'de, D: Deserializer<'de>>(de: D) -> Result<Option<u64>, D::Error> {
    let value = text(de, "a size such as \"50MiB\", or \"off\"")?;
    if value == OFF {
        return Ok(None);
    }
    parse_size(&value).map(Some).map_err(Error::custom)
}

/// Deserializes a duration, or `"off"`.
pub(crate) fn duration_or_off<'de, D: Deserializer<'de>>(
    de: D,
) -> Result<Option<Duration>, D::Error> {
    let value = text(de, "a duration such as \"7d\", or \"off\"")?;
    if value == OFF {
        return Ok(None);
    }
    parse_duration(&value).map(Some).map_err(Error::custom)
}

/// Deserializes a listening address, or `"off"`. Names are refused: what `localhost` binds depends
/// on the machine.
pub(crate) fn listen<'de, D: Deserializer<'de>>(de: D) -> Result<Option<SocketAddr>, D::Error> {
    let value = text(de, "an address such as \"127.0.0.1:9464\", or \"off\"")?;
    parse_listen(&value).map_err(Error::custom)
}

/// Parses a listening address, or `"off"`; the command line's `--listen` takes the same words as
/// the file.
pub(crate) fn parse_listen(value: &str) -> Result<Option<SocketAddr>, String> {
    if value == OFF {
        return Ok(None);
    }
    let hint = "use an IP address and port such as \"127.0.0.1:9464\", or \"off\"";
    value
        .parse()
        .map(Some)
        .map_err(|_| format!("\"{value}\" is not an address; {hint}"))
}

/// Parses what to log: a level for Squire's own lines, or a filter in the syntax of `RUST_LOG`. Lance's warnings are
/// about its insides and ours say what they meant, so that only a filter shows them.
pub(crate) fn log_filter(value: &str) -> Result<EnvFilter, String> {
    let level = |text: &str| text.trim().parse::<LevelFilter>().is_ok();
    let hint =
        "use off, error, warn, info, debug or trace, or a filter such as \"info,squire=debug\"";
    // The filter's own parser takes nothing for "error", and a log that says little for one that is fine.
    if value.trim().is_empty() {
        return Err(format!("is empty; {hint}"));
    }
    if level(value) {
        let level = value.trim();
        let filter = format!("error,squire={level},squire_engine={level}");
        return EnvFilter::try_new(filter).map_err(|e| format!("{e}; {hint}"));
    }
    let odd = |part: &&str| !part.contains(['=', '[']) && !level(part);
    if let Some(odd) = value.split(',').find(odd) {
        return Err(format!("{odd:?} is no level; {hint}"));
    }
    EnvFilter::try_new(format!("error,{value}")).map_err(|e| format!("{e}; {hint}"))
}

/// A string; any other type is answered with what was expected instead of "a string".
fn text<'de, D: Deserializer<'de>>(de: D, expected: &'static str) -> Result<String, D::Error> {
    struct Text(&'static str);
    impl serde::de::Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E>(self, value: &str) -> Result<String, E> {
            Ok(value.to_owned())
        }
    }
    de.deserialize_str(Text(expected))
}

/// Serializes a duration as a person would write it.
pub(crate) fn show_duration<S: Serializer>(value: &Duration, ser: S) -> Result<S::Ok, S::Error> {
    ser.serialize_str(&format_duration(*value))
}

/// Serializes an optional duration, `"off"` for none.
pub(crate) fn show_duration_or_off<S: Serializer>(
    value: &Option<Duration>,
    ser: S,
) -> Result<S::Ok, S::Error> {
    ser.serialize_str(&value.map_or_else(|| OFF.to_owned(), format_duration))
}

/// Serializes a size as a person would write it.
pub(crate) fn show_size<S: Serializer>(value: &u64, ser: S) -> Result<S::Ok, S::Error> {
    ser.serialize_str(&format_size(*value))
}

/// Serializes an optional size, `"off"` for none.
pub(crate) fn show_size_or_off<S: Serializer>(
    value: &Option<u64>,
    ser: S,
) -> Result<S::Ok, S::Error> {
    ser.serialize_str(&value.map_or_else(|| OFF.to_owned(), format_size))
}

/// Serializes an optional listening address, `"off"` for none.
pub(crate) fn show_listen<S: Serializer>(
    value: &Option<SocketAddr>,
    ser: S,
) -> Result<S::Ok, S::Error> {
    ser.serialize_str(&value.map_or_else(|| OFF.to_owned(), |address| address.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_back_as_written() {
        for text in ["1s", "90s", "10m", "36h", "7d", "0s", "1s 500ms"] {
            let value = parse_duration(text).unwrap();
            assert_eq!(
                parse_duration(&format_duration(value)).unwrap(),
                value,
                "{text}"
            );
        }
        assert_eq!(format_duration(Duration::from_secs(7 * 86_400)), "7d");
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("1 MB", 1_000_000),
            ("0B", 0),
            ("1025B", 1025),
            ("3TiB", 3 << 40),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
            assert_eq!(parse_size(&format_size(bytes)).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_could_be_misread_is_refused() {
        for text in [
            "",
            "5",
            "7 parsecs",
            "-1s",
            "11years",
            "99999999999999999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "5", "GiB", "2gib", "-1B", "1.5GiB", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_listen("localhost:9464").is_err());
        assert_eq!(parse_listen("off"), Ok(None));
    }
}
