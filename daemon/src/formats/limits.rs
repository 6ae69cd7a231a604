//! How much one input file may ask of us.

use std::io::Read;

use serde::Serialize;

use crate::units::{format_size, show_size};

/// What a byte of GZIP becomes at most, and one of LZ4 less.
const MOST_INFLATION: u64 = 1_032;

/// Limits of one input file. Beyond them a file is refused, with the limit's name, before it takes the memory of everything else
/// that runs here: a few kilobytes can stand for terabytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct InputLimits {
    /// Bytes of the file.
    #[serde(serialize_with = "show_size")]
    pub(crate) max_input_bytes: u64,
    /// Bytes of all its values in memory. A merge and a delete by keys hold them at once; what is streamed may have as many in
    /// all, and single pages and rows are refused by it.
    #[serde(serialize_with = "show_size")]
    pub(crate) max_decoded_bytes: u64,
    /// Its rows. Nulls and repeated values take no bytes in a file, so that bytes alone are no limit.
    pub(crate) max_rows: u64,
    /// Its columns.
    pub(crate) max_columns: usize,
    /// Lists and structs within each other. Whoever walks them uses the stack, whose end cannot be caught.
    pub(crate) max_nesting: usize,
}

impl Default for InputLimits {
    fn default() -> Self {
        Self {
            max_input_bytes: 4 << 30,
            max_decoded_bytes: 4 << 30,
            max_rows: 1_000_000_000,
            max_columns: 10_000,
            max_nesting: 64,
        }
    }
}

/// A limit that a file is beyond, for its message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// What there is too much of.
    what: &'static str,
    /// The setting.
    name: &'static str,
    /// Its value.
    most: String,
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, name, most } = self;
        write!(f, "{what} than [agent] {name} = {most} allows")
    }
}

impl std::error::Error for Exceeded {}

impl InputLimits {
    pub(crate) fn input_bytes(&self, bytes: u64) -> Result<(), Exceeded> {
        let (what, most) = ("has more bytes", self.max_input_bytes);
        within(bytes <= most, what, "max_input_bytes", || format_size(most))
    }

    /// What standard input says when it has more bytes than a file may.
    pub(super) fn beyond_input_bytes(&self) -> Exceeded {
        let most = format_size(self.max_input_bytes);
        let (what, name) = ("has more bytes", "max_input_bytes");
        Exceeded { what, name, most }
    }

    /// What a compressed input says that unpacks to more than may be held.
    pub(super) fn beyond_unpacked_bytes(&self) -> Exceeded {
        let most = format_size(self.max_decoded_bytes);
        let (what, name) = ("unpacks to more bytes", "max_decoded_bytes");
        Exceeded { what, name, most }
    }

    pub(super) fn decoded_bytes(&self, bytes: u64) -> Result<(), Exceeded> {
        let (what, most) = ("takes more memory", self.max_decoded_bytes);
        within(bytes <= most, what, "max_decoded_bytes", || {
            format_size(most)
        })
    }

    /// Whether so many bytes of GZIP or LZ4 could become more than may be decoded. Readers of both write on until the bytes end.
    pub(super) fn may_inflate_beyond(&self, compressed: u64) -> bool {
        compressed.saturating_mul(MOST_INFLATION) > self.max_decoded_bytes
    }

    pub(crate) fn rows(&self, rows: u64) -> Result<(), Exceeded> {
        let (what, most) = ("has more rows", self.max_rows);
        within(rows <= most, what, "max_rows", || most.to_string())
    }

    pub(super) fn columns(&self, columns: usize) -> Result<(), Exceeded> {
        let (what, most) = ("has more columns", self.max_columns);
        within(columns <= most, what, "max_columns", || most.to_string())
    }

    pub(super) fn nesting(&self, depth: usize) -> Result<(), Exceeded> {
        let (what, most) = ("is nested deeper", self.max_nesting);
        within(depth <= most, what, "max_nesting", || most.to_string())
    }
}

fn within(
    is_within: bool,
    what: &'static str,
    name: &'static str,
    most: impl FnOnce() -> String,
) -> Result<(), Exceeded> {
    if is_within {
        return Ok(());
    }
    let most = most();
    Err(Exceeded { what, name, most })
}

/// Whether there are more bytes than `said`. What is malformed is left to whoever reads it.
pub(super) fn is_longer(bytes: impl Read, said: u64) -> bool {
    let mut bytes = bytes.take(said.saturating_add(1));
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        match bytes.read(&mut buffer) {
            Ok(read) if read > 0 => total += read as u64,
            _ => return total > said,
        }
    }
}
