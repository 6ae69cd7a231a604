//! The lines of a text file, counted as editors count them.

use std::{
    io::{BufRead, BufReader},
    path::Path,
};

use crate::formats::{FormatError, source::Source};

/// Some programs write this in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) struct Lines<'a> {
    pub(super) path: &'a Path,
    reader: BufReader<Source<'a>>,
    /// The line that was read last, from 1.
    pub(super) number: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self {
            path: source.path,
            reader: BufReader::with_capacity(1 << 16, source),
            number: 0,
        }
    }

    /// Appends the next line with its end; `false` after the last one, where the file must still be what it was.
    pub(super) fn next(&mut self, text: &mut Vec<u8>) -> Result<bool, FormatError> {
        let start = text.len();
        let read = self.reader.read_until(b'\n', text);
        let failed = |e| self.reader.get_ref().failed_at(Some(self.number + 1), e);
        if read.map_err(failed)? == 0 {
            self.reader.get_ref().check_unchanged()?;
            return Ok(false);
        }
        self.number += 1;
        if self.number == 1 && text[start..].starts_with(BYTE_ORDER_MARK) {
            text.drain(start..start + BYTE_ORDER_MARK.len());
        }
        Ok(true)
    }

    /// The line as text.
    pub(super) fn utf8<'t>(&self, line: u64, text: &'t [u8]) -> Result<&'t str, FormatError> {
        std::str::from_utf8(text).map_err(|e| {
            let before = text[..e.valid_up_to()].iter().filter(|b| **b == b'\n');
            let line = line + before.map(|_| 1).sum::<u64>();
            self.refuse(line, "is no text in UTF-8")
        })
    }

    /// The file is wrong at `line`.
    pub(super) fn refuse(&self, line: u64, detail: impl Into<String>) -> FormatError {
        FormatError::Content {
            path: self.path.into(),
            line: Some(line),
            detail: detail.into(),
        }
    }
}
