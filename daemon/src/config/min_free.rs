//! How much room of a disk stays free: a share of it, or bytes.

use super::units::parse_size;
use serde::{Deserialize, Deserializer, Serializer, de};
use std::fmt;

/// The word for no limit.
const OFF: &str = "off";

/// The most that may be kept free: with more of it nothing could be written at all.
const MOST_PERCENT: u8 = 90;

/// Room that maintenance leaves free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MinFree {
    /// So many hundredths of the file system.
    Percent(u8),
    Bytes(u64),
}

impl MinFree {
    fn parse(text: &str) -> Result<Self, String> {
        let hint = "use a share such as \"5%\", a size such as \"20GiB\", or \"off\"";
        match text.trim().strip_suffix('%') {
            None => parse_size(text)
                .map(Self::Bytes)
                .map_err(|_| format!("\"{text}\" is neither a share nor a size; {hint}")),
            Some(number) => match number.trim_end().parse() {
                Ok(percent @ 1..=MOST_PERCENT) => Ok(Self::Percent(percent)),
                _ => Err(format!("\"{text}\" is not 1% to {MOST_PERCENT}%; {hint}")),
            },
        }
    }

    /// In bytes, of a file system of `all`.
    pub(crate) fn of(self, all: u64) -> u64 {
        match self {
            Self::Percent(percent) => all / 100 * u64::from(percent),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => f.write_str(&super::units::format_size(*bytes)),
        }
    }
}

pub(super) fn min_free_or_off<'de, D: Deserializer<'de>>(
    de: D,
) -> Result<Option<MinFree>, D::Error> {
    let text = String::deserialize(de)?;
    match text.as_str() {
        OFF => Ok(None),
        text => MinFree::parse(text).map(Some).map_err(de::Error::custom),
    }
}

pub(super) fn show_min_free<S: Serializer>(
    value: &Option<MinFree>,
    ser: S,
) -> Result<S::Ok, S::Error> {
    match value {
        None => ser.serialize_str(OFF),
        Some(least) => ser.collect_str(least),
    }
}

#[cfg(test)]
mod tests {
    use super::MinFree;

    #[test]
    fn it_is_a_share_or_a_size() {
        for (text, all, least) in [("5%", 1_000, 50), ("90 %", 200, 180), ("2GiB", 1, 2 << 30)] {
            let parsed = MinFree::parse(text).unwrap();
            assert_eq!(parsed.of(all), least, "{text}");
            assert_eq!(MinFree::parse(&parsed.to_string()), Ok(parsed));
        }
        for wrong in ["", "5", "0%", "91%", "-1%", "5 percent", "%", "on"] {
            let told = MinFree::parse(wrong).unwrap_err();
            assert!(told.contains("\"5%\""), "{told}");
        }
    }
}
