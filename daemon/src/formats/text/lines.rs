//! The lines of a text file, counted as editors count them.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Take},
    path::Path,
};

use crate::formats::{
    FormatError,
    source::{Source, io_error},
};

/// Some programs write this in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) struct Lines<'a> {
    pub(super) path: &'a Path,
    source: Source<'a>,
    reader: BufReader<Take<File>>,
    /// The line that was read last, from 1.
    pub(super) number: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(path: &'a Path, source: Source<'a>, file: File) -> Self {
        let reader = BufReader::with_capacity(1 << 16, file.take(source.length()));
        Self {
            path,
            source,
            reader,
            number: 0,
        }
    }

    /// Appends the next line with its end; `false` after the last one, where the file must still be what it was.
    pub(super) fn next(&mut self, text: &mut Vec<u8>) -> Result<bool, FormatError> {
        let start = text.len();
        let read = self.reader.read_until(b'\n', text);
        if read.map_err(io_error(self.path))? == 0 {
            self.source
                .check_unchanged(self.reader.get_ref().get_ref())?;
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
