//! NDJSON: one JSON object a line, blank lines aside.

use std::borrow::Cow;

use super::{cell::Value, json, lines::Lines};
use crate::formats::{FormatError, InputLimits, error::named};

/// What JSON takes for white space.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// The members of an object.
pub(super) type Object<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// The objects of a file.
pub(super) struct Objects<'a> {
    lines: Lines<'a>,
    limits: &'a InputLimits,
    bytes: Vec<u8>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(lines: Lines<'a>, limits: &'a InputLimits) -> Self {
        Self {
            lines,
            limits,
            bytes: Vec::new(),
        }
    }

    /// Whether there is another object.
    pub(super) fn next(&mut self) -> Result<bool, FormatError> {
        loop {
            self.bytes.clear();
            if !self.lines.next(&mut self.bytes)? {
                return Ok(false);
            }
            if !self.bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(true);
            }
        }
    }

    /// The object that [`Self::next`] found.
    pub(super) fn object(&self) -> Result<Object<'_>, FormatError> {
        let line = self.line();
        let text = self.lines.utf8(line, &self.bytes)?.trim_end_matches(SPACE);
        let InputLimits {
            max_nesting,
            max_decoded_bytes,
            ..
        } = self.limits;
        match json::parse(text, max_nesting + 1, *max_decoded_bytes) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(_) => Err(self.refuse("is no object; write one object a line")),
            Err(json::Malformed { at, path, reason }) => {
                let before = text.get(..at).unwrap_or_default();
                let character = before.chars().count() + 1;
                let column = match path.as_str() {
                    "" => String::new(),
                    path => format!("column {}: ", named(path)),
                };
                Err(self.refuse(format!("{column}{reason} (at character {character})")))
            }
        }
    }

    /// The line of the object is wrong.
    pub(super) fn refuse(&self, detail: impl Into<String>) -> FormatError {
        self.lines.refuse(self.line(), detail)
    }

    /// The line of the object.
    pub(super) fn line(&self) -> u64 {
        self.lines.number
    }

    /// Bytes of that line.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }
}
